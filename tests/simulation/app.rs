//! The fake application: it takes sendings, does with each what the hour brings, and remembers all of it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use hookgate::domain::event::Event;
use hookgate::domain::headers::Headers;
use hookgate::domain::outcome::{AppAnswer, Outcome, Timeout};
use hookgate::forward::attempt::{Application, Sending};
use http::{HeaderValue, StatusCode};

use super::plan::{LONGEST_REST, Phase, Poison};
use super::world::{self, Seen, World};

/// The application behind every route.
#[derive(Debug)]
pub struct App(pub Arc<World>);

/// What it does with one sending, and after how many milliseconds.
struct Reaction {
    after: u64,
    what: What,
}

enum What {
    Answer(u16, Option<u64>),
    Refuse,
    Break,
    Nothing,
}

#[async_trait]
impl Application for App {
    async fn take(&self, event: &Event, sending: Sending) -> Outcome {
        let world = &self.0;
        if world.is_void() {
            return std::future::pending().await;
        }
        let index = world.event_of(&event.key);
        assert_eq!(*event.body, world.plan.events[index].body, "the body is another one (P9)");
        let mut open = Open { world, place: self.begin(index, sending), done: false };
        let Reaction { after, what } = self.react(index);
        if after > 0 {
            tokio::time::sleep(Duration::from_millis(after)).await;
        }
        if world.is_void() {
            return std::future::pending().await;
        }
        let (outcome, seen) = match what {
            What::Answer(status, rest) => answer(status, rest),
            What::Refuse => (Outcome::Unreachable("refused".to_owned()), Seen::Unreachable),
            What::Break => (Outcome::Unknown { error: "reset".to_owned(), timed_out: Timeout::No }, Seen::Unknown),
            What::Nothing => std::future::pending().await,
        };
        open.end(seen);
        outcome
    }
}

fn answer(status: u16, rest: Option<u64>) -> (Outcome, Seen) {
    let mut headers = Headers::new();
    if let Some(rest) = rest {
        headers.insert(http::header::RETRY_AFTER, HeaderValue::from(rest));
    }
    let status = StatusCode::from_u16(status).unwrap();
    let outcome = Outcome::of_answer(AppAnswer { status, headers, body: Bytes::new() });
    let seen = match &outcome {
        Outcome::Accepted(_) => Seen::Accepted,
        Outcome::Rejected(_) => Seen::Rejected,
        Outcome::Failed(_) => Seen::Failed,
        Outcome::Unreachable(_) | Outcome::Unknown { .. } => unreachable!("an answer is an answer"),
    };
    (outcome, seen)
}

impl App {
    fn begin(&self, event: usize, sending: Sending) -> usize {
        let name = self.0.name(event);
        let mut state = self.0.lock();
        let (at, run) = (state.now(), state.run());
        let flagged = sending.possible_duplicate || sending.replay;
        state.sendings.push(world::Sending { event, run, at, flagged, end: None });
        let flag = if sending.possible_duplicate { ", possible duplicate" } else { "" };
        state.say("app", format_args!("gets {name}, attempt {}{flag}", sending.attempt));
        state.sendings.len() - 1
    }

    fn react(&self, event: usize) -> Reaction {
        let plan = &self.0.plan;
        let mut state = self.0.lock();
        let now = state.now();
        let rng = &mut state.app;
        match plan.events[event].poison {
            Poison::None => {}
            Poison::Rejected => return Reaction { after: rng.u64(1..50), what: What::Answer(422, None) },
            Poison::Failing => return Reaction { after: rng.u64(1..50), what: What::Answer(500, None) },
        }
        if now >= plan.faults_end {
            return Reaction { after: rng.u64(1..50), what: What::Answer(200, None) };
        }
        let phase = plan.phases.iter().rev().find(|(from, _)| *from <= now).map_or(Phase::Well, |(_, phase)| *phase);
        let (after, what) = match phase {
            Phase::Well => (rng.u64(1..200), What::Answer(200, None)),
            Phase::Flaky => flaky(rng),
            Phase::Slow => (rng.u64(4000..70_000), What::Answer(200, None)),
            Phase::Failing => (rng.u64(1..500), failing(rng)),
            Phase::Silent if rng.bool() => (0, What::Nothing),
            Phase::Silent => (rng.u64(1..20_000), What::Break),
            Phase::Down => (rng.u64(0..2000), What::Refuse),
        };
        Reaction { after, what }
    }
}

fn flaky(rng: &mut fastrand::Rng) -> (u64, What) {
    match rng.u8(..10) {
        0 => (rng.u64(1..300), What::Answer(404, None)),
        1 => (rng.u64(1..300), failing(rng)),
        2 => (rng.u64(0..2000), What::Refuse),
        3 => (rng.u64(1..5000), What::Break),
        4 => (rng.u64(5000..50_000), What::Answer(200, None)),
        _ => (rng.u64(1..1000), What::Answer(200, None)),
    }
}

fn failing(rng: &mut fastrand::Rng) -> What {
    match rng.u8(..6) {
        0 => What::Answer(429, Some(rng.u64(1..=LONGEST_REST))),
        1 => What::Answer(503, Some(rng.u64(1..=LONGEST_REST))),
        2 => What::Answer(302, None),
        3 => What::Answer(408, None),
        _ => What::Answer(500, None),
    }
}

/// A sending that has not ended. Dropped before its end, nobody knows what became of it.
struct Open<'a> {
    world: &'a World,
    place: usize,
    done: bool,
}

impl Open<'_> {
    fn end(&mut self, seen: Seen) {
        self.done = true;
        let event = self.world.lock().sendings[self.place].event;
        let name = self.world.name(event);
        let mut state = self.world.lock();
        let now = state.now();
        state.sendings[self.place].end = Some((now, seen));
        state.say("app", format_args!("{name}: {seen:?}"));
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if !self.done && !self.world.is_void() {
            self.end(Seen::Unknown);
        }
    }
}

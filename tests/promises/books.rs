//! The books of a test that crashes things: what senders were told, when the crashes were, and what the application
//! saw. In the end they are read, and every promise about loss and duplicates is held against them. P1, P2, P5, P9.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::world::act::accept;
use crate::world::app::Seen;
use crate::world::clock::pause;
use crate::world::events::{task_of, wide_task};
use crate::world::gateway::Gateway;
use crate::world::sender::send;
use crate::world::sign::Provider;
use crate::world::{Closing, World, world_with};

/// Senders at the same time, each with one request open at most.
pub(crate) const SENDERS: usize = 8;
/// Attempts at the same time.
pub(crate) const IN_FLIGHT: usize = 8;
/// Longest time in which everything must have come to rest once the faults are over.
pub(crate) const DRAINED: Duration = Duration::from_secs(60);
/// `app.attempt_timeout` of these worlds: a second sending after it is window W2.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a request may lie in the socket of a gateway that is dead before the application reads it.
const LATE_READING: Duration = Duration::from_millis(500);
/// How many acknowledged events are sent once more in the end.
const ASKED_AGAIN: usize = 40;

/// What is written down while the senders send.
#[derive(Default)]
pub(crate) struct Books {
    acked: Mutex<Vec<(String, Instant)>>,
    refused: Mutex<Vec<String>>,
    incidents: Mutex<Vec<Instant>>,
    unanswered: AtomicUsize,
    closed: AtomicBool,
    shifts: AtomicUsize,
    filler: usize,
}

impl Books {
    /// Books on events whose bodies are longer by `filler` bytes.
    pub(crate) fn on_bodies_wider_by(filler: usize) -> Self {
        Self { filler, ..Self::default() }
    }

    /// Something happened just now that may cost the extra sendings of windows W1 and W2.
    pub(crate) fn incident(&self) {
        self.incidents.lock().unwrap().push(Instant::now());
    }

    /// How many events have been acknowledged so far.
    pub(crate) fn acked(&self) -> usize {
        self.acked.lock().unwrap().len()
    }

    /// Strikes out what was acknowledged after `moment`: in the story that is told, nobody heard it.
    pub(crate) fn nobody_heard_after(&self, moment: Instant) {
        self.acked.lock().unwrap().retain(|(_, at)| *at <= moment);
    }

    /// The body of an event.
    pub(crate) fn body(&self, name: &str) -> Vec<u8> {
        wide_task(name, self.filler)
    }

    /// Acknowledged events that the application has not accepted.
    pub(crate) fn missing(&self, seen: &[Seen]) -> Vec<String> {
        let accepted: HashSet<String> = accepted(seen).map(|seen| task_of(&seen.body)).collect();
        let acked = self.acked.lock().unwrap();
        acked.iter().map(|(name, _)| name).filter(|name| !accepted.contains(*name)).cloned().collect()
    }

    /// Sends events of its own until the books are closed, each until it is acknowledged.
    fn keep_sending(&self, address: &str, shift: usize, sender: usize) {
        for n in 0.. {
            let name = format!("{shift}-{sender}-{n}");
            let body = self.body(&name);
            let deadline = Instant::now() + DRAINED;
            loop {
                if self.closed.load(Ordering::SeqCst) {
                    return;
                }
                match send(address, &Provider::Veedeo.sign(body.clone())) {
                    Ok(reply) if reply.acked() => {
                        break self.acked.lock().unwrap().push((name, Instant::now()));
                    }
                    Ok(reply) if reply.status < 500 => {
                        self.refused.lock().unwrap().push(format!("{name}: {} {}", reply.status, reply.text()));
                    }
                    Ok(_) | Err(_) => {
                        self.unanswered.fetch_add(1, Ordering::SeqCst);
                    }
                }
                assert!(Instant::now() < deadline, "{name} was not acknowledged within {DRAINED:?}");
                pause(Duration::from_millis(20));
            }
        }
    }

    /// Runs a shift of senders while `disturb` does its worst; they end with it.
    pub(crate) fn while_sending<R>(&self, address: &str, disturb: impl FnOnce() -> R) -> R {
        self.closed.store(false, Ordering::SeqCst);
        let shift = self.shifts.fetch_add(1, Ordering::SeqCst);
        std::thread::scope(|scope| {
            for sender in 0..SENDERS {
                scope.spawn(move || self.keep_sending(address, shift, sender));
            }
            // Closed on a failure too: the scope waits for the senders.
            let _closed = Closing(&self.closed);
            disturb()
        })
    }
}

/// The configuration lines of a world that is going to be disturbed: short waits all round.
pub(crate) fn quick_lines() -> [String; 4] {
    [
        "ack.budget = '2s'".into(),
        "ack.reserve = '1s'".into(),
        format!("app.max_in_flight = {IN_FLIGHT}"),
        format!("app.attempt_timeout = '{}s'", ATTEMPT_TIMEOUT.as_secs()),
    ]
}

/// A world of that kind.
pub(crate) fn torture_world(lines: &[&str]) -> World {
    let quick = quick_lines();
    let quick: Vec<&str> = quick.iter().map(String::as_str).collect();
    world_with(&[&quick, lines].concat())
}

/// Sends while `disturb` does its worst, then lets the application be well and the spool drain.
pub(crate) fn under_load(world: &mut World, books: &Books, disturb: impl FnOnce(&mut Gateway, &Books)) {
    let address = world.gateway.address();
    books.while_sending(&address, || {
        disturb(&mut world.gateway, books);
        world.app.always(accept());
        pause(Duration::from_millis(500));
    });
    world.gateway.wait_for_empty_spool(DRAINED);
}

fn accepted(seen: &[Seen]) -> impl Iterator<Item = &Seen> {
    seen.iter().filter(|seen| seen.answered == Some(200))
}

/// Reads the books at the end of a story: nothing acknowledged is lost, nothing is altered, nobody was told that it
/// was their fault, and what was sent again says so and has an incident that explains it.
pub(crate) fn read_the_books(world: &World, books: &Books) {
    let seen = world.app.seen();
    let incidents = books.incidents.lock().unwrap().clone();
    let missing = books.missing(&seen);
    let acked = books.acked();
    assert!(missing.is_empty(), "{} of {acked} acknowledged events are lost: {missing:?}", missing.len());
    assert!(acked > incidents.len(), "only {acked} events in the whole test");
    assert_eq!(world.gateway.metrics().count("hookgate_spool_events", &[("state", "dead")]), 0);
    let extra = explained(&seen, &incidents);
    assert!(one_key_each(&seen), "every sending of one event carries the same key");
    let altered: Vec<&Seen> = seen.iter().filter(|seen| seen.body != books.body(&task_of(&seen.body))).collect();
    assert!(altered.is_empty(), "altered on its way: {altered:?}");
    let refused = books.refused.lock().unwrap();
    assert!(refused.is_empty(), "a fault of ours was told as the sender's: {refused:?}");
    eprintln!(
        "{acked} acknowledged, {} told to come again, {} sendings, {extra} extra and flagged, {} incidents",
        books.unanswered.load(Ordering::SeqCst),
        seen.len(),
        incidents.len()
    );
    ask_again(world, books, &incidents);
}

/// Checks every sending that came after an acceptance: it is flagged, an incident lies between, and no incident cost
/// more than what was in flight. Returns how many there were.
fn explained(seen: &[Seen], incidents: &[Instant]) -> usize {
    let extra = sent_after_acceptance(seen);
    let mut costs: HashMap<Option<Instant>, usize> = HashMap::new();
    for (before, again) in &extra {
        assert!(again.flagged(), "sent again after an acceptance, without a word: {before:?}{again:?}");
        let incident = incidents.iter().filter(|at| **at <= again.at).max().copied();
        let explains = incident.is_some_and(|at| at + LATE_READING >= before.at);
        let timed_out = again.at - before.at >= ATTEMPT_TIMEOUT;
        assert!(explains || timed_out, "sent again although nothing had happened in between: {before:?}{again:?}");
        if explains {
            *costs.entry(incident).or_default() += 1;
        }
    }
    let bound = SENDERS + IN_FLIGHT;
    let worst = costs.values().max().copied().unwrap_or(0);
    assert!(worst <= bound, "{worst} extra sendings after one incident; at most {bound} were in flight");
    extra.len()
}

/// Each sending of an event that was accepted before, with that earlier sending.
pub(crate) fn sent_after_acceptance(seen: &[Seen]) -> Vec<(&Seen, &Seen)> {
    let mut accepted = HashMap::new();
    let mut extra = Vec::new();
    for sending in seen {
        if let Some(before) = accepted.get(&sending.key()) {
            extra.push((*before, sending));
        }
        if sending.answered == Some(200) {
            accepted.insert(sending.key(), sending);
        }
    }
    extra
}

fn one_key_each(seen: &[Seen]) -> bool {
    let mut keys = HashMap::new();
    seen.iter().all(|seen| *keys.entry(task_of(&seen.body)).or_insert_with(|| seen.key()) == seen.key())
}

/// Sends acknowledged events once more, as a sender does whose reply got lost: what was acknowledged after the last
/// incident is known, what is older is known or the sending is flagged.
fn ask_again(world: &World, books: &Books, incidents: &[Instant]) {
    let before = world.app.count();
    let acked: Vec<(String, Instant)> = books.acked.lock().unwrap().iter().rev().take(ASKED_AGAIN).cloned().collect();
    for (name, at) in &acked {
        let reply = world.veedeo(books.body(name));
        assert!(reply.acked(), "{name} sent again: {} {}", reply.status, reply.text());
        let undisturbed = incidents.iter().all(|incident| incident < at);
        assert!(!undisturbed || reply.json("duplicate") == true, "{name} is forgotten, and nothing had happened");
    }
    let unknown = world.app.seen().split_off(before);
    let silent: Vec<&Seen> = unknown.iter().filter(|seen| !seen.flagged()).collect();
    assert!(silent.is_empty(), "forgotten, and sent again without a word: {silent:?}");
}

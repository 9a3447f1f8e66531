//! The spool against a plain list: random appends, attempts, settlements, dead letters and crashes must leave both with
//! the same events in the same states, due in the same order.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hookgate::disk::{Disk, DiskSettings, Found, Mark};
use hookgate::domain::event::{Event, EventId};
use hookgate::domain::headers::Headers;
use hookgate::domain::key::EventKey;
use hookgate::domain::time::Timestamp;
use hookgate::spool::{DeadReason, Entry, Filter, NewEntry, Possible, Replay, Settlement, Spool, State};
use hookgate::telemetry::Metrics;
use http::Method;
use proptest::prelude::*;

const START: Timestamp = Timestamp::from_seconds(1_760_000_000);

/// One thing that happens. `pick` chooses among the events there are.
#[derive(Clone, Debug)]
enum Step {
    Append { order: Option<u8>, wait: u8, in_flight: bool },
    Begin { pick: usize },
    Accept { pick: usize },
    Retry { pick: usize, wait: u8, suspect: bool },
    Postpone { pick: usize, wait: u8 },
    Bury { pick: usize },
    Revive { pick: usize },
    Remove { pick: usize },
    Restart { clean: bool },
    Wait { seconds: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    let pick = any::<usize>();
    let wait = 0..20_u8;
    prop_oneof![
        6 => (proptest::option::of(0..3_u8), wait.clone(), prop::bool::weighted(0.2))
            .prop_map(|(order, wait, in_flight)| Step::Append { order, wait, in_flight }),
        6 => pick.prop_map(|pick| Step::Begin { pick }),
        3 => pick.prop_map(|pick| Step::Accept { pick }),
        3 => (pick, wait.clone(), any::<bool>()).prop_map(|(pick, wait, suspect)| Step::Retry { pick, wait, suspect }),
        1 => (pick, wait).prop_map(|(pick, wait)| Step::Postpone { pick, wait }),
        2 => pick.prop_map(|pick| Step::Bury { pick }),
        2 => pick.prop_map(|pick| Step::Revive { pick }),
        1 => pick.prop_map(|pick| Step::Remove { pick }),
        1 => any::<bool>().prop_map(|clean| Step::Restart { clean }),
        2 => (0..10_u8).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

/// An event as the list has it. Its place in the list is its order of acknowledgement.
#[derive(Clone, Debug)]
struct Known {
    event: Event,
    state: State,
    not_before: Timestamp,
    attempts: u32,
    suspect: bool,
    replay: bool,
}

#[derive(Default)]
struct Model {
    known: Vec<Known>,
    made: u32,
}

impl Model {
    /// The place of one of the events in these states.
    fn pick(&self, pick: usize, states: &[State]) -> Option<usize> {
        let places: Vec<usize> =
            (0..self.known.len()).filter(|place| states.contains(&self.known[*place].state)).collect();
        (!places.is_empty()).then(|| places[pick % places.len()])
    }

    fn is_undelivered(known: &Known) -> bool {
        matches!(known.state, State::Pending | State::InFlight)
    }

    fn due(&self, now: Timestamp) -> Vec<EventId> {
        let is_due = |place: usize| {
            let one = &self.known[place];
            let behind = one.event.order_value.is_some()
                && self.known[..place]
                    .iter()
                    .any(|older| Self::is_undelivered(older) && older.event.order_value == one.event.order_value);
            one.state == State::Pending && one.not_before <= now && !behind
        };
        let mut due: Vec<&Known> =
            (0..self.known.len()).filter(|place| is_due(*place)).map(|p| &self.known[p]).collect();
        due.sort_by_key(|one| (one.not_before, one.event.id));
        due.iter().map(|one| one.event.id).collect()
    }
}

fn event(number: u32, order: Option<u8>) -> Event {
    let body = Bytes::from(number.to_string());
    Event {
        id: EventId::new(START, u128::from(number.wrapping_mul(2_654_435_761)) << 64),
        route: "veedeo".into(),
        key: EventKey::new("veedeo", &[&number.to_be_bytes()], &body),
        method: Method::POST,
        target: "/".into(),
        headers: Headers::new(),
        authority: String::new(),
        body: body.into(),
        received_at: START.plus(Duration::from_secs(u64::from(number))),
        signed_at: None,
        event_type: None,
        order_value: order.map(|order| order.to_string()),
    }
}

fn open(path: &Path, now: Timestamp) -> Disk {
    for _ in 0..500 {
        let settings =
            DiskSettings { path: path.to_owned(), max_bytes: 1 << 30, max_dead_bytes: u64::MAX, min_free_bytes: 0 };
        match Disk::open(settings, now, Arc::new(Metrics::new(&[]).unwrap())) {
            Ok(opened) => return opened.disk,
            // The thread of the run before has not ended yet.
            Err(hookgate::disk::DiskFault::Locked { .. }) => std::thread::yield_now(),
            Err(fault) => panic!("{fault}"),
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
    panic!("the lock was not given back");
}

struct World {
    dir: tempfile::TempDir,
    disk: Disk,
    spool: Spool,
    model: Model,
    now: Timestamp,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let disk = open(dir.path(), START);
        Self { spool: Spool::new(disk.clone()), disk, dir, model: Model::default(), now: START }
    }

    fn after(&self, seconds: u8) -> Timestamp {
        self.now.plus(Duration::from_secs(u64::from(seconds)))
    }

    async fn step(&mut self, step: Step) {
        let undelivered = [State::Pending, State::InFlight];
        match step {
            Step::Append { order, wait, in_flight } => self.append(order, wait, in_flight).await,
            Step::Begin { pick } => {
                // As a deliverer does: only what is due.
                let due = self.model.due(self.now);
                if let Some(id) = due.get(pick % due.len().max(1)) {
                    self.spool.begin_attempts(vec![*id]).await.unwrap();
                    let one = self.model.known.iter_mut().find(|one| one.event.id == *id).unwrap();
                    (one.state, one.attempts) = (State::InFlight, one.attempts + 1);
                }
            }
            Step::Accept { pick } => {
                if let Some(place) = self.model.pick(pick, &undelivered) {
                    let one = self.model.known.remove(place);
                    let mark = Mark::new(&one.event, self.after(200));
                    self.spool.settle(one.event.id, Settlement::Accepted { mark }).await.unwrap();
                    assert!(self.disk.recall(one.event.key, self.now).await.unwrap().same.is_some());
                }
            }
            Step::Retry { pick, wait, suspect } => {
                if let Some(place) = self.model.pick(pick, &[State::InFlight]) {
                    let (not_before, possible_duplicate) = (self.after(wait), Possible::from_flag(suspect));
                    let retry = Settlement::Retry { not_before, possible_duplicate, error: "e".into() };
                    self.spool.settle(self.model.known[place].event.id, retry).await.unwrap();
                    let one = &mut self.model.known[place];
                    (one.state, one.not_before, one.suspect) = (State::Pending, not_before, one.suspect || suspect);
                }
            }
            Step::Postpone { pick, wait } => {
                if let Some(place) = self.model.pick(pick, &[State::InFlight]) {
                    let not_before = self.after(wait);
                    let postponed = Settlement::Postpone { not_before };
                    self.spool.settle(self.model.known[place].event.id, postponed).await.unwrap();
                    let one = &mut self.model.known[place];
                    (one.state, one.not_before) = (State::Pending, not_before);
                    one.attempts = one.attempts.saturating_sub(1);
                }
            }
            Step::Bury { pick } => {
                if let Some(place) = self.model.pick(pick, &undelivered) {
                    self.spool.settle(self.model.known[place].event.id, too_old()).await.unwrap();
                    self.model.known[place].state = State::Dead;
                }
            }
            Step::Revive { pick } => self.revive(pick).await,
            Step::Remove { pick } => {
                if let Some(place) = self.model.pick(pick, &[State::Dead]) {
                    let one = self.model.known.remove(place);
                    assert_eq!(self.spool.remove(one.event.id).await.unwrap(), Found::Yes);
                }
            }
            Step::Restart { clean } => self.restart(clean).await,
            Step::Wait { seconds } => self.now = self.after(seconds),
        }
    }

    async fn append(&mut self, order: Option<u8>, wait: u8, in_flight: bool) {
        self.model.made += 1;
        let event = event(self.model.made, order);
        let not_before = self.after(wait);
        let entry = NewEntry {
            event: Arc::new(event.clone()),
            state: if in_flight { Entry::InFlight } else { Entry::Pending { not_before } },
            attempts: u32::from(in_flight),
            possible_duplicate: Possible::No,
            replay: Replay::No,
            last_error: String::new(),
        };
        self.spool.append(entry, None).await.unwrap();
        let (state, not_before) =
            if in_flight { (State::InFlight, event.received_at) } else { (State::Pending, not_before) };
        let attempts = u32::from(in_flight);
        self.model.known.push(Known { event, state, not_before, attempts, suspect: false, replay: false });
    }

    async fn revive(&mut self, pick: usize) {
        if let Some(place) = self.model.pick(pick, &[State::Dead]) {
            let one = &mut self.model.known[place];
            assert_eq!(self.spool.revive(one.event.id, self.now).await.unwrap(), Found::Yes);
            (one.state, one.not_before, one.attempts, one.replay) = (State::Pending, self.now, 0, true);
        }
    }

    async fn restart(&mut self, clean: bool) {
        if clean {
            self.disk.close().await.unwrap();
        }
        // What is left of the run before is one handle here and one in the spool.
        let elsewhere = tempfile::tempdir().unwrap();
        self.disk = open(elsewhere.path(), self.now);
        self.spool = Spool::new(self.disk.clone());
        self.disk = open(self.dir.path(), self.now);
        self.spool = Spool::new(self.disk.clone());
        for one in &mut self.model.known {
            if one.state == State::InFlight {
                (one.state, one.suspect) = (State::Pending, true);
            }
        }
    }

    async fn compare(&self) {
        let due = self.spool.due("veedeo", self.now, 1000).await.unwrap();
        assert_eq!(due.ids, self.model.due(self.now));
        let totals = self.spool.totals().routes.get("veedeo").copied().unwrap_or_default();
        let pending: Vec<_> = self.model.known.iter().filter(|one| Model::is_undelivered(one)).collect();
        assert_eq!(usize::try_from(totals.pending).unwrap(), pending.len());
        assert_eq!(usize::try_from(totals.dead).unwrap(), self.model.known.len() - pending.len());
        assert_eq!(totals.oldest_pending, pending.iter().map(|one| one.event.received_at).min());
        if self.model.known.is_empty() {
            assert_eq!(totals.bytes, 0);
        }
        for value in 0..3_u8 {
            let value = value.to_string();
            let expected = pending.iter().any(|one| one.event.order_value.as_ref() == Some(&value));
            assert_eq!(self.spool.has_earlier("veedeo", &value).await.unwrap(), expected);
        }
    }

    async fn compare_records(&self) {
        let listed = self.spool.list(Filter { limit: 1000, ..Filter::default() }).await.unwrap();
        assert_eq!(listed.len(), self.model.known.len());
        for one in &self.model.known {
            let found = listed.iter().find(|listed| listed.id == one.event.id).unwrap();
            assert_eq!(found.state, one.state);
            let stored = self.spool.load(one.event.id).await.unwrap().unwrap();
            assert_eq!(stored.attempts, one.attempts);
            assert_eq!(stored.possible_duplicate, Possible::from_flag(one.suspect));
            assert_eq!(stored.replay == Replay::Yes, one.replay);
            assert_eq!(stored.event.body, one.event.body);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_spool_and_a_plain_list_agree(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new();
            for step in steps {
                world.step(step).await;
                world.compare().await;
            }
            world.compare_records().await;
        });
    }
}

fn too_old() -> Settlement {
    Settlement::Dead { reason: DeadReason::TooOld, possible_duplicate: Possible::No, error: "e".into() }
}

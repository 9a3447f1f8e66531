//! The deliverer as a whole over an application, a dedup store and a disk that are told what to do, in time that stands still
//! while anything can be done. What is said here is what its callers and the application see, and when.

mod again;
mod first;
mod places;
mod queue;
mod stopping;

use std::collections::VecDeque;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use super::*;
use crate::claims::Verdict;
use crate::claims::store::{Claim, ClaimStore, Claimed, Elsewhere, Peeked, Processed, StoreFault};
use crate::disk::{Disk, DiskSettings, Engine, Found, Moment, Surroundings};
use crate::domain::headers::Headers;
use crate::domain::outcome::{AppAnswer, Timeout};
use crate::domain::route::{AckMode, OnApp, fixture};
use crate::domain::schedule::Schedule;
use crate::domain::time::Timestamp;
use crate::spool::{DeadReason, Filter, State, Stored};

const START: Timestamp = Timestamp::from_seconds(1_760_000_000);

/// What a sender allows, less what is kept back.
const PATIENCE: Duration = Duration::from_secs(28);

/// Less than this together is what the disk waits for others to share a sync with, where nobody waits for it in haste.
const SHARED: Duration = Duration::from_millis(20);

/// Longer than anything here lasts, but for a day.
const LONG: Duration = Duration::from_secs(600);

/// What the application does with one sending, and after which time.
type Act = (Duration, Outcome);

/// One sending as the application sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    event: EventId,
    /// Since the world began.
    at: Duration,
    attempt: u32,
    flagged: bool,
    replay: bool,
}

/// Does what it is told to, in turn, and then takes everything at once.
#[derive(Debug)]
struct App {
    began: Instant,
    acts: Mutex<VecDeque<Act>>,
    seen: Mutex<Vec<Seen>>,
    running: Mutex<(usize, usize)>,
}

#[async_trait]
impl Application for App {
    async fn take(&self, event: &Event, sending: Sending) -> Outcome {
        let Sending { attempt, possible_duplicate: flagged, replay } = sending;
        self.seen.lock().unwrap().push(Seen { event: event.id, at: self.began.elapsed(), attempt, flagged, replay });
        {
            let mut running = self.running.lock().unwrap();
            *running = (running.0 + 1, running.1.max(running.0 + 1));
        }
        let act = self.acts.lock().unwrap().pop_front();
        let (after, outcome) = act.unwrap_or((Duration::ZERO, answered(200)));
        tokio::time::sleep(after).await;
        self.running.lock().unwrap().0 -= 1;
        outcome
    }
}

fn answered(status: u16) -> Outcome {
    answer_with(status, Headers::new())
}

fn answer_with(status: u16, headers: Headers) -> Outcome {
    Outcome::of_answer(AppAnswer { status: StatusCode::from_u16(status).unwrap(), headers, body: Bytes::new() })
}

fn asks_for_rest(status: u16, seconds: &'static str) -> Outcome {
    answer_with(status, Headers::from_iter([(http::header::RETRY_AFTER, HeaderValue::from_static(seconds))]))
}

fn unknown() -> Outcome {
    Outcome::Unknown { error: "it broke".to_owned(), timed_out: Timeout::No }
}

fn unreachable() -> Outcome {
    Outcome::Unreachable("nobody listens".to_owned())
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// A dedup store that says what it is told to, and new of everything else.
#[derive(Debug, Default)]
struct Store {
    says: Mutex<VecDeque<Claimed>>,
    elsewhere: Mutex<Option<Elsewhere>>,
    vouched: Mutex<usize>,
    marked: Mutex<Vec<(EventKey, Duration)>>,
    /// How long it takes from now on to take a mark.
    marking: Mutex<Duration>,
    released: Mutex<Vec<Processed>>,
}

#[async_trait]
impl ClaimStore for Store {
    async fn claim(&self, _: &Claim) -> Result<Claimed, StoreFault> {
        Ok(self.says.lock().unwrap().pop_front().unwrap_or(Claimed::New))
    }

    async fn mark(&self, claim: &Claim, ttl: Duration) -> Result<(), StoreFault> {
        let takes = *self.marking.lock().unwrap();
        tokio::time::sleep(takes).await;
        self.marked.lock().unwrap().push((claim.key, ttl));
        Ok(())
    }

    async fn vouch(&self, _: &Claim, _: Duration) -> Result<Elsewhere, StoreFault> {
        *self.vouched.lock().unwrap() += 1;
        Ok(self.elsewhere.lock().unwrap().unwrap_or(Elsewhere::No))
    }

    async fn release(&self, _: &Claim, processed: Processed) -> Result<(), StoreFault> {
        self.released.lock().unwrap().push(processed);
        Ok(())
    }

    async fn peek(&self, _: &str, _: EventKey, _: Timestamp) -> Result<Option<Peeked>, StoreFault> {
        Ok(None)
    }

    async fn forget(&self, _: &str, _: EventKey) -> Result<Found, StoreFault> {
        Ok(Found::No)
    }

    fn name(&self) -> &'static str {
        "told"
    }

    fn is_up(&self) -> bool {
        true
    }
}

/// How long the disk takes from now on.
#[derive(Debug, Default)]
struct Slowness {
    commit: Mutex<Duration>,
    read: Mutex<Duration>,
    /// So many more reads take no time.
    quick_reads: Mutex<usize>,
    reads: Mutex<usize>,
}

impl Slowness {
    fn of_a_read(&self) -> Duration {
        *self.reads.lock().unwrap() += 1;
        let mut quick = self.quick_reads.lock().unwrap();
        if *quick > 0 {
            *quick -= 1;
            return Duration::ZERO;
        }
        *self.read.lock().unwrap()
    }
}

#[async_trait]
impl Surroundings for Slowness {
    fn boot(&self) -> Option<String> {
        Some("the only one".to_owned())
    }

    fn checkpoint_pages(&self) -> i32 {
        1000
    }

    async fn pass(&self, moment: Moment) {
        let takes = match moment {
            Moment::Commit => *self.commit.lock().unwrap(),
            Moment::Read => self.of_a_read(),
            Moment::Begin | Moment::Answer | Moment::Keep => Duration::ZERO,
        };
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
    }
}

/// A deliverer with one route, and what is around it.
struct World {
    folder: tempfile::TempDir,
    slowness: Arc<Slowness>,
    store: Arc<Store>,
    app: Arc<App>,
    spool: Spool,
    claims: Claims,
    deliverer: Deliverer,
    metrics: Arc<Metrics>,
    route: Arc<Route>,
    began: Instant,
}

/// With the route as configured by default, but that it is tried again after exactly 10, 20 and 40 seconds, and `change`.
fn world(change: impl FnOnce(&mut Route)) -> World {
    world_with(1 << 30, change)
}

/// The same with room for so many bytes on disk.
fn world_with(max_bytes: u64, change: impl FnOnce(&mut Route)) -> World {
    let mut route = fixture("r");
    route.delivery.schedule = Schedule::Listed([10, 20, 40].map(seconds).to_vec());
    change(&mut route);
    world_in(tempfile::tempdir().unwrap(), START, max_bytes, Arc::new(route))
}

fn world_in(folder: tempfile::TempDir, now: Timestamp, max_bytes: u64, route: Arc<Route>) -> World {
    let (slowness, metrics) = (Arc::<Slowness>::default(), Arc::new(Metrics::new(&[]).unwrap()));
    let path = folder.path().to_owned();
    let settings = DiskSettings { path, max_bytes, max_dead_bytes: u64::MAX, min_free_bytes: 0 };
    let disk = Disk::open_on(Engine::Tasks(slowness.clone()), settings, now, metrics.clone()).unwrap().disk;
    let (clock, store, began) = (Clock::anchored_at(now), Arc::<Store>::default(), Instant::now());
    let app = Arc::new(App { began, acts: Mutex::default(), seen: Mutex::default(), running: Mutex::default() });
    let (spool, claims) = (Spool::new(disk), Claims::new(store.clone(), clock));
    let deliverer = Deliverer::towards(app.clone(), spool.clone(), claims.clone(), clock, metrics.clone());
    deliverer.configure(std::slice::from_ref(&route));
    World { folder, slowness, store, app, spool, claims, deliverer, metrics, route, began }
}

impl World {
    fn does(&self, acts: impl IntoIterator<Item = Act>) {
        self.app.acts.lock().unwrap().extend(acts);
    }

    /// So many attempts were refused a connection that the application is taken for down.
    fn is_taken_for_down(&self) {
        let lane = self.deliverer.lane("r").unwrap();
        for number in 9000..9005 {
            lane.learn(START, EventId::new(START, number << 64), &unreachable());
        }
        assert!(!self.deliverer.app_is_up("r"));
    }

    fn event(&self, number: u32) -> Event {
        stand::event(number, self.deliverer.0.clock.now())
    }

    /// Sends an event of this number; what its sender was told and how long that took.
    async fn send(&self, number: u32) -> (String, Duration) {
        self.send_within(PATIENCE, self.event(number)).await
    }

    async fn send_within(&self, patience: Duration, event: Event) -> (String, Duration) {
        let by = Instant::now() + patience;
        let Verdict::Claimed(held) = self.claims.claim(&event, seconds(40), by).await else {
            panic!("{} is new", event.id)
        };
        self.give(held, by, event).await
    }

    async fn give(&self, held: Held, by: Instant, event: Event) -> (String, Duration) {
        let from = Instant::now();
        let settled = self.deliverer.deliver(Arc::new(event), self.route.clone(), held, by, ()).await;
        (told(settled), from.elapsed())
    }

    /// Waits until the world is so old.
    async fn at(&self, age: Duration) {
        tokio::time::sleep_until(self.began + age).await;
    }

    fn seen(&self) -> Vec<Seen> {
        self.app.seen.lock().unwrap().clone()
    }

    fn running(&self) -> usize {
        self.app.running.lock().unwrap().0
    }

    /// Moments, numbers and flags of all sendings.
    fn sendings(&self) -> Vec<(u64, u32, bool)> {
        self.seen().iter().map(|seen| (seen.at.as_secs(), seen.attempt, seen.flagged)).collect()
    }

    async fn count(&self, state: State) -> u64 {
        self.spool.count(Filter { state: Some(state), ..Filter::default() }).await.unwrap()
    }

    /// The only event on disk, where it stands and why it is dead.
    async fn kept(&self) -> (Stored, State, Option<DeadReason>) {
        let listed = self.spool.list(Filter::default()).await.unwrap();
        let [one] = listed.as_slice() else { panic!("{listed:?}") };
        (self.spool.load(one.id).await.unwrap().unwrap(), one.state, one.reason)
    }

    fn released(&self) -> Vec<Processed> {
        self.store.released.lock().unwrap().clone()
    }

    fn marks(&self) -> usize {
        self.store.marked.lock().unwrap().len()
    }

    fn buried(&self, reason: DeadReason) -> u64 {
        self.metrics.dead_letters_total.with_label_values(&["r", reason.as_str()]).get()
    }

    async fn ends(&self, within: Duration) -> Settlement {
        self.deliverer.settled(Instant::now() + within).await
    }
}

/// A word for what a sender is told.
fn told(settled: Option<Settled>) -> String {
    let Some(settled) = settled else { return "nothing".to_owned() };
    let word = settled.disposition();
    match &settled {
        Settled::Delivered(answer) | Settled::AppRejected(answer) | Settled::AppFailed(Ok(answer)) => {
            format!("{word} {}", answer.status.as_u16())
        }
        Settled::AppFailed(Err(status)) => format!("{word} for us {}", status.as_u16()),
        Settled::Spooled | Settled::Duplicate | Settled::Filtered | Settled::Handshake(_) => word.to_owned(),
        Settled::Refused(_) | Settled::Unavailable(_) => format!("{word} {}", settled.reason().unwrap_or_default()),
    }
}

//! The world of one history: its virtual time, what was seen in it, and the chances of its parts. It does nothing by
//! itself.

use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use fastrand::Rng;
use hookgate::disk::{Moment, Surroundings};
use hookgate::domain::key::EventKey;
use http::StatusCode;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::disk::FakeDisk;
use super::plan::Plan;

/// A history and the world it happens in.
#[derive(Debug)]
pub struct World {
    pub seed: u64,
    pub plan: Plan,
    /// Of the events' bodies, of which no two are the same.
    fingerprints: Vec<[u8; 16]>,
    state: Mutex<State>,
}

#[derive(Debug)]
pub struct State {
    pub disk: FakeDisk,
    /// Milliseconds before this run began.
    base: u64,
    began: Option<Instant>,
    pub lines: Vec<String>,
    pub runs: Vec<Run>,
    pub senders: Vec<Sender>,
    pub requests: Vec<Request>,
    pub sendings: Vec<Sending>,
    /// The door is closed: whoever comes finds nobody.
    pub stopping: bool,
    /// When reads began that took longer than anybody waits.
    pub slow_reads: Vec<u64>,
    /// How many times the machine has started.
    pub boots: u32,
    /// Chances of the application, the disk and the senders.
    pub app: Rng,
    pub machine: Rng,
    pub sender: Rng,
}

/// One run of the gateway.
#[derive(Debug, Default)]
pub struct Run {
    pub ended: Option<(u64, Way)>,
    /// Transactions: from their begin to their answer.
    pub transactions: Vec<(u64, Option<u64>)>,
    /// When the write-ahead log was last synced.
    pub log_synced: Option<u64>,
    /// When an operation of the disk failed.
    pub failures: Vec<u64>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Kill,
    Power,
    /// Everything was settled within the grace.
    Clean,
    /// Something was cut off at the end of the grace.
    CutOff,
}

/// How far the sender of an event has come.
#[derive(Clone, Debug, Default)]
pub struct Sender {
    pub next: u64,
    pub tries: u32,
    /// A request of it is open.
    pub open: bool,
    pub done: bool,
    /// It was sent once more after it had been acknowledged.
    pub repeated: bool,
}

/// One request of a sender.
#[derive(Clone, Debug)]
pub struct Request {
    pub event: usize,
    pub run: usize,
    pub at: u64,
    /// When its last byte was there.
    pub whole: Option<u64>,
    /// When the reply came; `None`: the connection was closed without one, or still is open.
    pub reply: Option<(u64, StatusCode, &'static str)>,
    /// When the sender hung up or the connection broke.
    pub closed: Option<u64>,
}

/// One sending to the application.
#[derive(Clone, Debug)]
pub struct Sending {
    pub event: usize,
    pub run: usize,
    pub at: u64,
    pub flagged: bool,
    pub end: Option<(u64, Seen)>,
}

/// What the application made of a sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Accepted,
    Rejected,
    Failed,
    Unreachable,
    /// It may have been processed: no status line came, or nobody was left to see it.
    Unknown,
}

impl World {
    pub fn new(seed: u64, disk: FakeDisk) -> Self {
        let plan = Plan::new(seed);
        let mut chance = Rng::with_seed(seed ^ 0x5eed);
        let sender = |planned: &super::plan::Planned| Sender { next: planned.at, ..Sender::default() };
        let state = State {
            disk,
            base: 0,
            began: None,
            lines: Vec::new(),
            runs: Vec::new(),
            senders: plan.events.iter().map(sender).collect(),
            requests: Vec::new(),
            sendings: Vec::new(),
            stopping: false,
            slow_reads: Vec::new(),
            boots: 0,
            app: chance.fork(),
            machine: chance.fork(),
            sender: chance.fork(),
        };
        let fingerprint = |planned: &super::plan::Planned| EventKey::new("", &[], &planned.body).fingerprint;
        let fingerprints = plan.events.iter().map(fingerprint).collect();
        Self { seed, plan, fingerprints, state: Mutex::new(state) }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Milliseconds since the history began.
    pub fn now(&self) -> u64 {
        self.lock().now()
    }

    /// The moment of this run at which the history is so many milliseconds old.
    pub fn instant(&self, at: u64) -> Instant {
        let state = self.lock();
        state.began.unwrap() + Duration::from_millis(at.saturating_sub(state.base))
    }

    pub fn say(&self, actor: &str, what: std::fmt::Arguments<'_>) {
        self.lock().say(actor, what);
    }

    /// Whether what happens now has no effect any more: the process that does it is gone.
    pub fn is_void(&self) -> bool {
        self.lock().disk.is_dead()
    }

    /// A name that identifies an event to readers.
    pub fn name(&self, event: usize) -> String {
        let planned = &self.plan.events[event];
        format!("{}/e{}#{event}", self.plan.routes[planned.route].name, planned.id)
    }

    /// Which event has this key.
    pub fn event_of(&self, key: &EventKey) -> usize {
        self.fingerprints.iter().position(|fingerprint| *fingerprint == key.fingerprint).unwrap()
    }

    /// The whole history, a line each.
    pub fn history(&self) -> String {
        self.lock().lines.join("\n")
    }

    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.history()).into()
    }
}

impl State {
    pub fn now(&self) -> u64 {
        let run = self.began.map_or(Duration::ZERO, |began| began.elapsed());
        self.base + u64::try_from(run.as_millis()).unwrap()
    }

    pub fn at(&self, instant: Instant) -> u64 {
        let run = instant.saturating_duration_since(self.began.unwrap());
        self.base + u64::try_from(run.as_millis()).unwrap()
    }

    pub fn say(&mut self, actor: &str, what: std::fmt::Arguments<'_>) {
        let now = self.now();
        let mut line = format!("{:>5}.{:03} {actor:<6} ", now / 1000, now % 1000);
        write!(line, "{what}").unwrap();
        self.lines.push(line);
    }

    /// A run begins at this millisecond; inside its runtime.
    pub fn begin_run(&mut self, at: u64) -> usize {
        (self.base, self.stopping) = (at, false);
        self.began = Some(Instant::now());
        self.runs.push(Run::default());
        self.runs.len() - 1
    }

    pub fn has_open_requests(&self) -> bool {
        self.requests.iter().any(|one| one.reply.is_none() && one.closed.is_none())
    }

    /// The run is over; its runtime is about to go.
    pub fn end_run(&mut self, way: Way) {
        let now = self.now();
        let failures: Vec<u64> = self.disk.failures().into_iter().map(|moment| self.at(moment)).collect();
        let log_synced = self.disk.log_synced().map(|moment| self.at(moment));
        let run = self.runs.last_mut().unwrap();
        (run.ended, run.log_synced, run.failures) = (Some((now, way)), log_synced, failures);
        for sending in self.sendings.iter_mut().filter(|sending| sending.end.is_none()) {
            sending.end = Some((now, Seen::Unknown));
        }
        for request in self.requests.iter_mut().filter(|one| one.reply.is_none() && one.closed.is_none()) {
            request.closed = Some(now);
        }
        (self.base, self.began) = (now, None);
    }

    pub fn run(&self) -> usize {
        self.runs.len() - 1
    }
}

#[async_trait::async_trait]
impl Surroundings for World {
    fn boot(&self) -> Option<String> {
        Some(format!("boot {}", self.lock().boots))
    }

    fn checkpoint_pages(&self) -> i32 {
        self.plan.checkpoint_pages
    }

    async fn pass(&self, moment: Moment) {
        let wait = {
            let mut state = self.lock();
            if state.disk.is_dead() {
                None
            } else {
                let now = state.now();
                if moment == Moment::Begin {
                    state.runs.last_mut().unwrap().transactions.push((now, None));
                }
                Some(self.disk_takes(moment, now, &mut state))
            }
        };
        match wait {
            None => std::future::pending().await,
            Some(0) => {}
            Some(wait) => tokio::time::sleep(Duration::from_millis(wait)).await,
        }
        if moment == Moment::Answer && !self.is_void() {
            let mut state = self.lock();
            let now = state.now();
            if let Some(last) = state.runs.last_mut().unwrap().transactions.last_mut() {
                last.1 = Some(now);
            }
        }
    }
}

impl World {
    /// How many milliseconds the disk takes for this.
    fn disk_takes(&self, moment: Moment, now: u64, state: &mut State) -> u64 {
        let faulty = now < self.plan.faults_end;
        let rng = &mut state.machine;
        match moment {
            Moment::Begin | Moment::Answer => u64::from(rng.u8(..4) == 0),
            Moment::Commit => {
                let slow = self.plan.slow_commits;
                let wait = if faulty && slow > 0 && rng.u32(..slow) == 0 {
                    [300, 1500, 5000, 60_000][rng.usize(..4)]
                } else {
                    rng.u64(..12)
                };
                if wait >= 1000 {
                    state.say("disk", format_args!("a commit takes {wait} ms"));
                }
                wait
            }
            Moment::Read if faulty && rng.u8(..200) == 0 => {
                state.slow_reads.push(now);
                2500
            }
            Moment::Read => rng.u64(..3),
            Moment::Keep => rng.u64(..50),
        }
    }
}

//! What happens in a history, as far as it is known beforehand: routes, events, how the application fares, what befalls
//! the disk and the store, how each run of the gateway ends. All of it comes from the seed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use hookgate::domain::app_url::AppUrl;
use hookgate::domain::breaker::BreakerPolicy;
use hookgate::domain::headers::Headers;
use hookgate::domain::route::{
    AckMode, AckPolicy, AckReply, AppPolicy, DeliveryPolicy, Enforcement, HostHeader, OnApp, OnStoreDown, Route,
};
use hookgate::domain::schedule::{Jitter, Schedule};
use hookgate::domain::scheme::{RawScheme, Scheme, Unsigned};
use hookgate::domain::secret::{RouteSecret, Secret, SecretOrigin};
use hookgate::domain::time::Timestamp;
use http::{Method, StatusCode};

use super::disk::{Loss, Trouble};

/// When every history begins.
pub const START: Timestamp = Timestamp::from_seconds(1_760_000_000);
/// Longest wait between two attempts of an event on disk.
pub const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
/// Longest rest that the application asks for.
pub const LONGEST_REST: u64 = 20;
/// What the probes of the breaker are apart.
pub const PROBE_EVERY: Duration = Duration::from_secs(5);

/// One history, before it happens.
#[derive(Debug)]
pub struct Plan {
    /// Whether faults stop and the world must settle; otherwise they go on to the end.
    pub liveness: bool,
    pub routes: Vec<Arc<Route>>,
    pub events: Vec<Planned>,
    /// How the application fares, from which millisecond on.
    pub phases: Vec<(u64, Phase)>,
    /// No fault begins after this millisecond.
    pub faults_end: u64,
    /// How the runs of the gateway end, in their order.
    pub ends: Vec<End>,
    pub disk: Vec<DiskFault>,
    /// One commit in so many takes long; 0: none.
    pub slow_commits: u32,
    /// `spool.max_bytes`.
    pub max_bytes: u64,
    /// Pages at which the write-ahead log is brought into the database.
    pub checkpoint_pages: i32,
    /// A store that replicas would share, and what it means when it is down.
    pub shared: Option<(OnStoreDown, Vec<StoreFault>)>,
}

/// An event and what its sender does.
#[derive(Clone, Debug)]
pub struct Planned {
    pub route: usize,
    /// Which event the sender says it is.
    pub id: u32,
    pub body: Bytes,
    pub headers: Headers,
    pub order: Option<String>,
    /// First sent at this millisecond.
    pub at: u64,
    /// Requests sent at the same moment.
    pub copies: usize,
    /// The first copy of the first attempt is hung up after so many milliseconds.
    pub hang_up: Option<u64>,
    /// Sent once more so long after it was acknowledged.
    pub again: Option<u64>,
    pub poison: Poison,
}

/// What an event does to the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poison {
    None,
    /// It is always rejected.
    Rejected,
    /// The application always fails on it.
    Failing,
}

/// How the application fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Well,
    Flaky,
    Slow,
    Failing,
    Silent,
    Down,
}

/// How a run of the gateway ends.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// At this millisecond.
    At(u64, Loss),
    /// With the nth operation of the disk after this millisecond.
    Operation(u64, u64, Loss),
    /// SIGTERM at this millisecond.
    Stop(u64),
}

/// What befalls the disk.
#[derive(Clone, Copy, Debug)]
pub enum DiskFault {
    /// From one millisecond to another.
    Period(u64, u64, Trouble),
    /// The nth operation after this millisecond.
    Operation(u64, u64, Trouble),
}

impl DiskFault {
    /// From when to when every operation meets it.
    pub const fn period(self) -> Option<(u64, u64)> {
        match self {
            Self::Period(from, until, _) => Some((from, until)),
            Self::Operation(..) => None,
        }
    }

    pub const fn from(self) -> u64 {
        match self {
            Self::Period(from, ..) | Self::Operation(from, ..) => from,
        }
    }
}

/// What befalls the shared store between two milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct StoreFault {
    pub from: u64,
    pub until: u64,
    pub way: StoreTrouble,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreTrouble {
    /// No answer, and nothing done.
    Silent,
    /// Done, and no answer.
    LateEffect,
    /// It has forgotten everything when it begins.
    Emptied,
}

/// The scheme of a route: without or with the event's own time.
fn scheme(with_time: bool) -> Scheme {
    let mut raw = serde_json::json!({
        "signature": { "header": "X-Signature", "encoding": "hex" },
        "event_id": ["json:/id"],
    });
    if with_time {
        raw["signed_at"] =
            serde_json::json!({ "from": "json:/timestamp", "unit": "rfc3339", "max_age": "23h", "future": "5m" });
    }
    let raw: RawScheme = serde_json::from_value(raw).unwrap();
    Scheme::compile(&raw).unwrap()
}

impl Plan {
    pub fn new(seed: u64) -> Self {
        let rng = &mut Rng::with_seed(seed);
        let liveness = rng.bool();
        let faults_end = rng.u64(20..150) * 1000;
        let routes: Vec<Arc<Route>> = (0..rng.usize(1..=3)).map(|n| Arc::new(route(rng, n))).collect();
        let events = events(rng, &routes, faults_end, liveness);
        let shared = rng.u8(..10) < 3;
        Self {
            liveness,
            phases: phases(rng, faults_end),
            ends: ends(rng, faults_end, &events),
            disk: disk_faults(rng, faults_end),
            slow_commits: if rng.bool() { 0 } else { rng.u32(5..40) },
            // Dead letters fill a small spool for good, and then nothing settles until an operator comes.
            max_bytes: if rng.u8(..6) == 0 && !liveness { rng.u64(2000..9000) } else { 1 << 30 },
            checkpoint_pages: if rng.bool() { 4096 } else { rng.i32(4..60) },
            shared: shared.then(|| (policy(rng), store_faults(rng, faults_end))),
            routes,
            events,
            faults_end,
        }
    }
}

fn policy(rng: &mut Rng) -> OnStoreDown {
    match rng.u8(..10) {
        0 | 1 => OnStoreDown::Refuse,
        2 | 3 => OnStoreDown::Accept,
        _ => OnStoreDown::Local,
    }
}

/// From eight on events of the backlog are read together. One draw, as before there were any, so that a seed stands for what it
/// stood for.
fn slots(rng: &mut Rng) -> usize {
    match rng.usize(1..=6) {
        5 => 24,
        slots => slots,
    }
}

fn route(rng: &mut Rng, number: usize) -> Route {
    let scheme = scheme(rng.bool());
    let secret = Secret::new(b"a secret of the simulation".to_vec());
    let key = scheme.prepare(&secret).unwrap();
    let ordered = rng.u8(..3) == 0;
    let mode = match rng.u8(..10) {
        0 => AckMode::Sync,
        1 | 2 => AckMode::Queue,
        _ => AckMode::Relay,
    };
    let pass = |chance: bool| if chance { OnApp::Pass } else { OnApp::Absorb };
    let budget = if rng.bool() { Duration::from_secs(30) } else { Duration::from_secs(8) };
    Route {
        name: format!("r{number}").into(),
        path: format!("/r{number}"),
        provider: "simulation".to_owned(),
        secrets: vec![RouteSecret { secret, key, origin: SecretOrigin::Literal, until: None }],
        scheme,
        verify_token: None,
        enforcement: Enforcement::Enforce,
        methods: vec![Method::POST],
        max_body_bytes: 1 << 20,
        events: Vec::new(),
        order_by: ordered.then(|| "/order".to_owned()),
        public_url: None,
        allow_from: Vec::new(),
        app: AppPolicy {
            url: AppUrl::parse(&format!("http://app{}", number / 2)).unwrap(),
            ca: None,
            connect_timeout: Duration::from_secs(2),
            attempt_timeout: Duration::from_secs(if rng.bool() { 60 } else { 12 }),
            max_in_flight: slots(rng),
            host: HostHeader::Preserve,
        },
        ack: AckPolicy {
            budget,
            reserve: Duration::from_secs(2),
            mode,
            on_app_failure: pass(rng.u8(..5) == 0),
            on_app_rejection: pass(rng.bool()),
            reply: AckReply {
                status: StatusCode::OK,
                content_type: "application/json".to_owned(),
                body: Bytes::from_static(br#"{"received":true}"#),
            },
        },
        dedup_ttl: Duration::from_secs(24 * 3600),
        delivery: DeliveryPolicy {
            schedule: Schedule::Exponential {
                first: Duration::from_secs(1),
                factor: 2.0,
                max: LONGEST_BACKOFF,
                jitter: Jitter::Spread,
                attempts: if rng.u8(..4) == 0 { 3 } else { 20 },
            },
            breaker: BreakerPolicy { failures: 5, probe_every: PROBE_EVERY },
            rate_per_second: None,
            max_age: Duration::from_secs(3 * 24 * 3600),
        },
    }
}

fn events(rng: &mut Rng, routes: &[Arc<Route>], faults_end: u64, liveness: bool) -> Vec<Planned> {
    let mut events: Vec<Planned> = Vec::new();
    let mut at = rng.u64(0..2000);
    for number in 0..rng.u32(3..16) {
        // Bursts, with pauses between them.
        at += if rng.u8(..3) == 0 { rng.u64(0..faults_end / 4) } else { rng.u64(0..300) };
        at = at.min(faults_end);
        let conflict = events.last().filter(|_| rng.u8(..8) == 0).map(|last| (last.id, last.route));
        let (id, place) = conflict.unwrap_or_else(|| (number, rng.usize(..routes.len())));
        let order = rng.bool().then(|| format!("o{}", rng.u8(..2)));
        let poison = match rng.u8(..20) {
            0 => Poison::Rejected,
            1 if !liveness => Poison::Failing,
            _ => Poison::None,
        };
        let timestamp = START.plus(Duration::from_millis(at)).to_string();
        let body = serde_json::json!({ "id": format!("e{id}"), "n": number, "order": order, "timestamp": timestamp });
        let body = Bytes::from(body.to_string());
        let route = &routes[place];
        let url = format!("http://hooks.example{}", route.path);
        let mut unsigned = Unsigned { method: Method::POST, url, headers: Headers::new(), body: body.clone() };
        route.scheme.sign(&mut unsigned, &route.secrets[0].secret, START.plus(Duration::from_millis(at))).unwrap();
        events.push(Planned {
            route: place,
            id,
            body,
            headers: unsigned.headers,
            order: order.filter(|_| route.order_by.is_some()),
            at,
            copies: if rng.u8(..4) == 0 { rng.usize(2..=3) } else { 1 },
            hang_up: (rng.u8(..6) == 0).then(|| rng.u64(0..5000)),
            again: (rng.u8(..3) == 0).then(|| rng.u64(0..faults_end)),
            poison,
        });
    }
    events
}

fn phases(rng: &mut Rng, faults_end: u64) -> Vec<(u64, Phase)> {
    let mut phases = Vec::new();
    let mut at = 0;
    while at < faults_end {
        let phase = match rng.u8(..12) {
            0..=3 => Phase::Well,
            4..=6 => Phase::Flaky,
            7 => Phase::Slow,
            8 | 9 => Phase::Failing,
            10 => Phase::Silent,
            _ => Phase::Down,
        };
        phases.push((at, phase));
        at += rng.u64(1000..40_000);
    }
    phases
}

fn loss(rng: &mut Rng) -> Loss {
    if rng.bool() { Loss::Kill } else { Loss::Power }
}

fn ends(rng: &mut Rng, faults_end: u64, events: &[Planned]) -> Vec<End> {
    let count = rng.usize(0..=3);
    // Often when something is going on.
    let moment = |rng: &mut Rng| {
        if rng.bool() { events[rng.usize(..events.len())].at + rng.u64(..200) } else { rng.u64(0..faults_end) }
    };
    let mut moments: Vec<u64> = (0..count).map(|_| moment(rng)).collect();
    moments.sort_unstable();
    let end = |at| match rng.u8(..8) {
        0 | 1 => End::Stop(at),
        2..=4 => End::At(at, loss(rng)),
        _ => End::Operation(at, rng.u64(1..20), loss(rng)),
    };
    moments.into_iter().map(end).collect()
}

fn disk_faults(rng: &mut Rng, faults_end: u64) -> Vec<DiskFault> {
    if rng.u8(..3) > 0 {
        return Vec::new();
    }
    let trouble = |rng: &mut Rng| if rng.bool() { Trouble::Io } else { Trouble::Full };
    let fault = |rng: &mut Rng| {
        let from = rng.u64(0..faults_end);
        if rng.bool() {
            DiskFault::Operation(from, rng.u64(1..30), trouble(rng))
        } else {
            DiskFault::Period(from, (from + rng.u64(100..20_000)).min(faults_end), trouble(rng))
        }
    };
    let count = rng.usize(1..4);
    let mut faults: Vec<DiskFault> = (0..count).map(|_| fault(rng)).collect();
    faults.sort_by_key(|fault| fault.from());
    faults
}

fn store_faults(rng: &mut Rng, faults_end: u64) -> Vec<StoreFault> {
    let fault = |rng: &mut Rng| {
        let from = rng.u64(0..faults_end);
        let way = match rng.u8(..3) {
            0 => StoreTrouble::Silent,
            1 => StoreTrouble::LateEffect,
            _ => StoreTrouble::Emptied,
        };
        StoreFault { from, until: (from + rng.u64(50..15_000)).min(faults_end), way }
    };
    let count = rng.usize(0..4);
    (0..count).map(|_| fault(rng)).collect()
}

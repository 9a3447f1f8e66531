//! What the tests of deliveries from memory and from disk stand on: a spool, claims, and an application that is told how many
//! events to take.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, StatusCode};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::Deliverer;
use super::attempt::{Application, Sending};
use crate::claims::embedded::Embedded;
use crate::claims::{Claims, Verdict};
use crate::clock::Clock;
use crate::disk::{Disk, DiskSettings};
use crate::domain::event::{Event, EventId};
use crate::domain::headers::Headers;
use crate::domain::key::EventKey;
use crate::domain::outcome::{AppAnswer, Outcome, Settled};
use crate::domain::route::{AckMode, Route, fixture};
use crate::domain::time::Timestamp;
use crate::spool::{Entry, Filter, NewEntry, Possible, Replay, Spool, State};
use crate::telemetry::Metrics;

const START: Timestamp = Timestamp::from_seconds(1_760_000_000);

/// Takes as many as it is allowed to, and remembers where their bodies stood.
#[derive(Debug)]
pub(super) struct App {
    pub(super) allowed: Semaphore,
    pub(super) seen: Mutex<Vec<(usize, Sending)>>,
}

#[async_trait]
impl Application for App {
    async fn take(&self, event: &Event, sending: Sending) -> Outcome {
        self.seen.lock().unwrap().push((event.body.as_ptr() as usize, sending));
        self.allowed.acquire().await.unwrap().forget();
        Outcome::Accepted(AppAnswer { status: StatusCode::OK, headers: Headers::new(), body: Bytes::new() })
    }
}

pub(super) struct World {
    _folder: tempfile::TempDir,
    pub(super) spool: Spool,
    claims: Claims,
    pub(super) deliverer: Deliverer,
    route: Arc<Route>,
    pub(super) app: Arc<App>,
}

/// An application that takes so many, one at a time, on a route in queue mode.
pub(super) fn world(allowed: usize) -> World {
    let world = sleeping(allowed, None);
    world.awake();
    world
}

/// As [`world`], with a route of this rate that is not in operation yet.
pub(super) fn sleeping(allowed: usize, rate: Option<u32>) -> World {
    sleeping_with(allowed, 1, rate)
}

/// As [`sleeping`], to an application that takes so many at a time.
pub(super) fn sleeping_with(allowed: usize, at_a_time: usize, rate: Option<u32>) -> World {
    let (folder, metrics) = (tempfile::tempdir().unwrap(), Arc::new(Metrics::new(&[]).unwrap()));
    let path = folder.path().to_owned();
    let settings = DiskSettings { path, max_bytes: 1 << 20, max_dead_bytes: u64::MAX, min_free_bytes: 0 };
    let disk = Disk::open(settings, START, metrics.clone()).unwrap().disk;
    let clock = Clock::anchored_at(START);
    let claims = Claims::new(Arc::new(Embedded::new(disk.clone())), clock);
    let app = Arc::new(App { allowed: Semaphore::new(allowed), seen: Mutex::default() });
    let spool = Spool::new(disk);
    let deliverer = Deliverer::towards(app.clone(), spool.clone(), claims.clone(), clock, metrics);
    let mut route = fixture("r");
    route.ack.mode = AckMode::Queue;
    route.app.max_in_flight = at_a_time;
    route.delivery.rate_per_second = rate;
    let route = Arc::new(route);
    World { _folder: folder, spool, claims, deliverer, route, app }
}

impl World {
    /// Puts the route into operation.
    pub(super) fn awake(&self) {
        self.deliverer.configure(std::slice::from_ref(&self.route));
    }

    /// Takes an event over; it is on disk when this ends. Yields where its body stands.
    pub(super) async fn take(&self, number: u32) -> usize {
        let event = Arc::new(event(number, START));
        let at = event.body.as_ptr() as usize;
        let deadline = Instant::now() + Duration::from_secs(30);
        let Verdict::Claimed(held) = self.claims.claim(&event, Duration::from_secs(40), deadline).await else {
            panic!("{number} is new")
        };
        let settled = self.deliverer.deliver(event, self.route.clone(), held, deadline, ()).await;
        assert!(matches!(settled, Some(Settled::Spooled)), "{settled:?}");
        at
    }

    /// Writes an event that is due.
    pub(super) async fn put(&self, number: u32) {
        let state = Entry::Pending { not_before: Timestamp::from_millis(START.millis() - 1000 + i64::from(number)) };
        let (event, last_error) = (event(number, START), String::new());
        let possible_duplicate = Possible::No;
        let entry =
            NewEntry { event: Arc::new(event), state, attempts: 0, possible_duplicate, replay: Replay::No, last_error };
        self.spool.append(entry, None).await.unwrap();
    }

    pub(super) async fn count(&self, state: State) -> u64 {
        self.spool.count(Filter { state: Some(state), ..Filter::default() }).await.unwrap()
    }

    pub(super) async fn eventually(&self, what: &str, mut is_so: impl AsyncFnMut() -> bool) {
        for _ in 0..3000 {
            if is_so().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not within 30 s: {what}");
    }
}

/// An event of this number and no other, received `at`.
pub(super) fn event(number: u32, at: Timestamp) -> Event {
    let body = Bytes::from(format!("a body of its own {number}"));
    Event {
        id: EventId::new(at, u128::from(number) << 64),
        route: "r".into(),
        key: EventKey::new("r", &[&number.to_be_bytes()], &body),
        method: Method::POST,
        target: "/r".into(),
        headers: Headers::new(),
        authority: "hooks.example".into(),
        body: body.into(),
        received_at: at,
        signed_at: None,
        event_type: None,
        order_value: None,
    }
}

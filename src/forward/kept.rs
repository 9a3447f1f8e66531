//! An event of queue mode that came to disk as in flight and is sent as it is in memory: it need be neither looked for
//! nor read back. How many there are is bounded by `Lane::place`; their bodies count in `buffered_bytes`. It decides
//! nothing about outcomes.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Deliverer;
use super::attempt::Sending;
use super::limits::{Lane, Place};
use super::spooled::{ANSWER_BODY, Standing};
use crate::domain::event::Event;
use crate::domain::outcome::Outcome;
use crate::spool::{Possible, Replay, Settlement};

/// How long such an event waits for a slot; then it is due like any other.
const SLOT_PATIENCE: Duration = Duration::from_secs(10);

impl Deliverer {
    /// The first attempt of an event that was written down as in flight and is in memory still. If there is none, because
    /// no slot comes free or the shutdown has begun, the event is due like any other.
    pub(super) async fn send_kept(&self, lane: Arc<Lane>, place: Place, event: Arc<Event>, possible: Possible) {
        let route = lane.route.clone();
        let mut drain = self.0.drain.subscribe();
        let slot = tokio::select! {
            biased;
            _ = drain.wait_for(Option::is_some) => None,
            slot = lane.slot(event.id, Instant::now() + SLOT_PATIENCE) => slot.ok(),
        };
        let Some(slot) = slot.filter(|_| self.goes_on(&lane)) else {
            drop(place);
            self.write_down(&event, Settlement::Postpone { not_before: self.0.clock.now() }).await;
            return self.wake();
        };
        if self.0.claims.has_accepted_copy(&event) {
            drop((slot, place));
            return self.settle_copy(&event, &route).await;
        }
        let possible_duplicate = self.look_elsewhere(&event, &route, possible, Replay::No).await;
        let sending =
            Sending { attempt: 1, possible_duplicate: possible_duplicate == Possible::Duplicate, replay: false };
        let body_by = Instant::now() + route.app.attempt_timeout + ANSWER_BODY;
        let (outcome, breaker) = self.clone().attempt(lane, event.clone(), sending, slot, body_by).await;
        drop(place);
        let is_over = matches!(outcome, Outcome::Accepted(_));
        self.settle_spooled(&event, &route, outcome, Standing { attempt: 1, possible_duplicate, breaker }).await;
        if !is_over {
            self.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use bytes::Bytes;
    use http::{HeaderMap, Method, StatusCode};
    use tokio::sync::Semaphore;

    use super::*;
    use crate::claims::embedded::Embedded;
    use crate::claims::{Claims, Verdict};
    use crate::clock::Clock;
    use crate::disk::{Disk, DiskSettings};
    use crate::domain::event::EventId;
    use crate::domain::key::EventKey;
    use crate::domain::outcome::{AppAnswer, Settled};
    use crate::domain::route::{AckMode, Route, fixture};
    use crate::domain::time::Timestamp;
    use crate::forward::Settlement as Ended;
    use crate::forward::attempt::Application;
    use crate::spool::{Filter, Spool, State};
    use crate::telemetry::Metrics;

    const START: Timestamp = Timestamp::from_seconds(1_760_000_000);

    /// Takes as many as it is allowed to, and remembers where their bodies stood.
    #[derive(Debug)]
    struct App {
        allowed: Semaphore,
        seen: Mutex<Vec<(usize, Sending)>>,
    }

    #[async_trait]
    impl Application for App {
        async fn take(&self, event: &Event, sending: Sending) -> Outcome {
            self.seen.lock().unwrap().push((event.body.as_ptr() as usize, sending));
            self.allowed.acquire().await.unwrap().forget();
            Outcome::Accepted(AppAnswer { status: StatusCode::OK, headers: HeaderMap::new(), body: Bytes::new() })
        }
    }

    struct World {
        _folder: tempfile::TempDir,
        spool: Spool,
        claims: Claims,
        deliverer: Deliverer,
        route: Arc<Route>,
        app: Arc<App>,
    }

    fn world(allowed: usize) -> World {
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
        route.app.max_in_flight = 1;
        let route = Arc::new(route);
        deliverer.configure(std::slice::from_ref(&route));
        World { _folder: folder, spool, claims, deliverer, route, app }
    }

    impl World {
        /// Takes an event over; it is on disk when this ends. Yields where its body stands.
        async fn take(&self, number: u32) -> usize {
            let body = Bytes::from(format!("a body of its own {number}"));
            let at = body.as_ptr() as usize;
            let event = Arc::new(Event {
                id: EventId::new(START, u128::from(number) << 64),
                route: "r".into(),
                key: EventKey::new("r", &[&number.to_be_bytes()], &body),
                method: Method::POST,
                target: "/r".into(),
                headers: HeaderMap::new(),
                authority: "hooks.example".into(),
                body,
                received_at: START,
                signed_at: None,
                event_type: None,
                order_value: None,
            });
            let deadline = Instant::now() + Duration::from_secs(30);
            let Verdict::Claimed(held) = self.claims.claim(&event, Duration::from_secs(40), deadline).await else {
                panic!("{number} is new")
            };
            let settled = self.deliverer.deliver(event, self.route.clone(), held, deadline, ()).await;
            assert!(matches!(settled, Some(Settled::Spooled)), "{settled:?}");
            at
        }

        async fn count(&self, state: State) -> u64 {
            self.spool.count(Filter { state: Some(state), ..Filter::default() }).await.unwrap()
        }

        async fn eventually(&self, what: &str, mut is_so: impl AsyncFnMut() -> bool) {
            for _ in 0..500 {
                if is_so().await {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            panic!("not within 5 s: {what}");
        }
    }

    #[tokio::test]
    async fn an_event_that_is_safe_on_disk_is_sent_as_it_is_in_memory_once_and_unflagged() {
        let world = world(100);
        let mut bodies = Vec::new();
        for number in 0..20 {
            bodies.push(world.take(number).await);
            world.eventually("it is delivered", async || world.spool.totals().pending() == 0).await;
        }
        let seen = world.app.seen.lock().unwrap().clone();
        assert!(seen.iter().map(|(body, _)| *body).eq(bodies.iter().copied()), "{seen:?}, {bodies:?}");
        assert!(seen.iter().all(|(_, sending)| sending.attempt == 1 && !sending.possible_duplicate), "{seen:?}");
    }

    #[tokio::test]
    async fn what_finds_no_place_or_no_slot_before_the_shutdown_is_due_like_any_other() {
        let world = world(0);
        for number in 0..5 {
            world.take(number).await;
        }
        world.eventually("one is sent", async || world.app.seen.lock().unwrap().len() == 1).await;
        assert_eq!(world.count(State::InFlight).await, 2, "one is sent, one waits for its slot");
        assert_eq!(world.count(State::Pending).await, 5, "the others found no place");
        world.deliverer.drain(Instant::now() + Duration::from_secs(1));
        world.eventually("the shutdown gives its slot up", async || world.count(State::InFlight).await == 1).await;
        world.app.allowed.add_permits(1);
        let ended = world.deliverer.settled(Instant::now() + Duration::from_secs(5)).await;
        assert_eq!(ended, Ended::Complete);
        assert_eq!(world.app.seen.lock().unwrap().len(), 1, "nothing was sent besides");
        let listed = world.spool.list(Filter { limit: 10, ..Filter::default() }).await.unwrap();
        assert_eq!(listed.len(), 4);
        for one in listed {
            let stored = world.spool.load(one.id).await.unwrap().unwrap();
            assert_eq!((stored.attempts, stored.possible_duplicate), (0, Possible::No), "{}", one.id);
        }
    }
}

//! A claim whose lease passes before its event has been sent for the first time: the owner finds out by its own clock.
//! The real claims and deliverer over an application made up; no Redis, no socket.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use hookgate::claims::embedded::Embedded;
use hookgate::claims::{Claims, Verdict};
use hookgate::clock::Clock;
use hookgate::disk::{Disk, DiskSettings};
use hookgate::domain::app_url::AppUrl;
use hookgate::domain::breaker::BreakerPolicy;
use hookgate::domain::event::{Event, EventId};
use hookgate::domain::headers::Headers;
use hookgate::domain::key::EventKey;
use hookgate::domain::outcome::{AppAnswer, Outcome};
use hookgate::domain::route::{
    AckMode, AckPolicy, AckReply, AppPolicy, DeliveryPolicy, Enforcement, HostHeader, OnApp, Route,
};
use hookgate::domain::schedule::{Jitter, Schedule};
use hookgate::domain::scheme::{RawScheme, Scheme};
use hookgate::domain::time::Timestamp;
use hookgate::forward::Deliverer;
use hookgate::forward::attempt::{Application, Sending};
use hookgate::spool::Spool;
use hookgate::telemetry::Metrics;
use http::{Method, StatusCode};
use tokio::time::Instant;

const START: Timestamp = Timestamp::from_seconds(1_760_000_000);
const LEASE: Duration = Duration::from_secs(40);

/// Takes everything and remembers which sendings were flagged.
#[derive(Debug, Default)]
struct App(Mutex<Vec<bool>>);

#[async_trait]
impl Application for App {
    async fn take(&self, _: &Event, sending: Sending) -> Outcome {
        self.0.lock().unwrap().push(sending.possible_duplicate);
        Outcome::Accepted(AppAnswer { status: StatusCode::OK, headers: Headers::new(), body: Bytes::new() })
    }
}

fn route() -> Arc<Route> {
    let raw =
        serde_json::json!({ "signature": { "header": "X-Signature", "encoding": "hex" }, "event_id": ["json:/id"] });
    let raw: RawScheme = serde_json::from_value(raw).unwrap();
    Arc::new(Route {
        name: "veedeo".into(),
        path: "/veedeo".into(),
        provider: "test".into(),
        secrets: Vec::new(),
        scheme: Scheme::compile(&raw).unwrap(),
        verify_token: None,
        enforcement: Enforcement::Enforce,
        methods: vec![Method::POST],
        max_body_bytes: 1 << 20,
        events: Vec::new(),
        order_by: None,
        public_url: None,
        allow_from: Vec::new(),
        app: AppPolicy {
            url: AppUrl::parse("http://app").unwrap(),
            ca: None,
            connect_timeout: Duration::from_secs(2),
            attempt_timeout: Duration::from_secs(60),
            max_in_flight: 1,
            host: HostHeader::Preserve,
        },
        ack: AckPolicy {
            budget: Duration::from_secs(30),
            reserve: Duration::from_secs(2),
            mode: AckMode::Sync,
            on_app_failure: OnApp::Pass,
            on_app_rejection: OnApp::Pass,
            reply: AckReply { status: StatusCode::OK, content_type: "text/plain".into(), body: Bytes::new() },
        },
        dedup_ttl: Duration::from_secs(86_400),
        delivery: DeliveryPolicy {
            schedule: Schedule::Exponential {
                first: Duration::from_secs(1),
                factor: 2.0,
                max: Duration::from_secs(30),
                jitter: Jitter::Spread,
                attempts: 3,
            },
            breaker: BreakerPolicy { failures: 5, probe_every: Duration::from_secs(5) },
            rate_per_second: None,
            max_age: Duration::from_secs(86_400),
        },
    })
}

fn event(number: u32) -> Arc<Event> {
    let body = Bytes::from(number.to_string());
    Arc::new(Event {
        id: EventId::new(START, u128::from(number) << 64),
        route: "veedeo".into(),
        key: EventKey::new("veedeo", &[&number.to_be_bytes()], &body),
        method: Method::POST,
        target: "/veedeo".into(),
        headers: Headers::new(),
        authority: "hooks.example".into(),
        body: body.into(),
        received_at: START,
        signed_at: None,
        event_type: None,
        order_value: None,
    })
}

#[tokio::test]
async fn an_event_whose_lease_has_passed_before_it_was_sent_is_sent_flagged() {
    let (dir, metrics, app) =
        (tempfile::tempdir().unwrap(), Arc::new(Metrics::new(&[]).unwrap()), Arc::<App>::default());
    let settings =
        DiskSettings { path: dir.path().to_owned(), max_bytes: 1 << 20, max_dead_bytes: u64::MAX, min_free_bytes: 0 };
    let disk = Disk::open(settings, START, metrics.clone()).unwrap().disk;
    let clock = Clock::anchored_at(START);
    let claims = Claims::new(Arc::new(Embedded::new(disk.clone())), clock);
    let deliverer = Deliverer::towards(app.clone(), Spool::new(disk), claims.clone(), clock, metrics);
    let route = route();
    deliverer.configure(std::slice::from_ref(&route));
    for (number, pause, flagged) in [(1, Duration::ZERO, false), (2, LEASE, true), (3, LEASE / 2, false)] {
        let event = event(number);
        let deadline = Instant::now() + 3 * LEASE;
        let Verdict::Claimed(held) = claims.claim(&event, LEASE, deadline).await else { panic!("{number} is new") };
        assert!(!held.has_lapsed(tokio::time::Instant::now()));
        // Nothing is under way that would be woken by this.
        tokio::time::pause();
        tokio::time::advance(pause).await;
        tokio::time::resume();
        assert_eq!(held.has_lapsed(tokio::time::Instant::now()), flagged, "after {pause:?}");
        deliverer.deliver(event, route.clone(), held, deadline, ()).await.unwrap();
        assert_eq!(app.0.lock().unwrap().last(), Some(&flagged), "after {pause:?}");
    }
}

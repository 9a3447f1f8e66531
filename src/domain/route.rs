//! A route and its policies, checked: what the configuration means, in the types that the floors above use.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use ipnet::IpNet;

use super::app_url::AppUrl;
use super::breaker::BreakerPolicy;
use super::schedule::Schedule;
use super::scheme::Scheme;
use super::secret::{RouteSecret, Secret};

/// One configured route.
#[derive(Debug)]
pub struct Route {
    /// Its name: the metrics label.
    pub name: Arc<str>,
    /// Its path, matched raw and exactly.
    pub path: String,
    /// The provider's name, for people.
    pub provider: String,
    /// How the provider signs.
    pub scheme: Scheme,
    /// Its secrets in the order of the configuration; never empty.
    pub secrets: Vec<RouteSecret>,
    /// What a challenge must show, where the provider's does. Without it such a challenge is not answered.
    pub verify_token: Option<Secret>,
    /// Whether verdicts are acted on.
    pub enforcement: Enforcement,
    /// Methods taken.
    pub methods: Vec<Method>,
    /// Longest body taken, in bytes.
    pub max_body_bytes: usize,
    /// Event types wanted; empty: all.
    pub events: Vec<String>,
    /// JSON pointer whose value orders deliveries.
    pub order_by: Option<String>,
    /// Scheme, host, port and path as the provider sees them.
    pub public_url: Option<String>,
    /// Networks the sender may come from; empty: any.
    pub allow_from: Vec<IpNet>,
    /// The application.
    pub app: AppPolicy,
    /// The acknowledgement.
    pub ack: AckPolicy,
    /// How long a key is remembered after acceptance.
    pub dedup_ttl: Duration,
    /// How deliveries are repeated.
    pub delivery: DeliveryPolicy,
}

/// Whether a bad verdict refuses the request or is only recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enforcement {
    /// Refuse.
    Enforce,
    /// Log and count, and pass the request on.
    Observe,
}

/// The receiver behind the gateway.
#[derive(Clone, Debug)]
pub struct AppPolicy {
    /// Where it is.
    pub url: AppUrl,
    /// Authorities that a certificate of the application must come from, in DER; none: those of the system.
    pub ca: Option<Arc<[Vec<u8>]>>,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest attempt, from start to status line.
    pub attempt_timeout: Duration,
    /// Most attempts running at once for the route.
    pub max_in_flight: usize,
    /// Which `Host` the application sees.
    pub host: HostHeader,
}

/// Which `Host` the application sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostHeader {
    /// The sender's.
    Preserve,
    /// The application's own.
    Rewrite,
}

/// How and when the sender is answered.
#[derive(Clone, Debug)]
pub struct AckPolicy {
    /// What the sender allows, from the request's first byte.
    pub budget: Duration,
    /// Kept back: the reply leaves by `budget - reserve`.
    pub reserve: Duration,
    /// Who answers.
    pub mode: AckMode,
    /// What happens when the application fails.
    pub on_app_failure: OnApp,
    /// What happens when the application answers 4xx.
    pub on_app_rejection: OnApp,
    /// Our own acknowledgement.
    pub reply: AckReply,
}

/// Who answers the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckMode {
    /// The application's own answer if it comes in time, else we do, from disk.
    Relay,
    /// We do, from disk, at once.
    Queue,
    /// Only the application; nothing is ever buffered.
    Sync,
}

/// What becomes of the application's bad answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnApp {
    /// To disk, acknowledged by us.
    Absorb,
    /// Handed to the sender.
    Pass,
}

/// Our own acknowledgement.
#[derive(Clone, Debug)]
pub struct AckReply {
    /// A 2xx.
    pub status: StatusCode,
    /// `Content-Type`.
    pub content_type: String,
    /// The body.
    pub body: Bytes,
}

/// How deliveries are repeated.
#[derive(Clone, Debug)]
pub struct DeliveryPolicy {
    /// When the next attempt may be made.
    pub schedule: Schedule,
    /// When attempts stop for want of success.
    pub breaker: BreakerPolicy,
    /// Most attempts a second; `None`: no limit.
    pub rate_per_second: Option<u32>,
    /// Older undelivered events go to the dead letters.
    pub max_age: Duration,
}

/// What a dedup store that cannot be asked means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStoreDown {
    /// The embedded table takes over.
    Local,
    /// 503.
    Refuse,
    /// Deliver, perhaps twice.
    Accept,
}

/// A route with the defaults of the configuration, for tests.
#[cfg(test)]
pub(crate) fn fixture(name: &str) -> Route {
    use super::schedule::Jitter;
    use super::scheme::{RawScheme, Scheme};

    let raw: RawScheme = serde_json::from_value(serde_json::json!({
        "signature": { "header": "X-Signature", "encoding": "hex" },
    }))
    .expect("a scheme as written");
    Route {
        name: name.into(),
        path: format!("/{name}"),
        provider: "test".to_owned(),
        scheme: Scheme::compile(&raw).expect("a scheme"),
        secrets: Vec::new(),
        verify_token: None,
        enforcement: Enforcement::Enforce,
        methods: vec![Method::POST],
        max_body_bytes: 1024 * 1024,
        events: Vec::new(),
        order_by: None,
        public_url: None,
        allow_from: Vec::new(),
        app: AppPolicy {
            url: AppUrl::parse("http://127.0.0.1:9").expect("an address"),
            ca: None,
            connect_timeout: Duration::from_secs(2),
            attempt_timeout: Duration::from_secs(60),
            max_in_flight: 64,
            host: HostHeader::Preserve,
        },
        ack: AckPolicy {
            budget: Duration::from_secs(30),
            reserve: Duration::from_secs(2),
            mode: AckMode::Relay,
            on_app_failure: OnApp::Absorb,
            on_app_rejection: OnApp::Pass,
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
                max: Duration::from_secs(300),
                jitter: Jitter::Spread,
                attempts: 20,
            },
            breaker: BreakerPolicy { failures: 5, probe_every: Duration::from_secs(5) },
            rate_per_second: None,
            max_age: Duration::from_secs(3 * 24 * 3600),
        },
    }
}

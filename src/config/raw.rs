//! The configuration as it is written: every key, every one optional, each value in its form. What the keys mean
//! together is checked later; these types end there.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use http::Method;
use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

use super::leaf::{Count, Factor, MediaType, Name, Pointer, PublicUrl, Rate, RequestPath, Size, Text};
use super::raw_redis::RawRedis;
use super::settings::{LogFormat, LogLevel, StoreKind};
use crate::domain::app_url::AppUrl;
use crate::domain::pass_path::PassPath;
use crate::domain::route::{AckMode, OnApp, OnStoreDown};
use crate::domain::scheme::RawScheme;
use crate::domain::time::Timestamp;

/// The whole configuration of hookgate.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawConfig {
    /// Where senders are served.
    pub(super) listen: Option<Text<SocketAddr>>,
    /// Where metrics and health are served. Never a payload, header or secret.
    pub(super) telemetry: Option<Text<SocketAddr>>,
    /// Where the API is served. Shows bodies: on any other address than loopback `admin_token` is required.
    pub(super) admin: Option<Text<SocketAddr>>,
    /// The token of the API. Required unless `admin` is a loopback address.
    pub(super) admin_token: Option<RawReference>,
    /// Further files, relative to this one; the last part of a path may hold one `*`.
    pub(super) include: Option<Vec<Text<Name>>>,
    /// How requests are taken.
    pub(super) server: RawServer,
    /// The application behind the gateway.
    pub(super) app: RawApp,
    /// How and when the sender is answered.
    pub(super) ack: RawAck,
    /// How repeated events are recognised.
    pub(super) dedup: RawDedup,
    /// Where events wait on disk.
    pub(super) spool: RawSpool,
    /// How deliveries are repeated.
    pub(super) delivery: RawDelivery,
    /// How the gateway logs.
    pub(super) log: RawLog,
    /// Other paths streamed to the application unverified. Off unless given.
    pub(super) passthrough: RawPassthrough,
    /// The routes; a route's name is its metrics label.
    pub(super) routes: BTreeMap<String, RawRoute>,
    /// Own providers, in the language of the built-in ones.
    pub(super) providers: BTreeMap<String, RawScheme>,
}

/// How requests are taken.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawServer {
    /// Worker threads; 0: one per core.
    pub(super) threads: Option<Count<0, 1024>>,
    /// Absolute: first byte of a request to its blank line.
    pub(super) header_timeout: Option<Text<Duration>>,
    /// Absolute: blank line to last body byte.
    pub(super) body_timeout: Option<Text<Duration>>,
    /// How long a connection may wait for its next request.
    pub(super) idle_timeout: Option<Text<Duration>>,
    /// Absolute: our reply taken by the sender.
    pub(super) write_timeout: Option<Text<Duration>>,
    /// From SIGTERM to exit at the latest; at least 3 s, of which two are kept for the closing.
    pub(super) shutdown_grace: Option<Text<Duration>>,
    /// Longest request head.
    pub(super) max_header_bytes: Option<Size>,
    /// Most connections at once. At the cap the longest idle one is closed; if none is idle, the new one gets 503.
    pub(super) max_connections: Option<Count<1, 1_000_000>>,
    /// Most of them from one IPv4 address or IPv6 network of 64 bits. Peers in `trusted_proxies` are not counted; as long
    /// as none is named there, nor are peers from private, shared, link-local and loopback addresses.
    pub(super) max_connections_per_source: Option<Count<1, 1_000_000>>,
    /// All request bodies in memory together, with long heads, long answers and what passes through; past it 503.
    pub(super) max_buffered_bytes: Option<Size>,
    /// Networks whose X-Forwarded-For is believed.
    pub(super) trusted_proxies: Option<Vec<Text<IpNet>>>,
    /// TLS on `listen`.
    pub(super) tls: Option<RawTls>,
}

/// TLS on `listen`. The files are read anew when they change.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTls {
    /// The certificate and its chain, PEM; relative to the file that names it.
    pub(super) cert: Option<Text<Name>>,
    /// Its private key, PEM.
    pub(super) key: Option<Text<Name>>,
    /// More certificates, picked by the name that a sender asks for (SNI).
    pub(super) also: Option<Vec<RawCertificate>>,
    /// Certificates of authorities, PEM: who has none of theirs gets no connection.
    pub(super) client_ca: Option<Text<Name>>,
    /// Whether HTTP/2 is offered to senders; HTTP/1.1 always is.
    pub(super) h2: Option<bool>,
}

/// One more certificate.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawCertificate {
    /// The certificate and its chain, PEM.
    pub(super) cert: Option<Text<Name>>,
    /// Its private key, PEM.
    pub(super) key: Option<Text<Name>>,
}

/// The application behind the gateway.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawApp {
    /// Its address: `http://host[:port][/prefix]`, or `https://…`.
    pub(super) url: Option<Text<AppUrl>>,
    /// Certificates of authorities, PEM, for `https://`: only theirs are believed. Else the system's are.
    pub(super) ca: Option<Text<Name>>,
    /// Longest wait for a connection.
    pub(super) connect_timeout: Option<Text<Duration>>,
    /// Longest attempt, in the background once the sender has been answered.
    pub(super) attempt_timeout: Option<Text<Duration>>,
    /// Most attempts running at once, per route.
    pub(super) max_in_flight: Option<Count<1, 65_536>>,
    /// Whether the application sees the sender's `Host`.
    pub(super) preserve_host: Option<bool>,
}

/// How and when the sender is answered.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawAck {
    /// What the sender allows, counted from the request's first byte.
    pub(super) budget: Option<Text<Duration>>,
    /// Kept back: the reply leaves by budget - reserve.
    pub(super) reserve: Option<Text<Duration>>,
    /// `relay`: the application's own answer if it comes in time, else from disk. `queue`: to disk, answer at once,
    /// deliver in the background. `sync`: the application's answer is the answer; never buffered.
    pub(super) mode: Option<Text<AckMode>>,
    /// 5xx, 429, 408, 3xx, no connection, no answer: `absorb` (to disk, ack) or `pass`.
    pub(super) on_app_failure: Option<Text<OnApp>>,
    /// Other 4xx: `pass` it on and keep a dead-letter copy, or `absorb`.
    pub(super) on_app_rejection: Option<Text<OnApp>>,
    /// Our own acknowledgement.
    pub(super) reply: RawReply,
}

/// Our own acknowledgement.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawReply {
    /// A 2xx.
    pub(super) status: Option<Count<200, 299>>,
    /// Its media type.
    pub(super) content_type: Option<Text<MediaType>>,
    /// Its body.
    pub(super) body: Option<String>,
}

/// How repeated events are recognised.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawDedup {
    /// `embedded`: a table on this machine. `redis`: the shared view of several replicas.
    pub(super) store: Option<Text<StoreKind>>,
    /// How long an event is remembered, from its acceptance.
    pub(super) ttl: Option<Text<Duration>>,
    /// `local`: the embedded table takes over. `refuse`: 503. `accept`: may deliver twice.
    pub(super) on_store_down: Option<Text<OnStoreDown>>,
    /// The Redis of `store = "redis"`.
    pub(super) redis: RawRedis,
}

/// Where events wait on disk.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawSpool {
    /// The directory, relative to the file that names it.
    pub(super) path: Option<Text<Name>>,
    /// Most bytes on disk. Full: 503 to events that need the disk; nothing is evicted.
    pub(super) max_bytes: Option<Size>,
    /// Most bytes of dead letters among them; half of `max_bytes` where nothing is said. Past it copies of rejected events
    /// are not kept; what was acknowledged is, whatever becomes of it.
    pub(super) max_dead_bytes: Option<Size>,
    /// Bytes of the disk left to others.
    pub(super) min_free_bytes: Option<Size>,
    /// Older undelivered events go to the dead letters.
    pub(super) max_age: Option<Text<Duration>>,
}

/// How deliveries are repeated.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawDelivery {
    /// Growing waits, or a list of waits.
    pub(super) retries: Option<RawRetries>,
    /// When attempts stop for want of success; one for each address of an application.
    pub(super) breaker: RawBreaker,
    /// Most attempts a second, per route, such as "50/s".
    pub(super) rate: Option<Text<Rate>>,
}

/// When attempts stop for want of success.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawBreaker {
    /// Failures in a row that open it.
    pub(super) failures: Option<Count<1, 1_000_000>>,
    /// Time between probes while it is open.
    pub(super) probe_every: Option<Text<Duration>>,
}

/// Growing waits.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawGrowing {
    /// Wait after the first failed attempt.
    pub(super) first: Option<Text<Duration>>,
    /// Growth from wait to wait.
    pub(super) factor: Option<Factor>,
    /// Longest wait.
    pub(super) max: Option<Text<Duration>>,
    /// Whether waits are spread over their upper half.
    pub(super) jitter: Option<bool>,
    /// Attempts in all, the first one counted.
    pub(super) attempts: Option<Count<1, 1_000_000>>,
}

/// How the gateway logs.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLog {
    /// `auto`: pretty on a terminal, json otherwise.
    pub(super) format: Option<Text<LogFormat>>,
    /// The least level that is written.
    pub(super) level: Option<Text<LogLevel>>,
}

/// Other paths streamed to the application unverified.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawPassthrough {
    /// Exact paths, or all below one such as "/static/*".
    pub(super) paths: Option<Vec<Text<PassPath>>>,
}

/// One route. Any part of its provider may be overridden beside these keys.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRoute {
    /// Its path, matched raw and exactly.
    pub(super) path: Option<Text<RequestPath>>,
    /// A built-in provider, or a table `[providers.NAME]`.
    pub(super) provider: Option<Text<Name>>,
    /// Its secrets; each live one is tried. A secret's position is its name in metrics.
    pub(super) secrets: Option<Vec<RawSecret>>,
    /// What a challenge of the provider must show, such as Meta's `hub.verify_token`. Without it such a challenge is
    /// not answered.
    pub(super) verify_token: Option<RawReference>,
    /// `false`: observe. Verdicts are logged and counted, and the request is passed on.
    pub(super) enforce: Option<bool>,
    /// Methods taken.
    pub(super) methods: Option<Vec<Text<Method>>>,
    /// Longest body taken.
    pub(super) max_body_bytes: Option<Size>,
    /// If given, other event types are acknowledged and dropped.
    pub(super) events: Option<Vec<Text<Name>>>,
    /// JSON pointer: events with the same value reach the application in the order they were acknowledged.
    pub(super) order_by: Option<Text<Pointer>>,
    /// For providers that sign the URL: scheme, host, port, path; the request's own query is appended.
    pub(super) public_url: Option<Text<PublicUrl>>,
    /// Networks the sender may come from; empty: any.
    pub(super) allow_from: Option<Vec<Text<IpNet>>>,
    /// `[app]` for this route.
    pub(super) app: RawApp,
    /// `[ack]` for this route.
    pub(super) ack: RawAck,
    /// `[dedup]` for this route.
    pub(super) dedup: RawRouteDedup,
    /// `[delivery]` for this route.
    pub(super) delivery: RawDelivery,
}

/// `[dedup]` for one route.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRouteDedup {
    /// How long an event is remembered, from its acceptance.
    pub(super) ttl: Option<Text<Duration>>,
}

/// Where a secret is read from: exactly one of `env`, `file`, `credential` and `literal`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawSecret {
    /// An environment variable.
    pub(super) env: Option<Text<Name>>,
    /// A file, relative to the one that names it.
    pub(super) file: Option<Text<Name>>,
    /// A systemd credential: a file in `$CREDENTIALS_DIRECTORY`.
    pub(super) credential: Option<Text<Name>>,
    /// The secret itself. For development only.
    pub(super) literal: Option<Hidden>,
    /// From this moment on it is no longer tried.
    pub(super) until: Option<Text<Timestamp>>,
}

/// Where a token, a password, a user or an address is read from: exactly one of `env`, `file`, `credential` and `literal`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawReference {
    /// An environment variable.
    pub(super) env: Option<Text<Name>>,
    /// A file, relative to the one that names it.
    pub(super) file: Option<Text<Name>>,
    /// A systemd credential: a file in `$CREDENTIALS_DIRECTORY`.
    pub(super) credential: Option<Text<Name>>,
    /// The text itself. For development only.
    pub(super) literal: Option<Hidden>,
}

/// Where a secret may be read from; exactly one is to be given.
#[derive(Clone, Copy)]
pub(super) struct RawPlaces<'a> {
    pub(super) env: Option<&'a Text<Name>>,
    pub(super) file: Option<&'a Text<Name>>,
    pub(super) credential: Option<&'a Text<Name>>,
    pub(super) literal: Option<&'a Hidden>,
}

impl<'a> From<&'a RawSecret> for RawPlaces<'a> {
    fn from(raw: &'a RawSecret) -> Self {
        let RawSecret { env, file, credential, literal, until: _ } = raw;
        Self { env: env.as_ref(), file: file.as_ref(), credential: credential.as_ref(), literal: literal.as_ref() }
    }
}

impl<'a> From<&'a RawReference> for RawPlaces<'a> {
    fn from(raw: &'a RawReference) -> Self {
        let RawReference { env, file, credential, literal } = raw;
        Self { env: env.as_ref(), file: file.as_ref(), credential: credential.as_ref(), literal: literal.as_ref() }
    }
}

/// Text that `Debug` does not show.
#[derive(Deserialize, JsonSchema)]
pub(super) struct Hidden(pub(super) String);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hidden(..)")
    }
}

/// How waits between attempts grow.
#[derive(Debug)]
pub(super) enum RawRetries {
    /// By a factor.
    Growing(RawGrowing),
    /// As listed.
    Listed(Vec<Text<Duration>>),
}

impl<'de> Deserialize<'de> for RawRetries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RetriesVisitor)
    }
}

struct RetriesVisitor;

impl<'de> Visitor<'de> for RetriesVisitor {
    type Value = RawRetries;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table such as { first = \"1s\", attempts = 20 }, or a list of durations")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        RawGrowing::deserialize(MapAccessDeserializer::new(map)).map(RawRetries::Growing)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(seq)).map(RawRetries::Listed)
    }
}

impl JsonSchema for RawRetries {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RawRetries".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let growing = generator.subschema_for::<RawGrowing>();
        let listed = generator.subschema_for::<Vec<Text<Duration>>>();
        json_schema!({ "anyOf": [growing, listed] })
    }
}

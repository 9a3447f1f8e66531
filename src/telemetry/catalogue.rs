//! The metrics catalogue: every metric's name, type, labels, help and buckets, and the closed lists of label words.
//!
//! It holds no values and registers nothing: `metrics.rs` does. `docs/METRICS.md` is checked against this file.

use crate::domain::fault::Fault;
use crate::domain::refusal::Refusal;

/// What kind of metric it is, with the upper bounds of the buckets of a histogram.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution over these upper bounds, in the unit that the name ends with.
    Histogram(&'static [f64]),
}

impl Kind {
    /// The word of the exposition format.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Name without the `hookgate_` prefix.
    pub name: &'static str,
    /// Type.
    pub kind: Kind,
    /// Label names in the order in which values are given.
    pub labels: &'static [&'static str],
    /// One sentence for the reader of `/metrics`.
    pub help: &'static str,
}

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Spec {
    Spec { name, kind: Kind::Counter, labels, help }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Spec {
    Spec { name, kind: Kind::Gauge, labels, help }
}

const fn histogram(
    name: &'static str,
    buckets: &'static [f64],
    labels: &'static [&'static str],
    help: &'static str,
) -> Spec {
    Spec { name, kind: Kind::Histogram(buckets), labels, help }
}

/// First byte to reply: fine where a healthy gateway lives, up to the 30 s that senders commonly allow.
const ACK_SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0];
/// One attempt, up to the default `app.attempt_timeout`.
const ATTEMPT_SECONDS: &[f64] = &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Age of an event when it arrives; below zero where the sender's clock is ahead of ours.
const AGE_SECONDS: &[f64] =
    &[-300.0, -60.0, -30.0, -5.0, 0.0, 1.0, 5.0, 15.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 21_600.0, 86_400.0];
/// Body sizes up to well past the default `max_body_bytes` of 1 MiB.
const BODY_BYTES: &[f64] = &[256.0, 1024.0, 4096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 4_194_304.0];
/// A question to the dedup store; its default timeout of 50 ms is a bound.
const STORE_SECONDS: &[f64] = &[0.000_05, 0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5];
/// A commit: a good disk to a stalled one.
const COMMIT_SECONDS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];
/// Receipt to acceptance of what went through the spool, up to the default `spool.max_age` of three days.
const LATENCY_SECONDS: &[f64] =
    &[0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 10_800.0, 43_200.0, 86_400.0, 259_200.0];

/// Every metric of the gateway except `process_*`, in the order of `docs/METRICS.md`.
pub const CATALOGUE: &[Spec] = &[
    gauge("build_info", &["version", "revision"], "Always 1; the labels say what runs."),
    counter("requests_total", &["route", "disposition"], "Requests answered; each has exactly one disposition."),
    counter("refusals_total", &["route", "reason"], "Requests answered refused or unavailable, by reason."),
    counter("observed_refusals_total", &["route", "reason"], "Requests a route with enforce = false would refuse."),
    counter("secret_matches_total", &["route", "secret"], "Signatures that matched, by the secret's position."),
    counter("signed_time_missing_total", &["route"], "Verified events without the signed time the scheme names."),
    histogram("ack_duration_seconds", ACK_SECONDS, &["route", "disposition"], "First byte of the request to reply."),
    gauge("ack_budget_seconds", &["route"], "What the sender allows, as configured."),
    counter("ack_budget_exceeded_total", &["route"], "Replies that left later than the sender allows."),
    histogram("event_age_seconds", AGE_SECONDS, &["route"], "Sender's time to arrival; negative: its clock is ahead."),
    histogram("request_body_bytes", BODY_BYTES, &["route"], "Body sizes of requests read to their end."),
    counter("dedup_checks_total", &["store", "result"], "Claims asked of a dedup store, by answer."),
    histogram("dedup_duration_seconds", STORE_SECONDS, &["store", "op"], "Time a dedup store took to answer."),
    gauge("dedup_store_up", &["store"], "1 if the configured dedup store answers."),
    counter(
        "dedup_fallback_seconds_total",
        &[],
        "Time for which Redis counted as down and dedup.on_store_down decided.",
    ),
    gauge("dedup_store_evicts", &[], "1 while Redis gives up keys, and with them claims, when its memory is full."),
    gauge(
        "dedup_marks_waiting",
        &[],
        "Marks for which nobody waits that were waiting when Redis was last told of some.",
    ),
    gauge("dedup_repairs_pending", &[], "Marks and releases that Redis missed and has yet to be told."),
    counter("dedup_repairs_dropped_total", &[], "Marks and releases that Redis is never told: too many were waiting."),
    counter(
        "dedup_local_marks_dropped_total",
        &[],
        "Marks in memory given up at their bound before they were on disk.",
    ),
    counter("attempts_total", &["route", "outcome"], "Sendings to the application, by outcome."),
    histogram("attempt_duration_seconds", ATTEMPT_SECONDS, &["route"], "Duration of one sending to the application."),
    gauge("attempts_in_flight", &["route"], "Sendings to the application running now; bound: app.max_in_flight."),
    counter("possible_duplicates_total", &["route"], "Sendings marked Hookgate-Possible-Duplicate."),
    gauge("app_up", &["route"], "1 if the application is taken to be up (its breaker is closed)."),
    gauge("spool_events", &["route", "state"], "Events on disk; pending includes those with a running attempt."),
    gauge("spool_bytes", &[], "Bytes that events on disk take."),
    gauge("spool_capacity_bytes", &[], "Bytes the spool may take, as configured."),
    gauge("spool_disk_free_bytes", &[], "Bytes that the file system of the spool has left."),
    gauge("spool_min_free_bytes", &[], "Bytes of it that are left to others: with less, events find no room."),
    gauge("spool_dead_bytes", &[], "Bytes that dead letters take of the spool."),
    gauge("spool_dead_capacity_bytes", &[], "Bytes of the spool past which no copy of a rejected event is kept."),
    gauge("spool_oldest_event_timestamp_seconds", &["route"], "When the oldest pending event came; 0: none pending."),
    histogram("spool_commit_duration_seconds", COMMIT_SECONDS, &[], "Time a commit to stable storage took."),
    counter("spool_errors_total", &["op"], "Operations on the spool that failed, and damage that was found."),
    gauge("spool_salvage_files", &[], "Damaged database files that are being salvaged or wait for it."),
    counter(
        "spool_salvaged_total",
        &["what"],
        "What was taken over from damaged database files, and what could not be.",
    ),
    counter("deliveries_total", &["route"], "Events from the spool that the application accepted."),
    counter("dead_letters_total", &["route", "reason"], "Events that became dead letters."),
    counter(
        "dead_letter_copies_lost_total",
        &["route"],
        "Rejected events of which no copy was kept: no room, or no disk.",
    ),
    histogram("delivery_latency_seconds", LATENCY_SECONDS, &["route"], "Receipt to acceptance of spooled events."),
    counter("replays_total", &["route"], "Events sent again because an operator asked."),
    gauge("connections", &[], "Open connections of senders; one of HTTP/2 counts as three."),
    gauge("connections_capacity", &[], "server.max_connections."),
    counter("connections_turned_away_total", &[], "Connections answered 503 because none could be closed for them."),
    counter(
        "forgers_turned_away_total",
        &[],
        "Requests answered 503 because their source sent too many bad signatures.",
    ),
    counter("http2_refused_total", &["reason"], "Connections and requests of HTTP/2 ended before a request was read."),
    counter("tls_handshake_failures_total", &["reason"], "TLS handshakes of senders that came to nothing."),
    gauge(
        "tls_certificate_not_after_timestamp_seconds",
        &["certificate"],
        "When the certificate in use ceases to be valid, by its file; only with server.tls.",
    ),
    gauge(
        "tls_last_reload_successful",
        &[],
        "1 if the TLS files could be used when they last changed, or there are none.",
    ),
    gauge("buffered_bytes", &[], "Bytes in memory that count against server.max_buffered_bytes, bodies above all."),
    gauge("buffered_bytes_capacity", &[], "server.max_buffered_bytes."),
    gauge("buffered_share_bytes", &["use"], "Those of them that are no bodies of requests, by what they are."),
    counter("buffered_full_total", &["use"], "Times that there was no room for more, by what it was for."),
    gauge("refused_kept_bytes", &[], "Bytes of refused requests kept in memory to be explained; bound: 8 MiB."),
    gauge("config_last_reload_successful", &[], "1 if the last load of the configuration succeeded."),
    gauge("config_last_reload_timestamp_seconds", &[], "When the configuration in force was loaded."),
    gauge("secrets_loaded_timestamp_seconds", &["route"], "When the route's secrets were last read."),
    gauge("clock_suspect", &[], "1 while this machine's clock disagrees with its senders."),
    counter(
        "log_lines_dropped_total",
        &[],
        "Log lines not written: held back by rate limits, or the reader of stderr stalls.",
    ),
    counter("http_server_errors_total", &[], "Errors the HTTP server reported; their text is withheld from the log."),
];

/// `disposition` of requests, `outcome` of attempts: see the domain. `store`: the dedup stores there are.
pub const STORES: [&str; 2] = ["embedded", "redis"];
/// `result` of a claim.
pub const DEDUP_RESULTS: [&str; 5] = ["new", "duplicate", "in_flight", "conflict", "error"];
/// `op` on a dedup store.
pub const DEDUP_OPS: [&str; 5] = ["claim", "mark", "release", "peek", "forget"];
/// `state` of an event on disk.
pub const SPOOL_STATES: [&str; 2] = ["pending", "dead"];
/// `op` on the spool; `damage` is a record that fails its checksum, or a whole file.
pub const SPOOL_OPS: [&str; 6] = ["open", "commit", "read", "checkpoint", "recover", "damage"];
/// `what` came over from a damaged database, or could not be read.
pub const SALVAGED: [&str; 3] = ["event", "mark", "unreadable_page"];
/// `use` of bytes in memory that have a share of the bound.
pub const BUFFER_SHARES: [&str; 4] = ["heads", "answers", "passages", "backlog"];
/// `use` of bytes in memory that has none: it may take the whole bound.
pub const BUFFER_WHOLE: &str = "bodies";
/// `reason` of a connection or request of HTTP/2 that was ended before a request was read.
pub const HTTP2_REFUSALS: [&str; 9] = [
    "no_place",
    "late_head",
    "reply_not_taken",
    "protocol_error",
    "resets",
    "empty_frames",
    "control_frames",
    "priority_frames",
    "window_updates",
];
/// `reason` of a TLS handshake that came to nothing.
pub const TLS_FAILURES: [&str; 2] = ["failed", "timeout"];
/// `reason` of a dead letter.
pub const DEAD_REASONS: [&str; 3] = ["app_rejected", "attempts_exhausted", "too_old"];

/// `reason` of a refusal: what the sender did, then what we did.
pub fn refusal_reasons() -> impl Iterator<Item = &'static str> {
    Refusal::ALL.into_iter().map(Refusal::as_str).chain(Fault::ALL.into_iter().map(Fault::as_str))
}

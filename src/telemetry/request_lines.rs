//! The line that each answered request leaves in the log. As JSON the log's own thread writes it, many in a row: who answers
//! a request only hands over what it came to. For people it is an event like any other.
//!
//! Which requests have a line is decided here and by `sampling`; how other events look is `logs`' affair.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::json::quote;
use super::recent::Answered;
use super::sampling::Sampling;
use super::sink::Sink;

/// Who the lines say they come from.
const TARGET: &str = "hookgate::gateway::exchange";

/// Writes the lines of answered requests. Clones write into the same log.
#[derive(Clone)]
pub struct RequestLines {
    way: Way,
    /// Whether the log's level lets them through.
    heard: Arc<AtomicBool>,
}

#[derive(Clone)]
enum Way {
    /// As JSON, by the log's thread.
    Json { sink: Sink, sampling: Sampling },
    /// As events, in the format for people.
    Events,
}

impl RequestLines {
    /// Lines as JSON; `sampling` is asked about those that were refused.
    pub(super) fn json(sink: Sink, sampling: Sampling) -> Self {
        Self { way: Way::Json { sink, sampling }, heard: Arc::default() }
    }

    /// Lines that are formatted like all others.
    pub(super) fn events() -> Self {
        Self { way: Way::Events, heard: Arc::default() }
    }

    /// Whether there are lines from now on.
    pub(super) fn hear(&self, heard: bool) {
        self.heard.store(heard, Ordering::Relaxed);
    }

    /// Has a line written.
    pub(super) fn put(&self, answered: Arc<Answered>) {
        if !self.heard.load(Ordering::Relaxed) {
            return;
        }
        match &self.way {
            Way::Json { sink, sampling } => {
                let kind = answered.reason.map(|reason| (answered.route.to_string(), reason.to_owned()));
                if kind.is_none_or(|kind| sampling.lets_through(kind, Instant::now())) {
                    sink.put_request(answered);
                }
            }
            Way::Events => event(&answered),
        }
    }
}

impl std::fmt::Debug for RequestLines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RequestLines(..)")
    }
}

/// Writes the line behind `text`, its end included.
pub(super) fn write_json(text: &mut String, answered: &Answered) {
    // Writing to a string does not fail.
    let _written = write!(
        text,
        r#"{{"ts":"{}","level":"info","msg":"request","target":"{TARGET}","route":"#,
        answered.answered_at
    );
    quote(text, &answered.route);
    text.push_str(r#","disposition":"#);
    quote(text, answered.disposition);
    if let Some(reason) = answered.reason {
        text.push_str(r#","reason":"#);
        quote(text, reason);
    }
    let _written = write!(text, r#","status":{}"#, answered.status);
    if let Some(event) = answered.event {
        let _written = write!(text, r#","event":"{event}""#);
    }
    if let Some(event_type) = &answered.event_type {
        text.push_str(r#","event_type":"#);
        quote(text, event_type);
    }
    text.push_str(r#","request_id":"#);
    quote(text, &answered.request_id);
    let _written = writeln!(
        text,
        r#","remote":"{}","body_bytes":{},"ack_ms":{},"taken":{}}}"#,
        answered.remote, answered.body_bytes, answered.ack_ms, answered.taken
    );
}

fn event(answered: &Answered) {
    tracing::info!(
        target: TARGET,
        route = &*answered.route,
        disposition = answered.disposition,
        reason = answered.reason,
        status = answered.status,
        event = answered.event.map(|id| id.to_string()),
        event_type = answered.event_type,
        request_id = answered.request_id,
        remote = %answered.remote,
        body_bytes = answered.body_bytes,
        ack_ms = answered.ack_ms,
        taken = answered.taken,
        "request"
    );
}

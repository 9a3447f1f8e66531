//! The line that each answered request leaves in the log. As JSON the log's own thread writes it, many in a row: who answers
//! a request only hands over what it came to. For people it is an event like any other.
//!
//! Which requests have a line is decided here and by `sampling`; how other events look is `logs`' affair.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use uuid::Uuid;

use super::json::quote;
use super::recent::Answered;
use super::sampling::Sampling;
use super::sink::Sink;
use crate::domain::message::{LONGEST, digits};

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

/// Writes the line behind `text`, its end included. Piece by piece and not by format strings, which take several times as long.
pub(super) fn write_json(text: &mut String, answered: &Answered) {
    text.push_str(r#"{"ts":""#);
    // Writing to a string does not fail.
    let _written = write!(text, "{}", answered.answered_at);
    text.push_str(r#"","level":"info","msg":"request","target":""#);
    text.push_str(TARGET);
    text.push_str(r#"","route":"#);
    quote(text, &answered.route);
    text.push_str(r#","disposition":"#);
    quote(text, answered.disposition);
    if let Some(reason) = answered.reason {
        text.push_str(r#","reason":"#);
        quote(text, reason);
    }
    text.push_str(r#","status":"#);
    number(text, u64::from(answered.status));
    if let Some(event) = answered.event {
        text.push_str(r#","event":""#);
        text.push_str(event.0.hyphenated().encode_lower(&mut Uuid::encode_buffer()));
        text.push('"');
    }
    if let Some(event_type) = &answered.event_type {
        text.push_str(r#","event_type":"#);
        quote(text, event_type);
    }
    text.push_str(r#","request_id":"#);
    quote(text, &answered.request_id);
    text.push_str(r#","remote":""#);
    address(text, answered.remote);
    text.push_str(r#"","body_bytes":"#);
    number(text, answered.body_bytes);
    text.push_str(r#","ack_ms":"#);
    number(text, answered.ack_ms);
    text.push_str(if answered.taken { ",\"taken\":true}\n" } else { ",\"taken\":false}\n" });
}

fn number(text: &mut String, number: u64) {
    text.push_str(digits(number, &mut [0; LONGEST]));
}

fn address(text: &mut String, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            number(text, u64::from(a));
            for octet in [b, c, d] {
                text.push('.');
                number(text, u64::from(octet));
            }
        }
        IpAddr::V6(address) => {
            let _written = write!(text, "{address}");
        }
    }
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

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::domain::event::EventId;
    use crate::domain::time::Timestamp;

    #[test]
    fn numbers_and_addresses_are_written_as_everybody_writes_them() {
        for value in [0, 7, 10, 99, 200, 65_535, u64::MAX] {
            let mut text = String::new();
            number(&mut text, value);
            assert_eq!(text, value.to_string());
        }
        for wanted in [
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V4(Ipv4Addr::new(203, 0, 113, 255)),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ] {
            let mut text = String::new();
            address(&mut text, wanted);
            assert_eq!(text, wanted.to_string());
        }
    }

    #[test]
    fn a_line_is_one_json_object_with_every_member_that_there_is() {
        let event = EventId::new(Timestamp::from_seconds(1_760_000_000), 7 << 64);
        let mut answered = Answered {
            received_at: Timestamp::from_seconds(1_760_000_000),
            route: "veedeo".into(),
            event: Some(event),
            event_type: Some("a\"b".to_owned()),
            disposition: "delivered",
            reason: None,
            status: 200,
            answered_at: Timestamp::from_millis(1_760_000_000_123),
            ack_ms: 3,
            remote: IpAddr::from([127, 0, 0, 1]),
            request_id: "r-1".to_owned(),
            body_bytes: 1024,
            taken: true,
        };
        let written = |answered: &Answered| {
            let mut text = String::new();
            write_json(&mut text, answered);
            text
        };
        let expected = format!(
            "{{\"ts\":\"2025-10-09T08:53:20.123Z\",\"level\":\"info\",\"msg\":\"request\",\"target\":\"{TARGET}\",\
             \"route\":\"veedeo\",\"disposition\":\"delivered\",\"status\":200,\"event\":\"{event}\",\
             \"event_type\":\"a\\\"b\",\"request_id\":\"r-1\",\"remote\":\"127.0.0.1\",\"body_bytes\":1024,\
             \"ack_ms\":3,\"taken\":true}}\n"
        );
        assert_eq!(written(&answered), expected);
        (answered.event, answered.event_type, answered.reason, answered.taken) = (None, None, Some("stale"), false);
        let line: serde_json::Value = serde_json::from_str(&written(&answered)).expect("an object");
        assert_eq!((&line["reason"], &line["taken"]), (&"stale".into(), &false.into()));
        assert!(line.get("event").is_none() && line.get("event_type").is_none());
    }
}

//! Events as JSON, for the API and for the commands that read a stopped gateway's spool: one shape for both. Whatever
//! proves a sender (a signature, a token) is replaced before it gets here into any answer.

use std::fmt;

use data_encoding::{BASE64, HEXLOWER};
use http::{HeaderName, HeaderValue};
use serde::Serialize;

use super::query::DAMAGED;
use crate::domain::event::Event;
use crate::domain::headers::Headers;
use crate::domain::scheme::Carries;
use crate::spool::{DeadReason, Listed, State, Stored};

/// What stands in the place of a value that must not be shown.
pub const REDACTED: &str = "(redacted)";

/// A dead letter, one line of `dlq list --json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DeadLetter {
    /// The event.
    pub id: String,
    /// The route that received it.
    pub route: String,
    /// Its `Hookgate-Key`.
    pub key: String,
    /// Why it is dead; `damaged`, if it is not what was written.
    pub reason: Option<&'static str>,
    /// Attempts made.
    pub attempts: u32,
    /// RFC 3339.
    pub received_at: String,
    /// What the last attempt ended with.
    pub last_error: String,
    /// Length of its body.
    pub body_bytes: u64,
    /// SHA-256 of its body, in hex.
    pub body_sha256: String,
}

impl DeadLetter {
    /// The line of a listed event.
    #[must_use]
    pub fn of(listed: &Listed) -> Self {
        Self {
            id: listed.id.to_string(),
            route: listed.route.to_string(),
            key: listed.key.to_hex(),
            reason: reason(listed),
            attempts: listed.attempts,
            received_at: listed.received_at.to_string(),
            last_error: listed.last_error.clone(),
            body_bytes: listed.body_bytes,
            body_sha256: HEXLOWER.encode(&listed.body_sha256),
        }
    }
}

/// Why an event is dead, or that it is damaged.
pub(super) fn reason(listed: &Listed) -> Option<&'static str> {
    if listed.state == State::Damaged { Some(DAMAGED) } else { listed.reason.map(DeadReason::as_str) }
}

/// How many records an export left out because they are not what was written, as a trailer (RFC 9110 section 6.5) for who
/// asks with `TE: trailers`. It comes behind a whole export alone.
pub const LEFT_OUT: &str = "hookgate-left-out";

/// A dead letter with what it takes to send it from elsewhere, one line of `dlq export`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Exported {
    /// What a listing says of it.
    #[serde(flatten)]
    pub letter: DeadLetter,
    /// The request.
    #[serde(flatten)]
    pub request: Sent,
    /// The body, in base64.
    pub body_b64: String,
}

impl Exported {
    /// The line of a stored event.
    #[must_use]
    pub fn of(listed: &Listed, stored: &Stored, show: &Show<'_>) -> Self {
        let body_b64 = BASE64.encode(&stored.event.body);
        Self { letter: DeadLetter::of(listed), request: Sent::of(&stored.event, show), body_b64 }
    }
}

/// A request without its body.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sent {
    /// Its method.
    pub method: String,
    /// The address that the sender called; values of query fields that look like a proof are replaced.
    pub url: String,
    /// Its headers; values that prove the sender are replaced.
    pub headers: Vec<(String, String)>,
}

impl Sent {
    /// What an event was sent with.
    #[must_use]
    pub fn of(event: &Event, show: &Show<'_>) -> Self {
        let forwarded = event.headers.get("x-forwarded-proto").and_then(|value| value.to_str().ok());
        let scheme = if forwarded == Some("https") { "https" } else { "http" };
        let url = format!("{scheme}://{}{}", event.authority, without_proofs(&event.target));
        Self { method: event.method.to_string(), url, headers: show.headers(&event.route, &event.headers) }
    }
}

/// Parts of names whose values prove the sender, or may.
const PROOFS: [&str; 14] = [
    "signature",
    "sign",
    "sig",
    "token",
    "secret",
    "auth",
    "cookie",
    "key",
    "hmac",
    "digest",
    "password",
    "jwt",
    "hash",
    "credential",
];

/// Ours, and no proof of anything.
const HARMLESS: [&str; 2] = ["hookgate-key", "idempotency-key"];

fn is_proof(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    !HARMLESS.contains(&name.as_str()) && PROOFS.iter().any(|part| name.contains(part))
}

/// Headers that are shown of a route that is not configured (any more): nobody knows which of its others prove something.
const PUBLIC: [&str; 12] = [
    "accept",
    "accept-encoding",
    "content-encoding",
    "content-length",
    "content-type",
    "date",
    "host",
    "traceparent",
    "user-agent",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
];

/// What becomes of signatures. Secrets are never shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signatures {
    /// They are replaced.
    Hidden,
    /// They are kept, so that the request can be sent from elsewhere as it was.
    Kept,
}

/// What a header of a route carries; `None`: no such route is known.
pub type CarriesOf<'a> = &'a dyn Fn(&str, &HeaderName) -> Option<Carries>;

/// How the headers of events are shown.
#[derive(Clone, Copy)]
pub struct Show<'a> {
    /// What the routes' schemes say.
    pub carries: CarriesOf<'a>,
    /// What becomes of what they call a signature.
    pub signatures: Signatures,
}

impl Show<'_> {
    fn headers(&self, route: &str, headers: &Headers) -> Vec<(String, String)> {
        let line = |(name, value): (&HeaderName, &HeaderValue)| {
            let visible = !value.is_sensitive() && self.is_visible(route, name);
            let text =
                if visible { String::from_utf8_lossy(value.as_bytes()).into_owned() } else { REDACTED.to_owned() };
            (name.as_str().to_owned(), text)
        };
        headers.iter().map(line).collect()
    }

    fn is_visible(&self, route: &str, name: &HeaderName) -> bool {
        match (self.carries)(route, name) {
            Some(Carries::Secret) => false,
            Some(Carries::Signature) => self.signatures == Signatures::Kept,
            Some(Carries::Nothing) => !is_proof(name.as_str()),
            None => PUBLIC.contains(&name.as_str()),
        }
    }
}

/// Path and query with the values of proving fields replaced.
fn without_proofs(target: &str) -> String {
    let Some((path, query)) = target.split_once('?') else { return target.to_owned() };
    let field = |field: &str| match field.split_once('=') {
        Some((name, _)) if is_proof(name) => format!("{name}={REDACTED}"),
        Some(_) | None => field.to_owned(),
    };
    format!("{path}?{}", query.split('&').map(field).collect::<Vec<_>>().join("&"))
}

/// One object a line, for a stream of them.
pub fn line(value: &impl Serialize) -> Result<String, fmt::Error> {
    serde_json::to_string(value).map(|text| text + "\n").map_err(|_| fmt::Error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_proves_a_sender_is_not_shown() {
        let mut headers = Headers::new();
        for name in ["x-hub-signature-256", "authorization", "x-gitlab-token", "x-api-key", "cookie", "x-sig"] {
            headers.insert(name, HeaderValue::from_static("proof"));
        }
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        headers.insert("x-veedeo-timestamp", HeaderValue::from_static("1"));
        let show = Show { carries: &|_, _| Some(Carries::Nothing), signatures: Signatures::Kept };
        let shown = show.headers("veedeo", &headers);
        assert_eq!(shown.iter().filter(|(_, value)| value == REDACTED).count(), 6);
        assert!(!shown.iter().any(|(_, value)| value == "proof"));
        assert!(shown.contains(&("content-type".into(), "application/json".into())));
        assert!(shown.contains(&("x-veedeo-timestamp".into(), "1".into())));
    }

    #[test]
    fn what_the_scheme_reads_as_a_proof_is_not_shown_whatever_its_name() {
        let mut headers = Headers::new();
        for name in ["x-season", "x-harbour", "x-ship", "content-type"] {
            headers.insert(name, HeaderValue::from_static("value"));
        }
        let carries = |route: &str, name: &HeaderName| match (route, name.as_str()) {
            ("known", "x-season") => Some(Carries::Secret),
            ("known", "x-harbour") => Some(Carries::Signature),
            ("known", _) => Some(Carries::Nothing),
            (_, _) => None,
        };
        let visible = |route: &str, signatures| {
            let shown = Show { carries: &carries, signatures }.headers(route, &headers);
            let whole = shown.into_iter().filter(|(_, value)| value == "value").map(|(name, _)| name);
            whole.collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>()
        };
        assert_eq!(visible("known", Signatures::Hidden), ["content-type", "x-ship"]);
        assert_eq!(visible("known", Signatures::Kept), ["content-type", "x-harbour", "x-ship"], "a secret never is");
        assert_eq!(visible("gone", Signatures::Kept), ["content-type"], "nobody knows what the others are");
    }

    #[test]
    fn a_token_in_the_query_is_not_shown() {
        assert_eq!(without_proofs("/hook?a=1&Token=x&b"), "/hook?a=1&Token=(redacted)&b");
        assert_eq!(without_proofs("/token=x"), "/token=x");
    }
}

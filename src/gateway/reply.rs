//! What the sender reads: a settled request as status, headers and body. It decides nothing.

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderName, HeaderValue, StatusCode};

use crate::domain::fault::Fault;
use crate::domain::headers::Headers;
use crate::domain::outcome::{AppAnswer, HandshakeReply, Settled};
use crate::domain::refusal::Refusal;
use crate::domain::route::Route;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const DUPLICATE: &[u8] = br#"{"received":true,"duplicate":true}"#;

/// A reply ready to be written.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its headers, without framing.
    pub headers: Headers,
    /// Its body.
    pub body: Bytes,
}

impl Reply {
    /// The reply to a settled request of `route`; `None`: no configured route.
    #[must_use]
    pub fn of(settled: Settled, route: Option<&Route>) -> Self {
        match settled {
            Settled::Delivered(answer) | Settled::AppFailed(Ok(answer)) => Self::relayed(answer),
            Settled::AppRejected(answer) => Self::rejected(answer),
            Settled::AppFailed(Err(status)) => Self::failed(status),
            Settled::Spooled | Settled::Filtered => Self::acknowledgement(route),
            Settled::Duplicate if route.is_some_and(is_read_as_text) => Self::acknowledgement(route),
            Settled::Duplicate => {
                let status = route.map_or(StatusCode::OK, |route| route.ack.reply.status);
                Self::json(status, DUPLICATE)
            }
            Settled::Handshake(reply) => Self::handshake(reply),
            Settled::Refused(refusal) => Self::refused(refusal, route),
            Settled::Unavailable(fault) => Self::unavailable(fault),
        }
    }

    /// An interim answer is none: relayed, it would have the sender wait for the rest or change the protocol.
    fn relayed(answer: AppAnswer) -> Self {
        if answer.status.is_informational() {
            return Self::failed(StatusCode::BAD_GATEWAY);
        }
        Self { status: answer.status, headers: answer.headers, body: answer.body }
    }

    /// A 410 would make some providers cancel the subscription: the sender gets a 404 in its place.
    fn rejected(answer: AppAnswer) -> Self {
        let status = if answer.status == StatusCode::GONE { StatusCode::NOT_FOUND } else { answer.status };
        Self { status, headers: answer.headers, body: answer.body }
    }

    fn failed(status: StatusCode) -> Self {
        Self::json(status, br#"{"error":"The application did not answer"}"#)
    }

    fn acknowledgement(route: Option<&Route>) -> Self {
        let Some(route) = route else { return Self::json(StatusCode::OK, br#"{"received":true}"#) };
        let reply = &route.ack.reply;
        let mut headers = Headers::new();
        if let Ok(content_type) = HeaderValue::from_str(&reply.content_type) {
            headers.insert(CONTENT_TYPE, content_type);
        }
        Self { status: reply.status, headers, body: reply.body.clone() }
    }

    fn handshake(reply: HandshakeReply) -> Self {
        let mut headers = Headers::new();
        for (name, value) in reply.headers {
            if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(&value)) {
                headers.insert(name, value);
            }
        }
        if let Ok(content_type) = HeaderValue::from_str(&reply.content_type) {
            headers.insert(CONTENT_TYPE, content_type);
        }
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Self { status: reply.status, headers, body: reply.body }
    }

    fn refused(refusal: Refusal, route: Option<&Route>) -> Self {
        let mut reply = Self::json(refusal.status(), error_body(refusal.message(), refusal.as_str()).as_bytes());
        if let (Refusal::MethodNotAllowed, Some(route)) = (refusal, route) {
            let methods: Vec<&str> = route.methods.iter().map(http::Method::as_str).collect();
            if let Ok(allow) = HeaderValue::from_str(&methods.join(", ")) {
                reply.headers.insert(ALLOW, allow);
            }
        }
        reply
    }

    fn unavailable(fault: Fault) -> Self {
        let body = error_body(fault.message(), fault.as_str());
        let mut reply = Self::json(StatusCode::SERVICE_UNAVAILABLE, body.as_bytes());
        reply.headers.insert(RETRY_AFTER, HeaderValue::from(fault.retry_after_seconds()));
        reply
    }

    fn json(status: StatusCode, body: &[u8]) -> Self {
        let mut headers = Headers::new();
        headers.insert(CONTENT_TYPE, JSON);
        Self { status, headers, body: Bytes::copy_from_slice(body) }
    }

    /// Whether the status forbids a body (RFC 9110 section 6.4.1).
    #[must_use]
    pub fn is_bodiless(&self) -> bool {
        matches!(self.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED | StatusCode::RESET_CONTENT)
    }

    /// The value of `Content-Length`; a 204 and a 304 have none, a 205 says 0 (RFC 9110 section 8.6 and 15.3.6).
    #[must_use]
    pub fn content_length(&self) -> Option<usize> {
        match self.status {
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => None,
            StatusCode::RESET_CONTENT => Some(0),
            _ => Some(self.body.len()),
        }
    }
}

/// Whether the provider reads the text of its acknowledgement, as Adyen does its `[accepted]` and Xero that there is none:
/// for a duplicate it waits for the same words, and repeats itself until it sees them.
fn is_read_as_text(route: &Route) -> bool {
    let asked = route.scheme.as_written().about.as_ref().and_then(|about| about.reply.as_ref());
    let text = asked.map(|reply| reply.body.as_deref().unwrap_or_default().as_bytes());
    text.is_some_and(|text| !text.starts_with(b"{") && text == route.ack.reply.body)
}

fn error_body(error: &str, reason: &str) -> String {
    format!(r#"{{"error":"{error}","reason":"{reason}"}}"#)
}

/// A refusal as bytes, for a connection whose head never became a request. It closes the connection.
pub(super) fn raw_refusal(refusal: Refusal) -> Vec<u8> {
    raw(refusal.status(), &error_body(refusal.message(), refusal.as_str()), "")
}

/// A fault as bytes, for a connection that is not let in. It closes the connection.
pub(super) fn raw_fault(fault: Fault) -> Vec<u8> {
    let retry = format!("Retry-After: {}\r\n", fault.retry_after_seconds());
    raw(StatusCode::SERVICE_UNAVAILABLE, &error_body(fault.message(), fault.as_str()), &retry)
}

fn raw(status: StatusCode, body: &str, extra: &str) -> Vec<u8> {
    let reason = status.canonical_reason().unwrap_or_default();
    format!(
        "HTTP/1.1 {} {reason}\r\n{CONTENT_TYPE}: application/json\r\n{CONTENT_LENGTH}: {}\r\n{extra}Connection: close\r\n\r\n{body}",
        status.as_u16(),
        body.len(),
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_410_of_the_application_becomes_a_404_and_other_rejections_stay() {
        let answer = |status| AppAnswer { status, headers: Headers::new(), body: Bytes::new() };
        assert_eq!(Reply::of(Settled::AppRejected(answer(StatusCode::GONE)), None).status, StatusCode::NOT_FOUND);
        assert_eq!(Reply::of(Settled::AppRejected(answer(StatusCode::CONFLICT)), None).status, StatusCode::CONFLICT);
    }

    #[test]
    fn an_interim_answer_of_the_application_is_no_answer() {
        for status in [StatusCode::CONTINUE, StatusCode::SWITCHING_PROTOCOLS, StatusCode::PROCESSING] {
            let answer = AppAnswer { status, headers: Headers::new(), body: Bytes::new() };
            assert_eq!(Reply::of(Settled::AppFailed(Ok(answer)), None).status, StatusCode::BAD_GATEWAY);
        }
    }

    #[test]
    fn a_fault_of_ours_is_a_503_with_retry_after_and_its_reason() {
        for fault in Fault::ALL {
            let reply = Reply::of(Settled::Unavailable(fault), None);
            assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
            assert!(reply.headers.contains_key(RETRY_AFTER));
            assert!(String::from_utf8_lossy(&reply.body).contains(fault.as_str()));
        }
    }

    #[test]
    fn a_refusal_reads_as_the_contract_says() {
        let reply = Reply::of(Settled::Refused(Refusal::SignatureMismatch), None);
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
        assert_eq!(&reply.body[..], br#"{"error":"Invalid signature","reason":"signature_mismatch"}"#);
    }
}

//! What became of an attempt and of a request: the application's answers, and what the sender is told.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{DATE, RETRY_AFTER};

use super::fault::Fault;
use super::headers::Headers;
use super::refusal::Refusal;
use super::time::Timestamp;

/// No application can ask for more rest than this, so that a typing error does not silence a route for days.
const LONGEST_REST: Duration = Duration::from_secs(3600);

/// An answer of the application, complete and capped.
#[derive(Clone, Debug)]
pub struct AppAnswer {
    /// Its status.
    pub status: StatusCode,
    /// Its end-to-end headers.
    pub headers: Headers,
    /// Its body as far as it came; cut at the cap.
    pub body: Bytes,
}

/// How one attempt ended. Not an error: the application's doing.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// A 2xx status line came; the application has the event, whatever became of the rest of its answer.
    Accepted(AppAnswer),
    /// A 4xx that repeats will not change.
    Rejected(AppAnswer),
    /// 5xx, 3xx, 408, 421, 425 or 429: not processed, worth another attempt.
    Failed(AppAnswer),
    /// No connection, or it broke before the last byte was written: certainly not processed.
    Unreachable(String),
    /// Everything was written and no status line came: perhaps processed.
    Unknown {
        /// What was seen, for the operator.
        error: String,
        /// Whether it was our `attempt_timeout` that ended it.
        timed_out: Timeout,
    },
}

/// Whether an attempt ended because our patience did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// `attempt_timeout` passed.
    Elapsed,
    /// The connection broke by itself.
    No,
}

impl Outcome {
    /// What an answer with this status means (PROMISES, "Decisions in the subtle cases").
    #[must_use]
    pub fn of_answer(answer: AppAnswer) -> Self {
        match answer.status.as_u16() {
            200..=299 => Self::Accepted(answer),
            408 | 421 | 425 | 429 => Self::Failed(answer),
            400..=499 => Self::Rejected(answer),
            _ => Self::Failed(answer),
        }
    }

    /// The word used in metrics and logs.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Accepted(_) => "accepted",
            Self::Rejected(_) => "rejected",
            Self::Failed(_) | Self::Unknown { timed_out: Timeout::No, .. } => "failed",
            Self::Unreachable(_) => "unreachable",
            Self::Unknown { timed_out: Timeout::Elapsed, .. } => "timeout",
        }
    }

    /// All words of [`Self::as_str`], for metrics that must exist before the first attempt.
    pub const WORDS: [&'static str; 5] = ["accepted", "rejected", "failed", "timeout", "unreachable"];

    /// How long the application asked to be left alone with `Retry-After`, in seconds or as a date (RFC 9110 section
    /// 10.2.3), at most an hour. Only 429 and 503 ask. A date counts from the answer's own `Date`, so that the two clocks
    /// need not agree, and from `now` where there is none.
    #[must_use]
    pub fn retry_after(&self, now: Timestamp) -> Option<Duration> {
        match self {
            Self::Failed(answer) if matches!(answer.status.as_u16(), 429 | 503) => {
                let text = |name| Some(answer.headers.get(name)?.to_str().ok()?.trim());
                let asked = text(RETRY_AFTER)?;
                let rest = if !asked.is_empty() && asked.bytes().all(|byte| byte.is_ascii_digit()) {
                    Duration::from_secs(asked.parse().unwrap_or(u64::MAX))
                } else {
                    let answered = text(DATE).and_then(Timestamp::from_http_date);
                    Timestamp::from_http_date(asked)?.since(answered.unwrap_or(now))
                };
                Some(rest.min(LONGEST_REST))
            }
            Self::Accepted(_) | Self::Rejected(_) | Self::Failed(_) | Self::Unreachable(_) | Self::Unknown { .. } => {
                None
            }
        }
    }

    /// Whether the application may have processed the event although it did not say so.
    #[must_use]
    pub const fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown { .. })
    }

    /// What the operator reads as `last_error`; empty for an accepted event. Holds no byte of a body.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Accepted(_) => String::new(),
            Self::Rejected(answer) | Self::Failed(answer) => format!("the application answered {}", answer.status),
            Self::Unreachable(error) | Self::Unknown { error, .. } => error.clone(),
        }
    }
}

/// What the sender's request ended as; one per request, in the reply, the metrics and the log.
#[derive(Clone, Debug)]
pub enum Settled {
    /// The application answered 2xx in time.
    Delivered(AppAnswer),
    /// The application answered 4xx and the answer is passed on.
    AppRejected(AppAnswer),
    /// The application failed and that is passed on: its answer, or 502 or 504 in its place.
    AppFailed(Result<AppAnswer, StatusCode>),
    /// The event is safe on disk.
    Spooled,
    /// The event was seen within the ttl.
    Duplicate,
    /// Its type is not among the wanted ones.
    Filtered,
    /// The provider's challenge, answered by us.
    Handshake(HandshakeReply),
    /// The sender's doing.
    Refused(Refusal),
    /// Our doing.
    Unavailable(Fault),
}

/// Our answer to a provider's challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandshakeReply {
    /// Its status, a 2xx.
    pub status: StatusCode,
    /// `Content-Type`.
    pub content_type: String,
    /// Further headers that the provider wants to see.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

impl Settled {
    /// The disposition: the word used in metrics and logs.
    #[must_use]
    pub const fn disposition(&self) -> &'static str {
        match self {
            Self::Delivered(_) => "delivered",
            Self::AppRejected(_) => "app_rejected",
            Self::AppFailed(_) => "app_failed",
            Self::Spooled => "spooled",
            Self::Duplicate => "duplicate",
            Self::Filtered => "filtered",
            Self::Handshake(_) => "handshake",
            Self::Refused(_) => "refused",
            Self::Unavailable(_) => "unavailable",
        }
    }

    /// All words of [`Self::disposition`] and `passthrough`, for metrics that must exist before the first request.
    pub const DISPOSITIONS: [&'static str; 10] = [
        "delivered",
        "app_rejected",
        "app_failed",
        "spooled",
        "duplicate",
        "filtered",
        "handshake",
        "refused",
        "unavailable",
        "passthrough",
    ];

    /// The reason that goes with it, where there is one.
    #[must_use]
    pub const fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Refused(refusal) => Some(refusal.as_str()),
            Self::Unavailable(fault) => Some(fault.as_str()),
            Self::Delivered(_)
            | Self::AppRejected(_)
            | Self::AppFailed(_)
            | Self::Spooled
            | Self::Duplicate
            | Self::Filtered
            | Self::Handshake(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    /// What an answer with this `Retry-After` and this `Date` asks for at 2025-10-09T08:53:20Z.
    fn rest(status: u16, retry_after: &str, date: &str) -> Option<Duration> {
        let mut headers = Headers::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_str(retry_after).unwrap());
        if !date.is_empty() {
            headers.insert(DATE, HeaderValue::from_str(date).unwrap());
        }
        let answer = AppAnswer { status: StatusCode::from_u16(status).unwrap(), headers, body: Bytes::new() };
        Outcome::of_answer(answer).retry_after(Timestamp::from_seconds(1_760_000_000))
    }

    #[test]
    fn a_rest_is_asked_for_in_seconds_or_until_a_date_in_any_of_three_forms() {
        for (asked, seconds) in [
            ("0", 0),
            ("120", 120),
            (" 7 ", 7),
            ("Thu, 09 Oct 2025 08:54:20 GMT", 60),
            ("Thursday, 09-Oct-25 08:54:20 GMT", 60),
            ("Thu Oct  9 08:54:20 2025", 60),
            ("Thu, 09 Oct 2025 08:53:20 GMT", 0),
            // Long past, and far in the future: no rest, and the longest.
            ("Sun, 06 Nov 1994 08:49:37 GMT", 0),
            ("Fri, 31 Dec 9999 23:59:59 GMT", 3600),
            ("86400", 3600),
            ("99999999999999999999999999", 3600),
        ] {
            for status in [429, 503] {
                assert_eq!(rest(status, asked, ""), Some(Duration::from_secs(seconds)), "{status} {asked:?}");
            }
        }
    }

    #[test]
    fn a_date_counts_by_the_applications_clock_where_that_is_known() {
        let asked = "Thu, 09 Oct 2025 08:54:20 GMT";
        let minutes = |count: u64| Some(Duration::from_secs(60 * count));
        assert_eq!(rest(503, asked, "Thu, 09 Oct 2025 08:52:20 GMT"), minutes(2), "its clock is a minute behind ours");
        assert_eq!(rest(503, asked, "Thu, 09 Oct 2025 09:53:20 GMT"), minutes(0), "its clock is an hour ahead of ours");
        assert_eq!(rest(503, asked, "yesterday"), minutes(1), "by ours");
    }

    #[test]
    fn what_is_neither_seconds_nor_a_date_asks_for_nothing() {
        for asked in [
            "",
            "-1",
            "+5",
            "1.5",
            "soon",
            "Thu, 09 Oct 2025",
            "Thu, 09 Oct 2025 08:54:20",
            "Thu, 09 Oct 2025 08:54:20 CET",
            "Thu, 39 Oct 2025 08:54:20 GMT",
            "2025-10-09T08:54:20Z",
            "Thu, 09 Oct 2025 08:54:20 GMT, 120",
            "1 2",
        ] {
            assert_eq!(rest(503, asked, ""), None, "{asked:?}");
        }
        for status in [200, 404, 500] {
            assert_eq!(rest(status, "120", ""), None, "only 429 and 503 ask: {status}");
        }
    }

    fn answered(status: u16) -> Outcome {
        let status = StatusCode::from_u16(status).unwrap();
        Outcome::of_answer(AppAnswer { status, headers: Headers::new(), body: Bytes::from_static(b"a secret") })
    }

    #[test]
    fn a_status_says_whether_the_event_is_taken_rejected_or_worth_another_attempt() {
        for (status, word) in [
            (101, "failed"),
            (199, "failed"),
            (200, "accepted"),
            (299, "accepted"),
            (300, "failed"),
            (399, "failed"),
            (400, "rejected"),
            (407, "rejected"),
            (408, "failed"),
            (420, "rejected"),
            (421, "failed"),
            (425, "failed"),
            (429, "failed"),
            (499, "rejected"),
            (500, "failed"),
            (999, "failed"),
        ] {
            assert_eq!(answered(status).as_str(), word, "{status}");
        }
    }

    #[test]
    fn the_operator_reads_what_was_seen_and_no_byte_of_a_body() {
        let lost = |timed_out| Outcome::Unknown { error: "nothing came".to_owned(), timed_out };
        for (outcome, word, text) in [
            (answered(200), "accepted", ""),
            (answered(404), "rejected", "the application answered 404 Not Found"),
            (answered(502), "failed", "the application answered 502 Bad Gateway"),
            (Outcome::Unreachable("refused".to_owned()), "unreachable", "refused"),
            (lost(Timeout::No), "failed", "nothing came"),
            (lost(Timeout::Elapsed), "timeout", "nothing came"),
        ] {
            assert_eq!((outcome.as_str(), &*outcome.describe()), (word, text));
            assert!(Outcome::WORDS.contains(&word));
            assert_eq!(outcome.is_unknown(), text == "nothing came", "{word}: only then it may have been processed");
        }
    }

    #[test]
    fn a_reason_goes_with_what_was_refused_and_with_what_is_our_doing() {
        for (settled, disposition, reason) in [
            (Settled::Spooled, "spooled", None),
            (Settled::Duplicate, "duplicate", None),
            (Settled::Filtered, "filtered", None),
            (Settled::AppFailed(Err(StatusCode::BAD_GATEWAY)), "app_failed", None),
            (Settled::Refused(Refusal::NoRoute), "refused", Some("no_route")),
            (Settled::Unavailable(Fault::SpoolFull), "unavailable", Some("spool_full")),
        ] {
            assert_eq!((settled.disposition(), settled.reason()), (disposition, reason));
            assert!(Settled::DISPOSITIONS.contains(&disposition));
        }
    }
}

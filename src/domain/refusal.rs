//! Why a request is the sender's fault: the closed list of reasons that answer 4xx.

use http::StatusCode;

/// The sender's doing. Each has one status, one sentence for the sender and one word for metrics and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// No configured route has this path.
    NoRoute,
    /// The route does not take this method.
    MethodNotAllowed,
    /// The request's framing or head is not acceptable HTTP/1.1.
    BadRequest,
    /// The body is longer than the route's `max_body_bytes`.
    BodyTooLarge,
    /// The head is longer than `server.max_header_bytes`.
    HeaderTooLarge,
    /// Head or body did not arrive within their deadlines.
    RequestTimeout,
    /// The sender's address is not in the route's `allow_from`.
    SourceNotAllowed,
    /// A header or field that carries the signature is absent.
    SignatureMissing,
    /// The header or field that carries the time of sending is absent.
    TimestampMissing,
    /// The signature is not written in the form that the provider documents.
    SignatureMalformed,
    /// No live secret yields this signature over these bytes.
    SignatureMismatch,
    /// A security-relevant header came twice, or too many signatures were offered.
    SignatureRepeated,
    /// The time of sending is not written in the form that the provider documents.
    TimestampMalformed,
    /// The time of sending lies further ahead than tolerated.
    TimestampFuture,
    /// The time of sending lies further back than tolerated.
    TimestampStale,
    /// What is reported happened longer ago than `max_age`.
    EventTooOld,
}

impl Refusal {
    /// All of them, for metrics that must exist before the first request.
    pub const ALL: [Self; 16] = [
        Self::NoRoute,
        Self::MethodNotAllowed,
        Self::BadRequest,
        Self::BodyTooLarge,
        Self::HeaderTooLarge,
        Self::RequestTimeout,
        Self::SourceNotAllowed,
        Self::SignatureMissing,
        Self::TimestampMissing,
        Self::SignatureMalformed,
        Self::SignatureMismatch,
        Self::SignatureRepeated,
        Self::TimestampMalformed,
        Self::TimestampFuture,
        Self::TimestampStale,
        Self::EventTooOld,
    ];

    /// The word used in metrics, logs and the reply's `reason`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoRoute => "no_route",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::BadRequest => "bad_request",
            Self::BodyTooLarge => "body_too_large",
            Self::HeaderTooLarge => "header_too_large",
            Self::RequestTimeout => "request_timeout",
            Self::SourceNotAllowed => "source_not_allowed",
            Self::SignatureMissing => "signature_missing",
            Self::TimestampMissing => "timestamp_missing",
            Self::SignatureMalformed => "signature_malformed",
            Self::SignatureMismatch => "signature_mismatch",
            Self::SignatureRepeated => "signature_repeated",
            Self::TimestampMalformed => "timestamp_malformed",
            Self::TimestampFuture => "timestamp_future",
            Self::TimestampStale => "timestamp_stale",
            Self::EventTooOld => "event_too_old",
        }
    }

    /// The status that the sender gets.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::HeaderTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::SourceNotAllowed => StatusCode::FORBIDDEN,
            Self::SignatureMissing
            | Self::TimestampMissing
            | Self::SignatureMalformed
            | Self::SignatureMismatch
            | Self::SignatureRepeated
            | Self::TimestampMalformed
            | Self::TimestampFuture
            | Self::TimestampStale
            | Self::EventTooOld => StatusCode::UNAUTHORIZED,
        }
    }

    /// The sentence in the reply's `error`.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::NoRoute => "Not found",
            Self::MethodNotAllowed => "Method not allowed",
            Self::BadRequest => "Bad request",
            Self::BodyTooLarge => "Body too large",
            Self::HeaderTooLarge => "Request header too large",
            Self::RequestTimeout => "Request timeout",
            Self::SourceNotAllowed => "Source not allowed",
            Self::SignatureMissing | Self::TimestampMissing => "Missing signature headers",
            Self::SignatureMalformed | Self::SignatureMismatch | Self::SignatureRepeated => "Invalid signature",
            Self::TimestampMalformed | Self::TimestampFuture => "Invalid timestamp",
            Self::TimestampStale | Self::EventTooOld => "Request too old",
        }
    }
}

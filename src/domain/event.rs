//! An event: a verified request with a name. Only [`super::route::Route::admit`] makes one from a request.

use std::fmt;
use std::sync::Arc;

use http::Method;
use uuid::Uuid;

use super::body::Body;
use super::key::EventKey;
use super::time::Timestamp;
use crate::domain::headers::Headers;

/// The event's own name, a `UUIDv7`: `Hookgate-Event`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(pub Uuid);

impl EventId {
    /// An id for an event received `at`, with 74 bits of chance.
    #[must_use]
    pub fn new(at: Timestamp, chance: u128) -> Self {
        let millis = u64::try_from(at.millis()).unwrap_or(0);
        let bytes = chance.to_be_bytes();
        let random: [u8; 10] = std::array::from_fn(|i| bytes.get(i).copied().unwrap_or(0));
        Self(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for EventId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// A verified, fresh, wanted and named event, with everything that is needed to send it.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its own name.
    pub id: EventId,
    /// The route that received it.
    pub route: Arc<str>,
    /// Its name for deduplication.
    pub key: EventKey,
    /// The method to send.
    pub method: Method,
    /// Path and query to send, byte for byte as received.
    pub target: String,
    /// The headers to send: end-to-end ones only, cleaned, with `X-Forwarded-*` and `X-Request-Id` settled, without
    /// `Hookgate-*`, `Content-Length` and `Host` (that is `authority`).
    pub headers: Headers,
    /// The `Host` the sender used.
    pub authority: String,
    /// The body, byte for byte as verified.
    pub body: Body,
    /// When the request's first byte came.
    pub received_at: Timestamp,
    /// When it happened, as far as that is signed.
    pub signed_at: Option<Timestamp>,
    /// Its type, as far as the provider's scheme names one.
    pub event_type: Option<String>,
    /// The value of `order_by`, if the route orders and the body has it.
    pub order_value: Option<String>,
}

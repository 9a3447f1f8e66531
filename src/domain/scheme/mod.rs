//! How providers sign, as data: the scheme language and its one interpreter.

mod raw;

pub use raw::{
    Encoding, Evidence, HashName, KeyEncoding, Kind, OneOrMany, PARTS, RawAbout, RawBodyDigest, RawChallenge, RawKey,
    RawReply, RawScheme, RawSignature, RawSignedAt, RawTimestamp, RawToken, Span, Unit,
};

use std::time::Duration;

use super::route::AckReply;
use super::secret::Secret;

/// A compiled scheme.
#[derive(Debug)]
pub struct Scheme(RawScheme);

/// What makes no sense in a scheme.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemeFault {
    /// Dotted path inside the provider.
    pub key: String,
    /// What was found.
    pub found: String,
    /// What would be right.
    pub expected: String,
}

/// The properties of a scheme.
#[derive(Clone, Debug)]
pub struct SchemeTraits {
    /// What says when a request was sent.
    pub sent: SentTrait,
    /// How old an event may be.
    pub signed_at_max_age: Option<Duration>,
    /// What names an event.
    pub event_id: EventIdTrait,
    /// Whether the signature covers the whole body.
    pub body: Coverage,
    /// Whether the public address is signed.
    pub url: Coverage,
    /// How long the provider waits.
    pub budget: Option<Duration>,
    /// The provider's last retry.
    pub retry_horizon: Option<Duration>,
    /// The acknowledgement that the provider wants.
    pub ack_reply: Option<AckReply>,
    /// How the scheme was checked.
    pub verified: Option<Evidence>,
    /// The provider's page.
    pub source: Option<String>,
}

/// What says when a request was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SentTrait {
    /// Nothing.
    None,
    /// Signed.
    Covered {
        /// How old it may be.
        tolerance: Duration,
    },
    /// Unsigned.
    Uncovered {
        /// How old it may be.
        tolerance: Duration,
    },
}

/// What names an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventIdTrait {
    /// The body.
    None,
    /// Unsigned.
    Unsigned,
    /// Signed.
    Signed,
}

/// Whether the signature covers something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// It does.
    Covered,
    /// It does not.
    Uncovered,
}

impl Scheme {
    /// Compiles a scheme.
    pub fn compile(raw: &RawScheme) -> Result<Self, Vec<SchemeFault>> {
        Ok(Self(raw.clone()))
    }

    /// Refuses a secret that gives no key.
    pub fn check_secret(&self, _: &Secret) -> Result<(), SchemeFault> {
        Ok(())
    }

    /// What this scheme can promise.
    #[must_use]
    pub fn traits(&self) -> SchemeTraits {
        let raw = &self.0;
        let tolerance = raw.timestamp.as_ref().and_then(|t| t.tolerance).map(|span| span.0);
        let ids = raw.event_id.clone().unwrap_or_default();
        SchemeTraits {
            sent: tolerance.map_or(SentTrait::None, |tolerance| SentTrait::Uncovered { tolerance }),
            signed_at_max_age: raw.signed_at.as_ref().and_then(|t| t.max_age).map(|span| span.0),
            event_id: match ids.first() {
                None => EventIdTrait::None,
                Some(id) if id.starts_with("json:") => EventIdTrait::Signed,
                Some(_) => EventIdTrait::Unsigned,
            },
            body: Coverage::Covered,
            url: Coverage::Uncovered,
            budget: raw.about.as_ref().and_then(|about| about.budget).map(|span| span.0),
            retry_horizon: raw.about.as_ref().and_then(|about| about.retry_horizon).map(|span| span.0),
            ack_reply: None,
            verified: None,
            source: None,
        }
    }
}

//! What a compiled scheme can and cannot promise, for the start-up check and for people.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;

use super::event_id::IdEntry;
use super::raw::{Evidence, Unit};
use super::template::Part;
use super::{Means, Scheme};
use crate::domain::route::AckReply;

/// The properties of a scheme.
#[derive(Clone, Debug)]
pub struct SchemeTraits {
    /// What says when a request was sent.
    pub sent: SentTrait,
    /// How old an event may be, where the scheme signs when it happened.
    pub signed_at_max_age: Option<Duration>,
    /// What names an event.
    pub event_id: EventIdTrait,
    /// Whether the signature covers the whole body.
    pub body: Coverage,
    /// Whether the public address is signed, so that `public_url` matters.
    pub url: Coverage,
    /// How long the provider waits for an answer, as far as known.
    pub budget: Option<Duration>,
    /// How long after an event the provider's last retry may come, as far as known.
    pub retry_horizon: Option<Duration>,
    /// The acknowledgement that the provider wants to see.
    pub ack_reply: Option<AckReply>,
    /// How the scheme was checked.
    pub verified: Option<Evidence>,
    /// The provider's page.
    pub source: Option<String>,
}

/// What says when a request was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SentTrait {
    /// Nothing, or its age is not checked.
    None,
    /// A timestamp that the signature covers: nobody can refresh a captured request.
    Covered {
        /// How old it may be.
        tolerance: Duration,
    },
    /// A timestamp that anybody on the way can write.
    Uncovered {
        /// How old it may be.
        tolerance: Duration,
    },
}

/// What names an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventIdTrait {
    /// The body, or what of it is signed.
    None,
    /// Nothing: each request is an event of its own.
    Request,
    /// An id; a request without it is an event of its own.
    OrRequest,
    /// An id that the signature does not cover, together with the body.
    Unsigned,
    /// An id that the signature covers.
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

impl Coverage {
    pub(super) const fn when(covered: bool) -> Self {
        if covered { Self::Covered } else { Self::Uncovered }
    }
}

impl Scheme {
    /// What this scheme can promise.
    #[must_use]
    pub fn traits(&self) -> SchemeTraits {
        let about = self.raw.about.clone().unwrap_or_default();
        SchemeTraits {
            sent: self.sent_trait(),
            signed_at_max_age: self.signed_at.as_ref().map(|rule| rule.window.past),
            event_id: self.event_id_trait(),
            body: Coverage::when(self.body_signed.is_yes()),
            url: Coverage::when(self.reads.url.is_yes()),
            budget: about.budget.map(|span| span.0),
            retry_horizon: about.retry_horizon.map(|span| span.0),
            ack_reply: self.ack_reply(),
            verified: about.verified,
            source: about.source.clone(),
        }
    }

    fn sent_trait(&self) -> SentTrait {
        if let Means::Jwt(jwt) = &self.means
            && let Some(tolerance) = jwt.life.tolerance
        {
            return SentTrait::Covered { tolerance };
        }
        let Some(tolerance) = self.sent.as_ref().and_then(|rule| rule.window).map(|window| window.past) else {
            return SentTrait::None;
        };
        match self.sent.as_ref().map(|rule| self.covers(&rule.source)) {
            Some(Coverage::Covered) => SentTrait::Covered { tolerance },
            Some(Coverage::Uncovered) | None => SentTrait::Uncovered { tolerance },
        }
    }

    fn event_id_trait(&self) -> EventIdTrait {
        match self.event_id.as_slice() {
            [] => EventIdTrait::None,
            [entry] if entry.alternatives.is_empty() => EventIdTrait::Request,
            entries if entries.iter().any(|entry| entry.or_request.is_yes()) => EventIdTrait::OrRequest,
            entries if entries.iter().all(IdEntry::is_covered) => EventIdTrait::Signed,
            _ => EventIdTrait::Unsigned,
        }
    }

    fn ack_reply(&self) -> Option<AckReply> {
        let reply = self.raw.about.as_ref()?.reply.as_ref()?;
        Some(AckReply {
            status: reply.status.and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or(StatusCode::OK),
            content_type: reply.content_type.clone().unwrap_or_else(|| "application/json".to_owned()),
            body: Bytes::from(reply.body.clone().unwrap_or_default()),
        })
    }

    /// What is signed and how, in one line for people. Holds no secret.
    #[must_use]
    pub fn describe(&self) -> String {
        let how = match &self.means {
            Means::Signature(proof) => proof.describe(),
            Means::Jwt(jwt) => format!("jwt-{}", jwt.hash.as_str()),
            Means::Token => "token".to_owned(),
            Means::Basic => "basic".to_owned(),
        };
        let time = match self.sent.as_ref().map(|rule| rule.unit) {
            None => "",
            Some(Unit::Seconds | Unit::Millis) => ", timestamp",
            Some(Unit::Rfc3339 | Unit::Rfc3339Utc) => ", timestamp in RFC 3339",
        };
        let claimed = matches!(&self.means, Means::Jwt(jwt) if jwt.binds_url());
        let url = if self.signed.has(&Part::Url) || claimed { ", signed address" } else { "" };
        let also = self.also.as_ref().map(|also| format!(" or {}", also.proof.describe())).unwrap_or_default();
        format!("{how}{also}{time}{url}")
    }
}

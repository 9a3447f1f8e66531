//! From a request to an event: what a route does with what its scheme has found.
//!
//! Checked, fresh, no handshake, wanted, named, and stripped of what belongs to the connection or to us; or a handshake
//! that nobody needs to have signed. Not here: whether the event was seen before, and everything that needs a clock, a disk or a socket.

use std::sync::Arc;

use http::Method;
use http::header::{CONNECTION, HeaderName};
use smallvec::SmallVec;

use super::body::{Body, imprint};
use super::event::{Event, EventId};
use super::headers::Headers;
use super::inbound::Inbound;
use super::key::EventKey;
use super::outcome::HandshakeReply;
use super::refusal::Refusal;
use super::route::Route;
use super::scheme::{Freshness, Greeting, Key, Refused, Scheme, Verified, json_scalar};
use super::secret::Secret;
use super::time::Timestamp;

/// Secrets of a route that are live at once, as a rule: one, and one more while it is replaced. More is no error.
const USUAL_SECRETS: usize = 4;

/// What a verified request is.
#[derive(Clone, Debug)]
pub enum Admission {
    /// An event to deliver.
    Event(Arc<Event>),
    /// An event of a type that the route does not want. An event whose type cannot be told is delivered.
    Filtered,
    /// The provider's handshake, and our answer.
    Handshake(HandshakeReply),
}

/// The keys that are live at a moment, with the positions of their secrets.
type Live<'r> = SmallVec<[(usize, &'r Key); USUAL_SECRETS]>;

impl Route {
    /// Whether a request with this head is read at all: its method is taken, or it may be the provider's challenge.
    #[must_use]
    pub fn takes(&self, method: &Method, headers: &Headers, query: Option<&str>) -> bool {
        self.methods.contains(method) || self.scheme.may_challenge(method, headers, query, self.verify_token.as_ref())
    }

    /// Our answer to the provider's challenge, if the request is one that nobody needs to have signed. Nothing of it
    /// may go any further.
    #[must_use]
    pub fn greet(&self, inbound: &Inbound, now: Timestamp) -> Option<Result<HandshakeReply, Refusal>> {
        let greeting = self.scheme.greeting(inbound, self.verify_token.as_ref())?;
        Some(self.welcome(greeting, now))
    }

    fn welcome(&self, mut greeting: Greeting<'_>, now: Timestamp) -> Result<HandshakeReply, Refusal> {
        let live = self.live(now);
        let key = match greeting.signed.take() {
            None => live.first(),
            Some(signed) => {
                let verified = self.scheme.verify(signed, &live, self.public_url.as_deref())?;
                self.scheme.check_freshness(&verified, now)?;
                live.iter().find(|(position, _)| *position == verified.secret())
            }
        };
        greeting.answer(key.map(|(_, key)| *key), self.verify_token.as_ref())
    }

    /// Checks who sent a request, with the secrets that are live at `now`. Its age is not checked here.
    pub fn verify(&self, inbound: Inbound, now: Timestamp) -> Result<Verified, Refused> {
        // Handed through as it came: a verified request that is taken out and put back is a copy of all of it.
        let checked = self.scheme.verify(inbound, &self.live(now), self.public_url.as_deref());
        if !checked.as_ref().is_ok_and(|verified| self.scheme.may_be_our_own(verified.inbound())) {
            return checked;
        }
        checked.and_then(|verified| Err(Refused::new(Refusal::SignatureMismatch, verified.into_inbound())))
    }

    fn live(&self, now: Timestamp) -> Live<'_> {
        self.secrets
            .iter()
            .enumerate()
            .filter(|(_, secret)| secret.until.is_none_or(|until| now < until))
            .map(|(position, secret)| (position, &secret.key))
            .collect()
    }

    /// Whether `secret` is one of this route's.
    #[must_use]
    pub fn has_secret(&self, secret: &Secret) -> bool {
        self.secrets.iter().any(|own| own.secret.expose() == secret.expose())
    }

    /// Our answer, if a verified request is the provider's handshake.
    pub fn handshake(&self, verified: &Verified) -> Result<Option<HandshakeReply>, Refusal> {
        let key = self.secrets.get(verified.secret()).map(|secret| &secret.key);
        self.scheme.handshake(verified, key, self.verify_token.as_ref())
    }

    /// What a verified request is at `now`. The event gets the name `id`; `received_at` is when the request's first
    /// byte came.
    pub fn admit(
        &self,
        verified: Verified,
        now: Timestamp,
        id: EventId,
        received_at: Timestamp,
    ) -> Result<Admission, Refused> {
        let freshness = match self.scheme.check_freshness(&verified, now) {
            Ok(freshness) => freshness,
            Err(refusal) => return Err(Refused::new(refusal, verified.into_inbound())),
        };
        let own = match of_connection(&self.scheme, &verified.inbound().headers) {
            (own, None) => own,
            (_, Some(refusal)) => return Err(Refused::new(refusal, verified.into_inbound())),
        };
        match self.handshake(&verified) {
            Ok(Some(reply)) => return Ok(Admission::Handshake(reply)),
            Ok(None) if self.methods.contains(&verified.inbound().method) => {}
            Ok(None) => return Err(Refused::new(Refusal::MethodNotAllowed, verified.into_inbound())),
            Err(refusal) => return Err(Refused::new(refusal, verified.into_inbound())),
        }
        if !self.wants(self.scheme.event_type(&verified)) {
            return Ok(Admission::Filtered);
        }
        Ok(Admission::Event(Arc::new(self.event(verified, Some(freshness), &own, id, received_at))))
    }

    /// What a request would be if verdicts are only recorded: always an event, and why it would have been refused.
    ///
    /// An event that is not verified is named by its body alone, in a namespace of its own: it can not take the slot
    /// of a verified one.
    #[must_use]
    pub fn observe(
        &self,
        inbound: Inbound,
        now: Timestamp,
        id: EventId,
        received_at: Timestamp,
    ) -> (Event, Option<Refusal>) {
        let (own, framing) = of_connection(&self.scheme, &inbound.headers);
        match self.verify(inbound, now) {
            Err(Refused { refusal, inbound }) => (self.unverified(*inbound, &own, id, received_at), Some(refusal)),
            Ok(verified) => match self.scheme.check_freshness(&verified, now) {
                Err(refusal) => (self.event(verified, None, &own, id, received_at), Some(refusal)),
                Ok(freshness) => (self.event(verified, Some(freshness), &own, id, received_at), framing),
            },
        }
    }

    fn wants(&self, event_type: Option<&str>) -> bool {
        self.events.is_empty() || event_type.is_none_or(|it| self.events.iter().any(|wanted| wanted == it))
    }

    fn event(
        &self,
        verified: Verified,
        freshness: Option<Freshness>,
        own: &[HeaderName],
        id: EventId,
        received_at: Timestamp,
    ) -> Event {
        let whole = verified.whole();
        let key = if verified.is_event_of_its_own() {
            EventKey::of_imprint(&self.name, &[b"request", id.0.as_bytes()], &whole)
        } else {
            verified.key(&self.name, &whole)
        };
        let imprint = verified.is_of_body().then_some(whole);
        let signed_at = freshness.map_or_else(|| verified.signed_at(), |freshness| freshness.signed_at);
        let (inbound, event_type) = verified.into_typed();
        let order_value = self.order_by.as_deref().and_then(|pointer| json_scalar(&inbound.body, pointer));
        Event { signed_at, event_type, order_value, ..self.bare(inbound, imprint, key, own, id, received_at) }
    }

    fn unverified(&self, inbound: Inbound, own: &[HeaderName], id: EventId, received_at: Timestamp) -> Event {
        let body = imprint(&inbound.body);
        let key = EventKey::of_imprint(&self.name, &[b"unverified", &body], &body);
        self.bare(inbound, Some(body), key, own, id, received_at)
    }

    /// `imprint`: of the body, if it was made; `own`: the connection's headers, besides those that always are.
    fn bare(
        &self,
        inbound: Inbound,
        imprint: Option<[u8; 32]>,
        key: EventKey,
        own: &[HeaderName],
        id: EventId,
        received_at: Timestamp,
    ) -> Event {
        let Inbound { method, path, query, mut headers, authority, body, .. } = inbound;
        headers.retain(|name| !ends_here(name) && !own.contains(name));
        Event {
            id,
            route: self.name.clone(),
            key,
            target: match query {
                Some(query) => path + "?" + &query,
                None => path,
            },
            method,
            headers,
            authority,
            body: match imprint {
                Some(imprint) => Body::imprinted(body, imprint),
                None => body.into(),
            },
            received_at,
            signed_at: None,
            event_type: None,
            order_value: None,
        }
    }
}

/// The headers that a request declares to be its connection's own. One that declares one of the scheme's to be so is refused:
/// the application could not check what was checked here.
fn of_connection(scheme: &Scheme, headers: &Headers) -> (Vec<HeaderName>, Option<Refusal>) {
    let options = headers.get_all(CONNECTION).flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let names = options.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok());
    let (guarded, own): (Vec<_>, Vec<_>) = names.partition(|name| scheme.guards_in(headers, name));
    (own, (!guarded.is_empty()).then_some(Refusal::BadRequest))
}

/// Whether a header is one of the connection or of the framing (RFC 9110 section 7.6.1), or one that we give ourselves.
fn ends_here(name: &HeaderName) -> bool {
    match name.as_str() {
        "connection" | "content-length" | "expect" | "host" | "keep-alive" | "te" | "trailer" | "transfer-encoding"
        | "upgrade" => true,
        other => other.starts_with("proxy-") || other.starts_with("hookgate-") || other.contains('_'),
    }
}

#[cfg(test)]
mod tests;

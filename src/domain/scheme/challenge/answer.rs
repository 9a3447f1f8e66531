//! From a request to our answer, if it is the challenge.

use std::borrow::Cow;

use bytes::Bytes;
use http::Method;
use smallvec::smallvec;

use super::super::encoding::{digest, encode};
use super::super::form::{Form, Occurrence};
use super::super::json::{self, Fields, escape};
use super::super::key::Key;
use super::super::mac::same;
use super::super::raw::HashName;
use super::super::reading::scalar_of;
use super::super::signature::{Place, single};
use super::super::source::Source;
use super::super::template::{Message, Piece};
use super::super::verify::Verified;
use super::super::{Carries, Scheme};
use super::{Challenge, Check, Chunk, Digits, Lack, Media, Own, Trust, Wanted, When};
use crate::domain::headers::Headers;
use crate::domain::inbound::Inbound;
use crate::domain::outcome::HandshakeReply;
use crate::domain::refusal::Refusal;
use crate::domain::secret::Secret;

/// Longest value that is reflected or hashed, in bytes. Providers' challenges have tens.
const MAX_VALUE_BYTES: usize = 1024;
/// Longest body of a challenge that nobody has signed, in bytes.
const MAX_UNSIGNED_BODY: usize = 16 * 1024;
/// Longest value that is hashed for anybody, in bytes.
pub(super) const MAX_OPAQUE_BYTES: usize = 256;

/// A challenge that nobody needs to have signed, recognised and not yet answered.
pub(in crate::domain) struct Greeting<'g> {
    challenge: &'g Challenge,
    look: Look<'g>,
    /// The request to be verified first, where it carries a signature.
    pub(in crate::domain) signed: Option<Inbound>,
}

impl Scheme {
    /// Whether a request with this head may be the provider's challenge. What stands in the body is not known yet.
    #[must_use]
    pub fn may_challenge(
        &self,
        method: &Method,
        headers: &Headers,
        query: Option<&str>,
        token: Option<&Secret>,
    ) -> bool {
        let Some(challenge) = self.challenge.as_ref().filter(|challenge| challenge.lack(token).is_none()) else {
            return false;
        };
        let at_head = |when: &When| {
            let in_body = matches!(when.source, Source::Json(_) | Source::Form(_));
            in_body || when.holds(&Look::of_head(headers, query))
        };
        challenge.method == *method && challenge.when.as_ref().is_none_or(at_head)
    }

    /// What a route with this `verify_token` must still say before the provider's challenge can be answered.
    #[must_use]
    pub fn lacks_for_challenge(&self, token: Option<&Secret>) -> Option<Lack> {
        self.challenge.as_ref()?.lack(token)
    }

    /// Whether the provider's challenge shows a `verify_token`.
    #[must_use]
    pub fn takes_verify_token(&self) -> bool {
        self.challenge.as_ref().is_some_and(Challenge::takes_token)
    }

    /// Whether the provider's challenge has texts hashed for whoever asks.
    #[must_use]
    pub fn hashes_for_anybody(&self, token: Option<&Secret>) -> bool {
        self.challenge.as_ref().is_some_and(|challenge| {
            challenge.trust == Trust::Anybody && challenge.hashes().next().is_some() && challenge.lack(token).is_none()
        })
    }

    /// Our answer, if a verified request is the provider's challenge. `key` is the one that fitted.
    pub fn handshake(
        &self,
        verified: &Verified,
        key: Option<&Key>,
        token: Option<&Secret>,
    ) -> Result<Option<HandshakeReply>, Refusal> {
        let Some(challenge) = self.challenge.as_ref().filter(|challenge| challenge.trust == Trust::Verified) else {
            return Ok(None);
        };
        let inbound = verified.inbound();
        match challenge.look(inbound, token) {
            Some(look) => challenge.answer(&look, key, token),
            None => Ok(None),
        }
    }

    /// The challenge in a request, if it is one that nobody needs to have signed.
    pub(in crate::domain) fn greeting<'g>(
        &'g self,
        inbound: &'g Inbound,
        token: Option<&Secret>,
    ) -> Option<Greeting<'g>> {
        let challenge = self.challenge.as_ref().filter(|challenge| challenge.trust == Trust::Anybody)?;
        let carries_proof = self.carries_proof(inbound);
        if (carries_proof && challenge.method == Method::POST) || inbound.body.len() > MAX_UNSIGNED_BODY {
            return None;
        }
        let look = challenge.look(inbound, token)?;
        let signed = carries_proof.then(|| challenge.as_signed(inbound));
        Some(Greeting { challenge, look, signed })
    }

    /// Whether an event's signature may be an answer that we gave to anybody who asked.
    pub(in crate::domain) fn may_be_our_own(&self, inbound: &Inbound) -> bool {
        match self.challenge.as_ref().and_then(|challenge| challenge.own.as_ref()) {
            None => false,
            Some(Own::Body(digits)) => is_hashed_for_anybody(&inbound.body, *digits),
            Some(Own::Form(name, digits)) => {
                field(&inbound.body, name).is_some_and(|text| is_hashed_for_anybody(&text, *digits))
            }
        }
    }

    /// Whether a request carries anything that this scheme reads as a proof, right or wrong.
    fn carries_proof(&self, inbound: &Inbound) -> bool {
        let in_body = match &self.place {
            Place::Headers(_) | Place::HeadersLike(_) => false,
            Place::Json(_) | Place::Form(_) | Place::Item(_) => !inbound.body.is_empty(),
        };
        in_body || inbound.headers.iter().any(|(name, _)| self.carries(name) != Carries::Nothing)
    }
}

impl Greeting<'_> {
    /// Our answer. `key` is the one that fitted, or the first live one where nothing is signed.
    pub(in crate::domain) fn answer(
        &self,
        key: Option<&Key>,
        token: Option<&Secret>,
    ) -> Result<HandshakeReply, Refusal> {
        self.challenge.answer(&self.look, key, token)?.ok_or(Refusal::BadRequest)
    }
}

impl Challenge {
    fn takes_token(&self) -> bool {
        self.checks.iter().any(|check| check.wanted == Wanted::Token)
    }

    fn lack(&self, token: Option<&Secret>) -> Option<Lack> {
        let no_token = self.takes_token() && token.is_none();
        self.lacks.or_else(|| no_token.then_some(Lack::VerifyToken))
    }

    /// What is read of a request, if it is the challenge and can be answered.
    fn look<'l>(&self, inbound: &'l Inbound, token: Option<&Secret>) -> Option<Look<'l>> {
        if inbound.method != self.method || self.lack(token).is_some() {
            return None;
        }
        let Some(when) = &self.when else { return Some(Look::of(self, inbound)) };
        let look = when.may_hold(&inbound.body).then(|| Look::of(self, inbound))?;
        when.holds(&look).then_some(look)
    }

    /// The request with what is signed of it in place of its body.
    fn as_signed(&self, inbound: &Inbound) -> Inbound {
        let mut signed = inbound.clone();
        if let Some(around) = &self.signed {
            let text = [around.0.as_str(), inbound.query.as_deref().unwrap_or_default(), around.1.as_str()].concat();
            signed.body = Bytes::from(text);
        }
        signed
    }

    /// `None` if something that the answer needs is missing.
    fn answer(
        &self,
        look: &Look<'_>,
        key: Option<&Key>,
        token: Option<&Secret>,
    ) -> Result<Option<HandshakeReply>, Refusal> {
        self.checks.iter().try_for_each(|check| check.holds(look, token))?;
        let mut headers = Vec::with_capacity(self.headers.len());
        for (name, text) in &self.headers {
            let Some(value) = self.fill(text, Media::Plain, look, key)? else { return Ok(None) };
            if !value.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) {
                return Err(Refusal::BadRequest);
            }
            headers.push((name.as_str().to_owned(), value));
        }
        let body = self.fill(&self.body, self.media, look, key)?;
        Ok(body.map(|body| HandshakeReply {
            status: self.status,
            content_type: self.media.as_str().to_owned(),
            headers,
            body: Bytes::from(body),
        }))
    }

    fn fill(
        &self,
        text: &[Chunk],
        media: Media,
        look: &Look<'_>,
        key: Option<&Key>,
    ) -> Result<Option<String>, Refusal> {
        let mut filled = String::new();
        for chunk in text {
            let source = match chunk {
                Chunk::Text(text) => {
                    filled.push_str(text);
                    continue;
                }
                Chunk::Value(source) | Chunk::Hmac(_, source) => source,
            };
            let Some(value) = look.value(source) else { return Ok(None) };
            let value = printable(&value)?;
            match chunk {
                Chunk::Text(_) => {}
                Chunk::Value(_) => match media {
                    Media::Plain => filled.push_str(value),
                    Media::Json | Media::JsonUtf8 => filled.push_str(&escape(value)),
                },
                Chunk::Hmac(encoding, _) => filled.push_str(&encode(*encoding, &self.hash(value, key)?)),
            }
        }
        Ok(Some(filled))
    }

    fn hash(&self, value: &str, key: Option<&Key>) -> Result<Vec<u8>, Refusal> {
        if self.trust == Trust::Anybody && !is_opaque(value.as_bytes()) {
            return Err(Refusal::BadRequest);
        }
        let (Some(key), Some(proof)) = (key, self.proof) else { return Err(Refusal::SignatureMismatch) };
        let message = Message { pieces: smallvec![Piece::Bytes(value.as_bytes())] };
        key.compute(proof, &message).ok_or(Refusal::SignatureMismatch)
    }
}

impl When {
    fn holds(&self, look: &Look<'_>) -> bool {
        let value = look.value(&self.source);
        value.is_some_and(|value| self.equals.as_ref().is_none_or(|wanted| wanted.as_bytes() == value.as_ref()))
    }

    /// `false` only if `body` cannot hold what is looked for. A JSON text without a backslash spells every name and
    /// every value as it is.
    fn may_hold(&self, body: &[u8]) -> bool {
        let Source::Json(_) = self.source else { return true };
        std::str::from_utf8(body)
            .map_or(true, |text| self.hints.iter().all(|hint| text.contains(hint.as_str())) || text.contains('\\'))
    }
}

impl Check {
    fn holds(&self, look: &Look<'_>, token: Option<&Secret>) -> Result<(), Refusal> {
        let value = look.value(&self.source);
        match &self.wanted {
            Wanted::Token => {
                let value = value.ok_or(Refusal::SignatureMissing)?;
                let right = token.is_some_and(|token| same(&sha256(&value), &sha256(token.expose())));
                if right { Ok(()) } else { Err(Refusal::SignatureMismatch) }
            }
            Wanted::Text(text) => {
                value.filter(|value| value.as_ref() == text.as_bytes()).map(drop).ok_or(Refusal::BadRequest)
            }
            Wanted::Hex(digits) => value.filter(|value| digits.are(value)).map(drop).ok_or(Refusal::BadRequest),
        }
    }
}

impl Digits {
    fn are(self, text: &[u8]) -> bool {
        let Self(from, to) = self;
        (from..=to).contains(&text.len()) && text.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    }
}

/// A request as a challenge looks at it. Nothing read here is believed.
struct Look<'l> {
    headers: &'l Headers,
    query: &'l [u8],
    body: &'l [u8],
    fields: Fields<'l>,
}

impl<'l> Look<'l> {
    fn of_head(headers: &'l Headers, query: Option<&'l str>) -> Self {
        Self { headers, query: query.unwrap_or_default().as_bytes(), body: &[], fields: Fields::new() }
    }

    fn of(challenge: &Challenge, inbound: &'l Inbound) -> Self {
        Self {
            body: &inbound.body,
            fields: json::extract(&inbound.body, challenge.pointers.as_slice()),
            ..Self::of_head(&inbound.headers, inbound.query.as_deref())
        }
    }

    /// The value at `source`; nothing if it is missing, empty, or stands there twice.
    fn value(&self, source: &Source) -> Option<Cow<'_, [u8]>> {
        match source {
            Source::Header(name) => single(self.headers, name).ok().flatten().map(Cow::Borrowed),
            Source::Json(place) => {
                scalar_of(&self.fields, *place).map(|scalar| Cow::Borrowed(scalar.as_text().as_bytes()))
            }
            Source::Form(name) => field(self.body, name),
            Source::Query(name) => field(self.query, name),
            Source::Beside(_) | Source::Claim(_) => None,
        }
    }
}

/// The one value of a form's field.
fn field(form: &[u8], name: &[u8]) -> Option<Cow<'static, [u8]>> {
    match Form::parse(form)?.get(name) {
        Occurrence::Once(value) if !value.is_empty() => Some(Cow::Owned(value.to_vec())),
        Occurrence::Once(_) | Occurrence::None | Occurrence::Repeated => None,
    }
}

/// `value` as text that can be shown anywhere.
fn printable(value: &[u8]) -> Result<&str, Refusal> {
    let text = std::str::from_utf8(value).ok().filter(|text| text.len() <= MAX_VALUE_BYTES);
    text.filter(|text| !text.chars().any(breaks_lines)).ok_or(Refusal::BadRequest)
}

/// Control characters, and the two that JavaScript takes for line ends.
fn breaks_lines(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

/// Whether a value may be hashed for anybody.
fn is_opaque(text: &[u8]) -> bool {
    let end = text.iter().rposition(|b| *b != b'=').map_or(0, |at| at + 1);
    let plain = text.get(..end).unwrap_or_default();
    (1..=MAX_OPAQUE_BYTES).contains(&text.len()) && plain.iter().all(|b| is_opaque_char(char::from(*b)))
}

/// No dot: it stands between the parts of what many others sign, web tokens (RFC 7515 section 5.1) among them.
pub(super) fn is_opaque_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_~+/-".contains(c)
}

/// Whether anybody can have had `text` hashed.
fn is_hashed_for_anybody(text: &[u8], digits: Option<Digits>) -> bool {
    is_opaque(text) && digits.is_none_or(|digits| digits.are(text))
}

fn sha256(text: &[u8]) -> Vec<u8> {
    digest(HashName::Sha256, text).into_vec()
}

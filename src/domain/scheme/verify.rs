//! The check itself: raw bytes against every live secret, and what may be believed afterwards.

use std::borrow::Cow;

use http::header::CONTENT_TYPE;
use sha2::{Digest, Sha256};
use smallvec::{SmallVec, smallvec};

use super::address::Address;
use super::encoding::{decode, digest};
use super::event_id::{IdParts, read_parts};
use super::form::Form;
use super::freshness::{Freshness, Moment, SignedAtMissing, is_time_like};
use super::json::{self, Field, Fields};
use super::key::Key;
use super::life::Times;
use super::mac::{Proof, same};
use super::raw::Encoding;
use super::reading::{Fill, Reading, Subject, form_of, query_value, scalar_of};
use super::signature::{Group, Groups, MAX_SIGNATURES, Place, Values, Way, header_values, single};
use super::source::Source;
use super::template::{Message, Part};
use super::traits::Coverage;
use super::{Carries, Each, Means, Read, Scheme};
use crate::domain::body::imprint;
use crate::domain::headers::Headers;
use crate::domain::inbound::Inbound;
use crate::domain::key::EventKey;
use crate::domain::refusal::Refusal;
use crate::domain::time::Timestamp;

/// Longest event type that is taken for one.
const MAX_TYPE_BYTES: usize = 256;

/// A request that one of the route's secrets has signed. Only [`Scheme::verify`] makes one.
#[derive(Clone, Debug)]
pub struct Verified {
    inbound: Inbound,
    findings: Findings,
}

/// A request that was refused, given back for whoever wants to know why.
#[derive(Debug)]
pub struct Refused {
    /// Why.
    pub refusal: Refusal,
    /// The request. Nothing in it was proved.
    pub inbound: Box<Inbound>,
}

impl Refused {
    pub(crate) fn new(refusal: Refusal, inbound: Inbound) -> Self {
        Self { refusal, inbound: Box::new(inbound) }
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        refused.refusal
    }
}

/// What a request said, once it was proved.
#[derive(Clone, Debug)]
struct Findings {
    secret: usize,
    sent: Option<Moment>,
    signed_at: Option<Moment>,
    id: IdParts,
    /// Digest of what was signed; nothing where that is the body.
    signed: Option<[u8; 32]>,
    event_type: Option<String>,
    /// The times of a web token.
    times: Option<Times>,
}

impl Verified {
    /// The request.
    #[must_use]
    pub const fn inbound(&self) -> &Inbound {
        &self.inbound
    }

    /// The request, given back.
    #[must_use]
    pub fn into_inbound(self) -> Inbound {
        self.inbound
    }

    /// The request, given back with its event's type.
    pub(in crate::domain) fn into_typed(self) -> (Inbound, Option<String>) {
        (self.inbound, self.findings.event_type)
    }

    /// The digest of what was signed, where that was made for the check.
    pub(crate) const fn signed(&self) -> Option<[u8; 32]> {
        self.findings.signed
    }

    /// The imprint of what was signed: of the body, or of the digest of what was signed besides.
    pub(in crate::domain) fn whole(&self) -> [u8; 32] {
        imprint(self.findings.signed.as_ref().map_or(&self.inbound.body, |digest| digest.as_slice()))
    }

    /// What the event of `route` is called for deduplication; `whole`: what [`Self::whole`] gives.
    pub(in crate::domain) fn key(&self, route: &str, whole: &[u8; 32]) -> EventKey {
        let IdParts { parts, covered, .. } = &self.findings.id;
        if parts.is_empty() {
            return EventKey::of_imprint(route, &[b"signed", whole], whole);
        }
        let last = match covered {
            Coverage::Covered => None,
            Coverage::Uncovered => Some(whole.as_slice()),
        };
        EventKey::of_written(route, parts, last, whole)
    }

    /// Whether the request is an event of its own: another one that is its like is another event.
    #[must_use]
    pub fn is_event_of_its_own(&self) -> bool {
        self.findings.id.is_request.is_yes()
    }

    /// Whether what was signed is the body.
    pub(in crate::domain) const fn is_of_body(&self) -> bool {
        self.findings.signed.is_none()
    }

    /// Position of the secret that fitted; the first of them, if several did.
    #[must_use]
    pub const fn secret(&self) -> usize {
        self.findings.secret
    }

    /// When it was sent, as far as the scheme says. Also known of a request that is not fresh.
    #[must_use]
    pub fn sent_at(&self) -> Option<Timestamp> {
        self.findings.sent.map(|moment| moment.at)
    }

    /// When its event happened, as far as that is signed. Also known of a request that is not fresh.
    #[must_use]
    pub fn signed_at(&self) -> Option<Timestamp> {
        self.findings.signed_at.map(|moment| moment.at)
    }
}

/// What a check has found.
pub(super) struct Found<'r> {
    pub(super) secret: usize,
    pub(super) time: Option<Cow<'r, [u8]>>,
    pub(super) signed: Option<[u8; 32]>,
    pub(super) times: Option<Times>,
}

/// The live keys, with the positions of their secrets.
pub(super) type Keys<'k> = [(usize, &'k Key)];

impl Scheme {
    /// Checks a request against every live key, given with the positions of their secrets. `public_url` is the
    /// address as the provider sees it. Age is not checked here. A refused request is given back.
    pub fn verify(&self, inbound: Inbound, keys: &Keys<'_>, public_url: Option<&str>) -> Result<Verified, Refused> {
        match self.check(&inbound, keys, public_url) {
            Ok(findings) => Ok(Verified { inbound, findings }),
            Err(refusal) => Err(Refused::new(refusal, inbound)),
        }
    }

    fn check(&self, inbound: &Inbound, keys: &Keys<'_>, public_url: Option<&str>) -> Result<Findings, Refusal> {
        self.refuse_repeated(&inbound.headers)?;
        let subject = Subject {
            method: &inbound.method,
            address: match self.reads.url {
                Read::Yes => Address::of(inbound, public_url),
                Read::No => Address::of_query(inbound.query.as_deref()),
            },
            headers: &inbound.headers,
            body: &inbound.body,
        };
        let mut form = Form::default();
        let form = form_of(self, &inbound.body, &mut form);
        let reading = Reading::new(self, subject, form);
        let found = self.prove(&reading, keys)?;
        let mut later = Fields::new();
        let fields = reading.all_fields(self, &mut later);
        let sent = self.sent_moment(&reading, fields, found.time.as_deref())?;
        let signed_at = self.signed_moment(&reading, fields);
        let mut id = read_parts(&self.event_id, &reading, fields, self.body_signed);
        let event_type = self.read_type(&reading, fields);
        let (secret, signed) = (found.secret, found.signed);
        if id.parts.is_empty() && signed.is_none() && !id.is_request.is_yes() {
            id = self.signed_beside(inbound);
        }
        Ok(Findings { secret, sent, signed_at, id, signed, event_type, times: found.times })
    }

    /// How often the message is hashed, at most, to check a request with these headers against one key.
    #[must_use]
    pub fn hashings(&self, headers: &Headers) -> usize {
        let carried = headers.iter().filter(|(name, _)| self.carries(name) != Carries::Nothing);
        carried.map(|(_, value)| self.notation.hashings(value.as_bytes())).sum::<usize>().clamp(1, MAX_SIGNATURES)
    }

    /// Checks the age of a verified request.
    pub fn check_freshness(&self, verified: &Verified, now: Timestamp) -> Result<Freshness, Refusal> {
        if let (Means::Jwt(jwt), Some(times)) = (&self.means, &verified.findings.times) {
            times.check(jwt.life, now)?;
        }
        if let (Some(sent), Some(window)) = (verified.findings.sent, self.sent.as_ref().and_then(|rule| rule.window)) {
            sent.check(window, now, Refusal::TimestampStale)?;
        }
        if let (Some(signed_at), Some(rule)) = (verified.findings.signed_at, &self.signed_at) {
            signed_at.check(rule.window, now, Refusal::EventTooOld)?;
        }
        Ok(Freshness {
            sent_at: verified.sent_at(),
            signed_at: verified.signed_at(),
            signed_at_missing: match (&self.signed_at, verified.findings.signed_at) {
                (Some(_), None) => SignedAtMissing::Yes,
                (Some(_), Some(_)) | (None, _) => SignedAtMissing::No,
            },
        })
    }

    /// Whether the scheme signs when an event happened.
    #[must_use]
    pub const fn has_signed_at(&self) -> bool {
        self.signed_at.is_some()
    }

    /// A time that only the sender can have written: when the event happened, or else a time of sending that the
    /// signature covers.
    #[must_use]
    pub fn signed_time(&self, verified: &Verified) -> Option<Timestamp> {
        let covered = self.sent.as_ref().is_some_and(|rule| self.covers(&rule.source) == Coverage::Covered);
        verified.signed_at().or_else(|| verified.sent_at().filter(|_| covered))
    }

    /// The event's type, if the scheme names one and the request has it.
    #[must_use]
    pub fn event_type<'v>(&self, verified: &'v Verified) -> Option<&'v str> {
        verified.findings.event_type.as_deref()
    }

    /// The event's key, unless the request is an event of its own. Bytes that the signature does not cover never name an event alone.
    #[must_use]
    pub fn key(&self, route: &str, verified: &Verified) -> EventKey {
        verified.key(route, &verified.whole())
    }

    fn refuse_repeated(&self, headers: &Headers) -> Result<(), Refusal> {
        self.single.iter().try_for_each(|name| single(headers, name).map(drop))
    }

    fn prove<'r>(&self, reading: &'r Reading<'_>, keys: &Keys<'_>) -> Result<Found<'r>, Refusal> {
        match &self.means {
            Means::Signature(proof) => match &self.each {
                None => self.prove_whole(*proof, reading, keys),
                Some(each) => self.prove_items(*proof, each, reading, keys),
            },
            Means::Jwt(jwt) => self.prove_jwt(jwt, reading, keys),
            Means::Token => match &self.each {
                None => self.prove_token(reading, keys),
                Some(each) => self.prove_token_items(each, reading, keys),
            },
            Means::Basic => self.prove_basic(reading, keys),
        }
    }

    fn prove_whole<'r>(&self, proof: Proof, reading: &'r Reading<'_>, keys: &Keys<'_>) -> Result<Found<'r>, Refusal> {
        let mut groups = Groups::new();
        self.notation.groups(&self.signature_values(reading)?, &mut groups)?;
        if matches!(self.place, Place::Form(_)) && !self.body_signed.is_yes() {
            check_is_form(reading.subject.headers)?;
        }
        self.check_required(reading.subject.headers)?;
        let digested = self.check_body_digest(reading)?;
        let address = reading.subject.address;
        let other = if self.url_ports.is_yes() { address.with_other_port() } else { None };
        for group in &groups {
            let time = self.time_text(reading, group)?;
            for address in std::iter::once(&address).chain(&other) {
                let fill = Fill { time: time.as_deref(), address, digested, item: &[] };
                let mut message = Message::default();
                reading.render(self, &fill, &mut message)?;
                if let Some(secret) = self.fitting(proof, &message, group, keys) {
                    let signed = (!self.body_signed.is_yes()).then(|| message.digest());
                    drop(message);
                    return Ok(Found { secret, time, signed, times: None });
                }
            }
        }
        Err(Refusal::SignatureMismatch)
    }

    /// Every item must carry a signature over itself.
    fn prove_items(
        &self,
        proof: Proof,
        each: &Each,
        reading: &Reading<'_>,
        keys: &Keys<'_>,
    ) -> Result<Found<'static>, Refusal> {
        self.check_required(reading.subject.headers)?;
        let items =
            json::elements(reading.subject.body, &each.array, MAX_SIGNATURES).ok_or(Refusal::SignatureMissing)?;
        if items.len() > MAX_SIGNATURES {
            return Err(Refusal::SignatureRepeated);
        }
        let mut first = None;
        let mut signed: SmallVec<[[u8; 32]; 4]> = SmallVec::new();
        for item in items {
            let values = json::extract(item, &each.pointers);
            let mut groups = Groups::new();
            self.item_signature(&values, &mut groups)?;
            let group = groups.last().ok_or(Refusal::SignatureMalformed)?;
            let time = self.time_text(reading, group)?;
            let address = &reading.subject.address;
            let fill = Fill { time: time.as_deref(), address, digested: Read::No, item: &values };
            let mut message = Message::default();
            reading.render(self, &fill, &mut message)?;
            let secret = self.fitting(proof, &message, group, keys).ok_or(Refusal::SignatureMismatch)?;
            signed.push(message.digest());
            first.get_or_insert_with(|| (secret, time.as_deref().map(<[u8]>::to_vec)));
        }
        let (secret, time) = first.ok_or(Refusal::SignatureMissing)?;
        // Each is signed by itself: the same ones in another order, or more than once, are the same event.
        signed.sort_unstable();
        signed.dedup();
        let digest = signed.iter().fold(Sha256::new(), Sha256::chain_update).finalize();
        Ok(Found { secret, time: time.map(Cow::Owned), signed: Some(digest.into()), times: None })
    }

    fn item_signature<'v>(&self, values: &'v [Field<'_>], groups: &mut Groups<'v>) -> Result<(), Refusal> {
        let text = match &self.place {
            Place::Item(place) => scalar_of(values, *place).ok_or(Refusal::SignatureMissing)?.as_text(),
            Place::Headers(_) | Place::HeadersLike(_) | Place::Json(_) | Place::Form(_) => {
                return Err(Refusal::SignatureMissing);
            }
        };
        self.notation.groups(&[text.as_bytes()], groups)
    }

    fn signature_values<'r>(&self, reading: &'r Reading<'_>) -> Result<Values<'r>, Refusal> {
        let value = match &self.place {
            Place::Headers(_) | Place::HeadersLike(_) => return header_values(&self.place, reading.subject.headers),
            Place::Json(place) => reading.text(*place).map(str::as_bytes),
            Place::Form(name) => reading.form_field(name)?,
            Place::Item(_) => None,
        };
        value.map(|value| smallvec![value]).ok_or(Refusal::SignatureMissing)
    }

    /// The position of the first secret that fits; all are tried whatever fits.
    fn fitting(&self, proof: Proof, message: &Message<'_>, group: &Group<'_>, keys: &Keys<'_>) -> Option<usize> {
        let mut first = None;
        for (position, key) in keys {
            let proof = match (key.way, &self.also) {
                (Way::Second, Some(also)) => also.proof,
                (Way::First, _) | (Way::Second, None) => proof,
            };
            let fits = key.fits(proof, message, group.of(key.way));
            if fits && first.is_none() {
                first = Some(*position);
            }
        }
        first
    }

    fn prove_token(&self, reading: &Reading<'_>, keys: &Keys<'_>) -> Result<Found<'static>, Refusal> {
        let values = self.signature_values(reading)?;
        self.check_required(reading.subject.headers)?;
        let value = values.first().ok_or(Refusal::SignatureMissing)?;
        let token = value.strip_prefix(self.notation.prefix.as_slice()).ok_or(Refusal::SignatureMalformed)?;
        same_secret(token, keys)
    }

    /// RFC 7617: the scheme in any case, one blank, canonical base64 of `user:password`.
    fn prove_basic(&self, reading: &Reading<'_>, keys: &Keys<'_>) -> Result<Found<'static>, Refusal> {
        let values = self.signature_values(reading)?;
        self.check_required(reading.subject.headers)?;
        let value = values.first().ok_or(Refusal::SignatureMissing)?;
        let (scheme, credentials) = value.split_at_checked(6).ok_or(Refusal::SignatureMalformed)?;
        if !scheme.eq_ignore_ascii_case(b"basic ") {
            return Err(Refusal::SignatureMalformed);
        }
        let pair = decode(Encoding::Base64, credentials).ok_or(Refusal::SignatureMalformed)?;
        same_secret(&pair, keys)
    }

    pub(super) fn check_required(&self, headers: &Headers) -> Result<(), Refusal> {
        self.require.iter().try_for_each(|(name, wanted)| match single(headers, name)? {
            Some(value) if value == wanted.as_bytes() => Ok(()),
            Some(_) => Err(Refusal::SignatureMalformed),
            None => Err(Refusal::SignatureMissing),
        })
    }

    /// Whether the address holds a digest of the body; if so, it must be right.
    fn check_body_digest(&self, reading: &Reading<'_>) -> Result<Read, Refusal> {
        let Some(rule) = &self.body_digest else { return Ok(Read::No) };
        let Some(text) = query_value(reading.subject.address.query(), &rule.query)? else { return Ok(Read::No) };
        let given = decode(rule.encoding, &text).ok_or(Refusal::SignatureMalformed)?;
        if same(&given, &digest(rule.hash, reading.subject.body)) {
            Ok(Read::Yes)
        } else {
            Err(Refusal::SignatureMismatch)
        }
    }

    /// The timestamp as it was written, where it is needed before the signature is known to be right.
    fn time_text<'r>(&self, reading: &'r Reading<'_>, group: &Group<'r>) -> Result<Option<Cow<'r, [u8]>>, Refusal> {
        let Some(rule) = &self.sent else { return Ok(None) };
        let text = match &rule.source {
            Source::Beside(_) => group.time.map(Cow::Borrowed),
            source @ (Source::Header(_) | Source::Json(_) | Source::Form(_) | Source::Query(_) | Source::Claim(_)) => {
                reading.value(source)?
            }
        };
        let known = match &rule.source {
            Source::Json(_) => self.reads.json_first.is_yes(),
            Source::Claim(_) => false,
            Source::Header(_) | Source::Form(_) | Source::Query(_) | Source::Beside(_) => true,
        };
        let is_signed = self.signed.has(&Part::Timestamp);
        let needed = is_signed || (known && rule.window.is_some());
        match &text {
            None if needed => Err(Refusal::TimestampMissing),
            // Where nobody asks for its age it need be no time that is understood, but no piece of a body either.
            Some(text) if is_signed && rule.window.is_none() && !is_time_like(text) => Err(Refusal::TimestampMalformed),
            Some(_) | None => Ok(text),
        }
    }

    fn sent_moment(
        &self,
        reading: &Reading<'_>,
        fields: &[Field<'_>],
        time: Option<&[u8]>,
    ) -> Result<Option<Moment>, Refusal> {
        let Some(rule) = &self.sent else { return Ok(None) };
        let text = match (time, &rule.source) {
            (Some(time), _) => Some(Cow::Borrowed(time)),
            (None, source) => text(reading, fields, source),
        };
        match (text, rule.window) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err(Refusal::TimestampMissing),
            (Some(text), None) => Ok(Moment::parse(rule.unit, &text)),
            (Some(text), Some(_)) => Moment::parse(rule.unit, &text).map(Some).ok_or(Refusal::TimestampMalformed),
        }
    }

    fn signed_moment(&self, reading: &Reading<'_>, fields: &[Field<'_>]) -> Option<Moment> {
        let rule = self.signed_at.as_ref()?;
        Moment::parse(rule.unit, &text(reading, fields, &rule.source)?)
    }

    fn read_type(&self, reading: &Reading<'_>, fields: &[Field<'_>]) -> Option<String> {
        let text = text(reading, fields, self.event_type.as_ref()?)?;
        let text = String::from_utf8(text.into_owned()).ok().filter(|text| text.len() <= MAX_TYPE_BYTES)?;
        (!text.chars().any(char::is_control)).then_some(text)
    }
}

/// A signature in a form covers a field and not the body: whoever reads the body as something else reads what nobody
/// signed.
fn check_is_form(headers: &Headers) -> Result<(), Refusal> {
    const FORM: &[u8] = b"application/x-www-form-urlencoded";
    // Without a type nobody reads it as anything but a form.
    let Some(given) = single(headers, CONTENT_TYPE)? else { return Ok(()) };
    let media = given.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    if media.eq_ignore_ascii_case(FORM) { Ok(()) } else { Err(Refusal::SignatureMalformed) }
}

/// The first secret that the sender showed; all are compared whatever fits.
pub(super) fn same_secret(given: &[u8], keys: &Keys<'_>) -> Result<Found<'static>, Refusal> {
    let mut first = None;
    for (position, key) in keys {
        let fits = key.is(given);
        if fits && first.is_none() {
            first = Some(*position);
        }
    }
    first.map(|secret| Found { secret, time: None, signed: None, times: None }).ok_or(Refusal::SignatureMismatch)
}

/// A source's text, once the body's values are known.
fn text<'f>(reading: &'f Reading<'_>, fields: &'f [Field<'_>], source: &Source) -> Option<Cow<'f, [u8]>> {
    match source {
        Source::Json(place) => scalar_of(fields, *place).map(|scalar| Cow::Borrowed(scalar.as_text().as_bytes())),
        Source::Header(_) | Source::Form(_) | Source::Query(_) | Source::Beside(_) | Source::Claim(_) => {
            reading.value(source).ok().flatten()
        }
    }
}

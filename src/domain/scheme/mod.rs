//! How providers sign, as data: the scheme language and its one interpreter.
//!
//! A scheme says where the signature stands and how it is written, what is signed, how the secret becomes the key,
//! when the request was sent and what names the event. [`RawScheme`] is a scheme as written; [`Scheme::compile`]
//! parses every template, name and pointer of it once; [`Scheme::verify`] is the only way from an
//! [`Inbound`](super::inbound::Inbound) to a [`Verified`]. Secrets are not part of a scheme and are never shown.
//!
//! The order of a check: names that must not repeat, headers that must be there, signatures decoded, every live
//! secret tried over the raw bytes; only then are times, ids and challenges read out of what was signed.
//!
//! Not here: routes, clocks, replies, and what happens to an event afterwards.

mod address;
mod also;
mod asymmetric;
mod challenge;
mod check;
mod claims;
mod compile;
mod encoding;
mod event_id;
mod form;
mod freshness;
mod json;
mod jwt;
mod key;
mod kinds;
mod life;
mod mac;
mod raw;
mod reading;
mod shown;
mod sign;
mod signature;
mod source;
mod span;
mod template;
mod traits;
mod verify;

use std::fmt;

use http::HeaderName;

pub(in crate::domain) use challenge::Greeting;
pub use challenge::Lack;
pub use freshness::{Freshness, SignedAtMissing};
pub use json::json_scalar;
pub use key::Key;
pub use raw::{
    Encoding, Evidence, HashName, KeyEncoding, Kind, OneOrMany, PARTS, RawAbout, RawAlso, RawBodyDigest, RawChallenge,
    RawKey, RawReply, RawScheme, RawSignature, RawSignedAt, RawTimestamp, RawToken, Unit,
};
pub use sign::Unsigned;
pub use span::Span;
pub use traits::{Coverage, EventIdTrait, SchemeTraits, SentTrait};
pub use verify::{Refused, Verified};

use crate::domain::headers::Headers;
use also::Also;
use challenge::Challenge;
use encoding::KeyRule;
use event_id::IdEntry;
use freshness::{SentRule, SignedAtRule};
use json::Pointer;
use jwt::Jwt;
use mac::Proof;
use signature::{Notation, Place};
use source::{Pointers, Source};
use template::{Part, Template};

/// A compiled scheme: everything about a provider that can be settled before its first request.
#[derive(Debug)]
pub struct Scheme {
    means: Means,
    key: KeyRule,
    also: Option<Also>,
    place: Place,
    notation: Notation,
    signed: Template,
    /// Whether `signed` holds the whole body.
    body_signed: Read,
    id: Option<Source>,
    sent: Option<SentRule>,
    signed_at: Option<SignedAtRule>,
    event_id: Vec<IdEntry>,
    event_type: Option<Source>,
    require: Vec<(HeaderName, String)>,
    each: Option<Each>,
    url_ports: Read,
    body_digest: Option<BodyDigest>,
    challenge: Option<Challenge>,
    pointers: Pointers,
    reads: Reads,
    /// Headers that may come once.
    single: Vec<HeaderName>,
    raw: Box<RawScheme>,
}

/// What a header of a request carries of its proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    /// A signature: it proves this request.
    Signature,
    /// The secret itself, or a token that is tied to no body: it proves any request.
    Secret,
    /// Nothing that this scheme reads as a proof; times and ids are none.
    Nothing,
}

/// What proves the sender.
#[derive(Clone, Debug)]
enum Means {
    /// A hash or a signature over `signed`.
    Signature(Proof),
    /// A web token that makes claims about the request.
    Jwt(Box<Jwt>),
    /// The secret in a header.
    Token,
    /// The secret in `Authorization: Basic`.
    Basic,
}

/// Whether something is read, tried or there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    Yes,
    No,
}

impl Read {
    const fn when(condition: bool) -> Self {
        if condition { Self::Yes } else { Self::No }
    }

    fn is_yes(self) -> bool {
        self == Self::Yes
    }
}

/// What of a request must be read before its signature can be checked.
#[derive(Clone, Copy, Debug)]
struct Reads {
    form: Read,
    json_first: Read,
    url: Read,
}

/// A batch whose items are signed one by one, or each show the secret.
#[derive(Debug)]
struct Each {
    /// Where the array of items is.
    array: Pointer,
    /// What is needed of each element.
    pointers: Vec<Pointer>,
}

/// A digest of the body in the signed address.
#[derive(Debug)]
struct BodyDigest {
    query: Vec<u8>,
    hash: HashName,
    encoding: Encoding,
}

/// Something in a scheme that makes no sense, for the operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct SchemeFault {
    /// Dotted path inside the provider: `signature.encoding`.
    pub key: String,
    /// What stands there.
    pub found: String,
    /// What would be right.
    pub expected: String,
}

impl fmt::Display for SchemeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: found {}, expected {}", self.key, self.found, self.expected)
    }
}

impl SchemeFault {
    fn new(key: &str, found: impl Into<String>, expected: impl Into<String>) -> Self {
        Self { key: key.to_owned(), found: found.into(), expected: expected.into() }
    }
}

impl Scheme {
    /// Whether the check depends on the header `name`, so that nobody on the way may take it away.
    #[must_use]
    pub fn guards(&self, name: &HeaderName) -> bool {
        let like = match &self.place {
            Place::HeadersLike(start) => signature::is_like(name, start),
            Place::Headers(_) | Place::Json(_) | Place::Form(_) | Place::Item(_) => false,
        };
        like || self.single.contains(name)
    }

    /// The same for one request, which may say itself which of its headers are signed.
    #[must_use]
    pub fn guards_in(&self, headers: &Headers, name: &HeaderName) -> bool {
        let lists = self.signed.parts.iter().filter_map(Part::list).filter_map(|list| headers.get(list));
        let mut listed = lists.flat_map(|list| list.as_bytes().split(|byte| *byte == b','));
        self.guards(name) || listed.any(|it| it.trim_ascii().eq_ignore_ascii_case(name.as_str().as_bytes()))
    }

    /// What the header `name` carries that must not be shown.
    #[must_use]
    pub fn carries(&self, name: &HeaderName) -> Carries {
        let proves = match &self.place {
            Place::Headers(names) => names.contains(name),
            Place::HeadersLike(start) => signature::is_like(name, start),
            Place::Json(_) | Place::Form(_) | Place::Item(_) => false,
        };
        match &self.means {
            Means::Signature(_) if proves => Carries::Signature,
            Means::Jwt(jwt) if proves && jwt.binds_body() => Carries::Signature,
            Means::Token | Means::Basic | Means::Jwt(_) if proves => Carries::Secret,
            Means::Signature(_) | Means::Token | Means::Basic | Means::Jwt(_) => Carries::Nothing,
        }
    }

    /// The scheme as it was written, with what it extends merged in.
    #[must_use]
    pub const fn as_written(&self) -> &RawScheme {
        &self.raw
    }
}

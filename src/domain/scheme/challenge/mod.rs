//! A provider's handshake, and our answer to it.
//!
//! A challenge is told from an event by its method and by `when`. Who may have sent it decides what it gets:
//!
//! - `verify = true`: signed like an event, and answered only after its signature and its age were found right.
//! - `verify = false`: answered without a signature. A POST that carries one is an event and goes the ordinary way; a
//!   GET or HEAD that carries one must carry a right one, over `signed` in place of the body where the provider signs
//!   something else. A body of more than 16 KiB is no challenge.
//!
//! What holds for every answer:
//!
//! - A value that is reflected or hashed is at most 1,024 bytes of text without control characters; anything else is
//!   refused. Only `text/plain` and JSON are answered; in JSON, values are escaped.
//! - Whatever `check` names must be right, tokens in constant time. Without the route's `verify_token` a challenge that
//!   needs it is off, as if the provider had none.
//! - A hash of a text that anybody may choose must prove nothing: without a signature only texts of
//!   `[A-Za-z0-9_~+/-]` with `=` at their end, at most 256 bytes, are hashed, and an event whose signed text is such a
//!   text is refused, since the signature may be our own answer. Schemes where the two could meet in another way are
//!   refused when they are compiled.
//!
//! Not here: secrets' ends, methods of the route, and how an answer is written.

mod answer;
mod parse;

use http::{HeaderName, Method, StatusCode};

use super::mac::Proof;
use super::raw::Encoding;
use super::source::{Pointers, Source};

pub(in crate::domain) use answer::Greeting;

/// A parsed challenge.
#[derive(Debug)]
pub(super) struct Challenge {
    method: Method,
    when: Option<When>,
    trust: Trust,
    checks: Vec<Check>,
    /// What stands in for the body where a challenge is signed.
    signed: Option<AroundQuery>,
    status: StatusCode,
    media: Media,
    headers: Vec<(HeaderName, Vec<Chunk>)>,
    body: Vec<Chunk>,
    /// How `{hmac_…}` is computed.
    proof: Option<Proof>,
    /// Which events we may have signed ourselves, as answers.
    own: Option<Own>,
    /// What the scheme must say before this can be answered.
    lacks: Option<Lack>,
    pointers: Pointers,
}

/// What tells a challenge from an event.
#[derive(Debug)]
struct When {
    source: Source,
    /// The value it must have; without one, any will do.
    equals: Option<String>,
    /// Texts that a JSON body without escapes must hold for this to be so: spares most events a second reading.
    hints: Vec<String>,
}

/// Whether a challenge is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    /// `verify = true`.
    Verified,
    /// `verify = false`.
    Anybody,
}

/// A value that a challenge must have.
#[derive(Debug)]
struct Check {
    source: Source,
    wanted: Wanted,
}

/// What a checked value must be.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    /// The route's `verify_token`.
    Token,
    /// This text.
    Text(String),
    /// So many hexadecimal digits in lower case.
    Hex(Digits),
}

/// How many digits: from, to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Digits(usize, usize);

/// The media types that are answered: none that a browser would run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Media {
    Plain,
    Json,
    JsonUtf8,
}

impl Media {
    const ALL: [Self; 3] = [Self::Plain, Self::Json, Self::JsonUtf8];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "text/plain",
            Self::Json => "application/json",
            Self::JsonUtf8 => "application/json; charset=utf-8",
        }
    }
}

/// One piece of an answer.
#[derive(Debug, PartialEq, Eq)]
enum Chunk {
    /// This text.
    Text(String),
    /// A value of the challenge.
    Value(Source),
    /// The keyed hash of a value of the challenge.
    Hmac(Encoding, Source),
}

/// The texts before and behind the query, as it was sent.
#[derive(Debug, PartialEq, Eq)]
struct AroundQuery(String, String);

/// Where the text stands that an event's signature covers, if an answer of ours may be such a signature.
#[derive(Debug)]
enum Own {
    /// It is the body.
    Body(Option<Digits>),
    /// It is this field of the form.
    Form(Vec<u8>, Option<Digits>),
}

/// What a route must say before a challenge can be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// `verify_token`.
    VerifyToken,
    /// `signature.pick`, which the answer holds.
    Pick,
}

#[cfg(test)]
mod tests;

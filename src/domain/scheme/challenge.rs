//! A provider's handshake that comes as a signed POST, and our answer to it.
//!
//! Only signed bytes are ever echoed. Values that go into a JSON answer are escaped for it.

use bytes::Bytes;
use smallvec::smallvec;

use super::encoding::encode;
use super::json::{Field, escape};
use super::key::Key;
use super::mac::Proof;
use super::raw::{Encoding, RawChallenge};
use super::reading::{Reading, scalar_of};
use super::source::{Pointers, Source};
use super::template::{Message, Piece};
use super::{SchemeFault, json};
use crate::domain::outcome::HandshakeReply;

/// A parsed challenge.
#[derive(Debug)]
pub(super) struct Challenge {
    when: Source,
    /// The value that tells it from an event; without one, any will do.
    equals: Option<String>,
    content_type: String,
    body: Vec<Chunk>,
}

/// One piece of the answer.
#[derive(Debug, PartialEq, Eq)]
enum Chunk {
    Text(String),
    Json(usize),
    Hmac(Encoding, usize),
}

/// The parts of an answer's body.
const PARTS: [(&str, &str, Option<Encoding>); 3] = [
    ("{json:", "}", None),
    ("{hmac_hex:{json:", "}}", Some(Encoding::Hex)),
    ("{hmac_b64:{json:", "}}", Some(Encoding::Base64)),
];

impl Challenge {
    /// Parses what is written. Handshakes that are not signed POSTs are not built.
    pub(super) fn parse(raw: &RawChallenge, pointers: &mut Pointers) -> Result<Self, SchemeFault> {
        refuse_unbuilt(raw)?;
        let when = raw.when.as_deref().unwrap_or_default();
        let (source, equals) = when.split_once('=').map_or((when, None), |(s, value)| (s, Some(value.to_owned())));
        let source = match Source::parse(source, pointers) {
            Some(source @ Source::Json(_)) => source,
            Some(Source::Header(_) | Source::Form(_) | Source::Query(_) | Source::Beside(_) | Source::Claim(_))
            | None => {
                return Err(SchemeFault::new("challenge.when", format!("{when:?}"), "\"json:/pointer=value\""));
            }
        };
        Ok(Self {
            when: source,
            equals,
            content_type: raw.reply.clone().unwrap_or_else(|| "text/plain".to_owned()),
            body: parse_body(raw.body.as_deref().unwrap_or_default(), pointers)?,
        })
    }

    /// The answer, if the request is the challenge and holds all that the answer needs.
    pub(super) fn answer(
        &self,
        _: &Reading<'_>,
        fields: &[Field<'_>],
        key: &Key,
        proof: Proof,
    ) -> Option<HandshakeReply> {
        let place = match &self.when {
            Source::Json(place) => *place,
            Source::Header(_) | Source::Form(_) | Source::Query(_) | Source::Beside(_) | Source::Claim(_) => {
                return None;
            }
        };
        let value = scalar_of(fields, place)?.as_text();
        if self.equals.as_deref().is_some_and(|wanted| wanted != value) {
            return None;
        }
        let mut body = String::new();
        for chunk in &self.body {
            body.push_str(&self.fill(chunk, fields, key, proof)?);
        }
        Some(HandshakeReply { content_type: self.content_type.clone(), headers: Vec::new(), body: Bytes::from(body) })
    }

    fn fill(&self, chunk: &Chunk, fields: &[Field<'_>], key: &Key, proof: Proof) -> Option<String> {
        Some(match chunk {
            Chunk::Text(text) => text.clone(),
            Chunk::Json(place) => self.escaped(scalar_of(fields, *place)?.as_text()),
            Chunk::Hmac(encoding, place) => {
                let text = scalar_of(fields, *place)?.as_text().as_bytes();
                let message = Message { pieces: smallvec![Piece::Bytes(text)] };
                encode(*encoding, &key.compute(proof, &message)?)
            }
        })
    }

    fn escaped(&self, text: &str) -> String {
        if self.content_type.contains("json") { escape(text) } else { text.to_owned() }
    }
}

fn refuse_unbuilt(raw: &RawChallenge) -> Result<(), SchemeFault> {
    let unbuilt = |key: &str, found: String| {
        Err(SchemeFault::new(
            &format!("challenge.{key}"),
            found.clone(),
            format!("not implemented yet: challenge.{key} = {found}"),
        ))
    };
    match raw.method.as_deref() {
        None | Some("POST") => {}
        Some(method) => return unbuilt("method", format!("{method:?}")),
    }
    if raw.reply_headers.is_some() {
        return unbuilt("reply_headers", "a table".to_owned());
    }
    if raw.check.is_some() {
        return unbuilt("check", "a table".to_owned());
    }
    match raw.verify {
        Some(true) => Ok(()),
        Some(false) | None => unbuilt("verify", "false".to_owned()),
    }
}

/// Braces that open no known part stand for themselves: answers are often JSON.
fn parse_body(text: &str, pointers: &mut Pointers) -> Result<Vec<Chunk>, SchemeFault> {
    let fault = |found: &str| {
        let expected = "text with {json:/pointer}, {hmac_hex:{json:/pointer}}, {hmac_b64:{json:/pointer}}";
        SchemeFault::new("challenge.body", format!("{found:?}"), expected)
    };
    let mut chunks = Vec::new();
    let mut rest = text;
    while let Some((at, (open, close, encoding))) = next_part(rest) {
        let (before, part) = rest.split_at_checked(at).ok_or_else(|| fault(rest))?;
        let inside = part.strip_prefix(open).ok_or_else(|| fault(part))?;
        let (pointer, after) = inside.split_once(close).ok_or_else(|| fault(part))?;
        let place = pointers.place(json::Pointer::parse(pointer).ok_or_else(|| fault(part))?);
        if !before.is_empty() {
            chunks.push(Chunk::Text(before.to_owned()));
        }
        chunks.push(encoding.map_or(Chunk::Json(place), |encoding| Chunk::Hmac(encoding, place)));
        rest = after;
    }
    if !rest.is_empty() {
        chunks.push(Chunk::Text(rest.to_owned()));
    }
    Ok(chunks)
}

type PartForm = (&'static str, &'static str, Option<Encoding>);

fn next_part(text: &str) -> Option<(usize, PartForm)> {
    PARTS.iter().filter_map(|part| text.find(part.0).map(|at| (at, *part))).min_by_key(|(at, _)| *at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_text_and_parts_and_other_braces_are_text() {
        let mut pointers = Pointers::default();
        let body = parse_body(r#"{"a":"{json:/t}","b":"{hmac_hex:{json:/t}}"}"#, &mut pointers).expect("known parts");
        let text = |t: &str| Chunk::Text(t.into());
        let expected =
            [text(r#"{"a":""#), Chunk::Json(0), text(r#"","b":""#), Chunk::Hmac(Encoding::Hex, 0), text(r#""}"#)];
        assert_eq!(body, expected);
    }

    #[test]
    fn handshakes_that_are_not_signed_posts_are_not_built() {
        let unbuilt = [
            RawChallenge { method: Some("GET".into()), verify: Some(true), ..RawChallenge::default() },
            RawChallenge { verify: None, ..RawChallenge::default() },
            RawChallenge {
                verify: Some(true),
                reply_headers: Some(std::collections::BTreeMap::new()),
                ..RawChallenge::default()
            },
        ];
        for raw in unbuilt {
            let fault = Challenge::parse(&raw, &mut Pointers::default()).expect_err("not built");
            assert!(fault.expected.starts_with("not implemented yet: challenge."), "{fault}");
        }
    }
}

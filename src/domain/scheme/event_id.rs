//! The name of an event: which signed values tell it from all others.
//!
//! A key has one part for each entry of `event_id`. Where an entry has no value, or readers may differ about it, the
//! whole key is the digest of what was signed: of the body, with the query and the method where those are signed too. An entry that the signature does not cover never names an event alone:
//! the digest of what was signed joins it, so that a copied id on another body, or another id on a copied body,
//! cannot take the slot of an event that is still to come.

use std::borrow::Cow;

use http::Method;
use smallvec::SmallVec;

use super::json::Field;
use super::reading::{Reading, scalar_of};
use super::source::Source;
use super::template::Part;
use super::traits::Coverage;
use super::{Read, Scheme};
use crate::domain::inbound::Inbound;
use crate::domain::key::length;

/// One part of the key: alternatives, of which the first that is present counts.
#[derive(Clone, Debug)]
pub(super) struct IdEntry {
    pub(super) alternatives: Vec<(Source, Coverage)>,
    /// Whether a request without any of them is an event of its own.
    pub(super) or_request: Read,
}

/// The parts of a key, in the order of the entries, as [`put_part`] writes them: each is its kind, the place of its
/// alternative, and its value.
pub(super) type Parts = SmallVec<[u8; 96]>;

/// What names an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IdParts {
    /// The parts, in the order of the entries; none: what was signed names the event.
    pub(super) parts: Parts,
    /// Whether the signature covers all of them.
    pub(super) covered: Coverage,
    /// Whether the request itself is the event, whatever was signed.
    pub(super) is_request: Read,
}

/// What one entry yields.
enum Found {
    Part(Coverage),
    Missing,
    Unclear,
}

impl IdEntry {
    pub(super) fn is_covered(&self) -> bool {
        self.alternatives.iter().all(|(_, coverage)| *coverage == Coverage::Covered)
    }
}

/// Reads the parts of the key out of a request. `fields` are the values of its body.
///
/// The types of JSON values tell `"1"` from `1` where the body is signed; where only their texts are, they would let
/// anybody on the way make another key of the same event.
pub(super) fn read_parts(
    entries: &[IdEntry],
    reading: &Reading<'_>,
    fields: &[Field<'_>],
    body_signed: Read,
) -> IdParts {
    let mut parts = Parts::new();
    let mut covered = Coverage::Covered;
    for entry in entries {
        let is_request = match read_entry(entry, reading, fields, body_signed, &mut parts) {
            Found::Part(Coverage::Covered) => continue,
            Found::Part(Coverage::Uncovered) => {
                covered = Coverage::Uncovered;
                continue;
            }
            Found::Missing => entry.or_request,
            Found::Unclear => Read::No,
        };
        return IdParts { parts: Parts::new(), covered: Coverage::Covered, is_request };
    }
    IdParts { parts, covered, is_request: Read::No }
}

impl Scheme {
    /// What joins the body in the key of an event without an id: events that differ in a signed query or method alone are not one.
    /// The parameter that says when it was sent is another in each repetition, and a method of its own has who does not POST.
    pub(super) fn signed_beside(&self, inbound: &Inbound) -> IdParts {
        let mut parts = Parts::new();
        let when = match self.sent.as_ref().map(|rule| &rule.source) {
            Some(Source::Query(name)) => Some(name.as_slice()),
            Some(_) | None => None,
        };
        if let Some(query) = inbound.query.as_deref().filter(|_| self.signs_address()) {
            let says_when = |piece: &&[u8]| piece.split(|byte| *byte == b'=').next() == when;
            let pieces = query.as_bytes().split(|byte| *byte == b'&').filter(|piece| !says_when(piece));
            put_part(*b"q0", &pieces.collect::<Vec<_>>().join(&b'&'), &mut parts);
        }
        if self.signed.has(&Part::Method) && inbound.method != Method::POST {
            put_part(*b"m0", inbound.method.as_str().as_bytes(), &mut parts);
        }
        IdParts { parts, covered: Coverage::Uncovered, is_request: Read::No }
    }
}

fn read_entry(
    entry: &IdEntry,
    reading: &Reading<'_>,
    fields: &[Field<'_>],
    body_signed: Read,
    parts: &mut Parts,
) -> Found {
    for (place, (source, coverage)) in (0u8..).zip(&entry.alternatives) {
        let (tag, value) = match source {
            Source::Json(pointer) if fields.get(*pointer) == Some(&Field::Unclear) => return Found::Unclear,
            Source::Json(pointer) => match scalar_of(fields, *pointer) {
                Some(scalar) => {
                    let tag = if body_signed.is_yes() { scalar.tag() } else { b'j' };
                    (tag, Cow::Borrowed(scalar.as_text().as_bytes()))
                }
                None => continue,
            },
            Source::Header(_) | Source::Form(_) | Source::Query(_) | Source::Beside(_) | Source::Claim(_) => {
                match reading.value(source) {
                    Ok(Some(value)) => (b'o', value),
                    Ok(None) => continue,
                    Err(_) => return Found::Unclear,
                }
            }
        };
        put_part([tag, place], &value, parts);
        return Found::Part(*coverage);
    }
    Found::Missing
}

/// Writes one part as [`EventKey::of_written`](crate::domain::key::EventKey::of_written) takes it.
fn put_part(before: [u8; 2], value: &[u8], parts: &mut Parts) {
    parts.extend_from_slice(&length(before.len() + value.len()));
    parts.extend_from_slice(&before);
    parts.extend_from_slice(value);
}

//! The name of an event: which signed values tell it from all others.
//!
//! A key has one part for each entry of `event_id`. Where an entry has no value, or readers may differ about it, the
//! whole key is the digest of what was signed. An entry that the signature does not cover never names an event alone:
//! the digest of what was signed joins it, so that a copied id on another body, or another id on a copied body,
//! cannot take the slot of an event that is still to come.

use super::Read;
use super::json::Field;
use super::reading::{Reading, scalar_of};
use super::source::Source;
use super::traits::Coverage;

/// One part of the key: alternatives, of which the first that is present counts.
#[derive(Clone, Debug)]
pub(super) struct IdEntry {
    pub(super) alternatives: Vec<(Source, Coverage)>,
}

/// The parts of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum IdParts {
    /// These values, each with its kind and the place of its alternative before it.
    Values {
        /// The parts, in the order of the entries.
        parts: Vec<Vec<u8>>,
        /// Whether the signature covers all of them.
        covered: Coverage,
    },
    /// What was signed names the event.
    Signed,
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
pub(super) fn read_parts(entries: &[IdEntry], reading: &Reading<'_>, fields: &[Field], body_signed: Read) -> IdParts {
    let mut parts = Vec::with_capacity(entries.len());
    let mut covered = Coverage::Covered;
    for entry in entries {
        let Some((part, coverage)) = read_entry(entry, reading, fields, body_signed) else { return IdParts::Signed };
        if coverage == Coverage::Uncovered {
            covered = Coverage::Uncovered;
        }
        parts.push(part);
    }
    if parts.is_empty() { IdParts::Signed } else { IdParts::Values { parts, covered } }
}

fn read_entry(
    entry: &IdEntry,
    reading: &Reading<'_>,
    fields: &[Field],
    body_signed: Read,
) -> Option<(Vec<u8>, Coverage)> {
    for (place, (source, coverage)) in (0u8..).zip(&entry.alternatives) {
        let (tag, value) = match source {
            Source::Json(pointer) if fields.get(*pointer) == Some(&Field::Unclear) => return None,
            Source::Json(pointer) => match scalar_of(fields, *pointer) {
                Some(scalar) => {
                    (if body_signed.is_yes() { scalar.tag() } else { b'j' }, scalar.as_text().as_bytes().to_vec())
                }
                None => continue,
            },
            Source::Header(_) | Source::Form(_) | Source::Query(_) | Source::Beside(_) | Source::Claim(_) => {
                match reading.value(source).ok()? {
                    Some(value) => (b'o', value.into_owned()),
                    None => continue,
                }
            }
        };
        let mut part = vec![tag, place];
        part.extend_from_slice(&value);
        return Some((part, *coverage));
    }
    None
}

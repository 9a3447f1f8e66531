//! Where signatures stand and how they are written: from header values to candidate bytes.
//!
//! At most 16 candidates per request, 8 of them for the second way; more is refused rather than tried. A candidate that
//! cannot be decoded is passed over if another can: providers add new forms beside the old ones.

use std::ops::RangeInclusive;

use http::HeaderName;
use smallvec::SmallVec;

use super::encoding::{Decoded, decode};
use super::raw::Encoding;
use crate::domain::headers::{Headers, Named};
use crate::domain::refusal::Refusal;

/// Most signatures, and most groups of them, that are tried for one request.
pub(super) const MAX_SIGNATURES: usize = 16;

/// Most signatures of the second way among them. A keyed hash is computed once for all of them; an Ed25519 signature
/// has the whole message hashed once more for itself.
const MAX_SECOND: usize = 8;

/// One signature, decoded.
pub(super) type Candidate = Decoded;

/// Where the signature stands.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// In one or more of these headers.
    Headers(Vec<HeaderName>),
    /// In all headers whose names begin so.
    HeadersLike(String),
    /// In the JSON body.
    Json(usize),
    /// In the form in the body.
    Form(Vec<u8>),
    /// In each item of the batch.
    Item(usize),
}

/// How signatures are written.
#[derive(Clone, Debug)]
pub(super) struct Notation {
    pub(super) prefix: Vec<u8>,
    pub(super) encoding: Encoding,
    /// Lengths that a signature can have, in bytes.
    pub(super) lengths: RangeInclusive<usize>,
    pub(super) group: Option<u8>,
    pub(super) split: Option<u8>,
    pub(super) kv: Option<u8>,
    pub(super) pick: Option<Vec<u8>>,
    pub(super) lead: Vec<Vec<u8>>,
    /// The field beside the signatures that is the timestamp.
    pub(super) time: Option<Vec<u8>>,
    /// The fields of the second way of signing.
    pub(super) second: Option<Second>,
}

/// Fields that are signatures of the second way.
#[derive(Clone, Debug)]
pub(super) struct Second {
    pub(super) pick: Vec<u8>,
    pub(super) lengths: RangeInclusive<usize>,
}

/// A way of signing. A signature is tried with keys of its own way alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// The scheme's own.
    First,
    /// That of `also`.
    Second,
}

/// Signatures that share one timestamp.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Group<'h> {
    /// The timestamp beside them.
    pub(super) time: Option<&'h [u8]>,
    /// Decoded candidates of the right length; those of the second way come behind.
    candidates: SmallVec<[Candidate; 2]>,
    /// How many are of the first way.
    firsts: usize,
    /// Candidates that could not be decoded.
    malformed: usize,
}

/// The texts that hold signatures.
pub(super) type Values<'h> = SmallVec<[&'h [u8]; 2]>;

/// The values of the headers at `place`; empty values count as absent.
pub(super) fn header_values<'h>(place: &Place, headers: &'h Headers) -> Result<Values<'h>, Refusal> {
    let mut values = Values::new();
    match place {
        Place::Headers(names) => {
            for name in names {
                values.extend(single(headers, name)?);
            }
        }
        Place::HeadersLike(start) => {
            for (name, _) in headers.iter().filter(|(name, _)| is_like(name, start)) {
                values.extend(single(headers, name)?);
            }
        }
        Place::Json(_) | Place::Form(_) | Place::Item(_) => {}
    }
    match values.len() {
        0 => Err(Refusal::SignatureMissing),
        1..=MAX_SIGNATURES => Ok(values),
        _ => Err(Refusal::SignatureRepeated),
    }
}

/// Whether `name` begins with `start` and goes on.
pub(super) fn is_like(name: &HeaderName, start: &str) -> bool {
    name.as_str().len() > start.len() && name.as_str().starts_with(start)
}

/// The value of a header that may come once; an empty one counts as absent.
pub(super) fn single(headers: &Headers, name: impl Named) -> Result<Option<&[u8]>, Refusal> {
    let mut values = headers.get_all(name);
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(Refusal::SignatureRepeated),
        (Some(value), None) => Ok(Some(value.as_bytes()).filter(|bytes| !bytes.is_empty())),
        (None, None) => Ok(None),
    }
}

/// The groups of one request.
pub(super) type Groups<'h> = SmallVec<[Group<'h>; 1]>;

impl Notation {
    /// Puts all groups in `values` into `groups`, which is empty: at least one candidate and at most 16.
    pub(super) fn groups<'h>(&self, values: &[&'h [u8]], groups: &mut Groups<'h>) -> Result<(), Refusal> {
        for value in values {
            for text in pieces(value, self.group) {
                groups.push(Group::default());
                groups.last_mut().map_or(Ok(()), |group| self.read_group(text, group))?;
            }
            if groups.len() > MAX_SIGNATURES {
                return Err(Refusal::SignatureRepeated);
            }
        }
        let tried: usize = groups.iter().map(Group::tried).sum();
        let second: usize = groups.iter().map(|group| group.of(Way::Second).len()).sum();
        if tried > MAX_SIGNATURES || second > MAX_SECOND {
            return Err(Refusal::SignatureRepeated);
        }
        groups.retain(|group| group.tried() > group.malformed);
        if groups.is_empty() { Err(Refusal::SignatureMalformed) } else { Ok(()) }
    }

    /// How often the message is hashed, at most, for signatures written in `value`: once for each group, and once more
    /// for each signature of the second way.
    pub(super) fn hashings(&self, value: &[u8]) -> usize {
        let groups = if self.group.is_some() { pieces(value, self.group).count() } else { 1 };
        let second = if self.second.is_some() { pieces(value, self.split).count().min(MAX_SECOND) } else { 0 };
        (groups + second).clamp(1, MAX_SIGNATURES)
    }

    fn read_group<'h>(&self, text: &'h [u8], group: &mut Group<'h>) -> Result<(), Refusal> {
        for (index, field) in pieces(text, self.split).enumerate() {
            let (name, value) = self.named(index, field);
            let is_time = name.is_some() && name == self.time.as_deref();
            if is_time && group.time.replace(value).is_some() {
                return Err(Refusal::SignatureRepeated);
            }
            if let Some(way) = self.way(name, index).filter(|_| !is_time) {
                group.add(way, self.decode(way, value));
            }
            if group.tried() > MAX_SIGNATURES {
                return Err(Refusal::SignatureRepeated);
            }
        }
        group.time = group.time.filter(|time| !time.is_empty());
        Ok(())
    }

    /// The field's name, if it has one, and its value.
    fn named<'s, 'h: 's>(&'s self, index: usize, field: &'h [u8]) -> (Option<&'s [u8]>, &'h [u8]) {
        if let Some(name) = self.lead.get(index) {
            return (Some(name), field);
        }
        let Some(kv) = self.kv else { return (None, field) };
        match field.iter().position(|b| *b == kv).and_then(|at| field.split_at_checked(at)) {
            Some((name, value)) => (Some(name), value.get(1..).unwrap_or_default()),
            None => (None, field),
        }
    }

    /// The way of signing that a field belongs to, if it is a signature.
    fn way(&self, name: Option<&[u8]>, index: usize) -> Option<Way> {
        if index < self.lead.len() {
            return None;
        }
        match (self.kv, &self.pick, name) {
            (None, _, _) | (Some(_), None, Some(_)) => Some(Way::First),
            (Some(_), Some(pick), Some(name)) if pick == name => Some(Way::First),
            (Some(_), Some(_), Some(name)) if self.second.as_ref().is_some_and(|second| second.pick == name) => {
                Some(Way::Second)
            }
            (Some(_), Some(_), Some(_)) | (Some(_), _, None) => None,
        }
    }

    fn decode(&self, way: Way, text: &[u8]) -> Option<Candidate> {
        let lengths = match (way, &self.second) {
            (Way::Second, Some(second)) => &second.lengths,
            (Way::First, _) | (Way::Second, None) => &self.lengths,
        };
        let text = text.strip_prefix(self.prefix.as_slice())?;
        decode(self.encoding, text).filter(|signature| lengths.contains(&signature.len()))
    }
}

impl Group<'_> {
    fn add(&mut self, way: Way, signature: Option<Candidate>) {
        match (way, signature) {
            (Way::First, Some(signature)) => {
                self.candidates.insert(self.firsts, signature);
                self.firsts += 1;
            }
            (Way::Second, Some(signature)) => self.candidates.push(signature),
            (_, None) => self.malformed += 1,
        }
    }

    fn tried(&self) -> usize {
        self.candidates.len() + self.malformed
    }

    /// The candidates of one way.
    pub(super) fn of(&self, way: Way) -> &[Candidate] {
        let (first, second) = self.candidates.split_at_checked(self.firsts).unwrap_or_default();
        match way {
            Way::First => first,
            Way::Second => second,
        }
    }
}

/// `text` in pieces between `separator`, with blanks around each piece taken off, none of them empty; the whole
/// text, untouched, if there is no separator.
fn pieces(text: &[u8], separator: Option<u8>) -> impl Iterator<Item = &[u8]> {
    let pieces = text.split(move |byte| Some(*byte) == separator);
    let pieces = pieces.map(move |piece| if separator.is_some() { piece.trim_ascii() } else { piece });
    pieces.filter(move |piece| separator.is_none() || !piece.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> Notation {
        Notation {
            prefix: Vec::new(),
            encoding: Encoding::Hex,
            lengths: 1..=1,
            group: None,
            split: None,
            kv: None,
            pick: None,
            lead: Vec::new(),
            time: None,
            second: None,
        }
    }

    fn stripe() -> Notation {
        Notation { split: Some(b','), kv: Some(b'='), pick: Some(b"v1".to_vec()), time: Some(b"t".to_vec()), ..plain() }
    }

    fn group<'h>(time: Option<&'h str>, signatures: &[u8]) -> Group<'h> {
        Group {
            time: time.map(str::as_bytes),
            candidates: signatures.iter().map(|s| Candidate::from_slice(&[*s])).collect(),
            firsts: signatures.len(),
            malformed: 0,
        }
    }

    impl Notation {
        fn all<'h>(&self, values: &[&'h [u8]]) -> Result<Groups<'h>, Refusal> {
            let mut groups = Groups::new();
            self.groups(values, &mut groups).map(|()| groups)
        }
    }

    fn found(groups: impl IntoIterator<Item = Group<'static>>) -> Groups<'static> {
        groups.into_iter().collect()
    }

    #[test]
    fn fields_are_picked_by_name_and_others_passed_over() {
        let groups = stripe().all(&[b"t=17, v1=aa,v0=bb,v1=cc,x"]);
        assert_eq!(groups, Ok(found([group(Some("17"), &[0xaa, 0xcc])])));
        assert_eq!(stripe().all(&[b"t=17,v2=aa"]), Err(Refusal::SignatureMalformed));
        assert_eq!(stripe().all(&[b"t=17,aa"]), Err(Refusal::SignatureMalformed));
    }

    #[test]
    fn a_timestamp_beside_the_signature_comes_once() {
        assert_eq!(stripe().all(&[b"t=1,t=2,v1=aa"]), Err(Refusal::SignatureRepeated));
        assert_eq!(stripe().all(&[b"t=,v1=aa"]), Ok(found([group(None, &[0xaa])])));
    }

    #[test]
    fn what_a_check_costs_is_known_before_it() {
        assert_eq!(stripe().hashings(b"t=1,v1=aa,v1=bb"), 1);
        let grouped = Notation { group: Some(b' '), ..stripe() };
        assert_eq!(grouped.hashings(b"t=1,v1=aa t=2,v1=bb  t=3"), 3);
        assert_eq!(grouped.hashings("t=1,v1=aa ".repeat(40).as_bytes()), 16);
        let second = Some(Second { pick: b"v2".to_vec(), lengths: 1..=1 });
        assert_eq!(Notation { second, ..stripe() }.hashings(b"v2=aa,v2=bb"), 3);
    }

    #[test]
    fn sixteen_groups_are_tried_and_seventeen_refused() {
        let grouped = Notation { group: Some(b' '), ..stripe() };
        let many = |n: usize| "t=1,v1=aa ".repeat(n);
        assert_eq!(grouped.all(&[many(16).as_bytes()]).map(|groups| groups.len()), Ok(16));
        assert_eq!(grouped.all(&[many(17).as_bytes()]), Err(Refusal::SignatureRepeated));
    }

    #[test]
    fn sixteen_signatures_are_tried_and_seventeen_refused() {
        let many = |n: usize| format!("t=1{}", ",v1=aa".repeat(n));
        assert!(stripe().all(&[many(16).as_bytes()]).is_ok());
        assert_eq!(stripe().all(&[many(17).as_bytes()]), Err(Refusal::SignatureRepeated));
        let malformed = format!("t=1,v1=aa{}", ",v1=zz".repeat(16));
        assert_eq!(stripe().all(&[malformed.as_bytes()]), Err(Refusal::SignatureRepeated));
    }

    #[test]
    fn each_group_has_its_own_timestamp() {
        let persona = Notation { group: Some(b' '), ..stripe() };
        let groups = persona.all(&[b"t=1,v1=aa t=2,v1=bb"]);
        assert_eq!(groups, Ok(found([group(Some("1"), &[0xaa]), group(Some("2"), &[0xbb])])));
    }

    #[test]
    fn leading_fields_are_named_by_their_place() {
        let recurly = Notation { split: Some(b','), lead: vec![b"t".to_vec()], time: Some(b"t".to_vec()), ..plain() };
        assert_eq!(recurly.all(&[b"17,aa,bb"]), Ok(found([group(Some("17"), &[0xaa, 0xbb])])));
        assert_eq!(recurly.all(&[b"17"]), Err(Refusal::SignatureMalformed));
    }

    #[test]
    fn a_prefix_is_needed_once_and_in_its_own_case() {
        let github = Notation { prefix: b"sha256=".to_vec(), ..plain() };
        assert_eq!(github.all(&[b"sha256=aa"]), Ok(found([group(None, &[0xaa])])));
        for wrong in ["aa", "SHA256=aa", "sha256=sha256=aa", "sha256= aa", "sha256=", "sha256=aaaa"] {
            assert_eq!(github.all(&[wrong.as_bytes()]), Err(Refusal::SignatureMalformed), "{wrong}");
        }
    }

    #[test]
    fn a_name_with_a_star_takes_all_headers_that_begin_so() {
        let mut headers = Headers::new();
        headers.insert("x-docusign-signature-1", "aa".parse().expect("a value"));
        headers.insert("x-docusign-signature-2", "bb".parse().expect("a value"));
        headers.insert("x-docusign-signature-", "cc".parse().expect("a value"));
        let place = Place::HeadersLike("x-docusign-signature-".into());
        assert_eq!(header_values(&place, &headers).map(|v| v.len()), Ok(2));
        headers.append("x-docusign-signature-2", "bb".parse().expect("a value"));
        assert_eq!(header_values(&place, &headers), Err(Refusal::SignatureRepeated));
    }
}

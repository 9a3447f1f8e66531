//! Fields of an `application/x-www-form-urlencoded` text (WHATWG URL, section 5), as bytes.
//!
//! A bad escape stands for itself, as everywhere. Values are not required to be UTF-8.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// Most fields that are read. A provider's form has tens; the bound keeps an unverified body from costing memory.
const MAX_FIELDS: usize = 4096;

/// A parsed form.
#[derive(Debug)]
pub(super) struct Form<'a> {
    fields: Vec<Pair<'a>>,
}

/// A field's name and its value.
type Pair<'a> = (Cow<'a, [u8]>, Cow<'a, [u8]>);

/// How often a field comes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Occurrence<'f> {
    /// Never.
    None,
    /// Once, with this value.
    Once(&'f [u8]),
    /// More than once.
    Repeated,
}

impl<'a> Form<'a> {
    /// `None` if there are more than 4096 fields.
    pub(super) fn parse(text: &'a [u8]) -> Option<Self> {
        let pieces = || text.split(|b| *b == b'&').filter(|piece| !piece.is_empty());
        if pieces().count() > MAX_FIELDS {
            return None;
        }
        let fields = pieces()
            .map(|piece| {
                let mut halves = piece.splitn(2, |b| *b == b'=');
                let (name, value) = (halves.next().unwrap_or_default(), halves.next().unwrap_or_default());
                (unescape(name), unescape(value))
            })
            .collect();
        Some(Self { fields })
    }

    /// The field of this name.
    pub(super) fn get(&self, name: &[u8]) -> Occurrence<'_> {
        let mut values = self.fields.iter().filter(|(n, _)| n.as_ref() == name).map(|(_, value)| value.as_ref());
        match (values.next(), values.next()) {
            (None, _) => Occurrence::None,
            (Some(value), None) => Occurrence::Once(value),
            (Some(_), Some(_)) => Occurrence::Repeated,
        }
    }

    /// Names and values without separators, names in byte order, values of one name in byte order and each once.
    pub(super) fn sorted(&self) -> Vec<u8> {
        let mut sorted: BTreeMap<&[u8], BTreeSet<&[u8]>> = BTreeMap::new();
        for (name, value) in &self.fields {
            sorted.entry(name).or_default().insert(value);
        }
        let mut text = Vec::new();
        for (name, values) in sorted {
            for value in values {
                text.extend_from_slice(name);
                text.extend_from_slice(value);
            }
        }
        text
    }
}

fn unescape(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.iter().any(|b| matches!(b, b'%' | b'+')) {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => match tail.split_first_chunk::<2>().and_then(|(two, after)| Some((hex_byte(*two)?, after))) {
                Some((byte, after)) => {
                    bytes.push(byte);
                    rest = after;
                }
                None => bytes.push(b'%'),
            },
            other => bytes.push(*other),
        }
    }
    Cow::Owned(bytes)
}

fn hex_byte([high, low]: [u8; 2]) -> Option<u8> {
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_unescaped_and_bad_escapes_stand_for_themselves() {
        let form = Form::parse(b"a+b=c%20d&e=%zz%4&&f&g==").expect("few fields");
        assert_eq!(form.get(b"a b"), Occurrence::Once(b"c d"));
        assert_eq!(form.get(b"e"), Occurrence::Once(b"%zz%4"));
        assert_eq!(form.get(b"f"), Occurrence::Once(b""));
        assert_eq!(form.get(b"g"), Occurrence::Once(b"="));
        assert_eq!(form.get(b"x"), Occurrence::None);
    }

    #[test]
    fn a_field_that_comes_twice_has_no_value() {
        let form = Form::parse(b"a=1&a=1").expect("few fields");
        assert_eq!(form.get(b"a"), Occurrence::Repeated);
    }

    #[test]
    fn sorting_puts_upper_case_first_and_drops_equal_values() {
        let form = Form::parse(b"b=2&a=z&a=y&a=z&B=1").expect("few fields");
        assert_eq!(form.sorted(), b"B1ayazb2");
    }

    #[test]
    fn a_form_may_have_4096_fields_and_no_more() {
        assert!(Form::parse("a&".repeat(4096).as_bytes()).is_some());
        assert!(Form::parse("a&".repeat(4097).as_bytes()).is_none());
    }
}

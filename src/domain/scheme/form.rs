//! Fields of an `application/x-www-form-urlencoded` text (WHATWG URL, section 5), as bytes.
//!
//! A bad escape stands for itself, as everywhere. Values are not required to be UTF-8. A text of up to 1 KiB and 32
//! fields costs no allocation.

use std::ops::Range;

use smallvec::SmallVec;

/// Most fields that are read. A provider's form has tens; the bound keeps an unverified body from costing memory.
const MAX_FIELDS: usize = 4096;

/// A parsed form.
#[derive(Debug, Default)]
pub(super) struct Form {
    /// Names and values one after the other, unescaped.
    text: SmallVec<[u8; 1024]>,
    fields: SmallVec<[Field; 32]>,
    /// Names and values without separators, once they are sorted.
    sorted: SmallVec<[u8; 1024]>,
}

/// Where a field's name and its value stand in the text.
#[derive(Clone, Debug)]
struct Field {
    name: Range<usize>,
    value: Range<usize>,
}

/// A field's name and its value.
type Pair<'f> = (&'f [u8], &'f [u8]);

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

impl Form {
    /// `None` if there are more than 4096 fields.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let mut form = Self::default();
        form.read(text).is_some().then_some(form)
    }

    /// Reads `text` in place: a form is too large to be moved about for nothing. `None` if there are more than 4096
    /// fields.
    pub(super) fn read(&mut self, text: &[u8]) -> Option<&Self> {
        self.text.resize(text.len(), 0);
        let mut end = 0;
        for piece in text.split(|b| *b == b'&').filter(|piece| !piece.is_empty()) {
            if self.fields.len() == MAX_FIELDS {
                return None;
            }
            let (name, value) = match piece.iter().position(|b| *b == b'=').and_then(|at| piece.split_at_checked(at)) {
                Some((name, value)) => (name, value.get(1..).unwrap_or_default()),
                None => (piece, &[] as &[u8]),
            };
            let name = self.take_in(name, end);
            let value = self.take_in(value, name.end);
            end = value.end;
            self.fields.push(Field { name, value });
        }
        Some(self)
    }

    /// Unescaped text is never longer than it was.
    fn take_in(&mut self, escaped: &[u8], start: usize) -> Range<usize> {
        start..start + self.text.get_mut(start..).map_or(0, |free| unescape(escaped, free))
    }

    fn pairs(&self) -> impl Iterator<Item = Pair<'_>> {
        let at = |range: &Range<usize>| self.text.get(range.clone()).unwrap_or_default();
        self.fields.iter().map(move |field| (at(&field.name), at(&field.value)))
    }

    /// The field of this name.
    pub(super) fn get(&self, name: &[u8]) -> Occurrence<'_> {
        let mut values = self.pairs().filter(|(known, _)| *known == name).map(|(_, value)| value);
        match (values.next(), values.next()) {
            (None, _) => Occurrence::None,
            (Some(value), None) => Occurrence::Once(value),
            (Some(_), Some(_)) => Occurrence::Repeated,
        }
    }

    /// Names and values without separators, names in byte order, values of one name in byte order and each once; empty
    /// before [`Self::sort`].
    pub(super) fn sorted(&self) -> &[u8] {
        &self.sorted
    }

    /// Sorts the fields.
    pub(super) fn sort(&mut self) {
        let mut text = std::mem::take(&mut self.sorted);
        text.resize(self.text.len(), 0);
        let mut pairs: SmallVec<[Pair<'_>; 32]> = self.pairs().collect();
        pairs.sort_unstable();
        pairs.dedup();
        let mut end = 0;
        for bytes in pairs.iter().flat_map(|(name, value)| [name, value]) {
            if let Some(free) = text.get_mut(end..end + bytes.len()) {
                free.copy_from_slice(bytes);
                end += bytes.len();
            }
        }
        text.truncate(end);
        drop(pairs);
        self.sorted = text;
    }
}

/// Writes `text` unescaped to the front of `into` and says how many bytes that were.
fn unescape(text: &[u8], into: &mut [u8]) -> usize {
    let mut rest = text;
    let mut written = 0;
    loop {
        let plain = rest.iter().position(|byte| matches!(byte, b'%' | b'+')).unwrap_or(rest.len());
        let (front, escaped) = rest.split_at(plain);
        if let Some(free) = into.get_mut(written..written + plain) {
            free.copy_from_slice(front);
            written += plain;
        }
        let Some((mark, tail)) = escaped.split_first() else { return written };
        let two = tail.first_chunk::<2>().filter(|_| *mark == b'%').and_then(|two| hex_byte(*two));
        let (byte, taken) = match (mark, two) {
            (b'+', _) => (b' ', 1),
            (_, Some(byte)) => (byte, 3),
            (_, None) => (b'%', 1),
        };
        if let Some(free) = into.get_mut(written) {
            *free = byte;
            written += 1;
        }
        rest = escaped.get(taken..).unwrap_or_default();
    }
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
        let mut form = Form::parse(b"b=2&a=z&a=y&a=z&B=1").expect("few fields");
        form.sort();
        assert_eq!(form.sorted(), b"B1ayazb2");
    }

    #[test]
    fn a_form_may_have_4096_fields_and_no_more() {
        assert!(Form::parse("a&".repeat(4096).as_bytes()).is_some());
        assert!(Form::parse("a&".repeat(4097).as_bytes()).is_none());
    }
}

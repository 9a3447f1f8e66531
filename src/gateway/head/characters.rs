//! Which characters may stand where in a head, in one table for all, and where in a line the first one stands that ends a part.

use crate::domain::chunks::is_token_byte;
use crate::domain::eights::{HIGHEST, each};

/// May stand in a token (RFC 9110 section 5.6.2): in a method, in a name.
pub(super) const TOKEN: u8 = 1;
/// May stand in a path: those of RFC 3986, and some that are to be written otherwise and that the parser takes all the same.
pub(super) const PATH: u8 = 2;
/// May stand in a query, likewise.
pub(super) const QUERY: u8 = 4;
/// May stand in a host's name or IPv4 address.
pub(super) const HOST: u8 = 8;

#[expect(clippy::indexing_slicing, reason = "an index that is too large does not compile")]
static CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0_u8;
    // The others, from 0x80 on, may stand in values alone.
    while byte.is_ascii() {
        let path = matches!(byte, b'!' | b'"' | b'$'..=b';' | b'=' | b'@'..=b'_' | b'a'..=b'~');
        let query = matches!(byte, b'!' | b'$'..=b';' | b'=' | b'?'..=b'~');
        let host = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
        let mut class = 0;
        if is_token_byte(byte) {
            class |= TOKEN;
        }
        if path {
            class |= PATH;
        }
        if query {
            class |= QUERY;
        }
        if host {
            class |= HOST;
        }
        classes[byte as usize] = class;
        byte += 1;
    }
    classes
};

/// How many bytes at the start of `text` may stand in one of `class`.
#[inline]
pub(super) fn run(text: &[u8], class: u8) -> usize {
    let fits = |byte: &u8| CLASSES.get(usize::from(*byte)).is_some_and(|classes| classes & class != 0);
    text.iter().position(|byte| !fits(byte)).unwrap_or(text.len())
}

/// Where the first eight bytes stand in which `marks` marks one by its highest bit, and which one of them is marked first.
#[inline]
fn first(text: &[u8], marks: impl Fn(u64) -> u64) -> Option<usize> {
    let mut before = 0;
    for eight in text.as_chunks().0 {
        let marked = marks(u64::from_le_bytes(*eight)) & HIGHEST;
        if marked != 0 {
            // At most 7 more.
            return Some(before + (marked.trailing_zeros() / 8) as usize);
        }
        before += 8;
    }
    None
}

/// Where the first byte stands from `from` on that is looked for, one by one.
#[cold]
fn slowly(text: &[u8], from: usize, is: impl Fn(u8) -> bool) -> Option<usize> {
    Some(from + text.get(from..)?.iter().position(|byte| is(*byte))?)
}

/// Where the first control character stands that is no tab. None is part of a value, and those that end a line are two.
#[inline]
pub(super) fn control(text: &[u8]) -> Option<usize> {
    // A byte below a space borrows, and DEL becomes one that is not ASCII. Others may be marked, and tabs are.
    let at = first(text, |eight| (eight.wrapping_sub(each(b' ')) | eight.wrapping_add(each(1))) & !eight);
    let from = at.unwrap_or(text.len() - text.len() % 8);
    if text.get(from) == Some(&b'\r') {
        return Some(from);
    }
    slowly(text, from, |byte| (byte < b' ' && byte != b'\t') || byte == 0x7f)
}

/// Where the first colon stands.
#[inline]
pub(super) fn colon(text: &[u8]) -> Option<usize> {
    // What a borrow marks wrongly stands behind one that is marked rightly.
    let marks = |eight: u64| (eight ^ each(b':')).wrapping_sub(each(1)) & !(eight ^ each(b':'));
    match first(text, marks) {
        None => slowly(text, text.len() - text.len() % 8, |byte| byte == b':'),
        found => found,
    }
}

#[cfg(test)]
mod tests {
    use http::uri::PathAndQuery;

    use super::*;

    #[test]
    fn a_path_and_a_query_hold_what_the_parser_takes_of_what_is_seen() {
        let (mut paths, mut queries) = (0, 0);
        for byte in 0..=u8::MAX {
            let takes =
                |target: &[u8]| byte.is_ascii_graphic() && byte != b'#' && PathAndQuery::try_from(target).is_ok();
            // A question mark ends a path.
            let (in_path, in_query) = (takes(&[b'/', byte]) && byte != b'?', takes(&[b'/', b'?', byte]));
            assert_eq!(run(&[byte], PATH) == 1, in_path, "{byte:#x}");
            assert_eq!(run(&[byte], QUERY) == 1, in_query, "{byte:#x}");
            paths += usize::from(in_path);
            queries += usize::from(in_query);
        }
        assert_eq!((paths, queries), (89, 90));
    }

    #[test]
    fn names_are_of_tokens_and_hosts_of_letters_digits_and_four_marks() {
        for byte in 0..=u8::MAX {
            assert_eq!(run(&[byte], TOKEN) == 1, is_token_byte(byte), "{byte:#x}");
            let host = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
            assert_eq!(run(&[byte], HOST) == 1, host, "{byte:#x}");
        }
        assert_eq!((run(b"ab c", TOKEN), run(b"abc", TOKEN), run(b"", TOKEN)), (2, 3, 0));
    }

    #[test]
    fn the_first_of_its_kind_is_found_wherever_it_stands_and_whatever_stands_around_it() {
        for around in [b' ', b'a', b';', b'9', b'\t', 0x7e, 0x80, 0xff, 0xba] {
            for length in 0..30 {
                let mut text = vec![around; length];
                assert_eq!((control(&text), colon(&text)), (None, None), "{around:#x}");
                for at in 0..length {
                    for byte in 0..=u8::MAX {
                        text[at] = byte;
                        text[length - 1 - at / 2] = byte;
                        let first = text.iter().position(|of| *of == byte);
                        let is_control = (byte < b' ' && byte != b'\t') || byte == 0x7f;
                        assert_eq!(control(&text), first.filter(|_| is_control), "{byte:#x} in {around:#x}");
                        assert_eq!(colon(&text), first.filter(|_| byte == b':'), "{byte:#x} in {around:#x}");
                    }
                    text.fill(around);
                }
            }
        }
    }
}

//! What the fuzz targets reach of the gateway's own readers. It is no interface: nothing else uses it.

use super::head::{self, Framing, Places};
use super::site::{Destination, Site};
use crate::domain::chunks::Chunks;

/// A head that comes in two pieces, the first `cut` bytes long: how long it is and how long its body, `None` for chunks.
/// Nothing if it is refused or not complete.
#[must_use]
pub fn head(bytes: &[u8], cut: usize) -> Option<(usize, Option<u64>)> {
    let first = bytes.get(..cut)?;
    let end = match head::end(first, 0).ok()? {
        Some(end) => end,
        None => head::end(bytes, cut).ok()??,
    };
    let judged = head::judge(bytes.get(..end)?, &mut Places::default()).ok()?;
    // Whatever stands behind it.
    debug_assert_eq!(head::judge(bytes, &mut Places::default()).as_ref(), Ok(&judged));
    let length = match judged.framing {
        Framing::Length(length) => Some(length),
        Framing::Chunked => None,
    };
    Some((end, length))
}

/// A body by chunks that comes in pieces of `size`: how long it is, framing included. Nothing if it is malformed or not
/// complete.
#[must_use]
pub fn chunks(bytes: &[u8], size: usize) -> Option<usize> {
    let mut chunks = Chunks::new();
    let mut read = 0;
    for piece in bytes.chunks(size.max(1)) {
        read += chunks.read(piece).ok()?;
        if chunks.is_done() {
            return Some(read);
        }
    }
    None
}

/// What came over a connection of HTTP/2 in pieces of `size`, as it is counted: requests begun, of which too much came if of
/// anything, and whether a head is coming that is not complete.
#[must_use]
pub fn frames(bytes: &[u8], size: usize) -> (u64, Option<&'static str>, bool) {
    super::http2::counted(bytes, size)
}

/// Whether a request for `path` goes to the application unverified.
#[must_use]
pub fn passes(site: &Site, path: &str) -> bool {
    matches!(site.find(path), Destination::Passthrough)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str) -> bool {
        chunks(text.as_bytes(), 7) == Some(text.len())
    }

    #[test]
    fn a_size_has_twelve_digits_at_most() {
        assert!(whole("000000000001\r\na\r\n000000000000\r\n\r\n"));
        assert!(!whole("0000000000001\r\na\r\n0\r\n\r\n"));
    }

    #[test]
    fn sizes_are_hexadecimal_however_their_digits_come() {
        let body = format!("1a\r\n{}\r\n0A0\r\n{}\r\n0\r\n\r\n", "x".repeat(26), "y".repeat(160));
        for size in [1, 2, 3, 7, 1000] {
            assert_eq!(chunks(body.as_bytes(), size), Some(body.len()), "{size}");
        }
    }

    #[test]
    fn a_trailer_is_text_to_its_end() {
        for (byte, fits) in [('\t', true), (' ', true), ('~', true), ('\0', false), ('\x01', false), ('\x7f', false)] {
            let text = format!("0\r\na: {byte}\r\n\r\n");
            for size in [1, 7, 1000] {
                assert_eq!(chunks(text.as_bytes(), size).is_some(), fits, "{byte:?} in pieces of {size}");
            }
        }
    }

    #[test]
    fn extensions_and_trailers_have_4096_bytes_at_most() {
        // The name and the colon count, the line's end does not.
        for (value, fits) in [(4094, true), (4095, false)] {
            assert_eq!(whole(&format!("0\r\na:{}\r\n\r\n", "v".repeat(value))), fits, "{value}");
        }
    }

    #[test]
    fn a_trailer_with_a_name_longer_than_any_that_is_refused_is_let_through() {
        for name in
            ["a", "seventeen-letters", "eighteen-letters-x", "nineteen-letters-xy", "transfer-encoding-of-another-kind"]
        {
            assert!(whole(&format!("0\r\n{name}: 1\r\n\r\n")), "{name}");
        }
        assert!(!whole("0\r\nTransfer-Encoding: 1\r\n\r\n"));
    }

    #[test]
    fn a_content_length_has_eighteen_digits_at_most() {
        for (digits, length) in [(18, Some(Some(111_111_111_111_111_111))), (19, None)] {
            let text = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", "1".repeat(digits));
            assert_eq!(head(text.as_bytes(), 3).map(|(_, length)| length), length, "{digits}");
        }
    }
}

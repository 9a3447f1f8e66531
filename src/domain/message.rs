//! Lines of an HTTP/1.1 message as bytes (RFC 9112), to a sender or to an application. Names come in title case:
//! `Content-Type` for `content-type`, for some read them as if their case mattered.

use http::{HeaderName, HeaderValue};

use super::eights::{HIGHEST, each};

/// Writes one header line.
pub fn put_header(message: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
    message.reserve(name.len() + value.len() + 12);
    put_in_title_case(message, name);
    message.extend_from_slice(b": ");
    message.extend_from_slice(value);
    message.extend_from_slice(b"\r\n");
}

/// Writes a name, which is of ASCII characters, with its first letter and those behind hyphens large.
fn put_in_title_case(message: &mut Vec<u8>, name: &[u8]) {
    let (eights, rest) = name.as_chunks();
    let mut before = b'-';
    for eight in eights {
        message.extend_from_slice(&in_title_case(*eight, before));
        before = eight[7];
    }
    if rest.is_empty() {
        return;
    }
    if let [.., before, a, b, c, d, e, f, g, h] = *name {
        // Eight again, of which the first ones are there already.
        message.truncate(message.len() + rest.len() - 8);
        message.extend_from_slice(&in_title_case([a, b, c, d, e, f, g, h], before));
    } else {
        let mut eight = [0; 8];
        eight.iter_mut().zip(rest).for_each(|(place, byte)| *place = *byte);
        message.extend_from_slice(&in_title_case(eight, before));
        message.truncate(message.len() + rest.len() - 8);
    }
}

/// Eight bytes of a name in title case. `before`: what stands before them.
#[inline]
fn in_title_case(eight: [u8; 8], before: u8) -> [u8; 8] {
    let eight = u64::from_le_bytes(eight) & !HIGHEST;
    // The highest bit of each byte says what is so of it. No sum is carried to the next one.
    let small = (eight + each(0x80 - b'a')) & !(eight + each(0x80 - b'z' - 1)) & HIGHEST;
    let behind = eight << 8 | u64::from(before);
    let begins = !((behind ^ each(b'-')) + each(0x7f)) & HIGHEST;
    // The bit in which the letters' cases differ.
    (eight ^ ((small & begins) >> 2)).to_le_bytes()
}

/// Writes one header line of our own. `name` as it is to be seen; `value` is text of ours, without line ends.
pub fn put_line(message: &mut Vec<u8>, name: &str, value: &str) {
    message.extend_from_slice(name.as_bytes());
    message.extend_from_slice(b": ");
    message.extend_from_slice(value.as_bytes());
    message.extend_from_slice(b"\r\n");
}

/// Writes one header line of our own whose value is a number.
pub fn put_number(message: &mut Vec<u8>, name: &str, number: u64) {
    put_line(message, name, digits(number, &mut [0; LONGEST]));
}

/// As many digits as the largest number has.
pub const LONGEST: usize = 20;

/// The decimal digits of a number, written into `room`.
pub fn digits(mut number: u64, room: &mut [u8; LONGEST]) -> &str {
    let mut length = 0;
    for digit in room.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
        length += 1;
        if number == 0 {
            break;
        }
    }
    std::str::from_utf8(room.get(LONGEST - length..).unwrap_or_default()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_seen_in_title_case_and_values_as_they_are() {
        let mut message = Vec::new();
        let value = HeaderValue::from_bytes(b"a\xe9 b").expect("a value");
        put_header(&mut message, &HeaderName::from_static("x-veedeo-signature"), &value);
        put_line(&mut message, "Content-Length", "0");
        assert_eq!(message, b"X-Veedeo-Signature: a\xe9 b\r\nContent-Length: 0\r\n");
    }

    #[test]
    fn the_letters_that_begin_a_word_are_large_wherever_they_stand() {
        let names = (1..30).flat_map(|length| (0..length).map(move |hyphen| (length, hyphen)));
        for (length, hyphen) in names {
            for other in [b'a', b'z', b'm', b'0', b'_', b'`', b'~', b'-'] {
                let mut name = vec![other; length];
                name[hyphen] = b'-';
                let parsed = HeaderName::from_bytes(&name).expect("a name");
                let mut message = b"before".to_vec();
                put_header(&mut message, &parsed, &HeaderValue::from_static("a"));
                for at in (0..length).filter(|at| *at == 0 || name[at - 1] == b'-').collect::<Vec<_>>() {
                    name[at].make_ascii_uppercase();
                }
                assert_eq!(message, [b"before", name.as_slice(), b": a\r\n"].concat(), "{parsed}");
            }
        }
    }

    #[test]
    fn a_number_is_written_in_full() {
        for number in [0, 7, 10, 99, 100, 1_048_576, u64::MAX] {
            let mut message = Vec::new();
            put_number(&mut message, "Content-Length", number);
            assert_eq!(message, format!("Content-Length: {number}\r\n").into_bytes());
        }
    }
}

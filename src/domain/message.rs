//! Lines of an HTTP/1.1 message as bytes (RFC 9112), to a sender or to an application. Names come in title case:
//! `Content-Type` for `content-type`, for some read them as if their case mattered.

use http::{HeaderName, HeaderValue};

/// Writes one header line.
pub fn put_header(message: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    let start = message.len();
    message.extend_from_slice(name.as_str().as_bytes());
    let mut before = b'-';
    for byte in message.get_mut(start..).unwrap_or_default() {
        let small = *byte;
        // The bit in which the letters' cases differ.
        *byte &= !(u8::from(before == b'-' && small.is_ascii_lowercase()) << 5);
        before = small;
    }
    message.extend_from_slice(b": ");
    message.extend_from_slice(value.as_bytes());
    message.extend_from_slice(b"\r\n");
}

/// Writes one header line of our own. `name` as it is to be seen; `value` is text of ours, without line ends.
pub fn put_line(message: &mut Vec<u8>, name: &str, value: &str) {
    message.extend_from_slice(name.as_bytes());
    message.extend_from_slice(b": ");
    message.extend_from_slice(value.as_bytes());
    message.extend_from_slice(b"\r\n");
}

/// Writes one header line of our own whose value is a number.
pub fn put_number(message: &mut Vec<u8>, name: &str, mut number: u64) {
    // As many as the largest number has.
    let mut digits = [b'0'; 20];
    let mut length = 0;
    for digit in digits.iter_mut().rev() {
        *digit += u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
        length += 1;
        if number == 0 {
            break;
        }
    }
    message.extend_from_slice(name.as_bytes());
    message.extend_from_slice(b": ");
    message.extend_from_slice(digits.get(digits.len() - length..).unwrap_or_default());
    message.extend_from_slice(b"\r\n");
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
    fn a_number_is_written_in_full() {
        for number in [0, 7, 10, 99, 100, 1_048_576, u64::MAX] {
            let mut message = Vec::new();
            put_number(&mut message, "Content-Length", number);
            assert_eq!(message, format!("Content-Length: {number}\r\n").into_bytes());
        }
    }
}

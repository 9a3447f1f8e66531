//! Lines of an HTTP/1.1 message as bytes (RFC 9112), to a sender or to an application. Names come in title case:
//! `Content-Type` for `content-type`, for some read them as if their case mattered.

use http::{HeaderName, HeaderValue};

/// Writes one header line.
pub fn put_header(message: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    let mut before = b'-';
    message.extend(name.as_str().bytes().map(|byte| {
        let begins = std::mem::replace(&mut before, byte) == b'-';
        if begins { byte.to_ascii_uppercase() } else { byte }
    }));
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
}

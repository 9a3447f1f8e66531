//! A request's head as what it says: method, target, header lines. It judges nothing: `head` has let it in, by rules under
//! which every line can be cut in one way only.

use super::head::Places;
use crate::domain::headers::Headers;
use bytes::Bytes;
use http::header::{CONNECTION, EXPECT};
use http::{HeaderValue, Method};

/// Header lines that the application gets besides.
const OUR_LINES: usize = 5;

/// A head that was read.
#[derive(Debug)]
pub(super) struct Request {
    /// As sent.
    pub(super) method: Method,
    /// As sent, byte for byte, without the query.
    pub(super) path: String,
    /// As sent, without its `?`.
    pub(super) query: Option<String>,
    /// Repeated names are kept in their order.
    pub(super) headers: Headers,
    /// Whether the sender speaks HTTP/1.1 and not 1.0.
    speaks_11: bool,
}

impl Request {
    /// Cuts a judged head into its parts by their `places`; the values stay where they are. `None`: they are not its own.
    pub(super) fn parse(head: &Bytes, places: &Places) -> Option<Self> {
        let method = Method::from_bytes(head.get(..places.method)?).ok()?;
        let path = text(places.path(head))?;
        let query = match head.get(places.path..places.target)? {
            [] => None,
            query => Some(text(query.get(1..)?)?),
        };
        let mut headers = Headers::with_capacity(places.count() + OUR_LINES);
        for line in places.lines(head) {
            let (name, value) = line?;
            headers.append(name, HeaderValue::from_maybe_shared(head.slice_ref(trimmed(value))).ok()?);
        }
        Some(Self { method, path, query, headers, speaks_11: places.speaks_11 })
    }

    /// Whether the sender wants to send another request on the connection (RFC 9112 section 9.3).
    pub(super) fn keeps_alive(&self) -> bool {
        if self.speaks_11 { !self.names_option("close") } else { self.names_option("keep-alive") }
    }

    /// Whether the sender must be told that the connection stays open: to HTTP/1.0 that is not the rule.
    pub(super) const fn must_be_told(&self) -> bool {
        !self.speaks_11
    }

    /// Whether the sender holds its body back until it is told to go on. The guard lets in no other expectation, and that
    /// of an HTTP/1.0 sender means nothing (RFC 9110 section 10.1.1).
    pub(super) fn waits_for_continue(&self) -> bool {
        self.speaks_11 && self.headers.contains_key(EXPECT)
    }

    fn names_option(&self, option: &str) -> bool {
        let values = self.headers.get_all(CONNECTION);
        let mut options = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        options.any(|named| named.trim_ascii().eq_ignore_ascii_case(option.as_bytes()))
    }
}

fn text(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

/// A value without the blanks around it (RFC 9110 section 5.5).
fn trimmed(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::head::judge;

    fn parsed(head: &'static str) -> Request {
        let head = Bytes::from(head.replace('\n', "\r\n"));
        let mut places = Places::default();
        judge(&head, &mut places).expect("a good head");
        Request::parse(&head, &places).expect("a judged head")
    }

    #[test]
    fn a_head_is_cut_into_its_parts_byte_for_byte() {
        let request = parsed("POST /a%2f;b?c=d?e HTTP/1.1\nHost: h\nX-A: \t one\ttwo \t\nx-a:\nX-B:\u{e9}:\n\n");
        assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/a%2f;b"));
        assert_eq!(request.query.as_deref(), Some("c=d?e"));
        let values: Vec<&[u8]> = request.headers.get_all("x-a").map(HeaderValue::as_bytes).collect();
        assert_eq!(values, [b"one\ttwo".as_slice(), b""]);
        assert_eq!(request.headers.get("x-b").expect("a line").as_bytes(), "\u{e9}:".as_bytes());
        assert_eq!(parsed("GET /? HTTP/1.1\nHost: h\n\n").query.as_deref(), Some(""));
    }

    #[test]
    fn a_connection_stays_open_as_its_version_and_its_options_say() {
        for (head, stays) in [
            ("GET / HTTP/1.1\nHost: h\n\n", true),
            ("GET / HTTP/1.1\nHost: h\nConnection: x, Close\n\n", false),
            ("GET / HTTP/1.0\nHost: h\n\n", false),
            ("GET / HTTP/1.0\nHost: h\nConnection: Keep-Alive\n\n", true),
        ] {
            assert_eq!(parsed(head).keeps_alive(), stays, "{head}");
        }
        assert!(parsed("POST / HTTP/1.1\nHost: h\nExpect: 100-continue\n\n").waits_for_continue());
        assert!(!parsed("POST / HTTP/1.0\nHost: h\nExpect: 100-continue\n\n").waits_for_continue());
    }
}

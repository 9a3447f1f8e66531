//! A request and a reply of HTTP/2 as HTTP/1.1 says the same. It judges nothing: the request's head is read by the guard like
//! every other, which refuses what it refuses of those.

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{Method, Response, StatusCode};

use crate::domain::message::put_header;

/// Most header lines of a reply; as many as the guard lets in.
const MAX_LINES: usize = 256;

/// How the body of a message is told apart from what follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// There is none.
    Nothing,
    /// By its length, which is this if it could be read.
    Length(Option<u64>),
    /// By chunks.
    Chunks,
}

/// The head of a request as text, blank line included, and how its body is to follow. `has_body`: whether one may come.
///
/// An authority is said twice, in the target and as `Host`: whether it agrees with a `Host` that the sender gave is then the
/// guard's to judge, by the rule for targets in absolute form.
pub(super) fn request(parts: &Parts, has_body: bool) -> (Bytes, Coding) {
    let path = parts.uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str);
    let mut text = Vec::with_capacity(1024);
    text.extend_from_slice(parts.method.as_str().as_bytes());
    text.push(b' ');
    match (parts.uri.scheme_str(), parts.uri.authority()) {
        (Some(scheme), Some(authority)) => {
            text.extend_from_slice(scheme.as_bytes());
            text.extend_from_slice(b"://");
            text.extend_from_slice(authority.as_str().as_bytes());
            text.extend_from_slice(path.as_bytes());
        }
        // A path is one, and nothing that could be read as another form of target.
        _ if path.starts_with('/') => text.extend_from_slice(path.as_bytes()),
        _ => text.push(b'*'),
    }
    text.extend_from_slice(b" HTTP/1.1\r\n");
    if let Some(authority) = parts.uri.authority().filter(|_| !parts.headers.contains_key(HOST))
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        put_header(&mut text, &HOST, &host);
    }
    for (name, value) in parts.headers.iter().filter(|(name, _)| **name != COOKIE) {
        put_header(&mut text, name, value);
    }
    // One line of what may come in several (RFC 9113 section 8.2.3).
    let cookies: Vec<&[u8]> = parts.headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Some(cookies) = HeaderValue::from_bytes(&cookies.join(&b"; "[..])).ok().filter(|all| !all.is_empty()) {
        put_header(&mut text, &COOKIE, &cookies);
    }
    let coding = match (parts.headers.get(CONTENT_LENGTH), has_body) {
        (Some(length), _) => Coding::Length(length.to_str().ok().and_then(|text| text.parse().ok())),
        (None, false) => Coding::Nothing,
        (None, true) => {
            put_header(&mut text, &TRANSFER_ENCODING, &HeaderValue::from_static("chunked"));
            Coding::Chunks
        }
    };
    text.extend_from_slice(b"\r\n");
    (text.into(), coding)
}

/// A reply's head, read from its text, and how its body follows. `None`: it is none.
pub(super) fn reply(text: &[u8], method: &Method) -> Option<(Response<()>, Coding)> {
    let mut lines = [httparse::EMPTY_HEADER; MAX_LINES];
    let mut parsed = httparse::Response::new(&mut lines);
    parsed.parse(text).ok()?;
    let status = StatusCode::from_u16(parsed.code?).ok()?;
    let mut headers = HeaderMap::with_capacity(parsed.headers.len());
    for line in &*parsed.headers {
        headers.append(HeaderName::from_bytes(line.name.as_bytes()).ok()?, HeaderValue::from_bytes(line.value).ok()?);
    }
    let length = headers.get(CONTENT_LENGTH).map(|length| length.to_str().ok().and_then(|text| text.parse().ok()));
    let bodiless = method == Method::HEAD
        || status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED;
    let coding = match (bodiless || length == Some(Some(0)), headers.contains_key(TRANSFER_ENCODING)) {
        (true, _) => Coding::Nothing,
        (false, true) => Coding::Chunks,
        (false, false) => Coding::Length(length.flatten()),
    };
    // What concerns one connection of HTTP/1.1 has no place here (RFC 9113 section 8.2.2).
    for name in [CONNECTION, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection"] {
        headers.remove(name);
    }
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Some((response, coding))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::head::{self, Places};

    fn text(request: http::request::Builder, has_body: bool) -> (String, Coding) {
        let (parts, ()) = request.body(()).expect("a request").into_parts();
        let (text, coding) = super::request(&parts, has_body);
        (String::from_utf8(text.to_vec()).expect("text"), coding)
    }

    fn is_let_in(request: http::request::Builder) -> bool {
        head::judge(text(request, true).0.as_bytes(), &mut Places::default()).is_ok()
    }

    fn post(uri: &str) -> http::request::Builder {
        http::Request::post(uri)
    }

    #[test]
    fn a_request_reads_as_one_of_http_1_1_that_is_let_in() {
        let (text, coding) = text(post("https://h:8443/a?b=c").header("x-a", "1").header("x-a", "2"), true);
        assert_eq!(
            text,
            "POST https://h:8443/a?b=c HTTP/1.1\r\nHost: h:8443\r\nX-A: 1\r\nX-A: 2\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        assert_eq!(coding, Coding::Chunks);
        assert!(head::judge(text.as_bytes(), &mut Places::default()).is_ok());
    }

    #[test]
    fn the_body_is_told_as_the_sender_told_it() {
        assert_eq!(text(post("https://h/").header("content-length", "7"), true).1, Coding::Length(Some(7)));
        assert_eq!(text(post("https://h/").header("content-length", "0"), false).1, Coding::Length(Some(0)));
        let (text, coding) = text(post("https://h/"), false);
        assert_eq!(coding, Coding::Nothing);
        assert!(!text.contains("Transfer-Encoding"));
    }

    #[test]
    fn what_is_refused_of_http_1_1_is_refused_here() {
        assert!(is_let_in(post("https://h/").header("host", "H")));
        assert!(is_let_in(post("/a").header("host", "h")));
        for bad in [
            post("https://h/").header("host", "other"),
            post("https://h/").header("host", "h").header("host", "h"),
            post("https://u@h/"),
            post("ftp://h/"),
            post("/a"),
            post("*").header("host", "h"),
            post("https://h/").header("content-length", "+1"),
            post("https://h/").header("content-length", "1").header("content-length", "1"),
            post("https://h/").header("upgrade", "h2c"),
            post("https://h/").header("transfer-encoding", "gzip"),
            post("https://h/").header("expect", "other"),
            http::Request::builder().method("CONNECT").uri("h:443"),
            http::Request::builder().method("TRACE").uri("https://h/"),
            http::Request::builder().method("OPTIONS").uri("*"),
        ] {
            let seen = format!("{bad:?}");
            assert!(!is_let_in(bad), "{seen}");
        }
    }

    #[test]
    fn cookies_that_come_apart_go_on_in_one_line() {
        let (text, _) = text(post("https://h/").header("cookie", "a=1").header("cookie", "b=2"), false);
        assert!(text.contains("\r\nCookie: a=1; b=2\r\n"), "{text}");
    }

    #[test]
    fn a_reply_loses_what_concerns_the_connection_and_keeps_the_rest() {
        let text =
            b"HTTP/1.1 200 OK\r\nX-A: 1\r\nConnection: close\r\nKeep-Alive: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
        let (response, coding) = reply(text, &Method::POST).expect("a reply");
        assert_eq!((response.status().as_u16(), coding), (200, Coding::Chunks));
        assert_eq!(response.headers().len(), 1);
        assert_eq!(response.headers()["x-a"], "1");
        for (head, method, coding) in [
            ("HTTP/1.1 204 No Content\r\n\r\n", Method::POST, Coding::Nothing),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Method::HEAD, Coding::Nothing),
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Method::GET, Coding::Nothing),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Method::GET, Coding::Length(Some(5))),
            ("HTTP/1.1 200 OK\r\n\r\n", Method::GET, Coding::Length(None)),
            ("HTTP/1.1 100 Continue\r\n\r\n", Method::POST, Coding::Nothing),
        ] {
            assert_eq!(reply(head.as_bytes(), &method).expect("a reply").1, coding, "{head}");
        }
        assert!(reply(b"nothing\r\n\r\n", &Method::GET).is_none());
    }
}

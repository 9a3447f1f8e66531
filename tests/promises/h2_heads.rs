//! Heads over HTTP/2 that a reader of HTTP/1.1 could read differently, written by hand, on a path that passes through and on a
//! route: what must be refused goes no further, what is valid is taken, and what the application gets is clean. P16.

use crate::h2_requests::world;
use crate::tls::Papers;
use crate::world::clock::SOON;
use crate::world::gateway::Gateway;
use crate::world::http2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Hand, RST_STREAM, fields, frame,
};

use Change::{But, With, Without};

type Field = (&'static str, &'static [u8]);

/// The fields of a good request.
pub(crate) const GOOD: [Field; 4] =
    [(":method", b"POST"), (":scheme", b"https"), (":authority", b"h"), (":path", b"/through/a")];

/// How a request with these fields ends: its status, or `None` if it is reset or the connection ends.
fn outcome(gateway: &Gateway, papers: &Papers, sent: &[(&str, &[u8])], body: &[u8]) -> Option<String> {
    let mut hand = Hand::open(gateway, papers);
    hand.write(&[frame(HEADERS, END_HEADERS, 1, &fields(sent)), frame(DATA, END_STREAM, 1, body)].concat()).unwrap();
    let first = std::iter::from_fn(|| hand.next(SOON)).find(|frame| {
        matches!(frame.kind, HEADERS | RST_STREAM | GOAWAY) && (frame.kind == GOAWAY || frame.stream == 1)
    });
    first.filter(|frame| frame.kind == HEADERS).map(|frame| match frame.payload[0] {
        // The fields that have a number of their own (RFC 7541 appendix A).
        0x88 => "200".into(),
        0x8c => "400".into(),
        0x8d => "404".into(),
        _ => String::from_utf8_lossy(&frame.payload).into_owned(),
    })
}

/// How a head differs from a good one.
#[derive(Debug)]
enum Change {
    /// It has these fields too.
    With(&'static [Field]),
    /// A field has another value.
    But(&'static str, &'static [u8]),
    /// A field is not there.
    Without(&'static str),
}

impl Change {
    fn made(&self) -> Vec<Field> {
        let other = |(name, old): Field| match self {
            But(own, new) if *own == name => (name, *new),
            But(..) | With(_) | Without(_) => (name, old),
        };
        let stays = |(name, _): &Field| !matches!(self, Without(own) if own == name);
        let more = if let With(more) = self { *more } else { &[] };
        GOOD.into_iter().filter(stays).map(other).chain(more.iter().copied()).collect()
    }
}

/// Heads that no request may have.
const BAD: &[Change] = &[
    With(&[("connection", b"close")]),
    With(&[("connection", b"x-a"), ("x-a", b"1")]),
    With(&[("keep-alive", b"1")]),
    With(&[("proxy-connection", b"close")]),
    With(&[("transfer-encoding", b"chunked")]),
    With(&[("upgrade", b"h2c")]),
    With(&[("te", b"gzip")]),
    With(&[("content-length", b"3")]),
    With(&[("content-length", b"5")]),
    With(&[("content-length", b"04")]),
    With(&[("content-length", b"+4")]),
    With(&[("content-length", b"4"), ("content-length", b"4")]),
    With(&[("content-length", b"4, 4")]),
    With(&[("host", b"other")]),
    With(&[("host", b"h"), ("host", b"h")]),
    With(&[("host", b"")]),
    With(&[("X-Upper", b"1")]),
    With(&[("x a", b"1")]),
    With(&[("x:a", b"1")]),
    With(&[("", b"1")]),
    With(&[("x-a", b"1\r\nx-b: 2")]),
    With(&[("x-a", b"1\nx-b: 2")]),
    With(&[("x-a", b"1\0")]),
    With(&[("x-a\r\nx-b", b"1")]),
    With(&[("expect", b"other")]),
    With(&[(":path", b"/through/b")]),
    With(&[(":method", b"GET")]),
    With(&[(":status", b"200")]),
    With(&[(":other", b"1")]),
    With(&[(":protocol", b"websocket")]),
    With(&[("x-a", b"1"), (":authority", b"h")]),
    Without(":method"),
    Without(":scheme"),
    Without(":path"),
    Without(":authority"),
    But(":method", b"CONNECT"),
    But(":method", b"TRACE"),
    But(":method", b"PO ST"),
    But(":method", b"POST /x HTTP/1.1\r\nx"),
    But(":method", b""),
    But(":scheme", b"ftp"),
    But(":scheme", b"https://h/x HTTP/1.1\r\n\r\n"),
    But(":authority", b"u@h"),
    But(":authority", b"h, h"),
    But(":authority", b"h h"),
    But(":authority", b"h/x"),
    But(":authority", b"h\r\nx: y"),
    But(":authority", b"h:99999"),
    But(":authority", b""),
    But(":path", b""),
    But(":path", b"*"),
    But(":path", b"through/a"),
    But(":path", b"http://h/through/a"),
    But(":path", b"/through/a b"),
    But(":path", b"/through/a HTTP/1.1\r\nx: y"),
    But(":path", b"/through/\xff"),
    But(":path", b"/through/\0"),
    But(":path", b"/through/a\t"),
    But(":path", b"/through/<"),
];

/// Heads that are unusual and good.
const UNUSUAL: &[Change] = &[
    With(&[("te", b"trailers")]),
    With(&[("host", b"H")]),
    With(&[("content-length", b"4")]),
    With(&[("x-a", b"\xc3\xa9 \t1")]),
    But(":scheme", b"http"),
];

#[test]
fn a_head_that_two_readers_could_read_differently_is_refused() {
    assert!(BAD.len() > 50);
    let (papers, app, gateway) = world(&[]);
    assert_eq!(outcome(&gateway, &papers, &GOOD, b"body").as_deref(), Some("200"));
    for change in BAD {
        let sent = change.made();
        let seen = outcome(&gateway, &papers, &sent, b"body");
        assert!(matches!(seen.as_deref(), None | Some("400")), "{seen:?}: {change:?}");
        let route = |value: &'static [u8]| if value == b"/through/a" { &b"/webhooks/veedeo"[..] } else { value };
        let of_a_route: Vec<Field> = sent.iter().map(|(name, value)| (*name, route(value))).collect();
        let seen = outcome(&gateway, &papers, &of_a_route, b"body");
        assert!(matches!(seen.as_deref(), None | Some("400" | "404")), "{seen:?}: {change:?}");
    }
    assert_eq!(app.count(), 1, "{:?}", app.seen().last());
}

#[test]
fn a_head_that_is_unusual_and_good_is_taken() {
    let (papers, app, gateway) = world(&[]);
    for change in UNUSUAL {
        assert_eq!(outcome(&gateway, &papers, &change.made(), b"body").as_deref(), Some("200"), "{change:?}");
    }
    // A name in a line of its own in place of the field of HTTP/2, as a proxy may hand it on.
    let named = [Without(":authority").made(), vec![("host", &b"h"[..])]].concat();
    assert_eq!(outcome(&gateway, &papers, &named, b"body").as_deref(), Some("200"));
    let seen = app.seen();
    assert_eq!(seen.len(), UNUSUAL.len() + 1);
    assert!(seen.iter().all(|seen| seen.body == b"body" && seen.header("host").eq_ignore_ascii_case("h")), "{seen:?}");
    assert!(seen.iter().all(|seen| seen.headers.all("te").is_empty()), "{seen:?}");
}

#[test]
fn trailers_are_dropped_and_cookies_go_on_in_one_line() {
    let (papers, app, gateway) = world(&[]);
    let mut hand = Hand::open(&gateway, &papers);
    let sent = [&GOOD[..], &[("cookie", b"a=1"), ("cookie", b"b=2")]].concat();
    let trailers = fields(&[("x-late", b"1"), ("host", b"other")]);
    let whole = [
        frame(HEADERS, 0, 1, &fields(&sent)[..9]),
        frame(CONTINUATION, END_HEADERS, 1, &fields(&sent)[9..]),
        frame(DATA, 0, 1, b"bo"),
        frame(DATA, 0, 1, b"dy"),
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &trailers),
    ];
    hand.write(&whole.concat()).unwrap();
    assert_eq!(hand.until(HEADERS, 1).unwrap().payload[0], 0x88);
    let seen = app.only();
    assert_eq!(seen.body, b"body");
    assert_eq!(seen.headers.all("cookie"), ["a=1; b=2"]);
    assert_eq!((seen.headers.all("x-late").len(), seen.headers.all("host")), (0, vec!["h".to_owned()]));
}

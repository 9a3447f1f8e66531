//! Heads that come in and heads that stay out, rule by rule.

mod model;

use super::*;

fn judged(head: &[u8]) -> Result<Judged, Refusal> {
    judge(head, &mut Places::default())
}

fn of(lines: &str) -> Result<Framing, Refusal> {
    judged(format!("{}\r\n\r\n", lines.replace('\n', "\r\n")).as_bytes()).map(|judged| judged.framing)
}

#[test]
fn an_ordinary_head_gets_in_and_tells_its_framing() {
    assert_eq!(of("POST /a?b HTTP/1.1\nHost: h\nContent-Length: 12"), Ok(Framing::Length(12)));
    assert_eq!(of("POST /a HTTP/1.1\nHost: h\ntransfer-encoding:chunked"), Ok(Framing::Chunked));
    assert_eq!(of("GET / HTTP/1.0\nHost: h"), Ok(Framing::Length(0)));
    assert_eq!(
        of("GET / HTTP/1.1\nHost: h\nConnection: keep-alive, , X-A\nExpect: 100-Continue"),
        Ok(Framing::Length(0))
    );
    assert_eq!(of("POST / HTTP/1.1\nhost:h\nX-Empty:\nX-Tab: a\tb\nX-Late: \u{e9}"), Ok(Framing::Length(0)));
}

#[test]
fn what_two_readers_could_read_differently_stays_out() {
    let bad = [
        "POST / HTTP/1.1\nHost: h\nContent-Length: 1\nTransfer-Encoding: chunked",
        "POST / HTTP/1.1\nHost: h\nContent-Length: 1\nContent-Length: 1",
        "POST / HTTP/1.1\nHost: h\nContent-Length: 1, 1",
        "POST / HTTP/1.1\nHost: h\nContent-Length: +1",
        "POST / HTTP/1.1\nHost: h\nContent-Length: 01",
        "POST / HTTP/1.1\nHost: h\nContent-Length: 0x1",
        "POST / HTTP/1.1\nHost: h\nContent-Length:",
        "POST / HTTP/1.1\nHost: h\nContent-Length: 9999999999999999999",
        "POST / HTTP/1.1\nHost: h\nTransfer-Encoding: gzip, chunked",
        "POST / HTTP/1.1\nHost: h\nTransfer-Encoding: identity",
        "POST / HTTP/1.1\nHost: h\nTransfer-Encoding: chunked\nTransfer-Encoding: chunked",
        "POST / HTTP/1.1\nHost: h\nTransfer-Encoding : chunked",
        "POST / HTTP/1.0\nHost: h\nTransfer-Encoding: chunked",
        "POST / HTTP/1.1",
        "POST / HTTP/1.1\nHost: h\nHost: h",
        "POST / HTTP/1.1\nHost: h\n folded",
        "POST / HTTP/1.1\nHost: h\nX Y: z",
        "POST / HTTP/1.1\nHost: h\nno colon",
        "POST / HTTP/1.1\nHost: h\nX: a\u{0}b",
        "POST  / HTTP/1.1\nHost: h",
        "POST /a b HTTP/1.1\nHost: h",
        "POST /a#b HTTP/1.1\nHost: h",
        "POST /\u{e9} HTTP/1.1\nHost: h",
        "POST / HTTP/2.0\nHost: h",
        "P@ST / HTTP/1.1\nHost: h",
        "POST / http/1.1\nHost: h",
        " POST / HTTP/1.1\nHost: h",
        "CONNECT h:443 HTTP/1.1\nHost: h:443",
        "CONNECT /a HTTP/1.1\nHost: h",
        "OPTIONS * HTTP/1.1\nHost: h",
        "POST /a<b> HTTP/1.1\nHost: h",
        "POST http://h:80/a HTTP/1.1\nHost: h",
        "POST http://h HTTP/1.1\nHost: h",
        "POST ftp://h/a HTTP/1.1\nHost: h",
        "POST /a HTTP/1.0",
        "TRACE /a HTTP/1.1\nHost: h",
        "POST / HTTP/1.1\nHost: h\nTransfer-Encoding: Chunked",
        "POST / HTTP/1.1\nHost: h\nTransfer-Encoding:\tchunked",
        "POST / HTTP/1.1\nHost: h\nContent-Length:  1",
        "POST / HTTP/1.1\nHost: h\nContent-Length: 1 ",
        "POST / HTTP/1.1\nHost: h\nUpgrade: h2c",
        "POST / HTTP/1.1\nHost: h\nConnection: close, content-length",
        "POST / HTTP/1.1\nHost: h\nConnection: a b",
        "POST / HTTP/1.1\nHost: h\nConnection: X-Forwarded-For",
        "POST / HTTP/1.1\nHost: h\nExpect: 100-continue\nExpect: 100-continue",
        "POST / HTTP/1.1\nHost: h\nExpect: other",
        "POST http://other/a HTTP/1.1\nHost: h",
        "POST / HTTP/1.1\nHost: user@h",
    ];
    for head in bad {
        assert_eq!(of(head), Err(Refusal::BadRequest), "{head}");
    }
}

#[test]
fn an_absolute_form_that_agrees_with_host_is_told_where_its_path_begins() {
    let head = b"POST HTTP://H:8080/a?b HTTP/1.1\r\nHost: h:8080\r\n\r\n";
    let place = judged(head).expect("a good head").authority.expect("an absolute form");
    assert_eq!(head.get(place.end..place.end + 4), Some(&b"/a?b"[..]));
    assert_eq!(head.get(..place.start), Some(&b"POST "[..]));
    assert_eq!(judged(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").expect("a good head").authority, None);
}

#[test]
fn a_host_is_a_name_or_an_address_and_perhaps_a_port() {
    for host in ["h", "a.b-c_d", "h:", "h:0", "h:65535", "127.0.0.1:80", "[::1]", "[2001:db8::1]:443"] {
        assert!(is_host(host.as_bytes()), "{host}");
    }
    for host in
        ["", ":80", "h:80:80", "h:65536", "h:x", "h:+1", "a,b", "a b", "u@h", "h/x", "[::1", "[h]", "[::1]x", "\u{e9}"]
    {
        assert!(!is_host(host.as_bytes()), "{host}");
    }
}

#[test]
fn as_many_lines_as_the_parser_takes_get_in_and_no_more() {
    let lines = |count: usize| format!("GET / HTTP/1.1\nHost: h{}", "\nX: y".repeat(count - 1));
    assert_eq!(of(&lines(MAX_LINES)), Ok(Framing::Length(0)));
    assert_eq!(of(&lines(MAX_LINES + 1)), Err(Refusal::HeaderTooLarge));
}

#[test]
fn no_line_holds_a_control_character_wherever_it_stands() {
    let line = format!("X-Long: {}", "a".repeat(300));
    let good = format!("GET /a HTTP/1.1\r\nHost: h\r\n{line}\r\nX-Tab: a\tb\r\n{line}\r\n\r\n");
    assert_eq!(judged(good.as_bytes()).map(|judged| judged.framing), Ok(Framing::Length(0)));
    let controls = (0..b' ').chain([0x7f]).filter(|byte| *byte != b'\t');
    for (at, control) in (0..good.len() - END.len()).flat_map(|at| controls.clone().map(move |byte| (at, byte))) {
        let mut bad = good.clone().into_bytes();
        let was = std::mem::replace(&mut bad[at], control);
        assert_eq!(judged(&bad).is_ok(), was == control, "{control:#x} in place of {was:#x} at {at}");
    }
}

#[test]
fn of_too_many_lines_those_that_would_be_taken_are_judged() {
    let with = |number: usize| {
        let lines = (1..=MAX_LINES).map(|line| if line == number { "\nX: \u{1}" } else { "\nX: y" });
        of(&format!("GET / HTTP/1.1\nHost: h{}", lines.collect::<String>()))
    };
    assert_eq!(with(0), Err(Refusal::HeaderTooLarge));
    assert_eq!(with(MAX_LINES - 1), Err(Refusal::BadRequest));
    assert_eq!(with(MAX_LINES), Err(Refusal::HeaderTooLarge));
}

#[test]
fn the_end_is_found_however_the_head_comes_in_and_a_bare_line_end_is_refused_at_once() {
    let head = b"GET / HTTP/1.1\r\nHost: h\r\n\r\nrest";
    for cut in 0..head.len() {
        let first = end(&head[..cut], 0).expect("no bare line end");
        let found = first.or_else(|| end(head, cut).expect("no bare line end"));
        assert_eq!(found, Some(head.len() - 4), "cut at {cut}");
    }
    assert_eq!(end(b"GET / HTTP/1.1\nHost", 0), Err(Refusal::BadRequest));
    assert_eq!(end(b"GET / HTTP/1.1\rHost", 0), Err(Refusal::BadRequest));
    assert_eq!(end(b"GET / HTTP/1.1\r", 0), Ok(None));
}

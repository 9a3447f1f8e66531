//! A request's head, judged before the parser sees it: only what every HTTP/1.1 reader reads the same way gets in.
//!
//! The rules are those of RFC 9112 with all leniency left out: lines end with CRLF and nothing else, names are tokens
//! right before their colon, no line is folded, one Host, one framing, written in the one way in which everybody writes it:
//! whoever stands in front of the gateway must have read the same. A target is a path, or an absolute form that agrees with
//! Host: nobody is asked to connect, to change the protocol or to go elsewhere. What it lets through is parsed elsewhere,
//! and the parser refuses none of it: a refusal of its own would be neither counted nor logged.

use std::net::Ipv6Addr;
use std::ops::Range;

use http::uri::PathAndQuery;

use crate::domain::chunks::is_token_byte;
use crate::domain::refusal::Refusal;

/// The end of a head.
pub(super) const END: &[u8] = b"\r\n\r\n";

/// The end of a line in it.
const LINE_END: &[u8; 2] = b"\r\n";

/// Longest `Content-Length` in digits; more would not fit 64 bits.
const MAX_LENGTH_DIGITS: usize = 18;

/// Methods that ask for a tunnel or for the request itself.
const NEVER_SERVED: [&[u8]; 3] = [b"CONNECT", b"TRACE", b"TRACK"];

/// Most header lines; as many as the parser takes.
const MAX_LINES: usize = 256;

/// How the body that follows a head is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// This many bytes; 0: there is no body.
    Length(u64),
    /// By chunks; only their reader knows where they end.
    Chunked,
}

/// Where the head at the start of `bytes` ends, if it is complete. `from`: bytes looked at before.
///
/// A line feed that does not end a line, or a carriage return that does not announce one, is refused at once: waiting
/// for the rest would only take time.
pub(crate) fn end(bytes: &[u8], from: usize) -> Result<Option<usize>, Refusal> {
    let start = from.saturating_sub(END.len());
    let fresh = bytes.get(start..).unwrap_or_default();
    if let Some(at) = memchr::memmem::find(fresh, END) {
        return Ok(Some(start + at + END.len()));
    }
    let bare = fresh.windows(2).any(|pair| matches!(pair, [before, b'\n'] if *before != b'\r'))
        || fresh.windows(2).any(|pair| matches!(pair, [b'\r', after] if *after != b'\n'));
    if bare || bytes.first() == Some(&b'\n') { Err(Refusal::BadRequest) } else { Ok(None) }
}

/// A head that may come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Judged {
    /// How its body is framed.
    pub(crate) framing: Framing,
    /// Where scheme and authority stand in a target in absolute form, which says the same as Host and is not handed on.
    pub(crate) authority: Option<Range<usize>>,
}

/// Judges a complete head, blank line included.
pub(crate) fn judge(head: &[u8]) -> Result<Judged, Refusal> {
    let text = head.strip_suffix(END).ok_or(Refusal::BadRequest)?;
    let (line, mut rest) = next_line(text);
    let request = request_line(line)?;
    let mut fields = Fields::default();
    let mut count = 0;
    while let Some(lines) = rest.filter(|_| count < MAX_LINES) {
        let (line, next) = next_line(lines);
        fields.add(line)?;
        (rest, count) = (next, count + 1);
    }
    // What is left would be too much, were it as good as what stands before it.
    let left = rest.map_or(0, |rest| rest.len() + LINE_END.len());
    let judged = text.get(..text.len().saturating_sub(left)).unwrap_or_default();
    if control_characters(judged) != count * LINE_END.len() {
        return Err(Refusal::BadRequest);
    }
    if rest.is_some() { Err(Refusal::HeaderTooLarge) } else { fields.settle(request) }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Http10,
    Http11,
}

/// The first line, and what stands behind its CRLF, if it has one.
pub(super) fn next_line(text: &[u8]) -> (&[u8], Option<&[u8]>) {
    let end = memchr::memchr(LINE_END[0], text).and_then(|at| text.split_at_checked(at));
    let cut = end.and_then(|(line, rest)| Some((line, rest.strip_prefix(LINE_END)?)));
    cut.map_or((text, None), |(line, rest)| (line, Some(rest)))
}

/// How many characters no line may hold: those that control something, but for tabs. Counted and not looked for, in blocks
/// whose count fits a byte: this way a processor does 16 or more bytes at a time.
fn control_characters(text: &[u8]) -> usize {
    let controls = |byte: &u8| u8::from((*byte < b' ' && *byte != b'\t') || *byte == 0x7f);
    text.chunks(255).map(|block| usize::from(block.iter().map(controls).sum::<u8>())).sum()
}

/// What a request line says.
struct RequestLine<'a> {
    version: Version,
    /// Scheme, colon and slashes, with the place of the method before them, and the authority behind them.
    absolute: Option<(Range<usize>, &'a [u8])>,
}

/// `method SP request-target SP HTTP-version`, each exactly once apart.
fn request_line(line: &[u8]) -> Result<RequestLine<'_>, Refusal> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Refusal::BadRequest);
    };
    let version = match version {
        b"HTTP/1.1" => Version::Http11,
        b"HTTP/1.0" => Version::Http10,
        _ => return Err(Refusal::BadRequest),
    };
    let scheme = scheme_length(target);
    let (authority, path) = match scheme {
        None => (None, target),
        Some(scheme) => {
            let rest = target.get(scheme..).unwrap_or_default();
            let (authority, path) = rest.split_at(rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len()));
            (Some((scheme, authority)), path)
        }
    };
    if !is_token(method) || NEVER_SERVED.contains(&method) || !is_path(path) {
        return Err(Refusal::BadRequest);
    }
    let start = method.len() + 1;
    let absolute = authority.map(|(scheme, authority)| (start..start + scheme + authority.len(), authority));
    Ok(RequestLine { version, absolute })
}

/// How long the start of a target in absolute form is (RFC 9112 section 3.2.2).
fn scheme_length(target: &[u8]) -> Option<usize> {
    let starts = |scheme: &&[u8]| target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    [b"http://".as_slice(), b"https://"].into_iter().find(starts).map(<[u8]>::len)
}

/// Origin form (RFC 9112 section 3.2.1), of characters that the parser takes.
fn is_path(target: &[u8]) -> bool {
    let printable = target.iter().all(u8::is_ascii_graphic) && !target.contains(&b'#');
    printable && target.first() == Some(&b'/') && PathAndQuery::try_from(target).is_ok()
}

/// What the header fields say of host, framing and the connection.
#[derive(Debug, Default)]
struct Fields<'a> {
    host: Option<&'a [u8]>,
    length: Option<u64>,
    chunked: bool,
    expects: bool,
}

impl<'a> Fields<'a> {
    fn add(&mut self, line: &'a [u8]) -> Result<(), Refusal> {
        // A name ends with the last character that one may have, and its colon follows.
        let end = line.iter().position(|byte| !is_token_byte(*byte)).filter(|end| *end > 0);
        let (name, value) = end.and_then(|end| line.split_at_checked(end)).ok_or(Refusal::BadRequest)?;
        let value = value.strip_prefix(b":").ok_or(Refusal::BadRequest)?;
        let good = match Known::of(name) {
            None => true,
            Some(Known::Upgrade) => false,
            Some(Known::Connection) => options(value).all(is_harmless),
            Some(Known::Expect) => {
                let known = value.trim_ascii().eq_ignore_ascii_case(b"100-continue");
                known && !std::mem::replace(&mut self.expects, true)
            }
            Some(Known::Host) => {
                let host = value.trim_ascii();
                is_host(host) && self.host.replace(host).is_none()
            }
            // Written in one way only: somebody in front may read what is written otherwise differently.
            Some(Known::TransferEncoding) => bare(value) == b"chunked" && !std::mem::replace(&mut self.chunked, true),
            Some(Known::ContentLength) => {
                let length = length(bare(value));
                length.is_some() && std::mem::replace(&mut self.length, length).is_none()
            }
        };
        if good { Ok(()) } else { Err(Refusal::BadRequest) }
    }

    /// One Host that agrees with the target, and at most one framing.
    fn settle(self, request: RequestLine<'_>) -> Result<Judged, Refusal> {
        let host = self.host.ok_or(Refusal::BadRequest)?;
        let authority = match request.absolute {
            None => None,
            Some((place, authority)) if authority.eq_ignore_ascii_case(host) => Some(place),
            Some(_) => return Err(Refusal::BadRequest),
        };
        let framing = match (request.version, self.chunked, self.length) {
            (Version::Http10, true, _) | (Version::Http11, true, Some(_)) => return Err(Refusal::BadRequest),
            (Version::Http11, true, None) => Framing::Chunked,
            (Version::Http10 | Version::Http11, false, length) => Framing::Length(length.unwrap_or(0)),
        };
        Ok(Judged { framing, authority })
    }
}

/// The fields that are looked at.
#[derive(Clone, Copy)]
enum Known {
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    Expect,
    Upgrade,
}

impl Known {
    fn of(name: &[u8]) -> Option<Self> {
        // Names of other lengths, most of them, cost one comparison.
        let known = match name.len() {
            4 => (b"host".as_slice(), Self::Host),
            6 => (b"expect".as_slice(), Self::Expect),
            7 => (b"upgrade".as_slice(), Self::Upgrade),
            10 => (b"connection".as_slice(), Self::Connection),
            14 => (b"content-length".as_slice(), Self::ContentLength),
            17 => (b"transfer-encoding".as_slice(), Self::TransferEncoding),
            _ => return None,
        };
        name.eq_ignore_ascii_case(known.0).then_some(known.1)
    }
}

/// The options of a `Connection` line; empty ones are forgiven (RFC 9110 section 5.6.1.2).
fn options(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|option| !option.is_empty())
}

/// Whether an option leaves alone what says where the request goes and ends, and what the gateway itself says of it.
fn is_harmless(option: &[u8]) -> bool {
    let framing =
        matches!(Known::of(option), Some(Known::Host | Known::ContentLength | Known::TransferEncoding | Known::Expect));
    let starts = |ours: &&[u8]| option.get(..ours.len()).is_some_and(|start| start.eq_ignore_ascii_case(ours));
    let ours = [b"x-forwarded-".as_slice(), b"hookgate-", b"x-request-id"].iter().any(starts);
    is_token(option) && !framing && !ours
}

/// A value behind at most one space.
fn bare(value: &[u8]) -> &[u8] {
    value.strip_prefix(b" ").unwrap_or(value)
}

/// A name, an IPv4 address or an IPv6 address in brackets, with or without a port.
pub(super) fn is_host(value: &[u8]) -> bool {
    let (name, port) = match value.strip_prefix(b"[") {
        Some(rest) => {
            let Some(end) = rest.iter().position(|byte| *byte == b']') else { return false };
            let (address, rest) = rest.split_at(end);
            let parsed = std::str::from_utf8(address).ok().and_then(|text| text.parse::<Ipv6Addr>().ok());
            if parsed.is_none() {
                return false;
            }
            (&b"v6"[..], rest.get(1..).unwrap_or_default())
        }
        None => value.split_at(value.iter().position(|byte| *byte == b':').unwrap_or(value.len())),
    };
    let named = !name.is_empty() && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(byte));
    let ported = match port.strip_prefix(b":") {
        None => port.is_empty(),
        Some(digits) => {
            digits.iter().all(u8::is_ascii_digit)
                && (digits.is_empty() || std::str::from_utf8(digits).is_ok_and(|text| text.parse::<u16>().is_ok()))
        }
    };
    named && ported
}

/// Canonical: digits alone, no leading zero.
fn length(value: &[u8]) -> Option<u64> {
    let canonical = !value.is_empty()
        && value.len() <= MAX_LENGTH_DIGITS
        && value.iter().all(u8::is_ascii_digit)
        && (value == b"0" || value.first() != Some(&b'0'));
    canonical.then(|| std::str::from_utf8(value).ok()?.parse().ok()).flatten()
}

/// RFC 9110 section 5.6.2.
fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().copied().all(is_token_byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &str) -> Result<Framing, Refusal> {
        judge(format!("{}\r\n\r\n", lines.replace('\n', "\r\n")).as_bytes()).map(|judged| judged.framing)
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
        let place = judge(head).expect("a good head").authority.expect("an absolute form");
        assert_eq!(head.get(place.end..place.end + 4), Some(&b"/a?b"[..]));
        assert_eq!(head.get(..place.start), Some(&b"POST "[..]));
        assert_eq!(judge(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").expect("a good head").authority, None);
    }

    #[test]
    fn a_host_is_a_name_or_an_address_and_perhaps_a_port() {
        for host in ["h", "a.b-c_d", "h:", "h:0", "h:65535", "127.0.0.1:80", "[::1]", "[2001:db8::1]:443"] {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for host in [
            "", ":80", "h:80:80", "h:65536", "h:x", "h:+1", "a,b", "a b", "u@h", "h/x", "[::1", "[h]", "[::1]x",
            "\u{e9}",
        ] {
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
        assert_eq!(judge(good.as_bytes()).map(|judged| judged.framing), Ok(Framing::Length(0)));
        let controls = (0..b' ').chain([0x7f]).filter(|byte| *byte != b'\t');
        for (at, control) in (0..good.len() - END.len()).flat_map(|at| controls.clone().map(move |byte| (at, byte))) {
            let mut bad = good.clone().into_bytes();
            let was = std::mem::replace(&mut bad[at], control);
            assert_eq!(judge(&bad).is_ok(), was == control, "{control:#x} in place of {was:#x} at {at}");
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
}

//! The rules of a head once more, the plain way, each by itself and slowly: what the judge is held against over the seeds of its
//! fuzz target and over what small changes make of them.

use std::net::Ipv6Addr;
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use http::uri::PathAndQuery;

use crate::domain::chunks::is_token_byte;
use crate::domain::refusal::Refusal;
use crate::gateway::head::{self, END, Framing, LINE_END, MAX_LENGTH_DIGITS, MAX_LINES, NEVER_SERVED, Places};
use crate::gateway::request::Request;

/// A head that may come in.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Judged {
    /// How its body is framed.
    framing: Framing,
    /// Where scheme and authority stand in a target in absolute form, which says the same as Host and is not handed on.
    authority: Option<Range<usize>>,
}

/// Judges a complete head, blank line included.
fn judge(head: &[u8]) -> Result<Judged, Refusal> {
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
fn next_line(text: &[u8]) -> (&[u8], Option<&[u8]>) {
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
fn is_host(value: &[u8]) -> bool {
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

/// What the judge makes of the head at the start of `bytes`, after another one on its connection; nothing, if it is not complete.
fn by_judge(bytes: &[u8], before: &mut Places) -> Option<Result<(usize, Judged), Refusal>> {
    let judged = head::judge(bytes, before);
    assert_eq!(judged, head::judge(bytes, &mut Places::default()), "whatever came before");
    match (judged, memchr::memmem::find(bytes, END)) {
        (Ok(head::Judged { length, framing, authority }), _) => Some(Ok((length, Judged { framing, authority }))),
        (Err(refusal), Some(_)) => Some(Err(refusal)),
        (Err(_), None) => None,
    }
}

fn by_model(bytes: &[u8]) -> Option<Result<(usize, Judged), Refusal>> {
    let length = memchr::memmem::find(bytes, END)? + END.len();
    Some(judge(&bytes[..length]).map(|judged| (length, judged)))
}

/// Every part of a head that was let in is where a general parser finds it, once what says the same as `Host` is taken out.
fn is_cut_rightly(head: &[u8], judged: Judged, before: &mut Places) {
    let mut head = head.to_vec();
    if let Some(authority) = judged.authority {
        head.drain(authority);
    }
    let again = head::judge(&head, before).expect("a good head");
    assert_eq!(again, head::Judged { length: head.len(), framing: judged.framing, authority: None });
    let head = Bytes::from(head);
    let request = Request::parse(&head, before).expect("can be cut");
    let mut lines = [httparse::EMPTY_HEADER; MAX_LINES];
    let mut parsed = httparse::Request::new(&mut lines);
    assert_eq!(parsed.parse(&head), Ok(httparse::Status::Complete(head.len())));
    assert_eq!(Some(request.method.as_str()), parsed.method);
    let target = request.query.as_ref().map_or(request.path.clone(), |query| format!("{}?{query}", request.path));
    assert_eq!(Some(target.as_str()), parsed.path);
    assert!(!request.path.contains('?'));
    assert_eq!(request.headers.len(), parsed.headers.len());
    for ((name, value), line) in request.headers.iter().zip(parsed.headers) {
        assert_eq!((name.as_str(), value.as_bytes()), (&*line.name.to_ascii_lowercase(), line.value.trim_ascii()));
    }
}

/// Heads with all that is judged in them, and the seeds of the fuzz target.
fn heads() -> Vec<Vec<u8>> {
    let mut heads: Vec<Vec<u8>> = [
        "POST /in?a=b HTTP/1.1\r\nHost: hooks.example:8443\r\nUser-Agent: a\r\nContent-Length: 12\r\nX-A: b\tc\r\n\r\nbody",
        "POST http://h/in HTTP/1.1\r\nhost:h\r\ntransfer-encoding: chunked\r\nConnection: close, x-a\r\n\r\n0\r\n\r\n",
        "GET https://[::1]:1/ HTTP/1.0\r\nHOST: [::1]:1\r\nExpect: 100-continue\r\nX-\u{e9}: \u{e9}\r\n\r\n",
        "PUT / HTTP/1.1\r\nHost: 127.0.0.1\r\nTe: trailers\r\nX-Veedeo-Signature: sha256=00\r\n\r\n",
    ]
    .iter()
    .map(|head| head.as_bytes().to_vec())
    .collect();
    for ending in ["", "\r\n\r\n"] {
        for lines in [MAX_LINES - 1, MAX_LINES, MAX_LINES + 1] {
            heads.push(
                format!("GET / HTTP/1.1\r\nHost: h{}\r\n{ending}\r\n", "\r\nX: y".repeat(lines - 1)).into_bytes(),
            );
        }
    }
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds/request_head");
    for seed in std::fs::read_dir(seeds).expect("the seeds") {
        // The first byte of a seed says where it is cut.
        let seed = std::fs::read(seed.expect("a seed").path()).expect("a seed");
        heads.push(seed.get(1..).unwrap_or_default().to_vec());
    }
    assert!(heads.len() > 200, "there are seeds");
    heads
}

#[test]
fn the_judge_lets_in_what_the_plain_rules_let_in_and_refuses_the_rest_for_the_same_reason() {
    let odd = b"\0\t\n\r !\"#%,-./012:;?@AZ[]^_`az{}~\x7f\x80\xff";
    let (mut chance, mut before, mut let_in, mut refused) = (fastrand::Rng::with_seed(7), Places::default(), 0, 0);
    for head in heads() {
        for changes in (0..4).cycle().take(120) {
            let mut bytes = head.clone();
            for _ in 0..changes {
                let (at, byte) = (chance.usize(..bytes.len().clamp(1, 600)), odd[chance.usize(..odd.len())]);
                match (chance.u8(..4), bytes.get_mut(at)) {
                    (0, Some(_)) => drop(bytes.remove(at)),
                    (1, Some(_)) => bytes.insert(at, byte),
                    (2, Some(there)) => *there ^= b' ',
                    (_, Some(there)) => *there = byte,
                    (_, None) => bytes.push(byte),
                }
            }
            let judged = by_judge(&bytes, &mut before);
            assert_eq!(judged, by_model(&bytes), "{}", bytes.escape_ascii());
            match judged {
                Some(Ok((length, judged))) => {
                    is_cut_rightly(&bytes[..length], judged, &mut before);
                    let_in += 1;
                }
                Some(Err(_)) => refused += 1,
                None => {}
            }
        }
    }
    assert!(let_in > 4_000 && refused > 4_000, "{let_in} let in, {refused} refused");
}

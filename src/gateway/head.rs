//! A request's head, judged before anything of it is believed: only what every HTTP/1.1 reader reads the same way gets in.
//!
//! The rules are those of RFC 9112 with all leniency left out: lines end with CRLF and nothing else, names are tokens
//! right before their colon, no line is folded, one Host, one framing, written in the one way in which everybody writes it:
//! whoever stands in front of the gateway must have read the same. A target is a path, or an absolute form that agrees with
//! Host: nobody is asked to connect, to change the protocol or to go elsewhere. What is let in is cut up by the places that
//! were found here ([`Places`]); a parser that reads it again refuses none of it, for that would be neither counted nor logged.

mod characters;
mod names;

use std::net::Ipv6Addr;
use std::ops::Range;

use http::HeaderName;

use self::characters::{HOST, PATH, QUERY, TOKEN, colon, control, run};
use self::names::Known;
use crate::domain::refusal::Refusal;

/// The end of a head.
const END: &[u8] = b"\r\n\r\n";

/// The end of a line in it.
const LINE_END: &[u8; 2] = b"\r\n";

/// Longest `Content-Length` in digits; more would not fit 64 bits.
const MAX_LENGTH_DIGITS: usize = 18;

/// Longest path with its query, as long as the parser takes.
const MAX_TARGET: usize = 65_534;

/// Methods that ask for a tunnel or for the request itself.
const NEVER_SERVED: [&[u8]; 3] = [b"CONNECT", b"TRACE", b"TRACK"];

/// Most header lines; as many as the parser takes.
const MAX_LINES: usize = 256;

/// Header lines of a request as a rule: memory for the places of so many is kept from one request to the next.
const USUAL_LINES: usize = 16;

/// A space, the version and the end of a request line.
const VERSION_AND_END: usize = b" HTTP/1.1\r\n".len();

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
    /// How long it is, blank line included.
    pub(crate) length: usize,
    /// How its body is framed.
    pub(crate) framing: Framing,
    /// Where scheme and authority stand in a target in absolute form, which says the same as Host and is not handed on.
    pub(crate) authority: Option<Range<usize>>,
}

/// Where the parts of a head stand that may come in and has no scheme and authority in its target (any more).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Places {
    /// The end of the method, behind which a space stands.
    pub(super) method: usize,
    /// The end of the path.
    pub(super) path: usize,
    /// The end of the target, which is the path's where there is no query.
    pub(super) target: usize,
    /// Whether the sender speaks HTTP/1.1 and not 1.0.
    pub(super) speaks_11: bool,
    /// The header lines in their order.
    lines: Vec<Line>,
}

impl Places {
    /// The path in `head`, without the query.
    pub(crate) fn path<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        head.get(self.method + 1..self.path).unwrap_or_default()
    }

    /// How many header lines there are.
    pub(super) fn count(&self) -> usize {
        self.lines.len()
    }

    /// The header lines in `head`: their names, and their values with the blanks around them. `None`: it is another head.
    pub(super) fn lines<'a>(&self, head: &'a [u8]) -> impl Iterator<Item = Option<(HeaderName, &'a [u8])>> {
        let mut start = self.target + VERSION_AND_END;
        self.lines.iter().map(move |line| {
            let name = match line.known.name() {
                Some(known) => known,
                None => HeaderName::from_bytes(head.get(start..line.colon)?).ok()?,
            };
            start = line.end + LINE_END.len();
            Some((name, head.get(line.colon + 1..line.end)?))
        })
    }

    /// Gives back what many lines have taken: a connection keeps no more than usual ones need.
    pub(super) fn shrink(&mut self) {
        if self.lines.capacity() > USUAL_LINES {
            self.lines = Vec::new();
        }
    }
}

/// Where a header line stands in a head: behind the CRLF of the line before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Line {
    colon: usize,
    /// Before its CRLF.
    end: usize,
    known: Known,
}

/// Judges the head at the start of `bytes`, which must be complete, and notes where its parts stand. It is read once, line by
/// line: whatever is wrong with one is seen before the next one is looked at. What stands behind the head is not looked at.
///
/// What `places` says of the head before is a guess: a sender that stays connected says the same lines in the same order.
/// What a head has once at most is kept out of line below, for the loop over its lines needs the registers.
pub(crate) fn judge(bytes: &[u8], places: &mut Places) -> Result<Judged, Refusal> {
    let (request, mut rest) = request_line(bytes, places).ok_or(Refusal::BadRequest)?;
    let (mut fields, mut count) = (Fields::default(), 0);
    while !rest.starts_with(LINE_END) {
        if count == MAX_LINES {
            return Err(Refusal::HeaderTooLarge);
        }
        let guess = places.lines.get(count).map_or(Known::NOT, |line| line.known);
        let (line, next) = Cut::of(rest, guess).filter(|(line, _)| fields.add(line)).ok_or(Refusal::BadRequest)?;
        let colon = bytes.len() - rest.len() + line.name;
        let place = Line { colon, end: bytes.len() - next.len() - LINE_END.len(), known: line.known };
        if let Some(guessed) = places.lines.get_mut(count) {
            *guessed = place;
        } else {
            places.lines.reserve(USUAL_LINES.saturating_sub(count));
            places.lines.push(place);
        }
        (rest, count) = (next, count + 1);
    }
    places.lines.truncate(count);
    fields.settle(request, bytes.len() - rest.len() + LINE_END.len())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Http10,
    Http11,
}

/// What a request line says.
struct RequestLine<'a> {
    version: Version,
    /// Scheme, colon and slashes, with the place of the method before them, and the authority behind them.
    absolute: Option<(Range<usize>, &'a [u8])>,
}

/// `method SP request-target SP HTTP-version CRLF`, each exactly once apart; and what stands behind it.
#[inline(never)]
fn request_line<'a>(bytes: &'a [u8], places: &mut Places) -> Option<(RequestLine<'a>, &'a [u8])> {
    let (method, rest) = bytes.split_at_checked(run(bytes, TOKEN))?;
    let target = rest.strip_prefix(b" ").filter(|_| !method.is_empty() && !NEVER_SERVED.contains(&method))?;
    let start = method.len() + 1;
    let (absolute, target) = if target.starts_with(b"/") {
        (None, target)
    } else {
        let (scheme, authority, path) = absolute(target)?;
        (Some((start..start + scheme + authority.len(), authority)), path)
    };
    let (path, length) = path_and_query(target)?;
    let (version, rest) = match target.get(length..)? {
        [b' ', b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1', b'\r', b'\n', rest @ ..] => (Version::Http11, rest),
        [b' ', b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0', b'\r', b'\n', rest @ ..] => (Version::Http10, rest),
        _ => return None,
    };
    (places.method, places.path, places.target) = (method.len(), start + path, start + length);
    places.speaks_11 = version == Version::Http11;
    Some((RequestLine { version, absolute }, rest))
}

/// A target in absolute form (RFC 9112 section 3.2.2): how long its scheme is, its authority, and what begins with its path.
fn absolute(target: &[u8]) -> Option<(usize, &[u8], &[u8])> {
    let starts = |scheme: &&[u8]| target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    let scheme = [b"http://".as_slice(), b"https://"].into_iter().find(starts)?.len();
    let rest = target.get(scheme..)?;
    let (authority, path) = rest.split_at_checked(rest.iter().position(|byte| b"/ \r".contains(byte))?)?;
    Some((scheme, authority, path))
}

/// How long the path of a target in origin form is (RFC 9112 section 3.2.1), and how long both with the query, of characters that
/// the parser takes.
fn path_and_query(target: &[u8]) -> Option<(usize, usize)> {
    let path = run(target, PATH);
    let length = match target.get(path..)? {
        [b'?', query @ ..] => path + 1 + run(query, QUERY),
        _ => path,
    };
    (target.first() == Some(&b'/') && length <= MAX_TARGET).then_some((path, length))
}

/// A header line.
struct Cut<'a> {
    known: Known,
    /// How long its name is.
    name: usize,
    value: &'a [u8],
}

impl<'a> Cut<'a> {
    /// The line at the start of a text, and what stands behind its CRLF.
    fn of(text: &'a [u8], guess: Known) -> Option<(Self, &'a [u8])> {
        let (known, name) = match guess.named_in(text) {
            Some(name) => (guess, name),
            None => named(text)?,
        };
        let value = text.get(name + 1..)?;
        let (value, rest) = value.split_at_checked(control(value)?)?;
        Some((Self { known, name, value }, rest.strip_prefix(LINE_END)?))
    }
}

/// The name of the line at the start of a text, if it is known, and how long it is.
#[inline(never)]
fn named(text: &[u8]) -> Option<(Known, usize)> {
    let name = text.get(..colon(text)?)?;
    let known = Known::of(name);
    (known != Known::NOT || is_token(name)).then_some((known, name.len()))
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
    /// Whether a line may stand beside those that came before.
    fn add(&mut self, line: &Cut<'a>) -> bool {
        let value = line.value;
        match line.known {
            Known::HOST => {
                let host = value.trim_ascii();
                is_host(host) && self.host.replace(host).is_none()
            }
            // Written in one way only: somebody in front may read what is written otherwise differently.
            Known::CONTENT_LENGTH => {
                let length = length(bare(value));
                length.is_some() && std::mem::replace(&mut self.length, length).is_none()
            }
            Known::TRANSFER_ENCODING => bare(value) == b"chunked" && !std::mem::replace(&mut self.chunked, true),
            Known::CONNECTION => are_harmless(value),
            Known::EXPECT => is_continue(value) && !std::mem::replace(&mut self.expects, true),
            Known::UPGRADE => false,
            _ => true,
        }
    }

    /// One Host that agrees with the target, and at most one framing.
    fn settle(self, request: RequestLine<'_>, length: usize) -> Result<Judged, Refusal> {
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
        Ok(Judged { length, framing, authority })
    }
}

/// The one expectation that there is (RFC 9110 section 10.1.1).
#[inline(never)]
fn is_continue(value: &[u8]) -> bool {
    value.trim_ascii().eq_ignore_ascii_case(b"100-continue")
}

/// Whether all options of a `Connection` line are; empty ones are forgiven (RFC 9110 section 5.6.1.2).
#[inline(never)]
fn are_harmless(value: &[u8]) -> bool {
    let mut options = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    options.all(|option| option.is_empty() || is_harmless(option))
}

/// Whether an option leaves alone what says where the request goes and ends, and what the gateway itself says of it.
fn is_harmless(option: &[u8]) -> bool {
    let framing =
        matches!(Known::of(option), Known::HOST | Known::CONTENT_LENGTH | Known::TRANSFER_ENCODING | Known::EXPECT);
    let starts = |ours: &&[u8]| option.get(..ours.len()).is_some_and(|start| start.eq_ignore_ascii_case(ours));
    let ours = [b"x-forwarded-".as_slice(), b"hookgate-", b"x-request-id"].iter().any(starts);
    is_token(option) && !framing && !ours
}

/// A value behind at most one space.
fn bare(value: &[u8]) -> &[u8] {
    value.strip_prefix(b" ").unwrap_or(value)
}

/// A name, an IPv4 address or an IPv6 address in brackets, with or without a port.
#[inline(never)]
pub(super) fn is_host(value: &[u8]) -> bool {
    let end = match value.strip_prefix(b"[") {
        Some(rest) => {
            let Some(end) = rest.iter().position(|byte| *byte == b']') else { return false };
            let address = rest.get(..end).and_then(|address| std::str::from_utf8(address).ok());
            if address.is_none_or(|text| text.parse::<Ipv6Addr>().is_err()) {
                return false;
            }
            end + b"[]".len()
        }
        None => run(value, HOST),
    };
    end > 0
        && match value.get(end..) {
            Some([]) => true,
            Some([b':', port @ ..]) => is_port(port),
            Some(_) | None => false,
        }
}

/// Digits of a number of 16 bits, or none.
fn is_port(digits: &[u8]) -> bool {
    let fits = || std::str::from_utf8(digits).is_ok_and(|text| text.parse::<u16>().is_ok());
    digits.iter().all(u8::is_ascii_digit) && (digits.is_empty() || fits())
}

/// Canonical: digits alone, no leading zero.
#[inline(never)]
fn length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > MAX_LENGTH_DIGITS || (value.len() > 1 && value.starts_with(b"0")) {
        return None;
    }
    value.iter().try_fold(0, |length, byte| byte.is_ascii_digit().then(|| length * 10 + u64::from(byte - b'0')))
}

/// RFC 9110 section 5.6.2.
fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && run(text, TOKEN) == text.len()
}

#[cfg(test)]
mod tests;

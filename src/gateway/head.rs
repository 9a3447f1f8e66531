//! A request's head, judged before the parser sees it: only what every HTTP/1.1 reader reads the same way gets in.
//!
//! The rules are those of RFC 9112 with all leniency left out: lines end with CRLF and nothing else, names are tokens
//! right before their colon, no line is folded, one Host, one framing. A target is a path: nobody is asked to connect or
//! to go elsewhere. What it lets through is parsed elsewhere, and the parser refuses none of it: a refusal of its own
//! would be neither counted nor logged.

use http::uri::PathAndQuery;

use crate::domain::refusal::Refusal;

/// The end of a head.
const END: &[u8] = b"\r\n\r\n";

/// Longest `Content-Length` in digits; more would not fit 64 bits.
const MAX_LENGTH_DIGITS: usize = 18;

/// Most header lines; as many as the parser takes.
const MAX_LINES: usize = 256;

/// How the body that follows a head is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// This many bytes; 0: there is no body.
    Length(u64),
    /// By chunks; only their parser knows where they end.
    Chunked,
}

/// Where the head at the start of `bytes` ends, if it is complete. `from`: bytes looked at before.
///
/// A line feed that does not end a line, or a carriage return that does not announce one, is refused at once: waiting
/// for the rest would only take time.
pub(crate) fn end(bytes: &[u8], from: usize) -> Result<Option<usize>, Refusal> {
    let start = from.saturating_sub(END.len());
    let fresh = bytes.get(start..).unwrap_or_default();
    if let Some(at) = fresh.windows(END.len()).position(|window| window == END) {
        return Ok(Some(start + at + END.len()));
    }
    let bare = fresh.windows(2).any(|pair| matches!(pair, [before, b'\n'] if *before != b'\r'))
        || fresh.windows(2).any(|pair| matches!(pair, [b'\r', after] if *after != b'\n'));
    if bare || bytes.first() == Some(&b'\n') { Err(Refusal::BadRequest) } else { Ok(None) }
}

/// Judges a complete head, blank line included, and says how its body is framed.
pub(crate) fn judge(head: &[u8]) -> Result<Framing, Refusal> {
    let text = head.strip_suffix(END).ok_or(Refusal::BadRequest)?;
    let mut lines = Lines(Some(text));
    let version = request_line(lines.next().unwrap_or(Err(Refusal::BadRequest))?)?;
    let mut fields = Fields::default();
    for (count, line) in lines.enumerate() {
        if count == MAX_LINES {
            return Err(Refusal::HeaderTooLarge);
        }
        fields.add(line?)?;
    }
    fields.framing(version)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Http10,
    Http11,
}

/// The lines between CRLFs; an error for one that holds a byte no line may hold.
struct Lines<'a>(Option<&'a [u8]>);

impl<'a> Iterator for Lines<'a> {
    type Item = Result<&'a [u8], Refusal>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.0.take()?;
        let line = match rest.windows(2).position(|pair| pair == b"\r\n") {
            Some(at) => {
                let (line, next) = rest.split_at_checked(at)?;
                self.0 = next.get(2..);
                line
            }
            None => rest,
        };
        let clean = line.iter().all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f));
        Some(if clean { Ok(line) } else { Err(Refusal::BadRequest) })
    }
}

/// `method SP request-target SP HTTP-version`, each exactly once apart.
fn request_line(line: &[u8]) -> Result<Version, Refusal> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Refusal::BadRequest);
    };
    if !is_token(method) || method == b"CONNECT" || !is_path(target) {
        return Err(Refusal::BadRequest);
    }
    match version {
        b"HTTP/1.1" => Ok(Version::Http11),
        b"HTTP/1.0" => Ok(Version::Http10),
        _ => Err(Refusal::BadRequest),
    }
}

/// Origin form (RFC 9112 section 3.2.1), of characters that the parser takes.
fn is_path(target: &[u8]) -> bool {
    let printable = target.iter().all(u8::is_ascii_graphic) && !target.contains(&b'#');
    printable && target.first() == Some(&b'/') && PathAndQuery::try_from(target).is_ok()
}

/// What the header fields say of host and framing.
#[derive(Debug, Default)]
struct Fields {
    hosts: usize,
    length: Option<u64>,
    chunked: bool,
}

impl Fields {
    fn add(&mut self, line: &[u8]) -> Result<(), Refusal> {
        let colon = line.iter().position(|byte| *byte == b':').ok_or(Refusal::BadRequest)?;
        let (name, value) = line.split_at_checked(colon).ok_or(Refusal::BadRequest)?;
        if !is_token(name) {
            return Err(Refusal::BadRequest);
        }
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        if name.eq_ignore_ascii_case(b"host") {
            self.hosts += 1;
            if value.contains(&b'@') {
                return Err(Refusal::BadRequest);
            }
        } else if name.eq_ignore_ascii_case(b"content-length") {
            let length = length(value).filter(|_| self.length.is_none());
            self.length = Some(length.ok_or(Refusal::BadRequest)?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Refusal::BadRequest);
            }
            self.chunked = true;
        }
        Ok(())
    }

    fn framing(&self, version: Version) -> Result<Framing, Refusal> {
        let hosts_fit = self.hosts == 1 || (version == Version::Http10 && self.hosts == 0);
        match (self.chunked, self.length) {
            _ if !hosts_fit => Err(Refusal::BadRequest),
            (true, None) if version == Version::Http11 => Ok(Framing::Chunked),
            (true, _) => Err(Refusal::BadRequest),
            (false, length) => Ok(Framing::Length(length.unwrap_or(0))),
        }
    }
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
    !text.is_empty() && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &str) -> Result<Framing, Refusal> {
        judge(format!("{}\r\n\r\n", lines.replace('\n', "\r\n")).as_bytes())
    }

    #[test]
    fn an_ordinary_head_gets_in_and_tells_its_framing() {
        assert_eq!(of("POST /a?b HTTP/1.1\nHost: h\nContent-Length: 12"), Ok(Framing::Length(12)));
        assert_eq!(of("POST /a HTTP/1.1\nHost: h\nTransfer-Encoding: Chunked"), Ok(Framing::Chunked));
        assert_eq!(of("GET / HTTP/1.0"), Ok(Framing::Length(0)));
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
            "POST http://h/a HTTP/1.1\nHost: h",
            "POST http://other/a HTTP/1.1\nHost: h",
            "POST / HTTP/1.1\nHost: user@h",
        ];
        for head in bad {
            assert_eq!(of(head), Err(Refusal::BadRequest), "{head}");
        }
    }

    #[test]
    fn as_many_lines_as_the_parser_takes_get_in_and_no_more() {
        let lines = |count: usize| format!("GET / HTTP/1.1\nHost: h{}", "\nX: y".repeat(count - 1));
        assert_eq!(of(&lines(MAX_LINES)), Ok(Framing::Length(0)));
        assert_eq!(of(&lines(MAX_LINES + 1)), Err(Refusal::HeaderTooLarge));
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

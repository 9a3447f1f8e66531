//! As much of HTTP/1.1 as the generator and the application of the benchmark need: where a message ends.
//!
//! Not a parser to learn from: both sides are known.

/// The head of a message.
pub(crate) struct Head {
    /// With its blank line, bytes.
    pub(crate) length: usize,
    pub(crate) body: Body,
}

pub(crate) enum Body {
    Bytes(usize),
    Chunked,
}

/// The head that these bytes begin with, once it is whole.
pub(crate) fn head(bytes: &[u8]) -> Option<Head> {
    let end = find(bytes, b"\r\n\r\n")?;
    let mut body = Body::Bytes(0);
    for line in bytes[..end].split(|byte| *byte == b'\n').skip(1) {
        match line.first().map(u8::to_ascii_lowercase) {
            Some(b'c') => {
                if let Some(digits) = after(line, b"content-length:") {
                    body = Body::Bytes(number(digits));
                }
            }
            Some(b't') if after(line, b"transfer-encoding:").is_some() => body = Body::Chunked,
            _ => {}
        }
    }
    Some(Head { length: end + 4, body })
}

/// The whole message, in bytes, once it is there.
pub(crate) fn whole(bytes: &[u8]) -> Option<usize> {
    let head = head(bytes)?;
    match head.body {
        Body::Bytes(length) => (bytes.len() >= head.length + length).then_some(head.length + length),
        Body::Chunked => find(&bytes[head.length - 2..], b"\r\n0\r\n\r\n").map(|at| head.length - 2 + at + 7),
    }
}

/// The status of an answer.
pub(crate) fn status(bytes: &[u8]) -> u16 {
    bytes.get(9..12).map_or(0, |digits| u16::try_from(number(digits)).unwrap_or(0))
}

fn after<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = line.split_at_checked(name.len())?;
    start.eq_ignore_ascii_case(name).then_some(rest)
}

fn number(digits: &[u8]) -> usize {
    digits.iter().filter(|byte| byte.is_ascii_digit()).fold(0, |sum, byte| sum * 10 + usize::from(byte - b'0'))
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = bytes.get(from..)?.iter().position(|byte| *byte == b'\r') {
        if bytes[from + at..].starts_with(what) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

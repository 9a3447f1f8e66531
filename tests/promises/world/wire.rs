//! HTTP/1.1 as it stands on the wire, for the sender and for the application of these tests: read strictly, with a
//! deadline, and nothing forgiven. What does not follow RFC 9112 is a fault with a sentence, not a guess.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Why a message could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WireFault {
    /// The peer closed before the first byte of a message.
    Ended,
    /// The peer closed or reset in the middle of a message.
    Broken(String),
    /// The deadline passed.
    TimedOut,
    /// The bytes are not HTTP/1.1.
    Malformed(String),
}

impl fmt::Display for WireFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended => f.write_str("the peer closed the connection"),
            Self::Broken(how) => write!(f, "the connection broke: {how}"),
            Self::TimedOut => f.write_str("the deadline passed"),
            Self::Malformed(what) => write!(f, "not HTTP/1.1: {what}"),
        }
    }
}

/// Header lines in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Headers(pub(crate) Vec<(String, Vec<u8>)>);

impl Headers {
    /// The values of all lines with this name.
    pub(crate) fn all(&self, name: &str) -> Vec<String> {
        let matching = self.0.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        matching.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
    }

    /// The value, if exactly one line has this name.
    pub(crate) fn get(&self, name: &str) -> Option<String> {
        let mut all = self.all(name);
        (all.len() == 1).then(|| all.remove(0))
    }

    /// All names, lower case.
    pub(crate) fn names(&self) -> Vec<String> {
        self.0.iter().map(|(name, _)| name.to_ascii_lowercase()).collect()
    }
}

/// The head of a message.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    /// Request line or status line.
    pub(crate) start: String,
    /// The header lines.
    pub(crate) headers: Headers,
}

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    deadline: Instant,
}

/// Longest wait of a single read, so that a deadline is noticed soon.
const SLICE: Duration = Duration::from_millis(50);

impl Wire {
    /// Takes a connection over; everything must be done `within`.
    pub(crate) fn new(stream: TcpStream, within: Duration) -> Self {
        stream.set_nodelay(true).expect("an open socket");
        stream.set_read_timeout(Some(SLICE)).expect("an open socket");
        Self { stream, buffer: Vec::new(), deadline: Instant::now() + within }
    }

    /// Sets the deadline anew.
    pub(crate) fn allow(&mut self, within: Duration) {
        self.deadline = Instant::now() + within;
    }

    /// Writes all of it.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), WireFault> {
        self.stream.write_all(bytes).map_err(|e| WireFault::Broken(e.to_string()))
    }

    /// A reset, and not an orderly end, is what the peer sees when this end of the connection is dropped.
    pub(crate) fn linger_not(&self) {
        rustix::net::sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO)).expect("an open socket");
    }

    /// Ends this direction of the connection.
    pub(crate) fn end_writing(&self) {
        self.stream.shutdown(std::net::Shutdown::Write).ok();
    }

    /// Waits for one byte or the end, without taking anything. `Ok(false)`: the end.
    pub(crate) fn peek(&mut self) -> Result<bool, WireFault> {
        if self.buffer.is_empty() {
            return self.fill();
        }
        Ok(true)
    }

    /// Whether bytes have come that nobody asked for.
    pub(crate) fn surplus(&self) -> &[u8] {
        &self.buffer
    }

    /// The next head.
    pub(crate) fn head(&mut self) -> Result<Head, WireFault> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
                return parse_head(&head);
            }
            if self.buffer.len() > 1 << 20 {
                return Err(WireFault::Malformed("a head of more than 1 MiB".into()));
            }
            let fresh = self.buffer.is_empty();
            if !self.fill()? {
                return Err(if fresh { WireFault::Ended } else { WireFault::Broken("closed within the head".into()) });
            }
        }
    }

    /// The body that a head announces. `bodiless`: the answer to HEAD, or a request without framing.
    pub(crate) fn body(&mut self, headers: &Headers, unframed: Unframed) -> Result<Vec<u8>, WireFault> {
        let lengths = headers.all("content-length");
        let codings = headers.all("transfer-encoding");
        match (lengths.as_slice(), codings.as_slice()) {
            ([], []) => match unframed {
                Unframed::Empty => Ok(Vec::new()),
                Unframed::UntilClosed => self.until_closed(),
            },
            ([length], []) => {
                let digits = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
                let length = length.parse().ok().filter(|_| digits);
                self.exactly(length.ok_or_else(|| WireFault::Malformed(format!("Content-Length {lengths:?}")))?)
            }
            ([], [coding]) if coding.eq_ignore_ascii_case("chunked") => self.chunked(),
            (lengths, codings) => {
                Err(WireFault::Malformed(format!("Content-Length {lengths:?} with Transfer-Encoding {codings:?}")))
            }
        }
    }

    fn exactly(&mut self, length: usize) -> Result<Vec<u8>, WireFault> {
        while self.buffer.len() < length {
            if !self.fill()? {
                return Err(WireFault::Broken(format!("{} of {length} body bytes came", self.buffer.len())));
            }
        }
        Ok(self.buffer.drain(..length).collect())
    }

    fn until_closed(&mut self) -> Result<Vec<u8>, WireFault> {
        while self.fill()? {}
        Ok(std::mem::take(&mut self.buffer))
    }

    fn chunked(&mut self) -> Result<Vec<u8>, WireFault> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let digits = !line.is_empty() && line.bytes().all(|b| b.is_ascii_hexdigit());
            let length = usize::from_str_radix(&line, 16).ok().filter(|_| digits);
            let length = length.ok_or_else(|| WireFault::Malformed(format!("chunk length {line:?}")))?;
            body.extend(self.exactly(length)?);
            let end = self.line()?;
            if !end.is_empty() {
                return Err(WireFault::Malformed(format!("{end:?} behind a chunk")));
            }
            if length == 0 {
                return Ok(body);
            }
        }
    }

    fn line(&mut self) -> Result<String, WireFault> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if !self.fill()? {
                return Err(WireFault::Broken("closed within a line".into()));
            }
        }
    }

    /// Reads what there is, at most until the deadline. `Ok(false)`: the end.
    fn fill(&mut self) -> Result<bool, WireFault> {
        let mut bytes = [0; 16 * 1024];
        while Instant::now() < self.deadline {
            match self.stream.read(&mut bytes) {
                Ok(0) => return Ok(false),
                Ok(n) => {
                    self.buffer.extend_from_slice(&bytes[..n]);
                    return Ok(true);
                }
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
                Err(e) => return Err(WireFault::Broken(e.to_string())),
            }
        }
        Err(WireFault::TimedOut)
    }
}

/// What a message without any framing means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unframed {
    /// No body: a request, or an answer that has none.
    Empty,
    /// All that comes: an answer.
    UntilClosed,
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn parse_head(bytes: &[u8]) -> Result<Head, WireFault> {
    let bare = |b: &[u8]| b.contains(&b'\r') || b.contains(&b'\n') || b.contains(&0);
    let mut lines =
        bytes[..bytes.len() - 4].split_inclusive(|b| *b == b'\n').map(|l| l.strip_suffix(b"\r\n").unwrap_or(l));
    let start = lines.next().unwrap_or_default();
    if start.is_empty() || bare(start) || !start.is_ascii() {
        return Err(WireFault::Malformed(format!("start line {:?}", String::from_utf8_lossy(start))));
    }
    let mut headers = Vec::new();
    for line in lines {
        let wrong = || WireFault::Malformed(format!("header line {:?}", String::from_utf8_lossy(line)));
        let colon = line.iter().position(|b| *b == b':').ok_or_else(wrong)?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
        if name.is_empty() || !name.iter().all(token) || bare(line) {
            return Err(wrong());
        }
        headers.push((String::from_utf8_lossy(name).into_owned(), value.to_vec()));
    }
    Ok(Head { start: String::from_utf8_lossy(start).into_owned(), headers: Headers(headers) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn read(bytes: &'static [u8]) -> Result<(Head, Vec<u8>), WireFault> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut wire = Wire::new(listener.accept().unwrap().0, Duration::from_millis(300));
        peer.write_all(bytes).unwrap();
        drop(peer);
        let head = wire.head()?;
        let body = wire.body(&head.headers, Unframed::Empty)?;
        Ok((head, body))
    }

    #[test]
    fn a_message_is_read_by_its_length_or_by_its_chunks() {
        let (head, body) = read(b"POST / HTTP/1.1\r\nA: 1\r\na:2 \r\ncontent-length: 3\r\n\r\nabcd").unwrap();
        assert_eq!(
            (head.start.as_str(), head.headers.all("A"), body),
            ("POST / HTTP/1.1", vec!["1".into(), "2".into()], b"abc".to_vec())
        );
        assert_eq!(head.headers.get("a"), None);
        let (_, body) =
            read(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\nA\r\n0123456789\r\n0\r\n\r\n")
                .unwrap();
        assert_eq!(body, b"ab0123456789");
    }

    #[test]
    fn what_is_not_http_is_a_fault() {
        let faults: [&[u8]; 8] = [
            b"POST / HTTP/1.1\r\nA : 1\r\n\r\n",
            b"POST / HTTP/1.1\r\nA: 1\nB: 2\r\n\r\n",
            b"POST / HTTP/1.1\r\nA: 1\r\n folded\r\n\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
            b"POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\na",
            b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\na",
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n+1\r\na\r\n0\r\n\r\n",
        ];
        for fault in faults {
            assert!(matches!(read(fault), Err(WireFault::Malformed(_))), "{}", String::from_utf8_lossy(fault));
        }
    }

    #[test]
    fn an_end_is_told_from_a_break() {
        assert_eq!(read(b"").unwrap_err(), WireFault::Ended);
        assert!(matches!(read(b"POST / HTTP/1.1\r\nA"), Err(WireFault::Broken(_))));
        assert!(matches!(read(b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nab"), Err(WireFault::Broken(_))));
    }
}

//! One HTTP/1.1 request to an application over an open connection, and its answer (RFC 9112). It writes and reads at once, so
//! that an application that answers before it has read everything is heard. What an answer means is not decided here.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderName, HeaderValue, StatusCode};
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::pool::Stream;
use crate::buffers::{Buffers, Reserved, Use};
use crate::domain::chunks::Chunks;
use crate::domain::headers::Headers;

/// Longest head of an answer in bytes, interim answers included.
const MAX_HEAD_BYTES: usize = 256 * 1024;

/// Most header lines of an answer.
const MAX_LINES: usize = 256;

/// Most bytes read at once.
const PIECE: usize = 16 * 1024;

/// The body of an answer up to this length is an ordinary one and not counted: a route has `app.max_in_flight` of them.
const SHORT: usize = 64 * 1024;

/// How often the body of an answer that finds no room in memory looks again, and after which time each: a second in all, in
/// which others may be done with theirs. It waits with an attempt's slot.
const ROOM_WAITS: u32 = 50;
const ROOM_PAUSE: Duration = Duration::from_millis(20);

/// A request on its way.
pub(super) struct Request<'a> {
    /// The head, and the body with it if they leave in one piece. Given back as soon as it is written: many wait for an answer,
    /// and few write.
    head: Vec<u8>,
    /// How much of it is written.
    written: usize,
    /// What is still to be written of the body.
    body: &'a [u8],
    flushed: bool,
    /// Whether the last byte was written: from then on the application may have the whole request.
    taken: bool,
    /// Whether its method is HEAD.
    asks_for_head: bool,
    /// Why nothing more can be written.
    broken: Option<io::Error>,
}

/// The head of an answer, and what came behind it. It is filled in where it is, for it goes nowhere else.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// Those that concern who asked and not the connection.
    pub(super) headers: Headers,
    framing: Framing,
    /// Whether the connection may serve another request once the body is read.
    stays_open: bool,
    /// What came and is not read yet.
    rest: BytesMut,
}

/// Whether a head has come up to its blank line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Head {
    Whole,
    Cut,
}

/// How the body of an answer ends.
#[derive(Debug)]
enum Framing {
    Length(u64),
    Chunked(Chunks),
    /// With the connection.
    End,
    /// Nobody can say: the head contradicts itself.
    Unclear,
}

/// A body that is being read.
struct Body {
    bytes: BytesMut,
    most: usize,
    room: Reserved,
}

/// How far a body has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Done,
    /// There is no room in memory for what comes next.
    WantsRoom,
}

impl Body {
    /// Whether there is room for `more` bytes; what is [`SHORT`] needs none.
    fn has_room_for(&mut self, more: usize) -> bool {
        let length = self.bytes.len() + more;
        length <= SHORT || self.room.grow_to(length).is_ok()
    }

    fn whole(self) -> Bytes {
        let Self { bytes, room, .. } = self;
        if bytes.len() <= SHORT {
            return bytes.freeze();
        }
        Bytes::from_owner(Counted { bytes: bytes.freeze(), _room: room })
    }
}

/// Bytes and what they take of the gateway's memory, given back with the last of them.
struct Counted {
    bytes: Bytes,
    _room: Reserved,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Whether there is more of an answer than anybody reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    Some,
    Nothing,
}

/// What is to become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reuse {
    Keep,
    Close,
}

impl<'a> Request<'a> {
    /// `asks_for_head`: its method is HEAD.
    pub(super) fn new(head: Vec<u8>, body: &'a [u8], asks_for_head: bool) -> Self {
        Self { head, written: 0, body, flushed: false, taken: false, asks_for_head, broken: None }
    }

    /// Whether the application may have all of it.
    pub(super) fn is_taken(&self) -> bool {
        self.taken
    }

    /// Whether the application was sent all of it.
    pub(super) fn is_whole(&self) -> bool {
        self.flushed && self.broken.is_none()
    }

    /// Whether the application has all of it, or takes no more of it.
    pub(super) fn is_over(&self) -> bool {
        self.flushed || self.broken.is_some()
    }

    /// Sends what is left of it, until the application has all of it or takes no more. Where `unread` says that more of the answer
    /// may come, that is read away, up to the connection's end: closed with any of it unread, the connection would take along
    /// what the application has not read of the request.
    pub(super) fn poll_over(&mut self, cx: &mut Context<'_>, stream: &mut Stream, unread: Unread) -> Poll<()> {
        let ended = unread == Unread::Nothing || poll_ended(cx, stream).is_ready();
        self.write_some(cx, stream);
        if self.is_over() && unread == Unread::Some && !ended {
            // Whether it is told that no more comes or not: what counts is its end.
            let _told = Pin::new(stream).poll_shutdown(cx);
        }
        if self.is_over() && ended { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Sends the request and reads the head of its answer, of which nothing has come yet. An answer that breaks behind its status
    /// line is one without headers.
    pub(super) fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut Stream,
        answer: &mut Answer,
    ) -> Poll<io::Result<()>> {
        self.write_some(cx, stream);
        let error = loop {
            let count = match poll_piece(cx, stream, &mut answer.rest) {
                Poll::Ready(Ok(count)) => count,
                Poll::Ready(Err(error)) => break self.broken.take().unwrap_or(error),
                Poll::Pending => return Poll::Pending,
            };
            if count == 0 {
                let ended = || io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended");
                break self.broken.take().unwrap_or_else(ended);
            }
            match answer.parse(self.asks_for_head) {
                Ok(Head::Whole) => return Poll::Ready(Ok(())),
                Ok(Head::Cut) => {}
                Err(error) => break error,
            }
        };
        Poll::Ready(if answer.settle_for_status_line() { Ok(()) } else { Err(error) })
    }

    /// Writes as far as it goes. An error is kept: the application may have answered before it closed the connection.
    fn write_some(&mut self, cx: &mut Context<'_>, stream: &mut Stream) {
        if self.broken.is_some() || self.flushed {
            return;
        }
        loop {
            let head = self.head.get(self.written..).unwrap_or_default();
            let written = match (head, self.body) {
                ([], []) => break,
                (piece, []) | ([], piece) => Pin::new(&mut *stream).poll_write(cx, piece),
                (_, _) => {
                    Pin::new(&mut *stream).poll_write_vectored(cx, &[IoSlice::new(head), IoSlice::new(self.body)])
                }
            };
            match written {
                Poll::Ready(Ok(0)) => return self.broken = Some(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => {
                    let of_head = count.min(head.len());
                    self.written += of_head;
                    self.body = self.body.get(count - of_head..).unwrap_or_default();
                }
                Poll::Ready(Err(error)) => return self.broken = Some(error),
                Poll::Pending => return,
            }
        }
        (self.head, self.written) = (Vec::new(), 0);
        self.taken = true;
        match Pin::new(stream).poll_flush(cx) {
            Poll::Ready(Ok(())) => self.flushed = true,
            Poll::Ready(Err(error)) => self.broken = Some(error),
            Poll::Pending => {}
        }
    }
}

impl Answer {
    /// One of which nothing has come.
    pub(super) fn awaited() -> Self {
        Self {
            status: StatusCode::OK,
            headers: Headers::new(),
            framing: Framing::Unclear,
            stays_open: false,
            rest: BytesMut::new(),
        }
    }

    /// Reads the first final head of what came, if it is complete up to its blank line; interim ones before it are passed over.
    fn parse(&mut self, asks_for_head: bool) -> io::Result<Head> {
        loop {
            let came = &mut self.rest;
            if came.len() > MAX_HEAD_BYTES {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the head of the answer is too long"));
            }
            let mut lines = [const { MaybeUninit::uninit() }; MAX_LINES];
            let mut head = httparse::Response::new(&mut []);
            let config = httparse::ParserConfig::default();
            let parsed = config
                .parse_response_with_uninit_headers(&mut head, came, &mut lines)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("no HTTP answer: {error}")))?;
            let httparse::Status::Complete(length) = parsed else { return Ok(Head::Cut) };
            let odd = || io::Error::new(io::ErrorKind::InvalidData, "no HTTP answer: an impossible status or header");
            let status = StatusCode::from_u16(head.code.unwrap_or_default()).map_err(|_| odd())?;
            if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
                came.advance(length);
                continue;
            }
            let lines = Lines(head.headers);
            self.status = status;
            self.framing = Framing::of(status, lines, asks_for_head);
            self.stays_open = lines.stay_open(head.version == Some(1))
                && status != StatusCode::SWITCHING_PROTOCOLS
                && !(status == StatusCode::NO_CONTENT && lines.announce_a_body());
            self.headers = lines.end_to_end().ok_or_else(odd)?;
            came.advance(length);
            return Ok(Head::Whole);
        }
    }

    /// Whether what came begins with the whole status line of a final answer, whatever stands behind it: then that is all the
    /// answer there is.
    pub(super) fn settle_for_status_line(&mut self) -> bool {
        let Some(status) = final_status(&self.rest) else { return false };
        self.status = status;
        self.headers = Headers::new();
        (self.framing, self.stays_open) = (Framing::Unclear, false);
        true
    }

    /// The body if all of it is here already, and whether the connection can be kept.
    pub(super) fn body_at_hand(&mut self) -> Option<(Bytes, Reuse)> {
        let Framing::Length(length) = self.framing else { return None };
        let length = usize::try_from(length).ok().filter(|length| *length <= self.rest.len())?;
        let body = if length == self.rest.len() { std::mem::take(&mut self.rest) } else { self.rest.split_to(length) };
        Some((body.freeze(), self.reuse()))
    }

    /// Reads the whole body, and goes on sending what is left of the request; one longer than `most` bytes, or broken, is an
    /// error. What it takes of `buffers` it takes as long as anybody has the body.
    pub(super) async fn body(
        &mut self,
        stream: &mut Stream,
        request: &mut Request<'_>,
        most: usize,
        buffers: &Buffers,
    ) -> io::Result<(Bytes, Reuse)> {
        let mut body = Body { bytes: BytesMut::new(), most, room: buffers.reserve(Use::Answers) };
        let mut waits = ROOM_WAITS;
        let mut poll = |cx: &mut Context<'_>| {
            request.write_some(cx, stream);
            self.poll_body(cx, stream, &mut body)
        };
        while poll_fn(&mut poll).await? == Progress::WantsRoom {
            if waits == 0 {
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            waits -= 1;
            tokio::time::sleep(ROOM_PAUSE).await;
        }
        Ok((body.whole(), self.reuse()))
    }

    /// Bytes that nobody asked for, or an end that only the connection's end tells, close it.
    fn reuse(&self) -> Reuse {
        let known = matches!(self.framing, Framing::Length(_) | Framing::Chunked(_));
        if known && self.stays_open && self.rest.is_empty() { Reuse::Keep } else { Reuse::Close }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>, stream: &mut Stream, body: &mut Body) -> Poll<io::Result<Progress>> {
        let broken = |what| Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, what)));
        loop {
            if !body.has_room_for(self.rest.len()) {
                return Poll::Ready(Ok(Progress::WantsRoom));
            }
            let Body { bytes: body, most, .. } = &mut *body;
            let done = match &mut self.framing {
                Framing::Unclear => return broken("the answer does not say how long it is"),
                Framing::Length(length) => {
                    let left = length.saturating_sub(u64::try_from(body.len()).unwrap_or(u64::MAX));
                    let here = self.rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    body.extend_from_slice(&self.rest.split_to(here));
                    left == u64::try_from(here).unwrap_or(u64::MAX)
                }
                Framing::Chunked(chunks) => {
                    let Ok(read) = chunks.decode(&self.rest, |data| body.extend_from_slice(data)) else {
                        return broken("the answer's chunks are not framed as such");
                    };
                    self.rest.advance(read);
                    chunks.is_done()
                }
                Framing::End => {
                    body.extend_from_slice(&std::mem::take(&mut self.rest));
                    false
                }
            };
            if body.len() > *most {
                return broken("the answer is too long");
            }
            if done {
                return Poll::Ready(Ok(Progress::Done));
            }
            if ready!(poll_piece(cx, stream, &mut self.rest))? == 0 {
                let complete = matches!(self.framing, Framing::End);
                return if complete { Poll::Ready(Ok(Progress::Done)) } else { broken("the answer broke off") };
            }
        }
    }
}

impl Framing {
    /// RFC 9112 section 6.3.
    fn of(status: StatusCode, lines: Lines<'_>, asks_for_head: bool) -> Self {
        if asks_for_head || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            return Self::Length(0);
        }
        let mut lengths = lines.options("content-length");
        let mut codings = lines.options("transfer-encoding");
        if let Some(coding) = codings.next() {
            let alone = codings.next().is_none() && lengths.next().is_none();
            let is_chunked = alone && coding.eq_ignore_ascii_case(b"chunked");
            return if is_chunked { Self::Chunked(Chunks::new()) } else { Self::Unclear };
        }
        let Some(length) = lengths.next() else { return Self::End };
        let value = Some(length).filter(|length| length.iter().all(u8::is_ascii_digit));
        let value = value.and_then(|length| std::str::from_utf8(length).ok()?.parse().ok());
        match value {
            Some(value) if lengths.all(|other| other == length) => Self::Length(value),
            Some(_) | None => Self::Unclear,
        }
    }
}

/// The header lines of an answer.
#[derive(Clone, Copy)]
struct Lines<'a>(&'a [httparse::Header<'a>]);

impl<'a> Lines<'a> {
    /// Whether they say that a body follows. Where there is to be none (204) it may come all the same, and would be taken for
    /// the beginning of the next answer.
    fn announce_a_body(self) -> bool {
        self.options("transfer-encoding").next().is_some()
            || self.options("content-length").any(|length| length.iter().any(|digit| *digit != b'0'))
    }

    /// What the lines with this lower-case name say, item by item.
    fn options(self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
        let said = self.0.iter().filter(|line| line.name.eq_ignore_ascii_case(name));
        said.flat_map(|line| line.value.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
    }

    /// RFC 9112 section 9.3.
    fn stay_open(self, speaks_11: bool) -> bool {
        let says = |option: &str| self.options("connection").any(|said| said.eq_ignore_ascii_case(option.as_bytes()));
        if speaks_11 { !says("close") } else { says("keep-alive") }
    }

    /// Those that concern the receiver and not the connection (RFC 9110 section 7.6.1); `None`: one is no header.
    fn end_to_end(self) -> Option<Headers> {
        let named: SmallVec<[&[u8]; 4]> = self.options("connection").collect();
        let is_named = |name: &str| named.iter().any(|named| named.eq_ignore_ascii_case(name.as_bytes()));
        let goes_on = |line: &&httparse::Header<'_>| !ends_here(line.name) && !is_named(line.name);
        let mut headers = Headers::with_capacity(self.0.len());
        for line in self.0.iter().filter(goes_on) {
            let name = HeaderName::from_bytes(line.name.as_bytes()).ok()?;
            headers.append(name, HeaderValue::from_bytes(line.value).ok()?);
        }
        Some(headers)
    }
}

/// The status of the line that `came` begins with, if that is a whole status line of HTTP/1 (RFC 9112 section 4) and no interim
/// one's.
fn final_status(came: &[u8]) -> Option<StatusCode> {
    let line = came.split_inclusive(|byte| *byte == b'\n').next()?.strip_suffix(b"\n")?;
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let (version, said) = line.split_at_checked(b"HTTP/1.1 ".len())?;
    let (digits, reason) = said.split_at_checked(3)?;
    let is_one = matches!(version, b"HTTP/1.1 " | b"HTTP/1.0 ") && (reason.is_empty() || reason.starts_with(b" "));
    let status = StatusCode::from_bytes(digits).ok()?;
    let is_final = !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS;
    (is_one && is_final).then_some(status)
}

fn ends_here(name: &str) -> bool {
    const OF_CONNECTIONS: [&str; 9] = [
        "connection",
        "content-length",
        "keep-alive",
        "proxy-authenticate",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    OF_CONNECTIONS.iter().any(|ours| name.eq_ignore_ascii_case(ours))
}

/// Reads away what comes, until no more does.
fn poll_ended(cx: &mut Context<'_>, stream: &mut Stream) -> Poll<()> {
    let mut came = BytesMut::new();
    while ready!(poll_piece(cx, stream, &mut came)).is_ok_and(|count| count > 0) {
        came.clear();
    }
    Poll::Ready(())
}

fn poll_piece(cx: &mut Context<'_>, stream: &mut Stream, came: &mut BytesMut) -> Poll<io::Result<usize>> {
    let mut piece = [const { MaybeUninit::uninit() }; PIECE];
    let mut piece = ReadBuf::uninit(&mut piece);
    ready!(Pin::new(stream).poll_read(cx, &mut piece))?;
    came.extend_from_slice(piece.filled());
    Poll::Ready(Ok(piece.filled().len()))
}

#[cfg(test)]
mod tests;

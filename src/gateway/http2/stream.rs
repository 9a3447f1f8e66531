//! One request of a connection as a stream of bytes in HTTP/1.1: what is read of it is the request, what is written to it
//! is the reply. Whoever reads a connection of HTTP/1.1 can serve it, and by the same rules; it has none of its own.
//!
//! A body of a length comes as it is, any other by chunks; trailers are left out. A reply ends where its own framing says,
//! a reply that is broken off resets the request. What is not taken of a body by then is given up without an error
//! (RFC 9113 section 8.1).

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{Method, Request};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::text::{self, Coding};
use crate::domain::chunks::Chunks;

/// Longest head of a reply, the application's header lines included.
const LONGEST_HEAD: usize = 256 * 1024;

/// Most bytes of a reply written at once.
const PIECE: usize = 16 * 1024;

/// A request and its reply.
pub(crate) struct Stream {
    body: RecvStream,
    coding: Coding,
    /// What is to be read before more of the body is: the head, or a piece and what frames it.
    ahead: [Bytes; 3],
    method: Method,
    respond: SendResponse<Bytes>,
    reply: Reply,
}

/// How far the reply is.
enum Reply {
    /// Its head is being written.
    Head(BytesMut),
    /// Its body is.
    Body(SendStream<Bytes>, Left),
    /// It is complete, or never will be.
    Over,
}

/// What is to come of a reply's body.
enum Left {
    /// This many bytes.
    Bytes(u64),
    /// Whatever comes before the end.
    Any,
    /// Chunks.
    Chunks(Chunks),
}

impl Stream {
    /// Of a request that was accepted.
    pub(crate) fn new(request: Request<RecvStream>, respond: SendResponse<Bytes>) -> Self {
        let (parts, body) = request.into_parts();
        let (head, coding) = text::request(&parts, !body.is_end_stream());
        Self {
            body,
            coding,
            ahead: [head, Bytes::new(), Bytes::new()],
            method: parts.method,
            respond,
            reply: Reply::Head(BytesMut::new()),
        }
    }

    /// The number of the stream, which is not that of a descriptor.
    pub(crate) fn id(&self) -> u32 {
        self.respond.stream_id().as_u32()
    }

    /// Hands on what is ahead; whether there was any.
    fn hand_on(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let Some(piece) = self.ahead.iter_mut().find(|piece| !piece.is_empty()) else { return false };
        let count = piece.len().min(buf.remaining());
        buf.put_slice(&piece.split_to(count));
        true
    }

    /// Waits for more of the body; `false`: none comes any more.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.coding == Coding::Nothing {
            return Poll::Ready(Ok(false));
        }
        let Some(data) = ready!(self.body.poll_data(cx)) else {
            if std::mem::replace(&mut self.coding, Coding::Nothing) == Coding::Chunks {
                self.ahead = [Bytes::from_static(b"0\r\n\r\n"), Bytes::new(), Bytes::new()];
                return Poll::Ready(Ok(true));
            }
            return Poll::Ready(Ok(false));
        };
        let data = data.map_err(broken)?;
        // Read by us, whoever reads on: the window is for what is under way.
        self.body.flow_control().release_capacity(data.len()).map_err(broken)?;
        self.ahead = match self.coding {
            Coding::Chunks if !data.is_empty() => {
                [format!("{:x}\r\n", data.len()).into(), data, Bytes::from_static(b"\r\n")]
            }
            Coding::Chunks | Coding::Length(_) | Coding::Nothing => [Bytes::new(), data, Bytes::new()],
        };
        Poll::Ready(Ok(true))
    }

    /// All of the request is read: that it ends is told once the reply does, or when the sender takes the request back.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let gone = match &mut self.reply {
            Reply::Head(_) => self.respond.poll_reset(cx),
            Reply::Body(send, _) => send.poll_reset(cx),
            Reply::Over => return Poll::Ready(Ok(())),
        };
        gone.map(|_| Ok(()))
    }

    /// Takes bytes of the reply's head; once it is whole it is sent.
    fn take_head(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Reply::Head(text) = &mut self.reply else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let before = text.len();
        text.extend_from_slice(bytes);
        let Some(end) = memchr::memmem::find(text, b"\r\n\r\n").map(|at| at + 4) else {
            return if text.len() > LONGEST_HEAD { Err(io::ErrorKind::InvalidData.into()) } else { Ok(bytes.len()) };
        };
        let (response, coding) =
            text.get(..end).and_then(|head| text::reply(head, &self.method)).ok_or(io::ErrorKind::InvalidData)?;
        if response.status().is_informational() {
            text.clear();
            self.respond.send_informational(response).map_err(broken)?;
        } else {
            let send = self.respond.send_response(response, coding == Coding::Nothing).map_err(broken)?;
            self.reply = match coding {
                Coding::Nothing => Reply::Over,
                Coding::Length(Some(length)) => Reply::Body(send, Left::Bytes(length)),
                Coding::Length(None) => Reply::Body(send, Left::Any),
                Coding::Chunks => Reply::Body(send, Left::Chunks(Chunks::new())),
            };
        }
        Ok(end.saturating_sub(before))
    }

    /// Nothing more is written: a reply that is not complete never will be.
    fn end(&mut self) {
        match std::mem::replace(&mut self.reply, Reply::Over) {
            Reply::Head(_) => self.respond.send_reset(Reason::INTERNAL_ERROR),
            Reply::Body(mut send, Left::Any) => {
                if send.send_data(Bytes::new(), true).is_err() {
                    send.send_reset(Reason::INTERNAL_ERROR);
                }
            }
            Reply::Body(mut send, Left::Bytes(_) | Left::Chunks(_)) => send.send_reset(Reason::INTERNAL_ERROR),
            Reply::Over => {}
        }
    }
}

/// Waits until the sender's window has room; says for how many bytes, `most` at most.
fn poll_room(send: &mut SendStream<Bytes>, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<usize>> {
    send.reserve_capacity(most);
    loop {
        match send.capacity() {
            0 => match ready!(send.poll_capacity(cx)) {
                Some(room) => {
                    room.map_err(broken)?;
                }
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            },
            room => return Poll::Ready(Ok(room.min(most))),
        }
    }
}

/// Sends some of a body; says how many bytes were taken and whether the body is complete.
fn send_some(send: &mut SendStream<Bytes>, left: &mut Left, bytes: &[u8]) -> io::Result<(usize, bool)> {
    let (taken, data, done) = match left {
        Left::Bytes(left) => {
            let count = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
            *left = left.saturating_sub(u64::try_from(count).unwrap_or(u64::MAX));
            (count, Bytes::copy_from_slice(bytes.get(..count).unwrap_or_default()), *left == 0)
        }
        Left::Any => (bytes.len(), Bytes::copy_from_slice(bytes), false),
        Left::Chunks(chunks) => {
            let mut data = BytesMut::with_capacity(bytes.len());
            let decoded = chunks.decode(bytes, |piece| data.extend_from_slice(piece));
            let taken = decoded.map_err(|_| io::ErrorKind::InvalidData)?;
            (taken, data.freeze(), chunks.is_done())
        }
    };
    if done || !data.is_empty() {
        send.send_data(data, done).map_err(broken)?;
    }
    Ok((taken, done))
}

/// The connection is gone, or the request was taken back.
fn broken(error: h2::Error) -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, error)
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.hand_on(buf) {
                return Poll::Ready(Ok(()));
            }
            if !ready!(this.poll_body(cx))? {
                return this.poll_gone(cx);
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match &mut this.reply {
            Reply::Head(_) => Poll::Ready(this.take_head(bytes)),
            Reply::Body(send, left) => {
                let room = ready!(poll_room(send, cx, bytes.len().min(PIECE)))?;
                let (taken, done) = send_some(send, left, bytes.get(..room).unwrap_or_default())?;
                if done {
                    this.reply = Reply::Over;
                }
                Poll::Ready(Ok(taken))
            }
            Reply::Over => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    /// What was handed over is written by who serves the connection.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().end();
        Poll::Ready(Ok(()))
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("id", &self.id()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

//! The guard: wraps an accepted stream in front of the HTTP/1 parser, which has no deadline for a whole head, lets a
//! head grow to a mebibyte and cannot tell when a request's first byte came.
//!
//! It ends an idle connection after `idle_timeout` or when told to, answers 408 to a head that is not complete
//! `header_timeout` after its first byte, 431 to one longer than `max_header_bytes` and 400 to one that `head` does not
//! let in, and notes the first byte's moment. The parser gets whole heads only, and not one byte after the end of a
//! body: what follows is kept for the next request. A body that is not complete `body_timeout` after its head and a reply
//! that the sender does not take within `write_timeout` break the connection, whoever reads or writes.

use std::fmt;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::alarm::Alarm;
use super::chunks::Chunks;
use super::connections::{Connection, Phase};
use super::farewell::Farewell;
use super::head::{self, Framing, Judged};
use super::reply;
use super::side::Side;
use crate::domain::refusal::Refusal;

/// The limits of a head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadLimits {
    /// First byte to blank line.
    pub(crate) header_timeout: Duration,
    /// Between requests.
    pub(crate) idle_timeout: Duration,
    /// Longest head.
    pub(crate) max_header_bytes: usize,
}

/// What stands behind the guard.
pub(crate) trait House: Send + Sync {
    /// A head that began at `began` was refused; it is counted and logged like any other request.
    fn refused(&self, connection: &Connection, refusal: Refusal, began: Instant);

    /// How long a sender may take over a body, as configured now.
    fn body_timeout(&self) -> Duration;

    /// How long a sender may take over our reply, as configured now.
    fn write_timeout(&self) -> Duration;
}

/// A guarded stream.
pub(crate) struct Guard {
    inner: Side,
    connection: Arc<Connection>,
    limits: HeadLimits,
    house: Arc<dyn House>,
    alarm: Pin<Box<Sleep>>,
    armed_for: Option<Phase>,
    /// When the body must be complete; set when the head is handed on.
    body_by: Instant,
    /// Rings when it is not.
    unfinished: Alarm,
    /// Rings when the sender has not taken a reply in time.
    untaken: Alarm,
    close: Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
    /// Bytes that came and were not handed on yet: a head that is not complete, or what follows it.
    pending: BytesMut,
    /// Bytes of `pending` that were looked at in vain for the end of the head.
    looked: usize,
    /// Whether a blank line before the head was passed over.
    forgiven: bool,
    stage: Stage,
    /// How the connection ends; there once a head was refused.
    farewell: Option<Farewell>,
}

/// What the next bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// A head, not complete.
    Head,
    /// A head that was judged: this many bytes of it are still to be handed on.
    Judged(usize, Framing),
    /// The body of a length: this many bytes are still to come. What comes after them is the next request's.
    Body(u64),
    /// A body by chunks. What comes after its end is the next request's.
    Chunked(Chunks),
    /// A head that was refused: what else comes is read away.
    Refused,
    /// Nothing comes any more.
    Ended,
}

impl Guard {
    /// Guards `inner`.
    pub(crate) fn new(inner: Side, connection: Arc<Connection>, limits: HeadLimits, house: Arc<dyn House>) -> Self {
        let told = connection.clone();
        Self {
            inner,
            connection,
            limits,
            house,
            alarm: Box::pin(tokio::time::sleep(limits.idle_timeout)),
            armed_for: None,
            body_by: Instant::now(),
            unfinished: Alarm::default(),
            untaken: Alarm::default(),
            close: Box::pin(async move { told.told_to_close().await }),
            pending: BytesMut::new(),
            looked: 0,
            forgiven: false,
            stage: Stage::Head,
            farewell: None,
        }
    }

    /// Sets the alarm for what the connection is doing now, if that is new.
    fn arm(&mut self, phase: Phase) {
        if self.armed_for == Some(phase) {
            return;
        }
        self.armed_for = Some(phase);
        match phase {
            Phase::Idle(since) => self.alarm.as_mut().reset(since + self.limits.idle_timeout),
            Phase::Head(began) => self.alarm.as_mut().reset(began + self.limits.header_timeout),
            Phase::Busy(_) => {}
        }
    }

    /// Reads until the head is complete and judged, refused, or nothing comes; then hands it on.
    fn poll_head(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let phase = self.note_first_byte();
            self.arm(phase);
            if let Phase::Head(began) = phase {
                match self.judge() {
                    Ok(Some(())) => return self.poll_handing(buf),
                    Ok(None) => {}
                    Err(refusal) => {
                        self.refuse(refusal, began);
                        return self.poll_farewell(cx);
                    }
                }
            }
            match self.poll_more(cx) {
                Poll::Ready(Ok(0)) => {
                    self.stage = Stage::Ended;
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return self.poll_patience(cx, phase),
            }
        }
    }

    /// The first byte of a request starts its clock; bytes of it may have come with the request before.
    fn note_first_byte(&mut self) -> Phase {
        match self.connection.phase() {
            Phase::Idle(_) if !self.pending.is_empty() => {
                let head = Phase::Head(Instant::now());
                self.connection.enter(head);
                head
            }
            phase @ (Phase::Idle(_) | Phase::Head(_) | Phase::Busy(_)) => phase,
        }
    }

    /// Judges the head if it is complete.
    fn judge(&mut self) -> Result<Option<()>, Refusal> {
        // One blank line before a request is forgiven (RFC 9112 section 2.2), however it comes in.
        if self.looked == 0 && !self.forgiven {
            match self.pending.get(..2) {
                Some(b"\r\n") => {
                    self.pending.advance(2);
                    self.forgiven = true;
                }
                None if self.pending.first() == Some(&b'\r') => return Ok(None),
                Some(_) | None => {}
            }
        }
        let end = head::end(&self.pending, self.looked)?;
        self.looked = self.pending.len();
        if end.unwrap_or(self.looked) > self.limits.max_header_bytes {
            return Err(Refusal::HeaderTooLarge);
        }
        let Some(end) = end else { return Ok(None) };
        let Judged { framing, authority } = head::judge(self.pending.get(..end).unwrap_or_default())?;
        let end = authority.map_or(end, |authority| end.saturating_sub(self.cut(authority)));
        self.stage = Stage::Judged(end, framing);
        self.looked = 0;
        self.forgiven = false;
        Ok(Some(()))
    }

    /// Takes a part of the head out and says how long it was.
    fn cut(&mut self, part: Range<usize>) -> usize {
        let rest = self.pending.split_off(part.end.min(self.pending.len()));
        self.pending.truncate(part.start);
        self.pending.extend_from_slice(&rest);
        part.len()
    }

    /// Reads what there is, at most one byte more than a head may have.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let room = self.limits.max_header_bytes.saturating_sub(self.pending.len()).saturating_add(1);
        let mut piece = [0; 4096];
        let mut piece = ReadBuf::new(piece.get_mut(..room.min(4096)).unwrap_or_default());
        ready!(Pin::new(&mut self.inner).poll_read(cx, &mut piece))?;
        self.pending.extend_from_slice(piece.filled());
        Poll::Ready(Ok(piece.filled().len()))
    }

    /// Nothing comes: until the alarm, or until an idle connection is told to close.
    fn poll_patience(&mut self, cx: &mut Context<'_>, phase: Phase) -> Poll<io::Result<()>> {
        let told = matches!(phase, Phase::Idle(_)) && self.close.as_mut().poll(cx).is_ready();
        if !told {
            ready!(self.alarm.as_mut().poll(cx));
        }
        match phase {
            Phase::Head(began) => {
                self.refuse(Refusal::RequestTimeout, began);
                self.poll_farewell(cx)
            }
            Phase::Idle(_) | Phase::Busy(_) => {
                self.stage = Stage::Ended;
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Hands a judged head on, as far as there is room.
    fn poll_handing(&mut self, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Stage::Judged(left, framing) = self.stage {
            let count = self.hand_on(buf, left);
            self.body_by = Instant::now() + self.house.body_timeout();
            self.unfinished.clear();
            self.stage = match (left - count, framing) {
                (0, Framing::Length(length)) => Stage::Body(length),
                (0, Framing::Chunked) => Stage::Chunked(Chunks::new()),
                (left, framing) => Stage::Judged(left, framing),
            };
        }
        Poll::Ready(Ok(()))
    }

    fn hand_on(&mut self, buf: &mut ReadBuf<'_>, most: usize) -> usize {
        let count = most.min(buf.remaining()).min(self.pending.len());
        buf.put_slice(&self.pending.split_to(count));
        count
    }

    /// Bytes of a body: first those that came with the head, and never one of the next request.
    fn poll_body(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>, left: u64) -> Poll<io::Result<()>> {
        let most = usize::try_from(left).unwrap_or(usize::MAX);
        let count = if self.pending.is_empty() {
            let piece = self.poll_piece(cx, buf, most);
            ready!(self.until_finished(cx, piece))?
        } else {
            self.hand_on(buf, most)
        };
        if let Stage::Body(left) = self.stage {
            self.stage = Stage::Body(left.saturating_sub(u64::try_from(count).unwrap_or(u64::MAX)));
        }
        Poll::Ready(Ok(()))
    }

    /// Bytes of a body by chunks, framing included, up to its end.
    fn poll_chunks(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>, mut chunks: Chunks) -> Poll<io::Result<()>> {
        if self.pending.is_empty() {
            let mut piece = [0; 8192];
            let mut piece = ReadBuf::new(&mut piece);
            let read = Pin::new(&mut self.inner).poll_read(cx, &mut piece);
            ready!(self.until_finished(cx, read))?;
            self.pending.extend_from_slice(piece.filled());
        }
        let room = self.pending.len().min(buf.remaining());
        let Ok(read) = chunks.read(self.pending.get(..room).unwrap_or_default()) else {
            self.stage = Stage::Ended;
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "chunks that are not framed as such")));
        };
        self.stage = if chunks.is_done() { Stage::Body(0) } else { Stage::Chunked(chunks) };
        self.hand_on(buf, read);
        Poll::Ready(Ok(()))
    }

    /// Reads at most `most` bytes and says how many came.
    fn poll_piece(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>, most: usize) -> Poll<io::Result<usize>> {
        let before = buf.filled().len();
        if most >= buf.remaining() {
            ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
            return Poll::Ready(Ok(buf.filled().len() - before));
        }
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(most));
        ready!(Pin::new(&mut self.inner).poll_read(cx, &mut part))?;
        let count = part.filled().len();
        buf.advance(count);
        Poll::Ready(Ok(count))
    }

    /// Refuses a head past the parser, which sees the connection end once the sender had time to read why.
    fn refuse(&mut self, refusal: Refusal, began: Instant) {
        self.stage = Stage::Refused;
        self.farewell = Some(Farewell::new(reply::raw_refusal(refusal)));
        self.house.refused(&self.connection, refusal, began);
    }

    fn poll_farewell(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(farewell) = &mut self.farewell {
            ready!(farewell.poll(cx, &mut self.inner));
        }
        self.stage = Stage::Ended;
        Poll::Ready(Ok(()))
    }

    /// The request is complete: what comes next waits until it is answered, and only that nothing comes any more is
    /// told. Of a sender that sends more ahead than a head may be long no end is noticed before the answer.
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.pending.len() <= self.limits.max_header_bytes {
            if ready!(self.poll_more(cx))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
        Poll::Pending
    }

    /// Bounds a body that is being read.
    fn until_finished<T>(&mut self, cx: &mut Context<'_>, progress: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let by = self.body_by;
        self.unfinished.bound(cx, || by, progress)
    }

    /// Bounds how long a reply waits to be taken: from the first byte it does not take at once to the last.
    fn until_taken<T>(&mut self, cx: &mut Context<'_>, progress: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let house = &self.house;
        self.untaken.bound(cx, || Instant::now() + house.write_timeout(), progress)
    }
}

impl AsyncRead for Guard {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let busy = matches!(this.connection.phase(), Phase::Busy(_));
        if !busy {
            this.stage = match this.stage {
                Stage::Body(0) => Stage::Head,
                // The rest of a body that nobody wanted must not be taken for a request.
                Stage::Body(_) | Stage::Chunked(_) => Stage::Ended,
                stage @ (Stage::Head | Stage::Judged(..) | Stage::Refused | Stage::Ended) => stage,
            };
        }
        match this.stage {
            Stage::Ended => Poll::Ready(Ok(())),
            Stage::Refused => this.poll_farewell(cx),
            Stage::Head => this.poll_head(cx, buf),
            Stage::Judged(..) => this.poll_handing(buf),
            Stage::Body(0) => this.poll_ahead(cx),
            Stage::Body(left) => this.poll_body(cx, buf, left),
            Stage::Chunked(chunks) => this.poll_chunks(cx, buf, chunks),
        }
    }
}

impl AsyncWrite for Guard {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        // A refusal was the connection's last word; the parser's own must not follow it.
        if this.farewell.is_some() || (this.stage == Stage::Ended && matches!(this.connection.phase(), Phase::Head(_)))
        {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let written = Pin::new(&mut this.inner).poll_write(cx, bytes);
        this.until_taken(cx, written)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.inner).poll_flush(cx);
        ready!(this.until_taken(cx, flushed))?;
        this.untaken.clear();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let shut = Pin::new(&mut this.inner).poll_shutdown(cx);
        this.until_taken(cx, shut)
    }
}

#[async_trait]
impl Shutdown for Guard {
    async fn shutdown(&mut self) {
        Shutdown::shutdown(&mut self.inner).await;
    }
}

#[async_trait]
impl Peek for Guard {}

impl UniqueID for Guard {
    fn id(&self) -> UniqueIDType {
        self.inner.id()
    }
}

impl Ssl for Guard {}

impl GetTimingDigest for Guard {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.inner.get_timing_digest()
    }
}

impl GetProxyDigest for Guard {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Guard {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.inner.get_socket_digest()
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("remote", &self.connection.remote).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

//! The guard as a stream that Pingora reads one request from and writes its answer to: whole heads only, not one byte after
//! the end of a body, and what is written goes out when it is flushed.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use bytes::Buf as _;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::{Coming, Guard, SMALL, Stage};
use crate::domain::chunks::Chunks;
use crate::gateway::connections::Phase;
use crate::gateway::head::Framing;

/// Most bytes of a body by chunks read at once, and of an answer kept until they go out: part of what a passage counts for.
const PIECE: usize = 16 * 1024;

impl Guard {
    /// Reads until there is a head, and hands it on.
    fn poll_head(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match ready!(self.poll_judged(cx))? {
            Coming::Request => self.poll_handing(buf),
            Coming::Nothing => Poll::Ready(Ok(())),
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
            let read = self.poll_pending(cx, PIECE);
            ready!(self.until_finished(cx, read))?;
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

    /// The request is complete: what comes next waits until it is answered, and only that nothing comes any more is
    /// told. Of a sender that sends more ahead than an ordinary head no end is noticed before the answer.
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.pending.len() <= SMALL {
            let room = SMALL.saturating_sub(self.pending.len()).saturating_add(1);
            if ready!(self.poll_pending(cx, room))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
        Poll::Pending
    }

    /// Writes what was held back for the flush.
    fn poll_unsent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let written = Pin::new(&mut self.inner).poll_write(cx, &self.unsent);
            match ready!(self.until_taken(cx, written))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.unsent.advance(count),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Guard {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !matches!(this.connection.phase(), Phase::Busy(_)) {
            this.turn_over();
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
        if this.unsent.len() >= PIECE {
            ready!(this.poll_unsent(cx))?;
        }
        let count = bytes.len().min(PIECE.saturating_sub(this.unsent.len()));
        this.unsent.extend_from_slice(bytes.get(..count).unwrap_or_default());
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_unsent(cx))?;
        let flushed = Pin::new(&mut this.inner).poll_flush(cx);
        ready!(this.until_taken(cx, flushed))?;
        this.untaken.clear();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_unsent(cx))?;
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
        Vec::new()
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

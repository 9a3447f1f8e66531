//! The guard: wraps an accepted stream in front of the HTTP/1 parser, which has no deadline for a whole head, lets a
//! head grow to a mebibyte and cannot tell when a request's first byte came.
//!
//! It ends an idle connection after `idle_timeout` or when told to, answers 408 to a head that is not complete
//! `header_timeout` after its first byte and 431 to one longer than `max_header_bytes`, and notes the first byte's
//! moment. It does not look at what the head says: that is the parser's and the proxy's business.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use pingora::protocols::l4::stream::Stream as TcpSide;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::connections::{Connection, Phase};
use super::reply;
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

/// Told of heads that the guard refuses, so that each is counted and logged like any other request.
pub(crate) trait RefusedHeads: Send + Sync {
    /// A head that began at `began` was refused.
    fn refused(&self, connection: &Connection, refusal: Refusal, began: Instant);
}

/// A guarded stream.
pub(crate) struct Guard {
    inner: TcpSide,
    connection: Arc<Connection>,
    limits: HeadLimits,
    refused: Arc<dyn RefusedHeads>,
    alarm: Pin<Box<Sleep>>,
    armed_for: Option<Phase>,
    close: Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
    head_bytes: usize,
    ended: bool,
}

impl Guard {
    /// Guards `inner`.
    pub(crate) fn new(
        inner: TcpSide,
        connection: Arc<Connection>,
        limits: HeadLimits,
        refused: Arc<dyn RefusedHeads>,
    ) -> Self {
        let told = connection.clone();
        Self {
            inner,
            connection,
            limits,
            refused,
            alarm: Box::pin(tokio::time::sleep(limits.idle_timeout)),
            armed_for: None,
            close: Box::pin(async move { told.told_to_close().await }),
            head_bytes: 0,
            ended: false,
        }
    }

    /// Sets the alarm for what the connection is doing now, if that is new.
    fn arm(&mut self, phase: Phase) {
        if self.armed_for == Some(phase) {
            return;
        }
        self.armed_for = Some(phase);
        match phase {
            Phase::Idle(since) => {
                self.head_bytes = 0;
                self.alarm.as_mut().reset(since + self.limits.idle_timeout);
            }
            Phase::Head(began) => self.alarm.as_mut().reset(began + self.limits.header_timeout),
            Phase::Busy(_) => {}
        }
    }

    /// Notes `count` bytes that came while no request was being served.
    fn note(&mut self, phase: Phase, count: usize) {
        if count > 0 && matches!(phase, Phase::Idle(_)) {
            let head = Phase::Head(Instant::now());
            self.connection.enter(head);
            self.arm(head);
        }
        self.head_bytes = self.head_bytes.saturating_add(count);
    }

    /// Writes a refusal past the parser, as far as it goes into the socket's buffer, and ends the connection.
    fn refuse(&mut self, cx: &mut Context<'_>, refusal: Refusal, began: Instant) {
        self.ended = true;
        let bytes = reply::raw_refusal(refusal);
        let mut sent = 0;
        while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
            match Pin::new(&mut self.inner).poll_write(cx, rest) {
                Poll::Ready(Ok(count)) if count > 0 => sent += count,
                Poll::Ready(_) | Poll::Pending => break,
            }
        }
        let _flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.refused.refused(&self.connection, refusal, began);
    }
}

impl AsyncRead for Guard {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(Ok(()));
        }
        let phase = this.connection.phase();
        if let Phase::Busy(_) = phase {
            this.armed_for = None;
            return Pin::new(&mut this.inner).poll_read(cx, buf);
        }
        this.arm(phase);
        let room = this.limits.max_header_bytes.saturating_sub(this.head_bytes);
        if let (Phase::Head(began), 0) = (phase, room) {
            this.refuse(cx, Refusal::HeaderTooLarge, began);
            return Poll::Ready(Ok(()));
        }
        if let Poll::Ready(count) = this.read_some(cx, buf, room) {
            this.note(phase, count?);
            return Poll::Ready(Ok(()));
        }
        let told = matches!(phase, Phase::Idle(_)) && this.close.as_mut().poll(cx).is_ready();
        if !told {
            ready!(this.alarm.as_mut().poll(cx));
        }
        match phase {
            Phase::Head(began) => this.refuse(cx, Refusal::RequestTimeout, began),
            Phase::Idle(_) | Phase::Busy(_) => this.ended = true,
        }
        Poll::Ready(Ok(()))
    }
}

impl Guard {
    /// Reads at most `room` bytes and says how many came.
    fn read_some(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>, room: usize) -> Poll<io::Result<usize>> {
        let before = buf.filled().len();
        if room >= buf.remaining() {
            ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
            return Poll::Ready(Ok(buf.filled().len() - before));
        }
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(room));
        ready!(Pin::new(&mut self.inner).poll_read(cx, &mut part))?;
        let count = part.filled().len();
        buf.advance(count);
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for Guard {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
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

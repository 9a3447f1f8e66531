//! The end of a connection whose head was refused: the refusal is written and some of what the sender still sends is
//! read away, for a socket closed with unread bytes is reset, and a reset can overtake the refusal. It does not decide
//! what is refused.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::proxy::{LINGER, LINGER_BYTES};
use super::side::Side;

/// A connection that is being ended.
pub(super) struct Farewell {
    /// What is still to be written.
    rest: Bytes,
    /// Whether the sender was told that nothing follows.
    told: bool,
    /// How many bytes are still read away.
    left: usize,
    until: Pin<Box<Sleep>>,
}

impl Farewell {
    /// Ends a connection with `last`.
    pub(super) fn new(last: Vec<u8>) -> Self {
        let until = Box::pin(tokio::time::sleep(LINGER));
        Self { rest: last.into(), told: false, left: LINGER_BYTES, until }
    }

    /// Comes when the connection can be closed: the sender has ended it too, or had its time.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, stream: &mut Side) -> Poll<()> {
        if self.until.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        // A connection that broke takes nothing more.
        self.poll_steps(cx, stream).map(|_| ())
    }

    fn poll_steps(&mut self, cx: &mut Context<'_>, stream: &mut Side) -> Poll<io::Result<()>> {
        while !self.rest.is_empty() {
            let count = ready!(Pin::new(&mut *stream).poll_write(cx, &self.rest))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.rest.advance(count);
        }
        if !self.told {
            ready!(Pin::new(&mut *stream).poll_flush(cx))?;
            ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
            self.told = true;
        }
        while self.left > 0 {
            let mut piece = [0; 4096];
            let mut piece = ReadBuf::new(&mut piece);
            ready!(Pin::new(&mut *stream).poll_read(cx, &mut piece))?;
            match piece.filled().len() {
                0 => break,
                count => self.left = self.left.saturating_sub(count),
            }
        }
        Poll::Ready(Ok(()))
    }
}

//! A sender's stream as the `h2` library reads and writes it, watched: frames are counted on their way in and out, and one who
//! does not take what is written is cut. What is read after too much has come is nothing.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::frames::Tally;
use crate::gateway::alarm::Alarm;
use crate::gateway::guard::House;
use crate::gateway::proxy::{LINGER, LINGER_BYTES};
use crate::gateway::side::Side;

/// So much has to be taken in `write_timeout`, or all that waits.
const PROGRESS: usize = 64 * 1024;

/// The tally of a connection: written where bytes pass, read by who serves it. Both are in one task, so that nobody
/// waits for the lock.
#[derive(Clone)]
pub(super) struct Tallied(Arc<Mutex<Tally>>);

impl Tallied {
    /// Nothing counted yet.
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Tally::new())))
    }

    /// As it stands.
    pub(super) fn look(&self) -> MutexGuard<'_, Tally> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A watched stream.
pub(super) struct Watched {
    inner: Side,
    tally: Tallied,
    house: Arc<dyn House>,
    /// Rings when the sender takes too little.
    untaken: Alarm,
    /// What it took since the alarm was set.
    taken: usize,
    ending: Ending,
    /// Rings when the sender had its time to read the last word.
    parting: Alarm,
}

/// How far the end of the stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// It has not begun.
    No,
    /// The sender was told; so many bytes of what it still sends are read away, for a socket closed with unread bytes is
    /// reset, and a reset can overtake the last word.
    Told(usize),
}

impl Watched {
    /// Watches `inner`.
    pub(super) fn new(inner: Side, tally: Tallied, house: Arc<dyn House>) -> Self {
        Self { inner, tally, house, untaken: Alarm::default(), taken: 0, ending: Ending::No, parting: Alarm::default() }
    }

    fn bound<T>(&mut self, cx: &mut Context<'_>, progress: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let house = &self.house;
        self.untaken.bound(cx, || Instant::now() + house.write_timeout(), progress)
    }

    fn all_taken(&mut self) {
        self.untaken.clear();
        self.taken = 0;
    }
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.tally.look().excess().is_some() {
            // Who serves the connection looks at the tally whenever nothing comes.
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
        let came = buf.filled().get(before..).unwrap_or_default();
        this.tally.look().came(came, Instant::now());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write(cx, bytes);
        let count = ready!(this.bound(cx, written))?;
        this.tally.look().went(bytes.get(..count).unwrap_or_default(), Instant::now());
        this.taken += count;
        if this.taken >= PROGRESS {
            this.all_taken();
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.inner).poll_flush(cx);
        ready!(this.bound(cx, flushed))?;
        this.all_taken();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ending == Ending::No {
            let shut = Pin::new(&mut this.inner).poll_shutdown(cx);
            ready!(this.bound(cx, shut))?;
            this.ending = Ending::Told(LINGER_BYTES);
        }
        while let Ending::Told(left @ 1..) = this.ending {
            let mut piece = [0; 4096];
            let mut piece = ReadBuf::new(&mut piece);
            let read = Pin::new(&mut this.inner).poll_read(cx, &mut piece);
            match ready!(this.parting.bound(cx, || Instant::now() + LINGER, read)) {
                Ok(()) if !piece.filled().is_empty() => {
                    this.ending = Ending::Told(left.saturating_sub(piece.filled().len()));
                }
                Ok(()) | Err(_) => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;

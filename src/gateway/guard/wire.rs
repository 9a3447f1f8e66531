//! The guard as the gateway itself reads requests from it and writes replies to it: a head, then as much of its body as is
//! wanted, then a reply, then the next head.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::time::Instant;

use super::{Coming, Guard, PIECE, Stage};
use crate::buffers::Reserved;
use crate::domain::chunks::Chunks;
use crate::gateway::connections::Phase;
use crate::gateway::farewell::Farewell;
use crate::gateway::head::{Framing, Places};

/// A body is not framed as it says.
#[derive(Debug)]
pub(crate) struct Broken;

impl Guard {
    /// Waits for a request; says when its first byte came. `None`: none comes any more, and the connection can be dropped.
    pub(crate) async fn next(&mut self) -> Option<Instant> {
        self.turn_over();
        self.places.shrink();
        let coming = poll_fn(|cx| match self.stage {
            Stage::Head => self.poll_judged(cx),
            Stage::Judged(..) => Poll::Ready(Ok(Coming::Request)),
            Stage::Refused | Stage::Ended | Stage::Body(_) | Stage::Chunked(_) => Poll::Ready(Ok(Coming::Nothing)),
        });
        let coming = coming.await;
        match (coming, self.connection.phase()) {
            (Ok(Coming::Request), Phase::Head(began) | Phase::Busy(began)) => Some(began),
            (Ok(Coming::Request | Coming::Nothing) | Err(_), _) => None,
        }
    }

    /// The head that waits to be taken, blank line included.
    pub(crate) fn head(&self) -> &[u8] {
        match self.stage {
            Stage::Judged(end, _) => self.pending.get(..end).unwrap_or_default(),
            Stage::Head | Stage::Body(_) | Stage::Chunked(_) | Stage::Refused | Stage::Ended => &[],
        }
    }

    /// The path in the head that waits to be taken, without the query.
    pub(crate) fn path(&self) -> &str {
        std::str::from_utf8(self.places.path(self.head())).unwrap_or_default()
    }

    /// Where its parts stand.
    pub(crate) const fn places(&self) -> &Places {
        &self.places
    }

    /// Takes the head. Its body is what is read next.
    pub(crate) fn take_head(&mut self) -> Bytes {
        let Stage::Judged(end, framing) = self.stage else { return Bytes::new() };
        self.stage = match framing {
            Framing::Length(length) => Stage::Body(length),
            Framing::Chunked => Stage::Chunked(Chunks::new()),
        };
        self.take(end)
    }

    /// What the head that was taken takes of the gateway's memory, if it is a long one; to be kept as long as what it says.
    pub(crate) fn take_long_head(&mut self) -> Option<Reserved> {
        self.long_head.take()
    }

    /// How long the rest of the body is; `None`: only its chunks say.
    pub(crate) fn left(&self) -> Option<u64> {
        match self.stage {
            Stage::Body(left) => Some(left),
            Stage::Chunked(_) => None,
            Stage::Head | Stage::Judged(..) | Stage::Refused | Stage::Ended => Some(0),
        }
    }

    /// Whether any of the body has come.
    pub(crate) fn has_more(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The whole rest of the body, if it is here.
    pub(crate) fn rest(&mut self) -> Option<Bytes> {
        let Stage::Body(left) = self.stage else { return None };
        let left = usize::try_from(left).ok().filter(|left| *left <= self.pending.len())?;
        self.stage = Stage::Body(0);
        Some(self.take(left))
    }

    /// Reads some more of the body behind `body`; says how many bytes of it came, 0 at its end.
    pub(crate) async fn more(&mut self, body: &mut BytesMut) -> io::Result<Result<usize, Broken>> {
        poll_fn(|cx| match self.stage {
            Stage::Body(left) => self.poll_plain(cx, body, left),
            Stage::Chunked(chunks) => self.poll_decoded(cx, body, chunks),
            Stage::Head | Stage::Judged(..) | Stage::Refused | Stage::Ended => Poll::Ready(Ok(Ok(0))),
        })
        .await
    }

    fn poll_plain(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut BytesMut,
        left: u64,
    ) -> Poll<io::Result<Result<usize, Broken>>> {
        if left == 0 {
            return Poll::Ready(Ok(Ok(0)));
        }
        let most = usize::try_from(left).unwrap_or(usize::MAX);
        let count = if self.pending.is_empty() && body.len() >= PIECE / 2 {
            // Straight to where it belongs, once so much has come that memory for more is not given away: for three times
            // what is here.
            if body.capacity() - body.len() < most.min(PIECE / 2) {
                body.reserve(most.min(3 * body.len()));
            }
            let mut room = body.limit(most);
            ready!(pin!(self.inner.read_buf(&mut room)).poll(cx))?
        } else {
            if self.pending.is_empty() {
                ready!(self.poll_pending(cx, most))?;
            }
            let piece = self.take(most.min(self.pending.len()));
            body.extend_from_slice(&piece);
            piece.len()
        };
        if count == 0 {
            return Poll::Ready(Ok(Err(Broken)));
        }
        self.stage = Stage::Body(left.saturating_sub(u64::try_from(count).unwrap_or(u64::MAX)));
        Poll::Ready(Ok(Ok(count)))
    }

    fn poll_decoded(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut BytesMut,
        mut chunks: Chunks,
    ) -> Poll<io::Result<Result<usize, Broken>>> {
        let before = body.len();
        while body.len() == before && !chunks.is_done() {
            if self.pending.is_empty() && ready!(self.poll_pending(cx, PIECE))? == 0 {
                self.stage = Stage::Ended;
                return Poll::Ready(Ok(Err(Broken)));
            }
            let Ok(read) = chunks.decode(&self.pending, |data| body.extend_from_slice(data)) else {
                self.stage = Stage::Ended;
                return Poll::Ready(Ok(Err(Broken)));
            };
            drop(self.take(read));
            self.stage = if chunks.is_done() { Stage::Body(0) } else { Stage::Chunked(chunks) };
        }
        Poll::Ready(Ok(Ok(body.len() - before)))
    }

    /// Takes `count` pending bytes. A connection that waits for the next request keeps no memory for it.
    fn take(&mut self, count: usize) -> Bytes {
        if count >= self.pending.len() {
            return std::mem::take(&mut self.pending).freeze();
        }
        self.pending.split_to(count).freeze()
    }

    /// Writes all of these, within the time that a sender has to take them.
    pub(crate) async fn send(&mut self, pieces: [&[u8]; 2]) -> io::Result<()> {
        for mut piece in pieces {
            while !piece.is_empty() {
                let count = poll_fn(|cx| {
                    let written = Pin::new(&mut self.inner).poll_write(cx, piece);
                    self.until_taken(cx, written)
                })
                .await?;
                if count == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                piece = piece.get(count..).unwrap_or_default();
            }
        }
        poll_fn(|cx| {
            let flushed = Pin::new(&mut self.inner).poll_flush(cx);
            self.until_taken(cx, flushed)
        })
        .await?;
        self.untaken.clear();
        Ok(())
    }

    /// Says that nothing follows.
    pub(crate) async fn shut(&mut self) {
        self.stage = Stage::Ended;
        // Who is gone needs no farewell.
        let _told = poll_fn(|cx| {
            let shut = Pin::new(&mut self.inner).poll_shutdown(cx);
            self.until_taken(cx, shut)
        })
        .await;
    }

    /// Ends the connection: says that nothing follows, and reads some of what the sender still sends away, for a socket
    /// closed with unread bytes is reset, and the sender would see that in place of the reply.
    pub(crate) async fn part(&mut self) {
        self.stage = Stage::Ended;
        let mut farewell = Farewell::new(Vec::new());
        poll_fn(|cx| farewell.poll(cx, &mut self.inner)).await;
    }
}

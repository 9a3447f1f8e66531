//! The guard: wraps an accepted stream in front of whoever reads requests from it, ourselves (`wire`) or, for what passes
//! through, Pingora (`passing`), whose parser has no deadline for a whole head, lets a head grow to a mebibyte and cannot
//! tell when a request's first byte came.
//!
//! It ends an idle connection after `idle_timeout` or when told to, answers 408 to a head that is not complete
//! `header_timeout` after its first byte, 431 to one longer than `max_header_bytes` and 400 to one that `head` does not
//! let in, and notes the first byte's moment. The parser gets whole heads only, and not one byte after the end of a
//! body: what follows is kept for the next request. A body that is not complete `body_timeout` after its head and a reply
//! that the sender does not take within `write_timeout` break the connection, whoever reads or writes.
//!
//! What of a head is longer than [`SMALL`] counts against the gateway's memory until its request is over; one that finds no
//! room there is answered 503.

mod passing;
mod wire;

use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::alarm::Alarm;
use super::body::Unread;
use super::connections::{Connection, Phase};
use super::farewell::Farewell;
use super::head::{self, Framing, Judged, Places};
use super::reply;
use super::side::Side;
use crate::buffers::{Buffers, Reserved, Use};
use crate::domain::chunks::Chunks;
use crate::domain::refusal::Refusal;

pub(crate) use self::wire::Broken;

/// Most bytes read at once where it is not known how many come: a body of 16 KiB with its head.
const PIECE: usize = 20 * 1024;

/// A head up to this length is an ordinary one, which finds room whatever others do: as much as common servers let an
/// application see. What is longer counts against the gateway's memory.
const SMALL: usize = 8 * 1024;

/// A head that has come to this length is given memory for the longest one at once.
const GROWN_ONCE: usize = 64 * 1024;

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
    /// A head that began at `began` was not let in; it is counted and logged like any other request.
    fn refused(&self, connection: &Connection, why: Unread, began: Instant);

    /// What long heads find room in.
    fn buffers(&self) -> &Buffers;

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
    /// Until when a connection on which nothing comes is left open.
    patience_until: Instant,
    /// Rings then, or before it: see [`Self::poll_alarm`].
    alarm: Pin<Box<Sleep>>,
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
    /// Where the parts stand of the head that was judged.
    places: Places,
    stage: Stage,
    /// What a long head takes, until its request is over.
    long_head: Option<Reserved>,
    /// What Pingora wrote and did not flush yet.
    unsent: BytesMut,
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

/// What comes next on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coming {
    /// A request whose head was judged.
    Request,
    /// None any more.
    Nothing,
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
            patience_until: Instant::now() + limits.idle_timeout,
            alarm: Box::pin(tokio::time::sleep(limits.idle_timeout)),
            body_by: Instant::now(),
            unfinished: Alarm::default(),
            untaken: Alarm::default(),
            close: Box::pin(async move { told.told_to_close().await }),
            pending: BytesMut::new(),
            looked: 0,
            forgiven: false,
            places: Places::default(),
            stage: Stage::Head,
            long_head: None,
            unsent: BytesMut::new(),
            farewell: None,
        }
    }

    /// Notes until when what the connection is doing now may take.
    fn be_patient(&mut self, phase: Phase) {
        match phase {
            Phase::Idle(since) => self.patience_until = since + self.limits.idle_timeout,
            Phase::Head(began) => self.patience_until = began + self.limits.header_timeout,
            Phase::Busy(_) => {}
        }
    }

    /// Comes when patience ends. An alarm that rings before is left as it is until then: a connection that serves one request
    /// after the other would set it anew for each, and it would never ring.
    fn poll_alarm(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.alarm.deadline() > self.patience_until {
            self.alarm.as_mut().reset(self.patience_until);
        }
        loop {
            ready!(self.alarm.as_mut().poll(cx));
            if self.alarm.deadline() >= self.patience_until {
                return Poll::Ready(());
            }
            self.alarm.as_mut().reset(self.patience_until);
        }
    }

    /// Whether this task is polled by `by` at the latest, if it is not before and does not wait on the guard: the alarm for an
    /// idle connection, which nobody needs meanwhile, rings then or earlier.
    pub(crate) fn will_ring(&mut self, cx: &mut Context<'_>, by: Instant) -> bool {
        if self.alarm.is_elapsed() || self.alarm.deadline() > by {
            self.alarm.as_mut().reset(by);
        }
        self.alarm.as_mut().poll(cx).is_pending()
    }

    /// Reads until a head is complete and judged, or until it is refused or nothing comes, which is then the end.
    fn poll_judged(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Coming>> {
        loop {
            let phase = self.note_first_byte();
            self.be_patient(phase);
            if let Phase::Head(began) = phase {
                match self.judge().map_err(Unread::Refused).and_then(|judged| self.count_in(judged)) {
                    Ok(Some(())) => return Poll::Ready(Ok(Coming::Request)),
                    Ok(None) => {}
                    Err(why) => {
                        self.refuse(why, began);
                        return self.poll_farewell(cx).map_ok(|()| Coming::Nothing);
                    }
                }
            }
            match self.poll_more(cx) {
                Poll::Ready(Ok(0)) => {
                    self.stage = Stage::Ended;
                    return Poll::Ready(Ok(Coming::Nothing));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return self.poll_patience(cx, phase).map_ok(|()| Coming::Nothing),
            }
        }
    }

    /// A request that was served is behind us; the rest of a body that nobody wanted must not be taken for the next.
    fn turn_over(&mut self) {
        if self.stage == Stage::Body(0) {
            self.long_head = None;
        }
        self.stage = match self.stage {
            Stage::Body(0) => Stage::Head,
            Stage::Body(_) | Stage::Chunked(_) => Stage::Ended,
            stage @ (Stage::Head | Stage::Judged(..) | Stage::Refused | Stage::Ended) => stage,
        };
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
        // A head that came in one piece is read once. What is not let in this way may only be incomplete.
        let at_once = self.looked == 0;
        let judged = match at_once.then(|| head::judge(&self.pending, &mut self.places)) {
            Some(Ok(judged)) if judged.length <= self.limits.max_header_bytes => judged,
            Some(Ok(_) | Err(_)) | None => match self.judge_whole()? {
                Some(judged) => judged,
                None => return Ok(None),
            },
        };
        let end = match judged.authority {
            None => judged.length,
            Some(authority) => {
                let end = judged.length.saturating_sub(self.cut(authority));
                // What is left is as good, and its parts stand elsewhere.
                head::judge(self.pending.get(..end).unwrap_or_default(), &mut self.places)?;
                end
            }
        };
        self.stage = Stage::Judged(end, judged.framing);
        self.looked = 0;
        self.forgiven = false;
        Ok(Some(()))
    }

    /// Judges the head once its end is here, which is looked for only in what was not looked at.
    fn judge_whole(&mut self) -> Result<Option<Judged>, Refusal> {
        let end = head::end(&self.pending, self.looked)?;
        self.looked = self.pending.len();
        if end.unwrap_or(self.looked) > self.limits.max_header_bytes {
            return Err(Refusal::HeaderTooLarge);
        }
        let Some(end) = end else { return Ok(None) };
        head::judge(self.pending.get(..end).unwrap_or_default(), &mut self.places).map(Some)
    }

    /// Has what is long of a head count, before any more of it is read. Of one that still grows the memory that was taken for
    /// it counts, and not only the part that is filled: the system may give it in pieces of two mebibytes.
    fn count_in(&mut self, judged: Option<()>) -> Result<Option<()>, Unread> {
        let length = match self.pending.len() {
            _ if judged.is_some() => self.head().len(),
            length if length >= GROWN_ONCE => self.limits.max_header_bytes.max(length),
            length if length > SMALL => self.pending.capacity(),
            length => length,
        };
        if length > SMALL {
            let held = self.long_head.get_or_insert_with(|| self.house.buffers().reserve(Use::Heads));
            held.grow_to(length - SMALL).map_err(Unread::Unavailable)?;
        }
        Ok(judged)
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
        if self.pending.len() >= GROWN_ONCE {
            // Grown once to its end: what it grew out of would be given back only later. No more is used than comes.
            self.pending.reserve(room);
        }
        self.poll_pending(cx, room)
    }

    /// Reads at most `most` bytes behind those that are pending. Who sends nothing takes no memory for it.
    #[expect(clippy::large_stack_arrays, reason = "nothing writes to it but the system, as much as came")]
    fn poll_pending(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<usize>> {
        let mut piece = [const { MaybeUninit::uninit() }; PIECE];
        let mut piece = ReadBuf::uninit(piece.get_mut(..most.min(PIECE)).unwrap_or_default());
        ready!(Pin::new(&mut self.inner).poll_read(cx, &mut piece))?;
        self.pending.extend_from_slice(piece.filled());
        Poll::Ready(Ok(piece.filled().len()))
    }

    /// Nothing comes: until the alarm, or until an idle connection is told to close.
    fn poll_patience(&mut self, cx: &mut Context<'_>, phase: Phase) -> Poll<io::Result<()>> {
        let told = matches!(phase, Phase::Idle(_)) && self.close.as_mut().poll(cx).is_ready();
        if !told {
            ready!(self.poll_alarm(cx));
        }
        match phase {
            Phase::Head(began) => {
                self.refuse(Unread::Refused(Refusal::RequestTimeout), began);
                self.poll_farewell(cx)
            }
            Phase::Idle(_) | Phase::Busy(_) => {
                self.stage = Stage::Ended;
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Refuses a head past the parser, which sees the connection end once the sender had time to read why.
    fn refuse(&mut self, why: Unread, began: Instant) {
        self.stage = Stage::Refused;
        self.pending = BytesMut::new();
        self.long_head = None;
        self.farewell = Some(Farewell::new(match why {
            Unread::Refused(refusal) => reply::raw_refusal(refusal),
            Unread::Unavailable(fault) => reply::raw_fault(fault),
        }));
        self.house.refused(&self.connection, why, began);
    }

    fn poll_farewell(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(farewell) = &mut self.farewell {
            ready!(farewell.poll(cx, &mut self.inner));
        }
        self.stage = Stage::Ended;
        Poll::Ready(Ok(()))
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

#[cfg(test)]
pub(in crate::gateway) mod tests;

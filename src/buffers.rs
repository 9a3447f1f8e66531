//! What strangers and applications have the gateway keep in memory, byte by byte, all of it under one bound,
//! `server.max_buffered_bytes`. It holds no bytes itself and decides nothing about those that find no room.
//!
//! Bodies of requests may take the whole bound. Everything else has a share of it, so that none of it keeps bodies out:
//! long heads a quarter, long answers of applications half, what passes through half, events that are read from disk before
//! their turn a sixteenth.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::domain::fault::Fault;
use crate::telemetry::{IntGauge, Metrics};

/// What bytes are kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Bodies of requests.
    Bodies,
    /// Heads of requests, as far as they are longer than an ordinary one.
    Heads,
    /// Answers of applications, as far as they are long.
    Answers,
    /// Requests that pass through, and their answers.
    Passages,
    /// Events on disk that are read before there is a slot for them.
    Backlog,
}

/// The bound. Cloning shares it.
#[derive(Clone)]
pub struct Buffers(Arc<Bound>);

impl std::fmt::Debug for Buffers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffers").field("used", &self.0.used).field("most", &self.0.most).finish_non_exhaustive()
    }
}

struct Bound {
    used: AtomicUsize,
    most: usize,
    heads: Share,
    answers: Share,
    passages: Share,
    backlog: Share,
    metrics: Arc<Metrics>,
}

/// How much of the bound one use may take.
struct Share {
    used: AtomicUsize,
    most: usize,
    gauge: IntGauge,
}

/// Some bytes of the bound in use; given back when dropped.
pub struct Reserved {
    bytes: usize,
    what: Use,
    buffers: Buffers,
}

impl Use {
    /// The word of metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bodies => "bodies",
            Self::Heads => "heads",
            Self::Answers => "answers",
            Self::Passages => "passages",
            Self::Backlog => "backlog",
        }
    }
}

impl Buffers {
    /// A bound of `most` bytes; one head of `longest_head` bytes always finds room in the share of heads.
    #[must_use]
    pub fn new(most: usize, longest_head: usize, metrics: Arc<Metrics>) -> Self {
        metrics.buffered_bytes_capacity.set(signed(most));
        let share = |what: Use, most| {
            let gauge = metrics.buffered_share_bytes.with_label_values(&[what.as_str()]);
            Share { used: AtomicUsize::new(0), most, gauge }
        };
        let (heads, answers) = (share(Use::Heads, (most / 4).max(longest_head)), share(Use::Answers, most / 2));
        let (passages, backlog) = (share(Use::Passages, most / 2), share(Use::Backlog, most / 16));
        Self(Arc::new(Bound { used: AtomicUsize::new(0), most, heads, answers, passages, backlog, metrics }))
    }

    /// No bytes yet, to be kept for `what`.
    #[must_use]
    pub fn reserve(&self, what: Use) -> Reserved {
        Reserved { bytes: 0, what, buffers: self.clone() }
    }

    fn share(&self, what: Use) -> Option<&Share> {
        match what {
            Use::Bodies => None,
            Use::Heads => Some(&self.0.heads),
            Use::Answers => Some(&self.0.answers),
            Use::Passages => Some(&self.0.passages),
            Use::Backlog => Some(&self.0.backlog),
        }
    }
}

impl Reserved {
    /// Takes `bytes` more, or says that there is no room for them; then nothing has changed.
    ///
    /// # Errors
    /// [`Fault::Overloaded`]: the bound, or the share of this use, is reached.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Fault> {
        if self.fits(bytes) {
            return Ok(());
        }
        self.buffers.0.metrics.buffered_full_total.with_label_values(&[self.what.as_str()]).inc();
        Err(Fault::Overloaded)
    }

    /// Takes `bytes` more and says so, or says that there is no room for them; then nothing has changed. For what can be
    /// done without: it is not counted.
    pub fn fits(&mut self, bytes: usize) -> bool {
        let bound = &self.buffers.0;
        let share = self.buffers.share(self.what);
        let in_share = share.is_none_or(|share| take(&share.used, bytes, share.most));
        if !in_share || !take(&bound.used, bytes, bound.most) {
            if let Some(share) = share.filter(|_| in_share) {
                share.used.fetch_sub(bytes, Ordering::Relaxed);
            }
            return false;
        }
        if let Some(share) = share {
            share.gauge.add(signed(bytes));
        }
        self.bytes += bytes;
        bound.metrics.buffered_bytes.add(signed(bytes));
        true
    }

    /// Takes as many more as make it `bytes`.
    ///
    /// # Errors
    /// As [`Self::grow`].
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), Fault> {
        match bytes.saturating_sub(self.bytes) {
            0 => Ok(()),
            more => self.grow(more),
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        let bound = &self.buffers.0;
        if let Some(share) = self.buffers.share(self.what) {
            share.used.fetch_sub(self.bytes, Ordering::Relaxed);
            share.gauge.sub(signed(self.bytes));
        }
        bound.used.fetch_sub(self.bytes, Ordering::Relaxed);
        bound.metrics.buffered_bytes.sub(signed(self.bytes));
    }
}

/// Adds `bytes` to `used` unless that exceeds `most`.
fn take(used: &AtomicUsize, bytes: usize, most: usize) -> bool {
    let grow = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= most);
    used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grow).is_ok()
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffers(most: usize) -> (Buffers, Arc<Metrics>) {
        let metrics = Arc::new(Metrics::new(&[]).expect("metrics"));
        (Buffers::new(most, 10, metrics.clone()), metrics)
    }

    #[test]
    fn all_together_take_no_more_than_the_bound_and_each_use_no_more_than_its_share() {
        for (what, share) in
            [(Use::Bodies, 1000), (Use::Heads, 250), (Use::Answers, 500), (Use::Passages, 500), (Use::Backlog, 62)]
        {
            let (buffers, metrics) = buffers(1000);
            let mut one = buffers.reserve(what);
            assert_eq!(one.grow(share), Ok(()), "{what:?}");
            assert_eq!(one.grow(1), Err(Fault::Overloaded), "{what:?}");
            let mut bodies = buffers.reserve(Use::Bodies);
            assert_eq!(bodies.grow(1000 - share), Ok(()), "what a share leaves is for bodies: {what:?}");
            assert_eq!(bodies.grow(1), Err(Fault::Overloaded), "{what:?}");
            assert_eq!(metrics.buffered_bytes.get(), 1000);
            drop(one);
            assert_eq!(bodies.grow(share), Ok(()), "it was given back: {what:?}");
            assert_eq!(buffers.reserve(what).grow(1), Err(Fault::Overloaded), "bodies may take everything: {what:?}");
            drop(bodies);
            assert_eq!(buffers.reserve(what).grow(share), Ok(()), "what found no room took none: {what:?}");
            assert_eq!(metrics.buffered_bytes.get(), 0);
        }
    }

    #[test]
    fn one_head_of_the_longest_always_finds_room_in_its_share() {
        let (buffers, _) = buffers(20);
        let mut head = buffers.reserve(Use::Heads);
        assert_eq!((head.grow_to(6), head.grow_to(10), head.grow_to(3)), (Ok(()), Ok(()), Ok(())));
        assert_eq!(head.grow_to(11), Err(Fault::Overloaded));
    }
}

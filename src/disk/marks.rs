//! The embedded dedup table: which events were processed, or perhaps were. In memory until it is committed and sorted in,
//! then in `SQLite`, with a filter in front so that a new event costs no look at the disk.
//!
//! A mark is written lazily unless it comes with an event in one durable transaction. It is answered from memory from
//! the moment it is put in. Order of looking: what waits to be written, the filter, what is in no run yet, the runs on disk
//! (`runs.rs`). A mark goes from each to the next only when it is there already, so that no look falls between.
//!
//! Expired marks are as good as absent; `merge.rs` sees to it that they go.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rusqlite::{Connection, params};
use tokio::time::Instant;

use super::fault::JobFault;
use super::filter::Filter;
use super::job::{Job, Tx};
use super::merge::{Next, Order};
use super::packed::{self, Known};
use super::runs;
use super::unwritten::{Taken, UNWRITTEN, Unwritten};
use crate::domain::event::Event;
use crate::domain::key::EventKey;
use crate::domain::time::Timestamp;
use crate::telemetry::Metrics;

/// Expired marks deleted in one sweep, besides two for each mark written since the last.
const SWEEP: usize = 64;
/// Marks that are put in memory before others who wait for the table, or for the processor, come in between: some ten microseconds.
const AT_ONCE: usize = 64;
/// Marks written between two sweeps at most, so that looking for expired ones costs little beside writing.
const SWEEP_AFTER: usize = 256;
/// The longest that a sweep is put off where marks are written.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How often marks that have expired are taken out of those that are in no run.
const TIDY_EVERY: Duration = Duration::from_secs(60);
/// How much sooner a mark may end that need not be written again for that.
const JUST: Duration = Duration::from_secs(1);
/// The wait before the marks are put in order again after that has failed.
const REST: Duration = Duration::from_secs(1);

/// One entry of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The event.
    pub key: EventKey,
    /// What is known of it.
    pub kind: MarkKind,
    /// From this moment on the mark counts no more.
    pub expires_at: Timestamp,
}

/// What a mark says of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkKind {
    /// It was accepted, or is safe on disk.
    Processed,
    /// It was sent and nobody knows what became of it.
    Perhaps,
}

impl Mark {
    /// Marks `event` as processed until `expires_at`.
    #[must_use]
    pub fn new(event: &Event, expires_at: Timestamp) -> Self {
        Self { key: event.key, kind: MarkKind::Processed, expires_at }
    }

    const fn known(&self) -> Known {
        Known { kind: self.kind, expires_at: self.expires_at }
    }
}

/// What the table says about an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recall {
    /// The live mark of this very event.
    pub same: Option<(MarkKind, Timestamp)>,
    /// Whether a live mark of the same slot has another body.
    pub other_body: bool,
}

impl Recall {
    /// Whether nothing that is found elsewhere could change what follows.
    pub(super) const fn is_certain(&self) -> bool {
        matches!(self.same, Some((MarkKind::Processed, _)))
    }

    /// Adds what one place knows; the order of asking makes no difference.
    pub(super) fn add(&mut self, fingerprint: &[u8], of: &EventKey, known: Known, now: Timestamp) {
        if known.expires_at <= now {
            return;
        }
        if fingerprint == of.fingerprint {
            let before = self.same.map(|(kind, expires_at)| Known { kind, expires_at });
            let both = before.map_or(known, |before| before.and(known));
            self.same = Some((both.kind, both.expires_at));
        } else if known.kind == MarkKind::Processed {
            self.other_body = true;
        }
    }
}

/// Memory and filter in front of the table. Marks are put in by anyone, committed by the writer thread; the mutex is
/// held for a few map operations, never across a call to the disk.
#[derive(Debug)]
pub(super) struct Marks {
    unwritten: Mutex<Unwritten>,
    /// What is in batches on disk. Changed by the writer thread alone.
    unmerged: Mutex<BTreeMap<EventKey, Known>>,
    filters: ArcSwap<Filters>,
    asked: AtomicBool,
    sweeping: Mutex<Sweeping>,
    /// The runs on disk as the writer knows them; `None`: it has to look.
    order: Mutex<Option<Order>>,
    /// Not before this moment are they put in order again. Used by the writer thread alone.
    rests_until: Mutex<Option<Instant>>,
    /// The latest moment that a caller has named.
    now: AtomicI64,
    /// Marks in batches at which they are merged.
    most: usize,
    metrics: Arc<Metrics>,
}

/// How much there is to sweep for.
#[derive(Debug, Default)]
struct Sweeping {
    /// Marks written since the last sweep.
    written: usize,
    last: Option<Timestamp>,
    /// When those in no run were last looked through.
    tidied: Option<Timestamp>,
}

impl Sweeping {
    /// Notes that `written` more marks are; says how many expired ones to delete now, if any.
    fn due(&mut self, written: usize, now: Timestamp) -> Option<usize> {
        self.written += written;
        // A clock that went back puts nothing off.
        let rests = self.last.is_some_and(|last| last <= now && now.since(last) < SWEEP_EVERY);
        if rests && self.written < SWEEP_AFTER {
            return None;
        }
        self.last = Some(now);
        Some(SWEEP + 2 * std::mem::take(&mut self.written))
    }

    fn is_tidy(&self, now: Timestamp) -> bool {
        self.tidied.is_some_and(|last| last <= now && now.since(last) < TIDY_EVERY)
    }
}

/// The filter in use, and the one that is being filled to replace it. Without a filter every look goes to the disk.
#[derive(Debug, Default)]
struct Filters {
    current: Option<Arc<Filter>>,
    next: Option<Arc<Filter>>,
}

impl Marks {
    /// The marks of a file of which `unmerged` are in batches. `most`: how many may be before they are merged.
    pub(super) fn new(unmerged: Vec<packed::Entry>, most: usize, metrics: Arc<Metrics>) -> Self {
        let marks = Self {
            unwritten: Mutex::default(),
            unmerged: Mutex::default(),
            filters: ArcSwap::default(),
            asked: AtomicBool::new(false),
            sweeping: Mutex::default(),
            order: Mutex::default(),
            rests_until: Mutex::default(),
            now: AtomicI64::new(i64::MIN),
            most,
            metrics,
        };
        marks.committed(&[], &unmerged);
        marks
    }

    /// The latest moment that a caller has named.
    pub(super) fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.now.load(Ordering::Relaxed))
    }

    /// Remembers a mark. Says whether the writer must be asked to write.
    pub(super) fn put(&self, mark: Mark, now: Timestamp) -> Writing {
        self.now.store(now.millis(), Ordering::Relaxed);
        if self.has_just_written(&mark) {
            return Writing::Asked;
        }
        let dropped = self.lock().put(mark, now);
        self.metrics.dedup_local_marks_dropped_total.inc_by(dropped);
        if self.asked.swap(true, Ordering::AcqRel) { Writing::Asked } else { Writing::MustBeAsked }
    }

    /// Whether the mark is on disk as it is, but for the moment that it took to get there. So it is for an event that has
    /// come to disk with its mark, and it is written once more when that is settled.
    fn has_just_written(&self, mark: &Mark) -> bool {
        if self.is_certainly_new(&mark.key) {
            return false;
        }
        let written = self.lock_unmerged().get(&mark.key).copied();
        let lasts = |known: Known| known.expires_at.plus(JUST) >= mark.expires_at;
        written.is_some_and(|known| known.kind == MarkKind::Processed && lasts(known))
    }

    /// The writer could not be asked: the next mark asks again.
    pub(super) fn not_asked(&self) {
        self.asked.store(false, Ordering::Release);
    }

    /// What memory says, and whether the disk has to be asked too.
    pub(super) fn recall(&self, key: &EventKey, now: Timestamp) -> (Recall, Disk) {
        let mut recall = Recall::default();
        for mark in self.lock().of_slot(&key.slot) {
            recall.add(&mark.key.fingerprint, key, mark.known(), now);
        }
        if recall.is_certain() || self.is_certainly_new(key) {
            return (recall, Disk::NeedNotBeAsked);
        }
        let of_slot = |fingerprint| EventKey { slot: key.slot, fingerprint };
        for (found, known) in self.lock_unmerged().range(of_slot([0; 16])..=of_slot([255; 16])) {
            recall.add(&found.fingerprint, key, *known, now);
        }
        (recall, if recall.is_certain() { Disk::NeedNotBeAsked } else { Disk::MustBeAsked })
    }

    /// Whether nothing of the event's slot was ever committed.
    fn is_certainly_new(&self, key: &EventKey) -> bool {
        self.filters.load().current.as_ref().is_some_and(|filter| !filter.may_contain(&key.slot))
    }

    /// Takes a mark out of memory; the table is the caller's to change.
    pub(super) fn forget(&self, key: &EventKey) -> bool {
        self.lock().remove(key)
    }

    /// Whether marks wait to be written and nobody is asked to: a commit has failed with them.
    pub(super) fn are_left(&self) -> bool {
        !self.asked.load(Ordering::Acquire) && self.are_waiting()
    }

    /// Whether marks wait to be written.
    pub(super) fn are_waiting(&self) -> bool {
        !self.lock().is_empty()
    }

    /// Whether there is a filter, and not one that says "perhaps" of every event.
    pub(super) fn have_a_useful_filter(&self) -> bool {
        self.filters.load().current.as_ref().is_some_and(|filter| !filter.is_full())
    }

    /// What a commit has made true. Called by the writer thread, after it.
    pub(super) fn committed(&self, forgotten: &[EventKey], marks: &[packed::Entry]) {
        let now = self.now();
        for key in forgotten {
            self.lock_unmerged().remove(key);
        }
        for few in marks.chunks(AT_ONCE) {
            let mut unmerged = self.lock_unmerged();
            for (key, known) in few {
                let there = unmerged.entry(*key).or_insert(*known);
                if known.replaces(*there, now) {
                    *there = *known;
                }
            }
            drop(unmerged);
        }
        if !forgotten.is_empty() {
            // A merge that is under way may have read what is forgotten.
            self.put_order(None);
        }
        let filters = self.filters.load();
        for filter in filters.current.iter().chain(&filters.next) {
            for (key, _) in marks {
                filter.insert(&key.slot);
            }
        }
    }

    /// What is in batches, sorted.
    pub(super) fn unmerged(&self) -> Vec<packed::Entry> {
        self.lock_unmerged().iter().map(|(key, known)| (*key, *known)).collect()
    }

    /// Whether there is so much in batches that it is to be merged.
    pub(super) fn are_to_merge(&self) -> bool {
        self.lock_unmerged().len() >= self.most
    }

    /// All that was in batches is in a run.
    pub(super) fn merged(&self) {
        // Dropped when the lock is not held any more.
        drop(std::mem::take(&mut *self.lock_unmerged()));
    }

    /// Whether there is something to put in order.
    pub(super) fn want_tending(&self) -> bool {
        let rests_until = *self.rests_until.lock().unwrap_or_else(PoisonError::into_inner);
        if rests_until.is_some_and(|until| Instant::now() < until) {
            return false;
        }
        let order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        order.as_ref().is_none_or(|order| order.next(self.now()) != Next::Nothing) || self.are_to_merge()
    }

    pub(super) fn take_order(&self) -> Option<Order> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// `None`: what is on disk has to be looked at anew.
    pub(super) fn put_order(&self, order: Option<Order>) {
        *self.order.lock().unwrap_or_else(PoisonError::into_inner) = order;
    }

    pub(super) fn not_tended(&self) {
        *self.rests_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + REST);
    }

    /// Whether more is in batches than ever should be: they cannot be merged.
    pub(super) fn is_overfull(&self) -> bool {
        self.lock_unmerged().len() > UNWRITTEN.max(4 * self.most)
    }

    /// Fills a new filter from the table and puts it to use. What is committed meanwhile goes into both filters; what
    /// was committed before is in memory, or in a run by the time the scan begins.
    pub(super) fn fill_filter(&self, conn: &Connection, smallest: u64) -> rusqlite::Result<()> {
        let unmerged = u64::try_from(self.lock_unmerged().len()).unwrap_or(u64::MAX);
        let rows = runs::count(conn)?.saturating_add(unmerged);
        let next = Arc::new(Filter::with_capacity(rows.saturating_mul(2).max(smallest)));
        let current = self.filters.load().current.clone();
        self.filters.store(Arc::new(Filters { current, next: Some(next.clone()) }));
        self.lock_unmerged().keys().for_each(|key| next.insert(&key.slot));
        runs::each_slot(conn, &mut |slot| next.insert(slot))?;
        self.filters.store(Arc::new(Filters { current: Some(next), next: None }));
        Ok(())
    }

    fn lock_unmerged(&self) -> MutexGuard<'_, BTreeMap<EventKey, Known>> {
        self.unmerged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Unwritten> {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the writer knows that there are marks to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writing {
    Asked,
    MustBeAsked,
}

/// Whether memory settles the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Disk {
    NeedNotBeAsked,
    MustBeAsked,
}

/// Writes the marks that are in memory.
pub(super) struct WriteMarks {
    pub(super) marks: Arc<Marks>,
    /// For the sweep; the latest moment that a caller has named.
    pub(super) now: Timestamp,
    /// `None`: there was nothing to be taken, or it was not begun.
    pub(super) taken: Option<Taken>,
    /// Whether what has expired was taken out of the batches.
    pub(super) tidied: bool,
}

impl WriteMarks {
    pub(super) fn new(marks: Arc<Marks>, now: Timestamp) -> Self {
        Self { marks, now, taken: None, tidied: false }
    }

    /// Takes expired marks away, a few at a time.
    fn sweep(&mut self, tx: &mut Tx<'_>) -> Result<(), JobFault> {
        let mut sweeping = self.marks.sweeping.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(most) = sweeping.due(self.taken.as_ref().map_or(0, Taken::len), self.now) else { return Ok(()) };
        let is_tidy = sweeping.is_tidy(self.now);
        sweeping.tidied = Some(if is_tidy { sweeping.tidied.unwrap_or(self.now) } else { self.now });
        drop(sweeping);
        tx.sweep_old_marks(self.now, most)?;
        if is_tidy {
            return Ok(());
        }
        let mut unmerged = self.marks.unmerged();
        let before = unmerged.len();
        unmerged.retain(|(_, known)| known.expires_at > self.now);
        if unmerged.len() < before {
            runs::clear_batches(tx.conn)?;
            runs::append(tx.conn, &unmerged)?;
            self.tidied = true;
        }
        Ok(())
    }
}

impl Job for WriteMarks {
    fn is_abandoned(&self) -> bool {
        false
    }

    fn run(&mut self, tx: &mut Tx<'_>) -> Result<(), JobFault> {
        self.marks.not_asked();
        self.taken = self.marks.lock().take();
        for mark in self.taken.iter().flat_map(Taken::marks) {
            tx.put_mark(mark);
        }
        self.sweep(tx)
    }

    fn answer(&mut self, outcome: Result<(), JobFault>) {
        match outcome {
            Ok(()) => {
                if self.tidied {
                    self.marks.lock_unmerged().retain(|_, known| known.expires_at > self.now);
                }
                // Its memory goes with the last of it, here or with what was taken, and never under the lock.
                let written = self.taken.is_some().then(|| self.marks.lock().written());
                drop(written);
            }
            Err(fault) => {
                let marks = self.taken.as_ref().map_or(0, Taken::len);
                tracing::warn!(%fault, marks, "marks could not be written; they stay in memory");
                if let Some(taken) = &self.taken {
                    self.marks.lock().give_back(taken);
                }
                // It may not even have begun: whoever comes next asks again.
                self.marks.not_asked();
            }
        }
    }
}

impl Tx<'_> {
    /// Writes a mark. "Perhaps" takes nothing away from a "processed" that counts.
    pub fn put_mark(&mut self, mark: &Mark) {
        self.draft.put_mark(mark.key, mark.known());
    }

    /// Whether memory says that an event was processed, or this transaction writes so.
    pub(super) fn was_just_processed(&self, marks: &Marks, key: &EventKey, now: Timestamp) -> bool {
        let (mut recall, _) = marks.recall(key, now);
        for (other, known) in self.draft.marks().iter().filter(|(other, _)| other == key) {
            recall.add(&other.fingerprint, key, *known, now);
        }
        recall.is_certain()
    }

    /// Deletes expired marks that version 1 wrote.
    fn sweep_old_marks(&mut self, now: Timestamp, most: usize) -> Result<(), JobFault> {
        // No bound in the statement: SQLite would compile it anew for every other one.
        let mut query = self
            .conn
            .prepare_cached("SELECT slot, fingerprint FROM marks WHERE expires_at <= ?1 ORDER BY expires_at")?;
        let found = query
            .query_map(params![now.millis()], |row| Ok(EventKey { slot: row.get(0)?, fingerprint: row.get(1)? }))?;
        let expired: Vec<EventKey> = found.take(most).collect::<Result<_, _>>()?;
        drop(query);
        let mut delete = self.conn.prepare_cached("DELETE FROM marks WHERE slot = ?1 AND fingerprint = ?2")?;
        for key in &expired {
            delete.execute(params![key.slot, key.fingerprint])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

//! The embedded dedup table: which events were processed, or perhaps were. In memory until it is committed, then in
//! `SQLite`, with a filter in front so that a new event costs no look at the disk.
//!
//! A mark is written lazily unless it comes with an event in one durable transaction. It is answered from memory from
//! the moment it is put in. Order of looking: memory, filter, disk; a mark leaves memory only after its commit and
//! after it is in the filter, so that no look falls between.
//!
//! Expired marks are as good as absent; they are deleted a few at a time, by the transactions that write new ones.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rusqlite::{Connection, OptionalExtension, params};

use super::fault::JobFault;
use super::filter::Filter;
use super::job::{Job, Tx};
use super::readers::Rx;
use crate::domain::event::Event;
use crate::domain::key::EventKey;
use crate::domain::time::Timestamp;
use crate::telemetry::Metrics;

/// Marks in memory at most; at about 150 bytes each: 10 MB. Reached only when the disk stalls.
const UNWRITTEN: usize = 65_536;
/// Expired marks deleted in one sweep, besides two for each mark written since the last.
const SWEEP: usize = 64;
/// Marks written between two sweeps at most, so that looking for expired ones costs little beside writing.
const SWEEP_AFTER: usize = 256;
/// The longest that a sweep is put off where marks are written.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// One entry of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The route of the event.
    pub route: Arc<str>,
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
        Self { route: event.route.clone(), key: event.key, kind: MarkKind::Processed, expires_at }
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
    fn add(&mut self, fingerprint: &[u8], of: &EventKey, kind: MarkKind, expires_at: Timestamp, now: Timestamp) {
        if expires_at <= now {
            return;
        }
        if fingerprint == of.fingerprint {
            self.same = Some((kind, expires_at));
        } else if kind == MarkKind::Processed {
            self.other_body = true;
        }
    }
}

/// Memory and filter in front of the table. Marks are put in by anyone, committed by the writer thread; the mutex is
/// held for a few map operations, never across a call to the disk.
#[derive(Debug)]
pub(super) struct Marks {
    unwritten: Mutex<Unwritten>,
    filters: ArcSwap<Filters>,
    asked: AtomicBool,
    sweeping: Mutex<Sweeping>,
    metrics: Arc<Metrics>,
}

/// How much there is to sweep for.
#[derive(Debug, Default)]
struct Sweeping {
    /// Marks written since the last sweep.
    written: usize,
    last: Option<Timestamp>,
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
}

#[derive(Debug, Default)]
struct Unwritten {
    by_slot: HashMap<[u8; 16], Vec<Waiting>>,
    queue: VecDeque<EventKey>,
    marks: usize,
}

/// A mark in memory, and whether it is in the queue; it is not while it is being written.
#[derive(Debug)]
struct Waiting {
    mark: Mark,
    queued: bool,
}

/// The filter in use, and the one that is being filled to replace it. Without a filter every look goes to the disk.
#[derive(Debug, Default)]
struct Filters {
    current: Option<Arc<Filter>>,
    next: Option<Arc<Filter>>,
}

impl Marks {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            unwritten: Mutex::default(),
            filters: ArcSwap::default(),
            asked: AtomicBool::new(false),
            sweeping: Mutex::default(),
            metrics,
        }
    }

    /// Remembers a mark. Says whether the writer must be asked to write.
    pub(super) fn put(&self, mark: Mark, now: Timestamp) -> Writing {
        let dropped = self.lock().put(mark, now);
        self.metrics.dedup_local_marks_dropped_total.inc_by(dropped);
        if self.asked.swap(true, Ordering::AcqRel) { Writing::Asked } else { Writing::MustBeAsked }
    }

    /// The writer could not be asked: the next mark asks again.
    pub(super) fn not_asked(&self) {
        self.asked.store(false, Ordering::Release);
    }

    /// What memory says, and whether the disk has to be asked too.
    pub(super) fn recall(&self, key: &EventKey, now: Timestamp) -> (Recall, Disk) {
        let mut recall = Recall::default();
        for Waiting { mark, .. } in self.lock().by_slot.get(&key.slot).into_iter().flatten() {
            recall.add(&mark.key.fingerprint, key, mark.kind, mark.expires_at, now);
        }
        if matches!(recall.same, Some((MarkKind::Processed, _))) {
            return (recall, Disk::NeedNotBeAsked);
        }
        let filters = self.filters.load();
        let certainly_not = filters.current.as_ref().is_some_and(|filter| !filter.may_contain(&key.slot));
        (recall, if certainly_not { Disk::NeedNotBeAsked } else { Disk::MustBeAsked })
    }

    /// Takes a mark out of memory; the table is the caller's to change.
    pub(super) fn forget(&self, key: &EventKey) -> bool {
        self.lock().remove(key)
    }

    /// Whether marks wait to be written.
    pub(super) fn are_waiting(&self) -> bool {
        !self.lock().queue.is_empty()
    }

    pub(super) fn filter_is_full(&self) -> bool {
        self.filters.load().current.as_ref().is_some_and(|filter| filter.is_full())
    }

    /// Marks that have been committed. Called by the writer thread, after the commit.
    pub(super) fn committed<'a>(&self, slots: impl Iterator<Item = &'a [u8; 16]>) {
        let filters = self.filters.load();
        for slot in slots {
            for filter in filters.current.iter().chain(&filters.next) {
                filter.insert(slot);
            }
        }
    }

    /// Fills a new filter from the table and puts it to use. What is committed meanwhile goes into both filters; what
    /// was committed before is seen by the scan.
    pub(super) fn fill_filter(&self, conn: &Connection, smallest: u64) -> rusqlite::Result<()> {
        let rows: u64 = conn.query_row("SELECT count(*) FROM marks", [], |row| row.get(0))?;
        let next = Arc::new(Filter::with_capacity(rows.saturating_mul(2).max(smallest)));
        let current = self.filters.load().current.clone();
        self.filters.store(Arc::new(Filters { current, next: Some(next.clone()) }));
        let mut scan = conn.prepare("SELECT slot FROM marks")?;
        let mut found = scan.query([])?;
        while let Some(row) = found.next()? {
            if let Ok(slot) = row.get_ref(0)?.as_blob().unwrap_or_default().try_into() {
                next.insert(slot);
            }
        }
        self.filters.store(Arc::new(Filters { current: Some(next), next: None }));
        Ok(())
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

impl Unwritten {
    /// Puts a mark in; yields how many old ones had to go for it.
    fn put(&mut self, mark: Mark, now: Timestamp) -> u64 {
        let key = mark.key;
        let of_slot = self.by_slot.entry(key.slot).or_default();
        let queued = if let Some(old) = of_slot.iter_mut().find(|old| old.mark.key == key) {
            if mark.kind == MarkKind::Processed || old.mark.kind == MarkKind::Perhaps || old.mark.expires_at <= now {
                old.mark = mark;
            }
            std::mem::replace(&mut old.queued, true)
        } else {
            of_slot.push(Waiting { mark, queued: true });
            self.marks += 1;
            false
        };
        if !queued {
            self.queue.push_back(key);
        }
        let mut dropped = 0;
        while self.marks > UNWRITTEN {
            let Some(oldest) = self.queue.pop_front() else { break };
            dropped += u64::from(self.remove(&oldest));
        }
        dropped
    }

    /// Everything that waits, to be written now.
    fn take(&mut self) -> Vec<Mark> {
        let keys = std::mem::take(&mut self.queue);
        let take = |key| {
            let waiting = self.get(key)?;
            waiting.queued = false;
            Some(waiting.mark.clone())
        };
        keys.iter().filter_map(take).collect()
    }

    /// What was taken is on disk; what has changed meanwhile stays.
    fn written(&mut self, marks: &[Mark]) {
        for mark in marks {
            if self.get(&mark.key).is_some_and(|waiting| !waiting.queued) {
                self.remove(&mark.key);
            }
        }
    }

    /// What was taken is not on disk.
    fn give_back(&mut self, marks: &[Mark]) {
        for mark in marks.iter().rev() {
            let unqueued = self.get(&mark.key).filter(|waiting| !waiting.queued);
            if let Some(waiting) = unqueued {
                waiting.queued = true;
                self.queue.push_front(mark.key);
            }
        }
    }

    fn remove(&mut self, key: &EventKey) -> bool {
        let Entry::Occupied(mut of_slot) = self.by_slot.entry(key.slot) else { return false };
        let before = of_slot.get().len();
        of_slot.get_mut().retain(|waiting| waiting.mark.key != *key);
        let removed = before > of_slot.get().len();
        if of_slot.get().is_empty() {
            of_slot.remove();
        }
        self.marks -= usize::from(removed);
        removed
    }

    fn get(&mut self, key: &EventKey) -> Option<&mut Waiting> {
        self.by_slot.get_mut(&key.slot)?.iter_mut().find(|waiting| waiting.mark.key == *key)
    }
}

/// Writes the marks that are in memory.
pub(super) struct WriteMarks {
    pub(super) marks: Arc<Marks>,
    /// For the sweep; the latest moment that a caller has named.
    pub(super) now: Timestamp,
    pub(super) taken: Vec<Mark>,
}

impl Job for WriteMarks {
    fn is_abandoned(&self) -> bool {
        false
    }

    fn run(&mut self, tx: &mut Tx<'_>) -> Result<(), JobFault> {
        self.marks.not_asked();
        self.taken = self.marks.lock().take();
        for mark in &self.taken {
            tx.write_mark(mark, self.now)?;
        }
        let due = self.marks.sweeping.lock().unwrap_or_else(PoisonError::into_inner).due(self.taken.len(), self.now);
        due.map_or(Ok(()), |most| tx.sweep_marks(self.now, most))
    }

    fn answer(&mut self, outcome: Result<(), JobFault>) {
        match outcome {
            Ok(()) => {
                self.marks.committed(self.taken.iter().map(|mark| &mark.key.slot));
                self.marks.lock().written(&self.taken);
            }
            Err(fault) => {
                tracing::warn!(%fault, marks = self.taken.len(), "marks could not be written; they stay in memory");
                self.marks.lock().give_back(&self.taken);
            }
        }
    }
}

impl Tx<'_> {
    /// Writes the mark of a processed event.
    pub fn put_mark(&mut self, mark: &Mark) -> Result<(), JobFault> {
        self.write_mark(mark, Timestamp::from_millis(i64::MIN))
    }

    /// Writes a mark. "Perhaps" never takes the place of a "processed" that counts at `now`.
    fn write_mark(&mut self, mark: &Mark, now: Timestamp) -> Result<(), JobFault> {
        self.conn
            .prepare_cached(
                "INSERT INTO marks (slot, fingerprint, route, kind, expires_at) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (slot, fingerprint) DO UPDATE SET kind = excluded.kind, expires_at = excluded.expires_at
                 WHERE excluded.kind = 0 OR kind = 1 OR expires_at <= ?6",
            )?
            .execute(params![
                mark.key.slot,
                mark.key.fingerprint,
                &*mark.route,
                kind_code(mark.kind),
                mark.expires_at.millis(),
                now.millis(),
            ])?;
        self.draft.marked.push(mark.key.slot);
        Ok(())
    }

    /// Deletes a mark; says whether there was one.
    pub fn delete_mark(&mut self, key: &EventKey) -> Result<bool, JobFault> {
        let deleted = self
            .conn
            .prepare_cached("DELETE FROM marks WHERE slot = ?1 AND fingerprint = ?2")?
            .execute(params![key.slot, key.fingerprint])?;
        Ok(deleted > 0)
    }

    fn sweep_marks(&mut self, now: Timestamp, most: usize) -> Result<(), JobFault> {
        // No bound in the statement: SQLite would compile it anew for every other one.
        let mut query = self
            .conn
            .prepare_cached("SELECT slot, fingerprint FROM marks WHERE expires_at <= ?1 ORDER BY expires_at")?;
        let found = query
            .query_map(params![now.millis()], |row| Ok(EventKey { slot: row.get(0)?, fingerprint: row.get(1)? }))?;
        let expired: Vec<EventKey> = found.take(most).collect::<Result<_, _>>()?;
        drop(query);
        for key in &expired {
            self.delete_mark(key)?;
        }
        Ok(())
    }
}

impl Rx<'_> {
    /// What the table on disk says about an event.
    pub(super) fn recall(&self, key: &EventKey, now: Timestamp, recall: &mut Recall) -> Result<(), JobFault> {
        let mut query = self.conn.prepare_cached("SELECT fingerprint, kind, expires_at FROM marks WHERE slot = ?1")?;
        let mut rows = query.query(params![key.slot])?;
        while let Some(row) = rows.next()? {
            let fingerprint = row.get_ref(0)?.as_blob().unwrap_or_default();
            let kind = if row.get::<_, i64>(1)? == 0 { MarkKind::Processed } else { MarkKind::Perhaps };
            // What memory says is newer, but "perhaps" never takes the place of a "processed" that counts.
            if fingerprint == key.fingerprint && recall.same.is_some() && kind == MarkKind::Perhaps {
                continue;
            }
            recall.add(fingerprint, key, kind, Timestamp::from_millis(row.get(2)?), now);
        }
        Ok(())
    }

    /// Marks on disk, expired ones included.
    pub fn count_marks(&self) -> Result<u64, JobFault> {
        let count = self.conn.query_row("SELECT count(*) FROM marks", [], |row| row.get(0)).optional()?;
        Ok(count.unwrap_or(0))
    }
}

const fn kind_code(kind: MarkKind) -> i64 {
    match kind {
        MarkKind::Processed => 0,
        MarkKind::Perhaps => 1,
    }
}

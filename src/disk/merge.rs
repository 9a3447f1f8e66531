//! How the marks on disk are kept in order: what has come in batches is merged into a sorted run, runs of one size into
//! one of the next, and what has expired goes. A little at a time, in transactions of their own between the commits: the
//! writer is never held up for longer than some milliseconds. `runs.rs` has the statements.
//!
//! [`IN_MEMORY`] marks make a run of level 0, [`FAN`] runs of a level one of the next, up to level [`TOP`]: with ten
//! million marks there are some twenty runs at most, and each mark has been written four times, a hundred to a page. A run
//! goes as a whole when its last mark has expired. Marks that live much longer than others are in runs of their own.
//!
//! A merge of runs takes many transactions. Its output counts from the last of them on, in which its inputs stop to; until
//! then it is rows of a run that does not count, and so is what a crash leaves of it: such rows are deleted.

use std::sync::Arc;

use rusqlite::Connection;

use super::fault::JobFault;
use super::job::{Job, Tx};
use super::marks::Marks;
use super::packed::{Entry, Known};
use super::runs::{self, Run};
use crate::domain::key::EventKey;
use crate::domain::time::Timestamp;

/// Marks that are in batches on disk, and so in memory too, at which they are merged: 1 MiB of memory.
pub(super) const IN_MEMORY: usize = 16_384;
/// Runs of one level that become one.
const FAN: usize = 8;
/// The highest level: eight million marks a run.
const TOP: u32 = 3;
/// Rows that one step of a merge reads, and rows that one step deletes: less than a millisecond each.
const STEP: usize = 32;

/// The runs, and what is under way. Rebuilt from the disk after anything that went wrong.
#[derive(Debug)]
pub(super) struct Order {
    runs: Vec<Run>,
    /// Runs that do not count and have rows.
    gone: Vec<i64>,
    next_run: i64,
    merge: Option<Merge>,
    /// Whether runs of a level are enough to become one.
    crowded: bool,
}

/// Runs that are becoming one.
#[derive(Debug)]
struct Merge {
    inputs: Vec<Input>,
    output: Run,
    /// Sorted, and not written yet.
    waiting: Vec<Entry>,
}

#[derive(Debug)]
struct Input {
    run: i64,
    /// Where its next row is to be looked for; `None`: there is none.
    from: Option<i64>,
    /// What was read of it, the next mark last.
    read: Vec<Entry>,
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Nothing,
    Merge,
    Delete,
    Expire,
    Begin,
}

impl Order {
    /// What is on disk.
    pub(super) fn read(conn: &Connection) -> rusqlite::Result<Self> {
        let runs = runs::runs(conn)?;
        let with_rows = runs::runs_with_rows(conn)?;
        let last = runs.iter().map(|run| run.number).chain(with_rows.iter().copied()).max().unwrap_or(0);
        let gone = with_rows.into_iter().filter(|run| runs.iter().all(|counts| counts.number != *run)).collect();
        let mut order = Self { runs, gone, next_run: last + 1, merge: None, crowded: false };
        order.crowded = order.crowd().is_some();
        Ok(order)
    }

    /// What is to be done at `now`.
    pub(super) fn next(&self, now: Timestamp) -> Next {
        if self.merge.is_some() {
            Next::Merge
        } else if !self.gone.is_empty() {
            Next::Delete
        } else if self.runs.iter().any(|run| run.last_expiry <= now) {
            Next::Expire
        } else if self.crowded {
            Next::Begin
        } else {
            Next::Nothing
        }
    }

    /// Runs of one class and level, enough to become one.
    fn crowd(&self) -> Option<Vec<Run>> {
        let alike = |one: &Run| -> Vec<Run> {
            self.runs.iter().filter(|run| (run.class, run.level) == (one.class, one.level)).copied().collect()
        };
        let low = self.runs.iter().filter(|run| run.level < TOP);
        let mut crowds: Vec<Vec<Run>> = low.map(alike).filter(|crowd| crowd.len() >= FAN).collect();
        crowds.sort_by_key(|crowd| crowd.first().map(|run| run.level));
        crowds.into_iter().next().map(|mut crowd| {
            crowd.truncate(FAN);
            crowd
        })
    }

    fn new_run(&mut self, class: u32, level: u32) -> Run {
        let number = self.next_run;
        self.next_run += 1;
        Run { number, class, level, marks: 0, last_expiry: Timestamp::from_millis(i64::MIN) }
    }

    /// Makes runs of `sorted`, one for each class of life.
    fn add_runs(&mut self, conn: &Connection, sorted: &[Entry], now: Timestamp) -> rusqlite::Result<()> {
        let mut classes: Vec<u32> = sorted.iter().map(|(_, known)| class(known, now)).collect();
        classes.sort_unstable();
        classes.dedup();
        for one in classes {
            let of_class: Vec<Entry> = sorted.iter().filter(|(_, known)| class(known, now) == one).copied().collect();
            let mut run = self.new_run(one, 0);
            write(conn, &mut run, &of_class)?;
            runs::put_run(conn, &run)?;
            self.runs.push(run);
        }
        Ok(())
    }

    fn expire(&mut self, conn: &Connection, now: Timestamp) -> rusqlite::Result<()> {
        let (expired, rest) = std::mem::take(&mut self.runs).into_iter().partition(|run| run.last_expiry <= now);
        self.runs = rest;
        for run in Vec::into_iter(expired) {
            runs::drop_run(conn, run.number)?;
            self.gone.push(run.number);
        }
        Ok(())
    }

    fn begin(&mut self) {
        let Some(crowd) = self.crowd() else { return };
        let Some(first) = crowd.first() else { return };
        let output = self.new_run(first.class, first.level + 1);
        let input =
            |run: &Run| Input { run: run.number, from: Some(runs::row_of(run.number, &[0; 16])), read: Vec::new() };
        self.merge = Some(Merge { inputs: crowd.iter().map(input).collect(), output, waiting: Vec::new() });
    }

    /// A step of the merge; after the last one its output counts.
    fn merge(&mut self, conn: &Connection, now: Timestamp) -> Result<(), JobFault> {
        let Some(mut merge) = self.merge.take() else { return Ok(()) };
        if merge.step(conn, now)? {
            self.merge = Some(merge);
            return Ok(());
        }
        for input in &merge.inputs {
            runs::drop_run(conn, input.run)?;
            self.gone.push(input.run);
        }
        self.runs.retain(|run| merge.inputs.iter().all(|input| input.run != run.number));
        if merge.output.marks > 0 {
            runs::put_run(conn, &merge.output)?;
            self.runs.push(merge.output);
        }
        Ok(())
    }

    fn delete(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        if let Some(run) = self.gone.last()
            && runs::delete_rows(conn, *run, STEP)? < STEP
        {
            self.gone.pop();
        }
        Ok(())
    }
}

impl Merge {
    /// Reads some rows, writes what is certain to come next; says whether there is more.
    fn step(&mut self, conn: &Connection, now: Timestamp) -> Result<bool, JobFault> {
        let mut rows = 0;
        let more = loop {
            for input in &mut self.inputs {
                rows += usize::from(input.fill(conn)?);
            }
            let Some(next) = self.inputs.iter().filter_map(|input| input.read.last()).map(|(key, _)| *key).min() else {
                break false;
            };
            if rows >= STEP {
                break true;
            }
            self.take(next, now);
        };
        let whole = if more { self.whole_rows() } else { self.waiting.len() };
        write(conn, &mut self.output, self.waiting.get(..whole).unwrap_or_default())?;
        self.waiting.drain(..whole);
        Ok(more)
    }

    /// Takes a mark out of all inputs; what has expired is left behind.
    fn take(&mut self, next: EventKey, now: Timestamp) {
        let mut all: Option<Known> = None;
        for input in &mut self.inputs {
            while let Some((_, known)) = input.read.pop_if(|(key, _)| *key == next) {
                if known.expires_at > now {
                    all = Some(all.map_or(known, |before| before.and(known)));
                }
            }
        }
        self.waiting.extend(all.map(|known| (next, known)));
    }

    /// How many of the marks that wait fill rows that nothing can be added to any more.
    fn whole_rows(&self) -> usize {
        let mut whole = 0;
        loop {
            let rest = self.waiting.get(whole..).unwrap_or_default();
            let row = runs::next_row(rest);
            if row >= rest.len() {
                return whole;
            }
            whole += row;
        }
    }
}

impl Input {
    /// Reads the next row if nothing is left of the last; says whether it did.
    fn fill(&mut self, conn: &Connection) -> Result<bool, JobFault> {
        let Some(from) = self.from.filter(|_| self.read.is_empty()) else { return Ok(false) };
        match runs::row_from(conn, self.run, from)? {
            Some((row, mut marks)) => {
                marks.reverse();
                (self.from, self.read) = (Some(row + 1), marks);
            }
            None => self.from = None,
        }
        Ok(true)
    }
}

/// Writes rows of a run.
fn write(conn: &Connection, run: &mut Run, sorted: &[Entry]) -> rusqlite::Result<()> {
    let mut rest = sorted;
    while !rest.is_empty() {
        let Some((row, behind)) = rest.split_at_checked(runs::next_row(rest)) else { break };
        runs::put_row(conn, run.number, row)?;
        rest = behind;
    }
    run.marks += u64::try_from(sorted.len()).unwrap_or(u64::MAX);
    run.last_expiry = sorted.iter().map(|(_, known)| known.expires_at).fold(run.last_expiry, Timestamp::max);
    Ok(())
}

/// How long a mark has to live, by factors of four.
fn class(known: &Known, now: Timestamp) -> u32 {
    let left = known.expires_at.millis().saturating_sub(now.millis()).max(1);
    left.ilog2() / 2
}

/// One step of keeping the marks in order, in a transaction of its own.
pub(super) struct Tend {
    marks: Arc<Marks>,
    now: Timestamp,
    order: Option<Order>,
    /// Whether all that was in batches is in a run now.
    merged: bool,
}

impl Tend {
    pub(super) fn new(marks: Arc<Marks>, now: Timestamp) -> Self {
        Self { marks, now, order: None, merged: false }
    }

    fn step(&mut self, conn: &Connection, order: &mut Order) -> Result<(), JobFault> {
        if self.marks.are_to_merge() {
            let mut sorted = self.marks.unmerged();
            sorted.retain(|(_, known)| known.expires_at > self.now);
            order.add_runs(conn, &sorted, self.now)?;
            runs::clear_batches(conn)?;
            self.merged = true;
            return Ok(());
        }
        match order.next(self.now) {
            Next::Merge => order.merge(conn, self.now)?,
            Next::Delete => order.delete(conn)?,
            Next::Expire => order.expire(conn, self.now)?,
            Next::Begin => order.begin(),
            Next::Nothing => {}
        }
        Ok(())
    }
}

impl Job for Tend {
    fn is_abandoned(&self) -> bool {
        false
    }

    fn run(&mut self, tx: &mut Tx<'_>) -> Result<(), JobFault> {
        let mut order = match self.marks.take_order() {
            Some(order) => order,
            None => Order::read(tx.conn)?,
        };
        self.step(tx.conn, &mut order)?;
        order.crowded = order.crowd().is_some();
        self.order = Some(order);
        Ok(())
    }

    fn answer(&mut self, outcome: Result<(), JobFault>) {
        match outcome {
            Ok(()) => {
                self.marks.put_order(self.order.take());
                if self.merged {
                    self.marks.merged();
                }
            }
            Err(fault) => {
                tracing::warn!(%fault, "the marks on disk could not be put in order; that is tried again");
                self.marks.not_tended();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::*;
    use crate::disk::marks::{MarkKind, Recall};
    use crate::disk::readers::Rx;
    use crate::disk::schema;

    const NOW: Timestamp = Timestamp::from_seconds(1_760_000_000);

    fn open(folder: &Path) -> Connection {
        let file = folder.join("test.db");
        std::fs::OpenOptions::new().create(true).append(true).open(&file).unwrap();
        let (conn, _) = schema::open_writer(&file).unwrap();
        conn.pragma_update(None, "synchronous", "OFF").unwrap();
        conn
    }

    /// Marks of which some come again, some are doubts and some have expired.
    fn some(chance: &mut fastrand::Rng, count: usize) -> Vec<Entry> {
        let mut marks = BTreeMap::new();
        while marks.len() < count {
            let mut slot = [0; 16];
            // Slots that differ in their last byte alone are in one row, whatever its length.
            let number = chance.u16(..4000);
            for (to, from) in slot.iter_mut().zip(number.to_be_bytes()) {
                *to = from.wrapping_mul(151);
            }
            slot[15] = chance.u8(..2);
            let key = EventKey { slot, fingerprint: [chance.u8(..3); 16] };
            let kind = if chance.bool() { MarkKind::Processed } else { MarkKind::Perhaps };
            let expires_at = Timestamp::from_millis(NOW.millis() + chance.i64(-1_000..100_000_000));
            marks.insert(key, Known { kind, expires_at });
        }
        marks.into_iter().collect()
    }

    /// One step; `false` when nothing is left to do.
    fn step(order: &mut Order, conn: &Connection, now: Timestamp) -> bool {
        match order.next(now) {
            Next::Nothing => return false,
            Next::Merge => order.merge(conn, now).unwrap(),
            Next::Delete => order.delete(conn).unwrap(),
            Next::Expire => order.expire(conn, now).unwrap(),
            Next::Begin => order.begin(),
        }
        order.crowded = order.crowd().is_some();
        true
    }

    fn assert_knows(conn: &Connection, all: &BTreeMap<EventKey, Known>, now: Timestamp) {
        assert!(!all.is_empty());
        for (key, known) in all {
            let mut recall = Recall::default();
            Rx { conn }.recall(key, now, &mut recall).unwrap();
            let counts = (known.expires_at > now).then_some((known.kind, known.expires_at));
            assert_eq!(recall.same, counts, "{key}");
            let others =
                all.range(EventKey { fingerprint: [0; 16], ..*key }..=EventKey { fingerprint: [255; 16], ..*key });
            let other_body = others
                .filter(|(other, known)| *other != key && known.kind == MarkKind::Processed && known.expires_at > now);
            assert_eq!(recall.other_body, other_body.count() > 0, "{key}");
        }
        let mut recall = Recall::default();
        let unknown = EventKey { slot: [77; 16], fingerprint: [0; 16] };
        Rx { conn }.recall(&unknown, now, &mut recall).unwrap();
        assert_eq!(recall, Recall::default());
    }

    fn rows(conn: &Connection) -> u64 {
        conn.query_row("SELECT count(*) FROM mark_chunks", [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn what_was_merged_is_known_at_every_step_and_after_a_crash_at_any() {
        let mut chance = fastrand::Rng::with_seed(12);
        let folder = tempfile::tempdir().unwrap();
        let mut conn = open(folder.path());
        let mut order = Order::read(&conn).unwrap();
        let mut all = BTreeMap::new();
        let (mut steps, mut crashes, mut top) = (0, 0, 0);
        for round in 0..100 {
            let marks = some(&mut chance, 80);
            for (key, known) in &marks {
                let counts = known.expires_at > NOW;
                all.entry(*key)
                    .and_modify(|there: &mut Known| {
                        if counts {
                            *there = there.and(*known);
                        }
                    })
                    .or_insert(*known);
            }
            order.add_runs(&conn, &marks, NOW).unwrap();
            order.crowded = order.crowd().is_some();
            // What counts is not what a merge leaves out.
            all.retain(|_, known| known.expires_at > NOW);
            while step(&mut order, &conn, NOW) {
                steps += 1;
                top = top.max(order.runs.iter().map(|run| run.level).max().unwrap_or(0));
                if chance.u8(..20) == 0 {
                    // The connection is as good as a crash: nothing of it is in memory afterwards.
                    conn = open(folder.path());
                    order = Order::read(&conn).unwrap();
                    crashes += 1;
                }
                if chance.u8(..8) == 0 {
                    break;
                }
            }
            if round % 20 == 0 {
                assert_knows(&conn, &all, NOW);
            }
        }
        while step(&mut order, &conn, NOW) {}
        assert_knows(&conn, &all, NOW);
        assert!(steps > 200 && crashes > 5 && top >= 2, "{steps} steps, {crashes} crashes, level {top}");
        // Classes of life are few here, and so are the runs of each level.
        assert!(order.runs.len() < 150, "{} runs", order.runs.len());
        let counted = order.runs.iter().map(|run| run.marks).sum::<u64>();
        assert_eq!(runs::count(&conn).unwrap(), counted);
        let later = Timestamp::from_millis(NOW.millis() + 100_000_000);
        while step(&mut order, &conn, later) {}
        assert_eq!((rows(&conn), order.runs.len()), (0, 0), "all of it has expired");
    }

    #[test]
    fn a_step_is_short_however_much_there_is_to_merge() {
        let folder = tempfile::tempdir().unwrap();
        let conn = open(folder.path());
        let mut order = Order::read(&conn).unwrap();
        let known = Known { kind: MarkKind::Processed, expires_at: NOW.plus(std::time::Duration::from_secs(60)) };
        let mut chance = fastrand::Rng::with_seed(3);
        for _ in 0..FAN {
            let mut marks: Vec<Entry> = (0..5_000)
                .map(|_| (EventKey { slot: chance.u128(..).to_be_bytes(), fingerprint: [1; 16] }, known))
                .collect();
            marks.sort_by_key(|(key, _)| *key);
            order.add_runs(&conn, &marks, NOW).unwrap();
        }
        order.crowded = order.crowd().is_some();
        let (mut before, mut steps) = (rows(&conn), 0);
        assert_eq!(before, 400);
        while step(&mut order, &conn, NOW) {
            let after = rows(&conn);
            assert!(before.abs_diff(after) <= u64::try_from(STEP + FAN).unwrap(), "{before} became {after}");
            (before, steps) = (after, steps + 1);
        }
        assert!(steps > 20, "{steps}");
        assert_eq!((before, order.runs.len()), (400, 1));
        assert_eq!(order.runs[0].marks, 40_000);
    }
}

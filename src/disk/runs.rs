//! The marks on disk: the statements. When marks are merged and runs become one is `merge.rs`'s.
//!
//! - `mark_batches`: marks as they were committed, one row or a few a commit, always at the end of the tree: a commit
//!   touches a page or two however many marks it brings. They are in memory too; a start reads them back.
//! - `mark_chunks`: runs. A run is sorted and never changes, but that an operator may have a mark forgotten. It stands in
//!   rows of about a hundred marks; a row's number is the run's, times 2^32, plus the first 32 bits of its first slot.
//!   No two rows of a run share a slot, so that one row has all that a run knows of it.
//! - `mark_runs`: the runs that count. Rows of any other are of a merge that did not end, or of a run that has gone.
//! - `marks`: what version 1 wrote, a row a mark. Looked at until it has expired; nothing is added.

use std::collections::HashSet;

use rusqlite::{Connection, params};

use super::fault::JobFault;
use super::job::Tx;
use super::marks::{MarkKind, Recall};
use super::packed::{self, Entry, IN_A_ROW, Known};
use super::readers::Rx;
use crate::domain::key::EventKey;
use crate::domain::time::Timestamp;

/// Bits of a row's number that are the slot's.
const SLOT_BITS: u32 = 32;

/// A run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Its number: the higher, the later it was written.
    pub(super) number: i64,
    /// How long its marks had to live when they were sorted in: runs of marks that live long are no others' company.
    pub(super) class: u32,
    /// How often its marks have been merged.
    pub(super) level: u32,
    /// How many there are.
    pub(super) marks: u64,
    /// When the last of them expires.
    pub(super) last_expiry: Timestamp,
}

/// A row's number.
pub(super) fn row_of(run: i64, slot: &[u8; 16]) -> i64 {
    run << SLOT_BITS | i64::from(prefix(slot))
}

/// The run that a row is of.
pub(super) const fn run_of(row: i64) -> i64 {
    row >> SLOT_BITS
}

fn prefix(slot: &[u8; 16]) -> u32 {
    let [a, b, c, d, ..] = *slot;
    u32::from_be_bytes([a, b, c, d])
}

/// How many of these sorted marks the next row takes.
pub(super) fn next_row(sorted: &[Entry]) -> usize {
    let Some((last, _)) = sorted.get(IN_A_ROW - 1) else { return sorted.len() };
    let more = sorted.iter().skip(IN_A_ROW).take_while(|(key, _)| prefix(&key.slot) == prefix(&last.slot));
    IN_A_ROW + more.count()
}

/// Writes down what a commit brings.
pub(super) fn append(conn: &Connection, marks: &[Entry]) -> rusqlite::Result<()> {
    if marks.is_empty() {
        return Ok(());
    }
    let mut insert = conn.prepare_cached("INSERT INTO mark_batches (marks) VALUES (?1)")?;
    for row in marks.chunks(IN_A_ROW) {
        insert.execute([packed::pack(row)])?;
    }
    Ok(())
}

/// What was committed and not merged, in the order in which it came.
pub(super) fn batches(conn: &Connection) -> Result<Vec<Entry>, JobFault> {
    let mut query = conn.prepare_cached("SELECT marks FROM mark_batches ORDER BY id")?;
    let mut rows = query.query([])?;
    let mut marks = Vec::new();
    while let Some(row) = rows.next()? {
        marks.extend(packed::unpack(blob(row)?)?);
    }
    Ok(marks)
}

/// The batches are merged, or written anew.
pub(super) fn clear_batches(conn: &Connection) -> rusqlite::Result<()> {
    conn.prepare_cached("DELETE FROM mark_batches")?.execute([])?;
    Ok(())
}

/// Writes the next row of a run.
pub(super) fn put_row(conn: &Connection, run: i64, sorted: &[Entry]) -> rusqlite::Result<()> {
    let Some((first, _)) = sorted.first() else { return Ok(()) };
    let mut insert = conn.prepare_cached("INSERT INTO mark_chunks (id, marks) VALUES (?1, ?2)")?;
    insert.execute(params![row_of(run, &first.slot), packed::pack(sorted)])?;
    Ok(())
}

/// The first row of a run from this number on, and its marks.
pub(super) fn row_from(conn: &Connection, run: i64, from: i64) -> Result<Option<(i64, Vec<Entry>)>, JobFault> {
    let mut query =
        conn.prepare_cached("SELECT id, marks FROM mark_chunks WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT 1")?;
    let mut rows = query.query(params![from, (run + 1) << SLOT_BITS])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    Ok(Some((row.get(0)?, packed::unpack(row.get_ref(1)?.as_blob().unwrap_or_default())?)))
}

/// From now on a run counts.
pub(super) fn put_run(conn: &Connection, run: &Run) -> rusqlite::Result<()> {
    let mut insert = conn
        .prepare_cached("INSERT INTO mark_runs (run, class, level, marks, last_expiry) VALUES (?1, ?2, ?3, ?4, ?5)")?;
    insert.execute(params![run.number, run.class, run.level, run.marks, run.last_expiry.millis()])?;
    Ok(())
}

/// From now on a run counts no more; its rows are the caller's to delete.
pub(super) fn drop_run(conn: &Connection, run: i64) -> rusqlite::Result<()> {
    conn.prepare_cached("DELETE FROM mark_runs WHERE run = ?1")?.execute([run])?;
    Ok(())
}

/// Deletes rows of a run that does not count, at most `most`; says how many went.
pub(super) fn delete_rows(conn: &Connection, run: i64, most: usize) -> rusqlite::Result<usize> {
    let mut query = conn.prepare_cached("SELECT id FROM mark_chunks WHERE id >= ?1 AND id < ?2 ORDER BY id")?;
    let found = query.query_map(params![run << SLOT_BITS, (run + 1) << SLOT_BITS], |row| row.get(0))?;
    let rows: Vec<i64> = found.take(most).collect::<Result<_, _>>()?;
    drop(query);
    let mut delete = conn.prepare_cached("DELETE FROM mark_chunks WHERE id = ?1")?;
    for row in &rows {
        delete.execute([row])?;
    }
    Ok(rows.len())
}

/// The runs that count, the oldest first.
pub(super) fn runs(conn: &Connection) -> rusqlite::Result<Vec<Run>> {
    let mut query = conn.prepare_cached("SELECT run, class, level, marks, last_expiry FROM mark_runs ORDER BY run")?;
    let rows = query.query_map([], |row| {
        let last_expiry = Timestamp::from_millis(row.get(4)?);
        Ok(Run { number: row.get(0)?, class: row.get(1)?, level: row.get(2)?, marks: row.get(3)?, last_expiry })
    })?;
    rows.collect()
}

/// The runs that have rows, whether they count or not.
pub(super) fn runs_with_rows(conn: &Connection) -> rusqlite::Result<Vec<i64>> {
    let mut next = conn.prepare_cached("SELECT min(id) FROM mark_chunks WHERE id >= ?1")?;
    let mut found = Vec::new();
    let mut from = i64::MIN;
    while let Some(row) = next.query_row([from], |row| row.get::<_, Option<i64>>(0))? {
        found.push(run_of(row));
        from = (run_of(row) + 1) << SLOT_BITS;
    }
    Ok(found)
}

/// Tells `see` the slot of every mark that is in no batch.
pub(super) fn each_slot(conn: &Connection, see: &mut dyn FnMut(&[u8; 16])) -> rusqlite::Result<()> {
    let mut scan = conn.prepare("SELECT marks FROM mark_chunks")?;
    let mut found = scan.query([])?;
    while let Some(row) = found.next()? {
        let (marks, _) = blob(row)?.as_chunks::<{ packed::BYTES }>();
        marks.iter().filter_map(|mark| mark.first_chunk()).for_each(&mut *see);
    }
    let mut scan = conn.prepare("SELECT slot FROM marks")?;
    let mut found = scan.query([])?;
    while let Some(row) = found.next()? {
        if let Ok(slot) = blob(row)?.try_into() {
            see(slot);
        }
    }
    Ok(())
}

/// About how many marks are in no batch.
pub(super) fn count(conn: &Connection) -> rusqlite::Result<u64> {
    conn.query_row("SELECT (SELECT count(*) FROM marks) + (SELECT coalesce(sum(marks), 0) FROM mark_runs)", [], |row| {
        row.get(0)
    })
}

fn blob<'a>(row: &'a rusqlite::Row<'_>) -> rusqlite::Result<&'a [u8]> {
    Ok(row.get_ref(0)?.as_blob().unwrap_or_default())
}

/// The row of a run that would have the marks of `slot`.
fn row_with(conn: &Connection, run: i64, slot: &[u8; 16]) -> rusqlite::Result<Option<(i64, Vec<u8>)>> {
    let mut query =
        conn.prepare_cached("SELECT id, marks FROM mark_chunks WHERE id <= ?1 AND id >= ?2 ORDER BY id DESC LIMIT 1")?;
    let mut rows = query.query(params![row_of(run, slot), run << SLOT_BITS])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    Ok(Some((row.get(0)?, row.get(1)?)))
}

impl Tx<'_> {
    /// Deletes a mark; says whether there was one.
    pub fn delete_mark(&mut self, key: &EventKey) -> Result<bool, JobFault> {
        let old = self
            .conn
            .prepare_cached("DELETE FROM marks WHERE slot = ?1 AND fingerprint = ?2")?
            .execute(params![key.slot, key.fingerprint])?;
        let mut found = old > 0 || self.draft.has_mark(key);
        for run in runs(self.conn)? {
            if let Some((row, marks)) = row_with(self.conn, run.number, &key.slot)? {
                found |= self.delete_from("mark_chunks", row, &marks, key)?;
            }
        }
        let mut query = self.conn.prepare_cached("SELECT id, marks FROM mark_batches")?;
        let batches = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let batches: Vec<(i64, Vec<u8>)> = batches.collect::<Result<_, _>>()?;
        drop(query);
        for (row, marks) in batches {
            found |= self.delete_from("mark_batches", row, &marks, key)?;
        }
        self.draft.forget_mark(*key);
        Ok(found)
    }

    /// Takes a mark out of a row, if it is in it.
    fn delete_from(&self, table: &str, row: i64, marks: &[u8], key: &EventKey) -> Result<bool, JobFault> {
        let mut marks = packed::unpack(marks)?;
        let before = marks.len();
        marks.retain(|(other, _)| other != key);
        if marks.len() == before {
            return Ok(false);
        }
        if marks.is_empty() {
            self.conn.prepare_cached(&format!("DELETE FROM {table} WHERE id = ?1"))?.execute([row])?;
        } else {
            let update = format!("UPDATE {table} SET marks = ?2 WHERE id = ?1");
            self.conn.prepare_cached(&update)?.execute(params![row, packed::pack(&marks)])?;
        }
        Ok(true)
    }
}

impl Rx<'_> {
    /// What the disk says about an event, its batches aside: those are in memory.
    pub(super) fn recall(&self, key: &EventKey, now: Timestamp, recall: &mut Recall) -> Result<(), JobFault> {
        let mut runs = self.conn.prepare_cached("SELECT run FROM mark_runs")?;
        let mut runs = runs.query([])?;
        let mut find = self
            .conn
            .prepare_cached("SELECT marks FROM mark_chunks WHERE id <= ?1 AND id >= ?2 ORDER BY id DESC LIMIT 1")?;
        while let Some(run) = runs.next()? {
            let run: i64 = run.get(0)?;
            let mut rows = find.query(params![row_of(run, &key.slot), run << SLOT_BITS])?;
            if let Some(row) = rows.next()? {
                for (found, known) in packed::of_slot(blob(row)?, &key.slot) {
                    recall.add(&found.fingerprint, key, known, now);
                }
            }
        }
        self.recall_old(key, now, recall)
    }

    fn recall_old(&self, key: &EventKey, now: Timestamp, recall: &mut Recall) -> Result<(), JobFault> {
        let mut query = self.conn.prepare_cached("SELECT fingerprint, kind, expires_at FROM marks WHERE slot = ?1")?;
        let mut rows = query.query(params![key.slot])?;
        while let Some(row) = rows.next()? {
            let kind = if row.get::<_, i64>(1)? == 0 { MarkKind::Processed } else { MarkKind::Perhaps };
            let known = Known { kind, expires_at: Timestamp::from_millis(row.get(2)?) };
            recall.add(blob(row)?, key, known, now);
        }
        Ok(())
    }

    /// Marks on disk, expired ones included that wait to be deleted. One that two runs have counts twice.
    pub fn count_marks(&self) -> Result<u64, JobFault> {
        // One picture: between two a batch may become part of a run, and would count twice.
        let tx = self.conn.unchecked_transaction()?;
        let batches =
            tx.query_row("SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE name = 'mark_batches')", [], |row| {
                row.get::<_, bool>(0)
            })?;
        if !batches {
            // A file of version 1, which no gateway has opened since.
            return Ok(tx.query_row("SELECT count(*) FROM marks", [], |row| row.get(0))?);
        }
        let unmerged: HashSet<EventKey> = self::batches(&tx)?.into_iter().map(|(key, _)| key).collect();
        Ok(count(&tx)? + u64::try_from(unmerged.len()).unwrap_or(u64::MAX))
    }
}

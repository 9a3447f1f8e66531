//! The file's memory of itself: whether the last stop was clean and which it was, in which boot of the machine it ran, and
//! up to which event a crash left doubt.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use super::PreviousStop;
use super::books::Class;
use super::records::PENDING;
use crate::domain::time::Timestamp;

/// What the start found and what follows from it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recovered {
    pub(super) previous: PreviousStop,
    /// Undelivered events up to this sequence number may have been sent before a crash of the machine.
    pub(super) doubtful_through: i64,
    pub(super) next_seq: i64,
    /// Events whose attempt was cut off.
    pub(super) cut_off: usize,
    /// Events that happened before this moment may have been sent, whatever the marks say: a stop that was not clean,
    /// or a damaged database, in this run or an earlier one.
    pub(super) doubtful_before: Option<Timestamp>,
    /// Whether a salvage has not ended.
    pub(super) salvaging: bool,
    /// Events that were to wait by a clock that was ahead, and are due now.
    pub(super) freed: usize,
    /// Whether the file is a copy from before the last run's end.
    pub(super) restored: bool,
}

/// What is known of the last run beside the file.
#[derive(Clone, Debug)]
pub(super) struct Beside {
    /// The clean stop that was noted beside the file.
    pub(super) stop: Option<String>,
    /// Whether the file has a write-ahead log: after a crash it has one.
    pub(super) has_log: bool,
}

impl Beside {
    /// Whether a file that ended its last run as `run` and `stopped` say was put here from elsewhere. Where they go together
    /// they may be here from elsewhere too: then nothing ran since.
    fn shows_a_copy(&self, run: &str, stopped: Option<&str>) -> bool {
        match run {
            "clean" => stopped.is_some() && stopped != self.stop.as_deref(),
            "began" => !self.has_log,
            _ => false,
        }
    }
}

/// How far ahead of this start the last one may have been by its clock without being taken for wrong: clocks are corrected
/// by as much all the time.
const AHEAD: Duration = Duration::from_secs(60);

/// How far a salvage has come, and what it has brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// 0: marks and events. 1: payloads. 2: done.
    pub(super) pass: u32,
    /// The last page that was read in this pass.
    pub(super) page: u32,
    /// Events that are whole.
    pub(super) events: u64,
    pub(super) marks: u64,
    /// Events whose payload has not come.
    pub(super) waiting: u64,
    /// Pages that should have held something and could not be read.
    pub(super) unreadable: u64,
}

/// Reads how the last run ended, makes its cut-off attempts due again, and notes that this run has begun. Durable.
/// `boot`: the machine's name for this boot; `None` counts as another one.
pub(super) fn begin_run(
    conn: &mut Connection,
    now: Timestamp,
    boot: Option<String>,
    beside: &Beside,
) -> rusqlite::Result<Recovered> {
    let tx = conn.transaction()?;
    let (run, stopped) = (text(&tx, "run")?, text(&tx, "stopped")?);
    let restored = run.as_deref().is_some_and(|run| beside.shows_a_copy(run, stopped.as_deref()));
    let previous = match run.as_deref() {
        None => PreviousStop::First,
        Some("clean") if !restored => PreviousStop::Clean,
        Some(_) => PreviousStop::Unclean { stopped_before: now },
    };
    if matches!(previous, PreviousStop::Unclean { .. }) {
        put(&tx, "doubtful_before", now.millis())?;
    }
    let doubtful_before = integer(&tx, "doubtful_before")?.map(Timestamp::from_millis);
    let last_seq: i64 = tx.query_row("SELECT coalesce(max(seq), 0) FROM events", [], |row| row.get(0))?;
    let mut doubtful_through = number(&tx, "doubtful_through")?;
    let rebooted = boot.is_none() || text(&tx, "boot")? != boot;
    if (rebooted || restored) && matches!(previous, PreviousStop::Unclean { .. }) {
        // That an attempt had begun is written without a sync: after a crash of the machine it may be lost. A copy knows nothing of
        // what came after it.
        doubtful_through = doubtful_through.max(last_seq);
        put(&tx, "doubtful_through", doubtful_through)?;
    }
    let (seq_floor, salvaging) = (number(&tx, "seq_floor")?, is_salvaging(&tx)?);
    let cut_off =
        tx.execute(&format!("UPDATE events SET state = {PENDING}, possible_duplicate = 1 WHERE state = 1"), [])?;
    let freed = free_of_a_clock_ahead(&tx, now)?;
    put(&tx, "run", "began")?;
    put(&tx, "began_at", now.millis())?;
    put(&tx, "boot", boot.unwrap_or_default())?;
    tx.commit()?;
    let next_seq = last_seq.max(doubtful_through).saturating_add(1).max(seq_floor);
    Ok(Recovered { previous, doubtful_through, next_seq, cut_off, doubtful_before, salvaging, freed, restored })
}

/// Makes due what waits for a moment of a clock that was wrong: where the last run was in the future, undelivered events
/// wait by its time, for as long as it was ahead. Says how many they are.
fn free_of_a_clock_ahead(tx: &Connection, now: Timestamp) -> rusqlite::Result<usize> {
    let newest = tx.query_row("SELECT received_at FROM events ORDER BY seq DESC LIMIT 1", [], |row| row.get(0));
    let seen = [integer(tx, "began_at")?, integer(tx, "stopped_at")?, newest.optional()?];
    let last = seen.into_iter().flatten().max().map(Timestamp::from_millis);
    if last.is_none_or(|last| last <= now.plus(AHEAD)) {
        return Ok(0);
    }
    // `OR ROLLBACK`: nothing is kept in memory to take back half of it, however many there are.
    let freed = "UPDATE OR ROLLBACK events SET not_before = ?1 WHERE class = ?2 AND not_before > ?1";
    tx.execute(freed, params![now.millis(), Class::Undelivered.code()])
}

/// Writes into a fresh file that it takes the place of a damaged one: no event of it may have a number below `seq_floor`,
/// and nobody knows how the last run ended.
pub(super) fn take_place(conn: &Connection, seq_floor: i64, now: Timestamp) -> rusqlite::Result<()> {
    let tx = conn.unchecked_transaction()?;
    put(&tx, "run", "damaged")?;
    put(&tx, "seq_floor", seq_floor)?;
    put(&tx, "began_at", now.millis())?;
    put(&tx, "doubtful_before", now.millis())?;
    set_salvaging(&tx, Some(1))?;
    tx.commit()
}

/// Notes that a run goes on in this file.
pub(super) fn go_on(conn: &Connection, boot: Option<String>) -> rusqlite::Result<()> {
    put(conn, "run", "began")?;
    put(conn, "boot", boot.unwrap_or_default())
}

/// Whether events of a damaged file may still come: `1`, until they have; `2`, until those that waited are due.
pub(super) fn set_salvaging(conn: &Connection, step: Option<i64>) -> rusqlite::Result<()> {
    match step {
        Some(step) => put(conn, "salvaging", step),
        None => conn.execute("DELETE FROM meta WHERE key = 'salvaging'", []).map(|_| ()),
    }
}

/// Whether a salvage has not ended.
pub(super) fn is_salvaging(conn: &Connection) -> rusqlite::Result<bool> {
    Ok(number(conn, "salvaging")? != 0)
}

/// How far the salvage of the damaged file `name` has come.
pub(super) fn progress(conn: &Connection, name: &str) -> rusqlite::Result<Progress> {
    let text = text(conn, &format!("salvage {name}"))?.unwrap_or_default();
    let mut numbers = text.split(' ').map(|number| number.parse::<u64>().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    let (pass, page) = (next(), next());
    let small = |number: u64| u32::try_from(number).unwrap_or(0);
    let (events, marks, waiting, unreadable) = (next(), next(), next(), next());
    Ok(Progress { pass: small(pass), page: small(page), events, marks, waiting, unreadable })
}

pub(super) fn put_progress(conn: &Connection, name: &str, progress: &Progress) -> rusqlite::Result<()> {
    let Progress { pass, page, events, marks, waiting, unreadable } = progress;
    put(conn, &format!("salvage {name}"), format!("{pass} {page} {events} {marks} {waiting} {unreadable}"))
}

/// Notes that nothing was left half-way, and which stop this is. Durable if the connection syncs.
pub(super) fn mark_clean(conn: &Connection, stop: &str, now: Timestamp) -> rusqlite::Result<()> {
    let tx = conn.unchecked_transaction()?;
    put(&tx, "stopped_at", now.millis())?;
    put(&tx, "stopped", stop)?;
    put(&tx, "run", "clean")?;
    tx.commit()
}

/// Writes something, to show that writing works.
pub(super) fn probe(conn: &Connection) -> rusqlite::Result<()> {
    let count = number(conn, "probes")?;
    put(conn, "probes", count.wrapping_add(1))
}

/// Up to which sequence number events are doubtful; for readers of a stopped gateway's spool.
pub(super) fn doubtful_through(conn: &Connection) -> rusqlite::Result<i64> {
    number(conn, "doubtful_through")
}

fn text(conn: &Connection, key: &str) -> rusqlite::Result<Option<String>> {
    conn.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0)).optional()
}

fn number(conn: &Connection, key: &str) -> rusqlite::Result<i64> {
    Ok(integer(conn, key)?.unwrap_or(0))
}

fn integer(conn: &Connection, key: &str) -> rusqlite::Result<Option<i64>> {
    conn.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0)).optional()
}

fn put(conn: &Connection, key: &str, value: impl rusqlite::ToSql) -> rusqlite::Result<()> {
    conn.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)", params![key, value])?;
    Ok(())
}

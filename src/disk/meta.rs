//! The file's memory of itself: whether the last stop was clean, in which boot of the machine it ran, and up to which
//! event a crash left doubt.

use rusqlite::{Connection, OptionalExtension, params};

use super::PreviousStop;
use super::records::PENDING;
use crate::domain::time::Timestamp;

/// What the start found and what follows from it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recovered {
    pub(super) previous: PreviousStop,
    /// The end of the last run that did not stop cleanly lies before this moment. Runs that did stop cleanly since then
    /// do not change what that one may have sent.
    pub(super) doubtful_before: Option<Timestamp>,
    /// Undelivered events up to this sequence number may have been sent before a crash of the machine.
    pub(super) doubtful_through: i64,
    pub(super) next_seq: i64,
    /// Events whose attempt was cut off.
    pub(super) cut_off: usize,
}

/// Reads how the last run ended, makes its cut-off attempts due again, and notes that this run has begun. Durable.
/// `boot`: the machine's name for this boot; `None` counts as another one.
pub(super) fn begin_run(conn: &mut Connection, now: Timestamp, boot: Option<String>) -> rusqlite::Result<Recovered> {
    let tx = conn.transaction()?;
    let previous = match text(&tx, "run")?.as_deref() {
        None => PreviousStop::First,
        Some("clean") => PreviousStop::Clean,
        Some(_) => PreviousStop::Unclean { stopped_before: now },
    };
    if matches!(previous, PreviousStop::Unclean { .. }) {
        put(&tx, "doubtful_before", now.millis())?;
    }
    let doubtful_before = integer(&tx, "doubtful_before")?.map(Timestamp::from_millis);
    let last_seq: i64 = tx.query_row("SELECT coalesce(max(seq), 0) FROM events", [], |row| row.get(0))?;
    let mut doubtful_through = number(&tx, "doubtful_through")?;
    let rebooted = boot.is_none() || text(&tx, "boot")? != boot;
    if rebooted && matches!(previous, PreviousStop::Unclean { .. }) {
        // That an attempt had begun is written without a sync: after a crash of the machine it may be lost.
        doubtful_through = doubtful_through.max(last_seq);
        put(&tx, "doubtful_through", doubtful_through)?;
    }
    let cut_off =
        tx.execute(&format!("UPDATE events SET state = {PENDING}, possible_duplicate = 1 WHERE state = 1"), [])?;
    put(&tx, "run", "began")?;
    put(&tx, "boot", boot.unwrap_or_default())?;
    tx.commit()?;
    let next_seq = last_seq.max(doubtful_through).saturating_add(1);
    Ok(Recovered { previous, doubtful_before, doubtful_through, next_seq, cut_off })
}

/// Notes that nothing was left half-way. Durable if the connection syncs.
pub(super) fn mark_clean(conn: &Connection) -> rusqlite::Result<()> {
    put(conn, "run", "clean")
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

//! The database file: its tables, and how a connection to it is set up.
//!
//! `events` holds what changes and what is listed, a few hundred bytes a row; `payloads` holds what is sent, written
//! once and deleted once. `seq` rises in the order of acknowledgement. `state`: 0 pending, 1 in flight, 2 behind an
//! earlier event of its order value, 3 dead, 4 damaged. `class` is the coarser word that totals count by: 0
//! undelivered (states 0 to 2), 1 dead, 2 damaged. Times are milliseconds since the Unix epoch.
//!
//! `mark_batches`, `mark_chunks` and `mark_runs` are the embedded dedup table (`runs.rs`). `marks` is what version 1 had in
//! their place; `kind` 0 processed, 1 perhaps processed.
//!
//! `carve.rs` knows the columns too: it reads them without `SQLite`.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::fault::Trouble;

/// The database's name in the spool directory.
pub(super) const DATABASE_FILE: &str = "hookgate.db";

/// Raised with every change of the tables.
pub(super) const VERSION: i64 = 2;

/// How long a connection waits for another one's lock: a checkpoint of the last few MiB on a slow disk.
const BUSY: Duration = Duration::from_secs(5);

/// Length of a write-ahead log that is kept to be written over, which is quicker than to have it grow: 64 MiB.
const LOG_BYTES: i64 = 64 << 20;

/// Statements kept prepared on a connection; there are about forty.
const STATEMENTS: usize = 64;

/// `events_due` and `events_totals` hold all that their queries need, so that a damaged page of `events` spoils the
/// events on it and nothing else.
const TABLES: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE events (
  seq INTEGER PRIMARY KEY,
  id BLOB NOT NULL,
  route TEXT NOT NULL,
  key BLOB NOT NULL,
  state INTEGER NOT NULL,
  class INTEGER NOT NULL,
  not_before INTEGER NOT NULL,
  attempts INTEGER NOT NULL,
  possible_duplicate INTEGER NOT NULL,
  replay INTEGER NOT NULL,
  reason TEXT,
  last_error TEXT NOT NULL,
  received_at INTEGER NOT NULL,
  signed_at INTEGER,
  event_type TEXT,
  order_value TEXT,
  size INTEGER NOT NULL,
  body_bytes INTEGER NOT NULL,
  body_sha256 BLOB NOT NULL,
  digest BLOB NOT NULL
);
CREATE UNIQUE INDEX events_id ON events (id);
CREATE INDEX events_totals ON events (route, class, received_at, size);
CREATE INDEX events_due ON events (route, not_before, id) WHERE state = 0;
CREATE INDEX events_in_flight ON events (state) WHERE state = 1;
CREATE INDEX events_order ON events (route, order_value) WHERE class = 0 AND order_value IS NOT NULL;
CREATE INDEX events_dead ON events (id) WHERE class = 1;
CREATE INDEX events_damaged ON events (id) WHERE class = 2;
CREATE TABLE payloads (
  seq INTEGER PRIMARY KEY,
  method TEXT NOT NULL,
  target TEXT NOT NULL,
  authority TEXT NOT NULL,
  headers BLOB NOT NULL,
  body BLOB NOT NULL
);
CREATE TABLE marks (
  slot BLOB NOT NULL,
  fingerprint BLOB NOT NULL,
  route TEXT NOT NULL,
  kind INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  PRIMARY KEY (slot, fingerprint)
) WITHOUT ROWID;
CREATE INDEX marks_expiry ON marks (expires_at);
";

/// What version 2 adds.
const MARKS: &str = "
CREATE TABLE mark_batches (id INTEGER PRIMARY KEY, marks BLOB NOT NULL);
CREATE TABLE mark_chunks (id INTEGER PRIMARY KEY, marks BLOB NOT NULL);
CREATE TABLE mark_runs (
  run INTEGER PRIMARY KEY,
  class INTEGER NOT NULL,
  level INTEGER NOT NULL,
  marks INTEGER NOT NULL,
  last_expiry INTEGER NOT NULL
);
";

/// Events that were delivered while a salvage might still bring them (see `takeover.rs`). Empty at any other time, so
/// that a file with and one without it are of the same version.
const SETTLED: &str = "CREATE TABLE IF NOT EXISTS salvage_settled (id BLOB PRIMARY KEY) WITHOUT ROWID";

/// Opens the file for writing, creating its tables if it is new. Yields the schema version found.
pub(super) fn open_writer(file: &Path) -> rusqlite::Result<(Connection, i64)> {
    let mut conn =
        Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    prepare(&conn)?;
    let version: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version == 0 {
        // Takes effect only before the first table; pages are given back in small steps when there is nothing to do. It writes,
        // also where nothing changes: a full disk would end every start here.
        conn.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    }
    conn.pragma_update(None, "journal_mode", "WAL")?;
    // Checkpoints run in a thread of their own, off the commit path.
    conn.pragma_update(None, "wal_autocheckpoint", 0)?;
    // A log that is begun anew is cut to this.
    conn.pragma_update(None, "journal_size_limit", LOG_BYTES)?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    if version < VERSION {
        match update(&mut conn, version) {
            Err(error) if Trouble::of(&error) == Trouble::NoRoom => {
                // A full disk: the write-ahead log of the last run may hold what room there is.
                empty_log(&conn)?;
                update(&mut conn, version)?;
            }
            updated => updated?,
        }
    }
    if version <= VERSION {
        conn.execute_batch(SETTLED)?;
    }
    Ok((conn, version))
}

/// Brings the tables from `version` to ours.
fn update(conn: &mut Connection, version: i64) -> rusqlite::Result<()> {
    let tx = conn.transaction()?;
    if version == 0 {
        tx.execute_batch(TABLES)?;
    }
    tx.execute_batch(MARKS)?;
    tx.pragma_update(None, "user_version", VERSION)?;
    tx.commit()
}

/// Opens the file for reading alone.
pub(super) fn open_reader(file: &Path) -> rusqlite::Result<Connection> {
    let conn = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    prepare(&conn)?;
    Ok(conn)
}

/// Opens the file for checkpoints alone.
pub(super) fn open_checkpointer(file: &Path) -> rusqlite::Result<Connection> {
    let conn = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    prepare(&conn)?;
    // It gives way at once, to readers and to the writer: what waits for a reader here has the writer wait too.
    conn.busy_timeout(Duration::ZERO)?;
    conn.pragma_update(None, "wal_autocheckpoint", 0)?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    Ok(conn)
}

fn prepare(conn: &Connection) -> rusqlite::Result<()> {
    conn.busy_timeout(BUSY)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    // What a statement may have to take back stays in memory: a container of ours has nowhere to put a temporary file.
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    // The log is brought into the file where that is meant, never because a connection ends: not into a damaged file, and
    // not through a disk that has just failed.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // A plan depends on the statement alone: a kept statement would be compiled anew whenever other values are bound to it.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    conn.pragma_update(None, "cell_size_check", true)
}

/// Has the writer begin the write-ahead log anew if all of it is in the database. Says whether that came true.
pub(super) fn restart_log(conn: &Connection) -> rusqlite::Result<Emptied> {
    let busy: i64 = conn.query_row("PRAGMA wal_checkpoint(RESTART)", [], |row| row.get(0))?;
    Ok(if busy == 0 { Emptied::Yes } else { Emptied::InUse })
}

/// Brings the write-ahead log into the database and empties it. Says whether that came true; readers may prevent it.
pub(super) fn empty_log(conn: &Connection) -> rusqlite::Result<Emptied> {
    let busy: i64 = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    Ok(if busy == 0 { Emptied::Yes } else { Emptied::InUse })
}

/// Whether the write-ahead log was emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Emptied {
    /// It is empty.
    Yes,
    /// Somebody still reads it.
    InUse,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `SQLite`'s documentation of `temp_store` calls MEMORY.
    const IN_MEMORY: i64 = 2;

    #[test]
    fn no_connection_needs_a_place_for_temporary_files() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(DATABASE_FILE);
        std::fs::File::create(&file).unwrap();
        let (writer, _) = open_writer(&file).unwrap();
        for conn in [writer, open_reader(&file).unwrap(), open_checkpointer(&file).unwrap()] {
            let store: i64 = conn.pragma_query_value(None, "temp_store", |row| row.get(0)).unwrap();
            assert_eq!(store, IN_MEMORY);
        }
    }
}

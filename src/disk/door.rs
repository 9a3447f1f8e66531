//! The way into the database for all but the writer: nobody opens the file while a fresh one takes its place.
//!
//! `SQLite` finds the write-ahead log and its shared memory by the file's name. Who opened the damaged file between the
//! renaming of its log and its own would leave a log under the name that the fresh file is about to have.

use std::path::PathBuf;
use std::sync::{PoisonError, RwLock};

use rusqlite::Connection;

use super::schema;

/// The file's name and how many files have had it. The lock is held by the writer while it puts a file aside, and by
/// others while they open one: some milliseconds.
#[derive(Debug)]
pub(super) struct Door {
    file: PathBuf,
    generation: RwLock<u64>,
}

impl Door {
    pub(super) const fn new(file: PathBuf) -> Self {
        Self { file, generation: RwLock::new(0) }
    }

    /// A connection that reads, and the generation of its file.
    pub(super) fn reader(&self) -> rusqlite::Result<(Connection, u64)> {
        let generation = self.generation.read().unwrap_or_else(PoisonError::into_inner);
        Ok((settled(schema::open_reader(&self.file)?)?, *generation))
    }

    /// A connection for checkpoints.
    pub(super) fn checkpointer(&self) -> rusqlite::Result<Connection> {
        let _generation = self.generation.read().unwrap_or_else(PoisonError::into_inner);
        settled(schema::open_checkpointer(&self.file)?)
    }

    /// How many files were put aside so far: a connection of an older one is of no use.
    pub(super) fn generation(&self) -> u64 {
        *self.generation.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does `work`, which puts another file in place of this one, while nobody opens either.
    pub(super) fn replace<T>(&self, work: impl FnOnce() -> T) -> T {
        let mut generation = self.generation.write().unwrap_or_else(PoisonError::into_inner);
        *generation += 1;
        work()
    }
}

/// Has the connection open the write-ahead log too, which `SQLite` puts off until something is read.
fn settled(conn: Connection) -> rusqlite::Result<Connection> {
    conn.pragma_query_value(None, "schema_version", |row| row.get::<_, i64>(0))?;
    Ok(conn)
}

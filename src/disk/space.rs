//! Whether an event still fits: the spool's own cap and the file system's free space. Pages that the database has and
//! does not use count as free, so that a full spool recovers by being drained.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::fault::JobFault;
use super::schema::DATABASE_FILE;

/// How long an answer of the file system is believed. At 100 MB/s a second is well inside the default `min_free_bytes`.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The two limits. Asked by the writer thread alone.
#[derive(Debug)]
pub(super) struct Space {
    directory: PathBuf,
    max_bytes: u64,
    min_free_bytes: u64,
    looked: Option<(Instant, u64)>,
    /// Whether the file system had too little room the last time an event came.
    tight: bool,
}

impl Space {
    pub(super) const fn new(directory: PathBuf, max_bytes: u64, min_free_bytes: u64) -> Self {
        Self { directory, max_bytes, min_free_bytes, looked: None, tight: false }
    }

    /// Whether `size` bytes fit when `used` are taken.
    pub(super) fn admit(&mut self, conn: &Connection, used: u64, size: u64) -> Result<(), JobFault> {
        if used.saturating_add(size) > self.max_bytes {
            let limit = self.max_bytes;
            return Err(JobFault::Full(format!(
                "the spool holds {used} bytes, {size} more would pass spool.max_bytes = {limit}"
            )));
        }
        let free = self.free_bytes(conn)?;
        self.tight = free < self.min_free_bytes;
        if self.tight {
            let limit = self.min_free_bytes;
            return Err(JobFault::Full(format!(
                "the disk has {free} bytes free, less than spool.min_free_bytes = {limit}"
            )));
        }
        Ok(())
    }

    /// Whether there was too little room, since the last time of asking.
    pub(super) const fn was_tight(&mut self) -> bool {
        std::mem::replace(&mut self.tight, false)
    }

    /// The file system was changed: look again.
    pub(super) const fn changed(&mut self) {
        self.looked = None;
    }

    /// What may still be taken: the file system's free space and the database's unused pages, less what the database
    /// file has to grow by when the write-ahead log is brought into it.
    fn free_bytes(&mut self, conn: &Connection) -> Result<u64, JobFault> {
        if let Some((when, free)) = self.looked
            && when.elapsed() < LOOK_AGAIN
        {
            return Ok(free);
        }
        let system = rustix::fs::statvfs(&self.directory)
            .map_err(|error| JobFault::Failed(format!("the file system does not say how much is free: {error}")))?;
        let (unused, whole): (u64, u64) = conn.query_row(
            "SELECT freelist_count * page_size, page_count * page_size
             FROM pragma_freelist_count, pragma_page_count, pragma_page_size",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        let file = std::fs::metadata(self.directory.join(DATABASE_FILE)).map_or(0, |file| file.len());
        let free = system.f_bavail.saturating_mul(system.f_frsize).saturating_add(unused);
        let free = free.saturating_sub(whole.saturating_sub(file));
        self.looked = Some((Instant::now(), free));
        Ok(free)
    }
}

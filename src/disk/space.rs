//! Whether an event still fits: the spool's own cap and the file system's free space. Pages that the database has and
//! does not use count as free, so that a full spool recovers by being drained.

use std::path::PathBuf;
use std::time::Duration;

use rusqlite::Connection;
use tokio::time::Instant;

use super::fault::JobFault;

/// How long an answer of the file system is believed. At 100 MB/s a second is well inside the default `min_free_bytes`.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The two limits. Asked by the writer thread alone.
#[derive(Debug)]
pub(super) struct Space {
    directory: PathBuf,
    max_bytes: u64,
    min_free_bytes: u64,
    looked: Option<(Instant, u64)>,
}

impl Space {
    pub(super) const fn new(directory: PathBuf, max_bytes: u64, min_free_bytes: u64) -> Self {
        Self { directory, max_bytes, min_free_bytes, looked: None }
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
        if free < self.min_free_bytes {
            let limit = self.min_free_bytes;
            return Err(JobFault::Full(format!(
                "the disk has {free} bytes free, less than spool.min_free_bytes = {limit}"
            )));
        }
        Ok(())
    }

    fn free_bytes(&mut self, conn: &Connection) -> Result<u64, JobFault> {
        if let Some((when, free)) = self.looked
            && when.elapsed() < LOOK_AGAIN
        {
            return Ok(free);
        }
        let system = rustix::fs::statvfs(&self.directory)
            .map_err(|error| JobFault::Failed(format!("the file system does not say how much is free: {error}")))?;
        let unused: u64 = conn.query_row(
            "SELECT freelist_count * page_size FROM pragma_freelist_count, pragma_page_size",
            [],
            |row| row.get(0),
        )?;
        let free = system.f_bavail.saturating_mul(system.f_frsize).saturating_add(unused);
        self.looked = Some((Instant::now(), free));
        Ok(free)
    }
}

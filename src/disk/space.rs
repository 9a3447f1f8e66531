//! Whether an event still fits: the spool's own cap, the dead letters' share of it, and the file system's free space.
//! Pages that the database has and does not use count as free, so that a full spool recovers by being drained.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::DiskSettings;
use super::fault::JobFault;

/// How long an answer of the file system is believed. At 100 MB/s a second is well inside the default `min_free_bytes`.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The limits. Asked by the writer thread alone.
#[derive(Debug)]
pub(super) struct Space {
    directory: PathBuf,
    max_bytes: u64,
    max_dead_bytes: u64,
    min_free_bytes: u64,
    /// When the file system was asked, and what it had left then, less what was let in since.
    looked: Option<(Instant, u64)>,
}

/// What an event asks for room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To be delivered.
    Delivery,
    /// To be kept for an operator.
    DeadLetter,
}

/// Bytes on the disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Used {
    /// Of all events.
    pub(super) all: u64,
    /// Of dead letters.
    pub(super) dead: u64,
}

/// What an event takes of the file system until the next checkpoint: it stands in the log and in the database.
const COPIES: u64 = 2;

impl Space {
    pub(super) fn new(settings: DiskSettings) -> Self {
        let DiskSettings { path, max_bytes, max_dead_bytes, min_free_bytes } = settings;
        Self { directory: path, max_bytes, max_dead_bytes, min_free_bytes, looked: None }
    }

    /// Whether `size` bytes fit beside what is there. What was let in before stays, whatever it becomes.
    pub(super) fn admit(&mut self, conn: &Connection, used: Used, size: u64, purpose: Purpose) -> Result<(), JobFault> {
        if used.all.saturating_add(size) > self.max_bytes {
            let (limit, used) = (self.max_bytes, used.all);
            return Err(JobFault::Full(format!(
                "the spool holds {used} bytes, {size} more would pass spool.max_bytes = {limit}"
            )));
        }
        if purpose == Purpose::DeadLetter && used.dead.saturating_add(size) > self.max_dead_bytes {
            let (limit, used) = (self.max_dead_bytes, used.dead);
            return Err(JobFault::Full(format!(
                "the dead letters hold {used} bytes, {size} more would pass spool.max_dead_bytes = {limit}"
            )));
        }
        let free = self.free_bytes(conn)?;
        if free < self.min_free_bytes {
            let limit = self.min_free_bytes;
            return Err(JobFault::Full(format!(
                "the disk has {free} bytes free, less than spool.min_free_bytes = {limit}"
            )));
        }
        if let Some((_, left)) = &mut self.looked {
            *left = left.saturating_sub(size.saturating_mul(COPIES));
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

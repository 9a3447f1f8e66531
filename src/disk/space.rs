//! Whether an event still fits: the spool's own cap, the dead letters' share of it, and the file system's free space.
//! Pages that the database has and does not use count as free, so that a full spool recovers by being drained.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;
use rustix::fs::FallocateFlags;
use tokio::time::Instant;

use super::DiskSettings;
use super::damage::with_suffix;
use super::fault::JobFault;
use super::schema::DATABASE_FILE;

/// How long an answer of the file system is believed. At 100 MB/s a second is well inside the default `min_free_bytes`.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How much more is reserved for the database file at a time.
const STEP: u64 = 1024 * 1024;
/// Length of a page of the database: `SQLite`'s own choice, and always ours.
const PAGE: u64 = 4096;
/// Pages that an event may take in the indexes besides its own.
const MARGIN: u64 = 64 * 1024;

/// The limits. Asked by the writer thread alone.
#[derive(Debug)]
pub(super) struct Space {
    directory: PathBuf,
    max_bytes: u64,
    max_dead_bytes: u64,
    min_free_bytes: u64,
    /// What the file system answered last, if that is still true.
    looked: Option<Look>,
    /// What this transaction will take of the file system, as far as it has got.
    drafted: u64,
    /// The database file, to reserve space for it. Closed after all connections are: a closed descriptor takes the
    /// process's locks on the file along (`SQLite`, "How to corrupt", 2.2).
    file: Option<File>,
    /// How much more of the database file there is than this transaction needs; `None`: not looked at in it yet.
    reserved: Option<u64>,
    /// Whether the file system had too little room the last time an event came.
    tight: bool,
}

/// An answer of the file system.
#[derive(Clone, Copy, Debug)]
struct Look {
    when: Instant,
    /// What it had left then, in bytes.
    free: u64,
    /// What was let in since, as it counts on the disk, in bytes.
    let_in: u64,
}

/// What an event asks for room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To be delivered.
    Delivery,
    /// To be kept for an operator.
    DeadLetter,
}

/// Bytes that the file system of `path` has left for us. Waits for the file system.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let system = rustix::fs::statvfs(path)?;
    Ok(system.f_bavail.saturating_mul(system.f_frsize))
}

/// Bytes on the disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Used {
    /// Of all events.
    pub(super) all: u64,
    /// Of dead letters.
    pub(super) dead: u64,
}

/// What a start writes at most before it can make room: the shared memory of the write-ahead log, and a few pages.
pub(super) const STARTING_BYTES: u64 = 256 * 1024;

/// What an event takes of the file system until the next checkpoint: it stands in the log and in the database.
const COPIES: u64 = 2;
/// What a commit takes of the log besides its events: a page of each index and table they stand in, with the marks and the
/// outcomes that share it. Six pages with one small event.
const COMMIT: u64 = 16 * PAGE;

impl Space {
    pub(super) fn new(settings: DiskSettings) -> Self {
        let DiskSettings { path, max_bytes, max_dead_bytes, min_free_bytes } = settings;
        let file = File::options().write(true).open(path.join(DATABASE_FILE)).ok();
        Self {
            directory: path,
            max_bytes,
            max_dead_bytes,
            min_free_bytes,
            looked: None,
            drafted: 0,
            file,
            reserved: None,
            tight: false,
        }
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
        self.take_room(conn, size)
    }

    /// Whether the file system has room for `size` bytes more; what comes over from a damaged file asks for that alone.
    pub(super) fn take_room(&mut self, conn: &Connection, size: u64) -> Result<(), JobFault> {
        if let Err(full) = self.reserve(conn, size) {
            self.tight = true;
            return Err(full);
        }
        let cost = if self.drafted == 0 { COMMIT } else { 0 } + PAGE + size.saturating_mul(COPIES);
        let free = self.free_bytes(conn)?;
        self.tight = free < self.min_free_bytes;
        if self.tight {
            let limit = self.min_free_bytes;
            return Err(JobFault::Full(format!(
                "the disk has {free} bytes free, less than spool.min_free_bytes = {limit}"
            )));
        }
        self.drafted = self.drafted.saturating_add(cost);
        if let Some(look) = &mut self.looked {
            look.let_in = look.let_in.saturating_add(cost);
        }
        Ok(())
    }

    /// A transaction begins. Between two the database file may have been cut.
    pub(super) const fn begins(&mut self) {
        self.reserved = None;
        self.drafted = 0;
    }

    /// Whether there was too little room, since the last time of asking.
    pub(super) const fn was_tight(&mut self) -> bool {
        std::mem::replace(&mut self.tight, false)
    }

    /// The database file is another one from now on.
    pub(super) fn renewed(&mut self) {
        self.file = File::options().write(true).open(self.directory.join(DATABASE_FILE)).ok();
        self.looked = None;
    }

    /// Leaves the empty write-ahead log its place on the disk, so that a start finds room there however full the disk is by
    /// then. Where that cannot be had the start needs the room itself.
    pub(super) fn keep_for_a_start(&self) {
        let log = with_suffix(&self.directory.join(DATABASE_FILE), "-wal");
        let kept = File::options()
            .write(true)
            .open(log)
            .and_then(|log| Ok(rustix::fs::fallocate(log, FallocateFlags::KEEP_SIZE, 0, STARTING_BYTES)?));
        if let Err(error) = kept {
            tracing::debug!(%error, "no room could be kept for the next start");
        }
    }

    /// The file system was changed: look again.
    pub(super) const fn changed(&mut self) {
        self.looked = None;
    }

    /// Reserves what the database file has to grow by when the write-ahead log is brought into it, this event of `size`
    /// bytes included. On a full disk the log could else never be brought in, and nothing be delivered any more.
    fn reserve(&mut self, conn: &Connection, size: u64) -> Result<(), JobFault> {
        let Some(file) = &self.file else { return Ok(()) };
        let taken = size.saturating_mul(2).saturating_add(MARGIN);
        if let Some(left) = self.reserved.and_then(|reserved| reserved.checked_sub(taken)) {
            self.reserved = Some(left);
            return Ok(());
        }
        let pages: u64 = conn.prepare_cached("PRAGMA page_count")?.query_row([], |row| row.get(0))?;
        let needed = pages.saturating_mul(PAGE).saturating_add(taken);
        let mut length = file.metadata().map_or(0, |file| file.len());
        if length < needed {
            let grown = rustix::fs::fallocate(file, FallocateFlags::empty(), length, needed + STEP - length);
            if let Err(rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT) = grown {
                return Err(JobFault::Full("the disk has no room for what the write-ahead log holds".to_owned()));
            }
            // A file system that cannot reserve: nothing is promised for it.
            length = needed + STEP;
        }
        self.reserved = Some(length - needed);
        Ok(())
    }

    /// The file system's free space and the database's unused pages, less what was let in since the file system was asked.
    /// What is let in counts dearly, so whoever would be refused for it has the file system asked again.
    fn free_bytes(&mut self, conn: &Connection) -> Result<u64, JobFault> {
        if let Some(Look { when, free, let_in }) = self.looked
            && when.elapsed() < LOOK_AGAIN
            && (let_in <= self.drafted || free.saturating_sub(let_in) >= self.min_free_bytes)
        {
            return Ok(free.saturating_sub(let_in));
        }
        let system = free_bytes(&self.directory)
            .map_err(|error| JobFault::Failed(format!("the file system does not say how much is free: {error}")))?;
        let unused: u64 = conn.query_row(
            "SELECT freelist_count * page_size FROM pragma_freelist_count, pragma_page_size",
            [],
            |row| row.get(0),
        )?;
        let free = system.saturating_add(unused);
        // This transaction is in the page cache yet: the file system knows nothing of it.
        self.looked = Some(Look { when: Instant::now(), free, let_in: self.drafted });
        Ok(free.saturating_sub(self.drafted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: u64 = 1000;

    fn space(free: u64) -> (tempfile::TempDir, Connection, Space) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        let settings = DiskSettings { path, max_bytes: u64::MAX, max_dead_bytes: u64::MAX, min_free_bytes: LEAST };
        let mut space = Space::new(settings);
        space.looked = Some(Look { when: Instant::now() + LOOK_AGAIN, free, let_in: 0 });
        (folder, Connection::open_in_memory().unwrap(), space)
    }

    fn ask(conn: &Connection, space: &mut Space) -> Result<(), JobFault> {
        space.admit(conn, Used { all: 0, dead: 0 }, 400, Purpose::Delivery)
    }

    #[test]
    fn what_a_transaction_let_in_counts_against_the_free_space() {
        let first = COMMIT + PAGE + 400 * COPIES;
        let (_folder, conn, mut space) = space(LEAST + first);
        assert_eq!(ask(&conn, &mut space), Ok(()));
        assert_eq!(ask(&conn, &mut space), Ok(()), "the least is left");
        assert!(!space.was_tight());
        let refused = ask(&conn, &mut space);
        assert!(matches!(refused, Err(JobFault::Full(_))), "less is left: {refused:?}");
        assert!(space.was_tight());
        space.changed();
        assert_eq!(ask(&conn, &mut space), Ok(()), "the disk itself has more");
        assert_eq!(
            space.looked.map(|look| look.let_in),
            Some(first + 2 * (PAGE + 400 * COPIES)),
            "it does not know of these yet"
        );
    }

    #[test]
    fn the_file_system_is_asked_before_an_event_is_refused_for_what_earlier_ones_may_have_taken() {
        let (_folder, conn, mut space) = space(LEAST + 1);
        assert_eq!(ask(&conn, &mut space), Ok(()));
        space.begins();
        assert_eq!(ask(&conn, &mut space), Ok(()), "the disk itself has more");
        assert!(space.looked.is_some_and(|look| look.free > LEAST + 1));
    }
}

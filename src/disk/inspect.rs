//! A database that is only looked at: by a command, beside a gateway or without one. It takes no lock and changes
//! nothing. Each question is a read of its own, so that a writer beside it can go on emptying its log.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, params};

use super::fault::{DiskFault, JobFault, Trouble};
use super::readers::Rx;
use super::schema::{self, DATABASE_FILE, VERSION};
use super::{damage, meta};
use crate::domain::time::Timestamp;

/// Complaints of `SQLite` about a file that are told; it may have one for every page.
const COMPLAINTS: u32 = 20;

/// A gateway that writes its log may be seen with half a commit at the log's end: how often it is looked at again.
const LOOKS: u32 = 5;

/// The database, open for reading.
#[derive(Debug)]
pub struct ReadOnly {
    conn: Connection,
    directory: PathBuf,
    doubtful_through: i64,
}

/// What a record says of itself without its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Brief {
    /// Its route.
    pub route: String,
    /// When it was received.
    pub received_at: Timestamp,
    /// See `schema.rs`.
    pub state: i64,
}

/// A damaged file that was put aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its name in the spool directory.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Whether more may still be taken over from it.
    pub unsalvaged: bool,
    /// Events that were taken over.
    pub events: u64,
    /// Marks that were taken over.
    pub marks: u64,
    /// Pages of it that could not be read.
    pub unreadable_pages: u64,
}

impl ReadOnly {
    /// Opens the database in the spool directory `path`.
    pub fn open(path: &Path) -> Result<Self, DiskFault> {
        let file = path.join(DATABASE_FILE);
        let opened = schema::open_reader(&file).and_then(|conn| {
            let version: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
            let doubtful_through = if version > VERSION { 0 } else { meta::doubtful_through(&conn)? };
            Ok((conn, version, doubtful_through))
        });
        match opened {
            Ok((_, found, _)) if found > VERSION => Err(DiskFault::TooNew { path: file, found, known: VERSION }),
            Ok((conn, _, doubtful_through)) => Ok(Self { conn, directory: path.to_owned(), doubtful_through }),
            Err(error) if Trouble::of_file(&error) == Trouble::Damage => {
                Err(DiskFault::Damaged { path: file, error: error.to_string() })
            }
            Err(error) => Err(DiskFault::Database { what: "read", path: file, error: error.to_string() }),
        }
    }

    /// Reads.
    pub fn read<T>(&self, work: impl FnOnce(&Rx<'_>) -> Result<T, JobFault>) -> Result<T, JobFault> {
        work(&Rx { conn: &self.conn })
    }

    /// As [`super::Disk::doubtful_through`].
    #[must_use]
    pub const fn doubtful_through(&self) -> i64 {
        self.doubtful_through
    }

    /// The database, its companions and what was put aside of it: names and lengths in bytes.
    pub fn files(&self) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(DATABASE_FILE) {
                files.push((name, entry.metadata()?.len()));
            }
        }
        files.sort();
        Ok(files)
    }

    /// Damaged files that were put aside, and what became of them.
    pub fn kept(&self) -> io::Result<Vec<Kept>> {
        let files = self.files()?;
        let open = |name: &str| files.iter().any(|(other, _)| other.strip_prefix(name) == Some(damage::UNSALVAGED));
        let is_kept = |name: &str| name.contains(damage::ASIDE) && name.ends_with(|last: char| last.is_ascii_digit());
        let kept = files.iter().filter(|(name, _)| is_kept(name)).map(|(name, bytes)| {
            let progress = meta::progress(&self.conn, name).unwrap_or_default();
            let (events, marks, unreadable_pages) = (progress.events, progress.marks, progress.unreadable);
            Kept { name: name.clone(), bytes: *bytes, unsalvaged: open(name), events, marks, unreadable_pages }
        });
        Ok(kept.collect())
    }

    /// Commits that stand in the write-ahead log behind damage, where `SQLite` does not see them.
    pub fn lost_commits(&self) -> io::Result<u64> {
        let log = damage::with_suffix(&self.directory.join(DATABASE_FILE), "-wal");
        let mut lost = 0;
        for _ in 0..LOOKS {
            lost = match damage::lost_commits(&log) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
                counted => counted?,
            };
            if lost == 0 {
                break;
            }
        }
        Ok(lost)
    }
}

impl Rx<'_> {
    /// Names of records behind `after`, in their order. Read from an index, so that a damaged record has one too.
    pub fn names(&self, after: Option<[u8; 16]>, limit: usize) -> Result<Vec<[u8; 16]>, JobFault> {
        let mut query =
            self.conn.prepare_cached("SELECT id FROM events INDEXED BY events_id WHERE id > ?1 ORDER BY id")?;
        let after = after.map_or_else(Vec::new, |id| id.to_vec());
        let names = query.query_map(params![after], |row| row.get(0))?;
        Ok(names.take(limit).collect::<Result<_, _>>()?)
    }

    /// What one record says of itself.
    pub fn brief(&self, id: [u8; 16]) -> Result<Option<Brief>, JobFault> {
        let mut query = self.conn.prepare_cached("SELECT route, received_at, state FROM events WHERE id = ?1")?;
        let brief = query.query_row(params![id], |row| {
            let received_at = Timestamp::from_millis(row.get(1)?);
            Ok(Brief { route: row.get(0)?, received_at, state: row.get(2)? })
        });
        Ok(brief.optional()?)
    }

    /// What `SQLite` has to complain about the file's pages: nothing, if it is sound. Reads all of it.
    pub fn complaints(&self) -> Result<Vec<String>, JobFault> {
        let mut query = self.conn.prepare(&format!("PRAGMA quick_check({COMPLAINTS})"))?;
        let mut complaints = query.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
        complaints.retain(|text| text != "ok");
        Ok(complaints)
    }
}

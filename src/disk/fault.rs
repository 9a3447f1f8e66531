//! What can go wrong on the disk, in two vocabularies: why it cannot be opened, and why one job was not done.
//! It decides nothing about what follows.

use std::path::PathBuf;

use rusqlite::ErrorCode;

/// Why the spool directory cannot be used. The operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum DiskFault {
    /// Another process has it.
    #[error("the spool {} is held by {holder}: stop that process or give this one another spool.path", path.display())]
    Locked {
        /// The spool directory.
        path: PathBuf,
        /// `process 4711`, or words for a process that left no number.
        holder: String,
    },
    /// The file system did not let us.
    #[error("cannot {what} {}: {error}", path.display())]
    Io {
        /// What was tried: `create`, `lock`, …
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The database did not let us, and not because it is damaged.
    #[error("cannot {what} the database {}: {error}", path.display())]
    Database {
        /// What was tried.
        what: &'static str,
        /// The database file.
        path: PathBuf,
        /// What `SQLite` said.
        error: String,
    },
    /// The file system is full, and the little that a start writes finds no room.
    #[error("the disk that holds {} is full, {free} bytes are free: make room there for some MiB and start again; what the spool holds is untouched ({error})", path.display())]
    NoRoom {
        /// The database file.
        path: PathBuf,
        /// Bytes free.
        free: u64,
        /// What `SQLite` said.
        error: String,
    },
    /// The database is not what was written.
    #[error("the database {} is damaged: {error}", path.display())]
    Damaged {
        /// The database file.
        path: PathBuf,
        /// What `SQLite` said.
        error: String,
    },
    /// A newer version wrote the file.
    #[error("the database {} has schema version {found}, this program knows up to {known}: use the newer program", path.display())]
    TooNew {
        /// The database file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// Ours.
        known: i64,
    },
}

/// Why a job was not done. Whatever it says, nothing of the job is on disk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobFault {
    /// There is no room: `spool.max_bytes`, `spool.min_free_bytes`, or the disk itself.
    #[error("{0}")]
    Full(String),
    /// What was to be read is not what was written.
    #[error("{0}")]
    Damaged(String),
    /// The disk did not do it, or not in time.
    #[error("{0}")]
    Failed(String),
}

impl JobFault {
    pub(super) fn of(error: &rusqlite::Error) -> Self {
        let text = error.to_string();
        match Trouble::of(error) {
            Trouble::NoRoom => Self::Full(format!("the disk is full: {text}")),
            Trouble::Damage => Self::Damaged(format!("the database is damaged: {text}")),
            Trouble::Busy => Self::Failed(format!("the database is locked by another program: {text}")),
            Trouble::Medium => Self::Failed(format!("the disk failed: {text}")),
        }
    }
}

impl From<rusqlite::Error> for JobFault {
    fn from(error: rusqlite::Error) -> Self {
        Self::of(&error)
    }
}

/// What kind of trouble an error of `SQLite` is: it decides whether the connection can go on being used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// No space left: the connection is fine.
    NoRoom,
    /// Another program holds a lock: the connection is fine.
    Busy,
    /// The file's content is not what was written.
    Damage,
    /// Anything else: what the connection believes is not to be trusted.
    Medium,
}

impl Trouble {
    pub(super) fn of(error: &rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::NoRoom,
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damage,
            None if is_of_another_type(error) => Self::Damage,
            Some(_) | None => Self::Medium,
        }
    }

    /// The same of an error that came while a file was opened.
    pub(super) fn of_file(error: &rusqlite::Error) -> Self {
        match Self::of(error) {
            // A table or column that is not there although the version says so.
            Self::Medium if error.to_string().contains("no such ") => Self::Damage,
            trouble @ (Self::NoRoom | Self::Busy | Self::Damage | Self::Medium) => trouble,
        }
    }
}

/// Whether a value was read that is not of the type or range that was written.
const fn is_of_another_type(error: &rusqlite::Error) -> bool {
    use rusqlite::Error as E;
    matches!(
        error,
        E::FromSqlConversionFailure(..) | E::IntegralValueOutOfRange(..) | E::InvalidColumnType(..) | E::Utf8Error(..)
    )
}

//! The lock that keeps two processes from one spool. It is advisory and ends with the process, however that ends. Its file
//! says who has it; and, after a clean stop, which stop that was: a copy of the database that is put back knows of another.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::fault::DiskFault;

/// The lock file's name in the spool directory.
pub(super) const LOCK_FILE: &str = "hookgate.lock";

/// How long a lock is waited for: a process that is being killed has it until its last file is closed.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often it is tried meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Held as long as the value lives.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    /// The stop that the last holder noted.
    pub(super) last_stop: Option<String>,
}

impl Lock {
    /// Takes the lock of `directory`, or says who has it. Blocks for [`PATIENCE`] at most, for the start.
    pub(super) fn take(directory: &Path) -> Result<Self, DiskFault> {
        let path = directory.join(LOCK_FILE);
        let io = |what| {
            let path = path.clone();
            move |error| DiskFault::Io { what, path, error }
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io("open"))?;
        let until = Instant::now() + PATIENCE;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < until => std::thread::park_timeout(LOOK_AGAIN),
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(DiskFault::Locked { path: directory.to_owned(), holder: holder(&mut file) });
                }
                Err(error) => return Err(io("lock")(error.into())),
            }
        }
        let last_stop = read(&mut file).lines().nth(1).map(str::to_owned);
        // A start that fails from here on takes nothing from what the next one has to know.
        let noted = last_stop.as_ref().map_or_else(String::new, |stop| format!("{stop}\n"));
        match note(&mut file, &format!("{}\n{noted}", std::process::id())) {
            // The number is for people. It takes no room that it did not have, but in a new file.
            Err(error) if error.kind() == ErrorKind::StorageFull => {}
            noted => noted.map_err(io("write"))?,
        }
        Ok(Self { file, last_stop })
    }

    /// A run has begun: the database does not count as stopped any more, and what it was called when it was is nobody's name.
    pub(super) fn note_run(&mut self) -> std::io::Result<()> {
        match note(&mut self.file, &format!("{}\n", std::process::id())) {
            // It is new, and says nothing.
            Err(error) if error.kind() == ErrorKind::StorageFull => Ok(()),
            noted => noted,
        }
    }

    /// Notes a clean stop by the name that the database has for it. Where that fails the next start takes the database for a copy,
    /// and flags what waits.
    pub(super) fn note_stop(&mut self, stop: &str) -> std::io::Result<()> {
        note(&mut self.file, &format!("{}\n{stop}\n", std::process::id()))?;
        self.file.sync_data()
    }
}

/// Writes a text over what is there.
fn note(file: &mut File, text: &str) -> std::io::Result<()> {
    file.seek(SeekFrom::Start(0))?;
    file.write_all(text.as_bytes())?;
    file.set_len(u64::try_from(text.len()).unwrap_or(u64::MAX))
}

/// What is there, as far as it is text of ours.
fn read(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.take(128).read_to_string(&mut text));
    if read.is_ok() { text } else { String::new() }
}

fn holder(file: &mut File) -> String {
    let pid = read(file).lines().next().and_then(|line| line.parse::<u32>().ok());
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

//! The lock that keeps two processes from one spool. It is advisory and ends with the process, however that ends.

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
    _file: File,
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
        match note(&mut file) {
            // The number is for people. It takes no room that it did not have, but in a new file.
            Err(error) if error.kind() == ErrorKind::StorageFull => {}
            noted => noted.map_err(io("write"))?,
        }
        Ok(Self { _file: file })
    }
}

/// Writes the process's number over that of the last one.
fn note(file: &mut File) -> std::io::Result<()> {
    let text = format!("{}\n", std::process::id());
    file.write_all(text.as_bytes())?;
    file.set_len(u64::try_from(text.len()).unwrap_or(u64::MAX))
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.take(32).read_to_string(&mut text));
    match (read, text.trim().parse::<u32>()) {
        (Ok(_), Ok(pid)) => format!("process {pid}"),
        (Ok(_) | Err(_), _) => "another process".to_owned(),
    }
}

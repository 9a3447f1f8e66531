//! A damaged file: found, named, put aside, and as much of it saved as can be read. It never deletes anything.
//!
//! The write-ahead log (<https://sqlite.org/fileformat2.html#walformat>): 32 bytes of header (magic, version, page
//! size, sequence, two salts, two checksum words), then frames of a 24-byte header (page number, size of the database
//! after a commit or 0, the two salts, two checksum words) and a page. The checksum runs on from frame to frame.
//! `SQLite` silently ends at the first frame that does not fit: commits behind it are gone. Here they are counted.

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::fault::DiskFault;
use super::schema;
use crate::domain::time::Timestamp;

const LOG_HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

/// Whether commits in the write-ahead log are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogLost {
    Yes,
    No,
}

/// What came over from a damaged file.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Salvaged {
    pub(super) events: u64,
    pub(super) unreadable: u64,
    pub(super) marks: usize,
}

/// Looks at the write-ahead log before `SQLite` does. A damaged one is copied aside, for `SQLite` writes over it.
pub(super) fn check_log(file: &Path, now: Timestamp, damaged: &dyn Fn(&str)) -> Result<LogLost, DiskFault> {
    let log = with_suffix(file, "-wal");
    let length = |path: &Path| fs::metadata(path).map_or(0, |meta| meta.len());
    if length(&log) == 0 {
        return Ok(LogLost::No);
    }
    let io = |what| {
        let path = log.clone();
        move |error| DiskFault::Io { what, path, error }
    };
    let lost = if length(file) == 0 {
        // `SQLite` would delete it.
        "the database is empty although its write-ahead log is not".to_owned()
    } else {
        match lost_commits(&log).map_err(io("read"))? {
            0 => return Ok(LogLost::No),
            lost => format!("the write-ahead log is damaged and up to {lost} commits behind the damage are lost"),
        }
    };
    let aside = with_suffix(&log, &format!(".damaged-{}", now.millis()));
    fs::copy(&log, &aside).map_err(io("copy"))?;
    damaged(&format!("{lost}; a copy of the log is {}", aside.display()));
    Ok(LogLost::Yes)
}

/// Whether the database is sound; takes time, and is done only after damage was seen.
pub(super) fn check_database(conn: &Connection) -> Result<(), String> {
    let answer = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
    match answer {
        Ok(text) if text == "ok" => Ok(()),
        Ok(text) => Err(text),
        Err(error) => Err(error.to_string()),
    }
}

/// Renames the file and its log, so that they can still be opened together. Yields the new name.
pub(super) fn put_aside(file: &Path, now: Timestamp) -> Result<PathBuf, DiskFault> {
    let aside = with_suffix(file, &format!(".damaged-{}", now.millis()));
    for suffix in ["", "-wal"] {
        let (from, to) = (with_suffix(file, suffix), with_suffix(&aside, suffix));
        if from.exists() {
            fs::rename(&from, &to).map_err(|error| DiskFault::Io { what: "rename", path: from, error })?;
        }
    }
    let shared = with_suffix(file, "-shm");
    if shared.exists() {
        fs::remove_file(&shared).map_err(|error| DiskFault::Io { what: "remove", path: shared, error })?;
    }
    Ok(aside)
}

/// Copies what can be read of `damaged` into the fresh `file`: events one by one, from both ends towards the damage.
pub(super) fn salvage(damaged: &Path, file: &Path) -> rusqlite::Result<Salvaged> {
    let (conn, _) = schema::open_writer(file)?;
    let mut salvaged = Salvaged::default();
    // The last run cannot be asked any more how it ended.
    conn.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('run', 'damaged')", [])?;
    if conn.execute("ATTACH ?1 AS damaged", [damaged.to_string_lossy()]).is_err() {
        return Ok(salvaged);
    }
    for seq in readable(&conn) {
        match conn.unchecked_transaction().and_then(|tx| {
            tx.execute("INSERT INTO main.payloads SELECT * FROM damaged.payloads WHERE seq = ?1", [seq])?;
            tx.execute("INSERT INTO main.events SELECT * FROM damaged.events WHERE seq = ?1", [seq])?;
            tx.commit()
        }) {
            Ok(()) => salvaged.events += 1,
            Err(error) => {
                salvaged.unreadable += 1;
                tracing::error!(seq, %error, "an event of the damaged database cannot be read");
            }
        }
    }
    salvaged.marks = conn.execute("INSERT OR IGNORE INTO main.marks SELECT * FROM damaged.marks", []).unwrap_or(0);
    Ok(salvaged)
}

/// Sequence numbers of events, from the front until the damage and from the back until the damage.
fn readable(conn: &Connection) -> Vec<i64> {
    let mut found = std::collections::BTreeSet::new();
    for order in ["ASC", "DESC"] {
        let scan = (|| {
            let mut query =
                conn.prepare(&format!("SELECT seq FROM damaged.events NOT INDEXED ORDER BY seq {order}"))?;
            let mut rows = query.query([])?;
            while let Some(row) = rows.next()? {
                found.insert(row.get::<_, i64>(0)?);
            }
            Ok::<_, rusqlite::Error>(())
        })();
        match scan {
            Ok(()) => break,
            Err(error) => tracing::error!(%error, "the damaged database cannot be read to its end"),
        }
    }
    found.into_iter().collect()
}

/// Commits that stand in the log behind its first bad frame.
pub(super) fn lost_commits(log: &Path) -> std::io::Result<u64> {
    let mut reader = BufReader::with_capacity(1 << 20, File::open(log)?);
    let mut header = [0; LOG_HEADER];
    if reader.read_exact(&mut header).is_err() {
        return Ok(0);
    }
    let Some(mut state) = Checksum::start(&header) else { return count_frames(&mut reader) };
    let salts = slice(&header, 16, 8).to_vec();
    let mut frame = vec![0; FRAME_HEADER + state.page];
    let (mut sound, mut lost) = (true, 0);
    while reader.read_exact(&mut frame).is_ok() {
        let ours = slice(&frame, 8, 8) == salts;
        sound = sound && ours && state.fits(&frame);
        if !sound && ours && word(&frame, 4) != 0 {
            lost += 1;
        }
    }
    Ok(lost)
}

/// Without a header nothing tells which frames were commits: all that follows is lost, if anything does.
fn count_frames(reader: &mut impl Read) -> std::io::Result<u64> {
    let bytes = std::io::copy(reader, &mut std::io::sink())?;
    Ok(bytes.div_ceil(4096 + 24))
}

/// The running checksum of a write-ahead log.
struct Checksum {
    big_endian: bool,
    page: usize,
    sums: (u32, u32),
}

impl Checksum {
    /// `None` if the header itself does not fit.
    fn start(header: &[u8; LOG_HEADER]) -> Option<Self> {
        let big_endian = match word(header, 0) {
            0x377f_0682 => false,
            0x377f_0683 => true,
            _ => return None,
        };
        let page = usize::try_from(word(header, 8)).ok().filter(|page| (512..=65_536).contains(page))?;
        let mut start = Self { big_endian, page, sums: (0, 0) };
        start.add(slice(header, 0, 24));
        (start.sums == (word(header, 24), word(header, 28))).then_some(start)
    }

    fn fits(&mut self, frame: &[u8]) -> bool {
        self.add(slice(frame, 0, 8));
        self.add(slice(frame, FRAME_HEADER, self.page));
        self.sums == (word(frame, 16), word(frame, 20))
    }

    fn add(&mut self, bytes: &[u8]) {
        for pair in bytes.chunks_exact(8) {
            let number = |at| if self.big_endian { word(pair, at) } else { word(pair, at).swap_bytes() };
            let (first, second) = (number(0), number(4));
            self.sums.0 = self.sums.0.wrapping_add(first).wrapping_add(self.sums.1);
            self.sums.1 = self.sums.1.wrapping_add(second).wrapping_add(self.sums.0);
        }
    }
}

fn slice(bytes: &[u8], at: usize, length: usize) -> &[u8] {
    bytes.get(at..at.saturating_add(length)).unwrap_or_default()
}

/// Four bytes, the most significant first; zero past the end.
fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(slice(bytes, at, 4).try_into().unwrap_or_default())
}

/// `file` with something behind its name.
pub(super) fn with_suffix(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

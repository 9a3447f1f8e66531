//! A damaged file: found, named, put aside. It never deletes anything; what can be read of the file is `salvage.rs`'s.
//!
//! The write-ahead log (<https://sqlite.org/fileformat2.html#walformat>): 32 bytes of header (magic, version, page
//! size, sequence, two salts, two checksum words), then frames of a 24-byte header (page number, size of the database
//! after a commit or 0, the two salts, two checksum words) and a page. The checksum runs on from frame to frame.
//! `SQLite` silently ends at the first frame that does not fit: commits behind it are gone. Here they are counted.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::fault::DiskFault;
use crate::domain::time::Timestamp;

const LOG_HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

/// Whether commits in the write-ahead log are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogLost {
    Yes,
    No,
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

/// What is wrong with the database, if anything is. Reads all of it; done only after damage was seen.
pub(super) fn complaint(conn: &Connection) -> Option<String> {
    let answer = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
    match answer {
        Ok(text) if text == "ok" => None,
        Ok(text) => Some(text),
        Err(error) => Some(error.to_string()),
    }
}

/// What the names of damaged files that are kept have in them.
pub(super) const ASIDE: &str = ".damaged-";
/// Behind the name of a damaged file: what can be read of it has not all been taken over yet.
pub(super) const UNSALVAGED: &str = ".unsalvaged";

/// Renames the file and its log, so that they can still be read together, and leaves word that they are to be salvaged.
/// Yields the new name. A crash at any moment leaves what [`finish`] ends.
pub(super) fn put_aside(file: &Path, now: Timestamp) -> Result<PathBuf, DiskFault> {
    let aside = with_suffix(file, &format!("{ASIDE}{}", now.millis()));
    let word = with_suffix(&aside, UNSALVAGED);
    File::create(&word).map_err(|error| DiskFault::Io { what: "create", path: word, error })?;
    sync_directory(file)?;
    rename(file, &aside)?;
    Ok(aside)
}

/// The log first: as long as the database has its old name, nothing takes its place.
fn rename(file: &Path, aside: &Path) -> Result<(), DiskFault> {
    let shared = with_suffix(file, "-shm");
    if shared.exists() {
        fs::remove_file(&shared).map_err(|error| DiskFault::Io { what: "remove", path: shared, error })?;
    }
    for suffix in ["-wal", ""] {
        let (from, to) = (with_suffix(file, suffix), with_suffix(aside, suffix));
        if from.exists() {
            fs::rename(&from, &to).map_err(|error| DiskFault::Io { what: "rename", path: from, error })?;
        }
    }
    sync_directory(file)
}

/// Ends what a crash interrupted: a database whose log was put aside already, and word of one that was not.
pub(super) fn finish(file: &Path) -> Result<(), DiskFault> {
    for aside in unsalvaged(file) {
        if !aside.exists() && with_suffix(&aside, "-wal").exists() {
            rename(file, &aside)?;
        } else if !aside.exists() {
            salvaged(&aside)?;
        }
    }
    Ok(())
}

/// Damaged files that wait to be salvaged, the oldest first.
pub(super) fn unsalvaged(file: &Path) -> Vec<PathBuf> {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let (directory, ours) = (file.parent().unwrap_or(file), name(file) + ASIDE);
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let words = entries.map(|entry| name(&entry.path())).filter(|name| name.starts_with(&ours));
    let mut found: Vec<PathBuf> =
        words.filter_map(|name| Some(directory.join(name.strip_suffix(UNSALVAGED)?))).collect();
    found.sort();
    found
}

/// Takes the word back.
pub(super) fn salvaged(aside: &Path) -> Result<(), DiskFault> {
    let word = with_suffix(aside, UNSALVAGED);
    fs::remove_file(&word).map_err(|error| DiskFault::Io { what: "remove", path: word, error })
}

fn sync_directory(file: &Path) -> Result<(), DiskFault> {
    let directory = file.parent().unwrap_or(file);
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(|error| DiskFault::Io { what: "sync", path: directory.to_owned(), error })
}

/// Where in a write-ahead log the newest committed content of pages stands.
#[derive(Debug, Default)]
pub(super) struct NewerPages {
    /// By page, counted from 1: where its content begins.
    pub(super) places: HashMap<u32, u64>,
    /// Pages of the database after the last commit.
    pub(super) pages: Option<u32>,
}

/// Reads a write-ahead log as `SQLite` does: up to its last commit that counts.
pub(super) fn newer_pages(log: &Path) -> std::io::Result<NewerPages> {
    let mut reader = BufReader::with_capacity(1 << 20, File::open(log)?);
    let mut newer = NewerPages::default();
    let mut header = [0; LOG_HEADER];
    if reader.read_exact(&mut header).is_err() {
        return Ok(newer);
    }
    let Some(mut state) = Checksum::start(&header) else { return Ok(newer) };
    let mut frame = vec![0; FRAME_HEADER + state.page];
    let mut at = LOG_HEADER;
    let mut uncommitted = Vec::new();
    while reader.read_exact(&mut frame).is_ok() && slice(&frame, 8, 8) == slice(&header, 16, 8) && state.fits(&frame) {
        uncommitted.push((word(&frame, 0), u64::try_from(at + FRAME_HEADER).unwrap_or(u64::MAX)));
        at += frame.len();
        if word(&frame, 4) != 0 {
            newer.places.extend(uncommitted.drain(..));
            newer.pages = Some(word(&frame, 4));
        }
    }
    Ok(newer)
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

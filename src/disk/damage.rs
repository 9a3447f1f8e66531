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
            lost => format!("the write-ahead log is damaged and up to {lost} commits from the damage on are lost"),
        }
    };
    let aside = with_suffix(&log, &format!(".damaged-{}", now.millis()));
    fs::copy(&log, &aside).map_err(|error| {
        // Half of it would be made again at each start, and take what room there is.
        let _gone = fs::remove_file(&aside);
        io("copy")(error)
    })?;
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
    let aside = name_aside(file, now);
    put_aside_as(file, &aside)?;
    Ok(aside)
}

/// What a file that is put aside now is called.
pub(super) fn name_aside(file: &Path, now: Timestamp) -> PathBuf {
    with_suffix(file, &format!("{ASIDE}{}", now.millis()))
}

/// The same under a name that is known.
pub(super) fn put_aside_as(file: &Path, aside: &Path) -> Result<(), DiskFault> {
    let word = with_suffix(aside, UNSALVAGED);
    File::create(&word).map_err(|error| DiskFault::Io { what: "create", path: word, error })?;
    sync_directory(file)?;
    rename(file, aside)
}

/// The log first: as long as the database has its old name, nothing takes its place.
fn rename(file: &Path, aside: &Path) -> Result<(), DiskFault> {
    let shared = with_suffix(file, "-shm");
    if shared.exists() {
        fs::remove_file(&shared).map_err(|error| DiskFault::Io { what: "remove", path: shared, error })?;
    }
    for suffix in ["-wal", ""] {
        let (from, to) = (with_suffix(file, suffix), with_suffix(aside, suffix));
        // A log that is there already is the damaged file's: one that came about since, for somebody looked into the file meanwhile,
        // is nothing beside it.
        if from.exists() && !to.exists() {
            fs::rename(&from, &to).map_err(|error| DiskFault::Io { what: "rename", path: from, error })?;
        }
    }
    sync_directory(file)
}

/// Whether the database or its log has left its place for the damaged file `aside`.
pub(super) fn has_moved(file: &Path, aside: &Path) -> bool {
    !file.exists() || (!aside.exists() && with_suffix(aside, "-wal").exists())
}

/// Ends what a crash interrupted: a database whose log was put aside already, and word of one that was not.
pub(super) fn finish(file: &Path) -> Result<(), DiskFault> {
    for aside in unsalvaged(file)? {
        if !aside.exists() && with_suffix(&aside, "-wal").exists() {
            rename(file, &aside)?;
        } else if !aside.exists() {
            salvaged(&aside)?;
        }
    }
    Ok(())
}

/// Damaged files that wait to be salvaged, the oldest first.
pub(super) fn unsalvaged(file: &Path) -> Result<Vec<PathBuf>, DiskFault> {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let (directory, ours) = (file.parent().unwrap_or(file), name(file) + ASIDE);
    let entries = fs::read_dir(directory).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let entries = entries.map_err(|error| DiskFault::Io { what: "list", path: directory.to_owned(), error })?;
    let words = entries.iter().map(|entry| name(&entry.path())).filter(|name| name.starts_with(&ours));
    let mut found: Vec<PathBuf> =
        words.filter_map(|name| Some(directory.join(name.strip_suffix(UNSALVAGED)?))).collect();
    found.sort();
    Ok(found)
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

/// Commits that stand in the log behind its first bad frame; one, where there only stands what nobody can have written.
pub(super) fn lost_commits(log: &Path) -> std::io::Result<u64> {
    let mut reader = BufReader::with_capacity(1 << 20, File::open(log)?);
    let mut header = [0; LOG_HEADER];
    if reader.read_exact(&mut header).is_err() {
        return Ok(0);
    }
    let Some(mut state) = Checksum::start(&header) else { return count_frames(&mut reader) };
    let mut frame = vec![0; FRAME_HEADER + state.page];
    let (mut sound, mut lost, mut unwritten) = (true, 0, false);
    while reader.read_exact(&mut frame).is_ok() {
        let writer = Writer::of(&frame, &header);
        sound = sound && writer == Writer::ThisLog && state.fits(&frame);
        match writer {
            Writer::ThisLog if !sound && word(&frame, 4) != 0 => lost += 1,
            Writer::ThisLog | Writer::OlderLog | Writer::Nobody => {}
            Writer::Damage => unwritten = true,
        }
    }
    Ok(if unwritten { lost.max(1) } else { lost })
}

/// Who wrote a frame, by its salts. Whenever `SQLite` begins the log anew it adds one to the first and draws the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writer {
    ThisLog,
    /// The log before, or one before that: the frame is left over.
    OlderLog,
    /// A file grew, and a power cut came before what was to stand there.
    Nobody,
    Damage,
}

/// The most times that a log is begun anew before nothing of it can be left: half a year, once a second.
const OLDER_LOGS: u32 = 1 << 24;

impl Writer {
    fn of(frame: &[u8], log: &[u8; LOG_HEADER]) -> Self {
        let (age, drawn_here) = (word(log, 16).wrapping_sub(word(frame, 8)), word(log, 20) == word(frame, 12));
        match age {
            0 if drawn_here => Self::ThisLog,
            1..=OLDER_LOGS if !drawn_here => Self::OlderLog,
            _ if slice(frame, 0, FRAME_HEADER).iter().all(|byte| *byte == 0) => Self::Nobody,
            _ => Self::Damage,
        }
    }
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::disk::schema::{Emptied, restart_log};

    const FRAME: u64 = 24 + 4096;

    /// A database whose log was begun anew as often as said, and has this many commits since. The log of before was longer.
    fn database(directory: &Path, begun_anew: u32, commits: u32) -> (Connection, PathBuf) {
        let file = directory.join("a.db");
        let conn = Connection::open(&file).unwrap();
        conn.execute_batch("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; CREATE TABLE t (n)").unwrap();
        let commit =
            |times| (0..times).for_each(|_| assert_eq!(conn.execute("INSERT INTO t VALUES (1)", []).unwrap(), 1));
        for _ in 0..begun_anew {
            commit(commits + 5);
            restart_log(&conn).unwrap();
        }
        commit(commits);
        (conn, with_suffix(&file, "-wal"))
    }

    fn change(log: &Path, at: u64, with: impl Fn(u8) -> u8, bytes: usize) {
        let file = File::options().read(true).write(true).open(log).unwrap();
        let mut piece = vec![0; bytes];
        file.read_exact_at(&mut piece, at).unwrap();
        let piece: Vec<u8> = piece.into_iter().map(with).collect();
        file.write_all_at(&piece, at).unwrap();
    }

    #[test]
    fn a_log_that_was_put_aside_is_not_written_over_by_one_that_came_about_since() {
        let directory = tempfile::tempdir().unwrap();
        let (conn, log) = database(directory.path(), 0, 20);
        let file = directory.path().join("a.db");
        conn.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
        drop(conn);
        let aside = name_aside(&file, Timestamp::from_millis(7));
        File::create(with_suffix(&aside, UNSALVAGED)).unwrap();
        // As far as it came when the disk failed; then somebody looked into the file.
        fs::rename(&log, with_suffix(&aside, "-wal")).unwrap();
        let kept = fs::metadata(with_suffix(&aside, "-wal")).unwrap().len();
        File::create(&log).unwrap();
        finish(&file).unwrap();
        assert!(aside.exists() && kept > FRAME);
        assert_eq!(fs::metadata(with_suffix(&aside, "-wal")).unwrap().len(), kept);
        assert_eq!(unsalvaged(&file).unwrap(), [aside]);
    }

    #[test]
    fn what_is_left_of_a_log_that_another_connection_began_anew_is_no_damage() {
        let directory = tempfile::tempdir().unwrap();
        let (conn, log) = database(directory.path(), 0, 20);
        for _ in 0..3 {
            let keeper = Connection::open(directory.path().join("a.db")).unwrap();
            keeper.execute_batch("PRAGMA wal_autocheckpoint = 0").unwrap();
            assert_eq!(restart_log(&keeper).unwrap(), Emptied::Yes);
            drop(keeper);
            conn.execute("INSERT INTO t VALUES (1)", []).unwrap();
            let frames = (fs::metadata(&log).unwrap().len() - 32) / FRAME;
            assert!(frames >= 20, "{frames} frames: something is left over");
            assert_eq!(lost_commits(&log).unwrap(), 0);
        }
    }

    #[test]
    fn what_older_logs_left_behind_is_no_damage() {
        for begun_anew in [1, 2, 40] {
            let directory = tempfile::tempdir().unwrap();
            let (_conn, log) = database(directory.path(), begun_anew, 3);
            let frames = (fs::metadata(&log).unwrap().len() - 32) / FRAME;
            assert!(frames >= 8, "{frames} frames: something is left over");
            assert_eq!(lost_commits(&log).unwrap(), 0, "begun anew {begun_anew} times");
        }
    }

    #[test]
    fn a_log_that_grew_and_was_not_written_or_was_written_in_part_is_no_damage() {
        let directory = tempfile::tempdir().unwrap();
        let (_conn, log) = database(directory.path(), 0, 3);
        let length = fs::metadata(&log).unwrap().len();
        File::options().write(true).open(&log).unwrap().set_len(length + 2 * FRAME + 100).unwrap();
        assert_eq!(lost_commits(&log).unwrap(), 0);
        // The first frame of a commit of several; the rest of it did not come.
        let mut half = fs::read(&log).unwrap();
        let first = usize::try_from(length - FRAME).unwrap();
        half.truncate(first + usize::try_from(FRAME).unwrap());
        half.extend_from_within(first..);
        let second = first + usize::try_from(FRAME).unwrap();
        half[second + 4..second + 8].fill(0);
        fs::write(&log, half).unwrap();
        assert_eq!(lost_commits(&log).unwrap(), 0);
    }

    #[test]
    fn damage_on_any_byte_of_the_last_frame_is_heard() {
        for begun_anew in [0, 1] {
            let directory = tempfile::tempdir().unwrap();
            let (_conn, log) = database(directory.path(), begun_anew, 3);
            let sound = fs::read(&log).unwrap();
            // Behind a log that was begun anew the last commit is not the last frame.
            let last = if begun_anew == 0 { u64::try_from(sound.len()).unwrap() - FRAME } else { 32 + 2 * FRAME };
            assert!(word(&sound, usize::try_from(last).unwrap() + 4) != 0, "a commit");
            for at in (0..24).chain([24, 2000, 4119]) {
                change(&log, last + at, |byte| byte ^ 0x40, 1);
                assert_eq!(lost_commits(&log).unwrap(), 1, "byte {at}, begun anew {begun_anew} times");
                fs::write(&log, &sound).unwrap();
            }
            // All of the header, and both sides of it.
            change(&log, last - 8, |byte| byte.wrapping_mul(77).wrapping_add(5), 48);
            assert!(lost_commits(&log).unwrap() >= 1);
        }
    }
}

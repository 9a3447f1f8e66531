//! What is left of a damaged database, read page by page without `SQLite`: it needs no header, no root and no index, only
//! the pages that hold rows. It judges no row: a record's SHA-256 does when it is loaded.
//!
//! The file (<https://sqlite.org/fileformat2.html>): pages of 4 KiB. A page with rows begins with its kind (13: rows of a
//! table; 10 and 2: entries of an index, which is what a table without row numbers is), the count of its cells in two
//! bytes at 3, and behind its header of 8 (kind 2: 12) bytes the places of the cells. A cell: its length and, in a
//! table, its row number as variable integers; then the record, of which what does not fit stands in a chain of
//! overflow pages. A record: the length of its header, a type per column, the columns.
//!
//! Page 2 and each 820th after it say of the pages behind them what they are (`auto_vacuum`): what is unused there keeps
//! rows that were deleted, so it is passed over. A page that stands whole in the write-ahead log, up to its last commit
//! that counts, is newer than the file's.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rusqlite::types::Value;

use super::damage::{self, NewerPages};
use super::packed::{self, Entry};

const PAGE: usize = 4096;
const PAGE_BYTES: u64 = 4096;
/// Pages that one page of the map speaks of, five bytes each.
const MAPPED: u32 = 819;
/// The page that `SQLite` locks bytes of and never writes.
const LOCK_PAGE: u32 = 262_145;

/// Columns as `schema.rs` has them: blob, integer, text, null; capitals may be null too.
const EVENT: &str = "nbtbiiiiiiTtiITTiibb";
const PAYLOAD: &str = "ntttbb";
const MARK: &str = "bbtii";
const MARKS: &str = "nb";

/// A row that was found.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Row {
    /// `seq` and the columns of `events`.
    Event(i64, Vec<Value>),
    /// `seq` and the columns of `payloads`.
    Payload(i64, Vec<Value>),
    /// The columns of `marks`.
    Mark(Vec<Value>),
    /// A row of `mark_batches` or `mark_chunks`.
    Marks(Vec<Entry>),
}

impl Row {
    /// Bytes it takes in memory and on disk, about.
    pub(super) fn weight(&self) -> usize {
        let values = match self {
            Self::Event(_, values) | Self::Payload(_, values) | Self::Mark(values) => values,
            Self::Marks(marks) => return marks.len() * packed::BYTES + 64,
        };
        let of = |value: &Value| match value {
            Value::Blob(bytes) => bytes.len(),
            Value::Text(text) => text.len(),
            Value::Null | Value::Integer(_) | Value::Real(_) => 8,
        };
        values.iter().map(of).sum::<usize>() + 64
    }
}

/// What a page gave.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) rows: Vec<Row>,
    /// Whether it should have held something that could not be read.
    pub(super) unreadable: bool,
}

/// A damaged database, open for reading.
#[derive(Debug)]
pub(super) struct Carver {
    file: File,
    log: Option<File>,
    newer: NewerPages,
    pages: u32,
    maps: HashMap<u32, Option<Vec<u8>>>,
}

/// What the map says of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Rows,
    /// Unused, or the rest of a long row.
    NoRows,
    Unknown,
}

impl Carver {
    pub(super) fn open(damaged: &Path) -> io::Result<Self> {
        let file = File::open(damaged)?;
        let log = damage::with_suffix(damaged, "-wal");
        let (newer, log) = if log.exists() {
            (damage::newer_pages(&log)?, Some(File::open(log)?))
        } else {
            (NewerPages::default(), None)
        };
        let length = u32::try_from(file.metadata()?.len().div_ceil(PAGE_BYTES)).unwrap_or(u32::MAX);
        // After a commit the log knows how long the file is; without one it is as long as it is.
        let pages = newer.pages.unwrap_or(length);
        Ok(Self { file, log, newer, pages, maps: HashMap::new() })
    }

    /// The last page.
    pub(super) const fn pages(&self) -> u32 {
        self.pages
    }

    /// The rows of page `number`, counted from 1. Short of memory or disk it never fails: it says that it could not read.
    pub(super) fn rows(&mut self, number: u32) -> Found {
        let (map, of) = map_of(number);
        if number <= 2 || number == map || number == LOCK_PAGE {
            return Found::default();
        }
        let usage = self.usage(map, of);
        if usage == Use::NoRows {
            return Found::default();
        }
        let Some(page) = self.page(number) else { return Found { rows: Vec::new(), unreadable: true } };
        match self.cells(&page) {
            Some((rows, whole)) => Found { rows, unreadable: !whole },
            None => Found { rows: Vec::new(), unreadable: usage == Use::Rows },
        }
    }

    fn usage(&mut self, map: u32, of: usize) -> Use {
        if !self.maps.contains_key(&map) {
            let page = self.page(map);
            // The one in use is enough: pages are read in their order.
            self.maps.clear();
            self.maps.insert(map, page);
        }
        let entry = self.maps.get(&map).and_then(|page| page.as_ref()?.get(of).copied());
        match entry {
            Some(1 | 5) => Use::Rows,
            Some(2..=4) => Use::NoRows,
            Some(_) | None => Use::Unknown,
        }
    }

    fn page(&self, number: u32) -> Option<Vec<u8>> {
        let mut page = vec![0; PAGE];
        if let (Some(log), Some(at)) = (&self.log, self.newer.places.get(&number))
            && log.read_exact_at(&mut page, *at).is_ok()
        {
            return Some(page);
        }
        let at = u64::from(number.checked_sub(1)?) * PAGE_BYTES;
        self.file.read_exact_at(&mut page, at).is_ok().then_some(page)
    }

    /// The rows of a page and whether all its cells could be read; `None` if it holds no cells.
    fn cells(&self, page: &[u8]) -> Option<(Vec<Row>, bool)> {
        let (header, inner) = match page.first()? {
            13 | 10 => (8, 0),
            2 => (12, 4),
            // The inner pages of a table hold no rows.
            5 => return Some((Vec::new(), true)),
            _ => return None,
        };
        let in_table = *page.first()? == 13;
        // A cell has at least four bytes.
        let cells = Some(two(page, 3)).filter(|cells| *cells <= PAGE / 4)?;
        let (mut rows, mut whole) = (Vec::new(), true);
        for cell in 0..cells {
            let at = two(page, header + 2 * cell);
            match self.cell(page, at + inner, in_table) {
                // Or an entry of an index, or of a table that nobody misses.
                Some((seq, values)) => rows.extend(row(seq, values, in_table)),
                None => whole = false,
            }
        }
        Some((rows, whole))
    }

    /// Row number and columns of a cell that can be read.
    fn cell(&self, page: &[u8], at: usize, in_table: bool) -> Option<(i64, Vec<Value>)> {
        let mut rest = page.get(at..)?;
        let length = usize::try_from(variable(&mut rest)?).ok()?;
        let seq = if in_table { variable(&mut rest)? } else { 0 };
        let local = local(length, in_table);
        let mut record = rest.get(..local.min(length))?.to_vec();
        if local < length {
            let next = rest.get(local..local + 4)?;
            self.follow(u32::from_be_bytes(next.try_into().ok()?), length, &mut record)?;
        }
        Some((seq, columns(&record)?))
    }

    /// Reads a chain of overflow pages.
    fn follow(&self, mut next: u32, length: usize, record: &mut Vec<u8>) -> Option<()> {
        if length > usize::try_from(self.pages).ok()?.saturating_mul(PAGE) {
            return None;
        }
        while record.len() < length {
            if next < 3 || next > self.pages {
                return None;
            }
            let page = self.page(next)?;
            let (pointer, content) = page.split_at_checked(4)?;
            next = u32::from_be_bytes(pointer.try_into().ok()?);
            record.extend_from_slice(content.get(..content.len().min(length - record.len()))?);
        }
        Some(())
    }
}

/// The page of the map that speaks of a page, and where in it.
const fn map_of(page: u32) -> (u32, usize) {
    let map = page.saturating_sub(2) / (MAPPED + 1) * (MAPPED + 1) + 2;
    (map, 5 * (page.saturating_sub(map).saturating_sub(1)) as usize)
}

/// How much of a record stands in its cell.
const fn local(length: usize, in_table: bool) -> usize {
    let most = if in_table { PAGE - 35 } else { (PAGE - 12) * 64 / 255 - 23 };
    if length <= most {
        return length;
    }
    let least = (PAGE - 12) * 32 / 255 - 23;
    let even = least + (length - least) % (PAGE - 4);
    if even <= most { even } else { least }
}

/// A variable integer of one to nine bytes.
fn variable(bytes: &mut &[u8]) -> Option<i64> {
    let mut value = 0_u64;
    for place in 0..9 {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        if place == 8 {
            value = value << 8 | u64::from(*byte);
        } else {
            value = value << 7 | u64::from(byte & 0x7f);
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    Some(value.cast_signed())
}

/// The columns of a record.
fn columns(record: &[u8]) -> Option<Vec<Value>> {
    let mut rest = record;
    let length = usize::try_from(variable(&mut rest)?).ok()?;
    let mut types = record.get(record.len() - rest.len()..length)?;
    let mut content = record.get(length..)?;
    let mut values = Vec::new();
    while !types.is_empty() {
        let code = usize::try_from(variable(&mut types)?).ok()?;
        let size = match code {
            0 | 8 | 9 => 0,
            1..=4 => code,
            5 => 6,
            6 | 7 => 8,
            12.. => (code - 12) / 2,
            _ => return None,
        };
        let (bytes, behind) = content.split_at_checked(size)?;
        content = behind;
        values.push(match code {
            0 => Value::Null,
            8 => Value::Integer(0),
            9 => Value::Integer(1),
            1..=6 => Value::Integer(integer(bytes)),
            7 => Value::Real(0.0),
            _ if code % 2 == 0 => Value::Blob(bytes.to_vec()),
            _ => Value::Text(String::from_utf8(bytes.to_vec()).ok()?),
        });
    }
    Some(values)
}

/// A whole number of up to eight bytes, the most significant first, with its sign.
fn integer(bytes: &[u8]) -> i64 {
    let negative = bytes.first().is_some_and(|first| first & 0x80 != 0);
    bytes.iter().fold(if negative { -1 } else { 0 }, |value, byte| value << 8 | i64::from(*byte))
}

/// The row, if it has the columns of one that is wanted.
fn row(seq: i64, values: Vec<Value>, in_table: bool) -> Option<Row> {
    let blob = |at: usize| match values.get(at) {
        Some(Value::Blob(bytes)) => bytes.len(),
        Some(_) | None => 0,
    };
    if in_table && looks(&values, EVENT) && [1, 3, 18, 19].map(blob) == [16, 32, 32, 32] {
        Some(Row::Event(seq, values))
    } else if in_table && looks(&values, PAYLOAD) {
        Some(Row::Payload(seq, values))
    } else if in_table && looks(&values, MARKS) {
        let Some(Value::Blob(marks)) = values.get(1) else { return None };
        packed::unpack(marks).ok().map(Row::Marks)
    } else if !in_table && looks(&values, MARK) && [0, 1].map(blob) == [16, 16] {
        Some(Row::Mark(values))
    } else {
        None
    }
}

fn looks(values: &[Value], like: &str) -> bool {
    let fits = |(value, kind): (&Value, char)| match value {
        Value::Null => kind == 'n' || kind.is_uppercase(),
        Value::Integer(_) => kind.eq_ignore_ascii_case(&'i'),
        Value::Text(_) => kind.eq_ignore_ascii_case(&'t'),
        Value::Blob(_) => kind == 'b',
        Value::Real(_) => false,
    };
    values.len() == like.len() && values.iter().zip(like.chars()).all(fits)
}

/// Two bytes, the most significant first; zero past the end.
fn two(bytes: &[u8], at: usize) -> usize {
    let pair = bytes.get(at..at.saturating_add(2)).and_then(|pair| pair.try_into().ok()).unwrap_or_default();
    usize::from(u16::from_be_bytes(pair))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::marks::MarkKind;
    use crate::disk::packed::Known;
    use crate::disk::{runs, schema};
    use crate::domain::key::EventKey;
    use crate::domain::time::Timestamp;
    use rusqlite::params;

    #[test]
    fn every_row_of_a_sound_file_is_found_with_its_columns_and_no_deleted_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("test.db");
        std::fs::write(&file, b"").unwrap();
        let (conn, _) = schema::open_writer(&file).unwrap();
        let body = |seq: i64| vec![u8::try_from(seq % 251).unwrap(); usize::try_from(seq * seq % 40_000).unwrap()];
        for seq in 1..=600_i64 {
            let payload = params![seq, "POST", "/", "h", b"", body(seq)];
            conn.execute("INSERT INTO payloads VALUES (?1, ?2, ?3, ?4, ?5, ?6)", payload).unwrap();
            let half = [u8::try_from(seq % 256).unwrap(); 15];
            let slot = [&half[..], &[u8::try_from(seq / 256).unwrap()]].concat();
            let mark = params![slot, slot, "route", seq % 2, -seq * 1_000_000];
            conn.execute("INSERT INTO marks VALUES (?1, ?2, ?3, ?4, ?5)", mark).unwrap();
        }
        let known = Known { kind: MarkKind::Perhaps, expires_at: Timestamp::from_millis(7) };
        let mut batches: Vec<Entry> = (0..=255)
            .flat_map(|a: u8| [1, 2].map(|b| (EventKey { slot: [a; 16], fingerprint: [b; 16] }, known)))
            .collect();
        batches.chunks(40).for_each(|batch| runs::append(&conn, batch).unwrap());
        conn.execute("DELETE FROM payloads WHERE seq > 300", []).unwrap();
        // Half of it in the file, half in the log.
        conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).unwrap();
        conn.execute("DELETE FROM payloads WHERE seq <= 100", []).unwrap();
        let mut carver = Carver::open(&file).unwrap();
        let (mut payloads, mut marks, mut packed) = (std::collections::BTreeMap::new(), Vec::new(), Vec::new());
        for page in 1..=carver.pages() {
            let found = carver.rows(page);
            assert!(!found.unreadable, "page {page}");
            for row in found.rows {
                match row {
                    Row::Payload(seq, values) => assert!(payloads.insert(seq, values).is_none()),
                    Row::Mark(values) => marks.push(values),
                    Row::Marks(found) => packed.extend(found),
                    Row::Event(..) => panic!("there is none"),
                }
            }
        }
        assert!(payloads.keys().copied().eq(101..=300), "{:?}", payloads.keys());
        for (seq, values) in payloads {
            assert_eq!(values[5], Value::Blob(body(seq)), "{seq}");
        }
        marks.sort_by_key(|mark| if let Value::Integer(number) = mark[4] { -number } else { panic!("{mark:?}") });
        assert_eq!(marks.len(), 600);
        assert_eq!(marks[599][4], Value::Integer(-600_000_000));
        packed.sort_by_key(|(key, _)| *key);
        batches.sort_by_key(|(key, _)| *key);
        assert_eq!(packed, batches);
    }

    #[test]
    fn rubbish_is_no_rows_and_no_panic() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("test.db");
        let mut chance = fastrand::Rng::with_seed(7);
        for kind in [13, 10, 2, 5] {
            let mut bytes: Vec<u8> = std::iter::repeat_with(|| chance.u8(..)).take(PAGE * 100).collect();
            for page in bytes.chunks_mut(PAGE) {
                page[0] = kind;
            }
            std::fs::write(&file, bytes).unwrap();
            let mut carver = Carver::open(&file).unwrap();
            let found: usize = (1..=carver.pages()).map(|page| carver.rows(page).rows.len()).sum();
            assert_eq!(found, 0);
        }
    }
}

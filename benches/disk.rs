//! Measures how long a durable append takes while the write-ahead log is brought into the database, and while it is not:
//! p50, p99, p99.9 and the longest, at fixed rates. A checkpoint that stalls commits shows in the last columns.
//!
//! `cargo bench --bench disk`. `BENCH_SECONDS` (20) sets the length of each row, `BENCH_FOLDER` the disk to measure. The
//! load is open: an append begins when its moment has come, whether or not those before it have ended, and what it
//! waits counts. The figures that count are the ratios to the first row: what the disk takes for 4 KiB and a sync.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::indexing_slicing,
    reason = "a benchmark: it may end with a message, it prints its table, and it tells the time"
)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hookgate::disk::{Disk, DiskSettings, Mark};
use hookgate::domain::event::{Event, EventId};
use hookgate::domain::headers::Headers;
use hookgate::domain::key::EventKey;
use hookgate::domain::time::Timestamp;
use hookgate::spool::{Entry, NewEntry, Possible, Replay, Settlement, Spool};
use hookgate::telemetry::Metrics;
use http::Method;
use rusqlite::Connection;

const START: Timestamp = Timestamp::from_seconds(1_760_000_000);

/// What else goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beside {
    /// A reader that never ends keeps the log from being copied.
    NoCheckpoints,
    /// The log is copied every 16 MiB.
    Checkpoints,
    /// The same, with a reader that looks at one state of the file for three seconds at a time.
    LongReads,
    /// The same, with the events taken away again as fast as they come.
    Drain,
}

impl Beside {
    const fn words(self) -> &'static str {
        match self {
            Self::NoCheckpoints => "no checkpoints",
            Self::Checkpoints => "checkpoints",
            Self::LongReads => "checkpoints, long reads",
            Self::Drain => "checkpoints, a drain",
        }
    }
}

fn main() {
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    let seconds = std::env::var("BENCH_SECONDS").map_or(20, |text| text.parse().unwrap());
    let home = std::env::var("BENCH_FOLDER").map_or_else(|_| std::env::temp_dir(), PathBuf::from);
    println!("| appends of 1 KiB | beside | commits | log, MiB | p50 ms | p99 ms | p99.9 ms | longest ms |");
    println!("|---|---|---|---|---|---|---|---|");
    let folder = tempfile::tempdir_in(&home).unwrap();
    bare(folder.path(), Duration::from_secs(seconds.min(10)));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for rate in [200, 1000] {
        for beside in [Beside::NoCheckpoints, Beside::Checkpoints, Beside::LongReads, Beside::Drain] {
            let folder = tempfile::tempdir_in(&home).unwrap();
            runtime.block_on(row(folder.path(), rate, beside, Duration::from_secs(seconds)));
        }
    }
}

/// What the disk itself takes: 4 KiB written behind the others, and synced.
fn bare(folder: &Path, length: Duration) {
    let mut file = std::fs::File::create(folder.join("bare")).unwrap();
    let (began, mut took) = (Instant::now(), Vec::new());
    while began.elapsed() < length {
        let since = Instant::now();
        file.write_all(&[7; 4096]).unwrap();
        file.sync_data().unwrap();
        took.push(since.elapsed());
        std::thread::sleep(Duration::from_millis(2));
    }
    print("the disk alone", "4 KiB and a sync", took.len() as u64, 0, took);
}

async fn row(folder: &Path, rate: u32, beside: Beside, length: Duration) {
    let settings =
        DiskSettings { path: folder.to_owned(), max_bytes: u64::MAX, max_dead_bytes: u64::MAX, min_free_bytes: 0 };
    let disk = Disk::open(settings, START, Arc::new(Metrics::new(&[]).unwrap())).unwrap().disk;
    let spool = Spool::new(disk.clone());
    spool.append(entry(u32::MAX), None).await.unwrap();
    let ended = Arc::new(AtomicBool::new(false));
    let reading = {
        let (file, ended) = (folder.join("hookgate.db"), ended.clone());
        std::thread::spawn(move || read(&file, beside, &ended))
    };
    std::thread::sleep(Duration::from_millis(100));
    let (before, began) = (disk.commits(), Instant::now());
    let mut appends = tokio::task::JoinSet::new();
    let mut longest_log = 0;
    for number in 0..rate * u32::try_from(length.as_secs()).unwrap() {
        let moment = began + Duration::from_secs(1) * number / rate;
        tokio::time::sleep_until(moment.into()).await;
        let spool = spool.clone();
        appends.spawn(async move {
            let entry = entry(number);
            let event = entry.event.clone();
            spool.append(entry, None).await.unwrap();
            let took = moment.elapsed();
            if beside == Beside::Drain {
                spool.begin_attempts(vec![event.id]).await.unwrap();
                let mark = Mark::new(&event, START.plus(Duration::from_secs(60)));
                spool.settle(event.id, Settlement::Accepted { mark }).await.unwrap();
            }
            took
        });
        if number % 100 == 0 {
            let log = std::fs::metadata(folder.join("hookgate.db-wal")).map_or(0, |file| file.len());
            longest_log = longest_log.max(log);
        }
    }
    let took = appends.join_all().await;
    ended.store(true, Ordering::Relaxed);
    reading.join().unwrap();
    print(&format!("{rate}/s"), beside.words(), disk.commits() - before, longest_log >> 20, took);
    disk.close().await.unwrap();
}

/// The reader beside it.
fn read(file: &Path, beside: Beside, ended: &AtomicBool) {
    let most = match beside {
        Beside::NoCheckpoints => Duration::MAX,
        Beside::LongReads => Duration::from_secs(3),
        Beside::Checkpoints | Beside::Drain => return,
    };
    let conn = Connection::open(file).unwrap();
    while !ended.load(Ordering::Relaxed) {
        conn.execute_batch("BEGIN; SELECT count(*) FROM meta").unwrap();
        let since = Instant::now();
        while since.elapsed() < most && !ended.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
        }
        conn.execute_batch("COMMIT").unwrap();
    }
}

fn print(rate: &str, beside: &str, commits: u64, log: u64, mut took: Vec<Duration>) {
    took.sort();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
    println!(
        "| {rate} | {beside} | {commits} | {log} | {:.2} | {:.2} | {:.2} | {:.2} |",
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0)
    );
}

fn entry(number: u32) -> NewEntry {
    let body = Bytes::from(vec![b'x'; 1024]);
    let event = Event {
        id: EventId::new(START.plus(Duration::from_millis(u64::from(number))), u128::from(number) << 64),
        route: "bench".into(),
        key: EventKey::new("bench", &[&number.to_be_bytes()], &body),
        method: Method::POST,
        target: "/".into(),
        headers: Headers::new(),
        authority: String::new(),
        body: body.into(),
        received_at: START,
        signed_at: None,
        event_type: None,
        order_value: None,
    };
    NewEntry {
        event: Arc::new(event),
        state: Entry::Pending { not_before: START },
        attempts: 0,
        possible_duplicate: Possible::No,
        replay: Replay::No,
        last_error: String::new(),
    }
}

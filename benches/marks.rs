//! Measures the embedded dedup table: what a mark costs to write, in memory and on disk, and what a question costs, at
//! sizes up to `BENCH_MARKS` (10,000,000); then how fast expired marks go. `BENCH_FOLDER` is the disk.
//!
//! `cargo bench --bench marks`. Ratios to the first row are what counts.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    clippy::indexing_slicing,
    clippy::redundant_closure_for_method_calls,
    reason = "a benchmark: it may end with a message, it prints its table, and it tells the time"
)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hookgate::disk::{Disk, DiskSettings, Mark, MarkKind};
use hookgate::domain::key::EventKey;
use hookgate::domain::time::Timestamp;
use hookgate::telemetry::Metrics;

const START: Timestamp = Timestamp::from_seconds(1_760_000_000);
const TTL: Duration = Duration::from_secs(24 * 3600);
/// Marks that are put in one breath; then what waits for the disk is waited for.
const BREATH: u64 = 10_000;
const QUESTIONS: u64 = 20_000;

fn main() {
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    let most: u64 = std::env::var("BENCH_MARKS").map_or(10_000_000, |text| text.parse().unwrap());
    let home = std::env::var("BENCH_FOLDER").map_or_else(|_| std::env::temp_dir(), PathBuf::from);
    let folder = tempfile::tempdir_in(&home).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    println!("| marks | written/s | bytes each on disk | memory, MiB | known: µs | unknown: µs | start, s |");
    println!("|---|---|---|---|---|---|---|");
    runtime.block_on(table(folder.path(), most));
}

async fn table(folder: &Path, most: u64) {
    let mut disk = open(folder, START);
    let mut count = 0;
    for size in [most / 100, most / 10, most] {
        let (began, before) = (Instant::now(), count);
        while count < size {
            for number in count..(count + BREATH).min(size) {
                disk.put_mark(mark(number), START);
            }
            count = (count + BREATH).min(size);
            // A durable commit comes after what was queued before it.
            disk.durable(0, |_| Ok(())).await.unwrap();
        }
        let rate = (count - before) as f64 / began.elapsed().as_secs_f64();
        disk.close().await.unwrap();
        drop(disk);
        let each = size_of(folder) as f64 / count as f64;
        let since = Instant::now();
        disk = open(folder, START);
        let start = since.elapsed().as_secs_f64();
        // The filter is filled behind the start.
        tokio::time::sleep(Duration::from_millis(500) + Duration::from_micros(count)).await;
        let known = ask(&disk, |n| n.wrapping_mul(7919) % count).await;
        let unknown = ask(&disk, |n| u64::MAX - n).await;
        let memory = memory() >> 10;
        println!("| {count} | {rate:.0} | {each:.0} | {memory} | {known:.1} | {unknown:.1} | {start:.2} |");
    }
    let later = START.plus(TTL + Duration::from_secs(1));
    let (began, mut number) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(10) {
        disk.put_mark(Mark { expires_at: later.plus(TTL), ..mark(most * 2 + number) }, later);
        number += 1;
        if number % 100 == 0 {
            disk.durable(0, |_| Ok(())).await.unwrap();
        }
    }
    let new = number as f64 / began.elapsed().as_secs_f64();
    let left = disk.read(|rx| rx.count_marks()).await.unwrap();
    let gone = (most + number).saturating_sub(left) as f64 / began.elapsed().as_secs_f64();
    println!("\nall of them expired: {gone:.0} went a second beside {new:.0} new ones");
    disk.close().await.unwrap();
}

fn open(folder: &Path, now: Timestamp) -> Disk {
    let settings =
        DiskSettings { path: folder.to_owned(), max_bytes: u64::MAX, max_dead_bytes: u64::MAX, min_free_bytes: 0 };
    Disk::open(settings, now, Arc::new(Metrics::new(&[]).unwrap())).unwrap().disk
}

/// Microseconds of one question.
async fn ask(disk: &Disk, number: impl Fn(u64) -> u64) -> f64 {
    let began = Instant::now();
    for n in 0..QUESTIONS {
        std::hint::black_box(disk.recall(key(number(n)), START).await.unwrap());
    }
    began.elapsed().as_secs_f64() * 1e6 / QUESTIONS as f64
}

fn mark(number: u64) -> Mark {
    Mark { key: key(number), kind: MarkKind::Processed, expires_at: START.plus(TTL) }
}

/// As scattered as a hash.
fn key(number: u64) -> EventKey {
    let mut slot = [0; 16];
    let mut chance = fastrand::Rng::with_seed(number);
    chance.fill(&mut slot);
    let mut fingerprint = [0; 16];
    chance.fill(&mut fingerprint);
    EventKey { slot, fingerprint }
}

fn size_of(folder: &Path) -> u64 {
    std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum()
}

/// Of this process, in KiB.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

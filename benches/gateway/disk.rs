//! What the disk has to do with it: one sender that waits for its acknowledgement beside the bare sync of the same disk,
//! and how fast a backlog drains beside what the application takes.

use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use super::app::App;
use super::gateway::{Gateway, Shape, load};
use super::histogram::Histogram;
use super::options::{Options, number};
use super::process::{free_port, local};
use super::say;
use super::table::median;

const QUEUE: &str = "[ack]\nmode = \"queue\"\n";

/// One sender in queue mode, alternating with the bare disk.
pub(crate) fn one(options: &Options) {
    let folder = tempfile::tempdir_in(&options.folder).expect("a temporary folder");
    let app = App::start(Duration::ZERO);
    let gateway =
        Gateway::start(options, &folder.path().join("spool"), app.address, &Shape { more: QUEUE, under: &[] });
    let mut rows: [Vec<[f64; 2]>; 3] = Default::default();
    for round in 0..options.rounds {
        let raw = [bare(folder.path(), true, options.length), bare(folder.path(), false, options.length)];
        let sent = gateway.load(1, 1024, options.length, u64::MAX);
        say(&format!("round {round}: {} events, {} failed", sent.events, sent.failed));
        for (row, times) in rows.iter_mut().zip([&raw[0], &raw[1], &sent.times]) {
            row.push([times.micros(0.5), times.micros(0.99)]);
        }
    }
    println!("| one sender | p50 µs | p99 µs | p50 against the append |");
    println!("|---|---|---|---|");
    let words = ["4 KiB appended, fdatasync", "4 KiB written over, fdatasync", "hookgate queue, 1 KiB"];
    for (words, row) in words.iter().zip(&rows) {
        let middle = |index: usize| median(row.iter().map(|figures| figures[index]).collect());
        let ratio = median(row.iter().zip(&rows[0]).map(|(mine, base)| mine[0] / base[0]).collect());
        println!("| {words} | {:.0} | {:.0} | {ratio:.2} |", middle(0), middle(1));
    }
}

/// 4 KiB and a sync, over and over.
fn bare(folder: &Path, is_append: bool, length: Duration) -> Histogram {
    let mut file = std::fs::File::create(folder.join("bare")).expect("a file");
    if !is_append {
        file.write_all(&[1; 4096]).and_then(|()| file.sync_all()).expect("a file with a block");
    }
    let (began, mut times) = (Instant::now(), Histogram::new());
    while began.elapsed() < length {
        if !is_append {
            file.seek(SeekFrom::Start(0)).expect("its start");
        }
        let since = Instant::now();
        file.write_all(&[7; 4096]).and_then(|()| file.sync_data()).expect("a sync");
        times.record(since.elapsed());
    }
    times
}

/// A backlog made while the application is down, and how fast it goes once the application is back.
pub(crate) fn drain(options: &Options) {
    let events = number("BENCH_EVENTS", 20_000) as u64;
    println!("| the application takes | directly/s | drained/s | ratio | events | RSS MiB before | most |");
    println!("|---|---|---|---|---|---|---|");
    for micros in [10_000, 0] {
        let delay = Duration::from_micros(micros);
        let direct = {
            let app = App::start(delay);
            load(app.address, "/", 64, 1024, options.length, u64::MAX).rate()
        };
        let folder = tempfile::tempdir_in(&options.folder).expect("a temporary folder");
        let port = free_port();
        let more = format!("{QUEUE}[delivery.breaker]\nprobe_every = \"1s\"\n");
        let spool = folder.path().join("spool");
        let gateway = Gateway::start(options, &spool, local(port), &Shape { more: &more, under: &[] });
        let filled = gateway.load(64, 1024, Duration::from_secs(600), events).events;
        let before = gateway.rss();
        let app = App::start_on(port, delay);
        let (rate, most) = watch(&app, &gateway, filled);
        let words =
            if micros == 0 { "0 ms, 64 at once".to_owned() } else { format!("{} ms, 64 at once", micros / 1000) };
        println!("| {words} | {direct:.0} | {rate:.0} | {:.2} | {filled} | {before:.0} | {most:.0} |", rate / direct);
    }
}

/// Events a second between the first and the last twentieth, and the most memory meanwhile.
fn watch(app: &App, gateway: &Gateway, filled: u64) -> (f64, f64) {
    let (low, high) = (filled / 20, filled * 19 / 20);
    let (mut first, mut most) = (None, 0.0_f64);
    let until = Instant::now() + Duration::from_secs(900);
    while Instant::now() < until {
        let (count, now) = (app.count(), Instant::now());
        most = most.max(gateway.rss());
        if count >= low && first.is_none() {
            first = Some((count, now));
        }
        if let Some((before, since)) = first
            && count >= high
        {
            return ((count - before) as f64 / (now - since).as_secs_f64(), most);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("the backlog does not drain: {} of {filled} after 15 minutes", app.count());
}

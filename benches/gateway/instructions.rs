//! Instructions of one request: the same gateway under callgrind, answering so many requests and twice as many over one
//! connection, with one worker. What start and stop take is in both and so in neither.
//!
//! Not time: a cache miss counts as much as a hit. But it is the same on every day.

use std::path::Path;
use std::time::Duration;

use super::app::App;
use super::gateway::{Gateway, Shape};
use super::options::{Options, number};
use super::process::program;
use super::say;
use super::table::median;

/// A body as small as an event can be, so that the hash hides nothing: callgrind's processor has no instructions for it.
const BYTES: usize = 192;

pub(crate) fn count(mut options: Options) {
    options.threads = 1;
    let requests = number("BENCH_REQUESTS", 1000) as u64;
    let valgrind = program("valgrind").expect("valgrind is installed");
    let mut each = Vec::new();
    for round in 0..options.rounds.min(3) {
        let (few, many) = (total(&options, &valgrind, requests), total(&options, &valgrind, 2 * requests));
        let a_request = |few: f64, many: f64| (many - few) / requests as f64;
        let (serving, disk) = (a_request(few.serving, many.serving), a_request(few.disk, many.disk));
        say(&format!("round {round}: {serving:.0} instructions a request, and {disk:.0} in the disk's threads"));
        each.push(serving);
    }
    let (low, high) = (each.iter().copied().fold(f64::MAX, f64::min), each.iter().copied().fold(0.0, f64::max));
    let middle = median(each);
    say(&format!("spread: {:.2} %", (high - low) / middle * 100.0));
    println!("relay {middle:.0}");
}

/// Instructions of a whole life.
struct Total {
    serving: f64,
    /// Of the threads that have the database: how many requests share a commit is a matter of time, and so is this.
    disk: f64,
}

fn total(options: &Options, valgrind: &Path, requests: u64) -> Total {
    let folder = tempfile::tempdir_in(&options.folder).expect("a temporary folder");
    let kept = std::env::var("BENCH_PROFILE").ok().map(std::path::PathBuf::from);
    let outcome = kept.unwrap_or_else(|| folder.path().to_owned());
    std::fs::create_dir_all(&outcome).expect("a folder for what callgrind counts");
    for old in std::fs::read_dir(&outcome).expect("that folder").flatten() {
        if old.file_name().to_string_lossy().starts_with("callgrind.out") {
            std::fs::remove_file(old.path()).expect("a folder of ours");
        }
    }
    let app = App::start(Duration::ZERO);
    let file = format!("--callgrind-out-file={}/callgrind.out", outcome.display());
    let valgrind = valgrind.display().to_string();
    let under = [valgrind.as_str(), "--tool=callgrind", "--quiet", "--separate-threads=yes", &file];
    let mut gateway =
        Gateway::start(options, &folder.path().join("spool"), app.address, &Shape { more: "", under: &under });
    let load = gateway.load(1, BYTES, Duration::from_secs(600), requests);
    assert_eq!((load.events, load.failed), (requests, 0), "not every request was answered 200");
    gateway.running.stop(Duration::from_secs(60));
    counted(&outcome)
}

/// The sums of all threads. The first one starts the process and opens the database before it waits.
fn counted(outcome: &Path) -> Total {
    let mut total = Total { serving: 0.0, disk: 0.0 };
    for file in std::fs::read_dir(outcome).expect("what callgrind counted") {
        let path = file.expect("a file").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(thread) = name.strip_prefix("callgrind.out-") else { continue };
        let text = String::from_utf8_lossy(&std::fs::read(&path).expect("a profile")).into_owned();
        let sum = text.lines().find_map(|line| line.strip_prefix("totals: "));
        let sum: f64 = sum.and_then(|digits| digits.trim().parse().ok()).expect("a sum");
        let is_disk = thread != "01" && text.contains("sqlite3VdbeExec");
        *if is_disk { &mut total.disk } else { &mut total.serving } += sum;
    }
    assert!(total.serving > 0.0 && total.disk > 0.0, "callgrind left no profiles of the threads");
    total
}

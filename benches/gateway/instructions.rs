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
        let instructions = (many - few) / requests as f64;
        say(&format!("round {round}: {instructions:.0} instructions a request"));
        each.push(instructions);
    }
    let (low, high) = (each.iter().copied().fold(f64::MAX, f64::min), each.iter().copied().fold(0.0, f64::max));
    let middle = median(each);
    say(&format!("spread: {:.2} %", (high - low) / middle * 100.0));
    println!("relay {middle:.0}");
}

/// Instructions of a whole life.
fn total(options: &Options, valgrind: &Path, requests: u64) -> f64 {
    let folder = tempfile::tempdir_in(&options.folder).expect("a temporary folder");
    let out =
        std::env::var("BENCH_PROFILE").map_or_else(|_| folder.path().join("callgrind.out"), std::path::PathBuf::from);
    let app = App::start(Duration::ZERO);
    let file = format!("--callgrind-out-file={}", out.display());
    let valgrind = valgrind.display().to_string();
    let under = [valgrind.as_str(), "--tool=callgrind", "--quiet", &file];
    let mut gateway =
        Gateway::start(options, &folder.path().join("spool"), app.address, &Shape { more: "", under: &under });
    let load = gateway.load(1, BYTES, Duration::from_secs(600), requests);
    assert_eq!((load.events, load.failed), (requests, 0), "not every request was answered 200");
    gateway.running.stop(Duration::from_secs(60));
    let text = std::fs::read_to_string(&out).expect("what callgrind counted");
    let line = text.lines().find_map(|line| line.strip_prefix("summary: ").or_else(|| line.strip_prefix("totals: ")));
    line.and_then(|digits| digits.trim().parse().ok()).expect("a sum")
}

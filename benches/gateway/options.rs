//! What the environment says about a run. `benches/README.md` lists the names.

use std::path::PathBuf;
use std::time::Duration;

/// One measured situation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scene {
    pub(crate) bytes: usize,
    pub(crate) connections: usize,
    pub(crate) keep_alive: bool,
    /// Who takes part; empty: those that `BENCH_ONLY` names.
    pub(crate) who: Vec<String>,
}

pub(crate) struct Options {
    pub(crate) scenes: Vec<Scene>,
    pub(crate) rounds: usize,
    pub(crate) warm: Duration,
    pub(crate) length: Duration,
    /// Worker threads or processes of every measured process.
    pub(crate) threads: usize,
    /// Programs to be measured, each with what it is called in the table.
    pub(crate) hookgates: Vec<(String, PathBuf)>,
    /// Where spools are: the disk that is measured.
    pub(crate) folder: PathBuf,
    /// The level of the gateway's log.
    pub(crate) log: String,
    /// Lines added to the gateway's configuration, at its top.
    pub(crate) more: String,
    /// Processors of the measured processes, and of the generator and the application; empty: all.
    pub(crate) cpus: (String, String),
    /// The file whose data block is written anew.
    pub(crate) page: Option<PathBuf>,
}

const PLAIN: &str = "nginx,lua,luaossl,njs,haproxy,pingora,relay,redis";
const ALL: &str = "nginx,lua,luaossl,njs,haproxy,pingora,pass,relay,redis,duplicates,queue";

impl Options {
    pub(crate) fn read() -> Self {
        let cpus = text("BENCH_CPUS");
        let (measured, rest) = cpus.split_once(':').unwrap_or_default();
        Self {
            scenes: scenes(),
            rounds: number("BENCH_ROUNDS", 5),
            warm: Duration::from_secs_f64(real("BENCH_WARM", 0.5)),
            length: Duration::from_secs_f64(real("BENCH_SECONDS", 4.0)),
            threads: number("BENCH_THREADS", std::thread::available_parallelism().map_or(1, usize::from)),
            hookgates: programs(),
            folder: std::env::var("BENCH_FOLDER").map_or_else(|_| std::env::temp_dir(), PathBuf::from),
            log: std::env::var("BENCH_LOG").unwrap_or_else(|_| "info".to_owned()),
            more: text("BENCH_CONFIG").replace("\\n", "\n"),
            cpus: (measured.to_owned(), rest.to_owned()),
            page: std::env::var("BENCH_PAGE").ok().map(PathBuf::from),
        }
    }
}

fn scenes() -> Vec<Scene> {
    let only = list("BENCH_ONLY");
    let sizes = list("BENCH_BYTES");
    let connections = list("BENCH_CONNECTIONS");
    let keep = list("BENCH_KEEPALIVE");
    if [&only, &sizes, &connections, &keep].iter().all(|list| list.is_empty()) {
        return star();
    }
    let numbers = |list: Vec<String>, default: usize| -> Vec<usize> {
        let numbers: Vec<usize> = list.iter().map(|text| text.parse().expect("a number")).collect();
        if numbers.is_empty() { vec![default] } else { numbers }
    };
    let keep: Vec<bool> = if keep.is_empty() { vec![true] } else { keep.iter().map(|word| word == "yes").collect() };
    let mut scenes = Vec::new();
    for bytes in numbers(sizes, 1024) {
        for connections in numbers(connections.clone(), 64) {
            for keep_alive in &keep {
                let who = if only.is_empty() { split(ALL) } else { only.clone() };
                scenes.push(Scene { bytes, connections, keep_alive: *keep_alive, who });
            }
        }
    }
    scenes
}

/// One situation for all, and those that differ from it in one thing.
fn star() -> Vec<Scene> {
    let scene = |bytes, connections, keep_alive, who: &str| Scene { bytes, connections, keep_alive, who: split(who) };
    vec![
        scene(1 << 10, 64, true, ALL),
        scene(1 << 10, 1, true, PLAIN),
        scene(1 << 10, 1000, true, PLAIN),
        scene(16 << 10, 64, true, PLAIN),
        scene(256 << 10, 64, true, PLAIN),
        scene(1 << 10, 64, false, PLAIN),
        scene(1 << 10, 256, true, "nginx,lua,luaossl,relay,queue,python"),
    ]
}

/// `path`, or `name=path`, with commas between them.
fn programs() -> Vec<(String, PathBuf)> {
    let given = list("BENCH_HOOKGATE");
    if given.is_empty() {
        return vec![(String::new(), PathBuf::from(env!("CARGO_BIN_EXE_hookgate")))];
    }
    let several = given.len() > 1;
    let name = |index: usize| char::from(b'a' + u8::try_from(index % 26).unwrap_or(0));
    let named = given.iter().enumerate().map(|(index, text)| match text.split_once('=') {
        Some((name, path)) => (format!("@{name}"), PathBuf::from(path)),
        None if several => (format!("@{}", name(index)), PathBuf::from(text)),
        None => (String::new(), PathBuf::from(text)),
    });
    named.collect()
}

fn split(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn text(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

fn list(name: &str) -> Vec<String> {
    split(&text(name))
}

pub(crate) fn number(name: &str, default: usize) -> usize {
    text(name).parse().unwrap_or(default)
}

fn real(name: &str, default: f64) -> f64 {
    text(name).parse().unwrap_or(default)
}

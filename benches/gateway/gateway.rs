//! A gateway of one's own configuration, for measurements beside the tables: one sender, a drain, the curves, the count of
//! instructions.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::load::{Load, Plan, run};
use super::options::Options;
use super::peers::{PATH, Settings};
use super::process::{Running, free_port, local, rss_mib, spawn};

pub(crate) struct Gateway {
    pub(crate) running: Running,
    pub(crate) address: SocketAddr,
    pub(crate) telemetry: SocketAddr,
    /// From its start to its first 200 on `/readyz`.
    pub(crate) ready: Duration,
}

/// How one differs from another.
#[derive(Default)]
pub(crate) struct Shape<'a> {
    /// Tables, written behind those that all have.
    pub(crate) more: &'a str,
    /// Runs the gateway, with these arguments before it.
    pub(crate) under: &'a [&'a str],
}

impl Gateway {
    pub(crate) fn start(options: &Options, spool: &Path, app: SocketAddr, shape: &Shape<'_>) -> Self {
        let (port, telemetry) = (free_port(), free_port());
        let settings = Settings { port, telemetry, threads: options.threads, slots: 64, app, more: shape.more };
        let file = spool.with_extension("toml");
        std::fs::write(&file, settings.text(options, spool)).expect("a configuration");
        let (_, program) = options.hookgates.first().expect("a gateway");
        let program = program.display().to_string();
        let file = file.display().to_string();
        let words: Vec<&str> = shape.under.iter().copied().chain([program.as_str(), "run", "-c", &file]).collect();
        let (first, rest) = words.split_first().expect("a program");
        let began = Instant::now();
        let running =
            spawn(&PathBuf::from(first), rest, &options.cpus.0, &spool.with_extension("log")).expect("the gateway");
        let telemetry = local(telemetry);
        while get(telemetry, "/readyz").is_none_or(|answer| !answer.starts_with("HTTP/1.1 200")) {
            assert!(began.elapsed() < Duration::from_secs(120), "the gateway does not become ready: see {file}");
            std::thread::sleep(Duration::from_millis(1));
        }
        Self { running, address: local(port), telemetry, ready: began.elapsed() }
    }

    pub(crate) fn rss(&self) -> f64 {
        rss_mib(&self.running.pids())
    }

    /// A number of its metrics; 0 if it is not there.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let page = get(self.telemetry, "/metrics").unwrap_or_default();
        let of = |line: &str| line.strip_prefix(name)?.rsplit(' ').next()?.trim().parse::<f64>().ok();
        page.lines().filter_map(of).sum()
    }

    /// Unique events for so long, or so many.
    pub(crate) fn load(&self, connections: usize, bytes: usize, length: Duration, most: u64) -> Load {
        load(self.address, PATH, connections, bytes, length, most)
    }
}

pub(crate) fn load(
    address: SocketAddr,
    path: &str,
    connections: usize,
    bytes: usize,
    length: Duration,
    most: u64,
) -> Load {
    let warm = if most == u64::MAX { Duration::from_millis(300) } else { Duration::ZERO };
    let plan =
        Plan { address, path, bytes, connections, keep_alive: true, repeats: false, warm, length, most, pids: &[] };
    run(&plan)
}

/// A whole answer.
fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

//! A large backlog: how soon the real program is ready on it, how much memory it takes, whether the disk space comes
//! back. Everyday size 50,000 events of 1 KiB; a million when asked for (`make torture`).

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, in its helpers too"
)]

#[path = "promises/world/ports.rs"]
mod ports;

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hookgate::disk::{Disk, DiskSettings};
use hookgate::domain::event::{Event, EventId};
use hookgate::domain::headers::Headers;
use hookgate::domain::key::EventKey;
use hookgate::domain::time::Timestamp;
use hookgate::spool::{Entry, NewEntry, Possible, Replay, Spool};
use hookgate::telemetry::Metrics;
use http::Method;
use ports::Port;
use rusqlite::Connection;
use rusqlite::config::DbConfig;

/// How soon the gateway is ready.
const READY: Duration = Duration::from_secs(2);
/// How much more memory a backlog may take, in KiB.
const MORE_MEMORY: u64 = 64 * 1024;

/// Threads of the program besides one for each core: some eight, and a few that look something up.
const MOST_THREADS: u64 = 20;

/// The program: this build's, or another one, such as the one that is about to be released.
fn binary() -> String {
    std::env::var("HOOKGATE_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_hookgate").to_owned())
}

/// An application that takes everything at once, while it is up.
struct App {
    port: u16,
    taken: Arc<AtomicU64>,
    up: Arc<AtomicBool>,
}

impl App {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (taken, up) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counter, is_up) = (taken.clone(), up.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (counter, is_up) = (counter.clone(), is_up.clone());
                std::thread::spawn(move || serve(&stream, &counter, &is_up));
            }
        });
        Self { port, taken, up }
    }

    fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }
}

fn serve(stream: &TcpStream, taken: &AtomicU64, up: &AtomicBool) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let line = line.trim_end().to_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
            if line.is_empty() {
                break;
            }
        }
        reader.read_exact(&mut vec![0; length]).ok()?;
        let answer = if up.load(Ordering::Relaxed) {
            taken.fetch_add(1, Ordering::Relaxed);
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        } else {
            "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
        };
        (&mut &*stream).write_all(answer.as_bytes()).ok()?;
    }
}

/// The program on a spool.
struct Gateway {
    child: Child,
    telemetry: u16,
    ready_after: Duration,
}

struct Place {
    folder: PathBuf,
    app: App,
    ports: [Port; 3],
}

fn get(port: u16, target: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
    write!(stream, "GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.starts_with("HTTP/1.1 200").then_some(text)
}

impl Place {
    fn spool(&self) -> PathBuf {
        self.folder.join("spool")
    }

    fn start(&self) -> Gateway {
        let [listen, telemetry, admin] = [0, 1, 2].map(|which: usize| self.ports[which].number());
        let mut text = String::new();
        write!(
            text,
            "listen = '127.0.0.1:{listen}'\ntelemetry = '127.0.0.1:{telemetry}'\nadmin = '127.0.0.1:{admin}'\n\
             app.url = 'http://127.0.0.1:{}'\nspool.path = '{}'\nspool.max_bytes = '16GiB'\nspool.min_free_bytes = '1MiB'\n\
             log.format = 'json'\ndelivery.breaker = {{ failures = 5, probe_every = '500ms' }}\n\
             app.max_in_flight = 64\n\
             routes.veedeo = {{ path = '/webhooks/veedeo', provider = 'veedeo', secrets = [{{ env = 'SECRET' }}] }}\n",
            self.app.port,
            self.spool().display(),
        )
        .unwrap();
        let file = self.folder.join("hookgate.toml");
        std::fs::write(&file, text).unwrap();
        let log = std::fs::File::options().append(true).create(true).open(self.folder.join("log")).unwrap();
        let began = Instant::now();
        let child = Command::new(binary())
            .env_remove("HOOKGATE_BINARY")
            .env_remove("HOOKGATE_TORTURE")
            .env_remove("HOOKGATE_SEED")
            .args(["run", "--config"])
            .arg(&file)
            .env("SECRET", "a-secret-of-enough-length-for-a-test")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut gateway = Gateway { child, telemetry, ready_after: Duration::ZERO };
        while get(telemetry, "/readyz").is_none() {
            let log = || std::fs::read_to_string(self.folder.join("log")).unwrap();
            assert!(
                gateway.child.try_wait().unwrap().is_none() && began.elapsed() < Duration::from_secs(60),
                "it ended, or is not ready in a minute: {}",
                log()
            );
            std::thread::park_timeout(Duration::from_millis(5));
        }
        gateway.ready_after = began.elapsed();
        gateway
    }

    fn command(&self, arguments: &[&str]) -> String {
        let output = Command::new(binary())
            .env_remove("HOOKGATE_BINARY")
            .env_remove("HOOKGATE_TORTURE")
            .env_remove("HOOKGATE_SEED")
            .args(arguments)
            .arg("--config")
            .arg(self.folder.join("hookgate.toml"))
            .env("SECRET", "a-secret-of-enough-length-for-a-test")
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn length(&self, name: &str) -> u64 {
        std::fs::metadata(self.spool().join(name)).map_or(0, |file| file.len())
    }
}

impl Gateway {
    /// KiB of memory in use now.
    fn memory(&self) -> u64 {
        self.status("VmRSS:")
    }

    fn threads(&self) -> u64 {
        self.status("Threads:")
    }

    fn status(&self, what: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(what)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    fn pending(&self) -> u64 {
        let metrics = get(self.telemetry, "/metrics").unwrap();
        let line = metrics.lines().find(|line| line.starts_with("hookgate_spool_events{") && line.contains("pending"));
        line.unwrap().split(' ').next_back().unwrap().parse::<f64>().unwrap() as u64
    }

    fn kill(self) {
        drop(self);
    }

    fn stop(mut self) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Gateway {
    /// Nothing that a test has started outlives it.
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn event(number: u64, received_at: Timestamp) -> NewEntry {
    let mut body = format!("{{\"task\":{number},\"filler\":\"").into_bytes();
    body.resize(1022, b'x');
    body.extend_from_slice(b"\"}");
    let body = Bytes::from(body);
    let event = Event {
        id: EventId::new(received_at, u128::from(number) << 64),
        route: "veedeo".into(),
        key: EventKey::new("veedeo", &[&number.to_be_bytes()], &body),
        method: Method::POST,
        target: "/webhooks/veedeo".into(),
        headers: Headers::new(),
        authority: "hooks.example".into(),
        body: body.into(),
        received_at,
        signed_at: None,
        event_type: None,
        order_value: None,
    };
    NewEntry {
        event: Arc::new(event),
        state: Entry::Pending { not_before: received_at },
        attempts: 0,
        possible_duplicate: Possible::No,
        replay: Replay::No,
        last_error: String::new(),
    }
}

/// Writes `count` pending events, and stops cleanly.
fn fill(path: &Path, count: u64) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let began = Instant::now();
    runtime.block_on(async {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let start = Timestamp::from_seconds(i64::try_from(now).unwrap() - 10_000);
        let settings =
            DiskSettings { path: path.to_owned(), max_bytes: u64::MAX, max_dead_bytes: u64::MAX, min_free_bytes: 0 };
        let disk = Disk::open(settings, start, Arc::new(Metrics::new(&[]).unwrap())).unwrap().disk;
        let spool = Spool::new(disk.clone());
        let mut appends = tokio::task::JoinSet::new();
        for number in 0..count {
            let spool = spool.clone();
            let received_at = start.plus(Duration::from_millis(number));
            appends.spawn(async move { spool.append(event(number, received_at), None).await });
            if appends.len() >= 2000 {
                appends.join_next().await.unwrap().unwrap().unwrap();
            }
        }
        while let Some(done) = appends.join_next().await {
            done.unwrap().unwrap();
        }
        disk.close().await.unwrap();
    });
    println!("{count} events written in {:?}", began.elapsed());
}

/// Leaves a write-ahead log of this length, as a kill of a busy gateway does.
fn lengthen_log(file: &Path, length: u64) {
    let conn = Connection::open(file).unwrap();
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    conn.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
    conn.execute("UPDATE meta SET value = 'began' WHERE key = 'run'", []).unwrap();
    let log = file.with_extension("db-wal");
    let mut from = 0;
    while std::fs::metadata(&log).map_or(0, |file| file.len()) < length {
        // There and back: what does not change is not written.
        for target in ["target || ' '", "rtrim(target)"] {
            let sql = format!("UPDATE payloads SET target = {target} WHERE seq > ?1 AND seq <= ?1 + 2000");
            conn.execute(&sql, [from]).unwrap();
        }
        from += 2000;
        if from > 1_000_000 {
            from = 0;
        }
    }
}

/// KiB of memory in use: what a gateway without a backlog takes, with which one with a backlog is compared.
#[derive(Clone, Copy, Debug, Default)]
struct Memory {
    idle: u64,
    listing: u64,
    draining: u64,
}

fn backlog(folder: &Path, count: u64, log: u64, ready: Duration) {
    let ports = [Port::claim(), Port::claim(), Port::claim()];
    let place = Place { folder: folder.to_owned(), app: App::start(), ports };
    println!("--- two thousand events");
    let small = life(&place, 2000, 1 << 20, Duration::from_secs(60));
    std::fs::remove_dir_all(place.spool()).unwrap();
    println!("--- {count} events");
    let large = life(&place, count, log, ready);
    for (what, small, large) in [
        ("idle", small.idle, large.idle),
        ("while listing", small.listing, large.listing),
        ("while draining", small.draining, large.draining),
    ] {
        println!("{what}: {} MiB, with a small backlog {} MiB", large >> 10, small >> 10);
        assert!(large < small + MORE_MEMORY, "{what}: {large} KiB, with a small backlog {small} KiB");
    }
}

/// From the first start to the end of the drain.
fn life(place: &Place, count: u64, log: u64, ready: Duration) -> Memory {
    place.app.up.store(false, Ordering::Relaxed);
    fill(&place.spool(), count);
    println!("the file: {} MiB", place.length("hookgate.db") >> 20);
    let mut memory = Memory::default();
    let gateway = opens(place, "after a clean stop", count, ready);
    std::thread::park_timeout(Duration::from_secs(1));
    memory.idle = gateway.memory();
    lists(place);
    memory.listing = gateway.memory();
    gateway.kill();
    opens(place, "after a kill", count, ready).kill();
    lengthen_log(&place.spool().join("hookgate.db"), log);
    let length = place.length("hookgate.db-wal");
    opens(place, &format!("with a log of {} MiB", length >> 20), count, ready).kill();
    memory.draining = drains(place, count);
    memory
}

fn opens(place: &Place, how: &str, count: u64, ready: Duration) -> Gateway {
    let gateway = place.start();
    println!("{how}: ready after {:?}", gateway.ready_after);
    assert!(gateway.ready_after <= ready, "{how}: ready after {:?}", gateway.ready_after);
    assert_eq!(gateway.pending(), count, "{how}");
    gateway
}

fn lists(place: &Place) {
    for arguments in [&["events", "list"][..], &["events", "list", "--route", "veedeo"], &["status"], &["dlq", "list"]]
    {
        let began = Instant::now();
        let text = place.command(arguments);
        println!("{arguments:?}: {:?}, {} lines", began.elapsed(), text.lines().count());
        assert!(began.elapsed() < Duration::from_secs(2), "{arguments:?}: {:?}", began.elapsed());
    }
    let text = std::fs::read_to_string(place.folder.join("hookgate.toml")).unwrap();
    let port = text.lines().find_map(|line| line.strip_prefix("admin = '127.0.0.1:")).unwrap();
    let port: u16 = port.trim_end_matches('\'').parse().unwrap();
    let first = "/api/events?limit=500".to_owned();
    let (mut target, began) = (first.clone(), Instant::now());
    for number in 0..40 {
        let page = get(port, &target).unwrap_or_else(|| panic!("page {number}: {target}"));
        let next = page.split_once("\"next\":\"").map(|(_, rest)| rest.split('"').next().unwrap().to_owned());
        target = next.map_or_else(|| first.clone(), |next| format!("{first}&cursor={next}"));
    }
    println!("40 pages of a list: {:?}", began.elapsed());
}

/// Yields the most memory it took.
fn drains(place: &Place, count: u64) -> u64 {
    let gateway = place.start();
    let before = place.app.taken();
    place.app.up.store(true, Ordering::Relaxed);
    let (began, mut most, mut threads) = (Instant::now(), 0, 0);
    let full = place.length("hookgate.db");
    while gateway.pending() > 0 {
        assert!(began.elapsed() < Duration::from_secs(60 + count / 1000), "{} are left", gateway.pending());
        most = most.max(gateway.memory());
        threads = threads.max(gateway.threads());
        std::thread::park_timeout(Duration::from_millis(200));
    }
    let taken = place.app.taken() - before;
    let rate = taken as f64 / began.elapsed().as_secs_f64();
    println!("drained {taken} in {:?}, {rate:.0}/s, at most {} MiB of memory", began.elapsed(), most >> 10);
    assert_eq!(taken, count);
    let cores = std::thread::available_parallelism().unwrap().get() as u64;
    assert!(threads <= MOST_THREADS + cores, "{threads} threads: each keeps what it once took from the heap");
    gives_back(place, full);
    gateway.stop();
    most
}

/// What stays is what is in use: marks, 16 MiB of unused pages for the next events, a log that is worth no cut.
fn gives_back(place: &Place, full: u64) {
    let since = Instant::now();
    let file = place.spool().join("hookgate.db");
    let unused = || {
        let conn = Connection::open_with_flags(&file, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        let pages: u64 = conn.query_row("PRAGMA freelist_count", [], |row| row.get(0)).unwrap();
        pages * 4096
    };
    let held = || place.length("hookgate.db") + place.length("hookgate.db-wal");
    while unused() > 17 << 20 || place.length("hookgate.db-wal") > 4 << 20 || held() > (full / 2).max(24 << 20) {
        let (held, unused) = (held() >> 20, unused() >> 20);
        assert!(since.elapsed() < Duration::from_secs(120), "{held} of {} MiB are held, {unused} unused", full >> 20);
        std::thread::park_timeout(Duration::from_millis(100));
    }
    println!("of {} MiB {} are held {:?} after the drain", full >> 20, held() >> 20, since.elapsed());
}

#[test]
fn fifty_thousand_events_are_open_at_once_and_take_no_memory_and_give_their_space_back() {
    let folder = tempfile::tempdir().unwrap();
    // A build without optimisation on a busy machine.
    backlog(folder.path(), 50_000, 32 << 20, 2 * READY);
}

#[test]
#[ignore = "takes minutes and 4 GB of disk: make torture"]
fn a_million_events_are_open_at_once_and_take_no_memory_and_give_their_space_back() {
    let folder = tempfile::tempdir().unwrap();
    backlog(folder.path(), 1_000_000, 256 << 20, READY);
}

//! Dead letters in number, on the real program: written through the spool's own code, then exported, retried and dropped
//! by commands. `HOOKGATE_TORTURE` makes ten times as many.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "test code: a failed expectation is the result"
)]

#[path = "promises/world/ports.rs"]
mod ports;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hookgate::disk::{Disk, DiskSettings, Found};
use hookgate::domain::event::{Event, EventId};
use hookgate::domain::headers::Headers;
use hookgate::domain::key::EventKey;
use hookgate::domain::time::Timestamp;
use hookgate::spool::{DeadReason, Entry, NewEntry, Possible, Replay, Settlement, Spool};
use hookgate::telemetry::Metrics;
use http::{HeaderValue, Method};
use ports::Port;

const PATIENCE: Duration = Duration::from_secs(180);

/// What the resident memory may grow by while they are exported, and while they are dropped.
const MEMORY_KIB: u64 = 64 * 1024;

/// Of the dead letters one in four belongs to the route that is retried.
const RETRIED: usize = 4;

fn count() -> usize {
    #[allow(clippy::disallowed_methods, reason = "how long to run is told by the environment")]
    let torture = std::env::var_os("HOOKGATE_TORTURE").is_some();
    if torture { 200_000 } else { 20_000 }
}

fn event(number: usize) -> Event {
    let route = if number.is_multiple_of(RETRIED) { "veedeo" } else { "github" };
    let body = Bytes::from(format!("{{\"n\":{number},\"filler\":\"{}\"}}", "x".repeat(300)));
    let mut headers = Headers::new();
    headers.append("content-type", HeaderValue::from_static("application/json"));
    let received_at = Timestamp::from_millis(1_760_000_000_000 + i64::try_from(number).unwrap());
    Event {
        id: EventId::new(received_at, u128::try_from(number).unwrap() << 64),
        route: route.into(),
        key: EventKey::new(route, &[&number.to_be_bytes()], &body),
        method: Method::POST,
        target: format!("/{route}"),
        headers,
        authority: "hooks.example".into(),
        body: body.into(),
        received_at,
        signed_at: None,
        event_type: None,
        order_value: None,
    }
}

/// Writes the dead letters, a thousand at a time, so that they share commits.
fn fill(path: &Path, count: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let now = Timestamp::from_seconds(1_760_000_000);
        let settings =
            DiskSettings { path: path.to_owned(), max_bytes: 1 << 30, max_dead_bytes: u64::MAX, min_free_bytes: 0 };
        let disk = Disk::open(settings, now, Arc::new(Metrics::new(&[]).unwrap())).unwrap().disk;
        let spool = Spool::new(disk.clone());
        for first in (0..count).step_by(1000) {
            let mut appends = tokio::task::JoinSet::new();
            for number in first..(first + 1000).min(count) {
                let entry = NewEntry {
                    event: Arc::new(event(number)),
                    state: Entry::Dead { reason: DeadReason::AppRejected },
                    attempts: 1,
                    possible_duplicate: Possible::No,
                    replay: Replay::No,
                    last_error: "the application answered 422".to_owned(),
                };
                let spool = spool.clone();
                appends.spawn(async move { spool.append(entry, None).await });
            }
            appends.join_all().await.into_iter().for_each(|appended| appended.unwrap());
        }
        disk.close().await.unwrap();
    });
}

/// What the application saw of one event: for each sending, whether it was flagged as a possible duplicate.
type Seen = Arc<Mutex<HashMap<String, Vec<bool>>>>;

/// An application that takes everything. Its threads end with their connections.
fn application() -> (String, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, seen) = (listener.local_addr().unwrap().to_string(), Seen::default());
    let noted = seen.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let seen = noted.clone();
            std::thread::spawn(move || serve(&stream, &seen));
        }
    });
    (address, seen)
}

fn serve(stream: &TcpStream, seen: &Seen) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let mut headers: HashMap<String, String> = HashMap::new();
        let mut line = String::new();
        while reader.read_line(&mut line).ok()? > 2 {
            if let Some((name, value)) = line.trim_end().split_once(": ") {
                headers.insert(name.to_ascii_lowercase(), value.to_owned());
            }
            line.clear();
        }
        let mut body = vec![0; headers.get("content-length")?.parse().ok()?];
        reader.read_exact(&mut body).ok()?;
        assert_eq!(headers.get("hookgate-replay").map(String::as_str), Some("true"));
        let flagged = headers.contains_key("hookgate-possible-duplicate");
        seen.lock().unwrap().entry(headers["hookgate-event"].clone()).or_default().push(flagged);
        let mut stream = stream;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").ok()?;
    }
}

struct Gateway {
    folder: tempfile::TempDir,
    telemetry: String,
    child: Option<Child>,
    _ports: [Port; 3],
}

impl Gateway {
    fn prepared(app: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ports = [Port::claim(), Port::claim(), Port::claim()];
        let [listen, telemetry, admin] = [0, 1, 2].map(|n: usize| ports[n].address());
        let route = |name: &str| {
            format!(
                "routes.{name}.path = '/{name}'\nroutes.{name}.provider = '{name}'\n\
                 routes.{name}.secrets = [{{ literal = 'a secret that is long enough for these' }}]\n"
            )
        };
        let text = format!(
            "listen = '{listen}'\ntelemetry = '{telemetry}'\nadmin = '{admin}'\napp.url = 'http://{app}'\n\
             spool.path = 'spool'\nspool.min_free_bytes = '1MiB'\nlog.level = 'error'\n{}{}",
            route("veedeo"),
            route("github")
        );
        std::fs::write(folder.path().join("hookgate.toml"), text).unwrap();
        Self { folder, telemetry, child: None, _ports: ports }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        #[allow(clippy::disallowed_methods, reason = "which program to try is told by the environment")]
        let binary = std::env::var("HOOKGATE_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_hookgate").to_owned());
        let mut command = Command::new(binary);
        command.args(arguments).args(["-c", "hookgate.toml"]).current_dir(self.folder.path()).stdin(Stdio::null());
        // Variables of the test run are none of the gateway's.
        command.env_remove("HOOKGATE_TORTURE").env_remove("HOOKGATE_SEED").env_remove("HOOKGATE_BINARY");
        command
    }

    fn start(&mut self) {
        self.child = Some(self.command(&["run"]).stdout(Stdio::null()).spawn().unwrap());
        until("it is ready", || self.ask("/readyz").is_some_and(|reply| reply.starts_with("HTTP/1.1 200")));
    }

    fn kill9(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn ask(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(&self.telemetry).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    }

    /// Events on disk in this state.
    fn events(&self, route: &str, state: &str) -> usize {
        let name = format!("hookgate_spool_events{{route=\"{route}\",state=\"{state}\"}} ");
        let metrics = self.ask("/metrics").unwrap();
        let value = metrics.lines().find_map(|line| line.strip_prefix(&name)).expect("the gauge");
        value.parse().unwrap()
    }

    /// The most memory it ever had, in KiB.
    fn peak(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.as_ref().unwrap().id());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "the program under test is a real process in real time")]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

#[test]
fn tens_of_thousands_of_dead_letters_are_exported_retried_over_a_kill_and_dropped_in_little_memory() {
    let count = count();
    let retried = count / RETRIED;
    let (app, seen) = application();
    let mut gateway = Gateway::prepared(&app);
    let began = Instant::now();
    fill(&gateway.folder.path().join("spool"), count);
    let filled = began.elapsed();
    gateway.start();
    let before = gateway.peak();

    let began = Instant::now();
    let exported = said(&gateway.command(&["dlq", "export"]).output().unwrap());
    let export = began.elapsed();
    let ids: Vec<&str> = exported.lines().map(|line| &line[7..43]).collect();
    assert_eq!(ids.len(), count);
    assert!(ids.is_sorted(), "the oldest first, none twice");
    assert!(gateway.peak() < before + MEMORY_KIB, "{} KiB, before {before}", gateway.peak());

    let began = Instant::now();
    let rate = (retried * 2).to_string();
    let retry = ["dlq", "retry", "--route", "veedeo", "--yes", "--rate", &rate];
    let command = gateway.command(&retry).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until("the job is under way", || gateway.events("veedeo", "dead") < retried);
    gateway.kill9();
    gateway.start();
    let restarted = gateway.peak();
    let output = command.wait_with_output().unwrap();
    assert_eq!(said(&output), format!("{retried} made due again"));
    until("the spool drains", || gateway.events("veedeo", "pending") == 0);
    let retry = began.elapsed();
    eprintln!("{restarted} KiB after the restart, {} KiB after {retried} deliveries", gateway.peak());
    assert_eq!(gateway.events("github", "dead"), count - retried, "the others stay");
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), retried, "each was sent");
    assert!(seen.values().all(|sendings| sendings[1..].iter().all(|flagged| *flagged)), "none twice without a word");

    let before = gateway.peak();
    let began = Instant::now();
    let dropped = said(&gateway.command(&["dlq", "drop", "--all", "--yes"]).output().unwrap());
    let drop = began.elapsed();
    assert_eq!(dropped, format!("{} dropped", count - retried));
    assert_eq!(gateway.events("github", "dead"), 0);
    assert!(gateway.peak() < before + MEMORY_KIB, "{} KiB, before {before}", gateway.peak());
    eprintln!(
        "{count}: filled in {filled:?}, exported in {export:?}, {retried} retried and sent in {retry:?}, the others dropped in {drop:?}, {} KiB",
        gateway.peak()
    );
}

#[tokio::test]
async fn an_attempt_begins_only_of_what_is_due() {
    let folder = tempfile::tempdir().unwrap();
    let now = Timestamp::from_seconds(1_760_000_000);
    let settings = DiskSettings {
        path: folder.path().to_owned(),
        max_bytes: 1 << 30,
        max_dead_bytes: u64::MAX,
        min_free_bytes: 0,
    };
    let spool = Spool::new(Disk::open(settings, now, Arc::new(Metrics::new(&[]).unwrap())).unwrap().disk);
    let mut ids = Vec::new();
    for number in 0..3 {
        let event = Event { order_value: Some("a".into()), ..event(number * RETRIED) };
        ids.push(event.id);
        let entry = NewEntry {
            event: Arc::new(event),
            state: Entry::Pending { not_before: now },
            attempts: 0,
            possible_duplicate: Possible::No,
            replay: Replay::No,
            last_error: String::new(),
        };
        spool.append(entry, None).await.unwrap();
    }
    assert_eq!(spool.begin_attempts(vec![ids[1]]).await.unwrap(), [Found::No], "it stands behind the first");
    assert_eq!(spool.begin_attempts(vec![ids[0]]).await.unwrap(), [Found::Yes]);
    assert_eq!(spool.begin_attempts(vec![ids[0]]).await.unwrap(), [Found::No], "one runs");
    let reason = DeadReason::AppRejected;
    let dead = Settlement::Dead { reason, possible_duplicate: Possible::No, error: String::new() };
    spool.settle(ids[0], dead).await.unwrap();
    assert_eq!(
        spool.begin_attempts(vec![ids[0]]).await.unwrap(),
        [Found::No],
        "a dead letter is not sent, however late one looks"
    );
    assert_eq!(spool.begin_attempts(vec![ids[1]]).await.unwrap(), [Found::Yes]);
    assert_eq!(spool.load(ids[1]).await.unwrap().unwrap().attempts, 1);
    let probed = Settlement::Probed { not_before: now, possible_duplicate: Possible::Duplicate, error: "e".into() };
    spool.settle(ids[1], probed).await.unwrap();
    let stored = spool.load(ids[1]).await.unwrap().unwrap();
    assert_eq!((stored.attempts, stored.possible_duplicate), (0, Possible::Duplicate), "a probe does not count");
}

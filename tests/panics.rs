//! A request whose handling panics: it ends, nothing else does, and what the panic says is told nowhere. The real door, gateway, claims, deliverer and disk on real
//! sockets, over an application made up, which is where the panic comes from.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use hookgate::buffers::Buffers;
use hookgate::claims::Claims;
use hookgate::claims::embedded::Embedded;
use hookgate::clock::Clock;
use hookgate::config::{Environment, load};
use hookgate::disk::{Disk, DiskSettings};
use hookgate::domain::event::Event;
use hookgate::domain::headers::Headers;
use hookgate::domain::outcome::{AppAnswer, Outcome};
use hookgate::domain::route::Route;
use hookgate::domain::scheme::Unsigned;
use hookgate::domain::time::Timestamp;
use hookgate::forward::attempt::{Application, Sending};
use hookgate::forward::{Deliverer, Settlement};
use hookgate::gateway::Gateway;
use hookgate::gateway::crew::Crew;
use hookgate::gateway::listener::{Door, DoorLimits};
use hookgate::gateway::site::Site;
use hookgate::spool::Spool;
use hookgate::telemetry::recent::Recent;
use hookgate::telemetry::{Metrics, RouteLabels, logs};
use http::{HeaderValue, Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::Instant;

const START: Timestamp = Timestamp::from_seconds(1_760_000_000);

/// Longer than a claim lives: the budget of `CONFIGURATION` and what is added to it.
const LEASE: Duration = Duration::from_secs(20);

const CONFIGURATION: &str = "app.max_in_flight = 2\nroutes.a.path = '/hook'\nroutes.a.provider = 'github'\n\
                             routes.a.secrets = [{ literal = 'a secret for this alone' }]\nroutes.a.ack.budget = '5s'\n";

/// Panics at the first sending of each event whose body says so, keeps those that say `slow` until it is told, and takes all
/// others.
#[derive(Debug, Default)]
struct App {
    seen: Mutex<Vec<(Bytes, bool)>>,
    slow_came: Notify,
    go_on: Notify,
}

#[async_trait]
impl Application for App {
    async fn take(&self, event: &Event, sending: Sending) -> Outcome {
        let first = {
            let mut seen = self.seen.lock().unwrap();
            let first = seen.iter().all(|(body, _)| *body != *event.body);
            seen.push((event.body.clone().into_bytes(), sending.possible_duplicate));
            first
        };
        assert!(!(first && event.body.starts_with(b"\"panic")), "as meant");
        if event.body.starts_with(b"\"slow") {
            self.slow_came.notify_one();
            self.go_on.notified().await;
        }
        Outcome::Accepted(AppAnswer { status: StatusCode::OK, headers: Headers::new(), body: Bytes::new() })
    }
}

struct World {
    app: Arc<App>,
    route: Arc<Route>,
    deliverer: Deliverer,
    metrics: Arc<Metrics>,
    door: Door,
    address: std::net::SocketAddr,
    _folder: tempfile::TempDir,
}

async fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hookgate.toml");
    std::fs::write(&file, CONFIGURATION).unwrap();
    let Ok(config) = load(Some(&file), &Environment::of::<&str, &str>(START, [])) else { panic!("it is right") };
    let labels = [RouteLabels { name: "a".to_owned(), secrets: 1 }];
    let (metrics, app) = (Arc::new(Metrics::new(&labels).unwrap()), Arc::<App>::default());
    let path = folder.path().join("spool");
    let settings = DiskSettings { path, max_bytes: 1 << 20, max_dead_bytes: u64::MAX, min_free_bytes: 0 };
    let disk = Disk::open(settings, START, metrics.clone()).unwrap().disk;
    let clock = Clock::anchored_at(START);
    let claims = Claims::new(Arc::new(Embedded::new(disk.clone())), clock);
    let deliverer = Deliverer::towards(app.clone(), Spool::new(disk), claims.clone(), clock, metrics.clone());
    deliverer.configure(&config.routes);
    let buffers = Buffers::new(1 << 20, 8192, metrics.clone());
    let site = Site::new(&config.routes, Vec::new(), config.app.clone());
    let gateway = Gateway::new(site, claims, deliverer.clone(), clock, metrics.clone(), Recent::default(), buffers);
    let hour = Duration::from_secs(3600);
    let limits = DoorLimits {
        max_connections: 10,
        max_connections_per_source: 10,
        header_timeout: hour,
        idle_timeout: hour,
        max_header_bytes: 8192,
    };
    let door = Door::new(Arc::new(gateway), Crew::nobody(), limits, None);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(door.clone().serve(listener, Instant::now()));
    World { app, route: config.routes[0].clone(), deliverer, metrics, door, address, _folder: folder }
}

impl World {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends an event with this body and id.
    async fn send(&self, to: &mut TcpStream, body: &str) {
        let mut request = Unsigned {
            method: Method::POST,
            url: "http://h/hook".to_owned(),
            headers: Headers::from_iter([("x-github-delivery".parse().unwrap(), HeaderValue::from_static("1"))]),
            body: Bytes::from(format!("\"{body}\"")),
        };
        self.route.scheme.sign(&mut request, &self.route.secrets[0].secret, START).unwrap();
        let mut text = format!("POST /hook HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n", request.body.len());
        for (name, value) in &request.headers {
            text.push_str(&[name.as_str(), ": ", value.to_str().unwrap(), "\r\n"].concat());
        }
        text.push_str("\r\n");
        to.write_all(&[text.as_bytes(), &request.body].concat()).await.unwrap();
    }

    async fn ask(&self, to: &mut TcpStream, body: &str) -> String {
        self.send(to, body).await;
        reply(to).await
    }

    fn flags_of(&self, body: &str) -> Vec<bool> {
        let seen = self.app.seen.lock().unwrap();
        seen.iter().filter(|(seen, _)| *seen == format!("\"{body}\"")).map(|(_, flagged)| *flagged).collect()
    }
}

/// The next reply's head and body; empty if the connection is closed without one.
async fn reply(from: &mut TcpStream) -> String {
    let mut all = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&all).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
            if length.is_none_or(|length| body.len() == length.parse::<usize>().unwrap()) {
                return text;
            }
        }
        if from.read_buf(&mut all).await.unwrap() == 0 {
            return String::from_utf8(all).unwrap();
        }
    }
}

#[tokio::test]
async fn a_request_that_panics_ends_alone_and_leaves_nothing_behind() {
    let world = world().await;
    let (mut steady, mut slow) = (world.connect().await, world.connect().await);
    assert!(world.ask(&mut steady, "before").await.starts_with("HTTP/1.1 200 "));
    world.send(&mut slow, "slow").await;
    world.app.slow_came.notified().await;
    // Three, where the application takes two at a time and one is there: a slot that is lost would be missed.
    for panics in ["panic 1", "panic 2", "panic 3"] {
        let mut unlucky = world.connect().await;
        assert_eq!(world.ask(&mut unlucky, panics).await, "", "its sender learns nothing and comes again");
        assert!(world.ask(&mut steady, &format!("after {panics}")).await.starts_with("HTTP/1.1 200 "));
    }
    world.app.go_on.notify_one();
    assert!(reply(&mut slow).await.starts_with("HTTP/1.1 200 "), "what was under way ends as it should");
    let retried = world.ask(&mut steady, "panic 1").await;
    assert!(retried.starts_with("HTTP/1.1 503 ") && retried.contains("in_flight_elsewhere"), "{retried}");
    // Nothing is under way that would be woken by this.
    tokio::time::pause();
    tokio::time::advance(LEASE).await;
    tokio::time::resume();
    assert!(world.ask(&mut steady, "panic 1").await.starts_with("HTTP/1.1 200 "));
    assert_eq!(world.flags_of("panic 1"), [false, true], "once more, and flagged: it may have been processed");
    assert_eq!(world.flags_of("before"), [false]);
    drop((steady, slow));
    world.door.close();
    world.door.closed().await;
    world.deliverer.drain(Instant::now());
    let by = Instant::now() + Duration::from_secs(10);
    assert_eq!(world.deliverer.settled(by).await, Settlement::Complete, "no delivery is counted as running");
    assert_eq!((world.metrics.connections.get(), world.metrics.buffered_bytes.get()), (0, 0));
    assert_eq!(world.metrics.attempts_in_flight.with_label_values(&["a"]).get(), 0);
}

const QUOTED: &str = "canary-in-a-panic-41c7";

#[tokio::test]
#[ignore = "started by its parent, which reads what it says"]
async fn child_that_logs_as_the_program_does_and_panics() {
    let settings =
        logs::Settings { format: logs::Format::Json, level: logs::Level::Trace, colour: logs::Colour::Forbidden };
    let logs = logs::init(settings, &Arc::new(Metrics::new(&[]).unwrap())).unwrap();
    let unlucky = tokio::spawn(async { panic!("what a sender wrote: {QUOTED}") });
    assert!(unlucky.await.is_err());
    drop(logs);
}

#[test]
fn a_process_that_logs_as_the_program_does_tells_no_message_of_a_panic() {
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--ignored", "--exact", "--nocapture", "child_that_logs_as_the_program_does_and_panics"]);
    let said = child.env("RUST_BACKTRACE", "1").output().unwrap();
    assert!(said.status.success(), "{said:?}");
    let text = [said.stdout, said.stderr].map(|part| String::from_utf8(part).unwrap()).concat();
    assert!(text.contains("\"place\":\"tests/panics.rs:"), "it is told where it was: {text}");
    assert!(!text.contains(QUOTED), "{text}");
}

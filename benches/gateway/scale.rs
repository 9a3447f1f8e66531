//! The curves: memory and p99 against connections, routes, pending events, remembered events and the size of a body, each
//! with its slope; then memory at rest and the time from start to ready.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use super::app::App;
use super::gateway::{Gateway, Shape, load};
use super::http::whole;
use super::options::{Options, number};
use super::peers::PATH;
use super::process::{free_port, local};
use super::say;
use super::sender::{SECRET, Sender};
use super::table::median;

/// One point of a curve.
struct Point {
    at: f64,
    rss: f64,
    p99: f64,
    rate: f64,
    ready: Duration,
}

pub(crate) fn scale(options: &Options, which: &[&str]) {
    let all = which.is_empty();
    let wants = |name: &str| all || which.contains(&name);
    let most = number("BENCH_SCALE", 10_000);
    if wants("rest") {
        let _within = rest(options);
    }
    if wants("connections") {
        let points = steps(most).into_iter().map(|held| connections(options, held)).collect();
        print("idle connections held beside 64 busy ones", "KiB a connection", 1024.0, points);
    }
    if wants("routes") {
        let points = steps(most).into_iter().map(|count| routes(options, count.max(1))).collect();
        print("routes", "KiB a route", 1024.0, points);
    }
    if wants("pending") {
        let points = steps(number("BENCH_PENDING", 100_000)).into_iter().map(|count| pending(options, count)).collect();
        print("pending events", "bytes an event", 1024.0 * 1024.0, points);
    }
    if wants("keys") {
        print("remembered events", "bytes an event", 1024.0 * 1024.0, keys(options, number("BENCH_KEYS", 300_000)));
    }
    if wants("bytes") {
        let sizes = [1, 4, 16, 64, 256, 1000];
        let points = sizes.iter().map(|kib| bytes(options, kib << 10)).collect();
        print("bytes of a body, 64 connections", "bytes a byte and connection", 1024.0 * 1024.0 / 64.0, points);
    }
}

fn steps(most: usize) -> Vec<usize> {
    vec![0, most / 100, most / 10, most / 2, most]
}

/// A table, and the slope of the memory between its first and its last row in `unit`s of a MiB.
fn print(what: &str, unit: &str, per_mib: f64, points: Vec<Point>) {
    println!("| {what} | RSS MiB | p99 µs | requests/s | ready ms |\n|---|---|---|---|---|");
    for point in &points {
        let ready = point.ready.as_secs_f64() * 1000.0;
        println!("| {:.0} | {:.1} | {:.0} | {:.0} | {ready:.0} |", point.at, point.rss, point.p99, point.rate);
    }
    if let (Some(first), Some(last)) = (points.first(), points.last()) {
        let slope = (last.rss - first.rss) / (last.at - first.at) * per_mib;
        println!("\n{slope:.2} {unit}\n");
    }
}

/// What a gateway at rest may take, MiB, and its start on an empty spool, ms.
const MEANT: [f64; 2] = [20.0, 200.0];

/// Memory at rest and the time to ready, on an empty spool. Are the medians within what is meant?
pub(crate) fn rest(options: &Options) -> bool {
    let app = App::start(Duration::ZERO);
    let (mut ready, mut rss) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds.max(3) {
        let folder = tempfile::tempdir_in(&options.folder).expect("a temporary folder");
        let gateway = Gateway::start(options, &folder.path().join("spool"), app.address, &Shape::default());
        std::thread::sleep(Duration::from_secs(1));
        ready.push(gateway.ready.as_secs_f64() * 1000.0);
        rss.push(gateway.rss());
    }
    println!("| at rest, empty spool | median | most | meant |\n|---|---|---|---|");
    let most = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    println!("| RSS MiB | {:.1} | {:.1} | {} |", median(rss.clone()), most(&rss), MEANT[0]);
    println!("| start to ready, ms | {:.0} | {:.0} | {} |\n", median(ready.clone()), most(&ready), MEANT[1]);
    median(rss) <= MEANT[0] && median(ready) <= MEANT[1]
}

fn point(options: &Options, gateway: &Gateway, path: &str, at: usize, bytes: usize) -> Point {
    let load = load(gateway.address, path, 64, bytes, options.length, u64::MAX);
    if load.failed > 0 {
        say(&format!("at {at}: {} failed", load.failed));
    }
    Point { at: at as f64, rss: gateway.rss(), p99: load.times.micros(0.99), rate: load.rate(), ready: gateway.ready }
}

fn connections(options: &Options, held: usize) -> Point {
    let (folder, app) = (tempfile::tempdir_in(&options.folder).expect("a folder"), App::start(Duration::ZERO));
    let gateway = Gateway::start(options, &folder.path().join("spool"), app.address, &Shape::default());
    let held: Vec<TcpStream> = hold(gateway.address, held);
    let point = point(options, &gateway, PATH, held.len(), 1024);
    drop(held);
    point
}

/// Connections over each of which one event went.
fn hold(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut sender = Sender::new(PATH, 1024, true);
    let mut request = sender.first();
    let mut buffer = [0; 4096];
    let one = |_| {
        let mut stream = TcpStream::connect(address).expect("a connection");
        sender.next(&mut request);
        let bytes = [request.head.as_slice(), &request.common.body, &request.tail].concat();
        stream.write_all(&bytes).expect("a written request");
        let mut filled = 0;
        while whole(&buffer[..filled]).is_none() {
            let length = stream.read(&mut buffer[filled..]).expect("an answer");
            assert!(length > 0, "closed with no answer");
            filled += length;
        }
        stream
    };
    (0..count).map(one).collect()
}

fn routes(options: &Options, count: usize) -> Point {
    let (folder, app) = (tempfile::tempdir_in(&options.folder).expect("a folder"), App::start(Duration::ZERO));
    let mut more = String::new();
    for number in 1..count {
        let _written = write!(
            more,
            "[routes.route-{number}]\npath = \"/webhooks/route-{number}\"\nprovider = \"veedeo\"\nsecrets = [{{ literal = \"{SECRET}\" }}]\n"
        );
    }
    let shape = Shape { more: &more, under: &[] };
    let gateway = Gateway::start(options, &folder.path().join("spool"), app.address, &shape);
    let path = if count > 1 { format!("/webhooks/route-{}", count - 1) } else { PATH.to_owned() };
    point(options, &gateway, &path, count, 1024)
}

/// New events into a spool with so many that cannot be delivered.
fn pending(options: &Options, count: usize) -> Point {
    let folder = tempfile::tempdir_in(&options.folder).expect("a folder");
    let shape = Shape { more: "[ack]\nmode = \"queue\"\n", under: &[] };
    let gateway = Gateway::start(options, &folder.path().join("spool"), local(free_port()), &shape);
    if count > 0 {
        gateway.load(64, 1024, Duration::from_secs(3600), count as u64);
    }
    let seen = gateway.metric("hookgate_spool_events{");
    say(&format!("{seen} events wait"));
    point(options, &gateway, PATH, count, 1024)
}

/// One gateway that remembers more and more.
fn keys(options: &Options, most: usize) -> Vec<Point> {
    let (folder, app) = (tempfile::tempdir_in(&options.folder).expect("a folder"), App::start(Duration::ZERO));
    let gateway = Gateway::start(options, &folder.path().join("spool"), app.address, &Shape::default());
    let mut points = Vec::new();
    let mut sent = 0;
    for count in [most / 100, most / 10, most / 2, most] {
        sent += gateway.load(64, 1024, Duration::from_secs(3600), (count as u64).saturating_sub(sent)).events;
        let before = app.count();
        points.push(Point { at: sent as f64, ..point(options, &gateway, PATH, count, 1024) });
        sent += app.count() - before;
    }
    say(&format!("{} MiB on disk", folder_mib(folder.path())));
    points
}

fn bytes(options: &Options, size: usize) -> Point {
    let (folder, app) = (tempfile::tempdir_in(&options.folder).expect("a folder"), App::start(Duration::ZERO));
    let gateway = Gateway::start(options, &folder.path().join("spool"), app.address, &Shape::default());
    point(options, &gateway, PATH, size, size)
}

fn folder_mib(folder: &Path) -> u64 {
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
    let spool = folder.join("spool");
    let files = std::fs::read_dir(spool).expect("the spool");
    files.map(|file| size(&file.expect("a file").path())).sum::<u64>() >> 20
}

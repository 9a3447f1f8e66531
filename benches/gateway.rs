//! Measures the release binary beside nginx on the same machine in one run: requests a second and CPU time of the
//! measured process per request, for unique, signed 1 KiB events over 64 connections.
//!
//! `cargo bench --bench gateway`. Needs nginx. Rounds are interleaved, so that what else the machine does falls on all.
//! The figures that count are the ratios. `BENCH_SECONDS` and `BENCH_ROUNDS` set the size.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a benchmark: it may end with a message, it prints its table, and it tells the time"
)]

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SECRET: &[u8] = b"bench-secret-0123456789abcdef";
const CONNECTIONS: usize = 64;
const BODY_BYTES: usize = 1024;

fn main() {
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    let seconds = number("BENCH_SECONDS", 5);
    let rounds = number("BENCH_ROUNDS", 5);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let upstream = free_port();
    let nginx_port = free_port();
    let _upstream = nginx(
        folder.path(),
        "upstream",
        &format!(
            "server {{ listen 127.0.0.1:{upstream} reuseport; keepalive_requests 100000000; location / {{ return 200 '{{\"received\":true}}'; default_type application/json; }} }}"
        ),
    );
    let proxy = nginx(
        folder.path(),
        "proxy",
        &format!(
            "upstream app {{ server 127.0.0.1:{upstream}; keepalive 128; keepalive_requests 100000000; }} server {{ listen 127.0.0.1:{nginx_port}; keepalive_requests 100000000; location / {{ proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ''; }} }}"
        ),
    );
    let relay = Gateway::start(folder.path(), "relay", upstream, "");
    let queue = Gateway::start(folder.path(), "queue", upstream, "[ack]\nmode = \"queue\"\n");
    let targets = [
        Target {
            name: "nginx proxy_pass, no check",
            address: local(nginx_port),
            path: "/webhooks/veedeo",
            pid: proxy.id(),
        },
        Target { name: "hookgate passthrough, no check", address: relay.address, path: "/pass", pid: relay.child.id() },
        Target {
            name: "hookgate relay: verify, dedup, deliver",
            address: relay.address,
            path: "/webhooks/veedeo",
            pid: relay.child.id(),
        },
        Target {
            name: "hookgate queue: verify, dedup, fsync, ack",
            address: queue.address,
            path: "/webhooks/veedeo",
            pid: queue.child.id(),
        },
    ];
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let mut results: Vec<Vec<Figures>> = targets.iter().map(|_| Vec::new()).collect();
    for round in 0..rounds {
        for (target, results) in targets.iter().zip(&mut results) {
            let figures = runtime.block_on(load(target, Duration::from_secs(seconds)));
            eprintln(&format!(
                "round {round}: {}: {:.0} requests/s, {} failed",
                target.name, figures.rate, figures.failed
            ));
            results.push(figures);
            settle(target, &queue);
        }
    }
    print_table(&targets, &results);
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn eprintln(text: &str) {
    use std::io::Write as _;
    let _written = writeln!(std::io::stderr(), "{text}");
}

struct Target {
    name: &'static str,
    address: SocketAddr,
    path: &'static str,
    pid: u32,
}

struct Figures {
    rate: f64,
    cpu_micros: f64,
    median_micros: u64,
    p99_micros: u64,
    failed: u64,
}

/// A child that ends with the benchmark.
struct Running(Child);

impl Running {
    fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let pid = self.0.id().to_string();
        let _told = Command::new("kill").args(["-TERM", &pid]).status();
        let _ended = self.0.wait();
    }
}

struct Gateway {
    child: Running,
    address: SocketAddr,
}

impl Gateway {
    fn start(folder: &Path, name: &str, upstream: u16, more: &str) -> Self {
        let port = free_port();
        let config = folder.join(format!("{name}.toml"));
        let text = format!(
            "listen = \"127.0.0.1:{port}\"\ntelemetry = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n[log]\nlevel = \"warn\"\n\
             [app]\nurl = \"http://127.0.0.1:{upstream}\"\n[spool]\npath = \"{}\"\nmax_bytes = \"16GiB\"\n{more}\
             [passthrough]\npaths = [\"/pass\"]\n\
             [routes.veedeo]\npath = \"/webhooks/veedeo\"\nprovider = \"veedeo\"\nsecrets = [ {{ literal = \"{}\" }} ]\n",
            folder.join(name).display(),
            std::str::from_utf8(SECRET).unwrap(),
        );
        std::fs::write(&config, text).expect("a configuration");
        let child = Command::new(env!("CARGO_BIN_EXE_hookgate"))
            .args(["run", "-c"])
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the gateway starts");
        wait_for(port);
        Self { child: Running(child), address: local(port) }
    }
}

fn nginx(folder: &Path, name: &str, server: &str) -> Running {
    let config = folder.join(format!("{name}.conf"));
    let text = format!(
        "worker_processes 1; daemon off; master_process off; pid {0}/{name}.pid; error_log {0}/{name}.log crit; \
         events {{ worker_connections 4096; }} http {{ access_log off; client_body_temp_path {0}/{name}-b; \
         proxy_temp_path {0}/{name}-p; fastcgi_temp_path {0}/{name}-f; uwsgi_temp_path {0}/{name}-u; scgi_temp_path {0}/{name}-s; {server} }}",
        folder.display()
    );
    std::fs::write(&config, text).expect("an nginx configuration");
    let child = Command::new("nginx").arg("-c").arg(&config).stderr(Stdio::null()).spawn();
    let running = Running(child.expect("nginx is installed (apt-get install nginx)"));
    std::thread::park_timeout(Duration::from_millis(300));
    running
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn wait_for(port: u16) {
    let until = Instant::now() + Duration::from_secs(20);
    while std::net::TcpStream::connect(local(port)).is_err() {
        assert!(Instant::now() < until, "nothing listens on port {port}");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

/// User and system time of a process so far.
fn cpu_micros(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process lives");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks * 10_000.0
}

async fn load(target: &Target, duration: Duration) -> Figures {
    let failed = Arc::new(AtomicU64::new(0));
    let began_cpu = cpu_micros(target.pid);
    let began = Instant::now();
    let tasks: Vec<_> = (0..CONNECTIONS)
        .map(|number| tokio::spawn(connection(target.address, target.path, number, began + duration, failed.clone())))
        .collect();
    let mut micros = Vec::new();
    for task in tasks {
        micros.extend(task.await.expect("a connection's task ends"));
    }
    let seconds = began.elapsed().as_secs_f64();
    let cpu = cpu_micros(target.pid) - began_cpu;
    micros.sort_unstable();
    let count = micros.len().max(1);
    Figures {
        rate: count as f64 / seconds,
        cpu_micros: cpu / count as f64,
        median_micros: micros.get(count / 2).copied().unwrap_or(0),
        p99_micros: micros.get(count * 99 / 100).copied().unwrap_or(0),
        failed: failed.load(Ordering::Relaxed),
    }
}

async fn connection(
    address: SocketAddr,
    path: &'static str,
    number: usize,
    until: Instant,
    failed: Arc<AtomicU64>,
) -> Vec<u64> {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.set_nodelay(true).expect("a socket option");
    let mut times = Vec::with_capacity(100_000);
    let mut buffer = vec![0; 8192];
    let run = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    for count in 0_u64.. {
        let began = Instant::now();
        if began >= until {
            break;
        }
        let request = signed(path, &format!("tsk_{run:x}_{number}_{count}"));
        stream.write_all(&request).await.expect("a written request");
        let status = answer(&mut stream, &mut buffer).await;
        if status == 200 {
            times.push(began.elapsed().as_micros() as u64);
        } else {
            failed.fetch_add(1, Ordering::Relaxed);
        }
    }
    times
}

/// A whole answer; its status.
async fn answer(stream: &mut TcpStream, buffer: &mut [u8]) -> u16 {
    let mut filled = 0;
    loop {
        let count = stream.read(&mut buffer[filled..]).await.expect("an answer");
        assert!(count > 0, "the connection was closed");
        filled += count;
        let Some(head) = buffer[..filled].windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let text = std::str::from_utf8(&buffer[..head]).unwrap().to_ascii_lowercase();
        let length: usize = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |digits| digits.trim().parse().unwrap());
        if filled >= head + 4 + length {
            return text[9..12].parse().unwrap();
        }
    }
}

/// One event of exactly 1 KiB, signed as the provider documents.
fn signed(path: &str, task: &str) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let stamp = jiff::Timestamp::from_second(now.cast_signed()).unwrap();
    let mut body = format!(r#"{{"event":"task.completed","timestamp":"{stamp}","task_id":"{task}","data":{{"pad":""#);
    let pad = BODY_BYTES.saturating_sub(body.len() + 3);
    body.extend(std::iter::repeat_n('x', pad));
    body.push_str("\"}}");
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET).unwrap();
    mac.update(body.as_bytes());
    let signature = data_encoding::HEXLOWER.encode(&mac.finalize().into_bytes());
    let mut request = String::with_capacity(1500);
    let _written = write!(
        request,
        "POST {path} HTTP/1.1\r\nHost: hooks.example\r\nContent-Type: application/json\r\nX-Veedeo-Signature: sha256={signature}\r\n\
         X-Veedeo-Timestamp: {now}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    request.into_bytes()
}

/// Lets a queue drain before the next round, so that rounds do not pay for one another.
fn settle(target: &Target, queue: &Gateway) {
    if target.address != queue.address {
        return;
    }
    let mut last = cpu_micros(target.pid);
    loop {
        std::thread::park_timeout(Duration::from_millis(500));
        let now = cpu_micros(target.pid);
        if now - last < 20_000.0 {
            return;
        }
        last = now;
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn print_table(targets: &[Target], results: &[Vec<Figures>]) {
    let of = |index: usize, figure: fn(&Figures) -> f64| median(results[index].iter().map(figure).collect());
    let base = of(0, |figures| figures.rate);
    println!("| what | requests/s against nginx | CPU µs/request | median µs | p99 µs | failed |");
    println!("|---|---|---|---|---|---|");
    for (index, target) in targets.iter().enumerate() {
        println!(
            "| {} | {:.2} | {:.1} | {:.0} | {:.0} | {} |",
            target.name,
            of(index, |figures| figures.rate) / base,
            of(index, |figures| figures.cpu_micros),
            of(index, |figures| figures.median_micros as f64),
            of(index, |figures| figures.p99_micros as f64),
            results[index].iter().map(|figures| figures.failed).sum::<u64>(),
        );
    }
}

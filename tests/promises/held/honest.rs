//! Honest senders beside a crowd: a few threads that send signed events at a fixed pace, three of four requests over
//! connections that stay, and time each. And the lean application behind them, for many connections at once.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::clock::pause;
use crate::world::events::task;
use crate::world::sender::Request;
use crate::world::sign::Provider;

/// A connection to the gateway, encrypted or not.
pub(crate) trait Wire: Read + Write + Send {}
impl<T: Read + Write + Send> Wire for T {}

/// How connections are made.
pub(crate) type Connect<'a> = dyn Fn() -> std::io::Result<Box<dyn Wire>> + Sync + 'a;

/// How many threads send.
const SENDERS: usize = 4;
/// How often each does.
const EVERY: Duration = Duration::from_millis(20);

/// What honest senders saw.
#[derive(Debug, Default)]
pub(crate) struct Times {
    took: Vec<Duration>,
    /// Requests that were not acknowledged, and how they ended.
    pub(crate) failed: Vec<String>,
}

impl Times {
    /// How many were acknowledged.
    pub(crate) fn count(&self) -> usize {
        self.took.len()
    }

    /// The time that this share of them did not exceed.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        let mut sorted = self.took.clone();
        sorted.sort_unstable();
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a place in a short list"
        )]
        let at = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
        sorted.get(at).copied().unwrap_or_default()
    }
}

/// Sends until `done`.
pub(crate) fn send_until(done: &AtomicBool, connect: &Connect<'_>) -> Times {
    let times = Mutex::new(Times::default());
    std::thread::scope(|scope| {
        for number in 0..SENDERS {
            let times = &times;
            scope.spawn(move || send(number, done, connect, times));
        }
    });
    times.into_inner().unwrap()
}

fn send(number: usize, done: &AtomicBool, connect: &Connect<'_>, times: &Mutex<Times>) {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let mut kept = connect().expect("the gateway listens");
    let mut due = Instant::now();
    let mut round = number;
    while !done.load(Ordering::SeqCst) {
        round += 1;
        let request = Provider::Veedeo.sign(task(format!("honest-{}", NEXT.fetch_add(1, Ordering::SeqCst))));
        let from = Instant::now();
        let answered = if round.is_multiple_of(4) {
            connect().and_then(|mut wire| exchange(&mut *wire, &request))
        } else {
            exchange(&mut *kept, &request)
        };
        let took = from.elapsed();
        let mut times = times.lock().unwrap();
        match answered {
            Ok(status) if status.starts_with("HTTP/1.1 200 ") => times.took.push(took),
            other => {
                times.failed.push(format!("after {took:?}: {other:?}"));
                drop(times);
                kept = connect().expect("the gateway listens");
            }
        }
        due = (due + EVERY).max(Instant::now());
        pause(due.saturating_duration_since(Instant::now()));
    }
}

/// Sends and reads a reply of known length; its status line.
fn exchange(wire: &mut dyn Wire, request: &Request) -> std::io::Result<String> {
    let (head, body) = request.bytes();
    wire.write_all(&[head, body].concat())?;
    let mut reply = Vec::new();
    let mut piece = [0; 1024];
    loop {
        let count = wire.read(&mut piece)?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        reply.extend_from_slice(&piece[..count]);
        let text = String::from_utf8_lossy(&reply);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::parse::<usize>));
        if body.len() >= length.and_then(Result::ok).unwrap_or(0) {
            return Ok(head.lines().next().unwrap_or_default().to_owned());
        }
    }
}

/// An application for many connections: 200 to everything, and to `GET /big` an answer of [`BIG`] bytes.
pub(crate) struct LeanApp {
    address: std::net::SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

/// Bytes of the long answer.
pub(crate) const BIG: usize = 512 * 1024;

impl LeanApp {
    /// Starts it.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream));
            }
        });
        Self { address, _runtime: runtime }
    }

    /// Its address for the configuration.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

async fn serve(mut stream: tokio::net::TcpStream) -> Option<()> {
    let mut came = Vec::new();
    loop {
        let (end, length) = loop {
            let head = came.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(at) = head {
                let text = String::from_utf8_lossy(&came[..at]).to_ascii_lowercase();
                let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
                break (at + 4, length.unwrap_or(0));
            }
            (stream.read_buf(&mut came).await.ok()? > 0).then_some(())?;
        };
        while came.len() < end + length {
            (stream.read_buf(&mut came).await.ok()? > 0).then_some(())?;
        }
        let big = came.starts_with(b"GET /big ");
        came.drain(..end + length);
        let body = if big { BIG } else { 0 };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {body}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.ok()?;
        if big {
            static LONG: [u8; BIG] = [b'b'; BIG];
            stream.write_all(&LONG).await.ok()?;
        }
    }
}

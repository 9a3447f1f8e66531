//! The application behind the gateway: it listens on a port of its own, reads every request strictly, writes down what
//! came and does what the test told it to. A request that is not clean HTTP/1.1 is a violation, and a violation fails
//! the test that drops the application. It never calls anyone.

use std::collections::{HashMap, VecDeque};
use std::fmt::{self, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::act::{Act, Early, accept};
use super::clock::{SOON, eventually, pause};
use super::ports::Port;
use super::wire::{Headers, Unframed, Wire, WireFault};

/// One request as the application saw it.
#[derive(Clone)]
pub(crate) struct Seen {
    /// Which connection brought it, counted from 0.
    pub(crate) connection: usize,
    /// When it was complete.
    pub(crate) at: Instant,
    /// Method.
    pub(crate) method: String,
    /// Path and query, byte for byte.
    pub(crate) target: String,
    /// The header lines.
    pub(crate) headers: Headers,
    /// The body.
    pub(crate) body: Vec<u8>,
    /// The status that was written, or is just being written.
    pub(crate) answered: Option<u16>,
}

impl Seen {
    /// SHA-256 of the body.
    pub(crate) fn sha256(&self) -> [u8; 32] {
        Sha256::digest(&self.body).into()
    }

    /// The value of a header that stands there once, or nothing.
    pub(crate) fn header(&self, name: &str) -> String {
        self.headers.get(name).unwrap_or_default()
    }

    /// `Hookgate-Key`.
    pub(crate) fn key(&self) -> String {
        self.header("hookgate-key")
    }

    /// `Hookgate-Attempt`.
    pub(crate) fn attempt(&self) -> u32 {
        self.header("hookgate-attempt").parse().expect("a Hookgate-Attempt that is a number")
    }

    /// Whether it says that an earlier sending may have been processed.
    pub(crate) fn flagged(&self) -> bool {
        self.header("hookgate-possible-duplicate") == "true"
    }
}

impl fmt::Debug for Seen {
    /// What a failed test needs: texts in place of bytes, and no endless body.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = self.body.get(..200).unwrap_or(&self.body);
        writeln!(f, "\n{} {} on connection {}", self.method, self.target, self.connection)?;
        for (name, value) in &self.headers.0 {
            writeln!(f, "  {name}: {}", String::from_utf8_lossy(value))?;
        }
        writeln!(f, "  {} bytes: {}\n  answered {:?}", self.body.len(), String::from_utf8_lossy(start), self.answered)
    }
}

type Decide = Arc<dyn Fn(&Seen) -> Act + Send + Sync>;

struct Inside {
    seen: Mutex<Vec<Seen>>,
    violations: Mutex<Vec<String>>,
    script: Mutex<VecDeque<Act>>,
    early: Mutex<VecDeque<Early>>,
    decide: Mutex<Decide>,
    connections: AtomicUsize,
    slammed: AtomicUsize,
    open: Mutex<HashMap<usize, TcpStream>>,
    ended: AtomicBool,
}

/// The scripted application.
pub(crate) struct App {
    port: Port,
    inside: Arc<Inside>,
    listening: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

impl App {
    /// An application that answers 200 to everything.
    pub(crate) fn start() -> Self {
        let mut app = Self::stopped();
        app.up();
        app
    }

    /// An application that is down.
    pub(crate) fn stopped() -> Self {
        let inside = Inside {
            seen: Mutex::default(),
            violations: Mutex::default(),
            script: Mutex::default(),
            early: Mutex::default(),
            decide: Mutex::new(Arc::new(|_| accept())),
            connections: AtomicUsize::new(0),
            slammed: AtomicUsize::new(0),
            open: Mutex::default(),
            ended: AtomicBool::new(false),
        };
        Self { port: Port::claim(), inside: Arc::new(inside), listening: None }
    }

    /// Its address for the configuration.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.port.address())
    }

    /// Opens the port; the same one every time.
    pub(crate) fn up(&mut self) {
        assert!(self.listening.is_none(), "the application is up already");
        let listener =
            eventually("the application's port is free", SOON, || TcpListener::bind(self.port.address()).ok());
        let stop = Arc::new(AtomicBool::new(false));
        let (inside, stopping) = (Arc::clone(&self.inside), Arc::clone(&stop));
        let thread = std::thread::spawn(move || listen(&listener, &inside, &stopping));
        self.listening = Some((stop, thread));
    }

    /// Closes the port and every connection.
    pub(crate) fn down(&mut self) {
        let Some((stop, thread)) = self.listening.take() else { return };
        stop.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.port.address()));
        thread.join().expect("the application's listener ends in peace");
        for (_, connection) in self.inside.open.lock().unwrap().drain() {
            connection.shutdown(Shutdown::Both).ok();
        }
    }

    /// From now on does this with every request.
    pub(crate) fn always(&self, act: Act) {
        self.decide(move |_| act.clone());
    }

    /// From now on asks `decide` what to do.
    pub(crate) fn decide(&self, decide: impl Fn(&Seen) -> Act + Send + Sync + 'static) {
        *self.inside.decide.lock().unwrap() = Arc::new(decide);
    }

    /// Does these first, one for each request in the order of their coming.
    pub(crate) fn first(&self, acts: impl IntoIterator<Item = Act>) {
        self.inside.script.lock().unwrap().extend(acts);
    }

    /// Does these first to requests of which it has read the head alone.
    pub(crate) fn at_the_head(&self, acts: impl IntoIterator<Item = Early>) {
        self.inside.early.lock().unwrap().extend(acts);
    }

    /// Closes the next `count` connections before it has read anything.
    pub(crate) fn slam(&self, count: usize) {
        self.inside.slammed.store(count, Ordering::SeqCst);
    }

    /// Everything seen so far, in order.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.inside.seen.lock().unwrap().clone()
    }

    /// How many requests were seen so far.
    pub(crate) fn count(&self) -> usize {
        self.inside.seen.lock().unwrap().len()
    }

    /// Waits until `count` requests have been seen, and returns them all.
    pub(crate) fn wait_for(&self, count: usize) -> Vec<Seen> {
        eventually(&format!("{count} requests at the application, {} are there", self.count()), SOON, || {
            let seen = self.seen();
            (seen.len() >= count).then_some(seen)
        })
    }

    /// The one request that was seen.
    pub(crate) fn only(&self) -> Seen {
        let mut seen = self.seen();
        assert_eq!(seen.len(), 1, "the application should have seen one request: {seen:?}");
        seen.remove(0)
    }

    /// What was not clean HTTP/1.1, since the last time of asking.
    pub(crate) fn violations(&self) -> Vec<String> {
        std::mem::take(&mut self.inside.violations.lock().unwrap())
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.inside.ended.store(true, Ordering::SeqCst);
        self.down();
        let violations = self.violations();
        if !std::thread::panicking() {
            assert!(violations.is_empty(), "the application was sent what is not clean HTTP/1.1: {violations:?}");
        }
    }
}

fn listen(listener: &TcpListener, inside: &Arc<Inside>, stop: &AtomicBool) {
    for stream in listener.incoming() {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let slam = inside.slammed.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        if slam {
            continue;
        }
        let connection = inside.connections.fetch_add(1, Ordering::SeqCst);
        if let Ok(copy) = stream.try_clone() {
            inside.open.lock().unwrap().insert(connection, copy);
        }
        let inside = Arc::clone(inside);
        std::thread::spawn(move || {
            serve(stream, connection, &inside);
            if let Some(stream) = inside.open.lock().unwrap().remove(&connection) {
                stream.shutdown(Shutdown::Both).ok();
            }
        });
    }
}

fn serve(stream: TcpStream, connection: usize, inside: &Inside) {
    let mut wire = Wire::new(stream, Duration::from_secs(3600));
    loop {
        match read(&mut wire, connection, inside) {
            Ok(Some(seen)) if seen.answered.is_some() => inside.lock_seen().push(seen),
            Ok(Some(seen)) => {
                let (index, act) = inside.note(seen);
                if !inside.perform(&mut wire, index, act) {
                    return;
                }
            }
            Ok(None) | Err(WireFault::Ended | WireFault::Broken(_) | WireFault::TimedOut) => return,
            Err(WireFault::Malformed(what)) => return inside.violation(format!("connection {connection}: {what}")),
        }
    }
}

/// `None`: the connection was reset at the head.
fn read(wire: &mut Wire, connection: usize, inside: &Inside) -> Result<Option<Seen>, WireFault> {
    let head = wire.head()?;
    let malformed = |what: &str| WireFault::Malformed(format!("{what} in {head:?}"));
    let [method, target, "HTTP/1.1"] = head.start.split(' ').collect::<Vec<_>>()[..] else {
        return Err(malformed("request line"));
    };
    if head.headers.all("host").len() != 1 {
        return Err(malformed("not one Host"));
    }
    let from_a_route = !head.headers.all("hookgate-event").is_empty();
    if from_a_route && (head.headers.get("content-length").is_none() || head.headers.get("expect").is_some()) {
        return Err(malformed("not one Content-Length, or an Expect,"));
    }
    let early = inside.early.lock().unwrap().pop_front();
    let mut answered = None;
    match early {
        None => {}
        Some(Early::Reset) => {
            inside.reset(wire, connection);
            return Ok(None);
        }
        Some(Early::Answer(status, bytes)) => {
            wire.write(&bytes)?;
            answered = Some(status);
        }
    }
    let body = wire.body(&head.headers, Unframed::Empty)?;
    if !wire.surplus().is_empty() {
        return Err(malformed("bytes behind the request"));
    }
    let (method, target) = (method.to_owned(), target.to_owned());
    Ok(Some(Seen { connection, at: Instant::now(), method, target, headers: head.headers, body, answered }))
}

impl Inside {
    fn lock_seen(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.seen.lock().unwrap()
    }

    fn violation(&self, what: String) {
        self.violations.lock().unwrap().push(what);
    }

    /// Has the connection reset as soon as it is dropped.
    fn reset(&self, wire: &Wire, connection: usize) {
        wire.linger_not();
        drop(self.open.lock().unwrap().remove(&connection));
    }

    fn note(&self, seen: Seen) -> (usize, Act) {
        let decide = Arc::clone(&self.decide.lock().unwrap());
        let scripted = self.script.lock().unwrap().pop_front();
        let act = scripted.unwrap_or_else(|| decide(&seen));
        let mut all = self.lock_seen();
        all.push(seen);
        (all.len() - 1, act)
    }

    /// Returns whether the connection lives on.
    fn perform(&self, wire: &mut Wire, index: usize, act: Act) -> bool {
        match act {
            Act::Answer { status, headers, body } => {
                self.lock_seen()[index].answered = Some(status);
                wire.write(&answer_bytes(status, &headers, &body)).is_ok()
            }
            Act::After(time, then) => {
                let from = Instant::now();
                while from.elapsed() < time && !self.ended.load(Ordering::SeqCst) {
                    pause(time.saturating_sub(from.elapsed()).min(Duration::from_millis(50)));
                }
                self.perform(wire, index, *then)
            }
            Act::Behind(gate, then) => {
                while !gate.wait(Duration::from_millis(50)) && !self.ended.load(Ordering::SeqCst) {}
                self.perform(wire, index, *then)
            }
            Act::Never => {
                wire.peek().ok();
                false
            }
            Act::HangUp => false,
            Act::Reset => {
                let connection = self.lock_seen()[index].connection;
                self.reset(wire, connection);
                false
            }
            Act::HalfClose => {
                wire.end_writing();
                wire.peek().ok();
                false
            }
            Act::BrokenBody(status) => {
                self.lock_seen()[index].answered = Some(status);
                let half = format!("HTTP/1.1 {status} OK\r\nContent-Length: 100\r\n\r\nhalf of it");
                wire.write(half.as_bytes()).ok();
                false
            }
            Act::Trickle(bytes, every) => {
                for byte in bytes {
                    pause(every);
                    if self.ended.load(Ordering::SeqCst) || wire.write(&[byte]).is_err() {
                        return false;
                    }
                }
                false
            }
            Act::AtOnceThen(at_once, bytes, every) => {
                wire.write(&at_once).is_ok() && self.perform(wire, index, Act::Trickle(bytes, every))
            }
            Act::Raw(bytes) => {
                wire.write(&bytes).ok();
                false
            }
        }
    }
}

fn answer_bytes(status: u16, headers: &[(String, String)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status} Said\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        write!(head, "{name}: {value}\r\n").expect("a text that grows");
    }
    [head.as_bytes(), b"\r\n", body].concat()
}

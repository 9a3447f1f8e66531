//! The application behind every measured process: a process of its own that reads each request to its end and answers
//! 200, at once or after a fixed time. A GET is answered with how many POSTs there were.
//!
//! Not a web server: it believes what it is sent.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::http::{Body, head};
use super::poll::{Poll, is_wait};
use super::process::{Running, free_port, local, spawn_self, wait_for};

const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 17\r\n\r\n{\"received\":true}";
const LISTENER: usize = usize::MAX >> 1;

/// The application as its parent sees it.
pub(crate) struct App {
    _running: Running,
    pub(crate) address: SocketAddr,
}

impl App {
    pub(crate) fn start(delay: Duration) -> Self {
        Self::start_on(free_port(), delay)
    }

    pub(crate) fn start_on(port: u16, delay: Duration) -> Self {
        let running = spawn_self(&["app", &port.to_string(), &delay.as_micros().to_string()]);
        wait_for(port);
        Self { _running: running, address: local(port) }
    }

    /// How many events it was sent so far.
    pub(crate) fn count(&self) -> u64 {
        let mut stream = TcpStream::connect(self.address).expect("the application is there");
        stream.write_all(b"GET / HTTP/1.1\r\nHost: app\r\n\r\n").expect("a question");
        let mut buffer = [0; 512];
        let length = stream.read(&mut buffer).expect("an answer");
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        text.rsplit("\r\n\r\n").next().and_then(|digits| digits.trim().parse().ok()).expect("a number")
    }
}

struct Peer {
    stream: TcpStream,
    /// What came of a head that is not whole yet.
    begun: Vec<u8>,
    /// Bytes of the body still to come.
    missing: usize,
    /// The body ends with an empty chunk.
    chunked: bool,
    is_post: bool,
}

/// The process itself. It ends when it is told to.
pub(crate) fn serve(port: u16, delay: Duration) {
    let listener = TcpListener::bind(local(port)).expect("the application's port");
    rustix::net::listen(&listener, 4096).expect("a longer backlog");
    listener.set_nonblocking(true).expect("a socket option");
    let mut app =
        Loop { poll: Poll::new(), peers: Vec::new(), free: Vec::new(), posts: 0, delay, due: VecDeque::new() };
    app.poll.add(&listener, LISTENER);
    let (mut changed, mut buffer) = (Vec::new(), vec![0; 256 << 10]);
    loop {
        let most =
            app.due.front().map_or(Duration::from_secs(1), |(at, _)| at.saturating_duration_since(Instant::now()));
        app.poll.wait(most, &mut changed);
        for number in &changed {
            if *number == LISTENER {
                app.accept(&listener);
            } else {
                app.read(*number, &mut buffer);
            }
        }
        app.answer_due();
    }
}

struct Loop {
    poll: Poll,
    peers: Vec<Option<Peer>>,
    free: Vec<usize>,
    posts: u64,
    delay: Duration,
    due: VecDeque<(Instant, usize)>,
}

impl Loop {
    fn accept(&mut self, listener: &TcpListener) {
        while let Ok((stream, _)) = listener.accept() {
            if stream.set_nonblocking(true).is_err() || stream.set_nodelay(true).is_err() {
                continue;
            }
            let number = self.free.pop().unwrap_or_else(|| {
                self.peers.push(None);
                self.peers.len() - 1
            });
            self.poll.add(&stream, number);
            self.peers[number] = Some(Peer { stream, begun: Vec::new(), missing: 0, chunked: false, is_post: false });
        }
    }

    fn read(&mut self, number: usize, buffer: &mut [u8]) {
        let Some(peer) = self.peers.get_mut(number).and_then(Option::as_mut) else { return };
        loop {
            match peer.stream.read(buffer) {
                Ok(0) => break,
                Ok(length) => {
                    let mut answers = 0;
                    self.posts += peer.take(&buffer[..length], &mut answers);
                    for _ in 0..answers {
                        if !peer.is_post {
                            let count = self.posts.to_string();
                            let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{count}", count.len());
                            let _written = peer.stream.write_all(text.as_bytes());
                        } else if self.delay.is_zero() {
                            let _written = peer.stream.write_all(ANSWER);
                        } else {
                            self.due.push_back((Instant::now() + self.delay, number));
                        }
                    }
                    // The rest of a small message: the next change is reported again.
                    if length < buffer.len() {
                        return;
                    }
                }
                Err(error) if is_wait(&error) => return,
                Err(_) => break,
            }
        }
        self.peers[number] = None;
        self.due.retain(|(_, waiting)| *waiting != number);
        self.free.push(number);
    }

    fn answer_due(&mut self) {
        let now = Instant::now();
        while self.due.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, number)) = self.due.pop_front() else { return };
            if let Some(peer) = self.peers.get_mut(number).and_then(Option::as_mut) {
                let _written = peer.stream.write_all(ANSWER);
            }
        }
    }
}

impl Peer {
    /// Takes what came. Returns how many POSTs ended with it; `answers` are due.
    fn take(&mut self, mut bytes: &[u8], answers: &mut usize) -> u64 {
        let mut posts = 0;
        while !bytes.is_empty() {
            if self.missing == 0 && !self.chunked {
                let joined;
                let before = self.begun.len();
                let seen = if before == 0 {
                    bytes
                } else {
                    self.begun.extend_from_slice(bytes);
                    joined = std::mem::take(&mut self.begun);
                    &joined
                };
                let Some(head) = head(seen) else {
                    self.begun = seen.to_vec();
                    return posts;
                };
                self.is_post = seen.first() == Some(&b'P');
                bytes = &bytes[head.length - before..];
                match head.body {
                    Body::Bytes(length) => self.missing = length,
                    Body::Chunked => self.chunked = true,
                }
            }
            if self.chunked {
                let is_end = bytes.ends_with(b"0\r\n\r\n");
                bytes = &[];
                if !is_end {
                    return posts;
                }
                self.chunked = false;
            }
            let taken = self.missing.min(bytes.len());
            self.missing -= taken;
            bytes = &bytes[taken..];
            if self.missing == 0 {
                *answers += 1;
                posts += u64::from(self.is_post);
            }
        }
        posts
    }
}

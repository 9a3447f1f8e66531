//! The generator: one thread, so many connections, on each the next request as soon as the last is answered.
//!
//! A closed load: when the measured process is slow, less is asked of it. So latencies of two processes are to be compared
//! at the same number of connections only.

use std::io::{IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::histogram::Histogram;
use super::http::{status, whole};
use super::poll::{Poll, connect, is_wait};
use super::process::cpu_micros;
use super::sender::{Request, Sender, TAIL};

pub(crate) struct Plan<'a> {
    pub(crate) address: SocketAddr,
    pub(crate) path: &'a str,
    pub(crate) bytes: usize,
    pub(crate) connections: usize,
    pub(crate) keep_alive: bool,
    /// Every second request is the one before it once more.
    pub(crate) repeats: bool,
    /// Not measured.
    pub(crate) warm: Duration,
    pub(crate) length: Duration,
    /// Ends earlier when so many requests have been sent.
    pub(crate) most: u64,
    /// Whose processor time is taken.
    pub(crate) pids: &'a [u32],
}

pub(crate) struct Load {
    pub(crate) times: Histogram,
    /// Answered 200 in the measured time.
    pub(crate) seconds: f64,
    /// Processor time of the measured processes in the measured time.
    pub(crate) cpu_micros: f64,
    /// Answers other than 200 and connections that broke, in the whole time.
    pub(crate) failed: u64,
    /// Events answered 200 in the whole time, repetitions left out.
    pub(crate) events: u64,
}

impl Load {
    pub(crate) fn rate(&self) -> f64 {
        self.times.count() as f64 / self.seconds
    }
}

#[derive(PartialEq)]
enum State {
    Sending,
    Waiting,
    Done,
}

struct Line {
    stream: TcpStream,
    request: Request,
    written: usize,
    began: Instant,
    begun: Vec<u8>,
    state: State,
    is_repeat: bool,
}

struct Run<'a> {
    plan: &'a Plan<'a>,
    poll: Poll,
    sender: Sender,
    lines: Vec<Line>,
    buffer: Vec<u8>,
    load: Load,
    is_measuring: bool,
    is_ending: bool,
    sent: u64,
    open: usize,
}

pub(crate) fn run(plan: &Plan<'_>) -> Load {
    let load = Load { times: Histogram::new(), seconds: 0.0, cpu_micros: 0.0, failed: 0, events: 0 };
    let mut run = Run {
        plan,
        poll: Poll::new(),
        sender: Sender::new(plan.path, plan.bytes, plan.keep_alive),
        lines: Vec::with_capacity(plan.connections),
        buffer: vec![0; 64 << 10],
        load,
        is_measuring: false,
        is_ending: false,
        sent: 0,
        open: 0,
    };
    run.open_lines();
    run.until_over();
    run.load
}

impl Run<'_> {
    fn open_lines(&mut self) {
        for number in 0..self.plan.connections {
            let stream = connect(self.plan.address).expect("a connection");
            self.poll.add(&stream, number);
            let request = self.sender.first();
            let line = Line {
                stream,
                request,
                written: 0,
                began: Instant::now(),
                begun: Vec::new(),
                state: State::Sending,
                is_repeat: false,
            };
            self.lines.push(line);
            self.sent += 1;
            self.open += 1;
            self.push(number);
        }
    }

    fn until_over(&mut self) {
        let start = Instant::now();
        let (mut measured, mut cpu) = (start, 0.0);
        let end = start + self.plan.warm + self.plan.length;
        let mut changed = Vec::new();
        let mut given_up = end + Duration::from_secs(20);
        while self.open > 0 {
            self.poll.wait(Duration::from_millis(5), &mut changed);
            let now = Instant::now();
            if !self.is_measuring && !self.is_ending && now >= start + self.plan.warm {
                (measured, cpu) = (now, cpu_micros(self.plan.pids));
                self.is_measuring = true;
            }
            for number in &changed {
                self.serve(*number);
            }
            if !self.is_ending && (now >= end || self.sent >= self.plan.most) {
                self.load.cpu_micros = cpu_micros(self.plan.pids) - cpu;
                self.load.seconds = measured.elapsed().as_secs_f64();
                (self.is_measuring, self.is_ending) = (false, true);
                given_up = Instant::now() + Duration::from_secs(20);
            }
            if now > given_up {
                self.load.failed += self.open as u64;
                return;
            }
        }
    }

    /// Something changed on this connection.
    fn serve(&mut self, number: usize) {
        if self.lines[number].state == State::Sending {
            self.push(number);
        }
        while self.lines[number].state == State::Waiting {
            let line = &mut self.lines[number];
            match line.stream.read(&mut self.buffer) {
                Ok(0) => return self.broken(number),
                Ok(length) => {
                    let answer = if line.begun.is_empty() {
                        let bytes = &self.buffer[..length];
                        let answer = whole(bytes).map(|_| status(bytes));
                        if answer.is_none() {
                            line.begun.extend_from_slice(bytes);
                        }
                        answer
                    } else {
                        line.begun.extend_from_slice(&self.buffer[..length]);
                        let answer = whole(&line.begun).map(|_| status(&line.begun));
                        if answer.is_some() {
                            line.begun.clear();
                        }
                        answer
                    };
                    if let Some(status) = answer {
                        return self.answered(number, status);
                    }
                }
                Err(error) if is_wait(&error) => return,
                Err(_) => return self.broken(number),
            }
        }
    }

    fn answered(&mut self, number: usize, status: u16) {
        let line = &mut self.lines[number];
        if status == 200 {
            self.load.events += u64::from(!line.is_repeat);
            if self.is_measuring {
                self.load.times.record(line.began.elapsed());
            }
        } else {
            self.load.failed += 1;
        }
        self.follow(number, !self.plan.keep_alive);
    }

    fn broken(&mut self, number: usize) {
        self.load.failed += 1;
        self.follow(number, true);
    }

    /// The next request, over a new connection if need be.
    fn follow(&mut self, number: usize, anew: bool) {
        let line = &mut self.lines[number];
        if self.is_ending || self.sent >= self.plan.most {
            line.state = State::Done;
            self.open -= 1;
            return;
        }
        line.is_repeat = self.plan.repeats && !line.is_repeat;
        if !line.is_repeat {
            self.sender.next(&mut line.request);
        }
        (line.written, line.began, line.state) = (0, Instant::now(), State::Sending);
        if anew {
            line.begun.clear();
            let Ok(stream) = connect(self.plan.address) else {
                line.state = State::Done;
                self.load.failed += 1;
                self.open -= 1;
                return;
            };
            self.poll.add(&stream, number);
            line.stream = stream;
        }
        self.sent += 1;
        self.push(number);
    }

    /// Writes what can be written.
    fn push(&mut self, number: usize) {
        let line = &mut self.lines[number];
        let request = &line.request;
        let (head, body) = (request.head.len(), request.head.len() + request.common.body.len());
        while line.written < body + TAIL {
            let at = line.written;
            let slices = [
                IoSlice::new(request.head.get(at..).unwrap_or_default()),
                IoSlice::new(request.common.body.get(at.saturating_sub(head)..).unwrap_or_default()),
                IoSlice::new(request.tail.get(at.saturating_sub(body)..).unwrap_or_default()),
            ];
            let from = usize::from(at >= head) + usize::from(at >= body);
            match line.stream.write_vectored(&slices[from..]) {
                Ok(length) => line.written += length,
                Err(error) if is_wait(&error) => return,
                Err(_) => return self.broken_later(number),
            }
        }
        line.state = State::Waiting;
    }

    /// Not followed at once: a process that takes no connections must not make this loop.
    fn broken_later(&mut self, number: usize) {
        // What it was answered, if anything, is read; the end of the connection counts as the failure.
        self.lines[number].state = State::Waiting;
    }
}

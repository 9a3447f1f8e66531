//! Where log lines go: a bounded queue and one thread that writes it to the end it was given, normally stderr.
//!
//! It formats nothing but the lines of requests, which are many and alike, and it does not wait: a reader that stalls (a full pipe, a stuck container runtime) must not hold
//! up a reply. Bounds: [`MOST_LINES`] lines of at most [`LONGEST_LINE_BYTES`]; what is beyond them is dropped and
//! counted in `log_lines_dropped_total`.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

use super::Metrics;
use super::json::LINE_BYTES;
use super::recent::Answered;
use super::request_lines;

/// Lines that may wait: several seconds of a busy gateway, and at most 32 MiB together.
pub const MOST_LINES: usize = 4096;
/// Longest line, in bytes; ours are a few hundred.
pub const LONGEST_LINE_BYTES: usize = 8192;
/// Most bytes written at once, give or take a line.
const BATCH_BYTES: usize = 256 * 1024;
/// Between two writes: a busy gateway's lines go together, and nobody who logs has to wake the thread for each.
const BREATH: Duration = Duration::from_millis(10);
/// Between two looks at what was left out.
const SECOND: Duration = Duration::from_secs(1);
/// How long the end of the process waits for the last lines to be taken.
const LAST_WAIT: Duration = Duration::from_secs(1);

enum Message {
    Line(Vec<u8>),
    /// A request, whose line is still to be written.
    Request(Arc<Answered>),
    Flush(SyncSender<()>),
}

/// The writing end; clones write into the same queue.
#[derive(Clone)]
pub(super) struct Sink {
    queue: SyncSender<Message>,
    metrics: Arc<Metrics>,
}

/// Keeps the lines coming until the process ends: dropping it waits, at most a second, until what was logged is written.
#[derive(Debug)]
pub struct Flush {
    queue: SyncSender<Message>,
}

/// Starts the thread that writes to `end`. It ends when the last [`Sink`] and the [`Flush`] are gone.
/// Calls `every_second` about once a second.
pub(super) fn open(
    end: impl Write + Send + 'static,
    metrics: Arc<Metrics>,
    every_second: impl Fn() + Send + 'static,
) -> io::Result<(Sink, Flush)> {
    let (queue, lines) = sync_channel(MOST_LINES);
    thread::Builder::new().name("log".to_owned()).spawn(move || write_all(&lines, end, every_second))?;
    Ok((Sink { queue: queue.clone(), metrics }, Flush { queue }))
}

/// A line that cannot be written is lost: there is no other place to say so.
fn write_all(lines: &Receiver<Message>, mut end: impl Write, every_second: impl Fn()) {
    let mut due = Instant::now() + SECOND;
    let mut batch = Batch::default();
    loop {
        let mut flushed = None;
        let mut gone = false;
        let mut next = lines.recv_timeout(due.saturating_duration_since(Instant::now()));
        loop {
            match next {
                Ok(Message::Line(line)) => batch.bytes.extend_from_slice(&line),
                Ok(Message::Request(answered)) => batch.put(&answered),
                Ok(Message::Flush(done)) => flushed = Some(done),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => {
                    gone = true;
                    break;
                }
            }
            if batch.bytes.len() >= BATCH_BYTES {
                break;
            }
            next = lines.try_recv().map_err(|_| RecvTimeoutError::Timeout);
        }
        drop(end.write_all(&batch.bytes));
        if let Some(done) = flushed {
            every_second();
            drop(end.write_all(&left(lines).bytes));
            drop(end.flush());
            done.try_send(()).unwrap_or_default();
        } else if !batch.bytes.is_empty() {
            thread::park_timeout(BREATH);
        }
        batch.bytes.clear();
        batch.bytes.shrink_to(BATCH_BYTES);
        if gone {
            return;
        }
        if Instant::now() >= due {
            every_second();
            due = Instant::now() + SECOND;
        }
    }
}

/// The lines that wait.
fn left(lines: &Receiver<Message>) -> Batch {
    let mut left = Batch::default();
    loop {
        match lines.try_recv() {
            Ok(Message::Line(line)) => left.bytes.extend_from_slice(&line),
            Ok(Message::Request(answered)) => left.put(&answered),
            Ok(Message::Flush(_)) | Err(_) => return left,
        }
    }
}

/// Lines that are written at once.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    /// The line that is being formatted.
    line: String,
}

impl Batch {
    fn put(&mut self, answered: &Answered) {
        self.line.clear();
        self.line.reserve(LINE_BYTES);
        request_lines::write_json(&mut self.line, answered);
        self.bytes.extend_from_slice(self.line.as_bytes());
    }
}

impl Sink {
    /// Takes a request whose line is to be written.
    pub(super) fn put_request(&self, answered: Arc<Answered>) {
        if self.queue.try_send(Message::Request(answered)).is_err() {
            self.metrics.log_lines_dropped_total.inc();
        }
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        let (done, written) = sync_channel(1);
        if self.queue.try_send(Message::Flush(done)).is_ok() {
            written.recv_timeout(LAST_WAIT).unwrap_or_default();
        }
    }
}

impl Write for Sink {
    /// Takes one whole line; the formatter writes each event at once.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let sent = if line.len() > LONGEST_LINE_BYTES {
            Err(TrySendError::Full(Message::Line(Vec::new())))
        } else {
            self.queue.try_send(Message::Line(line.to_vec()))
        };
        if sent.is_err() {
            self.metrics.log_lines_dropped_total.inc();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = Self;

    fn make_writer(&'a self) -> Self::Writer {
        self.clone()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::channel;

    use super::*;

    /// An end that remembers.
    #[derive(Clone, Default)]
    pub(in crate::telemetry) struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Paper {
        pub(in crate::telemetry) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// An end that takes nothing until it is let go.
    struct Stalled(Receiver<()>);

    impl Write for Stalled {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.recv().unwrap_or_default();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn metrics() -> Arc<Metrics> {
        Arc::new(Metrics::new(&[]).unwrap())
    }

    #[test]
    fn what_was_logged_is_written_before_the_process_ends() {
        let paper = Paper::default();
        let (mut sink, flush) = open(paper.clone(), metrics(), || ()).unwrap();
        for _ in 0..100 {
            sink.write_all(b"line\n").unwrap();
        }
        drop(flush);
        assert_eq!(paper.text(), "line\n".repeat(100));
    }

    #[test]
    fn a_reader_that_stalls_costs_lines_and_no_time() {
        let metrics = metrics();
        let (let_go, held) = channel();
        let (mut sink, _flush) = open(Stalled(held), Arc::clone(&metrics), || ()).unwrap();
        // One write takes some of them with it.
        for _ in 0..MOST_LINES + 100 + 2 * BATCH_BYTES / 1000 {
            sink.write_all(&[b'x'; 1000]).unwrap();
        }
        assert!(metrics.log_lines_dropped_total.get() >= 99, "{}", metrics.log_lines_dropped_total.get());
        drop(let_go);
    }

    #[test]
    fn a_line_beyond_the_bound_is_dropped_and_counted() {
        let (metrics, paper) = (metrics(), Paper::default());
        let (mut sink, flush) = open(paper.clone(), Arc::clone(&metrics), || ()).unwrap();
        sink.write_all(&[b'a'; LONGEST_LINE_BYTES + 1]).unwrap();
        sink.write_all(&[b'b'; LONGEST_LINE_BYTES]).unwrap();
        drop(flush);
        assert_eq!(paper.text(), "b".repeat(LONGEST_LINE_BYTES));
        assert_eq!(metrics.log_lines_dropped_total.get(), 1);
    }
}

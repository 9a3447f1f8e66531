//! A connection of HTTP/2 from a sender: it is shaken hands with, watched, and each request on it is handed on as a stream of
//! HTTP/1.1, to be read, judged and answered like every other. It answers nothing itself.
//!
//! The `h2` library speaks the protocol and bounds what it has to remember. What costs work and no memory is counted in
//! front of it (`frames`). A connection ends when nothing was asked for during `idle_timeout`, whatever else comes; when a
//! head is not complete after `header_timeout`; when the sender does not take what is written; and when there was too much
//! of anything. Requests that are being served then go on to their end, as they do when a sender hangs up.

mod frames;
mod places;
mod stream;
mod text;
mod watched;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::server::{self, SendResponse};
use h2::{Reason, RecvStream};
use http::Request;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};

use self::frames::Excess;
pub(crate) use self::places::{Place, Places};
pub(crate) use self::stream::Stream;
use self::watched::{Tallied, Watched};
use super::connections::{Connection, Phase};
use super::guard::HeadLimits;
use super::listener::{Door, LINGER};
use super::side::Side;

/// Most requests at once on one connection.
const MAX_STREAMS: u32 = 100;

/// Most requests being served of one connection: those that their senders took back are not at once over.
const MAX_SERVED: usize = 200;

/// What a sender may send ahead of a request's body, and of all bodies of a connection.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// Most bytes of one reply that wait to be written.
const SEND_BUFFER: usize = 64 * 1024;

/// What a header line counts besides its bytes (RFC 9113 section 6.5.2), and how many the guard lets in.
const LINE_OVERHEAD: usize = 32;
const LINES: usize = 256;

/// Requests that the library itself resets, or that are reset before they were looked at, until it ends the connection.
const LIBRARY_RESETS: usize = 100;

/// How long a connection may take to end once nothing is asked for on it.
const FAREWELL: Duration = Duration::from_secs(2);

/// What a connection did last.
enum Event {
    /// A request came.
    Came(Box<Request<RecvStream>>, SendResponse<Bytes>),
    /// One was answered.
    Served,
    /// The table or a stop wants it gone.
    Told,
    /// Nothing was asked for, long enough.
    Idle,
    /// A head is not complete in time.
    LateHead,
    /// There was too much of something.
    TooMuch(Excess),
    /// It is at its end, or broke.
    Ended(Option<h2::Error>),
}

/// Serves the requests of a connection until no more comes or may come.
pub(super) async fn serve(door: &Door, side: Side, connection: &Arc<Connection>) {
    let (limits, tally) = (door.head_limits(), Tallied::new());
    let watched = Watched::new(side, tally.clone(), door.house());
    connection.enter(Phase::Head(Instant::now()));
    let shaken = tokio::time::timeout(limits.header_timeout, library(limits).handshake(watched)).await;
    connection.enter(Phase::Idle(Instant::now()));
    match shaken {
        Ok(Ok(link)) => Served::new(door.clone(), link, tally, connection.clone()).run().await,
        Ok(Err(error)) => {
            if let Some(reason) = blame(&error) {
                door.count_refused(reason);
            }
        }
        Err(_) => door.count_refused("late_head"),
    }
}

/// For `fuzzed`: what is counted of bytes that come in pieces of `size`.
pub(super) fn counted(bytes: &[u8], size: usize) -> (u64, Option<&'static str>, bool) {
    let (mut tally, now) = (frames::Tally::new(), Instant::now());
    for piece in bytes.chunks(size.max(1)) {
        tally.came(piece, now);
    }
    (tally.streams(), tally.excess().map(Excess::as_str), tally.head_since().is_some())
}

/// The library with the bounds that it keeps.
fn library(limits: HeadLimits) -> server::Builder {
    // What fits the cap on a head is judged, counted and logged by the guard, not by the library.
    let list = limits.max_header_bytes.saturating_add(LINE_OVERHEAD * LINES);
    let mut library = server::Builder::new();
    library
        .max_concurrent_streams(MAX_STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(list).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_reset_streams(LIBRARY_RESETS)
        .max_pending_accept_reset_streams(LIBRARY_RESETS)
        .max_local_error_reset_streams(Some(LIBRARY_RESETS));
    library
}

/// A connection that is being served.
struct Served {
    door: Door,
    link: server::Connection<Watched, Bytes>,
    tally: Tallied,
    connection: Arc<Connection>,
    limits: HeadLimits,
    /// The requests that are being served; awaited before the connection's task ends.
    requests: JoinSet<()>,
    /// Since when there is none.
    idle_since: Instant,
    /// Since when the sender has been told to ask for nothing more here.
    closing: Option<Instant>,
    told: Pin<Box<dyn Future<Output = ()> + Send>>,
    alarm: Pin<Box<Sleep>>,
}

impl Served {
    fn new(door: Door, link: server::Connection<Watched, Bytes>, tally: Tallied, connection: Arc<Connection>) -> Self {
        let (limits, told) = (door.head_limits(), connection.clone());
        Self {
            door,
            link,
            tally,
            connection,
            limits,
            requests: JoinSet::new(),
            idle_since: Instant::now(),
            closing: None,
            told: Box::pin(async move { told.told_to_close().await }),
            alarm: Box::pin(tokio::time::sleep(limits.idle_timeout)),
        }
    }

    async fn run(mut self) {
        loop {
            match poll_fn(|cx| self.poll_event(cx)).await {
                Event::Came(request, respond) => self.open(*request, respond),
                Event::Served => {}
                Event::Told if self.connection.makes_room() && self.requests.is_empty() => {
                    break self.cut_within(LINGER, Reason::NO_ERROR).await;
                }
                Event::Told => self.close(),
                Event::Idle => break self.cut(Reason::NO_ERROR).await,
                Event::LateHead => {
                    self.note("late_head");
                    break self.cut(Reason::ENHANCE_YOUR_CALM).await;
                }
                Event::TooMuch(excess) => {
                    self.note(excess.as_str());
                    break self.cut(Reason::ENHANCE_YOUR_CALM).await;
                }
                Event::Ended(error) => {
                    if let Some(reason) = error.as_ref().and_then(blame) {
                        self.note(reason);
                    }
                    break;
                }
            }
        }
        // Gone for its requests, too: who waits to read or to write is told.
        drop(self.link);
        while self.requests.join_next().await.is_some() {}
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        match self.link.poll_accept(cx) {
            Poll::Ready(Some(Ok((request, respond)))) => return Poll::Ready(Event::Came(Box::new(request), respond)),
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Event::Ended(Some(error))),
            Poll::Ready(None) => return Poll::Ready(Event::Ended(None)),
            Poll::Pending => {}
        }
        let (excess, head_since) = {
            let tally = self.tally.look();
            (tally.excess(), tally.head_since())
        };
        if let Some(excess) = excess {
            return Poll::Ready(Event::TooMuch(excess));
        }
        if let Poll::Ready(Some(_)) = self.requests.poll_join_next(cx) {
            if self.requests.is_empty() {
                self.idle_since = Instant::now();
            }
            return Poll::Ready(Event::Served);
        }
        self.connection.enter(self.phase(head_since));
        if self.closing.is_none() && self.told.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Event::Told);
        }
        let Some(deadline) = self.deadline(head_since) else { return Poll::Pending };
        if self.alarm.deadline() != deadline {
            self.alarm.as_mut().reset(deadline);
        }
        ready!(self.alarm.as_mut().poll(cx));
        Poll::Ready(if head_since.is_some() { Event::LateHead } else { Event::Idle })
    }

    fn phase(&self, head_since: Option<Instant>) -> Phase {
        match head_since {
            _ if !self.requests.is_empty() => Phase::Busy(self.idle_since),
            Some(began) => Phase::Head(began),
            None => Phase::Idle(self.idle_since),
        }
    }

    /// When it ends unless something comes of it. Requests that are being served have deadlines of their own.
    fn deadline(&self, head_since: Option<Instant>) -> Option<Instant> {
        let idle =
            if self.closing.is_some() { FAREWELL.min(self.limits.idle_timeout) } else { self.limits.idle_timeout };
        let idle = self.requests.is_empty().then(|| self.idle_since + idle);
        head_since.map(|began| began + self.limits.header_timeout).or(idle)
    }

    /// Has a request served, unless there are too many.
    fn open(&mut self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        let began = self.tally.look().take_moment(respond.stream_id().as_u32()).unwrap_or_else(Instant::now);
        // Who was told long ago that nothing more is served here gets nothing more: the library goes on taking requests until the
        // sender has answered its ping.
        let is_late = self.closing.is_some_and(|since| since.elapsed() >= FAREWELL);
        let is_room = self.requests.len() < MAX_SERVED && !is_late;
        let place = if is_room { self.door.place(&self.connection) } else { None };
        let Some(place) = place else {
            self.door.count_refused("no_place");
            // Certainly not looked at: it may be sent again at once (RFC 9113 section 8.7).
            return respond.send_reset(Reason::REFUSED_STREAM);
        };
        let (door, connection) = (self.door.clone(), Arc::new(self.connection.request(began)));
        let side = Side::Stream(Box::new(Stream::new(request, respond)));
        self.requests.spawn(async move {
            door.serve_from(side, &connection).await;
            drop(place);
        });
        if self.door.is_closing() {
            self.close();
        }
    }

    /// Tells the sender that what it asks for from now on is not served here.
    fn close(&mut self) {
        if self.closing.is_none() {
            self.closing = Some(Instant::now());
            self.link.graceful_shutdown();
            self.idle_since = self.idle_since.max(Instant::now());
        }
    }

    /// Counts why the connection is ended.
    fn note(&self, reason: &'static str) {
        self.door.count_refused(reason);
        tracing::debug!(remote = %self.connection.remote.ip(), reason, "a connection of HTTP/2 was cut");
    }

    /// Ends the connection with a word why.
    async fn cut(&mut self, reason: Reason) {
        self.cut_within(FAREWELL, reason).await;
    }

    async fn cut_within(&mut self, farewell: Duration, reason: Reason) {
        self.link.abrupt_shutdown(reason);
        // Who does not take it is gone all the same.
        let _taken = tokio::time::timeout(farewell, poll_fn(|cx| self.link.poll_closed(cx))).await;
    }
}

/// Why a connection broke, if it was not its sender who ended it.
fn blame(error: &h2::Error) -> Option<&'static str> {
    match error.get_io() {
        Some(io) => (io.kind() == std::io::ErrorKind::TimedOut).then_some("reply_not_taken"),
        None => (!error.is_remote()).then_some("protocol_error"),
    }
}

//! One attempt: one HTTP/1.1 request to the application, and what became of it; in a simulation, what a stand-in for
//! the application says.
//!
//! It decides nothing about what comes next. It never follows a redirect, never sends twice, and never sends a part:
//! the body is in memory and its length is stated.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderName, Method, StatusCode};
use tokio::time::Instant;
use uuid::Uuid;

use super::patience::{IsOver, Patience};
use super::pool::Stream;
use super::trust::Trust;
use super::upstream::{Age, Upstream};
use super::wire::{Answer, Request, Reuse, Unread};
use crate::buffers::Buffers;
use crate::domain::event::Event;
use crate::domain::headers::Headers;
use crate::domain::message::{put_header, put_line, put_number};
use crate::domain::outcome::{AppAnswer, Outcome, Timeout};
use crate::domain::route::{AppPolicy, HostHeader};

/// Longest answer body that is relayed; a longer one counts as broken off and is not relayed.
const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;

/// Bodies up to this size are copied behind their head; longer ones leave together with it from where they are.
const ONE_PIECE: usize = 4 * 1024;

/// How long the end of an answer that nobody reads is waited for, so that all of the request is read.
const LAST_READ: Duration = Duration::from_secs(2);

/// What carries attempts to the application. Cloning shares it.
#[derive(Clone, Debug)]
pub enum Client {
    /// One application's HTTP client, with its connections.
    Http(Http),
    /// No client came about, for this reason.
    None(Arc<str>),
    /// A simulation's application.
    Stand(Arc<dyn Application>),
}

/// An HTTP client of one application, and what its long answers find room in.
#[derive(Clone, Debug)]
pub struct Http(Upstream, Buffers);

/// An application without a socket, for simulations.
#[async_trait]
pub trait Application: Send + Sync + std::fmt::Debug {
    /// Takes one sending. An answer that does not come within `app.attempt_timeout` is not waited for: the future is
    /// dropped then, and the outcome is unknown.
    async fn take(&self, event: &Event, sending: Sending) -> Outcome;
}

/// What makes one sending of an event different from another.
#[derive(Clone, Copy, Debug)]
pub struct Sending {
    /// 1, 2, …: `Hookgate-Attempt`.
    pub attempt: u32,
    /// Whether an earlier sending may have been processed: `Hookgate-Possible-Duplicate`.
    pub possible_duplicate: bool,
    /// Whether an operator asked for it: `Hookgate-Replay`.
    pub replay: bool,
}

/// The moments of one attempt.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Now.
    pub began: Instant,
    /// Until when the body of the answer may take.
    pub body_by: Instant,
    /// By when whoever waits for the attempt polls it again at the latest, whatever happens; `None`: only when it asks for it.
    pub seen_to_by: Option<Instant>,
}

impl Client {
    /// A client for `app`, whose long answers find room in `buffers`.
    #[must_use]
    pub fn new(app: &AppPolicy, buffers: &Buffers) -> Self {
        let tls = match Trust::of(app).tls() {
            Ok(tls) => tls,
            Err(error) => return Self::None(format!("TLS cannot be set up: {error}").into()),
        };
        match Upstream::new(app.url.clone(), app.connect_timeout, tls) {
            Ok(upstream) => Self::Http(Http(upstream, buffers.clone())),
            Err(error) => Self::None(format!("`{}` cannot be reached over TLS: {error}", app.url).into()),
        }
    }

    /// Sends `event` once. The status line must come within `app.attempt_timeout`; the answer's body may take until
    /// `times.body_by`, and a body that takes longer is given up without changing the outcome.
    ///
    /// If the future is dropped the connection is closed and the application may or may not have the event.
    pub fn send(
        &self,
        event: &Event,
        app: &AppPolicy,
        sending: Sending,
        times: Times,
    ) -> impl Future<Output = Outcome> + Send {
        let until = times.began + app.attempt_timeout;
        let seen_to = times.seen_to_by.is_some_and(|by| by <= until);
        let patience = Patience::new(until, seen_to);
        // A block and not a function: what a function is given it keeps twice.
        async move {
            match self {
                Self::Http(http) => {
                    let letter = Letter { event, app, sending };
                    http.send(&letter, patience, &times).await
                }
                Self::None(why) => Outcome::Unreachable((**why).to_owned()),
                Self::Stand(stand) => {
                    let taken = patience.wait_for(stand.take(event, sending)).await;
                    taken.unwrap_or_else(|_| no_status_line(app.attempt_timeout))
                }
            }
        }
    }
}

impl Http {
    async fn send(&self, letter: &Letter<'_>, patience: Patience, times: &Times) -> Outcome {
        let Some(head) = letter.head() else {
            return Outcome::Unreachable("cannot write the request: its target or host is none".to_owned());
        };
        let mut request = letter.request(head);
        let mut answer = Answer::awaited();
        let asked = patience.wait_for(pin!(self.ask(letter, &mut request, &mut answer, times.began))).await;
        let mut stream = match asked {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return unanswered(&error, request.is_taken()),
            Err(IsOver) if answer.settle_for_status_line() => return Outcome::of_answer(without_body(answer.status)),
            Err(IsOver) => return not_in_time(letter.app.attempt_timeout, request.is_taken()),
        };
        let whole = match answer.body_at_hand() {
            Some(whole) => Some(whole),
            // Boxed: most bodies come with their head.
            None => Box::pin(self.body(&mut stream, &mut answer, &mut request, times.body_by)).await,
        };
        let unread = if whole.is_some() { Unread::Nothing } else { Unread::Some };
        if answer.status.is_success()
            && let Some(until) = rest_until(&request, letter, unread, times)
        {
            // Boxed: few applications accept what they have not read.
            Box::pin(rest(&mut request, &mut stream, until, unread)).await;
        }
        // An application that did not want all of the request gets no other one through this connection.
        let whole = whole.map(|(body, reuse)| (body, if request.is_whole() { reuse } else { Reuse::Close }));
        Outcome::of_answer(self.complete(stream, answer, whole))
    }

    /// Sends `request`, which is `letter`, and reads the head of its answer.
    async fn ask<'l>(
        &self,
        letter: &Letter<'l>,
        request: &mut Request<'l>,
        answer: &mut Answer,
        began: Instant,
    ) -> Result<Stream, NoAnswer> {
        let mut connection = self.0.connection(began).await.map_err(NoAnswer::NoConnection)?;
        match poll_fn(|cx| request.poll_answer(cx, &mut connection.stream, answer)).await {
            Ok(()) => return Ok(connection.stream),
            // It was being closed, and certainly did not get the whole request.
            Err(_) if connection.age == Age::Used && !request.is_taken() => {}
            Err(error) => return Err(NoAnswer::Broke(error)),
        }
        // Boxed: few attempts need it.
        Box::pin(self.ask_anew(letter, request, answer)).await
    }

    /// As [`Self::ask`], over a new connection.
    async fn ask_anew<'l>(
        &self,
        letter: &Letter<'l>,
        request: &mut Request<'l>,
        answer: &mut Answer,
    ) -> Result<Stream, NoAnswer> {
        let mut connection = self.0.new_connection().await.map_err(NoAnswer::NoConnection)?;
        let unwritten = || NoAnswer::NoConnection(io::ErrorKind::InvalidInput.into());
        *request = letter.request(letter.head().ok_or_else(unwritten)?);
        *answer = Answer::awaited();
        let answered = poll_fn(|cx| request.poll_answer(cx, &mut connection.stream, answer)).await;
        answered.map_err(NoAnswer::Broke)?;
        Ok(connection.stream)
    }

    /// The body of an answer that did not come with its head; `None`: it is too long, too late or broken, or finds no room in
    /// memory.
    async fn body(
        &self,
        stream: &mut Stream,
        answer: &mut Answer,
        request: &mut Request<'_>,
        by: Instant,
    ) -> Option<(Bytes, Reuse)> {
        tokio::time::timeout_at(by, answer.body(stream, request, MAX_ANSWER_BYTES, &self.1)).await.ok()?.ok()
    }

    /// The whole answer, or its head alone if there is no body: what the status says has come about all the same, and the
    /// event must not be sent again for want of what nobody acts upon.
    fn complete(&self, stream: Stream, answer: Answer, whole: Option<(Bytes, Reuse)>) -> AppAnswer {
        let Some((body, reuse)) = whole else { return without_body(answer.status) };
        if reuse == Reuse::Keep {
            self.0.keep(stream);
        }
        AppAnswer { status: answer.status, headers: answer.headers, body }
    }
}

fn without_body(status: StatusCode) -> AppAnswer {
    AppAnswer { status, headers: Headers::new(), body: Bytes::new() }
}

/// Until when what is left of a request that was accepted is seen to; `None`: nothing is left. What is not written yet has the
/// time of an attempt. What is may still lie in the system's buffers, from where a connection that is closed with an unread answer
/// takes it along: it has a moment, where there is more of it than surely went at once.
fn rest_until(request: &Request<'_>, letter: &Letter<'_>, unread: Unread, times: &Times) -> Option<Instant> {
    if !request.is_over() {
        return Some(times.began + letter.app.attempt_timeout);
    }
    let may_lie = request.is_whole() && unread == Unread::Some && !letter.is_one_piece();
    may_lie.then(|| times.body_by.min(Instant::now() + LAST_READ))
}

/// What is left of a request that was accepted before it was read is sent. What the application has not taken by then, or
/// closes its connection to, it does not want.
async fn rest(request: &mut Request<'_>, stream: &mut Stream, until: Instant, unread: Unread) {
    let _not_wanted = tokio::time::timeout_at(until, poll_fn(|cx| request.poll_over(cx, stream, unread))).await;
}

/// Why there is no answer.
enum NoAnswer {
    /// There was nothing to send it through.
    NoConnection(io::Error),
    /// The connection broke.
    Broke(io::Error),
}

/// What an attempt without an answer comes to. `taken`: the application may have the whole request.
fn unanswered(error: &NoAnswer, taken: bool) -> Outcome {
    match error {
        NoAnswer::NoConnection(error) => {
            Outcome::Unreachable(format!("cannot reach the application: {}", chain(error)))
        }
        NoAnswer::Broke(error) if !taken => {
            Outcome::Unreachable(format!("the application did not take the whole request: {}", chain(error)))
        }
        NoAnswer::Broke(error) => Outcome::Unknown {
            error: format!("the connection broke before a status line came: {}", chain(error)),
            timed_out: Timeout::No,
        },
    }
}

/// What an attempt comes to whose time is over. `taken`: the application may have the whole request.
fn not_in_time(within: Duration, taken: bool) -> Outcome {
    if taken {
        return no_status_line(within);
    }
    Outcome::Unreachable(format!("the application took no request within {within:?}"))
}

/// One sending as it goes over the wire. It is written when it leaves, and anew if it has to leave once more.
struct Letter<'a> {
    event: &'a Event,
    app: &'a AppPolicy,
    sending: Sending,
}

impl<'a> Letter<'a> {
    /// What leaves first: the head, with the body behind it if that is short; `None`: target or host could not be written.
    fn head(&self) -> Option<Vec<u8>> {
        let mut head = head(self.event, self.app, self.sending)?;
        if self.is_one_piece() {
            head.extend_from_slice(&self.event.body);
        }
        Some(head)
    }

    /// The request that begins with `head`.
    fn request(&self, head: Vec<u8>) -> Request<'a> {
        Request::new(head, self.rest(), self.event.method == Method::HEAD)
    }

    /// What leaves behind it.
    fn rest(&self) -> &'a [u8] {
        if self.is_one_piece() { &[] } else { &self.event.body }
    }

    fn is_one_piece(&self) -> bool {
        self.event.body.len() <= ONE_PIECE
    }
}

fn no_status_line(within: Duration) -> Outcome {
    Outcome::Unknown { error: format!("no status line came within {within:?}"), timed_out: Timeout::Elapsed }
}

/// The head of the request as the application gets it; `None`: target or host could not be written as such.
fn head(event: &Event, app: &AppPolicy, sending: Sending) -> Option<Vec<u8>> {
    let host = match app.host {
        HostHeader::Preserve if !event.authority.is_empty() => &event.authority,
        HostHeader::Preserve | HostHeader::Rewrite => app.url.authority(),
    };
    let writable = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    if !writable(host) || !writable(&event.target) || !writable(&event.route) {
        return None;
    }
    // A power of two, which the allocator gives out as it is.
    let mut head = Vec::with_capacity((1024 + event.body.len().min(ONE_PIECE)).next_power_of_two());
    for part in [event.method.as_str(), " ", app.url.prefix(), &event.target, " HTTP/1.1\r\n"] {
        head.extend_from_slice(part.as_bytes());
    }
    put_line(&mut head, "Host", host);
    for (name, value) in event.headers.iter().filter(|(name, _)| !is_ours(name)) {
        put_header(&mut head, name, value);
    }
    put_number(&mut head, "Content-Length", u64::try_from(event.body.len()).unwrap_or(u64::MAX));
    put_line(&mut head, "Hookgate-Event", event.id.0.hyphenated().encode_lower(&mut Uuid::encode_buffer()));
    put_line(&mut head, "Hookgate-Key", str::from_utf8(&event.key.hex_digits()).unwrap_or_default());
    put_line(&mut head, "Hookgate-Route", &event.route);
    put_number(&mut head, "Hookgate-Attempt", u64::from(sending.attempt));
    if sending.possible_duplicate {
        put_line(&mut head, "Hookgate-Possible-Duplicate", "true");
    }
    if sending.replay {
        put_line(&mut head, "Hookgate-Replay", "true");
    }
    head.extend_from_slice(b"\r\n");
    Some(head)
}

/// Headers that only we write.
fn is_ours(name: &HeaderName) -> bool {
    let name = name.as_str();
    match name.as_bytes().first() {
        Some(b'c') => name == "content-length",
        Some(b'h') => name == "host" || name.starts_with("hookgate-"),
        Some(b't') => name == "transfer-encoding",
        Some(_) | None => false,
    }
}

/// An error with its causes, one after the other.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod over_sockets;

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::domain::app_url::AppUrl;
    use crate::domain::event::EventId;
    use crate::domain::headers::Headers;
    use crate::domain::key::EventKey;
    use crate::domain::route::fixture;
    use crate::domain::time::Timestamp;

    fn event() -> Event {
        let mut headers = Headers::new();
        for name in ["x-signature", "content-type", "cookie", "te"] {
            headers.append(name, HeaderValue::from_static("a"));
        }
        headers.append("x-signature", HeaderValue::from_static("b"));
        for ours in ["host", "hookgate-key", "content-length", "transfer-encoding"] {
            headers.append(ours, HeaderValue::from_static("another"));
        }
        Event {
            id: EventId::new(Timestamp::from_seconds(1_760_000_000), 7 << 64),
            route: "r".into(),
            key: EventKey { slot: [0x1f; 16], fingerprint: [0xa0; 16] },
            method: Method::POST,
            target: "/r?x=1".into(),
            headers,
            authority: "hooks.example".into(),
            body: Bytes::from_static(b"0123456789").into(),
            received_at: Timestamp::from_seconds(1_760_000_000),
            signed_at: None,
            event_type: None,
            order_value: None,
        }
    }

    fn written(event: &Event, sending: Sending) -> Option<String> {
        let url = AppUrl::parse("http://app:81/prefix/").expect("an address");
        let head = head(event, &AppPolicy { url, ..fixture("r").app }, sending)?;
        Some(String::from_utf8(head).expect("text"))
    }

    #[test]
    fn the_application_sees_the_senders_headers_and_ours_and_of_ours_no_others() {
        let sending = Sending { attempt: 1, possible_duplicate: false, replay: false };
        let id = event().id;
        let expected = format!(
            "POST /prefix/r?x=1 HTTP/1.1\r\nHost: hooks.example\r\nX-Signature: a\r\nContent-Type: a\r\n\
             Cookie: a\r\nTe: a\r\nX-Signature: b\r\nContent-Length: 10\r\nHookgate-Event: {id}\r\nHookgate-Key: {}{}\r\n\
             Hookgate-Route: r\r\nHookgate-Attempt: 1\r\n\r\n",
            "1f".repeat(16),
            "a0".repeat(16),
        );
        assert_eq!(written(&event(), sending), Some(expected));
        let again = Sending { attempt: 12, possible_duplicate: true, replay: true };
        let again = written(&event(), again).expect("a head");
        let end = "Hookgate-Attempt: 12\r\nHookgate-Possible-Duplicate: true\r\nHookgate-Replay: true\r\n\r\n";
        assert!(again.ends_with(end), "{again}");
        for target in ["", "/a b", "/a\r\nx: y", "/\u{e4}"] {
            assert_eq!(written(&Event { target: target.into(), ..event() }, sending), None, "{target:?}");
        }
    }
}

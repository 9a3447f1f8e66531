//! Reading a request's body: whole, within its deadline, its cap and the gateway's memory. It believes nothing.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use http::Version;
use http::header::{CONTENT_LENGTH, EXPECT};
use pingora::http::RequestHeader;
use pingora::prelude::{Error, ErrorType};
use pingora::protocols::http::ServerSession;
use tokio::time::Instant;

use crate::domain::fault::Fault;
use crate::domain::outcome::Settled;
use crate::domain::refusal::Refusal;
use crate::telemetry::Metrics;

/// All request bodies in memory together, bounded by `server.max_buffered_bytes`.
#[derive(Clone)]
pub(crate) struct Buffers {
    used: Arc<AtomicUsize>,
    most: usize,
    metrics: Arc<Metrics>,
}

/// Some bytes of the bound in use; given back when dropped.
pub(crate) struct Reserved {
    bytes: usize,
    buffers: Buffers,
}

impl Buffers {
    /// A bound of `most` bytes.
    pub(crate) fn new(most: usize, metrics: Arc<Metrics>) -> Self {
        metrics.buffered_bytes_capacity.set(i64::try_from(most).unwrap_or(i64::MAX));
        Self { used: Arc::default(), most, metrics }
    }

    fn reserve(&self) -> Reserved {
        Reserved { bytes: 0, buffers: self.clone() }
    }
}

impl Reserved {
    /// Takes `bytes` more, or says that the bound is reached.
    fn grow(&mut self, bytes: usize) -> Result<(), Fault> {
        let most = self.buffers.most;
        let grown = self.buffers.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|sum| *sum <= most)
        });
        if grown.is_err() {
            return Err(Fault::Overloaded);
        }
        self.bytes += bytes;
        self.buffers.metrics.buffered_bytes.add(i64::try_from(bytes).unwrap_or(i64::MAX));
        Ok(())
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.buffers.used.fetch_sub(self.bytes, Ordering::Relaxed);
        self.buffers.metrics.buffered_bytes.sub(i64::try_from(self.bytes).unwrap_or(i64::MAX));
    }
}

/// Why a body is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unread {
    /// The sender's doing.
    Refused(Refusal),
    /// Our doing.
    Unavailable(Fault),
}

impl From<Unread> for Settled {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::Refused(refusal) => Self::Refused(refusal),
            Unread::Unavailable(fault) => Self::Unavailable(fault),
        }
    }
}

/// Reads the whole body: at most `cap` bytes, until `deadline`. A sender that waits for `100 Continue` gets it first.
pub(crate) async fn read(
    session: &mut ServerSession,
    cap: usize,
    deadline: Instant,
    buffers: &Buffers,
) -> Result<(Bytes, Reserved), Unread> {
    let announced = announced_length(session)?;
    if announced.is_some_and(|length| length > cap) {
        return Err(Unread::Refused(Refusal::BodyTooLarge));
    }
    let mut reserved = buffers.reserve();
    let reading = read_all(session, cap, announced, &mut reserved);
    let body =
        tokio::time::timeout_at(deadline, reading).await.unwrap_or(Err(Unread::Refused(Refusal::RequestTimeout)))?;
    Ok((body, reserved))
}

async fn read_all(
    session: &mut ServerSession,
    cap: usize,
    announced: Option<usize>,
    reserved: &mut Reserved,
) -> Result<Bytes, Unread> {
    if waits_for_continue(session.req_header()) {
        go_on(session).await.map_err(|_| Unread::Refused(Refusal::BadRequest))?;
    }
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    loop {
        let piece = session.read_request_body().await.map_err(|error| Unread::Refused(blame(&error)))?;
        let Some(piece) = piece else { break };
        if first.len() + rest.len() + piece.len() > cap {
            return Err(Unread::Refused(Refusal::BodyTooLarge));
        }
        reserved.grow(piece.len()).map_err(Unread::Unavailable)?;
        // One piece is the common case, and needs no copy.
        if first.is_empty() && rest.is_empty() {
            first = piece;
        } else {
            if rest.is_empty() {
                // What is announced takes no memory before it comes.
                rest.reserve(first.len() + piece.len());
                rest.extend_from_slice(&std::mem::take(&mut first));
            }
            rest.extend_from_slice(&piece);
        }
    }
    let body = if rest.is_empty() { first } else { rest.freeze() };
    match announced {
        Some(length) if length != body.len() => Err(Unread::Refused(Refusal::BadRequest)),
        Some(_) | None => Ok(body),
    }
}

/// Whether a sender holds its body back until it is told to go on. The guard lets in no other expectation, and that of
/// an HTTP/1.0 sender means nothing (RFC 9110 section 10.1.1).
pub(super) fn waits_for_continue(head: &RequestHeader) -> bool {
    head.version == Version::HTTP_11 && head.headers.contains_key(EXPECT)
}

/// Tells a sender to go on. The parser takes any reply before the end of a body for the last one of the connection.
pub(super) async fn go_on(session: &mut ServerSession) -> pingora::Result<()> {
    let keepalive = session.get_keepalive();
    session.write_continue_response().await?;
    session.set_keepalive(keepalive);
    Ok(())
}

/// What is wrong with a body that could not be read.
pub(super) fn blame(error: &Error) -> Refusal {
    let ran_out = |cause: &io::Error| cause.kind() == io::ErrorKind::TimedOut;
    if *error.etype() == ErrorType::ReadTimedout || error.root_cause().downcast_ref().is_some_and(ran_out) {
        Refusal::RequestTimeout
    } else {
        Refusal::BadRequest
    }
}

/// The one canonical `Content-Length`, if there is one.
fn announced_length(session: &ServerSession) -> Result<Option<usize>, Unread> {
    let mut values = session.req_header().headers.get_all(CONTENT_LENGTH).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let bad = Unread::Refused(Refusal::BadRequest);
    if values.next().is_some() || !value.as_bytes().iter().all(u8::is_ascii_digit) {
        return Err(bad);
    }
    let length = value.to_str().ok().and_then(|digits| digits.parse().ok());
    length.map(Some).ok_or(bad)
}

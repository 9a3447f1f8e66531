//! Reading a request's body: whole, within its deadline, its cap and the gateway's memory. It believes nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::guard::{Broken, Guard};
use crate::domain::fault::Fault;
use crate::domain::outcome::Settled;
use crate::domain::refusal::Refusal;
use crate::telemetry::Metrics;

const GO_ON: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

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

/// Whether a sender holds its body back until it is told to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expects {
    /// It does.
    Continue,
    /// It sends.
    Nothing,
}

/// Reads the whole body: at most `cap` bytes, until `deadline`. A sender that waits for `100 Continue` gets it first.
pub(crate) async fn read(
    guard: &mut Guard,
    expects: Expects,
    cap: usize,
    deadline: Instant,
    buffers: &Buffers,
) -> Result<(Bytes, Reserved), Unread> {
    let announced = guard.left();
    if announced.is_some_and(|length| usize::try_from(length).is_ok_and(|length| length > cap)) {
        return Err(Unread::Refused(Refusal::BodyTooLarge));
    }
    let mut reserved = buffers.reserve();
    // What came with its head needs no copy and no alarm.
    if let Some(body) = guard.rest() {
        reserved.grow(body.len()).map_err(Unread::Unavailable)?;
        return Ok((body, reserved));
    }
    let reading = read_all(guard, expects, cap, &mut reserved);
    let body =
        tokio::time::timeout_at(deadline, reading).await.unwrap_or(Err(Unread::Refused(Refusal::RequestTimeout)))?;
    Ok((body, reserved))
}

async fn read_all(guard: &mut Guard, expects: Expects, cap: usize, reserved: &mut Reserved) -> Result<Bytes, Unread> {
    let bad = Unread::Refused(Refusal::BadRequest);
    if expects == Expects::Continue && !guard.has_more() {
        guard.send([GO_ON, &[]]).await.map_err(|_| bad)?;
    }
    // What is announced takes no memory before it comes.
    let mut body = BytesMut::new();
    loop {
        match guard.more(&mut body).await {
            Ok(Ok(0)) => return Ok(body.freeze()),
            Ok(Ok(_)) if body.len() > cap => return Err(Unread::Refused(Refusal::BodyTooLarge)),
            Ok(Ok(count)) => reserved.grow(count).map_err(Unread::Unavailable)?,
            Ok(Err(Broken)) | Err(_) => return Err(bad),
        }
    }
}

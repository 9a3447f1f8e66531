//! Reading a request's body: whole, within its deadline, its cap and the gateway's memory. It believes nothing.

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::guard::{Broken, Guard};
use crate::buffers::{Buffers, Reserved, Use};
use crate::domain::fault::Fault;
use crate::domain::outcome::Settled;
use crate::domain::refusal::Refusal;

const GO_ON: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

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

/// Reads the whole body: at most `cap` bytes, until the deadline that `by` gives if any of it is still to come. A sender that waits for `100 Continue` gets it first.
pub(crate) async fn read(
    guard: &mut Guard,
    expects: Expects,
    cap: usize,
    by: impl FnOnce() -> Instant,
    buffers: &Buffers,
) -> Result<(Bytes, Reserved), Unread> {
    let announced = guard.left();
    if announced.is_some_and(|length| usize::try_from(length).is_ok_and(|length| length > cap)) {
        return Err(Unread::Refused(Refusal::BodyTooLarge));
    }
    let mut reserved = buffers.reserve(Use::Bodies);
    // What came with its head needs no copy and no alarm.
    if let Some(body) = guard.rest() {
        reserved.grow(body.len()).map_err(Unread::Unavailable)?;
        return Ok((body, reserved));
    }
    let reading = read_all(guard, expects, cap, &mut reserved);
    let body = tokio::time::timeout_at(by(), reading).await.unwrap_or(Err(Unread::Refused(Refusal::RequestTimeout)))?;
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

//! What the fuzz targets reach of the records. It is no interface: nothing else uses it.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use uuid::Uuid;

use super::record::{decode, decode_headers, encode, encode_headers};
use super::{Entry, NewEntry, Possible, Replay};
use crate::disk::{EventRow, NewRow, PayloadRow};
use crate::domain::event::{Event, EventId};
use crate::domain::headers::Headers;
use crate::domain::key::EventKey;
use crate::domain::time::Timestamp;

/// What came of a record that was written, changed on disk and read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// The event as it was.
    Same,
    /// Another event. It must not happen.
    Other,
    /// Nothing.
    Refused,
}

/// Any bytes as the headers of a record: whether they are none, or come back the same when they are written and read anew.
#[must_use]
pub fn headers(bytes: &[u8]) -> bool {
    let Some(headers) = decode_headers(bytes) else { return true };
    decode_headers(&encode_headers(&headers)).is_some_and(|again| again.iter().eq(headers.iter()))
}

/// An event whose texts and body are `bytes`, written and read again; `change` may alter what is stored in between. It
/// gets the parts whose change must not go unnoticed, and says whether it changed one.
pub fn record(bytes: &[u8], change: impl FnOnce(&mut [Vec<u8>]) -> bool) -> (bool, Read) {
    let event = event(bytes);
    let entry = NewEntry {
        event: Arc::new(event.clone()),
        state: Entry::InFlight,
        attempts: 1,
        possible_duplicate: Possible::No,
        replay: Replay::No,
        last_error: String::new(),
    };
    let row = encode(&entry);
    let mut parts = parts(&row);
    let changed = change(&mut parts);
    let Some((row, payload)) = stored(row, parts) else { return (changed, Read::Refused) };
    let read = match decode(row, payload, 0) {
        Err(_) => Read::Refused,
        Ok(read) if same(&read.event, &event) => Read::Same,
        Ok(_) => Read::Other,
    };
    (changed, read)
}

fn event(bytes: &[u8]) -> Event {
    let (first, rest) = bytes.split_at(bytes.len() / 3);
    let text = String::from_utf8_lossy(first).into_owned();
    let headers = decode_headers(rest).unwrap_or_else(|| {
        let line = http::HeaderValue::from_bytes(first).ok().map(|value| (http::HeaderName::from_static("a"), value));
        line.into_iter().collect::<Headers>()
    });
    let half = |from: usize| std::array::from_fn(|at| bytes.get(from + at).copied().unwrap_or(7));
    Event {
        id: EventId(Uuid::from_bytes(half(1))),
        route: text.as_str().into(),
        key: EventKey { slot: half(2), fingerprint: half(3) },
        method: Method::POST,
        target: text.clone(),
        headers,
        authority: text.clone(),
        body: Bytes::copy_from_slice(bytes).into(),
        received_at: Timestamp::from_seconds(1_760_000_000),
        signed_at: bytes.first().map(|byte| Timestamp::from_seconds(i64::from(*byte))),
        event_type: bytes.first().filter(|byte| **byte > 100).map(|_| text.clone()),
        order_value: bytes.first().filter(|byte| **byte > 200).map(|_| text),
    }
}

/// What the record's digest covers and can be changed without ceasing to be what the columns hold.
fn parts(row: &NewRow) -> Vec<Vec<u8>> {
    let event = &*row.event;
    let texts =
        [event.route.as_bytes(), event.method.as_str().as_bytes(), event.target.as_bytes(), event.authority.as_bytes()];
    let bytes = [&row.headers[..], &event.body[..], event.id.0.as_bytes(), &row.key[..], &row.digest[..]];
    texts.into_iter().chain(bytes).map(<[u8]>::to_vec).collect()
}

/// The row with these parts; nothing if a text is none.
fn stored(row: NewRow, parts: Vec<Vec<u8>>) -> Option<(EventRow, PayloadRow)> {
    let [route, method, target, authority, headers, body, id, key, digest]: [Vec<u8>; 9] = parts.try_into().ok()?;
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).ok();
    let payload = PayloadRow {
        method: text(method)?,
        target: text(target)?,
        authority: text(authority)?,
        headers,
        body: Bytes::from(body),
    };
    let event = row.event;
    let row = EventRow {
        seq: 1,
        id: id.try_into().ok()?,
        route: text(route)?.into(),
        key: key.try_into().ok()?,
        state: 0,
        not_before: event.received_at,
        attempts: row.attempts,
        possible_duplicate: row.possible_duplicate,
        replay: row.replay,
        reason: None,
        last_error: row.last_error,
        received_at: event.received_at,
        signed_at: event.signed_at,
        event_type: event.event_type.clone(),
        order_value: event.order_value.clone(),
        body_bytes: u64::try_from(payload.body.len()).unwrap_or(u64::MAX),
        body_sha256: row.body_sha256,
        digest: digest.try_into().ok()?,
    };
    Some((row, payload))
}

fn same(one: &Event, other: &Event) -> bool {
    let texts =
        |event: &Event| (event.route.clone(), event.target.clone(), event.authority.clone(), event.method.clone());
    let rest = |event: &Event| (event.id, event.key, event.body.clone(), event.received_at, event.signed_at);
    let names = |event: &Event| (event.event_type.clone(), event.order_value.clone());
    texts(one) == texts(other)
        && rest(one) == rest(other)
        && names(one) == names(other)
        && one.headers.iter().eq(other.headers.iter())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_was_touched_is_refused_wherever_it_was() {
        let mut touched = 0;
        for bytes in
            [&b""[..], b"x", &[0xff; 300], b"a text that is longer than a key, with \x00\x00\x00\x01a\x00\x00\x00\x01b"]
        {
            assert_eq!(record(bytes, |_| false), (false, Read::Same));
            for part in 0..9 {
                let change = |parts: &mut [Vec<u8>]| {
                    let byte = parts[part].last_mut();
                    byte.map(|byte| *byte ^= 1).is_some()
                };
                let (changed, read) = record(bytes, change);
                assert_eq!(read == Read::Refused, changed, "{part} of {bytes:?}");
                touched += usize::from(changed);
            }
        }
        assert!(touched > 25, "{touched}");
    }

    #[test]
    fn any_bytes_are_headers_that_come_back_or_none() {
        let mut chance = fastrand::Rng::with_seed(1);
        for _ in 0..20_000 {
            let mut bytes = Vec::new();
            for _ in 0..chance.usize(..4) {
                for _ in 0..2 {
                    let length = chance.u8(..4);
                    bytes.extend_from_slice(&[0, 0, 0, length]);
                    bytes.extend((0..length).map(|_| chance.u8(..)));
                }
            }
            assert!(headers(&bytes), "{bytes:?}");
        }
        assert!(headers(b"\x00\x00\x00\x01a\x00\x00\x00\x01b\x00\x00\x00\x01A\x00\x00\x00\x00"));
    }
}

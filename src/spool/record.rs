//! An event as a record on disk, and back. What comes back is byte for byte what went in, or it is not given at all.
//!
//! Headers: for each line in its order, the length of the name as four bytes (most significant first), the name, the
//! length of the value, the value. Repeated names keep their order.
//!
//! Digest: SHA-256 over everything that is sent and everything that decides where to, each part with its length (eight
//! bytes) before it: id, route, key, method, target, authority, headers, SHA-256 of the body, time received, time
//! signed, type, order value. What is absent has the length 2^64 - 1. It is made when the event is written and checked
//! whenever it is read.

use http::{HeaderName, HeaderValue, Method};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{Entry, NewEntry, Possible, Replay, Stored};
use crate::disk::{EventRow, NewRow, NewState, PayloadRow};
use crate::domain::body::Body;
use crate::domain::event::{Event, EventId};
use crate::domain::headers::Headers;
use crate::domain::key::EventKey;

/// The record of a new event.
pub(super) fn encode(entry: &NewEntry) -> NewRow {
    let event = &*entry.event;
    let (headers, body_sha256) = (encode_headers(&event.headers), event.body.sha256());
    NewRow {
        event: entry.event.clone(),
        state: match entry.state {
            Entry::Pending { not_before } => NewState::Pending { not_before },
            Entry::InFlight => NewState::InFlight,
            Entry::Dead { reason } => NewState::Dead { reason: reason.as_str() },
        },
        attempts: entry.attempts,
        possible_duplicate: entry.possible_duplicate == Possible::Duplicate,
        replay: entry.replay == Replay::Yes,
        last_error: entry.last_error.clone(),
        key: key_bytes(&event.key),
        digest: digest(event, &headers, &body_sha256),
        headers,
        body_sha256,
    }
}

/// The event of a record, or what is wrong with it. Events up to `doubtful_through` may have been sent before a crash.
pub(super) fn decode(row: EventRow, payload: PayloadRow, doubtful_through: i64) -> Result<Stored, &'static str> {
    let body = Body::from(payload.body);
    let body_sha256 = body.sha256();
    let event = Event {
        id: EventId(Uuid::from_bytes(row.id)),
        route: row.route,
        key: key_from(&row.key),
        method: Method::from_bytes(payload.method.as_bytes()).map_err(|_| "its method is none")?,
        target: payload.target,
        headers: decode_headers(&payload.headers).ok_or("its headers are none")?,
        authority: payload.authority,
        body,
        received_at: row.received_at,
        signed_at: row.signed_at,
        event_type: row.event_type,
        order_value: row.order_value,
    };
    if digest(&event, &payload.headers, &body_sha256) != row.digest {
        return Err("its SHA-256 is not the one it was written with");
    }
    let doubtful = row.possible_duplicate || row.seq <= doubtful_through;
    Ok(Stored {
        event,
        attempts: row.attempts,
        possible_duplicate: Possible::from_flag(doubtful),
        replay: if row.replay { Replay::Yes } else { Replay::No },
        not_before: row.not_before,
        last_error: row.last_error,
    })
}

/// The name and key of a row, for lists.
pub(super) fn names(row: &EventRow) -> (EventId, EventKey) {
    (EventId(Uuid::from_bytes(row.id)), key_from(&row.key))
}

fn digest(event: &Event, headers: &[u8], body_sha256: &[u8; 32]) -> [u8; 32] {
    let mut hash = Sha256::new();
    let received_at = event.received_at.millis().to_be_bytes();
    let signed_at = event.signed_at.map(|at| at.millis().to_be_bytes());
    for part in [
        Some(&event.id.0.as_bytes()[..]),
        Some(event.route.as_bytes()),
        Some(&key_bytes(&event.key)),
        Some(event.method.as_str().as_bytes()),
        Some(event.target.as_bytes()),
        Some(event.authority.as_bytes()),
        Some(headers),
        Some(body_sha256),
        Some(&received_at),
        signed_at.as_ref().map(|bytes| &bytes[..]),
        event.event_type.as_ref().map(String::as_bytes),
        event.order_value.as_ref().map(String::as_bytes),
    ] {
        let length = part.map_or(u64::MAX, |bytes| u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        hash.update(length.to_be_bytes());
        hash.update(part.unwrap_or_default());
    }
    hash.finalize().into()
}

pub(super) fn encode_headers(headers: &Headers) -> Vec<u8> {
    let length = headers.iter().map(|(name, value)| 8 + name.as_str().len() + value.len()).sum();
    let mut encoded = Vec::with_capacity(length);
    for (name, value) in headers {
        for bytes in [name.as_str().as_bytes(), value.as_bytes()] {
            encoded.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
            encoded.extend_from_slice(bytes);
        }
    }
    encoded
}

pub(super) fn decode_headers(mut encoded: &[u8]) -> Option<Headers> {
    let mut headers = Headers::new();
    while !encoded.is_empty() {
        let name = HeaderName::from_bytes(take(&mut encoded)?).ok()?;
        let value = HeaderValue::from_bytes(take(&mut encoded)?).ok()?;
        headers.append(name, value);
    }
    Some(headers)
}

fn take<'a>(encoded: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = encoded.split_first_chunk::<4>()?;
    let (bytes, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    *encoded = rest;
    Some(bytes)
}

fn key_bytes(key: &EventKey) -> [u8; 32] {
    let mut bytes = [0; 32];
    let (slot, fingerprint) = bytes.split_at_mut(16);
    slot.copy_from_slice(&key.slot);
    fingerprint.copy_from_slice(&key.fingerprint);
    bytes
}

fn key_from(bytes: &[u8; 32]) -> EventKey {
    let half = |from: usize| std::array::from_fn(|i| bytes.get(from + i).copied().unwrap_or(0));
    EventKey { slot: half(0), fingerprint: half(16) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back_with_their_bytes_their_repeats_and_their_order() {
        let mut headers = Headers::new();
        for (name, value) in [("b", &b"1"[..]), ("a", b"\xff\x80 x"), ("b", b""), ("c", b"3"), ("b", b"2")] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap());
        }
        let back = decode_headers(&encode_headers(&headers)).unwrap();
        assert!(headers.iter().eq(back.iter()));
        assert_eq!(back.get_all("b").collect::<Vec<_>>(), ["1", "", "2"]);
    }

    #[test]
    fn headers_that_were_cut_are_none() {
        let mut headers = Headers::new();
        headers.append("name", HeaderValue::from_static("value"));
        let encoded = encode_headers(&headers);
        assert!((1..encoded.len()).all(|length| decode_headers(&encoded[..length]).is_none()));
    }
}

//! What a check costs on the heap: nothing, beyond what becomes part of the event.
//!
//! Counted in this process by an allocator that counts, for every built-in provider whose requests can be signed here.

#![allow(clippy::expect_used, clippy::panic, reason = "a test that cannot go on says so")]

use std::net::{IpAddr, Ipv4Addr};

use bytes::Bytes;
use hookgate::config::builtin;
use hookgate::domain::headers::Headers;
use hookgate::domain::inbound::Inbound;
use hookgate::domain::scheme::{KeyEncoding, Kind, Scheme, Unsigned};
use hookgate::domain::secret::Secret;
use hookgate::domain::time::Timestamp;
use http::{HeaderValue, Method};

const NOW: Timestamp = Timestamp::from_seconds(1_760_000_000);

/// Nothing nested: what the JSON reader skips is flat.
const FLAT: &str = "";
/// Values in values: skipping them, the JSON reader keeps the open brackets in a buffer of its own.
const NESTED: &str = r#""list":[{"a":[1,{"b":[]}]}],"#;

fn signed(scheme: &Scheme, secret: &Secret, inside: &str) -> Option<Inbound> {
    let mut body = format!(
        r#"{{"event":"task.completed","id":"evt_1","type":"a","timestamp":"2025-10-09T08:53:20Z",
        "webhookTimestamp":1760000000000,"task_id":"tsk_1","data":{{{inside}"pad":""#
    );
    body.extend(std::iter::repeat_n('x', 1021 - body.len()));
    body.push_str("\"}}");
    let mut headers = Headers::new();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    let url = "https://hooks.example/r".to_owned();
    let mut request = Unsigned { method: Method::POST, url, headers, body: Bytes::from(body) };
    scheme.sign(&mut request, secret, NOW).ok()?;
    Some(Inbound {
        method: request.method,
        path: "/r".to_owned(),
        query: request.url.split_once('?').map(|(_, query)| query.to_owned()),
        headers: request.headers,
        body: request.body,
        authority: "hooks.example".to_owned(),
        https: true,
        remote: IpAddr::V4(Ipv4Addr::LOCALHOST),
    })
}

fn secret_for(scheme: &Scheme) -> Secret {
    let text = match scheme.as_written().key.as_ref().and_then(|key| key.encoding) {
        Some(KeyEncoding::Base64 | KeyEncoding::Hex) => "00112233445566778899aabbccddeeff",
        Some(KeyEncoding::Utf8) | None => "user:a secret of some length",
    };
    Secret::new(text.as_bytes().to_vec())
}

/// Web tokens hold their claims in base64 and JSON, which are unpacked once their MAC is right.
const TOKEN: u64 = 48;

/// What a check of each provider may allocate beside its event.
fn may(name: &str) -> u64 {
    let kind = builtin::scheme(name).and_then(|raw| raw.kind);
    if kind == Some(Kind::Jwt) { TOKEN } else { 0 }
}

/// What a check of each provider allocated, and what of it went into the event.
fn counted(inside: &str) -> Vec<(&'static str, u64, u64)> {
    let mut all = Vec::new();
    for name in builtin::names() {
        let Some(scheme) = builtin::scheme(name).and_then(|raw| Scheme::compile(&raw).ok()) else { continue };
        let secret = secret_for(&scheme);
        let (Some(inbound), Ok(key)) = (signed(&scheme, &secret, inside), scheme.prepare(&secret)) else { continue };
        let keys = [(0, &key)];
        let mut verified = None;
        let counted = allocation_counter::measure(|| verified = Some(scheme.verify(inbound, &keys, None)));
        let verified = verified.expect("measured").unwrap_or_else(|refused| panic!("{name}: {:?}", refused.refusal));
        all.push((name, counted.count_total, u64::from(scheme.event_type(&verified).is_some())));
    }
    assert!(all.len() >= 50, "only {} providers", all.len());
    all
}

#[test]
fn a_check_allocates_nothing_but_the_events_own_type() {
    let wrong: Vec<_> =
        counted(FLAT).into_iter().filter(|(name, count, of_event)| *count > of_event + may(name)).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn reading_names_out_of_nested_json_costs_one_small_buffer_a_level() {
    let wrong: Vec<_> =
        counted(NESTED).into_iter().filter(|(name, count, of_event)| *count > of_event + 2 + may(name)).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

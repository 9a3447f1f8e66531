//! What the targets share: a built-in scheme, its key, and a request.

#![allow(dead_code, reason = "each target uses its part")]

use std::net::{IpAddr, Ipv4Addr};

use bytes::Bytes;
use hookgate::config::builtin;
use hookgate::domain::headers::Headers;
use hookgate::domain::inbound::Inbound;
use hookgate::domain::scheme::{Key, Scheme, Unsigned};
use hookgate::domain::secret::Secret;
use hookgate::domain::time::Timestamp;
use http::{HeaderValue, Method};

pub const NOW: Timestamp = Timestamp::from_seconds(1_760_000_000);
pub const URL: &str = "https://hooks.example/in";

/// A secret that no fuzzer guesses, and a key under most schemes.
pub fn secret() -> Secret {
    Secret::new(b"6f1d9c0b5e7a48d2a3c4b5968778695a4b3c2d1e0f00112233445566778899aa".to_vec())
}

pub fn builtin(name: &str) -> Option<(Scheme, Key)> {
    let scheme = Scheme::compile(&builtin::scheme(name)?).ok()?;
    let key = scheme.prepare(&secret()).ok()?;
    Some((scheme, key))
}

pub fn request(body: &[u8], content_type: &'static str) -> Unsigned {
    let mut headers = Headers::new();
    headers.insert("content-type", HeaderValue::from_static(content_type));
    Unsigned { method: Method::POST, url: URL.to_owned(), headers, body: Bytes::copy_from_slice(body) }
}

pub fn received(request: Unsigned) -> Inbound {
    Inbound {
        method: request.method,
        path: "/in".to_owned(),
        query: request.url.split_once('?').map(|(_, query)| query.to_owned()),
        headers: request.headers,
        body: request.body,
        authority: "hooks.example".to_owned(),
        https: true,
        remote: IpAddr::V4(Ipv4Addr::LOCALHOST),
    }
}

//! Measures the rules alone, without a socket, on signed events of 1 KiB.
//!
//! `cargo bench --bench verify`. `hmac` is the bare keyed hash over the same bytes with a key made ready once: the
//! least that any check can cost. `verify` is one check by a scheme, `verify and admit` the way to an event with its
//! key. Read them as shares of `hmac`, and of a request's CPU time (see `gateway.rs`).

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "a benchmark may end with a message")]

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use hmac::{Hmac, KeyInit, Mac};
use hookgate::config::{Environment, Layers};
use hookgate::domain::event::EventId;
use hookgate::domain::headers::Headers;
use hookgate::domain::inbound::Inbound;
use hookgate::domain::scheme::{Scheme, Unsigned, Verified};
use hookgate::domain::secret::Secret;
use hookgate::domain::time::Timestamp;
use http::{HeaderValue, Method};
use sha2::Sha256;

const SECRET: &str = "bench-secret-0123456789abcdef";
const NOW: Timestamp = Timestamp::from_seconds(1_760_000_000);

/// Schemes of every shape: one header, timestamp, id, several signatures, JSON times, signed addresses, forms, items.
const PROVIDERS: [&str; 12] = [
    "github",
    "shopify",
    "veedeo",
    "stripe",
    "standardwebhooks",
    "linear",
    "square",
    "hubspot_v2",
    "hubspot_v3",
    "contentful",
    "twilio",
    "gitlab_token",
];

fn rules(criterion: &mut Criterion) {
    let mut floor = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("a key");
    floor.update(b"");
    let body = [b'x'; 1024];
    criterion.bench_function("hmac, sha256, 1 KiB", |bench| {
        bench.iter(|| {
            let mut mac = floor.clone();
            mac.update(black_box(&body));
            mac.finalize().into_bytes()
        });
    });
    for provider in PROVIDERS {
        let secret =
            if provider == "standardwebhooks" { "whsec_YmVuY2gtc2VjcmV0LTAxMjM0NTY3ODlhYmNkZWY=" } else { SECRET };
        let text = format!(
            "[app]\nurl = \"http://127.0.0.1:1\"\n[routes.r]\npath = \"/r\"\nprovider = \"{provider}\"\nsecrets = [ {{ literal = \"{secret}\" }} ]\npublic_url = \"https://hooks.example/r\"\n"
        );
        let environment = Environment::of(NOW, std::iter::empty::<(String, String)>());
        let config = Layers::of_text("bench.toml", &text, &environment).and_then(|layers| layers.check());
        let config = config.map_err(|faults| faults.plain()).expect("a configuration");
        let route = config.routes.first().expect("a route").clone();
        let inbound = signed(&route.scheme, secret, provider == "twilio");
        criterion.bench_function(&format!("verify, {provider}, 1 KiB"), |bench| {
            // One request over and over: neither its copy nor its end is part of a check.
            let mut request = Some(inbound.clone());
            bench.iter(|| {
                let verified = request.take().map(|inbound| route.verify(inbound, NOW).expect("a valid signature"));
                request = verified.map(Verified::into_inbound);
            });
        });
        if provider == "veedeo" || provider == "stripe" {
            criterion.bench_function(&format!("verify and admit, {provider}, 1 KiB"), |bench| {
                bench.iter_batched(
                    || inbound.clone(),
                    |inbound| {
                        let verified = route.verify(inbound, NOW).expect("a valid signature");
                        route.admit(verified, NOW, EventId::new(NOW, 7), NOW).expect("an event")
                    },
                    BatchSize::SmallInput,
                );
            });
        }
    }
}

fn signed(scheme: &Scheme, secret: &str, form: bool) -> Inbound {
    let body = if form { form_body() } else { json_body() };
    let mut headers = Headers::new();
    let content_type = if form { "application/x-www-form-urlencoded" } else { "application/json" };
    headers.insert("content-type", HeaderValue::from_static(content_type));
    headers.insert("user-agent", HeaderValue::from_static("bench"));
    let mut request =
        Unsigned { method: Method::POST, url: "https://hooks.example/r".to_owned(), headers, body: Bytes::from(body) };
    scheme.sign(&mut request, &Secret::new(secret.into()), NOW).expect("a signature");
    Inbound {
        method: request.method,
        path: "/r".to_owned(),
        query: None,
        headers: request.headers,
        body: request.body,
        authority: "hooks.example".to_owned(),
        https: true,
        remote: [127, 0, 0, 1].into(),
    }
}

fn json_body() -> String {
    let mut body = String::from(
        r#"{"event":"task.completed","id":"evt_1","timestamp":"2025-10-09T08:53:20Z","webhookTimestamp":1760000000000,"task_id":"tsk_1","data":{"pad":""#,
    );
    body.extend(std::iter::repeat_n('x', 1021 - body.len()));
    body.push_str("\"}}");
    body
}

/// Twenty fields, as a text message has.
fn form_body() -> String {
    let fields: Vec<String> = (0..20).map(|n| format!("Field{n}=%2B1415{}", "5".repeat(38))).collect();
    fields.join("&")
}

criterion_group!(benches, rules);
criterion_main!(benches);

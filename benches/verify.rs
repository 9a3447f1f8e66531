//! Measures the rules alone, without a socket: verifying and admitting one signed event of 1 KiB.
//!
//! `cargo bench --bench verify`. What it shows is a share: how much of a request's CPU time (see `gateway.rs`) the
//! rules take.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "a benchmark may end with a message")]

use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use hookgate::config::{Environment, Layers};
use hookgate::domain::event::EventId;
use hookgate::domain::inbound::Inbound;
use hookgate::domain::scheme::Unsigned;
use hookgate::domain::secret::Secret;
use hookgate::domain::time::Timestamp;
use http::{HeaderMap, HeaderValue, Method};

const SECRET: &str = "bench-secret-0123456789abcdef";
const NOW: Timestamp = Timestamp::from_seconds(1_760_000_000);

fn rules(criterion: &mut Criterion) {
    for provider in ["veedeo", "stripe", "standardwebhooks"] {
        let secret =
            if provider == "standardwebhooks" { "whsec_YmVuY2gtc2VjcmV0LTAxMjM0NTY3ODlhYmNkZWY=" } else { SECRET };
        let text = format!(
            "[app]\nurl = \"http://127.0.0.1:1\"\n[routes.r]\npath = \"/r\"\nprovider = \"{provider}\"\nsecrets = [ {{ literal = \"{secret}\" }} ]\n"
        );
        let environment = Environment::of(NOW, std::iter::empty::<(String, String)>());
        let config = Layers::of_text("bench.toml", &text, &environment).and_then(|layers| layers.check());
        let config = config.map_err(|faults| faults.plain()).expect("a configuration");
        let route = config.routes.first().expect("a route").clone();
        let inbound = signed(&route.scheme, secret);
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

fn signed(scheme: &hookgate::domain::scheme::Scheme, secret: &str) -> Inbound {
    let mut body = String::from(
        r#"{"event":"task.completed","id":"evt_1","timestamp":"2025-10-09T08:53:20Z","task_id":"tsk_1","data":{"pad":""#,
    );
    body.extend(std::iter::repeat_n('x', 1021 - body.len()));
    body.push_str("\"}}");
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    headers.insert("user-agent", HeaderValue::from_static("bench"));
    let mut request =
        Unsigned { method: Method::POST, url: "http://hooks.example/r".to_owned(), headers, body: Bytes::from(body) };
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

criterion_group!(benches, rules);
criterion_main!(benches);

//! Explanations of requests that the providers' own libraries signed, and of what became of them: nothing that is said
//! helps to sign one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that stops is a test that fails"
)]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bytes::Bytes;
use data_encoding::{BASE64_NOPAD, BASE64URL_NOPAD, HEXLOWER};
use hookgate::app::candidates;
use hookgate::config::{Environment, Layers, builtin};
use hookgate::domain::explain::{Case, Explanation, Verdict, explain};
use hookgate::domain::headers::Headers;
use hookgate::domain::inbound::Inbound;
use hookgate::domain::route::Route;
use hookgate::domain::scheme::{Carries, Coverage, Scheme, Unsigned};
use hookgate::domain::time::Timestamp;
use http::Method;

/// Every how many rows one is explained: all of them take a minute.
const EVERY: usize = 13;
const NOW: Timestamp = Timestamp::from_seconds(1_760_000_000);

#[allow(unreachable_pub, reason = "shared by two test programs")]
#[path = "vectors/row.rs"]
mod row;

use row::Row;

/// A row's route. Nothing if its secret is no key at all: such a gateway does not start.
fn route_of(row: &Row) -> Option<Arc<Route>> {
    route(&row.provider, &row.secrets, Some(row.public_url()))
}

fn route(provider: &str, secrets: &[String], public_url: Option<&str>) -> Option<Arc<Route>> {
    let secrets: Vec<String> = secrets.iter().map(|secret| format!("{{ literal = {secret:?} }}")).collect();
    let public_url = public_url.map_or_else(String::new, |url| format!("public_url = {url:?}"));
    let text = format!(
        "[routes.r]\npath = \"/r\"\nprovider = {provider:?}\nmethods = [\"GET\", \"POST\", \"PUT\", \"DELETE\"]\n\
         secrets = [{}]\n{public_url}\n",
        secrets.join(", ")
    );
    let environment = Environment::of(NOW, std::iter::empty::<(String, String)>());
    let config = Layers::of_text("vectors.toml", &text, &environment).and_then(|layers| layers.check());
    match config.map_err(|faults| faults.plain()) {
        Ok(config) => Some(config.routes[0].clone()),
        Err(faults) if faults.contains("`routes.r.secrets[") => None,
        Err(faults) => panic!("{faults}"),
    }
}

fn explained(
    inbound: &Inbound,
    route: &Route,
    candidates: &[(String, Scheme)],
    now: Timestamp,
) -> (Explanation, String) {
    let explanation = explain(&Case { inbound, route, others: &[], candidates, now, left_out: None });
    let text = serde_json::to_string(&explanation).unwrap();
    (explanation, text)
}

/// No usual way to write a secret is in `text`.
fn holds_no_secret(text: &str, secrets: &[String], what: &str) {
    for secret in secrets.iter().filter(|secret| secret.len() >= 8) {
        let bytes = secret.as_bytes();
        let forms = [HEXLOWER, BASE64_NOPAD, BASE64URL_NOPAD].map(|encoding| encoding.encode(bytes));
        for form in forms.iter().chain([secret]) {
            assert!(!text.contains(form.as_str()), "{what} says a secret: {text}");
        }
    }
}

#[test]
fn nothing_that_is_said_of_the_providers_requests_helps_to_sign_one() {
    let ((_, rows), candidates) = (row::read_all(), candidates());
    let mut signatures: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.tier == "valid") {
        let Some(route) = route_of(row) else { continue };
        let carries = |name: &str| route.scheme.carries(&name.parse().unwrap()) != Carries::Nothing;
        let values = row.headers.iter().filter(|(name, _)| carries(name)).map(|(_, value)| value);
        let words = values.flat_map(|value| value.split(['=', ',', ' ', ';', '&', '|']));
        let long = words.filter(|word| word.len() >= 24).map(str::to_owned);
        signatures.entry(&row.provider).or_default().extend(long);
    }
    assert!(signatures.values().flatten().count() >= 100, "{signatures:?}");
    let mut refused = 0;
    for row in rows.iter().step_by(EVERY) {
        let what = format!("{} {}", row.provider, row.case);
        let now = Timestamp::from_seconds(row.now_unix);
        let Some(route) = route_of(row) else { continue };
        let (explanation, text) = explained(&row.inbound(), &route, &candidates, now);
        refused += usize::from(matches!(explanation.verdict, Verdict::Refuse { .. }));
        holds_no_secret(&text, &row.secrets, &what);
        for signature in &signatures[row.provider.as_str()] {
            assert!(!text.contains(signature.as_str()), "{what} says {signature}: {text}");
        }
    }
    assert!(rows.len() >= 650 && refused >= 70, "{} rows, {refused} refused", rows.len());
}

#[test]
fn a_newline_behind_the_body_is_found_with_every_provider_that_signs_it() {
    let candidates = candidates();
    let mut found = Vec::new();
    for name in builtin::names() {
        let scheme = Scheme::compile(&builtin::scheme(name).unwrap()).unwrap();
        let secrets = [
            "canary-with-a-secret-0123456789",
            "whsec_Y2FuYXJ5LXN0YW5kYXJkLTJhNGI2YzhkMGUx",
            "63616e6172792d30313233343536",
        ];
        let fits =
            |secret: &&&str| scheme.prepare(&hookgate::domain::secret::Secret::new(secret.as_bytes().to_vec())).is_ok();
        let Some(secret) = secrets.iter().find(fits).map(|secret| (*secret).to_owned()) else { continue };
        let route = route(name, std::slice::from_ref(&secret), Some("https://hooks.example.com/r")).unwrap();
        if scheme.traits().body != Coverage::Covered {
            continue;
        }
        let mut request = Unsigned {
            method: Method::POST,
            url: "https://hooks.example.com/r".into(),
            headers: Headers::new(),
            body: Bytes::from_static(b"{\"id\": 1}"),
        };
        if scheme.sign(&mut request, &route.secrets[0].secret, NOW).is_err() {
            continue;
        }
        let inbound = Inbound {
            method: request.method,
            path: "/r".into(),
            query: request.url.split_once('?').map(|(_, query)| query.to_owned()),
            headers: request.headers,
            body: [&request.body[..], b"\n"].concat().into(),
            authority: "hooks.example.com".into(),
            https: true,
            remote: IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        let (explanation, text) = explained(&inbound, &route, &candidates, NOW);
        holds_no_secret(&text, &[secret], name);
        let ids: Vec<&str> = explanation.findings.iter().map(|finding| finding.id).collect();
        assert!(ids.contains(&"body-final-newline"), "{name}: {:?} {ids:?}", explanation.verdict);
        found.push(name);
    }
    assert!(found.len() >= 40, "{found:?}");
}

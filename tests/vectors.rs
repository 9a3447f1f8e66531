//! Requests signed by the providers' own libraries, against the built-in schemes.
//!
//! `tier` decides: `valid` must be accepted, `attack` must be refused; `edge` is a choice and is not asserted here.

#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on says so")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use bytes::Bytes;
use data_encoding::BASE64;
use hookgate::config::builtin;
use hookgate::domain::inbound::Inbound;
use hookgate::domain::refusal::Refusal;
use hookgate::domain::scheme::{Key, Scheme, Verified};
use hookgate::domain::secret::Secret;
use hookgate::domain::time::Timestamp;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;

#[derive(Deserialize)]
struct Row {
    provider: String,
    case: String,
    tier: String,
    method: String,
    url: String,
    headers: Vec<(String, String)>,
    body_b64: String,
    secrets: Vec<String>,
    now_unix: i64,
}

impl Row {
    fn inbound(&self) -> Inbound {
        let (_, rest) = self.url.split_once("://").expect("an absolute address");
        let (authority, target) = rest.split_at(rest.find('/').expect("a path"));
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let name: HeaderName = name.parse().expect("a header name");
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).expect("a header value"));
        }
        Inbound {
            method: self.method.parse().expect("a method"),
            path: path.to_owned(),
            query: query.map(str::to_owned),
            headers,
            body: Bytes::from(BASE64.decode(self.body_b64.as_bytes()).expect("base64")),
            authority: authority.to_owned(),
            https: self.url.starts_with("https:"),
            remote: IpAddr::V4(Ipv4Addr::LOCALHOST),
        }
    }

    fn judge(&self, scheme: &Scheme) -> Result<Verified, Refusal> {
        let secrets: Vec<Secret> = self.secrets.iter().map(|text| Secret::new(text.clone().into_bytes())).collect();
        // A secret that gives no key stops the gateway before its first request; here it is no key at all.
        let keys: Vec<Key> = secrets.iter().filter_map(|secret| scheme.prepare(secret).ok()).collect();
        let keys: Vec<(usize, &Key)> = keys.iter().enumerate().collect();
        let public = self.url.split('?').next().expect("an address");
        let verified = scheme.verify(self.inbound(), &keys, Some(public))?;
        scheme.check_freshness(&verified, Timestamp::from_seconds(self.now_unix))?;
        Ok(verified)
    }
}

fn rows() -> Vec<Row> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/vectors");
    let mut rows = Vec::new();
    let mut files = 0;
    for file in std::fs::read_dir(directory).expect("the vectors") {
        let text = std::fs::read_to_string(file.expect("a file").path()).expect("UTF-8");
        rows.extend(text.lines().map(|line| serde_json::from_str::<Row>(line).expect("a row")));
        files += 1;
    }
    assert!(files >= 54, "only {files} files of vectors");
    assert!(rows.len() >= 2750, "only {} rows", rows.len());
    rows
}

fn schemes(rows: &[Row]) -> BTreeMap<String, Scheme> {
    let compile = |name: &String| {
        let mut raw = builtin::scheme(name).unwrap_or_else(|| panic!("no built-in {name}"));
        if name == "livekit" {
            // What a route says of it: which API key its secret belongs to.
            raw.claims.get_or_insert_default().insert("iss".to_owned(), "APIkey".to_owned());
        }
        Scheme::compile(&raw).unwrap_or_else(|faults| panic!("{name}: {faults:?}"))
    };
    rows.iter().map(|row| (row.provider.clone(), compile(&row.provider))).collect()
}

#[test]
fn what_the_providers_sign_is_accepted_and_what_was_tampered_with_is_refused() {
    let rows = rows();
    let schemes = schemes(&rows);
    let (mut valid, mut attacks) = (0, 0);
    let mut wrong = Vec::new();
    for row in &rows {
        let verdict = row.judge(&schemes[&row.provider]).map(drop);
        match (row.tier.as_str(), &verdict) {
            ("valid", Ok(())) => valid += 1,
            ("attack", Err(_)) => attacks += 1,
            ("edge", _) => {}
            _ => wrong.push(format!("{} {} {}: {verdict:?}", row.provider, row.tier, row.case)),
        }
    }
    assert!(wrong.is_empty(), "{}\n{} wrong", wrong.join("\n"), wrong.len());
    assert!(valid >= 540 && attacks >= 1300, "{valid} valid, {attacks} attacks");
}

#[test]
fn headers_that_come_twice_are_refused_and_bodies_that_are_no_text_are_not() {
    let rows = rows();
    let schemes = schemes(&rows);
    let (mut repeated, mut odd) = (0, 0);
    for row in rows.iter().filter(|row| row.tier == "edge") {
        let verdict = row.judge(&schemes[&row.provider]).map(drop);
        if row.case.contains("header_twice") {
            assert_eq!(verdict, Err(Refusal::SignatureRepeated), "{} {}", row.provider, row.case);
            repeated += 1;
        }
        if row.case == "valid_invalid_utf8_body" {
            assert_eq!(verdict, Ok(()), "{} {}", row.provider, row.case);
            odd += 1;
        }
    }
    assert!(repeated >= 90 && odd >= 35, "{repeated} repeated, {odd} odd");
}

#[test]
fn the_secret_that_fitted_is_known_by_its_position() {
    let rows = rows();
    let schemes = schemes(&rows);
    let mut second = 0;
    for row in rows.iter().filter(|row| row.case == "rotation_signed_with_second_secret") {
        let verified = row.judge(&schemes[&row.provider]).unwrap_or_else(|r| panic!("{} {r:?}", row.provider));
        assert_eq!(verified.secret(), 1, "{}", row.provider);
        second += 1;
    }
    assert!(second >= 40, "{second}");
}

//! Requests signed by the providers' own libraries, against the built-in schemes.
//!
//! `tier` decides: `valid` must be accepted, `attack` must be refused; `edge` is a choice and is not asserted here.

#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on says so")]

use std::collections::BTreeMap;

use hookgate::config::builtin;
use hookgate::domain::refusal::Refusal;
use hookgate::domain::scheme::{Key, Scheme, Verified};
use hookgate::domain::secret::Secret;
use hookgate::domain::time::Timestamp;

#[allow(unreachable_pub, reason = "shared by two test programs")]
#[path = "vectors/row.rs"]
mod row;

use row::Row;

/// What a scheme says of a row.
fn judge(row: &Row, scheme: &Scheme) -> Result<Verified, Refusal> {
    let secrets: Vec<Secret> = row.secrets.iter().map(|text| Secret::new(text.clone().into_bytes())).collect();
    // A secret that gives no key stops the gateway before its first request; here it is no key at all.
    let keys: Vec<Key> = secrets.iter().filter_map(|secret| scheme.prepare(secret).ok()).collect();
    let keys: Vec<(usize, &Key)> = keys.iter().enumerate().collect();
    let verified = scheme.verify(row.inbound(), &keys, Some(row.public_url()))?;
    scheme.check_freshness(&verified, Timestamp::from_seconds(row.now_unix))?;
    Ok(verified)
}

fn rows() -> Vec<Row> {
    let (files, rows) = row::read_all();
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
        let verdict = judge(row, &schemes[&row.provider]).map(drop);
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
        let verdict = judge(row, &schemes[&row.provider]).map(drop);
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
fn a_form_that_signs_one_of_its_fields_is_no_other_kind_of_body() {
    let rows = rows();
    let schemes = schemes(&rows);
    let mut judged = 0;
    for row in rows.into_iter().filter(|row| row.provider == "braintree" && row.tier == "valid") {
        let scheme = &schemes["braintree"];
        let is_type = |name: &str| name.eq_ignore_ascii_case("content-type");
        let others: Vec<(String, String)> = row.headers.iter().filter(|(name, _)| !is_type(name)).cloned().collect();
        for (media, wanted) in [
            (Some("Application/X-WWW-Form-Urlencoded; charset=utf-8"), Ok(())),
            (Some("application/json"), Err(Refusal::SignatureMalformed)),
            (Some("multipart/form-data; boundary=x"), Err(Refusal::SignatureMalformed)),
            (None, Ok(())),
        ] {
            let typed = media.map(|media| ("Content-Type".to_owned(), media.to_owned()));
            let row = Row { headers: others.iter().cloned().chain(typed).collect(), ..row.clone() };
            assert_eq!(judge(&row, scheme).map(drop), wanted, "{media:?} {}", row.case);
            judged += 1;
        }
    }
    assert!(judged >= 12, "{judged}");
}

#[test]
fn the_secret_that_fitted_is_known_by_its_position() {
    let rows = rows();
    let schemes = schemes(&rows);
    let mut second = 0;
    for row in rows.iter().filter(|row| row.case == "rotation_signed_with_second_secret") {
        let verified = judge(row, &schemes[&row.provider]).unwrap_or_else(|r| panic!("{} {r:?}", row.provider));
        assert_eq!(verified.secret(), 1, "{}", row.provider);
        second += 1;
    }
    assert!(second >= 40, "{second}");
}

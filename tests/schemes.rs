//! The rules of the scheme language that hold for every provider, through the built-in ones.

#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on says so")]

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use bytes::Bytes;
use data_encoding::BASE64;
use ed25519_dalek::{Signer, SigningKey};
use hmac::{Hmac, KeyInit, Mac};
use hookgate::config::builtin;
use hookgate::domain::headers::Headers;
use hookgate::domain::inbound::Inbound;
use hookgate::domain::key::EventKey;
use hookgate::domain::refusal::Refusal;
use hookgate::domain::scheme::{
    Carries, Coverage, EventIdTrait, Freshness, Key, KeyEncoding, RawScheme, Scheme, SchemeFault, SentTrait,
    SignedAtMissing, Unsigned, Verified,
};
use hookgate::domain::secret::Secret;
use hookgate::domain::time::Timestamp;
use http::{HeaderName, HeaderValue, Method};
use proptest::prelude::*;
use sha2::Sha256;

const NOW: Timestamp = Timestamp::from_seconds(1_760_000_000);
const VEEDEO: &str =
    r#"{"event":"task.completed","timestamp":"2025-10-09T08:53:20Z","task_id":"tsk_1","data":{"a":0.0}}"#;

fn builtin(name: &str) -> Scheme {
    Scheme::compile(&builtin::scheme(name).expect("a built-in")).expect("a sound scheme")
}

fn written(text: &str) -> Result<Scheme, Vec<SchemeFault>> {
    let raw: RawScheme = toml_edit::de::from_str(text).expect("keys of the language");
    Scheme::compile(&raw)
}

/// A secret that is a key under the scheme called `name`; one in base64 for a scheme of a test's own.
fn secret_for(name: &str) -> Secret {
    let encoding = builtin::scheme(name).and_then(|raw| raw.key?.encoding).unwrap_or_default();
    let text: &[u8] = match (name, encoding) {
        ("discord" | "discord_events", _) => b"4ff689253b117cfc1b0c312534766b456908d53735edd68129987ca01876812d",
        ("telnyx", _) => b"T/aJJTsRfPwbDDElNHZrRWkI1Tc17daBKZh8oBh2gS0=",
        ("sendgrid", _) => {
            b"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEPCh0KQWVbvWNJxNAxzXFR2b5Z+l/F+Mrk+JTNFVCvH1HXyOVLwCdF7b9ZL24rD/3KSFF7yNm\
              h2MWQvKQpvQWvw=="
        }
        (_, KeyEncoding::Hex) => b"44782DEF547AAA06C910C43932B1EB0C71FC68D9D0C057550C48EC2ACF6BA056",
        (_, KeyEncoding::Utf8 | KeyEncoding::Base64) => b"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
    };
    Secret::new(text.to_vec())
}

fn request(body: &[u8]) -> Unsigned {
    let mut headers = Headers::new();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    Unsigned {
        method: Method::POST,
        url: "https://hooks.example.com/in".to_owned(),
        headers,
        body: Bytes::copy_from_slice(body),
    }
}

fn received(request: Unsigned) -> Inbound {
    Inbound {
        method: request.method,
        path: "/in".to_owned(),
        query: request.url.split_once('?').map(|(_, query)| query.to_owned()),
        headers: request.headers,
        body: request.body,
        authority: "hooks.example.com".to_owned(),
        https: true,
        remote: IpAddr::V4(Ipv4Addr::LOCALHOST),
    }
}

fn signed(name: &str, body: &[u8], at: Timestamp) -> Inbound {
    let mut request = request(body);
    builtin(name).sign(&mut request, &secret_for(name), at).unwrap_or_else(|fault| panic!("{name}: {fault}"));
    received(request)
}

fn verify(scheme: &Scheme, name: &str, inbound: Inbound) -> Result<Verified, Refusal> {
    let key = scheme.prepare(&secret_for(name)).expect("a key");
    Ok(scheme.verify(inbound, &[(0, &key)], None)?)
}

fn check(name: &str, inbound: Inbound) -> Result<Verified, Refusal> {
    verify(&builtin(name), name, inbound)
}

fn fresh(name: &str, inbound: Inbound, now: Timestamp) -> Result<Freshness, Refusal> {
    let scheme = builtin(name);
    let verified = verify(&scheme, name, inbound)?;
    scheme.check_freshness(&verified, now)
}

fn key(name: &str, body: &str) -> EventKey {
    key_of(name, signed(name, body.as_bytes(), NOW))
}

fn key_of(name: &str, inbound: Inbound) -> EventKey {
    let verified = check(name, inbound).expect("signed");
    builtin(name).key("r", &verified)
}

fn set(inbound: &mut Inbound, name: &'static str, value: &str) {
    inbound.headers.insert(HeaderName::from_static(name), value.parse().expect("a value"));
}

fn later(seconds: u64) -> Timestamp {
    NOW.plus(Duration::from_secs(seconds))
}

#[test]
fn veedeo_is_fresh_for_300_seconds_by_its_header_and_stale_after_301() {
    let inbound = signed("veedeo", VEEDEO.as_bytes(), NOW);
    assert!(fresh("veedeo", inbound.clone(), later(300)).is_ok());
    assert_eq!(fresh("veedeo", inbound.clone(), later(301)), Err(Refusal::TimestampStale));
    assert!(fresh("veedeo", inbound.clone(), NOW.minus(Duration::from_secs(300))).is_ok());
    assert_eq!(fresh("veedeo", inbound, NOW.minus(Duration::from_secs(301))), Err(Refusal::TimestampFuture));
}

#[test]
fn a_fresh_header_on_an_old_veedeo_body_helps_for_23_hours_and_no_longer() {
    let mut captured = signed("veedeo", VEEDEO.as_bytes(), NOW);
    for (age, verdict) in [(82_800, None), (82_801, Some(Refusal::EventTooOld))] {
        let now = later(age);
        set(&mut captured, "x-veedeo-timestamp", &(1_760_000_000 + age).to_string());
        assert_eq!(fresh("veedeo", captured.clone(), now).err(), verdict, "{age} s");
    }
}

#[test]
fn videopilot_is_taken_for_23_hours_after_the_event_and_five_minutes_before() {
    let body = r#"{"event":"render.started","data":{"video_id":"v"},"timestamp":"2025-10-09T08:53:20.000Z"}"#;
    let inbound = signed("videopilot", body.as_bytes(), NOW);
    assert_eq!(
        fresh("videopilot", inbound.clone(), later(82_800)),
        Ok(Freshness { sent_at: None, signed_at: Some(NOW), signed_at_missing: SignedAtMissing::No })
    );
    assert_eq!(fresh("videopilot", inbound.clone(), later(82_801)), Err(Refusal::EventTooOld));
    assert!(fresh("videopilot", inbound.clone(), NOW.minus(Duration::from_secs(300))).is_ok());
    assert_eq!(fresh("videopilot", inbound, NOW.minus(Duration::from_secs(301))), Err(Refusal::TimestampFuture));
}

#[test]
fn a_signed_body_without_a_time_is_taken_and_reported() {
    let odd = ["", "{}", "not json", r#"{"timestamp":"yesterday"}"#, r#"{"timestamp":1}"#, "\u{feff}{}"];
    for body in odd {
        let freshness = fresh("videopilot", signed("videopilot", body.as_bytes(), NOW), NOW).expect("taken");
        assert_eq!(freshness.signed_at_missing, SignedAtMissing::Yes, "{body}");
    }
}

#[test]
fn a_scheme_knows_which_headers_carry_its_proof() {
    let cases = [
        ("veedeo", "x-veedeo-signature", Carries::Signature),
        ("veedeo", "x-veedeo-timestamp", Carries::Nothing),
        ("docusign", "x-docusign-signature-12", Carries::Signature),
        ("docusign", "x-docusign-signature-", Carries::Nothing),
        ("standardwebhooks", "webhook-signature", Carries::Signature),
        ("standardwebhooks", "webhook-id", Carries::Nothing),
        ("gitlab_token", "x-gitlab-token", Carries::Secret),
    ];
    for (name, header, carries) in cases {
        assert_eq!(builtin(name).carries(&HeaderName::from_static(header)), carries, "{name}: {header}");
    }
    let basic = written("kind = \"basic\"").map(|scheme| scheme.carries(&http::header::AUTHORIZATION));
    assert_eq!(basic, Ok(Carries::Secret));
}

#[test]
fn what_is_missing_is_told_apart_from_what_is_wrong() {
    let without = |name: &str| {
        let mut inbound = signed("veedeo", VEEDEO.as_bytes(), NOW);
        inbound.headers.remove(name);
        check("veedeo", inbound).map(drop)
    };
    let with = |name: &'static str, value: &str| {
        let mut inbound = signed("veedeo", VEEDEO.as_bytes(), NOW);
        set(&mut inbound, name, value);
        check("veedeo", inbound).map(drop)
    };
    assert_eq!(without("x-veedeo-signature"), Err(Refusal::SignatureMissing));
    assert_eq!(without("x-veedeo-timestamp"), Err(Refusal::TimestampMissing));
    assert_eq!(with("x-veedeo-signature", ""), Err(Refusal::SignatureMissing));
    assert_eq!(with("x-veedeo-timestamp", ""), Err(Refusal::TimestampMissing));
    assert_eq!(with("x-veedeo-timestamp", "abc"), Err(Refusal::TimestampMalformed));
    assert_eq!(with("x-veedeo-signature", "sha256=abc"), Err(Refusal::SignatureMalformed));
    assert_eq!(with("x-veedeo-signature", &format!("sha256={}", "0".repeat(64))), Err(Refusal::SignatureMismatch));
    let mut no_id = signed("svix", b"{}", NOW);
    no_id.headers.remove("svix-id");
    assert_eq!(check("svix", no_id).map(drop), Err(Refusal::SignatureMissing));
}

#[test]
fn nothing_is_believed_of_a_request_that_nobody_signed() {
    let mut forged = signed("veedeo", VEEDEO.as_bytes(), NOW);
    set(&mut forged, "x-veedeo-signature", &format!("sha256={}", "0".repeat(64)));
    set(&mut forged, "x-veedeo-timestamp", "abc");
    assert_eq!(check("veedeo", forged).map(drop), Err(Refusal::SignatureMismatch));
}

#[test]
fn names_that_matter_come_once() {
    let repeat = |scheme: &str, name: &'static str, value: &str| {
        let mut inbound = signed(scheme, VEEDEO.as_bytes(), NOW);
        inbound.headers.append(HeaderName::from_static(name), value.parse().expect("a value"));
        check(scheme, inbound).map(drop)
    };
    assert_eq!(repeat("veedeo", "x-veedeo-timestamp", "1760000000"), Err(Refusal::SignatureRepeated));
    assert_eq!(repeat("veedeo", "x-veedeo-signature", "sha256=00"), Err(Refusal::SignatureRepeated));
    assert_eq!(repeat("github", "x-github-delivery", "2"), Err(Refusal::SignatureRepeated));
    assert_eq!(repeat("svix", "svix-id", "2"), Err(Refusal::SignatureRepeated));
    assert_eq!(repeat("veedeo", "x-other", "1").and(repeat("veedeo", "content-type", "x")), Ok(()));
}

#[test]
fn every_documented_videopilot_event_is_named_by_its_ids() {
    let event = |event: &str, data: &str, at: &str| {
        key("videopilot", &format!(r#"{{"event":"{event}","data":{{{data}}},"timestamp":"{at}"}}"#))
    };
    let at = "2024-01-15T10:30:00.000Z";
    let video = r#""video_id":"video_123abc""#;
    let render = r#""render_job_id":"render_789xyz","video_id":"video_123abc""#;
    for (name, data) in [
        ("video.script_ready", video),
        ("video.media_ready", video),
        ("video.generation_failed", video),
        ("render.started", render),
        ("render.completed", render),
        ("render.failed", render),
    ] {
        let original = event(name, data, at);
        let reworded = event(name, &format!(r#"{data},"status":"x""#), at);
        assert_eq!(original.slot, reworded.slot, "{name}: same ids, same slot");
        assert_ne!(original.fingerprint, reworded.fingerprint, "{name}");
        assert_ne!(original.slot, event(name, data, "2024-01-15T10:30:01.000Z").slot, "{name}: another time");
        assert_ne!(original.slot, event("other", data, at).slot, "{name}: another event");
    }
    let as_render = event("e", r#""render_job_id":"x""#, at);
    assert_ne!(as_render.slot, event("e", r#""video_id":"x""#, at).slot, "ids of different kinds");
}

#[test]
fn where_a_part_of_the_name_is_missing_or_unclear_the_body_is_the_name() {
    let unnamed = [
        r#"{"event":"e","timestamp":"2025-10-09T08:53:20Z"}"#,
        r#"{"event":"e","task_id":null,"timestamp":"2025-10-09T08:53:20Z"}"#,
        r#"{"event":"e","task_id":"","timestamp":"2025-10-09T08:53:20Z"}"#,
        r#"{"event":"e","task_id":{"a":1},"timestamp":"2025-10-09T08:53:20Z"}"#,
        r#"{"event":"e","task_id":"1","task_id":"1","timestamp":"2025-10-09T08:53:20Z"}"#,
        r#"{"event":"e","task_id":"1","timestamp":"2025-10-09T08:53:20Z""#,
        "",
    ];
    for body in unnamed {
        let one = key("veedeo", body);
        let other = key("veedeo", &format!("{body} "));
        assert_ne!(one.slot, other.slot, "{body}");
        assert_eq!(one, key("veedeo", body), "{body}");
    }
    let named = r#"{"event":"e","task_id":"1","timestamp":"2025-10-09T08:53:20Z"}"#;
    assert_eq!(key("veedeo", named).slot, key("veedeo", &format!("{named} ")).slot);
}

#[test]
fn a_string_and_a_number_are_different_names() {
    let with = |id: &str| key("veedeo", &format!(r#"{{"event":"e","task_id":{id},"timestamp":"t"}}"#));
    assert_ne!(with("\"1\"").slot, with("1").slot);
    assert_ne!(with("\"true\"").slot, with("true").slot);
}

#[test]
fn a_new_timestamp_header_does_not_make_a_new_event() {
    assert_eq!(
        key_of("veedeo", signed("veedeo", VEEDEO.as_bytes(), NOW)),
        key_of("veedeo", signed("veedeo", VEEDEO.as_bytes(), later(30)))
    );
}

#[test]
fn an_unsigned_id_names_an_event_only_together_with_the_body() {
    let with = |scheme: &str, name: &'static str, id: &str, body: &str| {
        let mut inbound = signed(scheme, body.as_bytes(), NOW);
        set(&mut inbound, name, id);
        key_of(scheme, inbound).slot
    };
    let github = |id, body| with("github", "x-github-delivery", id, body);
    assert_eq!(github("1", "{}"), github("1", "{}"));
    assert_ne!(github("1", "{}"), github("1", "{ }"), "a copied id cannot take another body's slot");
    assert_ne!(github("1", "{}"), github("2", "{}"));
    let svix = |body: &[u8]| {
        let mut request = request(body);
        request.headers.insert("svix-id", HeaderValue::from_static("msg_1"));
        builtin("svix").sign(&mut request, &secret_for("svix"), NOW).expect("signed");
        key_of("svix", received(request)).slot
    };
    assert_eq!(svix(b"{}"), svix(b"{ }"), "a signed id names the event by itself");
}

#[test]
fn what_is_not_signed_cannot_make_another_event_of_a_signed_token() {
    let token = |rest: &str| {
        let scheme = written(
            "signature = { header = \"X-Sig\", encoding = \"hex\" }\nsigned = \"{json:/token}\"\n\
             event_id = [\"json:/token\"]",
        )
        .expect("a sound scheme");
        let mut request = request(format!(r#"{{"token":{rest}}}"#).as_bytes());
        scheme.sign(&mut request, &secret_for(""), NOW).expect("signed");
        let verified = verify(&scheme, "", received(request)).expect("signed");
        scheme.key("r", &verified)
    };
    assert_eq!(token(r#""12""#), token(r#""12","event":"forged""#));
    assert_eq!(token(r#""12""#), token("12"));
    assert_ne!(token(r#""12""#), token(r#""13""#));
}

#[test]
fn a_field_of_a_form_that_is_signed_without_separators_names_no_event_alone() {
    let scheme = "signature = { header = \"X-Sig\", encoding = \"hex\" }\nsigned = \"{sorted_form}\"\n\
                  event_id = [\"form:id\"]";
    let scheme = written(scheme).expect("a sound scheme");
    let form = HeaderValue::from_static("application/x-www-form-urlencoded");
    let mut captured = request(b"Body=xid2&id=1");
    captured.headers.insert("content-type", form.clone());
    scheme.sign(&mut captured, &secret_for(""), NOW).expect("signed");
    let mut cut = captured.clone();
    cut.body = Bytes::from_static(b"Body=x&id=2id1");
    let mut other = request(b"Body=x&id=2id1&z=");
    other.headers.insert("content-type", form);
    scheme.sign(&mut other, &secret_for(""), NOW).expect("signed");
    let key = |request| scheme.key("r", &verify(&scheme, "", received(request)).expect("signed")).slot;
    assert_ne!(key(cut), key(other), "who cuts one event anew takes no other one's slot");
    assert_eq!(key(captured.clone()), key(captured));
}

#[test]
fn slack_and_zoom_handshakes_are_answered_and_events_are_not() {
    let answer = |name: &str, body: &str| {
        let scheme = builtin(name);
        let verified = check(name, signed(name, body.as_bytes(), NOW)).expect("signed");
        let key = scheme.prepare(&secret_for(name)).expect("a key");
        scheme.handshake(&verified, Some(&key), None).expect("text that can be shown")
    };
    let slack = answer("slack", r#"{"type":"url_verification","challenge":"a\"b"}"#).expect("a handshake");
    assert_eq!((slack.content_type.as_str(), slack.body.as_ref()), ("text/plain", b"a\"b".as_slice()));
    let zoom = answer("zoom", r#"{"event":"endpoint.url_validation","payload":{"plainToken":"a\"b"}}"#);
    let zoom = zoom.expect("a handshake");
    let reply: serde_json::Value = serde_json::from_slice(&zoom.body).expect("JSON, whatever the token holds");
    assert_eq!(reply["plainToken"], "a\"b");
    assert_eq!(reply["encryptedToken"].as_str().map(str::len), Some(64));
    assert_eq!(answer("slack", r#"{"type":"event_callback","challenge":"x"}"#), None);
    assert_eq!(answer("zoom", r#"{"event":"endpoint.url_validation","payload":{}}"#), None);
}

#[test]
fn a_scheme_says_what_it_can_promise() {
    let veedeo = builtin("veedeo").traits();
    assert_eq!(veedeo.sent, SentTrait::Uncovered { tolerance: Duration::from_secs(300) });
    assert_eq!(veedeo.signed_at_max_age, Some(Duration::from_secs(82_800)));
    assert_eq!((veedeo.event_id, veedeo.body), (EventIdTrait::Signed, Coverage::Covered));
    assert!(veedeo.retry_horizon < veedeo.signed_at_max_age);
    assert_eq!(veedeo.ack_reply.map(|reply| reply.body), Some(Bytes::from_static(b"{\"received\":true}")));
    let tolerance = Duration::from_secs(300);
    assert_eq!(builtin("stripe").traits().sent, SentTrait::Covered { tolerance });
    assert_eq!(builtin("contentful").traits().sent, SentTrait::Covered { tolerance: Duration::from_secs(30) });
    let github = builtin("github").traits();
    assert_eq!((github.sent, github.event_id), (SentTrait::None, EventIdTrait::Unsigned));
    assert_eq!(builtin("mailgun").traits().body, Coverage::Uncovered);
    assert_eq!(builtin("square").traits().url, Coverage::Covered);
    assert_eq!(builtin("mailersend").traits().event_id, EventIdTrait::None);
}

#[test]
fn every_fault_of_a_scheme_is_found_at_once_and_named() {
    let faults = written(
        "signature = { header = \"a b\" }\nsigned = \"{boddy}\"\nkey = { strip = \"*\" }\n\
         timestamp = { from = \"X-Time\" }\nevent_id = [\"json:/a\", \"nope\"]\nevent_type = \"sig:t\"\n\
         signed_at = { from = \"json:/at\" }\neach = \"/x\"\nrequire = { \"a b\" = \"1\" }",
    )
    .expect_err("many faults");
    let keys: Vec<&str> = faults.iter().map(|fault| fault.key.as_str()).collect();
    for key in [
        "signature.header",
        "signature.encoding",
        "signed",
        "key.strip",
        "timestamp.from",
        "event_id[1]",
        "event_type",
        "signed_at.max_age",
        "each",
        "require",
    ] {
        assert!(keys.contains(&key), "{key} is not in {keys:?}");
    }
}

#[test]
fn parts_that_contradict_one_another_are_faults() {
    const SIG: &str = "signature = { header = \"X\", encoding = \"hex\" }\n";
    let contradictions = [
        ("signed", "kind = \"hash\""),
        ("signed", "signed = \"{secret}{body}\""),
        ("timestamp", "signed = \"{timestamp}{body}\""),
        ("id", "signed = \"{id}{body}\""),
        ("each", "signed = \"{item:/a}\""),
        ("timestamp.from", "timestamp = { from = \"sig:t\" }"),
        ("timestamp.covered", "timestamp = { from = \"header:T\", covered = true }"),
        ("signed_at.from", "signed_at = { from = \"header:T\", max_age = \"1h\" }"),
        ("signed_at.from", "signed = \"{sorted_form}\"\nsigned_at = { from = \"form:T\", max_age = \"1h\" }"),
        ("mac", "kind = \"hash\"\nmac = \"sha512\"\nsigned = \"{secret}{body}\""),
        ("key.bare", "key = { bare = \"utf8\" }"),
        ("claims", "claims = { iss = \"x\" }"),
        ("extends", "extends = \"stripe\""),
        ("mac", "kind = \"ed25519\"\nmac = \"sha512\""),
        ("mac", "kind = \"token\"\nmac = \"sha256\""),
        ("key.hash", "kind = \"ecdsa-p256\"\nkey = { hash = \"sha1\" }"),
        ("signed", "kind = \"ed25519\"\nsigned = \"{secret}{body}\""),
        ("also", "kind = \"ed25519\"\nalso = { kind = \"ed25519\", pick = \"b\", secret = \"pk_\" }"),
        ("also.kind", "also = { kind = \"hmac\", pick = \"b\", secret = \"pk_\" }"),
        ("also.pick", "also = { kind = \"ed25519\", pick = \"b\", secret = \"pk_\" }"),
        ("also.secret", "also = { kind = \"ed25519\", pick = \"b\" }"),
        ("also.key.hash", "also = { kind = \"ed25519\", pick = \"b\", secret = \"pk_\", key = { hash = \"sha256\" } }"),
        ("challenge.reply", "challenge = { when = \"json:/a\", reply = \"text/html\" }"),
        ("signature", "kind = \"jwt\"\ntoken = { header = \"T\" }"),
        ("signed", "kind = \"jwt\"\ntoken = { header = \"T\" }\nsigned = \"{body}\""),
        ("mac", "kind = \"jwt\"\ntoken = { header = \"T\" }\nmac = \"sha1\""),
        ("claims.h", "kind = \"jwt\"\ntoken = { header = \"T\" }\nclaims = { h = \"{md5_hex:body}\" }"),
        ("body_digest", "kind = \"jwt\"\ntoken = { header = \"T\" }\nbody_digest = { query = \"q\" }"),
        ("each", "kind = \"jwt\"\ntoken = { header = \"T\" }\neach = \"/a/*\""),
        ("event_id[0]", "event_id = [\"claim:jti\"]"),
        ("event_id[1]", "event_id = [\"json:/a\", \"request\"]"),
        ("event_id[0]", "event_id = [\"request|json:/a\"]"),
        ("timestamp.from", "timestamp = { from = \"claim:iat\" }"),
        ("token", "token = { header = \"T\" }"),
        ("about.reply.status", "about = { reply = { status = 500 } }"),
    ];
    for (key, text) in contradictions {
        let faults = written(&format!("{SIG}{text}")).expect_err(text);
        assert!(faults.iter().any(|fault| fault.key == key), "{text}: {faults:?}");
    }
    assert!(written(SIG).is_ok());
    for text in ["kind = \"jwt\"", "kind = \"jwt\"\ntoken = { prefix = \"Bearer \" }"] {
        let faults = written(text).expect_err(text);
        assert!(faults.iter().any(|fault| fault.key == "token.header"), "{text}: {faults:?}");
    }
}

fn shown(scheme: &str, body: &str) -> Result<usize, Refusal> {
    let scheme = written(scheme).expect("a sound scheme");
    let secrets = ["old-secret-0123456789", "new-secret-0123456789"];
    let keys = secrets.map(|text| scheme.prepare(&Secret::new(text.into())).expect("a key"));
    let keys: Vec<(usize, &Key)> = keys.iter().enumerate().collect();
    Ok(scheme.verify(received(request(body.as_bytes())), &keys, None)?.secret())
}

#[test]
fn every_item_of_a_batch_shows_the_secret_or_none_is_taken() {
    const GRAPH: &str = "kind = \"token\"\neach = \"/value/*\"\nsignature = { item = \"/clientState\" }";
    let batch = |items: &[&str]| format!("{{\"value\":[{}]}}", items.join(","));
    let old = r#"{"clientState":"old-secret-0123456789"}"#;
    let new = r#"{"clientState":"new-secret-0123456789"}"#;
    assert_eq!(shown(GRAPH, &batch(&[old])), Ok(0));
    assert_eq!(shown(GRAPH, &batch(&[new, old])), Ok(1));
    let mismatch = Err(Refusal::SignatureMismatch);
    for wrong in [r#"{"clientState":"x"}"#, r#"{"clientState":"old-secret-0123456789 "}"#, r#"{"clientState":1}"#] {
        assert_eq!(shown(GRAPH, &batch(&[wrong])), mismatch, "{wrong}");
        assert_eq!(shown(GRAPH, &batch(&[old, wrong])), mismatch, "{wrong}");
        assert_eq!(shown(GRAPH, &batch(&[wrong, old])), mismatch, "{wrong}");
    }
    let twice = r#"{"clientState":"x","clientState":"old-secret-0123456789"}"#;
    let missing = Err(Refusal::SignatureMissing);
    for wrong in ["{}", r#"{"clientState":""}"#, r#"{"clientState":null}"#, "1", twice] {
        assert_eq!(shown(GRAPH, &batch(&[old, wrong])), missing, "{wrong}");
    }
    for body in ["", "{}", "[]", r#"{"value":[]}"#, r#"{"value":{}}"#, "{\"value\":[],\"value\":[]}"] {
        assert_eq!(shown(GRAPH, body), missing, "{body}");
    }
    assert_eq!(shown(GRAPH, &batch(&vec![old; 1000])), Ok(0));
    assert_eq!(shown(GRAPH, &batch(&vec![old; 1001])), Err(Refusal::SignatureRepeated));
}

#[test]
fn a_batch_of_signed_items_is_taken_up_to_sixteen_and_never_in_part() {
    let text = "each = \"/v/*\"\nsigned = \"{item:/a}\"\nsignature = { item = \"/s\", encoding = \"base64\" }";
    let scheme = written(text).expect("a sound scheme");
    let mut mac = Hmac::<Sha256>::new_from_slice(b"a secret of this test alone").expect("a key");
    mac.update(b"1");
    let item = format!("{{\"a\":\"1\",\"s\":\"{}\"}}", BASE64.encode(&mac.finalize().into_bytes()));
    let key = scheme.prepare(&Secret::new(b"a secret of this test alone".to_vec())).expect("a key");
    let verdict = |signed: usize, unsigned: usize| {
        let items = [vec![&*item; signed], vec!["{\"a\":\"1\"}"; unsigned]].concat();
        let body = format!("{{\"v\":[{}]}}", items.join(","));
        scheme.verify(received(request(body.as_bytes())), &[(0, &key)], None).map(|_| ()).map_err(Refusal::from)
    };
    assert_eq!((verdict(1, 0), verdict(16, 0)), (Ok(()), Ok(())));
    assert_eq!(verdict(15, 1), Err(Refusal::SignatureMissing));
    for (signed, unsigned) in [(17, 0), (17, 1), (17, 40), (40, 0)] {
        assert_eq!(verdict(signed, unsigned), Err(Refusal::SignatureRepeated), "{signed} and {unsigned}");
    }
}

#[test]
fn what_a_check_costs_is_counted_in_the_headers_that_carry_a_signature_alone() {
    let scheme = builtin("standardwebhooks");
    let hashings = |lines: &[(&'static str, &'static str)]| {
        let line = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        scheme.hashings(&lines.iter().map(line).collect())
    };
    assert_eq!(hashings(&[]), 1);
    assert_eq!(hashings(&[("webhook-signature", "v1a,a v1a,b")]), 3, "public keys hash the message each anew");
    assert_eq!(hashings(&[("x-other", "v1a,a v1a,b"), ("webhook-id", "v1a,a")]), 1, "these carry none");
}

#[test]
fn a_scheme_says_whether_it_signs_when_an_event_happened() {
    assert!(builtin("veedeo").has_signed_at() && !builtin("github").has_signed_at());
}

#[test]
fn a_token_may_stand_in_the_body() {
    let json = "kind = \"token\"\nsignature = { json = \"/auth/token\" }";
    assert_eq!(shown(json, r#"{"auth":{"token":"new-secret-0123456789"}}"#), Ok(1));
    assert_eq!(shown(json, r#"{"auth":{"token":"x"}}"#), Err(Refusal::SignatureMismatch));
    assert_eq!(shown(json, "{}"), Err(Refusal::SignatureMissing));
    let form = "kind = \"token\"\nsignature = { form = \"token\" }";
    assert_eq!(shown(form, "a=1&token=old-secret-0123456789"), Ok(0));
    assert_eq!(shown(form, "a=1&token=x"), Err(Refusal::SignatureMismatch));
    assert_eq!(shown(form, "token=x&token=old-secret-0123456789"), Err(Refusal::SignatureRepeated));
    assert_eq!(shown(form, "a=1"), Err(Refusal::SignatureMissing));
    let faults = written("kind = \"basic\"\neach = \"/v/*\"\nsignature = { item = \"/t\" }").expect_err("one place");
    assert!(faults.iter().any(|fault| fault.key == "signature"), "{faults:?}");
}

#[test]
fn a_token_is_checked_as_its_provider_makes_it() {
    for name in ["messagebird", "upstash_qstash", "vonage", "livekit"] {
        let inbound = signed(name, b"{}", NOW);
        assert!(fresh(name, inbound.clone(), later(300)).is_ok(), "{name}");
        assert_eq!(fresh(name, inbound.clone(), later(301)).err(), Some(Refusal::TimestampStale), "{name}");
        let mut other = inbound.clone();
        other.body = Bytes::from_static(b"{ }");
        assert_eq!(check(name, other).err(), Some(Refusal::SignatureMismatch), "{name}");
        let mut elsewhere = inbound;
        elsewhere.query = Some("x=1".to_owned());
        let bound = builtin(name).traits().url == Coverage::Covered;
        assert_eq!(check(name, elsewhere).is_err(), bound, "{name}");
    }
}

#[test]
fn a_secret_that_gives_no_key_is_found_before_the_first_request() {
    let secret = |text: &str| Secret::new(text.as_bytes().to_vec());
    assert!(builtin("svix").prepare(&secret("whsec_AAEC")).is_ok());
    let fault = builtin("svix").prepare(&secret("whsec_no base64")).expect_err("no base64");
    assert!(!fault.to_string().contains("no base64"), "{fault}");
    assert!(builtin("github").prepare(&secret("")).is_err());
}

/// A request of Standard Webhooks, and what of it is signed.
fn standard(body: &[u8]) -> (Inbound, Vec<u8>) {
    let mut inbound = received(request(body));
    set(&mut inbound, "webhook-id", "msg_1");
    set(&mut inbound, "webhook-timestamp", "1760000000");
    (inbound, [b"msg_1.1760000000.", body].concat())
}

fn public(pair: &SigningKey) -> String {
    format!("whpk_{}", BASE64.encode(pair.verifying_key().as_bytes()))
}

fn judge(name: &str, secrets: &[&str], inbound: &Inbound) -> Result<usize, Refusal> {
    let scheme = builtin(name);
    let secrets = secrets.iter().map(|text| Secret::new(text.as_bytes().to_vec()));
    let keys: Vec<Key> = secrets.map(|secret| scheme.prepare(&secret).expect("a key")).collect();
    let keys: Vec<(usize, &Key)> = keys.iter().enumerate().collect();
    Ok(scheme.verify(inbound.clone(), &keys, None)?.secret())
}

#[test]
fn a_second_way_of_signing_is_tried_with_its_own_keys_alone() {
    const SHARED: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    let pair = SigningKey::from_bytes(&[7; 32]);
    let public = public(&pair);
    let (mut inbound, text) = standard(b"{}");
    let asymmetric = BASE64.encode(&pair.sign(&text).to_bytes());
    let keyed = |key: &[u8]| {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key");
        mac.update(&text);
        BASE64.encode(&mac.finalize().into_bytes())
    };
    let shared = keyed(b"0123456789abcdef0123456789abcdef");
    let confused = keyed(pair.verifying_key().as_bytes());
    let mut verdict = |secrets: &[&str], header: &str| {
        set(&mut inbound, "webhook-signature", header);
        judge("standardwebhooks", secrets, &inbound)
    };
    let (v1, v1a) = (format!("v1,{shared}"), format!("v1a,{asymmetric}"));
    let both = format!("{v1} {v1a}");
    assert_eq!(verdict(&[&public], &v1a), Ok(0));
    assert_eq!(verdict(&[SHARED, &public], &v1a), Ok(1));
    assert_eq!(verdict(&[SHARED, &public], &both), Ok(0));
    assert_eq!(verdict(&[&public], &both), Ok(0));
    let mismatch = Err(Refusal::SignatureMismatch);
    assert_eq!(verdict(&[SHARED], &v1a), mismatch);
    assert_eq!(verdict(&[&public], &v1), mismatch);
    assert_eq!(verdict(&[&public], &format!("v1,{confused}")), mismatch);
    let malformed = Err(Refusal::SignatureMalformed);
    assert_eq!(verdict(&[&public], &format!("v1a,{confused}")), malformed);
    assert_eq!(verdict(&[SHARED, &public], &format!("v1,{asymmetric}")), malformed);
    assert_eq!(verdict(&[SHARED, &public], &format!("v1a,{shared}")), malformed);
    let many = |pairs: usize| vec![both.as_str(); pairs].join(" ");
    assert_eq!(verdict(&[SHARED, &public], &many(8)), Ok(0));
    assert_eq!(verdict(&[SHARED, &public], &format!("{} {v1a}", many(8))), Err(Refusal::SignatureRepeated));
    let asymmetric = |count: usize| vec![v1a.as_str(); count].join(" ");
    assert_eq!(verdict(&[&public], &asymmetric(8)), Ok(0));
    assert_eq!(verdict(&[&public], &asymmetric(9)), Err(Refusal::SignatureRepeated), "each hashes the body anew");
}

#[test]
fn a_public_key_signs_nothing_and_a_private_one_is_not_taken() {
    let pair = SigningKey::from_bytes(&[7; 32]);
    for (name, secret) in [("standardwebhooks", public(&pair)), ("resend", public(&pair))] {
        let mut request = request(b"{}");
        let fault = builtin(name).sign(&mut request, &Secret::new(secret.into_bytes()), NOW).expect_err("public");
        assert!(fault.found.starts_with("a public key"), "{fault}");
    }
    let fault = builtin("discord").sign(&mut request(b"{}"), &secret_for("discord"), NOW).expect_err("public");
    assert!(fault.found.starts_with("a public key"), "{fault}");
    let private = Secret::new(format!("whsk_{}", BASE64.encode(&[7; 64])).into_bytes());
    for name in ["standardwebhooks", "polar", "telnyx"] {
        let fault = builtin(name).prepare(&private).expect_err("private");
        assert!(fault.found.starts_with("a private key"), "{fault}");
    }
}

#[test]
fn every_built_in_with_a_signature_in_a_header_takes_what_it_signs() {
    let mut taken = 0;
    for name in builtin::names() {
        let mut request = request(br#"{"webhookTimestamp":1760000000000}"#);
        if builtin(name).sign(&mut request, &secret_for(name), NOW).is_err() {
            let inside_the_body = ["adyen", "braintree", "mailgun", "msgraph"];
            let with_a_private_key = ["discord", "discord_events", "sendgrid", "telnyx"];
            assert!(inside_the_body.contains(&name) || with_a_private_key.contains(&name), "{name} cannot be signed");
            continue;
        }
        let freshness = fresh(name, received(request.clone()), NOW);
        assert!(freshness.is_ok(), "{name}: {freshness:?} {:?}", request.headers);
        taken += 1;
    }
    assert!(taken >= 120, "{taken}");
}

fn signable() -> impl Strategy<Value = &'static str> {
    let names = ["veedeo", "videopilot", "github", "stripe", "svix", "slack", "shopify", "square", "box", "hubspot_v2"];
    proptest::sample::select(names.to_vec())
}

fn any_name() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(builtin::names().collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_signed_is_accepted_and_any_other_bit_is_refused(
        name in signable(),
        body in proptest::collection::vec(any::<u8>(), 1..400),
        flip in any::<prop::sample::Index>(),
        bit in 0..8u32,
    ) {
        let mut inbound = signed(name, &body, NOW);
        prop_assert!(fresh(name, inbound.clone(), NOW).is_ok());
        let mut changed = body;
        let at = flip.index(changed.len());
        changed[at] ^= 1 << bit;
        inbound.body = Bytes::from(changed);
        prop_assert_eq!(check(name, inbound).map(drop), Err(Refusal::SignatureMismatch));
    }

    #[test]
    fn no_bytes_whatsoever_are_accepted_or_stop_the_check(
        name in any_name(),
        body in proptest::collection::vec(any::<u8>(), 0..300),
        value in "[ -~]{0,80}",
        query in proptest::option::of("[ -~]{0,40}"),
    ) {
        let mut inbound = received(request(&body));
        inbound.query = query;
        let mut named = signed_headers(name);
        named.extend(["svix-id", "webhook-id"].map(HeaderName::from_static));
        for name in named {
            inbound.headers.insert(name, HeaderValue::from_str(&value).expect("visible ASCII"));
        }
        prop_assert!(check(name, inbound).is_err());
    }

    #[test]
    fn no_json_makes_two_readers_out_of_one_body(body in "[\\[\\]{}:,\"a0 \\\\un]{0,60}", pointer in "(/[a0]){0,3}") {
        let found = hookgate::domain::scheme::json_scalar(body.as_bytes(), &pointer);
        let tree = serde_json::from_str::<serde_json::Value>(&body).ok();
        if let Some(found) = found {
            let value = tree.as_ref().and_then(|tree| tree.pointer(&pointer)).cloned();
            let text = value.map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
            prop_assert_eq!(text, Some(found));
        }
    }
}

/// The headers that a scheme puts on a request.
fn signed_headers(name: &str) -> Vec<HeaderName> {
    let mut request = request(b"{}");
    if builtin(name).sign(&mut request, &secret_for(name), NOW).is_err() {
        return Vec::new();
    }
    request.headers.keys().filter(|name| *name != "content-type").cloned().collect()
}

#[test]
fn what_was_signed_cannot_be_cut_at_another_place() {
    const SECRET: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    let (mut inbound, text) = standard(br#"{"a":"x.1760000001.y"}"#);
    let mut mac = Hmac::<Sha256>::new_from_slice(b"0123456789abcdef0123456789abcdef").expect("a key");
    mac.update(&text);
    let signature = format!("v1,{}", BASE64.encode(&mac.finalize().into_bytes()));
    set(&mut inbound, "webhook-signature", &signature);
    assert_eq!(judge("standardwebhooks", &[SECRET], &inbound), Ok(0));
    let mut cut = received(request(br#"y"}"#));
    for (name, value) in [
        ("webhook-id", r#"msg_1.1760000000.{"a":"x"#),
        ("webhook-timestamp", "1760000001"),
        ("webhook-signature", &signature),
    ] {
        set(&mut cut, name, value);
    }
    assert_eq!(judge("standardwebhooks", &[SECRET], &cut), Err(Refusal::SignatureMalformed));
}

#[test]
fn a_signed_query_without_its_time_tells_events_without_an_id_apart() {
    let scheme = "signature = { header = \"X-Sig\", encoding = \"hex\" }\nsigned = \"{url}{body}\"\n\
                  timestamp = { from = \"query:ts\" }";
    let scheme = written(scheme).expect("a sound scheme");
    let key = |query: &str| {
        let mut request = request(b"{}");
        request.url = format!("{}?{query}", request.url);
        let mut mac = Hmac::<Sha256>::new_from_slice(secret_for("").expose()).expect("a key");
        mac.update([request.url.as_bytes(), &request.body].concat().as_slice());
        let signature = data_encoding::HEXLOWER.encode(&mac.finalize().into_bytes());
        request.headers.insert("x-sig", HeaderValue::from_str(&signature).expect("hex"));
        scheme.key("r", &verify(&scheme, "", received(request)).expect("signed")).slot
    };
    assert_eq!(key("shop=a&ts=1760000000"), key("shop=a&ts=1760000001"));
    assert_ne!(key("shop=a&ts=1760000000"), key("shop=b&ts=1760000000"));
}

#[test]
fn a_time_that_nobody_asks_the_age_of_is_no_piece_of_a_body_either() {
    let scheme = "signature = { header = \"X-Sig\", encoding = \"hex\" }\nsigned = \"{timestamp}.{body}\"\n\
                  timestamp = { from = \"header:X-Time\", tolerance = \"0s\" }";
    let scheme = written(scheme).expect("a sound scheme");
    let sent = |text: &[u8], time: &str, body: &[u8]| {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret_for("").expose()).expect("a key");
        mac.update(text);
        let mut inbound = received(request(body));
        set(&mut inbound, "x-time", time);
        set(&mut inbound, "x-sig", &data_encoding::HEXLOWER.encode(&mac.finalize().into_bytes()));
        verify(&scheme, "", inbound).map(drop)
    };
    for time in ["1760000000", "Thu, 09 Oct 2025 08:53:20 GMT", "2025-10-09T08:53:20.5+00:00", "some (time)_x"] {
        let text = [time.as_bytes(), br#".{"a":"x.y"}"#].concat();
        assert!(sent(&text, time, br#"{"a":"x.y"}"#).is_ok(), "{time}");
    }
    assert_eq!(sent(br#"1.{"a":"x.y"}"#, r#"1.{"a":"x"#, br#"y"}"#), Err(Refusal::TimestampMalformed));
}

//! What is admitted, and what an event is made of.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::*;
use crate::domain::route::{Enforcement, fixture};
use crate::domain::scheme::Unsigned;
use crate::domain::secret::{RouteSecret, SecretOrigin};

const NOW: Timestamp = Timestamp::from_seconds(1_760_000_000);
const ID: EventId = EventId(Uuid::from_u128(7));
const BODY: &str = r#"{"type":"a","id":1,"order":"o7","at":1760000000}"#;

fn route(extra: &str) -> Route {
    let text = format!(
        "signature = {{ header = \"X-Sig\", encoding = \"hex\" }}\nevent_type = \"json:/type\"\n\
         event_id = [\"json:/id\"]\n{extra}"
    );
    let raw = toml_edit::de::from_str(&text).expect("a scheme");
    let scheme = Scheme::compile(&raw).expect("a sound scheme");
    Route {
        path: "/in".into(),
        secrets: vec![secret(&scheme, "one", None), secret(&scheme, "two", Some(NOW))],
        scheme,
        order_by: Some("/order".into()),
        ..fixture("r")
    }
}

fn secret(scheme: &Scheme, text: &str, until: Option<Timestamp>) -> RouteSecret {
    let secret = Secret::new(text.as_bytes().to_vec());
    let key = scheme.prepare(&secret).expect("a key");
    RouteSecret { secret, key, origin: SecretOrigin::Literal, until }
}

fn signed(route: &Route, with: &str, headers: &[(&str, &str)]) -> Inbound {
    signed_body(route, with, headers, Bytes::from_static(BODY.as_bytes()))
}

fn signed_body(route: &Route, with: &str, headers: &[(&str, &str)], body: Bytes) -> Inbound {
    let mut request =
        Unsigned { method: Method::POST, url: "http://a.example/in?q=1".into(), headers: Headers::new(), body };
    route.scheme.sign(&mut request, &Secret::new(with.as_bytes().to_vec()), NOW).expect("can be signed");
    for (name, value) in headers {
        let name: HeaderName = name.parse().expect("a name");
        request.headers.append(name, value.parse().expect("a value"));
    }
    Inbound {
        method: request.method,
        path: "/in".into(),
        query: Some("q=1".into()),
        headers: request.headers,
        body: request.body,
        authority: "a.example".into(),
        https: false,
        remote: IpAddr::V4(Ipv4Addr::LOCALHOST),
    }
}

fn position(route: &Route, with: &str, now: Timestamp) -> Result<usize, Refusal> {
    Ok(route.verify(signed(route, with, &[]), now)?.secret())
}

fn admit(route: &Route, inbound: Inbound) -> Result<Admission, Refusal> {
    Ok(route.admit(route.verify(inbound, NOW)?, NOW, ID, NOW)?)
}

fn event(route: &Route, inbound: Inbound) -> Event {
    match admit(route, inbound).expect("admitted") {
        Admission::Event(event) => Arc::unwrap_or_clone(event),
        other @ (Admission::Filtered | Admission::Handshake(_)) => panic!("{other:?}"),
    }
}

#[test]
fn an_event_knows_the_digest_of_its_body_whatever_was_signed() {
    let digest: [u8; 32] = Sha256::digest(BODY).into();
    for (signed_over, made_already) in [("", true), ("signed = \"{json:/id}{url}\"", false)] {
        let route = route(signed_over);
        let event = event(&route, signed(&route, "one", &[]));
        assert_eq!((event.body.sha256(), event.body.is_digested()), (digest, made_already), "{signed_over}");
    }
    let observed = Route { enforcement: Enforcement::Observe, ..route("") };
    let unverified = observed.unverified(signed(&observed, "another", &[]), &[], ID, NOW);
    assert_eq!((unverified.body.sha256(), unverified.body.is_digested()), (digest, true));
}

#[test]
fn an_event_with_a_long_body_is_named_by_its_imprint_and_has_the_right_sha256() {
    let route = route("");
    for bytes in [4096, 4097, 100_000] {
        let long = BODY.replacen('{', &format!("{{{}", " ".repeat(bytes - BODY.len())), 1);
        let inbound = signed_body(&route, "one", &[], Bytes::from(long.clone()));
        let event = event(&route, inbound);
        assert_eq!(event.body.sha256(), <[u8; 32]>::from(Sha256::digest(&long)), "{bytes}");
        assert_eq!(event.body.is_digested(), bytes == 4096);
        assert_eq!(event.key.fingerprint, imprint(long.as_bytes())[..16], "{bytes}");
    }
}

#[test]
fn a_secret_is_tried_before_its_end_and_not_from_then_on() {
    let route = route("");
    let before = NOW.minus(Duration::from_millis(1));
    assert_eq!(position(&route, "two", before), Ok(1));
    assert_eq!(position(&route, "two", NOW), Err(Refusal::SignatureMismatch));
    assert_eq!(position(&route, "one", NOW), Ok(0));
}

#[test]
fn an_event_has_the_request_as_it_was_and_its_names() {
    let route = route("");
    let event = event(&route, signed(&route, "one", &[]));
    assert_eq!((event.target.as_str(), event.authority.as_str()), ("/in?q=1", "a.example"));
    assert_eq!(*event.body, BODY);
    assert_eq!(event.event_type.as_deref(), Some("a"));
    assert_eq!(event.order_value.as_deref(), Some("o7"));
}

#[test]
fn only_end_to_end_headers_go_on() {
    let route = route("");
    let ends_here = [
        ("connection", "close, x-mine"),
        ("x-mine", "1"),
        ("keep-alive", "1"),
        ("te", "trailers"),
        ("trailer", "x"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("proxy-authorization", "x"),
        ("proxy-connection", "x"),
        ("expect", "100-continue"),
        ("content-length", "1"),
        ("host", "b.example"),
        ("hookgate-key", "x"),
        ("hookgate_key", "x"),
        ("x_y", "1"),
    ];
    let goes_on = [("content-type", "application/json"), ("x-twice", "1"), ("x-twice", "2")];
    let event = event(&route, signed(&route, "one", &[ends_here.as_slice(), goes_on.as_slice()].concat()));
    for (name, _) in ends_here {
        assert!(!event.headers.contains_key(name), "{name}");
    }
    assert!(event.headers.contains_key("x-sig"));
    assert_eq!(event.headers.get_all("x-twice").count(), 2);
    assert_eq!(event.headers.len(), 4);
}

#[test]
fn a_connection_header_cannot_take_a_header_away_that_the_request_lists_as_signed() {
    let plain = "signature = { header = \"X-Sig\", encoding = \"hex\" }\nsigned = \"{signed_headers:x-list}{body}\"";
    let scheme = Scheme::compile(&toml_edit::de::from_str(plain).expect("a scheme")).expect("a sound scheme");
    let secrets = vec![secret(&scheme, "one", None)];
    let route = Route { scheme, secrets, ..route("") };
    let listed = |named: &str| {
        let mut inbound = signed(&route, "one", &[]);
        inbound.headers.insert("x-list", "X-List,X-Topic".parse().expect("a value"));
        inbound.headers.insert("x-topic", "a".parse().expect("a value"));
        let text = format!("x-list:X-List,X-Topic;x-topic:a{BODY}");
        inbound.headers.insert("x-sig", mac("one", &text).parse().expect("hex"));
        inbound.headers.insert("connection", named.parse().expect("a value"));
        admit(&route, inbound).map(drop)
    };
    assert_eq!(listed("close, x-other"), Ok(()));
    for named in ["x-topic", "close, X-TOPIC", "x-list"] {
        assert_eq!(listed(named), Err(Refusal::BadRequest), "{named}");
    }
}

/// HMAC-SHA256 in hex.
fn mac(key: &str, text: &str) -> String {
    use hmac::{Hmac, KeyInit, Mac};
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("a key");
    mac.update(text.as_bytes());
    data_encoding::HEXLOWER.encode(&mac.finalize().into_bytes())
}

#[test]
fn a_type_that_holds_control_characters_is_none() {
    let route = route("");
    for (body, event_type) in
        [(r#"{"type":"a\u0085"}"#, None), (r#"{"type":"\u009b2J"}"#, None), (r#"{"type":"é"}"#, Some("é"))]
    {
        let mut inbound = signed(&route, "one", &[]);
        inbound.body = Bytes::from_static(body.as_bytes());
        inbound.headers.insert("x-sig", mac("one", body).parse().expect("hex"));
        assert_eq!(event(&route, inbound).event_type.as_deref(), event_type, "{body}");
    }
}

#[test]
fn a_connection_header_cannot_take_a_security_header_away() {
    let route = route("require = { \"X-Version\" = \"1\" }");
    for named in ["x-sig", "close, X-Sig", "x-version"] {
        let refused = admit(&route, signed(&route, "one", &[("connection", named)])).map(drop);
        assert_eq!(refused, Err(Refusal::BadRequest), "{named}");
    }
    let (event, refusal) = route.observe(signed(&route, "one", &[("connection", "x-sig")]), NOW, ID, NOW);
    assert_eq!(refusal, Some(Refusal::BadRequest));
    assert!(event.headers.contains_key("x-sig"));
}

#[test]
fn other_types_are_filtered_and_unknown_ones_are_not() {
    let wanting = |events: &[&str], scheme: &str| {
        let mut route = route(scheme);
        route.events = events.iter().map(|e| (*e).to_owned()).collect();
        admit(&route, signed(&route, "one", &[])).expect("admitted")
    };
    assert!(matches!(wanting(&["b"], ""), Admission::Filtered));
    assert!(matches!(wanting(&["b", "a"], ""), Admission::Event(_)));
    assert!(matches!(wanting(&[], ""), Admission::Event(_)));
}

#[test]
fn a_stale_event_is_refused_and_in_observe_mode_recorded() {
    let route = route("signed_at = { from = \"json:/at\", unit = \"s\", max_age = \"1h\" }");
    let late = NOW.plus(Duration::from_secs(3601));
    let verified = route.verify(signed(&route, "one", &[]), late).expect("signed");
    assert_eq!(route.admit(verified, late, ID, late).map(drop).map_err(Refusal::from), Err(Refusal::EventTooOld));
    let (event, refusal) = route.observe(signed(&route, "one", &[]), late, ID, late);
    assert_eq!(refusal, Some(Refusal::EventTooOld));
    assert_eq!(event.signed_at, Some(NOW));
}

#[test]
fn an_observed_event_that_is_not_verified_has_a_slot_of_its_own() {
    let route = route("");
    let verified = event(&route, signed(&route, "one", &[]));
    let (good, none) = route.observe(signed(&route, "one", &[]), NOW, ID, NOW);
    assert_eq!((good.key, none), (verified.key, None));
    let (forged, refusal) = route.observe(signed(&route, "three", &[]), NOW, ID, NOW);
    assert_eq!(refusal, Some(Refusal::SignatureMismatch));
    assert_ne!(forged.key.slot, verified.key.slot);
    assert_eq!((forged.event_type, forged.order_value), (None, None));
}

//! Every rule of the file above, and its shadow.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, Method};

use super::super::{RawScheme, Scheme, SchemeFault, Unsigned};
use super::*;
use crate::domain::admission::Admission;
use crate::domain::event::EventId;
use crate::domain::headers::Headers;
use crate::domain::inbound::Inbound;
use crate::domain::outcome::HandshakeReply;
use crate::domain::refusal::Refusal;
use crate::domain::route::{Route, fixture};
use crate::domain::secret::{RouteSecret, Secret, SecretOrigin};
use crate::domain::time::Timestamp;

const NOW: Timestamp = Timestamp::from_seconds(1_760_000_000);
const SIGNATURE: &str = "signature = { header = \"X-Sig\", encoding = \"hex\" }";
const CRC: &str = "method = \"GET\", when = \"query:crc\", signed = \"{query}\", body = \"{hmac_hex:{query:crc}}\"";

fn compile(scheme: &str) -> Result<Scheme, Vec<SchemeFault>> {
    let raw: RawScheme = toml_edit::de::from_str(scheme).expect("keys of the language");
    Scheme::compile(&raw)
}

/// A route whose scheme has this challenge.
fn route(challenge: &str) -> Route {
    route_of(&format!("{SIGNATURE}\nchallenge = {{ {challenge} }}"))
}

fn route_of(scheme: &str) -> Route {
    let scheme = compile(scheme).unwrap_or_else(|faults| panic!("{scheme}: {faults:?}"));
    let secret = Secret::new(b"key".to_vec());
    let key = scheme.prepare(&secret).expect("a key");
    let secrets = vec![RouteSecret { secret, key, origin: SecretOrigin::Literal, until: None }];
    Route { scheme, secrets, ..fixture("r") }
}

fn request(method: Method, query: &str, headers: &[(&'static str, &str)], body: &str) -> Inbound {
    let headers: Headers = headers
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), value.parse().expect("a header's value")))
        .collect();
    Inbound {
        method,
        path: "/r".into(),
        query: (!query.is_empty()).then(|| query.to_owned()),
        headers,
        body: Bytes::copy_from_slice(body.as_bytes()),
        authority: "a.example".into(),
        https: true,
        remote: IpAddr::V4(Ipv4Addr::LOCALHOST),
    }
}

fn get(query: &str) -> Inbound {
    request(Method::GET, query, &[], "")
}

fn post(body: &str) -> Inbound {
    request(Method::POST, "", &[], body)
}

/// The same, signed as an event.
fn signed(route: &Route, inbound: Inbound) -> Inbound {
    let mut unsigned = Unsigned {
        method: inbound.method.clone(),
        url: "https://a.example/r".into(),
        headers: inbound.headers.clone(),
        body: inbound.body.clone(),
    };
    route.scheme.sign(&mut unsigned, &route.secrets[0].secret, NOW).expect("can be signed");
    Inbound { headers: unsigned.headers, ..inbound }
}

/// What a request to sign `text` as the body of an event would carry.
fn mac(text: &str) -> String {
    let route = route_of(SIGNATURE);
    let value = signed(&route, post(text)).headers.remove("x-sig").expect("a signature");
    value.to_str().expect("hex").to_owned()
}

fn greet(route: &Route, inbound: &Inbound) -> Option<Result<HandshakeReply, Refusal>> {
    route.greet(inbound, NOW)
}

fn body(route: &Route, inbound: &Inbound) -> String {
    let reply = greet(route, inbound).expect("a challenge").expect("an answer");
    String::from_utf8(reply.body.to_vec()).expect("text")
}

fn refused(route: &Route, inbound: &Inbound) -> Option<Refusal> {
    greet(route, inbound)?.err()
}

fn admit(route: &Route, inbound: Inbound, now: Timestamp) -> Result<Admission, Refusal> {
    let id = EventId::new(now, 7);
    Ok(route.admit(route.verify(inbound, now)?, now, id, now)?)
}

#[test]
fn an_answer_is_text_and_parts_and_other_braces_are_text() {
    let text = r#"{"a":"{json:/t}","b":{"c":"{query:q}"},"d":{}}"#;
    let route = route(&format!("when = \"json:/t\", reply = \"application/json\", body = '{text}'"));
    let asked = request(Method::POST, "q=2", &[], r#"{"t":"1"}"#);
    assert_eq!(body(&route, &asked), r#"{"a":"1","b":{"c":"2"},"d":{}}"#);
}

#[test]
fn a_challenge_that_makes_no_sense_is_a_fault_that_names_its_key() {
    let wrong = [
        ("challenge.method", "method = \"PUT\", when = \"query:a\""),
        ("challenge.when", "body = \"\""),
        ("challenge.when", "when = \"a\""),
        ("challenge.when", "when = \"json:a\""),
        ("challenge.when", "when = \"sig:a\""),
        ("challenge.when", "method = \"GET\", when = \"json:/a\""),
        ("challenge.check", "when = \"json:/a\", check = { \"a\" = \"b\" }"),
        ("challenge.check", "when = \"json:/a\", check = { \"json:/a\" = \"{token}\" }"),
        ("challenge.check", "when = \"json:/a\", check = { \"json:/a\" = \"{hex:3..2}\" }"),
        ("challenge.signed", "method = \"GET\", signed = \"query\""),
        ("challenge.signed", "when = \"json:/a\", verify = true, signed = \"{query}\""),
        ("challenge.status", "when = \"json:/a\", status = 302"),
        ("challenge.status", "when = \"json:/a\", status = 204, body = \"x\""),
        ("challenge.reply", "when = \"json:/a\", reply = \"text/html\""),
        ("challenge.reply", "when = \"json:/a\", reply = \"text/plain; charset=utf-8\""),
        ("challenge.reply_headers", "when = \"json:/a\", reply_headers = { \"Content-Type\" = \"text/html\" }"),
        ("challenge.reply_headers", "when = \"json:/a\", reply_headers = { \"Set-Cookie\" = \"a=b\" }"),
        ("challenge.reply_headers", "when = \"json:/a\", reply_headers = { \"X A\" = \"b\" }"),
        ("challenge.reply_headers", "when = \"json:/a\", reply_headers = { \"X-A\" = \"{json:b}\" }"),
        ("challenge.body", "when = \"json:/a\", body = \"{json:b}\""),
        ("challenge.body", "when = \"json:/a\", body = \"{hmac_hex:{json:/b}\""),
        ("challenge.body", "when = \"json:/a\", body = \"{hmac_hex:b}\""),
    ];
    for (key, challenge) in wrong {
        let faults = compile(&format!("{SIGNATURE}\nchallenge = {{ {challenge} }}")).expect_err(challenge);
        assert_eq!(faults.iter().map(|fault| fault.key.as_str()).collect::<Vec<_>>(), [key], "{challenge}: {faults:?}");
    }
}

#[test]
fn all_faults_of_a_challenge_come_out_at_once() {
    let text = format!("{SIGNATURE}\nchallenge = {{ method = \"PUT\", reply = \"text/html\", status = 99 }}");
    let faults = compile(&text).expect_err("wrong");
    let keys: Vec<&str> = faults.iter().map(|fault| fault.key.as_str()).collect();
    assert_eq!(keys, ["challenge.method", "challenge.status", "challenge.reply", "challenge.when"]);
}

#[test]
fn only_a_scheme_with_a_keyed_hash_can_answer_one() {
    let text = "kind = \"token\"\nsignature = { header = \"X\" }\nchallenge = { when = \"json:/a\", body = \"{hmac_hex:{json:/a}}\" }";
    let faults = compile(text).expect_err("no key to compute with");
    assert_eq!(faults.first().map(|fault| fault.key.as_str()), Some("challenge.body"));
    assert!(compile(&text.replace("{hmac_hex:{json:/a}}", "{json:/a}")).is_ok());
}

#[test]
fn a_challenge_is_told_from_an_event_by_its_method_and_by_when() {
    let valued = route("method = \"GET\", when = \"query:m=a b\", body = \"{query:c}\"");
    assert_eq!(body(&valued, &get("m=a+b&c=%26x")), "&x");
    for other in ["", "m=ab&c=1", "M=a+b&c=1", "m=a+b&m=a+b&c=1", "m"] {
        assert_eq!(greet(&valued, &get(other)), None, "{other:?}");
    }
    assert_eq!(greet(&valued, &request(Method::HEAD, "m=a+b&c=1", &[], "")), None);
    assert_eq!(greet(&valued, &request(Method::POST, "m=a+b&c=1", &[], "")), None);
    let any = route("method = \"HEAD\", body = \"\"");
    assert_eq!(body(&any, &request(Method::HEAD, "", &[], "")), "");
    let form = route("when = \"form:c\", body = \"{form:c}\"");
    assert_eq!(body(&form, &post("a=1&c=x%2By")), "x+y");
}

#[test]
fn a_route_takes_the_method_of_a_challenge_for_challenges_alone() {
    let takes = |route: &Route, method: Method, query: &str| route.takes(&method, &Headers::new(), Some(query));
    let valued = route("method = \"GET\", when = \"query:m=a\", body = \"\"");
    assert!(takes(&valued, Method::GET, "m=a") && takes(&valued, Method::POST, ""));
    assert!(!takes(&valued, Method::GET, "m=b") && !takes(&valued, Method::HEAD, "m=a"));
    let any = route("method = \"HEAD\", body = \"\"");
    assert!(takes(&any, Method::HEAD, "") && !takes(&any, Method::GET, ""));
    let tokened = route("method = \"GET\", check = { \"query:t\" = \"{verify_token}\" }");
    assert!(!takes(&tokened, Method::GET, "t=x"), "off without the token");
    let verified = route("method = \"GET\", when = \"query:m=a\", verify = true");
    let get = signed(&verified, get("m=a"));
    assert!(matches!(admit(&verified, get.clone(), NOW), Ok(Admission::Handshake(_))));
    let event = Inbound { query: None, ..get };
    assert_eq!(admit(&verified, event, NOW).map(drop), Err(Refusal::MethodNotAllowed));
}

#[test]
fn a_post_with_a_signature_is_an_event_and_goes_the_ordinary_way() {
    let route = route("when = \"json:/c\", body = \"{json:/c}\"");
    let challenge = post(r#"{"c":"x"}"#);
    assert_eq!(body(&route, &challenge), "x");
    let event = signed(&route, challenge);
    assert_eq!(greet(&route, &event), None);
    assert!(matches!(admit(&route, event, NOW), Ok(Admission::Event(_))));
    for value in ["nonsense", ""] {
        let carrying = request(Method::POST, "", &[("x-sig", value)], r#"{"c":"x"}"#);
        assert_eq!(greet(&route, &carrying), None, "{value:?}");
    }
}

#[test]
fn where_the_signature_stands_in_the_body_a_challenge_has_none() {
    let scheme = "signature = { json = \"/sig\", encoding = \"hex\" }\nsigned = \"{json:/a}\"\n\
                  challenge = { when = \"query:t\", body = \"{query:t}\" }";
    let route = route_of(scheme);
    assert_eq!(body(&route, &request(Method::POST, "t=hello", &[], "")), "hello");
    assert_eq!(greet(&route, &request(Method::POST, "t=hello", &[], "{}")), None);
}

#[test]
fn a_long_body_is_no_challenge() {
    let route = route("when = \"json:/c\", body = \"{json:/c}\"");
    let long = |length: usize| post(&format!(r#"{{"c":"x","pad":"{}"}}"#, "p".repeat(length - 18)));
    assert_eq!(long(16 * 1024).body.len(), 16 * 1024);
    assert_eq!(body(&route, &long(16 * 1024)), "x");
    assert_eq!(greet(&route, &long(16 * 1024 + 1)), None);
}

#[test]
fn a_get_that_is_signed_must_be_signed_right() {
    let route = route(CRC);
    let ask = |query: &str, signature: &str| request(Method::GET, query, &[("x-sig", signature)], "");
    assert_eq!(body(&route, &get("crc=a&nonce=b")), mac("a"));
    assert_eq!(body(&route, &ask("crc=a&nonce=b", &mac("crc=a&nonce=b"))), mac("a"));
    assert_eq!(refused(&route, &ask("crc=a&nonce=c", &mac("crc=a&nonce=b"))), Some(Refusal::SignatureMismatch));
    assert_eq!(refused(&route, &ask("crc=a", &mac(""))), Some(Refusal::SignatureMismatch));
    assert_eq!(refused(&route, &ask("crc=a", "zz")), Some(Refusal::SignatureMalformed));
    let plain = self::route("method = \"GET\", when = \"query:c\", body = \"{query:c}\"");
    assert_eq!(body(&plain, &ask("c=x", &mac(""))), "x");
    assert_eq!(refused(&plain, &ask("c=x", &mac("c=x"))), Some(Refusal::SignatureMismatch));
}

#[test]
fn a_get_that_is_signed_must_be_fresh() {
    let scheme = format!(
        "{SIGNATURE}\nsigned = \"{{timestamp}}:{{body}}\"\ntimestamp = {{ from = \"header:T\" }}\n\
         challenge = {{ method = \"GET\", when = \"query:c\", body = \"{{query:c}}\" }}"
    );
    let route = route_of(&scheme);
    let ask = signed(&route, get("c=x"));
    assert_eq!(body(&route, &ask), "x");
    let late = NOW.plus(Duration::from_secs(301));
    assert_eq!(route.greet(&ask, late), Some(Err(Refusal::TimestampStale)));
}

#[test]
fn a_token_that_comes_with_a_get_must_be_right() {
    let scheme = "kind = \"token\"\nsignature = { header = \"Authorization\" }\n\
                  challenge = { method = \"GET\", when = \"header:X-C\", body = \"{header:X-C}\" }";
    let route = route_of(scheme);
    let ask = |headers: &[(&'static str, &str)]| request(Method::GET, "", headers, "");
    assert_eq!(body(&route, &ask(&[("x-c", "1")])), "1");
    assert_eq!(body(&route, &ask(&[("x-c", "1"), ("authorization", "key")])), "1");
    let wrong = ask(&[("x-c", "1"), ("authorization", "other")]);
    assert_eq!(refused(&route, &wrong), Some(Refusal::SignatureMismatch));
    assert_eq!(greet(&route, &ask(&[("x-c", "1"), ("x-c", "2")])), None);
}

#[test]
fn what_is_reflected_is_short_printable_text() {
    let route =
        route("method = \"GET\", when = \"query:on\", reply_headers = { X-C = \"{query:h}\" }, body = \"{query:c}\"");
    let ask = |c: &str, h: &str| get(&format!("on=1&c={c}&h={h}"));
    assert_eq!(body(&route, &ask(&"a".repeat(1024), "h")).len(), 1024);
    assert_eq!(body(&route, &ask("%3Cscript%3E%C3%A9", "h")), "<script>é");
    let wrong = ["a".repeat(1025).as_str(), "a%00", "a%0D%0AX-A:b", "%1B[2J", "%7F", "%FF", "%C2%85", "%E2%80%A8", ""]
        .map(|c| ask(c, "h"));
    for asked in wrong.into_iter().chain([ask("c", "%C3%A9"), ask("c", "a%0Ab")]) {
        assert_eq!(refused(&route, &asked), Some(Refusal::BadRequest), "{:?}", asked.query);
    }
    let reply = greet(&route, &ask("c", "h")).expect("a challenge").expect("an answer");
    assert_eq!(reply.headers, [("x-c".to_owned(), "h".to_owned())]);
}

#[test]
fn values_are_escaped_in_json_and_the_status_is_the_written_one() {
    let route = route("when = \"json:/c\", status = 201, reply = \"application/json\", body = '{\"c\":\"{json:/c}\"}'");
    let asked = post(r#"{"c":"\",\"x\":\"<\\"}"#);
    let reply = greet(&route, &asked).expect("a challenge").expect("an answer");
    let value: serde_json::Value = serde_json::from_slice(&reply.body).expect("JSON");
    assert_eq!(value, serde_json::json!({ "c": "\",\"x\":\"<\\" }));
    assert_eq!((reply.status.as_u16(), reply.content_type.as_str()), (201, "application/json"));
}

#[test]
fn an_escaped_challenge_is_found_too() {
    let route = route("when = \"json:/type=hello\", body = \"{json:/c}\"");
    assert_eq!(body(&route, &post(r#"{"type":"hello","c":"1"}"#)), "1");
    assert_eq!(body(&route, &post(r#"{"\u0074ype":"\u0068ello","c":"1"}"#)), "1");
    assert_eq!(greet(&route, &post(r#"{"type":"other","c":"hello"}"#)), None);
    assert_eq!(greet(&route, &post(r#"{"type":"hello","type":"hello","c":"1"}"#)), None);
}

#[test]
fn a_verify_token_must_be_right_and_without_one_the_challenge_is_off() {
    let text =
        "method = \"GET\", when = \"query:m=s\", check = { \"query:t\" = \"{verify_token}\" }, body = \"{query:c}\"";
    let off = route(text);
    assert_eq!(greet(&off, &get("m=s&t=tok&c=1")), None);
    assert_eq!(off.scheme.lacks_for_challenge(None), Some(Lack::VerifyToken));
    let on = Route { verify_token: Some(Secret::new(b"tok".to_vec())), ..route(text) };
    assert_eq!(on.scheme.lacks_for_challenge(on.verify_token.as_ref()), None);
    assert_eq!(body(&on, &get("m=s&t=tok&c=1")), "1");
    for wrong in ["to", "tokk", "TOK", "{verify_token}"] {
        assert_eq!(refused(&on, &get(&format!("m=s&t={wrong}&c=1"))), Some(Refusal::SignatureMismatch), "{wrong}");
    }
    for missing in ["m=s&c=1", "m=s&t=&c=1", "m=s&t=tok&t=tok&c=1"] {
        assert_eq!(refused(&on, &get(missing)), Some(Refusal::SignatureMissing), "{missing}");
    }
}

#[test]
fn a_checked_text_and_checked_digits_must_be_right() {
    let check = "check = { \"query:a\" = \"x\", \"query:h\" = \"{hex:2..3}\" }";
    let route = route(&format!("method = \"GET\", when = \"query:a\", {check}, body = \"{{query:h}}\""));
    assert_eq!(body(&route, &get("a=x&h=0f")), "0f");
    for wrong in ["a=y&h=0f", "a=x&h=0", "a=x&h=0123", "a=x&h=0F", "a=x&h=0g", "a=x"] {
        assert_eq!(refused(&route, &get(wrong)), Some(Refusal::BadRequest), "{wrong}");
    }
}

#[test]
fn nobody_gets_a_hash_of_what_could_be_an_event() {
    let route = route(CRC);
    for fine in ["MjQ4NTFk", "a_bc~d-e/f%2Bg==", &"a".repeat(256)] {
        assert!(matches!(greet(&route, &get(&format!("crc={fine}"))), Some(Ok(_))), "{fine}");
    }
    let events =
        ["%7B%22a%22:1%7D", "a=b", "a%26b", "[1]", "a+b", "%22a%22", "a:b", "eyJh.eyJi", &"a".repeat(257), "a==b"];
    for event in events {
        assert_eq!(refused(&route, &get(&format!("crc={event}"))), Some(Refusal::BadRequest), "{event}");
    }
}

#[test]
fn our_own_answer_is_no_signature_of_an_event() {
    let route = route(CRC);
    for text in ["123", "true", "MjQ4NTFk=="] {
        let answer = body(&route, &get(&format!("crc={text}")));
        let forged = request(Method::POST, "", &[("x-sig", &answer)], text);
        assert_eq!(admit(&route, forged, NOW).map(drop), Err(Refusal::SignatureMismatch), "{text}");
    }
    for event in ["{}", "[1]", "a=b", ""] {
        assert!(matches!(admit(&route, signed(&route, post(event)), NOW), Ok(Admission::Event(_))), "{event:?}");
    }
    let other = self::route("method = \"GET\", when = \"query:crc\", body = \"{query:crc}\"");
    assert!(admit(&other, signed(&other, post("123")), NOW).is_ok(), "nothing is hashed for anybody");
}

#[test]
fn a_signed_field_that_we_may_have_hashed_is_refused_too() {
    let scheme = "signature = { form = \"s\", encoding = \"hex\" }\nsigned = \"{form:p}\"\n\
                  challenge = { method = \"GET\", when = \"query:c\", check = { \"query:c\" = \"{hex:4..8}\" }, \
                  body = \"{hmac_hex:{query:c}}\" }";
    let route = route_of(scheme);
    let answer = body(&route, &get("c=abcd"));
    let event = |text: &str, signature: &str| {
        let is_form = [("content-type", "application/x-www-form-urlencoded")];
        let form = request(Method::POST, "", &is_form, &format!("s={signature}&p={text}"));
        admit(&route, form, NOW).map(drop)
    };
    assert_eq!(event("abcd", &answer), Err(Refusal::SignatureMismatch));
    assert_eq!(event("PHhtbD4", &mac("PHhtbD4")), Ok(()));
}

#[test]
fn a_scheme_whose_events_could_meet_its_answers_is_refused() {
    let scheme = |signed: &str, verify: bool| {
        compile(&format!(
            "{SIGNATURE}\nsigned = \"{signed}\"\ntimestamp = {{ from = \"header:T\" }}\n\
             challenge = {{ when = \"json:/c\", verify = {verify}, body = \"{{hmac_hex:{{json:/c}}}}\" }}"
        ))
    };
    for ambiguous in ["{timestamp}{body}", "{timestamp}-{body}", "{body}{timestamp}", "v0={timestamp}{body}"] {
        let faults = scheme(ambiguous, false).expect_err(ambiguous);
        assert_eq!(faults.first().map(|fault| fault.key.as_str()), Some("challenge.body"), "{ambiguous}");
        assert!(scheme(ambiguous, true).is_ok(), "{ambiguous}");
    }
    for apart in ["v0:{timestamp}:{body}", "{timestamp}.{body}"] {
        assert!(scheme(apart, false).is_ok(), "{apart}");
    }
}

#[test]
fn our_answer_is_no_token_of_another_route_with_the_same_secret() {
    let route = route("method = \"GET\", when = \"query:crc\", body = \"{hmac_b64:{query:crc}}\"");
    let tokens = route_of("kind = \"jwt\"\ntoken = { header = \"T\" }");
    let token = signed(&tokens, post("{}")).headers.remove("t").expect("a token");
    let (text, _) = token.to_str().expect("ASCII").rsplit_once('.').expect("three parts");
    assert_eq!(refused(&route, &get(&format!("crc={text}"))), Some(Refusal::BadRequest));
}

#[test]
fn a_verified_challenge_is_answered_once_signature_and_age_are_right() {
    let scheme = format!(
        "{SIGNATURE}\nsigned = \"{{timestamp}}.{{body}}\"\ntimestamp = {{ from = \"header:T\" }}\n\
         challenge = {{ when = \"json:/type=hello\", verify = true, body = \"{{json:/c}} {{hmac_hex:{{json:/c}}}}\" }}"
    );
    let route = route_of(&scheme);
    let challenge = post(r#"{"type":"hello","c":"a b"}"#);
    assert_eq!(greet(&route, &challenge), None);
    assert_eq!(admit(&route, challenge.clone(), NOW).map(drop), Err(Refusal::SignatureMissing));
    let good = signed(&route, challenge);
    match admit(&route, good.clone(), NOW) {
        Ok(Admission::Handshake(reply)) => assert_eq!(reply.body, format!("a b {}", mac("a b"))),
        other => panic!("{other:?}"),
    }
    let late = NOW.plus(Duration::from_secs(301));
    assert_eq!(admit(&route, good, late).map(drop), Err(Refusal::TimestampStale));
    let event = |body: &str| admit(&route, signed(&route, post(body)), NOW);
    assert!(matches!(event(r#"{"type":"hello"}"#), Ok(Admission::Event(_))), "nothing to answer with");
    assert!(matches!(event(r#"{"type":"bye","c":"x"}"#), Ok(Admission::Event(_))));
    assert_eq!(event(r#"{"type":"hello","c":"a\u0000"}"#).map(drop), Err(Refusal::BadRequest));
}

#[test]
fn a_public_key_that_the_answer_holds_is_the_picked_one() {
    let scheme = |signature: &str| {
        route_of(&format!(
            "signature = {{ header = \"X-Sig\", split = \"&\", kv = \"|\", {signature} encoding = \"hex\" }}\n\
             challenge = {{ method = \"GET\", when = \"query:c\", body = \"{{pick}}|{{query:c}}\" }}"
        ))
    };
    assert_eq!(body(&scheme("pick = \"pub{1}\","), &get("c=x")), "pub{1}|x");
    let without = scheme("");
    assert_eq!(greet(&without, &get("c=x")), None);
    assert_eq!(without.scheme.lacks_for_challenge(None), Some(Lack::Pick));
}

//! Every built-in provider: what it signs it accepts, and one changed bit anywhere that is signed is refused.
//!
//! Only schemes that can be signed here; the requests of the others come from their providers' own libraries.

#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on says so")]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use bytes::Bytes;
use data_encoding::BASE64;
use hookgate::config::builtin;
use hookgate::domain::headers::Headers;
use hookgate::domain::inbound::Inbound;
use hookgate::domain::refusal::Refusal;
use hookgate::domain::scheme::{Carries, Coverage, KeyEncoding, Scheme, SentTrait, Unsigned};
use hookgate::domain::secret::Secret;
use hookgate::domain::time::Timestamp;
use http::{HeaderName, HeaderValue, Method};

const NOW: Timestamp = Timestamp::from_seconds(1_760_000_000);
const BODY: &[u8] = br#"{"webhookTimestamp":1760000000000,"id":"evt_1","type":"a.b","data":{"n":0.0}}"#;
/// Schemes whose signature stands in the body, which is never written here.
const SIGNED_INSIDE: [&str; 4] = ["adyen", "braintree", "mailgun", "msgraph"];

/// A signed request and all that is needed to check it.
struct Case {
    name: &'static str,
    scheme: Scheme,
    secret: Secret,
    inbound: Inbound,
}

impl Case {
    /// Nothing if the scheme cannot be signed here.
    fn sign(name: &'static str) -> Option<Self> {
        let raw = builtin::scheme(name).expect("a built-in");
        let scheme = Scheme::compile(&raw).unwrap_or_else(|faults| panic!("{name}: {faults:?}"));
        let text: &[u8] = match raw.key.and_then(|key| key.encoding).unwrap_or_default() {
            KeyEncoding::Hex => b"44782DEF547AAA06C910C43932B1EB0C71FC68D9D0C057550C48EC2ACF6BA056",
            KeyEncoding::Utf8 | KeyEncoding::Base64 => b"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
        };
        let secret = Secret::new(text.to_vec());
        let mut headers = Headers::new();
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        let url = "https://hooks.example.com/in?a=1".to_owned();
        let mut request = Unsigned { method: Method::POST, url, headers, body: Bytes::from_static(BODY) };
        scheme.sign(&mut request, &secret, NOW).ok()?;
        let query = request.url.split_once('?').map(|(_, query)| query.to_owned());
        let inbound = Inbound {
            method: request.method,
            path: "/in".to_owned(),
            query,
            headers: request.headers,
            body: request.body,
            authority: "hooks.example.com".to_owned(),
            https: true,
            remote: IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        Some(Self { name, scheme, secret, inbound })
    }

    fn judge(&self, inbound: Inbound) -> Result<(), Refusal> {
        let key = self.scheme.prepare(&self.secret).expect("a key");
        let verified = self.scheme.verify(inbound, &[(0, &key)], None)?;
        self.scheme.check_freshness(&verified, NOW).map(drop)
    }

    /// The request with one bit of `header` changed, for every byte of it.
    fn with_bits_of(&self, header: &HeaderName) -> Vec<Inbound> {
        let value = self.inbound.headers.get(header).expect("a header").as_bytes();
        let changed = (0..value.len()).filter_map(|at| HeaderValue::from_bytes(&flipped(value, at)).ok());
        let changed = changed.map(|value| {
            let mut inbound = self.inbound.clone();
            inbound.headers.insert(header, value);
            inbound
        });
        changed.collect()
    }

    fn refuses(&self, what: &str, changed: Vec<Inbound>) {
        assert!(!changed.is_empty(), "{}: no {what} to change", self.name);
        for inbound in changed {
            let said = format!("{}: a changed {what} is accepted: {:?} {:?}", self.name, inbound.headers, inbound.body);
            assert!(self.judge(inbound).is_err(), "{said}");
        }
    }

    /// The headers besides the proof that the signature covers or that must be as they are.
    fn covered_headers(&self) -> BTreeSet<String> {
        let raw = self.scheme.as_written();
        let signed = raw.signed.clone().unwrap_or_else(|| "{body}".to_owned());
        let time = raw.timestamp.as_ref().and_then(|time| time.from.clone());
        let time = time.filter(|_| matches!(self.scheme.traits().sent, SentTrait::Covered { .. }));
        let id = raw.id.clone().filter(|_| signed.contains("{id}"));
        let named = time.into_iter().chain(id);
        let named = named.filter_map(|source| source.strip_prefix("header:").map(str::to_owned));
        let required = raw.require.iter().flatten().map(|(name, _)| name.clone());
        let inside = signed.split('{').filter_map(|part| part.strip_prefix("header:")?.split_once('}'));
        let inside = inside.map(|(name, _)| name.to_owned());
        named.chain(required).chain(inside).map(|name| name.to_ascii_lowercase()).collect()
    }
}

/// `text` with the lowest bit of the byte at `at` changed: another digit, letter or mark, never only another case.
fn flipped(text: &[u8], at: usize) -> Vec<u8> {
    let mut text = text.to_vec();
    text[at] ^= 1;
    text
}

fn cases() -> Vec<Case> {
    let cases: Vec<Case> = builtin::names().filter_map(Case::sign).collect();
    assert!(cases.len() >= 135, "only {} schemes can be signed", cases.len());
    cases
}

#[test]
fn every_built_in_that_can_be_signed_accepts_what_it_signs() {
    for case in cases() {
        assert_eq!(case.judge(case.inbound.clone()), Ok(()), "{}: {:?}", case.name, case.inbound.headers);
    }
}

#[test]
fn what_cannot_be_signed_here_is_signed_inside_the_body_or_with_a_key_of_the_providers_own() {
    let signed: BTreeSet<&str> = cases().iter().map(|case| case.name).collect();
    for name in builtin::names().filter(|name| !signed.contains(name)) {
        let kind = builtin::scheme(name).expect("a built-in").kind.unwrap_or_default();
        let asymmetric = ["ed25519", "ecdsa-p256", "jwt"].contains(&kind.as_str());
        assert!(asymmetric || SIGNED_INSIDE.contains(&name), "{name}");
    }
}

#[test]
fn a_secret_becomes_the_key_as_its_providers_own_library_makes_it() {
    let signature = |name: &str, secret: &str| {
        let scheme = Scheme::compile(&builtin::scheme(name).expect("a built-in")).expect("a sound scheme");
        let mut headers = Headers::new();
        headers.insert("webhook-id", HeaderValue::from_static("msg_1"));
        let url = "https://hooks.example.com/in".to_owned();
        let mut request = Unsigned { method: Method::POST, url, headers, body: Bytes::from_static(BODY) };
        scheme.sign(&mut request, &Secret::new(secret.as_bytes().to_vec()), NOW).ok()?;
        Some(request.headers.get("webhook-signature").unwrap().clone())
    };
    let standard = |key: &str| signature("standardwebhooks", &BASE64.encode(key.as_bytes())).expect("base64");
    for (name, secret, key) in [
        ("standardwebhooks", "whsec_cGxhaW4=", "plain"),
        ("openai", "whsec_cGxhaW4=", "plain"),
        ("openai", "plain-secret-not-base64!", "plain-secret-not-base64!"),
        ("openai", "cGxhaW4=", "cGxhaW4="),
        ("replicate", "whsec_cGxhaW4=", "plain"),
        ("polar", "whsec_cGxhaW4=", "whsec_cGxhaW4="),
        ("polar", "polar_whs_a", "polar_whs_a"),
        ("supabase", "v1,whsec_cGxhaW4=", "plain"),
        ("bigcommerce", "plain", "plain"),
    ] {
        assert_eq!(signature(name, secret), Some(standard(key)), "{name} {secret}");
    }
    assert_eq!(signature("standardwebhooks", "plain-secret-not-base64!"), None, "configured, never guessed");
}

#[test]
fn no_bit_of_a_proof_can_be_changed() {
    for case in cases() {
        let carries = |name: &&HeaderName| case.scheme.carries(name) != Carries::Nothing;
        let proofs: Vec<HeaderName> = case.inbound.headers.keys().filter(carries).cloned().collect();
        assert_eq!(proofs.len(), 1, "{}", case.name);
        case.refuses("proof", case.with_bits_of(&proofs[0]));
    }
}

#[test]
fn no_bit_of_a_header_that_the_signature_covers_can_be_changed() {
    let mut seen = 0;
    for case in cases() {
        for name in case.covered_headers() {
            let name: HeaderName = name.parse().expect("a header name");
            if case.inbound.headers.contains_key(&name) {
                case.refuses(name.as_str(), case.with_bits_of(&name));
                seen += 1;
            }
        }
    }
    assert!(seen >= 30, "only {seen} headers");
}

#[test]
fn no_bit_of_a_body_that_the_signature_covers_can_be_changed() {
    let mut seen = 0;
    for case in cases() {
        let traits = case.scheme.traits();
        let by_digest = case.scheme.as_written().body_digest.is_some();
        if traits.body == Coverage::Covered || by_digest {
            let with = |at: usize| Inbound { body: flipped(BODY, at).into(), ..case.inbound.clone() };
            case.refuses("body", (0..BODY.len()).map(with).collect());
            let shorter = Inbound { body: Bytes::from_static(&BODY[1..]), ..case.inbound.clone() };
            let longer = Inbound { body: Bytes::from([BODY, b"\n"].concat()), ..case.inbound.clone() };
            case.refuses("body", vec![shorter, longer]);
            seen += 1;
        }
    }
    assert!(seen >= 105, "only {seen} schemes sign the body");
}

#[test]
fn no_part_of_an_address_that_the_signature_covers_can_be_changed() {
    let mut seen = 0;
    for case in cases().into_iter().filter(|case| case.scheme.traits().url == Coverage::Covered) {
        let whole = case.inbound.clone();
        let mut changed = vec![
            Inbound { path: "/im".to_owned(), ..whole.clone() },
            Inbound { query: None, ..whole.clone() },
            Inbound { query: Some("a=0".to_owned()), ..whole.clone() },
        ];
        if case.scheme.as_written().signed.as_ref().is_some_and(|signed| signed.contains("{url}")) {
            changed.push(Inbound { authority: "hooks.example.org".to_owned(), ..whole.clone() });
            changed.push(Inbound { https: false, ..whole.clone() });
        }
        if case.scheme.as_written().signed.as_ref().is_some_and(|signed| signed.contains("{method}")) {
            changed.push(Inbound { method: Method::PUT, ..whole });
        }
        case.refuses("address", changed);
        seen += 1;
    }
    assert!(seen >= 6, "only {seen} schemes sign the address");
}

/// How long a sender waits and how long it repeats itself, in seconds; 0 where that is not known. A horizon under a day is
/// less than what is assumed without one, so that hearsay is no ground for it.
const PATIENCE: &[(&str, u64, u64)] = &[
    ("sentry", 1, 0),
    ("discord", 3, 0),
    ("okta", 3, 0),
    ("slack", 3, 0),
    ("zoom", 3, 0),
    ("customerio", 4, 0),
    ("circleci", 5, 0),
    ("gitea", 5, 0),
    ("hubspot_v1", 5, 86_400),
    ("hubspot_v2", 5, 86_400),
    ("hubspot_v3", 5, 86_400),
    ("intercom", 5, 0),
    ("linear", 5, 0),
    ("paddle", 5, 259_200),
    ("razorpay", 5, 86_400),
    ("segment", 5, 0),
    ("shopify", 5, 172_800),
    ("xero", 5, 86_400),
    ("adyen", 10, 0),
    ("asana", 10, 86_400),
    ("bitbucket", 10, 0),
    ("dropbox", 10, 0),
    ("github", 10, 0),
    ("square", 10, 0),
    ("twitter", 10, 0),
    ("calendly", 15, 86_400),
    ("standardwebhooks", 15, 345_600),
    ("svix", 15, 345_600),
    ("twilio", 15, 0),
    ("chargebee", 20, 345_600),
    ("box", 30, 0),
    ("typeform", 30, 0),
    ("veedeo", 30, 2_700),
    ("videopilot", 30, 0),
    ("revenuecat", 60, 0),
    ("docusign", 100, 0),
    ("coinbase_commerce", 0, 259_200),
    ("meta", 0, 129_600),
    ("msgraph", 3, 14_400),
    ("mux", 0, 86_400),
    ("notion", 0, 86_400),
    ("stripe", 0, 259_200),
    ("vercel", 0, 86_400),
];

#[test]
fn what_is_known_of_a_senders_patience_is_written_down() {
    for (name, budget, horizon) in PATIENCE {
        let scheme = Scheme::compile(&builtin::scheme(name).expect("a built-in")).expect("a sound scheme");
        let traits = scheme.traits();
        let seconds = |span: Option<std::time::Duration>| span.map_or(0, |span| span.as_secs());
        assert_eq!((seconds(traits.budget), seconds(traits.retry_horizon)), (*budget, *horizon), "{name}");
    }
}

#[test]
fn shopify_may_name_its_headers_as_its_events_api_does() {
    let case = Case::sign("shopify").expect("a signed request");
    let mut inbound = case.inbound.clone();
    let signature = inbound.headers.remove("x-shopify-hmac-sha256").expect("a signature");
    assert_eq!(case.judge(inbound.clone()), Err(Refusal::SignatureMissing));
    inbound.headers.insert("shopify-hmac-sha256", signature);
    assert_eq!(case.judge(inbound.clone()), Ok(()));
    inbound.headers.insert("shopify-hmac-sha256", HeaderValue::from_static("AAAA"));
    assert!(case.judge(inbound).is_err());
}

/// A product that is made is told as made and as changed, in the same words.
#[test]
fn one_event_of_shopify_under_two_topics_is_two_events_here() {
    let case = Case::sign("shopify").expect("a signed request");
    let key = |event: &'static str, topic: &'static str| {
        let mut inbound = case.inbound.clone();
        inbound.headers.insert("x-shopify-event-id", HeaderValue::from_static(event));
        if !topic.is_empty() {
            inbound.headers.insert("x-shopify-topic", HeaderValue::from_static(topic));
        }
        let ready = case.scheme.prepare(&case.secret).expect("a key");
        let verified = case.scheme.verify(inbound, &[(0, &ready)], None).map_err(|refused| refused.refusal);
        case.scheme.key("r", &verified.expect("signed"))
    };
    let made = key("e1", "products/create");
    assert_eq!(made, key("e1", "products/create"));
    assert!(!case.inbound.headers.contains_key("x-shopify-topic"), "no type is made up");
    assert_ne!(made, key("e1", "products/update"));
    assert_ne!(made, key("e2", "products/create"));
    assert_ne!(key("e1", ""), key("e2", ""), "without a topic the id counts all the same");
}

/// Stock that goes down and up again, with the body of either version of Webflow's pages.
#[test]
fn what_is_told_in_the_same_words_at_another_time_is_another_event_where_the_time_is_signed() {
    for (name, header, bodies) in [
        (
            "webflow",
            "x-webflow-timestamp",
            [
                r#"{"_id":"5b","quantity":83,"inventoryType":"finite"}"#,
                r#"{"triggerType":"ecomm_inventory_changed","payload":{"quantity":83}}"#,
            ],
        ),
        ("revolut", "revolut-request-timestamp", [r#"{"event":"ORDER_PAYMENT_DECLINED","order_id":"1"}"#, "{}"]),
        ("frameio", "x-frameio-request-timestamp", [r#"{"type":"asset.updated","resource":{"id":"1"}}"#, "{}"]),
        ("hubspot_v3", "x-hubspot-request-timestamp", ["[]", "{}"]),
    ] {
        let raw = builtin::scheme(name).expect("a built-in");
        let scheme = Scheme::compile(&raw).expect("a sound scheme");
        let case = Case::sign(name).expect("a signed request");
        for body in bodies {
            let key = |now: Timestamp| {
                let headers = Headers::new();
                let body = Bytes::copy_from_slice(body.as_bytes());
                let url = "https://hooks.example.com/in?a=1".to_owned();
                let mut request = Unsigned { method: Method::POST, url, headers, body };
                scheme.sign(&mut request, &case.secret, now).expect("signed");
                assert!(request.headers.contains_key(header), "{name}");
                let inbound = Inbound { headers: request.headers, body: request.body, ..case.inbound.clone() };
                let ready = scheme.prepare(&case.secret).expect("a key");
                let verified = scheme.verify(inbound, &[(0, &ready)], None).map_err(|refused| refused.refusal);
                scheme.key("r", &verified.expect("signed"))
            };
            assert_eq!(key(NOW), key(NOW), "{name} {body}");
            assert_ne!(key(NOW), key(NOW.plus(std::time::Duration::from_secs(60))), "{name} {body}");
        }
    }
}

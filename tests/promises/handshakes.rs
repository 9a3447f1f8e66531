//! Providers' handshakes are answered by the gateway, and nothing of them goes any further. P8 and section 3 of the
//! contract. Signatures are made here by hand, from the providers' documents.

use std::fmt::Write as _;

use data_encoding::{BASE64, HEXLOWER};
use hmac::{Hmac, KeyInit, Mac};
use sha1::{Digest, Sha1};
use sha2::Sha256;

use crate::world::clock::{now_unix, rfc3339};
use crate::world::sender::{Line, Reply, Request};
use crate::world::{World, world_with, world_without_app};

const SECRET: &str = "canary-handshake-93d1c07be5";
/// A text that must not be found in any line of the log.
const TEXT: &str = "challenge-canary-5f0a";

fn lines(name: &str, more: &[&str]) -> Vec<String> {
    let own = [
        format!("routes.{name}.path = '/{name}'"),
        format!("routes.{name}.provider = '{name}'"),
        format!("routes.{name}.secrets = [{{ literal = '{SECRET}' }}]"),
    ];
    own.into_iter().chain(more.iter().map(|line| format!("routes.{name}.{line}"))).collect()
}

/// A world with a route for this provider, at a path of its name.
fn world_of(name: &str, more: &[&str]) -> World {
    let lines = lines(name, more);
    world_with(&lines.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The same for a provider that is written here.
fn world_of_own(parts: &[&str], more: &[&str]) -> World {
    let parts = parts.iter().map(|part| format!("providers.mine.{part}"));
    let lines: Vec<String> = parts.chain(lines("mine", more)).collect();
    world_with(&lines.iter().map(String::as_str).collect::<Vec<_>>())
}

fn head(target: &str) -> Request {
    Request { method: "HEAD".into(), headers: Vec::new(), ..Request::post(target, "") }
}

fn sha256(text: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

fn sha1(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha1>::new_from_slice(key).unwrap();
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

fn base64_of(text: &str) -> String {
    BASE64.encode(&sha256(text.as_bytes()))
}

fn hex_of(text: &str) -> String {
    HEXLOWER.encode(&sha256(text.as_bytes()))
}

fn percent(text: &str) -> String {
    text.bytes().fold(String::new(), |mut all, byte| {
        write!(all, "%{byte:02X}").unwrap();
        all
    })
}

fn assert_answer(reply: &Reply, status: u16, content_type: &str, body: &str) {
    assert_eq!((reply.status, reply.text().as_str()), (status, body), "{reply:?}");
    assert_eq!(reply.headers.get("content-type").as_deref(), Some(content_type));
    assert_eq!(reply.headers.get("x-content-type-options").as_deref(), Some("nosniff"));
    assert_eq!(reply.headers.get("cache-control").as_deref(), Some("no-store"));
    let length = (status != 204).then(|| body.len().to_string());
    assert_eq!(reply.headers.get("content-length"), length);
    assert_eq!(reply.headers.get("set-cookie"), None);
}

fn assert_refused(reply: &Reply, status: u16, reason: &str) {
    assert_eq!((reply.status, reply.reason().as_str()), (status, reason), "{}", reply.text());
    assert!(!reply.text().contains("script") && !reply.text().contains(TEXT), "{}", reply.text());
}

/// So many handshakes were answered, so many requests refused, and nothing else happened.
fn assert_nothing_else(world: &World, route: &str, handshakes: u64, refusals: u64) {
    let metrics = world.gateway.metrics();
    let of = |disposition| metrics.count("hookgate_requests_total", &[("route", route), ("disposition", disposition)]);
    assert_eq!((of("handshake"), of("refused")), (handshakes, refusals));
    assert_eq!(metrics.count("hookgate_requests_total", &[("route", route)]), handshakes + refusals);
    assert_eq!(metrics.count("hookgate_dedup_checks_total", &[]), 0);
    assert_eq!(metrics.count("hookgate_spool_events", &[]), 0);
    assert_eq!(world.app.count(), 0, "{:?}", world.app.seen());
    world.gateway.wait_for_logs(usize::try_from(handshakes).unwrap(), &["request", "handshake", route]);
    for line in world.gateway.said() {
        assert!(!line.contains(TEXT) && !line.contains(SECRET), "{line}");
    }
}

#[test]
fn handshake_of_meta_wants_the_verify_token_and_gets_its_challenge_back() {
    let world = world_of("meta", &["verify_token = { literal = 'my-verify-token' }"]);
    let ask = |token: &str, challenge: &str| {
        world.send(&Request::get(&format!(
            "/meta?hub.mode=subscribe&hub.verify_token={token}&hub.challenge={challenge}"
        )))
    };
    assert_answer(&ask("my-verify-token", "1158201444"), 200, "text/plain", "1158201444");
    let html = format!("<script>alert('{TEXT}')</script>");
    assert_answer(&ask("my-verify-token", &percent(&html)), 200, "text/plain", &html);
    assert_refused(&ask("my-verify-tokem", TEXT), 401, "signature_mismatch");
    assert_refused(&ask("", TEXT), 401, "signature_missing");
    assert_refused(&ask("my-verify-token&hub.verify_token=x", TEXT), 401, "signature_missing");
    assert_refused(&ask("my-verify-token", "a%0D%0ASet-Cookie:%20a=b"), 400, "bad_request");
    assert_refused(&ask("my-verify-token", &"7".repeat(1025)), 400, "bad_request");
    assert_answer(&ask("my-verify-token", &"7".repeat(1024)), 200, "text/plain", &"7".repeat(1024));
    assert_refused(&ask("my-verify-token", ""), 400, "bad_request");
    assert_refused(&world.send(&Request::get("/meta?hub.mode=unsubscribe&hub.challenge=1")), 405, "method_not_allowed");
    assert_refused(&world.send(&Request::get("/meta")), 405, "method_not_allowed");
    assert_eq!(world.send(&head("/meta?hub.mode=subscribe&hub.verify_token=my-verify-token")).status, 405);
    assert_nothing_else(&world, "meta", 3, 9);
    assert!(!world.gateway.said().iter().any(|line| line.contains("my-verify-token")));
}

#[test]
fn handshake_that_needs_a_token_is_off_without_one_and_validate_says_how_to_turn_it_on() {
    let world = world_of("meta", &[]);
    let ask = Request::get("/meta?hub.mode=subscribe&hub.verify_token=&hub.challenge=1");
    assert_refused(&world.send(&ask), 405, "method_not_allowed");
    let said = world.gateway.run(&["validate", &world.gateway.configuration_path().to_string_lossy()]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let text = said.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains("verify_token = { env = \"NAME\" }` in [routes.meta]"), "{said:?}");
    assert_nothing_else(&world, "meta", 0, 1);
}

#[test]
fn handshake_of_x_hashes_tokens_and_never_an_event() {
    let world = world_of("twitter", &[]);
    let ask = |token: &str| Request::get(&format!("/twitter?crc_token={token}&nonce=b"));
    let answer = |token: &str| format!(r#"{{"response_token":"sha256={}"}}"#, base64_of(token));
    assert_answer(&world.send(&ask("MjQ4NTFkY2Q")), 200, "application/json", &answer("MjQ4NTFkY2Q"));
    let event = r#"{"for_user_id":"1","tweet_create_events":[]}"#;
    for oracle in [event, "a=b&c=d", "[1]", " 1", "\"a\"", "a:b", "eyJh.e30", &"a".repeat(257)] {
        assert_refused(&world.send(&ask(&percent(oracle))), 400, "bad_request");
    }
    let signed = |query: &str| {
        let value = format!("sha256={}", base64_of(query));
        ask("MjQ4NTFkY2Q").with("x-twitter-webhooks-signature", value)
    };
    let right = world.send(&signed("crc_token=MjQ4NTFkY2Q&nonce=b"));
    assert_answer(&right, 200, "application/json", &answer("MjQ4NTFkY2Q"));
    assert_refused(&world.send(&signed("crc_token=MjQ4NTFkY2Q&nonce=c")), 401, "signature_mismatch");
    // What can be had of the gateway by asking is no signature.
    let forged = Request::post("/twitter", "12345")
        .with("x-twitter-webhooks-signature", format!("sha256={}", base64_of("12345")));
    assert_answer(&world.send(&ask("12345")), 200, "application/json", &answer("12345"));
    assert_refused(&world.send(&forged), 401, "signature_mismatch");
    assert_nothing_else(&world, "twitter", 3, 10);
    let honest =
        Request::post("/twitter", event).with("x-twitter-webhooks-signature", format!("sha256={}", base64_of(event)));
    assert_eq!(world.send(&honest).status, 200);
    assert_eq!(world.app.only().body, event.as_bytes());
}

#[test]
fn handshake_of_okta_echoes_a_header_and_its_token_must_be_right() {
    let world = world_of("okta", &[]);
    let ask = |value: &str| Request::get("/okta").with("X-Okta-Verification-Challenge", value);
    let answer = r#"{"verification":"Me_rShK8\",\"x\":\"<"}"#;
    let value = r#"Me_rShK8","x":"<"#;
    assert_answer(&world.send(&ask(value)), 200, "application/json", answer);
    assert_answer(&world.send(&ask(value).with("Authorization", SECRET)), 200, "application/json", answer);
    assert_refused(&world.send(&ask(TEXT).with("Authorization", "another")), 401, "signature_mismatch");
    assert_refused(&world.send(&ask(&"a".repeat(1025))), 400, "bad_request");
    assert_refused(&world.send(&ask("a").with("X-Okta-Verification-Challenge", "b")), 405, "method_not_allowed");
    assert_refused(&world.send(&Request::get("/okta").with("Authorization", SECRET)), 405, "method_not_allowed");
    assert_nothing_else(&world, "okta", 2, 4);
}

#[test]
fn handshake_of_dropbox_stays_plain_text_whatever_it_holds() {
    let world = world_of("dropbox", &[]);
    let ask = |value: &str| world.send(&Request::get(&format!("/dropbox?challenge={}", percent(value))));
    assert_answer(&ask("abc123"), 200, "text/plain", "abc123");
    let html = "<html><script>alert(1)</script>";
    assert_answer(&ask(html), 200, "text/plain", html);
    for wrong in ["a\0b", "a\nb", "a\u{1b}[2J", "a\u{85}b", "a\u{2028}b"] {
        assert_refused(&ask(wrong), 400, "bad_request");
    }
    assert_refused(&world.send(&Request::get("/dropbox?challenge=%FF")), 400, "bad_request");
    assert_refused(&ask(""), 405, "method_not_allowed");
    assert_nothing_else(&world, "dropbox", 2, 7);
}

#[test]
fn handshake_of_asana_gives_the_header_back_and_a_signed_event_is_no_handshake() {
    let world = world_of("asana", &[]);
    let ask = |body: &str| Request::post("/asana", body).with("X-Hook-Secret", TEXT);
    let reply = world.send(&ask("{}"));
    assert_answer(&reply, 200, "text/plain", "");
    assert_eq!(reply.headers.get("x-hook-secret").as_deref(), Some(TEXT));
    let forged = world.send(&ask("{}").with("X-Hook-Signature", "ab".repeat(32)));
    assert_refused(&forged, 401, "signature_mismatch");
    assert_eq!(forged.headers.get("x-hook-secret"), None);
    assert_refused(&world.send(&Request::post("/asana", "{}")), 401, "signature_missing");
    let long = Request::post("/asana", "{}").with("X-Hook-Secret", "s".repeat(1025));
    assert_refused(&world.send(&long), 400, "bad_request");
    assert_nothing_else(&world, "asana", 1, 3);
    let body = r#"{"events":[]}"#;
    assert_eq!(world.send(&ask(body).with("X-Hook-Signature", hex_of(body))).status, 200);
    assert_eq!(world.app.only().body, body.as_bytes());
}

#[test]
fn handshake_of_trello_is_a_head_without_a_body() {
    let world = world_of("trello", &["public_url = 'https://hooks.example.com/trello'"]);
    assert_answer(&world.send(&head("/trello")), 200, "text/plain", "");
    let signature = |key: &str| BASE64.encode(&sha1(key.as_bytes(), b"https://hooks.example.com/trello"));
    assert_answer(&world.send(&head("/trello").with("X-Trello-Webhook", signature(SECRET))), 200, "text/plain", "");
    let wrong = world.send(&head("/trello").with("X-Trello-Webhook", signature("another")));
    assert_eq!((wrong.status, wrong.body.len()), (401, 0));
    assert_refused(&world.send(&Request::get("/trello")), 405, "method_not_allowed");
    assert_nothing_else(&world, "trello", 2, 2);
}

#[test]
fn handshake_of_slack_is_answered_only_when_it_is_signed_and_fresh() {
    let world = world_of("slack", &[]);
    let body = format!(r#"{{"type":"url_verification","challenge":"{TEXT}"}}"#);
    let ask = |unix: i64, key: &str| {
        let signature = format!("v0={key}{}", &hex_of(&format!("v0:{unix}:{body}"))[key.len()..]);
        Request::post("/slack", body.as_bytes())
            .with("X-Slack-Request-Timestamp", unix.to_string())
            .with("X-Slack-Signature", signature)
    };
    assert_answer(&world.send(&ask(now_unix(), "")), 200, "text/plain", TEXT);
    assert_refused(&world.send(&Request::post("/slack", body.as_bytes())), 401, "signature_missing");
    assert_refused(&world.send(&ask(now_unix(), "0123456789")), 401, "signature_mismatch");
    assert_refused(&world.send(&ask(now_unix() - 310, "")), 401, "timestamp_stale");
    assert_nothing_else(&world, "slack", 1, 3);
}

#[test]
fn handshake_of_zoom_is_the_token_and_its_hash() {
    let world = world_of("zoom", &[]);
    let ask = |token: &str| {
        let body =
            serde_json::json!({ "event": "endpoint.url_validation", "payload": { "plainToken": token } }).to_string();
        let unix = now_unix();
        let signature = format!("v0={}", hex_of(&format!("v0:{unix}:{body}")));
        let request = Request::post("/zoom", body).with("x-zm-request-timestamp", unix.to_string());
        world.send(&request.with("x-zm-signature", signature))
    };
    let answer = format!(r#"{{"plainToken":"a\"b","encryptedToken":"{}"}}"#, hex_of("a\"b"));
    assert_answer(&ask("a\"b"), 200, "application/json", &answer);
    assert_refused(&ask("a\nb"), 400, "bad_request");
    assert_refused(&ask(&"a".repeat(1025)), 400, "bad_request");
    assert_nothing_else(&world, "zoom", 1, 2);
}

#[test]
fn handshake_of_twitch_is_signed_and_answered_as_plain_text() {
    let world = world_of("twitch", &[]);
    let body = format!(
        r#"{{"challenge":"{TEXT}","subscription":{{"status":"webhook_callback_verification_pending","type":"a.b"}}}}"#
    );
    let time = rfc3339(0);
    let ask = |signed: &str| {
        Request::post("/twitch", body.as_bytes())
            .with("Twitch-Eventsub-Message-Id", "id-1")
            .with("Twitch-Eventsub-Message-Timestamp", time.as_str())
            .with("Twitch-Eventsub-Message-Signature", format!("sha256={}", hex_of(signed)))
    };
    assert_answer(&world.send(&ask(&format!("id-1{time}{body}"))), 200, "text/plain", TEXT);
    assert_refused(&world.send(&ask(&format!("id-2{time}{body}"))), 401, "signature_mismatch");
    assert_nothing_else(&world, "twitch", 1, 1);
}

#[test]
fn handshake_of_xero_is_an_empty_answer_and_a_bad_signature_is_a_401() {
    let world = world_of("xero", &[]);
    let ask = |body: &str, signed: &str| {
        world.send(&Request::post("/xero", body).with("x-xero-signature", base64_of(signed)))
    };
    let intent = r#"{"events":[],"firstEventSequence": 0,"lastEventSequence": 0, "entropy":"S0m3r4Nd0mt3xt"}"#;
    assert_answer(&ask(intent, intent), 200, "text/plain", "");
    assert_refused(&ask(intent, "x"), 401, "signature_mismatch");
    assert_nothing_else(&world, "xero", 1, 1);
    let event = r#"{"events":[{}],"firstEventSequence": 1,"lastEventSequence": 1, "entropy":"x"}"#;
    assert_eq!(ask(event, event).status, 200);
    assert_eq!(world.app.only().body, event.as_bytes());
    let again = ask(event, event);
    assert_eq!((again.status, again.text().as_str()), (200, ""), "{again:?}");
    assert_eq!(world.app.count(), 1, "a duplicate reached the application");
    // Where a sequence begins is nowhere said: events that begin at 0 are events.
    let first = r#"{"events":[{},{}],"firstEventSequence": 0,"lastEventSequence": 1, "entropy":"y"}"#;
    assert_eq!(ask(first, first).status, 200);
    let seen = world.app.seen();
    assert_eq!(seen.iter().map(|it| &it.body[..]).collect::<Vec<_>>(), [event.as_bytes(), first.as_bytes()]);
}

#[test]
fn handshake_of_braintree_holds_the_public_key_and_hashes_only_digits() {
    let world = world_of("braintree", &["signature = { pick = 'pub1' }"]);
    let key = Sha1::digest(SECRET.as_bytes());
    let ask = |value: &str| world.send(&Request::get(&format!("/braintree?bt_challenge={value}")));
    let hash = |text: &str| HEXLOWER.encode(&sha1(&key, text.as_bytes()));
    let value = "20f9f8ed05f77439fe955c977e4c8a53";
    assert_answer(&ask(value), 200, "text/plain", &format!("pub1|{}", hash(value)));
    let wrong = ["20f9f8ed05f77439fe9", "20f9f8ed05f77439fe955c977e4c8a530", "20F9F8ED05F77439FE955C977E4C8A53", "zz"];
    for wrong in wrong {
        assert_refused(&ask(wrong), 400, "bad_request");
    }
    let forged = format!("bt_signature={}&bt_payload={value}", percent(&format!("pub1|{}", hash(value))));
    let form = |body: String| {
        let typed = Request::post("/braintree", body).without("Content-Type");
        typed.with("Content-Type", "application/x-www-form-urlencoded")
    };
    assert_refused(&world.send(&form(forged)), 401, "signature_mismatch");
    assert_nothing_else(&world, "braintree", 1, 5);
    let payload = "PG5vdGlmaWNhdGlvbj4=";
    let honest = format!("bt_signature={}&bt_payload={payload}", percent(&format!("pub1|{}", hash(payload))));
    let as_json = Request::post("/braintree", honest.clone());
    assert_refused(&world.send(&as_json), 401, "signature_malformed");
    assert_eq!(world.send(&form(honest)).status, 200);
}

#[test]
fn handshake_of_notion_is_taken_and_its_token_is_written_nowhere() {
    let world = world_of("notion", &["max_body_bytes = '20KiB'"]);
    let body = format!(r#"{{"verification_token":"secret_{TEXT}"}}"#);
    assert_answer(&world.send(&Request::post("/notion", body.as_bytes())), 200, "text/plain", "");
    let signed =
        Request::post("/notion", body.as_bytes()).with("X-Notion-Signature", format!("sha256={}", hex_of("x")));
    assert_refused(&world.send(&signed), 401, "signature_mismatch");
    assert_refused(&world.send(&Request::post("/notion", "{}")), 401, "signature_missing");
    let padded = |length: usize| body.replace('}', &format!(",\"pad\":\"{}\"}}", "p".repeat(length)));
    assert_refused(&world.send(&Request::post("/notion", padded(17 * 1024))), 401, "signature_missing");
    assert_refused(&world.send(&Request::post("/notion", padded(21 * 1024))), 413, "body_too_large");
    assert_nothing_else(&world, "notion", 1, 4);
}

#[test]
fn handshake_of_an_own_provider_may_echo_json_and_be_answered_with_204() {
    let signature = "signature = { header = 'X-Sig', encoding = 'hex' }";
    let monday = "challenge = { when = 'json:/challenge', reply = 'application/json', body = '{\"challenge\":\"{json:/challenge}\"}' }";
    let world = world_of_own(&[signature, monday], &[]);
    let body = r#"{"challenge":"3eZbrw1aBm2rZgRNFdxV2595"}"#;
    assert_answer(&world.send(&Request::post("/mine", body)), 200, "application/json", body);
    assert_nothing_else(&world, "mine", 1, 0);
    let ping = "challenge = { when = 'json:/type=0', verify = true, status = 204 }";
    let world = world_of_own(&[signature, ping], &[]);
    let ask = |body: &str| world.send(&Request::post("/mine", body).with("X-Sig", hex_of(body)));
    assert_answer(&ask(r#"{"type":0}"#), 204, "text/plain", "");
    assert_refused(&world.send(&Request::post("/mine", r#"{"type":0}"#)), 401, "signature_missing");
    assert_nothing_else(&world, "mine", 1, 1);
    assert_eq!(ask(r#"{"type":1}"#).status, 200);
    assert_eq!(world.app.count(), 1);
}

#[test]
fn handshake_of_a_provider_that_signs_in_the_body_has_no_body() {
    let world = world_of_own(
        &[
            "signature = { json = '/sig', encoding = 'hex' }",
            "signed = '{json:/a}'",
            "challenge = { when = 'query:validationToken', body = '{query:validationToken}' }",
        ],
        &[],
    );
    let ask = |body: &str| world.send(&Request::post("/mine?validationToken=Validation%3A+Testing%20it", body));
    assert_answer(&ask(""), 200, "text/plain", "Validation: Testing it");
    assert_refused(&ask(r#"{"a":"x"}"#), 401, "signature_missing");
    assert_nothing_else(&world, "mine", 1, 1);
}

#[test]
fn handshake_by_head_announces_a_body_and_sends_none() {
    let signature = "signature = { header = 'X-Sig', encoding = 'hex' }";
    let world = world_of_own(&[signature, "challenge = { method = 'HEAD', body = 'hello' }"], &[]);
    let mut line = Line::open(&world.gateway.address()).unwrap();
    for _ in 0..2 {
        let reply = line.send(&head("/mine")).unwrap();
        assert_eq!((reply.status, reply.headers.get("content-length").as_deref()), (200, Some("5")));
    }
    assert_nothing_else(&world, "mine", 2, 0);
}

#[test]
fn handshake_is_held_to_the_networks_of_its_route() {
    let world = world_of("dropbox", &["allow_from = ['192.0.2.0/24']"]);
    assert_refused(&world.send(&Request::get("/dropbox?challenge=a")), 403, "source_not_allowed");
    assert_nothing_else(&world, "dropbox", 0, 1);
}

#[test]
fn handshake_is_answered_by_a_route_that_only_observes() {
    let observing = ["enforce = false", "verify_token = { literal = 'my-verify-token' }"];
    let ask = |token: &str| Request::get(&format!("/meta?hub.mode=subscribe&hub.verify_token={token}&hub.challenge=1"));
    let world = world_of("meta", &observing);
    assert_answer(&world.send(&ask("my-verify-token")), 200, "text/plain", "1");
    assert_refused(&world.send(&ask("wrong")), 401, "signature_mismatch");
    assert_refused(&world.send(&Request::get("/meta")), 405, "method_not_allowed");
    assert_nothing_else(&world, "meta", 1, 2);
    let world = world_of("meta", &[&observing[..], &["methods = ['GET', 'POST']"]].concat());
    assert_answer(&world.send(&ask("my-verify-token")), 200, "text/plain", "1");
    assert_eq!(world.app.count(), 0);
    assert_eq!(world.send(&ask("wrong")).status, 200);
    assert_eq!(world.app.only().method, "GET", "the route takes GET, and its verdicts are only recorded");
}

#[test]
fn handshake_leaves_an_application_that_is_down_alone() {
    let lines = lines("dropbox", &[]);
    let world = world_without_app(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    assert_answer(&world.send(&Request::get("/dropbox?challenge=a")), 200, "text/plain", "a");
    assert_nothing_else(&world, "dropbox", 1, 0);
}

#[test]
fn handshake_is_what_verify_calls_it_too() {
    let world = world_of("dropbox", &[]);
    let line = |method: &str, query: &str| {
        let url = format!("https://h.example/dropbox{query}");
        serde_json::json!({ "route": "dropbox", "method": method, "url": url, "headers": [], "body_b64": "" })
            .to_string()
    };
    let input = world.gateway.folder().join("captured.jsonl");
    let captured = [line("GET", "?challenge=a"), line("GET", "?challenge=%00"), line("POST", "?challenge=a")];
    std::fs::write(&input, captured.join("\n")).unwrap();
    let said = world.gateway.ask(&["verify", "--input", &input.to_string_lossy()]);
    let verdicts: Vec<String> = said
        .json_lines()
        .iter()
        .map(|line| format!("{} {} {}", line["verdict"], line["reason"], line["secret"]))
        .collect();
    let expected =
        [r#""handshake" null null"#, r#""refuse" "bad_request" null"#, r#""refuse" "signature_missing" null"#];
    assert_eq!(verdicts, expected);
    assert_eq!(said.code, Some(3));
}

#[test]
fn acknowledgement_of_adyen_is_the_text_that_it_wants() {
    let key = "44782DEF547AAA06C910C43932B1EB0C71FC68D9D0C057550C48EC2ACF6BA056";
    let secret = format!("secrets = [{{ literal = '{key}' }}]");
    let world = world_of("adyen", &[&secret, "ack.mode = 'queue'"]);
    let signature = {
        let mut mac = Hmac::<Sha256>::new_from_slice(&HEXLOWER.decode(key.to_lowercase().as_bytes()).unwrap()).unwrap();
        mac.update(b"psp::acc:ref:1130:EUR:AUTHORISATION:true");
        BASE64.encode(&mac.finalize().into_bytes())
    };
    let body = serde_json::json!({ "live": "false", "notificationItems": [{ "NotificationRequestItem": {
        "additionalData": { "hmacSignature": signature }, "pspReference": "psp", "merchantAccountCode": "acc",
        "merchantReference": "ref", "amount": { "value": 1130, "currency": "EUR" }, "eventCode": "AUTHORISATION",
        "success": "true",
    }}]})
    .to_string();
    let reply = world.send(&Request::post("/adyen", body.as_bytes()));
    assert_eq!((reply.status, reply.text().as_str()), (200, "[accepted]"), "{reply:?}");
    assert_eq!(reply.headers.get("content-type").as_deref(), Some("text/plain"));
    let changed = world.send(&Request::post("/adyen", body.replace("1130", "1")));
    assert_refused(&changed, 401, "signature_mismatch");
    assert_eq!(world.app.wait_for(1)[0].body, body.as_bytes());
    let again = world.send(&Request::post("/adyen", body.as_bytes()));
    assert_eq!((again.status, again.text().as_str()), (200, "[accepted]"), "{again:?}");
    assert_eq!(again.headers.get("content-type").as_deref(), Some("text/plain"));
    assert_eq!(world.app.count(), 1, "a duplicate reached the application");
}

#[test]
fn handshake_of_microsoft_graph_echoes_the_token_of_an_empty_post() {
    let world = world_of("msgraph", &[]);
    let ask = |body: &str| world.send(&Request::post("/msgraph?validationToken=Validation%3A+Testing%20it", body));
    assert_answer(&ask(""), 200, "text/plain", "Validation: Testing it");
    assert_refused(&ask(r#"{"value":[{"clientState":"wrong"}]}"#), 401, "signature_mismatch");
    assert_nothing_else(&world, "msgraph", 1, 1);
    assert_eq!(ask(&format!(r#"{{"value":[{{"clientState":"{SECRET}"}}]}}"#)).status, 200);
    assert_eq!(world.app.count(), 1);
}

#[test]
fn handshake_of_monday_is_an_unsigned_echo() {
    let world = world_of("monday", &[]);
    let body = r#"{"challenge":"3eZbrw1aBm2rZgRNFdxV2595"}"#;
    assert_answer(&world.send(&Request::post("/monday", body)), 200, "application/json", body);
    assert_refused(
        &world.send(&Request::post("/monday", body).with("Authorization", "a.b.c")),
        401,
        "signature_malformed",
    );
    assert_nothing_else(&world, "monday", 1, 1);
}

#[test]
fn handshake_of_discord_is_a_signed_ping() {
    let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    let public = HEXLOWER.encode(key.verifying_key().as_bytes());
    for (name, ping, status, answer) in
        [("discord", r#"{"type":1}"#, 200, r#"{"type":1}"#), ("discord_events", r#"{"type":0}"#, 204, "")]
    {
        let world = world_of(name, &[&format!("secrets = [{{ literal = '{public}' }}]")]);
        let ask = |signed: &str| {
            let unix = now_unix();
            let signature = ed25519_dalek::Signer::sign(&key, format!("{unix}{signed}").as_bytes());
            let request = Request::post(&format!("/{name}"), ping).with("X-Signature-Timestamp", unix.to_string());
            world.send(&request.with("X-Signature-Ed25519", HEXLOWER.encode(&signature.to_bytes())))
        };
        assert_answer(&ask(ping), status, "application/json", answer);
        assert_refused(&ask("x"), 401, "signature_mismatch");
        assert_nothing_else(&world, name, 1, 1);
    }
}

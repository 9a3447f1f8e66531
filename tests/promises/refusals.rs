//! What is refused, in which words, and that nothing of it goes any further. P8, P10, P13 and section 3 of the
//! contract.

use std::time::Duration;

use crate::world::act::answer;
use crate::world::clock::{now_unix, pause, rfc3339};
use crate::world::events::{documented, task, task_at};
use crate::world::sender::{Reply, Request};
use crate::world::sign::Provider;
use crate::world::{at_once, world, world_with, world_without_app};

fn assert_refused(reply: &Reply, status: u16, error: &str, reason: &str) {
    let body = reply.text();
    assert_eq!((reply.status, reply.reason().as_str()), (status, reason), "{body}");
    assert_eq!(reply.json("error"), error, "{body}");
    assert_eq!(reply.headers.get("content-type").as_deref(), Some("application/json"));
}

fn veedeo_with(header: &str, value: &str) -> Request {
    Provider::Veedeo.sign(task("x")).without(header).with(header, value)
}

fn veedeo_sent(seconds_ago: i64) -> Request {
    let id = format!("sent-{seconds_ago}-ago");
    Provider::Veedeo.sign_at(task(id), now_unix() - seconds_ago, Provider::Veedeo.secret())
}

fn veedeo_happened(seconds_ago: i64) -> Request {
    Provider::Veedeo.sign(task_at("x", &rfc3339(-seconds_ago), "task.completed"))
}

#[test]
fn a_bad_request_is_told_why_in_the_documented_words() {
    let world = world();
    let (sig, time) = ("X-Veedeo-Signature", "X-Veedeo-Timestamp");
    let good = Provider::Veedeo.sign(task("x"));
    let mut tampered = good.clone();
    tampered.body.push(b' ');
    let short = format!("sha256={}", "ab".repeat(31));
    let upper = "SHA256=".to_owned() + &"AB".repeat(32);
    let cases = [
        (good.clone().without(sig), "Missing signature headers", "signature_missing"),
        (good.clone().without(time), "Missing signature headers", "timestamp_missing"),
        (veedeo_with(sig, ""), "Missing signature headers", "signature_missing"),
        (veedeo_with(sig, "nonsense"), "Invalid signature", "signature_malformed"),
        (veedeo_with(sig, &short), "Invalid signature", "signature_malformed"),
        (veedeo_with(sig, &upper), "Invalid signature", "signature_malformed"),
        (veedeo_with(sig, &format!("sha256={}", "ab".repeat(32))), "Invalid signature", "signature_mismatch"),
        (tampered, "Invalid signature", "signature_mismatch"),
        (Provider::Veedeo.sign_at(task("x"), now_unix(), "another secret"), "Invalid signature", "signature_mismatch"),
        (good.clone().with(sig, "sha256=00"), "Invalid signature", "signature_repeated"),
        (veedeo_with(time, "yesterday"), "Invalid timestamp", "timestamp_malformed"),
        (veedeo_with(time, "1760000000 or so"), "Invalid timestamp", "timestamp_malformed"),
        (veedeo_sent(310), "Request too old", "timestamp_stale"),
        (veedeo_sent(-310), "Invalid timestamp", "timestamp_future"),
        (veedeo_happened(23 * 3600 + 60), "Request too old", "event_too_old"),
    ];
    for (n, (request, error, reason)) in cases.iter().enumerate() {
        assert_refused(&world.send(request), 401, error, reason);
        assert_eq!(world.veedeo(task(n)).status, 200, "a good one after {reason}");
    }
    assert_eq!(world.app.count(), cases.len(), "the application sees the good ones and nothing else");
    let metrics = world.gateway.metrics();
    assert_eq!(metrics.count("hookgate_refusals_total", &[("route", "veedeo")]), cases.len() as u64);
    assert_eq!(metrics.count("hookgate_refusals_total", &[("reason", "signature_malformed")]), 3);
}

#[test]
fn what_is_just_in_time_is_taken() {
    let world = world();
    for request in [veedeo_sent(290), veedeo_sent(-290), veedeo_happened(23 * 3600 - 60)] {
        let reply = world.send(&request);
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    assert_eq!(world.app.count(), 3);
}

#[test]
fn the_documented_events_with_their_documented_moments_are_too_old() {
    let world = world();
    for event in documented().iter().step_by(4) {
        let reply = world.send(&event.provider.sign(event.as_documented()));
        assert_refused(&reply, 401, "Request too old", "event_too_old");
    }
    assert_eq!(world.app.count(), 0);
}

#[test]
fn a_captured_request_is_never_delivered_again_whatever_its_unsigned_timestamp_says() {
    let world = world_with(&[
        "providers.mine.extends = 'veedeo'",
        "providers.mine.signed_at = { from = 'json:/timestamp', unit = 'rfc3339', max_age = '3s', future = '5m' }",
        "providers.mine.about = { retry_horizon = '1s' }",
        "routes.mine.path = '/mine'",
        "routes.mine.provider = 'mine'",
        "routes.mine.secrets = [{ env = 'SECRET_OF_VEEDEO' }]",
        "routes.mine.dedup.ttl = '5s'",
    ]);
    let captured = task_at("captured", &rfc3339(0), "task.completed");
    let mut ends = Vec::new();
    for _ in 0..16 {
        let again = Request { target: "/mine".into(), ..Provider::Veedeo.sign(captured.clone()) };
        let reply = world.send(&again);
        ends.push(if reply.acked() { reply.text() } else { reply.reason() });
        pause(Duration::from_millis(500));
    }
    ends.dedup();
    assert_eq!(ends, ["{\"app\":200}", "{\"received\":true,\"duplicate\":true}", "event_too_old"]);
    assert_eq!(world.app.count(), 1);
}

#[test]
fn every_provider_refuses_what_its_sender_did_not_sign() {
    let world = world();
    for provider in Provider::ALL {
        let reply = world.send(&provider.sign_at(task("x"), now_unix(), "whsec_bm90IHRoZSBzZWNyZXQgYXQgYWxs"));
        assert_refused(&reply, 401, "Invalid signature", "signature_mismatch");
        let bare = Request::post(&provider.path(), task("x"));
        assert_refused(&world.send(&bare), 401, "Missing signature headers", "signature_missing");
        assert_eq!(world.send(&provider.sign(task("x"))).status, 200, "{}", provider.name());
    }
    assert_eq!(world.app.count(), Provider::ALL.len());
}

#[test]
fn a_signed_time_that_is_stale_is_refused_where_the_signature_covers_it() {
    let world = world();
    for provider in [Provider::Stripe, Provider::StandardWebhooks] {
        let [stale, fine] = [310, 290].map(|ago| {
            let body = format!("{{\"id\":\"{}-{ago}\"}}", provider.name());
            world.send(&provider.sign_at(body, now_unix() - ago, provider.secret()))
        });
        assert_refused(&stale, 401, "Request too old", "timestamp_stale");
        assert_eq!(fine.status, 200, "{}", fine.text());
    }
}

#[test]
fn sixteen_signatures_are_tried_and_no_more() {
    let world = world();
    let with_right_one_at = |position: usize| {
        let mut request = Provider::Stripe.sign(format!("{{\"id\":\"evt_{position}\"}}"));
        let value = String::from_utf8(request.headers.last().unwrap().1.clone()).unwrap();
        let (time, right) = value.split_once(',').unwrap();
        let wrong = format!("v1={}", "0".repeat(64));
        let mut all = vec![wrong.as_str(); position - 1];
        all.push(right);
        request.headers.last_mut().unwrap().1 = format!("{time},{}", all.join(",")).into_bytes();
        world.send(&request)
    };
    assert_eq!(with_right_one_at(16).status, 200);
    assert_eq!(with_right_one_at(17).status, 401);
    assert_eq!(world.app.count(), 1);
}

#[test]
fn a_time_or_an_id_that_comes_twice_is_refused() {
    let world = world();
    let time = now_unix().to_string();
    for request in [
        Provider::Veedeo.sign(task(1)).with("X-Veedeo-Timestamp", time.clone()),
        Provider::StandardWebhooks.sign(task(2)).with("webhook-timestamp", time),
        Provider::StandardWebhooks.sign(task(3)).with("webhook-id", "another"),
        Provider::GitHub.sign(task(4)).with("X-GitHub-Delivery", "another"),
    ] {
        assert_eq!(world.send(&request).status, 401, "{:?}", request.headers);
    }
    assert_eq!(world.app.count(), 0);
}

#[test]
fn every_live_secret_is_tried_and_an_expired_one_is_not() {
    let secrets = "[{ literal = 'the new one, long enough' }, { env = 'SECRET_OF_VEEDEO' }, \
                   { literal = 'the old one, long enough', until = '2024-01-01T00:00:00Z' }]";
    let world = world_with(&[&format!("routes.veedeo.secrets = {secrets}")]);
    let send = |id: &str, secret: &str| world.send(&Provider::Veedeo.sign_at(task(id), now_unix(), secret));
    assert_eq!(send("new", "the new one, long enough").status, 200);
    assert_eq!(send("present", Provider::Veedeo.secret()).status, 200);
    assert_refused(&send("old", "the old one, long enough"), 401, "Invalid signature", "signature_mismatch");
    let metrics = world.gateway.metrics();
    let matches = |n| metrics.find("hookgate_secret_matches_total", &[("route", "veedeo"), ("secret", n)]);
    assert_eq!((matches("0"), matches("1")), (Some(1.0), Some(1.0)));
    assert!(matches("2").is_none_or(|n| n == 0.0));
}

#[test]
fn a_path_is_matched_exactly_and_a_method_too() {
    let world = world();
    let good = Provider::Veedeo.sign(task(1));
    let paths = [
        "/",
        "/webhooks",
        "/webhooks/veedeo/",
        "//webhooks/veedeo",
        "/webhooks/./veedeo",
        "/webhooks/veede%6f",
        "/Webhooks/veedeo",
    ];
    for path in paths {
        let reply = world.send(&Request { target: path.into(), ..good.clone() });
        assert_refused(&reply, 404, "Not found", "no_route");
    }
    for method in ["GET", "PUT", "DELETE", "PATCH"] {
        let reply = world.send(&Request { method: method.into(), ..good.clone() });
        assert_refused(&reply, 405, "Method not allowed", "method_not_allowed");
    }
    assert_eq!(world.app.count(), 0);
    let metrics = world.gateway.metrics();
    let refused = |labels: &[(&str, &str)]| metrics.count("hookgate_refusals_total", labels);
    assert_eq!(refused(&[("route", "_none"), ("reason", "no_route")]), paths.len() as u64);
    assert_eq!(refused(&[("reason", "method_not_allowed")]), 4);
}

#[test]
fn a_flood_of_forgeries_does_not_suppress_the_true_event() {
    let world = world();
    let body = task("contested");
    let forged = Provider::Veedeo.sign_at(body.clone(), now_unix(), "a guess");
    assert_eq!(at_once(0..50, |_| world.send(&forged).status), [401; 50]);
    let reply = world.veedeo(body);
    assert_eq!((reply.status, reply.text().as_str()), (200, "{\"app\":200}"));
    assert_eq!(world.app.count(), 1);
}

#[test]
fn a_route_that_only_observes_counts_and_passes_on() {
    let world = world_with(&["routes.veedeo.enforce = false"]);
    let body = task(1);
    let reply = world.send(&Provider::Veedeo.sign_at(body.clone(), now_unix(), "not the secret"));
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(world.app.only().body, body);
    let counted = world.gateway.metrics().count("hookgate_refusals_total", &[("reason", "signature_mismatch")]);
    assert_eq!(counted, 1);
    world.gateway.wait_for_log(&["signature_mismatch"]);
}

#[test]
fn what_an_observing_route_passes_on_unverified_never_reaches_the_disk() {
    for mode in ["relay", "queue"] {
        let mode = format!("routes.veedeo.ack.mode = '{mode}'");
        let mut world = world_without_app(&["routes.veedeo.enforce = false", &mode]);
        let forged = |n| Provider::Veedeo.sign_at(task(n), now_unix(), "not the secret");
        assert_eq!(world.send(&forged(1)).status, 502, "nobody promised anything");
        world.app.always(answer(422));
        world.app.up();
        assert_eq!(world.send(&forged(2)).status, 422);
        assert_eq!(world.gateway.metrics().count("hookgate_spool_events", &[]), 0, "neither pending nor dead");
        assert_eq!(world.send(&forged(2)).status, 422, "and nothing was marked");
    }
}

#[test]
fn an_unwanted_type_is_acknowledged_and_goes_no_further() {
    let world = world_with(&["routes.veedeo.events = ['task.completed', 'task.failed']"]);
    let unwanted = world.veedeo(task_at(1, &rfc3339(0), "task.progress"));
    assert_eq!((unwanted.status, unwanted.text().as_str()), (200, "{\"received\":true}"));
    assert_eq!(world.app.count(), 0);
    assert_eq!(world.veedeo(task(2)).text(), "{\"app\":200}");
    assert_eq!(world.gateway.metrics().count("hookgate_requests_total", &[("disposition", "filtered")]), 1);
}

#[test]
fn a_clock_that_cannot_be_right_costs_no_event() {
    let world = world();
    let an_hour_late = |n: i64| {
        let body = task_at(n, &rfc3339(-3600), "task.completed");
        Provider::Veedeo.sign_at(body, now_unix() - 3600, Provider::Veedeo.secret())
    };
    let replies: Vec<Reply> = (0..8).map(|n| world.send(&an_hour_late(n))).collect();
    for reply in &replies[..5] {
        assert!([401, 503].contains(&reply.status), "{}", reply.text());
    }
    for reply in &replies[5..] {
        assert_eq!((reply.status, reply.reason().as_str()), (503, "clock_suspect"));
        assert!(reply.retry_after().is_some());
    }
    assert_eq!(world.gateway.metrics().count("hookgate_clock_suspect", &[]), 1);
    assert_eq!(world.app.count(), 0);
}

#[test]
fn one_fresh_time_ends_the_suspicion_of_the_clock_and_what_says_no_time_does_not() {
    let world = world();
    let an_hour_late = |n: i64| {
        let body = task_at(n, &rfc3339(-3600), "task.completed");
        world.send(&Provider::Veedeo.sign_at(body, now_unix() - 3600, Provider::Veedeo.secret()))
    };
    let suspected = || world.gateway.metrics().count("hookgate_clock_suspect", &[]);
    let replies: Vec<_> = (0..6).map(an_hour_late).collect();
    let last = replies.last().unwrap();
    assert_eq!((last.status, last.reason().as_str(), suspected()), (503, "clock_suspect", 1));
    assert_eq!(world.send(&Provider::GitHub.sign("{\"name\":\"of no time\"}")).status, 200);
    assert_eq!((an_hour_late(6).status, suspected()), (503, 1), "it says nothing of the clock");
    assert_eq!(world.veedeo(task("fresh")).status, 200);
    assert_eq!(suspected(), 0, "one fresh time is enough");
    for n in 7..11 {
        assert_refused(&an_hour_late(n), 401, "Request too old", "timestamp_stale");
    }
    assert_eq!((an_hour_late(11).status, suspected()), (503, 1), "five more are as suspicious as the first were");
}

#[test]
fn one_old_capture_among_fresh_requests_is_just_old() {
    let world = world();
    for n in 0..10 {
        assert_eq!(world.veedeo(task(n)).status, 200);
    }
    assert_refused(&world.send(&veedeo_sent(3600)), 401, "Request too old", "timestamp_stale");
    assert_eq!(world.gateway.metrics().count("hookgate_clock_suspect", &[]), 0);
}

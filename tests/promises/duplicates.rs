//! One event, however often it is sent. P5, P6, P7.

use std::collections::HashSet;
use std::time::Duration;

use data_encoding::BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::world::act::{Gate, accept, answer};
use crate::world::app::Seen;
use crate::world::clock::{now_unix, pause, rfc3339};
use crate::world::events::task;
use crate::world::sender::{Reply, Request};
use crate::world::sign::Provider;
use crate::world::{at_once, world, world_with};

fn is_duplicate(reply: &Reply) -> bool {
    reply.text() == "{\"received\":true,\"duplicate\":true}"
}

#[test]
fn a_second_copy_is_acknowledged_and_the_application_never_sees_it() {
    let world = world();
    for provider in Provider::ALL {
        let request = provider.sign(format!("{{\"id\":\"evt\",\"timestamp\":\"{}\"}}", rfc3339(0)));
        assert_eq!(world.send(&request).text(), "{\"app\":200}", "{}", provider.name());
        for _ in 0..3 {
            let reply = world.send(&request);
            assert!(reply.status == 200 && is_duplicate(&reply), "{}: {}", provider.name(), reply.text());
            assert_eq!(reply.headers.get("content-type").as_deref(), Some("application/json"));
        }
    }
    assert_eq!(world.app.count(), Provider::ALL.len());
    let metrics = world.gateway.metrics();
    assert_eq!(metrics.count("hookgate_requests_total", &[("disposition", "duplicate")]), 15);
    assert_eq!(metrics.count("hookgate_dedup_checks_total", &[("store", "embedded"), ("result", "duplicate")]), 15);
    assert_eq!(metrics.count("hookgate_dedup_checks_total", &[("store", "embedded"), ("result", "new")]), 5);
}

#[test]
fn a_retry_with_a_new_timestamp_header_is_a_duplicate() {
    let world = world();
    let body = task("same");
    for (ago, duplicate) in [(60, false), (30, true), (0, true)] {
        let reply = world.send(&Provider::Veedeo.sign_at(body.clone(), now_unix() - ago, Provider::Veedeo.secret()));
        assert_eq!((reply.status, is_duplicate(&reply)), (200, duplicate));
    }
    assert_eq!(world.app.count(), 1);
}

#[test]
fn a_duplicate_is_answered_with_the_status_of_the_acknowledgement() {
    let world = world_with(&["ack.reply = { status = 202, content_type = 'text/plain', body = 'thanks' }"]);
    let body = task(1);
    assert_eq!(world.veedeo(body.clone()).status, 200, "the application's own");
    let reply = world.veedeo(body);
    assert!(reply.status == 202 && is_duplicate(&reply), "{} {}", reply.status, reply.text());
}

#[test]
fn fifty_copies_at_once_of_each_of_a_hundred_events_reach_the_application_once_each() {
    let world = world();
    world.app.always(accept().after(Duration::from_millis(5)));
    for n in 0..100 {
        let request = Provider::Veedeo.sign(task(n));
        let statuses = at_once(0..50, |_| world.send(&request).status);
        assert_eq!(statuses, [200; 50], "event {n}");
    }
    let seen = world.app.seen();
    let mut keys: Vec<String> = seen.iter().map(Seen::key).collect();
    keys.sort();
    keys.dedup();
    assert_eq!((seen.len(), keys.len()), (100, 100));
    let metrics = world.gateway.metrics();
    assert_eq!(metrics.count("hookgate_requests_total", &[("route", "veedeo")]), 5000);
}

#[test]
fn copies_that_come_while_the_first_is_under_way_share_its_answer() {
    for status in [201, 422] {
        let world = world();
        let gate = Gate::closed();
        world.app.always(answer(status).with("X-App", "yes").behind(&gate));
        let request = Provider::Veedeo.sign(task(1));
        let replies = std::thread::scope(|scope| {
            scope.spawn(|| {
                world.app.wait_for(1);
                pause(Duration::from_millis(500));
                gate.open();
            });
            at_once(0..10, |_| world.send(&request))
        });
        for reply in replies {
            assert_eq!((reply.status, reply.text()), (status, format!("{{\"app\":{status}}}")));
        }
        assert_eq!(world.app.count(), 1);
    }
}

#[test]
fn the_same_id_with_another_body_is_another_event() {
    let world = world();
    let [one, two] =
        [":45", ":46"].map(|n| String::from_utf8(task("same")).unwrap().replace(":45}", &format!("{n}}}")));
    assert_ne!(one, two);
    assert_eq!(world.veedeo(one.clone()).text(), "{\"app\":200}");
    assert_eq!(world.veedeo(two.clone()).text(), "{\"app\":200}");
    assert!(is_duplicate(&world.veedeo(one)));
    assert!(is_duplicate(&world.veedeo(two)));
    assert_eq!(world.app.count(), 2);
    assert!(world.gateway.metrics().count("hookgate_dedup_checks_total", &[("result", "conflict")]) >= 1);
}

#[test]
fn an_id_that_nobody_signed_cannot_suppress_another_event() {
    let world = world();
    let send = |id: &str, body: &str| {
        let request = Provider::GitHub.sign_as(body, id, 0, Provider::GitHub.secret());
        world.send(&request).text()
    };
    assert_eq!(send("delivery-1", "{\"a\":1}"), "{\"app\":200}");
    assert_eq!(send("delivery-1", "{\"a\":2}"), "{\"app\":200}", "the same id in front of another body");
    assert_eq!(send("delivery-2", "{\"a\":1}"), "{\"app\":200}", "another delivery of an equal body");
    assert_eq!(world.app.count(), 3);
}

#[test]
fn routes_do_not_share_their_memory() {
    let lines = [
        "routes.second.path = '/second'",
        "routes.second.provider = 'veedeo'",
        "routes.second.secrets = [{ env = 'SECRET_OF_VEEDEO' }]",
    ];
    let world = world_with(&lines);
    let mut request = Provider::Veedeo.sign(task(1));
    assert_eq!(world.send(&request).text(), "{\"app\":200}");
    request.target = "/second".into();
    assert_eq!(world.send(&request).text(), "{\"app\":200}");
    assert!(is_duplicate(&world.send(&request)));
}

#[test]
fn what_was_accepted_is_remembered_over_a_restart_and_a_crash() {
    let mut world = world();
    let [before, between] = [task("before"), task("between")];
    world.veedeo(before.clone());
    world.gateway.stop();
    world.gateway.restart();
    assert!(is_duplicate(&world.veedeo(before.clone())));
    world.veedeo(between.clone());
    // The mark of a fast acceptance is written without a sync, but soon: only the instant of the crash may lose it.
    pause(Duration::from_secs(1));
    world.gateway.kill9();
    world.gateway.restart();
    assert!(is_duplicate(&world.veedeo(before)));
    assert!(is_duplicate(&world.veedeo(between)));
    assert_eq!(world.app.count(), 2);
}

#[test]
fn after_the_ttl_an_event_is_new_again() {
    let world = world_with(&["routes.github.dedup.ttl = '2s'"]);
    let request = Provider::GitHub.sign("{}");
    assert_eq!(world.send(&request).text(), "{\"app\":200}");
    assert!(is_duplicate(&world.send(&request)));
    pause(Duration::from_millis(2500));
    assert_eq!(world.send(&request).text(), "{\"app\":200}");
    assert_eq!(world.app.count(), 2);
}

#[test]
fn items_that_are_signed_each_by_itself_are_one_event_in_any_order_and_number() {
    const SECRET: &str = "a secret of this test alone";
    let world = world_with(&[
        "providers.batch.each = '/v/*'",
        "providers.batch.signed = '{item:/a}'",
        "providers.batch.signature = { item = '/s', encoding = 'base64' }",
        "routes.batch.path = '/batch'",
        "routes.batch.provider = 'batch'",
        &format!("routes.batch.secrets = [{{ literal = '{SECRET}' }}]"),
    ]);
    let item = |a: &str| {
        let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
        mac.update(a.as_bytes());
        format!("{{\"a\":\"{a}\",\"s\":\"{}\"}}", BASE64.encode(&mac.finalize().into_bytes()))
    };
    let (one, two) = (item("1"), item("2"));
    for (items, is_new) in [
        (vec![&one], true),
        (vec![&one, &one], false),
        (vec![&one; 16], false),
        (vec![&one, &two], true),
        (vec![&two, &one, &two], false),
        (vec![&two], true),
    ] {
        let items: Vec<&str> = items.iter().map(|item| item.as_str()).collect();
        let before = world.app.count();
        let reply = world.send(&Request::post("/batch", format!("{{\"v\":[{}]}}", items.join(","))));
        assert_eq!((reply.status, world.app.count() - before), (200, usize::from(is_new)), "{items:?}");
    }
}

/// As `HubSpot` signs: method, address and body, and no id.
#[test]
fn events_without_an_id_differ_by_a_signed_query_and_method_too() {
    const SECRET: &str = "a secret of this test alone";
    let world = world_with(&[
        "providers.own.signed = '{method}{url}{body}'",
        "providers.own.signature = { header = 'X-Signature', encoding = 'base64' }",
        "providers.plain.signed = '{body}'",
        "providers.plain.signature = { header = 'X-Signature', encoding = 'base64' }",
        "routes.own.path = '/own'",
        "routes.own.provider = 'own'",
        "routes.own.methods = ['GET', 'POST', 'PUT']",
        "routes.own.public_url = 'http://h/own'",
        &format!("routes.own.secrets = [{{ literal = '{SECRET}' }}]"),
        "routes.plain.path = '/plain'",
        "routes.plain.provider = 'plain'",
        "routes.plain.methods = ['POST', 'PUT']",
        &format!("routes.plain.secrets = [{{ literal = '{SECRET}' }}]"),
    ]);
    let send = |signed: &str, method: &str, target: &str, body: &str| {
        let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
        mac.update(signed.as_bytes());
        let request = Request { method: method.to_owned(), ..Request::post(target, body) };
        world.send(&request.with("X-Signature", BASE64.encode(&mac.finalize().into_bytes())))
    };
    for (method, query, body, is_new) in [
        ("GET", "?deal=1", "", true),
        ("GET", "?deal=2", "", true),
        ("GET", "?deal=1", "", false),
        ("GET", "", "", true),
        ("POST", "", "", true),
        ("POST", "", "", false),
        ("POST", "?deal=1", "b", true),
        ("PUT", "?deal=1", "b", true),
        ("POST", "?deal=1", "c", true),
        ("PUT", "?deal=1", "b", false),
    ] {
        let before = world.app.count();
        let reply = send(&format!("{method}http://h/own{query}{body}"), method, &format!("/own{query}"), body);
        let is = (reply.status, world.app.count() - before);
        assert_eq!(is, (200, usize::from(is_new)), "{method} {query} {body}: {}", reply.reason());
    }
    // What is not signed makes no other event of one.
    for (method, query, is_new) in [("POST", "?deal=1", true), ("POST", "?deal=2", false), ("PUT", "", false)] {
        let before = world.app.count();
        let reply = send("b", method, &format!("/plain{query}"), "b");
        assert_eq!((reply.status, world.app.count() - before), (200, usize::from(is_new)), "{method} {query}");
    }
}

/// As `Dropbox` tells of changes, and `ClickUp`, whose events have an id or none.
#[test]
fn where_each_request_is_an_event_of_its_own_equal_ones_are_all_delivered() {
    const SECRET: &str = "a secret of this test alone";
    let of = |name: &str, id: &str| {
        vec![
            format!("providers.{name}.signature = {{ header = 'X-Signature', encoding = 'base64' }}"),
            format!("providers.{name}.event_id = ['{id}']"),
            format!("routes.{name}.path = '/{name}'"),
            format!("routes.{name}.provider = '{name}'"),
            format!("routes.{name}.secrets = [{{ literal = '{SECRET}' }}]"),
        ]
    };
    let lines = [of("all", "request"), of("some", "json:/id|request")].concat();
    let world = world_with(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    let send = |target: &str, body: &str| {
        let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
        mac.update(body.as_bytes());
        let signature = BASE64.encode(&mac.finalize().into_bytes());
        let before = world.app.count();
        assert_eq!(world.send(&Request::post(target, body).with("X-Signature", signature)).status, 200);
        world.app.count() - before
    };
    let changed = r#"{"list_folder":{"accounts":["dbid:AAH4f99"]}}"#;
    assert_eq!([(); 3].map(|()| send("/all", changed)), [1, 1, 1]);
    assert_eq!([(); 3].map(|()| send("/some", changed)), [1, 1, 1]);
    assert_eq!([(); 3].map(|()| send("/some", r#"{"id":1}"#)), [1, 0, 0]);
    // What readers may differ about is no missing id.
    assert_eq!([(); 3].map(|()| send("/some", r#"{"id":1,"id":2}"#)), [1, 0, 0]);
    let seen = world.app.seen();
    let keys: HashSet<String> = seen.iter().map(|seen| seen.header("hookgate-key")).collect();
    assert_eq!(keys.len(), 8, "each has a name of its own: {keys:?}");
}

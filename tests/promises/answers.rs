//! What each answer of the application leads to. The table "Decisions in the subtle cases" of the promises.

use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;

use crate::outage::assert_spooled;
use crate::world::act::{Act, accept, answer};
use crate::world::app::Seen;
use crate::world::clock::{always, eventually};
use crate::world::events::task;
use crate::world::{World, world, world_with};

const DRAINED: Duration = Duration::from_secs(15);

#[test]
fn a_rejection_is_passed_on_kept_as_a_dead_letter_and_forgotten() {
    let world = world();
    for (said, told) in [(400, 400), (403, 403), (404, 404), (409, 409), (410, 404), (422, 422)] {
        let body = task(said);
        world.app.first([answer(said).body("no thanks"), accept()]);
        let reply = world.veedeo(body.clone());
        assert_eq!((reply.status, reply.text().as_str()), (told, "no thanks"), "{said}");
        let letters = world.gateway.rows(&["dlq", "list"]);
        let seen = world.app.seen().pop().unwrap();
        let letter = letters.iter().find(|l| l["key"] == seen.key()).expect("a dead-letter copy");
        assert_eq!((letter["route"].as_str(), letter["reason"].as_str()), (Some("veedeo"), Some("app_rejected")));
        assert_eq!((letter["attempts"].as_u64(), letter["body_bytes"].as_u64()), (Some(1), Some(body.len() as u64)));
        assert_eq!(letter["body_sha256"], HEXLOWER.encode(&seen.sha256()));
        assert_eq!(letter["id"], seen.header("hookgate-event"));
        assert!(letter["last_error"].as_str().is_some_and(|e| e.contains(&said.to_string())), "{letter}");
        assert!(!letter["received_at"].is_null());
        assert_eq!(world.veedeo(body).text(), "{\"app\":200}", "a re-send after a fix works");
        assert!(!world.app.seen().pop().unwrap().flagged());
    }
    let metrics = world.gateway.metrics();
    assert_eq!(metrics.count("hookgate_requests_total", &[("disposition", "app_rejected")]), 6);
    assert_eq!(metrics.count("hookgate_spool_events", &[("route", "veedeo"), ("state", "dead")]), 6);
    assert_eq!(metrics.count("hookgate_attempts_total", &[("outcome", "rejected")]), 6);
}

#[test]
fn a_long_answer_without_room_in_memory_loses_its_body_and_the_event_is_delivered() {
    // Answers have half of it.
    let world = world_with(&["server.max_buffered_bytes = '1MiB'"]);
    let full = |world: &World| world.gateway.metrics().count("hookgate_buffered_full_total", &[("use", "answers")]);
    world.app.first([accept().with("X-Said", "a").body(vec![b'a'; 400_000])]);
    let reply = world.veedeo(task("fits"));
    assert_eq!((reply.status, reply.body.len(), full(&world)), (200, 400_000, 0));
    world.app.first([accept().with("X-Said", "b").body(vec![b'b'; 700_000])]);
    let reply = world.veedeo(task("does not fit"));
    assert_eq!((reply.status, reply.body.len(), reply.headers.get("x-said")), (200, 0, None));
    assert!(full(&world) > 0);
    assert_eq!(world.veedeo(task("does not fit")).json("duplicate"), true, "the application has it");
    world.app.first([answer(422).body(vec![b'c'; 700_000])]);
    assert_eq!(world.veedeo(task("rejected")).status, 422, "what the status says counts");
    assert_eq!(world.app.count(), 3);
    assert_eq!(world.gateway.metrics().count("hookgate_deliveries_total", &[]), 0, "nothing went to disk");
    eventually("the memory is given back", Duration::from_secs(5), || {
        (world.gateway.metrics().find("hookgate_buffered_bytes", &[])? == 0.0).then_some(())
    });
}

#[test]
fn an_absorbed_rejection_is_acknowledged_and_kept() {
    let world = world_with(&["ack.on_app_rejection = 'absorb'"]);
    world.app.first([answer(422)]);
    assert_spooled(&world.veedeo(task(1)));
    let letters = world.gateway.rows(&["dlq", "list"]);
    assert_eq!((letters.len(), letters[0]["reason"].as_str()), (1, Some("app_rejected")));
    always("it is not tried again", Duration::from_millis(700), || world.app.count() == 1);
}

#[test]
fn failures_are_absorbed_and_tried_again_until_they_succeed() {
    let world = world();
    let statuses = [500, 502, 503, 504, 501, 408, 421, 425, 429, 301, 302, 304, 307, 308];
    for status in statuses {
        let before = world.app.count();
        world.app.first([answer(status).with("Location", "/elsewhere").body(""), accept()]);
        assert_spooled(&world.veedeo(task(status)));
        let seen = world.app.wait_for(before + 2).split_off(before);
        assert_eq!((seen[0].attempt(), seen[1].attempt()), (1, 2), "{status}");
        assert_eq!((seen[0].key(), &seen[0].body), (seen[1].key(), &seen[1].body), "{status}");
        assert!(!seen[1].flagged(), "{status} is no acceptance");
        assert_eq!(seen[1].method, "POST");
        world.gateway.wait_for_empty_spool(DRAINED);
    }
    assert_eq!(world.app.count(), 2 * statuses.len());
    assert!(world.app.seen().iter().all(|seen| seen.target == "/webhooks/veedeo"), "no redirect is followed");
    assert!(world.gateway.rows(&["dlq", "list"]).is_empty());
}

#[test]
fn retries_follow_the_list() {
    let world = world_with(&[
        "delivery.retries = ['300ms', '900ms', '1500ms']",
        "delivery.breaker = { failures = 100, probe_every = '1s' }",
    ]);
    world.app.first([answer(500), answer(500), answer(500), accept()]);
    assert_spooled(&world.veedeo(task(1)));
    let seen = world.app.wait_for(4);
    assert_eq!(seen.iter().map(Seen::attempt).collect::<Vec<_>>(), [1, 2, 3, 4]);
    for (pair, wait) in seen.windows(2).zip([300, 900, 1500]) {
        let gap = (pair[1].at - pair[0].at).as_millis();
        assert!(gap >= wait - 20 && gap < wait + 1000, "{gap} ms where {wait} ms were asked for");
    }
    world.gateway.wait_for_empty_spool(DRAINED);
}

#[test]
fn an_application_that_asks_for_rest_has_it_for_the_whole_route() {
    let world = world();
    for status in [429, 503] {
        let before = world.app.count();
        world.app.first([answer(status).with("Retry-After", "2")]);
        let from = Instant::now();
        assert_spooled(&world.veedeo(task(format!("{status} one"))));
        assert_spooled(&world.veedeo(task(format!("{status} two"))));
        assert!(from.elapsed() < Duration::from_millis(1500), "the senders do not wait for that");
        let seen = world.app.wait_for(before + 3).split_off(before);
        for later in &seen[1..] {
            let rest = later.at - seen[0].at;
            assert!(rest >= Duration::from_millis(1900), "asked for 2 s, had {rest:?}");
        }
        world.gateway.wait_for_empty_spool(DRAINED);
    }
    assert_eq!(world.app.count(), 6);
}

fn assert_accepted_once(world: &World, act: Act) {
    world.app.first([act]);
    let reply = world.veedeo(task("x"));
    assert!(reply.acked(), "{}", reply.status);
    assert_eq!(world.veedeo(task("x")).json("duplicate"), true);
    always("it is not sent again", Duration::from_secs(1), || world.app.count() == 1);
}

#[test]
fn a_2xx_with_a_broken_body_is_an_acceptance() {
    assert_accepted_once(&world(), Act::BrokenBody(200));
}

#[test]
fn interim_answers_are_not_the_answer() {
    let bytes = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    assert_accepted_once(&world(), Act::Raw(bytes.to_vec()));
}

#[test]
fn a_very_long_answer_is_an_acceptance_all_the_same() {
    assert_accepted_once(&world(), accept().body(vec![b'x'; 20 << 20]));
}

#[test]
fn an_answer_without_a_length_is_an_answer() {
    let world = world();
    world.app.first([Act::Raw(b"HTTP/1.1 200 OK\r\n\r\nuntil the end".to_vec())]);
    assert_eq!(world.veedeo(task(1)).text(), "until the end");
    world
        .app
        .first([Act::Raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n0\r\n\r\n".to_vec())]);
    assert_eq!(world.veedeo(task(2)).text(), "some");
}

#[test]
fn a_connection_that_breaks_before_the_answer_is_tried_again_and_flagged() {
    let acts = [Act::HangUp, Act::Raw(b"HTTP/1.1 2".to_vec()), Act::Raw(b"SMTP nonsense\r\n\r\n".to_vec())];
    let world = world();
    for (n, act) in acts.into_iter().enumerate() {
        world.app.first([act, accept()]);
        assert_spooled(&world.veedeo(task(n)));
        let seen = world.app.wait_for(2 * n + 2).split_off(2 * n);
        assert_eq!((seen[1].attempt(), seen[1].flagged()), (2, true), "the case {n}");
        assert_eq!(seen[0].key(), seen[1].key());
    }
    world.gateway.wait_for_empty_spool(DRAINED);
}

#[test]
fn a_connection_that_is_closed_before_the_request_costs_nothing() {
    let mut world = world();
    world.app.down();
    world.app.up();
    world.app.slam(3);
    let reply = world.veedeo(task(1));
    assert!(reply.acked());
    world.app.wait_for(1);
    world.gateway.wait_for_empty_spool(DRAINED);
    assert_eq!(world.app.count(), 1);
}

#[test]
fn an_idle_connection_that_the_application_closed_is_no_failure() {
    let mut world = world();
    for n in 0..5 {
        assert_eq!(world.veedeo(task(n)).text(), "{\"app\":200}");
        world.app.down();
        world.app.up();
    }
    let seen = world.app.seen();
    assert_eq!(seen.iter().map(|seen| (seen.attempt(), seen.flagged())).collect::<Vec<_>>(), [(1, false); 5]);
}

#[test]
fn a_dead_letter_that_an_operator_retries_is_delivered_and_marked() {
    let world = world();
    world.app.first([answer(422)]);
    world.veedeo(task(1));
    let id = world.gateway.rows(&["dlq", "list"])[0]["id"].as_str().unwrap().to_owned();
    let retried = world.gateway.ask(&["dlq", "retry", &id, "--yes"]);
    assert_eq!(retried.code, Some(0), "{retried:?}");
    let seen = world.app.wait_for(2);
    assert_eq!(seen[1].header("hookgate-replay"), "true");
    assert_eq!((seen[0].key(), &seen[0].body), (seen[1].key(), &seen[1].body));
    eventually("the dead letter is gone", DRAINED, || world.gateway.rows(&["dlq", "list"]).is_empty().then_some(()));
    assert_eq!(world.gateway.metrics().count("hookgate_replays_total", &[("route", "veedeo")]), 1);
    assert_eq!(world.veedeo(task(1)).json("duplicate"), true, "accepted now, so remembered");
}

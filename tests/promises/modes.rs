//! Who answers the sender: `queue`, `sync`, and failures that are passed on. Sections 2 and 3 of the contract.

use std::time::Duration;

use crate::outage::assert_spooled;
use crate::world::act::{Act, Gate, accept, answer};
use crate::world::clock::always;
use crate::world::events::{task, wide_task};
use crate::world::sign::Provider;
use crate::world::{World, world_with, world_without_app};

const DRAINED: Duration = Duration::from_secs(15);

fn assert_nothing_was_kept(world: &World) {
    let metrics = world.gateway.metrics();
    for state in ["pending", "dead"] {
        assert_eq!(metrics.count("hookgate_spool_events", &[("state", state)]), 0, "{state}");
    }
}

#[test]
fn a_queue_answers_at_once_and_delivers_behind_the_senders_back() {
    let reply = "ack.reply = { status = 202, content_type = 'text/plain', body = 'queued' }";
    let world = world_with(&["ack.mode = 'queue'", reply]);
    let gate = Gate::closed();
    world.app.always(accept().behind(&gate));
    for n in 0..3 {
        let reply = world.veedeo(task(n));
        assert_eq!((reply.status, reply.text().as_str()), (202, "queued"));
        assert_eq!(reply.headers.get("content-type").as_deref(), Some("text/plain"));
        assert!(reply.took < Duration::from_secs(1), "took {:?}", reply.took);
    }
    gate.open();
    world.gateway.wait_for_empty_spool(DRAINED);
    let seen = world.app.seen();
    assert_eq!(seen.iter().map(|seen| (seen.attempt(), seen.flagged())).collect::<Vec<_>>(), [(1, false); 3]);
    let metrics = world.gateway.metrics();
    assert_eq!(metrics.count("hookgate_requests_total", &[("disposition", "spooled")]), 3);
    assert_eq!(metrics.count("hookgate_deliveries_total", &[("route", "veedeo")]), 3);
}

#[test]
fn a_backlog_that_finds_no_room_in_memory_is_sent_all_the_same() {
    // A sixteenth is the backlog's: less than an event takes.
    let mut world = world_without_app(&["server.max_buffered_bytes = '1MiB'", "app.max_in_flight = 64"]);
    for n in 0..30 {
        assert_spooled(&world.veedeo(wide_task(n, 100_000)));
    }
    world.app.up();
    world.gateway.wait_for_empty_spool(DRAINED);
    let seen = world.app.seen();
    assert_eq!(seen.len(), 30);
    assert!(seen.iter().all(|seen| !seen.flagged()));
}

#[test]
fn a_queue_keeps_what_the_application_rejects() {
    let world = world_with(&["ack.mode = 'queue'"]);
    world.app.always(answer(422));
    assert_spooled(&world.veedeo(task(1)));
    world.gateway.wait_for_empty_spool(DRAINED);
    assert_eq!(world.gateway.rows(&["dlq", "list"])[0]["reason"], "app_rejected");
}

#[test]
fn sync_hands_on_whatever_the_application_says() {
    let world = world_with(&["ack.mode = 'sync'"]);
    for status in [200, 500, 503, 404, 302] {
        world.app.first([answer(status).body(format!("said {status}"))]);
        let reply = world.veedeo(task(status));
        assert_eq!((reply.status, reply.text()), (status, format!("said {status}")));
    }
    assert_eq!(world.gateway.metrics().count("hookgate_spool_events", &[("state", "pending")]), 0);
    assert_eq!(world.app.count(), 5);
}

#[test]
fn sync_gives_up_at_the_deadline_and_keeps_nothing() {
    let world = world_with(&["ack.mode = 'sync'", "ack.budget = '2s'", "ack.reserve = '1s'"]);
    world.app.first([Act::Never]);
    let reply = world.veedeo(task(1));
    assert_eq!(reply.status, 504);
    assert!(reply.took < Duration::from_millis(1200), "took {:?}", reply.took);
    assert_nothing_was_kept(&world);
    let failed = [("route", "veedeo"), ("disposition", "app_failed")];
    assert_eq!(world.gateway.metrics().count("hookgate_requests_total", &failed), 1);
    always("nothing follows", Duration::from_secs(1), || world.app.count() == 1);
}

#[test]
fn failures_are_passed_on_where_the_configuration_says_so() {
    for line in ["ack.on_app_failure = 'pass'", "ack.mode = 'sync'"] {
        let mut world = world_with(&[line]);
        world.app.first([answer(500).body("broken"), accept()]);
        let reply = world.veedeo(task("fails"));
        assert_eq!((reply.status, reply.text().as_str()), (500, "broken"), "{line}");
        assert_eq!(world.veedeo(task("fails")).text(), "{\"app\":200}", "the retry is a new chance");
        assert!(!world.app.seen()[1].flagged(), "a 500 is no acceptance");

        world.app.down();
        assert_eq!(world.veedeo(task("nobody there")).status, 502, "{line}");
        world.app.up();
        assert_eq!(world.veedeo(task("nobody there")).text(), "{\"app\":200}");
        assert_nothing_was_kept(&world);
    }
}

#[test]
fn a_failure_of_which_nothing_is_known_is_flagged_when_the_sender_tries_again() {
    for line in ["ack.on_app_failure = 'pass'", "ack.mode = 'sync'"] {
        let world = world_with(&[line]);
        world.app.first([Act::HangUp]);
        let reply = world.veedeo(task(1));
        assert!([502, 504].contains(&reply.status), "{line}: {}", reply.status);
        assert_eq!(world.veedeo(task(1)).text(), "{\"app\":200}");
        let seen = world.app.seen();
        assert_eq!((seen.len(), seen[1].flagged()), (2, true), "{line}");
        assert_eq!(seen[0].key(), seen[1].key());
        assert_nothing_was_kept(&world);
    }
}

#[test]
fn with_failures_passed_on_a_silent_application_is_a_504_when_its_time_is_over() {
    let world = world_with(&["ack.on_app_failure = 'pass'", "app.attempt_timeout = '1s'"]);
    world.app.first([Act::Never]);
    let reply = world.veedeo(task(1));
    assert_eq!(reply.status, 504);
    assert!(reply.took < Duration::from_millis(1300), "took {:?}", reply.took);
    assert_nothing_was_kept(&world);
}

#[test]
fn with_failures_passed_on_a_slow_application_has_not_failed_yet() {
    let world = world_with(&["ack.on_app_failure = 'pass'", "ack.budget = '2s'", "ack.reserve = '1s'"]);
    world.app.first([accept().after(Duration::from_millis(1500))]);
    let reply = world.veedeo(task(1));
    assert_spooled(&reply);
    assert!(reply.took < Duration::from_millis(1200), "took {:?}", reply.took);
    world.gateway.wait_for_empty_spool(DRAINED);
    assert_eq!(world.app.count(), 1);
}

#[test]
fn one_route_may_pass_failures_on_while_another_absorbs_them() {
    let world = world_without_app(&["routes.github.ack.on_app_failure = 'pass'"]);
    assert_eq!(world.send(&Provider::GitHub.sign("{}")).status, 502);
    assert_spooled(&world.veedeo(task(1)));
}

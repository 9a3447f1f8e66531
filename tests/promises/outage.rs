//! The application is away: its events are kept, delivered when it is back, and nobody else waits for it. P1, P15,
//! P17.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::world::act::{Act, accept, answer};
use crate::world::app::{App, Seen};
use crate::world::clock::{always, eventually, rfc3339};
use crate::world::events::{task, task_of, wide_task};
use crate::world::gateway::Gateway;
use crate::world::sender::Reply;
use crate::world::setup::Setup;
use crate::world::sign::Provider;
use crate::world::{at_once, world, world_with, world_without_app};

const DRAINED: Duration = Duration::from_secs(15);

pub(crate) fn assert_spooled(reply: &Reply) {
    assert_eq!((reply.status, reply.text().as_str()), (200, "{\"received\":true}"));
    assert_eq!(reply.headers.get("content-type").as_deref(), Some("application/json"));
}

#[test]
fn events_for_an_absent_application_are_kept_and_delivered_once_when_it_is_back() {
    let mut world = world_without_app(&[]);
    for n in 0..5 {
        let reply = world.veedeo(task(n));
        assert_spooled(&reply);
        assert!(reply.took < Duration::from_secs(2), "the sender does not wait for an absent application");
    }
    let metrics = world.gateway.metrics();
    assert_eq!(metrics.count("hookgate_spool_events", &[("route", "veedeo"), ("state", "pending")]), 5);
    assert_eq!(metrics.count("hookgate_requests_total", &[("route", "veedeo"), ("disposition", "spooled")]), 5);
    assert!(metrics.count("hookgate_attempts_total", &[("route", "veedeo"), ("outcome", "unreachable")]) >= 1);
    world.app.up();
    world.gateway.wait_for_empty_spool(DRAINED);
    let seen = world.app.seen();
    let mut tasks: Vec<String> = seen.iter().map(|seen| task_of(&seen.body)).collect();
    tasks.sort();
    assert_eq!(tasks, ["0", "1", "2", "3", "4"]);
    assert!(seen.iter().all(|seen| !seen.flagged()), "nothing had reached the application before");
    assert!(seen.iter().any(|seen| seen.attempt() >= 2), "the attempt that failed counts");
    let metrics = world.gateway.metrics();
    assert_eq!(metrics.count("hookgate_deliveries_total", &[("route", "veedeo")]), 5);
    assert_eq!(metrics.count("hookgate_spool_events", &[("route", "veedeo"), ("state", "dead")]), 0);
}

#[test]
fn a_copy_of_a_kept_event_is_a_duplicate() {
    let mut world = world_without_app(&[]);
    assert_spooled(&world.veedeo(task(1)));
    assert_eq!(world.veedeo(task(1)).json("duplicate"), true);
    world.app.up();
    world.gateway.wait_for_empty_spool(DRAINED);
    assert_eq!(world.veedeo(task(1)).json("duplicate"), true);
    assert_eq!(world.app.count(), 1);
}

#[test]
fn kept_events_survive_a_kill_and_are_delivered_exactly_once() {
    let mut world = world_without_app(&[]);
    let replies = at_once(0..20, |n| world.veedeo(task(n)));
    replies.iter().for_each(assert_spooled);
    world.gateway.kill9();
    world.app.up();
    world.gateway.restart();
    world.gateway.wait_for_empty_spool(DRAINED);
    let mut tasks: Vec<u32> = world.app.seen().iter().map(|seen| task_of(&seen.body).parse().unwrap()).collect();
    tasks.sort_unstable();
    assert_eq!(tasks, (0..20).collect::<Vec<_>>());
    assert_eq!(world.veedeo(task(7)).json("duplicate"), true, "and are remembered");
}

#[test]
fn a_kept_event_is_remembered_from_the_instant_of_its_acknowledgement() {
    let mut world = world_without_app(&["ack.mode = 'queue'"]);
    for n in 0..8 {
        assert_spooled(&world.veedeo(task(n)));
        world.gateway.kill9();
        world.gateway.restart();
        assert_eq!(world.veedeo(task(n)).json("duplicate"), true, "round {n}");
    }
    world.app.up();
    world.gateway.wait_for_empty_spool(DRAINED);
    assert_eq!(world.app.count(), 8);
}

#[test]
fn an_application_that_hides_and_comes_back_again_and_again_gets_everything_once() {
    let mut world = world();
    for round in 0..4 {
        world.app.down();
        for n in 0..5 {
            assert_spooled(&world.veedeo(task(format!("{round}-{n}-down"))));
        }
        world.app.up();
        world.gateway.wait_for_empty_spool(DRAINED);
        assert_eq!(world.veedeo(task(format!("{round}-up"))).text(), "{\"app\":200}");
    }
    let mut keys: Vec<String> = world.app.seen().iter().map(Seen::key).collect();
    keys.sort();
    keys.dedup();
    assert_eq!((keys.len(), world.app.count()), (24, 24));
}

#[test]
fn readiness_and_the_gauge_of_the_application_are_two_things() {
    let mut world = world_without_app(&[]);
    assert_spooled(&world.veedeo(task(1)));
    for path in ["/livez", "/readyz", "/readyz?verbose"] {
        assert_eq!(world.gateway.telemetry(path).unwrap().status, 200, "{path}");
    }
    let up = || world.gateway.metrics().find("hookgate_app_up", &[("route", "veedeo")]);
    (0..6).for_each(|n| assert_spooled(&world.veedeo(task(format!("more-{n}")))));
    eventually("the gauge sees the application go", DRAINED, || (up() == Some(0.0)).then_some(()));
    world.app.up();
    let up = || world.gateway.metrics().find("hookgate_app_up", &[("route", "veedeo")]);
    eventually("the gauge sees the application come", DRAINED, || (up() == Some(1.0)).then_some(()));
}

#[test]
fn a_dead_application_does_not_slow_another_route() {
    let [silent, healthy] = [App::start(), App::start()];
    silent.always(Act::Never);
    let setup = Setup::new(&silent.url()).with(&[&format!("routes.github.app.url = '{}'", healthy.url())]);
    let gateway = Gateway::start(setup.with(&["ack.budget = '4s'", "ack.reserve = '1s'"]));
    std::thread::scope(|scope| {
        let stuck: Vec<_> = (0..100)
            .map(|n| {
                let gateway = &gateway;
                scope.spawn(move || gateway.send(&Provider::Veedeo.sign(task(n))))
            })
            .collect();
        eventually("the silent application is busy", DRAINED, || (silent.count() >= 50).then_some(()));
        let from = Instant::now();
        for n in 0..20 {
            let reply = gateway.send(&Provider::GitHub.sign(task(n)));
            assert_eq!(reply.text(), "{\"app\":200}");
            assert!(reply.took < Duration::from_secs(1), "took {:?}", reply.took);
        }
        assert!(from.elapsed() < Duration::from_secs(3));
        for reply in stuck {
            let reply = reply.join().unwrap();
            assert_spooled(&reply);
            assert!(reply.took < Duration::from_millis(3300), "took {:?}", reply.took);
        }
    });
    assert_eq!(healthy.count(), 20);
}

#[test]
fn a_poison_event_delays_no_other_and_ends_among_the_dead_letters() {
    let retries = "delivery.retries = ['200ms', '200ms', '200ms']";
    let world = world_with(&[retries]);
    world.app.decide(|seen| if task_of(&seen.body) == "poison" { answer(500) } else { accept() });
    assert_spooled(&world.veedeo(task("poison")));
    for n in 0..10 {
        let reply = world.veedeo(task(n));
        assert_eq!(reply.text(), "{\"app\":200}");
        assert!(reply.took < Duration::from_secs(1));
    }
    world.gateway.wait_for_empty_spool(DRAINED);
    let letters = world.gateway.rows(&["dlq", "list"]);
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0]["reason"].as_str(), letters[0]["attempts"].as_u64()), (Some("attempts_exhausted"), Some(4)));
    let poisoned = world.app.seen().iter().filter(|seen| task_of(&seen.body) == "poison").count();
    assert_eq!(poisoned, 4, "one attempt and three retries");
    let dead = [("route", "veedeo"), ("reason", "attempts_exhausted")];
    assert_eq!(world.gateway.metrics().count("hookgate_dead_letters_total", &dead), 1);
}

#[test]
fn an_event_that_waited_too_long_goes_to_the_dead_letters_and_is_not_lost() {
    let mut world = world_without_app(&["spool.max_age = '2s'"]);
    assert_spooled(&world.veedeo(task("late")));
    let letters =
        eventually("a dead letter", DRAINED, || Some(world.gateway.rows(&["dlq", "list"])).filter(|l| !l.is_empty()));
    assert_eq!(letters[0]["reason"], "too_old");
    world.app.up();
    always("a dead letter stays where it is", Duration::from_secs(1), || world.app.count() == 0);
}

#[test]
fn an_event_whose_turn_has_not_come_waits_for_its_predecessor_even_if_that_fails() {
    let world = world_with(&["routes.veedeo.order_by = '/task_id'"]);
    let numbered = |n: u32| format!(r#"{{"event":"e{n}","timestamp":"{}","task_id":"a","n":{n}}}"#, rfc3339(0));
    let stumbles = AtomicUsize::new(0);
    world.app.decide(move |seen| {
        let first = seen.body.ends_with(b"\"n\":1}");
        if first && stumbles.fetch_add(1, Ordering::SeqCst) == 0 {
            answer(500).after(Duration::from_millis(400))
        } else {
            accept()
        }
    });
    std::thread::scope(|scope| {
        let first = scope.spawn(|| world.veedeo(numbered(1)));
        eventually("the first is under way", DRAINED, || (world.app.count() == 1).then_some(()));
        let second = world.veedeo(numbered(2));
        assert_eq!(second.status, 200);
        assert_spooled(&first.join().unwrap());
    });
    world.gateway.wait_for_empty_spool(DRAINED);
    let accepted: Vec<u64> = (world.app.seen().iter().filter(|seen| seen.answered == Some(200)))
        .map(|seen| serde_json::from_slice::<serde_json::Value>(&seen.body).unwrap()["n"].as_u64().unwrap())
        .collect();
    assert_eq!(accepted, [1, 2]);
}

#[test]
fn events_of_one_order_value_reach_the_application_in_the_order_of_their_acknowledgement() {
    let mut world = world_without_app(&["routes.veedeo.order_by = '/task_id'"]);
    let numbered =
        |task: &str, n: u32| format!(r#"{{"event":"e{n}","timestamp":"{}","task_id":"{task}","n":{n}}}"#, rfc3339(0));
    for n in 0..4 {
        for task in ["a", "b", "c"] {
            assert_spooled(&world.veedeo(numbered(task, n)));
        }
    }
    let stumbles = AtomicUsize::new(0);
    world.app.decide(move |seen| {
        let first_of_a = seen.body.ends_with(b"\"task_id\":\"a\",\"n\":0}");
        let stumble = first_of_a && stumbles.fetch_add(1, Ordering::SeqCst) < 3;
        if stumble { answer(500) } else { accept() }
    });
    world.app.up();
    for task in ["a", "b"] {
        let reply = world.veedeo(numbered(task, 4));
        assert_eq!(reply.status, 200);
    }
    world.gateway.wait_for_empty_spool(DRAINED);
    let accepted: Vec<serde_json::Value> = world
        .app
        .seen()
        .iter()
        .filter(|seen| seen.answered == Some(200))
        .map(|seen| serde_json::from_slice(&seen.body).unwrap())
        .collect();
    for (task, last) in [("a", 5), ("b", 5), ("c", 4)] {
        let order: Vec<u64> =
            accepted.iter().filter(|e| e["task_id"] == task).map(|e| e["n"].as_u64().unwrap()).collect();
        assert_eq!(order, (0..last).collect::<Vec<_>>(), "of {task}");
    }
}

#[test]
fn deliveries_keep_to_the_configured_rate() {
    let mut world = world_without_app(&["delivery.rate = '10/s'"]);
    at_once(0..30, |n| assert_spooled(&world.veedeo(task(n))));
    world.app.up();
    world.gateway.wait_for_empty_spool(DRAINED);
    let seen = world.app.seen();
    let took = seen.last().unwrap().at - seen[0].at;
    assert_eq!(seen.len(), 30);
    assert!(took > Duration::from_millis(1500), "30 attempts at 10 a second took {took:?}");
}

#[test]
fn a_backlog_without_room_in_memory_begins_nothing_after_the_word_to_stop() {
    let lines =
        ["server.max_buffered_bytes = '16MiB'", "app.max_in_flight = 2", "routes.veedeo.max_body_bytes = '512KiB'"];
    let mut world = world_without_app(&lines);
    for n in 0..40 {
        assert_spooled(&world.veedeo(wide_task(n, 400 * 1024)));
    }
    world.app.always(accept().after(Duration::from_millis(300)));
    world.app.up();
    world.app.wait_for(4);
    let before = world.app.count();
    world.gateway.stop();
    let after = world.app.count();
    assert!(after <= before + 2, "{before} had begun, and {after} in the end");
    world.app.always(accept());
    world.gateway.restart();
    world.gateway.wait_for_empty_spool(DRAINED);
    let seen = world.app.seen();
    assert_eq!((seen.len(), seen.iter().filter(|seen| seen.flagged()).count()), (40, 0));
}

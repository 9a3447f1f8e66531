//! The sender has its answer in time, whatever the application does; and what the application does in the end counts.
//! P12, W2.

use std::time::{Duration, Instant};

use crate::outage::assert_spooled;
use crate::world::act::{Act, Gate, accept, answer};
use crate::world::app::{App, Seen};
use crate::world::clock::{always, eventually, pause};
use crate::world::events::task;
use crate::world::gateway::Gateway;
use crate::world::sender::Line;
use crate::world::setup::Setup;
use crate::world::sign::Provider;
use crate::world::{World, at_once, world_with};

/// Two seconds are left of these for everything.
const BUDGET: [&str; 2] = ["ack.budget = '3s'", "ack.reserve = '1s'"];
/// The reply leaves within 2 s; this is when the sender has it at the latest.
const DEADLINE: Duration = Duration::from_millis(2200);
const DRAINED: Duration = Duration::from_secs(15);

fn slow_world(act: Act) -> World {
    let world = world_with(&BUDGET);
    world.app.always(act);
    world
}

#[test]
fn a_slow_application_is_called_once_and_its_late_success_settles_the_event() {
    let world = slow_world(accept().after(Duration::from_millis(3500)));
    let reply = world.veedeo(task(1));
    assert_spooled(&reply);
    assert!(reply.took < DEADLINE, "took {:?}", reply.took);
    assert!(reply.took > Duration::from_secs(1), "the application had its chance: {:?}", reply.took);
    let pending = |world: &World| world.gateway.metrics().count("hookgate_spool_events", &[("state", "pending")]);
    assert_eq!(pending(&world), 1, "on disk while the attempt goes on");
    assert_eq!(world.veedeo(task(1)).json("duplicate"), true, "a retry meanwhile is a duplicate");
    world.gateway.wait_for_empty_spool(DRAINED);
    always("one attempt is all there is", Duration::from_secs(1), || world.app.count() == 1);
    let seen = world.app.only();
    assert_eq!((seen.attempt(), seen.flagged(), seen.answered), (1, false, Some(200)));
    assert!(world.gateway.rows(&["dlq", "list"]).is_empty());
}

#[test]
fn who_connects_as_the_gateway_starts_and_asks_later_has_all_of_his_time() {
    let app = App::start();
    let mut gateway = Gateway::prepared(Setup::new(&app.url()).with(&BUDGET));
    let address = gateway.address();
    let mut line = std::thread::scope(|scope| {
        let first = scope.spawn(|| eventually("it listens", Duration::from_secs(20), || Line::open(&address).ok()));
        gateway.restart();
        first.join().unwrap()
    });
    pause(Duration::from_millis(2300));
    let reply = line.send(&Provider::Veedeo.sign(task(1))).unwrap();
    assert_eq!(reply.text(), "{\"app\":200}");
    assert_eq!(gateway.metrics().count("hookgate_ack_budget_exceeded_total", &[("route", "veedeo")]), 0);
}

#[test]
fn a_late_failure_is_retried_and_a_late_rejection_is_a_dead_letter() {
    let world = world_with(&BUDGET);
    let late = Duration::from_millis(2500);
    world.app.first([answer(500).after(late), accept()]);
    assert_spooled(&world.veedeo(task("fails late")));
    world.gateway.wait_for_empty_spool(DRAINED);
    assert_eq!(world.app.seen().iter().map(Seen::attempt).collect::<Vec<_>>(), [1, 2]);
    assert!(!world.app.seen()[1].flagged(), "a 500 is no acceptance");

    world.app.first([answer(422).after(late)]);
    assert_spooled(&world.veedeo(task("rejects late")));
    world.gateway.wait_for_empty_spool(DRAINED);
    let letters = world.gateway.rows(&["dlq", "list"]);
    assert_eq!((letters.len(), letters[0]["reason"].as_str()), (1, Some("app_rejected")));
    assert_eq!(world.app.count(), 3);
}

#[test]
fn an_application_that_never_answers_costs_the_sender_nothing() {
    let world = world_with(&[BUDGET[0], BUDGET[1], "app.attempt_timeout = '3s'"]);
    world.app.first([Act::Never]);
    let reply = world.veedeo(task(1));
    assert_spooled(&reply);
    assert!(reply.took < DEADLINE, "took {:?}", reply.took);
    let seen = world.app.wait_for(2);
    assert_eq!((seen[1].attempt(), seen[1].flagged()), (2, true), "perhaps it was processed the first time");
    assert_eq!(seen[0].key(), seen[1].key());
    assert_eq!(seen[0].header("hookgate-event"), seen[1].header("hookgate-event"));
    assert!(seen[1].at - seen[0].at >= Duration::from_millis(2900), "attempt_timeout is the application's");
    world.gateway.wait_for_empty_spool(DRAINED);
    let timeouts = [("route", "veedeo"), ("outcome", "timeout")];
    assert_eq!(world.gateway.metrics().count("hookgate_attempts_total", &timeouts), 1);
}

#[test]
fn a_trickling_application_does_not_hold_the_sender() {
    let line = b"HTTP/1.1 200 Fine and slowly said, one byte after the other, all through the budget\r\nContent-Length: 0\r\n\r\n";
    let world = slow_world(Act::Trickle(line.to_vec(), Duration::from_millis(40)));
    let reply = world.veedeo(task(1));
    assert_spooled(&reply);
    assert!(reply.took < DEADLINE, "took {:?}", reply.took);
    world.gateway.wait_for_empty_spool(DRAINED);
    assert_eq!(world.app.count(), 1, "it was accepted in the end");
}

#[test]
fn a_status_line_in_time_with_a_body_that_never_ends_does_not_hold_the_sender() {
    let mut bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n".to_vec();
    bytes.extend([b'x'; 1000]);
    let world = slow_world(Act::Behind(Gate::closed(), Box::new(Act::HangUp)));
    world.app.first([Act::Trickle(bytes, Duration::from_millis(10))]);
    let reply = world.veedeo(task(1));
    assert!(reply.acked(), "{}", reply.status);
    assert!(reply.took < DEADLINE, "took {:?}", reply.took);
    always("the application is not asked again: it said 200", Duration::from_secs(3), || world.app.count() == 1);
}

#[test]
fn many_senders_at_once_all_have_their_answer_in_time() {
    let world = slow_world(accept().after(Duration::from_secs(4)));
    let replies = at_once(0..150, |n| world.veedeo(task(n)));
    for reply in &replies {
        assert_spooled(reply);
        assert!(reply.took < DEADLINE + Duration::from_millis(500), "took {:?}", reply.took);
    }
    world.app.always(accept());
    world.gateway.wait_for_empty_spool(Duration::from_secs(30));
    assert_eq!(world.app.count(), 150, "each once");
    let late = world.gateway.metrics().count("hookgate_ack_budget_exceeded_total", &[("route", "veedeo")]);
    assert_eq!(late, 0);
}

#[test]
fn the_budget_counts_from_the_first_byte_of_the_request() {
    let world = slow_world(Act::Never);
    let (head, body) = Provider::Veedeo.sign(task(1)).bytes();
    let mut line = Line::open(&world.gateway.address()).unwrap();
    let from = Instant::now();
    line.raw(&head[..20]).unwrap();
    pause(Duration::from_millis(500));
    line.raw(&head[20..]).unwrap();
    pause(Duration::from_millis(700));
    line.raw(&body).unwrap();
    let reply = line.read(Duration::from_secs(5)).unwrap();
    assert_spooled(&reply);
    assert!(from.elapsed() < DEADLINE, "took {:?}", from.elapsed());
}

#[test]
fn a_sender_that_hangs_up_takes_nothing_back() {
    let world = world_with(&BUDGET);
    let gate = Gate::closed();
    world.app.always(accept().behind(&gate));
    let request = Provider::Veedeo.sign(task(1));
    let (head, body) = request.bytes();
    let mut line = Line::open(&world.gateway.address()).unwrap();
    line.raw(&[head, body].concat()).unwrap();
    world.app.wait_for(1);
    drop(line);
    pause(Duration::from_millis(200));
    gate.open();
    eventually("the event is recorded", DRAINED, || (world.send(&request).json("duplicate") == true).then_some(()));
    assert_eq!(world.app.count(), 1);
}

#[test]
fn what_was_cut_in_the_middle_of_an_attempt_is_flagged_at_the_next_start() {
    let mut world = slow_world(Act::Never);
    assert_spooled(&world.veedeo(task(1)));
    world.gateway.kill9();
    world.app.always(accept());
    world.gateway.restart();
    world.gateway.wait_for_empty_spool(DRAINED);
    let seen = world.app.seen();
    assert_eq!(seen.len(), 2);
    assert!(seen[1].flagged(), "the first attempt may have been processed");
    assert_eq!((seen[1].attempt(), seen[0].key()), (2, seen[1].key()));
}

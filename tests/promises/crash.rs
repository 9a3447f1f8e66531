//! The gateway is killed between two instructions, again and again, under load. P1, P5, P18.
//!
//! Senders behave as senders do: they send an event until it is acknowledged. In the end the books are read: every
//! acknowledged event was accepted by the application, and an event that was sent again after an acceptance says so.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::books::{Books, DRAINED, read_the_books, sent_after_acceptance, torture_world, under_load};
use crate::world::act::{Act, accept, answer};
use crate::world::app::{App, Seen};
use crate::world::chance::{chance, crashes};
use crate::world::clock::{eventually, pause};
use crate::world::events::task;
use crate::world::gateway::Gateway;
use crate::world::sender::{Line, Reply, send};
use crate::world::setup::Setup;
use crate::world::sign::Provider;
use crate::world::{at_once, world, world_with};

/// `server.shutdown_grace`, unless a test says otherwise.
const GRACE: Duration = Duration::from_secs(25);

/// Kills and restarts as often as asked for, at moments of chance.
fn kill_again_and_again(gateway: &mut Gateway, books: &Books, kills: usize) {
    let mut chance = chance();
    for _ in 0..kills {
        pause(Duration::from_millis(chance.u64(50..600)));
        gateway.kill9();
        books.incident();
        pause(Duration::from_millis(chance.u64(0..50)));
        gateway.restart();
        let damage = gateway.metrics().count("hookgate_spool_errors_total", &[("op", "damage")]);
        assert_eq!(damage, 0, "a kill is no damage");
    }
}

fn kill_with_an_application_that(does: impl Fn(&Seen) -> Act + Send + Sync + 'static, lines: &[&str]) {
    let mut world = torture_world(lines);
    world.app.decide(does);
    let books = Books::default();
    under_load(&mut world, &books, |gateway, books| kill_again_and_again(gateway, books, crashes()));
    read_the_books(&world, &books);
}

#[test]
fn nothing_acknowledged_is_lost_when_the_gateway_is_killed_before_a_fast_application() {
    kill_with_an_application_that(|_| accept().after(Duration::from_millis(2)), &[]);
}

#[test]
fn nothing_acknowledged_is_lost_when_the_gateway_is_killed_before_a_slow_application() {
    // Half of its answers come within most lives of the gateway, which are 50 to 600 ms long.
    let slow = |seen: &Seen| accept().after(Duration::from_millis(u64::from(seen.sha256()[0]) * 2));
    kill_with_an_application_that(slow, &[]);
}

#[test]
fn nothing_acknowledged_is_lost_when_the_gateway_is_killed_before_a_failing_application() {
    let failing = |seen: &Seen| match (seen.sha256()[0] ^ seen.header("hookgate-event").as_bytes()[35]) % 4 {
        0 => answer(500),
        1 => Act::HangUp,
        2 => answer(503).after(Duration::from_millis(30)),
        _ => accept(),
    };
    kill_with_an_application_that(failing, &[]);
}

#[test]
fn nothing_acknowledged_is_lost_when_a_queueing_gateway_is_killed() {
    kill_with_an_application_that(|_| accept(), &["ack.mode = 'queue'"]);
}

#[test]
fn nothing_acknowledged_is_lost_when_the_gateway_is_killed_while_the_application_is_away() {
    let mut world = torture_world(&[]);
    world.app.down();
    let books = Books::default();
    let address = world.gateway.address();
    books.while_sending(&address, || kill_again_and_again(&mut world.gateway, &books, crashes()));
    world.app.up();
    world.gateway.wait_for_empty_spool(DRAINED);
    read_the_books(&world, &books);
}

#[test]
fn a_retry_after_a_crash_in_the_middle_of_the_first_sending_is_delivered_and_flagged() {
    let mut world = torture_world(&[]);
    world.app.first([Act::Never]);
    let request = Provider::Veedeo.sign(task("cut"));
    let address = world.gateway.address();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| send(&address, &request));
        world.app.wait_for(1);
        world.gateway.kill9();
        assert!(first.join().unwrap().is_err(), "the sender was told nothing");
    });
    world.gateway.restart();
    let retried = || world.gateway.try_send(&request).ok().filter(Reply::acked);
    let reply = eventually("the retry is taken", Duration::from_secs(20), retried);
    assert_eq!(reply.text(), "{\"app\":200}");
    let seen = world.app.seen();
    assert_eq!((seen.len(), seen[1].flagged()), (2, true));
}

#[test]
fn after_a_stop_in_peace_nothing_is_flagged() {
    let mut world = torture_world(&[]);
    world.veedeo(task("before"));
    world.gateway.stop();
    world.gateway.restart();
    world.veedeo(task("after"));
    assert_eq!(world.app.seen().iter().map(Seen::flagged).collect::<Vec<_>>(), [false, false]);
}

#[test]
fn after_sigterm_under_load_nothing_acknowledged_is_lost_and_nothing_is_sent_twice() {
    let mut world = torture_world(&[]);
    world.app.decide(|seen| accept().after(Duration::from_millis(u64::from(seen.sha256()[0]))));
    let books = Books::default();
    under_load(&mut world, &books, |gateway, _| {
        let mut chance = chance();
        for _ in 0..crashes() {
            pause(Duration::from_millis(chance.u64(100..700)));
            let began = Instant::now();
            gateway.stop();
            assert!(began.elapsed() < GRACE, "the exit took {:?}", began.elapsed());
            gateway.restart();
        }
    });
    read_the_books(&world, &books);
    assert_eq!(sent_after_acceptance(&world.app.seen()).len(), 0, "a stop in peace sends nothing twice");
}

#[test]
fn at_sigterm_every_open_request_is_answered_and_no_new_one_is_taken() {
    let mut world = world_with(&[]);
    world.app.always(accept().after(Duration::from_secs(2)));
    let address = world.gateway.address();
    let (replies, status) = std::thread::scope(|scope| {
        let senders = scope.spawn(|| at_once(0..20, |n| send(&address, &Provider::Veedeo.sign(task(n)))));
        world.app.wait_for(20);
        world.gateway.signal(Signal::TERM);
        eventually("the door is closed", Duration::from_secs(5), || (!world.gateway.listens()).then_some(()));
        let from = Instant::now();
        let status = world.gateway.wait_for_end(Duration::from_secs(30));
        assert!(from.elapsed() < Duration::from_secs(10), "nothing was left to wait for");
        (senders.join().unwrap(), status)
    });
    assert_eq!(status.code(), Some(0));
    for reply in replies {
        assert_eq!(reply.unwrap().text(), "{\"app\":200}");
    }
    assert_eq!(world.app.count(), 20);
}

#[test]
fn a_request_that_is_on_its_way_when_sigterm_comes_is_answered() {
    let mut world = world();
    let mut fresh = Line::open(&world.gateway.address()).unwrap();
    let mut used = Line::open(&world.gateway.address()).unwrap();
    used.send(&Provider::Veedeo.sign(task(1))).unwrap();
    world.gateway.signal(Signal::TERM);
    eventually("the door is closed", Duration::from_secs(5), || (!world.gateway.listens()).then_some(()));
    for (line, name) in [(&mut fresh, "fresh"), (&mut used, "used")] {
        let reply = line.send(&Provider::Veedeo.sign(task(name))).unwrap();
        assert_eq!(
            (reply.text().as_str(), reply.headers.get("connection")),
            ("{\"app\":200}", Some("close".to_owned())),
            "{name}"
        );
    }
    assert_eq!(world.gateway.wait_for_end(Duration::from_secs(5)).code(), Some(0));
}

#[test]
fn sigterm_waits_for_attempts_whose_senders_were_answered_already() {
    let mut world = world_with(&["ack.budget = '2s'", "ack.reserve = '1s'"]);
    world.app.always(accept().after(Duration::from_secs(3)));
    assert_eq!(world.veedeo(task(1)).text(), "{\"received\":true}");
    world.gateway.stop();
    assert_eq!(world.app.only().answered, Some(200));
    world.gateway.restart();
    world.gateway.wait_for_empty_spool(DRAINED);
    assert_eq!(world.app.count(), 1, "it was settled before the end");
}

#[test]
fn sigterm_ends_within_its_grace_and_what_was_cut_is_flagged_at_the_next_start() {
    let mut world = world_with(&["ack.budget = '2s'", "ack.reserve = '1s'", "server.shutdown_grace = '3s'"]);
    world.app.first([Act::Never]);
    assert_eq!(world.veedeo(task(1)).text(), "{\"received\":true}");
    let from = Instant::now();
    world.gateway.stop();
    assert!(from.elapsed() < Duration::from_secs(5), "took {:?}", from.elapsed());
    world.gateway.restart();
    world.gateway.wait_for_empty_spool(DRAINED);
    let seen = world.app.seen();
    assert_eq!((seen.len(), seen[1].flagged()), (2, true));
}

#[test]
fn an_idle_gateway_ends_at_once_on_either_signal() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut world = world_with(&[]);
        let mut idle = Line::open(&world.gateway.address()).unwrap();
        idle.send(&Provider::Veedeo.sign(task(1))).unwrap();
        let from = Instant::now();
        world.gateway.signal(signal);
        let status = world.gateway.wait_for_end(Duration::from_secs(30));
        assert!(from.elapsed() < Duration::from_secs(5), "{signal:?} took {:?}", from.elapsed());
        assert_eq!(status.code(), Some(0), "{signal:?}");
    }
}

#[test]
fn two_gateways_never_share_a_spool() {
    let first = world_with(&[]);
    let app = App::start();
    let spool = format!("spool.path = '{}'", first.gateway.spool_path().display());
    let mut second = Gateway::prepared(Setup::new(&app.url()).with(&[&spool]));
    second.launch();
    let status = second.wait_for_end(Duration::from_secs(20));
    assert!(!status.success(), "{status}");
    assert!(second.said().iter().any(|line| line.contains("spool") || line.contains("lock")), "{:?}", second.said());
    assert_eq!(first.veedeo(task(1)).status, 200, "the first one goes on");
}

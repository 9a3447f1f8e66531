//! Two gateways over one Redis that get copies of the same events, and one of them that pauses for too long. P5, P6.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::world::act::{Gate, accept};
use crate::world::app::{App, Seen};
use crate::world::at_once;
use crate::world::clock::{environment, eventually, pause};
use crate::world::events::task;
use crate::world::gateway::Gateway;
use crate::world::redis::Redis;
use crate::world::sender::{Reply, send};
use crate::world::setup::Setup;
use crate::world::sign::Provider;

struct Pair {
    gateways: [Gateway; 2],
    app: App,
    redis: Redis,
}

fn pair(lines: &[&str]) -> Pair {
    let (app, redis) = (App::start(), Redis::start());
    let url = format!("dedup.redis.url = '{}'", redis.url());
    let setup =
        Setup::new(&app.url()).with(&["dedup.store = 'redis'", &url, "dedup.redis.timeout = '800ms'"]).with(lines);
    Pair { gateways: [Gateway::start(setup.clone()), Gateway::start(setup)], app, redis }
}

impl Pair {
    fn send(&self, gateway: usize, body: Vec<u8>) -> Reply {
        self.gateways[gateway].send(&Provider::Veedeo.sign(body))
    }

    /// How often Redis has run a script.
    fn scripts_run(&self) -> u64 {
        let lines = self.redis.ask(&["INFO", "commandstats"]).unwrap();
        let text = lines.join("\n");
        let calls = |name: &str| {
            let (_, rest) = text.split_once(&format!("cmdstat_{name}:calls="))?;
            rest.split(',').next()?.parse::<u64>().ok()
        };
        calls("evalsha").unwrap_or(0) + calls("eval").unwrap_or(0)
    }
}

/// Everyday: 60 events, 20 copies of each; at the full size 1,000 and 50.
#[test]
fn copies_of_many_events_over_two_gateways_reach_the_application_once_each() {
    let (events, copies) = if environment("HOOKGATE_TORTURE").is_some() { (1000, 50) } else { (60, 20) };
    let pair = pair(&[]);
    pair.app.always(accept().after(Duration::from_millis(5)));
    at_once(0..2, |lane| {
        for n in (lane..events).step_by(2) {
            let statuses = at_once(0..copies, |copy| pair.send(copy % 2, task(n)).status);
            assert!(statuses.iter().all(|status| *status == 200), "event {n}: {statuses:?}");
        }
    });
    let seen = pair.app.seen();
    let mut keys: Vec<String> = seen.iter().map(Seen::key).collect();
    keys.sort();
    keys.dedup();
    assert_eq!((seen.len(), keys.len()), (events, events));
}

#[test]
fn a_gateway_that_pauses_longer_than_its_lease_is_taken_over_from_with_a_flag() {
    let pair = pair(&["ack.budget = '2s'", "ack.reserve = '1s'"]);
    let gate = Gate::closed();
    pair.app.first([accept().behind(&gate)]);
    let (body, address) = (task("paused"), pair.gateways[0].address());
    std::thread::scope(|scope| {
        let first = scope.spawn(|| send(&address, &Provider::Veedeo.sign(body.clone())));
        pair.app.wait_for(1);
        pair.gateways[0].signal(Signal::STOP);
        let held = pair.send(1, body.clone());
        assert_eq!((held.status, held.reason().as_str()), (503, "in_flight_elsewhere"));
        assert!(held.took < Duration::from_millis(1300), "took {:?}", held.took);
        let taken = eventually("the lease lapses", Duration::from_secs(20), || {
            Some(pair.send(1, body.clone())).filter(Reply::acked)
        });
        assert_eq!(taken.text(), "{\"app\":200}");
        gate.open();
        pair.gateways[0].signal(Signal::CONT);
        let late = first.join().unwrap().expect("an answer");
        assert!(late.acked() || late.status >= 500, "never a 4xx: {} {}", late.status, late.text());
    });
    pause(Duration::from_millis(500));
    let seen = pair.app.seen();
    assert_eq!((seen.len(), seen[0].flagged(), seen[1].flagged()), (2, false, true), "{seen:?}");
    for gateway in 0..2 {
        assert_eq!(pair.send(gateway, body.clone()).json("duplicate"), true);
    }
}

#[test]
fn an_attempt_that_outlasts_its_senders_time_keeps_its_event_from_the_other_gateway() {
    let pair = pair(&["ack.mode = 'sync'", "ack.budget = '2s'", "ack.reserve = '1s'"]);
    // The lease is 12 s long; an attempt may take 60.
    pair.app.first([accept().after(Duration::from_secs(16))]);
    let began = Instant::now();
    assert_eq!(pair.send(0, task(1)).status, 504);
    pause(Duration::from_secs(13).saturating_sub(began.elapsed()));
    let reply = pair.send(1, task(1));
    assert_eq!((reply.status, reply.reason().as_str()), (503, "in_flight_elsewhere"));
    eventually("it is known there that it was processed", Duration::from_secs(10), || {
        (pair.send(1, task(1)).status == 200).then_some(())
    });
    assert_eq!(pair.app.count(), 1);
}

#[test]
fn who_was_overtaken_before_it_had_sent_sends_flagged_as_well() {
    let pair = pair(&["ack.budget = '2s'", "ack.reserve = '1s'", "app.max_in_flight = 1"]);
    let gate = Gate::closed();
    pair.app.first([accept().behind(&gate)]);
    let (body, address) = (task("overtaken"), pair.gateways[0].address());
    std::thread::scope(|scope| {
        // Another event has the only slot there.
        let before = scope.spawn(|| send(&address, &Provider::Veedeo.sign(task("before"))));
        pair.app.wait_for(1);
        let claimed = pair.scripts_run();
        let first = scope.spawn(|| send(&address, &Provider::Veedeo.sign(body.clone())));
        eventually("it is claimed", Duration::from_secs(1), || (pair.scripts_run() > claimed).then_some(()));
        pair.gateways[0].signal(Signal::STOP);
        let taken = eventually("the lease lapses", Duration::from_secs(20), || {
            Some(pair.send(1, body.clone())).filter(Reply::acked)
        });
        assert_eq!(taken.text(), "{\"app\":200}");
        gate.open();
        pair.gateways[0].signal(Signal::CONT);
        for late in [before, first] {
            let late = late.join().unwrap().expect("an answer");
            assert!(late.acked() || late.status >= 500, "never a 4xx: {} {}", late.status, late.text());
        }
    });
    pair.gateways[0].wait_for_empty_spool(Duration::from_secs(12));
    let of_it: Vec<bool> = pair.app.seen().iter().filter(|seen| seen.body == body).map(Seen::flagged).collect();
    assert!(!of_it.is_empty() && of_it.iter().all(|flagged| *flagged), "{of_it:?}");
}

#[test]
fn what_waited_on_the_disk_of_a_gateway_that_was_away_is_flagged_if_another_has_delivered_it() {
    let mut pair = pair(&[]);
    pair.app.down();
    let (both, alone) = (task("both"), task("alone"));
    for body in [&both, &alone] {
        assert_eq!(pair.send(0, body.clone()).text(), "{\"received\":true}");
    }
    pair.gateways[0].stop();
    pair.app.up();
    // The other takes it for new: what was known of it is lost.
    pair.redis.ask(&["FLUSHALL"]).unwrap();
    assert_eq!(pair.send(1, both.clone()).text(), "{\"app\":200}");
    pair.gateways[0].restart();
    pair.gateways[0].wait_for_empty_spool(Duration::from_secs(12));
    let seen = pair.app.seen();
    let flags = |body: &[u8]| seen.iter().filter(|seen| seen.body == body).map(Seen::flagged).collect::<Vec<_>>();
    assert_eq!(flags(&both), [false, true]);
    assert_eq!(flags(&alone), [false], "nobody else has had it");
    assert_eq!(pair.send(1, alone).json("duplicate"), true, "and it was marked again before it was sent");
}

#[test]
fn waiting_for_another_gateway_costs_redis_a_few_questions_a_second_for_each_event() {
    const EVENTS: usize = 40;
    let pair = pair(&[]);
    let gate = Gate::closed();
    pair.app.always(accept().behind(&gate));
    let waiting = Duration::from_secs(2);
    let asked = std::thread::scope(|scope| {
        let pair = &pair;
        let firsts = scope.spawn(move || at_once(0..EVENTS, |n| pair.send(0, task(n))));
        pair.app.wait_for(EVENTS);
        // Three copies of each: those of one event at one gateway ask as one.
        let copies = scope.spawn(move || at_once(0..3 * EVENTS, |n| pair.send(1, task(n % EVENTS))));
        pause(Duration::from_secs(1));
        let (before, since) = (pair.scripts_run(), Instant::now());
        pause(waiting);
        let asked = u32::try_from(pair.scripts_run() - before).unwrap();
        let asked = f64::from(asked) / since.elapsed().as_secs_f64() / f64::from(u32::try_from(EVENTS).unwrap());
        gate.open();
        for reply in firsts.join().unwrap().iter().chain(&copies.join().unwrap()) {
            assert_eq!(reply.status, 200, "{}", reply.text());
        }
        asked
    });
    eprintln!("{asked:.1} questions a second for each event that waits");
    assert!((0.5..5.0).contains(&asked), "{asked:.1} questions a second for each event that waits");
    assert_eq!(pair.app.count(), EVENTS);
}

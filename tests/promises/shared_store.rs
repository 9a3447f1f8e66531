//! Two gateways that share one Redis, and a Redis that dies, hangs and comes back. P2, P5, P6, P12.

use std::time::{Duration, Instant};

use crate::world::act::{Act, Gate, accept};
use crate::world::app::App;
use crate::world::at_once;
use crate::world::clock::{eventually, now_unix, pause, rfc3339};
use crate::world::events::{task, task_of};
use crate::world::gateway::Gateway;
use crate::world::redis::Redis;
use crate::world::sender::{Reply, send};
use crate::world::setup::Setup;
use crate::world::sign::Provider;

const BACK: Duration = Duration::from_secs(12);
/// A healthy Redis is never late, however busy the machine that runs these tests.
const PATIENT: &str = "dedup.redis.timeout = '800ms'";
/// What a gateway allows Redis in real life.
const QUICK: &str = "dedup.redis.timeout = '50ms'";

/// Two gateways with a spool of their own each, one Redis, one application.
struct Pair {
    gateways: [Gateway; 2],
    app: App,
    redis: Redis,
}

fn pair(lines: &[&str]) -> Pair {
    let (app, redis) = (App::start(), Redis::start());
    let url = format!("dedup.redis.url = '{}'", redis.url());
    let store = ["dedup.store = 'redis'", &url, PATIENT];
    let setup = Setup::new(&app.url()).with(&store).with(lines);
    Pair { gateways: [Gateway::start(setup.clone()), Gateway::start(setup)], app, redis }
}

impl Pair {
    fn send(&self, gateway: usize, body: Vec<u8>) -> Reply {
        self.gateways[gateway].send(&Provider::Veedeo.sign(body))
    }

    fn store_up(&self, gateway: usize) -> Option<f64> {
        self.gateways[gateway].metrics().find("hookgate_dedup_store_up", &[("store", "redis")])
    }

    fn wait_until_up(&self) {
        for gateway in 0..2 {
            eventually("Redis is seen", BACK, || (self.store_up(gateway) == Some(1.0)).then_some(()));
        }
    }
}

#[test]
fn copies_to_two_gateways_reach_the_application_once() {
    let pair = pair(&[]);
    for n in 0..20 {
        let body = task(n);
        let replies = at_once(0..10, |copy| pair.send(copy % 2, body.clone()));
        assert!(replies.iter().all(Reply::acked), "{:?}", replies.iter().map(|r| r.status).collect::<Vec<_>>());
    }
    assert_eq!(pair.app.count(), 20);
    for n in 0..20 {
        for gateway in 0..2 {
            assert_eq!(pair.send(gateway, task(n)).status, 200);
        }
    }
}

#[test]
fn what_one_gateway_accepted_the_other_knows() {
    let pair = pair(&[]);
    let body = task(1);
    assert_eq!(pair.send(0, body.clone()).text(), "{\"app\":200}");
    assert_eq!(pair.send(1, body).json("duplicate"), true);
    assert_eq!(pair.app.count(), 1);
    let checks = |gateway: usize, result| {
        pair.gateways[gateway].metrics().count("hookgate_dedup_checks_total", &[("store", "redis"), ("result", result)])
    };
    assert_eq!((checks(0, "new"), checks(1, "duplicate")), (1, 1));
}

#[test]
fn what_one_gateway_keeps_on_disk_is_a_duplicate_at_the_other() {
    let mut pair = pair(&[]);
    pair.app.down();
    let body = task(1);
    assert_eq!(pair.send(0, body.clone()).text(), "{\"received\":true}");
    assert_eq!(pair.send(1, body).json("duplicate"), true);
    pair.app.up();
    pair.gateways[0].wait_for_empty_spool(BACK);
    assert_eq!(pair.app.count(), 1);
}

#[test]
fn a_copy_waits_at_the_other_gateway_until_the_first_is_settled() {
    let pair = pair(&[]);
    let gate = Gate::closed();
    pair.app.always(accept().behind(&gate));
    let body = task(1);
    let replies = std::thread::scope(|scope| {
        scope.spawn(|| {
            pair.app.wait_for(1);
            pause(Duration::from_secs(1));
            gate.open();
        });
        at_once(0..6, |copy| pair.send(copy % 2, body.clone()))
    });
    assert!(replies.iter().all(Reply::acked), "{:?}", replies.iter().map(|r| r.status).collect::<Vec<_>>());
    assert_eq!(pair.app.count(), 1);
}

#[test]
fn a_stop_waits_until_redis_has_heard_of_every_mark() {
    let mut pair = pair(&[]);
    pair.wait_until_up();
    let gate = Gate::closed();
    pair.app.always(accept().behind(&gate));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| pair.send(0, task(1)));
        pair.app.wait_for(1);
        // The claim is there. What is asked now is answered half a second later.
        assert_eq!(pair.redis.ask(&["CLIENT", "PAUSE", "500"]).unwrap(), ["+OK"]);
        gate.open();
        assert_eq!(first.join().unwrap().text(), "{\"app\":200}");
    });
    pair.gateways[0].stop();
    let keys = pair.redis.keys();
    let values: Vec<_> = keys.iter().map(|key| pair.redis.ask(&["GET", key]).unwrap()[1].clone()).collect();
    assert!(values.len() == 1 && values[0].starts_with("m|"), "{values:?}");
    assert_eq!(pair.send(1, task(1)).json("duplicate"), true);
}

#[test]
fn a_copy_at_the_other_gateway_is_told_to_come_back_if_the_first_takes_too_long() {
    let pair = pair(&[
        "ack.mode = 'sync'",
        "ack.budget = '30s'",
        "routes.veedeo.ack.budget = '3s'",
        "routes.veedeo.ack.reserve = '1s'",
    ]);
    let gate = Gate::closed();
    pair.app.always(accept().behind(&gate));
    let body = task(1);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| pair.send(0, body.clone()));
        pair.app.wait_for(1);
        pause(Duration::from_secs(1));
        let second = pair.send(1, body.clone());
        assert!(second.took < Duration::from_millis(2300), "took {:?}", second.took);
        assert!(
            [503, 504].contains(&second.status),
            "never a bare 200, never a 4xx: {} {}",
            second.status,
            second.text()
        );
        gate.open();
        assert_eq!(first.join().unwrap().status, 504);
    });
}

#[test]
fn the_claim_of_a_gateway_that_died_lapses_and_the_retry_is_flagged() {
    let mut pair = pair(&["ack.budget = '2s'", "ack.reserve = '1s'"]);
    pair.app.first([Act::Never]);
    let body = task(1);
    let address = pair.gateways[0].address();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| send(&address, &Provider::Veedeo.sign(body.clone())));
        pair.app.wait_for(1);
        pair.gateways[0].kill9();
        assert!(first.join().unwrap().is_err(), "the sender was told nothing");
    });
    let held = pair.send(1, body.clone());
    assert_eq!((held.status, held.reason().as_str()), (503, "in_flight_elsewhere"));
    assert!(held.took < Duration::from_millis(1300), "took {:?}", held.took);
    // The lease is the budget and ten seconds more.
    let reply = eventually("the retry is taken", Duration::from_secs(16), || {
        Some(pair.send(1, body.clone())).filter(Reply::acked)
    });
    assert_eq!(reply.text(), "{\"app\":200}");
    let seen = pair.app.seen();
    assert_eq!((seen.len(), seen[1].flagged()), (2, true));
    assert_eq!(seen[0].key(), seen[1].key());
}

#[test]
fn redis_dies_midway_and_no_event_is_lost_refused_or_late() {
    let mut pair = pair(&[QUICK]);
    let books: Vec<(String, Reply)> = std::thread::scope(|scope| {
        let gateways = &pair.gateways;
        let senders: Vec<_> = (0..6usize)
            .map(|sender| {
                scope.spawn(move || {
                    let until = Instant::now() + Duration::from_secs(3);
                    let mut books = Vec::new();
                    for n in 0.. {
                        if Instant::now() > until {
                            break;
                        }
                        let name = format!("{sender}-{n}");
                        let reply = gateways[sender % 2].send(&Provider::Veedeo.sign(task(&name)));
                        books.push((name, reply));
                        pause(Duration::from_millis(5));
                    }
                    books
                })
            })
            .collect();
        pause(Duration::from_secs(1));
        pair.redis.kill();
        senders.into_iter().flat_map(|sender| sender.join().unwrap()).collect()
    });
    assert!(books.len() > 100, "only {} events", books.len());
    for (name, reply) in &books {
        assert!(reply.acked(), "{name}: {} {}", reply.status, reply.text());
        assert!(reply.took < Duration::from_secs(2), "{name} took {:?}", reply.took);
    }
    let mut delivered: Vec<String> = pair.app.seen().iter().map(|seen| task_of(&seen.body)).collect();
    delivered.sort();
    delivered.dedup();
    assert_eq!((delivered.len(), pair.app.count()), (books.len(), books.len()), "each event once");
    assert_eq!(pair.send(0, task("local")).text(), "{\"app\":200}");
    assert_eq!(pair.send(0, task("local")).json("duplicate"), true, "the local table decides");
    eventually("the gauge tells", BACK, || (pair.store_up(0) == Some(0.0)).then_some(()));
    pair.redis.restart();
    pair.wait_until_up();
    let after = task("after");
    assert_eq!(pair.send(0, after.clone()).text(), "{\"app\":200}");
    assert_eq!(pair.send(1, after).json("duplicate"), true, "they share again");
}

#[test]
fn what_was_accepted_while_redis_was_away_is_still_a_duplicate_when_it_is_back() {
    let mut pair = pair(&[]);
    pair.redis.kill();
    assert_eq!(pair.send(0, task(1)).text(), "{\"app\":200}");
    pair.redis.restart();
    pair.wait_until_up();
    assert_eq!(pair.send(0, task(1)).json("duplicate"), true);
    assert_eq!(pair.app.count(), 1);
}

#[test]
fn a_redis_that_hangs_costs_each_request_next_to_nothing() {
    let pair = pair(&[QUICK]);
    assert_eq!(pair.send(0, task("warm")).status, 200);
    pair.redis.freeze();
    let replies = at_once(0..20, |n| pair.send(0, task(n)));
    for reply in &replies {
        assert_eq!(reply.text(), "{\"app\":200}");
        assert!(reply.took < Duration::from_secs(1), "took {:?}", reply.took);
    }
    pair.redis.thaw();
    eventually("Redis is seen again", BACK, || (pair.store_up(0) == Some(1.0)).then_some(()));
    assert_eq!(pair.app.count(), 21);
}

#[test]
fn a_gateway_starts_and_is_ready_without_redis() {
    let redis = Redis::start();
    let url = redis.url();
    drop(redis);
    let app = App::start();
    let lines = ["dedup.store = 'redis'", &format!("dedup.redis.url = '{url}'")];
    let gateway = Gateway::start(Setup::new(&app.url()).with(&lines));
    assert_eq!(gateway.telemetry("/readyz").unwrap().status, 200);
    assert_eq!(gateway.send(&Provider::Veedeo.sign(task(1))).text(), "{\"app\":200}");
    assert_eq!(gateway.send(&Provider::Veedeo.sign(task(1))).json("duplicate"), true);
}

#[test]
fn where_the_operator_wants_it_a_missing_store_is_a_503() {
    let mut pair = pair(&["dedup.on_store_down = 'refuse'"]);
    assert_eq!(pair.send(0, task("before")).status, 200);
    pair.redis.kill();
    let reply = pair.send(0, task("while"));
    assert_eq!((reply.status, reply.reason().as_str()), (503, "store_down"));
    assert!(reply.retry_after().is_some());
    pair.redis.restart();
    pair.wait_until_up();
    assert_eq!(pair.send(0, task("while")).text(), "{\"app\":200}");
    assert_eq!(pair.app.count(), 2);
}

#[test]
fn where_the_operator_wants_it_events_are_taken_without_a_store() {
    let mut pair = pair(&["dedup.on_store_down = 'accept'"]);
    pair.redis.kill();
    for n in 0..3 {
        assert_eq!(pair.send(0, task(n)).text(), "{\"app\":200}");
    }
}

#[test]
fn only_names_of_ours_stand_in_redis_and_every_one_ends() {
    let pair = pair(&["dedup.redis.key_prefix = 'mine'"]);
    let evil = r#"{"event":"a\r\nFLUSHALL\r\n","timestamp":"{now}","task_id":"evil:*"}"#.replace("{now}", &rfc3339(0));
    assert_eq!(pair.send(0, evil.into_bytes()).status, 200);
    let forged = Provider::Veedeo.sign_at(task("forged"), now_unix(), "a guess");
    assert_eq!(pair.gateways[0].send(&forged).status, 401);
    let keys = eventually("a key", BACK, || Some(pair.redis.keys()).filter(|keys| !keys.is_empty()));
    assert_eq!(keys.len(), 1, "{keys:?}");
    assert!(keys[0].starts_with("mine:") && !keys[0].contains("evil") && !keys[0].contains("FLUSHALL"), "{keys:?}");
    eventually("the claim has become a mark that ends with the ttl", BACK, || {
        let left = pair.redis.ask(&["PTTL", &keys[0]]).ok()?;
        let left: i64 = left[0].trim_start_matches(':').parse().ok()?;
        (23 * 3_600_000..=24 * 3_600_000).contains(&left).then_some(())
    });
}

//! Order, and what holds attempts back: events of one value in the order of their acknowledgement through every fault,
//! nobody delayed by another's value or by another's poison, and no more attempts than the configuration allows. P5,
//! P15, P17.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::outage::assert_spooled;
use crate::world::act::{Act, Gate, accept, answer};
use crate::world::app::Seen;
use crate::world::chance::{chance, crashes};
use crate::world::clock::{eventually, pause, rfc3339};
use crate::world::sender::{Line, Request, send};
use crate::world::sign::Provider;
use crate::world::{World, at_once, world_with, world_without_app};

const ORDERED: &str = "routes.veedeo.order_by = '/task_id'";
const DRAINED: Duration = Duration::from_secs(60);

/// The `n`-th event of `value`.
fn numbered(value: impl std::fmt::Display, n: usize) -> Vec<u8> {
    // One moment for all, so that a copy is a copy.
    static MOMENT: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let moment = MOMENT.get_or_init(|| rfc3339(0));
    format!(r#"{{"event":"e{n}","timestamp":"{moment}","task_id":"{value}","n":{n}}}"#).into_bytes()
}

fn request(value: impl std::fmt::Display, n: usize) -> Request {
    Provider::Veedeo.sign(numbered(value, n))
}

fn name_of(body: &[u8]) -> (String, usize) {
    let body: serde_json::Value = serde_json::from_slice(body).expect("an event of these tests");
    (body["task_id"].as_str().unwrap().to_owned(), usize::try_from(body["n"].as_u64().unwrap()).unwrap())
}

/// The numbers of a value's events in the order in which the application first accepted each.
fn accepted(seen: &[Seen], value: &str) -> Vec<usize> {
    let mut met = HashSet::new();
    let all = seen.iter().filter(|seen| seen.answered == Some(200)).map(|seen| name_of(&seen.body));
    all.filter(|(of, n)| of == value && met.insert(*n)).map(|(_, n)| n).collect()
}

/// What a sender knows of one event.
struct Acked {
    first_sent: Instant,
    acked: Instant,
}

type Diary = Mutex<HashMap<(String, usize), Acked>>;

/// Sends until it is acknowledged, as a sender does.
fn insist(address: &str, value: &str, n: usize, diary: &Diary) {
    let first_sent = Instant::now();
    loop {
        match send(address, &request(value, n)) {
            Ok(reply) if reply.acked() => break,
            Ok(reply) => assert!(reply.status >= 500, "{value} {n}: {} {}", reply.status, reply.text()),
            Err(_) => {}
        }
        pause(Duration::from_millis(30));
    }
    let entry = Acked { first_sent, acked: Instant::now() };
    diary.lock().unwrap().insert((value.to_owned(), n), entry);
}

/// Wherever one event was acknowledged before the next one of its value was sent, the application accepted them so.
fn assert_order(seen: &[Seen], diary: &HashMap<(String, usize), Acked>) {
    let values: HashSet<&String> = diary.keys().map(|(value, _)| value).collect();
    let mut compared = 0;
    for value in values {
        let order = accepted(seen, value);
        let place = |n: usize| order.iter().position(|m| *m == n).unwrap_or_else(|| panic!("{value} {n} was lost"));
        let of: Vec<(usize, &Acked)> =
            diary.iter().filter(|((v, _), _)| v == value).map(|((_, n), a)| (*n, a)).collect();
        for (earlier, one) in &of {
            for (later, other) in of.iter().filter(|(_, other)| one.acked < other.first_sent) {
                compared += 1;
                assert!(place(*earlier) < place(*later), "{value}: {later} before {earlier} in {order:?}");
                assert!(one.acked < other.acked);
            }
        }
    }
    assert!(compared > diary.len(), "only {compared} pairs of {} events could be compared", diary.len());
}

/// Fails, hangs up, dawdles or accepts, as a hash of seed, event and number of the sending says.
fn moody(seed: u64, upset: Arc<AtomicBool>) -> impl Fn(&Seen) -> Act + Send + Sync {
    let sendings = AtomicUsize::new(0);
    move |seen| {
        let n = u64::try_from(sendings.fetch_add(1, Ordering::SeqCst)).unwrap();
        let mut dice = fastrand::Rng::with_seed(seed ^ u64::from(seen.sha256()[3]) << 32 ^ n);
        if !upset.load(Ordering::SeqCst) {
            return accept();
        }
        match dice.u32(0..20) {
            0..=1 => answer(500),
            2 => Act::HangUp,
            3 => answer(500).after(Duration::from_millis(dice.u64(0..300))),
            4 => accept().after(Duration::from_millis(dice.u64(700..1500))),
            5 => answer(503).after(Duration::from_millis(900)),
            6..=8 => accept().after(Duration::from_millis(dice.u64(0..200))),
            _ => accept(),
        }
    }
}

#[test]
fn events_of_many_values_keep_their_order_through_kills_outages_and_every_mood_of_the_application() {
    const VALUES: usize = 40;
    const EVENTS: usize = 300;
    let kills = crashes();
    let lines =
        [ORDERED, "ack.budget = '2s'", "ack.reserve = '1s'", "app.attempt_timeout = '2s'", "app.max_in_flight = 8"];
    let mut world = world_with(&lines);
    let mut dice = chance();
    let upset = Arc::new(AtomicBool::new(true));
    world.app.decide(moody(dice.u64(..), upset.clone()));
    let diary = Diary::default();
    let address = world.gateway.address();
    let left = AtomicUsize::new(VALUES);
    std::thread::scope(|scope| {
        for value in 0..VALUES {
            let (diary, address, left, mut dice) = (&diary, &address, &left, dice.fork());
            scope.spawn(move || {
                let name = format!("v{value}");
                for n in 0..EVENTS.div_ceil(VALUES) {
                    match dice.u32(0..8) {
                        0 => drop(at_once(0..2, |_| insist(address, &name, n, diary))),
                        1 => drop(at_once([n, n + 1000], |n| insist(address, &name, n, diary))),
                        _ => insist(address, &name, n, diary),
                    }
                }
                left.fetch_sub(1, Ordering::SeqCst);
            });
        }
        for kill in 0..kills {
            pause(Duration::from_millis(dice.u64(200..900)));
            world.gateway.kill9();
            if kill % 2 == 0 {
                world.app.down();
            }
            world.gateway.restart();
            pause(Duration::from_millis(dice.u64(0..400)));
            if kill % 2 == 0 {
                world.app.up();
            }
        }
        while left.load(Ordering::SeqCst) > 0 {
            pause(Duration::from_millis(50));
        }
    });
    upset.store(false, Ordering::SeqCst);
    world.gateway.wait_for_empty_spool(DRAINED);
    let (seen, diary) = (world.app.seen(), diary.into_inner().unwrap());
    assert!(diary.len() >= EVENTS, "{} events", diary.len());
    eprintln!("{} events, {} sendings, {kills} kills", diary.len(), seen.len());
    assert_order(&seen, &diary);
}

/// The largest number of requests that the application was at together, if each took as long as `takes` says.
fn most_at_once<'a>(seen: impl Iterator<Item = &'a Seen>, takes: Duration) -> usize {
    let begun: Vec<Instant> = seen.map(|seen| seen.at).collect();
    let at = |moment: Instant| begun.iter().filter(|began| **began <= moment && moment < **began + takes).count();
    begun.iter().map(|moment| at(*moment)).max().unwrap_or(0)
}

#[test]
fn a_slow_value_delays_no_other_though_the_application_takes_two_at_a_time() {
    let slow = Duration::from_secs(1);
    let mut world = world_with(&[ORDERED, "app.max_in_flight = 2", "ack.budget = '4s'", "ack.reserve = '1s'"]);
    let act = move |seen: &Seen| if name_of(&seen.body).0 == "slow" { accept().after(slow) } else { accept() };
    world.app.decide(act);
    std::thread::scope(|scope| {
        let crowd = scope.spawn(|| at_once(0..6, |n| world.send(&request("slow", n))));
        eventually("the slow value is under way", DRAINED, || (world.app.count() > 0).then_some(()));
        for n in 0..20 {
            let reply = world.send(&request(format!("quick{}", n % 5), n));
            assert_eq!(reply.text(), "{\"app\":200}", "no disk is needed");
            assert!(reply.took < Duration::from_millis(900), "{n} took {:?}", reply.took);
        }
        crowd.join().unwrap().iter().for_each(|reply| assert!(reply.acked()));
    });
    world.gateway.wait_for_empty_spool(DRAINED);
    // The same from the disk.
    world.app.down();
    for n in 10..16 {
        assert_spooled(&world.send(&request("slow", n)));
    }
    for n in 0..30 {
        assert_spooled(&world.send(&request(format!("later{}", n % 5), n)));
    }
    let before = world.app.count();
    let from = Instant::now();
    world.app.up();
    world.gateway.wait_for_empty_spool(DRAINED);
    let seen = world.app.seen();
    let quick = seen[before..].iter().filter(|seen| name_of(&seen.body).0 != "slow");
    let last = quick.map(|seen| seen.at).max().unwrap();
    assert!(last - from < Duration::from_secs(3), "they waited {:?} for another value", last - from);
    assert!(from.elapsed() > 5 * slow, "the slow ones came one after the other");
    assert_eq!(accepted(&seen, "slow")[6..], (10..16).collect::<Vec<_>>());
    let slow_ones = || seen.iter().filter(|seen| name_of(&seen.body).0 == "slow");
    assert_eq!(most_at_once(slow_ones(), slow.saturating_sub(Duration::from_millis(50))), 1);
}

#[test]
fn a_dead_letter_at_the_head_lets_its_successors_go_in_their_order() {
    let world = world_with(&[ORDERED, "delivery.retries = ['300ms', '300ms']"]);
    world.app.decide(|seen| if name_of(&seen.body).1 == 0 { answer(500) } else { accept() });
    for n in 0..5 {
        assert_spooled(&world.send(&request("a", n)));
    }
    assert_eq!(world.send(&request("b", 7)).text(), "{\"app\":200}", "another value does not wait");
    let head = || world.app.seen().iter().filter(|seen| name_of(&seen.body) == ("a".into(), 0)).count();
    world.gateway.wait_for_empty_spool(DRAINED);
    assert_eq!(head(), 3, "all its attempts were made before the others went on");
    let seen = world.app.seen();
    assert_eq!(accepted(&seen, "a"), [1, 2, 3, 4]);
    let last_try = seen.iter().rposition(|seen| name_of(&seen.body).1 == 0).unwrap();
    let next = seen.iter().position(|seen| name_of(&seen.body) == ("a".into(), 1)).unwrap();
    assert!(last_try < next, "none of them before it had become a dead letter");
    assert_eq!(world.gateway.rows(&["dlq", "list"]).len(), 1);
}

#[test]
fn a_replayed_event_takes_its_old_place_before_what_waits() {
    let mut world = world_with(&[ORDERED]);
    world.app.first([answer(422)]);
    assert_eq!(world.send(&request("a", 0)).status, 422);
    world.app.down();
    for n in 1..4 {
        assert_spooled(&world.send(&request("a", n)));
    }
    let retried = world.gateway.ask(&["dlq", "retry", "--all", "--yes"]);
    assert_eq!(retried.code, Some(0), "{retried:?}");
    world.app.up();
    world.gateway.wait_for_empty_spool(DRAINED);
    let seen = world.app.seen();
    assert_eq!(accepted(&seen, "a"), [0, 1, 2, 3]);
    let replayed: Vec<bool> = seen[1..].iter().map(|seen| seen.header("hookgate-replay") == "true").collect();
    assert_eq!(replayed, [true, false, false, false]);
}

#[test]
fn the_next_waits_for_an_attempt_that_outlasts_its_sender() {
    for fails in [false, true] {
        let world = world_with(&[ORDERED, "ack.budget = '3s'", "ack.reserve = '1s'"]);
        let late = if fails { answer(500) } else { accept() };
        world.app.first([late.after(Duration::from_secs(3))]);
        assert_spooled(&world.send(&request("a", 0)));
        for n in 1..4 {
            assert_spooled(&world.send(&request("a", n)));
        }
        assert_eq!(world.app.count(), 1, "the first is still at the application");
        world.gateway.wait_for_empty_spool(DRAINED);
        assert_eq!(accepted(&world.app.seen(), "a"), [0, 1, 2, 3]);
    }
}

#[test]
fn who_runs_out_of_time_behind_another_comes_to_disk_behind_him() {
    let world = world_with(&[ORDERED, "ack.budget = '6s'", "ack.reserve = '1s'"]);
    let takes = Duration::from_secs(3);
    world.app.always(accept().after(takes));
    let address = world.gateway.address();
    let (head, body) = request("a", 2).bytes();
    let mut slow_sender = Line::open(&address).unwrap();
    slow_sender.raw(&head[..20]).unwrap();
    pause(Duration::from_millis(2500));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| (world.send(&request("a", 1)), Instant::now()));
        world.app.wait_for(1);
        slow_sender.raw(&[&head[20..], &body].concat()).unwrap();
        assert_spooled(&slow_sender.read(Duration::from_secs(10)).unwrap());
        let second_acked = Instant::now();
        let (reply, first_acked) = first.join().unwrap();
        assert_spooled(&reply);
        assert!(first_acked < second_acked + Duration::from_millis(100), "the first was acknowledged long after");
    });
    assert_eq!(world.app.count(), 1, "the second waits on disk");
    world.gateway.wait_for_empty_spool(DRAINED);
    let seen = world.app.seen();
    assert_eq!(accepted(&seen, "a"), [1, 2]);
    assert!(seen[1].at - seen[0].at >= takes, "one after the other");
}

#[test]
fn one_poison_event_does_not_make_the_application_count_as_down() {
    let lines = [
        "delivery.retries = { first = '20ms', factor = 1.0, max = '20ms', jitter = false, attempts = 100000 }",
        "delivery.breaker = { failures = 5, probe_every = '5s' }",
    ];
    for poison in [answer(500), Act::HangUp] {
        let world = world_with(&lines);
        world.app.decide(move |seen| if name_of(&seen.body).0 == "poison" { poison.clone() } else { accept() });
        assert_spooled(&world.send(&request("poison", 0)));
        for n in 0..8 {
            pause(Duration::from_millis(400));
            let reply = world.send(&request("good", n));
            assert_eq!(reply.text(), "{\"app\":200}", "event {n} came while only the poison had failed");
        }
    }
}

#[test]
fn poison_events_in_number_delay_the_others_by_a_few_probes_at_most() {
    let probe_every = Duration::from_secs(1);
    let lines = [
        "delivery.retries = { first = '100ms', factor = 1.0, max = '100ms', jitter = false, attempts = 100000 }",
        "delivery.breaker = { failures = 5, probe_every = '1s' }",
        "app.max_in_flight = 4",
    ];
    let world = world_with(&lines);
    world.app.decide(|seen| match name_of(&seen.body) {
        (value, n) if value == "poison" && n % 2 == 0 => answer(500),
        (value, _) if value == "poison" => Act::HangUp,
        _ => accept(),
    });
    at_once(0..8, |n| assert_spooled(&world.send(&request("poison", n))));
    let mut sent = HashMap::new();
    for n in 0..30 {
        sent.insert(n, Instant::now());
        let reply = world.send(&request("good", n));
        assert!(reply.acked() && reply.took < Duration::from_secs(1), "{} after {:?}", reply.status, reply.took);
        pause(Duration::from_millis(100));
    }
    let there = || Some(accepted(&world.app.seen(), "good")).filter(|all| all.len() == 30);
    eventually("all good events are there", 3 * probe_every, there);
    for seen in world.app.seen().iter().filter(|seen| seen.answered == Some(200)) {
        let waited = seen.at - sent[&name_of(&seen.body).1];
        assert!(waited < 4 * probe_every, "{:?} waited {waited:?}", name_of(&seen.body));
    }
}

#[test]
fn what_never_failed_is_asked_before_a_backlog_that_always_fails() {
    const POISON: usize = 300;
    let lines = [
        "ack.mode = 'queue'",
        "delivery.retries = { first = '10ms', factor = 1.0, max = '10ms', jitter = false, attempts = 100000 }",
        "delivery.breaker = { failures = 100000, probe_every = '1s' }",
        "app.max_in_flight = 2",
    ];
    let world = world_with(&lines);
    let is_poison = |seen: &Seen| name_of(&seen.body).0 == "poison";
    world.app.decide(move |seen| if is_poison(seen) { answer(500).after(Duration::from_millis(10)) } else { accept() });
    at_once(0..10, |sender| {
        for n in 0..POISON / 10 {
            assert_spooled(&world.send(&request("poison", sender * POISON / 10 + n)));
        }
    });
    let all_failed = || {
        let seen = world.app.seen();
        let tried: HashSet<usize> = seen.iter().filter(|seen| seen.attempt() > 1).map(|s| name_of(&s.body).1).collect();
        (tried.len() == POISON).then_some(())
    };
    eventually("every poison event has failed", DRAINED, all_failed);
    for n in 0..5 {
        let before = world.app.count();
        assert_spooled(&world.send(&request("good", n)));
        let there = || world.app.seen().iter().position(|seen| name_of(&seen.body) == ("good".into(), n));
        let met = eventually("the good event is there", DRAINED, there) - before;
        eprintln!("event {n} came behind {met} sendings of poison");
        // One round from the disk, and what was under way.
        assert!(met <= POISON / 3, "event {n} waited for {met} sendings of poison");
    }
}

#[test]
fn the_next_of_a_value_is_not_sent_before_the_one_in_front_is_answered_or_on_disk() {
    for fails in [false, true] {
        let world = world_with(&[ORDERED]);
        let gate = Gate::closed();
        let first = if fails { answer(500) } else { accept() };
        world.app.first([first.behind(&gate)]);
        std::thread::scope(|scope| {
            let in_front = scope.spawn(|| world.send(&request("a", 0)));
            world.app.wait_for(1);
            let behind = scope.spawn(|| world.send(&request("a", 1)));
            assert_eq!(world.send(&request("b", 0)).text(), "{\"app\":200}", "another value does not wait");
            pause(Duration::from_millis(500));
            assert_eq!(world.app.count(), 2, "it waits for the one in front");
            gate.open();
            assert!(in_front.join().unwrap().acked() && behind.join().unwrap().acked());
        });
        world.gateway.wait_for_empty_spool(DRAINED);
        assert_eq!(accepted(&world.app.seen(), "a"), [0, 1]);
    }
}

#[test]
fn what_runs_from_disk_and_for_waiting_senders_together_keeps_to_max_in_flight() {
    let takes = Duration::from_millis(300);
    let mut world = world_without_app(&["app.max_in_flight = 3"]);
    at_once(0..20, |n| assert_spooled(&world.send(&request("disk", n))));
    world.app.always(accept().after(takes));
    world.app.up();
    at_once(0..20, |n| assert!(world.send(&request("fresh", n)).acked()));
    world.gateway.wait_for_empty_spool(DRAINED);
    let seen = world.app.seen();
    assert_eq!(seen.len(), 40);
    assert_eq!(most_at_once(seen.iter(), takes.saturating_sub(Duration::from_millis(30))), 3);
}

#[test]
fn a_drain_takes_as_long_as_the_application_takes_and_one_backoff() {
    const EVENTS: usize = 100;
    let (takes, backoff, probe_every) =
        (Duration::from_millis(100), Duration::from_secs(1), Duration::from_millis(500));
    let lines = [
        "delivery.retries = { first = '1s', factor = 1.0, max = '1s', jitter = false, attempts = 100000 }",
        "delivery.breaker = { failures = 5, probe_every = '500ms' }",
        "app.max_in_flight = 2",
    ];
    let mut world = world_without_app(&lines);
    at_once(0..10, |sender| {
        for n in 0..EVENTS / 10 {
            assert_spooled(&world.send(&request(format!("drain{sender}"), n)));
        }
    });
    pause(Duration::from_secs(3));
    world.app.always(accept().after(takes));
    world.app.up();
    let from = Instant::now();
    world.gateway.wait_for_empty_spool(DRAINED);
    let bound = takes * u32::try_from(EVENTS).unwrap() / 2 + backoff + probe_every;
    eprintln!("{EVENTS} events in {:?}, {bound:?} are promised", from.elapsed());
    // And something for a machine that is busy with other tests.
    assert!(from.elapsed() < bound + Duration::from_secs(5), "{:?} in place of {bound:?}", from.elapsed());
    assert_eq!(world.app.seen().iter().filter(|seen| seen.answered == Some(200)).count(), EVENTS);
}

/// A spool with ten events and a crowd of senders that keeps the application busy for five seconds. Returns how many of the
/// ten came through before the crowd went home.
fn drained_in_a_crowd(lines: &[&str], takes: Duration) -> (usize, World) {
    let patient = ["delivery.breaker = { failures = 1000, probe_every = '1s' }"];
    let mut world = world_without_app(&[lines, &patient].concat());
    at_once(0..10, |n| assert_spooled(&world.send(&request("disk", n))));
    world.app.always(accept().after(takes));
    world.app.up();
    let until = Instant::now() + Duration::from_secs(5);
    at_once(0..30, |sender| {
        let mut n = 0;
        while Instant::now() < until {
            assert!(world.send(&request(format!("crowd{sender}"), n)).acked());
            n += 1;
        }
    });
    let came = world.app.seen().iter().filter(|seen| name_of(&seen.body).0 == "disk").count();
    (came, world)
}

#[test]
fn a_crowd_of_newcomers_does_not_keep_the_disk_from_being_drained() {
    let (came, _) = drained_in_a_crowd(&["app.max_in_flight = 1"], Duration::from_millis(60));
    assert_eq!(came, 10, "slots go in turn");
}

#[test]
fn no_second_sees_more_attempts_than_the_rate_and_neither_side_starves() {
    let (came, world) = drained_in_a_crowd(&["delivery.rate = '10/s'"], Duration::ZERO);
    let moments: Vec<Instant> = world.app.seen().iter().map(|seen| seen.at).collect();
    assert_eq!(came, 10);
    assert!(moments.len() >= 40, "{} attempts in five seconds", moments.len());
    for from in &moments {
        let within = moments.iter().filter(|at| *at >= from && **at - *from < Duration::from_millis(980)).count();
        // Two more for what a busy machine delivers late.
        assert!(within <= 12, "{within} attempts within a second");
    }
}

#[test]
fn while_the_application_is_down_one_probe_at_a_time_asks_and_costs_no_event_an_attempt() {
    let lines =
        ["delivery.retries = ['50ms', '50ms', '50ms']", "delivery.breaker = { failures = 4, probe_every = '300ms' }"];
    let world = world_with(&lines);
    let takes = Duration::from_millis(500);
    world.app.always(answer(500).after(takes));
    at_once(0..6, |n| assert_spooled(&world.send(&request("a", n))));
    pause(Duration::from_secs(2));
    let probes = world.app.count();
    pause(Duration::from_secs(3));
    let seen = world.app.seen();
    let in_three = &seen[probes..];
    assert!((4..=7).contains(&in_three.len()), "{} probes of half a second in three", in_three.len());
    assert_eq!(most_at_once(in_three.iter(), takes.saturating_sub(Duration::from_millis(30))), 1, "one at a time");
    assert!(world.gateway.rows(&["dlq", "list"]).is_empty(), "an outage uses no attempts up");
    world.app.always(accept());
    let from = Instant::now();
    world.gateway.wait_for_empty_spool(DRAINED);
    assert!(from.elapsed() < Duration::from_secs(3), "one success is enough, after {:?}", from.elapsed());
    for n in 0..6 {
        assert!(accepted(&world.app.seen(), "a").contains(&n), "{n}");
    }
}

#[test]
fn probes_of_which_nothing_is_known_cost_no_attempt_and_are_flagged() {
    let lines =
        ["delivery.retries = ['50ms', '50ms', '50ms']", "delivery.breaker = { failures = 2, probe_every = '100ms' }"];
    let world = world_with(&lines);
    world.app.always(Act::HangUp);
    at_once(0..3, |n| assert_spooled(&world.send(&request("a", n))));
    world.app.wait_for(20);
    assert!(world.gateway.rows(&["dlq", "list"]).is_empty());
    world.app.always(accept());
    world.gateway.wait_for_empty_spool(DRAINED);
    let seen = world.app.seen();
    assert_eq!(accepted(&seen, "a").len(), 3);
    let done = seen.iter().filter(|seen| seen.answered == Some(200));
    assert!(done.clone().all(Seen::flagged), "each may have been processed before");
}

#[test]
fn the_rest_that_an_application_asks_for_is_its_whole_routes_and_the_events_over_a_restart() {
    let mut world = world_with(&[]);
    world.app.first([answer(429).with("Retry-After", "3")]);
    let from = Instant::now();
    assert_spooled(&world.send(&request("a", 0)));
    for n in 1..4 {
        assert_spooled(&world.send(&request("a", n)));
    }
    pause(Duration::from_millis(1500));
    assert_eq!(world.app.count(), 1, "nothing of the route is sent");
    world.gateway.kill9();
    world.gateway.restart();
    world.gateway.wait_for_empty_spool(DRAINED);
    let seen = world.app.seen();
    assert_eq!(seen.len(), 5);
    let again = seen.iter().skip(1).find(|seen| name_of(&seen.body).1 == 0).unwrap();
    assert!(again.at - from >= Duration::from_millis(2900), "came back after {:?}", again.at - from);
}

#[test]
fn copies_of_ordered_events_change_nothing_in_their_order() {
    let world = world_with(&[ORDERED]);
    let gate = Gate::closed();
    world.app.first([accept().behind(&gate)]);
    let copies = std::thread::scope(|scope| {
        let first = scope.spawn(|| at_once(0..5, |_| world.send(&request("a", 0))));
        world.app.wait_for(1);
        let second = scope.spawn(|| at_once(0..5, |_| world.send(&request("a", 1))));
        pause(Duration::from_millis(500));
        assert_eq!(world.app.count(), 1, "the second waits for the first");
        gate.open();
        [first.join().unwrap(), second.join().unwrap()].concat()
    });
    assert!(copies.iter().all(|reply| reply.text() == "{\"app\":200}"), "{copies:?}");
    assert_eq!(world.app.count(), 2);
    assert_eq!(world.send(&request("a", 0)).json("duplicate"), true);
    assert_eq!(accepted(&world.app.seen(), "a"), [0, 1]);
}

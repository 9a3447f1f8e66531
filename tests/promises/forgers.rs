//! Bad signatures in numbers: their source is turned away for a while, and never one whose signatures verify. P12, P15.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::world::clock::{SOON, now_unix, pause};
use crate::world::events::task;
use crate::world::sender::{Line, Reply, Request};
use crate::world::sign::Provider;
use crate::world::{Closing, World, world_with};

/// How many bad signatures are checked at once.
const BURST: usize = 1000;

/// Past the burst one is checked in this time.
const EVERY: Duration = Duration::from_millis(10);

/// A bad signature under a body of so many bytes counts as much as a whole burst of short ones.
const BURST_BYTES: usize = 16 << 20;

/// The route whose bodies may be so long.
const LONG: &str = "routes.veedeo.max_body_bytes = '17MiB'";

/// How long the answer to a long one waits that is not.
const PAUSE: Duration = Duration::from_millis(100);

/// A world in which the loopback is a proxy that says who calls.
fn behind_a_proxy() -> World {
    world_with(&["server.trusted_proxies = ['127.0.0.0/8']"])
}

/// Sends over one connection after another, as `client`.
fn send_all(world: &World, client: &str, requests: impl Iterator<Item = Request>) -> Vec<Reply> {
    let mut line = None;
    requests
        .map(|request| {
            let mut open = line.take().unwrap_or_else(|| Line::open(&world.gateway.address()).unwrap());
            let reply = open.send(&request.with("X-Forwarded-For", client)).unwrap();
            let closes = reply.headers.get("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
            line = (!closes).then_some(open);
            reply
        })
        .collect()
}

fn forged(number: usize) -> Request {
    Provider::Veedeo.sign_at(task(format!("forged-{number}")), now_unix(), "not the secret")
}

fn dear(bytes: usize) -> Request {
    Provider::Veedeo.sign_at(vec![b'x'; bytes], now_unix(), "not the secret")
}

/// Has `client` turned away for the better part of the ten seconds that a burst lasts, however long a request takes here.
/// The route has to be as [`LONG`] says.
fn spend(world: &World, client: &str) {
    for _ in 0..5 {
        let replies = send_all(world, client, [dear(BURST_BYTES), forged(0)].into_iter());
        assert_eq!(replies[0].status, 401);
        if replies[1].status == 503 {
            return;
        }
    }
    panic!("five bursts of bad signatures, and it is not turned away");
}

fn good(name: &str) -> Request {
    Provider::Veedeo.sign(task(name))
}

fn statuses(replies: &[Reply]) -> Vec<u16> {
    let mut statuses: Vec<u16> = replies.iter().map(|reply| reply.status).collect();
    statuses.dedup();
    statuses
}

#[test]
fn a_source_of_bad_signatures_is_turned_away_for_a_while_and_nobody_else() {
    let world = world_with(&["server.trusted_proxies = ['127.0.0.0/8']", LONG]);
    let from = Instant::now();
    let replies = send_all(&world, "203.0.113.9", (0..3 * BURST).map(forged));
    let paced = usize::try_from(from.elapsed().as_millis() / EVERY.as_millis()).unwrap();
    assert_eq!(replies[..BURST].iter().filter(|reply| reply.status == 401).count(), BURST, "a burst is checked");
    let away: Vec<&Reply> = replies.iter().filter(|reply| reply.status == 503).collect();
    assert!(away.len() + paced + 1 >= 2 * BURST, "{} were turned away, and {paced} had time", away.len());
    for reply in &away {
        assert_eq!(reply.reason(), "overloaded", "never a 4xx: if it was honest after all, it comes again");
        assert!(reply.retry_after().is_some());
    }
    let counted = || world.gateway.metrics().count("hookgate_forgers_turned_away_total", &[]);
    assert_eq!(counted(), away.len() as u64);
    spend(&world, "203.0.113.9");
    assert_eq!(statuses(&send_all(&world, "203.0.113.9", (0..20).map(forged))), [503]);
    assert_eq!(counted(), away.len() as u64 + 21);
    assert_eq!(statuses(&send_all(&world, "203.0.113.10", [good("another")].into_iter())), [200]);
    assert_eq!(statuses(&send_all(&world, "2001:db8::1", [good("a third")].into_iter())), [200]);
    assert_eq!(world.app.count(), 2);
}

#[test]
fn who_was_let_in_before_its_source_was_found_bad_is_turned_away_once_its_body_is_here() {
    let world = world_with(&["server.trusted_proxies = ['127.0.0.0/8']", "routes.github.enforce = false", LONG]);
    let client = "203.0.113.9";
    let observed = Provider::GitHub.sign_at("{\"a\":\"long enough\"}", now_unix(), "not the secret");
    let begin = |request: Request| {
        let (head, body) = request.with("X-Forwarded-For", client).bytes();
        let mut line = Line::open(&world.gateway.address()).unwrap();
        line.raw(&[&head[..], &body[..10]].concat()).unwrap();
        (line, body[10..].to_vec())
    };
    let early: Vec<(Line, Vec<u8>)> = (9000..9005).map(|number| begin(forged(number))).collect();
    let (mut only_seen, rest) = begin(observed);
    // Their heads are read and judged.
    pause(Duration::from_millis(500));
    spend(&world, client);
    let end = |mut line: Line, rest: &[u8]| {
        line.raw(rest).unwrap();
        line.read(SOON).unwrap().status
    };
    let told: Vec<u16> = early.into_iter().map(|(line, rest)| end(line, &rest)).collect();
    assert_eq!(told, [503; 5]);
    only_seen.raw(&rest).unwrap();
    assert_eq!(only_seen.read(SOON).unwrap().status, 200, "who only observes turns nobody away");
}

#[test]
fn behind_a_balancer_that_nobody_named_an_honest_sender_has_its_turn_among_forgers() {
    let world = world_with(&[LONG]);
    // As many as a burst, and then more for a second and a quarter.
    let from = Instant::now();
    let spent = send_all(&world, "203.0.113.9", [dear(BURST_BYTES), dear(2 << 20)].into_iter());
    assert_eq!(statuses(&spent), [401]);
    let long = Provider::GitHub.sign(vec![b'x'; 20_000]);
    assert_eq!(statuses(&send_all(&world, "203.0.113.10", [long].into_iter())), [503], "long bodies have no turn");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let closing = Closing(&done);
        let flood = |thread: usize| {
            let mut told = Vec::new();
            while !done.load(Ordering::SeqCst) {
                told.extend(send_all(&world, "203.0.113.9", [forged(thread)].into_iter()));
            }
            told
        };
        let forgers: Vec<_> = (0..20).map(|thread| scope.spawn(move || flood(thread))).collect();
        pause(Duration::from_millis(500));
        let first = world.send(&good("honest"));
        drop(closing);
        assert_eq!(first.status, 200);
        assert!(first.took < Duration::from_secs(3), "took {:?}", first.took);
        let told: Vec<Reply> = forgers.into_iter().flat_map(|forger| forger.join().unwrap()).collect();
        let paced = usize::try_from(from.elapsed().as_millis() / EVERY.as_millis()).unwrap();
        assert!(told.len() >= 20 && told.len() <= paced + 20, "{} were checked, and {paced} had time", told.len());
        assert_eq!(statuses(&told), [401], "they had their turns too");
    });
    assert_eq!(
        statuses(&send_all(&world, "203.0.113.9", (0..BURST).map(forged))),
        [401],
        "one good signature is for all"
    );
    assert_eq!(statuses(&send_all(&world, "203.0.113.9", [good("second")].into_iter())), [200]);
}

#[test]
fn who_is_turned_away_with_a_long_body_is_told_so_slowly() {
    let world = behind_a_proxy();
    let long = |number: usize| {
        let body = format!("{number}{}", "x".repeat(900_000));
        Provider::Veedeo.sign_at(body.into_bytes(), now_unix(), "not the secret")
    };
    let fastest_away = |requests: &mut dyn Iterator<Item = Request>| {
        let replies = send_all(&world, "203.0.113.9", requests);
        let away = replies.iter().filter(|reply| reply.status == 503);
        away.map(|reply| reply.took).min().expect("some are turned away")
    };
    assert!(fastest_away(&mut (0..40).map(long)) >= PAUSE);
    assert!(fastest_away(&mut (0..BURST).map(forged)) < PAUSE, "what is short costs no more than its answer");
}

#[test]
fn a_source_whose_signatures_verify_is_never_turned_away() {
    let world = behind_a_proxy();
    assert_eq!(statuses(&send_all(&world, "203.0.113.9", [good("first")].into_iter())), [200]);
    assert_eq!(statuses(&send_all(&world, "203.0.113.9", (0..3 * BURST).map(forged))), [401]);
    assert_eq!(statuses(&send_all(&world, "203.0.113.9", [good("second")].into_iter())), [200]);
    assert_eq!(world.gateway.metrics().count("hookgate_forgers_turned_away_total", &[]), 0);
}

#[test]
fn the_addresses_of_one_ipv6_network_are_one_source() {
    let world = world_with(&["server.trusted_proxies = ['127.0.0.0/8']", LONG]);
    let send = |address: &str, request| send_all(&world, address, [request].into_iter())[0].status;
    // None of them has sent a burst and one.
    assert_eq!([1, 2].map(|number| send(&format!("2001:db8::{number}"), dear(BURST_BYTES))), [401; 2]);
    assert_eq!([3, 4, 5].map(|number| send(&format!("2001:db8::{number}:1"), forged(number))), [503; 3]);
    assert_eq!(send("2001:db8:0:1::1", forged(6)), 401, "another network");
}

#[test]
fn nobody_waits_for_a_turn_longer_than_half_of_the_time_it_has() {
    let world = world_with(&[LONG, "routes.stripe.ack.budget = '8s'", "routes.stripe.ack.reserve = '2s'"]);
    // The next turn comes in more than three seconds and in less than ten, however long these take here.
    let spent = send_all(&world, "203.0.113.9", [dear(BURST_BYTES), dear(BURST_BYTES)].into_iter());
    assert_eq!(statuses(&spent), [401]);
    let hasty = world.send(&Provider::Stripe.sign_at(task("hasty"), now_unix(), "not the secret"));
    assert_eq!((hasty.status, hasty.reason().as_str()), (503, "overloaded"));
    assert!(hasty.took < Duration::from_secs(3), "told after {:?}", hasty.took);
    let patient = world.send(&forged(1));
    assert_eq!(patient.status, 401, "it has its turn in the fourteen seconds that are half of its time");
    assert!(patient.took > EVERY, "and waited for it");
}

#[test]
fn who_only_observes_turns_nobody_away() {
    let world = world_with(&["server.trusted_proxies = ['127.0.0.0/8']", "routes.veedeo.enforce = false"]);
    assert_eq!(statuses(&send_all(&world, "203.0.113.9", (0..2 * BURST).map(forged))), [200]);
}

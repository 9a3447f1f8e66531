//! Bad signatures in numbers: their source is turned away for a while, and never one whose signatures verify. P12, P15.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::world::clock::{SOON, now_unix, pause};
use crate::world::events::task;
use crate::world::sender::{Line, Reply, Request};
use crate::world::sign::Provider;
use crate::world::{World, world_with};

/// How many bad signatures are checked at once.
const BURST: usize = 1000;

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
    let world = behind_a_proxy();
    let replies = send_all(&world, "203.0.113.9", (0..3 * BURST).map(forged));
    assert_eq!(replies[..BURST].iter().filter(|reply| reply.status == 401).count(), BURST, "a burst is checked");
    let away: Vec<&Reply> = replies.iter().filter(|reply| reply.status == 503).collect();
    assert!(away.len() > BURST, "{} were turned away", away.len());
    for reply in &away {
        assert_eq!(reply.reason(), "overloaded", "never a 4xx: if it was honest after all, it comes again");
        assert!(reply.retry_after().is_some());
    }
    assert_eq!(world.gateway.metrics().count("hookgate_forgers_turned_away_total", &[]), away.len() as u64);
    assert_eq!(statuses(&send_all(&world, "203.0.113.10", [good("another")].into_iter())), [200]);
    assert_eq!(statuses(&send_all(&world, "2001:db8::1", [good("a third")].into_iter())), [200]);
    assert_eq!(world.app.count(), 2);
}

#[test]
fn who_was_let_in_before_its_source_was_found_bad_is_turned_away_once_its_body_is_here() {
    let world = world_with(&["server.trusted_proxies = ['127.0.0.0/8']", "routes.github.enforce = false"]);
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
    let replies = send_all(&world, client, (0..2 * BURST).map(forged));
    assert_eq!(replies.last().unwrap().status, 503);
    let end = |mut line: Line, rest: &[u8]| {
        line.raw(rest).unwrap();
        line.read(SOON).unwrap().status
    };
    let told: Vec<u16> = early.into_iter().map(|(line, rest)| end(line, &rest)).collect();
    // A moment later one or the other may be checked again.
    assert!(told.iter().filter(|status| **status == 503).count() >= 3, "{told:?}");
    only_seen.raw(&rest).unwrap();
    assert_eq!(only_seen.read(SOON).unwrap().status, 200, "who only observes turns nobody away");
}

#[test]
fn behind_a_balancer_that_nobody_named_an_honest_sender_has_its_turn_among_forgers() {
    let world = world_with(&[]);
    send_all(&world, "203.0.113.9", (0..BURST).map(forged));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let flood = |thread: usize| {
            let mut told = Vec::new();
            while !done.load(Ordering::SeqCst) {
                told.extend(send_all(&world, "203.0.113.9", [forged(thread)].into_iter()));
            }
            told
        };
        let forgers: Vec<_> = (0..20).map(|thread| scope.spawn(move || flood(thread))).collect();
        pause(Duration::from_millis(500));
        let long = Provider::GitHub.sign(vec![b'x'; 20_000]);
        assert_eq!(statuses(&send_all(&world, "203.0.113.10", [long].into_iter())), [503], "long bodies have no turn");
        let first = world.send(&good("honest"));
        done.store(true, Ordering::SeqCst);
        assert_eq!(first.status, 200);
        assert!(first.took < Duration::from_secs(3), "took {:?}", first.took);
        let told: Vec<Reply> = forgers.into_iter().flat_map(|forger| forger.join().unwrap()).collect();
        assert!(told.len() >= 20 && told.len() < 500, "{} were checked", told.len());
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
    let world = behind_a_proxy();
    let mut away = 0;
    for number in 0..3 * BURST {
        let replies = send_all(&world, &format!("2001:db8::{number:x}"), [forged(number)].into_iter());
        away += usize::from(replies[0].status == 503);
    }
    assert!(away > 0);
}

#[test]
fn who_only_observes_turns_nobody_away() {
    let world = world_with(&["server.trusted_proxies = ['127.0.0.0/8']", "routes.veedeo.enforce = false"]);
    assert_eq!(statuses(&send_all(&world, "203.0.113.9", (0..2 * BURST).map(forged))), [200]);
}

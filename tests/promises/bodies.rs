//! The body at the application is the body that was verified: on the fast path, from disk, after a crash; of any
//! length, framing and content. P9.

use std::collections::HashMap;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::outage::assert_spooled;
use crate::world::app::Seen;
use crate::world::chance::{bytes, chance};
use crate::world::sender::Request;
use crate::world::sign::Provider;
use crate::world::{World, at_once, world_with};

const LONGEST: usize = 100 * 1024;
const LIMIT: &str = "routes.github.max_body_bytes = '100KiB'";
const DRAINED: Duration = Duration::from_secs(30);

/// Bodies that have been the end of other gateways, and a hundred of chance.
fn bodies() -> Vec<Vec<u8>> {
    let mut chance = chance();
    let all_values: Vec<u8> = (0..=255).cycle().take(10_000).collect();
    let mut bodies = vec![
        Vec::new(),
        b"x".to_vec(),
        b"\0".to_vec(),
        b"\r\n\r\n".to_vec(),
        b"0\r\n\r\n".to_vec(),
        b"\xef\xbb\xbf{\"bom\":1}\n".to_vec(),
        b"\xff\xfe\xc3\x28\xed\xa0\x80\xf8".to_vec(),
        "{\"a\":\"\u{e9}\u{1f600}\",\"a\":1e400}  \n".as_bytes().to_vec(),
        "[".repeat(5000).into_bytes(),
        all_values,
        vec![b'z'; LONGEST - 1],
        vec![0xff; LONGEST],
    ];
    bodies.extend((0..100).map(|_| {
        let length = chance.usize(2..4000);
        bytes(&mut chance, length)
    }));
    bodies
}

/// The same bodies as requests in changing framings.
fn requests(bodies: &[Vec<u8>]) -> Vec<Request> {
    let framings: [&[usize]; 4] = [&[1, 2, 3, 500], &[4096], &[7, 1021], &[100_000]];
    let signed = bodies.iter().map(|body| Provider::GitHub.sign(body.clone()));
    let framed = signed.enumerate().map(|(n, request)| match framings.get(n % 5) {
        Some(sizes) => request.chunked(sizes),
        None => request,
    });
    framed.collect()
}

fn assert_all_arrived(world: &World, bodies: &[Vec<u8>]) {
    let count = |hashes: Vec<[u8; 32]>| {
        let mut counts: HashMap<[u8; 32], usize> = HashMap::new();
        for hash in hashes {
            *counts.entry(hash).or_default() += 1;
        }
        counts
    };
    let sent = count(bodies.iter().map(|body| Sha256::digest(body).into()).collect());
    let seen = count(world.app.seen().iter().map(Seen::sha256).collect());
    assert_eq!(sent, seen);
}

#[test]
fn every_body_arrives_unchanged_on_the_fast_path() {
    let world = world_with(&[LIMIT]);
    let bodies = bodies();
    for request in requests(&bodies) {
        assert_eq!(world.send(&request).text(), "{\"app\":200}");
    }
    assert_all_arrived(&world, &bodies);
}

#[test]
fn every_body_arrives_unchanged_from_disk() {
    let mut world = world_with(&[LIMIT]);
    world.app.down();
    let bodies = bodies();
    at_once(requests(&bodies), |request| assert_spooled(&world.send(&request)));
    world.app.up();
    world.gateway.wait_for_empty_spool(DRAINED);
    assert_all_arrived(&world, &bodies);
}

#[test]
fn every_body_arrives_unchanged_after_a_kill_and_a_restart() {
    let mut world = world_with(&[LIMIT]);
    world.app.down();
    let bodies = bodies();
    at_once(requests(&bodies), |request| assert_spooled(&world.send(&request)));
    world.gateway.kill9();
    world.gateway.restart();
    world.gateway.stop();
    world.app.up();
    world.gateway.restart();
    world.gateway.wait_for_empty_spool(DRAINED);
    assert_all_arrived(&world, &bodies);
}

#[test]
fn the_largest_bodies_arrive_unchanged_on_every_path() {
    let mut world = world_with(&["routes.github.max_body_bytes = '8MiB'"]);
    let mut chance = chance();
    let mut bodies: Vec<Vec<u8>> =
        [1 << 20, (4 << 20) + 1, 8 << 20].map(|length| bytes(&mut chance, length)).into_iter().collect();
    for body in &bodies {
        assert_eq!(world.send(&Provider::GitHub.sign(body.clone())).text(), "{\"app\":200}");
    }
    world.app.down();
    let kept: Vec<Vec<u8>> = bodies.iter().map(|body| body.iter().map(|byte| byte ^ 1).collect()).collect();
    for request in requests(&kept) {
        assert_spooled(&world.send(&request));
    }
    world.gateway.kill9();
    world.gateway.restart();
    world.app.up();
    world.gateway.wait_for_empty_spool(DRAINED);
    bodies.extend(kept);
    assert_all_arrived(&world, &bodies);
}

#[test]
fn a_body_of_one_byte_too_many_is_refused_in_either_framing() {
    let world = world_with(&[LIMIT]);
    let long = Provider::GitHub.sign(vec![b'x'; LONGEST + 1]);
    let mut waiting = long.clone();
    waiting.expects_continue = true;
    for request in [long.clone(), long.clone().chunked(&[1000]), long.chunked(&[LONGEST + 1]), waiting] {
        let reply = world.send(&request);
        assert_eq!((reply.status, reply.reason().as_str(), reply.interim), (413, "body_too_large", 0));
    }
    assert_eq!(world.app.count(), 0);
    assert_eq!(world.send(&Provider::GitHub.sign(vec![b'x'; LONGEST])).status, 200);
    assert_eq!(world.gateway.metrics().count("hookgate_refusals_total", &[("reason", "body_too_large")]), 4);
}

#[test]
fn the_default_limit_is_one_mebibyte() {
    let world = world_with(&[]);
    assert_eq!(world.send(&Provider::GitHub.sign(vec![b'y'; 1 << 20])).status, 200);
    assert_eq!(world.send(&Provider::GitHub.sign(vec![b'y'; (1 << 20) + 1])).status, 413);
    assert_eq!(world.app.only().body, vec![b'y'; 1 << 20]);
}

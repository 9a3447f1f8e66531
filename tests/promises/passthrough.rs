//! What passes through unverified is bounded like everything else: the application's silence, the sender's slowness and
//! the sender's departure each end it. P12, P15 and the limits of section 2 of the contract.

use std::time::{Duration, Instant};

use crate::world::act::{Act, accept};
use crate::world::clock::{SOON, eventually};
use crate::world::sender::{Line, Request};
use crate::world::sign::Provider;
use crate::world::{World, world_with, world_without_app};

const PATHS: &str = "passthrough.paths = ['/through/*']";

fn wait_until_nobody_is_connected(world: &World) {
    eventually("nobody is connected", SOON, || {
        (world.gateway.metrics().find("hookgate_connections", &[])? == 0.0).then_some(())
    });
}

#[test]
fn a_silent_application_is_given_up() {
    let world = world_with(&[PATHS, "app.attempt_timeout = '1s'"]);
    world.app.always(Act::Never);
    for request in [Request::get("/through/a"), Request::post("/through/a", "unsigned")] {
        let reply = world.send(&request);
        assert_eq!(reply.status, 504, "{}", request.method);
        assert!(reply.took < Duration::from_secs(5), "took {:?}", reply.took);
    }
}

#[test]
fn an_absent_application_is_said_to_be_absent() {
    let world = world_without_app(&[PATHS]);
    assert_eq!(world.send(&Request::get("/through/a")).status, 502);
}

#[test]
fn a_body_that_drips_is_cut_at_its_deadline() {
    let world = world_with(&[PATHS, "server.body_timeout = '1s'"]);
    let mut line = Line::open(&world.gateway.address()).unwrap();
    let from = Instant::now();
    line.raw(b"POST /through/a HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n").unwrap();
    let cut = eventually("the line is cut", SOON, || line.raw(b"x").is_err().then(|| from.elapsed()));
    assert!(cut < Duration::from_secs(4), "cut after {cut:?}");
    wait_until_nobody_is_connected(&world);
    assert_eq!(world.app.count(), 0, "half a request is no request");
}

#[test]
fn a_sender_that_hangs_up_is_not_waited_for() {
    let world = world_with(&[PATHS]);
    world.app.always(Act::Never);
    let mut line = Line::open(&world.gateway.address()).unwrap();
    line.raw(b"GET /through/a HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    world.app.wait_for(1);
    drop(line);
    wait_until_nobody_is_connected(&world);
}

#[test]
fn nothing_is_tunnelled() {
    let world = world_with(&[PATHS]);
    let upgrade = Request::get("/through/a")
        .with("Connection", "Upgrade")
        .with("Upgrade", "websocket")
        .with("Sec-WebSocket-Version", "13")
        .with("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
    let reply = world.send(&upgrade);
    assert_eq!((reply.status, reply.reason().as_str()), (400, "bad_request"));
    assert_eq!(world.app.count(), 0);

    let switched = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nraw";
    world.app.first([Act::Raw(switched.to_vec())]);
    assert_eq!(world.send(&Request::get("/through/a").with("Connection", "Upgrade")).status, 502);
    let names = world.app.only().headers.names();
    assert!(!names.iter().any(|name| name == "upgrade"), "{names:?}");
    world.app.always(accept());
    assert_eq!(world.send(&Request::get("/through/b")).status, 200);
}

#[test]
fn a_sender_that_waits_for_100_continue_is_told_to_go_on_and_may_stay() {
    let world = world_with(&[PATHS]);
    let mut line = Line::open(&world.gateway.address()).unwrap();
    for target in ["/through/a", "/webhooks/github"] {
        let mut request = Provider::GitHub.sign(vec![b'x'; 20_000]);
        request.target = target.into();
        request.expects_continue = true;
        let reply = line.send(&request).expect("a connection that lives on");
        assert_eq!((reply.status, reply.interim), (200, 1), "{target}");
    }
    let seen = world.app.seen();
    assert!(seen.iter().all(|seen| seen.body.len() == 20_000 && seen.headers.all("expect").is_empty()), "{seen:?}");
}

#[test]
fn what_concerns_the_connection_alone_goes_no_further() {
    let world = world_with(&[PATHS]);
    let request = Request::get("/through/a")
        .with("Connection", "keep-alive, X-Hop")
        .with("X-Hop", "evil")
        .with("Keep-Alive", "evil")
        .with("TE", "trailers")
        .with("Trailer", "evil")
        .with("Proxy-Authorization", "evil")
        .with("Hookgate-Key", "evil")
        .with("hookgate_key", "evil")
        .with("X-Forwarded-For", "6.6.6.6")
        .with("X-Kept", "y");
    assert_eq!(world.send(&request).status, 200);
    let headers = world.app.only().headers;
    for name in ["x-hop", "keep-alive", "te", "trailer", "proxy-authorization", "hookgate-key", "hookgate_key"] {
        assert!(headers.all(name).is_empty(), "{name} in {headers:?}");
    }
    assert_eq!((headers.all("x-forwarded-for"), headers.all("x-kept")), (vec!["127.0.0.1".into()], vec!["y".into()]));
}

//! What a hostile or broken sender can do with the bytes of a connection: nothing. P15, P16 and the limits of
//! section 2 of the contract.

use std::time::{Duration, Instant};

use crate::outage::assert_spooled;
use crate::world::act::{Gate, accept};
use crate::world::app::App;
use crate::world::clock::{eventually, pause};
use crate::world::events::{task, task_of};
use crate::world::gateway::Gateway;
use crate::world::sender::{Line, Request};
use crate::world::setup::Setup;
use crate::world::sign::Provider;
use crate::world::wire::WireFault;
use crate::world::{World, at_once, world, world_with};

fn open(world: &World) -> Line {
    Line::open(&world.gateway.address()).expect("a connection")
}

/// A signed request's header lines without any framing, and its body.
fn signed() -> (String, Vec<u8>) {
    let request = Provider::GitHub.sign("{\"a\":1}");
    let lines: Vec<String> =
        request.headers.iter().map(|(n, v)| format!("{n}: {}\r\n", String::from_utf8_lossy(v))).collect();
    (lines.concat(), request.body)
}

#[test]
fn a_request_with_doubtful_framing_goes_no_further() {
    let world = world();
    let (lines, body) = signed();
    let body = String::from_utf8(body).unwrap();
    let length = body.len();
    let chunked = format!("{length:x}\r\n{body}\r\n0\r\n\r\n");
    let host = "Host: hooks.example.com\r\n";
    let post = "POST /webhooks/github HTTP/1.1\r\n";
    let cases = [
        format!("{post}{host}{lines}Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}"),
        format!("{post}{host}{lines}Content-Length: {length}\r\nContent-Length: {length}\r\n\r\n{body}"),
        format!("{post}{host}{lines}Content-Length: {length}\r\nContent-Length: 0\r\n\r\n{body}"),
        format!("{post}{host}{lines}Content-Length: {length}, {length}\r\n\r\n{body}"),
        format!("{post}{host}{lines}Content-Length: +{length}\r\n\r\n{body}"),
        format!("{post}{host}{lines}Content-Length: -1\r\n\r\n{body}"),
        format!("{post}{host}{lines}Content-Length: 0x7\r\n\r\n{body}"),
        format!("{post}{host}{lines}Content-Length : {length}\r\n\r\n{body}"),
        format!("{post}{host}{lines}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}"),
        format!("{post}{host}{lines}Transfer-Encoding: chunked, identity\r\n\r\n{chunked}"),
        format!("{post}{host}{lines}Transfer-Encoding: xchunked\r\n\r\n{chunked}"),
        format!("{post}{host}{lines}Transfer-Encoding: identity\r\nContent-Length: {length}\r\n\r\n{body}"),
        format!("{post}{host}{lines}Transfer-Encoding: chunked\r\n\r\n-1\r\n{body}\r\n0\r\n\r\n"),
        format!("{post}{host}{lines}Transfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\n{body}\r\n0\r\n\r\n"),
        format!("{post}{host}{lines}X-Folded: a\r\n b\r\nContent-Length: {length}\r\n\r\n{body}"),
        format!("{post}{host}{lines}X-Nul: a\0b\r\nContent-Length: {length}\r\n\r\n{body}"),
        format!("{post}{host}{lines}X-Bare: a\nContent-Length: {length}\r\n\r\n{body}"),
        format!("{post}{host}{lines}: nameless\r\nContent-Length: {length}\r\n\r\n{body}"),
        format!("{post}{host}{lines}no colon at all\r\nContent-Length: {length}\r\n\r\n{body}"),
        format!("{post}{lines}Content-Length: {length}\r\n\r\n{body}"),
        format!("{post}{host}{host}{lines}Content-Length: {length}\r\n\r\n{body}"),
        format!("POST /webhooks/github HTTP/1.1 \r\n{host}{lines}Content-Length: {length}\r\n\r\n{body}"),
        format!("POST /webhooks /github HTTP/1.1\r\n{host}{lines}Content-Length: {length}\r\n\r\n{body}"),
        format!("POST /webhooks/github HTTP/3.0\r\n{host}{lines}Content-Length: {length}\r\n\r\n{body}"),
        format!("POST /webhooks/github\r\n{host}{lines}Content-Length: {length}\r\n\r\n{body}"),
        "\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03 this is TLS\r\n\r\n".to_owned(),
    ];
    let mut taken = Vec::new();
    for case in &cases {
        let mut line = open(&world);
        line.raw(case.as_bytes()).ok();
        let end = match line.read(Duration::from_secs(15)) {
            Ok(reply) if (400..500).contains(&reply.status) || reply.status == 505 => None,
            Ok(reply) => Some(format!("was answered {}", reply.status)),
            Err(WireFault::Ended | WireFault::Broken(_)) => None,
            Err(fault) => Some(fault.to_string()),
        };
        let open = (!line.closes(Duration::from_secs(5))).then(|| "left the connection open".to_owned());
        taken.extend(end.into_iter().chain(open).map(|what| format!("{what}:\n{case}")));
    }
    assert!(taken.is_empty(), "{}", taken.join("\n"));
    assert_eq!(world.app.count(), 0);
    let clean = format!("{post}{host}{lines}Content-Length: {length}\r\n\r\n{body}");
    let mut line = open(&world);
    line.raw(clean.as_bytes()).unwrap();
    assert_eq!(line.read(Duration::from_secs(5)).unwrap().status, 200, "the same request without a flaw");
}

#[test]
fn requests_in_one_breath_are_answered_in_turn_or_not_taken_at_all() {
    let world = world();
    let mut line = open(&world);
    let requests: Vec<u8> = (0..3)
        .flat_map(|n| {
            let (head, body) = Provider::Veedeo.sign(task(n)).bytes();
            [head, body].concat()
        })
        .collect();
    line.raw(&requests).unwrap();
    let replies: Vec<_> = std::iter::from_fn(|| line.read(Duration::from_secs(5)).ok()).collect();
    assert!(!replies.is_empty() && replies.iter().all(|reply| reply.text() == "{\"app\":200}"), "{replies:?}");
    let tasks: Vec<String> = world.app.seen().iter().map(|seen| task_of(&seen.body)).collect();
    assert_eq!(tasks, ["0", "1", "2"][..replies.len()], "what was not answered was not delivered");
}

#[test]
fn a_body_that_looks_like_a_request_is_a_body() {
    let world = world();
    let inner = "POST /webhooks/veedeo HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
    for request in [Provider::GitHub.sign(inner), Provider::GitHub.sign(format!("0\r\n\r\n{inner}")).chunked(&[5, 50])]
    {
        assert_eq!(world.send(&request).status, 200);
    }
    assert_eq!(world.app.count(), 2);
    assert!(world.app.seen().iter().all(|seen| seen.target == "/webhooks/github"));
}

#[test]
fn half_a_request_is_no_request() {
    let world = world();
    let (head, body) = Provider::Veedeo.sign(task(1)).bytes();
    for part in [&head[..head.len() / 2], &head[..], &[&head[..], &body[..body.len() - 1]].concat()] {
        let mut line = open(&world);
        line.raw(part).unwrap();
        drop(line);
    }
    pause(Duration::from_millis(300));
    assert_eq!(world.app.count(), 0);
}

#[test]
fn a_head_that_drips_is_cut_at_its_deadline() {
    let world = world_with(&["server.header_timeout = '1s'"]);
    let from = Instant::now();
    let mut line = open(&world);
    line.raw(b"POST /webhooks/veedeo HTTP/1.1\r\nHost: a\r\n").unwrap();
    let mut drops = 0;
    while line.raw(format!("X-Drop-{drops}: 1\r\n").as_bytes()).is_ok() && from.elapsed() < Duration::from_secs(6) {
        drops += 1;
        pause(Duration::from_millis(100));
    }
    assert!(from.elapsed() < Duration::from_secs(4), "still open after {:?} and {drops} lines", from.elapsed());
}

#[test]
fn a_body_that_drips_is_cut_at_its_deadline_and_told_so() {
    let world = world_with(&["server.body_timeout = '1s'"]);
    let (head, body) = Provider::Veedeo.sign(task(1)).bytes();
    let from = Instant::now();
    let mut line = open(&world);
    line.raw(&head).unwrap();
    for byte in &body[..9] {
        pause(Duration::from_millis(100));
        line.raw(&[*byte]).ok();
    }
    let reply = line.read(Duration::from_secs(5)).unwrap();
    assert_eq!((reply.status, reply.reason().as_str()), (408, "request_timeout"));
    assert!(from.elapsed() < Duration::from_secs(3));
    assert_eq!(world.app.count(), 0);
}

#[test]
fn a_head_that_is_too_long_is_refused() {
    let world = world_with(&["server.max_header_bytes = '8KiB'"]);
    let reply = world.send(&Provider::Veedeo.sign(task(1)).with("X-Long", "x".repeat(9000)));
    assert_eq!((reply.status, reply.reason().as_str()), (431, "header_too_large"));
    assert_eq!(world.send(&Provider::Veedeo.sign(task(1)).with("X-Long", "x".repeat(6000))).status, 200);
    let many = (0..5000).fold(Provider::Veedeo.sign(task(2)), |request, n| request.with(&format!("X-{n}"), "1"));
    assert_eq!(world.send(&many).status, 431);
    assert_eq!(world.app.count(), 1);
}

#[test]
fn an_idle_connection_is_closed_after_its_time() {
    let world = world_with(&["server.idle_timeout = '1s'"]);
    let mut line = open(&world);
    assert_eq!(line.send(&Provider::Veedeo.sign(task(1))).unwrap().status, 200);
    assert!(line.closes(Duration::from_secs(4)));
}

#[test]
fn at_the_cap_an_idle_connection_makes_room_and_a_busy_one_does_not() {
    let world = world_with(&["server.max_connections = 5"]);
    let mut idle: Vec<Line> = (0..5).map(|_| open(&world)).collect();
    for (n, line) in idle.iter_mut().enumerate() {
        assert_eq!(line.send(&Provider::Veedeo.sign(task(n))).unwrap().status, 200);
        pause(Duration::from_millis(50));
    }
    assert_eq!(world.veedeo(task("one more")).status, 200);
    assert!(idle[0].closes(Duration::from_secs(5)), "the longest idle one was closed");
    drop(idle);
    let connections = || world.gateway.metrics().find("hookgate_connections", &[]);
    eventually("all are gone", Duration::from_secs(5), || (connections() == Some(0.0)).then_some(()));

    let gate = Gate::closed();
    world.app.always(accept().behind(&gate));
    std::thread::scope(|scope| {
        let busy: Vec<_> = (0..5)
            .map(|n| {
                let world = &world;
                scope.spawn(move || world.veedeo(task(format!("busy-{n}"))))
            })
            .collect();
        world.app.wait_for(11);
        let refused = world.gateway.try_send(&Provider::Veedeo.sign(task("too many"))).expect("a reply");
        assert_eq!((refused.status, refused.reason().as_str()), (503, "overloaded"));
        assert!(refused.retry_after().is_some());
        gate.open();
        assert!(busy.into_iter().all(|reply| reply.join().unwrap().text() == "{\"app\":200}"));
    });
}

#[test]
fn one_source_cannot_take_every_connection_and_a_trusted_proxy_is_no_source() {
    let capped = "server.max_connections_per_source = 3";
    let world = world_with(&[capped, "server.trusted_proxies = ['192.0.2.0/24']"]);
    let mut idle: Vec<Line> = (0..3).map(|_| open(&world)).collect();
    for (n, line) in idle.iter_mut().enumerate() {
        assert_eq!(line.send(&Provider::Veedeo.sign(task(n))).unwrap().status, 200);
        pause(Duration::from_millis(50));
    }
    assert_eq!(world.veedeo(task("one more")).status, 200);
    assert!(idle[0].closes(Duration::from_secs(5)), "the source's longest idle one was closed");
    drop(idle);
    let connections = || world.gateway.metrics().find("hookgate_connections", &[]);
    eventually("all are gone", Duration::from_secs(5), || (connections() == Some(0.0)).then_some(()));

    let _heads: Vec<Line> = (0..3).map(|_| half_a_head(&world)).collect();
    eventually("three are there", Duration::from_secs(5), || (connections() == Some(3.0)).then_some(()));
    let turned_away = world.gateway.try_send(&Provider::Veedeo.sign(task("too many"))).expect("a reply");
    assert_eq!((turned_away.status, turned_away.reason().as_str()), (503, "overloaded"));
    let counted = world.gateway.metrics().count("hookgate_connections_turned_away_total", &[]);
    assert_eq!(counted, 1);

    for trusted in ["server.trusted_proxies = ['127.0.0.0/8']", "server.trusted_proxies = []"] {
        let world = world_with(&[capped, trusted]);
        let _heads: Vec<Line> = (0..10).map(|_| half_a_head(&world)).collect();
        assert_eq!(world.veedeo(task("one of many")).status, 200, "{trusted}");
    }
}

/// A connection with a request that has begun.
fn half_a_head(world: &World) -> Line {
    let mut line = open(world);
    line.raw(b"POST /webhooks/veedeo HTTP/1.1\r\nHost").unwrap();
    line
}

#[test]
fn past_the_cap_of_buffered_bytes_a_request_is_told_to_come_back() {
    let world = world_with(&["server.max_buffered_bytes = '1MiB'"]);
    let gate = Gate::closed();
    world.app.always(accept().behind(&gate));
    let large = |byte: u8| Provider::GitHub.sign(vec![byte; 700_000]);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| world.send(&large(1)));
        world.app.wait_for(1);
        let second = world.send(&large(2));
        assert_eq!((second.status, second.reason().as_str()), (503, "overloaded"));
        gate.open();
        assert_eq!(first.join().unwrap().status, 200);
    });
    assert_eq!(world.send(&large(2)).status, 200, "and is welcome afterwards");
    eventually("the memory is given back", Duration::from_secs(5), || {
        (world.gateway.metrics().find("hookgate_buffered_bytes", &[])? == 0.0).then_some(())
    });
}

#[test]
fn a_flood_of_nonsense_leaves_no_trace_in_the_metrics() {
    let world = world();
    let before = world.gateway.metrics().series().len();
    at_once(0..40, |n| {
        world.send(&Request::get(&format!("/probe/{n}")).with("Host", format!("host-{n}.example")));
        world.send(&Request { method: format!("M{n}"), ..Request::post("/webhooks/veedeo", "x") });
        world.send(&Provider::GitHub.sign(format!("{{\"type\":\"t{n}\"}}")).with("X-GitHub-Event", format!("e{n}")));
    });
    assert_eq!(world.gateway.metrics().series().len(), before);
}

#[test]
fn a_sender_that_does_not_read_costs_no_other_sender() {
    let world = world_with(&["server.write_timeout = '1s'"]);
    world.app.first([accept().body(vec![b'x'; 4 << 20])]);
    let (head, body) = Provider::Veedeo.sign(task("deaf")).bytes();
    let mut deaf = open(&world);
    deaf.raw(&[head, body].concat()).unwrap();
    world.app.wait_for(1);
    for n in 0..5 {
        assert_eq!(world.veedeo(task(n)).text(), "{\"app\":200}");
    }
    pause(Duration::from_secs(2));
    assert_eq!(world.veedeo(task("deaf")).json("duplicate"), true, "the application has it");
}

#[test]
fn absent_applications_and_slow_senders_do_not_keep_the_door_shut() {
    let mut world = world_with(&[]);
    world.app.down();
    let _half_open: Vec<Line> = (0..100).map(|_| half_a_head(&world)).collect();
    for n in 0..10 {
        let reply = world.veedeo(task(n));
        assert_spooled(&reply);
        assert!(reply.took < Duration::from_secs(1), "took {:?}", reply.took);
    }
}

#[test]
fn a_sender_that_asks_on_and_on_and_reads_nothing_is_cut_off() {
    // A reply that is all head: nothing but the guard bounds how long it may wait to be taken.
    let kind = format!("text/{}", "x".repeat(1000));
    let world = world_with(&[
        "server.write_timeout = '1s'",
        "routes.veedeo.events = ['wanted']",
        &format!("routes.veedeo.ack.reply = {{ status = 200, content_type = '{kind}', body = '' }}"),
    ]);
    let request = Provider::Veedeo.sign(task("unwanted"));
    assert_eq!(world.send(&request).headers.get("content-type"), Some(kind));
    let (head, body) = request.bytes();
    let breath = [head, body].concat().repeat(50);
    let mut deaf = open(&world);
    let asking = std::thread::spawn(move || while deaf.raw(&breath).is_ok() {});
    let connections = || world.gateway.metrics().find("hookgate_connections", &[]);
    eventually("it is there", Duration::from_secs(5), || (connections() == Some(1.0)).then_some(()));
    eventually("it is cut off", Duration::from_secs(25), || asking.is_finished().then_some(()));
    eventually("it is gone", Duration::from_secs(5), || (connections() == Some(0.0)).then_some(()));
    asking.join().unwrap();
}

#[test]
fn whatever_is_refused_is_counted_and_logged_once() {
    let world = world();
    let many = |count: usize| "X: y\r\n".repeat(count);
    let heads = [
        format!("GET /a HTTP/1.1\r\nHost: h\r\n{}\r\n", many(255)),
        format!("GET /a HTTP/1.1\r\nHost: h\r\n{}\r\n", many(256)),
        "CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n".to_owned(),
        "GET /a HTTP/1.1\r\nHost: user@h\r\n\r\n".to_owned(),
        "GET http://other/a HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
        "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
        "GET /\\evil/<a>^`{|} HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
        "GET //other/a HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
        "GET /a HTTP/1.1\r\nHost: h:1:2, [::\r\n\r\n".to_owned(),
        "GET /a HTTP/1.1\r\nHost: h\r\nConnection: \"X-A\"\r\n\r\n".to_owned(),
        "M-SEARCH /a HTTP/1.0\r\nHost: h\r\n\r\n".to_owned(),
        "TRACE /a HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
        "GET /a HTTP/1.1\r\nHost: h\r\nUpgrade: h2c\r\n\r\n".to_owned(),
        "GET /a HTTP/1.1\r\nHost: h\r\nExpect: more\r\n\r\n".to_owned(),
    ];
    let statuses: Vec<u16> = heads
        .iter()
        .map(|head| {
            let mut line = open(&world);
            line.raw(head.as_bytes()).unwrap();
            line.read(Duration::from_secs(5)).unwrap().status
        })
        .collect();
    assert_eq!(statuses, [404, 431, 400, 400, 400, 400, 400, 404, 400, 400, 404, 400, 400, 400]);
    let refused = || world.gateway.metrics().count("hookgate_requests_total", &[("disposition", "refused")]);
    eventually("each is counted", Duration::from_secs(5), || (refused() >= heads.len() as u64).then_some(()));
    world.gateway.wait_for_logs(heads.len(), &["\"msg\":\"request\"", "\"refused\""]);
}

#[test]
fn a_length_that_is_only_announced_takes_no_memory() {
    let app = App::start();
    let mut setup =
        Setup::new(&app.url()).with(&["server.max_buffered_bytes = '8GiB'", "routes.veedeo.max_body_bytes = '1GiB'"]);
    setup.shell = Some("ulimit -v 6000000".into());
    let gateway = Gateway::start(setup);
    let head = b"POST /webhooks/veedeo HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000000\r\n\r\n";
    let mut senders: Vec<Line> = (0..8).map(|_| Line::open(&gateway.address()).expect("a connection")).collect();
    for line in &mut senders {
        line.raw(head).unwrap();
    }
    for piece in 1..=3_u32 {
        for line in &mut senders {
            line.raw(&[b'x'; 100]).unwrap();
        }
        let came = f64::from(piece) * 800.0;
        let buffered = || gateway.metrics().find("hookgate_buffered_bytes", &[]);
        eventually("the pieces are there", Duration::from_secs(5), || (buffered() == Some(came)).then_some(()));
    }
    assert_eq!(gateway.send(&Provider::Veedeo.sign(task(1))).status, 200);
}

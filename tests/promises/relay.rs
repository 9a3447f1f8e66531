//! What passes through: the body byte for byte, the sender's headers less those that are not its to send, and the
//! application's own answer. P9, P16 and section 4 of the contract.

use crate::world::act::{accept, answer};
use crate::world::events::{documented, task};
use crate::world::sender::{Line, Request};
use crate::world::sign::Provider;
use crate::world::{world, world_with};

#[test]
fn the_twelve_documented_events_reach_the_application_byte_for_byte() {
    let world = world();
    let events = documented();
    assert_eq!(events.len(), 12);
    for (count, event) in events.iter().enumerate() {
        let body = event.fresh();
        let request = event.provider.sign(body.clone());
        let reply = world.send(&request);
        assert_eq!((reply.status, reply.text().as_str()), (200, "{\"app\":200}"), "{}", event.event_type);
        let seen = world.app.seen().remove(count);
        assert_eq!(seen.body, body, "{}", event.event_type);
        assert_eq!((seen.method.as_str(), &seen.target), ("POST", &event.provider.path()));
        for (name, value) in &request.headers {
            assert_eq!(seen.headers.get(name).map(String::into_bytes).as_ref(), Some(value), "{name} is passed on");
        }
    }
    assert_eq!(world.app.count(), 12);
    let metrics = world.gateway.metrics();
    for route in ["veedeo", "videopilot"] {
        assert_eq!(metrics.count("hookgate_requests_total", &[("route", route), ("disposition", "delivered")]), 6);
    }
}

#[test]
fn the_application_is_told_which_event_it_holds() {
    let world = world();
    let bodies = [task("one"), task("two")];
    for body in &bodies {
        world.veedeo(body.clone());
    }
    let seen = world.app.seen();
    for seen in &seen {
        let id = seen.header("hookgate-event");
        assert!(id.len() == 36 && id.as_bytes()[14] == b'7', "a UUIDv7: {id}");
        let key = seen.key();
        assert!(key.len() >= 32 && key.bytes().all(|b| b.is_ascii_hexdigit()), "hex: {key}");
        assert_eq!((seen.header("hookgate-route").as_str(), seen.attempt(), seen.flagged()), ("veedeo", 1, false));
        assert!(seen.headers.all("hookgate-replay").is_empty());
        assert!(seen.headers.all("hookgate-possible-duplicate").is_empty());
        assert_eq!(seen.header("x-forwarded-for"), "127.0.0.1");
        assert_eq!(seen.header("x-forwarded-proto"), "http");
        assert_eq!(seen.header("x-forwarded-host"), "hooks.example.com");
        assert_eq!(seen.header("host"), "hooks.example.com");
        assert!(!seen.header("x-request-id").is_empty());
        assert_eq!(seen.header("traceparent").split('-').map(str::len).collect::<Vec<_>>(), [2, 32, 16, 2]);
    }
    for name in ["hookgate-event", "hookgate-key", "x-request-id", "traceparent"] {
        assert_ne!(seen[0].header(name), seen[1].header(name), "{name} is each event's own");
    }
}

#[test]
fn the_query_goes_along_untouched() {
    let world = world();
    let mut request = Provider::Veedeo.sign(task(1));
    request.target += "?a=b%2Fc&&d=%7e+&e";
    assert_eq!(world.send(&request).status, 200);
    assert_eq!(world.app.only().target, request.target);
}

#[test]
fn what_a_sender_may_not_say_never_reaches_the_application() {
    let world = world();
    let request = Provider::Veedeo
        .sign(task(1))
        .with("Hookgate-Replay", "true")
        .with("hookgate-possible-duplicate", "true")
        .with("HOOKGATE_KEY", "0000")
        .with("Hookgate-Anything", "evil")
        .with("hookgate_event", "evil")
        .with("X_Under_Score", "evil")
        .with("X-Forwarded-For", "6.6.6.6")
        .with("X-Forwarded-Proto", "evil")
        .with("X-Forwarded-Host", "evil.example")
        .with("X-Request-Id", "evil")
        .with("Connection", "keep-alive, X-Hop")
        .with("X-Hop", "evil")
        .with("Keep-Alive", "evil")
        .with("TE", "trailers")
        .with("Proxy-Connection", "evil");
    assert_eq!(world.send(&request).status, 200);
    let seen = world.app.only();
    let names = seen.headers.names();
    for name in &names {
        assert!(!name.contains('_'), "{name} has an underscore");
    }
    for name in ["hookgate-replay", "hookgate-possible-duplicate", "hookgate-anything", "x-hop", "keep-alive", "te"] {
        assert!(!names.contains(&name.to_owned()), "{name} came through");
    }
    let evil = seen.headers.0.iter().filter(|(_, value)| value.windows(4).any(|w| w == b"evil" || w == b"6.6."));
    assert_eq!(evil.count(), 0, "{:?}", seen.headers);
    assert_eq!(seen.header("x-forwarded-for"), "127.0.0.1");
    assert_eq!((seen.attempt(), seen.headers.all("hookgate-key").len()), (1, 1));
}

#[test]
fn what_a_sender_may_say_reaches_the_application_as_it_was() {
    let world = world();
    let request = Provider::Veedeo
        .sign(task(1))
        .with("User-Agent", "veedeo/3")
        .with("Authorization", "Basic eDp5")
        .with("Accept-Encoding", "gzip")
        .with("X-Environment", [b'c', b'a', b'f', 0xe9])
        .with("X-Twice", "first")
        .with("X-Twice", "second");
    assert_eq!(world.send(&request).status, 200);
    let seen = world.app.only();
    assert_eq!(seen.header("user-agent"), "veedeo/3");
    assert_eq!(seen.header("authorization"), "Basic eDp5");
    assert_eq!(seen.header("accept-encoding"), "gzip");
    assert_eq!(seen.headers.all("x-twice"), ["first", "second"]);
    let latin = seen.headers.0.iter().find(|(name, _)| name.eq_ignore_ascii_case("x-environment"));
    assert_eq!(latin.map(|(_, value)| value.as_slice()), Some(&[b'c', b'a', b'f', 0xe9][..]));
}

#[test]
fn only_a_trusted_proxy_is_believed() {
    let forwarded = |id: &str| {
        let request = Provider::Veedeo.sign(task(id));
        request.with("X-Forwarded-For", "203.0.113.7").with("X-Forwarded-Proto", "https").with("X-Request-Id", "req-1")
    };
    let trusting =
        world_with(&["server.trusted_proxies = ['127.0.0.0/8']", "routes.veedeo.allow_from = ['203.0.113.0/24']"]);
    assert_eq!(trusting.send(&forwarded("a")).status, 200);
    let seen = trusting.app.only();
    assert!(seen.header("x-forwarded-for").starts_with("203.0.113.7"), "{:?}", seen.headers);
    assert_eq!((seen.header("x-forwarded-proto").as_str(), seen.header("x-request-id").as_str()), ("https", "req-1"));

    let wary = world_with(&["routes.veedeo.allow_from = ['203.0.113.0/24']"]);
    let reply = wary.send(&forwarded("a"));
    assert_eq!((reply.status, reply.reason().as_str()), (403, "source_not_allowed"));
    assert_eq!(wary.app.count(), 0);
}

#[test]
fn the_answer_of_the_application_is_the_senders_answer() {
    let world = world();
    let answers = [answer(201).with("X-App", "yes").body("made"), answer(204).body(""), accept().body("{}")];
    world.app.first(answers);
    let replies: Vec<_> = (0..3).map(|n| world.veedeo(task(n))).collect();
    assert_eq!((replies[0].status, replies[0].text().as_str()), (201, "made"));
    assert_eq!(replies[0].headers.get("x-app").as_deref(), Some("yes"));
    assert_eq!((replies[1].status, replies[1].body.len()), (204, 0));
    assert_eq!((replies[2].status, replies[2].text().as_str()), (200, "{}"));
}

#[test]
fn a_sender_that_waits_for_100_continue_is_told_to_go_on() {
    let world = world();
    let mut request = Provider::GitHub.sign(vec![b'x'; 20_000]);
    request.expects_continue = true;
    let reply = world.send(&request);
    assert_eq!((reply.status, reply.interim), (200, 1));
    assert_eq!(world.app.only().body.len(), 20_000);
}

#[test]
fn one_connection_carries_many_events_and_refusals() {
    let world = world();
    let mut line = Line::open(&world.gateway.address()).unwrap();
    let statuses: Vec<u16> = (0..9)
        .map(|n| match n % 3 {
            0 => Provider::Veedeo.sign(task(n)),
            1 => Provider::Veedeo.sign(task(n)).chunked(&[1, 30]),
            _ => Provider::Veedeo.sign_at(task(n), 0, "wrong"),
        })
        .map(|request| line.send(&request).unwrap().status)
        .collect();
    assert_eq!(statuses, [200, 200, 401, 200, 200, 401, 200, 200, 401]);
    assert_eq!(world.app.count(), 6);
}

#[test]
fn other_paths_are_streamed_unverified_only_where_the_configuration_says_so() {
    let world = world_with(&["passthrough.paths = ['/health', '/static/*']"]);
    world.app.always(answer(203).body("from the application"));
    for (target, status) in [("/health", 203), ("/static/a/b.css?v=1", 203), ("/healthy", 404), ("/other", 404)] {
        let reply = world.send(&Request::get(target));
        assert_eq!(reply.status, status, "{target}");
    }
    let targets: Vec<String> = world.app.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(targets, ["/health", "/static/a/b.css?v=1"]);
    let posted = world.send(&Request::post("/static/upload", "unsigned"));
    assert_eq!((posted.status, world.app.seen()[2].body.as_slice()), (203, &b"unsigned"[..]));
}

#[test]
fn an_answer_without_a_body_leaves_the_connection_in_order() {
    let world = world();
    world.app.first([205, 204, 200].map(|status| answer(status).body("")));
    let mut line = Line::open(&world.gateway.address()).unwrap();
    let replies: Vec<_> = (0..3).map(|n| line.send(&Provider::Veedeo.sign(task(n))).unwrap()).collect();
    let told: Vec<_> = replies.iter().map(|reply| (reply.status, reply.headers.get("content-length"))).collect();
    assert_eq!(told, [(205, Some("0".to_owned())), (204, None), (200, Some("0".to_owned()))]);
}

//! What one reader takes for one thing and another for another: paths in other spellings, headers that come twice, under
//! another name or joined, routes with different secrets, what only a proxy may say. None of it gets a request past the
//! check, and none of it reaches the application in a doubtful form. P8, P10, P15.

use std::time::Duration;

use crate::outage::assert_spooled;
use crate::world::events::task;
use crate::world::sender::Request;
use crate::world::sign::Provider;
use crate::world::{World, world, world_with};

/// Spellings of `/webhooks/github` that some application reads as just that.
const SPELLINGS: [&str; 30] = [
    "//webhooks/github",
    "/webhooks//github",
    "/webhooks/github/",
    "/webhooks/github//",
    "/./webhooks/github",
    "/webhooks/./github",
    "/webhooks/x/../github",
    "/webhooks/..;/webhooks/github",
    "/webhooks/github/..",
    "/webhooks/github/.",
    "/webhooks%2fgithub",
    "/webhooks%2Fgithub",
    "/webhooks/%67ithub",
    "/webhooks/githu%62",
    "/webhooks/githu%2562",
    "/%77ebhooks/github",
    "/webhooks\\github",
    "/webhooks%5cgithub",
    "/WEBHOOKS/github",
    "/webhooks/GitHub",
    "/webhooks/github;a",
    "/webhooks/github;jsessionid=1",
    "/webhooks;a/github",
    "/webhooks/github%00",
    "/webhooks/github%20",
    "/webhooks/github%0a",
    "/webhooks/github%3fa",
    "/webhooks/github%23",
    "/webhooks/github.json",
    "/webhooks/%2e/github",
];

fn assert_reason(world: &World, request: &Request, status: u16, reason: &str) {
    let reply = world.send(request);
    assert_eq!((reply.status, reply.reason().as_str()), (status, reason), "{request:?}");
}

fn github(n: impl std::fmt::Display) -> Request {
    Provider::GitHub.sign(task(n))
}

fn at(target: &str, request: Request) -> Request {
    Request { target: target.into(), ..request }
}

#[test]
fn a_path_in_another_spelling_is_another_path() {
    let world = world();
    for target in SPELLINGS {
        assert_reason(&world, &at(target, github(1)), 404, "no_route");
    }
    assert_eq!(world.app.count(), 0);
    assert_eq!(world.send(&github(1)).status, 200);
}

#[test]
fn no_spelling_of_a_route_passes_through_unverified() {
    let world = world_with(&["passthrough.paths = ['/*']"]);
    for target in SPELLINGS {
        assert_reason(&world, &at(target, Request::post("", "forged")), 404, "no_route");
    }
    assert_eq!(world.app.count(), 0);
    assert_reason(&world, &Request::post("/webhooks/github", "forged"), 401, "signature_missing");
    for target in ["/", "/webhooks", "/webhooks/github/more", "/webhooks/githubs", "/x?/webhooks/github"] {
        assert_eq!(world.send(&Request::get(target)).status, 200, "{target}");
    }
}

#[test]
fn nothing_climbs_out_of_a_prefix_that_passes_through() {
    let world = world_with(&["passthrough.paths = ['/static/*']"]);
    for target in [
        "/static/../webhooks/github",
        "/static/..%2fwebhooks/github",
        "/static/%2e%2e/webhooks/github",
        "/static/%252e%252e/webhooks/github",
        "/static/..;/webhooks/github",
        "/static/..\\webhooks\\github",
        "/static/.../x",
        "/static//webhooks/github",
        "/static%2fa",
        "/STATIC/a",
        "/static",
    ] {
        assert_reason(&world, &at(target, Request::post("", "forged")), 404, "no_route");
    }
    assert_eq!(world.app.count(), 0);
}

#[test]
fn a_query_decides_nothing_and_goes_along() {
    let world = world();
    for (n, query) in ["?", "?a", "?/webhooks/veedeo", "?a=1&a=2", "?%00", "?..;/", "?X-Hub-Signature-256=sha256=00"]
        .iter()
        .enumerate()
    {
        let target = format!("/webhooks/github{query}");
        assert_eq!(world.send(&at(&target, github(n))).status, 200, "{query}");
        assert_eq!(world.app.seen()[n].target, target);
    }
    assert_reason(&world, &at("/?/webhooks/github", github("x")), 404, "no_route");
}

#[test]
fn what_is_signed_for_one_route_is_nothing_on_another() {
    let world = world_with(&[
        "routes.other.path = '/webhooks/other'",
        "routes.other.provider = 'github'",
        "routes.other.secrets = [{ literal = 'another secret, long enough' }]",
    ]);
    let other = |n: &str| at("/webhooks/other", Provider::GitHub.sign_at(task(n), 0, "another secret, long enough"));
    assert_reason(&world, &at("/webhooks/other", github("a")), 401, "signature_mismatch");
    assert_reason(&world, &at("/webhooks/github", other("a")), 401, "signature_mismatch");
    assert_eq!(world.app.count(), 0);
    assert_eq!(world.send(&github("a")).text(), "{\"app\":200}");
    assert_eq!(world.send(&other("a")).text(), "{\"app\":200}", "the same event of another route is another event");
    let seen = world.app.seen();
    assert_eq!((seen[0].header("hookgate-route"), seen[1].header("hookgate-route")), ("github".into(), "other".into()));
    assert_ne!(seen[0].key(), seen[1].key());
}

#[test]
fn a_signature_stands_once_under_its_own_name() {
    let world = world();
    let name = "X-Hub-Signature-256";
    let good = github(1);
    let value = good.headers.iter().find(|(n, _)| n == name).expect("a signature").1.clone();
    let value = String::from_utf8(value).unwrap();
    let bare = good.clone().without(name);
    for (request, reason) in [
        (good.clone().with(name, value.clone()), "signature_repeated"),
        (good.clone().with("x-hub-signature-256", "sha256=00"), "signature_repeated"),
        (good.clone().with(name, ""), "signature_repeated"),
        (bare.clone().with("X_Hub_Signature_256", value.clone()), "signature_missing"),
        (bare.clone().with("X-Hub_Signature-256", value.clone()), "signature_missing"),
        (bare.clone().with("X-Hub-Signature", value.clone()), "signature_missing"),
        (at(&format!("/webhooks/github?{name}={value}"), bare.clone()), "signature_missing"),
        (bare.clone().with(name, format!("{value}, {value}")), "signature_malformed"),
        (bare.clone().with(name, format!("{value},sha256={}", "0".repeat(64))), "signature_malformed"),
        (bare.clone().with(name, format!("{value};")), "signature_malformed"),
        (bare.clone().with(name, format!("\"{value}\"")), "signature_malformed"),
        (bare.clone().with(name, value.to_uppercase()), "signature_malformed"),
        (bare.clone().with(name, value.replace("sha256=", "sha256 = ")), "signature_malformed"),
    ] {
        assert_reason(&world, &request, 401, reason);
    }
    assert_eq!(world.app.count(), 0);
    let beside = good.with("X_Hub_Signature_256", "sha256=00").with("X-Hub-Signature-256-Old", "kept");
    assert_eq!(world.send(&beside).status, 200);
    let headers = world.app.only().headers;
    assert_eq!(headers.all(name), [value]);
    assert!(headers.all("x_hub_signature_256").is_empty());
}

#[test]
fn a_signature_in_a_trailer_is_no_signature() {
    let world = world();
    let good = github(1);
    let (name, value) = good.headers.iter().find(|(n, _)| n.starts_with("X-Hub-S")).expect("a signature").clone();
    let bare = good.without(&name).chunked(&[1000]);
    let (head, mut body) = bare.bytes();
    body.truncate(body.len() - 2);
    let trailer = format!("{name}: {}\r\n\r\n", String::from_utf8(value).unwrap());
    let mut line = crate::world::sender::Line::open(&world.gateway.address()).unwrap();
    line.raw(&[head, body, trailer.into_bytes()].concat()).unwrap();
    let reply = line.read(Duration::from_secs(5)).unwrap();
    assert_eq!((reply.status, reply.reason().as_str()), (401, "signature_missing"));
    assert_eq!(world.app.count(), 0);
}

#[test]
fn a_header_that_was_checked_cannot_be_declared_the_connections_own() {
    let world = world();
    for (request, options) in [
        (Provider::Veedeo.sign(task(1)), "X-Veedeo-Signature"),
        (Provider::Veedeo.sign(task(1)), "close, x-veedeo-timestamp"),
        (github(1), "X-Hub-Signature-256"),
        (github(1), "keep-alive,,X-GitHub-Delivery"),
        (Provider::Stripe.sign(task(1)), "stripe-signature"),
        (Provider::StandardWebhooks.sign(task(1)), "webhook-id"),
        (github(1), "X-Forwarded-For"),
        (github(1), "Hookgate-Key"),
        (github(1), "Content-Length"),
        (github(1), "Host"),
    ] {
        assert_reason(&world, &request.with("Connection", options), 400, "bad_request");
    }
    assert_eq!(world.app.count(), 0);
}

#[test]
fn what_only_the_gateway_says_is_the_gateways_from_disk_too() {
    let mut world = world();
    world.app.down();
    let request = Provider::Veedeo
        .sign(task(1))
        .with("Hookgate-Key", "evil")
        .with("HOOKGATE-EVENT", "evil")
        .with("hookgate_event", "evil")
        .with("Hookgate_Replay", "true")
        .with("Hookgate-Replay", "true")
        .with("Hookgate-Attempt", "evil")
        .with("Hookgate-Route", "evil")
        .with("X-Forwarded-For", "evil, 6.6.6.6")
        .with("X-Forwarded-For", "6.6.6.7")
        .with("X_Forwarded_For", "evil")
        .with("X-Forwarded-Host", "evil.example")
        .with("X-Forwarded-Proto", "evil")
        .with("X-Real-IP", "evil")
        .with("Forwarded", "for=evil")
        .with("X-Request-Id", "evil");
    assert_spooled(&world.send(&request));
    world.app.up();
    world.gateway.wait_for_empty_spool(Duration::from_secs(30));
    let seen = world.app.only();
    let evil = seen.headers.0.iter().filter(|(_, value)| value.windows(4).any(|w| w == b"evil" || w == b"6.6."));
    assert_eq!(evil.count(), 0, "{seen:?}");
    for name in ["hookgate-key", "hookgate-event", "hookgate-attempt", "hookgate-route", "x-forwarded-for"] {
        assert_eq!(seen.headers.all(name).len(), 1, "{name}: {seen:?}");
    }
    assert!(seen.headers.all("hookgate-replay").is_empty());
    assert!(seen.headers.names().iter().all(|name| !name.contains('_')));
}

#[test]
fn an_idempotency_key_of_the_senders_decides_nothing_and_goes_along() {
    let world = world();
    let twins = |n: u32, first: &str, second: &str| {
        Provider::Veedeo.sign(task(n)).with("Idempotency-Key", first).with("Idempotency-Key", second)
    };
    assert_eq!(world.send(&twins(1, "a", "b")).text(), "{\"app\":200}");
    assert_eq!(world.send(&twins(2, "a", "b")).text(), "{\"app\":200}", "another event under the same key");
    assert_eq!(world.send(&twins(1, "c", "d")).json("duplicate"), true, "the same event under another key");
    let seen = world.app.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0].headers.all("idempotency-key"), ["a", "b"]);
    assert_ne!(seen[0].key(), seen[1].key());
}

#[test]
fn of_a_chain_only_what_the_trusted_proxies_wrote_is_believed() {
    let world = world_with(&[
        "server.trusted_proxies = ['127.0.0.1/32', '10.0.0.0/8']",
        "routes.github.allow_from = ['203.0.113.0/24', '2001:db8::/32']",
    ]);
    let from =
        |n: usize, chain: &[&str]| chain.iter().fold(github(n), |request, hop| request.with("X-Forwarded-For", *hop));
    let believed: [&[&str]; 6] = [
        &["203.0.113.7"],
        &["6.6.6.6, 203.0.113.7"],
        &["6.6.6.6", "203.0.113.7"],
        &["203.0.113.7, 10.1.2.3"],
        &["not an address, 2001:db8::1"],
        &["::ffff:203.0.113.7"],
    ];
    for (n, chain) in believed.iter().enumerate() {
        assert_eq!(world.send(&from(n, chain)).status, 200, "{chain:?}");
    }
    let doubted: [&[&str]; 6] = [
        &[],
        &["6.6.6.6"],
        &["203.0.113.7, 6.6.6.6"],
        &["203.0.113.7", "6.6.6.6"],
        &["203.0.113.7, not an address"],
        &["10.0.0.1"],
    ];
    for chain in doubted {
        assert_reason(&world, &from(99, chain), 403, "source_not_allowed");
    }
    assert_eq!(world.app.count(), believed.len());
}

#[test]
fn who_stands_outside_the_trusted_networks_speaks_for_itself_alone() {
    let world = world_with(&[
        "server.trusted_proxies = ['10.0.0.0/8', '127.0.0.2/32', '::/0']",
        "routes.github.allow_from = ['203.0.113.0/24']",
    ]);
    assert_reason(&world, &github(1).with("X-Forwarded-For", "203.0.113.7"), 403, "source_not_allowed");
    let told =
        Provider::Veedeo.sign(task(1)).with("X-Forwarded-Host", "evil.example").with("X-Forwarded-Proto", "https");
    assert_eq!(world.send(&told).status, 200);
    let seen = world.app.only();
    assert_eq!(seen.header("x-forwarded-for"), "127.0.0.1");
    assert_eq!(
        (seen.header("x-forwarded-host").as_str(), seen.header("x-forwarded-proto").as_str()),
        ("hooks.example.com", "http")
    );
    assert_eq!(seen.header("host"), "hooks.example.com");
}

#[test]
fn a_host_that_a_trusted_proxy_let_through_unread_does_not_become_the_applications() {
    let world = world_with(&["server.trusted_proxies = ['127.0.0.0/8']"]);
    for (n, host) in ["a.example, evil.example", "evil.example/x", "user@evil.example", "a b", "evil.example:0x50"]
        .iter()
        .enumerate()
    {
        assert_eq!(world.send(&github(n).with("X-Forwarded-Host", *host)).status, 200, "{host}");
        assert_eq!(world.app.seen()[n].header("host"), "hooks.example.com", "{host}");
    }
    let good = github("good").with("X-Forwarded-Host", "b.example:8443");
    assert_eq!(world.send(&good).status, 200);
    assert_eq!(world.app.seen()[5].header("host"), "b.example:8443");
}

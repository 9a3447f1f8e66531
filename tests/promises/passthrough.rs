//! What passes through unverified is bounded like everything else: the application's silence, the sender's slowness and
//! the sender's departure each end it. P12, P15 and the limits of section 2 of the contract.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::world::act::{Act, accept};
use crate::world::app::App;
use crate::world::clock::{SOON, eventually};
use crate::world::events::task;
use crate::world::gateway::Gateway;
use crate::world::mounts::Mounts;
use crate::world::needs::given;
use crate::world::sender::{Line, Request};
use crate::world::setup::Setup;
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
        .with("X-Real-IP", "6.6.6.6")
        .with("Forwarded", "for=6.6.6.6")
        .with("X-Kept", "y");
    assert_eq!(world.send(&request).status, 200);
    let headers = world.app.only().headers;
    let ours = ["x-hop", "keep-alive", "te", "trailer", "proxy-authorization", "hookgate-key", "hookgate_key"];
    for name in ours.into_iter().chain(["x-real-ip", "forwarded"]) {
        assert!(headers.all(name).is_empty(), "{name} in {headers:?}");
    }
    assert_eq!((headers.all("x-forwarded-for"), headers.all("x-kept")), (vec!["127.0.0.1".into()], vec!["y".into()]));
}

#[test]
fn the_applications_prefix_and_name_hold_for_what_passes_through_too() {
    let app = App::start();
    // The letters of a scheme mean the same, large or small (RFC 3986 section 3.1).
    let url = format!("{}/inner", app.url().replace("http:", "Http:"));
    let lines = ["passthrough.paths = ['/*']", "app.preserve_host = false"];
    let gateway = Gateway::start(Setup::new(&url).with(&lines));
    assert_eq!(gateway.send(&Provider::Veedeo.sign(task(1))).status, 200);
    assert_eq!(gateway.send(&Request::get("/a%20b?c=%2Fd")).status, 200);
    assert_eq!(gateway.send(&Request::get("/inner/webhooks/veedeo")).status, 200);
    let (seen, host) = (app.seen(), app.url().trim_start_matches("http://").to_owned());
    let targets: Vec<&str> = seen.iter().map(|seen| seen.target.as_str()).collect();
    assert_eq!(targets, ["/inner/webhooks/veedeo", "/inner/a%20b?c=%2Fd", "/inner/inner/webhooks/veedeo"]);
    assert!(seen.iter().all(|seen| seen.header("host") == host), "{seen:?}");
}

#[test]
fn nothing_unverified_reaches_the_place_where_the_application_gets_a_routes_events() {
    let app = App::start();
    let own = format!("routes.veedeo.app.url = '{}/inner'", app.url());
    let gateway = Gateway::start(Setup::new(&app.url()).with(&[&own, "passthrough.paths = ['/*', '/inner/*']"]));
    for path in
        ["/inner/webhooks/veedeo", "/inner/webhooks/veedeo/", "/Inner/webhooks%2Fveedeo", "/inner/webhooks/veedeo.json"]
    {
        assert_eq!(gateway.send(&Request::post(path, task("forged"))).status, 404, "{path}");
    }
    assert_eq!(app.count(), 0);
    assert_eq!(gateway.send(&Provider::Veedeo.sign(task(1))).status, 200);
    assert_eq!(gateway.send(&Request::get("/inner/other")).status, 200);
    let targets: Vec<String> = app.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(targets, ["/inner/webhooks/veedeo", "/inner/other"]);
}

#[test]
fn what_the_application_says_is_not_in_the_log_where_it_cannot_be_read() {
    let world = world_with(&[PATHS]);
    let answer = b"HTTP/1.1 200 OK\r\nSet-Cookie: session=CANARY\r\nno colon here\r\n\r\n{\"token\":\"CANARY\"}";
    world.app.first([Act::Raw(answer.to_vec())]);
    assert_eq!(world.send(&Request::get("/through/a")).status, 502);
    let line = world.gateway.wait_for_log(&["passthrough", "InvalidHTTPHeader"]);
    assert!(!line.contains("CANARY") && !world.gateway.said().iter().any(|line| line.contains("CANARY")), "{line}");
}

#[test]
fn who_was_told_to_go_on_is_told_that_it_went_wrong() {
    let world = world_without_app(&[PATHS]);
    let mut request = Request::post("/through/a", vec![b'x'; 2000]);
    request.expects_continue = true;
    let reply = world.send(&request);
    assert_eq!((reply.status, reply.interim), (502, 1));
    world.gateway.wait_for_log(&["passthrough", "502"]);
}

#[test]
fn interim_answers_take_no_room_however_many_there_are() {
    let world = world_with(&[PATHS]);
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(700);
    world.app.first([Act::Raw(format!("{hints}HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").into_bytes())]);
    let reply = world.send(&Request::get("/through/a"));
    assert_eq!((reply.status, reply.interim, reply.text().as_str()), (200, 700, "hello"));
}

#[test]
fn an_answer_to_the_old_protocol_has_no_chunks_and_ends_with_the_connection() {
    let world = world_with(&[PATHS]);
    let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n";
    for answer in [chunks, "HTTP/1.1 200 OK\r\n\r\nhello!", "HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\nhello!"] {
        world.app.first([Act::Raw(answer.as_bytes().to_vec())]);
        let mut line = TcpStream::connect(world.gateway.address()).unwrap();
        line.set_read_timeout(Some(SOON)).unwrap();
        line.write_all(b"GET /through/a HTTP/1.0\r\nHost: h\r\n\r\n").unwrap();
        let mut reply = String::new();
        line.read_to_string(&mut reply).unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        assert!(!head.to_ascii_lowercase().contains("transfer-encoding") && head.contains(" 200 "), "{head}");
        assert_eq!(body, "hello!");
    }
}

#[test]
fn an_address_of_the_applications_name_that_takes_no_connection_leaves_the_others() {
    let Some(mounts) = given(Mounts::with_tmpfs("1m")) else { return };
    mounts.cover("/etc/hosts", "::1 app.hookgate.test\n127.0.0.1 app.hookgate.test\n");
    let app = App::start();
    let port = app.url().rsplit(':').next().unwrap().to_owned();
    let mut setup = Setup::new(&format!("http://app.hookgate.test:{port}")).with(&[PATHS]);
    setup.shell = Some(mounts.entrance());
    let gateway = Gateway::start(setup);
    assert_eq!(gateway.send(&Provider::Veedeo.sign(task(1))).status, 200);
    assert_eq!(gateway.send(&Request::post("/through/a", "x")).status, 200);
    assert_eq!(app.count(), 2);
}

#[test]
fn what_was_sent_over_a_kept_connection_is_not_sent_again_by_itself() {
    let world = world_with(&[PATHS]);
    for method in ["GET", "DELETE"] {
        assert_eq!(world.send(&Request::get("/through/a")).status, 200);
        world.app.first([Act::HangUp]);
        let before = world.app.count();
        let request = Request { method: method.into(), ..Request::get("/through/b") };
        assert_eq!(world.send(&request).status, 502, "{method}");
        assert_eq!(world.app.count(), before + 1, "{method}");
    }
}

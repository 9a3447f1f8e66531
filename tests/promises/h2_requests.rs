//! Requests over HTTP/2 are read, judged and answered as those over HTTP/1.1 are: P8, P9, P12, P16, P18 and section 3 of the
//! contract, for who has `server.tls.h2 = true`.

use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::process::Signal;

use crate::h2_heads::GOOD;
use crate::tls::Papers;
use crate::world::act::{Act, Gate, accept, answer};
use crate::world::app::App;
use crate::world::clock::{SOON, eventually, pause};
use crate::world::events::{task, wide_task};
use crate::world::gateway::Gateway;
use crate::world::http2::{
    DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Hand, Link, PING, SETTINGS, fields, frame, offering, reason,
};
use crate::world::sender::Request;
use crate::world::sign::Provider;

const H2: &str = "server.tls.h2 = true";
const THROUGH: &str = "passthrough.paths = ['/through/*']";

/// An application, and a gateway with HTTP/2 and these lines in front of it.
pub(crate) fn world(lines: &[&str]) -> (Papers, App, Gateway) {
    let (papers, app) = (Papers::new(), App::start());
    let gateway = papers.gateway(&app, &[&[H2, THROUGH], lines].concat());
    (papers, app, gateway)
}

#[test]
fn a_signed_event_comes_in_over_http_2_and_the_application_gets_it_as_ever() {
    let (papers, app, gateway) = world(&[]);
    let link = Link::open(&gateway, &papers);
    let request = Provider::Veedeo.sign(task("a"));
    let reply = link.send(&request).unwrap();
    assert_eq!((reply.status, reply.text().as_str()), (200, "{\"app\":200}"));
    for of_a_connection in ["connection", "transfer-encoding", "keep-alive"] {
        assert_eq!(reply.headers.all(of_a_connection), Vec::<String>::new());
    }
    let seen = app.only();
    assert_eq!(seen.body, request.body);
    assert_eq!(seen.headers.all("Host"), ["hooks.example.com"]);
    assert_eq!(seen.headers.all("X-Forwarded-Proto"), ["https"]);
    assert_eq!(reply.headers.all("x-request-id"), seen.headers.all("X-Request-Id"));
    assert_eq!(link.send(&request).unwrap().text(), "{\"received\":true,\"duplicate\":true}");
    let counted = |disposition| gateway.metrics().count("hookgate_requests_total", &[("disposition", disposition)]);
    assert_eq!((counted("delivered"), counted("duplicate")), (1, 1));
}

#[test]
fn a_body_in_many_frames_arrives_byte_for_byte() {
    let (papers, app, gateway) = world(&[]);
    let link = Link::open(&gateway, &papers);
    for (n, piece) in [1_000, 16_384, 65_000, usize::MAX].into_iter().enumerate() {
        let request = Provider::Veedeo.sign(wide_task(n, 900_000));
        let with_length = request.clone().with("Content-Length", request.body.len().to_string());
        let request = if n % 2 == 0 { request } else { with_length };
        let reply = link.runtime.block_on(link.begin(&request, piece)).unwrap();
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert!(app.seen()[n].body == request.body, "frames of {piece}");
    }
}

#[test]
fn a_hundred_requests_are_served_at_the_same_time_on_one_connection() {
    let (papers, app, gateway) = world(&["app.max_in_flight = 200"]);
    let gate = Gate::closed();
    app.always(accept().behind(&gate));
    let link = Link::open(&gateway, &papers);
    let requests: Vec<Request> = (0..100).map(|n| Provider::Veedeo.sign(task(n))).collect();
    let replies = std::thread::scope(|scope| {
        let sending = scope.spawn(|| link.at_once(&requests));
        app.wait_for(100);
        gate.open();
        sending.join().unwrap()
    });
    assert!(replies.iter().all(|reply| reply.as_ref().unwrap().status == 200));
    assert_eq!(app.count(), 100);
    assert_eq!(gateway.metrics().count("hookgate_requests_total", &[("disposition", "delivered")]), 100);
}

#[test]
fn what_passes_through_does_so_over_http_2_with_any_framing_of_the_answer() {
    let (papers, app, gateway) = world(&[]);
    let link = Link::open(&gateway, &papers);
    let long = "x".repeat(300_000);
    let chunked = |body: &str| {
        let head = "HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
        Act::Raw(format!("{head}{:x}\r\n{body}\r\n0\r\n\r\n", body.len()).into_bytes())
    };
    let until_closed = Act::Raw(b"HTTP/1.1 200 OK\r\n\r\nto the end".to_vec());
    for (act, status, body) in [
        (accept(), 200, "{\"app\":200}"),
        (answer(200).body(long.clone()), 200, long.as_str()),
        (chunked("in chunks"), 201, "in chunks"),
        (chunked(&long), 201, long.as_str()),
        (until_closed, 200, "to the end"),
        (Act::Raw(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n".to_vec()), 204, ""),
        (answer(404), 404, "{\"app\":404}"),
    ] {
        for request in [Request::get("/through/a?b=c"), Request::post("/through/a?b=c", long.as_str())] {
            app.always(act.clone());
            let reply = link.send(&request).unwrap();
            assert_eq!(reply.status, status, "{act:?}");
            assert!(reply.text() == body, "{act:?}: {} bytes", reply.body.len());
            let seen = app.seen().pop().unwrap();
            assert_eq!((seen.method.as_str(), seen.target.as_str()), (request.method.as_str(), "/through/a?b=c"));
            assert!(seen.body == request.body);
            assert_eq!(seen.headers.all("Host"), ["hooks.example.com"]);
            assert_eq!(seen.headers.all("X-Forwarded-Proto"), ["https"]);
        }
    }
    let head = Request { method: "HEAD".into(), ..Request::get("/through/a") };
    app.always(Act::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n".to_vec()));
    let reply = link.send(&head).unwrap();
    assert_eq!((reply.status, reply.body.len(), reply.headers.all("content-length")), (200, 0, vec!["5".to_owned()]));
    app.always(Act::HangUp);
    assert_eq!(link.send(&Request::get("/through/a")).unwrap().status, 502);
    // An answer that breaks off is not taken for whole, and costs the connection nothing.
    app.always(Act::BrokenBody(200));
    assert!(link.send(&Request::get("/through/a")).is_err());
    app.always(accept());
    assert_eq!(link.send(&Request::get("/through/a")).unwrap().status, 200);
}

#[test]
fn what_is_refused_is_refused_with_its_reason_and_the_connection_stays() {
    let (papers, app, gateway) = world(&["routes.veedeo.max_body_bytes = '100KiB'"]);
    let link = Link::open(&gateway, &papers);
    let good = Provider::Veedeo.sign(task("a"));
    let large = Provider::Veedeo.sign(wide_task("large", 2_000_000));
    let announced = large.clone().with("Content-Length", large.body.len().to_string());
    let mut tampered = good.clone();
    tampered.body[0] ^= 1;
    for (request, status, reason) in [
        (Request::get("/nowhere"), 404, "no_route"),
        (Request::get("/webhooks/veedeo"), 405, "method_not_allowed"),
        (good.clone().without("X-Veedeo-Signature"), 401, "signature_missing"),
        (tampered, 401, "signature_mismatch"),
        (large, 413, "body_too_large"),
        (announced, 413, "body_too_large"),
        (good.clone().with("X-Long", vec![b'x'; 40_000]), 431, "header_too_large"),
    ] {
        let reply = link.send(&request).unwrap();
        assert_eq!((reply.status, reply.reason().as_str()), (status, reason));
        // The line follows the reply.
        gateway.wait_for_log(&["\"disposition\":\"refused\"", reason]);
    }
    assert_eq!(app.count(), 0);
    assert_eq!(link.send(&good).unwrap().status, 200);
    let refused = gateway
        .metrics()
        .series()
        .iter()
        .filter(|one| one.name == "hookgate_refusals_total")
        .map(|one| one.value)
        .sum::<f64>();
    assert!((refused - 7.0).abs() < f64::EPSILON, "{refused}");
}

#[test]
fn a_sender_that_waits_to_be_told_to_go_on_is_told() {
    let (papers, app, gateway) = world(&[]);
    let mut hand = Hand::open(&gateway, &papers);
    let request = Provider::Veedeo.sign(task("a"));
    let length = request.body.len().to_string();
    let mut sent: Vec<(String, Vec<u8>)> = [(":method", "POST"), (":scheme", "https"), (":authority", "h")]
        .map(|(name, value)| (name.to_owned(), value.into()))
        .to_vec();
    sent.push((":path".into(), request.target.clone().into()));
    sent.extend(request.headers.iter().map(|(name, value)| (name.to_lowercase(), value.clone())));
    sent.extend([("content-length".into(), length.into()), ("expect".into(), b"100-continue".to_vec())]);
    let sent: Vec<(&str, &[u8])> = sent.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
    hand.write(&frame(HEADERS, END_HEADERS, 1, &fields(&sent))).unwrap();
    let told = hand.until(HEADERS, 1).unwrap();
    assert!(told.flags & END_STREAM == 0 && told.payload.len() < 10, "{told:?}");
    assert_eq!(app.count(), 0);
    hand.write(&frame(DATA, END_STREAM, 1, &request.body)).unwrap();
    assert_eq!(hand.until(HEADERS, 1).unwrap().payload[0], 0x88);
    assert_eq!(app.only().body, request.body);
}

#[test]
fn who_does_not_ask_for_http_2_or_is_not_offered_it_gets_http_1_1() {
    let (papers, app, gateway) = world(&[]);
    let plain = papers.gateway(&app, &["server.tls.h2 = false"]);
    for (gateway, offered, agreed) in [
        (&gateway, &["h2", "http/1.1"][..], Some(&b"h2"[..])),
        (&gateway, &["http/1.1"], Some(b"http/1.1")),
        (&gateway, &[], None),
        (&plain, &["h2", "http/1.1"], Some(b"http/1.1")),
    ] {
        let sender = offering(&papers, offered);
        let line = sender.connect(gateway, "hooks.example.com").unwrap();
        assert_eq!(line.conn.alpn_protocol(), agreed, "{offered:?}");
        if agreed != Some(b"h2") {
            let request = Provider::Veedeo.sign(task(format!("{offered:?}{}", gateway.address())));
            assert!(sender.send(gateway, &request).unwrap().starts_with("HTTP/1.1 200"));
        }
    }
    assert!(offering(&papers, &["h2"]).connect(&plain, "hooks.example.com").is_err());
    // Without TLS nobody speaks it.
    let open = Gateway::start(crate::world::setup::Setup::new(&app.url()));
    let mut line = crate::world::sender::Line::open(&open.address()).unwrap();
    line.raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    assert_eq!(line.read(SOON).unwrap().status, 400);
}

#[test]
fn a_request_that_its_sender_takes_back_is_an_event_all_the_same() {
    let (papers, app, gateway) = world(&[]);
    let gate = Gate::closed();
    app.always(accept().behind(&gate));
    let link = Link::open(&gateway, &papers);
    let request = Provider::Veedeo.sign(task("a"));
    let (response, mut body) = link.head(&request);
    link.runtime.block_on(async {
        body.send_data(Bytes::from(request.body.clone()), true).unwrap();
    });
    app.wait_for(1);
    body.send_reset(h2::Reason::CANCEL);
    drop((response, body));
    pause(Duration::from_millis(200));
    gate.open();
    let told = gateway.wait_for_log(&["\"disposition\":\"delivered\""]);
    assert!(told.contains("\"taken\":false"), "{told}");
    app.always(accept());
    assert_eq!(link.send(&request).unwrap().text(), "{\"received\":true,\"duplicate\":true}");
    assert_eq!(app.count(), 1);
}

#[test]
fn at_sigterm_open_requests_are_answered_and_the_sender_is_told_to_go_elsewhere() {
    let (papers, app, mut gateway) = world(&[]);
    let gate = Gate::closed();
    app.always(accept().behind(&gate));
    let mut idle = Hand::open(&gateway, &papers);
    idle.until(SETTINGS, 0).unwrap();
    let link = Link::open(&gateway, &papers);
    let reply = link.runtime.spawn(link.begin(&Provider::Veedeo.sign(task("a")), usize::MAX));
    app.wait_for(1);
    gateway.signal(Signal::TERM);
    let told = idle.until(GOAWAY, 0).unwrap();
    assert_eq!(reason(&told), 0);
    pause(Duration::from_millis(500));
    gate.open();
    assert_eq!(link.runtime.block_on(reply).unwrap().unwrap().status, 200);
    assert!(gateway.wait_for_end(Duration::from_secs(20)).success());
    assert!(link.ended().is_ok(), "it ends in peace");
    assert_eq!(app.count(), 1);
}

#[test]
fn who_is_told_to_go_and_asks_on_is_served_for_a_moment_and_no_longer() {
    let (papers, _app, mut gateway) = world(&[]);
    let mut hand = Hand::open(&gateway, &papers);
    hand.until(SETTINGS, 0).unwrap();
    gateway.signal(Signal::TERM);
    let from = Instant::now();
    // It never answers the ping behind the word to go.
    let asked = GOOD.map(|(name, value)| if name == ":path" { (name, &b"/nowhere"[..]) } else { (name, value) });
    for stream in (1..).step_by(2) {
        if hand.write(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &fields(&asked))).is_err() {
            break;
        }
        pause(Duration::from_millis(300));
        assert!(from.elapsed() < Duration::from_secs(12), "it is still served");
    }
    assert!(gateway.wait_for_end(Duration::from_secs(5)).success());
}

#[test]
fn a_connection_on_which_nothing_is_asked_for_ends_whatever_else_comes() {
    let (papers, _app, gateway) = world(&["server.idle_timeout = '1s'"]);
    let from = Instant::now();
    let mut hand = Hand::open(&gateway, &papers);
    let mut frames = Vec::new();
    while let Some(frame) = hand.next(SOON) {
        frames.push(frame);
        pause(Duration::from_millis(50));
        let _gone = hand.write(&frame_of_a_ping());
    }
    let took = from.elapsed();
    assert!((Duration::from_millis(900)..Duration::from_secs(4)).contains(&took), "{took:?}");
    assert!(frames.iter().any(|frame| frame.kind == PING), "pings were answered: {frames:?}");
    let told = frames.iter().find(|frame| frame.kind == GOAWAY).unwrap();
    assert_eq!(reason(told), 0);
}

fn frame_of_a_ping() -> Vec<u8> {
    frame(PING, 0, 0, &[7; 8])
}

#[test]
fn what_is_not_complete_in_time_is_cut() {
    let (papers, app, gateway) = world(&["server.header_timeout = '1s'", "server.body_timeout = '1s'"]);
    let in_time = |from: Instant| (Duration::from_millis(900)..Duration::from_secs(4)).contains(&from.elapsed());
    // Nothing of HTTP/2 behind the TLS handshake.
    let from = Instant::now();
    assert_eq!(Hand::silent(&gateway, &papers).rest(SOON).iter().filter(|one| one.kind != SETTINGS).count(), 0);
    assert!(in_time(from), "{:?}", from.elapsed());
    // Half a head.
    let mut hand = Hand::open(&gateway, &papers);
    let from = Instant::now();
    hand.write(&frame(HEADERS, 0, 1, &fields(&GOOD))).unwrap();
    let rest = hand.rest(SOON);
    assert!(in_time(from), "{:?}", from.elapsed());
    assert_eq!(rest.iter().find(|frame| frame.kind == GOAWAY).map(reason), Some(11), "{rest:?}");
    // Half a body, on a path that passes through and on a route: 408, and the connection stays.
    for path in [&b"/through/a"[..], b"/webhooks/veedeo"] {
        let mut hand = Hand::open(&gateway, &papers);
        let sent = GOOD.map(|(name, value)| if name == ":path" { (name, path) } else { (name, value) });
        let from = Instant::now();
        hand.write(&[frame(HEADERS, END_HEADERS, 1, &fields(&sent)), frame(DATA, 0, 1, b"bo")].concat()).unwrap();
        let reply = hand.until(HEADERS, 1).unwrap();
        assert!(in_time(from), "{:?}", from.elapsed());
        assert!(reply.payload.starts_with(&STATUS_408), "{reply:?}");
        hand.write(&frame(HEADERS, END_HEADERS | END_STREAM, 3, &fields(&GOOD))).unwrap();
        assert_eq!(hand.until(HEADERS, 3).unwrap().payload[0], 0x88);
    }
    assert_eq!(app.count(), 2);
}

/// `:status: 408`: the name's number, and the value in Huffman code (RFC 7541 appendix B).
const STATUS_408: [u8; 5] = [0x48, 0x83, 0x68, 0x0f, 0x7f];

#[test]
fn who_does_not_take_a_reply_loses_it_and_then_the_connection() {
    let lines = ["server.write_timeout = '1s'", "server.idle_timeout = '2s'"];
    let (papers, app, gateway) = world(&lines);
    app.always(answer(200).body("x".repeat(2_000_000)));
    // A window of nothing: the reply's head comes, its body cannot.
    let mut settings = h2::client::Builder::new();
    settings.initial_window_size(0);
    let link = Link::with(&gateway, &papers, &settings);
    let request = Provider::Veedeo.sign(task("a"));
    let (response, mut body) = link.head(&request);
    body.send_data(Bytes::from(request.body), true).unwrap();
    let response = link.runtime.block_on(response).unwrap();
    assert_eq!(response.status(), 200);
    let from = Instant::now();
    let broken = link.runtime.block_on(async { response.into_body().data().await });
    assert!(broken.unwrap().is_err() && from.elapsed() < Duration::from_secs(4), "{:?}", from.elapsed());
    gateway.wait_for_log(&["\"disposition\":\"delivered\"", "\"taken\":false"]);
    eventually("the connection ends", SOON, || link.is_over().then_some(()));
    // Wide windows, and nobody who reads from the socket.
    let mut hand = Hand::open(&gateway, &papers);
    let wide = [frame(SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]), frame(8, 0, 0, &[0x7f, 0, 0, 0])].concat();
    hand.write(&wide).unwrap();
    for n in 0..8 {
        hand.write(&frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &fields(&GOOD))).unwrap();
    }
    eventually("nobody is connected", SOON, || {
        (gateway.metrics().find("hookgate_connections", &[])? == 0.0).then_some(())
    });
}

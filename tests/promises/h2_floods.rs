//! Floods over HTTP/2: whoever sends what is no request, or takes its requests back, is cut before it costs more than it
//! should, and nobody else notices. P15; the bounds are those of docs/HARDENING.md.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::tls::Papers;
use crate::world::Closing;
use crate::world::act::accept;
use crate::world::app::App;
use crate::world::clock::{SOON, eventually, pause};
use crate::world::events::task;
use crate::world::gateway::Gateway;
use crate::world::http2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Hand, Link, PING, PRIORITY, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, fields, frame, reason,
};
use crate::world::sign::Provider;

/// RFC 9113 section 7.
const ENHANCE_YOUR_CALM: u32 = 11;

/// What a flood may add to the gateway's memory, in bytes.
const ROOM: u64 = 32 << 20;

fn world(lines: &[&str]) -> (Papers, App, Gateway) {
    let (papers, app) = (Papers::new(), App::start());
    let own = ["server.tls.h2 = true", "passthrough.paths = ['/through/*']"];
    let gateway = papers.gateway(&app, &[&own, lines].concat());
    (papers, app, gateway)
}

/// Memory of the gateway now, in bytes.
fn resident(gateway: &Gateway) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

/// The fields of a request for a path, as HPACK writes them.
fn request(path: &[u8]) -> Vec<u8> {
    fields(&[(":method", b"POST"), (":scheme", b"https"), (":authority", b"h"), (":path", path)])
}

/// A request that waits for its body.
fn opened(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &request(b"/webhooks/veedeo"))
}

/// What is written in one round of a flood.
type Round<'a> = &'a dyn Fn(u32) -> Vec<u8>;

/// How a flood ended.
#[derive(Debug)]
struct Ended {
    /// How many rounds were written.
    rounds: u32,
    /// Why, if the gateway's word got through.
    reason: Option<u32>,
}

/// Writes round after round until the gateway ends the connection, `most` at most, beside an honest sender.
fn flood(most: u32, first: &[u8], round: impl Fn(u32) -> Vec<u8> + Sync) -> Ended {
    let (papers, app, gateway) = world(&[]);
    app.always(accept());
    let honest = Link::open(&gateway, &papers);
    assert_eq!(honest.send(&Provider::Veedeo.sign(task("before"))).unwrap().status, 200);
    let (before, done) = (resident(&gateway), AtomicBool::new(false));
    let (ended, memory, sent) = std::thread::scope(|scope| {
        let flooding = scope.spawn(|| {
            let _closing = Closing(&done);
            pour(&mut Hand::open(&gateway, &papers), most, first, &round)
        });
        let (mut memory, mut sent) = (0, 0);
        while !done.load(Ordering::SeqCst) || sent < 5 {
            let from = Instant::now();
            assert_eq!(honest.send(&Provider::Veedeo.sign(task(sent))).unwrap().status, 200);
            assert!(from.elapsed() < Duration::from_secs(2), "an honest sender waited {:?}", from.elapsed());
            memory = memory.max(resident(&gateway));
            sent += 1;
        }
        (flooding.join().unwrap(), memory, sent)
    });
    assert!(memory.saturating_sub(before) < ROOM, "{} KiB more", (memory - before) / 1024);
    let events = app.seen().iter().filter(|seen| seen.target == Provider::Veedeo.path()).count();
    assert_eq!(events, sent + 1);
    assert!(app.count() < 1000, "{} got through before the connection ended", app.count());
    eventually("the honest one alone is connected", SOON, || {
        // One of HTTP/2 counts as three.
        (gateway.metrics().find("hookgate_connections", &[])? <= 3.0).then_some(())
    });
    let (metrics, name) = (gateway.metrics(), "hookgate_http2_refused_total");
    // Requests may have found no place before the connection was ended.
    let ended_for = metrics.count(name, &[]) - metrics.count(name, &[("reason", "no_place")]);
    assert_eq!(ended_for, 1, "it is counted once");
    assert_eq!(honest.send(&Provider::Veedeo.sign(task("after"))).unwrap().status, 200);
    ended
}

fn pour(hand: &mut Hand, most: u32, first: &[u8], round: impl Fn(u32) -> Vec<u8>) -> Ended {
    let mut rounds = 0;
    let mut written = hand.write(first);
    while written.is_ok() && rounds < most {
        // Several at a time: what is measured is the gateway and not the writing.
        let next = (rounds..most.min(rounds + 50)).map(&round).collect::<Vec<_>>();
        rounds += u32::try_from(next.len()).unwrap();
        written = hand.write(&next.concat());
    }
    let last = hand.rest(SOON).into_iter().find(|frame| frame.kind == GOAWAY);
    Ended { rounds, reason: last.as_ref().map(reason) }
}

fn assert_cut(ended: &Ended, most: u32) {
    // What was written may wait in sockets; the gateway's word says that it was not read to its end.
    assert!(ended.rounds < most || ended.reason.is_some(), "{ended:?}");
    assert!(matches!(ended.reason, None | Some(ENHANCE_YOUR_CALM)), "{ended:?}");
}

#[test]
fn ten_thousand_requests_that_are_taken_back_at_once_end_the_connection() {
    let ended = flood(10_000, b"", |n| [opened(2 * n + 1), frame(RST_STREAM, 0, 2 * n + 1, &[0, 0, 0, 8])].concat());
    assert_cut(&ended, 10_000);
}

#[test]
fn ten_thousand_requests_of_a_path_that_passes_through_taken_back_at_once_end_the_connection() {
    let ended = flood(10_000, b"", |n| {
        let head = frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &request(b"/through/a"));
        [head, frame(RST_STREAM, 0, 2 * n + 1, &[0, 0, 0, 8])].concat()
    });
    assert_cut(&ended, 10_000);
}

/// The library counts those that are taken back before they are answered. Of these nothing is left when they are, and we count
/// them all the same.
#[test]
fn requests_that_are_taken_back_once_they_are_answered_end_the_connection_too() {
    let (papers, _app, gateway) = world(&[]);
    let mut hand = Hand::open(&gateway, &papers);
    let mut taken_back = 0;
    let told = 'flood: loop {
        assert!(taken_back < 1000, "nobody minds");
        let round: Vec<u32> = (taken_back..taken_back + 20).map(|n| 2 * n + 1).collect();
        let ask = |stream: &u32| frame(HEADERS, END_HEADERS | END_STREAM, *stream, &request(b"/nowhere"));
        hand.write(&round.iter().flat_map(ask).collect::<Vec<u8>>()).ok();
        let mut open = round.len();
        while open > 0 {
            match hand.next(SOON) {
                Some(frame) if frame.kind != GOAWAY => {
                    let ends = matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM != 0;
                    open -= usize::from(ends);
                }
                ended => break 'flood ended,
            }
        }
        taken_back += 20;
        let resets: Vec<u8> = round.iter().flat_map(|n| frame(RST_STREAM, 0, *n, &[0, 0, 0, 8])).collect();
        hand.write(&[resets, frame_of_a_ping()].concat()).ok();
        let answer = std::iter::from_fn(|| hand.next(SOON)).find(|frame| frame.kind == PING || frame.kind == GOAWAY);
        match answer {
            Some(frame) if frame.kind == PING => {}
            ended => break ended,
        }
    };
    assert_eq!(taken_back, 220, "two hundred are let pass");
    assert!(told.is_none_or(|told| reason(&told) == ENHANCE_YOUR_CALM));
    let cut = [("reason", "resets")];
    eventually("it is counted as what it is", SOON, || {
        (gateway.metrics().count("hookgate_http2_refused_total", &cut) == 1).then_some(())
    });
}

#[test]
fn a_head_without_end_ends_the_connection() {
    let first = frame(HEADERS, 0, 1, &request(b"/webhooks/veedeo"));
    // Nothing in them, little, and as much as fits.
    for size in [0, 1, 15_000] {
        let more = fields(&[("x-a", &vec![b'x'; size][..])]);
        let more = if size == 0 { Vec::new() } else { more };
        let next = frame(CONTINUATION, 0, 1, &more);
        // More than sockets hold, so that who is cut hears of it before all is written.
        let most = u32::try_from((32 << 20) / next.len()).unwrap().max(20_000);
        let ended = flood(most, &first, |_| next.clone());
        assert_cut(&ended, most);
    }
}

#[test]
fn a_head_that_grows_when_it_is_unpacked_ends_the_connection() {
    // A field of 4,000 bytes is remembered, and then named again and again by one byte (RFC 7541 section 6.1).
    let mut head = request(b"/webhooks/veedeo");
    head.extend([0x40, 3]);
    head.extend(b"x-a");
    head.extend([127, 0xa1, 0x1e]);
    head.extend([b'x'; 4000]);
    let first = frame(HEADERS, 0, 1, &head);
    let ended = flood(2_000, &first, |_| frame(CONTINUATION, 0, 1, &[0xbe; 16_000]));
    assert_cut(&ended, 2_000);
}

#[test]
fn frames_that_hold_nothing_end_the_connection() {
    let first = opened(1);
    for kind in [(DATA, 0, &[][..]), (DATA, 8, &[0]), (DATA, 8, &[9, 0, 0, 0, 0, 0, 0, 0, 0, 0])] {
        let ended = flood(100_000, &first, |_| frame(kind.0, kind.1, 1, kind.2));
        assert_cut(&ended, 100_000);
    }
}

#[test]
fn frames_that_have_to_be_answered_or_are_for_nobody_end_the_connection() {
    for (kind, stream, payload) in [
        (SETTINGS, 0, &[0, 4, 0, 1, 0, 0][..]),
        (SETTINGS, 0, &[]),
        (PING, 0, &[7; 8]),
        (PRIORITY, 1, &[0, 0, 0, 3, 9]),
        (WINDOW_UPDATE, 0, &[0, 0, 0, 1]),
        (WINDOW_UPDATE, 1, &[0, 0, 0, 1]),
        (0xfa, 0, b"unknown"),
    ] {
        let ended = flood(100_000, &opened(1), |_| frame(kind, 0, stream, payload));
        assert_cut(&ended, 100_000);
    }
}

#[test]
fn who_keeps_within_the_bounds_is_served_and_one_frame_more_is_told_to_calm_down() {
    let (papers, _app, gateway) = world(&[]);
    let empty = frame(DATA, 0, 1, &[]);
    let taken_back = |n: u32| [opened(2 * n + 3), frame(RST_STREAM, 0, 2 * n + 3, &[0, 0, 0, 8])].concat();
    let bounds: [(u32, Round<'_>); 5] = [
        // One SETTINGS frame belongs to the preface, one acknowledges ours.
        (1000 + 10 - 1, &|_| frame(PING, 0, 0, &[7; 8])),
        (200, &|_| frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 9])),
        (7, &|_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        (1, &|_| empty.clone()),
        (200, &taken_back),
    ];
    for (most, round) in bounds {
        let mut hand = Hand::open(&gateway, &papers);
        hand.write(&opened(1)).unwrap();
        for n in 0..most {
            hand.write(&round(n)).unwrap();
            // Requests are taken back once they were looked at.
            if most == 200 && n % 20 == 19 {
                hand.write(&frame_of_a_ping()).unwrap();
                hand.until(PING, 0).expect("an answer");
            }
        }
        hand.write(&frame(DATA, END_STREAM, 1, b"{}")).unwrap();
        let reply = hand.until(HEADERS, 1).expect("served");
        assert!(reply.flags & END_HEADERS != 0);
        let mut hand = Hand::open(&gateway, &papers);
        hand.write(&opened(1)).unwrap();
        let rounds: Vec<u8> = (0..=most + u32::from(most > 1000)).flat_map(round).collect();
        hand.write(&rounds).unwrap();
        let told = hand.until(GOAWAY, 0).expect("told why");
        assert_eq!(reason(&told), ENHANCE_YOUR_CALM, "{most}");
    }
}

#[test]
fn requests_that_the_gateway_is_made_to_take_back_end_the_connection() {
    // An increment of nothing is an error of the request (RFC 9113 section 6.9).
    let ended = flood(10_000, b"", |n| [opened(2 * n + 1), frame(WINDOW_UPDATE, 0, 2 * n + 1, &[0, 0, 0, 0])].concat());
    assert_cut(&ended, 10_000);
}

#[test]
fn connections_on_which_nothing_is_asked_for_take_little_memory() {
    let (papers, _app, gateway) = world(&[]);
    let open = |count| (0..count).map(|_| Hand::open(&gateway, &papers)).collect::<Vec<_>>();
    let _first = open(20);
    let before = resident(&gateway);
    let idle = open(400);
    let each = resident(&gateway).saturating_sub(before) / 400;
    eprintln!("{} KiB for each of {} connections", each / 1024, idle.len());
    assert!(each < 80 << 10, "{each} bytes each");
}

#[test]
fn many_requests_at_once_whose_bodies_do_not_end_cost_what_is_configured() {
    let (papers, app, gateway) =
        world(&["server.max_buffered_bytes = '8MiB'", "server.body_timeout = '3s'", "server.max_connections = 300"]);
    app.always(accept());
    let honest = Link::open(&gateway, &papers);
    assert_eq!(honest.send(&Provider::Veedeo.sign(task("before"))).unwrap().status, 200);
    let before = resident(&gateway);
    let mut hands: Vec<Hand> = (0..8).map(|_| Hand::open(&gateway, &papers)).collect();
    for hand in &mut hands {
        // More requests than places, and all that the windows allow.
        for n in 0..100 {
            hand.write(&opened(2 * n + 1)).unwrap();
        }
        for n in 0..60 {
            hand.write(&frame(DATA, 0, 2 * n + 1, &[b'x'; 16_000])).unwrap();
        }
    }
    let memory = (0..20).map(|_| {
        pause(Duration::from_millis(50));
        resident(&gateway)
    });
    let memory = memory.max().unwrap();
    assert!(memory.saturating_sub(before) < ROOM, "{} KiB more", (memory.saturating_sub(before)) / 1024);
    let refused: usize = hands.iter_mut().map(|hand| resets(hand, 7)).sum();
    assert!(refused >= 800 - 300, "{refused} were not taken, and may be sent again");
    eventually("places are free again", Duration::from_secs(10), || {
        let reply = honest.send(&Provider::Veedeo.sign(task("after"))).ok()?;
        (reply.status == 200).then_some(())
    });
}

/// How many requests of a connection were reset for this reason within a moment.
fn resets(hand: &mut Hand, why: u32) -> usize {
    let until = Instant::now() + Duration::from_millis(300);
    hand.write(&frame(PING, 0, 0, &[1; 8])).unwrap();
    let mut count = 0;
    while let Some(frame) = hand.next(SOON) {
        if frame.kind == RST_STREAM && reason(&frame) == why {
            count += 1;
        }
        if frame.kind == PING && Instant::now() > until {
            break;
        }
        if frame.kind == PING {
            pause(Duration::from_millis(50));
            hand.write(&frame_of_a_ping()).unwrap();
        }
    }
    count
}

fn frame_of_a_ping() -> Vec<u8> {
    frame(PING, 0, 0, &[1; 8])
}

#[test]
fn an_idle_connection_that_has_to_make_room_is_gone_at_once_though_its_sender_says_nothing() {
    // Room for one, which counts as three.
    let (papers, app, gateway) = world(&["server.max_connections = 3"]);
    app.always(accept());
    let mut idle = Hand::open(&gateway, &papers);
    assert!(idle.until(SETTINGS, 0).is_some(), "it is served");
    // The gateway has said that before it has read what the sender says; whose question it answers is idle.
    idle.write(&frame(PING, 0, 0, &[7; 8])).unwrap();
    assert!(idle.until(PING, 0).is_some(), "it is idle");
    let (from, honest) = (Instant::now(), Link::open(&gateway, &papers));
    let frames = idle.rest(SOON);
    assert!(from.elapsed() < Duration::from_millis(1500), "a farewell of two seconds is for those who may still ask");
    assert!(frames.iter().any(|frame| frame.kind == GOAWAY && reason(frame) == 0), "{frames:?}");
    assert_eq!(honest.send(&Provider::Veedeo.sign(task("in its place"))).unwrap().status, 200);
}

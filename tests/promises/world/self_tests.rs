//! The world held against itself: the sender talks to the scripted application without a gateway between them.

use std::time::{Duration, Instant};

use super::act::{Act, Gate, accept, answer};
use super::app::App;
use super::at_once;
use super::sender::{Line, Request, send};
use super::wire::WireFault;

fn address(app: &App) -> String {
    app.url().trim_start_matches("http://").to_owned()
}

#[test]
fn the_application_writes_down_what_it_was_sent() {
    let app = App::start();
    let request = Request::post("/a/b?c=d%20e", [0, 255, 13, 10]).with("X-Twice", "1").with("x-twice", [b'2', 0xe9]);
    let reply = send(&address(&app), &request).unwrap();
    assert_eq!((reply.status, reply.text().as_str()), (200, "{\"app\":200}"));
    let seen = app.only();
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("POST", "/a/b?c=d%20e"));
    assert_eq!((seen.body.as_slice(), seen.answered), (&[0, 255, 13, 10][..], Some(200)));
    assert_eq!(seen.headers.all("x-twice").len(), 2);
    assert_eq!(seen.headers.0.last().map(|(n, v)| (n.as_str(), v.len())), Some(("Content-Length", 1)));
}

#[test]
fn chunks_of_odd_sizes_are_put_together_again() {
    let app = App::start();
    let body: Vec<u8> = (0..=255).cycle().take(5000).collect();
    send(&address(&app), &Request::post("/", body.clone()).chunked(&[1, 7, 400])).unwrap();
    assert_eq!(app.only().body, body);
}

#[test]
fn a_connection_lives_on_and_is_counted_once() {
    let app = App::start();
    let mut line = Line::open(&address(&app)).unwrap();
    for _ in 0..3 {
        line.send(&Request::post("/", "x")).unwrap();
    }
    assert_eq!(app.seen().iter().map(|s| s.connection).collect::<Vec<_>>(), [0, 0, 0]);
}

#[test]
fn the_script_comes_first_and_then_the_rule() {
    let app = App::start();
    app.first([answer(500), answer(429).with("Retry-After", "7").body("wait")]);
    app.always(answer(204).body(""));
    let replies = [(); 3].map(|()| send(&address(&app), &Request::post("/", "x")).unwrap());
    assert_eq!(replies.each_ref().map(|r| r.status), [500, 429, 204]);
    assert_eq!((replies[1].retry_after(), replies[1].text().as_str()), (Some(7), "wait"));
}

#[test]
fn every_kind_of_failure_looks_like_itself() {
    let app = App::start();
    let at = address(&app);
    let post = Request::post("/", "x");
    app.first([Act::HangUp, Act::BrokenBody(200), Act::Raw(b"nonsense\r\n\r\n".to_vec())]);
    assert_eq!(send(&at, &post).unwrap_err(), WireFault::Ended);
    assert!(matches!(send(&at, &post).unwrap_err(), WireFault::Broken(_)));
    assert!(matches!(send(&at, &post).unwrap_err(), WireFault::Malformed(_)));
    app.slam(1);
    assert!(send(&at, &post).is_err());
    assert_eq!(app.count(), 3, "a slammed connection is not read");
    assert!(send(&at, &post).is_ok());
}

#[test]
fn silence_and_trickle_outlast_the_reader() {
    let app = App::start();
    app.first([Act::Never, Act::Trickle(b"HTTP/1.1 200 OK\r\n".to_vec(), Duration::from_millis(40))]);
    for _ in 0..2 {
        let mut line = Line::open(&address(&app)).unwrap();
        let (head, body) = Request::post("/", "x").bytes();
        line.raw(&[head, body].concat()).unwrap();
        assert_eq!(line.read(Duration::from_millis(200)).unwrap_err(), WireFault::TimedOut);
    }
}

#[test]
fn a_gate_holds_everyone_until_it_opens() {
    let app = App::start();
    let gate = Gate::closed();
    app.always(accept().behind(&gate));
    let from = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            app.wait_for(5);
            assert!(app.seen().iter().all(|seen| seen.answered.is_none()));
            gate.open();
        });
        let replies = at_once(0..5, |_| send(&address(&app), &Request::post("/", "x")).unwrap().status);
        assert_eq!(replies, [200; 5]);
    });
    assert!(from.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_late_answer_is_late() {
    let app = App::start();
    app.always(accept().after(Duration::from_millis(200)));
    assert!(send(&address(&app), &Request::post("/", "x")).unwrap().took >= Duration::from_millis(200));
}

#[test]
fn the_application_goes_down_and_comes_back_on_its_port() {
    let mut app = App::start();
    let at = address(&app);
    let mut line = Line::open(&at).unwrap();
    line.send(&Request::post("/", "x")).unwrap();
    app.down();
    assert!(line.send(&Request::post("/", "x")).is_err(), "open connections are closed");
    assert!(matches!(send(&at, &Request::post("/", "x")), Err(WireFault::Broken(_))), "the port is closed");
    app.up();
    assert_eq!(send(&at, &Request::post("/", "x")).unwrap().status, 200);
}

#[test]
fn what_a_gateway_may_not_send_is_a_violation() {
    let app = App::start();
    let from_a_route = Request::post("/", "x").with("Hookgate-Event", "1");
    let unclean = [
        from_a_route.clone().chunked(&[1]),
        from_a_route.clone().with("Expect", "100-continue"),
        from_a_route.clone().with("Content-Length", "1"),
        Request {
            headers: vec![("Host".into(), b"a".to_vec()), ("Host".into(), b"b".to_vec())],
            ..Request::post("/", "")
        },
    ];
    for request in &unclean {
        assert!(send(&address(&app), request).is_err());
    }
    let (head, body) = from_a_route.bytes();
    let mut line = Line::open(&address(&app)).unwrap();
    line.raw(&[head, body, b"GET / HTTP/1.1\r\n".to_vec()].concat()).unwrap();
    assert!(line.closes(Duration::from_secs(5)));
    assert_eq!(app.violations().len(), unclean.len() + 1);
    assert_eq!(app.count(), 0);
}

#[test]
#[should_panic(expected = "not clean HTTP/1.1")]
fn a_violation_fails_the_test_that_drops_the_application() {
    let app = App::start();
    let result = send(&address(&app), &Request::post("/", "x").with("Hookgate-Event", "1").chunked(&[1]));
    assert!(result.is_err());
}

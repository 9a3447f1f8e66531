//! The application misbehaves in every way that a peer of HTTP/1.1 can. For each: what the sender is told, whether there
//! is a second sending, and whether that one says that the first may have been processed. P1, P5, P12, P16, W2.

use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use crate::books::DRAINED;
use crate::outage::assert_spooled;
use crate::world::act::{Act, Early, answer};
use crate::world::app::App;
use crate::world::clock::{always, eventually, pause};
use crate::world::events::{task, task_of, wide_task};
use crate::world::gateway::Gateway;
use crate::world::mounts::Mounts;
use crate::world::needs::given;
use crate::world::setup::Setup;
use crate::world::sign::Provider;
use crate::world::{World, world_with, world_without_app};

/// What the sender is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// That the event is safe.
    Kept,
    /// The application's status.
    Status(u16),
}

/// What comes after the first sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Nothing, ever.
    Nothing,
    /// A sending like the first.
    Plain,
    /// A sending that says that the first may have been processed.
    Flagged,
}

/// What the application does with the first sending.
enum Fault {
    Whole(Act),
    AtTheHead(Early),
}

struct Case {
    name: &'static str,
    fault: Fault,
    told: Told,
    next: Next,
}

fn raw(bytes: &[u8]) -> Fault {
    Fault::Whole(Act::Raw(bytes.to_vec()))
}

fn case(name: &'static str, fault: Fault, told: Told, next: Next) -> Case {
    Case { name, fault, told, next }
}

/// A body that is still being written when its head has been answered.
const LONG: usize = 700_000;
/// The sender has its reply by then: budget less reserve, and a little for the machine.
const DEADLINE: Duration = Duration::from_millis(3300);
const LINES: [&str; 4] = [
    "ack.budget = '4s'",
    "ack.reserve = '1s'",
    "app.attempt_timeout = '1500ms'",
    "delivery.breaker = { failures = 1000, probe_every = '1s' }",
];

fn happens(world: &World, case: Case, body: &[u8]) {
    let (name, before) = (case.name, world.app.count());
    match case.fault {
        Fault::Whole(act) => world.app.first([act]),
        Fault::AtTheHead(early) => world.app.at_the_head([early]),
    }
    let reply = world.veedeo(body);
    assert!(reply.took < DEADLINE, "{name}: the sender waited {:?}", reply.took);
    match case.told {
        Told::Kept => assert_eq!((reply.status, reply.text().as_str()), (200, "{\"received\":true}"), "{name}"),
        Told::Status(status) => {
            assert_eq!(reply.status, status, "{name}: {}", reply.text());
            assert!(!reply.text().contains("received"), "{name}: kept: {}", reply.text());
        }
    }
    world.gateway.wait_for_empty_spool(DRAINED);
    let seen = world.app.seen().split_off(before);
    let read = seen.iter().filter(|seen| seen.body == body).count();
    assert_eq!(read, seen.len(), "{name}: something else came");
    let again: Vec<(bool, u32)> = seen.iter().filter(|s| s.attempt() > 1).map(|s| (s.flagged(), s.attempt())).collect();
    let wanted = match case.next {
        Next::Nothing => vec![],
        Next::Plain => vec![(false, 2)],
        Next::Flagged => vec![(true, 2)],
    };
    assert_eq!(again, wanted, "{name}: flag and number of the sendings after the first");
    eprintln!("{name}: {:?} {:?} after {:?}", case.told, case.next, reply.took);
}

fn all_happen(cases: Vec<Case>) {
    let world = world_with(&LINES);
    let names: Vec<&str> = cases.iter().map(|case| case.name).collect();
    for case in cases {
        let filler = if matches!(case.fault, Fault::AtTheHead(_)) { LONG } else { 0 };
        let body = wide_task(case.name.replace(' ', "-"), filler);
        happens(&world, case, &body);
    }
    let count = world.app.count();
    always("nothing is sent again", Duration::from_millis(700), || world.app.count() == count);
    let rejected = world.gateway.rows(&["dlq", "list"]).len();
    eprintln!("{} cases, {rejected} dead letters: {names:?}", names.len());
}

#[test]
fn an_answer_that_cannot_be_read_is_tried_again_and_flagged() {
    let unreadable = |name, bytes: &[u8]| case(name, raw(bytes), Told::Kept, Next::Flagged);
    all_happen(vec![
        unreadable("the end before a byte", b""),
        unreadable("a status line of another protocol", b"220 smtp.example.com ESMTP\r\n\r\n"),
        unreadable("a page as HTTP 0.9 has it", b"<html><body>200 OK</body></html>\n"),
        unreadable("a status of two digits", b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n"),
        unreadable("a status that is a word", b"HTTP/1.1 FINE\r\nContent-Length: 0\r\n\r\n"),
        unreadable("binary rubbish", &[0, 159, 146, 150, 255, 13, 10, 13, 10]),
        unreadable("half a status line", b"HTTP/1.1 20"),
        unreadable("a hint and then the end", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
        case("a reset after reading", Fault::Whole(Act::Reset), Told::Kept, Next::Flagged),
        case("half a connection", Fault::Whole(Act::HalfClose), Told::Kept, Next::Flagged),
    ]);
}

#[test]
fn an_acceptance_is_one_whatever_is_wrong_with_the_rest_of_it() {
    let accepted = |name, bytes: &[u8]| case(name, raw(bytes), Told::Status(200), Next::Nothing);
    all_happen(vec![
        accepted(
            "a leave to continue first",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        ),
        accepted(
            "hints and processing first",
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        ),
        accepted("a status line and nothing more", b"HTTP/1.1 200 OK\r\n"),
        accepted("a header that is none", b"HTTP/1.1 200 OK\r\nX-Trace Id: 7\r\nContent-Length: 0\r\n\r\n"),
        accepted("the old protocol", b"HTTP/1.0 200 OK\r\n\r\nfine"),
        accepted("chunks that are none", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nnonsense"),
        accepted("chunks without an end", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello"),
        case("half a body", Fault::Whole(Act::BrokenBody(200)), Told::Status(200), Next::Nothing),
        case("an empty answer", Fault::Whole(answer(204).body("")), Told::Status(204), Next::Nothing),
        case(
            "a body of one byte a second",
            Fault::Whole(Act::AtOnceThen(
                b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n".to_vec(),
                b"012345678".to_vec(),
                Duration::from_secs(1),
            )),
            Told::Status(200),
            Next::Nothing,
        ),
        case("an answer before the body was read", early(200), Told::Status(200), Next::Nothing),
    ]);
}

fn early(status: u16) -> Fault {
    let text = format!("HTTP/1.1 {status} Early\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    Fault::AtTheHead(Early::Answer(status, text.into_bytes()))
}

#[test]
fn a_failure_is_tried_again_without_a_flag_and_a_rejection_is_passed_on() {
    let elsewhere = App::start();
    let redirect = answer(307).with("Location", &format!("{}/webhooks/veedeo", elsewhere.url()));
    let broken = |status| Fault::Whole(Act::BrokenBody(status));
    all_happen(vec![
        case("a redirect to somebody else", Fault::Whole(redirect), Told::Kept, Next::Plain),
        case("a failure with half a body", broken(500), Told::Kept, Next::Plain),
        case(
            "hints before a failure",
            raw(b"HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 503 No\r\n\r\n"),
            Told::Kept,
            Next::Plain,
        ),
        case("a rejection with half a body", broken(422), Told::Status(422), Next::Nothing),
        case(
            "a failure with a header that is none",
            raw(b"HTTP/1.1 503 No\r\nBad Name: 1\r\n\r\n"),
            Told::Kept,
            Next::Plain,
        ),
        case("a failure before the body was read", early(500), Told::Kept, Next::Plain),
        case(
            "a status beyond all classes",
            raw(b"HTTP/1.1 799 What\r\nContent-Length: 0\r\n\r\n"),
            Told::Kept,
            Next::Plain,
        ),
    ]);
    assert_eq!(elsewhere.count(), 0, "no redirect is followed");
}

#[test]
fn an_answer_of_one_byte_a_second_is_given_up_in_its_time_and_flagged() {
    let line = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let slow = Act::Trickle(line.to_vec(), Duration::from_secs(1));
    all_happen(vec![case("a head of one byte a second", Fault::Whole(slow), Told::Kept, Next::Flagged)]);
}

/// More than the kernel takes in for an application that does not read.
const MORE_THAN_BUFFERS: usize = 8 * 1024 * 1024;

#[test]
fn a_reset_before_the_last_byte_was_written_is_tried_again_without_a_flag() {
    let lines = ["server.max_buffered_bytes = '64MiB'", "routes.veedeo.max_body_bytes = '16MiB'"];
    let world = world_with(&lines);
    let body = wide_task("large", MORE_THAN_BUFFERS);
    world.app.at_the_head([Early::Reset]);
    assert_spooled(&world.veedeo(body.clone()));
    world.gateway.wait_for_empty_spool(DRAINED);
    let seen = world.app.only();
    assert_eq!((seen.attempt(), seen.flagged(), seen.body == body), (2, false, true));
}

#[test]
fn a_rest_that_was_asked_for_outlasts_a_crash() {
    let mut world = world_with(&[]);
    let rests = [Duration::from_secs(3), Duration::from_secs(2)];
    // The first is asked for while the sender waits, the second when the event comes from disk.
    world.app.first([answer(429).with("Retry-After", "3"), answer(503).with("Retry-After", "2")]);
    assert_spooled(&world.veedeo(task("rests")));
    for sendings in [1, 2] {
        let seen = world.app.wait_for(sendings);
        // The outcome of the second is written by nobody that a test could wait for.
        pause(Duration::from_millis(300));
        world.gateway.kill9();
        world.gateway.restart();
        let next = world.app.wait_for(sendings + 1);
        let rest = next[sendings].at - seen[sendings - 1].at;
        let asked = rests[sendings - 1];
        assert!(rest + Duration::from_millis(100) >= asked, "asked for {asked:?}, had {rest:?}");
        assert!(!next[sendings].flagged(), "a failure is no acceptance");
    }
    world.gateway.wait_for_empty_spool(DRAINED);
    assert_eq!(world.app.count(), 3);
}

#[test]
fn an_application_that_accepts_no_connection_costs_one_timeout_and_no_flag() {
    let mut world = world_without_app(&LINES);
    let address = world.app.url().replace("http://", "");
    let full = TcpListener::bind(&address).unwrap();
    rustix::net::listen(&full, 0).unwrap();
    let address = address.parse().unwrap();
    let crowd: Vec<_> = (0..4).map(|_| TcpStream::connect_timeout(&address, Duration::from_millis(200))).collect();
    assert!(crowd.iter().any(Result::is_err), "the backlog is full");
    let reply = world.veedeo(task("waits"));
    assert_spooled(&reply);
    assert!(reply.took > Duration::from_millis(900) && reply.took < DEADLINE, "took {:?}", reply.took);
    drop((crowd, full));
    world.app.up();
    world.gateway.wait_for_empty_spool(DRAINED);
    assert_eq!(
        world.app.seen().iter().map(|s| (task_of(&s.body), s.flagged())).collect::<Vec<_>>(),
        [("waits".into(), false)]
    );
}

#[test]
fn an_event_without_a_body_for_an_absent_application_is_sent_later_without_a_flag() {
    let mut world = world_without_app(&LINES);
    assert_spooled(&world.send(&Provider::GitHub.sign("")));
    let unreachable = || world.gateway.metrics().count("hookgate_attempts_total", &[("outcome", "unreachable")]);
    eventually("the attempt has ended", DRAINED, || (unreachable() > 0).then_some(()));
    world.app.up();
    world.gateway.wait_for_empty_spool(DRAINED);
    let seen = world.app.only();
    assert_eq!((seen.flagged(), seen.body.len()), (false, 0));
}

#[test]
fn a_name_that_does_not_exist_is_an_absent_application() {
    let setup = Setup::new("http://nobody.invalid").with(&LINES);
    let gateway = Gateway::start(setup);
    for n in 0..3 {
        let reply = gateway.send(&Provider::Veedeo.sign(task(n)));
        assert_spooled(&reply);
        assert!(reply.took < DEADLINE, "took {:?}", reply.took);
    }
    let unreachable = || gateway.metrics().count("hookgate_attempts_total", &[("outcome", "unreachable")]);
    eventually("attempts end as unreachable", DRAINED, || (unreachable() > 0).then_some(()));
    assert_eq!(gateway.metrics().count("hookgate_spool_events", &[("state", "pending")]), 3);
}

#[test]
fn a_name_that_begins_to_exist_is_found_without_a_restart() {
    let Some(mounts) = given(Mounts::with_tmpfs("1m")) else { return };
    mounts.cover("/etc/resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n");
    let hosts = mounts.cover("/etc/hosts", "127.0.0.1 localhost\n");
    let app = App::start();
    let port = app.url().rsplit(':').next().unwrap().to_owned();
    let mut setup = Setup::new(&format!("http://app.hookgate.test:{port}")).with(&LINES);
    setup.shell = Some(mounts.entrance());
    let gateway = Gateway::start(setup);
    assert_spooled(&gateway.send(&Provider::Veedeo.sign(task(1))));
    std::fs::write(hosts, "127.0.0.1 localhost app.hookgate.test\n").unwrap();
    gateway.wait_for_empty_spool(DRAINED);
    assert!(!app.only().flagged());
    assert_eq!(gateway.send(&Provider::Veedeo.sign(task(2))).text(), "{\"app\":200}");
}

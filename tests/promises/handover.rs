//! SIGQUIT hands over to a new process on the same sockets and the same spool: no connection is refused, no request
//! cut, nothing lost and nothing sent twice. P1, P2, P5, P12, P18.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::world::act::{Act, accept};
use crate::world::chance::{chance, crashes};
use crate::world::clock::{eventually, pause};
use crate::world::events::{task, task_of};
use crate::world::needs::given;
use crate::world::sender::{Line, send};
use crate::world::sign::Provider;
use crate::world::strace::{Hand, SYNC, WRITER, works};
use crate::world::{Closing, at_once, world, world_with, world_without_app};

const SENDERS: usize = 8;

/// Everything that a sender met which was not a reply of the application.
#[derive(Default)]
struct Complaints(Mutex<Vec<String>>);

impl Complaints {
    fn note(&self, what: String) {
        self.0.lock().unwrap().push(what);
    }
}

/// Sends events, each once and over a connection of its own, until told to stop; yields their names.
fn send_singly(address: &str, sender: usize, stop: &AtomicBool, complaints: &Complaints) -> Vec<String> {
    let mut names = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        let name = format!("{sender}-{}", names.len());
        match send(address, &Provider::Veedeo.sign(task(&name))) {
            Ok(reply) if reply.text() == "{\"app\":200}" => {}
            other => complaints.note(format!("{name}: {other:?}")),
        }
        names.push(name);
    }
    names
}

/// The same over one connection for as long as the gateway keeps it.
fn send_in_line(address: &str, sender: usize, stop: &AtomicBool, complaints: &Complaints) -> Vec<String> {
    let mut names = Vec::new();
    let mut line = None;
    while !stop.load(Ordering::SeqCst) {
        let name = format!("{sender}-{}", names.len());
        let mut open = line.take().unwrap_or_else(|| Line::open(address).unwrap());
        match open.send(&Provider::Veedeo.sign(task(&name))) {
            Ok(reply) if reply.text() == "{\"app\":200}" => {
                let closes = reply.headers.get("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
                line = (!closes).then_some(open);
            }
            other => complaints.note(format!("{name}: {other:?}")),
        }
        names.push(name);
    }
    names
}

#[test]
fn a_hand_over_under_load_refuses_no_connection_and_cuts_no_request() {
    let mut world = world();
    let mut chance = chance();
    world.app.decide(|seen| accept().after(Duration::from_millis(u64::from(seen.sha256()[0] % 16))));
    let (stop, complaints) = (AtomicBool::new(false), Complaints::default());
    let address = world.gateway.address();
    let mut processes = HashSet::from([world.gateway.pid()]);
    let sent: Vec<String> = std::thread::scope(|scope| {
        let closing = Closing(&stop);
        let senders: Vec<_> = (0..SENDERS)
            .map(|sender| {
                let (address, stop, complaints) = (&address, &stop, &complaints);
                let send_all = if sender % 2 == 0 { send_singly } else { send_in_line };
                scope.spawn(move || send_all(address, sender, stop, complaints))
            })
            .collect();
        for _ in 0..crashes() {
            pause(Duration::from_millis(chance.u64(50..500)));
            world.gateway.hand_over();
            processes.insert(world.gateway.pid());
        }
        pause(Duration::from_millis(200));
        drop(closing);
        senders.into_iter().flat_map(|sender| sender.join().unwrap()).collect()
    });
    let complaints = complaints.0.lock().unwrap();
    assert!(complaints.is_empty(), "{} of {} requests: {complaints:?}", complaints.len(), sent.len());
    assert_eq!(processes.len(), crashes() + 1, "each hand-over is to a process of its own");
    let seen = world.app.seen();
    let names: HashSet<String> = seen.iter().map(|seen| task_of(&seen.body)).collect();
    assert_eq!((seen.len(), names.len()), (sent.len(), sent.len()), "each event reached the application once");
    assert!(seen.iter().all(|seen| !seen.flagged()), "nothing was in doubt");
    assert!(sent.len() > 20 * crashes(), "only {} events", sent.len());
    eprintln!("{} events over {} hand-overs", sent.len(), crashes());
}

#[test]
fn the_new_process_knows_what_the_old_one_knew() {
    let mut world = world_without_app(&[]);
    let seen_before = Provider::Veedeo.sign(task("kept"));
    assert_eq!(world.send(&seen_before).text(), "{\"received\":true}");
    world.gateway.hand_over();
    assert_eq!(world.send(&seen_before).text(), "{\"received\":true,\"duplicate\":true}");
    world.app.up();
    world.gateway.wait_for_empty_spool(Duration::from_secs(20));
    assert!(!world.app.only().flagged(), "it was never sent before");
    let delivered = Provider::Veedeo.sign(task("delivered"));
    assert_eq!(world.send(&delivered).text(), "{\"app\":200}");
    world.gateway.hand_over();
    assert_eq!(world.send(&delivered).text(), "{\"received\":true,\"duplicate\":true}");
    assert_eq!(world.app.count(), 2);
    world.gateway.stop();
}

#[test]
fn the_new_process_has_the_new_configuration() {
    let mut world = world_with(&[]);
    world.gateway.configure(&[
        "server.threads = 3",
        "ack.reply = { status = 202, body = 'kept' }",
        "ack.mode = 'queue'",
    ]);
    world.gateway.hand_over();
    let reply = world.veedeo(task(1));
    assert_eq!((reply.status, reply.text().as_str()), (202, "kept"));
}

#[test]
fn a_new_process_that_does_not_start_changes_nothing() {
    let mut world = world();
    let before = world.gateway.pid();
    world.gateway.configure(&["ack.budget = 'soon'"]);
    world.gateway.signal(Signal::QUIT);
    world.gateway.wait_for_log(&["not handed over", "this process goes on"]);
    world.gateway.wait_for_log(&["ack.budget"]);
    assert_eq!(world.veedeo(task(1)).text(), "{\"app\":200}");
    assert_eq!(world.gateway.pid(), before);
    world.gateway.configure(&["ack.budget = '20s'"]);
    world.gateway.hand_over();
    assert_eq!(world.veedeo(task(2)).text(), "{\"app\":200}");
}

#[test]
fn who_comes_while_a_slow_answer_holds_the_hand_over_up_is_answered_in_time() {
    // Half of what the senders have: 4 s at most until the new process goes on.
    let mut world = world_with(&["ack.budget = '9s'", "ack.reserve = '1s'"]);
    world.app.decide(|seen| {
        let slow = task_of(&seen.body).starts_with("slow");
        accept().after(Duration::from_millis(if slow { 2500 } else { 6000 }))
    });
    let address = world.gateway.address();
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| send(&address, &Provider::Veedeo.sign(task("slow"))));
        world.app.wait_for(1);
        let late = scope.spawn(|| {
            pause(Duration::from_secs(1));
            let began = Instant::now();
            let replies = at_once(0..5, |n| send(&address, &Provider::Veedeo.sign(task(format!("late-{n}")))));
            (replies, began.elapsed())
        });
        world.gateway.hand_over();
        assert_eq!(slow.join().unwrap().unwrap().text(), "{\"app\":200}", "it was answered by the old process");
        let (replies, took) = late.join().unwrap();
        for reply in replies {
            assert_eq!(reply.unwrap().text(), "{\"received\":true}");
        }
        assert!(took <= Duration::from_millis(8200), "answered after {took:?}; they have 8 s");
    });
    world.gateway.wait_for_empty_spool(Duration::from_secs(20));
    let seen = world.app.seen();
    assert_eq!((seen.len(), seen.iter().filter(|seen| seen.flagged()).count()), (6, 0), "each was sent once");
}

#[test]
fn a_hand_over_takes_from_senders_what_they_waited_and_blames_none_of_them() {
    // Of the 2 s that senders have this one takes more than one.
    let mut world = world_with(&["ack.budget = '3s'", "ack.reserve = '1s'"]);
    world.app.first([Act::Never]);
    assert_eq!(world.veedeo(task("held up")).text(), "{\"received\":true}");
    let address = world.gateway.address();
    let (head, body) = Provider::Veedeo.sign(task("half")).bytes();
    let (mut half, mut silent) = world.gateway.hand_over_while(|gateway| {
        gateway.wait_for_log(&["stopping", "HandOver"]);
        pause(Duration::from_millis(500));
        let (mut half, silent) = (Line::open(&address).unwrap(), Line::open(&address).unwrap());
        half.raw(&[&head[..], &body[..9]].concat()).unwrap();
        (half, silent)
    });
    let reply = silent.send(&Provider::Veedeo.sign(task("silent"))).unwrap();
    assert_eq!(reply.text(), "{\"app\":200}", "who had asked for nothing has waited for nothing");
    let reply = half.read(Duration::from_secs(5)).unwrap();
    assert_eq!((reply.status, reply.reason().as_str()), (503, "overloaded"), "it had no time left for its body");
    world.gateway.wait_for_empty_spool(Duration::from_secs(20));
}

#[test]
fn who_asks_for_a_hand_over_twice_gets_one() {
    let mut world = world();
    assert_eq!(world.veedeo(task(1)).text(), "{\"app\":200}");
    world.gateway.signal(Signal::QUIT);
    world.gateway.wait_for_log(&["a new process is started"]);
    world.gateway.hand_over();
    assert_eq!(world.veedeo(task(2)).text(), "{\"app\":200}");
    world.gateway.stop();
}

#[test]
fn a_stop_in_the_middle_of_a_hand_over_ends_in_its_time_and_leaves_nobody_behind() {
    let mut world = world_with(&["ack.budget = '12s'", "ack.reserve = '1s'"]);
    world.app.always(accept().after(Duration::from_secs(2)));
    let address = world.gateway.address();
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| send(&address, &Provider::Veedeo.sign(task("slow"))));
        world.app.wait_for(1);
        world.gateway.signal(Signal::QUIT);
        world.gateway.wait_for_log(&["stopping", "HandOver"]);
        world.gateway.signal(Signal::TERM);
        assert_eq!(slow.join().unwrap().unwrap().text(), "{\"app\":200}");
    });
    assert!(world.gateway.wait_for_end(Duration::from_secs(10)).success());
    world.gateway.wait_for_log(&["nothing is handed over"]);
    assert!(!world.gateway.listens(), "the new process has gone too");
    assert_eq!(world.app.count(), 1);
}

#[test]
fn what_a_hand_over_cuts_off_is_sent_again_and_flagged() {
    let mut world = world_with(&["ack.budget = '3s'", "ack.reserve = '1s'"]);
    world.app.first([Act::Never]);
    assert_eq!(world.veedeo(task(1)).text(), "{\"received\":true}");
    let began = Instant::now();
    world.gateway.hand_over();
    assert!(began.elapsed() < Duration::from_secs(7), "took {:?}", began.elapsed());
    world.gateway.wait_for_empty_spool(Duration::from_secs(20));
    let seen = world.app.seen();
    assert_eq!((seen.len(), seen[1].flagged()), (2, true));
}

#[test]
fn when_the_old_process_dies_in_the_middle_the_new_one_goes_on() {
    let mut world = world_with(&["ack.budget = '12s'", "ack.reserve = '1s'"]);
    world.app.first([Act::Never]);
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    let request = Provider::Veedeo.sign(task("cut"));
    let address = world.gateway.address();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| send(&address, &request));
        world.app.wait_for(1);
        world.gateway.signal(Signal::QUIT);
        world.gateway.wait_for_log(&["stopping", "HandOver"]);
        world.gateway.signal(Signal::KILL);
        assert!(first.join().unwrap().is_err(), "the sender was told nothing");
    });
    let line = eventually("the new process serves", Duration::from_secs(10), || {
        world.gateway.log(&["\"ready\"", "process"]).get(1).cloned()
    });
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    world.gateway.adopt(line["process"].as_i64().unwrap());
    assert_eq!(world.send(&request).text(), "{\"app\":200}");
    let seen = world.app.seen();
    assert_eq!((seen.len(), seen[1].flagged()), (2, true));
    world.gateway.stop();
}

#[test]
fn taking_over_is_nothing_that_can_be_typed() {
    let world = world();
    let finished = world.gateway.ask(&["run", "--take-over"]);
    assert_eq!(finished.code, Some(2), "{finished:?}");
    assert!(finished.stderr.contains("SIGQUIT"), "{finished:?}");
}

#[test]
fn the_supervisor_is_told_which_process_serves() {
    let mut world = world();
    let path = world.gateway.folder().join("notify");
    let supervisor = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    supervisor.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let told = || {
        let mut bytes = [0; 256];
        let length = supervisor.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    world.gateway.stop();
    world.gateway.environment("NOTIFY_SOCKET", &path.to_string_lossy());
    world.gateway.restart();
    let first = world.gateway.pid();
    assert_eq!(told().trim(), format!("READY=1\nMAINPID={first}"));
    world.gateway.hand_over();
    let second = world.gateway.pid();
    // The old one has ended: a supervisor that does not know the new one yet would take that for the service's end.
    supervisor.set_nonblocking(true).unwrap();
    assert_eq!(told().trim(), format!("READY=1\nMAINPID={second}"));
    supervisor.set_nonblocking(false).unwrap();
    world.gateway.stop();
    assert_eq!(told().trim(), "STOPPING=1");
    assert_ne!(first, second);
}

#[test]
fn the_new_process_goes_on_though_the_disk_of_the_old_one_stalls() {
    let Some(()) = given(works()) else { return };
    let mut world = world_with(&["ack.budget = '3s'", "ack.reserve = '1s'"]);
    assert_eq!(world.veedeo(task("first")).text(), "{\"app\":200}");
    // Longer than the old one waits for it: its end takes as long.
    let hand = Hand::on(&world.gateway, &[WRITER], SYNC, "delay_enter=28000000:when=1");
    world.gateway.hand_over();
    drop(hand);
    let again = || (world.veedeo(task("second")).text() == "{\"app\":200}").then_some(());
    eventually("the new process serves", Duration::from_secs(10), again);
    assert!(world.veedeo(task("second")).acked());
    world.gateway.stop();
}

#[test]
fn a_hand_over_waits_for_a_spool_that_is_held_up() {
    let mut world = world_without_app(&["ack.budget = '3s'", "ack.reserve = '1s'"]);
    assert!(world.gateway.send(&Provider::Veedeo.sign(task("first"))).acked());
    // A reader, as a backup is: as long as it reads, the log cannot be emptied.
    let file = world.gateway.spool_path().join("hookgate.db");
    let reader = rusqlite::Connection::open(file).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM events").unwrap();
    let reads = std::thread::spawn(move || {
        pause(Duration::from_secs(8));
        drop(reader);
    });
    world.gateway.hand_over();
    let again = || world.gateway.send(&Provider::Veedeo.sign(task("second"))).acked().then_some(());
    eventually("the new process takes events", Duration::from_secs(10), again);
    reads.join().unwrap();
}

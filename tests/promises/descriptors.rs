//! The file descriptors run out: nothing ends, nothing spins, who got in is served, and it passes by itself. P1, P2,
//! P15, P17.

use std::collections::HashSet;
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::books::DRAINED;
use crate::outage::assert_spooled;
use crate::world::clock::{eventually, pause};
use crate::world::events::{task, task_of};
use crate::world::gateway::Gateway;
use crate::world::needs::given;
use crate::world::sender::{Line, Reply};
use crate::world::sign::Provider;
use crate::world::{World, world_with};

/// Lets the gateway have `more` descriptors than it has now: their numbers are limited, and gaps count.
fn allow(gateway: &Gateway, more: usize) -> Result<(), String> {
    let pid = gateway.pid();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the gateway runs").flatten();
    let open: HashSet<usize> = open.filter_map(|fd| fd.file_name().to_str()?.parse().ok()).collect();
    let first_forbidden = (0..).filter(|fd| !open.contains(fd)).nth(more).expect("there are enough numbers");
    let limit = format!("--nofile={first_forbidden}:");
    let done = Command::new("prlimit").args(["--pid", &pid.to_string(), &limit]).status();
    match done {
        Ok(status) if status.success() => Ok(()),
        other => Err(format!("prlimit cannot set a limit here: {other:?}")),
    }
}

/// The share of one processor that the gateway uses for `time`.
fn share(gateway: &Gateway, time: Duration) -> f64 {
    let before = gateway.processor_time();
    pause(time);
    gateway.processor_time().saturating_sub(before).as_secs_f64() / time.as_secs_f64()
}

fn assert_calm(world: &World) {
    let share = share(&world.gateway, Duration::from_secs(2));
    assert!(share < 0.5, "it spins: {share} of a processor with nothing to do");
}

fn assert_everything_came_once(world: &World, tasks: &[String]) {
    world.gateway.wait_for_empty_spool(DRAINED);
    let mut delivered: Vec<String> = world.app.seen().iter().map(|seen| task_of(&seen.body)).collect();
    let mut wanted = tasks.to_vec();
    delivered.sort();
    wanted.sort();
    assert_eq!(delivered, wanted);
    assert!(world.app.seen().iter().all(|seen| !seen.flagged()));
}

#[test]
fn connections_that_take_every_descriptor_end_nothing_and_who_got_in_is_served() {
    let world = world_with(&["server.idle_timeout = '4s'"]);
    let mut inside = Line::open(&world.gateway.address()).unwrap();
    assert_eq!(inside.send(&Provider::Veedeo.sign(task("first"))).unwrap().text(), "{\"app\":200}");
    let Some(()) = given(allow(&world.gateway, 20)) else { return };
    let crowd: Vec<TcpStream> = (0..60).filter_map(|_| TcpStream::connect(world.gateway.address()).ok()).collect();
    assert!(crowd.len() > 20, "the backlog takes what the gateway cannot");
    world.gateway.wait_for_log(&["cannot accept a connection"]);
    assert_calm(&world);
    let said = world.gateway.log(&["cannot accept a connection"]).len();
    assert!(said < 200, "{said} lines about it");
    let reply = inside.send(&Provider::Veedeo.sign(task("second"))).unwrap();
    assert!(reply.acked(), "who is inside is served: {} {}", reply.status, reply.text());
    // The crowd is idle, and closed for that; then there is room.
    let from = Instant::now();
    let entered = || world.gateway.try_send(&Provider::Veedeo.sign(task("third"))).ok().filter(Reply::acked);
    eventually("it recovers by itself", DRAINED, entered);
    eprintln!("recovered after {:?}", from.elapsed());
    drop(crowd);
    assert_everything_came_once(&world, &["first", "second", "third"].map(String::from));
}

#[test]
fn without_a_descriptor_for_the_application_events_are_kept_and_delivered_later() {
    let mut world = world_with(&["app.connect_timeout = '1s'"]);
    let mut inside: Vec<Line> = (0..4).map(|_| Line::open(&world.gateway.address()).unwrap()).collect();
    for (n, line) in inside.iter_mut().enumerate() {
        assert_eq!(line.send(&Provider::Veedeo.sign(task(n))).unwrap().text(), "{\"app\":200}");
    }
    // The pooled connections to the application go with it, and their descriptors when nobody has taken them for a while.
    world.app.down();
    pause(Duration::from_millis(2500));
    let Some(()) = given(allow(&world.gateway, 0)) else { return };
    world.app.up();
    for (n, line) in inside.iter_mut().enumerate() {
        let reply = line.send(&Provider::Veedeo.sign(task(format!("kept {n}")))).unwrap();
        assert_spooled(&reply);
        assert!(reply.took < Duration::from_secs(2), "took {:?}", reply.took);
    }
    assert_eq!(world.app.count(), 4, "there was no descriptor to reach it with");
    assert_calm(&world);
    allow(&world.gateway, 1000).unwrap();
    let tasks: Vec<String> = (0..4).flat_map(|n| [n.to_string(), format!("kept {n}")]).collect();
    assert_everything_came_once(&world, &tasks);
}

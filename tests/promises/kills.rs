//! The gateway is killed at one system call: the n-th sync, the n-th write, the n-th write of a checkpoint, and every
//! one of the first syncs of a start that recovers. P1, P5.
//!
//! The calls are counted in the threads of the disk alone (`world/strace.rs`), so that the n of a run that failed can
//! be had again from its seed.

use std::time::Duration;

use crate::books::{Books, DRAINED, read_the_books, torture_world, under_load};
use crate::world::World;
use crate::world::act::{accept, answer};
use crate::world::app::Seen;
use crate::world::chance::{chance, crashes};
use crate::world::clock::pause;
use crate::world::gateway::Gateway;
use crate::world::needs::given;
use crate::world::strace::{Hand, KEEPER, SYNC, WRITE, WRITER, works};

/// Longest wait for the call at which the gateway is killed.
const CALLED: Duration = Duration::from_secs(30);

/// Kills it at the n-th of `calls` of a thread, n of chance up to `most`, as often as asked for.
fn kill_at_calls(gateway: &mut Gateway, books: &Books, thread: &str, calls: &str, most: u32, kills: usize) {
    let mut chance = chance();
    for _ in 0..kills {
        let n = chance.u32(1..=most);
        let hand = Hand::on(gateway, &[thread], calls, &format!("signal=KILL:when={n}"));
        assert!(gateway.is_killed(CALLED), "no {calls} number {n} in {CALLED:?}");
        drop(hand);
        books.incident();
        gateway.restart();
        pause(Duration::from_millis(chance.u64(0..100)));
    }
}

/// Half of its answers are failures, so that the disk has to do with events all the time.
fn fickle(world: &World) {
    world.app.decide(|seen: &Seen| {
        let chance = seen.sha256()[0] ^ seen.header("hookgate-event").as_bytes()[35];
        if chance.is_multiple_of(2) { answer(500) } else { accept() }
    });
}

fn killed_at(calls: &str, most: u32, lines: &[&str]) {
    let Some(()) = given(works()) else { return };
    let mut world = torture_world(lines);
    fickle(&world);
    let books = Books::default();
    under_load(&mut world, &books, |gateway, books| kill_at_calls(gateway, books, WRITER, calls, most, crashes()));
    read_the_books(&world, &books);
}

#[test]
fn nothing_acknowledged_is_lost_when_the_gateway_is_killed_at_a_sync() {
    killed_at(SYNC, 12, &[]);
}

#[test]
fn nothing_acknowledged_is_lost_when_a_queueing_gateway_is_killed_at_a_sync() {
    killed_at(SYNC, 12, &["ack.mode = 'queue'"]);
}

#[test]
fn nothing_acknowledged_is_lost_when_the_gateway_is_killed_at_a_write() {
    killed_at(WRITE, 120, &["ack.mode = 'queue'"]);
}

/// A few hundred commits around events of this size make a checkpoint due.
const WIDE: usize = 8 * 1024;

#[test]
fn nothing_acknowledged_is_lost_when_the_gateway_is_killed_in_a_checkpoint() {
    let Some(()) = given(works()) else { return };
    let mut world = torture_world(&["ack.mode = 'queue'"]);
    fickle(&world);
    let books = Books::on_bodies_wider_by(WIDE);
    let kills = crashes().div_ceil(5);
    under_load(&mut world, &books, |gateway, books| {
        kill_at_calls(gateway, books, KEEPER, WRITE, 100, kills);
        kill_at_calls(gateway, books, KEEPER, SYNC, 2, kills);
    });
    read_the_books(&world, &books);
}

/// Syncs of a start after a crash, at most.
const SYNCS_OF_A_START: u32 = 8;

#[test]
fn a_start_that_is_killed_at_any_of_its_syncs_loses_nothing() {
    let Some(()) = given(works()) else { return };
    let mut world = torture_world(&["ack.mode = 'queue'"]);
    world.app.down();
    let books = Books::default();
    let address = world.gateway.address();
    books.while_sending(&address, || pause(Duration::from_millis(500)));
    let mut killed = 0;
    for n in 1..=SYNCS_OF_A_START {
        world.gateway.kill9();
        books.incident();
        let strace =
            format!("exec strace -D -f -qq -o /dev/null -e trace={SYNC} -e inject={SYNC}:signal=KILL:when={n}");
        world.gateway.through(format!("{strace} \"$0\" \"$@\""));
        world.gateway.launch();
        while !world.gateway.is_ready() && !world.gateway.is_killed(Duration::from_millis(20)) {}
        world.gateway.unlimited();
        if world.gateway.runs() {
            // It made do with fewer syncs, and is still being counted.
            world.gateway.kill9();
        } else {
            killed += 1;
        }
        world.gateway.restart();
    }
    assert!(killed > 0, "a start after a crash syncs");
    eprintln!("killed at the first {killed} syncs of a start");
    world.app.up();
    world.gateway.wait_for_empty_spool(DRAINED);
    read_the_books(&world, &books);
}

//! The power goes: whatever was not synced is gone, the page cache and all. P1, P5.
//!
//! The spool lies on an ext4 whose device is a file in memory and which writes nothing by itself (`commit=600`). At a
//! moment of chance that file is copied while the gateway writes: the copy is what a platter would hold. Acknowledgements
//! that came later were never heard. The old gateway is killed, the copy is mounted in the place of the old file
//! system, the machine has another boot id, and a gateway starts on it.
//!
//! The control does the same with a gateway whose syncs do nothing, and has to lose what it acknowledged.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::books::{Books, DRAINED, quick_lines, read_the_books};
use crate::outage::assert_spooled;
use crate::world::World;
use crate::world::act::{Act, accept, answer};
use crate::world::app::{App, Seen};
use crate::world::chance::{chance, crashes};
use crate::world::clock::{eventually, pause};
use crate::world::events::task;
use crate::world::gateway::Gateway;
use crate::world::mounts::Platter;
use crate::world::needs::given;
use crate::world::setup::Setup;
use crate::world::strace::{Hand, KEEPER, SYNC, WRITER, works};

/// A machine whose power can go.
struct Machine {
    /// The gateway has to end before the file system does.
    world: World,
    platter: Platter,
    boot_id: PathBuf,
    boots: u32,
    /// Cuts for which the gateway did not have to be stopped.
    cut_in_mid_write: usize,
}

impl Machine {
    fn new(megabytes: u32, lines: &[&str]) -> Option<Self> {
        let platter = given(Platter::new(megabytes))?;
        let boot_id = platter.mounts.cover("/proc/sys/kernel/random/boot_id", &boot(0));
        let app = App::start();
        let spool = format!("spool.path = '{}'", platter.path().join("spool").display());
        let quick = quick_lines();
        let mut setup = Setup::new(&app.url()).with(&[&spool]).with(lines);
        for line in &quick {
            setup.set(line);
        }
        setup.shell = Some(platter.mounts.entrance());
        let world = World { gateway: Gateway::start(setup), app };
        Some(Self { world, platter, boot_id, boots: 0, cut_in_mid_write: 0 })
    }

    /// The power goes now and comes back. Returns the moment at which it went.
    fn cut_the_power(&mut self, books: &Books) -> Instant {
        let moment = Instant::now();
        if !self.platter.copy(&self.world.gateway) {
            self.cut_in_mid_write += 1;
        }
        self.world.gateway.kill9();
        books.incident();
        books.nobody_heard_after(moment);
        self.boots += 1;
        std::fs::write(&self.boot_id, boot(self.boots)).expect("a tmpfs takes a small file");
        self.platter.power_on();
        moment
    }

    /// Loads it, cuts its power when `moment` has come, as often as asked for, and reads the books.
    fn suffers(&mut self, books: &Books, cuts: usize, moment: impl Fn(&Self, &mut fastrand::Rng)) {
        let mut chance = chance();
        let address = self.world.gateway.address();
        for _ in 0..cuts {
            books.while_sending(&address, || {
                moment(self, &mut chance);
                self.cut_the_power(books);
            });
            self.world.gateway.restart();
        }
        books.while_sending(&address, || {
            self.world.app.always(accept());
            pause(Duration::from_millis(500));
        });
        self.world.gateway.wait_for_empty_spool(DRAINED);
        read_the_books(&self.world, books);
        eprintln!("{} of {cuts} cuts came while the gateway was running", self.cut_in_mid_write);
    }

    /// Two of three answers are failures.
    fn fails_often(&self) {
        self.world.app.decide(|seen: &Seen| {
            let chance = seen.sha256()[0] ^ seen.header("hookgate-event").as_bytes()[35];
            if chance.is_multiple_of(3) { accept() } else { answer(500) }
        });
    }
}

/// Any moment.
fn some_time(_: &Machine, chance: &mut fastrand::Rng) {
    pause(Duration::from_millis(chance.u64(20..700)));
}

/// A moment in which the write-ahead log is brought into the database, or just after.
fn a_checkpoint(machine: &Machine, chance: &mut fastrand::Rng) {
    let file = machine.platter.mounts.outside(&machine.platter.path().join("spool/hookgate.db"));
    let changed = || file.metadata().and_then(|file| file.modified()).expect("the database is there");
    let before = changed();
    eventually("a checkpoint", DRAINED, || (changed() != before).then_some(()));
    pause(Duration::from_millis(chance.u64(0..40)));
}

fn boot(number: u32) -> String {
    format!("00000000-0000-4000-8000-{number:012}\n")
}

#[test]
fn nothing_acknowledged_is_lost_when_the_power_goes_under_a_queueing_gateway() {
    let Some(mut machine) = Machine::new(64, &["ack.mode = 'queue'"]) else { return };
    machine.world.app.always(accept().after(Duration::from_millis(20)));
    machine.suffers(&Books::default(), crashes(), some_time);
}

#[test]
fn nothing_acknowledged_is_lost_when_the_power_goes_before_a_failing_application() {
    let Some(mut machine) = Machine::new(64, &[]) else { return };
    machine.fails_often();
    machine.suffers(&Books::default(), crashes(), some_time);
}

#[test]
fn nothing_acknowledged_is_lost_when_the_power_goes_around_a_checkpoint() {
    let Some(mut machine) = Machine::new(96, &["ack.mode = 'queue'"]) else { return };
    machine.fails_often();
    machine.suffers(&Books::on_bodies_wider_by(8 * 1024), crashes().div_ceil(5), a_checkpoint);
}

#[test]
fn a_sending_that_the_platter_does_not_know_of_is_flagged_when_it_comes_again() {
    let Some(mut machine) = Machine::new(24, &[]) else { return };
    let books = Books::default();
    machine.world.app.down();
    assert_spooled(&machine.world.veedeo(task("kept")));
    // That an attempt begins is written and not synced, and nothing else happens that would sync it.
    machine.world.app.first([Act::Never]);
    machine.world.app.up();
    machine.world.app.wait_for(1);
    machine.cut_the_power(&books);
    machine.world.gateway.restart();
    let seen = machine.world.app.wait_for(2);
    assert!(seen[1].flagged(), "the first sending may have been processed: {seen:?}");
    machine.world.gateway.wait_for_empty_spool(DRAINED);
    assert_eq!(machine.world.app.count(), 2);
}

/// Rounds in which a gateway that does not sync has to lose something: the first one does, nearly always.
const CHANCES: usize = 3;

#[test]
fn the_test_of_the_power_sees_the_loss_of_a_gateway_that_does_not_sync() {
    let Some(()) = given(works()) else { return };
    let Some(mut machine) = Machine::new(64, &["ack.mode = 'queue'"]) else { return };
    machine.world.app.down();
    let books = Books::default();
    let address = machine.world.gateway.address();
    for round in 1..=CHANCES {
        let unsynced = Hand::on(&machine.world.gateway, &[WRITER, KEEPER], SYNC, "retval=0");
        books.while_sending(&address, || {
            pause(Duration::from_millis(400));
            machine.cut_the_power(&books);
        });
        drop(unsynced);
        machine.world.gateway.restart();
        machine.world.app.up();
        machine.world.gateway.wait_for_empty_spool(DRAINED);
        let missing = books.missing(&machine.world.app.seen());
        if !missing.is_empty() {
            eprintln!("round {round}: {} of {} acknowledged events are lost", missing.len(), books.acked());
            return;
        }
        machine.world.app.down();
    }
    panic!("{} acknowledged events without a sync, and none was lost: the test sees nothing", books.acked());
}

//! The bounds of the spool: what is refused at them, what goes on, and that room given back is used again. P2, P3.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::outage::assert_spooled;
use crate::world::act::{accept, answer};
use crate::world::app::App;
use crate::world::chance::{bytes, chance};
use crate::world::clock::{environment, eventually};
use crate::world::events::{task, task_of};
use crate::world::gateway::Gateway;
use crate::world::sender::Reply;
use crate::world::setup::Setup;
use crate::world::sign::Provider;
use crate::world::{World, world_with};

const DRAINED: Duration = Duration::from_secs(60);

/// An event of about 20 KiB.
fn large(n: impl std::fmt::Display) -> Vec<u8> {
    let mut chance = chance();
    let filler = data_encoding::HEXLOWER.encode(&bytes(&mut chance, 10_000));
    let text = String::from_utf8(task(n)).unwrap();
    text.replace("\"percentage\":45", &format!("\"percentage\":\"{filler}\"")).into_bytes()
}

fn assert_full(reply: &Reply) {
    assert_eq!((reply.status, reply.reason().as_str()), (503, "spool_full"));
    assert!(reply.retry_after().is_some_and(|seconds| seconds > 0));
}

/// Rejects events until nothing is kept of them any more. Returns how many copies there are.
fn reject_until_full(world: &World) -> usize {
    world.app.always(answer(422));
    for n in 0..200 {
        let reply = world.veedeo(large(format!("rejected-{n}")));
        assert_eq!(reply.text(), "{\"app\":422}", "the sender gets the application's answer, copy or not");
        if world.gateway.metrics().count("hookgate_dead_letter_copies_lost_total", &[("route", "veedeo")]) > 0 {
            return n;
        }
    }
    panic!("4 MB of dead letters went into a share of 512 KiB");
}

#[test]
fn copies_of_rejected_events_leave_half_of_the_spool_to_those_that_must_be_kept() {
    let mut world = world_with(&["spool.max_bytes = '1MiB'", "delivery.retries = ['100ms']"]);
    let copies = reject_until_full(&world);
    assert!((15..=26).contains(&copies), "{copies} copies of 20 KiB in half a MiB");
    let metrics = world.gateway.metrics();
    assert!(metrics.find("hookgate_spool_dead_bytes", &[]) <= metrics.find("hookgate_spool_dead_capacity_bytes", &[]));
    assert_eq!(metrics.find("hookgate_spool_dead_capacity_bytes", &[]), Some(524_288.0));
    // What is acknowledged finds room, and becomes a dead letter though their share is used up.
    world.app.down();
    for n in 0..10 {
        assert_spooled(&world.veedeo(large(format!("kept-{n}"))));
    }
    world.app.up();
    world.gateway.wait_for_empty_spool(DRAINED);
    let letters = world.gateway.rows(&["dlq", "list"]);
    assert_eq!(letters.len(), copies + 10, "a dead letter that was acknowledged is never refused");
    // Room that an operator makes is used again.
    let dropped = world.gateway.ask(&["dlq", "drop", "--all", "--yes"]);
    assert_eq!(dropped.code, Some(0), "{dropped:?}");
    assert_eq!(world.veedeo(large("again")).status, 422);
    assert_eq!(world.gateway.rows(&["dlq", "list"]).len(), 1);
}

#[test]
fn an_absorbed_rejection_stays_with_its_sender_when_the_dead_letters_share_is_used_up() {
    let world = world_with(&["spool.max_dead_bytes = '100KiB'", "ack.on_app_rejection = 'absorb'"]);
    world.app.always(answer(422));
    let mut replies = (0..10).map(|n| world.veedeo(large(n)));
    let refused = replies.find(|reply| !reply.acked()).expect("a share that ends");
    assert_full(&refused);
    world.app.always(accept());
    assert_eq!(world.veedeo(large("well")).text(), "{\"app\":200}");
}

#[test]
fn a_share_larger_than_the_spool_is_no_configuration() {
    let app = App::stopped();
    let gateway =
        Gateway::prepared(Setup::new(&app.url()).with(&["spool.max_bytes = '1MiB'", "spool.max_dead_bytes = '2MiB'"]));
    let path = gateway.configuration_path();
    let finished = gateway.run(&["validate", &path.to_string_lossy()]);
    assert_eq!(finished.code, Some(78), "{finished:?}");
    assert!((finished.stdout + &finished.stderr).contains("max_dead_bytes"));
}

/// A file system of its own in memory; gone with the value.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(mebibytes: u32) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={mebibytes}m");
        let mount = ["-t", "tmpfs", "-o", &size, "hookgate-test"];
        let mounted =
            Command::new("mount").args(mount).arg(folder.path()).output().is_ok_and(|out| out.status.success());
        if mounted {
            return Some(Self(folder));
        }
        assert!(environment("CI").as_deref() != Some("true"), "no tmpfs can be mounted, and this is CI");
        eprintln!("not run: no tmpfs can be mounted here, which takes root");
        None
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes every byte that is left, or has become free since the last time.
    fn fill(&self) -> PathBuf {
        let path = self.path().join("somebody-elses-file");
        let mut file = std::fs::File::options().append(true).create(true).open(&path).unwrap();
        let mut piece = vec![7_u8; 1 << 20];
        while piece.len() > 1 {
            if std::io::Write::write_all(&mut file, &piece).is_err() {
                piece.truncate(piece.len() / 2);
            }
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(self.path()).status().ok();
    }
}

#[test]
fn a_disk_filled_by_somebody_else_costs_no_event_and_recovers_with_the_space() {
    let Some(disk) = SmallDisk::mount(24) else { return };
    let (mut app, well) = (App::stopped(), App::start());
    let spool = format!("spool.path = '{}'", disk.path().join("spool").display());
    let github = format!("routes.github.app.url = '{}'", well.url());
    let setup = Setup::new(&app.url()).with(&[&spool, "spool.min_free_bytes = '4MiB'", &github]);
    let gateway = Gateway::start(setup);
    let mut kept = Vec::new();
    for n in 0..1000 {
        let reply = gateway.send(&Provider::Veedeo.sign(large(n)));
        if !reply.acked() {
            assert_full(&reply);
            break;
        }
        kept.push(n.to_string());
    }
    assert!((100..900).contains(&kept.len()), "{} events in 24 MiB", kept.len());
    let free = rustix::fs::statvfs(disk.path()).unwrap();
    assert!(free.f_bavail * free.f_frsize > 1 << 20, "the guard kept {} pages free", free.f_bavail);
    let taken = disk.fill();
    // What was reserved before is still taken, until the free space is looked at again. After the refusal above the log was
    // given back to the disk, maybe only now.
    let at_zero = (0..).map(|n| format!("at zero {n}"));
    let mut names = at_zero.take(1000);
    eventually("a disk without a free byte takes nothing more", Duration::from_secs(10), || {
        let name = names.next()?;
        disk.fill();
        let reply = gateway.send(&Provider::Veedeo.sign(task(&name)));
        if reply.acked() {
            kept.push(name);
            return None;
        }
        assert_full(&reply);
        Some(())
    });
    let fast = gateway.send(&Provider::GitHub.sign("{\"name\":\"fast\"}"));
    assert_eq!(fast.text(), "{\"app\":200}", "an event whose application is well needs no disk");
    app.up();
    std::fs::remove_file(taken).unwrap();
    gateway.wait_for_empty_spool(DRAINED);
    let mut seen: Vec<String> = app.seen().iter().map(|seen| task_of(&seen.body)).collect();
    seen.sort();
    kept.sort();
    seen.dedup();
    assert_eq!(seen, kept);
    app.down();
    let again = || gateway.send(&Provider::Veedeo.sign(task("room"))).acked().then_some(());
    eventually("there is room again", DRAINED, again);
}

#[test]
fn a_start_on_a_full_disk_works_and_the_spool_drains_there() {
    for killed in [false, true] {
        let Some(disk) = SmallDisk::mount(16) else { return };
        let mut app = App::stopped();
        let spool = format!("spool.path = '{}'", disk.path().join("spool").display());
        let mut gateway = Gateway::start(Setup::new(&app.url()).with(&[&spool, "spool.min_free_bytes = '1MiB'"]));
        for n in 0..20 {
            assert_spooled(&gateway.send(&Provider::Veedeo.sign(large(n))));
        }
        if killed {
            gateway.kill9();
        } else {
            gateway.stop();
        }
        disk.fill();
        gateway.restart();
        assert_full(&gateway.send(&Provider::Veedeo.sign(task("no room"))));
        app.up();
        gateway.wait_for_empty_spool(DRAINED);
        let mut seen: Vec<usize> = app.seen().iter().map(|seen| task_of(&seen.body).parse().unwrap()).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..20).collect::<Vec<_>>(), "killed: {killed}");
    }
}

#[test]
fn a_first_start_on_a_full_disk_says_what_would_help() {
    let Some(disk) = SmallDisk::mount(4) else { return };
    let app = App::start();
    let spool = format!("spool.path = '{}'", disk.path().join("spool").display());
    let mut gateway = Gateway::prepared(Setup::new(&app.url()).with(&[&spool]));
    let taken = disk.fill();
    gateway.launch();
    assert!(!gateway.wait_for_end(Duration::from_secs(10)).success());
    let said = gateway.said().join("\n");
    assert!(said.contains("is full") && said.contains("make room there"), "{said}");
    std::fs::remove_file(taken).unwrap();
    gateway.restart();
}

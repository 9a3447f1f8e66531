//! The disk under a running gateway fails: no room, errors, read-only, silence; and what lies on it is damaged. P1, P2,
//! P3, P4, P9, P12.
//!
//! Faults of single system calls are made by `world/strace.rs`, full and read-only file systems are real ones.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::books::{Books, DRAINED, read_the_books, torture_world, under_load};
use crate::disk::{TwoApps, assert_the_fast_path_goes_on, fill, two_apps};
use crate::outage::assert_spooled;
use crate::world::act::{accept, answer};
use crate::world::app::App;
use crate::world::chance::{chance, crashes};
use crate::world::clock::{environment, eventually, pause};
use crate::world::events::{task, task_of, wide_task};
use crate::world::gateway::Gateway;
use crate::world::mounts::{Mounts, Platter};
use crate::world::needs::given;
use crate::world::setup::Setup;
use crate::world::sign::Provider;
use crate::world::strace::{CHANGE, Hand, KEEPER, SYNC, WRITE, WRITER, works};
use crate::world::{World, at_once, world_without_app};

/// Two seconds for everything, one of them in reserve.
const SHORT_BUDGET: [&str; 2] = ["ack.budget = '3s'", "ack.reserve = '1s'"];
/// When a sender has its reply at the latest.
const DEADLINE: Duration = Duration::from_millis(2400);

fn lives(world: &TwoApps) {
    assert_eq!(world.gateway.telemetry("/livez").unwrap().status, 200);
}

/// Everything taken was delivered, each event once, unaltered.
fn assert_delivered_once(app: &App, tasks: &[String]) {
    let seen = app.seen();
    let delivered: Vec<String> = seen.iter().filter(|s| s.answered == Some(200)).map(|s| task_of(&s.body)).collect();
    let distinct: HashSet<&String> = delivered.iter().collect();
    let lost: Vec<&String> = tasks.iter().filter(|task| !distinct.contains(task)).collect();
    assert!(lost.is_empty(), "{} of {} are lost: {lost:?}", lost.len(), tasks.len());
    assert_eq!(distinct.len(), delivered.len(), "sent twice");
}

// ---- no room

fn two_apps_in(mounts: &Mounts, spool: &Path, lines: &[&str]) -> TwoApps {
    let spool = format!("spool.path = '{}'", spool.display());
    two_apps(|setup| {
        let mut setup = setup.with(&[&spool]).with(lines);
        setup.shell = Some(mounts.entrance());
        setup
    })
}

#[test]
fn a_small_disk_that_events_fill_recovers_by_being_drained() {
    let Some(mounts) = given(Mounts::with_tmpfs("12m")) else { return };
    let mut world = two_apps_in(&mounts, &mounts.folder().join("spool"), &[]);
    let (mut taken, refused, _) = fill(&world.gateway, 0);
    assert_eq!((refused.status, refused.reason().as_str()), (503, "spool_full"));
    assert!(taken.len() > 100, "12 MB hold more than {} events of 20 KB", taken.len());
    assert_the_fast_path_goes_on(&world, "full");
    world.away.up();
    world.gateway.wait_for_empty_spool(DRAINED);
    world.away.down();
    let (again, _, _) = fill(&world.gateway, 2000);
    assert!(again.len() * 2 > taken.len(), "room for {} events after the drain, {} before", again.len(), taken.len());
    taken.extend(again);
    world.away.up();
    world.gateway.wait_for_empty_spool(DRAINED);
    assert_delivered_once(&world.away, &taken);
}

#[test]
fn a_disk_that_somebody_else_fills_costs_nothing_and_the_drain_goes_on() {
    let Some(mounts) = given(Mounts::with_tmpfs("24m")) else { return };
    let mut world = two_apps_in(&mounts, &mounts.folder().join("spool"), &[]);
    let mut taken: Vec<String> = Vec::new();
    for n in 0..100 {
        assert_spooled(&world.gateway.send(&Provider::Veedeo.sign(wide_task(n, 20_000))));
        taken.push(n.to_string());
    }
    mounts.sh("dd if=/dev/zero of=$D/other bs=64k 2>/dev/null || true");
    // The last bytes are found and taken by a few events more.
    let (last, reply, refused) = fill(&world.gateway, 1000);
    taken.extend(last);
    assert_eq!((reply.status, reply.reason().as_str()), (503, "spool_full"));
    assert!(reply.retry_after().is_some());
    assert_the_fast_path_goes_on(&world, "filled");
    lives(&world);
    world.away.up();
    world.gateway.wait_for_empty_spool(DRAINED);
    let reply = world.gateway.send(&Provider::Veedeo.sign(refused.clone()));
    assert_eq!(reply.text(), "{\"app\":200}", "what was refused is still new");
    taken.push(task_of(&refused));
    mounts.sh("rm $D/other");
    world.away.down();
    let kept = || world.gateway.send(&Provider::Veedeo.sign(task("later"))).acked().then_some(());
    eventually("there is room again", DRAINED, kept);
    taken.push("later".into());
    world.away.up();
    world.gateway.wait_for_empty_spool(DRAINED);
    assert_delivered_once(&world.away, &taken);
}

/// An event's name and its body.
type Kept = (Vec<u8>, Vec<u8>);

/// Every event of a spool that nobody has open, and the version of its tables.
fn events_in(spool: &Path) -> (Vec<Kept>, i64) {
    let copy = tempfile::tempdir().unwrap();
    for name in ["hookgate.db", "hookgate.db-wal"] {
        // There may be no log.
        std::fs::copy(spool.join(name), copy.path().join(name)).ok();
    }
    let conn = Connection::open(copy.path().join("hookgate.db")).unwrap();
    let version = conn.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    let text = "SELECT e.id, p.body FROM events AS e JOIN payloads AS p ON p.seq = e.seq ORDER BY e.id";
    let mut query = conn.prepare(text).unwrap();
    let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    (rows.map(Result::unwrap).collect(), version)
}

#[test]
fn a_spool_of_an_older_version_for_which_there_is_no_room_says_so_and_loses_nothing() {
    let Some(mounts) = given(Mounts::with_tmpfs("2m")) else { return };
    mounts.sh("mkdir -m 700 $D/spool");
    let spool = mounts.outside(&mounts.folder().join("spool"));
    let aside = tempfile::tempdir().unwrap();
    let written = aside.path().join("hookgate.db");
    let old = Connection::open(&written).unwrap();
    old.execute_batch("PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL;").unwrap();
    old.execute_batch(include_str!("../fixtures/spool-v1.sql")).unwrap();
    drop(old);
    std::fs::copy(written, spool.join("hookgate.db")).unwrap();
    let before = events_in(&spool);
    assert_eq!((before.0.len(), before.1), (6, 1));
    let path = format!("spool.path = '{}'", mounts.folder().join("spool").display());
    let mut setup = Setup::new("http://127.0.0.1:9").with(&[&path, "spool.min_free_bytes = 0"]);
    setup.shell = Some(mounts.entrance());
    let mut gateway = Gateway::prepared(setup);
    // Room for nothing, for a part of what SQLite shares in memory, and at last for a part of the update.
    for (round, left) in [0, 8, 24, 20].into_iter().enumerate() {
        mounts.sh(&format!(
            "rm -f $D/other; free=$(df -k --output=avail $D | tail -n 1); \
             dd if=/dev/zero of=$D/other bs=1k count=$((free - {left})) 2>/dev/null"
        ));
        gateway.launch();
        assert!(!gateway.wait_for_end(DRAINED).success(), "{left} KiB");
        let told = || gateway.log(&["hookgate.db is full", "make room there", "is untouched"]).len();
        eventually("it is told", DRAINED, || (told() == round + 1).then_some(()));
        assert_eq!(events_in(&spool), before, "{left} KiB");
    }
    mounts.sh("rm $D/other");
    gateway.restart();
    eventually("all of it is known", DRAINED, || {
        let metrics = gateway.metrics();
        let events = |state| metrics.count("hookgate_spool_events", &[("state", state)]);
        (events("pending") + events("dead") == 6).then_some(())
    });
    gateway.stop();
    let after = events_in(&spool);
    assert!(after.0 == before.0 && after.1 > 1, "{after:?}");
}

// ---- errors of single calls

/// Under load, fails the n-th of `calls` of a thread with each of `errors`, n of chance; the gateway must not end, and
/// in the end the books must be right.
fn fails_under_load(threads: &[&str], calls: &str, errors: &[&str], most: u32, lines: &[&str]) {
    let Some(()) = given(works()) else { return };
    let mut world = torture_world(lines);
    world.app.decide(|seen| if seen.sha256()[0] % 3 == 0 { accept() } else { answer(500) });
    let books = Books::default();
    let mut chance = chance();
    under_load(&mut world, &books, |gateway, books| {
        for round in 0..crashes() {
            let error = errors[round % errors.len()];
            let n = chance.u32(1..=most);
            // Once, then again and again: a fault that passes and one that stays.
            let when = if round % 2 == 0 { format!("{n}") } else { format!("{n}+{}", chance.u32(1..4)) };
            books.incident();
            let hand = Hand::on(gateway, threads, calls, &format!("error={error}:when={when}"));
            pause(Duration::from_millis(chance.u64(200..900)));
            drop(hand);
            books.incident();
            pause(Duration::from_millis(chance.u64(0..200)));
        }
        eventually("the disk is trusted again", DRAINED, || {
            let acked = books.acked();
            pause(Duration::from_millis(200));
            (books.acked() > acked).then_some(())
        });
    });
    assert!(world.gateway.metrics().count("hookgate_spool_errors_total", &[]) > 0, "the faults were felt");
    read_the_books(&world, &books);
}

#[test]
fn writes_that_fail_lose_nothing_acknowledged() {
    fails_under_load(&[WRITER], WRITE, &["ENOSPC", "EIO"], 60, &["ack.mode = 'queue'"]);
}

#[test]
fn syncs_that_fail_lose_nothing_acknowledged() {
    fails_under_load(&[WRITER], SYNC, &["EIO", "ENOSPC"], 8, &["ack.mode = 'queue'"]);
}

#[test]
fn an_event_whose_commit_failed_stays_with_its_sender_and_a_kill_does_not_bring_it_back() {
    let Some(()) = given(works()) else { return };
    for (calls, error) in [(SYNC, "EIO"), (WRITE, "ENOSPC")] {
        let mut world = world_without_app(&["ack.mode = 'queue'"]);
        assert_spooled(&world.veedeo(task("kept")));
        let hand = Hand::on(&world.gateway, &[WRITER], calls, &format!("error={error}"));
        let refused = world.veedeo(task("refused"));
        assert_eq!(refused.status, 503, "{error}");
        assert!(["spool_full", "spool_failed"].contains(&refused.reason().as_str()), "{}", refused.text());
        assert!(refused.retry_after().is_some());
        world.gateway.kill9();
        drop(hand);
        world.app.up();
        world.gateway.restart();
        world.gateway.wait_for_empty_spool(DRAINED);
        let delivered: Vec<String> = world.app.seen().iter().map(|seen| task_of(&seen.body)).collect();
        assert_eq!(delivered, ["kept"], "{error}: what was refused is the sender's");
        assert!(world.veedeo(task("refused")).acked());
        world.gateway.wait_for_empty_spool(DRAINED);
        assert_eq!(world.app.count(), 2, "{error}");
    }
}

#[test]
fn a_disk_that_turns_read_only_and_back_is_used_again() {
    let Some(()) = given(works()) else { return };
    let mut world = two_apps(|setup| setup);
    assert_spooled(&world.gateway.send(&Provider::Veedeo.sign(task("before"))));
    let hand = Hand::on(&world.gateway, &[WRITER, KEEPER], CHANGE, "error=EROFS");
    for n in 0..6 {
        let reply = world.gateway.send(&Provider::Veedeo.sign(task(n)));
        assert_eq!((reply.status, reply.reason().as_str()), (503, "spool_failed"));
        assert_the_fast_path_goes_on(&world, &format!("read-only {n}"));
    }
    lives(&world);
    drop(hand);
    let from = Instant::now();
    eventually("the disk is used again", DRAINED, || {
        world.gateway.send(&Provider::Veedeo.sign(task("after"))).acked().then_some(())
    });
    assert!(from.elapsed() < Duration::from_secs(8), "it took {:?} to be trusted again", from.elapsed());
    world.away.up();
    world.gateway.wait_for_empty_spool(DRAINED);
    assert_delivered_once(&world.away, &["before".into(), "after".into()]);
}

#[test]
fn a_file_system_that_goes_read_only_by_itself_keeps_what_was_acknowledged() {
    let Some(mut platter) = given(Platter::new(24)) else { return };
    let mut world = two_apps_in(&platter.mounts, &platter.path().join("spool"), &[]);
    let mut taken = Vec::new();
    for n in 0..20 {
        assert_spooled(&world.gateway.send(&Provider::Veedeo.sign(task(n))));
        taken.push(n.to_string());
    }
    platter.fail();
    let reply = world.gateway.send(&Provider::Veedeo.sign(task("refused")));
    assert_eq!((reply.status, reply.reason().as_str()), (503, "spool_failed"));
    assert_the_fast_path_goes_on(&world, "read-only");
    lives(&world);
    world.gateway.send(&Provider::Veedeo.sign(task("refused")));
    // The log's thread writes some milliseconds later.
    world.gateway.wait_for_log(&["\"level\":\"error\""]);
    world.gateway.kill9();
    platter.check_and_mount_again();
    world.away.up();
    world.gateway.restart();
    world.gateway.wait_for_empty_spool(DRAINED);
    assert_delivered_once(&world.away, &taken);
}

// ---- silence

#[test]
fn a_sync_that_stalls_holds_no_sender_beyond_the_budget_and_not_the_fast_path() {
    let Some(()) = given(works()) else { return };
    // The minute of the promise where there is time for it.
    let stall = Duration::from_secs(if environment("HOOKGATE_TORTURE").is_some() { 60 } else { 7 });
    let mut world = two_apps(|setup| setup.with(&SHORT_BUDGET));
    assert_spooled(&world.gateway.send(&Provider::Veedeo.sign(task("before"))));
    let delay = format!("delay_enter={}:when=1", stall.as_micros());
    let hand = Hand::on(&world.gateway, &[WRITER], SYNC, &delay);
    let from = Instant::now();
    let mut refused = 0;
    let mut rounds = 0;
    while from.elapsed() + DEADLINE < stall {
        let replies = at_once(0..6, |n| world.gateway.send(&Provider::Veedeo.sign(task(format!("{rounds}-{n}")))));
        for reply in &replies {
            assert_eq!((reply.status, reply.reason().as_str()), (503, "spool_failed"));
            assert!(reply.took < DEADLINE, "a reply took {:?}", reply.took);
        }
        refused += replies.len();
        let well = Instant::now();
        assert_the_fast_path_goes_on(&world, &format!("stalled {rounds}"));
        assert!(well.elapsed() < Duration::from_secs(1), "the fast path took {:?}", well.elapsed());
        rounds += 1;
    }
    assert!(refused >= 12, "only {refused} events met the stall");
    eventually("the stall ends", stall + DRAINED, || {
        world.gateway.send(&Provider::Veedeo.sign(task("after"))).acked().then_some(())
    });
    drop(hand);
    world.away.up();
    world.gateway.wait_for_empty_spool(DRAINED);
    let delivered: HashSet<String> = world.away.seen().iter().map(|seen| task_of(&seen.body)).collect();
    assert!(delivered.contains("before") && delivered.contains("after"), "{delivered:?}");
    let seen = world.away.seen();
    assert_eq!(delivered.len(), seen.len(), "nothing is sent twice");
    // What its sender was refused may have been committed when the stall ended; then it is known.
    for n in 0..6 {
        let known = delivered.contains(&format!("0-{n}"));
        let reply = world.gateway.send(&Provider::Veedeo.sign(task(format!("0-{n}"))));
        assert!(reply.acked());
        assert!(!known || reply.json("duplicate") == true, "committed, delivered, and delivered again");
    }
}

// ---- damage

/// The database and its write-ahead log.
fn files(gateway: &Gateway) -> [PathBuf; 2] {
    ["hookgate.db", "hookgate.db-wal"].map(|name| gateway.spool_path().join(name))
}

/// Where in a file.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// Among the last kilobytes.
    Newest,
    /// Anywhere before.
    Middle,
}

/// Changes a few bytes in a row. Returns where.
fn damage(file: &Path, place: Place, chance: &mut fastrand::Rng) -> usize {
    let mut bytes = std::fs::read(file).unwrap();
    assert!(bytes.len() > 16 * 1024, "{} has {} bytes", file.display(), bytes.len());
    let newest = bytes.len() - 8 * 1024;
    let at = match place {
        Place::Newest => chance.usize(newest..bytes.len() - 64),
        Place::Middle => chance.usize(100..newest),
    };
    for byte in &mut bytes[at..at + 64] {
        *byte ^= chance.u8(1..);
    }
    std::fs::write(file, bytes).unwrap();
    at
}

const EVENTS: usize = 60;

/// Of them, those that are written when all the others are.
const NEWEST: usize = EVENTS / 2;

/// A gateway with events on disk, killed; in the write-ahead log alone, or in the database too.
fn a_full_spool(in_the_database: bool) -> World {
    let mut world = world_without_app(&["ack.mode = 'queue'"]);
    at_once(0..EVENTS - NEWEST, |n| assert_spooled(&world.veedeo(wide_task(n, 2000))));
    at_once(EVENTS - NEWEST..EVENTS, |n| assert_spooled(&world.veedeo(wide_task(n, 2000))));
    if in_the_database {
        world.gateway.stop();
    } else {
        world.gateway.kill9();
    }
    world
}

/// Waits until nothing is pending and nothing is to come over from a damaged file; or, where a damaged record cannot even be marked as such, until nothing comes any
/// more.
fn wait_for_what_can_be_delivered(world: &World) {
    let mut quiet_since = (world.app.count(), Instant::now());
    eventually("the spool drains as far as it can be read", DRAINED, || {
        let metrics = world.gateway.metrics();
        let pending = metrics.count("hookgate_spool_events", &[("state", "pending")]);
        if pending + metrics.count("hookgate_spool_salvage_files", &[]) == 0 {
            return Some(());
        }
        if world.app.count() != quiet_since.0 {
            quiet_since = (world.app.count(), Instant::now());
        }
        let told = metrics.count("hookgate_spool_errors_total", &[]) > 0;
        (told && quiet_since.1.elapsed() > Duration::from_secs(3)).then_some(())
    });
}

/// Starts on a damaged spool and holds it to the promise. Returns how many events were lost.
fn survives(world: &mut World, what: &str) -> usize {
    world.app.up();
    world.gateway.restart();
    wait_for_what_can_be_delivered(world);
    let seen = world.app.seen();
    for seen in &seen {
        assert!(seen.body == wide_task(task_of(&seen.body), 2000), "{what}: altered: {seen:?}");
    }
    let delivered: HashSet<String> = seen.iter().map(|seen| task_of(&seen.body)).collect();
    assert_eq!(delivered.len(), seen.len(), "{what}: sent twice");
    let lost = EVENTS - delivered.len();
    let counted = world.gateway.metrics().count("hookgate_spool_errors_total", &[("op", "damage")]);
    let metrics = world.gateway.metrics();
    let pending = metrics.count("hookgate_spool_events", &[("state", "pending")]);
    assert_eq!(pending, 0, "{what}: events wait for ever");
    if lost > 0 {
        assert!(counted > 0, "{what}: {lost} events are gone, and no metric says so");
        let told = world.gateway.log(&["\"level\":\"error\"", "damaged"]);
        assert!(!told.is_empty(), "{what}: {lost} events are gone, and no log says so");
        let kept = std::fs::read_dir(world.gateway.spool_path()).unwrap().flatten();
        let aside = kept.filter_map(|f| f.file_name().into_string().ok()).find(|name| name.contains("damaged"));
        let in_place = world.gateway.ask(&["spool", "verify"]).code == Some(65);
        assert!(
            in_place || aside.as_ref().is_some_and(|name| told.iter().any(|line| line.contains(name))),
            "{what}: nothing is kept of {lost} events, or no log names it: {aside:?} {told:?}"
        );
    }
    let fresh = world.veedeo(task(format!("fresh {what}")));
    // Where the damage is one that no write gets past, the event stays with its sender.
    assert!(
        fresh.acked() || (fresh.status == 503 && (lost > 0 || pending > 0)),
        "{what}: a new event: {}",
        fresh.status
    );
    eprintln!("{what}: {lost} of {EVENTS} events lost, counted {counted}");
    lost
}

#[test]
fn damage_anywhere_in_the_database_is_loud_and_what_can_be_read_is_delivered_unaltered() {
    let mut chance = chance();
    for round in 0..crashes().max(4) {
        let place = if round % 2 == 0 { Place::Newest } else { Place::Middle };
        let mut world = a_full_spool(true);
        let at = damage(&files(&world.gateway)[0], place, &mut chance);
        survives(&mut world, &format!("round {round}, {place:?}, byte {at} of the database"));
    }
}

#[test]
fn damage_anywhere_in_the_write_ahead_log_is_loud_and_what_is_before_it_is_delivered_unaltered() {
    let mut chance = chance();
    for round in 0..crashes().max(4) {
        let place = if round % 2 == 0 { Place::Newest } else { Place::Middle };
        let mut world = a_full_spool(false);
        let at = damage(&files(&world.gateway)[1], place, &mut chance);
        let lost = survives(&mut world, &format!("round {round}, {place:?}, byte {at} of the log"));
        if matches!(place, Place::Newest) {
            assert!(lost <= NEWEST, "the newest commits alone were damaged, and {lost} events are lost");
        }
    }
}

#[test]
fn a_torn_end_of_the_write_ahead_log_costs_no_commit_before_it() {
    let mut chance = chance();
    for round in 0..crashes().max(3) {
        let mut world = a_full_spool(false);
        let log = &files(&world.gateway)[1];
        let length = log.metadata().unwrap().len();
        // Bytes of a commit that was never finished: frames without an end.
        let mut bytes = std::fs::read(log).unwrap();
        bytes.extend((0..chance.usize(1..9000)).map(|_| chance.u8(..)));
        std::fs::write(log, bytes).unwrap();
        let lost = survives(&mut world, &format!("round {round}, rubbish behind {length} bytes of the log"));
        assert_eq!(lost, 0);
    }
}

//! The disk is full, fails or is damaged. P2, P3, P4.

use std::path::PathBuf;
use std::time::Duration;

use crate::outage::assert_spooled;
use crate::world::app::App;
use crate::world::clock::eventually;
use crate::world::events::{task, task_of, wide_task};
use crate::world::gateway::Gateway;
use crate::world::sender::Reply;
use crate::world::setup::Setup;
use crate::world::sign::Provider;
use crate::world::world_without_app;

const DRAINED: Duration = Duration::from_secs(30);

/// A gateway whose `veedeo` application is away and whose `github` application is well.
pub(crate) struct TwoApps {
    pub(crate) gateway: Gateway,
    pub(crate) away: App,
    pub(crate) well: App,
}

pub(crate) fn two_apps(setup: impl FnOnce(Setup) -> Setup) -> TwoApps {
    let (away, well) = (App::stopped(), App::start());
    let github = format!("routes.github.app.url = '{}'", well.url());
    TwoApps { gateway: Gateway::start(setup(Setup::new(&away.url()).with(&[&github]))), away, well }
}

/// Sends until the disk takes no more. Returns the tasks it took and the first reply of another kind.
pub(crate) fn fill(gateway: &Gateway, tag: usize) -> (Vec<String>, Reply, Vec<u8>) {
    let mut taken = Vec::new();
    for n in 0..1000 {
        let body = wide_task(tag + n, 20_000);
        let reply = gateway.send(&Provider::Veedeo.sign(body.clone()));
        if !reply.acked() {
            return (taken, reply, body);
        }
        taken.push(task_of(&body));
    }
    panic!("20 MB went into a small spool");
}

pub(crate) fn assert_the_fast_path_goes_on(world: &TwoApps, name: &str) {
    let reply = world.gateway.send(&Provider::GitHub.sign(format!("{{\"name\":\"{name}\"}}")));
    assert_eq!(reply.text(), "{\"app\":200}", "an event whose application is well needs no disk");
}

pub(crate) fn assert_delivered(app: &App, tasks: &[String]) {
    let mut delivered: Vec<String> = app.seen().iter().map(|seen| task_of(&seen.body)).collect();
    let mut wanted = tasks.to_vec();
    delivered.sort();
    wanted.sort();
    assert_eq!(delivered, wanted);
}

#[test]
fn a_full_spool_leaves_the_event_with_the_sender_and_recovers_by_itself() {
    let mut world = two_apps(|setup| setup.with(&["spool.max_bytes = '1MiB'"]));
    let (mut taken, refused, body) = fill(&world.gateway, 0);
    assert!(taken.len() >= 10, "1 MiB holds more than {} events of 20 KiB", taken.len());
    assert_eq!((refused.status, refused.reason().as_str()), (503, "spool_full"));
    assert!(refused.retry_after().is_some_and(|seconds| seconds > 0));
    assert_the_fast_path_goes_on(&world, "while full");
    let metrics = world.gateway.metrics();
    assert_eq!(metrics.count("hookgate_requests_total", &[("disposition", "unavailable")]), 1);
    assert!(metrics.find("hookgate_spool_bytes", &[]) <= metrics.find("hookgate_spool_capacity_bytes", &[]));
    assert_eq!(metrics.find("hookgate_spool_capacity_bytes", &[]), Some(1_048_576.0));
    world.gateway.wait_for_log(&["\"level\":\"error\"", "spool_full", "spool.max_bytes = 1048576"]);

    world.away.up();
    world.gateway.wait_for_empty_spool(DRAINED);
    let reply = world.gateway.send(&Provider::Veedeo.sign(body.clone()));
    assert_eq!(reply.text(), "{\"app\":200}", "what was refused is still new");
    taken.push(task_of(&body));
    assert_delivered(&world.away, &taken);

    world.away.down();
    let (again, _, _) = fill(&world.gateway, 1000);
    assert!(
        again.len() * 2 > taken.len(),
        "after a drain there is room for {} events, before for {}",
        again.len(),
        taken.len()
    );
    world.away.up();
    world.gateway.wait_for_empty_spool(DRAINED);
    taken.extend(again);
    assert_delivered(&world.away, &taken);
    assert_eq!(world.well.count(), 1);
}

#[test]
fn a_disk_without_room_is_a_503_and_not_the_end() {
    let mut world = two_apps(|setup| setup.with(&["spool.min_free_bytes = '1000TiB'"]));
    let reply = world.gateway.send(&Provider::Veedeo.sign(task(1)));
    assert_eq!((reply.status, reply.reason().as_str()), (503, "spool_full"));
    assert_the_fast_path_goes_on(&world, "no room");
    world.away.up();
    assert_eq!(world.gateway.send(&Provider::Veedeo.sign(task(1))).text(), "{\"app\":200}");
}

#[test]
fn a_disk_that_refuses_to_write_is_a_503_and_what_was_acknowledged_stays() {
    // No file of the process may grow beyond this, as on a broken or full file system.
    let limit = |mut setup: Setup| {
        setup.shell = Some("trap '' XFSZ; ulimit -f 4096".into());
        setup
    };
    let mut world = two_apps(limit);
    let (taken, refused, _) = fill(&world.gateway, 0);
    assert_eq!(refused.status, 503);
    assert!(["spool_full", "spool_failed"].contains(&refused.reason().as_str()), "{}", refused.text());
    assert_the_fast_path_goes_on(&world, "no writing");
    assert_eq!(world.gateway.telemetry("/livez").unwrap().status, 200);
    world.gateway.kill9();
    world.gateway.unlimited();
    world.away.up();
    world.gateway.restart();
    world.gateway.wait_for_empty_spool(DRAINED);
    let delivered: Vec<String> = world.away.seen().iter().map(|seen| task_of(&seen.body)).collect();
    let lost: Vec<&String> = taken.iter().filter(|task| !delivered.contains(task)).collect();
    assert!(lost.is_empty(), "{lost:?}");
}

/// Every file of the spool that holds `needle`, with its places.
fn places(gateway: &Gateway, needle: &[u8]) -> Vec<(PathBuf, Vec<usize>)> {
    let files = std::fs::read_dir(gateway.spool_path()).unwrap().map(|file| file.unwrap().path());
    let found = files.filter(|path| path.is_file()).map(|path| {
        let content = std::fs::read(&path).unwrap();
        let places = (0..content.len().saturating_sub(needle.len())).filter(|at| content[*at..].starts_with(needle));
        let places: Vec<usize> = places.collect();
        (path, places)
    });
    found.filter(|(_, places)| !places.is_empty()).collect()
}

#[test]
fn a_damaged_record_is_set_aside_loudly_and_the_rest_is_delivered() {
    let mut world = world_without_app(&[]);
    for n in 0..20 {
        assert_spooled(&world.veedeo(task(format!("record-{n:02}-with-a-mark"))));
    }
    world.gateway.stop();
    let damaged = places(&world.gateway, b"tsk_record-07-with-a-mark");
    assert!(!damaged.is_empty(), "the record is on disk as it came");
    for (path, places) in damaged {
        let mut content = std::fs::read(&path).unwrap();
        for at in places {
            content[at + 8] ^= 0x20;
        }
        std::fs::write(&path, content).unwrap();
    }
    world.app.up();
    world.gateway.restart();
    world.gateway.wait_for_empty_spool(DRAINED);
    let mut delivered: Vec<String> = world.app.seen().iter().map(|seen| task_of(&seen.body)).collect();
    delivered.sort();
    let wanted: Vec<String> = (0..20).filter(|n| *n != 7).map(|n| format!("record-{n:02}-with-a-mark")).collect();
    assert_eq!(delivered, wanted);
    assert!(world.gateway.metrics().count("hookgate_spool_errors_total", &[]) >= 1);
    world.gateway.wait_for_log(&["\"level\":\"error\"", "damaged"]);
    let verified = world.gateway.ask(&["spool", "verify"]);
    assert_eq!(verified.code, Some(65), "{verified:?}");
}

#[test]
fn a_spool_that_is_rubbish_does_not_pass_for_an_empty_one() {
    let mut world = world_without_app(&[]);
    assert_spooled(&world.veedeo(task(1)));
    world.gateway.stop();
    for file in std::fs::read_dir(world.gateway.spool_path()).unwrap() {
        let path = file.unwrap().path();
        if path.metadata().unwrap().len() > 4096 {
            std::fs::write(path, vec![0x5a; 20_000]).unwrap();
        }
    }
    world.gateway.launch();
    let heard =
        |gateway: &Gateway| !gateway.log(&["\"level\":\"error\""]).is_empty() || !gateway.log(&["damaged"]).is_empty();
    eventually("somebody says that the spool is damaged", DRAINED, || heard(&world.gateway).then_some(()));
}

#[test]
fn a_body_stays_the_owners_secret_on_disk() {
    use std::os::unix::fs::PermissionsExt;
    let world = world_without_app(&[]);
    assert_spooled(&world.veedeo(task(1)));
    let mode = |path: PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(world.gateway.spool_path()), 0o700);
    let files: Vec<PathBuf> =
        std::fs::read_dir(world.gateway.spool_path()).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(!files.is_empty());
    for file in files {
        assert_eq!(mode(file.clone()) & 0o077, 0, "{}", file.display());
    }
}

#[test]
fn the_fast_path_writes_no_payload_to_disk() {
    let mut world = two_apps(|setup| setup);
    let reply = world.gateway.send(&Provider::GitHub.sign("{\"mark\":\"not-for-the-disk-4711\"}"));
    assert_eq!(reply.text(), "{\"app\":200}");
    assert_eq!(places(&world.gateway, b"not-for-the-disk-4711"), []);
    world.gateway.stop();
    assert_eq!(places(&world.gateway, b"not-for-the-disk-4711"), []);
}

//! Dead letters in number: retried, dropped and exported by jobs that survive an interruption and a kill of either side.
//! P1, P5 (an operator's replay).

use std::collections::{HashMap, HashSet};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::outage::assert_spooled;
use crate::world::act::{accept, answer};
use crate::world::app::Seen;
use crate::world::chance::crashes;
use crate::world::clock::{eventually, pause};
use crate::world::events::{task, task_of};
use crate::world::gateway::Gateway;
use crate::world::output::{Finished, Lines, wait};
use crate::world::sender::Request;
use crate::world::{World, at_once, world_with};

const DRAINED: Duration = Duration::from_secs(120);

/// A gateway with so many dead letters, that the application rejected once and would take now.
fn dead_letters(count: usize, lines: &[&str]) -> World {
    let world = world_with(lines);
    world.app.always(answer(422));
    at_once(0..8, |part| {
        for n in (part..count).step_by(8) {
            assert_eq!(world.veedeo(task(n)).status, 422);
        }
    });
    world.app.always(accept());
    assert_eq!(dead(&world.gateway), count);
    world
}

fn dead(gateway: &Gateway) -> usize {
    usize::try_from(gateway.metrics().count("hookgate_spool_events", &[("state", "dead")])).unwrap()
}

fn replays(world: &World) -> Vec<Seen> {
    world.app.seen().into_iter().filter(|seen| seen.header("hookgate-replay") == "true").collect()
}

/// Every event was sent by the replay once, but for flagged sendings.
fn assert_each_once(world: &World, count: usize) {
    let mut sent: HashMap<String, Vec<bool>> = HashMap::new();
    for seen in replays(world) {
        sent.entry(task_of(&seen.body)).or_default().push(seen.flagged());
    }
    assert_eq!(sent.len(), count, "each was replayed");
    for (task, flags) in sent {
        assert!(flags[1..].iter().all(|flagged| *flagged), "{task} was sent again without a word: {flags:?}");
    }
}

/// Starts a command and lets it run.
fn start(gateway: &Gateway, arguments: &[&str]) -> std::process::Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hookgate"));
    let path = gateway.configuration_path();
    command.args(arguments).arg("-c").arg(path).current_dir(gateway.folder()).env_clear();
    // Variables of the test run are none of the command's.
    command.envs(std::env::vars_os().filter(|(name, _)| name == "PATH" || name == "LLVM_PROFILE_FILE"));
    for provider in crate::world::sign::Provider::ALL {
        command.env(provider.variable(), provider.secret());
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn end(mut child: std::process::Child) -> Finished {
    let (stdout, stderr) = (Lines::default(), Lines::default());
    let readers = [stdout.follow(child.stdout.take().unwrap()), stderr.follow(child.stderr.take().unwrap())];
    let status = wait(&mut child, DRAINED).expect("it ends");
    for reader in readers {
        reader.join().unwrap();
    }
    Finished { code: status.code(), stdout: stdout.text(), stderr: stderr.text() }
}

fn jobs(gateway: &Gateway) -> Vec<serde_json::Value> {
    gateway.rows(&["dlq", "job"])
}

#[test]
fn a_retry_goes_on_behind_its_interruption_and_sends_each_event_once() {
    let world = dead_letters(300, &[]);
    let child = start(&world.gateway, &["dlq", "retry", "--all", "--yes", "--rate", "100"]);
    eventually("the job is under way", DRAINED, || (dead(&world.gateway) < 270).then_some(()));
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let finished = end(child);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    let from = finished.stderr.split("--from ").nth(1).and_then(|rest| rest.split_whitespace().next());
    let from = from.unwrap_or_else(|| panic!("says how it goes on: {finished:?}")).to_owned();
    let left = dead(&world.gateway);
    assert!(left > 30, "{left} are left");
    pause(Duration::from_millis(700));
    assert_eq!(dead(&world.gateway), left, "an interruption stops the job");
    assert_eq!(jobs(&world.gateway)[0]["state"], "cancelled");
    let rest = world.gateway.ask(&["dlq", "retry", "--all", "--yes", "--from", &from]);
    assert_eq!((rest.code, rest.stdout.as_str()), (Some(0), &*format!("{left} made due again")), "{rest:?}");
    world.gateway.wait_for_empty_spool(DRAINED);
    assert_each_once(&world, 300);
    assert_eq!(replays(&world).len(), 300);
    assert_eq!(world.gateway.metrics().count("hookgate_replays_total", &[("route", "veedeo")]), 300);
}

#[test]
fn the_job_of_a_command_that_was_killed_goes_on_and_the_same_command_follows_it() {
    let world = dead_letters(300, &[]);
    let retry = ["dlq", "retry", "--route", "veedeo", "--yes", "--rate", "100"];
    let mut child = start(&world.gateway, &retry);
    eventually("the job is under way", DRAINED, || (dead(&world.gateway) < 280).then_some(()));
    child.kill().unwrap();
    child.wait().unwrap();
    let followed = world.gateway.ask(&retry);
    assert_eq!((followed.code, followed.stdout.as_str()), (Some(0), "300 made due again"), "{followed:?}");
    assert_eq!(jobs(&world.gateway).len(), 1, "it did not begin a second one");
    world.gateway.wait_for_empty_spool(DRAINED);
    assert_each_once(&world, 300);
    assert_eq!(replays(&world).len(), 300);
}

#[test]
fn a_job_survives_kills_of_the_gateway_and_counts_each_event_once() {
    let mut world = dead_letters(400, &["app.max_in_flight = 8"]);
    let child = start(&world.gateway, &["dlq", "retry", "--all", "--yes", "--rate", "150"]);
    for _ in 0..crashes().min(3) {
        let before = dead(&world.gateway);
        eventually("the job is under way", DRAINED, || (dead(&world.gateway) + 20 < before).then_some(()));
        world.gateway.kill9();
        world.gateway.restart();
    }
    let finished = end(child);
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(0), "400 made due again"), "{finished:?}");
    world.gateway.wait_for_empty_spool(DRAINED);
    assert_eq!(dead(&world.gateway), 0);
    assert_each_once(&world, 400);
}

#[test]
fn two_retries_at_once_send_each_event_once() {
    let world = dead_letters(400, &[]);
    // Different filters: two jobs over the same events.
    let finished = at_once([vec!["--all"], vec!["--route", "veedeo"], vec!["--reason", "app_rejected"]], |which| {
        world.gateway.ask(&[&["dlq", "retry", "--yes", "--rate", "2000"][..], &which].concat())
    });
    let mut done = 0;
    for finished in &finished {
        let lost_the_race = finished.stderr.contains("nothing was done") || finished.stdout.contains("no dead letter");
        assert!(finished.code == Some(0) || lost_the_race, "{finished:?}");
        done += finished.stdout.split(' ').next().and_then(|n| n.parse::<usize>().ok()).unwrap_or(0);
    }
    assert_eq!(done, 400, "{finished:?}");
    world.gateway.wait_for_empty_spool(DRAINED);
    assert_each_once(&world, 400);
    assert_eq!(replays(&world).len(), 400);
}

#[test]
fn retries_keep_to_their_rate_and_dry_runs_and_wrong_counts_do_nothing() {
    let world = dead_letters(60, &[]);
    let dry = world.gateway.ask(&["dlq", "retry", "--all", "--dry-run"]);
    assert_eq!((dry.code, dry.stdout.as_str()), (Some(0), "would deliver again 60 dead letters"));
    let wrong = r#"{"filter":{},"expected_count":59,"job":true}"#;
    let refused = world.gateway.admin(&Request::post("/api/dead-letters/drop", wrong));
    assert_eq!((refused.status, dead(&world.gateway)), (409, 60));
    assert!(jobs(&world.gateway).is_empty());
    let finished = world.gateway.ask(&["replay", "--all", "--yes", "--rate", "20"]);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    world.gateway.wait_for_empty_spool(DRAINED);
    let moments: Vec<Instant> = replays(&world).iter().map(|seen| seen.at).collect();
    assert_eq!(moments.len(), 60);
    for from in &moments {
        let within = moments.iter().filter(|at| *at >= from && **at - *from < Duration::from_millis(900)).count();
        assert!(within <= 30, "{within} replays within a second, at a rate of 20");
    }
}

#[test]
fn what_dies_again_during_a_retry_is_not_retried_without_end() {
    let world = dead_letters(50, &[]);
    world.app.always(answer(422));
    let finished = world.gateway.ask(&["dlq", "retry", "--all", "--yes", "--rate", "100"]);
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(0), "50 made due again"), "{finished:?}");
    world.gateway.wait_for_empty_spool(DRAINED);
    assert_eq!((replays(&world).len(), dead(&world.gateway)), (50, 50));
}

#[test]
fn an_export_that_is_interrupted_ends_with_a_whole_line_and_goes_on() {
    let world = dead_letters(200, &[]);
    let whole: HashSet<String> = ids(&world.gateway.ask(&["dlq", "export"]));
    assert_eq!(whole.len(), 200);
    // A reader that takes nothing: the command stops behind a full pipe, and is interrupted there.
    let child = start(&world.gateway, &["dlq", "export"]);
    pause(Duration::from_millis(700));
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let first = end(child);
    let mut all = ids(&first);
    if first.code == Some(1) {
        let from =
            first.stderr.split("--from ").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap().to_owned();
        let rest = ids(&world.gateway.ask(&["dlq", "export", "--from", &from]));
        assert!(all.is_disjoint(&rest));
        all.extend(rest);
    }
    assert_eq!(all, whole);
}

#[test]
fn an_export_goes_on_behind_the_event_it_is_told_with_the_gateway_and_without() {
    let mut world = dead_letters(30, &[]);
    let in_order = |finished: &Finished| -> Vec<String> {
        assert_eq!(finished.code, Some(0), "{finished:?}");
        finished.json_lines().iter().map(|line| line["id"].as_str().unwrap().to_owned()).collect()
    };
    let whole = in_order(&world.gateway.ask(&["dlq", "export"]));
    assert_eq!(whole.len(), 30);
    let online = world.gateway.ask(&["dlq", "export", "--from", &whole[6]]);
    assert_eq!(in_order(&online), &whole[7..]);
    world.gateway.stop();
    let spool = world.gateway.spool_path().display().to_string();
    let offline = world.gateway.ask(&["dlq", "export", "--spool", &spool, "--from", &whole[6]]);
    assert_eq!(in_order(&offline), &whole[7..]);
}

fn ids(finished: &Finished) -> HashSet<String> {
    finished.json_lines().iter().map(|line| line["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn events_that_wait_are_no_concern_of_a_drop() {
    let mut world = dead_letters(20, &[]);
    world.app.down();
    assert_spooled(&world.veedeo(task("waits")));
    let dropped = world.gateway.ask(&["dlq", "drop", "--all", "--yes"]);
    assert_eq!((dropped.code, dropped.stdout.as_str()), (Some(0), "20 dropped"), "{dropped:?}");
    world.app.up();
    world.gateway.wait_for_empty_spool(DRAINED);
    assert_eq!(world.app.seen().iter().filter(|seen| task_of(&seen.body) == "waits").count(), 1);
}

#[test]
fn what_dies_while_a_drop_is_under_way_is_kept() {
    let mut world = dead_letters(20, &[]);
    world.app.down();
    assert_spooled(&world.veedeo(task("dies later")));
    let begun = world.gateway.ask(&["dlq", "drop", "--all", "--yes", "--detach", "--rate", "10"]);
    assert_eq!(begun.code, Some(0), "{begun:?}");
    world.app.always(answer(422));
    world.app.up();
    world.gateway.wait_for_empty_spool(DRAINED);
    let followed = world.gateway.ask(&["dlq", "job", begun.stdout.trim()]);
    assert_eq!((followed.code, followed.stdout.as_str()), (Some(0), "20 dropped"), "{followed:?}");
    assert_eq!(dead(&world.gateway), 1, "nobody has decided about it");
    assert_eq!(world.gateway.ask(&["dlq", "drop", "--all", "--yes"]).stdout, "1 dropped");
}

#[test]
fn who_names_what_is_no_dead_letter_is_told() {
    let world = dead_letters(2, &[]);
    let listed = ids(&world.gateway.ask(&["dlq", "list", "--json"]));
    let one = listed.iter().next().unwrap();
    let stranger = "019a0000-0000-7000-8000-000000000000";
    let dropped = world.gateway.ask(&["dlq", "drop", one, stranger, "--yes"]);
    assert_eq!((dropped.code, dropped.stdout.as_str()), (Some(1), "1 dropped"), "{dropped:?}");
    assert!(dropped.stderr.contains("1 of the 2"), "{dropped:?}");
    assert_eq!(dead(&world.gateway), 1);
}

#[test]
fn a_fifth_job_at_once_is_refused_and_one_that_is_stopped_makes_room() {
    let world = dead_letters(100, &[]);
    let begin = |n: usize| {
        let body = format!(r#"{{"filter":{{"since":"{n}h"}},"rate":1,"job":true}}"#);
        world.gateway.admin(&Request::post("/api/dead-letters/retry", body))
    };
    let four: Vec<_> = (1..=4).map(begin).collect();
    assert!(four.iter().all(|reply| reply.status == 202), "{four:?}");
    assert_eq!(begin(5).status, 429);
    let id = four[0].json("id");
    let id = id.as_str().unwrap();
    let stopped = world.gateway.ask(&["dlq", "job", id, "--stop", "--json"]);
    assert_eq!(stopped.json_lines()[0]["state"], "cancelled", "{stopped:?}");
    assert_eq!(begin(5).status, 202);
    assert_eq!(begin(5).json("id"), begin(5).json("id"), "the same twice is the same job");
    assert_eq!(world.gateway.admin(&Request::get("/api/jobs/none")).status, 404);
}

#[test]
fn a_detached_job_is_done_without_its_command() {
    let world = dead_letters(30, &[]);
    let begun = world.gateway.ask(&["dlq", "drop", "--all", "--yes", "--detach"]);
    assert_eq!(begun.code, Some(0), "{begun:?}");
    let followed = world.gateway.ask(&["dlq", "job", begun.stdout.trim()]);
    assert_eq!((followed.code, followed.stdout.as_str()), (Some(0), "30 dropped"), "{followed:?}");
    assert_eq!(dead(&world.gateway), 0);
}

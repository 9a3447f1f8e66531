//! The spool as a process and as a file: killed, on a disk that refuses to write, grown large. A child is a test of this
//! file that is run only when its parent starts it.

#![allow(
    clippy::redundant_closure_for_method_calls,
    reason = "a method of a type with a lifetime is not general enough"
)]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hookgate::disk::{Disk, DiskSettings, Found, Mark, MarkKind, PreviousStop};
use hookgate::domain::event::{Event, EventId};
use hookgate::domain::headers::Headers;
use hookgate::domain::key::EventKey;
use hookgate::domain::time::Timestamp;
use hookgate::spool::{Entry, NewEntry, Possible, Replay, Settlement, Spool, SpoolFault};
use hookgate::telemetry::Metrics;
use http::Method;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const START: Timestamp = Timestamp::from_seconds(1_760_000_000);

fn open(path: &Path) -> (Spool, Disk, Arc<Metrics>, PreviousStop) {
    let metrics = Arc::new(Metrics::new(&[]).unwrap());
    let settings =
        DiskSettings { path: path.to_owned(), max_bytes: 1 << 30, max_dead_bytes: u64::MAX, min_free_bytes: 0 };
    let opened = Disk::open(settings, START, metrics.clone()).unwrap();
    (Spool::new(opened.disk.clone()), opened.disk, metrics, opened.previous)
}

fn event(number: u32) -> Event {
    let body = Bytes::from(vec![b'x'; 4000]);
    Event {
        id: EventId::new(START, u128::from(number) << 64),
        route: "veedeo".into(),
        key: EventKey::new("veedeo", &[&number.to_be_bytes()], &body),
        method: Method::POST,
        target: "/".into(),
        headers: Headers::new(),
        authority: String::new(),
        body: body.into(),
        received_at: START,
        signed_at: None,
        event_type: None,
        order_value: None,
    }
}

fn pending(number: u32) -> NewEntry {
    NewEntry {
        event: Arc::new(event(number)),
        state: Entry::Pending { not_before: START },
        attempts: 0,
        possible_duplicate: Possible::No,
        replay: Replay::No,
        last_error: String::new(),
    }
}

/// Starts a test of this file as a process in `directory`, with the limit signal ignored as a service manager may.
fn start(test: &str, directory: &Path) -> Child {
    Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", test])
        .current_dir(directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn wait_for_line(child: &mut Child, word: &str) {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let found = lines.map_while(Result::ok).any(|line| line.contains(word));
    assert!(found, "the child ended without {word:?}");
}

#[tokio::test]
#[ignore = "started by the test that kills it"]
async fn child_that_writes_until_it_is_killed() {
    let (spool, disk, ..) = open(Path::new("."));
    for number in 1..=3 {
        spool.append(pending(number), None).await.unwrap();
    }
    spool.begin_attempts(vec![event(2).id]).await.unwrap();
    disk.put_mark(Mark::new(&event(9), START.plus(Duration::from_secs(60))), START);
    // Lazy jobs are done in their order: the mark is written when this is.
    disk.prompt(|_| Ok(())).await.unwrap();
    println!("written");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn what_was_answered_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = start("child_that_writes_until_it_is_killed", dir.path());
    wait_for_line(&mut child, "written");
    child.kill().unwrap();
    child.wait().unwrap();

    let (spool, disk, metrics, previous) = open(dir.path());
    assert_eq!(previous, PreviousStop::Unclean { stopped_before: START });
    assert_eq!(spool.due("veedeo", START, 10).await.unwrap().ids.len(), 3);
    for number in 1..=3 {
        let stored = spool.load(event(number).id).await.unwrap().unwrap();
        assert_eq!(stored.attempts, u32::from(number == 2), "an attempt that had begun counts");
        assert_eq!(stored.possible_duplicate, Possible::from_flag(number == 2));
    }
    assert!(disk.recall(event(9).key, START).await.unwrap().same.is_some(), "an unsynced mark survives too");
    assert_eq!(metrics.spool_errors_total.with_label_values(&["damage"]).get(), 0, "a kill is no damage");
}

#[tokio::test]
#[ignore = "started by its parent, which has the limit signal ignored"]
async fn child_whose_disk_refuses_to_write() {
    let (spool, _disk, metrics, _) = open(Path::new("."));
    spool.append(pending(1), None).await.unwrap();
    let errors = |op| metrics.spool_errors_total.with_label_values(&[op]).get();
    let free = getrlimit(Resource::Fsize);
    // No file may grow any more: every write past this fails, and it is not for want of space.
    setrlimit(Resource::Fsize, Rlimit { current: Some(4096), maximum: free.maximum }).unwrap();
    let mut number = 2;
    let refused = loop {
        match spool.append(pending(number), None).await {
            Ok(()) => number += 1,
            Err(fault) => break fault,
        }
        assert!(number < 100, "the limit has no effect");
    };
    assert!(matches!(refused, SpoolFault::Failed(_)), "{refused:?}");
    assert!(errors("commit") >= 1);
    // Twice in a minute: failed, and refused at once.
    let again = spool.append(pending(number), None).await.unwrap_err();
    assert!(again.to_string().contains("the spool has failed"), "{again}");
    let since = Instant::now();
    spool.append(pending(number), None).await.unwrap_err();
    assert!(since.elapsed() < Duration::from_millis(500), "{:?}", since.elapsed());
    assert!(spool.load(event(1).id).await.unwrap().is_some(), "what is there can be read");

    setrlimit(Resource::Fsize, free).unwrap();
    let since = Instant::now();
    while spool.append(pending(number), None).await.is_err() {
        assert!(since.elapsed() < Duration::from_secs(15), "it does not recover by itself");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let due = spool.due("veedeo", START, 1000).await.unwrap().ids;
    assert_eq!(due.len(), usize::try_from(number).unwrap(), "all that was answered, and nothing else");
    for id in due {
        assert!(spool.load(id).await.unwrap().is_some());
    }
    println!("recovered");
}

#[test]
fn a_disk_that_refuses_to_write_fails_the_spool_until_it_writes_again() {
    let dir = tempfile::tempdir().unwrap();
    let child = start("child_whose_disk_refuses_to_write", dir.path());
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("recovered"), "{text}");
}

/// Why a test that makes `fsync` fail cannot run here, if so. In CI that is a failure.
fn without_strace() -> Option<&'static str> {
    let works = Command::new("strace").args(["-o", "/dev/null", "true"]).status().is_ok_and(|status| status.success());
    assert!(works || std::env::var_os("CI").is_none(), "strace is missing, or may not trace");
    (!works).then_some("not run: strace is missing, or may not trace")
}

/// As [`start`], with these syncs of the process failing, counted from the line `armed` on.
fn start_with_failing_syncs(test: &str, directory: &Path, which: &str) -> Child {
    Command::new("strace")
        .args(["-f", "-q", "-o", "syncs.txt", "-e", "trace=fsync,fdatasync"])
        .args(["-e", &format!("inject=fsync,fdatasync:error=EIO:when={which}")])
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", test])
        .current_dir(directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[tokio::test]
#[ignore = "started by its parent, under strace"]
async fn child_whose_syncs_fail() {
    let (spool, _disk, metrics, _) = open(Path::new("."));
    let mut failed = Vec::new();
    let (mut refused_at_once, mut longest) = (0, Duration::ZERO);
    let began = Instant::now();
    for number in 1..=400 {
        let since = Instant::now();
        match spool.append(pending(number), None).await {
            Ok(()) => println!("taken {number}"),
            Err(SpoolFault::Failed(why)) => {
                refused_at_once += u32::from(why.contains("the spool has failed"));
                failed.push(number);
            }
            Err(other) => panic!("{other:?}"),
        }
        longest = longest.max(since.elapsed());
        // The spool of a disk that has failed is tried again every few seconds.
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let errors = |op| metrics.spool_errors_total.with_label_values(&[op]).get();
    println!(
        "took {:?}, failed {}, refused at once {refused_at_once}, longest {longest:?}",
        began.elapsed(),
        failed.len()
    );
    println!("commit errors {}\nrecover errors {}", errors("commit"), errors("recover"));
    println!("last failed {}", failed.last().copied().unwrap_or(0));
    let due = spool.due("veedeo", START, 1000).await.unwrap().ids;
    assert_eq!(due.len() + failed.len(), 400, "what was refused is not there, what was taken is");
    println!("end");
    // Without a word to the disk, as a kill.
    std::process::exit(0);
}

/// The numbers behind a word of the child's.
fn told(text: &str, word: &str) -> Vec<u32> {
    let lines = text.lines().filter_map(|line| line.strip_prefix(word));
    lines.filter_map(|rest| rest.trim().split([' ', ',']).next()?.parse().ok()).collect()
}

async fn syncs_fail(which: &str) -> Option<(String, u32)> {
    if let Some(why) = without_strace() {
        println!("{why}");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let child = start_with_failing_syncs("child_whose_syncs_fail", dir.path(), which);
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("\nend\n"), "{text}");
    let injected = std::fs::read_to_string(dir.path().join("syncs.txt")).unwrap().matches("INJECTED").count();
    let (spool, ..) = open(dir.path());
    let taken = told(&text, "taken ");
    let due = spool.due("veedeo", START, 1000).await.unwrap().ids;
    for number in &taken {
        assert!(due.contains(&event(*number).id), "{number} was taken and is not there");
        assert!(spool.load(event(*number).id).await.unwrap().is_some());
    }
    assert_eq!(due.len(), taken.len());
    println!("{}", text.lines().rev().take(6).collect::<Vec<_>>().join("; "));
    Some((text, u32::try_from(injected).unwrap()))
}

#[tokio::test]
async fn one_sync_that_fails_fails_its_commit_and_no_other() {
    let Some((text, injected)) = syncs_fail("100").await else { return };
    // Counted by thread: the writer's hundredth. The keeper has not so many.
    assert_eq!(injected, 1);
    let failed = 400 - told(&text, "taken ").len();
    assert_eq!(failed, 1, "{text}");
    assert_eq!(told(&text, "commit errors "), [1]);
}

#[tokio::test]
async fn syncs_that_fail_for_a_while_fail_the_spool_and_it_recovers_by_itself() {
    let Some((text, injected)) = syncs_fail("100..102").await else { return };
    assert_eq!(injected, 3);
    assert!(told(&text, "recover errors ")[0] >= 1, "{text}");
    let taken = told(&text, "taken ");
    assert!(text.contains("refused at once") && !text.contains("refused at once 0"), "{text}");
    assert_eq!(taken.last(), Some(&400), "it has recovered by itself: {text}");
}

#[tokio::test]
#[ignore = "takes a while: make torture"]
async fn two_hundred_thousand_events_open_and_are_due_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, disk, ..) = open(dir.path());
    let began = Instant::now();
    let mut appends = tokio::task::JoinSet::new();
    for number in 0..200_000 {
        let spool = spool.clone();
        appends.spawn(async move { spool.append(pending(number), None).await });
        if appends.len() >= 2000 {
            appends.join_next().await.unwrap().unwrap().unwrap();
        }
    }
    while let Some(done) = appends.join_next().await {
        done.unwrap().unwrap();
    }
    println!("written in {:?} with {} commits", began.elapsed(), disk.commits());
    disk.close().await.unwrap();
    let began = Instant::now();
    let (spool, ..) = open(dir.path());
    println!("opened in {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    let began = Instant::now();
    assert_eq!(spool.due("veedeo", START, 100).await.unwrap().ids.len(), 100);
    println!("due in {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_millis(50), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_mark_is_found_in_memory_on_its_way_to_disk_and_there() {
    let dir = tempfile::tempdir().unwrap();
    let (_, disk, ..) = open(dir.path());
    let until = START.plus(Duration::from_secs(60));
    let key = |number: u32| EventKey::new("veedeo", &[&number.to_be_bytes()], b"body");
    let mark = |number| Mark { key: key(number), ..Mark::new(&event(0), until) };
    // Longer than the filter takes to be filled, so that marks come before, while and after it is.
    for number in 0..3000 {
        disk.put_mark(mark(number), START);
        assert!(disk.recall(key(number), START).await.unwrap().same.is_some(), "{number}");
        if number % 100 == 0 {
            disk.prompt(|_| Ok(())).await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    for number in 0..3000 {
        assert!(disk.recall(key(number), START).await.unwrap().same.is_some(), "{number}");
        assert!(disk.recall(key(number), until).await.unwrap().same.is_none(), "{number} has expired");
        assert!(disk.recall(key(number + 3000), START).await.unwrap().same.is_none(), "{number} was never marked");
    }
    assert_eq!(disk.read(|rx| rx.count_marks()).await.unwrap(), 3000);
    // That it may have been processed takes nothing away from that it was.
    disk.put_mark(Mark { kind: MarkKind::Perhaps, ..mark(1) }, START);
    disk.prompt(|_| Ok(())).await.unwrap();
    assert_eq!(disk.recall(key(1), START).await.unwrap().same, Some((MarkKind::Processed, until)));
    // New marks take the expired ones with them.
    for number in 3000..6000 {
        disk.put_mark(Mark { expires_at: until.plus(Duration::from_secs(60)), ..mark(number) }, until);
    }
    disk.prompt(|_| Ok(())).await.unwrap();
    assert_eq!(disk.read(|rx| rx.count_marks()).await.unwrap(), 3000);
}

/// More than fit in memory, so that most are in runs, which become one while more come.
#[tokio::test(flavor = "multi_thread")]
async fn marks_are_known_forgotten_and_counted_wherever_they_stand() {
    const MARKS: u32 = 140_000;
    let dir = tempfile::tempdir().unwrap();
    let (_, disk, ..) = open(dir.path());
    let until = START.plus(Duration::from_secs(60));
    let key = |number: u32| EventKey::new("veedeo", &[&number.to_be_bytes()], b"body");
    let mark = |number| Mark { key: key(number), ..Mark::new(&event(0), until) };
    for number in 0..MARKS {
        disk.put_mark(mark(number), START);
        if number % 5000 == 0 {
            disk.prompt(|_| Ok(())).await.unwrap();
            assert!(disk.recall(key(number / 2), START).await.unwrap().same.is_some(), "{number}");
        }
    }
    disk.prompt(|_| Ok(())).await.unwrap();
    assert_eq!(disk.read(|rx| rx.count_marks()).await.unwrap(), u64::from(MARKS));
    let gone = [0, 1, 77_777, MARKS - 1];
    for number in gone {
        assert_eq!(disk.forget_mark(key(number)).await.unwrap(), Found::Yes, "{number}");
        assert_eq!(disk.forget_mark(key(number)).await.unwrap(), Found::No, "{number} a second time");
    }
    assert!(disk.recall(key(0), START).await.unwrap().same.is_none());
    // One that is forgotten can be remembered again.
    disk.put_mark(mark(1), START);
    disk.close().await.unwrap();
    drop(disk);
    let (_, disk, ..) = open(dir.path());
    for number in (0..MARKS).step_by(7).chain(gone) {
        let known = disk.recall(key(number), START).await.unwrap().same;
        assert_eq!(known.is_some(), number == 1 || !gone.contains(&number), "{number}");
        assert!(disk.recall(key(number), until).await.unwrap().same.is_none(), "{number} has expired");
    }
    // They go by themselves, beside others that come.
    for number in MARKS..MARKS + 100 {
        disk.put_mark(Mark { expires_at: until.plus(Duration::from_secs(60)), ..mark(number) }, until);
    }
    disk.prompt(|_| Ok(())).await.unwrap();
    for _ in 0..500 {
        if disk.read(|rx| rx.count_marks()).await.unwrap() == 100 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{} marks are left", disk.read(|rx| rx.count_marks()).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_waits_for_no_reader_however_long_the_log_is() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, disk, ..) = open(dir.path());
    spool.append(pending(1_000_000), None).await.unwrap();
    // As a backup or `hookgate spool verify` beside it: one look at the file that takes seconds, then the next.
    let (file, ended) = (dir.path().join("hookgate.db"), Arc::new(AtomicBool::new(false)));
    let reading = {
        let ended = ended.clone();
        std::thread::spawn(move || {
            let conn = rusqlite::Connection::open(file).unwrap();
            while !ended.load(Ordering::Relaxed) {
                conn.execute_batch("BEGIN; SELECT count(*) FROM meta").unwrap();
                for _ in 0..150 {
                    std::thread::park_timeout(Duration::from_millis(20));
                    if ended.load(Ordering::Relaxed) {
                        break;
                    }
                }
                conn.execute_batch("COMMIT").unwrap();
            }
        })
    };
    let large = |number| Event { body: Bytes::from(vec![b'x'; 1 << 20]).into(), ..event(number) };
    let mut longest = Duration::ZERO;
    for number in 0..200 {
        let since = Instant::now();
        spool.append(NewEntry { event: Arc::new(large(number)), ..pending(number) }, None).await.unwrap();
        longest = longest.max(since.elapsed());
        // Time for the keeper, which a disk that is faster than this one would give it.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    ended.store(true, Ordering::Relaxed);
    reading.join().unwrap();
    println!("longest of 200 commits of 1 MiB: {longest:?}");
    assert!(longest < Duration::from_secs(1), "a commit took {longest:?}");
    disk.close().await.unwrap();
}

#[tokio::test]
async fn the_write_ahead_log_ends_and_a_drained_file_shrinks() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, disk, ..) = open(dir.path());
    let size = |name: &str| std::fs::metadata(dir.path().join(name)).map_or(0, |meta| meta.len() >> 20);
    let large = |number| Event { body: Bytes::from(vec![b'x'; 1 << 20]).into(), ..event(number) };
    let mut longest = 0;
    for number in 0..150 {
        let entry = NewEntry { event: Arc::new(large(number)), ..pending(number) };
        spool.append(entry, None).await.unwrap();
        longest = longest.max(size("hookgate.db-wal"));
    }
    assert!(longest < 120, "the log grew to {longest} MiB of 150 written");
    for number in 0..150 {
        let mark = Mark::new(&event(number), START);
        spool.settle(event(number).id, Settlement::Accepted { mark }).await.unwrap();
    }
    disk.close().await.unwrap();
    assert_eq!(size("hookgate.db-wal"), 0);
    let full = size("hookgate.db");
    assert!(full >= 100, "{full} MiB");
    let (_spool, disk, ..) = open(dir.path());
    let since = Instant::now();
    // Pages go back in steps, when there is nothing else to do.
    while disk.read(|rx| rx.count_pages()).await.unwrap() >> 8 > full - 4 {
        assert!(since.elapsed() < Duration::from_secs(10), "nothing is given back");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

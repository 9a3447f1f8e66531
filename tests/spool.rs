//! The spool on a real database in a temporary directory: what is acknowledged stays, in order, within its bounds, and
//! damage is loud.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hookgate::disk::{Disk, DiskFault, DiskSettings, Found, JobFault, Mark, MarkKind, PreviousStop};
use hookgate::domain::event::{Event, EventId};
use hookgate::domain::headers::Headers;
use hookgate::domain::key::EventKey;
use hookgate::domain::time::Timestamp;
use hookgate::spool::{
    Appended, DeadReason, Entry, Filter, NewEntry, Possible, Replay, Settlement, Spool, SpoolFault, State,
};
use hookgate::telemetry::{Metrics, RouteLabels};
use http::{HeaderValue, Method};
use rusqlite::{Connection, params};

const START: Timestamp = Timestamp::from_seconds(1_760_000_000);
const DAY: Duration = Duration::from_secs(86_400);

/// One run of the gateway's disk on a directory.
struct World {
    disk: Disk,
    spool: Spool,
    metrics: Arc<Metrics>,
    previous: PreviousStop,
}

fn settings(path: &Path) -> DiskSettings {
    DiskSettings { path: path.to_owned(), max_bytes: 64 << 20, max_dead_bytes: u64::MAX, min_free_bytes: 0 }
}

fn try_world(settings: DiskSettings, now: Timestamp) -> Result<World, DiskFault> {
    let metrics = Arc::new(Metrics::new(&[RouteLabels { name: "veedeo".into(), secrets: 1 }]).unwrap());
    let opened = Disk::open(settings, now, metrics.clone())?;
    Ok(World { spool: Spool::new(opened.disk.clone()), disk: opened.disk, metrics, previous: opened.previous })
}

fn world(path: &Path) -> World {
    world_at(path, START)
}

fn world_at(path: &Path, now: Timestamp) -> World {
    try_world(settings(path), now).unwrap()
}

impl World {
    /// Ends the run as a kill would: without the mark of a clean stop.
    async fn crash(self, path: &Path) {
        drop((self.spool, self.disk));
        // The writer thread lets the lock go when it has ended.
        for _ in 0..500 {
            let lock = std::fs::File::open(path.join("hookgate.lock")).unwrap();
            if rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the lock was not given back within 5 s");
    }

    async fn due(&self, now: Timestamp) -> Vec<EventId> {
        self.spool.due("veedeo", now, 1000).await.unwrap().ids
    }

    fn damage_counted(&self) -> u64 {
        self.metrics.spool_errors_total.with_label_values(&["damage"]).get()
    }
}

fn event(number: u32) -> Event {
    let body = Bytes::from(format!("{{\"n\":{number}, \"x\":1.50}}\n"));
    let mut headers = Headers::new();
    headers.append("x-signature", HeaderValue::from_static("abc"));
    headers.append("x-multi", HeaderValue::from_static("1"));
    headers.append("x-multi", HeaderValue::from_bytes(b"\xff2").unwrap());
    let received_at = START.plus(Duration::from_millis(u64::from(number)));
    Event {
        id: EventId::new(received_at, u128::from(number) << 64 | 0xABCD),
        route: "veedeo".into(),
        key: EventKey::new("veedeo", &[&number.to_be_bytes()], &body),
        method: Method::POST,
        target: "/webhooks/veedeo?a=%20b".into(),
        headers,
        authority: "hooks.example".into(),
        body: body.into(),
        received_at,
        signed_at: Some(START),
        event_type: Some("task.done".into()),
        order_value: None,
    }
}

fn ordered(number: u32, value: &str) -> Event {
    Event { order_value: Some(value.into()), ..event(number) }
}

fn entry(event: Event, state: Entry) -> NewEntry {
    NewEntry {
        event: Arc::new(event),
        state,
        attempts: 0,
        possible_duplicate: Possible::No,
        replay: Replay::No,
        last_error: String::new(),
    }
}

fn pending(event: Event) -> NewEntry {
    entry(event, Entry::Pending { not_before: START })
}

fn accepted(event: &Event) -> Settlement {
    Settlement::Accepted { mark: Mark::new(event, START.plus(DAY)) }
}

fn dead() -> Settlement {
    Settlement::Dead {
        reason: DeadReason::AttemptsExhausted,
        possible_duplicate: Possible::No,
        error: "the application answered 500".into(),
    }
}

fn assert_same(stored: &Event, written: &Event) {
    assert_eq!(stored.body, written.body);
    assert!(stored.headers.iter().eq(written.headers.iter()));
    assert_eq!(format!("{stored:?}"), format!("{written:?}"));
}

#[tokio::test]
async fn an_appended_event_comes_back_byte_for_byte_and_leaves_when_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path());
    let event = event(1);
    world.spool.append(pending(event.clone()), None).await.unwrap();
    assert_eq!(world.due(START).await, [event.id]);
    let stored = world.spool.load(event.id).await.unwrap().unwrap();
    assert_same(&stored.event, &event);
    assert_eq!((stored.attempts, stored.possible_duplicate, stored.replay), (0, Possible::No, Replay::No));

    world.spool.begin_attempts(vec![event.id]).await.unwrap();
    assert!(world.due(START).await.is_empty(), "an attempt is running");
    assert_eq!(world.spool.load(event.id).await.unwrap().unwrap().attempts, 1);
    world.spool.settle(event.id, accepted(&event)).await.unwrap();
    assert!(world.spool.load(event.id).await.unwrap().is_none());
    let recall = world.disk.recall(event.key, START).await.unwrap();
    assert_eq!(recall.same, Some((MarkKind::Processed, START.plus(DAY))));
    assert_eq!(world.spool.totals().bytes, 0);
    assert_eq!(world.disk.recall(event.key, START.plus(DAY)).await.unwrap().same, None, "the mark has expired");
}

#[tokio::test]
async fn a_failed_attempt_waits_for_its_moment_and_stays_suspect() {
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path());
    let event = event(1);
    world.spool.append(pending(event.clone()), None).await.unwrap();
    let later = START.plus(Duration::from_secs(8));
    for possible_duplicate in [Possible::Duplicate, Possible::No] {
        world.spool.begin_attempts(vec![event.id]).await.unwrap();
        let retry = Settlement::Retry { not_before: later, possible_duplicate, error: "no status line".into() };
        world.spool.settle(event.id, retry).await.unwrap();
    }
    let early = world.spool.due("veedeo", later.minus(Duration::from_millis(1)), 10).await.unwrap();
    assert_eq!((early.ids, early.next), (vec![], Some(later)));
    assert_eq!(world.due(later).await, [event.id]);
    let stored = world.spool.load(event.id).await.unwrap().unwrap();
    assert_eq!((stored.attempts, stored.possible_duplicate), (2, Possible::Duplicate));
    assert_eq!(stored.last_error, "no status line");

    world.spool.begin_attempts(vec![event.id]).await.unwrap();
    world.spool.settle(event.id, Settlement::Postpone { not_before: START }).await.unwrap();
    assert_eq!(world.spool.load(event.id).await.unwrap().unwrap().attempts, 2, "an attempt that was none");
}

#[tokio::test]
async fn the_longest_due_comes_first_and_other_routes_do_not_come() {
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path());
    let at = |ms| Entry::Pending { not_before: START.plus(Duration::from_millis(ms)) };
    for (number, ms) in [(1, 30), (2, 10), (3, 20)] {
        world.spool.append(entry(event(number), at(ms)), None).await.unwrap();
    }
    let foreign = Event { route: "other".into(), ..event(4) };
    world.spool.append(entry(foreign, at(0)), None).await.unwrap();
    let ids = [2, 3, 1].map(|number| event(number).id);
    assert_eq!(world.due(START.plus(Duration::from_secs(1))).await, ids);
    assert_eq!(world.spool.due("veedeo", START.plus(Duration::from_secs(1)), 2).await.unwrap().ids, ids[..2]);
}

#[tokio::test]
async fn of_one_order_value_only_the_oldest_is_due_until_it_is_gone_or_dead() {
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path());
    for number in 1..=4 {
        world.spool.append(pending(ordered(number, "a")), None).await.unwrap();
    }
    world.spool.append(pending(ordered(9, "b")), None).await.unwrap();
    let id = |number| event(number).id;
    assert_eq!(world.due(START).await, [id(1), id(9)]);
    assert!(world.spool.has_earlier("veedeo", "a").await.unwrap());
    assert!(!world.spool.has_earlier("veedeo", "c").await.unwrap());
    assert!(!world.spool.has_earlier("other", "a").await.unwrap());

    world.spool.begin_attempts(vec![id(1)]).await.unwrap();
    assert_eq!(world.due(START).await, [id(9)], "the second waits for the first's attempt");
    let later = START.plus(DAY);
    let retry = Settlement::Retry { not_before: later, possible_duplicate: Possible::No, error: String::new() };
    world.spool.settle(id(1), retry).await.unwrap();
    assert_eq!(world.due(START).await, [id(9)], "the second waits for the first's backoff");

    world.spool.settle(id(1), accepted(&event(1))).await.unwrap();
    assert_eq!(world.due(START).await, [id(2), id(9)]);
    world.spool.settle(id(2), dead()).await.unwrap();
    assert_eq!(world.due(START).await, [id(3), id(9)], "successors of a dead letter go on");
    assert_eq!(world.spool.revive(id(2), START).await.unwrap(), Found::Yes);
    world.spool.settle(id(3), accepted(&event(3))).await.unwrap();
    assert_eq!(world.due(START).await, [id(2), id(9)], "the revived one is the oldest again");
    world.spool.settle(id(2), accepted(&event(2))).await.unwrap();
    world.spool.settle(id(4), accepted(&event(4))).await.unwrap();
    assert!(!world.spool.has_earlier("veedeo", "a").await.unwrap());
}

#[tokio::test]
async fn dead_letters_are_listed_revived_and_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path());
    for number in 1..=5 {
        world.spool.append(pending(event(number)), None).await.unwrap();
    }
    for number in 1..=3 {
        world.spool.begin_attempts(vec![event(number).id]).await.unwrap();
        world.spool.settle(event(number).id, dead()).await.unwrap();
    }
    let reason = DeadReason::AppRejected;
    world.spool.append(entry(event(6), Entry::Dead { reason }), None).await.unwrap();
    let letters = Filter { state: Some(State::Dead), ..Filter::default() };
    let listed = world.spool.list(letters.clone()).await.unwrap();
    let ids = |listed: &[hookgate::spool::Listed]| listed.iter().map(|one| one.id).collect::<Vec<_>>();
    assert_eq!(ids(&listed), [1, 2, 3, 6].map(|number| event(number).id));
    let first = &listed[0];
    assert_eq!((first.attempts, first.reason), (1, Some(DeadReason::AttemptsExhausted)));
    assert_eq!(first.last_error, "the application answered 500");
    assert_eq!(first.body_bytes, event(1).body.len() as u64);
    assert_eq!(first.key, event(1).key);

    let page = Filter { limit: 2, after: Some(event(1).id), ..letters.clone() };
    assert_eq!(ids(&world.spool.list(page).await.unwrap()), [2, 3].map(|number| event(number).id));
    let rejected = Filter { reason: Some(reason), ..letters.clone() };
    assert_eq!(ids(&world.spool.list(rejected).await.unwrap()), [event(6).id]);
    let since = Filter { since: Some(event(2).received_at), until: Some(event(3).received_at), ..letters.clone() };
    assert_eq!(ids(&world.spool.list(since).await.unwrap()), [event(2).id]);
    let named = Filter { ids: vec![event(3).id, event(4).id], ..letters.clone() };
    assert_eq!(ids(&world.spool.list(named).await.unwrap()), [event(3).id]);
    assert_eq!(world.spool.count(letters).await.unwrap(), 4);
    assert_eq!(world.spool.count(Filter { state: Some(State::Pending), ..Filter::default() }).await.unwrap(), 2);
    assert_eq!(world.spool.count(Filter { route: Some("other".into()), ..Filter::default() }).await.unwrap(), 0);

    assert_eq!(world.spool.revive(event(1).id, START).await.unwrap(), Found::Yes);
    assert_eq!(world.spool.revive(event(1).id, START).await.unwrap(), Found::No, "it is no dead letter any more");
    let revived = world.spool.load(event(1).id).await.unwrap().unwrap();
    assert_eq!((revived.attempts, revived.replay), (0, Replay::Yes));
    assert!(world.due(START).await.contains(&event(1).id));
    assert_eq!(world.spool.remove(event(1).id).await.unwrap(), Found::No, "a pending event is not dropped");
    assert_eq!(world.spool.remove(event(2).id).await.unwrap(), Found::Yes);
    let totals = world.spool.totals();
    let route = totals.routes["veedeo"];
    assert_eq!((route.pending, route.dead), (3, 2));
    assert_eq!(route.oldest_pending, Some(event(1).received_at));
}

#[tokio::test]
async fn after_a_crash_the_attempt_that_ran_is_due_and_suspect_and_the_rest_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let first = world(dir.path());
    assert_eq!(first.previous, PreviousStop::First);
    first.spool.append(pending(event(1)), None).await.unwrap();
    first.spool.append(pending(event(2)), None).await.unwrap();
    first.spool.append(entry(event(3), Entry::InFlight), None).await.unwrap();
    first.spool.begin_attempts(vec![event(1).id]).await.unwrap();
    let before = first.spool.totals();
    first.crash(dir.path()).await;

    let later = START.plus(Duration::from_secs(60));
    let second = world_at(dir.path(), later);
    assert_eq!(second.previous, PreviousStop::Unclean { stopped_before: later });
    assert_eq!(second.spool.totals(), before, "counted anew and found the same");
    let mut suspects = Vec::new();
    for id in second.due(later).await {
        suspects.push(second.spool.load(id).await.unwrap().unwrap().possible_duplicate);
    }
    assert_eq!(suspects, [Possible::Duplicate, Possible::No, Possible::Duplicate]);
    second.disk.close().await.unwrap();
    assert!(matches!(second.spool.append(pending(event(4)), None).await, Err(SpoolFault::Failed(_))));

    let third = world_at(dir.path(), later);
    assert_eq!(third.previous, PreviousStop::Clean);
    assert_eq!(third.due(later).await.len(), 3);
}

#[tokio::test]
async fn after_a_crash_of_the_machine_every_event_on_disk_is_suspect_and_new_ones_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let first = world(dir.path());
    first.spool.append(pending(event(1)), None).await.unwrap();
    first.crash(dir.path()).await;
    Connection::open(dir.path().join("hookgate.db"))
        .unwrap()
        .execute("UPDATE meta SET value = 'another boot' WHERE key = 'boot'", [])
        .unwrap();
    let second = world(dir.path());
    second.spool.append(pending(event(2)), None).await.unwrap();
    let suspicion = async |number| second.spool.load(event(number).id).await.unwrap().unwrap().possible_duplicate;
    assert_eq!(suspicion(1).await, Possible::Duplicate);
    assert_eq!(suspicion(2).await, Possible::No);
}

#[tokio::test]
async fn a_full_spool_takes_nothing_more_and_takes_again_once_drained() {
    let dir = tempfile::tempdir().unwrap();
    let small = DiskSettings { max_bytes: 4000, ..settings(dir.path()) };
    let world = try_world(small, START).unwrap();
    let mut written = Vec::new();
    let full = loop {
        let event = event(u32::try_from(written.len()).unwrap());
        match world.spool.append(pending(event.clone()), None).await {
            Ok(()) => written.push(event),
            Err(fault) => break fault,
        }
        assert!(written.len() < 100, "there is no cap");
    };
    assert!(matches!(&full, SpoolFault::Full(why) if why.contains("spool.max_bytes = 4000")), "{full:?}");
    assert!(written.len() >= 3, "{}", written.len());
    assert!(world.spool.totals().bytes <= 4000);
    // What is there can still be settled, and nothing was evicted.
    assert_eq!(world.due(START).await.len(), written.len());
    world.spool.settle(written[0].id, accepted(&written[0])).await.unwrap();
    world.spool.append(pending(event(99)), None).await.unwrap();
}

#[tokio::test]
async fn a_disk_short_of_space_refuses_new_events() {
    let dir = tempfile::tempdir().unwrap();
    let world = try_world(DiskSettings { min_free_bytes: u64::MAX / 2, ..settings(dir.path()) }, START).unwrap();
    let fault = world.spool.append(pending(event(1)), None).await.unwrap_err();
    assert!(matches!(&fault, SpoolFault::Full(why) if why.contains("spool.min_free_bytes")), "{fault:?}");
}

#[tokio::test]
async fn one_record_with_a_flipped_bit_is_set_aside_and_the_rest_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let first = world(dir.path());
    for number in 1..=3 {
        first.spool.append(pending(event(number)), None).await.unwrap();
    }
    first.disk.close().await.unwrap();
    Connection::open(dir.path().join("hookgate.db"))
        .unwrap()
        .execute(
            "UPDATE payloads SET body = cast(replace(cast(body AS TEXT), '1.50', '1.51') AS BLOB) WHERE seq = 2",
            [],
        )
        .unwrap();
    let world = world(dir.path());
    assert_eq!(world.due(START).await.len(), 3);
    assert!(world.spool.load(event(2).id).await.unwrap().is_none());
    assert_eq!(world.damage_counted(), 1);
    assert_eq!(world.due(START).await, [event(1).id, event(3).id]);
    assert!(world.spool.load(event(3).id).await.unwrap().is_some());
    let damaged = Filter { state: Some(State::Damaged), ..Filter::default() };
    assert_eq!(world.spool.list(damaged).await.unwrap()[0].id, event(2).id);
    assert_eq!(world.spool.totals().routes["veedeo"].damaged, 1);
    assert_eq!(world.spool.remove(event(2).id).await.unwrap(), Found::Yes);
}

#[tokio::test]
async fn events_are_read_together_up_to_a_damaged_one_which_is_set_aside_when_it_is_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let first = world(dir.path());
    for number in 1..=5 {
        first.spool.append(pending(event(number)), None).await.unwrap();
    }
    first.disk.close().await.unwrap();
    let file = Connection::open(dir.path().join("hookgate.db")).unwrap();
    file.execute("UPDATE payloads SET target = '/another' WHERE seq = 3", []).unwrap();
    drop(file);
    let world = world(dir.path());
    let ids = |numbers: &[u32]| numbers.iter().map(|number| event(*number).id).collect::<Vec<_>>();
    let read = world.spool.load_some(ids(&[1, 77, 2, 3, 4])).await.unwrap();
    let read: Vec<_> = read.into_iter().map(|stored| stored.map(|stored| stored.event.id)).collect();
    assert_eq!(read, [Some(event(1).id), None, Some(event(2).id)], "one is not there, one is damaged");
    assert_eq!(world.damage_counted(), 0);
    assert!(matches!(world.spool.load_some(ids(&[3, 4, 5])).await.unwrap()[..], [None]));
    assert_eq!(world.damage_counted(), 1);
    assert_eq!(world.spool.load_some(ids(&[4, 5])).await.unwrap().iter().flatten().count(), 2);
}

#[tokio::test]
async fn what_is_read_together_is_little_unless_its_first_event_is_large() {
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path());
    for number in 1..=8 {
        let body = Bytes::from(vec![b'x'; 100 * 1024 * (number as usize / 8 * 9 + 1)]);
        world.spool.append(pending(Event { body: body.into(), ..event(number) }), None).await.unwrap();
    }
    let ids: Vec<_> = (1..=8).map(|number| event(number).id).collect();
    let read = async |from: usize| world.spool.load_some(ids[from..].to_vec()).await.unwrap().len();
    assert_eq!(read(0).await, 3, "100 KiB each");
    assert_eq!(read(6).await, 2, "100 KiB and 1,000 KiB");
    assert_eq!(read(7).await, 1);
}

#[tokio::test]
async fn a_file_that_is_no_database_is_put_aside_and_a_fresh_one_takes_over() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("hookgate.db"), b"this is no database at all, whatever its name says".repeat(100))
        .unwrap();
    let world = world(dir.path());
    assert_eq!(world.damage_counted(), 1);
    let aside = dir.path().join(format!("hookgate.db.damaged-{}", START.millis()));
    assert!(std::fs::read(aside).unwrap().starts_with(b"this is no database"));
    assert!(matches!(world.previous, PreviousStop::Unclean { .. }), "nobody knows how the last run ended");
    world.spool.append(pending(event(1)), None).await.unwrap();
    assert_eq!(world.due(START).await, [event(1).id]);
}

/// Spoils the root page of an index that the start reads.
fn spoil(spool: &Path) {
    let file = spool.join("hookgate.db");
    let page: usize = Connection::open(&file)
        .unwrap()
        .query_row("SELECT rootpage FROM sqlite_master WHERE name = 'events_totals'", [], |row| row.get(0))
        .unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    bytes.get_mut((page - 1) * 4096..page * 4096).unwrap().fill(0xA5);
    std::fs::write(&file, bytes).unwrap();
}

#[tokio::test]
async fn what_comes_over_from_a_damaged_file_leaves_the_disk_its_room() {
    let dir = tempfile::tempdir().unwrap();
    let first = world(dir.path());
    for number in 1..=20 {
        first.spool.append(pending(event(number)), None).await.unwrap();
    }
    first.disk.close().await.unwrap();
    spoil(dir.path());
    let short = DiskSettings { min_free_bytes: u64::MAX, ..settings(dir.path()) };
    let second = try_world(short, START).unwrap();
    // Longer than one try.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(second.disk.is_salvaging());
    assert_eq!(second.metrics.spool_salvaged_total.with_label_values(&["event"]).get(), 0);
    assert!(second.due(START).await.is_empty());
    second.disk.close().await.unwrap();
    let third = world(dir.path());
    while third.disk.is_salvaging() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(third.due(START).await.len(), 20);
}

#[tokio::test]
async fn what_can_be_read_of_a_damaged_database_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let first = world(dir.path());
    for number in 1..=200 {
        first.spool.append(pending(event(number)), None).await.unwrap();
    }
    first.disk.put_mark(Mark::new(&event(500), START.plus(DAY)), START);
    first.disk.close().await.unwrap();
    spoil(dir.path());

    let second = world(dir.path());
    assert_eq!(second.damage_counted(), 1);
    while second.disk.is_salvaging() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(second.due(START).await.len(), 200);
    let stored = second.spool.load(event(7).id).await.unwrap().unwrap();
    assert_same(&stored.event, &event(7));
    assert_eq!(stored.possible_duplicate, Possible::Duplicate, "how the last run ended is not known");
    assert!(second.disk.recall(event(500).key, START).await.unwrap().same.is_some());
}

#[tokio::test]
async fn a_damaged_write_ahead_log_is_never_silent() {
    let dir = tempfile::tempdir().unwrap();
    let first = world(dir.path());
    for number in 1..=20 {
        first.spool.append(pending(event(number)), None).await.unwrap();
    }
    // As a kill leaves it: the log is copied while the run is alive.
    let copy = tempfile::tempdir().unwrap();
    for name in ["hookgate.db", "hookgate.db-wal"] {
        std::fs::copy(dir.path().join(name), copy.path().join(name)).unwrap();
    }
    let log = copy.path().join("hookgate.db-wal");
    let sound = std::fs::read(&log).unwrap();
    assert!(sound.len() > 20 * 4096, "the commits are in the log");

    let undamaged = world(copy.path());
    assert_eq!((undamaged.damage_counted(), undamaged.due(START).await.len()), (0, 20));
    undamaged.disk.close().await.unwrap();

    std::fs::copy(dir.path().join("hookgate.db"), copy.path().join("hookgate.db")).unwrap();
    let mut damaged = sound;
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x40;
    std::fs::write(&log, damaged).unwrap();
    let world = world(copy.path());
    assert!(world.damage_counted() >= 1);
    let left = world.due(START).await;
    assert!(!left.is_empty() && left.len() < 20, "{}", left.len());
    for id in left {
        assert!(world.spool.load(id).await.unwrap().is_some());
    }
    assert!(copy.path().join(format!("hookgate.db-wal.damaged-{}", START.millis())).exists());
    world.crash(copy.path()).await;
    let after = self::world(copy.path());
    assert_eq!(after.damage_counted(), 0, "what was told is not told again");
}

#[tokio::test]
async fn a_second_process_is_refused_with_the_number_of_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let _first = world(dir.path());
    let Err(refusal) = try_world(settings(dir.path()), START) else { panic!("two gateways share a spool") };
    let text = refusal.to_string();
    assert!(matches!(refusal, DiskFault::Locked { .. }), "{text}");
    assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
}

#[tokio::test]
async fn nobody_else_may_read_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("made");
    let world = world(&path);
    world.spool.append(pending(event(1)), None).await.unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    for name in ["hookgate.db", "hookgate.db-wal", "hookgate.db-shm", "hookgate.lock"] {
        assert_eq!(mode(&path.join(name)), 0o600, "{name}");
    }
}

#[tokio::test]
async fn many_appends_share_few_commits() {
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path());
    let before = world.disk.commits();
    let appends: Vec<_> = (0..500)
        .map(|number| {
            let spool = world.spool.clone();
            tokio::spawn(async move { spool.append(pending(event(number)), None).await })
        })
        .collect();
    for append in appends {
        append.await.unwrap().unwrap();
    }
    let commits = world.disk.commits() - before;
    assert!(commits < 100, "{commits} commits for 500 events");
    assert_eq!(world.due(START).await.len(), 500);
    assert_eq!(world.metrics.spool_events.with_label_values(&["veedeo", "pending"]).get(), 500);
}

#[tokio::test]
async fn one_job_that_fails_spoils_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path());
    world.spool.append(pending(event(1)), None).await.unwrap();
    let mark = |number| Some(Mark::new(&event(number), START.plus(DAY)));
    let (again, other) =
        tokio::join!(world.spool.append(pending(event(1)), mark(1)), world.spool.append(pending(event(2)), mark(2)),);
    assert!(matches!(again, Err(SpoolFault::Failed(_))), "the same event a second time");
    other.unwrap();
    let marked = async |number| world.disk.recall(event(number).key, START).await.unwrap().same.is_some();
    assert!(!marked(1).await, "nothing of the failed job is on disk");
    assert!(marked(2).await);
    assert_eq!(world.spool.totals().routes["veedeo"].pending, 2);
}

#[tokio::test]
async fn what_fails_half_way_without_a_savepoint_takes_its_transaction_along() {
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path());
    world.spool.append(pending(event(1)), None).await.unwrap();
    let half_way = world.disk.prompt(|tx| {
        tx.begin_attempt(event(1).id.0.into_bytes())?;
        Err::<(), _>(JobFault::Full("as meant".to_owned()))
    });
    assert!(matches!(half_way.await, Err(JobFault::Full(_))));
    assert_eq!(world.due(START).await, [event(1).id], "nothing of it is on disk");
    let nothing_done = world.disk.prompt(|_| Err::<(), _>(JobFault::Full("as meant".to_owned())));
    let (refused, other) = tokio::join!(nothing_done, world.spool.append(pending(event(2)), None));
    assert!(matches!(refused, Err(JobFault::Full(_))));
    other.unwrap();
    assert_eq!(world.due(START).await.len(), 2);
}

#[tokio::test]
async fn the_end_of_an_event_shares_the_commit_of_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path());
    world.spool.append(pending(event(0)), None).await.unwrap();
    let before = world.disk.commits();
    for number in 1..=50 {
        let last = event(number - 1);
        let (settled, appended) = tokio::join!(
            world.spool.settle_with_others(last.id, accepted(&last)),
            world.spool.append(pending(event(number)), None),
        );
        settled.unwrap();
        appended.unwrap();
    }
    let commits = world.disk.commits() - before;
    assert!(commits < 75, "{commits} commits for 50 events and their ends");
    let alone = world.spool.settle_with_others(event(50).id, accepted(&event(50)));
    tokio::time::timeout(Duration::from_secs(5), alone).await.expect("it does not wait for ever").unwrap();
    assert_eq!(world.spool.totals().pending(), 0);
    world.crash(dir.path()).await;
    assert_eq!(Spool::open_read_only(dir.path()).unwrap().totals().unwrap().pending(), 0, "it is on disk");
}

#[tokio::test]
async fn an_append_that_nobody_waits_for_leaves_nothing_in_flight() {
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path());
    {
        let append = world.spool.append(entry(event(1), Entry::InFlight), None);
        tokio::pin!(append);
        // Queued, and given up at once.
        assert!(is_pending(append.as_mut()).await);
    }
    // A later job: what was queued before it is done.
    world.spool.append(pending(event(2)), None).await.unwrap();
    world.disk.prompt(|_| Ok(())).await.unwrap();
    let in_flight = Filter { state: Some(State::InFlight), ..Filter::default() };
    assert_eq!(world.spool.count(in_flight).await.unwrap(), 0);
}

/// Polls once; says whether the future is still pending.
async fn is_pending<F: Future>(mut future: std::pin::Pin<&mut F>) -> bool {
    std::future::poll_fn(|context| std::task::Poll::Ready(future.as_mut().poll(context).is_pending())).await
}

#[tokio::test]
async fn a_stopped_spool_can_be_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path());
    world.spool.append(pending(event(1)), None).await.unwrap();
    world.spool.settle(event(1).id, dead()).await.unwrap();
    world.crash(dir.path()).await;
    let reader = Spool::open_read_only(dir.path()).unwrap();
    let letters = Filter { state: Some(State::Dead), ..Filter::default() };
    assert_eq!(reader.count(&letters).unwrap(), 1);
    assert_eq!(reader.list(&letters).unwrap()[0].id, event(1).id);
    assert_same(&reader.load(event(1).id).unwrap().unwrap().event, &event(1));
    assert_eq!(reader.totals().unwrap().dead(), 1);
    let Err(missing) = Spool::open_read_only(&dir.path().join("nowhere")) else { panic!("there is no such spool") };
    assert!(missing.to_string().contains("nowhere"), "{missing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doubt_that_is_still_in_memory_never_hides_what_the_disk_knows_was_processed() {
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path());
    let mark = |number, kind| Mark { kind, ..Mark::new(&event(number), START.plus(DAY)) };
    for number in 0..200 {
        world.disk.put_mark(mark(number, MarkKind::Processed), START);
        // A later job: what was queued before it is on disk.
        world.disk.prompt(|_| Ok(())).await.unwrap();
        world.disk.put_mark(mark(number, MarkKind::Perhaps), START);
        let recall = world.disk.recall(mark(number, MarkKind::Perhaps).key, START).await.unwrap();
        assert!(matches!(recall.same, Some((MarkKind::Processed, _))), "{number}: {recall:?}");
    }
}

#[tokio::test]
async fn what_was_processed_before_is_not_written_however_lately_that_was_noted() {
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path());
    let known = |number, kind| Mark { kind, ..Mark::new(&event(number), START.plus(DAY)) };
    let write = async |number, now| {
        let copy = Event { id: EventId::new(now, fastrand::u128(..)), ..event(number) };
        let (mark, state) = (Mark::new(&copy, START.plus(DAY)), Entry::Pending { not_before: START });
        world.spool.append_unless_processed(entry(copy, state), mark, now).await.unwrap()
    };
    world.disk.put_mark(known(1, MarkKind::Processed), START);
    world.disk.put_mark(known(2, MarkKind::Perhaps), START);
    assert_eq!((write(1, START).await, write(2, START).await), (Appended::ProcessedBefore, Appended::Now));
    world.disk.prompt(|_| Ok(())).await.unwrap();
    assert_eq!((write(1, START).await, write(2, START).await), (Appended::ProcessedBefore, Appended::ProcessedBefore));
    assert_eq!(write(1, START.plus(DAY)).await, Appended::Now, "what has expired counts no more");
    // Of two in one transaction the second finds the first.
    let (spool, mut both) = (world.spool.clone(), tokio::task::JoinSet::new());
    for number in (10..60).flat_map(|number| [number; 2]) {
        let (spool, mark) = (spool.clone(), known(number, MarkKind::Processed));
        both.spawn(async move {
            let copy = Event { id: EventId::new(START, fastrand::u128(..)), ..event(number) };
            spool.append_unless_processed(pending(copy), mark, START).await.unwrap()
        });
    }
    let written = both.join_all().await.into_iter().filter(|appended| *appended == Appended::Now).count();
    assert_eq!((written, world.spool.totals().pending()), (50, 52));
}

#[tokio::test]
async fn what_the_disk_alone_knows_to_be_processed_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path()).disk.close().await.unwrap();
    let mark = Mark::new(&event(1), START.plus(DAY));
    // Where no start reads it into memory: in the table of version 1.
    let known = params![mark.key.slot, mark.key.fingerprint, mark.expires_at.millis()];
    let file = Connection::open(dir.path().join("hookgate.db")).unwrap();
    file.execute("INSERT INTO marks VALUES (?1, ?2, 'veedeo', 0, ?3)", known).unwrap();
    drop(file);
    let world = world(dir.path());
    assert!(world.disk.recall_at_once(mark.key, START).is_none(), "memory does not know");
    let append = |event| world.spool.append_unless_processed(pending(event), mark, START);
    assert_eq!((append(event(1)).await, world.spool.totals().pending()), (Ok(Appended::ProcessedBefore), 0));
}

#[tokio::test]
async fn where_the_table_cannot_be_read_by_who_writes_either_the_event_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path());
    let mark = Mark::new(&event(1), START.plus(DAY));
    world.disk.put_mark(Mark { kind: MarkKind::Perhaps, ..mark }, START);
    world.disk.prompt(|_| Ok(())).await.unwrap();
    Connection::open(dir.path().join("hookgate.db")).unwrap().execute_batch("DROP TABLE mark_runs").unwrap();
    world.disk.recall(mark.key, START).await.unwrap_err();
    let append = |event| world.spool.append_unless_processed(pending(event), mark, START);
    let (one, beside) = tokio::join!(append(event(1)), world.spool.append(pending(event(2)), None));
    assert_eq!((one, beside, world.spool.totals().pending()), (Ok(Appended::Now), Ok(()), 2));
}

#[tokio::test]
async fn an_event_counts_for_every_byte_it_carries() {
    let dir = tempfile::tempdir().unwrap();
    let world = world(dir.path());
    let mut before = 0;
    let mut counts = async |event: Event| {
        world.spool.append(pending(event), None).await.unwrap();
        let counted = world.spool.totals().bytes - before;
        before += counted;
        counted
    };
    let plain = counts(event(1)).await;
    let long = |text: &str| format!("{text}{}", "x".repeat(1000));
    let longer_body = Bytes::from([&event(2).body[..], &[b'x'; 1000]].concat());
    assert_eq!(counts(Event { body: longer_body.into(), ..event(2) }).await, plain + 1000);
    assert_eq!(counts(Event { target: long(&event(3).target), ..event(3) }).await, plain + 1000);
    assert_eq!(counts(Event { authority: long(&event(4).authority), ..event(4) }).await, plain + 1000);
    let route = long(&event(5).route);
    assert_eq!(counts(Event { route: route.as_str().into(), ..event(5) }).await, plain + 1000);
    let mut headers = event(6).headers;
    headers.append("more", HeaderValue::from_static("0123456789"));
    assert_eq!(counts(Event { headers, ..event(6) }).await, plain + 22, "4 and 10 bytes, and the length of each");
    assert_eq!(counts(ordered(7, "0123456789")).await, plain + 10);
}

/// What version 1 of the tables was seen to hold: `tests/fixtures/spool-v1.sql` is a dump of a file that a kill left behind.
#[tokio::test]
async fn a_file_as_version_1_wrote_it_is_opened_whole() {
    let dir = tempfile::tempdir().unwrap();
    let old = Connection::open(dir.path().join("hookgate.db")).unwrap();
    old.execute_batch("PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL;").unwrap();
    old.execute_batch(include_str!("fixtures/spool-v1.sql")).unwrap();
    assert_eq!(old.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0)).unwrap(), 1);
    drop(old);
    let now = START.plus(Duration::from_secs(600));
    let world = world_at(dir.path(), now);
    assert_eq!(world.previous, PreviousStop::Unclean { stopped_before: now });
    let load = async |number| world.spool.load(event(number).id).await.unwrap().unwrap();
    for number in [1, 2, 3, 4, 5, 7] {
        let (stored, written) =
            (load(number).await.event, if number < 3 { event(number) } else { ordered(number, "a") });
        let written = if number == 7 { event(7) } else { written };
        assert_eq!((stored.body, stored.headers, stored.key), (written.body, written.headers, written.key), "{number}");
        assert_eq!((stored.target, stored.order_value), (written.target, written.order_value), "{number}");
    }
    let retried = load(1).await;
    assert_eq!((retried.attempts, retried.last_error.as_str()), (1, "the application answered 500"));
    assert_eq!(load(5).await.possible_duplicate, Possible::Duplicate, "its attempt was cut off");
    let letters = world.spool.list(Filter { state: Some(State::Dead), ..Filter::default() }).await.unwrap();
    assert_eq!(
        letters.iter().map(|one| (one.id, one.reason)).collect::<Vec<_>>(),
        [(event(2).id, Some(DeadReason::AttemptsExhausted))]
    );
    assert_eq!(load(7).await.replay, Replay::Yes, "a dead letter that an operator wanted sent again");
    for (number, kind) in [(6, Some(MarkKind::Processed)), (8, Some(MarkKind::Perhaps)), (9, None)] {
        let recall = world.disk.recall(event(number).key, now).await.unwrap();
        assert_eq!(recall.same.map(|(kind, _)| kind), kind, "{number}");
    }
    let mark = |number| Mark::new(&event(number), now.plus(DAY));
    let again = pending(Event { id: EventId::new(now, 6), ..event(6) });
    assert_eq!(world.spool.append_unless_processed(again, mark(6), now).await, Ok(Appended::ProcessedBefore));
    // It is worked on as one of today is: what waits behind another comes when that has gone.
    for (number, next) in [(5, vec![1, 7, 3]), (3, vec![1, 7, 4]), (4, vec![1, 7])] {
        world.spool.settle(event(number).id, accepted(&event(number))).await.unwrap();
        let due: std::collections::HashSet<EventId> = world.due(now).await.into_iter().collect();
        assert_eq!(due, next.into_iter().map(|number| event(number).id).collect(), "after {number}");
    }
    assert_eq!(world.damage_counted(), 0);
}

#[tokio::test]
async fn a_file_of_a_later_version_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let first = world(dir.path());
    first.spool.append(pending(event(1)), None).await.unwrap();
    first.disk.close().await.unwrap();
    drop(first);
    let file = dir.path().join("hookgate.db");
    Connection::open(&file).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let refused = try_world(settings(dir.path()), START).map(|_| ()).unwrap_err();
    assert!(matches!(refused, DiskFault::TooNew { found: 99, .. }), "{refused}");
    let conn = Connection::open(&file).unwrap();
    assert_eq!(conn.query_row("SELECT count(*) FROM events", [], |row| row.get::<_, i64>(0)).unwrap(), 1);
    assert!(
        std::fs::read_dir(dir.path()).unwrap().all(|entry| !entry
            .unwrap()
            .path()
            .to_string_lossy()
            .contains("damaged"))
    );
}

#[tokio::test]
async fn what_was_to_wait_by_a_clock_that_was_ahead_is_due_once_the_clock_has_been_put_right() {
    const HOUR: Duration = Duration::from_secs(3600);
    for (ahead, due) in [(365 * 10 * DAY, 2), (DAY, 2), (Duration::from_secs(30), 0)] {
        let dir = tempfile::tempdir().unwrap();
        let wrong = START.plus(ahead);
        let first = world_at(dir.path(), wrong);
        first.spool.append(entry(event(1), Entry::Pending { not_before: wrong.plus(HOUR) }), None).await.unwrap();
        first.spool.append(entry(event(2), Entry::Pending { not_before: wrong }), None).await.unwrap();
        first.disk.close().await.unwrap();
        let second = world_at(dir.path(), START);
        assert_eq!(second.due(START).await.len(), due, "{ahead:?} ahead");
        assert_eq!(second.spool.totals().pending(), 2);
        second.disk.close().await.unwrap();
        let third = world_at(dir.path(), START.plus(HOUR));
        assert_eq!(third.due(START.plus(2 * HOUR)).await.len(), 2, "{ahead:?} ahead");
    }
}

#[tokio::test]
async fn a_clock_that_went_ahead_in_mid_run_is_seen_by_what_came_last() {
    let dir = tempfile::tempdir().unwrap();
    let first = world_at(dir.path(), START);
    let ahead = START.plus(DAY);
    let last = Event { received_at: ahead, ..event(1) };
    first.spool.append(entry(last, Entry::Pending { not_before: ahead.plus(DAY) }), None).await.unwrap();
    first.crash(dir.path()).await;
    let second = world_at(dir.path(), START.plus(Duration::from_secs(600)));
    assert_eq!(second.due(START.plus(Duration::from_secs(600))).await.len(), 1);
}

#[tokio::test]
async fn what_waits_by_a_clock_that_was_right_goes_on_waiting_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let later = START.plus(DAY);
    for now in [START, START.plus(Duration::from_secs(60))] {
        let run = world_at(dir.path(), now);
        if now == START {
            run.spool.append(entry(event(1), Entry::Pending { not_before: later }), None).await.unwrap();
        }
        assert_eq!((run.due(now).await.len(), run.due(later).await.len()), (0, 1));
        run.disk.close().await.unwrap();
    }
}

/// What the events of a start are flagged with, after this was done to the folder of a spool with two of them.
async fn flags_after(done: impl AsyncFn(&Path, &Path, World) -> PathBuf) -> (PreviousStop, Vec<Possible>) {
    let dir = tempfile::tempdir().unwrap();
    let (spool, copy) = (dir.path().join("spool"), dir.path().join("copy.db"));
    let first = world(&spool);
    for number in [1, 2] {
        first.spool.append(pending(event(number)), None).await.unwrap();
    }
    let spool = done(&spool, &copy, first).await;
    let again = world(&spool);
    let mut flags = Vec::new();
    for id in again.due(START).await {
        flags.push(again.spool.load(id).await.unwrap().unwrap().possible_duplicate);
    }
    (again.previous, flags)
}

/// Puts a copy in place of the database, as the manual says.
fn put_back(spool: &Path, copy: &Path) -> PathBuf {
    std::fs::copy(copy, spool.join("hookgate.db")).unwrap();
    for log in ["hookgate.db-wal", "hookgate.db-shm"] {
        let removed = std::fs::remove_file(spool.join(log));
        assert!(removed.is_ok() || removed.unwrap_err().kind() == std::io::ErrorKind::NotFound);
    }
    spool.to_owned()
}

fn copy_beside(spool: &Path, copy: &Path) {
    let text = format!("VACUUM INTO '{}'", copy.display());
    Connection::open(spool.join("hookgate.db")).unwrap().execute_batch(&text).unwrap();
}

#[tokio::test]
async fn what_waits_in_a_copy_that_is_put_back_may_have_been_sent_since() {
    let flagged = (PreviousStop::Unclean { stopped_before: START }, vec![Possible::Duplicate; 2]);
    let clean = (PreviousStop::Clean, vec![Possible::No; 2]);
    let taken_beside_and_stopped = flags_after(async |spool, copy, first| {
        copy_beside(spool, copy);
        first.disk.close().await.unwrap();
        put_back(spool, copy)
    });
    assert_eq!(taken_beside_and_stopped.await, flagged);
    let taken_beside_and_killed = flags_after(async |spool, copy, first| {
        copy_beside(spool, copy);
        first.crash(spool).await;
        put_back(spool, copy)
    });
    assert_eq!(taken_beside_and_killed.await, flagged);
    let taken_while_it_stood = flags_after(async |spool, copy, first| {
        first.disk.close().await.unwrap();
        std::fs::copy(spool.join("hookgate.db"), copy).unwrap();
        world(spool).disk.close().await.unwrap();
        put_back(spool, copy)
    });
    assert_eq!(taken_while_it_stood.await, flagged);
    let taken_while_it_stood_and_killed = flags_after(async |spool, copy, first| {
        first.disk.close().await.unwrap();
        std::fs::copy(spool.join("hookgate.db"), copy).unwrap();
        world(spool).crash(spool).await;
        put_back(spool, copy)
    });
    assert_eq!(taken_while_it_stood_and_killed.await, flagged);
    let put_where_nothing_was = flags_after(async |spool, copy, first| {
        copy_beside(spool, copy);
        first.disk.close().await.unwrap();
        let empty = spool.with_file_name("empty");
        std::fs::create_dir(&empty).unwrap();
        put_back(&empty, copy)
    });
    assert_eq!(put_where_nothing_was.await, flagged);
    let told_so = flags_after(async |spool, _, first| {
        first.crash(spool).await;
        let told = "UPDATE meta SET value = 'restored' WHERE key IN ('run', 'boot')";
        assert!(std::fs::read_to_string("docs/OPERATIONS.md").unwrap().contains(told));
        Connection::open(spool.join("hookgate.db")).unwrap().execute(told, []).unwrap();
        spool.to_owned()
    });
    assert_eq!(told_so.await, flagged, "a snapshot of all of it");

    let stopped = flags_after(async |spool, _, first| {
        first.disk.close().await.unwrap();
        spool.to_owned()
    });
    assert_eq!(stopped.await, clean);
    let moved = flags_after(async |spool, _, first| {
        first.disk.close().await.unwrap();
        let elsewhere = spool.with_file_name("elsewhere");
        std::fs::rename(spool, &elsewhere).unwrap();
        elsewhere
    });
    assert_eq!(moved.await, clean, "the folder as a whole");
}

#[tokio::test]
async fn a_start_that_fails_does_not_make_a_copy_of_the_spool() {
    let dir = tempfile::tempdir().unwrap();
    let first = world(dir.path());
    first.spool.append(pending(event(1)), None).await.unwrap();
    first.disk.close().await.unwrap();
    let version = |number: u32| {
        let conn = Connection::open(dir.path().join("hookgate.db")).unwrap();
        conn.pragma_update(None, "user_version", number).unwrap();
    };
    let known: u32 = {
        let conn = Connection::open(dir.path().join("hookgate.db")).unwrap();
        conn.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
    };
    for _ in 0..2 {
        version(known + 97);
        assert!(matches!(try_world(settings(dir.path()), START), Err(DiskFault::TooNew { .. })));
        version(known);
    }
    let second = world(dir.path());
    assert_eq!(second.previous, PreviousStop::Clean);
}

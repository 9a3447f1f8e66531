//! A damaged database, found at the start and in the middle of work: a fresh one is in its place at once, what can be
//! read comes over, once and flagged, and nothing of the damaged file is thrown away.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hookgate::disk::{Disk, DiskSettings, Mark};
use hookgate::domain::event::{Event, EventId};
use hookgate::domain::headers::Headers;
use hookgate::domain::key::EventKey;
use hookgate::domain::time::Timestamp;
use hookgate::spool::{DeadReason, Entry, Filter, NewEntry, Possible, Replay, Settlement, Spool, State};
use hookgate::telemetry::{Metrics, RouteLabels};
use http::Method;
use rusqlite::Connection;

const START: Timestamp = Timestamp::from_seconds(1_760_000_000);
const DAY: Duration = Duration::from_secs(86_400);
const PAGE: u64 = 4096;
/// Longest wait for what is a matter of milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);

struct World {
    disk: Disk,
    spool: Spool,
    metrics: Arc<Metrics>,
}

fn world(path: &Path) -> World {
    let metrics = Arc::new(Metrics::new(&[RouteLabels { name: "veedeo".into(), secrets: 1 }]).unwrap());
    let settings =
        DiskSettings { path: path.to_owned(), max_bytes: 1 << 30, max_dead_bytes: 1 << 30, min_free_bytes: 0 };
    let disk = Disk::open(settings, START, metrics.clone()).unwrap().disk;
    World { spool: Spool::new(disk.clone()), disk, metrics }
}

impl World {
    async fn close(self) {
        self.disk.close().await.unwrap();
    }

    /// Ends the run as a kill would, without the mark of a clean stop.
    async fn crash(self, path: &Path) {
        drop((self.spool, self.disk));
        let lock = std::fs::File::open(path.join("hookgate.lock")).unwrap();
        eventually("the lock is given back", async || {
            rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok()
        })
        .await;
    }

    async fn append(&self, events: impl IntoIterator<Item = Event>) {
        let mut appends = tokio::task::JoinSet::new();
        for event in events {
            let spool = self.spool.clone();
            appends.spawn(async move { spool.append(pending(event), None).await });
            // In their order: those that are ordered are acknowledged one after the other.
            if appends.len() > 500 {
                appends.join_next().await.unwrap().unwrap().unwrap();
            }
        }
        while let Some(done) = appends.join_next().await {
            done.unwrap().unwrap();
        }
    }

    async fn due(&self) -> BTreeSet<EventId> {
        self.spool.due("veedeo", START.plus(DAY), 100_000).await.unwrap().ids.into_iter().collect()
    }

    async fn salvaged(&self) {
        eventually("the salvage ends", async || !self.disk.is_salvaging()).await;
    }

    fn damage_counted(&self) -> u64 {
        self.metrics.spool_errors_total.with_label_values(&["damage"]).get()
    }

    fn counted(&self, what: &str) -> u64 {
        self.metrics.spool_salvaged_total.with_label_values(&[what]).get()
    }
}

async fn eventually(what: &str, is: impl AsyncFn() -> bool) {
    let since = Instant::now();
    while !is().await {
        assert!(since.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn event(number: u32) -> Event {
    // One in ten does not fit on a page.
    let length = if number.is_multiple_of(10) { 9000 } else { 300 };
    let body = Bytes::from(number.to_string().repeat(length));
    let received_at = START.plus(Duration::from_millis(u64::from(number)));
    Event {
        id: EventId::new(received_at, u128::from(number) << 64 | 0xABCD),
        route: "veedeo".into(),
        key: EventKey::new("veedeo", &[&number.to_be_bytes()], &body),
        method: Method::POST,
        target: "/webhooks/veedeo".into(),
        headers: Headers::new(),
        authority: "hooks.example".into(),
        body: body.into(),
        received_at,
        signed_at: None,
        event_type: None,
        order_value: None,
    }
}

fn ordered(number: u32, value: &str) -> Event {
    Event { order_value: Some(value.into()), ..event(number) }
}

fn pending(event: Event) -> NewEntry {
    NewEntry {
        event: Arc::new(event),
        state: Entry::Pending { not_before: START },
        attempts: 0,
        possible_duplicate: Possible::No,
        replay: Replay::No,
        last_error: String::new(),
    }
}

fn accepted(number: u32) -> Settlement {
    Settlement::Accepted { mark: Mark::new(&event(number), START.plus(DAY)) }
}

fn database(path: &Path) -> PathBuf {
    path.join("hookgate.db")
}

/// The damaged database that is kept.
fn kept(path: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(path).unwrap().map(|file| file.unwrap().path());
    let is_kept = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with("hookgate.db.damaged-") && name.bytes().last().unwrap().is_ascii_digit()
    };
    files.filter(is_kept).collect()
}

/// Writes rubbish over pages, counted from 1.
fn spoil(file: &Path, pages: impl IntoIterator<Item = u64>) {
    let file = std::fs::File::options().write(true).open(file).unwrap();
    for page in pages {
        file.write_all_at(&[0xA5; 4096], (page - 1) * PAGE).unwrap();
    }
}

fn root_of(file: &Path, name: &str) -> u64 {
    let conn = Connection::open(file).unwrap();
    conn.query_row("SELECT rootpage FROM sqlite_master WHERE name = ?1", [name], |row| row.get(0)).unwrap()
}

/// A closed spool: 400 pending events, of which 101 to 120 are dead letters and 1 to 50 were delivered, and marks of
/// those and of a thousand others.
async fn filled(path: &Path) {
    let world = world(path);
    world.append((1..=400).map(event)).await;
    for number in 1..=50 {
        world.spool.settle(event(number).id, accepted(number)).await.unwrap();
    }
    for number in 101..=120 {
        let (reason, possible_duplicate) = (DeadReason::AppRejected, Possible::No);
        let dead = Settlement::Dead { reason, possible_duplicate, error: "422".into() };
        world.spool.settle(event(number).id, dead).await.unwrap();
    }
    for number in 10_000..11_000 {
        world.disk.put_mark(Mark::new(&event(number), START.plus(DAY)), START);
    }
    world.close().await;
}

fn undelivered() -> BTreeSet<EventId> {
    (51..=100).chain(121..=400).map(|number| event(number).id).collect()
}

/// Which pages are spoiled of the database in a folder.
type Pages<'a> = &'a dyn Fn(&Path) -> Vec<u64>;

#[tokio::test]
async fn all_of_it_comes_over_when_what_leads_to_the_rows_is_lost() {
    // The header; the tables' roots; the indexes' roots. None of them holds a row.
    let events = |path: &Path| vec![root_of(&database(path), "events"), root_of(&database(path), "payloads")];
    let index = |path: &Path| vec![root_of(&database(path), "events_totals"), root_of(&database(path), "events_due")];
    let cases: [(&str, Pages<'_>); 3] =
        [("the header", &|_| vec![1]), ("both tables", &events), ("two indexes", &index)];
    for (what, pages) in cases {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path()).await;
        let pages = pages(dir.path());
        spoil(&database(dir.path()), pages);
        let damaged = std::fs::read(database(dir.path())).unwrap();

        let world = world(dir.path());
        // An empty spool that works at once, whether damage shows at the start or at the first use.
        world.append([event(5000)]).await;
        drop(world.spool.list(Filter::default()).await);
        eventually("damage is found", async || world.damage_counted() > 0).await;
        world.append([event(5001)]).await;
        world.salvaged().await;
        let mut expected = undelivered();
        expected.insert(event(5001).id);
        let due = world.due().await;
        assert!(due.is_superset(&expected), "{what}: {} of {}", due.len(), expected.len());
        assert!(!due.contains(&event(7).id), "{what}: a delivered event came back");
        let letters = Filter { state: Some(State::Dead), ..Filter::default() };
        assert_eq!(world.spool.count(letters).await.unwrap(), 20, "{what}");
        for number in [60, 399] {
            let stored = world.spool.load(event(number).id).await.unwrap().unwrap();
            assert_eq!(stored.event.body, event(number).body);
            assert_eq!(stored.possible_duplicate, Possible::Duplicate, "{what}: nobody knows what was sent since");
        }
        let fresh = world.spool.load(event(5001).id).await.unwrap().unwrap();
        assert_eq!(fresh.possible_duplicate, Possible::No, "{what}: it came afterwards");
        for number in [3, 10_000, 10_999] {
            let recall = world.disk.recall(event(number).key, START).await.unwrap();
            assert!(recall.same.is_some(), "{what}: the mark of {number}");
        }
        assert_eq!(world.damage_counted(), 1, "{what}");
        assert_eq!(world.counted("mark"), 1050, "{what}");
        assert_eq!(world.spool.totals().pending(), u64::try_from(due.len()).unwrap(), "{what}");
        let kept = kept(dir.path());
        assert_eq!(kept.len(), 1, "{what}");
        let same = std::fs::read(&kept[0]).unwrap();
        assert!(same.len() >= damaged.len() && same[..4096] == damaged[..4096], "{what}: it is kept as it was");
        world.close().await;
        let name = kept[0].file_name().unwrap().to_string_lossy().into_owned();
        for command in ["stats", "verify"] {
            assert_told(dir.path(), command, 65, &name);
        }
        std::fs::rename(&kept[0], dir.path().join("moved-away")).unwrap();
        assert_told(dir.path(), "verify", 0, "");
    }
}

fn assert_told(path: &Path, command: &str, code: i32, words: &str) {
    let program = std::process::Command::new(env!("CARGO_BIN_EXE_hookgate"));
    let output = { program }.args(["spool", command, "--spool"]).arg(path).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(code), "{command}: {said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains(words), "{command}: {said}");
}

#[tokio::test]
async fn damage_in_the_middle_of_work_costs_what_stood_there_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let first = world(dir.path());
    first.append((1..=3000).map(event)).await;
    first.close().await;
    let world = world(dir.path());
    world.append([event(4000)]).await;
    let pages = std::fs::metadata(database(dir.path())).unwrap().len() / PAGE;
    // Every hundredth page, and all that leads anywhere.
    let roots = ["events", "events_due", "events_totals", "events_id"].map(|name| root_of(&database(dir.path()), name));
    spoil(&database(dir.path()), (200..pages).step_by(100).chain(roots));

    // Whatever meets it first is told so or served; then there is a spool that works.
    drop(world.spool.due("veedeo", START, 3000).await);
    drop(world.spool.append(pending(event(4001)), None).await);
    eventually("damage is found", async || world.damage_counted() > 0).await;
    world.append([event(4002)]).await;
    assert_eq!(world.disk.doubtful_before().map(|at| at >= START), Some(true), "marks may be missing for now");
    world.salvaged().await;
    let due = world.due().await;
    let lost: Vec<u32> = (1..=3000).filter(|number| !due.contains(&event(*number).id)).collect();
    assert!(lost.len() < 200, "{} of 3000 lost with a hundredth of the pages", lost.len());
    assert!(due.contains(&event(4000).id), "it stood in the log");
    assert!(due.contains(&event(4002).id));
    assert!(world.counted("unreadable_page") > 10);
    // What is there is whole, or seen to be damaged when it is loaded.
    let mut whole = 0;
    for id in due {
        whole += u32::from(world.spool.load(id).await.unwrap().is_some());
    }
    assert!(whole > 2700, "{whole}");
    assert_eq!(world.metrics.spool_salvage_files.get(), 0);
}

#[tokio::test]
async fn a_file_that_was_cut_short_gives_what_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let first = world(dir.path());
    first.append((1..=1000).map(event)).await;
    first.close().await;
    let file = std::fs::File::options().write(true).open(database(dir.path())).unwrap();
    let length = file.metadata().unwrap().len();
    file.set_len(length / PAGE / 2 * PAGE + 100).unwrap();
    drop(file);
    let world = world(dir.path());
    drop(world.spool.list(Filter { limit: 1000, ..Filter::default() }).await);
    drop(world.spool.due("veedeo", START.plus(DAY), 2000).await);
    eventually("damage is found", async || world.damage_counted() > 0).await;
    world.salvaged().await;
    let whole = world.due().await.len();
    assert!((300..1000).contains(&whole), "{whole}");
    let lost = Filter { state: Some(State::Damaged), ..Filter::default() };
    let known = world.spool.count(lost).await.unwrap();
    assert!(known > 0, "events whose payload is lost stay seen");
}

#[tokio::test]
async fn a_crash_in_the_middle_of_a_salvage_repeats_nothing_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let first = world(dir.path());
    first.append((1..=1200).map(event)).await;
    first.close().await;
    spoil(&database(dir.path()), [1]);
    let mut delivered = BTreeSet::new();
    let mut crashes = 0;
    loop {
        let world = world(dir.path());
        eventually("something comes over", async || {
            !world.disk.is_salvaging() || world.due().await.difference(&delivered).count() > 0
        })
        .await;
        let done = !world.disk.is_salvaging();
        let mut settlements = tokio::task::JoinSet::new();
        for id in world.due().await {
            let stored = world.spool.load(id).await.unwrap().unwrap();
            assert!(delivered.insert(id), "{id} came back");
            assert_eq!(stored.possible_duplicate, Possible::Duplicate);
            let (spool, mark) = (world.spool.clone(), Mark::new(&stored.event, START.plus(DAY)));
            settlements.spawn(async move { spool.settle(id, Settlement::Accepted { mark }).await });
        }
        while let Some(settled) = settlements.join_next().await {
            settled.unwrap().unwrap();
        }
        if done {
            world.close().await;
            break;
        }
        crashes += 1;
        world.crash(dir.path()).await;
    }
    assert_eq!(delivered.len(), 1200);
    assert!(crashes >= 2, "{crashes} crashes are not in the middle");
    assert_eq!(kept(dir.path()).len(), 1, "one file was damaged");
}

#[tokio::test]
async fn an_attempt_that_ends_after_the_damage_is_not_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let first = world(dir.path());
    first.append((1..=2000).map(event)).await;
    first.close().await;
    let world = world(dir.path());
    for number in 1..=20 {
        world.spool.begin_attempts(vec![event(number).id]).await.unwrap();
    }
    spoil(&database(dir.path()), [root_of(&database(dir.path()), "events_due")]);
    drop(world.spool.due("veedeo", START.plus(DAY), 5000).await);
    eventually("damage is found", async || world.damage_counted() > 0).await;
    for number in 1..=20 {
        world.spool.settle(event(number).id, accepted(number)).await.unwrap();
    }
    world.salvaged().await;
    let due = world.due().await;
    let again = (1..=20).filter(|number| due.contains(&event(*number).id)).count();
    assert_eq!((due.len(), again), (1980, 0));
}

#[tokio::test]
async fn ordered_events_wait_for_the_older_ones_of_a_salvage() {
    let dir = tempfile::tempdir().unwrap();
    let first = world(dir.path());
    first.append((1..=2000).map(event)).await;
    for number in 2001..=2010 {
        first.spool.append(pending(ordered(number, "a")), None).await.unwrap();
    }
    first.close().await;
    spoil(&database(dir.path()), [1]);
    let world = world(dir.path());
    assert!(world.disk.is_salvaging());
    assert!(world.spool.has_earlier("veedeo", "a").await.unwrap(), "it may still come");
    assert!(world.spool.has_earlier("veedeo", "never seen").await.unwrap(), "nobody knows yet");
    for number in 3000..=3003 {
        world.spool.append(pending(ordered(number, "a")), None).await.unwrap();
    }
    world.spool.append(pending(ordered(3100, "b")), None).await.unwrap();
    let mut seen = Vec::new();
    while world.disk.is_salvaging() {
        let ordered = |id: &EventId| (2001..=2010).chain(3000..=3100).any(|number| event(number).id == *id);
        let due: Vec<EventId> = world.due().await.into_iter().filter(ordered).collect();
        assert!(!world.disk.is_salvaging() || !due.contains(&event(3000).id), "newer than what may still come");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(!world.spool.has_earlier("veedeo", "never seen").await.unwrap());
    assert!(world.due().await.contains(&event(3100).id), "its value has no older one");
    for _ in 0..14 {
        let due = world.due().await;
        let of_a: Vec<u32> =
            (2001..=2010).chain(3000..=3003).filter(|number| due.contains(&event(*number).id)).collect();
        let [next] = of_a[..] else { panic!("{of_a:?} are due at once") };
        seen.push(next);
        world.spool.settle(event(next).id, accepted(next)).await.unwrap();
    }
    assert!(seen.iter().copied().eq((2001..=2010).chain(3000..=3003)), "{seen:?}");
}

#[tokio::test]
async fn a_second_damage_in_the_middle_of_a_salvage_loses_nothing_of_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let first = world(dir.path());
    first.append((1..=2000).map(event)).await;
    first.close().await;
    spoil(&database(dir.path()), [1]);
    let second = world(dir.path());
    second.append((5000..5100).map(event)).await;
    eventually("something comes over", async || second.counted("event") > 100).await;
    assert!(second.disk.is_salvaging());
    second.crash(dir.path()).await;
    // The log goes into the file, and the file's header goes away.
    drop(Connection::open(database(dir.path())).unwrap().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())));
    spoil(&database(dir.path()), [1]);
    // Another moment, another name.
    tokio::time::sleep(Duration::from_millis(2)).await;
    let metrics = Arc::new(Metrics::new(&[]).unwrap());
    let settings =
        DiskSettings { path: dir.path().to_owned(), max_bytes: 1 << 30, max_dead_bytes: 1 << 30, min_free_bytes: 0 };
    let disk = Disk::open(settings, START.plus(Duration::from_secs(60)), metrics.clone()).unwrap().disk;
    let third = World { spool: Spool::new(disk.clone()), disk, metrics };
    assert_eq!(third.metrics.spool_salvage_files.get().max(2), 2);
    third.salvaged().await;
    assert_eq!(kept(dir.path()).len(), 2);
    let expected: BTreeSet<EventId> = (1..=2000).chain(5000..5100).map(|number| event(number).id).collect();
    let due = third.due().await;
    assert_eq!(due.len(), expected.len());
    assert_eq!(due, expected);
}

#[tokio::test]
async fn a_damaged_record_in_the_middle_of_a_drain_stops_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let first = world(dir.path());
    first.append((1..=300).map(event)).await;
    first.close().await;
    let world = world(dir.path());
    let spoiler = Connection::open(database(dir.path())).unwrap();
    spoiler.busy_timeout(PATIENCE).unwrap();
    let mut delivered = BTreeSet::new();
    while let Some(id) = world.spool.due("veedeo", START.plus(DAY), 1).await.unwrap().ids.first().copied() {
        if delivered.len() == 100 {
            let changed = spoiler
                .execute("UPDATE payloads SET body = zeroblob(length(body)) WHERE seq IN (201, 202, 250)", [])
                .unwrap();
            assert_eq!(changed, 3);
        }
        match world.spool.load(id).await.unwrap() {
            Some(stored) => {
                delivered.insert(id);
                let mark = Mark::new(&stored.event, START.plus(DAY));
                let (more, settled) = tokio::join!(
                    world.spool.append(pending(event(10_000 + u32::try_from(delivered.len()).unwrap())), None),
                    world.spool.settle(id, Settlement::Accepted { mark })
                );
                more.unwrap();
                settled.unwrap();
            }
            None => assert!(!world.due().await.contains(&id), "set aside"),
        }
        if delivered.len() == 400 {
            break;
        }
    }
    let missing: Vec<u32> = (1..=300).filter(|number| !delivered.contains(&event(*number).id)).collect();
    assert_eq!(missing, [201, 202, 250]);
    assert_eq!(world.damage_counted(), 3);
    let damaged = Filter { state: Some(State::Damaged), ..Filter::default() };
    assert_eq!(world.spool.count(damaged).await.unwrap(), 3);
    assert_eq!(kept(dir.path()), [] as [PathBuf; 0], "one record is no reason to doubt the file");
}

#[tokio::test]
async fn a_damaged_file_that_cannot_be_opened_is_looked_at_again_by_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).await;
    let aside = dir.path().join("hookgate.db.damaged-1760000000000");
    let word = dir.path().join("hookgate.db.damaged-1760000000000.unsalvaged");
    let elsewhere = dir.path().join("elsewhere");
    std::fs::rename(dir.path().join("hookgate.db"), &elsewhere).unwrap();
    std::fs::File::create(&word).unwrap();
    // A socket is opened by nobody, whoever he is.
    let socket = std::os::unix::net::UnixListener::bind(&aside).unwrap();
    let first = world(dir.path());
    first.salvaged().await;
    assert!(word.exists());
    assert_eq!((first.metrics.spool_salvage_files.get(), first.due().await.len()), (1, 0));
    first.close().await;
    // As if it had been delivered from memory while the file was being looked for.
    let settled = event(51).id;
    let database = Connection::open(database(dir.path())).unwrap();
    let told = database.execute("INSERT INTO salvage_settled (id) VALUES (?1)", [settled.0.as_bytes()]);
    assert_eq!(told.unwrap(), 1);
    drop(database);
    let second = world(dir.path());
    second.salvaged().await;
    second.close().await;
    drop(socket);
    std::fs::rename(&elsewhere, &aside).unwrap();
    let third = world(dir.path());
    third.salvaged().await;
    assert!(!word.exists());
    let mut expected = undelivered();
    assert!(expected.remove(&settled));
    assert_eq!((third.metrics.spool_salvage_files.get(), third.due().await), (0, expected));
    third.close().await;
}

//! Who keeps house, in a thread of its own: it brings the write-ahead log into the database off the commit path, and fills the
//! filter of the marks. It never writes an event, and nobody waits for it but the close of the disk.
//!
//! A commit that is written over an older log takes two thirds of the time of one that makes the log longer
//! (docs/PERFORMANCE.md): its blocks are there, and the sync has less to note in the file system. So the log is brought in
//! while nobody writes.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::Instant;

use super::engine::{Engine, Moment, Worker};
use super::fault::Trouble;
use super::marks::Marks;
use super::salvage::Rescue;
use super::{damage, schema};
use crate::telemetry::Metrics;

/// Pages in the write-ahead log at which a checkpoint is worth its two syncs: 16 MiB.
const CHECKPOINT_PAGES: i32 = 4096;
/// Pages beyond which the log is begun anew: 64 MiB. Behind a reader that does not end it grows on: a commit that waits
/// is worse than a long log.
const RESTART_PAGES: i32 = 16_384;
/// How long that waits for a moment between two commits; behind a reader the writer waits with it for as long.
const RESTART_PATIENCE: Duration = Duration::from_millis(20);
/// Length of a log that is worth cutting when there is nothing else to do: 4 MiB.
const CUT_BYTES: u64 = 4 << 20;
/// Pages in a log that is worth bringing in when there is nothing else to do, so that it need not grow to that: 2 MiB.
const REST_PAGES: i32 = 512;
/// Slots the smallest filter of marks has room for; 1.3 MB.
const SMALLEST_FILTER: u64 = 1 << 20;
/// Shortest time between two attempts to fill the filter anew: each reads all the marks on disk.
const FILL_EVERY: Duration = Duration::from_secs(1);
/// Tasks that may wait; a checkpoint that is already asked for need not be asked for again.
const TASKS: usize = 4;

/// What the thread is told.
#[derive(Clone, Copy, Debug)]
enum Task {
    Checkpoint,
    Rest,
    FillFilter,
    End,
}

/// The writer's end of it.
#[derive(Debug)]
pub(super) struct Nudge {
    watch: LogWatch,
    marks: Arc<Marks>,
    asked_to_fill: Option<Instant>,
    worker: Option<Worker>,
}

/// Sees the write-ahead log grow with each commit.
#[derive(Clone, Debug)]
pub(super) struct LogWatch {
    tasks: Sender<Task>,
    /// Pages at which the next checkpoint is due. Raised by the keeper, lowered here when the log starts anew.
    due: Arc<AtomicI32>,
    /// Pages in the log since it was begun anew, as of the last commit. Written here alone.
    pages: Arc<AtomicI32>,
    checkpoint_pages: i32,
}

impl LogWatch {
    /// Watches the commits of `conn`.
    pub(super) fn attach(&self, conn: &mut Connection) -> rusqlite::Result<()> {
        let watch = self.clone();
        // The log of a connection that is opened anew is empty, or soon will be.
        watch.due.store(CHECKPOINT_PAGES, Ordering::Relaxed);
        watch.pages.store(0, Ordering::Relaxed);
        let mut before = 0;
        conn.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, pages: i32| {
            if pages < before {
                watch.due.store(watch.checkpoint_pages, Ordering::Relaxed);
            }
            before = pages;
            watch.pages.store(pages, Ordering::Relaxed);
            if pages >= watch.due.load(Ordering::Relaxed) {
                watch.ask(Task::Checkpoint);
            }
            Ok(())
        }))
    }

    /// One that nobody listens to.
    #[cfg(test)]
    pub(super) fn of_nobody() -> Self {
        let tasks = channel(1).0;
        Self { tasks, due: Arc::default(), pages: Arc::default(), checkpoint_pages: CHECKPOINT_PAGES }
    }

    fn ask(&self, task: Task) {
        if self.tasks.try_send(task).is_err() {
            tracing::trace!("the keeper of the disk has enough to do");
        }
    }
}

impl Nudge {
    /// Starts the thread. It fills the filter first.
    pub(super) fn start(
        engine: &Engine,
        file: PathBuf,
        marks: Arc<Marks>,
        rescue: Arc<Rescue>,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<Self> {
        let (sender, tasks) = channel(TASKS);
        let checkpoint_pages = engine.checkpoint_pages(CHECKPOINT_PAGES);
        let due = Arc::new(AtomicI32::new(checkpoint_pages));
        let watch = LogWatch { tasks: sender, due, pages: Arc::default(), checkpoint_pages };
        watch.ask(Task::FillFilter);
        let keeper = Keeper {
            engine: engine.clone(),
            file,
            marks: marks.clone(),
            metrics,
            due: watch.due.clone(),
            pages: watch.pages.clone(),
            checkpoint_pages,
            rescue,
        };
        let worker = engine.start("disk-keeper", keeper.run(tasks))?;
        Ok(Self { watch, marks, asked_to_fill: None, worker: Some(worker) })
    }

    pub(super) fn watch(&self) -> LogWatch {
        self.watch.clone()
    }

    /// Nothing else is to do: has the log brought in.
    pub(super) fn rest(&self) {
        self.watch.ask(Task::Rest);
    }

    /// Has the filter filled anew if there is none, or one too full to be of use. That waits for no rest: where events never stop coming
    /// there is none, and each of them would be looked for on disk.
    pub(super) fn see_to_filter(&mut self) {
        let is_soon = self.asked_to_fill.is_some_and(|asked| asked.elapsed() < FILL_EVERY);
        if !is_soon && !self.marks.have_a_useful_filter() {
            self.asked_to_fill = Some(Instant::now());
            self.watch.ask(Task::FillFilter);
        }
    }

    /// Ends it and waits for that. If it is not told to end, it ends when nobody is left to ask for anything.
    pub(super) async fn end(&mut self) {
        let told = self.watch.tasks.send(Task::End).await.is_ok();
        if let Some(worker) = self.worker.take().filter(|_| told) {
            worker.ended().await;
        }
    }
}

struct Keeper {
    engine: Engine,
    file: PathBuf,
    marks: Arc<Marks>,
    metrics: Arc<Metrics>,
    due: Arc<AtomicI32>,
    pages: Arc<AtomicI32>,
    checkpoint_pages: i32,
    rescue: Arc<Rescue>,
}

impl Keeper {
    async fn run(self, mut tasks: Receiver<Task>) {
        while let Some(task) = tasks.recv().await {
            self.engine.pass(Moment::Keep).await;
            let done = match task {
                Task::Checkpoint => self.checkpoint(),
                Task::Rest => self.rest(),
                // It was asked for again while it was being filled.
                Task::FillFilter if self.marks.have_a_useful_filter() => Ok(()),
                Task::FillFilter => {
                    let smallest = self.engine.smallest_filter(SMALLEST_FILTER);
                    self.rescue.door.reader().and_then(|(conn, _)| self.marks.fill_filter(&conn, smallest))
                }
                Task::End => return,
            };
            if let Err(error) = done {
                if Trouble::of(&error) == Trouble::Damage {
                    self.rescue.suspect(&error.to_string());
                }
                self.metrics.spool_errors_total.with_label_values(&["checkpoint"]).inc();
                tracing::warn!(%error, ?task, "keeping the spool's file in order failed; it is tried again");
            }
        }
    }

    /// Copies what readers and writer do not hinder. A long log is begun anew: the writer waits while the little is copied
    /// that has come since, and for nobody else.
    /// By a connection of its own each time: none holds on to a file that was put aside.
    fn checkpoint(&self) -> rusqlite::Result<()> {
        let conn = self.rescue.door.checkpointer()?;
        let pages = copy(&conn)?;
        self.due.store(pages.saturating_add(self.checkpoint_pages), Ordering::Relaxed);
        if pages >= RESTART_PAGES {
            copy(&conn)?;
            conn.busy_timeout(RESTART_PATIENCE)?;
            let restarted = schema::restart_log(&conn)?;
            tracing::debug!(pages, ?restarted, "the write-ahead log was long");
        }
        Ok(())
    }

    /// Brings a log in that nobody adds to, so that the next commits are written over it. The space of a long one goes back to
    /// the file system.
    fn rest(&self) -> rusqlite::Result<()> {
        let log = damage::with_suffix(&self.file, "-wal");
        let is_long = std::fs::metadata(log).map_or(0, |log| log.len()) >= CUT_BYTES;
        if !is_long && self.pages.load(Ordering::Relaxed) < REST_PAGES {
            return Ok(());
        }
        let conn = self.rescue.door.checkpointer()?;
        copy(&conn)?;
        if is_long {
            schema::empty_log(&conn)?;
        }
        Ok(())
    }
}

/// Copies what stands in the log and hinders nobody. Yields the pages in the log.
fn copy(conn: &Connection) -> rusqlite::Result<i32> {
    conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get(1))
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::disk::marks::{Mark, MarkKind};
    use crate::disk::writer::IDLE;
    use crate::disk::{Disk, DiskSettings, Surroundings};
    use crate::domain::key::EventKey;
    use crate::domain::time::Timestamp;

    const START: Timestamp = Timestamp::from_seconds(1_760_000_000);

    #[derive(Debug)]
    struct AtOnce;

    #[async_trait]
    impl Surroundings for AtOnce {
        fn boot(&self) -> Option<String> {
            None
        }

        fn checkpoint_pages(&self) -> i32 {
            CHECKPOINT_PAGES
        }

        async fn pass(&self, _: Moment) {}
    }

    /// A disk in time that stands still while anything can be done.
    fn disk(folder: &std::path::Path) -> Disk {
        let path = folder.to_owned();
        let settings = DiskSettings { path, max_bytes: u64::MAX, max_dead_bytes: u64::MAX, min_free_bytes: 0 };
        Disk::open_on(Engine::Tasks(Arc::new(AtOnce)), settings, START, Arc::new(Metrics::new(&[]).unwrap()))
            .unwrap()
            .disk
    }

    /// Writes so much over what was written before, and yields the length of the log.
    async fn write(disk: &Disk, folder: &std::path::Path, mebibytes: i64) -> u64 {
        let sql = "INSERT OR REPLACE INTO meta (key, value) VALUES ('much', randomblob(100 + ?1))";
        let written = disk.durable(0, move |tx| Ok(tx.conn.execute(sql, [mebibytes << 20])?)).await;
        assert_eq!(written, Ok(1));
        log(folder)
    }

    fn log(folder: &std::path::Path) -> u64 {
        std::fs::metadata(folder.join("hookgate.db-wal")).unwrap().len()
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_after_a_rest_is_written_over_the_log_and_a_long_one_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        let (disk, folder) = (disk(folder.path()), folder.path());
        let first = write(&disk, folder, 3).await;
        assert!((3 << 20..CUT_BYTES).contains(&first), "{first}");
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(log(folder), first, "its blocks are kept");
        assert_eq!(write(&disk, folder, 1).await, first, "and written over");
        assert_eq!(write(&disk, folder, 1).await, first, "there is room behind it");
        let grown = write(&disk, folder, 2).await;
        assert!(grown > CUT_BYTES, "without a rest it grows: {grown}");
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(log(folder), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_log_is_not_brought_in_at_every_rest() {
        let folder = tempfile::tempdir().unwrap();
        let (disk, folder) = (disk(folder.path()), folder.path());
        let mut before = 0;
        for _ in 0..3 {
            let now = write(&disk, folder, 0).await;
            assert!(now > before, "{now} after {before}: it costs two syncs, and there is little to win");
            before = now;
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_filter_grows_with_what_it_is_to_know_where_events_never_stop_coming() {
        let folder = tempfile::tempdir().unwrap();
        let disk = disk(folder.path());
        let key = |number: u128| {
            let slot = number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_be_bytes();
            EventKey { slot, fingerprint: [1; 16] }
        };
        let expires_at = START.plus(Duration::from_secs(86_400));
        for number in 0..200 {
            disk.put_mark(Mark { key: key(number), kind: MarkKind::Processed, expires_at }, START);
            tokio::time::sleep(IDLE / 2).await;
        }
        let asked = (1_000..2_000).filter(|number| disk.recall_at_once(key(*number), START).is_none()).count();
        assert!(asked < 100, "the disk has to be asked for {asked} of 1,000 events that are new");
        for number in 0..200 {
            let recall = disk.recall(key(number), START).await.unwrap();
            assert_eq!(recall.same, Some((MarkKind::Processed, expires_at)), "{number}");
        }
    }
}

//! Who keeps house, in a thread of its own: it brings the write-ahead log into the database off the commit path, and fills the
//! filter of the marks. It never writes an event, and nobody waits for it but the close of the disk.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::mpsc::{Receiver, Sender, channel};

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
/// Slots the smallest filter of marks has room for; 1.3 MB.
const SMALLEST_FILTER: u64 = 1 << 20;
/// Tasks that may wait; a checkpoint that is already asked for need not be asked for again.
const TASKS: usize = 4;

/// What the thread is told.
#[derive(Clone, Copy, Debug)]
enum Task {
    Checkpoint,
    Cut,
    FillFilter,
    End,
}

/// The writer's end of it.
#[derive(Debug)]
pub(super) struct Nudge {
    watch: LogWatch,
    marks: Arc<Marks>,
    worker: Option<Worker>,
}

/// Sees the write-ahead log grow with each commit.
#[derive(Clone, Debug)]
pub(super) struct LogWatch {
    tasks: Sender<Task>,
    /// Pages at which the next checkpoint is due. Raised by the keeper, lowered here when the log starts anew.
    due: Arc<AtomicI32>,
    checkpoint_pages: i32,
}

impl LogWatch {
    /// Watches the commits of `conn`.
    pub(super) fn attach(&self, conn: &mut Connection) -> rusqlite::Result<()> {
        let watch = self.clone();
        // The log of a connection that is opened anew is empty, or soon will be.
        watch.due.store(CHECKPOINT_PAGES, Ordering::Relaxed);
        let mut before = 0;
        conn.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, pages: i32| {
            if pages < before {
                watch.due.store(watch.checkpoint_pages, Ordering::Relaxed);
            }
            before = pages;
            if pages >= watch.due.load(Ordering::Relaxed) {
                watch.ask(Task::Checkpoint);
            }
            Ok(())
        }))
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
        let watch = LogWatch { tasks: sender, due: Arc::new(AtomicI32::new(checkpoint_pages)), checkpoint_pages };
        watch.ask(Task::FillFilter);
        let keeper = Keeper {
            engine: engine.clone(),
            file,
            marks: marks.clone(),
            metrics,
            due: watch.due.clone(),
            checkpoint_pages,
            rescue,
        };
        let worker = engine.start("disk-keeper", keeper.run(tasks))?;
        Ok(Self { watch, marks, worker: Some(worker) })
    }

    pub(super) fn watch(&self) -> LogWatch {
        self.watch.clone()
    }

    /// Nothing else is to do: has the log cut, and the filter filled anew if it has become too full to be of use.
    pub(super) fn look(&self) {
        self.watch.ask(Task::Cut);
        if self.marks.filter_is_full() {
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
    checkpoint_pages: i32,
    rescue: Arc<Rescue>,
}

impl Keeper {
    async fn run(self, mut tasks: Receiver<Task>) {
        while let Some(task) = tasks.recv().await {
            self.engine.pass(Moment::Keep).await;
            let done = match task {
                Task::Checkpoint => self.checkpoint(),
                Task::Cut => self.cut(),
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

    /// Gives the log's space back to the file system.
    fn cut(&self) -> rusqlite::Result<()> {
        let log = damage::with_suffix(&self.file, "-wal");
        if std::fs::metadata(log).map_or(0, |log| log.len()) < CUT_BYTES {
            return Ok(());
        }
        let conn = self.rescue.door.checkpointer()?;
        copy(&conn)?;
        schema::empty_log(&conn).map(|_| ())
    }
}

/// Copies what stands in the log and hinders nobody. Yields the pages in the log.
fn copy(conn: &Connection) -> rusqlite::Result<i32> {
    conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get(1))
}

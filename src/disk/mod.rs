//! The disk: one `SQLite` file, one thread that writes it, a few connections that read it. Floor 1: it knows what an
//! event is and nothing of deliveries, claims or configuration. `rusqlite` is named in this folder alone.
//!
//! | file | holds |
//! |---|---|
//! | `open` | directory, lock, damage found at the start, what the last run left |
//! | `schema`, `meta` | the tables; the file's memory of itself |
//! | `damage`, `carve`, `salvage`, `takeover` | a damaged file: put aside, read without `SQLite`, taken over |
//! | `writer`, `batch`, `job`, `health` | group commit; what a job is; what happens when the disk fails |
//! | `keeper`, `upkeep` | checkpoints off the commit path; syncing, pages given back |
//! | `engine` | threads, or the tasks of a simulation |
//! | `door` | who opens the file while the writer may put it aside |
//! | `readers`, `inspect` | reads with a deadline; reads of a command, which is no gateway |
//! | `books`, `space` | totals in memory; whether an event fits |
//! | `records`, `query`, `jobs` | the statements |
//! | `marks`, `unwritten`, `filter` | the dedup table in memory |
//! | `packed`, `runs`, `merge` | the dedup table on disk |
//!
//! Bounds: `QUEUE` jobs wait for the writer; past that a job is refused at once. `spool_commit_duration_seconds` shows
//! it coming, `spool_errors_total{op="commit"}` that it has come.

mod batch;
mod books;
mod carve;
mod damage;
mod door;
mod engine;
mod fault;
mod filter;
mod health;
mod inspect;
mod job;
mod jobs;
mod keeper;
mod lock;
mod marks;
mod merge;
mod meta;
mod open;
mod packed;
mod query;
mod readers;
mod records;
mod runs;
mod salvage;
mod schema;
mod space;
mod takeover;
mod unwritten;
mod upkeep;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;

use self::batch::Order;
use self::books::Books;
use self::job::{Awaited, Job, Unawaited, Undo};
use self::marks::{Marks, WriteMarks, Writing};
use self::readers::{Damage, Readers};
use self::salvage::Rescue;
use self::writer::Message;
use crate::domain::key::EventKey;
use crate::domain::time::Timestamp;
use crate::telemetry::Metrics;

pub use self::books::{RouteTotals, Totals};
pub use self::engine::{Engine, Moment, Surroundings};
pub use self::fault::{DiskFault, JobFault};
pub use self::inspect::{Brief, Kept, ReadOnly};
pub use self::job::Tx;
pub use self::marks::{Mark, MarkKind, Recall};
pub use self::query::{EventRow, PayloadRow, Selection};
pub use self::readers::Rx;
pub use self::records::{Appended, Found, NewRow, NewState};
pub use self::space::free_bytes;

/// Jobs that may wait for the writer: some four transactions.
const QUEUE: usize = 4096;

/// Longest read that a delivery or a claim waits for.
const READ: Duration = Duration::from_secs(2);

/// Where the spool is and how large it may grow.
#[derive(Clone, Debug)]
pub struct DiskSettings {
    /// Its directory: created if it is missing, for us alone.
    pub path: PathBuf,
    /// `spool.max_bytes`.
    pub max_bytes: u64,
    /// `spool.max_dead_bytes`.
    pub max_dead_bytes: u64,
    /// `spool.min_free_bytes`.
    pub min_free_bytes: u64,
}

/// How the last run on this spool ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreviousStop {
    /// There was none.
    First,
    /// It left nothing half-way.
    Clean,
    /// It was killed, or the machine stopped.
    Unclean {
        /// It ended before this moment.
        stopped_before: Timestamp,
    },
}

/// An open disk and what opening it found.
#[derive(Debug)]
pub struct Opened {
    /// The disk.
    pub disk: Disk,
    /// How the last run ended.
    pub previous: PreviousStop,
}

/// The open disk. Cloning shares it. When the last one is dropped without [`Disk::close`] the writer finishes what is
/// queued and the next start finds an unclean stop.
#[derive(Clone, Debug)]
pub struct Disk(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    jobs: Sender<Message>,
    readers: Readers,
    books: Arc<Books>,
    marks: Arc<Marks>,
    metrics: Arc<Metrics>,
    commits: Arc<AtomicU64>,
    doubtful_through: i64,
    rescue: Arc<Rescue>,
}

impl Disk {
    /// Opens the spool directory for this process alone; creates what is missing. Blocks; for the start.
    pub fn open(settings: DiskSettings, now: Timestamp, metrics: Arc<Metrics>) -> Result<Opened, DiskFault> {
        Self::open_on(Engine::Threads, settings, now, metrics)
    }

    /// As [`Disk::open`], on threads or inside a simulation.
    pub fn open_on(
        engine: Engine,
        settings: DiskSettings,
        now: Timestamp,
        metrics: Arc<Metrics>,
    ) -> Result<Opened, DiskFault> {
        open::open(engine, settings, now, metrics)
    }

    /// Does `work` in a transaction and answers when it is on stable storage. `weight`: about how many bytes it writes.
    ///
    /// If the future is dropped before the work was begun, nothing is done; later, it is done all the same.
    pub async fn durable<T, F>(&self, weight: usize, work: F) -> Result<T, JobFault>
    where
        F: FnOnce(&mut Tx<'_>) -> Result<T, JobFault> + Send + 'static,
        T: Send + 'static,
    {
        self.ask(job::Urgency::Durable, Undo::Savepoint, weight, work).await
    }

    /// Writes an event, with its dedup mark if given, and answers when both are on stable storage.
    ///
    /// If the future is dropped before the work was begun, nothing is written; later, it is written all the same.
    pub async fn append(&self, row: NewRow, mark: Option<Mark>) -> Result<(), JobFault> {
        let weight = row.size();
        let work = move |tx: &mut Tx<'_>| {
            if let Some(mark) = &mark {
                tx.put_mark(mark);
            }
            tx.insert(&row)
        };
        self.ask(job::Urgency::Durable, Undo::Nothing, weight, work).await
    }

    /// As [`Disk::append`], of an event of which nobody could say before whether it was processed: if the table says so by now,
    /// nothing is written. If it still cannot be read the event is.
    ///
    /// The table is read beforehand: a read that fails within a transaction takes it along, with what others have written in it.
    /// What is marked meanwhile is in memory, unless marks are merged just then: the event is then kept, flagged.
    pub async fn append_unless_processed(&self, row: NewRow, mark: Mark, now: Timestamp) -> Result<Appended, JobFault> {
        match self.recall(mark.key, now).await {
            Ok(recall) if recall.is_certain() => return Ok(Appended::ProcessedBefore),
            Ok(_) => {}
            Err(JobFault::Failed(why)) => {
                tracing::warn!(why, "the dedup table cannot be read: an event is kept that may have been processed");
            }
            Err(fault) => return Err(fault),
        }
        let (weight, marks) = (row.size(), self.0.marks.clone());
        let work = move |tx: &mut Tx<'_>| {
            if tx.was_just_processed(&marks, &mark.key, now) {
                return Ok(Appended::ProcessedBefore);
            }
            tx.put_mark(&mark);
            tx.insert(&row).map(|()| Appended::Now)
        };
        self.ask(job::Urgency::Durable, Undo::Nothing, weight, work).await
    }

    /// As [`Disk::durable`], for work that nobody waits for in haste: it waits some milliseconds for others to share a sync
    /// with. It fails before it has written anything: later, it takes the whole transaction along.
    pub async fn durable_with_others<T, F>(&self, work: F) -> Result<T, JobFault>
    where
        F: FnOnce(&mut Tx<'_>) -> Result<T, JobFault> + Send + 'static,
        T: Send + 'static,
    {
        self.ask(job::Urgency::Patient, Undo::Nothing, 0, work).await
    }

    /// Does `work` in a transaction and answers when it is committed, which a kill of the process does not undo.
    /// `work` fails before it has written anything: later, it takes the whole transaction along.
    ///
    /// If the future is dropped before the work was begun, nothing is done; later, it is done all the same.
    pub async fn prompt<T, F>(&self, work: F) -> Result<T, JobFault>
    where
        F: FnOnce(&mut Tx<'_>) -> Result<T, JobFault> + Send + 'static,
        T: Send + 'static,
    {
        self.ask(job::Urgency::Prompt, Undo::Nothing, 0, work).await
    }

    /// Has `work` done some time. A failure is logged as `what`.
    pub fn lazily<F>(&self, what: &'static str, work: F)
    where
        F: FnOnce(&mut Tx<'_>) -> Result<(), JobFault> + Send + 'static,
    {
        if let Err(fault) = self.queue(Box::new(Unawaited::new(what, work)), job::Urgency::Lazy, Undo::Savepoint, 0) {
            tracing::warn!(what, %fault, "a job on the disk that nobody waits for was not done");
        }
    }

    /// Reads, within `patience`, what is committed.
    pub async fn read_within<T, F>(&self, patience: Duration, work: F) -> Result<T, JobFault>
    where
        F: FnOnce(&Rx<'_>) -> Result<T, JobFault> + Send + 'static,
        T: Send + 'static,
    {
        self.0.readers.read(patience, Damage::Files, work).await
    }

    /// Reads one record, within two seconds. That it is damaged is no reason to doubt the file.
    pub async fn read_record<T, F>(&self, work: F) -> Result<T, JobFault>
    where
        F: FnOnce(&Rx<'_>) -> Result<T, JobFault> + Send + 'static,
        T: Send + 'static,
    {
        self.0.readers.read(READ, Damage::Records, work).await
    }

    /// Reads, within two seconds, what is committed.
    pub async fn read<T, F>(&self, work: F) -> Result<T, JobFault>
    where
        F: FnOnce(&Rx<'_>) -> Result<T, JobFault> + Send + 'static,
        T: Send + 'static,
    {
        self.read_within(READ, work).await
    }

    /// Remembers a mark at once, in memory, and has it written.
    pub fn put_mark(&self, mark: Mark, now: Timestamp) {
        if self.0.marks.put(mark, now) == Writing::MustBeAsked {
            self.write_marks(now);
        }
    }

    /// What the dedup table says about an event. Nearly always from memory; never behind a sync.
    pub async fn recall(&self, key: EventKey, now: Timestamp) -> Result<Recall, JobFault> {
        let (mut recall, disk) = self.0.marks.recall(&key, now);
        match disk {
            marks::Disk::NeedNotBeAsked => Ok(recall),
            marks::Disk::MustBeAsked => {
                self.read(move |rx| {
                    rx.recall(&key, now, &mut recall)?;
                    Ok(recall)
                })
                .await
            }
        }
    }

    /// The same where memory says it all; `None`: the disk has to be asked.
    #[must_use]
    pub fn recall_at_once(&self, key: EventKey, now: Timestamp) -> Option<Recall> {
        match self.0.marks.recall(&key, now) {
            (recall, marks::Disk::NeedNotBeAsked) => Some(recall),
            (_, marks::Disk::MustBeAsked) => None,
        }
    }

    /// Deletes a mark. Says whether there was one, live or expired.
    pub async fn forget_mark(&self, key: EventKey) -> Result<Found, JobFault> {
        let in_memory = self.0.marks.forget(&key);
        let on_disk = self.durable(0, move |tx| tx.delete_mark(&key)).await?;
        Ok(if in_memory || on_disk { Found::Yes } else { Found::No })
    }

    /// What is on the disk, from memory.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.0.books.totals()
    }

    /// What is on the disk of one route, from memory.
    #[must_use]
    pub fn route_totals(&self, route: &str) -> RouteTotals {
        self.0.books.route(route)
    }

    /// Transactions committed since the start.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.0.commits.load(Ordering::Relaxed)
    }

    /// Undelivered events up to this sequence number may have been sent before a crash of the machine.
    #[must_use]
    pub fn doubtful_through(&self) -> i64 {
        self.0.doubtful_through
    }

    /// The metrics that the disk counts in.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.0.metrics
    }

    /// Finishes what is queued, writes the mark of a clean stop and gives the lock back. Jobs that come later fail.
    ///
    /// Waits for the disk as long as it takes: the caller sets the deadline. If the future is dropped it goes on.
    pub async fn close(&self) -> Result<(), JobFault> {
        self.0.rescue.close();
        self.0.readers.close();
        let (closed, answer) = oneshot::channel();
        // The queue is bounded and drains: a place in it comes, or the caller's deadline does.
        self.0.jobs.send(Message::Close(closed)).await.map_err(|_| ended())?;
        answer.await.unwrap_or_else(|_| Err(ended()))
    }

    fn write_marks(&self, now: Timestamp) {
        let job = WriteMarks::new(self.0.marks.clone(), now);
        if self.queue(Box::new(job), job::Urgency::Lazy, Undo::Savepoint, 0).is_err() {
            self.0.marks.not_asked();
        }
    }

    async fn ask<T, F>(&self, urgency: job::Urgency, undo: Undo, weight: usize, work: F) -> Result<T, JobFault>
    where
        F: FnOnce(&mut Tx<'_>) -> Result<T, JobFault> + Send + 'static,
        T: Send + 'static,
    {
        let (job, answer) = Awaited::new(work);
        self.queue(Box::new(job), urgency, undo, weight)?;
        answer.await.unwrap_or_else(|_| Err(ended()))
    }

    fn queue(&self, job: Box<dyn Job>, urgency: job::Urgency, undo: Undo, weight: usize) -> Result<(), JobFault> {
        let order = Message::Job(Order { job, urgency, undo, weight });
        self.0.jobs.try_send(order).map_err(|refused| {
            self.0.metrics.spool_errors_total.with_label_values(&["commit"]).inc();
            match refused {
                TrySendError::Full(_) => JobFault::Failed(format!("{QUEUE} jobs wait for the disk already")),
                TrySendError::Closed(_) => ended(),
            }
        })
    }
}

fn ended() -> JobFault {
    JobFault::Failed("the spool is closed".to_owned())
}

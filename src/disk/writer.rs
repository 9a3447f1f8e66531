//! The one thread that writes. It commits whatever has queued up, in one transaction, and answers after the commit.
//!
//! A job that may fail half-way has a savepoint, so that one that fails spoils no other. A transaction with a durable job
//! is synced (`synchronous=FULL`), one without is not. Whoever waits for an event to be on disk is answered first. How long
//! jobs wait for others to share a commit with is `batch.rs`'s.
//!
//! When a commit fails its jobs are told so, and the connection is opened anew and its write-ahead log brought into
//! the database: what an fsync has failed on is written again, never synced again. See `health.rs` for what follows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc::Receiver;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::batch::{Batch, Order};
use super::books::Books;
use super::engine::{Engine, Moment};
use super::fault::{JobFault, Trouble};
use super::health::Health;
use super::job::{Draft, Tx, Undo, Urgency};
use super::keeper::Nudge;
use super::lock::Lock;
use super::marks::{Marks, WriteMarks};
use super::merge::Tend;
use super::readers::Readers;
use super::salvage::Rescue;
use super::schema::Emptied;
use super::space::Space;
use super::upkeep::{Given, give_back, sync_for};
use super::{records, runs};
use crate::domain::time::Timestamp;
use crate::telemetry::Metrics;

/// How long nothing is asked of the thread before it looks for chores; between two of them too.
pub(super) const IDLE: Duration = Duration::from_secs(1);
/// Shortest time between two attempts to give the write-ahead log's space back to a full disk.
const MAKE_ROOM: Duration = Duration::from_secs(1);
/// How long the log may be in use by others before it is left to the next start as it is.
const LAST_WORD: Duration = Duration::from_millis(200);
/// The pause between two steps of a chore that is not done yet.
const BREATH: Duration = Duration::from_millis(10);

/// What the thread is told.
pub(super) enum Message {
    Job(Order),
    /// Finish what is queued, write the mark of a clean stop, and end.
    Close(oneshot::Sender<Result<(), JobFault>>),
}

/// The thread's state. Owned by the thread; nothing in it is shared but the books, the metrics and the counter.
pub(super) struct Writer {
    pub(super) engine: Engine,
    pub(super) health: Health,
    pub(super) jobs: Receiver<Message>,
    pub(super) books: Arc<Books>,
    pub(super) space: Space,
    pub(super) next_seq: i64,
    pub(super) metrics: Arc<Metrics>,
    pub(super) commits: Arc<AtomicU64>,
    pub(super) marks: Arc<Marks>,
    pub(super) nudge: Nudge,
    pub(super) readers: Readers,
    pub(super) rescue: Arc<Rescue>,
    /// The level of `synchronous` in force.
    pub(super) synced: Option<&'static str>,
    pub(super) last_lazy: Option<Instant>,
    /// How long nothing must be asked before the next chore.
    pub(super) pause: Duration,
    pub(super) made_room: Option<Instant>,
    /// Routes whose oldest event the last commit may have removed.
    pub(super) unsure: Vec<Arc<str>>,
    /// Whether there may be something to do when nothing is asked.
    pub(super) chores: bool,
    /// Dropped last: the lock outlives every connection of this thread.
    pub(super) lock: Lock,
}

/// What collecting jobs gave.
enum Collected {
    Orders(Vec<Order>, Option<oneshot::Sender<Result<(), JobFault>>>),
    Nothing,
    Ended,
}

impl Writer {
    /// Runs until it is told to close, or until nobody is left who could ask anything.
    pub(super) async fn run(mut self) {
        loop {
            match self.collect().await {
                Collected::Orders(orders, close) => {
                    self.commit(orders).await;
                    if let Some(closed) = close {
                        return self.close(closed).await;
                    }
                    if self.marks.are_left() && !self.health.has_failed() {
                        self.write_waiting_marks().await;
                    }
                    self.tend_marks().await;
                }
                Collected::Nothing => self.idle().await,
                Collected::Ended => return self.nudge.end().await,
            }
        }
    }

    /// Waits for a job, then takes everything that has queued up, within the bounds of a transaction.
    async fn collect(&mut self) -> Collected {
        let first = if self.chores {
            match tokio::time::timeout(self.pause, self.jobs.recv()).await {
                Ok(first) => first,
                Err(_) => return Collected::Nothing,
            }
        } else {
            self.jobs.recv().await
        };
        let Some(first) = first else { return Collected::Ended };
        let mut batch = Batch::new();
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Job(order) => batch.add(order),
                Message::Close(closed) => return Collected::Orders(batch.orders, Some(closed)),
            }
            next = if batch.is_full() { None } else { self.another(batch.rest(self.last_lazy)).await };
        }
        Collected::Orders(batch.orders, None)
    }

    /// The next message, if one comes within `pause`.
    async fn another(&mut self, pause: Duration) -> Option<Message> {
        if pause.is_zero() {
            return self.jobs.try_recv().ok();
        }
        tokio::time::timeout(pause, self.jobs.recv()).await.ok().flatten()
    }

    /// One transaction, then the answers.
    async fn commit(&mut self, mut orders: Vec<Order>) {
        orders.retain(|order| !order.job.is_abandoned());
        let Some(urgency) = orders.iter().map(|order| order.urgency).max() else { return };
        if urgency == Urgency::Lazy {
            self.last_lazy = Some(Instant::now());
        }
        self.see_to_damage();
        self.pause = IDLE;
        let mut outcomes = Vec::with_capacity(orders.len());
        let committed = self.transact(&mut orders, urgency, &mut outcomes).await;
        self.chores = true;
        self.engine.pass(Moment::Answer).await;
        if let Err(fault) = &committed {
            tracing::warn!(%fault, jobs = orders.len(), "a commit to the spool failed");
        }
        if let Some(JobFault::Damaged(what)) = outcomes.iter().find_map(|outcome| outcome.as_ref().err()) {
            self.rescue.suspect(what);
        }
        let missing = std::iter::repeat_with(|| Ok(()));
        let outcomes = outcomes.into_iter().chain(missing);
        // A sender waits for each that brings an event; nobody for the others.
        let (first, others): (Vec<_>, Vec<_>) =
            orders.into_iter().zip(outcomes).partition(|(order, _)| order.weight > 0);
        answer(first, &committed);
        self.find_oldest();
        answer(others, &committed);
        if self.space.was_tight() || matches!(committed, Err(JobFault::Full(_))) {
            self.make_room();
        }
    }

    /// The disk is full: brings the write-ahead log into the database and gives its space back. Without that a log
    /// that cannot grow to the length at which it is due would keep the drain from ever going on.
    fn make_room(&mut self) {
        if self.made_room.is_some_and(|at| at.elapsed() < MAKE_ROOM) {
            return;
        }
        self.made_room = Some(Instant::now());
        let Ok(conn) = self.health.connection(&self.metrics) else { return };
        match super::schema::empty_log(conn) {
            Ok(emptied) => tracing::debug!(?emptied, "the disk is full: the write-ahead log was brought in"),
            Err(error) => {
                tracing::warn!(%error, "the disk is full and the write-ahead log cannot be brought in");
                // What a sync has failed on is never synced again: it has to be written again.
                if Trouble::of(&error) == Trouble::Medium {
                    self.synced = None;
                    self.health.hurt(&JobFault::of(&error), &self.metrics);
                }
            }
        }
        self.space.changed();
    }

    async fn transact(
        &mut self,
        orders: &mut [Order],
        urgency: Urgency,
        outcomes: &mut Vec<Result<(), JobFault>>,
    ) -> Result<(), JobFault> {
        self.engine.pass(Moment::Begin).await;
        self.health.connection(&self.metrics)?;
        let mut draft = Draft::new(self.books.used());
        let done = match self.run_all(orders, urgency, outcomes, &mut draft) {
            Ok(()) => {
                let began = Instant::now();
                self.engine.pass(Moment::Commit).await;
                self.finish().map(|()| began.elapsed())
            }
            Err(broken) => Err(broken),
        };
        match done {
            Ok(took) => {
                self.committed(took, urgency, &draft);
                Ok(())
            }
            Err(broken) => Err(self.failed(broken)),
        }
    }

    /// Begins a transaction and does its jobs in it.
    fn run_all(
        &mut self,
        orders: &mut [Order],
        urgency: Urgency,
        outcomes: &mut Vec<Result<(), JobFault>>,
        draft: &mut Draft,
    ) -> Result<(), Broken> {
        let conn = self.health.connection(&self.metrics)?;
        sync_for(conn, urgency, &mut self.synced)?;
        conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        self.space.begins();
        let now = self.rescue.now();
        let mut tx = Tx { conn, space: &mut self.space, next_seq: &mut self.next_seq, draft, now };
        for order in orders {
            outcomes.push(run_one(order, &mut tx)?);
        }
        draft.seal();
        if !draft.marks().is_empty() && self.marks.is_overfull() {
            return Err(JobFault::Full("there is no room to merge the marks on disk".to_owned()).into());
        }
        Ok(runs::append(conn, draft.marks())?)
    }

    fn finish(&mut self) -> Result<(), Broken> {
        self.health.connection(&self.metrics)?.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    }

    fn committed(&mut self, took: Duration, urgency: Urgency, draft: &Draft) {
        self.commits.fetch_add(1, Ordering::Relaxed);
        if urgency >= Urgency::Patient {
            self.metrics.spool_commit_duration_seconds.observe(took.as_secs_f64());
        }
        self.marks.committed(&draft.forgotten(), draft.marks());
        if draft.changes().is_empty() {
            return;
        }
        self.unsure = self.books.enter(draft.changes());
    }

    /// Looks for the oldest event of each route whose oldest may have left.
    fn find_oldest(&mut self) {
        for route in std::mem::take(&mut self.unsure) {
            let Ok(conn) = self.health.connection(&self.metrics) else { return };
            match records::oldest(conn, &route) {
                Ok(oldest) => self.books.set_oldest(&route, oldest),
                Err(error) => tracing::warn!(%error, %route, "the age of the oldest pending event cannot be read"),
            }
        }
    }

    fn failed(&mut self, broken: Broken) -> JobFault {
        self.metrics.spool_errors_total.with_label_values(&["commit"]).inc();
        self.synced = None;
        if let Ok(conn) = self.health.connection(&self.metrics)
            && !conn.is_autocommit()
            && let Err(error) = conn.execute_batch("ROLLBACK")
        {
            tracing::warn!(%error, "a failed transaction could not be rolled back");
        }
        match broken.trouble {
            Trouble::NoRoom | Trouble::Busy => {}
            Trouble::Damage => self.rescue.suspect(&broken.fault.to_string()),
            Trouble::Medium => self.health.hurt(&broken.fault, &self.metrics),
        }
        broken.fault
    }

    /// Somebody has met damage that is not one record's: a fresh file takes the place of the damaged one.
    fn see_to_damage(&mut self) {
        let what = match self.rescue.suspicion() {
            Some(what) => {
                self.metrics.spool_errors_total.with_label_values(&["damage"]).inc();
                what
            }
            None if self.health.is_to_fill() => "nothing could be put in its place yet".to_owned(),
            None => return,
        };
        self.readers.let_go();
        self.synced = None;
        let replaced = self.rescue.door.replace(|| self.health.replace(&what, self.next_seq, self.rescue.now()));
        match replaced {
            Ok(aside) => {
                tracing::error!(what, kept = %aside.display(),
                    "the database is damaged and was put aside; a fresh one is in its place, and what can be read comes over");
                // Before the books are emptied: whoever finds nothing in them can see that something is to come.
                self.rescue.begin();
                self.marks.put_order(None);
                self.books.empty();
                self.space.renewed();
            }
            Err(fault) => tracing::error!(what, %fault, "the database is damaged and could not be put aside"),
        }
        // Who opens a file whose log has been put aside makes it an empty one.
        if !self.health.is_vacant()
            && let Err(error) = self.readers.take_hold()
        {
            tracing::warn!(%error, "the fresh database cannot be read yet");
        }
    }

    /// Nothing to do: writes the marks that a failed commit has left in memory, and looks after the file.
    async fn idle(&mut self) {
        if self.health.is_to_fill() {
            self.see_to_damage();
        }
        self.write_waiting_marks().await;
        self.tend_marks().await;
        self.tidy();
    }

    /// One step of keeping the marks on disk in order, if there is one. Marks that wait to be written do not wait longer.
    async fn tend_marks(&mut self) {
        self.nudge.see_to_filter();
        if !self.health.has_failed() && self.marks.want_tending() {
            let last_lazy = self.last_lazy;
            let job = Tend::new(self.marks.clone(), self.marks.now());
            self.commit(vec![Order::chore(job)]).await;
            self.last_lazy = last_lazy;
        }
    }

    async fn write_waiting_marks(&mut self) {
        if self.marks.are_waiting() {
            let job = WriteMarks::new(self.marks.clone(), Timestamp::from_millis(i64::MIN));
            self.commit(vec![Order::chore(job)]).await;
        }
    }

    /// Gives unused pages back to the file system, a step at a time, and lets a failed disk try again.
    fn tidy(&mut self) {
        let untended = self.marks.want_tending();
        self.pause = if untended { BREATH } else { IDLE };
        self.chores = self.health.has_failed() || self.marks.are_waiting() || untended;
        let Ok(conn) = self.health.connection(&self.metrics) else { return };
        match give_back(conn, &mut self.synced) {
            Ok(Given::Some) => (self.pause, self.chores) = (BREATH, true),
            Ok(Given::Nothing) => {}
            Err(error) => {
                (self.pause, self.chores) = (IDLE, true);
                tracing::debug!(%error, "unused pages were not given back");
                if Trouble::of(&error) == Trouble::Damage {
                    self.rescue.suspect(&error.to_string());
                }
            }
        }
        if self.pause == IDLE {
            self.nudge.rest();
        }
    }

    async fn close(mut self, closed: oneshot::Sender<Result<(), JobFault>>) {
        self.write_waiting_marks().await;
        // A stop that takes marks along is not a clean one: the next start has to flag what they were about.
        let marked = if self.marks.are_waiting() {
            Err(JobFault::Failed("marks could not be written".to_owned()))
        } else {
            self.mark_clean()
        };
        self.nudge.end().await;
        if let Ok(conn) = self.health.connection(&self.metrics) {
            // Who reads on, as a backup does, is not waited for: the next start would have to wait too, or somebody to whom this is
            // handed over.
            let emptied = conn.busy_timeout(LAST_WORD).and_then(|()| super::schema::empty_log(conn));
            match emptied {
                Ok(Emptied::Yes) => self.space.keep_for_a_start(),
                Ok(Emptied::InUse) => {}
                Err(error) => tracing::warn!(%error, "the write-ahead log was not emptied; the next start reads it"),
            }
        }
        self.health.hang_up();
        drop(self.lock);
        if closed.send(marked).is_err() {
            tracing::debug!("nobody waited for the spool to close");
        }
    }

    fn mark_clean(&mut self) -> Result<(), JobFault> {
        let conn = self.health.connection(&self.metrics)?;
        sync_for(conn, Urgency::Durable, &mut self.synced)?;
        let stop = format!("{:032x}", fastrand::u128(..));
        super::meta::mark_clean(conn, &stop, self.rescue.now())?;
        self.lock.note_stop(&stop).map_err(|error| JobFault::Failed(format!("the stop could not be noted: {error}")))
    }
}

/// A transaction that cannot be finished.
struct Broken {
    trouble: Trouble,
    fault: JobFault,
}

impl From<rusqlite::Error> for Broken {
    fn from(error: rusqlite::Error) -> Self {
        Self { trouble: Trouble::of(&error), fault: JobFault::of(&error) }
    }
}

impl From<JobFault> for Broken {
    fn from(fault: JobFault) -> Self {
        let trouble = match &fault {
            JobFault::Full(_) => Trouble::NoRoom,
            JobFault::Damaged(_) => Trouble::Damage,
            JobFault::Failed(_) => Trouble::Medium,
        };
        Self { trouble, fault }
    }
}

type Judged = (Order, Result<(), JobFault>);

/// Tells who waits. Those of another runtime are told there, all at once: each of them told from here would wake it anew.
fn answer(jobs: Vec<Judged>, committed: &Result<(), JobFault>) {
    let here = Handle::try_current().ok().map(|here| here.id());
    let mut elsewhere: Vec<(Handle, Vec<Judged>)> = Vec::new();
    for (order, outcome) in jobs {
        let mut judged = (order, committed.clone().and(outcome));
        let asker = judged.0.job.asker().filter(|asker| Some(asker.id()) != here).cloned();
        match asker {
            None => judged.0.job.answer(judged.1),
            Some(asker) => match elsewhere.iter_mut().find(|(other, _)| other.id() == asker.id()) {
                Some((_, theirs)) => theirs.push(judged),
                None => elsewhere.push((asker, vec![judged])),
            },
        }
    }
    for (asker, theirs) in elsewhere {
        drop(asker.spawn(async move {
            for (mut order, outcome) in theirs {
                order.job.answer(outcome);
            }
        }));
    }
}

/// Runs one job. The outer error means that the transaction is gone, the inner one only the job.
fn run_one(order: &mut Order, tx: &mut Tx<'_>) -> Result<Result<(), JobFault>, Broken> {
    let (bookmark, changes) = (tx.draft.bookmark(), tx.conn.total_changes());
    if order.undo == Undo::Savepoint {
        tx.conn.prepare_cached("SAVEPOINT job")?.execute([])?;
    }
    let outcome = order.job.run(tx);
    if let Err(fault) = &outcome {
        let half_done = order.undo == Undo::Nothing && tx.conn.total_changes() != changes;
        if half_done || tx.conn.is_autocommit() {
            // `SQLite` ends the whole transaction when it has no space, no memory or no disk.
            return Err(fault.clone().into());
        }
        tx.draft.go_back(bookmark);
    }
    if order.undo == Undo::Savepoint {
        if outcome.is_err() {
            tx.conn.prepare_cached("ROLLBACK TO job")?.execute([])?;
        }
        tx.conn.prepare_cached("RELEASE job")?.execute([])?;
    }
    Ok(outcome)
}

//! What is done about a damaged database: a fresh one takes its place at once, and what can be read of the damaged one
//! comes over in the background, in small jobs to the writer like everybody's. The damaged file is kept.
//!
//! Two passes over its pages: marks and events first, then payloads. An event waits as damaged (state 10 and up) until
//! its payload comes, so that one whose payload is lost stays seen. How far it came is written in the transaction of
//! each job: a crash repeats nothing. Every event that comes over is flagged as a possible duplicate.
//!
//! Order: while it goes on (`salvaging` is 1 in `meta`) events with an order value, the old and the new, are kept behind
//! (state 2), for an older one may still come; then the oldest of each value becomes due (`salvaging` is 2), a few
//! hundred values at a time. Other events are due as soon as their payload is there.
//!
//! Until the marks have come over nobody knows what was processed: [`Rescue::doubtful_before`].

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

use super::carve::{Carver, Row};
use super::door::Door;
use super::engine::Engine;
use super::fault::{DiskFault, JobFault};
use super::meta::{self, Progress, Recovered};
use super::takeover::More;
use super::{Disk, Inner, damage};
use crate::domain::time::Timestamp;
use crate::telemetry::Metrics;

/// Rows and bytes of one job: some milliseconds of the writer's time.
const JOB_ROWS: usize = 128;
const JOB_BYTES: usize = 512 * 1024;
/// Pages that are looked at in vain before that is written down.
const JOB_PAGES: u32 = 4096;
/// Order values that are made due in one job.
const JOB_VALUES: usize = 200;
/// The wait before a job that the disk refused is tried again.
const REST: Duration = Duration::from_secs(1);
/// How often a damaged file that cannot be opened is tried. Then it is left to the next start.
const LOOKS: u32 = 5;

/// Who knows that the database is damaged, and who sees to it. Shared by all that touch the file.
#[derive(Debug)]
pub(super) struct Rescue {
    engine: Engine,
    file: PathBuf,
    pub(super) door: Door,
    opened: (Timestamp, Instant),
    /// What somebody has met. Taken by the writer, who puts the file aside.
    suspicion: Mutex<Option<String>>,
    /// Events that happened before this moment may have been sent already; `i64::MIN`: none.
    doubt: AtomicI64,
    /// Whether something is still to come over.
    salvaging: AtomicBool,
    /// Counts the files put aside: a thread that works on an older one begins anew.
    generation: AtomicI64,
    /// One thread at a time.
    working: Mutex<Working>,
    closed: AtomicBool,
    /// Told when events have come over.
    pub(super) arrived: Notify,
    disk: OnceLock<Weak<Inner>>,
    metrics: Arc<Metrics>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Working {
    Nobody,
    Somebody,
}

impl Rescue {
    pub(super) fn new(
        engine: Engine,
        file: PathBuf,
        now: Timestamp,
        recovered: &Recovered,
        metrics: Arc<Metrics>,
    ) -> Self {
        let doubt = recovered.doubtful_before.map_or(i64::MIN, Timestamp::millis);
        Self {
            engine,
            door: Door::new(file.clone()),
            file,
            opened: (now, Instant::now()),
            suspicion: Mutex::default(),
            doubt: AtomicI64::new(doubt),
            salvaging: AtomicBool::new(recovered.salvaging),
            generation: AtomicI64::new(0),
            working: Mutex::new(Working::Nobody),
            closed: AtomicBool::new(false),
            arrived: Notify::new(),
            disk: OnceLock::new(),
            metrics,
        }
    }

    /// Now, as far as the start knew it.
    pub(super) fn now(&self) -> Timestamp {
        self.opened.0.plus(self.opened.1.elapsed())
    }

    /// Somebody has met damage that is not one record's.
    pub(super) fn suspect(&self, what: &str) {
        let mut suspicion = self.suspicion.lock().unwrap_or_else(PoisonError::into_inner);
        if suspicion.is_none() {
            *suspicion = Some(what.to_owned());
            drop(suspicion);
            // Wakes the writer, which looks before each transaction.
            if let Some(inner) = self.disk.get().and_then(Weak::upgrade) {
                Disk(inner).lazily("a look at damage", |_| Ok(()));
            }
        }
    }

    /// What somebody has met since this was last asked.
    pub(super) fn suspicion(&self) -> Option<String> {
        self.suspicion.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// A fresh file is in place of a damaged one since now.
    pub(super) fn begin(self: &Arc<Self>) {
        self.doubt.store(self.now().millis(), Ordering::Release);
        self.salvaging.store(true, Ordering::Release);
        if let Err(fault) = self.count_files() {
            tracing::warn!(%fault, "damaged files cannot be counted yet");
            self.metrics.spool_salvage_files.set(1);
        }
        self.generation.fetch_add(1, Ordering::AcqRel);
        // What was met meanwhile was met in the damaged file.
        drop(self.suspicion());
        self.start(damage::LogLost::No);
    }

    /// The disk is open: goes on with what is not salvaged yet, and looks at a database that has lost its log.
    pub(super) fn attach(self: &Arc<Self>, disk: &Disk, lost: damage::LogLost) {
        // Set once, by the one who opens the disk.
        drop(self.disk.set(Arc::downgrade(&disk.0)));
        if lost == damage::LogLost::Yes || self.salvaging.load(Ordering::Acquire) {
            self.start(lost);
        }
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// The files that wait to be salvaged, which the metrics then tell.
    fn count_files(&self) -> Result<Vec<PathBuf>, DiskFault> {
        let asides = damage::unsalvaged(&self.file)?;
        self.metrics.spool_salvage_files.set(i64::try_from(asides.len()).unwrap_or(i64::MAX));
        Ok(asides)
    }

    fn doubtful_before(&self) -> Option<Timestamp> {
        let doubt = self.doubt.load(Ordering::Acquire);
        (doubt != i64::MIN).then(|| Timestamp::from_millis(doubt))
    }

    fn start(self: &Arc<Self>, lost: damage::LogLost) {
        let mut working = self.working.lock().unwrap_or_else(PoisonError::into_inner);
        if *working == Working::Somebody {
            return;
        }
        let rescue = self.clone();
        match self.engine.start("disk-salvage", rescue.work(lost)) {
            Ok(_) => *working = Working::Somebody,
            Err(error) => {
                tracing::error!(%error, "the damaged database is not salvaged: restart when there is room for a thread");
            }
        }
    }

    /// The thread: until nothing is left to do, or nobody is left to do it for.
    async fn work(self: Arc<Self>, lost: damage::LogLost) {
        if lost == damage::LogLost::Yes {
            self.check();
        }
        let salvager = Salvager { rescue: self.clone() };
        loop {
            let generation = self.generation.load(Ordering::Acquire);
            let ended = salvager.salvage_all(generation).await;
            let mut working = self.working.lock().unwrap_or_else(PoisonError::into_inner);
            let again = ended == Ended::Overtaken || self.generation.load(Ordering::Acquire) != generation;
            if !again || self.closed.load(Ordering::Acquire) {
                *working = Working::Nobody;
                return;
            }
        }
    }

    /// A database whose log lost commits is perhaps not of one piece.
    fn check(&self) {
        let complaint = match self.door.reader() {
            Ok((conn, _)) => damage::complaint(&conn),
            Err(error) => Some(error.to_string()),
        };
        if let Some(complaint) = complaint {
            self.suspect(&complaint);
        }
    }
}

impl Disk {
    /// Events that happened before this moment may have been sent already, whatever the dedup table says: the last stop
    /// was not clean, or a damaged database took marks with it.
    #[must_use]
    pub fn doubtful_before(&self) -> Option<Timestamp> {
        self.0.rescue.doubtful_before()
    }

    /// Whether undelivered events may still come over from a damaged database.
    #[must_use]
    pub fn is_salvaging(&self) -> bool {
        self.0.rescue.salvaging.load(Ordering::Acquire)
    }

    /// Ends when events have come over from a damaged database since it was made.
    pub fn salvaged(&self) -> Notified<'_> {
        self.0.rescue.arrived.notified()
    }
}

/// How work on the damaged files ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Done,
    /// Another file was put aside.
    Overtaken,
    /// The disk is closed.
    Closed,
}

/// Whether what can be read of a damaged file has come over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Salvaged {
    Yes,
    /// It could not be opened: word of it stays, for the next start.
    NotYet,
}

struct Salvager {
    rescue: Arc<Rescue>,
}

impl Salvager {
    async fn salvage_all(&self, generation: i64) -> Ended {
        let rescue = &self.rescue;
        if !rescue.salvaging.load(Ordering::Acquire) {
            return Ended::Done;
        }
        let files = match self.files().await {
            Ok(files) => files,
            Err(ended) => return ended,
        };
        let mut all = Salvaged::Yes;
        for aside in files {
            match self.salvage(&aside, generation).await {
                Ok(Salvaged::Yes) => {}
                Ok(Salvaged::NotYet) => {
                    all = Salvaged::NotYet;
                    continue;
                }
                Err(ended) => return ended,
            }
            if let Err(fault) = damage::salvaged(&aside) {
                tracing::error!(%fault, "what was salvaged could not be noted as such");
            }
            rescue.metrics.spool_salvage_files.dec();
        }
        match self.let_go(generation, all).await {
            Ok(()) => Ended::Done,
            Err(ended) => ended,
        }
    }

    /// The files that wait, as soon as the folder can be read: that it cannot does not mean that there are none.
    async fn files(&self) -> Result<Vec<PathBuf>, Ended> {
        loop {
            match self.rescue.count_files() {
                Ok(files) => return Ok(files),
                Err(fault) => tracing::warn!(%fault, "the damaged files cannot be looked for yet"),
            }
            if self.rescue.closed.load(Ordering::Acquire) {
                return Err(Ended::Closed);
            }
            tokio::time::sleep(REST).await;
        }
    }

    /// Opens a damaged file, which may be short of a handle or of a moment of its disk. `None`: it cannot be read in this run.
    async fn open(&self, aside: &Path) -> Result<Option<Carver>, Ended> {
        for looked in 1..=LOOKS {
            match Carver::open(aside) {
                Ok(carver) => return Ok(Some(carver)),
                Err(error) if looked == LOOKS => tracing::error!(
                    file = %aside.display(), %error,
                    "the damaged database cannot be read: it is kept, and the next start tries again"
                ),
                Err(error) => {
                    tracing::warn!(file = %aside.display(), %error, "the damaged database cannot be read yet");
                }
            }
            if self.rescue.closed.load(Ordering::Acquire) {
                return Err(Ended::Closed);
            }
            tokio::time::sleep(REST).await;
        }
        Ok(None)
    }

    /// One damaged file, from where the last run left it.
    async fn salvage(&self, aside: &Path, generation: i64) -> Result<Salvaged, Ended> {
        let name = aside.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let Some(mut carver) = self.open(aside).await? else { return Ok(Salvaged::NotYet) };
        let key = name.clone();
        let mut progress = self.job(generation, 0, move |tx| Ok(meta::progress(tx.conn, &key)?)).await?;
        while progress.pass < 2 {
            let began = Instant::now();
            let (rows, next) = collect(&mut carver, progress);
            let weight = rows.iter().map(Row::weight).sum();
            let (key, rows) = (name.clone(), Arc::new(rows));
            let now = self.rescue.now();
            let before = progress;
            let progress_of = self.job(generation, weight, move |tx| {
                let mut done = next;
                tx.has_room_for(weight)?;
                for row in rows.iter() {
                    tx.take_over(row, &mut done, now)?;
                }
                meta::put_progress(tx.conn, &key, &done)?;
                Ok(done)
            });
            progress = progress_of.await?;
            self.count(&before, &progress);
            // As long as the disk and the readers had the work, they have a rest.
            tokio::time::sleep(began.elapsed()).await;
        }
        tracing::error!(
            file = %aside.display(), events = progress.events, marks = progress.marks,
            without_payload = progress.waiting, unreadable_pages = progress.unreadable,
            "what can be read of the damaged database was taken over; the file is kept: look at the disk, then move it away"
        );
        Ok(Salvaged::Yes)
    }

    fn count(&self, before: &Progress, now: &Progress) {
        let metric = &self.rescue.metrics.spool_salvaged_total;
        for (what, count) in [
            ("event", now.events.saturating_sub(before.events)),
            ("mark", now.marks.saturating_sub(before.marks)),
            ("unreadable_page", now.unreadable.saturating_sub(before.unreadable)),
        ] {
            metric.with_label_values(&[what]).inc_by(count);
        }
        if now.events > before.events {
            self.rescue.arrived.notify_waiters();
        }
    }

    /// All that can come in this run has come: what waited for it is due.
    async fn let_go(&self, generation: i64, all: Salvaged) -> Result<(), Ended> {
        while self.job(generation, 0, |tx| tx.end_waiting(JOB_ROWS)).await? == More::Perhaps {}
        let mut behind = Some((String::new(), String::new()));
        while let Some(after) = behind {
            let after = Arc::new(after);
            behind = self.job(generation, 0, move |tx| tx.let_go(&after, JOB_VALUES)).await?;
            self.rescue.arrived.notify_waiters();
        }
        let rescue = self.rescue.clone();
        self.job(generation, 0, move |tx| {
            tx.end_salvage(all)?;
            rescue.salvaging.store(false, Ordering::Release);
            Ok(())
        })
        .await
    }

    /// Has `work` done, and again until the disk does it.
    async fn job<T, F>(&self, generation: i64, weight: usize, work: F) -> Result<T, Ended>
    where
        F: Fn(&mut super::Tx<'_>) -> Result<T, JobFault> + Send + Sync + 'static,
        T: Send + 'static,
    {
        let work = Arc::new(work);
        let mut told = None;
        loop {
            if self.rescue.generation.load(Ordering::Acquire) != generation {
                return Err(Ended::Overtaken);
            }
            let inner = self.rescue.disk.get().and_then(Weak::upgrade);
            let Some(inner) = inner.filter(|_| !self.rescue.closed.load(Ordering::Acquire)) else {
                return Err(Ended::Closed);
            };
            let (again, expected) = (work.clone(), self.rescue.clone());
            let disk = Disk(inner);
            let done = disk.durable(weight, move |tx| {
                // In the writer's thread, where files are put aside: it is the file that was meant.
                if expected.generation.load(Ordering::Acquire) != generation {
                    return Err(JobFault::Failed("the file it was meant for was put aside".to_owned()));
                }
                again(tx)
            });
            match done.await {
                Ok(value) => return Ok(value),
                // Said once, and not at each look.
                Err(fault) => {
                    let kind = std::mem::discriminant(&fault);
                    if told.replace(kind) != Some(kind) {
                        tracing::warn!(%fault, "salvaging waits for the disk");
                    }
                }
            }
            drop(disk);
            tokio::time::sleep(REST).await;
        }
    }
}

/// The rows of the next job, and how far it will have come with them.
fn collect(carver: &mut Carver, from: Progress) -> (Vec<Row>, Progress) {
    let mut next = from;
    let (mut rows, mut bytes, mut looked) = (Vec::new(), 0, 0);
    while rows.len() < JOB_ROWS && bytes < JOB_BYTES && looked < JOB_PAGES {
        if next.page >= carver.pages() {
            next = Progress { pass: next.pass + 1, page: 0, ..next };
            break;
        }
        next.page += 1;
        looked += 1;
        let found = carver.rows(next.page);
        // Each page is read in both passes, and counted in the first.
        next.unreadable += u64::from(found.unreadable && next.pass == 0);
        let wanted = found.rows.into_iter().filter(|row| matches!(row, Row::Payload(..)) == (next.pass == 1));
        for row in wanted {
            bytes += row.weight();
            rows.push(row);
        }
    }
    (rows, next)
}

//! Reading: a few read-only connections on threads of their own, each read with a deadline. A read never waits for the
//! writer or for a sync: the write-ahead log lets it see the last commit as it was.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::engine::{Engine, Hands, Moment};
use super::fault::JobFault;
use super::salvage::Rescue;
use crate::telemetry::Metrics;

/// Reads at the same time, and threads. More would wait for the same disk.
pub(super) const READERS: usize = 4;
/// How many steps of `SQLite`'s machine pass between two looks at the deadline: well under a millisecond.
const STEPS: i32 = 4000;

/// A connection as a read sees it.
pub struct Rx<'a> {
    pub(super) conn: &'a Connection,
}

/// The connections. Cloning shares them.
#[derive(Clone, Debug)]
pub(super) struct Readers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    engine: Engine,
    hands: Hands,
    /// With the generation of their file: no connection outlives it.
    idle: Mutex<Vec<(Connection, u64)>>,
    /// Never used again: it keeps the shared memory of the write-ahead log, so that a disk that takes no new file can
    /// still be read when the writer has given up.
    anchor: Mutex<Option<Connection>>,
    permits: Arc<Semaphore>,
    rescue: Arc<Rescue>,
    metrics: Arc<Metrics>,
}

/// What it means that a read meets damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Damage {
    /// The file's: a fresh one takes its place.
    Files,
    /// One record's, which is set aside.
    Records,
}

impl Readers {
    pub(super) fn new(
        engine: Engine,
        hands: Hands,
        rescue: Arc<Rescue>,
        metrics: Arc<Metrics>,
    ) -> rusqlite::Result<Self> {
        let permits = Arc::new(Semaphore::new(READERS));
        let (anchor, _) = rescue.door.reader()?;
        super::meta::doubtful_through(&anchor)?;
        let (idle, anchor) = (Mutex::default(), Mutex::new(Some(anchor)));
        Ok(Self(Arc::new(Inner { engine, hands, idle, anchor, permits, rescue, metrics })))
    }

    /// Lets go of the file, which is about to be put aside.
    pub(super) fn let_go(&self) {
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        *self.0.anchor.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Takes hold of the file that is in its place.
    pub(super) fn take_hold(&self) -> rusqlite::Result<()> {
        let (anchor, _) = self.0.rescue.door.reader()?;
        super::meta::doubtful_through(&anchor)?;
        *self.0.anchor.lock().unwrap_or_else(PoisonError::into_inner) = Some(anchor);
        Ok(())
    }

    /// Reads within `patience`. If the future is dropped the read ends by itself, at its deadline at the latest.
    pub(super) async fn read<T, F>(&self, patience: Duration, damage: Damage, work: F) -> Result<T, JobFault>
    where
        F: FnOnce(&Rx<'_>) -> Result<T, JobFault> + Send + 'static,
        T: Send + 'static,
    {
        let inner = self.0.clone();
        let deadline = Instant::now() + patience;
        let reading = async move {
            let permit = inner.permits.clone().acquire_owned().await;
            let permit = permit.map_err(|_| JobFault::Failed("the spool is closed".to_owned()))?;
            inner.engine.pass(Moment::Read).await;
            let reader = inner.clone();
            let reading = move || {
                let outcome = reader.read(deadline, work);
                drop(permit);
                outcome
            };
            let done = inner.hands.have_done(reading).await;
            done.unwrap_or_else(|| Err(JobFault::Failed("a read ended early".to_owned())))
        };
        let outcome = tokio::time::timeout(patience, reading).await;
        let outcome =
            outcome.unwrap_or_else(|_| Err(JobFault::Failed(format!("the disk was not read in {patience:?}"))));
        if let (Damage::Files, Err(JobFault::Damaged(what))) = (damage, &outcome) {
            self.0.rescue.suspect(what);
        }
        if outcome.is_err() {
            self.0.metrics.spool_errors_total.with_label_values(&["read"]).inc();
        }
        outcome
    }

    /// Closes the connections that are idle and lets no further read begin.
    pub(super) fn close(&self) {
        self.0.permits.close();
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        *self.0.anchor.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Inner {
    fn read<T>(&self, deadline: Instant, work: impl FnOnce(&Rx<'_>) -> Result<T, JobFault>) -> Result<T, JobFault> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.rescue.door.generation();
        idle.retain(|(_, generation)| *generation == current);
        let one = idle.pop();
        drop(idle);
        let (mut conn, generation) = match one {
            Some(one) => one,
            None => self.rescue.door.reader()?,
        };
        conn.progress_handler(STEPS, Some(move || Instant::now() > deadline))?;
        let outcome = work(&Rx { conn: &conn });
        // A connection that failed may hold on to what it saw: the next read gets a new one.
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if outcome.is_ok() && !self.permits.is_closed() {
            idle.push((conn, generation));
        }
        outcome
    }
}

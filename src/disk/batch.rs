//! Jobs for the writer thread, and which of them go into one transaction. It knows neither queue nor thread.
//!
//! Transactions of lazy jobs alone are at least [`LAZY_PAUSE`] apart, so that the marks of a busy fast path share commits;
//! nobody waits for those. A patient job waits [`PATIENCE`] for one that is not, so that whoever waits for the next event
//! does not wait for the end of the last one as well; not where [`ENOUGH`] are together, as when a backlog is drained.

use std::time::Duration;

use tokio::time::Instant;

use super::job::{Job, Undo, Urgency};

/// Most jobs of one transaction: about 10 ms of work.
const BATCH_JOBS: usize = 1024;
/// Most bytes of one transaction, so that a commit stays short on a slow disk. One job may be larger.
const BATCH_BYTES: usize = 16 * 1024 * 1024;
/// Shortest time between two transactions of lazy jobs alone.
const LAZY_PAUSE: Duration = Duration::from_millis(20);
/// Jobs that are enough for a transaction: patient ones wait for no further.
const ENOUGH: usize = 16;
/// Longest wait of a patient job: longer than it takes a sender that was answered to send the next event.
const PATIENCE: Duration = Duration::from_millis(2);

/// A job and how it is to be treated.
pub(super) struct Order {
    pub(super) job: Box<dyn Job>,
    pub(super) urgency: Urgency,
    pub(super) undo: Undo,
    /// About how many bytes it writes.
    pub(super) weight: usize,
}

impl Order {
    /// What the writer does for itself.
    pub(super) fn chore(job: impl Job + 'static) -> Self {
        Self { job: Box::new(job), urgency: Urgency::Lazy, undo: Undo::Savepoint, weight: 0 }
    }
}

/// What was collected for a transaction.
pub(super) struct Batch {
    pub(super) orders: Vec<Order>,
    bytes: usize,
    /// That of its jobs who can wait least.
    haste: Urgency,
    /// When the first patient job came.
    patient_since: Option<Instant>,
}

impl Batch {
    pub(super) const fn new() -> Self {
        Self { orders: Vec::new(), bytes: 0, haste: Urgency::Lazy, patient_since: None }
    }

    pub(super) fn add(&mut self, order: Order) {
        self.bytes = self.bytes.saturating_add(order.weight);
        self.haste = match (self.haste, order.urgency) {
            (_, hasty @ (Urgency::Prompt | Urgency::Durable)) | (hasty @ (Urgency::Prompt | Urgency::Durable), _) => {
                hasty
            }
            (Urgency::Lazy, patient) => patient,
            (Urgency::Patient, _) => Urgency::Patient,
        };
        if order.urgency == Urgency::Patient && self.patient_since.is_none() {
            self.patient_since = Some(Instant::now());
        }
        self.orders.push(order);
    }

    pub(super) const fn is_full(&self) -> bool {
        self.orders.len() >= BATCH_JOBS || self.bytes >= BATCH_BYTES
    }

    /// How long others may still join: not at all if somebody is in haste. `last_lazy`: when lazy jobs were last done.
    pub(super) fn rest(&self, last_lazy: Option<Instant>) -> Duration {
        let left = |since: Option<Instant>, pause: Duration| {
            since.map_or(Duration::ZERO, |since| pause.saturating_sub(since.elapsed()))
        };
        match self.haste {
            Urgency::Lazy => left(last_lazy, LAZY_PAUSE),
            Urgency::Patient if self.orders.len() >= ENOUGH => Duration::ZERO,
            Urgency::Patient => left(self.patient_since, PATIENCE),
            Urgency::Prompt | Urgency::Durable => Duration::ZERO,
        }
    }
}

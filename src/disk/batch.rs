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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::fault::JobFault;
    use crate::disk::job::Tx;

    struct Idle;

    impl Job for Idle {
        fn is_abandoned(&self) -> bool {
            false
        }

        fn run(&mut self, _: &mut Tx<'_>) -> Result<(), JobFault> {
            Ok(())
        }

        fn answer(&mut self, _: Result<(), JobFault>) {}
    }

    fn order(urgency: Urgency) -> Order {
        Order { urgency, ..Order::chore(Idle) }
    }

    #[tokio::test(start_paused = true)]
    async fn patient_jobs_wait_for_others_a_while_and_not_at_all_once_they_are_many() {
        let mut batch = Batch::new();
        for _ in 1..ENOUGH {
            batch.add(order(Urgency::Patient));
        }
        assert_eq!(batch.rest(None), PATIENCE);
        tokio::time::advance(PATIENCE / 2).await;
        assert_eq!(batch.rest(None), PATIENCE / 2, "from the first of them on");
        batch.add(order(Urgency::Patient));
        assert_eq!(batch.rest(None), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn lazy_jobs_wait_however_many_they_are_and_nobody_waits_with_one_in_haste() {
        let mut batch = Batch::new();
        for _ in 0..2 * ENOUGH {
            batch.add(order(Urgency::Lazy));
        }
        assert_eq!(batch.rest(Some(Instant::now())), LAZY_PAUSE);
        for hasty in [Urgency::Prompt, Urgency::Durable] {
            let mut batch = Batch::new();
            batch.add(order(Urgency::Patient));
            batch.add(order(hasty));
            assert_eq!(batch.rest(Some(Instant::now())), Duration::ZERO);
        }
    }
}

//! A first delivery that goes to disk: kept for later, kept and sent from memory, or buried. Its sender is told only when it is
//! on stable storage, with its mark.

use std::pin::pin;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{CUT_COMMIT, First};
use crate::claims::Suspicion;
use crate::claims::store::Processed;
use crate::domain::event::Event;
use crate::domain::fault::Fault;
use crate::domain::outcome::{AppAnswer, Settled};
use crate::forward::limits::{Lane, Place};
use crate::forward::{COMMIT_ALLOWANCE, Deliverer};
use crate::spool::{Appended, DeadReason, Entry, Mark, NewEntry, Possible, Replay, SpoolFault};

/// How long a copy of what was rejected, and with it the event's memory, may wait behind the answer for a disk that stalls.
const LATE_COPY: Duration = Duration::from_secs(30);

impl First {
    /// To disk, as in flight; acknowledged once it is safe there, and then sent as it is in memory: it need be neither
    /// looked for nor read back, and its attempt need not be written down any more.
    pub(super) async fn keep_and_send(mut self: Box<Self>, lane: Arc<Lane>, place: Place) {
        let deliverer = self.deliverer.clone();
        let hold = deliverer.hold(self.event.id);
        let alone = self.alone.take();
        let possible = Possible::from_flag(self.flagged);
        let entry = self.entry(Entry::InFlight, 1, possible, String::new());
        match self.committed(entry).await {
            Ok(Appended::Now) => {
                self.held.answer(Settled::Spooled);
                deliverer.0.claims.mark(self.held, self.route.dedup_ttl).await;
                deliverer.send_kept(lane, place, self.event, possible).await;
            }
            Ok(Appended::ProcessedBefore) => self.processed_before().await,
            Err(fault) => self.not_kept(possible, fault).await,
        }
        drop((hold, alone));
    }

    /// To disk, to be delivered later; acknowledged once it is safe there.
    pub(super) async fn keep(
        self: Box<Self>,
        attempts: u32,
        possible: Possible,
        wait: Option<Duration>,
        error: String,
    ) {
        let backoff = if attempts == 0 { None } else { self.backoff(attempts) };
        let not_before = self.deliverer.0.clock.now().plus(wait.max(backoff).unwrap_or_default());
        let state = if attempts > 0 && backoff.is_none() {
            Entry::Dead { reason: DeadReason::AttemptsExhausted }
        } else {
            Entry::Pending { not_before }
        };
        self.commit(state, attempts, possible, error).await;
    }

    pub(super) fn backoff(&self, attempts: u32) -> Option<Duration> {
        self.route.delivery.schedule.wait_after(attempts, fastrand::f64())
    }

    /// To the dead letters, acknowledged: the operator wants rejections absorbed.
    pub(super) async fn bury(self: Box<Self>, error: String) {
        let state = Entry::Dead { reason: DeadReason::AppRejected };
        let possible = Possible::from_flag(self.flagged);
        self.commit(state, 1, possible, error).await;
    }

    async fn commit(self: Box<Self>, state: Entry, attempts: u32, possible: Possible, error: String) {
        let deliverer = self.deliverer.clone();
        let entry = self.entry(state, attempts, possible, error);
        match self.committed(entry).await {
            Ok(Appended::Now) => {
                self.held.answer(Settled::Spooled);
                deliverer.count_burial(&self.route.name, state);
                deliverer.0.claims.mark(self.held, self.route.dedup_ttl).await;
                deliverer.wake_route(&self.route.name);
            }
            Ok(Appended::ProcessedBefore) => self.processed_before().await,
            Err(fault) => self.not_kept(possible, fault).await,
        }
    }

    /// It was processed before, as was found when it was to be written.
    pub(super) async fn processed_before(self: Box<Self>) {
        tracing::info!(route = %self.route.name, event = %self.event.id,
            "an event for which nobody could be asked turned out to be a duplicate");
        self.held.answer(Settled::Duplicate);
        self.deliverer.0.claims.mark(self.held, self.route.dedup_ttl).await;
    }

    /// The disk did not take an event that has no attempt running.
    async fn not_kept(self: Box<Self>, possible: Possible, fault: SpoolFault) {
        let processed = if possible == Possible::Duplicate { Processed::Perhaps } else { Processed::Not };
        let told = self.deliverer.not_taken(fault);
        self.give_up(processed, told).await;
    }

    /// Commits `entry`. When that takes past the deadline the sender is told that nothing is promised, and the commit
    /// is waited for all the same: its outcome decides what becomes of the event. Where our own table could not be asked
    /// when the event came, it is asked now, by who writes.
    pub(super) async fn committed(&self, entry: NewEntry) -> Result<Appended, SpoolFault> {
        let (spool, now) = (&self.deliverer.0.spool, self.deliverer.0.clock.now());
        let mark = Mark::new(&self.event, now.plus(self.route.dedup_ttl));
        if self.held.suspicion() == Suspicion::Unread {
            return Box::pin(self.in_time(spool.append_unless_processed(entry, mark, now))).await;
        }
        self.in_time(spool.append(entry, Some(mark))).await.map(|()| Appended::Now)
    }

    async fn in_time<T>(&self, commit: impl Future<Output = T>) -> T {
        let mut commit = pin!(commit);
        tokio::select! {
            biased;
            in_time = &mut commit => return in_time,
            () = tokio::time::sleep_until(self.deadline) => {}
            () = self.drained(CUT_COMMIT) => {}
        }
        self.held.answer(Settled::Unavailable(Fault::SpoolFailed));
        commit.await
    }

    /// The sender is told what the application said of its event, and the operator has a copy: before that if the disk takes it
    /// soon, else behind it. Nothing was promised.
    pub(super) async fn pass_on_rejection(self: Box<Self>, answer: AppAnswer, error: String) {
        let told = Settled::AppRejected(answer);
        if !self.buffers() {
            return self.give_up(Processed::Not, told).await;
        }
        let (deliverer, event) = (self.deliverer.clone(), self.event.clone());
        let state = Entry::Dead { reason: DeadReason::AppRejected };
        let mut copy = pin!(deliverer.copy_to_dead_letters(self.entry(state, 1, Possible::No, error)));
        let is_there = tokio::select! {
            biased;
            () = &mut copy => true,
            () = tokio::time::sleep_until(self.deadline.min(Instant::now() + COMMIT_ALLOWANCE)) => false,
            () = self.drained(CUT_COMMIT) => false,
        };
        self.give_up(Processed::Not, told).await;
        if !is_there && tokio::time::timeout(LATE_COPY, copy).await.is_err() {
            deliverer.lost_a_copy(&event, &"the disk did not take it in time");
        }
    }

    pub(super) fn entry(
        &self,
        state: Entry,
        attempts: u32,
        possible_duplicate: Possible,
        last_error: String,
    ) -> NewEntry {
        NewEntry { event: self.event.clone(), state, attempts, possible_duplicate, replay: Replay::No, last_error }
    }
}

/// When it was last said that the disk took no event: for want of room, and for anything else.
#[derive(Debug, Default)]
pub(crate) struct Said {
    full: Option<Instant>,
    failed: Option<Instant>,
}

/// How often either is said.
const SAY_AGAIN: Duration = Duration::from_secs(60);

impl Deliverer {
    /// A copy for the operator of what the application rejected. One that cannot be written is only logged.
    pub(super) async fn copy_to_dead_letters(&self, copy: NewEntry) {
        let (event, state) = (copy.event.clone(), copy.state);
        match self.0.spool.append(copy, None).await {
            Ok(()) => self.count_burial(&event.route, state),
            Err(fault) => self.lost_a_copy(&event, &fault),
        }
    }

    fn lost_a_copy(&self, event: &Event, fault: &dyn std::fmt::Display) {
        self.0.metrics.dead_letter_copies_lost_total.with_label_values(&[&*event.route]).inc();
        tracing::warn!(route = %event.route, event = %event.id, %fault, "no dead-letter copy of a rejected event");
    }

    /// What a sender is told whose event the disk does not take. Why stands in no answer: it is said once in a while.
    pub(super) fn not_taken(&self, fault: SpoolFault) -> Settled {
        let mut said = self.0.said.lock().unwrap_or_else(PoisonError::into_inner);
        let (told, last) = match fault {
            SpoolFault::Full(_) => (Fault::SpoolFull, &mut said.full),
            SpoolFault::Damaged(_) | SpoolFault::Failed(_) => (Fault::SpoolFailed, &mut said.failed),
        };
        if last.is_none_or(|at| at.elapsed() >= SAY_AGAIN) {
            *last = Some(Instant::now());
            drop(said);
            tracing::error!(reason = told.as_str(), why = %fault, "the disk takes no event: senders get 503 and repeat");
        }
        Settled::Unavailable(told)
    }
}

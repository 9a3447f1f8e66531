//! The settlement of every event on disk, whether its attempt began while the sender waited or in the background
//! (`backlog.rs`), and who holds an event meanwhile.
//!
//! An outcome is written down until the disk takes it.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Deliverer;
use super::backlog::LOOK_AGAIN;
use super::limits::{BreakerState, Lane};
use crate::claims::store::Elsewhere;
use crate::domain::event::{Event, EventId};
use crate::domain::key::EventKey;
use crate::domain::outcome::{Outcome, Timeout};
use crate::domain::route::Route;
use crate::spool::{DeadReason, Entry, Mark, Possible, Replay, Settlement, SpoolFault};

/// The wait after the disk refused something in the background.
pub(super) const DISK_REST: Duration = Duration::from_secs(1);

/// How long the body of an answer may take that nobody waits for.
pub(super) const ANSWER_BODY: Duration = Duration::from_secs(10);

impl Deliverer {
    /// A copy of the event was accepted meanwhile: it is not sent.
    pub(super) async fn settle_copy(&self, event: &Event, route: &Route) {
        tracing::info!(route = %route.name, event = %event.id, "a copy of an event on disk was accepted: it is not sent");
        let mark = Mark::new(event, self.0.clock.now().plus(route.dedup_ttl));
        self.write_down(event, Settlement::Accepted { mark }).await;
    }

    /// Whether an earlier sending may have been processed, another gateway's included: one that took the event over
    /// because this one was away for longer than its lease. Nobody is asked about an event that is flagged already, or
    /// that an operator wants sent again.
    pub(super) async fn look_elsewhere(
        &self,
        event: &Event,
        route: &Route,
        possible: Possible,
        replay: Replay,
    ) -> Possible {
        if possible == Possible::Duplicate || replay == Replay::Yes {
            return possible;
        }
        match self.0.claims.vouch(event, route.dedup_ttl).await {
            Elsewhere::No => possible,
            Elsewhere::Perhaps => {
                tracing::info!(route = %route.name, event = %event.id,
                    "another gateway has had this event: it is sent flagged");
                Possible::Duplicate
            }
        }
    }

    /// Settles an event on disk when the attempt that overtook its sender's patience ends.
    pub(super) async fn settle_spooled_when(
        &self,
        attempt: JoinHandle<(Outcome, BreakerState)>,
        event: Arc<Event>,
        route: Arc<Route>,
        standing: Standing,
    ) {
        let cut_off = || Outcome::Unknown { error: "the attempt was cut off".to_owned(), timed_out: Timeout::No };
        let (outcome, breaker) = attempt.await.unwrap_or_else(|_| (cut_off(), BreakerState::Closed));
        self.settle_spooled(&event, &route, outcome, Standing { breaker, ..standing }).await;
        self.wake_route(&route.name);
    }

    /// Writes down what an attempt of an event on disk came to. Mark first, then remove.
    pub(super) async fn settle_spooled(&self, event: &Event, route: &Route, outcome: Outcome, standing: Standing) {
        let name: &str = &route.name;
        let error = outcome.describe();
        let settlement = match &outcome {
            Outcome::Accepted(_) => {
                if standing.possible_duplicate == Possible::Duplicate {
                    self.0.claims.accepted_copy(event.key, route.dedup_ttl);
                }
                self.0.claims.mark_delivered(event, route.dedup_ttl).await;
                self.0.metrics.deliveries_total.with_label_values(&[name]).inc();
                let latency = self.0.clock.now().since(event.received_at);
                self.0.metrics.delivery_latency_seconds.with_label_values(&[name]).observe(latency.as_secs_f64());
                Settlement::Accepted { mark: Mark::new(event, self.0.clock.now().plus(route.dedup_ttl)) }
            }
            Outcome::Rejected(_) => {
                let possible_duplicate = standing.possible_duplicate;
                Settlement::Dead { reason: DeadReason::AppRejected, possible_duplicate, error }
            }
            Outcome::Failed(_) | Outcome::Unreachable(_) | Outcome::Unknown { .. } => {
                self.again(route, &outcome, standing, error)
            }
        };
        self.write_down(event, settlement).await;
    }

    /// When a failed event is due again, or that it was the last time.
    fn again(&self, route: &Route, outcome: &Outcome, standing: Standing, error: String) -> Settlement {
        let now = self.0.clock.now();
        let possible_duplicate = if outcome.is_unknown() { Possible::Duplicate } else { standing.possible_duplicate };
        let wait = route.delivery.schedule.wait_after(standing.attempt, fastrand::f64());
        if standing.breaker == BreakerState::Probing {
            // A probe is not counted against its event, and the next probe is another event's: one that can never
            // succeed must not keep the application "down" for all.
            let rest = wait.unwrap_or(LOOK_AGAIN).max(outcome.retry_after(now).unwrap_or_default());
            return Settlement::Probed { not_before: now.plus(rest), possible_duplicate, error };
        }
        match wait {
            Some(wait) => {
                let not_before = now.plus(wait.max(outcome.retry_after(now).unwrap_or_default()));
                Settlement::Retry { not_before, possible_duplicate, error }
            }
            None => Settlement::Dead { reason: DeadReason::AttemptsExhausted, possible_duplicate, error },
        }
    }

    /// Writes a settlement down until the disk takes it: an outcome is never forgotten while the process lives. Ends
    /// early only when the shutdown does; then the event is due again at the next start, flagged.
    pub(super) async fn write_down(&self, event: &Event, settlement: Settlement) {
        loop {
            let settled = if event.order_value.is_some() {
                // The next event of the order value waits for it.
                self.0.spool.settle(event.id, settlement.clone()).await
            } else {
                self.0.spool.settle_with_others(event.id, settlement.clone()).await
            };
            match settled {
                Ok(()) => break,
                Err(fault) => {
                    tracing::warn!(route = %event.route, event = %event.id, %fault, "the disk did not take an outcome");
                    tokio::time::sleep(DISK_REST).await;
                }
            }
        }
        if let Settlement::Dead { reason, .. } = settlement {
            self.count_burial(&event.route, Entry::Dead { reason });
            tracing::warn!(route = %event.route, event = %event.id, reason = reason.as_str(), "dead letter");
        }
    }

    /// Gives back what the disk did not serve, and waits with it.
    pub(super) async fn rest_after(&self, not_served: impl Send, fault: &SpoolFault) {
        drop(not_served);
        self.let_the_disk_rest();
        tracing::warn!(%fault, "the disk did not serve a delivery");
        tokio::time::sleep(DISK_REST).await;
    }

    /// No lane takes anything from the disk for a while: a disk that fails or stalls would otherwise be asked for the
    /// whole backlog again and again, with a task and a log line for each event.
    pub(super) fn let_the_disk_rest(&self) {
        let until = Instant::now() + DISK_REST;
        *self.0.disk_rests_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }

    pub(super) fn disk_rests(&self) -> Option<Instant> {
        let until = *self.0.disk_rests_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.filter(|until| Instant::now() < *until)
    }

    pub(super) fn count_burial(&self, route: &str, state: Entry) {
        if let Entry::Dead { reason } = state {
            self.0.metrics.dead_letters_total.with_label_values(&[route, reason.as_str()]).inc();
        }
    }

    /// Keeps others from picking the event for as long as the hold lives; `None` if somebody has it.
    pub(super) fn hold(&self, id: EventId) -> Option<Hold> {
        let fresh = self.0.running.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        fresh.then(|| Hold { id, deliverer: self.clone() })
    }

    /// Keeps copies of the event from being sent for as long as it lives; `None` if one is. Only events on disk, and those
    /// for which no store could vouch that they are new, may have copies.
    pub(super) fn sends_alone(&self, key: EventKey) -> Option<SendsAlone> {
        let fresh = self.0.sending.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
        fresh.then(|| SendsAlone { key, deliverer: self.clone() })
    }

    pub(super) fn held_count(&self) -> usize {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Comes when `lane` is in operation no more.
    pub(super) async fn replaced(&self, lane: &Arc<Lane>) {
        loop {
            let woken = self.0.wake.notified();
            if !self.goes_on(lane) {
                return;
            }
            woken.await;
        }
    }

    /// Whether `lane` is still the one in operation for its route, and no shutdown has begun.
    pub(super) fn goes_on(&self, lane: &Arc<Lane>) -> bool {
        let operates = self.lane(&lane.route.name).is_some_and(|current| Arc::ptr_eq(&current, lane));
        operates && self.0.drain.borrow().is_none()
    }
}

/// An event on disk that somebody is at; given back when dropped.
pub(super) struct Hold {
    id: EventId,
    deliverer: Deliverer,
}

impl Hold {
    /// The event.
    pub(super) const fn event(&self) -> EventId {
        self.id
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.deliverer.0.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

/// The one copy of an event that is being sent; another may be when this is dropped.
pub(super) struct SendsAlone {
    key: EventKey,
    deliverer: Deliverer,
}

impl Drop for SendsAlone {
    fn drop(&mut self) {
        self.deliverer.0.sending.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

/// How an event on disk stood when its attempt began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    /// 1, 2, …
    pub(super) attempt: u32,
    /// Whether an earlier sending may have been processed.
    pub(super) possible_duplicate: Possible,
    /// How the breaker stood.
    pub(super) breaker: BreakerState,
}

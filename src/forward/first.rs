//! An event's first delivery, while its sender waits: the application's own answer if it comes in time, the disk if
//! not. One claim, at most one attempt, one answer.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::attempt::{Sending, Times};
use super::limits::{BreakerState, Held as NoSlot, Lane, Place, Slot};
use super::patience::Patience;
use super::spooled::{SendsAlone, Standing};
use super::turns::Turn;
use super::{COMMIT_ALLOWANCE, Task};
use crate::claims::store::{Marked, Processed};
use crate::claims::{Held, Suspicion};
use crate::domain::event::Event;
use crate::domain::fault::Fault;
use crate::domain::outcome::{Outcome, Settled};
use crate::domain::route::{AckMode, OnApp, Route};
use crate::spool::{Appended, Entry, Possible};

mod to_disk;

pub(super) use self::to_disk::Said;

/// What a commit gets when the shutdown wants open requests answered.
const CUT_COMMIT: Duration = Duration::from_millis(700);

/// One first delivery: what every step of it needs. Boxed, for it goes from step to step, and so are the steps that few
/// deliveries take: each request's memory is what the longest way through here needs.
pub(super) struct First {
    event: Arc<Event>,
    route: Arc<Route>,
    held: Held,
    /// When it began, or had its slot if it had to wait for one.
    began: Instant,
    /// The moment the reply must have left.
    deadline: Instant,
    /// The moment at which waiting for the application ends, so that a commit still fits before the deadline.
    commit_by: Instant,
    /// Whether its first look in vain for an answer needs no timer.
    watched: Watched,
    /// Whether an earlier sending may have been processed.
    flagged: bool,
    /// The event's turn among those with its order value, until it is answered or on disk.
    turn: Option<Turn>,
    /// Held where a copy of the event may wait on disk.
    alone: Option<SendsAlone>,
    /// The last to go: while it is here the delivery counts as running.
    deliverer: Task,
}

/// Whether somebody sees to it that a delivery is polled when its sender's time is nearly up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    /// Nobody does: it sets a timer of its own.
    No,
    /// Who waits for it has it polled by [`super::Deliverer::look_by`] at the latest, counted from its first poll on, or gives it up.
    Yes,
}

/// Why there is no attempt.
enum NoAttempt {
    /// An earlier event of the same order value is not delivered yet.
    Order,
    /// The application is considered down, or asked for rest.
    Down,
    /// All of the route's slots stayed taken for as long as the sender can wait.
    Busy,
    /// A copy of the event, which came back from disk, is being sent.
    Copy,
    /// The shutdown wants open requests answered by now: what is sent from here on nobody may be left to settle.
    Draining,
}

impl NoAttempt {
    const fn as_str(&self) -> &'static str {
        match self {
            Self::Order => "an earlier event of the same order value is waiting",
            Self::Down => "the application is considered down",
            Self::Busy => "all of the route's slots stayed taken",
            Self::Copy => "a copy of the event is being sent",
            Self::Draining => "the gateway was shutting down",
        }
    }
}

impl First {
    /// A first delivery of `event`, whose sender is to be answered by `deadline`. If it is cut off at shutdown the lease lapses
    /// and the sender's retry is delivered, flagged.
    pub(super) fn new(
        task: Task,
        event: Arc<Event>,
        route: Arc<Route>,
        held: Held,
        deadline: Instant,
        watched: Watched,
    ) -> Box<Self> {
        let flagged = held.suspicion() != Suspicion::None || task.in_doubt(&event, &route);
        let began = Instant::now();
        let commit_by = commit_by(deadline, began);
        Box::new(Self {
            event,
            route,
            held,
            began,
            deadline,
            commit_by,
            watched,
            flagged,
            turn: None,
            alone: None,
            deliverer: task,
        })
    }

    /// Delivers the event and answers its sender: an attempt, for as long as the sender can wait; then from the disk, while the
    /// attempt goes on.
    pub(super) async fn deliver(mut self: Box<Self>) {
        if self.route.ack.mode == AckMode::Queue && self.buffers() {
            let possible = Possible::from_flag(self.flagged);
            return match self.place() {
                Some((lane, place)) => Box::pin(self.keep_and_send(lane, place)).await,
                None => Box::pin(self.keep(0, possible, None, String::new())).await,
            };
        }
        let Some(lane) = self.deliverer.lane(&self.route.name) else {
            return Box::pin(self.give_up(Processed::Not, Settled::Unavailable(Fault::Draining))).await;
        };
        if self.deliverer.has_drained() {
            return Box::pin(self.without_attempt(NoAttempt::Draining)).await;
        }
        let slot = match self.slot_at_once(&lane) {
            Some(slot) => Ok(slot),
            None => Box::pin(self.slot(&lane)).await,
        };
        let mut attempt = match slot {
            Ok(slot) => Box::pin(self.attempt(lane, slot)),
            Err(reason) => return Box::pin(self.without_attempt(reason)).await,
        };
        match self.while_waiting(self.watched, &mut attempt).await {
            Some((Outcome::Accepted(answer), _)) => {
                // So it goes nearly always.
                self.held.answer(Settled::Delivered(answer));
                if self.deliverer.0.claims.accept_at_once(&mut self.held, self.route.dedup_ttl) == Marked::NotYet {
                    Box::pin(self.mark()).await;
                }
            }
            Some((outcome, breaker)) => Box::pin(self.settle(outcome, breaker)).await,
            None => Box::pin(self.overtaken(tokio::spawn(attempt))).await,
        }
    }

    /// A slot for the attempt, if nothing but a free one is needed: so it goes nearly always.
    fn slot_at_once(&self, lane: &Lane) -> Option<Slot> {
        let has_turns = self.buffers() && self.event.order_value.is_some();
        if has_turns || self.held.suspicion().may_have_a_copy() {
            return None;
        }
        if self.absorbs() { lane.slot_at_once(self.event.id) } else { lane.slot_at_once_regardless() }
    }

    /// A slot for the attempt, unless the application is down, rests, or must first get an earlier event; or the
    /// sender can wait no longer.
    async fn slot(&mut self, lane: &Lane) -> Result<Slot, NoAttempt> {
        // The alarm of who watches may ring while it waits here.
        self.watched = Watched::No;
        if self.buffers()
            && let Some(value) = self.event.order_value.clone()
        {
            self.turn = self.own_turn(&value).await;
            if self.turn.is_none() {
                return Err(NoAttempt::Order);
            }
            let earlier = self.deliverer.0.spool.has_earlier(&self.route.name, &value);
            if !matches!(self.while_waiting(Watched::No, earlier).await, Some(Ok(false))) {
                return Err(NoAttempt::Order);
            }
        }
        if self.held.suspicion().may_have_a_copy() {
            self.alone = Some(self.deliverer.sends_alone(self.event.key).ok_or(NoAttempt::Copy)?);
        }
        let slot = async {
            if self.absorbs() {
                lane.slot(self.event.id, self.commit_by).await
            } else {
                lane.slot_regardless(self.commit_by).await
            }
        };
        let slot = self.while_waiting(Watched::No, slot).await;
        self.began = Instant::now();
        match slot {
            Some(Ok(slot)) => Ok(slot),
            Some(Err(NoSlot::Until(_))) => Err(NoAttempt::Down),
            Some(Err(NoSlot::Busy)) | None => Err(NoAttempt::Busy),
        }
    }

    /// The event's turn. Who has it goes to disk when this event's time for the application is over, so that it comes
    /// while there is still time to go there behind him; without it two events could be acknowledged in one order and
    /// delivered in the other.
    async fn own_turn(&self, value: &str) -> Option<Turn> {
        let turn = self.deliverer.0.turns.take(
            self.route.name.clone(),
            value.to_owned(),
            self.commit_moment(Duration::ZERO, Watched::No),
        );
        let patience = self.deadline.saturating_duration_since(self.commit_by) / 2;
        tokio::select! {
            biased;
            turn = turn => Some(turn),
            () = self.commit_moment(patience, Watched::No) => None,
        }
    }

    async fn without_attempt(self: Box<Self>, reason: NoAttempt) {
        let kept = match reason {
            NoAttempt::Order | NoAttempt::Copy | NoAttempt::Draining => self.buffers(),
            NoAttempt::Down | NoAttempt::Busy => self.absorbs(),
        };
        if kept {
            let possible = Possible::from_flag(self.flagged);
            return self.keep(0, possible, None, reason.as_str().to_owned()).await;
        }
        let settled = match reason {
            NoAttempt::Order | NoAttempt::Busy | NoAttempt::Copy => Settled::Unavailable(Fault::Overloaded),
            NoAttempt::Down => Settled::AppFailed(Err(StatusCode::BAD_GATEWAY)),
            NoAttempt::Draining => Settled::Unavailable(Fault::Draining),
        };
        self.give_up(Processed::Not, settled).await;
    }

    /// What `work` gives, if that comes while the sender can wait and no shutdown wants it answered.
    async fn while_waiting<T>(&self, watched: Watched, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.commit_moment(Duration::ZERO, watched) => None,
            () = self.pressed() => None,
        }
    }

    /// The attempt, still to be waited for.
    fn attempt(&mut self, lane: Arc<Lane>, slot: Slot) -> impl Future<Output = (Outcome, BreakerState)> + Send + use<> {
        self.flagged |= self.held.has_lapsed(self.began);
        let sending = Sending { attempt: 1, possible_duplicate: self.flagged, replay: false };
        let deliverer = self.deliverer.clone();
        // When its time is up here, the attempt goes on in a task of its own, which polls it.
        let times = Times { began: self.began, body_by: self.commit_by, seen_to_by: Some(self.commit_by) };
        deliverer.attempt_at(times, lane, self.event.clone(), sending, slot)
    }

    /// The application took the event, its sender knows, and the store has to be waited for.
    async fn mark(self: Box<Self>) {
        self.deliverer.0.claims.mark(self.held, self.route.dedup_ttl).await;
    }

    /// The attempt ended while the sender waits.
    async fn settle(self: Box<Self>, outcome: Outcome, breaker: BreakerState) {
        let error = outcome.describe();
        let wait = outcome.retry_after(self.deliverer.0.clock.now());
        match outcome {
            Outcome::Accepted(answer) => {
                self.held.answer(Settled::Delivered(answer));
                self.deliverer.0.claims.accept(self.held, self.route.dedup_ttl).await;
            }
            Outcome::Rejected(answer) if self.passes_rejections() => {
                Box::pin(self.pass_on_rejection(answer, error)).await;
            }
            Outcome::Rejected(_) => self.bury(error).await,
            Outcome::Failed(_) | Outcome::Unreachable(_) | Outcome::Unknown { .. } if self.absorbs() => {
                let possible = Possible::from_flag(self.flagged || outcome.is_unknown());
                // A probe is never its event's last attempt.
                let last = self.backoff(1).is_none();
                let attempts = u32::from(!(last && breaker == BreakerState::Probing));
                self.keep(attempts, possible, wait, error).await;
            }
            Outcome::Failed(answer) => self.give_up(Processed::Not, Settled::AppFailed(Ok(answer))).await,
            Outcome::Unreachable(_) => {
                self.give_up(Processed::Not, Settled::AppFailed(Err(StatusCode::BAD_GATEWAY))).await;
            }
            Outcome::Unknown { .. } => {
                self.give_up(Processed::Perhaps, Settled::AppFailed(Err(StatusCode::GATEWAY_TIMEOUT))).await;
            }
        }
    }

    /// The sender can wait no longer and the attempt is still running: it goes on, and its outcome settles the event.
    async fn overtaken(mut self: Box<Self>, attempt: JoinHandle<(Outcome, BreakerState)>) {
        if !self.buffers() {
            self.held.answer(Settled::AppFailed(Err(StatusCode::GATEWAY_TIMEOUT)));
            return self.settle_unkept(attempt).await;
        }
        let deliverer = self.deliverer.clone();
        let hold = deliverer.hold(self.event.id);
        let alone = self.alone.take().or_else(|| deliverer.sends_alone(self.event.key));
        let entry = self.entry(Entry::InFlight, 1, Possible::from_flag(self.flagged), String::new());
        let committed = self.committed(entry).await;
        self.turn = None;
        match committed {
            Ok(Appended::Now) => {
                self.held.answer(Settled::Spooled);
                let (event, route) = (self.event.clone(), self.route.clone());
                deliverer.0.claims.mark(self.held, route.dedup_ttl).await;
                let possible_duplicate = Possible::from_flag(self.flagged);
                let standing = Standing { attempt: 1, possible_duplicate, breaker: BreakerState::Closed };
                deliverer.settle_spooled_when(attempt, event, route, standing).await;
            }
            Ok(Appended::ProcessedBefore) => {
                self.held.answer(Settled::Duplicate);
                // Nothing hangs on what it comes to.
                let _outcome = attempt.await;
                self.processed_before().await;
            }
            Err(fault) => {
                self.held.answer(self.deliverer.not_taken(fault));
                self.settle_unkept(attempt).await;
            }
        }
        drop((hold, alone));
    }

    /// A place among the events that are sent from memory once they are on disk, if the application can be asked soon and
    /// no order is to be kept. All others are looked for on disk when their time has come.
    fn place(&mut self) -> Option<(Arc<Lane>, Place)> {
        let lane = self.deliverer.lane(&self.route.name)?;
        if self.event.order_value.is_some() || !self.deliverer.goes_on(&lane) {
            return None;
        }
        let place = lane.place(self.event.id)?;
        self.alone = Some(self.deliverer.sends_alone(self.event.key)?);
        Some((lane, place))
    }

    /// The sender was told that nothing is promised, and the attempt is still running: only its outcome is recorded. Until
    /// then nobody else is to send the event.
    async fn settle_unkept(mut self: Box<Self>, attempt: JoinHandle<(Outcome, BreakerState)>) {
        let claims = self.deliverer.0.claims.clone();
        claims.prolong(&mut self.held, self.began + self.route.app.attempt_timeout).await;
        match attempt.await {
            Ok((Outcome::Accepted(_), _)) => claims.accept(self.held, self.route.dedup_ttl).await,
            Ok((Outcome::Rejected(_) | Outcome::Failed(_) | Outcome::Unreachable(_), _)) => {
                claims.release(self.held, Processed::Not).await;
            }
            Ok((Outcome::Unknown { .. }, _)) | Err(_) => claims.release(self.held, Processed::Perhaps).await,
        }
    }

    async fn give_up(self: Box<Self>, processed: Processed, settled: Settled) {
        self.held.answer(settled);
        self.deliverer.0.claims.release(self.held, processed).await;
    }

    /// Whether the disk may be used for this event at all: not in `sync` mode, and never for what was not verified.
    fn buffers(&self) -> bool {
        self.route.ack.mode != AckMode::Sync && self.held.is_believed()
    }

    /// Whether a failure of the application is our problem and not the sender's.
    fn absorbs(&self) -> bool {
        self.buffers() && self.route.ack.on_app_failure == OnApp::Absorb
    }

    fn passes_rejections(&self) -> bool {
        !self.buffers() || self.route.ack.on_app_rejection == OnApp::Pass
    }

    /// Comes `after` the application has had its time, or after the shutdown wants open requests answered.
    async fn commit_moment(&self, after: Duration, watched: Watched) {
        let patience = Patience::new(self.commit_by + after, watched == Watched::Yes);
        // Whichever comes first, it has come.
        let _either = patience.wait_for(pin!(self.drained(after))).await;
    }

    /// Comes when an event behind this one, of the same order value, has no more time.
    async fn pressed(&self) {
        match &self.turn {
            Some(turn) => turn.pressed().await,
            None => std::future::pending().await,
        }
    }

    /// Comes `after` the moment by which the shutdown wants open requests answered; never while there is none.
    async fn drained(&self, after: Duration) {
        let until = loop {
            let begun = self.deliverer.0.draining.notified();
            let until = *self.deliverer.0.drain.borrow();
            match until {
                Some(until) => break until,
                None => begun.await,
            }
        };
        // Boxed: it is waited for once in the life of a process.
        Box::pin(tokio::time::sleep_until(until + after)).await;
    }
}

/// When waiting for the application ends. A budget shorter than three allowances keeps a third of itself for the commit.
fn commit_by(deadline: Instant, now: Instant) -> Instant {
    let left = deadline.saturating_duration_since(now);
    deadline - COMMIT_ALLOWANCE.min(left / 3)
}

//! What holds attempts back: the breaker of an application's address, the rest it asked for, how many may run at
//! once, how many a second. All of it is per route, but for the breaker, which belongs to the address.
//!
//! Slots go in turn to those whose senders wait and to what waits on disk, as long as both ask: of the senders' one
//! at a time stands in line, and the route's loop beside it. So a crowd of newcomers does not keep the disk from
//! being drained, and a full disk does not keep newcomers from the application.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use super::attempt::Client;
use crate::domain::breaker::{Blame, Breaker, Permit};
use crate::domain::event::EventId;
use crate::domain::outcome::Outcome;
use crate::domain::route::Route;
use crate::domain::time::Timestamp;
use crate::telemetry::RouteSeries;

/// Attempts are spread evenly over the second, so that no second sees more than its share; a timer's step apart at
/// the closest, which is what is let through together.
const STEPS_A_SECOND: u32 = 100;

/// Events in memory for each slot that are on disk as in flight: one is sent, another is written down or read meanwhile.
const PLACES_A_SLOT: usize = 2;

/// How many times as many there are as are read together, at least.
const PLACES_A_READ: usize = 8;

/// Most events that are read together: with more, who drains a backlog as fast as it goes has gained nothing more.
const MOST_A_READ: usize = 8;

/// A breaker with the moment its durations count from. Shared by the routes of one address; the mutex is held for a
/// few instructions, never across an await.
#[derive(Debug)]
pub struct SharedBreaker {
    breaker: Mutex<Breaker>,
    started: Instant,
}

impl SharedBreaker {
    /// A closed breaker with the policy of the first route that names the address.
    #[must_use]
    pub fn new(route: &Route) -> Self {
        Self { breaker: Mutex::new(Breaker::new(route.delivery.breaker)), started: Instant::now() }
    }

    /// Goes on by the policy of this route.
    pub fn follow(&self, route: &Route) {
        self.lock().follow(route.delivery.breaker);
    }

    // A closed breaker lets all through, whatever the time is.
    fn wait(&self, event: EventId) -> Result<(), Instant> {
        let breaker = self.lock();
        if breaker.is_closed() {
            return Ok(());
        }
        breaker.wait(event, self.started.elapsed()).map_or(Ok(()), |until| Err(self.started + until))
    }

    fn ask(self: &Arc<Self>, event: EventId) -> Result<Option<Probe>, Instant> {
        let mut breaker = self.lock();
        if breaker.is_closed() {
            return Ok(None);
        }
        match breaker.ask(event, self.started.elapsed()) {
            Permit::Go => Ok(None),
            Permit::Probe(began) => Ok(Some(Probe { breaker: self.clone(), began, sent: Sent::No })),
            Permit::Wait(until) => Err(self.started + until),
        }
    }

    /// Whether the application is considered up.
    pub fn is_closed(&self) -> bool {
        self.lock().is_closed()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one probe that runs; given back to the breaker when dropped.
#[derive(Debug)]
struct Probe {
    breaker: Arc<SharedBreaker>,
    began: Duration,
    sent: Sent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    No,
    Yes,
}

impl Drop for Probe {
    fn drop(&mut self) {
        let mut breaker = self.breaker.lock();
        match self.sent {
            Sent::No => breaker.probe_unused(self.began),
            Sent::Yes => breaker.probe_ended(self.began),
        }
    }
}

/// A route in operation: its configuration and what holds its attempts back.
#[derive(Debug)]
pub struct Lane {
    /// The route.
    pub route: Arc<Route>,
    /// What carries its attempts.
    pub client: Client,
    /// What its attempts are counted in.
    pub series: Arc<RouteSeries>,
    breaker: Arc<SharedBreaker>,
    slots: Arc<Semaphore>,
    /// For events that are sent from memory, and for those that are read from disk before there is a slot for them.
    places: Arc<Semaphore>,
    /// Whose senders wait: one at a time stands in line for a slot. Fair; awaited with a deadline.
    newcomers: tokio::sync::Mutex<()>,
    /// Events on disk: of these too one at a time. Fair.
    backlog: tokio::sync::Mutex<()>,
    rate: Option<Arc<Pace>>,
    rest_until: Arc<watch::Sender<Option<Instant>>>,
    /// Told when something of this route alone may have become due.
    woken: Notify,
}

/// How many attempts may begin a second. Who waits for the next moment waits in line.
#[derive(Debug)]
struct Pace {
    limiter: DefaultDirectRateLimiter,
    line: tokio::sync::Mutex<()>,
}

impl Pace {
    fn new(rate: NonZeroU32) -> Self {
        let together = NonZeroU32::new(rate.get() / STEPS_A_SECOND).unwrap_or(NonZeroU32::MIN);
        let limiter = RateLimiter::direct(Quota::per_second(rate).allow_burst(together));
        Self { limiter, line: tokio::sync::Mutex::new(()) }
    }

    /// Waits for the next moment; the caller sets the deadline. Dropped, it leaves the line and uses nothing up.
    async fn wait(&self) {
        let _first = self.line.lock().await;
        while let Err(not_yet) = self.limiter.check() {
            tokio::time::sleep(not_yet.wait_time_from(DefaultClock::default().now())).await;
        }
    }
}

/// A place among the events that are sent from memory; given back when dropped.
#[derive(Debug)]
pub struct Place(#[allow(dead_code, reason = "held for as long as the event waits or is sent")] OwnedSemaphorePermit);

/// Permission for one attempt; giving it back is dropping it. A probe that was not sent goes back to the breaker.
#[derive(Debug)]
pub struct Slot {
    _permit: OwnedSemaphorePermit,
    probe: Option<Probe>,
}

/// How the breaker stood when an attempt began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// An ordinary attempt.
    Closed,
    /// A probe: its failure does not count against the event.
    Probing,
}

impl Slot {
    /// How the breaker stood when the attempt began.
    #[must_use]
    pub const fn breaker(&self) -> BreakerState {
        if self.probe.is_some() { BreakerState::Probing } else { BreakerState::Closed }
    }

    /// The attempt begins.
    pub fn used(&mut self) {
        if let Some(probe) = &mut self.probe {
            probe.sent = Sent::Yes;
        }
    }
}

impl Lane {
    /// A lane for `route` behind `breaker`. What the lane before it had given out or been told still counts: the rest
    /// that the application asked for always, slots and rate where the configuration of them is the same.
    #[must_use]
    pub fn new(
        route: Arc<Route>,
        client: Client,
        breaker: Arc<SharedBreaker>,
        series: Arc<RouteSeries>,
        before: Option<&Self>,
    ) -> Self {
        let rate = route.delivery.rate_per_second.and_then(NonZeroU32::new);
        let same_rate = before.filter(|lane| lane.route.delivery.rate_per_second == route.delivery.rate_per_second);
        let same_slots = before.filter(|lane| lane.route.app.max_in_flight == route.app.max_in_flight);
        Self {
            client,
            series,
            breaker,
            slots: same_slots
                .map_or_else(|| Arc::new(Semaphore::new(route.app.max_in_flight)), |lane| lane.slots.clone()),
            places: Arc::new(Semaphore::new(places(&route))),
            newcomers: tokio::sync::Mutex::new(()),
            backlog: tokio::sync::Mutex::new(()),
            rate: same_rate.map_or_else(|| rate.map(|rate| Arc::new(Pace::new(rate))), |lane| lane.rate.clone()),
            // Shared: an attempt that began before a reload teaches the lane that it began in.
            rest_until: before.map_or_else(|| Arc::new(watch::channel(None).0), |lane| lane.rest_until.clone()),
            woken: Notify::new(),
            route,
        }
    }

    /// A place among those that wait in memory for a slot, once they are on disk, or have one: as many again as there
    /// are slots. None while the application is down or rests, and where a rate decides when an event is sent.
    #[must_use]
    pub fn place(&self, event: EventId) -> Option<Place> {
        if self.rate.is_some() || !self.is_up() || self.not_held(event).is_err() {
            return None;
        }
        self.places.clone().try_acquire_owned().ok().map(Place)
    }

    /// Whether events on disk are read before there is a slot for them: not while the application is down, and not where a
    /// rate decides when an event is sent.
    #[must_use]
    pub fn reads_ahead(&self) -> bool {
        self.rate.is_none() && self.is_up()
    }

    /// Events on disk that are read together: few beside the places there are, so that those in memory never run out while the
    /// next ones wait for each other.
    #[must_use]
    pub fn read_together(&self) -> usize {
        if !self.reads_ahead() {
            return 1;
        }
        (places(&self.route) / PLACES_A_READ).clamp(1, MOST_A_READ)
    }

    /// Places, as many as asked for, among those that are read before there is a slot for them, or have one: as many again as
    /// there are slots. Waits for them as long as it takes. The caller sets the deadline.
    pub async fn places_ahead(&self, first: EventId, count: usize) -> Result<Vec<Place>, Held> {
        self.not_held(first)?;
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let mut permits = self.places.clone().acquire_many_owned(count).await.map_err(|_| Held::Busy)?;
        self.not_held(first)?;
        Ok(std::iter::from_fn(|| permits.split(1)).map(Place).collect())
    }

    /// A slot for an event whose sender waits, or the moment before which there is none: the breaker is open, or the
    /// application rests. Waits for a free slot and for the rate, at most until `by`.
    pub async fn slot(&self, event: EventId, by: Instant) -> Result<Slot, Held> {
        self.not_held(event)?;
        let permit = self.newcomers_slot(by).await?;
        self.permitted(event, permit)
    }

    /// The same where there is no need to wait; `None`: there is, or it is held.
    #[must_use]
    pub fn slot_at_once(&self, event: EventId) -> Option<Slot> {
        self.permitted(event, self.free_at_once()?).ok()
    }

    /// A slot for an event on disk. Waits for it as long as it takes: who gives up his place in the line would never
    /// come to its front while newcomers crowd in. The caller sets the deadline.
    pub async fn slot_from_disk(&self, event: EventId) -> Result<Slot, Held> {
        self.not_held(event)?;
        let _first = self.backlog.lock().await;
        let permit = self.free_slot().await?;
        self.permitted(event, permit)
    }

    /// A slot whatever the breaker says: for an event that nobody keeps, an attempt is better than none.
    pub async fn slot_regardless(&self, by: Instant) -> Result<Slot, Held> {
        Ok(Slot { _permit: self.newcomers_slot(by).await?, probe: None })
    }

    /// The same where there is no need to wait.
    #[must_use]
    pub fn slot_at_once_regardless(&self) -> Option<Slot> {
        Some(Slot { _permit: self.free_at_once()?, probe: None })
    }

    fn permitted(&self, event: EventId, permit: OwnedSemaphorePermit) -> Result<Slot, Held> {
        self.not_resting()?;
        let probe = self.breaker.ask(event).map_err(Held::Until)?;
        Ok(Slot { _permit: permit, probe })
    }

    /// A slot is free only while nobody waits for one.
    fn free_at_once(&self) -> Option<OwnedSemaphorePermit> {
        if self.rate.is_some() { None } else { self.slots.clone().try_acquire_owned().ok() }
    }

    async fn newcomers_slot(&self, by: Instant) -> Result<OwnedSemaphorePermit, Held> {
        if let Some(permit) = self.free_at_once() {
            return Ok(permit);
        }
        let in_line = async {
            let _first = self.newcomers.lock().await;
            self.free_slot().await
        };
        // Boxed: most find a free slot.
        Box::pin(tokio::time::timeout_at(by, in_line)).await.unwrap_or(Err(Held::Busy))
    }

    async fn free_slot(&self) -> Result<OwnedSemaphorePermit, Held> {
        let permit = self.slots.clone().acquire_owned().await.map_err(|_| Held::Busy)?;
        if let Some(rate) = &self.rate {
            rate.wait().await;
        }
        Ok(permit)
    }

    /// Nobody waits in line for a slot only to hear that there is none for him.
    fn not_held(&self, event: EventId) -> Result<(), Held> {
        self.not_resting()?;
        self.breaker.wait(event).map_err(Held::Until)
    }

    fn not_resting(&self) -> Result<(), Held> {
        match *self.rest_until.borrow() {
            Some(until) if Instant::now() < until => Err(Held::Until(until)),
            Some(_) | None => Ok(()),
        }
    }

    /// Learns from the outcome of an attempt of `event` that ended `now`. Says whether the application has just come back.
    pub fn learn(&self, now: Timestamp, event: EventId, outcome: &Outcome) -> Learnt {
        let mut breaker = self.breaker.lock();
        let was_closed = breaker.is_closed();
        let elapsed = || self.breaker.started.elapsed();
        match outcome {
            Outcome::Accepted(_) | Outcome::Rejected(_) => breaker.succeeded(event),
            Outcome::Unreachable(_) => breaker.failed(event, Blame::Application, elapsed()),
            Outcome::Failed(_) | Outcome::Unknown { .. } => breaker.failed(event, Blame::Either, elapsed()),
        }
        let is_back = !was_closed && breaker.is_closed();
        drop(breaker);
        if let Some(rest) = outcome.retry_after(now) {
            self.rest(rest);
        }
        if is_back { Learnt::IsBack } else { Learnt::Nothing }
    }

    /// Puts those last whose last attempt failed: what always fails must not come before what was never tried. While the
    /// application is in doubt the others are asked in no order, so that a row of poison does not take probe after probe.
    pub fn failed_last(&self, events: &mut [EventId]) {
        let breaker = self.breaker.lock();
        if breaker.knows_failures() {
            let in_turn = breaker.is_closed();
            let draw = || if in_turn { 0 } else { fastrand::u32(..) };
            events.sort_by_cached_key(|event| (breaker.has_failed(*event), draw()));
        }
    }

    /// Whether there are events of which it is known that their last attempt failed.
    #[must_use]
    pub fn knows_failures(&self) -> bool {
        self.breaker.lock().knows_failures()
    }

    fn rest(&self, rest: Duration) {
        let until = Instant::now() + rest;
        self.rest_until.send_if_modified(|slot| {
            let later = slot.is_none_or(|set| set < until);
            if later {
                *slot = Some(until);
            }
            later
        });
    }

    /// Whether the application is considered up.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.breaker.is_closed()
    }

    /// Something of this route may have become due.
    pub fn wake(&self) {
        self.woken.notify_waiters();
    }

    /// Comes when something of this route may have become due since this was called.
    pub fn woken(&self) -> Notified<'_> {
        self.woken.notified()
    }
}

/// How many places a route has.
fn places(route: &Route) -> usize {
    PLACES_A_SLOT.saturating_mul(route.app.max_in_flight)
}

/// What an outcome changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learnt {
    /// The application was considered down and is up: what waits for it can go.
    IsBack,
    /// Nothing that anybody waits for.
    Nothing,
}

/// Why there is no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Not before this moment: the breaker is open or the application asked for rest.
    Until(Instant),
    /// All slots stayed taken, or the rate used up, for as long as the caller could wait.
    Busy,
}

#[cfg(test)]
mod tests;

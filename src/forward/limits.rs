//! What holds attempts back: the breaker of an application's address, the rest it asked for, how many may run at
//! once, how many a second. All of it is per route, but for the breaker, which belongs to the address.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use crate::domain::breaker::{Breaker, Permit};
use crate::domain::outcome::Outcome;
use crate::domain::route::Route;

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

    fn ask(&self) -> Result<(), Instant> {
        match self.lock().ask(self.started.elapsed()) {
            Permit::Go => Ok(()),
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

/// A route in operation: its configuration and what holds its attempts back.
#[derive(Debug)]
pub struct Lane {
    /// The route.
    pub route: Arc<Route>,
    breaker: Arc<SharedBreaker>,
    slots: Arc<Semaphore>,
    rate: Option<Arc<DefaultDirectRateLimiter>>,
    rest_until: watch::Sender<Option<Instant>>,
}

/// Permission for one attempt; giving it back is dropping it. A probe that was not sent goes back to the breaker.
#[derive(Debug)]
pub struct Slot {
    _permit: OwnedSemaphorePermit,
    breaker: BreakerState,
    unused_probe: Option<Arc<SharedBreaker>>,
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
        self.breaker
    }

    /// The attempt begins.
    pub fn used(&mut self) {
        self.unused_probe = None;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(breaker) = self.unused_probe.take() {
            let now = breaker.started.elapsed();
            breaker.lock().probe_unused(now);
        }
    }
}

impl Lane {
    /// A lane for `route` behind `breaker`. What the lane before it had given out or been told still counts: the rest
    /// that the application asked for always, slots and rate where the configuration of them is the same.
    #[must_use]
    pub fn new(route: Arc<Route>, breaker: Arc<SharedBreaker>, before: Option<&Self>) -> Self {
        let rate = route.delivery.rate_per_second.and_then(NonZeroU32::new);
        let same_rate = before.filter(|lane| lane.route.delivery.rate_per_second == route.delivery.rate_per_second);
        let same_slots = before.filter(|lane| lane.route.app.max_in_flight == route.app.max_in_flight);
        Self {
            breaker,
            slots: same_slots
                .map_or_else(|| Arc::new(Semaphore::new(route.app.max_in_flight)), |lane| lane.slots.clone()),
            rate: same_rate.map_or_else(
                || rate.map(|rate| Arc::new(RateLimiter::direct(Quota::per_second(rate)))),
                |lane| lane.rate.clone(),
            ),
            rest_until: watch::channel(before.and_then(|lane| *lane.rest_until.borrow())).0,
            route,
        }
    }

    /// A slot, or the moment before which there is none: the breaker is open, or the application rests. Waits for a
    /// free slot and for the rate, at most until `by`.
    pub async fn slot(&self, by: Instant) -> Result<Slot, Held> {
        self.not_resting()?;
        let permit = self.free_slot(by).await?;
        self.not_resting()?;
        let was_closed = self.breaker.is_closed();
        self.breaker.ask().map_err(Held::Until)?;
        Ok(if was_closed {
            Slot { _permit: permit, breaker: BreakerState::Closed, unused_probe: None }
        } else {
            let unused_probe = Some(self.breaker.clone());
            Slot { _permit: permit, breaker: BreakerState::Probing, unused_probe }
        })
    }

    /// A slot whatever the breaker says: for an event that nobody keeps, an attempt is better than none.
    pub async fn slot_regardless(&self, by: Instant) -> Result<Slot, Held> {
        let permit = self.free_slot(by).await?;
        Ok(Slot { _permit: permit, breaker: BreakerState::Closed, unused_probe: None })
    }

    async fn free_slot(&self, by: Instant) -> Result<OwnedSemaphorePermit, Held> {
        let permit = tokio::time::timeout_at(by, self.slots.clone().acquire_owned());
        let Ok(Ok(permit)) = permit.await else { return Err(Held::Busy) };
        self.within_rate(by).await?;
        Ok(permit)
    }

    async fn within_rate(&self, by: Instant) -> Result<(), Held> {
        let Some(rate) = &self.rate else { return Ok(()) };
        while let Err(not_yet) = rate.check() {
            let next = Instant::now() + not_yet.wait_time_from(DefaultClock::default().now());
            if next > by {
                return Err(Held::Busy);
            }
            tokio::time::sleep_until(next).await;
        }
        Ok(())
    }

    fn not_resting(&self) -> Result<(), Held> {
        match *self.rest_until.borrow() {
            Some(until) if Instant::now() < until => Err(Held::Until(until)),
            Some(_) | None => Ok(()),
        }
    }

    /// Learns from an attempt's outcome.
    pub fn learn(&self, outcome: &Outcome) {
        match outcome {
            Outcome::Accepted(_) | Outcome::Rejected(_) => self.breaker.lock().succeeded(),
            Outcome::Failed(_) | Outcome::Unreachable(_) | Outcome::Unknown { .. } => {
                let now = self.breaker.started.elapsed();
                self.breaker.lock().failed(now);
            }
        }
        if let Some(rest) = outcome.retry_after() {
            self.rest(rest);
        }
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
mod tests {
    use super::*;
    use crate::domain::outcome::{AppAnswer, Timeout};
    use crate::domain::route::fixture;
    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue, StatusCode};

    fn lane(max_in_flight: usize, rate: Option<u32>) -> Lane {
        let mut route = fixture("r");
        route.app.max_in_flight = max_in_flight;
        route.delivery.rate_per_second = rate;
        let breaker = Arc::new(SharedBreaker::new(&route));
        Lane::new(Arc::new(route), breaker, None)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(10)
    }

    fn failed(status: StatusCode, retry_after: Option<&'static str>) -> Outcome {
        let mut headers = HeaderMap::new();
        if let Some(rest) = retry_after {
            headers.insert(http::header::RETRY_AFTER, HeaderValue::from_static(rest));
        }
        Outcome::of_answer(AppAnswer { status, headers, body: Bytes::new() })
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_attempts_run_at_once_than_the_route_allows() {
        let lane = lane(1, None);
        let first = lane.slot(soon()).await.expect("a free slot");
        assert_eq!(lane.slot(soon()).await.err(), Some(Held::Busy));
        drop(first);
        assert!(lane.slot(soon()).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_for_rest_holds_the_whole_route_until_it_is_over() {
        let lane = lane(4, None);
        let until = Instant::now() + Duration::from_secs(7);
        lane.learn(&failed(StatusCode::TOO_MANY_REQUESTS, Some("7")));
        assert_eq!(lane.slot(soon()).await.err(), Some(Held::Until(until)));
        tokio::time::advance(Duration::from_secs(7)).await;
        assert!(lane.slot(soon()).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn an_application_that_fails_again_and_again_is_probed_and_not_flooded() {
        let lane = lane(4, None);
        for _ in 0..5 {
            lane.learn(&Outcome::Unknown { error: String::new(), timed_out: Timeout::Elapsed });
        }
        assert!(!lane.is_up());
        assert!(matches!(lane.slot(soon()).await.err(), Some(Held::Until(_))));
        assert!(lane.slot_regardless(soon()).await.is_ok(), "an event that nobody keeps is tried all the same");
        tokio::time::advance(Duration::from_secs(5)).await;
        let probe = lane.slot(soon()).await.expect("one probe");
        assert_eq!(probe.breaker(), BreakerState::Probing);
        assert!(matches!(lane.slot(soon()).await.err(), Some(Held::Until(_))), "one at a time");
        lane.learn(&failed(StatusCode::NOT_FOUND, None));
        assert!(lane.is_up(), "an application that rejects one event is up");
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_was_not_sent_goes_back() {
        let lane = lane(4, None);
        for _ in 0..5 {
            lane.learn(&Outcome::Unreachable(String::new()));
        }
        tokio::time::advance(Duration::from_secs(5)).await;
        drop(lane.slot(soon()).await.expect("the probe"));
        let mut probe = lane.slot(soon()).await.expect("the same probe again");
        probe.used();
        drop(probe);
        assert!(matches!(lane.slot(soon()).await.err(), Some(Held::Until(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reload_forgets_neither_the_rest_nor_the_slots_in_use() {
        let before = lane(1, None);
        let _taken = before.slot(soon()).await.expect("a free slot");
        let after = Lane::new(before.route.clone(), before.breaker.clone(), Some(&before));
        assert_eq!(after.slot(soon()).await.err(), Some(Held::Busy));
        before.learn(&failed(StatusCode::SERVICE_UNAVAILABLE, Some("60")));
        let after = Lane::new(before.route.clone(), before.breaker.clone(), Some(&before));
        assert!(matches!(after.slot(soon()).await.err(), Some(Held::Until(_))));
    }
}

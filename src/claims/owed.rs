//! What the shared store is told behind the backs of those who go on: whether it answers, the marks that nobody waits for, and
//! what it missed while it did not.
//!
//! A mark that nobody waits for is told with all others that came while those before were on their way; one that was not
//! heard of is owed like one of an outage. [`Owed::tend`] probes, repairs and checks.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::meter::{Meter, Op, Up};
use super::store::{Claim, Processed, Shared, StoreFault};
use crate::domain::key::EventKey;
use crate::domain::route::OnStoreDown;
use crate::telemetry::Metrics;

/// How often a store that is down is probed.
const PROBE_DOWN: Duration = Duration::from_millis(250);
/// How often a store that is up is probed, for the times when nobody asks it anything.
const PROBE_UP: Duration = Duration::from_secs(2);
/// How often it is asked whether it evicts keys.
const CHECK_POLICY: Duration = Duration::from_secs(60);
/// Marks and releases kept for Redis while it is down; at some 150 bytes each: 10 MB. Past it the oldest are given up:
/// they hold here, and other replicas may see those events as new.
const REPAIRS: usize = 65_536;
/// Longest time that repairs keep Redis from being asked again.
const REPAIR_FIRST: Duration = Duration::from_secs(2);
/// Most marks that are told at once: Redis does nothing else meanwhile, for some 2 ms. With those that wait to be told there
/// are at most [`REPAIRS`]; the rest is owed.
const TOLD_AT_ONCE: usize = 512;

/// Shortest time from when some marks are told to when the next are: nobody waits for them, and many in one piece cost Redis
/// and the gateway less than each (ADR 12).
const TELL_EVERY: Duration = Duration::from_millis(2);

/// A shared store, and what it has yet to hear.
#[derive(Debug)]
pub(super) struct Owed {
    pub(super) redis: Arc<dyn Shared>,
    policy: OnStoreDown,
    /// Whether Redis is asked. Cleared by whoever sees it fail, set by `tend` alone.
    up: AtomicBool,
    /// Told when `tend` is not to wait: Redis went down, or is owed what others wait for.
    look_soon: Notify,
    /// Up to when the time without Redis has been counted, while it is down.
    down_since: Mutex<Option<Instant>>,
    repairs: Mutex<VecDeque<Repair>>,
    marks: Mutex<Marks>,
    /// Told when no mark waits any more.
    all_told: Notify,
    pub(super) meter: Meter,
}

/// Marks that nobody waits for.
#[derive(Debug, Default)]
struct Marks {
    waiting: VecDeque<Mark>,
    /// Whether a task tells them.
    are_told: bool,
}

/// One of them.
#[derive(Debug)]
struct Mark {
    claim: Claim,
    ttl: Duration,
}

/// What Redis has to be told.
#[derive(Clone, Debug)]
struct Repair {
    claim: Claim,
    what: What,
    since: Instant,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    Mark { ttl: Duration },
    Release(Processed),
}

impl Owed {
    /// `redis` counts as up until it is seen to be down: a start waits for nothing.
    pub(super) fn new(redis: Arc<dyn Shared>, policy: OnStoreDown, metrics: Arc<Metrics>) -> Self {
        let meter = Meter::new(metrics, "redis");
        meter.show(Up::Yes);
        Self {
            redis,
            policy,
            up: AtomicBool::new(true),
            look_soon: Notify::new(),
            down_since: Mutex::default(),
            repairs: Mutex::default(),
            marks: Mutex::default(),
            all_told: Notify::new(),
            meter,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    /// Has `tend` look soon.
    pub(super) fn look_soon(&self) {
        self.look_soon.notify_one();
    }

    /// Probes Redis, tells it what it missed, and watches its eviction policy. Never returns; dropping it is safe.
    pub(super) async fn tend(&self) {
        let mut policy_at = Instant::now();
        loop {
            match self.redis.probe().await {
                Ok(()) => {
                    self.come_back().await;
                    if Instant::now() >= policy_at {
                        policy_at = Instant::now() + CHECK_POLICY;
                        self.check_policy().await;
                    }
                }
                Err(fault) => self.go_down(&fault),
            }
            self.count_time_down();
            if self.is_up() {
                tokio::select! {
                    biased;
                    () = tokio::time::sleep(PROBE_UP) => {}
                    () = self.look_soon.notified() => tokio::time::sleep(PROBE_DOWN).await,
                }
            } else {
                tokio::time::sleep(PROBE_DOWN).await;
            }
        }
    }

    /// Redis answers: it is told the most urgent, asked again, and told the rest.
    async fn come_back(&self) {
        let first = Instant::now() + REPAIR_FIRST;
        if self.repair(first).await.is_err() {
            return;
        }
        // Before it is asked again: whoever sees it fail next begins to count anew.
        self.count_time_down();
        *self.lock_down_since() = None;
        if !self.up.swap(true, Ordering::AcqRel) {
            tracing::warn!("the dedup store redis answers again");
        }
        self.meter.show(Up::Yes);
        let rest = Instant::now() + PROBE_UP;
        if let Err(fault) = self.repair(rest).await {
            self.go_down(&fault);
        }
    }

    async fn repair(&self, until: Instant) -> Result<(), StoreFault> {
        while Instant::now() < until {
            let Some(repair) = self.lock().pop_front() else { return Ok(()) };
            if let Err(fault) = self.tell(&repair).await {
                self.lock().push_front(repair);
                return Err(fault);
            }
            self.meter.owed(self.lock().len());
        }
        Ok(())
    }

    async fn tell(&self, repair: &Repair) -> Result<(), StoreFault> {
        match repair.what {
            What::Mark { ttl } => match ttl.checked_sub(repair.since.elapsed()) {
                Some(left) => self.redis.mark(&repair.claim, left).await,
                None => Ok(()),
            },
            What::Release(processed) => self.redis.release(&repair.claim, processed).await,
        }
    }

    pub(super) fn owe(&self, claim: &Claim, what: What) {
        let mut repairs = self.lock();
        if repairs.len() >= REPAIRS {
            repairs.pop_front();
            self.meter.gave_up_a_repair();
        }
        repairs.push_back(Repair { claim: claim.clone(), what, since: Instant::now() });
        self.meter.owed(repairs.len());
    }

    pub(super) fn go_down(&self, fault: &StoreFault) {
        self.meter.show(Up::No);
        if self.up.swap(false, Ordering::AcqRel) {
            *self.lock_down_since() = Some(Instant::now());
            tracing::error!(%fault, policy = ?self.policy, "the dedup store redis does not answer; on_store_down decides");
            self.look_soon.notify_one();
        }
    }

    /// Counts the time without Redis that has passed since it was last counted.
    fn count_time_down(&self) {
        if let Some(since) = &mut *self.lock_down_since() {
            let now = Instant::now();
            self.meter.was_down_for(now - *since);
            *since = now;
        }
    }

    fn lock_down_since(&self) -> MutexGuard<'_, Option<Instant>> {
        lock(&self.down_since)
    }

    async fn check_policy(&self) {
        let policy = self.redis.eviction_policy().await;
        if let Ok(Some(policy)) = &policy {
            self.meter.evicts(policy != "noeviction");
        }
        match policy {
            Ok(Some(policy)) if policy != "noeviction" => tracing::error!(
                policy,
                "redis gives up keys when its memory is full, and with them claims: set maxmemory-policy noeviction"
            ),
            Ok(_) => {}
            Err(fault) => tracing::warn!(%fault, "redis does not say whether it evicts keys"),
        }
    }

    /// Has it told of a mark that nobody waits for.
    pub(super) fn mark_soon(self: &Arc<Self>, claim: &Claim, ttl: Duration) {
        if !self.is_up() {
            return self.owe(claim, What::Mark { ttl });
        }
        let mut marks = lock(&self.marks);
        if marks.waiting.len() >= REPAIRS {
            drop(marks);
            return self.owe(claim, What::Mark { ttl });
        }
        marks.waiting.push_back(Mark { claim: claim.clone(), ttl });
        if !std::mem::replace(&mut marks.are_told, true) {
            drop(marks);
            tokio::spawn(Telling { of: self.clone(), marks: Vec::new(), ended: false }.tell());
        }
    }

    /// Comes when no mark waits to be told.
    pub(super) async fn all_told(&self) {
        loop {
            let told = self.all_told.notified();
            if !lock(&self.marks).are_told {
                return;
            }
            told.await;
        }
    }

    /// Forgets what was to be told of an event.
    pub(super) fn forget(&self, key: EventKey) {
        lock(&self.marks).waiting.retain(|mark| mark.claim.key != key);
        self.lock().retain(|repair| repair.claim.key != key);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Repair>> {
        lock(&self.repairs)
    }
}

/// The marks that are on their way; dropped half-way, all that wait are owed.
struct Telling {
    of: Arc<Owed>,
    marks: Vec<(Claim, Duration)>,
    /// None waited any more.
    ended: bool,
}

impl Telling {
    /// Tells all that wait, and those that come meanwhile.
    async fn tell(mut self) {
        while self.of.is_up() && self.take() {
            let began = Instant::now();
            match self.of.redis.mark_all(&self.marks).await {
                Ok(()) => self.marks.drain(..).for_each(|_| self.of.meter.took(Op::Mark, began.into_std())),
                Err(fault) => {
                    self.of.go_down(&fault);
                    return;
                }
            }
            tokio::time::sleep_until(began + TELL_EVERY).await;
        }
    }

    /// Takes those that wait. If there are none this has ended, and the next mark begins anew.
    fn take(&mut self) -> bool {
        let mut marks = lock(&self.of.marks);
        self.of.meter.found_waiting(marks.waiting.len());
        let count = marks.waiting.len().min(TOLD_AT_ONCE);
        for mark in marks.waiting.drain(..count) {
            self.marks.push((mark.claim, mark.ttl));
        }
        self.ended = count == 0;
        marks.are_told = count > 0;
        if self.ended {
            drop(marks);
            self.of.all_told.notify_waiters();
        }
        count > 0
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let mut marks = lock(&self.of.marks);
        let waiting = std::mem::take(&mut marks.waiting);
        self.of.meter.found_waiting(0);
        marks.are_told = false;
        drop(marks);
        let waiting = waiting.into_iter().map(|mark| (mark.claim, mark.ttl));
        for (claim, ttl) in self.marks.drain(..).chain(waiting) {
            self.of.owe(&claim, What::Mark { ttl });
        }
        self.of.all_told.notify_waiters();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

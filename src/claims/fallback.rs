//! The shared store with the embedded one beside it, so that an outage of Redis costs a bounded wait, once.
//!
//! The embedded table is always written and consulted first: an event marked here is a duplicate whatever Redis says,
//! which may have been flushed or failed over. Then Redis decides. When it does not answer in time it counts as down:
//! until a probe has seen it answer nobody waits for it, and `on_store_down` decides. What could not be told meanwhile
//! is told when it is back, before it is asked again.
//!
//! [`Fallback::tend`] probes, repairs and checks; its owner runs it as long as the store is used.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::embedded::Embedded;
use super::meter::{Meter, Op, Up};
use super::store::{Claim, ClaimStore, Claimed, Elsewhere, Peeked, Processed, Shared, StoreFault};
use crate::disk::Found;
use crate::domain::key::EventKey;
use crate::domain::route::OnStoreDown;
use crate::domain::time::Timestamp;
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

/// Redis with the embedded store beside it.
#[derive(Debug)]
pub struct Fallback {
    redis: Arc<dyn Shared>,
    local: Arc<Embedded>,
    policy: OnStoreDown,
    /// Whether Redis is asked. Cleared by whoever sees it fail, set by `tend` alone.
    up: AtomicBool,
    /// Told when `tend` is not to wait: Redis went down, or is owed what others wait for.
    look_soon: Notify,
    /// Up to when the time without Redis has been counted, while it is down.
    down_since: Mutex<Option<Instant>>,
    repairs: Mutex<VecDeque<Repair>>,
    local_meter: Meter,
    shared_meter: Meter,
}

/// What Redis has to be told.
#[derive(Clone, Debug)]
struct Repair {
    claim: Claim,
    what: What,
    since: Instant,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Mark { ttl: Duration },
    Release(Processed),
}

impl Fallback {
    /// Redis first, `local` beside it. Redis counts as up until it is seen to be down: a start waits for nothing.
    #[must_use]
    pub fn new(redis: Arc<dyn Shared>, local: Arc<Embedded>, policy: OnStoreDown, metrics: Arc<Metrics>) -> Self {
        let shared_meter = Meter::new(metrics.clone(), "redis");
        shared_meter.show(Up::Yes);
        Self {
            redis,
            local,
            policy,
            up: AtomicBool::new(true),
            look_soon: Notify::new(),
            down_since: Mutex::default(),
            repairs: Mutex::default(),
            local_meter: Meter::new(metrics, "embedded"),
            shared_meter,
        }
    }

    /// The embedded store beside Redis.
    #[must_use]
    pub const fn local(&self) -> &Arc<Embedded> {
        &self.local
    }

    /// Probes Redis, tells it what it missed, and watches its eviction policy. Never returns; dropping it is safe.
    pub async fn tend(&self) {
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
        self.shared_meter.show(Up::Yes);
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
            self.shared_meter.owed(self.lock().len());
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

    fn owe(&self, claim: &Claim, what: What) {
        let mut repairs = self.lock();
        if repairs.len() >= REPAIRS {
            repairs.pop_front();
            self.shared_meter.gave_up_a_repair();
        }
        repairs.push_back(Repair { claim: claim.clone(), what, since: Instant::now() });
        self.shared_meter.owed(repairs.len());
    }

    fn go_down(&self, fault: &StoreFault) {
        self.shared_meter.show(Up::No);
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
            self.shared_meter.was_down_for(now - *since);
            *since = now;
        }
    }

    fn lock_down_since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.down_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn check_policy(&self) {
        let policy = self.redis.eviction_policy().await;
        if let Ok(Some(policy)) = &policy {
            self.shared_meter.evicts(policy != "noeviction");
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

    /// What is decided when Redis is not asked or does not answer.
    fn without_redis(&self, local: Claimed) -> Result<Claimed, StoreFault> {
        match (self.policy, local) {
            (OnStoreDown::Local, _) => Ok(local),
            (OnStoreDown::Refuse, _) => {
                Err(StoreFault::Refused("the dedup store redis is down and on_store_down is refuse".to_owned()))
            }
            (OnStoreDown::Accept, Claimed::Lapsed) => Ok(Claimed::Lapsed),
            (
                OnStoreDown::Accept,
                Claimed::New | Claimed::Conflict | Claimed::Unsure | Claimed::Duplicate | Claimed::InFlight,
            ) => Ok(Claimed::Unsure),
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Repair>> {
        self.repairs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Both stores gave the event to us: the more suspicious answer counts.
const fn worse(local: Claimed, shared: Claimed) -> Claimed {
    match (local, shared) {
        (Claimed::Lapsed, _) | (_, Claimed::Lapsed) => Claimed::Lapsed,
        (Claimed::Conflict, _) | (_, Claimed::Conflict) => Claimed::Conflict,
        (Claimed::New | Claimed::Duplicate | Claimed::InFlight | Claimed::Unsure, _) => shared,
    }
}

/// A claim that is given up unless it is kept: here, and in Redis if that was asked and was not heard, since it may
/// have taken the claim, or may yet, and others would have to wait for the lease to pass.
struct Provisional<'a> {
    store: &'a Fallback,
    claim: &'a Claim,
    kept: bool,
    /// Redis was asked and has not answered.
    unheard: bool,
}

impl Provisional<'_> {
    async fn ask_redis(&mut self) -> Option<Claimed> {
        if !self.store.is_up() {
            return None;
        }
        self.unheard = true;
        match self.store.redis.decide(self.claim).await {
            Ok(shared) => {
                self.unheard = false;
                Some(shared)
            }
            Err(fault) => {
                self.store.shared_meter.checked(&Err(fault.clone()));
                self.store.go_down(&fault);
                None
            }
        }
    }
}

impl Drop for Provisional<'_> {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        self.store.local.give_up(self.claim, Processed::Not);
        if self.unheard {
            self.store.owe(self.claim, What::Release(Processed::Not));
            self.store.look_soon.notify_one();
        }
    }
}

#[async_trait]
impl ClaimStore for Fallback {
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreFault> {
        let since = std::time::Instant::now();
        let local = self.local.decide(claim).await;
        if let Ok(Claimed::Duplicate | Claimed::InFlight) = local {
            self.local_meter.checked(&local);
            self.local_meter.took(Op::Claim, since);
            return local;
        }
        let mut provisional = Provisional { store: self, claim, kept: false, unheard: false };
        let shared = provisional.ask_redis().await;
        let (answer, meter) = match (local, shared) {
            (Ok(local), Some(shared)) if shared.is_ours() => (Ok(worse(local, shared)), &self.shared_meter),
            // The local table cannot be read, and the shared one may have been flushed: nobody vouches for a first time.
            (Err(_), Some(Claimed::New | Claimed::Conflict)) => (Ok(Claimed::Unsure), &self.shared_meter),
            (_, Some(shared)) => (Ok(shared), &self.shared_meter),
            (Ok(local), None) => (self.without_redis(local), &self.local_meter),
            (Err(fault), None) => (Err(fault), &self.local_meter),
        };
        provisional.kept = answer.as_ref().is_ok_and(|answer| answer.is_ours());
        meter.checked(&answer);
        meter.took(Op::Claim, since);
        answer
    }

    async fn mark(&self, claim: &Claim, ttl: Duration) -> Result<(), StoreFault> {
        self.local.remember_processed(claim, ttl);
        if self.is_up() {
            match self.redis.mark(claim, ttl).await {
                Ok(()) => return Ok(()),
                Err(fault) => self.go_down(&fault),
            }
        }
        self.owe(claim, What::Mark { ttl });
        Ok(())
    }

    /// Not asked while Redis is down: nobody waits for it, and the event is sent as it stands.
    async fn vouch(&self, claim: &Claim, ttl: Duration) -> Result<Elsewhere, StoreFault> {
        if !self.is_up() {
            return Ok(Elsewhere::No);
        }
        let vouched = self.redis.vouch(claim, ttl).await;
        if let Err(fault) = &vouched {
            self.go_down(fault);
            self.owe(claim, What::Mark { ttl });
        }
        vouched
    }

    async fn release(&self, claim: &Claim, processed: Processed) -> Result<(), StoreFault> {
        self.local.give_up(claim, processed);
        if self.is_up() {
            match self.redis.release(claim, processed).await {
                Ok(()) => return Ok(()),
                Err(fault) => self.go_down(&fault),
            }
        }
        self.owe(claim, What::Release(processed));
        Ok(())
    }

    async fn peek(&self, route: &str, key: EventKey, now: Timestamp) -> Result<Option<Peeked>, StoreFault> {
        let local = self.local.peek(route, key, now).await?;
        if local.is_some() || !self.is_up() {
            return Ok(local);
        }
        self.redis.peek(route, key, now).await
    }

    async fn forget(&self, route: &str, key: EventKey) -> Result<Found, StoreFault> {
        // Redis first: while it still knows the event, forgetting it here alone would be no forgetting.
        let shared = self.redis.forget(route, key).await?;
        let local = self.local.forget(route, key).await?;
        self.lock().retain(|repair| repair.claim.key != key);
        Ok(if shared == Found::Yes { shared } else { local })
    }

    fn name(&self) -> &'static str {
        "redis"
    }

    fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }
}

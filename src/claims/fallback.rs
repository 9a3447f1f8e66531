//! The shared store with the embedded one beside it, so that an outage of Redis costs a bounded wait, once.
//!
//! The embedded table is always written and consulted first: an event marked here is a duplicate whatever Redis says,
//! which may have been flushed or failed over. Then Redis decides. When it does not answer in time it counts as down:
//! until a probe has seen it answer nobody waits for it, and `on_store_down` decides. What could not be told meanwhile
//! is told when it is back, before it is asked again.
//!
//! [`Fallback::tend`] probes, repairs and checks (`owed.rs`); its owner runs it as long as the store is used.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::embedded::Embedded;
use super::meter::{Meter, Op};
use super::owed::{Owed, What};
use super::store::{Claim, ClaimStore, Claimed, Elsewhere, Marked, Peeked, Processed, Shared, StoreFault};
use crate::disk::Found;
use crate::domain::key::EventKey;
use crate::domain::route::OnStoreDown;
use crate::domain::time::Timestamp;
use crate::telemetry::Metrics;

/// Redis with the embedded store beside it.
#[derive(Debug)]
pub struct Fallback {
    shared: Arc<Owed>,
    local: Arc<Embedded>,
    policy: OnStoreDown,
    local_meter: Meter,
}

impl Fallback {
    /// Redis first, `local` beside it. Redis counts as up until it is seen to be down: a start waits for nothing.
    #[must_use]
    pub fn new(redis: Arc<dyn Shared>, local: Arc<Embedded>, policy: OnStoreDown, metrics: Arc<Metrics>) -> Self {
        let shared = Arc::new(Owed::new(redis, policy, metrics.clone()));
        Self { shared, local, policy, local_meter: Meter::new(metrics, "embedded") }
    }

    /// The embedded store beside Redis.
    #[must_use]
    pub const fn local(&self) -> &Arc<Embedded> {
        &self.local
    }

    /// Probes Redis, tells it what it missed, and watches its eviction policy. Never returns; dropping it is safe.
    pub async fn tend(&self) {
        self.shared.tend().await;
    }

    /// Comes when Redis has heard of every mark that nobody waited for, or they are owed to it.
    pub async fn all_told(&self) {
        self.shared.all_told().await;
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
                Claimed::New
                | Claimed::Conflict
                | Claimed::Unsure
                | Claimed::Unread
                | Claimed::Duplicate
                | Claimed::InFlight,
            ) => Ok(Claimed::Unsure),
        }
    }
}

/// Both stores gave the event to us: the more suspicious answer counts.
const fn worse(local: Claimed, shared: Claimed) -> Claimed {
    match (local, shared) {
        (Claimed::Lapsed, _) | (_, Claimed::Lapsed) => Claimed::Lapsed,
        (Claimed::Conflict, _) | (_, Claimed::Conflict) => Claimed::Conflict,
        (Claimed::New | Claimed::Duplicate | Claimed::InFlight | Claimed::Unsure | Claimed::Unread, _) => shared,
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
        match self.store.shared.redis.decide(self.claim).await {
            Ok(shared) => {
                self.unheard = false;
                Some(shared)
            }
            Err(fault) => {
                self.store.shared.meter.checked(&Err(fault.clone()));
                self.store.shared.go_down(&fault);
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
            self.store.shared.owe(self.claim, What::Release(Processed::Not));
            self.store.shared.look_soon();
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
            (Ok(local), Some(shared)) if shared.is_ours() => (Ok(worse(local, shared)), &self.shared.meter),
            // The local table cannot be read, and the shared one may have been flushed: nobody vouches for a first time.
            (Err(_), Some(Claimed::New | Claimed::Conflict)) => (Ok(Claimed::Unread), &self.shared.meter),
            (_, Some(shared)) => (Ok(shared), &self.shared.meter),
            (Ok(local), None) => (self.without_redis(local), &self.local_meter),
            (Err(fault), None) => (Err(fault), &self.local_meter),
        };
        provisional.kept = answer.as_ref().is_ok_and(|answer| answer.is_ours());
        meter.checked(&answer);
        meter.took(Op::Claim, since);
        answer
    }

    async fn prolong(&self, claim: &Claim) {
        // It is its owner's still. Whatever Redis says, the attempt goes on.
        if self.is_up()
            && let Err(fault) = self.shared.redis.decide(claim).await
        {
            self.shared.go_down(&fault);
        }
    }

    async fn mark(&self, claim: &Claim, ttl: Duration) -> Result<(), StoreFault> {
        self.local.remember_processed(claim, ttl);
        if self.is_up() {
            match self.shared.redis.mark(claim, ttl).await {
                Ok(()) => return Ok(()),
                Err(fault) => self.shared.go_down(&fault),
            }
        }
        self.shared.owe(claim, What::Mark { ttl });
        Ok(())
    }

    /// Redis is told with all that is told it at once; whoever asks here knows already.
    fn mark_at_once(&self, claim: &Claim, ttl: Duration) -> Marked {
        self.local.remember_processed(claim, ttl);
        self.shared.mark_soon(claim, ttl);
        Marked::Yes
    }

    /// Not asked while Redis is down: nobody waits for it, and the event is sent as it stands.
    async fn vouch(&self, claim: &Claim, ttl: Duration) -> Result<Elsewhere, StoreFault> {
        if !self.is_up() {
            return Ok(Elsewhere::No);
        }
        let vouched = self.shared.redis.vouch(claim, ttl).await;
        if let Err(fault) = &vouched {
            self.shared.go_down(fault);
            self.shared.owe(claim, What::Mark { ttl });
        }
        vouched
    }

    async fn release(&self, claim: &Claim, processed: Processed) -> Result<(), StoreFault> {
        self.local.give_up(claim, processed);
        if self.is_up() {
            match self.shared.redis.release(claim, processed).await {
                Ok(()) => return Ok(()),
                Err(fault) => self.shared.go_down(&fault),
            }
        }
        self.shared.owe(claim, What::Release(processed));
        Ok(())
    }

    async fn peek(&self, route: &str, key: EventKey, now: Timestamp) -> Result<Option<Peeked>, StoreFault> {
        let local = self.local.peek(route, key, now).await?;
        if local.is_some() || !self.is_up() {
            return Ok(local);
        }
        self.shared.redis.peek(route, key, now).await
    }

    async fn forget(&self, route: &str, key: EventKey) -> Result<Found, StoreFault> {
        // Redis first: while it still knows the event, forgetting it here alone would be no forgetting.
        let shared = self.shared.redis.forget(route, key).await?;
        let local = self.local.forget(route, key).await?;
        self.shared.forget(key);
        Ok(if shared == Found::Yes { shared } else { local })
    }

    fn name(&self) -> &'static str {
        "redis"
    }

    fn is_up(&self) -> bool {
        self.shared.is_up()
    }
}

//! The fake shared store: it decides as the real one's scripts do, takes its time, and is out of reach at times. It
//! outlives the runs of the gateway.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use hookgate::claims::store::{Claim, ClaimStore, Claimed, Peeked, Processed, REMEMBER, Shared, StoreFault as Fault};
use hookgate::disk::Found;
use hookgate::domain::key::EventKey;
use hookgate::domain::time::Timestamp;
use uuid::Uuid;

use super::plan::StoreTrouble;
use super::world::World;

/// How long the gateway waits for an answer.
const TIMEOUT: u64 = 50;

/// The store, as a run of the gateway sees it.
#[derive(Debug)]
pub struct Store {
    pub world: Arc<World>,
    pub memory: Arc<Mutex<Memory>>,
}

/// What it remembers: by key, with the moments in milliseconds.
#[derive(Debug, Default)]
pub struct Memory {
    entries: BTreeMap<EventKey, Entry>,
    emptied: Vec<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    state: State,
    owner: Uuid,
    leased_until: u64,
    gone_at: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Claimed,
    Flagged,
    Marked,
    Perhaps,
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap()
}

impl Store {
    /// Asks, with the store's latency and its faults.
    async fn ask<T>(&self, what: impl FnOnce(&mut Memory, u64) -> T) -> Result<T, Fault> {
        if self.world.is_void() {
            return std::future::pending().await;
        }
        let latency = self.world.lock().machine.u64(1..6);
        tokio::time::sleep(Duration::from_millis(latency)).await;
        if self.world.is_void() {
            return std::future::pending().await;
        }
        if let Some(answer) = self.answer(what) {
            return Ok(answer);
        }
        tokio::time::sleep(Duration::from_millis(TIMEOUT - latency)).await;
        Err(Fault::Failed(format!("no answer within {TIMEOUT} ms")))
    }

    /// Does it, if it can; answers, if it can.
    fn answer<T>(&self, what: impl FnOnce(&mut Memory, u64) -> T) -> Option<T> {
        let now = self.world.now();
        let faults = self.world.plan.shared.as_ref().map_or(&[][..], |(_, faults)| faults);
        let mut memory = self.memory.lock().unwrap();
        for fault in faults.iter().filter(|fault| fault.way == StoreTrouble::Emptied && fault.from <= now) {
            if !memory.emptied.contains(&fault.from) {
                memory.emptied.push(fault.from);
                memory.entries.clear();
            }
        }
        let is_met = |fault: &&super::plan::StoreFault| {
            (fault.from..fault.until).contains(&now) && fault.way != StoreTrouble::Emptied
        };
        match faults.iter().find(is_met).map(|fault| fault.way) {
            None => Some(what(&mut memory, now)),
            Some(StoreTrouble::LateEffect) => {
                what(&mut memory, now);
                None
            }
            Some(StoreTrouble::Silent | StoreTrouble::Emptied) => None,
        }
    }
}

impl Memory {
    fn live(&self, key: &EventKey, now: u64) -> Option<Entry> {
        self.entries.get(key).copied().filter(|entry| entry.gone_at > now)
    }

    fn claim(&mut self, claim: &Claim, now: u64) -> Claimed {
        let leased_until = now + millis(claim.lease);
        let take = |state| Entry { state, owner: claim.owner, leased_until, gone_at: leased_until + millis(REMEMBER) };
        let (state, said) = match self.live(&claim.key, now) {
            None => {
                let other = self
                    .entries
                    .iter()
                    .any(|(key, entry)| key.slot == claim.key.slot && *key != claim.key && entry.gone_at > now);
                (State::Claimed, if other { Claimed::Conflict } else { Claimed::New })
            }
            Some(Entry { state: State::Marked, .. }) => return Claimed::Duplicate,
            Some(entry) if entry.owner == claim.owner && entry.state != State::Perhaps => {
                (entry.state, if entry.state == State::Flagged { Claimed::Lapsed } else { Claimed::New })
            }
            Some(entry) if entry.state == State::Perhaps || entry.leased_until <= now => {
                (State::Flagged, Claimed::Lapsed)
            }
            Some(_) => return Claimed::InFlight,
        };
        self.entries.insert(claim.key, take(state));
        said
    }

    fn mark(&mut self, claim: &Claim, ttl: Duration, now: u64) {
        let gone_at = now + millis(ttl);
        self.entries.insert(claim.key, Entry { state: State::Marked, owner: claim.owner, leased_until: 0, gone_at });
    }

    fn release(&mut self, claim: &Claim, processed: Processed, now: u64) {
        let Some(entry) = self.live(&claim.key, now).filter(|entry| entry.owner == claim.owner) else { return };
        match (entry.state, processed) {
            (State::Claimed, Processed::Not) => {
                self.entries.remove(&claim.key);
            }
            (State::Claimed | State::Flagged, _) => {
                let gone_at = now + millis(REMEMBER);
                self.entries.insert(claim.key, Entry { state: State::Perhaps, gone_at, ..entry });
            }
            (State::Marked | State::Perhaps, _) => {}
        }
    }
}

#[async_trait]
impl ClaimStore for Store {
    async fn claim(&self, claim: &Claim) -> Result<Claimed, Fault> {
        self.decide(claim).await
    }

    async fn mark(&self, claim: &Claim, ttl: Duration) -> Result<(), Fault> {
        self.ask(|memory, now| memory.mark(claim, ttl, now)).await
    }

    async fn release(&self, claim: &Claim, processed: Processed) -> Result<(), Fault> {
        self.ask(|memory, now| memory.release(claim, processed, now)).await
    }

    async fn peek(&self, _: &str, _: EventKey, _: Timestamp) -> Result<Option<Peeked>, Fault> {
        Ok(None)
    }

    async fn forget(&self, _: &str, key: EventKey) -> Result<Found, Fault> {
        self.ask(|memory, _| if memory.entries.remove(&key).is_some() { Found::Yes } else { Found::No }).await
    }

    fn name(&self) -> &'static str {
        "redis"
    }

    fn is_up(&self) -> bool {
        true
    }
}

#[async_trait]
impl Shared for Store {
    async fn decide(&self, claim: &Claim) -> Result<Claimed, Fault> {
        self.ask(|memory, now| memory.claim(claim, now)).await
    }

    async fn probe(&self) -> Result<(), Fault> {
        self.ask(|_, _| ()).await
    }

    async fn eviction_policy(&self) -> Result<Option<String>, Fault> {
        Ok(None)
    }
}

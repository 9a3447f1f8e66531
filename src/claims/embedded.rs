//! The store of one process: claims in flight in memory, marks in the disk's table. It never waits for a sync: a new
//! event is decided in memory, a known one by at most one read.
//!
//! Bound: `LEASES` claims in flight. They end with their requests; leases that lapsed are swept into the table as
//! "perhaps processed" when a shard fills up.

use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use smallvec::SmallVec;
use uuid::Uuid;

use super::meter::{Meter, Op, Up};
use super::store::{Claim, ClaimStore, Claimed, Marked, Peeked, PeekedState, Processed, REMEMBER, StoreFault};
use crate::disk::{Disk, Found, JobFault, Mark, MarkKind, Recall};
use crate::domain::key::{EventKey, Keyed};
use crate::domain::time::Timestamp;

/// Mutexes that the claims in flight are spread over.
const SHARDS: usize = 64;
/// Claims in flight at most; at some 200 bytes each: 26 MB. The default `max_connections` is 10,000.
const LEASES: usize = 131_072;
/// Claims in a shard at which lapsed ones are looked for.
const CROWDED: usize = 512;

/// The store of one process.
#[derive(Debug)]
pub struct Embedded {
    disk: Disk,
    first: Mutex<Shard>,
    rest: Vec<Mutex<Shard>>,
    meter: Meter,
}

/// Claims in flight of some slots. Held for a few map operations, never across an await.
#[derive(Debug, Default)]
struct Shard {
    /// Nearly always one of a slot.
    by_slot: Keyed<[u8; 16], SmallVec<[Lease; 1]>>,
    leases: usize,
    look_at: usize,
}

#[derive(Clone, Debug)]
struct Lease {
    claim: Claim,
    doubt: Doubt,
}

/// Whether an earlier sending of a claimed event may have been processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doubt {
    None,
    Perhaps,
}

/// What the claims in flight say.
enum Entered {
    Ours { doubt: Doubt, other_body: bool },
    InFlight,
    Crowded,
}

impl Embedded {
    /// The configured store.
    #[must_use]
    pub fn new(disk: Disk) -> Self {
        let store = Self::stand_in(disk);
        store.meter.show(Up::Yes);
        store
    }

    /// The store that stands in for a shared one.
    #[must_use]
    pub fn stand_in(disk: Disk) -> Self {
        let meter = Meter::new(disk.metrics().clone(), "embedded");
        Self { disk, first: Mutex::default(), rest: (1..SHARDS).map(|_| Mutex::default()).collect(), meter }
    }

    /// Remembers every claim in flight as perhaps processed. For the end of the process, before the disk is closed:
    /// the next run then flags what this one cut off.
    pub fn abandon_all(&self, now: Timestamp) {
        for shard in std::iter::once(&self.first).chain(&self.rest) {
            let leases = std::mem::take(&mut *lock(shard)).by_slot;
            for lease in leases.into_values().flatten() {
                self.remember(&lease.claim, now);
            }
        }
    }

    /// As [`ClaimStore::claim`], uncounted.
    pub(super) async fn decide(&self, claim: &Claim) -> Result<Claimed, StoreFault> {
        let pencilled = match self.pencil(claim) {
            Ok(pencilled) => pencilled,
            Err(answer) => return answer,
        };
        let recall = self.disk.recall(claim.key, claim.now).await?;
        Ok(pencilled.decide(recall))
    }

    /// As [`ClaimStore::claim_at_once`], uncounted.
    fn decide_at_once(&self, claim: &Claim) -> Option<Result<Claimed, StoreFault>> {
        let pencilled = match self.pencil(claim) {
            Ok(pencilled) => pencilled,
            Err(answer) => return Some(answer),
        };
        let recall = self.disk.recall_at_once(claim.key, claim.now)?;
        Some(Ok(pencilled.decide(recall)))
    }

    /// Until the table has answered the claim is only pencilled in; dropping it rubs it out. The table is asked behind it:
    /// a mark is put there before its claim goes.
    fn pencil<'a>(&'a self, claim: &'a Claim) -> Result<Pencilled<'a>, Result<Claimed, StoreFault>> {
        match self.enter(claim) {
            Entered::Ours { doubt, other_body } => Ok(Pencilled { store: self, claim, kept: false, doubt, other_body }),
            Entered::InFlight => Err(Ok(Claimed::InFlight)),
            Entered::Crowded => Err(Err(StoreFault::Failed("too many claims are in flight".to_owned()))),
        }
    }

    /// As [`ClaimStore::mark`]; cannot fail.
    pub(super) fn remember_processed(&self, claim: &Claim, ttl: Duration) {
        self.put(claim, MarkKind::Processed, claim.now.plus(ttl), claim.now);
        self.lock(&claim.key).remove(&claim.key, Some(claim.owner));
    }

    fn remember_counted(&self, claim: &Claim, ttl: Duration) {
        let since = Instant::now();
        self.remember_processed(claim, ttl);
        self.meter.took(Op::Mark, since);
    }

    /// As [`ClaimStore::release`]; cannot fail.
    pub(super) fn give_up(&self, claim: &Claim, processed: Processed) {
        let removed = self.lock(&claim.key).remove(&claim.key, Some(claim.owner));
        match (removed, processed) {
            (Some(Lease { doubt: Doubt::Perhaps, .. }), Processed::Not) | (Some(_), Processed::Perhaps) => {
                self.remember(claim, claim.now);
            }
            (Some(Lease { doubt: Doubt::None, .. }), Processed::Not) | (None, Processed::Not | Processed::Perhaps) => {}
        }
    }

    fn enter(&self, claim: &Claim) -> Entered {
        let mut shard = self.lock(&claim.key);
        let lapsed = shard.sweep(claim.now);
        let entered = shard.enter(claim);
        drop(shard);
        for lease in lapsed {
            self.remember(&lease, claim.now);
        }
        entered
    }

    fn doubt(&self, claim: &Claim) {
        if let Some(lease) = self.lock(&claim.key).get(&claim.key) {
            lease.doubt = Doubt::Perhaps;
        }
    }

    fn remember(&self, claim: &Claim, now: Timestamp) {
        self.put(claim, MarkKind::Perhaps, now.plus(REMEMBER), now);
    }

    fn put(&self, claim: &Claim, kind: MarkKind, expires_at: Timestamp, now: Timestamp) {
        self.disk.put_mark(Mark { key: claim.key, kind, expires_at }, now);
    }

    fn lock(&self, key: &EventKey) -> MutexGuard<'_, Shard> {
        let [byte, ..] = key.slot;
        lock(self.rest.get(usize::from(byte) % SHARDS).unwrap_or(&self.first))
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lease {
    fn until(&self) -> Timestamp {
        self.claim.now.plus(self.claim.lease)
    }
}

impl Shard {
    fn enter(&mut self, claim: &Claim) -> Entered {
        let of_slot = self.by_slot.entry(claim.key.slot).or_default();
        let other_body = of_slot.iter().any(|lease| lease.claim.key != claim.key && lease.until() > claim.now);
        if let Some(lease) = of_slot.iter_mut().find(|lease| lease.claim.key == claim.key) {
            if lease.claim.owner != claim.owner {
                if lease.until() > claim.now {
                    return Entered::InFlight;
                }
                lease.doubt = Doubt::Perhaps;
            }
            lease.claim = claim.clone();
            return Entered::Ours { doubt: lease.doubt, other_body };
        }
        if self.leases >= LEASES / SHARDS {
            if of_slot.is_empty() {
                self.by_slot.remove(&claim.key.slot);
            }
            return Entered::Crowded;
        }
        of_slot.push(Lease { claim: claim.clone(), doubt: Doubt::None });
        self.leases += 1;
        Entered::Ours { doubt: Doubt::None, other_body }
    }

    /// Takes a lease out; only that of `owner`, if given.
    fn remove(&mut self, key: &EventKey, owner: Option<Uuid>) -> Option<Lease> {
        let Entry::Occupied(mut of_slot) = self.by_slot.entry(key.slot) else { return None };
        let found = |lease: &Lease| lease.claim.key == *key && owner.is_none_or(|owner| lease.claim.owner == owner);
        let at = of_slot.get().iter().position(found)?;
        let removed = of_slot.get_mut().swap_remove(at);
        if of_slot.get().is_empty() {
            of_slot.remove();
        }
        self.leases -= 1;
        Some(removed)
    }

    fn get(&mut self, key: &EventKey) -> Option<&mut Lease> {
        self.by_slot.get_mut(&key.slot)?.iter_mut().find(|lease| lease.claim.key == *key)
    }

    /// Takes lapsed leases out of a crowded shard. Looks again only when it has grown by half.
    fn sweep(&mut self, now: Timestamp) -> Vec<Claim> {
        if self.leases < CROWDED.max(self.look_at) && self.leases < LEASES / SHARDS {
            return Vec::new();
        }
        let lapsed: Vec<Claim> =
            self.by_slot.values().flatten().filter(|lease| lease.until() <= now).map(|l| l.claim.clone()).collect();
        for claim in &lapsed {
            self.remove(&claim.key, None);
        }
        self.look_at = self.leases + self.leases / 2;
        lapsed
    }
}

/// A claim that counts only once the table has been asked.
struct Pencilled<'a> {
    store: &'a Embedded,
    claim: &'a Claim,
    kept: bool,
    doubt: Doubt,
    other_body: bool,
}

impl Pencilled<'_> {
    /// What the claim comes to with what the table says.
    fn decide(mut self, recall: Recall) -> Claimed {
        self.kept = true;
        let claim = self.claim;
        match recall.same {
            Some((MarkKind::Processed, _)) => {
                self.store.lock(&claim.key).remove(&claim.key, Some(claim.owner));
                return Claimed::Duplicate;
            }
            Some((MarkKind::Perhaps, _)) => self.store.doubt(claim),
            None => {}
        }
        if self.doubt == Doubt::Perhaps || recall.same.is_some() {
            Claimed::Lapsed
        } else if self.other_body || recall.other_body {
            Claimed::Conflict
        } else {
            Claimed::New
        }
    }
}

impl Drop for Pencilled<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.store.give_up(self.claim, Processed::Not);
        }
    }
}

impl From<JobFault> for StoreFault {
    fn from(fault: JobFault) -> Self {
        Self::Failed(format!("the embedded dedup table cannot be read: {fault}"))
    }
}

#[async_trait]
impl ClaimStore for Embedded {
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreFault> {
        let since = Instant::now();
        let answer = self.decide(claim).await;
        self.meter.took(Op::Claim, since);
        self.meter.checked(&answer);
        answer
    }

    fn claim_at_once(&self, claim: &Claim) -> Option<Result<Claimed, StoreFault>> {
        let since = Instant::now();
        let answer = self.decide_at_once(claim)?;
        self.meter.took(Op::Claim, since);
        self.meter.checked(&answer);
        Some(answer)
    }

    async fn mark(&self, claim: &Claim, ttl: Duration) -> Result<(), StoreFault> {
        self.remember_counted(claim, ttl);
        Ok(())
    }

    fn mark_at_once(&self, claim: &Claim, ttl: Duration) -> Marked {
        self.remember_counted(claim, ttl);
        Marked::Yes
    }

    async fn release(&self, claim: &Claim, processed: Processed) -> Result<(), StoreFault> {
        let since = Instant::now();
        self.give_up(claim, processed);
        self.meter.took(Op::Release, since);
        Ok(())
    }

    async fn peek(&self, _route: &str, key: EventKey, now: Timestamp) -> Result<Option<Peeked>, StoreFault> {
        let since = Instant::now();
        let in_flight = self.lock(&key).get(&key).map(|lease| lease.until());
        let recall = self.disk.recall(key, now).await?;
        self.meter.took(Op::Peek, since);
        let known = match (in_flight.filter(|until| *until > now), recall.same) {
            (Some(until), _) => Some((PeekedState::InFlight, until)),
            (None, Some((MarkKind::Processed, until))) => Some((PeekedState::Processed, until)),
            (None, Some((MarkKind::Perhaps, until))) => Some((PeekedState::Perhaps, until)),
            (None, None) => None,
        };
        Ok(known.map(|(state, expires_at)| Peeked { state, expires_at, fingerprint: key.fingerprint }))
    }

    async fn forget(&self, _route: &str, key: EventKey) -> Result<Found, StoreFault> {
        let since = Instant::now();
        let found = self.disk.forget_mark(key).await?;
        self.meter.took(Op::Forget, since);
        Ok(found)
    }

    fn name(&self) -> &'static str {
        "embedded"
    }

    fn is_up(&self) -> bool {
        true
    }
}

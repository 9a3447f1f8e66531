//! Claims: which event is being processed, and which has been. The front joins copies inside the process; behind it
//! one of the stores remembers across requests, restarts and replicas.
//!
//! An event is CLAIMED (leased to an owner while it is processed), then MARKED (accepted or safe on disk, for the
//! ttl) or RELEASED (nothing was accepted and the sender was told so). It is never marked before it is safe.

pub mod embedded;
pub mod fallback;
pub mod flight;
mod meter;
mod owed;
pub mod redis;
pub mod store;
mod twins;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use self::flight::{Entered, Flight, Flights, Follower};
use self::store::{Claim, ClaimStore, Claimed, Elsewhere, Marked, Processed, StoreFault};
use self::twins::Twins;
use crate::clock::Clock;
use crate::domain::event::Event;
use crate::domain::fault::Fault;
use crate::domain::key::EventKey;
use crate::domain::outcome::Settled;
use crate::domain::time::Timestamp;

/// The first wait between two looks at a claim that another replica holds, before jitter; each is half as long again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// The longest. A thousand events that wait cost Redis some two thousand questions a second.
const LOOK_AGAIN_AT_MOST: Duration = Duration::from_millis(500);

/// How long a claim outlasts the attempt it is prolonged for: what the attempt came to is to be written by then.
const AFTER_ATTEMPT: Duration = Duration::from_secs(10);

/// The front: single flight here, the store behind.
#[derive(Clone)]
pub struct Claims {
    flights: Flights,
    store: Arc<dyn ClaimStore>,
    clock: Clock,
    twins: Twins,
}

/// What claiming an event gave.
pub enum Verdict {
    /// It is ours to process.
    Claimed(Held),
    /// It was processed within the ttl.
    Duplicate,
    /// A copy is being processed here: its answer comes there.
    InFlight(Follower),
    /// It cannot be said now.
    Unavailable(Fault),
}

/// A claimed event: the lead in this process and the lease in the store.
pub struct Held {
    flight: Flight,
    lease: Option<Claim>,
    /// When its store was asked: the lease ends no sooner than by this and its length.
    since: Instant,
    suspicion: Suspicion,
}

/// Whether an earlier sending of the event may have been processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspicion {
    /// No sign of one.
    None,
    /// An earlier owner vanished.
    PerhapsProcessed,
    /// No store can be trusted to remember: a copy of it may even wait on disk.
    Unvouched,
    /// As [`Self::Unvouched`], and only because our own table could not be read: it can be asked when the event is written.
    Unread,
}

impl Suspicion {
    /// Whether a copy of the event may wait on disk or be under way here.
    #[must_use]
    pub const fn may_have_a_copy(self) -> bool {
        matches!(self, Self::Unvouched | Self::Unread)
    }
}

impl Claims {
    /// A front for `store`.
    #[must_use]
    pub fn new(store: Arc<dyn ClaimStore>, clock: Clock) -> Self {
        Self { flights: Flights::new(), store, clock, twins: Twins::default() }
    }

    /// The store behind, for looking and forgetting.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn ClaimStore> {
        &self.store
    }

    /// Claims `event` for `lease`, waiting until `deadline` for a replica that holds it.
    ///
    /// If the future is dropped half-way the lead ends with it, and a lease that was taken lapses by itself.
    pub async fn claim(&self, event: &Event, lease: Duration, deadline: Instant) -> Verdict {
        self.claim_at(Instant::now(), event, lease, deadline).await
    }

    /// As [`Self::claim`], at a moment that is known to be now.
    pub async fn claim_at(&self, now: Instant, event: &Event, lease: Duration, deadline: Instant) -> Verdict {
        let flight = match self.flights.enter(event.key) {
            Entered::Leads(flight) => flight,
            Entered::Follows(follower) => return Verdict::InFlight(follower),
        };
        let mut asked = Asked { since: now, claim: Self::claim_on(event, lease, self.clock.at(now)) };
        let at_once = self.store.claim_at_once(&asked.claim);
        let answer = match at_once.as_ref().and_then(Answer::of) {
            Some(answer) => answer,
            // Boxed, as everything else is here that few claims need: each request's memory is what this takes.
            None => Box::pin(self.ask_until(&mut asked, at_once, deadline)).await,
        };
        match answer {
            Answer::Ours(suspicion) => {
                Verdict::Claimed(Held { flight, lease: Some(asked.claim), since: asked.since, suspicion })
            }
            Answer::Duplicate => {
                flight.answer(Settled::Duplicate);
                Verdict::Duplicate
            }
            Answer::Unavailable(fault) => {
                flight.answer(Settled::Unavailable(fault));
                Verdict::Unavailable(fault)
            }
        }
    }

    /// A request that is passed on without being believed: nobody joins it and no store hears of it.
    #[must_use]
    pub fn unclaimed(&self, event: &Event) -> Held {
        let flight = Flight::unlisted(event.key);
        Held { flight, lease: None, since: Instant::now(), suspicion: Suspicion::None }
    }

    /// A claim on `event`. Its owner is the event's own id, which is no other request's and which the disk keeps: after
    /// a restart too it can be told whose a mark is.
    fn claim_on(event: &Event, lease: Duration, now: Timestamp) -> Claim {
        Claim { route: event.route.clone(), key: event.key, owner: event.id.0, lease, now }
    }

    /// Asks the store until it says more than "another replica holds it", or until `deadline`. `first`: what it has said
    /// already, if it has.
    async fn ask_until(
        &self,
        asked: &mut Asked,
        mut first: Option<Result<Claimed, StoreFault>>,
        deadline: Instant,
    ) -> Answer {
        let mut wait = LOOK_AGAIN;
        let mut too_late = Fault::StoreDown;
        loop {
            let said = match first.take() {
                Some(said) => said,
                None => match tokio::time::timeout_at(deadline, self.store.claim(&asked.claim)).await {
                    Ok(said) => said,
                    Err(_) => return Answer::Unavailable(too_late),
                },
            };
            if let Some(answer) = Answer::of(&said) {
                return answer;
            }
            too_late = Fault::InFlightElsewhere;
            // Never so late that the last look is missed.
            let (now, last) = (Instant::now(), deadline.checked_sub(LOOK_AGAIN).unwrap_or(deadline));
            let next = (now + wait.mul_f64(0.5 + fastrand::f64())).min(last.max(now + LOOK_AGAIN / 2));
            wait = wait.mul_f64(1.5).min(LOOK_AGAIN_AT_MOST);
            if next >= deadline {
                return Answer::Unavailable(Fault::InFlightElsewhere);
            }
            tokio::time::sleep_until(next).await;
            asked.since = Instant::now();
            asked.claim.now = self.clock.at(asked.since);
            first = self.store.claim_at_once(&asked.claim);
        }
    }

    /// Keeps others from an event whose attempt may go on until `until`, where that is past its lease.
    pub async fn prolong(&self, held: &mut Held, until: Instant) {
        let Some(claim) = &mut held.lease else { return };
        if until + AFTER_ATTEMPT > held.since + claim.lease {
            held.since = Instant::now();
            claim.lease = (until + AFTER_ATTEMPT).saturating_duration_since(held.since);
            claim.now = self.clock.at(held.since);
            self.store.prolong(claim).await;
        }
    }

    /// Marks the event for `ttl`: it was accepted, or is safe on disk. Its flight ends here.
    ///
    /// A store that does not take the mark is left to repair itself; the event is safe whatever it says.
    pub async fn mark(&self, held: Held, ttl: Duration) {
        if let Some(mut claim) = held.lease {
            claim.now = self.clock.now();
            if self.store.mark_at_once(&claim, ttl) == Marked::NotYet
                && let Err(fault) = self.store.mark(&claim, ttl).await
            {
                tracing::warn!(route = %claim.route, key = %claim.key, %fault, "the dedup store did not take a mark");
            }
        }
        drop(held.flight);
    }

    /// As [`Self::mark`], of an event that the application has accepted.
    pub async fn accept(&self, mut held: Held, ttl: Duration) {
        if self.accept_at_once(&mut held, ttl) == Marked::NotYet {
            self.mark(held, ttl).await;
        }
    }

    /// The same where nothing has to be waited for: then dropping `held` is all that is left. [`Marked::NotYet`]: it is still to
    /// be marked.
    #[must_use]
    pub fn accept_at_once(&self, held: &mut Held, ttl: Duration) -> Marked {
        let Some(claim) = &mut held.lease else { return Marked::Yes };
        claim.now = self.clock.now();
        if held.suspicion.may_have_a_copy() {
            self.twins.accepted(claim.key, claim.now, ttl);
        }
        self.store.mark_at_once(claim, ttl)
    }

    /// The application has accepted an event on disk that may have a copy there.
    pub fn accepted_copy(&self, key: EventKey, ttl: Duration) {
        self.twins.accepted(key, self.clock.now(), ttl);
    }

    /// Whether the application has accepted a copy of this event since it was received.
    #[must_use]
    pub fn has_accepted_copy(&self, event: &Event) -> bool {
        self.twins.is_accepted(&event.key, event.received_at)
    }

    /// Gives the event up: nothing was accepted, and its sender was told so. Its flight ends here.
    pub async fn release(&self, held: Held, processed: Processed) {
        if let Some(claim) = held.lease
            && let Err(fault) = self.store.release(&claim, processed).await
        {
            tracing::warn!(route = %claim.route, key = %claim.key, %fault, "the dedup store did not release a claim");
        }
        drop(held.flight);
    }

    /// Marks an event that was delivered from the disk, which has no claim any more.
    pub async fn mark_delivered(&self, event: &Event, ttl: Duration) {
        let claim = Self::claim_on(event, Duration::ZERO, self.clock.now());
        if let Err(fault) = self.store.mark(&claim, ttl).await {
            tracing::warn!(route = %claim.route, key = %claim.key, %fault, "the dedup store did not take a mark");
        }
    }

    /// Asks, before an event is sent from disk, whether another gateway may have sent it; marks it, so that none does
    /// from now on. One short question where gateways share a store and that is up, else none.
    pub async fn vouch(&self, event: &Event, ttl: Duration) -> Elsewhere {
        self.store.vouch(&Self::claim_on(event, Duration::ZERO, self.clock.now()), ttl).await.unwrap_or(Elsewhere::No)
    }
}

/// What the store is asked, and when it was.
struct Asked {
    since: Instant,
    claim: Claim,
}

enum Answer {
    Ours(Suspicion),
    Duplicate,
    Unavailable(Fault),
}

impl Answer {
    /// What a store's word comes to; `None`: another replica holds the event.
    const fn of(said: &Result<Claimed, StoreFault>) -> Option<Self> {
        Some(match said {
            Ok(Claimed::New | Claimed::Conflict) => Self::Ours(Suspicion::None),
            Ok(Claimed::Lapsed) => Self::Ours(Suspicion::PerhapsProcessed),
            Ok(Claimed::Unsure) => Self::Ours(Suspicion::Unvouched),
            Ok(Claimed::Unread) => Self::Ours(Suspicion::Unread),
            Ok(Claimed::Duplicate) => Self::Duplicate,
            Ok(Claimed::InFlight) => return None,
            Err(StoreFault::Refused(_) | StoreFault::Failed(_)) => Self::Unavailable(Fault::StoreDown),
        })
    }
}

impl Held {
    /// Whether an earlier sending may have been processed.
    #[must_use]
    pub const fn suspicion(&self) -> Suspicion {
        self.suspicion
    }

    /// Whether the lease may have passed by `now`, so that another may have taken the event over: its owner paused.
    #[must_use]
    pub fn has_lapsed(&self, now: Instant) -> bool {
        self.lease.as_ref().is_some_and(|claim| now.saturating_duration_since(self.since) >= claim.lease)
    }

    /// Whether the event was verified: only then may it be stored anywhere.
    #[must_use]
    pub const fn is_believed(&self) -> bool {
        self.lease.is_some()
    }

    /// Answers the sender and all who joined, once.
    pub fn answer(&self, settled: Settled) {
        self.flight.answer(settled);
    }

    /// A place to wait for the answer.
    #[must_use]
    pub fn follow(&self) -> Follower {
        self.flight.follow()
    }
}

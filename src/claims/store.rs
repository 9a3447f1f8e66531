//! What a claims store is: the questions and the answers. The stores are `embedded`, `redis`, and `fallback`, which is
//! both; one contract test runs against all three.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use crate::disk::Found;
use crate::domain::key::EventKey;
use crate::domain::time::Timestamp;

/// How long "perhaps processed" is remembered where the event was neither marked nor settled: longer than senders
/// commonly retry (Stripe, in live mode: three days; nearly all others: a day or less).
pub const REMEMBER: Duration = Duration::from_secs(3 * 24 * 3600);

/// One owner's claim on one event.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The event's route.
    pub route: Arc<str>,
    /// The event.
    pub key: EventKey,
    /// The owner's token: the same in every call about this claim, and in no other claim.
    pub owner: Uuid,
    /// How long the claim holds if its owner vanishes.
    pub lease: Duration,
    /// The moment of the call.
    pub now: Timestamp,
}

/// What claiming an event gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// Ours; never seen.
    New,
    /// Not ours: processed within the ttl.
    Duplicate,
    /// Ours; the slot is known with another body, so it is another event.
    Conflict,
    /// Not ours: another owner is at it.
    InFlight,
    /// Ours; an earlier owner vanished or never learnt what became of its sending. To be flagged.
    Lapsed,
    /// Ours; the store cannot be asked and `on_store_down = "accept"`. To be flagged.
    Unsure,
    /// Ours; the shared store does not know the event, and may have been emptied, for our own table cannot be read. To be
    /// flagged.
    Unread,
}

impl Claimed {
    /// The word used in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::New | Self::Lapsed | Self::Unsure | Self::Unread => "new",
            Self::Duplicate => "duplicate",
            Self::Conflict => "conflict",
            Self::InFlight => "in_flight",
        }
    }

    /// Whether the event is the caller's to process.
    #[must_use]
    pub const fn is_ours(self) -> bool {
        match self {
            Self::New | Self::Conflict | Self::Lapsed | Self::Unsure | Self::Unread => true,
            Self::Duplicate | Self::InFlight => false,
        }
    }
}

/// Whether an event that is given up may have been processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processed {
    /// Certainly not.
    Not,
    /// It may: the next claim of it is [`Claimed::Lapsed`].
    Perhaps,
}

/// Whether another owner may have sent an event that is about to be sent from disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elsewhere {
    /// No sign of one.
    No,
    /// Another has claimed it, or marked it first.
    Perhaps,
}

/// Whether a mark was set without waiting for anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marked {
    /// It is set.
    Yes,
    /// It has to be waited for.
    NotYet,
}

/// What a store knows of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peeked {
    /// What it knows.
    pub state: PeekedState,
    /// Until when it counts.
    pub expires_at: Timestamp,
    /// The body it is known with.
    pub fingerprint: [u8; 16],
}

/// What is known of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeekedState {
    /// An owner is at it.
    InFlight,
    /// It was processed, or is safe on disk.
    Processed,
    /// It was sent and nobody knows what became of it.
    Perhaps,
}

impl PeekedState {
    /// The word used in answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InFlight => "in_flight",
            Self::Processed => "processed",
            Self::Perhaps => "perhaps_processed",
        }
    }
}

/// Why a store gives no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreFault {
    /// It is down and `on_store_down = "refuse"`.
    #[error("{0}")]
    Refused(String),
    /// It did not answer, or not in time.
    #[error("{0}")]
    Failed(String),
}

/// A memory of which events are being processed and which have been.
///
/// Every call ends within the store's own timeout. If a future is dropped the call may have taken effect or not; a
/// claim lapses in the end, and calling again with the same owner is as good as the first call.
#[async_trait]
pub trait ClaimStore: Send + Sync + std::fmt::Debug {
    /// Claims an event for its owner.
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreFault>;
    /// The same where nothing has to be waited for; `None`: something has, and the call is as one whose future was dropped.
    fn claim_at_once(&self, _claim: &Claim) -> Option<Result<Claimed, StoreFault>> {
        None
    }
    /// Holds an owner's claim for the claim's lease from its `now` on: it is still at it. A store that cannot be asked lets the
    /// claim lapse when it would have; one that nobody shares has nothing to do, for nobody comes past the owner.
    async fn prolong(&self, _claim: &Claim) {}
    /// Marks an event as processed for `ttl` from the claim's `now`. True whoever holds the claim by now.
    async fn mark(&self, claim: &Claim, ttl: Duration) -> Result<(), StoreFault>;
    /// The same where nothing has to be waited for; [`Marked::NotYet`]: something has, and nothing was done.
    fn mark_at_once(&self, _claim: &Claim, _ttl: Duration) -> Marked {
        Marked::NotYet
    }
    /// Marks an event on disk that is about to be sent from there, so that nobody takes it over from here on, and says
    /// whether somebody has. A store that nobody shares has nothing to add.
    async fn vouch(&self, _claim: &Claim, _ttl: Duration) -> Result<Elsewhere, StoreFault> {
        Ok(Elsewhere::No)
    }
    /// Gives an event up. Nothing happens if the claim is not the owner's any more.
    async fn release(&self, claim: &Claim, processed: Processed) -> Result<(), StoreFault>;
    /// What is known of an event.
    async fn peek(&self, route: &str, key: EventKey, now: Timestamp) -> Result<Option<Peeked>, StoreFault>;
    /// Forgets that an event was processed, or perhaps was. A claim that is held stays.
    async fn forget(&self, route: &str, key: EventKey) -> Result<Found, StoreFault>;
    /// The store's name as configured: `embedded` or `redis`.
    fn name(&self) -> &'static str;
    /// Whether the store answers, as far as is known.
    fn is_up(&self) -> bool;
}

/// A store that replicas share, as the one beside it needs it: it can be asked without being counted, and whether it
/// answers at all.
#[async_trait]
pub trait Shared: ClaimStore {
    /// As [`ClaimStore::claim`], uncounted.
    async fn decide(&self, claim: &Claim) -> Result<Claimed, StoreFault>;
    /// As [`ClaimStore::mark`], of many at once and uncounted. After a fault any of them may have been marked.
    async fn mark_all(&self, marks: &[(Claim, Duration)]) -> Result<(), StoreFault> {
        for (claim, ttl) in marks {
            self.mark(claim, *ttl).await?;
        }
        Ok(())
    }
    /// Whether it answers.
    async fn probe(&self) -> Result<(), StoreFault>;
    /// What it does when its memory is full; `None` if it does not say.
    async fn eviction_policy(&self) -> Result<Option<String>, StoreFault>;
}

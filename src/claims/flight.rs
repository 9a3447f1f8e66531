//! Single flight inside the process: who leads an event, and where those who came with a copy wait for its outcome.
//! It knows nothing of stores or of time.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::domain::key::EventKey;
use crate::domain::outcome::Settled;

/// How many mutexes the table is spread over. 64: at 10,000 connections some 150 waiters a shard at worst.
const SHARDS: usize = 64;

type Shard = Mutex<HashMap<EventKey, watch::Receiver<Option<Settled>>>>;

/// The events in flight in this process. Bounded by the requests and deliveries that are.
#[derive(Clone)]
pub struct Flights(Arc<Vec<Shard>>);

/// What entering an event gave.
pub enum Entered {
    /// Nobody had it: the caller leads.
    Leads(Flight),
    /// Somebody leads: their answer comes here.
    Follows(Follower),
}

impl Flights {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new((0..SHARDS).map(|_| Shard::default()).collect()))
    }

    /// Takes the lead of `key`, or joins who has it.
    #[must_use]
    pub fn enter(&self, key: EventKey) -> Entered {
        let Some(shard) = self.shard(&key) else {
            return Entered::Leads(Flight::unlisted(key));
        };
        match shard.lock().unwrap_or_else(PoisonError::into_inner).entry(key) {
            Entry::Occupied(taken) => Entered::Follows(Follower(taken.get().clone())),
            Entry::Vacant(free) => {
                let (answer, answered) = watch::channel(None);
                free.insert(answered);
                Entered::Leads(Flight { key, flights: Some(self.clone()), answer })
            }
        }
    }

    fn shard(&self, key: &EventKey) -> Option<&Shard> {
        let index = key.slot.first().copied().map_or(0, usize::from) % SHARDS;
        self.0.get(index)
    }

    fn leave(&self, key: &EventKey) {
        if let Some(shard) = self.shard(key) {
            shard.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        }
    }
}

impl Default for Flights {
    fn default() -> Self {
        Self::new()
    }
}

/// The lead of one event. While it lives, copies join; when it is dropped, the next copy leads.
pub struct Flight {
    key: EventKey,
    flights: Option<Flights>,
    answer: watch::Sender<Option<Settled>>,
}

impl Flight {
    /// A lead that nobody can join: for requests that are passed on without being believed.
    #[must_use]
    pub fn unlisted(key: EventKey) -> Self {
        Self { key, flights: None, answer: watch::channel(None).0 }
    }

    /// Answers the leader's sender and all who joined, once; later answers change nothing.
    pub fn answer(&self, settled: Settled) {
        self.answer.send_if_modified(|slot| {
            let first = slot.is_none();
            if first {
                *slot = Some(settled);
            }
            first
        });
    }

    /// A place to wait for the answer.
    #[must_use]
    pub fn follow(&self) -> Follower {
        Follower(self.answer.subscribe())
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if let Some(flights) = &self.flights {
            flights.leave(&self.key);
        }
    }
}

/// A place to wait for an event's answer.
pub struct Follower(watch::Receiver<Option<Settled>>);

impl Follower {
    /// The answer; `None` if the leader vanished without one.
    ///
    /// Dropping the future loses nothing: the answer stays with the event.
    pub async fn outcome(mut self) -> Option<Settled> {
        self.0.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> EventKey {
        EventKey { slot: [n; 16], fingerprint: [0; 16] }
    }

    #[tokio::test]
    async fn copies_join_the_first_and_get_its_answer() {
        let flights = Flights::new();
        let Entered::Leads(flight) = flights.enter(key(1)) else { panic!("the first must lead") };
        let Entered::Follows(copy) = flights.enter(key(1)) else { panic!("the second must follow") };
        flight.answer(Settled::Spooled);
        flight.answer(Settled::Duplicate);
        assert!(matches!(copy.outcome().await, Some(Settled::Spooled)));
    }

    #[tokio::test]
    async fn after_the_flight_the_next_copy_leads_and_a_vanished_leader_is_noticed() {
        let flights = Flights::new();
        let Entered::Leads(flight) = flights.enter(key(1)) else { panic!("the first must lead") };
        let Entered::Follows(copy) = flights.enter(key(1)) else { panic!("the second must follow") };
        drop(flight);
        assert!(copy.outcome().await.is_none());
        assert!(matches!(flights.enter(key(1)), Entered::Leads(_)));
    }
}

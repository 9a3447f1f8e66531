//! Single flight inside the process: who leads an event, and where those who came with a copy wait for its outcome.
//! It knows nothing of stores or of time.

use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use tokio::sync::Notify;

use crate::domain::key::{EventKey, Keyed};
use crate::domain::outcome::Settled;

/// How many mutexes the table is spread over. 64: at 10,000 connections some 150 waiters a shard at worst.
const SHARDS: usize = 64;

type Shard = Mutex<Keyed<EventKey, Arc<Place>>>;

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
                let place = free.insert(Arc::default()).clone();
                Entered::Leads(Flight { key, flights: Some(self.clone()), place })
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

/// Where an event's answer is put. Who waits is told in the order of asking.
#[derive(Default)]
struct Place {
    answer: Mutex<Answer>,
    changed: Notify,
}

/// What is known of an event's answer. The mutex around it is held for a look.
#[derive(Clone, Default)]
enum Answer {
    #[default]
    Awaited,
    Given(Settled),
    /// The leader vanished without one.
    Never,
}

impl Place {
    /// Enters what becomes of it, once.
    fn enter(&self, answer: Answer) {
        let mut slot = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*slot, Answer::Awaited) {
            *slot = answer;
            self.changed.notify_waiters();
        }
    }

    fn look(&self) -> Answer {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The lead of one event. While it lives, copies join; when it is dropped, the next copy leads.
pub struct Flight {
    key: EventKey,
    flights: Option<Flights>,
    place: Arc<Place>,
}

impl Flight {
    /// A lead that nobody can join: for requests that are passed on without being believed.
    #[must_use]
    pub fn unlisted(key: EventKey) -> Self {
        Self { key, flights: None, place: Arc::default() }
    }

    /// Answers the leader's sender and all who joined, once; later answers change nothing.
    pub fn answer(&self, settled: Settled) {
        self.place.enter(Answer::Given(settled));
    }

    /// A place to wait for the answer.
    #[must_use]
    pub fn follow(&self) -> Follower {
        Follower(self.place.clone())
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if let Some(flights) = &self.flights {
            flights.leave(&self.key);
        }
        self.place.enter(Answer::Never);
    }
}

/// A place to wait for an event's answer.
pub struct Follower(Arc<Place>);

impl Follower {
    /// The answer if it is there, and `None` if the leader vanished without one. It has nobody woken: for who polls the
    /// leader's work himself, which alone can answer.
    pub fn poll_given(&mut self) -> Poll<Option<Settled>> {
        // Nearly always nobody else waits for it, and it need not be copied.
        let answer = match Arc::get_mut(&mut self.0) {
            Some(place) => std::mem::take(place.answer.get_mut().unwrap_or_else(PoisonError::into_inner)),
            None => self.0.look(),
        };
        match answer {
            Answer::Given(settled) => Poll::Ready(Some(settled)),
            Answer::Never => Poll::Ready(None),
            Answer::Awaited => Poll::Pending,
        }
    }

    /// The answer; `None` if the leader vanished without one.
    ///
    /// Dropping the future loses nothing: the answer stays with the event.
    pub async fn outcome(self) -> Option<Settled> {
        loop {
            let changed = self.0.changed.notified();
            match self.0.look() {
                Answer::Given(settled) => return Some(settled),
                Answer::Never => return None,
                Answer::Awaited => changed.await,
            }
        }
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
    async fn who_does_the_work_himself_takes_the_answer_and_leaves_it_to_those_who_joined() {
        let flights = Flights::new();
        let Entered::Leads(flight) = flights.enter(key(1)) else { panic!("the first must lead") };
        let (mut own, mut other) = (flight.follow(), flight.follow());
        let Entered::Follows(copy) = flights.enter(key(1)) else { panic!("the second must follow") };
        assert!(own.poll_given().is_pending());
        flight.answer(Settled::Spooled);
        assert!(matches!(own.poll_given(), Poll::Ready(Some(Settled::Spooled))));
        drop((own, flight));
        assert!(matches!(other.poll_given(), Poll::Ready(Some(Settled::Spooled))), "it is theirs too");
        assert!(matches!(copy.outcome().await, Some(Settled::Spooled)));
        assert!(matches!(other.poll_given(), Poll::Ready(Some(Settled::Spooled))), "the last one may take it");
    }

    #[test]
    fn who_does_the_work_himself_sees_that_it_ended_without_an_answer() {
        let flight = Flight::unlisted(key(1));
        let mut own = flight.follow();
        drop(flight);
        assert!(matches!(own.poll_given(), Poll::Ready(None)));
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

//! An event of queue mode that came to disk as in flight and is sent as it is in memory: it need be neither looked for
//! nor read back. How many there are is bounded by `Lane::place`; their bodies count in `buffered_bytes`. It decides
//! nothing about outcomes.

use std::sync::Arc;

use tokio::time::Instant;

use super::Deliverer;
use super::ahead::SLOT_PATIENCE;
use super::attempt::Sending;
use super::limits::{Lane, Place};
use super::spooled::{ANSWER_BODY, Standing};
use crate::domain::event::Event;
use crate::domain::outcome::Outcome;
use crate::spool::{Possible, Replay, Settlement};

impl Deliverer {
    /// The first attempt of an event that was written down as in flight and is in memory still. If there is none, because
    /// no slot comes free or the shutdown has begun, the event is due like any other.
    pub(super) async fn send_kept(&self, lane: Arc<Lane>, place: Place, event: Arc<Event>, possible: Possible) {
        let route = lane.route.clone();
        let slot = lane.slot(event.id, Instant::now() + SLOT_PATIENCE);
        let Some(slot) = self.unless_shut_down(slot).await.filter(|_| self.goes_on(&lane)) else {
            drop(place);
            self.write_down(&event, Settlement::Postpone { not_before: self.0.clock.now() }).await;
            return self.wake_route(&route.name);
        };
        if self.0.claims.has_accepted_copy(&event) {
            drop((slot, place));
            return self.settle_copy(&event, &route).await;
        }
        let possible_duplicate = self.look_elsewhere(&event, &route, possible, Replay::No).await;
        let sending =
            Sending { attempt: 1, possible_duplicate: possible_duplicate == Possible::Duplicate, replay: false };
        let body_by = Instant::now() + route.app.attempt_timeout + ANSWER_BODY;
        let (outcome, breaker) = self.clone().attempt(lane, event.clone(), sending, slot, body_by).await;
        let is_over = matches!(outcome, Outcome::Accepted(_));
        self.settle_spooled(&event, &route, outcome, Standing { attempt: 1, possible_duplicate, breaker }).await;
        // Not before: until then a crash has the event sent again.
        drop(place);
        if !is_over {
            self.wake_route(&route.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use crate::forward::Settlement as Ended;
    use crate::forward::stand::world;
    use crate::spool::{Filter, Possible, State};

    #[tokio::test]
    async fn an_event_that_is_safe_on_disk_is_sent_as_it_is_in_memory_once_and_unflagged() {
        let world = world(100);
        let mut bodies = Vec::new();
        for number in 0..20 {
            bodies.push(world.take(number).await);
            world.eventually("it is delivered", async || world.spool.totals().pending() == 0).await;
        }
        let seen = world.app.seen.lock().unwrap().clone();
        assert!(seen.iter().map(|(body, _)| *body).eq(bodies.iter().copied()), "{seen:?}, {bodies:?}");
        assert!(seen.iter().all(|(_, sending)| sending.attempt == 1 && !sending.possible_duplicate), "{seen:?}");
    }

    #[tokio::test]
    async fn what_finds_no_place_or_no_slot_before_the_shutdown_is_due_like_any_other() {
        let world = world(0);
        for number in 0..5 {
            world.take(number).await;
        }
        world.eventually("one is sent", async || world.app.seen.lock().unwrap().len() == 1).await;
        assert_eq!(world.count(State::InFlight).await, 2, "one is sent, one waits for its slot");
        assert_eq!(world.count(State::Pending).await, 5, "the others found no place");
        world.deliverer.drain(Instant::now() + Duration::from_secs(1));
        world.eventually("the shutdown gives its slot up", async || world.count(State::InFlight).await == 1).await;
        world.app.allowed.add_permits(1);
        let ended = world.deliverer.settled(Instant::now() + Duration::from_secs(5)).await;
        assert_eq!(ended, Ended::Complete);
        assert_eq!(world.app.seen.lock().unwrap().len(), 1, "nothing was sent besides");
        let listed = world.spool.list(Filter { limit: 10, ..Filter::default() }).await.unwrap();
        assert_eq!(listed.len(), 4);
        for one in listed {
            let stored = world.spool.load(one.id).await.unwrap().unwrap();
            assert_eq!((stored.attempts, stored.possible_duplicate), (0, Possible::No), "{}", one.id);
        }
    }
}

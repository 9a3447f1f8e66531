//! An event of the backlog that is read, and whose attempt is written down, before a slot is free for it: so a slot waits
//! for the application alone, not for the disk. How many there are is bounded by `Lane::places_ahead`, what they take of the
//! memory by the backlog's share of `buffered_bytes`. It decides nothing about outcomes.

use std::sync::Arc;
use std::time::Duration;

use super::limits::{Held as NoSlot, Lane, Place, Slot};
use super::{Deliverer, Towards};
use crate::buffers::{Reserved, Use};
use crate::domain::event::Event;
use crate::domain::time::Timestamp;
use crate::spool::Settlement;

/// How long an event that is in memory waits for a slot; then it is due like any other.
pub(super) const SLOT_PATIENCE: Duration = Duration::from_secs(10);

/// Bytes that an event takes besides its body and its headers.
const OVERHEAD_BYTES: usize = 1024;

/// What an event on disk was picked with.
pub(super) enum Picked {
    /// The slot for its attempt.
    WithSlot(Slot),
    /// A place among those that are read ahead. Its slot comes later.
    Ahead(Ahead),
}

/// A place in memory, given back when dropped.
pub(super) struct Ahead {
    _place: Place,
    room: Option<Reserved>,
}

impl Ahead {
    pub(super) const fn at(place: Place) -> Self {
        Self { _place: place, room: None }
    }
}

impl Deliverer {
    /// Whether an event that was read may stay in memory with what it was picked with.
    pub(super) fn has_room(&self, with: &mut Picked, event: &Event) -> bool {
        let (Picked::Ahead(ahead), Towards::Applications(buffers)) = (with, &self.0.towards) else { return true };
        let headers: usize = event.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        let mut room = buffers.reserve(Use::Backlog);
        let fits = room.fits(OVERHEAD_BYTES + headers + event.body.len());
        ahead.room = Some(room);
        fits
    }

    /// The slot of an event whose attempt is written down. If there is none, because none comes free or the shutdown has
    /// begun, the event is due as it was.
    pub(super) async fn slot_of(
        &self,
        lane: &Arc<Lane>,
        event: &Event,
        with: Picked,
        not_before: Timestamp,
    ) -> Option<(Slot, Option<Ahead>)> {
        let ahead = match with {
            Picked::WithSlot(slot) => return Some((slot, None)),
            Picked::Ahead(ahead) => ahead,
        };
        let in_line = lane.slot_from_disk(event.id);
        let slot = async { tokio::time::timeout(SLOT_PATIENCE, in_line).await.unwrap_or(Err(NoSlot::Busy)) };
        if let Some(slot) = self.unless_shut_down(slot).await.filter(|_| self.goes_on(lane)) {
            return Some((slot, Some(ahead)));
        }
        drop(ahead);
        self.write_down(event, Settlement::Postpone { not_before }).await;
        None
    }

    /// The slot that `waiting` gives, if it gives one before the shutdown begins.
    pub(super) async fn unless_shut_down(&self, waiting: impl Future<Output = Result<Slot, NoSlot>>) -> Option<Slot> {
        let mut drain = self.0.drain.subscribe();
        tokio::select! {
            biased;
            _ = drain.wait_for(Option::is_some) => None,
            slot = waiting => slot.ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use crate::forward::Settlement as Ended;
    use crate::forward::stand::{sleeping, world};
    use crate::spool::{Filter, Possible, State};

    #[tokio::test]
    async fn an_event_is_read_while_the_one_before_it_is_sent_and_is_due_as_it_was_if_it_gets_no_slot() {
        let world = sleeping(1, None);
        for number in 0..5 {
            world.put(number).await;
        }
        world.awake();
        world.eventually("one is taken, one is sent", async || world.app.seen.lock().unwrap().len() == 2).await;
        world.eventually("the first is settled", async || world.spool.totals().pending() == 4).await;
        world.eventually("one waits", async || world.count(State::InFlight).await == 2).await;
        world.deliverer.drain(Instant::now() + Duration::from_secs(1));
        world.eventually("the shutdown gives its place up", async || world.count(State::InFlight).await == 1).await;
        world.app.allowed.add_permits(1);
        let ended = world.deliverer.settled(Instant::now() + Duration::from_secs(5)).await;
        assert_eq!(ended, Ended::Complete);
        assert_eq!(world.app.seen.lock().unwrap().len(), 2, "nothing was sent besides");
        let listed = world.spool.list(Filter { limit: 10, ..Filter::default() }).await.unwrap();
        assert_eq!(listed.len(), 3);
        for one in &listed {
            let stored = world.spool.load(one.id).await.unwrap().unwrap();
            assert_eq!((stored.attempts, stored.possible_duplicate), (0, Possible::No), "{}", one.id);
        }
        let due = world.spool.due("r", listed[0].received_at, 10).await.unwrap();
        assert!(due.ids.iter().eq(listed.iter().map(|one| &one.id)), "they keep their places");
    }

    #[tokio::test]
    async fn nothing_is_read_ahead_where_a_rate_decides_when_it_is_sent() {
        let world = sleeping(0, Some(100));
        for number in 0..5 {
            world.put(number).await;
        }
        world.awake();
        world.eventually("one is sent", async || world.app.seen.lock().unwrap().len() == 1).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(world.count(State::InFlight).await, 1);
        world.app.allowed.add_permits(5);
        world.eventually("all are sent", async || world.spool.totals().pending() == 0).await;
    }

    #[tokio::test]
    async fn a_backlog_is_sent_once_and_unflagged() {
        let world = world(1000);
        for number in 0..200 {
            world.put(number).await;
        }
        world.deliverer.wake();
        world.eventually("all are sent", async || world.spool.totals().pending() == 0).await;
        let seen = world.app.seen.lock().unwrap().clone();
        assert_eq!(seen.len(), 200);
        assert!(seen.iter().all(|(_, sending)| sending.attempt == 1 && !sending.possible_duplicate), "{seen:?}");
    }
}

//! Turns: of the events with one order value, one at a time is between being looked at and being answered or on disk.
//! It knows nothing of what happens in a turn.
//!
//! Who runs out of time while he waits presses whoever has the turn: the one in front is to go to disk, so that the one
//! behind can go there after him.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, OwnedMutexGuard};

/// Route and order value.
type Key = (Arc<str>, String);

/// Where the events of one value stand in line.
#[derive(Debug, Default)]
struct Line {
    front: Arc<tokio::sync::Mutex<()>>,
    pressed: Notify,
}

type Table = Mutex<HashMap<Key, Arc<Line>>>;

/// The turns in use. Bounded by the deliveries that are running: an entry goes with the last who holds or awaits it.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns(Arc<Table>);

/// One event's turn; the next one's begins when it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    key: Key,
    turns: Turns,
    held: Option<OwnedMutexGuard<()>>,
    line: Option<Arc<Line>>,
}

impl Turns {
    /// Waits for the turn of an event of `route` with this order value; in the order of asking. When `short_of_time` comes
    /// the one in front is pressed. The caller sets the deadline: a future that is dropped leaves the queue.
    pub(super) async fn take(&self, route: Arc<str>, value: String, short_of_time: impl Future<Output = ()>) -> Turn {
        let key = (route, value);
        let line = self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key.clone()).or_default().clone();
        let mut taken = Turn { key, turns: self.clone(), held: None, line: Some(line.clone()) };
        let mut front = std::pin::pin!(line.front.clone().lock_owned());
        let held = tokio::select! {
            biased;
            held = &mut front => held,
            () = short_of_time => {
                line.pressed.notify_one();
                let held = front.await;
                // Whoever was meant is gone: the next one is not to be pressed for it.
                std::pin::pin!(line.pressed.notified()).enable();
                held
            }
        };
        taken.held = Some(held);
        taken
    }
}

impl Turn {
    /// Comes when somebody behind this event has no more time.
    pub(super) async fn pressed(&self) {
        match &self.line {
            Some(line) => line.pressed.notified().await,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.held = None;
        let mut table = self.turns.0.lock().unwrap_or_else(PoisonError::into_inner);
        self.line = None;
        if let Entry::Occupied(entry) = table.entry(self.key.clone())
            && Arc::strong_count(entry.get()) == 1
        {
            entry.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use std::time::Duration;

    fn take(turns: &Turns, value: &str) -> impl Future<Output = Turn> + use<> {
        let (turns, value) = (turns.clone(), value.to_owned());
        async move { turns.take("r".into(), value, pending()).await }
    }

    #[tokio::test(start_paused = true)]
    async fn one_at_a_time_for_a_value_and_nothing_is_left_behind() {
        let turns = Turns::default();
        let first = take(&turns, "a").await;
        let waited = tokio::time::timeout(Duration::from_secs(1), take(&turns, "a")).await;
        assert!(waited.is_err(), "the second waits");
        let other = take(&turns, "b").await;
        drop(first);
        let second = take(&turns, "a").await;
        drop((second, other));
        assert!(turns.0.lock().expect("unpoisoned").is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_short_of_time_presses_the_one_in_front_and_nobody_else() {
        let turns = Turns::default();
        let first = take(&turns, "a").await;
        let waiting = tokio::spawn({
            let turns = turns.clone();
            async move { turns.take("r".into(), "a".into(), tokio::time::sleep(Duration::from_secs(5))).await }
        });
        let within = |seconds| Duration::from_secs(seconds);
        assert!(tokio::time::timeout(within(4), first.pressed()).await.is_err(), "there is time");
        assert!(tokio::time::timeout(within(2), first.pressed()).await.is_ok());
        drop(first);
        let second = waiting.await.expect("its turn came");
        assert!(tokio::time::timeout(within(1), second.pressed()).await.is_err(), "nobody waits for it");
        drop(second);
        assert!(turns.0.lock().expect("unpoisoned").is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_press_that_met_nobody_is_not_the_next_ones() {
        let turns = Turns::default();
        let first = take(&turns, "a").await;
        let mut second = Box::pin(turns.take("r".into(), "a".into(), tokio::time::sleep(Duration::from_secs(1))));
        assert!(tokio::time::timeout(Duration::from_secs(2), &mut second).await.is_err());
        drop(first);
        let second = second.await;
        assert!(tokio::time::timeout(Duration::from_secs(1), second.pressed()).await.is_err());
    }
}

//! Turns: of the events with one order value, one at a time is between being looked at and being answered or on disk.
//! It knows nothing of what happens in a turn.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

/// Route and order value.
type Key = (Arc<str>, String);

type Table = Mutex<HashMap<Key, Arc<tokio::sync::Mutex<()>>>>;

/// The turns in use. Bounded by the deliveries that are running: an entry goes with the last who holds or awaits it.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns(Arc<Table>);

/// One event's turn; the next one's begins when it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    key: Key,
    turns: Turns,
    held: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits for the turn of an event of `route` with this order value; in the order of asking. The caller sets the
    /// deadline: a future that is dropped leaves the queue.
    pub(super) async fn take(&self, route: Arc<str>, value: String) -> Turn {
        let key = (route, value);
        let turn = self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key.clone()).or_default().clone();
        let mut taken = Turn { key, turns: self.clone(), held: None };
        taken.held = Some(turn.lock_owned().await);
        taken
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.held = None;
        let mut table = self.turns.0.lock().unwrap_or_else(PoisonError::into_inner);
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
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn one_at_a_time_for_a_value_and_nothing_is_left_behind() {
        let turns = Turns::default();
        let first = turns.take("r".into(), "a".into()).await;
        let waited = tokio::time::timeout(Duration::from_secs(1), turns.take("r".into(), "a".into())).await;
        assert!(waited.is_err(), "the second waits");
        let other = turns.take("r".into(), "b".into()).await;
        drop(first);
        let second = turns.take("r".into(), "a".into()).await;
        drop((second, other));
        assert!(turns.0.lock().expect("unpoisoned").is_empty());
    }
}

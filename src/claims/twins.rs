//! Events that were accepted although nobody could vouch for it that they were new: a copy of such an event may still
//! wait on disk, and need not be sent any more. In memory alone; the marks outlive it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::key::EventKey;

/// Events that are remembered; the oldest give way. They come one by one, while a store is down or after an unclean stop.
const TWINS: usize = 16_384;

/// Cloning shares it. The mutex is held for a look-up.
#[derive(Clone, Debug, Default)]
pub(super) struct Twins(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    until: HashMap<EventKey, Instant>,
    order: VecDeque<EventKey>,
}

impl Twins {
    /// The event was accepted, and its copies are duplicates for `ttl`.
    pub(super) fn accepted(&self, key: EventKey, ttl: Duration) {
        let mut table = self.lock();
        if table.until.insert(key, Instant::now() + ttl).is_none() {
            table.order.push_back(key);
        }
        if table.order.len() > TWINS
            && let Some(oldest) = table.order.pop_front()
        {
            table.until.remove(&oldest);
        }
    }

    /// Whether a copy of the event was accepted.
    pub(super) fn is_accepted(&self, key: &EventKey) -> bool {
        self.lock().until.get(key).is_some_and(|until| Instant::now() < *until)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u64) -> EventKey {
        let mut slot = [0; 16];
        slot[..8].copy_from_slice(&n.to_be_bytes());
        EventKey { slot, fingerprint: [1; 16] }
    }

    #[tokio::test(start_paused = true)]
    async fn a_copy_is_known_for_the_ttl_and_another_body_never() {
        let twins = Twins::default();
        twins.accepted(key(1), Duration::from_secs(10));
        assert!(twins.is_accepted(&key(1)));
        assert!(!twins.is_accepted(&EventKey { fingerprint: [2; 16], ..key(1) }));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(!twins.is_accepted(&key(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_give_way() {
        let twins = Twins::default();
        for n in 0..=TWINS as u64 {
            twins.accepted(key(n), Duration::from_secs(10));
        }
        assert!(!twins.is_accepted(&key(0)));
        assert!(twins.is_accepted(&key(1)) && twins.is_accepted(&key(TWINS as u64)));
        assert_eq!(twins.lock().until.len(), TWINS);
    }
}

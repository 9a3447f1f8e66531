//! Events that were accepted although nobody could vouch for it that they were new: a copy of such an event may still
//! wait on disk, and need not be sent any more. In memory alone; the marks outlive it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::key::EventKey;
use crate::domain::time::Timestamp;

/// Events that are remembered; the oldest give way. They come one by one, while a store is down or after an unclean stop.
const TWINS: usize = 16_384;

/// Cloning shares it. The mutex is held for a look-up.
#[derive(Clone, Debug, Default)]
pub(super) struct Twins(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    /// Until when it is remembered, and when it was accepted.
    known: HashMap<EventKey, (Instant, Timestamp)>,
    order: VecDeque<EventKey>,
}

impl Twins {
    /// The event was accepted `at` this moment, and its copies are duplicates for `ttl`.
    pub(super) fn accepted(&self, key: EventKey, at: Timestamp, ttl: Duration) {
        let mut table = self.lock();
        if table.known.insert(key, (Instant::now() + ttl, at)).is_none() {
            table.order.push_back(key);
        }
        if table.order.len() > TWINS
            && let Some(oldest) = table.order.pop_front()
        {
            table.known.remove(&oldest);
        }
    }

    /// Whether a copy of an event received at `received_at` was accepted since. One that came later was taken for new by
    /// somebody who could know, such as an operator who had the table forget it: it is to be sent.
    pub(super) fn is_accepted(&self, key: &EventKey, received_at: Timestamp) -> bool {
        self.lock().known.get(key).is_some_and(|(until, at)| Instant::now() < *until && received_at <= *at)
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
        let (before, at) = (Timestamp::from_seconds(99), Timestamp::from_seconds(100));
        twins.accepted(key(1), at, Duration::from_secs(10));
        assert!(twins.is_accepted(&key(1), before) && twins.is_accepted(&key(1), at));
        assert!(!twins.is_accepted(&key(1), Timestamp::from_seconds(101)), "it came after the acceptance");
        assert!(!twins.is_accepted(&EventKey { fingerprint: [2; 16], ..key(1) }, before));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(!twins.is_accepted(&key(1), before));
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_give_way() {
        let twins = Twins::default();
        for n in 0..=TWINS as u64 {
            twins.accepted(key(n), Timestamp::from_seconds(1), Duration::from_secs(10));
        }
        let is_known = |n| twins.is_accepted(&key(n), Timestamp::from_seconds(1));
        assert!(!is_known(0));
        assert!(is_known(1) && is_known(TWINS as u64));
        assert_eq!(twins.lock().known.len(), TWINS);
    }
}

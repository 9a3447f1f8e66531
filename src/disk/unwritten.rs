//! Marks that no commit has brought to the disk yet. Bounded: the oldest give way. It knows no disk.

use std::collections::VecDeque;
use std::collections::hash_map::Entry;

use smallvec::SmallVec;

use super::marks::{Mark, MarkKind};
use crate::domain::key::{EventKey, Keyed};
use crate::domain::time::Timestamp;

/// Marks in memory at most; at about 150 bytes each: 10 MB. Reached only when the disk stalls.
pub(super) const UNWRITTEN: usize = 65_536;

/// The marks, by slot and in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Unwritten {
    /// Nearly always one of a slot.
    by_slot: Keyed<[u8; 16], SmallVec<[Waiting; 1]>>,
    queue: VecDeque<EventKey>,
    marks: usize,
}

/// A mark in memory, and whether it is in the queue; it is not while it is being written.
#[derive(Debug)]
struct Waiting {
    mark: Mark,
    queued: bool,
}

impl Unwritten {
    /// The marks of a slot.
    pub(super) fn of_slot(&self, slot: &[u8; 16]) -> impl Iterator<Item = &Mark> {
        self.by_slot.get(slot).into_iter().flatten().map(|waiting| &waiting.mark)
    }

    /// Whether nothing waits to be taken.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Puts a mark in; yields how many old ones had to go for it.
    pub(super) fn put(&mut self, mark: Mark, now: Timestamp) -> u64 {
        let key = mark.key;
        let of_slot = self.by_slot.entry(key.slot).or_default();
        let queued = if let Some(old) = of_slot.iter_mut().find(|old| old.mark.key == key) {
            if mark.kind == MarkKind::Processed || old.mark.kind == MarkKind::Perhaps || old.mark.expires_at <= now {
                old.mark = mark;
            }
            std::mem::replace(&mut old.queued, true)
        } else {
            of_slot.push(Waiting { mark, queued: true });
            self.marks += 1;
            false
        };
        if !queued {
            self.queue.push_back(key);
        }
        let mut dropped = 0;
        while self.marks > UNWRITTEN {
            let Some(oldest) = self.queue.pop_front() else { break };
            dropped += u64::from(self.remove(&oldest));
        }
        dropped
    }

    /// Everything that waits, to be written now.
    pub(super) fn take(&mut self) -> Vec<Mark> {
        let keys = std::mem::take(&mut self.queue);
        let take = |key| {
            let waiting = self.get(key)?;
            waiting.queued = false;
            Some(waiting.mark)
        };
        keys.iter().filter_map(take).collect()
    }

    /// What was taken is on disk; what has changed meanwhile stays.
    pub(super) fn written(&mut self, marks: &[Mark]) {
        for mark in marks {
            if self.get(&mark.key).is_some_and(|waiting| !waiting.queued) {
                self.remove(&mark.key);
            }
        }
    }

    /// What was taken is not on disk.
    pub(super) fn give_back(&mut self, marks: &[Mark]) {
        for mark in marks.iter().rev() {
            let unqueued = self.get(&mark.key).filter(|waiting| !waiting.queued);
            if let Some(waiting) = unqueued {
                waiting.queued = true;
                self.queue.push_front(mark.key);
            }
        }
    }

    pub(super) fn remove(&mut self, key: &EventKey) -> bool {
        let Entry::Occupied(mut of_slot) = self.by_slot.entry(key.slot) else { return false };
        let before = of_slot.get().len();
        of_slot.get_mut().retain(|waiting| waiting.mark.key != *key);
        let removed = before > of_slot.get().len();
        if of_slot.get().is_empty() {
            of_slot.remove();
        }
        self.marks -= usize::from(removed);
        removed
    }

    fn get(&mut self, key: &EventKey) -> Option<&mut Waiting> {
        self.by_slot.get_mut(&key.slot)?.iter_mut().find(|waiting| waiting.mark.key == *key)
    }
}

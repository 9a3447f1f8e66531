//! Marks that no commit has brought to the disk yet. Bounded: the oldest give way. It knows no disk.

use std::collections::VecDeque;
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use smallvec::SmallVec;

use super::marks::{Mark, MarkKind};
use crate::domain::key::{EventKey, Keyed};
use crate::domain::time::Timestamp;

/// Marks in memory at most; at about 150 bytes each: 10 MB. Reached only when the disk stalls.
pub(super) const UNWRITTEN: usize = 65_536;

/// The marks that wait, and those that are being written. They become that and go as a whole, so that nobody who puts one in waits
/// for work on many.
#[derive(Debug, Default)]
pub(super) struct Unwritten {
    waiting: Table,
    /// Those that wait, in the order in which they came.
    queue: VecDeque<EventKey>,
    /// Those that were taken and are not on disk yet, if any were. Its own as soon as the writer has dropped what it took.
    writing: Option<Arc<Table>>,
}

/// Marks by slot.
#[derive(Clone, Debug, Default)]
struct Table {
    /// Nearly always one of a slot.
    by_slot: Keyed<[u8; 16], SmallVec<[Mark; 1]>>,
    marks: usize,
}

/// Marks that were taken to be written.
#[derive(Debug, Default)]
pub(super) struct Taken {
    order: VecDeque<EventKey>,
    table: Arc<Table>,
}

impl Unwritten {
    /// The marks of a slot; of an event whose mark is being written and has come again, both.
    pub(super) fn of_slot(&self, slot: &[u8; 16]) -> impl Iterator<Item = &Mark> {
        std::iter::once(&self.waiting)
            .chain(self.writing.as_deref())
            .filter_map(|table| table.by_slot.get(slot))
            .flatten()
    }

    /// Whether nothing waits to be taken.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Puts a mark in; yields how many old ones had to go for it.
    pub(super) fn put(&mut self, mark: Mark, now: Timestamp) -> u64 {
        let counts =
            |old: &Mark| mark.kind == MarkKind::Processed || old.kind == MarkKind::Perhaps || old.expires_at <= now;
        let written = self.writing.as_deref();
        if written.and_then(|table| table.get(&mark.key)).is_some_and(|written| !counts(written)) {
            return 0;
        }
        match self.waiting.get_mut(&mark.key) {
            Some(old) if counts(old) => *old = mark,
            Some(_) => {}
            None => {
                self.waiting.add(mark);
                self.queue.push_back(mark.key);
            }
        }
        let written = written.map_or(0, |table| table.marks);
        let mut dropped = 0;
        while self.waiting.marks + written > UNWRITTEN {
            let Some(oldest) = self.queue.pop_front() else { break };
            dropped += u64::from(self.waiting.remove(&oldest));
        }
        dropped
    }

    /// Everything that waits, to be written now; `None`: what was taken before was neither written nor given back yet, and
    /// they go on waiting.
    pub(super) fn take(&mut self) -> Option<Taken> {
        if self.writing.is_some() {
            return None;
        }
        let next = Table::with_room_for(self.waiting.marks);
        let table = Arc::new(std::mem::replace(&mut self.waiting, next));
        self.writing = Some(table.clone());
        Some(Taken { order: std::mem::take(&mut self.queue), table })
    }

    /// What was taken is on disk. Dropping what this returns is the caller's to do where nobody waits for it.
    pub(super) fn written(&mut self) -> impl Drop + use<> {
        self.writing.take().unwrap_or_default()
    }

    /// What was taken is not on disk.
    pub(super) fn give_back(&mut self, taken: &Taken) {
        let Some(writing) = self.writing.take() else { return };
        for key in taken.order.iter().rev() {
            if let (Some(mark), None) = (writing.get(key), self.waiting.get(key)) {
                self.waiting.add(*mark);
                self.queue.push_front(*key);
            }
        }
    }

    /// Takes a mark out; says whether there was one.
    pub(super) fn remove(&mut self, key: &EventKey) -> bool {
        let waited = self.waiting.remove(key);
        if waited {
            self.queue.retain(|queued| queued != key);
        }
        // What was taken stays as it is: the writer has a table of its own from here on.
        let held = self.writing.as_mut().filter(|writing| writing.get(key).is_some());
        let written = held.is_some_and(|writing| Arc::make_mut(writing).remove(key));
        waited || written
    }
}

impl Taken {
    /// The marks, in the order in which they came.
    pub(super) fn marks(&self) -> impl Iterator<Item = &Mark> {
        self.order.iter().filter_map(|key| self.table.get(key))
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.table.marks
    }
}

impl Table {
    /// So that it does not grow while somebody waits.
    fn with_room_for(marks: usize) -> Self {
        Self { by_slot: Keyed::with_capacity_and_hasher(marks, BuildHasherDefault::default()), marks: 0 }
    }

    fn get(&self, key: &EventKey) -> Option<&Mark> {
        self.by_slot.get(&key.slot)?.iter().find(|mark| mark.key == *key)
    }

    fn get_mut(&mut self, key: &EventKey) -> Option<&mut Mark> {
        self.by_slot.get_mut(&key.slot)?.iter_mut().find(|mark| mark.key == *key)
    }

    /// Adds a mark of which none is there.
    fn add(&mut self, mark: Mark) {
        self.by_slot.entry(mark.key.slot).or_default().push(mark);
        self.marks += 1;
    }

    fn remove(&mut self, key: &EventKey) -> bool {
        let Some(of_slot) = self.by_slot.get_mut(&key.slot) else { return false };
        let before = of_slot.len();
        of_slot.retain(|mark| mark.key != *key);
        let removed = before > of_slot.len();
        if of_slot.is_empty() {
            self.by_slot.remove(&key.slot);
        }
        self.marks -= usize::from(removed);
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_760_000_000);

    fn mark(number: u32, kind: MarkKind, seconds: u64) -> Mark {
        // Spread, as the digests are that keys consist of.
        let slot = (u128::from(number) * 0x9e37_79b9_7f4a_7c15).to_be_bytes();
        let expires_at = NOW.plus(std::time::Duration::from_secs(seconds));
        Mark { key: EventKey { slot, fingerprint: [1; 16] }, kind, expires_at }
    }

    fn processed(number: u32) -> Mark {
        mark(number, MarkKind::Processed, 60)
    }

    fn known(unwritten: &Unwritten, number: u32) -> Vec<MarkKind> {
        unwritten.of_slot(&processed(number).key.slot).map(|mark| mark.kind).collect()
    }

    fn written(taken: &Taken) -> Vec<Mark> {
        taken.marks().copied().collect()
    }

    #[test]
    fn what_is_being_written_is_known_until_it_is_on_disk() {
        let mut unwritten = Unwritten::default();
        for number in [3, 1, 2] {
            assert_eq!(unwritten.put(processed(number), NOW), 0);
        }
        let taken = unwritten.take().unwrap();
        assert_eq!(written(&taken), [3, 1, 2].map(processed), "in the order in which they came");
        assert_eq!(taken.len(), 3);
        assert!(unwritten.is_empty());
        assert_eq!(unwritten.put(processed(4), NOW), 0);
        assert_eq!(known(&unwritten, 1), [MarkKind::Processed]);
        drop(unwritten.written());
        assert_eq!(known(&unwritten, 1), []);
        for _ in 0..2 {
            unwritten.put(processed(5), NOW);
            assert!(unwritten.remove(&processed(5).key));
        }
        unwritten.put(processed(5), NOW);
        assert_eq!(
            written(&unwritten.take().unwrap()),
            [4, 5].map(processed),
            "what came meanwhile is not gone with it"
        );
    }

    #[test]
    fn what_was_not_written_waits_again_before_what_came_meanwhile() {
        let mut unwritten = Unwritten::default();
        unwritten.put(processed(1), NOW);
        unwritten.put(mark(2, MarkKind::Perhaps, 60), NOW);
        unwritten.put(processed(3), NOW);
        let taken = unwritten.take().unwrap();
        unwritten.put(processed(4), NOW);
        unwritten.put(processed(2), NOW);
        assert!(unwritten.remove(&processed(3).key), "it is being written, and known still");
        assert_eq!(known(&unwritten, 3), []);
        assert_eq!(taken.len(), 3, "the writer is not disturbed");
        unwritten.give_back(&taken);
        assert_eq!(
            written(&unwritten.take().unwrap()),
            [1, 4, 2].map(processed),
            "neither the doubt nor what was forgotten"
        );
    }

    #[test]
    fn while_some_are_being_written_no_others_are_taken_and_none_of_them_is_lost() {
        let mut unwritten = Unwritten::default();
        unwritten.put(processed(1), NOW);
        let first = unwritten.take().unwrap();
        unwritten.put(processed(2), NOW);
        assert!(unwritten.take().is_none());
        assert_eq!((known(&unwritten, 1).len(), known(&unwritten, 2).len()), (1, 1));
        assert!(unwritten.remove(&processed(1).key));
        unwritten.put(processed(1), NOW);
        assert!(unwritten.take().is_none(), "nor where nothing of it is left");
        unwritten.give_back(&first);
        assert_eq!(written(&unwritten.take().unwrap()), [2, 1].map(processed));
    }

    #[test]
    fn a_doubt_takes_the_place_of_nothing_certain_that_counts_wherever_that_is() {
        let mut unwritten = Unwritten::default();
        unwritten.put(processed(1), NOW);
        unwritten.put(mark(1, MarkKind::Perhaps, 90), NOW);
        assert_eq!(known(&unwritten, 1), [MarkKind::Processed]);
        let _writing = unwritten.take().unwrap();
        unwritten.put(mark(1, MarkKind::Perhaps, 90), NOW);
        assert_eq!(known(&unwritten, 1), [MarkKind::Processed]);
        assert!(unwritten.is_empty(), "it would be written over what is certain");
        unwritten.put(mark(1, MarkKind::Perhaps, 90), processed(1).expires_at);
        assert_eq!(known(&unwritten, 1), [MarkKind::Perhaps, MarkKind::Processed], "that counts no more");
    }

    #[test]
    fn no_more_than_the_bound_are_kept_and_the_oldest_that_wait_give_way() {
        let mut unwritten = Unwritten::default();
        let half = u32::try_from(UNWRITTEN / 2).unwrap();
        assert_eq!((0..half).map(|number| unwritten.put(processed(number), NOW)).sum::<u64>(), 0);
        let _writing = unwritten.take().unwrap();
        assert_eq!((half..2 * half).map(|number| unwritten.put(processed(number), NOW)).sum::<u64>(), 0);
        assert_eq!(unwritten.put(processed(2 * half), NOW), 1);
        assert_eq!((known(&unwritten, half).len(), known(&unwritten, half + 1).len()), (0, 1));
        assert_eq!(known(&unwritten, 0).len(), 1, "the writer has it");
        drop(unwritten.written());
        assert_eq!(unwritten.put(processed(2 * half + 1), NOW), 0, "there is room again");
        assert!(unwritten.remove(&processed(half + 1).key) && !unwritten.remove(&processed(half + 1).key));
        assert_eq!(unwritten.take().unwrap().marks().next(), Some(&processed(half + 2)));
    }
}

//! A Bloom filter over slots: "certainly not marked" without a look at the disk, for nearly every new event. It never
//! says "not" of a slot that was put in; it says "perhaps" of about one in a hundred others.
//!
//! Slots are halves of SHA-256, so their own bits serve as hashes. Nothing is ever taken out: `marks.rs` builds a new
//! filter when one has become too full.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bits looked at per slot; with ten bits of room per slot: 0.8 % false answers.
const PROBES: u64 = 7;
const BITS_PER_SLOT: u64 = 10;

/// The filter. Any number of threads may put in and ask.
#[derive(Debug)]
pub(super) struct Filter {
    words: Vec<AtomicU64>,
    capacity: u64,
    entered: AtomicU64,
}

impl Filter {
    /// A filter for about `capacity` slots, at 1.25 bytes each.
    pub(super) fn with_capacity(capacity: u64) -> Self {
        let words = usize::try_from(capacity.saturating_mul(BITS_PER_SLOT).div_ceil(64).max(1)).unwrap_or(1);
        Self { words: (0..words).map(|_| AtomicU64::new(0)).collect(), capacity, entered: AtomicU64::new(0) }
    }

    pub(super) fn insert(&self, slot: &[u8; 16]) {
        self.entered.fetch_add(1, Ordering::Relaxed);
        for (word, bit) in self.places(slot) {
            word.fetch_or(bit, Ordering::Release);
        }
    }

    pub(super) fn may_contain(&self, slot: &[u8; 16]) -> bool {
        self.places(slot).all(|(word, bit)| word.load(Ordering::Acquire) & bit != 0)
    }

    pub(super) fn is_full(&self) -> bool {
        self.entered.load(Ordering::Relaxed) > self.capacity
    }

    fn places(&self, slot: &[u8; 16]) -> impl Iterator<Item = (&AtomicU64, u64)> {
        let bits = u128::from_be_bytes(*slot);
        #[allow(clippy::cast_possible_truncation, reason = "the two halves of the slot are meant")]
        let (start, step) = ((bits >> 64) as u64, (bits as u64) | 1);
        let words = self.words.len() as u128;
        (0..PROBES).filter_map(move |probe| {
            let hash = start.wrapping_add(step.wrapping_mul(probe));
            // The upper bits choose the word, without a division; the lowest six the bit in it.
            let word = usize::try_from((u128::from(hash) * words) >> 64).ok()?;
            Some((self.words.get(word)?, 1 << (hash % 64)))
        })
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    fn slot(number: u32) -> [u8; 16] {
        Sha256::digest(number.to_be_bytes())[..16].try_into().unwrap()
    }

    #[test]
    fn what_was_put_in_is_found_and_little_else() {
        let filter = Filter::with_capacity(10_000);
        (0..10_000).for_each(|number| filter.insert(&slot(number)));
        assert!((0..10_000).all(|number| filter.may_contain(&slot(number))));
        let wrong = (10_000..110_000).filter(|number| filter.may_contain(&slot(*number))).count();
        assert!(wrong < 2_000, "{wrong} of 100,000");
        assert!(!filter.is_full());
        filter.insert(&slot(10_000));
        assert!(filter.is_full());
    }
}

//! The name of an event for deduplication: which slot it takes, and which body it had.
//!
//! `slot` is the first half of SHA-256 over the route and the event's id parts, each with its length before it, so
//! that no two lists of parts read the same. `fingerprint` is the first half of the body's imprint (`body.rs`). Two events
//! of one slot with different fingerprints are different events (a conflict), not duplicates.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};

use sha2::{Digest, Sha256};

use super::body::imprint;

/// 128 bits of slot and 128 bits of body fingerprint; together `Hookgate-Key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventKey {
    /// Which event the sender says it is.
    pub slot: [u8; 16],
    /// Which body it came with.
    pub fingerprint: [u8; 16],
}

impl EventKey {
    /// The key of an event of `route` whose id consists of `parts`, with this `body`.
    #[must_use]
    pub fn new(route: &str, parts: &[&[u8]], body: &[u8]) -> Self {
        Self::of_imprint(route, parts, &imprint(body))
    }

    /// The same where the body's [`imprint`] is known.
    #[must_use]
    pub fn of_imprint(route: &str, parts: &[&[u8]], body: &[u8; 32]) -> Self {
        let mut hash = Sha256::new();
        for part in std::iter::once(&route.as_bytes()).chain(parts) {
            hash.update(length(part.len()));
            hash.update(part);
        }
        Self { slot: half(&hash.finalize().into()), fingerprint: half(body) }
    }

    /// The same where the parts are written one behind the other, each with its [`length`] before it; `last` is one more.
    #[must_use]
    pub(super) fn of_written(route: &str, parts: &[u8], last: Option<&[u8]>, body: &[u8; 32]) -> Self {
        let mut hash = Sha256::new();
        hash.update(length(route.len()));
        hash.update(route);
        hash.update(parts);
        if let Some(part) = last {
            hash.update(length(part.len()));
            hash.update(part);
        }
        Self { slot: half(&hash.finalize().into()), fingerprint: half(body) }
    }

    /// 64 lower-case hex digits: slot, then fingerprint.
    #[must_use]
    pub fn to_hex(&self) -> String {
        self.to_string()
    }

    /// The same as bytes.
    #[must_use]
    pub fn hex_digits(&self) -> [u8; 64] {
        let mut digits = [0; 64];
        let (slot, fingerprint) = digits.split_at_mut(32);
        slot.copy_from_slice(hex(&self.slot).as_flattened());
        fingerprint.copy_from_slice(hex(&self.fingerprint).as_flattened());
        digits
    }

    /// Reads what [`Self::to_hex`] wrote; `None` for anything else.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let bytes: [u8; 32] = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?.try_into().ok()?;
        let (slot, fingerprint) = bytes.split_at_checked(16)?;
        Some(Self { slot: slot.try_into().ok()?, fingerprint: fingerprint.try_into().ok()? })
    }
}

/// A table by events or their slots. They are halves of SHA-256 already, so that their own bits serve as hashes: to have many
/// fall together takes somebody who can sign and makes millions of ids for it.
pub type Keyed<K, V> = HashMap<K, V, BuildHasherDefault<Halves>>;

/// What [`Keyed`] is sorted by: the last eight bytes of each half. The first ones choose among tables.
#[derive(Clone, Copy, Debug, Default)]
pub struct Halves(u64);

impl Hasher for Halves {
    fn write(&mut self, bytes: &[u8]) {
        let last = match bytes.last_chunk() {
            Some(last) => u64::from_le_bytes(*last),
            None => bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)),
        };
        self.0 = self.0.rotate_left(7) ^ last;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// What stands before a part of so many bytes in what a slot is the digest of.
pub(super) fn length(bytes: usize) -> [u8; 8] {
    u64::try_from(bytes).unwrap_or(u64::MAX).to_be_bytes()
}

fn hex(half: &[u8; 16]) -> [[u8; 2]; 16] {
    // Without a branch, so that many digits are made at once.
    let digit = |value: u8| b'0' + value + u8::from(value > 9) * (b'a' - b'0' - 10);
    half.map(|byte| [digit(byte >> 4), digit(byte & 15)])
}

fn half(digest: &[u8; 32]) -> [u8; 16] {
    std::array::from_fn(|i| digest.get(i).copied().unwrap_or(0))
}

impl fmt::Display for EventKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.hex_digits()).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cannot_be_shifted_into_one_another() {
        let ab = EventKey::new("r", &[b"a", b"bc"], b"");
        assert_ne!(ab.slot, EventKey::new("r", &[b"ab", b"c"], b"").slot);
        assert_ne!(ab.slot, EventKey::new("ra", &[b"bc"], b"").slot);
    }

    #[test]
    fn parts_that_are_written_out_make_the_same_key() {
        let (digest, written) = ([7; 32], [length(1).as_slice(), b"a", &length(2), b"bc"].concat());
        assert_eq!(
            EventKey::of_written("r", &written, None, &digest),
            EventKey::of_imprint("r", &[b"a", b"bc"], &digest)
        );
        let more = EventKey::of_imprint("r", &[b"a", b"bc", b"d"], &digest);
        assert_eq!(EventKey::of_written("r", &written, Some(b"d"), &digest), more);
    }

    #[test]
    fn what_differs_in_either_half_is_found_apart_and_spread_within_what_its_first_byte_chose() {
        use std::hash::{BuildHasher, BuildHasherDefault};
        let hash = |key: EventKey| BuildHasherDefault::<Halves>::default().hash_one(key);
        let hash_of_slot = |key: EventKey| BuildHasherDefault::<Halves>::default().hash_one(key.slot);
        let of_table = |number: u32| {
            let mut key = EventKey::new("r", &[&number.to_be_bytes()], b"one body");
            key.slot[0] = 7;
            key
        };
        for (low, name) in [(0, "places"), (57, "tags")] {
            for hash in [hash, hash_of_slot] {
                let seen: std::collections::HashSet<u64> = (0..1500).map(|n| hash(of_table(n)) >> low & 127).collect();
                assert_eq!(seen.len(), 128, "{name}");
            }
        }
        let one = EventKey::new("r", &[b"id"], b"1");
        assert_ne!(hash(one), hash(EventKey::new("r", &[b"id"], b"2")));
        assert_ne!(hash(one), hash(EventKey::new("r", &[b"other"], b"1")));
    }

    #[test]
    fn a_key_survives_its_hex_form() {
        let key = EventKey::new("r", &[b"id"], b"body");
        assert_eq!(EventKey::from_hex(&key.to_hex()), Some(key));
        assert_eq!(EventKey::from_hex("abc"), None);
        let all = EventKey {
            slot: *b"\x00\x01\x09\x0a\x0f\x10\x19\x1a\x5f\x7f\x80\x9f\xa0\xf0\xfa\xff",
            fingerprint: [0x6c; 16],
        };
        let text = "0001090a0f10191a5f7f809fa0f0faff6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c";
        assert_eq!((all.to_hex().as_str(), all.to_string().as_str()), (text, text));
        assert_eq!(all.hex_digits().as_slice(), text.as_bytes());
    }

    #[test]
    fn another_body_keeps_the_slot_and_changes_the_fingerprint() {
        let one = EventKey::new("r", &[b"id"], b"1");
        let two = EventKey::new("r", &[b"id"], b"2");
        assert_eq!(one.slot, two.slot);
        assert_ne!(one.fingerprint, two.fingerprint);
    }
}

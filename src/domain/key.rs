//! The name of an event for deduplication: which slot it takes, and which body it had.
//!
//! `slot` is the first half of SHA-256 over the route and the event's id parts, each with its length before it, so
//! that no two lists of parts read the same. `fingerprint` is the first half of SHA-256 over the body. Two events of
//! one slot with different fingerprints are different events (a conflict), not duplicates.

use std::fmt;

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

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
        Self::of_digest(route, parts, &Sha256::digest(body).into())
    }

    /// The same where SHA-256 of the body is known.
    #[must_use]
    pub fn of_digest(route: &str, parts: &[&[u8]], body: &[u8; 32]) -> Self {
        let mut hash = Sha256::new();
        for part in std::iter::once(&route.as_bytes()).chain(parts) {
            hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(part);
        }
        Self { slot: half(&hash.finalize().into()), fingerprint: half(body) }
    }

    /// 64 lower-case hex digits: slot, then fingerprint.
    #[must_use]
    pub fn to_hex(&self) -> String {
        let mut text = HEXLOWER.encode(&self.slot);
        HEXLOWER.encode_append(&self.fingerprint, &mut text);
        text
    }

    /// Reads what [`Self::to_hex`] wrote; `None` for anything else.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let bytes: [u8; 32] = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?.try_into().ok()?;
        let (slot, fingerprint) = bytes.split_at_checked(16)?;
        Some(Self { slot: slot.try_into().ok()?, fingerprint: fingerprint.try_into().ok()? })
    }
}

fn half(digest: &[u8; 32]) -> [u8; 16] {
    std::array::from_fn(|i| digest.get(i).copied().unwrap_or(0))
}

impl fmt::Display for EventKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
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
    fn a_key_survives_its_hex_form() {
        let key = EventKey::new("r", &[b"id"], b"body");
        assert_eq!(EventKey::from_hex(&key.to_hex()), Some(key));
        assert_eq!(EventKey::from_hex("abc"), None);
    }

    #[test]
    fn another_body_keeps_the_slot_and_changes_the_fingerprint() {
        let one = EventKey::new("r", &[b"id"], b"1");
        let two = EventKey::new("r", &[b"id"], b"2");
        assert_eq!(one.slot, two.slot);
        assert_ne!(one.fingerprint, two.fingerprint);
    }
}

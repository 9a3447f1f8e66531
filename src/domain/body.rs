//! The body of an event: its bytes, what tells them from any other, and their SHA-256 where that has been made already.

use std::ops::Deref;

use bytes::Bytes;
use sha2::{Digest, Sha256};

/// Longest body, in bytes, whose imprint is its SHA-256, which its record needs too. A longer one is hashed faster with
/// BLAKE3, by so much that to make both, where a record is written, costs little more (`docs/adr/0013-imprints.md`).
const SHORT: usize = 4096;

/// What tells a body from every other: 256 bits of a hash for which nobody finds two bodies, SHA-256 of a short one, BLAKE3
/// of another.
#[must_use]
pub fn imprint(body: &[u8]) -> [u8; 32] {
    if body.len() <= SHORT { Sha256::digest(body).into() } else { *blake3::hash(body).as_bytes() }
}

/// A body, byte for byte as it came.
#[derive(Clone, Debug)]
pub struct Body {
    bytes: Bytes,
    sha256: Option<[u8; 32]>,
}

impl Body {
    /// A body whose [`imprint`] is known.
    pub(super) fn imprinted(bytes: Bytes, imprint: [u8; 32]) -> Self {
        let sha256 = (bytes.len() <= SHORT).then_some(imprint);
        Self { bytes, sha256 }
    }

    /// Its SHA-256; made now if it was not made before.
    #[must_use]
    pub fn sha256(&self) -> [u8; 32] {
        self.sha256.unwrap_or_else(|| Sha256::digest(&self.bytes).into())
    }

    #[cfg(test)]
    pub(super) const fn is_digested(&self) -> bool {
        self.sha256.is_some()
    }

    /// Its bytes.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self { bytes, sha256: None }
    }
}

impl PartialEq for Body {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Body {}

impl Deref for Body {
    type Target = Bytes;

    fn deref(&self) -> &Bytes {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the BLAKE3 team hashes in its test vectors.
    fn pattern(bytes: usize) -> Vec<u8> {
        (0..=250).cycle().take(bytes).collect()
    }

    #[test]
    fn a_body_of_4_kib_is_told_apart_by_its_sha256_and_a_longer_one_by_its_blake3() {
        for bytes in [0, 1, 1024, 4096] {
            assert_eq!(imprint(&pattern(bytes)), <[u8; 32]>::from(Sha256::digest(pattern(bytes))), "{bytes}");
        }
        // https://github.com/BLAKE3-team/BLAKE3/blob/master/test_vectors/test_vectors.json
        let known = "9cadc15fed8b5d854562b26a9536d9707cadeda9b143978f319ab34230535833";
        assert_eq!(data_encoding::HEXLOWER.encode(&imprint(&pattern(5120))), known);
        assert_ne!(imprint(&pattern(4097)), <[u8; 32]>::from(Sha256::digest(pattern(4097))));
    }
}

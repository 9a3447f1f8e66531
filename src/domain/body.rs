//! The body of an event: its bytes, and their SHA-256 where that has been made already.

use std::ops::Deref;

use bytes::Bytes;
use sha2::{Digest, Sha256};

/// A body, byte for byte as it came.
#[derive(Clone, Debug)]
pub struct Body {
    bytes: Bytes,
    sha256: Option<[u8; 32]>,
}

impl Body {
    /// A body whose SHA-256 is known: `sha256`.
    pub(super) const fn digested(bytes: Bytes, sha256: [u8; 32]) -> Self {
        Self { bytes, sha256: Some(sha256) }
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

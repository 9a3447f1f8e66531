//! Secrets made ready: a key derived and its hash state started once, so that a check computes only over the request.
//!
//! Not here: where secrets come from and when they end.

use std::fmt;

use hmac::{Hmac, KeyInit};
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha384, Sha512};
use zeroize::Zeroizing;

use super::mac::Proof;
use super::raw::{HashName, KeyEncoding};
use super::{Means, Scheme, SchemeFault};
use crate::domain::secret::Secret;

/// A secret as one scheme uses it. Only [`Scheme::prepare`] makes one; it cannot be read back, printed or compared.
#[derive(Clone)]
pub struct Key(pub(super) Ready);

/// What is kept of a secret.
#[derive(Clone)]
pub(super) enum Ready {
    /// HMAC-SHA1 with the key taken in.
    Sha1(Box<Hmac<Sha1>>),
    /// HMAC-SHA256 with the key taken in.
    Sha256(Box<Hmac<Sha256>>),
    /// HMAC-SHA384 with the key taken in.
    Sha384(Box<Hmac<Sha384>>),
    /// HMAC-SHA512 with the key taken in.
    Sha512(Box<Hmac<Sha512>>),
    /// What stands for `{secret}` in the message of a plain hash.
    Plain(Zeroizing<Vec<u8>>),
    /// SHA-256 of the text that the sender shows.
    Shown(Zeroizing<[u8; 32]>),
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Scheme {
    /// Makes a secret ready for this scheme, or refuses one that gives no key. The fault names neither the secret nor
    /// its length.
    pub fn prepare(&self, secret: &Secret) -> Result<Key, SchemeFault> {
        let ready = self.key.key(secret).and_then(|key| match self.means {
            Means::Signature(Proof::Hmac(hash)) => hmac(hash, &key),
            Means::Signature(Proof::Hash(_)) => Some(Ready::Plain(key)),
            Means::Token | Means::Basic => Some(Ready::Shown(Zeroizing::new(Sha256::digest(&key).into()))),
        });
        ready.map(Key).ok_or_else(|| {
            let expected = match self.key.encoding {
                KeyEncoding::Utf8 => "a secret that is not empty",
                KeyEncoding::Base64 => "a secret in canonical base64",
                KeyEncoding::Hex => "a secret in hex",
            };
            SchemeFault::new("secrets", "a secret that gives no key", expected)
        })
    }
}

fn hmac(hash: HashName, key: &[u8]) -> Option<Ready> {
    Some(match hash {
        HashName::Sha1 => Ready::Sha1(Box::new(KeyInit::new_from_slice(key).ok()?)),
        HashName::Sha256 => Ready::Sha256(Box::new(KeyInit::new_from_slice(key).ok()?)),
        HashName::Sha384 => Ready::Sha384(Box::new(KeyInit::new_from_slice(key).ok()?)),
        HashName::Sha512 => Ready::Sha512(Box::new(KeyInit::new_from_slice(key).ok()?)),
    })
}

//! Secrets made ready: a key derived and its hash state started once, so that a check computes only over the request.
//!
//! Not here: where secrets come from and when they end.

use std::fmt;

use hmac::{Hmac, KeyInit};
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha384, Sha512};
use zeroize::Zeroizing;

use super::asymmetric::{self, refuse_private};
use super::mac::Proof;
use super::raw::{HashName, KeyEncoding};
use super::signature::Way;
use super::{Means, Scheme, SchemeFault};
use crate::domain::secret::Secret;

/// A secret as one scheme uses it. Only [`Scheme::prepare`] makes one; it cannot be read back, printed or compared.
#[derive(Clone)]
pub struct Key {
    pub(super) ready: Ready,
    /// Which of the scheme's signatures it is tried against.
    pub(super) way: Way,
}

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
    /// A public key.
    Ed25519(Box<ed25519_dalek::VerifyingKey>),
    /// A public key.
    P256(Box<p256::ecdsa::VerifyingKey>),
}

impl Key {
    /// Whether it checks signatures and makes none.
    pub(super) const fn is_public(&self) -> bool {
        matches!(self.ready, Ready::Ed25519(_) | Ready::P256(_))
    }
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
        if let Some(also) = &self.also {
            refuse_private(secret)?;
            if secret.expose().starts_with(also.secret.as_bytes()) {
                return asymmetric::public_key(also.proof, &also.key, secret)
                    .map(|ready| Key { ready, way: Way::Second });
            }
        }
        let ready = match &self.means {
            Means::Signature(proof @ (Proof::Ed25519 | Proof::P256)) => {
                asymmetric::public_key(*proof, &self.key, secret)?
            }
            Means::Signature(Proof::Hmac(hash)) => {
                hmac(*hash, &self.key_bytes(secret)?).ok_or_else(|| self.no_key())?
            }
            Means::Jwt(jwt) => hmac(jwt.hash, &self.key_bytes(secret)?).ok_or_else(|| self.no_key())?,
            Means::Signature(Proof::Hash(_)) => Ready::Plain(self.key_bytes(secret)?),
            Means::Token | Means::Basic => {
                Ready::Shown(Zeroizing::new(Sha256::digest(&self.key_bytes(secret)?).into()))
            }
        };
        Ok(Key { ready, way: Way::First })
    }

    fn key_bytes(&self, secret: &Secret) -> Result<Zeroizing<Vec<u8>>, SchemeFault> {
        self.key.key(secret).ok_or_else(|| self.no_key())
    }

    fn no_key(&self) -> SchemeFault {
        let expected = match self.key.encoding {
            KeyEncoding::Utf8 => "a secret that is not empty",
            KeyEncoding::Base64 => "a secret in canonical base64",
            KeyEncoding::Hex => "a secret in hex",
        };
        SchemeFault::new("secrets", "a secret that gives no key", expected)
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

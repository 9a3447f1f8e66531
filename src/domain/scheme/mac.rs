//! Keyed and plain hashes over a message, compared in constant time.

use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha384, Sha512};
use subtle::{Choice, ConstantTimeEq};

use super::raw::HashName;
use super::template::Message;

/// What is computed over a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// HMAC (RFC 2104) with this hash function.
    Hmac(HashName),
    /// The plain digest; the message holds the key.
    Hash(HashName),
}

impl Proof {
    /// Length of the result in bytes.
    pub(super) const fn bytes(self) -> usize {
        match self {
            Self::Hmac(hash) | Self::Hash(hash) => hash.bytes(),
        }
    }

    /// Whether one of `candidates` is right. All are compared, each in constant time.
    pub(super) fn fits(self, key: &[u8], message: &Message<'_>, candidates: &[Vec<u8>]) -> bool {
        match self {
            Self::Hmac(HashName::Sha1) => hmac_fits::<Hmac<Sha1>>(key, message, candidates),
            Self::Hmac(HashName::Sha256) => hmac_fits::<Hmac<Sha256>>(key, message, candidates),
            Self::Hmac(HashName::Sha384) => hmac_fits::<Hmac<Sha384>>(key, message, candidates),
            Self::Hmac(HashName::Sha512) => hmac_fits::<Hmac<Sha512>>(key, message, candidates),
            Self::Hash(hash) => {
                let right = plain(hash, key, message);
                let fit = candidates.iter().fold(Choice::from(0), |fit, candidate| fit | right.ct_eq(candidate));
                fit.into()
            }
        }
    }

    /// The result over `message`, for signing.
    pub(super) fn compute(self, key: &[u8], message: &Message<'_>) -> Vec<u8> {
        match self {
            Self::Hmac(HashName::Sha1) => hmac_of::<Hmac<Sha1>>(key, message),
            Self::Hmac(HashName::Sha256) => hmac_of::<Hmac<Sha256>>(key, message),
            Self::Hmac(HashName::Sha384) => hmac_of::<Hmac<Sha384>>(key, message),
            Self::Hmac(HashName::Sha512) => hmac_of::<Hmac<Sha512>>(key, message),
            Self::Hash(hash) => plain(hash, key, message),
        }
    }
}

/// Compares two texts of any length without telling where or in how many bytes they differ.
pub(super) fn same_text(one: &[u8], other: &[u8]) -> bool {
    Sha256::digest(one).ct_eq(&Sha256::digest(other)).into()
}

fn started<M: Mac + KeyInit>(key: &[u8], message: &Message<'_>) -> Option<M> {
    let mut mac = <M as KeyInit>::new_from_slice(key).ok()?;
    message.feed(key, &mut |bytes| mac.update(bytes));
    Some(mac)
}

fn hmac_fits<M: Mac + KeyInit + Clone>(key: &[u8], message: &Message<'_>, candidates: &[Vec<u8>]) -> bool {
    let Some(mac) = started::<M>(key, message) else { return false };
    candidates.iter().fold(false, |fits, candidate| mac.clone().verify_slice(candidate).is_ok() | fits)
}

fn hmac_of<M: Mac + KeyInit>(key: &[u8], message: &Message<'_>) -> Vec<u8> {
    started::<M>(key, message).map(|mac| mac.finalize().into_bytes().to_vec()).unwrap_or_default()
}

fn plain(hash: HashName, key: &[u8], message: &Message<'_>) -> Vec<u8> {
    match hash {
        HashName::Sha1 => plain_of::<Sha1>(key, message),
        HashName::Sha256 => plain_of::<Sha256>(key, message),
        HashName::Sha384 => plain_of::<Sha384>(key, message),
        HashName::Sha512 => plain_of::<Sha512>(key, message),
    }
}

fn plain_of<D: Digest>(key: &[u8], message: &Message<'_>) -> Vec<u8> {
    let mut hash = D::new();
    message.feed(key, &mut |bytes| hash.update(bytes));
    hash.finalize().to_vec()
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use data_encoding::HEXLOWER;

    use super::super::template::Piece;
    use super::*;

    fn message(text: &'static str) -> Message<'static> {
        Message { pieces: vec![Piece::Bytes(Cow::Borrowed(text.as_bytes()))] }
    }

    #[test]
    fn hmacs_are_those_of_rfc_4231_and_rfc_2202() {
        let what = message("what do ya want for nothing?");
        let hex = |hash| HEXLOWER.encode(&Proof::Hmac(hash).compute(b"Jefe", &what));
        assert_eq!(hex(HashName::Sha1), "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79");
        assert_eq!(hex(HashName::Sha256), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
        assert!(hex(HashName::Sha384).starts_with("af45d2e376484031617f78d2b58a6b1b"));
        assert!(hex(HashName::Sha512).starts_with("164b7a7bfcf819e2e395fbe73b56e0a3"));
    }

    #[test]
    fn every_candidate_is_compared() {
        let right = Proof::Hmac(HashName::Sha256).compute(b"k", &message("m"));
        let wrong = vec![0; 32];
        let proof = Proof::Hmac(HashName::Sha256);
        assert!(proof.fits(b"k", &message("m"), &[right.clone(), wrong.clone()]));
        assert!(proof.fits(b"k", &message("m"), &[wrong.clone(), right.clone()]));
        assert!(!proof.fits(b"k", &message("m"), &[wrong]));
        assert!(!proof.fits(b"k2", &message("m"), &[right]));
    }

    #[test]
    fn a_plain_hash_takes_the_secret_from_the_message() {
        let message = Message { pieces: vec![Piece::Secret, Piece::Bytes(Cow::Borrowed(b"m"))] };
        let proof = Proof::Hash(HashName::Sha256);
        assert_eq!(proof.compute(b"k", &message), Sha256::digest(b"km").to_vec());
        assert!(proof.fits(b"k", &message, &[Sha256::digest(b"km").to_vec()]));
        assert!(!proof.fits(b"k", &message, &[Sha256::digest(b"m").to_vec()]));
    }
}

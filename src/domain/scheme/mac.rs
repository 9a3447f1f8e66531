//! What proves a message: keyed and plain hashes, compared in constant time, and public keys.

use std::ops::RangeInclusive;

use hmac::Mac;
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha384, Sha512};
use subtle::{Choice, ConstantTimeEq};
use zeroize::Zeroizing;

use super::asymmetric;
use super::key::{Key, Ready};
use super::raw::HashName;
use super::signature::Candidate;
use super::template::Message;

/// What is computed over a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// HMAC (RFC 2104) with this hash function.
    Hmac(HashName),
    /// The plain digest; the message holds the key.
    Hash(HashName),
    /// Ed25519 (RFC 8032) over the message.
    Ed25519,
    /// ECDSA over P-256 and the message's SHA-256, in DER.
    P256,
}

impl Proof {
    /// Lengths that a signature can have, in bytes.
    pub(super) const fn lengths(self) -> RangeInclusive<usize> {
        match self {
            Self::Hmac(hash) | Self::Hash(hash) => hash.bytes()..=hash.bytes(),
            Self::Ed25519 => 64..=64,
            Self::P256 => 8..=72,
        }
    }

    /// For people.
    pub(super) fn describe(self) -> String {
        match self {
            Self::Hmac(hash) => format!("hmac-{}", hash.as_str()),
            Self::Hash(hash) => hash.as_str().to_owned(),
            Self::Ed25519 => "ed25519".to_owned(),
            Self::P256 => "ecdsa-p256".to_owned(),
        }
    }
}

impl Key {
    /// Whether one of `candidates` is right. All are compared, each in constant time.
    pub(super) fn fits(&self, proof: Proof, message: &Message<'_>, candidates: &[Candidate]) -> bool {
        match (&self.ready, proof) {
            (Ready::Sha1(mac), Proof::Hmac(_)) => hmac_fits(&**mac, message, candidates),
            (Ready::Sha256(mac), Proof::Hmac(_)) => hmac_fits(&**mac, message, candidates),
            (Ready::Sha384(mac), Proof::Hmac(_)) => hmac_fits(&**mac, message, candidates),
            (Ready::Sha512(mac), Proof::Hmac(_)) => hmac_fits(&**mac, message, candidates),
            (Ready::Plain(secret), Proof::Hash(hash)) => {
                let right = plain(hash, secret, message);
                let fit = candidates.iter().fold(Choice::from(0), |fit, candidate| fit | right.ct_eq(candidate));
                bool::from(fit) && !is_lengthened(hash, secret, message)
            }
            (Ready::Ed25519(key), Proof::Ed25519) => asymmetric::ed25519_fits(key, message, candidates),
            (Ready::P256(key), Proof::P256) => asymmetric::p256_fits(key, message, candidates),
            (_, _) => false,
        }
    }

    /// The hash over `message`; nothing where the secret is no such key, or a public one.
    pub(super) fn compute(&self, proof: Proof, message: &Message<'_>) -> Option<Vec<u8>> {
        match (&self.ready, proof) {
            (Ready::Sha1(mac), Proof::Hmac(_)) => Some(hmac_of(&**mac, message)),
            (Ready::Sha256(mac), Proof::Hmac(_)) => Some(hmac_of(&**mac, message)),
            (Ready::Sha384(mac), Proof::Hmac(_)) => Some(hmac_of(&**mac, message)),
            (Ready::Sha512(mac), Proof::Hmac(_)) => Some(hmac_of(&**mac, message)),
            (Ready::Plain(secret), Proof::Hash(hash)) => Some(plain(hash, secret, message).into_vec()),
            (_, _) => None,
        }
    }

    /// Whether the sender showed this secret: compared by digest, without telling where or in how many bytes the
    /// texts differ.
    pub(super) fn is(&self, shown: &[u8]) -> bool {
        match &self.ready {
            Ready::Shown(digest) => same(&Sha256::digest(shown), digest.as_slice()),
            Ready::Sha1(_)
            | Ready::Sha256(_)
            | Ready::Sha384(_)
            | Ready::Sha512(_)
            | Ready::Plain(_)
            | Ready::Ed25519(_)
            | Ready::P256(_) => false,
        }
    }
}

/// Compares two digests in constant time.
pub(super) fn same(one: &[u8], other: &[u8]) -> bool {
    one.ct_eq(other).into()
}

fn fed<M: Mac + Clone>(mac: &M, message: &Message<'_>) -> M {
    let mut mac = mac.clone();
    message.feed(&[], &mut |bytes| mac.update(bytes));
    mac
}

fn hmac_fits<M: Mac + Clone>(mac: &M, message: &Message<'_>, candidates: &[Candidate]) -> bool {
    let right = fed(mac, message).finalize().into_bytes();
    let fit = candidates.iter().fold(Choice::from(0), |fit, candidate| fit | right.as_slice().ct_eq(candidate));
    fit.into()
}

fn hmac_of<M: Mac + Clone>(mac: &M, message: &Message<'_>) -> Vec<u8> {
    fed(mac, message).finalize().into_bytes().to_vec()
}

fn plain(hash: HashName, secret: &[u8], message: &Message<'_>) -> Candidate {
    match hash {
        HashName::Sha1 => plain_of::<Sha1>(secret, message),
        HashName::Sha256 => plain_of::<Sha256>(secret, message),
        HashName::Sha384 => plain_of::<Sha384>(secret, message),
        HashName::Sha512 => plain_of::<Sha512>(secret, message),
    }
}

/// Whether a shorter text's padding stands in the middle of the secret and its text (RFC 6234 section 4.1). Who has seen the hash of
/// the shorter one has that of the longer without the secret, for all of these hashes but SHA-384: nobody signs such a text.
fn is_lengthened(hash: HashName, secret: &[u8], message: &Message<'_>) -> bool {
    let (block, length) = match hash {
        HashName::Sha1 | HashName::Sha256 => (64, 8),
        HashName::Sha384 | HashName::Sha512 => (128, 16),
    };
    // The block before, and the one that comes.
    let mut last = Zeroizing::new([0_u8; 256]);
    let (mut so_far, mut found) = (0_usize, false);
    message.feed(secret, &mut |mut bytes| {
        while !bytes.is_empty() {
            let filled = block + so_far % block;
            let (here, rest) = bytes.split_at(bytes.len().min(2 * block - filled));
            if let Some(place) = last.get_mut(filled..filled + here.len()) {
                place.copy_from_slice(here);
            }
            (so_far, bytes) = (so_far + here.len(), rest);
            if so_far % block == 0 {
                found |= last.get(..2 * block).is_some_and(|text| ends_padded(text, so_far, block, length));
                last.copy_within(block..2 * block, 0);
            }
        }
    });
    found
}

/// Whether the first `end` bytes of a text, of which these are the last, are a shorter one with its padding: a bit that is set, bits
/// that are not, and the shorter one's length in bits.
fn ends_padded(last: &[u8], end: usize, block: usize, length: usize) -> bool {
    let padded = || {
        let bits = u64::from_be_bytes(*last.last_chunk()?);
        let shorter = usize::try_from(bits / 8).ok().filter(|_| bits % 8 == 0)?;
        let padding = end.checked_sub(shorter).filter(|padding| (length + 1..=block + length).contains(padding))?;
        let (first, rest) = last.get(last.len().checked_sub(padding)?..)?.split_first()?;
        let zeros = rest.get(..rest.len().checked_sub(8)?)?;
        Some(*first == 0x80 && zeros.iter().all(|byte| *byte == 0))
    };
    padded().unwrap_or(false)
}

fn plain_of<D: Digest>(secret: &[u8], message: &Message<'_>) -> Candidate {
    let mut hash = D::new();
    message.feed(secret, &mut |bytes| hash.update(bytes));
    Candidate::from_slice(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;
    use smallvec::smallvec;

    use super::super::raw::RawScheme;
    use super::super::template::Piece;
    use super::super::{Means, Scheme};
    use super::*;
    use crate::domain::secret::Secret;

    fn message(text: &'static str) -> Message<'static> {
        Message { pieces: smallvec![Piece::Bytes(text.as_bytes())] }
    }

    fn key(kind: &str, hash: HashName, secret: &[u8]) -> (Key, Proof) {
        let signed = if kind == "hash" { "{secret}{body}" } else { "{body}" };
        let raw: RawScheme = serde_json::from_value(serde_json::json!({
            "kind": kind, "mac": hash.as_str(), "signed": signed, "signature": { "header": "X", "encoding": "hex" },
        }))
        .expect("a scheme as written");
        let scheme = Scheme::compile(&raw).expect("a scheme");
        let Means::Signature(proof) = scheme.means else { panic!("a scheme that signs") };
        (scheme.prepare(&Secret::new(secret.to_vec())).expect("a key"), proof)
    }

    #[test]
    fn hmacs_are_those_of_rfc_4231_and_rfc_2202() {
        let what = message("what do ya want for nothing?");
        let hex = |hash| {
            let (key, proof) = key("hmac", hash, b"Jefe");
            HEXLOWER.encode(&key.compute(proof, &what).expect("a hash"))
        };
        assert_eq!(hex(HashName::Sha1), "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79");
        assert_eq!(hex(HashName::Sha256), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
        assert!(hex(HashName::Sha384).starts_with("af45d2e376484031617f78d2b58a6b1b"));
        assert!(hex(HashName::Sha512).starts_with("164b7a7bfcf819e2e395fbe73b56e0a3"));
    }

    #[test]
    fn a_way_of_signing_is_named_by_its_kind_and_its_hash() {
        let named = |kind, hash| key(kind, hash, b"k").1.describe();
        assert_eq!(named("hmac", HashName::Sha512), "hmac-sha512");
        assert_eq!(named("hash", HashName::Sha256), "sha256");
        assert_eq!(
            (Proof::Ed25519.describe(), Proof::P256.describe()),
            ("ed25519".to_owned(), "ecdsa-p256".to_owned())
        );
    }

    #[test]
    fn every_candidate_is_compared() {
        let (key, proof) = key("hmac", HashName::Sha256, b"k");
        let (other, _) = self::key("hmac", HashName::Sha256, b"k2");
        let right = key.compute(proof, &message("m")).expect("a hash");
        let right = Candidate::from_vec(right);
        let wrong = Candidate::from_elem(0, 32);
        assert!(key.fits(proof, &message("m"), &[right.clone(), wrong.clone()]));
        assert!(key.fits(proof, &message("m"), &[wrong.clone(), right.clone()]));
        assert!(!key.fits(proof, &message("m"), &[wrong]));
        assert!(!other.fits(proof, &message("m"), &[right]));
    }

    #[test]
    fn a_text_that_holds_the_padding_of_a_shorter_one_is_nobodys() {
        for hash in [HashName::Sha1, HashName::Sha256, HashName::Sha512] {
            let (block, length) = if hash == HashName::Sha512 { (128, 16) } else { (64, 8) };
            for size in 1..2 * block {
                let (secret, signed) = (b"a secret of 20 bytes", vec![b'x'; size]);
                let so_far = secret.len() + size;
                let mut longer = signed.clone();
                longer.push(0x80);
                longer.resize((so_far + 1 + length).next_multiple_of(block) - secret.len() - 8, 0);
                longer.extend((so_far as u64 * 8).to_be_bytes());
                let glued = longer.len();
                longer.extend(b", and more");
                let lengthened = |body: &[u8]| {
                    let message = Message { pieces: smallvec![Piece::Secret, Piece::Bytes(body)] };
                    is_lengthened(hash, secret, &message)
                };
                assert!(lengthened(&longer) && lengthened(&longer[..glued]), "{size}");
                assert!(!lengthened(&signed) && !lengthened(&longer[..glued - 1]), "{size}");
                longer[size] = 0x81;
                assert!(!lengthened(&longer), "{size}");
            }
        }
    }

    #[test]
    fn a_right_hash_over_a_lengthened_text_is_refused() {
        let (key, proof) = key("hash", HashName::Sha256, b"k");
        let mut body = vec![b'm', 0x80];
        body.resize(62, 0);
        body.extend([16, b'x']);
        let right = |body: &[u8]| Candidate::from_slice(&Sha256::digest([b"k", body].concat()));
        let fits = |body: &[u8]| {
            let message = Message { pieces: smallvec![Piece::Secret, Piece::Bytes(body)] };
            key.fits(proof, &message, &[right(body)])
        };
        assert!(!fits(&body), "who knows the hash of `km` knows this one");
        body[62] = 24;
        assert!(fits(&body), "zeros are nothing bad");
    }

    #[test]
    fn a_plain_hash_takes_the_secret_from_the_message() {
        let message = Message { pieces: smallvec![Piece::Secret, Piece::Bytes(b"m")] };
        let (key, proof) = key("hash", HashName::Sha256, b"k");
        assert_eq!(key.compute(proof, &message), Some(Sha256::digest(b"km").to_vec()));
        assert!(key.fits(proof, &message, &[Candidate::from_slice(&Sha256::digest(b"km"))]));
        assert!(!key.fits(proof, &message, &[Candidate::from_slice(&Sha256::digest(b"m"))]));
        let right = Candidate::from_slice(&Sha256::digest(b"km"));
        assert!(key.fits(proof, &message, &[right.clone(), right]), "twice is as good as once");
    }
}

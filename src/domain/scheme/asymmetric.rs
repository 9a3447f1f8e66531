//! Signatures that a public key checks: Ed25519 (RFC 8032) and ECDSA over P-256 with SHA-256 (FIPS 186-5).
//!
//! Nothing is signed here, and no private key is ever kept: one given by mistake is refused.
//!
//! Ed25519 is checked strictly: `s` below the group order, neither the key nor `R` of small order, the equation without
//! its cofactor. ECDSA signatures are taken with either of the two values of `s` that fit: common signers write both,
//! and half of all genuine events carry the high one. That such a signature can be rewritten without the key does no
//! harm: no part of a signature ever names an event.

use data_encoding::BASE64;
use ed25519_dalek::VerifyingKey as EdKey;
use p256::ecdsa::VerifyingKey as EcKey;
use p256::ecdsa::signature::hazmat::PrehashVerifier;
use p256::pkcs8::{DecodePrivateKey, DecodePublicKey};

use super::SchemeFault;
use super::encoding::KeyRule;
use super::key::Ready;
use super::mac::Proof;
use super::raw::KeyEncoding;
use super::template::{Message, Piece};
use crate::domain::secret::Secret;

/// What stands before the 32 bytes of an Ed25519 key in its `SubjectPublicKeyInfo` (RFC 8410 section 4).
const ED25519_INFO: &[u8] = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";

/// What a private key holds in front or in its first line, as far as it is text.
const PRIVATE_PREFIX: &[u8] = b"whsk_";
const PRIVATE_LABEL: &[u8] = b"PRIVATE KEY-----";

/// The public key that `secret` is, for `proof`.
pub(super) fn public_key(proof: Proof, rule: &KeyRule, secret: &Secret) -> Result<Ready, SchemeFault> {
    refuse_private(secret)?;
    let bytes = match rule.encoding {
        KeyEncoding::Utf8 => pem(secret.expose()),
        KeyEncoding::Base64 | KeyEncoding::Hex => rule.key(secret).map(|bytes| bytes.to_vec()),
    };
    let bytes = bytes.ok_or_else(|| {
        let expected = match rule.encoding {
            KeyEncoding::Utf8 => "the sender's public key in PEM: \"-----BEGIN PUBLIC KEY-----\"",
            KeyEncoding::Base64 => "the sender's public key in canonical base64",
            KeyEncoding::Hex => "the sender's public key in hex",
        };
        SchemeFault::new("secrets", "a secret that gives no key", expected)
    })?;
    match proof {
        Proof::Ed25519 => ed25519_key(&bytes),
        Proof::P256 => p256_key(&bytes),
        Proof::Hmac(_) | Proof::Hash(_) => Err(SchemeFault::new("secrets", "a public key", "a shared secret")),
    }
}

/// A private key belongs to the sender alone: who gives one here has published it.
pub(super) fn refuse_private(secret: &Secret) -> Result<(), SchemeFault> {
    let text = secret.expose();
    let labelled = text.windows(PRIVATE_LABEL.len()).any(|window| window == PRIVATE_LABEL);
    if labelled || text.starts_with(PRIVATE_PREFIX) { Err(private()) } else { Ok(()) }
}

fn private() -> SchemeFault {
    SchemeFault::new("secrets", "a private key, which belongs to the sender alone", "the sender's public key")
}

fn ed25519_key(bytes: &[u8]) -> Result<Ready, SchemeFault> {
    let raw = bytes.strip_prefix(ED25519_INFO).unwrap_or(bytes);
    let raw: &[u8; 32] = raw.try_into().map_err(|_| {
        let expected = "the sender's public key: 32 bytes, or its SubjectPublicKeyInfo";
        SchemeFault::new("secrets", "a secret of the wrong length for an Ed25519 key", expected)
    })?;
    match EdKey::from_bytes(raw) {
        Ok(key) if !key.is_weak() => Ok(Ready::Ed25519(Box::new(key))),
        Ok(_) | Err(_) => {
            Err(SchemeFault::new("secrets", "bytes that are no Ed25519 public key", "the sender's public key"))
        }
    }
}

fn p256_key(bytes: &[u8]) -> Result<Ready, SchemeFault> {
    EcKey::from_public_key_der(bytes).map(|key| Ready::P256(Box::new(key))).map_err(|_| {
        if p256::SecretKey::from_pkcs8_der(bytes).is_ok() {
            return private();
        }
        let expected = "the sender's public key: the SubjectPublicKeyInfo of a point on P-256";
        SchemeFault::new("secrets", "bytes that are no ECDSA P-256 public key", expected)
    })
}

/// The bytes between the lines of a PEM public key (RFC 7468).
fn pem(text: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?.trim_ascii();
    let inside = text.strip_prefix("-----BEGIN PUBLIC KEY-----")?.strip_suffix("-----END PUBLIC KEY-----")?;
    let base64: Vec<u8> = inside.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    BASE64.decode(&base64).ok()
}

/// Whether one of `candidates` signs `message`. Public keys and signatures are no secrets: nothing here is constant
/// in time.
pub(super) fn ed25519_fits<C: AsRef<[u8]>>(key: &EdKey, message: &Message<'_>, candidates: &[C]) -> bool {
    let mut bytes = Vec::with_capacity(message.bytes());
    message.feed(&[], &mut |piece| bytes.extend_from_slice(piece));
    candidates.iter().any(|candidate| {
        ed25519_dalek::Signature::from_slice(candidate.as_ref())
            .is_ok_and(|signature| key.verify_strict(&bytes, &signature).is_ok())
    })
}

/// Whether one of `candidates` signs the SHA-256 of `message`.
pub(super) fn p256_fits<C: AsRef<[u8]>>(key: &EcKey, message: &Message<'_>, candidates: &[C]) -> bool {
    let digest = message.digest();
    candidates.iter().any(|candidate| {
        p256::ecdsa::Signature::from_der(candidate.as_ref())
            .is_ok_and(|signature| key.verify_prehash(&digest, &signature).is_ok())
    })
}

impl Message<'_> {
    /// Length without the secret.
    fn bytes(&self) -> usize {
        let length = |piece: &Piece<'_>| match piece {
            Piece::Bytes(bytes) => bytes.len(),
            Piece::Secret => 0,
        };
        self.pieces.iter().map(length).sum()
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;
    use ed25519_dalek::{Signer, SigningKey};
    use p256::ecdsa::signature::hazmat::PrehashSigner;

    use super::*;
    use crate::domain::scheme::encoding::Strip;

    const TEXT: &[u8] = b"1760000000{\"id\":\"1\"}";

    /// A point on P-256 in its `SubjectPublicKeyInfo`.
    const ON_P256: &str = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEPCh0KQWVbvWNJxNAxzXFR2b5Z+l/F+Mrk+JTNFVCvH1HXyOVLwCdF7b9ZL\
                           24rD/3KSFF7yNmh2MWQvKQpvQWvw==";

    fn rule(encoding: KeyEncoding) -> KeyRule {
        KeyRule { encoding, ..KeyRule::default() }
    }

    fn prepared(proof: Proof, encoding: KeyEncoding, secret: &str) -> Result<Ready, SchemeFault> {
        public_key(proof, &rule(encoding), &Secret::new(secret.as_bytes().to_vec()))
    }

    fn message(text: &'static [u8]) -> Message<'static> {
        let (head, tail) = text.split_at(text.len() / 2);
        Message { pieces: [head, tail].map(|piece| Piece::Bytes(piece.into())).into_iter().collect() }
    }

    /// The group order of Ed25519, little-endian (RFC 8032 section 5.1).
    const ED25519_ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];

    fn with_order_added(mut signature: [u8; 64]) -> [u8; 64] {
        let mut carry = 0;
        for (byte, order) in signature[32..].iter_mut().zip(ED25519_ORDER) {
            let sum = u16::from(*byte) + u16::from(order) + carry;
            *byte = sum.to_le_bytes()[0];
            carry = sum >> 8;
        }
        signature
    }

    #[test]
    fn an_ed25519_signature_fits_its_message_and_no_bit_of_it_can_change() {
        let pair = SigningKey::from_bytes(&[7; 32]);
        let key = pair.verifying_key();
        let right = pair.sign(TEXT).to_bytes();
        assert!(ed25519_fits(&key, &message(TEXT), &[[0; 64], right]));
        assert!(!ed25519_fits(&key, &message(b"1760000001{}"), &[right]));
        for bit in 0..512 {
            let mut changed = right;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(!ed25519_fits(&key, &message(TEXT), &[changed]), "bit {bit}");
        }
    }

    #[test]
    fn an_ed25519_signature_with_another_s_is_refused() {
        let pair = SigningKey::from_bytes(&[7; 32]);
        let rewritten = with_order_added(pair.sign(TEXT).to_bytes());
        assert_ne!(rewritten, pair.sign(TEXT).to_bytes());
        assert!(!ed25519_fits(&pair.verifying_key(), &message(TEXT), &[rewritten]));
    }

    #[test]
    fn an_ed25519_key_that_fits_every_message_is_no_key() {
        let mut identity = [0; 32];
        identity[0] = 1;
        let fault = prepared(Proof::Ed25519, KeyEncoding::Hex, &HEXLOWER.encode(&identity)).err();
        assert_eq!(fault.map(|fault| fault.found).as_deref(), Some("bytes that are no Ed25519 public key"));
    }

    fn high(signature: &p256::ecdsa::Signature) -> p256::ecdsa::Signature {
        p256::ecdsa::Signature::from_scalars(signature.r(), -*signature.s()).expect("not zero")
    }

    #[test]
    fn an_ecdsa_signature_fits_with_either_s_and_no_bit_of_it_can_change() {
        let pair = p256::ecdsa::SigningKey::from_slice(&[7; 32]).expect("a scalar");
        let right: p256::ecdsa::Signature = pair.sign_prehash(&message(TEXT).digest()).expect("a signature");
        let der = right.to_der().as_bytes().to_vec();
        assert!(p256_fits(pair.verifying_key(), &message(TEXT), &[vec![0; 70], der.clone()]));
        assert!(p256_fits(pair.verifying_key(), &message(TEXT), &[high(&right).to_der().as_bytes()]));
        assert!(!p256_fits(pair.verifying_key(), &message(b"1760000001{}"), &[&der]));
        for bit in 0..der.len() * 8 {
            let mut changed = der.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(!p256_fits(pair.verifying_key(), &message(TEXT), &[changed]), "bit {bit}");
        }
        let longer = [der.as_slice(), &[0]].concat();
        assert!(!p256_fits(pair.verifying_key(), &message(TEXT), &[longer]));
    }

    #[test]
    fn a_public_key_is_written_as_the_rule_says() {
        let pair = SigningKey::from_bytes(&[7; 32]);
        let raw = pair.verifying_key().to_bytes();
        let info = [ED25519_INFO, &raw].concat();
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", BASE64.encode(&info));
        assert!(prepared(Proof::Ed25519, KeyEncoding::Hex, &HEXLOWER.encode(&raw)).is_ok());
        assert!(prepared(Proof::Ed25519, KeyEncoding::Base64, &BASE64.encode(&raw)).is_ok());
        assert!(prepared(Proof::Ed25519, KeyEncoding::Base64, &BASE64.encode(&info)).is_ok());
        assert!(prepared(Proof::Ed25519, KeyEncoding::Utf8, &pem).is_ok());
        assert!(prepared(Proof::Ed25519, KeyEncoding::Utf8, &BASE64.encode(&raw)).is_err());
        let prefixed = KeyRule { strip: Strip::parse("whpk_"), ..rule(KeyEncoding::Base64) };
        let secret = Secret::new(format!("whpk_{}", BASE64.encode(&raw)).into_bytes());
        assert!(public_key(Proof::Ed25519, &prefixed, &secret).is_ok());
        let info = BASE64.decode(ON_P256.as_bytes()).expect("base64");
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----", BASE64.encode(&info));
        assert!(prepared(Proof::P256, KeyEncoding::Base64, ON_P256).is_ok());
        assert!(prepared(Proof::P256, KeyEncoding::Utf8, &pem).is_ok());
        assert!(prepared(Proof::P256, KeyEncoding::Base64, &BASE64.encode(&info[..info.len() - 1])).is_err());
    }

    #[test]
    fn a_private_key_is_refused_by_name_and_never_shown() {
        let found = |proof, encoding, secret: &str| {
            let fault = prepared(proof, encoding, secret).err().expect("refused");
            assert!(!fault.to_string().contains("BwcH"), "{fault}");
            fault.found
        };
        let is_private = "a private key, which belongs to the sender alone";
        let seed = BASE64.encode(&[7; 32]);
        let pem = format!("-----BEGIN EC PRIVATE KEY-----\n{seed}\n-----END EC PRIVATE KEY-----");
        assert_eq!(found(Proof::Ed25519, KeyEncoding::Base64, &format!("whsk_{seed}")), is_private);
        assert_eq!(found(Proof::P256, KeyEncoding::Utf8, &pem), is_private);
        let info = [
            HEXLOWER.decode(b"3041020100301306072a8648ce3d020106082a8648ce3d030107042730250201010420").expect("hex"),
            vec![7; 32],
        ];
        assert_eq!(found(Proof::P256, KeyEncoding::Base64, &BASE64.encode(&info.concat())), is_private);
        let long = BASE64.encode(&[7; 64]);
        assert_eq!(
            found(Proof::Ed25519, KeyEncoding::Base64, &long),
            "a secret of the wrong length for an Ed25519 key"
        );
    }
}

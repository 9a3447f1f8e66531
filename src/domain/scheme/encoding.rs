//! Bytes written as text, read strictly, and secrets turned into keys.
//!
//! One text per value: base64 with its padding and no stray bits, hex in either case, nothing trimmed or skipped.

use data_encoding::{BASE64, BASE64URL, BASE64URL_NOPAD, HEXLOWER, HEXLOWER_PERMISSIVE};
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha384, Sha512};
use smallvec::{Array, SmallVec};
use zeroize::{Zeroize, Zeroizing};

use super::raw::{Encoding, HashName, KeyEncoding};
use crate::domain::secret::Secret;

/// Longest text that is decoded, in bytes: a web token's claims. All others have under 200.
const MAX_TEXT: usize = 16 * 1024;

/// Bytes that a text stands for; in place as long as they are no longer than the longest signature, ECDSA P-256 in DER.
pub(super) type Decoded = SmallVec<[u8; 72]>;

/// The bytes that `text` stands for, or `None` if it is not written exactly so or is longer than 16 KiB.
pub(super) fn decode(encoding: Encoding, text: &[u8]) -> Option<Decoded> {
    let rule = match encoding {
        Encoding::Hex => &HEXLOWER_PERMISSIVE,
        Encoding::Base64 => &BASE64,
        Encoding::Base64url if text.ends_with(b"=") => &BASE64URL,
        Encoding::Base64url => &BASE64URL_NOPAD,
    };
    if text.len() > MAX_TEXT {
        return None;
    }
    let mut bytes = Decoded::from_elem(0, rule.decode_len(text.len()).ok()?);
    let length = rule.decode_mut(text, &mut bytes).ok()?;
    bytes.truncate(length);
    match encoding {
        Encoding::Hex => Some(bytes),
        Encoding::Base64 | Encoding::Base64url => is_canonical(rule, &bytes, text).then_some(bytes),
    }
}

/// The decoder also takes several padded texts in a row; only what it would write itself is canonical.
fn is_canonical(rule: &data_encoding::Encoding, bytes: &[u8], text: &[u8]) -> bool {
    let mut again: SmallVec<[u8; 128]> = SmallVec::from_elem(0, rule.encode_len(bytes.len()));
    rule.encode_mut(bytes, &mut again);
    *again == *text
}

/// `bytes` as text: hex in lower case, base64 padded, base64url not.
pub(super) fn encode(encoding: Encoding, bytes: &[u8]) -> String {
    match encoding {
        Encoding::Hex => HEXLOWER.encode(bytes),
        Encoding::Base64 => BASE64.encode(bytes),
        Encoding::Base64url => BASE64URL_NOPAD.encode(bytes),
    }
}

/// The digest of `bytes`.
pub(super) fn digest(hash: HashName, bytes: &[u8]) -> SmallVec<[u8; 64]> {
    match hash {
        HashName::Sha1 => SmallVec::from_slice(&Sha1::digest(bytes)),
        HashName::Sha256 => SmallVec::from_slice(&Sha256::digest(bytes)),
        HashName::Sha384 => SmallVec::from_slice(&Sha384::digest(bytes)),
        HashName::Sha512 => SmallVec::from_slice(&Sha512::digest(bytes)),
    }
}

/// The bytes, and nothing left of them where they were.
fn wiped<A: Array<Item = u8>>(mut bytes: SmallVec<A>) -> Vec<u8> {
    let moved = bytes.to_vec();
    bytes.as_mut_slice().zeroize();
    moved
}

/// How a secret becomes a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct KeyRule {
    pub(super) encoding: KeyEncoding,
    /// For a secret from which nothing is stripped; nothing: `encoding`.
    pub(super) bare: Option<KeyEncoding>,
    pub(super) strip: Option<Strip>,
    pub(super) hash: Option<HashName>,
}

/// What is taken off a secret's front.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Strip {
    /// This text.
    Text(String),
    /// The first text, and what follows up to and with the first occurrence of the second.
    UpTo(String, String),
}

impl Strip {
    /// Reads `text` or `head*tail`; `None` if the `*` has no text on one side or comes twice.
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text.split_once('*') {
            None => Some(Self::Text(text.to_owned())),
            Some((head, tail)) if head.is_empty() || tail.is_empty() || tail.contains('*') => None,
            Some((head, tail)) => Some(Self::UpTo(head.to_owned(), tail.to_owned())),
        }
    }

    /// What is left of `secret`; `None` if this is not on its front.
    fn apply<'s>(&self, secret: &'s [u8]) -> Option<&'s [u8]> {
        match self {
            Self::Text(text) => secret.strip_prefix(text.as_bytes()),
            Self::UpTo(head, tail) => {
                secret.strip_prefix(head.as_bytes()).and_then(|rest| after(rest, tail.as_bytes()))
            }
        }
    }
}

/// What follows the first `mark` in `text`.
fn after<'t>(text: &'t [u8], mark: &[u8]) -> Option<&'t [u8]> {
    let at = text.windows(mark.len()).position(|window| window == mark)?;
    text.get(at + mark.len()..)
}

impl KeyRule {
    /// The key, or `None` if the secret is not written in the rule's encoding or leaves no key.
    pub(super) fn key(&self, secret: &Secret) -> Option<Zeroizing<Vec<u8>>> {
        let stripped = self.strip.as_ref().and_then(|strip| strip.apply(secret.expose()));
        let (text, encoding) = match stripped {
            Some(text) => (text, self.encoding),
            None => (secret.expose(), self.bare.unwrap_or(self.encoding)),
        };
        let bytes = Zeroizing::new(match encoding {
            KeyEncoding::Utf8 => text.to_vec(),
            KeyEncoding::Base64 => wiped(decode(Encoding::Base64, text)?),
            KeyEncoding::Hex => wiped(decode(Encoding::Hex, text)?),
        });
        if bytes.is_empty() {
            return None;
        }
        Some(self.hash.map_or(bytes.clone(), |hash| Zeroizing::new(wiped(digest(hash, &bytes)))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_is_read_in_either_case_and_never_with_an_odd_digit_or_a_blank() {
        assert_eq!(decode(Encoding::Hex, b"0aFf"), Some(Decoded::from_slice(&[0x0a, 0xff])));
        for wrong in ["0af", " 0a", "0a ", "0x0a", "0g", "0a\n"] {
            assert_eq!(decode(Encoding::Hex, wrong.as_bytes()), None, "{wrong:?}");
        }
    }

    #[test]
    fn base64_is_read_in_its_canonical_form_alone() {
        assert_eq!(decode(Encoding::Base64, b"+/8="), Some(Decoded::from_slice(&[0xfb, 0xff])));
        for wrong in ["+/8", "+/9=", "-_8=", "+/8==", " +/8=", "+/8=\n", "+/8=+/8="] {
            assert_eq!(decode(Encoding::Base64, wrong.as_bytes()), None, "{wrong:?}");
        }
        assert_eq!(decode(Encoding::Base64url, b"-_8"), Some(Decoded::from_slice(&[0xfb, 0xff])));
        assert_eq!(decode(Encoding::Base64url, b"-_8="), Some(Decoded::from_slice(&[0xfb, 0xff])));
        assert_eq!(decode(Encoding::Base64url, b"-_9"), None);
    }

    fn key(rule: &KeyRule, secret: &str) -> Option<Vec<u8>> {
        rule.key(&Secret::new(secret.as_bytes().to_vec())).map(|key| key.to_vec())
    }

    #[test]
    fn a_key_is_decoded_as_the_rule_says_and_never_guessed() {
        let base64 = KeyRule { encoding: KeyEncoding::Base64, bare: None, strip: Strip::parse("whsec_"), hash: None };
        assert_eq!(key(&base64, "whsec_AAEC"), Some(vec![0, 1, 2]));
        assert_eq!(key(&base64, "AAEC"), Some(vec![0, 1, 2]));
        assert_eq!(key(&base64, "whsec_AAE"), None);
        assert_eq!(key(&base64, "whsec_"), None);
        assert_eq!(key(&KeyRule::default(), "whsec_AAEC"), Some(b"whsec_AAEC".to_vec()));
    }

    #[test]
    fn a_strip_with_a_star_ends_at_the_first_tail() {
        let rule = KeyRule { strip: Strip::parse("signkey-*-"), ..KeyRule::default() };
        assert_eq!(key(&rule, "signkey-prod-ab-cd"), Some(b"ab-cd".to_vec()));
        assert_eq!(key(&rule, "signkey-prod"), Some(b"signkey-prod".to_vec()));
        for wrong in ["*", "a*", "*a", "a*b*c"] {
            assert_eq!(Strip::parse(wrong), None, "{wrong}");
        }
    }
}

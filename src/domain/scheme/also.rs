//! A second way of signing in the same header: its own fields, its own keys, the same message.
//!
//! What a secret begins with decides which way it belongs to, before the first request. A signature is only ever tried
//! with keys of its own way: a public key, which everybody may know, never becomes the key of a hash.

use super::compile::Compiler;
use super::encoding::KeyRule;
use super::mac::Proof;
use super::raw::Kind;
use super::signature::Second;

/// A second way of signing.
#[derive(Clone, Debug)]
pub(super) struct Also {
    pub(super) proof: Proof,
    pub(super) key: KeyRule,
    /// What its secrets begin with.
    pub(super) secret: String,
    /// Name of its fields.
    pub(super) pick: Vec<u8>,
}

impl Also {
    /// What the notation of the signatures must know of it.
    pub(super) fn second(&self) -> Second {
        Second { pick: self.pick.clone(), lengths: self.proof.lengths() }
    }
}

impl Compiler<'_> {
    /// The second way, if there is one.
    pub(super) fn also(&mut self, kind: Kind) -> Option<Also> {
        let raw = self.raw.also.as_ref()?;
        if kind != Kind::Hmac {
            self.fault("also", "a table", "nothing: only kind = \"hmac\" has a second way beside it");
        }
        let proof = match raw.kind {
            Some(Kind::Ed25519) => Some(Proof::Ed25519),
            Some(Kind::EcdsaP256) => Some(Proof::P256),
            Some(Kind::Hmac | Kind::Hash | Kind::Token | Kind::Basic | Kind::Jwt) | None => {
                let found = raw.kind.map_or("nothing", Kind::as_str);
                self.fault("also.kind", found, "\"ed25519\" or \"ecdsa-p256\"");
                None
            }
        };
        let first = self.raw.signature.as_ref().and_then(|signature| signature.pick.as_deref());
        let pick = raw.pick.as_deref().filter(|pick| !pick.is_empty() && Some(*pick) != first);
        if pick.is_none() || first.is_none() {
            let found = raw.pick.as_ref().map_or_else(|| "nothing".to_owned(), |pick| format!("{pick:?}"));
            self.fault("also.pick", found, "the name of its fields, and another in signature.pick");
        }
        let secret = raw.secret.as_deref().filter(|secret| !secret.is_empty());
        if secret.is_none() {
            self.fault("also.secret", "nothing", "what the secrets of the second way begin with");
        }
        let key = self.key_rule("also.key", raw.key.as_ref());
        self.refuse_key_hash("also.key.hash", raw.key.as_ref());
        Some(Also { proof: proof?, key, secret: secret?.to_owned(), pick: pick?.as_bytes().to_vec() })
    }
}

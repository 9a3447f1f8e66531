//! Parts that belong to one kind alone: what they mean for it, and that the others go without.

use http::HeaderName;
use http::header::AUTHORIZATION;

use super::Means;
use super::claims::{self, ClaimRule};
use super::compile::{Compiler, TOLERANCE};
use super::jwt::{Jwt, algorithm};
use super::life::{LEEWAY, Life};
use super::mac::Proof;
use super::raw::{HashName, Kind, RawKey};

impl Compiler<'_> {
    /// What proves the sender.
    pub(super) fn means(&mut self, kind: Kind) -> Option<Means> {
        let hash = self.raw.mac.unwrap_or_default();
        match (kind, hash) {
            (Kind::Hmac, _) => Some(Means::Signature(Proof::Hmac(hash))),
            (Kind::Hash, HashName::Sha1 | HashName::Sha256) => Some(Means::Signature(Proof::Hash(hash))),
            (Kind::Hash, HashName::Sha384 | HashName::Sha512) => {
                self.fault("mac", hash.as_str(), "\"sha1\" or \"sha256\" with kind = \"hash\"");
                None
            }
            (Kind::Token, _) => Some(Means::Token),
            (Kind::Basic, _) => Some(Means::Basic),
            (Kind::Ed25519, _) => Some(Means::Signature(Proof::Ed25519)),
            (Kind::EcdsaP256, _) => Some(Means::Signature(Proof::P256)),
            (Kind::Jwt, _) => Some(Means::Jwt(Box::new(self.jwt(hash)))),
        }
    }

    fn jwt(&mut self, hash: HashName) -> Jwt {
        if algorithm(hash).is_none() {
            self.fault("mac", hash.as_str(), "\"sha256\", \"sha384\" or \"sha512\" with kind = \"jwt\"");
        }
        let prefix = self.raw.token.as_ref().and_then(|token| token.prefix.clone()).unwrap_or_default();
        Jwt { hash, prefix: prefix.into_bytes(), claims: self.claims(), life: self.life() }
    }

    fn claims(&mut self) -> Vec<ClaimRule> {
        let mut rules = Vec::new();
        for (name, text) in self.raw.claims.iter().flatten() {
            match ClaimRule::parse(name, text) {
                Ok(rule) => rules.push(rule),
                Err(part) => self.fault(&format!("claims.{name}"), part, claims::FORMS),
            }
        }
        rules
    }

    /// Where `timestamp.from` names another time, that one is checked for its age and not the token's own.
    fn life(&self) -> Life {
        let raw = self.raw.timestamp.clone().unwrap_or_default();
        let tolerance = raw.tolerance.unwrap_or(TOLERANCE).0;
        let own = raw.from.is_none() && !tolerance.is_zero();
        Life { tolerance: own.then_some(tolerance), future: raw.future.map_or(LEEWAY, |span| span.0) }
    }

    /// The header that holds the token, or the user and password, where `signature` does not say so.
    pub(super) fn own_header(&mut self, means: &Means) -> Option<HeaderName> {
        match means {
            Means::Basic => Some(AUTHORIZATION),
            Means::Jwt(_) => {
                let header = self.raw.token.as_ref().and_then(|token| token.header.as_deref());
                if header.is_none() {
                    self.fault("token.header", "nothing", "the header that holds the token");
                }
                self.header_name("token.header", header?)
            }
            Means::Signature(_) | Means::Token => None,
        }
    }

    /// Parts that the kind does not use.
    pub(super) fn refuse_leftovers(&mut self, kind: Kind) {
        let raw = self.raw;
        let (hashes, public, token) = match kind {
            Kind::Hmac | Kind::Hash => (true, false, false),
            Kind::Jwt => (true, false, true),
            Kind::Token | Kind::Basic => (false, false, false),
            Kind::Ed25519 | Kind::EcdsaP256 => (false, true, false),
        };
        if let (Some(mac), false) = (raw.mac, hashes) {
            let expected = format!("nothing: kind = {:?} has no hash to choose", kind.as_str());
            self.fault("mac", mac.as_str(), expected);
        }
        if public {
            self.refuse_key_hash("key.hash", raw.key.as_ref());
        }
        if raw.token.is_some() && !token {
            self.fault("token", "a table", "nothing: only kind = \"jwt\" has a token; kind = \"token\" uses signature");
        }
        if raw.claims.is_some() && !token {
            self.fault("claims", "a table", "nothing: only kind = \"jwt\" has claims");
        }
        if raw.signature.is_some() && token {
            self.fault("signature", "a table", "nothing: kind = \"jwt\" has its signature in the token");
        }
        if raw.body_digest.is_some() && token {
            self.fault("body_digest", "a table", "nothing: kind = \"jwt\" has claims for that");
        }
        if raw.extends.is_some() {
            self.fault("extends", "an unresolved name", "the name of a built-in or of another provider");
        }
    }

    /// The digest of a public key is no key.
    pub(super) fn refuse_key_hash(&mut self, key: &str, raw: Option<&RawKey>) {
        if let Some(hash) = raw.and_then(|raw| raw.hash) {
            self.fault(key, hash.as_str(), "nothing: a public key is used as it is");
        }
    }
}

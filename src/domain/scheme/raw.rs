//! A provider's scheme as written: the keys of the scheme language and nothing else.
//!
//! No meaning is given here; [`super::Scheme::compile`] does that and reports what makes no sense. What this file
//! refuses by itself: unknown keys, unknown words, durations that are none.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::span::Span;

/// The keys of a provider, in the order in which they are documented.
pub const PARTS: &[&str] = &[
    "extends",
    "kind",
    "mac",
    "key",
    "signature",
    "also",
    "token",
    "claims",
    "signed",
    "id",
    "timestamp",
    "signed_at",
    "event_id",
    "event_type",
    "require",
    "each",
    "url_ports",
    "body_digest",
    "challenge",
    "about",
];

/// How one provider signs, as written in TOML.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawScheme {
    /// Name of another provider whose parts are taken where this one is silent. Resolved before compilation.
    pub extends: Option<String>,
    /// What proves the sender. Default `hmac`.
    pub kind: Option<Kind>,
    /// Hash function of `hmac` and `hash`. Default `sha256`.
    pub mac: Option<HashName>,
    /// How the secret becomes the key. Default: its UTF-8 bytes.
    pub key: Option<RawKey>,
    /// Where the signature stands and how it is written.
    pub signature: Option<RawSignature>,
    /// A second way of signing, in other fields of the same header. Beside `kind = "hmac"` alone.
    pub also: Option<RawAlso>,
    /// Where the token of `kind = "jwt"` stands.
    pub token: Option<RawToken>,
    /// Claims that the token of `kind = "jwt"` must make, each equal to its text, which may hold `{url}`,
    /// `{sha256_hex:body}`, `{sha256_b64:body}`, `{sha256_b64u:body}`, the same of `url`, and the same with `sha1`,
    /// `sha384` and `sha512`. Base64 is compared without its padding; `aud` may be a list that holds the text; a digest
    /// of an empty body may be left out. A token that holds no digest of the body proves any body.
    pub claims: Option<BTreeMap<String, String>>,
    /// What is signed: text with the parts `{body} {timestamp} {id} {method} {url} {path} {encoded_path} {secret}
    /// {header:NAME} {json:/pointer} {form:NAME} {sorted_form} {signed_headers:NAME} {item:/pointer}`. Default `{body}`.
    pub signed: Option<String>,
    /// Where the `{id}` of `signed` stands: `header:NAME`, `json:/pointer`, `form:NAME` or `claim:NAME`.
    pub id: Option<String>,
    /// When the request was sent.
    pub timestamp: Option<RawTimestamp>,
    /// When the reported event happened. Must be covered by the signature.
    pub signed_at: Option<RawSignedAt>,
    /// What names the event, all of them together: `json:/pointer`, `header:NAME`, `form:NAME`, `query:NAME`,
    /// `claim:NAME`. Alternatives are separated by `|`, the first one present counts. Where one entry has none, the body names
    /// the event; `request` as the last alternative: such a request is an event of its own, for senders that say the same of
    /// different events.
    pub event_id: Option<Vec<String>>,
    /// The event's type: `json:/pointer`, `header:NAME` or `claim:NAME`.
    pub event_type: Option<String>,
    /// Headers that must be there with exactly this value.
    pub require: Option<BTreeMap<String, String>>,
    /// Pointer with one `*` to the items of a batch that are signed one by one, at most 16, or with `kind = "token"`
    /// each carry the secret, at most 1,000. Every item must.
    pub each: Option<String>,
    /// Whether the address is also tried with and without a port. Default `false`.
    pub url_ports: Option<bool>,
    /// A digest of the body in the signed address, used in place of the form where it is given.
    pub body_digest: Option<RawBodyDigest>,
    /// The provider's handshake.
    pub challenge: Option<RawChallenge>,
    /// What is known about the provider; figures that are used as defaults.
    pub about: Option<RawAbout>,
}

/// What proves the sender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A keyed hash over `signed`.
    #[default]
    Hmac,
    /// A plain hash over `signed`, which holds `{secret}`.
    Hash,
    /// The secret itself, where `signature` says.
    Token,
    /// HTTP Basic authentication; the secret is `user:password`.
    Basic,
    /// An Ed25519 signature; the secret is the public key: 32 bytes, or its `SubjectPublicKeyInfo`, as
    /// `key.encoding` says. With `utf8` it is PEM.
    Ed25519,
    /// An ECDSA P-256 signature in DER over the SHA-256 of `signed`; the secret is the public key's
    /// `SubjectPublicKeyInfo`, as `key.encoding` says. With `utf8` it is PEM.
    EcdsaP256,
    /// A JSON web token under the HMAC that `mac` says, with a digest of the body among its claims. It is good until
    /// its `exp`, with 60 s for clocks that differ.
    Jwt,
}

impl Kind {
    /// The word in TOML.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hmac => "hmac",
            Self::Hash => "hash",
            Self::Token => "token",
            Self::Basic => "basic",
            Self::Ed25519 => "ed25519",
            Self::EcdsaP256 => "ecdsa-p256",
            Self::Jwt => "jwt",
        }
    }
}

/// A hash function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HashName {
    /// SHA-1, 20 bytes.
    Sha1,
    /// SHA-256, 32 bytes.
    #[default]
    Sha256,
    /// SHA-384, 48 bytes.
    Sha384,
    /// SHA-512, 64 bytes.
    Sha512,
}

impl HashName {
    /// The word in TOML.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// Length of a digest in bytes.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }
}

/// How bytes are written as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// Two digits a byte, in either case.
    Hex,
    /// RFC 4648 section 4, canonical, padded.
    Base64,
    /// RFC 4648 section 5, canonical, padded or not.
    Base64url,
}

/// How the secret becomes the key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawKey {
    /// How the secret is written. Default `utf8`: its bytes are the key.
    pub encoding: Option<KeyEncoding>,
    /// What is taken off the secret's front if it is there: text, or `head-*-` up to the first `-` after the head.
    pub strip: Option<String>,
    /// How a secret is written that has nothing of `strip` on its front. Default: as `encoding` says.
    pub bare: Option<KeyEncoding>,
    /// The key is the digest of the decoded secret.
    pub hash: Option<HashName>,
}

/// How a secret is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeyEncoding {
    /// The bytes as they are.
    #[default]
    Utf8,
    /// RFC 4648 section 4, canonical, padded.
    Base64,
    /// Two digits a byte, in either case.
    Hex,
}

/// Where the signature stands and how it is written. Exactly one of `header`, `json`, `form` and `item`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawSignature {
    /// A header, a list of headers of which one must match, or `Name-*` for all that begin so.
    pub header: Option<OneOrMany>,
    /// A pointer into the JSON body.
    pub json: Option<String>,
    /// A field of the form in the body.
    pub form: Option<String>,
    /// A pointer into each item of `each`.
    pub item: Option<String>,
    /// Text before each signature.
    pub prefix: Option<String>,
    /// How each signature is written.
    pub encoding: Option<Encoding>,
    /// Separator of groups, each with its own fields and signatures.
    pub group: Option<String>,
    /// Separator of fields.
    pub split: Option<String>,
    /// Separator of a field's name and its value.
    pub kv: Option<String>,
    /// Name of the fields that are signatures. Default with `kv`: all but those named elsewhere.
    pub pick: Option<String>,
    /// Names of the first fields, where names are not written.
    pub lead: Option<Vec<String>>,
}

/// A second way of signing: the same `signed`, written as `signature` says, under another name and with another kind of
/// key. All four parts are needed, but for `key`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawAlso {
    /// What proves the sender: `ed25519` or `ecdsa-p256`.
    pub kind: Option<Kind>,
    /// Name of the fields that are its signatures. They are tried with its own secrets alone, and those of
    /// `signature.pick` with all others.
    pub pick: Option<String>,
    /// How its secrets become keys.
    pub key: Option<RawKey>,
    /// What its secrets begin with, which tells them from all others. It is taken off by `key.strip`, not by this.
    pub secret: Option<String>,
}

/// One text or several.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

/// Where a JSON web token stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawToken {
    /// The header.
    pub header: Option<String>,
    /// Text before the token, in any case: `Bearer `.
    pub prefix: Option<String>,
}

/// When the request was sent: `|now - t| <= tolerance`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawTimestamp {
    /// `header:NAME`, `json:/pointer`, `form:NAME`, `sig:NAME` for a field of the signature header, or `claim:NAME`.
    /// Default with `kind = "jwt"`: the token's `iat`, or else its `nbf`, or else its `exp`, which must not lie further
    /// ahead than `tolerance`.
    pub from: Option<String>,
    /// How it is written. Default `s`.
    pub unit: Option<Unit>,
    /// How old it may be. Default 300 s; `0`: not checked.
    pub tolerance: Option<Span>,
    /// How far ahead it may lie. Default: `tolerance`; 60 s for `iat` and `nbf` of a token.
    pub future: Option<Span>,
    /// Whether the signature covers it. Always found out; if given, it must be right.
    pub covered: Option<bool>,
}

/// When the event happened: refused when older than `max_age` or further ahead than `future`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawSignedAt {
    /// `json:/pointer`, or any other source that the signature covers.
    pub from: Option<String>,
    /// How it is written. Default `rfc3339`.
    pub unit: Option<Unit>,
    /// How old it may be.
    pub max_age: Option<Span>,
    /// How far ahead it may lie. Default 5 m.
    pub future: Option<Span>,
}

/// How a moment is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Unit {
    /// Seconds since 1970, digits only.
    #[serde(rename = "s")]
    Seconds,
    /// Milliseconds since 1970, digits only.
    #[serde(rename = "ms")]
    Millis,
    /// RFC 3339 with its zone.
    #[serde(rename = "rfc3339")]
    Rfc3339,
    /// RFC 3339; without a zone it is UTC.
    #[serde(rename = "rfc3339-utc")]
    Rfc3339Utc,
}

/// A digest of the body in the signed address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawBodyDigest {
    /// The query parameter that holds it.
    pub query: Option<String>,
    /// The hash function. Default `sha256`.
    pub hash: Option<HashName>,
    /// How it is written. Default `hex`.
    pub encoding: Option<Encoding>,
}

/// The provider's handshake, answered here. The values of a challenge are written as sources: `json:/pointer`,
/// `query:NAME`, `header:NAME` or `form:NAME`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawChallenge {
    /// The method it comes with: `GET`, `HEAD` or `POST`. Default `POST`. The route takes it for challenges, whatever
    /// its `methods` say.
    pub method: Option<String>,
    /// What tells it from an event: a source, or `source=value`. With `GET` and `HEAD` it stands in the head; without
    /// it every such request is a challenge.
    pub when: Option<String>,
    /// Whether it is signed like an event, and answered only if the signature is right and fresh. Default `false`: it
    /// is answered without a signature. A POST with one is an event; a GET or HEAD with one must have a right one.
    pub verify: Option<bool>,
    /// What the provider signs of a GET or HEAD in place of the body: text with `{query}`, which is the query as sent.
    /// Default: the body itself.
    pub signed: Option<String>,
    /// Sources and the values they must have: `{verify_token}`, which is the route's, `{hex:20..32}` for so many
    /// hexadecimal digits in lower case, or a text.
    pub check: Option<BTreeMap<String, String>>,
    /// The status of the answer, 200 to 299. Default 200.
    pub status: Option<u16>,
    /// `Content-Type` of the answer: `text/plain`, `application/json` or `application/json; charset=utf-8`. Default
    /// `text/plain`.
    pub reply: Option<String>,
    /// Further headers of the answer; a value is text with parts, as the body is.
    pub reply_headers: Option<BTreeMap<String, String>>,
    /// Body of the answer: text with the parts `{json:/pointer}`, `{query:NAME}`, `{header:NAME}` and `{form:NAME}`,
    /// with `{hmac_hex:{…}}` and `{hmac_b64:{…}}` around any of them, and with `{pick}`, which is `signature.pick`.
    /// Values are at most 1,024 bytes without control characters; in JSON they are escaped. Without `verify = true`
    /// only `[A-Za-z0-9_~+/-]` with `=` at the end, at most 256 bytes, is hashed.
    pub body: Option<String>,
}

/// What is known about the provider.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawAbout {
    /// The provider's page.
    pub source: Option<String>,
    /// How this scheme was checked.
    pub verified: Option<Evidence>,
    /// How long the provider waits for an answer.
    pub budget: Option<Span>,
    /// How long after the event the provider's last retry may come.
    pub retry_horizon: Option<Span>,
    /// The acknowledgement that the provider wants to see.
    pub reply: Option<RawReply>,
}

/// How a scheme was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// Against the verdicts of the provider's own code.
    Sdk,
    /// Against the provider's own page.
    Page,
    /// Against other receivers.
    SecondHand,
    /// Not checked.
    Unchecked,
}

impl Evidence {
    /// The word in TOML.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sdk => "sdk",
            Self::Page => "page",
            Self::SecondHand => "second_hand",
            Self::Unchecked => "unchecked",
        }
    }
}

/// An acknowledgement.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawReply {
    /// The status. Default 200.
    pub status: Option<u16>,
    /// `Content-Type`. Default `application/json`.
    pub content_type: Option<String>,
    /// The body. Default empty.
    pub body: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_an_error_that_names_it() {
        let error = toml_edit::de::from_str::<RawScheme>("signatur = { header = \"X\" }").expect_err("unknown key");
        assert!(error.to_string().contains("signatur"), "{error}");
    }

    #[test]
    fn the_list_of_parts_is_the_list_of_fields() {
        let schema = schemars::schema_for!(RawScheme);
        let fields = schema.get("properties").and_then(|p| p.as_object()).expect("an object");
        assert_eq!(fields.len(), PARTS.len());
        for part in PARTS {
            assert!(fields.contains_key(*part), "{part}");
        }
    }
}

//! Claims of a web token: read strictly, and compared with what they must say of the request that carries them.
//!
//! Nothing here knows whether a token is genuine.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::encoding::{digest, encode};
use super::raw::{Encoding, HashName};

/// Most members of a token's header or claims that are read; more is no token.
const MAX_MEMBERS: usize = 64;

/// What a claim's template may hold, for people.
pub(super) const FORMS: &str = "text with {url} {HASH_hex:body} {HASH_b64:body} {HASH_b64u:body} and the same of url, where HASH is sha1, \
     sha256, sha384 or sha512";

/// A claim that must be made, and what it must say.
#[derive(Clone, Debug)]
pub(super) struct ClaimRule {
    pub(super) name: String,
    parts: Vec<Part>,
}

/// One part of what a claim says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Url,
    Digest(Of, HashName, Encoding),
}

/// What is digested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    Body,
    /// The same; a claim of nothing else may be missing where there is none.
    BodyIfAny,
    Url,
}

impl ClaimRule {
    /// Parses a template. The error is the part that is not known.
    pub(super) fn parse(name: &str, text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (part, tail) = after.split_once('}').ok_or_else(|| format!("{{{after}"))?;
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(Part::parse(part).ok_or_else(|| format!("{{{part}}}"))?);
            rest = tail;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        if parts.is_empty() { Err("\"\"".to_owned()) } else { Ok(Self { name: name.to_owned(), parts }) }
    }

    /// Whether it ties the token to the body.
    pub(super) fn binds_body(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Digest(Of::Body | Of::BodyIfAny, _, _)))
    }

    /// Whether it ties the token to the address.
    pub(super) fn binds_url(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Url | Part::Digest(Of::Url, _, _)))
    }

    /// What the claim must say of a request.
    pub(super) fn expected(&self, url: &str, body: &[u8]) -> String {
        self.parts.iter().map(|part| part.fill(url, body)).collect()
    }

    /// Whether `claims` say so. A digest of an empty body may be left out where the rule lets it: some senders do, and with
    /// others a token without it is one that was made for something else. What says anything else besides may not.
    pub(super) fn holds(&self, claims: &Claims, url: &str, body: &[u8]) -> bool {
        let expected = self.expected(url, body);
        match claims.get(&self.name) {
            None => body.is_empty() && matches!(self.parts.as_slice(), [Part::Digest(Of::BodyIfAny, _, _)]),
            Some(Claim::List(texts)) => self.name == "aud" && texts.contains(&expected),
            Some(Claim::Text(said) | Claim::Number(said)) => match self.parts.as_slice() {
                [Part::Digest(_, _, Encoding::Hex)] => said.eq_ignore_ascii_case(&expected),
                [Part::Digest(_, _, Encoding::Base64 | Encoding::Base64url)] => unpadded(said) == unpadded(&expected),
                _ => *said == expected,
            },
            Some(Claim::Truth(said)) => *said == expected,
            Some(Claim::Other) => false,
        }
    }
}

fn unpadded(text: &str) -> &str {
    text.trim_end_matches('=')
}

impl Part {
    fn parse(text: &str) -> Option<Self> {
        if text == "url" {
            return Some(Self::Url);
        }
        let (how, of) = text.split_once(':')?;
        let (hash, encoding) = how.split_once('_')?;
        let hash = match hash {
            "sha1" => HashName::Sha1,
            "sha256" => HashName::Sha256,
            "sha384" => HashName::Sha384,
            "sha512" => HashName::Sha512,
            _ => return None,
        };
        let encoding = match encoding {
            "hex" => Encoding::Hex,
            "b64" => Encoding::Base64,
            "b64u" => Encoding::Base64url,
            _ => return None,
        };
        match of {
            "body" => Some(Self::Digest(Of::Body, hash, encoding)),
            "body?" => Some(Self::Digest(Of::BodyIfAny, hash, encoding)),
            "url" => Some(Self::Digest(Of::Url, hash, encoding)),
            _ => None,
        }
    }

    fn fill(&self, url: &str, body: &[u8]) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Url => url.to_owned(),
            Self::Digest(Of::Body | Of::BodyIfAny, hash, encoding) => encode(*encoding, &digest(*hash, body)),
            Self::Digest(Of::Url, hash, encoding) => encode(*encoding, &digest(*hash, url.as_bytes())),
        }
    }
}

/// The members of a token's header or claims, each name once.
#[derive(Clone, Debug)]
pub(super) struct Claims(Vec<(String, Claim)>);

/// The value of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// A string, unescaped.
    Text(String),
    /// A number as it is spelt.
    Number(String),
    /// `true` or `false`.
    Truth(&'static str),
    /// A list of strings.
    List(Vec<String>),
    /// Anything else.
    Other,
}

impl Claims {
    /// `None` for what is no JSON object, a name that comes twice and more than 64 members.
    pub(super) fn read(json: &[u8]) -> Option<Self> {
        let Members(members) = serde_json::from_slice(json).ok()?;
        let read = |(name, value): (Cow<'_, str>, &RawValue)| Some((name.into_owned(), Claim::read(value.get())?));
        members.into_iter().map(read).collect::<Option<Vec<_>>>().map(Self)
    }

    /// The member of this name.
    pub(super) fn get(&self, name: &str) -> Option<&Claim> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, claim)| claim)
    }

    /// The text of the member of this name, if it has one; an empty one counts as absent.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        let text = match self.get(name)? {
            Claim::Text(text) | Claim::Number(text) => text,
            Claim::Truth(text) => *text,
            Claim::List(_) | Claim::Other => return None,
        };
        Some(text).filter(|text| !text.is_empty())
    }
}

impl Claim {
    fn read(json: &str) -> Option<Self> {
        Some(match json.as_bytes().first()? {
            b'"' => Self::Text(serde_json::from_str(json).ok()?),
            b't' => Self::Truth("true"),
            b'f' => Self::Truth("false"),
            b'-' | b'0'..=b'9' => Self::Number(json.to_owned()),
            b'[' => serde_json::from_str(json).map_or(Self::Other, Self::List),
            _ => Self::Other,
        })
    }
}

/// An object whose names come once each.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object whose names come once each")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members: Vec<(Cow<'de, str>, &'de RawValue)> = Vec::new();
        while let Some((Name(name), value)) = map.next_entry()? {
            if members.len() == MAX_MEMBERS || members.iter().any(|(known, _)| *known == name) {
                return Err(de::Error::custom("a name that comes twice, or too many"));
            }
            members.push((name, value));
        }
        Ok(Members(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = b"{}";
    const URL: &str = "https://a.example/in?x=1";

    fn claims(json: &str) -> Claims {
        Claims::read(json.as_bytes()).expect("an object")
    }

    fn holds(name: &str, template: &str, json: &str) -> bool {
        ClaimRule::parse(name, template).expect("a template").holds(&claims(json), URL, BODY)
    }

    #[test]
    fn a_template_is_text_and_parts_and_an_unknown_part_is_named() {
        let said = |text: &str| ClaimRule::parse("c", text).map(|rule| rule.expected(URL, BODY));
        assert_eq!(said("a {url}!").as_deref(), Ok("a https://a.example/in?x=1!"));
        let hex = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
        assert_eq!(said("{sha256_hex:body}").as_deref(), Ok(hex));
        assert_eq!(said("{sha256_b64:body}").as_deref(), Ok("RBNvo1WzZ4oRRq0W9+hknpT7T8If536DEMBg9hyq/4o="));
        assert_eq!(said("{sha256_b64u:body}").as_deref(), Ok("RBNvo1WzZ4oRRq0W9-hknpT7T8If536DEMBg9hyq_4o"));
        assert_eq!(said("{sha1_hex:url}").map(|text| text.len()), Ok(40));
        assert_eq!(said("{sha512_hex:body}").map(|text| text.len()), Ok(128));
        for wrong in ["{body}", "{md5_hex:body}", "{sha256:body}", "{sha256_hex:form}", "{sha256_b32:body}"] {
            assert_eq!(said(wrong), Err(wrong.to_owned()));
        }
        assert_eq!(said(""), Err("\"\"".to_owned()));
        assert_eq!(said("a{url"), Err("{url".to_owned()));
    }

    #[test]
    fn a_claim_is_there_and_equal() {
        assert!(holds("iss", "x", r#"{"iss":"x"}"#));
        for json in ["{}", r#"{"iss":"X"}"#, r#"{"iss":null}"#, r#"{"iss":["x"]}"#, r#"{"iss":"x "}"#, r#"{"is":"x"}"#]
        {
            assert!(!holds("iss", "x", json), "{json}");
        }
        assert!(holds("n", "1", r#"{"n":1}"#) && holds("n", "true", r#"{"n":true}"#));
        assert!(!holds("n", "1", r#"{"n":1.0}"#));
    }

    #[test]
    fn an_audience_may_be_one_of_several() {
        assert!(holds("aud", "{url}", r#"{"aud":["b","https://a.example/in?x=1"]}"#));
        assert!(holds("aud", "{url}", r#"{"aud":"https://a.example/in?x=1"}"#));
        assert!(!holds("aud", "{url}", r#"{"aud":["b"]}"#));
        assert!(!holds("sub", "{url}", r#"{"sub":["https://a.example/in?x=1"]}"#));
    }

    #[test]
    fn a_digest_is_compared_with_or_without_its_padding_and_in_its_own_alphabet() {
        let said = |template: &str, text: &str| holds("h", template, &format!("{{\"h\":{text:?}}}"));
        assert!(said("{sha256_b64u:body}", "RBNvo1WzZ4oRRq0W9-hknpT7T8If536DEMBg9hyq_4o="));
        assert!(said("{sha256_b64u:body}", "RBNvo1WzZ4oRRq0W9-hknpT7T8If536DEMBg9hyq_4o"));
        assert!(!said("{sha256_b64u:body}", "RBNvo1WzZ4oRRq0W9+hknpT7T8If536DEMBg9hyq/4o="));
        assert!(!said("{sha256_b64:body}", "RBNvo1WzZ4oRRq0W9+hknpT7T8If536DEMBg9hyq/4o= "));
        assert!(!said("{sha256_b64:body}", "rbnvo1WzZ4oRRq0W9+hknpT7T8If536DEMBg9hyq/4o="));
        assert!(!said("{sha256_b64:body}", ""));
    }

    #[test]
    fn a_digest_may_be_left_out_where_the_body_is_empty_and_nowhere_else() {
        let strict = ClaimRule::parse("h", "{sha256_hex:body}").expect("a template");
        assert!(!strict.holds(&claims("{}"), URL, b""), "it is not a token for this");
        let rule = ClaimRule::parse("h", "{sha256_hex:body?}").expect("a template");
        assert!(strict.binds_body() && rule.binds_body());
        assert!(rule.holds(&claims("{}"), URL, b""));
        assert!(!rule.holds(&claims("{}"), URL, b"x"));
        assert!(!rule.holds(&claims(r#"{"h":null}"#), URL, b""));
        assert!(!rule.holds(&claims(r#"{"h":"44136fa355b3678a"}"#), URL, b""));
        for more in ["x", "{url}", "{url}{sha256_hex:body?}", "v1:{sha256_hex:body?}"] {
            let rule = ClaimRule::parse("c", more).expect("a template");
            assert!(!rule.holds(&claims("{}"), URL, b""), "{more}");
        }
    }

    #[test]
    fn a_name_comes_once_in_any_spelling() {
        for json in
            [r#"{"a":1,"a":1}"#, r#"{"a":1,"\u0061":2}"#, "[]", "1", "", "{", r#"{"a":1} x"#, "{\"a\":\"\\ud800\"}"]
        {
            assert!(Claims::read(json.as_bytes()).is_none(), "{json}");
        }
        let many = |n: usize| format!("{{{}}}", (0..n).map(|i| format!("\"{i}\":0")).collect::<Vec<_>>().join(","));
        assert!(Claims::read(many(64).as_bytes()).is_some());
        assert!(Claims::read(many(65).as_bytes()).is_none());
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(Claims::read(deep.as_bytes()).and_then(|claims| claims.text("a").map(str::to_owned)), None);
    }
}

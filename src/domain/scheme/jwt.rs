//! JSON web tokens (RFC 7519) signed by HMAC (RFC 7515, RFC 7518 section 3.2): `kind = "jwt"`.
//!
//! The scheme says which algorithm it is; the token must say the same and has no say in it. A token has three parts,
//! each in base64url without padding, and no `crit`. Its MAC is compared before any claim is looked at. What ties it to
//! its request are its claims: a token that holds no digest of the body proves any body.

use std::time::Duration;

use super::Scheme;
use super::claims::{Claim, ClaimRule, Claims};
use super::encoding::{Decoded, decode, digest, encode};
use super::freshness::Moment;
use super::key::Key;
use super::life::{Life, Times};
use super::mac::Proof;
use super::raw::{Encoding, HashName, Unit};
use super::reading::Reading;
use super::sign::Unsigned;
use super::signature::{Candidate, header_values};
use super::source::Source;
use super::template::{Message, Piece};
use super::verify::{Found, Keys};
use crate::domain::refusal::Refusal;
use crate::domain::time::Timestamp;

/// How long a token that is made here is good.
const LIFE: Duration = Duration::from_secs(300);

/// What is asked of a token.
#[derive(Clone, Debug)]
pub(super) struct Jwt {
    pub(super) hash: HashName,
    /// Text before the token, in any case: the name of an authentication scheme (RFC 9110 section 11.1).
    pub(super) prefix: Vec<u8>,
    pub(super) claims: Vec<ClaimRule>,
    pub(super) life: Life,
}

impl Jwt {
    /// Whether the claims hold a digest of the body.
    pub(super) fn binds_body(&self) -> bool {
        self.claims.iter().any(ClaimRule::binds_body)
    }

    /// Whether the claims hold the address or a digest of it.
    pub(super) fn binds_url(&self) -> bool {
        self.claims.iter().any(ClaimRule::binds_url)
    }

    fn hold(&self, claims: &Claims, url: &str, body: &[u8]) -> bool {
        self.claims.iter().all(|rule| rule.holds(claims, url, body))
    }

    fn token<'t>(&self, value: &'t [u8]) -> Option<Token<'t>> {
        let (prefix, text) = value.split_at_checked(self.prefix.len())?;
        if prefix.eq_ignore_ascii_case(&self.prefix) { Token::read(text, self.hash) } else { None }
    }
}

impl Scheme {
    /// The token's MAC under one of the keys, then its claims. What it claims is left with the reading.
    pub(super) fn prove_jwt(
        &self,
        jwt: &Jwt,
        reading: &Reading<'_>,
        keys: &Keys<'_>,
    ) -> Result<Found<'static>, Refusal> {
        let values = header_values(&self.place, reading.subject.headers)?;
        self.check_required(reading.subject.headers)?;
        let value = values.first().ok_or(Refusal::SignatureMissing)?;
        let token = jwt.token(value).ok_or(Refusal::SignatureMalformed)?;
        let secret = token.fitting(jwt.hash, keys).ok_or(Refusal::SignatureMismatch)?;
        let claims = Claims::read(&token.payload).ok_or(Refusal::SignatureMalformed)?;
        let (address, body) = (reading.subject.address, reading.subject.body);
        let other = if self.url_ports.is_yes() { address.with_other_port() } else { None };
        let mut addresses = [Some(address), other].into_iter().flatten();
        let holds = addresses.any(|address| jwt.hold(&claims, &address.whole().concat(), body));
        if !holds {
            return Err(Refusal::SignatureMismatch);
        }
        let times = Times::read(&claims)?;
        reading.claims.get_or_init(|| claims);
        Ok(Found { secret, time: None, signed: None, times: Some(times) })
    }
}

/// A token, taken apart. Nothing in it is believed yet.
struct Token<'t> {
    /// Header, dot and claims as they were sent.
    signed: &'t [u8],
    payload: Decoded,
    mac: Candidate,
}

impl<'t> Token<'t> {
    fn read(text: &'t [u8], hash: HashName) -> Option<Self> {
        let dot = text.iter().rposition(|byte| *byte == b'.')?;
        let (signed, mac) = (text.get(..dot)?, text.get(dot + 1..)?);
        let mut segments = signed.split(|byte| *byte == b'.');
        let (header, payload) = (segments.next()?, segments.next()?);
        if segments.next().is_some() {
            return None;
        }
        let header = Claims::read(&segment(header)?)?;
        let wanted = Claim::Text(algorithm(hash)?.to_owned());
        if header.get("alg") != Some(&wanted) || header.get("crit").is_some() {
            return None;
        }
        let mac = segment(mac).filter(|mac| mac.len() == hash.bytes())?;
        Some(Self { signed, payload: segment(payload)?, mac })
    }

    /// The position of the first secret that fits; all are tried whatever fits.
    fn fitting(&self, hash: HashName, keys: &Keys<'_>) -> Option<usize> {
        let message = message(self.signed);
        let candidates = [self.mac.clone()];
        let mut first = None;
        for (position, key) in keys {
            let fits = key.fits(Proof::Hmac(hash), &message, &candidates);
            if fits && first.is_none() {
                first = Some(*position);
            }
        }
        first
    }
}

/// Base64url without padding and with no stray bits.
fn segment(text: &[u8]) -> Option<Decoded> {
    if text.is_empty() || text.contains(&b'=') { None } else { decode(Encoding::Base64url, text) }
}

fn message(signed: &[u8]) -> Message<'_> {
    Message { pieces: [Piece::Bytes(signed)].into_iter().collect() }
}

/// The name of HMAC with `hash` (RFC 7518 section 3.2).
pub(super) const fn algorithm(hash: HashName) -> Option<&'static str> {
    match hash {
        HashName::Sha1 => None,
        HashName::Sha256 => Some("HS256"),
        HashName::Sha384 => Some("HS384"),
        HashName::Sha512 => Some("HS512"),
    }
}

impl Jwt {
    /// The token that the sender would make for `request`; nothing where the key makes none.
    pub(super) fn write(&self, scheme: &Scheme, key: &Key, request: &Unsigned, now: Timestamp) -> Option<Vec<u8>> {
        let header = format!("{{\"alg\":\"{}\",\"typ\":\"JWT\"}}", algorithm(self.hash)?);
        let payload = serde_json::Value::Object(self.claims_to_make(scheme, request, now)).to_string();
        let segment = |bytes: &[u8]| encode(Encoding::Base64url, bytes);
        let signed = format!("{}.{}", segment(header.as_bytes()), segment(payload.as_bytes()));
        let mac = key.compute(Proof::Hmac(self.hash), &message(signed.as_bytes()))?;
        Some([self.prefix.as_slice(), signed.as_bytes(), b".", segment(&mac).as_bytes()].concat())
    }

    fn claims_to_make(
        &self,
        scheme: &Scheme,
        request: &Unsigned,
        now: Timestamp,
    ) -> serde_json::Map<String, serde_json::Value> {
        let mut claims = serde_json::Map::new();
        let ids = scheme.event_id.iter().flat_map(|entry| entry.alternatives.iter().map(|(source, _)| source));
        for name in ids.filter_map(Source::claim) {
            let id = digest(HashName::Sha256, format!("{now} {name}").as_bytes());
            claims.insert(name.to_owned(), encode(Encoding::Hex, id.get(..12).unwrap_or(&id)).into());
        }
        let rules = scheme.sent.iter().map(|rule| (&rule.source, rule.unit));
        let rules = rules.chain(scheme.signed_at.iter().map(|rule| (&rule.source, rule.unit)));
        for (name, unit) in rules.filter_map(|(source, unit)| source.claim().map(|name| (name, unit))) {
            claims.insert(name.to_owned(), moment(unit, now));
        }
        for (name, at) in [("iat", now), ("nbf", now), ("exp", now.plus(LIFE))] {
            claims.insert(name.to_owned(), moment(Unit::Seconds, at));
        }
        for rule in &self.claims {
            claims.insert(rule.name.clone(), rule.expected(&request.url, &request.body).into());
        }
        claims
    }
}

fn moment(unit: Unit, at: Timestamp) -> serde_json::Value {
    match unit {
        Unit::Seconds => at.millis().div_euclid(1000).into(),
        Unit::Millis => at.millis().into(),
        Unit::Rfc3339 | Unit::Rfc3339Utc => Moment::write(unit, at).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use bytes::Bytes;
    use http::Method;

    use super::super::raw::RawScheme;
    use super::*;
    use crate::domain::headers::Headers;
    use crate::domain::inbound::Inbound;
    use crate::domain::scheme::{Carries, Coverage, SentTrait};
    use crate::domain::secret::Secret;

    const NOW: Timestamp = Timestamp::from_seconds(1_760_000_000);
    const HEAD: &str = r#"{"alg":"HS256","typ":"JWT"}"#;
    /// SHA-256 of the body `{}`, in base64.
    const OF_BODY: &str = "RBNvo1WzZ4oRRq0W9+hknpT7T8If536DEMBg9hyq/4o=";

    fn scheme(more: &str) -> Scheme {
        let text = format!("kind = \"jwt\"\ntoken = {{ header = \"authorization\", prefix = \"Bearer \" }}\n{more}");
        let raw: RawScheme = toml_edit::de::from_str(&text).expect("keys of the language");
        Scheme::compile(&raw).expect("a sound scheme")
    }

    fn bound() -> Scheme {
        scheme("claims = { sha256 = \"{sha256_b64:body}\" }")
    }

    fn secret() -> Secret {
        Secret::new(b"0123456789abcdef".to_vec())
    }

    fn inbound(token: &str) -> Inbound {
        let mut headers = Headers::new();
        headers.insert("authorization", token.parse().expect("a value"));
        Inbound {
            method: Method::POST,
            path: "/in".to_owned(),
            query: None,
            headers,
            body: Bytes::from_static(b"{}"),
            authority: "a.example".to_owned(),
            https: true,
            remote: IpAddr::V4(Ipv4Addr::LOCALHOST),
        }
    }

    /// A token over these bytes, under a MAC that is right for `hash`.
    fn token_of(head: &str, claims: &str, hash: HashName) -> String {
        let text = format!("mac = \"{}\"", hash.as_str());
        let key = scheme(&text).prepare(&secret()).expect("a key");
        let segment = |bytes: &[u8]| encode(Encoding::Base64url, bytes);
        let signed = format!("{}.{}", segment(head.as_bytes()), segment(claims.as_bytes()));
        let mac = key.compute(Proof::Hmac(hash), &message(signed.as_bytes())).expect("a MAC");
        format!("Bearer {signed}.{}", segment(&mac))
    }

    fn token(claims: &str) -> String {
        token_of(HEAD, claims, HashName::Sha256)
    }

    fn judge(scheme: &Scheme, token: &str) -> Result<(), Refusal> {
        let key = scheme.prepare(&secret()).expect("a key");
        let verified = scheme.verify(inbound(token), &[(0, &key)], None)?;
        scheme.check_freshness(&verified, NOW).map(drop)
    }

    fn good() -> String {
        format!("{{\"sha256\":\"{OF_BODY}\",\"iat\":1760000000}}")
    }

    #[test]
    fn a_token_is_three_parts_in_base64url_without_padding() {
        let right = token(&good());
        assert_eq!(judge(&bound(), &right), Ok(()));
        assert_eq!(judge(&bound(), &right.replace("Bearer ", "bearer ")), Ok(()));
        let (signed, mac) = right.rsplit_once('.').expect("a dot");
        let bare = right.trim_start_matches("Bearer ");
        let (head, _) = bare.split_once('.').expect("a dot");
        let wrong = [
            bare.to_owned(),
            format!("Bearer  {bare}"),
            format!("Basic {bare}"),
            format!("{right}."),
            format!("Bearer .{bare}"),
            format!("{right}="),
            format!("{right} "),
            signed.to_owned(),
            format!("{signed}."),
            format!("Bearer {head}..{mac}"),
            format!("{signed}.{}", &mac[1..]),
            format!("{signed}.{}", "A".repeat(mac.len() + 4)),
            right.replacen('.', "=.", 1),
            "Bearer ..".to_owned(),
            "Bearer ".to_owned(),
            "x".to_owned(),
        ];
        for token in wrong {
            assert_eq!(judge(&bound(), &token), Err(Refusal::SignatureMalformed), "{token}");
        }
        assert_eq!(judge(&bound(), ""), Err(Refusal::SignatureMissing));
    }

    #[test]
    fn the_scheme_says_the_algorithm_and_the_token_cannot() {
        let heads = [
            r#"{"alg":"none"}"#,
            r#"{"alg":"None"}"#,
            r#"{"alg":"RS256"}"#,
            r#"{"alg":"hs256"}"#,
            r#"{"alg":"HS256 "}"#,
            r#"{"alg":["HS256"]}"#,
            r#"{"alg":256}"#,
            r#"{"typ":"JWT"}"#,
            r#"{"alg":"HS256","alg":"HS256"}"#,
            r#"{"alg":"none","alg":"HS256"}"#,
            r#"{"alg":"HS256","crit":["exp"]}"#,
            r#"{"alg":"HS256","crit":[]}"#,
            r#"{"alg":"HS256","b64":false,"crit":["b64"]}"#,
            r#"{"alg":"HS512"}"#,
            "[]",
            "nonsense",
        ];
        for head in heads {
            let token = token_of(head, &good(), HashName::Sha256);
            assert_eq!(judge(&bound(), &token), Err(Refusal::SignatureMalformed), "{head}");
        }
        let unsigned =
            format!("{}.", token_of(r#"{"alg":"none"}"#, &good(), HashName::Sha256).rsplit_once('.').unwrap().0);
        assert_eq!(judge(&bound(), &unsigned), Err(Refusal::SignatureMalformed));
        for (mac, alg) in [(HashName::Sha384, "HS384"), (HashName::Sha512, "HS512")] {
            let strong =
                scheme(&format!("mac = \"{}\"\nclaims = {{ sha256 = \"{{sha256_b64:body}}\" }}", mac.as_str()));
            let token = token_of(&format!("{{\"alg\":\"{alg}\"}}"), &good(), mac);
            assert_eq!(judge(&strong, &token), Ok(()));
            assert_eq!(judge(&bound(), &token), Err(Refusal::SignatureMalformed));
        }
    }

    #[test]
    fn no_bit_of_a_token_can_change() {
        let right = token(&good());
        let start = "Bearer ".len();
        for at in start..right.len() {
            for bit in 0..7 {
                let mut bytes = right.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                let Ok(value) = http::HeaderValue::from_bytes(&bytes) else { continue };
                let mut request = inbound(&right);
                request.headers.insert("authorization", value);
                let key = bound().prepare(&secret()).expect("a key");
                assert!(bound().verify(request, &[(0, &key)], None).is_err(), "byte {at}, bit {bit}");
            }
        }
    }

    #[test]
    fn no_claim_is_looked_at_before_the_mac_is_right() {
        let right = token(r#"{"sha256":1,"exp":"x"}"#);
        let forged = format!("{}.{}", right.rsplit_once('.').expect("a dot").0, "A".repeat(43));
        assert_eq!(judge(&bound(), &forged), Err(Refusal::SignatureMismatch));
        let nonsense = format!("{}.{}", token("nonsense").rsplit_once('.').expect("a dot").0, "A".repeat(43));
        assert_eq!(judge(&bound(), &nonsense), Err(Refusal::SignatureMismatch));
        assert_eq!(judge(&bound(), &token("nonsense")), Err(Refusal::SignatureMalformed));
    }

    #[test]
    fn a_token_for_another_body_is_none_for_this_one() {
        for claims in
            [r#"{"iat":1760000000}"#, r#"{"sha256":"","iat":1760000000}"#, r#"{"sha256":null,"iat":1760000000}"#]
        {
            assert_eq!(judge(&bound(), &token(claims)), Err(Refusal::SignatureMismatch), "{claims}");
        }
        let twice = good().replacen('{', "{\"sha256\":\"x\",", 1);
        assert_eq!(judge(&bound(), &token(&twice)), Err(Refusal::SignatureMalformed));
        let key = bound().prepare(&secret()).expect("a key");
        let mut other = inbound(&token(&good()));
        other.body = Bytes::from_static(b"{ }");
        let refused = bound().verify(other, &[(0, &key)], None).expect_err("another body");
        assert_eq!(refused.refusal, Refusal::SignatureMismatch);
    }

    fn timed(scheme: &Scheme, times: &str) -> Result<(), Refusal> {
        judge(scheme, &token(&format!("{{\"sha256\":\"{OF_BODY}\"{times}}}")))
    }

    #[test]
    fn a_token_is_good_for_its_time_and_no_longer() {
        let stale = Err(Refusal::TimestampStale);
        let future = Err(Refusal::TimestampFuture);
        let cases = [
            (",\"iat\":1760000000,\"exp\":1759999940", Ok(())),
            (",\"iat\":1760000000,\"exp\":1759999939", stale),
            (",\"iat\":1759999700", Ok(())),
            (",\"iat\":1759999699", stale),
            (",\"iat\":1759999699,\"exp\":1760000300", stale),
            (",\"nbf\":1759999700,\"exp\":1760009999", Ok(())),
            (",\"nbf\":1759999699,\"exp\":1760009999", stale),
            (",\"iat\":1760000060", Ok(())),
            (",\"iat\":1760000061", future),
            (",\"iat\":1760000000,\"nbf\":1760000061", future),
            (",\"exp\":1760000300", Ok(())),
            (",\"exp\":1760000301", future),
            (",\"exp\":1760000300.9", Ok(())),
            ("", Err(Refusal::TimestampMissing)),
        ];
        for (times, verdict) in cases {
            assert_eq!(timed(&bound(), times), verdict, "{times}");
        }
        for odd in ["\"1760000000\"", "null", "true", "[]", "-1", "0", "1e999", "1.76e9", "99999999999999999999"] {
            for name in ["exp", "nbf", "iat"] {
                let times = format!(",\"{name}\":{odd}");
                assert_eq!(timed(&bound(), &times), Err(Refusal::TimestampMalformed), "{times}");
            }
        }
    }

    #[test]
    fn without_a_tolerance_a_token_is_held_to_its_own_word_alone() {
        let free = scheme("claims = { sha256 = \"{sha256_b64:body}\" }\ntimestamp = { tolerance = 0 }");
        assert_eq!(timed(&free, ""), Ok(()));
        assert_eq!(timed(&free, ",\"iat\":1000"), Ok(()));
        assert_eq!(timed(&free, ",\"exp\":1759999939"), Err(Refusal::TimestampStale));
        assert_eq!(timed(&free, ",\"nbf\":1760000061"), Err(Refusal::TimestampFuture));
        assert_eq!(free.traits().sent, SentTrait::None);
    }

    #[test]
    fn a_claim_can_be_the_time_and_the_name() {
        let own = scheme(
            "claims = { sha256 = \"{sha256_b64:body}\" }\ntimestamp = { from = \"claim:at\", unit = \"ms\", tolerance = 60 }\n\
             event_id = [\"claim:jti\"]\nevent_type = \"claim:type\"",
        );
        assert_eq!(timed(&own, ",\"at\":1759999940000"), Ok(()));
        assert_eq!(timed(&own, ",\"at\":1759999939999"), Err(Refusal::TimestampStale));
        assert_eq!(timed(&own, ",\"iat\":1760000000"), Err(Refusal::TimestampMissing));
        let key = own.prepare(&secret()).expect("a key");
        let verified = |jti: &str| {
            let text = format!("{{\"sha256\":\"{OF_BODY}\",\"at\":1760000000000,\"jti\":{jti:?},\"type\":\"t\"}}");
            own.verify(inbound(&token(&text)), &[(0, &key)], None).expect("signed")
        };
        assert_eq!(own.event_type(&verified("a")), Some("t"));
        assert_eq!(own.key("r", &verified("a")), own.key("r", &verified("a")));
        assert_ne!(own.key("r", &verified("a")), own.key("r", &verified("b")));
        let default = bound();
        let key = default.prepare(&secret()).expect("a key");
        let by_nbf = token(&format!("{{\"sha256\":\"{OF_BODY}\",\"nbf\":1760000000}}"));
        let verified = default.verify(inbound(&by_nbf), &[(0, &key)], None).expect("signed");
        assert_eq!((verified.sent_at(), default.signed_time(&verified)), (Some(NOW), Some(NOW)));
    }

    #[test]
    fn a_token_that_is_tied_to_no_body_is_a_secret() {
        let name = http::header::AUTHORIZATION;
        let (bound, loose) = (bound(), scheme("claims = { aud = \"{url}\" }"));
        assert_eq!((bound.carries(&name), loose.carries(&name)), (Carries::Signature, Carries::Secret));
        assert_eq!((bound.traits().body, loose.traits().body), (Coverage::Covered, Coverage::Uncovered));
        assert_eq!((bound.traits().url, loose.traits().url), (Coverage::Uncovered, Coverage::Covered));
        assert!(bound.guards(&name));
        assert_eq!(bound.traits().sent, SentTrait::Covered { tolerance: Duration::from_secs(300) });
        let right = token("{\"aud\":[\"b\",\"https://a.example/in\"],\"iat\":1760000000}");
        assert_eq!(judge(&loose, &right), Ok(()));
        let other = token("{\"aud\":\"https://b.example/in\",\"iat\":1760000000}");
        assert_eq!(judge(&loose, &other), Err(Refusal::SignatureMismatch));
        let ports = scheme("claims = { aud = \"{url}\" }\nurl_ports = true");
        let ported = token("{\"aud\":\"https://a.example:443/in\",\"iat\":1760000000}");
        assert_eq!((judge(&ports, &ported), judge(&loose, &ported)), (Ok(()), Err(Refusal::SignatureMismatch)));
    }
}

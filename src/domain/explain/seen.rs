//! What can be seen without computing: what is missing, what is there that should not be, and the request as far as it
//! can be shown. Values of headers that carry a proof are told by their form alone.

use std::collections::BTreeSet;

use data_encoding::HEXLOWER;
use http::HeaderName;
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use sha2::{Digest, Sha256};

use super::bench::Bench;
use super::hypothesis::Found;
use super::{Case, SecretFact, Shown};
use crate::domain::refusal::Refusal;
use crate::domain::scheme::{Carries, Encoding, HashName, Key, Scheme};

/// Most names in one sentence.
const MOST_NAMES: usize = 4;
/// A run of letters and digits of this length is told by its length alone.
const LONGEST_WORD: usize = 8;
/// Most characters of a form.
const LONGEST_FORM: usize = 120;

/// The request as far as it can be shown.
pub(super) fn shown(case: &Case<'_>) -> Shown {
    let inbound = case.inbound;
    let url = inbound.url(case.route.public_url.as_deref());
    let proofs = inbound.headers.iter().filter(|(name, _)| case.route.scheme.carries(name) != Carries::Nothing);
    let text = |name: HeaderName| inbound.headers.get(name).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
    Shown {
        method: inbound.method.to_string(),
        url: url.split('?').next().unwrap_or_default().to_owned(),
        proofs: proofs
            .map(|(name, value)| {
                let form = match case.route.scheme.carries(name) {
                    Carries::Signature => form_of(value.as_bytes()),
                    Carries::Secret | Carries::Nothing => "<hidden>".to_owned(),
                };
                format!("{name}: {form}")
            })
            .collect(),
        content_type: text(CONTENT_TYPE),
        body_bytes: case.left_out.map_or(inbound.body.len(), |left_out| left_out.bytes),
        body_sha256: case.left_out.is_none().then(|| HEXLOWER.encode(&Sha256::digest(&inbound.body))),
    }
}

/// The form of a text: `sha256=<64 hex>`.
fn form_of(text: &[u8]) -> String {
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_');
    let mut form = String::new();
    for word in text.chunk_by(|one, other| is_word(one) == is_word(other)) {
        let hex = word.iter().all(u8::is_ascii_hexdigit);
        let digits = word.iter().all(u8::is_ascii_digit);
        let kind = if digits {
            "digits"
        } else if hex {
            "hex"
        } else {
            "characters"
        };
        let piece = match std::str::from_utf8(word) {
            Ok(text) if word.len() < LONGEST_WORD && !digits => text.to_owned(),
            Ok(_) | Err(_) => format!("<{} {kind}>", word.len()),
        };
        form.push_str(&piece);
        if form.chars().count() > LONGEST_FORM {
            return form.chars().take(LONGEST_FORM).chain(['…']).collect();
        }
    }
    form
}

/// The route's secrets by their places.
pub(super) fn secrets(case: &Case<'_>) -> Vec<SecretFact> {
    let fact = |(position, secret): (usize, &crate::domain::secret::RouteSecret)| SecretFact {
        position,
        origin: secret.origin.to_string(),
        expired: secret.until.filter(|until| *until <= case.now).map(|until| until.to_string()),
    };
    case.route.secrets.iter().enumerate().map(fact).collect()
}

pub(super) fn method(bench: &mut Bench<'_>) -> Option<Found> {
    let taken: Vec<&str> = bench.route().methods.iter().map(http::Method::as_str).collect();
    let text = format!("it came with {}, and the route takes {}", bench.inbound().method, taken.join(", "));
    (bench.refusal == Refusal::MethodNotAllowed).then(|| Found::new(text))
}

pub(super) fn body_too_large(bench: &mut Bench<'_>) -> Option<Found> {
    let (length, most) = (bench.inbound().body.len(), bench.route().max_body_bytes);
    let text = format!("the body has {length} bytes, and the route takes {most}");
    (bench.refusal == Refusal::BodyTooLarge).then(|| Found::new(text))
}

pub(super) fn signature_missing(bench: &mut Bench<'_>) -> Option<Found> {
    let wanted = bench.case.route.scheme.as_written().signature.as_ref().map(place_of).unwrap_or_default();
    let there = !bench.signature_headers().is_empty() && !wanted.is_empty();
    if bench.refusal != Refusal::SignatureMissing || bench.fitted || there {
        return None;
    }
    let looks = |name: &&str| ["signature", "hmac", "token", "auth"].iter().any(|part| name.contains(part));
    let headers = bench.inbound().headers.keys().map(HeaderName::as_str);
    let like: Vec<&str> = headers.filter(looks).take(MOST_NAMES).collect();
    let also = if like.is_empty() { String::new() } else { format!("; there is {}", like.join(", ")) };
    let wanted = if wanted.is_empty() { "its place".to_owned() } else { wanted };
    Some(Found::new(format!("no signature in {wanted}{also}")))
}

/// Where a signature is expected, for people.
fn place_of(signature: &crate::domain::scheme::RawSignature) -> String {
    use crate::domain::scheme::OneOrMany;
    match (&signature.header, &signature.json, &signature.form, &signature.item) {
        (Some(OneOrMany::One(name)), ..) => name.clone(),
        (Some(OneOrMany::Many(names)), ..) => names.join(" or "),
        (None, Some(pointer), ..) => format!("the body at {pointer}"),
        (None, None, Some(field), _) => format!("the form's field {field}"),
        (None, None, None, Some(pointer)) => format!("each item at {pointer}"),
        (None, None, None, None) => String::new(),
    }
}

pub(super) fn timestamp_missing(bench: &mut Bench<'_>) -> Option<Found> {
    let from = bench.raw.timestamp.as_ref()?.from.clone().unwrap_or_default();
    let missing = bench.refusal == Refusal::TimestampMissing && !bench.fitted;
    missing.then(|| Found::new(format!("no time in {from}")))
}

pub(super) fn required_header(bench: &mut Bench<'_>) -> Option<Found> {
    let required = bench.route().scheme.as_written().require.as_ref()?;
    let headers = &bench.inbound().headers;
    let value = |name: &str| headers.get(name).map(http::HeaderValue::as_bytes);
    let wrong = required.iter().filter(|(name, wanted)| value(name) != Some(wanted.as_bytes()));
    // What it must hold may be a secret of its own: it is not told.
    let told: Vec<String> = wrong
        .map(|(name, _)| format!("{name} {}", if value(name).is_some() { "has another value" } else { "is missing" }))
        .collect();
    (!told.is_empty()).then(|| Found::new(told.join(", ")))
}

/// Without its `Connection` header the request is admitted.
pub(super) fn connection_header(bench: &mut Bench<'_>) -> Option<Found> {
    if bench.refusal != Refusal::BadRequest {
        return None;
    }
    let route = bench.route();
    let named = bench.inbound().headers.get_all(CONNECTION).flat_map(|value| value.as_bytes().split(|b| *b == b','));
    let named: Vec<HeaderName> = named.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok()).collect();
    let guards = |name: &&HeaderName| route.scheme.guards_in(&bench.inbound().headers, name);
    let guarded: Vec<&str> = named.iter().filter(guards).map(HeaderName::as_str).collect();
    let live = bench.live();
    let keys: Vec<(usize, &Key)> = live.iter().map(|(position, secret)| (*position, &secret.key)).collect();
    let mut inbound = bench.inbound().clone();
    inbound.headers.remove(CONNECTION);
    let (now, id) = (bench.case.now, crate::domain::event::EventId::new(bench.case.now, 0));
    let verified = bench.verify(&route.scheme, &keys, inbound, route.public_url.as_deref())?;
    route.admit(verified, now, id, now).ok()?;
    Some(Found::new(format!("`Connection` names {}", guarded.join(", "))))
}

/// Names of other providers whose own header is there.
pub(super) fn looks_like(bench: &mut Bench<'_>) -> Option<Found> {
    let headers = &bench.inbound().headers;
    let own = &bench.route().scheme;
    let carries = |scheme: &Scheme, name: &HeaderName| scheme.carries(name) != Carries::Nothing;
    if headers.keys().any(|name| carries(own, name)) {
        return None;
    }
    let mut found: Vec<(&str, &str)> = Vec::new();
    for (provider, scheme) in bench.case.candidates {
        let name = headers.keys().find(|name| **name != AUTHORIZATION && carries(scheme, name));
        found.extend(name.map(|name| (name.as_str(), provider.as_str())));
    }
    let names: BTreeSet<&str> = found.iter().map(|(name, _)| *name).collect();
    let providers: Vec<&str> = found.iter().map(|(_, provider)| *provider).take(MOST_NAMES).collect();
    let names: Vec<&str> = names.into_iter().take(MOST_NAMES).collect();
    let text = format!("{} is a header of {}", names.join(", "), providers.join(", "));
    (!providers.is_empty()).then(|| Found::new(text))
}

/// The last word of the signature's header is hex of another length.
pub(super) fn signature_length(bench: &mut Bench<'_>) -> Option<Found> {
    let own = bench.raw.mac.unwrap_or_default();
    let in_hex = bench.raw.signature.as_ref()?.encoding == Some(Encoding::Hex);
    if bench.refusal != Refusal::SignatureMalformed || !bench.signs() || !in_hex {
        return None;
    }
    let name = bench.signature_headers().into_iter().next()?;
    let value = bench.inbound().headers.get(&name)?.as_bytes();
    let word = value.rsplit(|byte| matches!(byte, b'=' | b',' | b' ' | b':')).find(|word| !word.is_empty())?;
    if !word.iter().all(u8::is_ascii_hexdigit) || word.len() == own.bytes() * 2 {
        return None;
    }
    let hashes = [HashName::Sha1, HashName::Sha256, HashName::Sha384, HashName::Sha512];
    let other = hashes.into_iter().find(|hash| word.len() == hash.bytes() * 2);
    let other = other.map_or_else(String::new, |hash| format!(", the length of {}", hash.as_str()));
    let (length, right) = (word.len(), own.bytes() * 2);
    Some(Found::new(format!("{name} ends with {length} hex digits{other}; {} has {right}", own.as_str())))
}

pub(super) fn body_empty(bench: &mut Bench<'_>) -> Option<Found> {
    bench.inbound().body.is_empty().then(|| Found::new("there is no body"))
}

pub(super) fn content_encoding(bench: &mut Bench<'_>) -> Option<Found> {
    let value = bench.inbound().headers.get(CONTENT_ENCODING)?;
    Some(Found::new(format!("`Content-Encoding: {}`", String::from_utf8_lossy(value.as_bytes()))))
}

pub(super) fn content_length(bench: &mut Bench<'_>) -> Option<Found> {
    let said: usize = bench.inbound().headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()?;
    let length = bench.inbound().body.len();
    (said != length).then(|| Found::new(format!("`Content-Length` says {said}, and the body has {length} bytes")))
}

pub(super) fn chunked(bench: &mut Bench<'_>) -> Option<Found> {
    let coding = bench.inbound().headers.get(TRANSFER_ENCODING)?;
    Some(Found::new(format!("`Transfer-Encoding: {}`", String::from_utf8_lossy(coding.as_bytes()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_told_by_its_form() {
        let digest = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(form_of(format!("sha256={digest}").as_bytes()), "sha256=<64 hex>");
        assert_eq!(form_of(format!("t=1760000000,v1={digest}").as_bytes()), "t=<10 digits>,v1=<64 hex>");
        assert_eq!(form_of(b"v1,W9zBRr9gdU5qBCQmCJV1x1oAPwidJzmDnexYuWTsOEM="), "v1,<43 characters>=");
        assert_eq!(form_of(&[b'=', 0xff, 0xfe]), "<3 characters>");
    }
}

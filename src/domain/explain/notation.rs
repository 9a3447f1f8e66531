//! Hypotheses about how and where the signature is written.

use std::collections::BTreeSet;

use http::{HeaderName, HeaderValue};

use super::bench::Bench;
use super::hypothesis::Found;
use crate::domain::headers::Headers;
use crate::domain::scheme::{Encoding, HashName, OneOrMany, RawScheme, Scheme};
use crate::domain::secret::Secret;

const ENCODINGS: [(Encoding, &str); 3] =
    [(Encoding::Hex, "hex"), (Encoding::Base64, "base64"), (Encoding::Base64url, "base64url")];
const HASHES: [HashName; 4] = [HashName::Sha1, HashName::Sha256, HashName::Sha384, HashName::Sha512];

/// Longest text before a signature that is taken for its prefix.
const LONGEST_PREFIX: usize = 24;
/// Most headers that are looked into.
const MOST_HEADERS: usize = 64;
/// Longest value that may hold a signature.
const LONGEST_VALUE: usize = 2048;
/// Most pieces that a value is taken apart into.
const MOST_PIECES: usize = 16;
/// Most providers that are named.
const MOST_NAMES: usize = 4;

fn encoding_of(bench: &Bench<'_>) -> Encoding {
    bench.raw.signature.as_ref().and_then(|signature| signature.encoding).unwrap_or(Encoding::Hex)
}

fn prefix_of(bench: &Bench<'_>) -> String {
    bench.raw.signature.as_ref().and_then(|signature| signature.prefix.clone()).unwrap_or_default()
}

/// The same bytes in another encoding.
pub(super) fn encoding(bench: &mut Bench<'_>) -> Option<Found> {
    let own = encoding_of(bench);
    if !bench.signs() {
        return None;
    }
    for (encoding, word) in ENCODINGS.into_iter().filter(|(encoding, _)| *encoding != own) {
        let raw = bench.with_signature(|signature| signature.encoding = Some(encoding));
        if bench.fits_raw(&raw).is_some() {
            return Some(Found::new(format!("the signature is right, in {word}")));
        }
    }
    unpadded(bench)
}

/// Base64 without its padding, which is not canonical.
fn unpadded(bench: &mut Bench<'_>) -> Option<Found> {
    for name in bench.signature_headers() {
        let value = value_of(bench, &name)?;
        for padding in [b"=".as_slice(), b"=="] {
            let value = [value.as_slice(), padding].concat();
            let headers = bench.headers_with(&name, &value)?;
            if bench.fits_headers(headers).is_some() {
                return Some(Found::new("the signature is right, in base64 without its padding"));
            }
        }
    }
    None
}

/// Another hash function, in any encoding, with the prefix that names it.
pub(super) fn hash(bench: &mut Bench<'_>) -> Option<Found> {
    let own = bench.raw.mac.unwrap_or_default();
    let (own_encoding, own_prefix) = (encoding_of(bench), prefix_of(bench));
    if !bench.signs() {
        return None;
    }
    for hash in HASHES.into_iter().filter(|hash| *hash != own) {
        let named = own_prefix.replace(own.as_str(), hash.as_str());
        let prefixes: BTreeSet<&str> = [own_prefix.as_str(), named.as_str(), ""].into();
        for prefix in prefixes {
            for (encoding, word) in ENCODINGS {
                let mut raw = bench.with_signature(|signature| {
                    signature.encoding = Some(encoding);
                    signature.prefix = Some(prefix.to_owned());
                });
                raw.mac = Some(hash);
                if bench.fits_raw(&raw).is_some() {
                    let also = if encoding == own_encoding { String::new() } else { format!(", written in {word}") };
                    return Some(Found::new(format!("the signature is right with {}{also}", hash.as_str())));
                }
            }
        }
    }
    None
}

/// What stands before the signature, as it came.
pub(super) fn prefix(bench: &mut Bench<'_>) -> Option<Found> {
    let own = prefix_of(bench);
    let mut prefixes = BTreeSet::from([String::new()]);
    for name in bench.signature_headers() {
        let value = value_of(bench, &name).unwrap_or_default();
        let starts = (1..=value.len().min(LONGEST_PREFIX)).filter_map(|end| value.get(..end));
        let ends_as_one = |start: &&[u8]| start.last().is_some_and(|byte| matches!(byte, b'=' | b':' | b' ' | b','));
        prefixes.extend(starts.filter(ends_as_one).filter_map(|start| String::from_utf8(start.to_vec()).ok()));
    }
    for prefix in prefixes.into_iter().filter(|prefix| *prefix != own) {
        let raw = bench.with_signature(|signature| signature.prefix = Some(prefix.clone()));
        if bench.fits_raw(&raw).is_some() {
            let text = match (own.is_empty(), prefix.is_empty()) {
                _ if !bench.signs() => "the secret is right behind another prefix".to_owned(),
                (false, true) => format!("the signature is right, and {own:?} does not stand before it"),
                (true, _) => format!("the signature is right behind {prefix:?}"),
                (false, false) => format!("the signature is right behind {prefix:?}, expected was {own:?}"),
            };
            return Some(Found::new(text));
        }
    }
    None
}

/// Any field of the header in place of the named one.
pub(super) fn field(bench: &mut Bench<'_>) -> Option<Found> {
    let own = bench.raw.signature.as_ref()?.pick.clone()?;
    let raw = bench.with_signature(|signature| signature.pick = None);
    bench.fits_raw(&raw)?;
    Some(Found::new(format!("a field of the header fits that is not called {own:?}")))
}

/// Each part of a joined value alone.
pub(super) fn joined(bench: &mut Bench<'_>) -> Option<Found> {
    for name in bench.signature_headers() {
        let value = value_of(bench, &name)?;
        let Ok(text) = std::str::from_utf8(&value) else { continue };
        for separator in [", ", ",", ";"] {
            let pieces: Vec<&str> = text.split(separator).map(str::trim).filter(|piece| !piece.is_empty()).collect();
            if !(2..=MOST_PIECES).contains(&pieces.len()) {
                continue;
            }
            for (number, piece) in (1..).zip(&pieces) {
                let headers = bench.headers_with(&name, piece.as_bytes())?;
                if bench.fits_headers(headers).is_some() {
                    let text = format!("{name} holds {} values, and number {number} fits alone", pieces.len());
                    return Some(Found::new(text));
                }
            }
        }
    }
    None
}

/// One of several lines of each header.
pub(super) fn repeated(bench: &mut Bench<'_>) -> Option<Found> {
    let headers = &bench.inbound().headers;
    let scheme = &bench.route().scheme;
    let twice = |name: &&HeaderName| scheme.guards(name) && headers.get_all(*name).count() > 1;
    let names: Vec<HeaderName> = headers.keys().filter(twice).take(MOST_PIECES).cloned().collect();
    if names.is_empty() {
        return None;
    }
    let most = names.iter().map(|name| headers.get_all(name).count()).max()?.min(MOST_PIECES);
    for number in 0..most {
        let mut single = headers.clone();
        for name in &names {
            let values: Vec<&HeaderValue> = headers.get_all(name).collect();
            if let Some(value) = values.get(number).or(values.last()) {
                single.insert(name, (*value).clone());
            }
        }
        if bench.fits_headers(single).is_some() {
            let names: Vec<&str> = names.iter().map(HeaderName::as_str).collect();
            let text = format!("{} came several times; line {} alone fits", names.join(" and "), number + 1);
            return Some(Found::new(text));
        }
    }
    None
}

/// Without quotes and blanks, and with its percent escapes read.
pub(super) fn quoted(bench: &mut Bench<'_>) -> Option<Found> {
    for name in bench.signature_headers() {
        let value = value_of(bench, &name)?;
        let bare: Vec<u8> = value.iter().copied().filter(|byte| !matches!(byte, b'"' | b'\'')).collect();
        let tight: Vec<u8> = bare.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
        let read = percent_decoded(&value);
        let forms = [
            (value.trim_ascii().to_vec(), "blanks around it"),
            (bare.trim_ascii().to_vec(), "quotes around it"),
            (tight, "blanks in it"),
            (read, "percent escapes in it"),
        ];
        for (form, what) in forms.into_iter().filter(|(form, _)| *form != value) {
            let Some(headers) = bench.headers_with(&name, &form) else { continue };
            if bench.fits_headers(headers).is_some() {
                return Some(Found::new(format!("the signature in {name} is right but for the {what}")));
            }
        }
    }
    None
}

/// `text` with its percent escapes read; a bad one stands for itself.
pub(super) fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        let digits = tail.get(..2).filter(|_| *first == b'%');
        let escaped = digits.and_then(|digits| data_encoding::HEXLOWER_PERMISSIVE.decode(digits).ok());
        rest = if escaped.is_some() { tail.get(2..).unwrap_or_default() } else { tail };
        bytes.push(escaped.and_then(|bytes| bytes.first().copied()).unwrap_or(*first));
    }
    bytes
}

/// Each other header of the request as the signature's.
pub(super) fn elsewhere(bench: &mut Bench<'_>) -> Option<Found> {
    let own = bench.signature_headers();
    let headers: &Headers = &bench.inbound().headers;
    let may_hold = |name: &&HeaderName| {
        let longest = headers.get(*name).map_or(0, HeaderValue::len);
        !own.contains(name) && (1..=LONGEST_VALUE).contains(&longest)
    };
    let names: Vec<&HeaderName> = headers.keys().filter(may_hold).take(MOST_HEADERS).collect();
    let (own_encoding, own_prefix) = (encoding_of(bench), prefix_of(bench));
    for name in names {
        for (encoding, word) in ENCODINGS {
            let prefixes: BTreeSet<&str> = [own_prefix.as_str(), ""].into();
            for prefix in prefixes {
                let raw = moved(bench, name, encoding, prefix);
                if bench.fits_raw(&raw).is_some() {
                    let also = if encoding == own_encoding { String::new() } else { format!(", written in {word}") };
                    return Some(Found::new(format!("{name} holds the right signature{also}")));
                }
            }
        }
    }
    None
}

/// The bare scheme with its signature in the header `name`.
fn moved(bench: &Bench<'_>, name: &HeaderName, encoding: Encoding, prefix: &str) -> RawScheme {
    bench.with_signature(|signature| {
        signature.header = Some(OneOrMany::One(name.as_str().to_owned()));
        signature.json = None;
        signature.form = None;
        signature.item = None;
        signature.encoding = Some(encoding);
        signature.prefix = Some(prefix.to_owned());
    })
}

/// The schemes that the caller knows, with the live secrets.
pub(super) fn other_provider(bench: &mut Bench<'_>) -> Option<Found> {
    let live = bench.live();
    let secrets: Vec<(usize, &Secret)> = live.iter().map(|(position, secret)| (*position, &secret.secret)).collect();
    let (candidates, own): (&[(String, Scheme)], &str) = (bench.case.candidates, &bench.case.route.provider);
    let mut names = Vec::new();
    for (name, scheme) in candidates.iter().filter(|(name, _)| name != own) {
        if bench.fits_compiled(scheme, &secrets).is_some() {
            names.push(name.as_str());
        }
    }
    names.truncate(MOST_NAMES);
    let text = format!("it is right for the provider {} with this route's secret", names.join(" or "));
    (!names.is_empty()).then(|| Found::new(text))
}

/// The value of a header that comes once, or the first of it.
fn value_of(bench: &Bench<'_>, name: &HeaderName) -> Option<Vec<u8>> {
    let value = bench.inbound().headers.get(name)?.as_bytes();
    (value.len() <= LONGEST_VALUE).then(|| value.to_vec())
}

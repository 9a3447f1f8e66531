//! Hypotheses about web tokens: which claim is not as wanted, how the token is hashed, what stands before it.
//!
//! What a token claims is told by the claim's name alone: its values came in a header that carries a proof.

use super::bench::Bench;
use super::hypothesis::Found;
use crate::domain::scheme::{HashName, Kind, RawScheme};

/// The hashes that a token can be signed with.
const HASHES: [HashName; 3] = [HashName::Sha256, HashName::Sha384, HashName::Sha512];
/// What may stand before a token.
const PREFIXES: [&str; 3] = ["", "Bearer ", "JWT "];

fn is_token(bench: &Bench<'_>) -> bool {
    bench.raw.kind == Some(Kind::Jwt)
}

/// The scheme with no claim but those called `name`.
fn claiming(bench: &Bench<'_>, name: Option<&str>) -> RawScheme {
    let mut raw = bench.raw.clone();
    raw.claims =
        raw.claims.map(|claims| claims.into_iter().filter(|(known, _)| Some(known.as_str()) == name).collect());
    raw
}

/// The token is signed right, and one of its claims says something else.
pub(super) fn claim(bench: &mut Bench<'_>) -> Option<Found> {
    if !is_token(bench) {
        return None;
    }
    let claims = bench.raw.claims.clone().unwrap_or_default();
    let bare = claiming(bench, None);
    bench.fits_raw(&bare)?;
    let mut wrong = Vec::new();
    for (name, wanted) in &claims {
        let alone = claiming(bench, Some(name));
        if bench.fits_raw(&alone).is_none() {
            wrong.push((name.as_str(), wanted.as_str()));
        }
    }
    let (name, wanted) = *wrong.first()?;
    let others: Vec<&str> = wrong.iter().skip(1).map(|(name, _)| *name).collect();
    let also = if others.is_empty() { String::new() } else { format!("; nor are {}", others.join(", ")) };
    let found = Found::new(format!("the token is signed right, but its claim {name:?} is not {wanted:?}{also}"));
    Some(match wanted {
        _ if wanted.contains(":body}") => found.fix("see whether something between the sender and here changes bodies"),
        _ if wanted.contains("url") => found.fix("set the route's `public_url` to the address that the sender calls"),
        _ => found.fix(format!("set `claims.{name}` of the route to what this sender's tokens say")),
    })
}

/// The token is signed with another hash.
pub(super) fn hash(bench: &mut Bench<'_>) -> Option<Found> {
    let own = bench.raw.mac.unwrap_or_default();
    if !is_token(bench) {
        return None;
    }
    for hash in HASHES.into_iter().filter(|hash| *hash != own) {
        let mut raw = bench.raw.clone();
        raw.mac = Some(hash);
        if bench.fits_raw(&raw).is_some() {
            return Some(Found::new(format!(
                "the token is right with {}, expected was {}",
                hash.as_str(),
                own.as_str()
            )));
        }
    }
    None
}

/// The token stands behind something else.
pub(super) fn prefix(bench: &mut Bench<'_>) -> Option<Found> {
    let own = bench.raw.token.as_ref()?.prefix.clone().unwrap_or_default();
    for prefix in PREFIXES.into_iter().filter(|prefix| !prefix.eq_ignore_ascii_case(&own)) {
        let mut raw = bench.raw.clone();
        raw.token.as_mut()?.prefix = Some(prefix.to_owned());
        if bench.fits_raw(&raw).is_some() {
            return Some(Found::new(format!("the token is right behind {prefix:?}, expected was {own:?}")));
        }
    }
    None
}

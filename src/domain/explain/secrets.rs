//! Hypotheses about the secret: what surrounds it, how it is written, whose it is. Secrets are changed and tried here;
//! what is said of them is their place.

use super::bench::Bench;
use super::hypothesis::Found;
use crate::domain::scheme::{KeyEncoding, RawScheme, Scheme};
use crate::domain::secret::{RouteSecret, Secret};

/// Longest prefix of a secret that is taken for one.
const LONGEST_PREFIX: usize = 12;

/// A changed secret, and what was done to it.
type Changed = (Secret, String);

/// Tries each live secret changed in each of these ways.
fn try_changed(bench: &mut Bench<'_>, change: impl Fn(&[u8]) -> Vec<Changed>) -> Option<Found> {
    for (position, secret) in bench.live() {
        for (changed, what) in change(secret.secret.expose()) {
            if bench.fits_secret(&changed) {
                return Some(Found::new(format!("{} fits {what}", place(position, secret))));
            }
        }
    }
    None
}

/// A secret by its place.
fn place(position: usize, secret: &RouteSecret) -> String {
    format!("secret {position} ({})", secret.origin)
}

fn with(secret: &[u8], before: &[u8], behind: &[u8]) -> Secret {
    Secret::new([before, secret, behind].concat())
}

/// With and without what surrounds it.
pub(super) fn whitespace(bench: &mut Bench<'_>) -> Option<Found> {
    try_changed(bench, |secret| {
        let mut changed = vec![
            (with(secret, b"", b"\n"), "with a newline behind it: the sender's copy has one".to_owned()),
            (with(secret, b"", b"\r\n"), "with a CR and a newline behind it: the sender's copy has them".to_owned()),
            (with(secret, b"", b" "), "with a blank behind it: the sender's copy has one".to_owned()),
            (with(secret, b" ", b""), "with a blank before it: the sender's copy has one".to_owned()),
        ];
        if secret.trim_ascii() != secret {
            let text = "without the blanks or newlines around it: the gateway's copy has them";
            changed.push((Secret::new(secret.trim_ascii().to_vec()), text.to_owned()));
        }
        changed
    })
}

/// With and without quotes.
pub(super) fn quoted(bench: &mut Bench<'_>) -> Option<Found> {
    try_changed(bench, |secret| {
        let mut changed = Vec::new();
        for quote in [b"\"".as_slice(), b"'"] {
            let bare = secret.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
            let text = "without the quotes around it: the gateway's copy has them";
            changed.extend(bare.map(|bare| (Secret::new(bare.to_vec()), text.to_owned())));
            let text = "with quotes around it: the sender's copy has them";
            changed.push((with(secret, quote, quote), text.to_owned()));
        }
        changed
    })
}

/// The bare scheme with its key read so.
fn keyed(bench: &Bench<'_>, encoding: KeyEncoding, strip: Option<&str>) -> RawScheme {
    let mut raw = bench.raw.clone();
    let key = raw.key.get_or_insert_default();
    key.encoding = Some(encoding);
    key.strip = strip.map(str::to_owned);
    raw
}

fn encoding_of(bench: &Bench<'_>) -> KeyEncoding {
    bench.raw.key.as_ref().and_then(|key| key.encoding).unwrap_or_default()
}

fn strip_of(bench: &Bench<'_>) -> Option<String> {
    bench.raw.key.as_ref().and_then(|key| key.strip.clone())
}

/// What could be a prefix of a secret: its text up to the first `_` or `:`.
fn prefix_of(secret: &[u8]) -> Option<String> {
    let end = secret.iter().position(|byte| matches!(byte, b'_' | b':'))?;
    let prefix = secret.get(..=end).filter(|prefix| prefix.len() <= LONGEST_PREFIX)?;
    std::str::from_utf8(prefix).ok().map(str::to_owned)
}

/// Tries to read the live secrets in another encoding, with and without their prefixes.
fn encoded(bench: &mut Bench<'_>, encoding: KeyEncoding, word: &str) -> Option<Found> {
    if encoding_of(bench) == encoding || !bench.signs() {
        return None;
    }
    for (position, secret) in bench.live() {
        for strip in [strip_of(bench), None, prefix_of(secret.secret.expose())] {
            let raw = keyed(bench, encoding, strip.as_deref());
            for text in [secret.secret.clone(), plain_base64(&secret.secret)] {
                if bench.fits_scheme(&raw, &[(0, &text)]).is_some() {
                    let text = format!("{} fits, {word}{}", place(position, secret), without(strip.as_deref()));
                    return Some(Found::new(text));
                }
            }
        }
    }
    None
}

/// A secret in base64url or without its padding, as canonical base64.
fn plain_base64(secret: &Secret) -> Secret {
    let letter = |byte: &u8| match byte {
        b'-' => b'+',
        b'_' => b'/',
        other => *other,
    };
    let mut text: Vec<u8> = secret.expose().iter().map(letter).collect();
    while !text.len().is_multiple_of(4) {
        text.push(b'=');
    }
    Secret::new(text)
}

fn without(strip: Option<&str>) -> String {
    strip.map_or_else(String::new, |_| ", its prefix taken off".to_owned())
}

pub(super) fn base64(bench: &mut Bench<'_>) -> Option<Found> {
    encoded(bench, KeyEncoding::Base64, "decoded as base64")
}

pub(super) fn hex(bench: &mut Bench<'_>) -> Option<Found> {
    encoded(bench, KeyEncoding::Hex, "decoded as hex")
}

pub(super) fn as_text(bench: &mut Bench<'_>) -> Option<Found> {
    encoded(bench, KeyEncoding::Utf8, "taken as it is")
}

/// The same encoding with the prefix on, off, or put back.
pub(super) fn prefix(bench: &mut Bench<'_>) -> Option<Found> {
    let (encoding, own) = (encoding_of(bench), strip_of(bench));
    for (position, secret) in bench.live() {
        let bytes = secret.secret.expose();
        for strip in [None, prefix_of(bytes)].into_iter().filter(|strip| *strip != own) {
            let raw = keyed(bench, encoding, strip.as_deref());
            if bench.fits_scheme(&raw, &[(0, &secret.secret)]).is_some() {
                let what = if strip.is_some() { "without its prefix" } else { "with its prefix" };
                return Some(Found::new(format!("{} fits {what}", place(position, secret))));
            }
        }
        let raw = keyed(bench, encoding, None);
        if bench.fits_scheme(&raw, &[(0, &with(bytes, b"whsec_", b""))]).is_some() {
            let text = format!("{} fits with whsec_ before it", place(position, secret));
            return Some(Found::new(text).fix("store the secret as the provider shows it, with its whsec_"));
        }
    }
    None
}

/// The secrets of other routes, with this route's scheme and with their own.
pub(super) fn of_another_route(bench: &mut Bench<'_>) -> Option<Found> {
    let (own, route) = (bench.raw.clone(), bench.route());
    for other in bench.case.others.iter().filter(|other| other.name != route.name) {
        let secrets: Vec<(usize, &Secret)> =
            other.secrets.iter().enumerate().map(|(position, secret)| (position, &secret.secret)).collect();
        let theirs: Option<Scheme> = Scheme::compile(other.scheme.as_written()).ok();
        if let Some(position) = bench.fits_scheme(&own, &secrets) {
            let origin = other.secrets.get(position).map_or_else(String::new, |secret| format!(" ({})", secret.origin));
            return Some(Found::new(format!("it fits secret {position} of route {}{origin}", other.name)));
        }
        if theirs.is_some_and(|scheme| bench.fits_compiled(&scheme, &secrets).is_some()) {
            let text =
                format!("it is right for route {}, provider {}, with that route's secret", other.name, other.provider);
            return Some(Found::new(text).fix(format!("let the sender call {}", other.path)));
        }
    }
    None
}

/// This route's secrets that have ended.
pub(super) fn expired(bench: &mut Bench<'_>) -> Option<Found> {
    let (raw, now) = (bench.raw.clone(), bench.case.now);
    let secrets = bench.route().secrets.iter().enumerate();
    for (position, secret) in secrets {
        let Some(until) = secret.until.filter(|until| *until <= now) else { continue };
        if bench.fits_scheme(&raw, &[(0, &secret.secret)]).is_some() {
            return Some(Found::new(format!("{} fits, and it ended at {until}", place(position, secret))));
        }
    }
    None
}

//! Hypotheses about the body: what was done to it between signing and here. Each makes the body that may have been
//! signed out of the one that came.

use std::borrow::Cow;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;

use flate2::read::{DeflateDecoder, GzDecoder, ZlibDecoder};
use http::header::CONTENT_ENCODING;

use super::LONGEST_REWRITE;
use super::bench::Bench;
use super::hypothesis::Found;
use super::json::{self, Document};

/// Longest body that a compressed one is unpacked to, in bytes.
const LONGEST_UNPACKED: u64 = 8 * 1024 * 1024;
/// Most fields of a form that are looked into.
const MOST_FIELDS: usize = 16;
/// Most fields of a form that is written anew: as many as a check reads, and a bound on what a body of separators costs.
const LONGEST_FORM: usize = 4096;

const BOM: &[u8] = b"\xef\xbb\xbf";

/// Tries each body; says what was done to the one that fits.
fn try_bodies(bench: &mut Bench<'_>, bodies: impl IntoIterator<Item = (Vec<u8>, String)>) -> Option<Found> {
    let own = bench.inbound().body.clone();
    for (body, what) in bodies.into_iter().filter(|(body, _)| *body != own) {
        if !bench.signs() || bench.is_spent() {
            return None;
        }
        let bytes = body.len();
        if bench.fits_body(body).is_some() {
            return Some(Found::new(format!("{what} was signed: {bytes} bytes in place of {}", own.len())));
        }
    }
    None
}

fn said(body: Vec<u8>, what: &str) -> (Vec<u8>, String) {
    (body, what.to_owned())
}

/// Whether the body is short enough to be written anew.
fn may_rewrite(bench: &Bench<'_>) -> bool {
    bench.inbound().body.len() <= LONGEST_REWRITE
}

pub(super) fn final_newline(bench: &mut Bench<'_>) -> Option<Found> {
    let body = bench.inbound().body.clone();
    let without = body.strip_suffix(b"\n").map(|rest| rest.strip_suffix(b"\r").unwrap_or(rest));
    let mut bodies = vec![
        said([&body, b"\n".as_slice()].concat(), "the body with a newline at its end"),
        said([&body, b"\r\n".as_slice()].concat(), "the body with a CR and a newline at its end"),
        said(body.trim_ascii_end().to_vec(), "the body without the blanks at its end"),
        said(body.trim_ascii().to_vec(), "the body without the blanks around it"),
    ];
    if let Some(without) = without {
        bodies.insert(0, said(without.to_vec(), "the body without the newline at its end"));
    }
    try_bodies(bench, bodies)
}

pub(super) fn line_ends(bench: &mut Bench<'_>) -> Option<Found> {
    let body = bench.inbound().body.clone();
    let mut plain = Vec::with_capacity(body.len());
    for (at, byte) in body.iter().enumerate() {
        if *byte != b'\r' || body.get(at + 1) != Some(&b'\n') {
            plain.push(*byte);
        }
    }
    let mut windows = Vec::with_capacity(plain.len());
    for byte in &plain {
        windows.extend_from_slice(if *byte == b'\n' { b"\r\n" } else { std::slice::from_ref(byte) });
    }
    let bodies = [said(plain, "the body with LF for CRLF"), said(windows, "the body with CRLF for LF")];
    try_bodies(bench, bodies)
}

pub(super) fn bom(bench: &mut Bench<'_>) -> Option<Found> {
    let body = bench.inbound().body.clone();
    let other = match body.strip_prefix(BOM) {
        Some(bare) => said(bare.to_vec(), "the body without its byte order mark"),
        None => said([BOM, &body].concat(), "the body with a byte order mark"),
    };
    try_bodies(bench, [other])
}

/// What the body decompresses to, whatever its headers say.
pub(super) fn compressed(bench: &mut Bench<'_>) -> Option<Found> {
    let body = bench.inbound().body.clone();
    let named = bench.inbound().headers.get(CONTENT_ENCODING).is_some();
    let mut bodies = Vec::new();
    if body.starts_with(b"\x1f\x8b") {
        bodies.extend(unpacked(GzDecoder::new(&*body)).map(|body| said(body, "the body gunzipped")));
    } else if named || body.first() == Some(&0x78) {
        bodies.extend(unpacked(ZlibDecoder::new(&*body)).map(|body| said(body, "the body inflated")));
        bodies.extend(unpacked(DeflateDecoder::new(&*body)).map(|body| said(body, "the body inflated")));
    }
    try_bodies(bench, bodies)
}

/// The whole of a stream; nothing if it is none or too long.
fn unpacked(stream: impl Read) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    stream.take(LONGEST_UNPACKED + 1).read_to_end(&mut body).ok()?;
    u64::try_from(body.len()).is_ok_and(|length| length <= LONGEST_UNPACKED).then_some(body)
}

pub(super) fn not_signed(bench: &mut Bench<'_>) -> Option<Found> {
    try_bodies(bench, [said(Vec::new(), "an empty body")])
}

pub(super) fn wrapped(bench: &mut Bench<'_>) -> Option<Found> {
    if !may_rewrite(bench) {
        return None;
    }
    let body = bench.inbound().body.clone();
    let text = std::str::from_utf8(&body).ok()?;
    let mut bodies = Vec::new();
    if let Ok(inner) = serde_json::from_str::<String>(text) {
        bodies.push(said(inner.into_bytes(), "the text inside the JSON string"));
    }
    bodies.push(said(json::quoted(text).into_bytes(), "the body as a JSON string"));
    for field in text.split('&').take(MOST_FIELDS) {
        if let Some((name, value)) = field.split_once('=') {
            let what = format!("the value of the form's field {:?}", name.chars().take(40).collect::<String>());
            bodies.push((form_decoded(value.as_bytes()), what));
        }
    }
    try_bodies(bench, bodies)
}

pub(super) fn charset(bench: &mut Bench<'_>) -> Option<Found> {
    let body = bench.inbound().body.clone();
    if body.is_ascii() || !may_rewrite(bench) {
        return None;
    }
    let mut bodies = Vec::new();
    if let Ok(text) = std::str::from_utf8(&body) {
        let narrow: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
        bodies.extend(narrow.map(|narrow| said(narrow, "the body in Latin-1")));
    }
    let wide: String = body.iter().map(|byte| char::from(*byte)).collect();
    bodies.push(said(wide.into_bytes(), "the body converted from Latin-1 to UTF-8"));
    try_bodies(bench, bodies)
}

/// How a form is escaped: what stands for a blank, which further characters stay as they are, the case of escapes.
const FORM_PLAIN: [(&[u8], &str); 3] =
    [(b"*-._", "as browsers do"), (b"-._~", "as RFC 3986 says"), (b"-_.!~*'()", "as JavaScript does")];

pub(super) fn form_encoding(bench: &mut Bench<'_>) -> Option<Found> {
    let body = bench.inbound().body.clone();
    if !may_rewrite(bench) || !body.contains(&b'=') || body.first().is_some_and(|byte| matches!(byte, b'{' | b'[')) {
        return None;
    }
    if body.split(|byte| *byte == b'&').nth(LONGEST_FORM).is_some() {
        return None;
    }
    let fields: Vec<Vec<Vec<u8>>> =
        body.split(|b| *b == b'&').map(|field| field.splitn(2, |b| *b == b'=').map(form_decoded).collect()).collect();
    let mut bodies = Vec::new();
    for (plain, word) in FORM_PLAIN {
        for blank in ["+", "%20"] {
            for (digits, case) in [(b"0123456789ABCDEF", "upper"), (b"0123456789abcdef", "lower")] {
                let escape = |text: &Vec<u8>| form_encoded(text, plain, blank.as_bytes(), digits);
                let written: Vec<Vec<u8>> =
                    fields.iter().map(|field| field.iter().map(escape).collect::<Vec<_>>().join(&b'=')).collect();
                let what = format!("the form escaped {word}, {blank} for a blank, escapes in {case} case,");
                bodies.push((written.join(&b'&'), what));
            }
        }
    }
    try_bodies(bench, bodies)
}

fn form_encoded(text: &[u8], plain: &[u8], blank: &[u8], digits: &[u8; 16]) -> Vec<u8> {
    let digit = |nibble: u8| digits.get(usize::from(nibble)).copied().unwrap_or(b'0');
    let mut written = Vec::with_capacity(text.len());
    for byte in text {
        match byte {
            b' ' => written.extend_from_slice(blank),
            byte if byte.is_ascii_alphanumeric() || plain.contains(byte) => written.push(*byte),
            byte => written.extend_from_slice(&[b'%', digit(byte >> 4), digit(byte & 15)]),
        }
    }
    written
}

fn form_decoded(text: &[u8]) -> Vec<u8> {
    let spaced: Vec<u8> = text.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    super::notation::percent_decoded(&spaced)
}

/// Every usual way to write the JSON.
pub(super) fn reserialised(bench: &mut Bench<'_>) -> Option<Found> {
    if !may_rewrite(bench) || !bench.signs() {
        return None;
    }
    let body = bench.inbound().body.clone();
    let bare = body.strip_prefix(BOM).unwrap_or(&body);
    let document = Document::parse(std::str::from_utf8(bare).ok()?)?;
    let mut seen = HashSet::from([digest(&body)]);
    for style in document.styles() {
        let Some(text) = document.write(&style) else { continue };
        for (end, also) in [("", ""), ("\n", ", with a newline at its end")] {
            let text: Cow<'_, str> = if end.is_empty() { (&text).into() } else { format!("{text}{end}").into() };
            if bench.is_spent() {
                return None;
            }
            if seen.insert(digest(text.as_bytes())) && bench.fits_body(text.as_bytes().to_vec()).is_some() {
                let what = format!("the same JSON written {style}{also} was signed");
                return Some(Found::new(format!("{what}: {} bytes in place of {}", text.len(), body.len())));
            }
        }
    }
    None
}

fn digest(text: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

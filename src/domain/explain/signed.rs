//! Hypotheses about what was signed: how body, time, id and address are put together.

use super::bench::Bench;
use super::clock::looks_like_a_time;
use super::hypothesis::Found;
use crate::domain::scheme::{Kind, RawScheme, RawTimestamp, Span};

/// The usual forms, besides the body alone.
const FORMS: &[&str] = &[
    "{timestamp}.{body}",
    "{timestamp}:{body}",
    "{timestamp}{body}",
    "{timestamp}|{body}",
    "{timestamp}\n{body}",
    "{body}{timestamp}",
    "{body}.{timestamp}",
    "{body}:{timestamp}",
    "v0:{timestamp}:{body}",
    "v1:{timestamp}:{body}",
    "v1.{timestamp}.{body}",
    "{id}.{timestamp}.{body}",
    "{id}{timestamp}{body}",
    "{timestamp}.{id}.{body}",
    "{id}.{body}",
    "{url}{body}",
    "{body}{url}",
    "{method}{url}{body}",
    "{method}{url}{body}{timestamp}",
    "{timestamp}{method}{path}{body}",
    "{method}{path}{body}{timestamp}",
    "{path}{body}",
];

/// Most headers taken for a time, and for an id.
const MOST_SOURCES: usize = 4;

/// Whether the scheme has one text that is signed with a key.
fn has_text(bench: &Bench<'_>) -> bool {
    bench.raw.kind.unwrap_or_default() == Kind::Hmac && bench.raw.each.is_none()
}

fn own_text(bench: &Bench<'_>) -> String {
    bench.raw.signed.clone().unwrap_or_else(|| "{body}".to_owned())
}

/// The body alone.
pub(super) fn body_alone(bench: &mut Bench<'_>) -> Option<Found> {
    let own = own_text(bench);
    if !has_text(bench) || own == "{body}" {
        return None;
    }
    let mut raw = bench.raw.clone();
    raw.signed = Some("{body}".to_owned());
    bench.fits_raw(&raw)?;
    Some(Found::new(format!("the body alone was signed, expected was {own:?}")))
}

/// Every other usual form, with the times and ids that the request has.
pub(super) fn text(bench: &mut Bench<'_>) -> Option<Found> {
    let own = own_text(bench);
    if !has_text(bench) {
        return None;
    }
    let (times, ids) = (times(bench), ids(bench));
    for form in FORMS {
        let (has_time, has_id) = (form.contains("{timestamp}"), form.contains("{id}"));
        for time in if has_time { times.as_slice() } else { &[None] } {
            for id in if has_id { ids.as_slice() } else { &[None] } {
                let sources_are_own = time.is_none() && id.is_none();
                if *form == own && sources_are_own {
                    continue;
                }
                let raw = composed(bench, form, time.as_deref(), id.as_deref());
                if bench.fits_raw(&raw).is_some() {
                    return Some(found(form, &own, time.as_deref(), id.as_deref()));
                }
            }
        }
    }
    None
}

fn found(form: &str, own: &str, time: Option<&str>, id: Option<&str>) -> Found {
    let from =
        |what: &str, source: Option<&str>| source.map_or_else(String::new, |s| format!(" with the {what} of {s}"));
    let text = format!("{form:?} was signed{}{}, expected was {own:?}", from("time", time), from("id", id));
    let mut keys = vec![format!("signed = {form:?}")];
    keys.extend(time.map(|source| format!("timestamp.from = {source:?}")));
    keys.extend(id.map(|source| format!("id = {source:?}")));
    Found::new(text)
        .fix(format!("set {} for the route, or let the sender sign as the provider does", keys.join(" and ")))
}

/// Where times stand: `None` is the scheme's own place.
fn times(bench: &Bench<'_>) -> Vec<Option<String>> {
    let own = bench.raw.timestamp.as_ref().map(|_| None);
    let headers = bench.inbound().headers.iter();
    let found = headers.filter(|(_, value)| looks_like_a_time(value.as_bytes()));
    let found = found.map(|(name, _)| format!("header:{}", name.as_str())).take(MOST_SOURCES).map(Some);
    own.into_iter().chain(found).collect()
}

/// Where ids stand: `None` is the scheme's own place.
fn ids(bench: &Bench<'_>) -> Vec<Option<String>> {
    let own = bench.raw.id.as_ref().map(|_| None);
    let is_id = |name: &str| name.ends_with("-id") || name.ends_with("-delivery") || name == "idempotency-key";
    let found = bench.inbound().headers.keys().map(http::HeaderName::as_str).filter(|name| is_id(name));
    let found = found.map(|name| format!("header:{name}")).take(MOST_SOURCES).map(Some);
    own.into_iter().chain(found).collect()
}

fn composed(bench: &Bench<'_>, form: &str, time: Option<&str>, id: Option<&str>) -> RawScheme {
    let mut raw = bench.raw.clone();
    raw.signed = Some(form.to_owned());
    if let Some(source) = time {
        let tolerance = Some(Span(std::time::Duration::ZERO));
        raw.timestamp = Some(RawTimestamp { from: Some(source.to_owned()), tolerance, ..RawTimestamp::default() });
    }
    if let Some(source) = id {
        raw.id = Some(source.to_owned());
    }
    raw
}

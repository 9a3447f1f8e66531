//! Hypotheses about time: how it is written, where it stands, and whose clock is wrong. No clock is read here.

use http::HeaderName;

use super::bench::Bench;
use super::hypothesis::Found;
use crate::domain::refusal::Refusal;
use crate::domain::scheme::{Key, RawScheme, Scheme, Unit, Verified};
use crate::domain::time::Timestamp;

/// A time further away than this is no time of sending: five years, in milliseconds.
const PLAUSIBLE: u64 = 5 * 366 * 86_400_000;
const HOUR: i64 = 3_600_000;
/// How much a time that is off by whole hours may be off besides: a minute on the way, in milliseconds.
const ON_THE_WAY: i64 = 60_000;
/// Furthest that a time zone lies from UTC, in hours.
const FURTHEST_ZONE: i64 = 14;
/// Most headers that are looked into.
const MOST_HEADERS: usize = 16;

const UNITS: [(Unit, &str); 4] = [
    (Unit::Seconds, "seconds"),
    (Unit::Millis, "milliseconds"),
    (Unit::Rfc3339, "RFC 3339"),
    (Unit::Rfc3339Utc, "RFC 3339 without a zone"),
];

/// Digits of seconds or milliseconds, or the beginning of a date.
pub(super) fn looks_like_a_time(text: &[u8]) -> bool {
    let digits = text.iter().all(u8::is_ascii_digit) && (9..=13).contains(&text.len());
    let date = text.len() >= 19 && text.get(4) == Some(&b'-') && text.get(7) == Some(&b'-');
    digits || date
}

/// The route's scheme as written, with its timestamp changed and nothing else of it checked.
fn timed(bench: &Bench<'_>, from: Option<&str>, unit: Unit) -> Option<RawScheme> {
    let mut raw = bench.raw.clone();
    let own = bench.route().scheme.as_written().timestamp.clone()?;
    let timestamp = raw.timestamp.as_mut()?;
    timestamp.tolerance = own.tolerance;
    timestamp.unit = Some(unit);
    timestamp.from = from.map(str::to_owned).or(own.from);
    Some(raw)
}

/// When the request was sent, if it is signed and its time can be read so.
fn sent(bench: &mut Bench<'_>, raw: &RawScheme) -> Option<Timestamp> {
    let scheme = Scheme::compile(raw).ok()?;
    let live = bench.live();
    let secrets: Vec<_> = live.iter().map(|(position, secret)| (*position, &secret.secret)).collect();
    let sent = bench.fits_compiled(&scheme, &secrets)?.sent_at()?;
    (sent.millis().abs_diff(bench.case.now.millis()) < PLAUSIBLE).then_some(sent)
}

/// The same text in another unit.
pub(super) fn unit(bench: &mut Bench<'_>) -> Option<Found> {
    let own = bench.raw.timestamp.as_ref()?.unit.unwrap_or(Unit::Seconds);
    let as_written = timed(bench, None, own)?;
    if sent(bench, &as_written).is_some() {
        return None;
    }
    for (unit, word) in UNITS.into_iter().filter(|(unit, _)| *unit != own) {
        let raw = timed(bench, None, unit)?;
        if let Some(sent) = sent(bench, &raw) {
            return Some(Found::new(format!("the time is in {word}: {}", apart(sent, bench.case.now))));
        }
    }
    None
}

/// Another header that holds a time.
pub(super) fn elsewhere(bench: &mut Bench<'_>) -> Option<Found> {
    let own = bench.raw.timestamp.as_ref()?.unit.unwrap_or(Unit::Seconds);
    let as_written = timed(bench, None, own)?;
    if sent(bench, &as_written).is_some() {
        return None;
    }
    let from = bench.raw.timestamp.as_ref()?.from.clone().unwrap_or_default().to_ascii_lowercase();
    let headers = bench.inbound().headers.iter();
    let times = headers.filter(|(_, value)| looks_like_a_time(value.as_bytes())).map(|(name, _)| name.clone());
    let names: Vec<HeaderName> = times.filter(|name| format!("header:{name}") != from).take(MOST_HEADERS).collect();
    for name in names {
        for (unit, word) in UNITS {
            let raw = timed(bench, Some(&format!("header:{name}")), unit)?;
            if let Some(sent) = sent(bench, &raw) {
                let text = format!("{name} holds the time, in {word}: {}", apart(sent, bench.case.now));
                return Some(Found::new(text));
            }
        }
    }
    None
}

/// The request as it is, verified by the route's own scheme.
fn verified(bench: &mut Bench<'_>) -> Option<Verified> {
    let live = bench.live();
    let keys: Vec<(usize, &Key)> = live.iter().map(|(position, secret)| (*position, &secret.key)).collect();
    let (inbound, route) = (bench.inbound().clone(), bench.route());
    bench.verify(&route.scheme, &keys, inbound, route.public_url.as_deref())
}

/// How far the request is from being fresh, if a clock that is off by so much would accept it.
fn off_by(bench: &mut Bench<'_>) -> Option<i64> {
    if !matches!(bench.refusal, Refusal::TimestampStale | Refusal::TimestampFuture) {
        return None;
    }
    let verified = verified(bench)?;
    let said = verified.sent_at().into_iter().chain(verified.signed_at());
    let scheme = &bench.route().scheme;
    let mut fresh = said.filter(|at| scheme.check_freshness(&verified, *at).is_ok());
    let offset = fresh.next().map(|at| bench.case.now.millis().saturating_sub(at.millis()))?;
    (offset.unsigned_abs() < PLAUSIBLE).then_some(offset)
}

/// The offset as whole hours.
fn whole_hours(offset: i64) -> Option<i64> {
    let hours = offset.saturating_add(HOUR / 2).div_euclid(HOUR);
    let near = offset.abs_diff(hours.saturating_mul(HOUR)) <= ON_THE_WAY.unsigned_abs();
    (near && hours != 0 && hours.abs() <= FURTHEST_ZONE).then_some(hours)
}

pub(super) fn offset(bench: &mut Bench<'_>) -> Option<Found> {
    let offset = off_by(bench).filter(|offset| whole_hours(*offset).is_none())?;
    let sent = Timestamp::from_millis(bench.case.now.millis().saturating_sub(offset));
    Some(Found::new(format!("the signature is right, and the time is not: {}", apart(sent, bench.case.now))))
}

pub(super) fn zone(bench: &mut Bench<'_>) -> Option<Found> {
    let hours = off_by(bench).and_then(whole_hours)?;
    let side = if hours > 0 { "behind" } else { "ahead" };
    let text = format!("the signature is right, and the time is {} h {side}, to the minute", hours.abs());
    Some(
        Found::new(text).fix(
            "let the sender write the time in UTC; if it does, the request is that old and something held it back",
        ),
    )
}

/// Everything but `signed_at`, now.
pub(super) fn event_too_old(bench: &mut Bench<'_>) -> Option<Found> {
    if bench.refusal != Refusal::EventTooOld {
        return None;
    }
    let happened = verified(bench)?.signed_at()?;
    let mut raw = bench.route().scheme.as_written().clone();
    raw.signed_at = None;
    let scheme = Scheme::compile(&raw).ok()?;
    let live = bench.live();
    let secrets: Vec<_> = live.iter().map(|(position, secret)| (*position, &secret.secret)).collect();
    let without = bench.fits_compiled(&scheme, &secrets)?;
    scheme.check_freshness(&without, bench.case.now).ok()?;
    Some(Found::new(format!("what it reports happened {}", apart(happened, bench.case.now))))
}

/// `2026-01-31T12:00:00Z, 12 min before the gateway's time`.
fn apart(at: Timestamp, now: Timestamp) -> String {
    let (side, gap) = if at > now { ("ahead of", at.since(now)) } else { ("before", now.since(at)) };
    let seconds = gap.as_secs();
    let span = match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    };
    format!("{at}, {span} {side} the gateway's time")
}

//! When a request was sent and when its event happened: how moments are written, and how old they may be.
//!
//! Nothing here says who wrote a moment; both rules are applied to verified requests only.

use std::time::Duration;

use jiff::civil::DateTime;
use jiff::tz::Offset;

use super::raw::Unit;
use super::source::Source;
use crate::domain::refusal::Refusal;
use crate::domain::time::Timestamp;

/// When the request was sent.
#[derive(Clone, Debug)]
pub(super) struct SentRule {
    pub(super) source: Source,
    pub(super) unit: Unit,
    /// Nothing: any age will do.
    pub(super) window: Option<Window>,
}

/// When the event happened.
#[derive(Clone, Debug)]
pub(super) struct SignedAtRule {
    pub(super) source: Source,
    pub(super) unit: Unit,
    pub(super) window: Window,
}

/// How far back and how far ahead a moment may lie; both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) past: Duration,
    pub(super) future: Duration,
}

/// A moment and the rule that applies to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) at: Timestamp,
    pub(super) unit: Unit,
}

/// The times of a verified and fresh request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// When it was sent, where the scheme says so.
    pub sent_at: Option<Timestamp>,
    /// When its event happened, where that is signed.
    pub signed_at: Option<Timestamp>,
    /// Whether a signed time should have been there.
    pub signed_at_missing: SignedAtMissing,
}

/// Whether the scheme's `signed_at` could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignedAtMissing {
    /// The scheme has a `signed_at` and the request has none that can be read: accepted, to be counted.
    Yes,
    /// It was read, or the scheme has none.
    No,
}

impl Moment {
    /// Reads `text`, which must be written exactly as `unit` says.
    pub(super) fn parse(unit: Unit, text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let at = match unit {
            Unit::Seconds => Timestamp::from_millis(count(text)?.checked_mul(1000)?),
            Unit::Millis => Timestamp::from_millis(count(text)?),
            Unit::Rfc3339 | Unit::Rfc3339Utc => rfc3339(text, unit)?,
        };
        Some(Self { at, unit })
    }

    /// Refuses a moment outside `window`. A moment of whole seconds is compared with the second that `now` is in.
    pub(super) fn check(self, window: Window, now: Timestamp, too_old: Refusal) -> Result<(), Refusal> {
        let now = match self.unit {
            Unit::Seconds => Timestamp::from_seconds(now.millis().div_euclid(1000)),
            Unit::Millis | Unit::Rfc3339 | Unit::Rfc3339Utc => now,
        };
        if self.at > now && self.at.since(now) > window.future {
            Err(Refusal::TimestampFuture)
        } else if now.since(self.at) > window.past {
            Err(too_old)
        } else {
            Ok(())
        }
    }

    /// `at` as `unit` writes it.
    pub(super) fn write(unit: Unit, at: Timestamp) -> String {
        match unit {
            Unit::Seconds => at.millis().div_euclid(1000).to_string(),
            Unit::Millis => at.millis().to_string(),
            Unit::Rfc3339 | Unit::Rfc3339Utc => at.to_string(),
        }
    }
}

/// `[1-9][0-9]*` that fits.
fn count(text: &str) -> Option<i64> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    (digits && !text.starts_with('0')).then(|| text.parse().ok())?
}

/// RFC 3339 section 5.6, with at most nine digits behind the point.
fn rfc3339(text: &str, unit: Unit) -> Option<Timestamp> {
    const SHAPE: &[u8] = b"0000-00-00T00:00:00";
    let (moment, rest) = text.split_at_checked(SHAPE.len())?;
    if !moment.bytes().zip(SHAPE).all(|(b, shape)| fits(b, *shape)) {
        return None;
    }
    let rest = match rest.strip_prefix('.') {
        Some(fraction) => {
            let zone = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
            matches!(fraction.len() - zone.len(), 1..=9).then_some(zone)?
        }
        None => rest,
    };
    let moment: jiff::Timestamp = match rest.as_bytes() {
        [] if unit == Unit::Rfc3339Utc => Offset::UTC.to_timestamp(text.parse::<DateTime>().ok()?).ok()?,
        [b'Z' | b'z'] => text.parse().ok()?,
        zone if zone.len() == 6 && zone.iter().zip(b"+00:00").all(|(b, shape)| fits(*b, *shape)) => {
            text.parse().ok()?
        }
        _ => return None,
    };
    Some(Timestamp::from_millis(moment.as_millisecond()))
}

fn fits(byte: u8, shape: u8) -> bool {
    match shape {
        b'0' => byte.is_ascii_digit(),
        b'T' => matches!(byte, b'T' | b't'),
        b'+' => matches!(byte, b'+' | b'-'),
        other => byte == other,
    }
}

/// Whether a time could be written so: in whatever order, with names of days and zones or without.
pub(super) fn is_time_like(text: &[u8]) -> bool {
    text.iter().all(|byte| byte.is_ascii_alphanumeric() || b" +-./:,_()".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_760_000_000);

    fn millis(unit: Unit, text: &str) -> Option<i64> {
        Moment::parse(unit, text.as_bytes()).map(|moment| moment.at.millis())
    }

    #[test]
    fn a_count_of_seconds_is_digits_without_sign_blank_or_leading_zero() {
        assert_eq!(millis(Unit::Seconds, "1760000000"), Some(1_760_000_000_000));
        assert_eq!(millis(Unit::Millis, "1760000000000"), Some(1_760_000_000_000));
        let wrong = ["", "0", "+1", "-1", " 1", "1 ", "01", "1.0", "1e9", "0x1", "1a", "١٢٣", "9223372036854775807"];
        for text in wrong {
            assert_eq!(millis(Unit::Seconds, text), None, "{text:?}");
        }
        assert_eq!(millis(Unit::Millis, "9223372036854775808"), None);
    }

    #[test]
    fn rfc_3339_needs_its_zone_unless_the_unit_says_utc() {
        let second = 1_760_000_000_000;
        for text in ["2025-10-09T08:53:20Z", "2025-10-09t08:53:20z", "2025-10-09T10:53:20+02:00"] {
            assert_eq!(millis(Unit::Rfc3339, text), Some(second), "{text}");
        }
        assert_eq!(millis(Unit::Rfc3339, "2025-10-09T08:53:20.250Z"), Some(second + 250));
        assert_eq!(millis(Unit::Rfc3339, "2025-10-09T08:53:20"), None);
        assert_eq!(millis(Unit::Rfc3339Utc, "2025-10-09T08:53:20"), Some(second));
        assert_eq!(millis(Unit::Rfc3339Utc, "2025-10-09T08:53:20.5"), Some(second + 500));
    }

    #[test]
    fn what_is_almost_rfc_3339_is_not() {
        let wrong = [
            "2025-10-09",
            "2025-10-09 08:53:20Z",
            "2025-10-09T08:53Z",
            "2025-10-09T08:53:20.Z",
            "2025-10-09T08:53:20,5Z",
            "2025-10-09T08:53:20.1234567890Z",
            "2025-10-09T08:53:20+0200",
            "2025-10-09T08:53:20Z[UTC]",
            "2025-13-09T08:53:20Z",
            "2025-02-30T08:53:20Z",
            "2025-10-09T25:53:20Z",
            "+2025-10-09T08:53:20Z",
            "20251009T085320Z",
            "2025-10-09T08:53:20é",
            "1760000000",
        ];
        for text in wrong {
            assert_eq!(millis(Unit::Rfc3339, text), None, "{text}");
        }
    }

    #[test]
    fn three_hundred_seconds_are_fresh_and_three_hundred_and_one_are_not() {
        let window = Window { past: Duration::from_secs(300), future: Duration::from_secs(300) };
        let check = |seconds: i64| {
            let at = Timestamp::from_seconds(1_760_000_000 + seconds);
            Moment { at, unit: Unit::Seconds }.check(window, NOW, Refusal::TimestampStale)
        };
        assert_eq!(check(-300), Ok(()));
        assert_eq!(check(-301), Err(Refusal::TimestampStale));
        assert_eq!(check(300), Ok(()));
        assert_eq!(check(301), Err(Refusal::TimestampFuture));
    }

    #[test]
    fn whole_seconds_are_compared_with_whole_seconds() {
        let window = Window { past: Duration::from_secs(300), future: Duration::ZERO };
        let now = Timestamp::from_millis(1_760_000_300_999);
        let at = |unit| Moment { at: NOW, unit }.check(window, now, Refusal::TimestampStale);
        assert_eq!(at(Unit::Seconds), Ok(()));
        assert_eq!(at(Unit::Millis), Err(Refusal::TimestampStale));
    }

    #[test]
    fn what_is_written_can_be_read() {
        for unit in [Unit::Seconds, Unit::Millis, Unit::Rfc3339, Unit::Rfc3339Utc] {
            assert_eq!(millis(unit, &Moment::write(unit, NOW)), Some(NOW.millis()), "{unit:?}");
        }
    }
}

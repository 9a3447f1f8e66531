//! How long a web token is good, by its own claims `exp`, `nbf` and `iat` (RFC 7519 section 4.1).
//!
//! A token is good until its `exp`, and no longer than `timestamp.tolerance` after its `iat` or else its `nbf`. Where it
//! has neither, its `exp` may lie no further ahead than that; where it has none of the three, it would be good for ever
//! and is refused. With a tolerance of 0 only what the token says itself is held against it.

use std::time::Duration;

use super::claims::{Claim, Claims};
use super::freshness::{Moment, Window};
use super::raw::Unit;
use crate::domain::refusal::Refusal;
use crate::domain::time::Timestamp;

/// How far the sender's clock may be ahead of ours, or ours ahead of its, before `nbf` and `exp` count.
pub(super) const LEEWAY: Duration = Duration::from_secs(60);

/// How long a token is good.
#[derive(Clone, Copy, Debug)]
pub(super) struct Life {
    /// How long after it was made, where its own time is the one that counts; nothing: for as long as it says.
    pub(super) tolerance: Option<Duration>,
    /// How far ahead `iat` and `nbf` may lie.
    pub(super) future: Duration,
}

/// The times of a token.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Times {
    expires: Option<Moment>,
    not_before: Option<Moment>,
    issued: Option<Moment>,
}

impl Times {
    /// The times that are there; one that is no number of seconds is refused.
    pub(super) fn read(claims: &Claims) -> Result<Self, Refusal> {
        let time = |name: &str| match claims.get(name) {
            None => Ok(None),
            Some(Claim::Number(text)) => seconds(text).map(Some).ok_or(Refusal::TimestampMalformed),
            Some(Claim::Text(_) | Claim::Truth(_) | Claim::List(_) | Claim::Other) => Err(Refusal::TimestampMalformed),
        };
        Ok(Self { expires: time("exp")?, not_before: time("nbf")?, issued: time("iat")? })
    }

    /// Refuses a token before its time and after it.
    pub(super) fn check(&self, life: Life, now: Timestamp) -> Result<(), Refusal> {
        let check = |moment: Option<Moment>, past, future| {
            moment.map_or(Ok(()), |moment| moment.check(Window { past, future }, now, Refusal::TimestampStale))
        };
        check(self.expires, LEEWAY, Duration::MAX)?;
        check(self.not_before, Duration::MAX, life.future)?;
        check(self.issued, Duration::MAX, life.future)?;
        let Some(tolerance) = life.tolerance else { return Ok(()) };
        match (self.issued.or(self.not_before), self.expires) {
            (made @ Some(_), _) => check(made, tolerance, life.future),
            (None, expires @ Some(_)) => check(expires, LEEWAY, tolerance),
            (None, None) => Err(Refusal::TimestampMissing),
        }
    }
}

/// A `NumericDate` (RFC 7519 section 2): seconds, of which a fraction is cut off.
fn seconds(text: &str) -> Option<Moment> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let plain = fraction.bytes().all(|byte| byte.is_ascii_digit());
    if plain { Moment::parse(Unit::Seconds, whole.as_bytes()) } else { None }
}

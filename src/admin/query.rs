//! What operators filter by: a route, a reason, a span of time, ids. As it is written in a query, in a body and on the
//! command line, and as the spool and the list of recent requests take it.

use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

use crate::domain::event::EventId;
use crate::domain::outcome::Settled;
use crate::domain::time::Timestamp;
use crate::spool::{DeadReason, Filter, State};
use crate::telemetry::catalogue::refusal_reasons;

/// Most entries of one page.
pub const LARGEST_PAGE: usize = 1000;

/// Entries of a page when nobody says how many.
pub const USUAL_PAGE: usize = 100;

/// The reason by which records are asked for that are not what was written: they are kept, and never delivered.
pub const DAMAGED: &str = "damaged";

/// A filter of dead letters as written; an absent field asks for all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeadFilter {
    /// Of this route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// Dead for this reason; [`DAMAGED`]: set aside because they are not what was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Received at this moment or later: RFC 3339, or `2h` for two hours ago.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Received before this moment: RFC 3339, or `2h` for two hours ago.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Only these events; left out, all.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "at_least_one")]
    pub ids: Vec<String>,
}

/// A list that is given and empty is not one that is left out.
fn at_least_one<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let ids = Vec::deserialize(deserializer)?;
    if ids.is_empty() {
        return Err(D::Error::custom("an empty list of `ids` means no event: leave it out to mean all"));
    }
    Ok(ids)
}

/// What is wrong with a filter; a sentence for the operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FilterFault(pub String);

impl DeadFilter {
    /// The same with moments in place of ages, so that it means the same later on.
    pub fn at(&self, now: Timestamp) -> Result<Self, FilterFault> {
        let fixed = |text: &Option<String>| {
            text.as_deref().map(|text| moment(text, now).map(|moment| moment.to_string())).transpose()
        };
        Ok(Self { since: fixed(&self.since)?, until: fixed(&self.until)?, ..self.clone() })
    }

    /// The spool's filter for the dead letters that are meant, a page of `limit` at a time.
    pub fn read(&self, now: Timestamp, limit: usize) -> Result<Filter, FilterFault> {
        let ids: Result<Vec<EventId>, _> = self.ids.iter().map(|id| event_id(id)).collect();
        let (state, reason) = match self.reason.as_deref() {
            Some(DAMAGED) => (State::Damaged, None),
            Some(word) => (State::Dead, Some(dead_reason(word)?)),
            None => (State::Dead, None),
        };
        Ok(Filter {
            state: Some(state),
            route: self.route.clone(),
            reason,
            since: self.since.as_deref().map(|text| moment(text, now)).transpose()?,
            until: self.until.as_deref().map(|text| moment(text, now)).transpose()?,
            dead_by: None,
            ids: ids?,
            after: None,
            limit,
        })
    }
}

/// An event's id.
pub fn event_id(text: &str) -> Result<EventId, FilterFault> {
    text.parse().map_err(|_| FilterFault(format!("{text:?} is not the id of an event: they are UUIDs")))
}

/// Why an event is dead.
pub fn dead_reason(word: &str) -> Result<DeadReason, FilterFault> {
    let found = DeadReason::ALL.into_iter().find(|reason| reason.as_str() == word);
    found.ok_or_else(|| {
        let words = DeadReason::ALL.map(DeadReason::as_str).join(", ");
        FilterFault(format!("no event is dead for {word:?}: reasons are {words}, and {DAMAGED}"))
    })
}

/// Why an event became what it is, as far as a listing of events can say it: a request that was not taken, a dead letter,
/// a damaged record.
pub fn event_reason(word: &str) -> Result<(), FilterFault> {
    let dead = DeadReason::ALL.into_iter().map(DeadReason::as_str);
    let mut known = refusal_reasons().chain(dead.clone()).chain([DAMAGED]);
    if known.any(|reason| reason == word) {
        return Ok(());
    }
    let words = refusal_reasons().chain(dead).collect::<Vec<_>>().join(", ");
    Err(FilterFault(format!("no event has the reason {word:?}: reasons are {words}, and {DAMAGED}")))
}

/// What a request became.
pub fn disposition(word: &str) -> Result<(), FilterFault> {
    if Settled::DISPOSITIONS.contains(&word) {
        return Ok(());
    }
    let words = Settled::DISPOSITIONS.join(", ");
    Err(FilterFault(format!("no request becomes {word:?}: dispositions are {words}")))
}

/// A moment: RFC 3339, or how long before `now`: `90s`, `2h`, `3d`.
pub fn moment(text: &str, now: Timestamp) -> Result<Timestamp, FilterFault> {
    if let Ok(moment) = text.parse::<jiff::Timestamp>() {
        return Ok(Timestamp::from_millis(moment.as_millisecond()));
    }
    match age(text) {
        Some(age) => Ok(now.minus(age)),
        None => Err(FilterFault(format!(
            "{text:?} is not a moment: write 2026-01-31T12:00:00Z, or how long ago, such as 90s, 2h or 3d"
        ))),
    }
}

fn age(text: &str) -> Option<Duration> {
    let span: jiff::Span = text.parse().ok()?;
    let span = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).ok()?;
    Duration::try_from(span).ok()
}

/// How many entries a page gets, at least one and at most [`LARGEST_PAGE`].
#[must_use]
pub fn page(limit: Option<usize>) -> usize {
    limit.unwrap_or(USUAL_PAGE).clamp(1, LARGEST_PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_date_or_an_age() {
        let now = Timestamp::from_seconds(1_760_000_000);
        assert_eq!(moment("2025-10-09T08:53:20Z", now), Ok(now));
        assert_eq!(moment("2025-10-09T10:53:20+02:00", now), Ok(now));
        assert_eq!(moment("90s", now), Ok(now.minus(Duration::from_secs(90))));
        assert_eq!(moment("2h", now), Ok(now.minus(Duration::from_secs(7200))));
        assert_eq!(moment("3d", now), Ok(now.minus(Duration::from_secs(3 * 86_400))));
        for wrong in ["", "yesterday", "2", "-2h", "2025-10-09"] {
            assert!(moment(wrong, now).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_wrong_filter_says_what_would_be_right() {
        let now = Timestamp::from_seconds(0);
        let filter = DeadFilter { reason: Some("rejected".into()), ..DeadFilter::default() };
        assert!(filter.read(now, 1).unwrap_err().0.contains("attempts_exhausted"));
        let filter = DeadFilter { ids: vec!["17".into()], ..DeadFilter::default() };
        assert!(filter.read(now, 1).unwrap_err().0.contains("UUID"));
    }

    #[test]
    fn a_page_has_bounds() {
        assert_eq!((page(None), page(Some(0)), page(Some(7)), page(Some(usize::MAX))), (100, 1, 7, 1000));
    }
}

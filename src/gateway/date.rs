//! The `Date` of replies (RFC 9110 section 5.6.7), formatted once a second.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::domain::time::Timestamp;

/// The second whose date was asked for last.
#[derive(Default)]
pub(super) struct HttpDate(ArcSwap<(i64, String)>);

impl HttpDate {
    /// The date of a moment.
    pub(super) fn at(&self, moment: Timestamp) -> Arc<(i64, String)> {
        let second = moment.millis().div_euclid(1000);
        let last = self.0.load();
        if last.0 == second && !last.1.is_empty() {
            return Arc::clone(&last);
        }
        let fresh = Arc::new((second, formatted(second)));
        self.0.store(fresh.clone());
        fresh
    }
}

fn formatted(second: i64) -> String {
    let moment = jiff::Timestamp::from_second(second).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&moment).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_that_of_its_second_whichever_was_asked_for_before() {
        let date = HttpDate::default();
        let at = |millis| date.at(Timestamp::from_millis(millis)).1.clone();
        assert_eq!(at(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(at(1_760_000_000_999), "Thu, 09 Oct 2025 08:53:20 GMT");
        assert_eq!(at(1_760_000_001_000), "Thu, 09 Oct 2025 08:53:21 GMT");
        assert_eq!(at(1_760_000_000_000), "Thu, 09 Oct 2025 08:53:20 GMT");
    }
}

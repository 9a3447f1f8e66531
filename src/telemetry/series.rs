//! The series that nearly every request of a route moves, looked up once instead of by their labels each time. They are the
//! catalogue's own: what is counted here is what `/metrics` shows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use prometheus::{Histogram, IntCounter, IntGauge};

use super::metrics::{Metrics, RouteLabels};
use crate::domain::outcome::{Outcome, Settled};

/// One route's. Of a route that nobody named before, its series come to be with it.
#[derive(Debug)]
pub struct RouteSeries {
    answers: [(&'static str, IntCounter, Histogram); Settled::DISPOSITIONS.len()],
    attempts: [(&'static str, IntCounter); Outcome::WORDS.len()],
    attempt_duration: Histogram,
    /// By their positions.
    secrets: Vec<IntCounter>,
    /// Attempts that run.
    pub attempts_in_flight: IntGauge,
    /// 1 while the application is considered up.
    pub app_up: IntGauge,
    /// Bytes.
    pub request_body_bytes: Histogram,
    /// Seconds, may be negative.
    pub event_age_seconds: Histogram,
}

/// The series of all routes; those of one that is not configured any more stay, as the metrics do.
#[derive(Default)]
pub(super) struct Known(ArcSwap<BTreeMap<String, Arc<RouteSeries>>>);

impl Metrics {
    /// The series of a route.
    #[must_use]
    pub fn series(&self, route: &str) -> Arc<RouteSeries> {
        let known = self.known.0.load().get(route).cloned();
        known.unwrap_or_else(|| Arc::new(RouteSeries::new(self, route, 0)))
    }

    /// Knows the series of these routes from now on.
    pub(super) fn know(&self, routes: &[RouteLabels]) {
        let made = |labels: &RouteLabels| {
            (labels.name.clone(), Arc::new(RouteSeries::new(self, &labels.name, labels.secrets)))
        };
        self.known.0.rcu(|known| {
            known
                .iter()
                .map(|(name, series)| (name.clone(), series.clone()))
                .chain(routes.iter().map(made))
                .collect::<BTreeMap<_, _>>()
        });
    }

    /// Counts a signature that the secret at this position made; it may be one that a reload has taken away meanwhile.
    pub fn secret_matched(&self, series: &RouteSeries, route: &str, position: usize) {
        match series.secrets.get(position) {
            Some(matches) => matches.inc(),
            None => self.secret_matches_total.with_label_values(&[route, position.to_string().as_str()]).inc(),
        }
    }

    /// As [`Self::answered`], with the route's series at hand.
    pub fn answered_in(&self, series: &RouteSeries, route: &str, settled: &Settled, took: Duration) {
        if let Some(reason) = settled.reason() {
            self.refusals_total.with_label_values(&[route, reason]).inc();
        }
        let disposition = settled.disposition();
        if let Some((_, total, duration)) = series.answers.iter().find(|(word, _, _)| *word == disposition) {
            total.inc();
            duration.observe(took.as_secs_f64());
        }
    }
}

impl RouteSeries {
    fn new(metrics: &Metrics, route: &str, secrets: usize) -> Self {
        let answers = |word| {
            let labels = [route, word];
            let took = metrics.ack_duration_seconds.with_label_values(&labels);
            (word, metrics.requests_total.with_label_values(&labels), took)
        };
        let secret = |at: usize| metrics.secret_matches_total.with_label_values(&[route, at.to_string().as_str()]);
        Self {
            answers: Settled::DISPOSITIONS.map(answers),
            attempts: Outcome::WORDS.map(|word| (word, metrics.attempts_total.with_label_values(&[route, word]))),
            attempt_duration: metrics.attempt_duration_seconds.with_label_values(&[route]),
            secrets: (0..secrets).map(secret).collect(),
            attempts_in_flight: metrics.attempts_in_flight.with_label_values(&[route]),
            app_up: metrics.app_up.with_label_values(&[route]),
            request_body_bytes: metrics.request_body_bytes.with_label_values(&[route]),
            event_age_seconds: metrics.event_age_seconds.with_label_values(&[route]),
        }
    }

    /// Counts an attempt and how long it took.
    pub fn attempted(&self, outcome: &Outcome, took: Duration) {
        let word = outcome.as_str();
        if let Some((_, attempts)) = self.attempts.iter().find(|(known, _)| *known == word) {
            attempts.inc();
        }
        self.attempt_duration.observe(took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_in_the_series_of_a_route_is_what_its_labels_show_after_a_reload_too() {
        let labels = |secrets| [RouteLabels { name: "r".into(), secrets }];
        let metrics = Metrics::new(&labels(2)).unwrap();
        let before = metrics.series("r");
        metrics.cover(&labels(1));
        let after = metrics.series("r");
        for series in [&before, &after] {
            metrics.secret_matched(series, "r", 1);
            metrics.answered_in(series, "r", &Settled::Duplicate, Duration::ZERO);
            series.attempted(&Outcome::Unreachable(String::new()), Duration::ZERO);
        }
        assert_eq!(metrics.secret_matches_total.with_label_values(&["r", "1"]).get(), 2);
        assert_eq!(metrics.requests_total.with_label_values(&["r", "duplicate"]).get(), 2);
        assert_eq!(metrics.attempts_total.with_label_values(&["r", "unreachable"]).get(), 2);
        assert_eq!(metrics.attempt_duration_seconds.with_label_values(&["r"]).get_sample_count(), 2);
    }
}

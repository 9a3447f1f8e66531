//! The metrics themselves: one public field per metric of the catalogue, in a registry of their own.
//!
//! Label values come from the configuration (`route`, `secret`) and from closed lists, never from a request; every
//! series exists at 0 before the first request. Values are set where things happen, not here, but for the one pair
//! that must never disagree: [`Metrics::answered`].

use std::time::Duration;

use prometheus::{
    Counter, Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
    TextEncoder,
};

use super::catalogue;
use super::maker::Maker;
use super::process::Process;
use super::series::Known;
use crate::domain::outcome::{Outcome, Settled};
use crate::domain::refusal::Refusal;

/// The `route` of requests that no configured route has.
pub const NO_ROUTE: &str = "_none";

/// What metrics need to know of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteLabels {
    /// Its configured name.
    pub name: String,
    /// How many secrets it has; their labels are the positions `0..secrets`.
    pub secrets: usize,
}

/// All metrics of one gateway. Fields are named as in the catalogue; labels are given in the catalogue's order.
pub struct Metrics {
    registry: Registry,
    pub(super) known: Known,
    /// `version`, `revision`.
    pub build_info: IntGaugeVec,
    /// `route`, `disposition`. Counted by [`Metrics::answered`] alone.
    pub requests_total: IntCounterVec,
    /// `route`, `reason`. Counted by [`Metrics::answered`] alone.
    pub refusals_total: IntCounterVec,
    /// `route`, `reason`.
    pub observed_refusals_total: IntCounterVec,
    /// `route`, `secret` (position).
    pub secret_matches_total: IntCounterVec,
    /// `route`.
    pub signed_time_missing_total: IntCounterVec,
    /// `route`, `disposition`; seconds. Observed by [`Metrics::answered`] alone.
    pub ack_duration_seconds: HistogramVec,
    /// `route`; seconds.
    pub ack_budget_seconds: GaugeVec,
    /// `route`.
    pub ack_budget_exceeded_total: IntCounterVec,
    /// `route`; seconds, may be negative.
    pub event_age_seconds: HistogramVec,
    /// `route`; bytes.
    pub request_body_bytes: HistogramVec,
    /// `store`, `result`.
    pub dedup_checks_total: IntCounterVec,
    /// `store`, `op`; seconds.
    pub dedup_duration_seconds: HistogramVec,
    /// `store`; only the configured stores have a series.
    pub dedup_store_up: IntGaugeVec,
    /// Seconds.
    pub dedup_fallback_seconds_total: Counter,
    /// What Redis keeps and what it has yet to hear.
    pub redis: RedisMetrics,
    /// No labels.
    pub dedup_local_marks_dropped_total: IntCounter,
    /// `route`, `outcome`.
    pub attempts_total: IntCounterVec,
    /// `route`; seconds.
    pub attempt_duration_seconds: HistogramVec,
    /// `route`.
    pub attempts_in_flight: IntGaugeVec,
    /// `route`.
    pub possible_duplicates_total: IntCounterVec,
    /// `route`; 1 from the start: an application is taken to be up until it fails.
    pub app_up: IntGaugeVec,
    /// `route`, `state`.
    pub spool_events: IntGaugeVec,
    /// Bytes.
    pub spool_bytes: IntGauge,
    /// Bytes.
    pub spool_capacity_bytes: IntGauge,
    /// Bytes.
    pub spool_disk_free_bytes: IntGauge,
    /// Bytes.
    pub spool_min_free_bytes: IntGauge,
    /// Bytes.
    pub spool_dead_bytes: IntGauge,
    /// Bytes.
    pub spool_dead_capacity_bytes: IntGauge,
    /// `route`; Unix seconds, 0 when nothing is pending.
    pub spool_oldest_event_timestamp_seconds: GaugeVec,
    /// Seconds.
    pub spool_commit_duration_seconds: Histogram,
    /// `op`.
    pub spool_errors_total: IntCounterVec,
    /// No labels.
    pub spool_salvage_files: IntGauge,
    /// `what`.
    pub spool_salvaged_total: IntCounterVec,
    /// `route`.
    pub deliveries_total: IntCounterVec,
    /// `route`, `reason`.
    pub dead_letters_total: IntCounterVec,
    /// `route`.
    pub dead_letter_copies_lost_total: IntCounterVec,
    /// `route`; seconds.
    pub delivery_latency_seconds: HistogramVec,
    /// `route`.
    pub replays_total: IntCounterVec,
    /// Open now.
    pub connections: IntGauge,
    /// Most that may be open.
    pub connections_capacity: IntGauge,
    /// No labels.
    pub connections_turned_away_total: IntCounter,
    /// Requests answered 503 because of their source's bad signatures.
    pub forgers_turned_away_total: IntCounter,
    /// `reason`.
    pub http2_refused_total: IntCounterVec,
    /// `tls_*`.
    pub tls: TlsMetrics,
    /// Bytes in memory now.
    pub buffered_bytes: IntGauge,
    /// Most bytes in memory.
    pub buffered_bytes_capacity: IntGauge,
    /// `use`.
    pub buffered_share_bytes: IntGaugeVec,
    /// `use`.
    pub buffered_full_total: IntCounterVec,
    /// Bytes in memory now.
    pub refused_kept_bytes: IntGauge,
    /// 1 from the start: without a configuration there is no process.
    pub config_last_reload_successful: IntGauge,
    /// Unix seconds.
    pub config_last_reload_timestamp_seconds: Gauge,
    /// `route`; Unix seconds.
    pub secrets_loaded_timestamp_seconds: GaugeVec,
    /// 0 or 1.
    pub clock_suspect: IntGauge,
    /// No labels.
    pub log_lines_dropped_total: IntCounter,
    /// No labels.
    pub http_server_errors_total: IntCounter,
}

/// Metrics of dedup in Redis; each is the catalogue's `dedup_` and its name.
pub struct RedisMetrics {
    /// 0 or 1.
    pub store_evicts: IntGauge,
    /// Marks.
    pub marks_waiting: IntGauge,
    /// Marks and releases.
    pub repairs_pending: IntGauge,
    /// Marks and releases.
    pub repairs_dropped_total: IntCounter,
}

impl RedisMetrics {
    fn new(make: &Maker) -> Result<Self, prometheus::Error> {
        Ok(Self {
            store_evicts: make.gauge("dedup_store_evicts")?,
            marks_waiting: make.gauge("dedup_marks_waiting")?,
            repairs_pending: make.gauge("dedup_repairs_pending")?,
            repairs_dropped_total: make.counter("dedup_repairs_dropped_total")?,
        })
    }
}

/// Metrics of the listener for senders where it speaks TLS.
pub struct TlsMetrics {
    /// `reason`.
    pub handshake_failures_total: IntCounterVec,
    /// `certificate`; Unix seconds.
    pub certificate_not_after_timestamp_seconds: IntGaugeVec,
    /// 1 from the start.
    pub last_reload_successful: IntGauge,
}

impl TlsMetrics {
    fn new(make: &Maker) -> Result<Self, prometheus::Error> {
        Ok(Self {
            handshake_failures_total: make.counters("tls_handshake_failures_total")?,
            certificate_not_after_timestamp_seconds: make.gauges("tls_certificate_not_after_timestamp_seconds")?,
            last_reload_successful: make.gauge("tls_last_reload_successful")?,
        })
    }
}

impl Metrics {
    /// All metrics, with every series of these routes at 0.
    pub fn new(routes: &[RouteLabels]) -> Result<Self, prometheus::Error> {
        let metrics = Self::without_series(Maker { registry: Registry::new() })?;
        metrics.registry.register(Box::new(Process::new()?))?;
        metrics.start_process_wide();
        metrics.cover(routes);
        Ok(metrics)
    }

    fn without_series(make: Maker) -> Result<Self, prometheus::Error> {
        Ok(Self {
            build_info: make.gauges("build_info")?,
            requests_total: make.counters("requests_total")?,
            refusals_total: make.counters("refusals_total")?,
            observed_refusals_total: make.counters("observed_refusals_total")?,
            secret_matches_total: make.counters("secret_matches_total")?,
            signed_time_missing_total: make.counters("signed_time_missing_total")?,
            ack_duration_seconds: make.histograms("ack_duration_seconds")?,
            ack_budget_seconds: make.real_gauges("ack_budget_seconds")?,
            ack_budget_exceeded_total: make.counters("ack_budget_exceeded_total")?,
            event_age_seconds: make.histograms("event_age_seconds")?,
            request_body_bytes: make.histograms("request_body_bytes")?,
            dedup_checks_total: make.counters("dedup_checks_total")?,
            dedup_duration_seconds: make.histograms("dedup_duration_seconds")?,
            dedup_store_up: make.gauges("dedup_store_up")?,
            dedup_fallback_seconds_total: make.real_counter("dedup_fallback_seconds_total")?,
            redis: RedisMetrics::new(&make)?,
            dedup_local_marks_dropped_total: make.counter("dedup_local_marks_dropped_total")?,
            attempts_total: make.counters("attempts_total")?,
            attempt_duration_seconds: make.histograms("attempt_duration_seconds")?,
            attempts_in_flight: make.gauges("attempts_in_flight")?,
            possible_duplicates_total: make.counters("possible_duplicates_total")?,
            app_up: make.gauges("app_up")?,
            spool_events: make.gauges("spool_events")?,
            spool_bytes: make.gauge("spool_bytes")?,
            spool_capacity_bytes: make.gauge("spool_capacity_bytes")?,
            spool_disk_free_bytes: make.gauge("spool_disk_free_bytes")?,
            spool_min_free_bytes: make.gauge("spool_min_free_bytes")?,
            spool_dead_bytes: make.gauge("spool_dead_bytes")?,
            spool_dead_capacity_bytes: make.gauge("spool_dead_capacity_bytes")?,
            spool_oldest_event_timestamp_seconds: make.real_gauges("spool_oldest_event_timestamp_seconds")?,
            spool_commit_duration_seconds: make.histogram("spool_commit_duration_seconds")?,
            spool_errors_total: make.counters("spool_errors_total")?,
            spool_salvage_files: make.gauge("spool_salvage_files")?,
            spool_salvaged_total: make.counters("spool_salvaged_total")?,
            deliveries_total: make.counters("deliveries_total")?,
            dead_letters_total: make.counters("dead_letters_total")?,
            dead_letter_copies_lost_total: make.counters("dead_letter_copies_lost_total")?,
            delivery_latency_seconds: make.histograms("delivery_latency_seconds")?,
            replays_total: make.counters("replays_total")?,
            connections: make.gauge("connections")?,
            connections_capacity: make.gauge("connections_capacity")?,
            connections_turned_away_total: make.counter("connections_turned_away_total")?,
            forgers_turned_away_total: make.counter("forgers_turned_away_total")?,
            http2_refused_total: make.counters("http2_refused_total")?,
            tls: TlsMetrics::new(&make)?,
            buffered_bytes: make.gauge("buffered_bytes")?,
            buffered_bytes_capacity: make.gauge("buffered_bytes_capacity")?,
            buffered_share_bytes: make.gauges("buffered_share_bytes")?,
            buffered_full_total: make.counters("buffered_full_total")?,
            refused_kept_bytes: make.gauge("refused_kept_bytes")?,
            config_last_reload_successful: make.gauge("config_last_reload_successful")?,
            config_last_reload_timestamp_seconds: make.real_gauge("config_last_reload_timestamp_seconds")?,
            secrets_loaded_timestamp_seconds: make.real_gauges("secrets_loaded_timestamp_seconds")?,
            clock_suspect: make.gauge("clock_suspect")?,
            log_lines_dropped_total: make.counter("log_lines_dropped_total")?,
            http_server_errors_total: make.counter("http_server_errors_total")?,
            registry: make.registry,
            known: Known::default(),
        })
    }

    /// Makes every series of these routes exist; values already counted stay. For start and reload. Idempotent.
    pub fn cover(&self, routes: &[RouteLabels]) {
        self.start_request_series(NO_ROUTE);
        for RouteLabels { name, secrets } in routes {
            self.start_request_series(name);
            self.start_event_series(name);
            for position in 0..*secrets {
                self.secret_matches_total.with_label_values(&[name.as_str(), &position.to_string()]);
            }
        }
        self.know(routes);
    }

    /// Takes back what is only true of routes that are configured: whether their application is up. What was counted stays.
    pub fn uncover<'r>(&self, gone: impl Iterator<Item = &'r str>) {
        for route in gone {
            // One that is not there is gone already.
            let _gone = self.app_up.remove_label_values(&[route]);
        }
    }

    /// Counts one answered request: its disposition, its reason if it has one, and how long the reply took from the
    /// request's first byte. Called once per request, by whoever writes the reply.
    pub fn answered(&self, route: &str, settled: &Settled, took: Duration) {
        if let Some(reason) = settled.reason() {
            self.refusals_total.with_label_values(&[route, reason]).inc();
        }
        self.answered_as(route, settled.disposition(), took);
    }

    /// Counts one request that was streamed to the application unverified.
    pub fn passed_through(&self, took: Duration) {
        self.answered_as(NO_ROUTE, "passthrough", took);
    }

    /// The text of `/metrics`.
    #[must_use]
    pub fn render(&self) -> String {
        match TextEncoder::new().encode_to_string(&self.registry.gather()) {
            Ok(text) => text,
            Err(error) => format!("# the metrics could not be written: {error}\n"),
        }
    }

    fn answered_as(&self, route: &str, disposition: &str, took: Duration) {
        self.requests_total.with_label_values(&[route, disposition]).inc();
        self.ack_duration_seconds.with_label_values(&[route, disposition]).observe(took.as_secs_f64());
    }

    fn start_process_wide(&self) {
        let revision = option_env!("HOOKGATE_REVISION").unwrap_or("unknown");
        self.build_info.with_label_values(&[env!("CARGO_PKG_VERSION"), revision]).set(1);
        self.config_last_reload_successful.set(1);
        for store in catalogue::STORES {
            for result in catalogue::DEDUP_RESULTS {
                self.dedup_checks_total.with_label_values(&[store, result]);
            }
            for op in catalogue::DEDUP_OPS {
                self.dedup_duration_seconds.with_label_values(&[store, op]);
            }
        }
        for op in catalogue::SPOOL_OPS {
            self.spool_errors_total.with_label_values(&[op]);
        }
        self.buffered_full_total.with_label_values(&[catalogue::BUFFER_WHOLE]);
        for what in catalogue::BUFFER_SHARES {
            self.buffered_share_bytes.with_label_values(&[what]);
            self.buffered_full_total.with_label_values(&[what]);
        }
        self.tls.last_reload_successful.set(1);
        for reason in catalogue::HTTP2_REFUSALS {
            self.http2_refused_total.with_label_values(&[reason]);
        }
        for reason in catalogue::TLS_FAILURES {
            self.tls.handshake_failures_total.with_label_values(&[reason]);
        }
        for what in catalogue::SALVAGED {
            self.spool_salvaged_total.with_label_values(&[what]);
        }
    }

    fn start_request_series(&self, route: &str) {
        for disposition in Settled::DISPOSITIONS {
            self.requests_total.with_label_values(&[route, disposition]);
            self.ack_duration_seconds.with_label_values(&[route, disposition]);
        }
        for reason in catalogue::refusal_reasons() {
            self.refusals_total.with_label_values(&[route, reason]);
        }
    }

    fn start_event_series(&self, route: &str) {
        let only_route = [
            &self.signed_time_missing_total,
            &self.ack_budget_exceeded_total,
            &self.possible_duplicates_total,
            &self.deliveries_total,
            &self.replays_total,
            &self.dead_letter_copies_lost_total,
        ];
        for counter in only_route {
            counter.with_label_values(&[route]);
        }
        let distributions = [
            &self.event_age_seconds,
            &self.request_body_bytes,
            &self.attempt_duration_seconds,
            &self.delivery_latency_seconds,
        ];
        for histogram in distributions {
            histogram.with_label_values(&[route]);
        }
        for reason in Refusal::ALL {
            self.observed_refusals_total.with_label_values(&[route, reason.as_str()]);
        }
        for outcome in Outcome::WORDS {
            self.attempts_total.with_label_values(&[route, outcome]);
        }
        for reason in catalogue::DEAD_REASONS {
            self.dead_letters_total.with_label_values(&[route, reason]);
        }
        for state in catalogue::SPOOL_STATES {
            self.spool_events.with_label_values(&[route, state]);
        }
        self.start_app_up(route);
        self.attempts_in_flight.with_label_values(&[route]);
        self.spool_oldest_event_timestamp_seconds.with_label_values(&[route]);
    }

    /// Up until it fails; on a reload the present value stays.
    fn start_app_up(&self, route: &str) {
        let attempts = |outcome| self.attempts_total.with_label_values(&[route, outcome]).get();
        if Outcome::WORDS.into_iter().all(|outcome| attempts(outcome) == 0) {
            self.app_up.with_label_values(&[route]).set(1);
        }
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::catalogue::CATALOGUE;
    use super::*;
    use crate::domain::fault::Fault;

    fn metrics() -> Metrics {
        Metrics::new(&[RouteLabels { name: "veedeo".into(), secrets: 2 }]).unwrap()
    }

    #[test]
    fn every_metric_of_the_catalogue_is_there_with_its_type_and_help() {
        let metrics = metrics();
        metrics.ack_budget_seconds.with_label_values(&["veedeo"]).set(30.0);
        metrics.dedup_store_up.with_label_values(&["embedded"]).set(1);
        metrics.secrets_loaded_timestamp_seconds.with_label_values(&["veedeo"]).set(1.0);
        metrics.tls.certificate_not_after_timestamp_seconds.with_label_values(&["tls.crt"]).set(1);
        let text = metrics.render();
        assert!(!CATALOGUE.is_empty());
        for spec in CATALOGUE {
            let kind = format!("# TYPE hookgate_{} {}\n", spec.name, spec.kind.as_str());
            assert!(text.contains(&kind), "{kind} is missing");
            assert!(text.contains(&format!("# HELP hookgate_{} {}\n", spec.name, spec.help)), "{}", spec.name);
        }
        let lines = text.lines().filter(|line| line.starts_with("# TYPE hookgate_")).count();
        assert_eq!(lines, CATALOGUE.len(), "a metric is not in the catalogue");
    }

    #[test]
    fn every_series_exists_at_zero_before_the_first_request() {
        let text = metrics().render();
        for line in [
            r#"hookgate_requests_total{disposition="duplicate",route="veedeo"} 0"#,
            r#"hookgate_requests_total{disposition="refused",route="_none"} 0"#,
            r#"hookgate_refusals_total{reason="signature_mismatch",route="veedeo"} 0"#,
            r#"hookgate_refusals_total{reason="spool_full",route="veedeo"} 0"#,
            r#"hookgate_secret_matches_total{route="veedeo",secret="1"} 0"#,
            r#"hookgate_attempts_total{outcome="timeout",route="veedeo"} 0"#,
            r#"hookgate_dead_letters_total{reason="too_old",route="veedeo"} 0"#,
            r#"hookgate_spool_errors_total{op="damage"} 0"#,
            r#"hookgate_ack_duration_seconds_bucket{disposition="spooled",route="veedeo",le="30"} 0"#,
            r#"hookgate_app_up{route="veedeo"} 1"#,
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line} is missing in\n{text}");
        }
        assert!(!text.contains(r#"secret="2""#));
    }

    #[test]
    fn an_answered_request_has_one_disposition_one_duration_and_its_reason() {
        let metrics = metrics();
        metrics.answered("veedeo", &Settled::Unavailable(Fault::SpoolFull), Duration::from_millis(4));
        metrics.answered("veedeo", &Settled::Spooled, Duration::from_millis(4));
        assert_eq!(metrics.requests_total.with_label_values(&["veedeo", "unavailable"]).get(), 1);
        assert_eq!(metrics.requests_total.with_label_values(&["veedeo", "spooled"]).get(), 1);
        assert_eq!(metrics.refusals_total.with_label_values(&["veedeo", "spool_full"]).get(), 1);
        let took = metrics.ack_duration_seconds.with_label_values(&["veedeo", "unavailable"]);
        assert_eq!(took.get_sample_count(), 1);
    }

    #[test]
    fn traffic_adds_no_series() {
        let metrics = metrics();
        let before = metrics.render().lines().count();
        metrics.answered("veedeo", &Settled::Refused(Refusal::SignatureMismatch), Duration::ZERO);
        metrics.answered(NO_ROUTE, &Settled::Refused(Refusal::NoRoute), Duration::ZERO);
        metrics.passed_through(Duration::ZERO);
        assert_eq!(metrics.render().lines().count(), before);
    }

    #[test]
    fn covering_a_new_route_keeps_what_was_counted() {
        let metrics = metrics();
        metrics.attempts_total.with_label_values(&["veedeo", "failed"]).inc();
        metrics.app_up.with_label_values(&["veedeo"]).set(0);
        let routes = ["veedeo", "github"].map(|name| RouteLabels { name: name.into(), secrets: 1 });
        metrics.cover(&routes);
        assert_eq!(metrics.attempts_total.with_label_values(&["veedeo", "failed"]).get(), 1);
        assert_eq!(metrics.app_up.with_label_values(&["veedeo"]).get(), 0);
        assert_eq!(metrics.app_up.with_label_values(&["github"]).get(), 1);
    }
}

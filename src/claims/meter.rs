//! The metrics of one dedup store, looked up once and not per request. It counts what it is told and knows no store.

use std::time::Instant;

use super::store::{Claimed, StoreFault};
use crate::telemetry::Metrics;

/// The series of one store.
#[derive(Clone, Debug)]
pub(super) struct Meter {
    new: IntCounter,
    duplicate: IntCounter,
    in_flight: IntCounter,
    conflict: IntCounter,
    error: IntCounter,
    claim: Histogram,
    mark: Histogram,
    release: Histogram,
    peek: Histogram,
    forget: Histogram,
}

/// What a store is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Claim,
    Mark,
    Release,
    Peek,
    Forget,
}

impl Meter {
    pub(super) fn new(metrics: &Metrics, store: &str) -> Self {
        let checks = |result| metrics.dedup_checks_total.with_label_values(&[store, result]);
        let duration = |op| metrics.dedup_duration_seconds.with_label_values(&[store, op]);
        Self {
            new: checks("new"),
            duplicate: checks("duplicate"),
            in_flight: checks("in_flight"),
            conflict: checks("conflict"),
            error: checks("error"),
            claim: duration("claim"),
            mark: duration("mark"),
            release: duration("release"),
            peek: duration("peek"),
            forget: duration("forget"),
        }
    }

    /// Counts the answer to a claim, once per claim, at the store that decided it.
    pub(super) fn checked(&self, answer: &Result<Claimed, StoreFault>) {
        match answer {
            Ok(Claimed::New | Claimed::Lapsed | Claimed::Unsure) => self.new.inc(),
            Ok(Claimed::Duplicate) => self.duplicate.inc(),
            Ok(Claimed::InFlight) => self.in_flight.inc(),
            Ok(Claimed::Conflict) => self.conflict.inc(),
            Err(_) => self.error.inc(),
        }
    }

    pub(super) fn took(&self, op: Op, since: Instant) {
        let histogram = match op {
            Op::Claim => &self.claim,
            Op::Mark => &self.mark,
            Op::Release => &self.release,
            Op::Peek => &self.peek,
            Op::Forget => &self.forget,
        };
        histogram.observe(since.elapsed().as_secs_f64());
    }
}

/// The gauge of a configured store; it exists from this call on.
pub(super) fn up(metrics: &Metrics, store: &str) -> IntGauge {
    metrics.dedup_store_up.with_label_values(&[store])
}

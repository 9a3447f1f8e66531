//! The metrics of one dedup store. It counts what it is told and knows no store.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::store::{Claimed, StoreFault};
use crate::telemetry::catalogue::{DEDUP_OPS, DEDUP_RESULTS};
use crate::telemetry::{Histogram, IntCounter, Metrics};

/// The series of one store.
#[derive(Clone, Debug)]
pub(super) struct Meter {
    metrics: Arc<Metrics>,
    store: &'static str,
    checks: [(&'static str, IntCounter); DEDUP_RESULTS.len()],
    /// As [`Op`] has them.
    durations: [Histogram; DEDUP_OPS.len()],
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

impl Op {
    const ALL: [Self; DEDUP_OPS.len()] = [Self::Claim, Self::Mark, Self::Release, Self::Peek, Self::Forget];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Claim => "claim",
            Self::Mark => "mark",
            Self::Release => "release",
            Self::Peek => "peek",
            Self::Forget => "forget",
        }
    }
}

/// Whether a store answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Up {
    Yes,
    No,
}

impl Meter {
    pub(super) fn new(metrics: Arc<Metrics>, store: &'static str) -> Self {
        let checks = DEDUP_RESULTS.map(|it| (it, metrics.dedup_checks_total.with_label_values(&[store, it])));
        let durations = Op::ALL.map(|op| metrics.dedup_duration_seconds.with_label_values(&[store, op.as_str()]));
        Self { metrics, store, checks, durations }
    }

    /// Counts the answer to a claim, once per claim, at the store that decided it.
    pub(super) fn checked(&self, answer: &Result<Claimed, StoreFault>) {
        let result = answer.as_ref().map_or("error", |claimed| claimed.as_str());
        if let Some((_, checks)) = self.checks.iter().find(|(known, _)| *known == result) {
            checks.inc();
        }
    }

    pub(super) fn took(&self, op: Op, since: Instant) {
        if let Some(duration) = self.durations.get(op as usize) {
            duration.observe(since.elapsed().as_secs_f64());
        }
    }

    /// Shows how many marks were found waiting to be told.
    pub(super) fn found_waiting(&self, marks: usize) {
        self.metrics.redis.marks_waiting.set(i64::try_from(marks).unwrap_or(i64::MAX));
    }

    /// Shows how much the shared store has yet to be told.
    pub(super) fn owed(&self, repairs: usize) {
        self.metrics.redis.repairs_pending.set(i64::try_from(repairs).unwrap_or(i64::MAX));
    }

    /// Counts one that it will never be told.
    pub(super) fn gave_up_a_repair(&self) {
        self.metrics.redis.repairs_dropped_total.inc();
    }

    /// Counts time without the shared store.
    pub(super) fn was_down_for(&self, time: Duration) {
        self.metrics.dedup_fallback_seconds_total.inc_by(time.as_secs_f64());
    }

    /// Shows whether the shared store gives up keys.
    pub(super) fn evicts(&self, yes: bool) {
        self.metrics.redis.store_evicts.set(i64::from(yes));
    }

    /// Shows whether the store answers. Only a configured store ever shows it.
    pub(super) fn show(&self, up: Up) {
        let value = match up {
            Up::Yes => 1,
            Up::No => 0,
        };
        self.metrics.dedup_store_up.with_label_values(&[self.store]).set(value);
    }
}

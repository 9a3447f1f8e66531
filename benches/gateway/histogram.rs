//! Latencies counted in buckets that are at most 1.6 % wide: no memory per request, no sorting.
//!
//! Not the histogram of the metrics: that one has few buckets and bounds that people can remember.

use std::time::Duration;

/// 64 buckets an octave, in units of 100 ns.
const BITS: u32 = 6;

#[derive(Clone)]
pub(crate) struct Histogram {
    buckets: Vec<u64>,
    count: u64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self { buckets: vec![0; 64 << BITS], count: 0 }
    }

    pub(crate) fn record(&mut self, took: Duration) {
        let units = u64::try_from(took.as_nanos() / 100).unwrap_or(u64::MAX);
        self.buckets[bucket(units)] += 1;
        self.count += 1;
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Microseconds that this share of the requests took at most.
    pub(crate) fn micros(&self, share: f64) -> f64 {
        let wanted = (self.count as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return middle(index) / 10.0;
            }
        }
        0.0
    }
}

fn bucket(units: u64) -> usize {
    let shift = (units | 1).ilog2().saturating_sub(BITS);
    ((shift as usize) << BITS) + (units >> shift) as usize
}

/// The middle of a bucket, in units.
fn middle(index: usize) -> f64 {
    let octave = (index >> BITS).saturating_sub(1);
    let low = (index - (octave << BITS)) as f64;
    (low + 0.5) * 2f64.powi(i32::try_from(octave).unwrap_or(0)) - if octave == 0 { 0.5 } else { 0.0 }
}

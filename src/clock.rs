//! The one clock: wall time read once at the start and carried on by the monotonic clock, so that a jump of the
//! machine's clock moves no deadline and makes no event stale. Nothing else in the gateway reads wall time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::domain::time::Timestamp;

/// Wall time anchored to the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    anchor: Timestamp,
    started: Instant,
}

impl Clock {
    /// Reads the machine's wall clock, once.
    #[must_use]
    pub fn start() -> Self {
        Self { anchor: machine_time(), started: Instant::now() }
    }

    /// A clock that says `anchor` now; for tests and replays.
    #[must_use]
    pub fn anchored_at(anchor: Timestamp) -> Self {
        Self { anchor, started: Instant::now() }
    }

    /// The moment now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.anchor.plus(self.started.elapsed())
    }

    /// The moment at which a monotonic instant lies.
    #[must_use]
    pub fn at(&self, instant: Instant) -> Timestamp {
        self.anchor.plus(instant.saturating_duration_since(self.started))
    }

    /// Time since the start of the process.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }
}

#[allow(clippy::disallowed_methods, reason = "the one place that reads wall time")]
fn machine_time() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_clock_goes_on_with_the_monotonic_one() {
        let clock = Clock::anchored_at(Timestamp::from_seconds(100));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(clock.now(), Timestamp::from_seconds(105));
    }
}

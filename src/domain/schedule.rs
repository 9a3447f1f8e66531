//! When the next attempt may be made.

use std::time::Duration;

/// The retry schedule of a route.
#[derive(Clone, Debug, PartialEq)]
pub enum Schedule {
    /// `first`, then each time `factor` longer, at most `max`.
    Exponential {
        /// Wait after the first failed attempt.
        first: Duration,
        /// Growth from wait to wait.
        factor: f64,
        /// Longest wait.
        max: Duration,
        /// Whether waits are spread over their upper half, so that many events do not come back at once.
        jitter: Jitter,
        /// Attempts in all, the first one counted.
        attempts: u32,
    },
    /// These waits in turn; attempts in all: one more than waits.
    Listed(Vec<Duration>),
}

/// Whether waits are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Jitter {
    /// Each wait is between half of it and the whole of it.
    Spread,
    /// Each wait is exact.
    Exact,
}

impl Schedule {
    /// The wait after `attempts` attempts have been made, or `None` if that was the last. `chance` is in `0.0..1.0`.
    #[must_use]
    pub fn wait_after(&self, attempts: u32, chance: f64) -> Option<Duration> {
        match self {
            Self::Exponential { first, factor, max, jitter, attempts: most } => {
                if attempts >= *most {
                    return None;
                }
                let exponent = i32::try_from(attempts.saturating_sub(1)).unwrap_or(i32::MAX);
                let grown = first.as_secs_f64() * factor.powi(exponent);
                let wait = grown.min(max.as_secs_f64());
                Some(Duration::from_secs_f64(match jitter {
                    Jitter::Spread => wait * 0.5f64.mul_add(chance, 0.5),
                    Jitter::Exact => wait,
                }))
            }
            Self::Listed(waits) => {
                let index = usize::try_from(attempts.saturating_sub(1)).unwrap_or(usize::MAX);
                waits.get(index).copied()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exponential(jitter: Jitter) -> Schedule {
        Schedule::Exponential {
            first: Duration::from_secs(1),
            factor: 2.0,
            max: Duration::from_secs(300),
            jitter,
            attempts: 20,
        }
    }

    #[test]
    fn waits_double_up_to_the_longest_and_end_after_the_last_attempt() {
        let schedule = exponential(Jitter::Exact);
        assert_eq!(schedule.wait_after(1, 0.0), Some(Duration::from_secs(1)));
        assert_eq!(schedule.wait_after(4, 0.0), Some(Duration::from_secs(8)));
        assert_eq!(schedule.wait_after(19, 0.0), Some(Duration::from_secs(300)));
        assert_eq!(schedule.wait_after(20, 0.0), None);
    }

    #[test]
    fn jitter_keeps_between_half_and_the_whole_wait() {
        let schedule = exponential(Jitter::Spread);
        assert_eq!(schedule.wait_after(2, 0.0), Some(Duration::from_secs(1)));
        assert!(schedule.wait_after(2, 0.999).is_some_and(|w| w > Duration::from_millis(1990)));
    }

    #[test]
    fn a_list_gives_each_wait_once() {
        let schedule = Schedule::Listed(vec![Duration::from_secs(30), Duration::from_secs(120)]);
        assert_eq!(schedule.wait_after(1, 0.5), Some(Duration::from_secs(30)));
        assert_eq!(schedule.wait_after(2, 0.5), Some(Duration::from_secs(120)));
        assert_eq!(schedule.wait_after(3, 0.5), None);
    }
}

//! The circuit breaker of one application address: after enough failures in a row it stops attempts, and lets one
//! probe through at a time until one succeeds. Moments are durations since the owner's start; no clock is read here.

use std::time::Duration;

/// When to open and how often to probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerPolicy {
    /// Failures in a row that open it.
    pub failures: u32,
    /// Time between probes while open.
    pub probe_every: Duration,
}

/// One breaker. The owner serialises access.
#[derive(Debug)]
pub struct Breaker {
    policy: BreakerPolicy,
    failures: u32,
    next_probe: Option<Duration>,
}

/// What the breaker says to an attempt that wants to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    /// Go.
    Go,
    /// Not before this moment.
    Wait(Duration),
}

impl Breaker {
    /// A closed breaker.
    #[must_use]
    pub const fn new(policy: BreakerPolicy) -> Self {
        Self { policy, failures: 0, next_probe: None }
    }

    /// Asks to start an attempt at `now`. While open, one attempt per `probe_every` gets [`Permit::Go`].
    pub fn ask(&mut self, now: Duration) -> Permit {
        match self.next_probe {
            None => Permit::Go,
            Some(at) if now >= at => {
                self.next_probe = Some(now + self.policy.probe_every);
                Permit::Go
            }
            Some(at) => Permit::Wait(at),
        }
    }

    /// Whether the application is considered up.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.next_probe.is_none()
    }

    /// The application answered as it should, or rejected one event: it is up.
    pub const fn succeeded(&mut self) {
        self.failures = 0;
        self.next_probe = None;
    }

    /// The probe that was let through at `now` was not sent: the next one is due at once.
    pub fn probe_unused(&mut self, now: Duration) {
        if self.next_probe.is_some() {
            self.next_probe = Some(now);
        }
    }

    /// An attempt that ended at `now` failed.
    pub fn failed(&mut self, now: Duration) {
        self.failures = self.failures.saturating_add(1);
        // A probe that is due stays due: failures that come by another way must not put it off for ever.
        if self.failures >= self.policy.failures && self.next_probe.is_none() {
            self.next_probe = Some(now + self.policy.probe_every);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: BreakerPolicy = BreakerPolicy { failures: 2, probe_every: Duration::from_secs(5) };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn it_opens_after_the_failures_and_lets_one_probe_through_at_a_time() {
        let mut breaker = Breaker::new(POLICY);
        breaker.failed(at(0));
        assert_eq!(breaker.ask(at(0)), Permit::Go);
        breaker.failed(at(0));
        assert!(!breaker.is_closed());
        assert_eq!(breaker.ask(at(4)), Permit::Wait(at(5)));
        assert_eq!(breaker.ask(at(5)), Permit::Go);
        assert_eq!(breaker.ask(at(5)), Permit::Wait(at(10)));
    }

    #[test]
    fn one_success_closes_it() {
        let mut breaker = Breaker::new(POLICY);
        breaker.failed(at(0));
        breaker.failed(at(0));
        breaker.succeeded();
        assert!(breaker.is_closed());
        assert_eq!(breaker.ask(at(0)), Permit::Go);
    }

    #[test]
    fn failures_that_come_by_another_way_do_not_put_the_probe_off() {
        let mut breaker = Breaker::new(POLICY);
        for second in 0..20 {
            breaker.failed(at(second));
        }
        assert_eq!(breaker.ask(at(20)), Permit::Go);
        breaker.probe_unused(at(20));
        assert_eq!(breaker.ask(at(20)), Permit::Go, "a probe that was not sent is due at once");
    }
}

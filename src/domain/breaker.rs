//! The circuit breaker of one application address: after enough failures in a row it stops attempts, and lets one
//! probe through at a time until one succeeds. Moments are durations since the owner's start; no clock is read here.
//!
//! It tells an application that is down from an event that is poison. Who failed since the last success is a suspect.
//! While there are fewer suspects than failures that open it, only the suspects are held back: one event that can never
//! succeed does not take the application away from the others. A refused connection is nobody's but the application's:
//! it counts against all.

use std::collections::HashSet;
use std::time::Duration;

use super::event::EventId;

/// Events whose failures are remembered: 16 KiB a set. What comes on top is not told from one that never failed, which
/// costs order among attempts.
const REMEMBERED: usize = 1024;

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
    /// Failures in a row that were no event's doing.
    absences: u32,
    suspects: HashSet<EventId>,
    /// Events whose last attempt failed, whatever succeeded since. It decides the order of attempts alone.
    failed: HashSet<EventId>,
    open: Option<Open>,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    next_probe: Duration,
    /// When the probe that runs began.
    probing: Option<Duration>,
}

/// What the breaker says to an attempt that wants to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    /// Go.
    Go,
    /// Go, as the one probe. To be given back by [`Breaker::probe_ended`] or [`Breaker::probe_unused`] with this moment.
    Probe(Duration),
    /// Not before this moment.
    Wait(Duration),
}

/// Whose doing a failure may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The application's or the event's.
    Either,
    /// The application's alone: it took no connection.
    Application,
}

impl Breaker {
    /// A closed breaker.
    #[must_use]
    pub fn new(policy: BreakerPolicy) -> Self {
        Self { policy, failures: 0, absences: 0, suspects: HashSet::new(), failed: HashSet::new(), open: None }
    }

    /// Goes on by another policy.
    pub const fn follow(&mut self, policy: BreakerPolicy) {
        self.policy = policy;
    }

    /// Asks to start an attempt of `event` at `now`. While open, one attempt at a time gets [`Permit::Probe`], at most one
    /// every `probe_every`.
    pub fn ask(&mut self, event: EventId, now: Duration) -> Permit {
        if let Some(until) = self.wait(event, now) {
            return Permit::Wait(until);
        }
        if self.lets_through(event) {
            return Permit::Go;
        }
        self.open = Some(Open { next_probe: now + self.policy.probe_every, probing: Some(now) });
        Permit::Probe(now)
    }

    /// The moment before which an attempt of `event` would be told to wait, if there is one. Changes nothing.
    #[must_use]
    pub fn wait(&self, event: EventId, now: Duration) -> Option<Duration> {
        let open = self.open.filter(|_| !self.lets_through(event))?;
        match open.probing {
            Some(_) if open.next_probe <= now => Some(now + self.policy.probe_every),
            None if open.next_probe <= now => None,
            Some(_) | None => Some(open.next_probe),
        }
    }

    fn lets_through(&self, event: EventId) -> bool {
        self.is_closed() || (!self.is_open_for_all() && !self.suspects.contains(&event))
    }

    /// Whether the application is considered up.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.open.is_none()
    }

    /// Whether the last attempt of `event` failed, as far as that is remembered.
    #[must_use]
    pub fn has_failed(&self, event: EventId) -> bool {
        self.failed.contains(&event)
    }

    /// Whether any event is known to have failed.
    #[must_use]
    pub fn knows_failures(&self) -> bool {
        !self.failed.is_empty()
    }

    /// The application answered `event` as it should, or rejected it: it is up.
    pub fn succeeded(&mut self, event: EventId) {
        (self.failures, self.absences, self.open) = (0, 0, None);
        // Nearly always there are none, and an event need not be looked for.
        if !self.failed.is_empty() {
            self.suspects.clear();
            self.failed.remove(&event);
        }
    }

    /// The probe that began at `began` has ended; what came of it was said before.
    pub fn probe_ended(&mut self, began: Duration) {
        if let Some(open) = self.open.as_mut().filter(|open| open.probing == Some(began)) {
            open.probing = None;
        }
    }

    /// The probe that was let through at `began` was not sent: the next one is due at once.
    pub fn probe_unused(&mut self, began: Duration) {
        if let Some(open) = self.open.as_mut().filter(|open| open.probing == Some(began)) {
            *open = Open { next_probe: began, probing: None };
        }
    }

    /// An attempt of `event` that ended at `now` failed.
    pub fn failed(&mut self, event: EventId, blame: Blame, now: Duration) {
        self.failures = self.failures.saturating_add(1);
        if blame == Blame::Application {
            self.absences = self.absences.saturating_add(1);
        }
        if self.suspects.len() < REMEMBERED {
            self.suspects.insert(event);
        }
        if self.failed.len() >= REMEMBERED {
            // Among them are some that are long dead.
            self.failed.clear();
        }
        self.failed.insert(event);
        // A probe that is due stays due: failures that come by another way must not put it off for ever.
        if self.failures >= self.policy.failures && self.open.is_none() {
            self.open = Some(Open { next_probe: now + self.policy.probe_every, probing: None });
        }
    }

    fn is_open_for_all(&self) -> bool {
        let most = self.policy.failures;
        let suspects = u32::try_from(self.suspects.len()).unwrap_or(u32::MAX);
        self.absences >= most || suspects >= most.min(u32::try_from(REMEMBERED).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::time::Timestamp;

    const POLICY: BreakerPolicy = BreakerPolicy { failures: 2, probe_every: Duration::from_secs(5) };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn event(number: u32) -> EventId {
        EventId::new(Timestamp::from_seconds(1), u128::from(number) << 64)
    }

    fn down() -> Breaker {
        let mut breaker = Breaker::new(POLICY);
        breaker.failed(event(1), Blame::Either, at(0));
        assert_eq!(breaker.ask(event(2), at(0)), Permit::Go);
        breaker.failed(event(2), Blame::Either, at(0));
        assert!(!breaker.is_closed());
        breaker
    }

    #[test]
    fn it_opens_after_the_failures_and_lets_one_probe_through_at_a_time() {
        let mut breaker = down();
        assert_eq!(breaker.ask(event(3), at(4)), Permit::Wait(at(5)));
        assert_eq!(breaker.ask(event(3), at(5)), Permit::Probe(at(5)));
        assert_eq!(breaker.ask(event(4), at(5)), Permit::Wait(at(10)));
        assert_eq!(breaker.ask(event(4), at(11)), Permit::Wait(at(16)), "the first is still under way");
        breaker.failed(event(3), Blame::Either, at(12));
        breaker.probe_ended(at(5));
        assert_eq!(breaker.ask(event(4), at(12)), Permit::Probe(at(12)));
    }

    #[test]
    fn one_success_closes_it() {
        let mut breaker = down();
        breaker.succeeded(event(8));
        assert!(breaker.is_closed());
        assert_eq!(breaker.ask(event(1), at(0)), Permit::Go);
        breaker.failed(event(1), Blame::Either, at(1));
        assert!(breaker.is_closed(), "and it counts anew");
    }

    #[test]
    fn failures_that_come_by_another_way_do_not_put_the_probe_off() {
        let mut breaker = down();
        for second in 0..20 {
            breaker.failed(event(1), Blame::Either, at(second));
        }
        assert_eq!(breaker.ask(event(1), at(20)), Permit::Probe(at(20)));
        breaker.probe_unused(at(20));
        assert_eq!(breaker.ask(event(1), at(20)), Permit::Probe(at(20)), "a probe that was not sent is due at once");
    }

    #[test]
    fn one_event_that_always_fails_holds_back_nobody_but_itself() {
        let mut breaker = Breaker::new(POLICY);
        assert!(!breaker.knows_failures());
        (0..9).for_each(|second| breaker.failed(event(1), Blame::Either, at(second)));
        assert_eq!(breaker.ask(event(2), at(1)), Permit::Go);
        assert_eq!(breaker.ask(event(1), at(1)), Permit::Wait(at(6)), "it is tried at the pace of probes");
        breaker.failed(event(2), Blame::Either, at(2));
        assert_eq!(breaker.ask(event(3), at(2)), Permit::Wait(at(6)), "two that fail are enough");
        breaker.succeeded(event(1));
        assert!(!breaker.has_failed(event(1)) && breaker.has_failed(event(2)), "what failed is asked last");
    }

    #[test]
    fn an_application_that_takes_no_connection_is_down_whoever_asks() {
        let mut breaker = Breaker::new(POLICY);
        (0..2).for_each(|_| breaker.failed(event(1), Blame::Application, at(0)));
        assert_eq!(breaker.ask(event(2), at(1)), Permit::Wait(at(5)));
    }

    #[test]
    fn the_end_of_an_old_probe_is_not_the_end_of_another() {
        let mut breaker = down();
        assert_eq!(breaker.ask(event(3), at(5)), Permit::Probe(at(5)));
        breaker.succeeded(event(8));
        (1..3).for_each(|number| breaker.failed(event(number), Blame::Either, at(6)));
        assert_eq!(breaker.ask(event(3), at(11)), Permit::Probe(at(11)));
        breaker.probe_ended(at(5));
        assert_eq!(breaker.ask(event(4), at(12)), Permit::Wait(at(16)));
    }

    #[test]
    fn a_probe_that_takes_long_is_waited_for_from_the_moment_the_next_is_due() {
        let mut breaker = down();
        assert_eq!(breaker.ask(event(3), at(5)), Permit::Probe(at(5)));
        assert_eq!(breaker.ask(event(4), at(9)), Permit::Wait(at(10)));
        assert_eq!(breaker.ask(event(4), at(10)), Permit::Wait(at(15)), "a moment that has come is none to wait for");
    }

    #[test]
    fn an_old_probe_that_was_not_sent_is_not_another_one() {
        let mut breaker = down();
        assert_eq!(breaker.ask(event(3), at(5)), Permit::Probe(at(5)));
        breaker.succeeded(event(8));
        (1..3).for_each(|number| breaker.failed(event(number), Blame::Either, at(6)));
        assert_eq!(breaker.ask(event(3), at(11)), Permit::Probe(at(11)));
        breaker.probe_unused(at(5));
        assert_eq!(breaker.ask(event(4), at(12)), Permit::Wait(at(16)));
    }

    #[test]
    fn as_many_events_are_remembered_as_there_is_room_for_and_then_they_are_down_together() {
        let mut breaker = Breaker::new(BreakerPolicy { failures: 1030, ..POLICY });
        (0..1024).for_each(|number| breaker.failed(event(number), Blame::Either, at(0)));
        assert!(breaker.has_failed(event(0)) && breaker.has_failed(event(1023)));
        (1024..1029).for_each(|number| breaker.failed(event(number), Blame::Either, at(0)));
        assert!(!breaker.has_failed(event(0)) && breaker.has_failed(event(1028)), "the old ones made room");
        assert_eq!((breaker.suspects.len(), breaker.failed.len()), (1024, 5));
        assert_eq!(breaker.ask(event(1028), at(0)), Permit::Go, "it is not open yet");
        breaker.failed(event(1029), Blame::Either, at(0));
        assert_eq!(breaker.ask(event(5000), at(0)), Permit::Wait(at(5)), "no more suspects can be had");
    }

    #[test]
    fn refused_connections_are_counted_apart_and_from_the_last_success_on() {
        let mut breaker = Breaker::new(POLICY);
        breaker.failed(event(1), Blame::Application, at(0));
        breaker.succeeded(event(1));
        assert!(!breaker.knows_failures());
        breaker.failed(event(1), Blame::Application, at(0));
        breaker.failed(event(1), Blame::Either, at(0));
        assert!(breaker.knows_failures());
        assert_eq!(breaker.ask(event(2), at(0)), Permit::Go, "one refused connection is not two");
        breaker.failed(event(1), Blame::Application, at(0));
        assert_eq!(breaker.ask(event(2), at(0)), Permit::Wait(at(5)));
    }
}

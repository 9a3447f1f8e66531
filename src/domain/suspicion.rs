//! Whether it is our clock that is wrong, and not the senders' requests: validly signed requests whose times are all
//! off by about the same can only come from many senders at once being wrong, or from us.

use std::collections::VecDeque;
use std::time::Duration;

use super::time::Timestamp;

/// How many different requests must be off alike before the clock is suspected.
const ALIKE: usize = 5;

/// How far apart their offsets may lie: what retries and transport spread.
const SPREAD: Duration = Duration::from_secs(60);

/// How long a suspicion is told of: senders that are quiet for longer do not bear it out.
const TOLD: Duration = Duration::from_secs(15 * 60);

/// The last validly signed requests whose time was refused, since one was fresh. Bounded by `ALIKE`.
#[derive(Debug, Default)]
pub struct ClockWatch {
    off: VecDeque<Off>,
    /// When the clock was last blamed.
    blamed: Option<Timestamp>,
}

#[derive(Debug)]
struct Off {
    signed: [u8; 32],
    offset_millis: i64,
}

/// Whose fault a refused time is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The request's.
    Request,
    /// Our clock's, as far as can be told.
    Clock,
}

impl ClockWatch {
    /// A validly signed request was fresh: the clock is right.
    pub fn fresh(&mut self) {
        self.off.clear();
        self.blamed = None;
    }

    /// A validly signed request with this digest of what was signed of it said `time` and was refused for it at `now`. The
    /// same counts once, however often it comes: a captured request that is sent again and again proves nothing.
    pub fn refused(&mut self, signed: [u8; 32], time: Timestamp, now: Timestamp) -> Blame {
        let offset_millis = now.millis().saturating_sub(time.millis());
        if !self.off.iter().any(|off| off.signed == signed) {
            if self.off.len() == ALIKE {
                self.off.pop_front();
            }
            self.off.push_back(Off { signed, offset_millis });
        }
        let offsets = || self.off.iter().map(|off| off.offset_millis).chain(std::iter::once(offset_millis));
        let (least, most) = (offsets().min().unwrap_or_default(), offsets().max().unwrap_or_default());
        let spread = u128::from(most.abs_diff(least));
        if self.off.len() < ALIKE || spread > SPREAD.as_millis() {
            return Blame::Request;
        }
        self.blamed = Some(now);
        Blame::Clock
    }

    /// Whether the clock was blamed not long before `now`, and no fresh request has come since.
    #[must_use]
    pub fn is_suspected(&self, now: Timestamp) -> bool {
        self.blamed.is_some_and(|blamed| now.since(blamed) < TOLD)
    }

    /// Whether anything was refused since the last fresh request.
    #[must_use]
    pub fn is_calm(&self) -> bool {
        self.off.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(seconds)
    }

    fn text(n: i64) -> [u8; 32] {
        [u8::try_from(n).expect("a small number"); 32]
    }

    #[test]
    fn five_different_requests_off_alike_put_the_blame_on_the_clock() {
        let mut watch = ClockWatch::default();
        for n in 0..4 {
            assert_eq!(watch.refused(text(n), at(n), at(3600 + n)), Blame::Request);
        }
        assert_eq!(watch.refused(text(4), at(4), at(3604)), Blame::Clock);
        assert_eq!(watch.refused(text(5), at(5), at(3605)), Blame::Clock);
        assert_eq!(watch.refused(text(6), at(6), at(9000)), Blame::Request, "off by something else");
    }

    #[test]
    fn one_request_again_and_again_and_different_offsets_prove_nothing() {
        let mut watch = ClockWatch::default();
        for n in 0..20 {
            assert_eq!(watch.refused(text(0), at(0), at(3600 + n)), Blame::Request);
        }
        let mut watch = ClockWatch::default();
        for n in 0..20 {
            assert_eq!(watch.refused(text(n), at(n), at(3600 + 100 * n)), Blame::Request);
        }
    }

    #[test]
    fn a_suspicion_that_nobody_bears_out_is_told_of_for_a_quarter_of_an_hour() {
        let mut watch = ClockWatch::default();
        for n in 0..5 {
            assert!(!watch.is_suspected(at(3600 + n)));
            watch.refused(text(n), at(n), at(3600 + n));
        }
        assert!(watch.is_suspected(at(3604 + 899)) && !watch.is_suspected(at(3604 + 900)));
        assert_eq!(watch.refused(text(6), at(2000), at(5600)), Blame::Clock, "it is not forgotten");
        assert!(watch.is_suspected(at(5600)));
        watch.fresh();
        assert!(!watch.is_suspected(at(5600)));
    }

    #[test]
    fn one_fresh_request_clears_the_clock() {
        let mut watch = ClockWatch::default();
        for n in 0..5 {
            watch.refused(text(n), at(n), at(3600 + n));
        }
        watch.fresh();
        assert!(watch.is_calm());
        assert_eq!(watch.refused(text(9), at(9), at(3609)), Blame::Request);
    }
}

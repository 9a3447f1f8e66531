//! The wall clock, the environment and the only waits of these tests. Every wait looks for a condition and has a
//! deadline.

use std::time::{Duration, Instant};

/// Long enough for anything that should happen at once, on a busy machine too.
pub(crate) const SOON: Duration = Duration::from_secs(15);

/// Seconds since the Unix epoch.
pub(crate) fn now_unix() -> i64 {
    now_millis() / 1000
}

/// Milliseconds since the Unix epoch.
#[allow(clippy::disallowed_methods, reason = "the senders of these tests live in real time")]
pub(crate) fn now_millis() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock after 1970");
    i64::try_from(since.as_millis()).expect("a clock before the year 292277026")
}

/// RFC 3339 in UTC with whole seconds, `offset` seconds from now.
pub(crate) fn rfc3339(offset: i64) -> String {
    jiff::Timestamp::from_second(now_unix() + offset).expect("a moment of the calendar").to_string()
}

/// A variable of the test run's environment.
#[allow(clippy::disallowed_methods, reason = "how long and with which seed to run is told by the environment")]
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Lets `time` pass. For pauses that are part of the story; for conditions use [`eventually`].
#[allow(clippy::disallowed_methods, reason = "the gateway under test is a real process in real time")]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Looks until there is something, for at most `within`; fails with `what` it was waiting for.
pub(crate) fn eventually<T>(what: &str, within: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {within:?} in vain: {what}");
        pause(Duration::from_millis(10));
    }
}

/// Looks during the whole of `time`; fails with `what` as soon as it does not hold.
pub(crate) fn always(what: &str, time: Duration, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + time;
    while Instant::now() < deadline {
        assert!(holds(), "did not hold: {what}");
        pause(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_when_its_condition_holds() {
        let mut looks = 0;
        let found = eventually("three looks", SOON, || {
            looks += 1;
            (looks == 3).then_some("found")
        });
        assert_eq!((found, looks), ("found", 3));
    }

    #[test]
    #[should_panic(expected = "waited 20ms in vain: godot")]
    fn a_wait_in_vain_names_what_did_not_come() {
        eventually::<()>("godot", Duration::from_millis(20), || None);
    }

    #[test]
    #[should_panic(expected = "did not hold: calm")]
    fn a_condition_that_breaks_is_noticed() {
        let mut looks = 0;
        always("calm", SOON, || {
            looks += 1;
            looks < 3
        });
    }

    #[test]
    fn moments_are_written_as_the_senders_write_them() {
        assert!(rfc3339(0).ends_with('Z') && rfc3339(0).len() == "2025-01-17T10:00:00Z".len());
    }
}

//! An alarm for what must be done by a moment: a body sent, a reply taken. It costs nothing until something is waited
//! for, and it decides nothing but that the time is up.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep_until};

/// An alarm that is set by the first wait and rings once for all that follow, until it is cleared.
#[derive(Default)]
pub(super) struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Passes on what is there; what is not there when the alarm rings has timed out. `by` sets an alarm that is not set.
    pub(super) fn bound<T>(
        &mut self,
        cx: &mut Context<'_>,
        by: impl FnOnce() -> Instant,
        progress: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            return progress;
        }
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(by())));
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// What was waited for is done.
    pub(super) fn clear(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(3);

    async fn wait_on(alarm: &mut Alarm) -> Duration {
        let from = Instant::now();
        let by = || Instant::now() + LIMIT;
        let outcome = poll_fn(|cx| alarm.bound(cx, by, Poll::<io::Result<()>>::Pending)).await;
        assert_eq!(outcome.expect_err("nothing came").kind(), io::ErrorKind::TimedOut);
        from.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_wait_sets_it_and_progress_in_between_does_not_put_it_off() {
        let mut alarm = Alarm::default();
        let by = || Instant::now() + LIMIT;
        poll_fn(|cx| Poll::Ready(alarm.bound(cx, by, Poll::<io::Result<()>>::Pending).is_pending())).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let passed = poll_fn(|cx| alarm.bound(cx, by, Poll::Ready(Ok(7)))).await;
        assert_eq!(passed.expect("progress passes"), 7);
        assert!(wait_on(&mut alarm).await < Duration::from_secs(2), "one second was left");
        assert_eq!(wait_on(&mut alarm).await, Duration::ZERO, "it goes on ringing");
        alarm.clear();
        assert!(wait_on(&mut alarm).await >= LIMIT, "cleared, it begins anew");
    }
}

//! A timeout that is hardly ever reached. It knows nothing of what is waited for.
//!
//! Where somebody else sees to it that what waits is polled again in time, its timer is set by the second look in vain and
//! not by the first: an answer nearly always comes between the two, and a timer that is set and cleared for nothing costs
//! more than most of what is done beside it.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep_until};

/// How long to wait.
pub(super) struct Patience {
    until: Instant,
    /// Whether the next look in vain needs no timer.
    seen_to: bool,
    /// Boxed: most need none.
    timer: Option<Pin<Box<Sleep>>>,
}

/// The time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IsOver;

impl Patience {
    /// Until a moment. `seen_to`: whoever waits polls again by then, whatever happens.
    pub(super) fn new(until: Instant, seen_to: bool) -> Self {
        Self { until, seen_to, timer: None }
    }

    /// What `work` gives, if it comes in time.
    ///
    /// What is waited for stays where it is pinned: handed over, it would be moved once more.
    pub(super) fn wait_for<W: Future + Unpin>(
        mut self,
        mut work: W,
    ) -> impl Future<Output = Result<W::Output, IsOver>> {
        std::future::poll_fn(move |cx| match Pin::new(&mut work).poll(cx) {
            Poll::Ready(done) => Poll::Ready(Ok(done)),
            Poll::Pending => self.poll_over(cx).map(Err),
        })
    }

    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<IsOver> {
        if std::mem::take(&mut self.seen_to) {
            return Poll::Pending;
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(self.until)));
        timer.as_mut().poll(cx).map(|()| IsOver)
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn};
    use std::pin::pin;
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn what_comes_in_time_comes_through_and_what_does_not_is_over_at_the_moment() {
        let from = Instant::now();
        for seen_to in [false, true] {
            let came = Patience::new(from + 3600 * SECOND, seen_to).wait_for(pin!(async { 7 })).await;
            assert_eq!(came, Ok(7));
        }
        let slow = Patience::new(from + 2 * SECOND, false).wait_for(pin!(tokio::time::sleep(SECOND))).await;
        assert_eq!(slow, Ok(()));
        assert_eq!(from.elapsed(), SECOND);
        assert_eq!(Patience::new(from + 3 * SECOND, false).wait_for(pending::<()>()).await, Err(IsOver));
        assert_eq!(from.elapsed(), 3 * SECOND);
    }

    /// Polls once and says what came.
    async fn poll_once<T>(future: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
        let mut future = future;
        poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
    }

    #[tokio::test(start_paused = true)]
    async fn where_it_is_seen_to_the_second_look_sets_the_timer_for_the_same_moment() {
        let from = Instant::now();
        let mut wait = pin!(Patience::new(from + 5 * SECOND, true).wait_for(pending::<()>()));
        assert!(poll_once(wait.as_mut()).await.is_pending());
        tokio::time::sleep(SECOND).await;
        assert!(poll_once(wait.as_mut()).await.is_pending());
        assert_eq!(wait.await, Err(IsOver));
        assert_eq!(from.elapsed(), 5 * SECOND);
        let mut late = pin!(Patience::new(from + 6 * SECOND, true).wait_for(pending::<()>()));
        assert!(poll_once(late.as_mut()).await.is_pending());
        tokio::time::sleep(9 * SECOND).await;
        assert_eq!(poll_once(late.as_mut()).await, Poll::Ready(Err(IsOver)), "a look that comes late sees it at once");
    }
}

//! Work that is begun where it is asked for and ends whatever becomes of who asked. It knows nothing of deliveries.

use std::pin::Pin;
use std::task::Context;

use tokio::runtime::Handle;

/// Work that is polled by who wants its first results, and that a task of its own takes over when this is dropped. Most
/// work is done by then, and costs no task.
pub(super) struct Detached(Option<Pin<Box<dyn Future<Output = ()> + Send>>>);

impl Detached {
    pub(super) fn new(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(Some(Box::pin(work)))
    }

    /// Does what can be done now.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) {
        // Taken out meanwhile: work that panics is over, and not handed to a task.
        let Some(mut work) = self.0.take() else { return };
        if work.as_mut().poll(cx).is_pending() {
            self.0 = Some(work);
        }
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        // Without a runtime the process is ending, and tasks with it.
        if let (Some(work), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            drop(runtime.spawn(work));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::task::Poll;
    use std::time::Duration;

    use tokio::sync::Notify;
    use tokio::time::sleep;

    use super::*;

    async fn poll_once(work: &mut Detached) {
        poll_fn(|cx| {
            work.poll(cx);
            Poll::Ready(())
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn work_goes_on_when_nobody_waits_for_it_any_more() {
        let done = Arc::new(Notify::new());
        let told = done.clone();
        let mut work = Detached::new(async move {
            sleep(Duration::from_secs(1)).await;
            told.notify_one();
        });
        poll_once(&mut work).await;
        drop(work);
        tokio::time::timeout(Duration::from_secs(2), done.notified()).await.expect("it was done");
    }

    #[tokio::test]
    async fn work_that_is_done_is_not_touched_again() {
        let mut work = Detached::new(async {});
        for _ in 0..2 {
            poll_once(&mut work).await;
        }
        assert!(work.0.is_none());
    }
}

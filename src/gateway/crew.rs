//! The threads that serve senders. Each has a runtime of its own, accepts connections and polls them alone: a request, what it
//! waits for and the application's answer stay on one core, and nobody wakes anybody else. It knows nothing of what a
//! connection says.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Threads that serve connections. Cloning shares them.
#[derive(Clone)]
pub struct Crew(Arc<Inner>);

struct Inner {
    hands: Vec<Arc<Hand>>,
    dismissed: watch::Sender<bool>,
}

/// One thread.
pub(super) struct Hand {
    runtime: Handle,
    /// How many connections it serves.
    serves: AtomicUsize,
}

impl Crew {
    /// Nobody: connections are served by the runtime that accepts them, as a run in virtual time needs it.
    #[must_use]
    pub fn nobody() -> Self {
        Self(Arc::new(Inner { hands: Vec::new(), dismissed: watch::channel(false).0 }))
    }

    /// Starts so many threads; 0: one per core.
    pub fn start(threads: usize) -> io::Result<Self> {
        let cores = || thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = if threads == 0 { cores() } else { threads };
        let dismissed = watch::channel(false).0;
        let hands = (0..threads).map(|_| Hand::start(dismissed.subscribe())).collect::<io::Result<_>>()?;
        Ok(Self(Arc::new(Inner { hands, dismissed })))
    }

    /// All of them.
    pub(super) fn hands(&self) -> &[Arc<Hand>] {
        &self.0.hands
    }

    /// Has a connection that `here` accepted, or no thread of these, served as `visit` does: by who accepted it, or by who serves
    /// the fewest if that is far less.
    pub(super) fn take_on<V>(
        &self,
        here: Option<&Arc<Hand>>,
        stream: TcpStream,
        visit: impl FnOnce(TcpStream) -> V + Send + 'static,
    ) where
        V: Future<Output = ()> + Send + 'static,
    {
        let Some(least) = self.0.hands.iter().min_by_key(|hand| hand.serves()) else {
            return drop(tokio::spawn(visit(stream)));
        };
        if let Some(here) = here.filter(|here| !here.has_too_many(least)) {
            let served = Served::count(here);
            // Begun in there: a future that is moved in would have its room twice for as long as the connection lasts.
            drop(tokio::spawn(async move {
                visit(stream).await;
                drop(served);
            }));
            return;
        }
        let served = Served::count(least);
        // Given up by the runtime that accepted it.
        let stream = stream.into_std();
        drop(least.runtime.spawn(async move {
            match stream.and_then(TcpStream::from_std) {
                Ok(stream) => visit(stream).await,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be handed to the thread that was to serve it");
                }
            }
            drop(served);
        }));
    }

    /// Ends the threads, and with them what they still serve.
    pub fn dismiss(&self) {
        self.0.dismissed.send_replace(true);
    }
}

impl Hand {
    fn start(mut dismissed: watch::Receiver<bool>) -> io::Result<Arc<Self>> {
        let runtime = Builder::new_current_thread().enable_all().thread_name("serve-blocking").build()?;
        let hand = Self { runtime: runtime.handle().clone(), serves: AtomicUsize::new(0) };
        let work = move || {
            runtime.block_on(async {
                // A crew that nobody has any more means the same.
                let _dismissed = dismissed.wait_for(|dismissed| *dismissed).await;
            });
            // Who still waits in a thread for blocking work is not waited for.
            runtime.shutdown_background();
        };
        thread::Builder::new().name("serve".to_owned()).spawn(work)?;
        Ok(Arc::new(hand))
    }

    /// Has this thread do `work`.
    pub(super) fn run(&self, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        self.runtime.spawn(work)
    }

    fn serves(&self) -> usize {
        self.serves.load(Ordering::Relaxed)
    }

    /// Whether it has so many more connections than `other` that one more is to go there: handing it over costs two threads
    /// something, and who has a few more than his part is not slower for it.
    fn has_too_many(&self, other: &Self) -> bool {
        let least = other.serves();
        self.serves() > least + 1 + least / 8
    }
}

/// A connection counted as served; counted down when it ends, however it ends.
struct Served(Arc<Hand>);

impl Served {
    fn count(by: &Arc<Hand>) -> Self {
        by.serves.fetch_add(1, Ordering::Relaxed);
        Self(by.clone())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.0.serves.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::time::Duration;

    use tokio::net::TcpListener;
    use tokio::sync::oneshot;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A connection that is here, and its other end.
    async fn connection(listener: &TcpListener) -> (TcpStream, TcpStream) {
        let far = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("a connection");
        (listener.accept().await.expect("the connection").0, far)
    }

    /// Has a connection served that `here` accepted, until what is returned is dropped; says by which thread.
    async fn serve(
        crew: &Crew,
        here: Option<&Arc<Hand>>,
        listener: &TcpListener,
    ) -> (thread::ThreadId, oneshot::Sender<()>) {
        let (near, _far) = connection(listener).await;
        let (tell, told) = oneshot::channel();
        let (end, ended) = oneshot::channel::<()>();
        crew.take_on(here, near, |_| async move {
            tell.send(thread::current().id()).expect("somebody listens");
            let _ended = ended.await;
        });
        (told.await.expect("it was served"), end)
    }

    #[tokio::test]
    async fn a_connection_that_none_of_them_accepted_is_served_by_who_serves_the_fewest() {
        let crew = Crew::start(3).expect("threads");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let (first, _first) = serve(&crew, None, &listener).await;
        let (second, end_of_second) = serve(&crew, None, &listener).await;
        let (third, _third) = serve(&crew, None, &listener).await;
        assert!(first != second && second != third && first != third);
        drop(end_of_second);
        // They hear of it in the order in which they were told.
        for hand in crew.hands() {
            hand.run(async {}).await.expect("no panic");
        }
        assert_eq!(serve(&crew, None, &listener).await.0, second, "it has room again");
        crew.dismiss();
    }

    #[test]
    fn who_accepted_a_connection_serves_it_unless_others_have_far_less_to_do() {
        let crew = Crew::start(2).expect("threads");
        let [here, other] = crew.hands() else { panic!("two were asked for") };
        let (crew, here, other) = (crew.clone(), here.clone(), other.clone());
        let runtime = here.runtime.clone();
        let (tell, told) = std::sync::mpsc::channel();
        drop(runtime.spawn(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let mut ends = Vec::new();
            for _ in 0..3 {
                let (by, end) = serve(&crew, Some(&here), &listener).await;
                ends.push(end);
                tell.send(by == thread::current().id()).expect("somebody listens");
            }
            tell.send(here.serves() == 2 && other.serves() == 1).expect("somebody listens");
            crew.dismiss();
        }));
        let came: Vec<bool> = told.iter().collect();
        assert_eq!(came, [true, true, false, true], "two more than the other are too many");
    }

    #[tokio::test]
    async fn nobody_serves_where_it_is_accepted() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        assert_eq!(serve(&Crew::nobody(), None, &listener).await.0, thread::current().id());
    }

    #[tokio::test]
    async fn who_is_dismissed_gives_up_what_it_serves() {
        let crew = Crew::start(2).expect("threads");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let (near, mut far) = connection(&listener).await;
        crew.take_on(None, near, |stream| async move {
            pending::<()>().await;
            drop(stream);
        });
        crew.dismiss();
        let ended = tokio::time::timeout(SECOND * 10, tokio::io::AsyncReadExt::read(&mut far, &mut [0; 1])).await;
        assert_eq!(ended.expect("in time").expect("an orderly end"), 0);
    }
}

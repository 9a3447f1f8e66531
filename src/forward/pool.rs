//! Connections to an application that wait for their next request. Each stays with the runtime that polls it, so that nothing
//! of a request crosses from one core to another; one that has none left takes another's before a new one is opened.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::{Handle, Id};
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

/// Idle connections are given up before the shortest common keep-alive of an application (gunicorn: 2 s) ends, so that
/// a request does not meet a connection that is being closed.
pub(super) const POOL_IDLE: Duration = Duration::from_millis(1500);

/// The idle connections to one application: a home for each runtime that ever asked, in the order in which they did. There are
/// as many as threads that serve, and one.
#[derive(Debug, Default)]
pub(super) struct Pool(ArcSwap<Vec<Home>>);

/// Where the connections of one runtime wait.
#[derive(Clone, Debug)]
struct Home {
    runtime: Id,
    idle: Arc<Mutex<Idle>>,
}

/// Connections that wait. Bounded by the attempts that run at once.
#[derive(Debug, Default)]
struct Idle {
    /// The one used last is at the end.
    connections: Vec<(Stream, Instant)>,
    /// Whether a task gives up those that nobody takes.
    is_tended: bool,
}

/// A stream to an application.
#[derive(Debug)]
pub(super) struct Stream {
    wire: Wire,
    /// Whose runtime polls it.
    home: usize,
}

/// What the bytes go through.
#[derive(Debug)]
pub(super) enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Pool {
    /// A connection that was open a moment ago: the one that this runtime used last, or else another one's.
    pub(super) fn take(&self, now: Instant) -> Option<Stream> {
        let here = self.here();
        let homes = self.0.load();
        if let Some(own) = homes.get(here).and_then(|home| home.take(now)) {
            return Some(own);
        }
        let mut others = homes.iter().enumerate().filter(|(home, _)| *home != here);
        others.find_map(|(_, home)| std::iter::from_fn(|| home.take(now)).find_map(|stream| stream.moved_to(here)))
    }

    /// Makes a stream of a connection that was opened here.
    pub(super) fn stream(&self, wire: Wire) -> Stream {
        Stream { wire, home: self.here() }
    }

    /// Keeps a connection whose answer was read to its end.
    pub(super) fn keep(&self, stream: Stream) {
        let homes = self.0.load();
        let Some(home) = homes.get(stream.home) else { return };
        let mut idle = home.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.connections.push((stream, Instant::now()));
        if !std::mem::replace(&mut idle.is_tended, true) {
            tokio::spawn(tend(Arc::downgrade(&home.idle)));
        }
    }

    /// Which of the homes is this runtime's.
    fn here(&self) -> usize {
        let runtime = Handle::current().id();
        let find = |homes: &[Home]| homes.iter().position(|home| home.runtime == runtime);
        find(&self.0.load()).unwrap_or_else(|| {
            // Nobody else enters this one: at its end, wherever that is by then.
            self.0.rcu(|homes| {
                let new = find(homes).is_none().then(|| Home { runtime, idle: Arc::default() });
                homes.iter().cloned().chain(new).collect::<Vec<_>>()
            });
            find(&self.0.load()).unwrap_or_default()
        })
    }
}

impl Home {
    fn take(&self, now: Instant) -> Option<Stream> {
        let (stream, since) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).connections.pop()?;
        (now.saturating_duration_since(since) < POOL_IDLE).then_some(stream)
    }
}

/// Gives up connections that nobody takes, until there are none.
async fn tend(home: Weak<Mutex<Idle>>) {
    loop {
        tokio::time::sleep(POOL_IDLE / 2).await;
        let Some(idle) = home.upgrade() else { return };
        let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.connections.retain(|(_, since)| since.elapsed() < POOL_IDLE);
        if idle.connections.is_empty() {
            idle.is_tended = false;
            return;
        }
    }
}

impl Stream {
    /// Whether an idle connection is still one: its end or bytes that nobody asked for would be there to be read.
    pub(super) fn is_quiet(&mut self) -> bool {
        let mut byte = [0; 1];
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(self).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_pending()
    }

    /// Has this runtime poll it from now on; `None`: it is no connection any more. An encrypted one stays where it is, and is as
    /// good.
    fn moved_to(self, home: usize) -> Option<Self> {
        let Wire::Plain(stream) = self.wire else { return Some(self) };
        let stream = stream.into_std().ok()?;
        // Asked of the system itself: this runtime has not heard of it yet.
        let is_quiet = stream.peek(&mut [0; 1]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        let stream = is_quiet.then(|| TcpStream::from_std(stream))?.ok()?;
        Some(Self { wire: Wire::Plain(stream), home })
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().wire {
            Wire::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Wire::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().wire {
            Wire::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Wire::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().wire {
            Wire::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
            Wire::Tls(stream) => Pin::new(stream.as_mut()).poll_write_vectored(cx, pieces),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().wire {
            Wire::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Wire::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().wire {
            Wire::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Wire::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;
    use tokio::runtime::{Builder, Runtime};

    use super::*;

    impl Pool {
        /// How many connections wait, in all homes, and how many homes have somebody who tends them.
        pub(in crate::forward) fn idle(&self) -> usize {
            let of = |home: &Home| {
                let idle = home.idle.lock().expect("no panic");
                idle.connections.len() + usize::from(idle.is_tended)
            };
            self.0.load().iter().map(of).sum()
        }
    }

    fn runtime() -> Runtime {
        Builder::new_current_thread().enable_all().build().expect("a runtime")
    }

    async fn connection(pool: &Pool, listener: &TcpListener) -> (Stream, TcpStream) {
        let ours = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("a connection");
        (pool.stream(Wire::Plain(ours)), listener.accept().await.expect("the connection").0)
    }

    #[test]
    fn a_connection_stays_with_its_runtime_and_another_takes_it_only_when_it_has_none_of_its_own() {
        let (pool, first, second) = (Pool::default(), runtime(), runtime());
        let listener = first.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let (one, _one) = first.block_on(connection(&pool, &listener));
        let (other, mut far) = first.block_on(connection(&pool, &listener));
        assert_eq!((one.home, other.home), (0, 0));
        first.block_on(async { [one, other].map(|stream| pool.keep(stream)) });
        let moved = second.block_on(async { pool.take(Instant::now()) }).expect("the other's");
        assert_eq!(moved.home, 1);
        // Only who drives it hears of what comes.
        let read = second.block_on(async {
            far.write_all(b"!").await.expect("an open connection");
            let (mut stream, mut byte) = (moved, [0; 1]);
            tokio::io::AsyncReadExt::read_exact(&mut stream, &mut byte).await.expect("a byte");
            pool.keep(stream);
            byte
        });
        assert_eq!(&read, b"!");
        assert_eq!(second.block_on(async { pool.take(Instant::now()) }).expect("its own").home, 1);
        assert_eq!(first.block_on(async { pool.take(Instant::now()) }).expect("its own").home, 0);
        assert_eq!(pool.idle(), 2, "nobody is left but those who tend");
    }

    #[test]
    fn one_that_the_application_closed_is_not_taken_from_another_runtime() {
        let (pool, first, second) = (Pool::default(), runtime(), runtime());
        let listener = first.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let (closed, far) = first.block_on(connection(&pool, &listener));
        let (open, _far) = first.block_on(connection(&pool, &listener));
        drop(far);
        // Nobody drives the first runtime: what its connections hear only the system knows.
        first.block_on(async { [open, closed].map(|stream| pool.keep(stream)) });
        let taken = second.block_on(async { pool.take(Instant::now()) });
        assert!(taken.expect("the open one").is_quiet());
        assert!(second.block_on(async { pool.take(Instant::now()) }).is_none());
    }

    #[test]
    fn runtimes_that_come_at_once_each_have_a_home_of_their_own() {
        let pool = Arc::new(Pool::default());
        let comes = |_: usize| {
            let pool = pool.clone();
            thread::spawn(move || {
                let runtime = runtime();
                let home = runtime.block_on(async { (0..100).map(|_| pool.here()).max() });
                (home, runtime)
            })
        };
        let threads: Vec<_> = (0..8).map(comes).collect();
        let came: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("no panic")).collect();
        let mut homes: Vec<_> = came.iter().filter_map(|(home, _)| *home).collect();
        homes.sort_unstable();
        assert_eq!(homes, (0..8).collect::<Vec<_>>());
    }
}

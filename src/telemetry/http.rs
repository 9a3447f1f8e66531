//! The telemetry listener: `/metrics`, `/livez`, `/readyz[?verbose]`. It shows numbers and the names of conditions, and
//! asks neither the application nor the dedup store: being ready while the application is down is the point.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

use super::Metrics;

/// What must hold before requests are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The configuration is read and valid.
    ConfigurationLoaded,
    /// Senders can connect; withdrawn when draining begins.
    ListenerBound,
    /// The spool is open and what it held is taken up again.
    SpoolRecovered,
}

impl Condition {
    /// All of them, in the order of the start.
    pub const ALL: [Self; 3] = [Self::ConfigurationLoaded, Self::SpoolRecovered, Self::ListenerBound];

    /// The words shown by `/readyz?verbose`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ConfigurationLoaded => "configuration loaded",
            Self::ListenerBound => "listener bound",
            Self::SpoolRecovered => "spool open and recovered",
        }
    }

    const fn bit(self) -> u8 {
        match self {
            Self::ConfigurationLoaded => 1,
            Self::ListenerBound => 2,
            Self::SpoolRecovered => 4,
        }
    }
}

/// Which conditions hold. Clones share it; whoever brings a condition about says so here.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<AtomicU8>);

impl Readiness {
    /// From now on this holds.
    pub fn fulfil(&self, condition: Condition) {
        self.0.fetch_or(condition.bit(), Ordering::Release);
    }

    /// From now on this no longer holds.
    pub fn withdraw(&self, condition: Condition) {
        self.0.fetch_and(!condition.bit(), Ordering::Release);
    }

    /// Whether this holds.
    #[must_use]
    pub fn holds(&self, condition: Condition) -> bool {
        self.0.load(Ordering::Acquire) & condition.bit() != 0
    }

    /// Whether all hold.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        Condition::ALL.into_iter().all(|condition| self.holds(condition))
    }

    /// One line a condition, then the verdict.
    fn report(&self) -> String {
        let line = |condition: Condition| {
            let sign = if self.holds(condition) { '+' } else { '-' };
            format!("[{sign}] {}\n", condition.as_str())
        };
        Condition::ALL.into_iter().map(line).chain([self.verdict().to_owned()]).collect()
    }

    fn verdict(&self) -> &'static str {
        if self.is_ready() { "ready\n" } else { "not ready\n" }
    }
}

/// The three pages.
pub fn router(metrics: Arc<Metrics>, readiness: Readiness) -> Router {
    Router::new()
        .route("/metrics", get(show_metrics).with_state(metrics))
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(show_readiness).with_state(readiness))
}

/// Serves `router` until `shutdown` is done, then lets open requests end. At most [`MOST_CONNECTIONS`] at once, each for
/// at most [`LONGEST_CONNECTION`], so this returns at the latest that long after `shutdown`. Dropped half-way, open
/// connections end with their requests.
pub async fn serve(listener: TcpListener, router: Router, shutdown: impl Future<Output = ()> + Send + 'static) {
    serve_on(Bounded::new(listener, MOST_CONNECTIONS, LONGEST_CONNECTION), router, shutdown).await;
}

/// The same on a listener that is bounded otherwise. Who sends no request within ten seconds gives his place to another.
pub async fn serve_on(mut listener: Bounded, router: Router, shutdown: impl Future<Output = ()> + Send + 'static) {
    let open = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(listener.silence);
    let mut shutdown = pin!(shutdown);
    loop {
        let (stream, _) = tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = listener.accept() => accepted,
        };
        let service = TowerToHyperService::new(router.clone());
        let connection = open.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection of an operator or a scraper broke off");
            }
        });
    }
    drop(listener);
    open.shutdown().await;
}

/// Scrapers and probes are few; whoever is beyond this waits in the kernel's queue.
pub const MOST_CONNECTIONS: usize = 64;
/// Longest wait for the head of a request, the next one of a connection among them.
const SILENCE: Duration = Duration::from_secs(10);
/// A connection ends after this, whatever it does; scrapers open the next one.
pub const LONGEST_CONNECTION: Duration = Duration::from_secs(60);

async fn show_metrics(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.render())
}

async fn show_readiness(State(readiness): State<Readiness>, RawQuery(query): RawQuery) -> impl IntoResponse {
    let status = if readiness.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let verbose = query.is_some_and(|query| query.split('&').any(|part| part.split('=').next() == Some("verbose")));
    (status, if verbose { readiness.report() } else { readiness.verdict().to_owned() })
}

/// A listener with a bound on connections and on how long each may live.
#[derive(Debug)]
pub struct Bounded {
    listener: TcpListener,
    places: Arc<Semaphore>,
    longest: Duration,
    silence: Duration,
}

impl Bounded {
    /// At most `most` connections at once, each cut after `longest`.
    #[must_use]
    pub fn new(listener: TcpListener, most: usize, longest: Duration) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(most)), longest, silence: SILENCE }
    }

    /// The next connection, as soon as there is a place for it.
    async fn accept(&mut self) -> (Leased, SocketAddr) {
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        // What cannot be accepted for want of descriptors is waited for there.
        let (stream, peer) = Listener::accept(&mut self.listener).await;
        (Leased { stream, end: Box::pin(tokio::time::sleep(self.longest)), _place: place }, peer)
    }
}

/// A connection that reads and writes until its time is up.
#[derive(Debug)]
pub struct Leased {
    stream: TcpStream,
    end: Pin<Box<Sleep>>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Leased {
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.end.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::Error::new(io::ErrorKind::TimedOut, "the connection's time is up")),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Leased {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Leased {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::oneshot;

    use super::*;

    struct World {
        address: SocketAddr,
        readiness: Readiness,
        stop: oneshot::Sender<()>,
        served: tokio::task::JoinHandle<()>,
    }

    async fn world() -> World {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let readiness = Readiness::default();
        let pages = router(Arc::new(Metrics::new(&[]).unwrap()), readiness.clone());
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(serve(listener, pages, async { drop(stopped.await) }));
        World { address, readiness, stop, served }
    }

    impl World {
        async fn get(&self, target: &str) -> String {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        }
    }

    #[tokio::test]
    async fn it_is_alive_before_it_is_ready() {
        let world = world().await;
        assert!(world.get("/livez").await.starts_with("HTTP/1.1 200"));
        assert!(world.get("/readyz").await.starts_with("HTTP/1.1 503"));
    }

    #[tokio::test]
    async fn it_is_ready_when_all_conditions_hold_and_says_which_does_not() {
        let world = world().await;
        world.readiness.fulfil(Condition::ConfigurationLoaded);
        world.readiness.fulfil(Condition::ListenerBound);
        let answer = world.get("/readyz?verbose").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.contains("[+] listener bound\n"), "{answer}");
        assert!(answer.contains("[-] spool open and recovered\n"), "{answer}");
        world.readiness.fulfil(Condition::SpoolRecovered);
        let answer = world.get("/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("[+]"), "{answer}");
        world.readiness.withdraw(Condition::ListenerBound);
        assert!(world.get("/readyz").await.starts_with("HTTP/1.1 503"));
    }

    #[tokio::test]
    async fn metrics_are_served_as_prometheus_text() {
        let answer = world().await.get("/metrics").await;
        assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
        assert!(answer.contains("\nhookgate_build_info{"), "{answer}");
    }

    #[tokio::test]
    async fn other_paths_and_methods_are_not_served() {
        let world = world().await;
        assert!(world.get("/").await.starts_with("HTTP/1.1 404"));
        assert!(world.get("/metrics/").await.starts_with("HTTP/1.1 404"));
    }

    #[tokio::test]
    async fn who_says_nothing_gives_his_place_to_another() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let pages = router(Arc::new(Metrics::new(&[]).unwrap()), Readiness::default());
        let silence = Duration::from_millis(50);
        let bounded = Bounded { silence, ..Bounded::new(listener, 1, LONGEST_CONNECTION) };
        let served = tokio::spawn(serve_on(bounded, pages, std::future::pending()));
        let mut idle = TcpStream::connect(address).await.unwrap();
        for begun in ["GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", "GET /livez HTTP/1.1\r\n", ""] {
            idle.write_all(begun.as_bytes()).await.unwrap();
            let mut next = TcpStream::connect(address).await.unwrap();
            next.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            let mut start = [0; 12];
            let answered = tokio::time::timeout(Duration::from_secs(10), next.read_exact(&mut start)).await;
            assert!(answered.is_ok_and(|read| read.is_ok()) && start == *b"HTTP/1.1 200", "{begun:?}");
            drop(next);
            idle = TcpStream::connect(address).await.unwrap();
        }
        served.abort();
    }

    #[tokio::test]
    async fn it_ends_when_told_to() {
        let world = world().await;
        world.get("/livez").await;
        world.stop.send(()).unwrap();
        world.served.await.unwrap();
    }

    #[tokio::test]
    async fn a_silent_connection_is_cut_and_its_place_goes_to_the_next() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let pages = router(Arc::new(Metrics::new(&[]).unwrap()), Readiness::default());
        let bounded = Bounded::new(listener, 1, Duration::from_millis(50));
        let served = tokio::spawn(async { serve_on(bounded, pages, std::future::pending()).await });
        let mut silent = TcpStream::connect(address).await.unwrap();
        let mut next = TcpStream::connect(address).await.unwrap();
        next.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        next.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(silent.read(&mut [0; 8]).await.unwrap_or(0), 0);
        served.abort();
    }
}

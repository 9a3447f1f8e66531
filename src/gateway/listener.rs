//! The sender's door: it accepts connections, with a bound on them and a guard in front of each, and leads each request to
//! where it is served. It knows when the gateway stops and lets open requests finish.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use pingora::apps::HttpServerApp;
use pingora::protocols::http::ServerSession;
use pingora::protocols::l4::ext::get_tcp_info;
use pingora::proxy::{HttpProxy, http_proxy};
use pingora::server::configuration::ServerConf;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Gateway;
use super::body::Unread;
use super::connections::{Caps, Carries, Connection, Connections, Entry, Phase, Source};
use super::crew::{Crew, Hand};
use super::exchange::{After, milliseconds};
use super::forwarded::Spoke;
use super::guard::{Guard, HeadLimits, House};
use super::http2::{self, Place, Places};
use super::proxy::{ADDRESSES, Proxy};
use super::reply::{self, Reply};
use super::side::Side;
use super::site::{Destination, Site};
use super::tls::{Tls, speaks_http2};
use crate::buffers::Buffers;
use crate::domain::fault::Fault;
use crate::domain::outcome::Settled;
use crate::telemetry::NO_ROUTE;

/// How long a connection is idle before a stop closes it: a request may be on its way.
pub const LINGER: Duration = Duration::from_millis(300);

/// How long after the start a connection may be one that waited in the system's queue.
const QUEUE_READ: Duration = Duration::from_millis(100);

/// How often each thread says that it can accept no connection.
const TELL_AGAIN: Duration = Duration::from_secs(10);

/// The limits of the door.
#[derive(Clone, Copy, Debug)]
pub struct DoorLimits {
    /// Most connections at once.
    pub max_connections: usize,
    /// Most of them from one source.
    pub max_connections_per_source: usize,
    /// First byte of a request to its blank line.
    pub header_timeout: Duration,
    /// Keep-alive.
    pub idle_timeout: Duration,
    /// Longest head in bytes.
    pub max_header_bytes: usize,
}

/// The open door. Cloning shares it.
#[derive(Clone)]
pub struct Door {
    /// What passes requests through. It reads the system's certificates, which nobody needs who passes nothing through.
    proxy: Arc<OnceLock<Arc<HttpProxy<Proxy>>>>,
    gateway: Arc<Gateway>,
    crew: Crew,
    connections: Connections,
    limits: DoorLimits,
    tls: Option<Tls>,
    places: Places,
    closing: Arc<AtomicBool>,
    stop: watch::Sender<bool>,
}

/// What a connection's task carries for the code that Pingora calls back.
#[derive(Clone)]
pub(super) struct Visit {
    pub(super) connection: Arc<Connection>,
    /// As it was when the request was found to pass through.
    pub(super) site: Arc<Site>,
    pub(super) after: After,
}

tokio::task_local! {
    /// The request that passes through the current task. Pingora hands its callbacks nothing of ours; each request
    /// is served by one task, so the task carries it.
    static VISIT: Visit;
}

/// The request that passes through the current task.
pub(super) fn visit() -> Option<Visit> {
    VISIT.try_with(Visit::clone).ok()
}

impl Door {
    /// A door into `gateway`, not yet open, whose connections `crew` serves.
    #[must_use]
    pub fn new(gateway: Arc<Gateway>, crew: Crew, limits: DoorLimits, tls: Option<Tls>) -> Self {
        let caps = Caps { all: limits.max_connections, per_source: limits.max_connections_per_source };
        let connections = Connections::new(caps, gateway.metrics.clone());
        let door = Self {
            proxy: Arc::default(),
            gateway,
            crew,
            connections,
            limits,
            tls,
            places: Places::new(caps),
            closing: Arc::default(),
            stop: watch::channel(false).0,
        };
        if door.gateway.site.load().passes_something_through() {
            door.proxy();
        }
        door
    }

    /// Made before the first request if the configuration passes anything through, and else when a reload has it do so.
    fn proxy(&self) -> &Arc<HttpProxy<Proxy>> {
        self.proxy.get_or_init(|| {
            let conf =
                ServerConf { max_retries: ADDRESSES, upstream_keepalive_pool_size: 128, ..ServerConf::default() };
            Arc::new(http_proxy(&Arc::new(conf), Proxy(self.gateway.clone())))
        })
    }

    /// Accepts connections until [`Self::close`]; the listener is closed then. Those that are there at once may have
    /// waited since `waiting_since`, and their senders with them.
    ///
    /// Every thread of the crew accepts: who has time for a connection is who takes it.
    pub async fn serve(self, listener: TcpListener, waiting_since: Instant) {
        let mut accepting = Vec::new();
        for hand in self.crew.hands() {
            match listener.as_fd().try_clone_to_owned() {
                Ok(handle) => {
                    let (door, here) = (self.clone(), hand.clone());
                    accepting.push(hand.run(async move {
                        match TcpListener::from_std(handle.into()) {
                            Ok(listener) => door.accept(listener, Some(here), waiting_since).await,
                            Err(error) => tracing::error!(%error, "a thread cannot accept connections; others do"),
                        }
                    }));
                }
                Err(error) => tracing::error!(%error, "a thread cannot accept connections; others do"),
            }
        }
        if accepting.is_empty() {
            return self.accept(listener, None, waiting_since).await;
        }
        drop(listener);
        for accepting in accepting {
            // None is cut off but with all others, when the process ends.
            let _ended = accepting.await;
        }
    }

    /// The same, of `here` alone.
    async fn accept(self, listener: TcpListener, here: Option<Arc<Hand>>, waiting_since: Instant) {
        let mut stop = self.stop.subscribe();
        let queue_is_read = Instant::now() + QUEUE_READ;
        let mut told: Option<Instant> = None;
        loop {
            let accepted = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => None,
                accepted = listener.accept() => Some(accepted),
            };
            let Some(accepted) = accepted else { return self.admit_queue(&listener, here.as_ref()).await };
            match accepted {
                Ok((stream, remote)) => {
                    let now = Instant::now();
                    let waited = if now < queue_is_read { asked_since(&stream, waiting_since, now) } else { None };
                    self.admit(here.as_ref(), stream, remote, waited);
                }
                Err(error) => {
                    // Out of file descriptors or memory: connections wait in the backlog until some are free.
                    if told.is_none_or(|at| at.elapsed() >= TELL_AGAIN) {
                        told = Some(Instant::now());
                        tracing::warn!(%error, "cannot accept a connection, senders wait: if descriptors are used up, allow more \
                            (LimitNOFILE, ulimit -n) or lower server.max_connections");
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    /// Admits what the system has already let in: closing the listener would cut these connections off.
    async fn admit_queue(&self, listener: &TcpListener, here: Option<&Arc<Hand>>) {
        for _ in 0..self.limits.max_connections {
            let next = poll_fn(|cx| Poll::Ready(listener.poll_accept(cx))).await;
            let Poll::Ready(Ok((stream, remote))) = next else { return };
            self.admit(here, stream, remote, None);
        }
    }

    fn admit(&self, here: Option<&Arc<Hand>>, stream: TcpStream, remote: SocketAddr, waiting_since: Option<Instant>) {
        let spoke = if self.tls.is_some() { Spoke::Tls } else { Spoke::Plain };
        // On an address of both families an IPv4 peer looks like an IPv6 one, which no IPv4 network holds.
        let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        let source = Source::of(remote.ip(), &self.gateway.site.load().trusted_proxies);
        if let Some(entry) = self.connections.enter(remote, spoke, source, waiting_since) {
            let door = self.clone();
            self.crew.take_on(here, stream, |stream| door.visit(stream, entry));
        } else {
            self.gateway.metrics.connections_turned_away_total.inc();
            // Inside TLS it would cost a handshake to say so: the connection closes, which senders repeat too.
            if spoke == Spoke::Plain {
                drop(tokio::spawn(turn_away(stream)));
            }
        }
    }

    async fn visit(self, stream: TcpStream, mut entry: Entry) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection was gone before it was served");
            return;
        }
        let connection = entry.connection.clone();
        let Some(stream) = self.shake_hands(stream, &connection).await else { return };
        match stream {
            Side::Tls(tls) if speaks_http2(&tls) => {
                if entry.speaks_http2() {
                    http2::serve(&self, Side::Tls(tls), &connection).await;
                } else {
                    self.count_refused("no_place");
                }
            }
            side @ (Side::Plain(_) | Side::Tls(_) | Side::Stream(_)) => self.serve_from(side, &connection).await,
        }
        drop(entry);
    }

    /// Serves the requests that come from `side`.
    pub(super) async fn serve_from(&self, side: Side, connection: &Arc<Connection>) {
        let guard = Guard::new(side, connection.clone(), self.head_limits(), self.house());
        self.serve_requests(guard, connection).await;
    }

    /// The limits of every head.
    pub(super) const fn head_limits(&self) -> HeadLimits {
        HeadLimits {
            header_timeout: self.limits.header_timeout,
            idle_timeout: self.limits.idle_timeout,
            max_header_bytes: self.limits.max_header_bytes,
        }
    }

    /// What stands behind every guard.
    pub(super) fn house(&self) -> Arc<dyn House> {
        self.gateway.clone()
    }

    /// A place for one more request of HTTP/2 on this connection. `None`: there is none.
    pub(super) fn place(&self, connection: &Connection) -> Option<Place> {
        self.places.take(Source::of(connection.remote.ip(), &self.gateway.site.load().trusted_proxies))
    }

    /// Counts what HTTP/2 refused before a request was read.
    pub(super) fn count_refused(&self, reason: &str) {
        self.gateway.metrics.http2_refused_total.with_label_values(&[reason]).inc();
    }

    /// Whether connections close after the request they serve.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Serves one request after the other until no more comes or may come.
    async fn serve_requests(&self, mut guard: Guard, connection: &Arc<Connection>) {
        while let Some(began) = guard.next().await {
            let site = self.gateway.site.load_full();
            let last = self.is_closing() || connection.carries == Carries::One;
            let after = if last { After::Closes } else { After::StaysOpen };
            let route = match site.find(guard.path()) {
                Destination::Route(route) => Some(route),
                Destination::Nowhere => None,
                Destination::Passthrough => {
                    let visit = Visit { connection: connection.clone(), site, after };
                    // Boxed: Pingora's futures are large, and nearly no connection needs them.
                    match Box::pin(self.pass_through(guard, visit)).await {
                        Some(back) => guard = back,
                        None => return,
                    }
                    continue;
                }
            };
            let exchange = self.gateway.exchange(&mut guard, connection, &site, route, began, after);
            if Box::pin(exchange).await == After::Closes {
                return;
            }
        }
    }

    /// Has Pingora serve the request that waits behind `guard`; gives it back if another one may follow.
    async fn pass_through(&self, guard: Guard, visit: Visit) -> Option<Guard> {
        let mut session = ServerSession::new_http1(Box::new(guard));
        session.set_keepalive(Some(self.limits.idle_timeout.as_secs()));
        let (_running, never_shut_down) = watch::channel(false);
        let passing = self.proxy().process_new_http(session, &never_shut_down);
        let (stream, _) = VISIT.scope(visit, passing).await?.consume();
        stream.into_any().downcast().ok().map(|guard| *guard)
    }

    /// The stream that requests come through; `None` if no handshake came about within `header_timeout`.
    async fn shake_hands(&self, stream: TcpStream, connection: &Connection) -> Option<Side> {
        let Some(tls) = &self.tls else { return Some(Side::Plain(stream)) };
        // As busy as who sends a head: not to be taken for idle, and not to take longer.
        connection.enter(Phase::Head(Instant::now()));
        let shaken = tokio::time::timeout(self.limits.header_timeout, tls.accept(stream)).await;
        connection.enter(Phase::Idle(Instant::now()));
        let reason = match shaken {
            Ok(Ok(stream)) => return Some(Side::Tls(Box::new(stream))),
            Ok(Err(error)) => {
                tracing::debug!(remote = %connection.remote.ip(), %error, "a TLS handshake failed");
                "failed"
            }
            Err(_) => "timeout",
        };
        self.gateway.metrics.tls.handshake_failures_total.with_label_values(&[reason]).inc();
        None
    }

    /// Has connections close after the request they serve, or serve next; still accepts.
    pub fn announce(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Stops accepting, closes connections that are idle for [`LINGER`] and has the others close after the request
    /// they serve.
    pub fn close(&self) {
        self.announce();
        self.stop.send_replace(true);
        self.connections.close_idle();
    }

    /// Cuts the connections that are left.
    pub fn cut(&self) {
        self.crew.dismiss();
    }

    /// Comes when no connection is left.
    pub async fn closed(&self) {
        self.connections.all_closed().await;
    }
}

/// Since when the sender of a connection that is accepted `now` has waited, at most since `earliest`: since its bytes came, as
/// the system says (tcp(7), `TCP_INFO`). None have: it has not asked yet.
fn asked_since(stream: &TcpStream, earliest: Instant, now: Instant) -> Option<Instant> {
    let Ok(info) = get_tcp_info(stream.as_raw_fd()) else { return Some(earliest) };
    let ago = Duration::from_millis(info.tcpi_last_data_recv.into());
    (info.tcpi_bytes_received > 0).then(|| now.checked_sub(ago).map_or(earliest, |since| since.max(earliest)))
}

/// Says that there is no room, to a sender that will come again.
async fn turn_away(mut stream: TcpStream) {
    let told = async {
        stream.write_all(&reply::raw_fault(Fault::Overloaded)).await?;
        stream.shutdown().await
    };
    // A sender that does not take the reply is closed all the same.
    let _taken = tokio::time::timeout(Duration::from_secs(1), told).await;
}

impl House for Gateway {
    fn refused(&self, connection: &Connection, why: Unread, began: Instant) {
        let settled = Settled::from(why);
        self.metrics.answered(NO_ROUTE, &settled, began.elapsed());
        let (disposition, reason) = (settled.disposition(), settled.reason());
        tracing::info!(route = NO_ROUTE, disposition, reason, status = Reply::of(settled, None).status.as_u16(),
            remote = %connection.remote.ip(), ack_ms = milliseconds(began.elapsed()), "request");
    }

    fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    fn body_timeout(&self) -> Duration {
        self.site.load().body_timeout
    }

    fn write_timeout(&self) -> Duration {
        self.site.load().write_timeout
    }
}

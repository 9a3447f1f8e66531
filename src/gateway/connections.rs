//! The connections of senders: how many there are, in all and from one source, what each is doing, and which may be closed
//! to make room.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::forwarded::{Peer, Spoke};
use super::listener::LINGER;
use crate::telemetry::Metrics;

/// One connection. Written by its own task; the table reads it to find idle ones.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The other end.
    pub(crate) remote: SocketAddr,
    /// Who is there.
    pub(crate) peer: Arc<Peer>,
    /// What the moments of its phases count from.
    opened: Instant,
    /// The nanoseconds from `opened` to the phase's moment, times four, and which phase it is. A number, for it is written
    /// several times a request and read where room is to be made.
    phase: AtomicU64,
    close: Notify,
    /// Set before `close` is: not to be closed earlier.
    close_from: OnceLock<Instant>,
    /// For how many nanoseconds before `opened` the sender may have been waiting to be accepted; until its first request.
    waited: AtomicU64,
    /// How many requests may come over it.
    pub(crate) carries: Carries,
}

/// How many requests may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carries {
    /// One after the other.
    Many,
    /// This one: it is one of many on a connection.
    One,
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Between requests, since then.
    Idle(Instant),
    /// A request's head is coming, since its first byte.
    Head(Instant),
    /// A request that began then is being read or served.
    Busy(Instant),
}

const IDLE: u64 = 0;
const HEAD: u64 = 1;
const BUSY: u64 = 2;

impl Phase {
    fn to_number(self, opened: Instant) -> u64 {
        let (since, kind) = match self {
            Self::Idle(since) => (since, IDLE),
            Self::Head(since) => (since, HEAD),
            Self::Busy(since) => (since, BUSY),
        };
        nanoseconds(opened, since) << 2 | kind
    }

    fn of_number(number: u64, opened: Instant) -> Self {
        let since = opened + Duration::from_nanos(number >> 2);
        match number & 3 {
            IDLE => Self::Idle(since),
            HEAD => Self::Head(since),
            _ => Self::Busy(since),
        }
    }
}

/// As many fit into 62 bits as 146 years have.
fn nanoseconds(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.saturating_duration_since(from).as_nanos()).unwrap_or(u64::MAX)
}

impl Connection {
    fn new(
        remote: SocketAddr,
        peer: Arc<Peer>,
        opened: Instant,
        phase: Phase,
        waiting_since: Option<Instant>,
        carries: Carries,
    ) -> Self {
        Self {
            remote,
            peer,
            opened,
            phase: AtomicU64::new(phase.to_number(opened)),
            close: Notify::new(),
            close_from: OnceLock::new(),
            waited: AtomicU64::new(waiting_since.map_or(0, |since| nanoseconds(since, opened))),
            carries,
        }
    }

    /// One request on this connection, whose first byte came at `began`. It is in no table: who serves the connection
    /// serves it to its end.
    pub(crate) fn request(&self, began: Instant) -> Self {
        let since = Some(self.arrived(began));
        Self::new(self.remote, self.peer.clone(), began, Phase::Head(began), since, Carries::One)
    }

    /// What the connection is doing.
    pub(crate) fn phase(&self) -> Phase {
        Phase::of_number(self.phase.load(Ordering::Relaxed), self.opened)
    }

    /// Notes what the connection is doing.
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase.to_number(self.opened), Ordering::Relaxed);
    }

    /// When a request whose first byte was read at `began` arrived: its sender may have waited to be accepted, the first one
    /// of a connection that is. What it let pass between then and its request is its own.
    pub(crate) fn arrived(&self, began: Instant) -> Instant {
        if self.waited.load(Ordering::Relaxed) == 0 {
            return began;
        }
        let waited = Duration::from_nanos(self.waited.swap(0, Ordering::Relaxed));
        began.checked_sub(waited).unwrap_or(began)
    }

    /// Comes when the table wants an idle connection gone.
    pub(crate) async fn told_to_close(&self) {
        self.close.notified().await;
        if let Some(from) = self.close_from.get() {
            tokio::time::sleep_until(*from).await;
        }
    }

    /// Whether it was told to close for another one to have its place, and not because all are.
    pub(crate) fn makes_room(&self) -> bool {
        self.close_from.get().is_none()
    }

    /// Has it closed once it has been idle for as long as a request may be on its way.
    fn close_idle(&self) {
        let idle_since = match self.phase() {
            Phase::Idle(since) => since,
            Phase::Head(_) | Phase::Busy(_) => Instant::now(),
        };
        self.close_from.get_or_init(|| idle_since + LINGER);
        self.close.notify_one();
    }
}

/// All connections. Bounded by `server.max_connections` and `server.max_connections_per_source`.
#[derive(Clone)]
pub(crate) struct Connections(Arc<Table>);

/// Whose connections are counted together: an IPv4 address, or an IPv6 network of 64 bits, which is what one host is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Source(IpAddr);

impl Source {
    /// The source that connects from `peer`; `None` for a proxy in front of many, whose senders are not told apart here.
    ///
    /// As long as no proxy is named, whoever connects from an address that the internet does not route is taken for one.
    pub(crate) fn of(peer: IpAddr, proxies: &[IpNet]) -> Option<Self> {
        let peer = peer.to_canonical();
        let proxy = if proxies.is_empty() { is_inner(peer) } else { proxies.iter().any(|net| net.contains(&peer)) };
        (!proxy).then(|| Self::of_client(peer))
    }

    /// The source of a client that is no proxy.
    pub(crate) fn of_client(client: IpAddr) -> Self {
        Self(match client.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

/// Loopback, link-local, private (RFC 1918, RFC 4193) and shared (RFC 6598) addresses.
fn is_inner(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let shared = matches!(v4.octets(), [100, 64..=127, ..]);
            v4.is_loopback() || v4.is_private() || v4.is_link_local() || shared
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

/// The most connections at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caps {
    /// In all.
    pub(crate) all: usize,
    /// From one source.
    pub(crate) per_source: usize,
}

/// What a connection of HTTP/2 counts as: with a request it takes three times the memory of another one (docs/HARDENING.md, "HTTP/2").
const HTTP2_COUNTS: usize = 3;

/// A connection that is open.
struct Counted {
    connection: Arc<Connection>,
    source: Option<Source>,
    /// As how many it counts.
    counts: usize,
}

/// Those of one source.
#[derive(Default)]
struct OfSource {
    ids: BTreeSet<u64>,
    /// As how many they count.
    counts: usize,
}

/// The connections that are open, by id and by source.
#[derive(Default)]
struct Open {
    all: HashMap<u64, Counted>,
    /// As how many they count.
    counts: usize,
    sources: HashMap<Source, OfSource>,
}

impl Open {
    fn insert(&mut self, id: u64, connection: Arc<Connection>, source: Option<Source>) {
        self.all.insert(id, Counted { connection, source, counts: 0 });
        if let Some(source) = source {
            self.sources.entry(source).or_default().ids.insert(id);
        }
        self.count_more(id, 1);
    }

    /// Has `id` count as so many more; `false`: it is not here any more.
    fn count_more(&mut self, id: u64, more: usize) -> bool {
        let Some(counted) = self.all.get_mut(&id) else { return false };
        counted.counts += more;
        self.counts += more;
        if let Some(of_source) = counted.source.and_then(|source| self.sources.get_mut(&source)) {
            of_source.counts += more;
        }
        true
    }

    fn remove(&mut self, id: u64) -> Option<Counted> {
        let counted = self.all.remove(&id)?;
        self.counts = self.counts.saturating_sub(counted.counts);
        if let Some(source) = counted.source
            && let Some(of_source) = self.sources.get_mut(&source)
        {
            of_source.ids.remove(&id);
            of_source.counts = of_source.counts.saturating_sub(counted.counts);
            if of_source.ids.is_empty() {
                self.sources.remove(&source);
            }
        }
        Some(counted)
    }

    /// Tells the longest idle of these to close; `None`: none is idle.
    fn close_longest_idle(&mut self, ids: impl Iterator<Item = u64>) -> Option<()> {
        let idle = ids.filter_map(|id| match self.all.get(&id)?.connection.phase() {
            Phase::Idle(since) => Some((since, id)),
            Phase::Head(_) | Phase::Busy(_) => None,
        });
        let (_, longest) = idle.min()?;
        if let Some(closed) = self.remove(longest) {
            closed.connection.close.notify_one();
        }
        Some(())
    }

    /// Makes room for one more of `source`; `None`: there is none to be made.
    fn make_room(&mut self, source: Option<Source>, caps: Caps) -> Option<()> {
        let of_source = source.and_then(|source| self.sources.get(&source));
        if let Some(of_source) = of_source.filter(|of_source| of_source.counts >= caps.per_source) {
            let ids: Vec<u64> = of_source.ids.iter().copied().collect();
            self.close_longest_idle(ids.into_iter())?;
        }
        if self.counts >= caps.all {
            let ids: Vec<u64> = self.all.keys().copied().collect();
            self.close_longest_idle(ids.into_iter())?;
        }
        Some(())
    }
}

struct Table {
    caps: Caps,
    open: Mutex<Open>,
    next: AtomicU64,
    /// Whether connections that come now are told to close at once; read and written under the lock of `open`.
    closing: AtomicBool,
    count: watch::Sender<usize>,
    metrics: Arc<Metrics>,
}

/// A connection's entry; taken out when dropped.
pub(crate) struct Entry {
    id: u64,
    /// The connection.
    pub(crate) connection: Arc<Connection>,
    /// As how many it counts.
    counts: usize,
    table: Arc<Table>,
}

impl Connections {
    /// An empty table for so many connections.
    pub(crate) fn new(caps: Caps, metrics: Arc<Metrics>) -> Self {
        metrics.connections_capacity.set(i64::try_from(caps.all).unwrap_or(i64::MAX));
        Self(Arc::new(Table {
            caps,
            open: Mutex::default(),
            next: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            count: watch::channel(0).0,
            metrics,
        }))
    }

    /// Enters a connection of `source`. At a cap the longest idle one, of that source or of all, is told to close; `None`
    /// means that none is idle.
    pub(crate) fn enter(
        &self,
        remote: SocketAddr,
        spoke: Spoke,
        source: Option<Source>,
        waiting_since: Option<Instant>,
    ) -> Option<Entry> {
        let (peer, now) = (Arc::new(Peer::new(remote.ip(), spoke)), Instant::now());
        let connection = Connection::new(remote, peer, now, Phase::Idle(now), waiting_since, Carries::Many);
        let connection = Arc::new(connection);
        let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.make_room(source, self.0.caps)?;
        if self.0.closing.load(Ordering::Relaxed) {
            connection.close_idle();
        }
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        open.insert(id, connection.clone(), source);
        drop(open);
        self.0.count.send_modify(|count| *count += 1);
        self.0.metrics.connections.inc();
        Some(Entry { id, connection, counts: 1, table: self.0.clone() })
    }

    /// Tells all idle connections to close, and those that were accepted meanwhile; those that serve a request close
    /// after it.
    pub(crate) fn close_idle(&self) {
        let open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.closing.store(true, Ordering::Relaxed);
        for counted in open.all.values() {
            counted.connection.close_idle();
        }
    }

    /// Comes when no connection is left.
    pub(crate) async fn all_closed(&self) {
        let mut count = self.0.count.subscribe();
        // The sender lives in `self`, so this cannot fail.
        let _closed = count.wait_for(|count| *count == 0).await;
    }
}

impl Entry {
    /// Has the connection count as one of HTTP/2, and makes room for that; `false`: there is none to be made.
    pub(crate) fn speaks_http2(&mut self) -> bool {
        // It has just shaken hands: it must not be the one that makes room.
        self.connection.enter(Phase::Head(Instant::now()));
        let caps = self.table.caps;
        let mut open = self.table.open.lock().unwrap_or_else(PoisonError::into_inner);
        while self.counts < HTTP2_COUNTS.min(caps.all).min(caps.per_source) {
            let Some(source) = open.all.get(&self.id).map(|counted| counted.source) else { return false };
            if open.make_room(source, caps).is_none() || !open.count_more(self.id, 1) {
                return false;
            }
            self.counts += 1;
            self.table.metrics.connections.inc();
        }
        true
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.table.open.lock().unwrap_or_else(PoisonError::into_inner).remove(self.id);
        self.table.count.send_modify(|count| *count = count.saturating_sub(1));
        self.table.metrics.connections.sub(i64::try_from(self.counts).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_comes_in_while_the_door_closes_is_told_so() {
        let connections =
            Connections::new(Caps { all: 9, per_source: 9 }, Arc::new(Metrics::new(&[]).expect("metrics")));
        let remote = "127.0.0.1:1".parse().expect("an address");
        let told = async |entry: &Entry| {
            tokio::time::timeout(Duration::from_secs(1), entry.connection.told_to_close()).await.is_ok()
        };
        let before = connections.enter(remote, Spoke::Plain, None, None).expect("room");
        assert!(!told(&before).await);
        connections.close_idle();
        let after = connections.enter(remote, Spoke::Plain, None, None).expect("room");
        assert!(told(&before).await && told(&after).await);
    }

    #[test]
    fn a_source_is_an_address_or_a_network_and_no_proxy() {
        let of = |peer: &str, proxies: &[&str]| {
            let proxies: Vec<IpNet> = proxies.iter().map(|net| net.parse().expect("a network")).collect();
            Source::of(peer.parse().expect("an address"), &proxies)
        };
        assert_ne!(of("203.0.113.1", &[]), None);
        assert_ne!(of("203.0.113.1", &[]), of("203.0.113.2", &[]));
        assert_eq!(of("::ffff:203.0.113.1", &[]), of("203.0.113.1", &[]));
        assert_eq!(of("2001:db8::1", &[]), of("2001:db8::ffff:1", &[]));
        assert_ne!(of("2001:db8::1", &[]), of("2001:db8:0:1::1", &[]));
        for inner in ["127.0.0.1", "10.1.2.3", "192.168.0.9", "172.17.0.1", "100.64.0.1", "::1", "fd00::1", "fe80::1"] {
            assert_eq!(of(inner, &[]), None, "{inner}");
            assert_ne!(of(inner, &["198.51.100.0/24"]), None, "{inner}: somebody else is the proxy");
        }
        assert_eq!(of("198.51.100.7", &["198.51.100.0/24"]), None);
    }

    #[tokio::test]
    async fn a_connection_of_http2_counts_as_three_and_makes_room_for_them() {
        let metrics = Arc::new(Metrics::new(&[]).expect("metrics"));
        let connections = Connections::new(Caps { all: 9, per_source: 4 }, metrics.clone());
        let enter = || {
            let remote: SocketAddr = "203.0.113.1:1".parse().expect("an address");
            connections.enter(remote, Spoke::Tls, Source::of(remote.ip(), &[]), None)
        };
        let mut first = enter().expect("room");
        assert!(first.speaks_http2());
        assert_eq!(metrics.connections.get(), 3);
        first.connection.enter(Phase::Idle(Instant::now()));
        let mut second = enter().expect("room");
        assert!(second.speaks_http2(), "the first makes room");
        let told = tokio::time::timeout(Duration::from_secs(1), first.connection.told_to_close()).await;
        assert!(told.is_ok());
        let mut third = enter().expect("room");
        assert!(!third.speaks_http2(), "the second has its head to send");
        drop(third);
        let (mut closed, last) = (enter().expect("room"), enter().expect("room of the one before"));
        assert!(!closed.speaks_http2(), "it was counted out");
        drop((first, second, closed, last));
        assert_eq!(metrics.connections.get(), 0);
        let one = Connections::new(Caps { all: 9, per_source: 1 }, metrics);
        let remote: SocketAddr = "203.0.113.1:1".parse().expect("an address");
        let mut alone = one.enter(remote, Spoke::Tls, Source::of(remote.ip(), &[]), None).expect("room");
        assert!(alone.speaks_http2(), "where there is room for one it may be of HTTP/2");
    }

    #[tokio::test]
    async fn a_source_at_its_cap_makes_room_among_its_own_and_costs_nobody_else() {
        let connections =
            Connections::new(Caps { all: 9, per_source: 2 }, Arc::new(Metrics::new(&[]).expect("metrics")));
        let enter = |peer: &str| {
            let remote: SocketAddr = peer.parse().expect("an address");
            connections.enter(remote, Spoke::Plain, Source::of(remote.ip(), &[]), None)
        };
        let other = enter("203.0.113.9:1").expect("room");
        let first = enter("203.0.113.1:1").expect("room");
        let second = enter("203.0.113.1:2").expect("room");
        let third = enter("203.0.113.1:3").expect("room of the first");
        for busy in [&second, &third] {
            busy.connection.enter(Phase::Busy(Instant::now()));
        }
        assert!(enter("203.0.113.1:4").is_none(), "both are busy");
        drop(first);
        assert!(enter("203.0.113.1:5").is_none(), "the first was counted out when it was told to close");
        drop(second);
        assert!(enter("203.0.113.1:6").is_some());
        let told = tokio::time::timeout(Duration::from_millis(20), other.connection.told_to_close()).await;
        assert!(told.is_err(), "nobody else was told to close");
    }
}

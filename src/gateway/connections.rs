//! The connections of senders: how many there are, what each is doing, and which may be closed to make room.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::forwarded::Spoke;
use super::listener::LINGER;
use crate::telemetry::Metrics;

/// One connection. Written by its own task; the table reads it to find idle ones.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The other end.
    pub(crate) remote: SocketAddr,
    /// What it speaks.
    pub(crate) spoke: Spoke,
    phase: Mutex<Phase>,
    close: Notify,
    /// Set before `close` is: not to be closed earlier.
    close_from: OnceLock<Instant>,
    /// Since when the sender may have been waiting to be accepted; for its first request.
    waiting_since: Mutex<Option<Instant>>,
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

impl Connection {
    /// What the connection is doing.
    pub(crate) fn phase(&self) -> Phase {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what the connection is doing.
    pub(crate) fn enter(&self, phase: Phase) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    /// When a request whose first byte was read at `began` arrived: its sender may have waited to be accepted.
    pub(crate) fn arrived(&self, began: Instant) -> Instant {
        let waiting_since = self.waiting_since.lock().unwrap_or_else(PoisonError::into_inner).take();
        waiting_since.map_or(began, |since| since.min(began))
    }

    /// Comes when the table wants an idle connection gone.
    pub(crate) async fn told_to_close(&self) {
        self.close.notified().await;
        if let Some(from) = self.close_from.get() {
            tokio::time::sleep_until(*from).await;
        }
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

/// All connections. Bounded by `server.max_connections`.
#[derive(Clone)]
pub(crate) struct Connections(Arc<Table>);

struct Table {
    most: usize,
    open: Mutex<HashMap<u64, Arc<Connection>>>,
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
    table: Arc<Table>,
}

impl Connections {
    /// An empty table for at most `most` connections.
    pub(crate) fn new(most: usize, metrics: Arc<Metrics>) -> Self {
        metrics.connections_capacity.set(i64::try_from(most).unwrap_or(i64::MAX));
        Self(Arc::new(Table {
            most,
            open: Mutex::default(),
            next: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            count: watch::channel(0).0,
            metrics,
        }))
    }

    /// Enters a connection; at the cap the longest idle one is told to close, and `None` means that none is idle.
    pub(crate) fn enter(&self, remote: SocketAddr, spoke: Spoke, waiting_since: Option<Instant>) -> Option<Entry> {
        let connection = Arc::new(Connection {
            remote,
            spoke,
            phase: Mutex::new(Phase::Idle(Instant::now())),
            close: Notify::new(),
            close_from: OnceLock::new(),
            waiting_since: Mutex::new(waiting_since),
        });
        let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= self.0.most {
            let idle = open.iter().filter_map(|(id, other)| match other.phase() {
                Phase::Idle(since) => Some((since, *id)),
                Phase::Head(_) | Phase::Busy(_) => None,
            });
            let (_, longest) = idle.min()?;
            if let Some(closed) = open.remove(&longest) {
                closed.close.notify_one();
            }
        }
        if self.0.closing.load(Ordering::Relaxed) {
            connection.close_idle();
        }
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        open.insert(id, connection.clone());
        drop(open);
        self.0.count.send_modify(|count| *count += 1);
        self.0.metrics.connections.inc();
        Some(Entry { id, connection, table: self.0.clone() })
    }

    /// Tells all idle connections to close, and those that were accepted meanwhile; those that serve a request close
    /// after it.
    pub(crate) fn close_idle(&self) {
        let open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.closing.store(true, Ordering::Relaxed);
        for connection in open.values() {
            connection.close_idle();
        }
    }

    /// Comes when no connection is left.
    pub(crate) async fn all_closed(&self) {
        let mut count = self.0.count.subscribe();
        // The sender lives in `self`, so this cannot fail.
        let _closed = count.wait_for(|count| *count == 0).await;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.table.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
        self.table.count.send_modify(|count| *count = count.saturating_sub(1));
        self.table.metrics.connections.dec();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_comes_in_while_the_door_closes_is_told_so() {
        let connections = Connections::new(9, Arc::new(Metrics::new(&[]).expect("metrics")));
        let remote = "127.0.0.1:1".parse().expect("an address");
        let told = async |entry: &Entry| {
            tokio::time::timeout(Duration::from_secs(1), entry.connection.told_to_close()).await.is_ok()
        };
        let before = connections.enter(remote, Spoke::Plain, None).expect("room");
        assert!(!told(&before).await);
        connections.close_idle();
        let after = connections.enter(remote, Spoke::Plain, None).expect("room");
        assert!(told(&before).await && told(&after).await);
    }
}

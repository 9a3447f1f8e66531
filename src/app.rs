//! The life of a gateway: what is started in which order, what happens on each signal, and how it ends.
//!
//! Start: metrics, disk, claims, deliverer, listeners, then ready. Stop: the door closes, open requests are answered
//! within `server.shutdown_grace`, running attempts are waited for, the disk is closed last.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::claims::Claims;
use crate::claims::embedded::Embedded;
use crate::claims::fallback::Fallback;
use crate::claims::redis::Redis;
use crate::claims::store::ClaimStore;
use crate::clock::Clock;
use crate::config::{Config, Store};
use crate::disk::{Disk, DiskFault, DiskSettings, PreviousStop};
use crate::forward::{Deliverer, Doubt, Settlement};
use crate::gateway::Gateway;
use crate::gateway::listener::{Door, DoorLimits};
use crate::gateway::site::{PassPath, Site};
use crate::spool::Spool;
use crate::telemetry::{Metrics, RouteLabels};

/// Kept back from the grace for closing the disk.
const CLOSING: Duration = Duration::from_secs(2);

/// A gateway in operation.
pub struct Running {
    /// Where it listens; real ports where the configuration said 0.
    pub addresses: Addresses,
    door: Door,
    gateway: Arc<Gateway>,
    deliverer: Deliverer,
    disk: Disk,
    metrics: Arc<Metrics>,
    grace: Duration,
    side_stop: watch::Sender<bool>,
    sides: Vec<JoinHandle<()>>,
}

/// The three listeners.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// For senders.
    pub listen: SocketAddr,
    /// For metrics and health.
    pub telemetry: SocketAddr,
    /// For operators.
    pub admin: SocketAddr,
}

/// Why a gateway does not start. The operator's doing, or the machine's.
#[derive(Debug, thiserror::Error)]
pub enum StartFault {
    /// An address cannot be listened on.
    #[error("cannot listen on {address} ({key}): {error}")]
    Bind {
        /// The configuration key.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        error: std::io::Error,
    },
    /// The spool cannot be opened.
    #[error(transparent)]
    Disk(#[from] DiskFault),
    /// The metrics cannot be registered: two have one name.
    #[error("cannot set up the metrics: {0}")]
    Metrics(String),
    /// The dedup store cannot be set up.
    #[error("cannot set up the dedup store: {0}")]
    Dedup(String),
}

//! The side that senders see: it accepts connections, reads requests whole, tells each request's story and writes the
//! reply. The only place that acknowledges anything.

mod alarm;
mod body;
mod connections;
pub mod crew;
mod date;
mod exchange;
mod farewell;
mod forgeries;
mod forwarded;
#[doc(hidden)]
pub mod fuzzed;
mod guard;
mod head;
mod http2;
pub mod listener;
mod proxy;
mod receive;
mod refused;
pub mod reply;
mod request;
mod side;
pub mod site;
pub mod tls;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

pub use self::forwarded::{Origin, Peer, Spoke};
pub use self::receive::Received;
pub use self::refused::KeptRefusal;

use self::date::HttpDate;
use self::forgeries::Forgeries;
use self::refused::Refusals;
use self::site::Site;
use crate::buffers::Buffers;
use crate::claims::Claims;
use crate::clock::Clock;
use crate::domain::suspicion::ClockWatch;
use crate::forward::Deliverer;
use crate::telemetry::Metrics;
use crate::telemetry::recent::Recent;

/// The gateway: what a request needs to be received. Shared by all connections.
pub struct Gateway {
    /// What is served. Replaced as a whole on reload; a request keeps the one it began with.
    pub site: ArcSwap<Site>,
    claims: Claims,
    deliverer: Deliverer,
    clock: Clock,
    metrics: Arc<Metrics>,
    recent: Recent,
    refusals: Refusals,
    date: HttpDate,
    forgeries: Forgeries,
    buffers: Buffers,
    clock_watch: Mutex<ClockWatch>,
    /// Whether the watch holds anything: spares a request that is fresh the mutex.
    clock_in_doubt: AtomicBool,
}

impl Gateway {
    /// A gateway that serves `site` and holds in memory what `buffers` has room for.
    #[must_use]
    pub fn new(
        site: Site,
        claims: Claims,
        deliverer: Deliverer,
        clock: Clock,
        metrics: Arc<Metrics>,
        recent: Recent,
        buffers: Buffers,
    ) -> Self {
        let refusals = Refusals::new(metrics.clone());
        let clock_watch = Mutex::default();
        let clock_in_doubt = AtomicBool::new(false);
        Self {
            clock_watch,
            clock_in_doubt,
            site: ArcSwap::from_pointee(site),
            claims,
            deliverer,
            clock,
            metrics,
            recent,
            refusals,
            date: HttpDate::default(),
            forgeries: Forgeries::default(),
            buffers,
        }
    }

    /// Whether the times of the requests that came last speak against the machine's clock.
    #[must_use]
    pub fn suspects_its_clock(&self) -> bool {
        let watch = || self.clock_watch.lock().unwrap_or_else(PoisonError::into_inner);
        self.clock_in_doubt.load(Ordering::Relaxed) && watch().is_suspected(self.clock.now())
    }

    /// A request that was refused and is still kept: the newest of this request id, or the newest of all.
    #[must_use]
    pub fn refusal(&self, request_id: Option<&str>) -> Option<Arc<KeptRefusal>> {
        self.refusals.find(request_id)
    }
}

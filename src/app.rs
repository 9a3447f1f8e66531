//! The life of a gateway: what is started in which order, what happens on each signal, and how it ends.
//!
//! Start: addresses, disk, claims, deliverer, listeners, then ready. Stop: the door closes, open requests are answered
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
use crate::config::{Config, PassPath as ConfiguredPath, Store};
use crate::disk::{Disk, DiskFault, DiskSettings, PreviousStop};
use crate::forward::{Deliverer, Doubt, Settlement};
use crate::gateway::Gateway;
use crate::gateway::listener::{Door, DoorLimits};
use crate::gateway::site::{PassPath, Site};
use crate::spool::Spool;
use crate::telemetry::http::{Condition, Readiness};
use crate::telemetry::{Metrics, RouteLabels};

/// Kept back from the grace for waiting on attempts and closing the disk.
const CLOSING: Duration = Duration::from_secs(2);

/// What a quick stop gives open requests.
const QUICK: Duration = Duration::from_secs(1);

/// How often what only memory knows is written into the gauges.
const GAUGES_EVERY: Duration = Duration::from_secs(1);

/// A gateway in operation.
pub struct Running {
    /// Where it listens; real ports where the configuration said 0.
    pub addresses: Addresses,
    door: Door,
    gateway: Arc<Gateway>,
    deliverer: Deliverer,
    disk: Disk,
    spool: Spool,
    store: Arc<dyn ClaimStore>,
    metrics: Arc<Metrics>,
    readiness: Readiness,
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

/// How a gateway is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Open requests and running attempts get `server.shutdown_grace`.
    Drain,
    /// They get a second.
    Quick,
}

impl Running {
    /// Puts a gateway into operation: returns when it is ready.
    pub async fn start(config: &Config, metrics: Arc<Metrics>) -> Result<Self, StartFault> {
        let clock = Clock::start();
        let readiness = Readiness::default();
        readiness.fulfil(Condition::ConfigurationLoaded);

        // Every address is taken before anything else happens: a gateway that cannot listen changes nothing.
        let (listener, listen) = bind("listen", config.listen).await?;
        let (telemetry_listener, telemetry) = bind("telemetry", config.telemetry).await?;
        let (admin_listener, admin) = bind("admin", config.admin).await?;

        let (disk, doubt) = open_disk(config, clock, &metrics)?;
        readiness.fulfil(Condition::SpoolRecovered);
        let spool = Spool::new(&disk);
        let store = claim_store(config, &disk, clock, &metrics)?;
        let claims = Claims::new(store.clone(), clock);
        let deliverer = Deliverer::new(spool.clone(), claims.clone(), clock, metrics.clone(), doubt);
        deliverer.configure(&config.routes);
        announce(config, &metrics, clock);

        let gateway = Gateway::new(site(config), claims, deliverer.clone(), clock, metrics.clone(), config.server.max_buffered_bytes);
        let gateway = Arc::new(gateway);
        let door = Door::new(gateway.clone(), door_limits(config));
        let (side_stop, _) = watch::channel(false);
        let mut running = Self {
            addresses: Addresses { listen, telemetry, admin },
            door: door.clone(),
            gateway,
            deliverer,
            disk,
            spool,
            store,
            metrics,
            readiness,
            grace: config.server.shutdown_grace,
            side_stop,
            sides: Vec::new(),
        };
        running.sides.push(tokio::spawn(door.serve(listener)));
        running.serve_telemetry(telemetry_listener);
        running.keep_gauges();
        drop(admin_listener);
        running.readiness.fulfil(Condition::ListenerBound);
        Ok(running)
    }

    fn serve_telemetry(&mut self, listener: TcpListener) {
        let router = crate::telemetry::http::router(self.metrics.clone(), self.readiness.clone());
        let stopped = self.side_stopped();
        self.sides.push(tokio::spawn(async move {
            if let Err(error) = crate::telemetry::http::serve(listener, router, stopped).await {
                tracing::error!(%error, "the telemetry listener ended: restart the gateway");
            }
        }));
    }

    /// Writes what only memory knows into the gauges, once a second.
    fn keep_gauges(&mut self) {
        let (spool, metrics, stopped) = (self.spool.clone(), self.metrics.clone(), self.side_stopped());
        self.sides.push(tokio::spawn(async move {
            let mut stopped = std::pin::pin!(stopped);
            loop {
                spool.show_totals(&metrics);
                tokio::select! {
                    () = tokio::time::sleep(GAUGES_EVERY) => {}
                    () = &mut stopped => return,
                }
            }
        }));
    }

    fn side_stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut stop = self.side_stop.subscribe();
        async move {
            // A sender that is gone means the same: the gateway has stopped.
            let _stopped = stop.wait_for(|stop| *stop).await;
        }
    }

    /// Puts `config` into operation where that is possible without a restart; says what is not.
    pub fn reconfigure(&self, config: &Config) {
        let labels: Vec<RouteLabels> = config.routes.iter().map(|route| labels(route)).collect();
        self.metrics.cover(&labels);
        self.gateway.site.store(Arc::new(site(config)));
        self.deliverer.configure(&config.routes);
    }

    /// Stops: no new connections, every open request answered, attempts waited for, the disk closed.
    pub async fn stop(self, how: Stop) {
        let grace = match how {
            Stop::Drain => self.grace,
            Stop::Quick => QUICK + CLOSING,
        };
        let answered_by = Instant::now() + grace.saturating_sub(CLOSING);
        self.readiness.withdraw(Condition::ListenerBound);
        self.door.close();
        self.deliverer.drain(answered_by.checked_sub(CLOSING).unwrap_or(answered_by));
        let all_closed = tokio::time::timeout_at(answered_by, self.door.closed()).await;
        if all_closed.is_err() {
            tracing::warn!("some connections were still open at the end of the grace and are cut");
        }
        let attempts = self.deliverer.settled(answered_by + CLOSING / 2).await;
        if attempts == Settlement::CutOff {
            tracing::warn!("some attempts were still running at the end of the grace; they are repeated, flagged");
        }
        self.side_stop.send_replace(true);
        self.disk.close(attempts == Settlement::Complete).await;
        for side in self.sides {
            side.abort();
        }
    }
}

async fn bind(key: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartFault> {
    let failed = |error| StartFault::Bind { key, address, error };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let local = listener.local_addr().map_err(failed)?;
    Ok((listener, local))
}

fn open_disk(config: &Config, clock: Clock, metrics: &Arc<Metrics>) -> Result<(Disk, Option<Doubt>), StartFault> {
    let settings = DiskSettings {
        path: config.spool.path.clone(),
        max_bytes: config.spool.max_bytes,
        min_free_bytes: config.spool.min_free_bytes,
    };
    let opened = Disk::open(settings, clock.now(), metrics.clone())?;
    let doubt = match opened.previous {
        PreviousStop::First | PreviousStop::Clean => None,
        PreviousStop::Unclean { .. } => Some(Doubt { before: clock.now() }),
    };
    if doubt.is_some() {
        tracing::warn!("the last stop was not clean: events that may have been sent before it are flagged as possible duplicates");
    }
    Ok((opened.disk, doubt))
}

fn claim_store(
    config: &Config,
    disk: &Disk,
    clock: Clock,
    metrics: &Arc<Metrics>,
) -> Result<Arc<dyn ClaimStore>, StartFault> {
    todo!()
}

/// Sets the gauges that say what is configured.
fn announce(config: &Config, metrics: &Metrics, clock: Clock) {
    for route in &config.routes {
        metrics.ack_budget_seconds.with_label_values(&[&*route.name]).set(route.ack.budget.as_secs_f64());
        metrics.app_up.with_label_values(&[&*route.name]).set(1);
        metrics.secrets_loaded_timestamp_seconds.with_label_values(&[&*route.name]).set(clock.now().seconds());
    }
    metrics.spool_capacity_bytes.set(i64::try_from(config.spool.max_bytes).unwrap_or(i64::MAX));
    metrics.config_last_reload_successful.set(1);
    metrics.config_last_reload_timestamp_seconds.set(clock.now().seconds());
}

fn labels(route: &crate::domain::route::Route) -> RouteLabels {
    RouteLabels { name: route.name.to_string(), secrets: route.secrets.len() }
}

fn site(config: &Config) -> Site {
    let passthrough = config.passthrough.iter().map(|path| match path {
        ConfiguredPath::Exact(path) => PassPath::Exact(path.clone()),
        ConfiguredPath::Below(prefix) => PassPath::Below(prefix.clone()),
    });
    let mut site = Site::new(&config.routes, passthrough.collect(), config.app_url.clone());
    site.trusted_proxies.clone_from(&config.server.trusted_proxies);
    site.body_timeout = config.server.body_timeout;
    site.write_timeout = config.server.write_timeout;
    site
}

fn door_limits(config: &Config) -> DoorLimits {
    DoorLimits {
        max_connections: config.server.max_connections,
        header_timeout: config.server.header_timeout,
        idle_timeout: config.server.idle_timeout,
        max_header_bytes: config.server.max_header_bytes,
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// A signal ended it and nothing was cut off.
    Cleanly,
}

/// Runs a gateway until a signal ends it. `reload` reads the configuration anew on SIGHUP.
///
/// SIGTERM drains, SIGINT stops quickly; a second one of either cuts the waiting short.
pub fn run(
    config: Config,
    reload: impl Fn() -> Result<Config, ConfigFaults> + Send + Sync + 'static,
) -> Result<Stopped, StartFault> {
    let labels: Vec<RouteLabels> = config.routes.iter().map(|route| labels(route)).collect();
    let metrics = Arc::new(Metrics::new(&labels).map_err(|error| StartFault::Metrics(error.to_string()))?);
    let logs = logs::init(log_settings(&config), &metrics).map_err(|error| StartFault::Log(error.to_string()))?;
    let runtime = runtime(config.server.threads)?;
    let stopped = runtime.block_on(async {
        let running = Running::start(&config, metrics).await?;
        tracing::info!(listen = %running.addresses.listen, telemetry = %running.addresses.telemetry,
            admin = %running.addresses.admin, routes = config.routes.len(), "ready");
        let how = until_told(&running, &reload).await?;
        tracing::info!(how = how.as_str(), "stopping");
        let quick = again_told()?;
        tokio::select! {
            () = running.stop(how) => {}
            () = quick => tracing::warn!("told twice: what was still running is cut off"),
        }
        tracing::info!("stopped");
        Ok(Stopped::Cleanly)
    });
    runtime.shutdown_timeout(QUICK);
    drop(logs);
    stopped
}

//! From the checked configuration to the parts of a running gateway. Nothing here lives on; nothing here decides.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::control::{Core, Current};
use super::{Loaded, Reread, StartFault};
use crate::buffers::Buffers;
use crate::claims::Claims;
use crate::claims::embedded::Embedded;
use crate::claims::fallback::Fallback;
use crate::claims::redis::{Redis, Settings, look_over};
use crate::claims::store::{ClaimStore, StoreFault};
use crate::clock::Clock;
use crate::config::{Config, LogFormat, LogLevel, RedisSettings, ServerTls, Store};
use crate::disk::{Disk, DiskSettings};
use crate::domain::route::{OnStoreDown, Route};
use crate::forward::Deliverer;
use crate::gateway::Gateway;
use crate::gateway::crew::Crew;
use crate::gateway::listener::{Door, DoorLimits};
use crate::gateway::site::Site;
use crate::gateway::tls::{CertificateFiles, Tls, TlsSettings};
use crate::spool::Spool;
use crate::telemetry::http::{Condition, Readiness};
use crate::telemetry::logs::{self, LogControl};
use crate::telemetry::recent::Recent;
use crate::telemetry::{Metrics, RouteLabels};

/// Longest wait at the start for a shared store that may not be missing: both may be starting.
const STORE_PATIENCE: Duration = Duration::from_secs(5);

/// Builds the parts from the disk upwards.
pub(super) fn core(
    loaded: &Loaded,
    metrics: Arc<Metrics>,
    log: Option<LogControl>,
    reread: Reread,
) -> Result<Core, StartFault> {
    let config = &loaded.config;
    let clock = Clock::start();
    let readiness = Readiness::default();
    readiness.fulfil(Condition::ConfigurationLoaded);
    let disk = open_disk(config, clock, &metrics)?;
    readiness.fulfil(Condition::SpoolRecovered);
    let spool = Spool::new(disk.clone());
    let stores = stores(config, &disk, &metrics)?;
    let claims = Claims::new(stores.store.clone(), clock);
    let server = &config.server;
    let buffers = Buffers::new(server.max_buffered_bytes, server.max_header_bytes, metrics.clone());
    let deliverer = Deliverer::new(spool.clone(), claims.clone(), clock, metrics.clone(), buffers.clone());
    deliverer.configure(&config.routes);
    announce(config, &metrics, clock);
    announce_bounds(config, &metrics);
    let recent = Recent::new(log.as_ref().map(LogControl::request_lines));
    let gateway = Arc::new(Gateway::new(
        site(config),
        claims,
        deliverer.clone(),
        clock,
        metrics.clone(),
        recent.clone(),
        buffers,
    ));
    let tls = config.server.tls.as_ref().map(|files| Tls::load(tls_settings(files), metrics.clone())).transpose()?;
    let crew = Crew::start(server.threads).map_err(|error| StartFault::machine("threads", error))?;
    let door = Door::new(gateway.clone(), crew, door_limits(config), tls.clone());
    let reloading = std::sync::Mutex::default();
    let fixed = fixed(config);
    let current = ArcSwap::from_pointee(Current::of(loaded));
    let admin_token = Arc::new(config.admin_token.clone().map(Arc::new).into());
    Ok(Core {
        door,
        tls,
        gateway,
        deliverer,
        disk,
        spool,
        stores,
        metrics,
        recent,
        readiness,
        clock,
        log,
        reread,
        reloading,
        reload_turns: Arc::new(tokio::sync::Semaphore::new(super::control::RELOADS)),
        fixed,
        current,
        admin_token,
    })
}

fn open_disk(config: &Config, clock: Clock, metrics: &Arc<Metrics>) -> Result<Disk, StartFault> {
    let settings = DiskSettings {
        path: config.spool.path.clone(),
        max_bytes: config.spool.max_bytes,
        max_dead_bytes: config.spool.max_dead_bytes,
        min_free_bytes: config.spool.min_free_bytes,
    };
    Ok(Disk::open(settings, clock.now(), metrics.clone())?.disk)
}

/// The store that decides, the embedded one that is always there, and what has to be tended.
pub(super) struct Stores {
    pub(super) store: Arc<dyn ClaimStore>,
    pub(super) name: &'static str,
    pub(super) local: Arc<Embedded>,
    pub(super) tended: Option<Arc<Fallback>>,
    /// The store behind `tended`, where a reload reaches it.
    pub(super) shared: Option<Arc<Redis>>,
}

fn stores(config: &Config, disk: &Disk, metrics: &Arc<Metrics>) -> Result<Stores, StartFault> {
    match &config.dedup.store {
        Store::Embedded => {
            let local = Arc::new(Embedded::new(disk.clone()));
            Ok(Stores { store: local.clone(), name: "embedded", local, tended: None, shared: None })
        }
        Store::Redis(settings) => {
            let redis = Redis::new(redis_settings(settings), metrics.clone());
            let redis = Arc::new(redis.map_err(|fault| StartFault::Dedup(fault.to_string()))?);
            let local = Arc::new(Embedded::stand_in(disk.clone()));
            let policy = config.dedup.on_store_down;
            let both = Arc::new(Fallback::new(redis.clone(), local.clone(), policy, metrics.clone()));
            Ok(Stores { store: both.clone(), name: "redis", local, tended: Some(both), shared: Some(redis) })
        }
    }
}

/// What the store needs of the configuration.
#[must_use]
pub fn redis_settings(settings: &RedisSettings) -> Settings {
    Settings {
        link: settings.link.clone(),
        timeout: settings.timeout,
        wait_replicas: settings.wait_replicas,
        key_prefix: settings.key_prefix.clone(),
    }
}

/// With `on_store_down = "refuse"` a shared store that does not answer would make every event a 503: such a start is
/// none.
pub(super) async fn required_store(config: &Config, metrics: &Arc<Metrics>) -> Result<(), StartFault> {
    let (Store::Redis(settings), OnStoreDown::Refuse) = (&config.dedup.store, config.dedup.on_store_down) else {
        return Ok(());
    };
    let redis = Redis::new(redis_settings(settings), metrics.clone());
    let answer = match redis {
        Ok(redis) => redis.answers_within(STORE_PATIENCE).await,
        Err(fault) => return Err(StartFault::Dedup(fault.to_string())),
    };
    answer.map_err(|fault| StartFault::NoStore(format!("{fault}; and `dedup.on_store_down` is refuse")))
}

/// Puts what a reload may change of the shared store into operation. Settings that cannot be change nothing.
pub(super) fn reconfigure(stores: &Stores, config: &Config) -> Result<(), StoreFault> {
    match (&stores.shared, &config.dedup.store) {
        (Some(shared), Store::Redis(settings)) => shared.configure(redis_settings(settings)),
        // It waits for a restart, which is to take it.
        (None, Store::Redis(settings)) => look_over(&redis_settings(settings)),
        (Some(_) | None, Store::Embedded) => Ok(()),
    }
}

/// Where the files of TLS are.
pub(crate) fn tls_settings(files: &ServerTls) -> TlsSettings {
    let pair = |(cert, key): &(_, _)| CertificateFiles { cert: Clone::clone(cert), key: Clone::clone(key) };
    TlsSettings {
        certificates: files.certificates.iter().map(pair).collect(),
        client_ca: files.client_ca.clone(),
        h2: files.h2,
    }
}

/// Sets the gauges that say what is configured, and makes every route's series exist.
pub(super) fn announce(config: &Config, metrics: &Metrics, clock: Clock) {
    let labels: Vec<RouteLabels> = config.routes.iter().map(|route| labels(route)).collect();
    metrics.cover(&labels);
    let now = clock.now().seconds();
    for route in &config.routes {
        metrics.ack_budget_seconds.with_label_values(&[&*route.name]).set(route.ack.budget.as_secs_f64());
        metrics.secrets_loaded_timestamp_seconds.with_label_values(&[&*route.name]).set(now);
    }
    metrics.config_last_reload_successful.set(1);
    metrics.config_last_reload_timestamp_seconds.set(now);
}

/// Sets the gauges of the spool's bounds, which hold until the next start.
fn announce_bounds(config: &Config, metrics: &Metrics) {
    let whole = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    metrics.spool_capacity_bytes.set(whole(config.spool.max_bytes));
    metrics.spool_dead_capacity_bytes.set(whole(config.spool.max_dead_bytes));
    metrics.spool_min_free_bytes.set(whole(config.spool.min_free_bytes));
}

/// What the metrics need to know of a route.
pub(super) fn labels(route: &Route) -> RouteLabels {
    RouteLabels { name: route.name.to_string(), secrets: route.secrets.len() }
}

/// What senders are served.
pub(super) fn site(config: &Config) -> Site {
    let mut site = Site::new(&config.routes, config.passthrough.clone(), config.app.clone());
    site.trusted_proxies.clone_from(&config.server.trusted_proxies);
    site.body_timeout = config.server.body_timeout;
    site.write_timeout = config.server.write_timeout;
    site
}

const fn door_limits(config: &Config) -> DoorLimits {
    DoorLimits {
        max_connections: config.server.max_connections,
        max_connections_per_source: config.server.max_connections_per_source,
        header_timeout: config.server.header_timeout,
        idle_timeout: config.server.idle_timeout,
        max_header_bytes: config.server.max_header_bytes,
    }
}

/// How the configuration wants lines written.
pub(super) const fn log_settings(config: &Config) -> logs::Settings {
    logs::Settings {
        format: match config.log.format {
            LogFormat::Auto => logs::Format::Auto,
            LogFormat::Pretty => logs::Format::Pretty,
            LogFormat::Json => logs::Format::Json,
        },
        level: match config.log.level {
            LogLevel::Error => logs::Level::Error,
            LogLevel::Warn => logs::Level::Warn,
            LogLevel::Info => logs::Level::Info,
            LogLevel::Debug => logs::Level::Debug,
            LogLevel::Trace => logs::Level::Trace,
        },
        colour: logs::Colour::Allowed,
    }
}

/// What a change of which needs a restart: the key and how its value reads.
pub(super) fn fixed(config: &Config) -> Vec<(&'static str, String)> {
    let server = &config.server;
    let store = match &config.dedup.store {
        Store::Embedded => "embedded".to_owned(),
        Store::Redis(redis) => format!("redis {}", redis.key_prefix),
    };
    vec![
        ("listen", config.listen.to_string()),
        // One token is replaced by another at once.
        ("admin_token", config.admin_token.is_some().to_string()),
        ("telemetry", config.telemetry.to_string()),
        ("admin", config.admin.to_string()),
        ("server.threads", server.threads.to_string()),
        ("server.header_timeout", format!("{:?}", server.header_timeout)),
        ("server.idle_timeout", format!("{:?}", server.idle_timeout)),
        ("server.shutdown_grace", format!("{:?}", server.shutdown_grace)),
        ("server.max_header_bytes", server.max_header_bytes.to_string()),
        ("server.max_connections", server.max_connections.to_string()),
        ("server.max_connections_per_source", server.max_connections_per_source.to_string()),
        ("server.max_buffered_bytes", server.max_buffered_bytes.to_string()),
        ("server.tls", format!("{:?}", server.tls)),
        ("dedup", store),
        ("dedup.on_store_down", format!("{:?}", config.dedup.on_store_down)),
        ("spool", format!("{:?}", config.spool)),
        ("log.format", format!("{:?}", config.log.format)),
        ("log.level", format!("{:?}", config.log.level)),
    ]
}

/// Where [`fixed`] stands in the configuration as written: JSON pointers. The token is there for its own comparison.
pub(super) const FIXED_KEYS: [&str; 22] = [
    "/listen",
    "/admin_token",
    "/telemetry",
    "/admin",
    "/server/threads",
    "/server/header_timeout",
    "/server/idle_timeout",
    "/server/shutdown_grace",
    "/server/max_header_bytes",
    "/server/max_connections",
    "/server/max_connections_per_source",
    "/server/max_buffered_bytes",
    "/server/tls",
    "/dedup/store",
    "/dedup/redis/key_prefix",
    "/dedup/on_store_down",
    "/spool/path",
    "/spool/max_bytes",
    "/spool/max_dead_bytes",
    "/spool/min_free_bytes",
    "/log/format",
    "/log/level",
];

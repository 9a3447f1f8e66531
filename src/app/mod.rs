//! The life of a gateway: what is started in which order, what happens on each signal, and how it ends.
//!
//! Start: addresses, disk, claims, deliverer, listeners, then ready. Stop: the door closes, open requests are answered
//! within `server.shutdown_grace`, running attempts are waited for, the disk is closed last.

mod control;
mod explain;
mod handover;
pub(crate) mod limits;
mod listeners;
mod signals;
mod wiring;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use self::explain::candidates;
pub use self::handover::{HandoverFault, Inherited};
pub use self::wiring::redis_settings;
pub(crate) use self::wiring::tls_settings;

use self::control::Core;
use self::handover::{Announcement, Successor};
use self::listeners::{Handles, Listeners};
use self::signals::Signals;
use crate::admin::{AdminState, Jobs};
use crate::config::{self, Config, ConfigFaults, Environment, Layers, NoteLevel, Program, ShowFormat, ShowOrigins};
use crate::disk::{self, DiskFault};
use crate::domain::time::Timestamp;
use crate::forward::Settlement;
use crate::gateway::listener::LINGER;
use crate::gateway::tls::TlsFault;
use crate::telemetry::http::Condition;
use crate::telemetry::logs::{self, LogControl};
use crate::telemetry::{Metrics, RouteLabels};

/// Kept back from the grace for waiting on attempts and closing the disk.
const CLOSING: Duration = Duration::from_secs(2);

/// Longest wait for the spool to close before another process is told that it is its own. A reader or a slow disk may hold a
/// checkpoint up for some seconds.
const CLOSED_FOR_ANOTHER: Duration = Duration::from_secs(20);

/// What a quick stop gives open requests.
const QUICK: Duration = Duration::from_secs(1);

/// How often what only memory knows is written into the gauges.
const GAUGES_EVERY: Duration = Duration::from_secs(1);
/// How often the spool's file system is asked what it has left, for the metric.
const FREE_SPACE_EVERY: Duration = Duration::from_secs(10);

/// A gateway in operation.
pub struct Running {
    /// Where it listens; real ports where the configuration said 0.
    pub addresses: Addresses,
    core: Arc<Core>,
    grace: Duration,
    side_stop: watch::Sender<bool>,
    /// The tasks beside the senders' door; awaited or aborted by [`Running::stop`].
    sides: Mutex<Vec<JoinHandle<()>>>,
    /// Second handles of the listeners, for a process that takes over. Given up by [`Running::stop`].
    handles: Mutex<Handles>,
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
    #[error("cannot listen on {address} (`{key}`): {error}")]
    Bind {
        /// The configuration key.
        key: String,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        error: std::io::Error,
    },
    /// The spool cannot be opened.
    #[error(transparent)]
    Disk(#[from] DiskFault),
    /// Nothing could be taken over.
    #[error(transparent)]
    Handover(#[from] HandoverFault),
    /// The dedup store that is configured is none.
    #[error("cannot set up the dedup store: {0}")]
    Dedup(String),
    /// The dedup store does not answer, and may not be missing.
    #[error("cannot set up the dedup store: {0}")]
    NoStore(String),
    /// The files of TLS cannot be used.
    #[error("cannot serve TLS: {0}")]
    Tls(#[from] TlsFault),
    /// Threads, signals, metrics or logging cannot be set up.
    #[error("cannot set up {what}: {error}")]
    Machine {
        /// What was being set up.
        what: &'static str,
        /// What the system said.
        error: String,
    },
}

impl StartFault {
    pub(crate) fn machine(what: &'static str, error: impl ToString) -> Self {
        Self::Machine { what, error: error.to_string() }
    }
}

/// How a gateway is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Open requests and running attempts get `server.shutdown_grace`.
    Drain,
    /// They get a second.
    Quick,
    /// As much of the grace as the senders who wait for the next process can spare.
    HandOver,
}

/// What a stop leaves of the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpoolLeft {
    /// Another process may open it.
    Closed,
    /// Its disk stalls: this process has it until it ends.
    InUse,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// Everything was answered and closed.
    Orderly,
    /// A second signal cut the waiting short.
    CutShort,
    /// Everything was answered and closed, and the process that was to go on does not serve.
    Unsucceeded,
}

/// Where a gateway comes from, and what is started when it is to be replaced.
pub struct Succession {
    /// How this process was started.
    pub program: Program,
    /// What the process before handed over.
    pub inherited: Option<Inherited>,
}

/// A configuration, checked and as text.
#[derive(Debug)]
pub struct Loaded {
    /// Checked.
    pub config: Config,
    /// Merged, defaults filled in, without a secret: what `GET /api/config` shows.
    pub text: String,
}

/// Reads the configuration anew.
pub type Reread = Box<dyn Fn() -> Result<Loaded, ConfigFaults> + Send + Sync>;

/// Finds, merges and checks the configuration. `explicit` is the file that the command line names.
pub fn read(explicit: Option<&Path>, environment: &Environment) -> Result<Loaded, ConfigFaults> {
    let layers = Layers::read(explicit, environment)?;
    let config = layers.check()?;
    Ok(Loaded { config, text: config::show(&layers, ShowFormat::Toml, ShowOrigins::No)? })
}

/// Runs a gateway until a signal ends it. `reread` reads the configuration anew on SIGHUP and `POST /-/reload`.
///
/// SIGTERM drains, SIGINT stops quickly; a second one of either cuts the waiting short. SIGQUIT hands over to a new
/// process.
pub fn run(
    loaded: &Loaded,
    reread: impl Fn() -> Result<Loaded, ConfigFaults> + Send + Sync + 'static,
    succession: Succession,
) -> Result<Stopped, StartFault> {
    let config = &loaded.config;
    let metrics = metrics_for(config)?;
    let settings = wiring::log_settings(config);
    let logs = logs::init(settings, &metrics).map_err(|error| StartFault::machine("logging", error))?;
    for refused in limits::set() {
        tracing::warn!(refused, "the system does not let this process look after itself");
    }
    for note in config.notes.iter().filter(|note| note.level == NoteLevel::Warn) {
        tracing::warn!(key = note.key, "{}", note.text);
    }
    let runtime = runtime(config.server.threads)?;
    let control = logs.control.clone();
    let stopped = runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let starting = Running::come(loaded, metrics, Some(control), Box::new(reread), succession.inherited);
        let (running, announcement) = tokio::select! {
            biased;
            running = starting => running?,
            () = signals.ended() => return Ok(Stopped::Orderly),
        };
        tracing::info!(listen = %running.addresses.listen, telemetry = %running.addresses.telemetry,
            admin = %running.addresses.admin, routes = config.routes.len(), process = std::process::id(), "ready");
        // The supervisor first: the end of the process that hands over must not look to it like the end of the service.
        signals::tell_supervisor(&[signals::State::Ready, signals::State::MainPid(std::process::id())]);
        if let Some(announcement) = announcement {
            announcement.serving().await;
        }
        Ok(signals::serve_until_told(signals, &running, &succession.program).await)
    });
    runtime.shutdown_timeout(QUICK);
    drop(logs.flush);
    stopped
}

/// The metrics of a configuration's routes, all at zero.
pub fn metrics_for(config: &Config) -> Result<Arc<Metrics>, StartFault> {
    let labels: Vec<RouteLabels> = config.routes.iter().map(|route| wiring::labels(route)).collect();
    Ok(Arc::new(Metrics::new(&labels).map_err(|error| StartFault::machine("the metrics", error))?))
}

fn runtime(threads: usize) -> Result<tokio::runtime::Runtime, StartFault> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if threads > 0 {
        builder.worker_threads(threads);
    }
    builder.enable_all().thread_name("hookgate").build().map_err(|error| StartFault::machine("threads", error))
}

impl Running {
    /// Puts a gateway into operation: returns when it is ready.
    pub async fn start(
        loaded: &Loaded,
        metrics: Arc<Metrics>,
        log: Option<LogControl>,
        reread: Reread,
    ) -> Result<Self, StartFault> {
        Self::come(loaded, metrics, log, reread, None).await.map(|(running, _)| running)
    }

    /// Puts a gateway into operation, in place of the one that handed over to it if there is one, which is to be told.
    async fn come(
        loaded: &Loaded,
        metrics: Arc<Metrics>,
        log: Option<LogControl>,
        reread: Reread,
        inherited: Option<Inherited>,
    ) -> Result<(Self, Option<Announcement>), StartFault> {
        // Every address is taken before anything else happens: a gateway that cannot listen changes nothing.
        let Some(mut inherited) = inherited else {
            let listeners = Listeners::take(&loaded.config, Handles::new())?;
            wiring::required_store(&loaded.config, &metrics).await?;
            return Ok((Self::on(listeners, Instant::now(), loaded, metrics, log, reread)?, None));
        };
        let listeners = Listeners::take(&loaded.config, std::mem::take(&mut inherited.handles))?;
        wiring::required_store(&loaded.config, &metrics).await?;
        let (announcement, waiting_since) = inherited.wait().await?;
        Ok((Self::on(listeners, waiting_since, loaded, metrics, log, reread)?, Some(announcement)))
    }

    /// Opens the disk and serves. `waiting_since`: connections may have been waiting since then.
    fn on(
        listeners: Listeners,
        waiting_since: Instant,
        loaded: &Loaded,
        metrics: Arc<Metrics>,
        log: Option<LogControl>,
        reread: Reread,
    ) -> Result<Self, StartFault> {
        let config = &loaded.config;
        let handles = listeners.handles()?;
        let addresses = listeners.addresses();
        let core = Arc::new(wiring::core(loaded, metrics, log, reread)?);
        let running = Self {
            addresses,
            core,
            grace: config.server.shutdown_grace,
            side_stop: watch::channel(false).0,
            sides: Mutex::default(),
            handles: Mutex::new(handles),
        };
        running.aside(running.core.door.clone().serve(listeners.listen.socket, waiting_since));
        running.serve_telemetry(listeners.telemetry.socket);
        running.serve_admin(listeners.admin.socket);
        running.aside(keep_gauges(running.core.clone()));
        running.aside(watch_free_space(running.core.metrics.clone(), config.spool.path.clone()));
        if let Some(shared) = running.core.stores.tended.clone() {
            running.aside(async move { shared.tend().await });
        }
        if let Some(tls) = running.core.tls.clone() {
            running.aside(async move { tls.tend().await });
        }
        running.core.readiness.fulfil(Condition::ListenerBound);
        Ok(running)
    }

    fn serve_telemetry(&self, listener: TcpListener) {
        let router = crate::telemetry::http::router(self.core.metrics.clone(), self.core.readiness.clone());
        let stopped = self.side_stopped();
        self.aside(crate::telemetry::http::serve(listener, router, stopped));
    }

    fn serve_admin(&self, listener: TcpListener) {
        let core = self.core.clone();
        let state = AdminState {
            spool: core.spool.clone(),
            claims: core.stores.store.clone(),
            dedup_store: core.stores.name,
            metrics: core.metrics.clone(),
            recent: core.recent.clone(),
            clock: core.clock,
            token: core.admin_token.clone(),
            address: self.addresses.admin,
            control: core,
            explaining: Arc::new(tokio::sync::Semaphore::new(1)),
            jobs: Jobs::default(),
        };
        let state = Arc::new(state);
        self.aside(crate::admin::run_jobs(state.clone(), self.side_stopped()));
        let router = crate::admin::router(state);
        let stopped = self.side_stopped();
        self.aside(crate::admin::serve(listener, router, stopped));
    }

    fn aside(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.sides.lock().unwrap_or_else(PoisonError::into_inner).push(tokio::spawn(task));
    }

    fn side_stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut stop = self.side_stop.subscribe();
        async move {
            // A sender that is gone means the same: the gateway has stopped.
            let _stopped = stop.wait_for(|stop| *stop).await;
        }
    }

    /// Reads the configuration anew and puts it into operation; a bad one changes nothing. Reads files.
    pub async fn reload(&self) {
        // The log has told.
        let _told = self.core.clone().reload_in_time().await;
    }

    /// Events on disk that wait for their delivery, those with a running attempt included.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.core.spool.totals().pending()
    }

    /// The gateway's own time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.core.clock.now()
    }

    /// Starts the process that is to take over, and waits until it is ready to.
    async fn successor(&self, program: &Program) -> Result<Successor, HandoverFault> {
        let handles = std::mem::take(&mut *self.handles.lock().unwrap_or_else(PoisonError::into_inner));
        let started = Successor::start(program, &handles).await;
        *self.handles.lock().unwrap_or_else(PoisonError::into_inner) = handles;
        started
    }

    /// Stops: no new connections, every open request answered, attempts waited for, the disk closed.
    ///
    /// Dropped half-way, the disk is not marked as cleanly closed and the next start flags what may have been sent.
    pub async fn stop(&self, how: Stop) -> SpoolLeft {
        let core = &self.core;
        let closed_by = Instant::now() + self.grace_of(how).saturating_sub(CLOSING);
        if how == Stop::HandOver {
            // Connections in use end with their next answer while this process still accepts new ones.
            core.door.announce();
            tokio::time::sleep(LINGER).await;
        } else {
            core.readiness.withdraw(Condition::ListenerBound);
        }
        self.handles.lock().unwrap_or_else(PoisonError::into_inner).clear();
        core.door.close();
        // Answers leave a second before connections are cut.
        core.deliverer.drain(closed_by.checked_sub(QUICK).unwrap_or(closed_by));
        if tokio::time::timeout_at(closed_by, core.door.closed()).await.is_err() {
            tracing::warn!("some connections were still open at the end of the grace and are cut");
        }
        let attempts = core.deliverer.settled(closed_by + CLOSING / 2).await;
        if let Some(shared) = &core.stores.tended {
            // What is not told by then holds here, and lapses elsewhere.
            let _told = tokio::time::timeout_at(closed_by + CLOSING / 2, shared.all_told()).await;
        }
        self.side_stop.send_replace(true);
        // Whoever takes over can do nothing before the spool is closed, and would give up if it were told of it too soon.
        let patience = if how == Stop::HandOver { CLOSED_FOR_ANOTHER } else { CLOSING };
        let closed = self.close_disk(attempts, closed_by + patience).await;
        core.door.cut();
        for side in self.sides.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            side.abort();
        }
        closed
    }

    /// How long a stop may take. A hand-over must leave the senders who wait for the next process half their budget.
    fn grace_of(&self, how: Stop) -> Duration {
        match how {
            Stop::Drain => self.grace,
            Stop::Quick => QUICK + CLOSING,
            Stop::HandOver => {
                let routes = &self.core.current.load().routes;
                let budgets = routes.iter().map(|route| route.ack.budget.saturating_sub(route.ack.reserve) / 2);
                budgets.min().map_or(self.grace, |half| self.grace.min(half + CLOSING)).max(QUICK + CLOSING)
            }
        }
    }
}

impl Running {
    /// Closes the disk. What is still claimed was cut off: the next start flags it.
    async fn close_disk(&self, attempts: Settlement, by: Instant) -> SpoolLeft {
        if attempts == Settlement::CutOff {
            tracing::warn!("some attempts were still running at the end of the grace; they are repeated, flagged");
        }
        let now = self.core.clock.now();
        self.core.stores.local.abandon_all(now);
        match tokio::time::timeout_at(by, self.core.disk.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(fault)) => tracing::warn!(?fault, "the disk was not closed cleanly; nothing is lost"),
            Err(_) => {
                tracing::warn!("the disk did not close in time; nothing is lost");
                return SpoolLeft::InUse;
            }
        }
        SpoolLeft::Closed
    }
}

/// Shows how much the spool's file system has left; ends with the task.
async fn watch_free_space(metrics: Arc<Metrics>, spool: PathBuf) {
    loop {
        let spool = spool.clone();
        // A file system that hangs holds up nothing but this.
        if let Ok(Ok(free)) = tokio::task::spawn_blocking(move || disk::free_bytes(&spool)).await {
            metrics.spool_disk_free_bytes.set(i64::try_from(free).unwrap_or(i64::MAX));
        }
        tokio::time::sleep(FREE_SPACE_EVERY).await;
    }
}

/// Writes what only memory knows into the gauges; ends with the task.
async fn keep_gauges(core: Arc<Core>) {
    let mut every = tokio::time::interval(GAUGES_EVERY);
    loop {
        every.tick().await;
        core.show_gauges();
    }
}

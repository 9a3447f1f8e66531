//! What a running gateway consists of, and what operators may do with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use http::HeaderName;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::{Loaded, Reread, wiring};
use crate::admin::{Control, Explained, ReloadRefused, Reloaded, RouteFacts};
use crate::clock::Clock;
use crate::config::{Config, Store};
use crate::disk::Disk;
use crate::domain::route::Route;
use crate::domain::scheme::Carries;
use crate::domain::secret::Secret;
use crate::forward::Deliverer;
use crate::gateway::Gateway;
use crate::gateway::listener::Door;
use crate::gateway::tls::{Tls, TlsFault};
use crate::spool::Spool;
use crate::telemetry::Metrics;
use crate::telemetry::http::Readiness;
use crate::telemetry::logs::{Level, LogControl};
use crate::telemetry::recent::Recent;

/// How long a reload is waited for, which reads files of whatever file system they are on.
const READING: Duration = Duration::from_secs(20);

/// Reloads at one time: one that is under way, and one that waits for it.
pub(super) const RELOADS: usize = 2;

/// Everything that lives as long as the gateway.
pub(super) struct Core {
    pub(super) door: Door,
    pub(super) tls: Option<Tls>,
    pub(super) gateway: Arc<Gateway>,
    pub(super) deliverer: Deliverer,
    pub(super) disk: Disk,
    pub(super) spool: Spool,
    pub(super) stores: wiring::Stores,
    pub(super) metrics: Arc<Metrics>,
    pub(super) recent: Recent,
    pub(super) readiness: Readiness,
    pub(super) clock: Clock,
    pub(super) log: Option<LogControl>,
    pub(super) reread: Reread,
    /// Held for a reload: two at once would mix their configurations.
    pub(super) reloading: Mutex<()>,
    /// One that is under way and one that waits.
    pub(super) reload_turns: Arc<Semaphore>,
    /// What a change of which needs a restart, as it was at the start and is in operation: key and value.
    pub(super) fixed: Vec<(&'static str, String)>,
    /// The configuration that was read last. Written by a reload alone.
    pub(super) current: ArcSwap<Current>,
    /// What operators have to show.
    pub(super) admin_token: Arc<ArcSwapOption<Secret>>,
}

/// What is remembered of the configuration that was read last. All of it is in operation but for what needs a restart.
pub(super) struct Current {
    pub(super) routes: Vec<Arc<Route>>,
    /// What is secret of the shared store.
    store: Vec<Secret>,
    /// As TOML, without a secret.
    pub(super) text: String,
}

impl Core {
    /// Reads the configuration anew and puts what can change into operation; a bad one changes nothing. The log tells how it
    /// went, whoever asked for it. Files that do not come are waited for no longer than [`READING`].
    pub(super) async fn reload_in_time(self: Arc<Self>) -> Result<Reloaded, ReloadRefused> {
        // The one that waits reads what is there when its turn comes: a third would read the same.
        let Ok(turn) = self.reload_turns.clone().try_acquire_owned() else {
            let detail = "another reload is under way, and one that waits will read what is there now";
            tracing::error!("not reloaded: {detail}");
            return Err(ReloadRefused { detail: detail.to_owned(), faults: Vec::new() });
        };
        let core = self.clone();
        let reloading = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            core.reload_now()
        });
        let detail = match tokio::time::timeout(READING, reloading).await {
            Ok(Ok(told)) => return told,
            Ok(Err(error)) => format!("the reload ended early: {error}"),
            Err(_late) => format!(
                "a file of the configuration, or one that it names, could not be read to its end within {} s; it is still waited for",
                READING.as_secs()
            ),
        };
        self.metrics.config_last_reload_successful.set(0);
        tracing::error!("not reloaded: {detail}");
        Err(ReloadRefused { detail, faults: Vec::new() })
    }

    fn reload_now(&self) -> Result<Reloaded, ReloadRefused> {
        let outcome = self.put_into_operation();
        match &outcome {
            Ok(done) => tracing::info!(changed = ?done.changed, needs_restart = ?done.needs_restart, "reloaded"),
            Err(refused) => tracing::error!(faults = ?refused.faults, "not reloaded: {}", refused.detail),
        }
        outcome
    }

    fn put_into_operation(&self) -> Result<Reloaded, ReloadRefused> {
        let _one_at_a_time = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = (self.reread)().map_err(|faults| {
            self.metrics.config_last_reload_successful.set(0);
            let detail = format!("the configuration has {} faults; the one before stays in operation", faults.len());
            ReloadRefused { detail, faults: faults.iter().map(crate::config::ConfigFault::line).collect() }
        })?;
        let next = Current::of(&loaded);
        let config = &loaded.config;
        let needs_restart = self.waiting(config);
        let looked = self.look_at_tls(config, &needs_restart).map_err(|fault| fault.to_string());
        let usable = looked.and_then(|()| wiring::reconfigure(&self.stores, config).map_err(|fault| fault.to_string()));
        if let Err(detail) = usable {
            self.metrics.config_last_reload_successful.set(0);
            return Err(ReloadRefused { detail, faults: Vec::new() });
        }
        let mut changed = self.current.load().difference(&next);
        wiring::announce(config, &self.metrics, self.clock);
        if self.renew_token(config.admin_token.as_ref()) {
            changed.insert("admin_token".to_owned());
        }
        // Lanes before routes: a request that finds its route finds its lane.
        self.deliverer.configure(&config.routes);
        self.gateway.site.store(Arc::new(wiring::site(config)));
        let before = self.current.swap(Arc::new(next));
        self.metrics.uncover(before.names().filter(|name| !self.current.load().names().any(|now| now == *name)));
        Ok(Reloaded { changed: changed.into_iter().collect(), needs_restart })
    }

    /// The keys whose values are not those of the start, which stay in operation.
    fn waiting(&self, config: &Config) -> Vec<String> {
        let asked = wiring::fixed(config);
        let pairs = self.fixed.iter().zip(&asked);
        pairs.filter(|(old, new)| old != new).map(|((key, _), _)| (*key).to_owned()).collect()
    }

    /// Whether the files of TLS can be used: those in use, read anew if they have changed, or those that wait for a restart,
    /// which is to take them.
    fn look_at_tls(&self, config: &Config, needs_restart: &[String]) -> Result<(), TlsFault> {
        let others = needs_restart.iter().any(|key| key == "server.tls");
        match (&self.tls, &config.server.tls) {
            (_, Some(files)) if others => Tls::check(&wiring::tls_settings(files)),
            (Some(tls), _) if !others => tls.look(),
            (Some(_) | None, _) => Ok(()),
        }
    }

    /// A token takes the place of another; whether it is another. Nobody gets in without one where there was one: the
    /// listener stays what it is until a restart.
    fn renew_token(&self, token: Option<&Secret>) -> bool {
        let (Some(token), Some(before)) = (token, self.admin_token.load_full()) else { return false };
        self.admin_token.store(Some(Arc::new(token.clone())));
        before.expose() != token.expose()
    }

    /// Writes what only memory knows into the gauges.
    pub(super) fn show_gauges(&self) {
        // During a reload what is shown belongs to neither configuration.
        let Ok(_still) = self.reloading.try_lock() else { return };
        for route in &self.current.load().routes {
            let up = i64::from(self.deliverer.app_is_up(&route.name));
            self.metrics.app_up.with_label_values(&[&*route.name]).set(up);
        }
        self.metrics.clock_suspect.set(i64::from(self.gateway.suspects_its_clock()));
    }
}

impl Current {
    /// What is remembered of `loaded`.
    pub(super) fn of(loaded: &Loaded) -> Self {
        let store = match &loaded.config.dedup.store {
            Store::Embedded => Vec::new(),
            Store::Redis(settings) => settings.link.secrets().cloned().collect(),
        };
        Self { routes: loaded.config.routes.clone(), store, text: loaded.text.clone() }
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.routes.iter().map(|route| &*route.name)
    }

    /// The routes and tables that are others than before, by their keys; nothing of what needs a restart.
    fn difference(&self, next: &Self) -> BTreeSet<String> {
        let (old, new) = (tables(&self.text), tables(&next.text));
        let differ = |key: &&String| old.get(*key) != new.get(*key);
        let named = |key: &String| {
            if new.contains_key(key) || !key.contains('.') { key.clone() } else { format!("{key} (gone)") }
        };
        let mut changed: BTreeSet<String> = old.keys().chain(new.keys()).filter(differ).map(named).collect();
        if !self.store.iter().map(Secret::expose).eq(next.store.iter().map(Secret::expose)) {
            changed.insert("dedup".to_owned());
        }
        for route in &next.routes {
            let before = self.routes.iter().find(|before| before.name == route.name);
            if before.is_some_and(|before| reads_otherwise(before, route)) {
                changed.insert(format!("routes.{}", route.name));
            }
        }
        changed
    }
}

/// The top-level tables of a configuration, routes and providers one by one, without what needs a restart.
fn tables(text: &str) -> BTreeMap<String, Value> {
    let mut whole: Value = toml_edit::de::from_str(text).unwrap_or_default();
    for key in wiring::FIXED_KEYS {
        if let Some((table, key)) = key.rsplit_once('/')
            && let Some(table) = whole.pointer_mut(table).and_then(Value::as_object_mut)
        {
            table.remove(key);
        }
    }
    let mut tables = BTreeMap::new();
    for (key, value) in whole.as_object().into_iter().flatten() {
        match value.as_object() {
            Some(each) if key == "routes" || key == "providers" => {
                tables.extend(each.iter().map(|(name, value)| (format!("{key}.{name}"), value.clone())));
            }
            Some(_) | None => {
                tables.insert(key.clone(), value.clone());
            }
        }
    }
    tables
}

/// Whether what a route reads from elsewhere is not what it was: secrets, token, authorities.
fn reads_otherwise(before: &Route, now: &Route) -> bool {
    before.app.ca != now.app.ca || !secrets(before).eq(secrets(now))
}

fn secrets(route: &Route) -> impl Iterator<Item = &[u8]> {
    route.secrets.iter().map(|one| one.secret.expose()).chain(route.verify_token.iter().map(Secret::expose))
}

#[async_trait::async_trait]
impl Control for Core {
    fn routes(&self) -> Vec<RouteFacts> {
        let facts = |route: &Arc<Route>| RouteFacts {
            name: route.name.clone(),
            path: route.path.clone(),
            provider: route.provider.clone(),
            app_url: route.app.url.to_string(),
        };
        self.current.load().routes.iter().map(facts).collect()
    }

    fn carries(&self, route: &str, header: &HeaderName) -> Option<Carries> {
        let current = self.current.load();
        let found = current.routes.iter().find(|known| *known.name == *route);
        found.map(|route| route.scheme.carries(header))
    }

    fn config_text(&self) -> String {
        self.current.load().text.clone()
    }

    async fn reload(self: Arc<Self>) -> Result<Reloaded, ReloadRefused> {
        self.reload_in_time().await
    }

    fn set_log_level(&self, level: Level) -> Result<(), String> {
        let log = self.log.as_ref().ok_or("this gateway does not own the process's log")?;
        log.set_level(level).map_err(|error| error.to_string())
    }

    fn wake(&self) {
        self.deliverer.wake();
    }

    fn explain(&self, request_id: Option<&str>) -> Option<Explained> {
        self.explain_refusal(request_id)
    }
}

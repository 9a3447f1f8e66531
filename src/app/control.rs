//! What a running gateway consists of, and what operators may do with it.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use http::HeaderName;

use super::{Loaded, Reread, wiring};
use crate::admin::{Control, Explained, ReloadRefused, Reloaded, RouteFacts};
use crate::clock::Clock;
use crate::disk::Disk;
use crate::domain::route::Route;
use crate::domain::scheme::Carries;
use crate::domain::secret::Secret;
use crate::forward::Deliverer;
use crate::gateway::Gateway;
use crate::gateway::listener::Door;
use crate::gateway::tls::Tls;
use crate::spool::Spool;
use crate::telemetry::Metrics;
use crate::telemetry::http::Readiness;
use crate::telemetry::logs::{Level, LogControl};
use crate::telemetry::recent::Recent;

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
    /// The configuration in operation. Written by a reload alone.
    pub(super) current: ArcSwap<Current>,
    /// What operators have to show.
    pub(super) admin_token: Arc<ArcSwapOption<Secret>>,
}

/// What is remembered of the configuration in operation.
pub(super) struct Current {
    pub(super) routes: Vec<Arc<Route>>,
    /// As TOML, without a secret.
    pub(super) text: String,
    /// What a change of which needs a restart: key and value, as written in `text`.
    pub(super) fixed: Vec<(&'static str, String)>,
}

impl Core {
    /// Reads the configuration anew and puts what can change into operation; a bad one changes nothing.
    pub(super) fn reload_now(&self) -> Result<Reloaded, ReloadRefused> {
        let _one_at_a_time = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = (self.reread)().map_err(|faults| {
            self.metrics.config_last_reload_successful.set(0);
            let detail = format!("the configuration has {} faults; the one before stays in operation", faults.len());
            ReloadRefused { detail, faults: faults.iter().map(crate::config::ConfigFault::line).collect() }
        })?;
        let next = Current::of(&loaded);
        let config = &loaded.config;
        // Other files take a restart: those of before say nothing about this configuration.
        let same = self.current.load().fixed_as("server.tls", &next);
        let tls = self.tls.as_ref().filter(|_| same);
        let looked = tls.map_or(Ok(()), |tls| tls.look().map_err(|fault| fault.to_string()));
        let usable = looked.and_then(|()| wiring::reconfigure(&self.stores, config).map_err(|fault| fault.to_string()));
        if let Err(detail) = usable {
            self.metrics.config_last_reload_successful.set(0);
            return Err(ReloadRefused { detail, faults: Vec::new() });
        }
        let reloaded = self.current.load().difference(&next);
        wiring::announce(config, &self.metrics, self.clock);
        self.renew_token(config.admin_token.as_ref());
        // Lanes before routes: a request that finds its route finds its lane.
        self.deliverer.configure(&config.routes);
        self.gateway.site.store(Arc::new(wiring::site(config)));
        let before = self.current.swap(Arc::new(next));
        self.metrics.uncover(before.names().filter(|name| !self.current.load().names().any(|now| now == *name)));
        Ok(reloaded)
    }

    /// A token takes the place of another. Nobody gets in without one where there was one: the listener stays what it is until
    /// a restart.
    fn renew_token(&self, token: Option<&Secret>) {
        if let (Some(token), true) = (token, self.admin_token.load().is_some()) {
            self.admin_token.store(Some(Arc::new(token.clone())));
        }
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
        let routes = loaded.config.routes.clone();
        Self { routes, text: loaded.text.clone(), fixed: wiring::fixed(&loaded.config) }
    }

    fn fixed_as(&self, key: &str, next: &Self) -> bool {
        let of = |current: &Self| current.fixed.iter().find(|(name, _)| *name == key).map(|(_, value)| value.clone());
        of(self) == of(next)
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.routes.iter().map(|route| &*route.name)
    }

    fn difference(&self, next: &Self) -> Reloaded {
        let pairs = self.fixed.iter().zip(&next.fixed);
        let needs_restart = pairs.filter(|(old, new)| old != new).map(|((key, _), _)| (*key).to_owned()).collect();
        let names = |current: &Self| current.routes.iter().map(|route| route.name.to_string()).collect::<Vec<_>>();
        let (old, new) = (names(self), names(next));
        let mut changed: Vec<String> = new.iter().map(|name| format!("routes.{name}")).collect();
        changed.extend(old.iter().filter(|name| !new.contains(name)).map(|name| format!("routes.{name} (gone)")));
        Reloaded { changed, needs_restart }
    }
}

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

    fn reload(&self) -> Result<Reloaded, ReloadRefused> {
        self.reload_now()
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

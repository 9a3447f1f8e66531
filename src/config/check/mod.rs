//! From raw to checked: what the keys mean together. Faults of all parts come out at once.

mod global;
mod provider;
mod redis;
mod route;
mod rules;
mod secret;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use figment::value::{Dict, Value};
use serde::de::DeserializeOwned;

use super::defaults;
use super::fault::{ConfigFault, ConfigFaults, FaultKind, Place};
use super::layers::Layers;
use super::raw::{RawConfig, RawReference};
use super::read::read;
use super::settings::{Config, Note, NoteLevel, Server};
use super::source::{KeyPath, dotted};
use super::variables::ADMIN_VARIABLE;
use crate::domain::scheme::{PARTS, RawScheme};
use crate::domain::secret::Secret;

/// The key of the admin listener's token.
const ADMIN_TOKEN: &str = "admin_token";

/// One check of one configuration: what it reads and what it finds.
pub(super) struct Check<'a> {
    layers: &'a Layers,
    /// The merged configuration without what could not be read, over the defaults.
    clean: Dict,
    faults: Vec<ConfigFault>,
    notes: Vec<Note>,
    /// The notes that there are, to see at once whether one is there.
    noted: HashSet<Note>,
    /// What is laid under a route's own retries.
    retries: Dict,
    /// Built-in providers that were read.
    builtin: BTreeMap<String, Dict>,
    files: Vec<std::path::PathBuf>,
}

impl Layers {
    /// The merged configuration, if every key is known and every value of its type.
    pub(super) fn readable(&self) -> Result<Dict, ConfigFaults> {
        let (clean, faults) = self.reading();
        ConfigFaults::check(faults).map(|()| clean)
    }

    /// What of the merged configuration can be read, and what is wrong with the rest.
    fn reading(&self) -> (Dict, Vec<ConfigFault>) {
        let mut faults = self.reading_faults().to_vec();
        let (table, parts) = without_parts(self.merged.clone());
        let (_, mut clean) = read::<RawConfig>(self, table, &|path| path.to_vec(), &mut faults);
        name_parts(&mut faults);
        if let Some(Value::Dict(_, routes)) = clean.get_mut("routes") {
            for (name, parts) in parts {
                let (_, parts) = self.read_parts(&name, parts, &mut faults);
                if let Some(Value::Dict(_, route)) = routes.get_mut(&name) {
                    route.extend(parts);
                }
            }
        }
        (clean, faults)
    }

    /// The parts of its provider that a route overrides.
    fn read_parts(&self, route: &str, parts: Dict, faults: &mut Vec<ConfigFault>) -> (RawScheme, Dict) {
        let key = |path: &[String]| keys(&["routes", route]).into_iter().chain(path.iter().cloned()).collect();
        read::<RawScheme>(self, parts, &key, faults)
    }

    /// Checks the configuration.
    pub fn check(&self) -> Result<Config, ConfigFaults> {
        let mut faults = self.reading_faults().to_vec();
        let (table, mut parts) = without_parts(self.merged.clone());
        let (raw, clean) = read::<RawConfig>(self, table, &|path| path.to_vec(), &mut faults);
        name_parts(&mut faults);
        for (name, parts) in &mut parts {
            *parts = self.read_parts(name, std::mem::take(parts), &mut faults).1;
        }
        let mut check = Check::of(self, clean, faults);
        let config = check.config(&raw, &parts);
        ConfigFaults::check(check.faults)?;
        config.ok_or_else(|| ConfigFaults::one(self.fault(FaultKind::Missing, &[], String::new(), String::new())))
    }

    /// The token of the admin listener, resolved, and no other secret; `None` if none is given. What it takes besides is
    /// that every key is known and of its type: a token under a name that is none would be taken for no token.
    pub fn admin_token(&self) -> Result<Option<Secret>, ConfigFaults> {
        let (clean, mut faults) = self.reading();
        // Whom commands ask need not be what a listener can be.
        faults.retain(|fault| fault.place != Place::Variable(ADMIN_VARIABLE.to_owned()));
        ConfigFaults::check(faults)?;
        let Some(raw) = clean.get(ADMIN_TOKEN).cloned().and_then(|raw| raw.deserialize::<RawReference>().ok()) else {
            return Ok(None);
        };
        let mut check = Check::of(self, clean, Vec::new());
        let token = check.admin_token(&raw);
        ConfigFaults::check(check.faults)?;
        Ok(token)
    }
}

impl<'a> Check<'a> {
    fn of(layers: &'a Layers, clean: Dict, faults: Vec<ConfigFault>) -> Self {
        let base = defaults::layer().map(|source| source.dict).unwrap_or_default();
        let delivery = base.get("delivery").and_then(Value::as_dict);
        let retries = delivery.and_then(|delivery| delivery.get("retries")).and_then(Value::as_dict).cloned();
        Self {
            layers,
            clean: defaults::lay(base, clean),
            faults,
            notes: Vec::new(),
            noted: HashSet::new(),
            retries: retries.unwrap_or_default(),
            builtin: BTreeMap::new(),
            files: layers.files.clone(),
        }
    }
}

impl Check<'_> {
    fn config(&mut self, raw: &RawConfig, parts: &Parts) -> Option<Config> {
        let whole: RawConfig = typed(self.clean.clone())?;
        let admin_token = raw.admin_token.as_ref().and_then(|token| self.admin_token(token));
        let tls = whole.server.tls.as_ref().and_then(|tls| self.tls(tls));
        let server = global::server(&whole.server).map(|server| Server { tls, ..server });
        let dedup = self.dedup(&whole.dedup);
        let spool = self.spool(&whole.spool);
        let listeners = self.listeners(&whole, raw.admin_token.is_some());
        if let Some(server) = &server {
            self.server_rules(server);
        }
        let routes: Vec<_> =
            raw.routes.iter().filter_map(|(name, route)| self.route(name, route, parts, server.as_ref())).collect();
        if routes.len() < raw.routes.len() && self.faults.is_empty() {
            // Nobody else has said why: a route is never left out in silence.
            let left_out = raw.routes.keys().find(|name| routes.iter().all(|route| *route.name != ***name));
            let name = left_out.map_or("", |name| name);
            let expected = "the keys of a route, each of its type";
            self.fault(FaultKind::Value, &keys(&["routes", name]), "a route that cannot be read", expected);
        }
        self.shared_secrets(&routes);
        self.unused_providers(raw, parts);
        let passthrough: Vec<_> = whole.passthrough.paths.iter().flatten().map(|path| path.0.clone()).collect();
        self.paths(raw, &passthrough);
        let app = self.shared_app(whole.app);
        for route in &routes {
            let path = self.shared_key(&route.name, "app", "url");
            self.not_ourselves(&listeners, &path, &route.app.url);
        }
        if let Some(app) = &app {
            if !passthrough.is_empty() {
                self.not_ourselves(&listeners, &keys(&["app", "url"]), &app.url);
            }
            self.passed_around(&routes, &passthrough, app);
        }
        if raw.routes.is_empty() && self.faults.is_empty() {
            self.warn(&keys(&["routes"]), "no route is configured: every request is answered 404".to_owned());
        }
        Some(Config {
            listen: whole.listen?.0,
            telemetry: whole.telemetry?.0,
            admin: whole.admin?.0,
            admin_token,
            server: server?,
            dedup: dedup?,
            spool: spool?,
            log: global::log(&whole.log)?,
            routes: routes.into_iter().map(Arc::new).collect(),
            passthrough,
            app: app?,
            notes: std::mem::take(&mut self.notes),
            files: std::mem::take(&mut self.files),
        })
    }

    fn fault(&mut self, kind: FaultKind, path: &[String], found: impl Into<String>, expected: impl Into<String>) {
        let fault = self.layers.fault(kind, path, found.into(), expected.into());
        self.faults.push(fault);
    }

    /// A key that must be given is not; silent if it was given and could not be read.
    fn missing(&mut self, path: &[String], expected: &str) {
        if !self.faulted(path) {
            self.fault(FaultKind::Missing, path, "nothing", expected);
        }
    }

    /// Whether a key, or a part of its value, is already known to be wrong.
    fn faulted(&self, path: &[String]) -> bool {
        let key = dotted(path);
        let below = |fault: &ConfigFault| {
            fault.key.strip_prefix(&key).is_some_and(|rest| rest.is_empty() || rest.starts_with(['[', '.']))
        };
        self.faults.iter().any(below)
    }

    fn note(&mut self, path: &[String], text: String) {
        self.remark(NoteLevel::Note, path, text);
    }

    fn warn(&mut self, path: &[String], text: String) {
        self.remark(NoteLevel::Warn, path, text);
    }

    fn remark(&mut self, level: NoteLevel, path: &[String], text: String) {
        let note = Note { level, key: dotted(path), text };
        if self.noted.insert(note.clone()) {
            self.notes.push(note);
        }
    }
}

/// The parts of providers that routes override, by route.
type Parts = BTreeMap<String, Dict>;

/// Takes the parts of providers out of the routes' tables.
fn without_parts(mut table: Dict) -> (Dict, Parts) {
    let mut parts = Parts::new();
    if let Some(Value::Dict(_, routes)) = table.get_mut("routes") {
        for (name, route) in routes {
            if let Value::Dict(_, route) = route {
                let theirs = PARTS.iter().filter_map(|part| route.remove_entry(*part));
                parts.insert(name.clone(), theirs.collect());
            }
        }
    }
    (table, parts)
}

/// An unknown key of a route may be a mistyped part of its provider.
fn name_parts(faults: &mut [ConfigFault]) {
    for fault in faults.iter_mut().filter(|fault| fault.kind == FaultKind::UnknownKey && fault.suggestion.is_none()) {
        let parts: Vec<&str> = fault.key.split('.').collect();
        if let ["routes", _, word] = parts.as_slice() {
            fault.suggestion = super::read::closest(word, PARTS.iter().copied()).map(str::to_owned);
        }
    }
}

/// A table of clean values as its type.
fn typed<T: DeserializeOwned>(table: Dict) -> Option<T> {
    Value::from(table).deserialize().ok()
}

/// A key path of these parts.
fn keys(parts: &[&str]) -> KeyPath {
    parts.iter().map(|part| (*part).to_owned()).collect()
}

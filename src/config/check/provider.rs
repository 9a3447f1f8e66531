//! How a route's provider is put together: the built-in or own table, what it extends, and the route's overrides.
//!
//! Every layer is laid over the one below it key by key, as built-in providers are over what they extend.

use figment::value::{Dict, Value};

use super::{Check, Parts, keys};
use crate::config::builtin;
use crate::config::defaults::lay;
use crate::config::fault::FaultKind;
use crate::config::layers::{Layers, Origin};
use crate::config::raw::RawConfig;
use crate::config::read::{closest, read};
use crate::config::source::{KeyPath, Source};
use crate::domain::scheme::{PARTS, RawScheme, Scheme, SchemeFault};

/// How the scheme language says that it knows a word and cannot do it.
const UNBUILT: &str = "not implemented yet";
/// Longest chain of `extends`, own providers on top of built-in ones; a longer one is a circle.
const MOST_EXTENSIONS: usize = 16;

impl Check<'_> {
    /// A route's scheme, as written and compiled.
    pub(super) fn scheme(&mut self, route: &str, provider: &str, parts: &Parts) -> Option<(RawScheme, Scheme)> {
        let at = keys(&["routes", route, "provider"]);
        let table = self.provider(&at, provider)?;
        let table = lay(table, parts.get(route).cloned().unwrap_or_default());
        let layers = self.layers;
        let own = self.own_chain(provider);
        let tables = own.iter().map(|name| ["providers", name.as_str()]);
        let tables: Vec<[&str; 2]> = std::iter::once(["routes", route]).chain(tables).collect();
        let key = |path: &[String]| written_key(layers, &tables, path);
        let known_wrong = PARTS.iter().any(|part| self.faulted(&keys(&["routes", route, part])));
        if known_wrong { None } else { self.compile(table, &key) }
    }

    /// Checks providers that no route uses: a fault in them waits for the first route otherwise.
    pub(super) fn unused_providers(&mut self, raw: &RawConfig, parts: &Parts) {
        let used =
            |name: &String| raw.routes.values().any(|route| route.provider.as_ref().is_some_and(|p| &p.0.0 == name));
        for name in raw.providers.keys().filter(|name| !used(name)) {
            let at = keys(&["providers", name]);
            if let Some(table) = self.provider(&at, name) {
                self.compile(table, &|path| join(&["providers", name], path));
            }
        }
        for route in parts.keys().filter(|route| !raw.routes.contains_key(*route)) {
            self.missing(&keys(&["routes", route, "path"]), "a path");
        }
    }

    fn compile(&mut self, table: Dict, key: &dyn Fn(&[String]) -> KeyPath) -> Option<(RawScheme, Scheme)> {
        let before = self.faults.len();
        let (raw, _) = read::<RawScheme>(self.layers, table, key, &mut self.faults);
        if self.faults.len() > before {
            return None;
        }
        match Scheme::compile(&raw) {
            Ok(scheme) => Some((raw, scheme)),
            Err(faults) => {
                for fault in &faults {
                    self.scheme_fault(fault, key);
                }
                None
            }
        }
    }

    fn scheme_fault(&mut self, fault: &SchemeFault, key: &dyn Fn(&[String]) -> KeyPath) {
        let path: KeyPath = fault.key.split(['.', '[']).map(|part| part.trim_end_matches(']').to_owned()).collect();
        let path = key(&path);
        let is_given = self.layers.origin(&path) != Origin::Default;
        if fault.expected.starts_with(UNBUILT) || fault.found.starts_with(UNBUILT) {
            self.unbuilt(&path, &format!(" = {}", fault.found));
        } else if !is_given && matches!(fault.found.as_str(), "nothing" | "\"\"") {
            self.missing(&path, &fault.expected);
        } else {
            self.fault(FaultKind::Value, &path, &fault.found, &fault.expected);
        }
    }

    /// The table of a provider with all that it extends; `at` is the key that names it.
    fn provider(&mut self, at: &[String], name: &str) -> Option<Dict> {
        let mut at = at.to_vec();
        let mut name = name.to_owned();
        let mut table = Dict::new();
        let mut own_seen = Vec::new();
        for _ in 0..MOST_EXTENSIONS {
            let own = if own_seen.contains(&name) { None } else { self.own_provider(&name) };
            let from_own = own.is_some();
            let Some(mut below) = own.or_else(|| self.builtin_provider(&name)) else {
                self.unknown_provider(&at, &name, &own_seen);
                return None;
            };
            if from_own && self.faulted(&keys(&["providers", &name])) {
                return None;
            }
            let extends = below.remove("extends");
            table = lay(below, table);
            let Some(Value::String(_, base)) = extends else { return Some(table) };
            if from_own {
                at = keys(&["providers", &name, "extends"]);
                own_seen.push(name);
            }
            name = base;
        }
        self.fault(FaultKind::Conflict, &at, "a circle", "a provider that does not extend itself");
        None
    }

    /// The tables of this file that a provider is made of, itself first.
    fn own_chain(&self, name: &str) -> Vec<String> {
        let mut chain: Vec<String> = Vec::new();
        let mut next = Some(name.to_owned());
        while let Some(name) = next.filter(|name| !chain.contains(name)) {
            let Some(own) = self.own_provider(&name) else { break };
            chain.push(name);
            next = own.get("extends").and_then(Value::as_str).map(str::to_owned);
        }
        chain
    }

    fn own_provider(&self, name: &str) -> Option<Dict> {
        self.clean.get("providers")?.as_dict()?.get(name)?.as_dict().cloned()
    }

    fn unknown_provider(&mut self, at: &[String], name: &str, own_seen: &[String]) {
        if own_seen.iter().any(|seen| seen == name) {
            self.fault(FaultKind::Conflict, at, "a circle", "a provider that does not extend itself");
            return;
        }
        if let Some(unsupported) = builtin::why_unsupported(name) {
            let found = format!("{name:?}, which is not supported: {}", unsupported.reason);
            self.fault(FaultKind::Value, at, found, unsupported.instead);
            return;
        }
        let shown = crate::config::layers::shown_text(name);
        let expected = "a built-in provider (`hookgate providers list`) or a table [providers.NAME]";
        self.fault(FaultKind::Value, at, format!("{shown}, which is no provider"), expected);
        let own = self.clean.get("providers").and_then(Value::as_dict).into_iter().flat_map(Dict::keys);
        let known: Vec<String> = builtin::names().map(str::to_owned).chain(own.cloned()).collect();
        let meant = closest(name, known.iter().map(String::as_str)).map(str::to_owned);
        if let Some(fault) = self.faults.last_mut() {
            fault.suggestion = meant;
        }
    }

    /// The table of a built-in provider. Many routes may name the same.
    fn builtin_provider(&mut self, name: &str) -> Option<Dict> {
        if let Some(table) = self.builtin.get(name) {
            return Some(table.clone());
        }
        let text = builtin::text(name)?;
        let source =
            Source::read(format!("built-in provider {name}"), std::path::PathBuf::new(), text.to_owned()).ok()?;
        self.builtin.insert(name.to_owned(), source.dict.clone());
        Some(source.dict)
    }
}

/// The key of a part of a scheme in the table that gives it, or the most of the way to it: the route's, the provider's,
/// those that it extends. What nobody gives a part of is missing from the provider where it is one of this file's, and
/// else from the route.
fn written_key(layers: &Layers, tables: &[[&str; 2]], path: &[String]) -> KeyPath {
    let parts = (1..=path.len()).rev().filter_map(|length| path.get(..length));
    let given = parts
        .flat_map(|part| tables.iter().map(move |table| (table, join(table, part))))
        .find(|(_, key)| layers.origin(key) != Origin::Default)
        .map(|(table, _)| table);
    join(given.or(tables.get(1)).or(tables.first()).unwrap_or(&["routes", ""]), path)
}

fn join(prefix: &[&str], path: &[String]) -> KeyPath {
    prefix.iter().map(|part| (*part).to_owned()).chain(path.iter().cloned()).collect()
}

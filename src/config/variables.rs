//! The layer of environment variables: `HOOKGATE_ACK__BUDGET=10s` is `ack.budget`, `__` nests.
//!
//! A value is text as it stands; one that is a TOML list or table is read as such, but where its key wants text. Not
//! read as keys: `HOOKGATE_CONFIG`, `HOOKGATE_ADMIN_TOKEN` and every other variable that the configuration names as a
//! secret, `HOOKGATE_ADMIN` where it is a URL or has a host's name, which only commands take, and what Kubernetes sets for
//! a service called `hookgate` (`HOOKGATE_SERVICE_HOST`, `HOOKGATE_PORT_8080_TCP`, …).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use figment::value::{Dict, Map, Tag, Value};
use figment::{Metadata, Profile, Provider};
use http::uri::Authority;
use zeroize::Zeroizing;

use super::environment::Environment;
use super::fault::{ConfigFault, FaultKind, Place};
use super::find::CONFIG_VARIABLE;
use super::source::{KeyPath, lone_value};

/// What every variable of the configuration starts with.
pub const PREFIX: &str = "HOOKGATE_";

/// The variable that usually holds the token of the API; never read as a key.
pub const TOKEN_VARIABLE: &str = "HOOKGATE_ADMIN_TOKEN";

/// The address of the admin listener: a key, and for commands whom to ask, which may be a URL or have a host's name.
pub const ADMIN_VARIABLE: &str = "HOOKGATE_ADMIN";

/// The variables that are part of the configuration.
pub(super) struct Variables {
    dict: Dict,
    names: BTreeMap<KeyPath, String>,
    /// What was read as a list or table, as it stands there.
    texts: BTreeMap<KeyPath, Zeroizing<String>>,
}

impl Variables {
    /// Reads those of the environment that are not `ignored`.
    pub(super) fn read(environment: &Environment, ignored: &BTreeSet<String>, faults: &mut Vec<ConfigFault>) -> Self {
        let ours = environment.iter().filter_map(|(name, value)| Some((name, name.strip_prefix(PREFIX)?, value)));
        let ours = ours.filter(|(name, rest, _)| {
            *name != CONFIG_VARIABLE && *name != TOKEN_VARIABLE && !is_of_kubernetes(rest) && !ignored.contains(*name)
        });
        let ours = ours.filter(|(name, _, _)| *name != ADMIN_VARIABLE || place_to_ask(environment).is_none());
        let read: Vec<_> = ours.map(|(name, rest, value)| (name, rest, value.to_str())).collect();
        let values = read.iter().filter_map(|(_, _, text)| structured((*text)?));
        let secrets: BTreeSet<String> = values.flat_map(|value| variables_named(&value)).collect();
        let mut variables = Self { dict: Dict::new(), names: BTreeMap::new(), texts: BTreeMap::new() };
        for (name, rest, text) in read.into_iter().filter(|(name, _, _)| !secrets.contains(*name)) {
            let path: KeyPath = rest.split("__").map(str::to_lowercase).collect();
            match text {
                Some(text) => variables.put(name, path, text),
                None => faults.push(variable_fault(name, &path, "not UTF-8 text")),
            }
        }
        variables
    }

    /// What a variable says that was read as the list or table of exactly this key.
    pub(super) fn text_of(&self, path: &[String]) -> Option<&str> {
        self.texts.get(path).map(|text| text.as_str())
    }

    /// The variable that gave a key or a part of its value.
    pub(super) fn name_of(&self, path: &[String]) -> Option<&str> {
        let exact = (1..=path.len()).rev().find_map(|length| self.names.get(path.get(..length)?));
        exact.filter(|_| contains(&self.dict, path)).map(String::as_str)
    }

    fn put(&mut self, name: &str, path: KeyPath, text: &str) {
        let structure = structured(text);
        if structure.is_some() {
            self.texts.insert(path.clone(), Zeroizing::new(text.to_owned()));
        }
        put(&mut self.dict, &path, structure.unwrap_or_else(|| Value::from(text)));
        self.names.insert(path, name.to_owned());
    }
}

impl Provider for Variables {
    fn metadata(&self) -> Metadata {
        Metadata::named("environment variables")
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.dict.clone()))
    }
}

/// The name of the variable for a key.
pub(super) fn variable_for(path: &[String]) -> String {
    format!("{PREFIX}{}", path.join("__").to_uppercase())
}

/// The variables that `{ env = "NAME" }` names, anywhere in a value.
pub(super) fn variables_named(value: &Value) -> Vec<String> {
    match value {
        Value::Dict(_, dict) => {
            let named = dict.get("env").and_then(Value::as_str).map(str::to_owned);
            dict.values().flat_map(variables_named).chain(named).collect()
        }
        Value::Array(_, list) => list.iter().flat_map(variables_named).collect(),
        Value::String(..) | Value::Char(..) | Value::Bool(..) | Value::Num(..) | Value::Empty(..) => Vec::new(),
    }
}

/// The list or table that a text is, if it is one.
fn structured(text: &str) -> Option<Value> {
    if looks_structured(text) { lone_value(text) } else { None }
}

/// Whether a text begins like a list or table.
pub(super) fn looks_structured(text: &str) -> bool {
    text.starts_with(['[', '{'])
}

/// What the variable of the admin listener's address says, if that can be asked and not listened on: a URL, or a host's name
/// and a port.
pub(super) fn place_to_ask(environment: &Environment) -> Option<&str> {
    let text = environment.get(ADMIN_VARIABLE)?.to_str()?;
    let authority = || text.parse::<Authority>().ok().filter(|place| place.port_u16().is_some());
    let has_name = || authority().is_some_and(|place| place.host().bytes().any(|byte| byte.is_ascii_alphabetic()));
    (text.contains("://") || (text.parse::<SocketAddr>().is_err() && has_name())).then_some(text)
}

fn put(dict: &mut Dict, path: &[String], value: Value) {
    match path {
        [] => {}
        [last] => {
            dict.insert(last.clone(), value);
        }
        [first, rest @ ..] => {
            let entry = dict.entry(first.clone()).or_insert_with(|| Value::Dict(Tag::Default, Dict::new()));
            if !matches!(entry, Value::Dict(..)) {
                *entry = Value::Dict(Tag::Default, Dict::new());
            }
            if let Value::Dict(_, inner) = entry {
                put(inner, rest, value);
            }
        }
    }
}

fn contains(dict: &Dict, path: &[String]) -> bool {
    let Some((first, rest)) = path.split_first() else { return true };
    let mut value = dict.get(first);
    for part in rest {
        value = match value {
            Some(Value::Dict(_, inner)) => inner.get(part),
            Some(Value::Array(_, list)) => part.parse().ok().and_then(|index: usize| list.get(index)),
            Some(Value::String(..) | Value::Char(..) | Value::Bool(..) | Value::Num(..) | Value::Empty(..)) | None => {
                None
            }
        };
    }
    value.is_some()
}

/// What Kubernetes sets in every container for each service: `NAME_SERVICE_HOST`, `NAME_PORT_80_TCP_ADDR` and so on.
fn is_of_kubernetes(rest: &str) -> bool {
    let parts: Vec<&str> = rest.split('_').collect();
    let is_port = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let tail = |at: usize| parts.get(at..).unwrap_or_default();
    (0..parts.len()).any(|at| match tail(at) {
        ["SERVICE", "HOST"] | ["SERVICE", "PORT", ..] | ["PORT"] => true,
        ["PORT", number, "TCP" | "UDP" | "SCTP", ..] => is_port(number),
        _ => false,
    }) && !rest.contains("__")
}

fn variable_fault(name: &str, path: &[String], found: &str) -> ConfigFault {
    ConfigFault {
        kind: FaultKind::Value,
        place: Place::Variable(name.to_owned()),
        key: path.join("."),
        found: found.to_owned(),
        expected: "text".to_owned(),
        suggestion: None,
        snippet: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_that_kubernetes_sets_for_a_service_are_none_of_ours() {
        for name in ["SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT", "PORT_8080_TCP", "PORT_8080_TCP_ADDR"]
        {
            assert!(is_of_kubernetes(name), "{name}");
        }
        assert!(is_of_kubernetes("ADMIN_SERVICE_HOST"));
        for name in ["LISTEN", "ACK__BUDGET", "SERVER__PORT", "PORT_X_TCP"] {
            assert!(!is_of_kubernetes(name), "{name}");
        }
    }
}

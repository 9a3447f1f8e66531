//! The layer of environment variables: `HOOKGATE_ACK__BUDGET=10s` is `ack.budget`, `__` nests.
//!
//! A value is text as it stands; one that begins with `[` or `{` is read as a TOML list or table. Not read as keys:
//! `HOOKGATE_CONFIG`, `HOOKGATE_ADMIN_TOKEN` and every other variable that the configuration names as a secret, and
//! what Kubernetes sets for a service called `hookgate` (`HOOKGATE_SERVICE_HOST`, `HOOKGATE_PORT_8080_TCP`, …).

use std::collections::{BTreeMap, BTreeSet};

use figment::value::{Dict, Map, Tag, Value};
use figment::{Metadata, Profile, Provider};

use super::environment::Environment;
use super::fault::{ConfigFault, FaultKind, Place};
use super::find::CONFIG_VARIABLE;
use super::source::{KeyPath, lone_value};

/// What every variable of the configuration starts with.
pub const PREFIX: &str = "HOOKGATE_";

/// The variable that usually holds the token of API; never read as a key.
pub const TOKEN_VARIABLE: &str = "HOOKGATE_ADMIN_TOKEN";

/// The variables that are part of the configuration.
pub(super) struct Variables {
    dict: Dict,
    names: BTreeMap<KeyPath, String>,
}

impl Variables {
    /// Reads those of the environment that are not `ignored`.
    pub(super) fn read(environment: &Environment, ignored: &BTreeSet<String>, faults: &mut Vec<ConfigFault>) -> Self {
        let ours = environment.iter().filter_map(|(name, value)| Some((name, name.strip_prefix(PREFIX)?, value)));
        let ours = ours.filter(|(name, rest, _)| {
            *name != CONFIG_VARIABLE && *name != TOKEN_VARIABLE && !is_of_kubernetes(rest) && !ignored.contains(*name)
        });
        let read: Vec<_> = ours
            .map(|(name, rest, value)| (name, rest, value.to_str().ok_or("not UTF-8 text").and_then(read_value)))
            .collect();
        let values = read.iter().filter_map(|(_, _, value)| value.as_ref().ok());
        let secrets: BTreeSet<String> = values.flat_map(variables_named).collect();
        let mut variables = Self { dict: Dict::new(), names: BTreeMap::new() };
        for (name, rest, value) in read.into_iter().filter(|(name, _, _)| !secrets.contains(*name)) {
            let path: KeyPath = rest.split("__").map(str::to_lowercase).collect();
            match value {
                Ok(value) => variables.put(name, &path, value),
                Err(found) => faults.push(variable_fault(name, &path, found)),
            }
        }
        variables
    }

    /// The variable that gave a key or a part of its value.
    pub(super) fn name_of(&self, path: &[String]) -> Option<&str> {
        let exact = (1..=path.len()).rev().find_map(|length| self.names.get(path.get(..length)?));
        exact.filter(|_| contains(&self.dict, path)).map(String::as_str)
    }

    fn put(&mut self, name: &str, path: &[String], value: Value) {
        self.names.insert(path.to_vec(), name.to_owned());
        put(&mut self.dict, path, value);
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

fn read_value(text: &str) -> Result<Value, &'static str> {
    if text.starts_with(['[', '{']) {
        return lone_value(text).ok_or("not a valid TOML list or table");
    }
    Ok(Value::from(text))
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
        expected: "text, or a TOML list or table".to_owned(),
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

//! `config show`: the merged configuration with its defaults filled in, and where each value came from. A secret is
//! shown as the place it is read from; one that is written out is not shown.

use figment::value::{Dict, Num, Value};
use serde_json::json;
use toml_edit::{Array, InlineTable, Key};

use super::defaults::{self, lay};
use super::fault::{ConfigFaults, Place};
use super::layers::{Layers, Origin};
use super::source::{KeyPath, dotted, is_address, is_secret};

/// The form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShowFormat {
    /// TOML that could be loaded again, but for secrets that are written out.
    Toml,
    /// One JSON object.
    Json,
}

/// Whether each value is shown with its origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShowOrigins {
    /// As a comment behind it; in JSON, one entry `{"value", "origin"}` for each dotted key.
    Yes,
    /// Values alone.
    No,
}

/// What stands in place of a secret that is written out.
const REDACTED: &str = "(redacted)";

/// The merged configuration as text. Secrets need not be resolvable for it; a key that is unknown or of the wrong
/// type is a fault, since nothing could tell whether it is secret.
pub fn show(layers: &Layers, format: ShowFormat, origins: ShowOrigins) -> Result<String, ConfigFaults> {
    let dict = filled(layers.readable()?);
    Ok(match (format, origins) {
        (ShowFormat::Toml, _) => {
            let mut page = Page { layers, origins, text: String::new() };
            page.table(&dict, &mut KeyPath::new());
            page.text
        }
        (ShowFormat::Json, ShowOrigins::No) => lines(&to_json(&Value::from(dict), &mut KeyPath::new())),
        (ShowFormat::Json, ShowOrigins::Yes) => {
            let mut entries = serde_json::Map::new();
            flatten(layers, &dict, &mut KeyPath::new(), &mut entries);
            lines(&entries.into())
        }
    })
}

/// The routes with what is said for a silent route.
fn filled(mut dict: Dict) -> Dict {
    if let Some(Value::Dict(_, routes)) = dict.get_mut("routes") {
        for route in routes.values_mut() {
            if let Value::Dict(tag, table) = route {
                *route = Value::Dict(*tag, lay(defaults::route(), std::mem::take(table)));
            }
        }
    }
    dict
}

fn lines(json: &serde_json::Value) -> String {
    format!("{json:#}\n")
}

fn origin(layers: &Layers, path: &[String]) -> String {
    match layers.origin(path) {
        Origin::Default => "default".to_owned(),
        Origin::Given(Place::File { name, line, .. }) => format!("{name}:{line}"),
        Origin::Given(place @ (Place::Variable(_) | Place::Nowhere)) => place.to_string(),
    }
}

struct Page<'a> {
    layers: &'a Layers,
    origins: ShowOrigins,
    text: String,
}

impl Page<'_> {
    fn table(&mut self, dict: &Dict, path: &mut KeyPath) {
        for (key, value) in dict.iter().filter(|(_, value)| value.as_dict().is_none()) {
            path.push(key.clone());
            let value = to_toml(value, path).to_string();
            self.text.extend([&Key::new(key).display_repr(), " = ", &value]);
            if self.origins == ShowOrigins::Yes {
                self.text.extend(["  # ", &origin(self.layers, path)]);
            }
            self.text.push('\n');
            path.pop();
        }
        for (key, inner) in dict.iter().filter_map(|(key, value)| value.as_dict().map(|inner| (key, inner))) {
            path.push(key.clone());
            if inner.is_empty() || inner.values().any(|value| value.as_dict().is_none()) {
                let header: Vec<String> = path.iter().map(|part| Key::new(part).display_repr().into_owned()).collect();
                self.text.extend(["\n[", &header.join("."), "]\n"]);
            }
            self.table(inner, path);
            path.pop();
        }
    }
}

/// What may be shown of a text.
fn visible(path: &[String], text: &str) -> String {
    match (text.split_once("://"), text.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) if !path.iter().any(|part| part == "literal") => {
            format!("{scheme}://{REDACTED}@{host}")
        }
        (Some(_), None) if is_address(path) && !text.contains('?') => text.to_owned(),
        _ if is_secret(path) => REDACTED.to_owned(),
        _ => text.to_owned(),
    }
}

fn to_toml(value: &Value, path: &mut KeyPath) -> toml_edit::Value {
    match value {
        Value::String(_, text) => visible(path, text).into(),
        Value::Char(_, letter) => visible(path, &letter.to_string()).into(),
        Value::Bool(..) | Value::Num(..) if is_secret(path) => REDACTED.into(),
        Value::Bool(_, truth) => (*truth).into(),
        Value::Num(_, number) => number_to_toml(*number),
        Value::Empty(..) => "".into(),
        Value::Dict(_, dict) => {
            let mut table = InlineTable::new();
            for (key, value) in dict {
                path.push(key.clone());
                table.insert(key, to_toml(value, path));
                path.pop();
            }
            table.into()
        }
        Value::Array(_, list) => {
            let mut array = Array::new();
            for (index, value) in list.iter().enumerate() {
                path.push(index.to_string());
                array.push(to_toml(value, path));
                path.pop();
            }
            array.into()
        }
    }
}

fn number_to_toml(number: Num) -> toml_edit::Value {
    match i64::try_from(number.to_i128().unwrap_or(i128::MAX)) {
        Ok(whole) => whole.into(),
        Err(_) => number.to_f64().unwrap_or_default().into(),
    }
}

fn to_json(value: &Value, path: &mut KeyPath) -> serde_json::Value {
    match value {
        Value::String(_, text) => visible(path, text).into(),
        Value::Char(_, letter) => visible(path, &letter.to_string()).into(),
        Value::Bool(..) | Value::Num(..) if is_secret(path) => REDACTED.into(),
        Value::Bool(_, truth) => (*truth).into(),
        Value::Num(_, number) => match i64::try_from(number.to_i128().unwrap_or(i128::MAX)) {
            Ok(whole) => whole.into(),
            Err(_) => number.to_f64().into(),
        },
        Value::Empty(..) => serde_json::Value::Null,
        Value::Dict(_, dict) => {
            let mut object = serde_json::Map::new();
            for (key, value) in dict {
                path.push(key.clone());
                object.insert(key.clone(), to_json(value, path));
                path.pop();
            }
            object.into()
        }
        Value::Array(_, list) => {
            let mut array = Vec::new();
            for (index, value) in list.iter().enumerate() {
                path.push(index.to_string());
                array.push(to_json(value, path));
                path.pop();
            }
            array.into()
        }
    }
}

fn flatten(layers: &Layers, dict: &Dict, path: &mut KeyPath, entries: &mut serde_json::Map<String, serde_json::Value>) {
    for (key, value) in dict {
        path.push(key.clone());
        if let Value::Dict(_, inner) = value {
            flatten(layers, inner, path, entries);
        } else {
            let entry = json!({ "value": to_json(value, path), "origin": origin(layers, path) });
            entries.insert(dotted(path), entry);
        }
        path.pop();
    }
}

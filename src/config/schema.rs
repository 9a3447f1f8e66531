//! `config schema`: the configuration as a JSON Schema for editors, in draft 07, the one they all understand. It is
//! made from the raw types and the defaults; the cross-key rules are not in it.

use figment::value::{Dict, Value};
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value as Json, json};

use super::defaults;
use super::raw::RawConfig;

/// Keys that only a provider has, not a route that overrides its parts.
const NOT_OVERRIDDEN: [&str; 2] = ["extends", "about"];

/// The JSON Schema of a configuration file.
#[must_use]
pub fn schema() -> Json {
    let mut schema = SchemaSettings::draft07().into_generator().into_root_schema_for::<RawConfig>().to_value();
    let parts = properties(&mut schema, "RawScheme").cloned().unwrap_or_default();
    if let Some(route) = properties(&mut schema, "RawRoute") {
        for (key, part) in parts.into_iter().filter(|(key, _)| !NOT_OVERRIDDEN.contains(&key.as_str())) {
            route.insert(key, part);
        }
    }
    if let Some(route) = definition(&mut schema, "RawRoute") {
        route.insert("required".to_owned(), json!(["path", "provider", "secrets"]));
    }
    if let Ok(source) = defaults::layer() {
        put_defaults(&mut schema, None, &source.dict);
    }
    put_defaults(&mut schema, Some("RawRoute"), &defaults::route());
    if let Some(root) = schema.as_object_mut() {
        root.insert("title".to_owned(), "hookgate configuration".into());
    }
    schema
}

fn definition<'s>(schema: &'s mut Json, name: &str) -> Option<&'s mut Map<String, Json>> {
    schema.get_mut("definitions")?.get_mut(name)?.as_object_mut()
}

fn properties<'s>(schema: &'s mut Json, name: &str) -> Option<&'s mut Map<String, Json>> {
    definition(schema, name)?.get_mut("properties")?.as_object_mut()
}

/// Writes the defaults beside the keys of a definition; `None`: of the root.
fn put_defaults(schema: &mut Json, name: Option<&str>, defaults: &Dict) {
    for (key, default) in defaults {
        let table = match name {
            Some(name) => properties(schema, name),
            None => schema.get_mut("properties").and_then(Json::as_object_mut),
        };
        let Some(property) = table.and_then(|table| table.get_mut(key)).and_then(Json::as_object_mut) else { continue };
        match (default, reference(property)) {
            (Value::Dict(_, inner), Some(inner_name)) if inner_name != "RawRetries" => {
                put_defaults(schema, Some(&inner_name), inner);
            }
            _ => {
                property.insert("default".to_owned(), plain(default));
            }
        }
    }
}

/// The definition that a property refers to.
fn reference(property: &Map<String, Json>) -> Option<String> {
    let direct = property.get("$ref");
    let wrapped = property.get("allOf").and_then(|all| all.get(0)).and_then(|first| first.get("$ref"));
    direct.or(wrapped)?.as_str()?.strip_prefix("#/definitions/").map(str::to_owned)
}

fn plain(value: &Value) -> Json {
    serde_json::to_value(value).unwrap_or(Json::Null)
}

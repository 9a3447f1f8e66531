//! The defaults. They stand in `config/hookgate.toml`, which is default, manual and example in one; here is only how
//! the default layer is taken from it.

use std::path::PathBuf;

use figment::value::{Dict, Value};

use super::fault::ConfigFault;
use super::source::{KeyPath, Source};
use super::variables::variable_for;

/// The commented example: `hookgate config init` prints it.
pub const EXAMPLE: &str = include_str!("../../config/hookgate.toml");

/// What a route is where it is silent.
const ROUTE: &str = r#"
enforce = true
methods = ["POST"]
max_body_bytes = "1MiB"
events = []
allow_from = []
"#;

/// The layer below all others.
pub(super) fn layer() -> Result<Source, Box<ConfigFault>> {
    let mut source = Source::read("built-in defaults".to_owned(), PathBuf::new(), EXAMPLE.to_owned())?;
    for table in ["routes", "providers", "passthrough"] {
        source.dict.remove(table);
    }
    source.dict.insert("passthrough".to_owned(), Value::from(Dict::from([("paths".to_owned(), none())])));
    Ok(source)
}

fn none() -> Value {
    Value::from(Vec::<Value>::new())
}

/// The layer below every route's own table.
pub(super) fn route() -> Dict {
    Source::read("built-in defaults".to_owned(), PathBuf::new(), ROUTE.to_owned())
        .map(|source| source.dict)
        .unwrap_or_default()
}

/// The variables for all keys that have a default.
pub(super) fn variable_names() -> impl Iterator<Item = String> {
    let mut paths = Vec::new();
    if let Ok(source) = layer() {
        collect(&source.dict, &mut KeyPath::new(), &mut paths);
    }
    paths.into_iter().map(|path| variable_for(&path))
}

fn collect(dict: &Dict, path: &mut KeyPath, paths: &mut Vec<KeyPath>) {
    for (key, value) in dict {
        path.push(key.clone());
        if let Value::Dict(_, inner) = value {
            collect(inner, path, paths);
        }
        paths.push(path.clone());
        path.pop();
    }
}

/// `over` laid over `base`: tables are united, everything else is replaced.
pub(super) fn lay(base: Dict, over: Dict) -> Dict {
    let mut laid = base;
    for (key, value) in over {
        let below = laid.remove(&key);
        let value = match (below, value) {
            (Some(Value::Dict(_, below)), Value::Dict(tag, above)) => Value::Dict(tag, lay(below, above)),
            (_, value) => value,
        };
        laid.insert(key, value);
    }
    laid
}

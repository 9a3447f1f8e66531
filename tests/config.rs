//! The configuration from the outside: files and variables in, settings or faults out.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test may")]
#![allow(clippy::format_push_string, reason = "what is said is gathered for one look")]

#[path = "config/examples.rs"]
mod examples;
#[path = "config/faults.rs"]
mod faults;
#[path = "config/layers.rs"]
mod layers;
#[path = "config/rules.rs"]
mod rules;
#[path = "config/secrets.rs"]
mod secrets;
#[path = "config/show.rs"]
mod show;

use std::path::{Path, PathBuf};

use hookgate::config::{Config, ConfigFault, ConfigFaults, Environment, FaultKind, Layers, Place};
use hookgate::domain::time::Timestamp;

/// 2025-10-09T08:53:20Z.
const NOW: Timestamp = Timestamp::from_seconds(1_760_000_000);
/// A secret that must not show up in any text.
const CANARY: &str = "canary-d41d8cd98f00b204e9800998ecf8427e";
/// One route that is fine.
const ROUTE: &str = "[routes.a]\npath = \"/a\"\nprovider = \"github\"\nsecrets = [{ env = \"SECRET\" }]\n";

fn environment() -> Environment {
    environment_with(&[])
}

fn environment_with(more: &[(&str, &str)]) -> Environment {
    let names = ["SECRET", "GITHUB_SECRET", "VEEDEO_SECRET", "VIDEOPILOT_SECRET"];
    let redis = ("REDIS_URL", "redis://user:canary-password@redis.internal:6379/0");
    let variables = names.iter().map(|name| (*name, CANARY)).chain([redis]).chain(more.iter().copied());
    Environment::of(NOW, variables)
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn check(text: &str) -> Result<Config, ConfigFaults> {
    check_with(text, &environment())
}

fn check_with(text: &str, environment: &Environment) -> Result<Config, ConfigFaults> {
    Layers::of_text("hookgate.toml", text, environment)?.check()
}

/// The faults of a text.
fn faults(text: &str) -> Vec<ConfigFault> {
    check(text).unwrap_err().iter().cloned().collect()
}

/// The only fault of a text.
fn fault(text: &str) -> ConfigFault {
    only(check(text).unwrap_err())
}

fn only(faults: ConfigFaults) -> ConfigFault {
    assert_eq!(faults.len(), 1, "{}", faults.plain());
    faults.iter().next().unwrap().clone()
}

fn at(line: usize, column: usize) -> Place {
    Place::File { name: "hookgate.toml".to_owned(), line, column }
}

fn note_of<'c>(config: &'c Config, key: &str) -> Option<&'c hookgate::config::Note> {
    config.notes.iter().find(|note| note.key == key)
}

/// A fault of this kind, at this place, for this key.
#[track_caller]
fn assert_fault(fault: &ConfigFault, kind: FaultKind, key: &str, place: &Place) {
    assert_eq!((fault.kind, fault.key.as_str(), &fault.place), (kind, key, place), "{}", fault.line());
}

//! The configuration from the outside: files and variables in, settings or faults out.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test may")]

use std::path::{Path, PathBuf};

use hookgate::config::{ConfigFaults, Environment, Layers, load};
use hookgate::domain::time::Timestamp;

/// 2025-10-09T08:53:20Z.
const NOW: Timestamp = Timestamp::from_seconds(1_760_000_000);
/// A secret that must not show up in any text.
const CANARY: &str = "canary-d41d8cd98f00b204e9800998ecf8427e";

fn environment() -> Environment {
    Environment::of(NOW, [("VEEDEO_SECRET", CANARY), ("VIDEOPILOT_SECRET", CANARY)])
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn the_veedeo_example_loads() {
    let config = load(Some(&repository("config/veedeo.toml")), &environment()).unwrap();
    assert_eq!(config.routes.len(), 1);
    assert_eq!(&*config.routes[0].name, "veedeo");
}

#[test]
fn several_faults_in_several_places_come_out_in_one_report() {
    let text = "listen = \"8080\"\n[ack]\nbugdet = \"10s\"\nmode = \"realy\"\n[server]\nthreads = \"four\"\n[routes.a]\npath = \"a\"\nprovider = \"vedeo\"\nsecrets = [{ env = \"X\" }, { litteral = \"canary\" }, 5]\nmethds = 1\n[routes.b]\n";
    let faults = faults(text);
    assert!(faults.len() >= 9, "{}", faults.plain());
}

fn faults(text: &str) -> ConfigFaults {
    Layers::of_text("hookgate.toml", text, &environment()).and_then(|layers| layers.check()).unwrap_err()
}

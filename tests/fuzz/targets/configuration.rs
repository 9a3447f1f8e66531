//! Any text as a configuration file: it loads or is refused with reasons that do not tell a secret, and never a panic.

#![no_main]

use std::path::PathBuf;
use std::sync::OnceLock;

use hookgate::config::{Environment, load};
use hookgate::domain::time::Timestamp;
use libfuzzer_sys::fuzz_target;

static FILE: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();

fn file() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("hookgate.toml");
    (folder, path)
}

fuzz_target!(|data: &[u8]| {
    // Other files are other people's.
    if data.windows(4).any(|window| window == b"file" || window == b"incl" || window == b"\\u00" || window == b"\\U00")
    {
        return;
    }
    let (_, path) = FILE.get_or_init(file);
    std::fs::write(path, data).expect("a file");
    let environment = Environment::of(Timestamp::from_seconds(1_760_000_000), [("SECRET", "canary-7d41c0a9e2b85f36")]);
    let said = match load(Some(path), &environment) {
        Ok(config) => format!("{config:?}"),
        Err(faults) => format!("{faults} {faults:?}"),
    };
    assert!(!said.contains("canary-7d41c0a9e2b85f36"), "{said}");
});

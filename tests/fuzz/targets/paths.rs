//! Any path where everything that is no route passes through: what passes is no spelling of the route to any of the usual
//! readers, who each do some of these: decode once or twice, ignore case, cut parameters, merge and trim slashes.

#![no_main]

use std::path::Path;
use std::sync::OnceLock;

use hookgate::config::{Environment, load};
use hookgate::domain::time::Timestamp;
use hookgate::gateway::fuzzed;
use hookgate::gateway::site::Site;
use libfuzzer_sys::fuzz_target;

static SITE: OnceLock<Site> = OnceLock::new();

const CONFIGURATION: &str = "passthrough.paths = ['/*']\nroutes.a.path = '/hook'\nroutes.a.provider = 'github'\n\
                             routes.a.secrets = [{ literal = 'a secret for this alone' }]\n";

fn site() -> Site {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("hookgate.toml");
    std::fs::write(&file, CONFIGURATION).expect("a file");
    let environment = Environment::of::<&str, &str>(Timestamp::from_seconds(1_760_000_000), []);
    let Ok(config) = load(Some(Path::new(&file)), &environment) else { panic!("a good configuration") };
    Site::new(&config.routes, config.passthrough.clone(), config.app.clone())
}

fn decode(path: &str) -> String {
    let bytes = path.as_bytes();
    let mut text = String::new();
    let mut at = 0;
    while at < bytes.len() {
        let value = path.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let encoded = bytes[at] == b'%' && bytes.get(at + 1) != Some(&b'+');
        match value.filter(|_| encoded) {
            Some(value) => {
                text.push(char::from(value));
                at += 3;
            }
            None => {
                text.push(char::from(bytes[at]));
                at += 1;
            }
        }
    }
    text
}

/// What one kind of reader does to a path.
const STEPS: [fn(&str) -> String; 6] = [
    decode,
    |path| path.to_ascii_lowercase(),
    |path| path.split('/').map(|part| part.split(';').next().unwrap_or_default()).collect::<Vec<_>>().join("/"),
    |path| path.replace('\\', "/"),
    |path| path.split('/').filter(|part| !part.is_empty() && *part != ".").map(|part| format!("/{part}")).collect(),
    |path| path.trim_end_matches(['/', '\0', ' ', '\n', '\r', '\t']).to_owned(),
];

fuzz_target!(|data: &[u8]| {
    let Ok(path) = std::str::from_utf8(data) else { return };
    if !path.starts_with('/') || !path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#' && byte != b'?') {
        return;
    }
    if !fuzzed::passes(SITE.get_or_init(site), path) {
        return;
    }
    for start in [path.to_owned(), decode(path)] {
        for chosen in 0..1_u32 << STEPS.len() {
            let steps = STEPS.iter().enumerate().filter(|(at, _)| chosen >> at & 1 == 1);
            let read = steps.fold(start.clone(), |path, (_, step)| step(&path));
            assert_ne!(read, "/hook", "{path}");
        }
    }
});

//! The examples in `config/`: each loads, and says what it claims to say.

use std::collections::BTreeSet;
use std::path::Path;

use hookgate::config::{EXAMPLE, Layers, NoteLevel, ShowFormat, ShowOrigins, Store, load, schema, show};
use hookgate::domain::shared_store::Place;
use serde_json::Value;

use super::{check, environment, repository};

fn examples() -> BTreeSet<String> {
    let files = std::fs::read_dir(repository("config")).unwrap().map(|entry| entry.unwrap().file_name());
    let toml = |name: &String| Path::new(name).extension().is_some_and(|extension| extension == "toml");
    files.filter_map(|name| name.into_string().ok()).filter(toml).collect()
}

#[test]
fn every_example_loads_without_a_warning() {
    let found = examples();
    for name in ["every-key", "hookgate", "minimal", "redis", "veedeo", "videopilot"] {
        assert!(found.contains(&format!("{name}.toml")), "{name} in {found:?}");
    }
    for name in found {
        let config = load(Some(&repository("config").join(&name)), &environment());
        let config = config.unwrap_or_else(|faults| panic!("{}", faults.plain()));
        assert!(!config.routes.is_empty(), "{name}");
        let warnings: Vec<_> = config.notes.iter().filter(|note| note.level == NoteLevel::Warn).collect();
        assert!(warnings.is_empty(), "{name}: {warnings:?}");
    }
}

#[test]
fn the_redis_example_reads_its_address_from_the_variable() {
    let config = load(Some(&repository("config/redis.toml")), &environment()).unwrap();
    let Store::Redis(redis) = &config.dedup.store else { panic!("{:?}", config.dedup) };
    let Place::One(url) = &redis.link.place else { panic!("{:?}", redis.link) };
    assert_eq!(url.secret.expose(), b"redis://user:canary-password@redis.internal:6379/0");
    assert_eq!(redis.wait_replicas, 1);
}

/// The defaults as the documentation of the configuration states them.
const DEFAULTS: &[(&str, &str)] = &[
    ("listen", r#""0.0.0.0:8080""#),
    ("telemetry", r#""0.0.0.0:9464""#),
    ("admin", r#""127.0.0.1:9465""#),
    ("server.threads", "0"),
    ("server.header_timeout", r#""10s""#),
    ("server.body_timeout", r#""10s""#),
    ("server.idle_timeout", r#""60s""#),
    ("server.write_timeout", r#""10s""#),
    ("server.shutdown_grace", r#""25s""#),
    ("server.max_header_bytes", r#""32KiB""#),
    ("server.max_connections", "10000"),
    ("server.max_connections_per_source", "1000"),
    ("server.max_buffered_bytes", r#""256MiB""#),
    ("server.trusted_proxies", "[]"),
    ("app.url", r#""http://127.0.0.1:3000""#),
    ("app.connect_timeout", r#""2s""#),
    ("app.attempt_timeout", r#""60s""#),
    ("app.max_in_flight", "64"),
    ("app.preserve_host", "true"),
    ("ack.budget", r#""30s""#),
    ("ack.reserve", r#""2s""#),
    ("ack.mode", r#""relay""#),
    ("ack.on_app_failure", r#""absorb""#),
    ("ack.on_app_rejection", r#""pass""#),
    ("ack.reply.status", "200"),
    ("ack.reply.content_type", r#""application/json""#),
    ("ack.reply.body", r#""{\"received\":true}""#),
    ("dedup.store", r#""embedded""#),
    ("dedup.ttl", r#""24h""#),
    ("dedup.on_store_down", r#""local""#),
    ("dedup.redis.url", r#""redis://127.0.0.1:6379/0""#),
    ("dedup.redis.timeout", r#""50ms""#),
    ("dedup.redis.wait_replicas", "0"),
    ("dedup.redis.key_prefix", r#""hookgate""#),
    ("spool.path", r#""/var/lib/hookgate""#),
    ("spool.max_bytes", r#""2GiB""#),
    ("spool.min_free_bytes", r#""256MiB""#),
    ("spool.max_age", r#""3d""#),
    ("delivery.retries.first", r#""1s""#),
    ("delivery.retries.factor", "2.0"),
    ("delivery.retries.max", r#""5m""#),
    ("delivery.retries.jitter", "true"),
    ("delivery.retries.attempts", "20"),
    ("delivery.breaker.failures", "5"),
    ("delivery.breaker.probe_every", r#""5s""#),
    ("log.format", r#""auto""#),
    ("log.level", r#""info""#),
    ("passthrough.paths", "[]"),
    ("routes.a.enforce", "true"),
    ("routes.a.methods", r#"["POST"]"#),
    ("routes.a.max_body_bytes", r#""1MiB""#),
    ("routes.a.events", "[]"),
    ("routes.a.allow_from", "[]"),
];

#[test]
fn every_default_is_the_documented_one_and_there_are_no_others() {
    let layers = Layers::of_text("hookgate.toml", super::ROUTE, &environment()).unwrap();
    let shown: Value = serde_json::from_str(&show(&layers, ShowFormat::Json, ShowOrigins::Yes).unwrap()).unwrap();
    let shown = shown.as_object().unwrap();
    for (key, value) in DEFAULTS {
        let value: Value = serde_json::from_str(value).unwrap();
        assert_eq!(shown.get(*key).map(|entry| &entry["value"]), Some(&value), "{key}");
        assert_eq!(shown[*key]["origin"], "default", "{key}");
    }
    assert_eq!(shown.len(), DEFAULTS.len() + 3, "path, provider and secrets have no default");
}

#[test]
fn the_example_for_every_key_says_the_defaults() {
    let layers = Layers::read(Some(&repository("config/every-key.toml")), &environment()).unwrap();
    let shown: Value = serde_json::from_str(&show(&layers, ShowFormat::Json, ShowOrigins::Yes).unwrap()).unwrap();
    for (key, value) in DEFAULTS {
        let entry = &shown[key.replace("routes.a.", "routes.veedeo.")];
        assert_eq!(entry["value"], serde_json::from_str::<Value>(value).unwrap(), "{key}");
        assert_ne!(entry["origin"], "default", "{key} is not in the example");
    }
}

#[test]
fn the_example_for_every_key_names_every_key_of_the_schema() {
    let text = std::fs::read_to_string(repository("config/every-key.toml")).unwrap();
    let schema = schema();
    let definitions = schema["definitions"].as_object().unwrap();
    let ours = definitions
        .iter()
        .filter(|(name, _)| name.starts_with("Raw") && (!from_a_scheme(name) || *name == "RawScheme"));
    let tables: Vec<&Value> = ours.map(|(_, table)| table).chain([&schema]).collect();
    assert!(tables.len() > 10, "{}", tables.len());
    let keys = tables.iter().filter_map(|table| table["properties"].as_object()).flat_map(|keys| keys.keys());
    let mut count = 0;
    for key in keys.filter(|key| !["routes", "providers"].contains(&key.as_str())) {
        let words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
        assert!(words.clone().any(|word| word == key), "{key} is not in the example");
        count += 1;
    }
    assert!(count > 80, "{count}");
}

fn from_a_scheme(name: &str) -> bool {
    [
        "RawScheme",
        "RawKey",
        "RawSignature",
        "RawAlso",
        "RawToken",
        "RawTimestamp",
        "RawSignedAt",
        "RawBodyDigest",
        "RawChallenge",
    ]
    .contains(&name)
        || name == "RawAbout"
}

#[test]
fn what_config_init_prints_loads_and_sets_nothing_but_defaults() {
    let config = check(EXAMPLE).unwrap_or_else(|faults| panic!("{}", faults.plain()));
    assert_eq!(config.routes.len(), 1);
    let layers = Layers::of_text("hookgate.toml", EXAMPLE, &environment()).unwrap();
    let plain = Layers::of_text(
        "hookgate.toml",
        "[routes.veedeo]\npath = \"/webhooks/veedeo\"\nprovider = \"veedeo\"\nsecrets = [{ env = \"VEEDEO_SECRET\" }]",
        &environment(),
    )
    .unwrap();
    let [mine, theirs] = [layers, plain].map(|layers| show(&layers, ShowFormat::Json, ShowOrigins::No).unwrap());
    assert_eq!(mine, theirs);
}

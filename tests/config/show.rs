//! What people are shown: the merged configuration, the schema, the report of `validate`.

use hookgate::config::report::{accepted, notes};
use hookgate::config::{Layers, Note, NoteLevel, ShowFormat, ShowOrigins, schema, show};
use serde_json::json;

use super::{ROUTE, check, environment, environment_with, repository};

#[test]
fn the_merged_configuration_says_where_each_value_came_from() {
    let text = format!("[ack]\nbudget = \"20s\"\n{ROUTE}");
    let environment = environment_with(&[("HOOKGATE_ACK__RESERVE", "3s")]);
    let layers = Layers::of_text("hookgate.toml", &text, &environment).unwrap();
    let shown = show(&layers, ShowFormat::Toml, ShowOrigins::Yes).unwrap();
    for line in [
        "budget = \"20s\"  # hookgate.toml:2",
        "reserve = \"3s\"  # HOOKGATE_ACK__RESERVE",
        "mode = \"relay\"  # default",
        "secrets = [{ env = \"SECRET\" }]  # hookgate.toml:6",
        "methods = [\"POST\"]  # default",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line} in\n{shown}");
    }
}

#[test]
fn what_is_shown_loads_again_to_the_same() {
    let layers = Layers::of_text("hookgate.toml", ROUTE, &environment()).unwrap();
    let shown = show(&layers, ShowFormat::Toml, ShowOrigins::No).unwrap();
    let again = Layers::of_text("again.toml", &shown, &environment()).unwrap();
    assert!(again.check().is_ok());
    assert_eq!(show(&again, ShowFormat::Toml, ShowOrigins::No).unwrap(), shown);
}

#[test]
fn overridden_parts_of_a_provider_are_shown() {
    let text = format!("{ROUTE}[routes.a.timestamp]\ntolerance = \"10m\"\n[providers.p]\nextends = \"github\"\n");
    let layers = Layers::of_text("hookgate.toml", &text, &environment()).unwrap();
    let shown: serde_json::Value =
        serde_json::from_str(&show(&layers, ShowFormat::Json, ShowOrigins::No).unwrap()).unwrap();
    assert_eq!(shown["routes"]["a"]["timestamp"], json!({ "tolerance": "10m" }));
    assert_eq!(shown["providers"]["p"], json!({ "extends": "github" }));
}

#[test]
fn the_schema_is_draft_07_and_knows_every_table() {
    let schema = schema();
    assert_eq!(schema["$schema"], "http://json-schema.org/draft-07/schema#");
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(schema["properties"]["listen"]["default"], "0.0.0.0:8080");
    let definitions = &schema["definitions"];
    assert_eq!(definitions["RawServer"]["properties"]["header_timeout"]["default"], "10s");
    assert_eq!(definitions["RawServer"]["additionalProperties"], false);
    let route = &definitions["RawRoute"];
    assert_eq!(route["required"], json!(["path", "provider", "secrets"]));
    for key in ["path", "ack", "timestamp", "signature", "event_id"] {
        assert!(route["properties"].get(key).is_some(), "{key}");
    }
    assert!(route["properties"].get("extends").is_none());
}

#[test]
fn the_schema_in_the_repository_is_the_one_that_is_printed() {
    let path = repository("config/hookgate.schema.json");
    let printed = format!("{:#}\n", schema());
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == printed, "write what `hookgate config schema` prints to {}", path.display());
}

#[test]
fn validate_says_in_one_line_what_a_configuration_is() {
    let config = check(ROUTE).unwrap();
    let report = accepted("hookgate.toml", &config, Some("writable (2 GiB of 81 GiB free)"));
    let first = "hookgate.toml: ok — 1 route, 1 secret (all readable), redis not used, spool /var/lib/hookgate writable (2 GiB of 81 GiB free)";
    assert_eq!(report.lines().next(), Some(first));
    assert!(report.contains("note  routes.a.timestamp  github signs no time"), "{report}");
}

#[test]
fn notes_stand_in_columns_with_warnings_last() {
    let note = |level, key: &str, text: &str| Note { level, key: key.to_owned(), text: text.to_owned() };
    let all = [
        note(NoteLevel::Warn, "a.b", "short"),
        note(NoteLevel::Note, "routes.videopilot", &"word ".repeat(25)),
        note(NoteLevel::Note, "routes.a-name-that-is-far-too-long-for-a-column", "text"),
    ];
    let text = notes(&all);
    let lines: Vec<_> = text.lines().collect();
    assert!(lines.iter().all(|line| line.chars().count() <= 112), "{text}");
    assert!(lines[0].starts_with("note  routes.videopilot  word word"), "{text}");
    assert!(lines[1].starts_with("                         word"), "{text}");
    assert_eq!(
        lines[2..],
        [
            "note  routes.a-name-that-is-far-too-long-for-a-column",
            "                         text",
            "warn  a.b                short"
        ]
    );
}

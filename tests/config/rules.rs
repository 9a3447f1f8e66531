//! What goes together and what does not: providers, ages, budgets, paths.

use hookgate::config::FaultKind::{Conflict, Value};
use hookgate::config::{Config, NoteLevel};
use hookgate::domain::pass_path::PassPath;

use super::{ROUTE, assert_fault, at, check, check_with, environment_with, fault, note_of};

const VEEDEO: &str = "[routes.v]\npath = \"/v\"\nprovider = \"veedeo\"\nsecrets = [{ env = \"SECRET\" }]\n";

fn fine(text: &str) -> Config {
    check(text).unwrap_or_else(|faults| panic!("{}", faults.plain()))
}

#[test]
fn an_event_is_remembered_longer_than_its_signed_time_is_accepted() {
    let text = |ttl: &str| format!("[dedup]\nttl = \"{ttl}\"\n{VEEDEO}");
    fine(&text("82801s"));
    let fault = fault(&text("23h"));
    assert_fault(&fault, Conflict, "dedup.ttl", &at(2, 7));
    assert!(fault.found.contains("a captured request could be delivered again"), "{}", fault.line());
}

#[test]
fn the_longest_head_fits_into_memory() {
    let text = |memory: &str| {
        format!(
            "[server]\nmax_header_bytes = \"64KiB\"\nmax_buffered_bytes = \"{memory}\"\n{ROUTE}max_body_bytes = \"1KiB\"\n"
        )
    };
    fine(&text("64KiB"));
    let fault = fault(&text("63KiB"));
    assert_fault(&fault, Conflict, "server.max_buffered_bytes", &at(3, 22));
}

#[test]
fn the_key_that_the_route_gave_is_the_one_that_is_wrong() {
    let fault = fault(&format!("{VEEDEO}[routes.v.signed_at]\nmax_age = \"24h\"\n"));
    assert_fault(&fault, Conflict, "routes.v.signed_at.max_age", &at(6, 11));
}

#[test]
fn what_the_sender_still_repeats_must_be_accepted() {
    let about = "[providers.p]\nextends = \"veedeo\"\nabout = { retry_horizon = \"23h\" }\n";
    let fault = fault(&format!("{about}{}", VEEDEO.replace("\"veedeo\"", "\"p\"")));
    assert_eq!((fault.kind, fault.key.as_str()), (Conflict, "routes.v.signed_at.max_age"));
    assert!(fault.found.contains("still repeats an event 23h after"), "{}", fault.line());
}

#[test]
fn a_timestamp_that_is_not_signed_and_a_provider_that_signs_no_time_are_noted() {
    let veedeo = fine(VEEDEO);
    let note = note_of(&veedeo, "routes.v.timestamp").unwrap();
    assert!(note.text.contains("not covered by the signature") && note.text.contains("too old after 23h"), "{note:?}");
    let github = fine(ROUTE);
    let note = note_of(&github, "routes.a.timestamp").unwrap();
    assert!(note.text.contains("signs no time") && note.text.contains("24h"), "{note:?}");
    assert_eq!(note.level, NoteLevel::Note);
}

#[test]
fn a_secret_with_which_a_challenge_of_another_route_is_hashed_is_warned_of() {
    let twitter = ROUTE.replace("[routes.a]", "[routes.x]").replace("/a", "/x").replace("github", "twitter");
    let config = fine(&format!("{ROUTE}{twitter}"));
    let note = note_of(&config, "routes.a.secrets[0]").unwrap();
    assert!(note.text.contains("it is a secret of route x too") && note.level == NoteLevel::Warn, "{note:?}");
    assert!(note_of(&config, "routes.x.secrets[0]").is_none());
    let other = twitter.replace("\"SECRET\"", "\"OTHER\"");
    let config = check_with(&format!("{ROUTE}{other}"), &environment_with(&[("OTHER", "another-secret-0123456789")]));
    assert!(note_of(&config.unwrap(), "routes.a.secrets[0]").is_none());
    assert!(
        note_of(&fine(&format!("{ROUTE}{}", twitter.replace("twitter", "slack"))), "routes.a.secrets[0]").is_none()
    );
}

#[test]
fn what_names_an_event_is_noted_where_the_provider_does_not() {
    let config = fine(VEEDEO);
    let note = note_of(&config, "routes.v.event_id").unwrap();
    assert_eq!(note.text, "the payload has no event id; key = sha256(/event, /task_id, /timestamp)");
    let config = fine(ROUTE);
    let note = note_of(&config, "routes.a.event_id").unwrap();
    assert!(
        note.text.contains("not covered by the signature; key = sha256(header:X-GitHub-Delivery, sha256(body))"),
        "{note:?}"
    );
    let own = "[providers.own]\nsignature = { header = \"X\", encoding = \"hex\" }\nsigned = \"{url}{body}\"\n";
    let config = fine(&format!("{}{own}", ROUTE.replace("github", "own")));
    let note = note_of(&config, "routes.a.event_id").unwrap();
    assert_eq!(note.text, "the provider names no event; key = sha256(body) and the query");
    let config = fine(&ROUTE.replace("github", "dropbox"));
    let note = note_of(&config, "routes.a.event_id").unwrap();
    assert!(note.text.contains("each request is an event of its own"), "{note:?}");
    let note = note_of(&config, "routes.a.timestamp").unwrap();
    assert!(note.text.ends_with("can be delivered again at any time"), "{note:?}");
    let config = fine(&ROUTE.replace("github", "clickup"));
    let note = note_of(&config, "routes.a.event_id").unwrap();
    assert!(note.text.starts_with("an event without its id (/history_items/0/id) is an event of its own"), "{note:?}");
    assert!(note_of(&config, "routes.a.timestamp").unwrap().text.ends_with("at any time"));
}

#[test]
fn a_sender_that_waits_less_than_the_budget_is_warned_about() {
    let provider = "[providers.p]\nextends = \"github\"\nabout = { budget = \"10s\" }\n";
    let text = format!("{provider}{}", ROUTE.replace("\"github\"", "\"p\""));
    let config = fine(&text);
    let note = note_of(&config, "ack.budget").unwrap();
    assert!(note.text.contains("p waits 10s only") && note.level == NoteLevel::Warn, "{note:?}");
    let config = fine(&format!(
        "{text}[routes.a.ack]\nbudget = \"10s\"\n[server]\nheader_timeout = \"3s\"\nbody_timeout = \"4s\"\n"
    ));
    assert!(note_of(&config, "routes.a.ack.budget").is_none(), "{:?}", config.notes);
}

#[test]
fn a_budget_that_ends_before_a_slow_request_is_read_is_warned_about() {
    let budget = |seconds: u32| fine(&format!("[ack]\nbudget = \"{seconds}s\"\n{ROUTE}"));
    let told = |config: &Config| config.notes.iter().any(|note| note.text.contains("server.header_timeout"));
    assert!(told(&budget(22)));
    assert!(!told(&budget(23)));
}

#[test]
fn a_route_that_only_observes_or_keeps_nothing_is_noted() {
    let config = fine(&format!("{ROUTE}enforce = false\nack = {{ mode = \"sync\" }}\n"));
    assert_eq!(note_of(&config, "routes.a.enforce").unwrap().level, NoteLevel::Warn);
    assert!(note_of(&config, "routes.a.ack.mode").unwrap().text.contains("keeps nothing on disk"));
}

#[test]
fn event_types_can_be_chosen_where_the_provider_names_them() {
    let text = |more: &str| {
        format!(
            "[providers.p]\nextends = \"github\"\n{more}\n{}events = [\"push\"]\n",
            ROUTE.replace("\"github\"", "\"p\"")
        )
    };
    let plain = "[providers.p]\nsignature = { header = \"X-S\", encoding = \"hex\" }\n";
    let fault = fault(&format!("{plain}{}events = [\"push\"]\n", ROUTE.replace("\"github\"", "\"p\"")));
    assert_fault(&fault, Conflict, "routes.a.events", &at(7, 10));
    assert_eq!(fine(&text("event_type = \"json:/type\"")).routes[0].events, ["push"]);
}

#[test]
fn an_own_provider_takes_whole_parts_from_the_one_it_extends() {
    let text = "[providers.p]\nextends = \"veedeo\"\nsignature = { header = \"X-P\", encoding = \"base64\" }\n";
    fine(&format!("{text}{}", VEEDEO.replace("\"veedeo\"", "\"p\"")));
    let own = "[providers.veedeo]\nextends = \"veedeo\"\nabout = { retry_horizon = \"1h\" }\n";
    fine(&format!("{own}{VEEDEO}"));
}

#[test]
fn a_token_that_holds_nothing_of_the_body_is_noted_with_what_would() {
    let own = "[providers.p]\nkind = \"jwt\"\ntoken = { header = \"X\" }\n";
    let route = ROUTE.replace("github", "p");
    let loose = fine(&format!("{own}{route}"));
    let note = note_of(&loose, "routes.a.claims").unwrap();
    assert!(note.text.contains("sha256 = \"{sha256_hex:body}\""), "{note:?}");
    let bound = fine(&format!("{own}claims = {{ h = \"{{sha256_hex:body}}\" }}\n{route}"));
    assert!(note_of(&bound, "routes.a.claims").is_none());
}

#[test]
fn a_fault_in_a_provider_that_no_route_uses_is_found() {
    let fault = fault(&format!("[providers.p]\nextends = \"githbu\"\n{ROUTE}"));
    assert_fault(&fault, Value, "providers.p.extends", &at(2, 11));
    assert_eq!(fault.suggestion.as_deref(), Some("github"));
}

#[test]
fn a_provider_overridden_by_a_route_keeps_what_the_route_does_not_say() {
    let text = format!("{VEEDEO}[routes.v.signed_at]\nmax_age = \"20h\"\n");
    let config = fine(&text);
    let note = note_of(&config, "routes.v.timestamp").unwrap();
    assert!(note.text.contains("too old after 20h"), "{note:?}");
}

#[test]
fn passed_through_paths_are_exact_or_all_below_one() {
    let config = fine(&format!("[passthrough]\npaths = [\"/health\", \"/static/*\"]\n{ROUTE}"));
    assert_eq!(config.passthrough, [PassPath::Exact("/health".to_owned()), PassPath::Below("/static/".to_owned())]);
    for (path, covered) in
        [("/health", true), ("/healthy", false), ("/static/a", true), ("/static", false), ("/a", false)]
    {
        assert_eq!(config.passthrough.iter().any(|pass| pass.matches(path)), covered, "{path}");
    }
}

#[test]
fn a_passed_through_tree_around_a_route_is_warned_about() {
    let config = fine(&format!("[passthrough]\npaths = [\"/*\"]\n{ROUTE}"));
    let note = note_of(&config, "passthrough.paths[0]").unwrap();
    assert!(note.text.contains("around the route path /a") && note.level == NoteLevel::Warn, "{note:?}");
}

#[test]
fn what_passes_through_where_the_application_gets_events_is_warned_about() {
    let texts = |paths: &str| {
        let route = format!("{ROUTE}[routes.a.app]\nurl = \"http://127.0.0.1:3000/inner\"\n");
        let config = fine(&format!("[passthrough]\npaths = [{paths}]\n{route}"));
        config.notes.iter().filter(|note| note.key.starts_with("passthrough")).map(|note| note.text.clone()).collect()
    };
    let around: Vec<String> = texts("\"/inner/*\"");
    assert!(around.len() == 1 && around[0].contains("around the route path /a"), "{around:?}");
    let never: Vec<String> = texts("\"/inner/a\"");
    assert!(never.len() == 1 && never[0].contains("never passes"), "{never:?}");
    assert_eq!(texts("\"/other/*\", \"/b\""), Vec::<String>::new());
}

#[test]
fn a_configuration_without_a_route_is_warned_about() {
    let config = fine("");
    assert_eq!(note_of(&config, "routes").unwrap().level, NoteLevel::Warn);
}

#[test]
fn a_network_of_mapped_addresses_is_the_plain_one() {
    let networks = |written: &str| {
        let text = format!("[server]\ntrusted_proxies = [{written}]\n{ROUTE}allow_from = [{written}]\n");
        let config = fine(&text);
        assert_eq!(config.server.trusted_proxies, config.routes[0].allow_from);
        config.server.trusted_proxies.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(networks("\"::ffff:127.0.0.0/104\", \"::ffff:127.0.0.1\""), ["127.0.0.0/8", "127.0.0.1/32"]);
    assert_eq!(networks("\"::ffff:0:0/96\", \"::FFFF:a00:1/128\""), ["0.0.0.0/0", "10.0.0.1/32"]);
    let plain = ["10.0.0.0/8", "::ffff:0.0.0.0/95", "::1/128", "fd00::/8", "::/0", "64:ff9b::/96"];
    assert_eq!(networks(&plain.map(|network| format!("{network:?}")).join(",")), plain);
}

#[test]
fn an_application_that_may_be_another_machine_is_not_taken_for_a_listener_of_ours() {
    let text = |listen: &str, url: &str| format!("listen = \"{listen}\"\n[app]\nurl = \"{url}\"\n{ROUTE}");
    for (listen, url) in [
        ("0.0.0.0:81", "http://10.0.0.1:81"),
        ("0.0.0.0:81", "http://app:81"),
        ("0.0.0.0:81", "http://127.0.0.1:82"),
        ("10.0.0.1:81", "http://127.0.0.1:81"),
        ("10.0.0.1:81", "http://localhost:81"),
        ("127.0.0.1:81", "http://127.0.0.2:81"),
        ("127.0.0.1:0", "http://127.0.0.1:80"),
    ] {
        fine(&text(listen, url));
    }
}

#[test]
fn where_every_route_has_its_own_application_the_shared_one_matters_only_to_what_passes_through() {
    let text = "listen = \"127.0.0.1:81\"\napp.url = \"http://127.0.0.1:81\"\n";
    let route = format!("{ROUTE}app.url = \"http://127.0.0.1:82\"\n");
    fine(&format!("{text}{route}"));
    let fault = fault(&format!("{text}passthrough.paths = [\"/x\"]\n{route}"));
    assert_fault(&fault, Conflict, "app.url", &at(2, 11));
}

//! Which layer wins, and what is found where.

use std::fs;
use std::path::Path;
use std::time::Duration;

use hookgate::config::FaultKind::{Conflict, Syntax, UnknownKey, Unreadable};
use hookgate::config::{Environment, FaultKind, Layers, NoteLevel, Origin, Place, load};
use hookgate::domain::route::AckMode;

use super::{ROUTE, at, check, check_with, environment, environment_with, only};

fn key(text: &str) -> Vec<String> {
    text.split('.').map(str::to_owned).collect()
}

fn put(directory: &Path, name: &str, text: &str) {
    let path = directory.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[test]
fn a_variable_wins_over_the_file_and_the_file_over_the_default() {
    let environment = environment_with(&[("HOOKGATE_ACK__BUDGET", "10s")]);
    let text = format!("[ack]\nbudget = \"20s\"\nreserve = \"1s\"\n{ROUTE}");
    let layers = Layers::of_text("hookgate.toml", &text, &environment).unwrap();
    let config = layers.check().unwrap();
    let ack = &config.routes[0].ack;
    assert_eq!((ack.budget, ack.reserve), (Duration::from_secs(10), Duration::from_secs(1)));
    assert_eq!(ack.mode, AckMode::Relay);
    let variable = Place::Variable("HOOKGATE_ACK__BUDGET".to_owned());
    assert_eq!(layers.origin(&key("ack.budget")), Origin::Given(variable));
    assert_eq!(layers.origin(&key("ack.reserve")), Origin::Given(at(3, 11)));
    assert_eq!(layers.origin(&key("ack.mode")), Origin::Default);
}

#[test]
fn a_variable_is_read_as_the_type_that_its_key_has() {
    let environment = environment_with(&[
        ("HOOKGATE_SERVER__THREADS", "4"),
        ("HOOKGATE_APP__PRESERVE_HOST", "false"),
        ("HOOKGATE_DEDUP__REDIS__KEY_PREFIX", "007"),
        ("HOOKGATE_DELIVERY__RETRIES", "[\"1s\", \"2s\"]"),
        ("HOOKGATE_ROUTES__A__TIMESTAMP__TOLERANCE", "600"),
        ("HOOKGATE_SERVER__MAX_HEADER_BYTES", "16384"),
    ]);
    let config = check_with(&ROUTE.replace("github", "veedeo"), &environment);
    let config = config.unwrap_or_else(|faults| panic!("{}", faults.plain()));
    assert_eq!(config.server.threads, 4);
    assert_eq!(config.server.max_header_bytes, 16384);
    assert_eq!(config.routes[0].delivery.schedule.wait_after(2, 0.0), Some(Duration::from_secs(2)));
}

#[test]
fn variables_that_are_no_keys_are_left_alone() {
    let environment = environment_with(&[
        ("HOOKGATE_CONFIG", "/nowhere"),
        ("HOOKGATE_ADMIN_TOKEN", "x"),
        ("HOOKGATE_MY_SECRET", super::CANARY),
        ("HOOKGATE_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("HOOKGATE_SERVICE_HOST", "10.0.0.1"),
        ("PATH", "/bin"),
    ]);
    assert!(check_with(&ROUTE.replace("SECRET", "HOOKGATE_MY_SECRET"), &environment).is_ok());
    let secrets = ("HOOKGATE_ROUTES__A__SECRETS", "[{ env = \"HOOKGATE_MY_SECRET\" }]");
    let named = environment_with(&[("HOOKGATE_MY_SECRET", super::CANARY), secrets]);
    assert!(check_with(ROUTE, &named).is_ok(), "a variable may name it too");
    let fault = only(check_with(ROUTE, &environment).unwrap_err());
    assert_eq!((fault.kind, fault.key.as_str()), (UnknownKey, "my_secret"), "it is named nowhere");
}

#[test]
fn a_variable_that_is_not_a_value_is_a_fault_and_not_shown() {
    let environment = environment_with(&[("HOOKGATE_ACK__REPLY", "{ status = ")]);
    let fault = only(check_with(ROUTE, &environment).unwrap_err());
    assert_eq!(fault.line(), "HOOKGATE_ACK__REPLY: `ack.reply` is not a valid TOML list or table; expected a table");
    for (name, whole) in [
        ("HOOKGATE_LISTEN", "[{ literal = \"SECRETVALUE\" }]"),
        ("HOOKGATE_LISTEN", "{ literal = \"SECRETVALUE\" }"),
        ("HOOKGATE_SERVER__THREADS", "[\"SECRETVALUE\"]"),
        ("HOOKGATE_LOG__LEVEL", "{ literal = \"SECRETVALUE\" }"),
    ] {
        let line = check_with(ROUTE, &environment_with(&[(name, whole)])).unwrap_err().plain();
        assert!(line.contains(name) && line.contains("a list or table") && !line.contains("SECRETVALUE"), "{line}");
    }
    for broken in ["[{ literal = \"SECRETVALUE\" }", "{ a = { literal = \"SECRETVALUE\" }"] {
        for name in ["HOOKGATE_ROUTES", "HOOKGATE_ROUTES__A__SECRETS", "HOOKGATE_LISTEN"] {
            let faults = check_with(ROUTE, &environment_with(&[(name, broken)])).unwrap_err();
            let line = faults.plain();
            assert!(
                line.contains(name) && line.contains("not a valid TOML") && !line.contains("SECRETVALUE"),
                "{line}"
            );
        }
    }
}

#[test]
fn a_variable_is_text_where_its_key_wants_text_whatever_it_begins_with() {
    for body in ["{}", "[]", "{\"ok\":true}", "[\"ok\"]", "{ ok = true }", "{"] {
        let environment = environment_with(&[("HOOKGATE_ACK__REPLY__BODY", body)]);
        let config = check_with(ROUTE, &environment).unwrap();
        assert_eq!(config.routes[0].ack.reply.body, body);
    }
    let environment = environment_with(&[("HOOKGATE_ACK__REPLY", "{ status = 202, body = \"{}\" }")]);
    assert_eq!(check_with(ROUTE, &environment).unwrap().routes[0].ack.reply.body, "{}", "a table is one all the same");
}

#[test]
fn a_url_that_commands_ask_is_not_the_address_of_a_listener() {
    for to_ask in ["http://127.0.0.1:9999", "localhost:9999", "gateway.internal:9999"] {
        let config = check_with(ROUTE, &environment_with(&[("HOOKGATE_ADMIN", to_ask)])).unwrap();
        assert_eq!(config.admin, "127.0.0.1:9465".parse().unwrap());
        let of_it = config.notes.iter().find(|note| note.key == "admin").unwrap();
        assert!(of_it.level == NoteLevel::Warn && of_it.text.contains("HOOKGATE_ADMIN"), "{of_it:?}");
    }
    for wrong in ["127.0.0.1", "127.0.0.1:99999", "0.0.0.0:94x", "9465", ""] {
        assert!(check_with(ROUTE, &environment_with(&[("HOOKGATE_ADMIN", wrong)])).is_err(), "{wrong}");
    }
    let address = environment_with(&[("HOOKGATE_ADMIN", "127.0.0.1:9999")]);
    assert_eq!(check_with(ROUTE, &address).unwrap().admin, "127.0.0.1:9999".parse().unwrap());
}

#[test]
fn included_files_are_merged_in_the_order_of_their_names() {
    let directory = tempfile::tempdir().unwrap();
    put(directory.path(), "hookgate.toml", "include = [\"routes.d/*.toml\", \"more.toml\"]\n[ack]\nbudget = \"20s\"\n");
    put(directory.path(), "routes.d/b.toml", &ROUTE.replace("routes.a", "routes.b").replace("/a", "/b"));
    put(directory.path(), "routes.d/a.toml", &format!("{ROUTE}[ack]\nbudget = \"15s\"\n"));
    put(directory.path(), "routes.d/.hidden.toml", "broken");
    put(directory.path(), "routes.d/a.toml.bak", "broken");
    put(directory.path(), "more.toml", "[log]\nlevel = \"debug\"\n");
    let config = load(Some(&directory.path().join("hookgate.toml")), &environment()).unwrap();
    let names: Vec<_> = config.routes.iter().map(|route| &*route.name).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(config.routes[1].ack.budget, Duration::from_secs(15), "a later file wins");
    assert_eq!(config.files.len(), 4);
}

#[test]
fn a_route_in_two_files_is_a_fault_that_names_both() {
    let directory = tempfile::tempdir().unwrap();
    put(directory.path(), "hookgate.toml", &format!("include = [\"x.d/*\", \"second.toml\"]\n{ROUTE}"));
    put(directory.path(), "second.toml", &format!("\n{ROUTE}"));
    let fault = only(load(Some(&directory.path().join("hookgate.toml")), &environment()).unwrap_err());
    assert_eq!((fault.kind, fault.key.as_str()), (Conflict, "routes.a"));
    let second = directory.path().join("second.toml").display().to_string();
    assert_eq!(fault.place, Place::File { name: second.clone(), line: 2, column: 9 });
    assert!(fault.found.contains(&second) && fault.found.contains("hookgate.toml:2:9"), "{}", fault.found);
}

#[test]
fn a_file_that_is_included_and_not_there_is_a_fault() {
    let directory = tempfile::tempdir().unwrap();
    put(directory.path(), "hookgate.toml", &format!("include = [\"none/*.toml\", \"gone.toml\"]\n{ROUTE}"));
    let fault = only(load(Some(&directory.path().join("hookgate.toml")), &environment()).unwrap_err());
    assert_eq!((fault.kind, fault.key.as_str()), (Unreadable, "include[1]"));
    assert!(fault.found.contains("gone.toml"), "{}", fault.found);
}

#[test]
fn only_the_main_file_includes() {
    let directory = tempfile::tempdir().unwrap();
    put(directory.path(), "hookgate.toml", &format!("include = [\"a.toml\"]\n{ROUTE}"));
    put(directory.path(), "a.toml", "include = [\"b.toml\"]\n");
    let fault = only(load(Some(&directory.path().join("hookgate.toml")), &environment()).unwrap_err());
    assert_eq!((fault.kind, fault.key.as_str()), (Conflict, "include"));
    assert!(matches!(fault.place, Place::File { name, line: 1, column: 1 } if name.ends_with("a.toml")));
}

#[test]
fn a_broken_file_does_not_hide_the_faults_of_another() {
    let directory = tempfile::tempdir().unwrap();
    put(directory.path(), "hookgate.toml", &format!("include = [\"a.toml\"]\nlistn = 1\n{ROUTE}"));
    put(directory.path(), "a.toml", "[ack\n");
    let faults = load(Some(&directory.path().join("hookgate.toml")), &environment()).unwrap_err();
    let kinds: Vec<_> = faults.iter().map(|fault| fault.kind).collect();
    assert_eq!(kinds, [Syntax, UnknownKey], "{}", faults.plain());
}

#[test]
fn a_pattern_has_its_star_in_the_last_part() {
    let directory = tempfile::tempdir().unwrap();
    put(directory.path(), "hookgate.toml", &format!("include = [\"*.d/a.toml\"]\n{ROUTE}"));
    let fault = only(load(Some(&directory.path().join("hookgate.toml")), &environment()).unwrap_err());
    assert!(fault.expected.contains("routes.d/*.toml"), "{}", fault.line());
}

#[test]
fn a_pattern_that_would_quietly_name_nothing_is_a_fault_that_says_what_a_pattern_may_be() {
    let directory = tempfile::tempdir().unwrap();
    put(directory.path(), "routes.d/a.toml", ROUTE);
    let load_with = |pattern: &str| {
        put(directory.path(), "hookgate.toml", &format!("include = [\"{pattern}\"]\n"));
        load(Some(&directory.path().join("hookgate.toml")), &environment())
    };
    let patterns = ["routes.d/*a*.toml", "routes.d/**", "routes.d/?*.toml", "routes.d/[ab]*", "routes.d/{a,b}*.toml"];
    for pattern in
        patterns.into_iter().chain(["*.d/*.toml", "**/*.toml", "routes.?/*", "*.d/a.toml", "routes.d/?.toml"])
    {
        let fault = only(load_with(pattern).unwrap_err());
        assert_eq!((fault.kind, fault.key.as_str()), (FaultKind::Value, "include[0]"), "{}", fault.line());
        assert!(matches!(fault.place, Place::File { line: 1, column: 12, .. }), "{}", fault.line());
        assert!(
            fault.found.contains(pattern) && fault.expected.contains("one `*` in its last part"),
            "{}",
            fault.line()
        );
    }
    let named = |pattern: &str| load_with(pattern).unwrap().routes.len();
    assert_eq!((named("routes.d/*"), named("routes.d/*.toml"), named("none.d/*.toml")), (1, 1, 0));
    put(directory.path(), "odd[1]/a?.toml", ROUTE);
    assert_eq!((named("odd[1]/a?.toml"), named("odd[1]/*.toml")), (1, 1), "a name that is there is a name");
}

#[test]
fn the_search_goes_from_the_command_line_to_the_system_directory() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["explicit", "variable", "hookgate"] {
        put(directory.path(), &format!("{name}.toml"), &format!("[dedup.redis]\nkey_prefix = \"{name}\"\n{ROUTE}"));
    }
    let named = environment_with(&[("HOOKGATE_CONFIG", "variable.toml")]).in_directory(directory.path());
    let plain = environment().in_directory(directory.path());
    let file = |explicit: Option<&str>, environment: &Environment| {
        let config = load(explicit.map(Path::new), environment).unwrap();
        config.files[0].file_name().unwrap().to_str().unwrap().to_owned()
    };
    assert_eq!(file(Some("explicit.toml"), &named), "explicit.toml");
    assert_eq!(file(None, &named), "variable.toml");
    assert_eq!(file(None, &plain), "hookgate.toml");
}

#[test]
fn without_a_file_the_fault_lists_where_it_looked() {
    let directory = tempfile::tempdir().unwrap();
    let fault = only(load(None, &environment().in_directory(directory.path())).unwrap_err());
    assert_eq!(fault.kind, Unreadable);
    for place in ["--config", "HOOKGATE_CONFIG", "./hookgate.toml", "/etc/hookgate/hookgate.toml"] {
        assert!(fault.found.contains(place), "{}", fault.line());
    }
}

#[test]
fn a_named_file_that_is_not_there_is_a_fault_and_not_an_empty_configuration() {
    let fault = only(load(Some(Path::new("/nowhere/x.toml")), &environment()).unwrap_err());
    assert_eq!(
        fault.line(),
        "configuration: cannot read /nowhere/x.toml: there is no such file; expected a readable configuration file"
    );
    let environment = environment_with(&[("HOOKGATE_CONFIG", "/nowhere/y.toml")]);
    let fault = only(load(None, &environment).unwrap_err());
    assert_eq!(fault.place, Place::Variable("HOOKGATE_CONFIG".to_owned()));
}

#[test]
fn a_table_of_a_route_is_laid_over_the_shared_one() {
    let text = format!(
        "[ack]\nbudget = \"20s\"\n[delivery]\nretries = [\"1s\"]\n{ROUTE}[routes.a.ack]\nreserve = \"3s\"\n\
         reply = {{ body = \"ok\" }}\n[routes.a.app]\nurl = \"http://other:1/x/\"\n[routes.a.delivery]\n\
         retries = {{ attempts = 3 }}\nrate = \"7/s\"\n[routes.a.dedup]\nttl = \"48h\"\n"
    );
    let config = check(&text).unwrap_or_else(|faults| panic!("{}", faults.plain()));
    let route = &config.routes[0];
    assert_eq!((route.ack.budget, route.ack.reserve), (Duration::from_secs(20), Duration::from_secs(3)));
    assert_eq!((&route.ack.reply.body[..], route.ack.reply.status.as_u16()), (&b"ok"[..], 200));
    assert_eq!(route.app.url.as_str(), "http://other:1/x", "without its last slash");
    assert_eq!(config.app.url.as_str(), "http://127.0.0.1:3000", "for what is passed through");
    assert_eq!(route.delivery.schedule.wait_after(2, 0.9999).map(|wait| wait.as_secs()), Some(1));
    assert_eq!(route.delivery.schedule.wait_after(3, 0.0), None);
    assert_eq!(route.delivery.rate_per_second, Some(7));
    assert_eq!(route.delivery.max_age, Duration::from_secs(3 * 86_400));
    assert_eq!(route.dedup_ttl, Duration::from_secs(48 * 3600));
}

#[test]
fn relative_paths_start_where_their_file_is() {
    let directory = tempfile::tempdir().unwrap();
    put(
        directory.path(),
        "sub/hookgate.toml",
        &format!("[spool]\npath = \"spool\"\n{}", ROUTE.replace("env = \"SECRET\"", "file = \"secret\"")),
    );
    put(directory.path(), "sub/secret", super::CANARY);
    let config = load(Some(&directory.path().join("sub/hookgate.toml")), &environment()).unwrap();
    assert_eq!(config.spool.path, directory.path().join("sub/spool"));
    assert_eq!(config.files[1], directory.path().join("sub/secret"));
}

#[test]
fn each_file_of_tls_starts_where_the_file_is_that_names_it() {
    let directory = tempfile::tempdir().unwrap();
    put(directory.path(), "hookgate.toml", &format!("include = [\"a/tls.toml\", \"b/tls.toml\"]\n{ROUTE}"));
    put(directory.path(), "a/tls.toml", "[server.tls]\ncert = \"own.crt\"\nclient_ca = \"ca.crt\"\n");
    put(
        directory.path(),
        "b/tls.toml",
        "[server.tls]\nkey = \"own.key\"\nalso = [{ cert = \"other.crt\", key = \"other.key\" }]\n",
    );
    for name in ["a/own.crt", "a/ca.crt", "b/own.key", "b/other.crt", "b/other.key"] {
        put(directory.path(), name, "-----BEGIN CERTIFICATE-----\n");
    }
    let at = |name: &str| directory.path().join(name);
    let tls = load(Some(&at("hookgate.toml")), &environment()).unwrap().server.tls.unwrap();
    let pairs = [(at("a/own.crt"), at("b/own.key")), (at("b/other.crt"), at("b/other.key"))];
    assert_eq!((tls.certificates, tls.client_ca), (pairs.to_vec(), Some(at("a/ca.crt"))));
    put(&at("elsewhere"), "ca.crt", "-----BEGIN CERTIFICATE-----\n");
    let more = [("HOOKGATE_SERVER__TLS__CLIENT_CA", "ca.crt")];
    let environment = environment_with(&more).in_directory(at("elsewhere"));
    let tls = load(Some(&at("hookgate.toml")), &environment).unwrap().server.tls.unwrap();
    assert_eq!(tls.client_ca, Some(at("elsewhere/ca.crt")));
}

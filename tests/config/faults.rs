//! What is wrong, where, and what would be right.

use hookgate::config::FaultKind::{Conflict, Missing, NotImplemented, Syntax, UnknownKey, Value};
use hookgate::config::report::{Look, refused};
use hookgate::config::{FaultKind, Place};

use super::{CANARY, ROUTE, assert_fault, at, check, check_with, environment, environment_with, fault, faults};

/// A text with one fault: the text before the route, then kind, key, line, column, what `found` holds.
type Case = (&'static str, FaultKind, &'static str, usize, usize, &'static str);

const CASES: &[Case] = &[
    ("listn = \"0.0.0.0:1\"\n", UnknownKey, "listn", 1, 1, "listn"),
    ("[server]\nthread = 1\n", UnknownKey, "server.thread", 2, 1, "thread"),
    ("[server]\nthreads = \"four\"\n", Value, "server.threads", 2, 11, "\"four\""),
    ("[server]\nthreads = -1\n", Value, "server.threads", 2, 11, "-1"),
    ("[server]\nmax_connections = 0\n", Value, "server.max_connections", 2, 19, "0"),
    ("[server]\nmax_connections_per_source = 0\n", Value, "server.max_connections_per_source", 2, 30, "0"),
    ("[server]\nheader_timeout = \"10 sex\"\n", Value, "server.header_timeout", 2, 18, "10 sex"),
    ("[server]\nheader_timeout = 10\n", Value, "server.header_timeout", 2, 18, "10"),
    ("[server]\nheader_timeout = \"0s\"\n", Value, "server.header_timeout", 2, 18, "no time"),
    ("[server]\nheader_timeout = \"4000d\"\n", Value, "server.header_timeout", 2, 18, "4000d"),
    ("[server]\nshutdown_grace = \"2999ms\"\n", Value, "server.shutdown_grace", 2, 18, "2.999s"),
    ("[server]\nshutdown_grace = \"0s\"\n", Value, "server.shutdown_grace", 2, 18, "0ns"),
    ("[server]\nmax_header_bytes = \"32 kilo\"\n", Value, "server.max_header_bytes", 2, 20, "32 kilo"),
    ("[server]\nmax_header_bytes = \"2MiB\"\n", Value, "server.max_header_bytes", 2, 20, "2097152"),
    (
        "[server]\ntrusted_proxies = [\"10.0.0.0/8\", \"10.0.0.0/33\"]\n",
        Value,
        "server.trusted_proxies[1]",
        2,
        34,
        "/33",
    ),
    ("listen = \"8080\"\n", Value, "listen", 1, 10, "\"8080\""),
    ("listen = \"localhost:8080\"\n", Value, "listen", 1, 10, "localhost"),
    ("listen = \"127.0.0.1:9464\"\ntelemetry = \"127.0.0.1:9464\"\n", Conflict, "telemetry", 2, 13, "`listen` has too"),
    ("listen = \"0.0.0.0:9464\"\ntelemetry = \"127.0.0.1:9464\"\n", Conflict, "telemetry", 2, 13, "0.0.0.0:9464"),
    ("listen = \"10.0.0.1:9464\"\ntelemetry = \"[::]:9464\"\n", Conflict, "telemetry", 2, 13, "10.0.0.1:9464"),
    ("listen = \"[::1]:9464\"\ntelemetry = \"[::]:9464\"\n", Conflict, "telemetry", 2, 13, "[::1]:9464"),
    ("listen = \"127.0.0.1:81\"\n[app]\nurl = \"http://127.0.0.1:81\"\n", Conflict, "app.url", 3, 7, "own `listen`"),
    ("listen = \"0.0.0.0:81\"\n[app]\nurl = \"http://LOCALHOST:81/app\"\n", Conflict, "app.url", 3, 7, "own `listen`"),
    ("listen = \"[::]:443\"\n[app]\nurl = \"https://127.0.0.1\"\n", Conflict, "app.url", 3, 7, "own `listen`"),
    ("listen = \"10.0.0.1:80\"\n[app]\nurl = \"http://10.0.0.1\"\n", Conflict, "app.url", 3, 7, "own `listen`"),
    ("telemetry = \"[::1]:81\"\n[app]\nurl = \"http://[::1]:81\"\n", Conflict, "app.url", 3, 7, "own `telemetry`"),
    ("[app]\nurl = \"http://localhost:9465\"\n", Conflict, "app.url", 2, 7, "own `admin`"),
    ("admin = \"0.0.0.0:9465\"\n", Conflict, "admin", 1, 9, "not loopback"),
    ("ack = 5\n", Value, "ack", 1, 7, "5"),
    ("[ack]\nmode = \"realy\"\n", Value, "ack.mode", 2, 8, "realy"),
    ("[ack]\nmode = 1\n", Value, "ack.mode", 2, 8, "1"),
    ("[ack]\nreply = { status = 404 }\n", Value, "ack.reply.status", 2, 20, "404"),
    ("[ack]\nreply = { status = 204 }\n", Conflict, "ack.reply", 2, 9, "204 with a body"),
    ("[ack]\nreply = { content_type = \"text\" }\n", Value, "ack.reply.content_type", 2, 26, "text"),
    ("[ack]\nreserve = \"30s\"\n", Conflict, "ack.reserve", 2, 11, "the budget is 30s"),
    ("[app]\npreserve_host = \"yes\"\n", Value, "app.preserve_host", 2, 17, "yes"),
    ("[app]\nurl = \"127.0.0.1:3000\"\n", Value, "app.url", 2, 7, "127.0.0.1:3000"),
    ("[app]\nurl = \"http://h/?q\"\n", Value, "app.url", 2, 7, "http://h/?q"),
    ("[app]\nattempt_timeout = \"0s\"\n", Value, "app.attempt_timeout", 2, 19, "no time"),
    (
        "[app]\nurl = \"https://127.0.0.1:3000\"\nca = \"absent.crt\"\n",
        Value,
        "app.ca",
        3,
        6,
        "absent.crt: there is no such file",
    ),
    ("[server]\ntls = { cert = \"c\", key = \"k\", h2 = \"on\" }\n", Value, "server.tls.h2", 2, 37, "on"),
    ("[server]\ntls = { cert = \"c\" }\n", Missing, "server.tls.key", 2, 1, ""),
    (
        "[dedup]\nstore = \"redis\"\n[dedup.redis]\nurl = \"http://a\"\n",
        Value,
        "dedup.redis.url",
        4,
        7,
        "not the address",
    ),
    ("[dedup]\nstore = \"postgres\"\n", Value, "dedup.store", 2, 9, "postgres"),
    ("[spool]\nmax_bytes = \"1KiB\"\n", Value, "spool.max_bytes", 2, 13, "1024"),
    ("[delivery]\nretries = [\"30s\", \"2 minutes\"]\n", Value, "delivery.retries[1]", 2, 19, "2 minutes"),
    ("[delivery]\nretries = { factor = 0.5 }\n", Value, "delivery.retries.factor", 2, 22, "0.5"),
    ("[delivery]\nretries = { first = \"10m\" }\n", Conflict, "delivery.retries", 2, 11, "10m"),
    ("[delivery]\nretries = { frist = \"1s\" }\n", UnknownKey, "delivery.retries.frist", 2, 13, "frist"),
    ("[delivery]\nrate = \"50/m\"\n", Value, "delivery.rate", 2, 8, "50/m"),
    ("[log]\nlevel = \"verbose\"\n", Value, "log.level", 2, 9, "verbose"),
    ("[passthrough]\npaths = [\"/a*\"]\n", Value, "passthrough.paths[0]", 2, 10, "/a*"),
    ("[passthrough]\npaths = [\"/a\"]\n", Conflict, "passthrough.paths[0]", 2, 10, "`routes.a.path` has too"),
    ("[providers.p]\nsignture = 1\n", UnknownKey, "providers.p.signture", 2, 1, "signture"),
    (
        "[routes.B]\npath = \"/b\"\nprovider = \"github\"\nsecrets = [{ env = \"SECRET\" }]\n",
        Value,
        "routes.B",
        1,
        9,
        "named \"B\"",
    ),
    (
        "[routes.b]\npath = \"/a\"\nprovider = \"github\"\nsecrets = [{ env = \"SECRET\" }]\n",
        Conflict,
        "routes.b.path",
        2,
        8,
        "`routes.a.path` has too",
    ),
];

#[test]
fn every_fault_says_where_it_is_and_what_was_found() {
    assert!(CASES.len() > 40, "{}", CASES.len());
    for (text, kind, key, line, column, found) in CASES {
        let fault = fault(&format!("{text}{ROUTE}"));
        assert_fault(&fault, *kind, key, &at(*line, *column));
        assert!(fault.found.contains(found), "{found:?} in {}", fault.line());
        assert!(*kind == NotImplemented || !fault.advice().is_empty(), "{}", fault.line());
    }
}

/// Lines of `[dedup.redis]` with one fault: the lines, then kind, key, line, column, what `found` holds.
const REDIS_CASES: &[Case] = &[
    ("url = []", Value, "dedup.redis.url", 4, 7, "an empty list"),
    ("url = [\"redis://a\", \"b:1\"]", Value, "dedup.redis.url[1]", 4, 21, "not the address"),
    ("url = [\"redis://a\", \"redis://b/1\"]", Value, "dedup.redis.url[1]", 4, 21, "a database"),
    ("url = [\"redis://a\", \"rediss://b\"]", Conflict, "dedup.redis.url", 4, 7, "redis:// and rediss://"),
    ("url = \"http://a\"", Value, "dedup.redis.url", 4, 7, "not the address"),
    ("url = \"rediss://\"", Value, "dedup.redis.url", 4, 7, "not the address"),
    ("url = 6379", Value, "dedup.redis.url", 4, 7, "number"),
    ("sentinel = { nodes = [\"redis://a\"] }", Missing, "dedup.redis.sentinel.master", 4, 1, ""),
    ("sentinel = { master = \"m\" }", Missing, "dedup.redis.sentinel.nodes", 4, 1, ""),
    ("sentinel = { master = \"m\", nodes = [] }", Value, "dedup.redis.sentinel.nodes", 4, 36, "an empty list"),
    (
        "sentinel = { master = \"m\", nodes = [\"redis://a\", \"b\"] }",
        Value,
        "dedup.redis.sentinel.nodes[1]",
        4,
        50,
        "not the address",
    ),
    (
        "url = \"redis://a\"\nsentinel = { master = \"m\", nodes = [\"redis://a\"] }",
        Conflict,
        "dedup.redis.url",
        4,
        7,
        "beside",
    ),
    ("url = \"rediss://a\"\ntls = { ca = \"/nowhere/ca\" }", Value, "dedup.redis.tls.ca", 5, 14, "/nowhere/ca"),
    ("tls = { server_name = \"a\" }", Conflict, "dedup.redis.tls", 4, 7, "no address is rediss://"),
    ("password = \"hunter2\"", Value, "dedup.redis.password", 4, 12, "text"),
    ("password = { env = \"UNSET\" }", FaultKind::Secret, "dedup.redis.password", 4, 12, "not set"),
    ("username = { file = \"/nowhere/user\" }", FaultKind::Secret, "dedup.redis.username", 4, 12, "/nowhere/user"),
];

#[test]
fn every_fault_of_a_redis_says_where_it_is_and_what_was_found() {
    for (lines, kind, key, line, column, found) in REDIS_CASES {
        let fault = fault(&format!("[dedup]\nstore = \"redis\"\n[dedup.redis]\n{lines}\n{ROUTE}"));
        assert_fault(&fault, *kind, key, &at(*line, *column));
        assert!(fault.found.contains(found), "{found:?} in {}", fault.line());
        assert!(!fault.advice().is_empty() && !fault.line().contains("hunter2"), "{}", fault.line());
    }
}

#[test]
fn a_certificate_needs_its_key_and_both_have_to_be_pem() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (pem, none) = (file("a.crt", "-----BEGIN CERTIFICATE-----\n"), file("b.crt", "0\u{82}"));
    let redis = |lines: &str| {
        let url = "[dedup]\nstore = \"redis\"\n[dedup.redis]\nurl = \"rediss://a\"\n";
        faults(&format!("{url}{lines}\n{ROUTE}")).into_iter().map(|fault| (fault.kind, fault.key)).collect::<Vec<_>>()
    };
    assert_eq!(redis(&format!("tls = {{ cert = {pem:?} }}")), [(Missing, "dedup.redis.tls.key".to_owned())]);
    assert_eq!(redis(&format!("tls = {{ key = {pem:?} }}")), [(Missing, "dedup.redis.tls.cert".to_owned())]);
    assert_eq!(redis(&format!("tls = {{ ca = {none:?} }}")), [(Value, "dedup.redis.tls.ca".to_owned())]);
}

/// A line added to a route that is fine, then kind, key, column.
const ROUTE_CASES: &[(&str, FaultKind, &str, usize, &str)] = &[
    ("methds = []", UnknownKey, "routes.a.methds", 1, "methods"),
    ("timestmp = { }", UnknownKey, "routes.a.timestmp", 1, "timestamp"),
    ("methods = []", Value, "routes.a.methods", 11, ""),
    ("methods = [\"post\"]", Value, "routes.a.methods[0]", 12, ""),
    ("max_body_bytes = 0", Conflict, "routes.a.max_body_bytes", 18, ""),
    ("max_body_bytes = \"1GiB\"", Conflict, "routes.a.max_body_bytes", 18, ""),
    ("enforce = \"no\"", Value, "routes.a.enforce", 11, ""),
    ("order_by = \"task_id\"", Value, "routes.a.order_by", 12, ""),
    ("order_by = \"/a~2\"", Value, "routes.a.order_by", 12, ""),
    ("public_url = \"example.com/a\"", Value, "routes.a.public_url", 14, ""),
    ("public_url = \"https://example.com\"", Value, "routes.a.public_url", 14, ""),
    ("allow_from = [\"here\"]", Value, "routes.a.allow_from[0]", 15, ""),
    ("dedup = { store = \"redis\" }", UnknownKey, "routes.a.dedup.store", 11, ""),
    ("ack = { budget = \"1s\" }", Conflict, "routes.a.ack.budget", 18, ""),
    ("ack = { budget = 1 }", Value, "routes.a.ack.budget", 18, ""),
    ("signature = { encodin = \"hex\" }", UnknownKey, "routes.a.signature.encodin", 15, "encoding"),
    ("signature = { encoding = \"hax\" }", Value, "routes.a.signature.encoding", 26, "hex"),
    ("timestamp = { tolerance = \"10 min\" }", Value, "routes.a.timestamp.tolerance", 27, ""),
];

#[test]
fn a_fault_of_a_route_points_into_the_route() {
    for (line, kind, key, column, suggestion) in ROUTE_CASES {
        let fault = fault(&format!("{ROUTE}{line}\n"));
        assert_fault(&fault, *kind, key, &at(5, *column));
        assert_eq!(fault.suggestion.as_deref().unwrap_or_default(), *suggestion, "{}", fault.line());
    }
}

#[test]
fn providers_that_extend_each_other_are_one_fault() {
    let fault = fault(&format!("[providers.p]\nextends = \"q\"\n[providers.q]\nextends = \"p\"\n{ROUTE}"));
    assert_fault(&fault, Conflict, "providers.q.extends", &at(4, 11));
}

#[test]
fn an_own_provider_that_makes_no_sense_is_said_at_its_key() {
    let provider = "[providers.p]\nsignature = { header = \"X-S\", encoding = \"hex\" }\nsigned = \"{nonsense}\"\n";
    let fault = fault(&format!("{provider}{}", ROUTE.replace("github", "p")));
    assert_fault(&fault, Value, "providers.p.signed", &at(3, 10));
}

/// The lines of an own provider, then the key in it and the line and column where the report points.
const OWN_CASES: &[(&str, FaultKind, &str, usize, usize)] = &[
    (
        "signature = { header = \"X\", encoding = \"hex\" }\nevent_id = [\"json:/a\", \"json:id\"]",
        Value,
        "event_id[1]",
        3,
        24,
    ),
    ("signature = { header = \"X\" }", Missing, "signature.encoding", 2, 1),
    ("signature = { encoding = \"hex\" }", Value, "signature", 2, 13),
    ("signature = { header = \"X\", encoding = \"hex\" }\nsigned = \"{timestamp}{body}\"", Missing, "timestamp", 1, 12),
    ("signature = { item = \"/s\", encoding = \"hex\" }\nsigned = \"{item:/a}\"", Missing, "each", 1, 12),
    (
        "timestamp = { from = \"sig:t\" }\nsignature = { header = \"X\", kv = \"=\", pick = \"v1\", encoding = \"hex\" }",
        Missing,
        "signature.split",
        3,
        1,
    ),
];

#[test]
fn a_fault_of_an_own_provider_points_into_the_provider_and_not_into_a_route() {
    for (lines, kind, key, line, column) in OWN_CASES {
        let fault = fault(&format!("[providers.p]\n{lines}\n{}", ROUTE.replace("github", "p")));
        assert_fault(&fault, *kind, &format!("providers.p.{key}"), &at(*line, *column));
        assert!(!fault.advice().is_empty(), "{}", fault.line());
    }
}

#[test]
fn a_fault_points_into_the_table_that_gives_the_part() {
    let base = "[providers.base]\nsignature = { header = \"X\" }\n[providers.p]\nextends = \"base\"\n";
    let below = fault(&format!("{base}{}", ROUTE.replace("github", "p")));
    assert_fault(&below, Missing, "providers.base.signature.encoding", &at(2, 1));
    let route = format!("{}event_id = [\"json:id\"]\n", ROUTE.replace("github", "p"));
    let own = "[providers.p]\nsignature = { header = \"X\", encoding = \"hex\" }\n";
    assert_fault(&fault(&format!("{own}{route}")), Value, "routes.a.event_id[0]", &at(7, 13));
}

#[test]
fn a_secret_that_gives_no_key_is_a_fault_of_the_secret() {
    let fault = fault(&ROUTE.replace("github", "standardwebhooks"));
    assert_fault(&fault, FaultKind::Secret, "routes.a.secrets[0]", &at(4, 12));
    assert!(fault.line().contains("base64"), "{}", fault.line());
}

#[test]
fn a_path_must_be_one_that_a_request_can_have() {
    for path in ["a", "", "/a b", "/a?q", "/a#f", "/a\\u0007", "/a*", "/ä"] {
        let text = ROUTE.replace("\"/a\"", &format!("\"{path}\""));
        assert_fault(&fault(&text), Value, "routes.a.path", &at(2, 8));
    }
    assert!(check(&ROUTE.replace("\"/a\"", "\"/a%20b/c.d~e;f\"")).is_ok());
}

#[test]
fn what_a_route_lacks_is_said_at_its_head() {
    let faults = faults("[routes.a]\n");
    let keys: Vec<_> = faults.iter().map(|fault| (fault.kind, fault.key.as_str(), fault.place.clone())).collect();
    let expected = ["routes.a.path", "routes.a.provider", "routes.a.secrets"].map(|key| (Missing, key, at(1, 9)));
    assert_eq!(keys, expected);
}

#[test]
fn a_wrong_path_is_not_called_missing_too() {
    let fault = fault("[routes.a]\npath = 5\nprovider = \"github\"\nsecrets = [{ env = \"SECRET\" }]\n");
    assert_fault(&fault, Value, "routes.a.path", &at(2, 8));
}

#[test]
fn an_unknown_provider_is_answered_with_the_nearest_one() {
    let fault = fault(&ROUTE.replace("github", "gihtub"));
    assert_fault(&fault, Value, "routes.a.provider", &at(3, 12));
    assert_eq!(fault.suggestion.as_deref(), Some("github"));
}

#[test]
fn a_broken_text_is_one_fault_with_its_place_and_without_its_line() {
    let fault = fault("[ack]\nbudget = \"canary\n");
    assert_fault(&fault, Syntax, "", &at(2, 17));
    assert!(fault.found.starts_with("not valid TOML: "), "{}", fault.found);
    assert!(!format!("{fault:?}{}", fault.line()).contains("canary"));
}

#[test]
fn several_faults_in_several_places_come_out_in_one_report() {
    let text = "listen = \"8080\"\n[ack]\nbugdet = \"10s\"\nmode = \"realy\"\n[server]\nthreads = \"four\"\n[routes.a]\n\
                path = \"a\"\nprovider = \"vedeo\"\nsecrets = [{ env = \"X\" }, { litteral = \"canary\" }, 5]\nmethds = 1\n[routes.b]\n";
    let seen: Vec<_> = faults(text).into_iter().map(|fault| (fault.key.clone(), fault.place)).collect();
    let expected = [
        ("listen", 1, 10),
        ("ack.bugdet", 3, 1),
        ("ack.mode", 4, 8),
        ("server.threads", 6, 11),
        ("routes.a.path", 8, 8),
        ("routes.a.provider", 9, 12),
        ("routes.a.secrets[0]", 10, 12),
        ("routes.a.secrets[1].litteral", 10, 29),
        ("routes.a.secrets[2]", 10, 52),
        ("routes.a.methds", 11, 1),
        ("routes.b.path", 12, 9),
        ("routes.b.provider", 12, 9),
        ("routes.b.secrets", 12, 9),
    ];
    let expected: Vec<_> = expected.into_iter().map(|(key, line, column)| (key.to_owned(), at(line, column))).collect();
    assert_eq!(seen, expected);
}

#[test]
fn elements_behind_a_bad_one_keep_their_place() {
    let text = format!("[server]\ntrusted_proxies = [1, \"10.0.0.0/8\", 2,\n \"x\"]\n{ROUTE}");
    let seen: Vec<_> = faults(&text).into_iter().map(|fault| (fault.key.clone(), fault.place)).collect();
    let expected = [(0, 2, 20), (2, 2, 37), (3, 3, 2)];
    let expected = expected.map(|(index, line, column)| (format!("server.trusted_proxies[{index}]"), at(line, column)));
    assert_eq!(seen, expected);
}

#[test]
fn a_fault_of_a_variable_names_the_variable() {
    let environment = environment_with(&[("HOOKGATE_ACK__BUDGET", "soon"), ("HOOKGATE_ACK__MODE", "queue")]);
    let fault = super::only(check_with(ROUTE, &environment).unwrap_err());
    assert_fault(&fault, Value, "ack.budget", &Place::Variable("HOOKGATE_ACK__BUDGET".to_owned()));
    assert!(fault.line().starts_with("HOOKGATE_ACK__BUDGET: `ack.budget` is \"soon\""), "{}", fault.line());
}

#[test]
fn an_unknown_variable_is_answered_with_the_nearest_one() {
    for name in ["HOOKGATE_ACK__BUGDET", "HOOKGATE_ACK_BUDGET"] {
        let fault = super::only(check_with(ROUTE, &environment_with(&[(name, "10s")])).unwrap_err());
        assert_eq!((fault.kind, &fault.place), (UnknownKey, &Place::Variable(name.to_owned())));
        assert_eq!(fault.suggestion.as_deref(), Some("HOOKGATE_ACK__BUDGET"));
    }
}

#[test]
fn a_report_shows_the_line_and_points_at_the_value() {
    let faults = check(&format!("[ack]\nbudget = \"soon\"\n{ROUTE}")).unwrap_err();
    let expected = "  × `ack.budget` is \"soon\"\n   ╭─[hookgate.toml:2:10]\n 2 │ budget = \"soon\"\n   ·          ───┬──\n   ·             ╰── here\n   ╰────\n  help: expected a duration such as \"30s\", \"5m\", \"24h\" or \"3d\"\n";
    let report = refused(&faults, Look::Pretty);
    assert!(report.ends_with("the configuration has a fault\n"), "{report}");
    assert!(report.contains(expected), "{report}");
    assert!(refused(&faults, Look::Coloured).contains('\u{1b}'));
    let line = "hookgate.toml:2:10: `ack.budget` is \"soon\"; expected a duration such as \"30s\", \"5m\", \"24h\" or \"3d\"\n";
    assert_eq!(refused(&faults, Look::Plain), line);
    assert!(format!("{:?}", miette::Report::new(faults)).contains("hookgate.toml:2:10"));
}

#[test]
fn a_fault_as_json_has_every_field() {
    let faults = check_with(&format!("[ack]\nmode = \"realy\"\n{ROUTE}"), &environment()).unwrap_err();
    let expected = serde_json::json!([{
        "kind": "value", "file": "hookgate.toml", "line": 2, "column": 8, "variable": null, "key": "ack.mode",
        "found": "\"realy\"", "expected": "`relay`, `queue` or `sync`", "suggestion": "relay",
    }]);
    assert_eq!(faults.to_json(), expected);
}

#[test]
fn a_list_where_a_table_belongs_is_a_fault_and_shows_no_secret() {
    let tables = [
        "server",
        "server.tls",
        "app",
        "spool",
        "log",
        "dedup",
        "dedup.redis",
        "ack",
        "ack.reply",
        "delivery",
        "delivery.breaker",
        "passthrough",
        "routes",
        "routes.a",
        "routes.a.app",
        "routes.a.ack",
        "routes.a.ack.reply",
        "routes.a.dedup",
        "routes.a.delivery",
        "routes.a.delivery.breaker",
        "routes.a.timestamp",
        "providers.x.about",
        "admin_token",
        "routes.a.secrets[0]",
    ];
    for key in tables {
        for list in ["[]", &format!("[\"{CANARY}\"]"), "[1]"] {
            let text = match key {
                "routes" => format!("routes = {list}\n"),
                "routes.a" => format!("[routes]\na = {list}\n"),
                "routes.a.secrets[0]" => ROUTE.replace("[{ env = \"SECRET\" }]", &format!("[{list}]")),
                _ if key.starts_with("routes.a.") => {
                    ROUTE.to_owned() + &format!("{} = {list}\n", &key["routes.a.".len()..])
                }
                _ => format!("{key} = {list}\n{ROUTE}"),
            };
            let found = faults(&text);
            assert!(found.iter().any(|fault| fault.key == key), "{key} = {list}: {found:?}");
            assert!(found.iter().all(|fault| !fault.line().contains(CANARY)), "{key} = {list}: {found:?}");
        }
    }
}

//! Secrets: where they come from, what stops the start, and that they show up nowhere.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use hookgate::config::FaultKind::{self, Secret, UnknownKey, Value};
use hookgate::config::report::{Look, accepted, note_to_json, refused};
use hookgate::config::{Config, Layers, NoteLevel, ShowFormat, ShowOrigins, Store, show};
use hookgate::domain::secret::SecretOrigin;
use hookgate::domain::shared_store::Place;

use super::{CANARY, ROUTE, at, check, check_with, environment, environment_with, fault, faults, note_of, only};

fn with_secrets(secrets: &str) -> String {
    ROUTE.replace("{ env = \"SECRET\" }", secrets)
}

fn file(directory: &Path, name: &str, bytes: &[u8], mode: u32) -> String {
    let path = directory.join(name);
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path.display().to_string()
}

fn secret_of(config: &Config) -> &[u8] {
    config.routes[0].secrets[0].secret.expose()
}

#[test]
fn one_line_break_at_the_end_of_a_file_is_not_part_of_the_secret() {
    let directory = tempfile::tempdir().unwrap();
    for (written, read, noted) in [("", "", false), ("\n", "", true), ("\r\n", "", true), ("\n\n", "\n", true)] {
        let path = file(directory.path(), "s", format!("{CANARY}{written}").as_bytes(), 0o600);
        let config = check(&with_secrets(&format!("{{ file = \"{path}\" }}"))).unwrap();
        assert_eq!(secret_of(&config), format!("{CANARY}{read}").as_bytes());
        let note = config.notes.iter().find(|note| note.text.contains("line break"));
        assert_eq!(note.is_some(), noted, "{written:?}");
        assert!(note.is_none_or(|note| note.key == "routes.a.secrets[0]" && note.level == NoteLevel::Note));
    }
}

#[test]
fn a_credential_is_a_file_in_the_directory_that_systemd_names() {
    let directory = tempfile::tempdir().unwrap();
    file(directory.path(), "hook", format!("{CANARY}\n").as_bytes(), 0o400);
    let text = with_secrets("{ credential = \"hook\" }");
    let environment = environment_with(&[("CREDENTIALS_DIRECTORY", directory.path().to_str().unwrap())]);
    let config = check_with(&text, &environment).unwrap();
    assert_eq!(secret_of(&config), CANARY.as_bytes());
    assert_eq!(config.routes[0].secrets[0].origin, SecretOrigin::Credential("hook".to_owned()));
    assert!(fault(&text).found.contains("CREDENTIALS_DIRECTORY is not set"));
}

/// What stops the start: the secret, and what the fault says about it.
const STOPS: &[(&str, FaultKind, &str)] = &[
    ("{ env = \"EMPTY\" }", Secret, "empty (env:EMPTY)"),
    ("{ env = \"BLANK\" }", Secret, "blank (env:BLANK)"),
    ("{ env = \"UNSET\" }", Secret, "unresolved: the variable UNSET is not set"),
    ("{ file = \"/nowhere/s\" }", Secret, "unresolved: cannot read /nowhere/s: there is no such file"),
    ("{ file = \"/\" }", Secret, "unresolved: cannot read /: it is a directory"),
    ("{ literal = \"\" }", Secret, "empty (literal)"),
    ("{ literal = \" \\t\\n\" }", Secret, "blank (literal)"),
    ("{ credential = \"x\" }", Secret, "unresolved: CREDENTIALS_DIRECTORY is not set"),
    ("{ }", Value, "a secret from nowhere"),
    ("{ until = \"2030-01-01T00:00:00Z\" }", Value, "a secret from nowhere"),
    ("{ env = \"SECRET\", file = \"x\" }", Value, "a secret from several places"),
];

#[test]
fn a_secret_that_is_blank_or_cannot_be_read_stops_the_start() {
    let environment = environment_with(&[("EMPTY", ""), ("BLANK", " \n\t")]);
    for (secret, kind, found) in STOPS {
        let fault = super::only(check_with(&with_secrets(secret), &environment).unwrap_err());
        super::assert_fault(&fault, *kind, "routes.a.secrets[0]", &at(4, 12));
        assert!(fault.found.starts_with(found), "{}", fault.line());
    }
}

#[test]
fn a_secret_file_is_read_up_to_64_kib() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), "s", &vec![b'x'; 64 * 1024], 0o600);
    let text = with_secrets(&format!("{{ file = \"{path}\" }}"));
    assert_eq!(secret_of(&check(&text).unwrap()).len(), 64 * 1024);
    file(directory.path(), "s", &vec![b'x'; 64 * 1024 + 1], 0o600);
    assert_eq!(fault(&text).kind, Secret);
}

#[test]
fn no_secret_at_all_stops_the_start() {
    super::assert_fault(&fault(&with_secrets("")), Secret, "routes.a.secrets", &at(4, 11));
}

#[test]
fn what_weakens_a_secret_is_a_warning() {
    let directory = tempfile::tempdir().unwrap();
    let open = file(directory.path(), "s", CANARY.as_bytes(), 0o644);
    let environment = environment_with(&[("SHORT", "123456"), ("PADDED", " 0123456789abcdef0")]);
    let cases = [
        (format!("{{ file = \"{open}\" }}"), "can be read by everyone"),
        ("{ env = \"SHORT\" }".to_owned(), "env:SHORT is 6 bytes; use 32 or more"),
        ("{ env = \"PADDED\" }".to_owned(), "begins or ends with white space"),
        (format!("{{ literal = \"{CANARY}\" }}"), "for development only"),
    ];
    for (secret, text) in cases {
        let config = check_with(&with_secrets(&secret), &environment).unwrap();
        let note = note_of(&config, "routes.a.secrets[0]").unwrap();
        assert!(note.text.contains(text) && note.level == NoteLevel::Warn, "{note:?}");
    }
    assert!(note_of(&check(ROUTE).unwrap(), "routes.a.secrets[0]").is_none());
}

#[test]
fn an_expired_secret_is_named_and_the_last_one_must_not_be() {
    let live = "{ env = \"SECRET\" }";
    let now = "{ env = \"SECRET\", until = \"2025-10-09T08:53:20Z\" }";
    let later = "{ env = \"SECRET\", until = 2025-10-09T08:53:21Z }";
    let config = check(&with_secrets(&format!("{now}, {live}"))).unwrap();
    assert!(note_of(&config, "routes.a.secrets[0]").unwrap().text.contains("expired at 2025-10-09T08:53:20"));
    assert_eq!(config.routes[0].secrets.len(), 2, "positions are names in metrics");
    let config = check(&with_secrets(later)).unwrap();
    assert!(note_of(&config, "routes.a.secrets[0]").is_none());
    assert!(config.routes[0].secrets[0].until.is_some());
    let fault = fault(&with_secrets(&format!("{now}, {now}")));
    super::assert_fault(&fault, Secret, "routes.a.secrets", &at(4, 11));
}

#[test]
fn a_token_makes_an_admin_listener_on_any_address_right() {
    let text = format!("admin = \"0.0.0.0:9465\"\nadmin_token = {{ env = \"HOOKGATE_ADMIN_TOKEN\" }}\n{ROUTE}");
    let environment = environment_with(&[("HOOKGATE_ADMIN_TOKEN", CANARY)]);
    let config = check_with(&text, &environment).unwrap();
    assert_eq!(config.admin_token.as_ref().map(|token| token.expose().to_vec()), Some(CANARY.as_bytes().to_vec()));
    assert_eq!(fault(&text).key, "admin_token", "the variable is not set");
    assert!(check(&format!("admin = \"[::1]:9465\"\n{ROUTE}")).is_ok());
}

/// Texts in which a secret stands where it should, where it should not, and beside mistakes.
const LEAKS: &[&str] = &[
    "secrets = [{ literal = \"CANARY\" }]\nmethds = 1",
    "secrets = [{ literal = \"CANARY\", until = \"soon\" }]",
    "secrets = [\"CANARY\"]",
    "secrets = \"CANARY\"",
    "secrets = [{ litteral = \"CANARY\" }]",
    "secrets = [{ env = \"SECRET\", literal = \"CANARY\" }]",
    "secret = \"CANARY\"",
    "signing_key = \"CANARY\"",
    "secrets = [{ env = \"SECRET\" }]\nkey = \"CANARY\"",
    "secrets = [{ env = \"SECRET\" }]\ntoken = \"CANARY\"",
    "secrets = [{ env = \"SECRET\" }]\n[providers.p]\nkey = \"CANARY\"",
    "secrets = [{ literal = \"\"\"CANARY\nCANARY\"\"\" }, 5]",
    "secrets = [\n  # was CANARY\n  { env = \"UNSET\" } # CANARY\n]",
    "path = \"x\" # CANARY",
    "secrets = [{ literal = \"CANARY }]",
    "secrets = [{ literal = CANARY }]",
    "secrets = [{ env = \"SECRET\" }]\n[app]\nurl = \"http://user:CANARY@host\"",
    "secrets = [{ env = \"SECRET\" }]\n[dedup]\nstore = \"redis\"\n[dedup.redis]\nurl = \"rediss://user:CANARY@host\"",
    "secrets = [{ env = \"SECRET\" }]\n[dedup]\nstore = \"redis\"\n[dedup.redis]\nurl = \"user:CANARY@host\"",
    "secrets = [{ env = \"SECRET\" }]\n[dedup.redis]\nurl = { litteral = \"CANARY\" }",
    "secrets = [{ env = \"SECRET\" }]\n[dedup.redis]\nurl = [\"redis://:CANARY@host\"]\npassword = \"CANARY\"",
    "secrets = [{ env = \"SECRET\" }]\n[dedup]\nstore = \"redis\"\n[dedup.redis]\nurl = [\"redis://u:CANARY@a\", \"redis://b\"]",
    "secrets = [{ env = \"SECRET\" }]\n[dedup]\nstore = \"redis\"\n[dedup.redis]\nurl = [\"CANARY\", { literal = \"CANARY\" }]",
    "secrets = [{ env = \"SECRET\" }]\n[dedup]\nstore = \"redis\"\n[dedup.redis]\npassword = { literal = \"CANARY\" }",
    "secrets = [{ env = \"SECRET\" }]\n[dedup]\nstore = \"redis\"\n[dedup.redis]\npassword = \"CANARY\"\n[dedup.redis.sentinel]\npassword = \"CANARY\"",
    "secrets = [{ env = \"SECRET\" }]\n[dedup]\nstore = \"redis\"\n[dedup.redis.sentinel]\nmaster = \"m\"\nnodes = [\"redis://:CANARY@a\"]\npassword = { literal = \"CANARY\" }",
    "secrets = [{ env = \"SECRET\" }]\n[server]\nadmin_token = \"CANARY\"",
];

fn everything_said(text: &str) -> String {
    let route = "[routes.a]\npath = \"/a\"\nprovider = \"github\"\n";
    let text = format!("{route}{}\n", text.replace("CANARY", CANARY));
    let mut said = String::new();
    match check(&text) {
        Ok(config) => said += &format!("{config:?}{}", accepted("hookgate.toml", &config, None)),
        Err(faults) => {
            for look in [Look::Plain, Look::Pretty, Look::Coloured] {
                said += &refused(&faults, look);
            }
            said += &format!("{faults:?}{faults}{}", faults.to_json());
            said += &format!("{:?}", miette::Report::new(faults));
        }
    }
    if let Ok(layers) = Layers::of_text("hookgate.toml", &text, &environment()) {
        for (format, origins) in [
            (ShowFormat::Toml, ShowOrigins::Yes),
            (ShowFormat::Json, ShowOrigins::No),
            (ShowFormat::Json, ShowOrigins::Yes),
        ] {
            match show(&layers, format, origins) {
                Ok(shown) => said += &shown,
                Err(faults) => said += &faults.plain(),
            }
        }
    }
    said
}

#[test]
fn no_report_and_no_listing_holds_a_secret() {
    for text in LEAKS {
        let said = everything_said(text);
        assert!(said.len() > 100, "{said}");
        assert!(!said.contains("canary"), "{text}\n{said}");
    }
}

#[test]
fn a_configuration_that_is_right_holds_no_secret_in_its_debug_form_and_its_listing() {
    let text = format!(
        "admin_token = {{ literal = \"{CANARY}\" }}\n[dedup]\nstore = \"redis\"\n[dedup.redis]\n\
         url = \"redis://user:{CANARY}@host:6379/0\"\n{}",
        with_secrets(&format!("{{ literal = \"{CANARY}\" }}, {{ env = \"SECRET\" }}"))
    );
    let config = check(&text).unwrap_or_else(|faults| panic!("{}", faults.plain()));
    let layers = Layers::of_text("hookgate.toml", &text, &environment()).unwrap();
    let shown = show(&layers, ShowFormat::Toml, ShowOrigins::Yes).unwrap();
    assert!(shown.contains("redis://(redacted)@host:6379/0"), "{shown}");
    assert!(shown.contains("{ env = \"SECRET\" }"), "{shown}");
    let notes: Vec<_> = config.notes.iter().map(|note| note_to_json(note).to_string()).collect();
    let said = format!("{config:?}{shown}{}{notes:?}{:?}", accepted("x", &config, None), environment());
    assert!(!said.contains("canary"), "{said}");
}

#[test]
fn a_secret_in_a_variable_of_ours_is_not_shown_either() {
    let secrets = format!("[\"{CANARY}\", {{ litteral = \"{CANARY}\" }}]");
    let environment = environment_with(&[
        ("HOOKGATE_ROUTES__A__SECRETS", secrets.as_str()),
        ("HOOKGATE_ROUTES__A__SECRET", CANARY),
        ("HOOKGATE_DEDUP__REDIS__URL", CANARY),
        ("HOOKGATE_DEDUP__STORE", "redis"),
    ]);
    let faults = check_with(ROUTE, &environment).unwrap_err();
    let said = format!("{}{faults:?}{}", refused(&faults, Look::Pretty), faults.to_json());
    assert!(faults.iter().any(|fault| fault.kind == UnknownKey), "{said}");
    assert!(faults.len() == 4 && !said.contains("canary"), "{said}");
}

#[test]
fn unknown_keys_near_a_secret_are_still_found() {
    let keys: Vec<_> =
        faults(&with_secrets("{ litteral = \"x\" }, { envv = \"y\" }")).into_iter().map(|f| f.key).collect();
    assert_eq!(keys, ["routes.a.secrets[0].litteral", "routes.a.secrets[1].envv"]);
}

/// A route whose provider's challenge shows a token, with this line.
fn with_token(line: &str) -> String {
    format!("{}{line}\n", ROUTE.replace("github", "meta"))
}

#[test]
fn a_verify_token_is_read_like_a_secret_and_shown_nowhere() {
    let text = with_token("verify_token = { env = \"TOKEN\" }");
    let token = "verify-canary-d41d8cd98f00b204";
    let environment = environment_with(&[("TOKEN", token)]);
    let config = check_with(&text, &environment).unwrap();
    assert_eq!(config.routes[0].verify_token.as_ref().unwrap().expose(), token.as_bytes());
    assert!(!format!("{config:?}").contains(token));
    assert!(note_of(&config, "routes.a.verify_token").is_none());
    let literal = with_token(&format!("verify_token = {{ literal = \"{token}\" }}"));
    let layers = Layers::of_text("hookgate.toml", &literal, &environment).unwrap();
    for format in [ShowFormat::Toml, ShowFormat::Json] {
        let shown = show(&layers, format, ShowOrigins::Yes).unwrap();
        assert!(shown.contains("verify_token") && !shown.contains(token), "{shown}");
    }
}

#[test]
fn a_verify_token_that_is_blank_misplaced_or_ends_stops_the_start() {
    let cases = [
        ("{ env = \"UNSET\" }", Secret, "routes.a.verify_token"),
        ("{ literal = \" \" }", Secret, "routes.a.verify_token"),
        ("{ }", Value, "routes.a.verify_token"),
        ("{ env = \"SECRET\", until = \"2030-01-01T00:00:00Z\" }", UnknownKey, "routes.a.verify_token.until"),
    ];
    for (written, kind, key) in cases {
        let fault = fault(&with_token(&format!("verify_token = {written}")));
        assert_eq!((fault.kind, fault.key.as_str()), (kind, key), "{written}");
    }
    let misplaced = check(&with_token(&format!("verify_token = \"{CANARY}\""))).unwrap_err();
    assert!(!misplaced.plain().contains(CANARY), "{}", misplaced.plain());
}

#[test]
fn only_a_secret_of_a_route_has_an_end() {
    let ended = "{ env = \"SECRET\", until = \"2020-01-01T00:00:00Z\" }";
    let redis = |line: &str| format!("[dedup]\nstore = \"redis\"\n[dedup.redis]\n{line}\n{ROUTE}");
    let cases = [
        (format!("admin_token = {ended}\n{ROUTE}"), "admin_token.until"),
        (redis(&format!("url = {ended}")), "dedup.redis.url.until"),
        (redis(&format!("url = [{ended}]")), "dedup.redis.url[0].until"),
        (redis(&format!("username = {ended}")), "dedup.redis.username.until"),
        (redis(&format!("password = {ended}")), "dedup.redis.password.until"),
        (redis(&format!("sentinel.password = {ended}")), "dedup.redis.sentinel.password.until"),
        (redis(&format!("sentinel.username = {ended}")), "dedup.redis.sentinel.username.until"),
        (redis(&format!("sentinel.nodes = [{ended}]")), "dedup.redis.sentinel.nodes[0].until"),
    ];
    for (text, key) in cases {
        let faults = faults(&text);
        let found = faults.iter().find(|fault| fault.key == key);
        assert_eq!(found.map(|fault| fault.kind), Some(UnknownKey), "{key}: {faults:?}");
    }
}

#[test]
fn a_handshake_that_is_off_says_how_to_turn_it_on_and_a_token_that_nobody_asks_for_is_named() {
    let off = check(&with_token("")).unwrap();
    let note = note_of(&off, "routes.a.verify_token").unwrap();
    assert_eq!(note.level, NoteLevel::Note);
    assert!(note.text.contains("say `verify_token = { env = \"NAME\" }` in [routes.a]"), "{}", note.text);
    let idle = check(&format!("{ROUTE}verify_token = {{ env = \"SECRET\" }}\n")).unwrap();
    let note = note_of(&idle, "routes.a.verify_token").unwrap();
    assert_eq!(note.level, NoteLevel::Warn);
    let braintree = check(&ROUTE.replace("github", "braintree")).unwrap();
    assert!(note_of(&braintree, "routes.a.signature").unwrap().text.contains("pick"));
    let picked = format!("{}signature = {{ pick = \"pub1\" }}\n", ROUTE.replace("github", "braintree"));
    assert!(note_of(&check(&picked).unwrap(), "routes.a.signature").is_none());
}

#[test]
fn a_redis_password_from_a_file_is_known_with_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, CANARY).unwrap();
    let text = format!(
        "[dedup]\nstore = \"redis\"\n[dedup.redis]\nurl = [{{ env = \"NODE\" }}, \"redis://b\"]\nusername = \"u\"\n\
         password = {{ file = {:?} }}\n{ROUTE}",
        file.display().to_string()
    );
    let config = check_with(&text, &environment_with(&[("NODE", "redis://a")])).unwrap();
    let Store::Redis(redis) = &config.dedup.store else { panic!("{:?}", config.dedup) };
    let password = redis.link.login.password.as_ref().unwrap();
    assert_eq!((password.secret.expose(), password.file.as_deref()), (CANARY.as_bytes(), Some(file.as_path())));
    let Place::Cluster(urls) = &redis.link.place else { panic!("{:?}", redis.link) };
    assert_eq!((urls.len(), urls[0].secret.expose()), (2, &b"redis://a"[..]));
    assert!(config.files.contains(&file), "a reload watches it");
    let layers = Layers::of_text("hookgate.toml", &text, &environment()).unwrap();
    let shown = show(&layers, ShowFormat::Toml, ShowOrigins::No).unwrap();
    assert!(shown.contains("url = [{ env = \"NODE\" }, \"redis://b\"]"), "{shown}");
}

#[test]
fn an_admin_token_that_no_header_can_hold_stops_the_start() {
    for (token, said) in [("ends with a blank ", "white space"), ("\\nbegins so", "white space"), ("a\\nb", "control")]
    {
        let text = format!("admin_token = {{ literal = \"{token}\" }}\n{ROUTE}");
        let fault = only(check(&text).unwrap_err());
        assert_eq!((fault.kind, fault.key.as_str()), (Secret, "admin_token"));
        assert!(fault.found.contains(said) && !fault.line().contains("ends with a"), "{}", fault.line());
        let layers = Layers::of_text("hookgate.toml", &text, &environment()).unwrap();
        assert!(layers.admin_token().is_err(), "commands say so too");
    }
    let text = format!("admin_token = {{ literal = \"with blanks and !\" }}\n{ROUTE}");
    assert!(check(&text).is_ok());
}

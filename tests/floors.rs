//! The house rules that a compiler does not know: which floor may name which, what has one home, what is never there.
//!
//! It reads the text of `src/`, not its meaning: comments and strings are blanked, paths are taken as written. Every
//! rule is a function from sources to complaints, and each is shown below to complain about what it forbids.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that stops is a test that fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// One file of `src/`.
struct Source {
    /// From the top of the work tree: `src/disk/mod.rs`.
    path: String,
    /// As it is.
    text: String,
    /// With comments and the insides of strings blanked.
    code: String,
    /// `code` up to the unit tests at the bottom.
    shipped: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let code = blanked(text);
        let shipped = if path.ends_with("/tests.rs") || path.contains("/tests/") {
            String::new()
        } else {
            before_tests(&code).to_owned()
        };
        Self { path: path.to_owned(), text: text.to_owned(), code, shipped }
    }

    /// The folder or file directly under `src/` that it belongs to.
    fn room(&self) -> &str {
        self.path.trim_start_matches("src/").split('/').next().unwrap_or_default().trim_end_matches(".rs")
    }

    /// How many modules deep it lies: `src/disk/mod.rs` 1, `src/disk/schema.rs` 2.
    fn depth(&self) -> usize {
        let inner = self.path.trim_start_matches("src/").trim_end_matches("/mod.rs");
        inner.split('/').count()
    }
}

/// The code up to `#[cfg(test)] mod …`.
fn before_tests(code: &str) -> &str {
    let mark = "\n#[cfg(test)]\n";
    let opens_tests = |at: &usize| code[at + mark.len()..].lines().next().is_some_and(|line| line.contains("mod "));
    let end = code.match_indices(mark).map(|(at, _)| at).find(opens_tests);
    &code[..end.unwrap_or(code.len())]
}

type Rule = fn(&[Source]) -> Vec<String>;

const RULES: &[(&str, Rule)] = &[
    ("a file imports only from floors below", floors),
    ("the domain is pure", purity),
    ("a library is named in its one place", homes),
    ("the environment is read in config", environment),
    ("there are no globals", globals),
    ("the wall clock is read in one file", wall_clock),
    ("there is no unsafe code", soundness),
    ("a file has at most 500 lines", length),
    ("a file opens with its sentence", openings),
    ("names say what a thing does", names),
];

#[test]
fn the_house_rules_hold() {
    let sources = house();
    assert!(sources.len() >= 10, "only {} sources found", sources.len());
    assert!(sources.iter().any(|s| s.path == "src/domain/mod.rs"));
    let complaints: Vec<String> = RULES
        .iter()
        .flat_map(|(name, rule)| rule(&sources).into_iter().map(move |complaint| format!("{name}: {complaint}")))
        .collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

fn house() -> Vec<Source> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut found, mut folders) = (Vec::new(), vec![top.join("src")]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(top).unwrap().to_str().unwrap().to_owned();
                found.push(Source::new(&name, &fs::read_to_string(path).unwrap()));
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// Where a room lies.
#[derive(Clone, Copy, PartialEq)]
enum Floor {
    /// Knows the floors below it, and telemetry and clock unless it is the ground floor.
    Storey(u8),
    /// Knows the ground floor alone; telemetry and clock are known by every storey but the ground floor, config by the roof.
    Side,
    /// Knows everything.
    Roof,
}

fn floor(room: &str) -> Option<Floor> {
    Some(match room {
        "domain" => Floor::Storey(0),
        "disk" | "buffers" => Floor::Storey(1),
        "claims" | "spool" => Floor::Storey(2),
        "forward" => Floor::Storey(3),
        "gateway" | "admin" => Floor::Storey(4),
        "telemetry" | "clock" | "config" => Floor::Side,
        "app" | "cli" | "demo" | "dev" | "main" | "lib" => Floor::Roof,
        _ => return None,
    })
}

fn may_name(from: &str, to: &str) -> bool {
    match (floor(from), floor(to)) {
        _ if from == to => true,
        (Some(Floor::Roof), Some(_)) => true,
        (Some(Floor::Storey(above)), Some(Floor::Storey(below))) => above > below,
        (Some(Floor::Storey(above)), Some(Floor::Side)) => above > 0 && to != "config",
        (Some(Floor::Side), Some(Floor::Storey(below))) => below == 0,
        _ => false,
    }
}

fn floors(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources {
        if floor(source.room()).is_none() {
            complaints.push(format!("{}: no floor is known for it; give it one in tests/floors.rs", source.path));
            continue;
        }
        for room in rooms_named(source) {
            if !may_name(source.room(), &room) {
                complaints.push(format!("{} names {room}", source.path));
            }
        }
    }
    complaints
}

/// The rooms that a file names by `crate::room`, `crate::{room, …}` or enough `super::` to reach the top.
fn rooms_named(source: &Source) -> BTreeSet<String> {
    let to_the_top = "super::".repeat(source.depth());
    let mut rooms = BTreeSet::new();
    for lead in ["crate::", to_the_top.as_str()] {
        for (at, _) in source.code.match_indices(lead) {
            let behind = &source.code[at + lead.len()..];
            let named = if behind.starts_with('{') { group(behind) } else { vec![identifier(behind)] };
            let from_top = |room: &&str| lead == "crate::" || floor(room).is_some();
            rooms.extend(named.into_iter().filter(|r| !r.is_empty()).filter(from_top).map(str::to_owned));
        }
    }
    rooms.retain(|room| room != "self" && room.starts_with(char::is_lowercase));
    rooms
}

/// The first names of the elements of `{a::b, c, {…}}`.
fn group(text: &str) -> Vec<&str> {
    let (mut depth, mut starts) = (0_usize, Vec::new());
    for (at, sign) in text.char_indices() {
        match sign {
            '{' => {
                depth += 1;
                if depth == 1 {
                    starts.push(at + 1);
                }
            }
            ',' if depth == 1 => starts.push(at + 1),
            '}' if depth == 1 => break,
            '}' => depth -= 1,
            _ => {}
        }
    }
    starts.into_iter().map(|at| identifier(text[at..].trim_start())).collect()
}

fn identifier(text: &str) -> &str {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or_default()
}

/// Whether `code` names `path` from its root: not as the tail of another path or name.
fn names_path(code: &str, path: &str) -> bool {
    code.match_indices(path).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let behind = code[at + path.len()..].chars().next();
        let part_of_name = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        !part_of_name(before) && before != Some(':') && (path.ends_with(':') || !part_of_name(behind))
    })
}

const IMPURE: &[&str] = &[
    "tokio",
    "hyper",
    "axum",
    "tracing",
    "log",
    "fastrand",
    "prometheus",
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::net::UdpSocket",
    "SystemTime",
    "Instant::now",
];

fn purity(sources: &[Source]) -> Vec<String> {
    let ground = sources.iter().filter(|s| s.room() == "domain");
    ground.flat_map(|s| complain(s, IMPURE.iter().filter(|path| names_path(&s.shipped, &rooted(path))))).collect()
}

/// A crate is named as `name::…`, everything else as it stands.
fn rooted(path: &str) -> String {
    let is_crate = !path.contains("::") && path.starts_with(char::is_lowercase);
    if is_crate { format!("{path}::") } else { path.to_owned() }
}

fn complain<'a>(source: &Source, found: impl Iterator<Item = &'a &'a str>) -> Vec<String> {
    found.map(|what| format!("{} names {what}", source.path)).collect()
}

const HOMES: &[(&str, &[&str])] = &[
    ("redis", &["src/claims/redis"]),
    ("rusqlite", &["src/disk", "src/spool"]),
    ("pingora", &["src/gateway"]),
    ("pingora_core", &["src/gateway"]),
    ("pingora_proxy", &["src/gateway"]),
    ("pingora_http", &["src/gateway"]),
    ("h2", &["src/gateway/http2"]),
    ("prometheus", &["src/telemetry"]),
];

fn homes(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for (library, places) in HOMES {
        for source in sources.iter().filter(|s| !places.iter().any(|place| s.path.starts_with(place))) {
            let own_module = source.code.contains(&format!("mod {library};"));
            if !own_module && names_path(&source.shipped, &format!("{library}::")) {
                complaints.push(format!("{} names {library}, which lives in {}", source.path, places.join(", ")));
            }
        }
    }
    complaints
}

fn environment(sources: &[Source]) -> Vec<String> {
    let outside = sources.iter().filter(|s| s.room() != "config");
    outside.filter(|s| names_path(&s.shipped, "std::env")).map(|s| format!("{} names std::env", s.path)).collect()
}

const GLOBAL: &[&str] =
    &["OnceLock", "LazyLock", "OnceCell", "LazyCell", "Lazy<", "Mutex", "RwLock", "Atomic", "static mut "];
const GLOBAL_MAKERS: &[&str] = &["lazy_static!", "thread_local!", "prometheus::default_registry", "prometheus::gather"];

fn globals(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources {
        let statics = source.shipped.lines().map(str::trim_start).filter(|line| {
            let line =
                line.trim_start_matches("pub(crate) ").trim_start_matches("pub(super) ").trim_start_matches("pub ");
            line.starts_with("static ") && GLOBAL.iter().any(|kind| line.contains(kind))
        });
        complaints.extend(statics.map(|line| format!("{}: {line}", source.path)));
        complaints.extend(complain(source, GLOBAL_MAKERS.iter().filter(|maker| source.shipped.contains(**maker))));
    }
    complaints
}

const WALL_CLOCKS: &[&str] = &["SystemTime::now", "jiff::Timestamp::now", "Zoned::now", "Utc::now", "clock_gettime"];

fn wall_clock(sources: &[Source]) -> Vec<String> {
    let reads = |s: &&Source| WALL_CLOCKS.iter().any(|clock| s.shipped.contains(clock));
    let readers: Vec<&str> = sources.iter().filter(reads).map(|s| s.path.as_str()).collect();
    if readers.len() > 1 { vec![readers.join(", ")] } else { Vec::new() }
}

/// A lint can be allowed where it is not forbidden, and a test of the disk needs it allowed. What ships does not.
fn soundness(sources: &[Source]) -> Vec<String> {
    let guilty = sources.iter().filter(|s| names_path(&s.code, "unsafe") || names_path(&s.code, "unsafe_code"));
    guilty.map(|s| s.path.clone()).collect()
}

fn length(sources: &[Source]) -> Vec<String> {
    let long = sources.iter().map(|s| (s, s.text.lines().count())).filter(|(_, lines)| *lines > 500);
    long.map(|(s, lines)| format!("{} has {lines}", s.path)).collect()
}

fn openings(sources: &[Source]) -> Vec<String> {
    sources.iter().filter(|s| !s.text.starts_with("//! ")).map(|s| s.path.clone()).collect()
}

const EMPTY_NAMES: &[&str] = &["util", "utils", "helper", "helpers", "manager", "handler", "misc", "common"];

/// A function whose name begins so is a check: it answers why not.
const CHECKS: &[&str] = &["check", "verify", "validate", "ensure"];

fn names(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources {
        let parts = source.path.trim_end_matches(".rs").split('/');
        complaints.extend(parts.filter(|p| EMPTY_NAMES.contains(p)).map(|p| format!("{}: {p}", source.path)));
        for (at, _) in source.shipped.match_indices("Result<bool") {
            let head = source.shipped[..at].rsplit("fn ").next().unwrap_or_default();
            if CHECKS.iter().any(|check| head.starts_with(check)) {
                complaints.push(format!(
                    "{}: {} says that something is wrong, not what",
                    source.path,
                    identifier(head)
                ));
            }
        }
    }
    complaints
}

/// The text with comments and the insides of string literals turned into spaces; lines stay where they are.
fn blanked(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = not_code(rest);
        if skipped == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            code.extend(rest[..skipped].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[skipped..];
        }
    }
    code
}

/// Length in bytes of the comment or literal at the start of `rest`; 0 if there is none.
fn not_code(rest: &str) -> usize {
    let until = |end: &str, from: usize| rest[from..].find(end).map_or(rest.len(), |at| from + at + end.len());
    let hashes = rest.strip_prefix('r').map_or(0, |r| r.len() - r.trim_start_matches('#').len());
    if rest.starts_with("//") {
        rest.find('\n').unwrap_or(rest.len())
    } else if rest.starts_with("/*") {
        until("*/", 2)
    } else if rest.starts_with('r') && rest[1 + hashes..].starts_with('"') {
        until(&format!("\"{}", "#".repeat(hashes)), 2 + hashes)
    } else if let Some(inside) = rest.strip_prefix('"') {
        let mut escaped = false;
        let end = inside.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        end.map_or(rest.len(), |at| at + 2)
    } else if rest.starts_with("'\"'") {
        3
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `rule` says about one file.
    fn said(rule: Rule, path: &str, text: &str) -> Vec<String> {
        rule(&[Source::new(path, text)])
    }

    #[track_caller]
    fn forbids(rule: Rule, path: &str, text: &str) {
        assert!(!said(rule, path, text).is_empty(), "{path} may not say {text}");
    }

    #[track_caller]
    fn allows(rule: Rule, path: &str, text: &str) {
        assert_eq!(said(rule, path, text), Vec::<String>::new());
    }

    #[test]
    fn a_floor_names_the_floors_below_and_no_other() {
        allows(floors, "src/forward/mod.rs", "use crate::{domain::event::Event, spool::Spool, telemetry::Metrics};");
        forbids(floors, "src/domain/event.rs", "use crate::telemetry::Metrics;");
        forbids(floors, "src/disk/mod.rs", "use crate::spool::Spool;");
        forbids(floors, "src/claims/store.rs", "use crate::{domain::key::EventKey, spool::Spool};");
        forbids(floors, "src/spool/mod.rs", "fn f() { crate::forward::x() }");
        forbids(floors, "src/gateway/mod.rs", "use crate::admin::Api;");
        forbids(floors, "src/gateway/mod.rs", "use crate::config::Config;");
        forbids(floors, "src/telemetry/logs.rs", "use crate::config::Config;");
        forbids(floors, "src/config/mod.rs", "use crate::app;");
        allows(floors, "src/app.rs", "use crate::{config::Config, gateway::Gateway};");
    }

    #[test]
    fn supers_that_reach_the_top_are_followed() {
        forbids(floors, "src/disk/schema.rs", "use super::super::spool::Spool;");
        forbids(floors, "src/disk/mod.rs", "use super::spool::Spool;");
        allows(floors, "src/disk/schema.rs", "use super::writer::Writer;");
    }

    #[test]
    fn a_room_without_a_floor_is_noticed() {
        forbids(floors, "src/cellar/mod.rs", "");
    }

    #[test]
    fn the_domain_may_compute_and_nothing_else() {
        allows(purity, "src/domain/time.rs", "use std::net::IpAddr; use std::time::Duration; fn catalog() {}");
        for impure in IMPURE {
            forbids(purity, "src/domain/time.rs", &format!("fn f() {{ {}x() }}", rooted(impure) + "::"));
        }
        allows(purity, "src/disk/mod.rs", "use std::fs;");
    }

    #[test]
    fn a_library_is_named_at_home_only() {
        forbids(homes, "src/claims/fallback.rs", "use redis::Client;");
        allows(homes, "src/claims/redis.rs", "use redis::Client;");
        allows(homes, "src/claims/mod.rs", "pub mod redis;\npub use redis::Redis;");
        allows(homes, "src/app.rs", "use crate::claims::redis::Redis;");
        forbids(homes, "src/admin/mod.rs", "fn f() { rusqlite::Connection::open() }");
        forbids(homes, "src/forward/mod.rs", "use pingora::prelude::*;");
        forbids(homes, "src/forward/mod.rs", "use pingora_core::Error;");
        forbids(homes, "src/spool/mod.rs", "use prometheus::Registry;");
    }

    #[test]
    fn the_environment_is_read_in_config_only() {
        forbids(environment, "src/app.rs", "let x = std::env::var(\"X\");");
        allows(environment, "src/config/environment.rs", "use std::env;");
        allows(environment, "src/app.rs", "// std::env\nlet x = env!(\"X\"); let y = \"std::env\";");
    }

    #[test]
    fn globals_are_seen_in_all_their_forms() {
        forbids(globals, "src/app.rs", "static X: OnceLock<u8> = OnceLock::new();");
        forbids(globals, "src/app.rs", "    pub(crate) static X: AtomicU64 = AtomicU64::new(0);");
        forbids(globals, "src/app.rs", "lazy_static! { }");
        allows(globals, "src/main.rs", "#[global_allocator]\nstatic ALLOCATOR: MiMalloc = MiMalloc;");
    }

    #[test]
    fn a_second_reader_of_the_wall_clock_is_one_too_many() {
        let clock = || Source::new("src/domain/clock.rs", "SystemTime::now()");
        assert_eq!(wall_clock(&[clock()]), Vec::<String>::new());
        let in_a_test = Source::new("src/app.rs", "fn f() {}\n\n#[cfg(test)]\nmod tests { SystemTime::now() }");
        assert_eq!(wall_clock(&[clock(), in_a_test]), Vec::<String>::new());
        assert_eq!(wall_clock(&[clock(), Source::new("src/app.rs", "jiff::Timestamp::now()")]).len(), 1);
    }

    #[test]
    fn unsafe_code_and_leave_for_it_are_seen() {
        forbids(soundness, "src/disk/mod.rs", "fn f() { unsafe { g() } }");
        forbids(soundness, "src/disk/mod.rs", "#![allow(unsafe_code)]");
        allows(soundness, "src/disk/mod.rs", "// unsafe\nlet unsafe_ones = \"unsafe\";");
    }

    #[test]
    fn long_files_missing_sentences_and_empty_names_are_seen() {
        forbids(length, "src/app.rs", &"\n".repeat(501));
        allows(length, "src/app.rs", &"\n".repeat(500));
        forbids(openings, "src/app.rs", "use std::fmt;");
        allows(openings, "src/app.rs", "//! The wiring.");
        forbids(names, "src/disk/utils.rs", "");
        forbids(names, "src/disk/mod.rs", "fn check_sum(a: u8) -> Result<bool, Fault> {}");
        allows(names, "src/disk/mod.rs", "fn check() -> u8 {} fn has_earlier() -> Result<bool, Fault> {}");
    }

    #[test]
    fn only_the_tests_at_the_bottom_are_left_out() {
        let text =
            "\n#[cfg(test)]\nfn seen() { std::env::var() }\n\n#[cfg(test)]\npub(super) mod tests { std::env::args() }";
        assert!(Source::new("src/app.rs", text).shipped.ends_with("std::env::var() }\n"));
    }

    #[test]
    fn comments_and_strings_are_not_code() {
        let text = "a // b\n/* c */ \"d \\\" e\" r#\"f \" g\"# '\"' h";
        assert_eq!(blanked(text).split_whitespace().collect::<Vec<_>>(), ["a", "h"]);
    }
}

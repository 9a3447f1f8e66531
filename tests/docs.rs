//! The papers say what is there: the tests that docs/PROMISES.md names exist, and so do the commands that the papers
//! tell people to type.
//!
//! It compares words. Whether a test proves its promise is for its reader to say.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that stops is a test that fails"
)]

#[path = "docs/providers.rs"]
mod providers;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const PROMISES: &str = "docs/PROMISES.md";
/// Papers and files with comments that name commands.
const PAPERS: [&str; 12] = [
    "README.md",
    "SECURITY.md",
    "CONTRIBUTING.md",
    PROMISES,
    "docs/OPERATIONS.md",
    "docs/PROVIDERS.md",
    "docs/ARCHITECTURE.md",
    "deploy/Dockerfile",
    "deploy/compose.yaml",
    "deploy/hookgate.toml",
    "deploy/kubernetes/sidecar/statefulset.yaml",
    "deploy/systemd/hookgate.service",
];
/// Commands that the papers may name because they say in the same line that they are not there.
const NOT_THERE: &str = "not there";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What stands between backticks, line by line.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2))
}

fn is_test_name(word: &str) -> bool {
    let is_snake = word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    is_snake && word.contains('_') && word.len() > 11
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The name of the function that a line begins, if it begins one.
fn function(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let line = line.strip_prefix("async ").unwrap_or(line);
    line.strip_prefix("fn ")?.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next()
}

/// Functions with `#[test]` or `#[tokio::test]` above them, and nothing that keeps them from being run.
fn tests_in(text: &str) -> BTreeSet<String> {
    let mut attributes = Vec::new();
    let mut found = BTreeSet::new();
    for line in text.lines().map(str::trim_start) {
        if line.starts_with("#[") {
            attributes.push(line);
            continue;
        }
        if let Some(name) = function(line) {
            let is_test = attributes.iter().any(|a| a.starts_with("#[test]") || a.starts_with("#[tokio::test"));
            let is_ignored = attributes.iter().any(|a| a.starts_with("#[ignore"));
            if is_test && !is_ignored {
                found.insert(name.to_owned());
            }
        }
        attributes.clear();
    }
    found
}

fn all_tests() -> BTreeSet<String> {
    let mut files = Vec::new();
    for folder in ["src", "tests"] {
        sources(&root().join(folder), &mut files);
    }
    assert!(files.len() > 100, "only {} files", files.len());
    files.iter().flat_map(|file| tests_in(&fs::read_to_string(file).unwrap())).collect()
}

#[test]
fn every_test_that_the_promises_name_exists() {
    let (page, tests) = (read(PROMISES), all_tests());
    let named: BTreeSet<&str> = quoted(&page).filter(|word| is_test_name(word)).collect();
    assert!(named.len() >= 60, "only {} tests are named", named.len());
    let missing: Vec<&&str> = named.iter().filter(|name| !tests.contains(**name)).collect();
    assert!(missing.is_empty(), "{PROMISES} names tests that do not exist: {missing:#?}");
}

#[test]
fn every_test_that_the_threat_model_names_exists() {
    let (page, tests) = (read("docs/THREAT-MODEL.md"), all_tests());
    let named: BTreeSet<&str> = quoted(&page).filter(|word| is_test_name(word)).collect();
    assert!(named.len() >= 20, "only {} tests are named", named.len());
    let missing: Vec<&&str> = named.iter().filter(|name| !tests.contains(**name)).collect();
    assert!(missing.is_empty(), "docs/THREAT-MODEL.md names tests that do not exist: {missing:#?}");
}

#[test]
fn every_promise_is_there_with_its_tests() {
    let page = read(PROMISES);
    let (said, proofs) = page.split_once("\n## The tests that would fail\n").unwrap();
    let (proofs, _) = proofs.split_once("\n## ").unwrap();
    for number in 1..=18 {
        let row = format!("\n| **P{number}** | ");
        let row = said.split_once(&row).unwrap_or_else(|| panic!("no P{number}")).1.lines().next().unwrap();
        let cells: Vec<&str> = row.trim_end_matches('|').split(" | ").collect();
        assert_eq!(cells.len(), 2, "P{number} is a promise and what holds of it today");
        let held = cells.last().unwrap();
        assert!(held.starts_with("yes") || held.starts_with("in part"), "P{number}: {held}");
        let paragraph = proofs.split("\n\n").find(|part| part.trim().starts_with(&format!("**P{number}** ")));
        let tests = quoted(paragraph.unwrap_or_else(|| panic!("no tests of P{number}"))).filter(|w| is_test_name(w));
        assert!(tests.count() >= 2, "P{number} needs tests that would fail");
    }
    for window in 1..=5 {
        assert!(said.contains(&format!("\n| **W{window}** | ")), "no W{window}");
        assert!(proofs.contains(&format!("**W{window}** ")), "W{window} has no tests, and no word that it has none");
    }
}

/// What follows `hookgate` where people are told to type it: in backticks, behind a prompt, behind a path.
fn invocations(text: &str) -> Vec<Vec<&str>> {
    let mut found = Vec::new();
    for line in text.lines().filter(|line| !line.contains(NOT_THERE)) {
        let typed = line.strip_prefix("$ ").into_iter().chain(line.split_once(" /").map(|(_, behind)| behind));
        let typed = typed.chain(line.strip_prefix("ExecStart=/usr/local/bin/")).chain(quoted(line));
        for command in typed.filter_map(|command| command.strip_prefix("hookgate ")) {
            let words = command.split([' ', '#', '|', '>', ']']).take_while(|word| !word.is_empty());
            found.push(words.collect());
        }
    }
    found
}

#[test]
fn every_command_in_the_papers_can_be_typed() {
    let mut count = 0;
    for paper in PAPERS {
        let text = read(paper);
        for words in invocations(&text) {
            count += 1;
            let is_word = |word: &&&str| word.bytes().all(|b| b.is_ascii_lowercase());
            let flags: Vec<&str> = words.iter().filter(|word| word.starts_with('-')).copied().collect();
            let mut asked: Vec<&str> = words.iter().take(1).copied().collect();
            let groups = ["config", "providers", "events", "dlq", "dedup"];
            if groups.contains(&words[0]) {
                asked.extend(words.get(1).filter(is_word));
            }
            let output = Command::new(env!("CARGO_BIN_EXE_hookgate")).args(&asked).arg("--help").output().unwrap();
            let typed = words.join(" ");
            assert!(output.status.success(), "{paper} says `hookgate {typed}`, which cannot be typed");
            let help = String::from_utf8(output.stdout).unwrap();
            for flag in flags {
                assert!(help.contains(flag), "{paper} says `hookgate {typed}`, which has no {flag}");
            }
        }
    }
    assert!(count >= 25, "only {count} commands were found in the papers");
}

#[test]
fn a_test_is_known_by_its_attribute_and_a_command_by_its_place() {
    let source = "#[test]\nfn one() {}\nfn no_test() {}\n#[tokio::test(start_paused = true)]\nasync fn two() {}\n\
                  #[test]\n#[ignore = \"slow\"]\nfn three() {}\n";
    assert_eq!(tests_in(source).into_iter().collect::<Vec<_>>(), ["one", "two"]);
    assert!(is_test_name("a_full_spool") && !is_test_name("max_bytes") && !is_test_name("spool.max_bytes"));
    let text = "$ hookgate run -c a.toml  # go\nsee `hookgate dlq list`, not hookgate at all\n\
                exec hookgate /hookgate send veedeo\n`hookgate explain` is not there";
    assert_eq!(invocations(text), [vec!["run", "-c", "a.toml"], vec!["dlq", "list"], vec!["send", "veedeo"]]);
}

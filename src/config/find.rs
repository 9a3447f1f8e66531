//! Where the files of a configuration are: the search for the main file, and what `include` names.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use figment::value::Value;

use super::environment::Environment;
use super::fault::{ConfigFault, FaultKind, Place};
use super::layers::shown_text;
use super::source::{Aim, Source, dotted};

/// The variable that names the configuration file.
pub const CONFIG_VARIABLE: &str = "HOOKGATE_CONFIG";

/// Where a configuration is looked for when nobody names one, in this order.
pub const SEARCH: [&str; 2] = ["hookgate.toml", "/etc/hookgate/hookgate.toml"];

/// A file, read.
pub(super) struct Text {
    pub(super) path: PathBuf,
    pub(super) text: String,
}

impl Text {
    /// The directory the file is in.
    pub(super) fn directory(&self) -> PathBuf {
        self.path.parent().map(Path::to_owned).unwrap_or_default()
    }
}

/// The main file: the one named, or the first one there is.
pub(super) fn main_file(explicit: Option<&Path>, environment: &Environment) -> Result<Text, Box<ConfigFault>> {
    if let Some(path) = explicit {
        return read(environment.directory().join(path))
            .map_err(|error| Box::new(unreadable(path, Place::Nowhere, &error)));
    }
    if let Some(path) = environment.get(CONFIG_VARIABLE).filter(|path| !path.is_empty()) {
        let place = Place::Variable(CONFIG_VARIABLE.to_owned());
        let path = Path::new(path);
        return read(environment.directory().join(path)).map_err(|error| Box::new(unreadable(path, place, &error)));
    }
    for path in SEARCH {
        match read(environment.directory().join(path)) {
            Ok(text) => return Ok(text),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(Box::new(unreadable(Path::new(path), Place::Nowhere, &error))),
        }
    }
    Err(Box::new(nothing_found()))
}

/// The files that `include` of this text names, in the order of the patterns and of their names.
pub(super) fn included(source: &Source, faults: &mut Vec<ConfigFault>) -> Vec<Text> {
    let mut files = Vec::new();
    let patterns = source.dict.get("include").and_then(Value::as_array).unwrap_or_default();
    for (index, pattern) in patterns.iter().enumerate() {
        let Some(pattern) = pattern.as_str() else { continue };
        if let Some(sign) = misused_sign(&source.directory, pattern) {
            faults.push(pattern_fault(source, index, pattern, sign));
            continue;
        }
        let read = matching(&source.directory, pattern).and_then(|paths| paths.into_iter().map(read).collect());
        match read {
            Ok::<Vec<Text>, _>(read) => files.extend(read),
            Err(error) => faults.push(include_fault(source, index, pattern, &error)),
        }
    }
    files
}

fn read(path: PathBuf) -> std::io::Result<Text> {
    let text = std::fs::read_to_string(&path)?;
    Ok(Text { path, text })
}

/// A sign that means something in the patterns of others and nothing here, in a pattern that would so name nothing. A
/// path that is there is taken by its name, whatever that is.
fn misused_sign(directory: &Path, pattern: &str) -> Option<char> {
    let (path, signs) = (Path::new(pattern), ['*', '?', '[', '{']);
    let absent = |path: &Path| matches!(directory.join(path).try_exists(), Ok(false));
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some((before, after)) = name.split_once('*') else {
        return pattern.chars().find(|sign| signs.contains(sign)).filter(|_| absent(path));
    };
    let around = path.parent().unwrap_or(Path::new(""));
    let stray = around.to_str().unwrap_or_default().chars().find(|sign| signs.contains(sign));
    let in_name = before.chars().chain(after.chars()).find(|sign| signs.contains(sign));
    in_name.or_else(|| stray.filter(|_| absent(around)))
}

/// The paths that a pattern names. A `*` may stand in its last part; a pattern with `*` may name nothing.
fn matching(directory: &Path, pattern: &str) -> std::io::Result<Vec<PathBuf>> {
    let path = directory.join(pattern);
    let Some((before, after)) = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.split_once('*'))
    else {
        return Ok(vec![path]);
    };
    let entries = match std::fs::read_dir(path.parent().unwrap_or(directory)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let fits = name.to_str().is_some_and(|name| {
            name.len() >= before.len() + after.len() && name.starts_with(before) && name.ends_with(after)
        });
        if fits && !name.as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

fn include_fault(source: &Source, index: usize, pattern: &str, error: &std::io::Error) -> ConfigFault {
    let found = format!("cannot read what {} names: {}", shown_text(pattern), reason(error));
    let expected = "a readable file, or a pattern such as \"routes.d/*.toml\"";
    fault_of_include(FaultKind::Unreadable, source, index, found, expected)
}

fn pattern_fault(source: &Source, index: usize, pattern: &str, sign: char) -> ConfigFault {
    let found = format!("{}, whose `{sign}` names nothing", shown_text(pattern));
    let expected =
        "a file, or a pattern with one `*` in its last part, without `?`, `[` and `{`, such as \"routes.d/*.toml\"";
    fault_of_include(FaultKind::Value, source, index, found, expected)
}

fn fault_of_include(kind: FaultKind, source: &Source, index: usize, found: String, expected: &str) -> ConfigFault {
    let path = ["include".to_owned(), index.to_string()];
    let (place, snippet) = source.place(&path, Aim::Value).unwrap_or((Place::Nowhere, None));
    ConfigFault { kind, place, key: dotted(&path), found, expected: expected.to_owned(), suggestion: None, snippet }
}

fn unreadable(path: &Path, place: Place, error: &std::io::Error) -> ConfigFault {
    ConfigFault {
        kind: FaultKind::Unreadable,
        place,
        key: String::new(),
        found: format!("cannot read {}: {}", path.display(), reason(error)),
        expected: "a readable configuration file".to_owned(),
        suggestion: None,
        snippet: None,
    }
}

fn nothing_found() -> ConfigFault {
    let [here, system] = SEARCH;
    ConfigFault {
        kind: FaultKind::Unreadable,
        place: Place::Nowhere,
        key: String::new(),
        found: format!("no configuration found: no --config, {CONFIG_VARIABLE} is not set, no ./{here}, no {system}"),
        expected: format!("one of these; `hookgate config init > {here}` writes one to start from"),
        suggestion: None,
        snippet: None,
    }
}

/// The system's reason as a lower-case sentence.
pub(super) fn reason(error: &std::io::Error) -> String {
    let kind = error.kind();
    let known = [
        (ErrorKind::NotFound, "there is no such file"),
        (ErrorKind::PermissionDenied, "permission denied"),
        (ErrorKind::IsADirectory, "it is a directory"),
        (ErrorKind::InvalidData, "it is not UTF-8 text"),
    ];
    known.iter().find(|(known, _)| *known == kind).map_or_else(|| kind.to_string(), |(_, text)| (*text).to_owned())
}

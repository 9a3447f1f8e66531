//! One TOML text as a layer: its values for figment, and where in the text each key and value stands. What the keys
//! mean is not known here.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use figment::value::{Dict, Map, Tag, Value};
use figment::{Metadata, Profile, Provider};
use toml_edit::{Document, Item, TableLike};

use super::fault::{ConfigFault, FaultKind, Place, Snippet};

/// A key as the list of its parts; an element of a list is named by its index.
pub(super) type KeyPath = Vec<String>;

/// One TOML text, read.
pub(super) struct Source {
    /// The name that reports use.
    pub(super) name: String,
    /// Where relative paths in this text start.
    pub(super) directory: PathBuf,
    /// Its values.
    pub(super) dict: Dict,
    text: String,
    spans: BTreeMap<KeyPath, Spans>,
}

/// Where a key and its value stand, in bytes of the text.
#[derive(Clone)]
struct Spans {
    key: Range<usize>,
    value: Range<usize>,
}

/// Which of the two a fault points at.
#[derive(Clone, Copy)]
pub(super) enum Aim {
    Key,
    Value,
}

impl Source {
    /// Reads a text. A text that is not TOML is one fault, and never shown: a broken line may hold a secret and
    /// nothing can tell.
    pub(super) fn read(name: String, directory: PathBuf, text: String) -> Result<Self, Box<ConfigFault>> {
        let document = match Document::parse(text.as_str()) {
            Ok(document) => document,
            Err(error) => return Err(Box::new(syntax_fault(&name, &text, &error))),
        };
        let mut spans = BTreeMap::new();
        let dict = table(document.as_table(), &mut Vec::new(), &mut spans);
        Ok(Self { name, directory, dict, text, spans })
    }

    /// Whether this text gives exactly this key.
    pub(super) fn gives(&self, path: &[String]) -> bool {
        self.spans.contains_key(path)
    }

    /// The place of a key of this text, and the line to show for it.
    pub(super) fn place(&self, path: &[String], aim: Aim) -> Option<(Place, Option<Snippet>)> {
        let spans = self.spans.get(path)?;
        let span = match aim {
            Aim::Key => &spans.key,
            Aim::Value => &spans.value,
        };
        let (line, column) = position(&self.text, span.start);
        let snippet = self.snippet(span, line, column);
        Some((Place::File { name: self.name.clone(), line, column }, snippet))
    }

    fn snippet(&self, span: &Range<usize>, line: usize, column: usize) -> Option<Snippet> {
        let start = self.text.get(..span.start)?.rfind('\n').map_or(0, |at| at + 1);
        let rest = self.text.get(start..)?;
        let whole = rest.lines().next()?;
        let length = (span.end - span.start).min(whole.len().saturating_sub(span.start - start));
        let text = whole.get(..span.start - start + length)?.to_owned();
        let lines = start..start + whole.len();
        if may_hold_a_secret(whole) || self.secrets().any(|secret| secret.start < lines.end && lines.start < secret.end)
        {
            return None;
        }
        Some(Snippet { name: self.name.clone(), text, line, column, offset: span.start - start, length })
    }

    fn secrets(&self) -> impl Iterator<Item = &Range<usize>> {
        self.spans.iter().filter(|(path, _)| is_secret(path)).map(|(_, spans)| &spans.value)
    }
}

impl Provider for Source {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.dict.clone()))
    }
}

/// A key path as people write it: `routes.veedeo.secrets[0]`.
pub(super) fn dotted(path: &[String]) -> String {
    let mut text = String::new();
    for part in path {
        if part.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
            text.extend(["[", part, "]"]);
        } else {
            text.extend([if text.is_empty() { "" } else { "." }, part]);
        }
    }
    text
}

/// Whether the value of this key, or a value below it, is secret.
pub(super) fn is_secret(path: &[String]) -> bool {
    let parts: Vec<&str> = path.iter().map(String::as_str).collect();
    match parts.as_slice() {
        // A text in place of these tables is probably a secret in the wrong place.
        ["routes", _, "secrets"] | ["routes" | "providers", _, "key" | "token"] => true,
        ["admin_token", rest @ ..]
        | ["dedup", "redis", "password", rest @ ..]
        | ["dedup", "redis", "sentinel", "password", rest @ ..]
        | ["routes", _, "secrets", _, rest @ ..]
        | ["routes", _, "verify_token", rest @ ..] => !names_a_place(rest),
        ["dedup", "redis", "url", rest @ ..] | ["dedup", "redis", "sentinel", "nodes", rest @ ..] => {
            let index = rest.first().is_some_and(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
            !names_a_place(rest.get(usize::from(index)..).unwrap_or(rest))
        }
        _ => parts.contains(&"literal"),
    }
}

/// Whether the value of this key is an address that may hold a password, and nothing else that is secret.
pub(super) fn is_address(path: &[String]) -> bool {
    let parts: Vec<&str> = path.iter().map(String::as_str).collect();
    let number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    match parts.as_slice() {
        [.., "url"] => true,
        ["dedup", "redis", "url", index] | ["dedup", "redis", "sentinel", "nodes", index] => number(index),
        _ => false,
    }
}

fn names_a_place(rest: &[&str]) -> bool {
    matches!(rest, ["env" | "file" | "credential" | "until"])
}

fn may_hold_a_secret(line: &str) -> bool {
    let line = line.to_ascii_lowercase();
    let words = ["literal", "token", "secret", "passw"];
    words.iter().any(|word| line.contains(word)) || (line.contains("://") && line.contains('@'))
}

/// Line and column, both from 1, the column in characters.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before.get(start..).map_or(0, |line| line.chars().count()) + 1)
}

fn syntax_fault(name: &str, text: &str, error: &toml_edit::TomlError) -> ConfigFault {
    let (line, column) = position(text, error.span().map_or(0, |span| span.start));
    ConfigFault {
        kind: FaultKind::Syntax,
        place: Place::File { name: name.to_owned(), line, column },
        key: String::new(),
        found: format!("not valid TOML: {}", error.message().replace('\n', ", ")),
        expected: String::new(),
        suggestion: None,
        snippet: None,
    }
}

type SpanTable = BTreeMap<KeyPath, Spans>;

fn table(table: &dyn TableLike, path: &mut KeyPath, spans: &mut SpanTable) -> Dict {
    let keys: Vec<&str> = table.iter().map(|(key, _)| key).collect();
    let mut dict = Dict::new();
    for (key, item) in keys.into_iter().filter_map(|key| table.get_key_value(key)) {
        path.push(key.get().to_owned());
        if let Some(value) = self::item(item, path, spans) {
            let key_span = key.span().unwrap_or_default();
            let is_headed = matches!(item, Item::Table(_));
            let value_span = item.span().filter(|_| !is_headed).unwrap_or_else(|| key_span.clone());
            spans.insert(path.clone(), Spans { key: key_span, value: value_span });
            dict.insert(key.get().to_owned(), value);
        }
        path.pop();
    }
    dict
}

fn item(item: &Item, path: &mut KeyPath, spans: &mut SpanTable) -> Option<Value> {
    match item {
        Item::None => None,
        Item::Value(given) => Some(value(given, path, spans)),
        Item::Table(given) => Some(Value::Dict(Tag::Default, table(given, path, spans))),
        Item::ArrayOfTables(tables) => {
            let elements = tables.iter().enumerate().map(|(index, element)| {
                let span = element.span().unwrap_or_default();
                nested(index, &span, path, spans, |path, spans| Value::from(table(element, path, spans)))
            });
            Some(Value::Array(Tag::Default, elements.collect()))
        }
    }
}

fn value(given: &toml_edit::Value, path: &mut KeyPath, spans: &mut SpanTable) -> Value {
    match given {
        toml_edit::Value::String(text) => Value::from(text.value().clone()),
        toml_edit::Value::Integer(number) => Value::from(*number.value()),
        toml_edit::Value::Float(number) => Value::from(*number.value()),
        toml_edit::Value::Boolean(truth) => Value::from(*truth.value()),
        toml_edit::Value::Datetime(moment) => Value::from(moment.value().to_string()),
        toml_edit::Value::InlineTable(given) => Value::from(table(given, path, spans)),
        toml_edit::Value::Array(array) => {
            let elements = array.iter().enumerate().map(|(index, element)| {
                let span = element.span().unwrap_or_default();
                nested(index, &span, path, spans, |path, spans| value(element, path, spans))
            });
            Value::Array(Tag::Default, elements.collect())
        }
    }
}

fn nested(
    index: usize,
    span: &Range<usize>,
    path: &mut KeyPath,
    spans: &mut SpanTable,
    read: impl FnOnce(&mut KeyPath, &mut SpanTable) -> Value,
) -> Value {
    path.push(index.to_string());
    let value = read(path, spans);
    spans.insert(path.clone(), Spans { key: span.clone(), value: span.clone() });
    path.pop();
    value
}

/// Reads a TOML value that stands alone, as a variable may hold it.
pub(super) fn lone_value(text: &str) -> Option<Value> {
    let given: toml_edit::Value = text.trim().parse().ok()?;
    Some(value(&given, &mut Vec::new(), &mut SpanTable::new()))
}

//! From merged values to raw types, with every fault and not only the first: serde stops at one, so what it stopped
//! at is recorded, taken out, and the rest is read again. Each round takes out one value, so it ends.

use std::collections::{BTreeMap, BTreeSet};

use figment::error::Kind;
use figment::value::{Dict, Tag, Value};
use serde::de::DeserializeOwned;

use super::fault::{ConfigFault, FaultKind};
use super::layers::{Layers, shown};
use super::source::{KeyPath, dotted, lone_value};
use super::tables::Tabled;
use super::variables::{looks_structured, variable_for};

/// Reads a table as a `T`. What could not be read is left out of the `T`, and of the table that comes back with it.
/// `key` gives the key of the configuration for a path within the table.
pub(super) fn read<T: DeserializeOwned + Default>(
    layers: &Layers,
    table: Dict,
    key: &dyn Fn(&[String]) -> KeyPath,
    faults: &mut Vec<ConfigFault>,
) -> (T, Dict) {
    let mut reading = Reading {
        layers,
        value: Value::Dict(Tag::Default, table),
        key,
        converted: BTreeSet::new(),
        survivors: BTreeMap::new(),
    };
    loop {
        match reading.value.deserialize::<Tabled<T>>() {
            Ok(Tabled(read)) => return (read, reading.value.into_dict().unwrap_or_default()),
            Err(error) => match reading.settle(&error) {
                Settled::Converted => {}
                Settled::TakenOut(fault) => faults.push(fault),
                Settled::Whole(fault) => {
                    faults.push(fault);
                    return (T::default(), Dict::new());
                }
            },
        }
    }
}

struct Reading<'a> {
    layers: &'a Layers,
    value: Value,
    key: &'a dyn Fn(&[String]) -> KeyPath,
    converted: BTreeSet<KeyPath>,
    /// For lists that lost elements: the original index of each element left.
    survivors: BTreeMap<KeyPath, Vec<usize>>,
}

enum Settled {
    /// The text of a variable was read as a number or truth value.
    Converted,
    /// The value is out.
    TakenOut(ConfigFault),
    /// Nothing can be read.
    Whole(ConfigFault),
}

impl Reading<'_> {
    fn settle(&mut self, error: &figment::Error) -> Settled {
        if matches!(error.kind, Kind::InvalidType(..) | Kind::InvalidValue(..)) && self.convert(&error.path) {
            return Settled::Converted;
        }
        let fault = self.fault(error);
        let (last, around) = match error.path.split_last() {
            Some((last, around)) => (last.clone(), around.to_vec()),
            None => return Settled::Whole(fault),
        };
        let original = self.original(&around);
        match find(&mut self.value, &around) {
            Some(Value::Dict(_, dict)) => match dict.remove(&last) {
                Some(_) => Settled::TakenOut(fault),
                None => Settled::Whole(fault),
            },
            Some(Value::Array(_, elements)) => {
                let Some(index) = last.parse().ok().filter(|index| *index < elements.len()) else {
                    return Settled::Whole(fault);
                };
                let all = (0..elements.len()).collect();
                elements.remove(index);
                self.survivors.entry(original).or_insert(all).remove(index);
                Settled::TakenOut(fault)
            }
            Some(_) | None => Settled::Whole(fault),
        }
    }

    /// A variable is text: where the key wants a number or a truth value, the text is read as one; where it wants text,
    /// what was read as a list or table is text again.
    fn convert(&mut self, path: &[String]) -> bool {
        let key = (self.key)(path);
        if self.layers.variable(&key).is_none() || !self.converted.insert(path.to_vec()) {
            return false;
        }
        let Some(value) = find(&mut self.value, path) else { return false };
        let read = match value.as_str() {
            Some(text) => lone_value(text).filter(|read| matches!(read, Value::Num(..) | Value::Bool(..))),
            None => self.layers.variable_text(&key).map(Value::from),
        };
        let Some(read) = read else { return false };
        *value = read;
        true
    }

    /// The path as it was before elements were taken out of lists.
    fn original(&self, path: &[String]) -> KeyPath {
        let mut original = KeyPath::new();
        for part in path {
            let index = self.survivors.get(&original).zip(part.parse::<usize>().ok());
            let index = index.and_then(|(survivors, index)| survivors.get(index));
            original.push(index.map_or_else(|| part.clone(), usize::to_string));
        }
        original
    }

    fn fault(&mut self, error: &figment::Error) -> ConfigFault {
        let key = (self.key)(&self.original(&error.path));
        let mut found = String::new();
        if let Some(value) = find(&mut self.value, &error.path) {
            found = shown(&key, value);
            if self.layers.variable(&key).is_some() && value.as_str().is_some_and(looks_structured) {
                // It may hold a secret, and nothing can tell: it is not shown.
                let is_one = self.layers.variable_text(&key).is_some();
                let what = if is_one { "a list or table" } else { "not a valid TOML list or table" };
                what.clone_into(&mut found);
            }
        }
        match &error.kind {
            Kind::UnknownField(name, known) => {
                let mut fault =
                    self.layers.fault(FaultKind::UnknownKey, &key, format!("unknown key `{name}`"), one_of(known));
                fault.suggestion = self.suggest_key(&key, name, known);
                fault
            }
            Kind::UnknownVariant(word, words) => {
                let mut fault = self.layers.fault(FaultKind::Value, &key, found, one_of(words));
                fault.suggestion = closest(word, words.iter().copied()).map(str::to_owned);
                fault
            }
            Kind::MissingField(name) => {
                let missing: KeyPath = key.iter().cloned().chain([name.to_string()]).collect();
                let mut fault = self.layers.fault(FaultKind::Missing, &key, "nothing".to_owned(), String::new());
                fault.key = dotted(&missing);
                fault
            }
            Kind::InvalidType(_, expected) | Kind::InvalidValue(_, expected) | Kind::InvalidLength(_, expected) => {
                self.layers.fault(FaultKind::Value, &key, found, in_words(expected))
            }
            Kind::Message(message) => self.layers.fault(FaultKind::Value, &key, found, message.clone()),
            Kind::DuplicateField(_)
            | Kind::ISizeOutOfRange(_)
            | Kind::USizeOutOfRange(_)
            | Kind::Unsupported(_)
            | Kind::UnsupportedKey(..) => {
                self.layers.fault(FaultKind::Value, &key, found, "a value of another type".to_owned())
            }
        }
    }

    /// What was probably meant: a key of the same table, named as a variable where a variable gave it.
    fn suggest_key(&self, key: &[String], name: &str, known: &[&str]) -> Option<String> {
        let Some(variable) = self.layers.variable(key) else {
            return closest(name, known.iter().copied()).map(str::to_owned);
        };
        let (_, around) = key.split_last()?;
        let beside = known.iter().map(|known| {
            let path: KeyPath = around.iter().cloned().chain([(*known).to_owned()]).collect();
            variable_for(&path)
        });
        let names: Vec<String> = super::defaults::variable_names().chain(beside).collect();
        closest(variable, names.iter().map(String::as_str)).map(str::to_owned)
    }
}

/// The value at a path.
fn find<'v>(value: &'v mut Value, path: &[String]) -> Option<&'v mut Value> {
    let Some((first, rest)) = path.split_first() else { return Some(value) };
    match value {
        Value::Dict(_, dict) => find(dict.get_mut(first)?, rest),
        Value::Array(_, list) => find(list.get_mut(first.parse::<usize>().ok()?)?, rest),
        Value::String(..) | Value::Char(..) | Value::Bool(..) | Value::Num(..) | Value::Empty(..) => None,
    }
}

/// The known word nearest to `word`, if it is near enough to be what was meant.
pub(super) fn closest<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let allowed = (word.chars().count() / 3).max(1);
    let lower = word.to_lowercase();
    let distances = known.map(|known| (strsim::damerau_levenshtein(&lower, &known.to_lowercase()), known));
    distances.min().filter(|(distance, _)| *distance <= allowed).map(|(_, known)| known)
}

/// "`a`, `b` or `c`".
pub(super) fn one_of(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.split_last() {
        None => String::new(),
        Some((last, [])) => last.clone(),
        Some((last, before)) => format!("{} or {last}", before.join(", ")),
    }
}

/// serde's words for types, as an operator says them.
fn in_words(expected: &str) -> String {
    match expected {
        "a boolean" => "true or false".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a string" => "text in quotes".to_owned(),
        "a map" => "a table".to_owned(),
        other if other.starts_with("struct ") => "a table".to_owned(),
        other => other.to_owned(),
    }
}

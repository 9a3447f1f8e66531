//! The layers of the configuration, lowest first: defaults, the file, its included files in the order of their names,
//! variables. figment merges them; which of them gave a value is looked up by the value's key.
//!
//! What the keys mean is not known here, but for `include`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::value::{Dict, Value};

use super::defaults;
use super::environment::Environment;
use super::fault::{ConfigFault, ConfigFaults, FaultKind, Place};
use super::find;
use super::source::{Aim, KeyPath, Source, dotted, is_secret};
use super::variables::{Variables, variables_named};

/// The merged configuration, as written, with the origin of every value.
pub struct Layers {
    pub(super) merged: Dict,
    pub(super) environment: Environment,
    pub(super) files: Vec<PathBuf>,
    sources: Vec<Source>,
    variables: Variables,
    faults: Vec<ConfigFault>,
}

/// Which layer gave a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody: it is the default.
    Default,
    /// A file or a variable.
    Given(Place),
}

impl Layers {
    /// Finds and reads every layer. Faults of single keys are left for the check; a configuration that cannot be
    /// found at all ends here.
    pub fn read(explicit: Option<&Path>, environment: &Environment) -> Result<Self, ConfigFaults> {
        let main = find::main_file(explicit, environment).map_err(|fault| ConfigFaults::one(*fault))?;
        let mut faults = Vec::new();
        let mut sources = Vec::new();
        let mut files = vec![main.path.clone()];
        match Source::read(main.path.display().to_string(), main.directory(), main.text) {
            Ok(source) => {
                let included = find::included(&source, &mut faults);
                sources.push(source);
                for file in included {
                    files.push(file.path.clone());
                    let name = file.path.display().to_string();
                    match Source::read(name, file.directory(), file.text) {
                        Ok(source) => sources.push(source),
                        Err(fault) => faults.push(*fault),
                    }
                }
            }
            Err(fault) => faults.push(*fault),
        }
        Self::merge(sources, environment, files, faults)
    }

    /// The layers of a configuration that is this text alone, named `name`; relative paths start in the
    /// environment's directory, and `include` is not followed.
    pub fn of_text(name: &str, text: &str, environment: &Environment) -> Result<Self, ConfigFaults> {
        let source = Source::read(name.to_owned(), environment.directory().to_owned(), text.to_owned());
        let source = source.map_err(|fault| ConfigFaults::one(*fault))?;
        Self::merge(vec![source], environment, Vec::new(), Vec::new())
    }

    fn merge(
        sources: Vec<Source>,
        environment: &Environment,
        files: Vec<PathBuf>,
        mut faults: Vec<ConfigFault>,
    ) -> Result<Self, ConfigFaults> {
        let defaults = defaults::layer().map_err(|fault| ConfigFaults::one(*fault))?;
        let ignored: BTreeSet<String> =
            sources.iter().flat_map(|source| source.dict.values().flat_map(variables_named)).collect();
        let variables = Variables::read(environment, &ignored, &mut faults);
        let mut figment = Figment::from(&defaults);
        for source in &sources {
            figment = figment.merge(source);
        }
        let merged = figment.merge(&variables).find_value("");
        let merged = merged.ok().and_then(Value::into_dict).unwrap_or_default();
        let mut layers = Self { merged, environment: environment.clone(), files, sources, variables, faults };
        let misplaced = layers.doubles().into_iter().chain(layers.stray_includes()).collect::<Vec<_>>();
        layers.faults.extend(misplaced);
        Ok(layers)
    }

    /// The faults found while reading.
    pub(super) fn reading_faults(&self) -> &[ConfigFault] {
        &self.faults
    }

    /// Which layer gave the value of a key.
    #[must_use]
    pub fn origin(&self, path: &[String]) -> Origin {
        if let Some(name) = self.variables.name_of(path) {
            return Origin::Given(Place::Variable(name.to_owned()));
        }
        let given = self.sources.iter().rev().find_map(|source| source.place(path, Aim::Value));
        given.map_or(Origin::Default, |(place, _)| Origin::Given(place))
    }

    /// The directory where a relative path in the value of a key starts.
    pub(crate) fn directory(&self, path: &[String]) -> &Path {
        if self.variables.name_of(path).is_some() {
            return self.environment.directory();
        }
        let source = self.sources.iter().rev().find(|source| source.gives(path));
        source.map_or(self.environment.directory(), |source| &source.directory)
    }

    /// A value that was found to be wrong when it was used.
    #[must_use]
    pub fn wrong_value(&self, path: &[String], found: String, expected: String) -> ConfigFaults {
        ConfigFaults::one(self.fault(FaultKind::Value, path, found, expected))
    }

    /// A fault of a key. Its place is that of the key, or of the nearest table around it that was given.
    pub(super) fn fault(&self, kind: FaultKind, path: &[String], found: String, expected: String) -> ConfigFault {
        let aim = match kind {
            FaultKind::UnknownKey | FaultKind::Missing | FaultKind::NotImplemented => Aim::Key,
            FaultKind::Unreadable | FaultKind::Syntax | FaultKind::Value | FaultKind::Conflict | FaultKind::Secret => {
                Aim::Value
            }
        };
        let (place, snippet) = self.place(path, aim);
        ConfigFault { kind, place, key: dotted(path), found, expected, suggestion: None, snippet }
    }

    fn place(&self, path: &[String], aim: Aim) -> (Place, Option<super::fault::Snippet>) {
        let around = (1..=path.len()).rev().filter_map(|length| path.get(..length).map(|part| (length, part)));
        for (length, part) in around {
            if let Some(name) = self.variables.name_of(part) {
                return (Place::Variable(name.to_owned()), None);
            }
            let aim = if length == path.len() { aim } else { Aim::Key };
            if let Some(found) = self.sources.iter().rev().find_map(|source| source.place(part, aim)) {
                return found;
            }
        }
        (Place::Nowhere, None)
    }

    /// The variable that gave a key or a table around it.
    pub(super) fn variable(&self, path: &[String]) -> Option<&str> {
        self.variables.name_of(path)
    }

    /// What a variable says that was read as the list or table of exactly this key.
    pub(super) fn variable_text(&self, path: &[String]) -> Option<&str> {
        self.variables.text_of(path)
    }

    /// `include` anywhere but in the main file.
    fn stray_includes(&self) -> Vec<ConfigFault> {
        let path: KeyPath = vec!["include".to_owned()];
        let from_files = self.sources.iter().skip(1).filter_map(|source| source.place(&path, Aim::Key));
        let from_variable = self.variables.name_of(&path).map(|name| (Place::Variable(name.to_owned()), None));
        let stray = |(place, snippet)| ConfigFault {
            kind: FaultKind::Conflict,
            place,
            key: "include".to_owned(),
            found: "not in the main file".to_owned(),
            expected: "`include` in the main file only".to_owned(),
            suggestion: None,
            snippet,
        };
        from_files.chain(from_variable).map(stray).collect()
    }

    /// Routes and providers that more than one file gives.
    fn doubles(&self) -> Vec<ConfigFault> {
        let mut faults = Vec::new();
        for table in ["routes", "providers"] {
            let mut first: BTreeMap<&str, &Source> = BTreeMap::new();
            for source in &self.sources {
                for name in source.dict.get(table).and_then(Value::as_dict).into_iter().flat_map(Dict::keys) {
                    let path: KeyPath = vec![table.to_owned(), name.clone()];
                    if let Some(other) = first.insert(name, source) {
                        faults.push(double(&path, source, other));
                    }
                }
            }
        }
        faults
    }
}

fn double(path: &[String], here: &Source, there: &Source) -> ConfigFault {
    let (place, snippet) = here.place(path, Aim::Key).unwrap_or((Place::Nowhere, None));
    let first = there.place(path, Aim::Key).map_or_else(|| there.name.clone(), |(place, _)| place.to_string());
    ConfigFault {
        kind: FaultKind::Conflict,
        place,
        key: path.join("."),
        found: format!("given twice, in {first} and in {}", here.name),
        expected: "each name in one file".to_owned(),
        suggestion: None,
        snippet,
    }
}

/// A value for people: text in quotes, cut; a secret by its kind alone.
pub(super) fn shown(path: &[String], value: &Value) -> String {
    match value {
        Value::Dict(..) => "a table".to_owned(),
        Value::Array(..) => "a list".to_owned(),
        Value::Empty(..) => "nothing".to_owned(),
        Value::String(..) | Value::Char(..) if is_secret(path) => "text".to_owned(),
        Value::Num(..) | Value::Bool(..) if is_secret(path) => "a number or a truth value".to_owned(),
        Value::String(_, text) => shown_text(text),
        Value::Char(_, letter) => format!("{letter:?}"),
        Value::Bool(_, truth) => truth.to_string(),
        Value::Num(_, number) => number.to_actual().to_string().split('`').nth(1).unwrap_or("a number").to_owned(),
    }
}

/// Text for people: in quotes, cut at 60 characters; an address with a user in it is not shown.
pub(super) fn shown_text(text: &str) -> String {
    if text.contains('@') && text.contains("://") {
        return "an address with a user in it".to_owned();
    }
    let cut: String = text.chars().take(60).collect();
    if cut.len() < text.len() { format!("{cut:?}…") } else { format!("{cut:?}") }
}

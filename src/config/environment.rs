//! What the process was given from outside: its variables, its working directory and the moment of reading, as one
//! snapshot. It is not the configuration: nothing is interpreted here, and nothing else reads the environment.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

use crate::domain::time::Timestamp;

/// A snapshot of the environment. `Debug` names the variables and never shows a value.
#[derive(Clone)]
pub struct Environment {
    variables: BTreeMap<String, OsString>,
    directory: PathBuf,
    now: Timestamp,
}

impl Environment {
    /// The process's own environment. `now` is the moment against which a secret's `until` is judged.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the process's environment")]
    pub fn take(now: Timestamp) -> Self {
        let variables = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        Self { variables: variables.collect(), directory: PathBuf::new(), now }
    }

    /// An environment of these variables alone.
    #[must_use]
    pub fn of<N: Into<String>, V: Into<OsString>>(now: Timestamp, variables: impl IntoIterator<Item = (N, V)>) -> Self {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Self { variables, directory: PathBuf::new(), now }
    }

    /// The same, with relative paths taken from `directory` in place of the working directory.
    #[must_use]
    pub fn in_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = directory.into();
        self
    }

    /// The value of a variable; `None` if it is not set.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.variables.get(name).map(OsString::as_os_str)
    }

    /// The moment of the snapshot.
    #[must_use]
    pub const fn now(&self) -> Timestamp {
        self.now
    }

    /// Where a relative path given outside a configuration file starts; empty: the working directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &OsStr)> {
        self.variables.iter().map(|(name, value)| (name.as_str(), value.as_os_str()))
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

/// How this process was started, so that a new one can be.
#[derive(Clone, Debug)]
pub struct Program {
    /// The file it was started from, which may hold a newer version by now.
    pub path: PathBuf,
    /// Its arguments, without its own name.
    pub arguments: Vec<OsString>,
}

impl Program {
    /// This process's own. To be asked at the start: once the file is replaced the system names it otherwise.
    pub fn own() -> std::io::Result<Self> {
        Ok(Self { path: std::env::current_exe()?, arguments: std::env::args_os().skip(1).collect() })
    }
}

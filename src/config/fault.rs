//! What is wrong with a configuration, for the operator: every fault with its place, what was found and what would
//! be right. Never a secret: a line that may hold one is not shown, and its value is named by its kind.
//!
//! Not the sender's faults and not ours at run time: those are `Refusal` and `Fault`.

use std::fmt;

use miette::{Diagnostic, LabeledSpan, MietteSpanContents, SourceCode, SourceSpan, SpanContents};
use serde_json::json;

/// Where a fault lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In no one place: no file was found, or the key is a default.
    Nowhere,
    /// In a file.
    File {
        /// The file as it was named.
        name: String,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
    },
    /// In an environment variable of this name.
    Variable(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nowhere => f.write_str("configuration"),
            Self::File { name, line, column } => write!(f, "{name}:{line}:{column}"),
            Self::Variable(name) => f.write_str(name),
        }
    }
}

/// What kind of fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The file cannot be found or read.
    Unreadable,
    /// The file is not TOML.
    Syntax,
    /// There is no such key.
    UnknownKey,
    /// A key that must be given is not.
    Missing,
    /// The value is of the wrong type, form or range.
    Value,
    /// The value is fine alone and not together with another one.
    Conflict,
    /// A secret is blank, cannot be read, or has expired.
    Secret,
    /// The key is known and not built yet.
    NotImplemented,
}

impl FaultKind {
    /// The word in the JSON form.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Syntax => "syntax",
            Self::UnknownKey => "unknown_key",
            Self::Missing => "missing",
            Self::Value => "value",
            Self::Conflict => "conflict",
            Self::Secret => "secret",
            Self::NotImplemented => "not_implemented",
        }
    }
}

/// One fault of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFault {
    /// What kind of fault.
    pub kind: FaultKind,
    /// Where it lies.
    pub place: Place,
    /// The dotted path of the key; empty for a fault of a whole file.
    pub key: String,
    /// What was found, as text for people; a secret is named by its kind.
    pub found: String,
    /// What would be right.
    pub expected: String,
    /// What was probably meant.
    pub suggestion: Option<String>,
    pub(super) snippet: Option<Snippet>,
}

impl fmt::Display for ConfigFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            FaultKind::Unreadable | FaultKind::Syntax => f.write_str(&self.found),
            FaultKind::UnknownKey => write!(f, "unknown key `{}`", self.key),
            FaultKind::Missing => write!(f, "`{}` is missing", self.key),
            FaultKind::Value | FaultKind::Conflict | FaultKind::Secret => {
                write!(f, "`{}` is {}", self.key, self.found)
            }
            FaultKind::NotImplemented => write!(f, "not implemented yet: {}", self.key),
        }
    }
}

impl std::error::Error for ConfigFault {}

impl ConfigFault {
    /// What would be right and what was probably meant, in one sentence; empty if there is nothing to say.
    #[must_use]
    pub fn advice(&self) -> String {
        let expected = if self.expected.is_empty() { String::new() } else { format!("expected {}", self.expected) };
        match &self.suggestion {
            None => expected,
            Some(meant) if expected.is_empty() => format!("did you mean `{meant}`?"),
            Some(meant) => format!("{expected}; did you mean `{meant}`?"),
        }
    }

    /// The whole fault in one line: place, what was found, what would be right.
    #[must_use]
    pub fn line(&self) -> String {
        match self.advice() {
            advice if advice.is_empty() => format!("{}: {self}", self.place),
            advice => format!("{}: {self}; {advice}", self.place),
        }
    }

    /// The JSON form: `kind`, `file`, `line`, `column`, `variable`, `key`, `found`, `expected`, `suggestion`.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let (file, line, column, variable) = match &self.place {
            Place::Nowhere => (None, None, None, None),
            Place::File { name, line, column } => (Some(name), Some(line), Some(column), None),
            Place::Variable(name) => (None, None, None, Some(name)),
        };
        json!({
            "kind": self.kind.as_str(), "file": file, "line": line, "column": column, "variable": variable,
            "key": self.key, "found": self.found, "expected": self.expected, "suggestion": self.suggestion,
        })
    }
}

impl Diagnostic for ConfigFault {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        let place = match (&self.snippet, &self.place) {
            (None, Place::File { .. } | Place::Variable(_)) => format!("at {}", self.place),
            (Some(_), _) | (None, Place::Nowhere) => String::new(),
        };
        let parts: Vec<String> = [place, self.advice()].into_iter().filter(|part| !part.is_empty()).collect();
        (!parts.is_empty()).then(|| Box::new(parts.join(": ")) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.snippet.as_ref().map(|snippet| snippet as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let snippet = self.snippet.as_ref()?;
        let label = match self.kind {
            FaultKind::UnknownKey => "not a key of this table",
            FaultKind::Missing => "missing here",
            FaultKind::Conflict => "does not fit",
            FaultKind::NotImplemented => "not implemented yet",
            FaultKind::Unreadable | FaultKind::Syntax | FaultKind::Value | FaultKind::Secret => "here",
        };
        Some(Box::new(std::iter::once(LabeledSpan::new(Some(label.to_owned()), snippet.offset, snippet.length))))
    }
}

/// The one line that a fault points at, cut behind what it points at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Snippet {
    pub(super) name: String,
    pub(super) text: String,
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) offset: usize,
    pub(super) length: usize,
}

impl SourceCode for Snippet {
    /// Always the one line, whatever context is asked for: its neighbours may hold secrets.
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        context_before: usize,
        _context_after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, miette::MietteError> {
        let whole = SourceSpan::new(0.into(), self.text.len());
        let (shown, column) = if context_before == 0 { (*span, self.column - 1) } else { (whole, 0) };
        let data = self.text.as_bytes().get(shown.offset()..shown.offset() + shown.len());
        let data = data.ok_or(miette::MietteError::OutOfBounds)?;
        let contents = MietteSpanContents::new_named(self.name.clone(), data, shown, self.line - 1, column, 1);
        Ok(Box::new(contents))
    }
}

/// All faults of a configuration; never empty.
#[derive(Clone, Debug)]
pub struct ConfigFaults(Vec<ConfigFault>);

impl ConfigFaults {
    /// The faults as an error, or nothing if there are none.
    pub(super) fn check(mut faults: Vec<ConfigFault>) -> Result<(), Self> {
        if faults.is_empty() {
            return Ok(());
        }
        faults.sort_by_cached_key(|fault| match &fault.place {
            Place::Nowhere => (0, String::new(), 0, 0),
            Place::File { name, line, column } => (1, name.clone(), *line, *column),
            Place::Variable(name) => (2, name.clone(), 0, 0),
        });
        faults.dedup();
        Err(Self(faults))
    }

    pub(super) fn one(fault: ConfigFault) -> Self {
        Self(vec![fault])
    }

    /// The faults: those of no place first, then file by file in the order of their lines, then the variables.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigFault> {
        self.0.iter()
    }

    /// How many there are.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// One fault a line.
    #[must_use]
    pub fn plain(&self) -> String {
        self.0.iter().map(|fault| fault.line() + "\n").collect()
    }

    /// A JSON array of [`ConfigFault::to_json`].
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        self.0.iter().map(ConfigFault::to_json).collect()
    }
}

impl fmt::Display for ConfigFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => f.write_str("the configuration has a fault"),
            count => write!(f, "the configuration has {count} faults"),
        }
    }
}

impl std::error::Error for ConfigFaults {}

impl Diagnostic for ConfigFaults {
    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        Some(Box::new(self.0.iter().map(|fault| fault as &dyn Diagnostic)))
    }
}

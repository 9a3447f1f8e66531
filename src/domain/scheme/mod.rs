//! How providers sign, as data: the scheme language and its one interpreter.

pub mod raw;

pub use raw::{PARTS, RawScheme};

/// A compiled scheme.
#[derive(Debug)]
pub struct Scheme;

/// What makes no sense in a scheme.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemeFault {
    /// Dotted path inside the provider.
    pub key: String,
    /// What was found.
    pub found: String,
    /// What would be right.
    pub expected: String,
}

impl Scheme {
    /// Compiles a scheme.
    pub fn compile(_: &RawScheme) -> Result<Self, Vec<SchemeFault>> {
        Ok(Self)
    }
}

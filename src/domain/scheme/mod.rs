//! How providers sign, as data: the scheme language and its one interpreter.

/// A compiled scheme.
#[derive(Debug)]
pub struct Scheme;

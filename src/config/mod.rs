//! The configuration: read, layered, checked.

pub mod builtin;

//! The configuration: found, merged from its layers, checked with all its faults at once, and shown.
//!
//! It knows the domain and nothing else of the program; only the roof uses it. Nothing here changes once loaded.

pub mod builtin;
mod check;
mod defaults;
pub mod environment;
pub mod fault;
mod find;
mod layers;
mod leaf;
mod raw;
mod raw_redis;
mod read;
pub mod report;
mod schema;
mod settings;
mod show;
mod source;
mod tables;
mod variables;

use std::path::Path;

pub use defaults::EXAMPLE;
pub use environment::{Environment, Program};
pub use fault::{ConfigFault, ConfigFaults, FaultKind, Place};
pub use find::{CONFIG_VARIABLE, SEARCH};
pub use layers::{Layers, Origin};
pub use schema::schema;
pub use settings::{
    Config, Dedup, Log, LogFormat, LogLevel, Note, NoteLevel, RedisSettings, Server, ServerTls, SpoolSettings, Store,
};
pub use show::{ShowFormat, ShowOrigins, show};
pub use variables::{ADMIN_VARIABLE, PREFIX, TOKEN_VARIABLE};

/// Finds, merges and checks the configuration. `explicit` is the file that the command line names.
pub fn load(explicit: Option<&Path>, environment: &Environment) -> Result<Config, ConfigFaults> {
    Layers::read(explicit, environment)?.check()
}

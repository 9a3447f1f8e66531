//! Rules of the gateway, pure: what an event is, who signed it, whether it is fresh, what to do with an outcome.
//!
//! Floor 0. Nothing here reads a clock, a file, a socket or the environment; time and chance come in as arguments.

pub mod admission;
pub mod app_url;
pub mod body;
pub mod breaker;
pub mod chunks;
pub mod eights;
pub mod event;
pub mod explain;
pub mod fault;
pub mod headers;
pub mod inbound;
pub mod key;
pub mod message;
pub mod outcome;
pub mod pass_path;
pub mod refusal;
pub mod route;
pub mod schedule;
pub mod scheme;
pub mod secret;
pub mod shared_store;
pub mod suspicion;
pub mod time;

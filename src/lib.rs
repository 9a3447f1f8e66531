//! hookgate: a gateway in front of any app that receives webhooks.

pub mod claims;
pub mod clock;
pub mod config;
pub mod disk;
pub mod domain;
pub mod spool;
pub mod telemetry;

//! hookgate: a gateway in front of any app that receives webhooks.

pub mod config;
pub mod domain;
pub mod telemetry;

//! hookgate: a gateway in front of any app that receives webhooks.

pub mod admin;
pub mod app;
pub mod buffers;
pub mod claims;
pub mod cli;
pub mod clock;
pub mod config;
pub mod demo;
pub mod disk;
pub mod domain;
pub mod forward;
pub mod gateway;
pub mod spool;
pub mod telemetry;

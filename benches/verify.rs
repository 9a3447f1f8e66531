//! Measures the rules alone, without a socket: reading, verifying and admitting one signed event.
//!
//! `cargo bench --bench verify`.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark may end with a message"
)]

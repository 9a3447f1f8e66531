//! The promises of docs/PROMISES.md, held against the real program: a real process, real sockets, a scripted
//! application behind it, and where a promise needs it a real Redis. Nothing of the crate's own code is used here;
//! what a sender signs is signed by this crate's own hand.
//!
//! `HOOKGATE_SEED` repeats a run with the same chances, `HOOKGATE_TORTURE` sets how often a crash test crashes,
//! `HOOKGATE_BINARY` takes another build of the program, such as the one that is about to be released.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "test code: a failed expectation is the result"
)]

mod admin_door;
mod answers;
mod app_faults;
mod bare;
mod bodies;
mod books;
mod canaries;
mod clocks;
mod commands;
mod confusion;
mod crash;
mod descriptors;
mod disk;
mod disk_faults;
mod duplicates;
mod explain;
mod forgers;
mod framing;
mod front;
mod h2_floods;
mod h2_heads;
mod h2_requests;
mod handover;
mod handshakes;
mod held;
mod kills;
mod modes;
mod order;
mod outage;
mod passthrough;
mod power;
mod quotas;
mod redis_failover;
mod redis_faults;
mod redis_links;
mod redis_rounds;
mod refusals;
mod relay;
mod replay;
mod shared_store;
mod slow;
mod start;
mod telemetry;
mod tls;
mod two_gateways;
mod world;

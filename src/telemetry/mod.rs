//! What the gateway says about itself: metrics, logs, health. A side room: it knows the domain and nothing else.
//!
//! Nothing here decides anything, and nothing here ever holds a payload, a header, a signature or a secret.

pub mod catalogue;
pub mod metrics;
mod process;

pub use metrics::{Metrics, NO_ROUTE, RouteLabels};

//! What the gateway says about itself: metrics, logs, health. A side room: it knows the domain and nothing else.
//!
//! Nothing here decides anything, and nothing here ever holds a payload, a header, a signature or a secret.

mod bridge;
pub mod catalogue;
pub mod http;
mod json;
pub mod logs;
mod maker;
pub mod metrics;
mod panics;
mod process;
pub mod recent;
pub mod request_lines;
mod sampling;
pub mod series;
pub mod sink;

/// Series that a floor may hold on to.
pub use prometheus::{Histogram, IntCounter, IntGauge};

pub use metrics::{Metrics, NO_ROUTE, RouteLabels};
pub use recent::{Answered, Recent};
pub use request_lines::RequestLines;
pub use series::RouteSeries;

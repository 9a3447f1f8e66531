//! The door for libraries that write to `log`: what they say goes on, except for what the HTTP server says.
//!
//! The server's error records quote up to 2 KiB of a malformed request, written by anyone who can connect. Their text is
//! never printed: each is counted in `http_server_errors_total`, and at most one line a second names the module.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use log::{Level, Log, Metadata, Record};

use super::Metrics;

/// Targets of the HTTP server's crates begin with this.
pub(super) const HTTP_SERVER: &str = "pingora";

/// The process's `log` logger.
pub(super) struct Bridge {
    metrics: Arc<Metrics>,
    started: Instant,
    /// Seconds since `started` up to which no further line is due.
    quiet_until: AtomicU64,
}

impl Bridge {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, started: Instant::now(), quiet_until: AtomicU64::new(0) }
    }

    fn server_error(&self, target: &str) {
        self.metrics.http_server_errors_total.inc();
        let second = self.started.elapsed().as_secs();
        if self.quiet_until.fetch_max(second + 1, Ordering::Relaxed) > second {
            self.metrics.log_lines_dropped_total.inc();
            return;
        }
        tracing::warn!(
            module = target,
            "the HTTP server reported an error; its text is withheld because it may quote a request"
        );
    }
}

impl Log for Bridge {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if record.target().starts_with(HTTP_SERVER) {
            if record.level() == Level::Error {
                self.server_error(record.target());
            }
        } else if self.enabled(record.metadata()) {
            drop(tracing_log::format_trace(record));
        }
    }

    fn flush(&self) {}
}

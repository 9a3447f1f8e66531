//! The admin listener: what operators and their commands ask the running gateway. It shows bodies, so it listens on
//! loopback by default and asks for a token anywhere else. Nothing of it is on the way of a
//! sender's request.
//!
//! | path | answers |
//! |---|---|
//! | `GET /api/status`, `/api/routes[/{name}]` | numbers of routes, spool and dedup store |
//! | `GET /api/events[/{id}[/body]]` | what was received, from memory and from disk |
//! | `GET /api/events/{id}/explain` | why a request was refused that is still in memory; `last`: the newest |
//! | `POST /api/events/{id}/replay` | a dead letter made due again |
//! | `GET /api/dead-letters[/export]`, `POST /api/dead-letters/retry\|drop` | dead letters |
//! | `GET /api/jobs[/{id}]`, `DELETE /api/jobs/{id}` | what works through many dead letters |
//! | `GET\|DELETE /api/dedup/{route}/{key}` | what the dedup store remembers |
//! | `GET /api/config`, `POST /-/reload`, `PUT /api/log-level` | the configuration in operation |
//!
//! Errors are RFC 9457 problems. No answer holds a secret or an expected signature; the signatures that came with dead
//! letters are in an export alone, and only if it is asked for with `signatures=kept`.

mod bulk;
mod dead;
mod dedup;
mod events;
mod explain;
mod guard;
mod jobs;
mod operate;
mod problem;
pub mod query;
pub mod shapes;
mod status;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use axum::extract::DefaultBodyLimit;
use axum::http::HeaderName;
use axum::routing::{get, post, put};
use axum::{Router, middleware};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

pub use self::jobs::{Jobs, run_jobs};
use crate::claims::store::ClaimStore;
use crate::clock::Clock;
use crate::domain::explain::Explanation;
use crate::domain::scheme::Carries;
use crate::domain::secret::Secret;
use crate::spool::Spool;
use crate::telemetry::http::{Bounded, MOST_CONNECTIONS, serve_on};
use crate::telemetry::logs::Level;
use crate::telemetry::{Metrics, Recent};

/// Longest request body taken, in bytes: a list of some thousand event ids.
const LONGEST_BODY: usize = 256 * 1024;

/// A connection ends after this, whatever it does: an export of a full spool to a slow reader takes minutes.
const LONGEST_CONNECTION: Duration = Duration::from_secs(3600);

/// What the admin listener works with. Everything in it is shared; it owns nothing that must be shut down.
pub struct AdminState {
    /// Events on disk.
    pub spool: Spool,
    /// What was seen.
    pub claims: Arc<dyn ClaimStore>,
    /// Its name as configured: `embedded` or `redis`.
    pub dedup_store: &'static str,
    /// Numbers.
    pub metrics: Arc<Metrics>,
    /// Requests answered last.
    pub recent: Recent,
    /// The one clock.
    pub clock: Clock,
    /// What only the roof can do and say.
    pub control: Arc<dyn Control>,
    /// The token that every request must carry; none on loopback alone.
    pub token: Arc<ArcSwapOption<Secret>>,
    /// The listener's own address: which `Host` is ours.
    pub address: SocketAddr,
    /// Who explains a refusal: one at a time, it is work.
    pub explaining: Arc<Semaphore>,
    /// What works through many dead letters; [`run_jobs`] runs them.
    pub jobs: Jobs,
}

/// What the admin listener asks of the roof, which alone knows the configuration.
#[async_trait::async_trait]
pub trait Control: Send + Sync {
    /// The routes in operation, in the order of the configuration.
    fn routes(&self) -> Vec<RouteFacts>;
    /// What a header of a route's requests carries of their proof; `None`: no such route is in operation.
    fn carries(&self, route: &str, header: &HeaderName) -> Option<Carries>;
    /// The configuration in operation as TOML, defaults filled in, secrets redacted.
    fn config_text(&self) -> String;
    /// Reads the configuration anew and puts it into operation, or says within a bounded time why not.
    async fn reload(self: Arc<Self>) -> Result<Reloaded, ReloadRefused>;
    /// Sets from which weight on log lines are written; the error is a sentence for the operator.
    fn set_log_level(&self, level: Level) -> Result<(), String>;
    /// Events have become due: the deliverer is to look.
    fn wake(&self);
    /// Why the newest request of this id was refused, or the newest of all; `None`: none is kept. Computes for up to
    /// some seconds: called off the async threads.
    fn explain(&self, request_id: Option<&str>) -> Option<Explained>;
}

/// A refusal that is kept, explained.
#[derive(Clone, Debug, Serialize)]
pub struct Explained {
    /// Its `X-Request-Id`.
    pub request_id: String,
    /// Why, and what would have matched.
    #[serde(flatten)]
    pub explanation: Explanation,
}

/// A route as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteFacts {
    /// Its name.
    pub name: Arc<str>,
    /// Its path.
    pub path: String,
    /// Its provider's name.
    pub provider: String,
    /// The application's address.
    pub app_url: String,
}

/// What a reload did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Keys whose change is in operation.
    pub changed: Vec<String>,
    /// Keys whose change waits for a restart.
    pub needs_restart: Vec<String>,
}

/// Why a reload was refused; the configuration before it stays in operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReloadRefused {
    /// One sentence.
    pub detail: String,
    /// The faults, one a line, each with its place.
    pub faults: Vec<String>,
}

/// The pages behind their guard.
pub fn router(state: Arc<AdminState>) -> Router {
    Router::new()
        .route("/api/status", get(status::status))
        .route("/api/routes", get(status::routes))
        .route("/api/routes/{name}", get(status::route))
        .route("/api/events", get(events::list))
        .route("/api/events/{id}", get(events::show))
        .route("/api/events/{id}/body", get(events::body))
        .route("/api/events/{id}/explain", get(explain::explain))
        .route("/api/events/{id}/replay", post(events::replay))
        .route("/api/dead-letters", get(dead::list))
        .route("/api/dead-letters/export", get(dead::export))
        .route("/api/dead-letters/retry", post(bulk::retry))
        .route("/api/dead-letters/drop", post(bulk::drop_them))
        .route("/api/jobs", get(jobs::list))
        .route("/api/jobs/{id}", get(jobs::show).delete(jobs::stop))
        .route("/api/dedup/{route}/{key}", get(dedup::check).delete(dedup::forget))
        .route("/api/config", get(operate::config))
        .route("/api/log-level", put(operate::log_level))
        .route("/-/reload", post(operate::reload))
        .fallback(problem::nothing_here)
        .method_not_allowed_fallback(problem::not_so)
        .layer(middleware::from_fn_with_state(state.clone(), guard::check))
        .layer(DefaultBodyLimit::max(LONGEST_BODY))
        .with_state(state)
}

/// Serves the pages until `shutdown` is done, then lets open requests end: dropped, it cuts them. Bounded as the
/// telemetry listener is, with an hour for each connection.
pub async fn serve(listener: TcpListener, router: Router, shutdown: impl Future<Output = ()> + Send + 'static) {
    serve_on(Bounded::new(listener, MOST_CONNECTIONS, LONGEST_CONNECTION), router, shutdown).await;
}

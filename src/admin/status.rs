//! The numbers: what the gateway is doing, route by route.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;

use super::problem::Problem;
use super::{AdminState, RouteFacts};
use crate::domain::time::Timestamp;
use crate::spool::Totals;

/// The answer of `/api/status`, and of `hookgate status --json`.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    version: &'static str,
    revision: &'static str,
    uptime_seconds: u64,
    routes: Vec<RouteStatus>,
    spool: SpoolStatus,
    dedup: DedupStatus,
}

#[derive(Debug, Serialize)]
pub(super) struct RouteStatus {
    name: String,
    path: String,
    provider: String,
    app_url: String,
    app_up: bool,
    pending: u64,
    dead: u64,
    /// How long the oldest undelivered event has waited.
    oldest_seconds: Option<f64>,
}

#[derive(Debug, Serialize)]
struct SpoolStatus {
    pending: u64,
    dead: u64,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct DedupStatus {
    store: &'static str,
    up: bool,
}

pub(super) async fn status(State(state): State<Arc<AdminState>>) -> Json<Status> {
    let totals = state.spool.totals();
    let routes: Vec<RouteStatus> = state.route_statuses(&totals);
    let spool = SpoolStatus {
        pending: totals.routes.values().map(|route| route.pending).sum(),
        dead: totals.routes.values().map(|route| route.dead).sum(),
        bytes: totals.bytes,
    };
    Json(Status {
        version: env!("CARGO_PKG_VERSION"),
        revision: option_env!("HOOKGATE_REVISION").unwrap_or("unknown"),
        uptime_seconds: state.clock.uptime().as_secs(),
        routes,
        spool,
        dedup: DedupStatus { store: state.dedup_store, up: state.claims.is_up() },
    })
}

pub(super) async fn routes(State(state): State<Arc<AdminState>>) -> Json<Vec<RouteStatus>> {
    Json(state.route_statuses(&state.spool.totals()))
}

pub(super) async fn route(
    State(state): State<Arc<AdminState>>,
    Path(name): Path<String>,
) -> Result<Json<RouteStatus>, Problem> {
    let found = state.route_statuses(&state.spool.totals()).into_iter().find(|route| route.name == name);
    found.map(Json).ok_or_else(|| Problem::missing(format!("no route is called {name:?}")))
}

impl AdminState {
    fn route_statuses(&self, totals: &Totals) -> Vec<RouteStatus> {
        let now = self.clock.now();
        self.control.routes().into_iter().map(|facts| self.route_status(facts, totals, now)).collect()
    }

    fn route_status(&self, facts: RouteFacts, totals: &Totals, now: Timestamp) -> RouteStatus {
        let held = totals.routes.get(&facts.name).copied().unwrap_or_default();
        RouteStatus {
            app_up: self.metrics.app_up.with_label_values(&[&*facts.name]).get() == 1,
            name: facts.name.to_string(),
            path: facts.path,
            provider: facts.provider,
            app_url: facts.app_url,
            pending: held.pending,
            dead: held.dead,
            oldest_seconds: held.oldest_pending.map(|oldest| now.since(oldest).as_secs_f64()),
        }
    }
}

//! The configuration in operation: shown, read anew, and the log level of the moment.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde::Deserialize;
use serde_json::{Value, json};

use super::AdminState;
use super::problem::Problem;
use crate::telemetry::logs::Level;

/// `GET /api/config`: TOML, secrets redacted.
pub(super) async fn config(State(state): State<Arc<AdminState>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/toml; charset=utf-8")], state.control.config_text())
}

/// `POST /-/reload`. A configuration with faults is refused as a whole: the one before it stays in operation.
pub(super) async fn reload(State(state): State<Arc<AdminState>>) -> Result<Json<Value>, Problem> {
    match state.control.clone().reload().await {
        Ok(done) => Ok(Json(json!({ "changed": done.changed, "needs_restart": done.needs_restart }))),
        Err(refused) => {
            Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, refused.detail).with("faults", json!(refused.faults)))
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    level: String,
}

/// `PUT /api/log-level` with `{"level":"debug"}`; until the next start.
pub(super) async fn log_level(
    State(state): State<Arc<AdminState>>,
    wanted: Result<Json<Wanted>, JsonRejection>,
) -> Result<Json<Value>, Problem> {
    let Json(wanted) = wanted.map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()))?;
    let level: Level = wanted.level.parse().map_err(|fault| Problem::bad(format!("{fault}")))?;
    let failed = |detail| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail);
    state.control.set_log_level(level).map_err(failed)?;
    tracing::info!(level = wanted.level, "an operator set the log level");
    Ok(Json(json!({ "level": wanted.level })))
}

//! Why a request was refused, as far as it is kept in memory. The check is the domain's; here it is asked for, one at a
//! time, off the async threads.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use tokio::time::timeout;

use super::problem::Problem;
use super::{AdminState, Explained};

/// Longest wait for the explanation before.
const PATIENCE: Duration = Duration::from_secs(5);

/// What stands for an id and means the newest refusal.
const LAST: &str = "last";

/// `GET /api/events/{id}/explain`: `id` is the request's `X-Request-Id`, or `last`.
pub(super) async fn explain(
    State(state): State<Arc<AdminState>>,
    Path(id): Path<String>,
) -> Result<Json<Explained>, Problem> {
    let Ok(Ok(turn)) = timeout(PATIENCE, state.explaining.clone().acquire_owned()).await else {
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "another refusal is being explained: ask again"));
    };
    let control = state.control.clone();
    let wanted = id.clone();
    let explained = tokio::task::spawn_blocking(move || {
        // Whoever asked may be gone: the turn ends with the work.
        let _turn = turn;
        control.explain(Some(wanted.as_str()).filter(|id| *id != LAST))
    });
    match explained.await {
        Ok(Some(explained)) => Ok(Json(explained)),
        Ok(None) if id == LAST => Err(Problem::missing("no refusal is kept: none came since the start")),
        Ok(None) => Err(Problem::missing(format!(
            "no refused request {id:?} is kept: only the last 64 that were read whole are, and they go with the process"
        ))),
        Err(_) => Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the explanation ended before its time")),
    }
}

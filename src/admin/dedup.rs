//! What the dedup store remembers of one event, and making it forget.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::AdminState;
use super::problem::Problem;
use crate::domain::key::EventKey;
use crate::spool::Found;

/// `GET /api/dedup/{route}/{key}`; the key is the `Hookgate-Key` of the event.
pub(super) async fn check(
    State(state): State<Arc<AdminState>>,
    Path((route, key)): Path<(String, String)>,
) -> Result<Json<Value>, Problem> {
    let key = state.key(&route, &key)?;
    let Some(peeked) = state.claims.peek(&route, key, state.clock.now()).await? else {
        return Err(unknown(&route, key));
    };
    Ok(Json(json!({
        "route": route,
        "key": key.to_hex(),
        "state": peeked.state.as_str(),
        "expires_at": peeked.expires_at.to_string(),
        "same_body": peeked.fingerprint == key.fingerprint,
    })))
}

/// `DELETE /api/dedup/{route}/{key}`: the next sending of the event is delivered again.
pub(super) async fn forget(
    State(state): State<Arc<AdminState>>,
    Path((route, key)): Path<(String, String)>,
) -> Result<Json<Value>, Problem> {
    let key = state.key(&route, &key)?;
    match state.claims.forget(&route, key).await? {
        Found::Yes => {
            tracing::info!(route, key = %key, "an operator let the dedup store forget an event");
            Ok(Json(json!({ "route": route, "key": key.to_hex(), "forgotten": true })))
        }
        Found::No => Err(unknown(&route, key)),
    }
}

impl AdminState {
    fn key(&self, route: &str, key: &str) -> Result<EventKey, Problem> {
        if !self.control.routes().iter().any(|facts| *facts.name == *route) {
            return Err(Problem::missing(format!("no route is called {route:?}")));
        }
        EventKey::from_hex(key)
            .ok_or_else(|| Problem::bad("a key is the 64 hex digits of `Hookgate-Key`, as the application saw it"))
    }
}

fn unknown(route: &str, key: EventKey) -> Problem {
    Problem::missing(format!("the dedup store of {route} remembers no event {key}: its next sending is delivered"))
}

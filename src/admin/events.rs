//! Events: what was received, newest first as far as memory reaches, then what is on disk from before; one event with
//! what became of it; and one event made due again.

use std::collections::HashMap;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::AdminState;
use super::problem::Problem;
use super::query::{DAMAGED, FilterFault, dead_reason, disposition, event_id, event_reason, moment, page};
use super::shapes::{Sent, Show, Signatures, reason};
use crate::domain::event::EventId;
use crate::domain::time::Timestamp;
use crate::spool::{self, Filter, Found, Listed, Stored};
use crate::telemetry::Answered;
use crate::telemetry::recent::RecentFilter;

impl From<FilterFault> for Problem {
    fn from(fault: FilterFault) -> Self {
        Self::bad(fault.0)
    }
}

/// What a listing is asked with.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Asked {
    route: Option<String>,
    disposition: Option<String>,
    reason: Option<String>,
    since: Option<String>,
    until: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
}

impl Asked {
    /// The filter for the requests in memory.
    fn in_memory(&self, span: Span) -> RecentFilter {
        RecentFilter {
            route: self.route.clone(),
            disposition: self.disposition.clone(),
            reason: self.reason.clone(),
            since: span.0,
            until: span.1,
        }
    }
}

/// Where a listing goes on: in memory before this number, or on disk behind this event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cursor {
    Memory(u64),
    Disk(Option<EventId>),
}

impl Cursor {
    fn to_text(self) -> String {
        match self {
            Self::Memory(number) => format!("m{number}"),
            Self::Disk(None) => "d".to_owned(),
            Self::Disk(Some(id)) => format!("d{id}"),
        }
    }
}

impl FromStr for Cursor {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let wrong = || Problem::bad(format!("{text:?} is not a cursor of a listing before"));
        match text.split_at_checked(1) {
            Some(("m", number)) => number.parse().map(Self::Memory).map_err(|_| wrong()),
            Some(("d", "")) => Ok(Self::Disk(None)),
            Some(("d", id)) => id.parse().map(|id| Self::Disk(Some(id))).map_err(|_| wrong()),
            Some(_) | None => Err(wrong()),
        }
    }
}

/// One line of a listing.
#[derive(Clone, Debug, Serialize)]
struct Row {
    /// Absent for a request that was never believed.
    id: Option<String>,
    route: String,
    event_type: Option<String>,
    received_at: String,
    /// What the sender was told; absent where it was told before this process began.
    disposition: Option<&'static str>,
    reason: Option<&'static str>,
    status: Option<u16>,
    ack_ms: Option<u64>,
    remote: Option<IpAddr>,
    request_id: Option<String>,
    body_bytes: u64,
    /// Where the event is on disk; absent if it is not there (delivered, or never stored).
    state: Option<&'static str>,
    attempts: Option<u32>,
    last_error: Option<String>,
}

impl Row {
    fn of_answered(answered: &Answered, on_disk: Option<&Listed>) -> Self {
        Self {
            id: answered.event.map(|id| id.to_string()),
            route: answered.route.to_string(),
            event_type: answered.event_type.clone(),
            received_at: answered.received_at.to_string(),
            disposition: Some(answered.disposition),
            reason: answered.reason.or_else(|| on_disk.and_then(reason)),
            status: Some(answered.status),
            ack_ms: Some(answered.ack_ms),
            remote: Some(answered.remote),
            request_id: Some(answered.request_id.clone()),
            body_bytes: answered.body_bytes,
            state: on_disk.map(|listed| listed.state.as_str()),
            attempts: on_disk.map(|listed| listed.attempts),
            last_error: on_disk.map(|listed| listed.last_error.clone()),
        }
    }

    fn of_listed(listed: &Listed) -> Self {
        Self {
            id: Some(listed.id.to_string()),
            route: listed.route.to_string(),
            event_type: listed.event_type.clone(),
            received_at: listed.received_at.to_string(),
            disposition: None,
            reason: reason(listed),
            status: None,
            ack_ms: None,
            remote: None,
            request_id: None,
            body_bytes: listed.body_bytes,
            state: Some(listed.state.as_str()),
            attempts: Some(listed.attempts),
            last_error: Some(listed.last_error.clone()),
        }
    }
}

/// `GET /api/events`.
pub(super) async fn list(
    State(state): State<Arc<AdminState>>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let Query(asked) = asked?;
    let now = state.clock.now();
    let bound = |text: &Option<String>| text.as_deref().map(|text| moment(text, now)).transpose();
    let (since, until) = (bound(&asked.since)?, bound(&asked.until)?);
    asked.disposition.as_deref().map(disposition).transpose()?;
    asked.reason.as_deref().map(event_reason).transpose()?;
    let limit = page(asked.limit);
    let cursor = asked.cursor.as_deref().map(str::parse).transpose()?.unwrap_or(Cursor::Memory(u64::MAX));
    let mut rows = Vec::new();
    let mut next = None;
    let mut from = cursor;
    if let Cursor::Memory(before) = from {
        let (found, goes_on) = state.in_memory(&asked, (since, until), before, limit).await?;
        rows.extend(found);
        next = goes_on;
        from = Cursor::Disk(None);
    }
    if let (Cursor::Disk(after), None) = (from, next) {
        let (found, goes_on) = state.on_disk(&asked, (since, until), after, limit.saturating_sub(rows.len())).await?;
        rows.extend(found);
        next = goes_on;
    }
    Ok(Json(json!({ "items": rows, "next": next.map(Cursor::to_text) })))
}

type Page = (Vec<Row>, Option<Cursor>);
type Span = (Option<Timestamp>, Option<Timestamp>);

impl AdminState {
    /// A page of the requests answered last, each with where its event is now.
    async fn in_memory(&self, asked: &Asked, span: Span, before: u64, limit: usize) -> Result<Page, Problem> {
        let filter = asked.in_memory(span);
        let found = self.recent.list(&filter, Some(before), limit);
        let ids: Vec<EventId> = found.iter().filter_map(|(_, answered)| answered.event).collect();
        let stored = self.listed(ids).await?;
        let row = |answered: &Answered| Row::of_answered(answered, answered.event.and_then(|id| stored.get(&id)));
        let full = found.len() >= limit;
        let next = found.last().filter(|_| full).map(|(number, _)| Cursor::Memory(*number));
        Ok((found.iter().map(|(_, answered)| row(answered)).collect(), next))
    }

    /// A page of the events on disk that were not listed from memory, in the order in which they were received.
    async fn on_disk(&self, asked: &Asked, span: Span, after: Option<EventId>, limit: usize) -> Result<Page, Problem> {
        let (state, reason) = match asked.reason.as_deref() {
            None => (None, None),
            Some(DAMAGED) => (Some(spool::State::Damaged), None),
            Some(word) => match dead_reason(word) {
                Ok(reason) => (None, Some(reason)),
                Err(_) => return Ok((Vec::new(), None)),
            },
        };
        if asked.disposition.is_some() {
            return Ok((Vec::new(), None));
        }
        if limit == 0 {
            return Ok((Vec::new(), Some(Cursor::Disk(after))));
        }
        let filter = Filter {
            state,
            route: asked.route.clone(),
            reason,
            since: span.0,
            until: span.1,
            dead_by: None,
            ids: Vec::new(),
            after,
            limit,
        };
        let found = self.spool.list(filter).await?;
        let next = found.last().filter(|_| found.len() >= limit).map(|last| Cursor::Disk(Some(last.id)));
        let in_memory = asked.in_memory(span);
        Ok((found.iter().filter_map(|listed| self.unlisted(listed, &in_memory)).collect(), next))
    }

    /// The row of an event on disk, unless it was listed from memory: there an event that was taken and died later has
    /// no reason, or that of an answer.
    fn unlisted(&self, listed: &Listed, asked: &RecentFilter) -> Option<Row> {
        let answers = self.recent.of_event(listed.id);
        let Some(first) = answers.first() else { return Some(Row::of_listed(listed)) };
        let was_listed = answers.iter().any(|answered| asked.wants(answered));
        (!was_listed).then(|| Row { reason: reason(listed), ..Row::of_answered(first, Some(listed)) })
    }

    /// What the spool says of these events, as far as it has them.
    async fn listed(&self, ids: Vec<EventId>) -> Result<HashMap<EventId, Listed>, Problem> {
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let limit = ids.len();
        let found = self.spool.list(Filter { ids, limit, ..Filter::default() }).await?;
        Ok(found.into_iter().map(|listed| (listed.id, listed)).collect())
    }

    async fn stored(&self, id: EventId) -> Result<Stored, Problem> {
        let stored = self.spool.load(id).await?;
        stored.ok_or_else(|| Problem::missing(format!("no event {id} is on disk: delivered events are not kept")))
    }
}

/// `GET /api/events/{id}`.
pub(super) async fn show(State(state): State<Arc<AdminState>>, Path(id): Path<String>) -> Result<Json<Value>, Problem> {
    let id = event_id(&id)?;
    let answers = state.recent.of_event(id);
    let listed = state.listed(vec![id]).await?.remove(&id);
    let stored = state.spool.load(id).await?;
    let first = answers.first().map(|answered| Row::of_answered(answered, listed.as_ref()));
    let Some(row) = first.or_else(|| listed.as_ref().map(Row::of_listed)) else {
        return Err(Problem::missing(format!("no event {id} is on disk or among the requests answered last")));
    };
    let answers: Vec<Row> = answers.iter().map(|answered| Row::of_answered(answered, None)).collect();
    let carries = |route: &str, name: &header::HeaderName| state.control.carries(route, name);
    let show = Show { carries: &carries, signatures: Signatures::Hidden };
    Ok(Json(json!({
        "event": row,
        "key": listed.as_ref().map(|listed| listed.key.to_hex()),
        "not_before": listed.as_ref().and_then(Listed::due).map(|due| due.to_string()),
        "ended_at": listed.as_ref().and_then(Listed::ended_at).map(|end| end.to_string()),
        "body_sha256": listed.as_ref().map(|listed| data_encoding::HEXLOWER.encode(&listed.body_sha256)),
        "request": stored.as_ref().map(|stored| Sent::of(&stored.event, &show)),
        "answers": answers,
    })))
}

/// `GET /api/events/{id}/body`: the bytes as they were verified. Never as the type that the sender gave: they are the
/// sender's, and a browser must not run them.
pub(super) async fn body(
    State(state): State<Arc<AdminState>>,
    Path(id): Path<String>,
) -> Result<impl IntoResponse, Problem> {
    let stored = state.stored(event_id(&id)?).await?;
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::CONTENT_DISPOSITION, "attachment; filename=body"),
    ];
    Ok((headers, stored.event.body.into_bytes()))
}

/// `POST /api/events/{id}/replay`: a dead letter becomes due again, marked as a replay.
pub(super) async fn replay(
    State(state): State<Arc<AdminState>>,
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let id = event_id(&id)?;
    let listed = state.listed(vec![id]).await?.remove(&id);
    let Some(listed) = listed else {
        return Err(Problem::missing(format!("no event {id} is on disk: delivered events are not kept")));
    };
    let not_dead = |found: &str| {
        let detail = format!("event {id} is not a dead letter: it is {found}");
        Err(Problem::new(StatusCode::CONFLICT, detail).with("state", json!(found)))
    };
    if listed.state != spool::State::Dead {
        return not_dead(listed.state.as_str());
    }
    match state.spool.revive(id, state.clock.now()).await? {
        Found::Yes => {
            state.replayed(&listed.route);
            state.control.wake();
            tracing::info!(event = %id, route = %listed.route, "an operator replays a dead letter");
            Ok((StatusCode::ACCEPTED, Json(json!({ "id": id.to_string(), "state": "pending" }))))
        }
        Found::No => not_dead("gone"),
    }
}

impl AdminState {
    /// Counts one replay.
    pub(super) fn replayed(&self, route: &str) {
        self.metrics.replays_total.with_label_values(&[route]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_its_text() {
        let id = EventId::new(Timestamp::from_seconds(1), 5);
        for cursor in [Cursor::Memory(17), Cursor::Disk(None), Cursor::Disk(Some(id))] {
            assert_eq!(cursor.to_text().parse(), Ok(cursor));
        }
        for wrong in ["", "m", "mx", "dx", "x", "ü"] {
            assert!(wrong.parse::<Cursor>().is_err(), "{wrong}");
        }
    }
}

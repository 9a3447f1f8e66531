//! Dead letters: listed a page at a time, exported as one stream.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::AdminState;
use super::problem::Problem;
use super::query::{DeadFilter, event_id, page};
use super::shapes::{DeadLetter, Exported, Show, Signatures, line};
use crate::spool::{Filter, Listed, SpoolFault, Stored};

/// Events of an export that are listed at once.
const EXPORT_PAGE: usize = 100;

/// Lines of an export that wait for a slow reader; the next event is read when one of them is taken.
const EXPORT_AHEAD: usize = 2;

/// What a listing is asked with.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Asked {
    route: Option<String>,
    reason: Option<String>,
    since: Option<String>,
    until: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
}

impl Asked {
    fn filter(&self, state: &AdminState, limit: usize) -> Result<Filter, Problem> {
        let Self { route, reason, since, until, .. } = self.clone();
        let mut filter = DeadFilter { route, reason, since, until, ids: Vec::new() }.read(state.clock.now(), limit)?;
        filter.after = self.cursor.as_deref().map(event_id).transpose()?;
        Ok(filter)
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Page {
    items: Vec<DeadLetter>,
    next: Option<String>,
}

/// `GET /api/dead-letters`: oldest first.
pub(super) async fn list(
    State(state): State<Arc<AdminState>>,
    Query(asked): Query<Asked>,
) -> Result<Json<Page>, Problem> {
    let limit = page(asked.limit);
    let found = state.spool.list(asked.filter(&state, limit)?).await?;
    let next = found.last().filter(|_| found.len() >= limit).map(|last| last.id.to_string());
    Ok(Json(Page { items: found.iter().map(DeadLetter::of).collect(), next }))
}

/// What an export is asked with.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ExportAsked {
    route: Option<String>,
    reason: Option<String>,
    since: Option<String>,
    until: Option<String>,
    cursor: Option<String>,
    signatures: SignaturesAsked,
}

/// Whether the requests' signatures are wanted, to send them from elsewhere.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SignaturesAsked {
    #[default]
    Hidden,
    Kept,
}

/// `GET /api/dead-letters/export`: NDJSON, oldest first. When the spool fails on the way the connection is cut, so that
/// half an export does not look like a whole one.
pub(super) async fn export(
    State(state): State<Arc<AdminState>>,
    Query(asked): Query<ExportAsked>,
) -> Result<Response, Problem> {
    let ExportAsked { route, reason, since, until, cursor, signatures } = asked;
    let signatures = match signatures {
        SignaturesAsked::Hidden => Signatures::Hidden,
        SignaturesAsked::Kept => Signatures::Kept,
    };
    let filter = Asked { route, reason, since, until, cursor, ..Asked::default() }.filter(&state, EXPORT_PAGE)?;
    let (lines, taken) = mpsc::channel(EXPORT_AHEAD);
    // Ends by itself: with the last event, with the first fault, or when nobody takes the lines any more.
    tokio::spawn(async move {
        if let Err(fault) = write_all(&state, filter, signatures, &lines).await {
            tracing::error!(%fault, "an export of dead letters ended early");
            // A reader that is gone does not need to be told.
            let _told = lines.send(Err(fault)).await;
        }
    });
    let body = Body::new(Lines(taken));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

type Line = Result<Bytes, SpoolFault>;

/// Writes every event that `filter` means; ends early when nobody reads.
async fn write_all(
    state: &AdminState,
    mut filter: Filter,
    signatures: Signatures,
    lines: &mpsc::Sender<Line>,
) -> Result<(), SpoolFault> {
    loop {
        let found = state.spool.page(filter.clone()).await?;
        for listed in &found {
            let Some(stored) = state.spool.load(listed.id).await? else { continue };
            let Ok(text) = exported(state, listed, &stored, signatures) else { continue };
            if lines.send(Ok(text.into())).await.is_err() {
                return Ok(());
            }
        }
        match found.last() {
            Some(last) if found.len() >= EXPORT_PAGE => filter.after = Some(last.id),
            Some(_) | None => return Ok(()),
        }
    }
}

fn exported(
    state: &AdminState,
    listed: &Listed,
    stored: &Stored,
    signatures: Signatures,
) -> Result<String, std::fmt::Error> {
    let carries = |route: &str, name: &header::HeaderName| state.control.carries(route, name);
    line(&Exported::of(listed, stored, &Show { carries: &carries, signatures }))
}

/// The receiving end of the lines as a body.
struct Lines(mpsc::Receiver<Line>);

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = SpoolFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, SpoolFault>>> {
        self.0.poll_recv(context).map(|line| line.map(|line| line.map(Frame::data)))
    }
}

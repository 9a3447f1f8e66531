//! Dead letters: listed a page at a time, exported as one stream.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::AdminState;
use super::problem::Problem;
use super::query::{DeadFilter, event_id, page};
use super::shapes::{DeadLetter, Exported, LEFT_OUT, Show, Signatures, line};
use crate::domain::event::EventId;
use crate::spool::{Filter, Listed, SpoolFault, State as Where, Stored};

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
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Json<Page>, Problem> {
    let Query(asked) = asked?;
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
    asked: Result<Query<ExportAsked>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(ExportAsked { route, reason, since, until, cursor, signatures }) = asked?;
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
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson")),
        (header::TRAILER, HeaderValue::from_static(LEFT_OUT)),
    ];
    Ok((headers, body).into_response())
}

type Line = Result<Frame<Bytes>, SpoolFault>;

/// Writes every event that `filter` means, and how many it cannot write; ends early when nobody reads.
async fn write_all(
    state: &AdminState,
    mut filter: Filter,
    signatures: Signatures,
    lines: &mpsc::Sender<Line>,
) -> Result<(), SpoolFault> {
    let mut left_out = 0_u64;
    loop {
        let found = state.spool.page(filter.clone()).await?;
        for listed in &found {
            let Some(stored) = state.spool.load(listed.id).await? else {
                left_out = left_out.saturating_add(u64::from(is_damaged(state, listed.id).await?));
                continue;
            };
            let Ok(text) = exported(state, listed, &stored, signatures) else { continue };
            if lines.send(Ok(Frame::data(text.into()))).await.is_err() {
                return Ok(());
            }
        }
        match found.last() {
            Some(last) if found.len() >= EXPORT_PAGE => filter.after = Some(last.id),
            Some(_) | None => break,
        }
    }
    if left_out > 0 {
        let trailers = [(HeaderName::from_static(LEFT_OUT), HeaderValue::from(left_out))].into_iter().collect();
        // A reader that is gone does not need to be told.
        let _told = lines.send(Ok(Frame::trailers(trailers))).await;
    }
    Ok(())
}

/// Whether it is set aside; otherwise it is no dead letter any more.
async fn is_damaged(state: &AdminState, id: EventId) -> Result<bool, SpoolFault> {
    let filter = Filter { ids: vec![id], state: Some(Where::Damaged), ..Filter::default() };
    Ok(!state.spool.list(filter).await?.is_empty())
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
        self.0.poll_recv(context)
    }
}

//! Many dead letters at once: made due again, or dropped. A page is one transaction. Either as a job, which the gateway
//! does by itself (`"job": true`), or call by call: at most a thousand events a call, and the answer says where the
//! next call goes on. Not faster than asked for, so that neither the disk nor the application is overrun.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::Instant;

use super::AdminState;
use super::jobs::{Job, Order, span};
use super::problem::Problem;
use super::query::{DeadFilter, LARGEST_PAGE, event_id};
use crate::domain::event::EventId;
use crate::spool::{self, DeadAct, Filter, Listed, Place, SpoolFault};

/// Most events of one page: some ten milliseconds of the disk's work.
const PAGE: usize = 500;

/// Most bytes of the bodies of one page: to delete them their pages must be looked at.
const PAGE_BYTES: u64 = 8 * 1024 * 1024;

/// Pages a second at a given rate, so that what is retried comes as a stream and not in gushes.
const PAGES_A_SECOND: usize = 4;

/// Dead letters that are retried a second when nobody says how many. A lane starts as many attempts as
/// `app.max_in_flight` allows, whatever comes in. Dropping concerns nobody but the disk: as fast as it can.
const USUAL_RATE: u32 = 500;

/// What is asked for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Asked {
    filter: DeadFilter,
    /// Only count.
    dry_run: bool,
    /// How many events the filter must mean when the first call comes; else nothing is done.
    expected_count: Option<u64>,
    /// Whether the gateway is to work through all of them by itself.
    job: bool,
    /// Most events of this call.
    limit: Option<usize>,
    /// Most events a second.
    rate: Option<u32>,
    /// Where the call before ended.
    cursor: Option<String>,
}

/// What was done.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Done {
    dry_run: bool,
    /// How many events the filter meant when the call came, those before the cursor left out.
    matched: u64,
    /// How many were retried or dropped by this call.
    #[serde(rename = "done")]
    events: u64,
    /// Where the next call goes on; absent when there is nothing left.
    next: Option<String>,
}

/// What is done with dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Act {
    Retry,
    Drop,
}

impl Act {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Drop => "drop",
        }
    }

    /// Whether what dies after the operator has decided is none of its business: what is sent once more is not lost, and what
    /// is destroyed is.
    pub(super) const fn spares_later_ones(self) -> bool {
        matches!(self, Self::Drop)
    }

    const fn usual_rate(self) -> Option<u32> {
        match self {
            Self::Retry => Some(USUAL_RATE),
            Self::Drop => None,
        }
    }
}

/// `POST /api/dead-letters/retry`.
pub(super) async fn retry(
    State(state): State<Arc<AdminState>>,
    asked: Result<Json<Asked>, JsonRejection>,
) -> Result<Response, Problem> {
    state.act_on_many(Act::Retry, &body(asked)?).await
}

/// `POST /api/dead-letters/drop`.
pub(super) async fn drop_them(
    State(state): State<Arc<AdminState>>,
    asked: Result<Json<Asked>, JsonRejection>,
) -> Result<Response, Problem> {
    let asked = body(asked)?;
    let first = asked.cursor.is_none() && !asked.dry_run;
    if first && asked.filter.ids.is_empty() && asked.expected_count.is_none() {
        return Err(Problem::bad(
            "dropping destroys events: give their `ids`, or the `expected_count` that a `dry_run` answered",
        ));
    }
    state.act_on_many(Act::Drop, &asked).await
}

fn body(asked: Result<Json<Asked>, JsonRejection>) -> Result<Asked, Problem> {
    asked.map(|Json(asked)| asked).map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()))
}

/// Events of a page at this rate.
pub(super) fn page_size(rate: Option<u32>) -> usize {
    let share = rate.map_or(PAGE, |rate| usize::try_from(rate).unwrap_or(PAGE) / PAGES_A_SECOND);
    share.clamp(1, PAGE)
}

/// Dead letters that are acted on together.
pub(super) struct Page {
    pub(super) events: Vec<Listed>,
    /// Whether nothing is behind them.
    pub(super) is_last: bool,
}

impl AdminState {
    async fn act_on_many(&self, act: Act, asked: &Asked) -> Result<Response, Problem> {
        let now = self.clock.now();
        let mut meant = asked.filter.at(now)?;
        if asked.job && !asked.dry_run {
            self.jobs.recalled().await;
            if let Some(job) = self.jobs.same(act, &asked.filter) {
                return Ok(accepted(&job));
            }
            meant.until.get_or_insert_with(|| now.plus(std::time::Duration::from_millis(1)).to_string());
        }
        let mut filter = meant.read(now, PAGE)?;
        if act == Act::Retry && filter.state == Some(spool::State::Damaged) {
            return Err(Problem::bad("damaged records cannot be delivered: they are not what the sender sent"));
        }
        filter.after = asked.cursor.as_deref().map(event_id).transpose()?;
        filter.dead_by = act.spares_later_ones().then_some(now);
        let matched = self.spool.count(filter.clone()).await?;
        if let Some(expected) = asked.expected_count.filter(|expected| *expected != matched) {
            let detail = format!("the filter means {matched} events, not {expected}: nothing was done");
            return Err(Problem::new(StatusCode::CONFLICT, detail).with("count", json!(matched)));
        }
        if asked.dry_run {
            return Ok(Json(Done { dry_run: true, matched, events: 0, next: None }).into_response());
        }
        let rate = asked.rate.or(act.usual_rate()).map(|rate| rate.max(1));
        if asked.job {
            let (filter, cursor) = (asked.filter.clone(), asked.cursor.clone());
            return self.begin_job(Order { act, filter, meant, matched, rate, cursor }).await.map(|job| accepted(&job));
        }
        let limit = asked.limit.unwrap_or(LARGEST_PAGE).clamp(1, LARGEST_PAGE);
        self.act_in_pages(act, filter, limit, rate, matched).await.map(|done| Json(done).into_response())
    }

    /// Page by page, not faster than `rate`. Dropped half-way, the pages so far are done and the others untouched.
    async fn act_in_pages(
        &self,
        act: Act,
        mut filter: Filter,
        limit: usize,
        rate: Option<u32>,
        matched: u64,
    ) -> Result<Done, Problem> {
        let began = Instant::now();
        let (mut seen, mut done) = (0_usize, 0_u64);
        let mut next: Option<EventId> = None;
        while seen < limit {
            filter.limit = page_size(rate).min(limit.saturating_sub(seen));
            let page = self.dead_page(filter.clone()).await?;
            done += self.act_on_page(act, &page, |_| None).await?;
            seen = seen.saturating_add(page.events.len());
            next = page.events.last().filter(|_| !page.is_last).map(|last| last.id);
            filter.after = next;
            if next.is_none() {
                break;
            }
            if let Some(rate) = rate {
                tokio::time::sleep_until(began + span(u64::try_from(seen).unwrap_or(u64::MAX), rate)).await;
            }
        }
        tracing::info!(events = done, act = act.as_str(), "an operator acted on dead letters");
        Ok(Done { dry_run: false, matched, events: done, next: next.map(|id| id.to_string()) })
    }

    /// The next page of what `filter` means.
    pub(super) async fn dead_page(&self, filter: Filter) -> Result<Page, SpoolFault> {
        let limit = filter.limit;
        let mut events = self.spool.page(filter).await?;
        let found = events.len();
        let mut bytes = 0_u64;
        let fit = events.iter().take_while(|listed| {
            let fits = bytes < PAGE_BYTES;
            bytes = bytes.saturating_add(listed.body_bytes);
            fits
        });
        let fit = fit.count();
        events.truncate(fit);
        Ok(Page { is_last: found < limit && fit == found, events })
    }

    /// Does it to a page in one transaction; says to how many. The others are no dead letters any more.
    pub(super) async fn act_on_page(
        &self,
        act: Act,
        page: &Page,
        place: impl FnOnce(u64) -> Option<Place> + Send + 'static,
    ) -> Result<u64, SpoolFault> {
        let ids = page.events.iter().map(|listed| listed.id).collect();
        let what = match act {
            Act::Retry => DeadAct::Revive,
            Act::Drop => DeadAct::Remove,
        };
        let done = self.spool.act_on_dead(what, ids, self.clock.now(), place).await?;
        if act == Act::Retry {
            let done: std::collections::HashSet<&EventId> = done.iter().collect();
            page.events
                .iter()
                .filter(|listed| done.contains(&listed.id))
                .for_each(|listed| self.replayed(&listed.route));
            self.control.wake();
        }
        Ok(u64::try_from(done.len()).unwrap_or(u64::MAX))
    }
}

/// A job that runs, and where it can be looked at.
fn accepted(job: &Job) -> Response {
    let place = [(header::LOCATION, format!("/api/jobs/{}", job.id))];
    (StatusCode::ACCEPTED, place, Json(job.clone())).into_response()
}

//! Many dead letters at once: made due again, or dropped. At most a thousand a call and a few hundred a second, so that
//! neither the disk nor the application is overrun; the answer says where the next call goes on, so that whoever
//! called can stop and resume anywhere.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::Instant;

use super::AdminState;
use super::problem::Problem;
use super::query::{DeadFilter, LARGEST_PAGE, event_id};
use crate::spool::{self, Filter, Found, Listed};

/// Events of one page: what is looked up at once.
const PAGE: usize = 100;

/// Events a second when nobody says how many. A lane starts as many attempts as `app.max_in_flight` allows, whatever
/// comes in; this is what the disk is asked to commit.
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Retry,
    Drop,
}

/// `POST /api/dead-letters/retry`.
pub(super) async fn retry(
    State(state): State<Arc<AdminState>>,
    asked: Result<Json<Asked>, JsonRejection>,
) -> Result<Json<Done>, Problem> {
    state.act_on_many(Act::Retry, &body(asked)?).await.map(Json)
}

/// `POST /api/dead-letters/drop`.
pub(super) async fn drop_them(
    State(state): State<Arc<AdminState>>,
    asked: Result<Json<Asked>, JsonRejection>,
) -> Result<Json<Done>, Problem> {
    let asked = body(asked)?;
    let first = asked.cursor.is_none() && !asked.dry_run;
    if first && asked.filter.ids.is_empty() && asked.expected_count.is_none() {
        return Err(Problem::bad(
            "dropping destroys events: give their `ids`, or the `expected_count` that a `dry_run` answered",
        ));
    }
    state.act_on_many(Act::Drop, &asked).await.map(Json)
}

fn body(asked: Result<Json<Asked>, JsonRejection>) -> Result<Asked, Problem> {
    asked.map(|Json(asked)| asked).map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()))
}

impl AdminState {
    async fn act_on_many(&self, act: Act, asked: &Asked) -> Result<Done, Problem> {
        let mut filter = asked.filter.read(self.clock.now(), PAGE)?;
        if act == Act::Retry && filter.state == Some(spool::State::Damaged) {
            return Err(Problem::bad("damaged records cannot be delivered: they are not what the sender sent"));
        }
        filter.after = asked.cursor.as_deref().map(event_id).transpose()?;
        let matched = self.spool.count(filter.clone()).await?;
        if let Some(expected) = asked.expected_count.filter(|expected| *expected != matched) {
            let detail = format!("the filter means {matched} events, not {expected}: nothing was done");
            return Err(Problem::new(StatusCode::CONFLICT, detail).with("count", json!(matched)));
        }
        if asked.dry_run {
            return Ok(Done { dry_run: true, matched, events: 0, next: None });
        }
        let limit = asked.limit.unwrap_or(LARGEST_PAGE).clamp(1, LARGEST_PAGE);
        let rate = asked.rate.unwrap_or(USUAL_RATE).max(1);
        self.act_in_pages(act, filter, limit, rate, matched).await
    }

    /// Page by page, not faster than `rate`. Dropped half-way, the events so far are done and the others untouched.
    async fn act_in_pages(
        &self,
        act: Act,
        mut filter: Filter,
        limit: usize,
        rate: u32,
        matched: u64,
    ) -> Result<Done, Problem> {
        let began = Instant::now();
        let (mut seen, mut done) = (0_usize, 0_u64);
        let mut next = None;
        while seen < limit {
            filter.limit = PAGE.min(limit.saturating_sub(seen));
            let found = self.spool.list(filter.clone()).await?;
            for listed in &found {
                done += self.act_on(act, listed).await?;
            }
            seen = seen.saturating_add(found.len());
            let full = found.len() >= filter.limit;
            next = found.last().filter(|_| full).map(|last| last.id);
            filter.after = next;
            if next.is_none() {
                break;
            }
            let due = Duration::from_secs_f64(f64::from(u32::try_from(seen).unwrap_or(u32::MAX)) / f64::from(rate));
            tokio::time::sleep_until(began + due).await;
            if act == Act::Retry {
                self.control.wake();
            }
        }
        self.note(act, done);
        Ok(Done { dry_run: false, matched, events: done, next: next.map(|id| id.to_string()) })
    }

    /// How many events this changed: one, or none if it is no dead letter any more.
    async fn act_on(&self, act: Act, listed: &Listed) -> Result<u64, Problem> {
        let found = match act {
            Act::Retry => self.spool.revive(listed.id, self.clock.now()).await?,
            Act::Drop => self.spool.remove(listed.id).await?,
        };
        Ok(match (found, act) {
            (Found::Yes, Act::Retry) => {
                self.replayed(&listed.route);
                1
            }
            (Found::Yes, Act::Drop) => 1,
            (Found::No, Act::Retry | Act::Drop) => 0,
        })
    }

    fn note(&self, act: Act, events: u64) {
        match act {
            Act::Retry => {
                self.control.wake();
                tracing::info!(events, "an operator retries dead letters");
            }
            Act::Drop => tracing::info!(events, "an operator dropped dead letters"),
        }
    }
}

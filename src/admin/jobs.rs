//! Jobs: work on many dead letters that the gateway does by itself, page by page, while operators look on. A page and the
//! job's place are one transaction: after a crash the job goes on behind the last page that was done, and no event is
//! counted or revived twice.
//!
//! Bounds: [`MOST_RUNNING`] jobs run, [`MOST_KEPT`] that have ended are remembered. A job works through the dead letters
//! that were received before it began, the oldest first; none is met twice, so what dies again in the course is left.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

use super::AdminState;
use super::bulk::{Act, page_size};
use super::problem::Problem;
use super::query::{DeadFilter, event_id, moment};
use crate::domain::time::Timestamp;
use crate::spool::{Place, SpoolFault};

/// Jobs that run at the same time: more would only share the one disk.
const MOST_RUNNING: usize = 4;

/// Jobs that have ended and can still be asked for.
const MOST_KEPT: usize = 32;

/// How long whoever stops a job waits for the page that is being done.
const STOPPING: Duration = Duration::from_secs(10);

/// How long a request waits, after a start, until it is known which jobs were interrupted.
const RECALL: Duration = Duration::from_secs(3);

/// The wait after the disk refused a page, and how often in a row that is taken.
const DISK_REST: Duration = Duration::from_secs(1);
const DISK_PATIENCE: u32 = 120;

/// A job as it is told and remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Job {
    /// Its name: a `UUIDv7`, so that names sort by their age.
    pub(super) id: String,
    /// What it does.
    pub(super) act: Act,
    /// Where it stands.
    pub(super) state: Standing,
    /// How many events it was about when it began.
    pub(super) matched: u64,
    /// How many it has come by.
    pub(super) seen: u64,
    /// How many of those it retried or dropped: the others were no dead letters any more.
    pub(super) done: u64,
    /// Behind which event it goes on.
    pub(super) cursor: Option<String>,
    /// Most events a second.
    pub(super) rate: Option<u32>,
    /// What was asked for.
    pub(super) filter: DeadFilter,
    /// The same with moments in place of ages.
    pub(super) meant: DeadFilter,
    /// RFC 3339.
    pub(super) began_at: String,
    /// RFC 3339; absent while it runs.
    pub(super) ended_at: Option<String>,
    /// Why it failed.
    pub(super) error: Option<String>,
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Standing {
    /// It goes on, after a restart too.
    Running,
    /// Nothing was left.
    Done,
    /// An operator stopped it.
    Cancelled,
    /// The disk did not do it.
    Failed,
}

/// The jobs of a gateway. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct Jobs(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// By name. Held for a look-up, never across an await.
    jobs: Mutex<BTreeMap<String, Arc<Entry>>>,
    /// Told when there is one more to run.
    added: Notify,
    /// Whether those of the run before are known.
    recalled: watch::Sender<bool>,
}

#[derive(Debug)]
struct Entry {
    /// Written by whoever runs the job; read by anyone.
    job: watch::Sender<Job>,
    /// Whether it is to stop.
    stop: watch::Sender<bool>,
    taken: Mutex<Taken>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    No,
    Yes,
}

impl Entry {
    fn new(job: Job) -> Arc<Self> {
        Arc::new(Self { job: watch::channel(job).0, stop: watch::channel(false).0, taken: Mutex::new(Taken::No) })
    }

    fn job(&self) -> Job {
        self.job.borrow().clone()
    }

    fn is_running(&self) -> bool {
        self.job.borrow().state == Standing::Running
    }
}

impl Jobs {
    /// Waits until the jobs of the run before are known: asked at once after a start, none must seem to be gone.
    pub(super) async fn recalled(&self) {
        let mut recalled = self.0.recalled.subscribe();
        if tokio::time::timeout(RECALL, recalled.wait_for(|recalled| *recalled)).await.is_err() {
            tracing::warn!("the jobs of the run before are not known yet");
        }
    }

    fn all(&self) -> Vec<Arc<Entry>> {
        self.0.jobs.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn get(&self, id: &str) -> Result<Arc<Entry>, Problem> {
        let found = self.0.jobs.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
        found.ok_or_else(|| Problem::missing(format!("no job {id} is known: the last {MOST_KEPT} that ended are kept")))
    }

    /// The running job that does the same already.
    pub(super) fn same(&self, act: Act, filter: &DeadFilter) -> Option<Job> {
        let running = self.all().into_iter().filter(|entry| entry.is_running()).map(|entry| entry.job());
        running.into_iter().find(|job| job.act == act && job.filter == *filter)
    }

    fn put(&self, job: Job) {
        let mut jobs = self.0.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.insert(job.id.clone(), Entry::new(job));
        drop(jobs);
        self.0.added.notify_one();
    }

    /// The oldest of those that ended, if there are more than are kept; it is forgotten.
    fn surplus(&self) -> Option<String> {
        let mut jobs = self.0.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let ended: Vec<String> =
            jobs.iter().filter(|(_, entry)| !entry.is_running()).map(|(name, _)| name.clone()).collect();
        let oldest = ended.first().filter(|_| ended.len() >= MOST_KEPT).cloned()?;
        jobs.remove(&oldest);
        Some(oldest)
    }

    /// Those that run and that nobody runs.
    fn take(&self) -> Vec<Arc<Entry>> {
        let mut entries = self.all();
        entries.retain(|entry| {
            let mut taken = entry.taken.lock().unwrap_or_else(PoisonError::into_inner);
            entry.is_running() && std::mem::replace(&mut *taken, Taken::Yes) == Taken::No
        });
        entries
    }
}

/// What a new job is to do.
pub(super) struct Order {
    pub(super) act: Act,
    pub(super) filter: DeadFilter,
    pub(super) meant: DeadFilter,
    pub(super) matched: u64,
    pub(super) rate: Option<u32>,
    pub(super) cursor: Option<String>,
}

impl AdminState {
    /// Writes a new job down and has it run.
    pub(super) async fn begin_job(&self, order: Order) -> Result<Job, Problem> {
        if self.jobs.all().iter().filter(|entry| entry.is_running()).count() >= MOST_RUNNING {
            let detail = format!("{MOST_RUNNING} jobs run already: wait for one, or stop it");
            return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, detail));
        }
        let now = self.clock.now();
        let Order { act, filter, meant, matched, rate, cursor } = order;
        let job = Job {
            id: name(now).to_string(),
            act,
            state: Standing::Running,
            matched,
            seen: 0,
            done: 0,
            cursor,
            rate,
            filter,
            meant,
            began_at: now.to_string(),
            ended_at: None,
            error: None,
        };
        let (spool, jobs) = (self.spool.clone(), self.jobs.clone());
        // In a task of its own: who asked may go away, and what is on disk has to be known here.
        let begun = tokio::spawn(async move {
            spool.put_job(job.place(), jobs.surplus()).await?;
            tracing::info!(
                job = job.id,
                act = act.as_str(),
                events = matched,
                "an operator began a job on dead letters"
            );
            jobs.put(job.clone());
            Ok::<_, SpoolFault>(job)
        });
        let begun =
            begun.await.unwrap_or_else(|ended| Err(SpoolFault::Failed(format!("a job could not begin: {ended}"))));
        Ok(begun?)
    }

    /// Pages until nothing is left, or until somebody wants it to end.
    async fn run_job(self: Arc<Self>, entry: Arc<Entry>, mut end: watch::Receiver<bool>) {
        let mut refusals = 0;
        let mut stop = entry.stop.subscribe();
        loop {
            let (began, mut job) = (Instant::now(), entry.job());
            let before = job.seen;
            if *stop.borrow() {
                job.end(Standing::Cancelled, self.clock.now());
                if let Err(fault) = self.spool.put_job(job.place(), None).await {
                    tracing::warn!(job = job.id, %fault, "that a job was stopped could not be written: a restart resumes it");
                }
            } else {
                match self.job_page(&job).await {
                    Ok(next) => (job, refusals) = (next, 0),
                    Err(fault) if refusals < DISK_PATIENCE => {
                        refusals += 1;
                        tracing::warn!(job = job.id, %fault, "the disk did not do a page of a job; it is tried again");
                        tokio::select! {
                            () = tokio::time::sleep(DISK_REST) => {}
                            _ = end.wait_for(|end| *end) => return,
                        }
                        continue;
                    }
                    Err(fault) => {
                        job.end(Standing::Failed, self.clock.now());
                        job.error = Some(fault.to_string());
                    }
                }
            }
            entry.job.send_replace(job.clone());
            if job.state != Standing::Running {
                return tracing::info!(job = job.id, act = job.act.as_str(), state = ?job.state, events = job.done,
                    "a job on dead letters has ended");
            }
            // From page to page: a stall is not made up for by a gush.
            let paced = job.rate.map_or(Duration::ZERO, |rate| span(job.seen.saturating_sub(before), rate));
            tokio::select! {
                () = tokio::time::sleep_until(began + paced) => {}
                _ = stop.wait_for(|stop| *stop) => {}
                _ = end.wait_for(|end| *end) => return,
            }
        }
    }

    /// One page, and where the job stands behind it.
    async fn job_page(&self, job: &Job) -> Result<Job, SpoolFault> {
        let now = self.clock.now();
        let filter = job.meant.read(now, page_size(job.rate));
        let mut filter = filter.map_err(|fault| SpoolFault::Failed(fault.to_string()))?;
        filter.after = job.cursor.as_deref().and_then(|cursor| event_id(cursor).ok());
        if job.act.spares_later_ones() {
            filter.dead_by = Some(moment(&job.began_at, now).map_err(|fault| SpoolFault::Failed(fault.to_string()))?);
        }
        let page = self.dead_page(filter).await?;
        let mut next = job.clone();
        next.seen += u64::try_from(page.events.len()).unwrap_or(0);
        if let Some(last) = page.events.last() {
            next.cursor = Some(last.id.to_string());
        }
        if page.is_last {
            next.end(Standing::Done, now);
        }
        let written = next.clone();
        let place = move |done: u64| {
            let mut written = written;
            written.done += done;
            Some(written.place())
        };
        next.done += self.act_on_page(job.act, &page, place).await?;
        Ok(next)
    }
}

impl Job {
    fn end(&mut self, state: Standing, now: Timestamp) {
        (self.state, self.ended_at) = (state, Some(now.to_string()));
    }

    fn place(&self) -> Place {
        Place { job: self.id.clone(), text: serde_json::to_string(self).unwrap_or_default() }
    }
}

fn name(now: Timestamp) -> Uuid {
    crate::domain::event::EventId::new(now, fastrand::u128(..)).0
}

/// How long so many events take at this rate.
pub(super) fn span(events: u64, rate: u32) -> Duration {
    Duration::from_secs_f64(f64::from(u32::try_from(events).unwrap_or(u32::MAX)) / f64::from(rate.max(1)))
}

/// Runs the jobs until `stopped`: those that a stop before interrupted, and those that are begun. A page that is being
/// done is finished; what is left goes on at the next start.
pub async fn run_jobs(state: Arc<AdminState>, stopped: impl Future<Output = ()> + Send) {
    match state.spool.jobs().await {
        Ok(texts) => {
            let known = texts.iter().filter_map(|text| serde_json::from_str::<Job>(text).ok());
            for job in known {
                if job.state == Standing::Running {
                    tracing::info!(
                        job = job.id,
                        act = job.act.as_str(),
                        done = job.done,
                        "a job on dead letters goes on"
                    );
                }
                state.jobs.put(job);
            }
        }
        Err(fault) => tracing::warn!(%fault, "which jobs were interrupted cannot be read: begin them anew"),
    }
    state.jobs.0.recalled.send_replace(true);
    let end = watch::channel(false).0;
    let mut running = JoinSet::new();
    let mut stopped = std::pin::pin!(stopped);
    loop {
        for entry in state.jobs.take() {
            running.spawn(state.clone().run_job(entry, end.subscribe()));
        }
        tokio::select! {
            () = &mut stopped => break,
            () = state.jobs.0.added.notified() => {}
            Some(_) = running.join_next() => {}
        }
    }
    end.send_replace(true);
    while running.join_next().await.is_some() {}
}

/// `GET /api/jobs`: the newest first.
pub(super) async fn list(State(state): State<Arc<AdminState>>) -> Json<Value> {
    state.jobs.recalled().await;
    let jobs: Vec<Job> = state.jobs.all().iter().rev().map(|entry| entry.job()).collect();
    Json(json!({ "items": jobs }))
}

/// `GET /api/jobs/{id}`.
pub(super) async fn show(State(state): State<Arc<AdminState>>, Path(id): Path<String>) -> Result<Json<Job>, Problem> {
    state.jobs.recalled().await;
    Ok(Json(state.jobs.get(&id)?.job()))
}

/// `DELETE /api/jobs/{id}`: stops it. What is done stays done; the answer says where it stands when its page is finished.
pub(super) async fn stop(State(state): State<Arc<AdminState>>, Path(id): Path<String>) -> Result<Json<Job>, Problem> {
    state.jobs.recalled().await;
    let entry = state.jobs.get(&id)?;
    if entry.is_running() {
        tracing::info!(job = id, "an operator stops a job on dead letters");
    }
    entry.stop.send_replace(true);
    let mut job = entry.job.subscribe();
    let ended = tokio::time::timeout(STOPPING, job.wait_for(|job| job.state != Standing::Running)).await;
    match ended {
        Ok(Ok(job)) => Ok(Json(job.clone())),
        Ok(Err(_)) | Err(_) => Ok(Json(entry.job())),
    }
}

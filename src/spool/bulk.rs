//! Many dead letters at once: a page in one transaction, with the place of the job that works through them. It decides
//! neither which nor how fast.

use std::time::Duration;

use super::{Filter, Listed, Spool, SpoolFault, list};
use crate::disk::{Found, JobFault, Rx};
use crate::domain::event::EventId;
use crate::domain::time::Timestamp;

/// Longest look-up of a page: a filter that hardly anything passes looks at every dead letter.
const PAGE: Duration = Duration::from_secs(10);

/// What becomes of dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadAct {
    /// They become due again, as replays that were never tried.
    Revive,
    /// They are deleted.
    Remove,
}

/// Where a job stands once its page is done.
#[derive(Clone, Debug)]
pub struct Place {
    /// The job's name.
    pub job: String,
    /// What is remembered of it.
    pub text: String,
}

impl Spool {
    /// Does `act` to those of `ids` that are (still) dead letters, all in one transaction, with the job's place as `place`
    /// gives it for the number of those; returns which they were, when that is on stable storage. Done twice, the second
    /// time changes nothing.
    pub async fn act_on_dead(
        &self,
        act: DeadAct,
        ids: Vec<EventId>,
        now: Timestamp,
        place: impl FnOnce(u64) -> Option<Place> + Send + 'static,
    ) -> Result<Vec<EventId>, SpoolFault> {
        let done = self.disk.durable(0, move |tx| {
            let mut done = Vec::new();
            for id in ids {
                let name = id.0.into_bytes();
                let found = match act {
                    DeadAct::Revive => tx.revive(name, now)?,
                    DeadAct::Remove => tx.delete_dead(name)?,
                };
                if found == Found::Yes {
                    done.push(id);
                }
            }
            if let Some(place) = place(u64::try_from(done.len()).unwrap_or(u64::MAX)) {
                tx.put_job(&place.job, &place.text)?;
            }
            Ok(done)
        });
        Ok(done.await?)
    }

    /// A page of events in the order in which they were received; as [`Spool::list`], with more patience.
    pub async fn page(&self, filter: Filter) -> Result<Vec<Listed>, SpoolFault> {
        Ok(self.disk.read_within(PAGE, move |rx| list(rx, &filter)).await?)
    }

    /// What was written of the jobs, the oldest first.
    pub async fn jobs(&self) -> Result<Vec<String>, SpoolFault> {
        Ok(self.disk.read(jobs).await?)
    }

    /// Writes where a job stands, and forgets another one if told so.
    pub async fn put_job(&self, place: Place, forget: Option<String>) -> Result<(), SpoolFault> {
        let put = self.disk.durable(0, move |tx| {
            if let Some(forget) = &forget {
                tx.delete_job(forget)?;
            }
            tx.put_job(&place.job, &place.text)
        });
        Ok(put.await?)
    }
}

fn jobs(rx: &Rx<'_>) -> Result<Vec<String>, JobFault> {
    rx.jobs()
}

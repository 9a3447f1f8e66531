//! The spool: events that were acknowledged and are not yet accepted by the application, and those that never will be
//! (dead letters). Floor 2: it knows events and the disk. It decides neither when to try nor when to give up.
//!
//! States: pending → in flight → (removed | pending | dead). Dead → pending (revived) or removed. A record that fails
//! its checksum is set aside: counted, logged, kept, never delivered.
//!
//! Invariant: an event leaves the disk only after its mark was written in the same transaction, or by an operator.

mod bulk;
#[doc(hidden)]
pub mod fuzzed;
mod reader;
mod record;
mod types;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::disk::{Disk, JobFault, RouteTotals, Rx, Selection, Tx};
use crate::domain::event::EventId;
use crate::domain::time::Timestamp;

pub use self::bulk::{DeadAct, Place};
pub use self::reader::{Damage, Record, SpoolReader};
pub use self::types::{
    DeadReason, Due, Entry, Filter, Listed, NewEntry, Possible, Replay, Settlement, SpoolFault, State, Stored,
};
pub use crate::disk::{Appended, Found, Mark, Totals};

/// Longest count: it may have to look at every event.
const COUNT: Duration = Duration::from_secs(10);

/// Bytes of bodies after which one read yields no further event: what is read counts in no budget yet.
const AT_ONCE_BYTES: usize = 256 * 1024;

/// Events remembered as not found. More are hardly ever sought at once.
const MISSED: usize = 256;

/// The spool on an open disk. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Spool {
    disk: Disk,
    /// Events that were due and then were not there: most were settled meanwhile. Held for a look-up.
    missed: Arc<Mutex<HashSet<EventId>>>,
}

impl Spool {
    /// The spool on this disk.
    #[must_use]
    pub fn new(disk: Disk) -> Self {
        Self { disk, missed: Arc::default() }
    }

    /// Writes an event, with its dedup mark if given, and returns when both are on stable storage.
    ///
    /// If the future is dropped before the work was begun, nothing is written. If it is dropped later the event is
    /// written; one that came as in flight then becomes due, for nobody is left to settle it.
    pub async fn append(&self, entry: NewEntry, mark: Option<Mark>) -> Result<(), SpoolFault> {
        let row = record::encode(&entry);
        let unanswered = Unanswered::new(&self.disk, &entry);
        let appended = self.disk.append(row, mark).await;
        unanswered.answered();
        Ok(appended?)
    }

    /// As [`Self::append`], of an event of which nobody could say before whether it was processed: if the table says so by now,
    /// nothing is written. If it still cannot be read the event is.
    pub async fn append_unless_processed(
        &self,
        entry: NewEntry,
        mark: Mark,
        now: Timestamp,
    ) -> Result<Appended, SpoolFault> {
        let row = record::encode(&entry);
        let unanswered = Unanswered::new(&self.disk, &entry);
        let appended = self.disk.append_unless_processed(row, mark, now).await;
        unanswered.answered();
        Ok(appended?)
    }

    /// Notes that attempts begin; they count from now on. `No`: the event is not due (any more), and there must be no
    /// attempt. Survives a kill of the process; a crash of the machine makes every event a possible duplicate anyway.
    pub async fn begin_attempts(&self, ids: Vec<EventId>) -> Result<Vec<Found>, SpoolFault> {
        Ok(self.disk.prompt(move |tx| begin_attempts(tx, &ids)).await?)
    }

    /// As [`Self::begin_attempts`], some milliseconds later and on stable storage: for attempts that have to wait anyway.
    pub async fn begin_attempts_with_others(&self, ids: Vec<EventId>) -> Result<Vec<Found>, SpoolFault> {
        Ok(self.disk.durable_with_others(move |tx| begin_attempts(tx, &ids)).await?)
    }

    /// Enters how an attempt ended and returns when that is on stable storage. An event that is not there any more is
    /// no error: settling twice does no harm, and after a fault the caller should settle again.
    pub async fn settle(&self, id: EventId, settlement: Settlement) -> Result<(), SpoolFault> {
        self.disk.durable(0, move |tx| settle(tx, id, settlement)).await?;
        Ok(())
    }

    /// As [`Self::settle`], some milliseconds later: for an event that no other waits behind. Until then a crash of the
    /// machine finds the event as it was, and the next start flags it.
    pub async fn settle_with_others(&self, id: EventId, settlement: Settlement) -> Result<(), SpoolFault> {
        self.disk.durable_with_others(move |tx| settle(tx, id, settlement)).await?;
        Ok(())
    }

    /// Events of a route that may be tried now, the longest due first, and the moment of the next one. Of the events
    /// of one order value only the oldest is ever among them.
    pub async fn due(&self, route: &str, now: Timestamp, limit: usize) -> Result<Due, SpoolFault> {
        if self.disk.route_totals(route).pending == 0 {
            return Ok(Due::default());
        }
        let route = route.to_owned();
        let (ids, next) = self.disk.read(move |rx| rx.due(&route, now, limit)).await?;
        Ok(Due { ids: ids.into_iter().map(|id| EventId(uuid::Uuid::from_bytes(id))).collect(), next })
    }

    /// One event, as it was written. A damaged one is set aside, counted and logged, and `None`.
    pub async fn load(&self, id: EventId) -> Result<Option<Stored>, SpoolFault> {
        Ok(self.load_some(vec![id]).await?.pop().flatten())
    }

    /// The first of these events and some of those behind it, as [`Self::load`] yields each: as many as make a short read and
    /// have some 256 KiB of bodies together.
    pub async fn load_some(&self, ids: Vec<EventId>) -> Result<Vec<Option<Stored>>, SpoolFault> {
        let (doubtful_through, wanted) = (self.disk.doubtful_through(), ids.clone());
        let read = self.disk.read_record(move |rx| load_some(rx, &wanted, doubtful_through)).await;
        let read = match (read, ids.first()) {
            (Ok(read), _) => read,
            (Err(JobFault::Damaged(why)), Some(first)) => {
                self.set_aside(*first, &why).await?;
                return Ok(vec![None]);
            }
            (Err(fault), _) => return Err(fault.into()),
        };
        for (id, _) in ids.into_iter().zip(&read).filter(|(_, stored)| stored.is_none()) {
            if self.was_missed(id) {
                self.disk.read(move |rx| rx.is_not_due(id.0.into_bytes())).await?;
            }
        }
        Ok(read)
    }

    /// Whether the event was not found once before.
    fn was_missed(&self, id: EventId) -> bool {
        let mut missed = self.missed.lock().unwrap_or_else(PoisonError::into_inner);
        if missed.len() >= MISSED {
            missed.clear();
        }
        !missed.insert(id)
    }

    /// Whether an undelivered event of this order value is on disk. Without undelivered events: from memory.
    pub async fn has_earlier(&self, route: &str, order_value: &str) -> Result<bool, SpoolFault> {
        if self.disk.route_totals(route).pending == 0 && !self.disk.is_salvaging() {
            return Ok(false);
        }
        let (route, order_value) = (route.to_owned(), order_value.to_owned());
        Ok(self.disk.read(move |rx| rx.has_undelivered(&route, &order_value)).await?)
    }

    /// Events in the order in which they were received.
    pub async fn list(&self, filter: Filter) -> Result<Vec<Listed>, SpoolFault> {
        Ok(self.disk.read(move |rx| list(rx, &filter)).await?)
    }

    /// How many events the filter lets through, its limit aside.
    pub async fn count(&self, filter: Filter) -> Result<u64, SpoolFault> {
        Ok(self.disk.read_within(COUNT, move |rx| rx.count(&filter.selection())).await?)
    }

    /// Makes a dead letter due again, as a replay that was never tried. `No`: it is not a dead letter (any more).
    pub async fn revive(&self, id: EventId, now: Timestamp) -> Result<Found, SpoolFault> {
        Ok(self.disk.durable(0, move |tx| tx.revive(id.0.into_bytes(), now)).await?)
    }

    /// Deletes a dead letter or a damaged record. `No`: it is neither (any more).
    pub async fn remove(&self, id: EventId) -> Result<Found, SpoolFault> {
        Ok(self.disk.durable(0, move |tx| tx.delete_dead(id.0.into_bytes())).await?)
    }

    /// As [`Disk::doubtful_before`].
    #[must_use]
    pub fn doubtful_before(&self) -> Option<Timestamp> {
        self.disk.doubtful_before()
    }

    /// As [`Disk::salvaged`].
    pub fn salvaged(&self) -> tokio::sync::futures::Notified<'_> {
        self.disk.salvaged()
    }

    /// What is on disk, from memory.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.disk.totals()
    }

    /// What is on disk of one route, from memory.
    #[must_use]
    pub fn route_totals(&self, route: &str) -> RouteTotals {
        self.disk.route_totals(route)
    }

    /// Writes down that a record is damaged. Where the disk does not take that, it is tried again with the record.
    async fn set_aside(&self, id: EventId, why: &str) -> Result<(), SpoolFault> {
        let found = self.disk.durable(0, move |tx| tx.set_aside(id.0.into_bytes())).await?;
        if found == Found::No {
            // Somebody else did, or it was read from a file that has been put aside since.
            return Ok(self.disk.read(move |rx| rx.is_not_due(id.0.into_bytes())).await?);
        }
        self.disk.metrics().spool_errors_total.with_label_values(&["damage"]).inc();
        tracing::error!(event = %id, why, "a record on disk is damaged: it is set aside and not delivered; `hookgate dlq list --damaged` lists such records, `hookgate spool verify` checks all");
        Ok(())
    }
}

fn settle(tx: &mut Tx<'_>, id: EventId, settlement: Settlement) -> Result<Found, JobFault> {
    let id = id.0.into_bytes();
    match settlement {
        Settlement::Accepted { mark } => {
            tx.put_mark(&mark);
            tx.delete_delivered(id)
        }
        Settlement::Retry { not_before, possible_duplicate, error } => {
            tx.retry(id, not_before, possible_duplicate == Possible::Duplicate, &error)
        }
        Settlement::Dead { reason, possible_duplicate, error } => {
            tx.bury(id, reason.as_str(), possible_duplicate == Possible::Duplicate, &error)
        }
        Settlement::Postpone { not_before } => tx.postpone(id, not_before),
        Settlement::Probed { not_before, possible_duplicate, error } => {
            tx.retry(id, not_before, possible_duplicate == Possible::Duplicate, &error)?;
            tx.uncount(id)
        }
    }
}

fn begin_attempts(tx: &mut Tx<'_>, ids: &[EventId]) -> Result<Vec<Found>, JobFault> {
    ids.iter().map(|id| tx.begin_attempt(id.0.into_bytes())).collect()
}

/// The first event, and others up to one that cannot be read: that will be the first of another read, whose failure is its own.
fn load_some(rx: &Rx<'_>, ids: &[EventId], doubtful_through: i64) -> Result<Vec<Option<Stored>>, JobFault> {
    let (mut read, mut bytes) = (Vec::with_capacity(ids.len()), 0);
    for id in ids {
        match load(rx, *id, doubtful_through) {
            Err(fault) if read.is_empty() => return Err(fault),
            Err(_) => break,
            Ok(stored) => {
                bytes += stored.as_ref().map_or(0, |stored| stored.event.body.len());
                read.push(stored);
            }
        }
        if bytes >= AT_ONCE_BYTES {
            break;
        }
    }
    Ok(read)
}

fn load(rx: &Rx<'_>, id: EventId, doubtful_through: i64) -> Result<Option<Stored>, JobFault> {
    let Some((row, payload)) = rx.load(id.0.into_bytes())? else { return Ok(None) };
    let stored = record::decode(row, payload, doubtful_through);
    stored.map(Some).map_err(|why| JobFault::Damaged(why.to_owned()))
}

fn list(rx: &Rx<'_>, filter: &Filter) -> Result<Vec<Listed>, JobFault> {
    Ok(rx.list(&filter.selection(), filter.limit)?.into_iter().map(Listed::from).collect())
}

impl Filter {
    fn selection(&self) -> Selection {
        Selection {
            states: self.state.map_or_else(Vec::new, |state| state.codes().to_vec()),
            route: self.route.clone(),
            reason: self.reason.map(|reason| reason.as_str().to_owned()),
            since: self.since,
            until: self.until,
            dead_by: self.dead_by,
            ids: self.ids.iter().map(|id| id.0.into_bytes()).collect(),
            after: self.after.map(|id| id.0.into_bytes()),
        }
    }
}

/// An append whose answer has not come. Dropped before that, it leaves word that nobody will settle the event.
struct Unanswered<'a> {
    disk: &'a Disk,
    id: Option<[u8; 16]>,
}

impl<'a> Unanswered<'a> {
    fn new(disk: &'a Disk, entry: &NewEntry) -> Self {
        Self { disk, id: (entry.state == Entry::InFlight).then(|| entry.event.id.0.into_bytes()) }
    }

    fn answered(mut self) {
        self.id = None;
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.disk.lazily("an event nobody waits for", move |tx| tx.cut_off(id).map(|_| ()));
        }
    }
}

//! Events on the disk: the statements that write them, each inside the transaction of a job. What the columns mean to
//! a reader is `query.rs`'s; what a record means to the gateway is the spool's.
//!
//! Invariant: of the undelivered events of one order value only the oldest is ever in state 0 (pending), and it is never
//! in state 2 (behind). Whatever makes an event pending asks for an older one; whatever takes an undelivered event away
//! promotes the next.

use std::sync::Arc;

use rusqlite::{CachedStatement, Connection, OptionalExtension, Row, params};

use super::books::{Class, Way};
use super::fault::JobFault;
use super::job::Tx;
use super::space::Purpose;
use crate::domain::event::Event;
use crate::domain::time::Timestamp;

/// Bytes an event takes besides what it carries: row headers, index entries, the unused rest of a page.
const OVERHEAD_BYTES: usize = 512;

/// An event to be written, with what is made of it for that.
#[derive(Clone, Debug)]
pub struct NewRow {
    /// The event.
    pub event: Arc<Event>,
    /// How it comes in.
    pub state: NewState,
    /// Attempts made.
    pub attempts: u32,
    /// Whether an earlier sending may have been processed.
    pub possible_duplicate: bool,
    /// Whether an operator asked for it.
    pub replay: bool,
    /// What became of the last attempt.
    pub last_error: String,
    /// Slot and fingerprint.
    pub key: [u8; 32],
    /// The headers, encoded.
    pub headers: Vec<u8>,
    /// SHA-256 of the body.
    pub body_sha256: [u8; 32],
    /// SHA-256 of the record.
    pub digest: [u8; 32],
}

/// How an event comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewState {
    /// Due from this moment on, or behind earlier events of its order value.
    Pending {
        /// The moment.
        not_before: Timestamp,
    },
    /// Its attempt is running.
    InFlight,
    /// A dead letter.
    Dead {
        /// Why.
        reason: &'static str,
    },
}

impl NewRow {
    /// Bytes the event counts for.
    #[must_use]
    pub fn size(&self) -> usize {
        let event = &*self.event;
        let texts = [event.method.as_str(), &event.target, &event.authority, &self.last_error, &event.route];
        let optional = [&event.event_type, &event.order_value];
        OVERHEAD_BYTES
            + event.body.len()
            + self.headers.len()
            + texts.iter().map(|text| text.len()).sum::<usize>()
            + optional.iter().filter_map(|text| text.as_ref().map(String::len)).sum::<usize>()
    }
}

/// The state of an event that becomes pending: behind an older one of its order value, or not. While a salvage may still
/// bring older ones, every event with an order value is behind.
pub(super) const PENDING: &str = "CASE WHEN order_value IS NOT NULL AND
  (EXISTS (SELECT 1 FROM meta WHERE meta.key = 'salvaging' AND value = 1)
   OR EXISTS (SELECT 1 FROM events AS other
     WHERE other.route = events.route AND other.order_value = events.order_value AND other.class = 0
     AND other.order_value IS NOT NULL AND other.seq < events.seq)) THEN 2 ELSE 0 END";

/// Whether there was such an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// There was.
    Yes,
    /// There was not, or it was in a state that the change does not concern.
    No,
}

/// What became of an event that was to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It is written.
    Now,
    /// It is not: it was processed before.
    ProcessedBefore,
}

/// What is needed of a row that changes its class.
struct Touched {
    seq: i64,
    route: Arc<str>,
    class: Class,
    size: u64,
    received_at: Timestamp,
    order_value: Option<String>,
}

const TOUCHED: &str = "seq, route, class, size, received_at, order_value";

impl Touched {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            seq: row.get(0)?,
            route: row.get(1)?,
            class: Class::from_code(row.get(2)?),
            size: row.get(3)?,
            received_at: Timestamp::from_millis(row.get(4)?),
            order_value: row.get(5)?,
        })
    }
}

impl Tx<'_> {
    /// Writes an event, if there is room. Its sequence number is higher than all before it.
    pub fn insert(&mut self, row: &NewRow) -> Result<(), JobFault> {
        let size = u64::try_from(row.size()).unwrap_or(u64::MAX);
        let purpose = match row.state {
            NewState::Dead { .. } => Purpose::DeadLetter,
            NewState::Pending { .. } | NewState::InFlight => Purpose::Delivery,
        };
        self.space.admit(self.conn, self.draft.used(), size, purpose)?;
        let seq = *self.next_seq;
        *self.next_seq = seq.saturating_add(1);
        let class = self.insert_event(row, seq, size)?;
        let event = &*row.event;
        self.statement(
            "INSERT INTO payloads (seq, method, target, authority, headers, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            seq,
            event.method.as_str(),
            event.target,
            event.authority,
            row.headers,
            &event.body[..]
        ])?;
        self.note(Way::In, class, &event.route, size, event.received_at);
        Ok(())
    }

    fn insert_event(&mut self, row: &NewRow, seq: i64, size: u64) -> Result<Class, JobFault> {
        let event = &*row.event;
        let (state, class, not_before, reason) = match row.state {
            NewState::Pending { not_before } if self.has_earlier(event)? => (2, Class::Undelivered, not_before, None),
            NewState::Pending { not_before } => (0, Class::Undelivered, not_before, None),
            NewState::InFlight => (1, Class::Undelivered, event.received_at, None),
            NewState::Dead { reason } => (3, Class::Dead, self.now, Some(reason)),
        };
        self.statement(
            "INSERT INTO events (seq, id, route, key, state, class, not_before, attempts, possible_duplicate, replay,
               reason, last_error, received_at, signed_at, event_type, order_value, size, body_bytes, body_sha256, digest)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)",
        )?
        .execute(params![
            seq,
            event.id.0.as_bytes(),
            &*event.route,
            row.key,
            state,
            class.code(),
            not_before.millis(),
            row.attempts,
            row.possible_duplicate,
            row.replay,
            reason,
            row.last_error,
            event.received_at.millis(),
            event.signed_at.map(Timestamp::millis),
            event.event_type,
            event.order_value,
            size,
            event.body.len(),
            row.body_sha256,
            row.digest,
        ])?;
        Ok(class)
    }

    fn has_earlier(&self, event: &Event) -> Result<bool, JobFault> {
        let Some(value) = &event.order_value else { return Ok(false) };
        Ok(has_undelivered(self.conn, &event.route, value)?)
    }

    /// An attempt begins: it counts from now on, whatever becomes of it. Only of what is pending: not of an event that
    /// was settled, or came to stand behind another, since somebody found it due.
    pub fn begin_attempt(&mut self, id: [u8; 16]) -> Result<Found, JobFault> {
        let sql = "UPDATE events SET state = 1, attempts = attempts + 1 WHERE id = ?1 AND class = 0 AND state = 0";
        self.change(sql, params![id])
    }

    /// The last attempt is not held against the event.
    pub fn uncount(&mut self, id: [u8; 16]) -> Result<Found, JobFault> {
        self.change("UPDATE events SET attempts = max(attempts - 1, 0) WHERE id = ?1 AND class = 0", params![id])
    }

    /// The attempt failed; the next one not before this moment.
    pub fn retry(
        &mut self,
        id: [u8; 16],
        not_before: Timestamp,
        possible_duplicate: bool,
        error: &str,
    ) -> Result<Found, JobFault> {
        let sql = format!(
            "UPDATE events SET state = {PENDING}, not_before = ?2, possible_duplicate = max(possible_duplicate, ?3),
               last_error = ?4 WHERE id = ?1 AND class = 0"
        );
        self.change(&sql, params![id, not_before.millis(), possible_duplicate, error])
    }

    /// The attempt did not take place.
    pub fn postpone(&mut self, id: [u8; 16], not_before: Timestamp) -> Result<Found, JobFault> {
        let sql = format!(
            "UPDATE events SET attempts = max(attempts - (state = 1), 0), state = {PENDING}, not_before = ?2
             WHERE id = ?1 AND class = 0"
        );
        self.change(&sql, params![id, not_before.millis()])
    }

    /// Nobody knows any more what became of the running attempt.
    pub fn cut_off(&mut self, id: [u8; 16]) -> Result<Found, JobFault> {
        let sql = format!("UPDATE events SET state = {PENDING}, possible_duplicate = 1 WHERE id = ?1 AND state = 1");
        self.change(&sql, params![id])
    }

    /// No further attempt: a dead letter. Its `not_before` says since when.
    pub fn bury(
        &mut self,
        id: [u8; 16],
        reason: &'static str,
        possible_duplicate: bool,
        error: &str,
    ) -> Result<Found, JobFault> {
        let sql = "UPDATE events SET state = 3, class = 1, reason = ?2, last_error = ?3, not_before = ?5,
                     possible_duplicate = max(possible_duplicate, ?4) WHERE id = ?1 AND class = 0";
        let touched = self.touch(sql, params![id, reason, error, possible_duplicate, self.now.millis()])?;
        self.moved(touched, Class::Undelivered, Some(Class::Dead))
    }

    /// The record is not what was written: set aside, neither delivered nor deleted. Its `not_before` says since when.
    pub fn set_aside(&mut self, id: [u8; 16]) -> Result<Found, JobFault> {
        let class = self
            .statement("SELECT class FROM events WHERE id = ?1 AND class < 2")?
            .query_row([&id[..]], |row| row.get::<_, i64>(0))
            .optional()?;
        let Some(class) = class else { return Ok(Found::No) };
        let sql = "UPDATE events SET state = 4, class = 2, not_before = ?2 WHERE id = ?1";
        let touched = self.touch(sql, params![id, self.now.millis()])?;
        self.moved(touched, Class::from_code(class), Some(Class::Damaged))
    }

    /// A dead letter becomes due again, as if it had never been tried.
    pub fn revive(&mut self, id: [u8; 16], now: Timestamp) -> Result<Found, JobFault> {
        let sql = format!(
            "UPDATE events SET class = 0, replay = 1, attempts = 0, reason = NULL, not_before = ?2, state = {PENDING}
             WHERE id = ?1 AND class = 1"
        );
        let touched = self.touch(&sql, params![id, now.millis()])?;
        if let Some(Touched { seq, route, order_value: Some(value), .. }) = &touched {
            self.statement(
                "UPDATE events SET state = 2 WHERE route = ?1 AND order_value = ?2 AND class = 0 AND state = 0
                   AND order_value IS NOT NULL AND seq > ?3",
            )?
            .execute(params![&**route, value, seq])?;
        }
        self.moved(touched, Class::Dead, Some(Class::Undelivered))
    }

    /// Deletes an undelivered event: it was delivered.
    pub fn delete_delivered(&mut self, id: [u8; 16]) -> Result<Found, JobFault> {
        // Of 10 and up: it has come from a damaged file, and waits for its payload.
        let deleted = self.delete("DELETE FROM events WHERE id = ?1 AND (class = 0 OR state >= 10)", id)?;
        if deleted == Found::No {
            self.settled_elsewhere(id)?;
        }
        Ok(deleted)
    }

    /// Deletes a dead letter or a damaged record: an operator wants it.
    pub fn delete_dead(&mut self, id: [u8; 16]) -> Result<Found, JobFault> {
        self.delete("DELETE FROM events WHERE id = ?1 AND class <> 0", id)
    }

    fn delete(&mut self, sql: &str, id: [u8; 16]) -> Result<Found, JobFault> {
        let Some(touched) = self.touch(sql, params![id])? else { return Ok(Found::No) };
        self.statement("DELETE FROM payloads WHERE seq = ?1")?.execute([touched.seq])?;
        let class = touched.class;
        self.moved(Some(touched), class, None)
    }

    fn moved(&mut self, touched: Option<Touched>, from: Class, to: Option<Class>) -> Result<Found, JobFault> {
        let Some(Touched { route, size, received_at, order_value, .. }) = touched else { return Ok(Found::No) };
        self.note(Way::Out, from, &route, size, received_at);
        if let Some(to) = to {
            self.note(Way::In, to, &route, size, received_at);
        }
        if let (Class::Undelivered, Some(value)) = (from, order_value) {
            self.promote(&route, &value)?;
        }
        Ok(Found::Yes)
    }

    fn promote(&mut self, route: &str, order_value: &str) -> Result<(), JobFault> {
        self.statement(
            "UPDATE events SET state = 0 WHERE state = 2 AND seq =
               (SELECT min(seq) FROM events WHERE route = ?1 AND order_value = ?2 AND class = 0
                AND order_value IS NOT NULL)
               AND NOT EXISTS (SELECT 1 FROM meta WHERE key = 'salvaging' AND value = 1)",
        )?
        .execute(params![route, order_value])?;
        Ok(())
    }

    fn change(&mut self, sql: &str, params: impl rusqlite::Params) -> Result<Found, JobFault> {
        Ok(if self.statement(sql)?.execute(params)? > 0 { Found::Yes } else { Found::No })
    }

    fn touch(&mut self, sql: &str, params: impl rusqlite::Params) -> Result<Option<Touched>, JobFault> {
        let sql = format!("{sql} RETURNING {TOUCHED}");
        Ok(self.statement(&sql)?.query_row(params, Touched::read).optional()?)
    }

    fn statement(&self, sql: &str) -> Result<CachedStatement<'_>, JobFault> {
        Ok(self.conn.prepare_cached(sql)?)
    }
}

/// Whether an undelivered event of this order value is on disk, or may still come from a damaged file.
pub(super) fn has_undelivered(conn: &Connection, route: &str, order_value: &str) -> rusqlite::Result<bool> {
    conn.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM events WHERE route = ?1 AND order_value = ?2 AND class = 0
           AND order_value IS NOT NULL) OR EXISTS (SELECT 1 FROM meta WHERE key = 'salvaging' AND value = 1)",
    )?
    .query_row([route, order_value], |row| row.get(0))
}

/// When the oldest undelivered event of a route was received.
pub(super) fn oldest(conn: &Connection, route: &str) -> rusqlite::Result<Option<Timestamp>> {
    let millis: Option<i64> = conn
        .prepare_cached("SELECT min(received_at) FROM events WHERE route = ?1 AND class = 0")?
        .query_row([route], |row| row.get(0))?;
    Ok(millis.map(Timestamp::from_millis))
}

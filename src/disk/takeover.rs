//! The statements of a salvage: how a row of a damaged database comes into the fresh one. Where rows come from and when
//! is `salvage.rs`'s.

use std::sync::Arc;

use rusqlite::types::Value;
use rusqlite::{OptionalExtension, params, params_from_iter};

use super::books::{Class, Way};
use super::carve::Row;
use super::fault::JobFault;
use super::job::Tx;
use super::marks::MarkKind;
use super::meta::{self, Progress};
use super::packed::{Entry, Known};
use super::salvage::Salvaged;
use crate::domain::key::EventKey;
use crate::domain::time::Timestamp;

/// Whether a step was the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum More {
    Perhaps,
    No,
}

/// Added to the state of an event that waits for its payload.
const WAITING: i64 = 10;

/// Places of the columns of `events`.
const STATE: usize = 4;
const CLASS: usize = 5;
const POSSIBLE_DUPLICATE: usize = 8;

/// A mark as version 1 wrote it: slot, fingerprint, route, kind, end.
fn old_mark(values: &[Value]) -> Option<Entry> {
    let [Value::Blob(slot), Value::Blob(fingerprint), _, Value::Integer(kind), Value::Integer(expires_at)] = values
    else {
        return None;
    };
    let key = EventKey { slot: slot.as_slice().try_into().ok()?, fingerprint: fingerprint.as_slice().try_into().ok()? };
    let kind = if *kind == 0 { MarkKind::Processed } else { MarkKind::Perhaps };
    Some((key, Known { kind, expires_at: Timestamp::from_millis(*expires_at) }))
}

impl Tx<'_> {
    /// Whether the disk has room for rows of so many bytes. Asked before the first of them is written.
    pub(super) fn has_room_for(&mut self, bytes: usize) -> Result<(), JobFault> {
        self.space.take_room(self.conn, u64::try_from(bytes).unwrap_or(u64::MAX))
    }

    /// Takes a row over, unless it is there already or nobody wants it any more.
    pub(super) fn take_over(&mut self, row: &Row, progress: &mut Progress, now: Timestamp) -> Result<(), JobFault> {
        match row {
            Row::Mark(values) => {
                self.take_over_marks(old_mark(values).as_slice(), progress, now);
                Ok(())
            }
            Row::Marks(marks) => {
                self.take_over_marks(marks, progress, now);
                Ok(())
            }
            Row::Event(seq, values) => self.take_over_event(*seq, values.clone(), progress),
            Row::Payload(seq, values) => self.take_over_payload(*seq, values, progress),
        }
    }

    /// Marks; "perhaps" gives way to "processed" where they are read.
    fn take_over_marks(&mut self, marks: &[Entry], progress: &mut Progress, now: Timestamp) {
        for (key, known) in marks.iter().filter(|(_, known)| known.expires_at > now) {
            self.draft.put_mark(*key, *known);
            progress.marks += 1;
        }
    }

    /// An event, which waits for its payload. Whatever its state was, nobody knows whether it was sent since.
    fn take_over_event(&mut self, seq: i64, mut values: Vec<Value>, progress: &mut Progress) -> Result<(), JobFault> {
        let state = match values.get(STATE) {
            // Taken over once before, by a salvage that was cut short.
            Some(Value::Integer(state)) if *state >= WAITING => *state,
            Some(Value::Integer(state)) => *state + WAITING,
            Some(_) | None => return Ok(()),
        };
        for (at, value) in [(0, seq), (STATE, state), (CLASS, Class::Damaged.code()), (POSSIBLE_DUPLICATE, 1)] {
            if let Some(slot) = values.get_mut(at) {
                *slot = Value::Integer(value);
            }
        }
        let touched = self
            .conn
            .prepare_cached(
                "INSERT OR IGNORE INTO events SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16,
                   ?17, ?18, ?19, ?20 WHERE NOT EXISTS (SELECT 1 FROM salvage_settled WHERE id = ?2)
                 RETURNING route, size, received_at",
            )?
            .query_row(params_from_iter(values), |row| {
                Ok((row.get::<_, Arc<str>>(0)?, row.get::<_, u64>(1)?, Timestamp::from_millis(row.get(2)?)))
            })
            .optional()?;
        if let Some((route, size, received_at)) = touched {
            self.note(Way::In, Class::Damaged, &route, size, received_at);
            progress.waiting += 1;
        }
        Ok(())
    }

    /// A payload, if its event waits for it; the event is then what it was. With an order value it stays behind.
    fn take_over_payload(&mut self, seq: i64, values: &[Value], progress: &mut Progress) -> Result<(), JobFault> {
        let freed = self
            .conn
            .prepare_cached(
                "UPDATE events SET state = CASE state - ?2 WHEN 3 THEN 3 WHEN 4 THEN 4
                     ELSE CASE WHEN order_value IS NULL THEN 0 ELSE 2 END END,
                   class = CASE state - ?2 WHEN 3 THEN 1 WHEN 4 THEN 2 ELSE 0 END
                 WHERE seq = ?1 AND state >= ?2 RETURNING route, class, size, received_at",
            )?
            .query_row(params![seq, WAITING], |row| {
                let class = Class::from_code(row.get(1)?);
                Ok((row.get::<_, Arc<str>>(0)?, class, row.get::<_, u64>(2)?, Timestamp::from_millis(row.get(3)?)))
            })
            .optional()?;
        let Some((route, class, size, received_at)) = freed else { return Ok(()) };
        let mut columns = values.to_vec();
        if let Some(first) = columns.first_mut() {
            *first = Value::Integer(seq);
        }
        self.conn
            .prepare_cached(
                "INSERT OR REPLACE INTO payloads (seq, method, target, authority, headers, body)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params_from_iter(columns))?;
        self.note(Way::Out, Class::Damaged, &route, size, received_at);
        self.note(Way::In, class, &route, size, received_at);
        progress.events += 1;
        progress.waiting = progress.waiting.saturating_sub(1);
        Ok(())
    }

    /// No payload comes any more: the next `most` of those that still wait are damaged for good. Yields whether there may be more;
    /// if not, order values are let go from now on.
    pub(super) fn end_waiting(&mut self, most: usize) -> Result<More, JobFault> {
        let mut ended = self.conn.prepare_cached(
            "UPDATE events SET state = 4, not_before = ?2 WHERE seq IN
               (SELECT seq FROM events WHERE class = 2 AND state >= ?1 LIMIT ?3)",
        )?;
        if ended.execute(params![WAITING, self.now.millis(), most])? == most {
            return Ok(More::Perhaps);
        }
        meta::set_salvaging(self.conn, Some(2))?;
        Ok(More::No)
    }

    /// Makes the oldest event due of each of the next `most` order values; yields the last of them, if there were any.
    pub(super) fn let_go(
        &mut self,
        after: &(String, String),
        most: usize,
    ) -> Result<Option<(String, String)>, JobFault> {
        let mut query = self.conn.prepare_cached(
            "SELECT route, order_value, min(seq) FROM events INDEXED BY events_order
             WHERE class = 0 AND order_value IS NOT NULL AND (route, order_value) > (?1, ?2)
             GROUP BY route, order_value LIMIT ?3",
        )?;
        let found = query.query_map(params![after.0, after.1, most], |row| {
            Ok(((row.get::<_, String>(0)?, row.get::<_, String>(1)?), row.get::<_, i64>(2)?))
        })?;
        let found = found.collect::<Result<Vec<_>, _>>()?;
        let mut due = self.conn.prepare_cached("UPDATE events SET state = 0 WHERE seq = ?1 AND state = 2")?;
        for (_, seq) in &found {
            due.execute([seq])?;
        }
        Ok(found.into_iter().next_back().map(|(value, _)| value))
    }

    /// The salvage has ended. What was settled meanwhile is forgotten when no file is left that could bring it back.
    pub(super) fn end_salvage(&mut self, all: Salvaged) -> Result<(), JobFault> {
        if all == Salvaged::Yes {
            self.conn.execute("DELETE FROM salvage_settled", [])?;
        }
        Ok(meta::set_salvaging(self.conn, None)?)
    }

    /// Remembers that an event was delivered that is not here: a salvage must not bring it back.
    pub(super) fn settled_elsewhere(&mut self, id: [u8; 16]) -> Result<(), JobFault> {
        if meta::is_salvaging(self.conn)? {
            self.conn.prepare_cached("INSERT OR IGNORE INTO salvage_settled (id) VALUES (?1)")?.execute(params![id])?;
        }
        Ok(())
    }
}

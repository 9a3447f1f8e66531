//! Events on the disk: the statements that read them. None scans what it does not return, but for filters that no
//! index serves; those end at the deadline of the read.

use std::sync::Arc;

use bytes::Bytes;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};

use super::books::{Class, RouteTotals, Totals};
use super::fault::JobFault;
use super::readers::Rx;
use super::records;
use crate::domain::time::Timestamp;

/// A row of `events`, as it is stored.
#[derive(Clone, Debug)]
pub struct EventRow {
    /// Order of acknowledgement.
    pub seq: i64,
    /// Its name.
    pub id: [u8; 16],
    /// Its route.
    pub route: Arc<str>,
    /// Slot and fingerprint.
    pub key: [u8; 32],
    /// See `schema.rs`.
    pub state: i64,
    /// Not due before this moment.
    pub not_before: Timestamp,
    /// Attempts made.
    pub attempts: u32,
    /// Whether an earlier sending may have been processed.
    pub possible_duplicate: bool,
    /// Whether an operator asked for it.
    pub replay: bool,
    /// Why it is dead.
    pub reason: Option<String>,
    /// What became of the last attempt.
    pub last_error: String,
    /// When it was received.
    pub received_at: Timestamp,
    /// When it happened.
    pub signed_at: Option<Timestamp>,
    /// Its type.
    pub event_type: Option<String>,
    /// Its order value.
    pub order_value: Option<String>,
    /// Length of the body.
    pub body_bytes: u64,
    /// SHA-256 of the body.
    pub body_sha256: [u8; 32],
    /// SHA-256 of the record.
    pub digest: [u8; 32],
}

/// A row of `payloads`, as it is stored.
#[derive(Clone, Debug)]
pub struct PayloadRow {
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// The `Host`.
    pub authority: String,
    /// The headers, encoded.
    pub headers: Vec<u8>,
    /// The body.
    pub body: Bytes,
}

/// Which events are meant; what is `None` or empty does not restrict.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// One of these states, by their numbers.
    pub states: Vec<i64>,
    /// Of this route.
    pub route: Option<String>,
    /// Dead for this reason.
    pub reason: Option<String>,
    /// Received at this moment or later.
    pub since: Option<Timestamp>,
    /// Received before this moment.
    pub until: Option<Timestamp>,
    /// Dead, or set aside, at this moment already.
    pub dead_by: Option<Timestamp>,
    /// With one of these names.
    pub ids: Vec<[u8; 16]>,
    /// With a name after this one.
    pub after: Option<[u8; 16]>,
}

const EVENT: &str = "e.seq, e.id, e.route, e.key, e.state, e.not_before, e.attempts, e.possible_duplicate, e.replay,
  e.reason, e.last_error, e.received_at, e.signed_at, e.event_type, e.order_value, e.body_bytes, e.body_sha256, e.digest";

impl EventRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            seq: row.get(0)?,
            id: row.get(1)?,
            route: row.get(2)?,
            key: row.get(3)?,
            state: row.get(4)?,
            not_before: Timestamp::from_millis(row.get(5)?),
            attempts: row.get(6)?,
            possible_duplicate: row.get(7)?,
            replay: row.get(8)?,
            reason: row.get(9)?,
            last_error: row.get(10)?,
            received_at: Timestamp::from_millis(row.get(11)?),
            signed_at: row.get::<_, Option<i64>>(12)?.map(Timestamp::from_millis),
            event_type: row.get(13)?,
            order_value: row.get(14)?,
            body_bytes: row.get(15)?,
            body_sha256: row.get(16)?,
            digest: row.get(17)?,
        })
    }
}

impl PayloadRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            method: row.get(18)?,
            target: row.get(19)?,
            authority: row.get(20)?,
            headers: row.get(21)?,
            body: Bytes::from(row.get::<_, Vec<u8>>(22)?),
        })
    }
}

impl Rx<'_> {
    /// Names of events of a route that are due, the longest due first, and when the next one will be.
    pub fn due(
        &self,
        route: &str,
        now: Timestamp,
        limit: usize,
    ) -> Result<(Vec<[u8; 16]>, Option<Timestamp>), JobFault> {
        // No bound in the statement: SQLite would compile it anew for every other one.
        let mut query = self.conn.prepare_cached(
            "SELECT id FROM events INDEXED BY events_due WHERE route = ?1 AND state = 0 AND not_before <= ?2
             ORDER BY not_before, id",
        )?;
        let found = query.query_map(params![route, now.millis()], |row| row.get(0))?;
        let ids = found.take(limit).collect::<Result<_, _>>()?;
        let next: Option<i64> = self
            .conn
            .prepare_cached(
                "SELECT not_before FROM events INDEXED BY events_due WHERE route = ?1 AND state = 0 AND not_before > ?2
                 ORDER BY not_before LIMIT 1",
            )?
            .query_row(params![route, now.millis()], |row| row.get(0))
            .optional()?;
        Ok((ids, next.map(Timestamp::from_millis)))
    }

    /// One event with everything it carries. A record without its payload is damaged.
    pub fn load(&self, id: [u8; 16]) -> Result<Option<(EventRow, PayloadRow)>, JobFault> {
        let sql = format!(
            "SELECT {EVENT}, p.method, p.target, p.authority, p.headers, p.body
             FROM events AS e LEFT JOIN payloads AS p ON p.seq = e.seq WHERE e.id = ?1"
        );
        let mut query = self.conn.prepare_cached(&sql)?;
        let both = |row: &Row<'_>| Ok((EventRow::read(row)?, PayloadRow::read(row)?));
        Ok(query.query_row(params![id], both).optional()?)
    }

    /// That no index names an event as due which was looked for in vain: if one does, the file is damaged. Looks through
    /// all that is due.
    pub fn is_not_due(&self, id: [u8; 16]) -> Result<(), JobFault> {
        let mut query = self
            .conn
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM events INDEXED BY events_due WHERE state = 0 AND id = ?1)")?;
        if query.query_row([&id[..]], |row| row.get(0))? {
            return Err(JobFault::Damaged("an event is named as due that is not there".to_owned()));
        }
        Ok(())
    }

    /// Whether an undelivered event of this order value is on disk.
    pub fn has_undelivered(&self, route: &str, order_value: &str) -> Result<bool, JobFault> {
        Ok(records::has_undelivered(self.conn, route, order_value)?)
    }

    /// Events in the order of their names, which is that of their reception.
    pub fn list(&self, selection: &Selection, limit: usize) -> Result<Vec<EventRow>, JobFault> {
        let (condition, mut values) = selection.condition();
        values.push(Value::Integer(i64::try_from(limit).unwrap_or(i64::MAX)));
        let sql = format!("SELECT {EVENT} FROM events AS e WHERE {condition} ORDER BY e.id LIMIT ?");
        let mut query = self.conn.prepare_cached(&sql)?;
        let rows = query.query_map(params_from_iter(values), EventRow::read)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Counts everything.
    pub fn totals(&self) -> Result<Totals, JobFault> {
        Ok(totals(self.conn, 0)?)
    }

    /// Pages of 4 KiB that the database has.
    pub fn count_pages(&self) -> Result<u64, JobFault> {
        Ok(self.conn.query_row("PRAGMA page_count", [], |row| row.get(0))?)
    }

    /// How many events there are of these.
    pub fn count(&self, selection: &Selection) -> Result<u64, JobFault> {
        let (condition, values) = selection.condition();
        let sql = count_sql(&condition);
        Ok(self.conn.prepare_cached(&sql)?.query_row(params_from_iter(values), |row| row.get(0))?)
    }
}

impl Selection {
    fn condition(&self) -> (String, Vec<Value>) {
        let mut terms = vec!["1".to_owned()];
        let mut values = Vec::new();
        // The words of the partial indexes.
        if self.states == [3] {
            terms.push("e.class = 1".to_owned());
        } else if self.states == [4] {
            terms.push("e.class = 2".to_owned());
        } else if self.states == [0, 1, 2] {
            terms.push("e.class = 0".to_owned());
        } else if !self.states.is_empty() {
            let numbers: Vec<String> = self.states.iter().map(ToString::to_string).collect();
            terms.push(format!("e.state IN ({})", numbers.join(", ")));
        }
        let mut with = |term: &str, value: Value| {
            terms.push(term.to_owned());
            values.push(value);
        };
        if let Some(route) = &self.route {
            with("+e.route = ?", Value::Text(route.clone()));
        }
        if let Some(reason) = &self.reason {
            with("e.reason = ?", Value::Text(reason.clone()));
        }
        if let Some(since) = self.since {
            with("e.received_at >= ?", Value::Integer(since.millis()));
        }
        if let Some(until) = self.until {
            with("e.received_at < ?", Value::Integer(until.millis()));
        }
        if let Some(by) = self.dead_by {
            with("e.not_before <= ?", Value::Integer(by.millis()));
        }
        if let Some(after) = self.after {
            with("e.id > ?", Value::Blob(after.to_vec()));
        }
        if !self.ids.is_empty() {
            terms.push(format!("e.id IN ({})", vec!["?"; self.ids.len()].join(", ")));
            values.extend(self.ids.iter().map(|id| Value::Blob(id.to_vec())));
        }
        (terms.join(" AND "), values)
    }
}

/// A count has no order to keep: a route is looked up where it helps a list least.
fn count_sql(condition: &str) -> String {
    format!("SELECT count(*) FROM events AS e WHERE {}", condition.replace("+e.route", "e.route"))
}

/// Counts everything, from the covering index alone.
pub(super) fn totals(conn: &Connection, capacity_bytes: u64) -> rusqlite::Result<Totals> {
    let mut totals = Totals { capacity_bytes, ..Totals::default() };
    let mut query = conn.prepare(
        "SELECT route, class, count(*), sum(size), min(received_at) FROM events INDEXED BY events_totals
         GROUP BY route, class",
    )?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let route: &mut RouteTotals = totals.routes.entry(row.get(0)?).or_default();
        let (count, bytes): (u64, u64) = (row.get(2)?, row.get(3)?);
        match Class::from_code(row.get(1)?) {
            Class::Undelivered => {
                route.pending = count;
                route.oldest_pending = Some(Timestamp::from_millis(row.get(4)?));
            }
            Class::Dead => {
                route.dead = count;
                totals.dead_bytes += bytes;
            }
            Class::Damaged => route.damaged = count,
        }
        route.bytes += bytes;
        totals.bytes += bytes;
    }
    Ok(totals)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::records::PENDING;
    use crate::disk::schema;

    /// What `SQLite` would do, one step a line.
    fn plan(conn: &Connection, sql: &str) -> String {
        let mut query = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let values = vec![Value::Null; query.parameter_count()];
        let steps = query.query_map(params_from_iter(values), |row| row.get::<_, String>(3)).unwrap();
        steps.collect::<Result<Vec<_>, _>>().unwrap().join("\n")
    }

    #[test]
    fn no_statement_of_a_delivery_looks_at_every_event() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("test.db");
        std::fs::write(&file, b"").unwrap();
        let (conn, _) = schema::open_writer(&file).unwrap();
        let statements = [
            "SELECT id FROM events INDEXED BY events_due WHERE route = ?1 AND state = 0 AND not_before <= ?2
             ORDER BY not_before, id"
                .to_owned(),
            "SELECT e.seq FROM events AS e LEFT JOIN payloads AS p ON p.seq = e.seq WHERE e.id = ?1".to_owned(),
            "SELECT EXISTS (SELECT 1 FROM events WHERE route = ?1 AND order_value = ?2 AND class = 0
             AND order_value IS NOT NULL)"
                .to_owned(),
            "SELECT min(received_at) FROM events WHERE route = ?1 AND class = 0".to_owned(),
            format!("UPDATE events SET state = {PENDING} WHERE id = ?1 AND class = 0"),
            format!("UPDATE events SET state = {PENDING}, possible_duplicate = 1 WHERE state = 1"),
            "UPDATE events SET state = 0 WHERE state = 2 AND seq = (SELECT min(seq) FROM events WHERE route = ?1
             AND order_value = ?2 AND class = 0 AND order_value IS NOT NULL)"
                .to_owned(),
            "SELECT EXISTS (SELECT 1 FROM events WHERE route = ?1 AND order_value = ?2 AND class = 0
             AND order_value IS NOT NULL) OR EXISTS (SELECT 1 FROM meta WHERE key = 'salvaging' AND value = 1)"
                .to_owned(),
            "SELECT route, order_value, min(seq) FROM events INDEXED BY events_order
             WHERE class = 0 AND order_value IS NOT NULL AND (route, order_value) > (?1, ?2)
             GROUP BY route, order_value LIMIT ?3"
                .to_owned(),
            "DELETE FROM marks WHERE (slot, fingerprint) IN
             (SELECT slot, fingerprint FROM marks WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2)"
                .to_owned(),
            format!("SELECT {EVENT} FROM events AS e WHERE 1 AND e.class = 1 AND e.id > ? ORDER BY e.id LIMIT ?"),
            format!("SELECT {EVENT} FROM events AS e WHERE 1 AND e.class = 2 AND e.id > ? ORDER BY e.id LIMIT ?"),
            "SELECT id FROM events INDEXED BY events_id WHERE id > ?1 ORDER BY id LIMIT ?2".to_owned(),
            format!("SELECT {EVENT} FROM events AS e WHERE 1 AND +e.route = ? AND e.id > ? ORDER BY e.id LIMIT ?"),
        ];
        for statement in statements {
            let plan = plan(&conn, &statement);
            let scans = plan.lines().any(|step| step.starts_with("SCAN ") && step != "SCAN CONSTANT ROW");
            assert!(plan.contains("SEARCH") && !scans, "{statement}\n{plan}");
            assert!(!plan.contains("TEMP B-TREE FOR ORDER BY"), "{statement}\n{plan}");
        }
        let by_class = |states: &[i64], route: Option<&str>| {
            let (states, route) = (states.to_vec(), route.map(str::to_owned));
            let selection = Selection { states, route, since: Some(Timestamp::from_millis(0)), ..Selection::default() };
            plan(&conn, &count_sql(&selection.condition().0))
        };
        for states in [&[0, 1, 2][..], &[3], &[4]] {
            let of_route = by_class(states, Some("veedeo"));
            assert!(
                of_route.starts_with("SEARCH e USING COVERING INDEX events_totals (route=? AND class=?"),
                "{of_route}"
            );
        }
        assert_eq!(by_class(&[0, 1, 2], None), "SCAN e USING COVERING INDEX events_totals");
        let totals = plan(
            &conn,
            "SELECT route, class, count(*), sum(size), min(received_at) FROM events
            INDEXED BY events_totals GROUP BY route, class",
        );
        assert_eq!(totals, "SCAN events USING COVERING INDEX events_totals");
    }
}

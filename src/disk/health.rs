//! The writer's connection, and what becomes of it when the disk fails.
//!
//! First failure: the connection is opened anew and the write-ahead log is copied into the database and emptied, so
//! that no page an fsync failed on is trusted again. Second failure within [`FRAGILE`]: the spool counts as failed,
//! every job is refused at once, and every [`PROBE_EVERY`] a probe tries the whole way again. So it recovers by
//! itself, and meanwhile senders keep their events.

use std::path::PathBuf;
use std::time::Duration;

use rusqlite::Connection;
use tokio::time::Instant;

use super::fault::{DiskFault, JobFault};
use super::keeper::LogWatch;
use super::schema::{self, Emptied};
use super::{damage, meta, open};
use crate::domain::time::Timestamp;
use crate::telemetry::Metrics;

/// How long a mended connection is on trial.
const FRAGILE: Duration = Duration::from_secs(60);
/// How often a failed disk is tried again.
const PROBE_EVERY: Duration = Duration::from_secs(3);

/// The connection and the trust in it. Owned by the writer thread.
#[derive(Debug)]
pub(super) struct Health {
    file: PathBuf,
    watch: LogWatch,
    conn: Option<Connection>,
    /// The machine's name for this boot.
    boot: Option<String>,
    state: State,
    /// When a fresh file last took the place of a damaged one.
    replaced: Option<Instant>,
    /// A damaged file that was put aside and has no fresh one in its place yet.
    vacant: Option<PathBuf>,
}

#[derive(Debug)]
enum State {
    Well,
    Mended { since: Instant },
    Failed { probe_at: Instant, why: String },
}

impl Health {
    /// Takes over a connection that works.
    pub(super) fn new(
        file: PathBuf,
        mut conn: Connection,
        watch: LogWatch,
        boot: Option<String>,
    ) -> rusqlite::Result<Self> {
        watch.attach(&mut conn)?;
        Ok(Self { file, watch, conn: Some(conn), boot, state: State::Well, replaced: None, vacant: None })
    }

    /// The connection, or why there is none. Tries to mend a failed one when its time has come.
    pub(super) fn connection(&mut self, metrics: &Metrics) -> Result<&Connection, JobFault> {
        // Where there is no file to open, it is the writer's to put one there.
        if let (None, State::Failed { probe_at, .. }) = (&self.vacant, &self.state)
            && Instant::now() >= *probe_at
        {
            self.probe(metrics);
        }
        let why = match &self.state {
            State::Well | State::Mended { .. } => "the spool is closed",
            State::Failed { why, .. } => why,
        };
        self.conn.as_ref().ok_or_else(|| JobFault::Failed(why.to_owned()))
    }

    /// The connection failed in a way that leaves no trust in it.
    pub(super) fn hurt(&mut self, fault: &JobFault, metrics: &Metrics) {
        let on_trial = match &self.state {
            State::Well => false,
            State::Mended { since } => since.elapsed() < FRAGILE,
            State::Failed { .. } => true,
        };
        if on_trial {
            return self.give_up(&fault.to_string());
        }
        match self.reopen() {
            Ok(()) => {
                tracing::warn!(%fault, "the spool was opened anew after a failed commit");
                self.state = State::Mended { since: Instant::now() };
            }
            Err(error) => {
                metrics.spool_errors_total.with_label_values(&["recover"]).inc();
                self.give_up(&error.to_string());
            }
        }
    }

    /// Puts the damaged file aside and a fresh one in its place; `seq_floor` is the next event's number. Readers must
    /// have let go of it. A second time within [`FRAGILE`] the disk counts as failed instead: what damages every file
    /// is no file's damage.
    pub(super) fn replace(&mut self, what: &str, seq_floor: i64, now: Timestamp) -> Result<PathBuf, JobFault> {
        if let (None, State::Failed { why, .. }) = (&self.vacant, &self.state) {
            return Err(JobFault::Failed(why.clone()));
        }
        if self.vacant.is_none() && self.replaced.is_some_and(|when| when.elapsed() < FRAGILE) {
            self.give_up(what);
            return Err(JobFault::Failed(format!("the spool has failed: {what}")));
        }
        self.conn = None;
        let known = self.has_failed();
        self.put_in_place(seq_floor, now).inspect_err(|fault| {
            if known {
                tracing::warn!(%fault, "no fresh spool can be made yet");
                self.wait(&fault.to_string());
            } else {
                self.give_up(&fault.to_string());
            }
        })
    }

    /// Whether a damaged file was put aside, nothing could be put in its place, and it is time to try that again.
    pub(super) fn is_to_fill(&self) -> bool {
        let due = !matches!(&self.state, State::Failed { probe_at, .. } if Instant::now() < *probe_at);
        self.vacant.is_some() && due
    }

    fn put_in_place(&mut self, seq_floor: i64, now: Timestamp) -> Result<PathBuf, JobFault> {
        let failed = |fault: DiskFault| JobFault::Failed(fault.to_string());
        let (aside, moved) = if let Some(aside) = self.vacant.clone() {
            (aside, damage::finish(&self.file))
        } else {
            let aside = damage::name_aside(&self.file, now);
            let moved = damage::put_aside_as(&self.file, &aside);
            (aside, moved)
        };
        // From here on nothing else may be opened under its name, whatever fails: it would be without its log, or not ours.
        self.vacant = Some(aside.clone()).filter(|aside| moved.is_ok() || damage::has_moved(&self.file, aside));
        moved.map_err(failed)?;
        open::create(&self.file).map_err(failed)?;
        let (mut conn, _) = schema::open_writer(&self.file)?;
        meta::take_place(&conn, seq_floor, now)?;
        meta::go_on(&conn, self.boot.clone())?;
        self.watch.attach(&mut conn)?;
        self.conn = Some(conn);
        self.replaced = Some(Instant::now());
        self.vacant = None;
        if self.has_failed() {
            self.state = State::Mended { since: Instant::now() };
        }
        Ok(aside)
    }

    /// Whether a damaged file was put aside, or has begun to be, and nothing is in its place.
    pub(super) const fn is_vacant(&self) -> bool {
        self.vacant.is_some()
    }

    /// Whether a failed disk waits to be tried again.
    pub(super) const fn has_failed(&self) -> bool {
        matches!(self.state, State::Failed { .. })
    }

    /// Closes the connection for good.
    pub(super) fn hang_up(&mut self) {
        self.conn = None;
    }

    fn give_up(&mut self, why: &str) {
        tracing::error!(why, file = %self.file.display(),
            "the spool has failed: events that need the disk are refused until it answers again; look at the disk");
        self.conn = None;
        self.wait(why);
    }

    fn wait(&mut self, why: &str) {
        let why = format!("the spool has failed: {why}");
        self.state = State::Failed { probe_at: Instant::now() + PROBE_EVERY, why };
    }

    fn probe(&mut self, metrics: &Metrics) {
        match self.reopen() {
            Ok(()) => {
                tracing::info!("the spool answers again");
                self.state = State::Mended { since: Instant::now() };
            }
            Err(error) => {
                metrics.spool_errors_total.with_label_values(&["recover"]).inc();
                tracing::warn!(%error, "the spool does not answer yet");
                self.wait(&error.to_string());
            }
        }
    }

    /// A new connection, an empty write-ahead log, and one synced commit to show that it works.
    fn reopen(&mut self) -> rusqlite::Result<()> {
        self.conn = None;
        let (mut conn, _) = schema::open_writer(&self.file)?;
        // A commit whose sync failed stands whole in the log, and would count after a kill: it is written over first.
        conn.pragma_update(None, "synchronous", "NORMAL")?;
        meta::probe(&conn)?;
        conn.pragma_update(None, "synchronous", "FULL")?;
        match schema::empty_log(&conn)? {
            Emptied::Yes => {}
            Emptied::InUse => {
                let busy = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
                return Err(rusqlite::Error::SqliteFailure(busy, Some("the write-ahead log is in use".to_owned())));
            }
        }
        meta::probe(&conn)?;
        self.watch.attach(&mut conn)?;
        self.conn = Some(conn);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_760_000_000);

    #[tokio::test(start_paused = true)]
    async fn nothing_is_opened_in_the_place_of_a_file_put_aside_until_a_fresh_one_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(schema::DATABASE_FILE);
        open::create(&file).unwrap();
        let (conn, _) = schema::open_writer(&file).unwrap();
        let metrics = Metrics::new(&[]).unwrap();
        let mut health = Health::new(file.clone(), conn, LogWatch::of_nobody(), None).unwrap();
        // What a failure between the two leaves.
        let aside = damage::put_aside(&file, NOW).unwrap();
        assert!(damage::has_moved(&file, &aside));
        health.vacant = Some(aside.clone());
        health.give_up("no handle was left");
        assert!(!health.is_to_fill(), "not at once");
        tokio::time::advance(PROBE_EVERY).await;
        // Whoever asks gets nothing, and a file that was begun is not taken for one of events.
        open::create(&file).unwrap();
        assert!(health.connection(&metrics).is_err());
        assert!(health.is_to_fill());
        assert_eq!(health.replace("it is to be filled", 77, NOW).unwrap(), aside);
        assert!(!health.is_to_fill() && !health.has_failed() && !damage::has_moved(&file, &aside));
        let conn = health.connection(&metrics).unwrap();
        assert!(meta::is_salvaging(conn).unwrap());
    }
}

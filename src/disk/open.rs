//! Opening the disk: the directory and its lock, the file or what is done about a damaged one, what the last run left
//! half-way, and the threads. It reads no event.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use rusqlite::Connection;
use tokio::sync::mpsc;

use super::books::Books;
use super::engine::Engine;
use super::fault::{DiskFault, JobFault, Trouble};
use super::health::Health;
use super::keeper::Nudge;
use super::lock::Lock;
use super::marks::Marks;
use super::merge::{IN_MEMORY, Order};
use super::meta::{self, Beside, Recovered};
use super::packed::Entry;
use super::readers::{READERS, Readers};
use super::salvage::Rescue;
use super::schema::{self, DATABASE_FILE, VERSION};
use super::space::{STARTING_BYTES, Space};
use super::writer::{IDLE, Writer};
use super::{Disk, DiskSettings, Inner, Opened, PreviousStop, QUEUE, Totals, damage, query, runs};
use crate::domain::time::Timestamp;
use crate::telemetry::Metrics;

/// What is known once the file is open.
struct Ready {
    conn: Connection,
    recovered: Recovered,
    totals: Totals,
    /// Marks that are in no run.
    unmerged: Vec<Entry>,
    order: Order,
    log_lost: damage::LogLost,
}

/// When and in which boot of the machine the run begins.
struct Start {
    now: Timestamp,
    boot: Option<String>,
    beside: Beside,
}

pub(super) fn open(
    engine: Engine,
    settings: DiskSettings,
    now: Timestamp,
    metrics: Arc<Metrics>,
) -> Result<Opened, DiskFault> {
    make_directory(&settings.path)?;
    let mut lock = Lock::take(&settings.path)?;
    let file = settings.path.join(DATABASE_FILE);
    damage::finish(&file)?;
    let beside = Beside { stop: lock.last_stop.clone(), has_log: damage::with_suffix(&file, "-wal").exists() };
    let ready = open_file(&file, &settings, &Start { now, boot: engine.boot(), beside }, &metrics)?;
    lock.note_run().map_err(|error| DiskFault::Io { what: "write beside", path: file.clone(), error })?;
    let Ready { conn, recovered, totals, unmerged, order, log_lost } = ready;
    report(&recovered, &totals);
    let marks = Arc::new(Marks::new(unmerged, engine.marks_in_memory(IN_MEMORY), metrics.clone()));
    marks.put_order(Some(order));
    let books = Arc::new(Books::new(totals, metrics.clone()));
    let commits = Arc::new(AtomicU64::new(0));
    let rescue = Arc::new(Rescue::new(engine.clone(), file.clone(), now, &recovered, metrics.clone()));
    let thread = |error| DiskFault::Io { what: "start a thread for", path: file.clone(), error };
    let hands = engine.hands("disk-reader", READERS).map_err(thread)?;
    let readers = Readers::new(engine.clone(), hands, rescue.clone(), metrics.clone())
        .map_err(|error| database("read", &file, &error))?;
    let (sender, jobs) = mpsc::channel(QUEUE);
    let nudge = Nudge::start(&engine, file.clone(), marks.clone(), rescue.clone(), metrics.clone()).map_err(thread)?;
    let health = Health::new(file.clone(), conn, nudge.watch(), engine.boot())
        .map_err(|error| database("watch", &file, &error))?;
    let writer = Writer {
        engine: engine.clone(),
        health,
        jobs,
        books: books.clone(),
        space: Space::new(settings),
        next_seq: recovered.next_seq,
        metrics: metrics.clone(),
        commits: commits.clone(),
        marks: marks.clone(),
        nudge,
        readers: readers.clone(),
        rescue: rescue.clone(),
        synced: None,
        unsure: Vec::new(),
        chores: true,
        last_lazy: None,
        pause: IDLE,
        made_room: None,
        lock,
    };
    // It ends by itself when it is told to, or when nobody is left who could ask anything.
    drop(engine.start("disk-writer", writer.run()).map_err(thread)?);
    let doubtful_through = recovered.doubtful_through;
    let inner =
        Inner { jobs: sender, readers, books, marks, metrics, commits, doubtful_through, rescue: rescue.clone() };
    let disk = Disk(Arc::new(inner));
    rescue.attach(&disk, log_lost);
    Ok(Opened { disk, previous: recovered.previous })
}

/// The file, ready; a damaged one is put aside, and what can be read of it comes over into a new one.
fn open_file(file: &Path, settings: &DiskSettings, start: &Start, metrics: &Metrics) -> Result<Ready, DiskFault> {
    create(file)?;
    let damaged = |what: &str| {
        metrics.spool_errors_total.with_label_values(&["damage"]).inc();
        tracing::error!(file = %file.display(), "{what}");
    };
    let log_lost = damage::check_log(file, start.now, &damaged)?;
    match ready(file, settings.max_bytes, start, log_lost) {
        Ok(ready) => Ok(ready),
        Err(Refused::Damaged(error)) => {
            let aside = damage::put_aside(file, start.now)?;
            damaged(&format!(
                "the database is damaged ({error}) and was put aside as {}; a fresh one is in its place, and what can be read comes over",
                aside.display()
            ));
            create(file)?;
            ready(file, settings.max_bytes, start, damage::LogLost::No).map_err(|refused| refused.into_fault(file))
        }
        Err(refused) => Err(refused.into_fault(file)),
    }
}

enum Refused {
    Damaged(String),
    TooNew(i64),
    Otherwise(String),
}

impl From<rusqlite::Error> for Refused {
    fn from(error: rusqlite::Error) -> Self {
        match Trouble::of_file(&error) {
            Trouble::Damage => Self::Damaged(error.to_string()),
            Trouble::NoRoom | Trouble::Busy | Trouble::Medium => Self::Otherwise(error.to_string()),
        }
    }
}

impl From<JobFault> for Refused {
    fn from(fault: JobFault) -> Self {
        match fault {
            JobFault::Damaged(what) => Self::Damaged(what),
            JobFault::Full(what) | JobFault::Failed(what) => Self::Otherwise(what),
        }
    }
}

impl Refused {
    fn into_fault(self, file: &Path) -> DiskFault {
        match self {
            Self::TooNew(found) => DiskFault::TooNew { path: file.to_owned(), found, known: VERSION },
            Self::Damaged(error) | Self::Otherwise(error) => failed("open", file, error),
        }
    }
}

fn ready(file: &Path, max_bytes: u64, start: &Start, log_lost: damage::LogLost) -> Result<Ready, Refused> {
    let (mut conn, version) = schema::open_writer(file)?;
    if version > VERSION {
        return Err(Refused::TooNew(version));
    }
    if log_lost == damage::LogLost::Yes {
        // What counts of it comes into the database; what does not is copied aside and would be found anew at every start.
        match schema::empty_log(&conn) {
            Err(error) if Trouble::of_file(&error) == Trouble::Damage => return Err(error.into()),
            Ok(_) | Err(_) => {}
        }
    }
    let unsalvaged = damage::unsalvaged(file).map_err(|fault| Refused::Otherwise(fault.to_string()))?;
    if !unsalvaged.is_empty() && !meta::is_salvaging(&conn)? {
        // A million events a millisecond: none of the damaged file has a higher number.
        meta::take_place(&conn, start.now.millis().saturating_mul(1 << 20), start.now)?;
    }
    let recovered = match meta::begin_run(&mut conn, start.now, start.boot.clone(), &start.beside) {
        Err(error) if Trouble::of_file(&error) == Trouble::NoRoom => {
            // A full disk: the write-ahead log of the last run may hold what room there is.
            schema::empty_log(&conn)?;
            meta::begin_run(&mut conn, start.now, start.boot.clone(), &start.beside)?
        }
        begun => begun?,
    };
    let totals = query::totals(&conn, max_bytes)?;
    let (unmerged, order) = (runs::batches(&conn)?, Order::read(&conn)?);
    Ok(Ready { conn, recovered, totals, unmerged, order, log_lost })
}

fn report(recovered: &Recovered, totals: &Totals) {
    match recovered.previous {
        PreviousStop::Unclean { .. } if recovered.restored => tracing::warn!(
            "the spool's file is not as the last run left it: a copy of it was put back, or that run had no time to end; what waits \
             is marked as a possible duplicate"
        ),
        PreviousStop::First | PreviousStop::Clean => {}
        PreviousStop::Unclean { .. } => tracing::warn!(
            attempts_cut_off = recovered.cut_off,
            "the last run on this spool did not stop cleanly; what it may have sent is marked as a possible duplicate"
        ),
    }
    if recovered.freed > 0 {
        tracing::warn!(
            events = recovered.freed,
            "the clock was ahead in the last run, and events were to wait by it: they are due now"
        );
    }
    tracing::info!(pending = totals.pending(), dead = totals.dead(), bytes = totals.bytes, "the spool is open");
}

fn make_directory(path: &Path) -> Result<(), DiskFault> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(path).map_err(|error| DiskFault::Io { what: "create the directory", path: path.to_owned(), error })
}

/// Makes the file, for us alone; `SQLite` gives its companions the same mode.
pub(super) fn create(file: &Path) -> Result<(), DiskFault> {
    let io = |what| move |error| DiskFault::Io { what, path: file.to_owned(), error };
    let made =
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(file).map_err(io("create"))?;
    made.set_permissions(Permissions::from_mode(0o600)).map_err(io("restrict"))?;
    for suffix in ["-wal", "-shm"] {
        let companion = damage::with_suffix(file, suffix);
        if companion.exists() {
            fs::set_permissions(companion, Permissions::from_mode(0o600)).map_err(io("restrict"))?;
        }
    }
    Ok(())
}

fn database(what: &'static str, file: &Path, error: &rusqlite::Error) -> DiskFault {
    failed(what, file, error.to_string())
}

/// What `SQLite` says of a full disk may be "disk I/O error": whether it is full is the file system's to say.
fn failed(what: &'static str, file: &Path, error: String) -> DiskFault {
    let path = file.to_owned();
    let system = file.parent().and_then(|directory| rustix::fs::statvfs(directory).ok());
    match system.map(|system| system.f_bavail.saturating_mul(system.f_frsize)) {
        Some(free) if free < STARTING_BYTES => DiskFault::NoRoom { path, free, error },
        Some(_) | None => DiskFault::Database { what, path, error },
    }
}

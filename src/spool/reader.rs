//! A spool that is only looked at, by a command: of a gateway that does not run, or beside one that does. Nothing of it
//! is on the way of an event, and nothing here changes the disk.

use std::io;
use std::path::Path;

use uuid::Uuid;

use super::{Filter, Listed, Spool, SpoolFault, State, Stored, list, load};
use crate::disk::{Brief, DiskFault, JobFault, Kept, ReadOnly, Rx, Totals};
use crate::domain::event::EventId;
use crate::domain::time::Timestamp;

/// A spool that is only looked at.
#[derive(Debug)]
pub struct SpoolReader(ReadOnly);

/// What a look at one record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// It is what was written.
    Whole,
    /// It is not.
    Damaged(Damage),
    /// It is not there any more: a gateway runs.
    Gone,
}

/// A record that is not what was written, or that nobody will deliver because it once was not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Its name.
    pub id: EventId,
    /// Its route, as far as that can be read.
    pub route: Option<String>,
    /// When it was received, as far as that can be read.
    pub received_at: Option<Timestamp>,
    /// Whether a gateway has seen it and set it aside.
    pub set_aside: bool,
    /// What is wrong with it.
    pub why: String,
}

impl Spool {
    /// Opens the spool of a gateway that does not run (or does), to look at it. Blocks.
    pub fn open_read_only(path: &Path) -> Result<SpoolReader, DiskFault> {
        Ok(SpoolReader(ReadOnly::open(path)?))
    }
}

impl SpoolReader {
    /// As [`Spool::list`].
    pub fn list(&self, filter: &Filter) -> Result<Vec<Listed>, SpoolFault> {
        Ok(self.0.read(|rx| list(rx, filter))?)
    }

    /// As [`Spool::count`].
    pub fn count(&self, filter: &Filter) -> Result<u64, SpoolFault> {
        Ok(self.0.read(|rx| rx.count(&filter.selection()))?)
    }

    /// As [`Spool::load`], but a damaged record is left as it is and said to be so.
    pub fn load(&self, id: EventId) -> Result<Option<Stored>, SpoolFault> {
        Ok(self.0.read(|rx| load(rx, id, self.0.doubtful_through()))?)
    }

    /// As [`Spool::totals`], but counted anew and without a capacity, which the file does not know.
    pub fn totals(&self) -> Result<Totals, SpoolFault> {
        Ok(self.0.read(totals)?)
    }

    /// How many marks of processed events the file holds.
    pub fn marks(&self) -> Result<u64, SpoolFault> {
        Ok(self.0.read(marks)?)
    }

    /// The spool's files: names and lengths in bytes.
    pub fn files(&self) -> io::Result<Vec<(String, u64)>> {
        self.0.files()
    }

    /// Damaged files that were put aside, and what became of them.
    pub fn kept(&self) -> io::Result<Vec<Kept>> {
        self.0.kept()
    }

    /// Names of records behind `after`, a page at a time, those of damaged ones too.
    pub fn names(&self, after: Option<EventId>, limit: usize) -> Result<Vec<EventId>, SpoolFault> {
        let names = self.0.read(|rx| rx.names(after.map(|id| id.0.into_bytes()), limit))?;
        Ok(names.into_iter().map(|id| EventId(Uuid::from_bytes(id))).collect())
    }

    /// Reads one record and compares it with its SHA-256.
    #[must_use]
    pub fn examine(&self, id: EventId) -> Record {
        let brief = self.0.read(|rx| rx.brief(id.0.into_bytes()));
        let set_aside = matches!(&brief, Ok(Some(brief)) if State::from_code(brief.state) == State::Damaged);
        let why = match (self.load(id), set_aside) {
            (Ok(Some(_)), true) => "it could not be read once and is set aside; now it can".to_owned(),
            (Ok(Some(_)), false) => return Record::Whole,
            (Ok(None), _) => return Record::Gone,
            (Err(fault), _) => fault.to_string(),
        };
        let brief: Option<Brief> = brief.ok().flatten();
        let (route, received_at) = brief.map(|brief| (brief.route, brief.received_at)).unzip();
        Record::Damaged(Damage { id, route, received_at, set_aside, why })
    }

    /// What is wrong with the file as a whole: nothing, if it is sound. Reads all of it, in one go.
    pub fn complaints(&self) -> Result<Vec<String>, SpoolFault> {
        Ok(self.0.read(complaints)?)
    }

    /// Commits that stand in the write-ahead log behind damage.
    pub fn lost_commits(&self) -> io::Result<u64> {
        self.0.lost_commits()
    }
}

fn totals(rx: &Rx<'_>) -> Result<Totals, JobFault> {
    rx.totals()
}

fn marks(rx: &Rx<'_>) -> Result<u64, JobFault> {
    rx.count_marks()
}

fn complaints(rx: &Rx<'_>) -> Result<Vec<String>, JobFault> {
    rx.complaints()
}

//! A job for the writer thread: work inside a transaction, and somebody who waits for the commit. It knows neither
//! queue nor thread.

use std::sync::Arc;

use rusqlite::Connection;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::books::{Change, Class, Way};
use super::fault::JobFault;
use super::packed::{Entry, Known};
use super::space::{Space, Used};
use crate::domain::key::EventKey;
use crate::domain::time::Timestamp;

/// How safe a job must be when it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    /// Committed some time; nobody waits. Survives a kill of the process, not of the machine.
    Lazy,
    /// Committed. Survives a kill of the process, not of the machine.
    Prompt,
    /// Committed and on stable storage, some milliseconds later: it shares the commit of others.
    Patient,
    /// Committed and on stable storage.
    Durable,
}

/// How the work of a job is undone that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Undo {
    /// By its savepoint. `SQLite` keeps a copy of every page that the job changes.
    Savepoint,
    /// It fails before it has written anything. If it fails half-way, which takes a disk that fails, the transaction does.
    Nothing,
}

/// What the writer thread runs. Exactly one `answer` follows, after the commit or the failure.
pub(super) trait Job: Send {
    /// Whether nobody waits for the answer any more. Such a job is not begun.
    fn is_abandoned(&self) -> bool;
    /// Does the work. An error undoes it and leaves the other jobs of the transaction alone.
    fn run(&mut self, tx: &mut Tx<'_>) -> Result<(), JobFault>;
    /// The runtime of who waits for the answer.
    fn asker(&self) -> Option<&Handle> {
        None
    }
    /// Tells what became of it.
    fn answer(&mut self, outcome: Result<(), JobFault>);
}

/// The open transaction, as a job sees it.
pub struct Tx<'a> {
    pub(super) conn: &'a Connection,
    pub(super) space: &'a mut Space,
    pub(super) next_seq: &'a mut i64,
    pub(super) draft: &'a mut Draft,
    /// When the transaction began.
    pub(super) now: Timestamp,
}

/// What the transaction would change in the books.
#[derive(Debug)]
pub(super) struct Draft {
    /// Bytes on the disk if the transaction were committed now.
    used: Used,
    changes: Vec<Change>,
    /// Marks that it writes, in the order of writing. They go to the disk together, at its end.
    marks: Vec<Entry>,
    /// Marks that it deletes, each with the number of marks written before.
    forgotten: Vec<(EventKey, usize)>,
}

/// A place in a draft to go back to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bookmark {
    used: Used,
    changes: usize,
    marks: usize,
    forgotten: usize,
}

impl Draft {
    pub(super) const fn new(used: Used) -> Self {
        Self { used, changes: Vec::new(), marks: Vec::new(), forgotten: Vec::new() }
    }

    pub(super) const fn used(&self) -> Used {
        self.used
    }

    pub(super) const fn bookmark(&self) -> Bookmark {
        let (changes, marks, forgotten) = (self.changes.len(), self.marks.len(), self.forgotten.len());
        Bookmark { used: self.used, changes, marks, forgotten }
    }

    pub(super) fn go_back(&mut self, to: Bookmark) {
        self.used = to.used;
        self.changes.truncate(to.changes);
        self.marks.truncate(to.marks);
        self.forgotten.truncate(to.forgotten);
    }

    pub(super) fn put_mark(&mut self, key: EventKey, known: Known) {
        self.marks.push((key, known));
    }

    pub(super) fn has_mark(&self, key: &EventKey) -> bool {
        self.marks.iter().any(|(other, _)| other == key)
    }

    pub(super) fn forget_mark(&mut self, key: EventKey) {
        self.forgotten.push((key, self.marks.len()));
    }

    /// Nothing more comes: what was deleted after it was written is not written.
    pub(super) fn seal(&mut self) {
        if self.forgotten.is_empty() {
            return;
        }
        let mut before = 0..;
        let forgotten = &self.forgotten;
        self.marks.retain(|(key, _)| {
            let at = before.next().unwrap_or(usize::MAX);
            !forgotten.iter().any(|(gone, until)| gone == key && at < *until)
        });
    }

    pub(super) fn marks(&self) -> &[Entry] {
        &self.marks
    }

    pub(super) fn forgotten(&self) -> Vec<EventKey> {
        self.forgotten.iter().map(|(key, _)| *key).collect()
    }

    pub(super) fn changes(&self) -> &[Change] {
        &self.changes
    }
}

impl Tx<'_> {
    pub(super) fn note(&mut self, way: Way, class: Class, route: &Arc<str>, size: u64, received_at: Timestamp) {
        let moved = |bytes: u64| match way {
            Way::In => bytes.saturating_add(size),
            Way::Out => bytes.saturating_sub(size),
        };
        self.draft.used.all = moved(self.draft.used.all);
        if class == Class::Dead {
            self.draft.used.dead = moved(self.draft.used.dead);
        }
        self.draft.changes.push(Change { route: route.clone(), class, size, received_at, way });
    }
}

/// A job whose caller waits for the answer.
pub(super) struct Awaited<T, F> {
    work: Option<F>,
    value: Option<T>,
    asker: Option<Handle>,
    reply: Option<oneshot::Sender<Result<T, JobFault>>>,
}

impl<T, F> Awaited<T, F>
where
    F: FnOnce(&mut Tx<'_>) -> Result<T, JobFault> + Send,
    T: Send,
{
    pub(super) fn new(work: F) -> (Self, oneshot::Receiver<Result<T, JobFault>>) {
        let (reply, answer) = oneshot::channel();
        (Self { work: Some(work), value: None, asker: Handle::try_current().ok(), reply: Some(reply) }, answer)
    }
}

impl<T, F> Job for Awaited<T, F>
where
    F: FnOnce(&mut Tx<'_>) -> Result<T, JobFault> + Send,
    T: Send,
{
    fn is_abandoned(&self) -> bool {
        self.reply.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    fn run(&mut self, tx: &mut Tx<'_>) -> Result<(), JobFault> {
        if let Some(work) = self.work.take() {
            self.value = Some(work(tx)?);
        }
        Ok(())
    }

    fn asker(&self) -> Option<&Handle> {
        self.asker.as_ref()
    }

    fn answer(&mut self, outcome: Result<(), JobFault>) {
        let value = self.value.take();
        let answer = outcome.and_then(|()| value.ok_or_else(|| JobFault::Failed("the job was not run".to_owned())));
        if let Some(reply) = self.reply.take()
            && reply.send(answer).is_err()
        {
            tracing::debug!("nobody waited for a job on the disk");
        }
    }
}

/// A job for which nobody waits.
pub(super) struct Unawaited<F> {
    work: Option<F>,
    what: &'static str,
}

impl<F> Unawaited<F>
where
    F: FnOnce(&mut Tx<'_>) -> Result<(), JobFault> + Send,
{
    pub(super) const fn new(what: &'static str, work: F) -> Self {
        Self { work: Some(work), what }
    }
}

impl<F> Job for Unawaited<F>
where
    F: FnOnce(&mut Tx<'_>) -> Result<(), JobFault> + Send,
{
    fn is_abandoned(&self) -> bool {
        false
    }

    fn run(&mut self, tx: &mut Tx<'_>) -> Result<(), JobFault> {
        self.work.take().map_or(Ok(()), |work| work(tx))
    }

    fn answer(&mut self, outcome: Result<(), JobFault>) {
        if let Err(fault) = outcome {
            tracing::warn!(what = self.what, %fault, "a job on the disk that nobody waits for was not done");
        }
    }
}

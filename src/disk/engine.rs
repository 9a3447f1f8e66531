//! What the disk runs on: threads of its own, or tasks of the caller's runtime, where time and the machine are the
//! caller's too. The work is the same code either way. It knows neither jobs nor `SQLite`.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::sync::oneshot;

/// What the writer, the keeper and the readers run on.
#[derive(Clone, Debug, Default)]
pub enum Engine {
    /// Threads: a sync stalls nobody but those who wait for it. For a gateway.
    #[default]
    Threads,
    /// Tasks of the runtime that opens the disk: what happens in which order is that runtime's alone. For a simulation.
    Tasks(Arc<dyn Surroundings>),
}

/// What a simulation decides in place of the machine.
#[async_trait]
pub trait Surroundings: Send + Sync + std::fmt::Debug {
    /// The machine's name for this boot; `None`: it has none, which counts as another boot.
    fn boot(&self) -> Option<String>;
    /// Pages in the write-ahead log at which it is brought into the database.
    fn checkpoint_pages(&self) -> i32;
    /// Lets the time pass that the disk takes at this moment.
    async fn pass(&self, moment: Moment);
}

/// A moment at which a real disk takes its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// A transaction is about to begin.
    Begin,
    /// Its jobs are done; it is not committed yet.
    Commit,
    /// It is committed, or has failed, and nobody has been told.
    Answer,
    /// A read is about to begin.
    Read,
    /// The keeper is about to do something.
    Keep,
}

/// Something that runs until it is told to end.
#[derive(Debug)]
pub(super) enum Worker {
    Thread(std::thread::JoinHandle<()>),
    Task(tokio::task::JoinHandle<()>),
}

/// Who does work that blocks: threads that live as long as this does, or whoever asks.
///
/// Not the runtime's blocking threads: those become dozens under load, and each keeps what it once took from the heap.
#[derive(Debug)]
pub(super) enum Hands {
    Threads(Sender<Work>),
    Askers,
}

type Work = Box<dyn FnOnce() + Send>;

impl Hands {
    /// Does `work` and yields what it gives; `None` if it panicked. If the future is dropped it is done all the same.
    pub(super) async fn have_done<T, F>(&self, work: F) -> Option<T>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let threads = match self {
            Self::Threads(threads) => threads,
            Self::Askers => return Some(work()),
        };
        let (done, answer) = oneshot::channel();
        let told = threads.send(Box::new(move || {
            // Who asked may have gone.
            drop(done.send(work()));
        }));
        told.ok()?;
        answer.await.ok()
    }
}

/// Does what comes in, until nobody is left who could send anything. Whoever is idle first waits with the lock in hand.
fn work_off(waiting: &Mutex<Receiver<Work>>) {
    loop {
        let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(work) = next else { return };
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            tracing::error!(
                "a fault of ours ended work on a thread of the disk, who asked for it is told that it failed, and the thread \
                 goes on: please report the lines before this one"
            );
        }
    }
}

impl Engine {
    /// `count` threads of this name, for work that blocks.
    pub(super) fn hands(&self, name: &str, count: usize) -> io::Result<Hands> {
        match self {
            Self::Threads => {
                let (sender, waiting) = channel();
                let waiting = Arc::new(Mutex::new(waiting));
                for _ in 0..count {
                    let waiting = waiting.clone();
                    // It ends by itself when the sender is dropped.
                    drop(std::thread::Builder::new().name(name.to_owned()).spawn(move || work_off(&waiting))?);
                }
                Ok(Hands::Threads(sender))
            }
            Self::Tasks(_) => Ok(Hands::Askers),
        }
    }

    /// Starts `work`.
    pub(super) fn start(&self, name: &str, work: impl Future<Output = ()> + Send + 'static) -> io::Result<Worker> {
        match self {
            Self::Threads => {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
                let thread = std::thread::Builder::new().name(name.to_owned());
                Ok(Worker::Thread(thread.spawn(move || runtime.block_on(work))?))
            }
            Self::Tasks(_) => Ok(Worker::Task(tokio::spawn(work))),
        }
    }

    /// Lets a simulation's time pass; a real disk takes its own.
    pub(super) async fn pass(&self, moment: Moment) {
        match self {
            Self::Threads => {}
            Self::Tasks(surroundings) => surroundings.pass(moment).await,
        }
    }

    /// Which boot of the machine this is.
    pub(super) fn boot(&self) -> Option<String> {
        match self {
            Self::Threads => {
                let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
                Some(text.trim().to_owned())
            }
            Self::Tasks(surroundings) => surroundings.boot(),
        }
    }

    /// Slots that the smallest filter of marks has room for: `usual`, unless a simulation wants to see it full.
    pub(super) const fn smallest_filter(&self, usual: u64) -> u64 {
        match self {
            Self::Threads => usual,
            Self::Tasks(_) => 8,
        }
    }

    /// Marks in memory and in batches at which they are merged: `usual`, unless a simulation wants it sooner.
    pub(super) const fn marks_in_memory(&self, usual: usize) -> usize {
        match self {
            Self::Threads => usual,
            Self::Tasks(_) => 8,
        }
    }

    /// Pages at which a checkpoint is due: `usual`, unless a simulation wants them sooner.
    pub(super) fn checkpoint_pages(&self, usual: i32) -> i32 {
        match self {
            Self::Threads => usual,
            Self::Tasks(surroundings) => surroundings.checkpoint_pages(),
        }
    }
}

impl Worker {
    /// Waits for its end. A thread's end is near when this is asked: it has been told.
    pub(super) async fn ended(self) {
        let sound = match self {
            Self::Thread(thread) => thread.join().is_ok(),
            Self::Task(task) => task.await.is_ok(),
        };
        if !sound {
            tracing::error!("a fault of ours ended a thread of the disk: please report the lines before this one");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[tokio::test]
    async fn work_that_panics_ends_alone() {
        let hands = Engine::Threads.hands("test", 1).unwrap();
        assert_eq!(hands.have_done(|| -> u8 { panic!("as meant") }).await, None);
        assert_eq!(hands.have_done(|| 7).await, Some(7), "its thread goes on");
    }

    #[tokio::test]
    async fn work_that_blocks_is_done_by_as_many_threads_as_were_asked_for() {
        let hands = Arc::new(Engine::Threads.hands("test", 4).unwrap());
        let one = |_| {
            let hands = hands.clone();
            tokio::spawn(async move { hands.have_done(|| std::thread::current().id()).await })
        };
        let mut threads = HashSet::new();
        for done in (0..1000).map(one).collect::<Vec<_>>() {
            threads.insert(done.await.unwrap().unwrap());
        }
        assert!(threads.len() <= 4, "{threads:?}");
    }
}

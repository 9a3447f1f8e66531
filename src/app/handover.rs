//! The hand-over to a new process (SIGQUIT): the new one gets the sockets that listen and waits; the old one answers
//! what it has, closes the spool and tells the new one to go on. Connections that come in between wait in the system's
//! queue and are refused by nobody; the spool is only ever open in one of the two.
//!
//! The two talk over a pair of sockets, of which the new process has one as its standard input:
//!
//! | from | says | meaning |
//! |---|---|---|
//! | old | a line of JSON and the sockets | here is where you listen |
//! | new | `ready` | my configuration is good, I have every address |
//! | old | `yours`, or the end of the line | the spool is closed |
//! | new | `serving` | the spool is open, I accept |
//!
//! A new process that ends or stays silent before `ready` changes nothing: the old one goes on.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::time::{Instant, timeout};

use super::listeners::{Handles, Place};
use crate::config::Program;

/// What tells a new process that it is to take over. Not for operators.
const TAKE_OVER: &str = "--take-over";

/// How long the new process may take for its configuration and its addresses.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// How long it may take to open the spool.
const SERVING_WITHIN: Duration = Duration::from_secs(30);

/// How long the new process waits to be handed something.
const HANDED_WITHIN: Duration = Duration::from_secs(10);

/// Sockets handed over at most; there are three.
const MOST: usize = 8;

/// The longest first line in bytes: some hundred are in use.
const LONGEST: usize = 4096;

const READY: &str = "ready";
const YOURS: &str = "yours";
const SERVING: &str = "serving";

/// Why there was no hand-over. The operator's doing, or the machine's.
#[derive(Debug, thiserror::Error)]
pub enum HandoverFault {
    /// The program could not be started, or not be spoken to.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// The new process did not say what it should have.
    #[error("the new process {0}: what it logged says why")]
    Silent(String),
    /// The process was started to take over, and there is nothing to take over.
    #[error("{TAKE_OVER} is for a process that the gateway starts itself on SIGQUIT: {0}")]
    Nothing(&'static str),
}

fn io_fault(what: &'static str) -> impl Fn(io::Error) -> HandoverFault {
    move |error| HandoverFault::Io { what, error }
}

/// The new process, seen from the old one. Ended if it is dropped before it was released.
pub(super) struct Successor {
    child: Option<Child>,
    line: BufReader<tokio::net::UnixStream>,
}

impl Successor {
    /// Starts `program` anew and waits until it is ready to go on from here.
    pub(super) async fn start(program: &Program, handles: &Handles) -> Result<Self, HandoverFault> {
        let (ours, theirs) = UnixStream::pair().map_err(io_fault("cannot make a pair of sockets"))?;
        let mut command = Command::new(&program.path);
        command.args(&program.arguments);
        if !program.arguments.iter().any(|argument| argument == TAKE_OVER) {
            command.arg(TAKE_OVER);
        }
        command.stdin(OwnedFd::from(theirs));
        let child = command.spawn().map_err(io_fault("the program cannot be started"))?;
        // The command holds a handle of the other end; the line would never end with it.
        drop(command);
        pass(&ours, handles).map_err(io_fault("the listeners cannot be handed over"))?;
        let line = ours.set_nonblocking(true).and_then(|()| tokio::net::UnixStream::from_std(ours));
        let line = BufReader::new(line.map_err(io_fault("cannot listen to the new process"))?);
        let mut successor = Self { child: Some(child), line };
        successor.hear(READY, READY_WITHIN).await?;
        Ok(successor)
    }

    /// Tells it that the spool is closed, and waits until it serves. From here on it lives by itself.
    pub(super) async fn release(mut self) -> Result<u32, HandoverFault> {
        let process = self.child.take().map_or(0, |child| child.id());
        let told = self.line.get_mut().write_all(format!("{YOURS}\n").as_bytes()).await;
        told.map_err(io_fault("the new process cannot be told to go on"))?;
        self.hear(SERVING, SERVING_WITHIN).await?;
        Ok(process)
    }

    /// Leaves it to itself: the spool is closed when this process has ended, and with that the line. Until then the line stays open,
    /// however long the end takes.
    pub(super) fn leave(mut self) -> u32 {
        let process = self.child.take().map_or(0, |child| child.id());
        if let Ok(line) = self.line.get_ref().as_fd().try_clone_to_owned() {
            // Closed by the system, behind the lock's file.
            let _until_the_end = line.into_raw_fd();
        }
        process
    }

    async fn hear(&mut self, word: &str, within: Duration) -> Result<(), HandoverFault> {
        let mut said = String::new();
        let mut line = (&mut self.line).take(64);
        match timeout(within, line.read_line(&mut said)).await {
            Ok(Ok(_)) if said.trim_end() == word => Ok(()),
            Ok(Ok(0)) => Err(HandoverFault::Silent(format!("ended before it was {word}"))),
            Ok(Ok(_)) => Err(HandoverFault::Silent(format!("said something else than {word:?}"))),
            Ok(Err(error)) => Err(HandoverFault::Io { what: "cannot hear the new process", error }),
            Err(_) => Err(HandoverFault::Silent(format!("was not {word} within {within:?}"))),
        }
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        if let Err(error) = child.kill().and_then(|()| child.wait()) {
            tracing::warn!(%error, "the new process could not be ended");
        }
    }
}

/// What a process that takes over was handed.
pub struct Inherited {
    line: UnixStream,
    pub(super) handles: Handles,
}

impl Inherited {
    /// Reads what the old process passes through the standard input, and leaves an empty one behind.
    pub fn from_standard_input() -> Result<Self, HandoverFault> {
        let input = io::stdin().as_fd().try_clone_to_owned().map_err(io_fault("cannot read the standard input"))?;
        if rustix::net::sockopt::socket_domain(&input).ok() != Some(rustix::net::AddressFamily::UNIX) {
            return Err(HandoverFault::Nothing("the standard input is no socket of such a process"));
        }
        let empty = std::fs::File::open("/dev/null").map_err(io_fault("cannot open /dev/null"))?;
        rustix::stdio::dup2_stdin(&empty)
            .map_err(|error| io_fault("cannot replace the standard input")(error.into()))?;
        let line = UnixStream::from(input);
        line.set_read_timeout(Some(HANDED_WITHIN)).map_err(io_fault("cannot listen to the old process"))?;
        let handles = receive(&line).map_err(io_fault("nothing was handed over"))?;
        Ok(Self { line, handles })
    }

    /// Says that everything is ready, and waits until the spool is closed. Yields how to say that it serves, and since
    /// when connections may have been waiting.
    ///
    /// Has no deadline of its own: the old process ends within its grace, and with it the line.
    pub(super) async fn wait(self) -> Result<(Announcement, Instant), HandoverFault> {
        let line = self.line;
        let line = line.set_nonblocking(true).and_then(|()| tokio::net::UnixStream::from_std(line));
        let mut line = BufReader::new(line.map_err(io_fault("cannot speak to the old process"))?);
        let waiting_since = Instant::now();
        let told = line.get_mut().write_all(format!("{READY}\n").as_bytes()).await;
        told.map_err(io_fault("cannot speak to the old process"))?;
        let mut said = String::new();
        let heard = (&mut line).take(64).read_line(&mut said).await;
        if heard.is_err() || said.trim_end() != YOURS {
            tracing::warn!("the old process ended before it had handed the spool over");
        }
        Ok((Announcement(line), waiting_since))
    }
}

/// The new process's last word to the old one.
pub(super) struct Announcement(BufReader<tokio::net::UnixStream>);

impl Announcement {
    /// Says that it serves. Nobody may be listening any more.
    pub(super) async fn serving(mut self) {
        if let Err(error) = self.0.get_mut().write_all(format!("{SERVING}\n").as_bytes()).await {
            tracing::debug!(%error, "the old process has ended already");
        }
    }
}

fn pass(line: &UnixStream, handles: &Handles) -> io::Result<()> {
    let places: Vec<&Place> = handles.iter().map(|(place, _)| place).collect();
    let mut text = serde_json::to_vec(&places)?;
    text.push(b'\n');
    let sockets: Vec<_> = handles.iter().map(|(_, handle)| handle.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&sockets)) {
        return Err(io::Error::other("too many listeners"));
    }
    let sent = sendmsg(line, &[IoSlice::new(&text)], &mut control, SendFlags::NOSIGNAL)?;
    if sent == text.len() { Ok(()) } else { Err(io::Error::other("the line was cut")) }
}

fn receive(line: &UnixStream) -> io::Result<Handles> {
    let mut text = vec![0; LONGEST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(line, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut sockets: Vec<OwnedFd> = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = message {
            sockets.extend(some);
        }
    }
    let places: Vec<Place> = serde_json::from_slice(text.get(..received.bytes).unwrap_or_default())?;
    if places.len() != sockets.len() {
        return Err(io::Error::other("the listeners and their names do not match"));
    }
    Ok(places.into_iter().zip(sockets).collect())
}

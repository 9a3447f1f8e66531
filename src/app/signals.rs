//! What a signal means while the gateway runs.

use std::pin::pin;

use tokio::signal::unix::{Signal, SignalKind, signal};

pub(super) use sd_notify::NotifyState as State;

use super::handover::{HandoverFault, Successor};
use super::{Running, SpoolLeft, StartFault, Stop, Stopped};
use crate::config::Program;

/// Serves until a signal ends it; SIGHUP reloads.
pub(super) async fn serve_until_told(mut signals: Signals, running: &Running, program: &Program) -> Stopped {
    let (how, successor) = loop {
        tokio::select! {
            _ = signals.terminate.recv() => break (Stop::Drain, None),
            _ = signals.interrupt.recv() => break (Stop::Quick, None),
            _ = signals.hangup.recv() => {
                if let Some(how) = reloaded(&mut signals, running).await {
                    break (how, None);
                }
            }
            _ = signals.quit.recv() => {
                if std::process::id() == 1 {
                    tracing::warn!("the first process of a container cannot be replaced: this one stops");
                    break (Stop::Drain, None);
                }
                tracing::info!(program = %program.path.display(), "a new process is started to take over");
                match prepared(&mut signals, running, program).await {
                    Prepared::Ready(successor) => break (Stop::HandOver, Some(successor)),
                    Prepared::Not(fault) => tracing::error!(%fault, "not handed over: this process goes on"),
                    Prepared::Told(how) => break (how, None),
                }
            }
        }
    };
    tracing::info!(how = ?how, "stopping");
    if successor.is_none() {
        tell_supervisor(&[State::Stopping]);
    }
    let mut successor = successor;
    let mut stopping = pin!(running.stop(how));
    let spool = loop {
        tokio::select! {
            spool = &mut stopping => break spool,
            () = signals.again() => {
                if let Some(successor) = successor.take() {
                    // The first word to end: nobody is to go on, and what runs here still ends in its time.
                    tracing::info!("nothing is handed over: this process ends");
                    tell_supervisor(&[State::Stopping]);
                    drop(successor);
                    continue;
                }
                tracing::warn!("told twice: what was still running is cut off");
                return Stopped::CutShort;
            }
        }
    };
    tracing::info!("stopped");
    succeeded(successor, spool).await
}

/// Reloads. A file that does not come, as one of a network that hangs, keeps nobody from stopping the process: then how.
async fn reloaded(signals: &mut Signals, running: &Running) -> Option<Stop> {
    tokio::select! {
        biased;
        _ = signals.terminate.recv() => Some(Stop::Drain),
        _ = signals.interrupt.recv() => Some(Stop::Quick),
        () = running.reload() => None,
    }
}

/// What became of preparing a new process.
enum Prepared {
    Ready(Successor),
    Not(HandoverFault),
    /// A signal ends this one, whatever becomes of the other.
    Told(Stop),
}

/// Has a new process made ready. A further SIGQUIT asks for what is being done.
async fn prepared(signals: &mut Signals, running: &Running, program: &Program) -> Prepared {
    let mut preparing = pin!(running.successor(program));
    loop {
        tokio::select! {
            biased;
            _ = signals.terminate.recv() => return Prepared::Told(Stop::Drain),
            _ = signals.interrupt.recv() => return Prepared::Told(Stop::Quick),
            _ = signals.quit.recv() => tracing::info!("a new process is being started already"),
            prepared = &mut preparing => return match prepared {
                Ok(successor) => Prepared::Ready(successor),
                Err(fault) => Prepared::Not(fault),
            },
        }
    }
}

async fn succeeded(successor: Option<Successor>, spool: SpoolLeft) -> Stopped {
    let Some(successor) = successor else { return Stopped::Orderly };
    if spool == SpoolLeft::InUse {
        let process = successor.leave();
        tracing::warn!(process, "handed over to a process that goes on when this one has ended: the disk stalls");
        tell_supervisor(&[State::MainPid(process)]);
        return Stopped::Orderly;
    }
    match successor.release().await {
        Ok(process) => {
            tracing::info!(process, "handed over");
            Stopped::Orderly
        }
        Err(fault) => {
            tracing::error!(%fault, "handed over to a process that does not serve: start the gateway again");
            Stopped::Unsucceeded
        }
    }
}

/// Tells what started this process, if it wants to know (<https://www.freedesktop.org/software/systemd/man/sd_notify>).
pub(super) fn tell_supervisor(states: &[State<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the supervisor cannot be told of the gateway's state");
    }
}

/// The signals that mean something.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    quit: Signal,
}

impl Signals {
    /// From here on signals wait to be heard, and none has its default effect.
    pub(super) fn listen() -> Result<Self, StartFault> {
        let listen = |kind| signal(kind).map_err(|error| StartFault::machine("signals", error));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
            quit: listen(SignalKind::quit())?,
        })
    }

    /// Comes with a signal that ends the process.
    pub(super) async fn ended(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.quit.recv() => {}
        }
    }

    /// Comes with the next SIGTERM or SIGINT.
    async fn again(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

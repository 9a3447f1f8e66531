//! What a signal means while the gateway runs.

use tokio::signal::unix::{Signal, SignalKind, signal};

pub(super) use sd_notify::NotifyState as State;

use super::handover::Successor;
use super::{Running, StartFault, Stop, Stopped};
use crate::config::Program;

/// Serves until a signal ends it; SIGHUP reloads.
pub(super) async fn serve_until_told(mut signals: Signals, running: &Running, program: &Program) -> Stopped {
    let (how, successor) = loop {
        tokio::select! {
            _ = signals.terminate.recv() => break (Stop::Drain, None),
            _ = signals.interrupt.recv() => break (Stop::Quick, None),
            _ = signals.hangup.recv() => running.reload().await,
            _ = signals.quit.recv() => {
                if std::process::id() == 1 {
                    tracing::warn!("the first process of a container cannot be replaced: this one stops");
                    break (Stop::Drain, None);
                }
                tracing::info!(program = %program.path.display(), "a new process is started to take over");
                tokio::select! {
                    biased;
                    () = signals.ended() => break (Stop::Drain, None),
                    prepared = running.successor(program) => match prepared {
                        Ok(successor) => break (Stop::HandOver, Some(successor)),
                        Err(fault) => tracing::error!(%fault, "not handed over: this process goes on"),
                    },
                }
            }
        }
    };
    tracing::info!(how = ?how, "stopping");
    if successor.is_none() {
        tell_supervisor(&[State::Stopping]);
    }
    tokio::select! {
        () = running.stop(how) => {}
        () = signals.again() => {
            tracing::warn!("told twice: what was still running is cut off");
            return Stopped::CutShort;
        }
    }
    tracing::info!("stopped");
    succeeded(successor).await
}

async fn succeeded(successor: Option<Successor>) -> Stopped {
    let Some(successor) = successor else { return Stopped::Orderly };
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

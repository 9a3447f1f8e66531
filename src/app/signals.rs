//! What a signal means while the gateway runs.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Running, StartFault, Stop, Stopped};

/// Serves until a signal ends it; SIGHUP reloads.
pub(super) async fn serve_until_told(mut signals: Signals, running: &Running) -> Stopped {
    let how = loop {
        tokio::select! {
            _ = signals.terminate.recv() => break Stop::Drain,
            _ = signals.quit.recv() => break Stop::Drain,
            _ = signals.interrupt.recv() => break Stop::Quick,
            _ = signals.hangup.recv() => running.reload().await,
        }
    };
    tracing::info!(how = ?how, "stopping");
    tokio::select! {
        () = running.stop(how) => {
            tracing::info!("stopped");
            Stopped::Orderly
        }
        () = signals.again() => {
            tracing::warn!("told twice: what was still running is cut off");
            Stopped::CutShort
        }
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

    /// Comes with the next SIGTERM or SIGINT.
    async fn again(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

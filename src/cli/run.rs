//! `run` and `demo`: the configuration is loaded, the gateway does the rest.

use std::io;

use super::admin::wait_on_threads;
use super::args::{Demo, Run};
use super::{Context, Exit, Failure, Outcome};
use crate::app::{self, Inherited, StartFault, Stopped, Succession, limits};
use crate::clock::Clock;
use crate::config::{Environment, Program};
use crate::demo::{self, DemoFault, Length};

/// `hookgate run`.
pub(super) fn run(context: &Context, asked: Run) -> Outcome {
    // Before a secret is read; what the system refuses is said once there is a log.
    let _refused = limits::set();
    let program = Program::own().map_err(|error| Failure::failed(format!("cannot tell the own program: {error}")))?;
    let inherited = asked.take_over.then(Inherited::from_standard_input).transpose();
    let inherited = inherited.map_err(|fault| Failure::usage(fault.to_string()))?;
    let loaded = app::read(context.file.as_deref(), &context.environment).map_err(|faults| context.refused(&faults))?;
    let file = context.file.clone();
    // Secrets may have expired since: the moment is taken anew.
    let reread = move || app::read(file.as_deref(), &Environment::take(Clock::start().now()));
    match app::run(&loaded, reread, Succession { program, inherited }) {
        Ok(Stopped::Orderly | Stopped::CutShort) => Ok(Exit::Ok),
        Ok(Stopped::Unsucceeded) => Err(Failure::failed("handed over to a process that does not serve")),
        Err(fault @ (StartFault::Tls(_) | StartFault::Dedup(_))) => {
            Err(Failure::new(Exit::BadConfiguration, fault.to_string()))
        }
        // A damaged spool is set aside and the gateway starts: that is a line of the log and a metric, not a fault.
        Err(fault) => Err(Failure::failed(fault.to_string())),
    }
}

/// `hookgate demo`.
pub(super) fn demo(asked: Demo) -> Outcome {
    let length = if asked.once { Length::Once } else { Length::Stay };
    wait_on_threads(async move {
        match demo::play(length, io::stdout()).await {
            Ok(()) => Ok(Exit::Ok),
            Err(fault @ (DemoFault::ActsFailed { .. } | DemoFault::Setup(_))) => {
                Err(Failure::failed(fault.to_string()))
            }
        }
    })
}

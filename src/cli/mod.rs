//! The commands: what is typed, what is printed, how it ends. Each command is a file; what they share is here and in
//! `output`, `admin` and `settings`. No rule of the gateway is decided here.
//!
//! Data goes to stdout, talk to stderr. Every command ends with one of the codes of [`Exit`].

mod admin;
mod args;
mod bulk;
mod config;
mod curl;
mod dead;
mod dedup;
mod events;
mod explain;
mod explanation;
mod healthcheck;
mod many;
mod output;
mod papers;
mod providers;
mod reload;
mod run;
mod samples;
mod send;
mod settings;
mod spool;
mod status;
mod validate;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use self::args::{Arguments, Command};
use self::output::say;
use crate::clock::Clock;
use crate::config::Environment;

/// How a command ends; the numbers are part of the contract with scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It did what was asked.
    Ok,
    /// It did not.
    Failed,
    /// It was asked in a way that makes no sense.
    Usage,
    /// The request would be refused.
    Refused,
    /// The spool is damaged.
    Damaged,
    /// Whom it needed to ask did not answer.
    Unreachable,
    /// The configuration is not valid.
    BadConfiguration,
}

impl Exit {
    /// The process's exit code.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Refused => 3,
            Self::Damaged => 65,
            Self::Unreachable => 69,
            Self::BadConfiguration => 78,
        }
    }
}

/// A command that did not do what was asked, with the sentence for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Failure {
    exit: Exit,
    text: String,
}

impl Failure {
    fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self { exit, text: text.into() }
    }

    fn usage(text: impl Into<String>) -> Self {
        Self::new(Exit::Usage, text)
    }

    fn failed(text: impl Into<String>) -> Self {
        Self::new(Exit::Failed, text)
    }
}

type Outcome = Result<Exit, Failure>;

/// What every command is given: the environment, the time, and the configuration file that was named.
struct Context {
    environment: Environment,
    clock: Clock,
    file: Option<PathBuf>,
}

/// Reads the command line, does what it says, and ends with its code.
#[must_use]
pub fn main() -> ExitCode {
    let exit = match asked() {
        Ok(arguments) => begin(arguments),
        Err(error) => {
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Ok };
            // Nobody reads the help any more: nothing is left to say.
            let _printed = error.print();
            exit
        }
    };
    ExitCode::from(exit.code())
}

fn asked() -> Result<Arguments, clap::Error> {
    let command = Arguments::command().help_template(papers::help_template());
    Arguments::from_arg_matches(&command.try_get_matches()?)
}

fn begin(arguments: Arguments) -> Exit {
    let clock = Clock::start();
    let context = Context { environment: Environment::take(clock.now()), clock, file: arguments.config };
    let outcome = match arguments.command {
        _ if arguments.version => papers::version(),
        Some(command) => dispatch(&context, command),
        None => papers::help(),
    };
    match outcome {
        Ok(exit) => exit,
        Err(failure) => {
            if !failure.text.is_empty() {
                say(&format!("hookgate: {}", failure.text));
            }
            failure.exit
        }
    }
}

fn dispatch(context: &Context, command: Command) -> Outcome {
    match command {
        Command::Run(asked) => run::run(context, asked),
        Command::Demo(asked) => run::demo(asked),
        Command::Validate(asked) => validate::validate(context, &asked),
        Command::Config(asked) => config::config(context, asked),
        Command::Providers(asked) => providers::providers(asked),
        Command::Send(asked) => send::send(context, &asked),
        Command::Verify(asked) => verify::verify(context, &asked),
        Command::Explain(asked) => explain::explain(context, &asked),
        Command::Status(asked) => status::status(context, &asked),
        Command::Events(asked) => events::events(context, asked),
        Command::Replay(asked) => dead::replay(context, asked),
        Command::Dlq(asked) => dead::dlq(context, asked),
        Command::Spool(asked) => spool::spool(context, &asked),
        Command::Dedup(asked) => dedup::dedup(context, &asked),
        Command::Reload(asked) => reload::reload(context, &asked),
        Command::Healthcheck(asked) => healthcheck::healthcheck(context, &asked),
        Command::Completions { shell } => papers::completions(shell),
        Command::Man => papers::man(),
    }
}

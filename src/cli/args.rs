//! What can be typed. The sentences here are the help; what a command does is in its own file.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use super::many::{ActOnMany, FollowJob};

/// A gateway in front of any app that receives webhooks: it checks the signature on the raw body, refuses stale and
/// duplicate events, always answers the sender in time, and keeps events on disk while the app is down.
#[derive(Debug, Parser)]
#[command(name = "hookgate", disable_help_subcommand = true)]
pub(super) struct Arguments {
    /// Configuration file [else `HOOKGATE_CONFIG`, ./hookgate.toml, /etc/hookgate/hookgate.toml]
    #[arg(short, long, global = true, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Print the version
    #[arg(short = 'V', long)]
    pub(super) version: bool,
    #[command(subcommand)]
    pub(super) command: Option<Command>,
}

/// `run`
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Run {
    /// Take over from the process that started this one. SIGQUIT does it.
    #[arg(long, hide = true)]
    pub(super) take_over: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the gateway in the foreground; logs go to stderr
    Run(Run),
    /// See it work: a scripted app, scripted senders and the gateway in one process
    Demo(Demo),
    /// Check configuration files and say all that is wrong with them
    Validate(Validate),
    /// Write, show or describe a configuration
    Config(Config),
    /// The senders that are built in
    Providers(Providers),
    /// Send a signed test event
    Send(Send),
    /// Check captured requests against the configured routes, without a gateway
    Verify(Verify),
    /// Why a request was refused, and what would have matched
    Explain(Explain),
    /// What a running gateway holds, route by route
    Status(Status),
    /// What was received, and what became of it
    Events(Events),
    /// Deliver dead letters again
    Replay(Replay),
    /// Dead letters: events that the app rejected, or that could not be delivered
    Dlq(Dlq),
    /// The files that keep events: how much they hold, and whether it is what was written
    Spool(Spool),
    /// What the dedup store remembers of an event
    Dedup(Dedup),
    /// Let a running gateway read its configuration anew
    Reload(Reload),
    /// Ask whether a gateway is ready: exit 0 or 69
    Healthcheck(Healthcheck),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page
    Man,
}

#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Demo {
    /// Play the story and end: exit 0 if every act held, 1 if not
    #[arg(long)]
    pub(super) once: bool,
}

#[derive(Debug, Args)]
pub(super) struct Validate {
    /// Files to check [default: the file that `run` would take]
    #[arg(value_name = "FILE")]
    pub(super) files: Vec<PathBuf>,
    /// Do not look at the machine: spool directory, Redis
    #[arg(long)]
    pub(super) no_environment: bool,
    /// Warnings are faults
    #[arg(long)]
    pub(super) deny_warnings: bool,
    /// One JSON object a file
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Config {
    #[command(subcommand)]
    pub(super) what: ConfigWhat,
}

#[derive(Clone, Copy, Debug, Subcommand)]
pub(super) enum ConfigWhat {
    /// Print a commented configuration to start from
    Init,
    /// Print the configuration with its defaults filled in and its secrets left out
    Show {
        /// Say where each value comes from
        #[arg(long)]
        origin: bool,
        /// Its form
        #[arg(long, value_enum, default_value_t = Form::Toml)]
        format: Form,
    },
    /// Print the JSON Schema of a configuration, for editors
    Schema,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Form {
    /// As it would be written.
    Toml,
    /// One object.
    Json,
}

#[derive(Debug, Args)]
pub(super) struct Providers {
    #[command(subcommand)]
    pub(super) what: ProvidersWhat,
}

#[derive(Debug, Subcommand)]
pub(super) enum ProvidersWhat {
    /// List the built-in providers
    List {
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Print one as it is written
    Show {
        /// Its name
        name: String,
        /// With all that it takes over from the provider that it extends
        #[arg(long)]
        resolved: bool,
    },
}

/// Sends a signed test event: to the configured route of that name, or as a provider.
///
/// Ends with 0 if the answer is a 2xx, with 3 if the request is refused. With --bad-signature or --stale it is the
/// refusal that is wanted: 0 if it comes, 1 if it does not.
#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag on the command line")]
pub(super) struct Send {
    /// A route of the configuration, or a provider
    #[arg(value_name = "ROUTE|PROVIDER")]
    pub(super) name: String,
    /// The event [default: the provider's first sample; an unknown one lists them]
    pub(super) event: Option<String>,
    /// Where to [default: the route's own address on the configured listener, https:// with `server.tls`]
    #[arg(long, value_name = "URL")]
    pub(super) to: Option<String>,
    /// The body: text, @FILE, or @- for stdin; sent as it is
    #[arg(long, value_name = "@FILE")]
    pub(super) body: Option<String>,
    /// Sign with another secret: exit 0 if it is refused, 1 if not
    #[arg(long, conflicts_with_all = ["stale", "twice"])]
    pub(super) bad_signature: bool,
    /// Sign as if it were sent too long ago: exit 0 if it is refused, 1 if not
    #[arg(long, conflicts_with = "twice")]
    pub(super) stale: bool,
    /// Send the same request twice
    #[arg(long)]
    pub(super) twice: bool,
    /// Print a curl command and send nothing
    #[arg(long)]
    pub(super) print_curl: bool,
    /// The variable that holds the secret [default: the route's first secret]
    #[arg(long, value_name = "NAME")]
    pub(super) secret_env: Option<String>,
}

/// Checks captured requests, one JSON object a line in, one verdict a line out.
#[derive(Debug, Args)]
pub(super) struct Verify {
    #[arg(long, value_name = "FILE", help = super::verify::input())]
    pub(super) input: PathBuf,
    /// The moment of the check, in Unix seconds [default: now]
    #[arg(long, value_name = "UNIX", allow_negative_numbers = true)]
    pub(super) at: Option<i64>,
}

/// Says why a request was refused, and which change would have made it right: in the secret, the scheme or the request.
///
/// A refusal that a running gateway still keeps in memory is named by its id, as `events list` shows it, or is the last
/// one. A captured request is explained without a gateway: from a line of `verify`'s format, from a curl command, or
/// from saved headers and body. Nothing printed holds a secret or a signature that would be right.
///
/// Ends with 0 if it is explained: it would be accepted, or something fits. With 3 if it is refused and nothing fits.
#[derive(Debug, Args)]
#[command(after_long_help = super::explain::tried())]
#[command(group = clap::ArgGroup::new("which").required(true).args(["id", "last", "input", "curl", "headers", "list"]))]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag on the command line")]
pub(super) struct Explain {
    /// A refused request: its `X-Request-Id`
    pub(super) id: Option<String>,
    /// The newest refusal
    #[arg(long)]
    pub(super) last: bool,
    /// Captured requests, one JSON object a line as `verify` takes them; - for stdin
    #[arg(long, value_name = "FILE")]
    pub(super) input: Option<PathBuf>,
    /// Of these requests only this one, counted from 1
    #[arg(long, value_name = "N", requires = "input")]
    pub(super) line: Option<usize>,
    /// A curl command as it was typed; - for stdin
    #[arg(long, value_name = "FILE")]
    pub(super) curl: Option<PathBuf>,
    /// Saved headers, one a line, with or without the request line
    #[arg(long, value_name = "FILE")]
    pub(super) headers: Option<PathBuf>,
    /// The body that belongs to them, byte for byte; - for stdin [default: none]
    #[arg(long, value_name = "FILE", requires = "headers")]
    pub(super) body: Option<PathBuf>,
    /// The address that was called [default: the request line's, on the `Host` of the headers]
    #[arg(long, value_name = "URL", requires = "headers")]
    pub(super) url: Option<String>,
    /// The method [default: the request line's, else POST]
    #[arg(long, value_name = "METHOD", requires = "headers")]
    pub(super) method: Option<String>,
    /// The route that checks it [default: the line's; the one of this path; the only one]
    #[arg(long, value_name = "ROUTE", conflicts_with_all = ["id", "last"])]
    pub(super) route: Option<String>,
    /// The moment of the check, in Unix seconds [default: now]
    #[arg(long, value_name = "UNIX", allow_negative_numbers = true, conflicts_with_all = ["id", "last"])]
    pub(super) at: Option<i64>,
    /// List what is tried, and do nothing
    #[arg(long)]
    pub(super) list: bool,
    /// One JSON object a request
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) door: Door,
}

/// How the admin listener is reached.
#[derive(Clone, Debug, Args)]
pub(super) struct Door {
    /// Address of the admin listener [env: `HOOKGATE_ADMIN`] [default: the configuration's `admin`]. Its token:
    /// `HOOKGATE_ADMIN_TOKEN`, else the configuration's
    #[arg(long, value_name = "URL")]
    pub(super) admin: Option<String>,
}

/// A gateway that runs, or the spool of one that does not.
#[derive(Clone, Debug, Args)]
pub(super) struct Source {
    #[command(flatten)]
    pub(super) door: Door,
    /// Read this spool directory and ask no gateway
    #[arg(long, value_name = "PATH", conflicts_with = "admin")]
    pub(super) spool: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Status {
    #[command(flatten)]
    pub(super) source: Source,
    /// One JSON object
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Events {
    #[command(subcommand)]
    pub(super) what: EventsWhat,
}

#[derive(Debug, Subcommand)]
pub(super) enum EventsWhat {
    /// List requests, the newest first, then what is on disk from before the last start
    List(EventsList),
    /// Show one event
    Show {
        /// Its id
        id: String,
        /// Print its body and nothing else
        #[arg(long)]
        body: bool,
        /// One JSON object
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        door: Door,
    },
}

#[derive(Debug, Args)]
pub(super) struct EventsList {
    #[command(flatten)]
    pub(super) pick: Pick,
    /// With this disposition: delivered, spooled, duplicate, refused, …
    #[arg(long, value_name = "WORD")]
    pub(super) disposition: Option<String>,
    /// At most so many
    #[arg(long, short = 'n', value_name = "N", default_value_t = 50)]
    pub(super) limit: usize,
    /// One JSON object a line
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) door: Door,
}

/// Which events.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Pick {
    /// Of this route
    #[arg(long, value_name = "ROUTE")]
    pub(super) route: Option<String>,
    /// For this reason
    #[arg(long, value_name = "WORD")]
    pub(super) reason: Option<String>,
    /// Received since: 2026-01-31T12:00:00Z, or 2h for two hours ago
    #[arg(long, value_name = "TIME")]
    pub(super) since: Option<String>,
    /// Received before: 2026-01-31T12:00:00Z, or 2h for two hours ago
    #[arg(long, value_name = "TIME")]
    pub(super) until: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Replay {
    #[command(flatten)]
    pub(super) act: ActOnMany,
}

#[derive(Debug, Args)]
pub(super) struct Dlq {
    #[command(subcommand)]
    pub(super) what: DlqWhat,
}

#[derive(Debug, Subcommand)]
pub(super) enum DlqWhat {
    /// List dead letters, the oldest first
    List(DlqList),
    /// Show one dead letter
    Show {
        /// Its id
        id: String,
        /// One JSON object
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        source: Source,
    },
    /// Deliver dead letters again
    Retry(ActOnMany),
    /// Destroy dead letters
    Drop(ActOnMany),
    /// How far the gateway is with what `retry` or `drop` began; without an id: all such jobs
    Job(FollowJob),
    /// Print dead letters with their requests and bodies, one JSON object a line
    ///
    /// For sending them from elsewhere: of a running gateway the requests' signatures are printed as they came, and only
    /// here; everything else that lists or shows an event replaces them by "(redacted)". Tokens and passwords are
    /// secrets and are printed nowhere. With --spool the signatures are replaced too, and of routes that no
    /// configuration knows all headers but the usual ones.
    ///
    /// An export that is interrupted ends behind a whole line and says how it goes on: --from.
    Export {
        #[command(flatten)]
        pick: Pick,
        /// Go on behind this event: what an interrupted export said
        #[arg(long, value_name = "ID")]
        from: Option<String>,
        #[command(flatten)]
        source: Source,
    },
}

#[derive(Debug, Args)]
pub(super) struct DlqList {
    #[command(flatten)]
    pub(super) pick: Pick,
    /// Those set aside in their place, because they are not what was written: the same as --reason damaged
    #[arg(long, conflicts_with = "reason")]
    pub(super) damaged: bool,
    /// At most so many [default: all]
    #[arg(long, short = 'n', value_name = "N")]
    pub(super) limit: Option<usize>,
    /// One JSON object a line
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) source: Source,
}

#[derive(Debug, Args)]
pub(super) struct Spool {
    #[command(subcommand)]
    pub(super) what: SpoolWhat,
}

#[derive(Debug, Subcommand)]
pub(super) enum SpoolWhat {
    /// Count what is on disk, route by route, and what the files take
    Stats(SpoolAsked),
    /// Read every record and compare it with its SHA-256: exit 0 if all is whole, 65 if not
    ///
    /// It changes nothing and may run beside a gateway, whose write-ahead log grows while the file as a whole is
    /// checked.
    Verify(SpoolAsked),
}

#[derive(Debug, Args)]
pub(super) struct SpoolAsked {
    /// The spool directory [default: the configuration's `spool.path`]
    #[arg(long, value_name = "PATH")]
    pub(super) spool: Option<PathBuf>,
    /// One JSON object a line: of stats one, of verify one for each damaged record
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Dedup {
    #[command(subcommand)]
    pub(super) what: DedupWhat,
}

#[derive(Debug, Subcommand)]
pub(super) enum DedupWhat {
    /// Say whether an event is remembered: exit 0 if it is, 1 if not
    Check(DedupKey),
    /// Forget an event: its next sending is delivered again
    Forget(DedupKey),
}

#[derive(Debug, Args)]
pub(super) struct DedupKey {
    /// The route
    pub(super) route: String,
    /// The event's `Hookgate-Key`, as the app saw it
    pub(super) key: String,
    /// One JSON object
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) door: Door,
}

#[derive(Debug, Args)]
pub(super) struct Reload {
    /// One JSON object
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) door: Door,
}

#[derive(Debug, Args)]
pub(super) struct Healthcheck {
    /// Address of the telemetry listener [default: the configuration's `telemetry`]
    #[arg(long, value_name = "ADDRESS")]
    pub(super) address: Option<SocketAddr>,
}

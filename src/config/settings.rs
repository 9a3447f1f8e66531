//! The configuration, checked: what the rest of the program works with. How it was written is no longer visible here.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::leaf::Leaf;
use crate::domain::pass_path::PassPath;
use crate::domain::route::{AppPolicy, OnStoreDown, Route};
use crate::domain::secret::Secret;
use crate::domain::shared_store::StoreLink;

/// A configuration that the gateway can start with.
#[derive(Debug)]
pub struct Config {
    /// Where senders are served.
    pub listen: SocketAddr,
    /// Where metrics and health are served.
    pub telemetry: SocketAddr,
    /// Where the API is served.
    pub admin: SocketAddr,
    /// The token of the API; always there unless `admin` is loopback.
    pub admin_token: Option<Secret>,
    /// How requests are taken.
    pub server: Server,
    /// How repeated events are recognised.
    pub dedup: Dedup,
    /// Where events wait on disk.
    pub spool: SpoolSettings,
    /// How the gateway logs.
    pub log: Log,
    /// The routes, by name.
    pub routes: Vec<Arc<Route>>,
    /// Paths streamed to the application unverified. A route's path comes first.
    pub passthrough: Vec<PassPath>,
    /// Where passed-through requests go and how long they may take.
    pub app: AppPolicy,
    /// What is allowed and worth knowing.
    pub notes: Vec<Note>,
    /// The files it was read from, the main one first, and the secret files: what a reload watches.
    pub files: Vec<PathBuf>,
}

/// How requests are taken.
#[derive(Clone, Debug)]
pub struct Server {
    /// Worker threads; 0: one per core.
    pub threads: usize,
    /// First byte of a request to its blank line.
    pub header_timeout: Duration,
    /// Blank line to last body byte.
    pub body_timeout: Duration,
    /// How long a connection may wait for its next request.
    pub idle_timeout: Duration,
    /// Our reply taken by the sender.
    pub write_timeout: Duration,
    /// From SIGTERM to exit at the latest.
    pub shutdown_grace: Duration,
    /// Longest request head, in bytes.
    pub max_header_bytes: usize,
    /// Most connections at once.
    pub max_connections: usize,
    /// Most of them from one source that is no trusted proxy.
    pub max_connections_per_source: usize,
    /// All request bodies in memory together, in bytes.
    pub max_buffered_bytes: usize,
    /// Networks whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// TLS for senders, if any.
    pub tls: Option<ServerTls>,
}

/// Files for TLS, as configured. What is in them is looked at when they are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// Certificate and key; at least one pair.
    pub certificates: Vec<(PathBuf, PathBuf)>,
    /// Authorities of the senders' certificates.
    pub client_ca: Option<PathBuf>,
    /// Whether HTTP/2 is offered.
    pub h2: bool,
}

impl ServerTls {
    /// The key that names a file, as its parts.
    #[must_use]
    pub fn key_of(&self, file: &Path) -> Vec<String> {
        let named = self.certificates.iter().enumerate().find_map(|(place, (cert, key))| {
            let part = if cert == file { "cert" } else { (key == file).then_some("key")? };
            Some((place, part))
        });
        let also = |place: usize| place.checked_sub(1).map(|place| ["also".to_owned(), place.to_string()]);
        let inside = match named {
            Some((place, part)) => also(place).into_iter().flatten().chain([part.to_owned()]).collect(),
            None => vec!["client_ca".to_owned()],
        };
        ["server", "tls"].map(str::to_owned).into_iter().chain(inside).collect()
    }
}

/// How repeated events are recognised; the ttl belongs to the route.
#[derive(Clone, Debug)]
pub struct Dedup {
    /// Where marks are kept.
    pub store: Store,
    /// What a store that cannot be asked means.
    pub on_store_down: OnStoreDown,
}

/// Where marks are kept.
#[derive(Clone, Debug)]
pub enum Store {
    /// In the spool's own file.
    Embedded,
    /// In a shared Redis.
    Redis(Box<RedisSettings>),
}

/// A shared Redis.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// How it is reached.
    pub link: StoreLink,
    /// Longest wait for one call.
    pub timeout: Duration,
    /// Replicas that must have a claim before it counts; 0: none is waited for.
    pub wait_replicas: u32,
    /// What every key starts with.
    pub key_prefix: String,
}

/// Where events wait on disk; their longest stay belongs to the route.
#[derive(Clone, Debug)]
pub struct SpoolSettings {
    /// The directory.
    pub path: PathBuf,
    /// Most bytes on disk.
    pub max_bytes: u64,
    /// Most bytes of dead letters among them.
    pub max_dead_bytes: u64,
    /// Bytes of the disk left to others.
    pub min_free_bytes: u64,
}

/// How the gateway logs.
#[derive(Clone, Copy, Debug)]
pub struct Log {
    /// The form of a line.
    pub format: LogFormat,
    /// The least level that is written.
    pub level: LogLevel,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Pretty on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Pretty,
    /// One object a line.
    Json,
}

impl Leaf for LogFormat {
    const EXPECTED: &'static str = "`auto`, `pretty` or `json`";
    const WORDS: &'static [&'static str] = &["auto", "pretty", "json"];

    fn parse(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(Self::Auto),
            "pretty" => Some(Self::Pretty),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

/// The least level that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// What a person must do something about.
    Error,
    /// What healed by itself.
    Warn,
    /// What operators and senders did.
    Info,
    /// How decisions came about.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The word in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl Leaf for LogLevel {
    const EXPECTED: &'static str = "`error`, `warn`, `info`, `debug` or `trace`";
    const WORDS: &'static [&'static str] = &["error", "warn", "info", "debug", "trace"];

    fn parse(text: &str) -> Option<Self> {
        [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace].into_iter().find(|level| level.as_str() == text)
    }
}

/// Which store `dedup.store` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StoreKind {
    /// The embedded table.
    Embedded,
    /// Redis.
    Redis,
}

impl Leaf for StoreKind {
    const EXPECTED: &'static str = "`embedded` or `redis`";
    const WORDS: &'static [&'static str] = &["embedded", "redis"];

    fn parse(text: &str) -> Option<Self> {
        match text {
            "embedded" => Some(Self::Embedded),
            "redis" => Some(Self::Redis),
            _ => None,
        }
    }
}

/// What is allowed and worth knowing about a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Note {
    /// How much it matters.
    pub level: NoteLevel,
    /// The key it is about.
    pub key: String,
    /// The sentence for the operator.
    pub text: String,
}

/// How much a note matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoteLevel {
    /// Good to know.
    Note,
    /// Probably not what was wanted; `--deny-warnings` turns it into a failure.
    Warn,
}

impl NoteLevel {
    /// The word in reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warn => "warn",
        }
    }
}

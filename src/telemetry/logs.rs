//! Logs: one line an event to stderr, pretty for people or JSON for machines, with a level that can be changed while
//! the process runs.
//!
//! A JSON line is one object: `ts` (RFC 3339, UTC), `level` (lower case), `msg`, `target`, then the event's own fields.
//! Our own modules log at the configured level, libraries at warn and above, the HTTP server only through
//! `bridge.rs`, the library for HTTP/2 not at all. This file decides how lines look and which are written, not what is in them.

use std::io::{self, IsTerminal};
use std::str::FromStr;
use std::sync::Arc;

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Registry;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::reload;

use super::Metrics;
use super::bridge::{Bridge, HTTP_SERVER};
use super::json::Json;
use super::panics;
use super::request_lines::RequestLines;
use super::sampling::Sampling;
use super::sink::{self, Flush, Sink};

/// The library that speaks HTTP/2 with senders.
const HTTP2: &str = "h2";

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Pretty on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// For people.
    Pretty,
    /// For machines.
    Json,
}

/// From which weight on our own lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What a person must do something about.
    Error,
    /// And what healed by itself.
    Warn,
    /// And each request, and what an operator did.
    #[default]
    Info,
    /// And each step.
    Debug,
    /// And everything else.
    Trace,
}

impl Level {
    /// All of them, from quiet to loud.
    pub const ALL: [Self; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// The word in configuration and API.
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

    const fn filter(self) -> LevelFilter {
        match self {
            Self::Error => LevelFilter::ERROR,
            Self::Warn => LevelFilter::WARN,
            Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
            Self::Trace => LevelFilter::TRACE,
        }
    }
}

impl FromStr for Level {
    type Err = LogFault;

    fn from_str(word: &str) -> Result<Self, LogFault> {
        let found = Self::ALL.into_iter().find(|level| level.as_str() == word);
        found.ok_or_else(|| LogFault::NoSuchLevel(word.chars().take(40).collect()))
    }
}

/// Whether a terminal may be coloured (`NO_COLOR` forbids it).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// On a terminal.
    Allowed,
    /// Never.
    Forbidden,
}

/// How to log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How a line looks.
    pub format: Format,
    /// From which weight on.
    pub level: Level,
    /// Whether a terminal may be coloured.
    pub colour: Colour,
}

/// Why logging cannot be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum LogFault {
    /// Not a level.
    #[error("no log level is called {0:?}; levels are error, warn, info, debug, trace")]
    NoSuchLevel(String),
    /// A second call of [`init`].
    #[error("logging has been set up before in this process")]
    Twice,
    /// The process has lost its subscriber.
    #[error("the log level cannot be changed: {0}")]
    Reload(#[from] reload::Error),
    /// No thread for writing.
    #[error("the thread that writes the log cannot be started: {0}")]
    Thread(#[source] io::Error),
}

/// What [`init`] hands over.
#[derive(Debug)]
pub struct Logs {
    /// Changes the level.
    pub control: LogControl,
    /// To be dropped last: waits until the last lines are written.
    pub flush: Flush,
}

/// Changes the level while the process runs. Clones change the same one.
#[derive(Clone, Debug)]
pub struct LogControl {
    filter: reload::Handle<Targets, Registry>,
    lines: RequestLines,
}

impl LogControl {
    /// From now on, lines of this level and heavier ones are written.
    pub fn set_level(&self, level: Level) -> Result<(), LogFault> {
        self.filter.reload(targets(level))?;
        self.lines.hear(level >= Level::Info);
        Ok(())
    }

    /// What writes the lines of answered requests.
    #[must_use]
    pub fn request_lines(&self) -> RequestLines {
        self.lines.clone()
    }
}

/// Sets up logging for the whole process, once.
pub fn init(settings: Settings, metrics: &Arc<Metrics>) -> Result<Logs, LogFault> {
    let terminal = if io::stderr().is_terminal() { Terminal::Yes } else { Terminal::No };
    let sampling = Sampling::new(Arc::clone(metrics));
    let left_out = sampling.clone();
    let opened = sink::open(io::stderr(), Arc::clone(metrics), move || left_out.report());
    let (sink, flush) = opened.map_err(LogFault::Thread)?;
    let (subscriber, control) = subscriber(settings, terminal, sink, sampling);
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogFault::Twice)?;
    log::set_boxed_logger(Box::new(Bridge::new(Arc::clone(metrics)))).map_err(|_| LogFault::Twice)?;
    log::set_max_level(log::LevelFilter::Warn);
    panics::withhold_messages();
    Ok(Logs { control, flush })
}

/// Whether a person is likely to read along.
#[derive(Clone, Copy)]
enum Terminal {
    Yes,
    No,
}

fn subscriber(
    settings: Settings,
    terminal: Terminal,
    sink: Sink,
    sampling: Sampling,
) -> (impl Subscriber + Send + Sync, LogControl) {
    let lines = tracing_subscriber::fmt::layer().with_writer(sink.clone());
    let (lines, requests): (Box<dyn Layer<_> + Send + Sync>, _) = match (settings.format, terminal) {
        (Format::Json, _) | (Format::Auto, Terminal::No) => {
            (lines.event_format(Json).boxed(), RequestLines::json(sink, sampling.clone()))
        }
        (Format::Pretty, _) | (Format::Auto, Terminal::Yes) => {
            let colour = matches!((settings.colour, terminal), (Colour::Allowed, Terminal::Yes));
            (lines.compact().with_ansi(colour).boxed(), RequestLines::events())
        }
    };
    let (filter, handle) = reload::Layer::new(targets(settings.level));
    requests.hear(settings.level >= Level::Info);
    let control = LogControl { filter: handle, lines: requests };
    (tracing_subscriber::registry().with(filter).with(lines.with_filter(sampling)), control)
}

/// Ours at `level`; libraries at warn, for below that they print frames and headers; the HTTP server not at all, for
/// what it may say comes through the bridge under our own name.
fn targets(level: Level) -> Targets {
    Targets::new()
        .with_default(level.filter().min(LevelFilter::WARN))
        .with_target("hookgate", level.filter())
        .with_target(HTTP_SERVER, LevelFilter::OFF)
        // What senders do to it is counted; a line for each would be theirs to write.
        .with_target(HTTP2, LevelFilter::OFF)
}

#[cfg(test)]
pub(super) mod tests {
    use log::Log;

    use super::*;
    use crate::domain::event::EventId;
    use crate::domain::time::Timestamp;
    use crate::telemetry::recent::Answered;
    use crate::telemetry::sink::tests::Paper;

    const JSON: Settings = Settings { format: Format::Json, level: Level::Info, colour: Colour::Allowed };

    /// What is written in JSON when `act` runs.
    pub(in crate::telemetry) fn said_of(act: impl FnOnce()) -> String {
        logged(JSON, Terminal::No, |_, _| act())
    }

    /// What is written when `act` runs under these settings.
    fn logged(settings: Settings, terminal: Terminal, act: impl FnOnce(&LogControl, &Arc<Metrics>)) -> String {
        let metrics = Arc::new(Metrics::new(&[]).unwrap());
        let paper = Paper::default();
        let (sink, flush) = sink::open(paper.clone(), Arc::clone(&metrics), || ()).unwrap();
        let sampling = Sampling::new(Arc::clone(&metrics));
        let (subscriber, control) = subscriber(settings, terminal, sink, sampling);
        tracing::subscriber::with_default(subscriber, || act(&control, &metrics));
        drop(flush);
        paper.text()
    }

    #[test]
    fn a_json_line_is_one_object_whatever_the_fields_hold() {
        let text = logged(JSON, Terminal::No, |_, _| {
            tracing::info!(route = "veedeo", ack_ms = 1.5, status = 200, remote = %"a\"b\n\u{1b}[31m", "answered");
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["level"], "info");
        assert_eq!(line["msg"], "answered");
        assert_eq!(line["route"], "veedeo");
        assert_eq!(line["ack_ms"], 1.5);
        assert_eq!(line["status"], 200);
        assert_eq!(line["remote"], "a\"b\n\u{1b}[31m");
        assert!(line["ts"].as_str().unwrap().ends_with('Z'));
        assert!(line["target"].as_str().unwrap().starts_with("hookgate"));
    }

    #[test]
    fn auto_is_pretty_on_a_terminal_and_json_elsewhere() {
        let auto = Settings { format: Format::Auto, ..JSON };
        let json = logged(auto, Terminal::No, |_, _| tracing::info!("hello"));
        assert!(json.starts_with('{'), "{json}");
        let pretty = logged(auto, Terminal::Yes, |_, _| tracing::info!("hello"));
        assert!(pretty.contains("\u{1b}[") && pretty.contains("hello") && !pretty.contains('{'), "{pretty}");
    }

    #[test]
    fn no_colour_where_it_is_forbidden_or_nobody_reads() {
        let plain = Settings { format: Format::Pretty, colour: Colour::Forbidden, ..JSON };
        assert!(!logged(plain, Terminal::Yes, |_, _| tracing::info!("hello")).contains('\u{1b}'));
        let piped = Settings { colour: Colour::Allowed, ..plain };
        assert!(!logged(piped, Terminal::No, |_, _| tracing::info!("hello")).contains('\u{1b}'));
    }

    #[test]
    fn lines_of_refused_requests_are_left_out_in_a_flood_and_others_are_not() {
        let text = logged(JSON, Terminal::No, |_, _| {
            for number in 0..500 {
                let (none, some): (Option<&str>, _) = (None, Some("signature_mismatch"));
                tracing::info!(route = "a", disposition = "refused", reason = some, number, "request");
                tracing::info!(route = "a", disposition = "delivered", reason = none, number, "request");
            }
        });
        assert_eq!(text.matches("delivered").count(), 500);
        assert!((20..=40).contains(&text.matches("refused").count()), "{}", text.matches("refused").count());
    }

    /// A request that was answered so.
    fn request(disposition: &'static str, reason: Option<&'static str>) -> Arc<Answered> {
        let at = Timestamp::from_seconds(1_760_000_000);
        Arc::new(Answered {
            received_at: at,
            route: "a\"b".into(),
            event: Some(EventId::new(at, 7)),
            event_type: Some("paid\n".into()),
            disposition,
            reason,
            status: 200,
            answered_at: at,
            ack_ms: 3,
            remote: [127, 0, 0, 1].into(),
            request_id: "r-1".into(),
            body_bytes: 5,
            taken: true,
        })
    }

    #[test]
    fn the_line_of_a_request_is_one_object_with_what_it_came_to() {
        let text = logged(JSON, Terminal::No, |control, _| {
            control.request_lines().put(request("refused", Some("signature_mismatch")));
        });
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        let id = EventId::new(Timestamp::from_seconds(1_760_000_000), 7).to_string();
        let expected = serde_json::json!({
            "ts": "2025-10-09T08:53:20.000Z", "level": "info", "msg": "request", "target": "hookgate::gateway::exchange",
            "route": "a\"b", "disposition": "refused", "reason": "signature_mismatch", "status": 200, "event": id,
            "event_type": "paid\n", "request_id": "r-1", "remote": "127.0.0.1", "body_bytes": 5, "ack_ms": 3,
            "taken": true,
        });
        assert_eq!((line, text.lines().count()), (expected, 1));
        let pretty = Settings { format: Format::Pretty, ..JSON };
        let text = logged(pretty, Terminal::No, |control, _| control.request_lines().put(request("delivered", None)));
        assert!(text.contains("request_id=\"r-1\"") && text.contains("disposition=\"delivered\""), "{text}");
    }

    #[test]
    fn the_lines_of_requests_heed_the_level_and_are_left_out_in_a_flood_of_refusals() {
        let text = logged(JSON, Terminal::No, |control, _| {
            let lines = control.request_lines();
            for _ in 0..500 {
                lines.put(request("refused", Some("signature_mismatch")));
                lines.put(request("delivered", None));
            }
            control.set_level(Level::Warn).unwrap();
            lines.put(request("unheard", None));
            control.set_level(Level::Debug).unwrap();
            lines.put(request("heard", None));
        });
        assert_eq!(text.matches(r#""delivered""#).count(), 500);
        assert!((20..=40).contains(&text.matches(r#""refused""#).count()), "{}", text.matches("refused").count());
        assert!(!text.contains("unheard") && text.contains(r#""heard""#), "{text}");
    }

    #[test]
    fn the_level_can_be_changed_while_it_runs() {
        let text = logged(JSON, Terminal::No, |control, _| {
            tracing::debug!("before");
            control.set_level(Level::Debug).unwrap();
            tracing::debug!("louder");
            control.set_level(Level::Error).unwrap();
            tracing::info!("quieter");
        });
        assert!(text.contains("louder") && !text.contains("before") && !text.contains("quieter"), "{text}");
    }

    #[test]
    fn the_text_of_the_http_servers_errors_is_never_written() {
        let mut count = 0;
        let text = logged(Settings { level: Level::Trace, ..JSON }, Terminal::No, |_, metrics| {
            let bridge = Bridge::new(Arc::clone(metrics));
            for level in [log::Level::Error, log::Level::Error, log::Level::Warn, log::Level::Trace] {
                let mut record = log::Record::builder();
                bridge.log(
                    &record.level(level).target("pingora_core::apps").args(format_args!("X-Signature: abc")).build(),
                );
            }
            tracing::error!(target: "pingora_proxy", "X-Signature: abc");
            count = metrics.http_server_errors_total.get();
        });
        assert!(!text.contains("X-Signature"), "{text}");
        assert_eq!(count, 2);
        assert_eq!(text.lines().count(), 1, "one line a second: {text}");
        assert!(text.contains("pingora_core::apps"), "{text}");
    }

    #[test]
    fn libraries_are_heard_from_warn_on() {
        let text = logged(Settings { level: Level::Trace, ..JSON }, Terminal::No, |_, metrics| {
            let bridge = Bridge::new(Arc::clone(metrics));
            let say = |level, text: &str| {
                bridge.log(&log::Record::builder().level(level).target("redis").args(format_args!("{text}")).build());
            };
            say(log::Level::Warn, "weighty");
            say(log::Level::Info, "chatty");
            tracing::debug!(target: "hyper", "frames");
        });
        assert!(text.contains("weighty") && text.contains(r#""target":"redis""#), "{text}");
        assert!(!text.contains("chatty") && !text.contains("frames"), "{text}");
    }

    #[test]
    fn an_unknown_level_is_refused_with_the_known_ones() {
        assert_eq!("debug".parse::<Level>().unwrap(), Level::Debug);
        let fault = "loud".parse::<Level>().unwrap_err().to_string();
        assert_eq!(fault, r#"no log level is called "loud"; levels are error, warn, info, debug, trace"#);
    }
}

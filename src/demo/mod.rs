//! `hookgate demo`: a scripted application, scripted senders and the gateway in one process, on loopback with a
//! temporary folder. It tells with real requests what the gateway does; `--once` checks that every act held.

mod application;
mod sender;
mod story;

use std::io::Write;
use std::path::Path;

use self::application::Application;
use self::sender::Sender;
use self::story::Act;
use crate::app::{self, Loaded, Running, Stop};
use crate::clock::Clock;
use crate::config::{ConfigFaults, Environment};
use crate::domain::secret::Secret;

/// The secret of the demonstration's senders; it opens nothing.
const SECRET: &str = "demo-secret-that-opens-nothing";

/// Whether the demonstration ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// It plays its story and ends.
    Once,
    /// It stays up afterwards until it is interrupted.
    Stay,
}

/// Why the demonstration did not end well.
#[derive(Debug, thiserror::Error)]
pub enum DemoFault {
    /// An act did not hold.
    #[error("{held} of {all} acts held")]
    ActsFailed {
        /// Acts that held.
        held: usize,
        /// Acts played.
        all: usize,
    },
    /// It could not be set up.
    #[error("the demonstration cannot be set up: {0}")]
    Setup(String),
}

/// Plays the demonstration; the story goes to `out`, a line per act.
pub async fn play(length: Length, mut out: impl Write + Send) -> Result<(), DemoFault> {
    let setup = |error: &dyn std::fmt::Display| DemoFault::Setup(error.to_string());
    let folder = tempfile::tempdir().map_err(|error| setup(&error))?;
    let quick = Application::start().await.map_err(|error| setup(&error))?;
    let slow = Application::start().await.map_err(|error| setup(&error))?;
    write_configuration(folder.path(), &quick, &slow).map_err(|error| setup(&error))?;
    let file = folder.path().join("hookgate.toml");
    let loaded = read_configuration(&file).map_err(|faults| setup(&faults.plain()))?;
    let metrics = app::metrics_for(&loaded.config).map_err(|error| setup(&error))?;
    let reread = Box::new(move || read_configuration(&file));
    let running = Running::start(&loaded, metrics, None, reread).await.map_err(|error| setup(&error))?;
    let sender = Sender::new(running.addresses.listen, &loaded.config, Secret::new(SECRET.into()));

    let acts = story::play(&sender, &quick, &slow, &running, &mut out).await;
    let held = acts.iter().filter(|act| **act == Act::Held).count();
    let addresses = running.addresses;
    let told = match length {
        Length::Once => Ok(()),
        Length::Stay => writeln!(out, " Look around:  http://{}/metrics      Ctrl-C to stop", addresses.telemetry),
    };
    told.map_err(|error| setup(&error))?;
    if length == Length::Stay {
        tokio::signal::ctrl_c().await.map_err(|error| setup(&error))?;
    }
    let _left = running.stop(Stop::Quick).await;
    if held == acts.len() { Ok(()) } else { Err(DemoFault::ActsFailed { held, all: acts.len() }) }
}

/// The configuration, written as an operator's would be.
fn write_configuration(folder: &Path, quick: &Application, slow: &Application) -> std::io::Result<()> {
    let text = format!(
        r#"listen = "127.0.0.1:0"
telemetry = "127.0.0.1:0"
admin = "127.0.0.1:0"

[app]
url = "http://{quick}"

[ack]
budget = "6s"
reserve = "1s"

[spool]
path = "{spool}"
min_free_bytes = "1MiB"

[delivery]
retries = {{ first = "200ms", factor = 2.0, max = "1s", jitter = true, attempts = 100 }}
breaker = {{ failures = 5, probe_every = "300ms" }}

[routes.veedeo]
path = "/webhooks/veedeo"
provider = "veedeo"
secrets = [ {{ literal = "{SECRET}" }} ]

[routes.github]
path = "/webhooks/github"
provider = "github"
secrets = [ {{ literal = "{SECRET}" }} ]

[routes.videopilot]
path = "/webhooks/videopilot"
provider = "videopilot"
secrets = [ {{ literal = "{SECRET}" }} ]
app = {{ url = "http://{slow}" }}
"#,
        quick = quick.address(),
        slow = slow.address(),
        spool = folder.join("spool").display(),
    );
    std::fs::write(folder.join("hookgate.toml"), text)
}

/// The configuration, read as an operator's would be, but for the operator's variables: the demonstration is the same
/// everywhere.
fn read_configuration(file: &Path) -> Result<Loaded, ConfigFaults> {
    let environment = Environment::of(Clock::start().now(), std::iter::empty::<(String, String)>());
    app::read(Some(file), &environment)
}

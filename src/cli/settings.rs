//! What a command needs of the configuration to find a gateway: addresses, the token, the spool's path. Read without
//! the routes' secrets, which an operator's shell need not have, and without a check of anything else.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::output::say;
use super::{Context, Exit, Failure};
use crate::config::report::{self, Look};
use crate::config::{self, CONFIG_VARIABLE, Config, ConfigFault, ConfigFaults, Layers, SEARCH};
use crate::config::{PREFIX, ShowFormat, ShowOrigins, TOKEN_VARIABLE};
use crate::domain::route::Route;
use crate::domain::secret::Secret;

/// The configuration as written, merged: every value that is not secret.
pub(super) struct Settings(Value);

impl Context {
    /// The whole configuration, checked. Its faults are said here.
    pub(super) fn load(&self) -> Result<Config, Failure> {
        config::load(self.file.as_deref(), &self.environment).map_err(|faults| self.refused(&faults))
    }

    /// The routes whose schemes are known here: none without a configuration that could run.
    pub(super) fn schemes(&self) -> Vec<Arc<Route>> {
        config::load(self.file.as_deref(), &self.environment).map_or_else(|_| Vec::new(), |config| config.routes)
    }

    /// Says what is wrong with a configuration.
    pub(super) fn refused(&self, faults: &ConfigFaults) -> Failure {
        say(&report::refused(faults, self.look()));
        Failure::new(Exit::BadConfiguration, "")
    }

    /// How faults are drawn on stderr.
    pub(super) fn look(&self) -> Look {
        let plain = self.environment.get("NO_COLOR").is_some_and(|value| !value.is_empty());
        let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
        match (terminal, plain) {
            (true, false) => Look::Coloured,
            (true, true) | (false, _) => Look::Pretty,
        }
    }

    /// The configuration as written; `None` if there is none and nobody named one.
    pub(super) fn settings(&self) -> Result<Option<Settings>, Failure> {
        if !self.names_a_file() {
            return Ok(None);
        }
        Layers::read(self.file.as_deref(), &self.environment)
            .and_then(|layers| Settings::of(&layers))
            .map(Some)
            .map_err(|faults| self.refused(&faults))
    }

    fn names_a_file(&self) -> bool {
        self.file.is_some()
            || self.environment.get(CONFIG_VARIABLE).is_some_and(|name| !name.is_empty())
            || SEARCH.iter().any(|path| Path::new(path).exists())
    }

    /// Where one of the listeners is to be reached: its key in the configuration, its variable, else its default.
    pub(super) fn listener(&self, key: &str, usual: SocketAddr) -> Result<SocketAddr, Failure> {
        // It counts more than a file, which may be broken by now.
        let variable = self.variable(&format!("{PREFIX}{}", key.to_uppercase()));
        if let Some(address) = variable.as_ref().and_then(|text| text.parse().ok()) {
            return Ok(reachable(address));
        }
        let given = self.settings()?.map_or(variable, |settings| settings.text(key));
        let address = match given {
            Some(text) => text.parse().map_err(|_| {
                Failure::new(Exit::BadConfiguration, format!("`{key}` is {text:?}, expected an address and a port"))
            })?,
            None => usual,
        };
        Ok(reachable(address))
    }

    /// The token of the admin listener: the usual variable, else what the configuration says, read as the gateway reads
    /// it. Where it cannot be had one line says why, and the gateway is asked without: it knows whether it wants one.
    pub(super) fn admin_token(&self) -> Option<Secret> {
        if let Some(token) = self.variable(TOKEN_VARIABLE) {
            return Some(Secret::new(token.into_bytes()));
        }
        if !self.names_a_file() {
            return None;
        }
        let layers = Layers::read(self.file.as_deref(), &self.environment);
        layers.and_then(|layers| layers.admin_token()).unwrap_or_else(|faults| {
            say(&format!("hookgate: asked without an admin token: {}", first(&faults)));
            None
        })
    }

    /// The spool directory that the command line or the configuration names, and `spool.max_bytes` if it is known.
    pub(super) fn spool(&self, named: Option<&Path>) -> Result<(PathBuf, Option<u64>), Failure> {
        let configured = self.configured_spool();
        match (named, configured) {
            (None, configured) => configured?
                .ok_or_else(|| Failure::usage("say which spool: --spool PATH, or --config FILE to take the gateway's")),
            // A configuration that cannot be read is no reason not to look at a spool that was named.
            (Some(named), Ok(Some((path, capacity)))) if path == named => Ok((path, capacity)),
            (Some(named), _) => Ok((named.to_owned(), None)),
        }
    }

    fn configured_spool(&self) -> Result<Option<(PathBuf, Option<u64>)>, Failure> {
        if !self.names_a_file() {
            return Ok(self.variable(&format!("{PREFIX}SPOOL__PATH")).map(|path| (path.into(), None)));
        }
        let faulty = |faults: ConfigFaults| self.refused(&faults);
        let layers = Layers::read(self.file.as_deref(), &self.environment).map_err(faulty)?;
        let settings = Settings::of(&layers).map_err(faulty)?;
        let value = |key: &str| settings.0.get("spool").and_then(|spool| spool.get(key));
        let base = layers.directory(&["spool".to_owned(), "path".to_owned()]);
        let path = value("path").and_then(Value::as_str).map(|path| base.join(path));
        let capacity = match value("max_bytes") {
            Some(Value::String(text)) => text.parse::<bytesize::ByteSize>().ok().map(|size| size.as_u64()),
            number => number.and_then(Value::as_u64),
        };
        Ok(path.map(|path| (path, capacity)))
    }

    /// A variable's text; nothing if it is empty or not text.
    pub(super) fn variable(&self, name: &str) -> Option<String> {
        self.environment.get(name).and_then(|value| value.to_str()).filter(|text| !text.is_empty()).map(str::to_owned)
    }
}

impl Settings {
    fn of(layers: &Layers) -> Result<Self, ConfigFaults> {
        let shown = config::show(layers, ShowFormat::Json, ShowOrigins::No)?;
        // It is JSON: that was asked for.
        Ok(Self(serde_json::from_str(&shown).unwrap_or_default()))
    }

    fn text(&self, key: &str) -> Option<String> {
        self.0.get(key).and_then(Value::as_str).map(str::to_owned)
    }
}

/// The first of some faults in a line, and how many there are besides.
fn first(faults: &ConfigFaults) -> String {
    let line = faults.iter().next().map(ConfigFault::line).unwrap_or_default();
    match faults.len() {
        0 | 1 => line,
        more => format!("{line}, and {} more: `hookgate validate`", more - 1),
    }
}

/// A listener on every address is reached on loopback.
pub(super) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, address.port())
}

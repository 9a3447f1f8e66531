//! The tables that belong to no route: server, dedup store, spool, log, listeners.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::{Check, keys};
use crate::config::fault::FaultKind;
use crate::config::leaf::{Name, Size, Text};
use crate::config::raw::{RawConfig, RawDedup, RawLog, RawServer, RawSpool, RawTls};
use crate::config::settings::{Dedup, Log, Server, ServerTls, SpoolSettings, Store, StoreKind};
use crate::config::variables::place_to_ask;
use crate::domain::app_url::AppUrl;

pub(super) fn server(raw: &RawServer) -> Option<Server> {
    Some(Server {
        threads: raw.threads?.size(),
        header_timeout: raw.header_timeout.as_ref()?.0,
        body_timeout: raw.body_timeout.as_ref()?.0,
        idle_timeout: raw.idle_timeout.as_ref()?.0,
        write_timeout: raw.write_timeout.as_ref()?.0,
        shutdown_grace: raw.shutdown_grace.as_ref()?.0,
        max_header_bytes: raw.max_header_bytes?.length(),
        max_connections: raw.max_connections?.size(),
        max_connections_per_source: raw.max_connections_per_source?.size(),
        max_buffered_bytes: raw.max_buffered_bytes?.length(),
        trusted_proxies: raw.trusted_proxies.iter().flatten().map(|network| network.0).collect(),
        tls: None,
    })
}

pub(super) fn log(raw: &RawLog) -> Option<Log> {
    Some(Log { format: raw.format.as_ref()?.0, level: raw.level.as_ref()?.0 })
}

/// The least head that an ordinary request fits into.
const LEAST_HEADER_BYTES: usize = 1024;
/// The longest head: more is an attack, and every connection may hold this much.
const MOST_HEADER_BYTES: usize = 1024 * 1024;
/// The least spool that the database and its write-ahead log fit into.
const LEAST_SPOOL_BYTES: u64 = 1024 * 1024;

/// The closing takes up to two seconds of it; what is left is for open requests.
const LEAST_GRACE: Duration = Duration::from_secs(3);

impl Check<'_> {
    pub(super) fn server_rules(&mut self, server: &Server) {
        let spans = [
            ("header_timeout", server.header_timeout),
            ("body_timeout", server.body_timeout),
            ("idle_timeout", server.idle_timeout),
            ("write_timeout", server.write_timeout),
        ];
        for (key, span) in spans {
            self.longer_than_nothing(&keys(&["server", key]), span);
        }
        if server.shutdown_grace < LEAST_GRACE {
            let found = format!("{:?}", server.shutdown_grace);
            let expected = "at least 3s: two of them are kept for the closing, and open requests need the rest";
            self.fault(FaultKind::Value, &keys(&["server", "shutdown_grace"]), found, expected);
        }
        if !(LEAST_HEADER_BYTES..=MOST_HEADER_BYTES).contains(&server.max_header_bytes) {
            let found = format!("{} bytes", server.max_header_bytes);
            self.fault(FaultKind::Value, &keys(&["server", "max_header_bytes"]), found, "from 1KiB to 1MiB");
        }
        if server.max_buffered_bytes == 0 {
            self.fault(FaultKind::Value, &keys(&["server", "max_buffered_bytes"]), "0 bytes", "more than nothing");
        } else if server.max_buffered_bytes < server.max_header_bytes {
            let found = format!("{} bytes", server.max_buffered_bytes);
            let expected = "at least `server.max_header_bytes`: long heads count against it";
            self.fault(FaultKind::Conflict, &keys(&["server", "max_buffered_bytes"]), found, expected);
        }
    }

    pub(super) fn longer_than_nothing(&mut self, path: &[String], span: Duration) {
        if span.is_zero() {
            self.fault(FaultKind::Value, path, "no time at all", "a duration longer than 0");
        }
    }

    pub(super) fn spool(&mut self, raw: &RawSpool) -> Option<SpoolSettings> {
        let path = keys(&["spool", "path"]);
        let directory = self.layers.directory(&path).to_owned();
        let max_bytes = raw.max_bytes?.0;
        if max_bytes < LEAST_SPOOL_BYTES {
            let found = format!("{max_bytes} bytes");
            self.fault(FaultKind::Value, &keys(&["spool", "max_bytes"]), found, "at least 1MiB");
        }
        let max_dead_bytes = raw.max_dead_bytes.map_or(max_bytes / 2, |size| size.0);
        if max_dead_bytes > max_bytes {
            let found = format!("{max_dead_bytes} bytes");
            let expected = "at most spool.max_bytes: dead letters are part of it";
            self.fault(FaultKind::Value, &keys(&["spool", "max_dead_bytes"]), found, expected);
        }
        self.longer_than_nothing(&keys(&["spool", "max_age"]), raw.max_age.as_ref()?.0);
        let Size(min_free_bytes) = raw.min_free_bytes?;
        Some(SpoolSettings { path: directory.join(&raw.path.as_ref()?.0.0), max_bytes, max_dead_bytes, min_free_bytes })
    }

    pub(super) fn dedup(&mut self, raw: &RawDedup) -> Option<Dedup> {
        self.longer_than_nothing(&keys(&["dedup", "redis", "timeout"]), raw.redis.timeout.as_ref()?.0);
        let store = match raw.store.as_ref()?.0 {
            StoreKind::Embedded => Some(Store::Embedded),
            StoreKind::Redis => self.redis(&raw.redis).map(Box::new).map(Store::Redis),
        };
        Some(Dedup { store: store?, on_store_down: raw.on_store_down.as_ref()?.0 })
    }

    /// Where the files of TLS are.
    pub(super) fn tls(&mut self, raw: &RawTls) -> Option<ServerTls> {
        let path = keys(&["server", "tls"]);
        let mut certificates = Vec::new();
        let first = std::iter::once((&raw.cert, &raw.key, path.clone()));
        let also =
            raw.also.iter().flatten().enumerate().map(|(place, one)| {
                (&one.cert, &one.key, [path.clone(), keys(&["also", &place.to_string()])].concat())
            });
        for (cert, key, at) in first.chain(also) {
            match (cert, key) {
                (Some(cert), Some(key)) => {
                    certificates.push((self.beside(&at, "cert", cert), self.beside(&at, "key", key)));
                }
                (None, _) => self.missing(&[at, keys(&["cert"])].concat(), "a file with a certificate, PEM"),
                (_, None) => self.missing(&[at, keys(&["key"])].concat(), "a file with the certificate's key, PEM"),
            }
        }
        let client_ca = raw.client_ca.as_ref().map(|file| self.beside(&path, "client_ca", file));
        Some(ServerTls { certificates, client_ca, h2: raw.h2 == Some(true) }).filter(|tls| !tls.certificates.is_empty())
    }

    /// Where a file is: its path starts in the directory of the file that names it.
    fn beside(&self, table: &[String], key: &str, file: &Text<Name>) -> PathBuf {
        self.layers.directory(&[table, &keys(&[key])].concat()).join(&file.0.0)
    }

    /// A key that is known and not built yet; `how`: only if it is given so.
    pub(super) fn unbuilt(&mut self, path: &[String], how: &str) {
        let mut fault = self.layers.fault(FaultKind::NotImplemented, path, String::new(), String::new());
        fault.key.push_str(how);
        self.faults.push(fault);
    }

    /// Three listeners on three addresses, and the one that shows bodies not open to everyone. Yields them by their keys.
    pub(super) fn listeners(&mut self, raw: &RawConfig, has_token: bool) -> Vec<(&'static str, SocketAddr)> {
        let given = [("listen", &raw.listen), ("telemetry", &raw.telemetry), ("admin", &raw.admin)];
        let addresses: Vec<_> =
            given.into_iter().filter_map(|(key, text)| text.as_ref().map(|text| (key, text.0))).collect();
        if place_to_ask(&self.layers.environment).is_some() {
            let text =
                "HOOKGATE_ADMIN has a scheme or a host's name: commands ask there, and a listener's address it is not";
            self.warn(&keys(&["admin"]), text.to_owned());
        }
        for (index, (key, address)) in addresses.iter().enumerate() {
            let before = addresses.iter().take(index).find(|(_, other)| meet(*other, *address));
            if let Some((other, there)) = before {
                let found = if there == address {
                    format!("{address}, which `{other}` has too")
                } else {
                    format!("{address}, which `{other}` has too: it is {there}")
                };
                self.fault(FaultKind::Conflict, &keys(&[key]), found, "an address of its own");
            }
            if *key == "admin" && !address.ip().to_canonical().is_loopback() && !has_token {
                let found = format!("{address}, which is not loopback, and `admin_token` is not given");
                let expected =
                    "`admin_token = { env = \"HOOKGATE_ADMIN_TOKEN\" }`, or an address such as \"127.0.0.1:9465\"";
                self.fault(FaultKind::Conflict, &keys(&["admin"]), found, expected);
            }
        }
        addresses
    }

    /// An application that is a listener of this gateway: an event sent there would meet itself, be acknowledged as its own
    /// duplicate, and reach nobody.
    pub(super) fn not_ourselves(&mut self, listeners: &[(&str, SocketAddr)], path: &[String], app: &AppUrl) {
        let reached = listeners.iter().find(|(_, listener)| reaches(app, *listener));
        if let (Some((listener, _)), false) = (reached, self.faulted(path)) {
            let found = format!("{app}, which is this gateway's own `{listener}`");
            self.fault(FaultKind::Conflict, path, found, "where the application listens");
        }
    }
}

/// Whether who connects to the application certainly reaches a listener of ours. A host's name may be anybody's, but for
/// `localhost`; and where we listen on every address, one that is not loopback may be another machine's.
fn reaches(app: &AppUrl, listener: SocketAddr) -> bool {
    let here = listener.ip().to_canonical();
    let ip = if app.host().eq_ignore_ascii_case("localhost") {
        Some(if here.is_ipv6() { IpAddr::V6(Ipv6Addr::LOCALHOST) } else { IpAddr::V4(Ipv4Addr::LOCALHOST) })
    } else {
        app.host().parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
    };
    let certain = |ip: &IpAddr| ip.is_loopback() || ip.is_unspecified() || *ip == here;
    ip.filter(certain).is_some_and(|ip| meet(SocketAddr::new(ip, app.port()), listener))
}

/// Whether two listeners would want the same port of the same address. One on every IPv6 address is on every IPv4
/// address too (`net.ipv6.bindv6only` is 0).
fn meet(one: SocketAddr, other: SocketAddr) -> bool {
    let (here, there) = (one.ip().to_canonical(), other.ip().to_canonical());
    let covers = |all: IpAddr, ip: IpAddr| all.is_unspecified() && (all.is_ipv6() || ip.is_ipv4());
    one.port() == other.port() && one.port() != 0 && (here == there || covers(here, there) || covers(there, here))
}

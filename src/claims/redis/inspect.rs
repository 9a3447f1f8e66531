//! A look at Redis for whoever sets it up: whether it answers and what a failure of it would cost. It writes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use super::connect::fault;
use super::links::Links;
use super::settings::Settings;
use crate::claims::store::StoreFault;

/// What one server says of itself. Nothing where it does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Server {
    /// `host:port`.
    pub address: String,
    /// Its version, such as `7.2.4`.
    pub version: Option<String>,
    /// What it does when its memory is full, such as `noeviction`.
    pub eviction: Option<String>,
    /// Replicas connected to it.
    pub replicas: Option<u32>,
    /// Whether it writes every change to a log on disk.
    pub appends: Option<bool>,
}

/// Asks every server that holds claims; within `patience` altogether.
pub async fn inspect(settings: Settings, patience: Duration) -> Result<Vec<Server>, StoreFault> {
    let looked = tokio::time::timeout(patience, look(Links::new(settings))).await;
    looked.unwrap_or_else(|_| Err(StoreFault::Failed(format!("redis did not answer within {patience:?}"))))
}

async fn look(links: Links) -> Result<Vec<Server>, StoreFault> {
    let servers = links.servers().await?;
    let mut seen = Vec::new();
    for address in servers.all() {
        let mut link = servers.link(&address).await?;
        let info: Result<String, _> = redis::cmd("INFO").query_async(&mut link.connection).await;
        let info = match info {
            Ok(info) => info,
            // It answers, and this user may not ask.
            Err(error) if error.code() == Some("NOPERM") => String::new(),
            Err(error) => return Err(fault(&address, &error)),
        };
        seen.push(Server { address: address.to_string(), ..read(&info) });
    }
    Ok(seen)
}

fn read(info: &str) -> Server {
    let lines: BTreeMap<&str, &str> = info.lines().filter_map(|line| line.trim().split_once(':')).collect();
    let text = |key: &str| lines.get(key).map(|value| (*value).to_owned());
    Server {
        address: String::new(),
        version: text("valkey_version").or_else(|| text("redis_version")),
        eviction: text("maxmemory_policy"),
        replicas: text("connected_slaves").and_then(|number| number.parse().ok()),
        appends: text("aof_enabled").map(|on| on == "1"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_is_read_from_its_lines() {
        let info = "# Server\r\nredis_version:7.0.15\r\nmaxmemory_policy:allkeys-lru\r\nconnected_slaves:2\r\naof_enabled:0\r\n";
        let expected = Server {
            address: String::new(),
            version: Some("7.0.15".into()),
            eviction: Some("allkeys-lru".into()),
            replicas: Some(2),
            appends: Some(false),
        };
        assert_eq!(read(info), expected);
        assert_eq!(read(""), Server::default());
    }
}

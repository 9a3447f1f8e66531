//! The Redis of `store = "redis"`: one server, one that Sentinel names, or a cluster; who we are there, and the files of
//! TLS. Nothing is connected to here.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::{Check, keys};
use crate::config::fault::FaultKind;
use crate::config::find::reason;
use crate::config::layers::Origin;
use crate::config::leaf::{Name, Text};
use crate::config::raw::RawReference;
use crate::config::raw_redis::{RawGiven, RawRedis, RawRedisTls, RawRedisUrl, RawSentinel};
use crate::config::settings::RedisSettings;
use crate::config::source::KeyPath;
use crate::domain::secret::Secret;
use crate::domain::shared_store::{LiveSecret, Login, Place, StoreLink, TlsFiles};

const ADDRESS: &str = "redis://[user:password@]host[:port][/db], or rediss:// for TLS";
const PEM: &[u8] = b"-----BEGIN ";

impl Check<'_> {
    pub(super) fn redis(&mut self, raw: &RawRedis) -> Option<RedisSettings> {
        let place = match &raw.sentinel {
            Some(sentinel) => self.sentinel(sentinel),
            None => self.one_or_cluster(raw.url.as_ref()?),
        };
        let login = self.login(&keys(&["dedup", "redis"]), raw.username.as_ref(), raw.password.as_ref());
        let tls = self.tls_files(&raw.tls);
        let place = place?;
        self.one_kind_of_connection(&place, &raw.tls);
        Some(RedisSettings {
            link: StoreLink { place, login, tls },
            timeout: raw.timeout.as_ref()?.0,
            wait_replicas: raw.wait_replicas?.small(),
            key_prefix: raw.key_prefix.as_ref()?.0.0.clone(),
        })
    }

    fn one_or_cluster(&mut self, raw: &RawRedisUrl) -> Option<Place> {
        let path = keys(&["dedup", "redis", "url"]);
        match raw {
            RawRedisUrl::One(given) => self.address(&path, given).map(Place::One),
            RawRedisUrl::Cluster(given) => {
                let urls = self.addresses(&path, given)?;
                for (index, _) in urls.iter().enumerate().filter(|(_, url)| has_database(&url.secret)) {
                    let expected = "no database: a cluster has only the one";
                    self.fault(FaultKind::Value, &below(&path, index), "an address with a database", expected);
                }
                Some(Place::Cluster(urls))
            }
        }
    }

    fn sentinel(&mut self, raw: &RawSentinel) -> Option<Place> {
        let path = keys(&["dedup", "redis", "sentinel"]);
        let url = keys(&["dedup", "redis", "url"]);
        if self.layers.origin(&url) != Origin::Default {
            let expected = "one of the two: with Sentinel, the sentinels name the server";
            self.fault(FaultKind::Conflict, &url, "given beside `dedup.redis.sentinel`", expected);
        }
        let inside = |key: &str| path.iter().cloned().chain([key.to_owned()]).collect::<KeyPath>();
        if raw.master.is_none() {
            self.missing(&inside("master"), "the name under which the sentinels know the server, such as \"mymaster\"");
        }
        if raw.nodes.is_none() {
            self.missing(&inside("nodes"), "the sentinels' addresses, such as [\"redis://10.0.0.1:26379\"]");
        }
        let nodes = self.addresses(&inside("nodes"), raw.nodes.as_ref()?)?;
        let login = self.login(&path, raw.username.as_ref(), raw.password.as_ref());
        let database = raw.database.map_or(0, super::super::leaf::Count::small);
        Some(Place::Watched { master: raw.master.as_ref()?.0.0.clone(), nodes, login, database })
    }

    fn addresses(&mut self, path: &[String], given: &[RawGiven]) -> Option<Vec<LiveSecret>> {
        if given.is_empty() {
            self.fault(FaultKind::Value, path, "an empty list", "at least one address");
        }
        let all: Vec<_> =
            given.iter().enumerate().map(|(index, given)| self.address(&below(path, index), given)).collect();
        all.into_iter().collect::<Option<Vec<_>>>().filter(|all| !all.is_empty())
    }

    fn address(&mut self, path: &[String], given: &RawGiven) -> Option<LiveSecret> {
        let url = self.given(path, given)?;
        if scheme(&url.secret).is_none() {
            self.fault(FaultKind::Value, path, "not the address of a Redis", ADDRESS);
            return None;
        }
        Some(url)
    }

    fn login(&mut self, path: &[String], user: Option<&RawGiven>, password: Option<&RawReference>) -> Login {
        let inside = |key: &str| path.iter().cloned().chain([key.to_owned()]).collect::<KeyPath>();
        Login {
            user: user.and_then(|user| self.given(&inside("username"), user)),
            password: password.and_then(|password| self.live(&inside("password"), password)),
        }
    }

    fn given(&mut self, path: &[String], given: &RawGiven) -> Option<LiveSecret> {
        match given {
            RawGiven::Written(text) => Some(LiveSecret::fixed(Secret::new(text.0.clone().into_bytes()))),
            RawGiven::Reference(reference) => self.live(path, reference),
        }
    }

    /// A secret with the file it was read from, if it was.
    fn live(&mut self, path: &[String], raw: &RawReference) -> Option<LiveSecret> {
        let before = self.files.len();
        let (secret, _) = self.secret(path, raw)?;
        Some(LiveSecret { secret, file: self.files.get(before).cloned() })
    }

    /// All addresses with TLS or none, and its files only with it.
    fn one_kind_of_connection(&mut self, place: &Place, raw: &RawRedisTls) {
        let path = match place {
            Place::One(_) | Place::Cluster(_) => keys(&["dedup", "redis", "url"]),
            Place::Watched { .. } => keys(&["dedup", "redis", "sentinel", "nodes"]),
        };
        let encrypted = place.addresses().filter(|url| scheme(&url.secret) == Some(Scheme::Encrypted)).count();
        if encrypted > 0 && encrypted < place.addresses().count() {
            self.fault(FaultKind::Conflict, &path, "a list of redis:// and rediss://", "one of them for all addresses");
        }
        let RawRedisTls { ca, cert, key, server_name } = raw;
        let given = [ca, cert, key, server_name].into_iter().any(Option::is_some);
        if given && encrypted == 0 {
            let found = "given, and no address is rediss://";
            self.fault(FaultKind::Conflict, &keys(&["dedup", "redis", "tls"]), found, "rediss:// in place of redis://");
        }
    }

    fn tls_files(&mut self, raw: &RawRedisTls) -> TlsFiles {
        match (&raw.cert, &raw.key) {
            (Some(_), None) => self.missing(&keys(&["dedup", "redis", "tls", "key"]), "the key of `cert`"),
            (None, Some(_)) => self.missing(&keys(&["dedup", "redis", "tls", "cert"]), "the certificate of `key`"),
            (Some(_), Some(_)) | (None, None) => {}
        }
        TlsFiles {
            ca: self.pem_file("ca", raw.ca.as_ref()),
            cert: self.pem_file("cert", raw.cert.as_ref()),
            key: self.pem_file("key", raw.key.as_ref()),
            server_name: raw.server_name.as_ref().map(|name| name.0.0.clone()),
        }
    }

    fn pem_file(&mut self, key: &str, given: Option<&Text<Name>>) -> Option<PathBuf> {
        let path = keys(&["dedup", "redis", "tls", key]);
        let file = self.layers.directory(&path).join(&given?.0.0);
        let read = std::fs::read(&file).and_then(|bytes| Ok((bytes, std::fs::metadata(&file)?.mode())));
        let (bytes, mode) = match read {
            Ok(read) => read,
            Err(error) => {
                let found = format!("unreadable: cannot read {}: {}", file.display(), reason(&error));
                self.fault(FaultKind::Value, &path, found, "a readable file in PEM");
                return None;
            }
        };
        if !bytes.windows(PEM.len()).any(|window| window == PEM) {
            self.fault(FaultKind::Value, &path, format!("{}, which is not PEM", file.display()), "a file in PEM");
            return None;
        }
        if key == "key" && mode & 0o004 != 0 {
            let text =
                format!("{} can be read by everyone on this machine (mode {:04o})", file.display(), mode & 0o7777);
            self.warn(&path, text);
        }
        self.files.push(file.clone());
        Some(file)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Plain,
    Encrypted,
}

fn scheme(url: &Secret) -> Option<Scheme> {
    let (scheme, rest) = std::str::from_utf8(url.expose()).ok()?.split_once("://")?;
    match scheme {
        "redis" if !rest.is_empty() => Some(Scheme::Plain),
        "rediss" if !rest.is_empty() => Some(Scheme::Encrypted),
        _ => None,
    }
}

fn has_database(url: &Secret) -> bool {
    let text = String::from_utf8_lossy(url.expose());
    let path = text.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or("", |(_, path)| path);
    !matches!(path.split('?').next(), Some("" | "0") | None)
}

fn below(path: &[String], index: usize) -> KeyPath {
    path.iter().cloned().chain([index.to_string()]).collect()
}

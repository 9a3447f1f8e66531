//! Where Redis is and how it is asked, and what of that is read anew for each connection: addresses, credentials and
//! certificates that stand in files. Connecting is `connect.rs`'s business.

use std::io::Read;
use std::time::Duration;

use redis::{ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo};
use zeroize::Zeroizing;

use super::slots::Address;
use super::tls::Tls;
use crate::claims::store::StoreFault;
use crate::domain::secret::Secret;
use crate::domain::shared_store::{LiveSecret, Login, Place, StoreLink};

/// Longest file with an address, a user or a password.
const MOST_BYTES: u64 = 64 * 1024;

/// One Redis whose address says all there is to say.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// `redis://…`; may hold a password.
    pub url: Secret,
    /// Longest wait for an answer.
    pub timeout: Duration,
    /// How many replicas of Redis must have a claim; 0: it is not asked.
    pub wait_replicas: u32,
    /// What all keys begin with.
    pub key_prefix: String,
}

/// Where Redis is and how it is asked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How it is reached.
    pub link: StoreLink,
    /// Longest wait for an answer.
    pub timeout: Duration,
    /// How many replicas of Redis must have a claim; 0: it is not asked.
    pub wait_replicas: u32,
    /// What all keys begin with.
    pub key_prefix: String,
}

impl From<RedisSettings> for Settings {
    fn from(given: RedisSettings) -> Self {
        let RedisSettings { url, timeout, wait_replicas, key_prefix } = given;
        Self { link: StoreLink::at(url), timeout, wait_replicas, key_prefix }
    }
}

/// How a server is greeted.
#[derive(Clone)]
pub(super) struct Greeting {
    pub(super) info: RedisConnectionInfo,
    pub(super) tls: Option<Tls>,
}

/// The settings as they are now, files included.
pub(super) struct Resolved {
    /// The addresses that were given.
    pub(super) addresses: Vec<Address>,
    /// How servers that hold claims are greeted.
    pub(super) greeting: Greeting,
    /// How watchers are greeted, and what they are asked for.
    pub(super) watchers: Option<(Greeting, String)>,
}

/// Reads the settings as they are now. Blocks on files.
pub(super) fn resolve(link: &StoreLink) -> Result<Resolved, StoreFault> {
    let targets: Option<Vec<Target>> = link.place.addresses().map(|url| target(&current(url))).collect();
    // An address may hold a password: no part of it is repeated.
    let bad = || {
        let what = "is no redis:// or rediss:// address that can be read; in a password, / is written %2F, ? %3F, # %23, @ %40, % %25";
        StoreFault::Failed(format!("{} {what}", key_of(&link.place)))
    };
    let targets = targets.ok_or_else(bad)?;
    let first = targets.first().ok_or_else(bad)?;
    let encrypted = first.encrypted;
    if targets.iter().any(|target| target.encrypted != encrypted) {
        let what = format!("{}: either all addresses are rediss:// or none is", key_of(&link.place));
        return Err(StoreFault::Failed(what));
    }
    let tls = if encrypted { Some(Tls::read(&link.tls).map_err(StoreFault::Failed)?) } else { None };
    let given = first.info.clone();
    let addresses = targets.iter().map(|target| target.address.clone()).collect();
    let (greeting, watchers) = match &link.place {
        Place::One(_) | Place::Cluster(_) => (logged_in(given, &link.login)?, None),
        Place::Watched { master, login, database, .. } => {
            let own = RedisConnectionInfo::default().set_skip_set_lib_name().set_db(i64::from(*database));
            (logged_in(own, &link.login)?, Some((logged_in(given.set_db(0), login)?, master.clone())))
        }
    };
    let greet = |info| Greeting { info, tls: tls.clone() };
    Ok(Resolved {
        addresses,
        greeting: greet(greeting),
        watchers: watchers.map(|(info, master)| (greet(info), master)),
    })
}

/// What one address says.
struct Target {
    address: Address,
    encrypted: bool,
    info: RedisConnectionInfo,
}

fn target(url: &Secret) -> Option<Target> {
    let url = std::str::from_utf8(url.expose()).ok()?;
    let (scheme, rest) = url.split_once("://")?;
    let encrypted = match scheme {
        "redis" => false,
        "rediss" => true,
        _ => return None,
    };
    // TLS is laid over the connection here and not in the library: its parser is asked for the rest of the address.
    let plain = Zeroizing::new(format!("redis://{rest}"));
    let info = plain.as_str().into_connection_info().ok()?;
    let ConnectionAddr::Tcp(host, port) = info.addr().clone() else { return None };
    let greeting = info.redis_settings().clone().set_skip_set_lib_name();
    Some(Target { address: Address { host, port }, encrypted, info: greeting })
}

fn logged_in(info: RedisConnectionInfo, login: &Login) -> Result<RedisConnectionInfo, StoreFault> {
    let text = |key: &str, secret: &Secret| {
        let text = std::str::from_utf8(secret.expose()).map(str::to_owned);
        text.map(Zeroizing::new).map_err(|_| StoreFault::Failed(format!("dedup.redis.{key} is not text in UTF-8")))
    };
    let info = match &login.user {
        Some(user) => info.set_username(text("username", &current(user))?.as_str()),
        None => info,
    };
    Ok(match &login.password {
        Some(password) => info.set_password(text("password", &current(password))?.as_str()),
        None => info,
    })
}

/// A secret as its file has it now; as it was read last if the file cannot be read or is blank.
fn current(live: &LiveSecret) -> Secret {
    let read = live.file.as_ref().and_then(|file| {
        let mut bytes = Zeroizing::new(Vec::new());
        let file = std::fs::File::open(file).ok()?;
        file.take(MOST_BYTES).read_to_end(&mut bytes).ok()?;
        let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        (!text.iter().all(u8::is_ascii_whitespace)).then(|| Secret::new(text.to_vec()))
    });
    read.unwrap_or_else(|| live.secret.clone())
}

const fn key_of(place: &Place) -> &'static str {
    match place {
        Place::One(_) | Place::Cluster(_) => "dedup.redis.url",
        Place::Watched { .. } => "dedup.redis.sentinel.nodes",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::domain::shared_store::TlsFiles;

    fn live(text: &str) -> LiveSecret {
        LiveSecret::fixed(Secret::new(text.as_bytes().to_vec()))
    }

    #[test]
    fn an_address_says_where_and_who() {
        let target = target(&live("redis://me:p%40ss@h:7/3").secret).unwrap();
        assert_eq!((target.address.to_string().as_str(), target.encrypted), ("h:7", false));
        assert_eq!((target.info.username(), target.info.password()), (Some("me"), Some("p@ss")));
        assert_eq!(target.info.db(), 3);
    }

    #[test]
    fn tls_is_told_by_the_scheme_alone() {
        assert!(target(&live("rediss://h").secret).unwrap().encrypted);
        assert!(target(&live("rediss://h/#insecure").secret).unwrap().encrypted, "the check cannot be left out");
        for none in ["http://h", "unix:///run/redis", "h:6379", "redis://"] {
            assert!(target(&live(none).secret).is_none(), "{none}");
        }
    }

    #[test]
    fn a_login_beside_the_address_counts_more_than_the_one_in_it() {
        let mut link = StoreLink::at(live("redis://a:b@h").secret);
        link.login = Login { user: Some(live("c")), password: None };
        let info = resolve(&link).unwrap().greeting.info;
        assert_eq!((info.username(), info.password()), (Some("c"), Some("b")));
    }

    #[test]
    fn a_password_is_read_again_and_a_blank_file_keeps_the_last_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let secret = LiveSecret { file: Some(file.path().to_owned()), ..live("first") };
        assert_eq!(current(&secret).expose(), b"first");
        std::fs::write(file.path(), "second\r\n").unwrap();
        assert_eq!(current(&secret).expose(), b"second");
        std::fs::remove_file(file.path()).unwrap();
        assert_eq!(current(&secret).expose(), b"first");
    }

    #[test]
    fn addresses_with_and_without_tls_do_not_mix() {
        let place = Place::Cluster(vec![live("redis://a"), live("rediss://b")]);
        let link = StoreLink { place, login: Login::default(), tls: TlsFiles::default() };
        assert!(resolve(&link).err().unwrap().to_string().contains("either all"));
    }
}

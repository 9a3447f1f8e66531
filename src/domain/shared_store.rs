//! Where a store that replicas share is and how it is reached: addresses, credentials, certificates. Nothing here
//! connects or reads; it says what is to be read each time a connection is made.

use std::path::PathBuf;

use super::secret::Secret;

/// How a shared store is reached.
#[derive(Clone, Debug)]
pub struct StoreLink {
    /// Where it is.
    pub place: Place,
    /// Who we are there, in place of what the address says.
    pub login: Login,
    /// The files of a connection over TLS, and the name it is checked against.
    pub tls: TlsFiles,
}

impl StoreLink {
    /// One server at `url`, which says all there is to say.
    #[must_use]
    pub fn at(url: Secret) -> Self {
        Self { place: Place::One(LiveSecret::fixed(url)), login: Login::default(), tls: TlsFiles::default() }
    }

    /// All that is secret of it, as it was read last: addresses, users, passwords.
    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        let watched = match &self.place {
            Place::Watched { login, .. } => Some(login),
            Place::One(_) | Place::Cluster(_) => None,
        };
        let logins = watched.into_iter().chain([&self.login]);
        let said = logins.flat_map(|login| login.user.iter().chain(&login.password));
        self.place.addresses().chain(said).map(|live| &live.secret)
    }
}

/// Where a shared store is.
#[derive(Clone, Debug)]
pub enum Place {
    /// One server.
    One(LiveSecret),
    /// A cluster, of which these servers are asked for the others.
    Cluster(Vec<LiveSecret>),
    /// Whichever server these watchers name.
    Watched {
        /// The name under which they know it.
        master: String,
        /// The watchers' addresses.
        nodes: Vec<LiveSecret>,
        /// Who we are to the watchers.
        login: Login,
        /// Number of the database at the server.
        database: u32,
    },
}

impl Place {
    /// The addresses that were given.
    pub fn addresses(&self) -> impl Iterator<Item = &LiveSecret> {
        match self {
            Self::One(url) => std::slice::from_ref(url).iter(),
            Self::Cluster(urls) => urls.iter(),
            Self::Watched { nodes, .. } => nodes.iter(),
        }
    }
}

/// Who we are to a store. Nothing: nobody, or what the address says.
#[derive(Clone, Debug, Default)]
pub struct Login {
    /// The user; without one, the store's default user.
    pub user: Option<LiveSecret>,
    /// The password.
    pub password: Option<LiveSecret>,
}

/// Files in PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Who may vouch for the server; without it, whoever this machine trusts.
    pub ca: Option<PathBuf>,
    /// Our own certificate, with what leads to its root.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// The name that the server's certificate has to hold, in place of the address.
    pub server_name: Option<String>,
}

/// A secret that may change while the gateway runs.
#[derive(Clone, Debug)]
pub struct LiveSecret {
    /// As it was read last.
    pub secret: Secret,
    /// The file it is read from again.
    pub file: Option<PathBuf>,
}

impl LiveSecret {
    /// One that changes with the configuration alone.
    #[must_use]
    pub const fn fixed(secret: Secret) -> Self {
        Self { secret, file: None }
    }
}

//! A secret as the operator gave it. It can be used for a check and can not be read back, printed or compared.

use std::fmt;

use zeroize::Zeroizing;

use super::scheme::Key;
use super::time::Timestamp;

/// Secret bytes. Wiped when dropped; `Debug` shows nothing of them.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the bytes as they are; blank secrets are refused by whoever reads them from outside.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, for the one place that computes with them.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Where a secret came from, for reports: it names the place, never the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretOrigin {
    /// An environment variable of this name.
    Env(String),
    /// A file of this path.
    File(String),
    /// A systemd credential of this name.
    Credential(String),
    /// Written into the configuration.
    Literal,
}

impl fmt::Display for SecretOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{path}"),
            Self::Credential(name) => write!(f, "credential:{name}"),
            Self::Literal => f.write_str("literal"),
        }
    }
}

/// One of a route's secrets. Its position in the route's list is its name in metrics.
#[derive(Clone, Debug)]
pub struct RouteSecret {
    /// The bytes.
    pub secret: Secret,
    /// The same, ready for the route's scheme.
    pub key: Key,
    /// Where they came from.
    pub origin: SecretOrigin,
    /// From this moment on the secret is no longer tried.
    pub until: Option<Timestamp>,
}

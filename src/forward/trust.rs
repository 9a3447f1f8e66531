//! Whose certificates of an application are believed.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};

use crate::domain::route::AppPolicy;

/// A choice of authorities.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Trust {
    /// Nobody's: the application is reached without TLS.
    Nobody,
    /// The system's authorities.
    System,
    /// These alone, in DER.
    These(Arc<[Vec<u8>]>),
}

impl Trust {
    /// What the configuration says.
    #[must_use]
    pub(super) fn of(app: &AppPolicy) -> Self {
        match &app.ca {
            _ if !app.url.is_https() => Self::Nobody,
            None => Self::System,
            Some(these) => Self::These(these.clone()),
        }
    }

    /// As a client's configuration: TLS 1.2 and 1.3, the name checked, no way around it.
    pub(super) fn tls(&self) -> Result<ClientConfig, rustls::Error> {
        let mut roots = RootCertStore::empty();
        match self {
            Self::Nobody => {}
            Self::System => match rustls_native_certs::load_native_certs() {
                Ok(found) => {
                    let (taken, _odd) = roots.add_parsable_certificates(found);
                    if taken == 0 {
                        tracing::error!("the system has no certificates of authorities: give app.ca");
                    }
                }
                Err(error) => tracing::error!(%error, "the system's authorities cannot be read: give app.ca"),
            },
            // Each was tried when the configuration was checked.
            Self::These(these) => {
                roots.add_parsable_certificates(these.iter().map(|one| CertificateDer::from(one.as_slice())));
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        Ok(builder.with_root_certificates(roots).with_no_client_auth())
    }
}

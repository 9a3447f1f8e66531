//! TLS to Redis: certificates from files, read anew for each connection, so that a renewed one counts from the next
//! connection on. There is no way to leave the check of the server's certificate out.

use std::path::Path;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::domain::shared_store::TlsFiles;

/// What a connection over TLS needs. Cloning shares it.
#[derive(Clone)]
pub(super) struct Tls {
    config: Arc<ClientConfig>,
    server_name: Option<String>,
}

impl Tls {
    /// Reads the files. Errors name the key of the configuration and never show what a file holds.
    pub(super) fn read(files: &TlsFiles) -> Result<Self, String> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().map_err(|error| format!("TLS: {error}"))?;
        let builder = builder.with_root_certificates(roots(files)?);
        let config = match (&files.cert, &files.key) {
            (Some(cert), Some(key)) => {
                let chain = certificates("cert", cert)?;
                let key = PrivateKeyDer::from_pem_file(key).map_err(|_| {
                    format!("dedup.redis.tls.key: no private key in PEM could be read from {}", key.display())
                })?;
                builder.with_client_auth_cert(chain, key).map_err(|error| format!("dedup.redis.tls.cert: {error}"))?
            }
            (None, _) | (_, None) => builder.with_no_client_auth(),
        };
        Ok(Self { config: Arc::new(config), server_name: files.server_name.clone() })
    }

    /// Puts TLS over a connection to `host`.
    pub(super) async fn over(&self, stream: TcpStream, host: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let name = self.server_name.as_deref().unwrap_or(host).to_owned();
        let name = ServerName::try_from(name)
            .map_err(|_| std::io::Error::new(std::io::ErrorKind::InvalidInput, "its name is none for a certificate"))?;
        TlsConnector::from(self.config.clone()).connect(name, stream).await
    }
}

fn roots(files: &TlsFiles) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let given = match &files.ca {
        Some(ca) => certificates("ca", ca)?,
        None => rustls_native_certs::load_native_certs()
            .map_err(|error| format!("the certificates that this machine trusts cannot be read: {error}"))?,
    };
    let (_, unusable) = roots.add_parsable_certificates(given);
    if files.ca.is_some() && (roots.is_empty() || unusable > 0) {
        return Err("dedup.redis.tls.ca: expected certificates that can be trusted as roots".to_owned());
    }
    if roots.is_empty() {
        return Err(
            "this machine has no authorities by which redis could prove its name: give dedup.redis.tls.ca".to_owned()
        );
    }
    Ok(roots)
}

fn certificates(key: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bad = || format!("dedup.redis.tls.{key}: no certificate in PEM could be read from {}", file.display());
    let read: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file).map_err(|_| bad())?.collect();
    read.ok().filter(|certificates| !certificates.is_empty()).ok_or_else(bad)
}

//! TLS on the senders' address: certificates by the name that is asked for, client certificates where they are wanted,
//! and files that may change under a running gateway. It answers no request.
//!
//! TLS 1.2 and 1.3 with `rustls`' own choice of suites (<https://docs.rs/rustls>); HTTP/2 is offered where it is asked for, and
//! HTTP/1.1 always.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::telemetry::Metrics;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What HTTP/2 is called in a handshake (RFC 9113 section 3.2).
const HTTP2: &[u8] = b"h2";

/// Most certificates of a chain and of a list of authorities: a file with more is not what it is taken for.
const MOST_CERTIFICATES: usize = 1024;

/// Whether HTTP/2 was agreed on.
pub(crate) fn speaks_http2(stream: &TlsStream<TcpStream>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(HTTP2)
}

/// Where certificates are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// The first is shown to who asks for no name or one that none has.
    pub certificates: Vec<CertificateFiles>,
    /// Authorities of which every sender must have a certificate.
    pub client_ca: Option<PathBuf>,
    /// Whether HTTP/2 is offered besides HTTP/1.1.
    pub h2: bool,
}

/// A certificate with its chain and its key, both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate, then those that lead to its authority.
    pub cert: PathBuf,
    /// Its key: PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
}

/// What is known of the files.
struct Known {
    /// When they were written that are in use, or were last found bad.
    written: Vec<Option<SystemTime>>,
    /// What is wrong with them.
    fault: Option<TlsFault>,
}

/// What is wrong with the files. The operator's to mend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {found}; expected {expected}", path.display())]
pub struct TlsFault {
    /// The file.
    pub path: PathBuf,
    /// What was seen.
    pub found: String,
    /// What would be right.
    pub expected: &'static str,
}

/// The certificates in use. Cloning shares them.
#[derive(Clone)]
pub struct Tls(Arc<Inner>);

struct Inner {
    settings: TlsSettings,
    config: ArcSwap<ServerConfig>,
    /// What was last found. Held while the files are read.
    known: Mutex<Known>,
    metrics: Arc<Metrics>,
}

impl Tls {
    /// Reads the files.
    pub fn load(settings: TlsSettings, metrics: Arc<Metrics>) -> Result<Self, TlsFault> {
        let written = written(&settings);
        let (config, validity) = server_config(&settings)?;
        let inner = Inner {
            settings,
            config: ArcSwap::from(config),
            known: Mutex::new(Known { written, fault: None }),
            metrics,
        };
        inner.show(&validity);
        Ok(Self(Arc::new(inner)))
    }

    /// Reads the files and says what is wrong with them.
    pub fn check(settings: &TlsSettings) -> Result<(), TlsFault> {
        server_config(settings).map(|_| ())
    }

    /// Looks whether a file has changed, and reads all of them if one has. Files that are bad change nothing but the log
    /// and the metrics: the ones before stay in use, and what is wrong is said at each look until it is mended.
    pub fn look(&self) -> Result<(), TlsFault> {
        let mut known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = written(&self.0.settings);
        // What was wrong may be mended without a change of a file: who may read it, for one.
        if known.written == now && known.fault.is_none() {
            return Ok(());
        }
        known.written = now;
        let read = server_config(&self.0.settings);
        let before = std::mem::replace(&mut known.fault, read.as_ref().err().cloned());
        match read {
            Ok((config, validity)) => {
                self.0.config.store(config);
                self.0.show(&validity);
                self.0.metrics.tls.last_reload_successful.set(1);
                tracing::info!("the TLS certificates were read anew");
                Ok(())
            }
            Err(fault) => {
                self.0.metrics.tls.last_reload_successful.set(0);
                if before.as_ref() != Some(&fault) {
                    tracing::error!(%fault, "the TLS files have changed and cannot be used: the ones before stay in use");
                }
                Err(fault)
            }
        }
    }

    /// Looks every few seconds. Never returns; dropping it is safe.
    pub async fn tend(&self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let tls = self.clone();
            // Files may lie on a disk that stalls. What is wrong with them was logged.
            let _looked = tokio::task::spawn_blocking(move || tls.look()).await;
        }
    }

    /// The handshake. The caller sets the deadline; dropped, the connection closes.
    pub(crate) async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        TlsAcceptor::from(self.0.config.load_full()).accept(stream).await
    }
}

impl Inner {
    fn show(&self, validity: &[i64]) {
        self.metrics.tls.last_reload_successful.set(1);
        for (files, not_after) in self.settings.certificates.iter().zip(validity) {
            let name = files.cert.display().to_string();
            self.metrics.tls.certificate_not_after_timestamp_seconds.with_label_values(&[&name]).set(*not_after);
        }
    }
}

fn written(settings: &TlsSettings) -> Vec<Option<SystemTime>> {
    let time = |path: &PathBuf| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let own = settings.certificates.iter().flat_map(|files| [&files.cert, &files.key]);
    own.chain(&settings.client_ca).map(time).collect()
}

/// The files as `rustls` wants them, and until when each certificate is valid in Unix seconds.
fn server_config(settings: &TlsSettings) -> Result<(Arc<ServerConfig>, Vec<i64>), TlsFault> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let read = settings.certificates.iter().map(|files| Shown::read(files, &provider));
    let shown = read.collect::<Result<Vec<_>, _>>()?;
    let validity = shown.iter().map(|shown| shown.not_after).collect();
    let first = settings.certificates.first().map(|files| files.cert.clone()).unwrap_or_default();
    let unusable = |error: rustls::Error| TlsFault {
        path: first.clone(),
        found: error.to_string(),
        expected: "a certificate and key for a TLS server",
    };
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(unusable)?;
    let builder = match &settings.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities(path)?), provider).build();
            let verifier = verifier.map_err(|error| TlsFault {
                path: path.clone(),
                found: error.to_string(),
                expected: "certificates of authorities",
            })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(ByName(shown)));
    let offered: &[&[u8]] = if settings.h2 { &[HTTP2, b"http/1.1"] } else { &[b"http/1.1"] };
    config.alpn_protocols = offered.iter().map(|name| name.to_vec()).collect();
    Ok((Arc::new(config), validity))
}

/// The certificates of authorities in a file.
fn authorities(path: &Path) -> Result<RootCertStore, TlsFault> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| TlsFault {
            path: path.to_owned(),
            found: error.to_string(),
            expected: "certificates of authorities, PEM",
        })?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFault> {
    let fault = |found: String| TlsFault { path: path.to_owned(), found, expected: "certificates, PEM" };
    let read = CertificateDer::pem_file_iter(path).map_err(|error| fault(error.to_string()))?;
    let found: Vec<_> =
        read.take(MOST_CERTIFICATES).collect::<Result<_, _>>().map_err(|error| fault(error.to_string()))?;
    if found.is_empty() {
        return Err(fault("no certificate".to_owned()));
    }
    Ok(found)
}

/// A certificate that may be shown.
struct Shown {
    names: Vec<String>,
    key: Arc<CertifiedKey>,
    not_after: i64,
}

impl Shown {
    fn read(files: &CertificateFiles, provider: &CryptoProvider) -> Result<Self, TlsFault> {
        let chain = certificates(&files.cert)?;
        let (names, not_after) = chain.first().and_then(|first| facts(first)).ok_or_else(|| TlsFault {
            path: files.cert.clone(),
            found: "a certificate that cannot be read".to_owned(),
            expected: "an X.509 certificate",
        })?;
        // What is wrong with a key is said without a byte of it.
        let bad_key = |found: &str| TlsFault {
            path: files.key.clone(),
            found: found.to_owned(),
            expected: "the certificate's private key, PEM, without a password",
        };
        let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| {
            let unread = if let pem::Error::Io(error) = &error { Some(error.to_string()) } else { None };
            bad_key(&unread.unwrap_or_else(|| "no private key".to_owned()))
        })?;
        let key = provider.key_provider.load_private_key(key).map_err(|_| bad_key("a key of an unknown kind"))?;
        let key = CertifiedKey::new(chain, key);
        match key.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(_) => return Err(bad_key("the key of another certificate")),
        }
        Ok(Self { names, key: Arc::new(key), not_after })
    }

    fn is_for(&self, asked: &str) -> bool {
        let rest = asked.split_once('.').map(|(_, rest)| rest);
        self.names.iter().any(|name| match name.strip_prefix("*.") {
            Some(below) => rest.is_some_and(|rest| rest.eq_ignore_ascii_case(below)),
            None => name.eq_ignore_ascii_case(asked),
        })
    }
}

/// The DNS names of a certificate and the last second of its validity.
fn facts(certificate: &[u8]) -> Option<(Vec<String>, i64)> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let names =
        parsed.subject_alternative_name().ok().flatten().into_iter().flat_map(|names| &names.value.general_names);
    let names =
        names.filter_map(|name| if let GeneralName::DNSName(name) = name { Some((*name).to_owned()) } else { None });
    Some((names.collect(), parsed.validity().not_after.timestamp()))
}

/// Picks by the name that is asked for (RFC 6066 section 3); the first where none fits.
struct ByName(Vec<Shown>);

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let fits = hello.server_name().and_then(|asked| self.0.iter().find(|shown| shown.is_for(asked)));
        fits.or_else(|| self.0.first()).map(|shown| shown.key.clone())
    }
}

impl fmt::Debug for ByName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|shown| &shown.names)).finish()
    }
}

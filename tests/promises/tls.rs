//! TLS on the senders' address: who gets which certificate, who gets in, and files that change under a running gateway.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, ProtocolVersion, RootCertStore, StreamOwned, SupportedProtocolVersion};

use crate::world::app::App;
use crate::world::clock::{eventually, pause};
use crate::world::events::task;
use crate::world::gateway::Gateway;
use crate::world::sender::Request;
use crate::world::setup::Setup;
use crate::world::sign::Provider;

/// An authority and what it has signed, in a folder.
pub(crate) struct Papers {
    folder: tempfile::TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Papers {
    /// A new authority.
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority");
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { folder: tempfile::tempdir().unwrap(), authority }
    }

    /// Writes `file.crt` and `file.key` for these names.
    pub(crate) fn write(&self, file: &str, names: &[&str]) {
        let (certificate, key) = self.sign(names);
        std::fs::write(self.path(&format!("{file}.crt")), certificate.pem()).unwrap();
        std::fs::write(self.path(&format!("{file}.key")), key.serialize_pem()).unwrap();
    }

    fn sign(&self, names: &[&str]) -> (rcgen::Certificate, KeyPair) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        (CertificateParams::new(names).unwrap().signed_by(&key, &self.authority).unwrap(), key)
    }

    /// Where a file is.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn authority_file(&self) -> PathBuf {
        let path = self.path("ca.crt");
        std::fs::write(&path, self.authority.pem()).unwrap();
        path
    }

    /// A line of the configuration that names a file.
    pub(crate) fn line(&self, key: &str, file: &str) -> String {
        format!("server.tls.{key} = '{}'", self.path(file).display())
    }

    /// A gateway with `first.crt`, and these lines.
    pub(crate) fn gateway(&self, app: &App, more: &[&str]) -> Gateway {
        self.write("first", &["hooks.example.com"]);
        let own = [self.line("cert", "first.crt"), self.line("key", "first.key")];
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        Gateway::start(Setup::new(&app.url()).with(&own).with(more))
    }

    /// A sender that trusts the authority.
    pub(crate) fn sender(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        own: Option<(rcgen::Certificate, KeyPair)>,
    ) -> Sender {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let builder = builder.with_root_certificates(roots);
        let config = match own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
                builder.with_client_auth_cert(vec![certificate.der().clone()], key).unwrap()
            }
        };
        Sender(Arc::new(config))
    }
}

/// A sender that speaks TLS.
pub(crate) struct Sender(pub(crate) Arc<ClientConfig>);

pub(crate) type Encrypted = StreamOwned<ClientConnection, TcpStream>;

impl Sender {
    /// Connects and shakes hands.
    pub(crate) fn connect(&self, gateway: &Gateway, name: &str) -> Result<Encrypted, std::io::Error> {
        let stream = TcpStream::connect(gateway.address())?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut encrypted = StreamOwned::new(ClientConnection::new(self.0.clone(), name).unwrap(), stream);
        while encrypted.conn.is_handshaking() {
            encrypted.conn.complete_io(&mut encrypted.sock)?;
        }
        Ok(encrypted)
    }

    /// The certificate that is shown to who asks for `name`.
    fn shown(&self, gateway: &Gateway, name: &str) -> CertificateDer<'static> {
        let encrypted = self.connect(gateway, name).unwrap();
        encrypted.conn.peer_certificates().unwrap()[0].clone().into_owned()
    }

    /// Sends and reads to the end; the text of the reply.
    pub(crate) fn send(&self, gateway: &Gateway, request: &Request) -> Result<String, std::io::Error> {
        exchange(&mut self.connect(gateway, "hooks.example.com")?, request)
    }
}

fn exchange(encrypted: &mut Encrypted, request: &Request) -> Result<String, std::io::Error> {
    let (head, body) = request.clone().with("Connection", "close").bytes();
    encrypted.write_all(&head)?;
    encrypted.write_all(&body)?;
    let mut reply = Vec::new();
    encrypted.read_to_end(&mut reply)?;
    Ok(String::from_utf8(reply).unwrap())
}

/// Every version that the gateway speaks.
pub(crate) const ALL: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

fn file_of(certificate: &CertificateDer<'_>, papers: &Papers) -> String {
    let files = std::fs::read_dir(papers.folder.path()).unwrap().flatten().map(|file| file.path());
    let is_it = |path: &Path| {
        path.extension().is_some_and(|kind| kind == "crt")
            && rustls::pki_types::pem::PemObject::pem_file_iter(path)
                .unwrap()
                .any(|found: Result<CertificateDer<'_>, _>| found.unwrap() == *certificate)
    };
    let found = files.into_iter().find(|path| is_it(path)).expect("one of the certificates");
    found.file_stem().unwrap().to_string_lossy().into_owned()
}

#[test]
fn signed_requests_come_in_over_both_versions_of_tls_and_the_application_is_told() {
    let (papers, app) = (Papers::new(), App::start());
    let gateway = papers.gateway(&app, &[]);
    for (n, version) in ALL.iter().enumerate() {
        let sender = papers.sender(&[version], None);
        let mut encrypted = sender.connect(&gateway, "hooks.example.com").unwrap();
        let spoken = encrypted.conn.protocol_version().unwrap();
        assert_eq!(spoken, if n == 0 { ProtocolVersion::TLSv1_3 } else { ProtocolVersion::TLSv1_2 });
        let reply = exchange(&mut encrypted, &Provider::Veedeo.sign(task(n))).unwrap();
        assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    }
    let bad = Provider::Veedeo.sign(task("bad")).without("X-Veedeo-Signature");
    assert!(papers.sender(ALL, None).send(&gateway, &bad).unwrap().starts_with("HTTP/1.1 401"));
    let seen = app.seen();
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|seen| seen.headers.all("X-Forwarded-Proto") == ["https"]), "{seen:?}");
    // Plain HTTP is told nothing and reaches nobody.
    assert!(gateway.try_send(&Provider::Veedeo.sign(task("plain"))).is_err());
    assert_eq!(app.count(), 2);
    eventually("the failed handshake is counted", Duration::from_secs(5), || {
        (gateway.metrics().count("hookgate_tls_handshake_failures_total", &[("reason", "failed")]) > 0).then_some(())
    });
}

#[test]
fn the_certificate_is_picked_by_the_name_that_is_asked_for() {
    let (papers, app) = (Papers::new(), App::start());
    papers.write("second", &["second.example.net"]);
    papers.write("wild", &["*.wild.example.net"]);
    let pair = |file: &str| {
        format!(
            "{{ cert = '{}', key = '{}' }}",
            papers.path(&format!("{file}.crt")).display(),
            papers.path(&format!("{file}.key")).display()
        )
    };
    let gateway = papers.gateway(&app, &[&format!("server.tls.also = [{}, {}]", pair("second"), pair("wild"))]);
    let sender = papers.sender(ALL, None);
    for (name, file) in [
        ("hooks.example.com", "first"),
        ("second.example.net", "second"),
        ("SECOND.example.net", "second"),
        ("a.wild.example.net", "wild"),
    ] {
        assert_eq!(file_of(&sender.shown(&gateway, name), &papers), file, "{name}");
    }
    // A name that nobody has gets the first, which its asker does not believe.
    for name in ["b.a.wild.example.net", "wild.example.net", "other.example.org"] {
        assert!(sender.connect(&gateway, name).is_err(), "{name}");
    }
}

#[test]
fn without_a_certificate_of_the_authority_nobody_gets_in_where_one_is_wanted() {
    let (papers, others, app) = (Papers::new(), Papers::new(), App::start());
    let line = format!("server.tls.client_ca = '{}'", papers.authority_file().display());
    let gateway = papers.gateway(&app, &[&line]);
    let request = Provider::Veedeo.sign(task("a"));
    for (version, nobody) in [(ALL, None), (&ALL[1..], None), (ALL, Some(others.sign(&["a sender"])))] {
        assert!(papers.sender(version, nobody).send(&gateway, &request).is_err());
    }
    assert_eq!(app.count(), 0);
    let reply = papers.sender(ALL, Some(papers.sign(&["a sender"]))).send(&gateway, &request).unwrap();
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
}

#[test]
fn certificates_that_change_are_used_and_bad_ones_are_not() {
    let (papers, app) = (Papers::new(), App::start());
    let gateway = papers.gateway(&app, &[]);
    let sender = papers.sender(ALL, None);
    let before = sender.shown(&gateway, "hooks.example.com");
    let ends = || gateway.metrics().find("hookgate_tls_certificate_not_after_timestamp_seconds", &[]).unwrap();
    assert!(ends() > 1.8e9, "{}", ends());
    // Half of a pair, as somebody who copies one file after the other leaves it.
    pause(Duration::from_millis(20));
    let (_, key) = papers.sign(&["hooks.example.com"]);
    std::fs::write(papers.path("first.key"), key.serialize_pem()).unwrap();
    eventually("the change is noticed", Duration::from_secs(15), || {
        (gateway.metrics().count("hookgate_tls_last_reload_successful", &[]) == 0).then_some(())
    });
    assert!(sender.shown(&gateway, "hooks.example.com") == before, "the pair before stays in use");
    let words = ["\"level\":\"error\"", "first.key", "the key of another certificate"];
    gateway.wait_for_log(&words);
    let told = gateway.log(&words);
    assert!(!told.iter().any(|line| line.contains("PRIVATE")), "{told:?}");
    for round in 0..2 {
        let refused = gateway.ask(&["reload"]);
        assert!(refused.code == Some(78) && refused.stderr.contains("first.key"), "{round}: {refused:?}");
    }
    // Mended without a sign of it: the files are as old as they were.
    let files = ["first.crt", "first.key"].map(|name| papers.path(name));
    let written = files.clone().map(|file| std::fs::metadata(file).unwrap().modified().unwrap());
    papers.write("first", &["hooks.example.com"]);
    for (file, time) in files.iter().zip(written) {
        std::fs::File::options().write(true).open(file).unwrap().set_modified(time).unwrap();
    }
    eventually("the whole pair is used", Duration::from_secs(15), || {
        (sender.shown(&gateway, "hooks.example.com") != before).then_some(())
    });
    assert_eq!(gateway.metrics().count("hookgate_tls_last_reload_successful", &[]), 1);
}

#[test]
fn files_that_wait_for_a_restart_leave_those_before_in_use_and_unasked_for() {
    let (papers, app) = (Papers::new(), App::start());
    let mut gateway = papers.gateway(&app, &[]);
    papers.write("other", &["hooks.example.com"]);
    gateway.configure(&[&papers.line("cert", "other.crt"), &papers.line("key", "other.key")]);
    for round in 0..2 {
        let reloaded = gateway.ask(&["reload"]);
        assert!(reloaded.code == Some(0) && reloaded.stdout.contains("restart: server.tls"), "{round}: {reloaded:?}");
    }
    gateway.configure(&[&papers.line("cert", "typo.crt")]);
    let refused = gateway.ask(&["reload"]);
    assert!(refused.code == Some(78) && format!("{refused:?}").contains("typo.crt"), "no start takes it: {refused:?}");
    assert_eq!(gateway.metrics().count("hookgate_config_last_reload_successful", &[]), 0);
    gateway.configure(&[&papers.line("cert", "other.crt")]);
    for file in ["first.crt", "first.key"] {
        std::fs::remove_file(papers.path(file)).unwrap();
    }
    let reloaded = gateway.ask(&["reload"]);
    assert!(reloaded.code == Some(0) && reloaded.stdout.contains("restart: server.tls"), "{reloaded:?}");
    let reply = papers.sender(ALL, None).send(&gateway, &Provider::Veedeo.sign(task("a"))).unwrap();
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
}

#[test]
fn a_handshake_that_does_not_come_to_an_end_is_cut_at_the_heads_deadline() {
    let (papers, app) = (Papers::new(), App::start());
    let gateway = papers.gateway(&app, &["server.header_timeout = '1s'"]);
    let began = Instant::now();
    let mut lines: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(gateway.address()).unwrap()).collect();
    for (n, line) in lines.iter_mut().enumerate() {
        line.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        // Nothing, or the beginning of a hello.
        line.write_all(&[0x16, 3, 1, 2, 0][..n % 6]).unwrap();
    }
    for line in &mut lines {
        let mut rest = Vec::new();
        let _cut = line.read_to_end(&mut rest);
    }
    let took = began.elapsed();
    assert!((Duration::from_millis(900)..Duration::from_secs(3)).contains(&took), "{took:?}");
    // The connection ends before it is counted.
    eventually("each is counted", Duration::from_secs(5), || {
        let counted = gateway.metrics().count("hookgate_tls_handshake_failures_total", &[("reason", "timeout")]);
        (counted == 20).then_some(())
    });
    let reply = papers.sender(ALL, None).send(&gateway, &Provider::Veedeo.sign(task("after"))).unwrap();
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
}

#[test]
fn files_that_cannot_be_used_stop_the_start_and_are_named() {
    let (papers, app) = (Papers::new(), App::stopped());
    papers.write("first", &["hooks.example.com"]);
    papers.write("other", &["hooks.example.com"]);
    std::fs::write(papers.path("empty.crt"), "nothing").unwrap();
    for (cert, key, said) in [
        ("first.crt", "other.key", "other.key: the key of another certificate"),
        ("first.crt", "first.crt", "first.crt: no private key"),
        ("empty.crt", "first.key", "empty.crt: no certificate"),
        ("absent.crt", "first.key", "absent.crt"),
    ] {
        let lines = [papers.line("cert", cert), papers.line("key", key)];
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let mut gateway = Gateway::prepared(Setup::new(&app.url()).with(&lines));
        let file = gateway.configuration_path().to_string_lossy().into_owned();
        let validated = gateway.run(&["validate", "--json", "-c", &file]);
        assert_eq!(validated.code, Some(78), "{validated:?}");
        let seen: serde_json::Value = serde_json::from_str(&validated.stdout).unwrap();
        let fault = &seen["faults"][0];
        assert!(fault["found"].as_str().unwrap().contains(said), "{fault}");
        let written = std::fs::read_to_string(&file).unwrap();
        let line = fault["line"].as_u64().unwrap();
        let (_, line) = (1..).zip(written.lines()).find(|(number, _)| *number == line).unwrap();
        assert!(line.starts_with(fault["key"].as_str().unwrap()), "{line} {fault}");
        gateway.launch();
        let status = gateway.wait_for_end(Duration::from_secs(20));
        let told = gateway.said().join("\n");
        assert_eq!(status.code(), Some(78), "{told}");
        assert!(told.contains(said), "{told}");
    }
}

// ---- the application behind TLS

/// TLS in front of an application, at an address of its own, until it is dropped.
struct Front {
    address: std::net::SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl Front {
    fn of(app: &App, papers: &Papers, names: &[&str]) -> Self {
        let (certificate, key) = papers.sign(names);
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider).with_protocol_versions(ALL).unwrap();
        let config = builder.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let behind = app.url().trim_start_matches("http://").to_owned();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, behind) = (acceptor.clone(), behind.clone());
                tokio::spawn(async move {
                    let Ok(mut outside) = acceptor.accept(stream).await else { return };
                    let Ok(mut inside) = tokio::net::TcpStream::connect(behind).await else { return };
                    let _ended = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
                });
            }
        });
        Self { address, _runtime: runtime }
    }

    fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }
}

#[test]
fn an_application_behind_tls_is_reached_and_so_are_its_passthrough_paths() {
    let (papers, app) = (Papers::new(), App::start());
    let front = Front::of(&app, &papers, &["localhost"]);
    let ca = format!("app.ca = '{}'", papers.authority_file().display());
    let gateway = Gateway::start(Setup::new(&front.url()).with(&[&ca, "passthrough.paths = ['/health']"]));
    let reply = gateway.send(&Provider::Veedeo.sign(task("a")));
    assert_eq!((reply.status, reply.text().as_str()), (200, "{\"app\":200}"));
    assert_eq!(gateway.send(&Request::get("/health")).status, 200);
    let seen = app.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0].headers.all("Host"), ["hooks.example.com"]);
}

#[test]
fn an_application_that_cannot_prove_its_name_gets_no_event_and_gets_it_unflagged_when_it_can() {
    let (papers, others, app) = (Papers::new(), Papers::new(), App::start());
    let wrong_name = Front::of(&app, &papers, &["elsewhere.example.com"]);
    let right = Front::of(&app, &papers, &["localhost"]);
    let theirs = format!("app.ca = '{}'", papers.authority_file().display());
    let not_theirs = format!("app.ca = '{}'", others.authority_file().display());
    for (n, (front, ca)) in [(&wrong_name, &theirs), (&right, &not_theirs)].into_iter().enumerate() {
        let mut gateway = Gateway::start(Setup::new(&front.url()).with(&[ca]));
        let reply = gateway.send(&Provider::Veedeo.sign(task(n)));
        assert!(reply.acked(), "{}", reply.text());
        eventually("an attempt was made", Duration::from_secs(10), || {
            (gateway.metrics().count("hookgate_attempts_total", &[("outcome", "unreachable")]) > 0).then_some(())
        });
        assert_eq!(app.count(), n, "nothing of the event went through");
        gateway.configure(&[&format!("app.url = '{}'", right.url()), &theirs]);
        gateway.signal(rustix::process::Signal::HUP);
        gateway.wait_for_empty_spool(Duration::from_secs(20));
        assert_eq!(app.count(), n + 1);
        assert_eq!(app.seen()[n].headers.all("Hookgate-Possible-Duplicate"), Vec::<String>::new());
    }
}

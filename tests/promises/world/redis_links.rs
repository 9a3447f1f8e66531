//! Redis in the shapes it has in operation: with TLS, with users, watched by Sentinel, as a cluster. Real servers on
//! ports of their own, each with a folder of its own that goes with it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::clock::{SOON, eventually};
use super::ports::Port;

/// A running (or killed) redis-server.
pub(crate) struct Server {
    port: Port,
    /// The port of the cluster's own talk.
    bus: Port,
    folder: TempDir,
    child: Option<Child>,
    arguments: Vec<String>,
    /// What redis-cli needs to be let in.
    entry: Vec<String>,
}

impl Server {
    /// Starts one with these options and waits for its PONG.
    pub(crate) fn start(options: &[&str]) -> Self {
        let server = Self::launch(options, Vec::new());
        server.wait_for_pong();
        server
    }

    fn launch(options: &[&str], entry: Vec<String>) -> Self {
        let mut server = Self::prepared(entry);
        let port = server.number();
        let listen: &[&str] =
            if server.entry.is_empty() { &["--port", &port] } else { &["--port", "0", "--tls-port", &port] };
        let usual = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
        server.arguments = [listen, &usual, options].concat().into_iter().map(str::to_owned).collect();
        server.spawn();
        server
    }

    fn prepared(entry: Vec<String>) -> Self {
        Self {
            port: Port::claim(),
            bus: Port::claim(),
            folder: tempfile::tempdir().expect("a folder for temporary files"),
            child: None,
            arguments: Vec::new(),
            entry,
        }
    }

    /// Starts it again after it was killed, in the same folder and on the same port.
    pub(crate) fn start_again(&mut self) {
        assert!(self.child.is_none(), "redis-server runs already");
        self.spawn();
        self.wait_for_pong();
    }

    /// One that takes TLS alone, from who shows a certificate of `authority`.
    pub(crate) fn with_tls(authority: &Authority) -> Self {
        let (ca, cert, key) = (authority.ca(), authority.file("server.crt"), authority.file("server.key"));
        let options =
            ["--tls-ca-cert-file", &ca, "--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-auth-clients", "yes"];
        let entry = ["--tls", "--cacert", &ca, "--cert", &cert, "--key", &key].map(str::to_owned).to_vec();
        let server = Self::launch(&options, entry);
        server.wait_for_pong();
        server
    }

    /// A sentinel that watches `master` under the name `mymaster`.
    pub(crate) fn sentinel(master: &Self) -> Self {
        let mut server = Self::prepared(Vec::new());
        let file = server.folder.path().join("sentinel.conf");
        let text = format!(
            "port {}\nbind 127.0.0.1\nsentinel monitor mymaster 127.0.0.1 {} 1\n\
             sentinel down-after-milliseconds mymaster 700\nsentinel failover-timeout mymaster 4000\n",
            server.number(),
            master.number()
        );
        std::fs::write(&file, text).expect("a folder that can be written");
        server.arguments = vec![file.to_string_lossy().into_owned(), "--sentinel".to_owned()];
        server.spawn();
        server.wait_for_pong();
        server
    }

    fn spawn(&mut self) {
        let mut command = Command::new("redis-server");
        command.current_dir(self.folder.path()).args(&self.arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().expect("redis-server on the PATH: apt-get install redis-server"));
    }

    fn wait_for_pong(&self) {
        eventually("redis-server answers PING", SOON, || self.try_cli(&["PING"]).filter(|said| said == "PONG"));
    }

    /// `127.0.0.1:port`.
    pub(crate) fn address(&self) -> String {
        self.port.address()
    }

    /// Its port as text.
    pub(crate) fn number(&self) -> String {
        self.port.number().to_string()
    }

    /// Asks through redis-cli; an error of the server is none of the test's expectations.
    pub(crate) fn cli(&self, words: &[&str]) -> String {
        let said = self.try_cli(words).expect("redis-cli on the PATH: apt-get install redis-tools");
        let error = ["ERR", "MOVED", "ASK", "NOAUTH", "NOPERM", "WRONGPASS"].iter().any(|word| said.starts_with(word));
        assert!(!error, "{words:?}: {said}");
        said
    }

    fn try_cli(&self, words: &[&str]) -> Option<String> {
        let output =
            Command::new("redis-cli").args(["-p", &self.number()]).args(&self.entry).args(words).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Gives redis-cli many commands that are answered OK.
    pub(crate) fn script(&self, lines: &[String]) {
        let mut cli = Command::new("redis-cli");
        cli.args(["-p", &self.number()]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = cli.spawn().expect("redis-cli on the PATH: apt-get install redis-tools");
        let mut input = child.stdin.take().expect("a pipe");
        let text = lines.join("\n") + "\n";
        let writer = std::thread::spawn(move || input.write_all(text.as_bytes()));
        let output = child.wait_with_output().expect("redis-cli ends");
        writer.join().expect("a writer").expect("redis-cli reads its input");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.lines().all(|line| line.is_empty() || line == "OK"), "{said}");
    }

    /// The names of all keys.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.cli(&["KEYS", "*"]).lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    /// Kills it at once.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().expect("redis-server ends");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A cluster of three, made by hand: each has a third of the slots and no replica.
pub(crate) struct Cluster {
    pub(crate) nodes: [Server; 3],
}

/// First and last slot of each node.
const THIRDS: [(u32, u32); 3] = [(0, 5460), (5461, 10_922), (10_923, 16_383)];

impl Cluster {
    pub(crate) fn start() -> Self {
        let nodes = [(); 3].map(|()| {
            let bus = Port::claim();
            let number = bus.number().to_string();
            let options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-port", &number];
            // One that has lost its last slot stays what it is.
            let options = [&options[..], &["--cluster-allow-replica-migration", "no"]].concat();
            let mut node = Server::start(&options);
            node.bus = bus;
            node
        });
        for (node, (first, last)) in nodes.iter().zip(THIRDS) {
            node.cli(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]);
        }
        for node in &nodes[1..] {
            nodes[0].cli(&["CLUSTER", "MEET", "127.0.0.1", &node.number(), &node.bus.number().to_string()]);
        }
        let cluster = Self { nodes };
        cluster.wait_until("all know all", |node| {
            node.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
                && node.cli(&["CLUSTER", "NODES"]).lines().filter(|line| line.contains("connected")).count() == 3
        });
        cluster
    }

    fn wait_until(&self, what: &str, holds: impl Fn(&Server) -> bool) {
        eventually(what, SOON, || self.nodes.iter().all(&holds).then_some(()));
    }

    /// Says that all slots of the first node are on their way to the second. Nothing has arrived yet.
    pub(crate) fn begin_to_move(&self) {
        let [from, to, _] = &self.nodes;
        let (source, target) = (from.cli(&["CLUSTER", "MYID"]), to.cli(&["CLUSTER", "MYID"]));
        let lines = |word: &str, id: &str| -> Vec<String> {
            (THIRDS[0].0..=THIRDS[0].1).map(|slot| format!("CLUSTER SETSLOT {slot} {word} {id}")).collect()
        };
        to.script(&lines("IMPORTING", &source));
        from.script(&lines("MIGRATING", &target));
    }

    /// Moves the keys.
    pub(crate) fn move_keys(&self) {
        let [from, to, _] = &self.nodes;
        let keys = from.keys();
        assert!(!keys.is_empty(), "nothing to move");
        let number = to.number();
        for key in &keys {
            assert_eq!(from.cli(&["MIGRATE", "127.0.0.1", &number, key, "0", "5000"]), "OK");
        }
    }

    /// Says that the slots are with the second node now.
    pub(crate) fn end_the_move(&self) {
        let target = self.nodes[1].cli(&["CLUSTER", "MYID"]);
        let slots = THIRDS[0].0..=THIRDS[0].1;
        let lines: Vec<String> = slots.map(|slot| format!("CLUSTER SETSLOT {slot} NODE {target}")).collect();
        for node in [&self.nodes[1], &self.nodes[0], &self.nodes[2]] {
            node.script(&lines);
        }
    }
}

/// A certificate authority with a certificate for a server on the loopback and one for a client.
pub(crate) struct Authority {
    folder: TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let authority = Self { folder: tempfile::tempdir().expect("a folder for temporary files") };
        let path = authority.folder.path();
        std::fs::write(path.join("names"), "subjectAltName=IP:127.0.0.1,DNS:redis.test\n").expect("a file");
        let request = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        let subject = format!("/CN=authority {}", fastrand::u64(..));
        let signed = ["-keyout", "ca.key", "-x509", "-days", "2", "-subj", &subject, "-out", "ca.crt"];
        openssl(path, &[&request[..], &signed].concat());
        for name in ["server", "client"] {
            let [key, csr, crt] = ["key", "csr", "crt"].map(|kind| format!("{name}.{kind}"));
            let subject = format!("/CN={name}");
            openssl(path, &[&request[..], &["-keyout", &key, "-subj", &subject, "-out", &csr]].concat());
            let sign = ["x509", "-req", "-in", &csr, "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"];
            openssl(path, &[&sign[..], &["-days", "2", "-extfile", "names", "-out", &crt]].concat());
        }
        authority
    }

    /// The path of one of its files: `server.crt`, `client.key`, ….
    pub(crate) fn file(&self, name: &str) -> String {
        let path: PathBuf = self.folder.path().join(name);
        path.to_string_lossy().into_owned()
    }

    /// The path of its own certificate.
    pub(crate) fn ca(&self) -> String {
        self.file("ca.crt")
    }
}

fn openssl(folder: &Path, words: &[&str]) {
    let made = Command::new("openssl").args(words).current_dir(folder).output();
    let made = made.expect("openssl on the PATH: apt-get install openssl");
    assert!(made.status.success(), "{words:?}: {}", String::from_utf8_lossy(&made.stderr));
}

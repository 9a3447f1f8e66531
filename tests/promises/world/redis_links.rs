//! Redis in the shapes it has in operation: with TLS, with users, watched by Sentinel, as a cluster. Real servers on
//! ports of their own, each with a folder of its own that goes with it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
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
        Self::reached(Some(authority), &[])
    }

    /// One with these options, reached over TLS alone if there is an authority.
    pub(crate) fn reached(authority: Option<&Authority>, options: &[&str]) -> Self {
        let Some(authority) = authority else { return Self::start(options) };
        let tls = authority.server_options();
        let tls: Vec<&str> = tls.iter().map(String::as_str).collect();
        let server = Self::launch(&[&tls[..], options].concat(), authority.entry());
        server.wait_for_pong();
        server
    }

    /// A sentinel that watches `master` under the name `mymaster` and needs nobody's agreement.
    pub(crate) fn sentinel(master: &Self) -> Self {
        Self::sentinel_of(None, master, 1)
    }

    /// A sentinel one of `quorum` that have to agree.
    pub(crate) fn sentinel_of(authority: Option<&Authority>, master: &Self, quorum: u32) -> Self {
        let mut server = Self::prepared(authority.map(Authority::entry).unwrap_or_default());
        let file = server.folder.path().join("sentinel.conf");
        let number = server.number();
        let listen = match authority {
            None => format!("port {number}\n"),
            Some(authority) => {
                let options = authority.server_options();
                let lines = options.chunks(2).map(|pair| format!("{} {}\n", pair[0].trim_start_matches('-'), pair[1]));
                format!("port 0\ntls-port {number}\n{}", lines.collect::<String>())
            }
        };
        let text = format!(
            "{listen}bind 127.0.0.1\nsentinel monitor mymaster 127.0.0.1 {} {quorum}\n\
             sentinel down-after-milliseconds mymaster 700\nsentinel failover-timeout mymaster 4000\n",
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

    /// The same where no answer, or an error, is a possible outcome.
    pub(crate) fn try_cli(&self, words: &[&str]) -> Option<String> {
        let output =
            Command::new("redis-cli").args(["-p", &self.number()]).args(&self.entry).args(words).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Gives redis-cli many commands that are answered OK.
    pub(crate) fn script(&self, lines: &[String]) {
        let mut cli = Command::new("redis-cli");
        cli.args(["-p", &self.number()])
            .args(&self.entry)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
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

    /// Stops its clock: connections stay open, nothing is answered.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("redis-server runs");
        kill_process(Pid::from_child(child), signal).expect("our own process takes a signal");
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

/// A cluster of three, made by hand: each has a third of the slots, and no replica unless it is given one.
pub(crate) struct Cluster {
    pub(crate) nodes: [Server; 3],
}

/// First and last slot of each node.
const THIRDS: [(u32, u32); 3] = [(0, 5460), (5461, 10_922), (10_923, 16_383)];

impl Cluster {
    pub(crate) fn start() -> Self {
        Self::reached(None)
    }

    /// Over TLS, its own talk included, if there is an authority.
    pub(crate) fn reached(authority: Option<&Authority>) -> Self {
        let nodes = [(); 3].map(|()| Self::node(authority));
        for (node, (first, last)) in nodes.iter().zip(THIRDS) {
            node.cli(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]);
        }
        let cluster = Self { nodes };
        cluster.nodes[1..].iter().for_each(|node| cluster.meet(node));
        cluster.wait_until("all know all", |node| {
            node.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok") && nodes_known_to(node) == 3
        });
        cluster
    }

    fn node(authority: Option<&Authority>) -> Server {
        let bus = Port::claim();
        let number = bus.number().to_string();
        let options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-port", &number];
        // One that has lost its last slot stays what it is.
        let options = [&options[..], &["--cluster-allow-replica-migration", "no"]].concat();
        let mut node = Server::reached(authority, &options);
        node.bus = bus;
        node
    }

    fn meet(&self, node: &Server) {
        self.nodes[0].cli(&["CLUSTER", "MEET", "127.0.0.1", &node.number(), &node.bus.number().to_string()]);
    }

    /// Gives the first node a replica, and waits until it is in step.
    pub(crate) fn replica_of_the_first(&self) -> Server {
        let replica = Self::node(None);
        self.meet(&replica);
        let master = self.nodes[0].cli(&["CLUSTER", "MYID"]);
        eventually("the replica knows its master", SOON, || {
            (replica.try_cli(&["CLUSTER", "REPLICATE", &master])? == "OK").then_some(())
        });
        eventually("the replica is in step", SOON, || {
            self.nodes[0].cli(&["INFO", "replication"]).contains("state=online").then_some(())
        });
        self.wait_until("all know the replica", |node| node.cli(&["CLUSTER", "NODES"]).contains("slave"));
        replica
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

fn nodes_known_to(node: &Server) -> usize {
    node.cli(&["CLUSTER", "NODES"]).lines().filter(|line| line.contains("connected")).count()
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

    /// What redis-server needs to take TLS from who shows a certificate, and to show one to others of its kind.
    fn server_options(&self) -> Vec<String> {
        let (ca, cert, key) = (self.ca(), self.file("server.crt"), self.file("server.key"));
        let files = ["--tls-ca-cert-file", &ca, "--tls-cert-file", &cert, "--tls-key-file", &key];
        let uses = ["--tls-auth-clients", "yes", "--tls-replication", "yes", "--tls-cluster", "yes"];
        [files, uses].concat().into_iter().map(str::to_owned).collect()
    }

    /// What redis-cli needs to be let in.
    fn entry(&self) -> Vec<String> {
        let (ca, cert, key) = (self.ca(), self.file("server.crt"), self.file("server.key"));
        ["--tls", "--cacert", &ca, "--cert", &cert, "--key", &key].map(str::to_owned).to_vec()
    }

    /// The lines of a gateway that trusts it and shows the client's certificate.
    pub(crate) fn gateway_lines(&self) -> [String; 3] {
        [
            format!("dedup.redis.tls.ca = '{}'", self.ca()),
            format!("dedup.redis.tls.cert = '{}'", self.file("client.crt")),
            format!("dedup.redis.tls.key = '{}'", self.file("client.key")),
        ]
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

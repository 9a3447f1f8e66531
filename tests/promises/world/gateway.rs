//! The gateway under test: the real program in a process of its own, started with a file, watched by its output and
//! ended by its process id. Its folder, with configuration and spool, lives as long as the value does.

use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::clock::{SOON, environment, eventually, pause};
use super::output::{Finished, Lines, excerpt, finish};
use super::ports::Port;
use super::scrape::Scrape;
use super::sender::{Reply, Request, send};
use super::setup::Setup;
use super::sign::Provider;
use super::wire::WireFault;

/// Longest time from start to ready, recovery of a spool included.
const READY: Duration = Duration::from_secs(30);

/// A gateway and all that belongs to it.
pub(crate) struct Gateway {
    folder: TempDir,
    listen: Port,
    telemetry: Port,
    admin: Port,
    setup: Setup,
    lines: Lines,
    running: Option<Running>,
}

struct Running {
    child: Process,
    readers: [JoinHandle<()>; 2],
}

impl Gateway {
    /// Starts one and waits until it is ready.
    pub(crate) fn start(setup: Setup) -> Self {
        let mut gateway = Self::prepared(setup);
        gateway.restart();
        gateway
    }

    /// Writes the configuration down, and starts nothing.
    pub(crate) fn prepared(setup: Setup) -> Self {
        let folder =
            tempfile::Builder::new().prefix("hookgate-promise-").tempdir().expect("a folder for temporary files");
        let [listen, telemetry, admin] = [Port::claim(), Port::claim(), Port::claim()];
        let gateway = Self { folder, listen, telemetry, admin, setup, lines: Lines::default(), running: None };
        gateway.write_configuration();
        gateway
    }

    /// Changes lines of the configuration file. The running process keeps what it has read.
    pub(crate) fn configure(&mut self, lines: &[&str]) {
        for line in lines {
            self.setup.set(line);
        }
        self.write_configuration();
    }

    /// Sets a variable for the next start.
    pub(crate) fn environment(&mut self, name: &str, value: &str) {
        self.setup.environment.retain(|(n, _)| n != name);
        self.setup.environment.push((name.into(), value.into()));
    }

    /// Lifts the operating system's limits for the next start.
    pub(crate) fn unlimited(&mut self) {
        self.setup.shell = None;
    }

    /// Starts through this shell line from the next time on.
    pub(crate) fn through(&mut self, shell: String) {
        self.setup.shell = Some(shell);
    }

    fn write_configuration(&self) {
        let own = [
            format!("listen = '{}'", self.listen.address()),
            format!("telemetry = '{}'", self.telemetry.address()),
            format!("admin = '{}'", self.admin.address()),
            format!("spool.path = '{}'", self.spool_path().display()),
        ];
        let mut setup = self.setup.clone();
        for line in &own {
            let (key, _) = line.split_once(" = ").expect("a line of our own");
            if !setup.text().lines().any(|l| l.starts_with(&format!("{key} = "))) {
                setup.set(line);
            }
        }
        std::fs::write(self.configuration_path(), setup.text()).expect("a folder that can be written");
    }

    /// Starts the process on the same folder, spool and ports, and waits until it is ready.
    pub(crate) fn restart(&mut self) {
        self.launch();
        eventually("the gateway is ready", READY, || {
            let ended = self.running.as_mut().and_then(|running| running.child.ended());
            if let Some(status) = ended {
                panic!("the gateway ended before it was ready, {status}");
            }
            self.telemetry("/readyz").ok().filter(|reply| reply.status == 200)
        });
    }

    /// Starts the process and waits for nothing.
    pub(crate) fn launch(&mut self) {
        assert!(self.running.is_none(), "the gateway runs already");
        let mut command = self.command(&["run", "-c", &self.configuration_path().to_string_lossy()]);
        let mut child = command.spawn().expect("the program can be started");
        let stdout = self.lines.follow(child.stdout.take().expect("a pipe"));
        let stderr = self.lines.follow(child.stderr.take().expect("a pipe"));
        self.running = Some(Running { child: Process::Started(child), readers: [stdout, stderr] });
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let program = environment("HOOKGATE_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_hookgate").to_owned());
        let mut command = match &self.setup.shell {
            None => Command::new(&program),
            Some(line) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("{line}; exec \"$0\" \"$@\""), &program]);
                shell
            }
        };
        command.args(arguments).env_clear().current_dir(self.folder.path());
        command.envs(std::env::vars_os().filter(|(name, _)| name == "PATH" || name == "LLVM_PROFILE_FILE"));
        command.envs(self.setup.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a command of the program to its end, in the gateway's folder and environment.
    pub(crate) fn run(&self, arguments: &[&str]) -> Finished {
        finish(self.command(arguments).spawn().expect("the program can be started"), READY)
    }

    /// Runs a command against this gateway's configuration.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Finished {
        let path = self.configuration_path();
        self.run(&[arguments, &["-c", &path.to_string_lossy()]].concat())
    }

    /// Runs a command that lists, and returns its rows.
    pub(crate) fn rows(&self, arguments: &[&str]) -> Vec<serde_json::Value> {
        let finished = self.ask(&[arguments, &["--json"]].concat());
        assert_eq!(finished.code, Some(0), "{arguments:?}: {finished:?}");
        finished.json_lines()
    }

    /// Kills it between two instructions.
    pub(crate) fn kill9(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        let status = running.child.kill();
        running.readers.into_iter().for_each(|reader| reader.join().expect("a stream that can be read"));
        assert_eq!(status.signal(), Some(9), "the gateway had ended by itself: {status}");
    }

    /// Waits for somebody else's SIGKILL to end it. Returns whether that came true.
    pub(crate) fn is_killed(&mut self, within: Duration) -> bool {
        let running = self.running.as_mut().expect("the gateway runs");
        let Some(status) = running.child.wait(within) else { return false };
        let running = self.running.take().expect("it was there a moment ago");
        running.readers.into_iter().for_each(|reader| reader.join().expect("a stream that can be read"));
        assert_eq!(status.signal(), Some(9), "the gateway ended by itself: {status}");
        true
    }

    /// Whether it is ready now.
    pub(crate) fn is_ready(&self) -> bool {
        self.telemetry("/readyz").is_ok_and(|reply| reply.status == 200)
    }

    /// Whether its process is there.
    pub(crate) const fn runs(&self) -> bool {
        self.running.is_some()
    }

    /// The id of its thread of this name, which a thread gives itself when it first runs.
    pub(crate) fn thread(&self, name: &str) -> u32 {
        eventually(&format!("a thread {name} of the gateway"), SOON, || {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("the gateway runs");
            let comm = |task: &std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm"));
            let found = tasks.flatten().find(|task| comm(task).is_ok_and(|comm| comm.trim_end() == name));
            found.map(|task| task.file_name().to_string_lossy().parse().expect("a thread id"))
        })
    }

    /// The processor time it has used so far.
    pub(crate) fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("the gateway runs");
        let fields: Vec<&str> = stat.rsplit(')').next().expect("a name in brackets").split_whitespace().collect();
        let ticks: u64 = [11, 12].iter().map(|at| fields[*at].parse::<u64>().expect("a number of ticks")).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = self.running.as_ref().expect("the gateway runs").child.pid();
        kill_process(pid, signal).expect("our own process takes a signal");
    }

    /// The number of the process that runs.
    pub(crate) fn pid(&self) -> u32 {
        let pid = self.running.as_ref().expect("the gateway runs").child.pid();
        u32::try_from(pid.as_raw_pid()).expect("a process id is positive")
    }

    /// Has it hand over to a new process, waits for its end in peace, and looks after the new one from then on.
    pub(crate) fn hand_over(&mut self) {
        self.hand_over_while(|_| ());
    }

    /// The same, and does something when the old process has been told.
    pub(crate) fn hand_over_while<T>(&mut self, meanwhile: impl FnOnce(&Self) -> T) -> T {
        // The new process becomes a child of this one when its parent ends.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).expect("a process may look after others");
        let before = self.log(&["handed over"]).len();
        self.signal(Signal::QUIT);
        let done = meanwhile(self);
        let running = self.running.as_mut().expect("the gateway runs");
        let status = running.child.wait(Duration::from_secs(60)).expect("the old process ends");
        assert!(status.success(), "after SIGQUIT: {status}");
        let line = eventually("the new process is named", READY, || self.log(&["handed over"]).get(before).cloned());
        let line: serde_json::Value = serde_json::from_str(&line).expect("a line in JSON");
        self.adopt(line["process"].as_i64().expect("the new process's number"));
        done
    }

    /// Looks after a process that the gateway has started.
    pub(crate) fn adopt(&mut self, pid: i64) {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
        self.running.as_mut().expect("the gateway ran").child = Process::Adopted(pid);
    }

    /// Waits for it to end by itself.
    pub(crate) fn wait_for_end(&mut self, within: Duration) -> ExitStatus {
        let mut running = self.running.take().expect("the gateway runs");
        let status = running.child.wait(within);
        if status.is_none() {
            running.child.kill();
        }
        running.readers.into_iter().for_each(|reader| reader.join().expect("a stream that can be read"));
        status.unwrap_or_else(|| panic!("the gateway did not end within {within:?}"))
    }

    /// Ends it as an orchestrator does, and expects peace.
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::TERM);
        let status = self.wait_for_end(Duration::from_secs(30));
        assert!(status.success(), "after SIGTERM: {status}");
    }

    /// Sends a request as a sender does.
    pub(crate) fn send(&self, request: &Request) -> Reply {
        self.try_send(request)
            .unwrap_or_else(|fault| panic!("no reply to {} {}: {fault}", request.method, request.target))
    }

    /// The same where no reply is a possible outcome.
    pub(crate) fn try_send(&self, request: &Request) -> Result<Reply, WireFault> {
        send(&self.address(), request)
    }

    /// Asks the telemetry listener.
    pub(crate) fn telemetry(&self, target: &str) -> Result<Reply, WireFault> {
        send(&self.telemetry.address(), &Request::get(target).with("Connection", "close"))
    }

    /// Asks the admin listener.
    pub(crate) fn admin(&self, request: &Request) -> Reply {
        let request = request.clone().with("Host", self.admin.address()).with("Connection", "close");
        send(&self.admin.address(), &request).unwrap_or_else(|fault| panic!("admin {}: {fault}", request.target))
    }

    /// All metrics now.
    pub(crate) fn metrics(&self) -> Scrape {
        let reply = self.telemetry("/metrics").expect("metrics can be scraped at any time");
        assert_eq!(reply.status, 200);
        Scrape::parse(&reply.text())
    }

    /// Waits until no event is pending.
    pub(crate) fn wait_for_empty_spool(&self, within: Duration) {
        eventually("the spool drains", within, || {
            (self.metrics().find("hookgate_spool_events", &[("state", "pending")])? == 0.0).then_some(())
        });
    }

    /// Where senders connect.
    pub(crate) fn address(&self) -> String {
        self.listen.address()
    }

    /// Where the console and the API are.
    pub(crate) fn admin_address(&self) -> String {
        self.admin.address()
    }

    /// Whether anything listens for senders.
    pub(crate) fn listens(&self) -> bool {
        TcpStream::connect(self.address()).is_ok()
    }

    /// The folder of the spool.
    pub(crate) fn spool_path(&self) -> PathBuf {
        self.folder.path().join("spool")
    }

    /// Its folder.
    pub(crate) fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// Its configuration file.
    pub(crate) fn configuration_path(&self) -> PathBuf {
        self.folder.path().join("hookgate.toml")
    }

    /// Everything it has said so far, over all its starts.
    pub(crate) fn said(&self) -> Vec<String> {
        self.lines.all()
    }

    /// Its log lines so far that hold all of `words`, in capitals or not.
    pub(crate) fn log(&self, words: &[&str]) -> Vec<String> {
        let words: Vec<String> = words.iter().map(|word| word.to_lowercase()).collect();
        let holds = |line: &String| words.iter().all(|word| line.to_lowercase().contains(word));
        self.said().into_iter().filter(holds).collect()
    }

    /// Waits until `count` log lines hold all of `words`, and sees that there are no more. A line is written a moment after
    /// its reply has left.
    pub(crate) fn wait_for_logs(&self, count: usize, words: &[&str]) {
        let found = || self.log(words).len();
        eventually(&format!("{count} log lines with {words:?}"), SOON, || (found() >= count).then_some(()));
        assert_eq!(found(), count, "log lines with {words:?}");
    }

    /// Waits for a log line that holds all of `words`.
    pub(crate) fn wait_for_log(&self, words: &[&str]) -> String {
        eventually(&format!("a log line with {words:?}"), SOON, || self.log(words).into_iter().next())
    }
}

/// The gateway's process.
enum Process {
    /// Started here.
    Started(Child),
    /// Started by the one before, which is gone.
    Adopted(Pid),
}

impl Process {
    fn pid(&self) -> Pid {
        match self {
            Self::Started(child) => {
                i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process has a number")
            }
            Self::Adopted(pid) => *pid,
        }
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        match self {
            Self::Started(child) => child.try_wait().expect("a child of ours"),
            Self::Adopted(pid) => {
                let waited = rustix::process::waitpid(Some(*pid), rustix::process::WaitOptions::NOHANG);
                waited.expect("a child of ours").map(|(_, status)| ExitStatus::from_raw(status.as_raw()))
            }
        }
    }

    fn wait(&mut self, within: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + within;
        loop {
            let ended = self.ended();
            if ended.is_some() || Instant::now() >= deadline {
                return ended;
            }
            pause(Duration::from_millis(5));
        }
    }

    /// Kills it unless it has ended, and says how it ended.
    fn kill(&mut self) -> ExitStatus {
        if let Some(status) = self.ended() {
            return status;
        }
        kill_process(self.pid(), Signal::KILL).expect("our own process can be killed");
        self.wait(READY).expect("a killed process ends")
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.child.kill();
            pause(Duration::from_millis(1));
            running.readers.into_iter().for_each(|reader| drop(reader.join()));
        }
        if std::thread::panicking() {
            let said = excerpt(&self.lines.all());
            eprintln!("--- the gateway's configuration\n{}--- what the gateway said\n{said}\n---", self.setup.text());
            return;
        }
        let said = self.lines.text();
        for provider in Provider::ALL {
            assert!(!said.contains(provider.secret()), "the gateway said the secret of {}", provider.name());
        }
    }
}

//! Processes that end with the benchmark, and what the system says of them: processor time and memory.
//!
//! Not the measured time itself: that is the generator's.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A child that ends with the benchmark.
pub(crate) struct Running(Child);

impl Running {
    /// Its own number and those of the processes it started.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let mut found = vec![self.0.id()];
        let mut next = 0;
        while let Some(pid) = found.get(next).copied() {
            let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|digits| digits.parse::<u32>().ok()));
            next += 1;
        }
        found
    }

    /// Tells it to end and waits until it has.
    pub(crate) fn stop(&mut self, most: Duration) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.0.id().cast_signed())
            && self.0.try_wait().is_ok_and(|ended| ended.is_none())
        {
            let _told = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let until = Instant::now() + most;
        while self.0.try_wait().is_ok_and(|ended| ended.is_none()) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _killed = self.0.kill();
        let _ended = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop(Duration::from_secs(5));
    }
}

/// Starts a process, on the processors that `cpus` names if it names any. Its output goes into the file.
pub(crate) fn spawn(program: &Path, arguments: &[&str], cpus: &str, output: &Path) -> std::io::Result<Running> {
    let file = std::fs::OpenOptions::new().create(true).append(true).open(output)?;
    let mut command = if cpus.is_empty() {
        Command::new(program)
    } else {
        let mut command = Command::new("taskset");
        command.args(["-c", cpus]).arg(program);
        command
    };
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
    Ok(Running(command.spawn()?))
}

/// This program in another part.
pub(crate) fn spawn_self(arguments: &[&str]) -> Running {
    let program = std::env::current_exe().expect("the path of this program");
    Running(Command::new(program).args(arguments).stdin(Stdio::null()).spawn().expect("this program starts again"))
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

pub(crate) fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Waits until something listens there.
pub(crate) fn wait_for(port: u16) {
    assert!(comes_up(port, Duration::from_secs(30)), "nothing listens on port {port}");
}

pub(crate) fn comes_up(port: u16, most: Duration) -> bool {
    let until = Instant::now() + most;
    while TcpStream::connect(local(port)).is_err() {
        if Instant::now() > until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

/// User and system time of these processes so far, microseconds. The system counts in ticks of 10 ms.
pub(crate) fn cpu_micros(pids: &[u32]) -> f64 {
    pids.iter().map(|pid| ticks(*pid) * 10_000.0).sum()
}

fn ticks(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let of = |index: usize| fields.get(index).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    of(11) + of(12)
}

/// Memory of these processes in RAM now, MiB. Pages that they share count once for each.
pub(crate) fn rss_mib(pids: &[u32]) -> f64 {
    pids.iter().map(|pid| status_kib(*pid, "VmRSS:") / 1024.0).sum()
}

/// A line of `/proc/PID/status`, KiB.
pub(crate) fn status_kib(pid: u32, name: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().next().and_then(|digits| digits.parse().ok()).unwrap_or(0.0)
}

/// The program of this name, looked for where the shell looks and where Debian puts what only root uses.
pub(crate) fn program(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin:/usr/bin";
    path.split(':').map(|folder| Path::new(folder).join(name)).find(|file| file.is_file())
}

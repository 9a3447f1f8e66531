//! A hand in the system calls of a running gateway: `strace` attached to some of its threads, which kills, fails or
//! delays the n-th call. It ends with the value, and the gateway goes on as if nothing had been.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::clock::eventually;
use super::gateway::Gateway;

/// The thread that writes the spool.
pub(crate) const WRITER: &str = "disk-writer";
/// The thread that brings the write-ahead log into the database.
pub(crate) const KEEPER: &str = "disk-keeper";
/// The system calls that make writes safe.
pub(crate) const SYNC: &str = "fsync,fdatasync";
/// The system calls that write.
pub(crate) const WRITE: &str = "pwrite64";
/// The system calls by which a file system is changed.
pub(crate) const CHANGE: &str = "pwrite64,ftruncate,fsync,fdatasync";

/// The hand. The gateway's threads are let go when it is dropped.
#[derive(Debug)]
pub(crate) struct Hand(Child);

/// Whether this machine lets a test trace; the reason if not.
pub(crate) fn works() -> Result<(), String> {
    let traced =
        Command::new("strace").args(["-qq", "-o", "/dev/null", "-e", "inject=fsync:retval=0", "true"]).status();
    match traced {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("strace may not trace here: {status}")),
        Err(error) => Err(format!("strace is not installed: {error}")),
    }
}

impl Hand {
    /// Does `what` to the `calls` of `threads` (`error=EIO:when=3`, `signal=KILL:when=2`, `retval=0`); calls are counted
    /// for each thread from now on.
    pub(crate) fn on(gateway: &Gateway, threads: &[&str], calls: &str, what: &str) -> Self {
        let pid = gateway.pid();
        let ids: Vec<u32> = threads.iter().map(|name| gateway.thread(name)).collect();
        let mut strace = Command::new("strace");
        strace.args(["-qq", "-o", "/dev/null", "-e", &format!("trace={calls}")]);
        strace.args(["-e", &format!("inject={calls}:{what}")]);
        for id in &ids {
            strace.args(["-p", &id.to_string()]);
        }
        strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let hand = Self(strace.spawn().expect("strace is installed"));
        eventually("strace has attached", Duration::from_secs(10), || {
            let traced = |id: &u32| {
                let status = std::fs::read_to_string(format!("/proc/{pid}/task/{id}/status")).unwrap_or_default();
                // Gone: it was killed at its very first call.
                status.is_empty() || status.lines().any(|l| l.starts_with("TracerPid:") && !l.ends_with("\t0"))
            };
            ids.iter().all(traced).then_some(())
        });
        hand
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

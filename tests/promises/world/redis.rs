//! A real Redis on a port of its own, without a file on disk, that can be killed, frozen and started again.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::clock::{SOON, eventually};
use super::ports::Port;

/// A running (or killed) redis-server.
pub(crate) struct Redis {
    port: Port,
    child: Option<Child>,
    /// What is added to the command line at the next start.
    pub(crate) arguments: Vec<String>,
}

impl Redis {
    /// Starts one and waits for its PONG.
    pub(crate) fn start() -> Self {
        let mut redis = Self::stopped();
        redis.restart();
        redis
    }

    /// One that is not started yet.
    pub(crate) fn stopped() -> Self {
        Self { port: Port::claim(), child: None, arguments: Vec::new() }
    }

    /// Starts it again, empty, on the same port.
    pub(crate) fn restart(&mut self) {
        self.launch();
        eventually("redis-server answers PING", SOON, || (self.ask(&["PING"]).ok()? == ["+PONG"]).then_some(()));
    }

    /// Starts it and waits for nothing.
    pub(crate) fn launch(&mut self) {
        assert!(self.child.is_none(), "redis-server runs already");
        let mut command = Command::new("redis-server");
        command.args(["--port", &self.port.number().to_string(), "--bind", "127.0.0.1"]);
        command.args(["--save", "", "--appendonly", "no", "--daemonize", "no"]).args(&self.arguments);
        command.current_dir(std::env::temp_dir()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| {
            panic!(
                "redis-server cannot be started ({error}): these tests need a real one on the PATH; \
                 Debian and Ubuntu: apt-get install redis-server, macOS: brew install redis"
            )
        });
        self.child = Some(child);
    }

    /// Its address for the configuration.
    pub(crate) fn url(&self) -> String {
        format!("redis://{}/0", self.port.address())
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> String {
        self.port.address()
    }

    /// Kills it at once.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().expect("redis-server ends");
        }
    }

    /// Stops its clock: connections stay open, nothing is answered.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// The names of all keys.
    pub(crate) fn keys(&self) -> Vec<String> {
        let lines = self.ask(&["KEYS", "*"]).expect("Redis answers");
        lines.into_iter().filter(|line| !line.starts_with(['*', '$'])).collect()
    }

    /// Asks one question and returns the lines of the answer, type marks included.
    pub(crate) fn ask(&self, words: &[&str]) -> std::io::Result<Vec<String>> {
        let mut stream = TcpStream::connect(self.port.address())?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "*{}\r\n", words.len())?;
        for word in words {
            write!(stream, "${}\r\n{word}\r\n", word.len())?;
        }
        let mut lines = BufReader::new(stream).lines();
        let mut next = || lines.next().ok_or(std::io::ErrorKind::UnexpectedEof)?;
        let first = next()?;
        let list = first.strip_prefix('*').and_then(|n| n.parse::<i64>().ok());
        let mut wanted = list.and_then(|n| usize::try_from(n * 2).ok()).unwrap_or(0);
        let text = first.strip_prefix('$').and_then(|n| n.parse::<usize>().ok());
        let mut answer = vec![first];
        let mut read = 0;
        while text.is_some_and(|length| read < length.max(1)) {
            answer.push(next()?);
            read += answer.last().map_or(0, |line| line.len() + 2);
        }
        while wanted > 0 {
            answer.push(next()?);
            wanted -= 1;
        }
        Ok(answer)
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("redis-server runs");
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("our own process takes a signal");
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_remembers_until_it_is_killed() {
        let mut redis = Redis::start();
        assert_eq!(redis.ask(&["SET", "a", "1"]).unwrap(), ["+OK"]);
        assert_eq!(redis.ask(&["GET", "a"]).unwrap(), ["$1", "1"]);
        assert_eq!(redis.keys(), ["a"]);
        redis.kill();
        assert!(redis.ask(&["PING"]).is_err());
        redis.restart();
        assert!(redis.keys().is_empty());
    }

    #[test]
    fn a_frozen_redis_says_nothing_until_it_is_thawed() {
        let redis = Redis::start();
        redis.freeze();
        let mut stream = TcpStream::connect(redis.port.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        stream.write_all(b"PING\r\n").unwrap();
        let mut line = String::new();
        assert!(BufReader::new(&stream).read_line(&mut line).is_err());
        redis.thaw();
        stream.set_read_timeout(Some(SOON)).unwrap();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        assert_eq!(line, "+PONG\r\n");
    }
}

//! What a process of ours says: every line of both its streams, kept until the test ends and shown if it fails.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::clock::pause;

/// The lines of one stream, still growing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    /// Reads a stream to its end, in a thread of its own.
    pub(crate) fn follow(&self, stream: impl Read + Send + 'static) -> JoinHandle<()> {
        let lines = Arc::clone(&self.0);
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stream);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                lines.lock().unwrap().push(String::from_utf8_lossy(&line).trim_end().to_owned());
                line.clear();
            }
        })
    }

    /// All lines so far.
    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// All lines so far as one text.
    pub(crate) fn text(&self) -> String {
        self.all().join("\n")
    }
}

/// Lines that are shown of the beginning, and of the end, of what a process said.
const SHOWN: usize = 200;

/// The beginning and the end: why a test failed is not to be lost among thousands of lines.
pub(crate) fn excerpt(lines: &[String]) -> String {
    match lines.len().saturating_sub(2 * SHOWN) {
        0 => lines.join("\n"),
        more => {
            let (first, last) = (&lines[..SHOWN], &lines[SHOWN + more..]);
            format!("{}\n… {more} lines …\n{}", first.join("\n"), last.join("\n"))
        }
    }
}

/// What a command that has ended left behind.
#[derive(Clone, Debug)]
pub(crate) struct Finished {
    /// Its exit code; `None` if a signal ended it.
    pub(crate) code: Option<i32>,
    /// What it printed.
    pub(crate) stdout: String,
    /// What it said.
    pub(crate) stderr: String,
}

impl Finished {
    /// Every line of its output as JSON.
    pub(crate) fn json_lines(&self) -> Vec<serde_json::Value> {
        let lines = self.stdout.lines().filter(|line| !line.trim().is_empty());
        lines
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("NDJSON ({e}): {line}\n{self:?}")))
            .collect()
    }
}

/// Waits for a process to end, at most `within`.
pub(crate) fn wait(child: &mut Child, within: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(status) = child.try_wait().expect("a child of ours") {
            return Some(status);
        }
        if Instant::now() >= deadline {
            return None;
        }
        pause(Duration::from_millis(5));
    }
}

/// Runs a prepared child to its end; kills it and fails if that does not come `within`.
pub(crate) fn finish(mut child: Child, within: Duration) -> Finished {
    let (stdout, stderr) = (Lines::default(), Lines::default());
    let readers = [
        child.stdout.take().map(|stream| stdout.follow(stream)),
        child.stderr.take().map(|stream| stderr.follow(stream)),
    ];
    let status = wait(&mut child, within);
    if status.is_none() {
        child.kill().ok();
        child.wait().ok();
    }
    for reader in readers.into_iter().flatten() {
        reader.join().expect("a stream that can be read");
    }
    let (stdout, stderr) = (stdout.text(), stderr.text());
    let status = status.unwrap_or_else(|| panic!("did not end within {within:?}:\n{stdout}\n{stderr}"));
    Finished { code: status.code(), stdout, stderr }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn sh(script: &str) -> Child {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    #[test]
    fn both_streams_and_the_code_are_kept() {
        let finished = finish(sh("echo '{\"a\":1}'; echo talk >&2; exit 3"), Duration::from_secs(10));
        assert_eq!((finished.code, finished.stderr.as_str()), (Some(3), "talk"));
        assert_eq!(finished.json_lines(), [serde_json::json!({"a": 1})]);
    }

    #[test]
    fn of_many_lines_the_beginning_and_the_end_are_shown() {
        let lines = |count: usize| (0..count).map(|line| line.to_string()).collect::<Vec<String>>();
        assert_eq!(excerpt(&lines(400)).lines().count(), 400);
        let shown = excerpt(&lines(5000));
        assert_eq!(shown.lines().count(), 401);
        assert!(
            shown.starts_with("0\n1\n") && shown.contains("\n199\n… 4600 lines …\n4800\n") && shown.ends_with("\n4999")
        );
    }

    #[test]
    #[should_panic(expected = "did not end within")]
    fn a_command_that_hangs_is_ended() {
        finish(sh("exec sleep 60"), Duration::from_millis(100));
    }
}

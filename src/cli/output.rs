//! Printing: data to stdout, talk to stderr. The only place that writes to either.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use serde_json::Value;

use super::{Exit, Failure};

/// Writes data as it is. Whoever closes the pipe early has seen enough: that ends the command well.
pub(super) fn put(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| {
        if error.kind() == ErrorKind::BrokenPipe {
            return Failure::new(Exit::Ok, "");
        }
        Failure::failed(format!("cannot write to stdout: {error}"))
    })
}

/// Writes one line of data.
pub(super) fn put_line(line: &str) -> Result<(), Failure> {
    put(format!("{line}\n").as_bytes())
}

/// Writes one JSON object as a line.
pub(super) fn put_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|error| Failure::failed(error.to_string()))?;
    put_line(&text)
}

/// Writes a table, or nothing if it has no rows.
pub(super) fn put_table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Result<(), Failure> {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(head);
    table.add_rows(rows);
    if table.is_empty() {
        return Ok(());
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines = table.lines().map(|line| format!("{}\n", line.trim_end()));
    put(lines.collect::<String>().as_bytes())
}

/// Talks. If nobody listens, nothing is left to do.
pub(super) fn say(text: &str) {
    let _heard = writeln!(io::stderr().lock(), "{}", text.trim_end());
}

/// A bar on stderr, where a terminal is and more than `few` things are to be done.
pub(super) fn bar(count: u64, few: u64) -> ProgressBar {
    let shown = io::stderr().is_terminal() && count > few;
    let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(count), target);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len}  {per_sec}  {eta} left") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

/// Asks a question that `y` answers with yes. Only where a person sits at both ends.
pub(super) fn confirmed(question: &str) -> Result<Confirmed, Failure> {
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Ok(Confirmed::NobodyToAsk);
    }
    let mut stderr = io::stderr().lock();
    let _asked = write!(stderr, "{question} [y/N] ").and_then(|()| stderr.flush());
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(|error| Failure::failed(format!("cannot read the answer: {error}")))?;
    Ok(if matches!(answer.trim(), "y" | "Y" | "yes") { Confirmed::Yes } else { Confirmed::No })
}

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Confirmed {
    Yes,
    No,
    NobodyToAsk,
}

/// A member of a JSON object as text for a table; empty if it is not there.
pub(super) fn text(object: &Value, name: &str) -> String {
    match object.get(name) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => printable(text),
        Some(other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_))) => other.to_string(),
    }
}

/// Text of a sender without what would steer a terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A moment of RFC 3339 cut to its seconds.
pub(super) fn short_moment(text: &str) -> String {
    match text.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => text.to_owned(),
    }
}

/// A span for people: `45 s`, `12 min`, `3 h`, `2 d`.
pub(super) fn span(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3600.0),
        s => format!("{:.0} d", s / 86_400.0),
    }
}

/// An amount of memory for people.
pub(super) fn bytes(count: u64) -> String {
    bytesize::ByteSize(count).display().iec().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_senders_text_cannot_steer_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }

    #[test]
    fn spans_are_short() {
        assert_eq!([span(3.2), span(180.0), span(7200.0), span(200_000.0)], ["3 s", "3 min", "2 h", "2 d"]);
    }
}

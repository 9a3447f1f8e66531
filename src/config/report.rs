//! What `validate` prints: a configuration that is fine, with its notes; or all its faults. Colours and the probe of
//! the spool belong to the caller.

use miette::{GraphicalReportHandler, GraphicalTheme};
use serde_json::json;

use super::fault::ConfigFaults;
use super::settings::{Config, Note, NoteLevel, Store};

/// How faults are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// One line a fault.
    Plain,
    /// With the line of the file, in Unicode, without colours.
    Pretty,
    /// The same in colours.
    Coloured,
}

/// Longest line of a report, in characters.
const WIDTH: usize = 112;
/// Longest key that has its text beside it and not below.
const KEY_WIDTH: usize = 34;

/// The report on a configuration that is fine. `spool`: what the caller found there, such as
/// "writable (2 GiB of 81 GiB free)".
#[must_use]
pub fn accepted(name: &str, config: &Config, spool: Option<&str>) -> String {
    let secrets: usize = config.routes.iter().map(|route| route.secrets.len()).sum();
    let redis = match config.dedup.store {
        Store::Embedded => "redis not used",
        Store::Redis(_) => "redis used",
    };
    let routes = count(config.routes.len(), "route");
    let secrets = count(secrets, "secret");
    let path = config.spool.path.display();
    let spool = spool.map_or_else(String::new, |spool| format!(" {spool}"));
    format!("{name}: ok — {routes}, {secrets} (all readable), {redis}, spool {path}{spool}\n") + &notes(&config.notes)
}

/// The report on a configuration with faults.
#[must_use]
pub fn refused(faults: &ConfigFaults, look: Look) -> String {
    let theme = match look {
        Look::Plain => return faults.plain(),
        Look::Pretty => GraphicalTheme::unicode_nocolor(),
        Look::Coloured => GraphicalTheme::unicode(),
    };
    let handler = GraphicalReportHandler::new_themed(theme).with_width(WIDTH).with_links(false);
    let mut text = String::new();
    for fault in faults.iter() {
        if handler.render_report(&mut text, fault).is_err() {
            text.push_str(&fault.line());
            text.push('\n');
        }
    }
    text + &faults.to_string() + "\n"
}

/// The notes, warnings last, each text in its column.
#[must_use]
pub fn notes(notes: &[Note]) -> String {
    let column = notes.iter().map(|note| note.key.chars().count()).filter(|width| *width <= KEY_WIDTH).max();
    let column = column.unwrap_or(0);
    let mut text = String::new();
    for level in [NoteLevel::Note, NoteLevel::Warn] {
        for note in notes.iter().filter(|note| note.level == level) {
            put(&mut text, note, column);
        }
    }
    text
}

/// A note as JSON: `level`, `key`, `text`.
#[must_use]
pub fn note_to_json(note: &Note) -> serde_json::Value {
    json!({ "level": note.level.as_str(), "key": note.key, "text": note.text })
}

fn put(text: &mut String, note: &Note, column: usize) {
    let margin = " ".repeat(6 + column + 2);
    let head = format!("{:<6}{:<column$}  ", note.level.as_str(), note.key);
    let mut line = head;
    if line.chars().count() > margin.len() {
        text.push_str(line.trim_end());
        text.push('\n');
        line.clone_from(&margin);
    }
    for word in note.text.split(' ') {
        let used = line.chars().count();
        if used > margin.len() && used + word.chars().count() > WIDTH {
            text.push_str(line.trim_end());
            text.push('\n');
            line.clone_from(&margin);
        }
        line.extend([word, " "]);
    }
    text.push_str(line.trim_end());
    text.push('\n');
}

fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

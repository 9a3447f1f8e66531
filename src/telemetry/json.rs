//! An event of the log as one JSON object a line: `ts` (RFC 3339, UTC), `level` (lower case), `msg`, `target`, then the
//! event's own fields. Which events there are is decided elsewhere.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// What the fields of a line usually take.
pub(super) const LINE_BYTES: usize = 512;

/// Writes an event as one JSON object.
pub(super) struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut ts = String::new();
        SystemTime.format_time(&mut Writer::new(&mut ts))?;
        let mut fields = Fields::default();
        event.record(&mut fields);
        let target = fields.target.as_deref().unwrap_or_else(|| event.metadata().target());
        let level = event.metadata().level().as_str().to_ascii_lowercase();
        let (mut message, mut of) = (String::new(), String::new());
        quote(&mut message, &fields.message);
        quote(&mut of, target);
        write!(writer, r#"{{"ts":"{ts}","level":"{level}","msg":{message},"target":{of}"#)?;
        writer.write_str(&fields.rest)?;
        writer.write_str("}\n")
    }
}

/// The fields of an event, already written as JSON members.
#[derive(Default)]
struct Fields {
    message: String,
    target: Option<String>,
    rest: String,
}

impl Fields {
    /// Begins a member; its value comes next.
    fn member(&mut self, field: &Field) -> &mut String {
        if self.rest.is_empty() {
            self.rest.reserve(LINE_BYTES);
        }
        self.rest.push(',');
        quote(&mut self.rest, field.name());
        self.rest.push(':');
        &mut self.rest
    }

    fn number(&mut self, field: &Field, number: impl fmt::Display) {
        // Writing to a string does not fail.
        let _written = write!(self.member(field), "{number}");
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() { self.number(field, value) } else { self.member(field).push_str("null") }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.number(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.number(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.number(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.message),
            "log.target" => self.target = Some(value.to_owned()),
            name if name.starts_with("log.") => {}
            _ => quote(self.member(field), value),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

/// Writes `text` as a JSON string (RFC 8259 section 7). Most of it needs no escape, and is not looked at twice.
pub(super) fn quote(line: &mut String, text: &str) {
    let needs_escape = |byte: u8| u8::from(byte < b' ') | u8::from(byte == b'"') | u8::from(byte == b'\\');
    // To its end whatever is found, for so many bytes are looked at together.
    if text.bytes().fold(0, |found, byte| found | needs_escape(byte)) == 0 {
        line.push('"');
        line.push_str(text);
        line.push('"');
    } else {
        line.push_str(&serde_json::Value::from(text).to_string());
    }
}

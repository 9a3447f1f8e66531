//! A duration as the scheme language writes it. No moment in time, and no duration below zero.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

/// A duration: `"300s"`, `"5m"`, `"24h"`, `"3d"`, `"50ms"`, or a whole number of seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Span {
    /// Reads a number and its unit; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at_checked(digits)?;
        let number: u64 = number.parse().ok()?;
        let seconds = match unit {
            "ms" => return Some(Self(Duration::from_millis(number))),
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => return None,
        };
        number.checked_mul(seconds).map(|seconds| Self(Duration::from_secs(seconds)))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SpanVisitor)
    }
}

struct SpanVisitor;

impl de::Visitor<'_> for SpanVisitor {
    type Value = Span;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration like \"30s\", \"5m\" or \"24h\", or a whole number of seconds")
    }

    fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Span, E> {
        Ok(Span(Duration::from_secs(seconds)))
    }

    fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<Span, E> {
        u64::try_from(seconds)
            .map(|seconds| Span(Duration::from_secs(seconds)))
            .map_err(|_| E::invalid_value(de::Unexpected::Signed(seconds), &self))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
        Span::parse(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Span".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "a duration like \"30s\", \"5m\", \"24h\" or \"3d\", or a whole number of seconds",
            "oneOf": [
                { "type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$" },
                { "type": "integer", "minimum": 0 }
            ]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_has_a_unit_or_is_seconds() {
        assert_eq!(Span::parse("300s"), Some(Span(Duration::from_secs(300))));
        assert_eq!(Span::parse("23h"), Some(Span(Duration::from_secs(82_800))));
        assert_eq!(Span::parse("50ms"), Some(Span(Duration::from_millis(50))));
        for wrong in ["", "s", "300", "-1s", "1.5h", "1 s", "1w", "99999999999999999999s"] {
            assert_eq!(Span::parse(wrong), None, "{wrong:?}");
        }
        assert_eq!(serde_json::from_str::<Span>("300").ok(), Some(Span(Duration::from_secs(300))));
        assert!(serde_json::from_str::<Span>("-1").is_err());
    }
}

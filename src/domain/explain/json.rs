//! JSON written anew, token by token: the order of members, repeated members and the spelling of numbers are kept
//! unless a style changes them. It knows how programs usually write JSON, and nothing of what the JSON means.

use std::borrow::Cow;
use std::fmt;

use serde_json::value::RawValue;

/// Longest text that is written, in bytes: indentation can make a small one large.
const LONGEST: usize = 8 * 1024 * 1024;
/// Deepest nesting that is written anew.
const MAX_DEPTH: usize = 128;

/// A JSON text in its parts.
#[derive(Debug)]
pub(super) struct Document<'t> {
    root: Node<'t>,
}

#[derive(Debug)]
enum Node<'t> {
    /// A number, `true`, `false` or `null`, as spelt.
    Plain(&'t str),
    Text(Text<'t>),
    Array(Vec<Node<'t>>),
    Object(Vec<(Text<'t>, Node<'t>)>),
}

/// A string as it stands between its quotes, and what it means, if that is text at all.
#[derive(Debug)]
struct Text<'t> {
    spelt: &'t str,
    meant: Option<Cow<'t, str>>,
}

/// Where blanks and line breaks stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    Compact,
    /// `{"a": 1, "b": 2}`, as Python writes it.
    Spaced,
    /// `{"a": 1,"b": 2}`
    AfterColons,
    /// Lines, each level this deep.
    Lines(&'static str),
}

/// The order of members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Kept,
    Sorted,
}

/// Which characters of a string are escaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escapes {
    /// Only those that must be.
    Least,
    /// Slashes too.
    Slashes,
    /// All but ASCII.
    Ascii,
    /// Both.
    SlashesAndAscii,
    /// `<`, `>`, `&` and the line separators, as Go does.
    Html,
    /// All that could matter in HTML and all but ASCII, in capitals, as .NET does.
    Strict,
}

/// How numbers are spelt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Numbers {
    Kept,
    /// As JavaScript writes them: `1.0` is `1`.
    JavaScript,
}

/// One way to write JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Style {
    layout: Layout,
    order: Order,
    escapes: Escapes,
    numbers: Numbers,
}

const LAYOUTS: [Layout; 6] = [
    Layout::Compact,
    Layout::Spaced,
    Layout::Lines("  "),
    Layout::Lines("    "),
    Layout::Lines("\t"),
    Layout::AfterColons,
];
const ESCAPES: [Escapes; 6] =
    [Escapes::Least, Escapes::Ascii, Escapes::Slashes, Escapes::SlashesAndAscii, Escapes::Html, Escapes::Strict];

impl fmt::Display for Style {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.layout {
            Layout::Compact => "compactly",
            Layout::Spaced => "with \", \" and \": \" (as Python does)",
            Layout::AfterColons => "with blanks behind colons only",
            Layout::Lines("  ") => "on lines indented by 2",
            Layout::Lines("    ") => "on lines indented by 4",
            Layout::Lines(_) => "on lines indented by tabs",
        })?;
        if self.order == Order::Sorted {
            f.write_str(", keys sorted")?;
        }
        f.write_str(match self.escapes {
            Escapes::Least => ", nothing escaped that need not be",
            Escapes::Slashes => ", slashes escaped",
            Escapes::Ascii => ", non-ASCII escaped",
            Escapes::SlashesAndAscii => ", slashes and non-ASCII escaped (as PHP does)",
            Escapes::Html => ", <, > and & escaped (as Go does)",
            Escapes::Strict => ", HTML and non-ASCII escaped (as .NET does)",
        })?;
        f.write_str(match self.numbers {
            Numbers::Kept => "",
            Numbers::JavaScript => ", numbers as JavaScript writes them",
        })
    }
}

impl<'t> Document<'t> {
    /// `None` if it is not JSON, or nested deeper than 128 levels.
    pub(super) fn parse(text: &'t str) -> Option<Self> {
        // The whole is checked first: what follows only takes apart what is JSON.
        let whole: &RawValue = serde_json::from_str(text).ok()?;
        let mut reader = Reader { rest: whole.get() };
        reader.node(0).map(|root| Self { root })
    }

    /// The ways in which this text can be written so that they may differ.
    pub(super) fn styles(&self) -> Vec<Style> {
        let numbers =
            if self.root.any(&is_long_number) { vec![Numbers::Kept, Numbers::JavaScript] } else { vec![Numbers::Kept] };
        let mut styles = Vec::new();
        for numbers in numbers {
            for order in [Order::Kept, Order::Sorted] {
                for escapes in ESCAPES {
                    styles.extend(LAYOUTS.map(|layout| Style { layout, order, escapes, numbers }));
                }
            }
        }
        styles
    }

    /// The text in this style; `None` if that is longer than 8 MiB.
    pub(super) fn write(&self, style: &Style) -> Option<String> {
        let mut writer = Writer { text: String::new(), style: *style };
        writer.node(&self.root, 0);
        (writer.text.len() <= LONGEST).then_some(writer.text)
    }
}

/// `text` as a JSON string.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn is_long_number(node: &Node<'_>) -> bool {
    match node {
        Node::Plain(text) => {
            text.starts_with(|c: char| c == '-' || c.is_ascii_digit()) && text.contains(['.', 'e', 'E'])
        }
        Node::Text(_) | Node::Array(_) | Node::Object(_) => false,
    }
}

impl Node<'_> {
    fn any(&self, is: &impl Fn(&Node<'_>) -> bool) -> bool {
        match self {
            Self::Plain(_) | Self::Text(_) => is(self),
            Self::Array(items) => items.iter().any(|item| item.any(is)),
            Self::Object(members) => members.iter().any(|(_, value)| value.any(is)),
        }
    }
}

/// Takes apart what is known to be JSON.
struct Reader<'t> {
    rest: &'t str,
}

impl<'t> Reader<'t> {
    fn node(&mut self, depth: usize) -> Option<Node<'t>> {
        if depth > MAX_DEPTH {
            return None;
        }
        match self.peek()? {
            '"' => self.text().map(Node::Text),
            '[' => self.array(depth),
            '{' => self.object(depth),
            _ => {
                let end = self.rest.find([',', ']', '}', ' ', '\t', '\r', '\n']).unwrap_or(self.rest.len());
                self.take(end).map(Node::Plain)
            }
        }
    }

    fn array(&mut self, depth: usize) -> Option<Node<'t>> {
        let mut items = Vec::new();
        self.take(1)?;
        while self.peek()? != ']' {
            items.push(self.node(depth + 1)?);
            if self.peek()? == ',' {
                self.take(1)?;
            }
        }
        self.take(1)?;
        Some(Node::Array(items))
    }

    fn object(&mut self, depth: usize) -> Option<Node<'t>> {
        let mut members = Vec::new();
        self.take(1)?;
        while self.peek()? != '}' {
            self.peek()?;
            let name = self.text()?;
            self.peek()?;
            self.take(1)?;
            members.push((name, self.node(depth + 1)?));
            if self.peek()? == ',' {
                self.take(1)?;
            }
        }
        self.take(1)?;
        Some(Node::Object(members))
    }

    fn text(&mut self) -> Option<Text<'t>> {
        let mut escaped = false;
        let inner = self.rest.get(1..)?;
        let end = inner.bytes().position(|byte| {
            let ends = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        })?;
        let spelt = inner.get(..end)?;
        let whole = self.take(end + 2)?;
        let meant = if spelt.contains('\\') {
            serde_json::from_str::<String>(whole).ok().map(Cow::Owned)
        } else {
            Some(Cow::Borrowed(spelt))
        };
        Some(Text { spelt, meant })
    }

    /// The next character that is no blank.
    fn peek(&mut self) -> Option<char> {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
        self.rest.chars().next()
    }

    fn take(&mut self, bytes: usize) -> Option<&'t str> {
        let (taken, rest) = self.rest.split_at_checked(bytes)?;
        self.rest = rest;
        Some(taken)
    }
}

/// Writes in one style.
struct Writer {
    text: String,
    style: Style,
}

impl Writer {
    fn node(&mut self, node: &Node<'_>, depth: usize) {
        if self.text.len() > LONGEST {
            return;
        }
        match node {
            Node::Plain(spelt) => match self.style.numbers {
                Numbers::JavaScript if is_long_number(node) => self.text.push_str(&javascript_number(spelt)),
                Numbers::Kept | Numbers::JavaScript => self.text.push_str(spelt),
            },
            Node::Text(text) => self.string(text),
            Node::Array(items) => self.list('[', ']', items.iter(), depth, |writer, item| writer.node(item, depth + 1)),
            Node::Object(members) => {
                let mut members: Vec<&(Text<'_>, Node<'_>)> = members.iter().collect();
                if self.style.order == Order::Sorted {
                    members.sort_by(|(one, _), (other, _)| one.name().cmp(other.name()));
                }
                self.list('{', '}', members.into_iter(), depth, |writer, (name, value)| {
                    writer.string(name);
                    writer.text.push_str(if writer.style.layout == Layout::Compact { ":" } else { ": " });
                    writer.node(value, depth + 1);
                });
            }
        }
    }

    fn list<T>(
        &mut self,
        open: char,
        close: char,
        items: impl ExactSizeIterator<Item = T>,
        depth: usize,
        mut write: impl FnMut(&mut Self, T),
    ) {
        let empty = items.len() == 0;
        self.text.push(open);
        for (number, item) in items.enumerate() {
            // The indentation of many small items alone would be far longer than the text that is given up.
            if self.text.len() > LONGEST {
                return;
            }
            if number > 0 {
                self.text.push_str(if self.style.layout == Layout::Spaced { ", " } else { "," });
            }
            self.line(depth + 1);
            write(self, item);
        }
        if !empty {
            self.line(depth);
        }
        self.text.push(close);
    }

    /// Begins a line, where the style has lines.
    fn line(&mut self, depth: usize) {
        match self.style.layout {
            Layout::Compact | Layout::Spaced | Layout::AfterColons => {}
            Layout::Lines(indent) => {
                self.text.push('\n');
                (0..depth).for_each(|_| self.text.push_str(indent));
            }
        }
    }

    fn string(&mut self, text: &Text<'_>) {
        self.text.push('"');
        match &text.meant {
            // Half a surrogate pair means nothing: it stays as it is.
            None => self.text.push_str(text.spelt),
            Some(meant) => meant.chars().for_each(|c| self.character(c)),
        }
        self.text.push('"');
    }

    fn character(&mut self, c: char) {
        let escapes = self.style.escapes;
        let slashes = matches!(escapes, Escapes::Slashes | Escapes::SlashesAndAscii);
        let ascii = matches!(escapes, Escapes::Ascii | Escapes::SlashesAndAscii | Escapes::Strict);
        match c {
            '"' if escapes != Escapes::Strict => self.text.push_str("\\\""),
            '\\' => self.text.push_str("\\\\"),
            '\u{8}' => self.text.push_str("\\b"),
            '\u{c}' => self.text.push_str("\\f"),
            '\n' => self.text.push_str("\\n"),
            '\r' => self.text.push_str("\\r"),
            '\t' => self.text.push_str("\\t"),
            '/' if slashes => self.text.push_str("\\/"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' if escapes == Escapes::Html => self.unicode(c),
            '"' | '<' | '>' | '&' | '\'' | '+' | '`' if escapes == Escapes::Strict => self.unicode(c),
            c if c < ' ' || (ascii && !c.is_ascii()) => self.unicode(c),
            c => self.text.push(c),
        }
    }

    /// `\uXXXX`, as a pair where it takes one.
    fn unicode(&mut self, c: char) {
        let mut units = [0_u16; 2];
        for unit in c.encode_utf16(&mut units) {
            let text =
                if self.style.escapes == Escapes::Strict { format!("\\u{unit:04X}") } else { format!("\\u{unit:04x}") };
            self.text.push_str(&text);
        }
    }
}

impl Text<'_> {
    fn name(&self) -> &str {
        self.meant.as_deref().unwrap_or(self.spelt)
    }
}

/// A number as JavaScript writes it, as far as it needs no exponent.
fn javascript_number(spelt: &str) -> Cow<'_, str> {
    match spelt.parse::<f64>() {
        Ok(0.0) => "0".into(),
        Ok(number) if (1e-6..1e21).contains(&number.abs()) => number.to_string().into(),
        Ok(_) | Err(_) => spelt.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#" { "b" : [1.50, {}, [ ] ,true], "a":"x/\u00e9<\ud83d\ude00\"" , "a" : -0.0 } "#;

    fn all(text: &str) -> Vec<String> {
        let document = Document::parse(text).expect("JSON");
        document.styles().iter().map(|style| document.write(style).expect("a short text")).collect()
    }

    #[test]
    fn a_text_that_grows_too_long_is_given_up_at_the_bound() {
        let deep = format!("{}0{}{}", "[".repeat(120), ",0".repeat(100_000), "]".repeat(120));
        let document = Document::parse(&deep).expect("JSON");
        let style = Style {
            layout: Layout::Lines("    "),
            order: Order::Kept,
            escapes: Escapes::Least,
            numbers: Numbers::Kept,
        };
        let mut writer = Writer { text: String::new(), style };
        writer.node(&document.root, 0);
        assert!((LONGEST..LONGEST + 64 * 1024).contains(&writer.text.len()), "{}", writer.text.len());
        assert_eq!(document.write(&style), None);
    }

    #[test]
    fn json_is_written_as_other_programs_write_it() {
        let written = all(TEXT);
        for form in [
            r#"{"b":[1.50,{},[],true],"a":"x/é<😀\"","a":-0.0}"#,
            r#"{"b": [1.50, {}, [], true], "a": "x/\u00e9<\ud83d\ude00\"", "a": -0.0}"#,
            r#"{"a":"x\/\u00e9<\ud83d\ude00\"","a":-0.0,"b":[1.50,{},[],true]}"#,
            r#"{"b":[1.5,{},[],true],"a":"x/é\u003c😀\"","a":0}"#,
            r#"{"b":[1.50,{},[],true],"a":"x/\u00E9\u003C\uD83D\uDE00\u0022","a":-0.0}"#,
            "{\n  \"b\": [\n    1.50,\n    {},\n    [],\n    true\n  ],\n  \"a\": \"x/é<😀\\\"\",\n  \"a\": -0.0\n}",
        ] {
            assert!(written.iter().any(|text| text == form), "{form} is not among\n{}", written.join("\n"));
        }
    }

    #[test]
    fn every_style_means_the_same() {
        let written = all(r#"{"b":[1,"x\/\u00e9\u2028'+\u0001"],"a":null}"#);
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
        assert_eq!(written.len(), 72);
        assert!(written.iter().all(|text| value(text) == value(&written[0])));
    }

    #[test]
    fn what_is_no_json_or_too_deep_is_not_written() {
        for text in ["", "{", "{\"a\":}", "[1,]", "\"a", "{} {}"] {
            assert!(Document::parse(text).is_none(), "{text}");
        }
        let deep = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        assert!(Document::parse(&deep(100)).is_some());
        assert!(Document::parse(&deep(1000)).is_none());
        assert!(Document::parse(&deep(200_000)).is_none());
    }

    #[test]
    fn indentation_cannot_fill_the_memory() {
        let text = format!("{}{}1{}", "[".repeat(120), "1,".repeat(100_000), "]".repeat(120));
        let document = Document::parse(&text).expect("JSON");
        let lengths = document.styles().into_iter().map(|style| document.write(&style).map_or(0, |text| text.len()));
        let lengths: Vec<usize> = lengths.collect();
        assert!(lengths.contains(&0) && lengths.contains(&text.len()), "{lengths:?}");
    }

    #[test]
    fn half_a_pair_stays_as_it_is() {
        assert!(all(r#"["\ud83d"]"#).iter().all(|text| text.contains(r"\ud83d")));
    }
}

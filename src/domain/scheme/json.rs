//! Single values out of a JSON body, found by pointer (RFC 6901) without building a tree.
//!
//! Not a general reader: it answers only where every reader of the same bytes must agree. A name on the path that
//! comes twice, a body that is not JSON and one nested deeper than 128 levels give no value at all,
//! never the first or the last. Values beside the path are checked for syntax and otherwise skipped.
//!
//! Values are borrowed from the body unless they hold escapes; up to eight of them cost no allocation of ours.

mod level;

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;
use smallvec::SmallVec;

use level::{Child, Level, Wanted, Wants, read_level};

/// Deepest nesting that is read; deeper bodies have no values.
const MAX_DEPTH: usize = 128;

/// The value at `pointer` as text if it is a string, a number or a boolean; numbers keep their spelling.
///
/// `None` if it is missing, null, an array or an object, or if the body is ambiguous: names that come twice on the
/// path, deeper than 128 levels, not JSON.
#[must_use]
pub fn json_scalar(body: &[u8], pointer: &str) -> Option<String> {
    let pointer = Pointer::parse(pointer)?;
    match extract(body, std::slice::from_ref(&pointer)).pop()? {
        Field::Is(scalar) => Some(scalar.as_text().to_owned()),
        Field::Absent | Field::Unclear => None,
    }
}

/// A parsed JSON pointer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pointer {
    tokens: Vec<String>,
}

impl Pointer {
    /// `None` if `text` is neither empty nor begins with `/`, or has a `~` that escapes nothing.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self { tokens: Vec::new() });
        }
        let tokens = text.strip_prefix('/')?.split('/').map(unescape).collect::<Option<Vec<_>>>()?;
        Some(Self { tokens })
    }

    /// This pointer with `below` behind it.
    pub(super) fn join(&self, below: &Self) -> Self {
        Self { tokens: self.tokens.iter().chain(&below.tokens).cloned().collect() }
    }
}

fn unescape(token: &str) -> Option<String> {
    let mut text = String::with_capacity(token.len());
    let mut chars = token.chars();
    while let Some(c) = chars.next() {
        text.push(match c {
            '~' => match chars.next()? {
                '0' => '~',
                '1' => '/',
                _ => return None,
            },
            other => other,
        });
    }
    Some(text)
}

/// Values asked of one body, as a rule: more are no error, and cost an allocation.
const USUAL: usize = 8;

/// What stands at several pointers, in their order.
pub(super) type Fields<'b> = SmallVec<[Field<'b>; USUAL]>;

/// What stands at a pointer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Field<'b> {
    /// Nothing, `null`, an array or an object.
    Absent,
    /// Readers may differ about it.
    Unclear,
    /// This.
    Is(Scalar<'b>),
}

/// A value that is one text. `"1"` and `1` are different values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scalar<'b> {
    /// A string, unescaped.
    Text(Cow<'b, str>),
    /// A number as it is spelt.
    Number(&'b str),
    /// `true` or `false`.
    Truth(bool),
}

impl Scalar<'_> {
    /// The value as text, without its type.
    pub(super) fn as_text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Number(text) => text,
            Self::Truth(true) => "true",
            Self::Truth(false) => "false",
        }
    }

    /// A byte that tells the types apart.
    pub(super) const fn tag(&self) -> u8 {
        match self {
            Self::Text(_) => b's',
            Self::Number(_) => b'n',
            Self::Truth(_) => b'b',
        }
    }
}

/// The values at `pointers`, in their order.
pub(super) fn extract<'b>(body: &'b [u8], pointers: &[Pointer]) -> Fields<'b> {
    let mut fields = Fields::new();
    extract_into(&mut fields, body, pointers);
    fields
}

/// The same into `fields`, which are empty, so that their room is not moved.
pub(super) fn extract_into<'b>(fields: &mut Fields<'b>, body: &'b [u8], pointers: &[Pointer]) {
    if pointers.is_empty() {
        return;
    }
    let body = without_bom(body);
    let mut wanted = Wants::new();
    for (slot, pointer) in pointers.iter().enumerate() {
        wanted.push(Wanted { slot, rest: &pointer.tokens });
        fields.push(Field::Absent);
    }
    if too_deep(body) || collect(body, &wanted, fields).is_err() {
        fields.fill(Field::Unclear);
    }
}

/// The elements of the array at `pointer`, as they are spelt; `None` if there is no such array or it is unclear.
/// Of more than `most` only one more is given.
pub(super) fn elements<'b>(body: &'b [u8], pointer: &Pointer, most: usize) -> Option<Vec<&'b [u8]>> {
    let body = without_bom(body);
    if too_deep(body) {
        return None;
    }
    let mut at = body;
    for token in &pointer.tokens {
        let wanted = [Wanted { slot: 0, rest: std::slice::from_ref(token) }];
        let mut level = Level::new();
        read_level(&mut level, at, &wanted).ok()?;
        match level.first()? {
            (_, Child::Once(value)) => at = value.get().as_bytes(),
            (_, Child::Repeated) => return None,
        }
    }
    let mut reader = serde_json::Deserializer::from_slice(at);
    let elements = Elements { most }.deserialize(&mut reader).ok()?;
    reader.end().ok()?;
    Some(elements)
}

/// The elements of an array, and no more of them than one beyond `most`: the array may be the work of anybody.
struct Elements {
    most: usize,
}

impl<'de> DeserializeSeed<'de> for Elements {
    type Value = Vec<&'de [u8]>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Elements {
    type Value = Vec<&'de [u8]>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut elements = Vec::new();
        while elements.len() <= self.most {
            match seq.next_element::<&RawValue>()? {
                Some(value) => elements.push(value.get().as_bytes()),
                None => return Ok(elements),
            }
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(elements)
    }
}

/// `text` as it stands between the quotes of a JSON string.
pub(super) fn escape(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    quoted.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or_default().to_owned()
}

fn without_bom(body: &[u8]) -> &[u8] {
    body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body)
}

/// Counts brackets outside strings: skipping a value does not bound its depth by itself. A body with few brackets
/// altogether, which is most of them, is not deep.
fn too_deep(body: &[u8]) -> bool {
    if opening_brackets(body) <= MAX_DEPTH {
        return false;
    }
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in body {
        if in_string {
            in_string = escaped || *byte != b'"';
            escaped = !escaped && *byte == b'\\';
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return true;
        }
    }
    false
}

/// How many brackets open, in strings or not. Counted in blocks whose count fits a byte, which a processor does 16 or
/// more bytes at a time.
fn opening_brackets(body: &[u8]) -> usize {
    // `[` and `{` differ in this bit alone, and nothing else becomes `{` by it.
    let opens = |byte: &u8| u8::from(byte | 0x20 == b'{');
    body.chunks(255).map(|block| usize::from(block.iter().map(opens).sum::<u8>())).sum()
}

/// Reads a whole body.
fn collect<'b>(json: &'b [u8], wanted: &[Wanted<'_>], fields: &mut [Field<'b>]) -> serde_json::Result<()> {
    if wanted.iter().any(|w| w.rest.is_empty()) {
        let whole: &RawValue = serde_json::from_slice(json)?;
        for found in wanted.iter().filter(|w| w.rest.is_empty()) {
            set(fields, found.slot, scalar(whole)?);
        }
    }
    descend(json, wanted, fields)
}

/// What is looked for in an array or object; its syntax is checked if anything is.
fn descend<'b>(json: &'b [u8], wanted: &[Wanted<'_>], fields: &mut [Field<'b>]) -> serde_json::Result<()> {
    if wanted.iter().all(|w| w.rest.is_empty()) {
        return Ok(());
    }
    let mut level = Level::new();
    read_level(&mut level, json, wanted)?;
    for (token, child) in &level {
        let mut deeper = Wants::new();
        for inside in wanted.iter().filter_map(|w| w.step(token)) {
            match child {
                Child::Once(value) if inside.rest.is_empty() => set(fields, inside.slot, scalar(value)?),
                Child::Once(_) => deeper.push(inside),
                Child::Repeated => set(fields, inside.slot, Field::Unclear),
            }
        }
        if let (Child::Once(value), false) = (child, deeper.is_empty()) {
            descend(value.get().as_bytes(), &deeper, fields)?;
        }
    }
    Ok(())
}

fn set<'b>(fields: &mut [Field<'b>], slot: usize, value: Field<'b>) {
    if let Some(field) = fields.get_mut(slot) {
        *field = value;
    }
}

fn scalar(text: &RawValue) -> serde_json::Result<Field<'_>> {
    Ok(match text.get().as_bytes().first() {
        Some(b'"') => Field::Is(Scalar::Text(match plain(text.get()) {
            Some(plain) => Cow::Borrowed(plain),
            None => serde_json::from_str::<Text<'_>>(text.get())?.0,
        })),
        Some(b't') => Field::Is(Scalar::Truth(true)),
        Some(b'f') => Field::Is(Scalar::Truth(false)),
        Some(b'-' | b'0'..=b'9') => Field::Is(Scalar::Number(text.get())),
        _ => Field::Absent,
    })
}

/// What stands between the quotes of a string, if nothing in it is escaped.
fn plain(string: &str) -> Option<&str> {
    string.strip_prefix('"')?.strip_suffix('"').filter(|inner| !inner.contains('\\'))
}

/// A string, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(body: &str, pointer: &str) -> Option<String> {
        json_scalar(body.as_bytes(), pointer)
    }

    #[test]
    fn values_are_found_through_objects_and_arrays() {
        let body = r#"{"a":{"b":[{"c":"x"},{"c":7}]},"t":true,"m/n":1.0,"e~":"é"}"#;
        assert_eq!(at(body, "/a/b/0/c").as_deref(), Some("x"));
        assert_eq!(at(body, "/a/b/1/c").as_deref(), Some("7"));
        assert_eq!(at(body, "/t").as_deref(), Some("true"));
        assert_eq!(at(body, "/m~1n").as_deref(), Some("1.0"));
        assert_eq!(at(body, "/e~0").as_deref(), Some("é"));
    }

    #[test]
    fn what_is_no_single_value_gives_none() {
        let body = r#"{"a":{"b":[1]},"n":null}"#;
        for pointer in ["/a", "/a/b", "/n", "/x", "/a/b/1", "/a/b/00", "/a/b/-", "a", "/a~2"] {
            assert_eq!(at(body, pointer), None, "{pointer}");
        }
        assert_eq!(at(body, "/a/b/0").as_deref(), Some("1"));
    }

    #[test]
    fn a_name_that_comes_twice_on_the_path_gives_none_in_any_spelling() {
        assert_eq!(at(r#"{"id":"1","id":"2"}"#, "/id"), None);
        assert_eq!(at(r#"{"id":"1","\u0069d":"2"}"#, "/id"), None);
        assert_eq!(at(r#"{"a":{"id":1},"a":{"id":1}}"#, "/a/id"), None);
        assert_eq!(at(r#"{"a":{"id":1,"id":1}}"#, "/a/id"), None);
    }

    #[test]
    fn a_name_that_comes_twice_beside_the_path_is_nobodys_business() {
        assert_eq!(at(r#"{"id":"1","x":1,"x":2}"#, "/id").as_deref(), Some("1"));
        assert_eq!(at(r#"{"id":"1","x":{"y":1,"y":2}}"#, "/id").as_deref(), Some("1"));
        let pointers = [Pointer::parse("/id").expect("valid"), Pointer::parse("/x").expect("valid")];
        let fields = extract(br#"{"id":"1","x":1,"x":2}"#, &pointers);
        assert_eq!(fields.as_slice(), [Field::Is(Scalar::Text("1".into())), Field::Unclear]);
    }

    #[test]
    fn what_is_not_json_gives_none() {
        for body in ["", "nope", r#"{"id":1"#, r#"{"id":1} x"#, r#"{"id":1,}"#, r#"{"id":"\ud800"}"#] {
            assert_eq!(at(body, "/id"), None, "{body}");
        }
        assert_eq!(json_scalar(b"{\"id\":\"\xff\"}", "/id"), None);
        assert_eq!(json_scalar(b"\xef\xbb\xbf{\"id\":1}", "/id").as_deref(), Some("1"));
    }

    #[test]
    fn nesting_is_read_down_to_128_levels_and_no_deeper() {
        let nested = |levels: usize| format!(r#"{{"id":1,"x":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
        assert_eq!(at(&nested(127), "/id").as_deref(), Some("1"));
        assert_eq!(at(&nested(128), "/id"), None);
        assert_eq!(at(&nested(100_000), "/id"), None);
        assert_eq!(at(r#"{"id":1,"x":"[[[[\"[[{"}"#, "/id").as_deref(), Some("1"));
    }

    #[test]
    fn a_value_and_one_below_it_can_both_be_asked_for() {
        let pointers = [Pointer::parse("/a").expect("valid"), Pointer::parse("/a/b").expect("valid")];
        let fields = extract(br#"{"a":{"b":"c"}}"#, &pointers);
        assert_eq!(fields.as_slice(), [Field::Absent, Field::Is(Scalar::Text("c".into()))]);
    }

    #[test]
    fn of_an_array_no_more_than_one_beyond_the_most_is_held() {
        let at = |body: &'static str, most| elements(body.as_bytes(), &Pointer::parse("/v").expect("valid"), most);
        assert_eq!(at(r#"{"v":[1,[2],{"a":3}]}"#, 3), Some(vec![b"1".as_slice(), b"[2]", br#"{"a":3}"#]));
        assert_eq!(at(r#"{"v":[1,2,3,4,5]}"#, 2).map(|found| found.len()), Some(3));
        for wrong in [r#"{"v":[1,2,3,4"#, r#"{"v":[1,2,3,x]}"#, r#"{"v":1}"#, r#"{"v":[],"v":[]}"#] {
            assert_eq!(at(wrong, 2), None, "{wrong}");
        }
    }

    #[test]
    fn text_is_escaped_for_a_json_string() {
        assert_eq!(escape("a\"b\\\n"), "a\\\"b\\\\\\n");
    }
}

//! The text that is signed: a template, parsed once, filled in with borrowed pieces of a request.

use http::HeaderName;
use sha2::{Digest, Sha256};
use smallvec::SmallVec;

use super::json::Pointer;
use super::source::Pointers;

/// Most parts a template may have.
const MAX_PARTS: usize = 64;

/// Pieces of a message, as a rule: more are no error, and cost an allocation.
const USUAL_PIECES: usize = 24;

/// What a template may hold, for people.
pub(super) const FORMS: &str = "text with {body} {timestamp} {id} {method} {url} {path} {encoded_path} {secret} {header:NAME} \
                                {json:/pointer} {form:NAME} {sorted_form} {signed_headers:NAME} {item:/pointer}";

/// One part of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// These bytes.
    Text(Vec<u8>),
    /// The body.
    Body,
    /// The timestamp, as it was written.
    Timestamp,
    /// The id.
    Id,
    /// The method.
    Method,
    /// The address the sender called.
    Url,
    /// Path and query of that address.
    Path,
    /// The secret.
    Secret,
    /// The same with its path escaped once more and its query twice more, as Contentful signs them.
    EncodedPath,
    /// The value of a header.
    Header(HeaderName),
    /// A value of the JSON body.
    Json(usize),
    /// A field of the form.
    Form(Vec<u8>),
    /// All fields of the form, sorted.
    SortedForm,
    /// The headers that this header names: `name:value;name:value`.
    SignedHeaders(HeaderName),
    /// A value of the item; empty if it is missing.
    Item(usize),
}

impl Part {
    /// The header whose value is signed, if this part is one.
    pub(super) const fn header(&self) -> Option<&HeaderName> {
        match self {
            Self::Header(name) | Self::SignedHeaders(name) => Some(name),
            Self::Text(_)
            | Self::Body
            | Self::Timestamp
            | Self::Id
            | Self::Method
            | Self::Url
            | Self::Path
            | Self::EncodedPath
            | Self::Secret
            | Self::Json(_)
            | Self::Form(_)
            | Self::SortedForm
            | Self::Item(_) => None,
        }
    }
}

impl Part {
    /// The header that lists which headers are signed, if this part is one.
    pub(super) const fn list(&self) -> Option<&HeaderName> {
        if let Self::SignedHeaders(name) = self { Some(name) } else { None }
    }
}

/// A parsed template.
#[derive(Clone, Debug)]
pub(super) struct Template {
    pub(super) parts: Vec<Part>,
}

impl Template {
    /// Parses `text`. The error is the part that is not known.
    pub(super) fn parse(text: &str, body: &mut Pointers, item: &mut Pointers) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            push_text(&mut parts, before);
            let (name, tail) = after.split_once('}').ok_or_else(|| format!("{{{after}"))?;
            parts.push(part(name, body, item).ok_or_else(|| format!("{{{name}}}"))?);
            rest = tail;
        }
        push_text(&mut parts, rest);
        if parts.len() > MAX_PARTS {
            return Err(format!("{} parts", parts.len()));
        }
        Ok(Self { parts })
    }

    /// Whether `part` is among the parts.
    pub(super) fn has(&self, part: &Part) -> bool {
        self.parts.contains(part)
    }
}

fn push_text(parts: &mut Vec<Part>, text: &str) {
    if !text.is_empty() {
        parts.push(Part::Text(text.as_bytes().to_vec()));
    }
}

fn part(name: &str, body: &mut Pointers, item: &mut Pointers) -> Option<Part> {
    let (kind, argument) = name.split_once(':').map_or((name, None), |(kind, argument)| (kind, Some(argument)));
    match (kind, argument) {
        ("body", None) => Some(Part::Body),
        ("timestamp", None) => Some(Part::Timestamp),
        ("id", None) => Some(Part::Id),
        ("method", None) => Some(Part::Method),
        ("url", None) => Some(Part::Url),
        ("path", None) => Some(Part::Path),
        ("encoded_path", None) => Some(Part::EncodedPath),
        ("secret", None) => Some(Part::Secret),
        ("sorted_form", None) => Some(Part::SortedForm),
        ("header", Some(name)) => name.parse().ok().map(Part::Header),
        ("signed_headers", Some(name)) => name.parse().ok().map(Part::SignedHeaders),
        ("json", Some(pointer)) => Pointer::parse(pointer).map(|pointer| Part::Json(body.place(pointer))),
        ("item", Some(pointer)) => Pointer::parse(pointer).map(|pointer| Part::Item(item.place(pointer))),
        ("form", Some(name)) if !name.is_empty() => Some(Part::Form(name.as_bytes().to_vec())),
        _ => None,
    }
}

/// A filled template: what is signed, in pieces borrowed from the request, the secret still left out.
#[derive(Debug, Default)]
pub(super) struct Message<'a> {
    pub(super) pieces: SmallVec<[Piece<'a>; USUAL_PIECES]>,
}

/// One piece of a message.
#[derive(Clone, Copy, Debug)]
pub(super) enum Piece<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// The secret's bytes.
    Secret,
}

impl<'a> Message<'a> {
    /// Puts bytes at its end.
    pub(super) fn put(&mut self, bytes: &'a [u8]) {
        self.pieces.push(Piece::Bytes(bytes));
    }

    /// Puts texts at its end.
    pub(super) fn put_all<const N: usize>(&mut self, texts: [&'a str; N]) {
        texts.into_iter().filter(|text| !text.is_empty()).for_each(|text| self.put(text.as_bytes()));
    }

    /// Hands the pieces to `sink` in their order.
    pub(super) fn feed(&self, secret: &[u8], sink: &mut dyn FnMut(&[u8])) {
        for piece in &self.pieces {
            match piece {
                Piece::Bytes(bytes) => sink(bytes),
                Piece::Secret => sink(secret),
            }
        }
    }

    /// SHA-256 over the message without the secret.
    pub(super) fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        self.feed(&[], &mut |bytes| hash.update(bytes));
        hash.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_text_and_parts() {
        let (mut body, mut item) = (Pointers::default(), Pointers::default());
        let template = Template::parse("v0:{timestamp}:{body}{json:/a}", &mut body, &mut item).expect("known parts");
        let text = |t: &str| Part::Text(t.as_bytes().to_vec());
        assert_eq!(template.parts, [text("v0:"), Part::Timestamp, text(":"), Part::Body, Part::Json(0)]);
    }

    #[test]
    fn an_unknown_part_is_named() {
        let parse = |text: &str| Template::parse(text, &mut Pointers::default(), &mut Pointers::default()).err();
        assert_eq!(parse("{boddy}").as_deref(), Some("{boddy}"));
        assert_eq!(parse("a{body").as_deref(), Some("{body"));
        assert_eq!(parse("{header:}").as_deref(), Some("{header:}"));
        assert_eq!(parse("{json:a}").as_deref(), Some("{json:a}"));
    }
}

//! One request as a scheme looks at it: values by source, and the signed text by template.
//!
//! Borrowed from the request throughout. Nothing read here is believed before a signature over it was found right.

use std::borrow::Cow;
use std::cell::OnceCell;

use http::{HeaderMap, HeaderName, Method};

use super::claims::Claims;
use super::form::{Form, Occurrence};
use super::json::{self, Field, Scalar};
use super::signature::single;
use super::source::Source;
use super::template::{Message, Part, Piece, Template};
use super::{Read, Scheme};
use crate::domain::refusal::Refusal;

/// Most headers that one `{signed_headers}` list may name: the list is the sender's, and each name costs a copy.
const MAX_SIGNED_HEADERS: usize = 64;

/// What a scheme needs of a request.
#[derive(Debug)]
pub(super) struct Subject<'a> {
    pub(super) method: &'a Method,
    /// The whole address, `""` if the scheme does not need it.
    pub(super) url: &'a str,
    pub(super) query: Option<&'a str>,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a [u8],
}

/// A request with those of its parts read that the scheme needs for the signature.
#[derive(Debug)]
pub(super) struct Reading<'a> {
    pub(super) subject: Subject<'a>,
    /// The body as a form; nothing if it is not needed or has too many fields.
    form: Option<Form<'a>>,
    /// Values of the body, in the order of the scheme's pointers; none before they are needed.
    fields: Vec<Field>,
    /// What the web token claims, once its MAC was found right.
    pub(super) claims: OnceCell<Claims>,
}

impl<'a> Reading<'a> {
    /// Reads what comes before the signature check.
    pub(super) fn new(scheme: &Scheme, subject: Subject<'a>) -> Self {
        let form = match scheme.reads.form {
            Read::Yes => Form::parse(subject.body),
            Read::No => None,
        };
        let fields = match scheme.reads.json_first {
            Read::Yes => json::extract(subject.body, scheme.pointers.as_slice()),
            Read::No => Vec::new(),
        };
        Self { subject, form, fields, claims: OnceCell::new() }
    }

    /// The values of the body that were read, or are now.
    pub(super) fn fields(&self, scheme: &Scheme) -> Vec<Field> {
        match scheme.reads.json_first {
            Read::Yes => self.fields.clone(),
            Read::No => json::extract(self.subject.body, scheme.pointers.as_slice()),
        }
    }

    /// The value of the body at `place`, if it was read before the signature check.
    pub(super) fn text(&self, place: usize) -> Option<&str> {
        self.scalar(place).map(Scalar::as_text)
    }

    /// The value at `source`, or nothing if it is missing, empty or unclear.
    pub(super) fn value(&self, source: &Source) -> Result<Option<Cow<'_, [u8]>>, Refusal> {
        match source {
            Source::Header(name) => Ok(single(self.subject.headers, name)?.map(Cow::Borrowed)),
            Source::Json(place) => Ok(self.scalar(*place).map(|scalar| Cow::Borrowed(scalar.as_text().as_bytes()))),
            Source::Form(name) => self.form_field(name).map(|value| value.map(Cow::Borrowed)),
            Source::Query(name) => query_value(self.subject.query, name).map(|value| value.map(Cow::Owned)),
            Source::Claim(names) => Ok(self.claim(names).map(|text| Cow::Borrowed(text.as_bytes()))),
            Source::Beside(_) => Ok(None),
        }
    }

    fn claim(&self, names: &[String]) -> Option<&str> {
        let claims = self.claims.get()?;
        names.iter().find_map(|name| claims.text(name))
    }

    fn scalar(&self, place: usize) -> Option<&Scalar> {
        scalar_of(&self.fields, place)
    }

    /// The value of a field of the form.
    pub(super) fn form_field(&self, name: &[u8]) -> Result<Option<&[u8]>, Refusal> {
        match self.form.as_ref().ok_or(Refusal::SignatureMalformed)?.get(name) {
            Occurrence::None => Ok(None),
            Occurrence::Once(value) => Ok(Some(value).filter(|value| !value.is_empty())),
            Occurrence::Repeated => Err(Refusal::SignatureRepeated),
        }
    }

    /// The signed text, with `time` for its timestamp and `url` for its address.
    pub(super) fn render<'m>(&'m self, scheme: &'m Scheme, fill: &Fill<'m>) -> Result<Message<'m>, Refusal> {
        let template: &Template = &scheme.signed;
        let pieces: Result<Vec<Piece<'m>>, Refusal> =
            template.parts.iter().map(|part| self.piece(scheme, part, fill)).collect();
        Ok(Message { pieces: pieces? })
    }

    fn piece<'m>(&'m self, scheme: &'m Scheme, part: &'m Part, fill: &Fill<'m>) -> Result<Piece<'m>, Refusal> {
        let bytes: Cow<'m, [u8]> = match part {
            Part::Secret => return Ok(Piece::Secret),
            Part::Text(text) => Cow::Borrowed(text.as_slice()),
            Part::Body => Cow::Borrowed(self.subject.body),
            Part::Timestamp => Cow::Borrowed(fill.time.ok_or(Refusal::TimestampMissing)?),
            Part::Id => match &scheme.id {
                Some(source) => self.value(source)?.ok_or(Refusal::SignatureMissing)?,
                None => return Err(Refusal::SignatureMissing),
            },
            Part::Method => Cow::Borrowed(self.subject.method.as_str().as_bytes()),
            Part::Url => Cow::Borrowed(fill.url.as_bytes()),
            Part::Path => Cow::Borrowed(path_of(fill.url).as_bytes()),
            Part::EncodedPath => Cow::Owned(encoded_path(fill.url)),
            Part::Header(name) => Cow::Borrowed(single(self.subject.headers, name)?.ok_or(Refusal::SignatureMissing)?),
            Part::Json(place) => {
                Cow::Borrowed(self.scalar(*place).ok_or(Refusal::SignatureMissing)?.as_text().as_bytes())
            }
            Part::Form(name) => Cow::Borrowed(self.form_field(name)?.ok_or(Refusal::SignatureMissing)?),
            Part::SortedForm => self.sorted_form(fill)?,
            Part::SignedHeaders(name) => Cow::Owned(self.signed_headers(scheme, name)?),
            Part::Item(place) => Cow::Borrowed(item_text(fill.item, *place)?.as_bytes()),
        };
        Ok(Piece::Bytes(bytes))
    }

    fn sorted_form(&self, fill: &Fill<'_>) -> Result<Cow<'static, [u8]>, Refusal> {
        match (fill.digested, &self.form) {
            (Read::Yes, _) => Ok(Cow::Borrowed(b"")),
            (Read::No, Some(form)) => Ok(Cow::Owned(form.sorted())),
            (Read::No, None) => Err(Refusal::SignatureMalformed),
        }
    }

    /// `name:value;name:value` of the headers that the header `list` names, which must be among them, and so must
    /// the timestamp.
    fn signed_headers(&self, scheme: &Scheme, list: &HeaderName) -> Result<Vec<u8>, Refusal> {
        let wanted = single(self.subject.headers, list)?.ok_or(Refusal::SignatureMissing)?;
        let wanted = std::str::from_utf8(wanted).map_err(|_| Refusal::SignatureMalformed)?;
        let mut named: Vec<HeaderName> = Vec::new();
        let mut text = Vec::new();
        for name in wanted.split(',') {
            let name: HeaderName = name.trim_ascii().parse().map_err(|_| Refusal::SignatureMalformed)?;
            let value = single(self.subject.headers, &name)?.unwrap_or_default();
            if named.contains(&name) || named.len() == MAX_SIGNED_HEADERS {
                return Err(Refusal::SignatureMalformed);
            }
            text.extend_from_slice(if named.is_empty() { b"" } else { b";" });
            text.extend_from_slice(name.as_str().as_bytes());
            text.push(b':');
            text.extend_from_slice(value.trim_ascii());
            named.push(name);
        }
        let time = scheme.sent.as_ref().and_then(|rule| rule.source.header());
        let complete = named.contains(list) && time.is_none_or(|time| named.contains(time));
        if complete { Ok(text) } else { Err(Refusal::SignatureMalformed) }
    }
}

/// What differs between the messages of one request.
#[derive(Debug)]
pub(super) struct Fill<'m> {
    /// The timestamp as it was written.
    pub(super) time: Option<&'m [u8]>,
    /// The address.
    pub(super) url: &'m str,
    /// Whether the address holds a digest of the body, which stands in for the form.
    pub(super) digested: Read,
    /// The values of the item.
    pub(super) item: &'m [Field],
}

/// The scalar at `place` of `fields`.
pub(super) fn scalar_of(fields: &[Field], place: usize) -> Option<&Scalar> {
    match fields.get(place) {
        Some(Field::Is(scalar)) if !scalar.as_text().is_empty() => Some(scalar),
        Some(Field::Is(_) | Field::Absent | Field::Unclear) | None => None,
    }
}

/// An item's value as it is signed. What readers may differ about is refused: an item's bytes are not all signed.
fn item_text(item: &[Field], place: usize) -> Result<&str, Refusal> {
    match item.get(place) {
        Some(Field::Is(scalar)) => Ok(scalar.as_text()),
        Some(Field::Absent) => Ok(""),
        Some(Field::Unclear) | None => Err(Refusal::SignatureMalformed),
    }
}

/// The value of a query parameter; empty counts as absent.
pub(super) fn query_value(query: Option<&str>, name: &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
    let form = Form::parse(query.unwrap_or_default().as_bytes()).ok_or(Refusal::SignatureMalformed)?;
    match form.get(name) {
        Occurrence::None => Ok(None),
        Occurrence::Once(value) => Ok(Some(value.to_vec()).filter(|value| !value.is_empty())),
        Occurrence::Repeated => Err(Refusal::SignatureRepeated),
    }
}

/// Path and query of an absolute address.
fn path_of(url: &str) -> &str {
    let after_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
    after_scheme.find(['/', '?']).and_then(|at| after_scheme.get(at..)).unwrap_or("/")
}

/// Path and query, the path escaped once more and the query twice more.
fn encoded_path(url: &str) -> Vec<u8> {
    let path = path_of(url);
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    let mut text = escaped(path.as_bytes(), b";,/?:@&=+$-_.!~*'()#");
    if let Some(query) = query {
        text.push(b'?');
        text.extend(escaped(&escaped(query.as_bytes(), b"-_.!~*'()"), b"-_.!~*'()"));
    }
    text
}

/// `text` with everything but letters, digits and `plain` percent-escaped.
fn escaped(text: &[u8], plain: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    for byte in text {
        if byte.is_ascii_alphanumeric() || plain.contains(byte) {
            bytes.push(*byte);
        } else {
            bytes.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
    bytes
}

/// The addresses that may have been signed: `url`, and with its port taken off or its scheme's own port put on.
pub(super) fn with_and_without_port(url: &str) -> Vec<String> {
    let mut urls = vec![url.to_owned()];
    let Some((scheme, rest)) = url.split_once("://") else { return urls };
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let host_end = authority.rfind(']').map_or(0, |at| at + 1);
    let host = authority.get(host_end..).and_then(|tail| tail.rfind(':')).and_then(|at| authority.get(..host_end + at));
    match (host, scheme) {
        (Some(host), _) => urls.push(format!("{scheme}://{host}{path}")),
        (None, "https") => urls.push(format!("{scheme}://{authority}:443{path}")),
        (None, "http") => urls.push(format!("{scheme}://{authority}:80{path}")),
        (None, _) => {}
    }
    urls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_tried_with_and_without_its_port() {
        let second = |url: &str| with_and_without_port(url).get(1).cloned();
        assert_eq!(second("https://a.example/x?y:1").as_deref(), Some("https://a.example:443/x?y:1"));
        assert_eq!(second("http://a.example?y").as_deref(), Some("http://a.example:80?y"));
        assert_eq!(second("https://a.example:8443/x").as_deref(), Some("https://a.example/x"));
        assert_eq!(second("https://[::1]/x").as_deref(), Some("https://[::1]:443/x"));
        assert_eq!(second("https://[::1]:443").as_deref(), Some("https://[::1]"));
    }

    #[test]
    fn an_encoded_path_has_its_query_escaped_twice() {
        assert_eq!(encoded_path("https://a.example/in/x?a=1&b=2"), b"/in/x?a%253D1%2526b%253D2");
        assert_eq!(encoded_path("https://a.example/in/%20x"), b"/in/%2520x");
    }

    #[test]
    fn a_path_keeps_its_query() {
        assert_eq!(path_of("https://a.example/x/y?z=1"), "/x/y?z=1");
        assert_eq!(path_of("https://a.example"), "/");
    }
}

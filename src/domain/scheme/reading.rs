//! One request as a scheme looks at it: values by source, and the signed text by template.
//!
//! Borrowed from the request throughout. Nothing read here is believed before a signature over it was found right.

use std::borrow::Cow;
use std::cell::OnceCell;

use http::{HeaderName, Method};
use smallvec::SmallVec;

use super::address::Address;
use super::claims::Claims;
use super::form::{Form, Occurrence};
use super::json::{self, Field, Fields, Scalar};
use super::signature::single;
use super::source::Source;
use super::template::{Message, Part, Piece};
use super::{Read, Scheme};
use crate::domain::headers::Headers;
use crate::domain::refusal::Refusal;

/// Most headers that one `{signed_headers}` list may name: the list is the sender's, and each name costs a copy.
const MAX_SIGNED_HEADERS: usize = 64;

/// Longest id among what is signed.
const MAX_ID_BYTES: usize = 256;

/// Text that is put together for a check, as a rule: more is no error, and costs an allocation.
pub(super) type Written = SmallVec<[u8; 256]>;

/// What a scheme needs of a request.
#[derive(Debug)]
pub(super) struct Subject<'a> {
    pub(super) method: &'a Method,
    pub(super) address: Address<'a>,
    pub(super) headers: &'a Headers,
    pub(super) body: &'a [u8],
}

/// A request with those of its parts read that the scheme needs for the signature.
#[derive(Debug)]
pub(super) struct Reading<'a> {
    pub(super) subject: Subject<'a>,
    /// The body as a form; nothing if it is not needed or has too many fields.
    form: Option<&'a Form>,
    /// Values of the body, in the order of the scheme's pointers; none before they are needed.
    fields: Fields<'a>,
    /// Whether the signed headers could be put together.
    signed_headers: Result<(), Refusal>,
    /// What they come to; nothing if none are signed by list.
    signed_header_lines: Written,
    /// The escaped path; nothing if it is not signed.
    encoded_path: Written,
    /// What the web token claims, once its MAC was found right.
    pub(super) claims: OnceCell<Claims>,
}

impl<'a> Reading<'a> {
    /// Reads what comes before the signature check; `form` is the body as [`form_of`] reads it.
    pub(super) fn new(scheme: &Scheme, subject: Subject<'a>, form: Option<&'a Form>) -> Self {
        // One value from the beginning, which is made where it is to stand: moved it would be a copy of all its room.
        let mut reading = Self {
            subject,
            form,
            fields: Fields::new(),
            signed_headers: Ok(()),
            signed_header_lines: Written::new(),
            encoded_path: Written::new(),
            claims: OnceCell::new(),
        };
        if scheme.reads.json_first.is_yes() {
            json::extract_into(&mut reading.fields, reading.subject.body, scheme.pointers.as_slice());
        }
        for part in &scheme.signed.parts {
            match part {
                Part::SignedHeaders(list) => {
                    let lines = &mut reading.signed_header_lines;
                    reading.signed_headers = write_signed_headers(scheme, reading.subject.headers, list, lines);
                }
                Part::EncodedPath => write_encoded_path(&reading.subject.address, &mut reading.encoded_path),
                Part::Text(_)
                | Part::Body
                | Part::Timestamp
                | Part::Id
                | Part::Method
                | Part::Url
                | Part::Path
                | Part::Secret
                | Part::Header(_)
                | Part::Json(_)
                | Part::Form(_)
                | Part::SortedForm
                | Part::Item(_) => {}
            }
        }
        reading
    }

    /// The values of the body, read into `later` if they were not before the signature check, because they need not be.
    pub(super) fn all_fields<'f>(&'f self, scheme: &Scheme, later: &'f mut Fields<'a>) -> &'f [Field<'a>] {
        match scheme.reads.json_first {
            Read::Yes => &self.fields,
            Read::No => {
                json::extract_into(later, self.subject.body, scheme.pointers.as_slice());
                later
            }
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
            Source::Query(name) => query_value(self.subject.address.query(), name)
                .map(|value| value.map(|value| Cow::Owned(value.into_vec()))),
            Source::Claim(names) => Ok(self.claim(names).map(|text| Cow::Borrowed(text.as_bytes()))),
            Source::Beside(_) => Ok(None),
        }
    }

    fn claim(&self, names: &[String]) -> Option<&str> {
        let claims = self.claims.get()?;
        names.iter().find_map(|name| claims.text(name))
    }

    fn scalar(&self, place: usize) -> Option<&Scalar<'a>> {
        scalar_of(&self.fields, place)
    }

    /// The value of a field of the form.
    pub(super) fn form_field(&self, name: &[u8]) -> Result<Option<&[u8]>, Refusal> {
        match self.form.ok_or(Refusal::SignatureMalformed)?.get(name) {
            Occurrence::None => Ok(None),
            Occurrence::Once(value) => Ok(Some(value).filter(|value| !value.is_empty())),
            Occurrence::Repeated => Err(Refusal::SignatureRepeated),
        }
    }

    /// Puts the signed text into `message`, which is empty, with `fill` for what differs between the messages of one
    /// request.
    pub(super) fn render<'m>(
        &'m self,
        scheme: &'m Scheme,
        fill: &Fill<'m>,
        message: &mut Message<'m>,
    ) -> Result<(), Refusal> {
        scheme.signed.parts.iter().try_for_each(|part| self.put(scheme, part, fill, message))
    }

    fn put<'m>(
        &'m self,
        scheme: &'m Scheme,
        part: &'m Part,
        fill: &Fill<'m>,
        message: &mut Message<'m>,
    ) -> Result<(), Refusal> {
        let missing = Refusal::SignatureMissing;
        match part {
            Part::Secret => message.pieces.push(Piece::Secret),
            Part::Text(text) => message.put(text),
            Part::Body => message.put(self.subject.body),
            Part::Timestamp => message.put(fill.time.ok_or(Refusal::TimestampMissing)?),
            Part::Id => message.put(self.id(scheme)?.ok_or(missing)?),
            Part::Method => message.put(self.subject.method.as_str().as_bytes()),
            Part::Url => message.put_all(fill.address.whole()),
            Part::Path => message.put_all(fill.address.target()),
            Part::EncodedPath => message.put(&self.encoded_path),
            Part::Header(name) => message.put(single(self.subject.headers, name)?.ok_or(missing)?),
            Part::Json(place) => message.put(self.text(*place).ok_or(missing)?.as_bytes()),
            Part::Form(name) => message.put(self.form_field(name)?.ok_or(missing)?),
            Part::SortedForm => self.put_sorted_form(fill, message)?,
            Part::SignedHeaders(_) => {
                self.signed_headers?;
                message.put(&self.signed_header_lines);
            }
            Part::Item(place) => message.put(item_text(fill.item, *place)?.as_bytes()),
        }
        Ok(())
    }

    fn id(&self, scheme: &Scheme) -> Result<Option<&[u8]>, Refusal> {
        match &scheme.id {
            Some(Source::Header(name)) => match single(self.subject.headers, name)? {
                Some(id) if !is_id(id) => Err(Refusal::SignatureMalformed),
                id => Ok(id),
            },
            Some(Source::Json(place)) => Ok(self.text(*place).map(str::as_bytes)),
            Some(Source::Form(name)) => self.form_field(name),
            Some(Source::Claim(names)) => Ok(self.claim(names).map(str::as_bytes)),
            Some(Source::Query(_) | Source::Beside(_)) | None => Ok(None),
        }
    }

    fn put_sorted_form<'m>(&'m self, fill: &Fill<'m>, message: &mut Message<'m>) -> Result<(), Refusal> {
        match (fill.digested, self.form) {
            (Read::Yes, _) => Ok(()),
            (Read::No, Some(form)) => {
                message.put(form.sorted());
                Ok(())
            }
            (Read::No, None) => Err(Refusal::SignatureMalformed),
        }
    }
}

/// The body as a form, where the scheme needs it, read into `form`.
pub(super) fn form_of<'f>(scheme: &Scheme, body: &[u8], form: &'f mut Form) -> Option<&'f Form> {
    match scheme.reads.form {
        Read::Yes => {
            form.read(body)?;
            if scheme.signed.has(&Part::SortedForm) {
                form.sort();
            }
            Some(form)
        }
        Read::No => None,
    }
}

/// `name:value;name:value` of the headers that the header `list` names, which must be among them, and so must the
/// timestamp.
fn write_signed_headers(
    scheme: &Scheme,
    headers: &Headers,
    list: &HeaderName,
    text: &mut Written,
) -> Result<(), Refusal> {
    let wanted = single(headers, list)?.ok_or(Refusal::SignatureMissing)?;
    let wanted = std::str::from_utf8(wanted).map_err(|_| Refusal::SignatureMalformed)?;
    let mut named: SmallVec<[&str; 8]> = SmallVec::new();
    text.clear();
    for name in wanted.split(',').map(str::trim_ascii) {
        let again = named.iter().any(|known| known.eq_ignore_ascii_case(name));
        if again || named.len() == MAX_SIGNED_HEADERS || !is_header_name(name) {
            return Err(Refusal::SignatureMalformed);
        }
        let value = single(headers, name)?.unwrap_or_default();
        if !named.is_empty() {
            text.push(b';');
        }
        text.extend(name.bytes().map(|byte| byte.to_ascii_lowercase()));
        text.push(b':');
        text.extend_from_slice(value.trim_ascii());
        named.push(name);
    }
    let has = |wanted: &HeaderName| named.iter().any(|name| wanted.as_str().eq_ignore_ascii_case(name));
    let time = scheme.sent.as_ref().and_then(|rule| rule.source.header());
    if has(list) && time.is_none_or(has) { Ok(()) } else { Err(Refusal::SignatureMalformed) }
}

/// RFC 9110 section 5.6.2.
fn is_header_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// What differs between the messages of one request.
#[derive(Debug)]
pub(super) struct Fill<'m> {
    /// The timestamp as it was written.
    pub(super) time: Option<&'m [u8]>,
    /// The address.
    pub(super) address: &'m Address<'m>,
    /// Whether the address holds a digest of the body, which stands in for the form.
    pub(super) digested: Read,
    /// The values of the item.
    pub(super) item: &'m [Field<'m>],
}

/// The scalar at `place` of `fields`.
pub(super) fn scalar_of<'f, 'b>(fields: &'f [Field<'b>], place: usize) -> Option<&'f Scalar<'b>> {
    match fields.get(place) {
        Some(Field::Is(scalar)) if !scalar.as_text().is_empty() => Some(scalar),
        Some(Field::Is(_) | Field::Absent | Field::Unclear) | None => None,
    }
}

/// An item's value as it is signed. What readers may differ about is refused: an item's bytes are not all signed.
fn item_text<'f>(item: &'f [Field<'_>], place: usize) -> Result<&'f str, Refusal> {
    match item.get(place) {
        Some(Field::Is(scalar)) => Ok(scalar.as_text()),
        Some(Field::Absent) => Ok(""),
        Some(Field::Unclear) | None => Err(Refusal::SignatureMalformed),
    }
}

/// The value of a query parameter; empty counts as absent.
pub(super) fn query_value(query: Option<&str>, name: &[u8]) -> Result<Option<Written>, Refusal> {
    let form = Form::parse(query.unwrap_or_default().as_bytes()).ok_or(Refusal::SignatureMalformed)?;
    match form.get(name) {
        Occurrence::None => Ok(None),
        Occurrence::Once(value) => Ok(Some(Written::from_slice(value)).filter(|value| !value.is_empty())),
        Occurrence::Repeated => Err(Refusal::SignatureRepeated),
    }
}

/// Path and query, the path escaped once more and the query twice more.
fn write_encoded_path(address: &Address<'_>, text: &mut Written) {
    let [path, mark, query] = address.target();
    text.clear();
    escape(path.as_bytes(), b";,/?:@&=+$-_.!~*'()#", text);
    text.extend_from_slice(mark.as_bytes());
    let mut once = Written::new();
    escape(query.as_bytes(), b"-_.!~*'()", &mut once);
    escape(&once, b"-_.!~*'()", text);
}

/// `text` with everything but letters, digits and `plain` percent-escaped.
fn escape(text: &[u8], plain: &[u8], into: &mut Written) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let digit = |half: u8| DIGITS.get(usize::from(half)).copied().unwrap_or(b'0');
    for byte in text {
        if byte.is_ascii_alphanumeric() || plain.contains(byte) {
            into.push(*byte);
        } else {
            into.extend_from_slice(&[b'%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
}

/// Whether a header can be an event's id among what is signed: no piece of a body, which would be one where the text that was signed is
/// cut at another place than its sender cut it.
fn is_id(text: &[u8]) -> bool {
    text.len() <= MAX_ID_BYTES && !text.iter().any(|byte| !byte.is_ascii_graphic() || b"{}\"<>".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoded_path_has_its_query_escaped_twice() {
        let written = |url: &str| {
            let mut text = Written::new();
            write_encoded_path(&Address::parse(url), &mut text);
            text.to_vec()
        };
        assert_eq!(written("https://a.example/in/x?a=1&b=2"), b"/in/x?a%253D1%2526b%253D2");
        assert_eq!(written("https://a.example/in/%20x"), b"/in/%2520x");
    }
}

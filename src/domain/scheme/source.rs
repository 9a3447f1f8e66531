//! Where a value stands in a request: a header, a place in the JSON body, a field of the form or the query.

use http::HeaderName;

use super::json::Pointer;

/// A place in a request, parsed once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The header of this name.
    Header(HeaderName),
    /// The value at this place of the scheme's [`Pointers`].
    Json(usize),
    /// The field of this name in the body's form.
    Form(Vec<u8>),
    /// The parameter of this name in the query.
    Query(Vec<u8>),
    /// The field of this name beside the signature.
    Beside(Vec<u8>),
    /// The claim of this name of the web token; of several names, the first that is there.
    Claim(Vec<String>),
}

/// What a source looks like, for people.
pub(super) const FORMS: &str =
    "\"header:NAME\", \"json:/pointer\", \"form:NAME\" or \"query:NAME\", or \"claim:NAME\" with kind = \"jwt\"";

/// All pointers into the body that a scheme needs, so that one pass finds them.
#[derive(Clone, Debug, Default)]
pub(super) struct Pointers(Vec<Pointer>);

impl Pointers {
    /// The place of `pointer` in the list; it is added if it is new.
    pub(super) fn place(&mut self, pointer: Pointer) -> usize {
        if let Some(place) = self.0.iter().position(|known| *known == pointer) {
            return place;
        }
        self.0.push(pointer);
        self.0.len() - 1
    }

    /// The pointers in their order.
    pub(super) fn as_slice(&self) -> &[Pointer] {
        &self.0
    }
}

impl Source {
    /// The header's name, if it is one.
    pub(super) const fn header(&self) -> Option<&HeaderName> {
        match self {
            Self::Header(name) => Some(name),
            Self::Json(_) | Self::Form(_) | Self::Query(_) | Self::Beside(_) | Self::Claim(_) => None,
        }
    }

    /// The claim's name, if it is one of the token's.
    pub(super) fn claim(&self) -> Option<&str> {
        match self {
            Self::Claim(names) => names.first().map(String::as_str),
            Self::Header(_) | Self::Json(_) | Self::Form(_) | Self::Query(_) | Self::Beside(_) => None,
        }
    }

    /// `None` if `text` is not one of the forms.
    pub(super) fn parse(text: &str, pointers: &mut Pointers) -> Option<Self> {
        let (kind, name) = text.split_once(':')?;
        match kind {
            "header" => name.parse().ok().map(Self::Header),
            "json" => Pointer::parse(name).map(|pointer| Self::Json(pointers.place(pointer))),
            "form" if !name.is_empty() => Some(Self::Form(name.as_bytes().to_vec())),
            "query" if !name.is_empty() => Some(Self::Query(name.as_bytes().to_vec())),
            "claim" if !name.is_empty() => Some(Self::Claim(vec![name.to_owned()])),
            "sig" if !name.is_empty() => Some(Self::Beside(name.as_bytes().to_vec())),
            _ => None,
        }
    }
}

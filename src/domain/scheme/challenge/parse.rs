//! From a challenge as written to a parsed one, with all its faults.

use http::{HeaderName, Method, StatusCode};

use super::super::SchemeFault;
use super::super::json::Pointer;
use super::super::mac::Proof;
use super::super::raw::{Encoding, RawChallenge, RawScheme};
use super::super::source::{Pointers, Source};
use super::{AroundQuery, Challenge, Check, Chunk, Digits, Lack, Media, Own, Trust, Wanted, When};

/// Most pieces of one text.
const MAX_CHUNKS: usize = 32;

/// What the texts of a challenge may hold, for people.
const FORMS: &str = "text with {json:/pointer} {query:NAME} {header:NAME} {form:NAME} {pick}, and {hmac_hex:{…}} and \
                     {hmac_b64:{…}} around the first four";

/// Names that an answer may not carry: they are the connection's, ours, or would do more in a browser than answer.
const OURS: [&str; 10] = [
    "cache-control",
    "connection",
    "keep-alive",
    "location",
    "refresh",
    "set-cookie",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-content-type-options",
];
/// Beginnings of such names.
const OURS_LIKE: [&str; 4] = ["access-control-", "content-", "hookgate-", "x-request-id"];

/// A parsing under way.
struct Parser<'r> {
    raw: &'r RawChallenge,
    pick: Option<&'r str>,
    pointers: Pointers,
    lacks: Option<Lack>,
    faults: Vec<SchemeFault>,
}

impl Challenge {
    /// Parses what is written; `proof` is the scheme's keyed hash, if it has one.
    pub(in super::super) fn parse(
        scheme: &RawScheme,
        raw: &RawChallenge,
        proof: Option<Proof>,
    ) -> Result<Self, Vec<SchemeFault>> {
        let pick = scheme.signature.as_ref().and_then(|signature| signature.pick.as_deref());
        let mut parser = Parser { raw, pick, pointers: Pointers::default(), lacks: None, faults: Vec::new() };
        let mut challenge = Self {
            method: parser.method(),
            when: None,
            trust: if raw.verify == Some(true) { Trust::Verified } else { Trust::Anybody },
            checks: parser.checks(),
            signed: parser.signed(),
            status: parser.status(),
            media: parser.media(),
            headers: parser.headers(),
            body: parser.text("challenge.body", raw.body.as_deref().unwrap_or_default()),
            proof,
            own: None,
            lacks: parser.lacks,
            pointers: Pointers::default(),
        };
        challenge.when = parser.when(&challenge.method);
        parser.check_parts(scheme, &mut challenge);
        challenge.pointers = parser.pointers;
        if parser.faults.is_empty() { Ok(challenge) } else { Err(parser.faults) }
    }

    /// The values that an answer holds hashed.
    pub(super) fn hashes(&self) -> impl Iterator<Item = &Source> {
        self.headers.iter().flat_map(|(_, text)| text).chain(&self.body).filter_map(|chunk| match chunk {
            Chunk::Hmac(_, source) => Some(source),
            Chunk::Text(_) | Chunk::Value(_) => None,
        })
    }
}

impl Parser<'_> {
    fn fault(&mut self, key: &str, found: impl Into<String>, expected: impl Into<String>) {
        self.faults.push(SchemeFault::new(key, found, expected));
    }

    fn method(&mut self) -> Method {
        match self.raw.method.as_deref() {
            None | Some("POST") => Method::POST,
            Some("GET") => Method::GET,
            Some("HEAD") => Method::HEAD,
            Some(other) => {
                self.fault("challenge.method", format!("{other:?}"), "\"GET\", \"HEAD\" or \"POST\"");
                Method::POST
            }
        }
    }

    fn when(&mut self, method: &Method) -> Option<When> {
        let without_body = *method == Method::GET || *method == Method::HEAD;
        let expected = if without_body {
            "\"query:NAME\" or \"header:NAME\", and \"=value\" behind it where it matters"
        } else {
            "\"json:/pointer\", \"form:NAME\", \"query:NAME\" or \"header:NAME\", and \"=value\" behind it where it matters"
        };
        let Some(text) = self.raw.when.as_deref() else {
            if !without_body {
                self.fault("challenge.when", "nothing", expected);
            }
            return None;
        };
        let (written, equals) = text.split_once('=').map_or((text, None), |(s, value)| (s, Some(value.to_owned())));
        let source = self
            .source(written)
            .filter(|source| !without_body || matches!(source, Source::Header(_) | Source::Query(_)));
        let Some(source) = source else {
            self.fault("challenge.when", format!("{text:?}"), expected);
            return None;
        };
        let token = written.rsplit('/').next().filter(|token| !token.contains('~') && !token.is_empty());
        let hints = equals.iter().cloned().chain(token.map(str::to_owned)).collect();
        Some(When { source, equals, hints })
    }

    fn checks(&mut self) -> Vec<Check> {
        let mut checks = Vec::new();
        for (place, wanted) in self.raw.check.iter().flatten() {
            let Some(source) = self.source(place) else {
                self.fault("challenge.check", format!("{place:?}"), super::super::source::FORMS);
                continue;
            };
            let wanted = match wanted.as_str() {
                "{verify_token}" => Some(Wanted::Token),
                text if text.starts_with('{') => digits(text).map(Wanted::Hex),
                text => Some(Wanted::Text(text.to_owned())),
            };
            match wanted {
                Some(wanted) => checks.push(Check { source, wanted }),
                None => self.fault(
                    "challenge.check",
                    "braces that mean nothing here",
                    "\"{verify_token}\", \"{hex:20..32}\" or a text",
                ),
            }
        }
        checks
    }

    /// What is signed of a challenge: the query, and text around it.
    fn signed(&mut self) -> Option<AroundQuery> {
        let text = self.raw.signed.as_deref().filter(|text| !text.is_empty())?;
        if self.raw.verify == Some(true) {
            self.fault(
                "challenge.signed",
                format!("{text:?}"),
                "nothing: with verify = true a challenge is signed like an event",
            );
            return None;
        }
        let halves = text.split_once("{query}").filter(|(before, after)| !before.contains('{') && !after.contains('{'));
        let Some((before, after)) = halves else {
            self.fault("challenge.signed", format!("{text:?}"), "text with {query} once");
            return None;
        };
        Some(AroundQuery(before.to_owned(), after.to_owned()))
    }

    fn status(&mut self) -> StatusCode {
        let given = self.raw.status.unwrap_or(200);
        let status = StatusCode::from_u16(given).ok().filter(StatusCode::is_success);
        if status.is_none() {
            self.fault("challenge.status", given.to_string(), "200 to 299");
        }
        let empty = self.raw.body.as_ref().is_none_or(String::is_empty);
        if matches!(given, 204 | 205) && !empty {
            self.fault("challenge.status", format!("{given} with a body"), "an empty challenge.body with this status");
        }
        status.unwrap_or_default()
    }

    fn media(&mut self) -> Media {
        let given = self.raw.reply.as_deref().unwrap_or("text/plain");
        let media = Media::ALL.into_iter().find(|media| media.as_str() == given);
        if media.is_none() {
            let allowed: Vec<String> = Media::ALL.iter().map(|media| format!("{:?}", media.as_str())).collect();
            self.fault("challenge.reply", format!("{given:?}"), allowed.join(" or "));
        }
        media.unwrap_or(Media::Plain)
    }

    fn headers(&mut self) -> Vec<(HeaderName, Vec<Chunk>)> {
        let mut headers = Vec::new();
        for (name, text) in self.raw.reply_headers.iter().flatten() {
            let parsed = name.parse::<HeaderName>().ok().filter(|name| {
                let name = name.as_str();
                !OURS.contains(&name) && !OURS_LIKE.iter().any(|start| name.starts_with(start))
            });
            let Some(parsed) = parsed else {
                let expected = "the name of a header that is the provider's own, such as \"X-Hook-Secret\"";
                self.fault("challenge.reply_headers", format!("{name:?}"), expected);
                continue;
            };
            headers.push((parsed, self.text("challenge.reply_headers", text)));
        }
        headers
    }

    /// Braces that open no known part stand for themselves: answers are often JSON.
    fn text(&mut self, key: &str, text: &str) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some((before, from)) = rest.find('{').and_then(|at| rest.split_at_checked(at)) {
            plain.push_str(before);
            match self.part(from) {
                Part::None => {
                    plain.push('{');
                    rest = from.get(1..).unwrap_or_default();
                }
                Part::Text(given, after) => {
                    plain.push_str(&given);
                    rest = after;
                }
                Part::Chunk(chunk, after) => {
                    if !plain.is_empty() {
                        chunks.push(Chunk::Text(std::mem::take(&mut plain)));
                    }
                    chunks.push(chunk);
                    rest = after;
                }
                Part::Wrong => {
                    self.fault(key, format!("{from:?}"), FORMS);
                    return chunks;
                }
            }
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            chunks.push(Chunk::Text(plain));
        }
        if chunks.len() > MAX_CHUNKS {
            self.fault(key, format!("{} pieces", chunks.len()), format!("at most {MAX_CHUNKS}"));
        }
        chunks
    }

    /// What the braces at the start of `text` open.
    fn part<'t>(&mut self, text: &'t str) -> Part<'t> {
        if let Some(after) = text.strip_prefix("{pick}") {
            if self.pick.is_none() {
                self.lacks = Some(Lack::Pick);
            }
            return Part::Text(self.pick.unwrap_or_default().to_owned(), after);
        }
        for (open, encoding) in [("{hmac_hex:", Encoding::Hex), ("{hmac_b64:", Encoding::Base64)] {
            if let Some(inside) = text.strip_prefix(open) {
                let value = self.value(inside).and_then(|(source, after)| Some((source, after.strip_prefix('}')?)));
                return value.map_or(Part::Wrong, |(source, after)| Part::Chunk(Chunk::Hmac(encoding, source), after));
            }
        }
        if ["{json:", "{query:", "{header:", "{form:"].iter().any(|open| text.starts_with(open)) {
            let value = self.value(text);
            return value.map_or(Part::Wrong, |(source, after)| Part::Chunk(Chunk::Value(source), after));
        }
        Part::None
    }

    /// `{source}` and what follows it.
    fn value<'t>(&mut self, text: &'t str) -> Option<(Source, &'t str)> {
        let (inside, after) = text.strip_prefix('{')?.split_once('}')?;
        Some((self.source(inside)?, after))
    }

    fn source(&mut self, text: &str) -> Option<Source> {
        if text.strip_prefix("json:").is_some_and(|pointer| Pointer::parse(pointer).is_none()) {
            return None;
        }
        Source::parse(text, &mut self.pointers)
            .filter(|source| matches!(source, Source::Header(_) | Source::Json(_) | Source::Form(_) | Source::Query(_)))
    }

    /// What the parts mean together.
    fn check_parts(&mut self, scheme: &RawScheme, challenge: &mut Challenge) {
        if challenge.signed.is_some() && !scheme.signed.as_deref().is_none_or(|signed| signed.contains("{body}")) {
            self.fault("challenge.signed", "a text", "nothing: the scheme signs no {body} whose place it could take");
        }
        if challenge.hashes().next().is_none() {
            return;
        }
        if challenge.proof.is_none() {
            self.fault("challenge.body", "{hmac_…}", "none, or kind = \"hmac\", whose key it needs");
        }
        if challenge.trust == Trust::Anybody {
            let digits = bound(challenge);
            challenge.own = self.own(scheme, digits);
        }
    }

    /// Where our own answers would stand as signatures; a fault where that cannot be told.
    fn own(&mut self, scheme: &RawScheme, digits: Option<Digits>) -> Option<Own> {
        let signed = scheme.signed.as_deref().unwrap_or("{body}");
        if signed == "{body}" {
            return Some(Own::Body(digits));
        }
        let field = signed.strip_prefix("{form:").and_then(|rest| rest.strip_suffix('}'));
        if let Some(name) = field.filter(|name| !name.contains('}')) {
            return Some(Own::Form(name.as_bytes().to_vec(), digits));
        }
        if !outside_parts(signed).any(|c| !super::answer::is_opaque_char(c) && c != '=') {
            let expected = "no {hmac_…} without verify = true: with this `signed`, the answer could be the signature of \
                            an event";
            self.fault("challenge.body", "{hmac_…}", expected);
        }
        None
    }
}

enum Part<'t> {
    /// No known part: the brace is text.
    None,
    /// A text that is known already, and what follows.
    Text(String, &'t str),
    /// A part, and what follows.
    Chunk(Chunk, &'t str),
    /// A known part that is wrong inside.
    Wrong,
}

/// The digits that every hashed value must be made of, if they are checked.
fn bound(challenge: &Challenge) -> Option<Digits> {
    let digits_of = |source: &Source| {
        challenge.checks.iter().filter(|check| check.source == *source).find_map(|check| match check.wanted {
            Wanted::Hex(digits) => Some(digits),
            Wanted::Token | Wanted::Text(_) => None,
        })
    };
    let mut all = challenge.hashes().map(digits_of);
    let first = all.next().flatten()?;
    all.all(|digits| digits == Some(first)).then_some(first)
}

/// `{hex:20..32}`.
fn digits(text: &str) -> Option<Digits> {
    let (from, to) = text.strip_prefix("{hex:")?.strip_suffix('}')?.split_once("..")?;
    let (from, to) = (from.parse().ok()?, to.parse().ok()?);
    (0 < from && from <= to && to <= super::answer::MAX_OPAQUE_BYTES).then_some(Digits(from, to))
}

/// The characters of a template that belong to no part.
fn outside_parts(text: &str) -> impl Iterator<Item = char> {
    let mut depth = 0_usize;
    text.chars().filter(move |c| {
        match c {
            '{' => depth += 1,
            '}' => {
                depth = depth.saturating_sub(1);
                return false;
            }
            _ => {}
        }
        depth == 0
    })
}

//! From a scheme as written to a compiled one, with every fault reported at once.
//!
//! What is not built is a fault too, not a scheme that refuses everything.

use http::HeaderName;
use http::header::AUTHORIZATION;

use super::challenge::Challenge;
use super::encoding::{KeyRule, Strip};
use super::event_id::IdEntry;
use super::freshness::{SentRule, SignedAtRule, Window};
use super::json::Pointer;
use super::mac::Proof;
use super::raw::{Encoding, HashName, Kind, OneOrMany, RawAbout, RawScheme, RawSignature, Span, Unit};
use super::signature::{Notation, Place};
use super::source::{self, Pointers, Source};
use super::template::{self, Part, Template};
use super::traits::Coverage;
use super::{BodyDigest, Each, Means, Read, Reads, Scheme, SchemeFault};

/// `timestamp.tolerance` where none is given: what most providers' own libraries use.
const TOLERANCE: Span = Span(std::time::Duration::from_secs(300));
/// `signed_at.future` where none is given: clocks differ, events do not come before they happen.
const SIGNED_AT_FUTURE: Span = Span(std::time::Duration::from_secs(300));

impl Scheme {
    /// Compiles a scheme, or says everything that is wrong with it.
    pub fn compile(raw: &RawScheme) -> Result<Self, Vec<SchemeFault>> {
        let kind = raw.kind.unwrap_or_default();
        if matches!(kind, Kind::Ed25519 | Kind::EcdsaP256 | Kind::Jwt) {
            let expected = format!("not implemented yet: kind = {:?}", kind.as_str());
            return Err(vec![SchemeFault::new("kind", kind.as_str(), expected)]);
        }
        let mut compiler = Compiler { raw, faults: Vec::new(), body: Pointers::default(), item: Pointers::default() };
        let scheme = compiler.scheme(kind);
        match scheme {
            Some(scheme) if compiler.faults.is_empty() => Ok(scheme),
            Some(_) | None => Err(compiler.faults),
        }
    }

    /// Whether what stands at `source` is among what is signed.
    pub(super) fn covers(&self, source: &Source) -> Coverage {
        Coverage::when(self.means_signs() && self.covers_source(source))
    }

    fn means_signs(&self) -> bool {
        match self.means {
            Means::Signature(_) => true,
            Means::Token | Means::Basic => false,
        }
    }

    fn covers_source(&self, source: &Source) -> bool {
        let as_time =
            self.signed.has(&Part::Timestamp) && self.sent.as_ref().is_some_and(|rule| rule.source == *source);
        let as_id = self.signed.has(&Part::Id) && self.id.as_ref() == Some(source);
        let itself = match source {
            Source::Header(name) => {
                self.signed.has(&Part::Header(name.clone())) || (as_time_in_list(&self.signed) && self.is_time(source))
            }
            Source::Json(place) => self.body_signed.is_yes() || self.signed.has(&Part::Json(*place)),
            Source::Form(name) => {
                self.body_signed.is_yes()
                    || self.signed.has(&Part::Form(name.clone()))
                    || self.signed.has(&Part::SortedForm)
            }
            Source::Query(_) => self.signed.has(&Part::Url) || self.signed.has(&Part::Path),
            Source::Beside(_) => false,
        };
        itself || as_time || as_id
    }

    fn is_time(&self, source: &Source) -> bool {
        self.sent.as_ref().is_some_and(|rule| rule.source == *source)
    }
}

/// A list of signed headers must name the timestamp's.
fn as_time_in_list(signed: &Template) -> bool {
    signed.parts.iter().any(|part| matches!(part, Part::SignedHeaders(_)))
}

struct Compiler<'r> {
    raw: &'r RawScheme,
    faults: Vec<SchemeFault>,
    body: Pointers,
    item: Pointers,
}

impl Compiler<'_> {
    fn fault(&mut self, key: &str, found: impl Into<String>, expected: impl Into<String>) {
        self.faults.push(SchemeFault::new(key, found, expected));
    }

    fn scheme(&mut self, kind: Kind) -> Option<Scheme> {
        let means = self.means(kind)?;
        let place = self.place(means);
        let signed = self.signed();
        let notation = self.notation(means);
        let key = self.key();
        let id = self.raw.id.as_deref().and_then(|text| self.source("id", text));
        let sent = self.sent();
        let event_id = self.event_id();
        let event_type = self.raw.event_type.as_deref().and_then(|text| self.source("event_type", text));
        let signed_at = self.signed_at();
        let require = self.require();
        let body_digest = self.body_digest();
        let challenge = self.challenge(means);
        let each = self.each();
        self.refuse_leftovers();
        let (place, signed) = (place?, signed?);
        let body_signed = Read::when(signed.has(&Part::Body) && matches!(means, Means::Signature(_)));
        let mut scheme = Scheme {
            means,
            key,
            place,
            notation,
            body_signed,
            signed,
            id,
            sent,
            signed_at,
            event_id,
            event_type,
            require,
            each,
            url_ports: Read::when(self.raw.url_ports == Some(true)),
            body_digest,
            challenge,
            pointers: std::mem::take(&mut self.body),
            reads: Reads { form: Read::No, json_first: Read::No, url: Read::No },
            single: Vec::new(),
            about: RawAbout::default(),
        };
        self.finish(&mut scheme);
        Some(scheme)
    }

    /// What follows from the parts together.
    fn finish(&mut self, scheme: &mut Scheme) {
        self.check_parts(scheme);
        self.check_coverage(scheme);
        self.check_about();
        scheme.reads = reads(scheme);
        scheme.single = single_headers(scheme);
        scheme.about = self.raw.about.clone().unwrap_or_default();
        let entries = std::mem::take(&mut scheme.event_id);
        scheme.event_id = entries
            .into_iter()
            .map(|entry| IdEntry {
                alternatives: entry
                    .alternatives
                    .into_iter()
                    .map(|(source, _)| {
                        let coverage = scheme.covers(&source);
                        (source, coverage)
                    })
                    .collect(),
            })
            .collect();
    }

    fn means(&mut self, kind: Kind) -> Option<Means> {
        let hash = self.raw.mac.unwrap_or_default();
        match (kind, hash) {
            (Kind::Hmac, _) => Some(Means::Signature(Proof::Hmac(hash))),
            (Kind::Hash, HashName::Sha1 | HashName::Sha256) => Some(Means::Signature(Proof::Hash(hash))),
            (Kind::Hash, HashName::Sha384 | HashName::Sha512) => {
                self.fault("mac", hash.as_str(), "\"sha1\" or \"sha256\" with kind = \"hash\"");
                None
            }
            (Kind::Token, _) => Some(Means::Token),
            (Kind::Basic, _) => Some(Means::Basic),
            (Kind::Ed25519 | Kind::EcdsaP256 | Kind::Jwt, _) => None,
        }
    }

    fn place(&mut self, means: Means) -> Option<Place> {
        let Some(raw) = &self.raw.signature else {
            if means == Means::Basic {
                return Some(Place::Headers(vec![AUTHORIZATION]));
            }
            self.fault("signature", "nothing", "where the signature stands: { header = \"NAME\", encoding = \"hex\" }");
            return None;
        };
        match (&raw.header, &raw.json, &raw.form, &raw.item) {
            (Some(header), None, None, None) => self.headers(header),
            (None, Some(pointer), None, None) => {
                let pointer = self.pointer("signature.json", pointer)?;
                Some(Place::Json(self.body.place(pointer)))
            }
            (None, None, Some(field), None) if !field.is_empty() => Some(Place::Form(field.as_bytes().to_vec())),
            (None, None, None, Some(pointer)) => {
                let pointer = self.pointer("signature.item", pointer)?;
                Some(Place::Item(self.item.place(pointer)))
            }
            (None, None, None, None) if means == Means::Basic => Some(Place::Headers(vec![AUTHORIZATION])),
            _ => {
                self.fault("signature", places(raw), "exactly one of header, json, form and item");
                None
            }
        }
    }

    fn headers(&mut self, header: &OneOrMany) -> Option<Place> {
        let names = match header {
            OneOrMany::One(name) => match name.strip_suffix('*') {
                Some(start) => {
                    let start = start.to_ascii_lowercase();
                    return self.header_name("signature.header", &start).map(|_| Place::HeadersLike(start));
                }
                None => std::slice::from_ref(name),
            },
            OneOrMany::Many(names) => names.as_slice(),
        };
        if names.is_empty() || names.len() > super::signature::MAX_SIGNATURES {
            self.fault("signature.header", format!("{} names", names.len()), "1 to 16 names");
            return None;
        }
        let names = names.iter().map(|name| self.header_name("signature.header", name)).collect::<Vec<_>>();
        names.into_iter().collect::<Option<Vec<_>>>().map(Place::Headers)
    }

    fn notation(&mut self, means: Means) -> Notation {
        let raw = self.raw.signature.clone().unwrap_or_default();
        let (length, signs) = match means {
            Means::Signature(proof) => (proof.bytes(), true),
            Means::Token | Means::Basic => (0, false),
        };
        if signs && raw.encoding.is_none() {
            self.fault("signature.encoding", "nothing", "\"hex\", \"base64\" or \"base64url\"");
        }
        Notation {
            prefix: raw.prefix.unwrap_or_default().into_bytes(),
            encoding: raw.encoding.unwrap_or(Encoding::Hex),
            length,
            group: self.separator("signature.group", raw.group.as_deref()),
            split: self.separator("signature.split", raw.split.as_deref()),
            kv: self.separator("signature.kv", raw.kv.as_deref()),
            pick: raw.pick.filter(|pick| !pick.is_empty()).map(String::into_bytes),
            lead: raw.lead.unwrap_or_default().into_iter().map(String::into_bytes).collect(),
            time: self.raw.timestamp.as_ref().and_then(|time| {
                time.from.as_deref().and_then(|from| from.strip_prefix("sig:")).map(|name| name.as_bytes().to_vec())
            }),
        }
    }

    fn separator(&mut self, key: &str, text: Option<&str>) -> Option<u8> {
        match text.map(str::as_bytes) {
            None | Some([]) => None,
            Some([byte]) if byte.is_ascii() => Some(*byte),
            Some(_) => {
                self.fault(key, format!("{:?}", text.unwrap_or_default()), "one ASCII character");
                None
            }
        }
    }

    fn signed(&mut self) -> Option<Template> {
        let text = self.raw.signed.as_deref().unwrap_or("{body}");
        match Template::parse(text, &mut self.body, &mut self.item) {
            Ok(template) => Some(template),
            Err(part) => {
                self.fault("signed", part, template::FORMS);
                None
            }
        }
    }

    fn key(&mut self) -> KeyRule {
        let Some(raw) = &self.raw.key else { return KeyRule::default() };
        let strip = match raw.strip.as_deref() {
            None | Some("") => None,
            Some(text) => {
                let strip = Strip::parse(text);
                if strip.is_none() {
                    self.fault("key.strip", format!("{text:?}"), "a prefix, or \"head*tail\" with one *");
                }
                strip
            }
        };
        KeyRule { encoding: raw.encoding.unwrap_or_default(), strip, hash: raw.hash }
    }

    fn sent(&mut self) -> Option<SentRule> {
        let raw = self.raw.timestamp.as_ref()?;
        let from = raw.from.as_deref().unwrap_or_default();
        let Some(source) = Source::parse(from, &mut self.body) else {
            let expected = format!("{}, or \"sig:NAME\"", source::FORMS);
            self.fault("timestamp.from", format!("{from:?}"), expected);
            return None;
        };
        let past = raw.tolerance.unwrap_or(TOLERANCE).0;
        let window = Window { past, future: raw.future.map_or(past, |span| span.0) };
        let window = (!past.is_zero()).then_some(window);
        Some(SentRule { source, unit: raw.unit.unwrap_or(Unit::Seconds), window })
    }

    fn signed_at(&mut self) -> Option<SignedAtRule> {
        let raw = self.raw.signed_at.as_ref()?;
        let source = self.source("signed_at.from", raw.from.as_deref().unwrap_or_default());
        if raw.max_age.is_none_or(|span| span.0.is_zero()) {
            self.fault("signed_at.max_age", "nothing", "a duration longer than the sender retries");
        }
        let window = Window { past: raw.max_age?.0, future: raw.future.unwrap_or(SIGNED_AT_FUTURE).0 };
        Some(SignedAtRule { source: source?, unit: raw.unit.unwrap_or(Unit::Rfc3339), window })
    }

    fn event_id(&mut self) -> Vec<IdEntry> {
        let entries = self.raw.event_id.as_deref().unwrap_or_default();
        let mut ids = Vec::with_capacity(entries.len());
        for (index, entry) in entries.iter().enumerate() {
            let key = format!("event_id[{index}]");
            let alternatives = entry
                .split('|')
                .filter_map(|text| self.source(&key, text.trim()).map(|source| (source, Coverage::Uncovered)))
                .collect();
            ids.push(IdEntry { alternatives });
        }
        ids
    }

    fn require(&mut self) -> Vec<(HeaderName, String)> {
        let raw = self.raw.require.iter().flatten();
        raw.filter_map(|(name, value)| self.header_name("require", name).map(|name| (name, value.clone()))).collect()
    }

    fn body_digest(&mut self) -> Option<BodyDigest> {
        let raw = self.raw.body_digest.as_ref()?;
        let Some(query) = raw.query.as_ref().filter(|name| !name.is_empty()) else {
            self.fault("body_digest.query", "nothing", "the name of a query parameter");
            return None;
        };
        Some(BodyDigest {
            query: query.as_bytes().to_vec(),
            hash: raw.hash.unwrap_or_default(),
            encoding: raw.encoding.unwrap_or(Encoding::Hex),
        })
    }

    fn challenge(&mut self, means: Means) -> Option<Challenge> {
        let raw = self.raw.challenge.as_ref()?;
        if !matches!(means, Means::Signature(Proof::Hmac(_))) {
            self.fault("challenge", "a challenge", "none, or kind = \"hmac\"");
        }
        match Challenge::parse(raw, &mut self.body) {
            Ok(challenge) => Some(challenge),
            Err(fault) => {
                self.faults.push(fault);
                None
            }
        }
    }

    fn each(&mut self) -> Option<Each> {
        let text = self.raw.each.as_deref()?;
        let halves = text.split_once("/*").filter(|(_, below)| !below.contains('*'));
        let Some((array, below)) = halves.and_then(|(a, b)| Some((Pointer::parse(a)?, Pointer::parse(b)?))) else {
            self.fault("each", format!("{text:?}"), "a pointer with one *: \"/items/*/item\"");
            return None;
        };
        let pointers = self.item.as_slice().iter().map(|pointer| below.join(pointer)).collect();
        Some(Each { array, pointers })
    }

    fn source(&mut self, key: &str, text: &str) -> Option<Source> {
        let source = Source::parse(text, &mut self.body).filter(|source| !matches!(source, Source::Beside(_)));
        if source.is_none() {
            self.fault(key, format!("{text:?}"), source::FORMS);
        }
        source
    }

    fn pointer(&mut self, key: &str, text: &str) -> Option<Pointer> {
        let pointer = Pointer::parse(text);
        if pointer.is_none() {
            self.fault(key, format!("{text:?}"), "a JSON pointer: \"/a/b\"");
        }
        pointer
    }

    fn header_name(&mut self, key: &str, text: &str) -> Option<HeaderName> {
        let name = text.parse().ok();
        if name.is_none() {
            self.fault(key, format!("{text:?}"), "a header name");
        }
        name
    }

    /// Parts that only a kind that is not built can use.
    fn refuse_leftovers(&mut self) {
        if self.raw.token.is_some() {
            self.fault("token", "a table", "nothing: only kind = \"jwt\" has a token; kind = \"token\" uses signature");
        }
        if self.raw.claims.is_some() {
            self.fault("claims", "a table", "nothing: only kind = \"jwt\" has claims");
        }
        if self.raw.extends.is_some() {
            self.fault("extends", "an unresolved name", "the name of a built-in or of another provider");
        }
    }

    /// Parts that need one another.
    fn check_parts(&mut self, scheme: &Scheme) {
        let signed = &scheme.signed;
        let secret = signed.has(&Part::Secret);
        match scheme.means {
            Means::Signature(Proof::Hash(_)) if !secret => {
                self.fault("signed", "no {secret}", "{secret} among the parts: a plain hash proves nothing without");
            }
            Means::Signature(Proof::Hmac(_)) if secret => {
                self.fault("signed", "{secret}", "no {secret}: kind = \"hmac\" uses it as the key");
            }
            Means::Signature(_) => {}
            Means::Token | Means::Basic if self.raw.signed.is_some() => {
                self.fault("signed", "a text", "nothing: this kind signs nothing");
            }
            Means::Token | Means::Basic => {}
        }
        if signed.has(&Part::Timestamp) && self.raw.timestamp.is_none() {
            self.fault("timestamp", "nothing", "where the {timestamp} of signed stands");
        }
        if signed.has(&Part::Id) && self.raw.id.is_none() {
            self.fault("id", "nothing", "where the {id} of signed stands: \"header:NAME\"");
        }
        let items = matches!(scheme.place, Place::Item(_)) || signed.parts.iter().any(|p| matches!(p, Part::Item(_)));
        if items && self.raw.each.is_none() {
            self.fault("each", "nothing", "where the items are: \"/items/*/item\"");
        }
        if self.raw.each.is_some() && !matches!(scheme.place, Place::Item(_)) {
            self.fault("each", "a pointer", "signature.item, or no each");
        }
        if scheme.notation.time.is_some() && scheme.notation.kv.is_none() && scheme.notation.lead.is_empty() {
            self.fault(
                "timestamp.from",
                "a field beside the signature",
                "signature.kv or signature.lead that names it",
            );
        }
    }

    fn check_coverage(&mut self, scheme: &Scheme) {
        if let Some(rule) = &scheme.signed_at
            && scheme.covers(&rule.source) == Coverage::Uncovered
        {
            self.fault("signed_at.from", "a place that the signature does not cover", "a place that it covers");
        }
        let declared = self.raw.timestamp.as_ref().and_then(|time| time.covered);
        if let (Some(rule), Some(declared)) = (&scheme.sent, declared)
            && scheme.covers(&rule.source) != Coverage::when(declared)
        {
            self.fault("timestamp.covered", declared.to_string(), (!declared).to_string());
        }
    }

    fn check_about(&mut self) {
        let status = self.raw.about.as_ref().and_then(|about| about.reply.as_ref()).and_then(|reply| reply.status);
        if let Some(status) = status.filter(|status| !(200..300).contains(status)) {
            self.fault("about.reply.status", status.to_string(), "200 to 299");
        }
    }
}

fn places(raw: &RawSignature) -> String {
    let given = [
        ("header", raw.header.is_some()),
        ("json", raw.json.is_some()),
        ("form", raw.form.is_some()),
        ("item", raw.item.is_some()),
    ];
    let given: Vec<&str> = given.into_iter().filter_map(|(name, there)| there.then_some(name)).collect();
    if given.is_empty() { "none of them".to_owned() } else { given.join(" and ") }
}

fn all_sources(scheme: &Scheme) -> impl Iterator<Item = &Source> {
    let ids = scheme.event_id.iter().flat_map(|entry| entry.alternatives.iter().map(|(source, _)| source));
    let sent = scheme.sent.iter().map(|rule| &rule.source);
    let signed_at = scheme.signed_at.iter().map(|rule| &rule.source);
    ids.chain(sent).chain(signed_at).chain(&scheme.id).chain(&scheme.event_type)
}

fn reads(scheme: &Scheme) -> Reads {
    let json = |source: &Source| matches!(source, Source::Json(_));
    let signed = &scheme.signed;
    let json_first = matches!(scheme.place, Place::Json(_))
        || signed.parts.iter().any(|part| matches!(part, Part::Json(_)))
        || (signed.has(&Part::Timestamp) && scheme.sent.as_ref().is_some_and(|rule| json(&rule.source)))
        || (signed.has(&Part::Id) && scheme.id.as_ref().is_some_and(json));
    let form = matches!(scheme.place, Place::Form(_))
        || signed.parts.iter().any(|part| matches!(part, Part::Form(_) | Part::SortedForm))
        || all_sources(scheme).any(|source| matches!(source, Source::Form(_)));
    let url = signed.has(&Part::Url) || signed.has(&Part::Path);
    Reads { form: Read::when(form), json_first: Read::when(json_first), url: Read::when(url) }
}

/// Every header whose value the check or the key depends on. The event's type is not among them: repeated, it is
/// no type.
fn single_headers(scheme: &Scheme) -> Vec<HeaderName> {
    let from_place = match &scheme.place {
        Place::Headers(names) => names.clone(),
        Place::HeadersLike(_) | Place::Json(_) | Place::Form(_) | Place::Item(_) => Vec::new(),
    };
    let from_sources = all_sources(scheme).filter(|source| Some(*source) != scheme.event_type.as_ref());
    let from_sources = from_sources.filter_map(|source| match source {
        Source::Header(name) => Some(name.clone()),
        Source::Json(_) | Source::Form(_) | Source::Query(_) | Source::Beside(_) => None,
    });
    let from_signed = scheme.signed.parts.iter().filter_map(|part| match part {
        Part::Header(name) | Part::SignedHeaders(name) => Some(name.clone()),
        Part::Text(_)
        | Part::Body
        | Part::Timestamp
        | Part::Id
        | Part::Method
        | Part::Url
        | Part::Path
        | Part::Secret
        | Part::Json(_)
        | Part::Form(_)
        | Part::SortedForm
        | Part::Item(_) => None,
    });
    let required = scheme.require.iter().map(|(name, _)| name.clone());
    let mut names: Vec<HeaderName> =
        from_place.into_iter().chain(from_sources).chain(from_signed).chain(required).collect();
    names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    names.dedup();
    names
}

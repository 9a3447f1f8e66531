//! From a scheme as written to a compiled one, with every fault reported at once.
//!
//! What only one kind has is in [`super::kinds`]; what the parts mean together is in [`super::check`].

use http::HeaderName;

use super::also::Also;
use super::challenge::Challenge;
use super::check::{reads, single_headers};
use super::encoding::{KeyRule, Strip};
use super::event_id::IdEntry;
use super::freshness::{SentRule, SignedAtRule, Window};
use super::json::Pointer;
use super::mac::Proof;
use super::raw::{Encoding, Kind, OneOrMany, RawKey, RawScheme, RawSignature, Unit};
use super::signature::{Notation, Place};
use super::source::{self, Pointers, Source};
use super::span::Span;
use super::template::{self, Part, Template};
use super::traits::Coverage;
use super::{BodyDigest, Each, Means, Read, Reads, Scheme, SchemeFault};

/// The alternative in `event_id` where nothing in a request tells it from another event.
const EACH_REQUEST: &str = "request";

/// `timestamp.tolerance` where none is given: what most providers' own libraries use.
pub(super) const TOLERANCE: Span = Span(std::time::Duration::from_secs(300));
/// `signed_at.future` where none is given: clocks differ, events do not come before they happen.
const SIGNED_AT_FUTURE: Span = Span(std::time::Duration::from_secs(300));

impl Scheme {
    /// Compiles a scheme, or says everything that is wrong with it.
    pub fn compile(raw: &RawScheme) -> Result<Self, Vec<SchemeFault>> {
        let kind = raw.kind.unwrap_or_default();
        let mut compiler = Compiler { raw, faults: Vec::new(), body: Pointers::default(), item: Pointers::default() };
        let scheme = compiler.scheme(kind);
        match scheme {
            Some(scheme) if compiler.faults.is_empty() => Ok(scheme),
            Some(_) | None => Err(compiler.faults),
        }
    }
}

/// A compilation under way: what is written, and what was found wrong with it so far.
pub(super) struct Compiler<'r> {
    pub(super) raw: &'r RawScheme,
    faults: Vec<SchemeFault>,
    body: Pointers,
    item: Pointers,
}

impl Compiler<'_> {
    pub(super) fn fault(&mut self, key: &str, found: impl Into<String>, expected: impl Into<String>) {
        self.faults.push(SchemeFault::new(key, found, expected));
    }

    fn scheme(&mut self, kind: Kind) -> Option<Scheme> {
        let means = self.means(kind)?;
        let place = self.place(&means);
        let signed = self.signed();
        let also = self.also(kind);
        let notation = self.notation(&means, also.as_ref());
        let key = self.key_rule("key", self.raw.key.as_ref());
        let id = self.raw.id.as_deref().and_then(|text| self.source("id", text));
        let sent = self.sent();
        let event_id = self.event_id();
        let event_type = self.raw.event_type.as_deref().and_then(|text| self.source("event_type", text));
        let signed_at = self.signed_at();
        let require = self.require();
        let body_digest = self.body_digest();
        let challenge = self.challenge(&means);
        let each = self.each();
        self.refuse_leftovers(kind);
        let (place, signed) = (place?, signed?);
        let body_signed = Read::when(match &means {
            Means::Signature(_) => signed.has(&Part::Body),
            Means::Jwt(jwt) => jwt.binds_body(),
            Means::Token | Means::Basic => false,
        });
        let mut scheme = Scheme {
            means,
            key,
            also,
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
            raw: Box::new(self.raw.clone()),
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
        let entries = std::mem::take(&mut scheme.event_id);
        scheme.event_id = entries
            .into_iter()
            .map(|entry| IdEntry {
                or_request: entry.or_request,
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

    fn place(&mut self, means: &Means) -> Option<Place> {
        let raw = self.raw.signature.as_ref();
        if raw.is_none_or(|raw| places(raw).is_empty())
            && let Means::Basic | Means::Jwt(_) = means
        {
            return self.own_header(means).map(|name| Place::Headers(vec![name]));
        }
        let Some(raw) = raw else {
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
            _ => {
                let places = places(raw);
                let found = if places.is_empty() { "nowhere".to_owned() } else { places.join(" and ") };
                self.fault("signature", found, "exactly one of header, json, form and item");
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

    fn notation(&mut self, means: &Means, also: Option<&Also>) -> Notation {
        let raw = self.raw.signature.clone().unwrap_or_default();
        let (lengths, signs) = match means {
            Means::Signature(proof) => (proof.lengths(), true),
            Means::Token | Means::Basic | Means::Jwt(_) => (0..=0, false),
        };
        if signs && raw.encoding.is_none() {
            self.fault("signature.encoding", "nothing", "\"hex\", \"base64\" or \"base64url\"");
        }
        Notation {
            prefix: raw.prefix.unwrap_or_default().into_bytes(),
            encoding: raw.encoding.unwrap_or(Encoding::Hex),
            lengths,
            second: also.map(Also::second),
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

    /// How secrets become keys, as written at `key`.
    pub(super) fn key_rule(&mut self, key: &str, raw: Option<&RawKey>) -> KeyRule {
        let Some(raw) = raw else { return KeyRule::default() };
        let strip = match raw.strip.as_deref() {
            None | Some("") => None,
            Some(text) => {
                let strip = Strip::parse(text);
                if strip.is_none() {
                    self.fault(&format!("{key}.strip"), format!("{text:?}"), "a prefix, or \"head*tail\" with one *");
                }
                strip
            }
        };
        if raw.bare.is_some() && strip.is_none() {
            self.fault("key.bare", "an encoding", "key.strip too, which tells such secrets from the others");
        }
        KeyRule { encoding: raw.encoding.unwrap_or_default(), bare: raw.bare, strip, hash: raw.hash }
    }

    fn sent(&mut self) -> Option<SentRule> {
        let is_jwt = self.raw.kind == Some(Kind::Jwt);
        if is_jwt && self.raw.timestamp.as_ref().is_none_or(|raw| raw.from.is_none()) {
            let source = Source::Claim(["iat", "nbf"].map(str::to_owned).to_vec());
            return Some(SentRule { source, unit: Unit::Seconds, window: None });
        }
        let raw = self.raw.timestamp.as_ref()?;
        let from = raw.from.as_deref().unwrap_or_default();
        let parsed = Source::parse(from, &mut self.body);
        let Some(source) = parsed.filter(|source| is_jwt || source.claim().is_none()) else {
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
            let mut texts: Vec<&str> = entry.split('|').map(str::trim).collect();
            let or_request = Read::when(texts.pop_if(|last| *last == EACH_REQUEST).is_some());
            if texts.is_empty() && entries.len() > 1 {
                self.fault(&key, "request beside others", "request alone, or as the last alternative of an entry");
            }
            let sources = texts.into_iter().filter_map(|text| self.source(&key, text));
            let alternatives = sources.map(|source| (source, Coverage::Uncovered)).collect();
            ids.push(IdEntry { alternatives, or_request });
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

    fn challenge(&mut self, means: &Means) -> Option<Challenge> {
        let raw = self.raw.challenge.as_ref()?;
        let proof = if let Means::Signature(proof @ Proof::Hmac(_)) = means { Some(*proof) } else { None };
        match Challenge::parse(self.raw, raw, proof) {
            Ok(challenge) => Some(challenge),
            Err(faults) => {
                self.faults.extend(faults);
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
        let is_jwt = self.raw.kind == Some(Kind::Jwt);
        let source = Source::parse(text, &mut self.body)
            .filter(|source| !matches!(source, Source::Beside(_)) && (is_jwt || source.claim().is_none()));
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

    pub(super) fn header_name(&mut self, key: &str, text: &str) -> Option<HeaderName> {
        let name = text.parse().ok();
        if name.is_none() {
            self.fault(key, format!("{text:?}"), "a header name");
        }
        name
    }
}

/// The places that are given.
fn places(raw: &RawSignature) -> Vec<&'static str> {
    let places = [
        ("header", raw.header.is_some()),
        ("json", raw.json.is_some()),
        ("form", raw.form.is_some()),
        ("item", raw.item.is_some()),
    ];
    places.into_iter().filter_map(|(name, given)| given.then_some(name)).collect()
}

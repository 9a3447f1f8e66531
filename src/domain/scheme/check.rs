//! What the parts of a scheme mean together: which of them need one another, what the signature covers, what must
//! be read first.
//!
//! Not the meaning of each part alone; that is compiled before.

use http::HeaderName;

use super::compile::Compiler;
use super::mac::Proof;
use super::signature::Place;
use super::source::Source;
use super::template::{Part, Template};
use super::traits::Coverage;
use super::{Means, Read, Reads, Scheme};

impl Scheme {
    /// Whether what stands at `source` is among what is signed.
    pub(super) fn covers(&self, source: &Source) -> Coverage {
        Coverage::when(self.means_signs() && self.covers_source(source))
    }

    fn means_signs(&self) -> bool {
        match self.means {
            Means::Signature(_) | Means::Jwt(_) => true,
            Means::Token | Means::Basic => false,
        }
    }

    fn covers_source(&self, source: &Source) -> bool {
        let is_time = self.sent.as_ref().is_some_and(|rule| rule.source == *source);
        let as_time = is_time && (self.signed.has(&Part::Timestamp) || has_list(&self.signed));
        let as_id = self.signed.has(&Part::Id) && self.id.as_ref() == Some(source);
        let itself = match source {
            Source::Header(name) => self.signed.has(&Part::Header(name.clone())),
            Source::Json(place) => self.body_signed.is_yes() || self.signed.has(&Part::Json(*place)),
            // Of a whole form names and values stand one behind the other: the same text is that of other fields too.
            Source::Form(name) => self.body_signed.is_yes() || self.signed.has(&Part::Form(name.clone())),
            Source::Query(_) => self.signs_address(),
            Source::Claim(_) => true,
            Source::Beside(_) => false,
        };
        itself || as_time || as_id
    }

    pub(super) fn signs_address(&self) -> bool {
        match &self.means {
            Means::Jwt(jwt) => jwt.binds_url(),
            Means::Signature(_) | Means::Token | Means::Basic => {
                [Part::Url, Part::Path, Part::EncodedPath].iter().any(|part| self.signed.has(part))
            }
        }
    }
}

/// Whether headers are signed by list; the list must name the timestamp's.
fn has_list(signed: &Template) -> bool {
    signed.parts.iter().any(|part| matches!(part, Part::SignedHeaders(_)))
}

impl Compiler<'_> {
    /// Parts that need one another.
    pub(super) fn check_parts(&mut self, scheme: &Scheme) {
        let signed = &scheme.signed;
        let secret = signed.has(&Part::Secret);
        match &scheme.means {
            Means::Signature(Proof::Hash(_)) if !secret => {
                self.fault("signed", "no {secret}", "{secret} among the parts: a plain hash proves nothing without");
            }
            Means::Signature(Proof::Hmac(_)) if secret => {
                self.fault("signed", "{secret}", "no {secret}: kind = \"hmac\" uses it as the key");
            }
            Means::Signature(Proof::Ed25519 | Proof::P256) if secret => {
                self.fault("signed", "{secret}", "no {secret}: it is a public key, which proves nothing");
            }
            Means::Token | Means::Basic if self.raw.signed.is_some() => {
                self.fault("signed", "a text", "nothing: this kind signs nothing");
            }
            Means::Jwt(_) if self.raw.signed.is_some() => {
                self.fault("signed", "a text", "nothing: kind = \"jwt\" signs its claims");
            }
            Means::Signature(_) | Means::Token | Means::Basic | Means::Jwt(_) => {}
        }
        if signed.has(&Part::Timestamp) && self.raw.timestamp.is_none() {
            let expected = "where the {timestamp} of signed stands: { from = \"header:NAME\", unit = \"s\" }";
            self.fault("timestamp", "nothing", expected);
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
        self.check_notation(scheme);
    }

    fn check_notation(&mut self, scheme: &Scheme) {
        let notation = &scheme.notation;
        if notation.time.is_some() && notation.kv.is_none() && notation.lead.is_empty() {
            let expected = "signature.kv or signature.lead that names it";
            self.fault("timestamp.from", "a field beside the signature", expected);
        }
        if notation.time.is_some() && notation.kv.is_some() && notation.split.is_none() {
            self.fault("signature.split", "nothing", "what stands between a field and the next: split = \",\"");
        }
        if notation.pick.is_some() && notation.kv.is_none() {
            self.fault("signature.pick", "a name", "signature.kv too, which tells names from values");
        }
        if !notation.lead.is_empty() && notation.split.is_none() {
            self.fault("signature.lead", "names", "signature.split too, which tells fields apart");
        }
        let one = match &scheme.place {
            Place::Headers(names) => names.len() == 1,
            Place::Json(_) | Place::Form(_) => true,
            Place::Item(_) => matches!(scheme.means, Means::Token),
            Place::HeadersLike(_) => false,
        };
        if !one && matches!(scheme.means, Means::Token | Means::Basic) {
            self.fault("signature", "several places", "one place for a token or a password");
        }
    }

    pub(super) fn check_coverage(&mut self, scheme: &Scheme) {
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

    pub(super) fn check_about(&mut self) {
        let status = self.raw.about.as_ref().and_then(|about| about.reply.as_ref()).and_then(|reply| reply.status);
        if let Some(status) = status.filter(|status| !(200..300).contains(status)) {
            self.fault("about.reply.status", status.to_string(), "200 to 299");
        }
    }
}

/// Every place whose value the check or the key depends on.
fn sources(scheme: &Scheme) -> impl Iterator<Item = &Source> {
    let ids = scheme.event_id.iter().flat_map(|entry| entry.alternatives.iter().map(|(source, _)| source));
    let sent = scheme.sent.iter().map(|rule| &rule.source);
    let signed_at = scheme.signed_at.iter().map(|rule| &rule.source);
    ids.chain(sent).chain(signed_at).chain(&scheme.id)
}

/// What must be read of a request before its signature can be checked.
pub(super) fn reads(scheme: &Scheme) -> Reads {
    let json = |source: &Source| matches!(source, Source::Json(_));
    let signed = &scheme.signed;
    let json_first = matches!(scheme.place, Place::Json(_))
        || signed.parts.iter().any(|part| matches!(part, Part::Json(_)))
        || (signed.has(&Part::Timestamp) && scheme.sent.as_ref().is_some_and(|rule| json(&rule.source)))
        || (signed.has(&Part::Id) && scheme.id.as_ref().is_some_and(json));
    let form = matches!(scheme.place, Place::Form(_))
        || signed.parts.iter().any(|part| matches!(part, Part::Form(_) | Part::SortedForm))
        || sources(scheme).chain(&scheme.event_type).any(|source| matches!(source, Source::Form(_)));
    let url = scheme.signs_address();
    Reads { form: Read::when(form), json_first: Read::when(json_first), url: Read::when(url) }
}

/// Every header whose value the check or the key depends on. The event's type is not among them: repeated, it is
/// no type.
pub(super) fn single_headers(scheme: &Scheme) -> Vec<HeaderName> {
    let from_place = match &scheme.place {
        Place::Headers(names) => names.clone(),
        Place::HeadersLike(_) | Place::Json(_) | Place::Form(_) | Place::Item(_) => Vec::new(),
    };
    let from_sources = sources(scheme).filter_map(Source::header).cloned();
    let from_signed = scheme.signed.parts.iter().filter_map(Part::header).cloned();
    let required = scheme.require.iter().map(|(name, _)| name.clone());
    let mut names: Vec<HeaderName> =
        from_place.into_iter().chain(from_sources).chain(from_signed).chain(required).collect();
    names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    names.dedup();
    names
}

//! `providers list` and `show`: what is built in, and what is known and cannot be checked here.

use std::time::Duration;

use serde::Serialize;

use super::args::{Providers, ProvidersWhat};
use super::output::{put, put_json, put_line, put_table, span};
use super::{Exit, Failure, Outcome, samples};
use crate::config::builtin::{self, Unsupported};
use crate::domain::scheme::{Kind, OneOrMany, RawScheme, Scheme, SchemeTraits, SentTrait};

/// `hookgate providers`.
pub(super) fn providers(asked: Providers) -> Outcome {
    match asked.what {
        ProvidersWhat::List { json } => list(json),
        ProvidersWhat::Show { name, resolved } => show(&name, resolved),
    }
}

/// All that is known about one provider, as `--json` prints it.
#[derive(Debug, Default, Serialize)]
struct Facts {
    name: &'static str,
    /// What is signed and how, in one line; nothing for one that is not supported, as is everything below but `source`.
    signature: Option<String>,
    /// `hmac-sha256`, `token` and so on.
    kind: Option<String>,
    /// Where the proof stands.
    place: Option<String>,
    /// How old a request may be, and whether the signature covers its time.
    timestamp: Option<String>,
    handshake: bool,
    verified: Option<&'static str>,
    source: Option<String>,
    budget_seconds: Option<f64>,
    retry_horizon_seconds: Option<f64>,
    event_id: Vec<String>,
    event_type: Option<String>,
    extends: Option<String>,
    samples: Vec<&'static str>,
    /// Why it cannot be checked here and what to do instead.
    unsupported: Option<String>,
}

fn list(as_json: bool) -> Outcome {
    let known = builtin::names().filter_map(|name| compiled(name).map(|scheme| facts(name, &scheme)));
    if as_json {
        let all = known.chain(builtin::unsupported().map(refused));
        all.map(|facts| put_json(&facts)).collect::<Result<Vec<()>, Failure>>()?;
        return Ok(Exit::Ok);
    }
    let row = |facts: Facts| {
        let text = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        let handshake = if facts.handshake { "yes" } else { "no" };
        let verified = facts.verified.unwrap_or("-");
        let name = facts.name.to_owned();
        vec![name, text(facts.kind), text(facts.place), text(facts.timestamp), handshake.into(), verified.into()]
    };
    put_table(&["NAME", "KIND", "PROOF", "TIMESTAMP", "HANDSHAKE", "VERIFIED"], known.map(row))?;
    put_line("")?;
    let refused = builtin::unsupported().map(|one| vec![one.name.to_owned(), one.sentence()]);
    put_table(&["NOT SUPPORTED", "WHY"], refused)?;
    Ok(Exit::Ok)
}

fn facts(name: &'static str, scheme: &Scheme) -> Facts {
    let (raw, traits) = (scheme.as_written(), scheme.traits());
    let extends = builtin::table(name).and_then(|table| Some(table.get("extends")?.as_str()?.to_owned()));
    Facts {
        name,
        signature: Some(scheme.describe()),
        kind: Some(kind(raw)),
        place: place(raw),
        timestamp: timestamp(&traits),
        handshake: raw.challenge.is_some(),
        verified: traits.verified.map(crate::domain::scheme::Evidence::as_str),
        source: traits.source,
        budget_seconds: traits.budget.map(|budget| budget.as_secs_f64()),
        retry_horizon_seconds: traits.retry_horizon.map(|horizon| horizon.as_secs_f64()),
        event_id: raw.event_id.clone().unwrap_or_default(),
        event_type: raw.event_type.clone(),
        extends,
        samples: samples::of(name).map(|sample| sample.event).collect(),
        unsupported: None,
    }
}

fn refused(unsupported: &'static Unsupported) -> Facts {
    Facts {
        name: unsupported.name,
        source: Some(unsupported.source.to_owned()),
        unsupported: Some(unsupported.sentence()),
        ..Facts::default()
    }
}

fn kind(raw: &RawScheme) -> String {
    let (kind, mac) = (raw.kind.unwrap_or_default(), raw.mac.unwrap_or_default());
    match kind {
        Kind::Hmac => format!("hmac-{}", mac.as_str()),
        Kind::Hash => mac.as_str().to_owned(),
        Kind::Token | Kind::Basic | Kind::Ed25519 | Kind::EcdsaP256 | Kind::Jwt => kind.as_str().to_owned(),
    }
}

fn place(raw: &RawScheme) -> Option<String> {
    if let Some(header) = raw.token.as_ref().and_then(|token| token.header.clone()) {
        return Some(header);
    }
    let Some(signature) = &raw.signature else {
        return (raw.kind == Some(Kind::Basic)).then(|| "Authorization".to_owned());
    };
    match (&signature.header, &signature.json, &signature.form, &signature.item) {
        (Some(OneOrMany::One(name)), ..) => Some(name.clone()),
        (Some(OneOrMany::Many(names)), ..) => Some(names.join(", ")),
        (_, Some(pointer), ..) => Some(format!("json:{pointer}")),
        (_, _, Some(field), _) => Some(format!("form:{field}")),
        (.., Some(pointer)) => Some(format!("item:{pointer}")),
        (None, None, None, None) => None,
    }
}

/// `5 min`, `5 min unsigned`, `event 23 h`, or the two with a comma.
fn timestamp(traits: &SchemeTraits) -> Option<String> {
    let short = |duration: Duration| span(duration.as_secs_f64());
    let sent = match traits.sent {
        SentTrait::None => None,
        SentTrait::Covered { tolerance } => Some(short(tolerance)),
        SentTrait::Uncovered { tolerance } => Some(format!("{} unsigned", short(tolerance))),
    };
    let event = traits.signed_at_max_age.map(|age| format!("event {}", short(age)));
    let both: Vec<String> = sent.into_iter().chain(event).collect();
    (!both.is_empty()).then(|| both.join(", "))
}

fn show(name: &str, resolved: bool) -> Outcome {
    let text = builtin::text(name).ok_or_else(|| unknown(name, builtin::names()))?;
    match builtin::whole(name).filter(|_| resolved) {
        Some(whole) => put(whole.to_string().trim_start().as_bytes())?,
        None => put(text.as_bytes())?,
    }
    Ok(Exit::Ok)
}

/// A built-in provider, compiled.
pub(super) fn compiled(name: &str) -> Option<Scheme> {
    Scheme::compile(&builtin::scheme(name)?).ok()
}

/// No provider or route is called so; perhaps one of `known` was meant.
pub(super) fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Failure {
    if let Some(unsupported) = builtin::why_unsupported(name) {
        return Failure::usage(format!("{name} is not supported: {}", unsupported.sentence()));
    }
    let close = known.map(|known| (strsim::jaro_winkler(name, known), known)).filter(|(like, _)| *like > 0.8);
    let hint = match close.max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((_, meant)) => format!("did you mean {meant:?}?"),
        None => "`hookgate providers list` lists them".to_owned(),
    };
    Failure::usage(format!("no provider is called {name:?}; {hint}"))
}

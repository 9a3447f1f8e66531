//! `providers list` and `show`: what is built in.

use serde_json::json;

use super::args::{Providers, ProvidersWhat};
use super::output::{put, put_json, put_table};
use super::{Exit, Failure, Outcome, samples};
use crate::config::builtin;
use crate::domain::scheme::Scheme;

/// `hookgate providers`.
pub(super) fn providers(asked: Providers) -> Outcome {
    match asked.what {
        ProvidersWhat::List { json } => list(json),
        ProvidersWhat::Show { name } => show(&name),
    }
}

fn list(as_json: bool) -> Outcome {
    let about = |name: &'static str| (name, compiled(name).map(|scheme| scheme.describe()).unwrap_or_default());
    let all = builtin::names().map(about);
    if as_json {
        for (name, signature) in all {
            let events: Vec<&str> = samples::of(name).map(|sample| sample.event).collect();
            put_json(&json!({ "name": name, "signature": signature, "samples": events }))?;
        }
    } else {
        put_table(&["NAME", "SIGNATURE"], all.map(|(name, signature)| vec![name.to_owned(), signature]))?;
    }
    Ok(Exit::Ok)
}

fn show(name: &str) -> Outcome {
    let text = builtin::text(name).ok_or_else(|| unknown(name, builtin::names()))?;
    put(text.as_bytes())?;
    Ok(Exit::Ok)
}

/// A built-in provider, compiled.
pub(super) fn compiled(name: &str) -> Option<Scheme> {
    Scheme::compile(&builtin::scheme(name)?).ok()
}

/// No provider or route is called so; perhaps one of `known` was meant.
pub(super) fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Failure {
    let close = known.map(|known| (strsim::jaro_winkler(name, known), known)).filter(|(like, _)| *like > 0.8);
    let hint = match close.max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((_, meant)) => format!("did you mean {meant:?}?"),
        None => "`hookgate providers list` lists them".to_owned(),
    };
    Failure::usage(format!("no provider is called {name:?}; {hint}"))
}

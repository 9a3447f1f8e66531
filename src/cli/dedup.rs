//! `dedup check` and `forget`: what the dedup store remembers of one event.

use http::Method;

use super::admin::{Admin, encoded, wait};
use super::args::{Dedup, DedupWhat};
use super::output::{put_json, put_line, text};
use super::{Context, Exit, Failure, Outcome};
use crate::domain::key::EventKey;

/// `hookgate dedup`.
pub(super) fn dedup(context: &Context, asked: &Dedup) -> Outcome {
    let (method, asked) = match &asked.what {
        DedupWhat::Check(asked) => (Method::GET, asked),
        DedupWhat::Forget(asked) => (Method::DELETE, asked),
    };
    if EventKey::from_hex(&asked.key).is_none() {
        return Err(Failure::usage("a key is the 64 hex digits of `Hookgate-Key`, as the app saw it"));
    }
    let admin = Admin::of(context, &asked.door)?;
    let path = format!("/api/dedup/{}/{}", encoded(&asked.route), asked.key);
    let forgets = method == Method::DELETE;
    let found = wait(admin.act(method, &path, None))?;
    if asked.json {
        put_json(&found)?;
    } else if forgets {
        put_line("forgotten: its next sending is delivered again")?;
    } else {
        let (state, until) = (text(&found, "state"), text(&found, "expires_at"));
        let body = if text(&found, "same_body") == "true" { "the same body" } else { "another body" };
        put_line(&format!("{state} until {until}, with {body}"))?;
    }
    Ok(Exit::Ok)
}

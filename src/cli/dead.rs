//! `dlq` and `replay`: dead letters listed, shown, exported, delivered again or destroyed. Listing also works on the
//! spool of a stopped gateway.

use std::sync::Arc;

use http::{HeaderName, Method};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::admin::{Admin, encoded, query, wait};
use super::args::{ActOnMany, Dlq, DlqList, DlqWhat, Pick, Replay, Source};
use super::bulk::{self, Act};
use super::events::{collect, fields, put_field, put_request};
use super::output::{put, put_json, put_table, say, short_moment, text};
use super::status::{open, spool_failure};
use super::{Context, Exit, Failure, Outcome};
use crate::admin::query::{DAMAGED, DeadFilter, FilterFault, event_id};
use crate::admin::shapes::{DeadLetter, Exported, Show, Signatures};
use crate::domain::event::EventId;
use crate::domain::route::Route;
use crate::spool::{Filter, Listed, SpoolReader, State, Stored};

/// Events of a spool that are looked up at once.
const PAGE: usize = 500;

/// `hookgate dlq`.
pub(super) fn dlq(context: &Context, asked: Dlq) -> Outcome {
    match asked.what {
        DlqWhat::List(asked) => list(context, &asked),
        DlqWhat::Show { id, json, source } => show(context, &source, &id, json),
        DlqWhat::Retry(asked) => bulk::act(context, Act::Retry, &asked),
        DlqWhat::Drop(asked) => bulk::act(context, Act::Drop, &asked),
        DlqWhat::Export { pick, source } => export(context, &pick, &source),
    }
}

/// `hookgate replay`.
pub(super) fn replay(context: &Context, asked: Replay) -> Outcome {
    let act: ActOnMany = asked.act;
    bulk::act(context, Act::Retry, &act)
}

fn list(context: &Context, asked: &DlqList) -> Outcome {
    let mut pick = asked.pick.clone();
    if asked.damaged {
        pick.reason = Some(DAMAGED.to_owned());
    }
    let items = if let Some(path) = &asked.source.spool {
        let reader = open(path)?;
        let mut items = Vec::new();
        each(&reader, filter(context, &pick)?, asked.limit.unwrap_or(usize::MAX), |listed| {
            items.push(serde_json::to_value(DeadLetter::of(listed)).unwrap_or_default());
            Ok(())
        })?;
        items
    } else {
        let admin = Admin::of(context, &asked.source.door)?;
        wait(collect(&admin, "/api/dead-letters", &pick, &[], asked.limit))?
    };
    if asked.json {
        items.iter().try_for_each(put_json)?;
        return Ok(Exit::Ok);
    }
    let row = |item: &Value| {
        let cell = |name| text(item, name);
        vec![
            short_moment(&cell("received_at")),
            cell("route"),
            cell("reason"),
            cell("attempts"),
            cell("last_error"),
            cell("id"),
        ]
    };
    put_table(&["RECEIVED", "ROUTE", "REASON", "ATTEMPTS", "LAST ERROR", "ID"], items.iter().map(row))?;
    if items.is_empty() {
        say(if asked.damaged { "no damaged records" } else { "no dead letters" });
    }
    Ok(Exit::Ok)
}

fn show(context: &Context, source: &Source, id: &str, as_json: bool) -> Outcome {
    let id = event_id(id).map_err(|fault| usage(&fault))?;
    let found = if let Some(path) = &source.spool {
        of_spool(context, &open(path)?, id)?
    } else {
        let admin = Admin::of(context, &source.door)?;
        wait(of_gateway(&admin, id))?
    };
    if as_json {
        put_json(&found)?;
        return Ok(Exit::Ok);
    }
    for name in ["id", "route", "key", "reason", "attempts", "received_at", "last_error", "body_bytes", "body_sha256"] {
        put_field(name, &text(&found, name))?;
    }
    put_request(&found)?;
    Ok(Exit::Ok)
}

/// A dead letter as an export has it, without its body.
fn of_spool(context: &Context, reader: &SpoolReader, id: EventId) -> Result<Value, Failure> {
    let filter = Filter { state: Some(State::Dead), ids: vec![id], limit: 1, ..Filter::default() };
    let listed = reader.list(&filter).map_err(|fault| spool_failure(&fault))?;
    let stored = reader.load(id).map_err(|fault| spool_failure(&fault))?;
    match (listed.first(), stored) {
        (Some(listed), Some(stored)) => {
            let mut value = serde_json::to_value(exported(&context.schemes(), listed, &stored)).unwrap_or_default();
            value.as_object_mut().and_then(|object| object.remove("body_b64"));
            Ok(value)
        }
        (Some(_) | None, _) => Err(Failure::failed(format!("{id} is no dead letter of this spool"))),
    }
}

async fn of_gateway(admin: &Admin, id: EventId) -> Result<Value, Failure> {
    let found = admin.get(&format!("/api/events/{}", encoded(&id.to_string()))).await?;
    let event = found.get("event").unwrap_or(&Value::Null);
    if text(event, "state") != "dead" {
        return Err(Failure::failed(format!("{id} is no dead letter; `hookgate events show {id}` says what it is")));
    }
    let of = |object: &Value, name: &str| object.get(name).cloned().unwrap_or(Value::Null);
    let request = found.get("request").unwrap_or(&Value::Null);
    Ok(json!({
        "id": of(event, "id"), "route": of(event, "route"), "key": of(&found, "key"), "reason": of(event, "reason"),
        "attempts": of(event, "attempts"), "received_at": of(event, "received_at"),
        "last_error": of(event, "last_error"), "body_bytes": of(event, "body_bytes"),
        "body_sha256": of(&found, "body_sha256"), "method": of(request, "method"), "url": of(request, "url"),
        "headers": of(request, "headers"),
    }))
}

fn export(context: &Context, pick: &Pick, source: &Source) -> Outcome {
    let Some(path) = &source.spool else {
        let admin = Admin::of(context, &source.door)?;
        return wait(export_of_gateway(&admin, pick));
    };
    let reader = open(path)?;
    let mut exit = Exit::Ok;
    let schemes = context.schemes();
    each(&reader, filter(context, pick)?, usize::MAX, |listed| match reader.load(listed.id) {
        Ok(Some(stored)) => put_json(&exported(&schemes, listed, &stored)),
        Ok(None) => Ok(()),
        Err(fault) => {
            say(&format!("hookgate: {} is left out: {fault}", listed.id));
            exit = spool_failure(&fault).exit;
            Ok(())
        }
    })?;
    Ok(exit)
}

async fn export_of_gateway(admin: &Admin, pick: &Pick) -> Outcome {
    let mut fields = fields(pick);
    fields.push(("signatures", Some("kept")));
    let path = format!("/api/dead-letters/export{}", query(&fields));
    let mut body = admin.ask(Method::GET, &path, None).await?;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Failure::failed(format!("the export broke off: {error}")))?;
        if let Ok(bytes) = frame.into_data() {
            put(&bytes)?;
        }
    }
    Ok(Exit::Ok)
}

/// A dead letter of a spool that no gateway guards: its signatures are not shown.
fn exported(schemes: &[Arc<Route>], listed: &Listed, stored: &Stored) -> Exported {
    let carries = |route: &str, name: &HeaderName| {
        schemes.iter().find(|known| *known.name == *route).map(|route| route.scheme.carries(name))
    };
    Exported::of(listed, stored, &Show { carries: &carries, signatures: Signatures::Hidden })
}

fn usage(fault: &FilterFault) -> Failure {
    Failure::usage(fault.to_string())
}

/// The spool's filter for dead letters.
fn filter(context: &Context, pick: &Pick) -> Result<Filter, Failure> {
    dead_filter(pick, &[]).read(context.clock.now(), PAGE).map_err(|fault| usage(&fault))
}

/// The filter as the API takes it.
pub(super) fn dead_filter(pick: &Pick, ids: &[String]) -> DeadFilter {
    let Pick { route, reason, since, until } = pick.clone();
    DeadFilter { route, reason, since, until, ids: ids.to_vec() }
}

/// Every event that `filter` means, as far as `limit`, the oldest first.
fn each(
    reader: &SpoolReader,
    mut filter: Filter,
    limit: usize,
    mut with: impl FnMut(&Listed) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut left = limit;
    while left > 0 {
        filter.limit = PAGE.min(left);
        let found = reader.list(&filter).map_err(|fault| spool_failure(&fault))?;
        found.iter().try_for_each(&mut with)?;
        left = left.saturating_sub(found.len());
        match found.last() {
            Some(last) if found.len() >= filter.limit => filter.after = Some(last.id),
            Some(_) | None => return Ok(()),
        }
    }
    Ok(())
}

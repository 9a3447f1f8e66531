//! `events list` and `show`: what a running gateway received, and what became of it.

use http::Method;
use serde_json::Value;

use super::admin::{Admin, encoded, query, read, wait};
use super::args::{Door, Events, EventsList, EventsWhat, Pick};
use super::output::{put, put_json, put_line, put_table, say, short_moment, text};
use super::{Context, Exit, Failure, Outcome};

/// `hookgate events`.
pub(super) fn events(context: &Context, asked: Events) -> Outcome {
    match asked.what {
        EventsWhat::List(asked) => list(context, &asked),
        EventsWhat::Show { id, body: true, door, .. } => body(context, &door, &id),
        EventsWhat::Show { id, body: false, json, door } => show(context, &door, &id, json),
    }
}

fn list(context: &Context, asked: &EventsList) -> Outcome {
    let admin = Admin::of(context, &asked.door)?;
    let disposition = ("disposition", asked.disposition.as_deref());
    let items = wait(collect(&admin, "/api/events", &asked.pick, &[disposition], Some(asked.limit)))?;
    if asked.json {
        items.iter().try_for_each(put_json)?;
        return Ok(Exit::Ok);
    }
    let row = |item: &Value| {
        let cell = |name| text(item, name);
        let what = match cell("disposition") {
            none if none.is_empty() => cell("state"),
            disposition => disposition,
        };
        vec![
            short_moment(&cell("received_at")),
            cell("route"),
            cell("event_type"),
            what,
            cell("reason"),
            cell("status"),
            cell("ack_ms"),
            id_of(item),
        ]
    };
    put_table(&["RECEIVED", "ROUTE", "EVENT", "BECAME", "REASON", "STATUS", "MS", "ID"], items.iter().map(row))?;
    if items.is_empty() {
        say("no such events; `hookgate send ROUTE` sends one");
    }
    Ok(Exit::Ok)
}

/// By what a request is asked for: its event, or its own id where it carried none that was believed.
fn id_of(item: &Value) -> String {
    match text(item, "id") {
        none if none.is_empty() => text(item, "request_id"),
        id => id,
    }
}

/// All pages of a listing, as far as `limit`.
pub(super) async fn collect(
    admin: &Admin,
    path: &str,
    pick: &Pick,
    further: &[(&str, Option<&str>)],
    limit: Option<usize>,
) -> Result<Vec<Value>, Failure> {
    let mut items = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let missing = limit.map_or(usize::MAX, |limit| limit.saturating_sub(items.len()));
        if missing == 0 {
            return Ok(items);
        }
        let page = missing.min(1000).to_string();
        let mut fields = fields(pick);
        fields.extend_from_slice(further);
        fields.extend([("limit", Some(page.as_str())), ("cursor", cursor.as_deref())]);
        let mut answer = admin.get(&format!("{path}{}", query(&fields))).await?;
        if let Some(Value::Array(more)) = answer.get_mut("items").map(Value::take) {
            items.extend(more);
        }
        match answer.get("next").and_then(Value::as_str) {
            Some(next) => cursor = Some(next.to_owned()),
            None => break,
        }
    }
    if items.is_empty() {
        admin.doubt(pick.route.as_deref()).await;
    }
    Ok(items)
}

/// A filter as the fields of a query.
pub(super) fn fields(pick: &Pick) -> Vec<(&'static str, Option<&str>)> {
    vec![
        ("route", pick.route.as_deref()),
        ("reason", pick.reason.as_deref()),
        ("since", pick.since.as_deref()),
        ("until", pick.until.as_deref()),
    ]
}

fn show(context: &Context, door: &Door, id: &str, as_json: bool) -> Outcome {
    let admin = Admin::of(context, door)?;
    let found = wait(admin.get(&format!("/api/events/{}", encoded(id))))?;
    if as_json {
        put_json(&found)?;
        return Ok(Exit::Ok);
    }
    let event = found.get("event").unwrap_or(&Value::Null);
    for name in [
        "id",
        "route",
        "event_type",
        "received_at",
        "disposition",
        "reason",
        "status",
        "ack_ms",
        "remote",
        "request_id",
        "state",
        "attempts",
        "last_error",
        "body_bytes",
    ] {
        put_field(name, &text(event, name))?;
    }
    for name in ["key", "not_before", "ended_at", "body_sha256"] {
        put_field(name, &text(&found, name))?;
    }
    put_request(found.get("request").unwrap_or(&Value::Null))?;
    Ok(Exit::Ok)
}

/// One line of a page of names and values, if there is a value.
pub(super) fn put_field(name: &str, value: &str) -> Result<(), Failure> {
    if value.is_empty() { Ok(()) } else { put_line(&format!("{:<14}{value}", name.replace('_', " "))) }
}

/// The request's line and headers.
pub(super) fn put_request(request: &Value) -> Result<(), Failure> {
    if request.is_null() {
        return Ok(());
    }
    put_line(&format!("\n{} {}", text(request, "method"), text(request, "url")))?;
    let headers = request.get("headers").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for header in headers {
        if let (Some(name), Some(value)) =
            (header.get(0).and_then(Value::as_str), header.get(1).and_then(Value::as_str))
        {
            put_line(&format!("{name}: {}", super::output::printable(value)))?;
        }
    }
    Ok(())
}

fn body(context: &Context, door: &Door, id: &str) -> Outcome {
    let admin = Admin::of(context, door)?;
    let path = format!("/api/events/{}/body", encoded(id));
    let bytes = wait(async { read(admin.ask(Method::GET, &path, None).await?).await })?;
    put(&bytes)?;
    Ok(Exit::Ok)
}

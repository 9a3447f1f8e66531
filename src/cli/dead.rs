//! `dlq` and `replay`: dead letters listed, shown, exported, delivered again or destroyed. Listing also works on the
//! spool of a stopped gateway.

use std::sync::Arc;

use http::{HeaderName, Method};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::admin::{Admin, encoded, query, wait};
use super::args::{Dlq, DlqList, DlqWhat, Pick, Replay, Source};
use super::bulk::{self, Act, FEW};
use super::events::{collect, fields, put_field, put_request};
use super::many::ActOnMany;
use super::output::{bar, put, put_json, put_table, say, short_moment, text};
use super::status::{open, spool_failure};
use super::{Context, Exit, Failure, Outcome};
use crate::admin::query::{DAMAGED, DeadFilter, FilterFault, event_id};
use crate::admin::shapes::{DeadLetter, Exported, LEFT_OUT, Show, Signatures};
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
        DlqWhat::Job(asked) => bulk::job(context, &asked),
        DlqWhat::Export { pick, from, source } => export(context, &pick, from.as_deref(), &source),
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

fn export(context: &Context, pick: &Pick, from: Option<&str>, source: &Source) -> Outcome {
    let Some(path) = &source.spool else {
        let admin = Admin::of(context, &source.door)?;
        return wait(export_of_gateway(&admin, pick, from));
    };
    let mut meant = filter(context, pick)?;
    meant.after = from.map(event_id).transpose().map_err(|fault| usage(&fault))?;
    let reader = open(path)?;
    let mut exit = Exit::Ok;
    let schemes = context.schemes();
    each(&reader, meant, usize::MAX, |listed| match reader.load(listed.id) {
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

async fn export_of_gateway(admin: &Admin, pick: &Pick, from: Option<&str>) -> Outcome {
    let mut fields = fields(pick);
    fields.push(("signatures", Some("kept")));
    fields.push(("cursor", from));
    let path = format!("/api/dead-letters/export{}", query(&fields));
    let mut body = admin.ask(Method::GET, &path, None).await?;
    let bar = bar(count(admin, pick, from).await, FEW);
    let (mut lines, mut left_out) = (WholeLines::default(), None);
    let broken = loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            _ = tokio::signal::ctrl_c() => break Some("interrupted".to_owned()),
        };
        match frame {
            None => break None,
            Some(Err(error)) => break Some(format!("the export broke off: {error}")),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(bytes) => {
                    put(&lines.add(&bytes))?;
                    bar.set_position(lines.count);
                }
                Err(behind) => left_out = behind.trailers_ref().and_then(|trailers| trailers.get(LEFT_OUT)).cloned(),
            },
        }
    };
    bar.finish_and_clear();
    if let (None, Some(count)) = (&broken, left_out) {
        let count = count.to_str().unwrap_or("some");
        let text = format!(
            "{count} damaged records are left out and were set aside: `hookgate dlq list --damaged` lists them"
        );
        return Err(Failure::new(Exit::Damaged, text));
    }
    let Some(why) = broken else { return Ok(Exit::Ok) };
    let how = lines.last.map_or_else(String::new, |last| format!(": the same command with --from {last} goes on"));
    let damaged = "damaged records may be left out: `hookgate dlq list --damaged` lists them";
    Err(Failure::failed(format!("{why} after {} events{how}; {damaged}", lines.count)))
}

/// How many there are, for the bar; if that cannot be said the bar does without.
async fn count(admin: &Admin, pick: &Pick, from: Option<&str>) -> u64 {
    let mut asked = json!({ "filter": dead_filter(pick, &[]), "dry_run": true });
    if let (Some(asked), Some(from)) = (asked.as_object_mut(), from) {
        asked.insert("cursor".to_owned(), json!(from));
    }
    let counted = admin.act(Method::POST, "/api/dead-letters/drop", Some(&asked)).await;
    counted.ok().and_then(|counted| counted.get("matched").and_then(Value::as_u64)).unwrap_or(0)
}

/// Cuts a stream into what can be written: whole lines. At most one line is held back.
#[derive(Debug, Default)]
struct WholeLines {
    rest: Vec<u8>,
    count: u64,
    /// The id that the last whole line begins with.
    last: Option<String>,
}

impl WholeLines {
    fn add(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.rest.extend_from_slice(bytes);
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else { return Vec::new() };
        let rest = self.rest.split_off(end.saturating_add(1));
        let whole = std::mem::replace(&mut self.rest, rest);
        for line in whole.split_inclusive(|byte| *byte == b'\n') {
            self.count = self.count.saturating_add(1);
            let id = line.strip_prefix(b"{\"id\":\"").and_then(|rest| rest.get(..36));
            self.last = id.and_then(|id| std::str::from_utf8(id).ok()).map(str::to_owned).or(self.last.take());
        }
        whole
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_that_breaks_off_ends_with_a_whole_line_and_knows_its_event() {
        let id = "019aa7c1-5d0e-7c44-9b52-0c1f1d6f8a11";
        let line = format!("{{\"id\":\"{id}\",\"route\":\"veedeo\"}}\n");
        let mut lines = WholeLines::default();
        assert_eq!(lines.add(&line.as_bytes()[..20]), b"");
        assert_eq!(lines.last, None);
        assert_eq!(lines.add(&[&line.as_bytes()[20..], b"{\"id\":\"half"].concat()), line.as_bytes());
        assert_eq!((lines.count, lines.last.as_deref()), (1, Some(id)));
        assert_eq!(lines.add(b""), b"");
    }
}

//! `spool stats` and `verify`: what the files hold, and whether it is what was written. Both only read, with or without a
//! gateway beside them.

use serde_json::{Value, json};

use super::args::{Spool, SpoolAsked, SpoolWhat};
use super::output::{bar, bytes, printable, put_json, put_line, put_table, say, short_moment};
use super::status::{open, spool_failure};
use super::{Context, Exit, Failure, Outcome};
use crate::disk::Kept;
use crate::spool::{Damage, Record, SpoolReader, Totals};

/// Names of records that are looked up at once; the records themselves are read one by one.
const PAGE: usize = 1000;

/// Fewer records are read before a bar would be seen.
const NO_BAR: u64 = 1000;

/// `hookgate spool`.
pub(super) fn spool(context: &Context, asked: &Spool) -> Outcome {
    match &asked.what {
        SpoolWhat::Stats(asked) => stats(context, asked),
        SpoolWhat::Verify(asked) => verify(context, asked),
    }
}

fn stats(context: &Context, asked: &SpoolAsked) -> Outcome {
    let (path, capacity) = context.spool(asked.spool.as_deref())?;
    let reader = open(&path)?;
    let totals = reader.totals().map_err(|fault| spool_failure(&fault))?;
    let marks = reader.marks().map_err(|fault| spool_failure(&fault))?;
    let unreadable = |error| Failure::failed(format!("cannot read {}: {error}", path.display()));
    let files = reader.files().map_err(unreadable)?;
    let kept = reader.kept().map_err(unreadable)?;
    let exit = if damaged(&totals) == 0 && kept.is_empty() { Exit::Ok } else { Exit::Damaged };
    if asked.json {
        put_json(&json!({
            "path": path.to_string_lossy(),
            "routes": route_values(&totals),
            "pending": totals.pending(),
            "dead": totals.dead(),
            "damaged": damaged(&totals),
            "bytes": totals.bytes,
            "capacity_bytes": capacity,
            "marks": marks,
            "files": files.iter().map(|(name, bytes)| json!({ "name": name, "bytes": bytes })).collect::<Vec<_>>(),
            "kept": kept.iter().map(kept_value).collect::<Vec<_>>(),
        }))?;
        return Ok(exit);
    }
    let row = |(name, route): (&std::sync::Arc<str>, &crate::disk::RouteTotals)| {
        let counts = [route.pending, route.dead, route.damaged].map(|count| count.to_string());
        std::iter::once(name.to_string()).chain(counts).chain([bytes(route.bytes)]).collect()
    };
    put_table(&["ROUTE", "PENDING", "DEAD", "DAMAGED", "BYTES"], totals.routes.iter().map(row))?;
    let of = capacity.map_or_else(String::new, |capacity| format!(" of {}", bytes(capacity)));
    put_line(&format!(
        "total: {} pending, {} dead, {} damaged, {}{of}",
        totals.pending(),
        totals.dead(),
        damaged(&totals),
        bytes(totals.bytes)
    ))?;
    put_line(&format!("marks of processed events: {marks}"))?;
    files.iter().try_for_each(|(name, length)| put_line(&format!("{name}: {}", bytes(*length))))?;
    kept.iter().try_for_each(|kept| put_line(&printable(&about(kept))))?;
    Ok(exit)
}

fn kept_value(kept: &Kept) -> Value {
    json!({
        "name": kept.name, "bytes": kept.bytes, "unsalvaged": kept.unsalvaged, "events": kept.events,
        "marks": kept.marks, "unreadable_pages": kept.unreadable_pages,
    })
}

/// What to say of a damaged file that was put aside.
fn about(kept: &Kept) -> String {
    let Kept { name, events, marks, unreadable_pages, .. } = kept;
    if name.contains("-wal.") {
        return format!("{name} is the copy of a damaged write-ahead log: look at the disk, then move it away");
    }
    let done = if kept.unsalvaged { "have been taken over so far, and the gateway goes on" } else { "were taken over" };
    format!(
        "{name} is a damaged database: of it {events} events and {marks} marks {done}, {unreadable_pages} pages cannot be read; \
         look at the disk, then move it away"
    )
}

fn route_values(totals: &Totals) -> Vec<Value> {
    let value = |(name, route): (&std::sync::Arc<str>, &crate::disk::RouteTotals)| {
        json!({
            "name": &**name, "pending": route.pending, "dead": route.dead, "damaged": route.damaged,
            "bytes": route.bytes, "oldest_pending": route.oldest_pending.map(|oldest| oldest.to_string()),
        })
    };
    totals.routes.iter().map(value).collect()
}

fn damaged(totals: &Totals) -> u64 {
    totals.routes.values().map(|route| route.damaged).sum()
}

/// What a check has found so far.
#[derive(Debug, Default)]
struct Found {
    read: u64,
    damages: Vec<Damage>,
    /// What is wrong with the file rather than with one record.
    complaints: Vec<String>,
}

fn verify(context: &Context, asked: &SpoolAsked) -> Outcome {
    let (path, _) = context.spool(asked.spool.as_deref())?;
    let reader = open(&path)?;
    let mut found = Found::default();
    match reader.lost_commits() {
        Ok(0) => {}
        Ok(lost) => found.complaints.push(format!("the write-ahead log is damaged, up to {lost} commits are lost")),
        Err(error) => found.complaints.push(format!("the write-ahead log cannot be read: {error}")),
    }
    match reader.kept() {
        Ok(kept) => found.complaints.extend(kept.iter().map(about)),
        Err(error) => found.complaints.push(format!("the spool's directory cannot be read: {error}")),
    }
    records(&reader, &mut found);
    match reader.complaints() {
        Ok(complaints) => found.complaints.extend(complaints),
        Err(fault) => found.complaints.push(fault.to_string()),
    }
    tell(&found, asked.json)?;
    let whole = found.damages.is_empty() && found.complaints.is_empty();
    say(&match (whole, found.damages.len()) {
        (true, _) => format!("{} records read, all of them whole", found.read),
        (false, 0) => format!("{} records read, all of them whole, but the file is damaged", found.read),
        (false, damaged) => format!("{} records read, {damaged} of them damaged", found.read),
    });
    Ok(if whole { Exit::Ok } else { Exit::Damaged })
}

/// Reads every record, each in a read of its own.
fn records(reader: &SpoolReader, found: &mut Found) {
    let count = reader
        .totals()
        .map_or(0, |totals| totals.routes.values().map(|route| route.pending + route.dead + route.damaged).sum());
    let bar = bar(count, NO_BAR);
    let mut after = None;
    loop {
        let names = match reader.names(after, PAGE) {
            Ok(names) => names,
            Err(fault) => {
                let behind = after.map_or_else(String::new, |id| format!(" behind {id}"));
                found.complaints.push(format!("records{behind} cannot be listed: {fault}"));
                break;
            }
        };
        for id in &names {
            match reader.examine(*id) {
                Record::Whole => found.read += 1,
                Record::Damaged(damage) => {
                    found.read += 1;
                    found.damages.push(damage);
                }
                Record::Gone => {}
            }
            bar.inc(1);
        }
        match names.last() {
            Some(last) if names.len() >= PAGE => after = Some(*last),
            Some(_) | None => break,
        }
    }
    bar.finish_and_clear();
}

fn tell(found: &Found, as_json: bool) -> Result<(), Failure> {
    let moment = |damage: &Damage| damage.received_at.map(|at| at.to_string());
    if as_json {
        for damage in &found.damages {
            put_json(&json!({
                "id": damage.id.to_string(), "route": damage.route, "received_at": moment(damage),
                "set_aside": damage.set_aside, "why": damage.why,
            }))?;
        }
        for complaint in &found.complaints {
            put_json(&json!({ "id": null, "why": complaint }))?;
        }
        return Ok(());
    }
    let row = |damage: &Damage| {
        vec![
            moment(damage).map_or_else(String::new, |at| short_moment(&at)),
            printable(damage.route.as_deref().unwrap_or_default()),
            if damage.set_aside { "yes" } else { "no" }.to_owned(),
            printable(&damage.why),
            damage.id.to_string(),
        ]
    };
    put_table(&["RECEIVED", "ROUTE", "SET ASIDE", "WHAT", "ID"], found.damages.iter().map(row))?;
    found.complaints.iter().try_for_each(|complaint| put_line(&printable(complaint)))
}

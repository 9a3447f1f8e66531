//! `status`: what a gateway holds, route by route; of a stopped one, what its spool says.

use std::fs::File;
use std::path::Path;

use serde_json::{Value, json};

use super::admin::{Admin, wait};
use super::args::Status;
use super::output::{bytes, put_json, put_line, put_table, say, span, text};
use super::{Context, Exit, Failure, Outcome};
use crate::disk::DiskFault;
use crate::spool::{Spool, SpoolFault, SpoolReader, Totals};

/// `hookgate status`.
pub(super) fn status(context: &Context, asked: &Status) -> Outcome {
    let (status, exit) = match &asked.source.spool {
        Some(path) => {
            let totals = open(path)?.totals().map_err(|fault| spool_failure(&fault))?;
            (of_totals(context, &totals), damage(&totals))
        }
        None => (wait(Admin::of(context, &asked.source.door)?.get("/api/status"))?, Exit::Ok),
    };
    if asked.json {
        put_json(&status)?;
    } else {
        show(&status)?;
    }
    Ok(exit)
}

/// The spool of a gateway that does not run, or does.
pub(super) fn open(path: &Path) -> Result<SpoolReader, Failure> {
    let file = path.join("hookgate.db");
    if let Err(error) = File::open(&file) {
        return Err(Failure::failed(format!(
            "no spool can be read in {}: {}: {error}",
            path.display(),
            file.display()
        )));
    }
    Spool::open_read_only(path).map_err(|fault| {
        let exit = match &fault {
            DiskFault::Damaged { .. } => Exit::Damaged,
            DiskFault::Locked { .. }
            | DiskFault::Io { .. }
            | DiskFault::Database { .. }
            | DiskFault::NoRoom { .. }
            | DiskFault::TooNew { .. } => Exit::Failed,
        };
        Failure::new(exit, fault.to_string())
    })
}

/// A spool that could not be read.
pub(super) fn spool_failure(fault: &SpoolFault) -> Failure {
    let exit = match fault {
        SpoolFault::Damaged(_) => Exit::Damaged,
        SpoolFault::Full(_) | SpoolFault::Failed(_) => Exit::Failed,
    };
    Failure::new(exit, format!("the spool cannot be read: {fault}"))
}

fn damage(totals: &Totals) -> Exit {
    let damaged: u64 = totals.routes.values().map(|route| route.damaged).sum();
    if damaged == 0 {
        return Exit::Ok;
    }
    say(&format!(
        "hookgate: {damaged} records fail their checksum; they are set aside and not delivered; `hookgate dlq list --damaged` lists them"
    ));
    Exit::Damaged
}

fn of_totals(context: &Context, totals: &Totals) -> Value {
    let now = context.clock.now();
    let routes = totals.routes.iter().map(|(name, route)| {
        json!({
            "name": &**name, "app_up": null, "pending": route.pending, "dead": route.dead,
            "oldest_seconds": route.oldest_pending.map(|oldest| now.since(oldest).as_secs_f64()),
        })
    });
    let dead: u64 = totals.routes.values().map(|route| route.dead).sum();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "routes": routes.collect::<Vec<_>>(),
        "spool": { "pending": totals.pending(), "dead": dead, "bytes": totals.bytes },
        "dedup": { "store": null, "up": null },
    })
}

fn show(status: &Value) -> Result<(), Failure> {
    let routes = status.get("routes").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let row = |route: &Value| {
        let app = match route.get("app_up").and_then(Value::as_bool) {
            Some(true) => "up",
            Some(false) => "down",
            None => "",
        };
        let oldest = route.get("oldest_seconds").and_then(Value::as_f64).map_or_else(String::new, span);
        let number = |name| text(route, name);
        vec![number("name"), app.to_owned(), number("pending"), number("dead"), oldest, number("app_url")]
    };
    put_table(&["ROUTE", "APP", "PENDING", "DEAD", "OLDEST", "APP URL"], routes.iter().map(row))?;
    let of = |table: &str, name: &str| status.get(table).map_or_else(String::new, |table| text(table, name));
    let held = of("spool", "bytes").parse().map_or_else(|_| String::new(), bytes);
    put_line(&format!("spool: {} pending, {} dead, {held}", of("spool", "pending"), of("spool", "dead")))?;
    if !of("dedup", "store").is_empty() {
        let up = if of("dedup", "up") == "true" { "up" } else { "down" };
        put_line(&format!("dedup: {}, {up}", of("dedup", "store")))?;
    }
    Ok(())
}

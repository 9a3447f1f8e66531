//! Many dead letters at once, from the operator's side: counted, asked about, then done call by call with a bar, so that
//! it can be stopped anywhere and says how it is resumed.

use http::Method;
use serde_json::{Value, json};

use super::admin::{Admin, wait};
use super::args::ActOnMany;
use super::dead::dead_filter;
use super::output::{Confirmed, bar, confirmed, put_line, say};
use super::{Context, Exit, Failure, Outcome};

/// Events of one call: a second's work at the usual rate, so that the bar moves and an interruption is near its place.
const CALL: u64 = 500;

/// What is to be done with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Retry,
    Drop,
}

impl Act {
    const fn path(self) -> &'static str {
        match self {
            Self::Retry => "/api/dead-letters/retry",
            Self::Drop => "/api/dead-letters/drop",
        }
    }

    const fn question(self) -> &'static str {
        match self {
            Self::Retry => "deliver again",
            Self::Drop => "destroy",
        }
    }

    const fn done(self) -> &'static str {
        match self {
            Self::Retry => "made due again",
            Self::Drop => "dropped",
        }
    }
}

/// `dlq retry`, `dlq drop`, `replay`.
pub(super) fn act(context: &Context, act: Act, asked: &ActOnMany) -> Outcome {
    let pick = &asked.pick;
    let names_some = !asked.ids.is_empty()
        || [&pick.route, &pick.reason, &pick.since, &pick.until].iter().any(|field| field.is_some())
        || asked.from.is_some();
    if !names_some && !asked.all {
        return Err(Failure::usage("say which: ids, --route, --reason, --since, --until, or --all"));
    }
    let admin = Admin::of(context, &asked.door)?;
    wait(run(&admin, act, asked))
}

async fn run(admin: &Admin, act: Act, asked: &ActOnMany) -> Outcome {
    let count = call(admin, act, asked, &json!({ "dry_run": true, "cursor": asked.from })).await?;
    let matched = count.get("matched").and_then(Value::as_u64).unwrap_or(0);
    let events = if matched == 1 { "1 dead letter".to_owned() } else { format!("{matched} dead letters") };
    if asked.dry_run {
        put_line(&format!("would {} {events}", act.question()))?;
        return Ok(Exit::Ok);
    }
    if matched == 0 {
        let text = "no dead letter is meant by that";
        return if asked.ids.is_empty() { put_line(text).map(|()| Exit::Ok) } else { Err(Failure::failed(text)) };
    }
    if !asked.yes {
        match confirmed(&format!("{} {events}?", act.question()))? {
            Confirmed::Yes => {}
            Confirmed::No => return Err(Failure::failed("nothing was done")),
            Confirmed::NobodyToAsk => {
                return Err(Failure::usage(format!(
                    "{events} would be affected and nobody is there to ask: --yes does it, --dry-run only counts"
                )));
            }
        }
    }
    let done = all(admin, act, asked, matched).await?;
    put_line(&format!("{done} {}", act.done()))?;
    Ok(Exit::Ok)
}

/// Call by call until nothing is left, or until the operator interrupts it.
async fn all(admin: &Admin, act: Act, asked: &ActOnMany, matched: u64) -> Result<u64, Failure> {
    let bar = bar(matched, CALL);
    let mut done = 0_u64;
    let mut cursor = asked.from.clone();
    let mut expected = Some(matched);
    loop {
        let rest = json!({ "limit": CALL, "rate": asked.rate, "cursor": cursor, "expected_count": expected.take() });
        let answer = tokio::select! {
            answer = call(admin, act, asked, &rest) => answer?,
            _ = tokio::signal::ctrl_c() => {
                bar.abandon();
                return Err(interrupted(done, cursor.as_deref()));
            }
        };
        done += answer.get("done").and_then(Value::as_u64).unwrap_or(0);
        bar.set_position(done);
        match answer.get("next").and_then(Value::as_str) {
            Some(next) => cursor = Some(next.to_owned()),
            None => break,
        }
        if bar.is_hidden() {
            say(&format!("{done} of {matched}"));
        }
    }
    bar.finish_and_clear();
    Ok(done)
}

fn interrupted(done: u64, cursor: Option<&str>) -> Failure {
    let how = cursor.map_or_else(String::new, |cursor| format!(": the same command with --from {cursor} goes on"));
    Failure::failed(format!("interrupted after {done}{how}"))
}

/// One call, with the members of `rest` beside the filter.
async fn call(admin: &Admin, act: Act, asked: &ActOnMany, rest: &Value) -> Result<Value, Failure> {
    let mut body = json!({ "filter": dead_filter(&asked.pick, &asked.ids) });
    if let (Some(body), Some(rest)) = (body.as_object_mut(), rest.as_object()) {
        let given = rest.iter().filter(|(_, value)| !value.is_null());
        body.extend(given.map(|(name, value)| (name.clone(), value.clone())));
    }
    admin.act(Method::POST, act.path(), Some(&body)).await
}

//! Many dead letters at once, from the operator's side: counted, asked about, then done by a job of the gateway while a
//! bar shows how far it is. An interruption stops the job; if the command or its terminal just goes away the job goes on.

use std::collections::BTreeSet;
use std::time::Duration;

use http::Method;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::admin::{Admin, encoded, wait};
use super::dead::dead_filter;
use super::many::{ActOnMany, FollowJob};
use super::output::{Confirmed, bar, confirmed, put_json, put_line, put_table, say, short_moment, text};
use super::{Context, Exit, Failure, Outcome};

/// Of fewer events the bar would be gone before it is seen.
pub(super) const FEW: u64 = 500;

/// How often is looked how far the job is, at first and later on.
const LOOK: Duration = Duration::from_millis(50);
const LOOK_LATER: Duration = Duration::from_millis(500);

/// How long a gateway may be away, for a restart, before the command gives up on it. Its job goes on when it is back.
const PATIENCE: Duration = Duration::from_secs(60);

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
}

/// What a job did, by its own word.
fn done(job: &Value) -> String {
    let how = if text(job, "act") == "drop" { "dropped" } else { "made due again" };
    format!("{} {how}", number(job, "done"))
}

fn number(object: &Value, name: &str) -> u64 {
    object.get(name).and_then(Value::as_u64).unwrap_or(0)
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
    if matched == 0 {
        admin.doubt(asked.pick.route.as_deref()).await;
    }
    if asked.dry_run {
        put_line(&format!("would {} {events}", act.question()))?;
        return Ok(Exit::Ok);
    }
    let named: BTreeSet<&String> = asked.ids.iter().filter(|_| asked.from.is_none()).collect();
    let strangers = u64::try_from(named.len()).unwrap_or(u64::MAX).saturating_sub(matched);
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
    let rest = json!({ "job": true, "rate": asked.rate, "cursor": asked.from, "expected_count": matched });
    let job = call(admin, act, asked, &rest).await?;
    if asked.detach {
        say(&format!("the gateway does it; `hookgate dlq job {}` shows how far it is", text(&job, "id")));
        put_line(&text(&job, "id"))?;
    } else {
        follow(admin, job).await?;
    }
    if strangers > 0 {
        let of = asked.ids.len();
        return Err(Failure::failed(format!(
            "{strangers} of the {of} that were named are no dead letters that are meant"
        )));
    }
    Ok(Exit::Ok)
}

/// Shows how far a job is until it has ended, or stops it when the operator interrupts.
async fn follow(admin: &Admin, job: Value) -> Outcome {
    let bar = bar(number(&job, "matched"), FEW);
    let path = format!("/api/jobs/{}", encoded(&text(&job, "id")));
    let ended = tokio::select! {
        ended = until_ended(admin, &path, job, &bar) => ended,
        _ = tokio::signal::ctrl_c() => {
            bar.abandon();
            admin.act(Method::DELETE, &path, None).await
        }
    };
    let job = ended.inspect_err(|_| bar.abandon())?;
    bar.finish_and_clear();
    conclude(&job)
}

/// The job as it ended. A gateway that is away for a while is waited for.
async fn until_ended(admin: &Admin, path: &str, mut job: Value, bar: &ProgressBar) -> Result<Value, Failure> {
    let (began, mut heard) = (Instant::now(), Instant::now());
    while text(&job, "state") == "running" {
        let early = began.elapsed() < LOOK_LATER;
        tokio::time::sleep(if early { LOOK } else { LOOK_LATER }).await;
        match admin.get(path).await {
            Ok(now) => (job, heard) = (now, Instant::now()),
            Err(failure) if failure.exit == Exit::Unreachable && heard.elapsed() < PATIENCE => {}
            Err(failure) => {
                say(
                    "what was done stays done, and the job goes on with the gateway; the same command follows it again",
                );
                return Err(failure);
            }
        }
        bar.set_position(number(&job, "seen"));
    }
    Ok(job)
}

fn conclude(job: &Value) -> Outcome {
    let how = match text(job, "cursor") {
        cursor if cursor.is_empty() => String::new(),
        cursor => format!("; the same command with --from {cursor} goes on"),
    };
    match text(job, "state").as_str() {
        "done" => put_line(&done(job)).map(|()| Exit::Ok),
        "failed" => {
            Err(Failure::failed(format!("{}, then the spool did not go on: {}{how}", done(job), text(job, "error"))))
        }
        _ => Err(Failure::failed(format!("interrupted: {}{how}", done(job)))),
    }
}

/// `dlq job`.
pub(super) fn job(context: &Context, asked: &FollowJob) -> Outcome {
    let admin = Admin::of(context, &asked.door)?;
    wait(async {
        let Some(id) = &asked.id else { return list(&admin, asked.json).await };
        let path = format!("/api/jobs/{}", encoded(id));
        let method = if asked.stop { Method::DELETE } else { Method::GET };
        let job = admin.act(method, &path, None).await?;
        if asked.json {
            put_json(&job)?;
            return Ok(Exit::Ok);
        }
        if asked.stop {
            put_line(&format!("{}: {}", text(&job, "state"), done(&job)))?;
            return Ok(Exit::Ok);
        }
        follow(&admin, job).await
    })
}

async fn list(admin: &Admin, as_json: bool) -> Outcome {
    let found = admin.get("/api/jobs").await?;
    let jobs = found.get("items").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if as_json {
        jobs.iter().try_for_each(put_json)?;
        return Ok(Exit::Ok);
    }
    let row = |job: &Value| {
        let cell = |name| text(job, name);
        vec![short_moment(&cell("began_at")), cell("act"), cell("state"), cell("matched"), cell("done"), cell("id")]
    };
    put_table(&["BEGAN", "ACT", "STATE", "MATCHED", "DONE", "ID"], jobs.iter().map(row))?;
    if jobs.is_empty() {
        say("no jobs");
    }
    Ok(Exit::Ok)
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

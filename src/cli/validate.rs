//! `validate`: all faults of all files at once, then the notes, then a look at the machine that it is meant for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::admin::wait;
use super::args::Validate;
use super::output::{bytes, put, put_json, say};
use super::{Context, Exit, Outcome};
use crate::app::{redis_settings, tls_settings};
use crate::claims::redis::{Server, inspect, look_over};
use crate::config::{Config, ConfigFault, ConfigFaults, Layers, Note, NoteLevel, Store, report};
use crate::gateway::tls::{Tls, TlsFault};

/// Longest wait for the dedup store.
const PATIENCE: Duration = Duration::from_secs(2);

/// `hookgate validate`.
pub(super) fn validate(context: &Context, asked: &Validate) -> Outcome {
    let named = || asked.files.iter().map(|file| Some(file.as_path()));
    let files: Vec<Option<&Path>> =
        if asked.files.is_empty() { vec![context.file.as_deref()] } else { named().collect() };
    let mut exit = Exit::Ok;
    for file in files {
        let read = Layers::read(file, &context.environment).and_then(|layers| {
            let config = layers.check()?;
            let config = with_store(&layers, config)?;
            if asked.no_environment { Ok(config) } else { with_tls(&layers, config) }
        });
        let verdict = match read {
            Ok(config) => accepted(file, config, asked)?,
            Err(faults) => refused(context, file, &faults, asked)?,
        };
        if verdict != Exit::Ok {
            exit = verdict;
        }
    }
    Ok(exit)
}

fn accepted(file: Option<&Path>, mut config: Config, asked: &Validate) -> Outcome {
    let mut spool = None;
    if !asked.no_environment {
        let found = look_at_spool(&config);
        config.notes.extend(found.warning);
        config.notes.extend(look_at_redis(&config));
        spool = Some(found.text);
    }
    let warned = config.notes.iter().any(|note| note.level == NoteLevel::Warn);
    let exit = if warned && asked.deny_warnings { Exit::BadConfiguration } else { Exit::Ok };
    let name = name_of(file, &config);
    if asked.json {
        let notes: Vec<Value> = config.notes.iter().map(report::note_to_json).collect();
        put_json(&json!({ "file": name, "ok": exit == Exit::Ok, "faults": [], "notes": notes }))?;
    } else {
        put(report::accepted(&name, &config, spool.as_deref()).as_bytes())?;
        if exit != Exit::Ok {
            say("hookgate: a warning is a fault here (--deny-warnings)");
        }
    }
    Ok(exit)
}

/// The configuration, if its shared store is one that can be asked.
fn with_store(layers: &Layers, config: Config) -> Result<Config, ConfigFaults> {
    if let Store::Redis(settings) = &config.dedup.store
        && let Err(fault) = look_over(&redis_settings(settings))
    {
        let key = ["dedup", "redis"].map(str::to_owned);
        return Err(layers.wrong_value(&key, format!("unusable: {fault}"), "the way to a Redis".to_owned()));
    }
    Ok(config)
}

/// The configuration, if the files that it names for TLS are in order too.
fn with_tls(layers: &Layers, config: Config) -> Result<Config, ConfigFaults> {
    if let Some(files) = &config.server.tls
        && let Err(TlsFault { path, found, expected }) = Tls::check(&tls_settings(files))
    {
        let found = format!("{}: {found}", path.display());
        return Err(layers.wrong_value(&files.key_of(&path), found, expected.to_owned()));
    }
    Ok(config)
}

fn refused(context: &Context, file: Option<&Path>, faults: &ConfigFaults, asked: &Validate) -> Outcome {
    if asked.json {
        let name = file.map(|file| file.display().to_string());
        let faults: Vec<Value> = faults.iter().map(ConfigFault::to_json).collect();
        put_json(&json!({ "file": name, "ok": false, "faults": faults, "notes": [] }))?;
    } else {
        say(&report::refused(faults, context.look()));
    }
    Ok(Exit::BadConfiguration)
}

fn name_of(file: Option<&Path>, config: &Config) -> String {
    file.or_else(|| config.files.first().map(PathBuf::as_path)).unwrap_or(Path::new("")).display().to_string()
}

/// What was found at `spool.path`.
struct Found {
    text: String,
    warning: Option<Note>,
}

/// Looks whether the spool could be opened there, without opening or creating it.
fn look_at_spool(config: &Config) -> Found {
    let path = &config.spool.path;
    let standing = path.ancestors().find(|part| part.exists()).unwrap_or(Path::new("."));
    let standing = if standing.as_os_str().is_empty() { Path::new(".") } else { standing };
    let writable = rustix::fs::access(standing, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_ok();
    if !writable || !standing.is_dir() {
        let text = format!("{} cannot be written by this user", standing.display());
        return Found { text: "not writable".to_owned(), warning: Some(warning("spool.path", text)) };
    }
    let Ok(disk) = rustix::fs::statvfs(standing) else {
        return Found { text: "writable".to_owned(), warning: None };
    };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let text = format!("writable ({} of {} free)", bytes(config.spool.max_bytes), bytes(free));
    let needed = config.spool.max_bytes.saturating_add(config.spool.min_free_bytes);
    let short = || format!("{} are free there: the disk is full before spool.max_bytes is reached", bytes(free));
    Found { text, warning: (free < needed).then(|| warning("spool.max_bytes", short())) }
}

/// Asks the dedup store, as the gateway would, what it is and what a failure of it would cost.
fn look_at_redis(config: &Config) -> Vec<Note> {
    let Store::Redis(settings) = &config.dedup.store else { return Vec::new() };
    let seen = wait(async { Ok(inspect(redis_settings(settings), PATIENCE).await) });
    let servers = match seen {
        Ok(Ok(servers)) => servers,
        Ok(Err(fault)) => return vec![warning("dedup.redis", fault.to_string())],
        Err(_) => return vec![warning("dedup.redis", "redis could not be asked".to_owned())],
    };
    servers.iter().flat_map(|server| about(server, settings.wait_replicas)).collect()
}

/// What is worth knowing of one server.
fn about(server: &Server, wait_replicas: u32) -> Vec<Note> {
    let Server { address, version, eviction, replicas, appends } = server;
    let version = version.as_deref().unwrap_or("a version it does not say");
    let mut notes = vec![note("dedup.redis", format!("redis at {address} answers ({version})"))];
    if older(version) {
        notes.push(warning("dedup.redis", format!("redis at {address} is {version}; 6.2 or newer is expected")));
    }
    match eviction.as_deref() {
        Some("noeviction") => {}
        Some(policy) => {
            let text =
                format!("redis at {address} gives up keys when its memory is full ({policy}), and with them claims");
            notes.push(warning("dedup.redis", format!("{text}: set maxmemory-policy noeviction")));
        }
        None => {
            let text = format!("redis at {address} does not tell this user whether it evicts keys (command INFO)");
            notes.push(warning("dedup.redis", text));
        }
    }
    notes.extend(at_a_failure(address, *replicas, *appends, wait_replicas));
    notes
}

/// What a failure of the server would cost.
fn at_a_failure(address: &str, replicas: Option<u32>, appends: Option<bool>, wait: u32) -> Option<Note> {
    let again = "an event whose repeat then comes to another gateway is delivered again";
    let key = "dedup.redis.wait_replicas";
    match (replicas?, wait) {
        (there, wait) if wait > there => {
            let text =
                format!("{wait}, and redis at {address} has {there}: no claim counts, and on_store_down decides");
            Some(warning(key, text))
        }
        (0, _) if appends == Some(true) => {
            Some(note(key, format!("redis at {address} has no replica: while it is gone on_store_down decides")))
        }
        (0, _) => {
            let text = format!(
                "redis at {address} has no replica and no log on disk (appendonly): with it all claims are lost;"
            );
            Some(note(key, format!("{text} {again}")))
        }
        (_, 0) => {
            let text = format!(
                "a failover of redis at {address} loses claims that no replica had yet; {again}; 1 closes that window"
            );
            Some(note(key, text))
        }
        (there, wait) => {
            let text = format!(
                "a failover of redis at {address} to one of the {wait} of {there} replicas that had a claim loses none"
            );
            Some(note(key, text))
        }
    }
}

/// Whether a version is older than 6.2.
fn older(version: &str) -> bool {
    let mut parts = version.split('.').map_while(|part| part.parse::<u32>().ok());
    match (parts.next(), parts.next()) {
        (Some(major), Some(minor)) => (major, minor) < (6, 2),
        _ => false,
    }
}

fn note(key: &str, text: String) -> Note {
    Note { level: NoteLevel::Note, key: key.to_owned(), text }
}

fn warning(key: &str, text: String) -> Note {
    Note { level: NoteLevel::Warn, key: key.to_owned(), text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_told_from_an_older_one() {
        for (version, expected) in [("6.0.16", true), ("5.0", true), ("6.2.0", false), ("7.0.15", false), ("x", false)]
        {
            assert_eq!(older(version), expected, "{version}");
        }
    }

    #[test]
    fn what_a_failure_costs_depends_on_replicas_and_the_log() {
        let said =
            |replicas, appends, wait| at_a_failure("h:1", replicas, appends, wait).map(|note| (note.level, note.text));
        assert_eq!(said(None, None, 0), None, "a user who may not ask is told so elsewhere");
        let (level, text) = said(Some(1), Some(false), 2).unwrap_or((NoteLevel::Note, String::new()));
        assert!(level == NoteLevel::Warn && text.contains("no claim counts"), "{text}");
        for (replicas, appends, wait, part) in [
            (0, false, 0, "all claims are lost"),
            (0, true, 0, "has no replica"),
            (1, false, 0, "1 closes that window"),
            (2, false, 1, "loses none"),
        ] {
            let (level, text) = said(Some(replicas), Some(appends), wait).unwrap_or((NoteLevel::Warn, String::new()));
            assert!(level == NoteLevel::Note && text.contains(part), "{text}");
        }
    }
}

//! `validate`: all faults of all files at once, then the notes, then a look at the machine that it is meant for.

use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::args::Validate;
use super::output::{bytes, put, put_json, say};
use super::{Context, Exit, Outcome};
use crate::config::{self, Config, ConfigFault, ConfigFaults, Note, NoteLevel, Store, report};

/// Longest wait for the dedup store.
const PATIENCE: Duration = Duration::from_secs(2);

/// `hookgate validate`.
pub(super) fn validate(context: &Context, asked: &Validate) -> Outcome {
    let named = || asked.files.iter().map(|file| Some(file.as_path()));
    let files: Vec<Option<&Path>> =
        if asked.files.is_empty() { vec![context.file.as_deref()] } else { named().collect() };
    let mut exit = Exit::Ok;
    for file in files {
        let verdict = match config::load(file, &context.environment) {
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

/// Looks whether somebody listens at the dedup store's address. It says nothing to it: the password is the gateway's.
fn look_at_redis(config: &Config) -> Option<Note> {
    let Store::Redis(settings) = &config.dedup.store else { return None };
    let url = String::from_utf8_lossy(settings.url.expose()).into_owned();
    let authority = authority(&url)?;
    let answers = authority.to_socket_addrs().ok().into_iter().flatten();
    let mut answers = answers.map(|address| TcpStream::connect_timeout(&address, PATIENCE));
    if answers.any(|connected| connected.is_ok()) {
        return None;
    }
    Some(warning("dedup.redis.url", format!("nobody answers at {authority}")))
}

/// Host and port of an address, without its user.
fn authority(url: &str) -> Option<String> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?']).next()?;
    let host = authority.rsplit('@').next()?;
    let has_port = host.rsplit(']').next().is_some_and(|tail| tail.contains(':'));
    Some(if has_port { host.to_owned() } else { format!("{host}:6379") })
}

fn warning(key: &str, text: String) -> Note {
    Note { level: NoteLevel::Warn, key: key.to_owned(), text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_password() {
        assert_eq!(authority("redis://user:pass@cache:6380/0").as_deref(), Some("cache:6380"));
        assert_eq!(authority("redis://cache").as_deref(), Some("cache:6379"));
        assert_eq!(authority("redis://[::1]/1").as_deref(), Some("[::1]:6379"));
    }
}

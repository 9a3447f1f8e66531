//! `reload`: a running gateway reads its configuration anew.

use http::Method;
use serde_json::Value;

use super::admin::{Admin, wait};
use super::args::Reload;
use super::output::{put_json, put_line};
use super::{Context, Exit, Outcome};

/// `hookgate reload`. A configuration with faults changes nothing: exit 78.
pub(super) fn reload(context: &Context, asked: &Reload) -> Outcome {
    let admin = Admin::of(context, &asked.door)?;
    let done = wait(admin.act(Method::POST, "/-/reload", None))?;
    if asked.json {
        put_json(&done)?;
        return Ok(Exit::Ok);
    }
    let keys = |name: &str| -> Vec<String> {
        let list = done.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let (changed, restart) = (keys("changed"), keys("needs_restart"));
    put_line(&if changed.is_empty() { "reloaded".to_owned() } else { format!("reloaded: {}", changed.join(", ")) })?;
    if !restart.is_empty() {
        put_line(&format!("waits for a restart: {}", restart.join(", ")))?;
    }
    Ok(Exit::Ok)
}

//! What is said of a panic: where it was and in which thread, never its message. A library's panic may quote what it was
//! given, and that may be what a sender wrote, or a secret.
//!
//! It catches nothing: a panic ends the request or the piece of work that it happened in.

use std::panic::{self, PanicHookInfo};

/// Has every panic of the process told so from now on.
pub(super) fn withhold_messages() {
    panic::set_hook(Box::new(tell));
}

fn tell(panicked: &PanicHookInfo<'_>) {
    let place = panicked.location().map(|place| format!("{}:{}", place.file(), place.line()));
    let thread = std::thread::current();
    tracing::error!(
        place,
        thread = thread.name(),
        "a piece of work ended by a panic, which is a mistake in the gateway: report the place; the message is withheld because it may quote a request"
    );
}

#[cfg(test)]
mod tests {
    use crate::telemetry::logs::tests::said_of;

    /// As long as no other test of this process has panics of its own to tell of.
    #[test]
    fn a_panic_is_told_with_its_place_and_without_its_message() {
        let before = std::panic::take_hook();
        let canary = String::from("canary-panic-7d1e");
        let text = said_of(|| {
            super::withhold_messages();
            let caught = std::panic::catch_unwind(|| {
                // What a library does that cuts a text in the middle of a letter: the message quotes all of it.
                let text = format!("{canary}ä");
                text.split_at(canary.len() + 1).0.len()
            });
            assert!(caught.is_err());
            let caught = std::panic::catch_unwind(|| panic!("a secret: {canary:?}"));
            assert!(caught.is_err());
        });
        std::panic::set_hook(before);
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("json")).collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines.iter().all(|line| line["level"] == "error" && line["place"].as_str().is_some()), "{text}");
        assert!(lines[1]["place"].as_str().is_some_and(|place| place.contains("src/telemetry/panics.rs:")), "{text}");
        assert!(!text.contains("canary"), "{text}");
    }
}

//! What some tests need of the machine: the right to trace and to mount. Where it is missing a test says so in one
//! line and shows nothing; with `CI=true` it fails instead.

use super::clock::environment;

/// What is there, or nothing and a printed reason.
pub(crate) fn given<T>(what: Result<T, String>) -> Option<T> {
    match what {
        Ok(there) => Some(there),
        Err(why) => {
            assert!(environment("CI").is_none_or(|ci| ci != "true"), "this machine cannot run the test: {why}");
            eprintln!("NOT RUN: {why}");
            None
        }
    }
}

//! The `hookgate` command.

use std::process::ExitCode;

/// In place of the system's: many small, short-lived pieces per request, on every thread.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    hookgate::cli::main()
}

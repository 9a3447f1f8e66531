//! The `hookgate` command.

use std::process::ExitCode;

/// In place of the system's: many small, short-lived pieces per request, on every thread. Without huge pages, of which every
/// thread would touch a part: at rest they took two thirds of the process's own memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    hookgate::cli::main()
}

//! What the process asks of the system for itself before it reads a secret: no picture of its memory on any disk, and as
//! many descriptors as it may have. It decides nothing: what is not granted is no reason not to start.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Asks, and says what was refused. It may be asked again.
pub(crate) fn set() -> Vec<String> {
    let core = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let files = getrlimit(Resource::Nofile).maximum;
    let files = setrlimit(Resource::Nofile, Rlimit { current: files, maximum: files });
    let asked = [("no core files", core), ("no core dumps", no_dump()), ("all descriptors", files)];
    let refused = asked.into_iter().filter_map(|(what, granted)| Some(format!("{what}: {}", granted.err()?)));
    refused.collect()
}

/// Programs that are handed the picture get it whatever the limit says; nor may another process of the user look in.
#[cfg(target_os = "linux")]
fn no_dump() -> rustix::io::Result<()> {
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
}

#[cfg(not(target_os = "linux"))]
fn no_dump() -> rustix::io::Result<()> {
    Ok(())
}

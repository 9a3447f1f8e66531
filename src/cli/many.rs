//! What is typed to act on many dead letters at once, and to look after the jobs that do it.

use clap::Args;

use super::args::{Door, Pick};

/// A job of the gateway.
#[derive(Clone, Debug, Args)]
pub(super) struct FollowJob {
    /// Show how far this one is until it has ended; Ctrl-C stops it
    #[arg(value_name = "ID")]
    pub(super) id: Option<String>,
    /// Stop it: what is done stays done
    #[arg(long, requires = "id")]
    pub(super) stop: bool,
    /// Print it as it is, one JSON object a job
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) door: Door,
}

/// An act on the dead letters that are named, or that the filter means. The gateway does it page by page, the oldest first;
/// Ctrl-C stops it, and if this command goes away otherwise it goes on. Begun twice, it is followed twice and done once.
#[derive(Clone, Debug, Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag on the command line")]
pub(super) struct ActOnMany {
    /// Only these events
    #[arg(value_name = "ID")]
    pub(super) ids: Vec<String>,
    #[command(flatten)]
    pub(super) pick: Pick,
    /// All dead letters, where nothing else says which
    #[arg(long)]
    pub(super) all: bool,
    /// Count and do nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Do not ask
    #[arg(long, short = 'y')]
    pub(super) yes: bool,
    /// Most events a second [default: 500 to retry; to drop as many as the disk takes]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) rate: Option<u32>,
    /// Do not wait for the end: print the job's id, for `dlq job`
    #[arg(long, conflicts_with = "dry_run")]
    pub(super) detach: bool,
    /// Go on behind this event: what an interrupted call said
    #[arg(long, value_name = "ID")]
    pub(super) from: Option<String>,
    #[command(flatten)]
    pub(super) door: Door,
}

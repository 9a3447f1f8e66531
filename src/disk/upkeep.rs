//! What the writer does to its connection besides writing: how commits are synced, and pages that are given back.

use rusqlite::Connection;

use super::job::Urgency;

/// Pages given back to the file system in one step: 1 MiB, a few milliseconds that a commit may have to wait.
const VACUUM_PAGES: u32 = 256;
/// Unused pages that are kept for the next events: 16 MiB.
const SPARE_PAGES: i64 = 4096;

/// Whether pages were given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Given {
    /// A step of them; there may be more.
    Some,
    /// There are few to spare.
    Nothing,
}

/// Gives a step of unused pages back to the file system, if there are many.
pub(super) fn give_back(conn: &Connection, synced: &mut Option<&'static str>) -> rusqlite::Result<Given> {
    let unused: i64 = conn.query_row("PRAGMA freelist_count", [], |row| row.get(0))?;
    if unused <= SPARE_PAGES {
        return Ok(Given::Nothing);
    }
    sync_for(conn, Urgency::Lazy, synced)?;
    let mut step = conn.prepare_cached(&format!("PRAGMA incremental_vacuum({VACUUM_PAGES})"))?;
    let mut rows = step.query([])?;
    while rows.next()?.is_some() {}
    Ok(Given::Some)
}

/// Sets how a commit is synced, if that changes.
pub(super) fn sync_for(conn: &Connection, urgency: Urgency, synced: &mut Option<&'static str>) -> rusqlite::Result<()> {
    let level = match urgency {
        Urgency::Lazy | Urgency::Prompt => "NORMAL",
        Urgency::Patient | Urgency::Durable => "FULL",
    };
    if *synced != Some(level) {
        conn.pragma_update(None, "synchronous", level)?;
        *synced = Some(level);
    }
    Ok(())
}

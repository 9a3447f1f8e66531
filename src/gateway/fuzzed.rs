//! What the fuzz targets reach of the gateway's own readers. It is no interface: nothing else uses it.

use super::head::{self, Framing};
use super::site::{Destination, Site};
use crate::domain::chunks::Chunks;

/// A head that comes in two pieces, the first `cut` bytes long: how long it is and how long its body, `None` for chunks.
/// Nothing if it is refused or not complete.
#[must_use]
pub fn head(bytes: &[u8], cut: usize) -> Option<(usize, Option<u64>)> {
    let first = bytes.get(..cut)?;
    let end = match head::end(first, 0).ok()? {
        Some(end) => end,
        None => head::end(bytes, cut).ok()??,
    };
    let judged = head::judge(bytes.get(..end)?).ok()?;
    let length = match judged.framing {
        Framing::Length(length) => Some(length),
        Framing::Chunked => None,
    };
    Some((end, length))
}

/// A body by chunks that comes in pieces of `size`: how long it is, framing included. Nothing if it is malformed or not
/// complete.
#[must_use]
pub fn chunks(bytes: &[u8], size: usize) -> Option<usize> {
    let mut chunks = Chunks::new();
    let mut read = 0;
    for piece in bytes.chunks(size.max(1)) {
        read += chunks.read(piece).ok()?;
        if chunks.is_done() {
            return Some(read);
        }
    }
    None
}

/// Whether a request for `path` goes to the application unverified.
#[must_use]
pub fn passes(site: &Site, path: &str) -> bool {
    matches!(site.find(path), Destination::Passthrough)
}

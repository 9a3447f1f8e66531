//! Marks side by side in one value, as they stand on disk: 40 bytes each, sorted or as they came. It knows no table.
//!
//! A mark: the slot and the fingerprint, 16 bytes each; then, in eight bytes, the most significant first, the moment of
//! its end in milliseconds, doubled, plus one if the event was only perhaps processed.

use super::fault::JobFault;
use super::marks::MarkKind;
use crate::domain::key::EventKey;
use crate::domain::time::Timestamp;

/// Bytes of one mark.
pub(super) const BYTES: usize = 40;

/// Marks in one row: as many as fit on a page of the database beside its headers.
pub(super) const IN_A_ROW: usize = 100;

/// The last moment that can be written down: the year 73,000,000.
const LAST: i64 = i64::MAX >> 2;

/// What is known of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) kind: MarkKind,
    pub(super) expires_at: Timestamp,
}

/// One mark.
pub(super) type Entry = (EventKey, Known);

impl Known {
    /// What is true if both are: that it was processed says more than that it perhaps was, and a later end more than
    /// an earlier one.
    pub(super) fn and(self, other: Self) -> Self {
        match (self.kind, other.kind) {
            (MarkKind::Processed, MarkKind::Perhaps) => self,
            (MarkKind::Perhaps, MarkKind::Processed) => other,
            (MarkKind::Processed, MarkKind::Processed) | (MarkKind::Perhaps, MarkKind::Perhaps) => {
                if other.expires_at > self.expires_at { other } else { self }
            }
        }
    }

    /// Whether this takes the place of what was known before, at `now`: all but a doubt about what is certain.
    pub(super) fn replaces(self, before: Self, now: Timestamp) -> bool {
        self.kind == MarkKind::Processed || before.kind == MarkKind::Perhaps || before.expires_at <= now
    }
}

/// The value that holds these marks.
pub(super) fn pack(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(entries.len() * BYTES);
    for (key, known) in entries {
        bytes.extend_from_slice(&key.slot);
        bytes.extend_from_slice(&key.fingerprint);
        let doubt = match known.kind {
            MarkKind::Processed => 0,
            MarkKind::Perhaps => 1,
        };
        let end = known.expires_at.millis().clamp(-LAST, LAST) << 1 | doubt;
        bytes.extend_from_slice(&end.to_be_bytes());
    }
    bytes
}

/// The marks of a value.
pub(super) fn unpack(bytes: &[u8]) -> Result<Vec<Entry>, JobFault> {
    let (marks, rest) = bytes.as_chunks::<BYTES>();
    if !rest.is_empty() || marks.is_empty() {
        return Err(JobFault::Damaged(format!("{} bytes hold no whole number of marks", bytes.len())));
    }
    Ok(marks.iter().map(entry).collect())
}

/// The marks of one slot in a value whose marks are sorted.
pub(super) fn of_slot<'a>(bytes: &'a [u8], slot: &'a [u8; 16]) -> impl Iterator<Item = Entry> + 'a {
    let marks = bytes.as_chunks::<BYTES>().0;
    let from = marks.partition_point(|mark| mark.as_slice() < slot.as_slice());
    marks.iter().skip(from).map(entry).take_while(move |(key, _)| key.slot == *slot)
}

fn entry(mark: &[u8; BYTES]) -> Entry {
    let end = i64::from_be_bytes(part(mark, 32));
    let kind = if end & 1 == 0 { MarkKind::Processed } else { MarkKind::Perhaps };
    let key = EventKey { slot: part(mark, 0), fingerprint: part(mark, 16) };
    (key, Known { kind, expires_at: Timestamp::from_millis(end >> 1) })
}

fn part<const N: usize>(mark: &[u8; BYTES], at: usize) -> [u8; N] {
    mark.get(at..at + N).and_then(|part| part.try_into().ok()).unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(number: u8, kind: MarkKind, millis: i64) -> Entry {
        let key = EventKey { slot: [number; 16], fingerprint: [255 - number; 16] };
        (key, Known { kind, expires_at: Timestamp::from_millis(millis) })
    }

    #[test]
    fn what_is_packed_comes_out_as_it_was() {
        let marks = [
            mark(0, MarkKind::Processed, 1_760_000_000_123),
            mark(1, MarkKind::Perhaps, 0),
            mark(1, MarkKind::Processed, -5),
            mark(255, MarkKind::Perhaps, LAST),
        ];
        let bytes = pack(&marks);
        assert_eq!(bytes.len(), 4 * BYTES);
        assert_eq!(unpack(&bytes).unwrap(), marks);
        assert_eq!(of_slot(&bytes, &[1; 16]).collect::<Vec<_>>(), marks[1..3]);
        assert_eq!(of_slot(&bytes, &[2; 16]).count(), 0);
        let at_the_end = pack(&[mark(3, MarkKind::Perhaps, i64::MAX)]);
        assert_eq!(unpack(&at_the_end).unwrap(), [mark(3, MarkKind::Perhaps, LAST)]);
    }

    #[test]
    fn half_a_mark_is_damage() {
        let bytes = pack(&[mark(1, MarkKind::Processed, 7)]);
        for wrong in [&bytes[..0], &bytes[..39], &[bytes.as_slice(), &[0]].concat()] {
            assert!(matches!(unpack(wrong), Err(JobFault::Damaged(_))), "{} bytes", wrong.len());
        }
    }

    #[test]
    fn a_doubt_never_takes_the_place_of_what_is_certain_and_counts() {
        let now = Timestamp::from_millis(10);
        let known = |kind, millis| Known { kind, expires_at: Timestamp::from_millis(millis) };
        let (certain, doubt) = (known(MarkKind::Processed, 20), known(MarkKind::Perhaps, 30));
        assert!(certain.replaces(doubt, now) && certain.replaces(certain, now) && doubt.replaces(doubt, now));
        assert!(!doubt.replaces(certain, now));
        assert!(doubt.replaces(known(MarkKind::Processed, 10), now), "it counts no more");
        assert_eq!((certain.and(doubt), doubt.and(certain)), (certain, certain));
        assert_eq!(certain.and(known(MarkKind::Processed, 40)), known(MarkKind::Processed, 40));
    }
}

//! Any bytes as what comes over a connection of HTTP/2: the count is the same however they come, and the same as that of the
//! plainest of readers, which has all of it at once.

#![no_main]

use hookgate::gateway::fuzzed;
use libfuzzer_sys::fuzz_target;

const PREFACE: usize = 24;

/// The heads of frames: length, type, flags and stream, and whether all of the payload is there.
fn frames(mut bytes: &[u8]) -> Vec<(usize, u8, u8, u32, bool)> {
    let mut all = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<9>() {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        all.push((length, head[3], head[4], stream, rest.len() >= length));
        bytes = rest.get(length..).unwrap_or_default();
    }
    all
}

fuzz_target!(|data: &[u8]| {
    let Some((size, bytes)) = data.split_first() else { return };
    let (requests, excess, head) = fuzzed::frames(bytes, bytes.len());
    assert_eq!(fuzzed::frames(bytes, usize::from(*size)), (requests, excess, head), "in pieces of {size}");
    let seen = frames(bytes.get(PREFACE..).unwrap_or_default());
    let (mut newest, mut begun, mut coming) = (0, 0, false);
    let (mut empty, mut most_empty) = (0, 0);
    let mut count = [0_u64; 256];
    for &(length, kind, flags, stream, whole) in &seen {
        count[usize::from(kind)] += 1;
        if kind == 1 && stream > newest {
            (newest, begun) = (stream, begun + 1);
        }
        if kind == 1 || (kind == 9 && coming) {
            // The last frame of a head ends it once all of it is there.
            coming = flags & 4 == 0 || !whole;
        }
        if matches!(kind, 0 | 1 | 9) {
            let ends = flags & if kind == 0 { 1 } else { 4 } != 0;
            empty = if length == 0 && !ends { empty + 1 } else { 0 };
            most_empty = most_empty.max(empty);
        }
    }
    assert_eq!(requests, begun);
    assert_eq!(head, coming, "{seen:?}");
    let over = |count: u64, most: u64| count > most;
    let (priorities, resets) = (count[2], count[3]);
    match excess {
        None => {
            assert!(
                !over(most_empty, 1) && !over(priorities, 100 * (1 + begun)) && !over(resets, (begun / 2).max(200))
            );
        }
        Some("empty_frames") => assert!(over(most_empty, 1)),
        Some("priority_frames") => assert!(over(priorities, 100)),
        Some("window_updates") => assert!(over(count[8], 5)),
        Some("control_frames") => assert!(seen.len() > 1000),
        Some("resets") => assert!(over(resets, 200)),
        Some(other) => panic!("{other} is no excess"),
    }
});

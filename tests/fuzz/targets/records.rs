//! Any bytes as a record of the spool: its headers are none or come back the same, and an event that was written comes back as
//! it was or, if a byte of it changed on disk, not at all.

#![no_main]

use hookgate::spool::fuzzed::{self, Read};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    assert!(fuzzed::headers(data));
    let Some((&[part, at, flip], bytes)) = data.split_first_chunk::<3>() else { return };
    let change = |parts: &mut [Vec<u8>]| {
        let part = &mut parts[usize::from(part) % 9];
        let at = usize::from(at) % part.len().max(1);
        part.get_mut(at).map(|byte| *byte ^= flip).is_some() && flip != 0
    };
    let (changed, read) = fuzzed::record(bytes, change);
    assert_eq!(read, if changed { Read::Refused } else { Read::Same });
});

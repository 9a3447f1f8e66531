//! Any bytes as a body by chunks, in pieces of any size: the end is the same however they come, and what is taken reads the
//! same by the plainest of decoders.

#![no_main]

use hookgate::gateway::fuzzed;
use libfuzzer_sys::fuzz_target;

/// A line without its end, and what follows it.
fn line(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n").expect("a line ends");
    let (line, rest) = bytes.split_at(end);
    assert!(!line.contains(&b'\n') && !line.contains(&b'\r') && !line.contains(&0));
    (line, &rest[2..])
}

fuzz_target!(|data: &[u8]| {
    let Some((size, bytes)) = data.split_first() else { return };
    let whole = fuzzed::chunks(bytes, bytes.len());
    assert_eq!(fuzzed::chunks(bytes, usize::from(*size)), whole);
    let Some(length) = whole else { return };
    let mut rest = &bytes[..length];
    loop {
        let (size, after) = line(rest);
        let digits = size.split(|byte| *byte == b';').next().expect("a first part");
        assert!(digits.iter().all(u8::is_ascii_hexdigit));
        let size = usize::from_str_radix(std::str::from_utf8(digits).expect("digits"), 16).expect("a size");
        if size == 0 {
            rest = after;
            break;
        }
        assert_eq!(&after[size..size + 2], b"\r\n");
        rest = &after[size + 2..];
    }
    loop {
        let (trailer, after) = line(rest);
        rest = after;
        if trailer.is_empty() {
            break;
        }
        let colon = trailer.iter().position(|byte| *byte == b':').expect("a name and a value");
        let name = trailer[..colon].to_ascii_lowercase();
        assert!(!name.is_empty() && name != b"content-length" && name != b"transfer-encoding" && name != b"host");
    }
    assert!(rest.is_empty());
});

//! Any bytes as a request's head, in one piece or two: what is let in, a general parser reads to the same end, with one
//! Host and the same framing.

#![no_main]

use hookgate::gateway::fuzzed;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((cut, bytes)) = data.split_first() else { return };
    let Some((end, length)) = fuzzed::head(bytes, bytes.len()) else { return };
    let cut = usize::from(*cut).min(bytes.len());
    assert_eq!(fuzzed::head(bytes, cut), Some((end, length)), "in two pieces");
    let mut headers = [httparse::EMPTY_HEADER; 300];
    let mut request = httparse::Request::new(&mut headers);
    let parsed = request.parse(&bytes[..end]).expect("what is let in can be parsed");
    assert_eq!(parsed, httparse::Status::Complete(end));
    assert!(!["CONNECT", "TRACE"].contains(&request.method.expect("a method")));
    let path = request.path.expect("a target");
    assert!(path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#'), "{path}");
    let all = |name: &str| -> Vec<Vec<u8>> {
        let lines = request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
        lines.map(|header| header.value.to_vec()).collect()
    };
    assert_eq!(all("host").len(), 1);
    assert!(all("upgrade").is_empty());
    let (lengths, codings) = (all("content-length"), all("transfer-encoding"));
    match length {
        None => assert!(lengths.is_empty() && codings == [b"chunked"] && request.version == Some(1)),
        Some(length) => {
            assert!(codings.is_empty() && lengths.len() <= 1);
            assert_eq!(lengths.first().map_or(b"0".to_vec(), Clone::clone), length.to_string().into_bytes());
        }
    }
});

//! Any bytes where a JSON web token stands: never a panic, never accepted; and no byte of a good one can be another.

#![no_main]

mod common;

use std::sync::OnceLock;

use hookgate::domain::scheme::{Key, Scheme, Unsigned};
use http::HeaderValue;
use libfuzzer_sys::fuzz_target;

static LIVEKIT: OnceLock<(Scheme, Key, Unsigned)> = OnceLock::new();

fn livekit() -> (Scheme, Key, Unsigned) {
    let (scheme, key) = common::builtin("livekit").expect("a built-in");
    let mut request = common::request(b"{}", "application/json");
    scheme.sign(&mut request, &common::secret(), common::NOW).expect("a token");
    (scheme, key, request)
}

fuzz_target!(|data: &[u8]| {
    let (scheme, key, good) = LIVEKIT.get_or_init(livekit);
    let token = good.headers.get("authorization").expect("a token").as_bytes();
    let mut written = data.to_vec();
    if let [b'~', at, byte, ..] = data {
        written = token.to_vec();
        let at = usize::from(*at) % written.len();
        written[at] = *byte;
    }
    let Ok(value) = HeaderValue::from_bytes(&written) else { return };
    let mut request = good.clone();
    request.headers.insert("authorization", value);
    let accepted = scheme.verify(common::received(request), &[(0, key)], None).is_ok();
    assert!(!accepted || written == token);
});

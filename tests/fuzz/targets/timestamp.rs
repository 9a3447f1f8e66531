//! Any bytes as a timestamp beside a right signature: what is accepted is digits within the tolerance, or RFC 3339.

#![no_main]

mod common;

use std::sync::OnceLock;

use hookgate::domain::refusal::Refusal;
use hookgate::domain::scheme::{Key, RawScheme, Scheme};
use http::HeaderValue;
use libfuzzer_sys::fuzz_target;

static SCHEMES: OnceLock<Vec<(Scheme, Key)>> = OnceLock::new();

fn schemes() -> Vec<(Scheme, Key)> {
    let all = ["s", "ms", "rfc3339", "rfc3339-utc"].iter().filter_map(|unit| {
        let raw: RawScheme = serde_json::from_value(serde_json::json!({
            "signature": { "header": "X-Signature", "encoding": "hex" },
            "timestamp": { "from": "header:X-Time", "unit": unit, "tolerance": 300 },
        }))
        .ok()?;
        let scheme = Scheme::compile(&raw).ok()?;
        let key = scheme.prepare(&common::secret()).ok()?;
        Some((scheme, key))
    });
    all.collect()
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, text)) = data.split_first() else { return };
    let unit = usize::from(*choice) % 4;
    let (scheme, key) = &SCHEMES.get_or_init(schemes)[unit];
    let mut request = common::request(b"{}", "application/json");
    scheme.sign(&mut request, &common::secret(), common::NOW).expect("a header's signature");
    let Ok(value) = HeaderValue::from_bytes(text) else { return };
    request.headers.insert("x-time", value);
    let checked = scheme
        .verify(common::received(request), &[(0, key)], None)
        .map_err(Refusal::from)
        .and_then(|verified| scheme.check_freshness(&verified, common::NOW));
    if checked.is_err() {
        return;
    }
    let text = std::str::from_utf8(text).expect("only text is a time");
    match unit {
        0 | 1 => {
            assert!(text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0'), "{text}");
            let count: i64 = text.parse().expect("a number");
            let seconds = if unit == 0 { count } else { count / 1000 };
            assert!((seconds - 1_760_000_000).abs() <= 300, "{text}");
        }
        _ => assert!(text.starts_with("2025-10-") && text.len() >= 19, "{text}"),
    }
});

//! Any bytes in the signature's headers of any provider: never a panic, never accepted.

#![no_main]

mod common;

use std::sync::OnceLock;

use hookgate::config::builtin;
use hookgate::domain::scheme::{Key, Scheme};
use http::{HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;

static SCHEMES: OnceLock<Vec<(Scheme, Key, Vec<HeaderName>)>> = OnceLock::new();

/// Every header that the scheme looks at, the signature's among them.
fn schemes() -> Vec<(Scheme, Key, Vec<HeaderName>)> {
    let all = builtin::names().filter_map(|name| {
        let (scheme, key) = common::builtin(name)?;
        let mut request = common::request(b"{}", "application/json");
        scheme.sign(&mut request, &common::secret(), common::NOW).ok()?;
        let names = request.headers.keys().filter(|name| scheme.guards(name)).cloned().collect();
        Some((scheme, key, names))
    });
    all.collect()
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, data)) = data.split_first() else { return };
    let schemes = SCHEMES.get_or_init(schemes);
    let (scheme, key, names) = &schemes[usize::from(*choice) % schemes.len()];
    let mut request = common::request(b"{}", "application/json");
    for (name, value) in names.iter().zip(data.split(|byte| *byte == 0)) {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            request.headers.append(name.clone(), value);
        }
    }
    assert!(scheme.verify(common::received(request), &[(0, key)], Some(common::URL)).is_err());
});

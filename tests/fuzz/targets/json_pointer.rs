//! Any body and any pointer: what is found is what a general JSON reader finds there.

#![no_main]

use hookgate::domain::scheme::json_scalar;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let mut halves = data.splitn(2, |byte| *byte == 0);
    let (Some(pointer), Some(body)) = (halves.next(), halves.next()) else { return };
    let Ok(pointer) = std::str::from_utf8(pointer) else { return };
    let Some(found) = json_scalar(body, pointer) else { return };
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    // A general reader may refuse numbers that it cannot hold; ours are never computed with.
    let Ok(value) = serde_json::from_slice::<Value>(body) else { return };
    match value.pointer(pointer) {
        Some(Value::String(text)) => assert_eq!(*text, found),
        Some(Value::Bool(truth)) => assert_eq!(truth.to_string(), found),
        Some(Value::Number(number)) => {
            // The general reader rounds its own way: the last digit may differ.
            let same: f64 = found.parse().expect("a number");
            let close = |number: f64| number == same || (number - same).abs() <= same.abs() * 1e-14;
            assert!(number.as_f64().is_some_and(close), "{number} {found}");
        }
        other => panic!("{found:?} was found where there is {other:?}"),
    }
});

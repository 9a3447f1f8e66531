//! Any form: signed, it is accepted; with its fields in another order too; with one byte more it is not.

#![no_main]

mod common;

use std::sync::OnceLock;

use hookgate::domain::scheme::{Key, Scheme, Unsigned};
use libfuzzer_sys::fuzz_target;

static TWILIO: OnceLock<(Scheme, Key)> = OnceLock::new();

fuzz_target!(|body: &[u8]| {
    let (scheme, key) = TWILIO.get_or_init(|| common::builtin("twilio").expect("a built-in"));
    let mut request = common::request(body, "application/x-www-form-urlencoded");
    if scheme.sign(&mut request, &common::secret(), common::NOW).is_err() {
        assert!(body.iter().filter(|byte| **byte == b'&').count() >= 4096, "only too many fields cannot be signed");
        return;
    }
    let accepts =
        |request: &Unsigned| scheme.verify(common::received(request.clone()), &[(0, key)], Some(common::URL)).is_ok();
    assert!(accepts(&request));
    let mut fields: Vec<&[u8]> = body.split(|byte| *byte == b'&').collect();
    fields.reverse();
    assert!(accepts(&Unsigned { body: fields.join(&b'&').into(), ..request.clone() }));
    let more = [body, b"&zz=1".as_slice()].concat();
    let repeated = body.windows(4).any(|window| window == b"zz=1")
        || body.windows(3).any(|window| window == b"%7A" || window == b"%7a");
    assert!(repeated || !accepts(&Unsigned { body: more.into(), ..request }));
});

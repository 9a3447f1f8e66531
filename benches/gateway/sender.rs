//! Makes events: each with a task of its own and signed anew, at the price of one short hash.
//!
//! The varying bytes stand at the end of the body, behind a part that is hashed once a second. So a body of 256 KiB costs
//! the generator no more than one of 1 KiB, while whoever checks it has to hash all of it.

use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

pub(crate) const SECRET: &str = "bench-secret-0123456789abcdef";
/// Sixteen digits and the end of the JSON.
pub(crate) const TAIL: usize = 18;

/// What the events of one second have in common.
pub(crate) struct Common {
    second: u64,
    /// The head with a place for the signature.
    head: Vec<u8>,
    /// Where the signature stands in the head.
    signature_at: usize,
    /// The body but for its tail.
    pub(crate) body: Vec<u8>,
    mac: Hmac<Sha256>,
}

pub(crate) struct Sender {
    path: String,
    bytes: usize,
    keep_alive: bool,
    run: u64,
    number: u64,
    common: Rc<Common>,
}

/// One event as it is written: head, the common body, the tail.
pub(crate) struct Request {
    pub(crate) head: Vec<u8>,
    pub(crate) common: Rc<Common>,
    pub(crate) tail: [u8; TAIL],
}

impl Sender {
    pub(crate) fn new(path: &str, bytes: usize, keep_alive: bool) -> Self {
        let run = u64::try_from(now().as_nanos() & u128::from(u64::MAX)).unwrap_or(0);
        let common = Rc::new(Common::new(path, bytes, keep_alive, run));
        Self { path: path.to_owned(), bytes, keep_alive, run, number: 0, common }
    }

    /// Writes the next event over an old one.
    pub(crate) fn next(&mut self, request: &mut Request) {
        self.number += 1;
        // Asked of the clock now and then: a time of a second ago is as fresh.
        if self.number.is_multiple_of(64) && self.common.second != now().as_secs() {
            self.common = Rc::new(Common::new(&self.path, self.bytes, self.keep_alive, self.run));
        }
        if !Rc::ptr_eq(&request.common, &self.common) {
            request.common = self.common.clone();
            request.head.clone_from(&self.common.head);
        }
        let mut number = self.number;
        for digit in request.tail[..16].iter_mut().rev() {
            *digit = b"0123456789abcdef"[(number & 15) as usize];
            number >>= 4;
        }
        let mut mac = self.common.mac.clone();
        mac.update(&request.tail);
        let at = self.common.signature_at;
        data_encoding::HEXLOWER.encode_mut(&mac.finalize().into_bytes(), &mut request.head[at..at + 64]);
    }

    pub(crate) fn first(&mut self) -> Request {
        let mut tail = [b'0'; TAIL];
        tail[16..].copy_from_slice(b"\"}");
        let mut request = Request { head: self.common.head.clone(), common: self.common.clone(), tail };
        self.next(&mut request);
        request
    }
}

impl Common {
    fn new(path: &str, bytes: usize, keep_alive: bool, run: u64) -> Self {
        let now = now().as_secs();
        let stamp = jiff::Timestamp::from_second(now.cast_signed()).expect("a time");
        let mut body = format!(r#"{{"event":"task.completed","timestamp":"{stamp}","data":{{"pad":""#).into_bytes();
        let end = format!(r#""}},"task_id":"tsk_{run:x}_"#);
        let pad = bytes.saturating_sub(body.len() + end.len() + TAIL);
        body.extend(std::iter::repeat_n(b'x', pad));
        body.extend_from_slice(end.as_bytes());
        let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("a key");
        mac.update(&body);
        let start = format!(
            "POST {path} HTTP/1.1\r\nHost: hooks.example\r\nUser-Agent: bench/1\r\nAccept: */*\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nX-Veedeo-Timestamp: {now}\r\nX-Veedeo-Signature: sha256=",
            body.len() + TAIL
        );
        let signature_at = start.len();
        let close = if keep_alive { "" } else { "Connection: close\r\n" };
        let head = format!("{start}{:064}\r\n{close}\r\n", 0).into_bytes();
        Self { second: now, head, signature_at, body, mac }
    }
}

fn now() -> std::time::Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970")
}

//! The requests refused last, whole, so that an operator can ask why: a ring in memory, gone with the process. It is
//! never written to disk, and a request that was accepted never comes near it.
//!
//! Bounds: [`MOST_REQUESTS`] requests and [`MOST_BYTES`] of targets, headers and bodies together, the oldest go first; a body
//! longer than [`LONGEST_BODY`] is left out. What it holds shows in `hookgate_refused_kept_bytes`. Whoever sends refused
//! requests in numbers pushes older ones out: it is a look at the last ones, no record.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::HeaderValue;

use crate::domain::headers::Headers;
use crate::domain::inbound::Inbound;
use crate::domain::refusal::Refusal;
use crate::domain::scheme::Refused;
use crate::domain::time::Timestamp;
use crate::telemetry::Metrics;

/// Most requests kept.
const MOST_REQUESTS: usize = 64;
/// Most bytes of targets, headers and bodies kept, all requests together.
const MOST_BYTES: usize = 8 * 1024 * 1024;
/// Longest body kept, in bytes.
const LONGEST_BODY: usize = 1024 * 1024;

/// A request that was refused.
#[derive(Clone, Debug)]
pub struct KeptRefusal {
    /// Its `X-Request-Id`, by which it is asked for.
    pub request_id: String,
    /// The route that refused it.
    pub route: Arc<str>,
    /// Why it was refused.
    pub refusal: Refusal,
    /// When it was checked.
    pub checked_at: Timestamp,
    /// The request; without its body if that is too long to be kept.
    pub inbound: Inbound,
    /// Length of the body as it came, in bytes.
    pub body_bytes: usize,
}

impl KeptRefusal {
    /// Whether the body is there.
    #[must_use]
    pub fn has_its_body(&self) -> bool {
        self.inbound.body.len() == self.body_bytes
    }

    fn bytes(&self) -> usize {
        let Inbound { path, query, headers, body, authority, .. } = &self.inbound;
        let headers = headers.iter().map(|(name, value)| name.as_str().len() + value.len());
        let target = path.len() + query.as_ref().map_or(0, String::len) + authority.len();
        body.len() + headers.sum::<usize>() + target
    }
}

/// The ring. Clones share it: the gateway keeps, the admin listener finds. The lock is held for one of either, never
/// across an await, and only for requests that are refused.
#[derive(Clone)]
pub(crate) struct Refusals {
    ring: Arc<Mutex<Ring>>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Ring {
    kept: VecDeque<Arc<KeptRefusal>>,
    bytes: usize,
}

impl Refusals {
    /// An empty ring.
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self { ring: Arc::default(), metrics }
    }

    /// Keeps a request; the oldest go where a bound is reached.
    pub(crate) fn keep(&self, route: &Arc<str>, request_id: &str, checked_at: Timestamp, refused: Refused) {
        let body_bytes = refused.inbound.body.len();
        let kept = KeptRefusal {
            request_id: request_id.to_owned(),
            route: route.clone(),
            refusal: refused.refusal,
            checked_at,
            inbound: detached(*refused.inbound),
            body_bytes,
        };
        let gone = self.ring.lock().unwrap_or_else(PoisonError::into_inner).push(kept, &self.metrics);
        drop(gone);
    }

    /// The newest refusal of this request id, or the newest of all.
    pub(crate) fn find(&self, request_id: Option<&str>) -> Option<Arc<KeptRefusal>> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let mut newest = ring.kept.iter().rev();
        newest.find(|kept| request_id.is_none_or(|wanted| kept.request_id == wanted)).cloned()
    }
}

impl Ring {
    /// Returns what had to go.
    fn push(&mut self, refusal: KeptRefusal, metrics: &Metrics) -> Vec<Arc<KeptRefusal>> {
        self.bytes += refusal.bytes();
        self.kept.push_back(Arc::new(refusal));
        let mut gone = Vec::new();
        while self.kept.len() > MOST_REQUESTS || self.bytes > MOST_BYTES {
            let Some(oldest) = self.kept.pop_front() else { break };
            self.bytes = self.bytes.saturating_sub(oldest.bytes());
            gone.push(oldest);
        }
        metrics.refused_kept_bytes.set(i64::try_from(self.bytes).unwrap_or(i64::MAX));
        gone
    }
}

/// The request in memory of its own: what came off the wire lies in larger buffers, which it would keep alive.
fn detached(mut inbound: Inbound) -> Inbound {
    let mut headers = Headers::with_capacity(inbound.headers.len());
    for (name, value) in &inbound.headers {
        if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
            headers.append(name.clone(), value);
        }
    }
    inbound.headers = headers;
    let kept = inbound.body.len() <= LONGEST_BODY;
    inbound.body = if kept { Bytes::copy_from_slice(&inbound.body) } else { Bytes::new() };
    inbound
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use http::Method;

    use super::*;

    fn refused(body: usize) -> Inbound {
        Inbound {
            method: Method::POST,
            path: String::new(),
            query: None,
            headers: Headers::new(),
            body: Bytes::from(vec![b'x'; body]),
            authority: String::new(),
            https: false,
            remote: IpAddr::V4(Ipv4Addr::LOCALHOST),
        }
    }

    fn ring() -> (Refusals, Arc<Metrics>) {
        let metrics = Arc::new(Metrics::new(&[]).unwrap());
        (Refusals::new(metrics.clone()), metrics)
    }

    fn keep(ring: &Refusals, id: &str, body: usize) {
        let refused = Refused { refusal: Refusal::SignatureMismatch, inbound: Box::new(refused(body)) };
        ring.keep(&"r".into(), id, Timestamp::from_seconds(1), refused);
    }

    #[test]
    fn the_newest_is_found_and_each_by_its_id() {
        let (ring, _) = ring();
        assert!(ring.find(None).is_none());
        keep(&ring, "a", 1);
        keep(&ring, "b", 2);
        assert_eq!(ring.find(None).unwrap().request_id, "b");
        assert_eq!(ring.find(Some("a")).unwrap().body_bytes, 1);
        assert!(ring.find(Some("c")).is_none());
    }

    #[test]
    fn the_oldest_go_at_either_bound() {
        let (ring, metrics) = ring();
        (0..=MOST_REQUESTS).for_each(|number| keep(&ring, &number.to_string(), 1));
        assert!(ring.find(Some("0")).is_none() && ring.find(Some("1")).is_some());
        (0..9).for_each(|number| keep(&ring, &format!("long {number}"), LONGEST_BODY));
        assert!(ring.find(Some("64")).is_none() && ring.find(Some("long 0")).is_none());
        assert!(ring.find(Some("long 1")).is_some());
        assert_eq!(metrics.refused_kept_bytes.get(), i64::try_from(8 * LONGEST_BODY).unwrap());
    }

    #[test]
    fn a_long_target_counts_as_what_it_occupies() {
        let (ring, metrics) = ring();
        let inbound = Inbound { query: Some("q".repeat(LONGEST_BODY)), ..refused(1) };
        for number in 0..9 {
            let refused = Refused { refusal: Refusal::SignatureMismatch, inbound: Box::new(inbound.clone()) };
            ring.keep(&"r".into(), &number.to_string(), Timestamp::from_seconds(1), refused);
        }
        assert!(ring.find(Some("1")).is_none() && ring.find(Some("2")).is_some());
        assert!(metrics.refused_kept_bytes.get() <= i64::try_from(MOST_BYTES).unwrap());
    }

    #[test]
    fn a_body_that_is_too_long_is_left_out() {
        let (ring, metrics) = ring();
        keep(&ring, "a", LONGEST_BODY + 1);
        let kept = ring.find(Some("a")).unwrap();
        assert!(!kept.has_its_body() && kept.inbound.body.is_empty());
        assert_eq!(metrics.refused_kept_bytes.get(), 0);
        keep(&ring, "b", LONGEST_BODY);
        assert!(ring.find(Some("b")).unwrap().has_its_body());
    }
}

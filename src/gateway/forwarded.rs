//! Who is calling, and what the application is told about it: `X-Forwarded-*`, `X-Request-Id`, `traceparent`.
//!
//! From a peer outside `trusted_proxies` none of these is believed; what it sent is replaced.

use std::fmt::Write as _;
use std::net::IpAddr;

use data_encoding::HEXLOWER;
use http::header::FORWARDED;
use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

use super::head::is_host;
use crate::domain::time::Timestamp;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");

/// Longest request id taken over from a trusted proxy.
const MAX_REQUEST_ID: usize = 128;

/// What the peer spoke with us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoke {
    /// Plain HTTP.
    Plain,
    /// TLS.
    Tls,
}

/// Where a request came from.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The sender.
    pub(crate) remote: IpAddr,
    /// The host it called.
    pub(crate) authority: String,
    /// Whether it spoke TLS.
    pub(crate) https: bool,
    /// What the application gets as `X-Forwarded-For`.
    forwarded_for: String,
    /// What the application gets as `X-Request-Id`, and the log line carries.
    pub(crate) request_id: String,
    /// What the application gets as `traceparent` (W3C Trace Context, section 3.2).
    trace_parent: String,
}

impl Origin {
    /// Reads it from the peer's address and, if `trusted` holds that, from its headers. `spoke`: with us; `chance`
    /// feeds the ids.
    #[must_use]
    pub fn of(
        peer: IpAddr,
        spoke: Spoke,
        headers: &HeaderMap,
        trusted: &[IpNet],
        now: Timestamp,
        chance: u128,
    ) -> Self {
        let believed = trusted.iter().any(|net| net.contains(&peer));
        let text = |name: &HeaderName| single(headers, name);
        let host = text(&http::header::HOST).unwrap_or_default();
        let chain = if believed { list(headers, &FORWARDED_FOR) } else { Vec::new() };
        let remote = first_untrusted(&chain, trusted).unwrap_or(peer);
        let mut forwarded_for = chain.join(", ");
        if !chain.is_empty() {
            forwarded_for.push_str(", ");
        }
        // Writing to a string does not fail.
        let _written = write!(forwarded_for, "{peer}");
        let request_id = text(&REQUEST_ID).filter(|id| believed && is_request_id(id));
        // What becomes the application's `Host` is one, whatever a proxy let through.
        let authority = text(&FORWARDED_HOST).filter(|host| believed && is_host(host.as_bytes())).unwrap_or(host);
        Self {
            remote,
            authority: authority.to_owned(),
            https: text(&FORWARDED_PROTO)
                .filter(|_| believed)
                .map_or(spoke == Spoke::Tls, |proto| proto.eq_ignore_ascii_case("https")),
            forwarded_for,
            request_id: request_id.map_or_else(|| new_request_id(now, chance), str::to_owned),
            trace_parent: text(&TRACE_PARENT)
                .filter(|parent| is_trace_parent(parent))
                .map_or_else(|| new_trace_parent(chance), str::to_owned),
        }
    }

    /// Puts what the application is told into `headers`, in place of what the sender said.
    pub(crate) fn tell(&self, headers: &mut HeaderMap) {
        let proto = if self.https { "https" } else { "http" };
        let told = [
            (FORWARDED_FOR, self.forwarded_for.as_str()),
            (FORWARDED_PROTO, proto),
            (FORWARDED_HOST, self.authority.as_str()),
            (REQUEST_ID, self.request_id.as_str()),
            (TRACE_PARENT, self.trace_parent.as_str()),
        ];
        for (name, value) in told {
            match HeaderValue::from_str(value) {
                Ok(value) => headers.insert(name, value),
                Err(_) => headers.remove(name),
            };
        }
        headers.remove(FORWARDED);
        headers.remove(REAL_IP);
    }
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

fn list(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|hop| hop.trim().to_owned()).filter(|hop| !hop.is_empty()).collect()
}

/// The last hop of the chain that is no proxy of ours: everything before it is hearsay.
fn first_untrusted(chain: &[String], trusted: &[IpNet]) -> Option<IpAddr> {
    for hop in chain.iter().rev() {
        let address = hop.parse::<IpAddr>().ok()?.to_canonical();
        if !trusted.iter().any(|net| net.contains(&address)) {
            return Some(address);
        }
    }
    None
}

fn is_request_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= MAX_REQUEST_ID && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

fn new_request_id(now: Timestamp, chance: u128) -> String {
    crate::domain::event::EventId::new(now, chance).to_string()
}

fn new_trace_parent(chance: u128) -> String {
    let span = u64::try_from(chance >> 64).unwrap_or_default() | 1;
    let mut text = String::with_capacity(55);
    text.push_str("00-");
    HEXLOWER.encode_append(&(chance | 1).to_be_bytes(), &mut text);
    text.push('-');
    HEXLOWER.encode_append(&span.to_be_bytes(), &mut text);
    text.push_str("-01");
    text
}

/// `00-<32 hex>-<16 hex>-<2 hex>`, lower case.
fn is_trace_parent(text: &str) -> bool {
    let fields: Vec<&str> = text.split('-').collect();
    let lengths = [2, 32, 16, 2];
    fields.len() == lengths.len()
        && fields.iter().zip(lengths).all(|(field, length)| field.len() == length)
        && text.bytes().all(|b| b == b'-' || b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        && fields.first() == Some(&"00")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_760_000_000);

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v)));
        pairs.collect()
    }

    fn peer(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_stranger_is_not_believed_and_a_trusted_proxy_is() {
        let sent = headers(&[
            ("host", "a.example"),
            ("x-forwarded-for", "203.0.113.9, 10.0.0.7"),
            ("x-forwarded-proto", "https"),
            ("x-request-id", "abc-1"),
        ]);
        let trusted = ["10.0.0.0/8".parse().expect("a network")];
        let stranger = Origin::of(peer("192.0.2.1"), Spoke::Plain, &sent, &trusted, NOW, 7);
        assert_eq!(stranger.remote, peer("192.0.2.1"));
        assert_eq!(stranger.forwarded_for, "192.0.2.1");
        assert!(!stranger.https);
        assert_ne!(stranger.request_id, "abc-1");

        let proxied = Origin::of(peer("10.0.0.8"), Spoke::Plain, &sent, &trusted, NOW, 7);
        assert_eq!(proxied.remote, peer("203.0.113.9"));
        assert_eq!(proxied.forwarded_for, "203.0.113.9, 10.0.0.7, 10.0.0.8");
        assert!(proxied.https);
        assert_eq!(proxied.request_id, "abc-1");
    }

    #[test]
    fn a_host_that_a_proxy_passes_on_is_taken_only_if_it_is_one() {
        let trusted = ["10.0.0.0/8".parse().expect("a network")];
        for (said, taken) in
            [("b.example:8443", "b.example:8443"), ("b.example, c.example", "a.example"), ("u@b", "a.example")]
        {
            let sent = headers(&[("host", "a.example"), ("x-forwarded-host", said)]);
            assert_eq!(Origin::of(peer("10.0.0.8"), Spoke::Plain, &sent, &trusted, NOW, 7).authority, taken, "{said}");
        }
    }

    #[test]
    fn a_trace_goes_on_and_a_broken_one_is_replaced() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert!(is_trace_parent(good));
        assert!(is_trace_parent(&new_trace_parent(u128::MAX)));
        assert!(!is_trace_parent("00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
        assert!(!is_trace_parent("x"));
    }
}

//! Who is calling, and what the application is told about it: `X-Forwarded-*`, `X-Request-Id`, `traceparent`.
//!
//! From a peer outside `trusted_proxies` none of these is believed; what it sent is replaced.

use std::net::IpAddr;
use std::sync::OnceLock;

use http::header::HOST;
use http::{HeaderName, HeaderValue};
use ipnet::IpNet;
use uuid::Uuid;

use super::head::is_host;
use crate::domain::headers::Headers;
use crate::domain::time::Timestamp;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
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

/// Who is at the other end of a connection.
#[derive(Debug)]
pub struct Peer {
    pub(crate) address: IpAddr,
    pub(crate) spoke: Spoke,
    /// The address as text, once a request has come.
    text: OnceLock<HeaderValue>,
}

impl Peer {
    /// A peer that has sent nothing yet.
    #[must_use]
    pub const fn new(address: IpAddr, spoke: Spoke) -> Self {
        Self { address, spoke, text: OnceLock::new() }
    }

    fn text(&self) -> HeaderValue {
        self.text.get_or_init(|| told(self.address.to_string())).clone()
    }
}

/// Where a request came from.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The sender.
    pub(crate) remote: IpAddr,
    /// The host it called: what the application gets as `X-Forwarded-Host`.
    authority: HeaderValue,
    /// Whether it spoke TLS.
    pub(crate) https: bool,
    /// What the application gets as `X-Forwarded-For`.
    forwarded_for: HeaderValue,
    /// What the application gets as `X-Request-Id`, and the log line carries.
    pub(crate) request_id: String,
    /// The trace that the request is a part of, if its sender named one.
    trace_parent: Option<HeaderValue>,
    /// What a new trace is named by.
    chance: u128,
}

impl Origin {
    /// Reads it from the peer's address and, if `trusted` holds that, from its headers. `chance` feeds the ids.
    #[must_use]
    pub fn of(peer: &Peer, headers: &Headers, trusted: &[IpNet], now: Timestamp, chance: u128) -> Self {
        let believed = trusted.iter().any(|net| net.contains(&peer.address));
        let by_proxy = |name: &HeaderName| if believed { single(headers, name) } else { None };
        let chain = if believed { list(headers, &FORWARDED_FOR) } else { Vec::new() };
        // What becomes the application's `Host` is one, whatever a proxy let through.
        let host = by_proxy(&FORWARDED_HOST).filter(|host| is_host(host.as_bytes())).or_else(|| single(headers, &HOST));
        let proto = by_proxy(&FORWARDED_PROTO);
        Self {
            remote: first_untrusted(&chain, trusted).unwrap_or(peer.address),
            authority: host.cloned().unwrap_or_else(|| HeaderValue::from_static("")),
            https: proto.map_or(peer.spoke == Spoke::Tls, |proto| proto.as_bytes().eq_ignore_ascii_case(b"https")),
            forwarded_for: match chain.as_slice() {
                [] => peer.text(),
                proxies => told(format!("{}, {}", proxies.join(", "), peer.address)),
            },
            request_id: by_proxy(&REQUEST_ID)
                .and_then(|id| id.to_str().ok())
                .filter(|id| is_request_id(id))
                .map_or_else(|| new_request_id(now, chance), str::to_owned),
            trace_parent: single(headers, &TRACE_PARENT).filter(|parent| is_trace_parent(parent.as_bytes())).cloned(),
            chance,
        }
    }

    /// The host that the sender called.
    pub(crate) fn authority(&self) -> &str {
        self.authority.to_str().unwrap_or_default()
    }

    /// Puts what the application is told into `headers`, in place of what the sender said: where it stands first, or behind
    /// the others.
    pub(crate) fn tell(&self, headers: &mut Headers) {
        let ours = [FORWARDED_FOR, FORWARDED_PROTO, FORWARDED_HOST, REQUEST_ID, TRACE_PARENT];
        let mut told = [
            Some(self.forwarded_for.clone()),
            Some(HeaderValue::from_static(if self.https { "https" } else { "http" })),
            Some(self.authority.clone()),
            Some(told(self.request_id.clone())),
            Some(self.trace_parent.clone().unwrap_or_else(|| new_trace_parent(self.chance))),
        ];
        headers.retain_mut(|name, value| {
            let [forwarded_for, proto, host, id, trace] = &mut told;
            let ours = match name.as_str() {
                "x-forwarded-for" => forwarded_for,
                "x-forwarded-proto" => proto,
                "x-forwarded-host" => host,
                "x-request-id" => id,
                "traceparent" => trace,
                "forwarded" | "x-real-ip" => return false,
                _ => return true,
            };
            ours.take().map(|ours| *value = ours).is_some()
        });
        for (name, value) in ours.into_iter().zip(told) {
            if let Some(value) = value {
                headers.append(name, value);
            }
        }
    }
}

/// Text of ours as a value. None of it is anything that no header can hold; if it were, nothing would be told.
fn told(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn single<'a>(headers: &'a Headers, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name);
    let value = values.next().filter(|value| value.to_str().is_ok())?;
    values.next().is_none().then_some(value)
}

fn list<'a>(headers: &'a Headers, name: &HeaderName) -> Vec<&'a str> {
    let values = headers.get_all(name).filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|hop| !hop.is_empty()).collect()
}

/// The last hop of the chain that is no proxy of ours: everything before it is hearsay.
fn first_untrusted(chain: &[&str], trusted: &[IpNet]) -> Option<IpAddr> {
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
    let id = crate::domain::event::EventId::new(now, chance);
    id.0.hyphenated().encode_lower(&mut Uuid::encode_buffer()).to_owned()
}

/// `00-<32 hex>-<16 hex>-01` (W3C Trace Context, section 3.2).
fn new_trace_parent(chance: u128) -> HeaderValue {
    let span = u64::try_from(chance >> 64).unwrap_or_default() | 1;
    // A UUID's digits are hex in lower case.
    let (mut trace, mut spans) = (Uuid::encode_buffer(), Uuid::encode_buffer());
    let trace = Uuid::from_u128(chance | 1).simple().encode_lower(&mut trace);
    let span = Uuid::from_u64_pair(span, 0).simple().encode_lower(&mut spans).get(..16).unwrap_or_default();
    told(["00-", trace, "-", span, "-01"].concat())
}

/// `00-<32 hex>-<16 hex>-<2 hex>`, lower case.
fn is_trace_parent(text: &[u8]) -> bool {
    let digits = |field: &[u8]| field.iter().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte));
    let mut fields = text.split(|byte| *byte == b'-');
    let hex = |(field, length): (Option<&[u8]>, usize)| field.is_some_and(|it| it.len() == length && digits(it));
    fields.next() == Some(b"00")
        && [32, 16, 2].into_iter().all(|length| hex((fields.next(), length)))
        && fields.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_760_000_000);

    fn headers(pairs: &[(&'static str, &'static str)]) -> Headers {
        let pairs = pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v)));
        pairs.collect()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn peer(text: &str) -> Peer {
        Peer::new(address(text), Spoke::Plain)
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
        let stranger = Origin::of(&peer("192.0.2.1"), &sent, &trusted, NOW, 7);
        assert_eq!(stranger.remote, address("192.0.2.1"));
        assert_eq!(stranger.forwarded_for, "192.0.2.1");
        assert!(!stranger.https);
        assert_ne!(stranger.request_id, "abc-1");

        let proxied = Origin::of(&peer("10.0.0.8"), &sent, &trusted, NOW, 7);
        assert_eq!(proxied.remote, address("203.0.113.9"));
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
            assert_eq!(Origin::of(&peer("10.0.0.8"), &sent, &trusted, NOW, 7).authority(), taken, "{said}");
        }
    }

    #[test]
    fn a_trace_goes_on_and_a_broken_one_is_replaced() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert!(is_trace_parent(good.as_bytes()));
        assert!(is_trace_parent(new_trace_parent(u128::MAX).as_bytes()));
        assert_eq!(
            new_trace_parent(0x0123_4567_89ab_cdef_0011_2233_4455_6677),
            "00-0123456789abcdef0011223344556677-0123456789abcdef-01"
        );
        for bad in [
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
            "00-0af7651916cd43dd8448eb211c80319-cb7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319g-b7ad6b7169203331-01",
            "x",
        ] {
            assert!(!is_trace_parent(bad.as_bytes()), "{bad}");
            let sent = headers(&[("traceparent", bad)]);
            let mut told = Headers::new();
            Origin::of(&peer("192.0.2.1"), &sent, &[], NOW, 7).tell(&mut told);
            assert_eq!(told.get("traceparent"), Some(&new_trace_parent(7)), "{bad}");
        }
        let mut told = headers(&[("traceparent", good)]);
        Origin::of(&peer("192.0.2.1"), &told.clone(), &[], NOW, 7).tell(&mut told);
        assert_eq!(told.get_all("traceparent").collect::<Vec<_>>(), [good]);
    }

    #[test]
    fn what_is_told_stands_in_place_of_what_was_said_and_nothing_else_moves() {
        let mut sent = headers(&[
            ("host", "a.example:8080"),
            ("x-forwarded-for", "203.0.113.9"),
            ("x-a", "1"),
            ("forwarded", "for=x"),
            ("x-request-id", "one"),
            ("x-real-ip", "203.0.113.9"),
            ("x-request-id", "two"),
            ("x-a", "2"),
        ]);
        Origin::of(&peer("2001:db8::1"), &sent.clone(), &[], NOW, 7).tell(&mut sent);
        let id = new_request_id(NOW, 7);
        let trace = new_trace_parent(7);
        let told: Vec<(&str, &str)> =
            sent.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        let expected = [
            ("host", "a.example:8080"),
            ("x-forwarded-for", "2001:db8::1"),
            ("x-a", "1"),
            ("x-request-id", id.as_str()),
            ("x-a", "2"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "a.example:8080"),
            ("traceparent", trace.to_str().unwrap()),
        ];
        assert_eq!(told, expected);
    }
}

//! From a request to an event: what a route does with what its scheme has found.
//!
//! Checked, fresh, no handshake, wanted, named, and stripped of what belongs to the connection or to us; or a handshake
//! that nobody needs to have signed. Not here: whether the event was seen before, and everything that needs a clock, a disk or a socket.

use std::sync::Arc;

use http::Method;
use http::header::{CONNECTION, HeaderName};
use sha2::{Digest, Sha256};
use smallvec::SmallVec;

use super::body::Body;
use super::event::{Event, EventId};
use super::headers::Headers;
use super::inbound::Inbound;
use super::key::EventKey;
use super::outcome::HandshakeReply;
use super::refusal::Refusal;
use super::route::Route;
use super::scheme::{Freshness, Greeting, Key, Refused, Scheme, Verified, json_scalar};
use super::secret::Secret;
use super::time::Timestamp;

/// Secrets of a route that are live at once, as a rule: one, and one more while it is replaced. More is no error.
const USUAL_SECRETS: usize = 4;

/// What a verified request is.
#[derive(Clone, Debug)]
pub enum Admission {
    /// An event to deliver.
    Event(Arc<Event>),
    /// An event of a type that the route does not want. An event whose type cannot be told is delivered.
    Filtered,
    /// The provider's handshake, and our answer.
    Handshake(HandshakeReply),
}

/// The keys that are live at a moment, with the positions of their secrets.
type Live<'r> = SmallVec<[(usize, &'r Key); USUAL_SECRETS]>;

impl Route {
    /// Whether a request with this head is read at all: its method is taken, or it may be the provider's challenge.
    #[must_use]
    pub fn takes(&self, method: &Method, headers: &Headers, query: Option<&str>) -> bool {
        self.methods.contains(method) || self.scheme.may_challenge(method, headers, query, self.verify_token.as_ref())
    }

    /// Our answer to the provider's challenge, if the request is one that nobody needs to have signed. Nothing of it
    /// may go any further.
    #[must_use]
    pub fn greet(&self, inbound: &Inbound, now: Timestamp) -> Option<Result<HandshakeReply, Refusal>> {
        let greeting = self.scheme.greeting(inbound, self.verify_token.as_ref())?;
        Some(self.welcome(greeting, now))
    }

    fn welcome(&self, mut greeting: Greeting<'_>, now: Timestamp) -> Result<HandshakeReply, Refusal> {
        let live = self.live(now);
        let key = match greeting.signed.take() {
            None => live.first(),
            Some(signed) => {
                let verified = self.scheme.verify(signed, &live, self.public_url.as_deref())?;
                self.scheme.check_freshness(&verified, now)?;
                live.iter().find(|(position, _)| *position == verified.secret())
            }
        };
        greeting.answer(key.map(|(_, key)| *key), self.verify_token.as_ref())
    }

    /// Checks who sent a request, with the secrets that are live at `now`. Its age is not checked here.
    pub fn verify(&self, inbound: Inbound, now: Timestamp) -> Result<Verified, Refused> {
        // Handed through as it came: a verified request that is taken out and put back is a copy of all of it.
        let checked = self.scheme.verify(inbound, &self.live(now), self.public_url.as_deref());
        if !checked.as_ref().is_ok_and(|verified| self.scheme.may_be_our_own(verified.inbound())) {
            return checked;
        }
        checked.and_then(|verified| Err(Refused::new(Refusal::SignatureMismatch, verified.into_inbound())))
    }

    fn live(&self, now: Timestamp) -> Live<'_> {
        self.secrets
            .iter()
            .enumerate()
            .filter(|(_, secret)| secret.until.is_none_or(|until| now < until))
            .map(|(position, secret)| (position, &secret.key))
            .collect()
    }

    /// Whether `secret` is one of this route's.
    #[must_use]
    pub fn has_secret(&self, secret: &Secret) -> bool {
        self.secrets.iter().any(|own| own.secret.expose() == secret.expose())
    }

    /// Our answer, if a verified request is the provider's handshake.
    pub fn handshake(&self, verified: &Verified) -> Result<Option<HandshakeReply>, Refusal> {
        let key = self.secrets.get(verified.secret()).map(|secret| &secret.key);
        self.scheme.handshake(verified, key, self.verify_token.as_ref())
    }

    /// What a verified request is at `now`. The event gets the name `id`; `received_at` is when the request's first
    /// byte came.
    pub fn admit(
        &self,
        verified: Verified,
        now: Timestamp,
        id: EventId,
        received_at: Timestamp,
    ) -> Result<Admission, Refused> {
        let freshness = match self.scheme.check_freshness(&verified, now) {
            Ok(freshness) => freshness,
            Err(refusal) => return Err(Refused::new(refusal, verified.into_inbound())),
        };
        let own = match of_connection(&self.scheme, &verified.inbound().headers) {
            (own, None) => own,
            (_, Some(refusal)) => return Err(Refused::new(refusal, verified.into_inbound())),
        };
        match self.handshake(&verified) {
            Ok(Some(reply)) => return Ok(Admission::Handshake(reply)),
            Ok(None) if self.methods.contains(&verified.inbound().method) => {}
            Ok(None) => return Err(Refused::new(Refusal::MethodNotAllowed, verified.into_inbound())),
            Err(refusal) => return Err(Refused::new(refusal, verified.into_inbound())),
        }
        if !self.wants(self.scheme.event_type(&verified)) {
            return Ok(Admission::Filtered);
        }
        Ok(Admission::Event(Arc::new(self.event(verified, Some(freshness), &own, id, received_at))))
    }

    /// What a request would be if verdicts are only recorded: always an event, and why it would have been refused.
    ///
    /// An event that is not verified is named by its body alone, in a namespace of its own: it can not take the slot
    /// of a verified one.
    #[must_use]
    pub fn observe(
        &self,
        inbound: Inbound,
        now: Timestamp,
        id: EventId,
        received_at: Timestamp,
    ) -> (Event, Option<Refusal>) {
        let (own, framing) = of_connection(&self.scheme, &inbound.headers);
        match self.verify(inbound, now) {
            Err(Refused { refusal, inbound }) => (self.unverified(*inbound, &own, id, received_at), Some(refusal)),
            Ok(verified) => match self.scheme.check_freshness(&verified, now) {
                Err(refusal) => (self.event(verified, None, &own, id, received_at), Some(refusal)),
                Ok(freshness) => (self.event(verified, Some(freshness), &own, id, received_at), framing),
            },
        }
    }

    fn wants(&self, event_type: Option<&str>) -> bool {
        self.events.is_empty() || event_type.is_none_or(|it| self.events.iter().any(|wanted| wanted == it))
    }

    fn event(
        &self,
        verified: Verified,
        freshness: Option<Freshness>,
        own: &[HeaderName],
        id: EventId,
        received_at: Timestamp,
    ) -> Event {
        let whole = verified.whole();
        let key = verified.key(&self.name, &whole);
        let digest = verified.is_of_body().then_some(whole);
        let signed_at = freshness.map_or_else(|| verified.signed_at(), |freshness| freshness.signed_at);
        let (inbound, event_type) = verified.into_typed();
        let order_value = self.order_by.as_deref().and_then(|pointer| json_scalar(&inbound.body, pointer));
        Event { signed_at, event_type, order_value, ..self.bare(inbound, digest, key, own, id, received_at) }
    }

    fn unverified(&self, inbound: Inbound, own: &[HeaderName], id: EventId, received_at: Timestamp) -> Event {
        let body: [u8; 32] = Sha256::digest(&inbound.body).into();
        let key = EventKey::of_digest(&self.name, &[b"unverified", &body], &body);
        self.bare(inbound, Some(body), key, own, id, received_at)
    }

    /// `digest`: of the body, if it was made; `own`: the connection's headers, besides those that always are.
    fn bare(
        &self,
        inbound: Inbound,
        digest: Option<[u8; 32]>,
        key: EventKey,
        own: &[HeaderName],
        id: EventId,
        received_at: Timestamp,
    ) -> Event {
        let Inbound { method, path, query, mut headers, authority, body, .. } = inbound;
        headers.retain(|name| !ends_here(name) && !own.contains(name));
        Event {
            id,
            route: self.name.clone(),
            key,
            target: match query {
                Some(query) => path + "?" + &query,
                None => path,
            },
            method,
            headers,
            authority,
            body: match digest {
                Some(digest) => Body::digested(body, digest),
                None => body.into(),
            },
            received_at,
            signed_at: None,
            event_type: None,
            order_value: None,
        }
    }
}

/// The headers that a request declares to be its connection's own. One that declares one of the scheme's to be so is refused:
/// the application could not check what was checked here.
fn of_connection(scheme: &Scheme, headers: &Headers) -> (Vec<HeaderName>, Option<Refusal>) {
    let options = headers.get_all(CONNECTION).flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let names = options.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok());
    let (guarded, own): (Vec<_>, Vec<_>) = names.partition(|name| scheme.guards_in(headers, name));
    (own, (!guarded.is_empty()).then_some(Refusal::BadRequest))
}

/// Whether a header is one of the connection or of the framing (RFC 9110 section 7.6.1), or one that we give ourselves.
fn ends_here(name: &HeaderName) -> bool {
    match name.as_str() {
        "connection" | "content-length" | "expect" | "host" | "keep-alive" | "te" | "trailer" | "transfer-encoding"
        | "upgrade" => true,
        other => other.starts_with("proxy-") || other.starts_with("hookgate-") || other.contains('_'),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;

    use bytes::Bytes;
    use http::{Method, StatusCode};
    use uuid::Uuid;

    use super::super::breaker::BreakerPolicy;
    use super::super::route::{
        AckMode, AckPolicy, AckReply, AppPolicy, DeliveryPolicy, Enforcement, HostHeader, OnApp,
    };
    use super::super::schedule::Schedule;
    use super::super::scheme::Unsigned;
    use super::super::secret::{RouteSecret, SecretOrigin};
    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_760_000_000);
    const ID: EventId = EventId(Uuid::from_u128(7));
    const BODY: &str = r#"{"type":"a","id":1,"order":"o7","at":1760000000}"#;

    fn route(extra: &str) -> Route {
        let text = format!(
            "signature = {{ header = \"X-Sig\", encoding = \"hex\" }}\nevent_type = \"json:/type\"\n\
             event_id = [\"json:/id\"]\n{extra}"
        );
        let raw = toml_edit::de::from_str(&text).expect("a scheme");
        let scheme = Scheme::compile(&raw).expect("a sound scheme");
        Route {
            name: "r".into(),
            path: "/in".into(),
            provider: "test".into(),
            secrets: vec![secret(&scheme, "one", None), secret(&scheme, "two", Some(NOW))],
            verify_token: None,
            scheme,
            enforcement: Enforcement::Enforce,
            methods: vec![Method::POST],
            max_body_bytes: 1024,
            events: Vec::new(),
            order_by: Some("/order".into()),
            public_url: None,
            allow_from: Vec::new(),
            app: AppPolicy {
                url: "http://127.0.0.1:3000".into(),
                ca: None,
                connect_timeout: Duration::from_secs(2),
                attempt_timeout: Duration::from_secs(60),
                max_in_flight: 64,
                host: HostHeader::Preserve,
            },
            ack: AckPolicy {
                budget: Duration::from_secs(30),
                reserve: Duration::from_secs(2),
                mode: AckMode::Relay,
                on_app_failure: OnApp::Absorb,
                on_app_rejection: OnApp::Pass,
                reply: AckReply { status: StatusCode::OK, content_type: "text/plain".into(), body: Bytes::new() },
            },
            dedup_ttl: Duration::from_secs(86_400),
            delivery: DeliveryPolicy {
                schedule: Schedule::Listed(Vec::new()),
                breaker: BreakerPolicy { failures: 5, probe_every: Duration::from_secs(5) },
                rate_per_second: None,
                max_age: Duration::from_secs(1),
            },
        }
    }

    fn secret(scheme: &Scheme, text: &str, until: Option<Timestamp>) -> RouteSecret {
        let secret = Secret::new(text.as_bytes().to_vec());
        let key = scheme.prepare(&secret).expect("a key");
        RouteSecret { secret, key, origin: SecretOrigin::Literal, until }
    }

    fn signed(route: &Route, with: &str, headers: &[(&str, &str)]) -> Inbound {
        let mut request = Unsigned {
            method: Method::POST,
            url: "http://a.example/in?q=1".into(),
            headers: Headers::new(),
            body: Bytes::from_static(BODY.as_bytes()),
        };
        route.scheme.sign(&mut request, &Secret::new(with.as_bytes().to_vec()), NOW).expect("can be signed");
        for (name, value) in headers {
            let name: HeaderName = name.parse().expect("a name");
            request.headers.append(name, value.parse().expect("a value"));
        }
        Inbound {
            method: request.method,
            path: "/in".into(),
            query: Some("q=1".into()),
            headers: request.headers,
            body: request.body,
            authority: "a.example".into(),
            https: false,
            remote: IpAddr::V4(Ipv4Addr::LOCALHOST),
        }
    }

    fn position(route: &Route, with: &str, now: Timestamp) -> Result<usize, Refusal> {
        Ok(route.verify(signed(route, with, &[]), now)?.secret())
    }

    fn admit(route: &Route, inbound: Inbound) -> Result<Admission, Refusal> {
        Ok(route.admit(route.verify(inbound, NOW)?, NOW, ID, NOW)?)
    }

    fn event(route: &Route, inbound: Inbound) -> Event {
        match admit(route, inbound).expect("admitted") {
            Admission::Event(event) => Arc::unwrap_or_clone(event),
            other @ (Admission::Filtered | Admission::Handshake(_)) => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_event_knows_the_digest_of_its_body_whatever_was_signed() {
        let digest: [u8; 32] = Sha256::digest(BODY).into();
        for (signed_over, made_already) in [("", true), ("signed = \"{json:/id}{url}\"", false)] {
            let route = route(signed_over);
            let event = event(&route, signed(&route, "one", &[]));
            assert_eq!((event.body.sha256(), event.body.is_digested()), (digest, made_already), "{signed_over}");
        }
        let observed = Route { enforcement: Enforcement::Observe, ..route("") };
        let unverified = observed.unverified(signed(&observed, "another", &[]), &[], ID, NOW);
        assert_eq!((unverified.body.sha256(), unverified.body.is_digested()), (digest, true));
    }

    #[test]
    fn a_secret_is_tried_before_its_end_and_not_from_then_on() {
        let route = route("");
        let before = NOW.minus(Duration::from_millis(1));
        assert_eq!(position(&route, "two", before), Ok(1));
        assert_eq!(position(&route, "two", NOW), Err(Refusal::SignatureMismatch));
        assert_eq!(position(&route, "one", NOW), Ok(0));
    }

    #[test]
    fn an_event_has_the_request_as_it_was_and_its_names() {
        let route = route("");
        let event = event(&route, signed(&route, "one", &[]));
        assert_eq!((event.target.as_str(), event.authority.as_str()), ("/in?q=1", "a.example"));
        assert_eq!(*event.body, BODY);
        assert_eq!(event.event_type.as_deref(), Some("a"));
        assert_eq!(event.order_value.as_deref(), Some("o7"));
    }

    #[test]
    fn only_end_to_end_headers_go_on() {
        let route = route("");
        let ends_here = [
            ("connection", "close, x-mine"),
            ("x-mine", "1"),
            ("keep-alive", "1"),
            ("te", "trailers"),
            ("trailer", "x"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("proxy-authorization", "x"),
            ("proxy-connection", "x"),
            ("expect", "100-continue"),
            ("content-length", "1"),
            ("host", "b.example"),
            ("hookgate-key", "x"),
            ("hookgate_key", "x"),
            ("x_y", "1"),
        ];
        let goes_on = [("content-type", "application/json"), ("x-twice", "1"), ("x-twice", "2")];
        let event = event(&route, signed(&route, "one", &[ends_here.as_slice(), goes_on.as_slice()].concat()));
        for (name, _) in ends_here {
            assert!(!event.headers.contains_key(name), "{name}");
        }
        assert!(event.headers.contains_key("x-sig"));
        assert_eq!(event.headers.get_all("x-twice").count(), 2);
        assert_eq!(event.headers.len(), 4);
    }

    #[test]
    fn a_connection_header_cannot_take_a_header_away_that_the_request_lists_as_signed() {
        let plain =
            "signature = { header = \"X-Sig\", encoding = \"hex\" }\nsigned = \"{signed_headers:x-list}{body}\"";
        let scheme = Scheme::compile(&toml_edit::de::from_str(plain).expect("a scheme")).expect("a sound scheme");
        let secrets = vec![secret(&scheme, "one", None)];
        let route = Route { scheme, secrets, ..route("") };
        let listed = |named: &str| {
            let mut inbound = signed(&route, "one", &[]);
            inbound.headers.insert("x-list", "X-List,X-Topic".parse().expect("a value"));
            inbound.headers.insert("x-topic", "a".parse().expect("a value"));
            let text = format!("x-list:X-List,X-Topic;x-topic:a{BODY}");
            inbound.headers.insert("x-sig", mac("one", &text).parse().expect("hex"));
            inbound.headers.insert("connection", named.parse().expect("a value"));
            admit(&route, inbound).map(drop)
        };
        assert_eq!(listed("close, x-other"), Ok(()));
        for named in ["x-topic", "close, X-TOPIC", "x-list"] {
            assert_eq!(listed(named), Err(Refusal::BadRequest), "{named}");
        }
    }

    /// HMAC-SHA256 in hex.
    fn mac(key: &str, text: &str) -> String {
        use hmac::{Hmac, KeyInit, Mac};
        let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("a key");
        mac.update(text.as_bytes());
        data_encoding::HEXLOWER.encode(&mac.finalize().into_bytes())
    }

    #[test]
    fn a_type_that_holds_control_characters_is_none() {
        let route = route("");
        for (body, event_type) in
            [(r#"{"type":"a\u0085"}"#, None), (r#"{"type":"\u009b2J"}"#, None), (r#"{"type":"é"}"#, Some("é"))]
        {
            let mut inbound = signed(&route, "one", &[]);
            inbound.body = Bytes::from_static(body.as_bytes());
            inbound.headers.insert("x-sig", mac("one", body).parse().expect("hex"));
            assert_eq!(event(&route, inbound).event_type.as_deref(), event_type, "{body}");
        }
    }

    #[test]
    fn a_connection_header_cannot_take_a_security_header_away() {
        let route = route("require = { \"X-Version\" = \"1\" }");
        for named in ["x-sig", "close, X-Sig", "x-version"] {
            let refused = admit(&route, signed(&route, "one", &[("connection", named)])).map(drop);
            assert_eq!(refused, Err(Refusal::BadRequest), "{named}");
        }
        let (event, refusal) = route.observe(signed(&route, "one", &[("connection", "x-sig")]), NOW, ID, NOW);
        assert_eq!(refusal, Some(Refusal::BadRequest));
        assert!(event.headers.contains_key("x-sig"));
    }

    #[test]
    fn other_types_are_filtered_and_unknown_ones_are_not() {
        let wanting = |events: &[&str], scheme: &str| {
            let mut route = route(scheme);
            route.events = events.iter().map(|e| (*e).to_owned()).collect();
            admit(&route, signed(&route, "one", &[])).expect("admitted")
        };
        assert!(matches!(wanting(&["b"], ""), Admission::Filtered));
        assert!(matches!(wanting(&["b", "a"], ""), Admission::Event(_)));
        assert!(matches!(wanting(&[], ""), Admission::Event(_)));
    }

    #[test]
    fn a_stale_event_is_refused_and_in_observe_mode_recorded() {
        let route = route("signed_at = { from = \"json:/at\", unit = \"s\", max_age = \"1h\" }");
        let late = NOW.plus(Duration::from_secs(3601));
        let verified = route.verify(signed(&route, "one", &[]), late).expect("signed");
        assert_eq!(route.admit(verified, late, ID, late).map(drop).map_err(Refusal::from), Err(Refusal::EventTooOld));
        let (event, refusal) = route.observe(signed(&route, "one", &[]), late, ID, late);
        assert_eq!(refusal, Some(Refusal::EventTooOld));
        assert_eq!(event.signed_at, Some(NOW));
    }

    #[test]
    fn an_observed_event_that_is_not_verified_has_a_slot_of_its_own() {
        let route = route("");
        let verified = event(&route, signed(&route, "one", &[]));
        let (good, none) = route.observe(signed(&route, "one", &[]), NOW, ID, NOW);
        assert_eq!((good.key, none), (verified.key, None));
        let (forged, refusal) = route.observe(signed(&route, "three", &[]), NOW, ID, NOW);
        assert_eq!(refusal, Some(Refusal::SignatureMismatch));
        assert_ne!(forged.key.slot, verified.key.slot);
        assert_eq!((forged.event_type, forged.order_value), (None, None));
    }
}

//! The bench on which hypotheses are tested: the request, the scheme without what has nothing to do with the
//! signature, and the bounds. The only place of `explain` that verifies.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

use super::address::Search;
use super::{Case, MOST_BYTES, MOST_CHECKS};
use crate::domain::headers::Headers;
use crate::domain::inbound::Inbound;
use crate::domain::refusal::Refusal;
use crate::domain::route::Route;
use crate::domain::scheme::{Carries, Key, Kind, RawScheme, RawSignature, Scheme, Span, Verified};
use crate::domain::secret::{RouteSecret, Secret};

/// Whether the signature is right, times and everything else left aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signature {
    Right,
    Wrong,
}

/// A refused request under test.
pub(super) struct Bench<'a> {
    pub(super) case: Case<'a>,
    pub(super) refusal: Refusal,
    pub(super) signature: Signature,
    /// The scheme as written, reduced to what the signature needs.
    pub(super) raw: RawScheme,
    scheme: Arc<Scheme>,
    checks_left: usize,
    bytes_left: usize,
    /// Whether a hypothesis has been found to fit.
    pub(super) fitted: bool,
    /// The address that fits, once it was looked for.
    pub(super) address: Search,
}

impl<'a> Bench<'a> {
    /// `None` if the scheme has no bare form, which no scheme of a route has.
    pub(super) fn new(case: Case<'a>, refusal: Refusal) -> Option<Self> {
        let raw = bare(case.route.scheme.as_written());
        let scheme = Arc::new(Scheme::compile(&raw).ok()?);
        let mut bench = Self {
            case,
            refusal,
            signature: Signature::Wrong,
            raw,
            scheme,
            checks_left: MOST_CHECKS,
            bytes_left: MOST_BYTES,
            fitted: false,
            address: Search::NotYet,
        };
        if case.left_out.is_none() && bench.fits(case.inbound.clone()).is_some() {
            bench.signature = Signature::Right;
        }
        Some(bench)
    }

    /// Verifications made so far.
    pub(super) const fn checks(&self) -> usize {
        MOST_CHECKS.saturating_sub(self.checks_left)
    }

    /// Whether a bound is reached: what follows is not tried.
    pub(super) const fn is_spent(&self) -> bool {
        self.checks_left == 0 || self.bytes_left == 0
    }

    pub(super) const fn inbound(&self) -> &'a Inbound {
        self.case.inbound
    }

    pub(super) const fn route(&self) -> &'a Route {
        self.case.route
    }

    /// The route's secrets that are live, with their positions.
    pub(super) fn live(&self) -> Vec<(usize, &'a RouteSecret)> {
        let now = self.case.now;
        let numbered = self.case.route.secrets.iter().enumerate();
        numbered.filter(|(_, secret)| secret.until.is_none_or(|until| now < until)).collect()
    }

    /// Verifies; counts what it costs, and refuses to once a bound is reached.
    pub(super) fn verify(
        &mut self,
        scheme: &Scheme,
        keys: &[(usize, &Key)],
        inbound: Inbound,
        public_url: Option<&str>,
    ) -> Option<Verified> {
        if self.is_spent() || keys.is_empty() {
            return None;
        }
        self.checks_left = self.checks_left.saturating_sub(keys.len());
        let hashed = inbound.body.len().saturating_mul(keys.len()).saturating_mul(scheme.hashings(&inbound.headers));
        self.bytes_left = self.bytes_left.saturating_sub(hashed.max(1));
        scheme.verify(inbound, keys, public_url).ok()
    }

    /// The position of the live secret with which this request is signed.
    pub(super) fn fits(&mut self, inbound: Inbound) -> Option<usize> {
        let live = self.live();
        let keys: Vec<(usize, &Key)> = live.iter().map(|(position, secret)| (*position, &secret.key)).collect();
        self.fits_keys(inbound, &keys, self.case.route.public_url.as_deref())
    }

    /// The same with the address that is signed.
    pub(super) fn fits_at(&mut self, inbound: Inbound, url: &str) -> Option<usize> {
        let live = self.live();
        let keys: Vec<(usize, &Key)> = live.iter().map(|(position, secret)| (*position, &secret.key)).collect();
        self.fits_keys(inbound, &keys, Some(url))
    }

    fn fits_keys(&mut self, inbound: Inbound, keys: &[(usize, &Key)], url: Option<&str>) -> Option<usize> {
        let scheme = Arc::clone(&self.scheme);
        self.verify(&scheme, keys, inbound, url).map(|verified| verified.secret())
    }

    /// Whether the request with this body is signed.
    pub(super) fn fits_body(&mut self, body: Vec<u8>) -> Option<usize> {
        self.fits(Inbound { body: Bytes::from(body), ..self.inbound().clone() })
    }

    /// Whether the request with these headers is signed.
    pub(super) fn fits_headers(&mut self, headers: Headers) -> Option<usize> {
        self.fits(Inbound { headers, ..self.inbound().clone() })
    }

    /// Whether the request is signed with this secret.
    pub(super) fn fits_secret(&mut self, secret: &Secret) -> bool {
        let raw = self.raw.clone();
        self.fits_scheme(&raw, &[(0, secret)]).is_some()
    }

    /// Whether the request is signed by this scheme with one of the live secrets.
    pub(super) fn fits_raw(&mut self, raw: &RawScheme) -> Option<usize> {
        let live = self.live();
        let secrets: Vec<(usize, &Secret)> =
            live.iter().map(|(position, secret)| (*position, &secret.secret)).collect();
        self.fits_scheme(raw, &secrets)
    }

    /// Whether the request is signed by this scheme with one of these secrets.
    pub(super) fn fits_scheme(&mut self, raw: &RawScheme, secrets: &[(usize, &Secret)]) -> Option<usize> {
        let scheme = Scheme::compile(raw).ok()?;
        self.fits_compiled(&scheme, secrets).map(|verified| verified.secret())
    }

    /// The same with a scheme that is compiled.
    pub(super) fn fits_compiled(&mut self, scheme: &Scheme, secrets: &[(usize, &Secret)]) -> Option<Verified> {
        let keys = prepared(scheme, secrets);
        let keys: Vec<(usize, &Key)> = keys.iter().map(|(position, key)| (*position, key)).collect();
        let inbound = self.inbound().clone();
        self.verify(scheme, &keys, inbound, self.case.route.public_url.as_deref())
    }

    /// The headers of the request that carry the signature.
    pub(super) fn signature_headers(&self) -> Vec<HeaderName> {
        let carries = |name: &&HeaderName| self.case.route.scheme.carries(name) != Carries::Nothing;
        self.case.inbound.headers.keys().filter(carries).cloned().collect()
    }

    /// The bare scheme with another signature part.
    pub(super) fn with_signature(&self, change: impl FnOnce(&mut RawSignature)) -> RawScheme {
        let mut raw = self.raw.clone();
        change(raw.signature.get_or_insert_default());
        raw
    }

    /// Whether the scheme computes over the request; tokens and passwords do not.
    pub(super) fn signs(&self) -> bool {
        match self.raw.kind.unwrap_or_default() {
            Kind::Hmac | Kind::Hash | Kind::Ed25519 | Kind::EcdsaP256 | Kind::Jwt => true,
            Kind::Token | Kind::Basic => false,
        }
    }

    /// The headers with one of them replaced; `None` if no header can hold `value`.
    pub(super) fn headers_with(&self, name: &HeaderName, value: &[u8]) -> Option<Headers> {
        let mut headers = self.case.inbound.headers.clone();
        headers.insert(name, HeaderValue::from_bytes(value).ok()?);
        Some(headers)
    }
}

/// Those of the secrets that give a key.
fn prepared(scheme: &Scheme, secrets: &[(usize, &Secret)]) -> Vec<(usize, Key)> {
    let made = secrets.iter().map(|(position, secret)| (*position, scheme.prepare(secret)));
    made.filter_map(|(position, key)| key.ok().map(|key| (position, key))).collect()
}

/// The scheme reduced to what the signature needs: no ages, no names, no handshakes, no further headers.
fn bare(raw: &RawScheme) -> RawScheme {
    let mut bare = raw.clone();
    bare.signed_at = None;
    bare.event_id = None;
    bare.event_type = None;
    bare.challenge = None;
    bare.about = None;
    bare.require = None;
    if let Some(timestamp) = &mut bare.timestamp {
        timestamp.tolerance = Some(Span(Duration::ZERO));
        timestamp.covered = None;
    }
    bare
}

//! Why a request was refused, and what would have matched: a fixed list of hypotheses, each checked by verifying the
//! request once more with one thing changed.
//!
//! Nothing is computed here that [`Scheme::verify`] does not compute: a hypothesis changes the request, the secret or
//! the scheme as written, and asks again. The answer says which change fits and whose doing it is. It never holds a
//! secret, a key, a signature that would be right, or a value of a header that carries one.
//!
//! Bounds: at most [`MOST_CHECKS`] verifications over at most [`MOST_BYTES`] of bodies for one request; bodies longer
//! than [`LONGEST_REWRITE`] are not written anew. Not here: where requests are kept, and how an explanation is printed.

mod address;
mod bench;
mod body;
mod clock;
mod hypothesis;
mod json;
mod notation;
mod secrets;
mod seen;
mod signed;
mod table;
mod token;

use serde::Serialize;

pub use hypothesis::Hypothesis;
pub use table::hypotheses;

use bench::Bench;

use super::admission::Admission;
use super::event::EventId;
use super::inbound::Inbound;
use super::refusal::Refusal;
use super::route::Route;
use super::scheme::{Refused, Scheme};
use super::time::Timestamp;

/// Most verifications for one request, counted by secrets tried.
pub const MOST_CHECKS: usize = 4000;
/// Most bytes of bodies that are verified for one request: half a second of hashing, a second or two where the
/// processor has no instructions for it.
pub const MOST_BYTES: usize = 512 * 1024 * 1024;
/// Longest body that is written anew, in bytes.
pub const LONGEST_REWRITE: usize = 1024 * 1024;

/// A refused request and what it is held against.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// The request.
    pub inbound: &'a Inbound,
    /// The route that it came to.
    pub route: &'a Route,
    /// The other routes, whose secrets may have been taken by mistake.
    pub others: &'a [&'a Route],
    /// Other providers' schemes by name.
    pub candidates: &'a [(String, Scheme)],
    /// The moment of the check.
    pub now: Timestamp,
    /// What is known of the body, if the request comes without it.
    pub left_out: Option<LeftOut>,
}

/// A body that was too long to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Why its request was refused.
    pub refusal: Refusal,
    /// Its length.
    pub bytes: usize,
}

/// What became of a request, and why.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The route.
    pub route: String,
    /// The moment of the check, RFC 3339.
    pub now: String,
    /// What the gateway would do with it.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// The request as far as it can be shown.
    pub request: Shown,
    /// The route's secrets.
    pub secrets: Vec<SecretFact>,
    /// What was found, the surest first.
    pub findings: Vec<Finding>,
    /// Every hypothesis of the list, and what came of it.
    pub tried: Vec<Tried>,
    /// Verifications made.
    pub checks: usize,
}

/// What the gateway would do with a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// Take it for an event.
    Accept(Taken),
    /// Acknowledge it and deliver nothing: the route does not want its type.
    Filtered,
    /// Answer the provider's handshake.
    Handshake,
    /// Refuse it.
    Refuse {
        /// Why: the word of metrics, logs and replies.
        reason: &'static str,
    },
}

/// What is known of an accepted event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Taken {
    /// Position of the secret that signed it.
    pub secret: usize,
    /// What would be `Hookgate-Key`; `None`: each such request has a key of its own.
    pub key: Option<String>,
    /// Its type.
    pub event_type: Option<String>,
}

/// A request as far as it can be shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// The method.
    pub method: String,
    /// The address that is checked, without its query.
    pub url: String,
    /// The headers that carry a proof, their values replaced by their form: `x-sig: sha256=<64 hex>`.
    pub proofs: Vec<String>,
    /// Its media type.
    pub content_type: Option<String>,
    /// Length of the body.
    pub body_bytes: usize,
    /// SHA-256 of the body, in hex; nothing if the body was not kept.
    pub body_sha256: Option<String>,
}

/// A secret of the route, by its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SecretFact {
    /// Its position.
    pub position: usize,
    /// Where it came from.
    pub origin: String,
    /// When it ended, if it has.
    pub expired: Option<String>,
}

/// How far a hypothesis holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Match {
    /// With it the request is right: verified, or a matter of fact.
    Fits,
    /// It is so, and may be the reason; nothing proves it.
    Seen,
    /// It does not hold.
    No,
    /// It makes no sense for this request, or a bound was reached before.
    NotTried,
}

impl Match {
    /// The word in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fits => "fits",
            Self::Seen => "seen",
            Self::No => "no",
            Self::NotTried => "not_tried",
        }
    }
}

/// Whose doing it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Whose {
    /// Who sends.
    Sender,
    /// Who passes requests on between the sender and here.
    Proxy,
    /// Who configures the gateway.
    Operator,
    /// A clock, here or at the sender.
    Clock,
}

impl Whose {
    /// The word in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sender => "sender",
            Self::Proxy => "proxy",
            Self::Operator => "operator",
            Self::Clock => "clock",
        }
    }
}

/// A hypothesis that holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The hypothesis.
    pub id: &'static str,
    /// [`Match::Fits`] or [`Match::Seen`].
    pub matches: Match,
    /// What was found, in one sentence.
    pub found: String,
    /// How to put it right, in one sentence.
    pub fix: String,
    /// Whose doing it is.
    pub whose: Whose,
}

/// What came of a hypothesis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tried {
    /// The hypothesis.
    pub id: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// What came of it.
    pub result: Match,
}

impl Explanation {
    /// Whether the request is accepted, or a hypothesis fits.
    #[must_use]
    pub fn is_explained(&self) -> bool {
        let accepted = match self.verdict {
            Verdict::Accept(_) | Verdict::Filtered | Verdict::Handshake => true,
            Verdict::Refuse { .. } => false,
        };
        accepted || self.findings.iter().any(|finding| finding.matches == Match::Fits)
    }
}

/// Explains what the gateway does with a request, and if it refuses it, why.
#[must_use]
pub fn explain(case: &Case<'_>) -> Explanation {
    let (verdict, refusal) = judge(case);
    let mut bench = refusal.and_then(|refusal| Bench::new(*case, refusal));
    let mut findings = Vec::new();
    let mut tried = Vec::new();
    for hypothesis in hypotheses() {
        let (result, finding) = bench.as_mut().map_or((Match::NotTried, None), |bench| hypothesis.test(bench));
        tried.push(Tried { id: hypothesis.id, meaning: hypothesis.meaning, result });
        findings.extend(finding);
    }
    findings.sort_by_key(|finding| finding.matches);
    Explanation {
        route: case.route.name.to_string(),
        now: case.now.to_string(),
        verdict,
        request: seen::shown(case),
        secrets: seen::secrets(case),
        findings,
        tried,
        checks: bench.map_or(0, |bench| bench.checks()),
    }
}

/// What the gateway does with it, in the gateway's order.
fn judge(case: &Case<'_>) -> (Verdict, Option<Refusal>) {
    let Case { inbound, route, now, .. } = *case;
    let refused = |refusal: Refusal| (Verdict::Refuse { reason: refusal.as_str() }, Some(refusal));
    if let Some(left_out) = case.left_out {
        return refused(left_out.refusal);
    }
    if inbound.body.len() > route.max_body_bytes {
        return refused(Refusal::BodyTooLarge);
    }
    match route.greet(inbound, now) {
        Some(Ok(_)) => return (Verdict::Handshake, None),
        Some(Err(refusal)) => return refused(refusal),
        None => {}
    }
    if !route.methods.contains(&inbound.method) {
        return refused(Refusal::MethodNotAllowed);
    }
    let admitted = route.verify(inbound.clone(), now).and_then(|verified| {
        let (secret, is_its_own) = (verified.secret(), verified.is_event_of_its_own());
        let id = EventId::new(now, 0);
        route.admit(verified, now, id, now).map(|admission| (secret, is_its_own, admission))
    });
    match admitted {
        Ok((secret, is_its_own, Admission::Event(event))) => {
            let key = (!is_its_own).then(|| event.key.to_hex());
            let taken = Taken { secret, key, event_type: event.event_type.clone() };
            (Verdict::Accept(taken), None)
        }
        Ok((.., Admission::Filtered)) => (Verdict::Filtered, None),
        Ok((.., Admission::Handshake(_))) => (Verdict::Handshake, None),
        Err(Refused { refusal, .. }) => refused(refusal),
    }
}

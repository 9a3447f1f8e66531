//! The story of a request, from its last byte to the answer: verified, admitted, claimed, delivered.
//!
//! Invariant: nothing of a request is stored or named before `Route::verify` has accepted it, and nothing is parsed but
//! by `Route::greet`, whose answer is all that becomes of a challenge that nobody needs to have signed.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::Gateway;
use super::connections::Source;
use super::forgeries::{self, Place};
use super::forwarded::Origin;
use super::site::Site;
use crate::claims::{Held, Verdict};
use crate::domain::admission::Admission;
use crate::domain::event::{Event, EventId};
use crate::domain::fault::Fault;
use crate::domain::inbound::Inbound;
use crate::domain::outcome::Settled;
use crate::domain::refusal::Refusal;
use crate::domain::route::{Enforcement, Route};
use crate::domain::scheme::Refused;
use crate::domain::suspicion::Blame;
use crate::domain::time::Timestamp;
use crate::forward::Watched;
use crate::telemetry::RouteSeries;

/// A claim outlives the budget by this much, so that no honest delay of the last moments loses it.
const LEASE_MARGIN: Duration = Duration::from_secs(10);

/// What a request came to, with what its log line says of it.
pub struct Received {
    /// How it ended.
    pub settled: Settled,
    /// The event it carried, once it was believed.
    pub event: Option<EventId>,
    /// Its type, once it was believed.
    pub event_type: Option<String>,
}

impl From<Settled> for Received {
    fn from(settled: Settled) -> Self {
        Self { settled, event: None, event_type: None }
    }
}

/// What is known of a request that is here as a whole, so that nobody asks for it again.
pub(super) struct Whole<'a> {
    /// Whose bad signatures are counted with its sender's.
    pub(super) source: Option<Source>,
    /// When its first byte came.
    pub(super) arrived: Instant,
    /// Now.
    pub(super) here: Instant,
    /// The series of its route.
    pub(super) series: &'a RouteSeries,
    /// Whether who receives it is polled by [`crate::forward::Deliverer::look_by`], if he is not before.
    pub(super) watched: Watched,
}

impl Gateway {
    /// Receives one complete request of `route` whose first byte came at `arrived`. `memory` is what its body
    /// occupies; it is given back when the last attempt on it ends.
    pub async fn receive(
        &self,
        inbound: Inbound,
        route: &Arc<Route>,
        origin: &Origin,
        arrived: Instant,
        memory: impl Send + 'static,
    ) -> Received {
        let source = forgeries::source_of(origin.remote, &self.site.load().trusted_proxies);
        let series = self.metrics.series(&route.name);
        let whole = Whole { source, arrived, here: Instant::now(), series: &series, watched: Watched::No };
        self.receive_whole(inbound, route, origin, &whole, memory).await
    }

    /// As [`Self::receive`], with what is known of the request.
    pub(super) async fn receive_whole(
        &self,
        inbound: Inbound,
        route: &Arc<Route>,
        origin: &Origin,
        whole: &Whole<'_>,
        memory: impl Send + 'static,
    ) -> Received {
        let deadline = whole.arrived + route.ack.budget.saturating_sub(route.ack.reserve);
        let event = match self.admit(inbound, route, origin, whole) {
            Admitted::Believed(event) => event,
            Admitted::Unbelieved(event) => {
                let held = self.claims.unclaimed(&event);
                return self.deliver(whole.watched, event, route, held, deadline, memory).await.into();
            }
            Admitted::Answered(settled) => return settled.into(),
        };
        let (id, event_type) = (event.id, event.event_type.clone());
        let mut watched = whole.watched;
        let verdict = {
            let lease = route.ack.budget + LEASE_MARGIN;
            let mut claim = pin!(self.claims.claim_at(whole.here, &event, lease, deadline));
            poll_fn(|cx| {
                let polled = claim.as_mut().poll(cx);
                if polled.is_pending() {
                    // What was to have it polled in time may have done so by then.
                    watched = Watched::No;
                }
                polled
            })
            .await
        };
        let settled = match verdict {
            Verdict::Claimed(held) => self.deliver(watched, event, route, held, deadline, memory).await,
            Verdict::Duplicate => Settled::Duplicate,
            Verdict::InFlight(leader) => {
                let joined = tokio::time::timeout_at(deadline, leader.outcome()).await.ok().flatten();
                joined.unwrap_or(Settled::Unavailable(Fault::InFlightElsewhere))
            }
            Verdict::Unavailable(fault) => Settled::Unavailable(fault),
        };
        Received { settled, event: Some(id), event_type }
    }

    /// Whether a request of a source that has sent too many bad signatures of late is served, before anything of its body is
    /// looked at. If not, the answer is a 503: if it was honest after all it has to come again. Asked again it takes nothing
    /// more. A request of a source that many may share waits for its turn here, where there is one before `answer_by`; one
    /// that is turned away with a long body waits for the answer.
    pub(super) async fn let_in(
        &self,
        route: &Route,
        origin: &Origin,
        site: &Site,
        announced: Option<u64>,
        answer_by: Instant,
    ) -> Result<LetIn, Settled> {
        if route.enforcement == Enforcement::Observe {
            return Ok(LetIn::Freely);
        }
        let Some(source) = forgeries::source_of(origin.remote, &site.trusted_proxies) else {
            return Ok(LetIn::Freely);
        };
        let now = Instant::now();
        if !forgeries::is_shared(origin.remote, &site.trusted_proxies) {
            let away = self.forgeries.turns_away(source, now);
            return if away { Err(self.turned_away_slowly(announced).await) } else { Ok(LetIn::Freely) };
        }
        match self.forgeries.place(source, announced, answer_by.saturating_duration_since(now) / 2, now) {
            Place::None => Ok(LetIn::Freely),
            Place::At(turn) => {
                tokio::time::sleep_until(turn).await;
                Ok(LetIn::AtItsTurn)
            }
            Place::TurnedAway => Err(self.turned_away_slowly(announced).await),
        }
    }

    /// Whether a request that was let in is turned away after all, now that its body is here: others of its source may have
    /// been found bad meanwhile. Who had its turn is not.
    pub(super) fn turn_away(&self, route: &Route, whole: &Whole<'_>, let_in: LetIn) -> Option<Settled> {
        if route.enforcement == Enforcement::Observe || let_in == LetIn::AtItsTurn {
            return None;
        }
        self.forgeries.turns_away(whole.source?, whole.here).then(|| self.turned_away())
    }

    async fn turned_away_slowly(&self, announced: Option<u64>) -> Settled {
        if !announced.is_some_and(forgeries::is_short) {
            tokio::time::sleep(forgeries::PAUSE).await;
        }
        self.turned_away()
    }

    fn turned_away(&self) -> Settled {
        self.metrics.forgers_turned_away_total.inc();
        Settled::Unavailable(Fault::Overloaded)
    }

    /// Remembers of the sender whether its signature was good.
    fn note_signature(&self, whole: &Whole<'_>, refusal: Option<Refusal>, body_bytes: usize) {
        if let Some(source) = whole.source {
            self.forgeries.note(source, refusal, body_bytes, whole.here);
        }
    }

    async fn deliver(
        &self,
        watched: Watched,
        event: Arc<Event>,
        route: &Arc<Route>,
        held: Held,
        deadline: Instant,
        memory: impl Send + 'static,
    ) -> Settled {
        let delivery = self.deliverer.deliver_watched(watched, event, route.clone(), held, deadline, memory);
        delivery.await.unwrap_or(Settled::Unavailable(Fault::Overloaded))
    }

    /// Verified, fresh, wanted and named; or the reason why not.
    fn admit(&self, inbound: Inbound, route: &Arc<Route>, origin: &Origin, whole: &Whole<'_>) -> Admitted {
        let now = self.clock.at(whole.here);
        let received_at = self.clock.at(whole.arrived);
        let id = EventId::new(received_at, fastrand::u128(..));
        let series = whole.series;
        let taken_anyway = route.enforcement == Enforcement::Observe && route.methods.contains(&inbound.method);
        let observed = taken_anyway.then(|| inbound.clone());
        let (mut said, mut signed) = (None, None);
        let admission = match route.greet(&inbound, now) {
            Some(Ok(reply)) => Ok(Admission::Handshake(reply)),
            Some(Err(refusal)) => Err(Refused::new(refusal, inbound)),
            None => match route.verify(inbound, now) {
                Ok(verified) => {
                    self.metrics.secret_matched(series, &route.name, verified.secret());
                    self.note_signature(whole, None, verified.inbound().body.len());
                    (said, signed) = (route.scheme.signed_time(&verified), verified.signed());
                    route.admit(verified, now, id, received_at)
                }
                Err(refused) => Err(refused),
            },
        };
        match (admission, observed) {
            (Ok(Admission::Event(mut event)), _) => {
                self.clock_is_right(said);
                // Nobody else has it yet.
                origin.tell(&mut Arc::make_mut(&mut event).headers);
                self.note_age(&event, route, series, now.seconds());
                Admitted::Believed(event)
            }
            (Ok(Admission::Filtered), _) => Admitted::Answered(Settled::Filtered),
            (Ok(Admission::Handshake(reply)), _) => Admitted::Answered(Settled::Handshake(reply)),
            (Err(refused), Some(inbound)) => {
                let refusal = refused.refusal;
                self.refusals.keep(&route.name, &origin.request_id, now, refused);
                self.note_observed(route, origin, refusal);
                let (mut event, _) = route.observe(inbound, now, id, received_at);
                origin.tell(&mut event.headers);
                Admitted::Unbelieved(Arc::new(event))
            }
            (Err(refused), None) => {
                let (refusal, body) = (refused.refusal, refused.inbound.body.clone());
                self.note_signature(whole, Some(refusal), body.len());
                self.refusals.keep(&route.name, &origin.request_id, now, refused);
                // What was not signed makes no other request of one.
                let signed = || signed.unwrap_or_else(|| Sha256::digest(&body).into());
                Admitted::Answered(self.blame(refusal, signed, said, now))
            }
        }
    }

    /// `enforce = false`: the verdict is counted and logged, and the request is passed on without being believed.
    fn note_observed(&self, route: &Route, origin: &Origin, refusal: Refusal) {
        let name: &str = &route.name;
        self.metrics.refusals_total.with_label_values(&[name, refusal.as_str()]).inc();
        self.metrics.observed_refusals_total.with_label_values(&[name, refusal.as_str()]).inc();
        tracing::warn!(
            route = name,
            reason = refusal.as_str(),
            request_id = origin.request_id,
            "would be refused, and is passed on: the route does not enforce"
        );
    }

    /// A validly signed time was fresh.
    fn clock_is_right(&self, said: Option<Timestamp>) {
        if said.is_some() && self.clock_in_doubt.swap(false, Ordering::Relaxed) {
            self.clock_watch.lock().unwrap_or_else(PoisonError::into_inner).fresh();
            self.metrics.clock_suspect.set(0);
        }
    }

    /// Whose doing a refusal is: where the validly signed requests are all off alike, our clock's.
    fn blame(
        &self,
        refusal: Refusal,
        signed: impl FnOnce() -> [u8; 32],
        said: Option<Timestamp>,
        now: Timestamp,
    ) -> Settled {
        let of_time = matches!(refusal, Refusal::TimestampStale | Refusal::TimestampFuture | Refusal::EventTooOld);
        let Some(said) = said.filter(|_| of_time) else { return Settled::Refused(refusal) };
        self.clock_in_doubt.store(true, Ordering::Relaxed);
        let signed = signed();
        match self.clock_watch.lock().unwrap_or_else(PoisonError::into_inner).refused(signed, said, now) {
            Blame::Request => Settled::Refused(refusal),
            Blame::Clock => {
                self.metrics.clock_suspect.set(1);
                Settled::Unavailable(Fault::ClockSuspect)
            }
        }
    }

    fn note_age(&self, event: &Event, route: &Route, series: &RouteSeries, now_seconds: f64) {
        if let Some(happened) = event.signed_at {
            let age = now_seconds - happened.seconds();
            series.event_age_seconds.observe(age);
        } else if route.scheme.has_signed_at() {
            self.metrics.signed_time_missing_total.with_label_values(&[&*route.name]).inc();
        }
    }
}

/// How a request was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LetIn {
    /// As long as its source is not turned away.
    Freely,
    /// It has waited for its turn. Its body may have [`forgeries::SHORT_BYTES`].
    AtItsTurn,
}

impl LetIn {
    /// Most bytes of its body, of a route that takes `most`.
    pub(super) fn cap(self, most: usize) -> usize {
        match self {
            Self::Freely => most,
            Self::AtItsTurn => most.min(forgeries::SHORT_BYTES),
        }
    }
}

/// What admission gave.
enum Admitted {
    /// The answer is known without a delivery.
    Answered(Settled),
    /// Verified: claimed, buffered, acknowledged.
    Believed(Arc<Event>),
    /// Not verified, on a route that only observes: sent once, never stored.
    Unbelieved(Arc<Event>),
}

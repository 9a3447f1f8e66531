//! One request of a configured route, or of none, and its reply, on a connection of ours: read whole, received, answered.
//! What passes through unverified does not come here.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE};
use http::{HeaderName, Method};
use tokio::time::Instant;

use super::Gateway;
use super::body::{self, Expects, Unread};
use super::connections::{Connection, Phase};
use super::forgeries;
use super::forwarded::Origin;
use super::guard::Guard;
use super::receive::{LetIn, Received, Whole};
use super::reply::Reply;
use super::request::Request;
use super::site::Site;
use crate::buffers::Reserved;
use crate::domain::fault::Fault;
use crate::domain::inbound::Inbound;
use crate::domain::message::{put_header, put_line, put_number};
use crate::domain::outcome::Settled;
use crate::domain::refusal::Refusal;
use crate::domain::route::Route;
use crate::forward::{Deliverer, Watched};
use crate::telemetry::recent::Answered;
use crate::telemetry::{NO_ROUTE, RouteSeries};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Bodies up to this size leave in one piece with their head.
const ONE_PIECE: usize = 16 * 1024;

/// A shorter wait to be accepted takes nothing from a sender.
const A_MOMENT: Duration = Duration::from_millis(100);

/// What becomes of a connection behind a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// The next request may come.
    StaysOpen,
    /// It closes.
    Closes,
}

/// Who asks, how, and since when.
struct Asked {
    origin: Origin,
    /// Its first byte was read.
    began: Instant,
    /// The same, or before it, if its sender had to wait to be accepted.
    arrived: Instant,
    /// The length of its body, as far as it was read.
    body_bytes: usize,
    /// Whether a reply to it has no body (RFC 9110 section 9.3.2).
    is_head: bool,
    /// What the sender wants.
    after: After,
    must_be_told: bool,
    /// What its head takes of the gateway's memory, if that is a long one.
    long_head: Option<Reserved>,
}

impl Gateway {
    /// Reads the request that waits behind `guard`, and answers it. `route`: what its path leads to. `began`: its first
    /// byte. `after`: whether we want another request on this connection.
    pub(super) async fn exchange(
        &self,
        guard: &mut Guard,
        connection: &Connection,
        site: &Site,
        route: Option<Arc<Route>>,
        began: Instant,
        after: After,
    ) -> After {
        connection.enter(Phase::Busy(began));
        let head = guard.take_head();
        let Some(request) = Request::parse(&head, guard.places()) else { return After::Closes };
        let (peer, at, chance) = (&connection.peer, self.clock.at(began), fastrand::u128(..));
        let origin = Origin::of(peer, &request.headers, &site.trusted_proxies, at, chance);
        let mut asked = Asked {
            origin,
            began,
            arrived: connection.arrived(began),
            body_bytes: 0,
            is_head: request.method == Method::HEAD,
            after: if request.keeps_alive() { after } else { After::Closes },
            must_be_told: request.must_be_told(),
            long_head: guard.take_long_head(),
        };
        let of_route = route.as_ref().map(|route| (route, self.metrics.series(&route.name)));
        let received = match &of_route {
            Some((route, series)) => self.read_and_receive(guard, request, site, route, series, &mut asked).await,
            None => Settled::Refused(Refusal::NoRoute).into(),
        };
        let of_route = of_route.as_ref().map(|(route, series)| (&***route, &**series));
        let after = self.answer(guard, asked, of_route, received).await;
        connection.enter(Phase::Idle(Instant::now()));
        after
    }

    async fn read_and_receive(
        &self,
        guard: &mut Guard,
        request: Request,
        site: &Site,
        route: &Arc<Route>,
        series: &RouteSeries,
        asked: &mut Asked,
    ) -> Received {
        if !route.takes(&request.method, &request.headers, request.query.as_deref()) {
            return Settled::Refused(Refusal::MethodNotAllowed).into();
        }
        let answer_by = asked.arrived + route.ack.budget.saturating_sub(route.ack.reserve);
        let origin = &asked.origin;
        if !route.allow_from.is_empty() && !route.allow_from.iter().any(|net| net.contains(&origin.remote)) {
            return Settled::Refused(Refusal::SourceNotAllowed).into();
        }
        let let_in = match self.let_in(route, origin, site, guard.left(), answer_by).await {
            Ok(let_in) => let_in,
            Err(settled) => return settled.into(),
        };
        let deadline = || answer_by.min(Instant::now() + site.body_timeout);
        let expects = if request.waits_for_continue() { Expects::Continue } else { Expects::Nothing };
        let cap = let_in.cap(route.max_body_bytes);
        let (body, memory) = match body::read(guard, expects, cap, deadline, &self.buffers).await {
            Ok(read) => read,
            // It did not say that its body is too long to wait for a turn with it; without that it is not.
            Err(Unread::Refused(Refusal::BodyTooLarge)) if cap < route.max_body_bytes => {
                return Settled::Unavailable(Fault::Overloaded).into();
            }
            // What it had no time for because it waited for us is not its doing.
            Err(Unread::Refused(Refusal::RequestTimeout))
                if asked.has_waited(let_in) && Instant::now() >= answer_by =>
            {
                return Settled::Unavailable(Fault::Overloaded).into();
            }
            Err(unread) => return Settled::from(unread).into(),
        };
        asked.body_bytes = body.len();
        let source = forgeries::source_of(origin.remote, &site.trusted_proxies);
        let is_watched = poll_fn(|cx| Poll::Ready(guard.will_ring(cx, Deliverer::look_by(answer_by)))).await;
        let watched = if is_watched { Watched::Yes } else { Watched::No };
        let whole = Whole { source, arrived: asked.arrived, here: Instant::now(), series, watched };
        if whole.here >= answer_by {
            // There is no time left to do anything with it.
            return Settled::Unavailable(Fault::Overloaded).into();
        }
        if let Some(settled) = self.turn_away(route, &whole, let_in) {
            return settled.into();
        }
        series.request_body_bytes.observe(f64::from(u32::try_from(body.len()).unwrap_or(u32::MAX)));
        let inbound = Inbound {
            method: request.method,
            path: request.path,
            query: request.query,
            headers: request.headers,
            body,
            authority: origin.authority().to_owned(),
            https: origin.https,
            remote: origin.remote,
        };
        let memory = (memory, asked.long_head.take());
        self.receive_whole(inbound, route, &asked.origin, &whole, memory).await
    }

    /// Writes the reply, counts the request and writes its line: once per request, whatever became of it.
    async fn answer(
        &self,
        guard: &mut Guard,
        asked: Asked,
        of_route: Option<(&Route, &RouteSeries)>,
        received: Received,
    ) -> After {
        let Received { settled, event, event_type } = received;
        let route = of_route.map(|(route, _)| route);
        let name: &str = route.map_or(NO_ROUTE, |route| &route.name);
        let (disposition, reason) = (settled.disposition(), settled.reason());
        let took = asked.arrived.elapsed();
        let answered_at = self.clock.at(asked.arrived + took);
        match of_route {
            Some((_, series)) => self.metrics.answered_in(series, name, &settled, took),
            None => self.metrics.answered(name, &settled, took),
        }
        if route.is_some_and(|route| took > route.ack.budget) {
            self.metrics.ack_budget_exceeded_total.with_label_values(&[name]).inc();
        }
        let reply = Reply::of(settled, route);
        let status = reply.status.as_u16();
        let unread = guard.left() != Some(0);
        let after = if unread { After::Closes } else { asked.after };
        let taken = guard.send(written(&reply, &asked, after, &self.date.at(answered_at).1).pieces()).await.is_ok();
        if taken && after == After::Closes {
            // What is unread is not to reset the connection; what is read leaves nothing to wait for but the sender.
            if unread { guard.part().await } else { guard.shut().await }
        }
        let answered = Answered {
            received_at: self.clock.at(asked.arrived),
            route: route.map_or_else(|| NO_ROUTE.into(), |route| route.name.clone()),
            event,
            event_type,
            disposition,
            reason,
            status,
            answered_at,
            ack_ms: milliseconds(took),
            remote: asked.origin.remote,
            request_id: asked.origin.request_id,
            body_bytes: u64::try_from(asked.body_bytes).unwrap_or(u64::MAX),
            taken,
        };
        self.recent.push(answered);
        if taken { after } else { After::Closes }
    }
}

impl Asked {
    /// Whether some of the time before its answer is due went by because it had to wait for us.
    fn has_waited(&self, let_in: LetIn) -> bool {
        let_in == LetIn::AtItsTurn || self.began.saturating_duration_since(self.arrived) >= A_MOMENT
    }
}

/// A reply as it goes over the wire.
struct Written {
    head: Vec<u8>,
    /// What did not go with the head.
    body: Bytes,
}

impl Written {
    fn pieces(&self) -> [&[u8]; 2] {
        [&self.head, &self.body]
    }
}

/// Writes `reply` with its exact length, and what concerns the connection.
fn written(reply: &Reply, asked: &Asked, after: After, date: &str) -> Written {
    let bodiless = reply.is_bodiless() || asked.is_head || reply.body.is_empty();
    let with_head = if bodiless || reply.body.len() > ONE_PIECE { &[] } else { &reply.body[..] };
    let mut head = Vec::with_capacity(512 + with_head.len());
    head.put_slice(b"HTTP/1.1 ");
    head.put_slice(reply.status.as_str().as_bytes());
    head.put_u8(b' ');
    head.put_slice(reply.status.canonical_reason().unwrap_or_default().as_bytes());
    head.put_slice(b"\r\n");
    for (name, value) in reply.headers.iter().filter(|(name, _)| !is_ours(name)) {
        put_header(&mut head, name, value);
    }
    put_line(&mut head, "X-Request-Id", &asked.origin.request_id);
    if let Some(length) = reply.content_length() {
        put_number(&mut head, "Content-Length", u64::try_from(length).unwrap_or(u64::MAX));
    }
    put_line(&mut head, "Date", date);
    match after {
        After::Closes => put_line(&mut head, "Connection", "close"),
        After::StaysOpen if asked.must_be_told => put_line(&mut head, "Connection", "keep-alive"),
        After::StaysOpen => {}
    }
    head.put_slice(b"\r\n");
    head.put_slice(with_head);
    let body = if bodiless || !with_head.is_empty() { Bytes::new() } else { reply.body.clone() };
    Written { head, body }
}

/// Headers that we write ourselves, whatever the application said.
fn is_ours(name: &HeaderName) -> bool {
    *name == CONTENT_LENGTH || *name == DATE || *name == CONNECTION || *name == REQUEST_ID
}

pub(super) fn milliseconds(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}

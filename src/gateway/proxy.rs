//! The gateway as Pingora sees it: webhooks are read whole, received and answered in the request filter; only
//! passthrough paths go through Pingora's own proxy phases, streamed and unverified.

use std::sync::Arc;

use async_trait::async_trait;
use http::header::{CONNECTION, HOST};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use pingora::ErrorSource;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::{Error, ErrorType, HttpPeer};
use pingora::proxy::{FailToProxy, ProxyHttp, Session};
use pingora::upstreams::peer::HttpUpstreamRequestPolicy;
use pingora::utils::tls::{WrappedX509, parse_x509};
use tokio::time::Instant;

use super::Gateway;
use super::connections::Phase;
use super::forwarded::Origin;
use super::receive::Received;
use super::reply::Reply;
use super::site::{Destination, Site};
use super::{body, listener};
use crate::domain::inbound::Inbound;
use crate::domain::outcome::Settled;
use crate::domain::refusal::Refusal;
use crate::domain::route::Route;
use crate::telemetry::NO_ROUTE;
use crate::telemetry::recent::Answered;

/// Most of an unwanted body that is read away so that the sender gets to read the refusal.
pub(super) const LINGER_BYTES: usize = 256 * 1024;

/// How long that may take.
pub(super) const LINGER: std::time::Duration = std::time::Duration::from_secs(2);

/// One request on its way through Pingora's phases.
pub(crate) struct Passage {
    arrived: Instant,
    /// Set once the request is known to pass through.
    passthrough: Option<(Arc<Site>, Origin)>,
    answered: bool,
}

/// What concerns the sender's connection alone (RFC 9110 section 7.6.1); the guard lets no upgrade in.
const HOP_BY_HOP: [&str; 6] = ["connection", "keep-alive", "te", "trailer", "expect", "http2-settings"];

/// The gateway in Pingora's clothes.
pub(super) struct Proxy(pub(super) Arc<Gateway>);

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = Passage;

    fn new_ctx(&self) -> Passage {
        let connection = listener::connection();
        let began = match connection.as_ref().map(|connection| connection.phase()) {
            Some(Phase::Head(began) | Phase::Busy(began)) => began,
            Some(Phase::Idle(_)) | None => Instant::now(),
        };
        if let Some(connection) = &connection {
            connection.enter(Phase::Busy(began));
        }
        let arrived = connection.map_or(began, |connection| connection.arrived(began));
        Passage { arrived, passthrough: None, answered: false }
    }

    async fn request_filter(&self, session: &mut Session, passage: &mut Passage) -> pingora::Result<bool> {
        let site = self.0.site.load_full();
        session.set_write_timeout(Some(site.write_timeout));
        session.set_total_drain_timeout(Some(LINGER));
        if listener::closes() {
            session.set_keepalive(None);
        }
        let now = self.0.clock.now();
        let connection = listener::connection().map(|connection| (connection.remote.ip(), connection.spoke));
        let Some((peer, spoke)) = connection else {
            return Err(Error::explain(ErrorType::InternalError, "a request without a connection"));
        };
        let headers = &session.req_header().headers;
        let origin = Origin::of(peer, spoke, headers, &site.trusted_proxies, now, fastrand::u128(..));
        let target = Target::of(session.req_header());
        let destination = target.as_ref().map_or(Destination::Nowhere, |target| site.find(&target.path));
        let (route, received) = match (destination, target) {
            (Destination::Passthrough, Some(_)) => {
                session.set_read_timeout(Some(site.body_timeout));
                passage.passthrough = Some((site, origin));
                if body::waits_for_continue(session.req_header()) {
                    // The application is asked for nothing: what it gets is bounded all the same.
                    body::go_on(session.as_downstream_mut()).await?;
                }
                return Ok(false);
            }
            (Destination::Route(route), Some(target)) => {
                let received = self.0.read_and_receive(session, target, &route, &origin, passage.arrived).await;
                (Some(route), received)
            }
            (Destination::Nowhere, Some(_)) => (None, Settled::Refused(Refusal::NoRoute).into()),
            (_, None) => (None, Settled::Refused(Refusal::BadRequest).into()),
        };
        self.0.answer(session, passage, route.as_deref(), &origin, received).await;
        Ok(true)
    }

    async fn upstream_peer(&self, _: &mut Session, passage: &mut Passage) -> pingora::Result<Box<HttpPeer>> {
        let Some((site, _)) = &passage.passthrough else {
            return Err(Error::explain(ErrorType::InternalError, "only passthrough paths have an upstream"));
        };
        let app = &site.app;
        let (scheme, rest) = app.url.split_once("://").unwrap_or(("http", &app.url));
        let (https, port) = if scheme == "https" { (true, 443) } else { (false, 80) };
        let authority = rest.split('/').next().unwrap_or_default();
        let has_port = authority.rsplit(']').next().is_some_and(|tail| tail.contains(':'));
        let address = if has_port { authority.to_owned() } else { format!("{authority}:{port}") };
        let found = tokio::time::timeout(app.connect_timeout, tokio::net::lookup_host(&address)).await;
        let Some(address) = found.ok().and_then(Result::ok).and_then(|mut addresses| addresses.next()) else {
            let error = Error::explain(ErrorType::ConnectNoRoute, "the application's name does not resolve");
            return Err(error.into_up());
        };
        let host = authority.rsplit_once(':').filter(|_| has_port).map_or(authority, |(host, _)| host);
        let mut peer = HttpPeer::new(address, https, host.trim_matches(['[', ']']).to_owned());
        peer.options.ca = app.ca.as_ref().map(|these| authorities(these));
        peer.options.connection_timeout = Some(app.connect_timeout);
        peer.options.total_connection_timeout = Some(app.connect_timeout);
        peer.options.read_timeout = Some(app.attempt_timeout);
        peer.options.write_timeout = Some(site.write_timeout);
        peer.options.http_upstream_request_policy = HttpUpstreamRequestPolicy::deny_upgrades();
        Ok(Box::new(peer))
    }

    async fn upstream_request_filter(
        &self,
        _: &mut Session,
        upstream: &mut RequestHeader,
        passage: &mut Passage,
    ) -> pingora::Result<()> {
        let Some((_, origin)) = &passage.passthrough else { return Ok(()) };
        let named: Vec<HeaderName> = named_by_connection(upstream).collect();
        let ends_here = |name: &HeaderName| {
            let text = name.as_str();
            let hop = HOP_BY_HOP.contains(&text) || text.starts_with("proxy-") || named.contains(name);
            hop || text.starts_with("hookgate-") || text.contains('_')
        };
        let unwanted: Vec<HeaderName> = upstream.headers.keys().filter(|name| ends_here(name)).cloned().collect();
        for name in unwanted {
            upstream.remove_header(&name);
        }
        let mut told = http::HeaderMap::new();
        origin.tell(&mut told);
        for (name, value) in &told {
            upstream.insert_header(name.clone(), value.clone())?;
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        _: &mut Session,
        upstream: &mut ResponseHeader,
        _: &mut Passage,
    ) -> pingora::Result<()> {
        if upstream.status == StatusCode::SWITCHING_PROTOCOLS {
            let error = Error::explain(ErrorType::InvalidHTTPHeader, "the application switched protocols unasked");
            return Err(error.into_up());
        }
        Ok(())
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, passage: &mut Passage) -> FailToProxy {
        let settled = blame(error).filter(|_| session.response_written().is_none());
        let mut status = 0;
        if let (Some(settled), Some((site, origin))) = (settled, &passage.passthrough) {
            session.set_keepalive(None);
            let reply = Reply::of(settled, None);
            status = reply.status.as_u16();
            // A sender that does not take it is gone.
            let _taken = tokio::time::timeout(site.write_timeout, write(session, reply, &origin.request_id)).await;
        }
        FailToProxy { error_code: status, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, passage: &mut Passage) {
        if let Some((_, origin)) = passage.passthrough.take().filter(|_| !passage.answered) {
            let status = session.response_written().map_or(0, |response| response.status.as_u16());
            self.0.metrics.passed_through(passage.arrived.elapsed());
            tracing::info!(route = NO_ROUTE, disposition = "passthrough", status, request_id = origin.request_id,
                remote = %origin.remote, ack_ms = milliseconds(passage.arrived), error = error.map(ToString::to_string),
                "request");
        }
        if let Some(connection) = listener::connection() {
            connection.enter(Phase::Idle(Instant::now()));
        }
    }

    fn suppress_error_log(&self, _: &Session, _: &Passage, _: &Error) -> bool {
        true
    }
}

impl Gateway {
    async fn read_and_receive(
        &self,
        session: &mut Session,
        target: Target,
        route: &Arc<Route>,
        origin: &Origin,
        arrived: Instant,
    ) -> Received {
        let head = session.req_header();
        if !route.takes(&head.method, &head.headers, target.query.as_deref()) {
            return Settled::Refused(Refusal::MethodNotAllowed).into();
        }
        if !route.allow_from.is_empty() && !route.allow_from.iter().any(|net| net.contains(&origin.remote)) {
            return Settled::Refused(Refusal::SourceNotAllowed).into();
        }
        let deadline = Instant::now() + self.site.load().body_timeout;
        let answer_by = arrived + route.ack.budget.saturating_sub(route.ack.reserve);
        let reading =
            body::read(session.as_downstream_mut(), route.max_body_bytes, deadline.min(answer_by), &self.buffers);
        let (body, memory) = match reading.await {
            Ok(read) => read,
            Err(unread) => return Settled::from(unread).into(),
        };
        let length = f64::from(u32::try_from(body.len()).unwrap_or(u32::MAX));
        self.metrics.request_body_bytes.with_label_values(&[&*route.name]).observe(length);
        let header = session.req_header();
        let inbound = Inbound {
            method: header.method.clone(),
            path: target.path,
            query: target.query,
            headers: header.headers.clone(),
            body,
            authority: origin.authority.clone(),
            https: origin.https,
            remote: origin.remote,
        };
        self.receive(inbound, route, origin, arrived, memory).await
    }

    /// Writes the reply, counts the request and writes its line: once per request, whatever became of it.
    async fn answer(
        &self,
        session: &mut Session,
        passage: &mut Passage,
        route: Option<&Route>,
        origin: &Origin,
        received: Received,
    ) {
        let Received { settled, event, event_type } = received;
        let name: &str = route.map_or(NO_ROUTE, |route| &route.name);
        let (disposition, reason) = (settled.disposition(), settled.reason());
        let took = passage.arrived.elapsed();
        self.metrics.answered(name, &settled, took);
        if route.is_some_and(|route| took > route.ack.budget) {
            self.metrics.ack_budget_exceeded_total.with_label_values(&[name]).inc();
        }
        let reply = Reply::of(settled, route);
        let status = reply.status.as_u16();
        let unread = !session.as_downstream_mut().is_body_done();
        if unread || listener::closes() {
            session.set_keepalive(None);
        }
        let within = self.site.load().write_timeout;
        let taken = matches!(tokio::time::timeout(within, write(session, reply, &origin.request_id)).await, Ok(Ok(())));
        if !taken {
            // A reply that was cut must not be followed by another.
            session.set_keepalive(None);
        }
        if taken && unread {
            linger(session).await;
        }
        passage.answered = true;
        let answered = Answered {
            received_at: self.clock.at(passage.arrived),
            route: route.map_or_else(|| NO_ROUTE.into(), |route| route.name.clone()),
            event,
            event_type,
            disposition,
            reason,
            status,
            ack_ms: milliseconds(passage.arrived),
            remote: origin.remote,
            request_id: origin.request_id.clone(),
            body_bytes: u64::try_from(session.body_bytes_read()).unwrap_or(u64::MAX),
        };
        log_line(&answered, taken);
        self.recent.push(answered);
    }
}

/// Writes `reply` with its exact length.
async fn write(session: &mut Session, reply: Reply, request_id: &str) -> pingora::Result<()> {
    let mut header = ResponseHeader::build(reply.status, Some(reply.headers.len() + 3))?;
    for (name, value) in &reply.headers {
        header.append_header(name.clone(), value.clone())?;
    }
    header.insert_header("x-request-id", request_id)?;
    let bodiless = reply.is_bodiless() || session.req_header().method == Method::HEAD;
    if let Some(length) = reply.content_length() {
        header.insert_header(http::header::CONTENT_LENGTH, length)?;
    }
    let downstream = session.as_downstream_mut();
    let end = bodiless || reply.body.is_empty();
    downstream.write_response_header(Box::new(header)).await?;
    if !end {
        downstream.write_response_body(reply.body, true).await?;
    }
    Ok(())
}

/// Whose doing it is that a request did not pass through; `None`: the sender is gone.
fn blame(error: &Error) -> Option<Settled> {
    match (error.esource(), error.etype()) {
        (ErrorSource::Downstream, ErrorType::ConnectionClosed | ErrorType::WriteError | ErrorType::WriteTimedout) => {
            None
        }
        (ErrorSource::Downstream, _) => Some(Settled::Refused(body::blame(error))),
        (_, ErrorType::ConnectTimedout | ErrorType::ReadTimedout | ErrorType::WriteTimedout) => {
            Some(Settled::AppFailed(Err(StatusCode::GATEWAY_TIMEOUT)))
        }
        (ErrorSource::Upstream | ErrorSource::Internal | ErrorSource::Unset, _) => {
            Some(Settled::AppFailed(Err(StatusCode::BAD_GATEWAY)))
        }
    }
}

/// Reads some of an unwanted body away: closing a socket with unread bytes would reset it, and the sender would see a
/// broken connection in place of the refusal.
async fn linger(session: &mut Session) {
    let reading = async {
        let mut read = 0_usize;
        while let Ok(Some(piece)) = session.as_downstream_mut().read_request_body().await {
            read = read.saturating_add(piece.len());
            if read > LINGER_BYTES {
                break;
            }
        }
    };
    // Whether the sender finished makes no difference: the connection is closed either way.
    let _finished = tokio::time::timeout(LINGER, reading).await;
}

/// One line per request, at its end.
fn log_line(answered: &Answered, taken: bool) {
    tracing::info!(
        route = &*answered.route,
        disposition = answered.disposition,
        reason = answered.reason,
        status = answered.status,
        event = answered.event.map(|id| id.to_string()),
        event_type = answered.event_type,
        request_id = answered.request_id,
        remote = %answered.remote,
        body_bytes = answered.body_bytes,
        ack_ms = answered.ack_ms,
        taken,
        "request"
    );
}

pub(super) fn milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Path and query, byte for byte.
struct Target {
    path: String,
    query: Option<String>,
}

impl Target {
    /// Only origin-form that is printable ASCII and can be sent on as it is (RFC 9112 section 3.2.1).
    fn of(header: &RequestHeader) -> Option<Self> {
        let raw = std::str::from_utf8(header.raw_path()).ok()?;
        let printable = raw.bytes().all(|byte| byte.is_ascii_graphic());
        if !printable || !raw.starts_with('/') || raw.contains('#') || raw.parse::<http::uri::PathAndQuery>().is_err() {
            return None;
        }
        let host_is_one = header.headers.get_all(HOST).iter().count() <= 1;
        let connection_is_plain = header.headers.get_all(CONNECTION).iter().all(is_text);
        if !host_is_one || !connection_is_plain {
            return None;
        }
        Some(match raw.split_once('?') {
            Some((path, query)) => Self { path: path.to_owned(), query: Some(query.to_owned()) },
            None => Self { path: raw.to_owned(), query: None },
        })
    }
}

/// Authorities of an application's certificate, as Pingora wants them.
fn authorities(these: &[Vec<u8>]) -> Arc<[WrappedX509]> {
    these.iter().map(|one| WrappedX509::new(one.clone(), parse_x509)).collect()
}

/// The names in all `Connection` headers.
fn named_by_connection(header: &RequestHeader) -> impl Iterator<Item = HeaderName> {
    let values = header.headers.get_all(CONNECTION).iter();
    let names = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    names.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
}

fn is_text(value: &HeaderValue) -> bool {
    value.to_str().is_ok()
}

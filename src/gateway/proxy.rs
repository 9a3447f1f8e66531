//! What passes through: paths that no route guards go through Pingora's proxy phases, streamed and unverified. No webhook
//! comes here.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING};
use http::{HeaderName, Method, StatusCode, Version};
use pingora::ErrorSource;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::{Error, ErrorType, HttpPeer};
use pingora::protocols::http::ServerSession;
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::upstreams::peer::HttpUpstreamRequestPolicy;
use pingora::utils::tls::{WrappedX509, parse_x509};
use tokio::time::Instant;

use super::Gateway;
use super::connections::Phase;
use super::exchange::{After, milliseconds};
use super::forwarded::Origin;
use super::listener::{self, Visit};
use super::reply::Reply;
use super::site::Site;
use crate::buffers::{Reserved, Use};
use crate::domain::fault::Fault;
use crate::domain::headers::Headers;
use crate::domain::outcome::Settled;
use crate::domain::refusal::Refusal;
use crate::domain::route::{AppPolicy, HostHeader};
use crate::telemetry::NO_ROUTE;

/// Most of an unwanted body that is read away so that the sender gets to read the refusal.
pub(super) const LINGER_BYTES: usize = 256 * 1024;

/// How long that may take.
pub(super) const LINGER: std::time::Duration = std::time::Duration::from_secs(2);

/// What a request takes that passes through: Pingora's session, its connection to the application and its tasks.
const PASSAGE_BYTES: usize = 48 * 1024;

/// What its body takes besides, if it has one: Pingora keeps the beginning for another try and some pieces on their way.
const BODY_BYTES: usize = 96 * 1024;

/// What a long answer takes besides while its sender reads slowly: up to ten pieces as large as [`RECEIVE_BYTES`] lets them be.
const ANSWER_BYTES: usize = 208 * 1024;

/// An answer up to this length takes nothing worth counting.
const SHORT_ANSWER_BYTES: usize = 16 * 1024;

/// What the system keeps of an application's answer before it is read (it doubles this). It is what bounds the pieces that
/// Pingora reads, whose own buffers of 64 KiB would be filled otherwise.
const RECEIVE_BYTES: usize = 8 * 1024;

/// Most addresses of the application's name that are tried for one request.
pub(super) const ADDRESSES: usize = 8;

/// What Pingora is told where there is no room for what wants to pass through.
const NO_ROOM: &str = "no room in memory";

/// One request on its way through Pingora's phases.
pub(crate) struct Passage {
    arrived: Instant,
    /// What it takes of the gateway's memory.
    room: Reserved,
    is_turned_away: bool,
    /// Set once the request is known to pass through.
    passthrough: Option<(Arc<Site>, Origin)>,
    way: Option<Way>,
}

/// How the application is reached.
struct Way {
    /// Those that are left to try, the next one last.
    addresses: Vec<SocketAddr>,
    /// When there has to be a connection.
    by: Instant,
}

/// What concerns the sender's connection alone (RFC 9110 section 7.6.1); the guard lets no upgrade in.
const HOP_BY_HOP: [&str; 6] = ["connection", "keep-alive", "te", "trailer", "expect", "http2-settings"];

/// The gateway in Pingora's clothes.
pub(super) struct Proxy(pub(super) Arc<Gateway>);

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = Passage;

    fn new_ctx(&self) -> Passage {
        let connection = listener::visit().map(|visit| visit.connection);
        let began = match connection.as_ref().map(|connection| connection.phase()) {
            Some(Phase::Head(began) | Phase::Busy(began)) => began,
            Some(Phase::Idle(_)) | None => Instant::now(),
        };
        if let Some(connection) = &connection {
            connection.enter(Phase::Busy(began));
        }
        let arrived = connection.map_or(began, |connection| connection.arrived(began));
        let room = self.0.buffers.reserve(Use::Passages);
        Passage { arrived, room, is_turned_away: false, passthrough: None, way: None }
    }

    async fn request_filter(&self, session: &mut Session, passage: &mut Passage) -> pingora::Result<bool> {
        let Some(Visit { connection, site, after }) = listener::visit() else {
            return Err(Error::explain(ErrorType::InternalError, "a request without a connection"));
        };
        session.set_write_timeout(Some(site.write_timeout));
        session.set_read_timeout(Some(site.body_timeout));
        session.set_total_drain_timeout(Some(LINGER));
        if after == After::Closes {
            session.set_keepalive(None);
        }
        let headers = session.req_header().headers.iter().map(|(name, value)| (name.clone(), value.clone()));
        let (headers, now, chance) = (headers.collect::<Headers>(), self.0.clock.now(), fastrand::u128(..));
        let origin = Origin::of(&connection.peer, &headers, &site.trusted_proxies, now, chance);
        passage.passthrough = Some((site, origin));
        let body = if has_body(session.req_header()) { BODY_BYTES } else { 0 };
        passage.take(PASSAGE_BYTES + body)?;
        if waits_for_continue(session.req_header()) {
            // The application is asked for nothing: what it gets is bounded all the same.
            go_on(session.as_downstream_mut()).await?;
        }
        Ok(false)
    }

    async fn upstream_peer(&self, _: &mut Session, passage: &mut Passage) -> pingora::Result<Box<HttpPeer>> {
        let Some((site, _)) = &passage.passthrough else {
            return Err(Error::explain(ErrorType::InternalError, "only passthrough paths have an upstream"));
        };
        let app = &site.app;
        let way = match &mut passage.way {
            Some(way) => way,
            unknown @ None => unknown.insert(Way::to(app).await),
        };
        let Some(address) = way.addresses.last() else {
            let error = Error::explain(ErrorType::ConnectNoRoute, "the application's name does not resolve");
            return Err(error.into_up());
        };
        let mut peer = HttpPeer::new(*address, app.url.is_https(), app.url.host().to_owned());
        peer.options.ca = app.ca.as_ref().map(|these| authorities(these));
        // Each address gets its share of the time, so that one that is silent does not hide the others.
        let left = u32::try_from(way.addresses.len()).unwrap_or(u32::MAX).max(1);
        let patience = way.by.saturating_duration_since(Instant::now()) / left;
        peer.options.connection_timeout = Some(patience);
        peer.options.total_connection_timeout = Some(patience);
        peer.options.read_timeout = Some(app.attempt_timeout);
        peer.options.write_timeout = Some(site.write_timeout);
        peer.options.tcp_recv_buf = Some(RECEIVE_BYTES);
        peer.options.http_upstream_request_policy = HttpUpstreamRequestPolicy::deny_upgrades();
        Ok(Box::new(peer))
    }

    async fn upstream_request_filter(
        &self,
        _: &mut Session,
        upstream: &mut RequestHeader,
        passage: &mut Passage,
    ) -> pingora::Result<()> {
        let Some((site, origin)) = &passage.passthrough else { return Ok(()) };
        let named: Vec<HeaderName> = named_by_connection(upstream).collect();
        let ends_here = |name: &HeaderName| {
            let text = name.as_str();
            let hop = HOP_BY_HOP.contains(&text) || text.starts_with("proxy-") || named.contains(name);
            // Who the sender is only the gateway says, and it does not say it by these.
            let lies = text.starts_with("hookgate-") || matches!(text, "forwarded" | "x-real-ip");
            hop || lies || text.contains('_')
        };
        let unwanted: Vec<HeaderName> = upstream.headers.keys().filter(|name| ends_here(name)).cloned().collect();
        for name in unwanted {
            upstream.remove_header(&name);
        }
        let mut told = Headers::new();
        origin.tell(&mut told);
        for (name, value) in &told {
            upstream.insert_header(name.clone(), value.clone())?;
        }
        if site.app.host == HostHeader::Rewrite {
            upstream.insert_header(HOST, site.app.url.authority())?;
        }
        if !site.app.url.prefix().is_empty() {
            let target = [site.app.url.prefix().as_bytes(), upstream.raw_path()].concat();
            upstream.set_raw_path(&target)?;
        }
        Ok(())
    }

    /// An address that takes no connection leaves the others.
    fn fail_to_connect(
        &self,
        _: &mut Session,
        _: &HttpPeer,
        passage: &mut Passage,
        mut error: Box<Error>,
    ) -> Box<Error> {
        let another = passage.way.as_mut().is_some_and(|way| {
            way.addresses.pop();
            !way.addresses.is_empty() && Instant::now() < way.by
        });
        error.set_retry(another);
        error
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        upstream: &mut ResponseHeader,
        passage: &mut Passage,
    ) -> pingora::Result<()> {
        if upstream.status == StatusCode::SWITCHING_PROTOCOLS {
            let error = Error::explain(ErrorType::InvalidHTTPHeader, "the application switched protocols unasked");
            return Err(error.into_up());
        }
        let status = upstream.status;
        // An interim answer comes beside the final one, and as often as the application likes.
        let bodiless = status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let asks_for_head = session.req_header().method == Method::HEAD;
        if !bodiless && !asks_for_head && length(upstream).is_none_or(|length| length > SHORT_ANSWER_BYTES) {
            passage.take(ANSWER_BYTES)?;
        }
        Ok(())
    }

    /// HTTP/1.0 knows no chunks: what has no length ends with the connection (RFC 9112 section 6.1).
    async fn response_filter(
        &self,
        session: &mut Session,
        answer: &mut ResponseHeader,
        _: &mut Passage,
    ) -> pingora::Result<()> {
        let is_old = session.req_header().version == Version::HTTP_10;
        if is_old && !answer.status.is_informational() && answer.remove_header(&TRANSFER_ENCODING).is_some() {
            session.set_keepalive(None);
        }
        Ok(())
    }

    /// What was sent is not sent again: the application may have it.
    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        _: &mut Session,
        mut error: Box<Error>,
        _: &mut Passage,
        _: bool,
    ) -> Box<Error> {
        error.set_retry(false);
        error
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, passage: &mut Passage) -> FailToProxy {
        let settled = blame(error).filter(|_| answered(session).is_none());
        passage.is_turned_away = matches!(settled, Some(Settled::Unavailable(_)));
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
        if let Some((_, origin)) = passage.passthrough.take() {
            let status = answered(session).map_or(0, |status| status.as_u16());
            let (disposition, reason) = self.count(passage);
            tracing::info!(route = NO_ROUTE, disposition, reason, status, request_id = origin.request_id,
                remote = %origin.remote, ack_ms = milliseconds(passage.arrived.elapsed()), error = error.map(told),
                "request");
        }
        if let Some(Visit { connection, .. }) = listener::visit() {
            connection.enter(Phase::Idle(Instant::now()));
        }
    }

    fn suppress_error_log(&self, _: &Session, _: &Passage, _: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(&self, _: &Session, _: &Passage, _: &Error, _: ProxyWarnLogContext) -> bool {
        true
    }
}

impl Proxy {
    /// Counts a request that is over, and says how it ended and why.
    fn count(&self, passage: &Passage) -> (&'static str, Option<&'static str>) {
        let took = passage.arrived.elapsed();
        if !passage.is_turned_away {
            self.0.metrics.passed_through(took);
            return ("passthrough", None);
        }
        let settled = Settled::Unavailable(Fault::Overloaded);
        self.0.metrics.answered(NO_ROUTE, &settled, took);
        (settled.disposition(), settled.reason())
    }
}

impl Passage {
    /// Has so many more bytes of memory, or is turned away.
    fn take(&mut self, bytes: usize) -> pingora::Result<()> {
        self.room.grow(bytes).map_err(|_| Error::explain(ErrorType::Custom(NO_ROOM), "the gateway's memory is taken"))
    }
}

impl Way {
    /// All addresses of the application's name, in the order in which the system gives them.
    async fn to(app: &AppPolicy) -> Self {
        let by = Instant::now() + app.connect_timeout;
        let found = tokio::time::timeout_at(by, tokio::net::lookup_host((app.url.host(), app.url.port()))).await;
        let mut addresses: Vec<_> = found.ok().and_then(Result::ok).into_iter().flatten().take(ADDRESSES).collect();
        addresses.reverse();
        Self { addresses, by }
    }
}

/// The status of the final answer that has left, if one has.
fn answered(session: &Session) -> Option<StatusCode> {
    session.response_written().map(|answer| answer.status).filter(|status| !status.is_informational())
}

/// What went wrong, without what Pingora quotes: that may be what the application said.
fn told(error: &Error) -> String {
    let (at, what) = (error.esource().as_str(), error.etype().as_str());
    let said = error.root_cause().downcast_ref::<io::Error>();
    said.map_or_else(|| format!("{at}: {what}"), |said| format!("{at}: {what}: {said}"))
}

/// Whether a request has a body; the guard has judged its framing.
fn has_body(head: &RequestHeader) -> bool {
    let length = head.headers.get(CONTENT_LENGTH);
    head.headers.contains_key(TRANSFER_ENCODING) || length.is_some_and(|length| length.as_bytes() != b"0")
}

/// How long an answer says it is.
fn length(head: &ResponseHeader) -> Option<usize> {
    head.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
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
        (_, ErrorType::Custom(NO_ROOM)) => Some(Settled::Unavailable(Fault::Overloaded)),
        (ErrorSource::Downstream, ErrorType::ConnectionClosed | ErrorType::WriteError | ErrorType::WriteTimedout) => {
            None
        }
        (ErrorSource::Downstream, _) => Some(Settled::Refused(unread(error))),
        (_, ErrorType::ConnectTimedout | ErrorType::ReadTimedout | ErrorType::WriteTimedout) => {
            Some(Settled::AppFailed(Err(StatusCode::GATEWAY_TIMEOUT)))
        }
        (ErrorSource::Upstream | ErrorSource::Internal | ErrorSource::Unset, _) => {
            Some(Settled::AppFailed(Err(StatusCode::BAD_GATEWAY)))
        }
    }
}

/// Whether a sender holds its body back until it is told to go on (RFC 9110 section 10.1.1).
fn waits_for_continue(head: &RequestHeader) -> bool {
    head.version == Version::HTTP_11 && head.headers.contains_key(EXPECT)
}

/// Tells a sender to go on. The parser takes any reply before the end of a body for the last one of the connection.
async fn go_on(session: &mut ServerSession) -> pingora::Result<()> {
    let keepalive = session.get_keepalive();
    session.write_continue_response().await?;
    session.set_keepalive(keepalive);
    Ok(())
}

/// What is wrong with a body that could not be read.
fn unread(error: &Error) -> Refusal {
    let ran_out = |cause: &io::Error| cause.kind() == io::ErrorKind::TimedOut;
    if *error.etype() == ErrorType::ReadTimedout || error.root_cause().downcast_ref().is_some_and(ran_out) {
        Refusal::RequestTimeout
    } else {
        Refusal::BadRequest
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

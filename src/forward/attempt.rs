//! One attempt: one HTTP/1.1 request to the application, and what became of it; in a simulation, what a stand-in for
//! the application says.
//!
//! It decides nothing about what comes next. It never follows a redirect, never sends twice, and never sends a part:
//! the body is in memory and its length is stated.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as PooledClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::Instant;

use super::trust::Trust;
use crate::domain::event::Event;
use crate::domain::outcome::{AppAnswer, Outcome, Timeout};
use crate::domain::route::{AppPolicy, HostHeader};

/// Longest answer body that is relayed; a longer one counts as broken off and is not relayed.
const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;

/// Idle connections are given up before the shortest common keep-alive of an application (gunicorn: 2 s) ends, so that
/// a request does not meet a connection that is being closed.
const POOL_IDLE: Duration = Duration::from_millis(1500);

/// The body is handed over in pieces of this size, to know whether the last one was taken.
const PIECE: usize = 64 * 1024;

/// What carries attempts to the application. Cloning shares it.
#[derive(Clone, Debug)]
pub enum Client {
    /// The pooled HTTP client of one connect timeout and one choice of authorities.
    Http(Http),
    /// No client came about, for this reason.
    None(Arc<str>),
    /// A simulation's application.
    Stand(Arc<dyn Application>),
}

/// The pooled HTTP client.
#[derive(Clone, Debug)]
pub struct Http(PooledClient<HttpsConnector<HttpConnector>, Pieces>);

/// An application without a socket, for simulations.
#[async_trait]
pub trait Application: Send + Sync + std::fmt::Debug {
    /// Takes one sending. An answer that does not come within `app.attempt_timeout` is not waited for: the future is
    /// dropped then, and the outcome is unknown.
    async fn take(&self, event: &Event, sending: Sending) -> Outcome;
}

/// What makes one sending of an event different from another.
#[derive(Clone, Copy, Debug)]
pub struct Sending {
    /// 1, 2, …: `Hookgate-Attempt`.
    pub attempt: u32,
    /// Whether an earlier sending may have been processed: `Hookgate-Possible-Duplicate`.
    pub possible_duplicate: bool,
    /// Whether an operator asked for it: `Hookgate-Replay`.
    pub replay: bool,
}

impl Client {
    /// A client that gives up connecting after `connect_timeout`, and believes whom `trust` says.
    #[must_use]
    pub fn new(connect_timeout: Duration, trust: &Trust) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(connect_timeout));
        connector.set_nodelay(true);
        connector.enforce_http(false);
        let tls = match trust.tls() {
            Ok(tls) => tls,
            Err(error) => return Self::None(format!("TLS cannot be set up: {error}").into()),
        };
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(connector);
        let client = PooledClient::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .http1_title_case_headers(true)
            .set_host(false)
            .build(connector);
        Self::Http(Http(client))
    }

    /// Sends `event` once. The status line must come within `app.attempt_timeout`; the answer's body may take until
    /// `body_by`, and a body that takes longer is given up without changing the outcome.
    ///
    /// If the future is dropped the connection is closed and the application may or may not have the event.
    pub async fn send(&self, event: &Event, app: &AppPolicy, sending: Sending, body_by: Instant) -> Outcome {
        match self {
            Self::Http(http) => http.send(event, app, sending, body_by).await,
            Self::None(why) => Outcome::Unreachable((**why).to_owned()),
            Self::Stand(stand) => {
                let taken = tokio::time::timeout(app.attempt_timeout, stand.take(event, sending)).await;
                taken.unwrap_or_else(|_| no_status_line(app.attempt_timeout))
            }
        }
    }
}

impl Http {
    async fn send(&self, event: &Event, app: &AppPolicy, sending: Sending, body_by: Instant) -> Outcome {
        let taken = Arc::new(AtomicBool::new(false));
        let request = match request(event, app, sending, taken.clone()) {
            Ok(request) => request,
            Err(error) => return Outcome::Unreachable(format!("cannot write the request: {error}")),
        };
        let until = Instant::now() + app.attempt_timeout;
        match tokio::time::timeout_at(until, self.0.request(request)).await {
            Ok(Ok(response)) => Outcome::of_answer(complete(response, body_by).await),
            Ok(Err(error)) if error.is_connect() || !taken.load(Ordering::Acquire) => {
                Outcome::Unreachable(format!("cannot reach the application: {}", chain(&error)))
            }
            Ok(Err(error)) => Outcome::Unknown {
                error: format!("the connection broke before a status line came: {}", chain(&error)),
                timed_out: Timeout::No,
            },
            Err(_) if !taken.load(Ordering::Acquire) => {
                Outcome::Unreachable(format!("the application took no request within {:?}", app.attempt_timeout))
            }
            Err(_) => no_status_line(app.attempt_timeout),
        }
    }
}

fn no_status_line(within: Duration) -> Outcome {
    Outcome::Unknown { error: format!("no status line came within {within:?}"), timed_out: Timeout::Elapsed }
}

/// The request as the application gets it.
fn request(
    event: &Event,
    app: &AppPolicy,
    sending: Sending,
    taken: Arc<AtomicBool>,
) -> Result<Request<Pieces>, http::Error> {
    let uri: Uri = format!("{}{}", app.url, event.target).parse()?;
    let host = match app.host {
        HostHeader::Preserve if !event.authority.is_empty() => HeaderValue::from_str(&event.authority)?,
        HostHeader::Preserve | HostHeader::Rewrite => {
            HeaderValue::from_str(uri.authority().map_or("", http::uri::Authority::as_str))?
        }
    };
    let mut request = Request::new(Pieces { rest: event.body.clone(), taken });
    *request.method_mut() = event.method.clone();
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    *headers = event.headers.clone();
    headers.insert(HOST, host);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(event.body.len()));
    headers.insert(HeaderName::from_static("hookgate-event"), text(&event.id)?);
    headers.insert(HeaderName::from_static("hookgate-key"), text(&event.key)?);
    headers.insert(HeaderName::from_static("hookgate-route"), HeaderValue::from_str(&event.route)?);
    headers.insert(HeaderName::from_static("hookgate-attempt"), HeaderValue::from(sending.attempt));
    if sending.possible_duplicate {
        headers.insert(HeaderName::from_static("hookgate-possible-duplicate"), HeaderValue::from_static("true"));
    }
    if sending.replay {
        headers.insert(HeaderName::from_static("hookgate-replay"), HeaderValue::from_static("true"));
    }
    Ok(request)
}

fn text(value: &impl ToString) -> Result<HeaderValue, http::Error> {
    Ok(HeaderValue::from_str(&value.to_string())?)
}

/// The whole answer, or its head alone if the body is too long, too late or broken.
async fn complete(response: Response<Incoming>, body_by: Instant) -> AppAnswer {
    let (head, body) = response.into_parts();
    let mut headers = end_to_end(head.headers);
    let limited = http_body_util::Limited::new(body, MAX_ANSWER_BYTES);
    let body = if let Ok(Ok(whole)) = tokio::time::timeout_at(body_by, limited.collect()).await {
        whole.to_bytes()
    } else {
        headers.clear();
        Bytes::new()
    };
    AppAnswer { status: head.status, headers, body }
}

/// The headers of an answer that concern its receiver and not the connection (RFC 9110 section 7.6.1).
fn end_to_end(mut headers: HeaderMap) -> HeaderMap {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING] {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection", "proxy-authenticate", "te", "trailer", "upgrade"] {
        headers.remove(name);
    }
    headers
}

/// An error with its causes, one after the other.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

/// A body in memory, handed over in pieces; remembers whether the last piece was taken.
#[derive(Debug)]
struct Pieces {
    rest: Bytes,
    taken: Arc<AtomicBool>,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let size = self.rest.len().min(PIECE);
        let piece = self.rest.split_to(size);
        if self.rest.is_empty() {
            self.taken.store(true, Ordering::Release);
        }
        Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        // An empty body is never polled: it counts as taken as soon as the client looks at it.
        if self.rest.is_empty() {
            self.taken.store(true, Ordering::Release);
        }
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(u64::try_from(self.rest.len()).unwrap_or(u64::MAX))
    }
}

//! The client of the admin listener, and of any plain HTTP address a command speaks to. It follows no redirect, speaks
//! no TLS and keeps nothing.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, TE};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use super::args::Door;
use super::output::say;
use super::settings::reachable;
use super::{Context, Exit, Failure};
use crate::config::ADMIN_VARIABLE;
use crate::telemetry::NO_ROUTE;

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(3);

/// Longest wait for the head of an answer: the longest call retries a thousand events at the rate that was asked for.
const ANSWER: Duration = Duration::from_secs(600);

/// Longest answer that is held in memory, in bytes.
const LONGEST_ANSWER: usize = 64 * 1024 * 1024;

/// Where the admin listener is when nobody says.
const USUAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9465);

/// A gateway's admin listener.
pub(super) struct Admin {
    base: String,
    authorization: Option<HeaderValue>,
    client: Http,
}

/// A plain HTTP client.
pub(super) type Http = Client<HttpConnector, Full<Bytes>>;

/// A client whose connections are given up after [`CONNECT`].
pub(super) fn http() -> Http {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(CONNECT));
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new()).build(connector)
}

/// Runs what a command has to wait for.
pub(super) fn wait<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("cannot set up a thread: {error}")))?;
    runtime.block_on(work)
}

/// The same for a whole gateway.
pub(super) fn wait_on_threads<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("cannot set up threads: {error}")))?;
    runtime.block_on(work)
}

impl Admin {
    /// The gateway that the command line or the configuration names.
    pub(super) fn of(context: &Context, door: &Door) -> Result<Self, Failure> {
        let named = door.admin.clone().filter(|text| !text.is_empty());
        let base = match named.or_else(|| context.variable(ADMIN_VARIABLE)) {
            Some(text) => base_of(&text)?,
            None => format!("http://{}", context.listener("admin", USUAL)?),
        };
        let authorization = match context.admin_token() {
            None => None,
            Some(token) => {
                let line = [b"Bearer ".as_slice(), token.expose()].concat();
                let mut value = HeaderValue::from_bytes(&line)
                    .map_err(|_| Failure::usage("the admin token holds bytes that no header can hold"))?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        Ok(Self { base, authorization, client: http() })
    }

    /// Asks for an object.
    pub(super) async fn get(&self, path: &str) -> Result<Value, Failure> {
        let answer = self.ask(Method::GET, path, None).await?;
        read_json(answer).await
    }

    /// Asks for something to be done.
    pub(super) async fn act(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let answer = self.ask(method, path, body).await?;
        read_json(answer).await
    }

    /// Asks, and gives the body of a good answer as it comes.
    pub(super) async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Incoming, Failure> {
        // What a stream could not hold stands behind it.
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base)).header(TE, "trailers");
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let bytes = match body {
            Some(body) => {
                request = request.header(CONTENT_TYPE, "application/json");
                Bytes::from(body.to_string())
            }
            None => Bytes::new(),
        };
        let request =
            request.body(Full::new(bytes)).map_err(|error| Failure::usage(format!("{}: {error}", self.base)))?;
        let answer = match tokio::time::timeout(ANSWER, self.client.request(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(self.unreachable(&cause(&error))),
            Err(_) => return Err(self.unreachable("it did not answer in time")),
        };
        let status = answer.status();
        if status.is_success() { Ok(answer.into_body()) } else { Err(refusal(status, answer.into_body()).await) }
    }

    /// Says it if nothing was found because no route has that name.
    pub(super) async fn doubt(&self, route: Option<&str>) {
        let Some(route) = route.filter(|route| *route != NO_ROUTE) else { return };
        // It is a remark beside an answer that has come: if the routes cannot be had nothing is said.
        let Ok(Value::Array(routes)) = self.get("/api/routes").await else { return };
        if !routes.iter().any(|known| known.get("name").and_then(Value::as_str) == Some(route)) {
            say(&format!("no route is called {route:?}; `hookgate status` lists them"));
        }
    }

    fn unreachable(&self, why: &str) -> Failure {
        let text = format!(
            "no gateway answers at {}: {why}. Does it run? --admin gives another address; `hookgate status`, \
             `dlq list` and `spool verify` read the spool of a stopped one with --spool",
            self.base
        );
        Failure::new(Exit::Unreachable, text)
    }
}

/// `http://host:port` of what people write: with or without the scheme, with a wildcard address.
fn base_of(text: &str) -> Result<String, Failure> {
    let bare = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    if bare.contains("://") || bare.contains('/') {
        return Err(Failure::usage(format!("{text:?} is not an admin address: they look like http://127.0.0.1:9465")));
    }
    let bare = bare.parse::<SocketAddr>().map_or_else(|_| bare.to_owned(), |address| reachable(address).to_string());
    Ok(format!("http://{bare}"))
}

/// The sentence of a problem.
async fn refusal(status: StatusCode, body: Incoming) -> Failure {
    let problem = read_json(body).await.unwrap_or(Value::Null);
    let detail = problem.get("detail").and_then(Value::as_str).unwrap_or("it gave no reason");
    let faults = problem.get("faults").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut text = match status {
        StatusCode::UNAUTHORIZED => format!("{detail}; set HOOKGATE_ADMIN_TOKEN"),
        _ => detail.to_owned(),
    };
    for fault in faults.iter().filter_map(Value::as_str) {
        text.push('\n');
        text.push_str(fault);
    }
    match status {
        StatusCode::UNPROCESSABLE_ENTITY => Failure::new(Exit::BadConfiguration, text),
        // The same mistake is one of usage where a spool is read in place of a gateway.
        StatusCode::BAD_REQUEST => Failure::usage(text),
        _ => Failure::failed(text),
    }
}

async fn read_json(body: Incoming) -> Result<Value, Failure> {
    let bytes = read(body).await?;
    serde_json::from_slice(&bytes).map_err(|_| Failure::failed("what answers there is not a hookgate's admin listener"))
}

/// The whole of a body.
pub(super) async fn read(body: Incoming) -> Result<Bytes, Failure> {
    let read = http_body_util::Limited::new(body, LONGEST_ANSWER).collect().await;
    read.map(http_body_util::Collected::to_bytes)
        .map_err(|error| Failure::failed(format!("the answer broke off: {error}")))
}

/// The innermost reason, which is the one that people can do something about.
pub(super) fn cause(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// A query of the fields that are given.
pub(super) fn query(fields: &[(&str, Option<&str>)]) -> String {
    let given = fields.iter().filter_map(|(name, value)| value.map(|value| format!("{name}={}", encoded(value))));
    let text = given.collect::<Vec<_>>().join("&");
    if text.is_empty() { text } else { format!("?{text}") }
}

/// Percent-encoded, but for what is unreserved (RFC 3986 section 2.3).
pub(super) fn encoded(text: &str) -> String {
    let letter = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admin_address_is_what_people_write() {
        for text in ["127.0.0.1:9465", "http://127.0.0.1:9465", "http://127.0.0.1:9465/", "0.0.0.0:9465"] {
            assert_eq!(base_of(text).unwrap(), "http://127.0.0.1:9465", "{text}");
        }
        assert_eq!(base_of("gateway:9465").unwrap(), "http://gateway:9465");
        for text in ["https://127.0.0.1:9465", "http://127.0.0.1:9465/api"] {
            assert_eq!(base_of(text).unwrap_err().exit, Exit::Usage, "{text}");
        }
    }

    #[test]
    fn a_query_holds_what_is_given() {
        assert_eq!(query(&[("a", None)]), "");
        assert_eq!(
            query(&[("since", Some("2026-01-31T12:00:00+01:00")), ("a", None), ("b", Some("c&d"))]),
            "?since=2026-01-31T12%3A00%3A00%2B01%3A00&b=c%26d"
        );
    }
}

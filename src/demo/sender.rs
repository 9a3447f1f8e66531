//! The demonstration's senders: they sign as their providers document and post over a real socket.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use crate::config::Config;
use crate::domain::headers::Headers;
use crate::domain::route::Route;
use crate::domain::scheme::Unsigned;
use crate::domain::secret::Secret;
use crate::domain::time::Timestamp;

/// Everybody who sends.
pub(super) struct Sender {
    address: SocketAddr,
    routes: HashMap<String, Arc<Route>>,
    secret: Secret,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// An answer and how long it took.
#[derive(Debug)]
pub(super) struct Answer {
    /// Its status; 0 if there was none.
    pub(super) status: u16,
    /// Its body.
    pub(super) body: Bytes,
    /// From the first byte out to the last byte in.
    pub(super) took: Duration,
}

impl Sender {
    /// Senders for the routes of `config` behind `address`.
    pub(super) fn new(address: SocketAddr, config: &Config, secret: Secret) -> Self {
        let routes = config.routes.iter().map(|route| (route.name.to_string(), route.clone())).collect();
        Self { address, routes, secret, client: Client::builder(TokioExecutor::new()).build_http() }
    }

    /// The headers that `route`'s provider would send with `body` at `at`.
    pub(super) fn sign(&self, route: &str, body: &[u8], at: Timestamp) -> Headers {
        let Some(route) = self.routes.get(route) else { return Headers::new() };
        let mut request = Unsigned {
            method: Method::POST,
            url: format!("http://{}{}", self.address, route.path),
            headers: Headers::new(),
            body: Bytes::copy_from_slice(body),
        };
        // A scheme that cannot sign sends unsigned, and its act fails.
        let _signed = route.scheme.sign(&mut request, &self.secret, at);
        request.headers
    }

    /// Posts `body` with `headers` to `route`.
    pub(super) async fn post(&self, route: &str, headers: Headers, body: &[u8]) -> Answer {
        let began = Instant::now();
        let path = self.routes.get(route).map_or("/", |route| route.path.as_str());
        let mut request = Request::new(Full::new(Bytes::copy_from_slice(body)));
        *request.method_mut() = Method::POST;
        *request.headers_mut() = headers.into();
        let Ok(uri) = format!("http://{}{path}", self.address).parse() else {
            return Answer { status: 0, body: Bytes::new(), took: began.elapsed() };
        };
        *request.uri_mut() = uri;
        let (status, body) = match self.client.request(request).await {
            Ok(response) => {
                let status = response.status().as_u16();
                let body = response.into_body().collect().await.map(http_body_util::Collected::to_bytes);
                (status, body.unwrap_or_default())
            }
            Err(_) => (0, Bytes::new()),
        };
        Answer { status, body, took: began.elapsed() }
    }
}

//! A request as it came off the wire: complete, capped, and not yet believed.

use std::net::IpAddr;

use crate::domain::headers::Headers;
use bytes::Bytes;
use http::Method;

/// One request of a sender with its whole body. Nothing in it is trusted until a scheme has verified it.
#[derive(Clone, Debug)]
pub struct Inbound {
    /// The method as sent.
    pub method: Method,
    /// The path as sent, byte for byte, without the query. Never decoded or normalised.
    pub path: String,
    /// The query as sent, without its `?`; `None` if there was no `?`.
    pub query: Option<String>,
    /// The header lines; repeated names are kept in their order.
    pub headers: Headers,
    /// The body with transfer coding removed, byte for byte.
    pub body: Bytes,
    /// `Host`, or what a trusted proxy said it was.
    pub authority: String,
    /// Whether the sender spoke TLS, with us or with a trusted proxy.
    pub https: bool,
    /// The sender's address, or what a trusted proxy said it was.
    pub remote: IpAddr,
}

impl Inbound {
    /// Path and query as they stood in the request line.
    #[must_use]
    pub fn target(&self) -> String {
        self.query.as_ref().map_or_else(|| self.path.clone(), |query| format!("{}?{query}", self.path))
    }

    /// The full address the sender called: `public_url` if given (scheme, host, port and path, to which the
    /// request's own query is appended), else what the request itself says.
    #[must_use]
    pub fn url(&self, public_url: Option<&str>) -> String {
        let scheme = if self.https { "https" } else { "http" };
        let base = public_url.map_or_else(|| format!("{scheme}://{}{}", self.authority, self.path), str::to_owned);
        self.query.as_ref().map_or_else(|| base.clone(), |query| format!("{base}?{query}"))
    }
}

//! A row of the vectors: a request that a provider's own library signed, or that was tampered with.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use bytes::Bytes;
use data_encoding::BASE64;
use hookgate::domain::headers::Headers;
use hookgate::domain::inbound::Inbound;
use http::{HeaderName, HeaderValue};
use serde::Deserialize;

/// One request and what must become of it.
#[derive(Clone, Deserialize)]
pub struct Row {
    /// The built-in's name.
    pub provider: String,
    /// What is special about it.
    pub case: String,
    /// `valid` must be accepted, `attack` must be refused, `edge` is a choice.
    pub tier: String,
    /// The method.
    pub method: String,
    /// The address that the sender called.
    pub url: String,
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// The body in base64.
    pub body_b64: String,
    /// What the route holds.
    pub secrets: Vec<String>,
    /// The moment, in seconds since 1970.
    pub now_unix: i64,
}

impl Row {
    /// The request as it is received.
    pub fn inbound(&self) -> Inbound {
        let (_, rest) = self.url.split_once("://").expect("an absolute address");
        let (authority, target) = rest.split_at(rest.find('/').expect("a path"));
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        let mut headers = Headers::new();
        for (name, value) in &self.headers {
            let name: HeaderName = name.parse().expect("a header name");
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).expect("a header value"));
        }
        Inbound {
            method: self.method.parse().expect("a method"),
            path: path.to_owned(),
            query: query.map(str::to_owned),
            headers,
            body: Bytes::from(BASE64.decode(self.body_b64.as_bytes()).expect("base64")),
            authority: authority.to_owned(),
            https: self.url.starts_with("https:"),
            remote: IpAddr::V4(Ipv4Addr::LOCALHOST),
        }
    }

    /// The address as a route's `public_url` says it.
    pub fn public_url(&self) -> &str {
        self.url.split('?').next().expect("an address")
    }
}

/// All rows, file by file in the order of their names, and how many files there are.
pub fn read_all() -> (usize, Vec<Row>) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/vectors");
    let files = std::fs::read_dir(directory).expect("the vectors").map(|file| file.expect("a file").path());
    let mut files: Vec<_> = files.collect();
    files.sort();
    let rows = files.iter().flat_map(|file| {
        let text = std::fs::read_to_string(file).expect("UTF-8");
        text.lines().map(|line| serde_json::from_str(line).expect("a row")).collect::<Vec<Row>>()
    });
    let rows = rows.collect();
    (files.len(), rows)
}

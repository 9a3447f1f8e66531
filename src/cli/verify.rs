//! `verify`: captured requests, one JSON object a line, checked as the gateway would check them at a given moment.
//!
//! A line in: `{"route","method","url","headers":[["Name","value"],…],"body_b64"}`; header values are the bytes of the
//! JSON string in UTF-8. A line out: `{"line","verdict","reason","secret",…}`. The line's `route` decides which route
//! checks it; its path is used only where the URL is signed. Nothing is looked up among the events already seen.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use bytes::Bytes;
use data_encoding::BASE64;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use serde::{Deserialize, Serialize};

use super::args::Verify;
use super::output::put_json;
use super::{Context, Exit, Failure, Outcome};
use crate::config::Config;
use crate::domain::inbound::Inbound;
use crate::domain::refusal::Refusal;
use crate::domain::route::Route;
use crate::domain::time::Timestamp;

/// A captured request.
#[derive(Debug, Deserialize)]
struct Captured {
    route: String,
    method: String,
    url: String,
    headers: Vec<(String, String)>,
    body_b64: String,
}

/// What the gateway would say.
#[derive(Debug, PartialEq, Serialize)]
struct Verdict {
    line: usize,
    route: String,
    #[serde(rename = "verdict")]
    word: &'static str,
    reason: Option<&'static str>,
    /// Position of the secret that signed it.
    secret: Option<usize>,
    /// What would be `Hookgate-Key`.
    key: Option<String>,
    event_type: Option<String>,
}

/// `hookgate verify`.
pub(super) fn verify(context: &Context, asked: &Verify) -> Outcome {
    let config = context.load()?;
    let now = asked.at.map_or_else(|| context.clock.now(), Timestamp::from_seconds);
    let mut exit = Exit::Ok;
    for (line, text) in (1..).zip(lines(&asked.input)?) {
        let text = text.map_err(|error| Failure::failed(format!("cannot read {}: {error}", asked.input.display())))?;
        if text.trim().is_empty() {
            continue;
        }
        let captured = read(&text).map_err(|what| Failure::failed(format!("line {line}: {what}")))?;
        let verdict = check(&config, line, captured, now);
        if verdict.word == "refuse" {
            exit = Exit::Refused;
        }
        put_json(&verdict)?;
    }
    Ok(exit)
}

/// The lines of a file of captured requests; - is stdin.
pub(super) fn lines(input: &Path) -> Result<Box<dyn Iterator<Item = io::Result<String>>>, Failure> {
    if input == Path::new("-") {
        return Ok(Box::new(BufReader::new(io::stdin()).lines()));
    }
    let file =
        File::open(input).map_err(|error| Failure::usage(format!("cannot read {}: {error}", input.display())))?;
    Ok(Box::new(BufReader::new(file).lines()))
}

/// A line's route and request, or what is wrong with the line.
pub(super) fn read(text: &str) -> Result<(String, Inbound), String> {
    let captured: Captured = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut headers = HeaderMap::new();
    for (name, value) in &captured.headers {
        let name: HeaderName = name.parse().map_err(|_| format!("headers: {name:?} is not a header's name"))?;
        let value = HeaderValue::from_bytes(value.as_bytes());
        headers.append(name.clone(), value.map_err(|_| format!("headers: {name} holds bytes that no header can"))?);
    }
    let body = BASE64.decode(captured.body_b64.as_bytes()).map_err(|error| format!("body_b64: {error}"))?;
    let inbound = request(&captured.method, &captured.url, headers, body.into())?;
    Ok((captured.route, inbound))
}

/// The request of these parts, as the gateway would have read it.
pub(super) fn request(method: &str, url: &str, headers: HeaderMap, body: Bytes) -> Result<Inbound, String> {
    let uri: Uri = url.parse().map_err(|error| format!("url: {error}"))?;
    Ok(Inbound {
        method: method.parse::<Method>().map_err(|_| format!("method: {method:?}"))?,
        path: uri.path().to_owned(),
        query: uri.query().map(str::to_owned),
        headers,
        body,
        authority: uri.authority().map(ToString::to_string).unwrap_or_default(),
        https: uri.scheme_str() == Some("https"),
        remote: IpAddr::V4(Ipv4Addr::LOCALHOST),
    })
}

fn check(config: &Config, line: usize, (name, inbound): (String, Inbound), now: Timestamp) -> Verdict {
    let route = config.routes.iter().find(|route| *route.name == *name);
    let judged = route.ok_or(Refusal::NoRoute).and_then(|route| judge(route, inbound, now));
    match judged {
        Ok(verdict) => Verdict { line, route: name, ..verdict },
        Err(refusal) => {
            let reason = Some(refusal.as_str());
            Verdict { line, route: name, word: "refuse", reason, secret: None, key: None, event_type: None }
        }
    }
}

fn judge(route: &Route, inbound: Inbound, now: Timestamp) -> Result<Verdict, Refusal> {
    let (line, name, reason) = (0, String::new(), None);
    if let Some(greeted) = route.greet(&inbound, now) {
        greeted?;
        return Ok(Verdict { line, route: name, word: "handshake", reason, secret: None, key: None, event_type: None });
    }
    let verified = route.verify(inbound, now)?;
    route.scheme.check_freshness(&verified, now)?;
    let handshake = route.handshake(&verified)?.is_some();
    Ok(Verdict {
        line,
        route: name,
        word: if handshake { "handshake" } else { "accept" },
        reason,
        secret: Some(verified.secret()),
        key: Some(route.scheme.key(&route.name, &verified).to_hex()),
        event_type: route.scheme.event_type(&verified),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_becomes_the_request_that_it_was() {
        let line = r#"{"route":"r","method":"POST","url":"https://h.example:8443/a%20b?x=1&y","body_b64":"AP8=",
            "headers":[["X-A","1"],["x-a","w\u00f6rd"]]}"#;
        let (route, inbound) = read(line).unwrap();
        assert_eq!(route, "r");
        assert_eq!(inbound.url(None), "https://h.example:8443/a%20b?x=1&y");
        assert_eq!(&inbound.body[..], [0, 0xff]);
        let values: Vec<&[u8]> = inbound.headers.get_all("x-a").iter().map(HeaderValue::as_bytes).collect();
        assert_eq!(values, [b"1".as_slice(), "w\u{f6}rd".as_bytes()]);
    }

    #[test]
    fn a_line_that_is_no_request_is_named_by_its_fault() {
        let line =
            |body: &str| format!(r#"{{"route":"r","method":"POST","url":"/","headers":[],"body_b64":"{body}"}}"#);
        assert!(read(&line("AA==")).is_ok());
        assert!(read(&line("A")).unwrap_err().starts_with("body_b64"));
        assert!(read("{}").is_err());
    }
}

//! `verify`: captured requests, one JSON object a line, checked as the gateway would check them at a given moment.
//!
//! A line in: `{"route","method","url","headers":[["Name","value"],…],"body_b64"}`; header values are the bytes of the
//! JSON string in UTF-8. A line out: `{"line","verdict","reason","secret",…}`. The line's `route` decides which route
//! checks it; its path is used only where the URL is signed. Nothing is looked up among the events already seen.
//!
//! A line that is no captured request is named on stderr and the others are checked all the same; the command has failed
//! then. A request that HTTP cannot carry is refused as the gateway refuses it, `bad_request`.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use bytes::Bytes;
use data_encoding::BASE64;
use http::{HeaderName, HeaderValue, Method, Uri};
use serde::{Deserialize, Serialize};

use super::args::Verify;
use super::output::{put_json, say};
use super::{Context, Exit, Failure, Outcome};
use crate::config::Config;
use crate::domain::headers::Headers;
use crate::domain::inbound::Inbound;
use crate::domain::refusal::Refusal;
use crate::domain::route::Route;
use crate::domain::time::Timestamp;

/// A line in, for people.
const SHAPE: &str = r#"{"route": "…", "method": "…", "url": "…", "headers": [["Name", "value"], …], "body_b64": "…"}"#;

/// What `--input` takes, for the help.
pub(super) fn input() -> String {
    format!(
        "The requests, one a line: {SHAPE}. `dlq export` writes such lines; with --spool their signatures are replaced. \
         - for stdin"
    )
}

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
        let verdict = match read(&text) {
            Ok(captured) => check(&config, line, captured, now),
            Err(fault) => {
                say(&format!("line {line}: {fault}"));
                let Unread::Request { route, .. } = fault else {
                    exit = Exit::Failed;
                    continue;
                };
                refused(line, route, Refusal::BadRequest)
            }
        };
        if verdict.word == "refuse" && exit == Exit::Ok {
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

/// Why a line was not checked against its route.
#[derive(Debug)]
pub(super) enum Unread {
    /// It is no captured request.
    Line(String),
    /// It is one that cannot have come by HTTP; a gateway answers it with 400.
    Request { route: String, what: String },
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(what) | Self::Request { what, .. } => f.write_str(what),
        }
    }
}

/// A line's route and request, or what is wrong with the line.
pub(super) fn read(text: &str) -> Result<(String, Inbound), Unread> {
    let captured: Captured = serde_json::from_str(text).map_err(|error| Unread::Line(no_line(&error)))?;
    let body = BASE64.decode(captured.body_b64.as_bytes());
    let body = body.map_err(|error| Unread::Line(format!("body_b64: no canonical base64: {error}")))?;
    let inbound = headers(&captured.headers)
        .and_then(|headers| request(&captured.method, &captured.url, headers, body.into()))
        .map_err(|what| Unread::Request { route: captured.route.clone(), what })?;
    Ok((captured.route, inbound))
}

fn headers(written: &[(String, String)]) -> Result<Headers, String> {
    let mut headers = Headers::new();
    for (name, value) in written {
        let name: HeaderName = name.parse().map_err(|_| format!("headers: {name:?} is not a header's name"))?;
        let value = HeaderValue::from_bytes(value.as_bytes());
        headers.append(name.clone(), value.map_err(|_| format!("headers: {name} holds bytes that no header can"))?);
    }
    Ok(headers)
}

/// What is wrong with the JSON of a line, which is counted by its own number and not by that of the reader.
fn no_line(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
    format!("{what} at column {}; expected {SHAPE}", error.column())
}

/// The request of these parts, as the gateway would have read it.
pub(super) fn request(method: &str, url: &str, headers: Headers, body: Bytes) -> Result<Inbound, String> {
    let uri: Uri = url.parse().map_err(|error| format!("url: {error}"))?;
    Ok(Inbound {
        method: method.parse::<Method>().map_err(|_| format!("method: {method:?} is not a method"))?,
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
        Err(refusal) => refused(line, name, refusal),
    }
}

fn refused(line: usize, route: String, refusal: Refusal) -> Verdict {
    let reason = Some(refusal.as_str());
    Verdict { line, route, word: "refuse", reason, secret: None, key: None, event_type: None }
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
        key: (!verified.is_event_of_its_own()).then(|| route.scheme.key(&route.name, &verified).to_hex()),
        event_type: route.scheme.event_type(&verified).map(str::to_owned),
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
        let values: Vec<&[u8]> = inbound.headers.get_all("x-a").map(HeaderValue::as_bytes).collect();
        assert_eq!(values, [b"1".as_slice(), "w\u{f6}rd".as_bytes()]);
    }

    #[test]
    fn a_line_that_is_no_request_is_named_by_its_fault() {
        let line =
            |body: &str| format!(r#"{{"route":"r","method":"POST","url":"/","headers":[],"body_b64":"{body}"}}"#);
        assert!(read(&line("AA==")).is_ok());
        let said = |text: &str| match read(text).unwrap_err() {
            Unread::Line(what) => ("line", what),
            Unread::Request { route, what } => {
                assert_eq!(route, "r");
                ("request", what)
            }
        };
        assert!(said(&line("A")).1.starts_with("body_b64"));
        let (of, what) = said(r#"{"route":"r"}"#);
        assert!(of == "line" && what.starts_with("missing field `method` at column 13; expected {\"route\""), "{what}");
        assert_eq!(said("no").0, "line");
        let request = |method: &str, url: &str, name: &str, value: &str| {
            let headers = [(name, value)];
            let line =
                serde_json::json!({ "route": "r", "method": method, "url": url, "headers": headers, "body_b64": "" });
            said(&line.to_string())
        };
        for (parts, wanted) in [
            (("GE T", "/", "a", "b"), "method: \"GE T\" is not a method"),
            (("GET", "http://[x", "a", "b"), "url: "),
            (("GET", "/", "a b", "c"), "headers: \"a b\" is not a header's name"),
            (("GET", "/", "a", "b\nc"), "headers: a holds bytes that no header can"),
        ] {
            let (of, what) = request(parts.0, parts.1, parts.2, parts.3);
            assert!(of == "request" && what.starts_with(wanted), "{what}");
        }
    }
}

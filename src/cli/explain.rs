//! `explain`: why a request was refused, and what would have matched. Here: where the request comes from. The check is
//! the domain's, the printing is in `explanation`.

use std::io::Read;
use std::path::Path;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use serde_json::Value;

use super::admin::{Admin, encoded, wait};
use super::args::Explain;
use super::explanation::put_explanation;
use super::output::{put_json, put_table};
use super::{Context, Exit, Failure, Outcome, curl, verify};
use crate::app::candidates;
use crate::config::Config;
use crate::domain::explain::{Case, Hypothesis, explain as explained, hypotheses};
use crate::domain::headers::Headers;
use crate::domain::inbound::Inbound;
use crate::domain::route::Route;
use crate::domain::time::Timestamp;

/// Longest file that is read.
const LONGEST_FILE: u64 = 64 * 1024 * 1024;

/// `hookgate explain`.
pub(super) fn explain(context: &Context, asked: &Explain) -> Outcome {
    if asked.list {
        return list(asked);
    }
    if let Some(id) = asked.id.as_deref().or(asked.last.then_some("last")) {
        let admin = Admin::of(context, &asked.door)?;
        let explanation = wait(admin.get(&format!("/api/events/{}/explain", encoded(id))))?;
        return told(asked, &explanation);
    }
    offline(context, asked)
}

/// What is tried, for the help.
pub(super) fn tried() -> String {
    let line = |hypothesis: &Hypothesis| format!("\n  {:<28} {}", hypothesis.id, hypothesis.meaning);
    format!("What is tried; perhaps{}", hypotheses().map(line).collect::<String>())
}

/// The hypotheses themselves.
fn list(asked: &Explain) -> Outcome {
    if asked.json {
        for hypothesis in hypotheses() {
            let whose = hypothesis.whose.as_str();
            put_json(&serde_json::json!({ "id": hypothesis.id, "meaning": hypothesis.meaning, "whose": whose }))?;
        }
        return Ok(Exit::Ok);
    }
    put_table(&["HYPOTHESIS", "PERHAPS"], hypotheses().map(|h| vec![h.id.to_owned(), h.meaning.to_owned()]))?;
    Ok(Exit::Ok)
}

/// Prints an explanation; the exit code says whether it is one.
fn told(asked: &Explain, explanation: &Value) -> Outcome {
    if asked.json {
        put_json(explanation)?;
    } else {
        put_explanation(explanation)?;
    }
    let refused = explanation.get("verdict").and_then(Value::as_str) == Some("refuse");
    let findings = explanation.get("findings").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let fits = findings.iter().any(|finding| finding.get("matches").and_then(Value::as_str) == Some("fits"));
    Ok(if refused && !fits { Exit::Refused } else { Exit::Ok })
}

fn offline(context: &Context, asked: &Explain) -> Outcome {
    let config = context.load()?;
    let candidates = candidates();
    let now = asked.at.map_or_else(|| context.clock.now(), Timestamp::from_seconds);
    let mut exit = Exit::Ok;
    for (name, inbound) in requests(asked)? {
        let route = route(&config, asked.route.as_deref().or(name.as_deref()), &inbound)?;
        let others: Vec<&Route> = config.routes.iter().map(|route| &**route).collect();
        let case = Case { inbound: &inbound, route, others: &others, candidates: &candidates, now, left_out: None };
        let explanation = serde_json::to_value(explained(&case)).map_err(|error| Failure::failed(error.to_string()))?;
        if told(asked, &explanation)? != Exit::Ok {
            exit = Exit::Refused;
        }
    }
    Ok(exit)
}

/// A request, and the name of its route if the capture says it.
type Captured = (Option<String>, Inbound);

fn requests(asked: &Explain) -> Result<Vec<Captured>, Failure> {
    if let Some(input) = &asked.input {
        return from_lines(input, asked.line);
    }
    if let Some(file) = &asked.curl {
        let text = read_text(file)?;
        let inbound = curl::parse(&text, &|file| read_file(file).map_err(|failure| failure.text));
        return Ok(vec![(None, inbound.map_err(|what| Failure::usage(format!("the curl command: {what}")))?)]);
    }
    from_headers(asked).map(|inbound| vec![(None, inbound)])
}

fn from_lines(input: &Path, wanted: Option<usize>) -> Result<Vec<Captured>, Failure> {
    let mut requests = Vec::new();
    for (line, text) in (1..).zip(verify::lines(input)?) {
        let text = text.map_err(|error| Failure::failed(format!("cannot read {}: {error}", input.display())))?;
        if text.trim().is_empty() || wanted.is_some_and(|wanted| wanted != line) {
            continue;
        }
        let (route, inbound) = verify::read(&text).map_err(|what| Failure::usage(format!("line {line}: {what}")))?;
        requests.push((Some(route), inbound));
    }
    if requests.is_empty() {
        return Err(Failure::usage(format!("{} holds no such request", input.display())));
    }
    Ok(requests)
}

fn read_file(file: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |error: std::io::Error| Failure::usage(format!("cannot read {}: {error}", file.display()));
    let mut bytes = Vec::new();
    if file == Path::new("-") {
        std::io::stdin().lock().take(LONGEST_FILE).read_to_end(&mut bytes).map_err(failed)?;
    } else {
        std::fs::File::open(file).and_then(|file| file.take(LONGEST_FILE).read_to_end(&mut bytes)).map_err(failed)?;
    }
    Ok(bytes)
}

fn read_text(file: &Path) -> Result<String, Failure> {
    String::from_utf8(read_file(file)?).map_err(|_| Failure::usage(format!("{} is no text", file.display())))
}

/// What a file of headers says.
#[derive(Debug, Default, PartialEq)]
struct Head {
    method: Option<String>,
    target: Option<String>,
    headers: Headers,
}

fn from_headers(asked: &Explain) -> Result<Inbound, Failure> {
    let Some(file) = &asked.headers else { return Err(Failure::usage("no request is given")) };
    let head = head(&read_file(file)?).map_err(|what| Failure::usage(format!("{}: {what}", file.display())))?;
    let body = asked.body.as_deref().map(read_file).transpose()?.unwrap_or_default();
    let text = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    let called = || {
        let scheme = text("x-forwarded-proto").filter(|proto| *proto == "https").unwrap_or("http");
        format!("{scheme}://{}{}", text("host").unwrap_or("localhost"), head.target.as_deref().unwrap_or("/"))
    };
    let url = match (&asked.url, &head.target) {
        (Some(url), _) => url.clone(),
        (None, Some(target)) if target.contains("://") => target.clone(),
        (None, _) => called(),
    };
    let method = asked.method.as_deref().or(head.method.as_deref()).unwrap_or("POST");
    verify::request(method, &url, head.headers.clone(), Bytes::from(body)).map_err(Failure::usage)
}

/// Reads headers as servers and tools save them: `Name: value` a line, perhaps a request line first, perhaps `> ` before
/// each line, perhaps the pseudo-headers of HTTP/2.
fn head(text: &[u8]) -> Result<Head, String> {
    let mut head = Head::default();
    let lines = text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    for (number, line) in (1..).zip(lines) {
        let line = line.strip_prefix(b"> ").unwrap_or(line);
        if line.is_empty() || line == b">" {
            if number > 1 {
                break;
            }
            continue;
        }
        let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let word = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match words.as_slice() {
            [method, target, version] if number == 1 && version.starts_with(b"HTTP/") => {
                (head.method, head.target) = (Some(word(method)), Some(word(target)));
            }
            [b":method:", method] => head.method = Some(word(method)),
            [b":path:", target] => head.target = Some(word(target)),
            [b":authority:", host] => head.headers.insert("host", value(host, number)?),
            [b":scheme:", _] => {}
            _ => {
                let at = line.iter().position(|byte| *byte == b':');
                let (name, rest) =
                    at.and_then(|at| line.split_at_checked(at)).ok_or(format!("line {number} is no header"))?;
                let name = HeaderName::from_bytes(name).map_err(|_| format!("line {number} is no header"))?;
                head.headers.append(name, value(rest.get(1..).unwrap_or_default(), number)?);
            }
        }
    }
    Ok(head)
}

fn value(bytes: &[u8], line: usize) -> Result<HeaderValue, String> {
    HeaderValue::from_bytes(bytes.trim_ascii()).map_err(|_| format!("line {line} holds bytes that no header can"))
}

/// The route that is named; else the one of the request's path; else the only one.
fn route<'c>(config: &'c Config, name: Option<&str>, inbound: &Inbound) -> Result<&'c Route, Failure> {
    let by_path = || config.routes.iter().find(|route| route.path == inbound.path);
    let found = match (name, config.routes.as_slice()) {
        (Some(name), routes) => routes.iter().find(|route| *route.name == *name),
        (None, [only]) => Some(only),
        (None, _) => by_path(),
    };
    found.map(|route| &**route).ok_or_else(|| {
        let names: Vec<&str> = config.routes.iter().map(|route| &*route.name).collect();
        let what = name.map_or_else(
            || format!("no route has the path {:?}: say --route", inbound.path),
            |name| format!("no route is called {name:?}"),
        );
        Failure::usage(format!("{what}; there is {}", names.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_they_are_saved() {
        let plain = head(b"POST /a?b HTTP/1.1\r\nHost: h.example\r\nX-A:1\r\nx-a:  2 \r\n\r\nbody: no").unwrap();
        assert_eq!((plain.method.as_deref(), plain.target.as_deref()), (Some("POST"), Some("/a?b")));
        let values: Vec<&[u8]> = plain.headers.get_all("x-a").map(HeaderValue::as_bytes).collect();
        assert_eq!((values, plain.headers.len()), (vec![b"1".as_slice(), b"2"], 3));
        assert_eq!(head(b"> POST /a?b HTTP/1.1\n> Host: h.example\n> X-A:1\n> X-A: 2\n>\n").unwrap(), plain);
        let two = b":method: POST\n:path: /a?b\n:scheme: https\n:authority: h.example\nx-a: 1\nx-a: 2\n";
        assert_eq!(head(two).unwrap(), plain);
        assert_eq!(head(b"X-A: 1").unwrap().headers.len(), 1);
        assert!(head(b"nonsense").unwrap_err().contains("line 1"));
    }
}

//! `send`: one signed test event, as its provider would send it, and whether the answer is the right one.

use std::io::Read;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::Full;

use super::admin::{cause, http, read, wait};
use super::args::Send;
use super::output::{printable, put, put_line};
use super::providers::{compiled, unknown};
use super::samples::{self, Sample};
use super::settings::reachable;
use super::{Context, Exit, Failure, Outcome};
use crate::config::{Config, builtin};
use crate::domain::headers::Headers;
use crate::domain::route::Route;
use crate::domain::scheme::{Scheme, SentTrait, Unsigned};
use crate::domain::secret::Secret;
use crate::domain::time::Timestamp;

/// Longest wait for an answer: longer than any sender allows.
const PATIENCE: Duration = Duration::from_secs(120);

/// How far beyond what is allowed a stale request lies.
const BEYOND: Duration = Duration::from_secs(60);

/// `hookgate send`.
pub(super) fn send(context: &Context, asked: &Send) -> Outcome {
    if let (Some(scheme), Some(variable), Some(to)) = (compiled(&asked.name), &asked.secret_env, &asked.to) {
        let secret = secret_of(context, variable)?;
        let aim =
            Aim { provider: &asked.name, scheme: &scheme, secret: &secret, to: to.clone(), signed_url: to.clone() };
        return aim.send(context, asked);
    }
    let config = context.load()?;
    let route = route(&config, &asked.name)?;
    let given = asked.secret_env.as_deref().map(|variable| secret_of(context, variable)).transpose()?;
    let now = context.clock.now();
    let live = route.secrets.iter().find(|secret| secret.until.is_none_or(|until| now < until));
    let secret = given.as_ref().or(live.map(|secret| &secret.secret));
    let secret = secret.ok_or_else(|| Failure::failed(format!("no secret of route {} is live", route.name)))?;
    let to = match &asked.to {
        Some(to) if has_path(to) => to.clone(),
        Some(to) => format!("{}{}", to.trim_end_matches('/'), route.path),
        None => {
            let scheme = if config.server.tls.is_some() { "https" } else { "http" };
            format!("{scheme}://{}{}", reachable(config.listen), route.path)
        }
    };
    let signed_url = route.public_url.clone().unwrap_or_else(|| to.clone());
    let aim = Aim { provider: &route.provider, scheme: &route.scheme, secret, to, signed_url };
    aim.send(context, asked)
}

fn secret_of(context: &Context, variable: &str) -> Result<Secret, Failure> {
    let text = context.variable(variable);
    let text = text.ok_or_else(|| Failure::usage(format!("the variable {variable} is not set, or empty")))?;
    Ok(Secret::new(text.into_bytes()))
}

/// The route of that name, else the first of that provider.
fn route<'a>(config: &'a Config, name: &str) -> Result<&'a Route, Failure> {
    let by_name = config.routes.iter().find(|route| *route.name == *name);
    if let Some(route) = by_name.or_else(|| config.routes.iter().find(|route| route.provider == name)) {
        return Ok(route);
    }
    if builtin::names().any(|known| known == name) {
        let text =
            format!("no route has the provider {name:?}: give --to URL and --secret-env NAME to send without one");
        return Err(Failure::usage(text));
    }
    let mut known: Vec<&str> = builtin::names().collect();
    known.extend(config.routes.iter().map(|route| &*route.name));
    Err(unknown(name, known.into_iter()))
}

fn has_path(url: &str) -> bool {
    url.split_once("://").is_some_and(|(_, rest)| rest.trim_end_matches('/').contains('/'))
}

/// What is sent as whom, where to.
struct Aim<'a> {
    provider: &'a str,
    scheme: &'a Scheme,
    secret: &'a Secret,
    to: String,
    /// The address as the provider knows it.
    signed_url: String,
}

impl Aim<'_> {
    fn send(&self, context: &Context, asked: &Send) -> Outcome {
        let at = if asked.stale { self.too_long_ago(context.clock.now())? } else { context.clock.now() };
        let request = self.signed(at, asked)?;
        let to = with_query(&self.to, &request.url);
        if asked.print_curl {
            put_line(&curl(&to, &request)?)?;
            return Ok(Exit::Ok);
        }
        let wanted = if asked.bad_signature || asked.stale { Wanted::Refusal } else { Wanted::Acceptance };
        wait(async {
            let mut exit = deliver(&to, &request, wanted).await?;
            if asked.twice {
                exit = deliver(&to, &request, wanted).await?;
            }
            Ok(exit)
        })
    }

    /// A moment at which the scheme does not take a request any more.
    fn too_long_ago(&self, now: Timestamp) -> Result<Timestamp, Failure> {
        let traits = self.scheme.traits();
        match (traits.sent, traits.signed_at_max_age) {
            (SentTrait::Covered { tolerance } | SentTrait::Uncovered { tolerance }, _) => {
                Ok(now.minus(tolerance + BEYOND))
            }
            (SentTrait::None, Some(age)) => Ok(now.minus(age + BEYOND)),
            (SentTrait::None, None) => {
                Err(Failure::usage(format!("{} signs no time: none of its requests is ever stale", self.provider)))
            }
        }
    }

    fn signed(&self, at: Timestamp, asked: &Send) -> Result<Unsigned, Failure> {
        let sample = self.sample(asked)?;
        let body = match (&asked.body, sample) {
            (Some(body), _) => given_body(body)?,
            (None, Some(sample)) => sample.fresh(at, fastrand::u128(..)).into_bytes(),
            (None, None) => {
                let text = format!("there are no samples of {}: give --body @FILE", self.provider);
                return Err(Failure::usage(text));
            }
        };
        let mut headers = Headers::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some((name, value)) = sample.and_then(Sample::header) {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let mut request =
            Unsigned { method: Method::POST, url: self.signed_url.clone(), headers, body: Bytes::from(body) };
        let wrong = Secret::new(format!("{:032x}", fastrand::u128(..)).into_bytes());
        let secret = if asked.bad_signature { &wrong } else { self.secret };
        let signed = self.scheme.sign(&mut request, secret, at);
        signed.map_err(|fault| Failure::failed(format!("cannot sign as {}: {fault}", self.provider)))?;
        Ok(request)
    }

    fn sample(&self, asked: &Send) -> Result<Option<&'static Sample>, Failure> {
        let Some(event) = &asked.event else { return Ok(samples::of(self.provider).next()) };
        let found = samples::of(self.provider).find(|sample| sample.event == event);
        if found.is_none() && asked.body.is_none() {
            let known: Vec<&str> = samples::of(self.provider).map(|sample| sample.event).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let text = format!("no sample of {} is called {event:?}; there are: {known}", self.provider);
            return Err(Failure::usage(text));
        }
        Ok(found)
    }
}

/// `@FILE`, `@-`, or the text itself.
fn given_body(text: &str) -> Result<Vec<u8>, Failure> {
    let Some(file) = text.strip_prefix('@') else { return Ok(text.as_bytes().to_vec()) };
    let mut bytes = Vec::new();
    let read = if file == "-" { std::io::stdin().read_to_end(&mut bytes).map(|_| bytes) } else { std::fs::read(file) };
    read.map_err(|error| Failure::usage(format!("cannot read the body from {file}: {error}")))
}

/// The query that signing put on the address belongs to the request.
fn with_query(to: &str, signed_url: &str) -> String {
    match (to.contains('?'), signed_url.split_once('?')) {
        (false, Some((_, query))) => format!("{to}?{query}"),
        (true, _) | (false, None) => to.to_owned(),
    }
}

/// Which answer is the right one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Acceptance,
    Refusal,
}

/// Sends it and prints the answer.
async fn deliver(to: &str, request: &Unsigned, wanted: Wanted) -> Outcome {
    let uri: Uri = to.parse().map_err(|error| Failure::usage(format!("{to:?} is not an address: {error}")))?;
    if uri.scheme_str() != Some("http") {
        return Err(Failure::usage(format!(
            "only http:// is spoken here, not {to:?}; --print-curl gives a command that can"
        )));
    }
    let mut outgoing = Request::new(Full::new(request.body.clone()));
    *outgoing.method_mut() = request.method.clone();
    *outgoing.uri_mut() = uri;
    *outgoing.headers_mut() = request.headers.clone().into();
    let began = Instant::now();
    let unreachable = |why: String| Failure::new(Exit::Unreachable, format!("nobody answers at {to}: {why}"));
    let answer = match tokio::time::timeout(PATIENCE, http().request(outgoing)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(unreachable(cause(&error))),
        Err(_) => return Err(unreachable(format!("no answer in {} s", PATIENCE.as_secs()))),
    };
    let status = answer.status();
    let body = read(answer.into_body()).await?;
    let shown = printable(&String::from_utf8_lossy(&body));
    put(format!("{} in {} ms  {shown}\n", status.as_u16(), began.elapsed().as_millis()).as_bytes())?;
    Ok(judged(status, wanted))
}

fn judged(status: StatusCode, wanted: Wanted) -> Exit {
    match wanted {
        Wanted::Acceptance if status.is_success() => Exit::Ok,
        Wanted::Acceptance if status.is_client_error() => Exit::Refused,
        // Another 4xx says that it came to nobody who judges signatures.
        Wanted::Refusal if status == StatusCode::UNAUTHORIZED => Exit::Ok,
        Wanted::Acceptance | Wanted::Refusal => Exit::Failed,
    }
}

/// The request as a command for a shell. It holds the signature and not the secret.
fn curl(to: &str, request: &Unsigned) -> Result<String, Failure> {
    let body = std::str::from_utf8(&request.body)
        .map_err(|_| Failure::failed("the body is not text: no shell command can hold it"))?;
    let mut parts = vec![format!("curl -sS -X {} {}", request.method, quoted(to))];
    for (name, value) in &request.headers {
        parts.push(format!("-H {}", quoted(&format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))));
    }
    parts.push(format!("--data-binary {}", quoted(body)));
    Ok(parts.join(" \\\n  "))
}

/// One word of a POSIX shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_the_word_back() {
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }

    #[test]
    fn the_answer_is_judged_by_what_was_wanted() {
        assert_eq!(judged(StatusCode::OK, Wanted::Acceptance), Exit::Ok);
        assert_eq!(judged(StatusCode::UNAUTHORIZED, Wanted::Acceptance), Exit::Refused);
        assert_eq!(judged(StatusCode::SERVICE_UNAVAILABLE, Wanted::Acceptance), Exit::Failed);
        assert_eq!(judged(StatusCode::UNAUTHORIZED, Wanted::Refusal), Exit::Ok);
        for other in [StatusCode::OK, StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED] {
            assert_eq!(judged(other, Wanted::Refusal), Exit::Failed);
        }
    }

    #[test]
    fn an_address_without_a_path_gets_the_routes() {
        assert!(!has_path("http://127.0.0.1:8080"));
        assert!(!has_path("http://127.0.0.1:8080/"));
        assert!(has_path("http://127.0.0.1:8080/hook"));
    }
}

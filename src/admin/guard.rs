//! Who may ask: the door of the admin listener. A page of another site must not reach it through the operator's browser
//! (`Host` against DNS rebinding, `Sec-Fetch-Site` and `Origin` against plain requests), and where a token is
//! configured nobody gets in without it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::AdminState;
use super::problem::Problem;
use crate::domain::secret::Secret;

/// Lets a request in, or answers why not; marks every answer as not to be stored, framed or guessed at.
pub(super) async fn check(State(state): State<Arc<AdminState>>, request: Request, next: Next) -> Response {
    let mut response = match admit(&state, request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'"));
    response
}

fn admit(state: &AdminState, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
    check_host(state.address, uri, headers)?;
    check_site(headers)?;
    state.token.load().as_ref().map_or(Ok(()), |token| check_token(token, headers))
}

/// The host that the client thinks it talks to must be ours: one line, no foreign name.
fn check_host(own: SocketAddr, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
    let foreign = || Problem::new(StatusCode::FORBIDDEN, "the Host of the request is not this listener's address");
    let mut lines = headers.get_all(header::HOST).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return Err(foreign()) };
    let named = line.to_str().ok().and_then(|text| text.parse::<Authority>().ok()).ok_or_else(foreign)?;
    let all_ours = std::iter::once(&named).chain(uri.authority()).all(|authority| is_ours(own.ip(), authority.host()));
    if all_ours { Ok(()) } else { Err(foreign()) }
}

/// The port is not looked at: a forwarded port is honest, and a rebinding page is known by its name.
fn is_ours(own: IpAddr, host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    if host == "localhost" || host.ends_with(".localhost") {
        return true;
    }
    match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        Ok(named) => named == own || named.is_loopback() || own.is_unspecified(),
        Err(_) => false,
    }
}

/// A browser says where a request comes from: only from our own pages, or typed by the operator.
fn check_site(headers: &HeaderMap) -> Result<(), Problem> {
    let cross = || Problem::new(StatusCode::FORBIDDEN, "the request comes from a page of another site");
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    if !matches!(site, None | Some(b"none" | b"same-origin")) {
        return Err(cross());
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().ok().and_then(|origin| origin.strip_prefix("http://"));
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    if origin.is_some() && origin == host { Ok(()) } else { Err(cross()) }
}

/// In constant time, whatever the lengths: digests are compared.
fn check_token(token: &Secret, headers: &HeaderMap) -> Result<(), Problem> {
    let given = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
    let given = match given.split_at_checked(7) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(b"bearer ") => rest,
        Some(_) | None => &[],
    };
    let same = Sha256::digest(given).ct_eq(&Sha256::digest(token.expose()));
    if bool::from(same) {
        return Ok(());
    }
    Err(Problem::new(StatusCode::UNAUTHORIZED, "the request carries no token of this gateway: admin_token"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let line = |(name, value): &(&'static str, &'static str)| {
            (header::HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        lines.iter().map(line).collect()
    }

    fn host_is_ours(own: &str, lines: &[(&'static str, &'static str)]) -> bool {
        check_host(own.parse().unwrap(), &Uri::from_static("/api/status"), &headers(lines)).is_ok()
    }

    #[test]
    fn only_our_own_address_is_a_host() {
        for host in ["127.0.0.1:9465", "localhost:9465", "LOCALHOST", "a.localhost", "[::1]:9465", "127.0.0.1:1"] {
            assert!(host_is_ours("127.0.0.1:9465", &[("host", host)]), "{host}");
        }
        for host in
            ["evil.example:9465", "10.0.0.7:9465", "127.0.0.1.evil.example", "localhost.evil.example", "", "a b"]
        {
            assert!(!host_is_ours("127.0.0.1:9465", &[("host", host)]), "{host}");
        }
        assert!(!host_is_ours("127.0.0.1:9465", &[]));
        assert!(host_is_ours("10.0.0.7:9465", &[("host", "10.0.0.7:9465")]));
        assert!(host_is_ours("0.0.0.0:9465", &[("host", "10.0.0.7:9465")]));
        assert!(!host_is_ours("0.0.0.0:9465", &[("host", "evil.example:9465")]));
    }

    #[test]
    fn a_second_host_does_not_help() {
        let mut both = headers(&[("host", "localhost")]);
        both.append(header::HOST, HeaderValue::from_static("evil.example"));
        let own = "127.0.0.1:9465".parse().unwrap();
        assert!(check_host(own, &Uri::from_static("/"), &both).is_err());
        let one = headers(&[("host", "localhost")]);
        assert!(check_host(own, &Uri::from_static("http://evil.example/"), &one).is_err());
    }

    #[test]
    fn a_page_of_another_site_gets_nothing() {
        for site in ["cross-site", "same-site", "x"] {
            assert!(check_site(&headers(&[("sec-fetch-site", site)])).is_err(), "{site}");
        }
        for site in ["none", "same-origin"] {
            assert!(check_site(&headers(&[("sec-fetch-site", site)])).is_ok(), "{site}");
        }
        assert!(check_site(&headers(&[])).is_ok());
        assert!(check_site(&headers(&[("host", "localhost:1"), ("origin", "http://localhost:1")])).is_ok());
        for origin in ["http://localhost:2", "https://evil.example", "null"] {
            assert!(check_site(&headers(&[("host", "localhost:1"), ("origin", origin)])).is_err(), "{origin}");
        }
    }

    #[test]
    fn the_token_is_the_whole_token() {
        let token = Secret::new(b"0123456789abcdef".to_vec());
        let admitted = |value| check_token(&token, &headers(&[("authorization", value)])).is_ok();
        assert!(admitted("Bearer 0123456789abcdef"));
        assert!(admitted("bearer 0123456789abcdef"));
        for wrong in ["Bearer 0123456789abcde", "Bearer 0123456789abcdeff", "Basic 0123456789abcdef", "Bearer ", ""] {
            assert!(!admitted(wrong), "{wrong}");
        }
        assert!(check_token(&token, &HeaderMap::new()).is_err());
    }
}

//! `healthcheck`: one question to `/readyz`, for images without a shell.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;

use super::admin::{cause, http, wait};
use super::args::Healthcheck;
use super::settings::reachable;
use super::{Context, Exit, Failure, Outcome};

/// Where the telemetry listener is when nobody says.
const USUAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);

/// A probe that waits longer than this is worth nothing to who asks.
const PATIENCE: Duration = Duration::from_secs(3);

/// `hookgate healthcheck`.
pub(super) fn healthcheck(context: &Context, asked: &Healthcheck) -> Outcome {
    let address = match asked.address {
        Some(address) => reachable(address),
        // A configuration that was edited badly says nothing about the gateway that runs by the one before.
        None => context.listener("telemetry", USUAL).unwrap_or(USUAL),
    };
    let not_ready =
        |why: String| Failure::new(Exit::Unreachable, format!("the gateway at {address} is not ready: {why}"));
    wait(async {
        let request = Request::get(format!("http://{address}/readyz")).body(Full::new(Bytes::new()));
        let request = request.map_err(|error| Failure::usage(error.to_string()))?;
        match tokio::time::timeout(PATIENCE, http().request(request)).await {
            Ok(Ok(answer)) if answer.status().is_success() => Ok(Exit::Ok),
            Ok(Ok(answer)) => Err(not_ready(format!("it answers {}", answer.status()))),
            Ok(Err(error)) => Err(not_ready(cause(&error))),
            Err(_) => Err(not_ready(format!("no answer in {} s", PATIENCE.as_secs()))),
        }
    })
}

//! One connection to one server: TCP without delay, TLS where it is asked for, then the login. Waiting is bounded by
//! the caller. Which server it should be is `links.rs`'s business.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisError};
use rustix::net::sockopt;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::settings::Greeting;
use super::slots::Address;
use crate::claims::store::StoreFault;

/// Silence after which a connection is kept alive, and the pause between further probes. Balancers and firewalls forget an idle
/// connection after minutes, and say nothing: the next question over it would be waited for in vain.
const KEEP_ALIVE: [Duration; 2] = [Duration::from_secs(30), Duration::from_secs(10)];
/// Probes without an answer after which it counts as broken.
const PROBES: u32 = 3;

/// A connection that many questions share. It ends with its last clone.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) connection: MultiplexedConnection,
    _driver: Arc<Driver>,
}

/// The task that writes questions and reads answers.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Connects and logs in.
pub(super) async fn connect(address: &Address, greeting: &Greeting) -> Result<Link, StoreFault> {
    let stream = TcpStream::connect((address.host.as_str(), address.port)).await;
    let stream = stream.and_then(|stream| set_up(&stream).map(|()| stream));
    let stream = stream.map_err(|error| StoreFault::Failed(format!("no connection to redis at {address}: {error}")))?;
    let Some(tls) = &greeting.tls else { return greet(address, greeting, stream).await };
    match tls.over(stream, &address.host).await {
        Ok(stream) => greet(address, greeting, stream).await,
        Err(error) => Err(StoreFault::Failed(format!("no TLS with redis at {address}: {error}"))),
    }
}

fn set_up(stream: &TcpStream) -> io::Result<()> {
    let [idle, pause] = KEEP_ALIVE;
    stream.set_nodelay(true)?;
    // What was asked over a connection that is given up must not reach the server later than what is told over the next.
    stream.set_zero_linger()?;
    let kept_alive = sockopt::set_tcp_keepidle(stream, idle)
        .and_then(|()| sockopt::set_tcp_keepintvl(stream, pause))
        .and_then(|()| sockopt::set_tcp_keepcnt(stream, PROBES))
        .and_then(|()| sockopt::set_socket_keepalive(stream, true));
    if let Err(error) = kept_alive {
        // It serves without.
        tracing::debug!(%error, "a connection to redis cannot be kept alive while it is idle");
    }
    Ok(())
}

async fn greet<S>(address: &Address, greeting: &Greeting, stream: S) -> Result<Link, StoreFault>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    let greeted = MultiplexedConnection::new_with_config(&greeting.info, stream, config).await;
    let (connection, driver) = greeted.map_err(|error| fault(address, &error))?;
    let driver = Arc::new(Driver(tokio::spawn(driver)));
    Ok(Link { connection, _driver: driver })
}

/// What a server said, with its address.
pub(super) fn fault(address: &Address, error: &RedisError) -> StoreFault {
    StoreFault::Failed(format!("redis at {address}: {error}"))
}

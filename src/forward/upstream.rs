//! An application's address and the connections to it: opened within a deadline, kept for the next attempt, given up before
//! the application does. It knows nothing of what goes through them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::pool::{Pool, Stream, Wire};
use crate::domain::app_url::AppUrl;

/// An application's address. Cloning shares its connections.
#[derive(Clone, Debug)]
pub(super) struct Upstream(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    address: AppUrl,
    connect_timeout: Duration,
    tls: Option<Encryption>,
    pool: Pool,
}

struct Encryption {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl std::fmt::Debug for Encryption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encryption").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A connection that is to be used for one attempt.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) stream: Stream,
    pub(super) age: Age,
}

/// Whether a connection has served a request before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Age {
    Fresh,
    /// The application may be closing it this moment.
    Used,
}

impl Upstream {
    /// An application at `address`, none of whose connections is open yet.
    pub(super) fn new(address: AppUrl, connect_timeout: Duration, tls: ClientConfig) -> Result<Self, String> {
        let tls = if address.is_https() {
            let name = ServerName::try_from(address.host().to_owned()).map_err(|error| error.to_string())?;
            Some(Encryption { connector: TlsConnector::from(Arc::new(tls)), name })
        } else {
            None
        };
        Ok(Self(Arc::new(Inner { address, connect_timeout, tls, pool: Pool::default() })))
    }

    /// A connection that is open: the one that was used last, or a new one.
    pub(super) async fn connection(&self, now: Instant) -> io::Result<Taken> {
        while let Some(mut stream) = self.0.pool.take(now) {
            if stream.is_quiet() {
                return Ok(Taken { stream, age: Age::Used });
            }
        }
        // Boxed: few attempts need one.
        Box::pin(self.new_connection()).await
    }

    /// A new connection, within the connect timeout.
    pub(super) async fn new_connection(&self) -> io::Result<Taken> {
        let stream = tokio::time::timeout(self.0.connect_timeout, self.0.connect()).await;
        let waited =
            || io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {:?}", self.0.connect_timeout));
        let wire = stream.unwrap_or_else(|_| Err(waited()))?;
        Ok(Taken { stream: self.0.pool.stream(wire), age: Age::Fresh })
    }

    /// Keeps a connection whose answer was read to its end.
    pub(super) fn keep(&self, stream: Stream) {
        self.0.pool.keep(stream);
    }
}

impl Inner {
    async fn connect(&self) -> io::Result<Wire> {
        let addresses: Vec<SocketAddr> =
            tokio::net::lookup_host((self.address.host(), self.address.port())).await?.collect();
        let mut left = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        // Each address gets its share of the time, so that one that is silent does not hide the others.
        let until = Instant::now() + self.connect_timeout;
        for address in addresses {
            let share = until.saturating_duration_since(Instant::now()) / left.max(1);
            left = left.saturating_sub(1);
            match tokio::time::timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return self.encrypted(stream).await,
                Ok(Err(error)) => last = error,
                Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, format!("{address} does not answer")),
            }
        }
        Err(last)
    }

    async fn encrypted(&self, stream: TcpStream) -> io::Result<Wire> {
        stream.set_nodelay(true)?;
        match &self.tls {
            None => Ok(Wire::Plain(stream)),
            Some(tls) => Ok(Wire::Tls(Box::new(tls.connector.connect(tls.name.clone(), stream).await?))),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::super::pool::POOL_IDLE;
    use super::*;

    /// An upstream whose other end is a listener here.
    async fn upstream() -> (Upstream, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let tls = super::super::trust::Trust::Nobody.tls().expect("a configuration");
        let address = AppUrl::parse(&url).expect("an address");
        (Upstream::new(address, Duration::from_secs(1), tls).expect("an upstream"), listener)
    }

    #[tokio::test]
    async fn a_connection_that_was_kept_is_used_again_unless_the_application_has_closed_it_or_speaks_unasked() {
        let (upstream, listener) = upstream().await;
        let first = upstream.connection(Instant::now()).await.expect("a connection");
        assert_eq!(first.age, Age::Fresh);
        let (mut other, _) = listener.accept().await.expect("the connection");
        upstream.keep(first.stream);
        let again = upstream.connection(Instant::now()).await.expect("a connection");
        assert_eq!(again.age, Age::Used);
        upstream.keep(again.stream);
        other.write_all(b"HTTP/1.1 408 Too Late\r\n\r\n").await.expect("an open connection");
        drop(other);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(upstream.connection(Instant::now()).await.expect("a connection").age, Age::Fresh);
    }

    #[tokio::test]
    async fn a_connection_that_nobody_takes_is_given_up_in_time() {
        let (upstream, listener) = upstream().await;
        let first = upstream.connection(Instant::now()).await.expect("a connection");
        let (_other, _) = listener.accept().await.expect("the connection");
        tokio::time::pause();
        upstream.keep(first.stream);
        tokio::time::sleep(POOL_IDLE * 2).await;
        assert_eq!(upstream.0.pool.idle(), 0);
    }

    #[tokio::test]
    async fn a_connection_is_used_again_for_as_long_as_no_application_has_closed_it() {
        let (upstream, listener) = upstream().await;
        let first = upstream.connection(Instant::now()).await.expect("a connection");
        let (_other, _) = listener.accept().await.expect("the connection");
        let other = upstream.new_connection().await.expect("a connection");
        let (_another, _) = listener.accept().await.expect("the connection");
        tokio::time::pause();
        upstream.keep(first.stream);
        tokio::time::sleep(POOL_IDLE / 3).await;
        upstream.keep(other.stream);
        tokio::time::sleep(POOL_IDLE * 9 / 10).await;
        // The first is too old by now, and the second nearly.
        let kept = upstream.connection(Instant::now()).await.expect("a connection");
        assert_eq!(kept.age, Age::Used);
        upstream.keep(kept.stream);
        // Whoever comes before those that are too old are given up does not get one.
        tokio::time::sleep(POOL_IDLE / 100 * 101).await;
        assert!(upstream.0.pool.take(Instant::now()).is_none());
    }
}

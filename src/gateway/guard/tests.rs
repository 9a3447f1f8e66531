//! The guard between a real socket and a reader that is not Pingora, in paused time.

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::gateway::connections::Connections;
use crate::telemetry::Metrics;

const WRITE_TIMEOUT: Duration = Duration::from_secs(7);

struct Quiet;

impl House for Quiet {
    fn refused(&self, _: &Connection, _: Refusal, _: Instant) {}

    fn write_timeout(&self) -> Duration {
        WRITE_TIMEOUT
    }
}

/// A guarded connection and its other end.
async fn guarded() -> (Guard, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let sender = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("a connection");
    let (stream, remote) = listener.accept().await.expect("the connection");
    let metrics = Arc::new(Metrics::new(&[]).expect("metrics"));
    let entry = Connections::new(1, metrics).enter(remote).expect("room");
    let limits = HeadLimits {
        header_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(60),
        max_header_bytes: 32 * 1024,
    };
    (Guard::new(TcpSide::from(stream), entry.connection.clone(), limits, Arc::new(Quiet)), sender)
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_the_sender_does_not_take_ends_after_the_write_timeout() {
    let (mut guard, _deaf) = guarded().await;
    let from = Instant::now();
    let outcome = loop {
        let written = async {
            guard.write_all(&[b'x'; 1000]).await?;
            guard.flush().await
        };
        if let Err(error) = written.await {
            break error;
        }
    };
    assert_eq!(outcome.kind(), io::ErrorKind::TimedOut);
    assert!(from.elapsed() >= WRITE_TIMEOUT);
}

//! The guard between a real socket and a reader that is not Pingora, in paused time.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::gateway::connections::Connections;
use crate::telemetry::Metrics;

const BODY_TIMEOUT: Duration = Duration::from_secs(5);
const WRITE_TIMEOUT: Duration = Duration::from_secs(7);

struct Quiet;

impl House for Quiet {
    fn refused(&self, _: &Connection, _: Refusal, _: Instant) {}

    fn body_timeout(&self) -> Duration {
        BODY_TIMEOUT
    }

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

/// Reads the head and takes the connection for busy, as the gateway does.
async fn read_head(guard: &mut Guard, head: &[u8]) {
    let mut read = vec![0; head.len()];
    guard.read_exact(&mut read).await.expect("a whole head");
    assert_eq!(read, head);
    guard.connection.enter(Phase::Busy(Instant::now()));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_ends_after_the_body_timeout_in_either_framing() {
    for framing in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
        let (mut guard, mut sender) = guarded().await;
        let head = format!("POST / HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n");
        sender.write_all(head.as_bytes()).await.expect("an open connection");
        read_head(&mut guard, head.as_bytes()).await;
        let from = Instant::now();
        let outcome = guard.read_u8().await.expect_err("nothing comes");
        assert_eq!((outcome.kind(), from.elapsed().as_secs()), (io::ErrorKind::TimedOut, BODY_TIMEOUT.as_secs()));
    }
}

#[tokio::test]
async fn while_a_request_is_served_only_the_senders_end_is_told_and_what_it_sent_ahead_is_kept() {
    let (mut guard, mut sender) = guarded().await;
    let head = b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\n";
    let next = b"GET /2 HTTP/1.1\r\nHost: h\r\n\r\n";
    sender.write_all(&[&head[..], &next[..]].concat()).await.expect("an open connection");
    read_head(&mut guard, head).await;
    let early = tokio::time::timeout(Duration::from_millis(50), guard.read_u8()).await;
    assert!(early.is_err(), "the next request waits: {early:?}");
    sender.shutdown().await.expect("an open connection");
    let mut byte = [0; 1];
    assert_eq!(guard.read(&mut byte).await.expect("the end is no error"), 0);
    guard.connection.enter(Phase::Idle(Instant::now()));
    read_head(&mut guard, next).await;
}

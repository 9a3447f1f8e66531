//! A watched stream over a real socket, in paused time.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::buffers::Buffers;
use crate::gateway::guard::tests::{Quiet, WRITE_TIMEOUT};
use crate::gateway::http2::frames::Excess;

/// A watched stream, its tally and its other end.
async fn watched() -> (Watched, Tallied, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let other = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("a connection");
    let (stream, _) = listener.accept().await.expect("the connection");
    let metrics = Arc::new(crate::telemetry::Metrics::new(&[]).expect("metrics"));
    let (tally, house) = (Tallied::new(), Arc::new(Quiet(Buffers::new(usize::MAX, 0, metrics))));
    (Watched::new(Side::Plain(stream), tally.clone(), house), tally, other)
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const PRIORITY: [u8; 14] = [0, 0, 5, 2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0];
const UPDATE: [u8; 13] = [0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const DATA: [u8; 10] = [0, 0, 1, 0, 0, 0, 0, 0, 1, b'x'];

#[tokio::test(start_paused = true)]
async fn what_comes_is_counted_and_after_too_much_nothing_is_read() {
    let (mut watched, tally, mut other) = watched().await;
    other.write_all(&[PREFACE, &PRIORITY.repeat(100)].concat()).await.expect("an open connection");
    let mut read = vec![0; PREFACE.len() + 1400];
    watched.read_exact(&mut read).await.expect("it passes as it is");
    assert!(read.starts_with(PREFACE) && read.ends_with(&PRIORITY));
    assert_eq!(tally.look().excess(), None);
    other.write_all(&PRIORITY).await.expect("an open connection");
    watched.read_exact(&mut read[..14]).await.expect("the frame that is too much is read");
    assert_eq!(tally.look().excess(), Some(Excess::Priority));
    other.write_all(&PRIORITY).await.expect("an open connection");
    other.shutdown().await.expect("an open connection");
    let more = tokio::time::timeout(Duration::from_secs(60), watched.read(&mut read)).await;
    assert!(more.is_err(), "and nothing behind it, not even the end");
}

#[tokio::test(start_paused = true)]
async fn what_goes_out_is_counted_for_what_may_come_back() {
    // Twenty for each frame of data that went, and five.
    for (sent, allowed) in [(0, 5), (1, 25), (3, 65)] {
        let (mut watched, tally, mut other) = watched().await;
        watched.write_all(&DATA.repeat(sent)).await.expect("an open connection");
        other.write_all(&[PREFACE, &UPDATE.repeat(allowed)].concat()).await.expect("an open connection");
        let mut read = vec![0; PREFACE.len() + 13 * allowed];
        watched.read_exact(&mut read).await.expect("it passes");
        assert_eq!(tally.look().excess(), None, "{sent}");
        other.write_all(&UPDATE).await.expect("an open connection");
        watched.read_exact(&mut read[..13]).await.expect("it passes");
        assert_eq!(tally.look().excess(), Some(Excess::Updates), "{sent}");
    }
}

/// Writes without end; how that ended and when.
async fn pour(watched: &mut Watched) -> (io::ErrorKind, Duration) {
    let from = Instant::now();
    loop {
        if let Err(error) = watched.write_all(&[b'x'; 1000]).await {
            return (error.kind(), from.elapsed());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_takes_nothing_or_too_little_is_cut_after_the_write_timeout() {
    let (mut deaf, _, _other) = watched().await;
    let (kind, took) = pour(&mut deaf).await;
    assert_eq!((kind, took.as_secs()), (io::ErrorKind::TimedOut, WRITE_TIMEOUT.as_secs()));
    let (mut slow, _, mut other) = watched().await;
    let reading = tokio::spawn(async move {
        while other.read_exact(&mut [0; PROGRESS / 64]).await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    let (kind, took) = pour(&mut slow).await;
    assert_eq!((kind, took.as_secs()), (io::ErrorKind::TimedOut, WRITE_TIMEOUT.as_secs()));
    reading.abort();
}

#[tokio::test(start_paused = true)]
async fn at_the_end_the_other_side_is_told_and_read_away_for_a_while() {
    let (mut watched, _, mut other) = watched().await;
    watched.write_all(b"last word").await.expect("an open connection");
    other.write_all(&vec![b'x'; 50_000]).await.expect("an open connection");
    let from = Instant::now();
    watched.shutdown().await.expect("an end");
    assert_eq!(from.elapsed().as_secs(), LINGER.as_secs(), "it did not end its side");
    watched.shutdown().await.expect("an end, as before");
    drop(watched);
    let mut read = String::new();
    other.read_to_string(&mut read).await.expect("no reset");
    assert_eq!(read, "last word");
}

#[tokio::test]
async fn who_ends_his_side_too_is_not_waited_for_and_who_sends_on_is_read_so_much() {
    let (mut ended, _, mut other) = watched().await;
    other.write_all(&vec![b'x'; 50_000]).await.expect("an open connection");
    other.shutdown().await.expect("an open connection");
    let from = Instant::now();
    ended.shutdown().await.expect("an end");
    assert!(from.elapsed() < LINGER);
    let (mut flooded, _, mut other) = watched().await;
    let flood = tokio::spawn(async move {
        let mut sent = 0;
        while other.write_all(&[b'x'; 4096]).await.is_ok() {
            sent += 4096;
        }
        sent
    });
    let from = Instant::now();
    flooded.shutdown().await.expect("an end");
    assert!(from.elapsed() < LINGER);
    drop(flooded);
    assert!(flood.await.expect("no panic") >= LINGER_BYTES);
}

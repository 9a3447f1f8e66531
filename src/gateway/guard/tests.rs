//! The guard between a real socket and a reader that is not Pingora, in paused time.

mod requests;

use std::future::poll_fn;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::gateway::connections::{Caps, Connections};
use crate::gateway::forwarded::Spoke;
use crate::gateway::proxy::LINGER;
use crate::telemetry::Metrics;

const BODY_TIMEOUT: Duration = Duration::from_secs(5);
pub(in crate::gateway) const WRITE_TIMEOUT: Duration = Duration::from_secs(7);
const LONGEST: usize = 32 * 1024;

/// A house that counts nothing.
pub(in crate::gateway) struct Quiet(pub(in crate::gateway) Buffers);

impl House for Quiet {
    fn refused(&self, _: &Connection, _: Unread, _: Instant) {}

    fn buffers(&self) -> &Buffers {
        &self.0
    }

    fn body_timeout(&self) -> Duration {
        BODY_TIMEOUT
    }

    fn write_timeout(&self) -> Duration {
        WRITE_TIMEOUT
    }
}

/// A guarded connection and its other end.
async fn guarded() -> (Guard, TcpStream) {
    let metrics = Arc::new(Metrics::new(&[]).expect("metrics"));
    guarded_in(&Buffers::new(usize::MAX, LONGEST, metrics)).await
}

/// The same with room for long heads in `buffers`.
async fn guarded_in(buffers: &Buffers) -> (Guard, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let sender = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("a connection");
    let (stream, remote) = listener.accept().await.expect("the connection");
    let metrics = Arc::new(Metrics::new(&[]).expect("metrics"));
    let entry = Connections::new(Caps { all: 1, per_source: 1 }, metrics)
        .enter(remote, Spoke::Plain, None, None)
        .expect("room");
    let limits = HeadLimits {
        header_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(60),
        max_header_bytes: LONGEST,
    };
    (Guard::new(Side::Plain(stream), entry.connection.clone(), limits, Arc::new(Quiet(buffers.clone()))), sender)
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

#[tokio::test(start_paused = true)]
async fn who_waits_for_something_else_is_polled_by_the_moment_he_named_whenever_the_alarm_was_to_ring() {
    let (mut guard, _sender) = guarded().await;
    for (pause, within) in [(0, 20), (0, 30), (25, 20), (100, 70), (0, 20), (19, 20)] {
        tokio::time::sleep(Duration::from_secs(pause)).await;
        let by = Instant::now() + Duration::from_secs(within);
        let mut looks = 0;
        let polled_again = poll_fn(|cx| {
            looks += 1;
            if looks > 1 {
                Poll::Ready(())
            } else if guard.will_ring(cx, by) {
                Poll::Pending
            } else {
                panic!("{by:?}")
            }
        });
        tokio::time::timeout(Duration::from_secs(3600), polled_again).await.expect("it rang");
        assert!(Instant::now() <= by + Duration::from_millis(1), "{pause}, {within}");
    }
    let passed = Instant::now() - Duration::from_millis(2);
    assert!(
        !poll_fn(|cx| Poll::Ready(guard.will_ring(cx, passed))).await,
        "a moment that has come is none to wait for"
    );
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

#[tokio::test(start_paused = true)]
async fn each_request_gives_a_connection_all_its_patience_again_and_a_head_has_less() {
    let (mut guard, mut sender) = guarded().await;
    let head = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    let idle = guard.limits.idle_timeout;
    for _ in 0..3 {
        tokio::time::sleep(idle * 2 / 3).await;
        sender.write_all(head).await.expect("an open connection");
        read_head(&mut guard, head).await;
        guard.connection.enter(Phase::Idle(Instant::now()));
    }
    let from = Instant::now();
    let early = tokio::time::timeout(idle / 2, guard.read_u8()).await;
    assert!(early.is_err(), "an idle connection stays open: {early:?}");
    sender.write_all(b"GET").await.expect("an open connection");
    assert_eq!(guard.read(&mut [0; 1]).await.expect("an end"), 0);
    assert_eq!(from.elapsed(), idle / 2 + guard.limits.header_timeout + LINGER);
    drop(sender);

    let (mut guard, mut sender) = guarded().await;
    tokio::time::sleep(idle / 2).await;
    sender.write_all(head).await.expect("an open connection");
    read_head(&mut guard, head).await;
    guard.connection.enter(Phase::Idle(Instant::now()));
    let from = Instant::now();
    assert_eq!(guard.read(&mut [0; 1]).await.expect("an end"), 0);
    assert_eq!(from.elapsed().as_secs(), idle.as_secs());
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

#[tokio::test]
async fn a_sender_of_a_refused_head_reads_the_refusal_whatever_else_it_sends() {
    let (mut guard, mut sender) = guarded().await;
    let sending = async {
        sender.write_all(&vec![b'x'; 100_000]).await?;
        sender.readable().await?;
        for _ in 0..20 {
            sender.write_all(&[b'x'; 5000]).await?;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        sender.shutdown().await?;
        let mut reply = String::new();
        sender.read_to_string(&mut reply).await.map(|_| reply)
    };
    let ending = async {
        let mut byte = [0; 1];
        let read = guard.read(&mut byte).await;
        drop(guard);
        read
    };
    let (reply, read) = tokio::join!(sending, ending);
    assert_eq!(read.expect("an end"), 0, "the parser sees nothing of it");
    let reply = reply.expect("no reset");
    assert!(reply.starts_with("HTTP/1.1 431 ") && reply.ends_with("\"header_too_large\"}"), "{reply}");
}

#[tokio::test(start_paused = true)]
async fn a_sender_that_does_not_end_a_refused_connection_is_not_waited_for_long() {
    let (mut guard, mut sender) = guarded().await;
    sender.write_all(b"not HTTP at all\r\n\r\n").await.expect("an open connection");
    let from = Instant::now();
    let mut byte = [0; 1];
    assert_eq!(guard.read(&mut byte).await.expect("an end"), 0);
    assert_eq!(from.elapsed().as_secs(), LINGER.as_secs());
    assert!(guard.write_all(b"HTTP/1.1 400 Bad Request").await.is_err(), "nothing follows the refusal");
}

#[tokio::test]
async fn a_blank_line_ahead_is_forgiven_once_however_it_comes_in() {
    let head = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    let (mut guard, mut sender) = guarded().await;
    for _ in 0..2 {
        let sending = async {
            for piece in [b"\r".as_slice(), b"\n", head] {
                sender.write_all(piece).await.expect("an open connection");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::join!(sending, read_head(&mut guard, head));
        guard.connection.enter(Phase::Idle(Instant::now()));
    }
    let sending = async {
        for piece in [b"\r\n".as_slice(), b"\r\n", head] {
            sender.write_all(piece).await.expect("an open connection");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        sender.shutdown().await.expect("an open connection");
    };
    let mut byte = [0; 1];
    let (read, ()) = tokio::join!(guard.read(&mut byte), sending);
    assert_eq!(read.expect("an end"), 0, "nothing of it is handed on");
}

/// A head of `length` bytes, but for its last two if it is a part.
fn head_of(length: usize) -> Vec<u8> {
    let start = "POST / HTTP/1.1\r\nHost: h\r\nX-Long: ";
    format!("{start}{}\r\n\r\n", "a".repeat(length - start.len() - 4)).into_bytes()
}

fn room_for(bytes: usize) -> (Buffers, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new(&[]).expect("metrics"));
    // A quarter of it is for heads.
    (Buffers::new(4 * bytes, 0, metrics.clone()), metrics)
}

/// What is counted at a moment when all that was sent has been read.
async fn counted(guard: &mut Guard, metrics: &Metrics) -> i64 {
    let more = tokio::time::timeout(Duration::from_millis(50), guard.next()).await;
    assert!(more.is_err(), "no request is complete");
    metrics.buffered_bytes.get()
}

#[tokio::test]
async fn of_a_head_counts_what_is_longer_than_an_ordinary_one_for_as_long_as_its_request_lasts() {
    let (buffers, metrics) = room_for(20_000);
    let (mut guard, mut sender) = guarded_in(&buffers).await;
    let head = head_of(20_000);
    sender.write_all(&head[..SMALL]).await.expect("an open connection");
    assert_eq!(counted(&mut guard, &metrics).await, 0);
    sender.write_all(&head[SMALL..15_000]).await.expect("an open connection");
    assert_eq!(
        counted(&mut guard, &metrics).await,
        16 * 1024 - 8192,
        "the memory that was taken, and not only what is filled"
    );
    sender
        .write_all(&[&head[15_000..], b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"].concat())
        .await
        .expect("an open connection");
    assert!(guard.next().await.is_some());
    guard.connection.enter(Phase::Busy(Instant::now()));
    assert_eq!(guard.take_head().len(), 20_000);
    assert_eq!(metrics.buffered_bytes.get(), 20_000 - 8192, "what comes behind the head is no part of it");
    let kept = guard.take_long_head();
    guard.connection.enter(Phase::Idle(Instant::now()));
    assert!(guard.next().await.is_some(), "the next request");
    assert_eq!(metrics.buffered_bytes.get(), 20_000 - 8192, "who took it has it still");
    drop(kept);
    assert_eq!(metrics.buffered_bytes.get(), 0);
}

#[tokio::test]
async fn a_head_that_is_given_memory_for_the_longest_one_counts_as_such() {
    let metrics = Arc::new(Metrics::new(&[]).expect("metrics"));
    let (mut guard, mut sender) = guarded_in(&Buffers::new(usize::MAX, 0, metrics.clone())).await;
    guard.limits.max_header_bytes = 200_000;
    sender.write_all(&head_of(150_000)[..100_000]).await.expect("an open connection");
    assert_eq!(counted(&mut guard, &metrics).await, 200_000 - 8192);
    assert!(guard.pending.capacity() <= 200_000 + PIECE, "{}", guard.pending.capacity());
}

#[tokio::test]
async fn what_a_long_head_took_and_nobody_else_did_is_given_back_when_its_request_is_over() {
    let (buffers, metrics) = room_for(40_000);
    let (mut guard, mut sender) = guarded_in(&buffers).await;
    let head = head_of(20_000);
    for round in 0..3 {
        sender.write_all(&head).await.expect("an open connection");
        read_head(&mut guard, &head).await;
        // As much as it is, or as was taken for it while it grew.
        let counted = metrics.buffered_bytes.get();
        assert!((20_000 - 8192..2 * 20_000).contains(&counted), "{counted} in round {round}");
        guard.connection.enter(Phase::Idle(Instant::now()));
    }
    sender.write_all(&head_of(100)).await.expect("an open connection");
    read_head(&mut guard, &head_of(100)).await;
    assert_eq!(metrics.buffered_bytes.get(), 0);
}

#[tokio::test]
async fn a_long_head_that_finds_no_room_is_told_to_come_back_and_gives_back_what_it_took() {
    let (buffers, metrics) = room_for(10_000);
    let (mut first, mut long) = guarded_in(&buffers).await;
    long.write_all(&head_of(16_000)[..15_998]).await.expect("an open connection");
    assert_eq!(counted(&mut first, &metrics).await, 15_998 - 8192);
    let (mut second, mut other) = guarded_in(&buffers).await;
    other.write_all(&head_of(8192 + 2000)).await.expect("an open connection");
    assert!(second.next().await.is_some(), "there is room for one that is a little longer");
    let (mut third, mut late) = guarded_in(&buffers).await;
    let sending = async {
        late.write_all(&head_of(16_000)[..15_000]).await.expect("an open connection");
        late.readable().await.expect("an open connection");
        late.shutdown().await.expect("an open connection");
        let mut reply = String::new();
        late.read_to_string(&mut reply).await.expect("no reset");
        reply
    };
    let (reply, coming) = tokio::join!(sending, third.next());
    assert!(coming.is_none());
    let told = reply.starts_with("HTTP/1.1 503 ") && reply.contains("Retry-After: ");
    assert!(told && reply.ends_with("\"overloaded\"}"), "{reply}");
    assert_eq!(metrics.buffered_bytes.get(), (15_998 - 8192) + 2000, "it keeps nothing");
    assert_eq!(metrics.buffered_full_total.with_label_values(&["heads"]).get(), 1);
    let (mut ordinary, mut sender) = guarded_in(&buffers).await;
    sender.write_all(&head_of(SMALL)).await.expect("an open connection");
    assert!(ordinary.next().await.is_some(), "an ordinary head needs no room");
    drop((first, second));
    assert_eq!(metrics.buffered_bytes.get(), 0);
}

#[tokio::test]
async fn what_is_sent_ahead_of_an_answer_takes_little() {
    let (mut guard, mut sender) = guarded().await;
    let head = b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\n";
    sender.write_all(head).await.expect("an open connection");
    read_head(&mut guard, head).await;
    sender.write_all(&vec![b'x'; 30_000]).await.expect("an open connection");
    let early = tokio::time::timeout(Duration::from_millis(50), guard.read_u8()).await;
    assert!(early.is_err());
    assert_eq!(guard.pending.len(), SMALL + 1);
}

/// Sends a head with `framing` and then `body` in pieces of `size`, and gives what the gateway's own reader makes of it.
async fn read_in_pieces(framing: &str, body: &str, size: usize) -> Result<BytesMut, Broken> {
    let (mut guard, mut sender) = guarded().await;
    let head = format!("POST / HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n");
    let sending = async {
        sender.write_all(head.as_bytes()).await.expect("an open connection");
        for piece in body.as_bytes().chunks(size) {
            tokio::time::sleep(Duration::from_millis(1)).await;
            sender.write_all(piece).await.expect("an open connection");
        }
        sender.shutdown().await.expect("an open connection");
    };
    let reading = async {
        guard.next().await.expect("a request");
        assert_eq!(guard.take_head(), head.as_bytes());
        let mut read = BytesMut::new();
        while guard.more(&mut read).await.expect("an open connection")? > 0 {}
        assert_eq!(guard.left(), Some(0));
        Ok(read)
    };
    tokio::join!(sending, reading).1
}

#[tokio::test]
async fn a_body_comes_whole_however_it_is_framed_and_cut() {
    let letters = "abcdefghijklmnopqrstuvwxyz";
    for size in [1, 5, 1000] {
        let read = read_in_pieces("Content-Length: 26", letters, size).await.expect("it is whole");
        assert_eq!(read, letters);
        let chunks = format!("1a\r\n{letters}\r\n0\r\n\r\n");
        let read = read_in_pieces("Transfer-Encoding: chunked", &chunks, size).await.expect("it is whole");
        assert_eq!(read, letters);
    }
}

#[tokio::test]
async fn a_body_that_ends_early_or_is_framed_wrongly_is_broken() {
    for size in [1, 5, 1000] {
        assert!(read_in_pieces("Content-Length: 26", "abc", size).await.is_err(), "{size}");
        for chunks in ["1a\r\nabc", "3\r\nabc\r\n", "3\r\nabcd\r\n0\r\n\r\n", "x\r\n"] {
            assert!(read_in_pieces("Transfer-Encoding: chunked", chunks, size).await.is_err(), "{chunks:?} {size}");
        }
    }
}

//! Requests one after the other over one connection, for either reader: where each begins and ends, and when waiting does.

use super::*;

const GET: &[u8] = b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\n";

/// What a sender is told before the connection ends.
async fn told(mut sender: TcpStream) -> String {
    let mut reply = String::new();
    sender.read_to_string(&mut reply).await.expect("no reset");
    reply
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_says_nothing_ends_without_a_word_after_the_idle_timeout() {
    let (mut guard, sender) = guarded().await;
    let from = Instant::now();
    assert!(guard.next().await.is_none());
    assert_eq!(from.elapsed().as_secs(), 60);
    drop(guard);
    assert_eq!(told(sender).await, "");
}

#[tokio::test(start_paused = true)]
async fn a_head_has_its_time_from_its_first_byte_and_no_more_for_what_drips_in() {
    let (mut guard, mut sender) = guarded().await;
    let from = Instant::now();
    let dripping = async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        sender.write_all(b"GET ").await.expect("an open connection");
        tokio::time::sleep(Duration::from_secs(6)).await;
        sender.write_all(b"/1 HTTP/1.1\r\n").await.expect("an open connection");
        told(sender).await
    };
    let waiting = async {
        let coming = guard.next().await;
        drop(guard);
        coming
    };
    let (reply, coming) = tokio::join!(dripping, waiting);
    assert!(coming.is_none() && reply.starts_with("HTTP/1.1 408 "), "{reply}");
    let took = from.elapsed().as_secs();
    assert!((40..40 + LINGER.as_secs() + 1).contains(&took), "{took}");
}

#[tokio::test]
async fn requests_come_one_after_the_other_with_the_moment_of_their_first_byte() {
    let (mut guard, mut sender) = guarded().await;
    let post = b"POST /2 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n";
    sender.write_all(&[GET, post, b"abc", GET].concat()).await.expect("an open connection");
    let from = Instant::now();
    for (head, body) in [(GET, ""), (&post[..], "abc"), (GET, "")] {
        let began = guard.next().await.expect("a request");
        assert!(began >= from && began <= Instant::now());
        guard.connection.enter(Phase::Busy(began));
        assert_eq!(guard.head(), head);
        assert_eq!(guard.take_head(), head);
        assert!(guard.head().is_empty() && guard.take_head().is_empty(), "it is taken");
        assert_eq!(guard.left(), Some(body.len() as u64));
        assert_eq!(guard.rest().expect("it is here"), body);
        assert_eq!(guard.left(), Some(0));
        guard.connection.enter(Phase::Idle(Instant::now()));
    }
    assert!(!guard.has_more());
    sender.shutdown().await.expect("an open connection");
    assert!(guard.next().await.is_none(), "the sender has gone");
}

#[tokio::test]
async fn a_body_that_is_not_here_is_not_given_and_one_that_was_not_read_ends_the_connection() {
    for framing in ["Content-Length: 5", "Transfer-Encoding: chunked"] {
        let (mut guard, mut sender) = guarded().await;
        let head = format!("POST / HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n");
        sender.write_all(&[head.as_bytes(), b"1\r\n"].concat()).await.expect("an open connection");
        guard.next().await.expect("a request");
        guard.take_head();
        assert!(guard.rest().is_none() && guard.has_more());
        assert_eq!(guard.left(), if framing.starts_with('C') { Some(5) } else { None });
        guard.connection.enter(Phase::Idle(Instant::now()));
        assert!(guard.next().await.is_none(), "what follows is no request");
    }
}

#[tokio::test]
async fn a_long_body_ends_where_it_says_and_what_follows_is_the_next_request() {
    let body: Vec<u8> = (0..150_000_u32).map(|number| number.to_be_bytes()[3]).collect();
    let head = format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", body.len());
    for passing in [false, true] {
        let (mut guard, mut sender) = guarded().await;
        let sending = async {
            sender.write_all(&[head.as_bytes(), &body, GET].concat()).await.expect("an open connection");
        };
        let reading = async {
            let mut read = BytesMut::new();
            if passing {
                read_head(&mut guard, head.as_bytes()).await;
                read.resize(body.len(), 0);
                guard.read_exact(&mut read).await.expect("a whole body");
            } else {
                guard.next().await.expect("a request");
                assert_eq!(guard.take_head(), head.as_bytes());
                while guard.more(&mut read).await.expect("an open connection").expect("well framed") > 0 {}
            }
            assert!(read == body, "{} bytes", read.len());
            guard.connection.enter(Phase::Idle(Instant::now()));
            read_head(&mut guard, GET).await;
        };
        tokio::join!(sending, reading);
    }
}

#[tokio::test]
async fn what_is_announced_takes_no_memory_before_it_comes() {
    let (mut guard, mut sender) = guarded().await;
    sender
        .write_all(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 8000000\r\n\r\n")
        .await
        .expect("an open connection");
    guard.next().await.expect("a request");
    drop(guard.take_head());
    let mut read = BytesMut::new();
    for length in [100, 5000, 20_000, 100_000, 400_000] {
        sender.write_all(&vec![b'x'; length - read.len()]).await.expect("an open connection");
        while read.len() < length {
            assert!(guard.more(&mut read).await.expect("an open connection").expect("well framed") > 0);
        }
        assert!(read.capacity() <= 4 * read.len().max(PIECE), "{} for {length}", read.capacity());
    }
}

#[tokio::test]
async fn chunks_pass_as_they_are_up_to_their_end_and_no_further() {
    let head = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunks = b"3\r\nabc\r\n5\r\nfghij\r\n0\r\n\r\n";
    for room in [1, 4, 1000] {
        let (mut guard, mut sender) = guarded().await;
        sender.write_all(&[&head[..], &chunks[..], GET].concat()).await.expect("an open connection");
        read_head(&mut guard, head).await;
        let mut read = Vec::new();
        while read.len() < chunks.len() {
            let mut piece = vec![0; room];
            let count = guard.read(&mut piece).await.expect("well framed");
            assert!(count > 0);
            read.extend_from_slice(&piece[..count]);
        }
        assert_eq!(read, chunks);
        guard.connection.enter(Phase::Idle(Instant::now()));
        read_head(&mut guard, GET).await;
    }
    let (mut guard, mut sender) = guarded().await;
    sender.write_all(&[&head[..], b"3\r\nabcd\r\n"].concat()).await.expect("an open connection");
    read_head(&mut guard, head).await;
    let mut read = Vec::new();
    let outcome = guard.read_to_end(&mut read).await.expect_err("not framed as chunks");
    assert_eq!(outcome.kind(), io::ErrorKind::InvalidData);
    guard.connection.enter(Phase::Idle(Instant::now()));
    assert_eq!(guard.read(&mut [0; 9]).await.expect("an end"), 0, "nothing of it is taken for a request");
}

#[tokio::test]
async fn a_head_may_be_as_long_as_configured_and_not_a_byte_longer() {
    for (length, let_in) in [(LONGEST, true), (LONGEST + 1, false)] {
        let (mut guard, mut sender) = guarded().await;
        let sending = async {
            sender.write_all(&head_of(length)).await.expect("an open connection");
            sender.shutdown().await.expect("an open connection");
            told(sender).await
        };
        let reading = async {
            let coming = guard.next().await.is_some();
            drop(guard);
            coming
        };
        let (reply, came) = tokio::join!(sending, reading);
        assert_eq!((came, reply.starts_with("HTTP/1.1 431 ")), (let_in, !let_in), "{length}: {reply}");
    }
}

#[tokio::test]
async fn a_head_that_is_not_long_counts_nothing_however_it_comes_in() {
    let (buffers, metrics) = room_for(20_000);
    let (mut guard, mut sender) = guarded_in(&buffers).await;
    let head = head_of(SMALL);
    for piece in [&head[..5000], &head[5000..8000], &head[8000..8190]] {
        sender.write_all(piece).await.expect("an open connection");
        assert_eq!(counted(&mut guard, &metrics).await, 0, "whatever memory it grew into");
    }
    sender.write_all(&[&head[8190..], &head[..]].concat()).await.expect("an open connection");
    assert!(guard.next().await.is_some());
    assert_eq!(metrics.buffered_bytes.get(), 0, "nor does what follows it");
}

#[tokio::test]
async fn an_absolute_target_is_handed_on_without_its_authority() {
    let (mut guard, mut sender) = guarded().await;
    sender.write_all(b"GET http://h/1 HTTP/1.1\r\nHost: h\r\n\r\n").await.expect("an open connection");
    assert!(guard.next().await.is_some());
    assert_eq!(guard.take_head(), GET);
    assert!(!guard.has_more());
}

#[tokio::test]
async fn who_ends_in_the_middle_of_a_head_gets_no_answer_to_it() {
    let (mut guard, mut sender) = guarded().await;
    sender.write_all(b"GET / HT").await.expect("an open connection");
    sender.shutdown().await.expect("an open connection");
    assert_eq!(guard.read(&mut [0; 9]).await.expect("an end"), 0);
    let answered = guard.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    assert_eq!(answered.expect_err("nothing was asked").kind(), io::ErrorKind::BrokenPipe);
    drop(guard);
    assert_eq!(told(sender).await, "");
}

#[tokio::test]
async fn what_pingora_writes_goes_out_when_it_is_flushed_or_much() {
    let (mut guard, mut sender) = guarded().await;
    sender.write_all(GET).await.expect("an open connection");
    read_head(&mut guard, GET).await;
    guard.write_all(b"one").await.expect("an open connection");
    let mut piece = vec![0; 100_000];
    assert_eq!(sender.try_read(&mut piece).expect_err("nothing").kind(), io::ErrorKind::WouldBlock);
    guard.write_all(b"two").await.expect("an open connection");
    guard.flush().await.expect("an open connection");
    sender.read_exact(&mut piece[..6]).await.expect("both");
    assert_eq!(&piece[..6], b"onetwo");
    guard.write_all(&vec![b'x'; 50_000]).await.expect("an open connection");
    sender.read_exact(&mut piece[..32_768]).await.expect("most of it");
    guard.write_all(b"end").await.expect("an open connection");
    guard.shutdown().await.expect("an open connection");
    let mut rest = Vec::new();
    sender.read_to_end(&mut rest).await.expect("no reset");
    assert_eq!((rest.len(), rest.ends_with(b"xend")), (50_000 - 32_768 + 3, true));
}

#[tokio::test(start_paused = true)]
async fn our_own_reply_is_whole_or_ends_after_the_write_timeout() {
    let (mut guard, mut sender) = guarded().await;
    guard.send([b"HTTP/1.1 200 OK\r\n", b"\r\n"]).await.expect("an open connection");
    let mut reply = [0; 19];
    sender.read_exact(&mut reply).await.expect("a reply");
    assert_eq!(&reply, b"HTTP/1.1 200 OK\r\n\r\n");
    let from = Instant::now();
    let outcome = guard.send([&vec![b'x'; 64 << 20], b""]).await.expect_err("nobody reads");
    assert_eq!((outcome.kind(), from.elapsed().as_secs()), (io::ErrorKind::TimedOut, WRITE_TIMEOUT.as_secs()));
    guard.shut().await;
    assert!(guard.next().await.is_none());
}

#[tokio::test]
async fn who_is_told_that_nothing_follows_reads_the_end_while_the_connection_is_there() {
    let (mut guard, sender) = guarded().await;
    guard.shut().await;
    assert_eq!(told(sender).await, "");
    assert!(guard.next().await.is_none());
}

#[tokio::test]
async fn who_is_parted_from_reads_the_end_whatever_it_still_sends() {
    let (mut guard, mut sender) = guarded().await;
    sender.write_all(&[GET, &vec![b'x'; 20_000]].concat()).await.expect("an open connection");
    guard.next().await.expect("a request");
    guard.take_head();
    guard.send([b"HTTP/1.1 200 OK\r\n\r\n", b""]).await.expect("an open connection");
    let parting = async {
        guard.part().await;
        let coming = guard.next().await;
        drop(guard);
        coming
    };
    let reading = async {
        sender.shutdown().await.expect("an open connection");
        told(sender).await
    };
    let (coming, reply) = tokio::join!(parting, reading);
    assert!(coming.is_none() && reply == "HTTP/1.1 200 OK\r\n\r\n", "{reply}");
}

#[tokio::test]
async fn what_says_the_same_as_host_is_taken_out_and_the_rest_stands_where_it_is_said_to_stand() {
    let (mut guard, mut sender) = guarded().await;
    let head = b"GET http://h/1?2 HTTP/1.1\r\nHost: h\r\nX-A: b\r\n\r\n";
    sender.write_all(head).await.expect("an open connection");
    guard.next().await.expect("a request");
    assert_eq!((guard.path(), guard.head()), ("/1", &b"GET /1?2 HTTP/1.1\r\nHost: h\r\nX-A: b\r\n\r\n"[..]));
    let head = guard.take_head();
    let request = crate::gateway::request::Request::parse(&head, guard.places()).expect("a judged head");
    assert_eq!((request.path.as_str(), request.query.as_deref()), ("/1", Some("2")));
    assert_eq!(request.headers.get("x-a").expect("a line"), "b");
}

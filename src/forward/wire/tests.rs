//! Answers read from texts, and a request written over a connection that takes little at once.

use tokio::io::AsyncReadExt;
use tokio::net::TcpSocket;

use super::super::pool::{Pool, Wire};
use super::*;

fn came(text: &str) -> Answer {
    Answer { rest: BytesMut::from(text), ..Answer::awaited() }
}

fn parsed(text: &str) -> Option<Answer> {
    let mut answer = came(text);
    (answer.parse(false).expect("an HTTP answer") == Head::Whole).then_some(answer)
}

#[test]
fn an_answer_comes_behind_its_interim_ones_and_in_any_number_of_pieces() {
    let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b\r\n\r\nok";
    for cut in 0..text.len() - 2 {
        assert!(parsed(&text[..cut]).is_none(), "cut at {cut}");
    }
    let mut answer = parsed(text).expect("it is complete");
    assert_eq!((answer.status, answer.headers.get("x-a")), (StatusCode::OK, Some(&HeaderValue::from_static("b"))));
    assert_eq!(answer.body_at_hand(), Some((Bytes::from_static(b"ok"), Reuse::Keep)));
}

#[test]
fn a_connection_is_kept_only_where_both_sides_know_where_the_answer_ends() {
    for (text, reuse) in [
        ("HTTP/1.1 204 No Content\r\n\r\n", Some(Reuse::Keep)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: x, Close\r\n\r\n", Some(Reuse::Close)),
        ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", Some(Reuse::Close)),
        ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n", Some(Reuse::Keep)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab", Some(Reuse::Close)),
        ("HTTP/1.1 200 OK\r\n\r\n", None),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", None),
        ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", None),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", None),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n", None),
    ] {
        assert_eq!(parsed(text).expect("complete").body_at_hand().map(|(_, reuse)| reuse), reuse, "{text}");
    }
}

#[test]
fn what_concerns_the_connection_stays_behind_and_the_rest_comes_in_the_applications_order() {
    let text = "HTTP/1.1 200 OK\r\nKEEP-ALIVE: timeout=5\r\nX-One: 1\r\ncontent-length: 2\r\nSet-Cookie: a=1\r\nX-Hop: here\r\n\
        Connection: x-hop, Close\r\nTrailer: x\r\nTE: x\r\nUpgrade: x\r\nProxy-Authenticate: x\r\nProxy-Connection: x\r\n\
        X-Two: 2\r\nSet-Cookie: b=2\r\nX-Hops: 3\r\nX-Close: 4\r\n\r\nok";
    let answer = parsed(text).expect("complete");
    let seen: Vec<_> = answer.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    let expected = [
        ("x-one", "1"),
        ("set-cookie", "a=1"),
        ("x-two", "2"),
        ("set-cookie", "b=2"),
        ("x-hops", "3"),
        ("x-close", "4"),
    ];
    assert_eq!(seen, expected);
    assert!(!answer.stays_open && matches!(answer.framing, Framing::Length(2)));
    let chunked = parsed("HTTP/1.1 200 OK\r\ntransfer-ENCODING: chunked\r\n\r\n").expect("complete");
    assert!(chunked.headers.is_empty() && matches!(chunked.framing, Framing::Chunked(_)));
}

#[test]
fn a_length_that_could_be_read_in_two_ways_is_none() {
    for (lines, clear) in [
        ("Transfer-Encoding: chunked", true),
        ("Content-Length: 3", true),
        ("Content-Length: 3, 3", true),
        ("Transfer-Encoding: chunked\r\nContent-Length: 3", false),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", false),
        ("Content-Length: 3\r\nContent-Length: 4", false),
        ("Content-Length: +3", false),
    ] {
        let answer = parsed(&format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\n")).expect("complete");
        assert_eq!(!matches!(answer.framing, Framing::Unclear), clear, "{lines}");
    }
}

#[test]
fn what_is_no_http_is_an_error_and_so_is_a_head_without_end() {
    for text in ["SSH-2.0-x\r\n\r\n", "HTTP/1.1 2x0 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nno colon\r\n\r\n"] {
        assert!(came(text).parse(false).is_err(), "{text}");
    }
    let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(MAX_HEAD_BYTES));
    assert!(came(&endless).parse(false).is_err());
}

/// A connection through which little goes at once: ours, and the application's end of it.
async fn narrow() -> (Stream, tokio::net::TcpStream) {
    let (ours, theirs) = (TcpSocket::new_v4().expect("a socket"), TcpSocket::new_v4().expect("a socket"));
    ours.set_send_buffer_size(4096).expect("a small buffer");
    theirs.set_recv_buffer_size(4096).expect("a small buffer");
    theirs.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let listener = theirs.listen(1).expect("a port to listen at");
    let ours = ours.connect(listener.local_addr().expect("bound")).await.expect("a connection");
    (Pool::default().stream(Wire::Plain(ours)), listener.accept().await.expect("the connection").0)
}

#[tokio::test]
async fn a_request_arrives_whole_in_whatever_pieces_the_system_takes_it() {
    let pattern = |length: u32| (0..length).map(|number| number.to_le_bytes()[1]).collect::<Vec<u8>>();
    for (head, body) in [(1_000_000, 300_000), (1_000_000, 0), (300, 300_000)] {
        let (head, body) = (pattern(head), pattern(body));
        let (mut stream, mut application) = narrow().await;
        let mut request = Request::new(head.clone(), &body, false);
        request.write_some(&mut Context::from_waker(std::task::Waker::noop()), &mut stream);
        assert!(!request.is_taken() && request.broken.is_none(), "no connection takes it at once");
        if head.len() > body.len() {
            assert!((1..head.len()).contains(&request.written), "cut in the head: {}", request.written);
        }
        // Who has written all of it closes, so that what was left out is seen.
        let writing = async move {
            poll_fn(|cx| {
                request.write_some(cx, &mut stream);
                if request.is_taken() { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        };
        let mut came = vec![0; head.len() + body.len()];
        let ((), read) = tokio::join!(writing, application.read_exact(&mut came));
        read.expect("an open connection");
        assert!(came == [head, body].concat(), "{} bytes", came.len());
    }
}

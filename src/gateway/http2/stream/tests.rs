//! A request of HTTP/2 as a stream, with a client of HTTP/2 at its other end; both without a socket.

use http::{HeaderMap, Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use super::*;

/// A client of one connection.
struct Client {
    _send: h2::client::SendRequest<Bytes>,
    _driver: JoinHandle<()>,
    _server: JoinHandle<()>,
}

/// What a client is told.
type Told = JoinHandle<Result<(StatusCode, HeaderMap, Vec<u8>), h2::Error>>;

/// A request as the gateway reads it, what its sender still sends, and what it is told.
async fn asked(request: Request<()>, ends: bool) -> (Stream, h2::SendStream<Bytes>, Told, Client) {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let (came, mut requests) = tokio::sync::mpsc::channel(1);
    let server = tokio::spawn(async move {
        let mut link = h2::server::handshake(ours).await.expect("a handshake");
        while let Some(Ok((request, respond))) = link.accept().await {
            assert!(came.send(Stream::new(request, respond)).await.is_ok());
        }
    });
    let (mut send, driver) = h2::client::handshake(theirs).await.expect("a handshake");
    let driver = tokio::spawn(async move { drop(driver.await) });
    let (response, body) = send.send_request(request, ends).expect("a request");
    let told = tokio::spawn(async move {
        let (head, mut body) = response.await?.into_parts();
        let mut all = Vec::new();
        while let Some(data) = body.data().await {
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            all.extend_from_slice(&data);
        }
        Ok((head.status, head.headers, all))
    });
    let stream = requests.recv().await.expect("the request comes");
    (stream, body, told, Client { _send: send, _driver: driver, _server: server })
}

fn post(headers: &[(&str, &str)]) -> Request<()> {
    let request = Request::post("https://h/a?b");
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).body(()).expect("a request")
}

async fn read(stream: &mut Stream, length: usize) -> String {
    let mut text = vec![0; length];
    stream.read_exact(&mut text).await.expect("so much comes");
    String::from_utf8(text).expect("text")
}

const START: &str = "POST https://h/a?b HTTP/1.1\r\nHost: h\r\n";

/// The head of a request with these lines.
fn head(lines: &str) -> String {
    format!("{START}{lines}\r\n").to_ascii_lowercase()
}

/// Whether nothing comes for now.
async fn is_silent(stream: &mut Stream) -> bool {
    tokio::time::timeout(std::time::Duration::from_millis(20), stream.read_u8()).await.is_err()
}

#[tokio::test]
async fn a_request_without_a_body_is_its_head_and_its_end_is_told_only_with_the_reply() {
    let (mut stream, _, told, _client) = asked(post(&[("x-a", "1")]), true).await;
    let head = head("x-a: 1\r\n");
    assert_eq!(read(&mut stream, head.len()).await.to_ascii_lowercase(), head);
    assert!(is_silent(&mut stream).await);
    stream.write_all(b"HTTP/1.1 204 No Content\r\nX-B: 2\r\nConnection: close\r\n\r\n").await.expect("a reply");
    assert_eq!(stream.read(&mut [0; 9]).await.expect("an end"), 0);
    let (status, headers, body) = told.await.expect("no panic").expect("a reply");
    assert_eq!((status.as_u16(), headers["x-b"].as_bytes(), body.len()), (204, &b"2"[..], 0));
    assert!(!headers.contains_key("connection"));
    let more = stream.write(b"HTTP/1.1 200 OK\r\n\r\n").await.expect_err("it is over");
    assert_eq!(more.kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn a_body_of_a_length_comes_as_it_is_and_any_other_by_chunks() {
    for (length, lines, body) in [
        (true, "content-length: 8\r\n", "abcdefgh"),
        (false, "transfer-encoding: chunked\r\n", "3\r\nabc\r\n5\r\ndefgh\r\n0\r\n\r\n"),
    ] {
        let request = if length { post(&[("content-length", "8")]) } else { post(&[]) };
        let (mut stream, mut send, _told, _client) = asked(request, false).await;
        let head = head(lines);
        assert_eq!(read(&mut stream, head.len()).await.to_ascii_lowercase(), head);
        send.send_data(Bytes::from_static(b"abc"), false).expect("an open stream");
        assert_eq!(read(&mut stream, if length { 3 } else { 8 }).await, body[..if length { 3 } else { 8 }]);
        send.send_data(Bytes::from_static(b"defgh"), false).expect("an open stream");
        send.send_trailers(HeaderMap::from_iter([(http::header::ETAG, http::HeaderValue::from_static("t"))]))
            .expect("an open stream");
        let at = if length { 3 } else { 8 };
        assert_eq!(read(&mut stream, body.len() - at).await, body[at..]);
        assert!(is_silent(&mut stream).await, "trailers are left out");
    }
}

#[tokio::test]
async fn a_body_longer_than_the_window_comes_whole() {
    let (mut stream, mut send, _told, _client) = asked(post(&[("content-length", "300000")]), false).await;
    read(&mut stream, head("content-length: 300000\r\n").len()).await;
    send.send_data(Bytes::from(vec![b'x'; 300_000]), true).expect("an open stream");
    assert_eq!(read(&mut stream, 300_000).await.len(), 300_000, "the window is given back as it is read");
}

#[tokio::test]
async fn a_reply_ends_where_its_framing_says_and_what_follows_is_not_taken() {
    for (reply, body) in [
        (&b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcde"[..], &b"abcde"[..]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"abcde"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na", b"a"),
    ] {
        for size in [1, 7, 1000] {
            let (mut stream, _, told, _client) = asked(post(&[]), true).await;
            for piece in reply.chunks(size) {
                stream.write_all(piece).await.expect("a reply");
            }
            assert!(stream.write_all(b"more").await.is_err(), "it is over");
            let (status, headers, came) = told.await.expect("no panic").expect("a reply");
            assert_eq!((status.as_u16(), &came[..]), (200, body));
            assert!(!headers.contains_key("transfer-encoding"));
        }
    }
}

#[tokio::test]
async fn a_reply_without_a_length_ends_with_its_stream_and_a_broken_one_is_reset() {
    let (mut stream, _, told, _client) = asked(post(&[]), true).await;
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nabc").await.expect("a reply");
    stream.shutdown().await.expect("an end");
    assert_eq!(told.await.expect("no panic").expect("a reply").2, b"abc");
    for begun in [
        &b""[..],
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ] {
        let (mut stream, _, told, _client) = asked(post(&[]), true).await;
        stream.write_all(begun).await.expect("some of a reply");
        stream.shutdown().await.expect("an end");
        let reset = told.await.expect("no panic").expect_err("no whole reply");
        assert_eq!(reset.reason(), Some(Reason::INTERNAL_ERROR), "{}", begun.len());
        stream.shutdown().await.expect("an end, as before");
    }
}

#[tokio::test]
async fn a_head_that_is_none_or_has_no_end_is_an_error() {
    let (mut stream, _, _told, _client) = asked(post(&[]), true).await;
    let odd = stream.write_all(b"SSH-2.0\r\n\r\n").await.expect_err("no head");
    assert_eq!(odd.kind(), io::ErrorKind::InvalidData);
    let (mut stream, _, _told, _client) = asked(post(&[]), true).await;
    stream.write_all(b"HTTP/1.1 200 OK\r\nX-A: ").await.expect("a part of a head");
    stream.write_all(&vec![b'x'; LONGEST_HEAD - 1000]).await.expect("a part of a head");
    let endless = stream.write_all(&[b'x'; 2000]).await.expect_err("too much of one");
    assert_eq!(endless.kind(), io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn a_reply_longer_than_the_senders_window_waits_for_it() {
    let (mut stream, _, told, _client) = asked(post(&[]), true).await;
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n").await.expect("a head");
    stream.write_all(&vec![b'x'; 300_000]).await.expect("the window grows as it is read");
    assert_eq!(told.await.expect("no panic").expect("a reply").2.len(), 300_000);
    // Who reads nothing is given no more than his window.
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let client = tokio::spawn(async move {
        let (mut send, driver) = h2::client::handshake(theirs).await.expect("a handshake");
        tokio::spawn(async move { drop(driver.await) });
        let (response, _) = send.send_request(post(&[]), true).expect("a request");
        let kept: Response<RecvStream> = response.await.expect("a head");
        std::future::pending::<()>().await;
        drop((kept, send));
    });
    let mut link = h2::server::handshake(ours).await.expect("a handshake");
    let (request, respond) = link.accept().await.expect("a request").expect("a request");
    let serving = tokio::spawn(async move { drop(link.accept().await) });
    let mut stream = Stream::new(request, respond);
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n").await.expect("a head");
    let mut taken = 0;
    let patience = std::time::Duration::from_millis(50);
    while let Ok(count) = tokio::time::timeout(patience, stream.write(&[b'x'; PIECE])).await {
        taken += count.expect("an open stream");
    }
    assert_eq!(taken, 65_535, "the window that a client begins with");
    client.abort();
    serving.abort();
}

#[tokio::test]
async fn a_request_that_is_taken_back_ends_for_who_reads_and_who_writes() {
    let (mut stream, mut send, _told, _client) = asked(post(&[("content-length", "8")]), false).await;
    read(&mut stream, head("content-length: 8\r\n").len()).await;
    send.send_data(Bytes::from_static(b"abc"), false).expect("an open stream");
    read(&mut stream, 3).await;
    send.send_reset(Reason::CANCEL);
    assert_eq!(stream.read(&mut [0; 9]).await.expect_err("taken back").kind(), io::ErrorKind::BrokenPipe);
    let (mut stream, mut send, _told, _client) = asked(post(&[("content-length", "0")]), false).await;
    read(&mut stream, head("content-length: 0\r\n").len()).await;
    send.send_data(Bytes::new(), true).expect("an open stream");
    let gone = async {
        tokio::task::yield_now().await;
        send.send_reset(Reason::CANCEL);
    };
    let mut rest = [0; 9];
    let (end, ()) = tokio::join!(stream.read(&mut rest), gone);
    assert_eq!(end.expect("an end"), 0);
}

//! Applications that answer before they have read.

use super::*;

/// An application that says `first` as soon as there is a connection and then reads a request of `length` bytes of body, if any.
async fn hasty(first: Vec<u8>, length: Option<usize>) -> (String, tokio::task::JoinHandle<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let read = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_u8().await.unwrap();
        stream.write_all(&first).await.unwrap();
        let Some(length) = length else { return 0 };
        let mut came = Vec::new();
        let head = |came: &[u8]| came.windows(4).position(|four| four == b"\r\n\r\n").map_or(usize::MAX, |at| at + 4);
        while head(came.get(..4096).unwrap_or(&came)).saturating_add(length) > came.len()
            && stream.read_buf(&mut came).await.unwrap() > 0
        {}
        came.iter().rev().take_while(|byte| **byte == b'y').count()
    });
    (url, read)
}

#[tokio::test]
async fn an_application_that_accepts_before_it_has_read_gets_all_of_the_request() {
    let unended = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc".to_vec();
    for first in [answer(0), answer(3), answer(MAX_ANSWER_BYTES), answer(16 * MAX_ANSWER_BYTES), unended] {
        let (url, read) = hasty(first.clone(), Some(HUGE)).await;
        accepted(send(&url, &event(HUGE)).await);
        assert_eq!(read.await.unwrap(), HUGE, "an answer of {} bytes", first.len());
    }
    // It closes when it has said so: it wants no more.
    let (url, _read) = hasty(answer(3), None).await;
    accepted(send(&url, &event(HUGE)).await);
}

#[tokio::test(start_paused = true)]
async fn what_an_application_has_accepted_and_does_not_read_is_given_up_in_an_attempts_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let said = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(&answer(3)).await.unwrap();
        stream
    });
    let from = Instant::now();
    accepted(send(&url, &event(HUGE)).await);
    assert!(
        from.elapsed() >= Duration::from_secs(5) && from.elapsed() < Duration::from_secs(6),
        "{:?}",
        from.elapsed()
    );
    drop(said.await.unwrap());
}

#[tokio::test]
async fn what_lies_in_the_systems_buffers_arrives_where_the_answer_cannot_be_read() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    // Little goes in on the application's side, so that the rest stays on ours.
    socket.set_recv_buffer_size(4096).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let read = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_u8().await.unwrap();
        let said = [b"HTTP/1.1 200 OK\r\nX-Trace Id: 7\r\n\r\n".to_vec(), vec![b'z'; 50_000]].concat();
        stream.write_all(&said).await.unwrap();
        let mut came = Vec::new();
        while stream.read_buf(&mut came).await.is_ok_and(|count| count > 0) {}
        came.iter().rev().take_while(|byte| **byte == b'y').count()
    });
    accepted(send(&url, &event(300_000)).await);
    assert_eq!(read.await.unwrap(), 300_000);
}

//! Attempts over real sockets: what the application reads, and what is made of what it does.

use std::collections::VecDeque;
use std::sync::Mutex;

use http::HeaderValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::domain::app_url::AppUrl;
use crate::domain::event::EventId;
use crate::domain::headers::Headers;
use crate::domain::key::EventKey;
use crate::domain::route::fixture;
use crate::domain::time::Timestamp;
use crate::telemetry::Metrics;

mod early;

/// More than the system takes in for an application that reads nothing.
const HUGE: usize = 32 * 1024 * 1024;

/// What an application does with one request that it has read whole.
#[derive(Clone, Debug)]
enum Says {
    /// Answers, and waits for the next on the same connection.
    This(Vec<u8>),
    /// Answers and closes.
    Last(Vec<u8>),
    /// Answers in part and says nothing more.
    Stops(Vec<u8>),
}

/// An application that has read these requests, each with the number of its connection.
struct App {
    url: String,
    read: Arc<Mutex<Vec<(usize, String)>>>,
}

async fn app(says: impl IntoIterator<Item = Says>) -> App {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let says = Arc::new(Mutex::new(says.into_iter().collect::<VecDeque<_>>()));
    let read = Arc::new(Mutex::new(Vec::new()));
    let all = read.clone();
    tokio::spawn(async move {
        for number in 1.. {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream, number, says.clone(), all.clone()));
        }
    });
    App { url, read }
}

async fn serve(
    mut stream: TcpStream,
    number: usize,
    says: Arc<Mutex<VecDeque<Says>>>,
    read: Arc<Mutex<Vec<(usize, String)>>>,
) {
    while let Some(request) = whole(&mut stream).await {
        read.lock().unwrap().push((number, request));
        let next = says.lock().unwrap().pop_front();
        match next {
            // Who does not want the whole answer closes early.
            Some(Says::This(answer)) if stream.write_all(&answer).await.is_ok() => {}
            Some(Says::Last(answer)) => return stream.write_all(&answer).await.unwrap(),
            Some(Says::Stops(part)) => {
                stream.write_all(&part).await.unwrap();
                return std::future::pending().await;
            }
            Some(Says::This(_)) | None => return,
        }
    }
}

/// A request up to the end that its `Content-Length` says.
async fn whole(stream: &mut TcpStream) -> Option<String> {
    let mut all = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&all).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
            if body.len() >= length.parse::<usize>().unwrap() {
                return Some(text);
            }
        }
        if stream.read_buf(&mut all).await.ok()? == 0 {
            return None;
        }
    }
}

fn answer(length: usize) -> Vec<u8> {
    [format!("HTTP/1.1 200 OK\r\nX-A: b\r\nContent-Length: {length}\r\n\r\n").into_bytes(), vec![b'x'; length]].concat()
}

fn buffers(most: usize) -> (Buffers, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new(&[]).unwrap());
    (Buffers::new(most, 0, metrics.clone()), metrics)
}

fn policy(url: &str) -> AppPolicy {
    AppPolicy {
        url: AppUrl::parse(url).expect("an address"),
        attempt_timeout: Duration::from_secs(5),
        ..fixture("r").app
    }
}

fn event(body: usize) -> Event {
    let (body, at) = (Bytes::from(vec![b'y'; body]), Timestamp::from_seconds(1_760_000_000));
    Event {
        id: EventId::new(at, 7),
        route: "r".into(),
        key: EventKey::new("r", &[b"1"], &body),
        method: Method::POST,
        target: "/hook?a=b".into(),
        headers: Headers::new(),
        authority: "hooks.example".into(),
        body: body.into(),
        received_at: at,
        signed_at: None,
        event_type: None,
        order_value: None,
    }
}

const FIRST: Sending = Sending { attempt: 1, possible_duplicate: false, replay: false };

/// One sending; the body of its answer may take until `body_by`.
async fn sent(client: &Client, event: &Event, policy: &AppPolicy, sending: Sending, body_by: Instant) -> Outcome {
    let times = Times { began: Instant::now(), body_by, seen_to_by: None };
    client.send(event, policy, sending, times).await
}

/// Sends it to the application once.
async fn send(url: &str, event: &Event) -> Outcome {
    let policy = policy(url);
    let client = Client::new(&policy, &buffers(usize::MAX).0);
    sent(&client, event, &policy, FIRST, Instant::now() + Duration::from_secs(8)).await
}

fn accepted(outcome: Outcome) -> AppAnswer {
    let Outcome::Accepted(answer) = outcome else { panic!("{outcome:?}") };
    answer
}

fn how(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Unknown { timed_out: Timeout::No, .. } => "unknown",
        Outcome::Accepted(_)
        | Outcome::Rejected(_)
        | Outcome::Failed(_)
        | Outcome::Unreachable(_)
        | Outcome::Unknown { timed_out: Timeout::Elapsed, .. } => outcome.as_str(),
    }
}

#[tokio::test]
async fn what_only_we_say_is_said_once_whatever_the_event_carries() {
    let app = app([Says::This(answer(0)), Says::This(answer(0))]).await;
    let mut event = event(5);
    for (name, value) in [
        ("host", "evil"),
        ("content-length", "999"),
        ("transfer-encoding", "chunked"),
        ("hookgate-key", "forged"),
        ("hookgate-anything", "forged"),
        ("x-signature", "one"),
    ] {
        event.headers.insert(name, HeaderValue::from_static(value));
    }
    let policy = policy(&app.url);
    let client = Client::new(&policy, &buffers(usize::MAX).0);
    for again in [false, true] {
        let sending = Sending { attempt: 1 + u32::from(again), possible_duplicate: again, replay: again };
        accepted(sent(&client, &event, &policy, sending, Instant::now()).await);
    }
    let read = app.read.lock().unwrap().clone();
    let expected = |more: &str, attempt: u32| {
        format!(
            "POST /hook?a=b HTTP/1.1\r\nHost: hooks.example\r\nx-signature: one\r\nContent-Length: 5\r\nHookgate-Event: {}\r\n\
             Hookgate-Key: {}\r\nHookgate-Route: r\r\nHookgate-Attempt: {attempt}\r\n{more}\r\nyyyyy",
            event.id, event.key
        )
    };
    let lower = |text: &str| text.to_ascii_lowercase();
    assert_eq!(lower(&read[0].1), lower(&expected("", 1)));
    let flags = "Hookgate-Possible-Duplicate: true\r\nHookgate-Replay: true\r\n";
    assert_eq!(lower(&read[1].1), lower(&expected(flags, 2)));
    assert_eq!((read[0].0, read[1].0), (1, 1), "over one connection");
}

#[tokio::test]
async fn the_applications_own_name_and_prefix_are_used_where_they_are_wanted() {
    for (host, authority, ours) in [
        (HostHeader::Preserve, "hooks.example", false),
        (HostHeader::Preserve, "", true),
        (HostHeader::Rewrite, "hooks.example", true),
    ] {
        let app = app([Says::This(answer(0))]).await;
        let policy = AppPolicy { host, ..policy(&format!("{}/below", app.url)) };
        let event = Event { authority: authority.to_owned(), ..event(1) };
        let client = Client::new(&policy, &buffers(usize::MAX).0);
        accepted(sent(&client, &event, &policy, FIRST, Instant::now()).await);
        let read = app.read.lock().unwrap()[0].1.clone();
        let name = if ours { app.url.trim_start_matches("http://") } else { authority };
        assert!(read.starts_with(&format!("POST /below/hook?a=b HTTP/1.1\r\nHost: {name}\r\n")), "{read}");
    }
}

#[tokio::test]
async fn what_cannot_be_written_is_not_sent() {
    let app = app([]).await;
    for event in [
        Event { authority: "a b".into(), ..event(1) },
        Event { target: "/a\r\nb".into(), ..event(1) },
        Event { target: String::new(), ..event(1) },
        Event { route: "a b".into(), ..event(1) },
    ] {
        assert_eq!(how(&send(&app.url, &event).await), "unreachable");
    }
    assert!(app.read.lock().unwrap().is_empty());
    assert_eq!(how(&send("https://no..name", &event(1)).await), "unreachable");
}

#[tokio::test]
async fn an_application_that_reads_all_and_breaks_off_may_have_the_event() {
    let early = |text: &str| Says::Last(text.as_bytes().to_vec());
    for says in
        [vec![], vec![early("HTTP/1.1 20")], vec![early("SSH-2.0\r\n\r\n")], vec![early("HTTP/1.1 99 No\r\n\r\n")]]
    {
        for body in [3, ONE_PIECE, ONE_PIECE + 1, 200_000] {
            let app = app(says.clone()).await;
            assert_eq!(how(&send(&app.url, &event(body)).await), "unknown", "{says:?}");
            assert_eq!(app.read.lock().unwrap().len(), 1, "it was sent once");
        }
    }
}

#[tokio::test]
async fn what_was_taken_over_a_used_connection_is_not_sent_again() {
    let app = app([Says::This(answer(1))]).await;
    let policy = policy(&app.url);
    let client = Client::new(&policy, &buffers(usize::MAX).0);
    let by = || Instant::now() + Duration::from_secs(8);
    accepted(sent(&client, &event(3), &policy, FIRST, by()).await);
    assert_eq!(how(&sent(&client, &event(3), &policy, FIRST, by()).await), "unknown");
    let numbers: Vec<usize> = app.read.lock().unwrap().iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, [1, 1]);
}

#[tokio::test]
async fn an_application_that_closes_before_it_has_all_of_it_certainly_has_not() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_u8().await.unwrap();
        }
    });
    assert_eq!(how(&send(&url, &event(HUGE)).await), "unreachable");
}

#[tokio::test(start_paused = true)]
async fn an_application_that_stays_silent_may_have_what_it_has_taken_and_nothing_else() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    for (body, said) in [(3, "timeout"), (HUGE, "unreachable")] {
        let from = Instant::now();
        assert_eq!(how(&send(&url, &event(body)).await), said, "{body}");
        assert!(from.elapsed() >= Duration::from_secs(5) && from.elapsed() < Duration::from_secs(6));
    }
}

#[tokio::test]
async fn nobody_listens_is_nobody_reached() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let outcome = send(&url, &event(3)).await;
    assert_eq!(how(&outcome), "unreachable");
    assert!(outcome.describe().contains("refused"), "{}", outcome.describe());
}

#[tokio::test]
async fn an_answer_is_read_to_its_end_however_that_is_told() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    for (says, body) in [
        (Says::This(answer(3)), 3),
        (Says::This(answer(0)), 0),
        (Says::This(answer(300_000)), 300_000),
        (Says::This(answer(MAX_ANSWER_BYTES)), MAX_ANSWER_BYTES),
        (Says::This(chunked.as_bytes().to_vec()), 5),
        (Says::Last(b"HTTP/1.1 200 OK\r\n\r\nup to the end".to_vec()), 13),
        (Says::This(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\n\r\nHTTP/1.1 204 No\r\n\r\n".to_vec()), 0),
    ] {
        let app = app([says]).await;
        assert_eq!(accepted(send(&app.url, &event(3)).await).body.len(), body);
    }
}

#[tokio::test]
async fn of_an_answer_whose_body_is_too_long_too_late_or_broken_the_status_counts() {
    let head = |length: usize| format!("HTTP/1.1 200 OK\r\nX-A: b\r\nContent-Length: {length}\r\n\r\nabc").into_bytes();
    let (long, late) = (Duration::from_secs(60), Duration::from_millis(50));
    for (says, patience) in [
        (Says::This(answer(MAX_ANSWER_BYTES + 1)), long),
        (Says::Last(head(10)), long),
        (Says::Stops(head(10)), late),
        (Says::Last(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n".to_vec()), long),
        (Says::Last(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc".to_vec()), long),
        (Says::This(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc".to_vec()), long),
    ] {
        let app = app([says]).await;
        let policy = policy(&app.url);
        let client = Client::new(&policy, &buffers(usize::MAX).0);
        let from = Instant::now();
        let answer = accepted(sent(&client, &event(3), &policy, FIRST, from + patience).await);
        assert!(answer.body.is_empty() && answer.headers.is_empty(), "{answer:?}");
        assert!(from.elapsed() < long, "{:?}", from.elapsed());
    }
}

#[tokio::test]
async fn an_answer_that_comes_before_everything_was_read_is_heard_and_its_connection_is_not_used_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let policy = policy(&format!("http://{}", listener.local_addr().unwrap()));
    tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            held.push(stream);
        }
    });
    let client = Client::new(&policy, &buffers(usize::MAX).0);
    for _ in 0..2 {
        // Over the first connection nobody would answer any more.
        let outcome = sent(&client, &event(HUGE), &policy, FIRST, Instant::now() + Duration::from_secs(8)).await;
        assert_eq!(how(&outcome), "rejected");
    }
}

#[tokio::test]
async fn a_connection_serves_the_next_attempt_where_both_know_that_it_can() {
    let no_more = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".to_vec();
    let unasked = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nmore".to_vec();
    let switched = b"HTTP/1.1 101 Switching\r\nContent-Length: 0\r\n\r\n".to_vec();
    let nothing = |line: &str| Says::This(format!("HTTP/1.1 204 No Content\r\n{line}\r\n").into_bytes());
    for (first, connections) in [
        (nothing(""), 1),
        (nothing("Content-Length: 0\r\n"), 1),
        (nothing("Content-Length: 2\r\n"), 2),
        (nothing("Transfer-Encoding: chunked\r\n"), 2),
        (Says::This(answer(3)), 1),
        (Says::This(answer(100_000)), 1),
        (Says::This(no_more), 2),
        (Says::This(unasked), 2),
        (Says::This(switched), 2),
        (Says::This(answer(MAX_ANSWER_BYTES + 1)), 2),
    ] {
        let app = app([first, Says::This(answer(1))]).await;
        let policy = policy(&app.url);
        let client = Client::new(&policy, &buffers(usize::MAX).0);
        for _ in 0..2 {
            sent(&client, &event(3), &policy, FIRST, Instant::now() + Duration::from_secs(8)).await;
        }
        let numbers: Vec<usize> = app.read.lock().unwrap().iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, [1, connections]);
    }
}

#[tokio::test]
async fn an_answer_to_head_has_no_body() {
    let app =
        app([Says::This(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n".to_vec()), Says::This(answer(0))]).await;
    let policy = policy(&app.url);
    let client = Client::new(&policy, &buffers(usize::MAX).0);
    for _ in 0..2 {
        let asked = Event { method: Method::HEAD, ..event(0) };
        assert!(accepted(sent(&client, &asked, &policy, FIRST, Instant::now()).await).body.is_empty());
    }
    assert_eq!(app.read.lock().unwrap()[1].0, 1, "its connection goes on");
}

#[tokio::test]
async fn of_an_answer_the_headers_go_on_that_are_its_receivers() {
    let text = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: X-Hop, keep-alive\r\nKeep-Alive: timeout=5\r\nX-Hop: 1\r\n\
                TE: trailers\r\nTrailer: x\r\nUpgrade: y\r\nProxy-Connection: z\r\nProxy-Authenticate: q\r\nX-End: 2\r\n\
                Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\n";
    let app = app([Says::This(text.as_bytes().to_vec())]).await;
    let headers = accepted(send(&app.url, &event(3)).await).headers;
    let mut names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["set-cookie", "set-cookie", "x-end"]);
}

#[tokio::test]
async fn a_head_of_an_answer_has_an_end() {
    let long = |length: usize| {
        let line = format!("X-Long: {}\r\n", "a".repeat(1000 - 10));
        Says::Last(
            [b"HTTP/1.1 200 OK\r\n".to_vec(), line.repeat(length / 1000).into_bytes(), b"\r\n".to_vec()].concat(),
        )
    };
    let short = app([long(200_000)]).await;
    accepted(send(&short.url, &event(3)).await);
    let many = app([long(270_000)]).await;
    let cut = accepted(send(&many.url, &event(3)).await);
    assert!(cut.headers.is_empty() && cut.body.is_empty(), "of it no more is known than its status");
}

#[tokio::test(start_paused = true)]
async fn a_whole_status_line_counts_whatever_stands_behind_it() {
    let said = |text: &str| Says::Last(text.as_bytes().to_vec());
    for (says, outcome) in [
        (said("HTTP/1.1 200 OK\r\n"), "accepted"),
        (said("HTTP/1.0 204\n"), "accepted"),
        (Says::Stops(b"HTTP/1.1 200 OK\r\nX-Trace: 1\r\n".to_vec()), "accepted"),
        (Says::This(b"HTTP/1.1 200 OK\r\nX-Trace Id: 7\r\nContent-Length: 0\r\n\r\n".to_vec()), "accepted"),
        (said("HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 202 OK\r\nfolded\r\n line\r\n\r\n"), "accepted"),
        (said("HTTP/1.1 422 No\r\nX-Trace Id: 7\r\n\r\n"), "rejected"),
        (said("HTTP/1.1 500 No\r\nX-Trace Id: 7\r\n\r\n"), "failed"),
        (said("HTTP/1.1 200 OK"), "unknown"),
        (said("HTTP/1.1 200OK\r\nX-Trace Id: 7\r\n\r\n"), "unknown"),
        (said("HTTP/2.0 200 OK\r\nX-Trace Id: 7\r\n\r\n"), "unknown"),
        (said("HTTP/1.1 103 Early\r\nX-Trace Id: 7\r\n\r\n"), "unknown"),
    ] {
        let app = app([says.clone()]).await;
        let told = send(&app.url, &event(3)).await;
        assert_eq!(how(&told), outcome, "{says:?}");
        assert_eq!(app.read.lock().unwrap().len(), 1, "{says:?}: it was sent once");
    }
}

#[tokio::test]
async fn a_long_answer_counts_as_long_as_anybody_has_it_and_without_room_the_status_counts() {
    let app = app([Says::This(answer(100_000)), Says::This(answer(150_000)), Says::This(answer(64 * 1024))]).await;
    let policy = policy(&app.url);
    // Half of it is for answers.
    let (buffers, metrics) = buffers(240_000);
    let client = Client::new(&policy, &buffers);
    let by = || Instant::now() + Duration::from_secs(8);
    let first = accepted(sent(&client, &event(3), &policy, FIRST, by()).await);
    assert_eq!(first.body.len(), 100_000);
    assert_eq!(metrics.buffered_bytes.get(), 100_000);
    let from = Instant::now();
    let second = accepted(sent(&client, &event(3), &policy, FIRST, by()).await);
    assert!(second.body.is_empty() && second.status == StatusCode::OK);
    assert!(from.elapsed() >= Duration::from_secs(1), "others may be done with theirs meanwhile");
    let short = accepted(sent(&client, &event(3), &policy, FIRST, by()).await);
    assert_eq!(
        (short.body.len(), metrics.buffered_bytes.get()),
        (64 * 1024, 100_000),
        "an ordinary one counts nothing"
    );
    let part = first.body.slice(5..6);
    drop(first);
    assert_eq!(metrics.buffered_bytes.get(), 100_000, "somebody has a part of it");
    drop(part);
    assert_eq!(metrics.buffered_bytes.get(), 0);
}

//! Connections that are held in numbers: in their head, in their body, in front of our reply, idle, in the handshake. All
//! are cut at their deadline, honest senders notice nothing, and memory stays bounded. P12, P15.
//!
//! A small crowd in every run; `make held` holds ten thousand against the release build, and prints what it measured.

mod crowd;
mod honest;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use self::crowd::{Crowd, Held, Manner};
use self::honest::{Connect, LeanApp, Times, Wire, send_until};
use crate::tls::{ALL, Papers, Sender};
use crate::world::clock::{environment, pause};
use crate::world::gateway::Gateway;
use crate::world::http2::{DATA, END_HEADERS, HEADERS, SETTINGS, fields, frame, offering};
use crate::world::sender::Line;
use crate::world::setup::Setup;
use crate::world::sign::Provider;
use crate::world::{Closing, at_once};

const MIB: u64 = 1024 * 1024;

/// Whether this is the large run.
fn large() -> bool {
    environment("HOOKGATE_TORTURE").is_some()
}

/// How many connections a crowd has; every limit below holds for either.
fn size() -> usize {
    if large() { 10_000 } else { 200 }
}

/// Every deadline of the gateway.
fn deadline() -> Duration {
    Duration::from_secs(if large() { 10 } else { 3 })
}

/// How much later than its deadline a connection may end.
const LATE: Duration = Duration::from_secs(2);

/// A gateway in front of the lean application, with all deadlines alike and room for the crowd.
fn gateway(app: &LeanApp, more: &[&str]) -> Gateway {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
    let times: Vec<String> = ["header_timeout", "body_timeout", "write_timeout", "idle_timeout"]
        .iter()
        .map(|key| format!("server.{key} = '{}s'", deadline().as_secs()))
        .collect();
    let times: Vec<&str> = times.iter().map(String::as_str).collect();
    // One of HTTP/2 counts as three. With as many of a source as there are by default the ten of the crowd leave room for others.
    let of_a_source = if more.contains(&"server.tls.h2 = true") { 1000 } else { 2000 };
    let of_a_source = format!("server.max_connections_per_source = {of_a_source}");
    // A proxy is named, so that the loopback counts as a place that senders come from.
    let room = [
        "server.max_connections = 12000",
        &of_a_source,
        "server.trusted_proxies = ['192.0.2.0/24']",
        "passthrough.paths = ['/big']",
    ];
    Gateway::start(Setup::new(&app.url()).with(&times).with(&room).with(more))
}

/// What a run was like for who had nothing to do with it.
struct Seen {
    before: Times,
    during: Times,
    /// Most memory of the gateway, in bytes.
    memory: u64,
    /// Most connections that it counted.
    connections: u64,
    /// Most bytes that it counted for long heads.
    long_heads: u64,
    /// How long the gateway counted connections of the crowd, from the last one that was opened.
    counted: Duration,
}

/// Memory of the gateway now, in bytes.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).map_or(0, |kib| kib * 1024)
}

/// Runs `act` beside honest senders, and says how they fared without it and with it.
fn beside<R: Send>(gateway: &Gateway, connect: &Connect<'_>, act: impl FnOnce() -> R + Send) -> (R, Seen) {
    let (done, most, pid) = (AtomicBool::new(false), AtomicU64::new(0), gateway.pid());
    let alone = |time: Duration| {
        std::thread::scope(|scope| {
            let sending = scope.spawn(|| send_until(&done, connect));
            pause(time);
            done.store(true, Ordering::SeqCst);
            sending.join().unwrap()
        })
    };
    alone(Duration::from_millis(500));
    done.store(false, Ordering::SeqCst);
    let before = alone(if large() { Duration::from_secs(10) } else { Duration::from_secs(3) });
    done.store(false, Ordering::SeqCst);
    let (came, during, counted, (connections, long_heads)) = std::thread::scope(|scope| {
        let closing = Closing(&done);
        let sending = scope.spawn(|| send_until(&done, connect));
        let watching = scope.spawn(|| {
            let (mut connections, mut long_heads) = (0, 0);
            for round in 0_u32.. {
                most.fetch_max(resident(pid), Ordering::SeqCst);
                if round % 10 == 0 {
                    let metrics = gateway.metrics();
                    connections = connections.max(metrics.count("hookgate_connections", &[]));
                    long_heads = long_heads.max(metrics.count("hookgate_buffered_share_bytes", &[("use", "heads")]));
                }
                if done.load(Ordering::SeqCst) {
                    break;
                }
                pause(Duration::from_millis(50));
            }
            (connections, long_heads)
        });
        let from = Instant::now();
        let came = act();
        let ended = Instant::now();
        // Eight are the honest senders' own.
        while gateway.metrics().count("hookgate_connections", &[]) > 8 && ended.elapsed() < Duration::from_secs(30) {
            pause(Duration::from_millis(100));
        }
        let counted = ended.elapsed();
        pause(Duration::from_secs(3).saturating_sub(from.elapsed()));
        drop(closing);
        (came, sending.join().unwrap(), counted, watching.join().unwrap())
    });
    (came, Seen { before, during, memory: most.load(Ordering::SeqCst), connections, long_heads, counted })
}

/// Prints what was measured, and fails if honest senders were harmed or memory grew past `mebibytes`.
fn judge(what: &str, seen: &Seen, mebibytes: u64) {
    let [before, during] = [&seen.before, &seen.during].map(|times| times.quantile(0.99));
    let [before_median, median] = [&seen.before, &seen.during].map(|times| times.quantile(0.5));
    let longest = seen.during.quantile(1.0);
    eprintln!(
        "held | {what} | honest p50 {before_median:.1?} -> {median:.1?}, p99 {before:.1?} -> {during:.1?}, longest {longest:.1?}, \
         {} sent, {} failed | {} connections | RSS {} MiB",
        seen.during.count(),
        seen.during.failed.len(),
        seen.connections,
        seen.memory / MIB
    );
    assert!(seen.during.failed.is_empty(), "{what}: honest requests failed: {:?}", seen.during.failed);
    // A development build beside its generator on two cores is no measure of times.
    if large() {
        assert!(seen.before.count() > 100 && seen.during.count() > 100, "{what}: too few honest requests to judge");
        let allowed = (before * 2).max(before + Duration::from_millis(20));
        assert!(during <= allowed, "{what}: honest p99 went from {before:?} to {during:?}");
    }
    assert!(seen.memory <= mebibytes * MIB, "{what}: {} MiB of memory, {mebibytes} are allowed", seen.memory / MIB);
}

/// Fails unless each was ended in time, and says what they were told.
fn judge_cuts(what: &str, held: &[Held], counted: Duration) {
    judge_cuts_by(deadline(), what, held, counted);
}

/// The same for connections that end `deadline` after they began.
fn judge_cuts_by(deadline: Duration, what: &str, held: &[Held], counted: Duration) {
    let mut told: Vec<(u16, usize)> = Vec::new();
    for one in held {
        match told.iter_mut().find(|(status, _)| *status == one.status) {
            Some((_, count)) => *count += 1,
            None => told.push((one.status, 1)),
        }
    }
    let lasted: Vec<Option<Duration>> = held.iter().map(|one| one.ended.map(|ended| ended - one.began)).collect();
    let longest = lasted.iter().flatten().max().copied().unwrap_or_default();
    let shortest = lasted.iter().flatten().min().copied().unwrap_or_default();
    let left = lasted.iter().filter(|lasted| lasted.is_none()).count();
    eprintln!(
        "held | {what} | {} held from {shortest:.1?} to {longest:.1?}, {left} not cut, told {told:?}, counted {counted:.1?} longer",
        held.len()
    );
    assert_eq!(left, 0, "{what}: connections that were not cut");
    assert!(longest <= deadline + LATE, "{what}: a connection lasted {longest:?}");
}

fn plain(gateway: &Gateway) -> impl Fn() -> std::io::Result<Box<dyn Wire>> + Sync {
    let address = gateway.address();
    move || {
        let stream = std::net::TcpStream::connect(&address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        Ok(Box::new(stream))
    }
}

fn crowd(manners: &[Manner]) -> Crowd {
    Crowd {
        size: size(),
        sources: 10,
        manners: manners.to_vec(),
        patience: deadline() + Duration::from_secs(8),
        tls: None,
    }
}

/// Holds such a crowd against a gateway of its own; all must be cut.
fn hold(what: &str, manners: &[Manner]) {
    let app = LeanApp::start();
    let gateway = gateway(&app, &[]);
    let (held, seen) = beside(&gateway, &plain(&gateway), || crowd(manners).hold(&gateway.address()));
    judge_cuts(what, &held, seen.counted);
    judge(what, &seen, 256);
}

#[test]
fn heads_that_drip_in_are_cut_and_nobody_else_notices() {
    let head = b"POST /webhooks/veedeo HTTP/1.1\r\nHost: hooks.example.com\r\nX-Slow: ".to_vec();
    hold("header drip", &[Manner::Drip(head, b'a')]);
}

#[test]
fn bodies_that_drip_in_are_cut_and_nobody_else_notices() {
    let head =
        b"POST /webhooks/veedeo HTTP/1.1\r\nHost: hooks.example.com\r\nContent-Length: 1048576\r\n\r\n{".to_vec();
    hold("body drip", &[Manner::Drip(head, b' ')]);
}

#[test]
fn connections_that_say_nothing_are_cut_and_nobody_else_notices() {
    let once = b"GET /nowhere HTTP/1.1\r\nHost: hooks.example.com\r\n\r\n".to_vec();
    hold("idle", &[Manner::Still(Vec::new()), Manner::Still(once)]);
}

#[test]
fn handshakes_that_stall_are_cut_and_nobody_else_notices() {
    let papers = Papers::new();
    papers.write("first", &["hooks.example.com"]);
    let lines = [papers.line("cert", "first.crt"), papers.line("key", "first.key")];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let app = LeanApp::start();
    let gateway = gateway(&app, &lines);
    let sender = papers.sender(ALL, None);
    let hello = client_hello(&sender);
    let half = hello[..hello.len() / 2].to_vec();
    let connect = || Ok(Box::new(sender.connect(&gateway, "hooks.example.com")?) as Box<dyn Wire>);
    let manners = [Manner::Still(half), Manner::Still(hello), Manner::Still(Vec::new())];
    let (held, seen) = beside(&gateway, &connect, || crowd(&manners).hold(&gateway.address()));
    judge_cuts("handshake", &held, seen.counted);
    judge("handshake", &seen, 256);
}

/// Holds such a crowd over HTTP/2, one connection each, beside honest senders who speak it too.
fn hold_over_h2(what: &str, frames: &[Vec<u8>], deadline: Duration) {
    let papers = Papers::new();
    papers.write("first", &["hooks.example.com"]);
    let lines = [papers.line("cert", "first.crt"), papers.line("key", "first.key"), "server.tls.h2 = true".to_owned()];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let app = LeanApp::start();
    let gateway = gateway(&app, &lines);
    let sender = papers.sender(ALL, None);
    let connect = || Ok(Box::new(sender.connect(&gateway, "hooks.example.com")?) as Box<dyn Wire>);
    let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(SETTINGS, 0, 0, &[])[..]].concat();
    let manners: Vec<Manner> = frames.iter().map(|more| Manner::Still([&preface[..], more].concat())).collect();
    let (tls, patience) = (Some(offering(&papers, &["h2"]).0), deadline + Duration::from_secs(8));
    let crowd = Crowd { patience, tls, ..crowd(&manners) };
    let (held, seen) = beside(&gateway, &connect, || crowd.hold(&gateway.address()));
    judge_cuts_by(deadline, what, &held, seen.counted);
    judge(what, &seen, 256);
}

/// The head of a request with a body, over HTTP/2.
fn h2_head() -> Vec<u8> {
    let pseudo: [(&str, &[u8]); 4] =
        [(":method", b"POST"), (":scheme", b"https"), (":authority", b"h"), (":path", b"/webhooks/veedeo")];
    fields(&pseudo)
}

#[test]
fn connections_of_http2_that_ask_for_nothing_are_cut_and_nobody_else_notices() {
    hold_over_h2("HTTP/2, idle and half heads", &[Vec::new(), frame(HEADERS, 0, 1, &h2_head())], deadline());
}

#[test]
fn requests_of_http2_whose_bodies_stop_are_cut_and_nobody_else_notices() {
    let stopped = [frame(HEADERS, END_HEADERS, 1, &h2_head()), frame(DATA, 0, 1, &[b' '; 4096])].concat();
    // Each is told that its body was late, what it still sends is read away for two seconds, and then it asks for nothing.
    hold_over_h2("HTTP/2, half bodies", &[stopped], 2 * deadline() + Duration::from_secs(2));
}

fn client_hello(sender: &Sender) -> Vec<u8> {
    let name = ServerName::try_from("hooks.example.com").unwrap();
    let mut connection = ClientConnection::new(Arc::clone(&sender.0), name).unwrap();
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).unwrap();
    assert!(hello.len() > 100);
    hello
}

#[test]
fn readers_that_hardly_read_are_cut_and_nobody_else_notices() {
    let app = LeanApp::start();
    let gateway = gateway(&app, &["app.max_in_flight = 64"]);
    let request = b"GET /big HTTP/1.1\r\nHost: hooks.example.com\r\n\r\n".to_vec();
    let crowd = Crowd { patience: deadline() + LATE, ..crowd(&[Manner::SlowRead(request)]) };
    let from = Instant::now();
    let (held, seen) = beside(&gateway, &plain(&gateway), || crowd.hold(&gateway.address()));
    // What the system still has for such a reader comes to it after the cut: only the gateway knows when it was.
    eprintln!(
        "held | slow read | {} held, counted {:.1?} longer, {:.1?} in all",
        held.len(),
        seen.counted,
        from.elapsed()
    );
    assert!(seen.counted < LATE, "slow read: the gateway held some for {:?} past deadline and delay", seen.counted);
    judge("slow read", &seen, 256);
    judge_room(&gateway, "passages", if large() { Some(1000) } else { None });
}

/// Fails unless all that was counted for `what` is given back, and unless at least so many times there was no room.
fn judge_room(gateway: &Gateway, what: &str, turned_away: Option<u64>) {
    let metrics = gateway.metrics();
    let full = metrics.count("hookgate_buffered_full_total", &[("use", what)]);
    eprintln!("held | {what} | {full} found no room");
    assert_eq!(metrics.find("hookgate_buffered_share_bytes", &[("use", what)]), Some(0.0), "{what}: not given back");
    assert!(turned_away.is_none_or(|least| full >= least), "{what}: {full} found no room");
}

#[test]
fn bodies_that_pass_through_and_stop_are_cut_and_nobody_else_notices() {
    let app = LeanApp::start();
    let gateway = gateway(&app, &[]);
    let mut request = b"POST /big HTTP/1.1\r\nHost: hooks.example.com\r\nContent-Length: 1048576\r\n\r\n".to_vec();
    request.resize(request.len() + 200_000, b'b');
    let crowd = crowd(&[Manner::Still(request)]);
    let (held, seen) = beside(&gateway, &plain(&gateway), || crowd.hold(&gateway.address()));
    judge_cuts("bodies that pass through", &held, seen.counted);
    judge("bodies that pass through", &seen, 256);
    judge_room(&gateway, "passages", if large() { Some(1000) } else { None });
}

#[test]
fn what_wants_to_pass_through_without_room_is_told_to_come_back_and_webhooks_go_on() {
    let app = LeanApp::start();
    let gateway = gateway(&app, &["server.max_buffered_bytes = '4MiB'"]);
    let request = b"GET /big HTTP/1.1\r\nHost: hooks.example.com\r\n\r\n".to_vec();
    let crowd = Crowd { size: 50, patience: deadline() + LATE, ..crowd(&[Manner::SlowRead(request)]) };
    let (_, seen) = beside(&gateway, &plain(&gateway), || crowd.hold(&gateway.address()));
    judge("slow read without room", &seen, 256);
    judge_room(&gateway, "passages", Some(10));
    let turned_away = [("route", "_none"), ("disposition", "unavailable")];
    assert!(gateway.metrics().count("hookgate_requests_total", &turned_away) >= 10);
}

/// Nearly a mebibyte of a head that does not end, in a few long lines.
fn long_head() -> Vec<u8> {
    let mut head = b"POST /webhooks/veedeo HTTP/1.1\r\nHost: hooks.example.com\r\n".to_vec();
    for number in 0..30 {
        head.extend_from_slice(format!("X-Long-{number}: {}\r\n", "a".repeat(30_000)).as_bytes());
    }
    head
}

fn hold_long_heads(what: &str, more: &[&str], without_room: Option<u64>) -> (Vec<Held>, Seen) {
    let app = LeanApp::start();
    let gateway = gateway(&app, more);
    let crowd = Crowd { size: size() / 5, ..crowd(&[Manner::Still(long_head())]) };
    let (held, seen) = beside(&gateway, &plain(&gateway), || crowd.hold(&gateway.address()));
    judge_cuts(what, &held, seen.counted);
    judge(what, &seen, 128);
    judge_room(&gateway, "heads", without_room);
    (held, seen)
}

#[test]
fn long_heads_that_do_not_end_take_little_memory() {
    let without_room = if large() { 1000 } else { 0 };
    let (held, seen) = hold_long_heads("900 kB of head", &["server.max_header_bytes = '1MiB'"], Some(without_room));
    // Few find room by far; that each of them counts as what it takes is what bounds many.
    let (all, share) = (u64::try_from(held.len()).unwrap() * 900_000, 64 * MIB);
    let least = all.min(share) / 10 * 9;
    assert!(seen.long_heads >= least, "{} bytes were counted for {} heads", seen.long_heads, held.len());
}

#[test]
fn long_heads_without_room_are_told_to_come_back_and_nobody_else_notices() {
    let more = ["server.max_header_bytes = '1MiB'", "server.max_buffered_bytes = '8MiB'"];
    let (held, _) = hold_long_heads("900 kB of head, room for two", &more, Some(30));
    let told = |status: u16| held.iter().filter(|one| one.status == status).count();
    assert!(told(503) >= 30, "{} of {}", told(503), held.len());
    assert_eq!(told(503) + told(408), held.len());
}

#[test]
fn heads_past_the_limit_are_refused_before_their_deadline() {
    let (held, _) = hold_long_heads("900 kB of head, 32 KiB allowed", &[], None);
    for one in &held {
        let lasted = one.ended.map(|ended| ended - one.began).unwrap();
        assert!(lasted < deadline(), "it was refused by its length: {lasted:?}");
    }
}

#[test]
fn a_flood_of_badly_signed_bodies_is_written_nowhere_and_nobody_else_notices() {
    let app = LeanApp::start();
    let gateway = gateway(&app, &[]);
    let mark = "flooded-but-never-written-";
    let body = mark.repeat(1024 * 1024 / mark.len());
    let bad = Provider::Veedeo.sign_at(body, crate::world::clock::now_unix(), "not the secret");
    let time = Duration::from_secs(if large() { 15 } else { 3 });
    let (told, seen) = beside(&gateway, &plain(&gateway), || {
        let until = Instant::now() + time;
        let told = at_once(0..16_u8, |number| flood(&gateway, number, &bad, until));
        told.into_iter().flatten().collect::<Vec<u16>>()
    });
    let count = |status: u16| told.iter().filter(|told| **told == status).count();
    eprintln!(
        "held | bad bodies | {} sent in {time:.0?}: {} got 401, {} 429, {} nothing",
        told.len(),
        count(401),
        count(429),
        count(0)
    );
    assert!(count(401) > 0 && !told.iter().any(|status| (200..300).contains(status)));
    for file in std::fs::read_dir(gateway.spool_path()).unwrap().flatten().filter(|file| file.path().is_file()) {
        let bytes = std::fs::read(file.path()).unwrap();
        assert!(!bytes.windows(mark.len()).any(|part| part == mark.as_bytes()), "{:?} holds a body", file.path());
    }
    judge("bad bodies", &seen, 256);
}

/// Sends the same again and again from an address of its own; what it was told each time, 0 for nothing.
fn flood(gateway: &Gateway, number: u8, bad: &crate::world::sender::Request, until: Instant) -> Vec<u16> {
    let mut told = Vec::new();
    let mut line = None;
    while Instant::now() < until {
        let source = std::net::Ipv4Addr::new(127, 0, 2, number % 4 + 1);
        let mut open = line.take().unwrap_or_else(|| Line::open_from(source, &gateway.address()).unwrap());
        match open.send(bad) {
            Ok(reply) => {
                let closes = reply.headers.get("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
                told.push(reply.status);
                line = (!closes).then_some(open);
            }
            Err(_) => told.push(0),
        }
    }
    told
}

//! A battery of payloads that two readers of HTTP/1.1 could read differently, each with a good and a bad signature,
//! with and without a request right behind it, some byte by byte, on a route and on a path that passes through: what
//! must be refused goes no further, what is valid is taken, and what the application gets is clean. P16.

mod payloads;

use std::collections::HashMap;
use std::time::Duration;

use payloads::{CHUNKS, LENGTHS, LINES, PLACES, PROTOCOLS, Payload, TRANSFER_ENCODINGS, TWO_FRAMINGS, Verdict};

use crate::world::app::Seen;
use crate::world::clock::{now_unix, pause};
use crate::world::sender::{Line, Request};
use crate::world::sign::Provider;
use crate::world::{World, at_once, world_with};

/// How many payloads there are at least; each is sent in six ways, every fifth and every good one byte by byte too.
const PAYLOADS: usize = 280;

/// How many connections are open at the same time.
const LANES: usize = 12;

const PATIENCE: Duration = Duration::from_secs(8);

/// Where the payload goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Route,
    Through,
}

/// One payload on one connection.
#[derive(Clone, Copy, Debug)]
struct Exchange {
    payload: &'static Payload,
    place: Place,
    signed: bool,
    /// Whether a good request follows in the same breath.
    followed: bool,
    /// Whether it is written byte by byte.
    bytewise: bool,
    number: usize,
}

/// What a body at the application belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// The payload's own request.
    First,
    /// A request hidden in the payload.
    Hidden,
    /// The request behind it.
    Second,
}

/// What must not be.
#[derive(Debug, Default)]
struct Counts {
    smuggled: Vec<String>,
    dirty: Vec<String>,
    accepted: Vec<String>,
    refused: Vec<String>,
    left_open: Vec<String>,
}

fn payloads() -> impl Iterator<Item = &'static Payload> {
    [TWO_FRAMINGS, TRANSFER_ENCODINGS, LENGTHS, LINES, PLACES, PROTOCOLS, CHUNKS].into_iter().flatten()
}

fn exchanges() -> Vec<Exchange> {
    let mut all = Vec::new();
    for (n, payload) in payloads().enumerate() {
        let mut add = |place, signed, followed, bytewise| {
            all.push(Exchange { payload, place, signed, followed, bytewise, number: all.len() });
        };
        for followed in [false, true] {
            add(Place::Route, true, followed, false);
            add(Place::Route, false, followed, false);
            add(Place::Through, true, followed, false);
            if n % 5 == 0 || payload.1 == Verdict::Taken {
                add(Place::Route, true, followed, true);
            }
        }
    }
    // A path that passes through declines nothing.
    all.retain(|it| it.place == Place::Route || !matches!(it.payload.1, Verdict::Declined | Verdict::DeclinedLast));
    all
}

impl Exchange {
    fn name(&self) -> String {
        let Self { payload, place, signed, followed, bytewise, .. } = self;
        format!("{} ({place:?}, signed {signed}, followed {followed}, bytewise {bytewise})", payload.0)
    }

    /// The body of one of its requests: 27 bytes that no other request has.
    fn body(&self, role: Role) -> String {
        format!("{{\"t\":\"{:019}\"}}", self.number * 3 + role as usize)
    }

    fn path(&self) -> &'static str {
        match self.place {
            Place::Route => "/webhooks/github",
            Place::Through => "/through/a",
        }
    }

    /// Whether the application must see the request of this role.
    fn arrives(&self, role: Role) -> bool {
        match (self.payload.1, role) {
            (Verdict::Refused | Verdict::DeclinedLast, _)
            | (_, Role::Hidden)
            | (Verdict::Declined, Role::First)
            | (Verdict::TakenLast, Role::Second) => false,
            (Verdict::Taken | Verdict::TakenLast, Role::First) => self.signed || self.place == Place::Through,
            (Verdict::Taken | Verdict::Declined, Role::Second) => self.followed,
        }
    }

    /// The statuses that the sender must read.
    fn statuses(&self) -> Vec<u16> {
        let first = match (self.payload.1, self.signed || self.place == Place::Through) {
            (Verdict::Refused, _) => return Vec::new(),
            (Verdict::DeclinedLast, _) => 405,
            (Verdict::Declined, true) => 400,
            (Verdict::Taken | Verdict::TakenLast, true) => 200,
            (Verdict::Declined | Verdict::Taken | Verdict::TakenLast, false) => 401,
        };
        let second = self.followed && matches!(self.payload.1, Verdict::Taken | Verdict::Declined);
        [first].into_iter().chain(second.then_some(200)).collect()
    }

    fn bytes(&self) -> Vec<u8> {
        let body = self.body(Role::First);
        let secret = if self.signed { Provider::GitHub.secret() } else { "not the secret" };
        let signed = Provider::GitHub.sign_at(body.clone(), now_unix(), secret);
        let host = "Host: hooks.example.com\r\n".to_owned();
        let lines = signed.headers.iter().map(|(n, v)| format!("{n}: {}\r\n", String::from_utf8_lossy(v)));
        let sig = lines.collect::<Vec<String>>().concat();
        let post = format!("POST {} HTTP/1.1\r\n", self.path());
        let head = format!("{post}{host}{sig}");
        let te = format!("{head}Transfer-Encoding: chunked\r\n\r\n");
        let hex = format!("{:x}", body.len());
        let chunks = format!("{hex}\r\n{body}\r\n0\r\n\r\n");
        let hidden = good(&self.body(Role::Hidden));
        let tail = format!("{chunks}{hidden}");
        let size = format!("{:x}\r\n", hidden.len());
        let places = [
            ("{head_rest}", format!("{host}{sig}")),
            ("{first}", format!("{te}{hex}\r\n{body}\r\n")),
            ("{taillen}", tail.len().to_string()),
            ("{innerchunk}", format!("{size}{hidden}\r\n0\r\n\r\n")),
            ("{innercl}", size.len().to_string()),
            ("{inner}", hidden),
            ("{tail}", tail),
            ("{chunks}", chunks),
            ("{head}", head),
            ("{te}", te),
            ("{post}", post),
            ("{path}", self.path().to_owned()),
            ("{host}", host),
            ("{sig}", sig),
            ("{len}", body.len().to_string()),
            ("{HEX}", hex.to_uppercase()),
            ("{hex}", hex),
            ("{body}", body),
            ("{many}", "m".repeat(5000)),
        ];
        let text = places.iter().fold(self.payload.2.to_owned(), |text, (place, value)| text.replace(place, value));
        let mut bytes = with_bytes(&text);
        if self.followed {
            bytes.extend(good(&self.body(Role::Second)).into_bytes());
        }
        bytes
    }

    /// Sends it and says what went wrong with the replies.
    fn run(&self, world: &World) -> Counts {
        let mut counts = Counts::default();
        let mut line = Line::open(&world.gateway.address()).expect("a connection");
        let bytes = self.bytes();
        // The gateway may close before all is written.
        if self.bytewise {
            bytes.iter().take_while(|byte| line.raw(&[**byte]).is_ok()).for_each(drop);
        } else {
            line.raw(&bytes).ok();
        }
        let wanted = self.statuses();
        let most = if wanted.is_empty() { 3 } else { wanted.len() };
        let read: Vec<u16> = (0..most).map_while(|_| line.read(PATIENCE).ok().map(|reply| reply.status)).collect();
        let said = || format!("{}: {read:?}", self.name());
        match self.payload.1 {
            Verdict::Refused if read.iter().any(|status| *status < 400) => counts.accepted.push(said()),
            Verdict::Refused => {}
            Verdict::Taken | Verdict::TakenLast | Verdict::Declined | Verdict::DeclinedLast => {
                if read != wanted {
                    counts.refused.push(said());
                }
            }
        }
        let ends = !matches!(self.payload.1, Verdict::Taken | Verdict::Declined);
        if ends && !line.closes(PATIENCE) {
            counts.left_open.push(said());
        }
        counts
    }
}

/// A signed request without a flaw.
fn good(body: &str) -> String {
    let (head, body) = Provider::GitHub.sign(body).bytes();
    String::from_utf8([head, body].concat()).expect("a request in ASCII")
}

/// Fills in the single bytes.
fn with_bytes(text: &str) -> Vec<u8> {
    let mut parts = text.split("{x");
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (hex, rest) = part.split_once('}').expect("a place for a byte ends");
        bytes.push(u8::from_str_radix(hex, 16).expect("two digits"));
        bytes.extend(rest.as_bytes());
    }
    bytes
}

/// What is not clean in a request that the application got.
fn dirt(seen: &Seen) -> Option<String> {
    let names = seen.headers.names();
    let ends_here = ["te", "trailer", "upgrade", "expect", "keep-alive", "http2-settings", "x-hop", "x-trailer"];
    let stray = names.iter().find(|name| name.contains('_') || ends_here.contains(&name.as_str()));
    let once = ["host", "x-forwarded-for", "x-request-id", "x-forwarded-host", "x-forwarded-proto"];
    let lost = once.iter().find(|name| seen.headers.all(name).len() != 1);
    let on_route = seen.target.starts_with("/webhooks/github");
    let unframed =
        on_route && (seen.headers.all("content-length").len() != 1 || names.contains(&"transfer-encoding".to_owned()));
    let unnamed = on_route && seen.headers.all("hookgate-key").len() != 1;
    let elsewhere =
        seen.method != "POST" || !(on_route || seen.target == "/through/a" || seen.target == "/through/a?a=b&c");
    let told = format!("{stray:?} {lost:?} {unframed} {unnamed} {elsewhere}: {seen:?}");
    (stray.is_some() || lost.is_some() || unframed || unnamed || elsewhere).then_some(told)
}

/// Compares what the application saw with what it must have seen.
fn audit(exchanges: &[Exchange], seen: &[Seen], counts: &mut Counts) {
    let mut came: HashMap<&[u8], usize> = HashMap::new();
    for one in seen {
        *came.entry(&one.body).or_default() += 1;
        counts.dirty.extend(dirt(one));
    }
    for exchange in exchanges {
        for role in [Role::First, Role::Hidden, Role::Second] {
            let times = came.remove(exchange.body(role).as_bytes()).unwrap_or_default();
            let said = || format!("{}: {role:?} came {times} times", exchange.name());
            match (times, exchange.arrives(role)) {
                (0, false) | (1, true) => {}
                (0, true) => counts.refused.push(said()),
                (1, false) if role == Role::First && exchange.payload.1 == Verdict::Refused => {
                    counts.accepted.push(said());
                }
                _ => counts.smuggled.push(said()),
            }
        }
    }
    counts.smuggled.extend(came.keys().map(|body| format!("unknown: {}", String::from_utf8_lossy(body))));
}

#[test]
fn nothing_is_smuggled_whatever_the_framing() {
    let world = world_with(&[
        "passthrough.paths = ['/through/*']",
        "server.header_timeout = '2s'",
        "server.body_timeout = '2s'",
        "log.level = 'error'",
    ]);
    let exchanges = exchanges();
    let mut counts = Counts::default();
    let lanes = at_once(0..LANES, |lane| {
        let mine = exchanges.iter().skip(lane).step_by(LANES);
        mine.map(|exchange| exchange.run(&world)).collect::<Vec<Counts>>()
    });
    for found in lanes.into_iter().flatten() {
        counts.accepted.extend(found.accepted);
        counts.refused.extend(found.refused);
        counts.left_open.extend(found.left_open);
    }
    // What went on to the application unseen would be there by now.
    pause(Duration::from_millis(300));
    counts.dirty.extend(world.app.violations());
    audit(&exchanges, &world.app.seen(), &mut counts);
    let found = payloads().count();
    eprintln!(
        "framing: {found} payloads in {} exchanges, {} requests at the application: smuggled {}, dirty {}, \
         accepted and must be refused {}, refused and valid {}, left open {}",
        exchanges.len(),
        world.app.count(),
        counts.smuggled.len(),
        counts.dirty.len(),
        counts.accepted.len(),
        counts.refused.len(),
        counts.left_open.len()
    );
    let Counts { smuggled, dirty, accepted, refused, left_open } = counts;
    let all = [smuggled, dirty, accepted, refused, left_open].concat();
    assert!(all.is_empty(), "{}", all.join("\n"));
    assert!(found >= PAYLOADS, "{found} payloads");
    assert_eq!(world.send(&Request::get("/through/a")).status, 200, "the gateway lives");
}

#[test]
fn each_payload_has_a_name_of_its_own_in_its_family() {
    for family in [TWO_FRAMINGS, TRANSFER_ENCODINGS, LENGTHS, LINES, PLACES, PROTOCOLS, CHUNKS] {
        let mut names: Vec<&str> = family.iter().map(|payload| payload.0).collect();
        let mut texts: Vec<&str> = family.iter().map(|payload| payload.2).collect();
        for list in [&mut names, &mut texts] {
            list.sort_unstable();
            let before = list.len();
            list.dedup();
            assert_eq!(list.len(), before, "{list:?}");
        }
    }
}

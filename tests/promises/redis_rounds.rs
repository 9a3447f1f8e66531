//! Round after round of faults under load: a primary and a replica, three sentinels, two gateways, and a tenth of all
//! events come to both of them. No event is lost, refused for good, or answered late; none comes twice to the
//! application before a server fails; afterwards what one gateway alone had comes twice only with a flag. P1, P2, P5,
//! P6, P12.
//!
//! Everyday: three rounds; `HOOKGATE_TORTURE` says how many.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::redis_links::{send, up};
use crate::world::app::App;
use crate::world::chance::chance;
use crate::world::clock::{environment, eventually, pause};
use crate::world::events::{task, task_of};
use crate::world::gateway::Gateway;
use crate::world::redis_links::Server;
use crate::world::sender;
use crate::world::setup::Setup;
use crate::world::sign::Provider;
use crate::world::{Closing, at_once};

/// The reply has to leave one second before the end of the budget; half a second is the test machine's.
const LATE: Duration = Duration::from_millis(4500);
/// A sender that gives up has lost its event.
const PATIENCE: Duration = Duration::from_secs(30);
const WELL: Duration = Duration::from_secs(45);
const SENDERS: usize = 4;

#[derive(Clone, Copy, Debug)]
enum Fault {
    PrimaryKilled,
    PrimaryHangsShortly,
    PrimaryHangsAndIsReplaced,
    ReplicaKilled,
    ReplicaHangs,
    Failover,
    Emptied,
    ConnectionsCut,
    SentinelKilled,
    MemoryFull,
    GatewayKilled,
}

impl Fault {
    const ALL: [Self; 11] = [
        Self::PrimaryKilled,
        Self::GatewayKilled,
        Self::PrimaryHangsAndIsReplaced,
        Self::PrimaryHangsShortly,
        Self::ReplicaKilled,
        Self::ReplicaHangs,
        Self::Failover,
        Self::Emptied,
        Self::ConnectionsCut,
        Self::SentinelKilled,
        Self::MemoryFull,
    ];
}

/// The servers of the shared store.
struct Store {
    data: [Server; 2],
    sentinels: [Server; 3],
}

impl Store {
    fn start() -> Self {
        let primary = Server::start(&["--repl-diskless-sync-delay", "0"]);
        let replica =
            Server::start(&["--repl-diskless-sync-delay", "0", "--replicaof", "127.0.0.1", &primary.number()]);
        let sentinels = [(); 3].map(|()| Server::sentinel_of(None, &primary, 2));
        for sentinel in &sentinels {
            // A failover may follow another after twice this.
            sentinel.cli(&["SENTINEL", "SET", "mymaster", "failover-timeout", "1500"]);
        }
        let store = Self { data: [primary, replica], sentinels };
        store.wait_until_well();
        store
    }

    /// The master by the sentinels' word, and the other one: their places.
    fn roles(&self) -> (usize, usize) {
        let named = eventually("a sentinel names the master", WELL, || {
            let said = self.sentinels[0].try_cli(&["SENTINEL", "get-master-addr-by-name", "mymaster"])?;
            let port = said.lines().nth(1)?.to_owned();
            self.data.iter().position(|server| server.number() == port)
        });
        (named, 1 - named)
    }

    fn settings(&self) -> String {
        let nodes: Vec<String> =
            self.sentinels.iter().map(|server| format!("'redis://{}'", server.address())).collect();
        format!("dedup.redis.sentinel = {{ master = 'mymaster', nodes = [{}] }}", nodes.join(", "))
    }

    /// One writes, the other follows, and all sentinels agree on that.
    fn wait_until_well(&self) {
        eventually("primary, replica and sentinels are well", WELL, || {
            let (master, other) = self.roles();
            let follows = self.data[master].try_cli(&["INFO", "replication"])?.contains("state=online");
            let role = self.data[other].try_cli(&["ROLE"])?;
            if role.starts_with("master") {
                // A sentinel would see to that in ten seconds or more.
                self.data[other].try_cli(&["REPLICAOF", "127.0.0.1", &self.data[master].number()])?;
                return None;
            }
            let agreed = self.sentinels.iter().all(|sentinel| {
                let said = sentinel.try_cli(&["SENTINEL", "get-master-addr-by-name", "mymaster"]);
                let quorum = sentinel.try_cli(&["SENTINEL", "ckquorum", "mymaster"]);
                let replicas = sentinel.try_cli(&["SENTINEL", "replicas", "mymaster"]).unwrap_or_default();
                said.is_some_and(|said| said.contains(&self.data[master].number()))
                    && quorum.is_some_and(|said| said.starts_with("OK"))
                    && replicas.contains(&self.data[other].number())
                    && !replicas.contains("s_down")
            });
            (follows && agreed).then_some(())
        });
    }

    fn wait_for_another_master(&self, before: usize) {
        eventually("the other one is the master", WELL, || {
            (self.roles().0 != before && self.data[1 - before].try_cli(&["ROLE"])?.starts_with("master")).then_some(())
        });
    }

    fn inflict(&mut self, fault: Fault, gateway: &mut Gateway, chance: &mut fastrand::Rng) {
        let (master, other) = self.roles();
        let moment = Duration::from_millis(chance.u64(200..900));
        match fault {
            Fault::PrimaryKilled => {
                self.data[master].kill();
                self.wait_for_another_master(master);
                self.data[master].start_again();
            }
            Fault::PrimaryHangsShortly => {
                self.data[master].freeze();
                pause(Duration::from_millis(chance.u64(30..400)));
                self.data[master].thaw();
            }
            Fault::PrimaryHangsAndIsReplaced => {
                self.data[master].freeze();
                self.wait_for_another_master(master);
                self.data[master].thaw();
            }
            Fault::ReplicaKilled => {
                self.data[other].kill();
                pause(moment);
                self.data[other].start_again();
            }
            Fault::ReplicaHangs => {
                self.data[other].freeze();
                pause(moment);
                self.data[other].thaw();
            }
            Fault::Failover => {
                eventually("a failover begins", WELL, || {
                    (self.sentinels[1].try_cli(&["SENTINEL", "FAILOVER", "mymaster"])? == "OK").then_some(())
                });
                self.wait_for_another_master(master);
            }
            Fault::Emptied => {
                self.data[master].cli(&["FLUSHALL"]);
            }
            Fault::ConnectionsCut => {
                for _ in 0..5 {
                    self.data[master].cli(&["CLIENT", "KILL", "TYPE", "normal"]);
                    pause(moment / 5);
                }
            }
            Fault::SentinelKilled => {
                let sentinel = &mut self.sentinels[2];
                sentinel.kill();
                pause(moment);
                sentinel.start_again();
            }
            Fault::MemoryFull => {
                self.data[master].cli(&["CONFIG", "SET", "maxmemory", "1"]);
                pause(moment);
                self.data[master].cli(&["CONFIG", "SET", "maxmemory", "0"]);
            }
            Fault::GatewayKilled => {
                gateway.kill9();
                pause(moment);
                gateway.restart();
            }
        }
    }
}

/// What one sender did with one event.
struct Entry {
    name: String,
    /// Which gateways got it.
    went_to: [bool; 2],
    slowest: Duration,
    /// 503s and connections that broke off before there was an answer.
    refusals: usize,
    began: Instant,
    /// When it was acknowledged.
    until: Instant,
    /// Whether all of that was in the quiet second before the fault of its round.
    in_peace: bool,
}

/// Sends an event until it is acknowledged, to either gateway, as senders behind a balancer do.
fn deliver(addresses: &[String; 2], name: &str, first: usize, chance: &mut fastrand::Rng) -> Entry {
    let request = Provider::Veedeo.sign(task(name));
    let (began, mut to) = (Instant::now(), first);
    let (name, slowest) = (name.to_owned(), Duration::ZERO);
    let mut entry = Entry { name, went_to: [false; 2], slowest, refusals: 0, began, until: began, in_peace: false };
    loop {
        entry.went_to[to] = true;
        let since = Instant::now();
        let reply = sender::send(&addresses[to], &request);
        entry.slowest = entry.slowest.max(since.elapsed());
        match reply {
            Ok(reply) if reply.acked() => return Entry { until: Instant::now(), ..entry },
            Ok(reply) => assert_eq!(reply.status, 503, "{}: {}", entry.name, reply.text()),
            // Its gateway was killed.
            Err(_) => {}
        }
        entry.refusals += 1;
        assert!(began.elapsed() < PATIENCE, "{} was not acknowledged within {PATIENCE:?}", entry.name);
        pause(Duration::from_millis(chance.u64(20..120)));
        to = chance.usize(..2);
    }
}

fn work(number: usize, round: usize, seed: u64, addresses: &[String; 2], over: &AtomicBool) -> Vec<Entry> {
    let mut chance = fastrand::Rng::with_seed(seed ^ ((round as u64) << 20) ^ number as u64);
    let mut books = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let name = format!("{round}-{number}-{}", books.len());
        let first = chance.usize(..2);
        if chance.u8(..10) > 0 {
            books.push(deliver(addresses, &name, first, &mut chance));
        } else {
            // A copy crosses over, at the same time or a little later.
            let later = Duration::from_millis([0, 0, 5, 50][chance.usize(..4)]);
            let seeds = [chance.u64(..), chance.u64(..)];
            let both = at_once(0..2, |copy| {
                pause(later * u32::from(copy == 1));
                deliver(addresses, &name, (first + copy) % 2, &mut fastrand::Rng::with_seed(seeds[copy]))
            });
            books.extend(both);
        }
        pause(Duration::from_millis(chance.u64(1..20)));
    }
    books
}

/// Both gateways use the same Redis.
fn wait_until_shared(gateways: &[Gateway; 2], round: usize) {
    eventually("the gateways share what they know", WELL, || {
        let name = format!("shared-{round}-{}", fastrand::u64(..));
        let ways = [(0, 1), (1, 0)].into_iter().enumerate();
        let mut shared = ways.map(|(number, (first, second))| {
            let body = task(format!("{name}-{number}"));
            send(&gateways[first], body.clone()).acked() && send(&gateways[second], body).json("duplicate") == true
        });
        (gateways.iter().all(up) && shared.all(|shared| shared)).then_some(())
    });
}

/// How often a gateway has seen Redis fail.
fn fallen(gateways: &[Gateway; 2]) -> usize {
    gateways.iter().map(|gateway| gateway.log(&["the dedup store redis does not answer"]).len()).sum()
}

/// A second in which both gateways had the use of Redis, from when to when. On a machine that is very busy it may be late again
/// and again: then nothing counts as before the fault.
fn quiet_second(gateways: &[Gateway; 2]) -> Option<(Instant, Instant)> {
    (0..15).find_map(|_| {
        let before = gateways.iter().all(up).then(|| fallen(gateways));
        let from = Instant::now();
        pause(Duration::from_secs(1));
        let until = Instant::now();
        // A line is written a moment after what it tells of.
        pause(Duration::from_millis(200));
        (gateways.iter().all(up) && before == Some(fallen(gateways))).then_some((from, until))
    })
}

#[derive(Default)]
struct Sum {
    events: usize,
    requests: usize,
    crossed: usize,
    in_peace: usize,
    refusals: usize,
    slowest: Duration,
    again_flagged: usize,
    again_unflagged: usize,
}

/// What the application saw of what the senders were promised.
fn audit(books: &[Entry], app: &App) -> Sum {
    let mut sum = Sum { requests: books.len(), ..Sum::default() };
    let mut went_to: HashMap<&str, [bool; 2]> = HashMap::new();
    let mut in_peace: HashMap<&str, bool> = HashMap::new();
    for entry in books {
        *in_peace.entry(&entry.name).or_insert(true) &= entry.in_peace;
        let both = went_to.entry(&entry.name).or_default();
        (0..2).for_each(|gateway| both[gateway] |= entry.went_to[gateway]);
        sum.refusals += entry.refusals;
        sum.slowest = sum.slowest.max(entry.slowest);
    }
    sum.events = went_to.len();
    sum.in_peace = went_to.iter().filter(|(name, both)| **both == [true; 2] && in_peace[*name]).count();
    sum.crossed = went_to.values().filter(|both| **both == [true; 2]).count();
    let mut sendings: HashMap<String, Vec<bool>> = HashMap::new();
    for seen in app.seen() {
        sendings.entry(task_of(&seen.body)).or_default().push(seen.flagged());
    }
    for (name, both) in &went_to {
        let flags = sendings.get(*name).unwrap_or_else(|| panic!("{name} is LOST: acknowledged, and never delivered"));
        let again = &flags[1..];
        let unflagged = again.iter().filter(|flagged| !**flagged).count();
        assert!(
            unflagged == 0 || *both == [true; 2],
            "{name} came twice unflagged and had been at one gateway: {flags:?}"
        );
        assert!(again.len() <= 2, "{name} came {} times", flags.len());
        assert!(again.is_empty() || !in_peace[name], "{name} came twice, and no server had failed yet");
        sum.again_unflagged += unflagged;
        sum.again_flagged += again.len() - unflagged;
    }
    sum
}

#[test]
fn faults_of_every_kind_under_load_lose_nothing_and_repeat_only_what_both_gateways_had() {
    let rounds = environment("HOOKGATE_TORTURE").map_or(3, |text| text.parse().expect("a whole number"));
    let mut chance = chance();
    let seed = chance.u64(..);
    let (app, mut store) = (App::start(), Store::start());
    let lines = ["dedup.store = 'redis'", "ack.budget = '5s'", "ack.reserve = '1s'", &store.settings()];
    let setup = Setup::new(&app.url()).with(&lines);
    let mut gateways = [Gateway::start(setup.clone()), Gateway::start(setup)];
    let addresses = [gateways[0].address(), gateways[1].address()];
    let mut books = Vec::new();
    for round in 0..rounds {
        wait_until_shared(&gateways, round);
        let fault = if round < Fault::ALL.len() { Fault::ALL[round] } else { Fault::ALL[chance.usize(..11)] };
        let over = AtomicBool::new(false);
        let (over, addresses, gateways) = (&over, &addresses, &mut gateways);
        let (store, chance) = (&mut store, &mut chance);
        let of_round: Vec<Entry> = std::thread::scope(|scope| {
            let closing = Closing(over);
            let senders: Vec<_> =
                (0..SENDERS).map(|number| scope.spawn(move || work(number, round, seed, addresses, over))).collect();
            let quiet = quiet_second(gateways);
            store.inflict(fault, &mut gateways[chance.usize(..2)], chance);
            pause(Duration::from_millis(500));
            drop(closing);
            let books = senders.into_iter().flat_map(|sender| sender.join().unwrap());
            let in_peace =
                |entry: &Entry| quiet.is_some_and(|(from, until)| from <= entry.began && entry.until < until);
            books.map(|entry| Entry { in_peace: in_peace(&entry), ..entry }).collect()
        });
        let slowest = of_round.iter().map(|entry| entry.slowest).max().unwrap();
        let refused: usize = of_round.iter().map(|entry| entry.refusals).sum();
        eprintln!("round {round}, {fault:?}: {} requests, {refused} refused, slowest {slowest:?}", of_round.len());
        assert!(slowest < LATE, "a reply after {slowest:?}");
        books.extend(of_round);
        store.wait_until_well();
    }
    for gateway in &gateways {
        gateway.wait_for_empty_spool(WELL);
    }
    let sum = audit(&books, &app);
    eprintln!(
        "{rounds} rounds: {} events in {} requests, {} at both gateways ({} before the fault), {} refused for a time, \
         slowest {:?}; sent again: {} flagged, {} unflagged",
        sum.events,
        sum.requests,
        sum.crossed,
        sum.in_peace,
        sum.refusals,
        sum.slowest,
        sum.again_flagged,
        sum.again_unflagged
    );
    assert!(sum.events > 30 * rounds && sum.in_peace > rounds / 2, "too little happened");
    eventually("both gateways use the store", WELL, || gateways.iter().all(up).then_some(()));
    assert_eq!(send(&gateways[0], task("last")).text(), "{\"app\":200}");
    assert_eq!(send(&gateways[1], task("last")).json("duplicate"), true, "they share to the end");
}

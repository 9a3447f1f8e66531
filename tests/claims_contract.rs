//! One contract, every claims store: the embedded table, a real Redis, and both together; then what happens to each
//! when Redis is killed, stopped, restarted or emptied.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use hookgate::claims::embedded::Embedded;
use hookgate::claims::fallback::Fallback;
use hookgate::claims::redis::{Redis, RedisSettings};
use hookgate::claims::store::{Claim, ClaimStore, Claimed, Elsewhere, PeekedState, Processed, StoreFault};
use hookgate::disk::{Disk, DiskSettings, Found};
use hookgate::domain::key::EventKey;
use hookgate::domain::route::OnStoreDown;
use hookgate::domain::secret::Secret;
use hookgate::domain::time::Timestamp;
use hookgate::telemetry::Metrics;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use uuid::Uuid;

const START: Timestamp = Timestamp::from_seconds(1_760_000_000);
const DAY: Duration = Duration::from_secs(86_400);
const LEASE: Duration = Duration::from_secs(40);
const TIMEOUT: Duration = Duration::from_millis(50);
/// Short enough to wait for, long enough for a slow machine.
const SHORT: Duration = Duration::from_millis(400);

/// A redis-server of our own. Killed when dropped.
struct Server {
    child: Child,
    port: u16,
    dir: TempDir,
}

impl Server {
    async fn start() -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self::start_on(free, tempfile::tempdir().unwrap()).await
    }

    async fn start_on(port: u16, dir: TempDir) -> Self {
        let spawned = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"])
            .arg(dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = spawned.unwrap_or_else(|error| {
            panic!("this test needs redis-server 6 or newer in the PATH ({error}): install it, e.g. apt-get install redis-server")
        });
        let server = Self { child, port, dir };
        for _ in 0..500 {
            if server.command(&["PING"]).await.is_ok() {
                return server;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("redis-server does not answer on port {port} within 5 s");
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    async fn command(&self, words: &[&str]) -> redis::RedisResult<redis::Value> {
        let mut connection = redis::Client::open(self.url())?.get_multiplexed_async_connection().await?;
        let (name, arguments) = words.split_first().unwrap();
        let mut command = redis::cmd(name);
        command.arg(arguments);
        command.query_async(&mut connection).await
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    async fn restart(mut self) -> Self {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let dir = std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap());
        Self::start_on(self.port, dir).await
    }

    fn store(&self) -> Redis {
        self.store_with(0, metrics())
    }

    fn store_with(&self, wait_replicas: u32, metrics: Arc<Metrics>) -> Redis {
        let url = Secret::new(self.url().into_bytes());
        let settings = RedisSettings { url, timeout: TIMEOUT, wait_replicas, key_prefix: "hookgate".into() };
        Redis::new(settings, metrics).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::new(&[]).unwrap())
}

/// One gateway's store: Redis with its own embedded table beside it, tended.
struct Replica {
    store: Arc<Fallback>,
    tending: tokio::task::JoinHandle<()>,
    metrics: Arc<Metrics>,
    _dir: TempDir,
}

impl Replica {
    fn new(server: &Server, policy: OnStoreDown) -> Self {
        let (local, metrics, dir) = embedded();
        let store = Arc::new(Fallback::new(
            Arc::new(server.store_with(0, metrics.clone())),
            Arc::new(local),
            policy,
            metrics.clone(),
        ));
        let tended = store.clone();
        let tending = tokio::spawn(async move { tended.tend().await });
        Self { store, tending, metrics, _dir: dir }
    }

    async fn until_up(&self) {
        let since = Instant::now();
        while !self.store.is_up() {
            assert!(since.elapsed() < Duration::from_secs(10), "not back within 10 s");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.tending.abort();
    }
}

fn embedded() -> (Embedded, Arc<Metrics>, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let metrics = metrics();
    let settings =
        DiskSettings { path: dir.path().to_owned(), max_bytes: 1 << 20, max_dead_bytes: u64::MAX, min_free_bytes: 0 };
    let opened = Disk::open(settings, START, metrics.clone()).unwrap();
    (Embedded::new(opened.disk), metrics, dir)
}

fn key(id: &str, body: &str) -> EventKey {
    EventKey::new("veedeo", &[id.as_bytes()], body.as_bytes())
}

fn claim_of(key: EventKey) -> Claim {
    Claim { route: "veedeo".into(), key, owner: Uuid::from_u128(fastrand::u128(..)), lease: LEASE, now: START }
}

fn claim(id: &str) -> Claim {
    claim_of(key(id, "body"))
}

/// A claim that runs out soon.
fn brief(id: &str) -> Claim {
    Claim { lease: SHORT, ..claim(id) }
}

/// Lets [`SHORT`] pass, for Redis and for the claims that are made afterwards.
async fn later(claim: Claim) -> Claim {
    let wait = SHORT + Duration::from_millis(50);
    tokio::time::sleep(wait).await;
    Claim { now: claim.now.plus(wait), ..claim }
}

async fn contract(store: &dyn ClaimStore) {
    an_event_is_new_once_then_in_flight_then_a_duplicate(store).await;
    a_mark_ends_with_its_ttl(store).await;
    a_released_event_is_new_again(store).await;
    what_was_perhaps_processed_stays_suspect(store).await;
    a_lapsed_lease_is_taken_over_and_its_owner_has_no_say(store).await;
    the_same_owner_may_ask_again(store).await;
    another_body_is_another_event(store).await;
    a_processed_event_is_a_duplicate_whoever_held_its_claim(store).await;
    a_mark_needs_no_claim(store).await;
    an_event_can_be_looked_up_and_forgotten(store).await;
    of_many_claims_at_once_one_wins(store).await;
}

async fn an_event_is_new_once_then_in_flight_then_a_duplicate(store: &dyn ClaimStore) {
    let first = claim("once");
    assert_eq!(store.claim(&first).await, Ok(Claimed::New));
    assert_eq!(store.claim(&claim("once")).await, Ok(Claimed::InFlight));
    assert_eq!(store.claim(&claim("another")).await, Ok(Claimed::New));
    store.mark(&first, DAY).await.unwrap();
    assert_eq!(store.claim(&claim("once")).await, Ok(Claimed::Duplicate));
    assert_eq!(store.claim(&first).await, Ok(Claimed::Duplicate));
}

async fn a_mark_ends_with_its_ttl(store: &dyn ClaimStore) {
    let first = claim("ttl");
    store.claim(&first).await.unwrap();
    store.mark(&first, SHORT).await.unwrap();
    assert_eq!(store.claim(&claim("ttl")).await, Ok(Claimed::Duplicate));
    assert_eq!(store.claim(&later(claim("ttl")).await).await, Ok(Claimed::New));
}

async fn a_released_event_is_new_again(store: &dyn ClaimStore) {
    let first = claim("released");
    store.claim(&first).await.unwrap();
    store.release(&claim("released"), Processed::Not).await.unwrap();
    assert_eq!(store.claim(&claim("released")).await, Ok(Claimed::InFlight), "a stranger cannot release it");
    store.release(&first, Processed::Not).await.unwrap();
    assert_eq!(store.claim(&claim("released")).await, Ok(Claimed::New));
}

async fn what_was_perhaps_processed_stays_suspect(store: &dyn ClaimStore) {
    let first = claim("perhaps");
    store.claim(&first).await.unwrap();
    store.release(&first, Processed::Perhaps).await.unwrap();
    let second = claim("perhaps");
    assert_eq!(store.claim(&second).await, Ok(Claimed::Lapsed));
    assert_eq!(store.claim(&claim("perhaps")).await, Ok(Claimed::InFlight));
    store.release(&second, Processed::Not).await.unwrap();
    let third = claim("perhaps");
    assert_eq!(store.claim(&third).await, Ok(Claimed::Lapsed), "the first sending is not forgotten");
    store.mark(&third, DAY).await.unwrap();
    assert_eq!(store.claim(&claim("perhaps")).await, Ok(Claimed::Duplicate));
}

async fn a_lapsed_lease_is_taken_over_and_its_owner_has_no_say(store: &dyn ClaimStore) {
    let first = brief("lapsed");
    assert_eq!(store.claim(&first).await, Ok(Claimed::New));
    assert_eq!(store.claim(&claim("lapsed")).await, Ok(Claimed::InFlight), "the lease holds");
    let second = later(claim("lapsed")).await;
    assert_eq!(store.claim(&second).await, Ok(Claimed::Lapsed));
    store.release(&first, Processed::Not).await.unwrap();
    assert_eq!(store.claim(&Claim { now: second.now, ..claim("lapsed") }).await, Ok(Claimed::InFlight));
}

async fn the_same_owner_may_ask_again(store: &dyn ClaimStore) {
    let first = claim("again");
    assert_eq!(store.claim(&first).await, Ok(Claimed::New));
    assert_eq!(store.claim(&first).await, Ok(Claimed::New));
    assert_eq!(store.claim(&claim("again")).await, Ok(Claimed::InFlight));
}

async fn another_body_is_another_event(store: &dyn ClaimStore) {
    let [one, two, three] = ["1", "2", "3"].map(|body| claim_of(key("slot", body)));
    assert_eq!(store.claim(&one).await, Ok(Claimed::New));
    assert_eq!(store.claim(&two).await, Ok(Claimed::Conflict));
    assert_eq!(store.claim(&claim_of(two.key)).await, Ok(Claimed::InFlight));
    store.mark(&two, DAY).await.unwrap();
    store.release(&one, Processed::Not).await.unwrap();
    assert_eq!(store.claim(&claim_of(two.key)).await, Ok(Claimed::Duplicate), "the first body's release is its own");
    store.claim(&one).await.unwrap();
    store.mark(&one, DAY).await.unwrap();
    for key in [one.key, two.key] {
        assert_eq!(store.claim(&claim_of(key)).await, Ok(Claimed::Duplicate));
    }
    assert_eq!(store.claim(&three).await, Ok(Claimed::Conflict));
}

async fn a_processed_event_is_a_duplicate_whoever_held_its_claim(store: &dyn ClaimStore) {
    let first = brief("lost");
    store.claim(&first).await.unwrap();
    let second = later(claim("lost")).await;
    assert_eq!(store.claim(&second).await, Ok(Claimed::Lapsed));
    let third = Claim { now: second.now, ..claim("lost") };
    store.mark(&Claim { now: second.now, ..first }, DAY).await.unwrap();
    store.release(&second, Processed::Perhaps).await.unwrap();
    assert_eq!(store.claim(&third).await, Ok(Claimed::Duplicate), "accepted is accepted");
}

async fn a_mark_needs_no_claim(store: &dyn ClaimStore) {
    store.mark(&Claim { owner: Uuid::nil(), lease: Duration::ZERO, ..claim("unclaimed") }, DAY).await.unwrap();
    assert_eq!(store.claim(&claim("unclaimed")).await, Ok(Claimed::Duplicate));
}

async fn an_event_can_be_looked_up_and_forgotten(store: &dyn ClaimStore) {
    let first = claim("peek");
    let peek = async || store.peek("veedeo", first.key, START).await.unwrap().map(|peeked| peeked.state);
    assert_eq!(peek().await, None);
    store.claim(&first).await.unwrap();
    assert_eq!(peek().await, Some(PeekedState::InFlight));
    store.release(&first, Processed::Perhaps).await.unwrap();
    assert_eq!(peek().await, Some(PeekedState::Perhaps));
    store.mark(&first, DAY).await.unwrap();
    let peeked = store.peek("veedeo", first.key, START).await.unwrap().unwrap();
    assert_eq!((peeked.state, peeked.fingerprint), (PeekedState::Processed, first.key.fingerprint));
    assert!(peeked.expires_at.since(START).abs_diff(DAY) < Duration::from_secs(2), "{}", peeked.expires_at);
    assert_eq!(store.forget("veedeo", first.key).await, Ok(Found::Yes));
    assert_eq!(store.forget("veedeo", first.key).await, Ok(Found::No));
    assert_eq!(peek().await, None);
    assert_eq!(store.claim(&claim("peek")).await, Ok(Claimed::New));
}

async fn of_many_claims_at_once_one_wins(store: &dyn ClaimStore) {
    let claims: Vec<Claim> = (0..50).map(|_| claim("race")).collect();
    let mut racers: Vec<_> = claims.iter().map(|claim| store.claim(claim)).collect();
    let mut answers = Vec::new();
    // All are begun before any has to end.
    std::future::poll_fn(|context| {
        racers.retain_mut(|racer| match racer.as_mut().poll(context) {
            Poll::Ready(answer) => {
                answers.push(answer.unwrap());
                false
            }
            Poll::Pending => true,
        });
        if racers.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    answers.retain(|answer| *answer != Claimed::InFlight);
    assert_eq!(answers, [Claimed::New]);
}

#[tokio::test]
async fn the_embedded_store_keeps_the_contract() {
    let (store, metrics, _dir) = embedded();
    contract(&store).await;
    assert_eq!(metrics.dedup_store_up.with_label_values(&["embedded"]).get(), 1);
    let counted = metrics.dedup_checks_total.with_label_values(&["embedded", "conflict"]).get();
    assert_eq!(counted, 3);
}

#[tokio::test]
async fn redis_keeps_the_contract() {
    let server = Server::start().await;
    contract(&server.store()).await;
}

#[tokio::test]
async fn redis_with_the_embedded_store_beside_it_keeps_the_contract() {
    let server = Server::start().await;
    let replica = Replica::new(&server, OnStoreDown::Local);
    contract(&*replica.store).await;
    assert!(replica.store.is_up(), "redis took part to the end");
    assert_eq!(replica.metrics.dedup_store_up.with_label_values(&["redis"]).get(), 1);
}

#[tokio::test]
async fn the_contract_holds_without_redis_where_the_embedded_table_takes_over() {
    let server = Server::start().await;
    let replica = Replica::new(&server, OnStoreDown::Local);
    server.signal(Signal::STOP);
    // Forgetting is not promised in an outage: redis would remember.
    let store = &*replica.store;
    an_event_is_new_once_then_in_flight_then_a_duplicate(store).await;
    a_released_event_is_new_again(store).await;
    what_was_perhaps_processed_stays_suspect(store).await;
    another_body_is_another_event(store).await;
    of_many_claims_at_once_one_wins(store).await;
    assert!(matches!(store.forget("veedeo", key("once", "body")).await, Err(StoreFault::Failed(_))));
}

#[tokio::test]
async fn marks_and_doubts_of_the_embedded_store_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let settings = DiskSettings {
            path: dir.path().to_owned(),
            max_bytes: 1 << 20,
            max_dead_bytes: u64::MAX,
            min_free_bytes: 0,
        };
        Disk::open(settings, START, metrics()).unwrap().disk
    };
    let disk = open();
    let first = Embedded::new(disk.clone());
    let (marked, given_up, cut_off) = (claim("marked"), claim("given up"), claim("cut off"));
    for claim in [&marked, &given_up, &cut_off] {
        assert_eq!(first.claim(claim).await, Ok(Claimed::New));
    }
    first.mark(&marked, DAY).await.unwrap();
    first.release(&given_up, Processed::Perhaps).await.unwrap();
    first.abandon_all(START);
    disk.close(START).await.unwrap();

    let second = Embedded::new(open());
    assert_eq!(second.claim(&claim("marked")).await, Ok(Claimed::Duplicate));
    assert_eq!(second.claim(&claim("given up")).await, Ok(Claimed::Lapsed));
    assert_eq!(second.claim(&claim("cut off")).await, Ok(Claimed::Lapsed));
    assert_eq!(second.claim(&claim("unknown")).await, Ok(Claimed::New));
}

#[tokio::test]
async fn a_redis_that_hangs_costs_one_bounded_wait() {
    let server = Server::start().await;
    let replica = Replica::new(&server, OnStoreDown::Local);
    replica.store.claim(&claim("before")).await.unwrap();
    server.signal(Signal::STOP);
    let since = Instant::now();
    assert_eq!(replica.store.claim(&claim("first")).await, Ok(Claimed::New));
    assert!(since.elapsed() < TIMEOUT + Duration::from_millis(30), "{:?}", since.elapsed());
    assert!(!replica.store.is_up());
    let since = Instant::now();
    for number in 0..100 {
        replica.store.claim(&claim(&format!("n{number}"))).await.unwrap();
    }
    assert!(since.elapsed() < TIMEOUT, "the wait was not the last: {:?}", since.elapsed());
    assert_eq!(replica.metrics.dedup_store_up.with_label_values(&["redis"]).get(), 0);
    server.signal(Signal::CONT);
    replica.until_up().await;
    assert_eq!(replica.metrics.dedup_store_up.with_label_values(&["redis"]).get(), 1);
}

#[tokio::test]
async fn what_happened_in_an_outage_is_told_to_redis_afterwards() {
    let server = Server::start().await;
    let [here, elsewhere] = [(); 2].map(|()| Replica::new(&server, OnStoreDown::Local));
    let (marked, released) = (claim("marked"), claim("released"));
    assert_eq!(here.store.claim(&released).await, Ok(Claimed::New));
    server.signal(Signal::STOP);
    assert_eq!(here.store.claim(&marked).await, Ok(Claimed::New));
    here.store.mark(&marked, DAY).await.unwrap();
    here.store.release(&released, Processed::Not).await.unwrap();
    server.signal(Signal::CONT);
    here.until_up().await;
    elsewhere.until_up().await;
    assert_eq!(elsewhere.store.claim(&claim("marked")).await, Ok(Claimed::Duplicate));
    assert_eq!(elsewhere.store.claim(&claim("released")).await, Ok(Claimed::New));
}

#[tokio::test]
async fn a_redis_that_is_killed_and_comes_back_empty_is_used_again() {
    let server = Server::start().await;
    let replica = Replica::new(&server, OnStoreDown::Local);
    let first = claim("first");
    replica.store.claim(&first).await.unwrap();
    replica.store.mark(&first, DAY).await.unwrap();
    let server = server.restart().await;
    assert_eq!(replica.store.claim(&claim("first")).await, Ok(Claimed::Duplicate), "marked here");
    assert_eq!(replica.store.claim(&claim("second")).await, Ok(Claimed::New));
    replica.until_up().await;
    assert_eq!(replica.store.claim(&claim("third")).await, Ok(Claimed::New));
    let keys = format!("{:?}", server.command(&["KEYS", "*"]).await.unwrap());
    assert!(keys.contains(&data_encoding::HEXLOWER.encode(&key("third", "body").slot)), "{keys}");
}

#[tokio::test]
async fn a_redis_that_was_emptied_makes_no_duplicate() {
    let server = Server::start().await;
    let replica = Replica::new(&server, OnStoreDown::Local);
    let (marked, in_flight) = (claim("marked"), claim("in flight"));
    replica.store.claim(&marked).await.unwrap();
    replica.store.mark(&marked, DAY).await.unwrap();
    replica.store.claim(&in_flight).await.unwrap();
    server.command(&["FLUSHALL"]).await.unwrap();
    assert_eq!(replica.store.claim(&claim("marked")).await, Ok(Claimed::Duplicate));
    assert_eq!(replica.store.claim(&claim("in flight")).await, Ok(Claimed::InFlight));
    replica.store.mark(&in_flight, DAY).await.unwrap();
    let elsewhere = Replica::new(&server, OnStoreDown::Local);
    assert_eq!(elsewhere.store.claim(&claim("in flight")).await, Ok(Claimed::Duplicate));
}

#[tokio::test]
async fn replicas_share_what_is_in_flight_and_what_was_processed() {
    let server = Server::start().await;
    let [one, other] = [(); 2].map(|()| Replica::new(&server, OnStoreDown::Local));
    let first = claim("shared");
    assert_eq!(one.store.claim(&first).await, Ok(Claimed::New));
    assert_eq!(other.store.claim(&claim("shared")).await, Ok(Claimed::InFlight));
    one.store.mark(&first, DAY).await.unwrap();
    assert_eq!(other.store.claim(&claim("shared")).await, Ok(Claimed::Duplicate));
}

#[tokio::test]
async fn without_redis_the_policy_decides() {
    for (policy, expected) in [
        (OnStoreDown::Local, Ok(Claimed::New)),
        (OnStoreDown::Accept, Ok(Claimed::Unsure)),
        (OnStoreDown::Refuse, Err(())),
    ] {
        let server = Server::start().await;
        let replica = Replica::new(&server, policy);
        let known = claim("known");
        replica.store.claim(&known).await.unwrap();
        replica.store.mark(&known, DAY).await.unwrap();
        server.signal(Signal::STOP);
        let answer = replica.store.claim(&claim("new")).await;
        assert_eq!(answer.clone().map_err(|_| ()), expected, "{policy:?}");
        if let Err(fault) = answer {
            assert!(matches!(fault, StoreFault::Refused(_)), "{fault:?}");
            // The refused claim is not held: the sender's retry must not meet itself.
            server.signal(Signal::CONT);
            replica.until_up().await;
            assert!(replica.store.local().claim(&claim("new")).await.unwrap().is_ours());
        }
        assert_eq!(replica.store.claim(&claim("known")).await, Ok(Claimed::Duplicate), "{policy:?}");
    }
}

#[tokio::test]
async fn who_sends_from_disk_is_told_whether_another_has_had_the_event() {
    let server = Server::start().await;
    let [here, elsewhere] = [(); 2].map(|()| Replica::new(&server, OnStoreDown::Local));
    let (kept, taken, marked, unseen) = (claim("kept"), brief("taken"), brief("marked"), claim("unseen"));
    for claim in [&kept, &taken, &marked] {
        assert_eq!(here.store.claim(claim).await, Ok(Claimed::New));
    }
    here.store.mark(&kept, DAY).await.unwrap();
    for id in ["taken", "marked"] {
        assert_eq!(elsewhere.store.claim(&claim(id)).await, Ok(Claimed::InFlight));
    }
    let over = later(claim("marked")).await;
    assert_eq!(elsewhere.store.claim(&claim("taken")).await, Ok(Claimed::Lapsed));
    assert_eq!(elsewhere.store.claim(&over).await, Ok(Claimed::Lapsed));
    elsewhere.store.mark(&over, DAY).await.unwrap();
    // What it held is marked now, whoever else is at it, and stays named after who was first.
    for _ in 0..2 {
        assert_eq!(here.store.vouch(&kept, DAY).await, Ok(Elsewhere::No));
        assert_eq!(here.store.vouch(&taken, DAY).await, Ok(Elsewhere::Perhaps));
        assert_eq!(here.store.vouch(&marked, DAY).await, Ok(Elsewhere::Perhaps));
        assert_eq!(here.store.vouch(&unseen, DAY).await, Ok(Elsewhere::No));
    }
    for id in ["kept", "taken", "marked", "unseen"] {
        assert_eq!(server.store().claim(&claim(id)).await, Ok(Claimed::Duplicate), "{id}");
    }
    server.signal(Signal::STOP);
    let since = Instant::now();
    assert!(here.store.vouch(&kept, DAY).await.is_err(), "one wait, once");
    for _ in 0..100 {
        assert_eq!(here.store.vouch(&marked, DAY).await, Ok(Elsewhere::No), "nobody can be asked");
    }
    assert!(since.elapsed() < TIMEOUT + Duration::from_millis(100), "{:?}", since.elapsed());
    server.signal(Signal::CONT);
    assert_eq!(elsewhere.store.local().vouch(&marked, DAY).await, Ok(Elsewhere::No), "nobody shares it");
}

#[tokio::test]
async fn a_claim_that_was_refused_and_executed_after_all_is_given_up_again() {
    let server = Server::start().await;
    let [here, elsewhere] = [(); 2].map(|()| Replica::new(&server, OnStoreDown::Refuse));
    here.store.claim(&claim("warm")).await.unwrap();
    server.signal(Signal::STOP);
    assert!(matches!(here.store.claim(&claim("refused")).await, Err(StoreFault::Refused(_))));
    server.signal(Signal::CONT);
    here.until_up().await;
    elsewhere.until_up().await;
    assert_eq!(elsewhere.store.claim(&claim("refused")).await, Ok(Claimed::New), "its sender's repeat need not wait");
    assert_eq!(here.store.claim(&claim("refused")).await, Ok(Claimed::InFlight), "and that is the only claim");
}

#[tokio::test]
async fn a_claim_that_nobody_waits_for_any_more_is_given_up() {
    let server = Server::start().await;
    let [here, elsewhere] = [(); 2].map(|()| Replica::new(&server, OnStoreDown::Local));
    here.store.claim(&claim("warm")).await.unwrap();
    let left = claim("left");
    let mut asked = here.store.claim(&left);
    // It is asked, and dropped before it can be answered.
    server.signal(Signal::STOP);
    assert!(tokio::time::timeout(TIMEOUT / 2, &mut asked).await.is_err());
    drop(asked);
    server.signal(Signal::CONT);
    let since = Instant::now();
    while elsewhere.store.claim(&claim("left")).await != Ok(Claimed::New) {
        assert!(since.elapsed() < Duration::from_secs(5), "it is held by nobody");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_redis_that_forbids_scripts_is_down_until_it_allows_them() {
    let server = Server::start().await;
    let replica = Replica::new(&server, OnStoreDown::Refuse);
    assert_eq!(replica.store.claim(&claim("before")).await, Ok(Claimed::New));
    server.command(&["ACL", "SETUSER", "default", "-eval", "-evalsha"]).await.unwrap();
    assert!(replica.store.claim(&claim("during")).await.is_err());
    let since = Instant::now();
    while since.elapsed() < Duration::from_millis(1500) {
        assert!(!replica.store.is_up(), "it counts as up after {:?}", since.elapsed());
        assert_eq!(replica.metrics.dedup_store_up.with_label_values(&["redis"]).get(), 0);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.command(&["ACL", "SETUSER", "default", "+eval", "+evalsha"]).await.unwrap();
    replica.until_up().await;
    assert_eq!(replica.store.claim(&claim("after")).await, Ok(Claimed::New));
}

#[tokio::test]
async fn the_time_without_redis_is_counted() {
    let server = Server::start().await;
    let replica = Replica::new(&server, OnStoreDown::Local);
    let counted = || replica.metrics.dedup_fallback_seconds_total.get();
    replica.store.claim(&claim("before")).await.unwrap();
    assert!(counted() == 0.0, "{}", counted());
    server.signal(Signal::STOP);
    replica.store.claim(&claim("during")).await.unwrap();
    let since = Instant::now();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let during = counted();
    assert!(during > 0.5 && during <= since.elapsed().as_secs_f64(), "{during} while it is down");
    server.signal(Signal::CONT);
    replica.until_up().await;
    let whole = since.elapsed().as_secs_f64();
    let after = counted();
    assert!(after >= 2.4 && after <= whole, "{after} of {whole}");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!((counted() - after).abs() < 0.1, "it goes on while Redis is up");
}

#[tokio::test]
async fn a_claim_whose_answer_was_not_heard_is_its_owners() {
    let server = Server::start().await;
    let store = server.store();
    store.claim(&claim("warm")).await.unwrap();
    server.signal(Signal::STOP);
    let first = claim("unheard");
    assert!(store.claim(&first).await.is_err());
    server.signal(Signal::CONT);
    // Whatever was sent before this is done when this is answered.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(store.claim(&claim("unheard")).await, Ok(Claimed::InFlight), "it was executed after all");
    assert_eq!(store.claim(&first).await, Ok(Claimed::New));
}

#[tokio::test]
async fn a_claim_that_too_few_replicas_have_is_no_claim() {
    let server = Server::start().await;
    let store = server.store_with(1, metrics());
    // Redis says so in time or, looking at its clock only every 100 ms, too late: both are no claim.
    let answer = store.claim(&claim("alone")).await;
    assert!(matches!(answer, Err(StoreFault::Failed(_))), "{answer:?}");
}

#[tokio::test]
async fn keys_hold_nothing_that_a_sender_chose() {
    let server = Server::start().await;
    let store = server.store();
    let hostile = "x\r\nFLUSHALL\r\n{tag}:*|m|";
    for body in ["one", "two"] {
        store.claim(&claim_of(key(hostile, body))).await.unwrap();
    }
    let redis::Value::Array(keys) = server.command(&["KEYS", "*"]).await.unwrap() else { panic!("no list of keys") };
    assert_eq!(keys.len(), 2);
    for key in keys {
        let key: String = redis::from_redis_value(key).unwrap();
        let rest = key.strip_prefix("hookgate:veedeo:").unwrap();
        assert!(rest.chars().all(|char| "0123456789abcdef:{}".contains(char)), "{key}");
    }
}

#[tokio::test]
async fn an_address_that_is_none_is_refused_without_repeating_it() {
    let url = Secret::new(b"http://user:hunter2@nowhere".to_vec());
    let settings = RedisSettings { url, timeout: TIMEOUT, wait_replicas: 0, key_prefix: "hookgate".into() };
    let refusal = Redis::new(settings, metrics()).unwrap_err().to_string();
    assert!(refusal.contains("dedup.redis.url") && !refusal.contains("hunter2"), "{refusal}");
}

//! One contract, every claims store: the embedded table, a real Redis, and both together; then what happens to each
//! when Redis is killed, stopped, restarted or emptied.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

#[path = "claims_contract/outage.rs"]
mod outage;
#[path = "promises/world/ports.rs"]
mod ports;
#[path = "claims_contract/replaced.rs"]
mod replaced;
#[path = "claims_contract/together.rs"]
mod together;

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use hookgate::claims::embedded::Embedded;
use hookgate::claims::fallback::Fallback;
use hookgate::claims::redis::{Redis, RedisSettings};
use hookgate::claims::store::{Claim, ClaimStore, Claimed, PeekedState, Processed, StoreFault};
use hookgate::disk::{Disk, DiskSettings, Found};
use hookgate::domain::key::EventKey;
use hookgate::domain::route::OnStoreDown;
use hookgate::domain::secret::Secret;
use hookgate::domain::time::Timestamp;
use hookgate::telemetry::Metrics;
use ports::Port;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use uuid::Uuid;

const START: Timestamp = Timestamp::from_seconds(1_760_000_000);
const DAY: Duration = Duration::from_secs(86_400);
const LEASE: Duration = Duration::from_secs(40);
/// Twenty times the default: a Redis that is well answers within it on machines that are busy with other tests too.
const TIMEOUT: Duration = Duration::from_secs(1);
/// One wait for a Redis that hangs, with what goes with it: less than one and a half.
const ONE_WAIT: Duration = Duration::from_millis(1400);
/// Short enough to wait for, long enough for a slow machine to ask a few things within it.
const SHORT: Duration = Duration::from_millis(1500);

/// A redis-server of our own. Killed when dropped.
struct Server {
    child: Child,
    port: Arc<Port>,
    dir: TempDir,
}

impl Server {
    async fn start() -> Self {
        Self::start_on(Arc::new(Port::claim()), tempfile::tempdir().unwrap()).await
    }

    async fn start_on(port: Arc<Port>, dir: TempDir) -> Self {
        let number = port.number().to_string();
        let spawned = Command::new("redis-server")
            .args(["--port", &number, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"])
            .arg(dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = spawned.unwrap_or_else(|error| {
            panic!("this test needs redis-server 6 or newer in the PATH ({error}): install it, e.g. apt-get install redis-server")
        });
        let server = Self { child, port, dir };
        for _ in 0..1500 {
            if server.command(&["PING"]).await.is_ok() {
                return server;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("redis-server does not answer on {} within 15 s", server.port.address());
    }

    fn url(&self) -> String {
        format!("redis://{}/0", self.port.address())
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
        Self::start_on(self.port.clone(), dir).await
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
    tending: Option<tokio::task::JoinHandle<()>>,
    metrics: Arc<Metrics>,
    _dir: TempDir,
}

impl Replica {
    fn new(server: &Server, policy: OnStoreDown) -> Self {
        let mut replica = Self::untended(server, policy);
        replica.tend();
        replica
    }

    /// One that does not notice by itself that Redis is back.
    fn untended(server: &Server, policy: OnStoreDown) -> Self {
        let (local, metrics, dir) = embedded();
        let store = Arc::new(Fallback::new(
            Arc::new(server.store_with(0, metrics.clone())),
            Arc::new(local),
            policy,
            metrics.clone(),
        ));
        Self { store, tending: None, metrics, _dir: dir }
    }

    fn tend(&mut self) {
        let tended = self.store.clone();
        self.tending = Some(tokio::spawn(async move { tended.tend().await }));
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
        if let Some(tending) = &self.tending {
            tending.abort();
        }
    }
}

fn embedded() -> (Embedded, Arc<Metrics>, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let (disk, metrics) = embedded_in(dir.path());
    (Embedded::new(disk), metrics, dir)
}

fn embedded_in(path: &std::path::Path) -> (Disk, Arc<Metrics>) {
    let metrics = metrics();
    let settings =
        DiskSettings { path: path.to_owned(), max_bytes: 1 << 20, max_dead_bytes: u64::MAX, min_free_bytes: 0 };
    (Disk::open(settings, START, metrics.clone()).unwrap().disk, metrics)
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
    disk.close().await.unwrap();

    let second = Embedded::new(open());
    assert_eq!(second.claim(&claim("marked")).await, Ok(Claimed::Duplicate));
    assert_eq!(second.claim(&claim("given up")).await, Ok(Claimed::Lapsed));
    assert_eq!(second.claim(&claim("cut off")).await, Ok(Claimed::Lapsed));
    assert_eq!(second.claim(&claim("unknown")).await, Ok(Claimed::New));
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

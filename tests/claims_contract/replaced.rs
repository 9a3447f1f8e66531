//! Connections to Redis that a server closes, and a server that takes no writes any more while another has taken its place:
//! the question is asked once more, of whoever is found then.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hookgate::claims::redis::{Redis, RedisSettings, Settings};
use hookgate::claims::store::{ClaimStore, Claimed, Processed, Shared as _};
use hookgate::disk::Found;
use hookgate::domain::route::OnStoreDown;
use hookgate::domain::secret::Secret;
use hookgate::domain::shared_store::{LiveSecret, Login, Place, StoreLink, TlsFiles};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::ports::Port;
use super::{DAY, ONE_WAIT, Replica, Server, TIMEOUT, claim, metrics};

/// An address that leads to one server, and later to another: what a balancer or a name does in a failover.
struct Way {
    leads_to: Arc<AtomicU16>,
    connections: Arc<AtomicUsize>,
    number: u16,
    task: JoinHandle<()>,
}

impl Way {
    async fn to(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let number = listener.local_addr().unwrap().port();
        let leads_to = Arc::new(AtomicU16::new(server.port.number()));
        let connections = Arc::new(AtomicUsize::new(0));
        let (to, counted) = (leads_to.clone(), connections.clone());
        let task = tokio::spawn(async move {
            while let Ok((mut here, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                let to = to.load(Ordering::Relaxed);
                tokio::spawn(async move {
                    let mut there = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                    let _end = tokio::io::copy_bidirectional(&mut here, &mut there).await;
                });
            }
        });
        Self { leads_to, connections, number, task }
    }

    fn lead_to(&self, server: &Server) {
        self.leads_to.store(server.port.number(), Ordering::Relaxed);
    }

    fn store(&self) -> Redis {
        let url = Secret::new(format!("redis://127.0.0.1:{}/0", self.number).into_bytes());
        let settings = RedisSettings { url, timeout: TIMEOUT, wait_replicas: 0, key_prefix: "hookgate".into() };
        Redis::new(settings, metrics()).unwrap()
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// From now on it follows a server that is not there, and takes no writes.
async fn replace(server: &Server) {
    server.command(&["REPLICAOF", "127.0.0.1", "1"]).await.unwrap();
}

#[tokio::test]
async fn a_claim_that_a_replaced_server_refuses_is_made_where_another_has_taken_its_place() {
    let (old, new) = (Server::start().await, Server::start().await);
    let way = Way::to(&old).await;
    let store = way.store();
    assert_eq!(store.claim(&claim("before")).await, Ok(Claimed::New));
    replace(&old).await;
    way.lead_to(&new);
    let [one, two, three] = ["one", "two", "three"].map(claim);
    assert_eq!(store.claim(&one).await, Ok(Claimed::New));
    assert_eq!(new.store().claim(&claim("one")).await, Ok(Claimed::InFlight), "it is held there");

    // The same for claims, and for marks, that go as one question.
    replace(&new).await;
    old.command(&["REPLICAOF", "NO", "ONE"]).await.unwrap();
    way.lead_to(&old);
    let together = tokio::join!(store.claim(&two), store.claim(&three));
    assert_eq!(together, (Ok(Claimed::New), Ok(Claimed::New)));
    replace(&old).await;
    new.command(&["REPLICAOF", "NO", "ONE"]).await.unwrap();
    way.lead_to(&new);
    store.mark_all(&[(two, DAY), (three, DAY)]).await.unwrap();
    for name in ["two", "three"] {
        assert_eq!(new.store().claim(&claim(name)).await, Ok(Claimed::Duplicate), "{name}");
    }
    assert_eq!(way.connections.load(Ordering::Relaxed), 4, "no more than one for each server that was found");
}

#[tokio::test]
async fn where_nobody_has_taken_the_place_of_a_server_without_writes_that_is_asked_once_more_and_told() {
    let server = Server::start().await;
    let way = Way::to(&server).await;
    let store = way.store();
    assert_eq!(store.claim(&claim("before")).await, Ok(Claimed::New));
    replace(&server).await;
    let since = Instant::now();
    let refused = store.claim(&claim("after")).await.unwrap_err().to_string();
    assert!(since.elapsed() < ONE_WAIT, "{:?}", since.elapsed());
    assert!(refused.contains("READONLY") || refused.to_lowercase().contains("read only"), "{refused}");
    assert_eq!(way.connections.load(Ordering::Relaxed), 2);
    assert!(!store.is_up());
}

#[tokio::test]
async fn a_connection_that_the_server_closes_because_it_was_idle_costs_no_claim() {
    let server = Server::start().await;
    let replica = Replica::new(&server, OnStoreDown::Refuse);
    let store = &replica.store;
    assert_eq!(store.claim(&claim("before")).await, Ok(Claimed::New));
    for round in 0..5 {
        server.command(&["CLIENT", "KILL", "TYPE", "normal"]).await.unwrap();
        let [alone, one, two] = ["alone", "one", "two"].map(|name| claim(&format!("{name} {round}")));
        assert_eq!(store.claim(&alone).await, Ok(Claimed::New), "{round}");
        server.command(&["CLIENT", "KILL", "TYPE", "normal"]).await.unwrap();
        assert_eq!(tokio::join!(store.claim(&one), store.claim(&two)), (Ok(Claimed::New), Ok(Claimed::New)), "{round}");
        server.command(&["CLIENT", "KILL", "TYPE", "normal"]).await.unwrap();
        store.mark(&alone, DAY).await.unwrap();
        server.command(&["CLIENT", "KILL", "TYPE", "normal"]).await.unwrap();
        store.release(&one, Processed::Not).await.unwrap();
        assert_eq!(server.store().claim(&claim(&format!("one {round}"))).await, Ok(Claimed::New), "{round}");
        assert_eq!(server.store().claim(&claim(&format!("alone {round}"))).await, Ok(Claimed::Duplicate), "{round}");
    }
    assert!(store.is_up());
    assert!(replica.metrics.dedup_fallback_seconds_total.get() == 0.0, "it has never counted as down");
}

#[tokio::test]
async fn to_forget_is_not_asked_twice() {
    let server = Server::start().await;
    let store = server.store();
    let known = claim("known");
    store.mark(&known, DAY).await.unwrap();
    server.command(&["CLIENT", "KILL", "TYPE", "normal"]).await.unwrap();
    store.forget(&known.route, known.key).await.unwrap_err();
    assert_eq!(store.forget(&known.route, known.key).await, Ok(Found::Yes));
}

/// A sentinel that names whom it is told to.
async fn sentinel(master: &Server) -> Server {
    let (port, dir) = (Arc::new(Port::claim()), tempfile::tempdir().unwrap());
    let file = dir.path().join("sentinel.conf");
    std::fs::write(&file, format!("port {}\nbind 127.0.0.1\n", port.number())).unwrap();
    let child = Command::new("redis-server").arg(&file).arg("--sentinel").stdout(Stdio::null()).spawn().unwrap();
    let sentinel = Server { child, port, dir };
    for _ in 0..1500 {
        if sentinel.command(&["PING"]).await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    name_master(&sentinel, master).await;
    sentinel
}

async fn name_master(sentinel: &Server, master: &Server) {
    let _none_yet = sentinel.command(&["SENTINEL", "REMOVE", "mymaster"]).await;
    let number = master.port.number().to_string();
    sentinel.command(&["SENTINEL", "MONITOR", "mymaster", "127.0.0.1", &number, "1"]).await.unwrap();
}

#[tokio::test]
async fn the_master_that_a_sentinel_names_since_is_asked_what_the_old_one_refuses() {
    let (old, new) = (Server::start().await, Server::start().await);
    let sentinel = sentinel(&old).await;
    let nodes = vec![LiveSecret::fixed(Secret::new(sentinel.url().into_bytes()))];
    let (master, login) = ("mymaster".to_owned(), Login::default());
    let link = StoreLink {
        place: Place::Watched { master, nodes, login: login.clone(), database: 0 },
        login,
        tls: TlsFiles::default(),
    };
    let settings = Settings { link, timeout: TIMEOUT, wait_replicas: 0, key_prefix: "hookgate".into() };
    let store = Redis::new(settings, metrics()).unwrap();
    assert_eq!(store.claim(&claim("before")).await, Ok(Claimed::New));
    name_master(&sentinel, &new).await;
    replace(&old).await;
    assert_eq!(store.claim(&claim("after")).await, Ok(Claimed::New));
    assert_eq!(new.store().claim(&claim("after")).await, Ok(Claimed::InFlight), "it is held by the new master");
}

/// By the system's table: `tr:tm->when` of a connection begins with 02 where the next timer is that of keeping it alive.
#[tokio::test]
async fn idle_connections_are_kept_alive() {
    let server = Server::start().await;
    let store = server.store();
    assert_eq!(store.claim(&claim("one")).await, Ok(Claimed::New));
    let there = format!("0100007F:{:04X}", server.port.number());
    let timers = || -> Vec<String> {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let ours = lines.filter(|words| words.get(2) == Some(&there.as_str()) && words.get(3) == Some(&"01"));
        ours.filter_map(|words| words.get(5).map(|&timer| timer.to_owned())).collect()
    };
    for _ in 0..500 {
        if let [timer] = &timers()[..]
            && let Some(after) = timer.strip_prefix("02:")
        {
            // Hundredths of a second until it is looked after.
            let after = u64::from_str_radix(after, 16).unwrap();
            assert!((1..=3000).contains(&after), "{after}");
            return;
        }
        // What was sent may not be acknowledged yet.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?}", timers());
}

#[tokio::test]
async fn a_connection_that_ends_while_replicas_are_waited_for_has_the_claim_asked_again() {
    let server = Server::start().await;
    let store = Arc::new(server.store_with(1, metrics()));
    assert_eq!(server.store().claim(&claim("before")).await, Ok(Claimed::New), "the server knows the script");
    // Nobody follows: every wait is in vain, and takes half of the timeout.
    let asked = tokio::spawn({
        let store = store.clone();
        async move { store.claim(&claim("copied")).await }
    });
    let blocked =
        || async { format!("{:?}", server.command(&["INFO", "clients"]).await.unwrap()).contains("blocked_clients:1") };
    while !blocked().await {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    server.command(&["CLIENT", "KILL", "TYPE", "normal"]).await.unwrap();
    let answer = asked.await.unwrap().unwrap_err().to_string();
    // On a machine that is busy the second wait does not end in time.
    assert!(answer.contains("0 of 1 replicas") || answer.contains("did not answer within"), "{answer}");
    assert_eq!(
        server.store().claim(&claim("copied")).await,
        Ok(Claimed::InFlight),
        "it is held by who was told nothing"
    );
}

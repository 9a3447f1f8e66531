//! The ways to a shared Redis: TLS, users whose password changes, Sentinel, a cluster; what becomes of them when
//! servers die, slots move and passwords are replaced under a running gateway. P2, P5, P6.

use std::time::Duration;

use rustix::process::Signal;

use crate::world::app::App;
use crate::world::clock::{always, eventually};
use crate::world::events::task;
use crate::world::gateway::Gateway;
use crate::world::redis_links::{Authority, Cluster, Server};
use crate::world::sender::Reply;
use crate::world::setup::Setup;
use crate::world::sign::Provider;

pub(crate) const BACK: Duration = Duration::from_secs(12);
/// What docs/REDIS.md says a user needs, but for name and password.
const RIGHTS: &str = "~hookgate:* +evalsha +eval +get +set +del +pttl +wait +info +role +asking +cluster|slots";

/// Two gateways with a spool of their own each, and one application.
pub(crate) struct Pair {
    pub(crate) gateways: [Gateway; 2],
    pub(crate) app: App,
}

pub(crate) fn pair(lines: &[&str]) -> Pair {
    let app = App::start();
    let setup = Setup::new(&app.url()).with(&store(lines));
    Pair { gateways: [Gateway::start(setup.clone()), Gateway::start(setup)], app }
}

/// A healthy Redis is never late, however busy the machine that runs these tests.
fn store<'a>(lines: &[&'a str]) -> Vec<&'a str> {
    [&["dedup.store = 'redis'", "dedup.redis.timeout = '800ms'"], lines].concat()
}

pub(crate) fn send(gateway: &Gateway, body: Vec<u8>) -> Reply {
    gateway.send(&Provider::Veedeo.sign(body))
}

pub(crate) fn up(gateway: &Gateway) -> bool {
    gateway.metrics().find("hookgate_dedup_store_up", &[("store", "redis")]) == Some(1.0)
}

pub(crate) fn wait_until_up(gateway: &Gateway) {
    eventually("Redis is seen", BACK, || up(gateway).then_some(()));
}

pub(crate) fn wait_until_down(gateway: &Gateway) {
    eventually("Redis is missed", BACK, || (!up(gateway)).then_some(()));
}

pub(crate) fn decided(gateway: &Gateway, store: &str, result: &str) -> u64 {
    gateway.metrics().count("hookgate_dedup_checks_total", &[("store", store), ("result", result)])
}

impl Pair {
    pub(crate) fn wait_until_up(&self) {
        self.gateways.iter().for_each(wait_until_up);
    }

    /// Events that the first gateway takes are duplicates at the second, and Redis has said both.
    pub(crate) fn share(&self, names: impl Iterator<Item = String> + Clone) {
        let [first, second] = &self.gateways;
        let count = u64::try_from(names.clone().count()).unwrap();
        let before = (decided(first, "redis", "new"), decided(second, "redis", "duplicate"));
        for name in names {
            assert_eq!(send(first, task(&name)).text(), "{\"app\":200}", "{name}");
            assert_eq!(send(second, task(&name)).json("duplicate"), true, "{name}");
        }
        let after = (decided(first, "redis", "new"), decided(second, "redis", "duplicate"));
        assert_eq!(after, (before.0 + count, before.1 + count));
    }
}

pub(crate) fn names(prefix: &str, count: u32) -> impl Iterator<Item = String> + Clone {
    let prefix = prefix.to_owned();
    (0..count).map(move |n| format!("{prefix}-{n}"))
}

#[test]
fn gateways_share_a_redis_behind_tls_that_knows_them_by_their_certificate() {
    let authority = Authority::new();
    let redis = Server::with_tls(&authority);
    let pair = pair(&[
        &format!("dedup.redis.url = 'rediss://{}/0'", redis.address()),
        &format!("dedup.redis.tls.ca = '{}'", authority.ca()),
        &format!("dedup.redis.tls.cert = '{}'", authority.file("client.crt")),
        &format!("dedup.redis.tls.key = '{}'", authority.file("client.key")),
    ]);
    pair.wait_until_up();
    pair.share(names("tls", 5));
    assert_eq!((redis.keys().len(), pair.app.count()), (5, 5));
}

#[test]
fn a_redis_whose_certificate_is_vouched_for_by_somebody_else_is_not_talked_to() {
    let (authority, other) = (Authority::new(), Authority::new());
    let redis = Server::with_tls(&authority);
    let url = format!("dedup.redis.url = 'rediss://{}'", redis.address());
    let ca = |authority: &Authority| format!("dedup.redis.tls.ca = '{}'", authority.ca());
    let cert = format!("dedup.redis.tls.cert = '{}'", authority.file("client.crt"));
    let key = format!("dedup.redis.tls.key = '{}'", authority.file("client.key"));
    let app = App::start();
    let cases: [(&[&str], &str); 3] = [
        (&[&url, &ca(&other), &cert, &key], "UnknownIssuer"),
        (&[&url, &ca(&authority), &cert, &key, "dedup.redis.tls.server_name = 'elsewhere.test'"], "not valid for name"),
        (&[&url, &ca(&authority)], "redis"),
    ];
    for (lines, reason) in cases {
        let gateway = Gateway::start(Setup::new(&app.url()).with(&store(lines)));
        gateway.wait_for_log(&["the dedup store redis does not answer", reason]);
        always("it is not used", Duration::from_secs(1), || !up(&gateway));
        let body = task(format!("{reason}-{}", lines.len()));
        assert_eq!(send(&gateway, body.clone()).text(), "{\"app\":200}");
        assert_eq!(send(&gateway, body).status, 200);
    }
    assert_eq!(app.count(), cases.len());
    assert!(redis.keys().is_empty());
    let named = [&url, &ca(&authority), &cert, &key, "dedup.redis.tls.server_name = 'redis.test'"];
    wait_until_up(&Gateway::start(Setup::new(&app.url()).with(&store(&named))));
}

/// A primary with one replica and one sentinel.
struct Watched {
    primary: Server,
    replica: Server,
    sentinel: Server,
}

fn watched() -> Watched {
    let primary = Server::start(&["--repl-diskless-sync-delay", "0"]);
    let replica = Server::start(&["--replicaof", "127.0.0.1", &primary.number()]);
    eventually("the replica is in step", BACK, || {
        primary.cli(&["INFO", "replication"]).contains("state=online").then_some(())
    });
    let sentinel = Server::sentinel(&primary);
    eventually("the sentinel knows the replica", BACK, || {
        sentinel.cli(&["SENTINEL", "replicas", "mymaster"]).contains(&replica.number()).then_some(())
    });
    Watched { primary, replica, sentinel }
}

fn sentinel_of(watched: &Watched) -> String {
    // The first address is nobody's.
    let nodes = format!("'redis://127.0.0.1:1', 'redis://{}'", watched.sentinel.address());
    format!("dedup.redis.sentinel = {{ master = 'mymaster', nodes = [{nodes}] }}")
}

#[test]
fn a_failover_is_followed_and_events_go_on_meanwhile() {
    let mut watched = watched();
    let pair = pair(&[&sentinel_of(&watched)]);
    pair.wait_until_up();
    pair.share(names("before", 5));
    assert_eq!(send(&pair.gateways[0], task("replicated")).text(), "{\"app\":200}");
    eventually("the replica has it all", BACK, || (watched.replica.keys().len() == 6).then_some(()));
    watched.primary.kill();
    for gateway in 0..2 {
        for name in names(&format!("meanwhile-{gateway}"), 5) {
            assert_eq!(send(&pair.gateways[gateway], task(&name)).text(), "{\"app\":200}", "{name}");
            // It may still share the answer of the first.
            assert_eq!(send(&pair.gateways[gateway], task(&name)).status, 200, "{name}");
        }
        wait_until_down(&pair.gateways[gateway]);
    }
    pair.wait_until_up();
    pair.share(names("after", 5));
    assert_eq!(send(&pair.gateways[1], task("replicated")).json("duplicate"), true, "known before the failover");
    let told = eventually("what happened meanwhile is told", BACK, || {
        Some(watched.replica.keys().len()).filter(|keys| *keys == 21)
    });
    assert_eq!((told, pair.app.count()), (21, 21));
}

#[test]
fn a_primary_that_lives_on_as_a_replica_is_left() {
    let watched = watched();
    let pair = pair(&[&sentinel_of(&watched)]);
    pair.wait_until_up();
    pair.share(names("before", 3));
    watched.sentinel.cli(&["SENTINEL", "FAILOVER", "mymaster"]);
    eventually("the roles have changed", BACK, || watched.primary.cli(&["ROLE"]).starts_with("slave").then_some(()));
    eventually("the new primary is used", BACK, || {
        let name = format!("after-{}", fastrand::u64(..));
        assert!(send(&pair.gateways[0], task(&name)).acked());
        let both = pair.gateways.iter().all(up);
        (both && send(&pair.gateways[1], task(&name)).json("duplicate") == true).then_some(())
    });
    pair.share(names("shared", 3));
}

#[test]
fn gateways_share_a_cluster_and_follow_slots_that_move() {
    let cluster = Cluster::start();
    let [one, two, _] = &cluster.nodes;
    // The first address is nobody's.
    let urls = format!("'redis://127.0.0.1:1', 'redis://{}', 'redis://{}'", one.address(), two.address());
    let pair = pair(&[&format!("dedup.redis.url = [{urls}]")]);
    let [first, second] = &pair.gateways;
    pair.wait_until_up();
    pair.share(names("settled", 30));
    let spread: Vec<usize> = cluster.nodes.iter().map(|node| node.keys().len()).collect();
    assert!(spread.iter().all(|keys| *keys > 0) && spread.iter().sum::<usize>() == 30, "{spread:?}");
    let early: Vec<String> = names("early", 60).collect();
    for name in &early {
        assert_eq!(send(first, task(name)).text(), "{\"app\":200}");
    }
    let known_at_the_second = |names: &[String]| {
        for name in names {
            assert_eq!(send(second, task(name)).json("duplicate"), true, "{name}");
        }
    };

    cluster.begin_to_move();
    known_at_the_second(&early[..30]);
    pair.share(names("moving", 30));
    cluster.move_keys();
    known_at_the_second(&early[30..45]);
    cluster.end_the_move();
    known_at_the_second(&early[45..]);
    pair.share(names("moved", 30));

    assert_eq!(one.keys().len(), 0);
    for gateway in &pair.gateways {
        assert_eq!(decided(gateway, "redis", "error"), 0);
        assert!(gateway.log(&["does not answer"]).is_empty(), "{:?}", gateway.log(&["does not answer"]));
    }
    assert_eq!((decided(second, "redis", "duplicate"), pair.app.count()), (150, 150));
}

#[test]
fn a_cluster_that_loses_a_server_is_left_until_it_is_whole_again() {
    let mut cluster = Cluster::start();
    let pair = pair(&[&format!("dedup.redis.url = ['redis://{}']", cluster.nodes[0].address())]);
    pair.wait_until_up();
    cluster.nodes[2].kill();
    for name in names("without", 10) {
        assert_eq!(send(&pair.gateways[0], task(&name)).text(), "{\"app\":200}", "{name}");
        assert_eq!(send(&pair.gateways[0], task(&name)).status, 200, "{name}");
    }
    assert_eq!(pair.app.count(), 10);
    pair.gateways.iter().for_each(wait_until_down);
    always("it is not asked", Duration::from_secs(1), || !pair.gateways.iter().any(up));
    cluster.nodes[2].start_again();
    pair.wait_until_up();
    pair.share(names("whole", 10));
}

#[test]
fn a_password_is_replaced_without_a_restart() {
    let redis = Server::start(&[]);
    let rights: Vec<&str> = RIGHTS.split(' ').collect();
    redis.cli(&[&["ACL", "SETUSER", "gate", "on", ">first"], &rights[..]].concat());
    redis.cli(&["CONFIG", "SET", "requirepass", "for nobody here"]);
    let redis_admin = |words: &[&str]| redis.cli(&[&["-a", "for nobody here", "--no-auth-warning"], words].concat());
    let app = App::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "first\n").unwrap();
    let mut gateway = Gateway::start(Setup::new(&app.url()).with(&store(&[
        &format!("dedup.redis.url = 'redis://{}'", redis.address()),
        "dedup.redis.username = 'gate'",
        &format!("dedup.redis.password = {{ file = '{}' }}", file.display()),
    ])));
    wait_until_up(&gateway);
    assert_eq!(send(&gateway, task(1)).text(), "{\"app\":200}");
    assert_eq!(decided(&gateway, "redis", "new"), 1, "the rights of docs/REDIS.md are enough");

    redis_admin(&["ACL", "SETUSER", "gate", "resetpass", ">second"]);
    redis_admin(&["CLIENT", "KILL", "USER", "gate"]);
    wait_until_down(&gateway);
    std::fs::write(&file, "second\n").unwrap();
    wait_until_up(&gateway);
    assert_eq!(send(&gateway, task(2)).text(), "{\"app\":200}");
    assert_eq!(decided(&gateway, "redis", "new"), 2);

    redis_admin(&[&["ACL", "SETUSER", "other", "on", ">third"], &rights[..]].concat());
    gateway.configure(&["dedup.redis.username = 'other'", "dedup.redis.password = { literal = 'wrong' }"]);
    gateway.signal(Signal::HUP);
    gateway.wait_for_log(&["the new settings of redis do not work"]);
    assert!(up(&gateway), "the connection there was serves on");
    gateway.configure(&["dedup.redis.password = { literal = 'third' }"]);
    gateway.signal(Signal::HUP);
    eventually("the other user is connected and the first is not", BACK, || {
        let clients = redis_admin(&["CLIENT", "LIST"]);
        (clients.contains("user=other") && !clients.contains("user=gate")).then_some(())
    });
    assert_eq!(send(&gateway, task(3)).text(), "{\"app\":200}");
    assert_eq!((decided(&gateway, "redis", "new"), up(&gateway)), (3, true));
    let said = gateway.said().join("\n");
    for secret in ["first", "second", "third"] {
        assert!(!said.contains(&format!("{secret}\"")) && !said.contains(&format!(">{secret}")), "{said}");
    }
}

#[test]
fn a_password_that_is_replaced_beside_the_old_one_costs_no_event_its_check() {
    let redis = Server::start(&[]);
    let rights: Vec<&str> = RIGHTS.split(' ').collect();
    redis.cli(&[&["ACL", "SETUSER", "gate", "on", ">first"], &rights[..]].concat());
    let app = App::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "first").unwrap();
    let gateway = Gateway::start(Setup::new(&app.url()).with(&store(&[
        &format!("dedup.redis.url = 'redis://{}'", redis.address()),
        "dedup.redis.username = 'gate'",
        &format!("dedup.redis.password = {{ file = '{}' }}", file.display()),
        "server.threads = 4",
    ])));
    wait_until_up(&gateway);
    redis.cli(&["ACL", "SETUSER", "gate", ">second"]);
    std::fs::write(&file, "second").unwrap();
    redis.cli(&["ACL", "SETUSER", "gate", "<first"]);
    // Threads that have no connection yet make theirs now.
    for name in names("rotated", 40) {
        assert_eq!(send(&gateway, task(&name)).text(), "{\"app\":200}", "{name}");
    }
    assert_eq!(decided(&gateway, "redis", "new"), 40);
    assert!(gateway.log(&["does not answer"]).is_empty(), "{:?}", gateway.log(&["does not answer"]));
    assert!(redis.cli(&["ACL", "LOG"]).contains("gate"), "a thread did come with the old one first");
}

#[test]
fn where_the_operator_wants_no_event_without_it_a_missing_store_is_no_start() {
    let mut redis = Server::start(&[]);
    let app = App::start();
    let url = format!("dedup.redis.url = 'redis://{}'", redis.address());
    let lines = store(&[&url, "dedup.on_store_down = 'refuse'"]);
    let mut gateway = Gateway::start(Setup::new(&app.url()).with(&lines));
    assert_eq!(send(&gateway, task(1)).text(), "{\"app\":200}");
    gateway.stop();
    redis.kill();
    gateway.launch();
    let status = gateway.wait_for_end(Duration::from_secs(20));
    assert_eq!(status.code(), Some(1));
    let said = gateway.said().join("\n");
    assert!(said.contains("cannot set up the dedup store") && said.contains("refuse"), "{said}");
    gateway.configure(&["dedup.on_store_down = 'local'"]);
    gateway.restart();
    assert_eq!(send(&gateway, task(2)).text(), "{\"app\":200}");
}

#[test]
fn validate_says_what_redis_is_and_what_its_failure_costs() {
    let mut redis = Server::start(&["--maxmemory-policy", "allkeys-lru"]);
    let app = App::start();
    let url = format!("dedup.redis.url = 'redis://{}'", redis.address());
    let mut gateway = Gateway::prepared(Setup::new(&app.url()).with(&store(&[&url])));
    let notes = |gateway: &Gateway, level: &str| -> String {
        let said = gateway.ask(&["validate", "--json"]);
        assert_eq!(said.code, Some(0), "{said:?}");
        let notes = said.json_lines()[0]["notes"].as_array().unwrap().clone();
        let wanted = notes.iter().filter(|note| note["level"] == level);
        wanted.map(|note| format!("{} {}", note["key"], note["text"])).collect::<Vec<_>>().join("\n")
    };
    let version = redis.cli(&["INFO", "server"]);
    let version = version.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap().trim().to_owned();
    let good = notes(&gateway, "note");
    assert!(good.contains(&format!("answers ({version})")) && good.contains("all claims are lost"), "{good}");
    assert!(notes(&gateway, "warn").contains("(allkeys-lru)"), "{}", notes(&gateway, "warn"));
    redis.cli(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    gateway.configure(&["dedup.redis.wait_replicas = 1"]);
    let warned = notes(&gateway, "warn");
    assert!(!warned.contains("allkeys") && warned.contains("1, and redis at"), "{warned}");
    redis.kill();
    let warned = notes(&gateway, "warn");
    assert!(warned.contains("no connection to redis at"), "{warned}");
}

//! Two gateways and the servers behind a shared Redis that die, hang and take each other's place: a cluster's replica
//! that is promoted, Sentinel and Cluster over TLS, replicas that are waited for. P2, P5, P6, P12.

use std::time::{Duration, Instant};

use crate::redis_links::{BACK, Pair, decided, names, pair, send, up, wait_until_down};
use crate::world::app::Seen;
use crate::world::clock::{always, eventually};
use crate::world::events::task;
use crate::world::redis_links::{Authority, Cluster, Server};

/// Long enough for a cluster to elect a new master, on a busy machine too.
const ELECTED: Duration = Duration::from_secs(40);

impl Pair {
    /// Events and a copy of each, at each gateway, while some server is away: none is refused, lost or late.
    fn go_on_meanwhile(&self, prefix: &str, count: u32) {
        for (number, gateway) in self.gateways.iter().enumerate() {
            for name in names(&format!("{prefix}-{number}"), count) {
                for copy in 0..2 {
                    let reply = send(gateway, task(&name));
                    assert_eq!(reply.status, 200, "{name}, copy {copy}: {}", reply.text());
                    assert!(reply.took < Duration::from_secs(3), "{name}, copy {copy} took {:?}", reply.took);
                }
            }
        }
    }

    /// Each event so far has reached the application, and none of them twice.
    fn each_came_once(&self, events: usize) {
        let mut keys: Vec<String> = self.app.seen().iter().map(Seen::key).collect();
        keys.sort();
        let sendings = keys.len();
        keys.dedup();
        assert_eq!((sendings, keys.len()), (events, events));
    }
}

#[test]
fn a_cluster_whose_master_dies_is_followed_to_the_replica_that_takes_its_place() {
    let mut cluster = Cluster::start();
    let replica = cluster.replica_of_the_first();
    let urls: Vec<String> = cluster.nodes.iter().map(|node| format!("'redis://{}'", node.address())).collect();
    let pair = pair(&[&format!("dedup.redis.url = [{}]", urls.join(", "))]);
    pair.wait_until_up();
    pair.share(names("before", 10));
    let early: Vec<String> = names("early", 20).collect();
    for name in &early {
        assert_eq!(send(&pair.gateways[0], task(name)).text(), "{\"app\":200}");
    }
    let kept = cluster.nodes[0].keys().len();
    assert!(kept > 0, "the first master has some of them");
    eventually("the replica has them", BACK, || (replica.keys().len() == kept).then_some(()));

    let since = Instant::now();
    cluster.nodes[0].kill();
    pair.go_on_meanwhile("meanwhile", 10);
    eventually("the replica is promoted", ELECTED, || replica.cli(&["ROLE"]).starts_with("master").then_some(()));
    eventually("both gateways use it", ELECTED, || pair.gateways.iter().all(up).then_some(()));
    eprintln!("{:.1} s from the death of a master to its replica in use", since.elapsed().as_secs_f64());
    for name in &early {
        assert_eq!(send(&pair.gateways[1], task(name)).json("duplicate"), true, "{name}");
    }
    pair.share(names("after", 20));
    eventually("what happened meanwhile is told", BACK, || {
        let told = names("meanwhile-0", 10).all(|name| send(&pair.gateways[1], task(name)).json("duplicate") == true);
        told.then_some(())
    });
    pair.each_came_once(10 + 20 + 20 + 20);
}

#[test]
fn a_failover_over_tls_is_followed() {
    let authority = Authority::new();
    let mut primary = Server::reached(Some(&authority), &["--repl-diskless-sync-delay", "0"]);
    let replica = Server::reached(Some(&authority), &["--replicaof", "127.0.0.1", &primary.number()]);
    eventually("the replica is in step", BACK, || {
        primary.cli(&["INFO", "replication"]).contains("state=online").then_some(())
    });
    let sentinel = Server::sentinel_of(Some(&authority), &primary, 1);
    eventually("the sentinel knows the replica", BACK, || {
        sentinel.cli(&["SENTINEL", "replicas", "mymaster"]).contains(&replica.number()).then_some(())
    });
    let nodes = format!("'rediss://{}'", sentinel.address());
    let watched = format!("dedup.redis.sentinel = {{ master = 'mymaster', nodes = [{nodes}] }}");
    let [ca, cert, key] = authority.gateway_lines();
    let pair = pair(&[&watched, &ca, &cert, &key]);
    pair.wait_until_up();
    pair.share(names("before", 5));
    eventually("the replica has it all", BACK, || (replica.keys().len() == 5).then_some(()));
    primary.kill();
    pair.go_on_meanwhile("meanwhile", 5);
    pair.gateways.iter().for_each(wait_until_down);
    eventually("the new master is used", ELECTED, || pair.gateways.iter().all(up).then_some(()));
    for name in names("before", 5) {
        assert_eq!(send(&pair.gateways[1], task(&name)).json("duplicate"), true, "{name}");
    }
    pair.share(names("after", 5));
    pair.each_came_once(5 + 10 + 5);
}

#[test]
fn gateways_share_a_cluster_behind_tls() {
    let authority = Authority::new();
    let cluster = Cluster::reached(Some(&authority));
    let [ca, cert, key] = authority.gateway_lines();
    let url = format!("dedup.redis.url = ['rediss://{}']", cluster.nodes[0].address());
    let pair = pair(&[&url, &ca, &cert, &key]);
    pair.wait_until_up();
    pair.share(names("settled", 15));
    let spread: Vec<usize> = cluster.nodes.iter().map(|node| node.keys().len()).collect();
    assert!(spread.iter().all(|keys| *keys > 0) && spread.iter().sum::<usize>() == 15, "{spread:?}");
    cluster.begin_to_move();
    pair.share(names("moving", 15));
    cluster.move_keys();
    cluster.end_the_move();
    pair.share(names("moved", 15));
    assert_eq!(cluster.nodes[0].keys().len(), 0);
    for gateway in &pair.gateways {
        assert_eq!(decided(gateway, "redis", "error"), 0);
    }
    pair.each_came_once(45);
}

#[test]
fn a_replica_that_is_waited_for_and_hangs_costs_one_wait_and_no_more() {
    let primary = Server::start(&["--repl-diskless-sync-delay", "0"]);
    let replica = Server::start(&["--replicaof", "127.0.0.1", &primary.number()]);
    eventually("the replica is in step", BACK, || {
        primary.cli(&["INFO", "replication"]).contains("state=online").then_some(())
    });
    let url = format!("dedup.redis.url = 'redis://{}'", primary.address());
    let pair = pair(&[&url, "dedup.redis.wait_replicas = 1"]);
    for gateway in &pair.gateways {
        // A replica that has only just joined may be late.
        eventually("the replica is in time", BACK, || {
            assert_eq!(send(gateway, task(fastrand::u64(..))).text(), "{\"app\":200}");
            (decided(gateway, "redis", "new") > 0).then_some(())
        });
    }
    pair.share(names("copied", 10));

    replica.freeze();
    let first = send(&pair.gateways[0], task("hung"));
    assert_eq!(first.text(), "{\"app\":200}");
    assert!(first.took < Duration::from_millis(1300), "took {:?}", first.took);
    pair.go_on_meanwhile("meanwhile", 5);
    pair.gateways.iter().for_each(wait_until_down);
    // It is not taken to be back because a question that reaches no replica is answered.
    always("it is not asked", Duration::from_secs(3), || {
        let reply = send(&pair.gateways[0], task(fastrand::u64(..)));
        assert!(reply.took < Duration::from_millis(300), "took {:?}", reply.took);
        !up(&pair.gateways[0])
    });
    replica.thaw();
    pair.wait_until_up();
    pair.share(names("after", 5));
    assert_eq!(send(&pair.gateways[1], task("hung")).json("duplicate"), true, "it was told what it missed");
    assert!(primary.keys().iter().all(|key| !key.contains("probe")), "{:?}", primary.keys());
}

//! What becomes of claims when Redis hangs, dies, is emptied, or forbids what is asked of it, and afterwards.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hookgate::claims::embedded::Embedded;
use hookgate::claims::fallback::Fallback;
use hookgate::claims::store::{ClaimStore, Claimed, Elsewhere, PeekedState, Processed, StoreFault};
use hookgate::disk::Found;
use hookgate::domain::route::OnStoreDown;
use rustix::process::Signal;

use super::{
    DAY, ONE_WAIT, Replica, SHORT, START, Server, TIMEOUT, brief, claim, embedded, embedded_in, key, later, metrics,
};

#[tokio::test]
async fn a_redis_that_hangs_costs_one_bounded_wait() {
    let server = Server::start().await;
    let replica = Replica::new(&server, OnStoreDown::Local);
    replica.store.claim(&claim("before")).await.unwrap();
    server.signal(Signal::STOP);
    let since = Instant::now();
    assert_eq!(replica.store.claim(&claim("first")).await, Ok(Claimed::New));
    assert!(since.elapsed() < ONE_WAIT, "{:?}", since.elapsed());
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
    let given_up = claim("perhaps");
    replica.store.claim(&given_up).await.unwrap();
    replica.store.release(&given_up, Processed::Perhaps).await.unwrap();
    server.command(&["FLUSHALL"]).await.unwrap();
    assert_eq!(replica.store.claim(&claim("perhaps")).await, Ok(Claimed::Lapsed), "the more suspicious answer counts");
    replica.store.mark(&in_flight, DAY).await.unwrap();
    let elsewhere = Replica::new(&server, OnStoreDown::Local);
    assert_eq!(elsewhere.store.claim(&claim("in flight")).await, Ok(Claimed::Duplicate));
}

#[tokio::test]
async fn where_redis_was_emptied_and_the_own_table_cannot_be_read_that_is_said() {
    let server = Server::start().await;
    let (_, _, dir) = embedded();
    let known = claim("known");
    // Where memory does not know it: in what version 1 left.
    let old = rusqlite::Connection::open(dir.path().join("hookgate.db")).unwrap();
    let mark = rusqlite::params![known.key.slot, known.key.fingerprint, START.plus(DAY).millis()];
    old.execute("INSERT INTO marks VALUES (?1, ?2, 'veedeo', 0, ?3)", mark).unwrap();
    drop(old);
    let (disk, metrics) = embedded_in(dir.path());
    let redis = Arc::new(server.store_with(0, metrics.clone()));
    let local = Arc::new(Embedded::new(disk.clone()));
    let store = Fallback::new(redis, local, OnStoreDown::Local, metrics);
    assert_eq!(store.claim(&known).await, Ok(Claimed::Duplicate));
    disk.close().await.unwrap();
    assert_eq!(store.claim(&known).await, Ok(Claimed::Unread), "Redis has never heard of it");
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
    assert!(since.elapsed() < ONE_WAIT, "{:?}", since.elapsed());
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

/// Under `refuse` nothing is owed that a fault would keep from being told: only the probe notices.
async fn stays_down(fault: &[&str], end: &[&str]) {
    let server = Server::start().await;
    let replica = Replica::new(&server, OnStoreDown::Refuse);
    assert_eq!(replica.store.claim(&claim("before")).await, Ok(Claimed::New));
    server.command(fault).await.unwrap();
    assert!(replica.store.claim(&claim("during")).await.is_err(), "{fault:?}");
    let since = Instant::now();
    while since.elapsed() < Duration::from_millis(1500) {
        assert!(!replica.store.is_up(), "{fault:?}: it counts as up after {:?}", since.elapsed());
        assert_eq!(replica.metrics.dedup_store_up.with_label_values(&["redis"]).get(), 0);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.command(end).await.unwrap();
    replica.until_up().await;
    assert_eq!(replica.store.claim(&claim("after")).await, Ok(Claimed::New), "{fault:?}");
}

#[tokio::test]
async fn a_redis_that_forbids_scripts_is_down_until_it_allows_them() {
    let user = ["ACL", "SETUSER", "default"];
    stays_down(&[&user[..], &["-eval", "-evalsha"]].concat(), &[&user[..], &["+eval", "+evalsha"]].concat()).await;
}

#[tokio::test]
async fn a_redis_that_forbids_what_scripts_do_is_down_until_it_allows_that() {
    stays_down(&["ACL", "SETUSER", "default", "-set"], &["ACL", "SETUSER", "default", "+set"]).await;
}

#[tokio::test]
async fn a_redis_whose_memory_is_full_is_down_until_it_has_some() {
    stays_down(&["CONFIG", "SET", "maxmemory", "1"], &["CONFIG", "SET", "maxmemory", "0"]).await;
}

#[tokio::test]
async fn a_redis_that_writes_nothing_is_down_until_it_does() {
    stays_down(&["REPLICAOF", "127.0.0.1", "1"], &["REPLICAOF", "NO", "ONE"]).await;
}

#[tokio::test]
async fn the_time_without_redis_is_counted() {
    let server = Server::start().await;
    let replica = Replica::new(&server, OnStoreDown::Local);
    let counted = || replica.metrics.dedup_fallback_seconds_total.get();
    replica.store.claim(&claim("before")).await.unwrap();
    assert!(counted() == 0.0, "{}", counted());
    server.signal(Signal::STOP);
    // It counts from the moment at which this claim has waited in vain.
    let since = Instant::now();
    replica.store.claim(&claim("during")).await.unwrap();
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
async fn redis_is_told_what_it_missed_before_it_is_asked_again() {
    let server = Server::start().await;
    let mut replica = Replica::untended(&server, OnStoreDown::Local);
    replica.store.claim(&claim("before")).await.unwrap();
    server.signal(Signal::STOP);
    for number in 0..200 {
        let missed = claim(&format!("missed {number}"));
        assert_eq!(replica.store.claim(&missed).await, Ok(Claimed::New));
        replica.store.mark(&missed, DAY).await.unwrap();
    }
    assert_eq!(replica.metrics.redis.repairs_pending.get(), 200);
    server.signal(Signal::CONT);
    replica.tend();
    replica.until_up().await;
    assert_eq!(replica.metrics.redis.repairs_pending.get(), 0, "it is asked while it has yet to be told");
    for number in 0..200 {
        assert_eq!(server.store().claim(&claim(&format!("missed {number}"))).await, Ok(Claimed::Duplicate));
    }
}

#[tokio::test]
async fn what_was_forgotten_is_not_told_afterwards() {
    let server = Server::start().await;
    let mut replica = Replica::untended(&server, OnStoreDown::Local);
    replica.store.claim(&claim("before")).await.unwrap();
    server.signal(Signal::STOP);
    let [unheard, forgotten, kept] = [claim("unheard"), claim("forgotten"), claim("kept")];
    for claim in [&unheard, &forgotten, &kept] {
        replica.store.claim(claim).await.unwrap();
        replica.store.mark(claim, DAY).await.unwrap();
    }
    server.signal(Signal::CONT);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(replica.store.forget("veedeo", forgotten.key).await, Ok(Found::Yes));
    replica.tend();
    replica.until_up().await;
    let elsewhere = server.store();
    assert_eq!(elsewhere.claim(&claim("kept")).await, Ok(Claimed::Duplicate));
    assert!(elsewhere.claim(&claim("forgotten")).await.unwrap().is_ours());
}

#[tokio::test]
async fn an_event_of_another_gateway_can_be_looked_up() {
    let server = Server::start().await;
    let [here, elsewhere] = [(); 2].map(|()| Replica::new(&server, OnStoreDown::Local));
    let known = claim("known");
    here.store.claim(&known).await.unwrap();
    let peek = async || elsewhere.store.peek("veedeo", known.key, START).await.unwrap().map(|peeked| peeked.state);
    assert_eq!(peek().await, Some(PeekedState::InFlight));
    here.store.mark(&known, DAY).await.unwrap();
    assert_eq!(peek().await, Some(PeekedState::Processed));
    assert_eq!(elsewhere.store.peek("veedeo", key("none", "body"), START).await, Ok(None));
}

#[tokio::test]
async fn a_mark_is_not_shortened_by_one_that_ends_sooner() {
    let server = Server::start().await;
    let store = server.store();
    let marked = claim("marked");
    for ttl in [DAY, SHORT, DAY / 2] {
        store.mark(&marked, ttl).await.unwrap();
        let peeked = store.peek("veedeo", marked.key, START).await.unwrap().unwrap();
        assert!(peeked.expires_at.since(START) > DAY * 9 / 10, "{}", peeked.expires_at);
    }
}

#[tokio::test]
async fn what_redis_has_to_be_told_is_bounded() {
    let server = Server::start().await;
    let replica = Replica::untended(&server, OnStoreDown::Local);
    server.signal(Signal::STOP);
    for number in 0..65_536 + 3 {
        replica.store.mark(&claim(&format!("n{number}")), DAY).await.unwrap();
    }
    assert_eq!(replica.metrics.redis.repairs_pending.get(), 65_536);
    assert_eq!(replica.metrics.redis.repairs_dropped_total.get(), 3);
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

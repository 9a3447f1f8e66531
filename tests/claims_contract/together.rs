//! Many at once: claims that are asked as one, marks that nobody waits for, and the connections of several runtimes.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use hookgate::claims::store::{Claim, ClaimStore, Claimed, Marked, Processed, StoreFault};
use hookgate::domain::route::OnStoreDown;
use rustix::process::Signal;
use tokio::runtime::{Builder, Runtime};

use super::{DAY, ONE_WAIT, Replica, Server, claim, claim_of, key};

/// How many scripts a server was asked to run.
async fn scripts(server: &Server) -> u64 {
    let redis::Value::BulkString(said) = server.command(&["INFO", "commandstats"]).await.unwrap() else {
        panic!("no statistics")
    };
    let said = String::from_utf8(said).unwrap();
    let calls = |line: &str| line.split_once(":calls=")?.1.split(',').next()?.parse::<u64>().ok();
    said.lines().filter(|line| line.starts_with("cmdstat_eval")).filter_map(calls).sum()
}

/// The connections of a server, but for the one that asks.
async fn connections(server: &Server) -> Vec<String> {
    let redis::Value::BulkString(said) = server.command(&["CLIENT", "LIST", "TYPE", "normal"]).await.unwrap() else {
        panic!("no list")
    };
    let said = String::from_utf8(said).unwrap();
    let others = said.lines().filter(|line| !line.contains(" cmd=client"));
    others.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[tokio::test]
async fn claims_that_come_at_once_are_asked_as_one_and_each_has_its_own_answer() {
    let server = Server::start().await;
    let store: Arc<dyn ClaimStore> = Arc::new(server.store());
    let [marked, held, perhaps] = [claim("marked"), claim("held"), claim("perhaps")];
    for claim in [&marked, &held, &perhaps] {
        assert_eq!(store.claim(claim).await, Ok(Claimed::New));
    }
    store.mark(&marked, DAY).await.unwrap();
    store.release(&perhaps, Processed::Perhaps).await.unwrap();
    let [again, stranger, suspect] = [claim("marked"), claim("held"), claim("perhaps")];
    let [other_body, another] = [(); 2].map(|()| claim_of(key("held", "other body")));
    let [new, copy] = [claim("new"), claim("new")];
    let asked = [again, stranger, suspect, other_body, another, new, copy, held];
    // Who asks again has what it had; the first time the script is not known yet.
    for (in_full, other) in [(1, Claimed::Conflict), (0, Claimed::New)] {
        let before = scripts(&server).await;
        let answers = claim_at_once(&store, &asked).await;
        assert_eq!(scripts(&server).await - before, 1 + in_full, "they were not asked as one");
        let expected = [
            Claimed::Duplicate,
            Claimed::InFlight,
            Claimed::Lapsed,
            other,
            Claimed::InFlight,
            Claimed::New,
            Claimed::InFlight,
            Claimed::New,
        ];
        assert_eq!(answers, expected.map(Ok));
    }
}

#[tokio::test]
async fn what_is_claimed_for_one_who_waits_no_more_is_let_go() {
    let server = Server::start().await;
    let store: Arc<dyn ClaimStore> = Arc::new(server.store());
    let perhaps = claim("perhaps");
    for claim in [&claim("held"), &perhaps] {
        assert_eq!(store.claim(claim).await, Ok(Claimed::New));
    }
    store.release(&perhaps, Processed::Perhaps).await.unwrap();
    let other_body = || claim_of(key("held", "other body"));
    let (new, lapsed) = (|| claim("new"), || claim("perhaps"));
    for (next, then) in
        [(&new as &dyn Fn() -> Claim, Claimed::New), (&lapsed, Claimed::Lapsed), (&other_body, Claimed::Conflict)]
    {
        let leaves = next();
        let mut asked = store.claim(&leaves);
        let answered = poll_fn(|cx| Poll::Ready(asked.as_mut().poll(cx).is_ready())).await;
        assert!(!answered, "it is on its way");
        drop(asked);
        assert_eq!(store.claim(&next()).await, Ok(Claimed::InFlight), "asked behind it, in the same script");
        let mut said = Ok(Claimed::InFlight);
        for _ in 0..1000 {
            said = store.claim(&next()).await;
            if said != Ok(Claimed::InFlight) {
                break;
            }
        }
        assert_eq!(said, Ok(then));
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// What claims that come at once in this runtime are answered.
async fn claim_at_once(store: &Arc<dyn ClaimStore>, claims: &[Claim]) -> Vec<Result<Claimed, StoreFault>> {
    let ask = |claim: &Claim| {
        let (store, claim) = (store.clone(), claim.clone());
        tokio::spawn(async move { store.claim(&claim).await })
    };
    let asked: Vec<_> = claims.iter().map(ask).collect();
    let mut answers = Vec::new();
    for asked in asked {
        answers.push(asked.await.unwrap());
    }
    answers
}

/// Claims so many events at once; says how many of them were new.
async fn claim_many(store: &Arc<dyn ClaimStore>, name: &str, many: usize) -> usize {
    let claims: Vec<Claim> = (0..many).map(|number| claim(&format!("{name} {number}"))).collect();
    claim_at_once(store, &claims).await.into_iter().filter(|answer| *answer == Ok(Claimed::New)).count()
}

#[test]
fn each_runtime_that_asks_has_one_connection_and_they_are_found_anew_together() {
    let runtimes = [(); 3].map(|()| runtime());
    let own = runtime();
    let server = own.block_on(Server::start());
    let store: Arc<dyn ClaimStore> = Arc::new(server.store());
    for (nth, runtime) in runtimes.iter().enumerate() {
        assert_eq!(runtime.block_on(claim_many(&store, &format!("first {nth}"), 50)), 50);
    }
    assert_eq!(own.block_on(connections(&server)).len(), 3, "one for each runtime");
    let [first, second, third] = &runtimes;
    // One hears of it; nobody asks over what is left of those before.
    own.block_on(async {
        server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await.unwrap();
    });
    assert!(first.block_on(claim_many(&store, "broken", 1)) <= 1);
    assert!(!store.is_up() || first.block_on(claim_many(&store, "still", 1)) <= 1);
    for (nth, runtime) in [second, third, first].into_iter().enumerate() {
        assert_eq!(runtime.block_on(claim_many(&store, &format!("then {nth}"), 50)), 50, "found anew for all");
    }
    assert_eq!(own.block_on(connections(&server)).len(), 3, "those before are gone");
}

#[test]
fn after_a_question_that_was_not_answered_in_time_all_connections_are_made_anew() {
    let (own, other) = (runtime(), runtime());
    let server = own.block_on(Server::start());
    let store: Arc<dyn ClaimStore> = Arc::new(server.store());
    for (runtime, name) in [(&own, "before here"), (&other, "before there")] {
        assert_eq!(runtime.block_on(claim_many(&store, name, 1)), 1);
    }
    let before = own.block_on(connections(&server));
    assert_eq!(before.len(), 2);
    server.signal(Signal::STOP);
    assert!(own.block_on(store.claim(&claim("unheard"))).is_err());
    server.signal(Signal::CONT);
    for (runtime, name) in [(&own, "own"), (&other, "other")] {
        assert_eq!(runtime.block_on(claim_many(&store, name, 1)), 1);
    }
    let after = own.block_on(connections(&server));
    assert!(!after.iter().any(|connection| before.contains(connection)), "{before:?}, then {after:?}");
}

#[tokio::test]
async fn marks_that_nobody_waits_for_are_told_together() {
    let server = Server::start().await;
    let replica = Replica::new(&server, OnStoreDown::Local);
    let claims: Vec<Claim> = (0..100).map(|number| claim(&number.to_string())).collect();
    for claim in &claims {
        assert_eq!(replica.store.claim(claim).await, Ok(Claimed::New));
    }
    let before = scripts(&server).await;
    for claim in &claims {
        assert_eq!(replica.store.mark_at_once(claim, DAY), Marked::Yes);
    }
    replica.store.all_told().await;
    let asked = scripts(&server).await - before;
    assert!(asked <= 6, "{asked} questions, a probe's and a script that was not known included");
    let elsewhere = server.store();
    for number in 0..100 {
        assert_eq!(elsewhere.claim(&claim(&number.to_string())).await, Ok(Claimed::Duplicate));
    }
}

#[tokio::test]
async fn marks_that_wait_to_be_told_can_be_counted() {
    let server = Server::start().await;
    let replica = Replica::new(&server, OnStoreDown::Local);
    let waiting = || replica.metrics.redis.marks_waiting.get();
    for (how, marks) in [("told", 100), ("owed", 30)] {
        if how == "owed" {
            server.signal(Signal::STOP);
        }
        for number in 0..marks {
            assert_eq!(replica.store.mark_at_once(&claim(&format!("{how} {number}")), DAY), Marked::Yes);
        }
        tokio::task::yield_now().await;
        assert_eq!(waiting(), marks, "{how}");
        replica.store.all_told().await;
        assert_eq!(
            (waiting(), replica.metrics.redis.repairs_pending.get()),
            (0, if how == "told" { 0 } else { marks })
        );
    }
    server.signal(Signal::CONT);
}

#[tokio::test]
async fn a_mark_that_nobody_waited_for_and_redis_never_heard_of_is_told_afterwards() {
    let server = Server::start().await;
    let replica = Replica::new(&server, OnStoreDown::Local);
    let [unheard, later] = [claim("unheard"), claim("later")];
    for claim in [&unheard, &later] {
        assert_eq!(replica.store.claim(claim).await, Ok(Claimed::New));
    }
    server.signal(Signal::STOP);
    let since = Instant::now();
    assert_eq!(replica.store.mark_at_once(&unheard, DAY), Marked::Yes);
    assert_eq!(replica.store.claim(&claim("unheard")).await, Ok(Claimed::Duplicate), "it holds here");
    replica.store.all_told().await;
    assert!(since.elapsed() < ONE_WAIT, "{:?}", since.elapsed());
    assert!(!replica.store.is_up());
    assert_eq!(replica.store.mark_at_once(&later, DAY), Marked::Yes);
    assert_eq!(replica.metrics.redis.repairs_pending.get(), 2);
    server.signal(Signal::CONT);
    replica.until_up().await;
    let elsewhere = server.store();
    for id in ["unheard", "later"] {
        assert_eq!(elsewhere.claim(&claim(id)).await, Ok(Claimed::Duplicate), "{id}");
    }
}

#[test]
fn marks_of_a_thread_that_ends_before_it_has_told_them_are_owed() {
    let own = runtime();
    let server = own.block_on(Server::start());
    let mut replica = own.block_on(async { Replica::untended(&server, OnStoreDown::Local) });
    let first = claim("first");
    assert_eq!(own.block_on(replica.store.claim(&first)), Ok(Claimed::New));
    let other = runtime();
    other.block_on(async { assert_eq!(replica.store.mark_at_once(&first, DAY), Marked::Yes) });
    drop(other);
    own.block_on(async {
        replica.store.all_told().await;
        assert_eq!(replica.metrics.redis.repairs_pending.get(), 1);
        replica.tend();
        while replica.metrics.redis.repairs_pending.get() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(server.store().claim(&claim("first")).await, Ok(Claimed::Duplicate));
    });
}

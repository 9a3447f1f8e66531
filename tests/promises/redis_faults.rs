//! One gateway, one real Redis, and every way in which a Redis can fail: while events and their copies go on coming
//! none is lost, refused, late or sent twice, and what Redis missed it is told afterwards. P2, P5, P12.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::world::Closing;
use crate::world::app::App;
use crate::world::clock::{environment, eventually, pause};
use crate::world::events::{task, task_of};
use crate::world::gateway::Gateway;
use crate::world::ports::Port;
use crate::world::redis::Redis;
use crate::world::sender::Reply;
use crate::world::setup::Setup;
use crate::world::sign::Provider;

const BACK: Duration = Duration::from_secs(12);
const DAY: i64 = 86_400_000;
/// The everyday length of a fault.
const FAULT: Duration = Duration::from_millis(800);

struct Scene {
    gateway: Gateway,
    app: App,
    redis: Redis,
}

impl Scene {
    fn new() -> Self {
        Self::with(Redis::start())
    }

    fn with(redis: Redis) -> Self {
        let address = redis.address();
        Self::behind(redis, &address)
    }

    /// The gateway reaches Redis at `address`.
    fn behind(redis: Redis, address: &str) -> Self {
        let app = App::start();
        let url = format!("dedup.redis.url = 'redis://{address}/0'");
        let lines = ["dedup.store = 'redis'", &url, "dedup.redis.timeout = '50ms'"];
        let gateway = Gateway::start(Setup::new(&app.url()).with(&lines));
        let scene = Self { gateway, app, redis };
        scene.wait_until_up();
        scene
    }

    fn send(&self, id: &str) -> Reply {
        self.gateway.send(&Provider::Veedeo.sign(task(id)))
    }

    fn store_up(&self) -> Option<f64> {
        self.gateway.metrics().find("hookgate_dedup_store_up", &[("store", "redis")])
    }

    fn wait_until_up(&self) {
        eventually("Redis is seen", BACK, || (self.store_up() == Some(1.0)).then_some(()));
    }

    /// Four senders send event after event, each with a copy behind it, while `fault` happens and ends.
    fn storm(&mut self, fault: impl FnOnce(&mut Redis)) -> Vec<String> {
        let over = AtomicBool::new(false);
        let (gateway, redis) = (&self.gateway, &mut self.redis);
        let books: Vec<(String, [Reply; 2])> = std::thread::scope(|scope| {
            let send = |sender: usize| {
                let mut books = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    let name = format!("{sender}-{}", books.len());
                    let request = Provider::Veedeo.sign(task(&name));
                    books.push((name, [gateway.send(&request), gateway.send(&request)]));
                    pause(Duration::from_millis(5));
                }
                books
            };
            let closing = Closing(&over);
            let senders: Vec<_> = (0..4_usize).map(|sender| scope.spawn(move || send(sender))).collect();
            pause(Duration::from_millis(300));
            fault(redis);
            pause(Duration::from_millis(300));
            drop(closing);
            senders.into_iter().flat_map(|sender| sender.join().unwrap()).collect()
        });
        assert!(books.len() > 40, "only {} events", books.len());
        for (name, [first, copy]) in &books {
            assert_eq!(first.text(), "{\"app\":200}", "{name}");
            // It shares the first one's answer as long as that is being recorded.
            assert_eq!(copy.status, 200, "{name}: {}", copy.text());
            for reply in [first, copy] {
                assert!(reply.took < Duration::from_secs(1), "{name} took {:?}", reply.took);
            }
        }
        // Whenever it fell those wait who had asked already, and nobody behind them.
        let fell = u64::try_from(self.gateway.log(&["the dedup store redis does not answer"]).len()).unwrap();
        let failed = [("store", "redis"), ("result", "error")];
        let failed = self.gateway.metrics().count("hookgate_dedup_checks_total", &failed);
        assert!(failed <= 4 * fell, "{failed} claims waited in vain, and Redis fell {fell} times");
        books.into_iter().map(|(name, _)| name).collect()
    }

    /// Redis is well again: it is used, nothing was sent twice, and copies of everything are duplicates.
    fn all_is_well(&self, names: &[String]) {
        self.wait_until_up();
        for name in names.iter().step_by(7) {
            assert_eq!(self.send(name).json("duplicate"), true, "{name}");
        }
        let seen: Vec<String> = self.app.seen().iter().map(|seen| task_of(&seen.body)).collect();
        let different: HashSet<&String> = seen.iter().collect();
        assert_eq!((seen.len(), different.len()), (names.len(), names.len()), "each event once");
        let flagged = self.app.seen().iter().filter(|seen| seen.flagged()).count();
        assert_eq!(flagged, 0, "nothing was in doubt");
    }

    /// Redis has been told of every event, each to end when it would have ended.
    fn all_is_told(&self, names: &[String]) {
        eventually("Redis is told what it missed", BACK, || (marks(&self.redis).len() >= names.len()).then_some(()));
        for left in marks(&self.redis) {
            assert!((DAY - 60_000..=DAY).contains(&left), "a mark ends in {left} ms");
        }
    }

    fn survives(&mut self, fault: impl FnOnce(&mut Redis)) {
        let names = self.storm(fault);
        self.all_is_well(&names);
        self.all_is_told(&names);
    }
}

/// What is left of each mark in Redis, in milliseconds.
fn marks(redis: &Redis) -> Vec<i64> {
    let keys = redis.keys();
    let value = |key: &String| redis.ask(&["GET", key]).ok().and_then(|lines| lines.get(1).cloned());
    let marked = keys.into_iter().filter(|key| value(key).is_some_and(|value| value.starts_with("m|")));
    let left = |key: String| redis.ask(&["PTTL", &key]).unwrap()[0].trim_start_matches(':').parse().unwrap();
    marked.map(left).collect()
}

/// How long a Redis hangs: longer where the test is run at its full size.
fn hang() -> Duration {
    if environment("HOOKGATE_TORTURE").is_some() { Duration::from_secs(20) } else { FAULT }
}

/// A Redis that lets itself be put to sleep and examined.
fn debuggable() -> Redis {
    let mut redis = Redis::stopped();
    redis.arguments = ["--enable-debug-command", "local", "--busy-reply-threshold", "100"].map(Into::into).to_vec();
    redis.restart();
    redis
}

#[test]
fn a_redis_that_is_killed_and_starts_again_empty_costs_nothing() {
    let mut scene = Scene::new();
    let names = scene.storm(|redis| {
        redis.kill();
        pause(FAULT);
        redis.restart();
    });
    scene.all_is_well(&names);
}

#[test]
fn a_redis_that_hangs_and_goes_on_costs_nothing() {
    Scene::new().survives(|redis| {
        redis.freeze();
        pause(hang());
        redis.thaw();
    });
}

#[test]
fn a_redis_that_became_a_replica_and_writes_nothing_counts_as_down() {
    let mut scene = Scene::new();
    let nobody = Port::claim();
    let names = scene.storm(|redis| {
        redis.ask(&["REPLICAOF", "127.0.0.1", &nobody.number().to_string()]).unwrap();
        pause(FAULT);
        redis.ask(&["REPLICAOF", "NO", "ONE"]).unwrap();
    });
    scene.all_is_well(&names);
    scene.all_is_told(&names);
    let fell = scene.gateway.log(&["the dedup store redis does not answer"]).len();
    assert_eq!(fell, 1, "it is not taken to be back because it answers a PING");
}

#[test]
fn a_redis_whose_memory_is_full_counts_as_down() {
    let mut scene = Scene::new();
    scene.survives(|redis| {
        redis.ask(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
        pause(FAULT);
        redis.ask(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    });
    assert_eq!(scene.gateway.log(&["the dedup store redis does not answer"]).len(), 1);
}

#[test]
fn a_redis_that_was_emptied_makes_nothing_new_for_who_has_seen_it() {
    let mut scene = Scene::new();
    let names = scene.storm(|redis| {
        for _ in 0..8 {
            redis.ask(&["FLUSHALL"]).unwrap();
            pause(FAULT / 8);
        }
    });
    scene.all_is_well(&names);
}

#[test]
fn a_redis_that_evicts_keys_makes_nothing_new_and_is_reported() {
    let mut redis = Redis::stopped();
    redis.arguments = ["--maxmemory-policy", "allkeys-random"].map(Into::into).to_vec();
    redis.restart();
    let mut scene = Scene::with(redis);
    scene.gateway.wait_for_log(&["redis gives up keys", "allkeys-random"]);
    assert_eq!(scene.gateway.metrics().count("hookgate_dedup_store_evicts", &[]), 1);
    let names = scene.storm(|redis| {
        redis.ask(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
        pause(FAULT);
        redis.ask(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    });
    let evicted = scene.redis.ask(&["INFO", "stats"]).unwrap();
    assert!(evicted.iter().all(|line| line != "evicted_keys:0"), "nothing was evicted");
    scene.all_is_well(&names);
}

#[test]
fn a_redis_that_is_busy_with_a_script_counts_as_down() {
    let mut scene = Scene::with(debuggable());
    scene.survives(|redis| {
        let address = redis.address();
        let busy = std::thread::spawn(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(b"EVAL \"while true do end\" 0\r\n").unwrap();
            assert!(stream.read(&mut [0; 64]).unwrap() > 0, "Redis says that the script was killed");
        });
        pause(FAULT);
        eventually("the script is killed", BACK, || (redis.ask(&["SCRIPT", "KILL"]).ok()? == ["+OK"]).then_some(()));
        busy.join().unwrap();
    });
}

#[test]
fn a_redis_that_sleeps_costs_nothing() {
    Scene::with(debuggable()).survives(|redis| {
        redis.ask(&["DEBUG", "SLEEP", "0.8"]).unwrap();
    });
}

#[test]
fn a_redis_that_still_loads_its_data_counts_as_down() {
    let folder = tempfile::tempdir().unwrap();
    let mut redis = debuggable();
    redis.arguments.extend(["--dir".into(), folder.path().display().to_string()]);
    redis.kill();
    redis.restart();
    let mut scene = Scene::with(redis);
    let names = scene.storm(|redis| {
        redis.ask(&["DEBUG", "POPULATE", "1000", "filler", "1024"]).unwrap();
        assert_eq!(redis.ask(&["SAVE"]).unwrap(), ["+OK"]);
        redis.kill();
        let slowly = ["--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024"];
        redis.arguments.extend(slowly.map(Into::into));
        redis.launch();
        let loading = || redis.ask(&["PING"]).ok().filter(|lines| lines[0].starts_with("-LOADING"));
        eventually("Redis loads", BACK, loading);
        eventually("Redis has loaded", BACK, || (redis.ask(&["PING"]).ok()? == ["+PONG"]).then_some(()));
    });
    scene.all_is_well(&names);
}

/// A connection to Redis that stays.
fn control(redis: &Redis) -> impl FnMut(&str) + use<> {
    let mut stream = TcpStream::connect(redis.address()).unwrap();
    stream.set_read_timeout(Some(BACK)).unwrap();
    move |line| {
        stream.write_all(format!("{line}\r\n").as_bytes()).unwrap();
        let read = stream.read(&mut [0; 256]).unwrap();
        assert!(read > 0, "no answer to {line}");
    }
}

#[test]
fn a_redis_that_suddenly_wants_a_password_counts_as_down() {
    let mut scene = Scene::new();
    scene.survives(|redis| {
        let mut control = control(redis);
        control("CONFIG SET requirepass another");
        control("CLIENT KILL TYPE normal SKIPME yes");
        pause(FAULT);
        control("CONFIG SET requirepass \"\"");
    });
    let said = scene.gateway.wait_for_log(&["the dedup store redis does not answer"]);
    assert!(!said.contains("another"), "{said}");
}

#[test]
fn a_redis_that_forbids_scripts_counts_as_down() {
    let mut scene = Scene::new();
    scene.survives(|redis| {
        redis.ask(&["ACL", "SETUSER", "default", "-eval", "-evalsha"]).unwrap();
        pause(FAULT);
        redis.ask(&["ACL", "SETUSER", "default", "+eval", "+evalsha"]).unwrap();
    });
}

/// A relay between gateway and Redis that cuts connections in the middle of an answer while it is told to.
fn relay(to: String, cuts: Arc<AtomicBool>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let Ok(far) = TcpStream::connect(&to) else { continue };
            let (mut from_near, mut to_far) = (near.try_clone().unwrap(), far.try_clone().unwrap());
            std::thread::spawn(move || {
                std::io::copy(&mut from_near, &mut to_far).ok();
                to_far.shutdown(Shutdown::Both).ok();
            });
            let cuts = Arc::clone(&cuts);
            std::thread::spawn(move || pass(far, near, &cuts));
        }
    });
    address
}

fn pass(mut far: TcpStream, mut near: TcpStream, cuts: &AtomicBool) {
    let mut bytes = [0; 4096];
    while let Ok(read @ 1..) = far.read(&mut bytes) {
        if cuts.load(Ordering::Relaxed) {
            // Redis has done what it was asked; half of its answer comes through, then a reset.
            near.write_all(&bytes[..read / 2]).ok();
            rustix::net::sockopt::set_socket_linger(&near, Some(Duration::ZERO)).ok();
            break;
        }
        if near.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    far.shutdown(Shutdown::Both).ok();
    near.shutdown(Shutdown::Both).ok();
}

#[test]
fn answers_that_break_off_in_the_middle_cost_nothing() {
    let redis = Redis::start();
    let cuts = Arc::new(AtomicBool::new(false));
    let address = relay(redis.address(), Arc::clone(&cuts));
    Scene::behind(redis, &address).survives(|_| {
        cuts.store(true, Ordering::Relaxed);
        pause(FAULT);
        cuts.store(false, Ordering::Relaxed);
    });
}

/// What a jump of its clock does to Redis: every key ends so much sooner. (Redis's allocator does not bear a clock put
/// under it from outside, and nothing here may set the machine's.)
const JUMP: &str = "for _, key in ipairs(redis.call('KEYS', '*')) do redis.call('PEXPIREAT', key, \
    redis.call('PEXPIRETIME', key) - 25 * 3600000) end";

#[test]
fn a_redis_whose_clock_jumps_a_day_ahead_makes_nothing_new() {
    let mut scene = Scene::new();
    let names = scene.storm(|redis| {
        for _ in 0..8 {
            assert_eq!(redis.ask(&["EVAL", JUMP, "0"]).unwrap(), ["$-1"]);
            pause(FAULT / 8);
        }
    });
    scene.all_is_well(&names);
}

#[test]
fn a_mark_that_redis_missed_is_told_with_what_is_left_of_it() {
    let mut scene = Scene::new();
    scene.redis.kill();
    assert_eq!(scene.send("missed").text(), "{\"app\":200}");
    let since = Instant::now();
    let owed = || scene.gateway.metrics().find("hookgate_dedup_repairs_pending", &[]);
    eventually("what Redis missed is shown", BACK, || (owed() == Some(1.0)).then_some(()));
    pause(Duration::from_secs(3));
    scene.redis.restart();
    let left = eventually("Redis is told", BACK, || marks(&scene.redis).first().copied());
    eventually("nothing is owed any more", BACK, || {
        (scene.gateway.metrics().find("hookgate_dedup_repairs_pending", &[]) == Some(0.0)).then_some(())
    });
    let passed = i64::try_from(since.elapsed().as_millis()).unwrap();
    assert!((DAY - passed - 500..=DAY - 2900).contains(&left), "{left} ms are left {passed} ms later");
}

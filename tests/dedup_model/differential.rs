//! The model's rules against what they are rules of: the scripts in a real Redis, and the crate's own stores. Histories
//! of chance; `HOOKGATE_SEED` repeats one.

use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use data_encoding::HEXLOWER;
use hookgate::claims::embedded::Embedded;
use hookgate::claims::fallback::Fallback;
use hookgate::claims::redis::{Redis, RedisSettings};
use hookgate::claims::store::{
    Claim, ClaimStore, Claimed, Elsewhere, Peeked, PeekedState, Processed, REMEMBER, Shared, StoreFault,
};
use hookgate::disk::{Disk, DiskSettings, Found};
use hookgate::domain::key::EventKey;
use hookgate::domain::route::OnStoreDown;
use hookgate::domain::secret::Secret;
use hookgate::domain::time::Timestamp;
use hookgate::telemetry::Metrics;
use tokio::sync::Notify;
use uuid::Uuid;

use super::local::{Claimed as Local, Mark, Memory, Policy};
use super::model::{Net, over};
use super::ports::Port;
use super::script::{Ask, BODIES, Call, Held, Letter, Rules, Said, Slot};

const START: Timestamp = Timestamp::from_seconds(1_760_000_000);
const LEASE: Duration = Duration::from_secs(40);
const DAY: Duration = Duration::from_secs(86_400);

fn seed() -> u64 {
    #[allow(clippy::disallowed_methods, reason = "a run is repeated by its seed")]
    let told = std::env::var("HOOKGATE_SEED").ok().and_then(|seed| seed.parse().ok());
    told.unwrap_or_else(|| fastrand::u64(..))
}

fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::new(&[]).unwrap())
}

fn owner(number: u8) -> Uuid {
    Uuid::from_u128(u128::from(number))
}

fn claim(key: EventKey, by: u8, now: Timestamp) -> Claim {
    Claim { route: "veedeo".into(), key, owner: owner(by), lease: LEASE, now }
}

const fn said(claimed: Claimed) -> Said {
    match claimed {
        Claimed::New | Claimed::Unsure | Claimed::Unread => Said::New,
        Claimed::Duplicate => Said::Duplicate,
        Claimed::Conflict => Said::Conflict,
        Claimed::InFlight => Said::InFlight,
        Claimed::Lapsed => Said::Lapsed,
    }
}

const fn had(elsewhere: Elsewhere) -> Said {
    match elsewhere {
        Elsewhere::No => Said::Ours,
        Elsewhere::Perhaps => Said::Elsewhere,
    }
}

async fn run(store: &dyn ClaimStore, ask: Ask, claim: &Claim) -> Option<Said> {
    match ask {
        Ask::Claim => Some(said(store.claim(claim).await.unwrap())),
        Ask::Mark => Some(had(store.vouch(claim, DAY).await.unwrap())),
        Ask::Release { perhaps } => {
            let processed = if perhaps { Processed::Perhaps } else { Processed::Not };
            store.release(claim, processed).await.unwrap();
            None
        }
    }
}

fn any_ask(chance: &mut fastrand::Rng) -> Ask {
    match chance.u8(..8) {
        0..4 => Ask::Claim,
        4 => Ask::Mark,
        _ => Ask::Release { perhaps: chance.bool() },
    }
}

/// A redis-server of our own. Killed when dropped.
struct Server(Child, Port);

impl Server {
    async fn start() -> Self {
        let port = Port::claim();
        let child = Command::new("redis-server")
            .args(["--port", &port.number().to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .current_dir(std::env::temp_dir())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("this test needs redis-server in the PATH ({error})"));
        let server = Self(child, port);
        let since = Instant::now();
        while server.connect().await.is_err() {
            assert!(since.elapsed() < Duration::from_secs(10), "redis-server does not answer");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        server
    }

    fn url(&self) -> String {
        format!("redis://{}/0", self.1.address())
    }

    async fn connect(&self) -> redis::RedisResult<redis::aio::MultiplexedConnection> {
        redis::Client::open(self.url())?.get_multiplexed_async_connection().await
    }

    fn store(&self) -> Redis {
        let settings = RedisSettings {
            url: Secret::new(self.url().into_bytes()),
            timeout: Duration::from_secs(5),
            wait_replicas: 0,
            key_prefix: "t".into(),
        };
        Redis::new(settings, metrics()).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The bodies of one slot, and its keys in Redis: the first body's, then each body's own.
struct Keys {
    bodies: [EventKey; BODIES],
    names: Vec<String>,
}

impl Keys {
    fn new(id: &str) -> Self {
        let bodies: [EventKey; BODIES] =
            std::array::from_fn(|body| EventKey::new("veedeo", &[id.as_bytes()], format!("{body}").as_bytes()));
        let first = format!("t:veedeo:{{{}}}", HEXLOWER.encode(&bodies[0].slot));
        let own = bodies.iter().map(|key| format!("{first}:{}", HEXLOWER.encode(&key.fingerprint)));
        let names = std::iter::once(first.clone()).chain(own).collect();
        Self { bodies, names }
    }

    /// What stands in Redis, read as the model writes it.
    async fn read(&self, connection: &mut redis::aio::MultiplexedConnection) -> Slot {
        let mut pipe = redis::pipe();
        for name in &self.names {
            pipe.get(name).pttl(name);
        }
        let mut values = pipe.query_async::<Vec<redis::Value>>(connection).await.unwrap().into_iter();
        let mut held = Vec::new();
        while let (Some(text), Some(left)) = (values.next(), values.next()) {
            let text: Option<String> = redis::from_redis_value(text).unwrap();
            let left: i64 = redis::from_redis_value(left).unwrap();
            held.push(text.map(|text| self.parse(&text, u64::try_from(left).unwrap())));
        }
        Slot { first: held[0], own: [held[1], held[2], held[3]] }
    }

    fn parse(&self, text: &str, left: u64) -> Held {
        let [letter, owner, fingerprint] = text.split('|').collect::<Vec<_>>()[..] else { panic!("{text}") };
        let (letter, most) = match letter {
            "c" => (Letter::Claimed, REMEMBER + LEASE),
            "f" => (Letter::Flagged, REMEMBER + LEASE),
            "m" => (Letter::Marked, DAY),
            "p" => (Letter::Perhaps, REMEMBER),
            other => panic!("state {other}"),
        };
        let (left, claimed) = (Duration::from_millis(left), matches!(letter, Letter::Claimed | Letter::Flagged));
        assert!(left <= most && left + LEASE + DAY / 2 > most, "{text} ends in {left:?}");
        let body = self.bodies.iter().position(|key| HEXLOWER.encode(&key.fingerprint) == fingerprint).unwrap();
        Held {
            letter,
            owner: u8::try_from(Uuid::parse_str(owner).unwrap().as_u128()).unwrap(),
            body: u8::try_from(body).unwrap(),
            lapsed: claimed && left <= REMEMBER,
        }
    }
}

#[tokio::test]
async fn the_models_script_and_a_real_redis_agree() {
    let seed = seed();
    let mut chance = fastrand::Rng::with_seed(seed);
    let server = Server::start().await;
    let (store, mut connection) = (server.store(), server.connect().await.unwrap());
    let mut asked = 0;
    for history in 0..150 {
        let (keys, mut slot, mut told) = (Keys::new(&format!("{seed}-{history}")), Slot::default(), Vec::new());
        for _ in 0..20 {
            let call = Call { ask: any_ask(&mut chance), owner: chance.u8(1..4), body: chance.u8(..3) };
            match chance.u8(..12) {
                0 => {
                    // All leases pass: what is left of a claim's key is what is remembered of it.
                    slot.lapse();
                    for (name, held) in keys.names.iter().zip(std::iter::once(slot.first).chain(slot.own)) {
                        if held.is_some_and(|held| held.lapsed) {
                            let left = u64::try_from(REMEMBER.as_millis()).unwrap() - 1;
                            redis::cmd("PEXPIRE").arg(name).arg(left).exec_async(&mut connection).await.unwrap();
                        }
                    }
                    told.push("lapse".to_owned());
                }
                1 => {
                    // One key ends.
                    let which = chance.usize(..keys.names.len());
                    redis::cmd("DEL").arg(&keys.names[which]).exec_async(&mut connection).await.unwrap();
                    match which {
                        0 => slot.first = None,
                        own => slot.own[own - 1] = None,
                    }
                    told.push(format!("end {which}"));
                }
                2 => {
                    let body = usize::from(call.body);
                    let peeked = store.peek("veedeo", keys.bodies[body], START).await.unwrap();
                    let own = slot.own[body].or(slot.first.filter(|first| first.body == call.body));
                    let state = own.map(|held| match held.letter {
                        Letter::Marked => PeekedState::Processed,
                        Letter::Claimed | Letter::Flagged if !held.lapsed => PeekedState::InFlight,
                        Letter::Claimed | Letter::Flagged | Letter::Perhaps => PeekedState::Perhaps,
                    });
                    assert_eq!(peeked.map(|peeked| peeked.state), state, "seed {seed}: {told:?}");
                }
                _ => {
                    asked += 1;
                    told.push(format!("{call:?}"));
                    let event = keys.bodies[usize::from(call.body)];
                    let real = run(&store, call.ask, &claim(event, call.owner, START)).await;
                    assert_eq!(slot.run(call, Rules::default()), real, "HOOKGATE_SEED={seed}: {told:#?}");
                }
            }
            let real = keys.read(&mut connection).await;
            assert_eq!(slot, real, "HOOKGATE_SEED={seed} left: model: {told:#?}");
        }
    }
    assert!(asked > 1500, "only {asked} calls");
}

/// The shared store of the second comparison: the model's own, with a fault now and then.
#[derive(Debug, Default)]
struct Stand {
    slot: Mutex<Slot>,
    net: Mutex<Option<Net>>,
    late: Mutex<Vec<Call>>,
    checked: Notify,
}

impl Stand {
    fn call(&self, ask: Ask, claim: &Claim) -> Result<Option<Said>, StoreFault> {
        let call = Call { ask, owner: u8::try_from(claim.owner.as_u128()).unwrap(), body: 0 };
        let unheard = || Err(StoreFault::Failed("no answer".into()));
        match self.net.lock().unwrap().take().unwrap_or(Net::Answered) {
            Net::Answered => Ok(self.slot.lock().unwrap().run(call, Rules::default())),
            Net::Lost => unheard(),
            Net::Unheard => {
                self.slot.lock().unwrap().run(call, Rules::default());
                unheard()
            }
            Net::Late => {
                let mut late = self.late.lock().unwrap();
                late.push(call);
                late.sort_unstable();
                drop(late);
                unheard()
            }
        }
    }
}

#[async_trait]
impl ClaimStore for Stand {
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreFault> {
        self.decide(claim).await
    }
    async fn mark(&self, claim: &Claim, _: Duration) -> Result<(), StoreFault> {
        self.call(Ask::Mark, claim).map(|_| ())
    }
    async fn vouch(&self, claim: &Claim, _: Duration) -> Result<Elsewhere, StoreFault> {
        let said = self.call(Ask::Mark, claim)?;
        Ok(if said == Some(Said::Elsewhere) { Elsewhere::Perhaps } else { Elsewhere::No })
    }
    async fn release(&self, claim: &Claim, processed: Processed) -> Result<(), StoreFault> {
        self.call(Ask::Release { perhaps: processed == Processed::Perhaps }, claim).map(|_| ())
    }
    async fn peek(&self, _: &str, _: EventKey, _: Timestamp) -> Result<Option<Peeked>, StoreFault> {
        Ok(None)
    }
    async fn forget(&self, _: &str, _: EventKey) -> Result<Found, StoreFault> {
        Ok(Found::No)
    }
    fn name(&self) -> &'static str {
        "redis"
    }
    fn is_up(&self) -> bool {
        true
    }
}

#[async_trait]
impl Shared for Stand {
    async fn decide(&self, claim: &Claim) -> Result<Claimed, StoreFault> {
        let said = self.call(Ask::Claim, claim)?.expect("a claim is answered");
        Ok(match said {
            Said::New => Claimed::New,
            Said::Duplicate => Claimed::Duplicate,
            Said::Conflict => Claimed::Conflict,
            Said::InFlight => Claimed::InFlight,
            Said::Lapsed => Claimed::Lapsed,
            Said::Ours | Said::Elsewhere => panic!("no answer to a claim"),
        })
    }
    async fn probe(&self) -> Result<(), StoreFault> {
        Ok(())
    }
    async fn eviction_policy(&self) -> Result<Option<String>, StoreFault> {
        self.checked.notify_one();
        Ok(None)
    }
}

/// One event at one gateway, in the model and in the crate.
struct Both {
    real: Fallback,
    stand: Arc<Stand>,
    memory: Memory,
    slot: Slot,
    late: Vec<Call>,
    policy: Policy,
    now: Timestamp,
    key: EventKey,
    told: Vec<String>,
}

impl Both {
    async fn call(&mut self, ask: Ask, by: u8, net: Net) {
        self.told.push(format!("{ask:?} by {by}, {net:?}"));
        *self.stand.net.lock().unwrap() = Some(net);
        let it = claim(self.key, by, self.now);
        let (slot, late) = (&mut self.slot, &mut self.late);
        let mut over = |call: Call| over(net, slot, late, call, Rules::default());
        let call = Call { ask, owner: by, body: 0 };
        match ask {
            Ask::Claim => {
                let model = self.memory.claim(by, self.policy, Rules::default(), |call| {
                    over(call).map(|said| said.expect("a claim is answered"))
                });
                let real = match self.real.claim(&it).await {
                    Ok(Claimed::New | Claimed::Conflict) => Local::Ours { flagged: false },
                    Ok(Claimed::Lapsed | Claimed::Unsure | Claimed::Unread) => Local::Ours { flagged: true },
                    Ok(Claimed::Duplicate) => Local::Duplicate,
                    Ok(Claimed::InFlight) => Local::InFlight,
                    Err(_) => Local::Refused,
                };
                assert_eq!(model, real, "left: model, right: crate: {:#?}", self.told);
            }
            Ask::Mark => {
                self.memory.remember(by, Rules::default());
                self.memory.tell(call, |call| over(call).map(|_| ()));
                self.real.mark(&it, DAY).await.unwrap();
            }
            Ask::Release { perhaps } => {
                self.memory.give_up(by, perhaps);
                self.memory.tell(call, |call| over(call).map(|_| ()));
                let processed = if perhaps { Processed::Perhaps } else { Processed::Not };
                self.real.release(&it, processed).await.unwrap();
            }
        }
        *self.stand.net.lock().unwrap() = None;
    }

    /// Before an event is sent from disk.
    async fn vouch(&mut self, by: u8, net: Net) {
        self.told.push(format!("vouch by {by}, {net:?}"));
        *self.stand.net.lock().unwrap() = Some(net);
        let call = Call { ask: Ask::Mark, owner: by, body: 0 };
        let model = if self.memory.up {
            let said = over(net, &mut self.slot, &mut self.late, call, Rules::default());
            if said.is_none() {
                self.memory.up = false;
                self.memory.repairs.push(call);
            }
            said.flatten()
        } else {
            Some(Said::Ours)
        };
        let real = self.real.vouch(&claim(self.key, by, self.now), DAY).await.ok().map(had);
        assert_eq!(model, real, "left: model, right: crate: {:#?}", self.told);
        *self.stand.net.lock().unwrap() = None;
    }

    async fn step(&mut self, chance: &mut fastrand::Rng) {
        let nets = [Net::Answered, Net::Answered, Net::Answered, Net::Lost, Net::Unheard, Net::Late];
        let net = nets[chance.usize(..nets.len())];
        match chance.u8(..15) {
            0 => self.come_back().await,
            1 => {
                self.told.push("leases lapse here".to_owned());
                self.now = self.now.plus(LEASE);
                if let Some(lease) = &mut self.memory.lease {
                    lease.lapsed = true;
                }
            }
            2 => {
                self.told.push("leases lapse in the store".to_owned());
                self.slot.lapse();
                self.stand.slot.lock().unwrap().lapse();
            }
            3 => {
                self.told.push("what was late is executed".to_owned());
                let late = std::mem::take(&mut *self.stand.late.lock().unwrap());
                self.late.clear();
                for call in late {
                    self.slot.run(call, Rules::default());
                    self.stand.slot.lock().unwrap().run(call, Rules::default());
                }
            }
            4 => {
                self.told.push("the store is emptied".to_owned());
                self.slot = Slot::default();
                *self.stand.slot.lock().unwrap() = Slot::default();
            }
            5 => self.vouch(chance.u8(1..4), net).await,
            _ => {
                self.call(any_ask(chance), chance.u8(1..4), net).await;
            }
        }
    }

    async fn come_back(&mut self) {
        self.told.push("the store is back".to_owned());
        tokio::select! {
            () = self.real.tend() => {}
            () = self.stand.checked.notified() => {}
        }
        for repair in std::mem::take(&mut self.memory.repairs) {
            self.slot.run(repair, Rules::default());
        }
        self.memory.up = true;
    }

    async fn compare(&self) {
        assert_eq!(self.slot, *self.stand.slot.lock().unwrap(), "left: model, right: crate: {:#?}", self.told);
        assert_eq!(self.late, *self.stand.late.lock().unwrap(), "{:#?}", self.told);
        assert_eq!(self.memory.up, self.real.is_up(), "{:#?}", self.told);
        let peeked = self.real.local().peek("veedeo", self.key, self.now).await.unwrap();
        let lease = self.memory.lease.filter(|lease| !lease.lapsed);
        let model = match (lease, self.memory.mark) {
            (Some(_), _) => Some(PeekedState::InFlight),
            (None, Mark::Processed) => Some(PeekedState::Processed),
            (None, Mark::Perhaps) => Some(PeekedState::Perhaps),
            (None, Mark::None) => None,
        };
        assert_eq!(model, peeked.map(|peeked| peeked.state), "left: model, right: crate: {:#?}", self.told);
    }
}

#[tokio::test]
async fn the_models_gateway_and_the_crates_stores_agree() {
    let seed = seed();
    let mut chance = fastrand::Rng::with_seed(seed);
    let dir = tempfile::tempdir().unwrap();
    let settings =
        DiskSettings { path: dir.path().to_owned(), max_bytes: 1 << 20, max_dead_bytes: u64::MAX, min_free_bytes: 0 };
    let disk = Disk::open(settings, START, metrics()).unwrap().disk;
    let policies = [
        (Policy::Local, OnStoreDown::Local),
        (Policy::Refuse, OnStoreDown::Refuse),
        (Policy::Accept, OnStoreDown::Accept),
    ];
    for history in 0..600_usize {
        let (policy, on_store_down) = policies[history % 3];
        let stand = Arc::new(Stand::default());
        let local = Arc::new(Embedded::stand_in(disk.clone()));
        let mut both = Both {
            real: Fallback::new(stand.clone(), local, on_store_down, metrics()),
            stand,
            memory: Memory::default(),
            slot: Slot::default(),
            late: Vec::new(),
            policy,
            now: START,
            key: EventKey::new("veedeo", &[format!("{seed}-{history}").as_bytes()], b"body"),
            told: vec![format!("HOOKGATE_SEED={seed}, history {history}, {policy:?}")],
        };
        for _ in 0..16 {
            both.step(&mut chance).await;
            both.compare().await;
        }
    }
}

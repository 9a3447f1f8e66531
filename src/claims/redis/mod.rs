//! The store that replicas share: Redis. One round trip per question, each within its own timeout; what it decides is
//! decided in a script, so that no two replicas see it half done.
//!
//! Keys: `prefix:route:{slot}` for the first body of a slot, `prefix:route:{slot}:fingerprint` for any other; slot and
//! fingerprint in hex, the braces keep both on one node of a cluster. No byte of a request is part of a key.
//! Values: `state|owner|fingerprint`. States: `c` claimed, `f` claimed and flagged, `m` marked, `p` perhaps processed.
//! A claim's key lives for its lease and [`REMEMBER`] longer: what is left of that tells whether the lease has lapsed,
//! so no clock but Redis's own, and that only for durations, is asked.
//!
//! One server, one that Sentinel names, or a cluster: `links.rs`. What becomes of an outage is the business of
//! `fallback`.

mod asking;
mod connect;
mod find;
mod inspect;
mod links;
mod scripts;
mod sending;
mod settings;
mod slots;
mod tls;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;

pub use self::inspect::{Server, inspect};
pub use self::settings::{RedisSettings, Settings};

use self::asking::{Asking, unanswered};
use self::connect::fault;
use self::links::{Links, Servers};
use self::scripts::{Question, Word};
use super::meter::{Meter, Op};
use super::store::{
    Claim, ClaimStore, Claimed, Elsewhere, Peeked, PeekedState, Processed, REMEMBER, Shared, StoreFault,
};
use crate::disk::Found;
use crate::domain::key::EventKey;
use crate::domain::time::Timestamp;
use crate::telemetry::Metrics;

/// Longest time for finding the servers and connecting when nobody's request waits for it.
const CONNECT: Duration = Duration::from_secs(1);
/// Longest wait for a server's word on who has what, or on itself.
const LOOK: Duration = Duration::from_millis(500);

/// The shared store.
pub struct Redis {
    asking: Arc<Asking>,
    meter: Meter,
    /// New settings could not be put into operation, and that has been said.
    complained: AtomicBool,
}

/// Whether a store could be reached by `settings`, as far as they alone can say. Reads the files they name, connects to nothing.
pub fn look_over(settings: &Settings) -> Result<(), StoreFault> {
    settings::resolve(&settings.link).map(|_| ())
}

impl Redis {
    /// The store that `settings` describe. Reads the files they name, and connects to nothing yet.
    pub fn new(settings: impl Into<Settings>, metrics: Arc<Metrics>) -> Result<Self, StoreFault> {
        let settings = settings.into();
        settings::resolve(&settings.link)?;
        Ok(Self {
            asking: Arc::new(Asking::new(Links::new(settings))),
            meter: Meter::new(metrics, "redis"),
            complained: AtomicBool::new(false),
        })
    }

    /// Other settings from now on, connections included, but for the prefix of keys, under which claims are held.
    /// Settings that cannot be are refused and change nothing. Reads files.
    pub fn configure(&self, mut settings: Settings) -> Result<(), StoreFault> {
        settings::resolve(&settings.link)?;
        settings.key_prefix.clone_from(&self.asking.links.settings().key_prefix);
        self.complained.store(false, Ordering::Relaxed);
        self.asking.links.configure(settings);
        Ok(())
    }

    /// Waits until it answers, for at most `patience`.
    pub async fn answers_within(&self, patience: Duration) -> Result<(), StoreFault> {
        let until = tokio::time::Instant::now() + patience;
        loop {
            let Err(fault) = self.probe().await else { return Ok(()) };
            if tokio::time::Instant::now() >= until {
                return Err(fault);
            }
            tokio::time::sleep(CONNECT / 4).await;
        }
    }

    /// The servers, for who has more patience than a request.
    async fn found(&self) -> Result<Arc<Servers>, StoreFault> {
        let found = tokio::time::timeout(CONNECT, self.asking.links.servers()).await;
        found.map_err(|_| StoreFault::Failed(format!("no connection to redis within {CONNECT:?}")))?
    }

    /// Whether every server would take a claim: it is asked for what claims need, in a script, about a key that is not
    /// there. Nothing changes.
    async fn would_take(&self, servers: &Servers) -> Result<(), StoreFault> {
        let settings = self.asking.links.settings();
        for key in servers.keys_everywhere(&format!("{}:probe", settings.key_prefix)) {
            let copied = if settings.wait_replicas > 0 { "copied" } else { "" };
            let question = Question::new(key, "").with([Word::Text(copied)]);
            self.asking.within(self.asking.links.ask(&self.asking.scripts.probe, &question)).await?;
        }
        Ok(())
    }

    /// Puts new settings into operation. If that fails the connections of the settings before serve on.
    async fn renew(&self) {
        if !self.asking.links.are_of_old_settings() {
            return;
        }
        let found = tokio::time::timeout(CONNECT, self.asking.links.find_anew()).await;
        let failed = match found {
            Ok(Ok(_)) => return,
            Ok(Err(fault)) => fault.to_string(),
            Err(_) => format!("no connection to redis within {CONNECT:?}"),
        };
        if !self.complained.swap(true, Ordering::Relaxed) {
            tracing::error!(
                fault = failed,
                "the new settings of redis do not work; the connections there are stay in use"
            );
        }
    }
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Redis(..)")
    }
}

#[async_trait]
impl Shared for Redis {
    async fn decide(&self, claim: &Claim) -> Result<Claimed, StoreFault> {
        self.asking.claim(claim).await
    }

    async fn mark_all(&self, marks: &[(Claim, Duration)]) -> Result<(), StoreFault> {
        self.asking.mark_all(marks).await
    }

    /// Over the connections there are, else over new ones, with more patience than a request has.
    async fn probe(&self) -> Result<(), StoreFault> {
        self.renew().await;
        if self.asking.links.are_there() {
            let servers = self.found().await?;
            let held = tokio::time::timeout(LOOK, servers.still_hold()).await.unwrap_or(true);
            if held && self.would_take(&servers).await.is_ok() {
                return Ok(());
            }
            self.asking.links.give_up();
        }
        let servers = self.found().await?;
        self.would_take(&servers).await
    }

    /// The first policy that is not `noeviction`, if a server has one.
    async fn eviction_policy(&self) -> Result<Option<String>, StoreFault> {
        let servers = self.asking.within(self.asking.links.servers()).await?;
        let mut seen = None;
        for address in servers.all() {
            // What is not answered in time changes nothing when it is: the connection is kept.
            let asked = tokio::time::timeout(LOOK, async {
                let mut link = servers.link(&address).await?;
                let info = redis::cmd("INFO").arg("memory").query_async(&mut link.connection).await;
                info.map_err(|error| fault(&address, &error))
            });
            let info: String = asked.await.map_err(|_| unanswered(LOOK))??;
            let policy = info.lines().find_map(|line| line.strip_prefix("maxmemory_policy:")).map(str::trim);
            if policy.is_some_and(|policy| policy != "noeviction") {
                return Ok(policy.map(str::to_owned));
            }
            seen = policy.map(str::to_owned).or(seen);
        }
        Ok(seen)
    }
}

#[async_trait]
impl ClaimStore for Redis {
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreFault> {
        let since = Instant::now();
        let answer = self.decide(claim).await;
        self.meter.took(Op::Claim, since);
        self.meter.checked(&answer);
        answer
    }

    async fn mark(&self, claim: &Claim, ttl: Duration) -> Result<(), StoreFault> {
        self.vouch(claim, ttl).await.map(|_| ())
    }

    async fn vouch(&self, claim: &Claim, ttl: Duration) -> Result<Elsewhere, StoreFault> {
        let since = Instant::now();
        let answer: Result<u32, StoreFault> =
            self.asking.ask(&self.asking.scripts.mark, &self.asking.marking(claim, ttl)).await;
        self.meter.took(Op::Mark, since);
        Ok(if answer? > 0 { Elsewhere::Perhaps } else { Elsewhere::No })
    }

    async fn release(&self, claim: &Claim, processed: Processed) -> Result<(), StoreFault> {
        let since = Instant::now();
        let question = self.asking.question(&claim.route, &claim.key).with([Word::Owner(claim.owner)]);
        let question = question.with(asking::released(processed));
        let answer = self.asking.ask(&self.asking.scripts.release, &question).await;
        self.meter.took(Op::Release, since);
        answer
    }

    async fn peek(&self, route: &str, key: EventKey, now: Timestamp) -> Result<Option<Peeked>, StoreFault> {
        let since = Instant::now();
        let question = self.asking.question(route, &key);
        let (state, left): (String, i64) = self.asking.ask(&self.asking.scripts.peek, &question).await?;
        self.meter.took(Op::Peek, since);
        let left = Duration::from_millis(u64::try_from(left).unwrap_or(0));
        let (state, left) = match state.as_str() {
            "" => return Ok(None),
            "m" => (PeekedState::Processed, left),
            // A lapsed claim: nobody is at it, and nobody knows what became of it.
            "c" | "f" if left <= REMEMBER => (PeekedState::Perhaps, left),
            "c" | "f" => (PeekedState::InFlight, left.saturating_sub(REMEMBER)),
            _ => (PeekedState::Perhaps, left),
        };
        Ok(Some(Peeked { state, expires_at: now.plus(left), fingerprint: key.fingerprint }))
    }

    async fn forget(&self, route: &str, key: EventKey) -> Result<Found, StoreFault> {
        let since = Instant::now();
        let question = self.asking.question(route, &key);
        let forgotten: u32 = self.asking.ask(&self.asking.scripts.forget, &question).await?;
        self.meter.took(Op::Forget, since);
        Ok(if forgotten > 0 { Found::Yes } else { Found::No })
    }

    fn name(&self) -> &'static str {
        "redis"
    }

    /// As far as is known: broken connections have been given up.
    fn is_up(&self) -> bool {
        self.asking.links.are_there()
    }
}

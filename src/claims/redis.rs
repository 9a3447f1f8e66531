//! The store that replicas share: Redis. One round trip per question, each within its own timeout; what it decides is
//! decided in a script, so that no two replicas see it half done.
//!
//! Keys: `prefix:route:{slot}` for the first body of a slot, `prefix:route:{slot}:fingerprint` for any other; slot and
//! fingerprint in hex, the braces keep both on one node of a cluster. No byte of a request is part of a key.
//! Values: `state|owner|fingerprint`. States: `c` claimed, `f` claimed and flagged, `m` marked, `p` perhaps processed.
//! A claim's key lives for its lease and [`REMEMBER`] longer: what is left of that tells whether the lease has lapsed,
//! so no clock but Redis's own, and that only for durations, is asked.
//!
//! It holds one connection, made when first needed. What becomes of an outage is the business of `fallback`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use data_encoding::HEXLOWER;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo, RedisError, Script, ScriptInvocation};

use super::meter::{Meter, Op};
use super::store::{Claim, ClaimStore, Claimed, Peeked, PeekedState, Processed, REMEMBER, Shared, StoreFault};
use crate::disk::Found;
use crate::domain::key::EventKey;
use crate::domain::secret::Secret;
use crate::domain::time::Timestamp;
use crate::telemetry::Metrics;

/// Longest wait for a new connection when nobody's request waits for it.
const CONNECT: Duration = Duration::from_secs(1);

/// Where Redis is and how it is asked.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// `redis://…`; may hold a password.
    pub url: Secret,
    /// Longest wait for an answer.
    pub timeout: Duration,
    /// How many replicas of Redis must have a claim; 0: it is not asked.
    pub wait_replicas: u32,
    /// What all keys begin with.
    pub key_prefix: String,
}

/// The shared store.
pub struct Redis {
    client: Client,
    settings: RedisSettings,
    /// Replaced as a whole when it has broken; held for a clone.
    connection: ArcSwapOption<MultiplexedConnection>,
    /// Held while connecting, so that one connection is made and not many.
    connecting: tokio::sync::Mutex<()>,
    scripts: Scripts,
    meter: Meter,
}

impl Redis {
    /// The store at `settings.url`. Connects to nothing yet.
    pub fn new(settings: RedisSettings, metrics: Arc<Metrics>) -> Result<Self, StoreFault> {
        // The address may hold a password: no part of it is repeated.
        let bad = || StoreFault::Failed("dedup.redis.url is not a redis:// address".to_owned());
        let url = std::str::from_utf8(settings.url.expose()).map_err(|_| bad())?;
        let info = url.into_connection_info().map_err(|_| bad())?;
        let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let client = Client::open(info).map_err(|_| bad())?;
        Ok(Self {
            client,
            settings,
            connection: ArcSwapOption::empty(),
            connecting: tokio::sync::Mutex::new(()),
            scripts: Scripts::new(),
            meter: Meter::new(metrics, "redis"),
        })
    }

    async fn ping(&self) -> Result<(), StoreFault> {
        self.within(async |mut connection| redis::cmd("PING").query_async(&mut connection).await).await
    }

    /// Asks within the timeout. A connection that has broken or does not answer is given up.
    async fn within<T>(
        &self,
        ask: impl AsyncFnOnce(MultiplexedConnection) -> Result<T, RedisError>,
    ) -> Result<T, StoreFault> {
        let timeout = self.settings.timeout;
        let asked = async {
            let connection = self.connection().await?;
            ask(connection).await.map_err(|error| {
                if error.is_unrecoverable_error() {
                    self.connection.store(None);
                }
                fault(&error)
            })
        };
        let answer = tokio::time::timeout(timeout, asked).await;
        answer.unwrap_or_else(|_| Err(StoreFault::Failed(format!("redis did not answer within {timeout:?}"))))
    }

    async fn connection(&self) -> Result<MultiplexedConnection, StoreFault> {
        if let Some(connection) = &*self.connection.load() {
            return Ok(MultiplexedConnection::clone(connection));
        }
        let _alone = self.connecting.lock().await;
        if let Some(connection) = &*self.connection.load() {
            return Ok(MultiplexedConnection::clone(connection));
        }
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(None);
        let connected = self.client.get_multiplexed_async_connection_with_config(&config).await;
        let connection = connected.map_err(|error| fault(&error))?;
        self.connection.store(Some(Arc::new(connection.clone())));
        Ok(connection)
    }

    /// The two keys of an event.
    fn keys<'a, 'b>(
        &self,
        call: &'b mut ScriptInvocation<'a>,
        route: &str,
        key: &EventKey,
    ) -> &'b mut ScriptInvocation<'a> {
        let slot = format!("{}:{route}:{{{}}}", self.settings.key_prefix, HEXLOWER.encode(&key.slot));
        let own = format!("{slot}:{}", HEXLOWER.encode(&key.fingerprint));
        call.key(slot).key(own)
    }
}

fn fault(error: &RedisError) -> StoreFault {
    StoreFault::Failed(format!("redis: {error}"))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4).clamp(1, u64::MAX / 4)
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Redis(..)")
    }
}

#[async_trait]
impl Shared for Redis {
    async fn decide(&self, claim: &Claim) -> Result<Claimed, StoreFault> {
        let mut call = self.scripts.claim.prepare_invoke();
        self.keys(&mut call, &claim.route, &claim.key)
            .arg(claim.owner.simple().to_string())
            .arg(HEXLOWER.encode(&claim.key.fingerprint))
            .arg(millis(claim.lease))
            .arg(millis(REMEMBER));
        let replicas = self.settings.wait_replicas;
        let patience = millis(self.settings.timeout / 2);
        let asked = self.within(async |mut connection| {
            let word: String = call.invoke_async(&mut connection).await?;
            let copies: u32 = match replicas {
                0 => 0,
                _ => redis::cmd("WAIT").arg(replicas).arg(patience).query_async(&mut connection).await?,
            };
            Ok((word, copies))
        });
        let (word, copies) = asked.await?;
        if copies < replicas {
            return Err(StoreFault::Failed(format!("{copies} of {replicas} replicas of redis took a claim in time")));
        }
        match word.as_str() {
            "new" => Ok(Claimed::New),
            "duplicate" => Ok(Claimed::Duplicate),
            "conflict" => Ok(Claimed::Conflict),
            "in_flight" => Ok(Claimed::InFlight),
            "lapsed" => Ok(Claimed::Lapsed),
            other => Err(StoreFault::Failed(format!("redis answered {other:?} to a claim"))),
        }
    }

    /// Over the connection there is, else over a new one, with more patience than a request has.
    async fn probe(&self) -> Result<(), StoreFault> {
        if self.connection.load().is_some() && self.ping().await.is_ok() {
            return Ok(());
        }
        self.connection.store(None);
        let connected = tokio::time::timeout(CONNECT, self.connection()).await;
        connected.map_err(|_| StoreFault::Failed(format!("no connection to redis within {CONNECT:?}")))??;
        self.ping().await
    }

    async fn eviction_policy(&self) -> Result<Option<String>, StoreFault> {
        let asked = async |mut connection| redis::cmd("INFO").arg("memory").query_async(&mut connection).await;
        let info: String = self.within(asked).await?;
        Ok(info.lines().find_map(|line| line.strip_prefix("maxmemory_policy:")).map(|policy| policy.trim().to_owned()))
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
        let since = Instant::now();
        let mut call = self.scripts.mark.prepare_invoke();
        self.keys(&mut call, &claim.route, &claim.key)
            .arg(claim.owner.simple().to_string())
            .arg(HEXLOWER.encode(&claim.key.fingerprint))
            .arg(millis(ttl));
        let answer = self.within(async |mut connection| call.invoke_async(&mut connection).await).await;
        self.meter.took(Op::Mark, since);
        answer
    }

    async fn release(&self, claim: &Claim, processed: Processed) -> Result<(), StoreFault> {
        let since = Instant::now();
        let mut call = self.scripts.release.prepare_invoke();
        self.keys(&mut call, &claim.route, &claim.key)
            .arg(claim.owner.simple().to_string())
            .arg(HEXLOWER.encode(&claim.key.fingerprint))
            .arg(match processed {
                Processed::Not => "not",
                Processed::Perhaps => "perhaps",
            })
            .arg(millis(REMEMBER));
        let answer = self.within(async |mut connection| call.invoke_async(&mut connection).await).await;
        self.meter.took(Op::Release, since);
        answer
    }

    async fn peek(&self, route: &str, key: EventKey, now: Timestamp) -> Result<Option<Peeked>, StoreFault> {
        let since = Instant::now();
        let mut call = self.scripts.peek.prepare_invoke();
        self.keys(&mut call, route, &key).arg(HEXLOWER.encode(&key.fingerprint));
        let asked = self.within(async |mut connection| call.invoke_async(&mut connection).await);
        let (state, left): (String, i64) = asked.await?;
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
        let mut call = self.scripts.forget.prepare_invoke();
        self.keys(&mut call, route, &key).arg(HEXLOWER.encode(&key.fingerprint));
        let asked = self.within(async |mut connection| call.invoke_async(&mut connection).await);
        let forgotten: u32 = asked.await?;
        self.meter.took(Op::Forget, since);
        Ok(if forgotten > 0 { Found::Yes } else { Found::No })
    }

    fn name(&self) -> &'static str {
        "redis"
    }

    /// As far as is known: a broken connection has been given up.
    fn is_up(&self) -> bool {
        self.connection.load().is_some()
    }
}

/// The questions, each decided by Redis in one step.
struct Scripts {
    claim: Script,
    mark: Script,
    release: Script,
    peek: Script,
    forget: Script,
}

impl Scripts {
    fn new() -> Self {
        let script = |body| Script::new(&format!("{READ}{body}"));
        Self {
            claim: script(CLAIM),
            mark: script(MARK),
            release: script(RELEASE),
            peek: script(PEEK),
            forget: script(FORGET),
        }
    }
}

/// What all scripts begin with: reading a key as state, owner and fingerprint.
const READ: &str = "
local function read(key)
  local held = redis.call('GET', key)
  if not held then return nil end
  return string.match(held, '^(%a)|([^|]*)|([^|]*)$')
end
";

/// ARGV: owner, fingerprint, lease, how long to remember. A claim that is the owner's already is taken again: it is the
/// repeat of a call whose answer was not heard.
const CLAIM: &str = "
local function take(key, state)
  redis.call('SET', key, state .. '|' .. ARGV[1] .. '|' .. ARGV[2], 'PX', ARGV[3] + ARGV[4])
end
local function ask(key, state, owner)
  if state == 'm' then return 'duplicate' end
  if owner == ARGV[1] and state ~= 'p' then
    take(key, state)
    return state == 'f' and 'lapsed' or 'new'
  end
  if state == 'p' or redis.call('PTTL', key) <= tonumber(ARGV[4]) then
    take(key, 'f')
    return 'lapsed'
  end
  return 'in_flight'
end
local state, owner = read(KEYS[2])
if state then return ask(KEYS[2], state, owner) end
local fingerprint
state, owner, fingerprint = read(KEYS[1])
if not state then
  take(KEYS[1], 'c')
  return 'new'
end
if fingerprint == ARGV[2] then return ask(KEYS[1], state, owner) end
take(KEYS[2], 'c')
return 'conflict'
";

/// ARGV: owner, fingerprint, ttl. That an event was processed is true whoever holds its claim; a claim on another body
/// is not touched.
const MARK: &str = "
local key = KEYS[2]
if not read(KEYS[2]) then
  local state, owner, fingerprint = read(KEYS[1])
  if not state or fingerprint == ARGV[2] then key = KEYS[1] end
end
if read(key) == 'm' and redis.call('PTTL', key) >= tonumber(ARGV[3]) then return 0 end
redis.call('SET', key, 'm|' .. ARGV[1] .. '|' .. ARGV[2], 'PX', ARGV[3])
return 1
";

/// ARGV: owner, fingerprint, whether it may have been processed, how long to remember. Only the owner's own claim.
const RELEASE: &str = "
for _, key in ipairs(KEYS) do
  local state, owner, fingerprint = read(key)
  if (state == 'c' or state == 'f') and owner == ARGV[1] and fingerprint == ARGV[2] then
    if state == 'f' or ARGV[3] == 'perhaps' then
      redis.call('SET', key, 'p|' .. ARGV[1] .. '|' .. ARGV[2], 'PX', ARGV[4])
    else
      redis.call('DEL', key)
    end
    return 1
  end
end
return 0
";

/// ARGV: fingerprint. Answers state and milliseconds left.
const PEEK: &str = "
for _, key in ipairs({KEYS[2], KEYS[1]}) do
  local state, owner, fingerprint = read(key)
  if state and fingerprint == ARGV[1] then return {state, redis.call('PTTL', key)} end
end
return {'', 0}
";

/// ARGV: fingerprint.
const FORGET: &str = "
local forgotten = 0
for _, key in ipairs(KEYS) do
  local state, owner, fingerprint = read(key)
  if (state == 'm' or state == 'p') and fingerprint == ARGV[1] then
    forgotten = forgotten + redis.call('DEL', key)
  end
end
return forgotten
";

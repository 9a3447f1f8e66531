//! The questions that Redis is asked, each decided by it in one step. What the keys are called is `mod.rs`'s business.
//!
//! Both keys of an event are declared as long as that can be. While a slot of a cluster moves, only questions about
//! one key are answered: then the second name is built from the first. Every script reads the first key first and the
//! second only if it has to, so that an event whose first key has not moved yet is decided where it is.

use data_encoding::HEXLOWER;
use redis::Cmd;
use sha1::{Digest, Sha1};

/// A script and the name under which a server that has seen it knows it.
pub(super) struct Script {
    text: String,
    sha: String,
}

impl Script {
    fn new(body: &str) -> Self {
        let text = format!("{READ}{body}");
        let sha = HEXLOWER.encode(&Sha1::digest(text.as_bytes()));
        Self { text, sha }
    }
}

/// All of them.
pub(super) struct Scripts {
    pub(super) claim: Script,
    pub(super) mark: Script,
    pub(super) release: Script,
    pub(super) peek: Script,
    pub(super) forget: Script,
    pub(super) probe: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            claim: Script::new(CLAIM),
            mark: Script::new(MARK),
            release: Script::new(RELEASE),
            peek: Script::new(PEEK),
            forget: Script::new(FORGET),
            probe: Script::new(PROBE),
        }
    }
}

/// How a script is named to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// By its hash.
    Hash,
    /// In full; the server remembers it.
    Text,
}

/// Which keys are declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Declared {
    Both,
    First,
}

/// One question about one event, in every form in which it may have to be asked.
pub(super) struct Question<'a> {
    script: &'a Script,
    /// The event's two keys.
    keys: [String; 2],
    arguments: Vec<String>,
}

impl<'a> Question<'a> {
    /// `script`, asked about the slot whose first key is `slot` and a body.
    pub(super) fn new(script: &'a Script, slot: String, fingerprint: String) -> Self {
        let own = format!("{slot}:{fingerprint}");
        Self { script, keys: [slot, own], arguments: vec![fingerprint] }
    }

    /// The same with further arguments.
    pub(super) fn with<const N: usize>(mut self, more: [String; N]) -> Self {
        self.arguments.extend(more);
        self
    }

    /// The key that says which slot it is about.
    pub(super) fn key(&self) -> &str {
        let [first, _] = &self.keys;
        first
    }

    pub(super) fn command(&self, by: By, declared: Declared) -> Cmd {
        let [first, second] = &self.keys;
        let (name, script) = match by {
            By::Hash => ("EVALSHA", &self.script.sha),
            By::Text => ("EVAL", &self.script.text),
        };
        let mut command = redis::cmd(name);
        command.arg(script);
        match declared {
            Declared::Both => command.arg(2).arg(first).arg(second),
            Declared::First => command.arg(1).arg(first),
        };
        command.arg(&self.arguments);
        command
    }
}

/// What all scripts begin with: the two keys, and reading a key as state, owner and fingerprint. `ARGV[1]` is the
/// fingerprint in every script.
const READ: &str = "
local slot, own = KEYS[1], KEYS[1] .. ':' .. ARGV[1]
local function read(key)
  local held = redis.call('GET', key)
  if not held then return nil end
  return string.match(held, '^(%a)|([^|]*)|([^|]*)$')
end
";

/// ARGV: fingerprint, owner, lease, how long to remember. A claim that is the owner's already is taken again: it is the
/// repeat of a call whose answer was not heard.
const CLAIM: &str = "
local function take(key, state)
  redis.call('SET', key, state .. '|' .. ARGV[2] .. '|' .. ARGV[1], 'PX', ARGV[3] + ARGV[4])
end
local function ask(key, state, owner)
  if state == 'm' then return 'duplicate' end
  if owner == ARGV[2] and state ~= 'p' then
    take(key, state)
    return state == 'f' and 'lapsed' or 'new'
  end
  if state == 'p' or redis.call('PTTL', key) <= tonumber(ARGV[4]) then
    take(key, 'f')
    return 'lapsed'
  end
  return 'in_flight'
end
local state, owner, fingerprint = read(slot)
if state and fingerprint == ARGV[1] then return ask(slot, state, owner) end
local known, holder = read(own)
if known then return ask(own, known, holder) end
if not state then
  take(slot, 'c')
  return 'new'
end
take(own, 'c')
return 'conflict'
";

/// ARGV: fingerprint, owner, ttl. That an event was processed is true whoever holds its claim; a claim on another body
/// is not touched. Who was first stays named: answers whether that is another owner.
const MARK: &str = "
local key = slot
local state, owner, fingerprint = read(slot)
if not state or fingerprint ~= ARGV[1] then
  local known, holder = read(own)
  if state or known then key = own end
  state, owner = known, holder
end
local elsewhere = state and owner ~= ARGV[2]
if state ~= 'm' or redis.call('PTTL', key) < tonumber(ARGV[3]) then
  redis.call('SET', key, 'm|' .. (elsewhere and owner or ARGV[2]) .. '|' .. ARGV[1], 'PX', ARGV[3])
end
return elsewhere and 1 or 0
";

/// ARGV: fingerprint, owner, whether it may have been processed, how long to remember. Only the owner's own claim.
const RELEASE: &str = "
for _, key in ipairs({slot, own}) do
  local state, owner, fingerprint = read(key)
  if (state == 'c' or state == 'f') and owner == ARGV[2] and fingerprint == ARGV[1] then
    if state == 'f' or ARGV[3] == 'perhaps' then
      redis.call('SET', key, 'p|' .. ARGV[2] .. '|' .. ARGV[1], 'PX', ARGV[4])
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
for _, key in ipairs({slot, own}) do
  local state, owner, fingerprint = read(key)
  if state and fingerprint == ARGV[1] then return {state, redis.call('PTTL', key)} end
end
return {'', 0}
";

/// ARGV: fingerprint.
const FORGET: &str = "
for _, key in ipairs({slot, own}) do
  local state, owner, fingerprint = read(key)
  if (state == 'm' or state == 'p') and fingerprint == ARGV[1] then return redis.call('DEL', key) end
end
return 0
";

/// ARGV: nothing, whether replicas are waited for. Everything that the others do, with a key that is not there: a write
/// that changes nothing. Where replicas are waited for it has to be one that reaches them (Valkey answers a `WAIT`
/// behind no such write at once).
const PROBE: &str = "
read(slot)
if ARGV[2] == 'copied' then
  redis.call('SET', slot, '', 'PX', 1000)
else
  redis.call('SET', slot, '', 'XX', 'PX', 1)
end
redis.call('DEL', slot)
return redis.call('PTTL', slot)
";

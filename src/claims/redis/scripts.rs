//! The questions that Redis is asked, each decided by it in one step. What the keys are called is `mod.rs`'s business.
//!
//! Both keys of an event are declared as long as that can be. While a slot of a cluster moves, only questions about
//! one key are answered: then the second name is built from the first. Every script reads the first key first and the
//! second only if it has to, so that an event whose first key has not moved yet is decided where it is. Of many events at
//! once, which one server has, only the first keys are declared; each is decided as it would be alone, one after the other.
//!
//! Nearly every question may be asked again by who has not heard the answer: a claim is its owner's still, a mark goes on naming
//! who was first, and what is let go stays so. To forget is not asked again: it would take away what was marked meanwhile.

use data_encoding::HEXLOWER;
use redis::Cmd;
use sha1::{Digest, Sha1};
use smallvec::SmallVec;
use uuid::Uuid;

/// A script and the name under which a server that has seen it knows it.
pub(super) struct Script {
    text: String,
    sha: String,
    /// Whether who has not heard the answer may ask again.
    pub(super) again: Again,
    pub(super) counts: Counts,
}

/// When the answer to a question counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counts {
    AtOnce,
    /// As soon as `wait_replicas` replicas have what was written.
    Copied,
}

/// Whether a question may be asked again, of servers found anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    May,
    MayNot,
}

impl Script {
    fn new(head: &str, body: &str) -> Self {
        let text = format!("{head}{body}");
        let sha = HEXLOWER.encode(&Sha1::digest(text.as_bytes()));
        Self { text, sha, again: Again::May, counts: Counts::AtOnce }
    }

    fn copied(self) -> Self {
        Self { counts: Counts::Copied, ..self }
    }

    fn asked_once(self) -> Self {
        Self { again: Again::MayNot, ..self }
    }

    fn command(&self, by: By) -> Cmd {
        let (name, script) = match by {
            By::Hash => ("EVALSHA", &self.sha),
            By::Text => ("EVAL", &self.text),
        };
        let mut command = redis::cmd(name);
        command.arg(script);
        command
    }
}

/// All of them.
pub(super) struct Scripts {
    pub(super) claim: Script,
    pub(super) claim_all: Script,
    pub(super) mark: Script,
    pub(super) mark_all: Script,
    pub(super) release: Script,
    pub(super) peek: Script,
    pub(super) forget: Script,
    pub(super) probe: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            claim: Script::new(CLAIMS_ONE, CLAIM).copied(),
            claim_all: Script::new(CLAIMS_ONE, CLAIM_ALL).copied(),
            mark: Script::new(MARKS_ONE, MARK),
            mark_all: Script::new(MARKS_ONE, MARK_ALL),
            release: Script::new(READ, RELEASE),
            peek: Script::new(READ, PEEK),
            forget: Script::new(READ, FORGET).asked_once(),
            probe: Script::new(READ, PROBE).copied(),
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

/// What a question says beside the fingerprint.
#[derive(Clone, Copy, Debug)]
pub(super) enum Word {
    Owner(Uuid),
    Number(u64),
    Text(&'static str),
}

impl Word {
    fn add(self, command: &mut Cmd) {
        match self {
            Self::Owner(owner) => command.arg(&*owner.as_simple().encode_lower(&mut Uuid::encode_buffer())),
            Self::Number(number) => command.arg(number),
            Self::Text(text) => command.arg(text),
        };
    }
}

/// One question about one event, in every form in which it may have to be asked.
pub(super) struct Question {
    /// The event's second key, which begins with the first and ends with the fingerprint.
    own: String,
    first: usize,
    words: SmallVec<[Word; 3]>,
}

impl Question {
    /// About the slot whose first key is `slot` and a body.
    pub(super) fn new(slot: String, fingerprint: &str) -> Self {
        let (first, mut own) = (slot.len(), slot);
        own.extend([":", fingerprint]);
        Self { own, first, words: SmallVec::new() }
    }

    /// The same with further words.
    pub(super) fn with<const N: usize>(mut self, more: [Word; N]) -> Self {
        self.words.extend(more);
        self
    }

    /// About the same event and of the same owner, who is named first, with other words behind that.
    pub(super) fn of_the_same_owner<const N: usize>(&self, more: [Word; N]) -> Self {
        let words = self.words.iter().copied().take(1).chain(more).collect();
        Self { own: self.own.clone(), first: self.first, words }
    }

    /// The key that says which slot it is about.
    pub(super) fn key(&self) -> &str {
        self.own.get(..self.first).unwrap_or_default()
    }

    fn fingerprint(&self) -> &str {
        self.own.get(self.first + 1..).unwrap_or_default()
    }

    pub(super) fn command(&self, script: &Script, by: By, declared: Declared) -> Cmd {
        let mut command = script.command(by);
        match declared {
            Declared::Both => command.arg(2).arg(self.key()).arg(&self.own),
            Declared::First => command.arg(1).arg(self.key()),
        };
        self.say(&mut command);
        command
    }

    /// Adds what it says about its event.
    fn say(&self, command: &mut Cmd) {
        command.arg(self.fingerprint());
        self.words.iter().for_each(|word| word.add(command));
    }

    /// Many of them as one, for a script that takes many and a server that has all their keys.
    pub(super) fn together<'q>(
        questions: impl ExactSizeIterator<Item = &'q Self> + Clone,
        script: &Script,
        by: By,
    ) -> Cmd {
        let mut command = script.command(by);
        command.arg(questions.len());
        for question in questions.clone() {
            command.arg(question.key());
        }
        questions.for_each(|question| question.say(&mut command));
        command
    }
}

/// What most scripts begin with: the two keys, and reading a key as state, owner and fingerprint. `ARGV[1]` is the
/// fingerprint in every one of these.
const READ: &str = "
local slot, own = KEYS[1], KEYS[1] .. ':' .. ARGV[1]
local function read(key)
  local held = redis.call('GET', key)
  if not held then return nil end
  return string.match(held, '^(%a)|([^|]*)|([^|]*)$')
end
";

/// What claiming scripts begin with. A claim that is the owner's already is taken again: it is the repeat of a call whose
/// answer was not heard. Answers with a letter: `n` new, `d` duplicate, `o` of another body than the first (a conflict), `i` in
/// flight, `l` lapsed.
const CLAIMS_ONE: &str = "
local call = redis.call
local function claim(slot, print, owner, kept, remember)
  local own = slot .. ':' .. print
  local about = '|' .. owner .. '|' .. print
  local held = call('GET', slot)
  local other = (not held or string.sub(held, -#print) ~= print) and call('GET', own)
  if not held and not other then
    call('SET', slot, 'c' .. about, 'PX', kept)
    return 'n'
  end
  local function take(key, state)
    call('SET', key, state .. about, 'PX', kept)
  end
  local function ask(key, state, holder)
    if state == 'm' then return 'd' end
    if holder == owner and state ~= 'p' then
      take(key, state)
      return state == 'f' and 'l' or 'n'
    end
    if state == 'p' or call('PTTL', key) <= tonumber(remember) then
      take(key, 'f')
      return 'l'
    end
    return 'i'
  end
  local function read(held)
    if held then return string.match(held, '^(%a)|([^|]*)|([^|]*)$') end
  end
  local state, holder, seen = read(held)
  if state and seen == print then return ask(slot, state, holder) end
  local known, keeper = read(other)
  if known then return ask(own, known, keeper) end
  if not state then
    take(slot, 'c')
    return 'n'
  end
  take(own, 'c')
  return 'o'
end
";

/// ARGV: fingerprint, owner, how long the key is kept, how much of that comes after the lease.
const CLAIM: &str = "
return claim(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4])
";

/// KEYS: the first key of each event. ARGV: of each what a claim of one has. Answers with all letters.
const CLAIM_ALL: &str = "
local said = {}
for at, slot in ipairs(KEYS) do
  local last = at * 4
  said[at] = claim(slot, ARGV[last - 3], ARGV[last - 2], ARGV[last - 1], ARGV[last])
end
return table.concat(said)
";

/// What marking scripts begin with. That an event was processed is true whoever holds its claim; a claim on another body
/// is not touched. Who was first stays named: answers whether that is another owner.
const MARKS_ONE: &str = "
local call = redis.call
local function mark(slot, print, owner, ttl)
  local about = '|' .. owner .. '|' .. print
  local held = call('GET', slot)
  if held == 'c' .. about then
    call('SET', slot, 'm' .. about, 'PX', ttl)
    return 0
  end
  local function part(held)
    if held then return string.match(held, '^(%a)|([^|]*)|([^|]*)$') end
  end
  local key = slot
  local state, holder, seen = part(held)
  if not state or seen ~= print then
    local own = slot .. ':' .. print
    local known, keeper = part(call('GET', own))
    if state or known then key = own end
    state, holder = known, keeper
  end
  local elsewhere = state and holder ~= owner
  if state ~= 'm' or call('PTTL', key) < tonumber(ttl) then
    call('SET', key, 'm|' .. (elsewhere and holder or owner) .. '|' .. print, 'PX', ttl)
  end
  return elsewhere and 1 or 0
end
";

/// ARGV: fingerprint, owner, ttl.
const MARK: &str = "
return mark(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
";

/// KEYS: the first key of each event. ARGV: fingerprint, owner and ttl of each.
const MARK_ALL: &str = "
for at, slot in ipairs(KEYS) do
  local last = at * 3
  mark(slot, ARGV[last - 2], ARGV[last - 1], ARGV[last])
end
return 0
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

//! Who sends bad signatures, and how many: a source whose requests fail their check again and again is turned away for a
//! while before its bodies are read and hashed. It refuses nobody for good and never a source whose signatures verified.
//!
//! Bounds: [`BURST`] bad signatures of a source at once and one in [`EVERY`] after that are checked, of long bodies as many
//! fewer as they cost more; twice
//! [`MOST_SOURCES`] sources of either kind are remembered, those that were not seen for longest go first. A source that
//! is forgotten begins anew, which costs the gateway a burst and no sender anything.
//!
//! Behind a balancer that nobody named many senders look like one source. Of such a source nobody is turned away by chance
//! alone: past the burst its requests with short bodies are checked one after the other at the same pace, in the order in
//! which they came ([`Forgeries::place`]), so that an honest one has its turn, and with it credit for all of them.
//!
//! Who is turned away with a long body is told so after [`PAUSE`]: until then it sends no more than the socket holds, so that
//! a flood of such bodies takes the time of its senders and not of the machine.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::Instant;

use super::connections::Source;
use crate::domain::refusal::Refusal;

/// Bad signatures of a source that are checked at once: a sender with a new secret that was not told to us.
pub(super) const BURST: u32 = 1000;
/// Past the burst, one in this time is checked.
const EVERY: Duration = Duration::from_millis(10);
/// A bad signature under a body of so many bytes counts twice, under one of twice as many thrice.
const DEAR_BYTES: usize = 16 * 1024;
/// The longest body of a request that waits for its turn: a bad signature under it counts once.
pub(super) const SHORT_BYTES: usize = DEAR_BYTES - 1;
/// How long the answer waits to one that is turned away and has not said that its body is short.
pub(super) const PAUSE: Duration = Duration::from_millis(100);
/// The longest wait for a turn: as many wait as a source may have connections by default.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// For so long after a signature of a source verified, none of its requests is turned away.
const CREDIT: Duration = Duration::from_secs(24 * 3600);
/// Sources that are remembered, twice over, of those that failed and of those that verified.
const MOST_SOURCES: usize = 4096;

/// The sources. A lock is held for a look-up, never across an await.
#[derive(Default)]
pub(crate) struct Forgeries {
    /// Until when the bad signatures of a source, at their pace, last.
    spent_until: Mutex<Remembered>,
    /// When a signature of a source verified last.
    verified_at: Mutex<Remembered>,
    /// The last place in the queue of a source that was given away.
    last_place: Mutex<Remembered>,
}

/// When a request of a source that many may share is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// At once.
    None,
    /// At its turn. Its body may have [`SHORT_BYTES`].
    At(Instant),
    /// Not now: the queue is longer than it can wait, or its body is long.
    TurnedAway,
}

impl Forgeries {
    /// Whether `source` is turned away now, its body unread.
    pub(crate) fn turns_away(&self, source: Source, now: Instant) -> bool {
        let spent = lock(&self.spent_until).get(source).is_some_and(|until| until > now + EVERY * BURST);
        spent && !self.has_credit(source, now)
    }

    /// The place of a request of `source`, which many may share, with a body of `announced` bytes, `None` if only its chunks
    /// say; it can wait for `patience`.
    pub(crate) fn place(&self, source: Source, announced: Option<u64>, patience: Duration, now: Instant) -> Place {
        if self.has_credit(source, now) {
            return Place::None;
        }
        let free = lock(&self.spent_until).get(source).and_then(|until| until.checked_sub(EVERY * BURST));
        let mut last = lock(&self.last_place);
        let behind = last.get(source).map(|last| last + EVERY);
        let turn = free.max(behind).unwrap_or(now);
        if turn <= now {
            return Place::None;
        }
        if !announced.is_none_or(is_short) || turn > now + patience.min(LONGEST_WAIT) {
            return Place::TurnedAway;
        }
        last.set(source, turn);
        Place::At(turn)
    }

    fn has_credit(&self, source: Source, now: Instant) -> bool {
        lock(&self.verified_at).get(source).is_some_and(|at| now.saturating_duration_since(at) < CREDIT)
    }

    /// A request of `source` with a body of `body_bytes` was checked: `refusal` if its signature was bad.
    pub(crate) fn note(&self, source: Source, refusal: Option<Refusal>, body_bytes: usize, now: Instant) {
        match refusal {
            None => lock(&self.verified_at).set(source, now),
            Some(refusal) if is_of_signature(refusal) && !self.has_credit(source, now) => {
                let mut spent = lock(&self.spent_until);
                let until = spent.get(source).unwrap_or(now).max(now);
                let times = u32::try_from(1 + body_bytes / DEAR_BYTES).unwrap_or(u32::MAX);
                spent.set(source, until + EVERY.saturating_mul(times.min(BURST)));
            }
            Some(_) => {}
        }
    }
}

/// Whether a bad signature under a body of `bytes` counts once.
pub(super) fn is_short(bytes: u64) -> bool {
    usize::try_from(bytes).is_ok_and(|bytes| bytes <= SHORT_BYTES)
}

fn lock(these: &Mutex<Remembered>) -> std::sync::MutexGuard<'_, Remembered> {
    these.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whose bad signatures are counted together: the client that a trusted proxy names, an IPv6 one by its network of 64 bits.
/// `None`: a trusted proxy that names nobody.
pub(crate) fn source_of(client: IpAddr, proxies: &[IpNet]) -> Option<Source> {
    let named = proxies.iter().any(|net| net.contains(&client.to_canonical()));
    (!named).then(|| Source::of_client(client))
}

/// Whether `client` may be a balancer in front of many senders that nobody named: whoever connects from an address that the
/// internet does not route is taken for one as long as no proxy is named, as for connections.
pub(crate) fn is_shared(client: IpAddr, proxies: &[IpNet]) -> bool {
    Source::of(client, proxies).is_none()
}

/// Whether it is the signature that is wrong. A validly signed request with a wrong time is no forgery.
const fn is_of_signature(refusal: Refusal) -> bool {
    match refusal {
        Refusal::SignatureMissing
        | Refusal::SignatureMalformed
        | Refusal::SignatureMismatch
        | Refusal::SignatureRepeated => true,
        Refusal::NoRoute
        | Refusal::MethodNotAllowed
        | Refusal::BadRequest
        | Refusal::BodyTooLarge
        | Refusal::HeaderTooLarge
        | Refusal::RequestTimeout
        | Refusal::SourceNotAllowed
        | Refusal::TimestampMissing
        | Refusal::TimestampMalformed
        | Refusal::TimestampFuture
        | Refusal::TimestampStale
        | Refusal::EventTooOld => false,
    }
}

/// A moment for each of the sources seen last: two generations, the older of which goes when the younger is full.
#[derive(Default)]
struct Remembered {
    young: HashMap<Source, Instant>,
    old: HashMap<Source, Instant>,
}

impl Remembered {
    fn get(&self, source: Source) -> Option<Instant> {
        self.young.get(&source).or_else(|| self.old.get(&source)).copied()
    }

    fn set(&mut self, source: Source, moment: Instant) {
        if self.young.len() >= MOST_SOURCES && !self.young.contains_key(&source) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(source, moment);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAD: Option<Refusal> = Some(Refusal::SignatureMismatch);

    fn source(text: &str) -> Source {
        source_of(text.parse().unwrap(), &[]).unwrap()
    }

    fn forge(forgeries: &Forgeries, source: Source, count: u32, now: Instant) {
        (0..count).for_each(|_| forgeries.note(source, BAD, 0, now));
    }

    #[test]
    fn past_a_burst_bad_signatures_have_a_pace() {
        let (forgeries, now) = (Forgeries::default(), Instant::now());
        let attacker = source("203.0.113.1");
        forge(&forgeries, attacker, BURST, now);
        assert!(!forgeries.turns_away(attacker, now), "a burst is let in");
        forge(&forgeries, attacker, 1, now);
        assert!(forgeries.turns_away(attacker, now));
        assert!(!forgeries.turns_away(source("203.0.113.2"), now), "nobody else is concerned");
        assert!(!forgeries.turns_away(attacker, now + EVERY), "one more is let in");
        forge(&forgeries, attacker, 1, now + EVERY);
        assert!(forgeries.turns_away(attacker, now + EVERY), "and no two");
        assert!(!forgeries.turns_away(attacker, now + Duration::from_secs(60)), "it is not for good");
    }

    #[test]
    fn bad_signatures_under_long_bodies_are_as_many_fewer_as_they_cost_more() {
        let (forgeries, now) = (Forgeries::default(), Instant::now());
        let attacker = source("203.0.113.1");
        let mut checked = 0;
        while !forgeries.turns_away(attacker, now) {
            forgeries.note(attacker, BAD, 1024 * 1024, now);
            checked += 1;
        }
        assert_eq!(checked, 16);
    }

    #[test]
    fn who_signs_well_is_never_turned_away() {
        let (forgeries, now) = (Forgeries::default(), Instant::now());
        let shared = source("203.0.113.1");
        forge(&forgeries, shared, 10 * BURST, now);
        assert!(forgeries.turns_away(shared, now));
        forgeries.note(shared, None, 0, now);
        assert!(!forgeries.turns_away(shared, now), "whatever came before");
        forge(&forgeries, shared, 10 * BURST, now);
        assert!(!forgeries.turns_away(shared, now + CREDIT / 2), "and whatever comes after");
        let later = now + CREDIT;
        forge(&forgeries, shared, 10 * BURST, later);
        assert!(forgeries.turns_away(shared, later), "but not for ever");
    }

    #[test]
    fn who_shares_a_source_with_forgers_waits_for_its_turn_and_no_longer_than_it_can() {
        let (forgeries, now) = (Forgeries::default(), Instant::now());
        let shared = source("10.0.0.1");
        let (short, patience) = (Some(1000), Duration::from_secs(5));
        assert_eq!(forgeries.place(shared, short, patience, now), Place::None);
        forge(&forgeries, shared, BURST, now);
        assert_eq!(forgeries.place(shared, short, patience, now), Place::None, "a burst is let in");
        forge(&forgeries, shared, 1, now);
        for turn in 1..=500 {
            assert_eq!(forgeries.place(shared, short, patience, now), Place::At(now + EVERY * turn));
        }
        assert_eq!(forgeries.place(shared, short, patience, now), Place::TurnedAway, "it cannot wait for so long");
        let endless = Duration::from_secs(3600);
        let mut turns = 500;
        while let Place::At(turn) = forgeries.place(shared, None, endless, now) {
            turns += 1;
            assert_eq!(turn, now + EVERY * turns);
        }
        assert_eq!(turns, 1000, "nobody waits longer than the longest wait");
        assert_eq!(forgeries.place(shared, Some(16 * 1024), endless, now + LONGEST_WAIT / 2), Place::TurnedAway);
        assert_eq!(forgeries.place(source("10.0.0.2"), short, patience, now), Place::None, "nobody else waits");
        let later = now + EVERY * 600;
        let behind = forgeries.place(shared, short, patience, later);
        assert_eq!(behind, Place::At(now + EVERY * 1001), "who comes later does not overtake");
        forgeries.note(shared, None, 0, later);
        assert_eq!(forgeries.place(shared, None, patience, later), Place::None, "one good signature is for all");
    }

    #[test]
    fn the_pace_of_a_shared_source_is_that_of_any_other() {
        let (forgeries, start) = (Forgeries::default(), Instant::now());
        let shared = source("10.0.0.1");
        forge(&forgeries, shared, BURST, start);
        let end = start + Duration::from_secs(20);
        // A hundred forgers, each of whom comes again as soon as it was told.
        let mut forgers = vec![start; 100];
        let mut checked = 0;
        while let Some(forger) = forgers.iter_mut().min().filter(|at| **at < end) {
            match forgeries.place(shared, Some(0), Duration::from_secs(10), *forger) {
                Place::None => {}
                Place::At(turn) => *forger = turn,
                Place::TurnedAway => panic!("there is room for a hundred"),
            }
            forge(&forgeries, shared, 1, *forger);
            checked += 1;
        }
        assert!((1900..=2200).contains(&checked), "{checked} were checked in 20 s");
    }

    #[test]
    fn only_a_bad_signature_counts_against_its_source() {
        let (forgeries, now) = (Forgeries::default(), Instant::now());
        let sender = source("203.0.113.1");
        let others = Refusal::ALL.into_iter().filter(|refusal| !refusal.as_str().starts_with("signature_"));
        let mut count = 0;
        for refusal in others {
            (0..1000).for_each(|_| forgeries.note(sender, Some(refusal), 0, now));
            count += 1;
        }
        assert_eq!(count, 12);
        assert!(!forgeries.turns_away(sender, now));
    }

    #[test]
    fn a_source_is_a_client_or_its_network_and_no_proxy() {
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:2"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_ne!(source("10.0.0.1"), source("10.0.0.2"), "nobody was named a proxy");
        let proxies: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        assert_eq!(source_of("10.0.0.1".parse().unwrap(), &proxies), None);
        assert_eq!(source_of("::ffff:10.0.0.1".parse().unwrap(), &proxies), None);
        assert!(source_of("203.0.113.1".parse().unwrap(), &proxies).is_some());
    }

    #[test]
    fn what_is_remembered_is_bounded_and_who_comes_again_stays() {
        let (forgeries, now) = (Forgeries::default(), Instant::now());
        let known = source("203.0.113.1");
        forgeries.note(known, None, 0, now);
        for number in 0..50_000_u32 {
            forge(&forgeries, source(&std::net::Ipv4Addr::from_bits(number).to_string()), 1, now);
        }
        let spent = lock(&forgeries.spent_until);
        assert!(spent.young.len() + spent.old.len() <= 2 * MOST_SOURCES);
        drop(spent);
        forge(&forgeries, known, 10 * BURST, now);
        assert!(!forgeries.turns_away(known, now), "forgers cannot push out who verified");
    }
}

//! The dedup protocol in a model: two gateways, the shared store, their local tables, an application and a sender that
//! repeats itself, with crashes, replies that are lost, calls that take effect late, leases that lapse and a store
//! that is emptied. Every interleaving within the stated number of incidents is walked through.
//!
//! The model's rules are checked against what they stand for: `script` against a real Redis, `local` against the
//! crate's own stores, by histories of chance. What it leaves out: bodies that differ, ttl's that end, and a disk that
//! cannot be read; for those see `tests/claims_contract.rs` and `tests/simulation.rs`.
//!
//! Invariant checked at every step: a mark, and a 2xx, stand for an event that was accepted or is on disk; it is sent
//! again only after an incident, no oftener than there were incidents, and unflagged only where docs/DEDUP.md says so;
//! and once nothing is under way no claim is left that a repeat would have to wait for.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub,
    reason = "test code: a failed expectation is the result"
)]

#[path = "dedup_model/differential.rs"]
mod differential;
#[path = "dedup_model/explore.rs"]
mod explore;
#[path = "dedup_model/local.rs"]
mod local;
#[path = "dedup_model/model.rs"]
mod model;
#[path = "promises/world/ports.rs"]
mod ports;
#[path = "dedup_model/script.rs"]
mod script;

use explore::{Found, explore};
use local::Policy;
use model::{Ack, Incidents, Plan, Windows};
use script::{Mutant, Rules};

/// The everyday size: which incidents, how many of each, in one history. `all` bounds their sum.
const EVERYDAY: Incidents =
    Incidents { crashes: 1, store_faults: 2, lapses: 1, emptied: 1, silent: 1, commits: 1, all: 2 };

/// Two gateways. `HOOKGATE_TORTURE` allows one incident more.
fn plan(ack: Ack, policy: Policy) -> Plan {
    let all = EVERYDAY.all + u8::from(is_torture());
    let incidents = Incidents { all, lapses: EVERYDAY.lapses + u8::from(is_torture()), ..EVERYDAY };
    let copies = if ack == Ack::Pass { 3 } else { 2 };
    Plan { replicas: 2, copies, sendings: 4, ack, policy, incidents, rules: Rules::default() }
}

fn is_torture() -> bool {
    #[allow(clippy::disallowed_methods, reason = "the size of a test is the environment's")]
    std::env::var("HOOKGATE_TORTURE").is_ok()
}

fn holds(plan: &Plan) -> Found {
    let found = explore(plan);
    if let Some(broken) = &found.broken {
        panic!("{plan:?}\n{broken}");
    }
    eprintln!(
        "{:?} {:?}, {} replica(s): {} states, {} steps, longest shortest history {} steps",
        plan.ack, plan.policy, plan.replicas, found.states, found.steps, found.depth
    );
    found
}

#[test]
fn an_event_is_neither_lost_nor_sent_again_without_a_cause_where_failures_are_passed_on() {
    let found = holds(&plan(Ack::Pass, Policy::Local));
    assert!(found.states > 20_000, "only {} states", found.states);
    let all = Windows { flagged: true, store: true };
    assert_eq!(found.windows, all, "each window of the page on dedup is met");
}

#[test]
fn an_event_is_neither_lost_nor_sent_again_without_a_cause_where_failures_are_kept() {
    let found = holds(&plan(Ack::Absorb, Policy::Local));
    assert!(found.states > 20_000, "only {} states", found.states);
}

#[test]
fn the_same_holds_where_a_store_that_is_down_is_a_refusal_or_no_matter() {
    for policy in [Policy::Refuse, Policy::Accept] {
        holds(&plan(Ack::Pass, policy));
    }
}

#[test]
fn a_single_gateway_sends_nothing_twice_whatever_becomes_of_the_store() {
    for ack in [Ack::Pass, Ack::Absorb] {
        let incidents = Incidents { store_faults: 3, emptied: 2, all: 4, ..Incidents::none() };
        let found = holds(&Plan { replicas: 1, incidents, ..plan(ack, Policy::Local) });
        assert_eq!(found.windows, Windows::default(), "no second sending at all");
    }
}

#[test]
fn without_an_incident_an_event_is_sent_once() {
    for ack in [Ack::Pass, Ack::Absorb] {
        let found = holds(&Plan { copies: 4, incidents: Incidents::none(), ..plan(ack, Policy::Local) });
        assert_eq!(found.windows, Windows::default());
    }
}

#[test]
fn a_protocol_with_a_fault_is_caught() {
    for mutant in Mutant::ALL {
        let ways = [(Ack::Pass, Policy::Local), (Ack::Absorb, Policy::Local), (Ack::Pass, Policy::Refuse)];
        let caught = ways.into_iter().find_map(|(ack, policy)| {
            let rules = Rules::with(mutant);
            explore(&Plan { rules, ..plan(ack, policy) }).broken
        });
        let broken = caught.unwrap_or_else(|| panic!("{mutant:?} was not caught"));
        eprintln!("{mutant:?}: {}", broken.lines().next().unwrap_or_default());
    }
}

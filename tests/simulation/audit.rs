//! The auditor: reads what was seen in a history and says which promises it breaks. It asks the gateway nothing.

use std::time::Duration;

use hookgate::domain::route::{AckMode, Route};
use hookgate::spool::State;

use super::plan::{DiskFault, Plan, StoreTrouble};
use super::run::Happened;
use super::world::{Request, Run, Seen, Sending, State as Facts, Way};

/// Timers round up to a millisecond.
const ROUNDING: u64 = 3;
/// Longest time between an acceptance and its mark in the queue of a writer that has nothing else to do.
const MARKING: u64 = 15;

/// Longest time from the end of a fault of the disk to the writing of what it had kept in memory: a probe, two idle looks.
const MENDING: u64 = 6000;

/// Everything that is wrong with a history.
pub fn complaints(happened: &Happened) -> Vec<String> {
    let world = &happened.world;
    let facts = world.lock();
    let mut broken = happened.broken.clone();
    for event in 0..world.plan.events.len() {
        let name = {
            let planned = &world.plan.events[event];
            format!("{}/e{}#{event}", world.plan.routes[planned.route].name, planned.id)
        };
        let route = &*world.plan.routes[world.plan.events[event].route];
        let one = Event {
            facts: &facts,
            plan: &world.plan,
            route,
            requests: facts.requests.iter().filter(|request| request.event == event).collect(),
            sendings: facts.sendings.iter().filter(|sending| sending.event == event).collect(),
            on_disk: happened.on_disk.iter().filter(|(on, _)| *on == event).map(|(_, state)| *state).collect(),
        };
        broken.extend(one.complaints().into_iter().map(|complaint| format!("{complaint} ({name})")));
    }
    broken.extend(disorder(happened, &facts));
    broken
}

/// All that is known of one event.
struct Event<'a> {
    facts: &'a Facts,
    plan: &'a Plan,
    route: &'a Route,
    requests: Vec<&'a Request>,
    sendings: Vec<&'a Sending>,
    on_disk: Vec<State>,
}

impl Event<'_> {
    fn complaints(&self) -> Vec<String> {
        let mut broken = Vec::new();
        self.loss(&mut broken);
        self.replies(&mut broken);
        self.copies(&mut broken);
        for (place, sending) in self.sendings.iter().enumerate() {
            self.repetition(&self.sendings[..place], sending, &mut broken);
        }
        broken
    }

    /// P1: what was acknowledged was accepted or is on disk.
    fn loss(&self, broken: &mut Vec<String>) {
        let acknowledged = self.requests.iter().filter_map(|request| request.reply).find(|reply| reply.1.is_success());
        let accepted = self.sendings.iter().any(|sending| sending.seen() == Some(Seen::Accepted));
        let kept = self.on_disk.iter().any(|state| matches!(state, State::Pending | State::InFlight | State::Dead));
        if let Some((at, status, disposition)) = acknowledged
            && !accepted
            && !kept
        {
            broken.push(format!("P1: acknowledged at {at} ({status} {disposition}), never accepted, not on disk"));
        }
        if self.on_disk.contains(&State::Damaged) {
            broken.push("P4: a record is damaged".to_owned());
        }
        if self.on_disk.iter().filter(|state| **state != State::Dead).count() > 1 {
            broken.push("P5: it is on disk twice".to_owned());
        }
    }

    /// P2: no 4xx but the application's. P12: every reply in time.
    fn replies(&self, broken: &mut Vec<String>) {
        let budget = self.route.ack.budget.saturating_sub(self.route.ack.reserve);
        let budget = u64::try_from(budget.as_millis()).unwrap() + ROUNDING;
        for request in &self.requests {
            if let Some((at, status, disposition)) = request.reply {
                let apps = matches!(disposition, "app_rejected" | "app_failed");
                let rejected = self.sendings.iter().any(|one| one.seen() == Some(Seen::Rejected));
                if status.is_client_error() && !(apps && (rejected || disposition == "app_failed")) {
                    broken.push(format!("P2: {status} {disposition} at {at} for what is not the sender's doing"));
                }
            }
            let answered = request.reply.map(|reply| reply.0).or(request.closed);
            let took = answered.unwrap_or(self.facts.now()) - request.at;
            if took > budget {
                broken.push(format!("P12: the request of {} was open for {took} ms", request.at));
            }
        }
    }

    /// P6: who came while another copy was in flight got the same class of reply, and the application saw one.
    fn copies(&self, broken: &mut Vec<String>) {
        for (place, first) in self.requests.iter().enumerate() {
            let (Some((until, status, _)), Some(from)) = (first.reply, first.whole) else { continue };
            for (other, second) in self.requests.iter().enumerate() {
                let in_flight = second.whole.is_some_and(|whole| (from..until).contains(&whole));
                let joined = other != place && second.run == first.run && in_flight;
                if let (true, Some((_, other, _))) = (joined, second.reply)
                    && other.is_success() != status.is_success()
                {
                    broken.push(format!("P6: copies of {} and {} got {status} and {other}", first.at, second.at));
                }
            }
            // What reached nobody is tried again meanwhile.
            let reached = |one: &&&Sending| one.end.is_none_or(|(_, how)| how != Seen::Unreachable);
            let seen = self.sendings.iter().filter(|one| (from..until).contains(&one.at) && one.run == first.run);
            let seen = seen.filter(reached);
            if seen.count() > 1 {
                broken.push(format!("P6: sent twice while the request of {} was open", first.at));
            }
        }
    }

    /// P5: no sending beside another; none after an acceptance but in a window, and then flagged.
    fn repetition(&self, before: &[&Sending], sending: &Sending, broken: &mut Vec<String>) {
        let at = sending.at;
        if before.iter().any(|one| one.end.is_none_or(|(end, _)| end > at)) {
            broken.push(format!("P5: sent at {at} while another attempt was running"));
        }
        let perhaps = before.iter().any(|one| matches!(one.seen(), Some(Seen::Accepted | Seen::Unknown)));
        if perhaps && !sending.flagged {
            broken.push(format!("P5: sent at {at} without a flag although it may have been processed"));
        }
        if sending.flagged && !perhaps && self.plan.shared.is_none() && !self.was_unclean(sending.run) {
            broken.push(format!("P5: sent at {at} with a flag although nothing can have been processed"));
        }
        let accepted = before.iter().rev().find(|one| one.seen() == Some(Seen::Accepted));
        if let Some(accepted) = accepted
            && !self.is_excused(accepted)
            && !(self.is_unreadable(at) && self.was_emptied(at))
        {
            let (end, _) = accepted.end.unwrap();
            broken.push(format!("P5: sent at {at} although accepted at {end}"));
        }
    }

    /// Whether a run before this one did not stop cleanly: what came before may have been sent.
    fn was_unclean(&self, run: usize) -> bool {
        self.facts.runs[..run].iter().any(|run| run.ended.is_none_or(|(_, way)| way != Way::Clean))
    }

    /// Whether the disk could not be read at that time.
    fn is_unreadable(&self, at: u64) -> bool {
        let period =
            |fault: &DiskFault| fault.period().is_some_and(|(from, until)| (from..until + MENDING).contains(&at));
        let slow = |began: &u64| (*began..*began + 2500).contains(&at);
        self.plan.disk.iter().any(period) || self.facts.slow_reads.iter().any(slow)
    }

    /// Whether the shared store had forgotten something by then (W4).
    fn was_emptied(&self, at: u64) -> bool {
        let faults = self.plan.shared.as_ref().map_or(&[][..], |(_, faults)| faults);
        faults.iter().any(|fault| fault.way == StoreTrouble::Emptied && fault.from <= at)
    }

    /// Whether the mark of an acceptance may have been lost with the end of its run (W1).
    fn is_excused(&self, accepted: &Sending) -> bool {
        let run = &self.facts.runs[accepted.run];
        let (Some((accepted_at, _)), Some((ended, way))) = (accepted.end, run.ended) else { return false };
        let failed = run.failures.iter().filter(|failure| **failure < ended).max().copied();
        let failing = self.plan.disk.iter().filter_map(|fault| fault.period()).filter(|period| period.0 < ended);
        let mended = failing.map(|period| period.1).max().max(failed).map_or(0, |last| last + MENDING);
        // The shared store is told first, and given 50 ms.
        let marking = if self.plan.shared.is_some() { MARKING + 50 } else { MARKING };
        let written = run.idle_after((accepted_at + marking).max(mended), ended);
        match way {
            Way::Clean => false,
            Way::Kill | Way::CutOff => written.is_none(),
            Way::Power => written.is_none_or(|written| run.log_synced.is_none_or(|synced| synced <= written)),
        }
    }
}

impl Sending {
    fn seen(&self) -> Option<Seen> {
        self.end.map(|(_, seen)| seen)
    }
}

impl Run {
    /// The first moment after `from` and before `until` at which the writer had nothing to do for a while: all that was
    /// asked of it by then was written.
    fn idle_after(&self, from: u64, until: u64) -> Option<u64> {
        let mut moment = from;
        for (begin, answered) in &self.transactions {
            if *begin > moment + MARKING {
                break;
            }
            moment = moment.max(answered.unwrap_or(u64::MAX / 2) + 1);
        }
        (moment + MARKING < until).then_some(moment)
    }
}

/// `order_by`: of two events of one value, the one that was acknowledged later is not accepted before the one that was
/// acknowledged earlier, unless that is a dead letter. Nor is it even sent, if it came after that acknowledgement.
fn disorder(happened: &Happened, facts: &Facts) -> Vec<String> {
    let plan = &happened.world.plan;
    let mut broken = Vec::new();
    for (first, planned) in plan.events.iter().enumerate() {
        let Some(value) = &planned.order else { continue };
        let Some((_, acknowledged)) = acknowledged(facts, first) else { continue };
        if happened.on_disk.iter().any(|(event, state)| *event == first && *state == State::Dead) {
            continue;
        }
        let sendings = facts.sendings.iter().filter(|one| one.event == first && one.seen() == Some(Seen::Accepted));
        let accepted = sendings.filter_map(|one| one.end).map(|end| end.0).min().unwrap_or(u64::MAX);
        for (second, other) in plan.events.iter().enumerate() {
            if second == first || other.route != planned.route || other.order.as_ref() != Some(value) {
                continue;
            }
            let sendings = || facts.sendings.iter().filter(|one| one.event == second && one.at < accepted);
            let came = facts.requests.iter().filter(|one| one.event == second).map(|one| one.at).min();
            if let Some(early) = sendings().next().filter(|_| came.is_some_and(|came| came > acknowledged)) {
                broken.push(format!(
                    "order: #{second} of {value} was sent at {} before #{first}, acknowledged at {acknowledged}",
                    early.at
                ));
            }
            // What was sent for a request that came to nothing counts as never sent; who is told of a duplicate is told of an
            // event that has its place already.
            let (Some((_, earlier)), Some((came, later))) = (settled(facts, first), settled(facts, second)) else {
                continue;
            };
            let in_turn = earlier < later && plan.routes[planned.route].ack.mode != AckMode::Sync;
            let overtakes = |one: &&Sending| one.at >= came && one.seen() == Some(Seen::Accepted);
            if let Some(early) = sendings().find(overtakes).filter(|_| in_turn) {
                broken.push(format!(
                    "order: #{second} of {value}, acknowledged at {later}, was sent at {} and accepted before #{first}, \
                     acknowledged at {earlier}",
                    early.at
                ));
            }
        }
    }
    broken
}

/// When the request came that was acknowledged first, and when that was.
fn acknowledged(facts: &Facts, event: usize) -> Option<(u64, u64)> {
    first_reply(facts, event, |_| true)
}

/// The same, if that was no duplicate's.
fn settled(facts: &Facts, event: usize) -> Option<(u64, u64)> {
    first_reply(facts, event, |disposition| disposition != "duplicate")
        .filter(|one| acknowledged(facts, event) == Some(*one))
}

fn first_reply(facts: &Facts, event: usize, counts: impl Fn(&str) -> bool) -> Option<(u64, u64)> {
    let of_event = facts.requests.iter().filter(|one| one.event == event);
    let replies =
        of_event.filter_map(|one| Some((one.at, one.reply.filter(|reply| reply.1.is_success() && counts(reply.2))?.0)));
    replies.min_by_key(|(_, at)| *at)
}

/// How long histories are, for those who count.
pub fn length(happened: &Happened) -> Duration {
    Duration::from_millis(happened.world.now())
}

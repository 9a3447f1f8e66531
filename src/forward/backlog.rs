//! Deliveries from the disk: a loop per route that takes what is due, some events together, and the attempt of each.
//!
//! An event is picked by one task at a time (`hold`), its attempt is written down before it begins, and its outcome
//! is written down until the disk takes it (`spooled.rs`). What a crash interrupts is due again at the next start, flagged.
//!
//! Events are read together and their attempts written down together, where there is room for more than are sent: a read
//! and a commit have their price, whatever they bring.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::ahead::{Ahead, Picked};
use super::attempt::Sending;
use super::limits::{Held as NoSlot, Lane};
use super::spooled::{ANSWER_BODY, DISK_REST, Hold, SendsAlone, Standing};
use super::{Deliverer, Task};
use crate::domain::event::Event;
use crate::domain::time::Timestamp;
use crate::spool::{DeadReason, Found, Possible, Replay, Settlement, SpoolFault, Stored};

/// Events asked for at once: enough for the default `max_in_flight`, little enough to hold in memory as names.
const BATCH: usize = 64;

/// Events asked for when some are known to have failed: among so many are others, and those come first.
const WIDE_BATCH: usize = 1024;

/// How long a slot waits for the disk before it is given back.
const DISK_PATIENCE: Duration = Duration::from_millis(500);

/// The wait of an event of which a copy is being sent.
const COPY_REST: Duration = Duration::from_secs(5);

/// How often a lane looks again when nothing says when something is due: a safety net, not the way it is woken.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// An event on disk that nobody else picks, with what was got for it.
struct Pick {
    with: Picked,
    hold: Hold,
}

/// An event that was read and is to be sent.
struct Ready {
    with: Picked,
    event: Arc<Event>,
    attempts: u32,
    possible_duplicate: Possible,
    replay: Replay,
    not_before: Timestamp,
    alone: SendsAlone,
    hold: Hold,
}

/// Delivers what is due on `lane` until the lane is replaced or the shutdown begins.
pub(super) async fn drain_lane(deliverer: Deliverer, lane: Arc<Lane>, task: Task) {
    let mut drain = deliverer.0.drain.subscribe();
    loop {
        let all_woken = deliverer.0.wake.notified();
        let woken = lane.woken();
        let salvaged = deliverer.0.spool.salvaged();
        if !deliverer.goes_on(&lane) {
            return drop(task);
        }
        let next = tokio::select! {
            biased;
            next = deliverer.deliver_due(&lane) => next,
            _ = drain.changed() => continue,
            () = deliverer.replaced(&lane) => continue,
        };
        tokio::select! {
            biased;
            () = all_woken => {}
            () = woken => {}
            () = salvaged => {}
            () = tokio::time::sleep_until(next) => {}
            _ = drain.changed() => {}
        }
    }
}

impl Deliverer {
    /// Starts attempts for what is due, as far as slots allow; returns the moment to look again.
    async fn deliver_due(&self, lane: &Arc<Lane>) -> Instant {
        if let Some(until) = self.disk_rests() {
            return until;
        }
        let busy = self.held_count();
        let batch = if lane.knows_failures() { WIDE_BATCH } else { BATCH };
        let mut due = match self.0.spool.due(&lane.route.name, self.0.clock.now(), batch + busy).await {
            Ok(due) => due,
            Err(fault) => return self.cannot_look(lane, &fault),
        };
        lane.failed_last(&mut due.ids);
        // The others are looked for again soon: what comes meanwhile and never failed is not to wait for all of them.
        due.ids.truncate(BATCH + busy);
        let mut free = due.ids.into_iter().filter_map(|id| self.hold(id));
        let mut started = false;
        loop {
            let holds: Vec<Hold> = free.by_ref().take(lane.read_together()).collect();
            if holds.is_empty() {
                break;
            }
            match self.pick(lane, holds).await {
                Ok(picks) if self.goes_on(lane) => self.start(lane, picks),
                Err(NoSlot::Until(moment)) => return moment,
                Ok(_) | Err(NoSlot::Busy) => return Instant::now(),
            }
            started = true;
            if let Some(until) = self.disk_rests() {
                return until;
            }
        }
        if started {
            return Instant::now();
        }
        let wait = due.next.map_or(LOOK_AGAIN, |next| next.since(self.0.clock.now()));
        Instant::now() + wait.min(LOOK_AGAIN)
    }

    /// What is due cannot be read. Yields the moment to look again.
    fn cannot_look(&self, lane: &Lane, fault: &SpoolFault) -> Instant {
        let route = &lane.route.name;
        if let SpoolFault::Damaged(why) = fault {
            self.0.metrics.spool_errors_total.with_label_values(&["damage"]).inc();
            tracing::error!(%route, why,
                "what is due cannot be read and stays on disk: see `hookgate spool verify`");
            return Instant::now() + LOOK_AGAIN;
        }
        tracing::warn!(%route, %fault, "cannot read what is due");
        Instant::now() + DISK_REST
    }

    /// Gets what these events need before they are read.
    async fn pick(&self, lane: &Lane, holds: Vec<Hold>) -> Result<Vec<Pick>, NoSlot> {
        let Some(first) = holds.first().map(Hold::event) else { return Ok(Vec::new()) };
        if lane.reads_ahead() {
            let places = lane.places_ahead(first, holds.len()).await?;
            let pick = |(hold, place)| Pick { with: Picked::Ahead(Ahead::at(place)), hold };
            return Ok(holds.into_iter().zip(places).map(pick).collect());
        }
        // One slot, one event: the others are found again.
        let with = Picked::WithSlot(lane.slot_from_disk(first).await?);
        Ok(holds.into_iter().next().map(|hold| Pick { with, hold }).into_iter().collect())
    }

    fn start(&self, lane: &Arc<Lane>, picks: Vec<Pick>) {
        let (deliverer, on) = (self.clone(), lane.clone());
        self.go_on(lane, async move { deliverer.deliver_again(&on, picks).await });
    }

    /// Has `work` done in a task of its own, which the shutdown waits for. The route's loop is told when it is done and holds
    /// nothing any more.
    fn go_on(&self, lane: &Lane, work: impl Future<Output = ()> + Send + 'static) {
        let (task, route) = (self.track(), lane.route.name.clone());
        tokio::spawn(async move {
            work.await;
            task.wake_route(&route);
            drop::<Task>(task);
        });
    }

    /// Attempts of events on disk: they are read, what need not be sent is settled, and the attempts written down. Each goes
    /// on by itself then.
    async fn deliver_again(&self, lane: &Arc<Lane>, mut picks: Vec<Pick>) {
        while !picks.is_empty() {
            let ids = picks.iter().map(|pick| pick.hold.event()).collect();
            let read = match self.0.spool.load_some(ids).await {
                Ok(read) => read,
                Err(fault) => return self.rest_after(picks, &fault).await,
            };
            let rest = picks.split_off(read.len().min(picks.len()));
            let read = picks.into_iter().zip(read);
            let ready = read.filter_map(|(pick, stored)| self.ready(lane, pick, stored?)).collect();
            self.note_and_send(lane, ready).await;
            picks = rest;
        }
    }

    /// What is to be sent of what was read. All else is seen to.
    fn ready(&self, lane: &Arc<Lane>, mut pick: Pick, stored: Stored) -> Option<Ready> {
        if !self.has_room(&mut pick.with, &stored.event) {
            self.start_with_slot(lane, pick);
            return None;
        }
        let Stored { event, attempts, possible_duplicate, replay, not_before, .. } = stored;
        let (event, now) = (Arc::new(event), self.0.clock.now());
        if not_before > now {
            return None;
        }
        let Pick { with, hold } = pick;
        if replay == Replay::No && now.since(event.received_at) > lane.route.delivery.max_age {
            let error = format!("not accepted within {:?}", lane.route.delivery.max_age);
            let reason = DeadReason::TooOld;
            self.start_settling(lane, hold, event, Settlement::Dead { reason, possible_duplicate, error });
            return None;
        }
        if replay == Replay::No && self.0.claims.has_accepted_copy(&event) {
            let (deliverer, route) = (self.clone(), lane.route.clone());
            self.go_on(lane, async move {
                deliverer.settle_copy(&event, &route).await;
                drop(hold);
            });
            return None;
        }
        let Some(alone) = self.sends_alone(event.key) else {
            self.start_settling(lane, hold, event, Settlement::Postpone { not_before: now.plus(COPY_REST) });
            return None;
        };
        Some(Ready { with, event, attempts, possible_duplicate, replay, not_before, alone, hold })
    }

    /// An event that finds no room in memory waits for its slot first and is read anew. It keeps its place meanwhile, so that no
    /// more of them wait than there are places.
    fn start_with_slot(&self, lane: &Arc<Lane>, pick: Pick) {
        let (deliverer, on) = (self.clone(), lane.clone());
        let Pick { with, hold } = pick;
        self.go_on(lane, async move {
            let slot = deliverer.unless_shut_down(on.slot_from_disk(hold.event())).await;
            drop(with);
            if let Some(slot) = slot.filter(|_| deliverer.goes_on(&on)) {
                deliverer.deliver_again(&on, vec![Pick { with: Picked::WithSlot(slot), hold }]).await;
            }
        });
    }

    fn start_settling(&self, lane: &Lane, hold: Hold, event: Arc<Event>, settlement: Settlement) {
        let deliverer = self.clone();
        self.go_on(lane, async move {
            deliverer.write_down(&event, settlement).await;
            drop(hold);
        });
    }

    /// Has the attempts of these written down, and begins them. Who has a slot, or others waiting behind him, waits for no
    /// commit of others.
    async fn note_and_send(&self, lane: &Arc<Lane>, ready: Vec<Ready>) {
        let (hasty, patient): (Vec<_>, Vec<_>) = ready.into_iter().partition(Ready::is_in_haste);
        if !hasty.is_empty() {
            let noted = self.0.spool.begin_attempts(hasty.iter().map(|one| one.event.id).collect());
            self.send_noted(lane, hasty, noted).await;
        }
        if !patient.is_empty() {
            let noted = self.0.spool.begin_attempts_with_others(patient.iter().map(|one| one.event.id).collect());
            self.send_noted(lane, patient, noted).await;
        }
    }

    /// Begins the attempts of those that were due. If the disk takes its time the slots are given back, so that a stalled disk
    /// does not keep the application from those who need no disk; the attempts are then put off.
    async fn send_noted(
        &self,
        lane: &Arc<Lane>,
        ready: Vec<Ready>,
        noting: impl Future<Output = Result<Vec<Found>, SpoolFault>>,
    ) {
        let mut noting = std::pin::pin!(noting);
        match tokio::time::timeout(DISK_PATIENCE, &mut noting).await {
            Ok(Ok(noted)) => {
                // What was due when it was picked need not be any more: delivered, dead, or behind one that came back.
                for (one, _) in ready.into_iter().zip(noted).filter(|(_, found)| *found == Found::Yes) {
                    let (deliverer, on) = (self.clone(), lane.clone());
                    self.go_on(lane, async move { deliverer.send_again(&on, one).await });
                }
            }
            Ok(Err(fault)) => self.rest_after(ready, &fault).await,
            Err(_) => {
                let given_back = ready.into_iter().map(|one| (one.hold, one.alone, one.event));
                let waiting: Vec<_> = given_back.collect();
                self.let_the_disk_rest();
                let Ok(noted) = noting.await else { return };
                for ((hold, alone, event), found) in waiting.into_iter().zip(noted) {
                    if found == Found::Yes {
                        self.write_down(&event, Settlement::Postpone { not_before: self.0.clock.now() }).await;
                    }
                    drop((hold, alone));
                }
            }
        }
    }

    /// The attempt of an event on disk that is written down, and what it came to.
    async fn send_again(&self, lane: &Arc<Lane>, ready: Ready) {
        let Ready { with, event, attempts, possible_duplicate, replay, not_before, alone, hold } = ready;
        let Some((slot, ahead)) = self.slot_of(lane, &event, with, not_before).await else { return };
        let route = lane.route.clone();
        let possible_duplicate = self.look_elsewhere(&event, &route, possible_duplicate, replay).await;
        let attempt = attempts.saturating_add(1);
        let sending = Sending {
            attempt,
            possible_duplicate: possible_duplicate == Possible::Duplicate,
            replay: replay == Replay::Yes,
        };
        let body_by = Instant::now() + route.app.attempt_timeout + ANSWER_BODY;
        let (outcome, breaker) = self.clone().attempt(lane.clone(), event.clone(), sending, slot, body_by).await;
        self.settle_spooled(&event, &route, outcome, Standing { attempt, possible_duplicate, breaker }).await;
        // Not before: until then a crash has the event sent again.
        drop((ahead, alone, hold));
    }
}

impl Ready {
    /// Whether somebody waits for its attempt: the application's slot, or the next event of its order value.
    fn is_in_haste(&self) -> bool {
        matches!(self.with, Picked::WithSlot(_)) || self.event.order_value.is_some()
    }
}

#[cfg(test)]
mod tests {
    use crate::forward::stand::sleeping_with;
    use crate::spool::State;

    #[tokio::test]
    async fn a_backlog_is_sent_once_and_in_full_where_its_events_are_read_together() {
        let world = sleeping_with(1000, 64, None);
        for number in 0..300 {
            world.put(number).await;
        }
        world.awake();
        world.eventually("all are sent", async || world.spool.totals().pending() == 0).await;
        let seen = world.app.seen.lock().unwrap().clone();
        assert_eq!(seen.len(), 300);
        assert!(seen.iter().all(|(_, sending)| sending.attempt == 1 && !sending.possible_duplicate), "{seen:?}");
    }

    #[tokio::test]
    async fn what_is_read_together_is_never_more_than_there_are_places() {
        let world = sleeping_with(0, 16, None);
        for number in 0..100 {
            world.put(number).await;
        }
        world.awake();
        world.eventually("slots and places are taken", async || world.count(State::InFlight).await == 32).await;
        world.eventually("the slots are used", async || world.app.seen.lock().unwrap().len() == 16).await;
        world.app.allowed.add_permits(3);
        world.eventually("three are settled", async || world.spool.totals().pending() == 97).await;
        world.eventually("three more are sent", async || world.app.seen.lock().unwrap().len() == 19).await;
        assert!(world.count(State::InFlight).await <= 32);
        world.app.allowed.add_permits(97);
        world.eventually("all are sent", async || world.spool.totals().pending() == 0).await;
        assert_eq!(world.app.seen.lock().unwrap().len(), 100);
    }
}

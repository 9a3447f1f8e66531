//! The deliverer: it owns every attempt, the first as well as the fifth. The gateway hands an event over and listens
//! for the outcome as long as the sender waits; nothing is cancelled when the budget ends, and nothing is sent twice
//! because of it.
//!
//! Invariant: no other code sends an event to the application.
//! Invariant: an event is acknowledged only after the application's 2xx or a durable commit.
//!
//! Every task that is spawned here is tracked and awaited at shutdown.

mod ahead;
pub mod attempt;
mod backlog;
mod detached;
pub mod first;
mod kept;
pub mod limits;
mod patience;
mod pool;
pub mod spooled;
#[cfg(test)]
mod stand;
mod trust;
mod turns;
mod upstream;
mod wire;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::future::poll_fn;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use self::attempt::{Application, Client, Sending, Times};
use self::detached::Detached;
use self::first::First;
pub use self::first::Watched;
use self::limits::{BreakerState, Lane, Learnt, SharedBreaker, Slot};
use self::trust::Trust;
use self::turns::Turns;
use crate::buffers::Buffers;
use crate::claims::{Claims, Held};
use crate::clock::Clock;
use crate::domain::app_url::AppUrl;
use crate::domain::event::{Event, EventId};
use crate::domain::key::EventKey;
use crate::domain::outcome::{Outcome, Settled};
use crate::domain::route::Route;
use crate::spool::Spool;
use crate::telemetry::{IntGauge, Metrics};

/// Kept free between the moment the spooling of an overtaken event begins and the moment the reply must leave: what a
/// commit may take. An fsync on a busy disk takes 5–100 ms; a second is rare, and then the sender gets a 503 in time.
const COMMIT_ALLOWANCE: Duration = Duration::from_secs(1);

/// The deliverer. Cloning shares it.
#[derive(Clone)]
pub struct Deliverer(Arc<Inner>);

struct Inner {
    spool: Spool,
    claims: Claims,
    clock: Clock,
    metrics: Arc<Metrics>,
    /// Per route name, found by comparing, for most have few routes. Replaced as a whole by [`Deliverer::configure`].
    lanes: ArcSwap<BTreeMap<Arc<str>, Arc<Lane>>>,
    /// Per application address; outlives a change of the configuration.
    breakers: Mutex<HashMap<AppUrl, Arc<SharedBreaker>>>,
    towards: Towards,
    /// Per application and way to it; outlives a change of the configuration.
    clients: Mutex<HashMap<(AppUrl, Duration, Trust), Client>>,
    /// Events on disk with an attempt running or about to: they are not picked again.
    running: Mutex<HashSet<EventId>>,
    /// Events of which a copy is being sent, where there may be copies. Bounded as `running` is.
    sending: Mutex<HashSet<EventKey>>,
    /// Whose turn it is among first deliveries of one order value.
    turns: Turns,
    /// Told when something of any route may have become due.
    wake: Notify,
    /// The moment by which open requests must be answered, once shutdown has begun.
    drain: watch::Sender<Option<Instant>>,
    /// Told when it has begun: first deliveries are, in the order in which they began to wait.
    draining: Notify,
    /// Tasks alive: first deliveries and attempts from the disk.
    tasks: AtomicUsize,
    /// Told when none is left.
    all_ended: Notify,
    /// Until when nothing is taken from the disk, because it refused something.
    disk_rests_until: Mutex<Option<Instant>>,
    /// What was last said of a disk that takes nothing.
    said: Mutex<first::Said>,
}

/// Where events go.
enum Towards {
    /// To the applications of the configuration, whose answers these have room for.
    Applications(Buffers),
    /// To a simulation's application, in the place of all of them.
    Stand(Arc<dyn Application>),
}

/// The sender's retry horizon where the provider's is not known.
const UNKNOWN_HORIZON: Duration = Duration::from_secs(24 * 3600);

impl Deliverer {
    /// A deliverer without routes; [`Self::configure`] gives it some.
    #[must_use]
    pub fn new(spool: Spool, claims: Claims, clock: Clock, metrics: Arc<Metrics>, buffers: Buffers) -> Self {
        Self::with(Towards::Applications(buffers), spool, claims, clock, metrics)
    }

    /// As [`Self::new`], with `stand` in the place of every application.
    #[must_use]
    pub fn towards(
        stand: Arc<dyn Application>,
        spool: Spool,
        claims: Claims,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self::with(Towards::Stand(stand), spool, claims, clock, metrics)
    }

    fn with(towards: Towards, spool: Spool, claims: Claims, clock: Clock, metrics: Arc<Metrics>) -> Self {
        Self(Arc::new(Inner {
            spool,
            claims,
            clock,
            metrics,
            lanes: ArcSwap::default(),
            breakers: Mutex::default(),
            towards,
            clients: Mutex::default(),
            running: Mutex::default(),
            sending: Mutex::default(),
            turns: Turns::default(),
            wake: Notify::new(),
            drain: watch::channel(None).0,
            draining: Notify::new(),
            tasks: AtomicUsize::new(0),
            all_ended: Notify::new(),
            disk_rests_until: Mutex::default(),
            said: Mutex::default(),
        }))
    }

    /// Puts `routes` into operation in place of those before, and starts a lane's loop for each. Attempts that run go
    /// on under the configuration they began with.
    pub fn configure(&self, routes: &[Arc<Route>]) {
        self.keep_breakers_to(routes);
        let before = self.0.lanes.load_full();
        let lane = |route: &Arc<Route>| {
            let before = before.get(&route.name).map(Arc::as_ref);
            let series = self.0.metrics.series(&route.name);
            let lane = Lane::new(route.clone(), self.client(route), self.breaker(route), series, before);
            (route.name.clone(), Arc::new(lane))
        };
        let lanes: Arc<BTreeMap<Arc<str>, Arc<Lane>>> = Arc::new(routes.iter().map(lane).collect());
        self.0.lanes.store(lanes.clone());
        // In the order of the configuration: a map's own order is another one in every process.
        for lane in routes.iter().filter_map(|route| lanes.get(&route.name)) {
            let task = self.track();
            tokio::spawn(backlog::drain_lane(self.clone(), lane.clone(), task));
        }
        self.tell_of_orphans(&lanes);
        self.0.wake.notify_waiters();
    }

    /// Takes an event over and delivers it for the first time; says what its sender is told, `None` if nothing came of it.
    /// `deadline` is the moment the reply must have left; `memory` is given back when the last attempt on the event in
    /// memory ends.
    ///
    /// The delivery belongs to nobody's connection: what is left of it when its sender is answered goes on in a task of
    /// its own, and so does all of it if this future is dropped.
    pub async fn deliver(
        &self,
        event: Arc<Event>,
        route: Arc<Route>,
        held: Held,
        deadline: Instant,
        memory: impl Send + 'static,
    ) -> Option<Settled> {
        self.deliver_watched(Watched::No, event, route, held, deadline, memory).await
    }

    /// As [`Self::deliver`], for who may see to it that it is polled in time.
    pub fn deliver_watched<M: Send + 'static>(
        &self,
        watched: Watched,
        event: Arc<Event>,
        route: Arc<Route>,
        held: Held,
        deadline: Instant,
        memory: M,
    ) -> impl Future<Output = Option<Settled>> + Send + use<M> {
        let mut answer = held.follow();
        let first = First::new(self.track(), event, route, held, deadline, watched);
        let mut delivery = Detached::new(async move {
            first.deliver().await;
            drop(memory);
        });
        async move {
            poll_fn(|cx| {
                delivery.poll(cx);
                // Nobody but the delivery gives it, so that there is nothing to wait for beside it.
                answer.poll_given()
            })
            .await
        }
    }

    /// By when an event whose sender is to be answered by `deadline` is polled at the latest where that is watched: no wait for
    /// the application ends sooner.
    #[must_use]
    pub fn look_by(deadline: Instant) -> Instant {
        deadline.checked_sub(COMMIT_ALLOWANCE).unwrap_or(deadline)
    }

    /// Something may have become due, whatever its route.
    pub fn wake(&self) {
        self.0.wake.notify_waiters();
    }

    /// Something of this route may have become due: the other routes' loops sleep on. It is the lane in operation that is
    /// told, under which an attempt need not have begun.
    fn wake_route(&self, route: &str) {
        if let Some(lane) = self.0.lanes.load().get(route) {
            lane.wake();
        }
    }

    /// Whether the application behind `route` is considered up.
    #[must_use]
    pub fn app_is_up(&self, route: &str) -> bool {
        self.0.lanes.load().get(route).is_none_or(|lane| lane.is_up())
    }

    /// Begins the shutdown: no attempt from the disk starts any more, and open requests are answered by `answered_by`,
    /// from the disk if the application has not answered.
    pub fn drain(&self, answered_by: Instant) {
        self.0.drain.send_replace(Some(answered_by));
        self.0.draining.notify_waiters();
        self.0.wake.notify_waiters();
    }

    /// Whether the moment has passed by which the shutdown wants open requests answered.
    fn has_drained(&self) -> bool {
        self.0.drain.borrow().is_some_and(|answered_by| answered_by <= Instant::now())
    }

    /// Waits until no delivery is running, at most until `by`; says whether that came true.
    pub async fn settled(&self, by: Instant) -> Settlement {
        let all_ended = async {
            loop {
                let ended = self.0.all_ended.notified();
                if self.0.tasks.load(Ordering::Acquire) == 0 {
                    return;
                }
                ended.await;
            }
        };
        match tokio::time::timeout_at(by, all_ended).await {
            Ok(()) => Settlement::Complete,
            Err(_) => Settlement::CutOff,
        }
    }

    fn lane(&self, route: &str) -> Option<Arc<Lane>> {
        self.0.lanes.load().get(route).cloned()
    }

    /// The breakers that there are go on by the policies of `routes`: of those of one address the first counts.
    fn keep_breakers_to(&self, routes: &[Arc<Route>]) {
        let breakers = self.0.breakers.lock().unwrap_or_else(PoisonError::into_inner);
        for route in routes.iter().rev() {
            if let Some(breaker) = breakers.get(&route.app.url) {
                breaker.follow(route);
            }
        }
    }

    fn breaker(&self, route: &Route) -> Arc<SharedBreaker> {
        let mut breakers = self.0.breakers.lock().unwrap_or_else(PoisonError::into_inner);
        breakers.entry(route.app.url.clone()).or_insert_with(|| Arc::new(SharedBreaker::new(route))).clone()
    }

    fn client(&self, route: &Route) -> Client {
        let buffers = match &self.0.towards {
            Towards::Applications(buffers) => buffers,
            Towards::Stand(stand) => return Client::Stand(stand.clone()),
        };
        let mut clients = self.0.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let which = (route.app.url.clone(), route.app.connect_timeout, Trust::of(&route.app));
        clients.entry(which).or_insert_with(|| Client::new(&route.app, buffers)).clone()
    }

    /// One attempt, measured and learnt from. The slot is given back when it ends: nobody waits for the disk with it.
    fn attempt(
        self,
        lane: Arc<Lane>,
        event: Arc<Event>,
        sending: Sending,
        slot: Slot,
        body_by: Instant,
    ) -> impl Future<Output = (Outcome, BreakerState)> {
        let times = Times { began: Instant::now(), body_by, seen_to_by: None };
        self.attempt_at(times, lane, event, sending, slot)
    }

    /// As [`Self::attempt`], at a moment that is known to be now.
    #[expect(clippy::manual_async_fn, reason = "what a function is given it keeps twice, and a block once")]
    fn attempt_at(
        self,
        times: Times,
        lane: Arc<Lane>,
        event: Arc<Event>,
        sending: Sending,
        mut slot: Slot,
    ) -> impl Future<Output = (Outcome, BreakerState)> + use<> {
        async move {
            let (route, series) = (&lane.route, &lane.series);
            let name: &str = &route.name;
            if sending.possible_duplicate {
                self.0.metrics.possible_duplicates_total.with_label_values(&[name]).inc();
            }
            let in_flight = InFlight::count(&series.attempts_in_flight);
            slot.used();
            let outcome = lane.client.send(&event, &route.app, sending, times).await;
            drop(in_flight);
            let ended = Instant::now();
            if lane.learn(self.0.clock.at(ended), event.id, &outcome) == Learnt::IsBack {
                self.wake();
            }
            let took = ended.saturating_duration_since(times.began);
            series.attempted(&outcome, took);
            series.app_up.set(i64::from(lane.is_up()));
            tracing::debug!(route = name, event = %event.id, attempt = sending.attempt, outcome = outcome.as_str(),
                error = outcome.describe(), milliseconds = took.as_millis(), "attempt");
            (outcome, slot.breaker())
        }
    }

    /// Says which routes have events on disk and no configuration: they wait until there is one again.
    fn tell_of_orphans(&self, lanes: &BTreeMap<Arc<str>, Arc<Lane>>) {
        for (route, totals) in self.0.spool.totals().routes {
            if totals.pending > 0 && !lanes.contains_key(&route) {
                tracing::warn!(%route, pending = totals.pending,
                    "events of a route that is not configured any more are kept and not delivered: configure it again");
            }
        }
    }

    /// Whether an event may have been sent before a stop that was not clean: it may be older than the stop, and its
    /// sender may still be retrying. Costs nothing once the senders' horizon has passed.
    fn in_doubt(&self, event: &Event, route: &Route) -> bool {
        let Some(before) = self.0.spool.doubtful_before() else { return false };
        let horizon = route.scheme.traits().retry_horizon.unwrap_or(UNKNOWN_HORIZON);
        self.0.clock.now().since(before) < horizon && event.signed_at.is_none_or(|happened| happened <= before)
    }

    fn track(&self) -> Task {
        self.0.tasks.fetch_add(1, Ordering::Relaxed);
        Task { of: self.clone() }
    }
}

/// Whether everything ended in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// It did.
    Complete,
    /// Something was still running.
    CutOff,
}

/// One task alive; counted down when dropped.
struct Task {
    of: Deliverer,
}

impl Deref for Task {
    type Target = Deliverer;

    fn deref(&self) -> &Deliverer {
        &self.of
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if self.of.0.tasks.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.of.0.all_ended.notify_waiters();
        }
    }
}

/// An attempt counted as running; counted down when it ends, however it ends.
struct InFlight<'s>(&'s IntGauge);

impl<'s> InFlight<'s> {
    fn count(gauge: &'s IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests;

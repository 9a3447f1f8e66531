//! How much is on the disk: events and bytes by route, kept in memory. Loaded at the start from a covering index,
//! changed only after a commit, so that they never promise what is not there. They do not look at the file system:
//! `space.rs` does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::space::Used;
use crate::domain::time::Timestamp;
use crate::telemetry::Metrics;

/// What is on the disk, by route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Per route; also routes that are not configured any more.
    pub routes: BTreeMap<Arc<str>, RouteTotals>,
    /// Bytes that all events take, the dead and damaged ones too.
    pub bytes: u64,
    /// Bytes that dead letters take.
    pub dead_bytes: u64,
    /// `spool.max_bytes`.
    pub capacity_bytes: u64,
}

/// What is on the disk of one route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteTotals {
    /// Undelivered events, those with a running attempt included.
    pub pending: u64,
    /// Dead letters.
    pub dead: u64,
    /// Records that fail their checksum.
    pub damaged: u64,
    /// Bytes that all of them take.
    pub bytes: u64,
    /// When the oldest undelivered event was received.
    pub oldest_pending: Option<Timestamp>,
}

impl Totals {
    /// Undelivered events of all routes.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.routes.values().map(|route| route.pending).sum()
    }

    /// Dead letters of all routes.
    #[must_use]
    pub fn dead(&self) -> u64 {
        self.routes.values().map(|route| route.dead).sum()
    }
}

/// What an event counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Undelivered,
    Dead,
    Damaged,
}

impl Class {
    pub(super) const fn code(self) -> i64 {
        match self {
            Self::Undelivered => 0,
            Self::Dead => 1,
            Self::Damaged => 2,
        }
    }

    pub(super) const fn from_code(code: i64) -> Self {
        match code {
            0 => Self::Undelivered,
            1 => Self::Dead,
            _ => Self::Damaged,
        }
    }
}

/// One event coming into a class or leaving it.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) route: Arc<str>,
    pub(super) class: Class,
    pub(super) size: u64,
    pub(super) received_at: Timestamp,
    pub(super) way: Way,
}

/// The direction of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    In,
    Out,
}

/// The totals and the metrics that show them. Written by the writer thread alone; read by anyone. The mutex is held
/// for a copy of a small map, never across a call to the disk.
#[derive(Debug)]
pub(super) struct Books {
    totals: Mutex<Totals>,
    metrics: Arc<Metrics>,
}

impl Books {
    pub(super) fn new(totals: Totals, metrics: Arc<Metrics>) -> Self {
        let books = Self { totals: Mutex::new(totals), metrics };
        books.show(&books.lock());
        books
    }

    pub(super) fn totals(&self) -> Totals {
        self.lock().clone()
    }

    pub(super) fn used(&self) -> Used {
        let totals = self.lock();
        Used { all: totals.bytes, dead: totals.dead_bytes }
    }

    pub(super) fn route(&self, route: &str) -> RouteTotals {
        self.lock().routes.get(route).copied().unwrap_or_default()
    }

    /// Enters what a commit has made true. Yields the routes whose oldest event may have left.
    pub(super) fn enter(&self, changes: &[Change]) -> Vec<Arc<str>> {
        let mut totals = self.lock();
        let mut unsure: Vec<Arc<str>> = Vec::new();
        for change in changes {
            totals.bytes = moved(totals.bytes, change.size, change.way);
            if change.class == Class::Dead {
                totals.dead_bytes = moved(totals.dead_bytes, change.size, change.way);
            }
            let route = totals.routes.entry(change.route.clone()).or_default();
            route.bytes = moved(route.bytes, change.size, change.way);
            let count = match change.class {
                Class::Undelivered => &mut route.pending,
                Class::Dead => &mut route.dead,
                Class::Damaged => &mut route.damaged,
            };
            *count = moved(*count, 1, change.way);
            if change.class == Class::Undelivered && route.may_move_oldest(change) && !unsure.contains(&change.route) {
                unsure.push(change.route.clone());
            }
        }
        self.show(&totals);
        unsure
    }

    /// Nothing is on the disk any more: a fresh file has taken the place of a damaged one.
    pub(super) fn empty(&self) {
        let mut totals = self.lock();
        for route in totals.routes.values_mut() {
            *route = RouteTotals::default();
        }
        (totals.bytes, totals.dead_bytes) = (0, 0);
        self.show(&totals);
    }

    /// Corrects the oldest undelivered event of a route.
    pub(super) fn set_oldest(&self, route: &Arc<str>, oldest: Option<Timestamp>) {
        let mut totals = self.lock();
        totals.routes.entry(route.clone()).or_default().oldest_pending = oldest;
        self.show(&totals);
    }

    fn lock(&self) -> MutexGuard<'_, Totals> {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, totals: &Totals) {
        let whole = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.spool_bytes.set(whole(totals.bytes));
        self.metrics.spool_dead_bytes.set(whole(totals.dead_bytes));
        self.metrics.spool_capacity_bytes.set(whole(totals.capacity_bytes));
        for (name, route) in &totals.routes {
            self.metrics.spool_events.with_label_values(&[&**name, "pending"]).set(whole(route.pending));
            self.metrics.spool_events.with_label_values(&[&**name, "dead"]).set(whole(route.dead));
            let oldest = route.oldest_pending.map_or(0.0, Timestamp::seconds);
            self.metrics.spool_oldest_event_timestamp_seconds.with_label_values(&[&**name]).set(oldest);
        }
    }
}

impl RouteTotals {
    /// Takes a newcomer into account; says whether the oldest may have left.
    fn may_move_oldest(&mut self, change: &Change) -> bool {
        match change.way {
            Way::In => {
                let oldest = self.oldest_pending.map_or(change.received_at, |oldest| oldest.min(change.received_at));
                self.oldest_pending = Some(oldest);
                false
            }
            Way::Out if self.pending == 0 => {
                self.oldest_pending = None;
                false
            }
            Way::Out => self.oldest_pending.is_none_or(|oldest| change.received_at <= oldest),
        }
    }
}

const fn moved(count: u64, by: u64, way: Way) -> u64 {
    match way {
        Way::In => count.saturating_add(by),
        Way::Out => count.saturating_sub(by),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(way: Way, received_at: i64) -> Change {
        let received_at = Timestamp::from_millis(received_at);
        Change { route: "veedeo".into(), class: Class::Undelivered, size: 100, received_at, way }
    }

    #[test]
    fn the_oldest_is_asked_for_again_only_when_it_leaves() {
        let books = Books::new(Totals::default(), Arc::new(Metrics::new(&[]).unwrap()));
        assert!(books.enter(&[change(Way::In, 5), change(Way::In, 3), change(Way::In, 9)]).is_empty());
        assert_eq!(books.route("veedeo").oldest_pending, Some(Timestamp::from_millis(3)));
        assert!(books.enter(&[change(Way::Out, 9)]).is_empty());
        assert_eq!(books.enter(&[change(Way::Out, 3)]), [Arc::from("veedeo")]);
        assert_eq!(books.route("veedeo").pending, 1);
        assert_eq!(books.used().all, 100);
        assert!(books.enter(&[change(Way::Out, 5)]).is_empty(), "nothing is left to ask for");
        assert_eq!(books.route("veedeo").oldest_pending, None);
    }

    #[test]
    fn when_a_fresh_file_takes_the_place_of_a_damaged_one_nothing_counts_any_more() {
        let books = Books::new(Totals::default(), Arc::new(Metrics::new(&[]).unwrap()));
        let dead = Change { class: Class::Dead, ..change(Way::In, 5) };
        assert!(books.enter(&[change(Way::In, 3), dead.clone()]).is_empty());
        assert_eq!((books.used().all, books.used().dead), (200, 100));
        books.empty();
        assert_eq!((books.used().all, books.used().dead), (0, 0));
        assert_eq!((books.route("veedeo"), books.totals().dead_bytes), (RouteTotals::default(), 0));
        assert!(books.enter(&[dead]).is_empty());
        assert_eq!(books.used().dead, 100, "what comes over counts once");
    }
}

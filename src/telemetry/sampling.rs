//! Lines of refused requests are written up to [`MOST_A_SECOND`] of a kind in a second, a kind being a route and a reason; of
//! the others there is one line with their number. Whoever sends refused requests in numbers fills no disk.
//!
//! It is a filter in front of the lines and writes nothing itself: the log's thread says once a second what was left out.
//! Kinds come from the configuration and from closed lists, so the table is bounded by them.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Metadata};
use tracing_subscriber::layer::{Context, Filter};

use super::Metrics;

/// Lines of one kind that are written in one second.
const MOST_A_SECOND: u32 = 20;

/// The length of a window.
const WINDOW: Duration = Duration::from_secs(1);

/// What was left out; clones share it.
#[derive(Clone)]
pub(super) struct Sampling {
    kinds: Arc<Mutex<HashMap<Kind, Window>>>,
    metrics: Arc<Metrics>,
}

/// A route's name and a reason.
type Kind = (String, String);

#[derive(Debug)]
struct Window {
    began: Instant,
    written: u32,
    left_out: u64,
}

impl Sampling {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { kinds: Arc::default(), metrics }
    }

    /// Whether one more line of this kind is written now.
    pub(super) fn lets_through(&self, kind: Kind, now: Instant) -> bool {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let window = kinds.entry(kind).or_insert(Window { began: now, written: 0, left_out: 0 });
        if now.saturating_duration_since(window.began) >= WINDOW {
            window.began = now;
            window.written = 0;
        }
        if window.written < MOST_A_SECOND {
            window.written += 1;
            return true;
        }
        window.left_out += 1;
        self.metrics.log_lines_dropped_total.inc();
        false
    }

    /// What was left out since the last time. Forgets kinds of which nothing came.
    fn take_left_out(&self, now: Instant) -> Vec<(Kind, u64)> {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let left_out = kinds.iter_mut().filter(|(_, window)| window.left_out > 0);
        let taken = left_out.map(|(kind, window)| (kind.clone(), std::mem::take(&mut window.left_out))).collect();
        kinds.retain(|_, window| now.saturating_duration_since(window.began) < WINDOW);
        taken
    }

    /// Writes a line for each kind of which lines were left out.
    pub(super) fn report(&self) {
        for ((route, reason), more) in self.take_left_out(Instant::now()) {
            tracing::info!(
                route,
                like = reason,
                more,
                "more requests ended like those before; their lines were left out"
            );
        }
    }
}

impl<S> Filter<S> for Sampling {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let fields = event.metadata().fields();
        if fields.field("reason").is_none() || fields.field("route").is_none() {
            return true;
        }
        let mut named = Named::default();
        event.record(&mut named);
        match (named.route, named.reason) {
            (Some(route), Some(reason)) => self.lets_through((route, reason), Instant::now()),
            // Without a reason it is an event that was taken.
            (_, None) | (None, Some(_)) => true,
        }
    }
}

#[derive(Default)]
struct Named {
    route: Option<String>,
    reason: Option<String>,
}

impl Visit for Named {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "route" => self.route = Some(value.to_owned()),
            "reason" => self.reason = Some(value.to_owned()),
            _ => {}
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling() -> (Sampling, Arc<Metrics>) {
        let metrics = Arc::new(Metrics::new(&[]).unwrap());
        (Sampling::new(Arc::clone(&metrics)), metrics)
    }

    fn kind(route: &str) -> Kind {
        (route.to_owned(), "signature_mismatch".to_owned())
    }

    #[test]
    fn a_second_has_so_many_lines_of_a_kind_and_the_rest_is_a_number() {
        let (sampling, metrics) = sampling();
        let now = Instant::now();
        let written = |route, now| (0..1000).filter(|_| sampling.lets_through(kind(route), now)).count();
        assert_eq!((written("a", now), written("b", now)), (20, 20));
        assert_eq!(metrics.log_lines_dropped_total.get(), 2 * 980);
        let later = now + WINDOW;
        let mut left_out = sampling.take_left_out(later);
        left_out.sort();
        assert_eq!(left_out, [(kind("a"), 980), (kind("b"), 980)]);
        assert!(sampling.take_left_out(later).is_empty(), "each is told once");
        assert_eq!(written("a", later), 20, "the next second has its own");
    }

    #[test]
    fn what_was_left_out_is_told_though_the_next_second_has_begun() {
        let (sampling, _) = sampling();
        let now = Instant::now();
        for second in 0..3_u32 {
            let written = (0..30).filter(|_| sampling.lets_through(kind("a"), now + WINDOW * second));
            assert_eq!(written.count(), 20);
        }
        assert_eq!(sampling.take_left_out(now + WINDOW * 3), [(kind("a"), 30)]);
        assert!(sampling.kinds.lock().unwrap().is_empty());
    }
}

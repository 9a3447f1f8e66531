//! Places for requests of HTTP/2: as many as connections, in all and for one source, for each request costs what a connection
//! of HTTP/1.1 costs. Who gets none was certainly not looked at and may come again at once. Requests of HTTP/1.1 need none.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::gateway::connections::{Caps, Source};

/// The places of a door. Clones share them; written when a request begins and when it ends.
#[derive(Clone)]
pub(crate) struct Places {
    caps: Caps,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    sources: HashMap<Source, usize>,
}

/// A place; given back when dropped.
pub(crate) struct Place {
    source: Option<Source>,
    taken: Arc<Mutex<Taken>>,
}

impl Places {
    /// So many, all free.
    pub(crate) fn new(caps: Caps) -> Self {
        Self { caps, taken: Arc::default() }
    }

    /// A place for a request of `source`; `None`: there is none.
    pub(crate) fn take(&self, source: Option<Source>) -> Option<Place> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let of_source = source.and_then(|source| taken.sources.get(&source)).copied().unwrap_or(0);
        if taken.all >= self.caps.all || of_source >= self.caps.per_source {
            return None;
        }
        taken.all += 1;
        if let Some(source) = source {
            taken.sources.insert(source, of_source + 1);
        }
        Some(Place { source, taken: self.taken.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all = taken.all.saturating_sub(1);
        let Some(source) = self.source else { return };
        match taken.sources.get_mut(&source) {
            Some(count @ 2..) => *count -= 1,
            Some(_) | None => drop(taken.sources.remove(&source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_at_its_cap_leaves_places_for_others_and_gets_them_back() {
        let places = Places::new(Caps { all: 3, per_source: 2 });
        let of = |address: &str| Source::of(address.parse().expect("an address"), &[]);
        let (one, other) = (of("203.0.113.1"), of("203.0.113.2"));
        let (first, second) = (places.take(one), places.take(one));
        assert!(first.is_some() && second.is_some() && places.take(one).is_none());
        let third = places.take(other);
        assert!(third.is_some() && places.take(None).is_none(), "three are all there are");
        drop(first);
        assert!(places.take(one).is_some());
        drop((second, third));
        let taken = places.taken.lock().expect("no panic");
        assert_eq!((taken.all, taken.sources.len()), (0, 0));
    }
}

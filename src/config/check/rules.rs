//! What `validate` says about a route beyond right and wrong: how its provider's scheme and its own settings go
//! together.

use super::Check;
use super::route::span;
use crate::domain::route::{AckMode, Route};
use crate::domain::scheme::RawScheme;

impl Check<'_> {
    /// All rules for one route.
    pub(super) fn rules(&mut self, route: &Route, scheme: &RawScheme) {
        self.budget(route, scheme);
    }

    fn budget(&mut self, route: &Route, scheme: &RawScheme) {
        let key = self.shared_key(&route.name, "ack", "budget");
        let known = scheme.about.as_ref().and_then(|about| about.budget).map(|known| known.0);
        if let Some(known) = known.filter(|known| *known < route.ack.budget) {
            let text = format!(
                "the budget of route {} is {}, and {} is known to wait {} only",
                route.name,
                span(route.ack.budget),
                route.provider,
                span(known)
            );
            self.warn(&key, text);
        }
        if route.ack.mode == AckMode::Sync {
            let key = self.shared_key(&route.name, "ack", "mode");
            let text = "nothing is kept on disk: while the application is down the sender is told so".to_owned();
            self.note(&key, text);
        }
    }
}

//! What a route's provider promises, against the route's own settings: whether a captured request could be delivered
//! again, whether the sender waits long enough, what its operator should know.
//!
//! Faults are only those that break a promise; everything else is a note.

use std::time::Duration;

use super::{Check, keys};
use crate::config::fault::FaultKind;
use crate::config::layers::Origin;
use crate::config::settings::Server;
use crate::config::source::KeyPath;
use crate::domain::route::{AckMode, Enforcement, Route};
use crate::domain::schedule::Schedule;
use crate::domain::scheme::{Coverage, EventIdTrait, Evidence, Kind, Lack, RawScheme, SchemeTraits, SentTrait};

impl Check<'_> {
    /// All rules for one route.
    pub(super) fn rules(&mut self, route: &Route, scheme: &RawScheme, server: Option<&Server>) {
        let traits = route.scheme.traits();
        self.replay_rules(route, &traits);
        self.horizon_rules(route, &traits);
        self.name_notes(route, scheme, &traits);
        self.budget_rules(route, &traits, server);
        self.route_notes(route, scheme, &traits);
        self.challenge_notes(route);
        self.evidence_note(route, &traits);
    }

    /// A challenge that hashes texts for anybody hashes them for every route that has the same secret.
    pub(super) fn shared_secrets(&mut self, routes: &[Route]) {
        let asked = |route: &&Route| route.scheme.hashes_for_anybody(route.verify_token.as_ref());
        for oracle in routes.iter().filter(asked) {
            for other in routes.iter().filter(|other| other.provider != oracle.provider) {
                if let Some(position) = other.secrets.iter().position(|secret| oracle.has_secret(&secret.secret)) {
                    let text = format!(
                        "it is a secret of route {} too, whose provider {} has texts hashed with it for whoever asks: \
                         give each route a secret of its own",
                        oracle.name, oracle.provider
                    );
                    self.warn(&keys(&["routes", &other.name, "secrets", &position.to_string()]), text);
                }
            }
        }
    }

    /// A captured request must be a duplicate as long as its time is accepted.
    fn replay_rules(&mut self, route: &Route, traits: &SchemeTraits) {
        let ttl = span(route.dedup_ttl);
        let again = match traits.event_id {
            EventIdTrait::Request | EventIdTrait::OrRequest => "at any time".to_owned(),
            EventIdTrait::None | EventIdTrait::Unsigned | EventIdTrait::Signed => {
                format!("once dedup forgets it ({ttl})")
            }
        };
        let timestamp = keys(&["routes", &route.name, "timestamp"]);
        if let SentTrait::Covered { tolerance } = traits.sent {
            self.shorter_than_ttl(route, "timestamp", "tolerance", tolerance);
        }
        if let Some(max_age) = traits.signed_at_max_age {
            self.shorter_than_ttl(route, "signed_at", "max_age", max_age);
        }
        match (traits.sent, traits.signed_at_max_age) {
            (SentTrait::Uncovered { .. }, Some(max_age)) => self.note(
                &timestamp,
                format!(
                    "the timestamp is not covered by the signature, so a captured request can be given a new one; it is \
                     a duplicate for {ttl} and its signed time too old after {}, so it is not delivered again",
                    span(max_age)
                ),
            ),
            (SentTrait::Uncovered { .. }, None) => self.note(
                &timestamp,
                format!(
                    "the timestamp is not covered by the signature and no other time is signed: a captured request can \
                     be delivered again {again}"
                ),
            ),
            (SentTrait::None, None) => self.note(
                &timestamp,
                format!(
                    "{} signs no time: a captured request can be delivered again {again}",
                    route.provider
                ),
            ),
            (SentTrait::None, Some(_)) | (SentTrait::Covered { .. }, _) => {}
        }
    }

    fn shorter_than_ttl(&mut self, route: &Route, part: &str, key: &str, age: Duration) {
        if age < route.dedup_ttl {
            return;
        }
        let own = keys(&["routes", &route.name, part, key]);
        let ttl = self.ttl_key(route);
        let given = |key: &KeyPath| self.layers.origin(key) != Origin::Default;
        let at = if !given(&own) && given(&ttl) { ttl } else { own };
        let found = format!(
            "wrong: `{part}.{key}` is {} and `dedup.ttl` is {}, so a captured request could be delivered again",
            span(age),
            span(route.dedup_ttl)
        );
        self.fault(FaultKind::Conflict, &at, found, format!("`{part}.{key}` less than `dedup.ttl`"));
    }

    /// What the sender itself repeats must be accepted, and known as a duplicate.
    fn horizon_rules(&mut self, route: &Route, traits: &SchemeTraits) {
        let Some(horizon) = traits.retry_horizon else { return };
        if let Some(max_age) = traits.signed_at_max_age.filter(|max_age| *max_age <= horizon) {
            let found = format!(
                "{}, and {} still repeats an event {} after it happened",
                span(max_age),
                route.provider,
                span(horizon)
            );
            let at = keys(&["routes", &route.name, "signed_at", "max_age"]);
            self.fault(FaultKind::Conflict, &at, found, "more than that, so that no repetition is refused as too old");
        }
        if horizon >= route.dedup_ttl && traits.event_id != EventIdTrait::Request {
            let text = format!(
                "{} repeats an event for up to {}, and dedup forgets it after {}: a late repetition would be delivered \
                 again",
                route.provider,
                span(horizon),
                span(route.dedup_ttl)
            );
            self.warn(&self.ttl_key(route), text);
        }
    }

    fn ttl_key(&self, route: &Route) -> KeyPath {
        self.shared_key(&route.name, "dedup", "ttl")
    }

    /// What the dedup key is made of, where the provider does not simply name its events.
    fn name_notes(&mut self, route: &Route, scheme: &RawScheme, traits: &SchemeTraits) {
        let parts = scheme.event_id.clone().unwrap_or_default();
        let listed = parts.iter().map(|part| part.replace("json:", "")).collect::<Vec<_>>().join(", ");
        let signed = match traits.body {
            Coverage::Covered => "sha256(body)",
            Coverage::Uncovered => "sha256(what is signed)",
        };
        let text = match traits.event_id {
            EventIdTrait::Request => {
                "nothing tells one event from another: each request is an event of its own, and what is sent \
                                      again is delivered again"
                    .to_owned()
            }
            EventIdTrait::OrRequest => format!(
                "an event without its id ({}) is an event of its own, and what is sent again of it is delivered again",
                listed.trim_end_matches("request").trim_end_matches('|')
            ),
            EventIdTrait::None if (traits.url, traits.body) == (Coverage::Covered, Coverage::Covered) => {
                format!("the provider names no event; key = {signed} and the query")
            }
            EventIdTrait::None => format!("the provider names no event; key = {signed}"),
            EventIdTrait::Unsigned => {
                format!(
                    "the event id is not covered by the signature; key = sha256({listed}, {signed}). Who captures a \
                     request can give it another id, and it is taken for another event"
                )
            }
            EventIdTrait::Signed if parts.len() > 1 => {
                format!("the payload has no event id; key = sha256({listed})")
            }
            EventIdTrait::Signed => return,
        };
        self.note(&keys(&["routes", &route.name, "event_id"]), text);
    }

    fn budget_rules(&mut self, route: &Route, traits: &SchemeTraits, server: Option<&Server>) {
        let key = self.shared_key(&route.name, "ack", "budget");
        let budget = route.ack.budget;
        if let Some(known) = traits.budget.filter(|known| *known < budget) {
            let text = format!(
                "route {} answers within {}, and {} waits {} only; say `budget = \"{}\"` in [routes.{}.ack]",
                route.name,
                span(budget),
                route.provider,
                span(known),
                span(known),
                route.name
            );
            self.warn(&key, text);
        }
        let Some(server) = server else { return };
        let taking = server.header_timeout.saturating_add(server.body_timeout);
        if taking >= budget.saturating_sub(route.ack.reserve) {
            let text = format!(
                "a slow sender may take {} to send a request (`server.header_timeout` and `server.body_timeout`), and \
                 route {} answers within {}: it may be answered before it was read",
                span(taking),
                route.name,
                span(budget.saturating_sub(route.ack.reserve))
            );
            self.warn(&key, text);
        }
    }

    fn route_notes(&mut self, route: &Route, scheme: &RawScheme, traits: &SchemeTraits) {
        let at = |key: &str| keys(&["routes", &route.name, key]);
        if route.enforcement == Enforcement::Observe {
            self.warn(&at("enforce"), "bad signatures are counted and passed on to the application".to_owned());
        }
        if !route.events.is_empty() && scheme.event_type.is_none() {
            let found = format!("a list, and {} names no event type", route.provider);
            let expected = format!("no `events`, or `event_type = \"json:/…\"` in [routes.{}]", route.name);
            self.fault(FaultKind::Conflict, &at("events"), found, expected);
        }
        if traits.url == Coverage::Covered && route.public_url.is_none() {
            let text = format!(
                "{} signs the address that it calls; without `public_url` it is taken from the request's own headers",
                route.provider
            );
            self.warn(&at("public_url"), text);
        }
        if traits.body == Coverage::Uncovered {
            let (part, what) = if scheme.kind == Some(Kind::Jwt) {
                ("claims", "the token holds no digest of the body, as `sha256 = \"{sha256_hex:body}\"` would be")
            } else {
                ("signed", "the signature does not cover the whole body")
            };
            self.note(&at(part), format!("{what}: who has seen one request can write others"));
        }
        if route.ack.mode == AckMode::Sync {
            let text = format!(
                "route {} keeps nothing on disk: while the application is down its sender is told so",
                route.name
            );
            self.note(&self.shared_key(&route.name, "ack", "mode"), text);
        }
        if route.delivery.schedule == Schedule::Listed(Vec::new()) {
            let text = "an event whose first attempt fails goes to the dead letters at once".to_owned();
            self.warn(&self.shared_key(&route.name, "delivery", "retries"), text);
        }
    }

    /// Whether the provider's handshake is answered.
    fn challenge_notes(&mut self, route: &Route) {
        let at = |key: &str| keys(&["routes", &route.name, key]);
        match route.scheme.lacks_for_challenge(route.verify_token.as_ref()) {
            Some(Lack::VerifyToken) => {
                let text = format!(
                    "the handshake of {} is not answered; to turn it on, say `verify_token = {{ env = \"NAME\" }}` in \
                     [routes.{}], with the token that you gave {0}",
                    route.provider, route.name
                );
                self.note(&at("verify_token"), text);
            }
            Some(Lack::Pick) => {
                let text = format!(
                    "the handshake of {} is not answered; to turn it on, say `signature = {{ pick = \"your public key\" \
                     }}` in [routes.{}]",
                    route.provider, route.name
                );
                self.note(&at("signature"), text);
            }
            None => {}
        }
        if route.verify_token.is_some() && !route.scheme.takes_verify_token() {
            let text = format!("nothing asks for it: {} has no challenge that shows a token", route.provider);
            self.warn(&at("verify_token"), text);
        }
    }

    fn evidence_note(&mut self, route: &Route, traits: &SchemeTraits) {
        let how = match traits.verified {
            Some(Evidence::Unchecked) => "was never checked",
            Some(Evidence::SecondHand) => "was checked against other receivers only",
            Some(Evidence::Sdk | Evidence::Page) | None => return,
        };
        let text = format!("the scheme of {} {how}; send a test event before you rely on it", route.provider);
        self.note(&keys(&["routes", &route.name, "provider"]), text);
    }
}

/// A duration as the configuration writes it.
pub(super) fn span(duration: Duration) -> String {
    let millis = duration.as_millis();
    let days = duration.as_secs() >= 2 * 86_400;
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")];
    let fits = |(size, name): &(u128, &str)| millis >= *size && millis.is_multiple_of(*size) && (days || *name != "d");
    let unit = units.into_iter().find(fits);
    unit.map_or_else(|| format!("{millis}ms"), |(size, name)| format!("{}{name}", millis / size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_reads_as_it_is_written() {
        let seconds = [(30, "30s"), (90, "90s"), (300, "5m"), (82_800, "23h"), (86_400, "24h"), (259_200, "3d")];
        for (seconds, text) in seconds {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
        assert_eq!(span(Duration::from_millis(50)), "50ms");
    }
}

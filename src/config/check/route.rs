//! One route: its own keys, the tables it shares with the others, its provider and its secrets.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use figment::value::{Dict, Value};
use http::StatusCode;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};

use super::rules::span;
use super::{Check, Parts, keys, typed};
use crate::config::defaults::{self, lay};
use crate::config::fault::FaultKind;
use crate::config::find::reason;
use crate::config::layers::Origin;
use crate::config::leaf::{Name, RequestPath, Text};
use crate::config::raw::{RawAck, RawApp, RawConfig, RawDelivery, RawGrowing, RawRetries, RawRoute, RawRouteDedup};
use crate::config::settings::Server;
use crate::config::source::KeyPath;
use crate::domain::breaker::BreakerPolicy;
use crate::domain::pass_path::PassPath;
use crate::domain::route::{AckPolicy, AckReply, AppPolicy, DeliveryPolicy, Enforcement, HostHeader, Route};
use crate::domain::schedule::{Jitter, Schedule};
use crate::domain::scheme::RawScheme;

/// The label of requests that match no route.
const NO_ROUTE: &str = "_none";
/// Longest name of a route: it is a label in every metric.
const MOST_NAME: usize = 64;

impl Check<'_> {
    /// A route, or nothing if a fault stands in the way.
    pub(super) fn route(
        &mut self,
        name: &str,
        raw: &RawRoute,
        parts: &Parts,
        server: Option<&Server>,
    ) -> Option<Route> {
        self.route_name(name);
        let given = self.required(name, raw);
        let secrets = raw.secrets.as_ref().map(|raw| self.route_secrets(&keys(&["routes", name, "secrets"]), raw));
        let scheme = raw.provider.as_ref().and_then(|provider| self.scheme(name, &provider.0.0, parts));
        let about = scheme.as_ref().map(|(raw, _)| raw);
        let app = self.app(name);
        let ack = self.ack(name, about);
        let delivery = self.delivery(name);
        let dedup_ttl = self.ttl(name);
        let whole = self.whole_route(name)?;
        let methods: Vec<_> = whole.methods.iter().flatten().map(|method| method.0.clone()).collect();
        let max_body_bytes = whole.max_body_bytes?.length();
        self.route_rules(name, &methods, max_body_bytes);
        let verify_token = whole.verify_token.as_ref();
        let verify_token =
            verify_token.and_then(|raw| self.secret(&keys(&["routes", name, "verify_token"]), raw)).map(|(it, _)| it);
        let (path, provider) = given?;
        let (raw_scheme, scheme) = scheme?;
        let secrets = self.ready(name, &scheme, secrets?);
        let route = Route {
            name: Arc::from(name),
            path,
            provider,
            scheme,
            secrets,
            verify_token,
            enforcement: if whole.enforce? { Enforcement::Enforce } else { Enforcement::Observe },
            methods,
            max_body_bytes,
            events: whole.events.iter().flatten().map(|event| event.0.0.clone()).collect(),
            order_by: whole.order_by.map(|pointer| pointer.0.0),
            public_url: whole.public_url.map(|url| url.0.0),
            allow_from: whole.allow_from.iter().flatten().map(|network| network.0).collect(),
            app: app?,
            ack: ack?,
            dedup_ttl: dedup_ttl?,
            delivery: delivery?,
        };
        self.rules(&route, &raw_scheme, server);
        Some(route)
    }

    fn route_name(&mut self, name: &str) {
        let plain =
            name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte));
        if !plain || name.is_empty() || name.len() > MOST_NAME || name == NO_ROUTE {
            let found = format!("a route named {}", crate::config::layers::shown_text(name));
            let expected = format!("1 to {MOST_NAME} of a-z, 0-9, `_` and `-`, and not `{NO_ROUTE}`");
            self.fault(FaultKind::Value, &keys(&["routes", name]), found, expected);
        }
    }

    fn required(&mut self, name: &str, raw: &RawRoute) -> Option<(String, String)> {
        if raw.path.is_none() {
            self.missing(&keys(&["routes", name, "path"]), "a path such as \"/webhooks/name\"");
        }
        if raw.provider.is_none() {
            self.missing(&keys(&["routes", name, "provider"]), "the name of a provider; `hookgate providers list`");
        }
        match &raw.secrets {
            None => self.missing(&keys(&["routes", name, "secrets"]), "a list such as [{ env = \"NAME\" }]"),
            Some(secrets) if secrets.is_empty() => {
                let key = keys(&["routes", name, "secrets"]);
                if !self.faulted(&key) {
                    self.fault(FaultKind::Secret, &key, "an empty list", "a list such as [{ env = \"NAME\" }]");
                }
            }
            Some(_) => {}
        }
        Some((raw.path.as_ref()?.0.0.clone(), raw.provider.as_ref()?.0.0.clone()))
    }

    fn route_rules(&mut self, name: &str, methods: &[http::Method], max_body_bytes: usize) {
        let key = keys(&["routes", name, "methods"]);
        if methods.is_empty() && !self.faulted(&key) {
            self.fault(FaultKind::Value, &key, "an empty list", "at least one method");
        }
        let buffered = self.size_of(&["server", "max_buffered_bytes"]);
        if max_body_bytes == 0 || buffered.is_some_and(|buffered| max_body_bytes as u64 > buffered) {
            let found = format!("{max_body_bytes} bytes");
            let expected = "more than nothing and no more than `server.max_buffered_bytes`";
            self.fault(FaultKind::Conflict, &keys(&["routes", name, "max_body_bytes"]), found, expected);
        }
    }

    fn size_of(&self, path: &[&str]) -> Option<u64> {
        let mut value: &Value = self.clean.get(*path.first()?)?;
        for part in path.iter().skip(1) {
            value = value.as_dict()?.get(*part)?;
        }
        value.deserialize::<crate::config::leaf::Size>().ok().map(|size| size.0)
    }

    /// The route's own table over the defaults of a route.
    fn whole_route(&self, name: &str) -> Option<RawRoute> {
        typed(lay(defaults::route(), self.route_table(name)))
    }

    fn route_table(&self, name: &str) -> Dict {
        let routes = self.clean.get("routes").and_then(Value::as_dict);
        routes.and_then(|routes| routes.get(name)).and_then(Value::as_dict).cloned().unwrap_or_default()
    }

    /// A table that all routes share, with what this route says laid over it.
    fn shared(&self, name: &str, table: &str) -> Dict {
        let of = |dict: &Dict| dict.get(table).and_then(Value::as_dict).cloned().unwrap_or_default();
        lay(of(&self.clean), of(&self.route_table(name)))
    }

    /// The key of a shared table as it was given: the route's, if the route says anything about it.
    pub(super) fn shared_key(&self, name: &str, table: &str, key: &str) -> KeyPath {
        let own = keys(&["routes", name, table, key]);
        if self.layers.origin(&own) == Origin::Default { keys(&[table, key]) } else { own }
    }

    fn app(&mut self, name: &str) -> Option<AppPolicy> {
        let raw: RawApp = typed(self.shared(name, "app"))?;
        let ca = self.shared_key(name, "app", "ca");
        let policy = AppPolicy { ca: self.authorities(&ca, raw.ca.as_ref()), ..app_policy(raw)? };
        self.app_rules(&policy, &|check, key| check.shared_key(name, "app", key));
        Some(policy)
    }

    /// The application of no route: where requests pass through to.
    pub(super) fn shared_app(&mut self, raw: RawApp) -> Option<AppPolicy> {
        let ca = self.authorities(&keys(&["app", "ca"]), raw.ca.as_ref());
        let policy = AppPolicy { ca, ..app_policy(raw)? };
        self.app_rules(&policy, &|_, key| keys(&["app", key]));
        Some(policy)
    }

    /// The certificates in a file, in DER.
    fn authorities(&mut self, key: &[String], file: Option<&Text<Name>>) -> Option<Arc<[Vec<u8>]>> {
        let file = self.layers.directory(key).join(&file?.0.0);
        let read: Result<Vec<_>, _> = CertificateDer::pem_file_iter(&file).and_then(Iterator::collect);
        let found = match read {
            Ok(found) if found.iter().all(|one| RootCertStore::empty().add(one.clone()).is_ok()) => found,
            Ok(_) => Vec::new(),
            Err(pem::Error::Io(error)) => {
                self.unusable_authorities(key, format!("{}: {}", file.display(), reason(&error)));
                return None;
            }
            Err(error) => {
                self.unusable_authorities(key, format!("{}: {error}", file.display()));
                return None;
            }
        };
        if found.is_empty() {
            self.unusable_authorities(key, format!("{} without one that can be used", file.display()));
            return None;
        }
        Some(found.into_iter().map(|one| one.to_vec()).collect())
    }

    fn unusable_authorities(&mut self, key: &[String], found: String) {
        if !self.faulted(key) {
            self.fault(FaultKind::Value, key, found, "a file with certificates of authorities, PEM");
        }
    }

    /// What is wrong with an application, once however many routes share it.
    fn app_rules(&mut self, policy: &AppPolicy, key: &dyn Fn(&Self, &str) -> KeyPath) {
        let ca = key(self, "ca");
        if policy.ca.is_some() && !policy.url.is_https() && !self.faulted(&ca) {
            self.warn(&ca, "the application is reached by http://, where no certificate is looked at".to_owned());
        }
        for (name, span) in [("connect_timeout", policy.connect_timeout), ("attempt_timeout", policy.attempt_timeout)] {
            let path = key(self, name);
            if !self.faulted(&path) {
                self.longer_than_nothing(&path, span);
            }
        }
    }

    fn ack(&mut self, name: &str, scheme: Option<&RawScheme>) -> Option<AckPolicy> {
        let mut table = self.shared(name, "ack");
        if let Some(reply) = scheme.and_then(|scheme| scheme.about.as_ref()).and_then(|about| about.reply.as_ref()) {
            self.provider_reply(name, &mut table, reply);
        }
        let raw: RawAck = typed(table)?;
        let status = u16::try_from(raw.reply.status?.0).ok()?;
        let reply = AckReply {
            status: StatusCode::from_u16(status).ok()?,
            content_type: raw.reply.content_type?.0.0,
            body: Bytes::from(raw.reply.body?),
        };
        if matches!(status, 204 | 205) && !reply.body.is_empty() {
            let found = format!("{status} with a body");
            self.fault(
                FaultKind::Conflict,
                &self.shared_key(name, "ack", "reply"),
                found,
                "an empty `body` with this status",
            );
        }
        let policy = AckPolicy {
            budget: raw.budget?.0,
            reserve: raw.reserve?.0,
            mode: raw.mode?.0,
            on_app_failure: raw.on_app_failure?.0,
            on_app_rejection: raw.on_app_rejection?.0,
            reply,
        };
        if policy.reserve >= policy.budget {
            let found = format!("{}, and the budget is {}", span(policy.reserve), span(policy.budget));
            let key = self.shared_key(name, "ack", "reserve");
            let key =
                if self.layers.origin(&key) == Origin::Default { self.shared_key(name, "ack", "budget") } else { key };
            self.fault(FaultKind::Conflict, &key, found, "`ack.reserve` less than `ack.budget`");
        }
        Some(policy)
    }

    /// The acknowledgement that the provider wants to see stands where nobody gave another one.
    fn provider_reply(&self, name: &str, table: &mut Dict, reply: &crate::domain::scheme::RawReply) {
        let wanted = [
            ("status", reply.status.map(Value::from)),
            ("content_type", reply.content_type.clone().map(Value::from)),
            ("body", Some(Value::from(reply.body.clone().unwrap_or_default()))),
        ];
        let given = |key: &str| {
            let own = keys(&["routes", name, "ack", "reply", key]);
            let shared = keys(&["ack", "reply", key]);
            [own, shared].iter().any(|path| self.layers.origin(path) != Origin::Default)
        };
        let wanted = wanted.into_iter().filter_map(|(key, value)| value.map(|value| (key, value)));
        let reply: Dict = wanted.filter(|(key, _)| !given(key)).map(|(key, value)| (key.to_owned(), value)).collect();
        *table = lay(std::mem::take(table), Dict::from([("reply".to_owned(), Value::from(reply))]));
    }

    fn ttl(&mut self, name: &str) -> Option<Duration> {
        let mut table = self.shared(name, "dedup");
        table.retain(|key, _| key == "ttl");
        let raw: RawRouteDedup = typed(table)?;
        let ttl = raw.ttl?.0;
        self.longer_than_nothing(&self.shared_key(name, "dedup", "ttl"), ttl);
        Some(ttl)
    }

    fn delivery(&mut self, name: &str) -> Option<DeliveryPolicy> {
        let mut table = self.shared(name, "delivery");
        if let Some(Value::Dict(_, retries)) = table.get("retries") {
            let retries = lay(self.retries.clone(), retries.clone());
            table.insert("retries".to_owned(), Value::from(retries));
        }
        let raw: RawDelivery = typed(table)?;
        let key = self.shared_key(name, "delivery", "retries");
        let schedule = match raw.retries? {
            RawRetries::Growing(raw) => self.growing(&key, &raw)?,
            RawRetries::Listed(waits) => Schedule::Listed(waits.iter().map(|wait| wait.0).collect()),
        };
        let probe_every = raw.breaker.probe_every?.0;
        self.longer_than_nothing(&self.shared_key(name, "delivery", "breaker"), probe_every);
        let spool: crate::config::raw::RawSpool = typed(self.shared("", "spool"))?;
        Some(DeliveryPolicy {
            schedule,
            breaker: BreakerPolicy { failures: raw.breaker.failures?.small(), probe_every },
            rate_per_second: raw.rate.map(|rate| rate.0.0),
            max_age: spool.max_age?.0,
        })
    }

    fn growing(&mut self, key: &[String], raw: &RawGrowing) -> Option<Schedule> {
        let (first, max) = (raw.first.as_ref()?.0, raw.max.as_ref()?.0);
        if first.is_zero() || first > max {
            let found = format!("a first wait of {} and a longest of {}", span(first), span(max));
            self.fault(FaultKind::Conflict, key, found, "`first` longer than 0 and no longer than `max`");
        }
        Some(Schedule::Exponential {
            first,
            factor: raw.factor?.0,
            max,
            jitter: if raw.jitter? { Jitter::Spread } else { Jitter::Exact },
            attempts: raw.attempts?.small(),
        })
    }

    /// What passes through where the application gets the events of a route.
    pub(super) fn passed_around(&mut self, routes: &[Route], passthrough: &[PassPath], app: &AppPolicy) {
        for (index, pass) in passthrough.iter().enumerate() {
            let key = keys(&["passthrough", "paths", &index.to_string()]);
            let (PassPath::Exact(path) | PassPath::Below(path)) = pass;
            let reached = [app.url.prefix(), path].concat();
            let endpoint = |route: &Route| [route.app.url.prefix(), &*route.path].concat();
            let text = match pass {
                PassPath::Exact(path)
                    if routes.iter().any(|route| endpoint(route) == reached && *route.path != **path) =>
                {
                    format!("{path} never passes: {reached} is where the application gets verified events")
                }
                PassPath::Below(_) => {
                    let Some(route) = routes.iter().find(|route| endpoint(route).starts_with(&reached)) else {
                        continue;
                    };
                    format!(
                        "{path}* lies around the route path {}: what could be read as that path is answered 404, and \
                         everything else below {path} reaches the application unverified",
                        route.path
                    )
                }
                PassPath::Exact(_) => continue,
            };
            self.warn(&key, text);
        }
    }

    /// No two routes, and no route and no passed-through path, on one path.
    pub(super) fn paths(&mut self, raw: &RawConfig, passthrough: &[PassPath]) {
        let mut owners: BTreeMap<&str, KeyPath> = BTreeMap::new();
        for (name, route) in &raw.routes {
            let Some(RequestPath(path)) = route.path.as_ref().map(|path| &path.0) else { continue };
            let key = keys(&["routes", name, "path"]);
            self.claim_path(&mut owners, path, key);
        }
        for (index, pass) in passthrough.iter().enumerate() {
            let key = keys(&["passthrough", "paths", &index.to_string()]);
            if let PassPath::Exact(path) = pass {
                self.claim_path(&mut owners, path, key);
            }
        }
    }

    fn claim_path<'p>(&mut self, owners: &mut BTreeMap<&'p str, KeyPath>, path: &'p str, key: KeyPath) {
        if let Some(owner) = owners.get(path) {
            let found = format!("{path:?}, which `{}` has too", crate::config::source::dotted(owner));
            self.fault(FaultKind::Conflict, &key, found, "a path of its own");
        } else {
            owners.insert(path, key);
        }
    }
}

fn app_policy(raw: RawApp) -> Option<AppPolicy> {
    Some(AppPolicy {
        url: raw.url?.0,
        ca: None,
        connect_timeout: raw.connect_timeout?.0,
        attempt_timeout: raw.attempt_timeout?.0,
        max_in_flight: raw.max_in_flight?.size(),
        host: if raw.preserve_host? { HostHeader::Preserve } else { HostHeader::Rewrite },
    })
}

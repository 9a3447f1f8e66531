//! What is served: the routes by path, and the paths that pass through unverified. Replaced as a whole when the
//! configuration changes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::domain::pass_path::PassPath;
use crate::domain::route::{AppPolicy, Route};

/// Everything that depends on the configuration and may change while running.
#[derive(Debug)]
pub struct Site {
    routes: HashMap<String, Arc<Route>>,
    passthrough: Vec<PassPath>,
    /// The application behind the passthrough paths.
    pub app: AppPolicy,
    /// Networks whose `X-Forwarded-*` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Blank line to last body byte.
    pub body_timeout: Duration,
    /// Our reply taken by the sender.
    pub write_timeout: Duration,
}

/// What a path leads to.
#[derive(Clone, Debug)]
pub(crate) enum Destination {
    /// A configured route.
    Route(Arc<Route>),
    /// The application, unverified.
    Passthrough,
    /// Nothing.
    Nowhere,
}

impl Site {
    /// A site of `routes` and `passthrough` paths.
    #[must_use]
    pub fn new(routes: &[Arc<Route>], passthrough: Vec<PassPath>, app: AppPolicy) -> Self {
        Self {
            routes: routes.iter().map(|route| (route.path.clone(), route.clone())).collect(),
            passthrough,
            app,
            trusted_proxies: Vec::new(),
            body_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(10),
        }
    }

    /// Where `path` leads, matched raw and exactly.
    pub(crate) fn find(&self, path: &str) -> Destination {
        if let Some(route) = self.routes.get(path) {
            return Destination::Route(route.clone());
        }
        if self.passthrough.iter().any(|pass| pass.matches(path)) {
            return Destination::Passthrough;
        }
        Destination::Nowhere
    }
}

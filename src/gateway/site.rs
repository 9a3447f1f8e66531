//! What is served: the routes by path, and the paths that pass through unverified. Replaced as a whole when the
//! configuration changes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::domain::route::Route;

/// Everything that depends on the configuration and may change while running.
#[derive(Debug)]
pub struct Site {
    routes: HashMap<String, Arc<Route>>,
    passthrough: Vec<PassPath>,
    /// The application behind the passthrough paths.
    pub app_url: String,
    /// Networks whose `X-Forwarded-*` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Blank line to last body byte.
    pub body_timeout: Duration,
    /// Our reply taken by the sender.
    pub write_timeout: Duration,
}

/// A path that passes through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PassPath {
    /// This path.
    Exact(String),
    /// Every path that begins with this, which ends with a slash.
    Below(String),
}

impl PassPath {
    /// Raw and byte for byte; a path that could climb out of a prefix matches nothing.
    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => path == exact,
            Self::Below(prefix) => path.starts_with(prefix.as_str()) && !climbs(path),
        }
    }
}

/// Whether some reader of the path could take it for one outside its prefix.
fn climbs(path: &str) -> bool {
    let lower = path.to_ascii_lowercase();
    lower.split(['/', '\\']).any(|part| part.starts_with("..") || part == ".")
        || ["%2e", "%2f", "%5c", "%00", "\\", "//"].iter().any(|trick| lower.contains(trick))
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
    pub fn new(routes: &[Arc<Route>], passthrough: Vec<PassPath>, app_url: String) -> Self {
        Self {
            routes: routes.iter().map(|route| (route.path.clone(), route.clone())).collect(),
            passthrough,
            app_url,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_lets_through_what_lies_below_and_nothing_that_climbs_out() {
        let site =
            Site::new(&[], vec![PassPath::Below("/static/".into()), PassPath::Exact("/health".into())], String::new());
        for path in ["/static/a.css", "/static/a/b.js", "/health", "/static/"] {
            assert!(matches!(site.find(path), Destination::Passthrough), "{path}");
        }
        for path in
            ["/static", "/static/../admin", "/static/%2e%2e/admin", "/static/..;/x", "/healthz", "/static/a\\..\\b"]
        {
            assert!(matches!(site.find(path), Destination::Nowhere), "{path}");
        }
    }
}

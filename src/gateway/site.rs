//! What is served: the routes by path, and the paths that pass through unverified. Replaced as a whole when the
//! configuration changes.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::domain::pass_path::PassPath;
use crate::domain::route::{AppPolicy, Route};

/// Everything that depends on the configuration and may change while running.
#[derive(Debug)]
pub struct Site {
    routes: BTreeMap<String, Arc<Route>>,
    /// The paths at which applications get the routes' events, as they might read them.
    guarded: HashSet<String>,
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
            guarded: routes.iter().flat_map(|route| spellings(&route.app, &route.path)).collect(),
            passthrough,
            app,
            trusted_proxies: Vec::new(),
            body_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(10),
        }
    }

    /// Whether any path may pass through.
    pub(crate) fn passes_something_through(&self) -> bool {
        !self.passthrough.is_empty()
    }

    /// Where `path` leads, matched raw and exactly. What passes through unverified is no path that the application could
    /// take for a route's.
    pub(crate) fn find(&self, path: &str) -> Destination {
        if let Some(route) = self.routes.get(path) {
            return Destination::Route(route.clone());
        }
        if self.passthrough.iter().any(|pass| pass.matches(path)) && !self.is_like_a_route(path) {
            return Destination::Passthrough;
        }
        Destination::Nowhere
    }

    fn is_like_a_route(&self, path: &str) -> bool {
        spellings(&self.app, path).into_iter().any(|read| {
            let bare = read.rfind('.').filter(|dot| read.rfind('/').is_none_or(|slash| slash < *dot));
            self.guarded.contains(&read)
                || bare.is_some_and(|dot| read.get(..dot).is_some_and(|bare| self.guarded.contains(bare)))
        })
    }
}

/// A path as it reaches `app`, taken as it is, decoded once, and twice.
fn spellings(app: &AppPolicy, path: &str) -> [String; 3] {
    let whole = [app.url.prefix(), path].concat();
    let once = decoded(whole.as_bytes());
    let twice = decoded(&once);
    [whole.as_bytes(), &once, &twice].map(as_read)
}

/// A path as the most generous application reads it: letter case, `;parameters`, dots, repeated and trailing slashes,
/// backslashes and what cannot be printed make no difference. A format such as `.json` is left to the caller.
fn as_read(path: &[u8]) -> String {
    let text: String = path.iter().filter(|byte| byte.is_ascii_graphic()).map(|byte| char::from(*byte)).collect();
    // Decoded, these begin what is no path any more.
    let text = text.split(['?', '#']).next().unwrap_or_default();
    let mut parts: Vec<String> = Vec::new();
    for part in text.split(['/', '\\']) {
        match part.split(';').next().unwrap_or_default() {
            "" | "." => {}
            ".." => drop(parts.pop()),
            name => parts.push(name.to_ascii_lowercase()),
        }
    }
    parts.join("/")
}

/// A path without its percent-encodings; what is none stays.
fn decoded(path: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|digits| byte == b'%' && digits.iter().all(u8::is_ascii_hexdigit));
        let value = digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        bytes.push(value.unwrap_or(byte));
        rest = if value.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::app_url::AppUrl;
    use crate::domain::route;

    #[test]
    fn nothing_passes_through_that_could_be_read_as_a_route() {
        let routes = [Arc::new(route::fixture("hooks"))];
        let app = routes[0].app.clone();
        let site = Site::new(&routes, vec![PassPath::Below("/".into())], app);
        assert!(matches!(site.find("/hooks"), Destination::Route(_)));
        for path in [
            "/hooks/",
            "/Hooks",
            "/hook%73",
            "/hook%2573",
            "/%68ooks",
            "/hooks;a",
            "/hooks;a=b/",
            "/hooks%3ba",
            "/hooks%00",
            "/hooks%20",
            "/hooks%0a",
            "/hooks.json",
            "/hooks.",
            "/;x/hooks",
            "/hooks%3fa",
            "/hooks%23a",
            "/hooks/%2e",
            "/hooks%3f/x",
            "/hooks%253f/x",
            "/hooks%23/x/y",
        ] {
            assert!(matches!(site.find(path), Destination::Nowhere), "{path}");
        }
        for path in ["/", "/hook", "/hooks/more", "/other/hooks", "/hooksx", "/a.json"] {
            assert!(matches!(site.find(path), Destination::Passthrough), "{path}");
        }
    }

    #[test]
    fn what_passes_through_is_compared_where_the_application_has_it() {
        let at = |url: &str| AppPolicy { url: AppUrl::parse(url).expect("an address"), ..route::fixture("hooks").app };
        let passes = |routes: &str, other: &str, path: &str| {
            let route = Arc::new(Route { app: at(routes), ..route::fixture("hooks") });
            let site = Site::new(&[route], vec![PassPath::Below("/".into())], at(other));
            matches!(site.find(path), Destination::Passthrough)
        };
        let (bare, inner) = ("http://app:1", "http://app:1/inner/%69");
        for (routes, other, path, passed) in [
            (inner, inner, "/inner/i/hooks", true),
            (inner, inner, "/x/hooks", true),
            (inner, inner, "/Hooks/", false),
            (inner, bare, "/inner/i/hooks", false),
            (inner, bare, "/inner/%2569/hooks;x", false),
            (inner, bare, "/Hooks/", true),
            (bare, inner, "/hooks.json", true),
            (bare, inner, "/inner/i/hooks", true),
        ] {
            assert_eq!(passes(routes, other, path), passed, "{path} of {other} beside a route of {routes}");
        }
        let climbing = passes(bare, inner, "/../../hooks");
        assert!(!climbing, "some application climbs");
    }

    #[test]
    fn a_route_whose_path_is_encoded_is_guarded_as_it_is_read() {
        let route = Arc::new(Route { path: "/ho%6Fks".into(), ..route::fixture("hooks") });
        let app = route.app.clone();
        let site = Site::new(&[route], vec![PassPath::Below("/".into())], app);
        assert!(matches!(site.find("/hooks"), Destination::Nowhere));
        assert!(matches!(site.find("/ho%6Fks"), Destination::Route(_)));
    }

    #[test]
    fn only_what_is_an_encoding_is_decoded() {
        assert_eq!(decoded(b"/a%41%4g%4%"), b"/aA%4g%4%");
    }
}

//! Which paths pass through to the application unverified. It knows paths as text and nothing of requests.

/// A path that passes through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PassPath {
    /// This path.
    Exact(String),
    /// Every path that begins with this, which ends with a slash.
    Below(String),
}

impl PassPath {
    /// Whether a request for `path` passes, taken raw and byte for byte; a path that could climb out of a prefix matches nothing.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_lets_through_what_lies_below_and_nothing_that_climbs_out() {
        let below = PassPath::Below("/static/".into());
        for path in ["/static/a.css", "/static/a/b.js", "/static/"] {
            assert!(below.matches(path), "{path}");
        }
        let outside = ["/static", "/static/../admin", "/static/%2e%2e/admin", "/static/..;/x", "/static/a\\..\\b"];
        for path in outside {
            assert!(!below.matches(path), "{path}");
        }
    }

    #[test]
    fn an_exact_path_lets_through_itself_alone() {
        let health = PassPath::Exact("/health".into());
        assert!(health.matches("/health"));
        assert!(!health.matches("/healthz") && !health.matches("/health/"));
    }
}

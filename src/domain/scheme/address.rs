//! The address that a provider signs, in the pieces it is made of, so that its forms need not be written out.

use crate::domain::inbound::Inbound;

/// An absolute address. Put together its pieces give exactly the text it was read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Address<'a> {
    /// `https`, or nothing where there is none.
    scheme: &'a str,
    /// What stands between the scheme and the host.
    mark: &'static str,
    host: &'a str,
    /// With its colon, or nothing.
    port: &'a str,
    path: &'a str,
    query: Option<&'a str>,
}

impl<'a> Address<'a> {
    /// The address that the sender called: `public_url` if given, to which the request's own query is appended, else
    /// what the request itself says.
    pub(super) fn of(inbound: &'a Inbound, public_url: Option<&'a str>) -> Self {
        let query = inbound.query.as_deref();
        if let Some(url) = public_url {
            return Self { query, ..Self::without_query(url) };
        }
        let (host, port) = host_and_port(&inbound.authority);
        let scheme = if inbound.https { "https" } else { "http" };
        Self { scheme, mark: "://", host, port, path: &inbound.path, query }
    }

    /// An address of which only the query is of interest.
    pub(super) fn of_query(query: Option<&'a str>) -> Self {
        Self { query, ..Self::default() }
    }

    /// Reads `url`, whatever it is.
    pub(super) fn parse(url: &'a str) -> Self {
        match url.split_once('?') {
            Some((url, query)) => Self { query: Some(query), ..Self::without_query(url) },
            None => Self::without_query(url),
        }
    }

    fn without_query(url: &'a str) -> Self {
        let (scheme, mark, rest) = url.split_once("://").map_or(("", "", url), |(scheme, rest)| (scheme, "://", rest));
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = host_and_port(authority);
        Self { scheme, mark, host, port, path, query: None }
    }

    /// The query without its `?`.
    pub(super) const fn query(&self) -> Option<&'a str> {
        self.query
    }

    /// The pieces of the whole address.
    pub(super) fn whole(&self) -> [&'a str; 7] {
        let [path, mark, query] = self.path_and_query();
        [self.scheme, self.mark, self.host, self.port, path, mark, query]
    }

    /// The pieces of path and query; `/` where there is neither.
    pub(super) fn target(&self) -> [&'a str; 3] {
        if self.path.is_empty() && self.query.is_none() { ["/", "", ""] } else { self.path_and_query() }
    }

    fn path_and_query(&self) -> [&'a str; 3] {
        [self.path, if self.query.is_some() { "?" } else { "" }, self.query.unwrap_or_default()]
    }

    /// The same with its port taken off, or with its scheme's own port put on.
    pub(super) fn with_other_port(&self) -> Option<Self> {
        let port = match (self.port, self.scheme) {
            ("", "https") => ":443",
            ("", "http") => ":80",
            ("", _) => return None,
            (_, _) => "",
        };
        Some(Self { port, ..*self })
    }
}

/// The port with its colon. The colons of an IPv6 address stand in brackets.
fn host_and_port(authority: &str) -> (&str, &str) {
    let host_end = authority.rfind(']').map_or(0, |at| at + 1);
    let colon = authority.get(host_end..).and_then(|tail| tail.rfind(':'));
    colon.and_then(|at| authority.split_at_checked(host_end + at)).unwrap_or((authority, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_put_together_are_the_address() {
        for url in [
            "https://a.example/x?y:1",
            "http://a.example?y",
            "https://a.example:8443/x/y",
            "https://[::1]:443",
            "https://[::1]/x?",
            "a.example/x",
            "",
        ] {
            assert_eq!(Address::parse(url).whole().concat(), url);
        }
    }

    #[test]
    fn an_address_is_tried_with_and_without_its_port() {
        let second = |url: &str| Address::parse(url).with_other_port().map(|other| other.whole().concat());
        assert_eq!(second("https://a.example/x?y:1").as_deref(), Some("https://a.example:443/x?y:1"));
        assert_eq!(second("http://a.example?y").as_deref(), Some("http://a.example:80?y"));
        assert_eq!(second("https://a.example:8443/x").as_deref(), Some("https://a.example/x"));
        assert_eq!(second("https://[::1]/x").as_deref(), Some("https://[::1]:443/x"));
        assert_eq!(second("https://[::1]:443").as_deref(), Some("https://[::1]"));
    }

    #[test]
    fn a_path_keeps_its_query() {
        assert_eq!(Address::parse("https://a.example/x/y?z=1").target().concat(), "/x/y?z=1");
        assert_eq!(Address::parse("https://a.example").target().concat(), "/");
    }
}

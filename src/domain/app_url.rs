//! Where an application is, as the configuration says it: read once, and the same for whatever goes there.

use std::fmt;

/// `http://host[:port][/prefix]` or `https://…`, written without a trailing slash.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AppUrl {
    text: String,
    is_https: bool,
    host: String,
    port: u16,
    /// Where host and port as they were written end; they begin behind `://`.
    authority_end: usize,
}

impl AppUrl {
    /// Reads it; `None`: it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim_end_matches('/');
        let (scheme, rest) = text.split_once("://")?;
        let is_https = scheme.eq_ignore_ascii_case("https");
        let authority = rest.split('/').next()?;
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
            Some(_) | None => (authority, if is_https { 443 } else { 80 }),
        };
        let host = host.trim_matches(['[', ']']).to_owned();
        let is_one = (is_https || scheme.eq_ignore_ascii_case("http")) && !host.is_empty();
        (is_one && text.bytes().all(|byte| byte.is_ascii_graphic())).then(|| Self {
            text: text.to_owned(),
            is_https,
            host,
            port,
            authority_end: text.len() - rest.len() + authority.len(),
        })
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it is spoken to over TLS.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.is_https
    }

    /// Name or address, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, the scheme's own where none was written.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Host and port as they were written: `Host` where it is to be rewritten.
    #[must_use]
    pub fn authority(&self) -> &str {
        let whole = self.text.get(..self.authority_end).unwrap_or_default();
        whole.split_once("://").map_or(whole, |(_, authority)| authority)
    }

    /// What stands before the path of every request; empty, or with a slash at its beginning and none at its end.
    #[must_use]
    pub fn prefix(&self) -> &str {
        self.text.get(self.authority_end..).unwrap_or_default()
    }
}

impl fmt::Display for AppUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_from_its_url() {
        let read = |text| {
            let url = AppUrl::parse(text)?;
            let (authority, prefix) = (url.authority().to_owned(), url.prefix().to_owned());
            Some((url.host, url.port, url.is_https, authority, prefix))
        };
        let of = |host: &str, port, https, authority: &str, prefix: &str| {
            Some((host.to_owned(), port, https, authority.to_owned(), prefix.to_owned()))
        };
        assert_eq!(read("http://app"), of("app", 80, false, "app", ""));
        assert_eq!(read("http://app:8080/"), of("app", 8080, false, "app:8080", ""));
        assert_eq!(read("https://app/a/b/"), of("app", 443, true, "app", "/a/b"));
        assert_eq!(read("HTTPS://App:444/A"), of("App", 444, true, "App:444", "/A"));
        assert_eq!(read("Http://app"), of("app", 80, false, "app", ""));
        assert_eq!(read("http://[::1]:81/a"), of("::1", 81, false, "[::1]:81", "/a"));
        assert_eq!(read("https://[::1]"), of("::1", 443, true, "[::1]", ""));
        for text in ["app", "ftp://app", "http://", "http:///a", "http://app:x", "http://a b", "http://app/a b"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}

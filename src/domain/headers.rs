//! The header lines of a request or of an answer, in the order in which they came, repeated names and all.
//!
//! A list and not a table: there are a dozen lines, and to look at each of them costs less than to hash a name. How many there
//! may be is bounded where they are read (`gateway/head.rs`, `forward/wire.rs`).

use http::{HeaderMap, HeaderName, HeaderValue};

/// The lines. Letter case makes no difference to a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(HeaderName, HeaderValue)>);

/// What lines are looked for by.
pub trait Named {
    /// Whether `name` is the one that is looked for.
    fn is(&self, name: &HeaderName) -> bool;
}

impl Named for HeaderName {
    fn is(&self, name: &HeaderName) -> bool {
        self == name
    }
}

impl Named for str {
    fn is(&self, name: &HeaderName) -> bool {
        name.as_str().eq_ignore_ascii_case(self)
    }
}

impl<T: Named + ?Sized> Named for &T {
    fn is(&self, name: &HeaderName) -> bool {
        T::is(self, name)
    }
}

/// What becomes a line's name.
pub trait Name {
    /// The name.
    fn named(self) -> HeaderName;
}

impl Name for HeaderName {
    fn named(self) -> HeaderName {
        self
    }
}

impl Name for &HeaderName {
    fn named(self) -> HeaderName {
        self.clone()
    }
}

/// For names of our own, in lower case.
impl Name for &'static str {
    fn named(self) -> HeaderName {
        HeaderName::from_static(self)
    }
}

impl Headers {
    /// No lines.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// No lines, and room for so many.
    #[must_use]
    pub fn with_capacity(lines: usize) -> Self {
        Self(Vec::with_capacity(lines))
    }

    /// How many lines there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The lines in their order.
    #[must_use]
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&HeaderName, &HeaderValue)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    /// Each name once, where it stands first.
    pub fn keys(&self) -> impl Iterator<Item = &HeaderName> {
        let is_first = |at: usize, name: &HeaderName| !self.0.iter().take(at).any(|(before, _)| before == name);
        self.0.iter().enumerate().filter(move |(at, (name, _))| is_first(*at, name)).map(|(_, (name, _))| name)
    }

    /// The first value of a name.
    pub fn get(&self, name: impl Named) -> Option<&HeaderValue> {
        self.get_all(name).next()
    }

    /// The values of a name in their order.
    pub fn get_all<N: Named>(&self, name: N) -> impl Iterator<Item = &HeaderValue> + use<'_, N> {
        self.0.iter().filter(move |(known, _)| name.is(known)).map(|(_, value)| value)
    }

    /// Whether any line has a name.
    pub fn contains_key(&self, name: impl Named) -> bool {
        self.0.iter().any(|(known, _)| name.is(known))
    }

    /// Adds a line behind the others.
    pub fn append(&mut self, name: impl Name, value: HeaderValue) {
        self.0.push((name.named(), value));
    }

    /// Has a name stand once: where it stands first, or behind the others.
    pub fn insert(&mut self, name: impl Name, value: HeaderValue) {
        let (name, mut value) = (name.named(), Some(value));
        self.0.retain_mut(|(known, old)| *known != name || value.take().map(|new| *old = new).is_some());
        if let Some(value) = value {
            self.0.push((name, value));
        }
    }

    /// Takes all lines of a name out; gives the first value.
    pub fn remove(&mut self, name: impl Named) -> Option<HeaderValue> {
        let first = self.0.iter().position(|(known, _)| name.is(known))?;
        let (_, value) = self.0.remove(first);
        self.0.retain(|(known, _)| !name.is(known));
        Some(value)
    }

    /// Goes once through all lines; those that are not wanted are taken out.
    pub fn retain_mut(&mut self, mut wanted: impl FnMut(&HeaderName, &mut HeaderValue) -> bool) {
        self.0.retain_mut(|(name, value)| wanted(name, value));
    }

    /// Keeps the lines whose name is wanted.
    pub fn retain(&mut self, wanted: impl Fn(&HeaderName) -> bool) {
        self.0.retain(|(name, _)| wanted(name));
    }
}

impl<'a> IntoIterator for &'a Headers {
    type Item = (&'a HeaderName, &'a HeaderValue);
    type IntoIter = std::iter::Map<
        std::slice::Iter<'a, (HeaderName, HeaderValue)>,
        fn(&'a (HeaderName, HeaderValue)) -> Self::Item,
    >;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter().map(|(name, value)| (name, value))
    }
}

impl FromIterator<(HeaderName, HeaderValue)> for Headers {
    fn from_iter<I: IntoIterator<Item = (HeaderName, HeaderValue)>>(lines: I) -> Self {
        Self(lines.into_iter().collect())
    }
}

/// For libraries that send requests.
impl From<Headers> for HeaderMap {
    fn from(headers: Headers) -> Self {
        headers.0.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `a: 1`, `b: 2`, `a: 3`, `c: 4`.
    fn some() -> Headers {
        let mut headers = Headers::new();
        for (name, value) in [("a", "1"), ("b", "2"), ("a", "3"), ("c", "4")] {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    fn lines(headers: &Headers) -> Vec<(&str, &str)> {
        headers.iter().map(|(name, value)| (name.as_str(), value.to_str().expect("text"))).collect()
    }

    #[test]
    fn lines_keep_their_order_and_names_their_repetitions() {
        let headers = some();
        assert_eq!(lines(&headers), [("a", "1"), ("b", "2"), ("a", "3"), ("c", "4")]);
        assert!(headers.iter().eq(&headers));
        assert_eq!(headers.get_all("a").collect::<Vec<_>>(), ["1", "3"]);
        assert_eq!(headers.get_all("d").count(), 0);
        assert_eq!((headers.get("a"), headers.get("d")), (Some(&HeaderValue::from_static("1")), None));
        assert_eq!(headers.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!((headers.len(), headers.is_empty(), Headers::new().is_empty()), (4, false, true));
    }

    #[test]
    fn the_case_of_a_name_makes_no_difference_and_the_rest_of_it_does() {
        let mut headers = Headers::new();
        headers.append(HeaderName::from_bytes(b"X-Two-Words").expect("a name"), HeaderValue::from_static("1"));
        for name in ["X-Two-Words", "x-two-words", "X-TWO-WORDS"] {
            assert!(headers.contains_key(name), "{name}");
            assert!(headers.contains_key(HeaderName::from_bytes(name.as_bytes()).expect("a name")), "{name}");
        }
        for name in ["X-Two_Words", "X-Two-Word", "X-Two-Wordss", ""] {
            assert!(!headers.contains_key(name), "{name}");
        }
        assert!(!headers.contains_key(http::header::HOST));
    }

    #[test]
    fn what_is_put_in_stands_where_its_name_stood_first_and_only_there() {
        let mut headers = some();
        headers.insert("a", HeaderValue::from_static("5"));
        assert_eq!(lines(&headers), [("a", "5"), ("b", "2"), ("c", "4")]);
        headers.insert("d", HeaderValue::from_static("6"));
        assert_eq!(lines(&headers), [("a", "5"), ("b", "2"), ("c", "4"), ("d", "6")]);
    }

    #[test]
    fn a_name_is_taken_out_with_all_its_lines_and_no_other() {
        let mut headers = some();
        assert_eq!(headers.remove("A"), Some(HeaderValue::from_static("1")));
        assert_eq!(lines(&headers), [("b", "2"), ("c", "4")]);
        assert_eq!(headers.remove("a"), None);
        headers.retain(|name| name != "b");
        assert_eq!(lines(&headers), [("c", "4")]);
    }

    #[test]
    fn a_library_gets_every_line() {
        let map = HeaderMap::from(some());
        assert_eq!(map.get_all("a").iter().collect::<Vec<_>>(), ["1", "3"]);
        assert_eq!((map.len(), map["b"].as_bytes(), map["c"].as_bytes()), (4, &b"2"[..], &b"4"[..]));
        assert!(some().iter().map(|(n, v)| (n.clone(), v.clone())).collect::<Headers>().iter().eq(some().iter()));
    }
}

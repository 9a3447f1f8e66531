//! The providers that come with the binary, and what `extends` means.
//!
//! Each is one TOML file of the scheme language, embedded as text. Nothing here says what a scheme means.

mod list;
mod unsupported;

use toml_edit::{DocumentMut, Table, TableLike};

use self::list::PROVIDERS;
use self::unsupported::UNSUPPORTED;
pub use self::unsupported::Unsupported;
use crate::domain::scheme::RawScheme;

/// Longest chain of `extends`; a longer one goes round in a circle.
const MAX_CHAIN: usize = 8;

/// Why a provider could not be put together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExtendsFault {
    /// No provider has this name.
    #[error("no provider is called {0:?}")]
    Unknown(String),
    /// The chain of `extends` comes back to this provider, or is longer than eight.
    #[error("the chain of extends comes back to {0:?} or is longer than eight")]
    Circle(String),
    /// `extends` is not a text.
    #[error("extends is not the name of a provider")]
    NotAName,
}

/// The names of all built-in providers, sorted.
pub fn names() -> impl Iterator<Item = &'static str> {
    PROVIDERS.iter().map(|(name, _)| *name)
}

/// The providers that are known and cannot be checked here, sorted by name.
pub fn unsupported() -> impl Iterator<Item = &'static Unsupported> {
    UNSUPPORTED.iter()
}

/// Why the provider `name` cannot be checked here, if it is known for that.
#[must_use]
pub fn why_unsupported(name: &str) -> Option<&'static Unsupported> {
    UNSUPPORTED.iter().find(|unsupported| unsupported.name == name)
}

/// The text of a built-in provider, with its comments.
#[must_use]
pub fn text(name: &str) -> Option<&'static str> {
    PROVIDERS
        .binary_search_by(|(known, _)| (*known).cmp(name))
        .ok()
        .and_then(|at| PROVIDERS.get(at))
        .map(|(_, text)| *text)
}

/// A built-in provider as written; `extends` still in it.
#[must_use]
pub fn table(name: &str) -> Option<Table> {
    text(name)?.parse::<DocumentMut>().ok().map(|document| document.as_table().clone())
}

/// A built-in provider with its `extends` resolved, as it would be written.
#[must_use]
pub fn whole(name: &str) -> Option<DocumentMut> {
    resolve(table(name)?, &table).ok().map(DocumentMut::from)
}

/// A built-in provider with its `extends` resolved.
#[must_use]
pub fn scheme(name: &str) -> Option<RawScheme> {
    toml_edit::de::from_document(whole(name)?).ok()
}

/// `provider` with what it extends merged in under it. `find` gives providers by name, as written.
pub fn resolve(provider: Table, find: &dyn Fn(&str) -> Option<Table>) -> Result<Table, ExtendsFault> {
    let mut chain = vec![provider];
    while let Some(item) = chain.last_mut().and_then(|table| table.remove("extends")) {
        let name = item.as_str().ok_or(ExtendsFault::NotAName)?.to_owned();
        if chain.len() == MAX_CHAIN {
            return Err(ExtendsFault::Circle(name));
        }
        chain.push(find(&name).ok_or(ExtendsFault::Unknown(name))?);
    }
    let mut merged = chain.pop().unwrap_or_default();
    while let Some(over) = chain.pop() {
        merge(&mut merged, &over);
    }
    Ok(merged)
}

/// Puts `over` on top of `base`: tables key by key, everything else whole.
pub fn merge(base: &mut dyn TableLike, over: &dyn TableLike) {
    for (key, item) in over.iter() {
        match (base.get_mut(key).and_then(|item| item.as_table_like_mut()), item.as_table_like()) {
            (Some(base), Some(over)) => merge(base, over),
            _ => {
                base.insert(key, item.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::scheme::Scheme;

    fn parsed(text: &str) -> Table {
        text.parse::<DocumentMut>().expect("valid TOML").as_table().clone()
    }

    #[test]
    fn every_built_in_compiles_and_says_where_it_comes_from() {
        let names: Vec<_> = names().collect();
        assert!(names.len() >= 120, "{}", names.len());
        assert!(names.is_sorted());
        for name in names {
            let raw = scheme(name).unwrap_or_else(|| panic!("{name} does not parse"));
            let scheme = Scheme::compile(&raw).unwrap_or_else(|faults| panic!("{name}: {faults:?}"));
            let traits = scheme.traits();
            assert!(traits.source.is_some() && traits.verified.is_some(), "{name}");
            assert!(text(name).is_some_and(|text| text.starts_with("# ")), "{name}");
            let sources = [traits.source.as_deref(), text(name).and_then(|text| text.lines().next()?.get(2..))];
            assert_eq!(sources[0], sources[1], "{name} says its source twice, and the same");
        }
    }

    #[test]
    fn every_file_is_in_the_list() {
        let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/config/providers")).expect("a directory");
        let mut found: Vec<String> = files
            .map(|file| file.expect("readable").path().file_stem().expect("a name").to_string_lossy().into_owned())
            .collect();
        found.sort();
        assert_eq!(found, names().collect::<Vec<_>>());
    }

    #[test]
    fn what_is_not_supported_has_a_reason_and_is_not_built_in() {
        let names: Vec<_> = unsupported().map(|unsupported| unsupported.name).collect();
        assert!(names.len() >= 4 && names.is_sorted(), "{names:?}");
        for unsupported in unsupported() {
            assert_eq!(text(unsupported.name), None, "{}", unsupported.name);
            assert_eq!(why_unsupported(unsupported.name), Some(unsupported));
            for part in [unsupported.reason, unsupported.instead] {
                assert!(part.len() > 40 && !part.contains("  ") && !part.ends_with('.'), "{part}");
            }
        }
        assert_eq!(why_unsupported("stripe"), None);
    }

    #[test]
    fn a_table_is_taken_over_key_by_key() {
        let find = |name: &str| {
            (name == "base").then(|| parsed("signed = \"a\"\nkey = { strip = \"x\", encoding = \"hex\" }"))
        };
        let resolved = resolve(parsed("extends = \"base\"\nkey = { encoding = \"utf8\" }"), &find).expect("a base");
        let raw: RawScheme = toml_edit::de::from_document(DocumentMut::from(resolved)).expect("a scheme");
        let key = raw.key.expect("a key");
        assert_eq!(key.strip.as_deref(), Some("x"));
        assert_eq!(key.encoding, Some(crate::domain::scheme::KeyEncoding::Utf8));
        assert_eq!(raw.signed.as_deref(), Some("a"));
        assert_eq!(raw.extends, None);
    }

    #[test]
    fn a_circle_and_an_unknown_name_are_faults() {
        let find = |name: &str| (name == "a").then(|| parsed("extends = \"a\""));
        assert_eq!(resolve(parsed("extends = \"a\""), &find).err(), Some(ExtendsFault::Circle("a".into())));
        assert_eq!(resolve(parsed("extends = \"b\""), &find).err(), Some(ExtendsFault::Unknown("b".into())));
        assert_eq!(resolve(parsed("extends = 1"), &find).err(), Some(ExtendsFault::NotAName));
    }
}

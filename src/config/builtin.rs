//! The providers that come with the binary, and what `extends` means.
//!
//! Each is one TOML file of the scheme language, embedded as text. Nothing here says what a scheme means.

use toml_edit::{DocumentMut, Table, TableLike};

use crate::domain::scheme::RawScheme;

/// Longest chain of `extends`; a longer one goes round in a circle.
const MAX_CHAIN: usize = 8;

/// Names and texts, in the order of the names.
const PROVIDERS: &[(&str, &str)] = &[
    ("adyen", include_str!("../../config/providers/adyen.toml")),
    ("adyen_platform", include_str!("../../config/providers/adyen_platform.toml")),
    ("asana", include_str!("../../config/providers/asana.toml")),
    ("bitbucket", include_str!("../../config/providers/bitbucket.toml")),
    ("box", include_str!("../../config/providers/box.toml")),
    ("braintree", include_str!("../../config/providers/braintree.toml")),
    ("calendly", include_str!("../../config/providers/calendly.toml")),
    ("chargebee", include_str!("../../config/providers/chargebee.toml")),
    ("clerk", include_str!("../../config/providers/clerk.toml")),
    ("cloudflare_stream", include_str!("../../config/providers/cloudflare_stream.toml")),
    ("coinbase_commerce", include_str!("../../config/providers/coinbase_commerce.toml")),
    ("contentful", include_str!("../../config/providers/contentful.toml")),
    ("customerio", include_str!("../../config/providers/customerio.toml")),
    ("docusign", include_str!("../../config/providers/docusign.toml")),
    ("dropbox", include_str!("../../config/providers/dropbox.toml")),
    ("elevenlabs", include_str!("../../config/providers/elevenlabs.toml")),
    ("frameio", include_str!("../../config/providers/frameio.toml")),
    ("gitea", include_str!("../../config/providers/gitea.toml")),
    ("github", include_str!("../../config/providers/github.toml")),
    ("gitlab_signing_token", include_str!("../../config/providers/gitlab_signing_token.toml")),
    ("gitlab_token", include_str!("../../config/providers/gitlab_token.toml")),
    ("gocardless", include_str!("../../config/providers/gocardless.toml")),
    ("hubspot_v1", include_str!("../../config/providers/hubspot_v1.toml")),
    ("hubspot_v2", include_str!("../../config/providers/hubspot_v2.toml")),
    ("hubspot_v3", include_str!("../../config/providers/hubspot_v3.toml")),
    ("inngest", include_str!("../../config/providers/inngest.toml")),
    ("intercom", include_str!("../../config/providers/intercom.toml")),
    ("line", include_str!("../../config/providers/line.toml")),
    ("linear", include_str!("../../config/providers/linear.toml")),
    ("lithic", include_str!("../../config/providers/lithic.toml")),
    ("mailersend", include_str!("../../config/providers/mailersend.toml")),
    ("mailgun", include_str!("../../config/providers/mailgun.toml")),
    ("meta", include_str!("../../config/providers/meta.toml")),
    ("modern_treasury", include_str!("../../config/providers/modern_treasury.toml")),
    ("mux", include_str!("../../config/providers/mux.toml")),
    ("notion", include_str!("../../config/providers/notion.toml")),
    ("okta", include_str!("../../config/providers/okta.toml")),
    ("onfido", include_str!("../../config/providers/onfido.toml")),
    ("openai", include_str!("../../config/providers/openai.toml")),
    ("orb", include_str!("../../config/providers/orb.toml")),
    ("paddle", include_str!("../../config/providers/paddle.toml")),
    ("pagerduty", include_str!("../../config/providers/pagerduty.toml")),
    ("persona", include_str!("../../config/providers/persona.toml")),
    ("polar", include_str!("../../config/providers/polar.toml")),
    ("pusher", include_str!("../../config/providers/pusher.toml")),
    ("razorpay", include_str!("../../config/providers/razorpay.toml")),
    ("recurly", include_str!("../../config/providers/recurly.toml")),
    ("replicate", include_str!("../../config/providers/replicate.toml")),
    ("resend", include_str!("../../config/providers/resend.toml")),
    ("retell", include_str!("../../config/providers/retell.toml")),
    ("revenuecat", include_str!("../../config/providers/revenuecat.toml")),
    ("sanity", include_str!("../../config/providers/sanity.toml")),
    ("shopify", include_str!("../../config/providers/shopify.toml")),
    ("slack", include_str!("../../config/providers/slack.toml")),
    ("square", include_str!("../../config/providers/square.toml")),
    ("standardwebhooks", include_str!("../../config/providers/standardwebhooks.toml")),
    ("stripe", include_str!("../../config/providers/stripe.toml")),
    ("svix", include_str!("../../config/providers/svix.toml")),
    ("telegram", include_str!("../../config/providers/telegram.toml")),
    ("trello", include_str!("../../config/providers/trello.toml")),
    ("twilio", include_str!("../../config/providers/twilio.toml")),
    ("twitch", include_str!("../../config/providers/twitch.toml")),
    ("twitter", include_str!("../../config/providers/twitter.toml")),
    ("typeform", include_str!("../../config/providers/typeform.toml")),
    ("veedeo", include_str!("../../config/providers/veedeo.toml")),
    ("vercel", include_str!("../../config/providers/vercel.toml")),
    ("videopilot", include_str!("../../config/providers/videopilot.toml")),
    ("workos", include_str!("../../config/providers/workos.toml")),
    ("xero", include_str!("../../config/providers/xero.toml")),
    ("zendesk", include_str!("../../config/providers/zendesk.toml")),
    ("zoom", include_str!("../../config/providers/zoom.toml")),
];

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

/// A built-in provider with its `extends` resolved.
#[must_use]
pub fn scheme(name: &str) -> Option<RawScheme> {
    let resolved = resolve(table(name)?, &table).ok()?;
    toml_edit::de::from_document(DocumentMut::from(resolved)).ok()
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
        assert!(names.len() >= 60, "{}", names.len());
        assert!(names.is_sorted());
        for name in names {
            let raw = scheme(name).unwrap_or_else(|| panic!("{name} does not parse"));
            let scheme = Scheme::compile(&raw).unwrap_or_else(|faults| panic!("{name}: {faults:?}"));
            let traits = scheme.traits();
            assert!(traits.source.is_some() && traits.verified.is_some(), "{name}");
            assert!(text(name).is_some_and(|text| text.starts_with("# ")), "{name}");
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

//! The configuration of one gateway under test: short waits, five routes, everything on the loopback. A test adds or
//! replaces single lines, each `dotted.key = value`; the outcome is one TOML file without a table header.

use super::sign::Provider;

/// The lines of a configuration and the environment that goes with them.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    lines: Vec<(String, String)>,
    /// Variables of the gateway's process.
    pub(crate) environment: Vec<(String, String)>,
    /// A shell line to run before the gateway takes the shell's place, for limits of the operating system.
    pub(crate) shell: Option<String>,
}

/// Waits are short, for a test's sake; everything else is the default or larger than life needs it.
const QUICK: [&str; 5] = [
    "delivery.retries = { first = '200ms', factor = 1.0, max = '200ms', jitter = false, attempts = 1000 }",
    "delivery.breaker = { failures = 5, probe_every = '200ms' }",
    "spool.min_free_bytes = '1MiB'",
    "log.format = 'json'",
    "app.connect_timeout = '1s'",
];

impl Setup {
    /// Five routes to the application at `app_url`.
    pub(crate) fn new(app_url: &str) -> Self {
        let mut setup = Self { lines: Vec::new(), environment: Vec::new(), shell: None };
        setup.set(&format!("app.url = '{app_url}'"));
        for line in QUICK {
            setup.set(line);
        }
        for provider in Provider::ALL {
            let (name, variable) = (provider.name(), provider.variable());
            setup.set(&format!("routes.{name}.path = '{}'", provider.path()));
            setup.set(&format!("routes.{name}.provider = '{name}'"));
            setup.set(&format!("routes.{name}.secrets = [{{ env = '{variable}' }}]"));
            setup.environment.push((variable, provider.secret().to_owned()));
        }
        setup
    }

    /// The same with these lines added or replaced.
    pub(crate) fn with(mut self, lines: &[&str]) -> Self {
        for line in lines {
            self.set(line);
        }
        self
    }

    /// Adds a line or replaces the one with its key.
    pub(crate) fn set(&mut self, line: &str) {
        let (key, value) = line.split_once(" = ").expect("a line is `key = value`");
        match self.lines.iter_mut().find(|(k, _)| k == key) {
            Some(found) => value.clone_into(&mut found.1),
            None => self.lines.push((key.to_owned(), value.to_owned())),
        }
    }

    /// The file.
    pub(crate) fn text(&self) -> String {
        let lines: Vec<String> = self.lines.iter().map(|(key, value)| format!("{key} = {value}")).collect();
        lines.join("\n") + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_test_takes_the_place_of_the_default() {
        let setup = Setup::new("http://127.0.0.1:1").with(&["app.connect_timeout = '3s'", "ack.budget = '2s'"]);
        assert!(setup.text().contains("app.connect_timeout = '3s'\n") && setup.text().contains("ack.budget = '2s'\n"));
        assert_eq!(setup.text().matches("app.connect_timeout").count(), 1);
    }

    #[test]
    fn no_secret_stands_in_the_file() {
        let text = Setup::new("http://127.0.0.1:1").text();
        assert!(Provider::ALL.iter().all(|p| text.contains(&p.variable()) && !text.contains(p.secret())));
    }

    #[test]
    fn the_file_is_toml() {
        let document: toml_edit::DocumentMut = Setup::new("http://127.0.0.1:1").text().parse().unwrap();
        assert_eq!(document["routes"]["stripe"]["path"].as_str(), Some("/webhooks/stripe"));
    }
}

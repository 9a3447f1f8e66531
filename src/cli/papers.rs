//! What the program says about itself: help, version, manual page, completions.

use clap::CommandFactory;
use clap_complete::Shell;

use super::args::Arguments;
use super::output::{put, put_line};
use super::{Exit, Failure, Outcome};

/// The groups of the help; each command is in one.
const GROUPS: &[(&str, &[&str])] = &[
    ("Start", &["run", "demo", "healthcheck", "reload"]),
    ("Configure", &["config", "validate", "providers"]),
    ("Try", &["send", "verify", "explain"]),
    ("Look and repair", &["status", "events", "replay", "dlq", "spool", "dedup"]),
    ("More", &["completions", "man"]),
];

const EXAMPLES: &str = "\
Examples:
  hookgate demo                                             see it work, without a configuration
  hookgate config init > hookgate.toml && hookgate validate && hookgate run
  hookgate send veedeo task.completed                       a signed test event to the running gateway
";

const CODES: &str = "\
Exit codes: 0 ok, 1 failed, 2 usage, 3 would be refused, 65 spool damaged, 69 unreachable, 78 bad configuration
`hookgate COMMAND --help` says more.
";

/// The help of the program itself: its commands in groups.
pub(super) fn help_template() -> String {
    let command = Arguments::command();
    let about =
        |name: &str| command.find_subcommand(name).and_then(clap::Command::get_about).cloned().unwrap_or_default();
    let line = |name: &&str| format!("  {name:<12} {}\n", about(name));
    let group =
        |(title, names): &(&str, &[&str])| format!("\n{title}:\n{}", names.iter().map(line).collect::<String>());
    let groups: String = GROUPS.iter().map(group).collect();
    format!("{{about}}\n\nUsage: hookgate [OPTIONS] COMMAND\n{groups}\nOptions:\n{{options}}\n\n{EXAMPLES}\n{CODES}")
}

/// `hookgate --version`: with the commit where the build knew it.
pub(super) fn version() -> Outcome {
    let version = env!("CARGO_PKG_VERSION");
    put_line(&match option_env!("HOOKGATE_REVISION") {
        Some(revision) => format!("hookgate {version} ({revision})"),
        None => format!("hookgate {version}"),
    })?;
    Ok(Exit::Ok)
}

/// `hookgate` alone.
pub(super) fn help() -> Outcome {
    let text = Arguments::command().help_template(help_template()).render_help();
    put(text.to_string().as_bytes())?;
    Ok(Exit::Ok)
}

/// `hookgate completions SHELL`.
pub(super) fn completions(shell: Shell) -> Outcome {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "hookgate", &mut text);
    put(&text)?;
    Ok(Exit::Ok)
}

/// `hookgate man`.
pub(super) fn man() -> Outcome {
    let mut text = Vec::new();
    let page = clap_mangen::Man::new(Arguments::command().after_help(format!("{EXAMPLES}\n{CODES}")));
    page.render(&mut text).map_err(|error| Failure::failed(format!("cannot write the manual page: {error}")))?;
    put(&text)?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_in_one_group_of_the_help() {
        let command = Arguments::command();
        let mut known: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
        let mut grouped: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        known.sort_unstable();
        grouped.sort_unstable();
        assert!(!known.is_empty());
        assert_eq!(known, grouped);
    }

    #[test]
    fn the_command_line_makes_sense() {
        Arguments::command().debug_assert();
    }
}

//! What is shipped beside the binary agrees with it: ports, paths, variables, metrics, alerts and their runbook.
//!
//! It reads files and compares words. Whether Kubernetes, systemd or Prometheus accept the files is theirs to say
//! (`promtool`, `kubernetes-validate`, `systemd-analyze`).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that stops is a test that fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use hookgate::telemetry::catalogue::{self, CATALOGUE};

/// The defaults of the configuration that the files repeat.
const LISTEN_PORT: &str = "8080";
const TELEMETRY_PORT: &str = "9464";
const ADMIN_PORT: &str = "9465";
const SPOOL_PATH: &str = "/var/lib/hookgate";
const CONFIG_PATH: &str = "/etc/hookgate/hookgate.toml";
const APP_PORT: &str = "3000";
const SHUTDOWN_GRACE_SECONDS: u32 = 25;
const UNIT: &str = "deploy/systemd/hookgate.service";
const USER: &str = "65532";

fn read(path: &str) -> String {
    let full = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(full).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[track_caller]
fn says(path: &str, what: &str) {
    assert!(read(path).contains(what), "{path} does not say {what:?}");
}

/// The number behind the first `key` in a text.
#[track_caller]
fn number(text: &str, key: &str) -> u32 {
    let (_, behind) = text.split_once(key).unwrap_or_else(|| panic!("no {key:?}"));
    let digits: String = behind.trim_start().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("no number behind {key:?}"))
}

/// All words of a text that start with `prefix`, without it.
fn words<'a>(text: &'a str, prefix: &str) -> BTreeSet<&'a str> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !is_word(c)).filter_map(|word| word.strip_prefix(prefix)).filter(|w| !w.is_empty()).collect()
}

#[test]
fn the_image_listens_where_the_defaults_say_and_keeps_the_spool_on_a_volume() {
    let image = "deploy/Dockerfile";
    says(image, &format!("EXPOSE {LISTEN_PORT} {TELEMETRY_PORT}\n"));
    says(image, &format!("VOLUME [\"{SPOOL_PATH}\"]"));
    says(image, &format!("USER {USER}:{USER}\n"));
    says(image, "HEALTHCHECK");
    says(image, "CMD [\"/hookgate\", \"healthcheck\"]");
    assert!(!read(image).contains(&format!("EXPOSE {ADMIN_PORT}")), "the admin listener is for loopback");
}

#[test]
fn the_image_ends_with_a_stage_that_has_no_shell() {
    let text = read("deploy/Dockerfile");
    let last = text.lines().rfind(|line| line.starts_with("FROM ")).unwrap();
    assert_eq!(last, "FROM scratch");
    assert!(!text.split_once("\nFROM scratch\n").unwrap().1.contains("\nRUN "));
}

#[test]
fn compose_mounts_what_the_gateway_reads_and_gives_it_time_to_drain() {
    let compose = "deploy/compose.yaml";
    says(compose, &format!("./hookgate.toml:{CONFIG_PATH}:ro"));
    says(compose, &format!("spool:{SPOOL_PATH}"));
    says(compose, &format!("\"{LISTEN_PORT}:{LISTEN_PORT}\""));
    says(compose, &format!("127.0.0.1:{TELEMETRY_PORT}:{TELEMETRY_PORT}"));
    assert!(number(&read(compose), "stop_grace_period:") > SHUTDOWN_GRACE_SECONDS);
    says("deploy/hookgate.toml", &format!("url = \"http://app:{APP_PORT}\""));
    says("deploy/hookgate.toml", "/run/secrets/veedeo");
    says("deploy/example-app/app.py", APP_PORT);
    assert!(!read("deploy/secrets/veedeo.development").ends_with('\n'));
}

#[test]
fn the_pod_probes_the_gateway_alone_and_gives_it_time_to_drain() {
    let pod = "deploy/kubernetes/sidecar/statefulset.yaml";
    says(pod, "restartPolicy: Always");
    says(pod, &format!("containerPort: {LISTEN_PORT}"));
    says(pod, &format!("containerPort: {TELEMETRY_PORT}"));
    says(pod, &format!("mountPath: {SPOOL_PATH}\n"));
    says(pod, &format!("runAsUser: {USER}\n"));
    let text = read(pod);
    assert_eq!(text.matches("port: telemetry").count(), 3, "three probes, all on the telemetry listener");
    assert_eq!(text.matches("path: /livez").count(), 1);
    assert_eq!(text.matches("path: /readyz").count(), 2);
    assert!(
        number(&text, "terminationGracePeriodSeconds:")
            > SHUTDOWN_GRACE_SECONDS + number(&text, "\n                seconds:")
    );
    says("deploy/kubernetes/sidecar/configmap.yaml", &format!("path = \"{SPOOL_PATH}/spool\""));
    says("deploy/kubernetes/sidecar/configmap.yaml", &format!("http://127.0.0.1:{APP_PORT}"));
}

#[test]
fn the_unit_reloads_drains_and_does_not_retry_a_wrong_configuration() {
    says(UNIT, &format!("hookgate run --config {CONFIG_PATH}\n"));
    says(UNIT, "ExecReload=/bin/kill -HUP $MAINPID\n");
    says(UNIT, "RestartPreventExitStatus=78\n");
    says(UNIT, &format!("StateDirectory={}\n", SPOOL_PATH.trim_start_matches("/var/lib/")));
    assert!(number(&read(UNIT), "TimeoutStopSec=") > SHUTDOWN_GRACE_SECONDS);
    says("deploy/systemd/hookgate.service.d/credentials.conf", "LoadCredential=veedeo:");
}

#[test]
fn variables_in_the_files_are_ones_that_something_reads() {
    let read_at_build = ["REVISION"];
    let sections =
        ["LISTEN", "TELEMETRY", "ADMIN", "CONFIG", "SERVER__", "APP__", "ACK__", "DEDUP__", "SPOOL__", "LOG__"];
    let mut found = 0;
    for path in ["deploy/Dockerfile", "deploy/compose.yaml", "deploy/kubernetes/sidecar/statefulset.yaml", UNIT] {
        for name in words(&read(path), "HOOKGATE_") {
            found += 1;
            let known = read_at_build.contains(&name) || sections.iter().any(|section| name.starts_with(section));
            assert!(known, "{path} sets HOOKGATE_{name}, which nothing reads");
        }
    }
    assert!(found > 0, "no variable found");
    says("src/telemetry/metrics.rs", "option_env!(\"HOOKGATE_REVISION\")");
}

#[test]
fn prometheus_scrapes_the_telemetry_listener() {
    says("deploy/prometheus/prometheus.yml", &format!("hookgate:{TELEMETRY_PORT}"));
    says("deploy/prometheus/prometheus.yml", "- rules.yml");
}

#[test]
fn alerts_ask_for_metrics_and_words_that_exist() {
    let rules = read("deploy/prometheus/rules.yml");
    let names: BTreeSet<&str> = CATALOGUE.iter().map(|spec| spec.name).collect();
    let asked = words(&rules, "hookgate_");
    assert!(asked.len() >= 12, "only {asked:?}");
    for name in asked {
        let family = name.trim_end_matches("_bucket").trim_end_matches("_count").trim_end_matches("_sum");
        assert!(names.contains(family), "rules.yml asks for hookgate_{name}, which does not exist");
    }
    let reasons = rules.split_once("reason=~\"spool_full").unwrap().1.split('"').next().unwrap();
    for reason in format!("spool_full{reasons}").split('|') {
        assert!(catalogue::refusal_reasons().any(|known| known == reason), "no reason is called {reason}");
    }
}

#[test]
fn every_alert_has_its_test_and_its_section_in_the_runbook() {
    let (rules, tests, runbook) =
        (read("deploy/prometheus/rules.yml"), read("deploy/prometheus/rules_test.yml"), read("docs/OPERATIONS.md"));
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() >= 10, "only {alerts:?}");
    for alert in &alerts {
        assert!(tests.contains(&format!("alertname: {alert}\n")), "{alert} is not tested");
        assert!(runbook.contains(&format!("\n## {alert}\n")), "{alert} has no section in docs/OPERATIONS.md");
        let anchor = format!("runbook: docs/OPERATIONS.md#{}\n", alert.to_lowercase());
        assert!(rules.contains(&anchor), "{alert} does not point to its section");
    }
    let sections = runbook.lines().filter(|line| line.starts_with("## Hookgate")).count();
    assert_eq!(sections, alerts.len(), "a section of the runbook has no alert");
}

#[test]
fn the_metrics_page_and_the_catalogue_list_the_same() {
    let page = read("docs/METRICS.md");
    for spec in CATALOGUE {
        let labels: Vec<String> = spec.labels.iter().map(|label| format!("`{label}`")).collect();
        let labels = if labels.is_empty() { " ".to_owned() } else { format!(" {} ", labels.join(", ")) };
        let row = format!("| `hookgate_{}` | {} |{labels}| {} |\n", spec.name, spec.kind.as_str(), spec.help);
        assert!(page.contains(&row), "docs/METRICS.md lacks\n{row}");
    }
    let rows = page.lines().filter(|line| line.starts_with("| `hookgate_")).count();
    assert_eq!(rows, CATALOGUE.len(), "docs/METRICS.md lists a metric that does not exist");
    let listed = page.split_once("## Labels").unwrap().1;
    let words = catalogue::refusal_reasons()
        .chain(catalogue::DEAD_REASONS)
        .chain(catalogue::DEDUP_RESULTS)
        .chain(catalogue::DEDUP_OPS)
        .chain(catalogue::SPOOL_OPS)
        .chain(catalogue::SPOOL_STATES)
        .chain(catalogue::STORES)
        .chain(hookgate::domain::outcome::Settled::DISPOSITIONS)
        .chain(hookgate::domain::outcome::Outcome::WORDS);
    for word in words {
        assert!(listed.contains(&format!("`{word}`")), "docs/METRICS.md does not list {word}");
    }
}

#[test]
fn the_house_has_its_papers() {
    says("LICENSE-MIT", "MIT License");
    says("LICENSE-APACHE", "Version 2.0, January 2004");
    for paper in ["LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "deny.toml"] {
        assert!(read(paper).len() > 300, "{paper} is empty");
    }
}

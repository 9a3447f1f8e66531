//! docs/PROVIDERS.md against the product: its examples are configurations that are accepted, its requests are signed as
//! it says, and its tables list what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

use hookgate::config::{Config, Environment, Layers};
use hookgate::domain::headers::Headers;
use hookgate::domain::inbound::Inbound;
use hookgate::domain::refusal::Refusal;
use hookgate::domain::scheme::{Key, PARTS};
use hookgate::domain::time::Timestamp;
use serde_json::Value;

use super::read;

const PAGE: &str = "docs/PROVIDERS.md";
/// When the page's requests were signed: 2025-10-09T08:53:20Z.
const NOW: Timestamp = Timestamp::from_seconds(1_760_000_000);

/// The part of the page under the heading `name`.
fn section(page: &str, name: &str) -> String {
    let after = page.split_once(&format!("\n## {name}\n")).unwrap_or_else(|| panic!("no section {name}")).1;
    after.split("\n## ").next().unwrap().to_owned()
}

/// The code blocks of one language.
fn blocks<'t>(text: &'t str, language: &str) -> Vec<&'t str> {
    let open = format!("```{language}\n");
    text.split(open.as_str()).skip(1).map(|block| block.split_once("\n```").unwrap().0).collect()
}

fn accepted(toml: &str, variables: &[(&str, &str)]) -> Config {
    let environment = Environment::of(NOW, variables.iter().copied());
    let layers = Layers::of_text(PAGE, toml, &environment).unwrap_or_else(|faults| panic!("{}", faults.plain()));
    layers.check().unwrap_or_else(|faults| panic!("{toml}\n{}", faults.plain()))
}

/// The request of an HTTP block.
fn request(text: &str) -> Inbound {
    let (head, body) = text.split_once("\n\n").unwrap();
    let mut lines = head.lines();
    let words: Vec<&str> = lines.next().unwrap().split(' ').collect();
    let (path, query) = words[1].split_once('?').map_or((words[1], None), |(path, query)| (path, Some(query)));
    let mut headers = Headers::new();
    for line in lines {
        let (name, value) = line.split_once(": ").unwrap();
        headers.append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    }
    Inbound {
        method: words[0].parse().unwrap(),
        path: path.to_owned(),
        query: query.map(str::to_owned),
        authority: headers.get("host").unwrap().to_str().unwrap().to_owned(),
        headers,
        body: body.to_owned().into(),
        https: false,
        remote: IpAddr::V4(Ipv4Addr::LOCALHOST),
    }
}

/// The event type of a request that the configuration's only route accepts.
fn judge(config: &Config, inbound: Inbound) -> Result<Option<String>, Refusal> {
    let route = &config.routes[0];
    let keys: Vec<(usize, &Key)> = route.secrets.iter().map(|secret| &secret.key).enumerate().collect();
    let verified = route.scheme.verify(inbound, &keys, route.public_url.as_deref())?;
    route.scheme.check_freshness(&verified, NOW)?;
    Ok(route.scheme.event_type(&verified).map(str::to_owned))
}

#[test]
fn every_example_is_a_configuration_that_accepts_its_request_and_no_other() {
    let page = read(PAGE);
    let examples = section(&page, "Examples");
    let mut count = 0;
    for example in examples.split("\n### ").skip(1) {
        let title = example.lines().next().unwrap();
        let (tomls, requests) = (blocks(example, "toml"), blocks(example, "http"));
        assert_eq!((tomls.len(), requests.len()), (1, 1), "{title}");
        let setting = example.split("With `").nth(1).unwrap().split('`').next().unwrap();
        let config = accepted(tomls[0], &[setting.split_once('=').unwrap()]);
        let inbound = request(requests[0]);
        assert_eq!(config.routes[0].path, inbound.path, "{title}");
        let event_type = judge(&config, inbound.clone());
        assert!(matches!(&event_type, Ok(Some(_))), "{title}: {event_type:?}");
        for at in 0..inbound.body.len() {
            let mut body = inbound.body.to_vec();
            body[at] ^= 1;
            let refused = judge(&config, Inbound { body: body.into(), ..inbound.clone() });
            assert_eq!(refused, Err(Refusal::SignatureMismatch), "{title}: byte {at}");
        }
        count += 1;
    }
    assert_eq!(count, 5);
}

#[test]
fn every_other_block_of_the_page_is_a_configuration_too() {
    let page = read(PAGE);
    let others = page.replace(&section(&page, "Examples"), "");
    let blocks = blocks(&others, "toml");
    assert!(!blocks.is_empty());
    for toml in blocks {
        let names = ["STRIPE_SECRET", "META_APP_SECRET", "META_VERIFY_TOKEN"];
        accepted(toml, &names.map(|name| (name, "it-is-a-secret-of-a-test")));
    }
}

/// The cells of the rows of a text's tables.
fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let is_row = |line: &&str| line.starts_with("| ") && !line.starts_with("| key |") && !line.starts_with("| name |");
    text.lines().filter(is_row).map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
}

fn code(cell: &str) -> String {
    cell.trim_matches('`').to_owned()
}

/// The dotted keys of a type in the published schema.
fn keys_of(schema: &Value, name: &str, prefix: &str, found: &mut BTreeSet<String>) {
    for (key, value) in schema["definitions"][name]["properties"].as_object().unwrap() {
        let path = format!("{prefix}{key}");
        let text = value.to_string();
        let inner = text.split("#/definitions/").nth(1).map(|rest| rest.split('"').next().unwrap().to_owned());
        if let Some(inner) = inner.filter(|inner| schema["definitions"][inner]["properties"].is_object()) {
            keys_of(schema, &inner, &format!("{path}."), found);
        }
        found.insert(path);
    }
}

#[test]
fn the_page_lists_every_key_of_the_language_and_no_other() {
    let page = read(PAGE);
    let every = section(&page, "Every key");
    let table = every.split("\n### ").next().unwrap();
    let listed: BTreeSet<String> = rows(table).map(|cells| code(cells[0])).collect();
    let schema: Value = serde_json::from_str(&read("config/hookgate.schema.json")).unwrap();
    let mut there = BTreeSet::new();
    keys_of(&schema, "RawScheme", "", &mut there);
    assert!(there.len() > 50 && PARTS.iter().all(|part| there.contains(*part)), "{there:?}");
    let missing: Vec<&String> = there.difference(&listed).collect();
    let invented: Vec<&String> = listed.difference(&there).collect();
    assert!(missing.is_empty() && invented.is_empty(), "missing: {missing:?}, invented: {invented:?}");
}

#[test]
fn the_page_lists_every_part_of_a_template() {
    let page = read(PAGE);
    let every = section(&page, "Every key");
    let part = every.split("\n### ").find(|part| part.starts_with("The template")).unwrap();
    let listed: BTreeSet<String> = rows(part).map(|cells| code(cells[0])).filter(|part| part != "part").collect();
    let schema: Value = serde_json::from_str(&read("config/hookgate.schema.json")).unwrap();
    let said = schema["definitions"]["RawScheme"]["properties"]["signed"]["description"].as_str().unwrap();
    let known: BTreeSet<String> =
        said.split('{').skip(1).filter_map(|rest| Some(format!("{{{}}}", rest.split_once('}')?.0))).collect();
    assert!(known.len() > 10, "{said}");
    assert_eq!(listed, known);
}

fn providers() -> Vec<BTreeMap<String, Value>> {
    let output = Command::new(env!("CARGO_BIN_EXE_hookgate")).args(["providers", "list", "--json"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_page_lists_every_built_in_with_its_source_and_evidence() {
    let page = read(PAGE);
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let row = |facts: &BTreeMap<String, Value>| {
        let [name, kind, place, time, verified, source] =
            ["name", "kind", "place", "timestamp", "verified", "source"].map(|key| text(&facts[key]));
        format!("| `{name}` | {kind} | `{place}` | {time} | {verified} | {source} |")
    };
    let all = providers();
    let wanted: Vec<String> = all.iter().filter(|facts| facts["unsupported"].is_null()).map(row).collect();
    assert!(wanted.len() >= 140, "{}", wanted.len());
    let there = section(&page, "What is built in");
    let there: Vec<&str> = there.lines().filter(|line| line.starts_with("| `")).collect();
    assert!(there == wanted, "the table of {PAGE} is to be:\n{}", wanted.join("\n"));
}

#[test]
fn the_page_lists_what_is_not_supported_with_the_reason() {
    let page = read(PAGE);
    let refused: Vec<(String, String)> = providers()
        .iter()
        .filter_map(|facts| {
            let why = facts["unsupported"].as_str()?.split_once("; instead: ")?.0.to_owned();
            Some((facts["name"].as_str()?.to_owned(), why))
        })
        .collect();
    assert!(refused.len() >= 4, "{refused:?}");
    let table = section(&page, "What is not supported");
    let listed: Vec<(String, String)> = rows(&table)
        .map(|cells| (code(cells[0]), cells[1].to_owned()))
        .filter(|(name, _)| name != "provider")
        .collect();
    assert_eq!(listed, refused);
}

#[test]
fn the_number_of_built_ins_is_right_wherever_it_is_told() {
    let number = providers().iter().filter(|facts| facts["unsupported"].is_null()).count();
    for (paper, sentence) in [
        ("README.md", format!("{number} providers are built in")),
        ("CHANGELOG.md", format!("{number} built-in providers")),
    ] {
        assert!(read(paper).contains(&sentence), "{paper} does not say {sentence:?}");
    }
}

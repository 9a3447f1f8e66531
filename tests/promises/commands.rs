//! The commands of section 6 of the contract, run as a user runs them.

use std::time::Duration;

use data_encoding::{BASE64, HEXLOWER};

use crate::world::act::{accept, answer};
use crate::world::app::App;
use crate::world::clock::eventually;
use crate::world::events::{task, task_at};
use crate::world::gateway::Gateway;
use crate::world::output::Finished;
use crate::world::sender::{Request, send};
use crate::world::setup::Setup;
use crate::world::sign::Provider;
use crate::world::{world, world_without_app};

/// A line of the file that `verify` reads.
fn captured(route: &str, request: &Request) -> String {
    let headers: Vec<[String; 2]> =
        request.headers.iter().map(|(n, v)| [n.clone(), String::from_utf8_lossy(v).into_owned()]).collect();
    let url = format!("https://hooks.example.com{}", request.target);
    let (method, body) = (&request.method, BASE64.encode(&request.body));
    serde_json::json!({"route": route, "method": method, "url": url, "headers": headers, "body_b64": body}).to_string()
}

fn verify(lines: &[String], at: i64) -> Finished {
    let app = App::stopped();
    let gateway = Gateway::prepared(Setup::new(&app.url()));
    let path = gateway.folder().join("captured.jsonl");
    std::fs::write(&path, lines.join("\n") + "\n").unwrap();
    gateway.ask(&["verify", "--at", &at.to_string(), "--input", &path.to_string_lossy()])
}

#[test]
fn verify_checks_captured_requests_offline() {
    let at = 1_760_000_000;
    let signed = |provider: Provider, ago: i64, secret: &str| {
        let body = task_at(1, "2025-10-09T08:53:20Z", "task.completed");
        captured(provider.name(), &provider.sign_at(body, at - ago, secret))
    };
    let mut lines: Vec<String> = Provider::ALL.iter().map(|p| signed(*p, 10, p.secret())).collect();
    let good = verify(&lines, at);
    assert_eq!(good.code, Some(0), "{good:?}");
    for (n, row) in good.json_lines().iter().enumerate() {
        let expected = serde_json::json!({"line": n + 1, "verdict": "accept", "reason": null, "secret": 0});
        for (key, value) in expected.as_object().unwrap() {
            assert_eq!(&row[key], value, "{row}");
        }
    }
    assert_eq!(good.json_lines().len(), 5);

    lines.push(signed(Provider::Veedeo, 10, "another secret"));
    lines.push(signed(Provider::Stripe, 1000, Provider::Stripe.secret()));
    let mixed = verify(&lines, at);
    assert_eq!(mixed.code, Some(3), "{mixed:?}");
    let rows = mixed.json_lines();
    assert_eq!((rows[5]["verdict"].as_str(), rows[5]["reason"].as_str()), (Some("refuse"), Some("signature_mismatch")));
    assert_eq!((rows[6]["verdict"].as_str(), rows[6]["reason"].as_str()), (Some("refuse"), Some("timestamp_stale")));
}

#[test]
fn status_tells_what_waits_where() {
    let world = world_without_app(&[]);
    world.veedeo(task(1));
    world.veedeo(task(2));
    let rows = world.gateway.rows(&["status"]);
    assert_eq!(rows.len(), 1);
    let status = &rows[0];
    assert!(status["version"].is_string());
    let names: Vec<&str> = status["routes"].as_array().unwrap().iter().filter_map(|r| r["name"].as_str()).collect();
    assert_eq!(names.len(), 5);
    let veedeo = status["routes"].as_array().unwrap().iter().find(|r| r["name"] == "veedeo").unwrap();
    assert_eq!((veedeo["pending"].as_u64(), veedeo["dead"].as_u64()), (Some(2), Some(0)), "{status}");
    assert!(veedeo["app_up"].is_boolean() && veedeo["oldest_seconds"].is_number(), "{status}");
    assert_eq!((status["spool"]["pending"].as_u64(), status["spool"]["dead"].as_u64()), (Some(2), Some(0)));
    assert!(status["spool"]["bytes"].as_u64().is_some_and(|bytes| bytes > 0));
    assert_eq!((status["dedup"]["store"].as_str(), status["dedup"]["up"].as_bool()), (Some("embedded"), Some(true)));
}

#[test]
fn without_a_gateway_a_command_that_needs_one_says_so() {
    let app = App::stopped();
    let gateway = Gateway::prepared(Setup::new(&app.url()));
    for arguments in [&["status", "--json"][..], &["dlq", "list"]] {
        let finished = gateway.ask(arguments);
        assert_eq!(finished.code, Some(69), "{finished:?}");
        assert!(finished.stderr.contains(&gateway.admin_address()), "names the address: {finished:?}");
        assert!(finished.stdout.is_empty());
    }
}

#[test]
fn healthcheck_is_a_probe() {
    let mut world = world();
    assert_eq!(world.gateway.ask(&["healthcheck"]).code, Some(0));
    world.gateway.stop();
    let finished = world.gateway.ask(&["healthcheck"]);
    assert!(matches!(finished.code, Some(1 | 69)), "{finished:?}");
}

#[test]
fn validate_accepts_the_good_and_names_the_bad() {
    let world = world_without_app(&[]);
    let path = world.gateway.configuration_path();
    let good = world.gateway.run(&["validate", &path.to_string_lossy()]);
    assert_eq!(good.code, Some(0), "{good:?}");
    let bad = world.gateway.folder().join("bad.toml");
    std::fs::write(&bad, std::fs::read_to_string(&path).unwrap() + "acks.budget = '3s'\n").unwrap();
    let refused = world.gateway.run(&["validate", &bad.to_string_lossy()]);
    assert_eq!(refused.code, Some(78), "{refused:?}");
    let said = refused.stdout + &refused.stderr;
    assert!(said.contains("acks") && said.contains("bad.toml"), "{said}");
}

#[test]
fn dead_letters_can_be_listed_exported_retried_and_dropped() {
    let world = world();
    let bodies: Vec<Vec<u8>> = (0..3).map(task).collect();
    world.app.first([answer(422), answer(400), answer(404)]);
    for body in &bodies {
        world.veedeo(body.clone());
    }
    let exported = world.gateway.ask(&["dlq", "export"]);
    assert_eq!(exported.code, Some(0), "{exported:?}");
    let exported = exported.json_lines();
    let mut found: Vec<Vec<u8>> =
        exported.iter().map(|e| BASE64.decode(e["body_b64"].as_str().unwrap().as_bytes()).unwrap()).collect();
    found.sort();
    assert_eq!(found, bodies);
    for letter in &exported {
        assert_eq!((letter["method"].as_str(), letter["reason"].as_str()), (Some("POST"), Some("app_rejected")));
        assert!(letter["url"].as_str().is_some_and(|url| url.contains("/webhooks/veedeo")), "{letter}");
        assert!(letter["headers"].is_array(), "{letter}");
    }

    let first = exported[0]["id"].as_str().unwrap();
    let dry = world.gateway.ask(&["dlq", "drop", first, "--dry-run"]);
    assert_eq!((dry.code, world.gateway.rows(&["dlq", "list"]).len()), (Some(0), 3), "{dry:?}");
    let dropped = world.gateway.ask(&["dlq", "drop", first, "--yes"]);
    assert_eq!((dropped.code, world.gateway.rows(&["dlq", "list"]).len()), (Some(0), 2), "{dropped:?}");

    world.app.always(accept());
    let second = exported[1]["id"].as_str().unwrap();
    assert_eq!(world.gateway.ask(&["dlq", "retry", second, "--yes"]).code, Some(0));
    eventually("one is left", Duration::from_secs(15), || {
        (world.gateway.rows(&["dlq", "list"]).len() == 1).then_some(())
    });
    let replayed = world.app.wait_for(4).pop().unwrap();
    assert_eq!(
        (replayed.header("hookgate-event").as_str(), replayed.header("hookgate-replay").as_str()),
        (second, "true")
    );
}

#[test]
fn the_spool_of_a_stopped_gateway_can_be_read() {
    let mut world = world();
    let body = task(1);
    world.app.first([answer(422)]);
    world.veedeo(body.clone());
    world.gateway.stop();
    let spool = world.gateway.spool_path();
    let listed = world.gateway.run(&["dlq", "list", "--json", "--spool", &spool.to_string_lossy()]);
    assert_eq!(listed.code, Some(0), "{listed:?}");
    let letters = listed.json_lines();
    assert_eq!((letters.len(), letters[0]["route"].as_str()), (1, Some("veedeo")));
    assert_eq!(letters[0]["body_sha256"], HEXLOWER.encode(&world.app.only().sha256()));
    let verified = world.gateway.run(&["spool", "verify", "--spool", &spool.to_string_lossy()]);
    assert_eq!(verified.code, Some(0), "{verified:?}");
}

#[test]
fn an_event_can_be_forgotten_so_that_it_may_come_again() {
    let world = world();
    world.veedeo(task(1));
    let key = world.app.only().key();
    let checked = world.gateway.ask(&["dedup", "check", "veedeo", &key]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
    let forgotten = world.gateway.ask(&["dedup", "forget", "veedeo", &key]);
    assert_eq!(forgotten.code, Some(0), "{forgotten:?}");
    assert_eq!(world.veedeo(task(1)).text(), "{\"app\":200}");
    assert_eq!(world.app.count(), 2);
}

#[test]
fn send_signs_as_the_provider_does() {
    let world = world();
    let sent = world.gateway.ask(&["send", "veedeo", "task.completed"]);
    assert_eq!(sent.code, Some(0), "{sent:?}");
    let event: serde_json::Value = serde_json::from_slice(&world.app.only().body).unwrap();
    assert_eq!(event["event"], "task.completed");
    let forged = world.gateway.ask(&["send", "veedeo", "task.completed", "--bad-signature"]);
    let stale = world.gateway.ask(&["send", "veedeo", "task.completed", "--stale"]);
    for finished in [forged, stale] {
        assert!((finished.stdout + &finished.stderr).contains("401"));
    }
    assert_eq!(world.app.count(), 1);
}

#[test]
fn the_demo_plays_its_story_to_a_good_end() {
    let app = App::stopped();
    let gateway = Gateway::prepared(Setup::new(&app.url()));
    let finished = gateway.run(&["demo", "--once"]);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let story = finished.stdout + &finished.stderr;
    for word in ["accepted", "refused", "duplicate", "app down", "app slow", "app back", "0 lost", "0 twice"] {
        assert!(story.contains(word), "no {word} in\n{story}");
    }
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let acts: Vec<String> = story.lines().map(without_times).collect();
    let shown: Vec<String> = readme.lines().map(without_times).collect();
    assert_eq!(acts.len(), 7, "{story}");
    for act in acts {
        assert!(shown.contains(&act), "the README does not show {act:?}");
    }
}

/// A line with its milliseconds blotted out.
fn without_times(line: &str) -> String {
    let mut words: Vec<&str> = line.split_whitespace().collect();
    for place in 1..words.len() {
        if words[place] == "ms" {
            words[place - 1] = "n";
        }
    }
    words.join(" ")
}

#[test]
fn the_configuration_is_shown_with_its_defaults_and_without_its_secrets() {
    let app = App::stopped();
    let literal = "canary-shown-by-nobody-3141";
    let secrets = format!("routes.github.secrets = [{{ literal = '{literal}' }}]");
    let gateway = Gateway::prepared(Setup::new(&app.url()).with(&[&secrets]));
    let shown = gateway.ask(&["config", "show"]);
    assert_eq!(shown.code, Some(0), "{shown:?}");
    assert!(shown.stdout.contains("attempt_timeout") && shown.stdout.contains("60s"), "{}", shown.stdout);
    let text = shown.stdout + &shown.stderr;
    assert!(!text.contains(literal) && !text.contains(Provider::Veedeo.secret()), "{text}");
}

#[test]
fn a_fresh_configuration_is_a_valid_one() {
    let app = App::stopped();
    let mut gateway = Gateway::prepared(Setup::new(&app.url()));
    gateway.environment("VEEDEO_SECRET", "a secret that is long enough for this");
    gateway.environment("HOOKGATE_SPOOL__PATH", &gateway.spool_path().to_string_lossy());
    let fresh = gateway.run(&["config", "init"]);
    assert_eq!(fresh.code, Some(0), "{fresh:?}");
    let path = gateway.folder().join("fresh.toml");
    std::fs::write(&path, fresh.stdout).unwrap();
    let checked = gateway.run(&["validate", "--no-environment", &path.to_string_lossy()]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
}

#[test]
fn built_in_providers_can_be_listed_and_shown() {
    let app = App::stopped();
    let gateway = Gateway::prepared(Setup::new(&app.url()));
    let listed = gateway.run(&["providers", "list", "--json"]);
    let names: Vec<serde_json::Value> = listed.json_lines().iter().map(|row| row["name"].clone()).collect();
    assert!(names.len() > 30, "{names:?}");
    for provider in Provider::ALL {
        assert!(names.contains(&provider.name().into()), "{}", provider.name());
    }
    assert!(gateway.run(&["providers", "show", "veedeo"]).stdout.contains("X-Veedeo-Signature"));
}

#[test]
fn events_that_were_received_can_be_listed() {
    let world = world();
    let forged = Provider::Veedeo.sign_at(task(2), 0, "a guess");
    let mut rows = Vec::new();
    for (count, request) in [Provider::Veedeo.sign(task(1)), Provider::Veedeo.sign(task(1)), forged].iter().enumerate()
    {
        world.send(request);
        let listed = || Some(world.gateway.rows(&["events", "list"])).filter(|rows| rows.len() > count);
        rows = eventually("the event is listed", Duration::from_secs(5), listed);
    }
    let ends: Vec<&str> = rows.iter().filter_map(|row| row["disposition"].as_str()).collect();
    assert_eq!(ends, ["refused", "duplicate", "delivered"], "the newest first");
    let failed = world.gateway.rows(&["events", "list", "--disposition", "refused"]);
    assert_eq!((failed.len(), failed[0]["reason"].as_str()), (1, Some("signature_mismatch")));
}

#[test]
fn the_admin_listener_asks_for_its_token_and_for_its_own_name() {
    let app = App::stopped();
    let mut gateway = Gateway::prepared(Setup::new(&app.url()).with(&["admin_token = { env = 'TOKEN' }"]));
    gateway.environment("TOKEN", "a token for the admin listener 27182");
    gateway.restart();
    let ask = |token: Option<&str>| {
        let request = Request::get("/api/status");
        let request = match token {
            Some(token) => request.with("Authorization", format!("Bearer {token}")),
            None => request,
        };
        gateway.admin(&request).status
    };
    assert_eq!(ask(None), 401);
    assert_eq!(ask(Some("a token for the admin listener 27183")), 401);
    assert_eq!(ask(Some("a token for the admin listener 27182")), 200);
    let elsewhere = Request::get("/api/status")
        .with("Host", "evil.example")
        .with("Authorization", "Bearer a token for the admin listener 27182");
    let status = send(&gateway.admin_address(), &elsewhere).unwrap().status;
    assert!((400..500).contains(&status), "a name that is not ours (DNS rebinding): {status}");
}

#[test]
fn usage_is_told_with_exit_code_two() {
    let app = App::stopped();
    let gateway = Gateway::prepared(Setup::new(&app.url()));
    assert_eq!(gateway.run(&["rnu"]).code, Some(2));
    assert_eq!(gateway.run(&["--version"]).code, Some(0));
    assert!(gateway.run(&["--help"]).stdout.contains("run"));
}

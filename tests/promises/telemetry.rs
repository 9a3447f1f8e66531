//! What an operator can see while it runs: metrics, health, log lines; and what nobody may ever see. P11 and section 5
//! of the contract.

use std::time::Duration;

use crate::world::act::{Act, accept, answer};
use crate::world::clock::{now_unix, pause, rfc3339};
use crate::world::events::{task, task_at};
use crate::world::sender::Request;
use crate::world::sign::Provider;
use crate::world::{World, world, world_with, world_without_app};

/// Requests of every kind; returns for each what it should end as.
fn traffic(world: &mut World) -> Vec<&'static str> {
    let veedeo = |body: Vec<u8>| Provider::Veedeo.sign(body);
    let mut ends = Vec::new();
    let mut expect = |request: &Request, status: u16, disposition| {
        assert_eq!(world.gateway.send(request).status, status, "{disposition}");
        ends.push(disposition);
    };
    expect(&veedeo(task("fine")), 200, "delivered");
    expect(&veedeo(task("fine")), 200, "duplicate");
    world.app.first([answer(422)]);
    expect(&veedeo(task("rejected")), 422, "app_rejected");
    world.app.first([answer(500)]);
    expect(&veedeo(task("fails")), 200, "spooled");
    world.app.first([answer(500)]);
    expect(&Provider::Stripe.sign("{\"id\":\"evt_1\"}"), 500, "app_failed");
    expect(&Provider::GitHub.sign("{}").with("X-GitHub-Event", "unused"), 200, "delivered");
    expect(&Provider::Veedeo.sign_at(task("forged"), now_unix(), "a guess"), 401, "refused");
    expect(&Request::get("/nowhere"), 404, "refused");
    expect(&Request { method: "PUT".into(), ..veedeo(task("put")) }, 405, "refused");
    expect(&Provider::GitHub.sign(vec![b'x'; 70_000]), 413, "refused");
    world.app.down();
    expect(&veedeo(task("away")), 200, "spooled");
    world.app.up();
    ends
}

const LINES: [&str; 2] = ["routes.stripe.ack.on_app_failure = 'pass'", "routes.github.max_body_bytes = '64KiB'"];

#[test]
fn every_request_has_exactly_one_disposition_in_metrics_and_log() {
    let mut world = world_with(&LINES);
    let ends = traffic(&mut world);
    let metrics = world.gateway.metrics();
    assert_eq!(metrics.count("hookgate_requests_total", &[]), ends.len() as u64);
    for word in ["delivered", "duplicate", "app_rejected", "spooled", "app_failed", "refused"] {
        let wanted = ends.iter().filter(|end| **end == word).count();
        assert_eq!(metrics.count("hookgate_requests_total", &[("disposition", word)]), wanted as u64, "{word}");
        world.gateway.wait_for_logs(wanted, &[&format!("\"disposition\":\"{word}\"")]);
    }
    let all = world.gateway.log(&["\"disposition\":\""]).len();
    assert_eq!(all, ends.len(), "one line a request");
    for line in world.gateway.said() {
        assert!(serde_json::from_str::<serde_json::Value>(&line).is_ok(), "a line of JSON: {line}");
    }
}

#[test]
fn every_metric_of_the_contract_is_there() {
    let mut world = world_with(&LINES);
    traffic(&mut world);
    world.gateway.wait_for_empty_spool(Duration::from_secs(15));
    let metrics = world.gateway.metrics();
    let names = "build_info requests_total refusals_total secret_matches_total ack_duration_seconds_bucket \
        ack_duration_seconds_count ack_budget_seconds ack_budget_exceeded_total dedup_checks_total \
        dedup_duration_seconds_count dedup_store_up attempts_total attempt_duration_seconds_count app_up spool_events \
        spool_bytes spool_capacity_bytes spool_disk_free_bytes spool_min_free_bytes spool_oldest_event_timestamp_seconds spool_commit_duration_seconds_count \
        spool_errors_total deliveries_total dead_letters_total delivery_latency_seconds_count replays_total \
        event_age_seconds_count request_body_bytes_count connections buffered_bytes config_last_reload_successful \
        secrets_loaded_timestamp_seconds clock_suspect";
    let missing: Vec<&str> =
        names.split_whitespace().filter(|name| metrics.find(&format!("hookgate_{name}"), &[]).is_none()).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert!(metrics.series().iter().any(|series| series.name.starts_with("process_")));
    assert_eq!(metrics.find("hookgate_ack_budget_seconds", &[("route", "veedeo")]), Some(30.0));
    assert_eq!(metrics.find("hookgate_spool_min_free_bytes", &[]), Some(1_048_576.0));
    assert!(metrics.find("hookgate_spool_disk_free_bytes", &[]) > Some(0.0));
    assert_eq!(
        metrics.count("hookgate_ack_duration_seconds_count", &[]),
        metrics.count("hookgate_requests_total", &[])
    );
    assert_eq!(metrics.count("hookgate_attempts_total", &[("route", "veedeo"), ("outcome", "rejected")]), 1);
    assert!(metrics.count("hookgate_attempts_total", &[("route", "veedeo"), ("outcome", "accepted")]) >= 3);
    assert_eq!(metrics.count("hookgate_deliveries_total", &[("route", "veedeo")]), 2);
    assert_eq!(metrics.count("hookgate_dead_letters_total", &[("route", "veedeo"), ("reason", "app_rejected")]), 1);
    assert_eq!(metrics.find("hookgate_config_last_reload_successful", &[]), Some(1.0));
}

#[test]
fn the_age_of_an_event_is_measured_from_the_time_that_its_sender_signed() {
    let world = world();
    let of_veedeo = |name| world.gateway.metrics().find(name, &[("route", "veedeo")]).unwrap_or_default();
    for n in 0..3 {
        let now = task_at(n, &rfc3339(0), "task.completed");
        assert_eq!(world.gateway.send(&Provider::Veedeo.sign(now)).status, 200);
    }
    let age = of_veedeo("hookgate_event_age_seconds_sum");
    assert!(of_veedeo("hookgate_event_age_seconds_count") >= 3.0 && (-3.0..300.0).contains(&age), "{age} s");
    assert!(of_veedeo("hookgate_signed_time_missing_total") < 0.5);
    assert_eq!(world.gateway.send(&Provider::Veedeo.sign("{\"without\":\"a time\"}")).status, 200);
    assert!((of_veedeo("hookgate_signed_time_missing_total") - 1.0).abs() < 0.5);
    assert!((of_veedeo("hookgate_event_age_seconds_count") - 3.0).abs() < 0.5);
}

#[test]
fn no_secret_signature_or_body_is_ever_said() {
    let canary = "canary-in-a-body-55aa";
    let mut world = world_with(&["log.level = 'trace'", "ack.budget = '3s'"]);
    let mut signatures = Vec::new();
    let mut send = |request: &Request| {
        for (name, value) in &request.headers {
            if name.to_ascii_lowercase().contains("signature") {
                let value = String::from_utf8_lossy(value);
                let parts = value.rsplit(['=', ',']).filter(|part| part.len() >= 20);
                signatures.extend(parts.map(str::to_owned));
            }
        }
        world.gateway.try_send(request).ok();
    };
    world.app.first([accept(), answer(422), answer(500), Act::HangUp]);
    for provider in Provider::ALL {
        send(&provider.sign(format!("{{\"id\":\"{canary}\",\"n\":\"{}\"}}", provider.name())));
        send(&provider.sign_at(canary, now_unix(), "whsec_Y2FuYXJ5LWd1ZXNzZWQtc2VjcmV0"));
        send(&provider.sign_at(canary, now_unix() - 4000, provider.secret()));
    }
    send(&Request::post("/webhooks/veedeo", canary).with("Bro ken", canary));
    world.app.down();
    send(&Provider::Veedeo.sign(task(canary)));
    world.gateway.kill9();
    world.gateway.restart();
    pause(Duration::from_millis(500));
    let metrics = world.gateway.telemetry("/metrics").unwrap().text();
    let verbose = world.gateway.telemetry("/readyz?verbose").unwrap().text();
    let admin: String = ["/api/status", "/api/config", "/api/routes"]
        .map(|path| world.gateway.admin(&Request::get(path)).text())
        .concat();
    world.gateway.stop();
    let said = world.gateway.said().join("\n");
    assert!(signatures.len() >= 15, "found {} signatures", signatures.len());
    let secrets = Provider::ALL.map(|provider| provider.secret().to_owned());
    for text in [&said, &metrics, &verbose, &admin] {
        for hidden in secrets.iter().chain(&signatures).map(String::as_str).chain([canary, "Y2FuYXJ5LWd1ZXNzZWQ"]) {
            assert!(
                !text.contains(hidden),
                "said {hidden}: {}",
                text.lines().find(|l| l.contains(hidden)).unwrap_or("")
            );
        }
    }
}

#[test]
fn the_log_says_which_route_and_why() {
    let world = world();
    world.veedeo(task(1));
    world.send(&Provider::Veedeo.sign_at(task(2), now_unix() - 1000, Provider::Veedeo.secret()));
    world.gateway.wait_for_log(&["\"route\":\"veedeo\"", "\"disposition\":\"delivered\""]);
    world.gateway.wait_for_log(&["\"route\":\"veedeo\"", "\"disposition\":\"refused\"", "timestamp_stale"]);
}

#[test]
fn the_gauges_show_what_waits() {
    let mut world = world_without_app(&[]);
    let before = now_unix();
    world.veedeo(task(1));
    world.send(&Provider::GitHub.sign("{}"));
    let metrics = world.gateway.metrics();
    for route in ["veedeo", "github"] {
        assert_eq!(metrics.count("hookgate_spool_events", &[("route", route), ("state", "pending")]), 1);
    }
    assert!(metrics.find("hookgate_spool_bytes", &[]).is_some_and(|bytes| bytes > 0.0));
    let oldest = metrics.find("hookgate_spool_oldest_event_timestamp_seconds", &[("route", "veedeo")]).unwrap();
    let range = f64::from(i32::try_from(before).unwrap()) - 1.0..=f64::from(i32::try_from(now_unix()).unwrap()) + 1.0;
    assert!(range.contains(&oldest), "{oldest}");
    world.app.up();
    world.gateway.wait_for_empty_spool(Duration::from_secs(15));
}

#[test]
fn the_telemetry_listener_serves_three_paths_and_the_public_one_none_of_them() {
    let world = world();
    for (path, status) in [("/metrics", 200), ("/livez", 200), ("/readyz", 200), ("/", 404), ("/api/status", 404)] {
        assert_eq!(world.gateway.telemetry(path).unwrap().status, status, "{path}");
    }
    for path in ["/metrics", "/livez", "/readyz", "/api/status", "/admin", "/-/reload"] {
        assert_eq!(world.send(&Request::get(path)).status, 404, "{path}");
    }
}

#[test]
fn only_an_event_that_should_say_when_it_happened_is_missed_for_not_saying() {
    let world = world();
    assert_eq!(world.send(&Provider::GitHub.sign(br#"{"ref":"main"}"#.to_vec())).status, 200);
    assert_eq!(world.veedeo(br#"{"event":"task.completed"}"#.to_vec()).status, 200);
    let missing = |route| world.gateway.metrics().count("hookgate_signed_time_missing_total", &[("route", route)]);
    assert_eq!((missing("github"), missing("veedeo")), (0, 1));
}

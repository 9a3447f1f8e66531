//! Starting, refusing to start, and taking a new configuration while running. P10, P2 and sections 1, 2 of the
//! contract.

use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use rustix::process::Signal;

use crate::world::app::App;
use crate::world::clock::{eventually, now_unix, pause};
use crate::world::events::task;
use crate::world::gateway::Gateway;
use crate::world::sender::{Request, send};
use crate::world::setup::Setup;
use crate::world::sign::Provider;
use crate::world::{world, world_with, world_without_app};

const BAD_CONFIGURATION: Option<i32> = Some(78);
const SHORT: Duration = Duration::from_secs(20);

/// Starts a gateway that must not start; returns its exit code and what it said.
fn refused(lines: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let app = App::stopped();
    let mut gateway = Gateway::prepared(Setup::new(&app.url()).with(lines));
    for (name, value) in environment {
        gateway.environment(name, value);
    }
    gateway.launch();
    let status = gateway.wait_for_end(SHORT);
    (status.code(), gateway.said().join("\n"))
}

#[test]
fn a_blank_missing_or_unreadable_secret_stops_the_start() {
    for value in ["", " ", "\t\n "] {
        let (code, said) = refused(&[], &[("SECRET_OF_VEEDEO", value)]);
        assert_eq!(code, BAD_CONFIGURATION, "{said}");
        assert!(said.contains("SECRET_OF_VEEDEO"), "names the variable: {said}");
    }
    for secrets in ["[{ env = 'NOBODY_SET_THIS' }]", "[{ file = '/nonexistent/secret' }]", "[]", "[{ literal = '  ' }]"]
    {
        let (code, said) = refused(&[&format!("routes.veedeo.secrets = {secrets}")], &[]);
        assert_eq!(code, BAD_CONFIGURATION, "{secrets}: {said}");
        assert!(said.contains("veedeo"), "names the route: {said}");
    }
}

#[test]
fn all_faults_of_a_configuration_are_told_at_once_with_their_place() {
    let lines = ["ack.bugdet = '10s'", "spool.max_bytes = 'plenty'", "routes.veedeo.provider = 'vedeo'"];
    let (code, said) = refused(&lines, &[("HOOKGATE_ACK__RESERVE", "soon")]);
    assert_eq!(code, BAD_CONFIGURATION, "{said}");
    for word in ["bugdet", "budget", "plenty", "vedeo", "HOOKGATE_ACK__RESERVE", "hookgate.toml"] {
        assert!(said.contains(word), "says nothing of {word}:\n{said}");
    }
}

#[test]
fn a_secret_that_is_written_into_the_file_is_not_echoed_when_something_else_is_wrong() {
    let canary = "canary-written-into-the-file-8842";
    let secrets = format!("routes.veedeo.secrets = [{{ literal = '{canary}', utnil = 'never' }}]");
    let (code, said) = refused(&[&secrets], &[]);
    assert_eq!(code, BAD_CONFIGURATION, "{said}");
    assert!(!said.contains(canary), "{said}");
}

#[test]
fn an_address_that_is_taken_stops_the_start_with_a_sentence() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for key in ["listen", "telemetry", "admin"] {
        let (code, said) = refused(&[&format!("{key} = '{address}'")], &[]);
        assert!(code.is_some_and(|code| code != 0), "{key}: {code:?} {said}");
        assert!(said.contains(&address), "{key}: names the address: {said}");
    }
}

#[test]
fn a_memory_shorter_than_the_age_limit_stops_the_start() {
    let (code, said) = refused(&["dedup.ttl = '22h'"], &[]);
    assert_eq!(code, BAD_CONFIGURATION, "a captured request could come again in between: {said}");
    assert!(said.contains("ttl") && said.contains("max_age"), "{said}");
}

#[test]
fn an_admin_listener_beyond_the_loopback_needs_a_token() {
    let (code, said) = refused(&["admin = '0.0.0.0:9'"], &[]);
    assert_eq!(code, BAD_CONFIGURATION, "{said}");
    assert!(said.contains("admin_token"), "{said}");
}

#[test]
fn a_spool_that_cannot_be_written_stops_the_start_with_a_sentence() {
    let (code, said) = refused(&["spool.path = '/proc/nowhere'"], &[]);
    assert!(code.is_some_and(|code| code != 0), "{code:?} {said}");
    assert!(said.contains("/proc/nowhere"), "{said}");
}

#[test]
fn the_environment_overrides_the_file() {
    let app = App::stopped();
    let mut gateway = Gateway::prepared(Setup::new(&app.url()).with(&["ack.budget = '30s'"]));
    gateway.environment("HOOKGATE_ACK__BUDGET", "10s");
    gateway.restart();
    assert_eq!(gateway.metrics().find("hookgate_ack_budget_seconds", &[("route", "veedeo")]), Some(10.0));
}

#[test]
fn a_gateway_without_its_application_is_alive_and_ready() {
    let world = world_without_app(&[]);
    for path in ["/livez", "/readyz"] {
        assert_eq!(world.gateway.telemetry(path).unwrap().status, 200, "{path}");
    }
}

#[test]
fn a_reload_takes_new_secrets_without_losing_a_request() {
    let mut world = world();
    world.gateway.configure(&[
        "routes.veedeo.secrets = [{ env = 'SECRET_OF_VEEDEO' }, { literal = 'the next one, long enough' }]",
    ]);
    let send = |id: &str, secret: &str| world.send(&Provider::Veedeo.sign_at(task(id), now_unix(), secret)).status;
    assert_eq!(send("early", "the next one, long enough"), 401);
    world.gateway.signal(Signal::HUP);
    eventually("the new secret is taken", SHORT, || (send("next", "the next one, long enough") == 200).then_some(()));
    assert_eq!(send("present", Provider::Veedeo.secret()), 200);
    assert_eq!(world.gateway.metrics().find("hookgate_config_last_reload_successful", &[]), Some(1.0));
}

#[test]
fn a_reload_of_a_bad_configuration_changes_nothing_and_says_so() {
    let mut world = world();
    world.gateway.configure(&["ack.bugdet = '1s'"]);
    world.gateway.signal(Signal::HUP);
    eventually("the gauge tells", SHORT, || {
        (world.gateway.metrics().find("hookgate_config_last_reload_successful", &[])? == 0.0).then_some(())
    });
    assert_eq!(world.veedeo(task(1)).status, 200);
    world.gateway.wait_for_log(&["\"level\":\"error\"", "bugdet"]);
}

#[test]
fn a_reload_replaces_the_token_of_operators_and_takes_it_from_nobody() {
    let app = App::stopped();
    let token = |text: &str| format!("admin_token = {{ literal = '{text}' }}");
    let mut gateway = Gateway::prepared(Setup::new(&app.url()).with(&[&token("the first token of operators 27182")]));
    gateway.restart();
    let status = |gateway: &Gateway, token: &str| {
        let request = Request::get("/api/status").with("Authorization", format!("Bearer {token}"));
        gateway.admin(&request).status
    };
    let reload = |gateway: &Gateway, token: &str| {
        let mut request = Request::post("/-/reload", "").with("Authorization", format!("Bearer {token}"));
        request = request.with("Content-Type", "application/json");
        let reply = gateway.admin(&request);
        assert_eq!(reply.status, 200, "{}", reply.text());
        (reply.json("changed"), reply.json("needs_restart"))
    };
    let (nothing, the_token) = (serde_json::json!([]), serde_json::json!(["admin_token"]));
    assert_eq!(reload(&gateway, "the first token of operators 27182"), (nothing.clone(), nothing.clone()));
    gateway.configure(&[&token("the other token of operators 31415")]);
    assert_eq!(reload(&gateway, "the first token of operators 27182"), (the_token.clone(), nothing.clone()));
    assert_eq!(status(&gateway, "the first token of operators 27182"), 401);
    assert_eq!(status(&gateway, "the other token of operators 31415"), 200);
    without(&gateway, "admin_token");
    assert_eq!(reload(&gateway, "the other token of operators 31415"), (nothing, the_token));
    assert_eq!(gateway.admin(&Request::get("/api/status")).status, 401);
    assert_eq!(status(&gateway, "the other token of operators 31415"), 200);
}

/// What a reload says it changed, and what it says waits for a restart.
fn reloaded(gateway: &Gateway) -> (Vec<String>, Vec<String>) {
    let done = gateway.ask(&["reload", "--json"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    let done: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    let keys = |name: &str| done[name].as_array().unwrap().iter().map(|key| key.as_str().unwrap().to_owned()).collect();
    (keys("changed"), keys("needs_restart"))
}

fn changes(changed: &[&str], needs_restart: &[&str]) -> (Vec<String>, Vec<String>) {
    let owned = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect();
    (owned(changed), owned(needs_restart))
}

#[test]
fn what_waits_for_a_restart_is_told_at_every_reload_until_it_is_changed_back() {
    let app = App::stopped();
    let mut gateway = Gateway::prepared(Setup::new(&app.url()));
    gateway.configure(&["server.max_connections = 1000", "dedup.on_store_down = 'local'"]);
    gateway.restart();
    gateway.configure(&[
        "server.max_connections = 2000",
        "server.body_timeout = '9s'",
        "dedup.on_store_down = 'accept'",
    ]);
    let waiting = ["server.max_connections", "dedup.on_store_down"];
    assert_eq!(reloaded(&gateway), changes(&["server"], &waiting));
    assert_eq!(reloaded(&gateway), changes(&[], &waiting), "nothing of it is in operation yet");
    gateway.configure(&["server.max_connections = 1000", "dedup.on_store_down = 'local'"]);
    assert_eq!(reloaded(&gateway), changes(&[], &[]), "as at the start");
}

#[test]
fn a_reload_tells_the_routes_and_tables_that_have_changed_and_no_others() {
    let app = App::stopped();
    let mut gateway = Gateway::prepared(Setup::new(&app.url()));
    let file = gateway.folder().join("veedeo.secret");
    std::fs::write(&file, "the first secret of veedeo, long enough").unwrap();
    let literal =
        |name: &str| format!("routes.{name}.secrets = [{{ literal = 'the {name} secret, which is long enough' }}]");
    gateway.configure(&[&format!("routes.veedeo.secrets = [{{ file = '{}' }}]", file.display()), &literal("github")]);
    gateway.restart();
    assert_eq!(reloaded(&gateway), changes(&[], &[]), "nothing has changed");
    std::fs::write(&file, "the other secret of veedeo, long enough").unwrap();
    assert_eq!(reloaded(&gateway), changes(&["routes.veedeo"], &[]), "a secret's file");
    gateway.configure(&[&literal("github").replace("which", "this one")]);
    assert_eq!(reloaded(&gateway), changes(&["routes.github"], &[]), "a secret that is not shown");
    gateway.configure(&[
        "ack.budget = '9s'",
        "passthrough.paths = ['/health']",
        "routes.stripe.max_body_bytes = '64KiB'",
    ]);
    assert_eq!(reloaded(&gateway), changes(&["ack", "passthrough", "routes.stripe"], &[]));
    without(&gateway, "routes.stripe.");
    assert_eq!(reloaded(&gateway), changes(&["routes.stripe (gone)"], &[]));
    gateway.configure(&["listen = '127.0.0.1:9'"]);
    assert_eq!(reloaded(&gateway), changes(&["routes.stripe"], &["listen"]), "it is there again");
    gateway.wait_for_log(&["\"reloaded\"", "routes.stripe", "[\\\"listen\\\"]"]);
    gateway.configure(&["passthrough.paths = []"]);
    gateway.signal(Signal::HUP);
    gateway.wait_for_log(&["\"reloaded\"", "passthrough", "listen"]);
}

#[test]
fn a_reload_tells_that_the_password_of_the_shared_store_has_changed() {
    let app = App::stopped();
    let password = |text: &str| format!("dedup.redis.password = {{ literal = '{text}' }}");
    let address = "dedup.redis.url = 'redis://127.0.0.1:1'";
    let mut gateway = Gateway::prepared(Setup::new(&app.url()));
    gateway.configure(&["dedup.store = 'redis'", address, &password("the first password")]);
    gateway.restart();
    assert_eq!(reloaded(&gateway), changes(&[], &[]));
    gateway.configure(&[&password("the other password")]);
    assert_eq!(reloaded(&gateway), changes(&["dedup"], &[]));
    assert_eq!(reloaded(&gateway), changes(&[], &[]));
}

#[test]
fn an_address_of_redis_that_cannot_be_read_is_a_fault_at_every_door() {
    let app = App::stopped();
    // The password has a character that ends the name of a host.
    let lines = ["dedup.store = 'redis'", "dedup.redis.url = { literal = 'redis://:can/ary@127.0.0.1:1' }"];
    let mut gateway = Gateway::prepared(Setup::new(&app.url()));
    gateway.restart();
    gateway.configure(&lines);
    let file = gateway.configuration_path().to_string_lossy().into_owned();
    let validated = gateway.run(&["validate", "--no-environment", "-c", &file]);
    let reloaded = gateway.ask(&["reload"]);
    gateway.stop();
    gateway.launch();
    let status = gateway.wait_for_end(Duration::from_secs(20));
    let told = gateway.said().join("\n");
    for (code, said) in [
        (validated.code, format!("{validated:?}")),
        (reloaded.code, format!("{reloaded:?}")),
        (status.code(), told.clone()),
    ] {
        assert_eq!(code, Some(78), "{said}");
        assert!(said.contains("dedup.redis") && said.contains("%2F"), "{said}");
        assert!(!said.contains("can/ary") && !said.contains("ary@"), "{said}");
    }
}

#[test]
fn a_reload_changes_when_an_application_counts_as_down_and_forgets_it_with_its_route() {
    let app = App::stopped();
    let mut gateway = Gateway::prepared(
        Setup::new(&app.url()).with(&["delivery.breaker = { failures = 1000, probe_every = '1h' }", RARELY]),
    );
    gateway.restart();
    let up = |gateway: &Gateway| gateway.metrics().find("hookgate_app_up", &[("route", "veedeo")]);
    for id in 0..3 {
        assert!(gateway.send(&Provider::Veedeo.sign(task(id))).acked());
    }
    pause(Duration::from_millis(1200));
    assert_eq!(up(&gateway), Some(1.0));
    gateway.configure(&["delivery.breaker = { failures = 3, probe_every = '1h' }"]);
    assert_eq!(gateway.ask(&["reload"]).code, Some(0));
    for id in 3..6 {
        assert!(gateway.send(&Provider::Veedeo.sign(task(id))).acked());
    }
    eventually("the application counts as down", SHORT, || (up(&gateway)? == 0.0).then_some(()));
    without(&gateway, "routes.veedeo.");
    assert_eq!(gateway.ask(&["reload"]).code, Some(0));
    pause(Duration::from_millis(1200));
    assert_eq!(up(&gateway), None, "nobody is asked for it any more");
    gateway.wait_for_log(&["veedeo", "not configured any more"]);
    gateway.configure(&[]);
    assert_eq!(gateway.ask(&["reload"]).code, Some(0));
    eventually("it is as down as before", SHORT, || (up(&gateway)? == 0.0).then_some(()));
}

/// Takes what begins so out of the configuration file.
fn without(gateway: &Gateway, begins: &str) {
    let path = gateway.configuration_path();
    let text = std::fs::read_to_string(&path).unwrap();
    let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with(begins)).collect();
    assert!(kept.len() < text.lines().count(), "{text}");
    std::fs::write(path, kept.join("\n")).unwrap();
}

/// Hardly ever, so that a test's own events are what is tried.
const RARELY: &str = "delivery.retries = { first = '1h', factor = 1.0, max = '1h', jitter = false, attempts = 1000 }";

#[test]
fn a_secret_may_come_from_a_file_with_a_newline_at_its_end() {
    let app = App::start();
    let mut gateway = Gateway::prepared(Setup::new(&app.url()));
    let file = gateway.folder().join("veedeo.secret");
    std::fs::write(&file, format!("{}\n", Provider::Veedeo.secret())).unwrap();
    gateway.configure(&[&format!("routes.veedeo.secrets = [{{ file = '{}' }}]", file.display())]);
    gateway.restart();
    assert_eq!(gateway.send(&Provider::Veedeo.sign(task(1))).status, 200);
}

#[test]
fn a_route_may_override_a_part_of_its_provider() {
    let world = world_with(&["routes.veedeo.timestamp.tolerance = '10m'"]);
    let sent = |ago: i64| Provider::Veedeo.sign_at(task(ago), now_unix() - ago, Provider::Veedeo.secret());
    assert_eq!(world.send(&sent(500)).status, 200);
    assert_eq!(world.send(&sent(700)).reason(), "timestamp_stale");
}

/// Has the gateway reload a configuration that names a file which does not end while what is yielded is open.
fn reload_that_hangs(gateway: &mut Gateway) -> std::fs::File {
    let file = gateway.folder().join("hangs");
    assert!(std::process::Command::new("mkfifo").arg(&file).status().unwrap().success());
    gateway.configure(&[&format!("routes.veedeo.secrets = [{{ file = '{}' }}]", file.display())]);
    gateway.signal(Signal::HUP);
    // It can be opened for writing as soon as somebody reads it.
    eventually("the secret is being read", SHORT, || {
        let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap();
        std::fs::OpenOptions::new().write(true).custom_flags(flags).open(&file).ok()
    })
}

#[test]
fn a_reload_that_waits_for_a_file_does_not_keep_the_gateway_from_stopping() {
    let app = App::stopped();
    for signal in [Signal::TERM, Signal::INT] {
        let mut gateway = Gateway::start(Setup::new(&app.url()));
        let held = reload_that_hangs(&mut gateway);
        gateway.signal(signal);
        let status = gateway.wait_for_end(SHORT);
        assert!(status.success(), "{signal:?}: {status} {}", gateway.said().join("\n"));
        drop(held);
    }
}

#[test]
fn a_file_that_does_not_come_is_told_and_does_not_let_reloads_pile_up() {
    let app = App::stopped();
    let mut gateway = Gateway::start(Setup::new(&app.url()));
    let held = reload_that_hangs(&mut gateway);
    // The gateway gives up after 20 s.
    let told = || gateway.log(&["not reloaded", "could not be read to its end"]).pop();
    eventually("the reload is given up", 2 * SHORT, told);
    assert_eq!(gateway.metrics().find("hookgate_config_last_reload_successful", &[]), Some(0.0));
    // One more waits for its turn, and no third.
    gateway.configure(&["routes.veedeo.secrets = [{ literal = 'the next secret, which is long enough' }]"]);
    let (answers, answer) = std::sync::mpsc::channel();
    for _ in 0..2 {
        let (answers, address) = (answers.clone(), gateway.admin_address());
        let request = Request::post("/-/reload", "").with("Host", address.clone()).with("Connection", "close");
        std::thread::spawn(move || answers.send(send(&address, &request)));
    }
    let refused = answer.recv_timeout(SHORT).unwrap().unwrap();
    assert_eq!(refused.status, 422, "{}", refused.text());
    assert!(refused.text().contains("another reload is under way"), "{}", refused.text());
    gateway.wait_for_log(&["not reloaded", "another reload is under way"]);
    drop(held);
    let reloaded = answer.recv_timeout(SHORT).unwrap().unwrap();
    assert_eq!((reloaded.status, reloaded.json("changed")), (200, serde_json::json!(["routes.veedeo"])));
    assert_eq!(gateway.metrics().find("hookgate_config_last_reload_successful", &[]), Some(1.0));
}

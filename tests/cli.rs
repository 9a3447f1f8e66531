//! The commands as a shell sees them: the real binary, its stdout, stderr and exit code. Commands that ask a gateway ask
//! the real admin pages, served by this process on loopback over a real spool.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that stops is a test that fails"
)]

#[path = "cli/asked.rs"]
mod asked;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hookgate::admin::{AdminState, Control, Explained, ReloadRefused, Reloaded, RouteFacts};
use hookgate::claims::embedded::Embedded;
use hookgate::clock::Clock;
use hookgate::disk::{Disk, DiskSettings};
use hookgate::domain::event::{Event, EventId};
use hookgate::domain::key::EventKey;
use hookgate::domain::scheme::Carries;
use hookgate::domain::secret::Secret;
use hookgate::domain::time::Timestamp;
use hookgate::spool::{DeadReason, Entry, NewEntry, Possible, Replay, Spool};
use hookgate::telemetry::logs::Level;
use hookgate::telemetry::{Metrics, Recent, RouteLabels, http};
use serde_json::Value;

const SECRET: &str = "canary-0123456789abcdef0123456789abcdef";
const TOKEN: &str = "token-0123456789abcdef0123456789abcdef";
const NOW: i64 = 1_760_000_000;

/// A folder with a configuration, in which commands are run.
struct Desk {
    folder: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        let desk = Self { folder: tempfile::tempdir().unwrap() };
        let spool = desk.spool().display().to_string();
        desk.write(
            "hookgate.toml",
            &format!(
                "listen = \"127.0.0.1:9\"\ntelemetry = \"127.0.0.1:8\"\nadmin = \"127.0.0.1:7\"\n[spool]\npath = \"{spool}\"\n\
                 max_bytes = \"1MiB\"\nmin_free_bytes = \"1MiB\"\n\
                 [routes.veedeo]\npath = \"/webhooks/veedeo\"\nprovider = \"veedeo\"\nsecrets = [{{ env = \"VEEDEO_SECRET\" }}]\n"
            ),
        );
        desk
    }

    fn spool(&self) -> PathBuf {
        self.folder.path().join("spool")
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hookgate"));
        command.args(arguments).current_dir(self.folder.path()).env_clear().env("VEEDEO_SECRET", SECRET);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    #[track_caller]
    fn run(&self, arguments: &[&str]) -> Said {
        Said::of(self.command(arguments).output().unwrap())
    }
}

/// What a command said and how it ended.
#[derive(Debug)]
struct Said {
    out: String,
    err: String,
    code: i32,
}

impl Said {
    #[track_caller]
    fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let said = Self { out: text(output.stdout), err: text(output.stderr), code: output.status.code().unwrap() };
        assert!(!said.out.contains("canary") && !said.err.contains("canary"), "a secret was said: {said:?}");
        assert!(!said.out.contains(TOKEN) && !said.err.contains(TOKEN), "a token was said: {said:?}");
        said
    }

    /// It ended so, with these words on stderr.
    #[track_caller]
    fn failed(&self, code: i32, words: &str) {
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.err.contains(words), "{self:?}");
    }

    /// It ended well, with these words on stdout.
    #[track_caller]
    fn ok(&self, words: &str) -> &Self {
        assert_eq!(self.code, 0, "{self:?}");
        assert!(self.out.contains(words), "{self:?}");
        self
    }

    fn lines(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[test]
fn alone_it_prints_its_commands_in_groups_with_examples() {
    let said = Desk::new().run(&[]);
    said.ok("Look and repair:").ok("Examples:").ok("Exit codes:").ok("dlq");
    Desk::new().run(&["--version"]).ok(concat!("hookgate ", env!("CARGO_PKG_VERSION")));
    Desk::new().run(&["dlq", "--help"]).ok("retry");
}

#[test]
fn what_does_not_exist_is_a_usage_fault_with_a_suggestion() {
    let desk = Desk::new();
    desk.run(&["valdate"]).failed(2, "validate");
    desk.run(&["status", "--jsn"]).failed(2, "--json");
    desk.run(&["dlq", "drop"]).failed(2, "--all");
    desk.run(&["providers", "show", "vedeo"]).failed(2, "veedeo");
    desk.run(&["completions", "dos"]).failed(2, "powershell");
}

#[test]
fn validate_accepts_and_says_all_that_is_wrong() {
    let desk = Desk::new();
    desk.run(&["validate"]).ok("hookgate.toml: ok").ok("1 route");
    desk.run(&["validate", "hookgate.toml", "--json"]).ok("\"ok\":true");
    desk.write("bad.toml", "listen = \"8080\"\n[ack]\nbugdet = \"1s\"\n");
    let said = desk.run(&["validate", "hookgate.toml", "bad.toml"]);
    said.failed(78, "listen");
    said.failed(78, "budget");
    assert!(said.out.contains("hookgate.toml: ok"), "{said:?}");
    assert_eq!(desk.run(&["validate", "bad.toml", "--json"]).lines()[0]["faults"].as_array().unwrap().len(), 2);
    desk.run(&["validate", "none.toml"]).failed(78, "none.toml");
}

#[test]
fn a_warning_is_a_fault_where_it_is_denied() {
    let desk = Desk::new();
    let text = std::fs::read_to_string(desk.folder.path().join("hookgate.toml")).unwrap();
    desk.write("short.toml", &text.replace("{ env = \"VEEDEO_SECRET\" }", "{ literal = \"six666\" }"));
    desk.run(&["validate", "short.toml"]).ok("warn");
    assert_eq!(desk.run(&["validate", "short.toml", "--deny-warnings"]).code, 78);
}

#[test]
fn config_is_written_shown_and_described() {
    let desk = Desk::new();
    let example = desk.run(&["config", "init"]);
    example.ok("[ack]");
    assert!(example.out.parse::<toml_edit::DocumentMut>().is_ok());
    desk.run(&["config", "show"]).ok("[routes.veedeo]").ok("VEEDEO_SECRET");
    desk.run(&["config", "show", "--origin"]).ok("hookgate.toml:1");
    let shown = desk.run(&["config", "show", "--format", "json"]);
    assert_eq!(serde_json::from_str::<Value>(&shown.out).unwrap()["ack"]["budget"], "30s");
    assert!(serde_json::from_str::<Value>(&desk.run(&["config", "schema"]).out).unwrap().is_object());
    desk.run(&["config", "show", "-c", "none.toml"]).failed(78, "none.toml");
}

#[test]
fn providers_are_listed_and_shown() {
    let desk = Desk::new();
    let listed = desk.run(&["providers", "list", "--json"]).lines();
    assert!(listed.len() > 50, "{}", listed.len());
    let veedeo = listed.iter().find(|line| line["name"] == "veedeo").unwrap();
    assert_eq!(veedeo["samples"].as_array().unwrap().len(), 6);
    assert_eq!(veedeo["kind"], "hmac-sha256");
    assert_eq!((&veedeo["place"], &veedeo["verified"]), (&"X-Veedeo-Signature".into(), &"sdk".into()));
    assert_eq!(
        (veedeo["budget_seconds"].as_f64(), veedeo["retry_horizon_seconds"].as_f64()),
        (Some(30.0), Some(2700.0))
    );
    assert_eq!(veedeo["timestamp"], "5 min unsigned, event 23 h");
    assert_eq!((&veedeo["handshake"], &veedeo["unsupported"]), (&false.into(), &Value::Null));
    assert!(listed.iter().any(|line| line["name"] == "slack" && line["handshake"] == true));
    desk.run(&["providers", "list"]).ok("stripe").ok("NOT SUPPORTED").ok("aws_sns");
    desk.run(&["providers", "show", "veedeo"]).ok("X-Veedeo-Signature");
    assert!(!desk.run(&["providers", "show", "svix"]).out.contains("whsec_"));
    desk.run(&["providers", "show", "svix", "--resolved"]).ok("whsec_").ok("svix-signature");
}

#[test]
fn a_provider_that_cannot_be_checked_here_is_refused_with_the_reason_everywhere() {
    let desk = Desk::new();
    let text = std::fs::read_to_string(desk.folder.path().join("hookgate.toml")).unwrap();
    let listed = desk.run(&["providers", "list", "--json"]).lines();
    let refused: Vec<&Value> = listed.iter().filter(|line| !line["unsupported"].is_null()).collect();
    assert!(refused.len() >= 4, "{refused:?}");
    for line in refused {
        let (name, why) = (line["name"].as_str().unwrap(), line["unsupported"].as_str().unwrap());
        let (reason, instead) = why.split_once("; instead: ").unwrap();
        desk.write("refused.toml", &text.replace("provider = \"veedeo\"", &format!("provider = \"{name}\"")));
        for command in ["validate", "run"] {
            let asked =
                if command == "run" { vec!["run", "-c", "refused.toml"] } else { vec![command, "refused.toml"] };
            let said = desk.run(&asked);
            let whole = said.err.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ");
            assert_eq!(said.code, 78, "{name}: {said:?}");
            assert!(whole.contains("is not supported"), "{name}: {whole}");
            assert!(whole.contains(&reason[..20]) && whole.contains(&instead[..20]), "{name}: {whole}");
        }
        desk.run(&["providers", "show", name]).failed(2, "is not supported");
    }
    desk.write("refused.toml", &text.replace("provider = \"veedeo\"", "provider = \"aws_sms\""));
    let said = desk.run(&["validate", "refused.toml"]);
    said.failed(78, "which is no provider");
}

#[test]
fn papers_are_printed() {
    let desk = Desk::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        desk.run(&["completions", shell]).ok("hookgate");
    }
    desk.run(&["man"]).ok(".TH hookgate 1");
}

#[test]
fn run_without_a_configuration_says_where_it_looked() {
    let desk = Desk { folder: tempfile::tempdir().unwrap() };
    desk.run(&["run"]).failed(78, "hookgate.toml");
    desk.write("hookgate.toml", "listen = 1\n");
    desk.run(&["run"]).failed(78, "listen");
}

/// A server that answers every request with `status`, and gives the requests back.
fn answering(status: &'static str, times: usize) -> (SocketAddr, std::thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let served = std::thread::spawn(move || {
        let mut requests = Vec::new();
        for _ in 0..times {
            let (mut stream, _) = listener.accept().unwrap();
            let mut bytes = Vec::new();
            let mut piece = [0; 4096];
            while !complete(&bytes) {
                let read = stream.read(&mut piece).unwrap();
                bytes.extend_from_slice(&piece[..read]);
            }
            write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}").unwrap();
            requests.push(String::from_utf8(bytes).unwrap());
        }
        requests
    });
    (address, served)
}

fn complete(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes).to_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
    body.len() >= length
}

#[test]
fn send_sends_a_signed_event_that_verify_accepts() {
    let desk = Desk::new();
    let (address, served) = answering("200 OK", 1);
    desk.run(&["send", "veedeo", "task.failed", "--to", &format!("http://{address}")]).ok("200 in ");
    let request = served.join().unwrap().remove(0);
    assert!(request.starts_with("POST /webhooks/veedeo HTTP/1.1\r\n"), "{request}");
    desk.write("captured.jsonl", &(captured(&request) + "\n"));
    let said = desk.run(&["verify", "--input", "captured.jsonl"]);
    assert_eq!((said.code, &said.lines()[0]["verdict"]), (0, &Value::from("accept")), "{said:?}");
    assert_eq!(said.lines()[0]["event_type"], "task.failed");
    let said = desk.run(&["verify", "--input", "captured.jsonl", "--at", "1760000000"]);
    assert_eq!((said.code, &said.lines()[0]["verdict"]), (3, &Value::from("refuse")), "{said:?}");
}

/// A request as `verify` reads it.
fn captured(request: &str) -> String {
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let headers: Vec<(&str, &str)> = head.lines().skip(1).filter_map(|line| line.split_once(": ")).collect();
    let body = data_encoding::BASE64.encode(body.as_bytes());
    serde_json::json!({ "route": "veedeo", "method": "POST", "url": "http://x/webhooks/veedeo", "headers": headers,
        "body_b64": body })
    .to_string()
}

#[test]
fn send_is_judged_by_the_answer_that_was_wanted() {
    let desk = Desk::new();
    for (status, flags, code) in [
        ("401 Unauthorized", vec![], 3),
        ("503 Service Unavailable", vec![], 1),
        ("401 Unauthorized", vec!["--bad-signature"], 0),
        ("200 OK", vec!["--stale"], 1),
    ] {
        let (address, served) = answering(status, 1);
        let to = format!("http://{address}");
        let said = desk.run(&[vec!["send", "veedeo", "--to", &to], flags.clone()].concat());
        assert_eq!(said.code, code, "{status} {flags:?} {said:?}");
        served.join().unwrap();
    }
    let (address, served) = answering("200 OK", 2);
    assert_eq!(desk.run(&["send", "veedeo", "--twice", "--to", &format!("http://{address}")]).out.lines().count(), 2);
    let requests = served.join().unwrap();
    assert_eq!(requests[0], requests[1]);
}

#[test]
fn send_says_what_it_cannot_do() {
    let desk = Desk::new();
    desk.run(&["send", "veedeo"]).failed(69, "nobody answers");
    desk.run(&["send", "veedeo", "task.none"]).failed(2, "task.completed");
    desk.run(&["send", "github"]).failed(2, "--secret-env");
    desk.run(&["send", "veedeo", "--to", "https://x/y"]).failed(2, "--print-curl");
    desk.run(&["send", "veedeo", "--body", "@none.json"]).failed(2, "none.json");
    let curl = desk.run(&["send", "github", "--to", "http://x/y", "--secret-env", "VEEDEO_SECRET", "--print-curl"]);
    curl.ok("x-hub-signature-256: sha256=").ok("x-github-event: push");
}

#[test]
fn verify_says_which_line_is_none() {
    let desk = Desk::new();
    desk.write("lines.jsonl", "{\"route\":\"veedeo\"}\n");
    desk.run(&["verify", "--input", "lines.jsonl"]).failed(1, "line 1");
    desk.run(&["verify", "--input", "none.jsonl"]).failed(2, "none.jsonl");
    let line = r#"{"route":"none","method":"POST","url":"/","headers":[],"body_b64":""}"#;
    desk.write("lines.jsonl", line);
    let said = desk.run(&["verify", "--input", "lines.jsonl"]);
    assert_eq!((said.code, &said.lines()[0]["reason"]), (3, &Value::from("no_route")));
}

#[test]
fn a_line_that_cannot_be_checked_does_not_keep_verify_from_the_others() {
    let desk = Desk::new();
    let line = |name: &str| {
        let headers = [(name, "v")];
        serde_json::json!({ "route": "none", "method": "POST", "url": "/", "headers": headers, "body_b64": "" })
    };
    let verdicts = |text: String| {
        desk.write("lines.jsonl", &text);
        let said = desk.run(&["verify", "--input", "lines.jsonl"]);
        let words = said.lines().iter().map(|row| format!("{} {}", row["line"], row["reason"])).collect::<Vec<_>>();
        (said.code, words.join(", "), said.err)
    };
    let (code, rows, err) = verdicts(format!("{}\n\nnot json\n{}\n", line("a"), line("b")));
    assert_eq!((code, rows.as_str()), (1, "1 \"no_route\", 4 \"no_route\""));
    assert!(err.contains("line 3: ") && err.contains("\"body_b64\""), "{err}");
    let (code, rows, err) = verdicts(format!("{}\n{}\n", line("a b"), line("b")));
    assert_eq!((code, rows.as_str()), (3, "1 \"bad_request\", 2 \"no_route\""));
    assert!(err.contains("line 1: headers: \"a b\""), "{err}");
}

#[test]
fn without_a_gateway_everything_that_asks_one_is_unreachable() {
    let desk = Desk::new();
    let key = "0".repeat(64);
    for arguments in [
        vec!["status"],
        vec!["events", "list"],
        vec!["dlq", "list"],
        vec!["dlq", "export"],
        vec!["replay", "--all"],
        vec!["dedup", "check", "veedeo", &key],
        vec!["reload"],
    ] {
        desk.run(&arguments).failed(69, "no gateway answers at http://127.0.0.1:7:");
    }
    desk.run(&["healthcheck"]).failed(69, "not ready");
    // The gateway that runs does so by the configuration before it was edited badly.
    let edited = Desk::new();
    edited.write("hookgate.toml", "listen = ");
    edited.run(&["healthcheck"]).failed(69, "127.0.0.1:9464 is not ready");
    let elsewhere = edited.command(&["healthcheck"]).env("HOOKGATE_TELEMETRY", "0.0.0.0:7").output().unwrap();
    Said::of(elsewhere).failed(69, "127.0.0.1:7 is not ready");
    desk.run(&["dedup", "check", "veedeo", "17"]).failed(2, "64 hex digits");
    desk.run(&["status", "--admin", "https://x"]).failed(2, "not an admin address");
}

/// A gateway's admin and telemetry pages over a spool, in this process.
struct Gateway {
    admin: SocketAddr,
    telemetry: SocketAddr,
    readiness: http::Readiness,
    spool: Spool,
    runtime: tokio::runtime::Runtime,
}

struct Roof;

#[async_trait::async_trait]
impl Control for Roof {
    fn routes(&self) -> Vec<RouteFacts> {
        let (path, provider, app_url) = ("/webhooks/veedeo".into(), "veedeo".into(), "http://127.0.0.1:3000".into());
        vec![RouteFacts { name: "veedeo".into(), path, provider, app_url }]
    }

    fn carries(&self, route: &str, header: &::http::HeaderName) -> Option<Carries> {
        (route == "veedeo").then(|| if header == "x-season" { Carries::Signature } else { Carries::Nothing })
    }

    fn config_text(&self) -> String {
        String::new()
    }

    async fn reload(self: Arc<Self>) -> Result<Reloaded, ReloadRefused> {
        Ok(Reloaded { changed: vec!["routes.veedeo".into()], needs_restart: vec!["listen".into()] })
    }

    fn set_log_level(&self, _: Level) -> Result<(), String> {
        Ok(())
    }

    fn wake(&self) {}

    fn explain(&self, _: Option<&str>) -> Option<Explained> {
        None
    }
}

impl Gateway {
    fn start(path: PathBuf) -> Self {
        Self::guarded_by(path, Some(TOKEN))
    }

    fn guarded_by(path: PathBuf, token: Option<&str>) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let metrics = Arc::new(Metrics::new(&[RouteLabels { name: "veedeo".into(), secrets: 1 }]).unwrap());
        let settings = DiskSettings { path, max_bytes: 1 << 20, max_dead_bytes: u64::MAX, min_free_bytes: 1 };
        let clock = runtime.block_on(async { Clock::anchored_at(Timestamp::from_seconds(NOW)) });
        let disk = Disk::open(settings, clock.now(), metrics.clone()).unwrap().disk;
        let spool = Spool::new(disk.clone());
        let bind = || runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let (admin_listener, telemetry_listener) = (bind(), bind());
        let (admin, telemetry) = (admin_listener.local_addr().unwrap(), telemetry_listener.local_addr().unwrap());
        let state = AdminState {
            spool: spool.clone(),
            claims: Arc::new(Embedded::new(disk)),
            dedup_store: "embedded",
            metrics: metrics.clone(),
            recent: Recent::default(),
            clock,
            control: Arc::new(Roof),
            token: Arc::new(token.map(|token| Arc::new(Secret::new(token.into()))).into()),
            address: admin,
            explaining: Arc::new(tokio::sync::Semaphore::new(1)),
            jobs: hookgate::admin::Jobs::default(),
        };
        let state = Arc::new(state);
        runtime.spawn(hookgate::admin::run_jobs(state.clone(), std::future::pending()));
        let readiness = http::Readiness::default();
        let pages = http::router(metrics, readiness.clone());
        let router = hookgate::admin::router(state);
        runtime.spawn(hookgate::admin::serve(admin_listener, router, std::future::pending()));
        runtime.spawn(http::serve(telemetry_listener, pages, std::future::pending()));
        Self { admin, telemetry, readiness, spool, runtime }
    }

    fn put_dead(&self, number: u8) -> String {
        let received_at = Timestamp::from_seconds(NOW - 100);
        let event = Event {
            id: EventId::new(received_at, u128::from(number) << 64),
            route: "veedeo".into(),
            key: EventKey::new("veedeo", &[&[number]], b"{}"),
            method: ::http::Method::POST,
            target: "/webhooks/veedeo".into(),
            headers: ::hookgate::domain::headers::Headers::from_iter(
                [("x-season", "spring"), ("x-ship", "a brig")].map(|(name, value)| {
                    (::http::HeaderName::from_static(name), ::http::HeaderValue::from_static(value))
                }),
            ),
            authority: "hooks.example.com".into(),
            body: Bytes::from_static(b"{}").into(),
            received_at,
            signed_at: None,
            event_type: None,
            order_value: None,
        };
        let id = event.id.to_string();
        let state = Entry::Dead { reason: DeadReason::AppRejected };
        let last_error = "the application answered 422".to_owned();
        let entry = NewEntry {
            event: Arc::new(event),
            state,
            attempts: 1,
            possible_duplicate: Possible::No,
            replay: Replay::No,
            last_error,
        };
        self.runtime.block_on(self.spool.append(entry, None)).unwrap();
        id
    }

    #[track_caller]
    fn ask(&self, desk: &Desk, arguments: &[&str]) -> Said {
        let mut command = desk.command(arguments);
        command.env("HOOKGATE_ADMIN", self.admin.to_string()).env("HOOKGATE_ADMIN_TOKEN", TOKEN);
        Said::of(command.output().unwrap())
    }
}

#[test]
fn a_running_gateway_is_asked_what_it_holds() {
    let desk = Desk::new();
    let gateway = Gateway::start(desk.spool());
    let id = gateway.put_dead(1);
    gateway.ask(&desk, &["status"]).ok("veedeo").ok("spool: 0 pending, 1 dead").ok("dedup: embedded");
    let status = &gateway.ask(&desk, &["status", "--json"]).lines()[0];
    assert_eq!((&status["routes"][0]["dead"], &status["spool"]["dead"]), (&Value::from(1), &Value::from(1)));
    gateway.ask(&desk, &["events", "list"]).ok(&id);
    gateway.ask(&desk, &["events", "show", &id]).ok("app_rejected").ok("POST http://hooks.example.com/webhooks/veedeo");
    gateway.ask(&desk, &["events", "show", &id, "--body"]).ok("{}");
    gateway.ask(&desk, &["dlq", "list"]).ok("the application answered 422");
    gateway.ask(&desk, &["dlq", "show", &id]).ok("app_rejected");
    assert_eq!(gateway.ask(&desk, &["dlq", "export"]).lines()[0]["body_b64"], "e30=");
    gateway.ask(&desk, &["events", "show", "17"]).failed(2, "UUID");
    gateway.ask(&desk, &["dlq", "list", "--reason", "x"]).failed(2, "attempts_exhausted");
    let mut no_token = desk.command(&["status"]);
    let said = Said::of(no_token.env("HOOKGATE_ADMIN", gateway.admin.to_string()).output().unwrap());
    said.failed(1, "HOOKGATE_ADMIN_TOKEN");
}

#[test]
fn dead_letters_are_retried_and_dropped_by_who_means_it() {
    let desk = Desk::new();
    let gateway = Gateway::start(desk.spool());
    let ids: Vec<String> = (0..3).map(|number| gateway.put_dead(number)).collect();
    gateway.ask(&desk, &["dlq", "drop", "--all"]).failed(2, "--yes");
    gateway.ask(&desk, &["dlq", "drop", "--all", "--dry-run"]).ok("would destroy 3 dead letters");
    assert_eq!(gateway.spool.totals().routes["veedeo"].dead, 3);
    gateway.ask(&desk, &["dlq", "drop", &ids[0], "--yes"]).ok("1 dropped");
    gateway.ask(&desk, &["dlq", "retry", "--route", "veedeo", "--since", "1h", "--yes"]).ok("2 made due again");
    assert_eq!((gateway.spool.totals().pending(), gateway.spool.totals().routes["veedeo"].dead), (2, 0));
    gateway.ask(&desk, &["replay", &ids[0], "--yes"]).failed(1, "no dead letter");
    gateway.ask(&desk, &["replay", "--all"]).ok("no dead letter is meant by that");
}

#[test]
fn a_running_gateway_is_operated() {
    let desk = Desk::new();
    let gateway = Gateway::start(desk.spool());
    gateway.ask(&desk, &["reload"]).ok("reloaded: routes.veedeo").ok("waits for a restart: listen");
    gateway.ask(&desk, &["dedup", "forget", "veedeo", &"0".repeat(64)]).failed(1, "remembers no event");
    let address = gateway.telemetry.to_string();
    desk.run(&["healthcheck", "--address", &address]).failed(69, "503");
    for condition in http::Condition::ALL {
        gateway.readiness.fulfil(condition);
    }
    desk.run(&["healthcheck", "--address", &address]).ok("");
}

#[test]
fn the_spool_of_a_stopped_gateway_is_read() {
    let desk = Desk::new();
    let gateway = Gateway::start(desk.spool());
    let id = gateway.put_dead(1);
    drop(gateway.spool);
    gateway.runtime.shutdown_timeout(Duration::from_secs(5));
    let spool = desk.spool().display().to_string();
    let listed = desk.run(&["dlq", "list", "--json", "--spool", &spool]).lines();
    assert_eq!(listed[0]["id"], id.as_str());
    let members: Vec<&String> = listed[0].as_object().unwrap().keys().collect();
    assert_eq!(members.len(), 9, "{members:?}");
    desk.run(&["dlq", "show", &id, "--spool", &spool]).ok("app_rejected");
    assert_eq!(desk.run(&["dlq", "export", "--spool", &spool]).lines()[0]["method"], "POST");
    assert_eq!(desk.run(&["status", "--json", "--spool", &spool]).lines()[0]["spool"]["dead"], 1);
    desk.run(&["dlq", "list", "--spool", "none"]).failed(1, "none");
    for command in ["dlq list", "status", "dlq export"] {
        let words: Vec<&str> = command.split_whitespace().chain(["--spool", &spool]).collect();
        let said = desk.command(&words).env("HOOKGATE_ADMIN", "127.0.0.1:7").output().unwrap();
        Said::of(said).ok("");
        desk.run(&[words, vec!["--admin", "127.0.0.1:7"]].concat()).failed(2, "--admin");
    }
}

/// Changes the spool's database behind its owner's back.
fn tamper(desk: &Desk, sql: &str) {
    rusqlite::Connection::open(desk.spool().join("hookgate.db")).unwrap().execute_batch(sql).unwrap();
}

#[test]
fn what_a_spool_holds_is_counted_route_by_route() {
    let desk = Desk::new();
    let gateway = Gateway::start(desk.spool());
    gateway.put_dead(1);
    gateway.put_dead(2);
    tamper(&desk, "INSERT INTO marks VALUES (zeroblob(16), zeroblob(16), 'veedeo', 0, 9)");
    let stats = desk.run(&["spool", "stats", "--json"]);
    assert_eq!(stats.code, 0, "{stats:?}");
    let stats = &stats.lines()[0];
    let veedeo = &stats["routes"][0];
    assert_eq!((&veedeo["name"], &veedeo["dead"], &veedeo["damaged"]), (&"veedeo".into(), &2.into(), &0.into()));
    assert_eq!((&stats["dead"], &stats["marks"], &stats["capacity_bytes"]), (&2.into(), &1.into(), &1_048_576.into()));
    assert!(stats["bytes"].as_u64().is_some_and(|bytes| bytes > 0 && stats["bytes"] == veedeo["bytes"]), "{stats}");
    let files: Vec<&str> =
        stats["files"].as_array().unwrap().iter().map(|file| file["name"].as_str().unwrap()).collect();
    assert!(files.contains(&"hookgate.db") && files.contains(&"hookgate.db-wal"), "{files:?}");
    desk.run(&["spool", "stats"]).ok("total: 0 pending, 2 dead, 0 damaged").ok("of 1.0 MiB").ok("processed events: 1");
}

#[test]
fn a_spool_is_found_by_its_path_or_by_the_configuration() {
    let desk = Desk::new();
    desk.run(&["spool", "stats"]).failed(1, "no spool can be read");
    drop(Gateway::start(desk.spool()));
    desk.run(&["spool", "verify"]).ok("");
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::create_dir(elsewhere.path().join("other")).unwrap();
    drop(Gateway::start(elsewhere.path().join("other/spool")));
    let other = elsewhere.path().join("other/spool").display().to_string();
    assert_eq!(desk.run(&["spool", "stats", "--json", "--spool", &other]).lines()[0]["capacity_bytes"], Value::Null);
    let mut nowhere = desk.command(&["spool", "verify"]);
    Said::of(nowhere.current_dir(elsewhere.path()).output().unwrap()).failed(2, "--spool");
    let mut by_variable = desk.command(&["spool", "verify"]);
    by_variable.current_dir(elsewhere.path()).env("HOOKGATE_SPOOL__PATH", &other);
    Said::of(by_variable.output().unwrap()).ok("");
}

#[test]
fn every_record_is_checked_and_the_damaged_are_named() {
    let desk = Desk::new();
    let gateway = Gateway::start(desk.spool());
    let ids: Vec<String> = (1..=3).map(|number| gateway.put_dead(number)).collect();
    let whole = desk.run(&["spool", "verify"]);
    assert_eq!((whole.code, whole.out.as_str()), (0, ""), "{whole:?}");
    assert!(whole.err.contains("3 records read, all of them whole"), "{whole:?}");

    tamper(&desk, "UPDATE payloads SET body = x'7b5d' WHERE seq = 2");
    let damaged = desk.run(&["spool", "verify", "--json"]);
    assert_eq!(damaged.code, 65, "{damaged:?}");
    let lines = damaged.lines();
    assert_eq!((lines.len(), lines[0]["id"].as_str()), (1, Some(ids[1].as_str())));
    assert_eq!((&lines[0]["route"], &lines[0]["set_aside"]), (&"veedeo".into(), &false.into()));
    assert_eq!(lines[0]["received_at"], Timestamp::from_seconds(NOW - 100).to_string());
    let said = desk.run(&["spool", "verify"]);
    assert!(said.out.contains(&ids[1]) && !said.out.contains(&ids[0]), "{said:?}");
    said.failed(65, "1 of them damaged");
}

#[test]
fn records_that_were_set_aside_are_listed_and_dropped_and_never_retried() {
    let desk = Desk::new();
    let gateway = Gateway::start(desk.spool());
    let (good, bad) = (gateway.put_dead(1), gateway.put_dead(2));
    desk.run(&["dlq", "list", "--damaged", "--spool", &desk.spool().display().to_string()]).ok("");
    tamper(&desk, "UPDATE payloads SET target = '/elsewhere' WHERE seq = 2");
    let id = bad.parse::<EventId>().unwrap();
    assert!(gateway.runtime.block_on(gateway.spool.load(id)).unwrap().is_none(), "it is set aside");

    let spool = desk.spool().display().to_string();
    let of_file = desk.run(&["dlq", "list", "--damaged", "--json", "--spool", &spool]);
    let of_gateway = gateway.ask(&desk, &["dlq", "list", "--damaged", "--json"]);
    for said in [of_file, of_gateway] {
        let lines = said.lines();
        assert_eq!(lines.len(), 1, "{said:?}");
        assert_eq!((&lines[0]["id"], &lines[0]["reason"]), (&Value::from(&*bad), &"damaged".into()));
    }
    let found = gateway.ask(&desk, &["events", "list", "--reason", "damaged", "--json"]).lines();
    assert_eq!((found.len(), &found[0]["id"]), (1, &Value::from(&*bad)));
    let dead = gateway.ask(&desk, &["dlq", "list", "--json"]).lines();
    assert_eq!((dead.len(), &dead[0]["id"]), (1, &Value::from(good)));
    assert_eq!(desk.run(&["spool", "verify", "--json"]).lines()[0]["set_aside"], true);
    gateway.ask(&desk, &["dlq", "retry", "--reason", "damaged", "--yes"]).failed(2, "cannot be delivered");
    gateway.ask(&desk, &["dlq", "drop", "--reason", "damaged", "--yes"]).ok("1 dropped");
    desk.run(&["spool", "verify"]).ok("");
}

#[test]
fn an_export_says_how_many_records_it_left_out() {
    let desk = Desk::new();
    let gateway = Gateway::start(desk.spool());
    let ids: Vec<String> = (1..=3).map(|number| gateway.put_dead(number)).collect();
    tamper(&desk, "UPDATE payloads SET body = x'7b5d' WHERE seq = 2");
    let spool = desk.spool().display().to_string();
    let of_file = desk.run(&["dlq", "export", "--spool", &spool]);
    let of_gateway = gateway.ask(&desk, &["dlq", "export"]);
    for (said, whose) in [(of_file, &*ids[1]), (of_gateway, "1 damaged records are left out")] {
        let kept: Vec<Value> = said.lines().iter().map(|line| line["id"].clone()).collect();
        assert_eq!(kept, [Value::from(&*ids[0]), Value::from(&*ids[2])]);
        said.failed(65, whose);
    }
    // Now it is no dead letter any more.
    let again = gateway.ask(&desk, &["dlq", "export"]);
    assert_eq!((again.code, again.lines().len()), (0, 2), "{again:?}");
}

#[test]
fn a_damaged_file_is_damaged_though_its_records_are_whole() {
    let desk = Desk::new();
    let gateway = Gateway::start(desk.spool());
    gateway.put_dead(1);
    drop(gateway);
    let file = desk.spool().join("hookgate.db");
    let conn = rusqlite::Connection::open(&file).unwrap();
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    let page =
        conn.query_row("SELECT rootpage FROM sqlite_master WHERE name = 'marks'", [], |row| row.get::<_, usize>(0));
    drop(conn);
    let mut bytes = std::fs::read(&file).unwrap();
    let page = page.unwrap();
    bytes[(page - 1) * 4096..page * 4096].fill(0xA5);
    std::fs::write(&file, bytes).unwrap();
    desk.run(&["spool", "verify"]).failed(65, "1 records read, all of them whole, but the file is damaged");
}

#[test]
fn commits_lost_in_a_damaged_log_are_counted() {
    let desk = Desk::new();
    let gateway = Gateway::start(desk.spool());
    for number in 1..=5 {
        gateway.put_dead(number);
    }
    let copy = tempfile::tempdir().unwrap();
    for name in ["hookgate.db", "hookgate.db-wal"] {
        std::fs::copy(desk.spool().join(name), copy.path().join(name)).unwrap();
    }
    let path = copy.path().display().to_string();
    let log = copy.path().join("hookgate.db-wal");
    let mut bytes = std::fs::read(&log).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    std::fs::write(&log, bytes).unwrap();
    let said = desk.run(&["spool", "verify", "--spool", &path]);
    assert!(said.out.contains("commits are lost"), "{said:?}");
    said.failed(65, "the file is damaged");
}

#[test]
fn only_damage_is_called_damage() {
    let desk = Desk::new();
    drop(Gateway::start(desk.spool()));
    tamper(&desk, "PRAGMA user_version = 9");
    desk.run(&["spool", "verify"]).failed(1, "use the newer program");
    tamper(&desk, "PRAGMA user_version = 1; DROP TABLE meta");
    desk.run(&["spool", "verify"]).failed(65, "is damaged");
}

#[test]
fn a_proof_with_a_harmless_name_is_in_an_export_of_a_gateway_alone() {
    let desk = Desk::new();
    desk.write(
        "hookgate.toml",
        &format!(
            "listen = \"127.0.0.1:9\"\ntelemetry = \"127.0.0.1:8\"\nadmin = \"127.0.0.1:7\"\n[spool]\npath = \"{}\"\n\
             [providers.harbour]\nkind = \"token\"\nsignature = {{ header = \"X-Season\" }}\n[routes.veedeo]\n\
             path = \"/webhooks/veedeo\"\nprovider = \"harbour\"\nsecrets = [{{ env = \"VEEDEO_SECRET\" }}]\n",
            desk.spool().display()
        ),
    );
    desk.run(&["validate", "--no-environment"]).ok("1 route");
    let gateway = Gateway::start(desk.spool());
    let id = gateway.put_dead(1);
    gateway.ask(&desk, &["dlq", "export"]).ok("spring");
    let spool = desk.spool().display().to_string();
    let shown = [
        gateway.ask(&desk, &["events", "show", &id]),
        gateway.ask(&desk, &["dlq", "show", &id]),
        desk.run(&["dlq", "show", &id, "--spool", &spool]),
        desk.run(&["dlq", "export", "--spool", &spool]),
    ];
    for said in shown {
        assert!(said.ok("a brig").out.contains("(redacted)") && !said.out.contains("spring"), "{said:?}");
    }
    let mut without = desk.command(&["dlq", "export", "--spool", &spool]);
    let said = Said::of(without.env_remove("VEEDEO_SECRET").output().unwrap());
    assert!(said.code == 0 && !said.out.contains("spring") && !said.out.contains("a brig"), "{said:?}");
    desk.run(&["dlq", "export", "--help"]).ok("signatures are printed as they");
}

#[test]
fn a_spool_that_is_none_is_damaged() {
    let desk = Desk::new();
    std::fs::create_dir(desk.spool()).unwrap();
    std::fs::write(desk.spool().join("hookgate.db"), [0x55; 8192]).unwrap();
    let spool = desk.spool().display().to_string();
    assert_eq!(desk.run(&["status", "--spool", &spool]).code, 65);
    assert!(Path::new(&spool).join("hookgate.db").exists());
}

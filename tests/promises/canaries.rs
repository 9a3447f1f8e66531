//! Secrets that exist nowhere else are given to a gateway in every way it takes them, and then everything it says at every
//! level is searched for them in every spelling. P11.

use std::path::Path;
use std::time::Duration;

use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER, HEXUPPER};

use crate::tls::{ALL, Papers};
use crate::world::act::{accept, answer};
use crate::world::app::App;
use crate::world::at_once;
use crate::world::clock::{now_unix, pause};
use crate::world::events::task;
use crate::world::gateway::Gateway;
use crate::world::sender::Request;
use crate::world::setup::Setup;
use crate::world::sign::Provider;

/// The password of a Redis that is not there, the token of the admin listener, and a secret that is written into the file.
const PASSWORD: &str = "canary-redis-4b?7/e1%2Bd9c0a8f6";
const TOKEN: &str = "canary-token-93d0f2b7a6e14c58b1d7e09f";
const LITERAL: &str = "canary-literal-6e0f1b2c9d8a7e55";

/// Everything that must never be said, by what it is.
fn hidden(papers: &Papers) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let texts = Provider::ALL.map(|provider| (provider.name(), provider.secret()));
    let others = [("redis", PASSWORD), ("token", TOKEN), ("literal", LITERAL)];
    for (name, text) in texts.into_iter().chain(others) {
        let bytes = text.trim_start_matches("whsec_").as_bytes();
        let mut spell = |how: &str, spelling: String| all.push((format!("{name} {how}"), spelling));
        spell("as it is", String::from_utf8(bytes.to_vec()).unwrap());
        spell("in hex", HEXLOWER.encode(bytes));
        spell("in capital hex", HEXUPPER.encode(bytes));
        // In the middle of a longer text base64 looks different, by where it begins.
        for skipped in 0..3 {
            let middle = &bytes[skipped..];
            let whole = &middle[..middle.len() / 3 * 3];
            spell("in base64", BASE64.encode(whole));
            spell("in base64 for addresses", BASE64URL_NOPAD.encode(whole));
        }
        let bytes_listed: Vec<String> = bytes.iter().map(u8::to_string).collect();
        spell("as a list of bytes", bytes_listed.join(", "));
    }
    let standard = Provider::StandardWebhooks.secret().trim_start_matches("whsec_");
    all.push((
        "standardwebhooks decoded".into(),
        String::from_utf8(BASE64.decode(standard.as_bytes()).unwrap()).unwrap(),
    ));
    let key = std::fs::read_to_string(papers.path("first.key")).unwrap();
    for line in key.lines().filter(|line| !line.starts_with("---") && line.len() >= 32) {
        all.push(("a line of the TLS key".into(), line.to_owned()));
    }
    assert!(all.len() > 80, "{} spellings", all.len());
    all
}

fn assert_silent(where_: &str, text: &str, hidden: &[(String, String)]) {
    for (what, spelling) in hidden {
        let line = text.lines().find(|line| line.contains(spelling.as_str()));
        assert!(line.is_none(), "{where_} holds {what}: {}", line.unwrap_or_default());
    }
}

fn setup(app: &App, papers: &Papers, level: &str, format: &str) -> Setup {
    papers.write("first", &["hooks.example.com"]);
    let mut setup = Setup::new(&app.url()).with(&[
        &papers.line("cert", "first.crt"),
        &papers.line("key", "first.key"),
        &format!("log.level = '{level}'"),
        &format!("log.format = '{format}'"),
        "ack.budget = '3s'",
        "admin_token = { env = 'TOKEN_OF_THE_ADMIN' }",
        "dedup.store = 'redis'",
        "dedup.redis.url = { env = 'ADDRESS_OF_REDIS' }",
        "routes.literal.path = '/literal'",
        "routes.literal.provider = 'github'",
        &format!("routes.literal.secrets = [{{ literal = '{LITERAL}' }}]"),
        "passthrough.paths = ['/open/*']",
    ]);
    let password = PASSWORD.replace('%', "%25").replace('/', "%2F").replace('?', "%3F");
    setup.environment.push(("TOKEN_OF_THE_ADMIN".into(), TOKEN.into()));
    setup.environment.push(("HOOKGATE_ADMIN_TOKEN".into(), TOKEN.into()));
    setup.environment.push(("ADDRESS_OF_REDIS".into(), format!("redis://:{password}@127.0.0.1:9/0")));
    setup
}

/// Requests of every kind; some name a secret where it has no business.
fn requests() -> Vec<Request> {
    let mut all = Vec::new();
    for provider in Provider::ALL {
        let secret = provider.secret();
        all.push(provider.sign(task(format!("fine-{}", provider.name()))));
        all.push(provider.sign_at(task("forged"), now_unix(), "whsec_Y2FuIGJlIGd1ZXNzZWQgYnkgbm9ib2R5"));
        all.push(provider.sign_at(task("old"), now_unix() - 4000, secret));
        all.push(Request::post(&provider.path(), task("bare")).with("Authorization", format!("Bearer {secret}")));
        all.push(Request::get(&format!("/nowhere/{secret}?token={secret}")).with("X-Gitlab-Token", secret));
        all.push(Request::get(&format!("/open/{secret}?token={secret}")).with("Cookie", secret));
        all.push(Request::post(&provider.path(), task("headed")).with("X-Request-Id", secret).with("Bro ken", secret));
        all.push(Request::post(&provider.path(), task("framed")).with("Transfer-Encoding", secret));
    }
    all.push(Request::post("/literal", "{}").with("X-Hub-Signature-256", LITERAL));
    all
}

/// Everything that the commands and the listeners say, each with its name.
fn asked(gateway: &Gateway) -> Vec<(String, String)> {
    let mut said = Vec::new();
    let commands: [&[&str]; 14] = [
        &["config", "show"],
        &["config", "show", "--origin"],
        &["config", "show", "--format", "json"],
        &["validate"],
        &["status"],
        &["events", "list"],
        &["events", "list", "--json"],
        &["dlq", "list", "--json"],
        &["explain", "--last"],
        &["explain", "--last", "--json"],
        &["reload"],
        &["spool", "verify"],
        &["providers", "list"],
        &["dlq", "export"],
    ];
    for command in commands {
        let finished = gateway.ask(command);
        said.push((command.join(" "), format!("{}\n{}", finished.stdout, finished.stderr)));
    }
    for path in ["status", "routes", "routes/veedeo", "events", "dead-letters", "jobs", "config", "nowhere"] {
        let request = Request::get(&format!("/api/{path}"));
        let authorized = request.clone().with("Authorization", format!("Bearer {TOKEN}"));
        said.push((path.to_owned(), gateway.admin(&authorized).text()));
        let wrong = request.with("Authorization", format!("Bearer {TOKEN}x"));
        let reply = gateway.admin(&wrong);
        assert_eq!(reply.status, 401);
        said.push((format!("{path} without the token"), reply.text()));
    }
    for path in ["/metrics", "/readyz?verbose", "/livez"] {
        said.push((path.to_owned(), gateway.telemetry(path).unwrap().text()));
    }
    said
}

/// What the list of processes says of this one and of its threads to every user of the machine.
fn listed(pid: u32) -> Vec<(String, String)> {
    let process = format!("/proc/{pid}");
    let mut files = vec![format!("{process}/cmdline"), format!("{process}/stat"), format!("{process}/status")];
    for thread in std::fs::read_dir(format!("{process}/task")).unwrap().flatten() {
        files.push(thread.path().join("comm").display().to_string());
    }
    assert!(files.len() > 5, "{files:?}");
    let read = |path: String| {
        let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap_or_default()).replace('\0', " ");
        (path, text)
    };
    let said: Vec<(String, String)> = files.into_iter().map(read).collect();
    assert!(said[0].1.contains(" run "), "{:?}", said[0]);
    said
}

/// Names of all files below `folder`, and what is in those of the spool.
fn files(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        found.push(("the name of a file".into(), path.display().to_string()));
        if path.is_dir() {
            files(&path, found);
        } else if path.components().any(|part| part.as_os_str() == "spool") {
            found.push((
                path.display().to_string(),
                String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned(),
            ));
        }
    }
}

fn live(level: &str, format: &str) {
    let (app, papers) = (App::start(), Papers::new());
    let mut gateway = Gateway::start(setup(&app, &papers, level, format));
    let hidden = hidden(&papers);
    let sender = papers.sender(ALL, None);
    app.first([accept(), answer(422), answer(500)]);
    let mut told = Vec::new();
    let mut answered = 0;
    for request in requests() {
        // Our replies are searched; what the application says is its own.
        let reply = sender.send(&gateway, &request).unwrap_or_default();
        answered += usize::from(reply.starts_with("HTTP/1.1 "));
        told.push(("a reply".to_owned(), reply));
    }
    assert!(answered > 30, "{answered} replies");
    told.extend(asked(&gateway));
    gateway
        .configure(&[&format!("routes.literal.secrets = [{{ literal = '{LITERAL}' }}, {{ literall = '{LITERAL}' }}]")]);
    told.extend(asked(&gateway));
    gateway.configure(&[&format!("routes.literal.secrets = [{{ literal = '{LITERAL}' ")]);
    let broken = gateway.ask(&["reload"]);
    assert_ne!(broken.code, Some(0), "{broken:?}");
    told.push(("a reload of what is broken".into(), format!("{}\n{}", broken.stdout, broken.stderr)));
    let invalid = gateway.ask(&["validate"]);
    assert_ne!(invalid.code, Some(0), "{invalid:?}");
    told.push(("validate".into(), format!("{}\n{}", invalid.stdout, invalid.stderr)));
    pause(Duration::from_millis(300));
    told.extend(listed(gateway.pid()));
    files(&gateway.folder(), &mut told);
    gateway.stop();
    let said = gateway.said();
    assert!(level != "trace" || said.len() > 40, "{} lines", said.len());
    told.push((format!("the log at {level} in {format}"), said.join("\n")));
    for (where_, text) in &told {
        assert_silent(where_, text, &hidden);
    }
}

#[test]
fn no_secret_is_said_in_any_spelling_at_any_level() {
    for format in ["json", "pretty"] {
        at_once([["error", "warn", "info"].as_slice(), &["debug", "trace"]], |levels| {
            for level in levels {
                live(level, format);
            }
        });
    }
}

#[test]
fn a_picture_of_the_memory_is_written_nowhere() {
    let app = App::start();
    let mut gateway = Gateway::prepared(Setup::new(&app.url()));
    gateway.through("ulimit -c unlimited".into());
    gateway.restart();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", gateway.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(line.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{line}");
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let numbers: Vec<&str> = files.split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers[0], numbers[1], "all descriptors that it may have: {files}");
    gateway.signal(rustix::process::Signal::ABORT);
    let status = gateway.wait_for_end(Duration::from_secs(10));
    assert!(!std::os::unix::process::ExitStatusExt::core_dumped(&status), "{status}");
}

/// Texts with which a line of the log could be forged or a terminal driven.
const FORGED: &str = "x\r\n{\"level\":\"error\",\"msg\":\"FORGED\"}\u{1b}[31m\u{1b}]0;FORGED\u{7}\u{9b}31m\u{202e}";

fn inject(format: &str) {
    let app = App::start();
    let lines = [
        &*format!("log.format = '{format}'"),
        "log.level = 'trace'",
        "server.trusted_proxies = ['127.0.0.0/8']",
        "passthrough.paths = ['/open/*']",
    ];
    let mut gateway = Gateway::start(Setup::new(&app.url()).with(&lines));
    let before = gateway.said().len();
    let escaped = serde_json::to_string(FORGED).unwrap();
    let event =
        format!("{{\"event\":{escaped},\"timestamp\":\"{}\",\"task_id\":{escaped}}}", crate::world::clock::rfc3339(0));
    let encoded: Vec<String> = FORGED.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let encoded = encoded.concat();
    let latin = |text: &str| text.chars().filter(|c| !c.is_ascii_control()).collect::<String>().into_bytes();
    let requests = [
        Provider::Veedeo.sign(event.clone()),
        Provider::Veedeo.sign_at(event, now_unix(), "not the secret"),
        Request::get(&format!("/nowhere/{encoded}?{encoded}")),
        Request::get(&format!("/open/{encoded}?{encoded}")),
        Provider::Veedeo.sign(task("id")).with("X-Request-Id", latin(FORGED)),
        Provider::Veedeo.sign(task("for")).with("X-Forwarded-For", latin(FORGED)),
        Provider::Veedeo.sign(task("host")).with("X-Forwarded-Host", latin(FORGED)),
        Provider::Veedeo.sign(task("trace")).with("traceparent", latin(FORGED)),
        Provider::GitHub.sign("{}").without("X-GitHub-Event").with("X-GitHub-Event", latin(FORGED)),
        Request::get("/nowhere").with("X-Raw", "a\u{1b}[31mFORGED"),
        Request::get("/nowhere").with("X-Raw", "a\nFORGED: b"),
        Request::get("/nowhere\u{1b}[31mFORGED"),
        Request { method: "FORGED\u{1b}[31m".into(), ..Request::get("/nowhere") },
    ];
    for request in &requests {
        gateway.try_send(request).ok();
    }
    app.first([
        answer(500).with("X-Said", "FORGED"),
        crate::world::act::Act::Raw(format!("FORGED {FORGED}\r\n\r\n").into_bytes()),
    ]);
    for number in 0..2 {
        gateway.try_send(&Provider::Stripe.sign(format!("{{\"id\":\"evt_{number}\"}}"))).ok();
    }
    gateway.wait_for_log(&["stripe"]);
    gateway.stop();
    let said = gateway.said();
    assert!(said.len() > before + 10, "{said:#?}");
    for line in &said {
        let control = line.chars().find(|c| c.is_control() && *c != '\t');
        assert!(control.is_none(), "{format}: {control:?} in {line:?}");
        assert!(
            !line.trim_start().starts_with("{\"level\":\"error\",\"msg\":\"FORGED\"") && !line.starts_with("FORGED"),
            "{format}: {line:?}"
        );
        if format == "json" {
            let object: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
            assert_ne!(object["msg"], "FORGED");
        }
    }
}

#[test]
fn nobody_writes_a_line_of_the_log_but_the_gateway() {
    inject("json");
    inject("pretty");
}

#[test]
fn a_flood_of_refused_requests_is_a_few_lines_and_their_number() {
    let app = App::start();
    let mut gateway = Gateway::start(Setup::new(&app.url()));
    let forged = Provider::Veedeo.sign_at(task("forged"), now_unix(), "not the secret");
    let mut line = crate::world::sender::Line::open(&gateway.address()).unwrap();
    let from = std::time::Instant::now();
    let answered = (0..90).filter(|_| line.send(&forged).is_ok_and(|reply| reply.status == 401)).count();
    let seconds = from.elapsed().as_secs() + 2;
    assert_eq!(answered, 90);
    assert_eq!(gateway.send(&Request::get("/nowhere")).status, 404);
    gateway.stop();
    let written = gateway.log(&["\"disposition\":\"refused\"", "signature_mismatch"]).len() as u64;
    let told: Vec<serde_json::Value> =
        gateway.log(&["lines were left out"]).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(told.iter().all(|line| line["route"] == "veedeo" && line["like"] == "signature_mismatch"), "{told:?}");
    let left_out: u64 = told.iter().map(|line| line["more"].as_u64().unwrap()).sum();
    assert!(written <= seconds * 20, "{written} lines in {seconds} s");
    assert!(left_out > 0, "90 requests took {seconds} s");
    assert_eq!(written + left_out, 90);
    assert_eq!(gateway.log(&["no_route"]).len(), 1, "another kind has lines of its own");
}

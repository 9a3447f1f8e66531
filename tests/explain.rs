//! `hookgate explain` over the real program: each hypothesis of its list has a captured request here that is wrong in
//! exactly that way, and is explained by exactly that hypothesis. Requests are signed by this file's own hand.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that stops is a test that fails"
)]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use data_encoding::{BASE64, BASE64_NOPAD, BASE64URL_NOPAD, HEXLOWER, HEXUPPER};
use flate2::Compression;
use flate2::write::GzEncoder;
use hmac::{Hmac, KeyInit, Mac};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use serde_json::{Value, json};
use sha1::Sha1;
use sha2::Sha256;

const NOW: i64 = 1_760_000_000;
const JSON: &str = r#"{"type":"a.b","id":"evt/1","price":1.50,"name":"Zoë <b>","list":[1,{"z":1,"a":[]}]}"#;

/// The secret of each route, by the variable that holds it.
const SECRETS: &[(&str, &str)] = &[
    ("PLAIN", "canary-plain-8d1f0b7c52e94f63a0"),
    ("OLD", "canary-old-77e0c3a9514b4d2f8e01"),
    ("SMALL", "canary-small-1b9a6e07d4c85f22"),
    ("TIMED", "canary-timed-0f5d3e2a918b7766"),
    ("REQUIRED", "canary-required-93bc55e0aa10"),
    ("B64", "Y2FuYXJ5LWluLWJhc2U2NC0wMTIzNDU2Nzg5"),
    ("HEXED", "63616e6172792d696e2d6865782d30313233343536373839"),
    ("PREFIXED", "whsec_canary-prefixed-5510aa"),
    ("STANDARD", "whsec_Y2FuYXJ5LXN0YW5kYXJkLTJhNGI2YzhkMGUx"),
    ("STRIPE", "whsec_canary-stripe-0f5d3e2a918b"),
    ("VEEDEO", "canary-veedeo-8d1f0b7c52e94f63a0"),
    ("ADDRESS", "canary-address-4d2f8e0177e0c3"),
    ("TOKEN", "canary-token-0c3a9514b4d2f8e0"),
    ("WEB", "canary-web-5f22e94f63a08d1f"),
];

const CONFIG: &str = r#"
listen = "127.0.0.1:9"
telemetry = "127.0.0.1:8"
admin = "127.0.0.1:7"
spool.path = "spool"
[providers.plain]
signature = { header = "X-Sig", prefix = "sha256=", encoding = "hex" }
[providers.timed]
extends = "plain"
timestamp = { from = "header:X-Time", unit = "s", tolerance = "300s" }
[providers.required]
extends = "plain"
require = { "X-Version" = "1" }
[providers.address]
extends = "plain"
signed = "{url}{body}"
[providers.token]
kind = "token"
signature = { header = "X-Token" }
[providers.web]
kind = "jwt"
token = { header = "Authorization", prefix = "Bearer " }
claims = { iss = "me", sha256 = "{sha256_hex:body}", aud = "{url}" }
"#;

fn config() -> String {
    let route = |name: &str, provider: &str, further: &str| {
        let old = if name == "plain" { ", { env = \"OLD\", until = \"2025-01-01T00:00:00Z\" }" } else { "" };
        format!(
            "[routes.{name}]\npath = \"/{name}\"\nprovider = \"{provider}\"\nsecrets = [{{ env = \"{}\" }}{old}]\n{further}\n",
            name.to_uppercase()
        )
    };
    let routes = [
        route("plain", "plain", ""),
        route("small", "plain", "max_body_bytes = 16"),
        route("timed", "timed", ""),
        route("required", "required", ""),
        route("b64", "plain", ""),
        route("hexed", "plain", ""),
        route("prefixed", "plain", ""),
        route("standard", "standardwebhooks", ""),
        route("stripe", "stripe", ""),
        route("veedeo", "veedeo", ""),
        route("address", "address", "public_url = \"https://hooks.example.com/in\""),
        route("token", "token", ""),
        route("web", "web", "public_url = \"https://hooks.example.com/web\""),
    ];
    CONFIG.to_owned() + &routes.concat()
}

fn secret(route: &str) -> &'static str {
    SECRETS.iter().find(|(name, _)| *name == route.to_uppercase()).unwrap().1
}

fn mac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

fn hex(key: &[u8], text: &[u8]) -> String {
    HEXLOWER.encode(&mac(key, text))
}

/// A captured request, and what must be said of it.
struct Row {
    /// The hypotheses that must fit, or be seen; the first is the one that the row is about.
    ids: Vec<&'static str>,
    route: &'static str,
    method: &'static str,
    url: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Row {
    fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    fn url(self, url: &str) -> Self {
        Self { url: url.into(), ..self }
    }

    fn also(mut self, id: &'static str) -> Self {
        self.ids.push(id);
        self
    }

    fn line(&self) -> String {
        json!({ "route": self.route, "method": self.method, "url": self.url, "headers": self.headers,
                "body_b64": BASE64.encode(&self.body) })
        .to_string()
    }

    /// What the gateway expects of this very request: nobody may ever read it.
    fn right(&self) -> Vec<u8> {
        let header = |name: &str| {
            let found = self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
            found.map_or("", |(_, value)| value.as_str())
        };
        let secret = secret(self.route);
        let (key, before) = match self.route {
            "standard" => {
                let key = BASE64.decode(&secret.as_bytes()[6..]).unwrap();
                (key, format!("{}.{}.", header("webhook-id"), header("webhook-timestamp")))
            }
            "stripe" => (secret.as_bytes().to_vec(), format!("{NOW}.")),
            "address" => (secret.as_bytes().to_vec(), "https://hooks.example.com/in".into()),
            _ => (secret.as_bytes().to_vec(), String::new()),
        };
        mac(&key, &[before.as_bytes(), &self.body].concat())
    }
}

/// A request of `route` with this body and no signature.
fn bare(id: &'static str, route: &'static str, body: impl Into<Vec<u8>>) -> Row {
    let url = format!("https://gateway.example.net/{route}");
    Row { ids: vec![id], route, method: "POST", url, headers: Vec::new(), body: body.into() }
}

/// The same, over which a text is signed with a key as the plain provider does.
fn signed(id: &'static str, route: &'static str, body: impl Into<Vec<u8>>, key: &str, text: impl AsRef<[u8]>) -> Row {
    let value = format!("sha256={}", hex(key.as_bytes(), text.as_ref()));
    bare(id, route, body).with("X-Sig", value)
}

/// The same, right but for its body: `text` was signed and `body` came.
fn body(id: &'static str, body: impl Into<Vec<u8>>, text: impl AsRef<[u8]>) -> Row {
    signed(id, "plain", body, secret("plain"), text)
}

fn rows() -> Vec<Row> {
    [facts(), secrets(), notation(), tokens(), texts_and_times(), addresses(), bodies(), reserialised(), hints()]
        .into_iter()
        .flatten()
        .collect()
}

fn facts() -> Vec<Row> {
    let right = |id, route: &'static str| signed(id, route, JSON, secret(route), JSON);
    vec![
        Row { method: "GET", ..right("method", "plain") },
        right("body-too-large", "small"),
        bare("signature-missing", "plain", JSON),
        right("timestamp-missing", "timed"),
        right("required-header", "required"),
        right("required-header", "required").with("X-Version", "2"),
        right("connection-header", "plain").with("Connection", "close, X-Sig"),
    ]
}

fn tokens() -> Vec<Row> {
    let part = |text: &str| data_encoding::BASE64URL_NOPAD.encode(text.as_bytes());
    let key = secret("web").as_bytes();
    let digest = HEXLOWER.encode(&sha2::Digest::finalize(<Sha256 as sha2::Digest>::new_with_prefix(JSON)));
    let claims = |iss: &str, digest: &str, aud: &str| {
        format!(r#"{{"iss":"{iss}","sha256":"{digest}","aud":"{aud}","iat":{NOW}}}"#)
    };
    let url = "https://hooks.example.com/web";
    let token = |id, claims: String| {
        let text = format!("{}.{}", part(r#"{"alg":"HS256"}"#), part(&claims));
        let mac = data_encoding::BASE64URL_NOPAD.encode(&mac(key, text.as_bytes()));
        bare(id, "web", JSON).with("Authorization", format!("Bearer {text}.{mac}"))
    };
    let strong = {
        let text = format!("{}.{}", part(r#"{"alg":"HS512"}"#), part(&claims("me", &digest, url)));
        let mut mac = Hmac::<sha2::Sha512>::new_from_slice(key).unwrap();
        mac.update(text.as_bytes());
        format!("Bearer {text}.{}", data_encoding::BASE64URL_NOPAD.encode(&mac.finalize().into_bytes()))
    };
    let right = token("token-prefix", claims("me", &digest, url)).headers.remove(0).1;
    vec![
        token("token-claim", claims("you", &digest, url)),
        token("token-claim", claims("me", &digest, "https://hooks.example.com/other")),
        bare("token-algorithm", "web", JSON).with("Authorization", strong),
        bare("token-prefix", "web", JSON).with("Authorization", right.replace("Bearer ", "JWT ")),
    ]
}

fn secrets() -> Vec<Row> {
    let plain = |id, key: &str| signed(id, "plain", JSON, key, JSON);
    let own = secret("plain");
    let with_key =
        |id, route, key: &[u8]| bare(id, route, JSON).with("X-Sig", format!("sha256={}", hex(key, JSON.as_bytes())));
    let stamped = format!("msg_1.{NOW}.{JSON}");
    vec![
        plain("secret-whitespace", &format!("{own}\n")),
        plain("secret-whitespace", &format!("{own}\r\n")),
        plain("secret-whitespace", &format!("{own} ")),
        plain("secret-quoted", &format!("\"{own}\"")),
        with_key("secret-base64", "b64", &BASE64.decode(secret("b64").as_bytes()).unwrap()),
        with_key("secret-hex", "hexed", &HEXLOWER.decode(secret("hexed").as_bytes()).unwrap()),
        bare("secret-as-text", "standard", JSON)
            .with("webhook-id", "msg_1")
            .with("webhook-timestamp", NOW.to_string())
            .with(
                "webhook-signature",
                format!("v1,{}", BASE64.encode(&mac(secret("standard").as_bytes(), stamped.as_bytes()))),
            )
            .also("other-provider"),
        with_key("secret-prefix", "prefixed", b"canary-prefixed-5510aa"),
        plain("secret-prefix", &format!("whsec_{own}")),
        plain("secret-of-another-route", secret("required")),
        bare("secret-of-another-route", "plain", JSON)
            .with(
                "Stripe-Signature",
                format!("t={NOW},v1={}", hex(secret("stripe").as_bytes(), format!("{NOW}.{JSON}").as_bytes())),
            )
            .also("looks-like-another-provider"),
        plain("secret-expired", secret("old")),
        bare("secret-whitespace", "token", JSON)
            .with("X-Token", format!("{} ", secret("token")))
            .also("signature-quoted"),
    ]
}

fn notation() -> Vec<Row> {
    let own = secret("plain").as_bytes();
    let right = hex(own, JSON.as_bytes());
    let sha1 = {
        let mut mac = Hmac::<Sha1>::new_from_slice(own).unwrap();
        mac.update(JSON.as_bytes());
        HEXLOWER.encode(&mac.finalize().into_bytes())
    };
    let plain = |id, value: String| bare(id, "plain", JSON).with("X-Sig", value);
    let stripe = hex(secret("stripe").as_bytes(), format!("{NOW}.{JSON}").as_bytes());
    let as_stripe = hex(own, format!("{NOW}.{JSON}").as_bytes());
    vec![
        plain("signature-encoding", format!("sha256={}", BASE64.encode(&mac(own, JSON.as_bytes())))),
        plain("signature-encoding", format!("sha256={}", BASE64URL_NOPAD.encode(&mac(own, JSON.as_bytes())))),
        plain("signature-hash", format!("sha1={sha1}")).also("signature-length"),
        plain("signature-prefix", right.clone()),
        plain("signature-prefix", format!("sha256=sha256={right}")),
        plain("signature-prefix", format!("SHA256={right}")),
        plain("signature-prefix", format!("v1={right}")),
        bare("signature-field", "stripe", JSON).with("Stripe-Signature", format!("t={NOW},v0={stripe}")),
        plain("signature-joined", format!("sha256={}, sha256={right}", "0".repeat(64))),
        plain("signature-repeated", format!("sha256={}", "0".repeat(64))).with("x-sig", format!("sha256={right}")),
        plain("signature-quoted", format!("\"sha256={right}\"")),
        plain("signature-quoted", format!("sha256%3D{right}")),
        bare("signature-elsewhere", "plain", JSON).with("X-Hook-Proof", format!("sha256={right}")),
        bare("other-provider", "plain", JSON)
            .with("Stripe-Signature", format!("t={NOW},v1={as_stripe}"))
            .also("looks-like-another-provider"),
    ]
}

fn texts_and_times() -> Vec<Row> {
    let stripe = |id, text: String| {
        let value = format!("t={NOW},v1={}", hex(secret("stripe").as_bytes(), text.as_bytes()));
        bare(id, "stripe", JSON).with("Stripe-Signature", value)
    };
    let timed = |id| signed(id, "timed", JSON, secret("timed"), JSON);
    let old = r#"{"event":"task.completed","task_id":"t","timestamp":"2025-10-07T08:53:20Z"}"#;
    let at = format!("{NOW}:{JSON}");
    vec![
        stripe("signed-body-alone", JSON.into()),
        stripe("signed-text", format!("{NOW}:{JSON}")),
        stripe("signed-text", format!("{JSON}{NOW}")),
        signed("signed-text", "plain", JSON, secret("plain"), format!("{NOW}.{JSON}")).with("X-When", NOW.to_string()),
        signed("signed-text", "plain", JSON, secret("plain"), format!("v0:{at}")).with("X-When", NOW.to_string()),
        signed("signed-text", "plain", JSON, secret("plain"), format!("m1.{NOW}.{JSON}"))
            .with("X-When", NOW.to_string())
            .with("X-Message-Id", "m1"),
        timed("timestamp-unit").with("X-Time", (NOW * 1000).to_string()),
        timed("timestamp-unit").with("X-Time", "2025-10-09T08:53:20Z"),
        timed("timestamp-elsewhere").with("X-Other-Time", NOW.to_string()),
        timed("clock-offset").with("X-Time", (NOW - 1000).to_string()),
        timed("clock-offset").with("X-Time", (NOW + 1000).to_string()),
        timed("time-zone").with("X-Time", (NOW - 7203).to_string()),
        timed("time-zone").with("X-Time", (NOW + 3600).to_string()),
        signed("event-too-old", "veedeo", old, secret("veedeo"), old)
            .with("X-Veedeo-Signature", format!("sha256={}", hex(secret("veedeo").as_bytes(), old.as_bytes())))
            .with("X-Veedeo-Timestamp", NOW.to_string()),
    ]
}

fn addresses() -> Vec<Row> {
    let over = |id, url: &str| signed(id, "address", JSON, secret("address"), format!("{url}{JSON}"));
    vec![
        over("url-host", "https://gateway.example.net/in").with("Host", "gateway.example.net"),
        over("url-host", "http://front.example.org:80/public/in")
            .with("X-Forwarded-Host", "front.example.org")
            .with("X-Original-URI", "/public/in?x"),
        over("url-path", "https://hooks.example.com/public/in")
            .with("X-Forwarded-Prefix", "/public/")
            .url("https://g/in"),
        over("url-scheme", "http://hooks.example.com/in"),
        over("url-port", "https://hooks.example.com:443/in"),
        over("url-slash", "https://hooks.example.com/in/"),
        over("url-query", "https://hooks.example.com/in").url("https://gateway.example.net/address?a=1"),
    ]
}

fn bodies() -> Vec<Row> {
    let zipped = {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(JSON.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let narrow: Vec<u8> = JSON.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
    let bom = format!("\u{feff}{JSON}");
    let quoted = serde_json::to_string(JSON).unwrap();
    vec![
        body("body-final-newline", format!("{JSON}\n"), JSON),
        body("body-final-newline", JSON, format!("{JSON}\n")),
        body("body-final-newline", JSON, format!("{JSON}\r\n")),
        body("body-line-ends", "{\r\n\"a\":1}\r\n", "{\n\"a\":1}\n"),
        body("body-line-ends", "a\nb\n", "a\r\nb\r\n"),
        body("body-bom", bom.clone(), JSON),
        body("body-bom", JSON, bom),
        body("body-compressed", zipped.clone(), JSON),
        body("body-compressed", zipped, JSON).with("Content-Encoding", "gzip").also("content-encoding"),
        body("body-not-signed", JSON, ""),
        body("body-wrapped", quoted.clone(), JSON),
        body("body-wrapped", JSON, quoted),
        body("body-wrapped", "payload=%7B%22a%22%3A+1%7D&x=1", "{\"a\": 1}"),
        body("body-charset", JSON, &narrow),
        body("body-charset", narrow, JSON),
        body("body-form-encoding", "a=b%20c&d=%2f%7e", "a=b+c&d=%2F%7E"),
        body("body-form-encoding", "a=b+c&d=%2F~(", "a=b%20c&d=%2F~("),
    ]
}

fn reserialised() -> Vec<Row> {
    let forms = [
        r#"{"type": "a.b", "id": "evt/1", "price": 1.50, "name": "Zo\u00eb <b>", "list": [1, {"z": 1, "a": []}]}"#,
        r#"{"type":"a.b","id":"evt\/1","price":1.50,"name":"Zo\u00eb <b>","list":[1,{"z":1,"a":[]}]}"#,
        r#"{"type":"a.b","id":"evt\/1","price":1.50,"name":"Zoë <b>","list":[1,{"z":1,"a":[]}]}"#,
        r#"{"type":"a.b","id":"evt/1","price":1.5,"name":"Zoë <b>","list":[1,{"z":1,"a":[]}]}"#,
        r#"{"id":"evt/1","list":[1,{"a":[],"z":1}],"name":"Zoë <b>","price":1.50,"type":"a.b"}"#,
        r#"{"id": "evt/1", "list": [1, {"a": [], "z": 1}], "name": "Zo\u00eb <b>", "price": 1.50, "type": "a.b"}"#,
        r#"{"type":"a.b","id":"evt/1","price":1.50,"name":"Zoë \u003cb\u003e","list":[1,{"z":1,"a":[]}]}"#,
        r#"{"type":"a.b","id":"evt/1","price":1.50,"name":"Zo\u00EB \u003Cb\u003E","list":[1,{"z":1,"a":[]}]}"#,
        "{\n  \"type\": \"a.b\",\n  \"id\": \"evt/1\",\n  \"price\": 1.50,\n  \"name\": \"Zoë <b>\",\n  \"list\": [\n    1,\n    {\n      \"z\": 1,\n      \"a\": []\n    }\n  ]\n}",
        "{\n    \"type\": \"a.b\",\n    \"id\": \"evt/1\",\n    \"price\": 1.50,\n    \"name\": \"Zoë <b>\",\n    \"list\": [\n        1,\n        {\n            \"z\": 1,\n            \"a\": []\n        }\n    ]\n}\n",
    ];
    // Both ways: what was signed came compactly, and what was compact when it was signed came so.
    let mut rows: Vec<Row> = forms.iter().map(|form| body("body-reserialised", JSON, form)).collect();
    let kept = [forms[0], forms[1], forms[2], forms[6], forms[7], forms[8], forms[9]];
    rows.extend(kept.iter().map(|form| body("body-reserialised", *form, JSON)));
    rows
}

fn hints() -> Vec<Row> {
    let wrong = |id, text: &str| signed(id, "plain", text, "somebody else", text);
    vec![
        bare("looks-like-another-provider", "plain", JSON)
            .with("X-Hub-Signature-256", format!("sha256={}", "0".repeat(64)))
            .also("signature-missing"),
        bare("signature-length", "plain", JSON).with("X-Sig", format!("sha256={}", "0".repeat(40))),
        wrong("body-empty", ""),
        wrong("content-encoding", JSON).with("Content-Encoding", "br"),
        wrong("content-length", JSON).with("Content-Length", "7"),
        wrong("chunked", JSON).with("Transfer-Encoding", "chunked"),
    ]
}

/// A folder with a configuration.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        let desk = Self(tempfile::tempdir().unwrap());
        desk.write("hookgate.toml", config());
        desk
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.0.path().join(name), text).unwrap();
    }

    /// Runs `explain` with these arguments and this on stdin.
    fn explain(&self, arguments: &[&str], input: &str) -> Said {
        self.explain_timed(arguments, input).0
    }

    /// The same, with the processor time that it took.
    fn explain_timed(&self, arguments: &[&str], input: &str) -> (Said, Duration) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hookgate"));
        command.arg("explain").args(arguments).current_dir(self.0.path()).env_clear();
        command.envs(SECRETS.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || drop(stdin.write_all(input.as_bytes())));
            let err = child.stderr.take().unwrap();
            let err = scope.spawn(|| read_to_end(err));
            let (stdout, stderr) = (read_to_end(child.stdout.take().unwrap()), err.join().unwrap());
            let took = processor_time(&child);
            (Said::of(Output { status: child.wait().unwrap(), stdout, stderr }), took)
        })
    }

    fn of(&self, row: &Row, further: &[&str]) -> Said {
        self.of_timed(row, further).0
    }

    fn of_timed(&self, row: &Row, further: &[&str]) -> (Said, Duration) {
        let at = NOW.to_string();
        self.explain_timed(&[&["--input", "-", "--at", at.as_str()], further].concat(), &row.line())
    }
}

fn read_to_end(mut stream: impl Read) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    all
}

/// All the processor time that `child` took, who has closed its streams and is still to be waited for: what it would need
/// on a machine that does nothing else.
fn processor_time(child: &Child) -> Duration {
    waitid(WaitId::Pid(Pid::from_child(child)), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    Duration::from_millis([11, 12].map(|at: usize| fields[at].parse::<u64>().unwrap() * 10).iter().sum())
}

#[derive(Debug)]
struct Said {
    out: String,
    err: String,
    code: i32,
}

impl Said {
    fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let said = Self { out: text(output.stdout), err: text(output.stderr), code: output.status.code().unwrap() };
        for (_, secret) in SECRETS {
            said.holds_nothing_of(secret.as_bytes());
            said.lacks(secret);
        }
        said.lacks("canary");
        said
    }

    fn lacks(&self, text: &str) {
        assert!(!self.out.contains(text) && !self.err.contains(text), "{text} was said: {self:?}");
    }

    /// No usual way to write these bytes is in it.
    fn holds_nothing_of(&self, bytes: &[u8]) {
        let forms = [HEXLOWER, HEXUPPER, BASE64_NOPAD, BASE64URL_NOPAD].map(|encoding| encoding.encode(bytes));
        for form in forms {
            self.lacks(&form);
        }
    }

    fn json(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// The ids of what was found, as far as it `matches`.
fn found(explanation: &Value, matches: &[&str]) -> BTreeSet<String> {
    let findings = explanation["findings"].as_array().unwrap().iter();
    let wanted = findings.filter(|finding| matches.contains(&finding["matches"].as_str().unwrap()));
    wanted.map(|finding| finding["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn each_wrong_request_is_explained_by_its_own_hypothesis() {
    let (desk, rows) = (Desk::new(), rows());
    let lines: Vec<String> = rows.iter().map(Row::line).collect();
    let at = NOW.to_string();
    let said = desk.explain(&["--input", "-", "--at", &at, "--json"], &lines.join("\n"));
    let explained = said.json();
    assert_eq!(explained.len(), rows.len(), "{said:?}");
    let mut wrong = Vec::new();
    for (row, explanation) in rows.iter().zip(&explained) {
        let ids: BTreeSet<String> = row.ids.iter().map(|id| (*id).to_owned()).collect();
        let got = found(explanation, &["fits", "seen"]);
        if got != ids {
            wrong.push(format!("{ids:?} became {got:?}: {} {}", explanation["reason"], explanation["findings"]));
        }
        said.holds_nothing_of(&row.right());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_hypothesis_of_the_list_has_a_request_that_it_explains() {
    let listed = Desk::new().explain(&["--list", "--json"], "").json();
    let listed: BTreeSet<String> = listed.iter().map(|line| line["id"].as_str().unwrap().to_owned()).collect();
    let rows = rows();
    let covered: BTreeSet<String> = rows.iter().map(|row| row.ids[0].to_owned()).collect();
    assert!(rows.len() >= 80 && listed.len() >= 40, "{} rows, {} hypotheses", rows.len(), listed.len());
    assert_eq!(covered, listed);
}

#[test]
fn a_page_for_people_holds_no_more_than_the_json() {
    let desk = Desk::new();
    for row in rows().iter().filter(|row| row.headers.len() != 2).take(40) {
        let said = desk.of(row, &[]);
        said.holds_nothing_of(&row.right());
        assert!(said.out.starts_with("Refused: ") && said.out.contains(row.ids[0]), "{said:?}");
        assert!(said.out.lines().all(|line| line.chars().count() <= 140), "{said:?}");
    }
}

#[test]
fn the_exit_code_says_whether_it_is_explained() {
    let desk = Desk::new();
    let own = secret("plain");
    let explained = desk.of(&body("", format!("{JSON}\n"), JSON), &[]);
    assert_eq!(explained.code, 0, "{explained:?}");
    let riddle = desk.of(&signed("", "plain", JSON, "nobody's", JSON), &[]);
    assert_eq!(riddle.code, 3, "{riddle:?}");
    assert!(riddle.out.contains("Nothing that was tried would have matched."), "{riddle:?}");
    let right = desk.of(&signed("", "plain", JSON, own, JSON), &[]);
    assert_eq!(right.code, 0, "{right:?}");
    assert!(right.out.starts_with("Accepted now") && right.out.contains("0 (env:PLAIN)"), "{right:?}");
    assert_eq!(desk.explain(&[], "").code, 2);
    assert_eq!(desk.explain(&["--input", "none.jsonl"], "").code, 2);
    assert_eq!(desk.explain(&["--input", "-", "--route", "none"], &bare("", "plain", "").line()).code, 2);
    assert_eq!(desk.explain(&["--last"], "").code, 69);
    desk.write("hookgate.toml", "listen = 1");
    assert_eq!(desk.explain(&["--input", "-"], &bare("", "plain", "").line()).code, 78);
}

#[test]
fn an_accepted_request_says_with_which_secret_and_what_it_is() {
    let text = r#"{"event":"task.completed","task_id":"t","timestamp":"2025-10-09T08:53:20Z"}"#;
    let right = format!("sha256={}", hex(secret("veedeo").as_bytes(), text.as_bytes()));
    let row = bare("", "veedeo", text).with("X-Veedeo-Signature", right).with("X-Veedeo-Timestamp", NOW.to_string());
    let said = Desk::new().of(&row, &["--json"]);
    let explained = &said.json()[0];
    assert_eq!((explained["verdict"].as_str(), explained["secret"].as_u64()), (Some("accept"), Some(0)), "{said:?}");
    assert_eq!(explained["event_type"], "task.completed");
    assert_eq!(explained["key"].as_str().unwrap().len(), 64);
    assert_eq!(explained["findings"], json!([]));
}

#[test]
fn one_line_of_many_is_explained() {
    let rows = [body("", JSON, "x"), body("body-not-signed", JSON, "")];
    let lines = rows.map(|row| row.line()).join("\n\n");
    let said = Desk::new().explain(&["--input", "-", "--line", "3", "--json"], &lines);
    assert_eq!(said.json().len(), 1);
    assert_eq!(found(&said.json()[0], &["fits"]).first().map(String::as_str), Some("body-not-signed"));
    assert_eq!(Desk::new().explain(&["--input", "-", "--line", "2"], &lines).code, 2);
}

#[test]
fn a_pasted_curl_command_is_explained() {
    let desk = Desk::new();
    let right = hex(secret("plain").as_bytes(), JSON.as_bytes());
    let command = format!(
        "curl -sS -X POST 'https://gateway.example.net/plain' \\\n  -H 'Content-Type: application/json' \\\n  \
         -H \"X-Sig: sha256={right}\" \\\n  --data-raw $'{}\\n'\n",
        JSON.replace('\'', "\\'")
    );
    let said = desk.explain(&["--curl", "-", "--json"], &command);
    assert_eq!(found(&said.json()[0], &["fits"]), BTreeSet::from(["body-final-newline".to_owned()]), "{said:?}");
    desk.write("body.json", format!("{JSON}\n"));
    let file = command.split("--data-raw").next().unwrap().to_owned() + "--data-binary @body.json";
    desk.write("typed.sh", file);
    let said = desk.explain(&["--curl", "typed.sh", "--route", "plain", "--json"], "");
    assert_eq!(found(&said.json()[0], &["fits"]), BTreeSet::from(["body-final-newline".to_owned()]), "{said:?}");
    let said = desk.explain(&["--curl", "-"], "curl -d \"$BODY\" http://h/plain");
    assert!(said.code == 2 && said.err.contains("$BODY"), "{said:?}");
}

#[test]
fn saved_headers_and_a_body_are_explained() {
    let desk = Desk::new();
    let right = hex(secret("address").as_bytes(), format!("https://gateway.example.net/address?a=1{JSON}").as_bytes());
    desk.write("body.json", JSON);
    desk.write(
        "headers.txt",
        format!("POST /address?a=1 HTTP/1.1\r\nHost: gateway.example.net\r\nX-Sig: sha256={right}\r\n\r\n"),
    );
    let said = desk.explain(&["--headers", "headers.txt", "--body", "body.json", "--json"], "");
    assert_eq!(found(&said.json()[0], &["fits"]), BTreeSet::from(["url-host".to_owned()]), "{said:?}");
    assert!(said.json()[0]["findings"][0]["fix"].as_str().unwrap().contains("https://gateway.example.net/address"));
    desk.write("bare.txt", format!("X-Sig: sha256={right}\n"));
    let url = ["--url", "https://gateway.example.net/address?a=1", "--method", "POST"];
    let said = desk.explain(&[&["--headers", "bare.txt", "--body", "body.json", "--json"], &url[..]].concat(), "");
    assert_eq!(found(&said.json()[0], &["fits"]), BTreeSet::from(["url-host".to_owned()]), "{said:?}");
}

#[test]
fn a_body_of_ten_kibibytes_is_explained_in_two_seconds() {
    let item = r#"{"id":"evt/1","price":1.50,"name":"Zoë <b>"}"#;
    let text = format!("[{}]", vec![item; 10 * 1024 / item.len()].join(","));
    let row = signed("", "plain", text.as_str(), "nobody's", &text);
    let (said, took) = Desk::new().of_timed(&row, &["--json"]);
    assert_eq!(said.code, 3, "{said:?}");
    assert!(said.json()[0]["checks"].as_u64().unwrap() > 200, "{said:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn a_form_of_as_many_fields_as_are_checked_is_written_anew_and_a_longer_one_is_not() {
    let found = |fields: usize| {
        let form = |blank: &str| vec![format!("a={blank}b"); fields].join("&");
        let row = signed("", "plain", form("%20"), secret("plain"), form("+"));
        found(&Desk::new().of(&row, &["--json"]).json()[0], &["fits"])
    };
    assert!(found(4096).contains("body-form-encoding"));
    assert!(!found(4097).contains("body-form-encoding"));
}

#[test]
fn a_hostile_body_ends_at_the_bounds() {
    let desk = Desk::new();
    for text in
        ["[".repeat(900_000), format!("{{{}\"a\":1}}", "\"a\":{\"b\":[1.5]},".repeat(4_000)), "=&".repeat(400_000)]
    {
        let began = Instant::now();
        let said = desk.of(&signed("", "plain", text.as_str(), "nobody's", &text), &["--json"]);
        assert_eq!(said.code, 3, "{}", said.err);
        assert!(said.json()[0]["checks"].as_u64().unwrap() <= 4000);
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    }
}

//! The pages as a whole, on a real spool in a temporary folder, with a made-up roof and dedup store.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Method, Request, StatusCode};
use bytes::Bytes;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tower_service::Service;

use super::{AdminState, Control, Explained, ReloadRefused, Reloaded, RouteFacts, router};
use crate::claims::embedded::Embedded;
use crate::claims::store::{Claim, ClaimStore};
use crate::clock::Clock;
use crate::disk::{Disk, DiskSettings};
use crate::domain::event::{Event, EventId};
use crate::domain::headers::Headers;
use crate::domain::key::EventKey;
use crate::domain::scheme::Carries;
use crate::domain::secret::Secret;
use crate::domain::time::Timestamp;
use crate::spool::{DeadReason, Entry, NewEntry, Possible, Replay, Spool, State};
use crate::telemetry::logs::Level;
use crate::telemetry::{Answered, Metrics, Recent, RouteLabels};

const NOW: Timestamp = Timestamp::from_seconds(1_760_000_000);
const TOKEN: &str = "0123456789abcdef0123456789abcdef";

#[derive(Default)]
struct Roof {
    woken: AtomicUsize,
    level: Mutex<Option<Level>>,
}

#[async_trait::async_trait]
impl Control for Roof {
    fn routes(&self) -> Vec<RouteFacts> {
        let (provider, app_url) = ("veedeo", "http://127.0.0.1:3000");
        let facts = |name: &str| {
            let path = format!("/{name}");
            RouteFacts { name: name.into(), path, provider: provider.into(), app_url: app_url.into() }
        };
        vec![facts("veedeo"), facts("github")]
    }

    fn carries(&self, route: &str, header: &HeaderName) -> Option<Carries> {
        match (route, header.as_str()) {
            ("veedeo", "x-veedeo-signature" | "x-season") => Some(Carries::Signature),
            ("veedeo", "x-harbour") => Some(Carries::Secret),
            ("veedeo" | "github", _) => Some(Carries::Nothing),
            (_, _) => None,
        }
    }

    fn config_text(&self) -> String {
        "listen = \"127.0.0.1:8080\"\n".into()
    }

    async fn reload(self: Arc<Self>) -> Result<Reloaded, ReloadRefused> {
        Err(ReloadRefused { detail: "the configuration has a fault".into(), faults: vec!["a.toml:1:1: no".into()] })
    }

    fn set_log_level(&self, level: Level) -> Result<(), String> {
        *self.level.lock().unwrap() = Some(level);
        Ok(())
    }

    fn wake(&self) {
        self.woken.fetch_add(1, Ordering::Relaxed);
    }

    fn explain(&self, _: Option<&str>) -> Option<Explained> {
        None
    }
}

struct World {
    explaining: Arc<Semaphore>,
    router: Router,
    spool: Spool,
    claims: Arc<dyn ClaimStore>,
    recent: Recent,
    roof: Arc<Roof>,
    metrics: Arc<Metrics>,
    _folder: tempfile::TempDir,
}

fn world(token: Option<&str>) -> World {
    let folder = tempfile::tempdir().unwrap();
    let labels = ["veedeo", "github"].map(|name| RouteLabels { name: name.into(), secrets: 1 });
    let metrics = Arc::new(Metrics::new(&labels).unwrap());
    let path = folder.path().join("spool");
    let settings = DiskSettings { path, max_bytes: 1 << 30, max_dead_bytes: u64::MAX, min_free_bytes: 1 };
    let clock = Clock::anchored_at(NOW);
    let disk = Disk::open(settings, clock.now(), metrics.clone()).unwrap().disk;
    let claims: Arc<dyn ClaimStore> = Arc::new(Embedded::new(disk.clone()));
    let (spool, recent, roof) = (Spool::new(disk), Recent::default(), Arc::new(Roof::default()));
    let explaining = Arc::new(Semaphore::new(1));
    let state = AdminState {
        spool: spool.clone(),
        claims: claims.clone(),
        dedup_store: "embedded",
        metrics: metrics.clone(),
        recent: recent.clone(),
        clock,
        control: roof.clone(),
        token: Arc::new(token.map(|token| Arc::new(Secret::new(token.into()))).into()),
        address: "127.0.0.1:9465".parse::<SocketAddr>().unwrap(),
        explaining: explaining.clone(),
        jobs: super::Jobs::default(),
    };
    let state = Arc::new(state);
    tokio::spawn(super::run_jobs(state.clone(), std::future::pending()));
    World { explaining, router: router(state), spool, claims, recent, roof, metrics, _folder: folder }
}

fn event(number: u8, route: &str) -> Event {
    let mut headers = Headers::new();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    headers.insert("x-veedeo-signature", HeaderValue::from_static("sha256=canary"));
    if route == "veedeo" {
        headers.insert("x-season", HeaderValue::from_static("canary-signature"));
        headers.insert("x-harbour", HeaderValue::from_static("canary-secret"));
    }
    let received_at = NOW.minus(Duration::from_secs(300 - u64::from(number)));
    let body = format!("{{\"number\":{number}}}");
    Event {
        id: EventId::new(received_at, u128::from(number)),
        route: route.into(),
        key: EventKey::new(route, &[&[number]], body.as_bytes()),
        method: Method::POST,
        target: format!("/{route}?a=1"),
        headers,
        authority: "hooks.example.com".into(),
        body: Bytes::from(body).into(),
        received_at,
        signed_at: None,
        event_type: Some("task.completed".into()),
        order_value: None,
    }
}

impl World {
    async fn put(&self, number: u8, route: &str, state: Entry) -> EventId {
        let event = Arc::new(event(number, route));
        let id = event.id;
        let (possible_duplicate, replay) = (Possible::No, Replay::No);
        let last_error = "the application answered 422".to_owned();
        let entry = NewEntry { event, state, attempts: 1, possible_duplicate, replay, last_error };
        self.spool.append(entry, None).await.unwrap();
        id
    }

    async fn put_dead(&self, number: u8, route: &str) -> EventId {
        self.put(number, route, Entry::Dead { reason: DeadReason::AppRejected }).await
    }

    async fn send(&self, request: Request<Body>) -> (StatusCode, Bytes) {
        let answer = self.router.clone().call(request).await.unwrap();
        (answer.status(), answer.into_body().collect().await.unwrap().to_bytes())
    }

    async fn ask(&self, method: &str, path: &str, body: Value) -> (StatusCode, Value) {
        let request = Request::builder().method(method).uri(path).header("host", "127.0.0.1:9465");
        let request = request.header("content-type", "application/json");
        let (status, bytes) = self.send(request.body(Body::from(body.to_string())).unwrap()).await;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(!text.contains("canary"), "a signature in {path}: {text}");
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    async fn get(&self, path: &str) -> Value {
        let (status, answer) = self.ask("GET", path, Value::Null).await;
        assert_eq!(status, StatusCode::OK, "{path}: {answer}");
        answer
    }

    async fn state_of(&self, id: EventId) -> Option<State> {
        let filter = crate::spool::Filter { ids: vec![id], ..crate::spool::Filter::default() };
        self.spool.list(filter).await.unwrap().first().map(|listed| listed.state)
    }
}

fn answered(second: u64, disposition: &'static str, event: Option<EventId>) -> Answered {
    Answered {
        received_at: NOW.minus(Duration::from_secs(60 - second)),
        route: "veedeo".into(),
        event,
        event_type: None,
        disposition,
        reason: (disposition == "refused").then_some("signature_mismatch"),
        status: 200,
        answered_at: NOW.minus(Duration::from_secs(60 - second)),
        ack_ms: 4,
        remote: [127, 0, 0, 1].into(),
        request_id: "request".into(),
        body_bytes: 12,
        taken: true,
    }
}

fn names(list: &Value, member: &str) -> Vec<String> {
    let name = |item: &Value| item[member].as_str().unwrap_or("").to_owned();
    list["items"].as_array().unwrap().iter().map(name).collect()
}

#[tokio::test]
async fn the_status_counts_what_is_on_disk() {
    let world = world(None);
    world.put_dead(1, "veedeo").await;
    world.put(2, "veedeo", Entry::Pending { not_before: NOW }).await;
    let status = world.get("/api/status").await;
    let veedeo = &status["routes"][0];
    assert_eq!((&veedeo["name"], &veedeo["pending"], &veedeo["dead"]), (&json!("veedeo"), &json!(1), &json!(1)));
    assert!((298.0..299.0).contains(&veedeo["oldest_seconds"].as_f64().unwrap()), "{veedeo}");
    assert_eq!(veedeo["app_up"], true);
    assert_eq!((&status["spool"]["pending"], &status["spool"]["dead"]), (&json!(1), &json!(1)));
    assert_eq!(status["dedup"]["store"], "embedded");
    assert_eq!(world.get("/api/routes/github").await["pending"], 0);
    assert_eq!(world.ask("GET", "/api/routes/none", Value::Null).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn events_are_those_of_memory_and_then_those_of_the_disk() {
    let world = world(None);
    let old = world.put(1, "veedeo", Entry::Pending { not_before: NOW }).await;
    let known = world.put(50, "veedeo", Entry::Pending { not_before: NOW }).await;
    world.recent.push(answered(1, "refused", None));
    world.recent.push(answered(2, "spooled", Some(known)));
    let all = world.get("/api/events").await;
    assert_eq!(names(&all, "id"), [known.to_string(), String::new(), old.to_string()]);
    assert_eq!(names(&all, "state"), ["pending", "", "pending"]);
    let mut pages = Vec::new();
    let mut path = "/api/events?limit=1".to_owned();
    loop {
        let page = world.get(&path).await;
        pages.extend(names(&page, "id"));
        match page["next"].as_str() {
            Some(next) => path = format!("/api/events?limit=1&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(pages, names(&all, "id"));
    assert_eq!(names(&world.get("/api/events?disposition=refused").await, "reason"), ["signature_mismatch"]);
    assert_eq!(names(&world.get("/api/events?route=github").await, "id"), Vec::<String>::new());
    for wrong in ["since=yesterday", "disposition=nonsense", "reason=nonsense", "reason=refused"] {
        let (status, answer) = world.ask("GET", &format!("/api/events?{wrong}"), Value::Null).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{wrong}: {answer}");
    }
}

#[tokio::test]
async fn an_event_that_was_taken_and_died_is_found_by_what_it_died_of() {
    let world = world(None);
    let old = world.put_dead(1, "veedeo").await;
    let taken = world.put_dead(50, "veedeo").await;
    let told = world.put_dead(51, "veedeo").await;
    world.recent.push(answered(1, "spooled", Some(taken)));
    world.recent.push(answered(2, "duplicate", Some(taken)));
    world.recent.push(Answered { reason: Some("app_rejected"), ..answered(3, "app_rejected", Some(told)) });
    let found = world.get("/api/events?reason=app_rejected").await;
    assert_eq!(names(&found, "id"), [told.to_string(), old.to_string(), taken.to_string()]);
    assert_eq!(names(&found, "reason"), ["app_rejected"; 3]);
    assert_eq!(names(&found, "disposition"), ["app_rejected", "", "spooled"]);
    assert_eq!(names(&world.get("/api/events").await, "id").len(), 4, "each answer once, and what is only on disk");
}

#[tokio::test]
async fn an_event_is_shown_without_what_proves_its_sender() {
    let world = world(None);
    let id = world.put_dead(7, "veedeo").await;
    let shown = world.get(&format!("/api/events/{id}")).await;
    assert_eq!(shown["event"]["state"], "dead");
    assert!(shown["ended_at"].is_string() && shown["not_before"].is_null(), "nothing is due of it: {shown}");
    assert_eq!(shown["request"]["url"], "http://hooks.example.com/veedeo?a=1");
    let headers = shown["request"]["headers"].as_array().unwrap();
    assert!(headers.contains(&json!(["x-veedeo-signature", "(redacted)"])), "{headers:?}");
    let body = world.get(&format!("/api/events/{id}/body")).await;
    assert_eq!(body, json!({ "number": 7 }));
    let none = EventId::new(NOW, 99);
    assert_eq!(world.ask("GET", &format!("/api/events/{none}"), Value::Null).await.0, StatusCode::NOT_FOUND);
    assert_eq!(world.ask("GET", "/api/events/17", Value::Null).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_dead_letter_is_replayed_once() {
    let world = world(None);
    let id = world.put_dead(7, "veedeo").await;
    let path = format!("/api/events/{id}/replay");
    assert_eq!(world.ask("POST", &path, Value::Null).await.0, StatusCode::ACCEPTED);
    assert_eq!(world.state_of(id).await, Some(State::Pending));
    let shown = world.get(&format!("/api/events/{id}")).await;
    assert!(shown["not_before"].is_string() && shown["ended_at"].is_null(), "it is due again: {shown}");
    assert_eq!(world.spool.load(id).await.unwrap().unwrap().replay, Replay::Yes);
    assert_eq!(world.roof.woken.load(Ordering::Relaxed), 1);
    assert_eq!(world.metrics.replays_total.with_label_values(&["veedeo"]).get(), 1);
    let (status, problem) = world.ask("POST", &path, Value::Null).await;
    assert_eq!((status, &problem["state"]), (StatusCode::CONFLICT, &json!("pending")));
}

#[tokio::test]
async fn dead_letters_are_listed_with_exactly_the_promised_members() {
    let world = world(None);
    let id = world.put_dead(3, "veedeo").await;
    world.put(4, "veedeo", Entry::Pending { not_before: NOW }).await;
    let list = world.get("/api/dead-letters?route=veedeo&reason=app_rejected").await;
    assert_eq!(names(&list, "id"), [id.to_string()]);
    let members: Vec<&str> = list["items"][0].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        members,
        ["attempts", "body_bytes", "body_sha256", "id", "key", "last_error", "reason", "received_at", "route"]
    );
    assert_eq!(names(&world.get("/api/dead-letters?reason=too_old").await, "id"), Vec::<String>::new());
    let export = world.get("/api/dead-letters/export").await;
    assert_eq!(export["body_b64"], data_encoding::BASE64.encode(br#"{"number":3}"#));
    assert_eq!(export["method"], "POST");
}

#[tokio::test]
async fn signatures_are_exported_when_they_are_asked_for_and_secrets_never() {
    let world = world(None);
    world.put_dead(3, "veedeo").await;
    let path = "/api/dead-letters/export?route=veedeo&signatures=kept";
    let request = Request::builder().uri(path).header("host", "127.0.0.1:9465").body(Body::empty()).unwrap();
    let (status, bytes) = world.send(request).await;
    assert_eq!(status, StatusCode::OK);
    let line: Value = serde_json::from_slice(&bytes).unwrap();
    let headers = line["headers"].as_array().unwrap();
    for whole in [json!(["x-veedeo-signature", "sha256=canary"]), json!(["x-season", "canary-signature"])] {
        assert!(headers.contains(&whole), "{headers:?}");
    }
    assert!(headers.contains(&json!(["x-harbour", "(redacted)"])), "{headers:?}");
    let hidden = world.get("/api/dead-letters/export").await;
    assert!(hidden["headers"].as_array().unwrap().contains(&json!(["x-season", "(redacted)"])), "{hidden}");
}

#[tokio::test]
async fn an_export_holds_every_dead_letter_across_its_pages() {
    let world = world(None);
    for number in 0..=120 {
        world.put_dead(number, "veedeo").await;
    }
    let Value::String(text) = world.get("/api/dead-letters/export").await else { panic!("more than one line") };
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 121);
    assert!(lines.is_sorted_by_key(|line| line["id"].as_str().unwrap().to_owned()));
}

#[tokio::test]
async fn many_are_retried_in_calls_that_go_on_where_the_last_ended() {
    let world = world(None);
    for number in 0..5 {
        world.put_dead(number, "veedeo").await;
    }
    let other = world.put_dead(9, "github").await;
    let filter = json!({ "route": "veedeo" });
    let path = "/api/dead-letters/retry";
    let (_, counted) = world.ask("POST", path, json!({ "filter": filter, "dry_run": true })).await;
    assert_eq!((&counted["matched"], &counted["done"]), (&json!(5), &json!(0)));
    let (status, problem) = world.ask("POST", path, json!({ "filter": filter, "expected_count": 4 })).await;
    assert_eq!((status, &problem["count"]), (StatusCode::CONFLICT, &json!(5)));
    let first = json!({ "filter": filter, "expected_count": 5, "limit": 3 });
    let (_, first) = world.ask("POST", path, first).await;
    assert_eq!(first["done"], 3);
    let (_, rest) = world.ask("POST", path, json!({ "filter": filter, "cursor": first["next"] })).await;
    assert_eq!((&rest["done"], &rest["next"]), (&json!(2), &Value::Null));
    assert_eq!(world.state_of(other).await, Some(State::Dead));
    assert_eq!(world.spool.totals().pending(), 5);
}

#[tokio::test]
async fn nothing_is_dropped_without_saying_how_many() {
    let world = world(None);
    let (one, two) = (world.put_dead(1, "veedeo").await, world.put_dead(2, "veedeo").await);
    let path = "/api/dead-letters/drop";
    assert_eq!(world.ask("POST", path, json!({})).await.0, StatusCode::BAD_REQUEST);
    let (status, _) = world.ask("POST", path, json!({ "expected_count": 1 })).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert_eq!(world.spool.totals().routes["veedeo"].dead, 2);
    let (_, done) = world.ask("POST", path, json!({ "filter": { "ids": [one.to_string()] } })).await;
    assert_eq!(done["done"], 1);
    assert_eq!((world.state_of(one).await, world.state_of(two).await), (None, Some(State::Dead)));
    assert_eq!(world.ask("POST", path, json!({ "filtre": {} })).await.0, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn an_empty_list_of_events_is_not_all_of_them() {
    let world = world(None);
    let id = world.put_dead(1, "veedeo").await;
    for (act, more) in [("retry", Value::Null), ("drop", json!(1))] {
        for way in ["dry_run", "job"] {
            let body = json!({ "filter": { "ids": [] }, way: true, "expected_count": more });
            let (status, problem) = world.ask("POST", &format!("/api/dead-letters/{act}"), body).await;
            assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{act} {way}: {problem}");
            assert!(problem["detail"].as_str().unwrap().contains("leave it out to mean all"), "{problem}");
        }
    }
    assert_eq!(world.state_of(id).await, Some(State::Dead));
}

#[tokio::test]
async fn a_query_that_makes_no_sense_is_a_problem_like_others() {
    let world = world(None);
    for path in ["/api/events?limit=x", "/api/dead-letters?limit=x", "/api/dead-letters/export?q=1"] {
        let (status, problem) = world.ask("GET", path, Value::Null).await;
        assert_eq!((status, &problem["status"]), (StatusCode::BAD_REQUEST, &json!(400)), "{path}: {problem}");
    }
}

#[tokio::test]
async fn a_reload_that_is_refused_says_why() {
    let world = world(None);
    let (status, problem) = world.ask("POST", "/-/reload", Value::Null).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(problem["faults"], json!(["a.toml:1:1: no"]));
    assert_eq!(problem["status"], 422);
}

#[tokio::test]
async fn the_log_level_is_one_of_five() {
    let world = world(None);
    let (status, _) = world.ask("PUT", "/api/log-level", json!({ "level": "debug" })).await;
    assert_eq!((status, *world.roof.level.lock().unwrap()), (StatusCode::OK, Some(Level::Debug)));
    let (status, problem) = world.ask("PUT", "/api/log-level", json!({ "level": "loud" })).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(problem["detail"].as_str().unwrap().contains("trace"));
}

#[tokio::test]
async fn an_event_that_is_remembered_can_be_forgotten() {
    let world = world(None);
    let key = EventKey::new("veedeo", &[b"1"], b"");
    let lease = Duration::from_secs(40);
    let claim = Claim { route: "veedeo".into(), key, owner: uuid::Uuid::from_u128(1), lease, now: NOW };
    world.claims.claim(&claim).await.unwrap();
    world.claims.mark(&claim, Duration::from_secs(3600)).await.unwrap();
    let path = format!("/api/dedup/veedeo/{key}");
    let found = world.get(&path).await;
    assert_eq!((&found["state"], &found["same_body"]), (&json!("processed"), &json!(true)));
    assert_eq!(found["expires_at"], NOW.plus(Duration::from_secs(3600)).to_string());
    assert_eq!(world.ask("DELETE", &path, Value::Null).await.0, StatusCode::OK);
    assert_eq!(world.ask("GET", &path, Value::Null).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_key_that_is_not_remembered_is_not_found() {
    let world = world(None);
    let key = EventKey::new("veedeo", &[b"1"], b"").to_hex();
    for method in ["GET", "DELETE"] {
        let (status, _) = world.ask(method, &format!("/api/dedup/veedeo/{key}"), Value::Null).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
    }
    assert_eq!(world.ask("GET", "/api/dedup/veedeo/17", Value::Null).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(world.ask("GET", &format!("/api/dedup/none/{key}"), Value::Null).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn nobody_gets_in_without_the_token_or_from_another_site() {
    let world = world(Some(TOKEN));
    let request = |host: &str| Request::get("/api/config").header("host", host);
    let with_token = |host: &str| request(host).header("authorization", format!("Bearer {TOKEN}"));
    let send = |request: axum::http::request::Builder| world.send(request.body(Body::empty()).unwrap());
    assert_eq!(send(request("127.0.0.1:9465")).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(send(with_token("127.0.0.1:9465")).await.0, StatusCode::OK);
    assert_eq!(send(with_token("evil.example:9465")).await.0, StatusCode::FORBIDDEN);
    let cross = with_token("127.0.0.1:9465").header("sec-fetch-site", "cross-site");
    assert_eq!(send(cross).await.0, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn what_is_not_there_is_a_problem_too() {
    let world = world(None);
    for (method, path, status) in
        [("GET", "/api/none", StatusCode::NOT_FOUND), ("DELETE", "/api/status", StatusCode::METHOD_NOT_ALLOWED)]
    {
        let (found, problem) = world.ask(method, path, Value::Null).await;
        assert_eq!((found, &problem["status"]), (status, &json!(status.as_u16())), "{problem}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_is_not_kept_is_not_there_and_one_is_explained_at_a_time() {
    let world = world(None);
    for id in ["last", "request", "a%2Fb"] {
        let (status, problem) = world.ask("GET", &format!("/api/events/{id}/explain"), Value::Null).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains("kept"), "{problem}");
    }
    let turn = world.explaining.clone().acquire_owned().await.unwrap();
    let (status, problem) = world.ask("GET", "/api/events/last/explain", Value::Null).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{problem}");
    drop(turn);
    assert_eq!(world.ask("GET", "/api/events/last/explain", Value::Null).await.0, StatusCode::NOT_FOUND);
}

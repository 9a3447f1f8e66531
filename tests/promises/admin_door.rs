//! The admin listener against pages in the operator's browser: what they may send, what they may read, and what becomes of
//! a body that is a page itself.

use crate::world::clock::{SOON, eventually};
use crate::world::events::task;
use crate::world::sender::{Reply, Request, send};
use crate::world::sign::Provider;
use crate::world::{World, world, world_without_app};

/// Sends with exactly this `Host`.
fn knock(world: &World, request: &Request, host: &str) -> Reply {
    let request = request.clone().without("Host").with("Host", host).with("Connection", "close");
    send(&world.gateway.admin_address(), &request).unwrap()
}

fn assert_marked(what: &str, reply: &Reply) {
    let is = |name: &str, value: &str| {
        assert_eq!(reply.headers.get(name).as_deref(), Some(value), "{what}: {name}, {}", reply.status);
    };
    is("x-content-type-options", "nosniff");
    is("x-frame-options", "DENY");
    is("content-security-policy", "default-src 'none'");
    is("cache-control", "no-store");
    assert!(reply.headers.all("access-control-allow-origin").is_empty(), "{what}");
}

#[test]
fn every_answer_of_the_admin_listener_is_marked_and_none_is_a_page() {
    let world = world();
    assert_eq!(world.veedeo(task(1)).status, 200);
    let paths = "status routes routes/veedeo routes/none events events/none events/none/body events/none/explain dead-letters \
                 dead-letters/export jobs jobs/none dedup/veedeo/none config nowhere log-level";
    let mut asked = 0;
    for path in paths.split_whitespace() {
        for method in ["GET", "POST", "OPTIONS"] {
            let request = Request { method: method.into(), ..Request::post(&format!("/api/{path}"), "<script>") };
            let reply = knock(&world, &request, &world.gateway.admin_address());
            assert_marked(&format!("{method} {path}"), &reply);
            let kind = reply.headers.get("content-type").unwrap_or_default();
            assert!(!kind.contains("html") && !kind.contains("script"), "{method} {path}: {kind}");
            asked += 1;
        }
    }
    assert_eq!(asked, 48);
    let refused = knock(&world, &Request::get("/api/status"), "evil.example");
    assert_eq!(refused.status, 403);
    assert_marked("a refusal", &refused);
}

#[test]
fn a_body_that_is_a_page_is_shown_as_plain_text() {
    let world = world_without_app(&[]);
    let page = "{\"a\":\"<script>alert(1)</script>\"}";
    let request = Provider::GitHub.sign(page).without("Content-Type").with("Content-Type", "text/html");
    assert_eq!(world.send(&request).status, 200);
    let id = eventually("the event is listed", SOON, || {
        let listed = world.gateway.admin(&Request::get("/api/events")).json("items");
        Some(listed[0]["id"].as_str()?.to_owned())
    });
    let body = world.gateway.admin(&Request::get(&format!("/api/events/{id}/body")));
    assert_eq!((body.status, body.text().as_str()), (200, page));
    assert!(body.headers.get("content-type").unwrap().starts_with("text/plain"), "{:?}", body.headers);
    assert_marked("a body", &body);
}

#[test]
fn no_page_of_another_site_has_anything_done() {
    let world = world();
    let own = world.gateway.admin_address();
    let port = own.rsplit(':').next().unwrap().to_owned();
    let quiet = r#"{"level":"error"}"#;
    let changes = [
        Request::post("/-/reload", ""),
        Request { method: "PUT".into(), ..Request::post("/api/log-level", quiet) },
        Request::post("/api/dead-letters/drop", "{}"),
        Request::post("/api/dead-letters/retry", "{}"),
        Request::get("/api/config"),
    ];
    let foreign = [
        vec![("Sec-Fetch-Site", "cross-site".to_owned())],
        vec![("Sec-Fetch-Site", "same-site".to_owned())],
        vec![("Origin", "https://evil.example".to_owned())],
        vec![("Origin", "null".to_owned())],
        vec![("Origin", format!("http://localhost.evil.example:{port}"))],
        vec![("Origin", format!("https://{own}"))],
        vec![("Origin", format!("http://{own}")), ("Sec-Fetch-Site", "cross-site".to_owned())],
        vec![("Sec-Fetch-Site", "none".to_owned()), ("Origin", "http://evil.example".to_owned())],
    ];
    for request in &changes {
        for lines in &foreign {
            let request =
                lines.iter().fold(request.clone(), |request, (name, value)| request.with(name, value.as_str()));
            let reply = knock(&world, &request, &own);
            assert_eq!(reply.status, 403, "{} with {lines:?}: {}", request.target, reply.text());
        }
        let rebound = [format!("evil.example:{port}"), format!("127.0.0.1.evil.example:{port}"), "evil.example".into()];
        for host in rebound {
            assert_eq!(knock(&world, request, &host).status, 403, "{} to {host}", request.target);
        }
        let absolute = Request { target: format!("http://evil.example{}", request.target), ..request.clone() };
        assert!((400..500).contains(&knock(&world, &absolute, &own).status), "{}", absolute.target);
    }
    // A form of another page, from a browser that says neither where it comes from nor what it fetches.
    let form = Request { method: "PUT".into(), ..Request::post("/api/log-level", quiet) };
    let form = form.without("Content-Type").with("Content-Type", "text/plain");
    assert!((400..500).contains(&knock(&world, &form, &own).status));
    world.veedeo(task("heard"));
    world.gateway.wait_for_log(&["delivered"]);
    let own_page = changes[0].clone().with("Origin", format!("http://{own}")).with("Sec-Fetch-Site", "same-origin");
    assert_eq!(knock(&world, &own_page, &own).status, 200, "its own pages are let in");
}

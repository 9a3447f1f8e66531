//! Refused requests, explained by the gateway that refused them.

use crate::world::events::task;
use crate::world::output::Finished;
use crate::world::sender::Reply;
use crate::world::sign::Provider;
use crate::world::{World, world, world_with};

/// A Veedeo event that is right but for a newline behind its body.
fn send_with_a_newline(world: &World, number: u64) -> Reply {
    let mut request = Provider::Veedeo.sign(task(number));
    request.body.push(b'\n');
    world.send(&request)
}

fn id_of(reply: &Reply) -> String {
    reply.headers.get("x-request-id").expect("every reply has an id")
}

fn explain(world: &World, arguments: &[&str]) -> Finished {
    let finished = world.gateway.ask(&[&["explain"], arguments].concat());
    for provider in Provider::ALL {
        assert!(!finished.stdout.contains(provider.secret()), "{finished:?}");
    }
    finished
}

fn kept_bytes(world: &World) -> u64 {
    world.gateway.metrics().count("hookgate_refused_kept_bytes", &[])
}

#[test]
fn a_refused_request_is_explained_by_its_id_and_as_the_last_one() {
    let world = world();
    assert_eq!(explain(&world, &["--last"]).code, Some(1), "nothing was refused yet");
    let first = send_with_a_newline(&world, 1);
    assert_eq!(first.status, 401);
    let forged = world.send(&Provider::GitHub.sign_at("{}", 0, "another secret"));
    assert_eq!(forged.status, 401);

    let by_id = explain(&world, &[&id_of(&first), "--json"]);
    assert_eq!(by_id.code, Some(0), "{by_id:?}");
    let row = &by_id.json_lines()[0];
    assert_eq!((row["route"].as_str(), row["reason"].as_str()), (Some("veedeo"), Some("signature_mismatch")));
    assert_eq!(
        (row["request_id"].as_str(), row["findings"][0]["id"].as_str()),
        (Some(&*id_of(&first)), Some("body-final-newline"))
    );

    let last = explain(&world, &["--last"]);
    assert_eq!(last.code, Some(3), "a forged signature is a riddle: {last:?}");
    assert!(last.stdout.contains("route github") && last.stdout.contains(&id_of(&forged)), "{last:?}");
    let listed = world.gateway.ask(&["events", "list"]);
    assert!(
        listed.stdout.contains(&id_of(&first)),
        "a refused request is listed by the id that explains it: {listed:?}"
    );
    assert_eq!(explain(&world, &["nothing"]).code, Some(1));
}

#[test]
fn an_observed_request_is_explained_too_and_an_accepted_one_is_not_kept() {
    let world = world_with(&["routes.veedeo.enforce = false", "routes.github.max_body_bytes = '3MiB'"]);
    assert_eq!(world.send(&Provider::GitHub.sign("{\"a\":1}")).status, 200);
    assert_eq!(kept_bytes(&world), 0);
    assert_eq!(send_with_a_newline(&world, 1).status, 200);
    let last = explain(&world, &["--last", "--json"]);
    assert_eq!(last.json_lines()[0]["findings"][0]["id"], "body-final-newline", "{last:?}");
    assert!(kept_bytes(&world) > 100);

    let long = vec![b'x'; 2 * 1024 * 1024];
    assert_eq!(world.send(&Provider::GitHub.sign_at(long.clone(), 0, "another secret")).status, 401);
    let last = explain(&world, &["--last"]);
    assert!(last.stdout.contains(&format!("{} bytes, too long to be kept", long.len())), "{last:?}");
    assert!(kept_bytes(&world) < 10_000);
}

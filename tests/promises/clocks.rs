//! Clocks that jump while the gateway runs, and requests that come again a second to ten days later. The gateway's wall
//! clock is put under it by libfaketime; its monotonic clock stays. P2, P5, P13, P14.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::world::act::{accept, answer};
use crate::world::app::App;
use crate::world::clock::{now_unix, pause};
use crate::world::events::task;
use crate::world::gateway::Gateway;
use crate::world::needs::given;
use crate::world::sender::{Reply, Request};
use crate::world::setup::Setup;
use crate::world::sign::Provider;
use crate::world::world_with;

fn library() -> Result<String, String> {
    let places = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64"];
    let mut found = places.into_iter().map(|place| format!("{place}/faketime/libfaketimeMT.so.1"));
    let found = found.find(|path| std::path::Path::new(path).exists());
    found.ok_or_else(|| "no libfaketime; Debian and Ubuntu: apt-get install faketime".into())
}

/// A gateway whose wall clock is the machine's plus what stands in a file.
struct Warped {
    gateway: Gateway,
    app: App,
    variables: Vec<(String, String)>,
    offset: PathBuf,
    _folder: tempfile::TempDir,
}

impl Warped {
    fn start(library: &str, lines: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let offset = folder.path().join("offset");
        let app = App::start();
        let mut setup = Setup::new(&app.url()).with(lines);
        let file = offset.display().to_string();
        let variables = [
            ("LD_PRELOAD", library),
            ("FAKETIME_TIMESTAMP_FILE", &file),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ];
        let variables: Vec<_> = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        setup.environment.extend(variables.clone());
        std::fs::write(&offset, "+0").unwrap();
        Self { gateway: Gateway::start(setup), app, variables, offset, _folder: folder }
    }

    /// Sets the clock off by so many seconds, and sees that it is.
    fn jump(&self, seconds: i64) {
        std::fs::write(&self.offset, format!("{seconds:+}")).unwrap();
        let variables = self.variables.iter().map(|(name, value)| (name, value));
        let said = Command::new("date").arg("+%s").envs(variables).output().unwrap();
        let said: i64 = String::from_utf8(said.stdout).unwrap().trim().parse().unwrap();
        assert!((said - now_unix() - seconds).abs() <= 2, "the clock says {said}, off by {seconds} was asked for");
    }

    /// Starts the gateway again with its clock off by so many seconds: so much later, as far as it can tell.
    fn later(&mut self, seconds: i64) {
        self.gateway.stop();
        self.jump(seconds);
        self.gateway.restart();
    }

    fn send(&self, request: &Request) -> Reply {
        self.gateway.send(request)
    }
}

const MINUTE: i64 = 60;
const HOUR: i64 = 3600;
const DAY: i64 = 86_400;
const YEAR: i64 = 365 * DAY;

#[test]
fn a_clock_that_jumps_while_the_gateway_runs_costs_no_event() {
    let Some(library) = given(library()) else { return };
    let mut world = Warped::start(&library, &[]);
    let mut sent = 0;
    for jump in [1, -1, MINUTE, -MINUTE, HOUR, -HOUR, DAY, -DAY, YEAR, -YEAR, 10 * YEAR, -10 * YEAR] {
        world.jump(jump);
        pause(Duration::from_millis(50));
        for provider in [Provider::Veedeo, Provider::Stripe, Provider::StandardWebhooks] {
            let request = provider.sign(task(format!("{}{jump}", provider.name())));
            assert_eq!(world.send(&request).text(), "{\"app\":200}", "{} at {jump} s", provider.name());
            assert_eq!(world.send(&request).status, 200, "its copy");
            sent += 1;
        }
        assert_eq!(world.app.count(), sent, "each once, after a jump of {jump} s");
    }
    // What waits on disk does not grow old by a jump.
    world.app.down();
    world.jump(0);
    assert_eq!(world.send(&Provider::Veedeo.sign(task("kept"))).text(), "{\"received\":true}");
    world.jump(10 * YEAR);
    pause(Duration::from_millis(500));
    world.app.up();
    world.gateway.wait_for_empty_spool(Duration::from_secs(15));
    assert_eq!(world.app.count(), sent + 1);
}

/// The control: this clock is the gateway's, and one that is wrong from the start is noticed.
#[test]
fn a_gateway_that_starts_with_a_wrong_clock_suspects_it() {
    let Some(library) = given(library()) else { return };
    let mut world = Warped::start(&library, &[]);
    world.later(10 * DAY);
    let replies: Vec<Reply> = (0..7).map(|n| world.send(&Provider::Stripe.sign(task(n)))).collect();
    assert_eq!(replies[0].status, 401, "nothing is known yet");
    assert_eq!((replies[6].status, replies[6].reason().as_str()), (503, "clock_suspect"));
}

/// As Mailgun signs: a time and a token, and nothing of the event.
#[test]
fn what_is_not_signed_makes_no_witnesses_of_one_capture() {
    const SECRET: &str = "a secret of this test alone";
    let world = world_with(&[
        "providers.token.signed = '{timestamp}{json:/t}'",
        "providers.token.signature = { json = '/s', encoding = 'hex' }",
        "providers.token.timestamp = { from = 'json:/at', unit = 's', tolerance = '300s' }",
        "providers.token.event_id = ['json:/t']",
        "routes.token.path = '/token'",
        "routes.token.provider = 'token'",
        &format!("routes.token.secrets = [{{ literal = '{SECRET}' }}]"),
    ]);
    let old = now_unix() - 3600;
    let signed = |token: &str| {
        let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
        mac.update(format!("{old}{token}").as_bytes());
        HEXLOWER.encode(&mac.finalize().into_bytes())
    };
    let send = |token: &str, more: usize| {
        let body = format!(r#"{{"at":"{old}","t":"{token}","s":"{}","more":{more}}}"#, signed(token));
        world.send(&Request::post("/token", body)).reason()
    };
    for more in 0..8 {
        assert_eq!(send("one", more), "timestamp_stale", "{more}");
    }
    assert_eq!(world.gateway.metrics().count("hookgate_clock_suspect", &[]), 0);
    let others: Vec<String> = (0..5).map(|n| send(&format!("other {n}"), 0)).collect();
    assert_eq!(others[4], "clock_suspect", "the control: {others:?}");
}

#[test]
fn a_captured_request_is_never_delivered_again() {
    let Some(library) = given(library()) else { return };
    let mut world = Warped::start(&library, &[]);
    let captured = [Provider::Veedeo, Provider::Stripe, Provider::StandardWebhooks].map(|it| it.sign(task(it.name())));
    for request in &captured {
        assert_eq!(world.send(request).text(), "{\"app\":200}");
    }
    for seconds in [1, 4 * MINUTE, 6 * MINUTE, 22 * HOUR, 24 * HOUR - MINUTE, 24 * HOUR + MINUTE, 3 * DAY, 10 * DAY] {
        world.later(seconds);
        for request in &captured {
            world.send(request);
        }
        // Veedeo's header is not signed: whoever has captured the request can write the time in it anew.
        let now = (now_unix() + seconds).to_string();
        let refreshed = captured[0].clone().without("X-Veedeo-Timestamp").with("X-Veedeo-Timestamp", now);
        let reply = world.send(&refreshed);
        let duplicate = reply.status == 200 && reply.json("duplicate") == true;
        assert!(duplicate || reply.status == 401, "after {seconds} s: {} {}", reply.status, reply.text());
        assert_eq!(world.app.count(), captured.len(), "after {seconds} s");
    }
}

/// After 30 s, 2 min, 8 min and 32 min: the application has refused all but the last. Veedeo writes the time of each
/// sending in a header; `VideoPilot` repeats the same request. (A Veedeo request repeated with the header of its first
/// sending is refused once that is 300 s old, as Veedeo's guide asks.)
#[test]
fn a_senders_own_repetitions_are_taken_at_each_of_its_times() {
    let Some(library) = given(library()) else { return };
    for provider in [Provider::Veedeo, Provider::VideoPilot] {
        let mut world = Warped::start(&library, &["ack.mode = 'sync'"]);
        let body = task("again");
        world.app.always(answer(500));
        assert_eq!(world.send(&provider.sign(body.clone())).status, 500);
        let mut after = 0;
        for wait in [30, 2 * MINUTE, 8 * MINUTE, 32 * MINUTE] {
            after += wait;
            world.later(after);
            if wait == 32 * MINUTE {
                world.app.always(accept());
            }
            let reply = world.send(&provider.sign_at(body.clone(), now_unix() + after, provider.secret()));
            let expected = if wait == 32 * MINUTE { 200 } else { 500 };
            assert_eq!(reply.status, expected, "{}, after {after} s: {}", provider.name(), reply.text());
        }
        assert_eq!(world.app.count(), 5);
        assert!(world.app.seen().iter().all(|seen| !seen.flagged()), "the application said no each time");
    }
}

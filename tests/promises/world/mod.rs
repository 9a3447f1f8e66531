//! The world of one promise: a scripted application, the gateway in front of it, and senders. It ends with the test
//! and leaves nothing behind. What it never does: look inside the gateway.

pub(crate) mod act;
pub(crate) mod app;
pub(crate) mod chance;
pub(crate) mod clock;
pub(crate) mod events;
pub(crate) mod gateway;
pub(crate) mod http2;
pub(crate) mod mounts;
pub(crate) mod needs;
pub(crate) mod output;
pub(crate) mod ports;
pub(crate) mod redis;
pub(crate) mod redis_links;
pub(crate) mod scrape;
mod self_tests;
pub(crate) mod sender;
pub(crate) mod setup;
pub(crate) mod sign;
pub(crate) mod strace;
pub(crate) mod wire;

use std::sync::atomic::{AtomicBool, Ordering};

use app::App;
use gateway::Gateway;
use sender::{Reply, Request};
use setup::Setup;
use sign::Provider;

/// One gateway in front of one application.
pub(crate) struct World {
    /// The gateway. It ends before the application does.
    pub(crate) gateway: Gateway,
    /// The application.
    pub(crate) app: App,
}

/// The usual world.
pub(crate) fn world() -> World {
    world_with(&[])
}

/// A world whose configuration has these lines.
pub(crate) fn world_with(lines: &[&str]) -> World {
    let app = App::start();
    World { gateway: Gateway::start(Setup::new(&app.url()).with(lines)), app }
}

/// The same with the application down.
pub(crate) fn world_without_app(lines: &[&str]) -> World {
    let app = App::stopped();
    World { gateway: Gateway::start(Setup::new(&app.url()).with(lines)), app }
}

impl World {
    /// Sends a request as it is.
    pub(crate) fn send(&self, request: &Request) -> Reply {
        self.gateway.send(request)
    }

    /// Signs a Veedeo event and sends it.
    pub(crate) fn veedeo(&self, body: impl Into<Vec<u8>>) -> Reply {
        self.send(&Provider::Veedeo.sign(body))
    }
}

/// Sets its flag when it goes, at a failure too: a scope waits for the threads that go on until then.
pub(crate) struct Closing<'a>(pub(crate) &'a AtomicBool);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Does `work` with each of `items` at the same time, each in a thread of its own, and returns what came of it in the
/// order of the items.
pub(crate) fn at_once<T: Send, R: Send>(items: impl IntoIterator<Item = T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = items.into_iter().map(|item| scope.spawn(move || work(item))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a sender that ends in peace")).collect()
    })
}

//! Measures the release binary beside what does the same job, or part of it, on the same machine in one run: nginx, nginx
//! with Lua and with njs, `HAProxy`, bare Pingora, a gateway in Python.
//!
//! `cargo bench --bench gateway`; what the environment can say is in `benches/README.md`. The figures that count are the
//! ratios inside one run. The generator is this process, the application another; their processor time is nobody's.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a benchmark: it may end with a message, it prints its table, and it tells the time"
)]

#[path = "gateway/app.rs"]
mod app;
#[path = "gateway/bare.rs"]
mod bare;
#[path = "gateway/disk.rs"]
mod disk;
#[path = "gateway/gateway.rs"]
mod gateway;
#[path = "gateway/histogram.rs"]
mod histogram;
#[path = "gateway/http.rs"]
mod http;
#[path = "gateway/instructions.rs"]
mod instructions;
#[path = "gateway/load.rs"]
mod load;
#[path = "gateway/options.rs"]
mod options;
#[path = "gateway/peers.rs"]
mod peers;
#[path = "gateway/poll.rs"]
mod poll;
#[path = "gateway/process.rs"]
mod process;
#[path = "gateway/rounds.rs"]
mod rounds;
#[path = "gateway/scale.rs"]
mod scale;
#[path = "gateway/sender.rs"]
mod sender;
#[path = "gateway/store.rs"]
mod store;
#[path = "gateway/table.rs"]
mod table;

use std::time::Duration;

use options::Options;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["app", port, micros] => {
            app::serve(port.parse().expect("a port"), Duration::from_micros(micros.parse().expect("a time")));
        }
        ["bare", listen, app, threads] => bare::serve(
            listen.parse().expect("an address"),
            app.parse().expect("an address"),
            threads.parse().expect("a number"),
        ),
        [] => tables(),
        ["one"] => disk::one(&Options::read()),
        ["drain"] => disk::drain(&Options::read()),
        ["scale", which @ ..] => {
            raise_limits();
            scale::scale(&Options::read(), which);
        }
        ["redis"] => store::redis(&Options::read()),
        ["rest"] => assert!(scale::rest(&Options::read()), "more than is meant"),
        ["instructions"] => instructions::count(Options::read()),
        ["--list", ..] => {}
        other => panic!("not known: {other:?}"),
    }
}

fn tables() {
    let options = Options::read();
    raise_limits();
    let mut page = format!("{}\n\n", table::circumstances(&options));
    for scene in &options.scenes {
        say(&format!("{} bytes, {} connections, kept open: {}", scene.bytes, scene.connections, scene.keep_alive));
        let rows = rounds::play(&options, scene);
        let text = table::table(scene, &rows);
        println!("{text}");
        page.push_str(&text);
        page.push('\n');
    }
    if let Some(file) = &options.page {
        table::write_into(file, &page);
    }
}

/// As many open files as the system allows.
fn raise_limits() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let most = getrlimit(Resource::Nofile).maximum;
    let _raised = setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most });
}

/// To the one who waits.
fn say(text: &str) {
    use std::io::Write as _;
    let _written = writeln!(std::io::stderr(), "{text}");
}

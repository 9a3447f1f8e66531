//! The rounds of one scene: everybody once, then everybody again the other way round, so that what else the machine does
//! falls on all.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::app::App;
use super::load::{Plan, run};
use super::options::{Options, Scene};
use super::peers::{Stage, Target, Way, start};
use super::process::{Running, cpu_micros, rss_mib};
use super::say;

/// One target in one round.
#[derive(Clone)]
pub(crate) struct Figures {
    pub(crate) rate: f64,
    pub(crate) cpu: f64,
    /// Redis's processor time, microseconds a request.
    pub(crate) beside: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) rss: f64,
    pub(crate) failed: u64,
}

pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) words: &'static str,
    pub(crate) figures: Vec<Figures>,
}

pub(crate) fn play(options: &Options, scene: &Scene) -> Vec<Row> {
    let folder = tempfile::tempdir_in(&options.folder).expect("a temporary folder");
    let app = App::start(Duration::ZERO);
    let targets = start(&Stage { folder: folder.path(), options, scene, app: app.address });
    for target in targets.iter().filter(|target| target.checks) {
        assert_eq!(forged(target), Some(true), "{} takes an event with a forged signature", target.name);
    }
    let mut rows: Vec<Row> =
        targets.iter().map(|t| Row { name: t.name.clone(), words: t.words, figures: Vec::new() }).collect();
    for round in 0..options.rounds {
        let mut order: Vec<usize> = (0..targets.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let figures = one(options, scene, &targets[index], &app);
            let (rate, failed) = (figures.rate, figures.failed);
            let (name, cpu, p99) = (&targets[index].name, figures.cpu, figures.p99);
            say(&format!("round {round}: {name}: {rate:.0}/s, {cpu:.1} µs CPU, p99 {p99:.0} µs, {failed} failed"));
            rows[index].figures.push(figures);
        }
    }
    rows
}

fn one(options: &Options, scene: &Scene, target: &Target, app: &App) -> Figures {
    let pids = target.running.pids();
    let beside: Vec<u32> = target.beside.as_ref().map(Running::pids).unwrap_or_default();
    let plan = Plan {
        address: target.address,
        path: target.path,
        bytes: scene.bytes,
        connections: scene.connections,
        keep_alive: scene.keep_alive,
        repeats: target.way == Way::Repeats,
        warm: options.warm,
        length: options.length,
        most: u64::MAX,
        pids: &pids,
    };
    let (before, cpu, cpu_beside) = (app.count(), cpu_micros(&pids), cpu_micros(&beside));
    let load = run(&plan);
    let rss = rss_mib(&pids);
    let arrived = if target.way == Way::Kept { load.events } else { arrived(app, before + load.events) - before };
    if arrived != load.events {
        say(&format!("{}: {} events were answered 200, {arrived} reached the application", target.name, load.events));
    }
    // What is done after the answer is part of the price: until all has been delivered, over all that was sent.
    let all = load.events as f64;
    let whole = (cpu_micros(&pids) - cpu) / all;
    let count = load.times.count().max(1) as f64;
    // A log is kept, and not kept for ever.
    let _emptied = std::fs::File::options().write(true).open(&target.log).and_then(|file| file.set_len(0));
    Figures {
        rate: load.rate(),
        cpu: if target.way == Way::Queue { whole } else { load.cpu_micros / count },
        beside: (cpu_micros(&beside) - cpu_beside) / all,
        p50: load.times.micros(0.5),
        p99: load.times.micros(0.99),
        p999: load.times.micros(0.999),
        rss,
        failed: load.failed,
    }
}

/// What the application has been sent once it has been sent so much, or after two minutes without progress.
fn arrived(app: &App, wanted: u64) -> u64 {
    let (mut seen, mut since) = (app.count(), Instant::now());
    while seen < wanted && since.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(50));
        let now = app.count();
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
    }
    seen
}

/// Is an event with a wrong signature refused?
fn forged(target: &Target) -> Option<bool> {
    let mut stream = TcpStream::connect(target.address).ok()?;
    let body = r#"{"event":"task.completed","timestamp":"2026-01-01T00:00:00Z","task_id":"tsk_0"}"#;
    let text = format!(
        "POST {} HTTP/1.1\r\nHost: hooks.example\r\nContent-Type: application/json\r\nX-Veedeo-Timestamp: 0\r\n\
         X-Veedeo-Signature: sha256={:064}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        target.path,
        0,
        body.len()
    );
    stream.write_all(text.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer.starts_with("HTTP/1.1 401") || answer.starts_with("HTTP/1.1 400"))
}

//! What one event costs a Redis: processor time, commands, memory. How many gateways one Redis carries follows from it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::app::App;
use super::gateway::{Gateway, Shape};
use super::options::{Options, number};
use super::process::{comes_up, cpu_micros, free_port, local, program, spawn};

pub(crate) fn redis(options: &Options) {
    let events = number("BENCH_EVENTS", 100_000) as u64;
    let folder = tempfile::tempdir_in(&options.folder).expect("a temporary folder");
    let (port, home) = (free_port(), folder.path().display().to_string());
    let digits = port.to_string();
    let arguments = ["--port", &digits, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", &home];
    let server = program("redis-server").expect("redis-server is installed");
    let store = spawn(&server, &arguments, "", &folder.path().join("redis.log")).expect("a Redis");
    assert!(comes_up(port, Duration::from_secs(10)), "Redis does not listen");
    let app = App::start(Duration::ZERO);
    let more = format!("[dedup]\nstore = \"redis\"\n[dedup.redis]\nurl = \"redis://127.0.0.1:{port}/0\"\n");
    let shape = Shape { more: &more, under: &[] };
    let gateway = Gateway::start(options, &folder.path().join("spool"), app.address, &shape);
    let pids = store.pids();
    let before = (cpu_micros(&pids), info(local(port)));
    let load = gateway.load(64, 1024, Duration::from_secs(600), events);
    let after = (cpu_micros(&pids), info(local(port)));
    let each = |name: &str| (field(&after.1, name) - field(&before.1, name)) / load.events as f64;
    let cpu = (after.0 - before.0) / load.events as f64;
    println!("| an event costs Redis | |\n|---|---|");
    println!("| processor time, µs | {cpu:.1} |");
    println!("| commands, those inside scripts among them | {:.1} |", each("total_commands_processed:"));
    println!("| bytes received | {:.0} |", each("total_net_input_bytes:"));
    println!("| bytes sent | {:.0} |", each("total_net_output_bytes:"));
    println!("| bytes of memory for as long as it is remembered | {:.0} |", each("used_memory:"));
    println!("\nover {} events at {:.0} a second, {} failed", load.events, load.rate(), load.failed);
}

fn info(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).expect("a connection to Redis");
    stream.write_all(b"INFO all\r\n").expect("a question");
    let mut reader = BufReader::new(stream);
    let mut length = String::new();
    reader.read_line(&mut length).expect("a length");
    let mut text = vec![0; length.trim_start_matches('$').trim().parse().expect("a number")];
    reader.read_exact(&mut text).expect("the whole answer");
    String::from_utf8_lossy(&text).into_owned()
}

fn field(info: &str, name: &str) -> f64 {
    info.lines().find_map(|line| line.strip_prefix(name)).and_then(|text| text.trim().parse().ok()).expect("a field")
}

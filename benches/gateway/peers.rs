//! The measured processes: what each is called, how it is started, and with which configuration.
//!
//! Every one gets the same number of workers, keeps connections to the application open and has no access log but ours.
//! What is not installed is left out with a line that says so.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::options::{Options, Scene};
use super::process::{Running, comes_up, free_port, local, program, spawn};
use super::sender::SECRET;

pub(crate) const PATH: &str = "/webhooks/veedeo";
const MODULES: &str = "/usr/lib/nginx/modules";

/// What becomes of an event, as far as the measurement must know.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Way {
    /// It is sent on, and answered then.
    Through,
    /// The same, and every second request is the one before it once more.
    Repeats,
    /// It is answered first and sent on then.
    Queue,
    /// It is kept.
    Kept,
}

/// One row of a table.
pub(crate) struct Target {
    /// As in `BENCH_ONLY`, with the name of the program if there are several.
    pub(crate) name: String,
    pub(crate) words: &'static str,
    pub(crate) address: SocketAddr,
    pub(crate) path: &'static str,
    /// Refuses what is not signed.
    pub(crate) checks: bool,
    pub(crate) way: Way,
    pub(crate) running: Running,
    /// Redis, if it is one of its own.
    pub(crate) beside: Option<Running>,
    pub(crate) log: PathBuf,
}

pub(crate) struct Stage<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) options: &'a Options,
    pub(crate) scene: &'a Scene,
    pub(crate) app: SocketAddr,
}

/// Starts those who take part in a scene.
pub(crate) fn start(stage: &Stage<'_>) -> Vec<Target> {
    let mut found = Vec::new();
    for name in &stage.scene.who {
        let started = match name.as_str() {
            "nginx" => vec![stage.nginx("nginx", "nginx proxy_pass, no check", false)],
            "lua" => vec![stage.nginx("lua", "nginx + Lua calling libcrypto itself, HMAC alone", true)],
            "luaossl" => vec![stage.nginx("luaossl", "nginx + Lua with luaossl, HMAC alone", true)],
            "njs" => vec![stage.nginx("njs", "nginx + njs, HMAC alone", true)],
            "haproxy" => vec![stage.haproxy()],
            "pingora" => vec![stage.pingora()],
            "python" => vec![stage.python()],
            _ => stage.options.hookgates.iter().map(|program| stage.hookgate(name, program)).collect(),
        };
        for target in started {
            match target {
                Ok(target) => found.push(target),
                Err(why) => super::say(&format!("left out: {name}: {why}")),
            }
        }
    }
    found
}

impl Stage<'_> {
    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let file = self.file(name);
        std::fs::write(&file, text).expect("a file");
        file
    }

    fn run(&self, name: &str, program: &Path, arguments: &[&str], port: u16) -> Result<(Running, PathBuf), String> {
        let log = self.file(&format!("{name}.log"));
        let running = spawn(program, arguments, &self.options.cpus.0, &log).map_err(|error| error.to_string())?;
        if comes_up(port, std::time::Duration::from_secs(20)) {
            return Ok((running, log));
        }
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        Err(format!("does not listen: {}", said.lines().last().unwrap_or("it says nothing")))
    }

    fn nginx(&self, name: &str, words: &'static str, checks: bool) -> Result<Target, String> {
        let program = program("nginx").ok_or("nginx is not installed")?;
        let module = |file: &str| {
            let path = format!("{MODULES}/{file}.so");
            if Path::new(&path).exists() { Ok(format!("load_module {path};\n")) } else { Err(format!("no {path}")) }
        };
        let proxy = "proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection '';";
        let folder = self.folder.display();
        let (modules, http, location) = match name {
            "lua" | "luaossl" => {
                let gate = if name == "lua" {
                    include_str!("../peers/gate.lua")
                } else {
                    include_str!("../peers/luaossl.lua")
                };
                self.write(&format!("{name}.lua"), &gate.replace("@SECRET@", SECRET));
                let http = format!("lua_package_path '{folder}/?.lua;;'; init_by_lua_block {{ require('{name}') }}");
                let check = format!("access_by_lua_block {{ require('{name}').check() }}");
                let modules = module("ndk_http_module")? + &module("ngx_http_lua_module")?;
                (modules, http, format!("location / {{ {check} {proxy} }}"))
            }
            "njs" => {
                self.write("gate.js", &include_str!("../peers/gate.js").replace("@SECRET@", SECRET));
                let http = format!("js_path '{folder}'; js_import gate from gate.js;");
                let locations = format!("location / {{ js_content gate.check; }} location @app {{ {proxy} }}");
                (module("ngx_http_js_module")?, http, locations)
            }
            _ => (String::new(), String::new(), format!("location / {{ {proxy} }}")),
        };
        let port = free_port();
        let kept = self.scene.connections.max(128);
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {folder}/{name}-{kind};\n"))
            .concat();
        let text = format!(
            "{modules}user root;\nworker_processes {};\ndaemon off;\npid {folder}/{name}.pid;\nerror_log stderr crit;\n\
             events {{ worker_connections 16384; }}\nhttp {{\naccess_log off;\n{temporary}\
             client_body_buffer_size 1m;\nclient_max_body_size 2m;\nkeepalive_requests 1000000000;\nkeepalive_timeout 600s;\n{http}\n\
             upstream app {{ server {}; keepalive {kept}; keepalive_requests 1000000000; }}\n\
             server {{ listen 127.0.0.1:{port} reuseport backlog=4096; {location} }}\n}}\n",
            self.options.threads, self.app
        );
        let file = self.write(&format!("{name}.conf"), &text);
        let (running, log) = self.run(name, &program, &["-c", &file.display().to_string()], port)?;
        Ok(Target { checks, ..peer(name, words, port, running, log) })
    }

    fn haproxy(&self) -> Result<Target, String> {
        let program = program("haproxy").ok_or("haproxy is not installed")?;
        let port = free_port();
        let text = format!(
            "global\n    nbthread {}\n    maxconn 4000\ndefaults\n    mode http\n    timeout connect 5s\n    timeout client 600s\n    timeout server 60s\n\
             \x20   option http-keep-alive\n    http-reuse always\nfrontend senders\n    bind 127.0.0.1:{port} backlog 4096\n    default_backend app\n\
             backend app\n    server app {}\n",
            self.options.threads, self.app
        );
        let file = self.write("haproxy.cfg", &text);
        let (running, log) = self.run("haproxy", &program, &["-db", "-f", &file.display().to_string()], port)?;
        Ok(peer("haproxy", "HAProxy, no check", port, running, log))
    }

    fn pingora(&self) -> Result<Target, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let port = free_port();
        let arguments = ["bare", &local(port).to_string(), &self.app.to_string(), &self.options.threads.to_string()];
        let (running, log) = self.run("pingora", &program, &arguments, port)?;
        Ok(peer("pingora", "bare Pingora, no check", port, running, log))
    }

    fn python(&self) -> Result<Target, String> {
        let program = program("python3").ok_or("python3 is not installed")?;
        let script = self.write("gateway.py", include_str!("../peers/gateway.py"));
        let (port, journal) = (free_port(), self.file("python.journal"));
        let (script, journal) = (script.display().to_string(), journal.display().to_string());
        let arguments = [script.as_str(), &port.to_string(), &journal, SECRET];
        let (running, log) = self.run("python", &program, &arguments, port)?;
        let words = "Python: HMAC, fsync, ack (never delivers)";
        Ok(Target { checks: true, way: Way::Kept, ..peer("python", words, port, running, log) })
    }

    fn hookgate(&self, kind: &str, program: &(String, PathBuf)) -> Result<Target, String> {
        let words = match kind {
            "pass" => "hookgate passthrough, no check",
            "relay" => "hookgate relay: verify, dedup, deliver",
            "redis" => "hookgate relay, dedup in Redis",
            "duplicates" => "hookgate relay, every second a duplicate",
            "queue" => "hookgate queue: verify, dedup, fsync, ack",
            _ => return Err("nobody is called that".to_owned()),
        };
        let name = format!("{kind}{}", program.0);
        let mut beside = None;
        let mut more = if kind == "queue" { "[ack]\nmode = \"queue\"\n".to_owned() } else { String::new() };
        if kind == "redis" {
            let (running, port) = self.redis(&name)?;
            beside = Some(running);
            more = format!("[dedup]\nstore = \"redis\"\n[dedup.redis]\nurl = \"redis://127.0.0.1:{port}/0\"\n");
        }
        let slots = if kind == "queue" { 64 } else { self.scene.connections.max(64) };
        let port = free_port();
        let settings =
            Settings { port, telemetry: 0, threads: self.options.threads, slots, app: self.app, more: &more };
        let file = self.write(&format!("{name}.toml"), &settings.text(self.options, &self.file(&name)));
        let (running, log) = self.run(&name, &program.1, &["run", "-c", &file.display().to_string()], port)?;
        let path = if kind == "pass" { "/pass" } else { PATH };
        let way = match kind {
            "queue" => Way::Queue,
            "duplicates" => Way::Repeats,
            _ => Way::Through,
        };
        Ok(Target { path, checks: kind != "pass", way, beside, ..peer(&name, words, port, running, log) })
    }

    fn redis(&self, name: &str) -> Result<(Running, u16), String> {
        let program = program("redis-server").ok_or("redis-server is not installed")?;
        let port = free_port();
        let (digits, folder) = (port.to_string(), self.folder.display().to_string());
        let arguments =
            ["--port", &digits, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", &folder];
        let (running, _) = self.run(&format!("{name}-store"), &program, &arguments, port)?;
        Ok((running, port))
    }
}

fn peer(name: &str, words: &'static str, port: u16, running: Running, log: PathBuf) -> Target {
    Target {
        name: name.to_owned(),
        words,
        address: local(port),
        path: PATH,
        checks: false,
        way: Way::Through,
        running,
        beside: None,
        log,
    }
}

/// What differs between the gateway's configurations of this benchmark.
pub(crate) struct Settings<'a> {
    pub(crate) port: u16,
    pub(crate) telemetry: u16,
    pub(crate) threads: usize,
    pub(crate) slots: usize,
    pub(crate) app: SocketAddr,
    /// Further tables.
    pub(crate) more: &'a str,
}

impl Settings<'_> {
    pub(crate) fn text(&self, options: &Options, spool: &Path) -> String {
        format!(
            "listen = \"127.0.0.1:{}\"\ntelemetry = \"127.0.0.1:{}\"\nadmin = \"127.0.0.1:0\"\n{}\n\
             [server]\nthreads = {}\nmax_connections = 12000\nidle_timeout = \"600s\"\n[log]\nlevel = \"{}\"\n\
             [app]\nurl = \"http://{}\"\nmax_in_flight = {}\n[spool]\npath = \"{}\"\nmax_bytes = \"16GiB\"\n{}\
             [passthrough]\npaths = [\"/pass\"]\n\
             [routes.veedeo]\npath = \"{PATH}\"\nprovider = \"veedeo\"\nsecrets = [{{ literal = \"{SECRET}\" }}]\n",
            self.port,
            self.telemetry,
            options.more,
            self.threads,
            options.log,
            self.app,
            self.slots,
            spool.display(),
            self.more
        )
    }
}

//! A sender: HTTP/1.1 over a socket of its own, so that every byte and every pause is the test's. It knows nothing of
//! signatures; `sign` makes requests that carry one.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::wire::{Headers, Unframed, Wire, WireFault};

/// How the body's length is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// `Content-Length`.
    Length,
    /// `Transfer-Encoding: chunked`, with chunks of these sizes in turn.
    Chunked(Vec<usize>),
}

/// A request to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Method.
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    /// Headers besides the framing; `Host` is added where there is none.
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    /// The body.
    pub(crate) body: Vec<u8>,
    /// How its length is told.
    pub(crate) framing: Framing,
    /// Whether to wait for `100 Continue` before the body.
    pub(crate) expects_continue: bool,
}

impl Request {
    /// A POST of this body.
    pub(crate) fn post(target: &str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            method: "POST".into(),
            target: target.into(),
            headers: vec![("Content-Type".into(), b"application/json".to_vec())],
            body: body.into(),
            framing: Framing::Length,
            expects_continue: false,
        }
    }

    /// A GET.
    pub(crate) fn get(target: &str) -> Self {
        Self { method: "GET".into(), headers: Vec::new(), ..Self::post(target, "") }
    }

    /// The same with one more header line.
    pub(crate) fn with(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The same without any header of this name.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        self
    }

    /// The same in chunks.
    pub(crate) fn chunked(mut self, sizes: &[usize]) -> Self {
        self.framing = Framing::Chunked(sizes.to_vec());
        self
    }

    /// The head and the body as they go over the wire.
    pub(crate) fn bytes(&self) -> (Vec<u8>, Vec<u8>) {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        let mut line = |name: &str, value: &[u8]| {
            head.extend_from_slice(name.as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value);
            head.extend_from_slice(b"\r\n");
        };
        if !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            line("Host", b"hooks.example.com");
        }
        for (name, value) in &self.headers {
            line(name, value);
        }
        if self.expects_continue {
            line("Expect", b"100-continue");
        }
        let body = match &self.framing {
            Framing::Length => {
                if self.method != "GET" {
                    line("Content-Length", self.body.len().to_string().as_bytes());
                }
                self.body.clone()
            }
            Framing::Chunked(sizes) => {
                line("Transfer-Encoding", b"chunked");
                in_chunks(&self.body, sizes)
            }
        };
        head.extend_from_slice(b"\r\n");
        (head, body)
    }
}

fn in_chunks(mut body: &[u8], sizes: &[usize]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for size in sizes.iter().cycle() {
        if body.is_empty() {
            break;
        }
        let (chunk, rest) = body.split_at((*size).clamp(1, body.len()));
        bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
        body = rest;
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}

/// A complete reply.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    /// Its status.
    pub(crate) status: u16,
    /// Its headers.
    pub(crate) headers: Headers,
    /// Its body.
    pub(crate) body: Vec<u8>,
    /// From the first byte sent to the last byte read.
    pub(crate) took: Duration,
    /// How many interim answers came before.
    pub(crate) interim: usize,
}

impl Reply {
    /// Whether the sender was told that its event is safe.
    pub(crate) fn acked(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A field of the JSON body.
    pub(crate) fn json(&self, field: &str) -> serde_json::Value {
        let body: serde_json::Value = serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("a reply in JSON, {e}: {} {}", self.status, self.text()));
        body.get(field).cloned().unwrap_or(serde_json::Value::Null)
    }

    /// `reason` of the JSON body.
    pub(crate) fn reason(&self) -> String {
        self.json("reason").as_str().unwrap_or_default().to_owned()
    }

    /// `Retry-After` in seconds.
    pub(crate) fn retry_after(&self) -> Option<u64> {
        self.headers.get("retry-after")?.parse().ok()
    }
}

/// Longest wait of a sender; the slowest budget of these tests is far below it.
const PATIENCE: Duration = Duration::from_secs(40);

/// A connection that lives on between requests.
#[derive(Debug)]
pub(crate) struct Line {
    wire: Wire,
}

impl Line {
    /// Connects.
    pub(crate) fn open(address: &str) -> Result<Self, WireFault> {
        let stream = TcpStream::connect(address).map_err(|e| WireFault::Broken(e.to_string()))?;
        Ok(Self { wire: Wire::new(stream, PATIENCE) })
    }

    /// Connects from an address of the loopback.
    pub(crate) fn open_from(source: Ipv4Addr, address: &str) -> Result<Self, WireFault> {
        let broken = |error: std::io::Error| WireFault::Broken(error.to_string());
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).map_err(broken)?;
        let address: SocketAddr = address.parse().expect("an address");
        socket.bind(&SocketAddr::from((source, 0)).into()).map_err(broken)?;
        socket.connect(&address.into()).map_err(broken)?;
        Ok(Self { wire: Wire::new(socket.into(), PATIENCE) })
    }

    /// Sends and reads the reply.
    pub(crate) fn send(&mut self, request: &Request) -> Result<Reply, WireFault> {
        let from = Instant::now();
        self.wire.allow(PATIENCE);
        let (head, body) = request.bytes();
        if request.expects_continue {
            self.wire.write(&head)?;
            let (interim, early) = self.wait_for_continue(from)?;
            if let Some(early) = early {
                return Ok(early);
            }
            self.wire.write(&body)?;
            let mut reply = self.reply(from, "POST")?;
            reply.interim += interim;
            return Ok(reply);
        }
        // A gateway that refuses early may close before all is written; its answer counts all the same.
        let written = self.wire.write(&[head, body].concat());
        match self.reply(from, &request.method) {
            Err(_) if written.is_err() => Err(written.unwrap_err()),
            reply => reply,
        }
    }

    /// Writes bytes as they are.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Result<(), WireFault> {
        self.wire.write(bytes)
    }

    /// Reads one reply, within `within`.
    pub(crate) fn read(&mut self, within: Duration) -> Result<Reply, WireFault> {
        self.wire.allow(within);
        self.reply(Instant::now(), "POST")
    }

    /// Whether the gateway closes the connection `within`, without another byte.
    pub(crate) fn closes(&mut self, within: Duration) -> bool {
        self.wire.allow(within);
        matches!(self.wire.peek(), Ok(false) | Err(WireFault::Broken(_)))
    }

    fn wait_for_continue(&mut self, from: Instant) -> Result<(usize, Option<Reply>), WireFault> {
        let head = self.wire.head()?;
        if status_of(&head.start)? == 100 {
            return Ok((1, None));
        }
        self.finish(head, from, "POST").map(|reply| (0, Some(reply)))
    }

    fn reply(&mut self, from: Instant, method: &str) -> Result<Reply, WireFault> {
        let mut interim = 0;
        loop {
            let head = self.wire.head()?;
            if (100..200).contains(&status_of(&head.start)?) {
                interim += 1;
                continue;
            }
            let reply = self.finish(head, from, method)?;
            return Ok(Reply { interim, ..reply });
        }
    }

    fn finish(&mut self, head: super::wire::Head, from: Instant, method: &str) -> Result<Reply, WireFault> {
        let status = status_of(&head.start)?;
        let bodiless = method == "HEAD" || status == 204 || status == 304;
        let body = if bodiless { Vec::new() } else { self.wire.body(&head.headers, Unframed::UntilClosed)? };
        Ok(Reply { status, headers: head.headers, body, took: from.elapsed(), interim: 0 })
    }
}

fn status_of(line: &str) -> Result<u16, WireFault> {
    let status = line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).and_then(|digits| digits.parse().ok());
    status.ok_or_else(|| WireFault::Malformed(format!("status line {line:?}")))
}

/// Sends over a connection of its own.
pub(crate) fn send(address: &str, request: &Request) -> Result<Reply, WireFault> {
    Line::open(address)?.send(request)
}

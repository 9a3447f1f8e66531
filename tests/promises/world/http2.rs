//! A sender that speaks HTTP/2 through the `h2` library, and one that writes frames by hand. The one is honest, the other
//! may do what no library does.

use std::future::poll_fn;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use rustls::pki_types::ServerName;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::gateway::Gateway;
use super::sender::{Reply, Request};
use super::wire::Headers;
use crate::tls::{ALL, Encrypted, Papers, Sender};

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(40);

/// The name in the gateway's certificate.
const NAME: &str = "hooks.example.com";

/// A sender that offers these protocols.
pub(crate) fn offering(papers: &Papers, protocols: &[&str]) -> Sender {
    let mut config = (*papers.sender(ALL, None).0).clone();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    Sender(Arc::new(config))
}

/// A connection of HTTP/2.
pub(crate) struct Link {
    /// Where its tasks run.
    pub(crate) runtime: Runtime,
    send: SendRequest<Bytes>,
    driver: JoinHandle<Result<(), h2::Error>>,
}

impl Link {
    /// Connects.
    pub(crate) fn open(gateway: &Gateway, papers: &Papers) -> Self {
        Self::with(gateway, papers, &h2::client::Builder::new())
    }

    /// Connects with settings of its own.
    pub(crate) fn with(gateway: &Gateway, papers: &Papers, settings: &h2::client::Builder) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let config = offering(papers, &["h2"]).0;
        let (send, driver) = runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(gateway.address()).await.unwrap();
            let name = ServerName::try_from(NAME).unwrap();
            let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]), "HTTP/2 is offered");
            let (send, connection) = settings.handshake::<_, Bytes>(stream).await.unwrap();
            (send, tokio::spawn(connection))
        });
        Self { runtime, send, driver }
    }

    /// Sends a request and reads the reply.
    pub(crate) fn send(&self, request: &Request) -> Result<Reply, h2::Error> {
        self.runtime.block_on(self.begin(request, usize::MAX))
    }

    /// Sends a request whose body comes in frames of this size at most, without waiting for the reply.
    pub(crate) fn begin(
        &self,
        request: &Request,
        piece: usize,
    ) -> impl Future<Output = Result<Reply, h2::Error>> + Send + 'static {
        exchange(self.send.clone(), request.clone(), piece)
    }

    /// All of these at the same time.
    pub(crate) fn at_once(&self, requests: &[Request]) -> Vec<Result<Reply, h2::Error>> {
        let under_way: Vec<_> = requests.iter().map(|one| self.runtime.spawn(self.begin(one, usize::MAX))).collect();
        self.runtime.block_on(async {
            let mut replies = Vec::new();
            for reply in under_way {
                replies.push(reply.await.unwrap());
            }
            replies
        })
    }

    /// Opens a request with its head alone.
    pub(crate) fn head(&self, request: &Request) -> (h2::client::ResponseFuture, h2::SendStream<Bytes>) {
        let mut send = self.send.clone();
        self.runtime.block_on(async {
            poll_fn(|cx| send.poll_ready(cx)).await.unwrap();
            send.send_request(as_http(request), false).unwrap()
        })
    }

    /// Waits until the connection has ended, and says how.
    pub(crate) fn ended(self) -> Result<(), h2::Error> {
        let Self { runtime, send, driver } = self;
        let ended = runtime.block_on(async { tokio::time::timeout(PATIENCE, driver).await });
        drop(send);
        ended.expect("the connection ends").unwrap()
    }

    /// Whether it has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.driver.is_finished()
    }
}

async fn exchange(mut send: SendRequest<Bytes>, request: Request, piece: usize) -> Result<Reply, h2::Error> {
    let from = Instant::now();
    let what = async {
        poll_fn(|cx| send.poll_ready(cx)).await?;
        let (response, mut body) = send.send_request(as_http(&request), request.body.is_empty())?;
        let sending = async move {
            let mut rest = Bytes::from(request.body);
            while !rest.is_empty() {
                body.reserve_capacity(rest.len().min(piece));
                // The gateway may have answered without wanting the rest.
                let Some(Ok(room)) = poll_fn(|cx| body.poll_capacity(cx)).await else { return };
                let next = rest.split_to(room.min(piece).min(rest.len()));
                if body.send_data(next, rest.is_empty()).is_err() {
                    return;
                }
            }
        };
        let reading = async move {
            let (head, mut body) = response.await?.into_parts();
            let mut bytes = Vec::new();
            while let Some(data) = body.data().await {
                let data = data?;
                body.flow_control().release_capacity(data.len())?;
                bytes.extend_from_slice(&data);
            }
            let headers = head.headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
            let headers = Headers(headers.collect());
            Ok(Reply { status: head.status.as_u16(), headers, body: bytes, took: from.elapsed(), interim: 0 })
        };
        tokio::pin!(sending, reading);
        tokio::select! {
            reply = &mut reading => reply,
            () = &mut sending => reading.await,
        }
    };
    tokio::time::timeout(PATIENCE, what).await.expect("a reply in time")
}

fn as_http(request: &Request) -> http::Request<()> {
    let host = request.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("host"));
    let host = host.map_or(NAME.to_owned(), |(_, value)| String::from_utf8(value.clone()).unwrap());
    let mut built = http::Request::builder()
        .method(request.method.as_str())
        .uri(format!("https://{host}{}", request.target))
        .version(http::Version::HTTP_2);
    for (name, value) in request.headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("host")) {
        built = built.header(name.as_str(), value.as_slice());
    }
    built.body(()).unwrap()
}

/// A frame as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Its type.
    pub(crate) kind: u8,
    /// Its flags.
    pub(crate) flags: u8,
    /// Its stream.
    pub(crate) stream: u32,
    /// What is in it.
    pub(crate) payload: Vec<u8>,
}

/// Types of frames (RFC 9113 section 6).
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

/// Flags.
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// A frame as it is written.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Header fields in HPACK, none of them compressed or remembered (RFC 7541 section 6.2.2).
pub(crate) fn fields(fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name.as_bytes(), value] {
            // An integer with a prefix of 7 bits (RFC 7541 section 5.1).
            if text.len() < 127 {
                bytes.push(u8::try_from(text.len()).unwrap());
            } else {
                bytes.push(127);
                let mut rest = text.len() - 127;
                while rest >= 128 {
                    bytes.push(u8::try_from(rest % 128).unwrap() | 128);
                    rest /= 128;
                }
                bytes.push(u8::try_from(rest).unwrap());
            }
            bytes.extend_from_slice(text);
        }
    }
    bytes
}

/// A connection of HTTP/2 by hand.
pub(crate) struct Hand {
    line: Encrypted,
    read: Vec<u8>,
}

impl Hand {
    /// Connects, and sends the preface and an empty SETTINGS frame.
    pub(crate) fn open(gateway: &Gateway, papers: &Papers) -> Self {
        let mut hand = Self::silent(gateway, papers);
        hand.write(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(SETTINGS, 0, 0, &[])[..]].concat()).unwrap();
        hand
    }

    /// Connects, and sends nothing.
    pub(crate) fn silent(gateway: &Gateway, papers: &Papers) -> Self {
        let line = offering(papers, &["h2"]).connect(gateway, NAME).unwrap();
        line.sock.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { line, read: Vec::new() }
    }

    /// Writes bytes as they are.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.line.write_all(bytes)?;
        self.line.flush()
    }

    /// The next frame; `None` at the connection's end.
    pub(crate) fn next(&mut self, within: Duration) -> Option<Frame> {
        let until = Instant::now() + within;
        loop {
            if let Some(head) = self.read.get(..9) {
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                if self.read.len() >= 9 + length {
                    let rest = self.read.split_off(9 + length);
                    let whole = std::mem::replace(&mut self.read, rest);
                    let stream = u32::from_be_bytes(whole[5..9].try_into().unwrap());
                    return Some(Frame { kind: whole[3], flags: whole[4], stream, payload: whole[9..].to_vec() });
                }
            }
            let left = until.checked_duration_since(Instant::now()).expect("a frame or an end in time");
            self.line.sock.set_read_timeout(Some(left.max(Duration::from_millis(1)))).unwrap();
            let mut piece = [0; 16 * 1024];
            match self.line.read(&mut piece) {
                Ok(0) => return None,
                Ok(count) => self.read.extend_from_slice(&piece[..count]),
                Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                }
                Err(_) => return None,
            }
        }
    }

    /// Reads to the connection's end; all frames that came.
    pub(crate) fn rest(&mut self, within: Duration) -> Vec<Frame> {
        let until = Instant::now() + within;
        std::iter::from_fn(|| self.next(until.saturating_duration_since(Instant::now()))).collect()
    }

    /// Reads until a frame of this type and stream comes.
    pub(crate) fn until(&mut self, kind: u8, stream: u32) -> Option<Frame> {
        std::iter::from_fn(|| self.next(PATIENCE)).find(|frame| frame.kind == kind && frame.stream == stream)
    }
}

/// What a GOAWAY frame gives as its reason (RFC 9113 section 7).
pub(crate) fn reason(frame: &Frame) -> u32 {
    let place = if frame.kind == GOAWAY { 4..8 } else { 0..4 };
    u32::from_be_bytes(frame.payload[place].try_into().unwrap())
}

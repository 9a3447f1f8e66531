//! Connections in numbers that are opened to be held: one task each on two threads, from several addresses of the
//! loopback. Each remembers when it began, when the gateway ended it and what it was told. It judges nothing.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;

/// How a connection is held.
#[derive(Clone, Debug)]
pub(crate) enum Manner {
    /// Bytes at once, and then this one again and again.
    Drip(Vec<u8>, u8),
    /// Bytes at once, and then nothing.
    Still(Vec<u8>),
    /// Bytes at once, and of the reply a byte now and then.
    SlowRead(Vec<u8>),
}

/// What became of one connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    /// When its first byte was sent, or when it was there if it sends none.
    pub(crate) began: Instant,
    /// When the gateway ended it; `None`: it did not.
    pub(crate) ended: Option<Instant>,
    /// The status it was told, or 0.
    pub(crate) status: u16,
}

/// A crowd.
#[derive(Clone, Debug)]
pub(crate) struct Crowd {
    /// How many.
    pub(crate) size: usize,
    /// From how many addresses.
    pub(crate) sources: u8,
    /// How each is held, in turn.
    pub(crate) manners: Vec<Manner>,
    /// How long each waits to be ended.
    pub(crate) patience: Duration,
    /// Whether it speaks TLS, and how.
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

/// Between two bytes of a drip or of a slow reader.
const DRIP: Duration = Duration::from_secs(2);

/// How many connections are opened in a millisecond, at most.
const PER_MILLISECOND: usize = 4;

impl Crowd {
    /// Opens all and waits until each has ended or its patience has.
    pub(crate) fn hold(self, address: &str) -> Vec<Held> {
        let address: SocketAddr = address.parse().expect("an address");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let manners: Vec<Arc<Manner>> = self.manners.into_iter().map(Arc::new).collect();
            let mut tasks = Vec::with_capacity(self.size);
            for number in 0..self.size {
                let source = Ipv4Addr::new(127, 0, 1, u8::try_from(number % usize::from(self.sources)).unwrap() + 1);
                let manner = manners[number / usize::from(self.sources) % manners.len()].clone();
                tasks.push(tokio::spawn(one(address, source, manner, self.patience, self.tls.clone())));
                if number % PER_MILLISECOND == 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            let mut held = Vec::with_capacity(tasks.len());
            for task in tasks {
                held.push(task.await.unwrap());
            }
            held
        })
    }
}

async fn one(
    address: SocketAddr,
    source: Ipv4Addr,
    manner: Arc<Manner>,
    patience: Duration,
    tls: Option<Arc<ClientConfig>>,
) -> Held {
    let socket = TcpSocket::new_v4().expect("a socket");
    if matches!(*manner, Manner::SlowRead(_)) {
        // Small segments and a small window: the gateway's end of the connection takes no megabyte of reply.
        SockRef::from(&socket).set_tcp_mss(536).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
    }
    socket.bind((source, 0).into()).expect("an address of the loopback");
    let connected = tokio::time::timeout(patience, socket.connect(address)).await;
    let stream = connected.expect("the gateway takes connections").expect("the gateway listens");
    let Some(tls) = tls else { return hold(stream, &manner, patience).await };
    let name = ServerName::try_from("hooks.example.com").unwrap();
    let began = Instant::now();
    match tokio::time::timeout(patience, TlsConnector::from(tls).connect(name, stream)).await {
        Ok(Ok(stream)) => hold(stream, &manner, patience).await,
        Ok(Err(_)) | Err(_) => Held { began, ended: Some(Instant::now()), status: 0 },
    }
}

async fn hold(stream: impl AsyncRead + AsyncWrite, manner: &Manner, patience: Duration) -> Held {
    let mut held = Held { began: Instant::now(), ended: None, status: 0 };
    let watched = watch(stream, manner, &mut held.status);
    if tokio::time::timeout(patience, watched).await.is_ok() {
        held.ended = Some(Instant::now());
    }
    held
}

/// Comes when the gateway has ended the connection.
async fn watch(stream: impl AsyncRead + AsyncWrite, manner: &Manner, status: &mut u16) {
    let (first, drop_of) = match manner {
        Manner::Drip(first, byte) => (first, Some(*byte)),
        Manner::Still(first) | Manner::SlowRead(first) => (first, None),
    };
    let slow = matches!(manner, Manner::SlowRead(_));
    let (mut reader, mut writer) = tokio::io::split(stream);
    let writing = async {
        let mut sent = writer.write_all(first).await.is_ok() && writer.flush().await.is_ok();
        loop {
            tokio::time::sleep(DRIP).await;
            if let Some(byte) = drop_of.filter(|_| sent) {
                sent = writer.write_all(&[byte]).await.is_ok();
            }
        }
    };
    let reading = async {
        let mut piece = [0; 64];
        let mut told = Vec::new();
        loop {
            let room = if slow { 1 } else { piece.len() };
            match reader.read(&mut piece[..room]).await {
                Ok(0) | Err(_) => return told,
                Ok(count) if told.len() < 12 => told.extend_from_slice(&piece[..count]),
                Ok(_) => {}
            }
            if slow {
                tokio::time::sleep(DRIP).await;
            }
        }
    };
    let told = tokio::select! { told = reading => told, () = writing => unreachable!("it never ends") };
    *status = told.get(9..12).and_then(|code| std::str::from_utf8(code).ok()?.parse().ok()).unwrap_or(0);
}

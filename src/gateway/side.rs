//! The sender's side of a connection: a plain stream or one inside TLS. It knows no HTTP.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use pingora::protocols::l4::stream::Stream as PlainSide;
use pingora::protocols::{
    GetSocketDigest, GetTimingDigest, Shutdown, SocketDigest, TimingDigest, UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// What bytes of a sender come through.
#[derive(Debug)]
pub(crate) enum Side {
    /// As they are.
    Plain(Box<PlainSide>),
    /// Encrypted.
    Tls(Box<Encrypted>),
}

/// A TLS stream, and what Pingora wants to know of its socket.
#[derive(Debug)]
pub(crate) struct Encrypted {
    stream: TlsStream<TcpStream>,
    digest: Arc<SocketDigest>,
}

impl Side {
    /// A stream as it came.
    pub(crate) fn plain(stream: TcpStream) -> Self {
        let digest = digest(&stream);
        let mut side = PlainSide::from(stream);
        side.set_socket_digest(digest);
        Self::Plain(Box::new(side))
    }

    /// A stream behind its handshake.
    pub(crate) fn encrypted(stream: TlsStream<TcpStream>) -> Self {
        let digest = Arc::new(digest(stream.get_ref().0));
        Self::Tls(Box::new(Encrypted { stream, digest }))
    }
}

fn digest(stream: &TcpStream) -> SocketDigest {
    use std::os::fd::AsRawFd;
    SocketDigest::from_raw_fd(stream.as_raw_fd())
}

impl AsyncRead for Side {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(side) => Pin::new(side.as_mut()).poll_read(cx, buf),
            Self::Tls(side) => match Pin::new(&mut side.stream).poll_read(cx, buf) {
                // Closed without a farewell: heads and bodies have lengths, so that nothing is taken for whole by it.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
                read @ (Poll::Ready(_) | Poll::Pending) => read,
            },
        }
    }
}

impl AsyncWrite for Side {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(side) => Pin::new(side.as_mut()).poll_write(cx, bytes),
            Self::Tls(side) => Pin::new(&mut side.stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(side) => Pin::new(side.as_mut()).poll_flush(cx),
            Self::Tls(side) => Pin::new(&mut side.stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(side) => Pin::new(side.as_mut()).poll_shutdown(cx),
            Self::Tls(side) => Pin::new(&mut side.stream).poll_shutdown(cx),
        }
    }
}

#[async_trait]
impl Shutdown for Side {
    async fn shutdown(&mut self) {
        match self {
            Self::Plain(side) => Shutdown::shutdown(side.as_mut()).await,
            Self::Tls(side) => {
                // Who is gone needs no farewell.
                let _told = side.stream.shutdown().await;
            }
        }
    }
}

impl UniqueID for Side {
    fn id(&self) -> UniqueIDType {
        match self {
            Self::Plain(side) => side.id(),
            Self::Tls(side) => {
                use std::os::fd::AsRawFd;
                side.stream.get_ref().0.as_raw_fd()
            }
        }
    }
}

impl GetTimingDigest for Side {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        match self {
            Self::Plain(side) => side.get_timing_digest(),
            Self::Tls(_) => Vec::new(),
        }
    }
}

impl GetSocketDigest for Side {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        match self {
            Self::Plain(side) => side.get_socket_digest(),
            Self::Tls(side) => Some(side.digest.clone()),
        }
    }
}

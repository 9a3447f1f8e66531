//! The sender's side of a connection: a plain stream, one inside TLS, or one request of many on such a one. It knows no HTTP.

use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use pingora::protocols::{GetSocketDigest, Shutdown, SocketDigest, UniqueID, UniqueIDType};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::http2::Stream;

/// What bytes of a sender come through. It buffers nothing of its own: thousands of connections wait.
#[derive(Debug)]
pub(crate) enum Side {
    /// As they are.
    Plain(TcpStream),
    /// Encrypted.
    Tls(Box<TlsStream<TcpStream>>),
    /// A request of HTTP/2, as HTTP/1.1 says the same.
    Stream(Box<Stream>),
}

impl Side {
    /// The socket, if it is this one's alone.
    fn socket(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(stream) => Some(stream),
            Self::Tls(stream) => Some(stream.get_ref().0),
            Self::Stream(_) => None,
        }
    }
}

impl AsyncRead for Side {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(side) => Pin::new(side).poll_read(cx, buf),
            Self::Tls(side) => match Pin::new(side.as_mut()).poll_read(cx, buf) {
                // Closed without a farewell: heads and bodies have lengths, so that nothing is taken for whole by it.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
                read @ (Poll::Ready(_) | Poll::Pending) => read,
            },
            Self::Stream(side) => Pin::new(side.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Side {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(side) => Pin::new(side).poll_write(cx, bytes),
            Self::Tls(side) => Pin::new(side.as_mut()).poll_write(cx, bytes),
            Self::Stream(side) => Pin::new(side.as_mut()).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(side) => Pin::new(side).poll_flush(cx),
            Self::Tls(side) => Pin::new(side.as_mut()).poll_flush(cx),
            Self::Stream(side) => Pin::new(side.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(side) => Pin::new(side).poll_shutdown(cx),
            Self::Tls(side) => Pin::new(side.as_mut()).poll_shutdown(cx),
            Self::Stream(side) => Pin::new(side.as_mut()).poll_shutdown(cx),
        }
    }
}

#[async_trait]
impl Shutdown for Side {
    async fn shutdown(&mut self) {
        // Who is gone needs no farewell.
        let _told = AsyncWriteExt::shutdown(self).await;
    }
}

impl UniqueID for Side {
    fn id(&self) -> UniqueIDType {
        self.socket().map_or(-1, AsRawFd::as_raw_fd)
    }
}

impl GetSocketDigest for Side {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.socket().map(|socket| Arc::new(SocketDigest::from_raw_fd(socket.as_raw_fd())))
    }
}

//! The three addresses of a gateway: taken from the system, or from the process that listened there before. It accepts
//! nothing.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpSocket};

use super::{Addresses, StartFault};
use crate::config::Config;

/// Sockets that listen, each with what the configuration says of it.
pub(super) struct Listeners {
    pub(super) listen: Listening,
    pub(super) telemetry: Listening,
    pub(super) admin: Listening,
}

/// One socket that listens.
pub(super) struct Listening {
    place: Place,
    pub(super) socket: TcpListener,
    pub(super) address: SocketAddr,
}

/// Where the configuration wants a socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    key: String,
    /// As configured: port 0 stays 0.
    configured: SocketAddr,
}

/// Second handles of the sockets. As long as one is held, connections to its address are not refused.
pub(super) type Handles = Vec<(Place, OwnedFd)>;

impl Listeners {
    /// Every address of `config`: from `inherited` where the one before listened at the same, else from the system.
    pub(super) fn take(config: &Config, mut inherited: Handles) -> Result<Self, StartFault> {
        let mut take = |key: &str, configured| {
            let place = Place { key: key.to_owned(), configured };
            let found = inherited.iter().position(|(known, _)| *known == place);
            let handle = found.map(|at| inherited.swap_remove(at).1);
            Listening::take(place, handle)
        };
        Ok(Self {
            listen: take("listen", config.listen)?,
            telemetry: take("telemetry", config.telemetry)?,
            admin: take("admin", config.admin)?,
        })
    }

    /// Real ports where the configuration said 0.
    pub(super) const fn addresses(&self) -> Addresses {
        Addresses { listen: self.listen.address, telemetry: self.telemetry.address, admin: self.admin.address }
    }

    /// Handles to pass on.
    pub(super) fn handles(&self) -> Result<Handles, StartFault> {
        let handle = |listening: &Listening| {
            let handle = listening.socket.as_fd().try_clone_to_owned();
            let handle = handle.map_err(|error| StartFault::machine("a second handle of a listener", error))?;
            Ok((listening.place.clone(), handle))
        };
        [&self.listen, &self.telemetry, &self.admin].into_iter().map(handle).collect()
    }
}

/// Connections that may wait to be accepted, as far as the system allows as many.
const QUEUE: u32 = 4096;

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(QUEUE)
}

fn adopt(handle: OwnedFd) -> std::io::Result<TcpListener> {
    let socket = std::net::TcpListener::from(handle);
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket)
}

impl Listening {
    fn take(place: Place, handle: Option<OwnedFd>) -> Result<Self, StartFault> {
        let socket = match handle {
            None => bind(place.configured),
            Some(handle) => adopt(handle),
        };
        match socket.and_then(|socket| socket.local_addr().map(|address| (socket, address))) {
            Ok((socket, address)) => Ok(Self { place, socket, address }),
            Err(error) => Err(StartFault::Bind { key: place.key, address: place.configured, error }),
        }
    }
}

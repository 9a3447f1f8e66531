//! Sockets of one thread: epoll, told of changes only, and connections that do not wait to be made.
//!
//! Not a runtime: the generator and the application of the benchmark are loops over this, so that they take as little
//! as can be of the cores that the measured process shares with them.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::epoll;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

pub(crate) struct Poll {
    fd: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Poll {
    pub(crate) fn new() -> Self {
        let fd = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll instance");
        Self { fd, events: Vec::with_capacity(512) }
    }

    /// From now on its changes are reported under this number.
    pub(crate) fn add(&self, socket: impl std::os::fd::AsFd, number: usize) {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        epoll::add(&self.fd, socket, epoll::EventData::new_u64(number as u64), flags).expect("a watched socket");
    }

    /// The numbers of the sockets that changed, into `changed`. Waits at most so long.
    pub(crate) fn wait(&mut self, most: Duration, changed: &mut Vec<usize>) {
        changed.clear();
        self.events.clear();
        let most = rustix::event::Timespec {
            tv_sec: i64::try_from(most.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(most.subsec_nanos()),
        };
        let found = epoll::wait(&self.fd, rustix::buffer::spare_capacity(&mut self.events), Some(&most));
        assert!(matches!(found, Ok(_) | Err(rustix::io::Errno::INTR)), "epoll: {found:?}");
        changed.extend(self.events.iter().map(|event| { event.data }.u64() as usize));
    }
}

/// A connection on its way: it can be written to once it is made.
pub(crate) fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Is there nothing to be had at the moment?
pub(crate) fn is_wait(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected)
}

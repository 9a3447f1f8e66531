//! Ports of the loopback that no other test takes. A port is claimed by binding its UDP namesake for the life of the
//! claim, and lies below the range from which the kernel serves outgoing connections, so it can be closed and opened
//! again.

use std::net::{TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

const FIRST: u16 = 12_000;
const COUNT: u16 = 20_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port of 127.0.0.1 that is ours until this is dropped.
#[derive(Debug)]
pub(crate) struct Port {
    number: u16,
    _claim: UdpSocket,
}

impl Port {
    /// Claims a port on which nothing listens now.
    pub(crate) fn claim() -> Self {
        let home = u16::try_from(std::process::id().wrapping_mul(37) % u32::from(COUNT)).unwrap_or(0);
        for _ in 0..COUNT {
            let step = NEXT.fetch_add(1, Ordering::Relaxed);
            let number = FIRST + (home + step % COUNT) % COUNT;
            let Ok(claim) = UdpSocket::bind(("127.0.0.1", number)) else { continue };
            if TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Self { number, _claim: claim };
            }
        }
        panic!("no free port between {FIRST} and {}", FIRST + COUNT);
    }

    /// Its number.
    pub(crate) const fn number(&self) -> u16 {
        self.number
    }

    /// `127.0.0.1:number`.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice_at_a_time() {
        let ports: Vec<Port> = (0..50).map(|_| Port::claim()).collect();
        let mut numbers: Vec<u16> = ports.iter().map(Port::number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 50);
    }

    #[test]
    fn a_claimed_port_can_be_opened_closed_and_opened() {
        let port = Port::claim();
        for _ in 0..3 {
            drop(TcpListener::bind(port.address()).unwrap());
        }
    }
}

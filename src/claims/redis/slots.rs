//! Which server has which key: the slots of a cluster (cluster specification, "Key distribution model"). A server that
//! stands alone has all of them. It asks nobody.

use std::collections::BTreeMap;

/// How many slots there are.
const SLOTS: u16 = 16_384;
/// Longest search for a key that lies with a server.
const TRIES: u32 = 100_000;

/// One server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
}

impl Address {
    /// From a redirection's `host:port`. Without a host it is `asked`'s.
    pub(super) fn redirected(text: &str, asked: &Self) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let host = if host.is_empty() || host == "?" { &asked.host } else { host };
        Some(Self { host: host.to_owned(), port: port.parse().ok()? })
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Who has which slots, as last heard. Key: the last slot of a range.
#[derive(Clone, Debug, Default)]
pub(super) struct SlotMap {
    ranges: BTreeMap<u16, (u16, Address)>,
    /// Slots that were heard to be elsewhere since.
    moved: BTreeMap<u16, Address>,
}

impl SlotMap {
    /// All slots with one server.
    pub(super) fn whole(address: Address) -> Self {
        let mut map = Self::default();
        map.put(0, SLOTS - 1, address);
        map
    }

    pub(super) fn put(&mut self, first: u16, last: u16, address: Address) {
        self.ranges.insert(last, (first, address));
    }

    pub(super) fn learn(&mut self, slot: u16, address: Address) {
        self.moved.insert(slot, address);
    }

    pub(super) fn owner(&self, slot: u16) -> Option<&Address> {
        let range = || self.ranges.range(slot..).next().filter(|(_, (first, _))| *first <= slot);
        self.moved.get(&slot).or_else(|| range().map(|(_, (_, address))| address))
    }

    /// Each server that has slots.
    pub(super) fn servers(&self) -> Vec<Address> {
        let mut servers: Vec<Address> = self.ranges.values().map(|(_, address)| address.clone()).collect();
        servers.extend(self.moved.values().cloned());
        servers.sort();
        servers.dedup();
        servers
    }

    /// Whether every slot has its server.
    pub(super) fn is_complete(&self) -> bool {
        let mut next = 0u32;
        self.ranges.iter().all(|(last, (first, _))| {
            let follows = u32::from(*first) <= next;
            next = u32::from(*last) + 1;
            follows
        }) && next == u32::from(SLOTS)
    }

    /// A key that begins with `prefix` and lies with `server`.
    pub(super) fn key_at(&self, server: &Address, prefix: &str) -> Option<String> {
        let keys = (0..TRIES).map(|number| format!("{prefix}:{{{number}}}"));
        keys.into_iter().find(|key| self.owner(slot_of(key)) == Some(server))
    }
}

/// The slot of a key: of what stands in its first braces, if something does.
pub(super) fn slot_of(key: &str) -> u16 {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
    crc16(tag.filter(|tag| !tag.is_empty()).unwrap_or(key).as_bytes()) % SLOTS
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(
            crc ^ (u16::from(*byte) << 8),
            |crc: u16, _| {
                if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
            },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> Address {
        Address { host: "h".into(), port }
    }

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(slot_of("foo"), 12_182);
        assert_eq!(slot_of("{user1000}.following"), slot_of("{user1000}.followers"));
        assert_eq!(slot_of("foo{}{bar}"), crc16(b"foo{}{bar}") % SLOTS, "empty braces count for nothing");
        assert_eq!(slot_of("foo{{bar}}zap"), crc16(b"{bar") % SLOTS);
    }

    #[test]
    fn a_slot_that_moved_is_where_it_was_last_seen() {
        let mut map = SlotMap::default();
        map.put(0, 99, address(1));
        map.put(100, SLOTS - 1, address(2));
        assert!(map.is_complete());
        assert_eq!((map.owner(99), map.owner(100)), (Some(&address(1)), Some(&address(2))));
        map.learn(99, address(3));
        assert_eq!((map.owner(98), map.owner(99)), (Some(&address(1)), Some(&address(3))));
        assert_eq!(map.servers(), [address(1), address(2), address(3)]);
        let key = map.key_at(&address(1), "p:probe").unwrap();
        assert!(slot_of(&key) < 99, "{key}");
    }

    #[test]
    fn a_hole_between_the_slots_is_seen() {
        let mut map = SlotMap::default();
        map.put(0, 99, address(1));
        map.put(101, SLOTS - 1, address(2));
        assert!(!map.is_complete());
        assert_eq!(map.owner(100), None);
        assert_eq!(SlotMap::default().owner(0), None);
    }

    #[test]
    fn a_redirection_without_a_host_means_the_one_that_was_asked() {
        assert_eq!(Address::redirected(":7", &address(1)), Some(address(7)));
        assert_eq!(Address::redirected("?:7", &address(1)), Some(address(7)));
        assert_eq!(Address::redirected("::1:7", &address(1)).unwrap().to_string(), "[::1]:7");
        assert_eq!(Address::redirected("nonsense", &address(1)), None);
    }
}

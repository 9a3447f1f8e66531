//! Eight bytes looked at together, as the bytes of one number: what is asked of each is answered by its highest bit. No table of
//! characters and no search: those ask.

/// A byte in each place of a number.
#[must_use]
pub const fn each(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

/// The highest bit of each byte.
pub const HIGHEST: u64 = each(0x80);

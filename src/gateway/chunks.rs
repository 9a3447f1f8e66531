//! Where a body by chunks ends: reads the framing strictly (RFC 9112 section 7.1) and leaves the bytes as they are.
//!
//! A size is hexadecimal digits and nothing before them, lines end with CRLF, data is followed by CRLF. Extensions and
//! trailers are let through within bounds; nobody behind reads them.

/// Longest size in digits: more than any cap on a body.
const MAX_DIGITS: u8 = 12;

/// Most bytes of extensions and trailers of one body.
const MAX_EXTRA: u16 = 4096;

/// A place inside a body by chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunks {
    at: At,
    extra: u16,
}

/// The framing is not what the specification says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Size { digits: u8, value: u64 },
    Extension { value: u64 },
    SizeEnd { value: u64 },
    Data { left: u64 },
    DataEnd,
    DataEndFeed,
    TrailerStart,
    Trailer,
    TrailerEnd,
    LastFeed,
    Done,
}

impl Chunks {
    /// Before the first size.
    pub(crate) const fn new() -> Self {
        Self { at: At::Size { digits: 0, value: 0 }, extra: 0 }
    }

    /// Whether the body is complete.
    pub(crate) fn is_done(&self) -> bool {
        self.at == At::Done
    }

    /// Reads on; says how many of `bytes` belong to the body.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let mut read = 0;
        while let Some(byte) = bytes.get(read).copied().filter(|_| self.at != At::Done) {
            if let At::Data { left } = self.at {
                let here = bytes.len() - read;
                let taken = usize::try_from(left).unwrap_or(usize::MAX).min(here);
                read += taken;
                let left = left.saturating_sub(u64::try_from(taken).unwrap_or(u64::MAX));
                self.at = if left == 0 { At::DataEnd } else { At::Data { left } };
            } else {
                self.at = self.after(byte)?;
                read += 1;
            }
        }
        Ok(read)
    }

    /// Where one byte of framing leads.
    fn after(&mut self, byte: u8) -> Result<At, Malformed> {
        match (self.at, byte) {
            (At::Size { digits, value }, _) if byte.is_ascii_hexdigit() && digits < MAX_DIGITS => {
                let digit = char::from(byte).to_digit(16).ok_or(Malformed)?;
                Ok(At::Size { digits: digits + 1, value: value * 16 + u64::from(digit) })
            }
            (At::Size { digits: 1.., value } | At::Extension { value }, b'\r') => Ok(At::SizeEnd { value }),
            (At::Size { digits: 1.., value }, b';') => Ok(At::Extension { value }),
            (At::SizeEnd { value: 0 } | At::TrailerEnd, b'\n') => Ok(At::TrailerStart),
            (At::SizeEnd { value }, b'\n') => Ok(At::Data { left: value }),
            (At::DataEnd, b'\r') => Ok(At::DataEndFeed),
            (At::DataEndFeed, b'\n') => Ok(At::Size { digits: 0, value: 0 }),
            (At::TrailerStart, b'\r') => Ok(At::LastFeed),
            (At::LastFeed, b'\n') => Ok(At::Done),
            (At::Trailer, b'\r') => Ok(At::TrailerEnd),
            (At::Extension { value }, _) => self.extra(byte, At::Extension { value }),
            (At::TrailerStart | At::Trailer, _) => self.extra(byte, At::Trailer),
            (
                At::Size { .. }
                | At::SizeEnd { .. }
                | At::Data { .. }
                | At::DataEnd
                | At::DataEndFeed
                | At::TrailerEnd
                | At::LastFeed
                | At::Done,
                _,
            ) => Err(Malformed),
        }
    }

    fn extra(&mut self, byte: u8, at: At) -> Result<At, Malformed> {
        self.extra += 1;
        let printable = byte == b'\t' || (byte >= b' ' && byte != 0x7f);
        if printable && self.extra <= MAX_EXTRA { Ok(at) } else { Err(Malformed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_found_wherever_the_bytes_are_cut() {
        let body = b"4;ext=1\r\n{\"a\"\r\n3\r\n:1}\r\n0\r\nX-T: 1\r\n\r\nPOST";
        for cut in 0..body.len() {
            let mut chunks = Chunks::new();
            let (first, second) = body.split_at(cut);
            let read = chunks.read(first).expect("good framing");
            let read = if chunks.is_done() { read } else { read + chunks.read(second).expect("good framing") };
            assert!(chunks.is_done());
            assert_eq!(read, body.len() - 4, "cut at {cut}");
        }
    }

    #[test]
    fn framing_that_two_readers_could_read_differently_is_malformed() {
        let bad: [&[u8]; 12] = [
            b"-1\r\n",
            b"+1\r\n",
            b"0x1\r\n",
            b" 1\r\n",
            b"1 \r\n",
            b"1\na",
            b"1\r\na\n",
            b"1\r\nab\r\n",
            b"\r\n",
            b"ffffffffffffffff1\r\n",
            b"0\r\n\n",
            b"1;a\x00b\r\n",
        ];
        for bytes in bad {
            assert_eq!(Chunks::new().read(bytes), Err(Malformed), "{}", String::from_utf8_lossy(bytes));
        }
    }
}

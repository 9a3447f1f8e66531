//! Where a body by chunks ends, a sender's or an application's: reads the framing strictly (RFC 9112 section 7.1) and leaves the bytes as they are.
//!
//! A size is hexadecimal digits and nothing around them, lines end with CRLF, data is followed by CRLF. Extensions and
//! trailers are let through within bounds where they follow their grammar; nobody behind reads them. A trailer that would
//! say how the message is framed or where it goes is refused (RFC 9110 section 6.5.1).

/// Longest size in digits: more than any cap on a body.
const MAX_DIGITS: u8 = 12;

/// Most bytes of extensions and trailers of one body.
const MAX_EXTRA: u16 = 4096;

/// What no trailer may say.
const NEVER_TRAILERS: [&[u8]; 9] = [
    b"content-length",
    b"transfer-encoding",
    b"host",
    b"connection",
    b"te",
    b"trailer",
    b"upgrade",
    b"expect",
    b"content-encoding",
];

/// A place inside a body by chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunks {
    at: At,
    extra: u16,
    name: Name,
}

/// The framing is not what the specification says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Size { digits: u8, value: u64 },
    Extension { at: Extension, value: u64 },
    SizeEnd { value: u64 },
    Data { left: u64 },
    DataEnd,
    DataEndFeed,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerEnd,
    LastFeed,
    Done,
}

/// A place inside the extensions of a size: `;name`, `;name=token` or `;name="quoted"`, any number of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extension {
    NameStart,
    Name,
    ValueStart,
    Token,
    Quoted,
    Escaped,
    Closed,
}

/// The start of a trailer's name in small letters; a longer name is none that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Name {
    letters: [u8; 18],
    length: usize,
}

impl Name {
    const EMPTY: Self = Self { letters: [0; 18], length: 0 };

    fn push(&mut self, byte: u8) {
        if let Some(place) = self.letters.get_mut(self.length) {
            *place = byte.to_ascii_lowercase();
        }
        self.length = self.length.saturating_add(1);
    }

    fn may_trail(&self) -> bool {
        self.letters.get(..self.length).is_none_or(|name| !NEVER_TRAILERS.contains(&name))
    }
}

impl Default for Chunks {
    fn default() -> Self {
        Self::new()
    }
}

impl Chunks {
    /// Before the first size.
    #[must_use]
    pub const fn new() -> Self {
        Self { at: At::Size { digits: 0, value: 0 }, extra: 0, name: Name::EMPTY }
    }

    /// Whether the body is complete.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.at == At::Done
    }

    /// Reads on; says how many of `bytes` belong to the body.
    pub fn read(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        self.decode(bytes, |_| {})
    }

    /// As [`Self::read`]; what is data and not framing goes to `data`, piece by piece.
    pub fn decode(&mut self, bytes: &[u8], mut data: impl FnMut(&[u8])) -> Result<usize, Malformed> {
        let mut read = 0;
        while let Some(byte) = bytes.get(read).copied().filter(|_| self.at != At::Done) {
            if let At::Data { left } = self.at {
                let here = bytes.len() - read;
                let taken = usize::try_from(left).unwrap_or(usize::MAX).min(here);
                data(bytes.get(read..read + taken).unwrap_or_default());
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
            (At::Size { digits: 1.., value }, b'\r') => Ok(At::SizeEnd { value }),
            (At::Size { digits: 1.., value }, b';') => Ok(At::Extension { at: Extension::NameStart, value }),
            (At::Extension { at, value }, b'\r') if at.may_end() => Ok(At::SizeEnd { value }),
            (At::Extension { at, value }, _) => {
                self.count()?;
                Ok(At::Extension { at: at.after(byte)?, value })
            }
            (At::SizeEnd { value: 0 } | At::TrailerEnd, b'\n') => {
                self.name = Name::EMPTY;
                Ok(At::TrailerStart)
            }
            (At::SizeEnd { value }, b'\n') => Ok(At::Data { left: value }),
            (At::DataEnd, b'\r') => Ok(At::DataEndFeed),
            (At::DataEndFeed, b'\n') => Ok(At::Size { digits: 0, value: 0 }),
            (At::TrailerStart, b'\r') => Ok(At::LastFeed),
            (At::LastFeed, b'\n') => Ok(At::Done),
            (At::TrailerStart | At::TrailerName, _) => self.after_name(byte),
            (At::TrailerValue, b'\r') => Ok(At::TrailerEnd),
            (At::TrailerValue, _) if is_text(byte) => self.count().map(|()| At::TrailerValue),
            (
                At::Size { .. }
                | At::SizeEnd { .. }
                | At::Data { .. }
                | At::DataEnd
                | At::DataEndFeed
                | At::TrailerValue
                | At::TrailerEnd
                | At::LastFeed
                | At::Done,
                _,
            ) => Err(Malformed),
        }
    }

    fn after_name(&mut self, byte: u8) -> Result<At, Malformed> {
        self.count()?;
        if is_token_byte(byte) {
            self.name.push(byte);
            return Ok(At::TrailerName);
        }
        let named = byte == b':' && self.name.length > 0;
        if named && self.name.may_trail() { Ok(At::TrailerValue) } else { Err(Malformed) }
    }

    /// One more byte that nobody needs.
    fn count(&mut self) -> Result<(), Malformed> {
        self.extra += 1;
        if self.extra <= MAX_EXTRA { Ok(()) } else { Err(Malformed) }
    }
}

impl Extension {
    /// Whether the line may end here.
    const fn may_end(self) -> bool {
        matches!(self, Self::Name | Self::Token | Self::Closed)
    }

    fn after(self, byte: u8) -> Result<Self, Malformed> {
        match (self, byte) {
            (Self::NameStart | Self::Name, _) if is_token_byte(byte) => Ok(Self::Name),
            (Self::ValueStart | Self::Token, _) if is_token_byte(byte) => Ok(Self::Token),
            (Self::Name, b'=') => Ok(Self::ValueStart),
            (Self::Name | Self::Token | Self::Closed, b';') => Ok(Self::NameStart),
            (Self::ValueStart, b'"') => Ok(Self::Quoted),
            (Self::Quoted, b'"') => Ok(Self::Closed),
            (Self::Quoted, b'\\') => Ok(Self::Escaped),
            (Self::Quoted | Self::Escaped, _) if is_text(byte) => Ok(Self::Quoted),
            (
                Self::NameStart
                | Self::Name
                | Self::ValueStart
                | Self::Token
                | Self::Quoted
                | Self::Escaped
                | Self::Closed,
                _,
            ) => Err(Malformed),
        }
    }
}

/// A byte that may stand in a value (RFC 9110 section 5.5).
const fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// One character of a token (RFC 9110 section 5.6.2).
#[must_use]
#[inline]
pub const fn is_token_byte(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*'
        | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_found_wherever_the_bytes_are_cut() {
        let body = b"4;ext=1;b=\"c;\\\"d\";e\r\n{\"a\"\r\n3\r\n:1}\r\n0\r\nX-T: 1\r\nX:\r\n\r\nPOST";
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
    fn what_is_decoded_is_the_data_alone_wherever_the_bytes_are_cut() {
        let body = b"4;ext=1\r\n{\"a\"\r\n3\r\n:1}\r\n0\r\nX-T: 1\r\n\r\n";
        for cut in 0..body.len() {
            let (mut chunks, mut data) = (Chunks::new(), Vec::new());
            for piece in [&body[..cut], &body[cut..]] {
                chunks.decode(piece, |piece| data.extend_from_slice(piece)).expect("good framing");
            }
            assert!(chunks.is_done());
            assert_eq!(data, b"{\"a\":1}", "cut at {cut}");
        }
    }

    #[test]
    fn framing_that_two_readers_could_read_differently_is_malformed() {
        let bad: [&[u8]; 25] = [
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
            b"1;\r\n",
            b"1;a=\r\n",
            b"1;a b\r\n",
            b"1;a=\"b\r\n",
            b"1;a\nb\r\n",
            b"1 ;a\r\n",
            b"0\r\nX\r\n\r\n",
            b"0\r\n: y\r\n\r\n",
            b"0\r\nX : y\r\n\r\n",
            b"0\r\nX: y\r\n z\r\n\r\n",
            b"0\r\nContent-Length: 1\r\n\r\n",
            b"0\r\nTRANSFER-ENCODING: chunked\r\n\r\n",
            b"0\r\nhost:h\r\n\r\n",
        ];
        for bytes in bad {
            assert_eq!(Chunks::new().read(bytes), Err(Malformed), "{}", String::from_utf8_lossy(bytes));
        }
    }
    #[test]
    fn extensions_and_trailers_are_bounded_together() {
        let long = format!("0;a={}\r\nX:{}\r\n\r\n", "b".repeat(2000), "c".repeat(2000));
        assert_eq!(Chunks::new().read(long.as_bytes()), Ok(long.len()));
        let longer = format!("0;a={}\r\nX:{}\r\n\r\n", "b".repeat(2000), "c".repeat(2100));
        assert_eq!(Chunks::new().read(longer.as_bytes()), Err(Malformed));
    }
}

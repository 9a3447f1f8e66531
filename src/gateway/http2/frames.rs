//! The frames of a connection, counted by their heads: what a sender may send that is no request and no part of one.
//! It reads no payload and knows no stream's state; the `h2` library does, and is behind it.
//!
//! A frame is 9 bytes and a payload: length (24 bits), type, flags, stream (31 bits); a client's first frame comes after a
//! preface of 24 bytes (RFC 9113 sections 3.4 and 4.1). The bounds are those of Envoy for the edge
//! (<https://www.envoyproxy.io/docs/envoy/latest/configuration/best_practices/edge>) where it has one. They count over the
//! life of a connection and grow with the requests that came over it, so that time alone costs nobody his connection.

use std::collections::VecDeque;

use tokio::time::Instant;

/// Most frames in a row that hold nothing and end nothing; one is what some libraries send before they know more.
const EMPTY_IN_A_ROW: u64 = 1;

/// Most PRIORITY frames, for each request and once more.
const PRIORITIES_PER_STREAM: u64 = 100;

/// Most `WINDOW_UPDATE` frames for each DATA frame that we sent.
const UPDATES_PER_DATA: u64 = 10;

/// Most frames that have to be answered or are for nobody (SETTINGS, PING, unknown ones), and some more for each
/// request and each DATA frame that we sent.
const CONTROLS: u64 = 1000;
const CONTROLS_PER_FRAME: u64 = 10;

/// Requests that a sender may take back before it is asked whether they are most of them.
const RESETS: u64 = 200;

/// Most heads whose moment is remembered: more cannot be under way between two looks.
const MOMENTS: usize = 1024;

const PREFACE: usize = 24;
const HEAD: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;

/// Longest padding with its length.
const MOST_PADDING: usize = 256;

/// What there was too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Excess {
    /// Requests taken back.
    Resets,
    /// Frames of a request that hold nothing.
    Empty,
    /// SETTINGS, PING and unknown frames.
    Control,
    /// PRIORITY frames.
    Priority,
    /// `WINDOW_UPDATE` frames.
    Updates,
}

impl Excess {
    /// Its word in the metrics.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Resets => "resets",
            Self::Empty => "empty_frames",
            Self::Control => "control_frames",
            Self::Priority => "priority_frames",
            Self::Updates => "window_updates",
        }
    }
}

/// What has come over a connection, and gone out.
#[derive(Debug)]
pub(super) struct Tally {
    inbound: Frames,
    outbound: Frames,
    /// Requests begun, and the newest of them.
    streams: u64,
    newest: u32,
    /// When the first byte of a request's head came, oldest first.
    moments: VecDeque<(u32, Instant)>,
    /// Since when a head is coming, if one is.
    head_since: Option<Instant>,
    /// Whether the frame that is coming is a head's last.
    ends_head: bool,
    empty_in_a_row: u64,
    controls: u64,
    priorities: u64,
    updates: u64,
    resets: u64,
    data_sent: u64,
    excess: Option<Excess>,
}

impl Tally {
    /// Of a connection that begins with a client's preface.
    pub(super) fn new() -> Self {
        Self {
            inbound: Frames::behind(PREFACE),
            outbound: Frames::behind(0),
            streams: 0,
            newest: 0,
            moments: VecDeque::new(),
            head_since: None,
            ends_head: false,
            empty_in_a_row: 0,
            controls: 0,
            priorities: 0,
            updates: 0,
            resets: 0,
            data_sent: 0,
            excess: None,
        }
    }

    /// Counts what came at `now`.
    pub(super) fn came(&mut self, mut bytes: &[u8], now: Instant) {
        while let Some(seen) = self.inbound.next(&mut bytes, now) {
            match seen {
                Seen::Head(head) => self.judge(head),
                Seen::End if self.ends_head => (self.head_since, self.ends_head) = (None, false),
                Seen::End => {}
            }
        }
    }

    /// Counts what was sent.
    pub(super) fn went(&mut self, mut bytes: &[u8], now: Instant) {
        while let Some(seen) = self.outbound.next(&mut bytes, now) {
            if matches!(seen, Seen::Head(Head { kind: DATA, .. })) {
                self.data_sent += 1;
            }
        }
    }

    /// What there was too much of, if there was.
    pub(super) const fn excess(&self) -> Option<Excess> {
        self.excess
    }

    /// How many requests were begun.
    pub(super) const fn streams(&self) -> u64 {
        self.streams
    }

    /// Since when a head is coming that is not complete.
    pub(super) const fn head_since(&self) -> Option<Instant> {
        self.head_since
    }

    /// When the first byte of the head of `stream` came; of those before it nothing is known any more.
    pub(super) fn take_moment(&mut self, stream: u32) -> Option<Instant> {
        while let Some((id, began)) = self.moments.pop_front() {
            match id.cmp(&stream) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => return Some(began),
                std::cmp::Ordering::Greater => {
                    self.moments.push_front((id, began));
                    return None;
                }
            }
        }
        None
    }

    fn judge(&mut self, head: Head) {
        let holds_nothing = match head.kind {
            DATA => head.length == 0 && head.flags & END_STREAM == 0,
            HEADERS | CONTINUATION => head.length == 0 && head.flags & END_HEADERS == 0,
            _ => false,
        };
        match head.kind {
            // What may be padding alone costs the sender nothing of its body's cap.
            DATA if head.flags & PADDED != 0 && head.length <= MOST_PADDING => self.controls += 1,
            DATA => {}
            HEADERS => self.begin(head),
            CONTINUATION => self.ends_head = head.flags & END_HEADERS != 0,
            PRIORITY => self.priorities += 1,
            RST_STREAM => self.resets += 1,
            WINDOW_UPDATE => self.updates += 1,
            _ => self.controls += 1,
        }
        if matches!(head.kind, DATA | HEADERS | CONTINUATION) {
            self.empty_in_a_row = if holds_nothing { self.empty_in_a_row + 1 } else { 0 };
        }
        self.excess = self.excess.or_else(|| self.measure());
    }

    fn begin(&mut self, head: Head) {
        self.head_since = Some(head.began);
        self.ends_head = head.flags & END_HEADERS != 0;
        // One that comes again is that of trailers.
        if head.stream > self.newest {
            self.newest = head.stream;
            self.streams += 1;
            if self.moments.len() == MOMENTS {
                self.moments.pop_front();
            }
            self.moments.push_back((head.stream, head.began));
        }
    }

    fn measure(&self) -> Option<Excess> {
        let bounds = [
            (self.empty_in_a_row, EMPTY_IN_A_ROW, Excess::Empty),
            (self.priorities, PRIORITIES_PER_STREAM * (1 + self.streams), Excess::Priority),
            (self.updates, 5 + 2 * (self.streams + UPDATES_PER_DATA * self.data_sent), Excess::Updates),
            (self.controls, CONTROLS + CONTROLS_PER_FRAME * (self.streams + self.data_sent), Excess::Control),
            (self.resets, RESETS.max(self.streams / 2), Excess::Resets),
        ];
        bounds.into_iter().find(|(count, most, _)| count > most).map(|(_, _, excess)| excess)
    }
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
    /// When its first byte came.
    began: Instant,
}

/// A place in one direction of a connection.
#[derive(Debug)]
struct Frames {
    /// Bytes that are passed over before the next head, or before the end of a frame.
    skip: usize,
    in_frame: bool,
    head: [u8; HEAD],
    have: usize,
    began: Option<Instant>,
}

/// What was passed on the way.
enum Seen {
    Head(Head),
    /// The last byte of a payload.
    End,
}

impl Frames {
    const fn behind(skip: usize) -> Self {
        Self { skip, in_frame: false, head: [0; HEAD], have: 0, began: None }
    }

    /// Reads on to the next thing to be seen; `None` once all is read.
    fn next(&mut self, bytes: &mut &[u8], now: Instant) -> Option<Seen> {
        loop {
            let passed = self.skip.min(bytes.len());
            self.skip -= passed;
            *bytes = bytes.get(passed..).unwrap_or_default();
            if self.skip > 0 {
                return None;
            }
            if std::mem::take(&mut self.in_frame) {
                return Some(Seen::End);
            }
            let (byte, rest) = bytes.split_first()?;
            *bytes = rest;
            let began = *self.began.get_or_insert(now);
            if let Some(place) = self.head.get_mut(self.have) {
                *place = *byte;
            }
            self.have += 1;
            if self.have == HEAD {
                return Some(Seen::Head(self.turn_over(began)));
            }
        }
    }

    fn turn_over(&mut self, began: Instant) -> Head {
        let [a, b, c, kind, flags, stream @ ..] = self.head;
        let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
        (self.skip, self.in_frame, self.have, self.began) = (length, true, 0, None);
        Head { length, kind, flags, stream: u32::from_be_bytes(stream) & 0x7fff_ffff, began }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(length: usize, kind: u8, flags: u8, stream: u32) -> Vec<u8> {
        let mut bytes = u32::try_from(length).expect("24 bits").to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.resize(HEAD + length, 0xa5);
        bytes
    }

    fn tally(frames: impl IntoIterator<Item = Vec<u8>>) -> Tally {
        let mut tally = Tally::new();
        let now = Instant::now();
        tally.came(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", now);
        for frame in frames {
            tally.came(&frame, now);
        }
        tally
    }

    fn request(stream: u32) -> Vec<u8> {
        frame(20, HEADERS, END_HEADERS | END_STREAM, stream)
    }

    fn times(count: u64, frame: &[u8]) -> Vec<Vec<u8>> {
        (0..count).map(|_| frame.to_vec()).collect()
    }

    #[test]
    fn as_many_frames_of_a_kind_as_are_allowed_pass_and_one_more_does_not() {
        for (kind, flags, length, most, excess) in [
            (DATA, 0, 0, 1, Excess::Empty),
            (CONTINUATION, 0, 0, 1, Excess::Empty),
            (PRIORITY, 0, 5, 200, Excess::Priority),
            (WINDOW_UPDATE, 0, 4, 7, Excess::Updates),
            (4, 0, 6, 1010, Excess::Control),
            (6, 0, 8, 1010, Excess::Control),
            (6, 1, 8, 1010, Excess::Control),
            (0xfa, 0, 0, 1010, Excess::Control),
            (DATA, PADDED, 1, 1010, Excess::Control),
            (RST_STREAM, 0, 4, 200, Excess::Resets),
        ] {
            let frame = frame(length, kind, flags, 1);
            let with = |count| tally([vec![request(1)], times(count, &frame)].concat()).excess();
            assert_eq!(with(most), None, "{kind}");
            assert_eq!(with(most + 1), Some(excess), "{kind}");
        }
    }

    #[test]
    fn what_a_busy_connection_needs_grows_with_it() {
        let requests: Vec<_> = (0..1000).map(|n| request(2 * n + 1)).collect();
        assert_eq!(tally([requests.clone(), times(500, &frame(4, RST_STREAM, 0, 1))].concat()).excess(), None);
        assert_eq!(tally([requests, times(501, &frame(4, RST_STREAM, 0, 1))].concat()).excess(), Some(Excess::Resets));
        let mut tally = tally([]);
        for _ in 0..100 {
            tally.went(&frame(9, DATA, 0, 1), Instant::now());
            for frame in &times(20, &frame(4, WINDOW_UPDATE, 0, 1)) {
                tally.came(frame, Instant::now());
            }
        }
        assert_eq!(tally.excess(), None);
    }

    #[test]
    fn an_empty_frame_that_ends_something_or_follows_a_full_one_is_none() {
        let mix = [frame(0, DATA, 0, 1), frame(3, DATA, 0, 1), frame(0, DATA, 0, 1), frame(0, DATA, END_STREAM, 1)];
        assert_eq!(tally(mix).excess(), None);
    }

    #[test]
    fn the_moment_of_a_head_is_that_of_its_first_byte_however_it_is_cut() {
        let whole = [frame(7, HEADERS, 0, 5), frame(3, CONTINUATION, 0, 5), frame(1, CONTINUATION, END_HEADERS, 5)];
        let bytes = whole.concat();
        for cut in 1..bytes.len() {
            let mut tally = tally([request(3)]);
            assert_eq!(tally.head_since(), None);
            let (first, later) = (Instant::now(), Instant::now() + std::time::Duration::from_secs(1));
            tally.came(&bytes[..cut], first);
            assert_eq!(tally.head_since().is_some(), cut >= HEAD, "{cut}");
            tally.came(&bytes[cut..], later);
            assert_eq!(tally.head_since(), None, "{cut}");
            assert_eq!(tally.take_moment(5), Some(first), "{cut}");
            assert_eq!(tally.take_moment(5), None);
        }
    }

    #[test]
    fn moments_of_requests_that_never_came_out_are_forgotten() {
        let mut tally = tally((0..2000).map(|n| request(2 * n + 1)));
        assert!(tally.moments.len() <= MOMENTS);
        assert!(tally.take_moment(3999).is_some());
        assert_eq!(tally.moments.len(), 0);
    }
}

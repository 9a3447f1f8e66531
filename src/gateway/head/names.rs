//! Names of header lines that senders use, known without being read letter by letter: those by which a head is judged, those of
//! common clients and proxies, and those in which providers sign. A name that is not here is as good, and costs a little more.

use http::HeaderName;

/// A name that is known, by its place among [`NAMES`]; or [`Known::NOT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known(u8);

impl Known {
    pub(super) const HOST: Self = Self(0);
    pub(super) const CONTENT_LENGTH: Self = Self(1);
    pub(super) const TRANSFER_ENCODING: Self = Self(2);
    pub(super) const CONNECTION: Self = Self(3);
    pub(super) const EXPECT: Self = Self(4);
    pub(super) const UPGRADE: Self = Self(5);
    /// None of them.
    pub(super) const NOT: Self = Self(u8::MAX);

    /// The name that is written `name` in whatever letters.
    #[inline]
    pub(super) fn of(name: &[u8]) -> Self {
        let Some(ends) = Ends::of(name) else { return Self::NOT };
        let mut slot = ends.slot(name.len());
        loop {
            let known = SLOTS.get(slot).copied().unwrap_or(Self::NOT);
            let Some(ours) = ENDS.get(usize::from(known.0)) else { return Self::NOT };
            if ours.length == name.len() && ends.are(ours) && (name.len() <= 16 || known.is_between(name)) {
                return known;
            }
            slot = (slot + 1) % SLOTS.len();
        }
    }

    /// How long this name is, if a line begins with it.
    #[inline]
    pub(super) fn named_in(self, line: &[u8]) -> Option<usize> {
        let ours = ENDS.get(usize::from(self.0))?;
        let (name, rest) = line.split_at_checked(ours.length)?;
        let is_it = rest.starts_with(b":") && Ends::of(name)?.are(ours) && (name.len() <= 16 || self.is_between(name));
        is_it.then_some(name.len())
    }

    /// Whether what stands between the ends of a name as long is what stands there in this one.
    fn is_between(self, name: &[u8]) -> bool {
        let known = NAMES.get(usize::from(self.0)).copied().unwrap_or_default().as_bytes();
        let mut eights = name.as_chunks().0.iter().zip(known.as_chunks().0).skip(1);
        eights.all(|(eight, known)| are_eight(u64::from_le_bytes(*eight), u64::from_le_bytes(*known)))
    }

    /// The name; `None`: it is none of them.
    pub(super) fn name(self) -> Option<HeaderName> {
        PARSED.get(usize::from(self.0)).cloned()
    }
}

/// In small letters. The first ones are those that decide whether a head is let in.
const NAMES: [&str; 104] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "expect",
    "upgrade",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "authorization",
    "baggage",
    "cache-control",
    "cdn-loop",
    "cf-connecting-ip",
    "cf-ipcountry",
    "cf-ray",
    "cf-visitor",
    "content-digest",
    "content-encoding",
    "content-type",
    "cookie",
    "date",
    "digest",
    "forwarded",
    "from",
    "idempotency-key",
    "if-modified-since",
    "if-none-match",
    "keep-alive",
    "origin",
    "pragma",
    "referer",
    "sentry-trace",
    "signature",
    "signature-input",
    "trailer",
    "traceparent",
    "tracestate",
    "true-client-ip",
    "user-agent",
    "x-amzn-trace-id",
    "x-b3-sampled",
    "x-b3-spanid",
    "x-b3-traceid",
    "x-cloud-trace-context",
    "x-correlation-id",
    "x-datadog-parent-id",
    "x-datadog-sampling-priority",
    "x-datadog-trace-id",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-forwarded-scheme",
    "x-forwarded-server",
    "x-newrelic-id",
    "x-real-ip",
    "x-request-id",
    "x-scheme",
    "calendly-webhook-signature",
    "elevenlabs-signature",
    "linear-delivery",
    "linear-event",
    "linear-signature",
    "mux-signature",
    "paddle-signature",
    "stripe-signature",
    "svix-id",
    "svix-signature",
    "svix-timestamp",
    "typeform-signature",
    "webhook-id",
    "webhook-signature",
    "webhook-timestamp",
    "workos-signature",
    "x-event-key",
    "x-github-delivery",
    "x-github-event",
    "x-github-hook-id",
    "x-github-hook-installation-target-id",
    "x-github-hook-installation-target-type",
    "x-gitlab-event",
    "x-gitlab-token",
    "x-hook-signature",
    "x-hub-signature",
    "x-hub-signature-256",
    "x-line-signature",
    "x-pagerduty-signature",
    "x-razorpay-event-id",
    "x-razorpay-signature",
    "x-shopify-event-id",
    "x-shopify-hmac-sha256",
    "x-shopify-shop-domain",
    "x-shopify-topic",
    "x-shopify-webhook-id",
    "x-signature",
    "x-slack-request-timestamp",
    "x-slack-signature",
    "x-twilio-signature",
    "x-veedeo-signature",
    "x-veedeo-timestamp",
    "x-videopilot-signature",
    "x-zm-signature",
];

/// The same, as they stand in a request.
#[expect(clippy::indexing_slicing, reason = "an index that is too large does not compile")]
static PARSED: [HeaderName; NAMES.len()] = {
    let mut all = [const { HeaderName::from_static("host") }; NAMES.len()];
    let mut known = 0;
    while known < NAMES.len() {
        // What was there is made of a text that lives as long as the process: it has nothing to give back.
        std::mem::forget(std::mem::replace(&mut all[known], HeaderName::from_static(NAMES[known])));
        known += 1;
    }
    all
};

/// The names' ends, in their order.
#[expect(clippy::indexing_slicing, reason = "an index that is too large does not compile")]
static ENDS: [Ends; NAMES.len()] = {
    let mut all = [Ends { first: 0, last: 0, length: 0 }; NAMES.len()];
    let mut known = 0;
    while known < NAMES.len() {
        if let Some(ends) = Ends::of(NAMES[known].as_bytes()) {
            all[known] = ends;
        }
        known += 1;
    }
    all
};

/// The names by what [`Ends::slot`] makes of them, or a little behind it.
#[expect(clippy::indexing_slicing, reason = "an index that is too large does not compile")]
static SLOTS: [Known; 256] = {
    let mut slots = [Known::NOT; 256];
    let mut known = 0_u8;
    while (known as usize) < NAMES.len() {
        let mut slot = ENDS[known as usize].slot(NAMES[known as usize].len());
        while slots[slot].0 != Known::NOT.0 {
            slot = (slot + 1) % slots.len();
        }
        slots[slot] = Known(known);
        known += 1;
    }
    slots
};

/// The first and the last eight bytes of a name, or four where it is shorter than eight.
#[derive(Clone, Copy, Debug)]
struct Ends {
    first: u64,
    last: u64,
    /// Of the name.
    length: usize,
}

impl Ends {
    /// `None`: it is shorter than four.
    #[inline]
    const fn of(name: &[u8]) -> Option<Self> {
        let length = name.len();
        if let (Some(first), Some(last)) = (name.first_chunk(), name.last_chunk()) {
            return Some(Self { first: u64::from_le_bytes(*first), last: u64::from_le_bytes(*last), length });
        }
        match (name.first_chunk(), name.last_chunk()) {
            (Some(first), Some(last)) => {
                Some(Self { first: u32::from_le_bytes(*first) as u64, last: u32::from_le_bytes(*last) as u64, length })
            }
            _ => None,
        }
    }

    /// Where among [`SLOTS`] a name of these and of this length is looked for, whatever the cases of its letters.
    #[inline]
    const fn slot(self, length: usize) -> usize {
        let both = (self.first | CASES) ^ (self.last | CASES).rotate_left(24);
        // The upper bits are those that every letter has a part in.
        (both.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize ^ (length & 0xff)
    }

    /// Whether they are those of a name that is known.
    #[inline]
    const fn are(self, known: &Self) -> bool {
        are_eight(self.first, known.first) && are_eight(self.last, known.last)
    }
}

/// In which bit the cases of letters differ.
const CASES: u64 = u64::from_le_bytes([b' '; 8]);

/// Whether eight bytes are these, of which the small letters may be large.
#[inline]
const fn are_eight(eight: u64, known: u64) -> bool {
    // Letters have the bit 0x40, and what else is in a name that is known has not.
    eight | ((known >> 1) & CASES) == known
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_name_is_known_in_whatever_letters_and_is_the_one_that_any_parser_makes_of_it() {
        assert!(PARSED.len() > 100);
        for (place, name) in NAMES.iter().enumerate() {
            for text in [(*name).to_owned(), name.to_ascii_uppercase(), name[..1].to_ascii_uppercase() + &name[1..]] {
                let known = Known::of(text.as_bytes());
                assert_eq!(usize::from(known.0), place, "{text}");
                assert_eq!(known.name(), HeaderName::from_bytes(text.as_bytes()).ok(), "{text}");
                assert_eq!(known.named_in(format!("{text}: a").as_bytes()), Some(text.len()), "{text}");
                assert_eq!(known.named_in(format!("{text} : a").as_bytes()), None, "{text}");
                assert_eq!(known.named_in(text.as_bytes()), None, "{text}");
            }
        }
        let judged = [
            (Known::HOST, "host"),
            (Known::CONTENT_LENGTH, "content-length"),
            (Known::TRANSFER_ENCODING, "transfer-encoding"),
            (Known::CONNECTION, "connection"),
            (Known::EXPECT, "expect"),
            (Known::UPGRADE, "upgrade"),
        ];
        for (known, name) in judged {
            assert_eq!(known.name(), Some(HeaderName::from_static(name)));
        }
    }

    #[test]
    fn a_known_name_with_another_byte_anywhere_is_another_one() {
        for name in NAMES {
            for at in 0..name.len() {
                for byte in (0..=u8::MAX).filter(|byte| !byte.eq_ignore_ascii_case(&name.as_bytes()[at])) {
                    let mut other = name.as_bytes().to_vec();
                    other[at] = byte;
                    let guess = Known::of(name.as_bytes());
                    assert_eq!(guess.named_in(&[&other, b":".as_slice()].concat()), None, "{}", other.escape_ascii());
                    let known = Known::of(&other).name();
                    let parsed = HeaderName::from_bytes(&other).ok();
                    assert!(known.is_none() || known == parsed, "{}", other.escape_ascii());
                }
            }
            for other in [&name[1..], &name[..name.len() - 1], &format!("{name}s")] {
                let known = Known::of(other.as_bytes()).name();
                assert!(known.is_none_or(|known| known == *other), "{other}");
            }
        }
        assert!(["", "te", "via", "x-unheard-of"].iter().all(|name| Known::of(name.as_bytes()) == Known::NOT));
    }
}

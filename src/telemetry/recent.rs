//! The requests answered last, for the operator's list of events: a ring in memory, gone with the process. It holds no
//! body, no header and no secret, and it is no record: what must survive is in the spool. Each also gets its line in the log.

use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use super::request_lines::RequestLines;
use crate::domain::event::EventId;
use crate::domain::time::Timestamp;

/// How many are kept; the oldest goes when one more comes. About half a MiB.
pub const MOST_ENTRIES: usize = 1000;

/// Longest text of an event type or request id kept, in bytes: a sender's text must not fill the memory.
const LONGEST_TEXT: usize = 200;

/// One answered request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// When its first byte came.
    pub received_at: Timestamp,
    /// The route's name, or [`crate::telemetry::NO_ROUTE`].
    pub route: Arc<str>,
    /// The event it carried, once it was believed.
    pub event: Option<EventId>,
    /// The event's type, once it was believed; cut at 200 bytes.
    pub event_type: Option<String>,
    /// What it ended as.
    pub disposition: &'static str,
    /// Why, where there is a reason.
    pub reason: Option<&'static str>,
    /// The status that the sender got.
    pub status: u16,
    /// When the reply was ready.
    pub answered_at: Timestamp,
    /// First byte to reply, in milliseconds.
    pub ack_ms: u64,
    /// The sender's address.
    pub remote: IpAddr,
    /// `X-Request-Id`; cut at 200 bytes.
    pub request_id: String,
    /// Length of the body, in bytes.
    pub body_bytes: u64,
    /// Whether the sender took the whole reply.
    pub taken: bool,
}

/// What is asked for; an absent field asks for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecentFilter {
    /// Of this route.
    pub route: Option<String>,
    /// With this disposition.
    pub disposition: Option<String>,
    /// With this reason.
    pub reason: Option<String>,
    /// Received at this moment or later.
    pub since: Option<Timestamp>,
    /// Received before this moment.
    pub until: Option<Timestamp>,
}

impl RecentFilter {
    /// Whether a request is meant.
    #[must_use]
    pub fn wants(&self, answered: &Answered) -> bool {
        let is = |wanted: &Option<String>, found: Option<&str>| wanted.as_deref().is_none_or(|w| found == Some(w));
        is(&self.route, Some(&answered.route))
            && is(&self.disposition, Some(answered.disposition))
            && is(&self.reason, answered.reason)
            && self.since.is_none_or(|since| answered.received_at >= since)
            && self.until.is_none_or(|until| answered.received_at < until)
    }
}

/// The ring. Clones share it: the gateway pushes, the admin listener reads. The lock is held for one push or one
/// listing, never across an await.
#[derive(Clone, Default)]
pub struct Recent(Arc<Shared>);

#[derive(Default)]
struct Shared {
    ring: Mutex<Ring>,
    lines: Option<RequestLines>,
}

#[derive(Default)]
struct Ring {
    entries: VecDeque<Arc<Answered>>,
    /// How many were ever pushed: the number of the next one.
    pushed: u64,
}

impl Recent {
    /// An empty ring; `lines` writes a line of each request, if there is a log.
    #[must_use]
    pub fn new(lines: Option<RequestLines>) -> Self {
        Self(Arc::new(Shared { ring: Mutex::default(), lines }))
    }

    /// Remembers one answered request; the oldest is forgotten at the cap.
    pub fn push(&self, mut answered: Answered) {
        cut(&mut answered.request_id);
        if let Some(event_type) = &mut answered.event_type {
            cut(event_type);
        }
        let mut ring = self.0.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = if ring.entries.len() >= MOST_ENTRIES { ring.entries.pop_front() } else { None };
        let answered = match oldest {
            Some(oldest) => in_place_of(oldest, answered),
            None => Arc::new(answered),
        };
        ring.entries.push_back(answered.clone());
        ring.pushed = ring.pushed.saturating_add(1);
        drop(ring);
        if let Some(lines) = &self.0.lines {
            lines.put(answered);
        }
    }

    /// The newest `limit` that `filter` wants, newest first, each with its number. `before`: only those with a smaller
    /// number, to go on where a listing ended.
    #[must_use]
    pub fn list(&self, filter: &RecentFilter, before: Option<u64>, limit: usize) -> Vec<(u64, Arc<Answered>)> {
        let ring = self.0.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let numbered =
            ring.entries.iter().rev().zip(1_u64..).map(|(entry, age)| (ring.pushed.saturating_sub(age), entry));
        numbered
            .filter(|(number, entry)| before.is_none_or(|before| *number < before) && filter.wants(entry))
            .take(limit)
            .map(|(number, entry)| (number, Arc::clone(entry)))
            .collect()
    }

    /// The requests that carried this event, oldest first: an event and its repetitions.
    #[must_use]
    pub fn of_event(&self, id: EventId) -> Vec<Arc<Answered>> {
        let ring = self.0.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.entries.iter().filter(|entry| entry.event == Some(id)).cloned().collect()
    }
}

impl fmt::Debug for Recent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recent(..)")
    }
}

/// Puts `answered` where `oldest` is, if nobody else has that any more. So the ring's memory stays the ring's: given back and
/// taken anew by whichever thread comes, it would be in the other threads' way.
fn in_place_of(mut oldest: Arc<Answered>, answered: Answered) -> Arc<Answered> {
    let Some(place) = Arc::get_mut(&mut oldest) else { return Arc::new(answered) };
    let (mut request_id, mut event_type) = (std::mem::take(&mut place.request_id), place.event_type.take());
    request_id.clone_from(&answered.request_id);
    event_type.clone_from(&answered.event_type);
    *place = Answered { event_type, request_id, ..answered };
    oldest
}

fn cut(text: &mut String) {
    if text.len() > LONGEST_TEXT {
        let end = (0..=LONGEST_TEXT).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or_default());
        text.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(second: i64, route: &str, disposition: &'static str) -> Answered {
        Answered {
            received_at: Timestamp::from_seconds(second),
            route: route.into(),
            event: None,
            event_type: None,
            disposition,
            reason: (disposition == "refused").then_some("signature_mismatch"),
            status: 200,
            answered_at: Timestamp::from_seconds(second),
            ack_ms: 3,
            remote: IpAddr::from([127, 0, 0, 1]),
            request_id: "r".into(),
            body_bytes: 0,
            taken: true,
        }
    }

    fn seconds(found: &[(u64, Arc<Answered>)]) -> Vec<i64> {
        found.iter().map(|(_, entry)| entry.received_at.millis() / 1000).collect()
    }

    #[test]
    fn the_newest_come_first_and_a_listing_goes_on_where_it_ended() {
        let recent = Recent::default();
        (1..=5).for_each(|second| recent.push(answered(second, "veedeo", "delivered")));
        let first = recent.list(&RecentFilter::default(), None, 2);
        assert_eq!(seconds(&first), [5, 4]);
        recent.push(answered(6, "veedeo", "delivered"));
        let next = recent.list(&RecentFilter::default(), first.last().map(|(number, _)| *number), 2);
        assert_eq!(seconds(&next), [3, 2]);
    }

    #[test]
    fn at_the_cap_the_oldest_is_forgotten() {
        let recent = Recent::default();
        (0..=i64::try_from(MOST_ENTRIES).unwrap()).for_each(|second| recent.push(answered(second, "r", "spooled")));
        let all = recent.list(&RecentFilter::default(), None, usize::MAX);
        assert_eq!(all.len(), MOST_ENTRIES);
        assert_eq!(seconds(&all).last(), Some(&1));
    }

    #[test]
    fn what_takes_the_place_of_the_oldest_is_all_its_own_and_who_still_has_the_oldest_keeps_it() {
        let recent = Recent::default();
        let named = |second: i64, event_type: Option<&str>| {
            let request_id = format!("request {second}");
            Answered { request_id, event_type: event_type.map(str::to_owned), ..answered(second, "r", "delivered") }
        };
        for second in 0..i64::try_from(MOST_ENTRIES).unwrap() {
            recent.push(named(second, (second % 2 == 0).then_some("a long type of an event")));
        }
        let held = recent.list(&RecentFilter::default(), None, usize::MAX).pop().unwrap();
        for (second, event_type) in [(-1, None), (-2, Some("short")), (-3, None), (-4, Some("x"))] {
            recent.push(named(second, event_type));
            let newest = recent.list(&RecentFilter::default(), None, 1).pop().unwrap();
            assert_eq!(*newest.1, named(second, event_type));
        }
        assert_eq!(*held.1, named(0, Some("a long type of an event")));
    }

    #[test]
    fn a_filter_keeps_what_it_names() {
        let recent = Recent::default();
        recent.push(answered(1, "veedeo", "delivered"));
        recent.push(answered(2, "veedeo", "refused"));
        recent.push(answered(3, "github", "refused"));
        let count = |filter| recent.list(&filter, None, 10).len();
        assert_eq!(count(RecentFilter { route: Some("veedeo".into()), ..RecentFilter::default() }), 2);
        assert_eq!(count(RecentFilter { disposition: Some("refused".into()), ..RecentFilter::default() }), 2);
        assert_eq!(count(RecentFilter { reason: Some("signature_mismatch".into()), ..RecentFilter::default() }), 2);
        assert_eq!(count(RecentFilter { reason: Some("spool_full".into()), ..RecentFilter::default() }), 0);
        let (since, until) = (Some(Timestamp::from_seconds(2)), Some(Timestamp::from_seconds(3)));
        assert_eq!(count(RecentFilter { since, until, ..RecentFilter::default() }), 1);
    }

    #[test]
    fn an_event_is_found_with_its_repetitions() {
        let recent = Recent::default();
        let id = EventId::new(Timestamp::from_seconds(1), 7);
        recent.push(Answered { event: Some(id), ..answered(1, "veedeo", "delivered") });
        recent.push(answered(2, "veedeo", "delivered"));
        recent.push(Answered { event: Some(id), ..answered(3, "veedeo", "duplicate") });
        let words: Vec<&str> = recent.of_event(id).iter().map(|entry| entry.disposition).collect();
        assert_eq!(words, ["delivered", "duplicate"]);
    }

    #[test]
    fn a_senders_long_text_is_cut_at_a_character() {
        let recent = Recent::default();
        let long = "ä".repeat(LONGEST_TEXT);
        recent.push(Answered { event_type: Some(format!("x{long}")), ..answered(1, "veedeo", "delivered") });
        let kept = recent.list(&RecentFilter::default(), None, 1);
        assert_eq!(kept[0].1.event_type.as_ref().unwrap().len(), LONGEST_TEXT - 1);
    }
}

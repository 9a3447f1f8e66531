//! The words of the spool: what goes in, what comes out, what may go wrong. No behaviour.

use std::sync::Arc;

use super::record;
use crate::disk::{EventRow, JobFault, Mark};
use crate::domain::event::{Event, EventId};
use crate::domain::key::EventKey;
use crate::domain::time::Timestamp;

/// An event to be written.
#[derive(Clone, Debug)]
pub struct NewEntry {
    /// The event.
    pub event: Arc<Event>,
    /// How it comes in.
    pub state: Entry,
    /// Attempts made so far, a running one included.
    pub attempts: u32,
    /// Whether an earlier sending may have been processed.
    pub possible_duplicate: Possible,
    /// Whether an operator asked for it.
    pub replay: Replay,
    /// What became of the last attempt; empty if there was none.
    pub last_error: String,
}

/// How an event comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// To be tried, not before this moment.
    Pending {
        /// The moment.
        not_before: Timestamp,
    },
    /// Its attempt is running.
    InFlight,
    /// As a dead letter.
    Dead {
        /// Why.
        reason: DeadReason,
    },
}

/// An event as it was read.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The event, byte for byte as it was written.
    pub event: Event,
    /// Attempts made.
    pub attempts: u32,
    /// Whether an earlier sending may have been processed.
    pub possible_duplicate: Possible,
    /// Whether an operator asked for it.
    pub replay: Replay,
    /// Not to be tried before this moment.
    pub not_before: Timestamp,
    /// What became of the last attempt.
    pub last_error: String,
}

/// How an attempt ended.
#[derive(Clone, Debug)]
pub enum Settlement {
    /// The application has it: the mark is written and the event deleted, in one transaction.
    Accepted {
        /// The dedup mark.
        mark: Mark,
    },
    /// To be tried again.
    Retry {
        /// Not before this moment.
        not_before: Timestamp,
        /// Whether the attempt may have been processed. Once it may, that stays.
        possible_duplicate: Possible,
        /// What was seen.
        error: String,
    },
    /// Not to be tried again.
    Dead {
        /// Why.
        reason: DeadReason,
        /// Whether an attempt may have been processed: a replay then says so.
        possible_duplicate: Possible,
        /// What was seen.
        error: String,
    },
    /// To be tried again; the attempt was a probe of the application and does not count against the event.
    Probed {
        /// Not before this moment.
        not_before: Timestamp,
        /// Whether the attempt may have been processed. Once it may, that stays.
        possible_duplicate: Possible,
        /// What was seen.
        error: String,
    },
    /// The attempt that had begun did not take place and does not count.
    Postpone {
        /// Not before this moment.
        not_before: Timestamp,
    },
}

/// Whether an earlier sending may have been processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Possible {
    /// Certainly not.
    No,
    /// It may: the next sending is marked.
    Duplicate,
}

impl Possible {
    /// From a flag as it is computed or stored.
    #[must_use]
    pub const fn from_flag(flag: bool) -> Self {
        if flag { Self::Duplicate } else { Self::No }
    }
}

/// Whether an operator asked for a sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// Nobody did.
    No,
    /// An operator did: sendings are marked.
    Yes,
}

/// Why an event is a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeadReason {
    /// The application answered with a 4xx that repeats will not change.
    AppRejected,
    /// All attempts were made.
    AttemptsExhausted,
    /// It became older than `spool.max_age`.
    TooOld,
}

impl DeadReason {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::AppRejected, Self::AttemptsExhausted, Self::TooOld];

    /// The word used in metrics, lists and on disk.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AppRejected => "app_rejected",
            Self::AttemptsExhausted => "attempts_exhausted",
            Self::TooOld => "too_old",
        }
    }

    /// Reads what [`Self::as_str`] wrote.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }
}

/// Where an event stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Undelivered. As a filter it also means those with a running attempt.
    Pending,
    /// Undelivered, with a running attempt.
    InFlight,
    /// A dead letter.
    Dead,
    /// Not what was written.
    Damaged,
}

impl State {
    /// The word used in lists.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::InFlight => "in_flight",
            Self::Dead => "dead",
            Self::Damaged => "damaged",
        }
    }

    /// The numbers on disk (see the schema) that a filter by this state means.
    pub(super) const fn codes(self) -> &'static [i64] {
        match self {
            Self::Pending => &[0, 1, 2],
            Self::InFlight => &[1],
            Self::Dead => &[3],
            Self::Damaged => &[4],
        }
    }

    pub(super) const fn from_code(code: i64) -> Self {
        match code {
            0 | 2 => Self::Pending,
            1 => Self::InFlight,
            3 => Self::Dead,
            _ => Self::Damaged,
        }
    }
}

/// Which events are meant; what is not given does not restrict.
#[derive(Clone, Debug)]
pub struct Filter {
    /// In this state.
    pub state: Option<State>,
    /// Of this route.
    pub route: Option<String>,
    /// Dead for this reason.
    pub reason: Option<DeadReason>,
    /// Received at this moment or later.
    pub since: Option<Timestamp>,
    /// Received before this moment.
    pub until: Option<Timestamp>,
    /// Dead, or set aside, at this moment already.
    pub dead_by: Option<Timestamp>,
    /// With one of these names; empty: any.
    pub ids: Vec<EventId>,
    /// Behind this one: the last of the page before.
    pub after: Option<EventId>,
    /// At most so many.
    pub limit: usize,
}

impl Default for Filter {
    /// Everything, a hundred at a time.
    fn default() -> Self {
        Self {
            state: None,
            route: None,
            reason: None,
            since: None,
            until: None,
            dead_by: None,
            ids: Vec::new(),
            after: None,
            limit: 100,
        }
    }
}

/// An event in a list: what can be said of it without its payload.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its name.
    pub id: EventId,
    /// Its route.
    pub route: Arc<str>,
    /// Its key.
    pub key: EventKey,
    /// Where it stands.
    pub state: State,
    /// Why it is dead, if it is.
    pub reason: Option<DeadReason>,
    /// Attempts made.
    pub attempts: u32,
    /// When it was received.
    pub received_at: Timestamp,
    /// Not to be tried before this moment; of what is not tried any more, the moment at which it ended.
    not_before: Timestamp,
    /// What became of the last attempt.
    pub last_error: String,
    /// Length of its body.
    pub body_bytes: u64,
    /// SHA-256 of its body.
    pub body_sha256: [u8; 32],
    /// Its type.
    pub event_type: Option<String>,
}

impl Listed {
    /// Not to be tried before this moment; `None`: it is not tried any more.
    #[must_use]
    pub fn due(&self) -> Option<Timestamp> {
        (!self.has_ended()).then_some(self.not_before)
    }

    /// When it became a dead letter or was set aside; `None`: it is undelivered.
    #[must_use]
    pub fn ended_at(&self) -> Option<Timestamp> {
        self.has_ended().then_some(self.not_before)
    }

    fn has_ended(&self) -> bool {
        matches!(self.state, State::Dead | State::Damaged)
    }
}

impl From<EventRow> for Listed {
    fn from(row: EventRow) -> Self {
        let (id, key) = record::names(&row);
        Self {
            id,
            key,
            state: State::from_code(row.state),
            reason: row.reason.as_deref().and_then(DeadReason::from_word),
            route: row.route,
            attempts: row.attempts,
            received_at: row.received_at,
            not_before: row.not_before,
            last_error: row.last_error,
            body_bytes: row.body_bytes,
            body_sha256: row.body_sha256,
            event_type: row.event_type,
        }
    }
}

/// What may be tried now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Events, the longest due first.
    pub ids: Vec<EventId>,
    /// When the next one will be, if there is one.
    pub next: Option<Timestamp>,
}

/// Why the spool did not do it. Nothing of it is on disk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpoolFault {
    /// There is no room.
    #[error("{0}")]
    Full(String),
    /// What was to be read is not what was written.
    #[error("{0}")]
    Damaged(String),
    /// The disk did not do it, or not in time.
    #[error("{0}")]
    Failed(String),
}

impl From<JobFault> for SpoolFault {
    fn from(fault: JobFault) -> Self {
        match fault {
            JobFault::Full(why) => Self::Full(why),
            JobFault::Damaged(why) => Self::Damaged(why),
            JobFault::Failed(why) => Self::Failed(why),
        }
    }
}

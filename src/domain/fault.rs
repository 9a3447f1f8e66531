//! Why a request cannot be served although the sender did nothing wrong: the closed list that answers 503.

/// Our doing. Each answers 503 with `Retry-After`, never a 4xx: senders do not retry a 4xx.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The spool is at `spool.max_bytes`, or the disk at `spool.min_free_bytes`.
    SpoolFull,
    /// The disk did not take the event, or not in time.
    SpoolFailed,
    /// The dedup store cannot be asked and `on_store_down = "refuse"`.
    StoreDown,
    /// Another replica holds the event and did not settle it in time.
    InFlightElsewhere,
    /// A bound of ours is reached: connections, buffered bytes, deliveries.
    Overloaded,
    /// The process is shutting down.
    Draining,
    /// The clock of this machine cannot be right.
    ClockSuspect,
}

impl Fault {
    /// All of them, for metrics that must exist before the first request.
    pub const ALL: [Self; 7] = [
        Self::SpoolFull,
        Self::SpoolFailed,
        Self::StoreDown,
        Self::InFlightElsewhere,
        Self::Overloaded,
        Self::Draining,
        Self::ClockSuspect,
    ];

    /// The word used in metrics, logs and the reply's `reason`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SpoolFull => "spool_full",
            Self::SpoolFailed => "spool_failed",
            Self::StoreDown => "store_down",
            Self::InFlightElsewhere => "in_flight_elsewhere",
            Self::Overloaded => "overloaded",
            Self::Draining => "draining",
            Self::ClockSuspect => "clock_suspect",
        }
    }

    /// The sentence in the reply's `error`.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::SpoolFull | Self::SpoolFailed => "Cannot store the event now",
            Self::StoreDown => "Cannot check for duplicates now",
            Self::InFlightElsewhere => "The event is being processed",
            Self::Overloaded => "Too busy",
            Self::Draining => "Shutting down",
            Self::ClockSuspect => "Cannot check the time now",
        }
    }

    /// Seconds for `Retry-After`: long enough to matter, short enough for the next attempt to come soon after recovery.
    #[must_use]
    pub const fn retry_after_seconds(self) -> u32 {
        match self {
            Self::InFlightElsewhere | Self::Overloaded | Self::Draining => 5,
            Self::StoreDown | Self::SpoolFailed => 10,
            Self::SpoolFull | Self::ClockSuspect => 30,
        }
    }
}

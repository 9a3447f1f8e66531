//! What the scripts of `src/claims/redis.rs` decide, as a pure function over the keys of one slot. Time is a letter:
//! a claim has lapsed or not. `differential` holds it against a real Redis.

/// Bodies that a slot can hold besides the first.
pub const BODIES: usize = 3;

/// What a mutant changes; all off is the protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules(Option<Mutant>);

/// One fault put into the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// A release frees whoever's claim there is.
    ReleaseWithoutOwner,
    /// "Perhaps processed" is forgotten with the release.
    ReleaseWithoutPerhaps,
    /// A flagged claim that is released leaves no trace.
    FlagDiesWithItsClaim,
    /// A mark is written before the application has answered.
    MarkBeforeTheAnswer,
    /// Who holds a claim is not asked.
    LeaseForgotten,
    /// A lapsed claim is taken over as if nothing had been.
    TakenOverUnflagged,
    /// The local table is not asked while the store answers.
    LocalTableIgnored,
    /// The local table is not written while the store answers.
    LocalTableNotWritten,
    /// After an unclean stop nothing is in doubt.
    CrashForgotten,
    /// An owner whose lease has passed before it sends does not look at the time.
    SentAsIfNoTimeHadPassed,
    /// An event is sent from disk without a look at who else has had it.
    SentFromDiskUnseen,
    /// A mark names whoever wrote it last.
    MarkForgetsWhoWasFirst,
    /// A claim that was refused because nothing was heard of it is left to its lease.
    UnheardClaimStays,
}

impl Mutant {
    pub const ALL: [Self; 13] = [
        Self::ReleaseWithoutOwner,
        Self::ReleaseWithoutPerhaps,
        Self::FlagDiesWithItsClaim,
        Self::MarkBeforeTheAnswer,
        Self::LeaseForgotten,
        Self::TakenOverUnflagged,
        Self::LocalTableIgnored,
        Self::LocalTableNotWritten,
        Self::CrashForgotten,
        Self::SentAsIfNoTimeHadPassed,
        Self::SentFromDiskUnseen,
        Self::MarkForgetsWhoWasFirst,
        Self::UnheardClaimStays,
    ];
}

impl Rules {
    pub const fn with(mutant: Mutant) -> Self {
        Self(Some(mutant))
    }

    pub fn are(self, mutant: Mutant) -> bool {
        self.0 == Some(mutant)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Letter {
    Claimed,
    Flagged,
    Marked,
    Perhaps,
}

/// One key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Held {
    pub letter: Letter,
    pub owner: u8,
    pub body: u8,
    pub lapsed: bool,
}

/// The keys of one slot: that of its first body, and one for each body.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Slot {
    pub first: Option<Held>,
    pub own: [Option<Held>; BODIES],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Said {
    New,
    Duplicate,
    Conflict,
    InFlight,
    Lapsed,
    /// Of a mark: no other owner had the event before.
    Ours,
    /// Of a mark: another had.
    Elsewhere,
}

/// What a script is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ask {
    Claim,
    Mark,
    Release { perhaps: bool },
}

/// One call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Call {
    pub ask: Ask,
    pub owner: u8,
    pub body: u8,
}

impl Slot {
    /// Runs a script. A release says nothing.
    pub fn run(&mut self, call: Call, rules: Rules) -> Option<Said> {
        match call.ask {
            Ask::Claim => Some(self.claim(call, rules)),
            Ask::Mark => Some(self.mark(call, rules)),
            Ask::Release { perhaps } => {
                self.release(call, perhaps, rules);
                None
            }
        }
    }

    fn claim(&mut self, call: Call, rules: Rules) -> Said {
        let new = |letter| Some(Held { letter, owner: call.owner, body: call.body, lapsed: false });
        let own = &mut self.own[usize::from(call.body)];
        let key = match (&own, &self.first) {
            (Some(_), _) => own,
            (None, None) => {
                self.first = new(Letter::Claimed);
                return Said::New;
            }
            (None, Some(first)) if first.body == call.body => &mut self.first,
            (None, Some(_)) => {
                *own = new(Letter::Claimed);
                return Said::Conflict;
            }
        };
        let held = key.expect("looked at above");
        match held.letter {
            Letter::Marked => Said::Duplicate,
            Letter::Claimed | Letter::Flagged if held.owner == call.owner => {
                *key = new(held.letter);
                if held.letter == Letter::Flagged { Said::Lapsed } else { Said::New }
            }
            Letter::Claimed | Letter::Flagged if !held.lapsed && !rules.are(Mutant::LeaseForgotten) => Said::InFlight,
            Letter::Claimed | Letter::Flagged | Letter::Perhaps => {
                let forgets = rules.are(Mutant::TakenOverUnflagged) && held.letter != Letter::Perhaps;
                *key = new(if forgets { Letter::Claimed } else { Letter::Flagged });
                if forgets { Said::New } else { Said::Lapsed }
            }
        }
    }

    fn mark(&mut self, call: Call, rules: Rules) -> Said {
        let first_is_free = self.first.is_none_or(|first| first.body == call.body);
        let own = &mut self.own[usize::from(call.body)];
        let key = if own.is_none() && first_is_free { &mut self.first } else { own };
        let before = key.map(|held| held.owner).filter(|owner| *owner != call.owner);
        let owner = before.filter(|_| !rules.are(Mutant::MarkForgetsWhoWasFirst)).unwrap_or(call.owner);
        *key = Some(Held { letter: Letter::Marked, owner, body: call.body, lapsed: false });
        if before.is_some() { Said::Elsewhere } else { Said::Ours }
    }

    fn release(&mut self, call: Call, perhaps: bool, rules: Rules) {
        let own = &mut self.own[usize::from(call.body)];
        for key in [&mut self.first, own] {
            let Some(held) = *key else { continue };
            let claimed = matches!(held.letter, Letter::Claimed | Letter::Flagged);
            let mine = held.owner == call.owner || rules.are(Mutant::ReleaseWithoutOwner);
            if claimed && mine && held.body == call.body {
                let flagged = held.letter == Letter::Flagged && !rules.are(Mutant::FlagDiesWithItsClaim);
                let perhaps = perhaps && !rules.are(Mutant::ReleaseWithoutPerhaps);
                *key = (flagged || perhaps).then_some(Held { letter: Letter::Perhaps, lapsed: false, ..held });
                return;
            }
        }
    }

    /// The leases of all claims pass; whose they were.
    pub fn lapse(&mut self) -> Vec<u8> {
        let mut owners = Vec::new();
        for held in self.first.iter_mut().chain(self.own.iter_mut().flatten()) {
            if matches!(held.letter, Letter::Claimed | Letter::Flagged) && !held.lapsed {
                held.lapsed = true;
                owners.push(held.owner);
            }
        }
        owners
    }

    /// Whether somebody holds a claim whose lease has not passed.
    pub fn is_claimed(&self) -> bool {
        let claimed = |held: &Held| matches!(held.letter, Letter::Claimed | Letter::Flagged) && !held.lapsed;
        self.first.iter().chain(self.own.iter().flatten()).any(claimed)
    }

    /// Whether a body is marked.
    pub fn is_marked(&self) -> bool {
        self.first.iter().chain(self.own.iter().flatten()).any(|held| held.letter == Letter::Marked)
    }
}

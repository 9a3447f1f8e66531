//! One gateway's memory: the local table and what `Fallback` does with it and the shared store, for one event, as a
//! pure function. `differential` holds it against the crate's own `Fallback` and `Embedded`.

use super::script::{Ask, Call, Mutant, Rules, Said};

/// `dedup.on_store_down`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    Local,
    Refuse,
    Accept,
}

/// What a claim comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimed {
    Ours { flagged: bool },
    Duplicate,
    InFlight,
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    pub owner: u8,
    pub lapsed: bool,
    pub doubt: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mark {
    #[default]
    None,
    Perhaps,
    Processed,
}

/// What one gateway knows of the event, and of the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Memory {
    pub lease: Option<Lease>,
    pub mark: Mark,
    /// What of the mark is on disk.
    pub written: Mark,
    /// Whether the shared store counts as up.
    pub up: bool,
    /// What the shared store is owed.
    pub repairs: Vec<Call>,
}

impl Default for Memory {
    fn default() -> Self {
        Self { lease: None, mark: Mark::None, written: Mark::None, up: true, repairs: Vec::new() }
    }
}

impl Memory {
    /// As `Embedded::decide`.
    fn decide(&mut self, owner: u8) -> Claimed {
        let mut doubt = false;
        if let Some(lease) = &self.lease {
            doubt = lease.doubt;
            if lease.owner != owner {
                if !lease.lapsed {
                    return Claimed::InFlight;
                }
                doubt = true;
            }
        }
        match self.mark {
            Mark::Processed => {
                self.lease = None;
                return Claimed::Duplicate;
            }
            Mark::Perhaps => doubt = true,
            Mark::None => {}
        }
        self.lease = Some(Lease { owner, lapsed: false, doubt });
        Claimed::Ours { flagged: doubt }
    }

    /// As `Fallback::claim`; `ask` puts a question to the shared store, and `None` is no answer.
    pub fn claim(
        &mut self,
        owner: u8,
        policy: Policy,
        rules: Rules,
        ask: impl FnOnce(Call) -> Option<Said>,
    ) -> Claimed {
        let local = if rules.are(Mutant::LocalTableIgnored) && self.up {
            Claimed::Ours { flagged: false }
        } else {
            self.decide(owner)
        };
        let Claimed::Ours { flagged } = local else { return local };
        let asked = self.up;
        let shared = if asked { ask(Call { ask: Ask::Claim, owner, body: 0 }) } else { None };
        let answer = match shared {
            Some(Said::New | Said::Conflict | Said::Ours | Said::Elsewhere) => Claimed::Ours { flagged },
            Some(Said::Lapsed) => Claimed::Ours { flagged: true },
            Some(Said::Duplicate) => Claimed::Duplicate,
            Some(Said::InFlight) => Claimed::InFlight,
            None => {
                self.up = false;
                match policy {
                    Policy::Local => local,
                    Policy::Refuse => Claimed::Refused,
                    Policy::Accept => Claimed::Ours { flagged: true },
                }
            }
        };
        if !matches!(answer, Claimed::Ours { .. }) {
            self.give_up(owner, false);
            if asked && shared.is_none() && !rules.are(Mutant::UnheardClaimStays) {
                self.repairs.push(Call { ask: Ask::Release { perhaps: false }, owner, body: 0 });
            }
        }
        answer
    }

    /// As `Embedded::remember_processed`.
    pub fn remember(&mut self, owner: u8, rules: Rules) {
        if rules.are(Mutant::LocalTableNotWritten) && self.up {
            self.lease = self.lease.filter(|lease| lease.owner != owner);
            return;
        }
        self.mark = Mark::Processed;
        self.lease = self.lease.filter(|lease| lease.owner != owner);
    }

    /// As `Embedded::give_up`.
    pub fn give_up(&mut self, owner: u8, perhaps: bool) {
        let Some(lease) = self.lease.filter(|lease| lease.owner == owner) else { return };
        self.lease = None;
        if (lease.doubt || perhaps) && self.mark == Mark::None {
            self.mark = Mark::Perhaps;
        }
    }

    /// Tells the shared store, now or later.
    pub fn tell(&mut self, call: Call, ask: impl FnOnce(Call) -> Option<()>) {
        if self.up {
            if ask(call).is_some() {
                return;
            }
            self.up = false;
        }
        self.repairs.push(call);
    }

    /// The process dies and starts again on its disk; `written` is what had got there.
    pub fn crash(&mut self, everything_written: bool) {
        let mark = if everything_written { self.mark } else { self.written };
        *self = Self { mark, written: mark, ..Self::default() };
    }
}

//! What a hypothesis is, for which requests it makes sense, and how it is tested. The list of them is in `table`.

use super::bench::{Bench, Signature};
use super::{Finding, Match, Whose};

/// A hypothesis that holds: what was found, and what to do about it if the table's sentence does not say it.
pub(super) struct Found {
    pub(super) text: String,
    pub(super) fix: Option<String>,
}

impl Found {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), fix: None }
    }

    pub(super) fn fix(self, fix: impl Into<String>) -> Self {
        Self { fix: Some(fix.into()), ..self }
    }
}

/// Which requests a hypothesis makes sense for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum For {
    /// Those whose signature is wrong.
    Wrong,
    /// The same, as long as nothing fits: what costs much, or takes in what another hypothesis tells better.
    Riddle,
    /// Those whose signature is right and that are refused all the same.
    Right,
    /// All.
    Any,
}

/// What holding proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    /// The request is right with it.
    Sure,
    /// Nothing; it is worth a look.
    Hint,
}

/// What can be told without the body.
const HEAD_ALONE: [&str; 6] = [
    "signature-missing",
    "timestamp-missing",
    "looks-like-another-provider",
    "signature-length",
    "content-encoding",
    "chunked",
];

pub(super) type Check = for<'a> fn(&mut Bench<'a>) -> Option<Found>;

/// One hypothesis of the list.
#[derive(Debug)]
pub struct Hypothesis {
    /// Its stable name.
    pub id: &'static str,
    /// What it means, after "perhaps".
    pub meaning: &'static str,
    /// Whose doing it would be.
    pub whose: Whose,
    fix: &'static str,
    requests: For,
    proof: Proof,
    check: Check,
}

impl Hypothesis {
    /// Tests it on a refused request.
    pub(super) fn test(&self, bench: &mut Bench<'_>) -> (Match, Option<Finding>) {
        let fitting = match (self.requests, bench.signature) {
            (For::Any, _) | (For::Wrong, Signature::Wrong) | (For::Right, Signature::Right) => true,
            (For::Riddle, Signature::Wrong) => !bench.fitted,
            (For::Wrong | For::Riddle, Signature::Right) | (For::Right, Signature::Wrong) => false,
        };
        let possible = bench.case.left_out.is_none() || HEAD_ALONE.contains(&self.id);
        if !fitting || !possible || bench.is_spent() {
            return (Match::NotTried, None);
        }
        let Some(found) = (self.check)(bench) else {
            return (if bench.is_spent() { Match::NotTried } else { Match::No }, None);
        };
        let matches = match self.proof {
            Proof::Sure => Match::Fits,
            Proof::Hint => Match::Seen,
        };
        bench.fitted |= matches == Match::Fits;
        let fix = found.fix.unwrap_or_else(|| self.fix.to_owned());
        (matches, Some(Finding { id: self.id, matches, found: found.text, fix, whose: self.whose }))
    }
}

pub(super) const fn wrong(
    id: &'static str,
    meaning: &'static str,
    whose: Whose,
    fix: &'static str,
    check: Check,
) -> Hypothesis {
    Hypothesis { id, meaning, whose, fix, requests: For::Wrong, proof: Proof::Sure, check }
}

pub(super) const fn riddle(
    id: &'static str,
    meaning: &'static str,
    whose: Whose,
    fix: &'static str,
    check: Check,
) -> Hypothesis {
    Hypothesis { id, meaning, whose, fix, requests: For::Riddle, proof: Proof::Sure, check }
}

pub(super) const fn right(
    id: &'static str,
    meaning: &'static str,
    whose: Whose,
    fix: &'static str,
    check: Check,
) -> Hypothesis {
    Hypothesis { id, meaning, whose, fix, requests: For::Right, proof: Proof::Sure, check }
}

pub(super) const fn any(
    id: &'static str,
    meaning: &'static str,
    whose: Whose,
    fix: &'static str,
    check: Check,
) -> Hypothesis {
    Hypothesis { id, meaning, whose, fix, requests: For::Any, proof: Proof::Sure, check }
}

pub(super) const fn hint(
    id: &'static str,
    meaning: &'static str,
    whose: Whose,
    fix: &'static str,
    check: Check,
) -> Hypothesis {
    Hypothesis { id, meaning, whose, fix, requests: For::Any, proof: Proof::Hint, check }
}

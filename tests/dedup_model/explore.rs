//! Walks through every state that can be reached, nearest first, and stops at the first that breaks an invariant.
//! States are known again by 128 bits of hash: of a million, two are taken for one with a chance of 10^-26.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash, Hasher};

use super::model::{Action, Plan, State, Windows};

/// What was found.
pub struct Found {
    pub states: usize,
    pub steps: usize,
    /// Steps to the state that is farthest from the beginning.
    pub depth: usize,
    pub windows: Windows,
    /// The shortest history that breaks an invariant, in words.
    pub broken: Option<String>,
}

pub fn explore(plan: &Plan) -> Found {
    let mut found = Found { states: 0, steps: 0, depth: 0, windows: Windows::default(), broken: None };
    let mut known = HashSet::with_hasher(BuildHasherDefault::<Passed>::default());
    // Each state's parent and the action that led from there.
    let mut ways: Vec<(usize, Option<Action>)> = vec![(0, None)];
    let mut front = VecDeque::from([(State::new(plan), 0, 0)]);
    known.insert(name(&State::new(plan)));
    while let Some((state, number, depth)) = front.pop_front() {
        found.depth = depth;
        for action in state.actions(plan) {
            found.steps += 1;
            let mut next = state.clone();
            let verdict = next.step(action, plan, &mut found.windows).and_then(|()| next.check(plan));
            if let Err(broken) = verdict {
                found.states = known.len();
                found.broken = Some(format!("{broken}\n{}", history(&ways, number, action)));
                return found;
            }
            if known.insert(name(&next)) {
                ways.push((number, Some(action)));
                front.push_back((next, ways.len() - 1, depth + 1));
            }
        }
    }
    found.states = known.len();
    found
}

fn history(ways: &[(usize, Option<Action>)], mut number: usize, last: Action) -> String {
    let mut lines = vec![format!("  {last:?}")];
    while let (parent, Some(action)) = ways[number] {
        lines.push(format!("  {action:?}"));
        number = parent;
    }
    lines.reverse();
    lines.join("\n")
}

fn name(state: &State) -> u128 {
    let half = |seed: u64| {
        let mut hasher = BuildHasherDefault::<DefaultHasher>::default().build_hasher();
        seed.hash(&mut hasher);
        state.hash(&mut hasher);
        hasher.finish()
    };
    u128::from(half(1)) << 64 | u128::from(half(2))
}

/// A hash that is one already.
#[derive(Default)]
struct Passed(u64);

impl Hasher for Passed {
    fn write(&mut self, bytes: &[u8]) {
        for (place, byte) in bytes.iter().take(8).enumerate() {
            self.0 ^= u64::from(*byte) << (8 * place);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

//! Chance with a seed that is printed, so that a bad run can be had again.

use super::clock::{environment, now_millis};

/// A source of chance. A failed test shows its seed among its output.
pub(crate) fn chance() -> fastrand::Rng {
    let seed = environment("HOOKGATE_SEED").map_or_else(
        || u64::try_from(now_millis()).unwrap_or(0) ^ (u64::from(std::process::id()) << 32),
        |text| text.parse().expect("HOOKGATE_SEED is a whole number"),
    );
    eprintln!("the chances of this run: HOOKGATE_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

/// How many crashes a crash test makes: `HOOKGATE_TORTURE`, or five.
pub(crate) fn crashes() -> usize {
    environment("HOOKGATE_TORTURE").map_or(5, |text| text.parse().expect("HOOKGATE_TORTURE is a whole number"))
}

/// `length` bytes of chance.
pub(crate) fn bytes(chance: &mut fastrand::Rng, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    chance.fill(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_the_same_chances_twice() {
        let [mut one, mut two] = [fastrand::Rng::with_seed(7), fastrand::Rng::with_seed(7)];
        assert_eq!(bytes(&mut one, 64), bytes(&mut two, 64));
        assert_ne!(bytes(&mut one, 64), bytes(&mut chance(), 64));
    }

    #[test]
    fn a_crash_test_crashes_at_least_once() {
        assert!(crashes() > 0);
    }
}

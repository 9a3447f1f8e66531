//! Chance with a seed that is printed, so that a bad run can be had again.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::clock::{environment, now_millis};

/// A source of chance: another at each call, and the same ones for the same seed. A failed test shows its seed among its
/// output, once.
pub(crate) fn chance() -> fastrand::Rng {
    static SEED: OnceLock<u64> = OnceLock::new();
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let seed = SEED.get_or_init(|| {
        let seed = environment("HOOKGATE_SEED").map_or_else(
            || u64::try_from(now_millis()).unwrap_or(0) ^ (u64::from(std::process::id()) << 32),
            |text| text.parse().expect("HOOKGATE_SEED is a whole number"),
        );
        eprintln!("the chances of this run: HOOKGATE_SEED={seed}");
        seed
    });
    fastrand::Rng::with_seed(seed.wrapping_add(CALLS.fetch_add(1, Ordering::Relaxed)))
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

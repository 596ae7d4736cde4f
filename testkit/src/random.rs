//! Numbers that look random, from a seed: the same seed draws the same numbers on every machine.

use rand::seq::IndexedRandom;
pub use rand::{Rng, SeedableRng};

/// The generator of tests and trials.
pub type Random = rand_chacha::ChaCha8Rng;

/// A generator that this seed starts.
#[must_use]
pub fn seeded(seed: u64) -> Random {
    Random::seed_from_u64(seed)
}

/// One of these.
///
/// # Panics
/// When there are none.
pub fn one<'a, T: ?Sized>(random: &mut Random, of: &[&'a T]) -> &'a T {
    let one = of.choose(random);
    one.unwrap_or_else(|| panic!("nothing to choose from"))
}

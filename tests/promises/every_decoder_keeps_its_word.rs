//! What must hold for whatever a decoder is given holds for the corpus that fuzzing has kept, and for mixtures of it.
//!
//! `make fuzz` looks for more; see fuzz/README.md.

use std::panic::catch_unwind;

use overdue_properties::{ALL, Property, corpus};
use overdue_testkit::random::{Random, Rng, seeded};

#[test]
fn every_kept_input_of_every_decoder_holds() {
    for (decoder, holds) in ALL {
        let corpus = corpus::of(decoder);
        assert!(!corpus.is_empty(), "{decoder} has no corpus");
        for (name, input) in corpus {
            assert!(catch_unwind(|| holds(&input)).is_ok(), "{name} breaks {decoder}");
        }
    }
}

/// Another input: pieces of kept ones with a few bytes changed.
fn mixture(dice: &mut Random, corpus: &[(String, Vec<u8>)]) -> Vec<u8> {
    let piece = |dice: &mut Random| {
        let (_, input) = &corpus[dice.random_range(0..corpus.len())];
        let start = dice.random_range(0..input.len() + 1);
        input[start..start + dice.random_range(0..input.len() - start + 1)].to_vec()
    };
    let whole = corpus[dice.random_range(0..corpus.len())].1.clone();
    let mut input = match dice.random_range(0..4) {
        0 => [piece(dice), piece(dice)].concat(),
        1 => [whole, piece(dice)].concat(),
        _ => whole,
    };
    for _ in 0..dice.random_range(0..5) {
        let at = dice.random_range(0..input.len() + 1);
        let byte = if dice.random_range(0..2) == 0 {
            dice.random::<u64>().to_be_bytes()[0]
        } else {
            b"0127-9{}[]\",:\n\xff"[dice.random_range(0..15)]
        };
        match (dice.random_range(0..3), at < input.len()) {
            (0, true) => input[at] = byte,
            (1, true) => drop(input.remove(at)),
            _ => input.insert(at, byte),
        }
    }
    input
}

#[test]
fn mixtures_of_the_kept_inputs_hold() {
    const EACH: usize = 4_000;
    for (decoder, holds) in ALL as [Property; ALL.len()] {
        let (corpus, mut dice) = (corpus::of(decoder), seeded(1));
        for _ in 0..EACH {
            let input = mixture(&mut dice, &corpus);
            let outcome = catch_unwind(|| holds(&input));
            let text = String::from_utf8_lossy(&input);
            assert!(outcome.is_ok(), "this breaks {decoder}: {text:?} ({input:?})");
        }
    }
}

//! What must hold for whatever a decoder is given holds for the corpus that fuzzing has kept, and for mixtures of it.
//!
//! `make fuzz` looks for more; see fuzz/README.md.

use std::panic::catch_unwind;

use crate::harness::Dice;
use crate::properties::{ALL, Property, corpus};

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
fn mixture(dice: &mut Dice, corpus: &[(String, Vec<u8>)]) -> Vec<u8> {
    let piece = |dice: &mut Dice| {
        let (_, input) = &corpus[dice.below(corpus.len())];
        let start = dice.below(input.len() + 1);
        input[start..start + dice.below(input.len() - start + 1)].to_vec()
    };
    let whole = corpus[dice.below(corpus.len())].1.clone();
    let mut input = match dice.below(4) {
        0 => [piece(dice), piece(dice)].concat(),
        1 => [whole, piece(dice)].concat(),
        _ => whole,
    };
    for _ in 0..dice.below(5) {
        let at = dice.below(input.len() + 1);
        let byte = if dice.below(2) == 0 {
            dice.roll().to_be_bytes()[0]
        } else {
            b"0127-9{}[]\",:\n\xff"[dice.below(15)]
        };
        match (dice.below(3), at < input.len()) {
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
        let (corpus, mut dice) = (corpus::of(decoder), Dice(1));
        for _ in 0..EACH {
            let input = mixture(&mut dice, &corpus);
            let outcome = catch_unwind(|| holds(&input));
            let text = String::from_utf8_lossy(&input);
            assert!(outcome.is_ok(), "this breaks {decoder}: {text:?} ({input:?})");
        }
    }
}

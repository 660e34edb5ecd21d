//! The path of records by dice, as the fuzzer of `make fuzz-tls` has it for longer and better aimed.

mod support;

use support::{Dice, fuzzed};

#[test]
fn whatever_comes_nothing_panics_and_what_is_heard_was_said() {
    for seed in 0..600 {
        let mut dice = Dice::new(seed);
        let size = dice.of(&[4, 40, 400, 4000]);
        fuzzed::run(&dice.bytes(size));
    }
}

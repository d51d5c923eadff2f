//! Mutations that keep an input close to what its parser wants, so that they reach what lies behind its first checks.
//!
//! Each makes one to three changes. What none of them does (bits, single bytes, crossing two inputs) libFuzzer does.

pub mod gguf;
pub mod json;
pub mod log;
pub mod safetensors;
pub mod text;

use crate::Random;

/// Numbers at the edges of what integers, sizes and sums hold.
const EXTREMES: [u64; 16] = [
    0,
    1,
    2,
    31,
    32,
    255,
    256,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    (1 << 63) - 1,
    1 << 63,
    u64::MAX - 31,
    u64::MAX - 1,
    u64::MAX,
];

/// A number to put in the place of `value`.
fn another_number(value: u64, random: &mut Random) -> u64 {
    match random.below(4) {
        0 => value.wrapping_add(1),
        1 => value.wrapping_sub(1),
        2 => value ^ 1 << random.below(64),
        _ => *random.pick(&EXTREMES),
    }
}

/// One to three.
fn few(random: &mut Random) -> usize {
    1 + random.below(3)
}

//! Four-bit numbers that look up one of 16 values: `IQ4_NL`, `IQ4_XS`, `MXFP4`.
//!
//! Source: ggml's `ggml-quants.c`; oracle: the `gguf` Python package.

use super::floats::f16_to_f32;
use super::round_quants::centred;

const IQ4: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0,
    89.0, 113.0,
];
/// Twice the values of E2M1; the scale is halved in return. Minus zero is zero, as in ggml.
const E2M1_DOUBLED: [f32; 16] = [
    0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -12.0,
];

/// Half scale, 16 bytes of two numbers.
pub(super) fn iq4_nl(block: &[u8; 18], out: &mut [f32; 32]) {
    let [d0, d1, quants @ ..] = block;
    look_up(&IQ4, f16_to_f32([*d0, *d1]), quants, out);
}

/// Half scale; 6-bit scales of the eight runs of 32 (two upper bits of each, then four lower ones); 128 bytes of numbers.
pub(super) fn iq4_xs(block: &[u8; 136], out: &mut [f32; 256]) {
    let [d0, d1, h0, h1, l0, l1, l2, l3, quants @ ..] = block;
    let d = f16_to_f32([*d0, *d1]);
    let high = u16::from_le_bytes([*h0, *h1]);
    let low = u32::from_le_bytes([*l0, *l1, *l2, *l3]);
    let runs = out.as_chunks_mut::<32>().0.iter_mut();
    for ((run, quants), i) in runs.zip(quants.as_chunks::<16>().0).zip(0_u8..8) {
        let [low, ..] = (low >> (i << 2 & 31)).to_le_bytes();
        let [high, _] = (high >> (i << 1 & 15)).to_le_bytes();
        let scale = low & 0xf | (high & 3) << 4;
        look_up(&IQ4, d * centred(scale, 32), quants, run);
    }
}

/// A power of two as an exponent byte (E8M0), 16 bytes of two numbers.
pub(super) fn mxfp4(block: &[u8; 17], out: &mut [f32; 32]) {
    let [exponent, quants @ ..] = block;
    // 2^(exponent - 128), half of what the byte means; the lowest two are subnormal numbers.
    let bits = match u32::from(*exponent) {
        0 => 0x0020_0000,
        1 => 0x0040_0000,
        exponent => exponent.wrapping_sub(1) << 23,
    };
    look_up(&E2M1_DOUBLED, f32::from_bits(bits), quants, out);
}

/// The lower halves of the bytes are the first 16 elements.
#[inline]
fn look_up(values: &[f32; 16], d: f32, quants: &[u8; 16], out: &mut [f32; 32]) {
    let at = |q: u8| values.get(usize::from(q)).copied().unwrap_or_default();
    let (low, high) = out.split_at_mut(16);
    for ((&q, low), high) in quants.iter().zip(low).zip(high) {
        *low = d * at(q & 0xf);
        *high = d * at(q >> 4);
    }
}

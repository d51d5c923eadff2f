//! Blocks of 32 with one scale (`Q4_0`, `Q5_0`, `Q8_0`) or a scale and a minimum (`Q4_1`, `Q5_1`).
//!
//! Source: ggml's `ggml-quants.c`; oracle: the `gguf` Python package.

use super::floats::f16_to_f32;

/// Half scale, 16 bytes of two 4-bit numbers: the lower halves are the first 16 elements.
pub(super) fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let [d0, d1, quants @ ..] = block;
    let d = f16_to_f32([*d0, *d1]);
    let (low, high) = out.split_at_mut(16);
    for ((&q, low), high) in quants.iter().zip(low).zip(high) {
        *low = d * centred(q & 0xf, 8);
        *high = d * centred(q >> 4, 8);
    }
}

/// Half scale, half minimum, then like `Q4_0` without the offset.
pub(super) fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let [d0, d1, m0, m1, quants @ ..] = block;
    let (d, m) = (f16_to_f32([*d0, *d1]), f16_to_f32([*m0, *m1]));
    let (low, high) = out.split_at_mut(16);
    for ((&q, low), high) in quants.iter().zip(low).zip(high) {
        *low = d * f32::from(q & 0xf) + m;
        *high = d * f32::from(q >> 4) + m;
    }
}

/// Half scale, 32 fifth bits, 16 bytes of 4-bit numbers.
pub(super) fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let [d0, d1, h0, h1, h2, h3, quants @ ..] = block;
    let d = f16_to_f32([*d0, *d1]);
    each_q5([*h0, *h1, *h2, *h3], quants, out, |q| d * centred(q, 16));
}

/// Half scale, half minimum, then like `Q5_0` without the offset.
pub(super) fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let [d0, d1, m0, m1, h0, h1, h2, h3, quants @ ..] = block;
    let (d, m) = (f16_to_f32([*d0, *d1]), f16_to_f32([*m0, *m1]));
    each_q5([*h0, *h1, *h2, *h3], quants, out, |q| d * f32::from(q) + m);
}

/// Half scale, 32 signed bytes.
pub(super) fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let [d0, d1, quants @ ..] = block;
    let d = f16_to_f32([*d0, *d1]);
    for (&q, value) in quants.iter().zip(out) {
        *value = f32::from(q.cast_signed()) * d;
    }
}

/// Put the fifth bits on top of the 4-bit numbers. Bit i of `high_bits` belongs to element i.
#[inline]
fn each_q5(high_bits: [u8; 4], quants: &[u8; 16], out: &mut [f32; 32], value: impl Fn(u8) -> f32) {
    let high_bits = u32::from_le_bytes(high_bits);
    let (low, high) = out.split_at_mut(16);
    for (((&q, low), high), i) in quants.iter().zip(low).zip(high).zip(0_u32..) {
        *low = value(q & 0xf | u8::from(high_bits & (1_u32 << (i & 31)) != 0) << 4);
        *high = value(q >> 4 | u8::from(high_bits & (0x1_0000_u32 << (i & 15)) != 0) << 4);
    }
}

/// A number that counts from `-centre`.
#[inline]
pub(super) fn centred(q: u8, centre: i8) -> f32 {
    f32::from(q.cast_signed().wrapping_sub(centre))
}

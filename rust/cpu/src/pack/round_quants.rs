//! Rows of 32-blocks: `Q4_0` … `Q8_0`, `IQ4_NL`, `MXFP4`. Source: the block structs in ggml's `ggml-common.h`.

use super::planes::{put_bits, put_half, put_nibbles};
use crate::formats::{Format, Iq4Nl, Mxfp4, NIBBLES, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};

/// Every block of a row with its place in the panel.
fn blocks<'a, const BYTES: usize>(
    row: &'a [u8],
    panel: &'a mut [u8],
    packed_bytes: usize,
) -> impl Iterator<Item = (&'a [u8; BYTES], &'a mut [u8])> {
    row.as_chunks::<BYTES>()
        .0
        .iter()
        .zip(panel.chunks_exact_mut(packed_bytes))
}

/// Half scale, 16 bytes of nibbles.
pub(super) fn q4_0(row: &[u8], lane: usize, panel: &mut [u8]) {
    for (&[d0, d1, ref qs @ ..], to) in blocks::<18>(row, panel, Q4_0::BYTES) {
        put_nibbles(*qs, lane, to);
        put_half([d0, d1], lane, &mut to[Q4_0::SCALES..]);
    }
}

/// Halves of scale and minimum, 16 bytes of nibbles.
pub(super) fn q4_1(row: &[u8], lane: usize, panel: &mut [u8]) {
    for (&[d0, d1, m0, m1, ref qs @ ..], to) in blocks::<20>(row, panel, Q4_1::BYTES) {
        put_nibbles(*qs, lane, to);
        put_half([d0, d1], lane, &mut to[Q4_1::SCALES..]);
        put_half([m0, m1], lane, &mut to[Q4_1::SCALES + 32..]);
    }
}

/// Half scale, 32 fifth bits, 16 bytes of nibbles.
pub(super) fn q5_0(row: &[u8], lane: usize, panel: &mut [u8]) {
    for (&[d0, d1, h0, h1, h2, h3, ref qs @ ..], to) in blocks::<22>(row, panel, Q5_0::BYTES) {
        put_nibbles(*qs, lane, to);
        put_bits(
            u32::from_le_bytes([h0, h1, h2, h3]),
            lane,
            &mut to[NIBBLES..],
        );
        put_half([d0, d1], lane, &mut to[Q5_0::SCALES..]);
    }
}

/// Halves of scale and minimum, 32 fifth bits, 16 bytes of nibbles.
pub(super) fn q5_1(row: &[u8], lane: usize, panel: &mut [u8]) {
    for (&[d0, d1, m0, m1, h0, h1, h2, h3, ref qs @ ..], to) in
        blocks::<24>(row, panel, Q5_1::BYTES)
    {
        put_nibbles(*qs, lane, to);
        put_bits(
            u32::from_le_bytes([h0, h1, h2, h3]),
            lane,
            &mut to[NIBBLES..],
        );
        put_half([d0, d1], lane, &mut to[Q5_1::SCALES..]);
        put_half([m0, m1], lane, &mut to[Q5_1::SCALES + 32..]);
    }
}

/// Half scale, 32 signed bytes.
pub(super) fn q8_0(row: &[u8], lane: usize, panel: &mut [u8]) {
    for (&[d0, d1, ref qs @ ..], to) in blocks::<34>(row, panel, Q8_0::BYTES) {
        for (k4, &word) in qs.as_chunks::<4>().0.iter().enumerate() {
            let word = u32::from_le_bytes(word) ^ 0x8080_8080;
            to[64 * k4 + 4 * lane..][..4].copy_from_slice(&word.to_le_bytes());
        }
        put_half([d0, d1], lane, &mut to[Q8_0::SCALES..]);
    }
}

/// Half scale, 16 bytes of nibbles.
pub(super) fn iq4_nl(row: &[u8], lane: usize, panel: &mut [u8]) {
    for (&[d0, d1, ref qs @ ..], to) in blocks::<18>(row, panel, Iq4Nl::BYTES) {
        put_nibbles(*qs, lane, to);
        put_half([d0, d1], lane, &mut to[NIBBLES..]);
    }
}

/// Exponent byte, 16 bytes of nibbles.
pub(super) fn mxfp4(row: &[u8], lane: usize, panel: &mut [u8]) {
    for (&[exponent, ref qs @ ..], to) in blocks::<17>(row, panel, Mxfp4::BYTES) {
        put_nibbles(*qs, lane, to);
        to[NIBBLES + lane] = exponent;
    }
}

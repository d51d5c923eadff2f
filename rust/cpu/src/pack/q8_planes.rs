//! Rows of `Q8_0` in two planes.

use half::f16;

use super::planes::{put_codes, put_half, put_two_bits};
use crate::formats::{Format, NIBBLES, Q8Planes, Q8Upper, TWO_BITS};
use crate::screen;
use crate::simd::LANES;

/// Every block of a row: its half scale, and its codes + 128.
fn blocks(row: &[u8]) -> impl Iterator<Item = ([u8; 2], [u8; 32])> {
    let (blocks, _) = row.as_chunks::<34>();
    blocks.iter().map(|&[d0, d1, ref qs @ ..]| {
        let qs: &[u8; 32] = qs;
        ([d0, d1], qs.map(|q| q ^ 0x80))
    })
}

/// Bits 2 to 7 of the codes, and the scales.
pub(super) fn upper(row: &[u8], lane: usize, panel: &mut [u8]) {
    let to = panel.chunks_exact_mut(Q8Planes::BYTES);
    for ((scale, codes), to) in blocks(row).zip(to) {
        put_codes(&codes.map(|code| code >> 2 & 15), lane, to);
        put_two_bits::<6>(&codes, lane, &mut to[NIBBLES..]);
        put_half(scale, lane, &mut to[Q8Planes::SCALES..]);
    }
}

/// Bits 0 and 1 of the codes; behind them how far the row's products can be from what the upper plane gives. For a lane
/// without a row: infinitely.
pub(super) fn lower(row: Option<&[u8]>, lane: usize, panel: &mut [u8]) {
    let (planes, bounds) = panel.split_at_mut(panel.len() - 4 * LANES);
    let bound = match row {
        Some(row) => {
            let mut bound = screen::RowBound::default();
            for ((scale, codes), to) in blocks(row).zip(planes.chunks_exact_mut(TWO_BITS)) {
                put_two_bits::<0>(&codes, lane, to);
                let scale = f16::from_le_bytes(scale).to_f32();
                bound.add(scale, &codes, &codes.map(Q8Upper::code));
            }
            bound.finish()
        }
        None => f32::INFINITY,
    };
    bounds[4 * lane..][..4].copy_from_slice(&bound.to_le_bytes());
}

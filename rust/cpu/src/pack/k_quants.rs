//! Rows of 256-blocks: `Q2_K` … `Q6_K`, `IQ4_XS`. Source: ggml's `ggml-quants.c` (`dequantize_row_*`).

use super::planes::{
    put_bits, put_codes, put_half, put_nibbles, put_pair, put_six_bits, put_two_bits,
};
use crate::formats::{
    Format, HALF_ROW, Iq4Xs, NIBBLES, Q2K, Q3K, Q4K, Q5K, Q6K, SIX_BIT_PAIRS, TWO_BITS,
};

/// Every 256-block of a row with its place in the panel.
fn blocks<'a>(
    row: &'a [u8],
    bytes: usize,
    panel: &'a mut [u8],
    packed_bytes: usize,
) -> impl Iterator<Item = (&'a [u8], &'a mut [u8])> {
    row.chunks_exact(bytes)
        .zip(panel.chunks_exact_mut(packed_bytes))
}

fn half(bytes: &[u8]) -> [u8; 2] {
    [bytes[0], bytes[1]]
}

/// 32 codes from bit `at` of 32 bytes on.
fn codes(bytes: &[u8], at: usize, mask: u8) -> [u8; 32] {
    std::array::from_fn(|i| bytes[i] >> at & mask)
}

/// Bit `at` of 32 bytes, as bits in column order.
fn bits(bytes: &[u8], at: usize) -> u32 {
    (0..32).fold(0, |bits, i| bits | u32::from(bytes[i] >> at & 1) << i)
}

/// Halves of scale and minimum, 12 bytes of 6-bit scales and minima, 128 bytes of nibbles.
pub(super) fn q4_k(row: &[u8], lane: usize, panel: &mut [u8]) {
    for (source, target) in blocks(row, 144, panel, Q4K::BYTES) {
        let (header, planes) = target.split_at_mut(Q4K::HEADER);
        scales_and_minima(source, lane, header);
        for (blk, to) in planes.chunks_exact_mut(Q4K::BLOCK).enumerate() {
            // 64 columns share 32 bytes: the even block in the low nibbles, the odd one in the high.
            let bytes = &source[16 + blk / 2 * 32..][..32];
            put_codes(&codes(bytes, blk % 2 * 4, 15), lane, to);
        }
    }
}

/// As `Q4_K`, with 32 bytes of fifth bits before the nibbles.
pub(super) fn q5_k(row: &[u8], lane: usize, panel: &mut [u8]) {
    for (source, target) in blocks(row, 176, panel, Q5K::BYTES) {
        let (header, planes) = target.split_at_mut(Q5K::HEADER);
        scales_and_minima(source, lane, header);
        for (blk, to) in planes.chunks_exact_mut(Q5K::BLOCK).enumerate() {
            let bytes = &source[48 + blk / 2 * 32..][..32];
            put_codes(&codes(bytes, blk % 2 * 4, 15), lane, to);
            put_bits(bits(&source[16..48], blk), lane, &mut to[NIBBLES..]);
        }
    }
}

/// `d`, `dmin` and the pairs of `Q4_K` and `Q5_K`. Source: `get_scale_min_k4`.
fn scales_and_minima(source: &[u8], lane: usize, header: &mut [u8]) {
    put_half(half(source), lane, header);
    put_half(half(&source[2..]), lane, &mut header[HALF_ROW..]);
    let packed = &source[4..16];
    for blk in 0..8 {
        let (scale, min) = if blk < 4 {
            (packed[blk] & 63, packed[blk + 4] & 63)
        } else {
            (
                packed[blk + 4] & 15 | (packed[blk - 4] >> 6) << 4,
                packed[blk + 4] >> 4 | (packed[blk] >> 6) << 4,
            )
        };
        put_pair(scale, min, blk, lane, &mut header[Q4K::PAIRS..]);
    }
}

/// 128 bytes of nibbles, 64 bytes of upper bits, 16 signed scales, `d`.
pub(super) fn q6_k(row: &[u8], lane: usize, panel: &mut [u8]) {
    for (source, target) in blocks(row, 210, panel, Q6K::BYTES) {
        let (low, rest) = source.split_at(128);
        let (high, rest) = rest.split_at(64);
        let (scales, d) = rest.split_at(16);
        put_half(half(d), lane, target);
        for (blk, to) in target[Q6K::HEADER..]
            .chunks_exact_mut(Q6K::BLOCK)
            .enumerate()
        {
            // Of 128 columns: 64 bytes of nibbles, columns 64.. in the high ones; 32 bytes of upper bits, two per block.
            let (half, quarter) = (blk / 4, blk % 4);
            let low = &low[64 * half + 32 * (quarter % 2)..][..32];
            let low = codes(low, 4 * (quarter / 2), 15);
            put_codes(&low, lane, to);
            let high = codes(&high[32 * half..][..32], 2 * quarter, 3);
            put_two_bits::<0>(&high, lane, &mut to[NIBBLES..]);
            to[Q6K::SCALES + lane] = scales[2 * blk];
            to[Q6K::SCALES + 16 + lane] = scales[2 * blk + 1];
        }
    }
}

/// 32 bytes of third bits, 64 bytes of 2-bit numbers, 12 bytes of 6-bit scales, `d`.
pub(super) fn q3_k(row: &[u8], lane: usize, panel: &mut [u8]) {
    for (source, target) in blocks(row, 110, panel, Q3K::BYTES) {
        let (third, rest) = source.split_at(32);
        let (low, rest) = rest.split_at(64);
        let (packed, d) = rest.split_at(12);
        let (header, planes) = target.split_at_mut(Q3K::HEADER);
        put_half(half(d), lane, header);
        // Four bits of scale `i` in nibble `i / 8` of byte `i % 8`, two at bit `2 * (i / 4)` of byte `8 + i % 4`.
        let scale = |i: usize| {
            packed[i % 8] >> (4 * (i / 8)) & 15 | (packed[8 + i % 4] >> (2 * (i / 4)) & 3) << 4
        };
        for (blk, to) in planes.chunks_exact_mut(Q3K::BLOCK).enumerate() {
            let (first, second) = (scale(2 * blk), scale(2 * blk + 1));
            put_pair(first, second, blk, lane, &mut header[Q3K::PAIRS..]);
            let low = codes(&low[blk / 4 * 32..][..32], 2 * (blk % 4), 3);
            put_two_bits::<0>(&low, lane, to);
            put_bits(bits(third, blk), lane, &mut to[TWO_BITS..]);
        }
    }
}

/// 16 bytes of 4-bit scales and minima, 64 bytes of 2-bit numbers, `d`, `dmin`.
pub(super) fn q2_k(row: &[u8], lane: usize, panel: &mut [u8]) {
    for (source, target) in blocks(row, 84, panel, Q2K::BYTES) {
        let (pairs, rest) = source.split_at(16);
        let (low, halves) = rest.split_at(64);
        let (header, planes) = target.split_at_mut(Q2K::HEADER);
        put_half(half(halves), lane, header);
        put_half(half(&halves[2..]), lane, &mut header[HALF_ROW..]);
        for (run, &pair) in pairs.iter().enumerate() {
            header[Q2K::PAIRS + 16 * run + lane] = pair;
        }
        for (blk, to) in planes.chunks_exact_mut(TWO_BITS).enumerate() {
            let low = codes(&low[blk / 4 * 32..][..32], 2 * (blk % 4), 3);
            put_two_bits::<0>(&low, lane, to);
        }
    }
}

/// `d`, upper two bits and lower four bits of eight 6-bit scales, 128 bytes of nibbles.
pub(super) fn iq4_xs(row: &[u8], lane: usize, panel: &mut [u8]) {
    for (source, target) in blocks(row, 136, panel, Iq4Xs::BYTES) {
        let (header, planes) = target.split_at_mut(Iq4Xs::HEADER);
        put_half(half(source), lane, header);
        let high = u16::from_le_bytes(half(&source[2..]));
        for (blk, to) in planes.chunks_exact_mut(NIBBLES).enumerate() {
            let low = source[4 + blk / 2] >> (4 * (blk % 2)) & 15;
            let scale = low | ((high >> (2 * blk) & 3) as u8) << 4;
            put_six_bits(scale, blk, lane, &mut header[HALF_ROW..]);
            let qs = source[8 + 16 * blk..].first_chunk().copied();
            put_nibbles(qs.unwrap_or_default(), lane, to);
        }
    }
}

const _: () = assert!(Q4K::PAIRS == Q5K::PAIRS && Q4K::PAIRS + SIX_BIT_PAIRS == Q4K::HEADER);

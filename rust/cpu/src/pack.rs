//! From a file's rows to panels. Codes and scales are moved, never changed: the packed values are the file's.

use crate::formats::{Format, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
use crate::matrix::Packing;
use crate::simd::LANES;

/// Write row `lane` of a panel (zeroed memory of `packing.panel_bytes(width)`) from the file's bytes.
pub(crate) fn pack_row(packing: Packing, row: &[u8], width: usize, lane: usize, panel: &mut [u8]) {
    match packing {
        Packing::Q4_0 => simple(row, lane, panel, 18, Q4_0::BYTES, |block, lane, to| {
            put_nibbles(array(&block[2..18]), lane, to);
            put_half(&block[0..2], lane, &mut to[256..]);
        }),
        Packing::Q4_1 => simple(row, lane, panel, 20, Q4_1::BYTES, |block, lane, to| {
            put_nibbles(array(&block[4..20]), lane, to);
            put_half(&block[0..2], lane, &mut to[256..]);
            put_half(&block[2..4], lane, &mut to[288..]);
        }),
        Packing::Q5_0 => simple(row, lane, panel, 22, Q5_0::BYTES, |block, lane, to| {
            put_nibbles(array(&block[6..22]), lane, to);
            put_fifth(
                u32::from_le_bytes(array(&block[2..6])),
                lane,
                &mut to[256..320],
            );
            put_half(&block[0..2], lane, &mut to[320..]);
        }),
        Packing::Q5_1 => simple(row, lane, panel, 24, Q5_1::BYTES, |block, lane, to| {
            put_nibbles(array(&block[8..24]), lane, to);
            put_fifth(
                u32::from_le_bytes(array(&block[4..8])),
                lane,
                &mut to[256..320],
            );
            put_half(&block[0..2], lane, &mut to[320..]);
            put_half(&block[2..4], lane, &mut to[352..]);
        }),
        Packing::Q8_0 => simple(row, lane, panel, 34, Q8_0::BYTES, |block, lane, to| {
            for k4 in 0..8 {
                let word = u32::from_le_bytes(array(&block[2 + 4 * k4..6 + 4 * k4])) ^ 0x8080_8080;
                to[64 * k4 + 4 * lane..][..4].copy_from_slice(&word.to_le_bytes());
            }
            put_half(&block[0..2], lane, &mut to[512..]);
        }),
        Packing::Q4K => k_row(row, lane, panel, false),
        Packing::Q5K => k_row(row, lane, panel, true),
        Packing::Q6K => six_row(row, lane, panel),
        Packing::F32 => {
            for k in 0..width {
                panel[(k * LANES + lane) * 4..][..4].copy_from_slice(&row[4 * k..4 * k + 4]);
            }
        }
        Packing::F16 | Packing::Bf16 => {
            for k in 0..width {
                panel[(k * LANES + lane) * 2..][..2].copy_from_slice(&row[2 * k..2 * k + 2]);
            }
        }
    }
}

/// Dequantize to floats in a panel: types without a packed layout.
pub(crate) fn pack_floats(row: &[f32], lane: usize, panel: &mut [u8]) {
    for (k, x) in row.iter().enumerate() {
        panel[(k * LANES + lane) * 4..][..4].copy_from_slice(&x.to_le_bytes());
    }
}

fn simple(
    row: &[u8],
    lane: usize,
    panel: &mut [u8],
    from: usize,
    to: usize,
    block: impl Fn(&[u8], usize, &mut [u8]),
) {
    for (source, target) in row.chunks_exact(from).zip(panel.chunks_exact_mut(to)) {
        block(source, lane, target);
    }
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(bytes);
    out
}

/// Legacy nibbles: byte `j` of the file holds columns `j` (low) and `j + 16` (high).
fn put_nibbles(qs: [u8; 16], lane: usize, to: &mut [u8]) {
    const LOW: u32 = 0x0f0f_0f0f;
    let word = |i: usize| u32::from_le_bytes(array(&qs[4 * i..4 * i + 4]));
    let words = [word(0), word(1), word(2), word(3)];
    // Columns 0..16 are the low nibbles of bytes 0..16; group g takes columns 8g..8g+4 and 8g+4..8g+8.
    for g in 0..2 {
        let (a, b) = (words[2 * g], words[2 * g + 1]);
        let low = (a & LOW) | (b & LOW) << 4;
        let high = (a >> 4 & LOW) | (b & !LOW);
        to[64 * g + 4 * lane..][..4].copy_from_slice(&low.to_le_bytes());
        to[64 * (g + 2) + 4 * lane..][..4].copy_from_slice(&high.to_le_bytes());
    }
}

/// Bit `c` of `high` is the fifth bit of column `c`: into mask `c / 4`, bit `4 * lane + c % 4`.
fn put_fifth(high: u32, lane: usize, masks: &mut [u8]) {
    for k4 in 0..8 {
        let bits = (high >> (4 * k4) & 15) as u8;
        masks[8 * k4 + lane / 2] |= bits << (4 * (lane % 2));
    }
}

fn put_half(bytes: &[u8], lane: usize, to: &mut [u8]) {
    to[2 * lane..2 * lane + 2].copy_from_slice(bytes);
}

/// `Q4_K` and `Q5_K`: 6-bit scales and minima of eight sub-blocks in 12 bytes. Source: ggml-quants `get_scale_min_k4`.
fn k_row(row: &[u8], lane: usize, panel: &mut [u8], fifth: bool) {
    let (from, to, block) = if fifth {
        (176, Q5K::BYTES, Q5K::BLOCK)
    } else {
        (144, Q4K::BYTES, Q4K::BLOCK)
    };
    let scales_at = if fifth { 320 } else { 256 };
    for (source, target) in row.chunks_exact(from).zip(panel.chunks_exact_mut(to)) {
        put_half(&source[0..2], lane, target);
        put_half(&source[2..4], lane, &mut target[32..]);
        let packed = &source[4..16];
        let (high, qs) = if fifth {
            (&source[16..48], &source[48..176])
        } else {
            (&[][..], &source[16..144])
        };
        for blk in 0..8 {
            let to = &mut target[Q4K::HEADER + blk * block..][..block];
            // 64 columns share 32 bytes: the even block in the low nibbles, the odd one in the high.
            let bytes = &qs[blk / 2 * 32..][..32];
            let mut codes = [0_u8; 32];
            for (code, byte) in codes.iter_mut().zip(bytes) {
                *code = if blk % 2 == 0 { byte & 15 } else { byte >> 4 };
            }
            put_codes(codes, lane, to);
            if fifth {
                let bits = high
                    .iter()
                    .rev()
                    .fold(0_u32, |bits, byte| bits << 1 | u32::from(byte >> blk & 1));
                put_fifth(bits, lane, &mut to[256..320]);
            }
            let (scale, min) = if blk < 4 {
                (packed[blk] & 63, packed[blk + 4] & 63)
            } else {
                (
                    packed[blk + 4] & 15 | (packed[blk - 4] >> 6) << 4,
                    packed[blk + 4] >> 4 | (packed[blk] >> 6) << 4,
                )
            };
            to[scales_at + lane] = scale;
            to[scales_at + 16 + lane] = min;
        }
    }
}

/// 32 codes in column order into the nibble plane.
fn put_codes(codes: [u8; 32], lane: usize, to: &mut [u8]) {
    for g in 0..4 {
        for j in 0..4 {
            to[64 * g + 4 * lane + j] = (codes[8 * g + j] & 15) | (codes[8 * g + 4 + j] & 15) << 4;
        }
    }
}

/// `Q6_K`: 128 low bytes, 64 high bytes, 16 scales, d. Source: ggml-quants `dequantize_row_q6_K`.
fn six_row(row: &[u8], lane: usize, panel: &mut [u8]) {
    for (source, target) in row
        .chunks_exact(210)
        .zip(panel.chunks_exact_mut(Q6K::BYTES))
    {
        let (low, rest) = source.split_at(128);
        let (high, rest) = rest.split_at(64);
        let (scales, d) = rest.split_at(16);
        put_half(d, lane, target);
        let mut codes = [0_u8; 256];
        for half in 0..2 {
            for l in 0..32 {
                let h = high[32 * half + l];
                let (a, b) = (low[64 * half + l], low[64 * half + l + 32]);
                codes[128 * half + l] = a & 15 | (h & 3) << 4;
                codes[128 * half + l + 32] = b & 15 | (h >> 2 & 3) << 4;
                codes[128 * half + l + 64] = a >> 4 | (h >> 4 & 3) << 4;
                codes[128 * half + l + 96] = b >> 4 | (h >> 6) << 4;
            }
        }
        for blk in 0..8 {
            let to = &mut target[Q6K::HEADER + blk * Q6K::BLOCK..][..Q6K::BLOCK];
            let mut block = [0_u8; 32];
            block.copy_from_slice(&codes[32 * blk..32 * blk + 32]);
            put_codes(block, lane, to);
            for (col, code) in block.into_iter().enumerate() {
                let k4 = col / 4;
                to[256 + 64 * (k4 / 4) + 4 * lane + col % 4] |= (code >> 4) << (2 * (k4 % 4));
            }
            to[384 + lane] = scales[2 * blk];
            to[400 + lane] = scales[2 * blk + 1];
        }
    }
}

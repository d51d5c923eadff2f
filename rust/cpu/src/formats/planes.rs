//! Planes: where the bits of a block's codes and scales lie, as vectors (for kernels) and one by one (the definition).

use half::f16;

use crate::simd::Isa;

#[inline(always)]
pub(super) unsafe fn nibbles<I: Isa>(plane: *const u8, g: usize) -> (I::B, I::B) {
    // SAFETY: `plane` holds 256 bytes and `g < 4`; features are the caller's.
    unsafe {
        let low = I::b_set(15);
        let x = I::b_load(plane.add(64 * g));
        (I::b_and(x, low), I::b_and(I::b_shr::<4>(x), low))
    }
}

#[inline(always)]
pub(super) unsafe fn nibble_at(plane: *const u8, row: usize, col: usize) -> u8 {
    // SAFETY: `row < 16`, `col < 32`: within 256 bytes.
    let byte = unsafe { *plane.add((col / 8) * 64 + row * 4 + col % 4) };
    if col % 8 < 4 { byte & 15 } else { byte >> 4 }
}

/// A bit plane: one 64-bit mask per group of four columns, bit `4 * row + col % 4`. Adds `value` to the codes whose bit
/// is set; they do not have those bits yet.
#[inline(always)]
pub(super) unsafe fn with_bit<I: Isa>(
    plane: *const u8,
    g: usize,
    codes: (I::B, I::B),
    value: u8,
) -> (I::B, I::B) {
    // SAFETY: `plane` holds 8 masks and `g < 4`.
    unsafe {
        let mask = plane.cast::<u64>();
        let even = I::b_mask(mask.add(2 * g).read_unaligned(), value);
        let odd = I::b_mask(mask.add(2 * g + 1).read_unaligned(), value);
        (I::b_or(codes.0, even), I::b_or(codes.1, odd))
    }
}

#[inline(always)]
pub(super) unsafe fn bit_at(plane: *const u8, row: usize, col: usize) -> u8 {
    // SAFETY: `col / 4 < 8`.
    let mask = unsafe { plane.cast::<u64>().add(col / 4).read_unaligned() };
    (mask >> (row * 4 + col % 4) & 1) as u8
}

/// A two-bit plane: byte `64 * (k4 / 4) + 4 * row + col % 4` holds the bits of column groups `k4 = col / 4`, those of
/// `k4 % 4` at bit `2 * (k4 % 4)`. They are moved to bit `TO` of their codes.
#[inline(always)]
pub(super) unsafe fn two_bits<I: Isa, const TO: i32>(plane: *const u8, g: usize) -> (I::B, I::B) {
    // SAFETY: `plane` holds 128 bytes and `g < 4`.
    unsafe {
        let x = I::b_load(plane.add(64 * (g / 2)));
        let mask = I::b_set(3 << TO);
        let from = if g.is_multiple_of(2) { 0 } else { 4 };
        (
            I::b_and(moved::<I>(x, TO - from), mask),
            I::b_and(moved::<I>(x, TO - from - 2), mask),
        )
    }
}

/// Bits of each byte moved up by `by`, which the optimiser knows; the rest of the byte is garbage.
#[inline(always)]
unsafe fn moved<I: Isa>(x: I::B, by: i32) -> I::B {
    // SAFETY: features of the caller.
    unsafe {
        match by {
            -6 => I::b_shr::<6>(x),
            -4 => I::b_shr::<4>(x),
            -3 => I::b_shr::<3>(x),
            -2 => I::b_shr::<2>(x),
            -1 => I::b_shr::<1>(x),
            1 => I::b_shl::<1>(x),
            2 => I::b_shl::<2>(x),
            3 => I::b_shl::<3>(x),
            4 => I::b_shl::<4>(x),
            _ => x,
        }
    }
}

#[inline(always)]
pub(super) unsafe fn two_bits_at(plane: *const u8, row: usize, col: usize) -> u8 {
    let k4 = col / 4;
    // SAFETY: `k4 < 8`, `row < 16`: within 128 bytes.
    let byte = unsafe { *plane.add(64 * (k4 / 4) + row * 4 + col % 4) };
    byte >> (2 * (k4 % 4)) & 3
}

/// The 6-bit pairs of eight blocks, much as the files have them: `[4][16]` bytes with the first numbers of blocks 0..4
/// and, in their upper two bits, those of the first numbers of blocks 4..8; the same of the second numbers; `[4][16]`
/// bytes with the low nibbles of the first and of the second numbers of blocks 4..8. `SECOND` is 0 or 1.
///
/// The branch is cheaper than shifts by a variable: it repeats every eight blocks, so it is always predicted.
#[inline(always)]
pub(super) unsafe fn six_bit_pair<I: Isa, const SECOND: u32>(plane: *const u8, blk: usize) -> I::I {
    // SAFETY: `plane` holds 192 bytes and `blk < 8`.
    unsafe {
        let whole = plane.add(64 * SECOND as usize);
        if blk < 4 {
            return I::i_and(I::i_load_u8(whole.add(16 * blk)), I::i_set(63));
        }
        let low = I::i_load_u8(plane.add(128 + 16 * (blk - 4)));
        let low = I::i_and(I::i_shr(low, 4 * SECOND), I::i_set(15));
        with_upper_bits::<I>(low, whole.add(16 * (blk - 4)))
    }
}

/// Four low bits, and two that are the upper ones of the bytes at `p`.
#[inline(always)]
unsafe fn with_upper_bits<I: Isa>(low: I::I, p: *const u8) -> I::I {
    // SAFETY: 16 bytes at `p`.
    unsafe {
        let high = I::i_and(I::i_shr(I::i_load_u8(p), 2), I::i_set(0x30));
        I::i_add(low, high)
    }
}

#[inline(always)]
pub(super) unsafe fn six_bit_pair_at(plane: *const u8, blk: usize, row: usize) -> (u8, u8) {
    // SAFETY: `blk < 8`, `row < 16`: within 192 bytes.
    unsafe {
        let at = 16 * (blk % 4) + row;
        let (first, second) = (*plane.add(at), *plane.add(64 + at));
        if blk < 4 {
            return (first & 63, second & 63);
        }
        let low = *plane.add(128 + at);
        (low & 15 | (first >> 6) << 4, low >> 4 | (second >> 6) << 4)
    }
}

/// The 6-bit numbers of eight blocks: `[4][16]` bytes with those of blocks 0..4 and, in their upper two bits, those of
/// blocks 4..8; `[2][16]` bytes with the low nibbles of blocks 4..8, even blocks in the low half.
#[inline(always)]
pub(super) unsafe fn six_bits<I: Isa>(plane: *const u8, blk: usize) -> I::I {
    // SAFETY: `plane` holds 96 bytes and `blk < 8`.
    unsafe {
        if blk < 4 {
            return I::i_and(I::i_load_u8(plane.add(16 * blk)), I::i_set(63));
        }
        let low = I::i_load_u8(plane.add(64 + 16 * ((blk - 4) / 2)));
        let low = if blk.is_multiple_of(2) {
            I::i_and(low, I::i_set(15))
        } else {
            I::i_shr(low, 4)
        };
        with_upper_bits::<I>(low, plane.add(16 * (blk - 4)))
    }
}

#[inline(always)]
pub(super) unsafe fn six_bits_at(plane: *const u8, blk: usize, row: usize) -> u8 {
    // SAFETY: `blk < 8`, `row < 16`: within 96 bytes.
    unsafe {
        let whole = *plane.add(16 * (blk % 4) + row);
        if blk < 4 {
            return whole & 63;
        }
        let low = *plane.add(64 + 16 * ((blk - 4) / 2) + row);
        low >> (4 * (blk % 2)) & 15 | (whole >> 6) << 4
    }
}

#[inline(always)]
pub(super) unsafe fn f16_at(p: *const u8, i: usize) -> f32 {
    // SAFETY: the caller's row of 16 half floats.
    f16::from_bits(unsafe { p.cast::<u16>().add(i).read_unaligned() }).to_f32()
}

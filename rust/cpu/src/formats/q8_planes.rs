//! `Q8_0` in two planes, for the `lm_head`: the upper six bits of every code lie together and bound what the whole code can
//! give; the lower two, in a second plane behind all panels, are read for what may matter. See `crate::screen`.

use super::planes::{f16_at, nibble_at, nibbles, two_bits, two_bits_at};
use super::{Format, HALF_ROW, NIBBLES, TWO_BITS};
use crate::simd::{Codes, Isa};

/// 256 B nibbles with bits 2 to 5 of the codes, a two-bit plane with bits 6 and 7, 16 f16 scales; in the second plane a
/// two-bit plane with bits 0 and 1.
#[derive(Clone, Copy)]
pub(crate) struct Q8Planes;

impl Q8Planes {
    /// Where the scales begin.
    pub(crate) const SCALES: usize = NIBBLES + TWO_BITS;
}

impl Codes for Q8Planes {
    const MAX_CODE: u8 = 255;
}

/// Codes without their lowest two bits: bits 2 to 7, in place.
#[inline(always)]
unsafe fn upper_codes<I: Isa>(sup: *const u8, g: usize) -> (I::B, I::B) {
    // SAFETY: the caller's block.
    unsafe {
        let middle = nibbles::<I>(sup, g);
        let upper = two_bits::<I, 4>(sup.add(NIBBLES), g);
        (
            I::b_shl::<2>(I::b_or(middle.0, upper.0)),
            I::b_shl::<2>(I::b_or(middle.1, upper.1)),
        )
    }
}

impl Format for Q8Planes {
    const BLOCKS: usize = 1;
    const BYTES: usize = Self::SCALES + HALF_ROW;
    const SECOND_BYTES: usize = TWO_BITS;
    const ZERO: i32 = 128;
    const HAS_MIN: bool = false;
    const HALVES: bool = false;

    #[inline(always)]
    unsafe fn codes<I: Isa>(
        sup: *const u8,
        second: *const u8,
        _blk: usize,
        g: usize,
    ) -> (I::B, I::B) {
        // SAFETY: the caller's block, in both planes.
        unsafe {
            let upper = upper_codes::<I>(sup, g);
            let lower = two_bits::<I, 0>(second, g);
            (I::b_or(upper.0, lower.0), I::b_or(upper.1, lower.1))
        }
    }
    #[inline(always)]
    unsafe fn scale<I: Isa>(sup: *const u8, _blk: usize, _half: usize) -> I::F {
        // SAFETY: scales follow the codes.
        unsafe { I::load_f16(sup.add(Self::SCALES).cast()) }
    }
    #[inline(always)]
    unsafe fn code_at(
        sup: *const u8,
        second: *const u8,
        _blk: usize,
        row: usize,
        col: usize,
    ) -> u8 {
        // SAFETY: `row < 16`, `col < 32`.
        unsafe {
            let upper = nibble_at(sup, row, col) | two_bits_at(sup.add(NIBBLES), row, col) << 4;
            upper << 2 | two_bits_at(second, row, col)
        }
    }
    #[inline(always)]
    unsafe fn scale_at(sup: *const u8, _blk: usize, row: usize, _col: usize) -> f32 {
        // SAFETY: scales follow the codes.
        unsafe { f16_at(sup.add(Self::SCALES), row) }
    }
}

/// The first plane of [`Q8Planes`] alone: every code is taken for [`Q8Upper::code`].
#[derive(Clone, Copy)]
pub(crate) struct Q8Upper;

impl Q8Upper {
    /// The code that stands for all with the same upper six bits: one of the middle two of four.
    pub(crate) const fn code(code: u8) -> u8 {
        code & !3 | 2
    }
}

impl Codes for Q8Upper {
    const MAX_CODE: u8 = 255;
}

impl Format for Q8Upper {
    const BLOCKS: usize = 1;
    const BYTES: usize = Q8Planes::BYTES;
    const ZERO: i32 = Q8Planes::ZERO;
    const HAS_MIN: bool = false;
    const HALVES: bool = false;

    #[inline(always)]
    unsafe fn codes<I: Isa>(
        sup: *const u8,
        _second: *const u8,
        _blk: usize,
        g: usize,
    ) -> (I::B, I::B) {
        // SAFETY: the caller's block.
        unsafe {
            let upper = upper_codes::<I>(sup, g);
            let middle = I::b_set(Self::code(0));
            (I::b_or(upper.0, middle), I::b_or(upper.1, middle))
        }
    }
    #[inline(always)]
    unsafe fn scale<I: Isa>(sup: *const u8, blk: usize, half: usize) -> I::F {
        // SAFETY: the caller's block.
        unsafe { Q8Planes::scale::<I>(sup, blk, half) }
    }
    #[inline(always)]
    unsafe fn code_at(
        sup: *const u8,
        _second: *const u8,
        _blk: usize,
        row: usize,
        col: usize,
    ) -> u8 {
        // SAFETY: `row < 16`, `col < 32`.
        let upper =
            unsafe { nibble_at(sup, row, col) | two_bits_at(sup.add(NIBBLES), row, col) << 4 };
        Self::code(upper << 2)
    }
    #[inline(always)]
    unsafe fn scale_at(sup: *const u8, blk: usize, row: usize, col: usize) -> f32 {
        // SAFETY: the caller's block.
        unsafe { Q8Planes::scale_at(sup, blk, row, col) }
    }
}

//! Blocks of 32 with one f16 scale (and minimum): `Q4_0` … `Q8_0`.

use super::planes::{bit_at, f16_at, nibble_at, nibbles, with_bit};
use super::{Format, HALF_ROW, NIBBLES, ONE_BIT};
use crate::simd::{Codes, Isa};

macro_rules! round_quant {
    ($(#[$doc:meta])* $name:ident, zero $zero:literal, min $min:literal, fifth $fifth:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(crate) struct $name;

        impl $name {
            /// Where the scales begin; minima follow.
            pub(crate) const SCALES: usize = NIBBLES + if $fifth { ONE_BIT } else { 0 };
        }

        impl Codes for $name {
            const MAX_CODE: u8 = if $fifth { 31 } else { 15 };
        }

        impl Format for $name {
            const BLOCKS: usize = 1;
            const BYTES: usize = Self::SCALES + HALF_ROW + if $min { HALF_ROW } else { 0 };
            const ZERO: i32 = $zero;
            const HAS_MIN: bool = $min;
            const HALVES: bool = false;

            #[inline(always)]
            unsafe fn codes<I: Isa>(sup: *const u8, _second: *const u8, _blk: usize, g: usize) -> (I::B, I::B) {
                // SAFETY: planes lie within BYTES.
                unsafe {
                    let low = nibbles::<I>(sup, g);
                    if $fifth { with_bit::<I>(sup.add(NIBBLES), g, low, 16) } else { low }
                }
            }
            #[inline(always)]
            unsafe fn scale<I: Isa>(sup: *const u8, _blk: usize, _half: usize) -> I::F {
                // SAFETY: scales lie within BYTES.
                unsafe { I::load_f16(sup.add(Self::SCALES).cast()) }
            }
            #[inline(always)]
            unsafe fn min<I: Isa>(sup: *const u8, _blk: usize, _half: usize) -> I::F {
                // SAFETY: read only where HAS_MIN.
                unsafe { if $min { I::load_f16(sup.add(Self::SCALES + HALF_ROW).cast()) } else { I::zero() } }
            }
            #[inline(always)]
            unsafe fn code_at(sup: *const u8, _second: *const u8, _blk: usize, row: usize, col: usize) -> u8 {
                // SAFETY: planes lie within BYTES.
                unsafe {
                    let low = nibble_at(sup, row, col);
                    if $fifth { low | bit_at(sup.add(NIBBLES), row, col) << 4 } else { low }
                }
            }
            #[inline(always)]
            unsafe fn scale_at(sup: *const u8, _blk: usize, row: usize, _col: usize) -> f32 {
                // SAFETY: scales lie within BYTES.
                unsafe { f16_at(sup.add(Self::SCALES), row) }
            }
            #[inline(always)]
            unsafe fn min_at(sup: *const u8, _blk: usize, row: usize, _col: usize) -> f32 {
                // SAFETY: read only where HAS_MIN.
                if $min { unsafe { f16_at(sup.add(Self::SCALES + HALF_ROW), row) } } else { 0.0 }
            }
        }
    };
}

round_quant! {
    /// 256 B nibbles, 16 f16 scales.
    Q4_0, zero 8, min false, fifth false
}
round_quant! {
    /// 256 B nibbles, 16 f16 scales, 16 f16 minima.
    Q4_1, zero 0, min true, fifth false
}
round_quant! {
    /// 256 B nibbles, 64 B fifth bits, 16 f16 scales.
    Q5_0, zero 16, min false, fifth true
}
round_quant! {
    /// 256 B nibbles, 64 B fifth bits, 16 f16 scales, 16 f16 minima.
    Q5_1, zero 0, min true, fifth true
}

/// 512 B codes stored + 128, `[8 groups of 4 columns][16 rows][4]`, 16 f16 scales.
#[derive(Clone, Copy)]
pub(crate) struct Q8_0;

impl Q8_0 {
    /// Where the scales begin.
    pub(crate) const SCALES: usize = 512;
}

impl Codes for Q8_0 {
    const MAX_CODE: u8 = 255;
}

impl Format for Q8_0 {
    const BLOCKS: usize = 1;
    const BYTES: usize = Self::SCALES + HALF_ROW;
    const ZERO: i32 = 128;
    const HAS_MIN: bool = false;
    const HALVES: bool = false;

    #[inline(always)]
    unsafe fn codes<I: Isa>(
        sup: *const u8,
        _second: *const u8,
        _blk: usize,
        g: usize,
    ) -> (I::B, I::B) {
        // SAFETY: 512 bytes of codes.
        unsafe {
            (
                I::b_load(sup.add(128 * g)),
                I::b_load(sup.add(128 * g + 64)),
            )
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
        _second: *const u8,
        _blk: usize,
        row: usize,
        col: usize,
    ) -> u8 {
        // SAFETY: `row < 16`, `col < 32`.
        unsafe { *sup.add((col / 4) * 64 + row * 4 + col % 4) }
    }
    #[inline(always)]
    unsafe fn scale_at(sup: *const u8, _blk: usize, row: usize, _col: usize) -> f32 {
        // SAFETY: scales follow the codes.
        unsafe { f16_at(sup.add(Self::SCALES), row) }
    }
}

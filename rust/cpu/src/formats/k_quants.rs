//! Eight blocks under f16 scales whose blocks have small integers as scales (and minima): `Q2_K` … `Q6_K`.

use super::planes::{
    bit_at, f16_at, nibble_at, nibbles, six_bit_pair, six_bit_pair_at, two_bits, two_bits_at,
    with_bit,
};
use super::{Format, HALF_ROW, NIBBLES, ONE_BIT, SIX_BIT_PAIRS, TWO_BITS};
use crate::simd::{Codes, Isa};

macro_rules! k_quant {
    ($(#[$doc:meta])* $name:ident, fifth $fifth:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(crate) struct $name;

        impl $name {
            /// Where the pairs of scale and minimum begin: after 16 f16 `d` and 16 f16 `dmin`.
            pub(crate) const PAIRS: usize = 2 * HALF_ROW;
            /// Where the first block's planes begin, and their bytes.
            pub(crate) const HEADER: usize = Self::PAIRS + SIX_BIT_PAIRS;
            pub(crate) const BLOCK: usize = NIBBLES + if $fifth { ONE_BIT } else { 0 };
        }

        impl Codes for $name {
            const MAX_CODE: u8 = if $fifth { 31 } else { 15 };
        }

        impl Format for $name {
            const BLOCKS: usize = 8;
            const BYTES: usize = Self::HEADER + 8 * Self::BLOCK;
            const ZERO: i32 = 0;
            const HAS_MIN: bool = true;
            const HALVES: bool = false;

            #[inline(always)]
            unsafe fn codes<I: Isa>(sup: *const u8, _second: *const u8, blk: usize, g: usize) -> (I::B, I::B) {
                // SAFETY: `blk < 8`: within BYTES.
                unsafe {
                    let p = sup.add(Self::HEADER + blk * Self::BLOCK);
                    let low = nibbles::<I>(p, g);
                    if $fifth { with_bit::<I>(p.add(NIBBLES), g, low, 16) } else { low }
                }
            }
            #[inline(always)]
            unsafe fn scale<I: Isa>(sup: *const u8, blk: usize, _half: usize) -> I::F {
                // SAFETY: as above.
                unsafe {
                    let scale = six_bit_pair::<I, 0>(sup.add(Self::PAIRS), blk);
                    I::mul(I::load_f16(sup.cast()), I::to_f(scale))
                }
            }
            /// `-(dmin * m)`: the K-quants subtract their minimum.
            #[inline(always)]
            unsafe fn min<I: Isa>(sup: *const u8, blk: usize, _half: usize) -> I::F {
                // SAFETY: as above.
                unsafe {
                    let min = I::to_f(six_bit_pair::<I, 1>(sup.add(Self::PAIRS), blk));
                    // A sign flip, not `0 - x`: the reference's `d * q - 0` keeps the sign of a zero.
                    I::mul(I::set(-1.0), I::mul(I::load_f16(sup.add(HALF_ROW).cast()), min))
                }
            }
            #[inline(always)]
            unsafe fn code_at(sup: *const u8, _second: *const u8, blk: usize, row: usize, col: usize) -> u8 {
                // SAFETY: as above.
                unsafe {
                    let p = sup.add(Self::HEADER + blk * Self::BLOCK);
                    let low = nibble_at(p, row, col);
                    if $fifth { low | bit_at(p.add(NIBBLES), row, col) << 4 } else { low }
                }
            }
            #[inline(always)]
            unsafe fn scale_at(sup: *const u8, blk: usize, row: usize, _col: usize) -> f32 {
                // SAFETY: as above.
                unsafe {
                    let (scale, _) = six_bit_pair_at(sup.add(Self::PAIRS), blk, row);
                    f16_at(sup, row) * f32::from(scale)
                }
            }
            #[inline(always)]
            unsafe fn min_at(sup: *const u8, blk: usize, row: usize, _col: usize) -> f32 {
                // SAFETY: as above.
                unsafe {
                    let (_, min) = six_bit_pair_at(sup.add(Self::PAIRS), blk, row);
                    -(f16_at(sup.add(HALF_ROW), row) * f32::from(min))
                }
            }
        }
    };
}

k_quant! {
    /// 16 f16 `d`, 16 f16 `dmin`, pairs of 6-bit scale and minimum (`planes.rs`), eight nibble planes.
    Q4K, fifth false
}
k_quant! {
    /// As `Q4K`, with 64 B fifth bits after each nibble plane.
    Q5K, fifth true
}

/// 16 f16 `d`, then eight blocks of 256 B low nibbles, 128 B two-bit planes and `[2][16]` i8 scales (per 16 columns).
#[derive(Clone, Copy)]
pub(crate) struct Q6K;

impl Q6K {
    /// Where the first block's planes begin.
    pub(crate) const HEADER: usize = HALF_ROW;
    /// Where the scales lie within a block, and its bytes.
    pub(crate) const SCALES: usize = NIBBLES + TWO_BITS;
    pub(crate) const BLOCK: usize = Self::SCALES + 32;
}

impl Codes for Q6K {
    const MAX_CODE: u8 = 63;
}

impl Format for Q6K {
    const BLOCKS: usize = 8;
    const BYTES: usize = Self::HEADER + 8 * Self::BLOCK;
    const ZERO: i32 = 32;
    const HAS_MIN: bool = false;
    const HALVES: bool = true;

    #[inline(always)]
    unsafe fn codes<I: Isa>(
        sup: *const u8,
        _second: *const u8,
        blk: usize,
        g: usize,
    ) -> (I::B, I::B) {
        // SAFETY: `blk < 8`, `g < 4`: within BYTES.
        unsafe {
            let p = sup.add(Self::HEADER + blk * Self::BLOCK);
            let low = nibbles::<I>(p, g);
            let high = two_bits::<I, 4>(p.add(NIBBLES), g);
            (I::b_or(low.0, high.0), I::b_or(low.1, high.1))
        }
    }
    #[inline(always)]
    unsafe fn scale<I: Isa>(sup: *const u8, blk: usize, half: usize) -> I::F {
        // SAFETY: as above.
        unsafe {
            let at = Self::HEADER + blk * Self::BLOCK + Self::SCALES + 16 * half;
            let scale = I::i_load_i8(sup.add(at).cast());
            I::mul(I::load_f16(sup.cast()), I::to_f(scale))
        }
    }
    #[inline(always)]
    unsafe fn code_at(
        sup: *const u8,
        _second: *const u8,
        blk: usize,
        row: usize,
        col: usize,
    ) -> u8 {
        // SAFETY: as above.
        unsafe {
            let p = sup.add(Self::HEADER + blk * Self::BLOCK);
            nibble_at(p, row, col) | two_bits_at(p.add(NIBBLES), row, col) << 4
        }
    }
    #[inline(always)]
    unsafe fn scale_at(sup: *const u8, blk: usize, row: usize, col: usize) -> f32 {
        // SAFETY: as above.
        unsafe {
            let at = Self::HEADER + blk * Self::BLOCK + Self::SCALES + 16 * (col / 16) + row;
            f16_at(sup, row) * f32::from((*sup.add(at)).cast_signed())
        }
    }
}

/// 16 f16 `d`, pairs of 6-bit scales per 16 columns (`planes.rs`), then eight blocks of 128 B two-bit planes and 64 B
/// third bits.
///
/// Codes are eight times the file's (bits 3 to 5) and scales an eighth, `d * (s - 32) / 8`: with that, the zero point is
/// 32 like that of `Q6K`, and so is all arithmetic. A power of two changes no rounding.
#[derive(Clone, Copy)]
pub(crate) struct Q3K;

impl Q3K {
    /// Where the pairs of scales begin.
    pub(crate) const PAIRS: usize = HALF_ROW;
    /// Where the first block's planes begin, and their bytes.
    pub(crate) const HEADER: usize = Self::PAIRS + SIX_BIT_PAIRS;
    pub(crate) const BLOCK: usize = TWO_BITS + ONE_BIT;
    const EIGHTH: f32 = 0.125;
}

impl Codes for Q3K {
    const MAX_CODE: u8 = 56;
}

impl Format for Q3K {
    const BLOCKS: usize = 8;
    const BYTES: usize = Self::HEADER + 8 * Self::BLOCK;
    const ZERO: i32 = 32;
    const HAS_MIN: bool = false;
    const HALVES: bool = true;

    #[inline(always)]
    unsafe fn codes<I: Isa>(
        sup: *const u8,
        _second: *const u8,
        blk: usize,
        g: usize,
    ) -> (I::B, I::B) {
        // SAFETY: `blk < 8`, `g < 4`: within BYTES.
        unsafe {
            let p = sup.add(Self::HEADER + blk * Self::BLOCK);
            with_bit::<I>(p.add(TWO_BITS), g, two_bits::<I, 3>(p, g), 32)
        }
    }
    #[inline(always)]
    unsafe fn scale<I: Isa>(sup: *const u8, blk: usize, half: usize) -> I::F {
        // SAFETY: as above.
        unsafe {
            let pairs = sup.add(Self::PAIRS);
            let scale = if half == 0 {
                six_bit_pair::<I, 0>(pairs, blk)
            } else {
                six_bit_pair::<I, 1>(pairs, blk)
            };
            let scale = I::to_f(I::i_add(scale, I::i_set(-32)));
            I::mul(I::load_f16(sup.cast()), I::mul(scale, I::set(Self::EIGHTH)))
        }
    }
    #[inline(always)]
    unsafe fn code_at(
        sup: *const u8,
        _second: *const u8,
        blk: usize,
        row: usize,
        col: usize,
    ) -> u8 {
        // SAFETY: as above.
        unsafe {
            let p = sup.add(Self::HEADER + blk * Self::BLOCK);
            two_bits_at(p, row, col) << 3 | bit_at(p.add(TWO_BITS), row, col) << 5
        }
    }
    #[inline(always)]
    unsafe fn scale_at(sup: *const u8, blk: usize, row: usize, col: usize) -> f32 {
        // SAFETY: as above.
        unsafe {
            let (first, second) = six_bit_pair_at(sup.add(Self::PAIRS), blk, row);
            let scale = if col < 16 { first } else { second };
            f16_at(sup, row) * ((f32::from(scale) - 32.0) * Self::EIGHTH)
        }
    }
}

/// 16 f16 `d`, 16 f16 `dmin`, `[8][2][16]` bytes of 4-bit scale (low) and minimum (high) per 16 columns, then eight
/// two-bit planes.
///
/// Codes are stored + 32 for the sake of the start values alone, which hold the sums of the activations per 16 columns
/// that the minima need.
#[derive(Clone, Copy)]
pub(crate) struct Q2K;

impl Q2K {
    /// Where the pairs of scale and minimum begin.
    pub(crate) const PAIRS: usize = 2 * HALF_ROW;
    /// Where the first two-bit plane begins.
    pub(crate) const HEADER: usize = Self::PAIRS + 256;
}

impl Codes for Q2K {
    const MAX_CODE: u8 = 35;
}

impl Format for Q2K {
    const BLOCKS: usize = 8;
    const BYTES: usize = Self::HEADER + 8 * TWO_BITS;
    const ZERO: i32 = 32;
    const HAS_MIN: bool = true;
    const HALVES: bool = true;

    #[inline(always)]
    unsafe fn codes<I: Isa>(
        sup: *const u8,
        _second: *const u8,
        blk: usize,
        g: usize,
    ) -> (I::B, I::B) {
        // SAFETY: `blk < 8`, `g < 4`: within BYTES.
        unsafe {
            let codes = two_bits::<I, 0>(sup.add(Self::HEADER + blk * TWO_BITS), g);
            let zero = I::b_set(32);
            (I::b_or(codes.0, zero), I::b_or(codes.1, zero))
        }
    }
    #[inline(always)]
    unsafe fn scale<I: Isa>(sup: *const u8, blk: usize, half: usize) -> I::F {
        // SAFETY: as above.
        unsafe {
            let pair = I::i_load_u8(sup.add(Self::PAIRS + 32 * blk + 16 * half));
            let scale = I::to_f(I::i_and(pair, I::i_set(15)));
            I::mul(I::load_f16(sup.cast()), scale)
        }
    }
    /// `-(dmin * m)`, by sign flip as in `Q4K`.
    #[inline(always)]
    unsafe fn min<I: Isa>(sup: *const u8, blk: usize, half: usize) -> I::F {
        // SAFETY: as above.
        unsafe {
            let pair = I::i_load_u8(sup.add(Self::PAIRS + 32 * blk + 16 * half));
            let min = I::to_f(I::i_shr(pair, 4));
            I::mul(
                I::set(-1.0),
                I::mul(I::load_f16(sup.add(HALF_ROW).cast()), min),
            )
        }
    }
    #[inline(always)]
    unsafe fn code_at(
        sup: *const u8,
        _second: *const u8,
        blk: usize,
        row: usize,
        col: usize,
    ) -> u8 {
        // SAFETY: as above.
        unsafe { two_bits_at(sup.add(Self::HEADER + blk * TWO_BITS), row, col) | 32 }
    }
    #[inline(always)]
    unsafe fn scale_at(sup: *const u8, blk: usize, row: usize, col: usize) -> f32 {
        // SAFETY: as above.
        unsafe {
            let pair = *sup.add(Self::PAIRS + 32 * blk + 16 * (col / 16) + row);
            f16_at(sup, row) * f32::from(pair & 15)
        }
    }
    #[inline(always)]
    unsafe fn min_at(sup: *const u8, blk: usize, row: usize, col: usize) -> f32 {
        // SAFETY: as above.
        unsafe {
            let pair = *sup.add(Self::PAIRS + 32 * blk + 16 * (col / 16) + row);
            -(f16_at(sup.add(HALF_ROW), row) * f32::from(pair >> 4))
        }
    }
}

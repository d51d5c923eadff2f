//! Nibbles that look up one of 16 values: `IQ4_NL`, `IQ4_XS`, `MXFP4`. The tables hold `value + ZERO`.
//!
//! Sources: ggml's `ggml-quants.c`; the OCP Microscaling Formats (MX) specification 1.0 for E2M1 and E8M0.

use super::planes::{f16_at, nibble_at, nibbles, six_bits, six_bits_at};
use super::{Format, HALF_ROW, NIBBLES, SIX_BITS};
use crate::simd::{Codes, Isa};

/// ggml's `kvalues_iq4nl` (−127 … 113), + 128.
const IQ4: [u8; 16] = [
    1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241,
];
/// Twice the values of E2M1 (0 … 6, then their negatives; −0 is 0 as in ggml), + 16. The scale is halved in return.
const E2M1: [u8; 16] = [16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4];

#[inline(always)]
unsafe fn look_up<I: Isa>(table: &[u8; 16], plane: *const u8, g: usize) -> (I::B, I::B) {
    // SAFETY: the caller's nibble plane; nibbles are below 16.
    unsafe {
        let (even, odd) = nibbles::<I>(plane, g);
        (I::b_lookup(table, even), I::b_lookup(table, odd))
    }
}

/// 256 B nibbles, 16 f16 scales.
#[derive(Clone, Copy)]
pub(crate) struct Iq4Nl;

impl Codes for Iq4Nl {
    const MAX_CODE: u8 = 241;
}

impl Format for Iq4Nl {
    const BLOCKS: usize = 1;
    const BYTES: usize = NIBBLES + HALF_ROW;
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
        // SAFETY: nibbles come first.
        unsafe { look_up::<I>(&IQ4, sup, g) }
    }
    #[inline(always)]
    unsafe fn scale<I: Isa>(sup: *const u8, _blk: usize, _half: usize) -> I::F {
        // SAFETY: scales follow the nibbles.
        unsafe { I::load_f16(sup.add(NIBBLES).cast()) }
    }
    #[inline(always)]
    unsafe fn code_at(
        sup: *const u8,
        _second: *const u8,
        _blk: usize,
        row: usize,
        col: usize,
    ) -> u8 {
        // SAFETY: nibbles come first.
        IQ4[usize::from(unsafe { nibble_at(sup, row, col) })]
    }
    #[inline(always)]
    unsafe fn scale_at(sup: *const u8, _blk: usize, row: usize, _col: usize) -> f32 {
        // SAFETY: scales follow the nibbles.
        unsafe { f16_at(sup.add(NIBBLES), row) }
    }
}

/// 256 B nibbles, 16 exponent bytes (E8M0).
#[derive(Clone, Copy)]
pub(crate) struct Mxfp4;

impl Codes for Mxfp4 {
    const MAX_CODE: u8 = 28;
}

impl Format for Mxfp4 {
    const BLOCKS: usize = 1;
    const BYTES: usize = NIBBLES + 16;
    const ZERO: i32 = 16;
    const HAS_MIN: bool = false;
    const HALVES: bool = false;

    #[inline(always)]
    unsafe fn codes<I: Isa>(
        sup: *const u8,
        _second: *const u8,
        _blk: usize,
        g: usize,
    ) -> (I::B, I::B) {
        // SAFETY: nibbles come first.
        unsafe { look_up::<I>(&E2M1, sup, g) }
    }
    #[inline(always)]
    unsafe fn scale<I: Isa>(sup: *const u8, _blk: usize, _half: usize) -> I::F {
        // SAFETY: exponents follow the nibbles.
        unsafe { I::load_half_e8m0(sup.add(NIBBLES)) }
    }
    #[inline(always)]
    unsafe fn code_at(
        sup: *const u8,
        _second: *const u8,
        _blk: usize,
        row: usize,
        col: usize,
    ) -> u8 {
        // SAFETY: nibbles come first.
        E2M1[usize::from(unsafe { nibble_at(sup, row, col) })]
    }
    #[inline(always)]
    unsafe fn scale_at(sup: *const u8, _blk: usize, row: usize, _col: usize) -> f32 {
        // SAFETY: exponents follow the nibbles.
        let exponent = u32::from(unsafe { *sup.add(NIBBLES + row) });
        // 2^(exponent - 128); the lowest two are subnormal.
        f32::from_bits(match exponent {
            0 | 1 => 0x0020_0000 << exponent,
            _ => (exponent - 1) << 23,
        })
    }
}

/// 16 f16 `d`, 6-bit scales of eight blocks (`planes.rs`), then eight nibble planes. A block's scale is `d * (s - 32)`.
#[derive(Clone, Copy)]
pub(crate) struct Iq4Xs;

impl Iq4Xs {
    /// Where the first nibble plane begins.
    pub(crate) const HEADER: usize = HALF_ROW + SIX_BITS;
}

impl Codes for Iq4Xs {
    const MAX_CODE: u8 = 241;
}

impl Format for Iq4Xs {
    const BLOCKS: usize = 8;
    const BYTES: usize = Self::HEADER + 8 * NIBBLES;
    const ZERO: i32 = 128;
    const HAS_MIN: bool = false;
    const HALVES: bool = false;

    #[inline(always)]
    unsafe fn codes<I: Isa>(
        sup: *const u8,
        _second: *const u8,
        blk: usize,
        g: usize,
    ) -> (I::B, I::B) {
        // SAFETY: `blk < 8`: within BYTES.
        unsafe { look_up::<I>(&IQ4, sup.add(Self::HEADER + NIBBLES * blk), g) }
    }
    #[inline(always)]
    unsafe fn scale<I: Isa>(sup: *const u8, blk: usize, _half: usize) -> I::F {
        // SAFETY: as above.
        unsafe {
            let scale = I::i_add(six_bits::<I>(sup.add(HALF_ROW), blk), I::i_set(-32));
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
        let plane = unsafe { sup.add(Self::HEADER + NIBBLES * blk) };
        // SAFETY: as above.
        IQ4[usize::from(unsafe { nibble_at(plane, row, col) })]
    }
    #[inline(always)]
    unsafe fn scale_at(sup: *const u8, blk: usize, row: usize, _col: usize) -> f32 {
        // SAFETY: as above.
        unsafe {
            let scale = six_bits_at(sup.add(HALF_ROW), blk, row);
            f16_at(sup, row) * (f32::from(scale) - 32.0)
        }
    }
}

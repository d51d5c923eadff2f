//! Panel16: how 16 rows of a quantized matrix lie in memory, and how a block turns into dot-product operands.
//!
//! A panel is 16 output rows; a block is 16 rows by 32 columns. Values are the file's own, bit for bit, and take the
//! file's own bytes: packing moves codes and scales, it never requantizes. A block's codes are unsigned (`q + ZERO`), so
//! that the inner loop is `dpbusd` alone; the offset comes back through the accumulator's start value
//! `-ZERO * Σ activations`. Codes are at most 241 (a byte of `Q8_0`: 255).
//!
//! | layout | per block of 16 × 32 | bits per weight |
//! |---|---|---|
//! | `Q4_0` | nibbles, 16 f16 scales | 4.5 |
//! | `Q4_1` | and 16 f16 minima | 5 |
//! | `Q5_0`, `Q5_1` | and a bit plane | 5.5, 6 |
//! | `Q8_0`, `Q8Rows` | bytes stored + 128, 16 f16 scales | 8.5 |
//! | `Q8Planes` | nibbles, two-bit plane, 16 f16 scales; elsewhere another two-bit plane | 8.5 |
//! | `Iq4Nl` | nibbles that look up one of 16 bytes, 16 f16 scales | 4.5 |
//! | `Mxfp4` | the same with 16 exponent bytes | 4.25 |
//! | `Q4K`, `Q5K` | nibbles (and a bit plane); 6-bit scale and minimum; f16 scale and minimum per eight blocks | 4.5, 5.5 |
//! | `Q6K` | nibbles, two-bit plane, two i8 scales; f16 scale per eight blocks | 6.5625 |
//! | `Q3K` | two-bit plane, bit plane, two 6-bit scales; f16 scale per eight blocks | 3.4375 |
//! | `Q2K` | two-bit plane, two 4-bit scales and minima; f16 scale and minimum per eight blocks | 2.625 |
//! | `Iq4Xs` | nibbles that look up, 6-bit scale; f16 scale per eight blocks | 4.25 |
//!
//! Nibble planes are `[g = 0..3][16 rows][4]`: byte `j` of group `g` holds `q[8g + j] | q[8g + 4 + j] << 4`, so one load
//! gives the operands of columns `8g .. 8g + 4` (low) and `8g + 4 .. 8g + 8` (high). The other planes are in `planes.rs`.

mod codebook;
mod k_quants;
mod planes;
mod q8_planes;
mod round_quants;

use crate::simd::{Codes, Isa};

pub(crate) use codebook::{Iq4Nl, Iq4Xs, Mxfp4};
pub(crate) use k_quants::{Q2K, Q3K, Q4K, Q5K, Q6K};
pub(crate) use q8_planes::{Q8Planes, Q8Upper};
pub(crate) use round_quants::{Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};

/// Columns of a block.
pub(crate) const BLOCK_COLS: usize = 32;
/// Bytes of a block's nibbles, two-bit plane and bit plane, and of 16 half floats.
pub(crate) const NIBBLES: usize = 256;
pub(crate) const TWO_BITS: usize = 128;
pub(crate) const ONE_BIT: usize = 64;
pub(crate) const HALF_ROW: usize = 32;
/// Bytes of the 6-bit numbers of eight blocks: two per row and block, or one.
pub(crate) const SIX_BIT_PAIRS: usize = 192;
pub(crate) const SIX_BITS: usize = 96;

/// A packed layout. `sup` points at a super-block (`BLOCKS` blocks that share a header), `blk` counts within it.
///
/// # Safety
/// `sup` is valid for `BYTES` bytes; the vector methods run with the features of `I`.
pub(crate) trait Format: Codes + Copy + 'static {
    /// Blocks per super-block: 1, or 8 for K-quants.
    const BLOCKS: usize;
    /// Bytes per super-block of 16 rows.
    const BYTES: usize;
    /// Added to every code; 0 where a minimum does that work.
    const ZERO: i32;
    /// Whether `w = scale * (code - ZERO) + min` (else `scale * (code - ZERO)`).
    const HAS_MIN: bool;
    /// Whether scales and minima cover 16 columns instead of 32.
    const HALVES: bool;

    /// Bytes per block in a second plane, which lies elsewhere; `second` points at the block's.
    const SECOND_BYTES: usize = 0;

    /// Codes of columns `8g .. 8g + 4` and `8g + 4 .. 8g + 8`.
    unsafe fn codes<I: Isa>(
        sup: *const u8,
        second: *const u8,
        blk: usize,
        g: usize,
    ) -> (I::B, I::B);
    /// Scales of the 16 rows; `half` is 0 unless `HALVES`.
    unsafe fn scale<I: Isa>(sup: *const u8, blk: usize, half: usize) -> I::F;
    /// Minima of the 16 rows; only where `HAS_MIN`. `half` is 0 unless `HALVES`.
    unsafe fn min<I: Isa>(_sup: *const u8, _blk: usize, _half: usize) -> I::F {
        // SAFETY: as the trait says.
        unsafe { I::zero() }
    }

    /// Code of one row and column: the scalar definition of `codes`.
    unsafe fn code_at(sup: *const u8, second: *const u8, blk: usize, row: usize, col: usize) -> u8;
    /// Scale of one row and column.
    unsafe fn scale_at(sup: *const u8, blk: usize, row: usize, col: usize) -> f32;
    /// Minimum of one row and column.
    unsafe fn min_at(_sup: *const u8, _blk: usize, _row: usize, _col: usize) -> f32 {
        0.0
    }
}

/// `$call` with `$layout` naming the type of a [`crate::packing::Packing`]'s layout, or `$float` for float panels.
macro_rules! with_layout {
    ($packing:expr, $layout:ident => $call:expr, float => $float:expr) => {{
        use $crate::formats;
        use $crate::packing::Packing;
        macro_rules! call {
            ($type:ident) => {{
                type $layout = formats::$type;
                $call
            }};
        }
        match $packing {
            Packing::Q4_0 => call!(Q4_0),
            Packing::Q4_1 => call!(Q4_1),
            Packing::Q5_0 => call!(Q5_0),
            Packing::Q5_1 => call!(Q5_1),
            Packing::Q8_0 | Packing::Q8Rows => call!(Q8_0),
            Packing::Q8Planes => call!(Q8Planes),
            Packing::Q2K => call!(Q2K),
            Packing::Q3K => call!(Q3K),
            Packing::Q4K => call!(Q4K),
            Packing::Q5K => call!(Q5K),
            Packing::Q6K => call!(Q6K),
            Packing::Iq4Nl => call!(Iq4Nl),
            Packing::Iq4Xs => call!(Iq4Xs),
            Packing::Mxfp4 => call!(Mxfp4),
            Packing::F32
            | Packing::F16
            | Packing::Bf16
            | Packing::DequantizedF32
            | Packing::DequantizedF16 => $float,
        }
    }};
}
pub(crate) use with_layout;

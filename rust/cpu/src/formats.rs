//! Panel16: how 16 rows of a quantized matrix lie in memory, and how a block turns into dot-product operands.
//!
//! A panel is 16 output rows; a block is 16 rows by 32 columns. Values are the file's own, bit for bit: packing moves
//! codes and scales, it never requantizes. A block's codes are unsigned (`q + ZERO`), so that the inner loop is
//! `dpbusd` alone; the offset comes back through the accumulator's start value `-ZERO * Σ activations`.
//!
//! Nibble planes are `[g = 0..3][16 rows][4]`: byte `j` of group `g` holds `q[8g + j] | q[8g + 4 + j] << 4`, so one load
//! gives the operands of columns `8g .. 8g + 4` (low) and `8g + 4 .. 8g + 8` (high).

use half::f16;

use crate::simd::Isa;

/// Columns of a block.
pub(crate) const BLOCK_COLS: usize = 32;

/// A packed layout. `sup` points at a super-block (`BLOCKS` blocks that share a header), `blk` counts within it.
///
/// # Safety
/// `sup` is valid for `BYTES` bytes; the vector methods run with the features of `I`.
pub(crate) trait Format: Copy + 'static {
    /// Blocks per super-block: 1, or 8 for K-quants.
    const BLOCKS: usize;
    /// Bytes per super-block of 16 rows.
    const BYTES: usize;
    /// Added to every code; 0 where a minimum does that work.
    const ZERO: i32;
    /// Whether `w = scale * code + min` (else `scale * (code - ZERO)`).
    const HAS_MIN: bool;
    /// Whether scales cover 16 columns instead of 32.
    const HALVES: bool;

    /// Codes of columns `8g .. 8g + 4` and `8g + 4 .. 8g + 8`.
    unsafe fn codes<I: Isa>(sup: *const u8, blk: usize, g: usize) -> (I::B, I::B);
    /// Scales of the 16 rows; `half` is 0 unless `HALVES`.
    unsafe fn scale<I: Isa>(sup: *const u8, blk: usize, half: usize) -> I::F;
    /// Minima of the 16 rows; only where `HAS_MIN`.
    unsafe fn min<I: Isa>(_sup: *const u8, _blk: usize) -> I::F {
        // SAFETY: as the trait says.
        unsafe { I::zero() }
    }

    /// Code of one row and column: the scalar definition of `codes`.
    unsafe fn code_at(sup: *const u8, blk: usize, row: usize, col: usize) -> u8;
    /// Scale of one row and column.
    unsafe fn scale_at(sup: *const u8, blk: usize, row: usize, col: usize) -> f32;
    /// Minimum of one row.
    unsafe fn min_at(_sup: *const u8, _blk: usize, _row: usize) -> f32 {
        0.0
    }
}

/// Bytes of a nibble plane, and of 16 half floats.
const NIBBLES: usize = 256;
const HALF_ROW: usize = 32;

#[inline(always)]
unsafe fn nibbles<I: Isa>(plane: *const u8, g: usize) -> (I::B, I::B) {
    // SAFETY: `plane` holds 256 bytes and `g < 4`; features are the caller's.
    unsafe {
        let low = I::b_set(15);
        let x = I::b_load(plane.add(64 * g));
        (I::b_and(x, low), I::b_and(I::b_shr::<4>(x), low))
    }
}

#[inline(always)]
unsafe fn nibble_at(plane: *const u8, row: usize, col: usize) -> u8 {
    // SAFETY: `row < 16`, `col < 32`: within 256 bytes.
    let byte = unsafe { *plane.add((col / 8) * 64 + row * 4 + col % 4) };
    if col % 8 < 4 { byte & 15 } else { byte >> 4 }
}

/// The fifth bits: one 64-bit mask per group of four columns, bit `4 * row + col % 4`.
#[inline(always)]
unsafe fn fifth_bits<I: Isa>(masks: *const u8, g: usize, low: (I::B, I::B)) -> (I::B, I::B) {
    // SAFETY: `masks` holds 8 of them and `g < 4`.
    unsafe {
        let mask = masks.cast::<u64>();
        let even = I::b_mask(mask.add(2 * g).read_unaligned(), 16);
        let odd = I::b_mask(mask.add(2 * g + 1).read_unaligned(), 16);
        (I::b_or(low.0, even), I::b_or(low.1, odd))
    }
}

#[inline(always)]
unsafe fn fifth_bit_at(masks: *const u8, row: usize, col: usize) -> u8 {
    // SAFETY: `col / 4 < 8`.
    let mask = unsafe { masks.cast::<u64>().add(col / 4).read_unaligned() };
    ((mask >> (row * 4 + col % 4) & 1) as u8) << 4
}

#[inline(always)]
unsafe fn f16_at(p: *const u8, i: usize) -> f32 {
    // SAFETY: the caller's row of 16 half floats.
    f16::from_bits(unsafe { p.cast::<u16>().add(i).read_unaligned() }).to_f32()
}

macro_rules! simple_format {
    ($(#[$doc:meta])* $name:ident, zero $zero:literal, min $min:literal, fifth $fifth:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(crate) struct $name;

        impl $name {
            const SCALES: usize = NIBBLES + if $fifth { 64 } else { 0 };
        }

        impl Format for $name {
            const BLOCKS: usize = 1;
            const BYTES: usize = Self::SCALES + HALF_ROW + if $min { HALF_ROW } else { 0 };
            const ZERO: i32 = $zero;
            const HAS_MIN: bool = $min;
            const HALVES: bool = false;

            #[inline(always)]
            unsafe fn codes<I: Isa>(sup: *const u8, _blk: usize, g: usize) -> (I::B, I::B) {
                // SAFETY: planes lie within BYTES.
                unsafe {
                    let low = nibbles::<I>(sup, g);
                    if $fifth { fifth_bits::<I>(sup.add(NIBBLES), g, low) } else { low }
                }
            }
            #[inline(always)]
            unsafe fn scale<I: Isa>(sup: *const u8, _blk: usize, _half: usize) -> I::F {
                // SAFETY: scales lie within BYTES.
                unsafe { I::load_f16(sup.add(Self::SCALES).cast()) }
            }
            #[inline(always)]
            unsafe fn min<I: Isa>(sup: *const u8, _blk: usize) -> I::F {
                // SAFETY: read only where HAS_MIN.
                unsafe { if $min { I::load_f16(sup.add(Self::SCALES + HALF_ROW).cast()) } else { I::zero() } }
            }
            #[inline(always)]
            unsafe fn code_at(sup: *const u8, _blk: usize, row: usize, col: usize) -> u8 {
                // SAFETY: planes lie within BYTES.
                unsafe {
                    let low = nibble_at(sup, row, col);
                    if $fifth { low | fifth_bit_at(sup.add(NIBBLES), row, col) } else { low }
                }
            }
            #[inline(always)]
            unsafe fn scale_at(sup: *const u8, _blk: usize, row: usize, _col: usize) -> f32 {
                // SAFETY: scales lie within BYTES.
                unsafe { f16_at(sup.add(Self::SCALES), row) }
            }
            #[inline(always)]
            unsafe fn min_at(sup: *const u8, _blk: usize, row: usize) -> f32 {
                // SAFETY: read only where HAS_MIN.
                if $min { unsafe { f16_at(sup.add(Self::SCALES + HALF_ROW), row) } } else { 0.0 }
            }
        }
    };
}

simple_format! {
    /// 256 B nibbles, 16 f16 scales: 4.5 bits per weight.
    Q4_0, zero 8, min false, fifth false
}
simple_format! {
    /// 256 B nibbles, 16 f16 scales, 16 f16 minima: 5 bits per weight.
    Q4_1, zero 0, min true, fifth false
}
simple_format! {
    /// 256 B nibbles, 64 B fifth bits, 16 f16 scales: 5.5 bits per weight.
    Q5_0, zero 16, min false, fifth true
}
simple_format! {
    /// 256 B nibbles, 64 B fifth bits, 16 f16 scales, 16 f16 minima: 6 bits per weight.
    Q5_1, zero 0, min true, fifth true
}

/// 512 B codes stored + 128, `[8 groups of 4 columns][16 rows][4]`, 16 f16 scales: 8.5 bits per weight.
#[derive(Clone, Copy)]
pub(crate) struct Q8_0;

impl Format for Q8_0 {
    const BLOCKS: usize = 1;
    const BYTES: usize = 512 + HALF_ROW;
    const ZERO: i32 = 128;
    const HAS_MIN: bool = false;
    const HALVES: bool = false;

    #[inline(always)]
    unsafe fn codes<I: Isa>(sup: *const u8, _blk: usize, g: usize) -> (I::B, I::B) {
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
        unsafe { I::load_f16(sup.add(512).cast()) }
    }
    #[inline(always)]
    unsafe fn code_at(sup: *const u8, _blk: usize, row: usize, col: usize) -> u8 {
        // SAFETY: `row < 16`, `col < 32`.
        unsafe { *sup.add((col / 4) * 64 + row * 4 + col % 4) }
    }
    #[inline(always)]
    unsafe fn scale_at(sup: *const u8, _blk: usize, row: usize, _col: usize) -> f32 {
        // SAFETY: scales follow the codes.
        unsafe { f16_at(sup.add(512), row) }
    }
}

macro_rules! k_format {
    ($(#[$doc:meta])* $name:ident, fifth $fifth:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(crate) struct $name;

        impl $name {
            /// 16 f16 `d`, 16 f16 `dmin`.
            pub(crate) const HEADER: usize = 2 * HALF_ROW;
            const SCALES: usize = NIBBLES + if $fifth { 64 } else { 0 };
            /// Codes, then 16 u8 scales and 16 u8 minima.
            pub(crate) const BLOCK: usize = Self::SCALES + 32;
        }

        impl Format for $name {
            const BLOCKS: usize = 8;
            const BYTES: usize = Self::HEADER + 8 * Self::BLOCK;
            const ZERO: i32 = 0;
            const HAS_MIN: bool = true;
            const HALVES: bool = false;

            #[inline(always)]
            unsafe fn codes<I: Isa>(sup: *const u8, blk: usize, g: usize) -> (I::B, I::B) {
                // SAFETY: `blk < 8`: within BYTES.
                unsafe {
                    let p = sup.add(Self::HEADER + blk * Self::BLOCK);
                    let low = nibbles::<I>(p, g);
                    if $fifth { fifth_bits::<I>(p.add(NIBBLES), g, low) } else { low }
                }
            }
            #[inline(always)]
            unsafe fn scale<I: Isa>(sup: *const u8, blk: usize, _half: usize) -> I::F {
                // SAFETY: as above.
                unsafe {
                    let sc = I::i_load_u8(sup.add(Self::HEADER + blk * Self::BLOCK + Self::SCALES));
                    I::mul(I::load_f16(sup.cast()), I::to_f(sc))
                }
            }
            /// `-(dmin * m)`: the K-quants subtract their minimum.
            #[inline(always)]
            unsafe fn min<I: Isa>(sup: *const u8, blk: usize) -> I::F {
                // SAFETY: as above.
                unsafe {
                    let m = I::i_load_u8(sup.add(Self::HEADER + blk * Self::BLOCK + Self::SCALES + 16));
                    // A sign flip, not `0 - x`: the reference's `d * q - 0` keeps the sign of a zero.
                    I::mul(I::set(-1.0), I::mul(I::load_f16(sup.add(HALF_ROW).cast()), I::to_f(m)))
                }
            }
            #[inline(always)]
            unsafe fn code_at(sup: *const u8, blk: usize, row: usize, col: usize) -> u8 {
                // SAFETY: as above.
                unsafe {
                    let p = sup.add(Self::HEADER + blk * Self::BLOCK);
                    let low = nibble_at(p, row, col);
                    if $fifth { low | fifth_bit_at(p.add(NIBBLES), row, col) } else { low }
                }
            }
            #[inline(always)]
            unsafe fn scale_at(sup: *const u8, blk: usize, row: usize, _col: usize) -> f32 {
                // SAFETY: as above.
                unsafe {
                    let sc = *sup.add(Self::HEADER + blk * Self::BLOCK + Self::SCALES + row);
                    f16_at(sup, row) * f32::from(sc)
                }
            }
            #[inline(always)]
            unsafe fn min_at(sup: *const u8, blk: usize, row: usize) -> f32 {
                // SAFETY: as above.
                unsafe {
                    let m = *sup.add(Self::HEADER + blk * Self::BLOCK + Self::SCALES + 16 + row);
                    -(f16_at(sup.add(HALF_ROW), row) * f32::from(m))
                }
            }
        }
    };
}

k_format! {
    /// Eight Q4 blocks with u8 scales and minima under one f16 pair: 4.625 bits per weight.
    Q4K, fifth false
}
k_format! {
    /// Eight Q5 blocks with u8 scales and minima under one f16 pair: 5.625 bits per weight.
    Q5K, fifth true
}

/// Eight blocks of 256 B low nibbles, 128 B two-bit planes and 32 i8 scales (per 16 columns) under one f16 row:
/// 6.5625 bits per weight. Plane byte `64 * (k4 / 4) + 4 * row + j` holds the top bits of groups `k4`, two bits each.
#[derive(Clone, Copy)]
pub(crate) struct Q6K;

impl Q6K {
    pub(crate) const HEADER: usize = HALF_ROW;
    /// Nibbles, two-bit planes, `[2][16]` scales.
    pub(crate) const BLOCK: usize = NIBBLES + 128 + 32;
}

impl Format for Q6K {
    const BLOCKS: usize = 8;
    const BYTES: usize = Self::HEADER + 8 * Self::BLOCK;
    const ZERO: i32 = 32;
    const HAS_MIN: bool = false;
    const HALVES: bool = true;

    #[inline(always)]
    unsafe fn codes<I: Isa>(sup: *const u8, blk: usize, g: usize) -> (I::B, I::B) {
        // SAFETY: `blk < 8`, `g < 4`: within BYTES.
        unsafe {
            let p = sup.add(Self::HEADER + blk * Self::BLOCK);
            let low = nibbles::<I>(p, g);
            let plane = I::b_load(p.add(NIBBLES + 64 * (g / 2)));
            let top = I::b_set(0x30);
            // Group 2g sits at bits 4 (g % 2) of its byte, group 2g + 1 two bits above.
            let (even, odd) = if g.is_multiple_of(2) {
                (I::b_shl::<4>(plane), I::b_shl::<2>(plane))
            } else {
                (plane, I::b_shr::<2>(plane))
            };
            (
                I::b_or(low.0, I::b_and(even, top)),
                I::b_or(low.1, I::b_and(odd, top)),
            )
        }
    }
    #[inline(always)]
    unsafe fn scale<I: Isa>(sup: *const u8, blk: usize, half: usize) -> I::F {
        // SAFETY: as above.
        unsafe {
            let sc = I::i_load_i8(
                sup.add(Self::HEADER + blk * Self::BLOCK + NIBBLES + 128 + 16 * half)
                    .cast(),
            );
            I::mul(I::load_f16(sup.cast()), I::to_f(sc))
        }
    }
    #[inline(always)]
    unsafe fn code_at(sup: *const u8, blk: usize, row: usize, col: usize) -> u8 {
        // SAFETY: as above.
        unsafe {
            let p = sup.add(Self::HEADER + blk * Self::BLOCK);
            let k4 = col / 4;
            let plane = *p.add(NIBBLES + 64 * (k4 / 4) + row * 4 + col % 4);
            nibble_at(p, row, col) | (plane >> (2 * (k4 % 4)) & 3) << 4
        }
    }
    #[inline(always)]
    unsafe fn scale_at(sup: *const u8, blk: usize, row: usize, col: usize) -> f32 {
        // SAFETY: as above.
        unsafe {
            let sc =
                *sup.add(Self::HEADER + blk * Self::BLOCK + NIBBLES + 128 + 16 * (col / 16) + row);
            f16_at(sup, row) * f32::from(sc.cast_signed())
        }
    }
}

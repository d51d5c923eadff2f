//! One instruction set = one implementation of [`Isa`]: operations on 16 virtual lanes, whatever the register width.
//!
//! Kernels are written once over `Isa` and compiled once per tier (see `kernels.rs`), so every tier runs the same
//! float operations in the same order and gives the same bits; `scalar` is the oracle. Integer dot products are exact.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m256i, __m512i};

use half::bf16;

pub(crate) mod matrix_unit;
mod portable;

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod dots;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(test)]
mod tests;

pub(crate) use portable::Portable;

/// The `neon` tier.
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::Neon;

/// The `avx512vnni` tier.
#[cfg(target_arch = "x86_64")]
pub(crate) type Avx512Vnni = avx512::Avx512<dots::Vnni<__m512i>>;
/// The `avx512` tier.
#[cfg(target_arch = "x86_64")]
pub(crate) type Avx512Pairs = avx512::Avx512<dots::Pairs<__m512i>>;
/// The `avxvnni` tier.
#[cfg(target_arch = "x86_64")]
pub(crate) type AvxVnni = avx2::Avx2<dots::Vnni<[__m256i; 2]>>;
/// The `avx2` tier.
#[cfg(target_arch = "x86_64")]
pub(crate) type Avx2Pairs = avx2::Avx2<dots::Pairs<[__m256i; 2]>>;

/// `$with!(module, Isa, "features")` for every tier of this architecture; `scalar` needs what every machine has.
macro_rules! for_each_tier {
    ($with:ident) => {
        #[cfg(target_arch = "x86_64")]
        $with!(
            avx512vnni,
            Avx512Vnni,
            "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c"
        );
        #[cfg(target_arch = "x86_64")]
        $with!(
            avx512,
            Avx512Pairs,
            "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c"
        );
        #[cfg(target_arch = "x86_64")]
        $with!(avxvnni, AvxVnni, "avx2,fma,f16c,avxvnni");
        #[cfg(target_arch = "x86_64")]
        $with!(avx2, Avx2Pairs, "avx2,fma,f16c");
        #[cfg(target_arch = "aarch64")]
        $with!(neon, Neon, "neon,dotprod");
        #[cfg(target_arch = "x86_64")]
        $with!(scalar, Portable, "sse2");
        #[cfg(target_arch = "aarch64")]
        $with!(scalar, Portable, "neon");
    };
}
pub(crate) use for_each_tier;

/// Lanes of [`Isa::F`] and [`Isa::I`].
pub(crate) const LANES: usize = 16;

/// Operations on 16 lanes of f32, 16 lanes of i32 and 64 bytes.
///
/// # Safety
/// Every method needs the CPU features of its tier and, where it takes a pointer, memory valid for the lanes named.
/// All are `#[inline(always)]`: they must end up inside a function compiled with those features.
pub(crate) trait Isa: Copy + 'static {
    /// How many [`Isa::F`] a kernel should keep as running sums: what the registers hold beside a step's operands.
    const ACCUMULATORS: usize;
    /// Whether tiles of many rows pay: enough registers for 12 running sums of each kind.
    const WIDE_TILES: bool = Self::ACCUMULATORS >= 24;
    /// How codes are multiplied with int8 activations.
    type Dot: Dot<B = Self::B, I = Self::I>;
    /// 16 floats.
    type F: Copy;
    /// 16 signed integers.
    type I: Copy;
    /// 64 bytes.
    type B: Copy;

    unsafe fn zero() -> Self::F;
    unsafe fn set(x: f32) -> Self::F;
    unsafe fn load(p: *const f32) -> Self::F;
    unsafe fn store(p: *mut f32, x: Self::F);
    /// The first `n < 16` lanes, zeros above; reads nothing beyond.
    unsafe fn load_first(p: *const f32, n: usize) -> Self::F;
    /// Writes only the first `n < 16` lanes.
    unsafe fn store_first(p: *mut f32, x: Self::F, n: usize);
    /// The first `n <= 16` lanes, zeros above; reads nothing beyond.
    #[inline(always)]
    unsafe fn load_up_to(p: *const f32, n: usize) -> Self::F {
        // SAFETY: the caller's `n` floats.
        unsafe {
            if n == LANES {
                Self::load(p)
            } else {
                Self::load_first(p, n)
            }
        }
    }
    /// Writes only the first `n <= 16` lanes.
    #[inline(always)]
    unsafe fn store_up_to(p: *mut f32, x: Self::F, n: usize) {
        // SAFETY: the caller's `n` floats.
        unsafe {
            if n == LANES {
                Self::store(p, x);
            } else {
                Self::store_first(p, x, n);
            }
        }
    }
    /// 16 half floats, widened exactly.
    unsafe fn load_f16(p: *const u16) -> Self::F;
    /// Rounded to nearest even.
    unsafe fn store_f16(p: *mut u16, x: Self::F);
    /// 16 bfloat16, widened exactly.
    unsafe fn load_bf16(p: *const u16) -> Self::F;
    /// 16 exponent bytes as `2^(p[i] - 128)`, half of what E8M0 means; 0 and 1 are subnormal, 255 is no NaN (as in ggml).
    unsafe fn load_half_e8m0(p: *const u8) -> Self::F;
    /// Rounded to bfloat16, to nearest even; NaN stays NaN.
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u16, x: Self::F) {
        let mut lanes = [0.0; LANES];
        // SAFETY: the trait's contract; `lanes` is our own.
        unsafe {
            Self::store(lanes.as_mut_ptr(), x);
            for i in 0..LANES {
                p.add(i).write_unaligned(bf16::from_f32(lanes[i]).to_bits());
            }
        }
    }

    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// Lanes of `a` and `b` are pairs of bfloat16: `acc` plus the product of the upper ones, rounded, then plus that of
    /// the lower ones, rounded; subnormal inputs and results count as 0. What `vdpbf16ps` does, in every tier.
    #[inline(always)]
    unsafe fn dot_bf16(acc: Self::F, a: Self::F, b: Self::F) -> Self::F {
        let mut lanes = [[0.0; LANES]; 3];
        // SAFETY: the trait's contract; `lanes` is our own.
        unsafe {
            Self::store(lanes[0].as_mut_ptr(), acc);
            Self::store(lanes[1].as_mut_ptr(), a);
            Self::store(lanes[2].as_mut_ptr(), b);
            for i in 0..LANES {
                lanes[0][i] = dot_pair(lanes[0][i], lanes[1][i], lanes[2][i]);
            }
            Self::load(lanes[0].as_ptr())
        }
    }
    /// [`Isa::dot_bf16`] in one instruction; only where [`crate::tier::Tier::has_dot_bf16`].
    #[inline(always)]
    unsafe fn dot_bf16_native(acc: Self::F, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the trait's contract.
        unsafe { Self::dot_bf16(acc, a, b) }
    }
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn abs(a: Self::F) -> Self::F;
    /// Sum of the lanes by one fixed tree: `i + (i + 8)`, then 4, 2, 1.
    unsafe fn sum(a: Self::F) -> f32;
    /// Largest lane; the same tree.
    unsafe fn max_lane(a: Self::F) -> f32;
    /// Lanes `lo <= i < hi` from `a`, the others from `b`.
    unsafe fn select_range(lo: usize, hi: usize, a: Self::F, b: Self::F) -> Self::F;
    /// Nearest integer, ties to even; any integer where that is not within i32.
    unsafe fn round(a: Self::F) -> Self::I;
    unsafe fn to_f(a: Self::I) -> Self::F;
    /// `2^n` for `-126 <= n <= 127`; any float for other `n`.
    unsafe fn exp2i(n: Self::I) -> Self::F;

    unsafe fn i_set(x: i32) -> Self::I;
    unsafe fn i_add(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn i_and(a: Self::I, b: Self::I) -> Self::I;
    /// Bits moved up by `N < 32`.
    unsafe fn i_shl<const N: u32>(a: Self::I) -> Self::I;
    /// Bits moved down by `n < 32`, zeros from above.
    unsafe fn i_shr(a: Self::I, n: u32) -> Self::I;
    /// 16 integers.
    unsafe fn i_load(p: *const i32) -> Self::I;
    /// 16 signed bytes, widened.
    unsafe fn i_load_i8(p: *const i8) -> Self::I;
    /// 16 unsigned bytes, widened.
    unsafe fn i_load_u8(p: *const u8) -> Self::I;
    /// Writes each lane's low byte.
    unsafe fn i_store_i8(p: *mut i8, x: Self::I);
    /// Byte `n` of each lane, unsigned, as float.
    unsafe fn byte_to_f(a: Self::B, n: usize) -> Self::F;

    /// Asks for the cache line at `p`, which may lie anywhere.
    unsafe fn prefetch(p: *const u8);
    /// The same, for a line that will be written: whoever has it gives it up meanwhile.
    unsafe fn prefetch_to_write(p: *const u8);
    unsafe fn b_load(p: *const u8) -> Self::B;
    unsafe fn b_store(p: *mut u8, x: Self::B);
    unsafe fn b_set(x: u8) -> Self::B;
    unsafe fn b_and(a: Self::B, b: Self::B) -> Self::B;
    unsafe fn b_or(a: Self::B, b: Self::B) -> Self::B;
    /// Differences of bytes, wrapping around.
    unsafe fn b_sub(a: Self::B, b: Self::B) -> Self::B;
    /// Bits of each byte moved down by `N`; the bits that come from a neighbour must be masked by the caller.
    unsafe fn b_shr<const N: u32>(a: Self::B) -> Self::B;
    /// Bits of each byte moved up by `N`; the same caveat.
    unsafe fn b_shl<const N: u32>(a: Self::B) -> Self::B;
    /// `table[index[i]]`; every index is below 16.
    unsafe fn b_lookup(table: &[u8; 16], index: Self::B) -> Self::B;
    /// `x` in the bytes whose bit is set in `mask`, 0 elsewhere.
    unsafe fn b_mask(mask: u64, x: u8) -> Self::B;
}

/// What is known of a layout's codes: decides how their products may be added up.
pub(crate) trait Codes {
    /// Largest code.
    const MAX_CODE: u8;
}

/// Sums of products of unsigned codes and signed activations, 16 at a time: what tiers of one register width differ in.
/// Exact in 32 bits, for 32 columns at least.
///
/// # Safety
/// As [`Isa`].
pub(crate) trait Dot: Copy + 'static {
    /// Whether codes of layouts whose [`Codes::MAX_CODE`] is above 127 count as `code - 128` here, because the tier has
    /// signed products only. Their zero point is 128, so the sums then begin at 0.
    const SIGNED_BYTES: bool;
    /// How many sums a kernel with few outputs should run side by side to hide the latency of a product.
    const CHAINS: usize;
    /// How many registers of 16 lanes the sums take.
    const PARTS: usize;
    /// 64 codes.
    type B: Copy;
    /// 16 integers.
    type I: Copy;
    /// Sums that may not be in their final form.
    type Sums: Copy;

    /// All sums at `start`.
    unsafe fn start(start: i32) -> Self::Sums;
    /// `sums[i] + Σ_j codes[4i + j] * activations[j]`: four activations in a word, each within `-127 ..= 127`.
    unsafe fn dot4<C: Codes>(sums: Self::Sums, codes: Self::B, activations: i32) -> Self::Sums;
    /// [`Dot::dot4`] for activations that may be -128, as those of a lower plane.
    #[inline(always)]
    unsafe fn dot4_low<C: Codes>(sums: Self::Sums, codes: Self::B, activations: i32) -> Self::Sums {
        // SAFETY: the caller's.
        unsafe { Self::dot4::<C>(sums, codes, activations) }
    }
    /// The sums as integers.
    unsafe fn finish(sums: Self::Sums) -> Self::I;
}

/// One lane of [`Isa::dot_bf16`].
#[inline(always)]
fn dot_pair(acc: f32, a: f32, b: f32) -> f32 {
    let flush = |x: f32| {
        if x.abs() < f32::MIN_POSITIVE {
            0.0_f32.copysign(x)
        } else {
            x
        }
    };
    let upper = |x: f32| flush(f32::from_bits(x.to_bits() & 0xffff_0000));
    let lower = |x: f32| flush(f32::from_bits(x.to_bits() << 16));
    let first = flush(upper(a).mul_add(upper(b), flush(acc)));
    flush(lower(a).mul_add(lower(b), first))
}

//! The NEON tier: AArch64 with `sdot`. Four registers per 16 lanes.
//!
//! Conversions of half floats and `sdot` are inline assembly: their intrinsics need a newer compiler than ours.

use std::arch::aarch64::{
    float32x4_t, int8x16_t, int32x4_t, uint8x16_t, uint16x8_t, uint32x4_t, vabsq_f32, vadd_f32,
    vaddq_f32, vaddq_s32, vandq_s32, vandq_u8, vandq_u32, vbslq_f32, vcgtq_f32, vcltq_f32,
    vcltq_u32, vcombine_u8, vcvtnq_s32_f32, vcvtq_f32_s32, vcvtq_f32_u32, vdivq_f32, vdup_n_u8,
    vdupq_n_f32, vdupq_n_s8, vdupq_n_s32, vdupq_n_u8, vdupq_n_u32, veorq_u8, vfmaq_f32,
    vget_high_f32, vget_lane_f32, vget_low_f32, vget_low_s8, vget_low_s16, vget_low_u8,
    vget_low_u16, vld1q_f32, vld1q_s8, vld1q_s32, vld1q_u8, vld1q_u16, vld1q_u32, vmovl_high_s8,
    vmovl_high_s16, vmovl_high_u8, vmovl_high_u16, vmovl_s8, vmovl_s16, vmovl_u8, vmovl_u16,
    vmulq_f32, vorrq_u8, vqtbl1q_u8, vreinterpretq_f32_s32, vreinterpretq_f32_u32,
    vreinterpretq_s8_s32, vreinterpretq_s8_u8, vreinterpretq_s32_u32, vreinterpretq_u8_u16,
    vreinterpretq_u16_s32, vreinterpretq_u32_s32, vreinterpretq_u32_u8, vshlq_n_u32, vshlq_s32,
    vshlq_u8, vshlq_u32, vst1q_f32, vst1q_u8, vst1q_u16, vsubq_f32, vsubq_u8, vsubq_u32, vtstq_u8,
    vuzp1q_u8, vuzp1q_u16,
};
use std::arch::asm;

use super::{Codes, Dot, Isa, LANES};

/// Needs `neon,dotprod`.
#[derive(Clone, Copy)]
pub(crate) struct Neon;

/// Lanes 0 to 3, 4 to 7, 8 to 11, 12 to 15.
type F = [float32x4_t; 4];
type I = [int32x4_t; 4];
type U = [uint32x4_t; 4];
type B = [uint8x16_t; 4];

/// All four registers by one intrinsic.
macro_rules! all {
    ($intrinsic:ident($($arg:ident),*)) => {
        [
            $intrinsic($($arg[0]),*),
            $intrinsic($($arg[1]),*),
            $intrinsic($($arg[2]),*),
            $intrinsic($($arg[3]),*),
        ]
    };
}

#[expect(
    clippy::undocumented_unsafe_blocks,
    reason = "the trait's contract covers every method: features and pointers"
)]
impl Isa for Neon {
    const ACCUMULATORS: usize = 6;
    type Dot = Sdot;
    type F = F;
    type I = I;
    type B = B;

    #[inline(always)]
    unsafe fn zero() -> F {
        unsafe { Self::set(0.0) }
    }
    #[inline(always)]
    unsafe fn set(x: f32) -> F {
        unsafe { [vdupq_n_f32(x); 4] }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> F {
        unsafe {
            [
                vld1q_f32(p),
                vld1q_f32(p.add(4)),
                vld1q_f32(p.add(8)),
                vld1q_f32(p.add(12)),
            ]
        }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: F) {
        unsafe {
            for (i, x) in x.into_iter().enumerate() {
                vst1q_f32(p.add(4 * i), x);
            }
        }
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> F {
        let mut x = [0.0; LANES];
        unsafe {
            std::ptr::copy_nonoverlapping(p, x.as_mut_ptr(), n);
            Self::load(x.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store_first(p: *mut f32, x: F, n: usize) {
        let mut lanes = [0.0; LANES];
        unsafe {
            Self::store(lanes.as_mut_ptr(), x);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), p, n);
        }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> F {
        unsafe {
            let (a, b) = (vld1q_u16(p), vld1q_u16(p.add(8)));
            let (a, b) = (widen_half(a), widen_half(b));
            [a[0], a[1], b[0], b[1]]
        }
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, x: F) {
        unsafe {
            vst1q_u16(p, narrow_to_half(x[0], x[1]));
            vst1q_u16(p.add(8), narrow_to_half(x[2], x[3]));
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> F {
        unsafe {
            let (a, b) = (vld1q_u16(p), vld1q_u16(p.add(8)));
            let wide = [
                vmovl_u16(vget_low_u16(a)),
                vmovl_high_u16(a),
                vmovl_u16(vget_low_u16(b)),
                vmovl_high_u16(b),
            ];
            wide.map(|x| vreinterpretq_f32_u32(vshlq_n_u32::<16>(x)))
        }
    }
    #[inline(always)]
    unsafe fn load_half_e8m0(p: *const u8) -> F {
        unsafe {
            let x = load_u8(p);
            let bits = x.map(|x| {
                let normal = vshlq_n_u32::<23>(vsubq_u32(x, vdupq_n_u32(1)));
                let subnormal = vshlq_u32(vdupq_n_u32(0x0020_0000), vreinterpretq_s32_u32(x));
                vbslq_f32(
                    vcltq_u32(x, vdupq_n_u32(2)),
                    vreinterpretq_f32_u32(subnormal),
                    vreinterpretq_f32_u32(normal),
                )
            });
            bits
        }
    }
    #[inline(always)]
    unsafe fn add(a: F, b: F) -> F {
        unsafe { all!(vaddq_f32(a, b)) }
    }
    #[inline(always)]
    unsafe fn sub(a: F, b: F) -> F {
        unsafe { all!(vsubq_f32(a, b)) }
    }
    #[inline(always)]
    unsafe fn mul(a: F, b: F) -> F {
        unsafe { all!(vmulq_f32(a, b)) }
    }
    #[inline(always)]
    unsafe fn div(a: F, b: F) -> F {
        unsafe { all!(vdivq_f32(a, b)) }
    }
    #[inline(always)]
    unsafe fn fma(a: F, b: F, c: F) -> F {
        unsafe { all!(vfmaq_f32(c, a, b)) }
    }
    /// Not `fmin`: the second operand where either is NaN, as in the other tiers.
    #[inline(always)]
    unsafe fn min(a: F, b: F) -> F {
        unsafe {
            let less = all!(vcltq_f32(a, b));
            all!(vbslq_f32(less, a, b))
        }
    }
    /// Not `fmax`: the second operand where either is NaN, as in the other tiers.
    #[inline(always)]
    unsafe fn max(a: F, b: F) -> F {
        unsafe {
            let greater = all!(vcgtq_f32(a, b));
            all!(vbslq_f32(greater, a, b))
        }
    }
    #[inline(always)]
    unsafe fn abs(a: F) -> F {
        unsafe { all!(vabsq_f32(a)) }
    }
    #[inline(always)]
    unsafe fn sum(a: F) -> f32 {
        unsafe {
            let four = vaddq_f32(vaddq_f32(a[0], a[2]), vaddq_f32(a[1], a[3]));
            let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
            vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
        }
    }
    #[inline(always)]
    unsafe fn max_lane(a: F) -> f32 {
        let max = |a, b| unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) };
        let larger = |a, b| if a > b { a } else { b };
        unsafe {
            let mut four = [0.0_f32; 4];
            vst1q_f32(four.as_mut_ptr(), max(max(a[0], a[2]), max(a[1], a[3])));
            larger(larger(four[0], four[2]), larger(four[1], four[3]))
        }
    }
    #[inline(always)]
    unsafe fn select_range(lo: usize, hi: usize, a: F, b: F) -> F {
        unsafe {
            let (lo, hi) = (below(lo), below(hi));
            let up_to_hi = all!(vbslq_f32(hi, a, b));
            all!(vbslq_f32(lo, b, up_to_hi))
        }
    }
    #[inline(always)]
    unsafe fn round(a: F) -> I {
        unsafe { all!(vcvtnq_s32_f32(a)) }
    }
    #[inline(always)]
    unsafe fn to_f(a: I) -> F {
        unsafe { all!(vcvtq_f32_s32(a)) }
    }
    #[inline(always)]
    unsafe fn exp2i(n: I) -> F {
        unsafe {
            let bits = Self::i_shl::<23>(Self::i_add(n, Self::i_set(127)));
            all!(vreinterpretq_f32_s32(bits))
        }
    }
    #[inline(always)]
    unsafe fn i_set(x: i32) -> I {
        unsafe { [vdupq_n_s32(x); 4] }
    }
    #[inline(always)]
    unsafe fn i_add(a: I, b: I) -> I {
        unsafe { all!(vaddq_s32(a, b)) }
    }
    #[inline(always)]
    unsafe fn i_and(a: I, b: I) -> I {
        unsafe { all!(vandq_s32(a, b)) }
    }
    #[inline(always)]
    unsafe fn i_shl<const N: u32>(a: I) -> I {
        unsafe {
            let n = Self::i_set(N.cast_signed());
            all!(vshlq_s32(a, n))
        }
    }
    #[inline(always)]
    unsafe fn i_shr(a: I, n: u32) -> I {
        unsafe {
            let n = Self::i_set(-n.cast_signed());
            let a = all!(vreinterpretq_u32_s32(a));
            let shifted = all!(vshlq_u32(a, n));
            all!(vreinterpretq_s32_u32(shifted))
        }
    }
    #[inline(always)]
    unsafe fn i_load(p: *const i32) -> I {
        unsafe {
            [
                vld1q_s32(p),
                vld1q_s32(p.add(4)),
                vld1q_s32(p.add(8)),
                vld1q_s32(p.add(12)),
            ]
        }
    }
    #[inline(always)]
    unsafe fn i_load_i8(p: *const i8) -> I {
        unsafe {
            let bytes = vld1q_s8(p);
            let (a, b) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
            [
                vmovl_s16(vget_low_s16(a)),
                vmovl_high_s16(a),
                vmovl_s16(vget_low_s16(b)),
                vmovl_high_s16(b),
            ]
        }
    }
    #[inline(always)]
    unsafe fn i_load_u8(p: *const u8) -> I {
        unsafe {
            let x = load_u8(p);
            all!(vreinterpretq_s32_u32(x))
        }
    }
    #[inline(always)]
    unsafe fn i_store_i8(p: *mut i8, x: I) {
        unsafe {
            let words = all!(vreinterpretq_u16_s32(x));
            let (a, b) = (
                vuzp1q_u16(words[0], words[1]),
                vuzp1q_u16(words[2], words[3]),
            );
            let bytes = vuzp1q_u8(vreinterpretq_u8_u16(a), vreinterpretq_u8_u16(b));
            vst1q_u8(p.cast(), bytes);
        }
    }
    #[inline(always)]
    unsafe fn byte_to_f(a: B, n: usize) -> F {
        unsafe {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_possible_wrap,
                reason = "n < 4"
            )]
            let down = [vdupq_n_s32(-8 * n as i32); 4];
            let words = all!(vreinterpretq_u32_u8(a));
            let words = all!(vshlq_u32(words, down));
            let low = [vdupq_n_u32(255); 4];
            let bytes = all!(vandq_u32(words, low));
            all!(vcvtq_f32_u32(bytes))
        }
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        unsafe {
            asm!("prfm pldl1keep, [{}]", in(reg) p, options(nostack, preserves_flags, readonly))
        }
    }
    #[inline(always)]
    unsafe fn prefetch_to_write(p: *const u8) {
        unsafe {
            asm!("prfm pstl1keep, [{}]", in(reg) p, options(nostack, preserves_flags, readonly))
        }
    }
    #[inline(always)]
    unsafe fn b_load(p: *const u8) -> B {
        unsafe {
            [
                vld1q_u8(p),
                vld1q_u8(p.add(16)),
                vld1q_u8(p.add(32)),
                vld1q_u8(p.add(48)),
            ]
        }
    }
    #[inline(always)]
    unsafe fn b_store(p: *mut u8, x: B) {
        unsafe {
            for (i, x) in x.into_iter().enumerate() {
                vst1q_u8(p.add(16 * i), x);
            }
        }
    }
    #[inline(always)]
    unsafe fn b_set(x: u8) -> B {
        unsafe { [vdupq_n_u8(x); 4] }
    }
    #[inline(always)]
    unsafe fn b_and(a: B, b: B) -> B {
        unsafe { all!(vandq_u8(a, b)) }
    }
    #[inline(always)]
    unsafe fn b_or(a: B, b: B) -> B {
        unsafe { all!(vorrq_u8(a, b)) }
    }
    #[inline(always)]
    unsafe fn b_sub(a: B, b: B) -> B {
        unsafe { all!(vsubq_u8(a, b)) }
    }
    #[inline(always)]
    unsafe fn b_shr<const N: u32>(a: B) -> B {
        unsafe {
            #[expect(clippy::cast_possible_truncation, reason = "N < 8")]
            let n = [vdupq_n_s8(-(N as i8)); 4];
            all!(vshlq_u8(a, n))
        }
    }
    #[inline(always)]
    unsafe fn b_shl<const N: u32>(a: B) -> B {
        unsafe {
            #[expect(clippy::cast_possible_truncation, reason = "N < 8")]
            let n = [vdupq_n_s8(N as i8); 4];
            all!(vshlq_u8(a, n))
        }
    }
    #[inline(always)]
    unsafe fn b_lookup(table: &[u8; 16], index: B) -> B {
        unsafe {
            let table = [vld1q_u8(table.as_ptr()); 4];
            all!(vqtbl1q_u8(table, index))
        }
    }
    #[inline(always)]
    unsafe fn b_mask(mask: u64, x: u8) -> B {
        const BITS: [u8; 16] = [1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128];
        unsafe {
            let (bits, x) = (vld1q_u8(BITS.as_ptr()), vdupq_n_u8(x));
            let m = mask.to_le_bytes();
            let quarter = |i: usize| {
                let bytes = vcombine_u8(vdup_n_u8(m[2 * i]), vdup_n_u8(m[2 * i + 1]));
                vandq_u8(vtstq_u8(bytes, bits), x)
            };
            [quarter(0), quarter(1), quarter(2), quarter(3)]
        }
    }
}

/// 16 unsigned bytes, widened.
#[inline(always)]
unsafe fn load_u8(p: *const u8) -> U {
    // SAFETY: the caller's 16 bytes and features.
    unsafe {
        let bytes = vld1q_u8(p);
        let (a, b) = (vmovl_u8(vget_low_u8(bytes)), vmovl_high_u8(bytes));
        [
            vmovl_u16(vget_low_u16(a)),
            vmovl_high_u16(a),
            vmovl_u16(vget_low_u16(b)),
            vmovl_high_u16(b),
        ]
    }
}

/// Mask of the first `n <= 16` lanes.
#[inline(always)]
unsafe fn below(n: usize) -> U {
    const LANE: [u32; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    // SAFETY: the features are the caller's; four lanes from each place.
    unsafe {
        #[expect(clippy::cast_possible_truncation, reason = "n <= 16")]
        let n = vdupq_n_u32(n as u32);
        [0, 4, 8, 12].map(|i| vcltq_u32(vld1q_u32(LANE.as_ptr().add(i)), n))
    }
}

/// Eight half floats as floats, exactly.
#[inline(always)]
unsafe fn widen_half(x: uint16x8_t) -> [float32x4_t; 2] {
    let (low, high);
    // SAFETY: registers only; the features are the caller's.
    unsafe {
        asm!(
            "fcvtl {low:v}.4s, {x:v}.4h",
            "fcvtl2 {high:v}.4s, {x:v}.8h",
            low = out(vreg) low,
            high = lateout(vreg) high,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    [low, high]
}

/// Eight floats as half floats, to nearest even.
#[inline(always)]
unsafe fn narrow_to_half(low: float32x4_t, high: float32x4_t) -> uint16x8_t {
    let x;
    // SAFETY: registers only; the features are the caller's.
    unsafe {
        asm!(
            "fcvtn {x:v}.4h, {low:v}.4s",
            "fcvtn2 {x:v}.8h, {high:v}.4s",
            x = out(vreg) x,
            low = in(vreg) low,
            high = in(vreg) high,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    x
}

/// `sdot`: four signed products, exact.
#[derive(Clone, Copy)]
pub(crate) struct Sdot;

#[expect(
    clippy::undocumented_unsafe_blocks,
    reason = "the trait's contract covers every method: features"
)]
impl Dot for Sdot {
    const SIGNED_BYTES: bool = true;
    const CHAINS: usize = 1;
    const PARTS: usize = 1;
    type B = B;
    type I = I;
    type Sums = I;

    #[inline(always)]
    unsafe fn start(start: i32) -> I {
        unsafe { [vdupq_n_s32(start); 4] }
    }
    #[inline(always)]
    unsafe fn dot4<C: Codes>(mut sums: I, codes: B, activations: i32) -> I {
        unsafe {
            let a = vreinterpretq_s8_s32(vdupq_n_s32(activations));
            for i in 0..4 {
                let codes = if C::MAX_CODE > 127 {
                    veorq_u8(codes[i], vdupq_n_u8(128))
                } else {
                    codes[i]
                };
                sums[i] = sdot(sums[i], vreinterpretq_s8_u8(codes), a);
            }
            sums
        }
    }
    #[inline(always)]
    unsafe fn finish(sums: I) -> I {
        sums
    }
}

#[inline(always)]
unsafe fn sdot(mut sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: registers only; the features are the caller's.
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {a:v}.16b, {b:v}.16b",
            sums = inout(vreg) sums,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

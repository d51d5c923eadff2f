//! The AVX2 tiers: FMA and F16C, with or without VNNI. Two registers per 16 lanes.

use std::arch::x86_64::{
    __m256, __m256i, _MM_FROUND_TO_NEAREST_INT, _MM_HINT_ET0, _MM_HINT_T0, _mm_add_ps,
    _mm_cvtsi32_si128, _mm_cvtss_f32, _mm_loadl_epi64, _mm_loadu_si128, _mm_max_ps, _mm_movehl_ps,
    _mm_packus_epi16, _mm_prefetch, _mm_shuffle_ps, _mm_storeu_si128, _mm256_add_epi32,
    _mm256_add_ps, _mm256_and_si256, _mm256_andnot_ps, _mm256_blendv_epi8, _mm256_blendv_ps,
    _mm256_broadcastsi128_si256, _mm256_castps256_ps128, _mm256_castsi256_ps,
    _mm256_castsi256_si128, _mm256_cmpeq_epi8, _mm256_cmpgt_epi32, _mm256_cvtepi8_epi32,
    _mm256_cvtepi32_ps, _mm256_cvtepu8_epi32, _mm256_cvtepu16_epi32, _mm256_cvtph_ps,
    _mm256_cvtps_epi32, _mm256_cvtps_ph, _mm256_div_ps, _mm256_extractf128_ps,
    _mm256_extracti128_si256, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256,
    _mm256_maskload_ps, _mm256_maskstore_ps, _mm256_max_ps, _mm256_min_ps, _mm256_mul_ps,
    _mm256_or_si256, _mm256_packus_epi32, _mm256_permute4x64_epi64, _mm256_set1_epi8,
    _mm256_set1_epi32, _mm256_set1_epi64x, _mm256_set1_ps, _mm256_setr_epi8, _mm256_setr_epi32,
    _mm256_setzero_ps, _mm256_shuffle_epi8, _mm256_sll_epi16, _mm256_sll_epi32, _mm256_slli_epi32,
    _mm256_sllv_epi32, _mm256_srl_epi16, _mm256_srl_epi32, _mm256_storeu_ps, _mm256_storeu_si256,
    _mm256_sub_epi8, _mm256_sub_epi32, _mm256_sub_ps,
};
use std::marker::PhantomData;

use super::{Dot, Isa};

/// Needs `avx2,fma,f16c`, and what `D` needs.
#[derive(Clone, Copy)]
pub(crate) struct Avx2<D>(PhantomData<D>);

/// Lanes 0 to 7 and 8 to 15.
type F = [__m256; 2];
type I = [__m256i; 2];

/// Both registers by one intrinsic.
macro_rules! both {
    ($intrinsic:ident($($arg:ident),*)) => {
        [$intrinsic($($arg[0]),*), $intrinsic($($arg[1]),*)]
    };
    ($intrinsic:ident::<$n:literal>($arg:ident)) => {
        [$intrinsic::<$n>($arg[0]), $intrinsic::<$n>($arg[1])]
    };
}

#[expect(
    clippy::undocumented_unsafe_blocks,
    reason = "the trait's contract covers every method: features and pointers"
)]
impl<D: Dot<B = I, I = I>> Isa for Avx2<D> {
    const ACCUMULATORS: usize = 6;
    type Dot = D;
    type F = F;
    type I = I;
    type B = I;

    #[inline(always)]
    unsafe fn zero() -> F {
        unsafe { [_mm256_setzero_ps(); 2] }
    }
    #[inline(always)]
    unsafe fn set(x: f32) -> F {
        unsafe { [_mm256_set1_ps(x); 2] }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> F {
        unsafe { [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))] }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: F) {
        unsafe {
            _mm256_storeu_ps(p, x[0]);
            _mm256_storeu_ps(p.add(8), x[1]);
        }
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> F {
        unsafe {
            let mask = below(n);
            [
                _mm256_maskload_ps(p, mask[0]),
                _mm256_maskload_ps(p.wrapping_add(8), mask[1]),
            ]
        }
    }
    #[inline(always)]
    unsafe fn store_first(p: *mut f32, x: F, n: usize) {
        unsafe {
            let mask = below(n);
            _mm256_maskstore_ps(p, mask[0], x[0]);
            _mm256_maskstore_ps(p.wrapping_add(8), mask[1], x[1]);
        }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> F {
        unsafe {
            [
                _mm256_cvtph_ps(_mm_loadu_si128(p.cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(p.add(8).cast())),
            ]
        }
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, x: F) {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT;
        unsafe {
            _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<NEAREST>(x[0]));
            _mm_storeu_si128(p.add(8).cast(), _mm256_cvtps_ph::<NEAREST>(x[1]));
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> F {
        unsafe {
            let wide = |p: *const u16| _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            let top = [wide(p), wide(p.add(8))];
            let top = both!(_mm256_slli_epi32::<16>(top));
            both!(_mm256_castsi256_ps(top))
        }
    }
    #[inline(always)]
    unsafe fn load_half_e8m0(p: *const u8) -> F {
        unsafe {
            let x = Self::i_load_u8(p);
            let (one, two) = (Self::i_set(1), Self::i_set(2));
            let normal = both!(_mm256_sub_epi32(x, one));
            let normal = both!(_mm256_slli_epi32::<23>(normal));
            let unit = Self::i_set(0x0020_0000);
            let subnormal = both!(_mm256_sllv_epi32(unit, x));
            let small = both!(_mm256_cmpgt_epi32(two, x));
            let bits = both!(_mm256_blendv_epi8(normal, subnormal, small));
            both!(_mm256_castsi256_ps(bits))
        }
    }
    #[inline(always)]
    unsafe fn add(a: F, b: F) -> F {
        unsafe { both!(_mm256_add_ps(a, b)) }
    }
    #[inline(always)]
    unsafe fn sub(a: F, b: F) -> F {
        unsafe { both!(_mm256_sub_ps(a, b)) }
    }
    #[inline(always)]
    unsafe fn mul(a: F, b: F) -> F {
        unsafe { both!(_mm256_mul_ps(a, b)) }
    }
    #[inline(always)]
    unsafe fn div(a: F, b: F) -> F {
        unsafe { both!(_mm256_div_ps(a, b)) }
    }
    #[inline(always)]
    unsafe fn fma(a: F, b: F, c: F) -> F {
        unsafe { both!(_mm256_fmadd_ps(a, b, c)) }
    }
    #[inline(always)]
    unsafe fn min(a: F, b: F) -> F {
        unsafe { both!(_mm256_min_ps(a, b)) }
    }
    #[inline(always)]
    unsafe fn max(a: F, b: F) -> F {
        unsafe { both!(_mm256_max_ps(a, b)) }
    }
    #[inline(always)]
    unsafe fn abs(a: F) -> F {
        unsafe {
            let sign = Self::set(-0.0);
            both!(_mm256_andnot_ps(sign, a))
        }
    }
    #[inline(always)]
    unsafe fn sum(a: F) -> f32 {
        unsafe {
            let eight = _mm256_add_ps(a[0], a[1]);
            let four = _mm_add_ps(
                _mm256_castps256_ps128(eight),
                _mm256_extractf128_ps::<1>(eight),
            );
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ps(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
    #[inline(always)]
    unsafe fn max_lane(a: F) -> f32 {
        unsafe {
            let eight = _mm256_max_ps(a[0], a[1]);
            let four = _mm_max_ps(
                _mm256_castps256_ps128(eight),
                _mm256_extractf128_ps::<1>(eight),
            );
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ps(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
    #[inline(always)]
    unsafe fn select_range(lo: usize, hi: usize, a: F, b: F) -> F {
        unsafe {
            let (lo, hi) = (below(lo), below(hi));
            let (lo, hi) = (
                both!(_mm256_castsi256_ps(lo)),
                both!(_mm256_castsi256_ps(hi)),
            );
            let inside = both!(_mm256_andnot_ps(lo, hi));
            both!(_mm256_blendv_ps(b, a, inside))
        }
    }
    #[inline(always)]
    unsafe fn round(a: F) -> I {
        unsafe { both!(_mm256_cvtps_epi32(a)) }
    }
    #[inline(always)]
    unsafe fn to_f(a: I) -> F {
        unsafe { both!(_mm256_cvtepi32_ps(a)) }
    }
    #[inline(always)]
    unsafe fn exp2i(n: I) -> F {
        unsafe {
            let biased = Self::i_add(n, Self::i_set(127));
            let bits = both!(_mm256_slli_epi32::<23>(biased));
            both!(_mm256_castsi256_ps(bits))
        }
    }
    #[inline(always)]
    unsafe fn i_set(x: i32) -> I {
        unsafe { [_mm256_set1_epi32(x); 2] }
    }
    #[inline(always)]
    unsafe fn i_add(a: I, b: I) -> I {
        unsafe { both!(_mm256_add_epi32(a, b)) }
    }
    #[inline(always)]
    unsafe fn i_and(a: I, b: I) -> I {
        unsafe { both!(_mm256_and_si256(a, b)) }
    }
    #[inline(always)]
    unsafe fn i_shl<const N: u32>(a: I) -> I {
        unsafe {
            let n = _mm_cvtsi32_si128(N.cast_signed());
            [_mm256_sll_epi32(a[0], n), _mm256_sll_epi32(a[1], n)]
        }
    }
    #[inline(always)]
    unsafe fn i_shr(a: I, n: u32) -> I {
        unsafe {
            let n = _mm_cvtsi32_si128(n.cast_signed());
            [_mm256_srl_epi32(a[0], n), _mm256_srl_epi32(a[1], n)]
        }
    }
    #[inline(always)]
    unsafe fn i_load(p: *const i32) -> I {
        unsafe {
            [
                _mm256_loadu_si256(p.cast()),
                _mm256_loadu_si256(p.add(8).cast()),
            ]
        }
    }
    #[inline(always)]
    unsafe fn i_load_i8(p: *const i8) -> I {
        unsafe {
            [
                _mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast())),
                _mm256_cvtepi8_epi32(_mm_loadl_epi64(p.add(8).cast())),
            ]
        }
    }
    #[inline(always)]
    unsafe fn i_load_u8(p: *const u8) -> I {
        unsafe {
            [
                _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast())),
                _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.add(8).cast())),
            ]
        }
    }
    #[inline(always)]
    unsafe fn i_store_i8(p: *mut i8, x: I) {
        unsafe {
            let byte = Self::i_and(x, Self::i_set(255));
            // Packing works within halves of a register: lanes 0-3, 8-11, 4-7, 12-15, then back in order.
            let words = _mm256_packus_epi32(byte[0], byte[1]);
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let bytes = _mm_packus_epi16(
                _mm256_castsi256_si128(words),
                _mm256_extracti128_si256::<1>(words),
            );
            _mm_storeu_si128(p.cast(), bytes);
        }
    }
    #[inline(always)]
    unsafe fn byte_to_f(a: I, n: usize) -> F {
        unsafe {
            #[expect(clippy::cast_possible_truncation, reason = "n < 4")]
            let byte = Self::i_shr(a, 8 * n as u32);
            Self::to_f(Self::i_and(byte, Self::i_set(255)))
        }
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn prefetch_to_write(p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn b_load(p: *const u8) -> I {
        unsafe {
            [
                _mm256_loadu_si256(p.cast()),
                _mm256_loadu_si256(p.add(32).cast()),
            ]
        }
    }
    #[inline(always)]
    unsafe fn b_store(p: *mut u8, x: I) {
        unsafe {
            _mm256_storeu_si256(p.cast(), x[0]);
            _mm256_storeu_si256(p.add(32).cast(), x[1]);
        }
    }
    #[inline(always)]
    unsafe fn b_set(x: u8) -> I {
        unsafe { [_mm256_set1_epi8(x.cast_signed()); 2] }
    }
    #[inline(always)]
    unsafe fn b_and(a: I, b: I) -> I {
        unsafe { both!(_mm256_and_si256(a, b)) }
    }
    #[inline(always)]
    unsafe fn b_or(a: I, b: I) -> I {
        unsafe { both!(_mm256_or_si256(a, b)) }
    }
    #[inline(always)]
    unsafe fn b_sub(a: I, b: I) -> I {
        unsafe { both!(_mm256_sub_epi8(a, b)) }
    }
    #[inline(always)]
    unsafe fn b_shr<const N: u32>(a: I) -> I {
        unsafe {
            let n = _mm_cvtsi32_si128(N.cast_signed());
            [_mm256_srl_epi16(a[0], n), _mm256_srl_epi16(a[1], n)]
        }
    }
    #[inline(always)]
    unsafe fn b_shl<const N: u32>(a: I) -> I {
        unsafe {
            let n = _mm_cvtsi32_si128(N.cast_signed());
            [_mm256_sll_epi16(a[0], n), _mm256_sll_epi16(a[1], n)]
        }
    }
    #[inline(always)]
    unsafe fn b_lookup(table: &[u8; 16], index: I) -> I {
        unsafe {
            let table = [_mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())); 2];
            both!(_mm256_shuffle_epi8(table, index))
        }
    }
    #[inline(always)]
    unsafe fn b_mask(mask: u64, x: u8) -> I {
        unsafe {
            let x = _mm256_set1_epi8(x.cast_signed());
            // Byte `i` of the result looks at bit `i % 8` of byte `i / 8` of the mask.
            let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64.cast_signed());
            let half = |first: i8| {
                let mask = _mm256_set1_epi64x(mask.cast_signed());
                let (a, b, c, d) = (first, first + 1, first + 2, first + 3);
                let bytes = _mm256_shuffle_epi8(
                    mask,
                    _mm256_setr_epi8(
                        a, a, a, a, a, a, a, a, b, b, b, b, b, b, b, b, c, c, c, c, c, c, c, c, d,
                        d, d, d, d, d, d, d,
                    ),
                );
                let set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit);
                _mm256_and_si256(set, x)
            };
            [half(0), half(4)]
        }
    }
}

/// Mask of the first `n <= 16` lanes.
#[inline(always)]
unsafe fn below(n: usize) -> I {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        reason = "n <= 16"
    )]
    let n = n as i32;
    // SAFETY: as the methods.
    unsafe {
        let n = _mm256_set1_epi32(n);
        [
            _mm256_cmpgt_epi32(n, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)),
            _mm256_cmpgt_epi32(n, _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15)),
        ]
    }
}

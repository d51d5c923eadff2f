//! Sums of products on x86: by VNNI, or by `maddubs` without it.
//!
//! `maddubs` adds two products of an unsigned and a signed byte in 16 bits and saturates, so how many such sums may be
//! added before they are widened depends on the largest code: 8 of 4-bit codes, 4 of 5-bit and 2 of 6-bit codes. Codes
//! above 127 become signed; then `|code - 128| * activation`, the sign moved to the activation, fits once.

use std::arch::x86_64::{
    __m256i, __m512i, _mm256_abs_epi8, _mm256_add_epi16, _mm256_add_epi32, _mm256_and_si256,
    _mm256_dpbusd_avx_epi32, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_set1_epi8,
    _mm256_set1_epi16, _mm256_set1_epi32, _mm256_sign_epi8, _mm256_sub_epi32, _mm256_xor_si256,
    _mm512_abs_epi8, _mm512_add_epi16, _mm512_add_epi32, _mm512_and_si512, _mm512_dpbusd_epi32,
    _mm512_madd_epi16, _mm512_maddubs_epi16, _mm512_mask_sub_epi8, _mm512_movepi8_mask,
    _mm512_set1_epi8, _mm512_set1_epi16, _mm512_set1_epi32, _mm512_setzero_si512, _mm512_sub_epi32,
    _mm512_xor_si512,
};
use std::marker::PhantomData;

use super::{Codes, Dot};

/// 64 bytes in one register or two: what both ways of multiplying need.
///
/// # Safety
/// Methods need AVX-512 BW, or AVX2; `dpbusd` VNNI as well.
pub(crate) trait Bytes: Copy + 'static {
    /// 16 equal integers.
    unsafe fn set(x: i32) -> Self;
    /// 32-bit sums.
    unsafe fn add(a: Self, b: Self) -> Self;
    /// 16-bit sums.
    unsafe fn add_short(a: Self, b: Self) -> Self;
    /// `sums + Σ_4 unsigned * signed` in 32 bits.
    unsafe fn dpbusd(sums: Self, unsigned: Self, signed: Self) -> Self;
    /// `Σ_2 unsigned * signed` in 16 bits, saturated.
    unsafe fn maddubs(unsigned: Self, signed: Self) -> Self;
    /// Neighbouring 16-bit sums added in 32 bits.
    unsafe fn widen(short: Self) -> Self;
    /// `code - 128`.
    unsafe fn signed(codes: Self) -> Self;
    /// `Σ_2 a * b` in 16 bits; `b` within `-127 ..= 127`.
    unsafe fn signed_products(a: Self, b: Self) -> Self;
    /// Bits in both.
    unsafe fn and(a: Self, b: Self) -> Self;
    /// 32-bit differences.
    unsafe fn sub(a: Self, b: Self) -> Self;
}

#[expect(
    clippy::undocumented_unsafe_blocks,
    reason = "the trait's contract covers every method: features"
)]
impl Bytes for __m512i {
    #[inline(always)]
    unsafe fn set(x: i32) -> Self {
        unsafe { _mm512_set1_epi32(x) }
    }
    #[inline(always)]
    unsafe fn add(a: Self, b: Self) -> Self {
        unsafe { _mm512_add_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn add_short(a: Self, b: Self) -> Self {
        unsafe { _mm512_add_epi16(a, b) }
    }
    #[inline(always)]
    unsafe fn dpbusd(sums: Self, unsigned: Self, signed: Self) -> Self {
        unsafe { _mm512_dpbusd_epi32(sums, unsigned, signed) }
    }
    #[inline(always)]
    unsafe fn maddubs(unsigned: Self, signed: Self) -> Self {
        unsafe { _mm512_maddubs_epi16(unsigned, signed) }
    }
    #[inline(always)]
    unsafe fn widen(short: Self) -> Self {
        unsafe { _mm512_madd_epi16(short, _mm512_set1_epi16(1)) }
    }
    #[inline(always)]
    unsafe fn signed(codes: Self) -> Self {
        unsafe { _mm512_xor_si512(codes, _mm512_set1_epi8(-128)) }
    }
    #[inline(always)]
    unsafe fn and(a: Self, b: Self) -> Self {
        unsafe { _mm512_and_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: Self, b: Self) -> Self {
        unsafe { _mm512_sub_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn signed_products(a: Self, b: Self) -> Self {
        unsafe {
            let negative = _mm512_movepi8_mask(a);
            let b = _mm512_mask_sub_epi8(b, negative, _mm512_setzero_si512(), b);
            _mm512_maddubs_epi16(_mm512_abs_epi8(a), b)
        }
    }
}

#[expect(
    clippy::undocumented_unsafe_blocks,
    reason = "the trait's contract covers every method: features"
)]
impl Bytes for [__m256i; 2] {
    #[inline(always)]
    unsafe fn set(x: i32) -> Self {
        unsafe { [_mm256_set1_epi32(x); 2] }
    }
    #[inline(always)]
    unsafe fn add(a: Self, b: Self) -> Self {
        unsafe { [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn add_short(a: Self, b: Self) -> Self {
        unsafe { [_mm256_add_epi16(a[0], b[0]), _mm256_add_epi16(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn dpbusd(sums: Self, unsigned: Self, signed: Self) -> Self {
        unsafe {
            [
                _mm256_dpbusd_avx_epi32(sums[0], unsigned[0], signed[0]),
                _mm256_dpbusd_avx_epi32(sums[1], unsigned[1], signed[1]),
            ]
        }
    }
    #[inline(always)]
    unsafe fn maddubs(unsigned: Self, signed: Self) -> Self {
        unsafe {
            [
                _mm256_maddubs_epi16(unsigned[0], signed[0]),
                _mm256_maddubs_epi16(unsigned[1], signed[1]),
            ]
        }
    }
    #[inline(always)]
    unsafe fn widen(short: Self) -> Self {
        unsafe {
            let one = _mm256_set1_epi16(1);
            [
                _mm256_madd_epi16(short[0], one),
                _mm256_madd_epi16(short[1], one),
            ]
        }
    }
    #[inline(always)]
    unsafe fn signed(codes: Self) -> Self {
        unsafe {
            let top = _mm256_set1_epi8(-128);
            [
                _mm256_xor_si256(codes[0], top),
                _mm256_xor_si256(codes[1], top),
            ]
        }
    }
    #[inline(always)]
    unsafe fn and(a: Self, b: Self) -> Self {
        unsafe { [_mm256_and_si256(a[0], b[0]), _mm256_and_si256(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn sub(a: Self, b: Self) -> Self {
        unsafe { [_mm256_sub_epi32(a[0], b[0]), _mm256_sub_epi32(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn signed_products(a: Self, b: Self) -> Self {
        unsafe {
            let b = [_mm256_sign_epi8(b[0], a[0]), _mm256_sign_epi8(b[1], a[1])];
            Self::maddubs([_mm256_abs_epi8(a[0]), _mm256_abs_epi8(a[1])], b)
        }
    }
}

/// `dpbusd`: exact for any bytes.
#[derive(Clone, Copy)]
pub(crate) struct Vnni<V>(PhantomData<V>);

#[expect(
    clippy::undocumented_unsafe_blocks,
    reason = "the trait's contract covers every method: features"
)]
impl<V: Bytes> Dot for Vnni<V> {
    const SIGNED_BYTES: bool = false;
    const CHAINS: usize = 2;
    const PARTS: usize = 1;
    type B = V;
    type I = V;
    type Sums = V;

    #[inline(always)]
    unsafe fn start(start: i32) -> V {
        unsafe { V::set(start) }
    }
    #[inline(always)]
    unsafe fn dot4<C: Codes>(sums: V, codes: V, activations: i32) -> V {
        unsafe { V::dpbusd(sums, codes, V::set(activations)) }
    }
    #[inline(always)]
    unsafe fn finish(sums: V) -> V {
        sums
    }
}

/// `maddubs`, then `madd` as seldom as the codes' size allows.
#[derive(Clone, Copy)]
pub(crate) struct Pairs<V>(PhantomData<V>);

/// Sums of pairs in 16 bits, how many of them, and what was widened before.
#[derive(Clone, Copy)]
pub(crate) struct PairSums<V> {
    short: V,
    wide: V,
    /// A constant to the compiler wherever the caller's loop is unrolled.
    held: u32,
}

/// How many sums of two products fit 16 bits, as a power of two: `depth * 2 * max * 128 <= 32767`.
const fn depth(max: u8) -> u32 {
    let most = 32_767 / (2 * 128 * max as u32);
    match most {
        8.. => 8,
        4.. => 4,
        2.. => 2,
        _ => 1,
    }
}

#[expect(
    clippy::undocumented_unsafe_blocks,
    reason = "the trait's contract covers every method: features"
)]
impl<V: Bytes> Pairs<V> {
    #[inline(always)]
    unsafe fn widen(sums: PairSums<V>) -> PairSums<V> {
        unsafe {
            PairSums {
                short: V::set(0),
                wide: V::add(sums.wide, V::widen(sums.short)),
                held: 0,
            }
        }
    }
}

#[expect(
    clippy::undocumented_unsafe_blocks,
    reason = "the trait's contract covers every method: features"
)]
impl<V: Bytes> Dot for Pairs<V> {
    const SIGNED_BYTES: bool = true;
    const CHAINS: usize = 1;
    const PARTS: usize = 2;
    type B = V;
    type I = V;
    type Sums = PairSums<V>;

    #[inline(always)]
    unsafe fn start(start: i32) -> PairSums<V> {
        unsafe {
            PairSums {
                short: V::set(0),
                wide: V::set(start),
                held: 0,
            }
        }
    }
    #[inline(always)]
    unsafe fn dot4<C: Codes>(mut sums: PairSums<V>, codes: V, activations: i32) -> PairSums<V> {
        unsafe {
            let a = V::set(activations);
            if C::MAX_CODE > 127 {
                let products = V::signed_products(V::signed(codes), a);
                sums.wide = V::add(sums.wide, V::widen(products));
                return sums;
            }
            if sums.held == const { depth(C::MAX_CODE) } {
                sums = Self::widen(sums);
            }
            sums.short = V::add_short(sums.short, V::maddubs(codes, a));
            sums.held += 1;
            sums
        }
    }
    #[inline(always)]
    unsafe fn dot4_low<C: Codes>(mut sums: PairSums<V>, codes: V, activations: i32) -> PairSums<V> {
        unsafe {
            if C::MAX_CODE <= 127 {
                return Self::dot4::<C>(sums, codes, activations);
            }
            // -128 has no opposite. `code - 128` is the low seven bits less 128 where the top bit is clear.
            let a = V::set(activations);
            let low = V::and(codes, V::set(0x7f7f_7f7f));
            let clear = V::and(V::signed(codes), V::set(0x8080_8080_u32.cast_signed()));
            let products = V::sub(V::widen(V::maddubs(low, a)), V::widen(V::maddubs(clear, a)));
            sums.wide = V::add(sums.wide, products);
            sums
        }
    }
    #[inline(always)]
    unsafe fn finish(sums: PairSums<V>) -> V {
        unsafe {
            if sums.held == 0 {
                sums.wide
            } else {
                Self::widen(sums).wide
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::depth;

    #[test]
    fn as_many_pairs_are_added_as_never_saturate() {
        assert_eq!([3, 15, 31, 63, 127].map(depth), [8, 8, 4, 2, 1]);
        for max in 1..=127_u8 {
            let most = depth(max).cast_signed() * 2 * i32::from(max) * 128;
            assert!(most <= i32::from(i16::MAX), "{max}");
        }
    }
}

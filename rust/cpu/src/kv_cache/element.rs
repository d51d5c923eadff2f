//! The types of the cache, as kernels see them: words that multiply-adds take.

use crate::simd::{Isa, LANES};

/// Element type of the cache.
pub(crate) trait KvElement: Copy + 'static {
    /// Bytes of a word.
    const WORD_BYTES: usize;
    /// Elements of a word: 1, or 2 that lie next to each other.
    const PER_WORD: usize = 1;
    /// Whether each token of a head has a scale for K and one for V.
    const SCALED: bool = false;

    /// 16 words as a step takes them.
    unsafe fn load<I: Isa>(p: *const u8) -> I::F;
    /// `acc` plus the products of 16 pairs of words; the same chain in every kernel.
    #[inline(always)]
    unsafe fn step<I: Isa>(acc: I::F, left: I::F, right: I::F) -> I::F {
        // SAFETY: features of the caller.
        unsafe { I::fma(left, right, acc) }
    }
    /// 16 floats as elements of `WORD_BYTES / PER_WORD` bytes each, after a multiplication by `1 / scale` if
    /// [`KvElement::SCALED`].
    unsafe fn encode<I: Isa>(to: *mut u8, x: I::F, inverse: f32);
    /// 16 floats of a query or of softmax weights as elements, next to each other.
    #[inline(always)]
    unsafe fn store_left<I: Isa>(to: *mut f32, at: usize, x: I::F) {
        // SAFETY: the caller's 16 elements from element `at` on.
        unsafe { I::store(to.add(at), x) }
    }
    /// Of 16 words only the elements at even (`upper` false) or odd places; the others 0, whatever they were.
    #[inline(always)]
    unsafe fn only_half<I: Isa>(words: I::F, _upper: bool) -> I::F {
        words
    }
}

/// Half floats, the default. Values beyond the range of f16 are clamped to its largest.
#[derive(Clone, Copy)]
pub(crate) struct Half;

impl KvElement for Half {
    const WORD_BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<I: Isa>(p: *const u8) -> I::F {
        // SAFETY: the caller's 16 words.
        unsafe { I::load_f16(p.cast()) }
    }
    #[inline(always)]
    unsafe fn encode<I: Isa>(to: *mut u8, x: I::F, _inverse: f32) {
        // SAFETY: the caller's 16 elements. `max(limit, x)` returns x where it is NaN, so NaN survives.
        unsafe {
            let x = I::max(I::set(-65504.0), I::min(I::set(65504.0), x));
            I::store_f16(to.cast(), x);
        }
    }
}

/// Floats, for exact precision.
#[derive(Clone, Copy)]
pub(crate) struct Single;

impl KvElement for Single {
    const WORD_BYTES: usize = 4;
    #[inline(always)]
    unsafe fn load<I: Isa>(p: *const u8) -> I::F {
        // SAFETY: the caller's 16 words.
        unsafe { I::load(p.cast()) }
    }
    #[inline(always)]
    unsafe fn encode<I: Isa>(to: *mut u8, x: I::F, _inverse: f32) {
        // SAFETY: the caller's 16 elements.
        unsafe { I::store(to.cast(), x) }
    }
}

/// Signed bytes `-127 ..= 127` with a scale; widened to floats for the multiplication, exactly.
#[derive(Clone, Copy)]
pub(crate) struct Int8;

impl KvElement for Int8 {
    const WORD_BYTES: usize = 1;
    const SCALED: bool = true;
    #[inline(always)]
    unsafe fn load<I: Isa>(p: *const u8) -> I::F {
        // SAFETY: the caller's 16 words.
        unsafe { I::to_f(I::i_load_i8(p.cast())) }
    }
    #[inline(always)]
    unsafe fn encode<I: Isa>(to: *mut u8, x: I::F, inverse: f32) {
        // SAFETY: the caller's 16 elements. A NaN becomes any code: its scale is NaN.
        unsafe { I::i_store_i8(to.cast(), I::round(I::mul(x, I::set(inverse)))) }
    }
}

/// Pairs of bfloat16.
#[derive(Clone, Copy)]
pub(crate) struct BfloatPairs<const NATIVE: bool>;

/// In every tier.
pub(crate) type Bfloat = BfloatPairs<false>;
/// The same bits in one instruction, where there is one.
pub(crate) type BfloatNative = BfloatPairs<true>;

impl<const NATIVE: bool> KvElement for BfloatPairs<NATIVE> {
    const WORD_BYTES: usize = 4;
    const PER_WORD: usize = 2;
    #[inline(always)]
    unsafe fn load<I: Isa>(p: *const u8) -> I::F {
        // SAFETY: the caller's 16 words. Loads move bits, whatever they mean.
        unsafe { I::load(p.cast()) }
    }
    #[inline(always)]
    unsafe fn step<I: Isa>(acc: I::F, left: I::F, right: I::F) -> I::F {
        // SAFETY: features of the caller.
        unsafe {
            if NATIVE {
                I::dot_bf16_native(acc, left, right)
            } else {
                I::dot_bf16(acc, left, right)
            }
        }
    }
    #[inline(always)]
    unsafe fn encode<I: Isa>(to: *mut u8, x: I::F, _inverse: f32) {
        // SAFETY: the caller's 16 elements.
        unsafe { I::store_bf16(to.cast(), x) }
    }
    #[inline(always)]
    unsafe fn store_left<I: Isa>(to: *mut f32, at: usize, x: I::F) {
        // SAFETY: the caller's 16 elements from element `at` on.
        unsafe { I::store_bf16(to.cast::<u16>().add(at), x) }
    }
    #[inline(always)]
    unsafe fn only_half<I: Isa>(words: I::F, upper: bool) -> I::F {
        let mut lanes = [0.0_f32; LANES];
        // SAFETY: our own array; once per query at an odd border.
        unsafe {
            I::store(lanes.as_mut_ptr(), words);
            for lane in &mut lanes {
                let keep = if upper { 0xffff_0000 } else { 0x0000_ffff };
                *lane = f32::from_bits(lane.to_bits() & keep);
            }
            I::load(lanes.as_ptr())
        }
    }
}

//! Writing K and V of one token.

use inferlib_program::BLOCK_SIZE;

use super::{KvElement, LayerCache};
use crate::simd::{Isa, LANES};

/// Below this a scale counts as 0: its inverse would not be finite.
const SMALLEST_SCALE: f32 = 1e-30;

/// Write one token's K and V heads at `slot`.
///
/// # Safety
/// `slot` is within the pool and written by nobody else; `k` and `v` hold all KV heads; features of `I`.
#[inline(always)]
pub(crate) unsafe fn store_kv<I: Isa, E: KvElement>(
    cache: &LayerCache,
    slot: usize,
    k: *const f32,
    v: *const f32,
) {
    let (block, token) = (slot / BLOCK_SIZE, slot % BLOCK_SIZE);
    for head in 0..cache.num_kv_heads {
        // SAFETY: addresses lie within the block.
        unsafe {
            let scales = cache.scales(block, head);
            let (from, dim) = (k.add(head * cache.k_head_dim), cache.k_head_dim);
            let inverse = scale::<I, E>(scales.wrapping_add(token), from, dim);
            store_k::<I, E>(cache.k(block, head), token, from, dim, inverse);
            let (from, dim) = (v.add(head * cache.v_head_dim), cache.v_head_dim);
            let inverse = scale::<I, E>(scales.wrapping_add(BLOCK_SIZE + token), from, dim);
            let row = cache
                .v(block, head)
                .add(token / E::PER_WORD * cache.v_stride * E::WORD_BYTES);
            store_v::<I, E>(row, token % E::PER_WORD, from, dim, inverse);
        }
    }
}

/// One key into its block's `[k_steps][16]` words, as column `token`.
#[inline(always)]
unsafe fn store_k<I: Isa, E: KvElement>(
    to: *mut u8,
    token: usize,
    from: *const f32,
    dim: usize,
    inverse: f32,
) {
    let mut elements = [0_u8; 4 * LANES];
    let mut d = 0;
    while d < dim {
        let count = LANES.min(dim - d);
        // SAFETY: the caller's row and block.
        unsafe {
            E::encode::<I>(
                elements.as_mut_ptr(),
                I::load_up_to(from.add(d), count),
                inverse,
            );
            for j in 0..count {
                let word = (d + j) / E::PER_WORD * BLOCK_SIZE + token;
                put::<E>(to, word, (d + j) % E::PER_WORD, &elements, j);
            }
        }
        d += LANES;
    }
}

/// One row of V into its words, as element `place` of each. The zeros that pad the row to 16 columns stay zeros.
#[inline(always)]
unsafe fn store_v<I: Isa, E: KvElement>(
    row: *mut u8,
    place: usize,
    from: *const f32,
    dim: usize,
    inverse: f32,
) {
    let mut elements = [0_u8; 4 * LANES];
    let mut d = 0;
    while d < dim {
        // SAFETY: the caller's row, which is padded to 16 columns.
        unsafe {
            let x = I::load_up_to(from.add(d), LANES.min(dim - d));
            if E::PER_WORD == 1 {
                E::encode::<I>(row.add(d * E::WORD_BYTES), x, inverse);
            } else {
                E::encode::<I>(elements.as_mut_ptr(), x, inverse);
                for j in 0..LANES {
                    put::<E>(row, d + j, place, &elements, j);
                }
            }
        }
        d += LANES;
    }
}

/// Element `j` of `elements` to a place within a word.
#[inline(always)]
unsafe fn put<E: KvElement>(
    words: *mut u8,
    word: usize,
    place: usize,
    elements: &[u8; 4 * LANES],
    j: usize,
) {
    let bytes = const { E::WORD_BYTES / E::PER_WORD };
    // SAFETY: the caller's word lies within the block.
    unsafe {
        let to = words.add(word * E::WORD_BYTES + place * bytes);
        std::ptr::copy_nonoverlapping(elements.as_ptr().add(j * bytes), to, bytes);
    }
}

/// Choose and write a row's scale: the smallest bf16 that brings all codes within 127. Returns its inverse.
/// A row that is not finite gets the scale NaN, so that whoever reads it learns of it.
#[inline(always)]
unsafe fn scale<I: Isa, E: KvElement>(to: *mut u16, from: *const f32, dim: usize) -> f32 {
    if !E::SCALED {
        return 1.0;
    }
    // SAFETY: the caller's row and one of the block's scales.
    unsafe {
        let (mut largest, mut nothing) = (I::zero(), I::zero());
        let mut d = 0;
        while d < dim {
            let x = I::load_up_to(from.add(d), LANES.min(dim - d));
            largest = I::max(largest, I::abs(x));
            nothing = I::fma(x, I::zero(), nothing); // NaN where x is infinite or NaN
            d += LANES;
        }
        let scale = I::max_lane(largest) / 127.0;
        if I::sum(nothing).is_nan() {
            to.write_unaligned(0x7fc0);
            return f32::NAN;
        }
        if scale < SMALLEST_SCALE {
            to.write_unaligned(0);
            return 0.0;
        }
        let up = ((scale.to_bits() + 0xffff) >> 16) as u16;
        to.write_unaligned(up);
        1.0 / f32::from_bits(u32::from(up) << 16)
    }
}

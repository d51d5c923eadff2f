//! Scores of a tile to weights, relative to the tile's own maximum.

use super::{AttentionScratch, LOWEST, TILE, TILE_BLOCKS, Tile};
use crate::kv_cache::KvElement;
use crate::math;
use crate::simd::{Isa, LANES};

/// Weights, maxima and sums of all queries.
#[inline(always)]
pub(super) unsafe fn run<I: Isa, E: KvElement>(
    tile: &Tile<'_>,
    softcap: Option<f32>,
    scratch: &mut AttentionScratch,
) {
    // SAFETY: the contract of `unit`: the scratch has room, visible scores were written.
    unsafe {
        if E::SCALED {
            load_scales::<I>(tile, scratch);
        }
        let scales = scratch.scales.as_ptr();
        for query in 0..tile.queries {
            let row = scratch.scores.as_mut_ptr().add(query * TILE);
            let visible = scratch.visible[query];
            let (maximum, sum) = if visible == (0, TILE) && softcap.is_none() {
                whole_row::<I, E>(row, scales)
            } else if visible.0 < visible.1 {
                part_of_row::<I, E>(row, visible, softcap, scales)
            } else {
                (LOWEST, 0.0)
            };
            scratch.statistics.tile_maximum[query] = maximum;
            scratch.statistics.tile_sum[query] = sum;
        }
    }
}

/// The scales of the tile's tokens, K then V. Those of slots that nobody sees may be anything.
#[inline(always)]
unsafe fn load_scales<I: Isa>(tile: &Tile<'_>, scratch: &mut AttentionScratch) {
    for block in tile.blocks.0..tile.blocks.1 {
        // SAFETY: as `run`.
        unsafe {
            let from = tile.cache.scales(tile.block(block), tile.head).cast_const();
            let to = scratch.scales.as_mut_ptr().add(block * LANES);
            I::store(to, I::load_bf16(from));
            I::store(to.add(TILE), I::load_bf16(from.add(LANES)));
        }
    }
}

/// A row of which everything is visible.
#[inline(always)]
unsafe fn whole_row<I: Isa, E: KvElement>(row: *mut f32, scales: *const f32) -> (f32, f32) {
    // SAFETY: TILE scores.
    unsafe {
        let mut scores = [I::zero(); TILE_BLOCKS];
        let mut largest = I::set(LOWEST);
        for i in 0..TILE_BLOCKS {
            scores[i] = I::load(row.add(i * LANES));
            if E::SCALED {
                scores[i] = I::mul(scores[i], I::load(scales.add(i * LANES)));
            }
            largest = I::max(largest, scores[i]);
        }
        let maximum = I::max_lane(largest);
        let shift = I::set(maximum);
        let mut sum = I::zero();
        for i in 0..TILE_BLOCKS {
            let mut weights = math::exp2::<I>(I::sub(scores[i], shift));
            sum = I::add(sum, weights);
            if E::SCALED {
                weights = I::mul(weights, I::load(scales.add(TILE + i * LANES)));
            }
            E::store_left::<I>(row, i * LANES, weights);
        }
        (maximum, I::sum(sum))
    }
}

/// A row of which the columns `lo .. hi` are visible, perhaps with a soft cap. Weights within the visible blocks but
/// outside of the range are exactly 0.
#[inline(always)]
unsafe fn part_of_row<I: Isa, E: KvElement>(
    row: *mut f32,
    (lo, hi): (usize, usize),
    softcap: Option<f32>,
    scales: *const f32,
) -> (f32, f32) {
    let (first, end) = (lo / LANES, hi.div_ceil(LANES));
    // SAFETY: TILE scores.
    unsafe {
        let mut largest = I::set(LOWEST);
        for i in first..end {
            let at = i * LANES;
            let mut scores = I::load(row.add(at));
            if E::SCALED {
                scores = I::mul(scores, I::load(scales.add(at)));
            }
            if let Some(cap) = softcap {
                let steep = math::tanh::<I>(I::div(scores, I::set(cap)));
                scores = I::mul(steep, I::set(cap * std::f32::consts::LOG2_E));
            }
            I::store(row.add(at), scores);
            // A NaN that is passed over here survives in the weights.
            largest = I::max(largest, within::<I>(at, (lo, hi), scores, I::set(LOWEST)));
        }
        let maximum = I::max_lane(largest);
        let shift = I::set(maximum);
        let mut sum = I::zero();
        for i in first..end {
            let at = i * LANES;
            let weights = math::exp2::<I>(I::sub(I::load(row.add(at)), shift));
            let weights = within::<I>(at, (lo, hi), weights, I::zero());
            sum = I::add(sum, weights);
            let left = if E::SCALED {
                let words = I::mul(weights, I::load(scales.add(TILE + at)));
                within::<I>(at, (lo, hi), words, I::zero())
            } else {
                weights
            };
            E::store_left::<I>(row, at, left);
        }
        (maximum, I::sum(sum))
    }
}

/// Of the columns `at .. at + 16` those within `lo .. hi` from `x`, the others from `other`.
#[inline(always)]
unsafe fn within<I: Isa>(at: usize, (lo, hi): (usize, usize), x: I::F, other: I::F) -> I::F {
    let (from, to) = (lo.saturating_sub(at), hi.saturating_sub(at).min(LANES));
    // SAFETY: features of the caller.
    unsafe { I::select_range(from, to, x, other) }
}

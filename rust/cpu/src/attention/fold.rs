//! Folding tiles in ascending order, as they are computed or, for tiles spread over workers, after a barrier.

use super::scratch::Statistics;
use super::{AttentionScratch, AttentionTask, LOWEST, Merge};
use crate::math;
use crate::simd::{Isa, LANES};

/// Nothing is folded yet.
#[inline(always)]
pub(super) unsafe fn begin<I: Isa>(scratch: &mut AttentionScratch, queries: usize, stride: usize) {
    scratch.statistics.maximum[..queries].fill(LOWEST);
    scratch.statistics.sum[..queries].fill(0.0);
    let mut at = 0;
    while at < queries * stride {
        // SAFETY: the scratch has room; `stride` is a multiple of 16.
        unsafe { I::store(scratch.total.as_mut_ptr().add(at), I::zero()) };
        at += LANES;
    }
}

/// Fold the tile's maxima and sums; the factors are what the accumulators take.
#[inline(always)]
pub(super) unsafe fn statistics<I: Isa>(statistics: &mut Statistics, queries: usize) {
    let mut at = 0;
    while at < queries {
        // SAFETY: arrays of a multiple of 16. Where the tile holds nothing the factors are 1 and of no effect.
        unsafe {
            let before = I::load(statistics.maximum.as_ptr().add(at));
            let tile = I::load(statistics.tile_maximum.as_ptr().add(at));
            let larger = I::max(before, tile);
            let factor = math::exp2::<I>(I::sub(before, larger));
            let tile_factor = math::exp2::<I>(I::sub(tile, larger));
            let sum = I::load(statistics.sum.as_ptr().add(at));
            let tile_sum = I::load(statistics.tile_sum.as_ptr().add(at));
            let sum = I::fma(sum, factor, I::mul(tile_sum, tile_factor));
            I::store(statistics.maximum.as_mut_ptr().add(at), larger);
            I::store(statistics.sum.as_mut_ptr().add(at), sum);
            I::store(statistics.factor.as_mut_ptr().add(at), factor);
            I::store(statistics.tile_factor.as_mut_ptr().add(at), tile_factor);
        }
        at += LANES;
    }
}

/// The tile's maxima and sums to a partial result.
#[inline(always)]
pub(super) unsafe fn store_statistics(
    scratch: &AttentionScratch,
    queries: usize,
    partial: *mut f32,
) {
    // SAFETY: the partial has room for both, padded to 16.
    unsafe {
        let maxima = &scratch.statistics.tile_maximum[..queries];
        std::ptr::copy_nonoverlapping(maxima.as_ptr(), partial, queries);
        let sums = &scratch.statistics.tile_sum[..queries];
        let to = partial.add(queries.next_multiple_of(LANES));
        std::ptr::copy_nonoverlapping(sums.as_ptr(), to, queries);
    }
}

/// Fold partial results and write the rows.
///
/// # Safety
/// The partials were written before a barrier; as [`super::unit`].
#[inline(always)]
pub(crate) unsafe fn merge<I: Isa>(
    task: &AttentionTask<'_>,
    merge: Merge,
    scratch: &mut AttentionScratch,
) {
    let queries = merge.rows * task.per_head();
    let stride = task.cache.v_stride;
    let padded = queries.next_multiple_of(LANES);
    // SAFETY: as the contract.
    unsafe {
        begin::<I>(scratch, queries, stride);
        for i in 0..merge.count {
            let partial = task.partial(merge.partial + i);
            let state = &mut scratch.statistics;
            std::ptr::copy_nonoverlapping(partial, state.tile_maximum.as_mut_ptr(), queries);
            let sums = partial.add(padded);
            std::ptr::copy_nonoverlapping(sums, state.tile_sum.as_mut_ptr(), queries);
            statistics::<I>(state, queries);
            for query in 0..queries {
                if state.tile_sum[query] == 0.0 {
                    continue; // nothing was seen; a sum is 1 or more
                }
                let factor = I::set(state.factor[query]);
                let tile_factor = I::set(state.tile_factor[query]);
                let from = partial.add(2 * padded + query * stride);
                let to = scratch.total.as_mut_ptr().add(query * stride);
                let mut d = 0;
                while d < stride {
                    let tile = I::mul(I::load(from.add(d)), tile_factor);
                    I::store(to.add(d), I::fma(I::load(to.add(d)), factor, tile));
                    d += LANES;
                }
            }
        }
        write_out::<I>(task, (merge.row, merge.rows, merge.head), scratch);
    }
}

/// Accumulators over sums, a sink's included, to the output rows.
#[inline(always)]
pub(super) unsafe fn write_out<I: Isa>(
    task: &AttentionTask<'_>,
    (row, rows, head): (usize, usize, usize),
    scratch: &AttentionScratch,
) {
    let per_head = task.per_head();
    let (dim, stride) = (task.cache.v_head_dim, task.cache.v_stride);
    for r in 0..rows {
        for g in 0..per_head {
            let query = r * per_head + g;
            // SAFETY: the output row holds `num_heads * dim` floats.
            unsafe {
                let from = scratch.total.as_ptr().add(query * stride);
                let sum = scratch.statistics.sum[query];
                let inverse = match task.sinks {
                    None => I::set(1.0 / sum),
                    Some(sinks) => {
                        let sink = sinks[head * per_head + g] * std::f32::consts::LOG2_E;
                        let (before, sink) =
                            (I::set(scratch.statistics.maximum[query]), I::set(sink));
                        let larger = I::max(before, sink);
                        let factor = math::exp2::<I>(I::sub(before, larger));
                        let tile = math::exp2::<I>(I::sub(sink, larger));
                        I::div(factor, I::fma(I::set(sum), factor, tile))
                    }
                };
                let to = task
                    .out
                    .add((row + r) * task.out_stride + (head * per_head + g) * dim);
                let mut d = 0;
                while d < dim {
                    let x = I::mul(I::load(from.add(d)), inverse);
                    I::store_up_to(to.add(d), x, LANES.min(dim - d));
                    d += LANES;
                }
            }
        }
    }
}

//! Causal attention over blocks: all query heads of a KV head in one pass over K and V.
//!
//! One definition for decode and prefill. Positions are cut into tiles of 128 and segments of 512 at absolute
//! positions. Scores: one fma chain over ascending `d`. Per tile: maximum, exp, sum over 16 lanes ascending and the fixed
//! tree, then `P·V` in ascending position. Segments have their own (maximum, sum, accumulator) and are merged in
//! ascending order, by the worker that ran them or, for a few query rows over a long context, after a barrier: the same
//! fold either way. A masked position has weight exactly 0 and its slot is not trusted to hold a number.
//!
//! Source: Kwon et al. 2023 (blocks); Milakov and Gimelshein 2018 (online softmax).

use inferlib_core::BLOCK_SIZE;

use crate::kv_cache::{KvElement, LayerCache};
use crate::math;
use crate::simd::{Isa, LANES};

/// Positions per softmax tile.
const TILE: usize = 128;
const TILE_BLOCKS: usize = TILE / BLOCK_SIZE;
/// Positions per segment.
pub(crate) const SEGMENT: usize = 512;
/// Most queries (rows times heads of a group) that one unit holds.
pub(crate) const MAX_QUERIES: usize = 64;

/// One piece of work: some rows of one sequence against one KV head, over some segments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unit {
    /// First token row of the batch.
    pub(crate) row: usize,
    /// Rows.
    pub(crate) rows: usize,
    /// Where the sequence's block table begins.
    pub(crate) table: usize,
    /// KV head.
    pub(crate) head: usize,
    /// First segment and one past the last.
    pub(crate) segments: (usize, usize),
    /// Where the result goes if it is one of several partial ones: an index into the partials.
    pub(crate) partial: Option<usize>,
}

/// Folds partial results of the same rows and head: `count` of them from `partial` on, in segment order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Merge {
    pub(crate) row: usize,
    pub(crate) rows: usize,
    pub(crate) head: usize,
    pub(crate) partial: usize,
    pub(crate) count: usize,
}

/// What all units of one attention op share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttentionTask<'a> {
    /// Row 0's first query element.
    pub(crate) q: *const f32,
    pub(crate) q_stride: usize,
    pub(crate) out: *mut f32,
    pub(crate) out_stride: usize,
    pub(crate) num_heads: usize,
    pub(crate) scale: f32,
    pub(crate) softcap: Option<f32>,
    pub(crate) window: Option<usize>,
    pub(crate) cache: LayerCache,
    pub(crate) positions: &'a [i32],
    pub(crate) block_tables: &'a [i32],
    /// `[partials][MAX_QUERIES as used][2 + v_stride]`: maximum, sum, accumulator.
    pub(crate) partials: *mut f32,
    /// Floats per partial.
    pub(crate) partial_stride: usize,
}

/// One worker's room for a unit.
#[derive(Debug)]
pub(crate) struct AttentionScratch {
    /// `[queries / 8][k_head_dim][8]`, scaled.
    q: Vec<f32>,
    /// `[queries][TILE]`.
    scores: Vec<f32>,
    /// `[queries]`: positions seen by each: first and one past the last.
    seen: Vec<(usize, usize)>,
    /// `[queries][2 + v_stride]` of the segment, and of those before it.
    state: Vec<f32>,
    total: Vec<f32>,
}

impl AttentionScratch {
    pub(crate) fn new(k_head_dim: usize, v_head_dim: usize) -> Self {
        let state = MAX_QUERIES * (2 + v_head_dim.next_multiple_of(LANES));
        Self {
            q: vec![0.0; MAX_QUERIES * k_head_dim],
            scores: vec![0.0; MAX_QUERIES * TILE],
            seen: vec![(0, 0); MAX_QUERIES],
            state: vec![0.0; state],
            total: vec![0.0; state],
        }
    }
}

/// First position that a query at `position` sees.
pub(crate) fn first_seen(position: usize, window: Option<usize>) -> usize {
    window.map_or(0, |window| (position + 1).saturating_sub(window))
}

/// Run one unit.
///
/// # Safety
/// The task's pointers cover the batch; table entries that are visited are valid blocks; no other worker has the unit's
/// rows and head; `rows * (num_heads / num_kv_heads) <= MAX_QUERIES`; features of `I`.
#[inline(always)]
pub(crate) unsafe fn unit<I: Isa, E: KvElement>(
    task: &AttentionTask<'_>,
    unit: Unit,
    scratch: &mut AttentionScratch,
) {
    let per_head = task.num_heads / task.cache.num_kv_heads;
    let queries = unit.rows * per_head;
    let width = 2 + task.cache.v_stride;
    // SAFETY: as the contract.
    unsafe {
        load_queries::<I>(task, unit, per_head, scratch);
        let mut empty = true;
        for segment in unit.segments.0..unit.segments.1 {
            let state = scratch.state.as_mut_ptr();
            for query in 0..queries {
                let state = state.add(query * width);
                *state = f32::NEG_INFINITY;
                *state.add(1) = 0.0;
                std::slice::from_raw_parts_mut(state.add(2), width - 2).fill(0.0);
            }
            for tile in 0..SEGMENT / TILE {
                run_tile::<I, E>(
                    task,
                    unit,
                    queries,
                    segment * SEGMENT + tile * TILE,
                    scratch,
                );
            }
            if let Some(partial) = unit.partial {
                let to = task
                    .partials
                    .add((partial + segment - unit.segments.0) * task.partial_stride);
                std::ptr::copy_nonoverlapping(scratch.state.as_ptr(), to, queries * width);
            } else if empty {
                std::ptr::copy_nonoverlapping(
                    scratch.state.as_ptr(),
                    scratch.total.as_mut_ptr(),
                    queries * width,
                );
                empty = false;
            } else {
                for query in 0..queries {
                    let at = query * width;
                    fold::<I>(
                        scratch.total.as_mut_ptr().add(at),
                        scratch.state.as_ptr().add(at),
                        width,
                    );
                }
            }
        }
        if unit.partial.is_none() {
            write_out::<I>(task, unit.row, unit.rows, unit.head, scratch.total.as_ptr());
        }
    }
}

/// Fold partial results and write the rows.
///
/// # Safety
/// The partials were written before a barrier; as [`unit`].
#[inline(always)]
pub(crate) unsafe fn merge<I: Isa>(
    task: &AttentionTask<'_>,
    merge: Merge,
    scratch: &mut AttentionScratch,
) {
    let queries = merge.rows * (task.num_heads / task.cache.num_kv_heads);
    let width = 2 + task.cache.v_stride;
    // SAFETY: as the contract.
    unsafe {
        let total = scratch.total.as_mut_ptr();
        let first = task.partials.add(merge.partial * task.partial_stride);
        std::ptr::copy_nonoverlapping(first, total, queries * width);
        for i in 1..merge.count {
            let partial = first.add(i * task.partial_stride);
            for query in 0..queries {
                fold::<I>(total.add(query * width), partial.add(query * width), width);
            }
        }
        write_out::<I>(task, merge.row, merge.rows, merge.head, total);
    }
}

/// `total` and then `next` as one softmax: both to the larger maximum, then added.
#[inline(always)]
unsafe fn fold<I: Isa>(total: *mut f32, next: *const f32, width: usize) {
    // SAFETY: `width` floats each, `width - 2` a multiple of 16.
    unsafe {
        if *next.add(1) == 0.0 {
            return; // nothing was seen in that segment
        }
        if *total.add(1) == 0.0 {
            std::ptr::copy_nonoverlapping(next, total, width);
            return;
        }
        let largest = if *total > *next { *total } else { *next };
        let (a, b) = (
            I::set(exp_one::<I>(*total - largest)),
            I::set(exp_one::<I>(*next - largest)),
        );
        *total = largest;
        let sums = I::add(
            I::mul(I::set(*total.add(1)), a),
            I::mul(I::set(*next.add(1)), b),
        );
        *total.add(1) = I::max_lane(sums);
        let mut d = 2;
        while d < width {
            let scaled = I::mul(I::load(next.add(d)), b);
            I::store(total.add(d), I::fma(I::load(total.add(d)), a, scaled));
            d += LANES;
        }
    }
}

#[inline(always)]
unsafe fn exp_one<I: Isa>(x: f32) -> f32 {
    // SAFETY: features of the caller. All lanes are equal.
    unsafe { I::max_lane(math::exp::<I>(I::set(x))) }
}

#[inline(always)]
unsafe fn load_queries<I: Isa>(
    task: &AttentionTask<'_>,
    unit: Unit,
    per_head: usize,
    scratch: &mut AttentionScratch,
) {
    let dim = task.cache.k_head_dim;
    for r in 0..unit.rows {
        let position = task.positions[unit.row + r].unsigned_abs() as usize;
        for g in 0..per_head {
            let query = r * per_head + g;
            scratch.seen[query] = (first_seen(position, task.window), position + 1);
            // SAFETY: the row holds `num_heads * dim` queries; the scratch holds MAX_QUERIES.
            unsafe {
                let from = task
                    .q
                    .add((unit.row + r) * task.q_stride + (unit.head * per_head + g) * dim);
                let to = scratch.q.as_mut_ptr().add(query / 8 * 8 * dim + query % 8);
                for d in 0..dim {
                    *to.add(d * 8) = *from.add(d) * task.scale;
                }
            }
        }
    }
}

/// Scores, softmax and `P·V` of one tile of positions for all queries.
#[inline(always)]
unsafe fn run_tile<I: Isa, E: KvElement>(
    task: &AttentionTask<'_>,
    unit: Unit,
    queries: usize,
    start: usize,
    scratch: &mut AttentionScratch,
) {
    // Positions that any query sees, in this tile.
    let (mut lo, mut hi) = (usize::MAX, 0);
    for &(first, end) in &scratch.seen[..queries] {
        lo = lo.min(first);
        hi = hi.max(end);
    }
    let (lo, hi) = (lo.max(start), hi.min(start + TILE));
    if lo >= hi {
        return;
    }
    let table = &task.block_tables[unit.table..];
    let (first_block, end_block) = (lo / BLOCK_SIZE, hi.div_ceil(BLOCK_SIZE));
    // SAFETY: visited blocks cover positions below the sequence's length; scratch sizes as `new`.
    unsafe {
        for block in first_block..end_block {
            let k = task
                .cache
                .k(table[block].unsigned_abs() as usize, unit.head);
            let column = block * BLOCK_SIZE - start;
            let mut query = 0;
            while query < queries {
                let q = scratch.q.as_ptr().add(query * task.cache.k_head_dim);
                let to = scratch.scores.as_mut_ptr().add(query * TILE + column);
                let left = (queries - query).min(8);
                if I::WIDE_TILES {
                    match left {
                        1 => scores::<I, E, 1>(q, k, task.cache.k_head_dim, to),
                        2 => scores::<I, E, 2>(q, k, task.cache.k_head_dim, to),
                        3 => scores::<I, E, 3>(q, k, task.cache.k_head_dim, to),
                        4 => scores::<I, E, 4>(q, k, task.cache.k_head_dim, to),
                        5 | 6 => scores::<I, E, 6>(q, k, task.cache.k_head_dim, to),
                        _ => scores::<I, E, 8>(q, k, task.cache.k_head_dim, to),
                    }
                } else {
                    for i in 0..left {
                        scores::<I, E, 1>(q.add(i), k, task.cache.k_head_dim, to.add(i * TILE));
                    }
                }
                query += 8;
            }
        }
        let width = 2 + task.cache.v_stride;
        for query in 0..queries {
            let (first, end) = scratch.seen[query];
            softmax_tile::<I>(
                scratch.scores.as_mut_ptr().add(query * TILE),
                scratch.state.as_mut_ptr().add(query * width),
                width,
                (
                    first.max(start) - start,
                    end.min(start + TILE).saturating_sub(start),
                ),
                (
                    first_block * BLOCK_SIZE - start,
                    end_block * BLOCK_SIZE - start,
                ),
                task.softcap,
            );
        }
        let group = if I::WIDE_TILES { 4 } else { 1 };
        let mut query = 0;
        while query < queries {
            let weights = scratch.scores.as_ptr().add(query * TILE);
            let state = scratch.state.as_mut_ptr().add(query * width + 2);
            let sight = (start, lo, hi);
            match (queries - query).min(group) {
                1 => weigh::<I, E, 1>(task, table, unit.head, sight, weights, state, width),
                2 => weigh::<I, E, 2>(task, table, unit.head, sight, weights, state, width),
                3 => weigh::<I, E, 3>(task, table, unit.head, sight, weights, state, width),
                _ => weigh::<I, E, 4>(task, table, unit.head, sight, weights, state, width),
            }
            query += group;
        }
    }
}

/// 16 scores of `M` queries: one fma chain over ascending `d` each.
#[inline(always)]
unsafe fn scores<I: Isa, E: KvElement, const M: usize>(
    q: *const f32,
    k: *const u8,
    dim: usize,
    to: *mut f32,
) {
    // SAFETY: `[dim][8]` queries, `[dim][16]` keys; `to` has rows of TILE for MAX_QUERIES queries.
    unsafe {
        let mut acc = [I::zero(); M];
        for d in 0..dim {
            let key = E::load::<I>(k.add(d * BLOCK_SIZE * E::BYTES));
            for m in 0..M {
                acc[m] = I::fma(I::set(*q.add(d * 8 + m)), key, acc[m]);
            }
        }
        for m in 0..M {
            I::store(to.add(m * TILE), acc[m]);
        }
    }
}

/// Scores to weights, in place: exactly 0 outside `seen`. Updates the state's maximum and sum and scales its accumulator.
/// `computed` are the columns that hold scores; the others of the tile are outside every query's sight.
#[inline(always)]
unsafe fn softmax_tile<I: Isa>(
    scores: *mut f32,
    state: *mut f32,
    width: usize,
    seen: (usize, usize),
    computed: (usize, usize),
    softcap: Option<f32>,
) {
    // SAFETY: TILE scores; `width` floats of state.
    unsafe {
        if seen.0 >= seen.1 {
            std::slice::from_raw_parts_mut(scores, TILE).fill(0.0);
            return;
        }
        let lowest = I::set(f32::NEG_INFINITY);
        let mut largest = lowest;
        for i in computed.0 / LANES..computed.1 / LANES {
            let at = i * LANES;
            let (lo, hi) = (
                seen.0.saturating_sub(at).min(LANES),
                seen.1.saturating_sub(at).min(LANES),
            );
            let mut s = I::load(scores.add(at));
            if let Some(cap) = softcap {
                s = I::mul(math::tanh::<I>(I::div(s, I::set(cap))), I::set(cap));
                I::store(scores.add(at), s);
            }
            if lo < hi {
                // NaN scores come second in `max` and so survive.
                largest = I::max(largest, I::select_range(lo, hi, s, lowest));
            }
        }
        let before = *state;
        let tile_largest = I::max_lane(largest);
        let maximum = if before > tile_largest {
            before
        } else {
            tile_largest
        };
        let shift = I::set(maximum);
        let mut sum = I::zero();
        for i in 0..TILE_BLOCKS {
            let at = i * LANES;
            let (lo, hi) = (
                seen.0.saturating_sub(at).min(LANES),
                seen.1.saturating_sub(at).min(LANES),
            );
            let weights = if lo < hi {
                let w = math::exp::<I>(I::sub(I::load(scores.add(at)), shift));
                I::select_range(lo, hi, w, I::zero())
            } else {
                I::zero()
            };
            I::store(scores.add(at), weights);
            sum = I::add(sum, weights);
        }
        let factor = exp_one::<I>(before - maximum);
        *state = maximum;
        *state.add(1) = *state.add(1) * factor + I::sum(sum);
        let factor = I::set(factor);
        let mut d = 2;
        while d < width {
            I::store(state.add(d), I::mul(I::load(state.add(d)), factor));
            d += LANES;
        }
    }
}

/// `state += weights · V` for `M` queries, ascending positions `lo .. hi` of the tile at `start`.
#[inline(always)]
unsafe fn weigh<I: Isa, E: KvElement, const M: usize>(
    task: &AttentionTask<'_>,
    table: &[i32],
    head: usize,
    (start, lo, hi): (usize, usize, usize),
    weights: *const f32,
    state: *mut f32,
    width: usize,
) {
    let stride = task.cache.v_stride;
    let mut d = 0;
    while d < stride {
        // SAFETY: as `run_tile`; `d + vectors * 16 <= stride`.
        unsafe {
            if I::WIDE_TILES && stride - d >= 4 * LANES {
                columns::<I, E, M, 4>(task, table, head, (start, lo, hi), weights, state, width, d);
                d += 4 * LANES;
            } else if I::WIDE_TILES && stride - d >= 2 * LANES {
                columns::<I, E, M, 2>(task, table, head, (start, lo, hi), weights, state, width, d);
                d += 2 * LANES;
            } else {
                columns::<I, E, M, 1>(task, table, head, (start, lo, hi), weights, state, width, d);
                d += LANES;
            }
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "one inlined loop nest")]
#[inline(always)]
unsafe fn columns<I: Isa, E: KvElement, const M: usize, const V: usize>(
    task: &AttentionTask<'_>,
    table: &[i32],
    head: usize,
    (start, lo, hi): (usize, usize, usize),
    weights: *const f32,
    state: *mut f32,
    width: usize,
    d: usize,
) {
    // SAFETY: as `weigh`.
    unsafe {
        let mut acc = [[I::zero(); V]; M];
        for m in 0..M {
            for v in 0..V {
                acc[m][v] = I::load(state.add(m * width + d + v * LANES));
            }
        }
        let row_bytes = task.cache.v_stride * E::BYTES;
        let mut position = lo;
        while position < hi {
            let block = position / BLOCK_SIZE;
            let end = hi.min((block + 1) * BLOCK_SIZE);
            let values = task
                .cache
                .v(table[block].unsigned_abs() as usize, head)
                .add(d * E::BYTES);
            while position < end {
                let row = values.add(position % BLOCK_SIZE * row_bytes);
                for v in 0..V {
                    let value = E::load::<I>(row.add(v * LANES * E::BYTES));
                    for m in 0..M {
                        acc[m][v] = I::fma(
                            I::set(*weights.add(m * TILE + position - start)),
                            value,
                            acc[m][v],
                        );
                    }
                }
                position += 1;
            }
        }
        for m in 0..M {
            for v in 0..V {
                I::store(state.add(m * width + d + v * LANES), acc[m][v]);
            }
        }
    }
}

#[inline(always)]
unsafe fn write_out<I: Isa>(
    task: &AttentionTask<'_>,
    row: usize,
    rows: usize,
    head: usize,
    total: *const f32,
) {
    let per_head = task.num_heads / task.cache.num_kv_heads;
    let dim = task.cache.v_head_dim;
    let width = 2 + task.cache.v_stride;
    for r in 0..rows {
        for g in 0..per_head {
            // SAFETY: the output row holds `num_heads * dim` floats.
            unsafe {
                let state = total.add((r * per_head + g) * width);
                let inverse = I::set(1.0 / *state.add(1));
                let to = task
                    .out
                    .add((row + r) * task.out_stride + (head * per_head + g) * dim);
                let mut d = 0;
                while d < dim {
                    let x = I::mul(I::load(state.add(2 + d)), inverse);
                    let count = LANES.min(dim - d);
                    if count == LANES {
                        I::store(to.add(d), x);
                    } else {
                        I::store_first(to.add(d), x, count);
                    }
                    d += LANES;
                }
            }
        }
    }
}

//! Attention over blocks, causal or of whole sequences: all query heads of a KV head in one pass over K and V.
//!
//! One definition for decode and prefill, for every cut into units, and for every tier:
//!
//! * `q' = q · (scale · log2 e)`, rounded as the cache's type asks; a score is one chain of multiply-adds over ascending
//!   `d`, times the token's K scale for int8. With a soft cap, `q' = q · scale` and `s = cap · log2 e · tanh(s / cap)`.
//! * Positions are cut into tiles of 128 at absolute places. In a tile: `m` is the largest visible score, a weight is
//!   `2^(s - m)`, `l` their sum over 16 lanes ascending and the fixed tree, `A` one chain of multiply-adds from 0 over
//!   ascending visible positions (weights times the token's V scale for int8).
//! * Tiles are folded in ascending order, starting from `(lowest, 0, 0)`: with `n = max(M, m)`, `a = 2^(M - n)` and
//!   `b = 2^(m - n)`, `L = L a + l b` and `A = A a + A' b`. A tile of which a query sees nothing is no part of its fold.
//! * A sink is one more tile behind all others: its score is `sink · log2 e`, its sum 1, its `A` 0.
//! * A masked position is never multiplied: its slot may hold anything.
//!
//! K and V are read where they lie: a register tile of 6 queries hides their conversion. Costs per query and position:
//! `2 d` multiply-adds, and some 16 instructions per 16 positions for the softmax.
//!
//! Source: Kwon et al. 2023 (blocks); Milakov and Gimelshein 2018 (online softmax).

mod fold;
mod scores;
mod scratch;
mod softmax;
#[cfg(test)]
mod tests;
mod values;

use inferlib_program::BLOCK_SIZE;

use crate::kv_cache::{KvElement, LayerCache};
use crate::simd::{Isa, LANES};

pub(crate) use fold::merge;
pub(crate) use scratch::AttentionScratch;

/// Positions per tile.
pub(crate) const TILE: usize = 128;
const TILE_BLOCKS: usize = TILE / BLOCK_SIZE;
/// Queries (rows times heads of a group) that share a register tile.
const GROUP: usize = 6;
/// Most queries that one unit holds.
pub(crate) const MAX_QUERIES: usize = 16 * GROUP;
/// Blocks of K, or vectors of a V row, that a register tile spans at most.
const PANEL: usize = 4;
/// A score below all others.
const LOWEST: f32 = f32::MIN;

/// One piece of work: some rows of one sequence against one KV head, over some tiles.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Unit {
    /// First token row of the batch.
    pub(crate) row: usize,
    /// Rows.
    pub(crate) rows: usize,
    /// Where the sequence's block table begins.
    pub(crate) table: usize,
    /// KV head.
    pub(crate) head: usize,
    /// First tile and one past the last.
    pub(crate) tiles: (usize, usize),
    /// The last position that any of its rows sees.
    pub(crate) last: usize,
    /// Where the first tile's result goes, if the rows' tiles are spread over several units: an index into the partials.
    pub(crate) partial: Option<usize>,
}

/// Folds partial results of the same rows and head: `count` tiles from `partial` on.
#[derive(Clone, Copy, Debug, PartialEq)]
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
    /// A score per query head that takes part in the softmax and adds nothing.
    pub(crate) sinks: Option<&'a [f32]>,
    pub(crate) window: Option<usize>,
    /// Whether every row sees its whole sequence.
    pub(crate) bidirectional: bool,
    pub(crate) cache: LayerCache,
    pub(crate) positions: &'a [i32],
    pub(crate) block_tables: &'a [i32],
    /// Each of `partial_stride` floats: `[queries]` maxima and sums, both padded to 16, and `[queries][v_stride]`.
    pub(crate) partials: *mut f32,
    pub(crate) partial_stride: usize,
}

impl AttentionTask<'_> {
    /// Query heads of a KV head.
    #[inline(always)]
    fn per_head(&self) -> usize {
        self.num_heads / self.cache.num_kv_heads
    }

    #[inline(always)]
    fn partial(&self, index: usize) -> *mut f32 {
        self.partials.wrapping_add(index * self.partial_stride)
    }
}

/// Floats of a partial result of one tile.
pub(crate) fn partial_floats(queries: usize, v_stride: usize) -> usize {
    2 * queries.next_multiple_of(LANES) + queries * v_stride
}

/// First position that a query at `position` sees.
pub(crate) fn first_seen(position: usize, window: Option<usize>) -> usize {
    window.map_or(0, |window| (position + 1).saturating_sub(window))
}

/// Run one unit; `next` is the one that this worker will probably run after it.
///
/// # Safety
/// The task's pointers cover the batch; table entries that are visited are valid blocks; no other worker has the unit's
/// rows, head and tiles; `rows * per_head <= MAX_QUERIES`; the scratch was made for these widths; features of `I`.
#[inline(always)]
pub(crate) unsafe fn unit<I: Isa, E: KvElement>(
    task: &AttentionTask<'_>,
    unit: Unit,
    next: Option<Unit>,
    scratch: &mut AttentionScratch,
) {
    let per_head = task.per_head();
    let queries = unit.rows * per_head;
    let stride = task.cache.v_stride;
    // SAFETY: as the contract.
    unsafe {
        load_queries::<I, E>(task, unit, scratch);
        if unit.partial.is_none() {
            fold::begin::<I>(scratch, queries, stride);
        }
        for tile in unit.tiles.0..unit.tiles.1 {
            let start = tile * TILE;
            let (next, next_head) = match next {
                _ if tile + 1 < unit.tiles.1 => (blocks_of(task, unit, tile + 1), unit.head),
                Some(next) => (blocks_of(task, next, next.tiles.0), next.head),
                None => (&[][..], 0),
            };
            let sight = look(task, unit, start, scratch);
            let tile = Tile {
                cache: &task.cache,
                head: unit.head,
                table: blocks_of(task, unit, tile).as_ptr(),
                next,
                next_head,
                queries,
                blocks: (sight.0 / BLOCK_SIZE, sight.1.div_ceil(BLOCK_SIZE)),
            };
            let partial = unit
                .partial
                .map(|first| task.partial(first + start / TILE - unit.tiles.0));
            if sight.0 < sight.1 {
                scores::run::<I, E>(&tile, scratch);
                softmax::run::<I, E>(&tile, task.softcap, scratch);
            } else {
                scratch.statistics.tile_sum[..queries].fill(0.0);
                scratch.statistics.tile_maximum[..queries].fill(LOWEST);
            }
            let target = if let Some(partial) = partial {
                fold::store_statistics(scratch, queries, partial);
                partial.add(2 * queries.next_multiple_of(LANES))
            } else {
                fold::statistics::<I>(&mut scratch.statistics, queries);
                scratch.total.as_mut_ptr()
            };
            if sight.0 < sight.1 {
                values::run::<I, E>(&tile, scratch, target, partial.is_none());
            }
        }
        if unit.partial.is_none() {
            fold::write_out::<I>(task, (unit.row, unit.rows, unit.head), scratch);
        }
    }
}

/// What the passes over one tile share.
struct Tile<'a> {
    cache: &'a LayerCache,
    head: usize,
    /// The tile's first entry of the block table.
    table: *const i32,
    /// Blocks of the tile that comes next, and its head.
    next: &'a [i32],
    next_head: usize,
    queries: usize,
    /// First block of the tile that any query sees, and one past the last.
    blocks: (usize, usize),
}

impl Tile<'_> {
    /// Id of block `i` of the tile.
    #[inline(always)]
    unsafe fn block(&self, i: usize) -> usize {
        // SAFETY: the contract of `unit`: the sequence's table covers what is visited.
        unsafe { (*self.table.add(i)).unsigned_abs() as usize }
    }

    /// K of block `i` of the tile that comes next, if it is visited.
    #[inline(always)]
    fn next_keys(&self, i: usize) -> Option<*const u8> {
        let block = self.next.get(i)?.unsigned_abs() as usize;
        Some(self.cache.k(block, self.next_head).cast_const())
    }
}

/// The block ids of a tile of a unit, up to the last one that the unit's rows see.
#[inline(always)]
fn blocks_of<'a>(task: &AttentionTask<'a>, unit: Unit, tile: usize) -> &'a [i32] {
    let first = tile * TILE_BLOCKS;
    let end = (unit.last / BLOCK_SIZE + 1).min(first + TILE_BLOCKS);
    &task.block_tables[unit.table..][first.min(end)..end]
}

/// Queries of the unit, scaled, as the cache's type multiplies them: `[queries][k_steps]` words.
#[inline(always)]
unsafe fn load_queries<I: Isa, E: KvElement>(
    task: &AttentionTask<'_>,
    unit: Unit,
    scratch: &mut AttentionScratch,
) {
    let (dim, steps, per_head) = (task.cache.k_head_dim, task.cache.k_steps, task.per_head());
    let factor = if task.softcap.is_some() {
        task.scale
    } else {
        task.scale * std::f32::consts::LOG2_E
    };
    for r in 0..unit.rows {
        let position = task.positions[unit.row + r].unsigned_abs() as usize;
        let last = if task.bidirectional {
            unit.last
        } else {
            position
        };
        for g in 0..per_head {
            let query = r * per_head + g;
            scratch.seen[query] = (first_seen(position, task.window), last + 1);
            // SAFETY: the row holds `num_heads * dim` queries; the scratch holds MAX_QUERIES and 16 floats more, for
            // the zeros that follow a width that is no multiple of 16.
            unsafe {
                let head = unit.head * per_head + g;
                let from = task.q.add((unit.row + r) * task.q_stride + head * dim);
                let to = scratch.q.as_mut_ptr().add(query * steps);
                let factor = I::set(factor);
                let mut d = 0;
                while d < dim {
                    let x = I::load_up_to(from.add(d), LANES.min(dim - d));
                    E::store_left::<I>(to, d, I::mul(x, factor));
                    d += LANES;
                }
            }
        }
    }
}

/// Write down what each query sees of the tile at `start`, relative to it, and return what any of them sees.
#[inline(always)]
fn look(
    task: &AttentionTask<'_>,
    unit: Unit,
    start: usize,
    scratch: &mut AttentionScratch,
) -> (usize, usize) {
    let queries = unit.rows * task.per_head();
    let (mut lo, mut hi) = (TILE, 0);
    for query in 0..queries {
        let (first, end) = scratch.seen[query];
        let visible = (
            first.max(start) - start,
            end.min(start + TILE).saturating_sub(start),
        );
        scratch.visible[query] = visible;
        if visible.0 < visible.1 {
            lo = lo.min(visible.0);
            hi = hi.max(visible.1);
        }
    }
    // Register tiles may run a query more than there are.
    scratch.visible[queries..queries.next_multiple_of(GROUP)].fill((0, 0));
    (lo, hi)
}

/// `$run!(M)` with the number of queries of a register tile that holds `$count` of them.
macro_rules! with_queries {
    ($count:expr, $run:ident) => {
        match $count {
            1 => $run!(1),
            2 => $run!(2),
            3 => $run!(3),
            4 => $run!(4),
            _ => $run!(6),
        }
    };
}
use with_queries;

/// `$run!(N)` with the blocks or vectors that a register tile spans: tiers of few registers compile only `N = 1`.
macro_rules! with_width {
    ($isa:ident, $width:expr, $run:ident) => {
        if $isa::WIDE_TILES {
            match $width {
                4 => $run!(4),
                2 => $run!(2),
                _ => $run!(1),
            }
        } else {
            $run!(1)
        }
    };
}
use with_width;

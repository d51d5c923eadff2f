//! Weights times V of a tile, folded into the accumulators of the tiles before.

use inferlib_program::BLOCK_SIZE;

use super::{AttentionScratch, GROUP, TILE, Tile, with_queries, with_width};
use crate::kv_cache::KvElement;
use crate::simd::{Isa, LANES};

/// Accumulate the tile into `target`, `[queries][v_stride]`: folded with the factors of the statistics, or alone.
#[inline(always)]
pub(super) unsafe fn run<I: Isa, E: KvElement>(
    tile: &Tile<'_>,
    scratch: &mut AttentionScratch,
    target: *mut f32,
    fold: bool,
) {
    let stride = tile.cache.v_stride;
    // SAFETY: the contract of `unit`: visited blocks are valid, the scratch has room.
    unsafe {
        let mut column = 0;
        while column < stride {
            let left = (stride - column) / LANES;
            let vectors = match left {
                _ if !I::WIDE_TILES => 1,
                0..2 => 1,
                2..4 => 2,
                _ => 4,
            };
            let mut first = 0;
            while first < tile.queries {
                let group = Queries {
                    first,
                    count: GROUP.min(tile.queries - first),
                    column,
                    target,
                    fold,
                };
                macro_rules! run {
                    ($v:literal) => {
                        columns::<I, E, $v>(tile, &group, scratch)
                    };
                }
                with_width!(I, vectors, run);
                first += GROUP;
            }
            column += vectors * LANES;
        }
    }
}

/// The queries and columns of a register tile, and where its sums go.
struct Queries {
    first: usize,
    count: usize,
    column: usize,
    target: *mut f32,
    fold: bool,
}

#[inline(always)]
unsafe fn columns<I: Isa, E: KvElement, const V: usize>(
    tile: &Tile<'_>,
    group: &Queries,
    scratch: &AttentionScratch,
) {
    // SAFETY: as `run`.
    unsafe {
        let rows = Rows::<E> {
            tile,
            column: group.column * E::WORD_BYTES,
            ahead: group.first == 0,
            element: std::marker::PhantomData,
        };
        macro_rules! run {
            ($m:literal) => {
                sums::<I, E, $m, V>(tile, group, rows, scratch)
            };
        }
        with_queries!(group.count, run);
    }
}

/// V as rows of words, a row per word of positions.
#[derive(Clone, Copy)]
struct Rows<'a, E> {
    tile: &'a Tile<'a>,
    /// Bytes in front of the columns wanted.
    column: usize,
    /// Whether this pass asks for the tile that follows.
    ahead: bool,
    element: std::marker::PhantomData<E>,
}

impl<E: KvElement> Rows<'_, E> {
    const ROWS: usize = BLOCK_SIZE / E::PER_WORD;

    /// Row `word` and, in bytes, how far the next one is.
    #[inline(always)]
    unsafe fn row(self, word: usize) -> (*const u8, usize) {
        let pitch = self.tile.cache.v_stride * E::WORD_BYTES;
        // SAFETY: a visible word: its block is the sequence's.
        unsafe {
            let block = self.tile.block(word / Self::ROWS);
            let values = self.tile.cache.v(block, self.tile.head).cast_const();
            (values.add(word % Self::ROWS * pitch + self.column), pitch)
        }
    }
    /// One past the last row that follows `word` at that distance.
    #[inline(always)]
    fn end_of_run(word: usize) -> usize {
        (word / Self::ROWS + 1) * Self::ROWS
    }
    /// 16 words of a row.
    #[inline(always)]
    unsafe fn load<I: Isa>(row: *const u8, vector: usize) -> I::F {
        // SAFETY: the caller's row.
        unsafe { E::load::<I>(row.add(vector * LANES * E::WORD_BYTES)) }
    }
    /// Where to look ahead from row `word`, if anywhere.
    #[inline(always)]
    fn ahead(self, word: usize) -> Option<*const u8> {
        if !self.ahead {
            return None;
        }
        let pitch = self.tile.cache.v_stride * E::WORD_BYTES;
        let keys = self.tile.next_keys(word / Self::ROWS)?;
        Some(keys.wrapping_add(word % Self::ROWS * pitch + self.column))
    }
}

/// The register tile: `M` queries times `16 V` columns, over the positions that each query sees, ascending.
#[inline(always)]
unsafe fn sums<I: Isa, E: KvElement, const M: usize, const V: usize>(
    tile: &Tile<'_>,
    group: &Queries,
    rows: Rows<'_, E>,
    scratch: &AttentionScratch,
) {
    let visible = &scratch.visible[group.first..group.first + M];
    // What all see that see anything, and what any sees.
    let (mut common, mut any) = ((0, TILE), (TILE, 0));
    for &(lo, hi) in visible {
        if lo < hi {
            common = (common.0.max(lo), common.1.min(hi));
            any = (any.0.min(lo), any.1.max(hi));
        }
    }
    if any.0 >= any.1 {
        return;
    }
    let any = (any.0 / E::PER_WORD, any.1.div_ceil(E::PER_WORD));
    let common = (common.0.div_ceil(E::PER_WORD), common.1 / E::PER_WORD);
    let common = if common.0 < common.1 {
        common
    } else {
        (any.1, any.1)
    };
    // SAFETY: as `run`; rows of words that somebody sees.
    unsafe {
        let weights = scratch.scores.as_ptr().add(group.first * TILE);
        let mut sums = [[I::zero(); V]; M];
        for word in any.0..common.0 {
            one_word::<I, E, M, V>(visible, rows, weights, word, &mut sums);
        }
        let mut word = common.0;
        while word < common.1 {
            let end = common.1.min(Rows::<E>::end_of_run(word));
            let (mut row, pitch) = rows.row(word);
            let ahead = rows.ahead(word);
            let mut distance = 0;
            while word < end {
                if let Some(ahead) = ahead {
                    I::prefetch(ahead.wrapping_add(distance));
                    if V * LANES * E::WORD_BYTES > 64 {
                        I::prefetch(ahead.wrapping_add(distance + 64));
                    }
                    distance += pitch;
                }
                let mut value = [I::zero(); V];
                for v in 0..V {
                    value[v] = Rows::<E>::load::<I>(row, v);
                }
                for m in 0..M {
                    let weight = I::set(*weights.add(m * TILE + word));
                    for v in 0..V {
                        sums[m][v] = E::step::<I>(sums[m][v], weight, value[v]);
                    }
                }
                row = row.add(pitch);
                word += 1;
            }
        }
        for word in common.1..any.1 {
            one_word::<I, E, M, V>(visible, rows, weights, word, &mut sums);
        }
        let statistics = &scratch.statistics;
        for m in 0..M {
            let query = group.first + m;
            if visible[m].0 >= visible[m].1 {
                continue;
            }
            let to = group.target.add(query * tile.cache.v_stride + group.column);
            let (factor, tile_factor) = (
                I::set(statistics.factor[query]),
                I::set(statistics.tile_factor[query]),
            );
            for v in 0..V {
                let to = to.add(v * LANES);
                I::store(
                    to,
                    if group.fold {
                        I::fma(I::load(to), factor, I::mul(sums[m][v], tile_factor))
                    } else {
                        sums[m][v]
                    },
                );
            }
        }
    }
}

/// A word that not every query sees, or not all of it.
#[inline(always)]
unsafe fn one_word<I: Isa, E: KvElement, const M: usize, const V: usize>(
    visible: &[(usize, usize)],
    rows: Rows<'_, E>,
    weights: *const f32,
    word: usize,
    sums: &mut [[I::F; V]; M],
) {
    let (start, end) = (word * E::PER_WORD, (word + 1) * E::PER_WORD);
    // SAFETY: as `sums`.
    unsafe {
        let (row, _) = rows.row(word);
        for m in 0..M {
            let (lo, hi) = visible[m];
            if lo >= end || hi <= start || lo >= hi {
                continue;
            }
            let weight = I::set(*weights.add(m * TILE + word));
            for v in 0..V {
                let mut value = Rows::<E>::load::<I>(row, v);
                if lo > start || hi < end {
                    value = E::only_half::<I>(value, lo > start);
                }
                sums[m][v] = E::step::<I>(sums[m][v], weight, value);
            }
        }
    }
}

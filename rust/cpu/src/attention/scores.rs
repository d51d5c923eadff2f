//! Scores of a tile: K times queries, 16 positions to a register.

use inferlib_program::BLOCK_SIZE;

use super::{AttentionScratch, GROUP, PANEL, TILE, Tile, with_queries, with_width};
use crate::kv_cache::KvElement;
use crate::simd::{Isa, LANES};

/// Scores of all queries for the blocks of the tile that they see.
#[inline(always)]
pub(super) unsafe fn run<I: Isa, E: KvElement>(tile: &Tile<'_>, scratch: &mut AttentionScratch) {
    // SAFETY: the contract of `unit`: visited blocks are valid, the scratch has room.
    unsafe {
        let steps = tile.cache.k_steps;
        let mut panel = tile.blocks.0 / PANEL * PANEL;
        while panel < tile.blocks.1 {
            let mut first = 0;
            while first < tile.queries {
                let count = GROUP.min(tile.queries - first);
                let (lo, hi) = scratch.sight(first, count);
                let end = hi.div_ceil(BLOCK_SIZE).min(panel + PANEL);
                let mut block = (lo / BLOCK_SIZE).max(panel);
                while block < end {
                    let size = piece::<I>(block, end - block);
                    let q = scratch.q.as_ptr().add(first * steps);
                    let to = scratch
                        .scores
                        .as_mut_ptr()
                        .add(first * TILE + block * BLOCK_SIZE);
                    macro_rules! run {
                        ($n:literal) => {
                            blocks::<I, E, $n>(tile, block, count, q, to)
                        };
                    }
                    with_width!(I, size, run);
                    block += size;
                }
                first += GROUP;
            }
            panel += PANEL;
        }
    }
}

/// Blocks that one register tile takes from `block` on: aligned, so that it stays within a panel.
#[inline(always)]
fn piece<I: Isa>(block: usize, left: usize) -> usize {
    if I::WIDE_TILES && left >= 4 && block.is_multiple_of(4) {
        4
    } else if I::WIDE_TILES && left >= 2 && block.is_multiple_of(2) {
        2
    } else {
        1
    }
}

#[inline(always)]
unsafe fn blocks<I: Isa, E: KvElement, const N: usize>(
    tile: &Tile<'_>,
    first: usize,
    count: usize,
    q: *const f32,
    to: *mut f32,
) {
    // SAFETY: as `run`.
    unsafe {
        let mut keys = [std::ptr::null(); N];
        for n in 0..N {
            keys[n] = tile.cache.k(tile.block(first + n), tile.head).cast_const();
        }
        let (steps, values) = (tile.cache.k_steps, tile.cache.values_offset());
        macro_rules! run {
            ($m:literal) => {
                products::<I, E, $m, N>(q, steps, keys, values, to)
            };
        }
        with_queries!(count, run);
    }
}

/// The register tile: `M` queries times `16 N` positions. `values` leads from a block's K to its V, which is read next.
#[inline(always)]
unsafe fn products<I: Isa, E: KvElement, const M: usize, const N: usize>(
    q: *const f32,
    steps: usize,
    keys: [*const u8; N],
    values: usize,
    to: *mut f32,
) {
    // SAFETY: `[M][steps]` queries, `steps` of keys; `to` has rows of TILE scores.
    unsafe {
        let mut sums = [[I::zero(); N]; M];
        for step in 0..steps {
            let at = step * LANES * E::WORD_BYTES;
            let mut key = [I::zero(); N];
            for n in 0..N {
                if at.is_multiple_of(64) {
                    I::prefetch(keys[n].wrapping_add(values + at));
                }
                key[n] = E::load::<I>(keys[n].add(at));
            }
            for m in 0..M {
                let query = I::set(*q.add(m * steps + step));
                for n in 0..N {
                    sums[m][n] = E::step::<I>(sums[m][n], query, key[n]);
                }
            }
        }
        for m in 0..M {
            for n in 0..N {
                I::store(to.add(m * TILE + n * LANES), sums[m][n]);
            }
        }
    }
}

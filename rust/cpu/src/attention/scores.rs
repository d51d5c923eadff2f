//! Scores of a tile: K times queries, 16 positions to a register.

use inferlib_core::BLOCK_SIZE;

use super::{AttentionScratch, GROUP, PANEL, TILE, TILE_BLOCKS, Tile, with_queries, with_width};
use crate::kv_cache::KvElement;
use crate::simd::{Isa, LANES};

/// Words of a widened panel's step.
const PITCH: usize = PANEL * LANES;

/// Scores of all queries for the blocks of the tile that they see.
#[inline(always)]
pub(super) unsafe fn run<I: Isa, E: KvElement>(tile: &Tile<'_>, scratch: &mut AttentionScratch) {
    // SAFETY: the contract of `unit`: visited blocks are valid, the scratch has room.
    unsafe {
        if !tile.direct {
            widen::<I, E>(tile, scratch);
        }
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
                    if tile.direct {
                        macro_rules! run {
                            ($n:literal) => {
                                direct::<I, E, $n>(tile, block, count, q, to)
                            };
                        }
                        with_width!(I, size, run);
                    } else {
                        let keys = scratch
                            .keys
                            .as_ptr()
                            .add(panel * BLOCK_SIZE * steps + (block - panel) * LANES);
                        macro_rules! run {
                            ($n:literal) => {
                                widened::<I, E, $n>(steps, keys, count, q, to)
                            };
                        }
                        with_width!(I, size, run);
                    }
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

/// Where a register tile's keys come from.
trait Keys: Copy {
    /// 16 words: step `step` of block `n`.
    unsafe fn load<I: Isa>(self, step: usize, n: usize) -> I::F;
    /// Called once per step.
    unsafe fn pass<I: Isa>(self, step: usize);
}

/// Blocks where they lie.
#[derive(Clone, Copy)]
struct InBlocks<E, const N: usize> {
    blocks: [*const u8; N],
    /// From a place in K to the same place in V, which is read next.
    values: usize,
    element: std::marker::PhantomData<E>,
}

impl<E: KvElement, const N: usize> Keys for InBlocks<E, N> {
    #[inline(always)]
    unsafe fn load<I: Isa>(self, step: usize, n: usize) -> I::F {
        // SAFETY: the caller's step.
        unsafe { E::load::<I>(self.blocks[n].add(step * LANES * E::WORD_BYTES)) }
    }
    #[inline(always)]
    unsafe fn pass<I: Isa>(self, step: usize) {
        let at = step * LANES * E::WORD_BYTES;
        if at.is_multiple_of(64) {
            for block in self.blocks {
                // SAFETY: a hint.
                unsafe { I::prefetch(block.wrapping_add(self.values + at)) };
            }
        }
    }
}

/// A widened panel.
#[derive(Clone, Copy)]
struct InPanel(*const f32);

impl Keys for InPanel {
    #[inline(always)]
    unsafe fn load<I: Isa>(self, step: usize, n: usize) -> I::F {
        // SAFETY: the caller's step.
        unsafe { I::load(self.0.add(step * PITCH + n * LANES)) }
    }
    #[inline(always)]
    unsafe fn pass<I: Isa>(self, _step: usize) {}
}

#[inline(always)]
unsafe fn direct<I: Isa, E: KvElement, const N: usize>(
    tile: &Tile<'_>,
    block: usize,
    count: usize,
    q: *const f32,
    to: *mut f32,
) {
    // SAFETY: as `run`.
    unsafe {
        let mut blocks = [std::ptr::null(); N];
        for n in 0..N {
            blocks[n] = tile.cache.k(tile.block(block + n), tile.head).cast_const();
        }
        let keys = InBlocks::<E, N> {
            blocks,
            values: tile.cache.values_offset(),
            element: std::marker::PhantomData,
        };
        let steps = tile.cache.k_steps;
        macro_rules! run {
            ($m:literal) => {
                products::<I, E, _, $m, N>(q, steps, keys, to)
            };
        }
        with_queries!(count, run);
    }
}

#[inline(always)]
unsafe fn widened<I: Isa, E: KvElement, const N: usize>(
    steps: usize,
    keys: *const f32,
    count: usize,
    q: *const f32,
    to: *mut f32,
) {
    macro_rules! run {
        ($m:literal) => {
            products::<I, E, _, $m, N>(q, steps, InPanel(keys), to)
        };
    }
    // SAFETY: as `run`.
    unsafe { with_queries!(count, run) };
}

/// The register tile: `M` queries times `16 N` positions.
#[inline(always)]
unsafe fn products<I: Isa, E: KvElement, K: Keys, const M: usize, const N: usize>(
    q: *const f32,
    steps: usize,
    keys: K,
    to: *mut f32,
) {
    // SAFETY: `[M][steps]` queries, `steps` of keys; `to` has rows of TILE scores.
    unsafe {
        let mut sums = [[I::zero(); N]; M];
        for step in 0..steps {
            keys.pass::<I>(step);
            let mut key = [I::zero(); N];
            for n in 0..N {
                key[n] = keys.load::<I>(step, n);
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

/// The tile's K as `[TILE_BLOCKS / PANEL][k_steps][PITCH]` words.
#[inline(always)]
unsafe fn widen<I: Isa, E: KvElement>(tile: &Tile<'_>, scratch: &mut AttentionScratch) {
    const { assert!(TILE_BLOCKS.is_multiple_of(PANEL)) };
    let steps = tile.cache.k_steps;
    for block in tile.blocks.0..tile.blocks.1 {
        // SAFETY: as `run`.
        unsafe {
            let from = tile.cache.k(tile.block(block), tile.head);
            let panel = block / PANEL * PANEL;
            let to = scratch
                .keys
                .as_mut_ptr()
                .add(panel * BLOCK_SIZE * steps + (block - panel) * LANES);
            for step in 0..steps {
                let words = E::load::<I>(from.add(step * LANES * E::WORD_BYTES));
                I::store(to.add(step * PITCH), words);
            }
        }
    }
}

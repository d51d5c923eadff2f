//! One worker's room for a unit.

use super::{GROUP, LOWEST, MAX_QUERIES, TILE};
use crate::simd::LANES;

/// Floats that begin on a cache line. Untouched pages take no memory.
#[derive(Debug)]
pub(super) struct Lines {
    memory: Vec<f32>,
    first: usize,
}

impl Lines {
    fn new(len: usize) -> Self {
        let memory = vec![0.0_f32; len + LANES];
        let first = memory.as_ptr().align_offset(64).min(LANES);
        Self { memory, first }
    }

    pub(super) fn as_ptr(&self) -> *const f32 {
        self.memory.as_ptr().wrapping_add(self.first)
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut f32 {
        self.memory.as_mut_ptr().wrapping_add(self.first)
    }
}

/// Maxima, sums and factors of a unit's queries.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Statistics {
    /// Of the tiles folded so far.
    pub(super) maximum: [f32; MAX_QUERIES],
    pub(super) sum: [f32; MAX_QUERIES],
    /// Of the tile.
    pub(super) tile_maximum: [f32; MAX_QUERIES],
    pub(super) tile_sum: [f32; MAX_QUERIES],
    /// What the fold multiplies the accumulator so far by, and the tile's.
    pub(super) factor: [f32; MAX_QUERIES],
    pub(super) tile_factor: [f32; MAX_QUERIES],
}

/// One worker's room for a unit.
#[derive(Debug)]
pub(crate) struct AttentionScratch {
    /// `[queries][k_steps]` words, scaled.
    pub(super) q: Lines,
    /// `[queries][TILE]`: scores, then weights as words.
    pub(super) scores: Lines,
    /// `[K, V][TILE]` scales.
    pub(super) scales: Lines,
    /// `[queries][v_stride]`: accumulators of the tiles so far.
    pub(super) total: Lines,
    /// `[queries]`: positions seen by each: first and one past the last.
    pub(super) seen: [(usize, usize); MAX_QUERIES],
    /// The same within the tile.
    pub(super) visible: [(usize, usize); MAX_QUERIES],
    pub(super) statistics: Statistics,
}

impl AttentionScratch {
    /// Room for heads of these widths.
    pub(crate) fn new(k_head_dim: usize, v_head_dim: usize) -> Self {
        Self {
            q: Lines::new(MAX_QUERIES * k_head_dim + LANES),
            scores: Lines::new(MAX_QUERIES * TILE),
            scales: Lines::new(2 * TILE),
            total: Lines::new(MAX_QUERIES * v_head_dim.next_multiple_of(LANES)),
            seen: [(0, 0); MAX_QUERIES],
            visible: [(0, 0); MAX_QUERIES],
            statistics: Statistics {
                maximum: [LOWEST; MAX_QUERIES],
                sum: [0.0; MAX_QUERIES],
                tile_maximum: [LOWEST; MAX_QUERIES],
                tile_sum: [0.0; MAX_QUERIES],
                factor: [0.0; MAX_QUERIES],
                tile_factor: [0.0; MAX_QUERIES],
            },
        }
    }

    /// What the `count` queries from `first` on see of the tile together: first position and one past the last.
    #[inline(always)]
    pub(super) fn sight(&self, first: usize, count: usize) -> (usize, usize) {
        let (mut lo, mut hi) = (TILE, 0);
        for &(first, end) in &self.visible[first..first + count] {
            if first < end {
                lo = lo.min(first);
                hi = hi.max(end);
            }
        }
        (lo, hi)
    }
}

const _: () = assert!(MAX_QUERIES.is_multiple_of(LANES) && MAX_QUERIES.is_multiple_of(GROUP));

//! The input of a linear op in the order in which the kernels read it: tiles of rows, each tile column-major in groups
//! of four int8 (or single f32). Written by the row phase before the linear, one row at a time, by any worker.

use crate::formats::BLOCK_COLS;
use crate::simd::Isa;

/// Rows per register tile, largest first; every row count splits greedily, so the split is a function of the count.
pub(crate) const TILE_SIZES: [usize; 7] = [12, 8, 6, 4, 3, 2, 1];

/// First row and size of each tile of `rows` rows.
pub(crate) fn tiles(rows: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut first = 0;
    std::iter::from_fn(move || {
        let left = rows - first;
        let size = TILE_SIZES.into_iter().find(|&size| size <= left)?;
        first += size;
        Some((first - size, size))
    })
}

/// The tile that holds `row` of `rows`.
pub(crate) fn tile_of(row: usize, rows: usize) -> (usize, usize) {
    let full = rows / TILE_SIZES[0] * TILE_SIZES[0];
    if row < full {
        return (row / TILE_SIZES[0] * TILE_SIZES[0], TILE_SIZES[0]);
    }
    let (first, size) = tiles(rows - full)
        .find(|&(first, size)| row - full < first + size)
        .unwrap_or((row - full, 1));
    (full + first, size)
}

/// What the formats of one matrix need of their input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Need {
    /// f32 tiles (float weights, or exact precision).
    pub(crate) float: bool,
    /// int8 tiles with scales.
    pub(crate) int8: bool,
    /// Start values for zero points 8, 16, 128 (bits 0, 1, 2) and 32 per half block (bit 3).
    pub(crate) zeros: u8,
    /// `scale * sum` for formats with minima.
    pub(crate) scaled_sum: bool,
}

impl Need {
    /// Both.
    pub(crate) fn union(self, other: Self) -> Self {
        Self {
            float: self.float || other.float,
            int8: self.int8 || other.int8,
            zeros: self.zeros | other.zeros,
            scaled_sum: self.scaled_sum || other.scaled_sum,
        }
    }
}

/// Index of a zero point's start values, if it has any.
pub(crate) const fn zero_slot(zero: i32) -> Option<usize> {
    match zero {
        8 => Some(0),
        16 => Some(1),
        128 => Some(2),
        32 => Some(3),
        _ => None,
    }
}

/// Tiles of one linear op's input, reused by all.
#[derive(Debug)]
pub(crate) struct Activations {
    /// `[tile][K / 4][rows]`: four int8 per entry.
    pub(crate) int8: Vec<i32>,
    /// `[tile][K / 32][rows]`: `max|x| / 127`.
    pub(crate) scale: Vec<f32>,
    /// `[tile][K / 32][rows]`: `scale * Σ int8`.
    pub(crate) scaled_sum: Vec<f32>,
    /// `[tile][K / 32][rows]` for zero points 8, 16 and 128: `-zero * Σ int8`; for 32 `[tile][K / 16][rows]`.
    pub(crate) start: [Vec<i32>; 4],
    /// `[tile][K][rows]`.
    pub(crate) float: Vec<f32>,
}

impl Activations {
    /// Room for `rows` rows of `width` columns.
    pub(crate) fn new(rows: usize, width: usize, need: Need) -> Self {
        let blocks = width.div_ceil(BLOCK_COLS);
        let int = |n: usize, wanted: bool| if wanted { rows * n } else { 0 };
        let start = |slot: usize, n: usize| vec![0; int(n, need.zeros >> slot & 1 == 1)];
        Self {
            int8: vec![0; int(blocks * 8, need.int8)],
            scale: vec![0.0; int(blocks, need.int8)],
            scaled_sum: vec![0.0; int(blocks, need.scaled_sum)],
            start: [
                start(0, blocks),
                start(1, blocks),
                start(2, blocks),
                start(3, 2 * blocks),
            ],
            float: vec![0.0; int(width, need.float)],
        }
    }

    /// Pointers that workers write through, each its own rows.
    pub(crate) fn view(&mut self) -> ActivationsView {
        let [a, b, c, d] = &mut self.start;
        ActivationsView {
            int8: self.int8.as_mut_ptr(),
            scale: self.scale.as_mut_ptr(),
            scaled_sum: self.scaled_sum.as_mut_ptr(),
            start: [
                a.as_mut_ptr(),
                b.as_mut_ptr(),
                c.as_mut_ptr(),
                d.as_mut_ptr(),
            ],
            float: self.float.as_mut_ptr(),
        }
    }
}

/// [`Activations`] as raw pointers, shared by the workers of a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ActivationsView {
    pub(crate) int8: *mut i32,
    pub(crate) scale: *mut f32,
    pub(crate) scaled_sum: *mut f32,
    pub(crate) start: [*mut i32; 4],
    pub(crate) float: *mut f32,
}

/// Put row `row` of `rows` (`width` values at `x`) into its tile, in the forms that `need` names.
///
/// # Safety
/// The view has room for `rows` rows of `width`; nobody else writes this row; features of `I`.
#[inline(always)]
pub(crate) unsafe fn pack_row<I: Isa>(
    x: *const f32,
    width: usize,
    row: usize,
    rows: usize,
    need: Need,
    to: ActivationsView,
) {
    let (first, size) = tile_of(row, rows);
    // SAFETY: offsets stay within the row's tile, `first * width + size * width <= rows * width`.
    unsafe {
        if need.float {
            let tile = to.float.add(first * width + (row - first));
            for k in 0..width {
                *tile.add(k * size) = *x.add(k);
            }
        }
        if need.int8 {
            quantize_row::<I>(x, width / BLOCK_COLS, first, size, row - first, need, to);
        }
    }
}

/// int8 per 32 columns: `scale = max|x| / 127`, round to nearest even, exact sums. A function of the row alone.
/// A NaN or infinity anywhere in a block makes its scale NaN, so that it reaches the logits.
#[inline(always)]
unsafe fn quantize_row<I: Isa>(
    x: *const f32,
    blocks: usize,
    first: usize,
    size: usize,
    i: usize,
    need: Need,
    to: ActivationsView,
) {
    // SAFETY: as `pack_row`.
    unsafe {
        let int8 = to.int8.add(first * blocks * 8 + i);
        let per_block = first * blocks + i;
        for b in 0..blocks {
            let (x0, x1) = (I::load(x.add(b * 32)), I::load(x.add(b * 32 + 16)));
            let largest = I::max_lane(I::max(I::abs(x0), I::abs(x1)));
            let poison = I::sum(I::mul(I::add(x0, x1), I::zero()));
            let scale = largest / 127.0 + poison;
            let inverse = I::set(if largest > 0.0 { 127.0 / largest } else { 0.0 });
            let mut q = [0_i8; 32];
            I::i_store_i8(q.as_mut_ptr(), I::round(I::mul(x0, inverse)));
            I::i_store_i8(q.as_mut_ptr().add(16), I::round(I::mul(x1, inverse)));
            let (mut low, mut high) = (0_i32, 0_i32);
            for k in 0..16 {
                low += i32::from(q[k]);
                high += i32::from(q[16 + k]);
            }
            let words: [i32; 8] = std::mem::transmute(q);
            for (k, word) in words.into_iter().enumerate() {
                *int8.add((b * 8 + k) * size) = word;
            }
            let at = per_block + b * size;
            *to.scale.add(at) = scale;
            if need.scaled_sum {
                #[expect(clippy::cast_precision_loss, reason = "at most 32 * 127: exact")]
                let sum = (low + high) as f32;
                *to.scaled_sum.add(at) = scale * sum;
            }
            for (slot, zero) in [(0, 8), (1, 16), (2, 128)] {
                if need.zeros >> slot & 1 == 1 {
                    *to.start[slot].add(at) = -zero * (low + high);
                }
            }
            if need.zeros >> 3 & 1 == 1 {
                let halves = to.start[3].add(first * blocks * 2 + i);
                *halves.add(2 * b * size) = -32 * low;
                *halves.add((2 * b + 1) * size) = -32 * high;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_every_row_once_and_agree_with_tile_of() {
        for rows in 1..100 {
            let mut next = 0;
            for (first, size) in tiles(rows) {
                assert_eq!(first, next);
                for row in first..first + size {
                    assert_eq!(tile_of(row, rows), (first, size), "{row} of {rows}");
                }
                next += size;
            }
            assert_eq!(next, rows);
        }
    }
}

//! The input of a linear op in the order in which the kernels read it: tiles of rows, each tile block by block, a block
//! row by row in int8 (or column by column in f32). Written by the row phase before the linear, one row at a time, by any
//! worker.

use crate::formats::BLOCK_COLS;
use crate::lines::Lines;
use crate::simd::{Isa, LANES};

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

/// Words of four int8 in a row's block.
pub(crate) const WORDS: usize = BLOCK_COLS / 4;

/// Columns of a double block, and words of a row's: a matrix unit multiplies as many at once.
pub(crate) const DOUBLE_COLS: usize = 2 * BLOCK_COLS;
pub(crate) const DOUBLE_WORDS: usize = 2 * WORDS;
/// Rows that a matrix unit reads at once where it multiplies double blocks, whether they are there or not.
pub(crate) const UNIT_ROWS: usize = 16;

/// What the formats of one matrix need of their input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent wants")]
pub(crate) struct Need {
    /// f32 tiles (float weights, or exact precision).
    pub(crate) float: bool,
    /// int8 tiles with scales.
    pub(crate) int8: bool,
    /// A second int8 plane below the first.
    pub(crate) two_planes: bool,
    /// Start values for zero points 8, 16, 128 (bits 0, 1, 2) and 32 per half block (bit 3).
    pub(crate) zeros: u8,
    /// `scale * sum` for formats with minima.
    pub(crate) scaled_sum: bool,
    /// int8 tiles with one scale for a whole row.
    pub(crate) whole_rows: bool,
}

impl Need {
    /// Both.
    pub(crate) fn union(self, other: Self) -> Self {
        Self {
            float: self.float || other.float,
            int8: self.int8 || other.int8,
            two_planes: self.two_planes || other.two_planes,
            zeros: self.zeros | other.zeros,
            scaled_sum: self.scaled_sum || other.scaled_sum,
            whole_rows: self.whole_rows || other.whole_rows,
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
    /// `[tile][K / 32][rows][8]`: four int8 per entry; of two planes the upper one. At the end room for a whole tile's
    /// block, so that a matrix unit may read [`TILE_SIZES`]`[0]` rows whatever the size of the tile.
    pub(crate) int8: Lines<i32>,
    /// As `int8`: the lower plane; an activation is `scale * (256 * upper + lower)`.
    pub(crate) low: Lines<i32>,
    /// `[tile][K / 32][rows]`: `max|x| / 127`, or `/ 32512` with two planes.
    pub(crate) scale: Vec<f32>,
    /// `[tile][K / 32][rows]`: `scale * Σ q`, `q` being the quantized activations.
    pub(crate) scaled_sum: Vec<f32>,
    /// `[tile][K / 32][rows]` for zero points 8, 16 and 128: `-zero * Σ q`; for 32 `[tile][K / 16][rows]`.
    pub(crate) start: [Vec<i32>; 4],
    /// `[tile][K][rows]`.
    pub(crate) float: Vec<f32>,
    /// `[K / 64][row_stride][16]`: four int8 per entry, quantized with one scale per row; columns beyond the last are 0. At the
    /// end room for [`UNIT_ROWS`] rows.
    pub(crate) row_int8: Lines<i32>,
    /// At least the rows; odd, so that a row's blocks do not share a set of a cache.
    pub(crate) row_stride: usize,
    /// `[rows]`: `max|x| / 127`.
    pub(crate) row_scale: Vec<f32>,
    /// `[rows]`: `-128 * Σ q`.
    pub(crate) row_start: Vec<i32>,
}

impl Activations {
    /// Room for `rows` rows of `width` columns.
    pub(crate) fn new(rows: usize, width: usize, need: Need) -> Self {
        let blocks = width.div_ceil(BLOCK_COLS);
        let int = |n: usize, wanted: bool| if wanted { rows * n } else { 0 };
        let blocks_of = |words: usize, blocks: usize, wanted: bool| {
            let tile = if wanted { TILE_SIZES[0] } else { 0 };
            Lines::new(int(blocks * words, wanted) + tile * words)
        };
        let words = |wanted: bool| blocks_of(WORDS, blocks, wanted);
        let start = |slot: usize, n: usize| vec![0; int(n, need.zeros >> slot & 1 == 1)];
        Self {
            int8: words(need.int8),
            low: words(need.two_planes),
            scale: vec![0.0; int(blocks, need.int8)],
            scaled_sum: vec![0.0; int(blocks, need.scaled_sum)],
            start: [
                start(0, blocks),
                start(1, blocks),
                start(2, blocks),
                start(3, 2 * blocks),
            ],
            float: vec![0.0; int(width, need.float)],
            row_int8: Lines::new(if need.whole_rows {
                (width.div_ceil(DOUBLE_COLS) * (rows | 1) + UNIT_ROWS) * DOUBLE_WORDS
            } else {
                0
            }),
            row_stride: rows | 1,
            row_scale: vec![0.0; int(1, need.whole_rows)],
            row_start: vec![0; int(1, need.whole_rows)],
        }
    }

    /// Pointers that workers write through, each its own rows.
    pub(crate) fn view(&mut self) -> ActivationsView {
        let [a, b, c, d] = &mut self.start;
        ActivationsView {
            int8: self.int8.as_mut_ptr(),
            low: self.low.as_mut_ptr(),
            scale: self.scale.as_mut_ptr(),
            scaled_sum: self.scaled_sum.as_mut_ptr(),
            start: [
                a.as_mut_ptr(),
                b.as_mut_ptr(),
                c.as_mut_ptr(),
                d.as_mut_ptr(),
            ],
            float: self.float.as_mut_ptr(),
            row_int8: self.row_int8.as_mut_ptr(),
            row_stride: self.row_stride,
            row_scale: self.row_scale.as_mut_ptr(),
            row_start: self.row_start.as_mut_ptr(),
        }
    }
}

/// [`Activations`] as raw pointers, shared by the workers of a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ActivationsView {
    pub(crate) int8: *mut i32,
    pub(crate) low: *mut i32,
    pub(crate) scale: *mut f32,
    pub(crate) scaled_sum: *mut f32,
    pub(crate) start: [*mut i32; 4],
    pub(crate) float: *mut f32,
    pub(crate) row_int8: *mut i32,
    pub(crate) row_stride: usize,
    pub(crate) row_scale: *mut f32,
    pub(crate) row_start: *mut i32,
}

impl ActivationsView {
    /// The words of block `b` of a row that is quantized as a whole; the next row's are [`DOUBLE_WORDS`] further.
    pub(crate) fn row_block(&self, row: usize, b: usize) -> *const i32 {
        let double = b / 2 * self.row_stride + row;
        self.row_int8
            .wrapping_add(double * DOUBLE_WORDS + b % 2 * WORDS)
    }

    /// The tiles after the first `rows` rows of `width` columns, which fill tiles of the largest size.
    pub(crate) fn skip_tiles(self, rows: usize, width: usize) -> Self {
        debug_assert_eq!(rows % TILE_SIZES[0], 0, "whole tiles");
        let blocks = width / BLOCK_COLS;
        let start = [blocks, blocks, blocks, 2 * blocks];
        Self {
            int8: self.int8.wrapping_add(rows * blocks * WORDS),
            low: self.low.wrapping_add(rows * blocks * WORDS),
            scale: self.scale.wrapping_add(rows * blocks),
            scaled_sum: self.scaled_sum.wrapping_add(rows * blocks),
            start: std::array::from_fn(|i| self.start[i].wrapping_add(rows * start[i])),
            float: self.float.wrapping_add(rows * width),
            row_int8: self.row_int8.wrapping_add(rows * DOUBLE_WORDS),
            row_stride: self.row_stride,
            row_scale: self.row_scale.wrapping_add(rows),
            row_start: self.row_start.wrapping_add(rows),
        }
    }
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
        if need.whole_rows {
            quantize_whole_row::<I>(x, width / BLOCK_COLS, row, to);
        }
    }
}

/// Blocks whose scales are computed together.
const GROUP: usize = LANES;
/// Largest quantized activation, with one plane and with two.
const ONE_PLANE: f32 = 127.0;
const TWO_PLANES: f32 = 32_512.0;

/// int8 per 32 columns: `scale = max|x| / 127`, round to nearest even, exact sums. A function of the row alone.
/// Two planes: `scale = max|x| / 32512`, split into bytes. A NaN or infinity anywhere makes every scale of the row NaN,
/// so that it reaches the logits.
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
    // SAFETY: as `pack_row`; a group's arrays hold `GROUP` blocks.
    unsafe {
        let limit = I::set(if need.two_planes {
            TWO_PLANES
        } else {
            ONE_PLANE
        });
        let zero = I::zero();
        let mut poison = zero;
        let per_block = first * blocks + i;
        let mut from = 0;
        while from < blocks {
            let count = GROUP.min(blocks - from);
            let mut largest = [0.0_f32; GROUP];
            for (b, largest) in largest[..count].iter_mut().enumerate() {
                let at = x.add((from + b) * BLOCK_COLS);
                let (x0, x1) = (I::load(at), I::load(at.add(LANES)));
                poison = I::fma(x0, zero, I::fma(x1, zero, poison));
                *largest = I::max_lane(I::max(I::abs(x0), I::abs(x1)));
            }
            let largest = I::load(largest.as_ptr());
            let (mut scales, mut inverses) = ([0.0_f32; GROUP], [0.0_f32; GROUP]);
            I::store(scales.as_mut_ptr(), I::div(largest, limit));
            // A block of zeros: 0 times a large number, not 0 times infinity.
            let inverse = I::min(I::div(limit, largest), I::set(f32::MAX));
            I::store(inverses.as_mut_ptr(), inverse);
            for b in 0..count {
                let block = from + b;
                let at = x.add(block * BLOCK_COLS);
                let inverse = I::set(inverses[b]);
                let q0 = I::round(I::mul(I::load(at), inverse));
                let q1 = I::round(I::mul(I::load(at.add(LANES)), inverse));
                let words = (first * blocks + block * size + i) * WORDS;
                if need.two_planes {
                    let (u0, l0) = split::<I>(q0);
                    let (u1, l1) = split::<I>(q1);
                    store_words::<I>(u0, u1, to.int8.add(words));
                    store_words::<I>(l0, l1, to.low.add(words));
                } else {
                    store_words::<I>(q0, q1, to.int8.add(words));
                }
                let at = per_block + block * size;
                *to.scale.add(at) = scales[b];
                if need.zeros >> 3 & 1 == 1 {
                    let halves = to.start[3].add(first * blocks * 2 + 2 * block * size + i);
                    *halves = whole(I::sum(I::to_f(q0))).wrapping_mul(-32);
                    *halves.add(size) = whole(I::sum(I::to_f(q1))).wrapping_mul(-32);
                }
                if need.zeros & 7 != 0 || need.scaled_sum {
                    let sum = I::sum(I::add(I::to_f(q0), I::to_f(q1)));
                    if need.scaled_sum {
                        *to.scaled_sum.add(at) = scales[b] * sum;
                    }
                    for (slot, zero) in [(0, 8), (1, 16), (2, 128)] {
                        if need.zeros >> slot & 1 == 1 {
                            *to.start[slot].add(at) = whole(sum).wrapping_mul(-zero);
                        }
                    }
                }
            }
            from += count;
        }
        let poison = I::sum(poison);
        if poison.is_nan() {
            for block in 0..blocks {
                *to.scale.add(per_block + block * size) = poison;
            }
        }
    }
}

/// int8 with one scale for the whole row, else as [`quantize_row`].
#[inline(always)]
unsafe fn quantize_whole_row<I: Isa>(
    x: *const f32,
    blocks: usize,
    row: usize,
    to: ActivationsView,
) {
    // SAFETY: as `pack_row`.
    unsafe {
        let (mut poison, mut largest) = (I::zero(), I::zero());
        for k in (0..blocks * BLOCK_COLS).step_by(LANES) {
            let x = I::load(x.add(k));
            poison = I::fma(x, I::zero(), poison);
            largest = I::max(largest, I::abs(x));
        }
        let (poison, largest) = (I::sum(poison), I::max_lane(largest));
        let inverse = I::set((ONE_PLANE / largest).min(f32::MAX));
        let mut sum = I::zero();
        for b in 0..blocks {
            let at = x.add(b * BLOCK_COLS);
            let q0 = I::round(I::mul(I::load(at), inverse));
            let q1 = I::round(I::mul(I::load(at.add(LANES)), inverse));
            store_words::<I>(q0, q1, to.row_block(row, b).cast_mut());
            sum = I::add(sum, I::add(I::to_f(q0), I::to_f(q1)));
        }
        if blocks % 2 == 1 {
            to.row_block(row, blocks).cast_mut().write_bytes(0, WORDS);
        }
        *to.row_start.add(row) = whole(I::sum(sum)).wrapping_mul(-128);
        *to.row_scale.add(row) = if poison.is_nan() {
            poison
        } else {
            largest / ONE_PLANE
        };
    }
}

/// A sum of quantized activations, of a block at most `32 * 32512`, of a row `127 * 2^16`, and exact as a float (anything where
/// the row is poisoned).
#[expect(clippy::cast_possible_truncation, reason = "a whole number below 2^24")]
fn whole(sum: f32) -> i32 {
    sum as i32
}

/// `q = 256 * upper + lower`, both within int8.
#[inline(always)]
unsafe fn split<I: Isa>(q: I::I) -> (I::I, I::I) {
    // SAFETY: features of the caller.
    unsafe {
        let q = I::to_f(q);
        // The half keeps ties out, so that lower never becomes 128.
        let upper = I::round(I::mul(I::add(q, I::set(0.5)), I::set(1.0 / 256.0)));
        (upper, I::round(I::fma(I::to_f(upper), I::set(-256.0), q)))
    }
}

/// 32 int8 as eight words.
#[inline(always)]
unsafe fn store_words<I: Isa>(q0: I::I, q1: I::I, to: *mut i32) {
    // SAFETY: the caller's tile.
    unsafe {
        I::i_store_i8(to.cast(), q0);
        I::i_store_i8(to.cast::<i8>().add(LANES), q1);
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

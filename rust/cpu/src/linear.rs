//! `out = x @ weight.T + bias`, a pair of panels at a time: from packed bytes for few rows, from a pair unpacked once
//! for many. What the arithmetic is stands in `tile.rs` and `float.rs`; which path runs never changes a bit.

pub(crate) mod bounds;
pub(crate) mod float;
pub(crate) mod matrix_tile;
#[cfg(test)]
mod matrix_tile_tests;
pub(crate) mod row_tile;
mod scratch;
pub(crate) mod source;
pub(crate) mod tile;

use std::ops::Range;

use inferlib_program::program::Activation;

use crate::activations::{ActivationsView, DOUBLE_WORDS, TILE_SIZES, WORDS, zero_slot};
use crate::formats::BLOCK_COLS;
use crate::kernels::Kernels;
use crate::linear::bounds::Bounds;
use crate::linear::float::FloatTiles;
pub(crate) use crate::linear::scratch::PanelScratch;
use crate::linear::source::{Ahead, PANELS, Packed};
use crate::linear::tile::{Stretch, Target, Tiles};
use crate::matrix::{Matrix, Segment};
use crate::precision::Precision;
use crate::simd::LANES;

/// Blocks unpacked at once: two panels of 768 columns are 24 KiB of codes, so that they stay in L1 with a tile of rows.
pub(crate) const CHUNK_BLOCKS: usize = 24;
/// Columns of floats unpacked at once: of two panels 32 KiB. Whole super-blocks.
const FLOAT_CHUNK: usize = 256;
/// Floats of one panel in the scratch.
pub(crate) const PANEL_FLOATS: usize = FLOAT_CHUNK * LANES;

/// One linear op over a batch of rows.
#[derive(Clone, Copy)]
pub(crate) struct LinearTask<'a> {
    /// Packed weights.
    pub(crate) matrix: &'a Matrix,
    /// Input tiles.
    pub(crate) input: ActivationsView,
    /// Input rows.
    pub(crate) rows: usize,
    /// `[out_features]`.
    pub(crate) bias: Option<&'a [f32]>,
    /// `[rows, out_features]`; `[rows, out_features / 2]` if `gated`.
    pub(crate) out: *mut f32,
    /// Floats from a row of `out` to the next.
    pub(crate) out_stride: usize,
    /// `out = act(first half) * second half`.
    pub(crate) gated: Option<Activation>,
    /// Which activations quantized weights are multiplied with.
    pub(crate) precision: Precision,
}

impl LinearTask<'_> {
    /// Pieces of work: pairs of panels of one segment, or a gate panel with its up panel.
    pub(crate) fn num_pairs(&self) -> usize {
        if self.gated.is_some() {
            return self.matrix.segments[0].num_panels();
        }
        let pairs = |segment: &Segment| segment.num_panels().div_ceil(PANELS);
        self.matrix.segments.iter().map(pairs).sum()
    }
}

impl<'a> LinearTask<'a> {
    /// Some of its rows, see [`rows_of_part`].
    pub(crate) fn part(&self, part: usize, parts: usize) -> LinearTask<'a> {
        let rows = rows_of_part(self.rows, part, parts);
        LinearTask {
            input: self.input.skip_tiles(rows.start, self.matrix.in_features),
            out: self.out.wrapping_add(rows.start * self.out_stride),
            rows: rows.len(),
            ..*self
        }
    }
}

/// Rows of the `part`-th of `parts` of about the same size, cut between tiles.
pub(crate) fn rows_of_part(rows: usize, part: usize, parts: usize) -> Range<usize> {
    let tile = TILE_SIZES[0];
    let end = if part + 1 == parts {
        rows
    } else {
        rows * (part + 1) / parts / tile * tile
    };
    rows * part / parts / tile * tile..end
}

/// [`tile::packed_tiles`].
type PackedTiles = unsafe fn(&Tiles, Packed, Stretch, Option<Activation>);

/// The kernels of one packed layout, as `Kernels::layout` finds them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayoutKernels {
    /// [`tile::packed_tiles`], one plane and two.
    pub(crate) packed: [PackedTiles; 2],
    /// [`source::unpack`].
    pub(crate) unpack: unsafe fn(Packed, (usize, usize), u8, &mut PanelScratch),
    /// [`float::unpack_exact`].
    pub(crate) unpack_exact: unsafe fn(Packed, usize, usize, &mut PanelScratch),
    /// The zero point that the accumulators start from; 0 where the tier's products count from it themselves.
    pub(crate) zero: i32,
    /// The code that means 0.
    pub(crate) code_zero: u8,
    /// Whether codes may exceed 127.
    pub(crate) bytes: bool,
    /// Whether blocks have minima.
    pub(crate) has_min: bool,
    /// Whether scales cover 16 columns.
    pub(crate) halves: bool,
    /// Bytes of a block of 16 rows by 32 columns (super-blocks: their share).
    pub(crate) block_bytes: usize,
}

/// Compute the outputs of `pairs`.
///
/// # Safety
/// `input` holds tiles of `rows` rows in the forms that the matrix needs, `out` all rows, the scratch room for them, no
/// other worker has these pairs; the tier's features are available. A gated matrix is two segments alike.
pub(crate) unsafe fn linear(
    kernels: &Kernels,
    task: &LinearTask<'_>,
    pairs: Range<usize>,
    scratch: &mut PanelScratch,
) {
    let segments = &task.matrix.segments;
    if task.gated.is_some() {
        let run = Run {
            segments: [&segments[0], &segments[1]],
            step: 1,
        };
        // SAFETY: the caller's.
        unsafe { run.all(kernels, task, pairs, scratch) };
        return;
    }
    let mut before = 0;
    for segment in segments {
        let first = before;
        before += segment.num_panels().div_ceil(PANELS);
        let run = Run {
            segments: [segment; PANELS],
            step: PANELS,
        };
        let pairs = pairs.start.max(first)..pairs.end.min(before);
        if !pairs.is_empty() {
            // SAFETY: the caller's.
            unsafe {
                run.all(
                    kernels,
                    task,
                    pairs.start - first..pairs.end - first,
                    scratch,
                );
            };
        }
    }
}

/// Bound the outputs of `pairs` of a matrix in `Q8Planes`, and write `-inf` for them.
///
/// # Safety
/// As [`linear`]; the arrays of `to` hold all rows and pairs.
pub(crate) unsafe fn bound(
    kernels: &Kernels,
    task: &LinearTask<'_>,
    pairs: Range<usize>,
    scratch: &mut PanelScratch,
    to: &Bounds,
) {
    let segment = &task.matrix.segments[0];
    let run = Run {
        segments: [segment; PANELS],
        step: PANELS,
    };
    let layout = &kernels.layouts.Q8Planes;
    let bound = match task.precision {
        Precision::Balanced => kernels.bound_two_planes,
        _ => kernels.bound_one_plane,
    };
    let mut first = pairs.start;
    while first < pairs.end {
        let pair = run.pair(task, first, scratch);
        let count = run.full(pairs.end).saturating_sub(first).max(1);
        let tiles = tiles(task, layout, pair.target);
        // SAFETY: the caller's.
        unsafe {
            bound(
                &tiles,
                pair.packed,
                run.stretch(count),
                &Bounds { first, ..*to },
            );
        };
        first += count;
    }
}

/// Pairs of one layout: neighbours in one segment, or the same panel of a gate and its up projection.
struct Run<'a> {
    segments: [&'a Segment; PANELS],
    /// Panels of a segment from a pair to the next.
    step: usize,
}

impl Run<'_> {
    unsafe fn all(
        &self,
        kernels: &Kernels,
        task: &LinearTask<'_>,
        pairs: Range<usize>,
        scratch: &mut PanelScratch,
    ) {
        let layout = kernels.layout(self.segments[0].packing);
        let layout = layout.filter(|_| task.precision != Precision::Exact);
        let unit = kernels.unit.filter(|_| task.rows > kernels.packed_rows);
        let whole_rows = self.sums_whole_rows(task);
        // One sum for all columns has nothing to unpack for, but a unit's signed codes.
        let from_packed = task.rows <= kernels.packed_rows || whole_rows && unit.is_none();
        if let (Some(unit), Some(layout)) = (unit, layout) {
            let words = match (whole_rows, layout.halves) {
                (true, _) => DOUBLE_WORDS,
                (false, true) => WORDS / 2,
                (false, false) => WORDS,
            };
            // SAFETY: the tier's unit.
            unsafe { (unit.begin)(words) };
        }
        let mut first = pairs.start;
        while first < pairs.end {
            // SAFETY: the caller's.
            unsafe {
                let pair = self.pair(task, first, scratch);
                first += match layout {
                    Some(layout) if from_packed => {
                        let count = self.full(pairs.end).saturating_sub(first).max(1);
                        self.packed(kernels, layout, task, &pair, count);
                        count
                    }
                    Some(layout) => {
                        self.unpacked(kernels, layout, task, pair, scratch);
                        1
                    }
                    None => {
                        self.floats(kernels, task, pair, scratch);
                        1
                    }
                };
            }
        }
        if let (Some(unit), Some(_)) = (unit, layout) {
            // SAFETY: as above.
            unsafe { (unit.end)() };
        }
    }

    /// Of the pairs before `end`, those whose panels have all lanes and a partner of their own.
    fn full(&self, end: usize) -> usize {
        end.min(self.segments[0].rows / (LANES * self.step))
    }

    /// Pair `index` and where its sums go.
    fn pair(&self, task: &LinearTask<'_>, index: usize, scratch: &mut PanelScratch) -> Pair {
        let segments = self.segments;
        let panel = index * self.step;
        // The last panel of an odd number is its own partner: computed twice, written twice the same.
        let panels = [
            panel,
            (panel + self.step - 1).min(segments[1].num_panels() - 1),
        ];
        let rows = [0, 1].map(|i| segments[i].first_row + panels[i] * LANES);
        let gated = task.gated.is_some();
        Pair {
            packed: Packed {
                data: [0, 1].map(|i| segments[i].panel(panels[i]).cast_const()),
                second: [0, 1].map(|i| segments[i].second_panel(panels[i]).cast_const()),
                ahead: Ahead::new(segments[0].panel_bytes, self.stride()),
            },
            target: Target {
                out: rows.map(|row| task.out.wrapping_add(row)),
                stride: task.out_stride,
                lanes: [0, 1].map(|i| LANES.min(segments[i].rows - panels[i] * LANES)),
                bias: task.bias.map(|bias| rows.map(|row| bias[row..].as_ptr())),
                partial: scratch.partial.as_mut_ptr(),
                resume: false,
                keep: gated,
            },
        }
    }

    /// Bytes from a panel to its successor in the next pair.
    fn stride(&self) -> usize {
        self.step * self.segments[0].panel_bytes
    }

    /// `count` pairs, one after another.
    fn stretch(&self, count: usize) -> Stretch {
        Stretch {
            pairs: count,
            bytes: self.stride(),
            second_bytes: self.step * self.segments[0].second_bytes,
            outputs: self.step * LANES,
        }
    }

    /// Whether products are one integer sum each.
    fn sums_whole_rows(&self, task: &LinearTask<'_>) -> bool {
        self.segments[0].packing.sums_whole_rows(task.precision)
    }

    /// `count` pairs from packed bytes.
    unsafe fn packed(
        &self,
        kernels: &Kernels,
        layout: &LayoutKernels,
        task: &LinearTask<'_>,
        pair: &Pair,
        count: usize,
    ) {
        let stretch = self.stretch(count);
        let tiles = tiles(task, layout, pair.target);
        let packed_tiles = match task.precision {
            _ if self.sums_whole_rows(task) => kernels.row_tiles,
            Precision::Balanced => layout.packed[1],
            _ => layout.packed[0],
        };
        // SAFETY: as `linear`.
        unsafe { packed_tiles(&tiles, pair.packed, stretch, task.gated) };
    }

    /// One pair, unpacked once for all rows, chunk by chunk.
    unsafe fn unpacked(
        &self,
        kernels: &Kernels,
        layout: &LayoutKernels,
        task: &LinearTask<'_>,
        pair: Pair,
        scratch: &mut PanelScratch,
    ) {
        let int_tiles = match (layout.has_min, layout.halves) {
            (true, true) => kernels.int_tiles_halves_min,
            (false, true) => kernels.int_tiles_halves,
            (true, false) => kernels.int_tiles_min,
            (false, false) if layout.bytes => kernels.int_tiles_bytes,
            (false, false) => kernels.int_tiles_scaled,
        };
        let int_tiles = match kernels.unit {
            Some(unit) if self.sums_whole_rows(task) => unit.row_tiles,
            _ => int_tiles[usize::from(task.precision == Precision::Balanced)],
        };
        let mut tiles = tiles(task, layout, pair.target);
        // A unit multiplies signed codes, the others take the zero point from where the sums start.
        let zero = kernels.unit.map_or(0, |_| layout.code_zero);
        // SAFETY: as `linear`.
        unsafe {
            while tiles.from < tiles.width {
                tiles.count = CHUNK_BLOCKS.min(tiles.width - tiles.from);
                (layout.unpack)(pair.packed, (tiles.from, tiles.count), zero, scratch);
                let end = tiles.from + tiles.count;
                tiles.target.resume = tiles.from > 0;
                tiles.target.keep = pair.target.keep || end < tiles.width;
                // The chunk after this one: in these panels, or the first of the next pair's.
                let next = if end < tiles.width {
                    pair.packed.skip(end * layout.block_bytes)
                } else {
                    pair.packed.skip(self.stride())
                };
                int_tiles(&tiles, scratch, next.data, layout.block_bytes);
                tiles.from = end;
            }
            if let Some(activation) = task.gated {
                (kernels.gate_pair)(&pair.target, task.rows, activation);
            }
        }
    }

    /// One pair in float arithmetic: float panels as they lie, quantized ones for exact precision.
    unsafe fn floats(
        &self,
        kernels: &Kernels,
        task: &LinearTask<'_>,
        pair: Pair,
        scratch: &mut PanelScratch,
    ) {
        let width = task.matrix.in_features;
        let tiles = FloatTiles {
            input: task.input,
            rows: task.rows,
            width,
            from: 0,
            count: width,
            data: pair.packed.data,
            ahead: Some(pair.packed.ahead),
            target: pair.target,
        };
        let packing = self.segments[0].packing;
        // SAFETY: as `linear`.
        unsafe {
            match kernels.layout(packing) {
                Some(layout) => exact_tiles(kernels, layout, pair.packed, tiles, scratch),
                None => (kernels.float_tiles(packing.element()))(&tiles),
            }
            if let Some(activation) = task.gated {
                (kernels.gate_pair)(&pair.target, task.rows, activation);
            }
        }
    }
}

/// Two panels of one layout, and where their sums go.
#[derive(Clone, Copy)]
struct Pair {
    packed: Packed,
    target: Target,
}

/// All blocks of a task's rows.
fn tiles(task: &LinearTask<'_>, layout: &LayoutKernels, target: Target) -> Tiles {
    let width = task.matrix.in_features / BLOCK_COLS;
    Tiles {
        input: task.input,
        rows: task.rows,
        width,
        from: 0,
        count: width,
        zero: zero_slot(layout.zero),
        target,
    }
}

/// A pair of quantized panels in float arithmetic, chunk by chunk.
unsafe fn exact_tiles(
    kernels: &Kernels,
    layout: &LayoutKernels,
    packed: Packed,
    mut tiles: FloatTiles,
    scratch: &mut PanelScratch,
) {
    let keep = tiles.target.keep;
    let floats = scratch.floats.as_ptr();
    tiles.data = [0, 1].map(|panel| floats.wrapping_add(panel * PANEL_FLOATS).cast());
    tiles.ahead = None;
    // SAFETY: as `linear`.
    unsafe {
        while tiles.from < tiles.width {
            tiles.count = FLOAT_CHUNK.min(tiles.width - tiles.from);
            let (from, count) = (tiles.from / BLOCK_COLS, tiles.count / BLOCK_COLS);
            (layout.unpack_exact)(packed, from, count, scratch);
            let end = tiles.from + tiles.count;
            tiles.target.resume = tiles.from > 0;
            tiles.target.keep = keep || end < tiles.width;
            (kernels.float_tiles_f32)(&tiles);
            tiles.from = end;
        }
    }
}

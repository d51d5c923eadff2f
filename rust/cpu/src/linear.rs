//! `out = x @ weight.T + bias`, a pair of panels at a time: from packed bytes for few rows, from a pair unpacked once
//! for many. What the arithmetic is stands in `tile.rs` and `float.rs`; which path runs never changes a bit.

pub(crate) mod float;
pub(crate) mod source;
pub(crate) mod tile;

use std::ops::Range;

use inferlib_core::program::Activation;

use crate::activations::{ActivationsView, zero_slot};
use crate::executor::Precision;
use crate::formats::BLOCK_COLS;
use crate::kernels::Kernels;
use crate::linear::float::FloatTiles;
use crate::linear::source::{Ahead, PANEL_CODES, PANEL_MINS, PANEL_SCALES, PANELS, Packed};
use crate::linear::tile::{Target, Tiles};
use crate::matrix::{Matrix, Segment};
use crate::simd::LANES;

/// Largest row count that is served from packed bytes.
const MAX_PACKED_ROWS: usize = 24;
/// Blocks unpacked at once: two panels of 768 columns are 24 KiB of codes, so that they stay in L1 with a tile of rows.
pub(crate) const CHUNK_BLOCKS: usize = 24;
/// Columns of floats unpacked at once: of two panels 32 KiB. Whole super-blocks.
const FLOAT_CHUNK: usize = 256;
/// Floats of one panel in the scratch.
pub(crate) const PANEL_FLOATS: usize = FLOAT_CHUNK * LANES;

/// One worker's room for a pair of unpacked panels.
#[derive(Debug)]
pub(crate) struct PanelScratch {
    codes: Lines<u8>,
    scales: Lines<f32>,
    mins: Lines<f32>,
    floats: Lines<f32>,
    /// `[rows][PANELS][16]`.
    partial: Lines<f32>,
}

/// Zeroed memory that begins on a cache line, so that no vector spans two.
#[derive(Debug)]
struct Lines<T> {
    memory: Vec<T>,
    first: usize,
}

impl<T: Copy + Default> Lines<T> {
    const BYTES: usize = 64;

    fn new(len: usize) -> Self {
        let memory = vec![T::default(); len + Self::BYTES / size_of::<T>()];
        let first = memory.as_ptr().align_offset(Self::BYTES);
        Self { memory, first }
    }

    fn as_ptr(&self) -> *const T {
        self.memory[self.first..].as_ptr()
    }

    fn as_mut_ptr(&mut self) -> *mut T {
        self.memory[self.first..].as_mut_ptr()
    }
}

impl PanelScratch {
    /// Room for `rows` rows.
    pub(crate) fn new(rows: usize) -> Self {
        Self {
            codes: Lines::new(PANELS * PANEL_CODES),
            scales: Lines::new(PANELS * PANEL_SCALES),
            mins: Lines::new(PANELS * PANEL_MINS),
            floats: Lines::new(PANELS * PANEL_FLOATS),
            partial: Lines::new(rows * PANELS * LANES),
        }
    }
}

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

/// The kernels of one packed layout, as `Kernels::layout` finds them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayoutKernels {
    /// [`tile::int_tiles`] over packed bytes, one plane and two.
    pub(crate) packed: [unsafe fn(&Tiles<'_>, Packed); 2],
    /// [`source::unpack`].
    pub(crate) unpack: unsafe fn(Packed, usize, usize, &mut PanelScratch),
    /// [`float::unpack_exact`].
    pub(crate) unpack_exact: unsafe fn(Packed, usize, usize, &mut PanelScratch),
    /// The zero point that the accumulators start from; 0 where the tier's products count from it themselves.
    pub(crate) zero: i32,
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
        for panel in pairs {
            let pair = Pair {
                segments: [&segments[0], &segments[1]],
                panels: [panel; PANELS],
                stride: segments[0].panel_bytes,
            };
            // SAFETY: the caller's.
            unsafe { run_pair(kernels, task, &pair, scratch) };
        }
        return;
    }
    let mut before = 0;
    for segment in segments {
        let (panels, first) = (segment.num_panels(), before);
        before += panels.div_ceil(PANELS);
        for pair in pairs.start.max(first)..pairs.end.min(before) {
            let panel = (pair - first) * PANELS;
            let pair = Pair {
                segments: [segment; PANELS],
                // The last panel of an odd number is its own partner: computed twice, written twice the same.
                panels: [panel, (panel + 1).min(panels - 1)],
                stride: PANELS * segment.panel_bytes,
            };
            // SAFETY: the caller's.
            unsafe { run_pair(kernels, task, &pair, scratch) };
        }
    }
}

/// Two panels of one layout.
struct Pair<'a> {
    segments: [&'a Segment; PANELS],
    /// Within their segments.
    panels: [usize; PANELS],
    /// From a panel to its successor in the next pair.
    stride: usize,
}

unsafe fn run_pair(
    kernels: &Kernels,
    task: &LinearTask<'_>,
    pair: &Pair<'_>,
    scratch: &mut PanelScratch,
) {
    let [first, second] = pair.segments;
    let row = |i: usize| pair.segments[i].first_row + pair.panels[i] * LANES;
    let lanes = |i: usize| LANES.min(pair.segments[i].rows - pair.panels[i] * LANES);
    let rows = [row(0), row(1)];
    let lanes = [lanes(0), lanes(1)];
    let (width, stride) = (
        task.matrix.in_features,
        task.matrix.out_features / if task.gated.is_some() { 2 } else { 1 },
    );
    let bias = task
        .bias
        .map(|bias| [0, 1].map(|i| &bias[rows[i]..rows[i] + lanes[i]]));
    let data = [
        first.panel(pair.panels[0]).cast_const(),
        second.panel(pair.panels[1]).cast_const(),
    ];
    // Made where it is used: a copy would wait for the stores before it.
    let partial = scratch.partial.as_mut_ptr();
    let target = || Target {
        out: rows.map(|row| task.out.wrapping_add(row)),
        stride,
        lanes,
        bias,
        partial,
        resume: false,
        keep: task.gated.is_some(),
    };
    let packed = Packed {
        data,
        ahead: Ahead::new(first.panel_bytes, pair.stride),
    };
    let layout = kernels.layout(first.packing);
    let Some(layout) = layout.filter(|_| task.precision != Precision::Exact) else {
        let tiles = FloatTiles {
            input: task.input,
            rows: task.rows,
            width,
            from: 0,
            count: width,
            data,
            ahead: Some(packed.ahead),
            target: target(),
        };
        // SAFETY: as `linear`.
        unsafe {
            match layout {
                Some(layout) => exact_tiles(kernels, layout, packed, tiles, scratch),
                None => (kernels.float_tiles(first.packing.element()))(&tiles),
            }
            if let Some(activation) = task.gated {
                (kernels.gate_pair)(&target(), task.rows, activation);
            }
        }
        return;
    };
    let mut tiles = Tiles {
        input: task.input,
        rows: task.rows,
        width: width / BLOCK_COLS,
        from: 0,
        count: width / BLOCK_COLS,
        zero: zero_slot(layout.zero),
        target: target(),
    };
    let planes = usize::from(task.precision == Precision::Balanced);
    // SAFETY: as `linear`.
    unsafe {
        if task.rows <= MAX_PACKED_ROWS {
            (layout.packed[planes])(&tiles, packed);
        } else {
            let int_tiles = match (layout.has_min, layout.halves) {
                (true, true) => kernels.int_tiles_halves_min,
                (false, true) => kernels.int_tiles_halves,
                (true, false) => kernels.int_tiles_min,
                (false, false) if layout.bytes => kernels.int_tiles_bytes,
                (false, false) => kernels.int_tiles_scaled,
            };
            while tiles.from < tiles.width {
                tiles.count = CHUNK_BLOCKS.min(tiles.width - tiles.from);
                (layout.unpack)(packed, tiles.from, tiles.count, scratch);
                let end = tiles.from + tiles.count;
                tiles.target.resume = tiles.from > 0;
                tiles.target.keep = task.gated.is_some() || end < tiles.width;
                // The chunk after this one: in these panels, or the first of the next pair's.
                let next = if end < tiles.width {
                    data.map(|panel| panel.wrapping_add(end * layout.block_bytes))
                } else {
                    data.map(|panel| panel.wrapping_add(pair.stride))
                };
                int_tiles[planes](&tiles, scratch, next, layout.block_bytes);
                tiles.from = end;
            }
        }
        if let Some(activation) = task.gated {
            (kernels.gate_pair)(&tiles.target, task.rows, activation);
        }
    }
}

/// A pair of quantized panels in float arithmetic, chunk by chunk.
unsafe fn exact_tiles(
    kernels: &Kernels,
    layout: &LayoutKernels,
    packed: Packed,
    mut tiles: FloatTiles<'_>,
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

//! `out = x @ weight.T + bias`: GEMV straight from packed bytes for up to eight rows, GEMM from an unpacked panel above.
//!
//! Order of sums, the same for every row count, tile and tier: per 32-block an exact i32 sum, then one fma
//! `acc = fma(float(sum), scale * sa, acc)` (formats with minima: one more, `fma(min, sa * Σa, acc)`) in ascending block
//! order. Float weights and exact precision: one fma per column, ascending.

use std::ops::Range;

use crate::activations::{ActivationsView, tiles, zero_slot};
use crate::formats::{BLOCK_COLS, Format};
use crate::kernels::Kernels;
use crate::matrix::{Matrix, Packing, Segment};
use crate::simd::{Isa, LANES};

/// Largest row count that is served from packed bytes.
pub(crate) const MAX_GEMV_ROWS: usize = 8;
/// Columns unpacked at once: 16 KiB of codes, or 32 KiB of floats, in L1 or L2 of the worker.
const INT_CHUNK: usize = 1024;
const FLOAT_CHUNK: usize = 512;

/// One worker's room for an unpacked panel.
#[derive(Debug)]
pub(crate) struct PanelScratch {
    codes: Vec<u8>,
    scales: Vec<f32>,
    mins: Vec<f32>,
    floats: Vec<f32>,
}

impl PanelScratch {
    pub(crate) fn new() -> Self {
        Self {
            codes: vec![0; INT_CHUNK * LANES],
            scales: vec![0.0; INT_CHUNK / 16 * LANES],
            mins: vec![0.0; INT_CHUNK / BLOCK_COLS * LANES],
            floats: vec![0.0; FLOAT_CHUNK * LANES],
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
    /// `[rows, out_features]`.
    pub(crate) out: *mut f32,
    /// Use float activations for quantized weights too.
    pub(crate) exact: bool,
}

/// Where a panel's results go.
#[derive(Clone, Copy)]
struct Target<'a> {
    out: *mut f32,
    /// Row stride of `out`.
    stride: usize,
    /// Valid lanes: 16 but for a segment's last panel.
    lanes: usize,
    bias: Option<&'a [f32]>,
    /// Whether accumulators resume from `out`.
    resume: bool,
    /// Whether this chunk is the last one: bias is added.
    last: bool,
}

/// The kernels of one packed layout, as `Kernels::linear` finds them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayoutKernels {
    /// [`gemv`].
    pub(crate) gemv: unsafe fn(&Gemv<'_>),
    /// [`unpack`].
    pub(crate) unpack: unsafe fn(*const u8, usize, usize, &mut PanelScratch),
    /// [`unpack_exact`].
    pub(crate) unpack_exact: unsafe fn(*const u8, usize, usize, &mut PanelScratch),
    /// The zero point that the accumulators start from.
    pub(crate) zero: i32,
    /// Whether blocks have minima.
    pub(crate) has_min: bool,
    /// Whether scales cover 16 columns.
    pub(crate) halves: bool,
}

/// Compute the outputs of `panels`.
///
/// # Safety
/// `input` holds tiles of `rows` rows in the forms that the matrix needs, `out` has `rows * out_features` floats, no
/// other worker has these panels; the tier's features are available.
pub(crate) unsafe fn linear(
    kernels: &Kernels,
    task: &LinearTask<'_>,
    panels: Range<usize>,
    scratch: &mut PanelScratch,
) {
    for segment in &task.matrix.segments {
        let first = panels.start.max(segment.first_panel);
        let end = panels.end.min(segment.first_panel + segment.num_panels());
        for panel in first..end {
            // SAFETY: the panel lies in the segment; the rest is the caller's.
            unsafe { run_panel(kernels, task, segment, panel - segment.first_panel, scratch) };
        }
    }
}

unsafe fn run_panel(
    kernels: &Kernels,
    task: &LinearTask<'_>,
    segment: &Segment,
    panel: usize,
    scratch: &mut PanelScratch,
) {
    let row = segment.first_row + panel * LANES;
    let lanes = LANES.min(segment.rows - panel * LANES);
    let width = task.matrix.in_features;
    let layout = kernels.layout(segment.packing);
    let data = segment.panel(panel);
    let mut target = Target {
        // `row + lanes <= out_features`.
        out: task.out.wrapping_add(row),
        stride: task.matrix.out_features,
        lanes,
        bias: task.bias.map(|bias| &bias[row..row + lanes]),
        resume: false,
        last: true,
    };
    let (input, rows) = (task.input, task.rows);
    // SAFETY: as `linear`.
    unsafe {
        match layout {
            Some(layout) if !task.exact && rows <= MAX_GEMV_ROWS => {
                (layout.gemv)(&Gemv {
                    input,
                    rows,
                    data,
                    blocks: width / BLOCK_COLS,
                    target,
                });
            }
            Some(layout) if !task.exact => {
                let int_tiles = match (layout.has_min, layout.halves) {
                    (_, true) => kernels.int_tiles_halves,
                    (true, false) => kernels.int_tiles_min,
                    (false, false) => kernels.int_tiles_scaled,
                };
                let zero = zero_slot(layout.zero);
                let blocks = width / BLOCK_COLS;
                let mut from = 0;
                while from < blocks {
                    let count = (INT_CHUNK / BLOCK_COLS).min(blocks - from);
                    (layout.unpack)(data, from, count, scratch);
                    target.resume = from > 0;
                    target.last = from + count == blocks;
                    int_tiles(
                        &Tiles {
                            input,
                            rows,
                            width,
                            from,
                            count,
                            target,
                            zero,
                        },
                        scratch,
                    );
                    from += count;
                }
            }
            _ => {
                let mut from = 0;
                while from < width {
                    let count = FLOAT_CHUNK.min(width - from);
                    match layout {
                        Some(layout) => {
                            (layout.unpack_exact)(
                                data,
                                from / BLOCK_COLS,
                                count / BLOCK_COLS,
                                scratch,
                            );
                        }
                        None => (kernels.unpack_float)(segment.packing, data, from, count, scratch),
                    }
                    target.resume = from > 0;
                    target.last = from + count == width;
                    (kernels.float_tiles)(
                        &Tiles {
                            input,
                            rows,
                            width,
                            from,
                            count,
                            target,
                            zero: None,
                        },
                        scratch,
                    );
                    from += count;
                }
            }
        }
    }
}

/// One panel against up to [`MAX_GEMV_ROWS`] rows, straight from packed bytes.
#[derive(Clone, Copy)]
pub(crate) struct Gemv<'a> {
    input: ActivationsView,
    rows: usize,
    data: *const u8,
    blocks: usize,
    target: Target<'a>,
}

/// One unpacked chunk of a panel against any number of rows.
#[derive(Clone, Copy)]
pub(crate) struct Tiles<'a> {
    input: ActivationsView,
    rows: usize,
    /// Columns of the matrix.
    width: usize,
    /// First block (or column, for floats) of the chunk, and how many.
    from: usize,
    count: usize,
    target: Target<'a>,
    /// Which start values the integer accumulators take.
    zero: Option<usize>,
}

/// Call `$kernel::<.., M>(.., first, row stride)` for every tile. A tier with few registers takes the rows of a tile one
/// by one: the same arithmetic, since rows are independent.
macro_rules! for_each_tile {
    ($isa:ident, $rows:expr, [$($size:literal)*], |$first:ident, $i:ident, $stride:ident, $m:ident| $call:expr) => {
        for ($first, $stride) in tiles($rows) {
            if $isa::WIDE_TILES {
                let $i = 0;
                match $stride {
                    $($size => { const $m: usize = $size; $call })*
                    _ => {}
                }
            } else {
                for $i in 0..$stride {
                    const $m: usize = 1;
                    $call
                }
            }
        }
    };
}

/// `out = x @ panel.T` for up to eight rows.
///
/// # Safety
/// As [`linear`]; features of `I`.
#[inline(always)]
pub(crate) unsafe fn gemv<I: Isa, W: Format>(gemv: &Gemv<'_>) {
    for_each_tile!(I, gemv.rows, [1 2 3 4 6 8], |first, i, stride, M| {
        // SAFETY: the caller's.
        unsafe { gemv_tile::<I, W, M>(gemv, first, i, stride) }
    });
}

/// `M` rows of the tile at `first` (whose rows are `stride` apart), from row `i` of it on.
#[inline(always)]
unsafe fn gemv_tile<I: Isa, W: Format, const M: usize>(
    gemv: &Gemv<'_>,
    first: usize,
    i: usize,
    stride: usize,
) {
    let Gemv {
        input,
        data,
        blocks,
        target,
        ..
    } = *gemv;
    // SAFETY: tile offsets as in `pack_row`; `blocks` is a multiple of `W::BLOCKS`.
    unsafe {
        let int8 = input.int8.add(first * blocks * 8 + i);
        let scale = input.scale.add(first * blocks + i);
        let scaled_sum = input.scaled_sum.wrapping_add(first * blocks + i);
        let halves = 1 + usize::from(W::HALVES);
        let mut acc = [I::zero(); M];
        for sup in 0..blocks / W::BLOCKS {
            let p = data.add(sup * W::BYTES);
            for blk in 0..W::BLOCKS {
                let b = sup * W::BLOCKS + blk;
                let mut sums = [[I::i_set(0); M]; 2];
                if let Some(slot) = zero_slot(W::ZERO) {
                    let start = input.start[slot].add((first * blocks + b * stride) * halves + i);
                    for m in 0..M {
                        sums[0][m] = I::i_set(*start.add(m));
                        if W::HALVES {
                            sums[1][m] = I::i_set(*start.add(stride + m));
                        }
                    }
                }
                for g in 0..4 {
                    let (even, odd) = W::codes::<I>(p, blk, g);
                    let a = int8.add((b * 8 + 2 * g) * stride);
                    // Two chains: even and odd groups, or the halves of the block.
                    let (s, t) = if W::HALVES { (g / 2, g / 2) } else { (0, 1) };
                    for m in 0..M {
                        sums[s][m] = I::dot4(sums[s][m], even, *a.add(m));
                        sums[t][m] = I::dot4(sums[t][m], odd, *a.add(stride + m));
                    }
                }
                let weight_scale = W::scale::<I>(p, blk, 0);
                if W::HALVES {
                    let second = W::scale::<I>(p, blk, 1);
                    for m in 0..M {
                        let sa = I::set(*scale.add(b * stride + m));
                        acc[m] = I::fma(I::to_f(sums[0][m]), I::mul(weight_scale, sa), acc[m]);
                        acc[m] = I::fma(I::to_f(sums[1][m]), I::mul(second, sa), acc[m]);
                    }
                } else {
                    for m in 0..M {
                        let sa = I::set(*scale.add(b * stride + m));
                        let sum = I::to_f(I::i_add(sums[0][m], sums[1][m]));
                        acc[m] = I::fma(sum, I::mul(weight_scale, sa), acc[m]);
                    }
                }
                if W::HAS_MIN {
                    let min = W::min::<I>(p, blk);
                    for m in 0..M {
                        acc[m] = I::fma(min, I::set(*scaled_sum.add(b * stride + m)), acc[m]);
                    }
                }
            }
        }
        finish::<I, M>(acc, first + i, target);
    }
}

/// Codes to bytes, scales and minima to floats, once per panel and chunk.
///
/// # Safety
/// `count` blocks fit the scratch and exist from `from` on; features of `I`.
#[inline(always)]
pub(crate) unsafe fn unpack<I: Isa, W: Format>(
    data: *const u8,
    from: usize,
    count: usize,
    scratch: &mut PanelScratch,
) {
    // SAFETY: `count` blocks fit the scratch; `from + count` blocks exist.
    unsafe {
        let (codes, scales, mins) = (
            scratch.codes.as_mut_ptr(),
            scratch.scales.as_mut_ptr(),
            scratch.mins.as_mut_ptr(),
        );
        for i in 0..count {
            let b = from + i;
            let (p, blk) = (data.add(b / W::BLOCKS * W::BYTES), b % W::BLOCKS);
            for g in 0..4 {
                let (even, odd) = W::codes::<I>(p, blk, g);
                I::b_store(codes.add((i * 8 + 2 * g) * 64), even);
                I::b_store(codes.add((i * 8 + 2 * g + 1) * 64), odd);
            }
            if W::HALVES {
                I::store(scales.add(2 * i * LANES), W::scale::<I>(p, blk, 0));
                I::store(scales.add((2 * i + 1) * LANES), W::scale::<I>(p, blk, 1));
            } else {
                I::store(scales.add(i * LANES), W::scale::<I>(p, blk, 0));
            }
            if W::HAS_MIN {
                I::store(mins.add(i * LANES), W::min::<I>(p, blk));
            }
        }
    }
}

/// The chunk in `panel` against all rows, for layouts with (`MIN`) or without minima, scales per 32 or 16 (`HALVES`).
///
/// # Safety
/// As [`linear`]; the chunk was unpacked from a layout of this class; features of `I`.
#[inline(always)]
pub(crate) unsafe fn int_tiles<I: Isa, C: Class>(tiles_of: &Tiles<'_>, panel: &PanelScratch) {
    for_each_tile!(I, tiles_of.rows, [1 2 3 4 6 8 12], |first, i, stride, M| {
        // SAFETY: the caller's.
        unsafe { int_tile::<I, C, M>(tiles_of, panel, first, i, stride) }
    });
}

/// What distinguishes the arithmetic of unpacked layouts.
pub(crate) trait Class {
    const HAS_MIN: bool;
    const HALVES: bool;
}

/// A scale per 32 columns.
pub(crate) struct Scaled;
/// A scale and a minimum per 32 columns.
pub(crate) struct ScaledMin;
/// A scale per 16 columns.
pub(crate) struct ScaledHalves;

impl Class for Scaled {
    const HAS_MIN: bool = false;
    const HALVES: bool = false;
}
impl Class for ScaledMin {
    const HAS_MIN: bool = true;
    const HALVES: bool = false;
}
impl Class for ScaledHalves {
    const HAS_MIN: bool = false;
    const HALVES: bool = true;
}

/// `M` rows of a tile against an unpacked panel chunk: the same arithmetic as `gemv_tile`.
#[inline(always)]
unsafe fn int_tile<I: Isa, C: Class, const M: usize>(
    tiles: &Tiles<'_>,
    panel: &PanelScratch,
    first: usize,
    i: usize,
    stride: usize,
) {
    let Tiles {
        input,
        width,
        from,
        count,
        target,
        zero,
        ..
    } = *tiles;
    let blocks = width / BLOCK_COLS;
    let parts = if C::HALVES { 2 } else { 1 };
    // SAFETY: tile offsets as in `pack_row`; the chunk is in the scratch.
    unsafe {
        let (codes, scales, mins) = (
            panel.codes.as_ptr(),
            panel.scales.as_ptr(),
            panel.mins.as_ptr(),
        );
        let base = first * blocks + from * stride;
        let int8 = input.int8.add(base * 8 + i);
        let scale = input.scale.add(base + i);
        let scaled_sum = input.scaled_sum.wrapping_add(base + i);
        let start = zero.map(|slot| input.start[slot].add(base * parts + i));
        let mut acc = begin::<I, M>(first + i, target);
        for b in 0..count {
            for part in 0..parts {
                let mut sums = [I::i_set(0); M];
                if let Some(start) = start {
                    let start = start.add((b * parts + part) * stride);
                    for m in 0..M {
                        sums[m] = I::i_set(*start.add(m));
                    }
                }
                for k in part * 8 / parts..(part + 1) * 8 / parts {
                    let w = I::b_load(codes.add((b * 8 + k) * 64));
                    let a = int8.add((b * 8 + k) * stride);
                    for m in 0..M {
                        sums[m] = I::dot4(sums[m], w, *a.add(m));
                    }
                }
                let weight_scale = I::load(scales.add((b * parts + part) * LANES));
                for m in 0..M {
                    let s = I::mul(weight_scale, I::set(*scale.add(b * stride + m)));
                    acc[m] = I::fma(I::to_f(sums[m]), s, acc[m]);
                }
            }
            if C::HAS_MIN {
                let min = I::load(mins.add(b * LANES));
                for m in 0..M {
                    acc[m] = I::fma(min, I::set(*scaled_sum.add(b * stride + m)), acc[m]);
                }
            }
        }
        finish::<I, M>(acc, first + i, target);
    }
}

/// A chunk of a float panel, `[K][16]`, to floats.
///
/// # Safety
/// `count` columns fit the scratch and exist from `first` on; features of `I`.
#[inline(always)]
pub(crate) unsafe fn unpack_float<I: Isa>(
    packing: Packing,
    data: *const u8,
    first: usize,
    count: usize,
    scratch: &mut PanelScratch,
) {
    let to = scratch.floats.as_mut_ptr();
    // SAFETY: elements of 2 or 4 bytes, `K * 16` of them.
    unsafe {
        for k in 0..count {
            let at = (first + k) * LANES;
            let row = match packing {
                Packing::F16 => I::load_f16(data.cast::<u16>().add(at)),
                Packing::Bf16 => I::load_bf16(data.cast::<u16>().add(at)),
                _ => I::load(data.cast::<f32>().add(at)),
            };
            I::store(to.add(k * LANES), row);
        }
    }
}

/// Exact dequantization of `count` blocks, rounded as the file format's reference does: `d * (q - z)` or `d * q + m`.
///
/// # Safety
/// `count` blocks fit the scratch and exist from `from` on; features of `I`.
#[inline(always)]
pub(crate) unsafe fn unpack_exact<I: Isa, W: Format>(
    data: *const u8,
    from: usize,
    count: usize,
    scratch: &mut PanelScratch,
) {
    let to = scratch.floats.as_mut_ptr();
    // SAFETY: `count * 32` columns fit `to`.
    unsafe {
        #[expect(clippy::cast_precision_loss, reason = "at most 128: exact")]
        let zero = I::set(W::ZERO as f32);
        for i in 0..count {
            let b = from + i;
            let (p, blk) = (data.add(b / W::BLOCKS * W::BYTES), b % W::BLOCKS);
            let min = if W::HAS_MIN {
                W::min::<I>(p, blk)
            } else {
                I::zero()
            };
            for g in 0..4 {
                let scale = W::scale::<I>(p, blk, if W::HALVES { g / 2 } else { 0 });
                let (even, odd) = W::codes::<I>(p, blk, g);
                for (offset, codes) in [(0, even), (4, odd)] {
                    for j in 0..4 {
                        let q = I::byte_to_f(codes, j);
                        let w = if W::HAS_MIN {
                            I::add(I::mul(scale, q), min)
                        } else {
                            I::mul(scale, I::sub(q, zero))
                        };
                        I::store(to.add((i * BLOCK_COLS + 8 * g + offset + j) * LANES), w);
                    }
                }
            }
        }
    }
}

/// The float chunk in `panel` against all rows.
///
/// # Safety
/// As [`linear`]; features of `I`.
#[inline(always)]
pub(crate) unsafe fn float_tiles<I: Isa>(tiles_of: &Tiles<'_>, panel: &PanelScratch) {
    for_each_tile!(I, tiles_of.rows, [1 2 3 4 6 8 12], |first, i, stride, M| {
        // SAFETY: the caller's.
        unsafe { float_tile::<I, M>(tiles_of, panel, first, i, stride) }
    });
}

#[inline(always)]
unsafe fn float_tile<I: Isa, const M: usize>(
    tiles: &Tiles<'_>,
    panel: &PanelScratch,
    first: usize,
    i: usize,
    stride: usize,
) {
    let Tiles {
        input,
        width,
        from,
        count,
        target,
        ..
    } = *tiles;
    // SAFETY: `count` columns of `M` inputs and 16 weights.
    unsafe {
        let x = input.float.add(first * width + from * stride + i);
        let panel = panel.floats.as_ptr();
        let mut acc = begin::<I, M>(first + i, target);
        for k in 0..count {
            let w = I::load(panel.add(k * LANES));
            for m in 0..M {
                acc[m] = I::fma(w, I::set(*x.add(k * stride + m)), acc[m]);
            }
        }
        finish::<I, M>(acc, first + i, target);
    }
}

#[inline(always)]
unsafe fn begin<I: Isa, const M: usize>(first: usize, target: Target<'_>) -> [I::F; M] {
    // SAFETY: rows `first .. first + M` of the output, `lanes` wide.
    unsafe {
        let mut acc = [I::zero(); M];
        if target.resume {
            for m in 0..M {
                let p = target.out.add((first + m) * target.stride);
                acc[m] = if target.lanes == LANES {
                    I::load(p)
                } else {
                    I::load_first(p, target.lanes)
                };
            }
        }
        acc
    }
}

#[inline(always)]
unsafe fn finish<I: Isa, const M: usize>(mut acc: [I::F; M], first: usize, target: Target<'_>) {
    // SAFETY: as `begin`.
    unsafe {
        if let (true, Some(bias)) = (target.last, target.bias) {
            let bias = if target.lanes == LANES {
                I::load(bias.as_ptr())
            } else {
                I::load_first(bias.as_ptr(), target.lanes)
            };
            for m in 0..M {
                acc[m] = I::add(acc[m], bias);
            }
        }
        for m in 0..M {
            let p = target.out.add((first + m) * target.stride);
            if target.lanes == LANES {
                I::store(p, acc[m]);
            } else {
                I::store_first(p, acc[m], target.lanes);
            }
        }
    }
}

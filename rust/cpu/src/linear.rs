//! `out = x @ weight.T + bias`: GEMV straight from packed bytes for up to eight rows, GEMM from an unpacked panel above.
//!
//! Order of sums, the same for every row count, tile and tier: per 32-block an exact i32 sum, then one fma
//! `acc = fma(float(sum), scale * sa, acc)` (formats with minima: one more, `fma(min, sa * Σa, acc)`) in ascending block
//! order. Float weights and exact precision: one fma per column, ascending.

use std::marker::PhantomData;
use std::ops::Range;

use crate::activations::{ActivationsView, tiles, zero_slot};
use crate::formats::{BLOCK_COLS, Format, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
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

/// Compute the outputs of `panels`.
///
/// # Safety
/// `input` holds tiles of `rows` rows in the forms that the matrix needs, `out` has `rows * out_features` floats, no
/// other worker has these panels; features of `I`.
#[inline(always)]
pub(crate) unsafe fn linear<I: Isa>(
    task: &LinearTask<'_>,
    panels: Range<usize>,
    scratch: &mut PanelScratch,
) {
    for segment in &task.matrix.segments {
        let first = panels.start.max(segment.first_panel);
        let end = panels.end.min(segment.first_panel + segment.num_panels());
        for panel in first..end {
            // SAFETY: the panel lies in the segment; the rest is the caller's.
            unsafe { run_panel::<I>(task, segment, panel - segment.first_panel, scratch) };
        }
    }
}

#[inline(always)]
unsafe fn run_panel<I: Isa>(
    task: &LinearTask<'_>,
    segment: &Segment,
    panel: usize,
    scratch: &mut PanelScratch,
) {
    let row = segment.first_row + panel * LANES;
    let lanes = LANES.min(segment.rows - panel * LANES);
    // SAFETY: `row + lanes <= out_features`, and the segment holds `num_panels` panels.
    unsafe {
        let target = Target {
            out: task.out.add(row),
            stride: task.matrix.out_features,
            lanes,
            bias: task.bias.map(|bias| &bias[row..row + lanes]),
            resume: false,
            last: true,
        };
        let data = segment.panel(panel);
        match segment.packing {
            Packing::Q4_0 => quantized::<I, Q4_0>(task, data, target, scratch),
            Packing::Q4_1 => quantized::<I, Q4_1>(task, data, target, scratch),
            Packing::Q5_0 => quantized::<I, Q5_0>(task, data, target, scratch),
            Packing::Q5_1 => quantized::<I, Q5_1>(task, data, target, scratch),
            Packing::Q8_0 => quantized::<I, Q8_0>(task, data, target, scratch),
            Packing::Q4K => quantized::<I, Q4K>(task, data, target, scratch),
            Packing::Q5K => quantized::<I, Q5K>(task, data, target, scratch),
            Packing::Q6K => quantized::<I, Q6K>(task, data, target, scratch),
            Packing::F32 | Packing::F16 | Packing::Bf16 => {
                let width = task.matrix.in_features;
                let source = FloatPanel {
                    packing: segment.packing,
                    data,
                };
                float_chunks::<I, _>(task, width, target, scratch, source);
            }
        }
    }
}

/// Something that becomes `[columns][16]` floats. A trait and not a closure: closures would be compiled without the
/// features of `I`.
trait FloatSource: Copy {
    /// Columns `first .. first + count` to `to`.
    unsafe fn unpack<I: Isa>(self, first: usize, count: usize, to: *mut f32);
}

/// A panel of float weights, `[K][16]`.
#[derive(Clone, Copy)]
struct FloatPanel {
    packing: Packing,
    data: *const u8,
}

impl FloatSource for FloatPanel {
    #[inline(always)]
    unsafe fn unpack<I: Isa>(self, first: usize, count: usize, to: *mut f32) {
        // SAFETY: elements of 2 or 4 bytes, `K * 16` of them.
        unsafe {
            for k in 0..count {
                let at = (first + k) * LANES;
                let row = match self.packing {
                    Packing::F16 => I::load_f16(self.data.cast::<u16>().add(at)),
                    Packing::Bf16 => I::load_bf16(self.data.cast::<u16>().add(at)),
                    _ => I::load(self.data.cast::<f32>().add(at)),
                };
                I::store(to.add(k * LANES), row);
            }
        }
    }
}

/// A quantized panel read as floats, for exact precision.
#[derive(Clone, Copy)]
struct ExactPanel<W> {
    data: *const u8,
    format: PhantomData<W>,
}

impl<W: Format> FloatSource for ExactPanel<W> {
    #[inline(always)]
    unsafe fn unpack<I: Isa>(self, first: usize, count: usize, to: *mut f32) {
        // SAFETY: the panel holds these blocks.
        unsafe { unpack_exact::<I, W>(self.data, first / BLOCK_COLS, count / BLOCK_COLS, to) }
    }
}

#[inline(always)]
unsafe fn quantized<I: Isa, W: Format>(
    task: &LinearTask<'_>,
    data: *const u8,
    mut target: Target<'_>,
    scratch: &mut PanelScratch,
) {
    let blocks = task.matrix.in_features / BLOCK_COLS;
    // SAFETY: as `linear`.
    unsafe {
        if task.exact {
            let source = ExactPanel::<W> {
                data,
                format: PhantomData,
            };
            float_chunks::<I, _>(task, task.matrix.in_features, target, scratch, source);
        } else if task.rows <= MAX_GEMV_ROWS {
            for (first, size) in tiles(task.rows) {
                match size {
                    1 => gemv::<I, W, 1>(task.input, data, blocks, first, target),
                    2 => gemv::<I, W, 2>(task.input, data, blocks, first, target),
                    3 => gemv::<I, W, 3>(task.input, data, blocks, first, target),
                    4 => gemv::<I, W, 4>(task.input, data, blocks, first, target),
                    6 => gemv::<I, W, 6>(task.input, data, blocks, first, target),
                    _ => gemv::<I, W, 8>(task.input, data, blocks, first, target),
                }
            }
        } else {
            let chunk = INT_CHUNK / BLOCK_COLS;
            let mut from = 0;
            while from < blocks {
                let count = chunk.min(blocks - from);
                unpack::<I, W>(data, from, count, scratch);
                target.resume = from > 0;
                target.last = from + count == blocks;
                for (first, size) in tiles(task.rows) {
                    match size {
                        1 => {
                            tile::<I, W, 1>(task.input, scratch, blocks, from, count, first, target)
                        }
                        2 => {
                            tile::<I, W, 2>(task.input, scratch, blocks, from, count, first, target)
                        }
                        3 => {
                            tile::<I, W, 3>(task.input, scratch, blocks, from, count, first, target)
                        }
                        4 => {
                            tile::<I, W, 4>(task.input, scratch, blocks, from, count, first, target)
                        }
                        6 => {
                            tile::<I, W, 6>(task.input, scratch, blocks, from, count, first, target)
                        }
                        8 => {
                            tile::<I, W, 8>(task.input, scratch, blocks, from, count, first, target)
                        }
                        _ => tile::<I, W, 12>(
                            task.input, scratch, blocks, from, count, first, target,
                        ),
                    }
                }
                from += count;
            }
        }
    }
}

/// `M` rows against one panel, straight from packed bytes.
#[inline(always)]
unsafe fn gemv<I: Isa, W: Format, const M: usize>(
    input: ActivationsView,
    data: *const u8,
    blocks: usize,
    first: usize,
    target: Target<'_>,
) {
    // SAFETY: tile offsets as in `pack_row`; `blocks` is a multiple of `W::BLOCKS`.
    unsafe {
        let int8 = input.int8.add(first * blocks * 8);
        let scale = input.scale.add(first * blocks);
        let scaled_sum = input
            .scaled_sum
            .add(if W::HAS_MIN { first * blocks } else { 0 });
        let halves = 1 + usize::from(W::HALVES);
        let mut acc = [I::zero(); M];
        for sup in 0..blocks / W::BLOCKS {
            let p = data.add(sup * W::BYTES);
            for blk in 0..W::BLOCKS {
                let b = sup * W::BLOCKS + blk;
                let mut sums = [[I::i_set(0); M]; 2];
                if let Some(slot) = zero_slot(W::ZERO) {
                    let start = input.start[slot].add((first * blocks + b * M) * halves);
                    for m in 0..M {
                        sums[0][m] = I::i_set(*start.add(m));
                        if W::HALVES {
                            sums[1][m] = I::i_set(*start.add(M + m));
                        }
                    }
                }
                for g in 0..4 {
                    let (even, odd) = W::codes::<I>(p, blk, g);
                    let a = int8.add((b * 8 + 2 * g) * M);
                    // Two chains: even and odd groups, or the halves of the block.
                    let (s, t) = if W::HALVES { (g / 2, g / 2) } else { (0, 1) };
                    for m in 0..M {
                        sums[s][m] = I::dot4(sums[s][m], even, *a.add(m));
                        sums[t][m] = I::dot4(sums[t][m], odd, *a.add(M + m));
                    }
                }
                let weight_scale = W::scale::<I>(p, blk, 0);
                if W::HALVES {
                    let second = W::scale::<I>(p, blk, 1);
                    for m in 0..M {
                        let sa = I::set(*scale.add(b * M + m));
                        acc[m] = I::fma(I::to_f(sums[0][m]), I::mul(weight_scale, sa), acc[m]);
                        acc[m] = I::fma(I::to_f(sums[1][m]), I::mul(second, sa), acc[m]);
                    }
                } else {
                    for m in 0..M {
                        let sa = I::set(*scale.add(b * M + m));
                        let sum = I::to_f(I::i_add(sums[0][m], sums[1][m]));
                        acc[m] = I::fma(sum, I::mul(weight_scale, sa), acc[m]);
                    }
                }
                if W::HAS_MIN {
                    let min = W::min::<I>(p, blk);
                    for m in 0..M {
                        acc[m] = I::fma(min, I::set(*scaled_sum.add(b * M + m)), acc[m]);
                    }
                }
            }
        }
        finish::<I, M>(acc, first, target);
    }
}

/// Codes to bytes, scales and minima to floats, once per panel and chunk.
#[inline(always)]
unsafe fn unpack<I: Isa, W: Format>(
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

/// `M` rows against an unpacked panel chunk: the same arithmetic as `gemv`.
#[inline(always)]
unsafe fn tile<I: Isa, W: Format, const M: usize>(
    input: ActivationsView,
    panel: &PanelScratch,
    blocks: usize,
    from: usize,
    count: usize,
    first: usize,
    target: Target<'_>,
) {
    // SAFETY: tile offsets as in `pack_row`; the chunk is in the scratch.
    unsafe {
        let (codes, scales, mins) = (
            panel.codes.as_ptr(),
            panel.scales.as_ptr(),
            panel.mins.as_ptr(),
        );
        let int8 = input.int8.add((first * blocks + from * M) * 8);
        let scale = input.scale.add(first * blocks + from * M);
        let scaled_sum = input.scaled_sum.add(if W::HAS_MIN {
            first * blocks + from * M
        } else {
            0
        });
        let mut acc = begin::<I, M>(first, target);
        for i in 0..count {
            if W::HALVES {
                for half in 0..2 {
                    let start =
                        input.start[3].add(first * blocks * 2 + ((from + i) * 2 + half) * M);
                    let mut sums = [I::i_set(0); M];
                    for m in 0..M {
                        sums[m] = I::i_set(*start.add(m));
                    }
                    for k in 4 * half..4 * half + 4 {
                        let w = I::b_load(codes.add((i * 8 + k) * 64));
                        for m in 0..M {
                            sums[m] = I::dot4(sums[m], w, *int8.add((i * 8 + k) * M + m));
                        }
                    }
                    let weight_scale = I::load(scales.add((2 * i + half) * LANES));
                    for m in 0..M {
                        let s = I::mul(weight_scale, I::set(*scale.add(i * M + m)));
                        acc[m] = I::fma(I::to_f(sums[m]), s, acc[m]);
                    }
                }
            } else {
                let mut sums = [I::i_set(0); M];
                if let Some(slot) = zero_slot(W::ZERO) {
                    let start = input.start[slot].add(first * blocks + (from + i) * M);
                    for m in 0..M {
                        sums[m] = I::i_set(*start.add(m));
                    }
                }
                for k in 0..8 {
                    let w = I::b_load(codes.add((i * 8 + k) * 64));
                    for m in 0..M {
                        sums[m] = I::dot4(sums[m], w, *int8.add((i * 8 + k) * M + m));
                    }
                }
                let weight_scale = I::load(scales.add(i * LANES));
                for m in 0..M {
                    let s = I::mul(weight_scale, I::set(*scale.add(i * M + m)));
                    acc[m] = I::fma(I::to_f(sums[m]), s, acc[m]);
                }
                if W::HAS_MIN {
                    let min = I::load(mins.add(i * LANES));
                    for m in 0..M {
                        acc[m] = I::fma(min, I::set(*scaled_sum.add(i * M + m)), acc[m]);
                    }
                }
            }
        }
        finish::<I, M>(acc, first, target);
    }
}

/// Chunks of float weights against float tiles.
#[inline(always)]
unsafe fn float_chunks<I: Isa, S: FloatSource>(
    task: &LinearTask<'_>,
    width: usize,
    mut target: Target<'_>,
    scratch: &mut PanelScratch,
    source: S,
) {
    let panel = scratch.floats.as_mut_ptr();
    let mut from = 0;
    while from < width {
        let count = FLOAT_CHUNK.min(width - from);
        // SAFETY: `count <= FLOAT_CHUNK` columns fit the scratch.
        unsafe { source.unpack::<I>(from, count, panel) };
        target.resume = from > 0;
        target.last = from + count == width;
        for (first, size) in tiles(task.rows) {
            // SAFETY: the float tiles hold `rows * width` values; as `linear`.
            unsafe {
                let x = task.input.float.add(first * width + from * size);
                match size {
                    1 => float_tile::<I, 1>(x, panel, count, first, target),
                    2 => float_tile::<I, 2>(x, panel, count, first, target),
                    3 => float_tile::<I, 3>(x, panel, count, first, target),
                    4 => float_tile::<I, 4>(x, panel, count, first, target),
                    6 => float_tile::<I, 6>(x, panel, count, first, target),
                    8 => float_tile::<I, 8>(x, panel, count, first, target),
                    _ => float_tile::<I, 12>(x, panel, count, first, target),
                }
            }
        }
        from += count;
    }
}

/// Exact dequantization of `count` blocks, rounded as the file format's reference does: `d * (q - z)` or `d * q + m`.
#[inline(always)]
unsafe fn unpack_exact<I: Isa, W: Format>(
    data: *const u8,
    from: usize,
    count: usize,
    to: *mut f32,
) {
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

#[inline(always)]
unsafe fn float_tile<I: Isa, const M: usize>(
    x: *const f32,
    panel: *const f32,
    count: usize,
    first: usize,
    target: Target<'_>,
) {
    // SAFETY: `count` columns of `M` inputs and 16 weights.
    unsafe {
        let mut acc = begin::<I, M>(first, target);
        for k in 0..count {
            let w = I::load(panel.add(k * LANES));
            for m in 0..M {
                acc[m] = I::fma(w, I::set(*x.add(k * M + m)), acc[m]);
            }
        }
        finish::<I, M>(acc, first, target);
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

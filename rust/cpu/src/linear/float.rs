//! Float arithmetic: float weights, and quantized weights in exact precision. One fma per column, ascending.

use crate::activations::{ActivationsView, tiles};
use crate::formats::{BLOCK_COLS, Format};
use crate::linear::PanelScratch;
use crate::packing::{Element, Packing};
use crate::simd::{Isa, LANES};

/// Some columns of one unpacked panel against all rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FloatTiles<'a> {
    pub(crate) input: ActivationsView,
    pub(crate) rows: usize,
    /// Columns of the whole row.
    pub(crate) width: usize,
    /// First column of the chunk, and how many.
    pub(crate) from: usize,
    pub(crate) count: usize,
    /// Row 0 of the panel's outputs, and the row stride.
    pub(crate) out: *mut f32,
    pub(crate) stride: usize,
    /// Valid lanes: 16 but for a segment's last panel.
    pub(crate) lanes: usize,
    /// Added by the last chunk.
    pub(crate) bias: Option<&'a [f32]>,
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
            let row = match packing.element() {
                Some(Element::F16) => I::load_f16(data.cast::<u16>().add(at)),
                Some(Element::Bf16) => I::load_bf16(data.cast::<u16>().add(at)),
                _ => I::load(data.cast::<f32>().add(at)),
            };
            I::store(to.add(k * LANES), row);
        }
    }
}

/// Exact dequantization of `count` blocks, rounded as the file format's reference does: `d * (q - z)` or `d * (q - z) + m`.
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
            for g in 0..4 {
                let half = if W::HALVES { g / 2 } else { 0 };
                let scale = W::scale::<I>(p, blk, half);
                let min = if W::HAS_MIN {
                    W::min::<I>(p, blk, half)
                } else {
                    I::zero()
                };
                let (even, odd) = W::codes::<I>(p, blk, g);
                for (offset, codes) in [(0, even), (4, odd)] {
                    for j in 0..4 {
                        let q = I::byte_to_f(codes, j);
                        let scaled = I::mul(scale, I::sub(q, zero));
                        let w = if W::HAS_MIN {
                            I::add(scaled, min)
                        } else {
                            scaled
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
/// `input` holds float tiles of `rows` rows, `out` all rows; features of `I`.
#[inline(always)]
pub(crate) unsafe fn float_tiles<I: Isa>(task: &FloatTiles<'_>, panel: &PanelScratch) {
    for (first, stride) in tiles(task.rows) {
        // SAFETY: the caller's.
        unsafe {
            if I::WIDE_TILES {
                match stride {
                    1 => float_tile::<I, 1>(task, panel, first, 0, stride),
                    2 => float_tile::<I, 2>(task, panel, first, 0, stride),
                    3 => float_tile::<I, 3>(task, panel, first, 0, stride),
                    4 => float_tile::<I, 4>(task, panel, first, 0, stride),
                    6 => float_tile::<I, 6>(task, panel, first, 0, stride),
                    8 => float_tile::<I, 8>(task, panel, first, 0, stride),
                    _ => float_tile::<I, 12>(task, panel, first, 0, stride),
                }
            } else {
                for i in 0..stride {
                    float_tile::<I, 1>(task, panel, first, i, stride);
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn float_tile<I: Isa, const M: usize>(
    task: &FloatTiles<'_>,
    panel: &PanelScratch,
    first: usize,
    i: usize,
    stride: usize,
) {
    // SAFETY: `count` columns of `M` inputs and 16 weights.
    unsafe {
        let x = task
            .input
            .float
            .add(first * task.width + task.from * stride + i);
        let panel = panel.floats.as_ptr();
        let row = |m: usize| task.out.wrapping_add((first + i + m) * task.stride);
        let full = task.lanes == LANES;
        let mut acc = [I::zero(); M];
        if task.from > 0 {
            for m in 0..M {
                acc[m] = if full {
                    I::load(row(m))
                } else {
                    I::load_first(row(m), task.lanes)
                };
            }
        }
        for k in 0..task.count {
            let w = I::load(panel.add(k * LANES));
            for m in 0..M {
                acc[m] = I::fma(w, I::set(*x.add(k * stride + m)), acc[m]);
            }
        }
        if let (true, Some(bias)) = (task.from + task.count == task.width, task.bias) {
            let bias = if full {
                I::load(bias.as_ptr())
            } else {
                I::load_first(bias.as_ptr(), task.lanes)
            };
            for m in 0..M {
                acc[m] = I::add(acc[m], bias);
            }
        }
        for m in 0..M {
            if full {
                I::store(row(m), acc[m]);
            } else {
                I::store_first(row(m), acc[m], task.lanes);
            }
        }
    }
}
